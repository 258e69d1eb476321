"""Planted bugs of what clients see: who may write, conditions, sequences, answers, snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from synchro.errors import ConditionFailed
from synchro.ids import Lsn
from synchro.instance import events as ev
from synchro.instance.admission import Admission
from synchro.instance.core import Instance
from synchro.instance.waits import Waits
from synchro.queue.limbo import Limbo
from synchro.queue.state import LimboState
from synchro.raft.core import Raft
from synchro.raft.witness import Witness
from synchro.row import TxnId
from synchro.storage import conditions
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import PendingRefusal, Prepared
from synchro.storage.sequence_def import SequenceDef
from synchro.storage.sequences import Sequences
from synchro.storage.space_store import SpaceStore
from tests.saboteurs.planted import saboteur
from tests.sim.world import World


def _is_watched(world: World) -> bool:
    return world.watch.is_on


def _stalls(world: World) -> bool:
    return world.watch.is_on and "stall owner" in world.nemesis.rates


def _is_calm(world: World) -> bool:
    return world.calm.is_on


def _is_careful(world: World) -> bool:
    return world.careful.is_on


def _has_clerks(world: World) -> bool:
    return world.clerks.is_on


def _forgets(world: World) -> bool:
    return world.first_position is not None


# --- who may write


@saboteur("E-30", "S29", seeds=60, first=20, worlds=_is_watched)
def a_leader_without_a_quorum_stays() -> Iterator[None]:
    with patch.object(Raft, "_fence", lambda self: None):
        yield


@saboteur("E-31", "S29", seeds=60, first=2, worlds=_stalls)
def a_leader_with_a_silent_disk_stays() -> Iterator[None]:
    with patch.object(Instance, "_disk_cannot_keep_up", lambda self, now: None):
        yield


@saboteur("L-17", "S31", seeds=100, first=536, worlds=_is_calm)
def a_candidate_stands_though_others_see_the_leader() -> Iterator[None]:
    with patch.object(Witness, "is_empty", True), patch.object(Raft, "check", lambda self: None):
        yield


# --- conditions (ADR 49)


@saboteur("D-42", "S27", seeds=60, first=24, worlds=_is_careful)
def conditions_look_at_committed_data_only() -> Iterator[None]:
    def stale(store: SpaceStore, prepared: Prepared, op: Any) -> Any:
        key = store.need_primary().key_def.exact(op.key)
        old = store.view.get(key)
        return None if old is None else (key, old, None)

    with patch.object(conditions, "find", stale):
        yield


@saboteur("Q-55", "S4", seeds=60, first=24, worlds=_is_careful)
def a_condition_that_fails_tells_what_waits() -> Iterator[None]:
    prepare = Memtx.prepare

    def talkative(self: Memtx, *args: Any, **how: Any) -> Prepared:
        try:
            return prepare(self, *args, **how)
        except PendingRefusal as refusal:
            if isinstance(refusal.error, ConditionFailed):
                raise refusal.error from None
            raise

    with patch.object(Memtx, "prepare", talkative):
        yield


@saboteur("D-42", "S3 S16 S27", seeds=60, first=11, worlds=_is_careful)
def what_a_condition_looks_at_does_not_count() -> Iterator[None]:
    """A look at a synchronous space, and a change of another one: it waits for no quorum."""
    with patch.object(Admission, "_looks_at_queue", lambda self, condition: False):
        yield


@saboteur("D-28", "S3 S16", seeds=60, first=11, worlds=_is_careful)
def who_asks_for_a_quorum_is_not_heard() -> Iterator[None]:
    asked = Admission._is_asked_to_be_sync

    def deaf(self: Admission, write: ev.ClientWrite, prepared: Prepared) -> bool:
        return asked(self, write._replace(is_sync=False), prepared)

    with patch.object(Admission, "_is_asked_to_be_sync", deaf):
        yield


# --- sequences and answers


@saboteur("ADR 47", "S28", seeds=100, worlds=_has_clerks)
def a_sequence_goes_on_from_what_is_committed() -> Iterator[None]:
    """Two writers at a time get the same value."""

    def stale(self: Sequences, prepared: Prepared, sequence: SequenceDef) -> int | None:
        row = self._data.view.get(sequence.id)
        return None if row is None else int(row[1])

    with patch.object(Sequences, "_position", stale):
        yield


@saboteur("Q-48", "S12", seeds=100, first=8, worlds=_forgets)
def a_request_that_was_forgotten_is_done_again() -> Iterator[None]:
    with patch.object(Admission, "_is_forgotten", lambda self, known: False):
        yield


@saboteur("Q-42", "S5 S8 S12", seeds=60, first=2)
def an_unknown_outcome_names_a_neighbour() -> Iterator[None]:
    unknown = Waits._outcome_unknown

    def shifted(self: Waits, pending: Any, txn_id: TxnId, why: str) -> ev.OutcomeUnknown:
        return unknown(self, pending, TxnId(txn_id.origin, Lsn(txn_id.lsn - 1)), why)

    with patch.object(Waits, "_outcome_unknown", shifted):
        yield


# --- snapshots


@saboteur("Q-73", "S5 S10 S11 AssertionError", seeds=60, first=2)
def a_snapshot_without_what_is_confirmed() -> Iterator[None]:
    state = Limbo.snapshot_state

    def poor(self: Limbo) -> LimboState:
        return replace(state(self), confirmed_lsn=Lsn(0))

    with patch.object(Limbo, "snapshot_state", poor):
        yield


@saboteur("W-33", "S4 S10", seeds=60)
def a_snapshot_with_what_is_not_decided() -> Iterator[None]:
    freeze = Memtx.freeze

    def eager(self: Memtx, *, with_local: bool = True) -> list[Any]:
        return [
            (space, list(self.prepared_rows(space)) if space >= 512 and space in self._stores else rows)
            for space, rows in freeze(self, with_local=with_local)
        ]

    with patch.object(Memtx, "freeze", eager):
        yield
