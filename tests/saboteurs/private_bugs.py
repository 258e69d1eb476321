"""Planted bugs of transactions that stay open, of reads of what waits, and of files that name the members."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from unittest.mock import patch

from synchro.instance import events as ev
from synchro.instance.admission import Admission
from synchro.server import autoexpel
from synchro.server.autoexpel import Autoexpel
from synchro.storage import memtx, private_view
from synchro.storage.index import Index, SelectResult
from synchro.storage.key_def import Key
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import Prepared
from synchro.storage.prepared_view import PreparedView
from synchro.storage.private_view import PrivateView
from synchro.storage.read_set import PendingOrders, Unchanged, check_committed, check_read
from synchro.storage.space_store import SpaceStore
from synchro.storage.update_ops import Work
from tests.saboteurs.planted import saboteur
from tests.sim.world import World


def _thinks(world: World) -> bool:
    return world.thinkers.is_on


def _turns_over(world: World) -> bool:
    """Queues are given up and taken again while transactions are open."""
    return world.thinkers.is_on and world.thinkers.turnover > 0


def _is_looked_at(world: World) -> bool:
    return world.onlookers.is_on


def _has_files(world: World) -> bool:
    return world.files.is_on


# --- transactions that stay open (ADR 52)


@saboteur("D-43", "S27", seeds=60, worlds=_thinks)
def a_commit_does_not_look_at_ranges() -> Iterator[None]:
    def short_sighted(
        read: Unchanged, store: SpaceStore, prepared: Prepared, work: Work, orders: PendingOrders
    ) -> None:
        if read.is_point:
            check_read(read, store, prepared, work, orders)

    with patch.object(memtx, "check_read", short_sighted):
        yield


@saboteur("D-43", "S27", seeds=60, worlds=_thinks)
def a_commit_looks_at_committed_data_only() -> Iterator[None]:
    """Not at what was prepared meanwhile."""

    def late(
        read: Unchanged, store: SpaceStore, prepared: Prepared, work: Work, orders: PendingOrders
    ) -> None:
        check_committed(read, store)

    with patch.object(memtx, "check_read", late):
        yield


@saboteur("D-43", "S27", seeds=100, first=3731, worlds=_turns_over)
def a_commit_goes_on_in_another_term() -> Iterator[None]:
    check = Admission._check_may_write

    def any_term(self: Admission, write: ev.ClientWrite) -> None:
        check(self, write._replace(expected_term=None))

    with patch.object(Admission, "_check_may_write", any_term):
        yield


@saboteur("ADR 52", "S27", seeds=60, worlds=_thinks)
def a_statement_sees_what_waits() -> Iterator[None]:
    """As if that were a change of its own."""
    private = private_view._private

    def nosy(store: SpaceStore) -> SpaceStore:
        mine = private(store)
        mine.pending = dict(store.pending)
        return mine

    with patch.object(private_view, "_private", nosy):
        yield


@saboteur("ADR 52", "S27", seeds=60, worlds=_thinks)
def a_key_that_was_read_is_not_looked_at_again() -> Iterator[None]:
    """Of no statement, nor by the commit: a lost update."""

    def ranges(self: PrivateView) -> list[Unchanged]:
        return list(self._ranges)

    with (
        patch.object(PrivateView, "reads", property(ranges)),
        patch.object(PrivateView, "_check_told", PrivateView.check_definitions),
    ):
        yield


# --- reads of what waits


@saboteur("Q-55", "S4", seeds=60, worlds=_is_looked_at)
def what_waits_is_shown_to_everybody() -> Iterator[None]:
    select = Memtx.select

    def open_hearted(self: Memtx, *args: Any, **how: Any) -> SelectResult:
        return select(self, *args, **{**how, "prepared": True})

    with patch.object(Memtx, "select", open_hearted):
        yield


@saboteur("Q-56", "S32", seeds=60, worlds=_is_looked_at)
def what_is_changed_is_shown_beside_what_it_was() -> Iterator[None]:
    """A pending change does not hide the committed tuple."""

    def twice(self: PreparedView, index: Index, entries: Iterable[Key]) -> Iterator[tuple[Key, Any]]:
        tuples = self._store.tuples
        return ((entry, tuples[key]) for entry, key in index.keys_at(entries))

    with patch.object(PreparedView, "_kept", twice):
        yield


# --- files that name the members


@saboteur("C-45", "S33", seeds=60, first=57, worlds=_has_files)
def who_is_in_the_file_again_is_removed() -> Iterator[None]:
    """The file is not looked at once more."""
    expel = Autoexpel._expel_next

    async def hasty(self: Autoexpel) -> None:
        with patch.object(self._node, "configuration", None):
            await expel(self)

    with patch.object(Autoexpel, "_expel_next", hasty):
        yield


@saboteur("C-45", "S33", seeds=60, first=55, worlds=_has_files)
def everybody_with_the_prefix_is_removed() -> Iterator[None]:
    def all_of_them(settings: Any, members: Any, own_uuid: str) -> dict[str, str]:
        return {uuid: name for uuid, name in members.values() if uuid != own_uuid}

    with patch.object(autoexpel, "left_out", all_of_them):
        yield
