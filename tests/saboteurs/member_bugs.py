"""Planted bugs of changes: of quorums (ADR 38), of members (ADR 41), of owners in a healthy set (ADR 40)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from synchro.ids import InstanceId
from synchro.instance.parts import Parts
from synchro.instance.reads import Reads
from synchro.instance.transactions import Transactions
from synchro.queue.limbo import Limbo
from synchro.queue.quorum import Acks
from synchro.raft.core import Raft
from tests.saboteurs.planted import saboteur
from tests.sim.world import World


def _changes_quorums(world: World) -> bool:
    return world.changes.is_on and "quorum" in world.changes.kinds and not world.leavers.is_on


def _reads_while_quorums_change(world: World) -> bool:
    return _changes_quorums(world) and world.size > 2


def _loses_members(world: World) -> bool:
    return world.leavers.is_on


def _is_handed_over(world: World) -> bool:
    return world.calm.is_handed_over


# --- quorums that change while transactions wait


@saboteur("ADR 38", "S3", seeds=60, first=18, worlds=_changes_quorums)
def what_waits_is_judged_by_the_quorum_of_its_time() -> Iterator[None]:
    """A quorum that is raised counts for nothing that this owner has."""
    changed = Acks.members_changed

    def stubborn(self: Acks, registered: frozenset[InstanceId], quorum: int) -> None:
        is_raised = registered == getattr(self, "registered", None) and quorum > self.quorum
        changed(self, registered, self.quorum if is_raised else quorum)

    with patch.object(Acks, "members_changed", stubborn):
        yield


@saboteur("ADR 38", "S13", seeds=60, worlds=_reads_while_quorums_change)
def a_linearizable_read_asks_by_the_own_quorum() -> Iterator[None]:
    """An owner that was told N of N asks itself alone, while others elect each other by less."""
    with patch.object(Limbo, "lowest_quorum", property(lambda self: self.effective_quorum)):
        yield


# --- members that leave


@saboteur("ADR 41", "S3", seeds=60, first=11, worlds=_loses_members)
def who_leaves_counts_until_that_is_decided() -> Iterator[None]:
    with patch.object(Parts, "counting", Parts.registered):
        yield


@saboteur("ADR 41", "S1 S2 S3 S5 S16", seeds=60, worlds=_loses_members)
def members_leave_while_another_removal_is_undecided() -> Iterator[None]:
    def unaware(self: Transactions, value: Any) -> None:
        pass

    with patch.object(Transactions, "membership_change", property(lambda self: None, unaware)):
        yield


@saboteur("ADR 41", "S13", seeds=60, worlds=_loses_members)
def a_linearizable_read_asks_one_set_of_members() -> Iterator[None]:
    """While a removal is undecided the next owner may be elected by those who stay."""
    electorates = Reads._electorates

    with patch.object(Reads, "_electorates", lambda self: electorates(self)[:1]):
        yield


# --- who takes a queue over in a healthy set


@saboteur("ADR 40", "S30", seeds=60, first=536, worlds=_is_handed_over)
def who_is_elected_leads_at_once() -> Iterator[None]:
    """What the former owner wrote just before is on its way still, and is rolled back: Raft.R15."""
    with patch.object(Raft, "_has_all_rows", True):
        yield
