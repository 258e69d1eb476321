"""Planted bugs of the core: elections, disk, queue, streams, and what a restart must still know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import reduce
from typing import Any
from unittest.mock import patch

from synchro.config import FencingMode, Settings
from synchro.ids import NOBODY, CallId, InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.instance.admission import Admission
from synchro.instance.core import Instance
from synchro.instance.links import LinkFacts
from synchro.instance.log_tail import LogTail
from synchro.instance.parts import Parts
from synchro.instance.recovery import _Replay
from synchro.instance.transactions import Transactions
from synchro.instance.waits import Waits
from synchro.queue.fates import Drops, DropsState
from synchro.queue.limbo import DataVerdict, Limbo, QueueState
from synchro.queue.limbo_queue import LimboQueue
from synchro.queue.quorum import Acks, quorum_lsn
from synchro.queue.request_table import RequestTable, RequestTableState
from synchro.raft.core import Raft
from synchro.raft.messages import Role
from synchro.replication.relay_filter import RelayFilter
from synchro.replication.settled import Settled
from synchro.replication.trust import AckMemory
from synchro.row import Demote, Promote, RaftState, Txn
from synchro.storage import policy_changes
from synchro.storage.identity import Identity, IdentityFile
from synchro.storage.journal import Journal
from synchro.storage.memtx import Memtx
from synchro.storage.recovery import Recovered
from synchro.storage.stamp_clock import Stamp
from synchro.storage.stamps import Stamps
from synchro.vclock import EMPTY_VCLOCK, AckNote, Vclock
from tests.saboteurs.planted import saboteur
from tests.sim.world import World


def _stops(world: World) -> bool:
    return "clean stop" in world.nemesis.rates


def _has_readers_of_lost_owners(world: World) -> bool:
    return world.readers.is_on and "isolate owner" in world.nemesis.rates


def _is_quiet(world: World) -> bool:
    return world.is_quiet


def _writes_asynchronously(world: World) -> bool:
    return world.is_async


def _has_a_minority_quorum(world: World) -> bool:
    return world.may_diverge and not world.is_quiet


def _has_readers_while_quorums_change(world: World) -> bool:
    """And an owner that is cut off stays one: with fencing a high quorum deposes it before others lead."""
    changes = world.changes
    is_on = changes.is_on and "quorum" in changes.kinds and not world.leavers.is_on and world.size > 2
    return is_on and world.fencing is FencingMode.OFF and world.readers.is_on


def _has_crowds(world: World) -> bool:
    return bool(world.crowds)


def _has_older_crowds(world: World) -> bool:
    return bool(world.crowds and world.older and world.unnamed_share)


def _loses(world: World) -> bool:
    return bool(world.losses.lossy)


def _without_checks() -> AbstractContextManager[Any]:
    """The machine's own assertions must not be what catches the bug."""
    return patch.multiple(Raft, check=lambda self: None)


# --- elections


@saboteur("E-2", "S1", seeds=30, first=2)
def vote_not_persisted() -> Iterator[None]:
    apply = _Replay.apply

    def forgetful(self: _Replay, txn: Any) -> None:
        apply(self, txn)
        self.hard_state = RaftState(self.hard_state.term, NOBODY)

    with patch.object(_Replay, "apply", forgetful):
        yield


@saboteur("E-14", "S1", seeds=30, first=2)
def vote_twice_in_a_term() -> Iterator[None]:
    def generous(self: Raft) -> None:
        if not self.is_started or not self.trusted or self.role is not Role.FOLLOWER or self.leader != NOBODY:
            return
        for source, message in self._last_heard.items():
            if message.role is not Role.CANDIDATE or message.vclock is None:
                continue
            if message.vclock.covers(self._vclock) and self.volatile_vote != source:
                self.volatile_vote = source
                self.vote = NOBODY
                return

    with patch.object(Raft, "_grant_vote", generous), _without_checks():
        yield


@saboteur("E-15", "S2 S3 S5 S16", seeds=2000, is_rare=True)
def vote_for_a_candidate_that_lacks_rows() -> Iterator[None]:
    def blind(self: Raft) -> None:
        if not self.is_started or not self.trusted or self.role is not Role.FOLLOWER:
            return
        if self.leader != NOBODY or self.volatile_vote != NOBODY:
            return
        for source, message in self._last_heard.items():
            if message.role is Role.CANDIDATE:
                self.volatile_vote = source
                return

    with patch.object(Raft, "_grant_vote", blind):
        yield


# --- disk


@saboteur("A-26", "S8 S10", seeds=30, first=3)
def ack_before_fsync() -> Iterator[None]:
    sync = Journal._sync

    def lazy(self: Journal, file: Any, *, always: bool = False) -> None:
        if always or not hasattr(self, "_current"):
            sync(self, file, always=always)

    with patch.object(Journal, "_sync", lazy):
        yield


@saboteur("W-20", "S8 S10", seeds=30, first=2)
def restart_cuts_too_much_of_the_log() -> Iterator[None]:
    read = Recovered._read_last

    def short(self: Recovered, reader: Any, lsns: Any, copied: Any) -> Iterator[Any]:
        blocks = list(type(reader).blocks(reader))
        del blocks[-1:]
        with patch.object(reader, "blocks", lambda: iter(blocks)):
            yield from read(self, reader, lsns, copied)

    with patch.object(Recovered, "_read_last", short):
        yield


@saboteur("W-2", "S7 S8 S10 S12", seeds=30, first=12)
def lsn_reused_after_restart() -> Iterator[None]:
    finish = _Replay.finish

    def finish_low(self: _Replay) -> None:
        finish(self)
        log = self.state.log
        own = log.assigned.get(self.state.self_id, 0)
        if own > 1:
            log.assigned[self.state.self_id] = Lsn(own - 1)

    with patch.object(_Replay, "finish", finish_low), patch.object(LogTail, "check", lambda self: None):
        yield


# --- the queue


@saboteur("Q-22", "S2 S3 S5 S16", seeds=60, first=9)
def confirm_at_quorum_minus_one() -> Iterator[None]:
    def hasty(self: Acks, origin: Any) -> Lsn:
        held = [self._vclocks[i].get(origin) for i in self.registered if i in self._vclocks]
        return quorum_lsn(held, max(1, self.effective_quorum - 1))

    with patch.object(Acks, "quorum_lsn", hasty):
        yield


@saboteur("Q-20", "S2 S3 S5 S16", seeds=60, first=9)
def own_ack_counted_twice() -> Iterator[None]:
    def vain(self: Acks, origin: Any) -> Lsn:
        held = [self._vclocks[i].get(origin) for i in self.registered if i in self._vclocks]
        return quorum_lsn([*held, max(held, default=Lsn(0))], self.effective_quorum)

    with patch.object(Acks, "quorum_lsn", vain):
        yield


@saboteur("L-5", "S2 S3 S5 S9 S16", seeds=2000, is_rare=True)
def ack_counted_before_its_term() -> Iterator[None]:
    on_ack, see_term = Instance._on_ack, Instance._see_term

    def late(self: Instance, source: Any, ack: ev.Ack, now: float) -> None:
        terms: list[Term] = []
        with patch.object(Instance, "_see_term", lambda self, term, now: terms.append(term)):
            on_ack(self, source, ack, now)
        for term in terms:
            see_term(self, term, now)

    with patch.object(Instance, "_on_ack", late):
        yield


@saboteur("Q-24", "S3 S4 S5 S6", seeds=60, first=2757, worlds=_writes_asynchronously)
def rows_overtake_the_confirm_of_what_they_build_on() -> Iterator[None]:
    """ADR 11: an owner that announces only when it has nothing else to write: others commit out of order."""
    send = Admission._send

    def rash(self: Admission, *args: Any, **how: Any) -> Any:
        with patch.object(Transactions, "announce", lambda self: None):
            return send(self, *args, **how)

    with patch.object(Admission, "_send", rash):
        yield


@saboteur("ADR 11", "S16", seeds=300, is_rare=True, worlds=_has_a_minority_quorum)
def commit_at_a_quorum_that_is_no_majority() -> Iterator[None]:
    """ADR 11: what the next owner may lack is confirmed on the own disk first, or nobody notices the loss."""
    compare = Acks._compare

    def blind(self: Acks) -> None:
        compare(self)
        self.meets_all = True

    with patch.object(Acks, "_compare", blind):
        yield


@saboteur("P-12", "S2 S3 S5 S16", seeds=60, first=22)
def promote_decided_without_a_quorum() -> Iterator[None]:
    following = Limbo._next_transfer_row

    def hasty(self: Limbo) -> Any:
        own = self.pending.get(self._volatile_term)
        if own is None or own.origin != self.self_id:
            return following(self)
        with patch.object(Acks, "quorum_lsn", lambda acks, origin: Lsn(1 << 60)):
            return following(self)

    with patch.object(Limbo, "_next_transfer_row", hasty):
        yield


@saboteur("P-2", "S2 S3 S5 S16", seeds=10, first=1)
def promote_decides_when_written() -> Iterator[None]:
    written = Limbo.control_written

    def classic(self: Limbo, origin: Any, lsn: Any, body: Any, now: float) -> Any:
        from synchro.row import Confirm

        effects = written(self, origin, lsn, body, now)
        if isinstance(body, Promote | Demote) and self.pending.get(body.term) is not None:
            effects = [*self._decide(Confirm(origin, lsn), now), *effects]
        return effects

    with patch.object(Limbo, "control_written", classic):
        yield


@saboteur("Q-71", "S9", seeds=30, first=4)
def queue_writable_after_a_restart() -> Iterator[None]:
    state: Callable[[Limbo], QueueState] = Limbo.__dict__["state"].fget

    def trusting(self: Limbo) -> QueueState:
        is_own = self.owner_id == self.self_id and self._volatile_term == self.term
        return QueueState.LEADER if is_own else state(self)

    with patch.object(Limbo, "state", property(trusting)):
        yield


@saboteur("Q-51", "S4 S10 AssertionError KeyError", seeds=80, first=57)
def rollback_from_the_left() -> Iterator[None]:
    rest = LimboQueue.rollback_rest

    with patch.object(LimboQueue, "rollback_rest", lambda self: rest(self)[::-1]):
        yield


@saboteur("P-50", "S3 S4 S5 S10 S16 AssertionError", seeds=100, first=22)
def rows_of_a_deposed_owner_are_applied() -> Iterator[None]:
    def gullible(self: Limbo, origin: Any, *, wait_sync: bool, is_nop: bool) -> DataVerdict:
        return DataVerdict.APPLY

    with patch.object(Limbo, "filter_data", gullible):
        yield


# --- clients and streams


@saboteur("Q-55", "S4 S13", seeds=30, first=2)
def read_of_unconfirmed_data() -> Iterator[None]:
    get = Memtx.get

    def dirty(self: Memtx, space_id: int, index_id: int, key: Any) -> Any:
        for row in self.prepared_rows(space_id):
            if row[0] == key[0]:
                return row
        return get(self, space_id, index_id, key)

    with patch.object(Memtx, "get", dirty):
        yield


@saboteur("Q-62", "S13", seeds=60, first=92, worlds=_has_readers_of_lost_owners)
def linearizable_read_without_a_quorum() -> Iterator[None]:
    from synchro.replication.read_barrier import ReadBarrier

    finish = ReadBarrier.finish

    with patch.object(ReadBarrier, "finish", lambda self, electorates: finish(self, ())):
        yield


@saboteur("Q-60", "S13", seeds=60, first=1)
def linearizable_read_does_not_wait_for_the_queue() -> Iterator[None]:
    from synchro.instance.reads import Reads

    with patch.object(Reads, "_is_waiting", lambda self, call_id: False):
        yield


@saboteur("Q-34", "S13", seeds=60, first=40_000_262, worlds=_has_a_minority_quorum)
def linearizable_read_with_the_quorum_of_writes() -> Iterator[None]:
    """With a quorum below a majority the owner asks too few, or itself alone."""

    def of_writes(self: Settings, members: int, lowest: int | None = None) -> int:
        return min(self.synchro_quorum.quorum(members), members)

    with patch.object(Settings, "read_quorum", of_writes):
        yield


@saboteur(
    "ADR 38", "S13", seeds=300, first=43_002_471, is_rare=True, worlds=_has_readers_while_quorums_change
)
def linearizable_read_with_the_own_quorum_alone() -> Iterator[None]:
    """ADR 38: who has a lower one already is elected by fewer, none of whom need be among those it asks."""
    with patch.object(Acks, "quorum_said", lambda self, source, quorum: False):
        yield


@saboteur("S12", "S12", seeds=60, first=3)
def request_id_forgotten() -> Iterator[None]:
    with patch.object(RequestTable, "find", lambda self, request_id: None):
        yield


@saboteur("ADR 13", "S12", seeds=60, first=94, worlds=_has_crowds)
def a_retry_in_a_crowd_is_not_looked_up() -> Iterator[None]:
    with patch.object(RequestTable, "holds_any", lambda self, request_ids: False):
        yield


@saboteur("ADR 13", "S12", seeds=30, first=6, worlds=_has_crowds)
def a_crowd_is_told_the_lsns_of_neighbours() -> Iterator[None]:
    of = ev.CommittedTogether.of

    def shifted(self: ev.CommittedTogether, call_id: CallId) -> ev.Committed:
        calls = list(self.calls)
        return of(self, calls[calls.index(call_id) - 1])

    with patch.object(ev.CommittedTogether, "of", shifted):
        yield


@saboteur("ADR 13", "Relay.Y7", seeds=40, first=76, worlds=_has_older_crowds)
def members_of_an_older_version_are_not_asked() -> Iterator[None]:
    with patch.object(Parts, "all_read_unnamed", property(lambda self: True)):
        yield


@saboteur("A-34", "S16 S22", seeds=30, first=2)
def relay_skips_a_row_on_reconnect() -> Iterator[None]:
    init = RelayFilter.__init__

    def skipping(self: RelayFilter, **arguments: Any) -> None:
        init(self, **arguments)
        for origin in list(self.position):
            self.position[origin] = Lsn(self.position[origin] + 1)

    with patch.object(RelayFilter, "__init__", skipping):
        yield


# --- clean stops, and leaders that were away


@saboteur("ADR 18", "S18", seeds=60, first=169, worlds=_stops)
def a_clean_stop_announces_nothing() -> Iterator[None]:
    stop = Instance._on_stop_requested

    def mute(self: Instance) -> None:
        with patch.object(Transactions, "announce", lambda self: None):
            stop(self)

    with patch.object(Instance, "_on_stop_requested", mute):
        yield


@saboteur("ADR 18", "S18", seeds=60, first=81, worlds=_stops)
def a_clean_stop_leaves_calls_without_an_answer() -> Iterator[None]:
    with patch.object(Waits, "answer_undecided", lambda self: None):
        yield


@saboteur("ADR 18", "S18", seeds=60, first=121, worlds=_stops)
def a_clean_stop_counts_acks_to_its_end() -> Iterator[None]:
    """What it commits behind its last CONFIRM is told to callers, and to nobody else."""
    with patch.object(Limbo, "stop_counting", lambda self: None):
        yield


@saboteur("ADR 15", "S19", seeds=60, first=84, worlds=_is_quiet)
def a_term_seen_without_a_role_is_stood_in() -> Iterator[None]:
    """A vote for oneself, before the leader of that term is heard."""
    with (
        patch.object(Raft, "_await_role", lambda self, now: None),
        patch.object(Raft, "_is_term_open", True),
    ):
        yield


@saboteur("ADR 15", "S19", seeds=60, first=84, worlds=_is_quiet)
def two_leaders_of_a_term_go_on() -> Iterator[None]:
    """ADR 15: without their giving way both own the queue for ever."""
    with (
        patch.object(Raft, "_needs_majority", True),
        patch.object(Limbo, "has_rival", False),
        patch.object(Raft, "_is_term_open", True),
    ):
        yield


# --- what a snapshot and a restart must still know


@saboteur("W-32", "S12", seeds=40)
def a_snapshot_without_request_ids() -> Iterator[None]:
    with patch.object(RequestTable, "export", lambda self: RequestTableState()):
        yield


@saboteur("W-32", "S4 S5", seeds=60, first=5)
def a_snapshot_without_the_dropped_lsns() -> Iterator[None]:
    with patch.object(Drops, "export", lambda self: DropsState()):
        yield


@saboteur("Q-48", "S4 S5", seeds=60, first=31)
def lsns_of_nops_are_forgotten_at_a_restart() -> Iterator[None]:
    apply = _Replay.apply

    def forgetful(self: _Replay, txn: Txn) -> None:
        if txn.is_nop:
            self.state.log.follow(txn)
        else:
            apply(self, txn)

    with patch.object(_Replay, "apply", forgetful):
        yield


# --- a log that cannot be proved whole (ADR 14)


@saboteur("ADR 14", "S14", seeds=60, first=9, worlds=_loses)
def the_notes_of_the_log_are_ignored_at_a_start() -> Iterator[None]:
    with patch.object(Recovered, "_compare_with_note", lambda self: None):
        yield


@saboteur("ADR 14", "S14", seeds=60, first=58, worlds=_loses)
def nobody_is_told_what_it_acknowledged() -> Iterator[None]:
    subscribed = AckMemory.subscribed

    def mute(self: AckMemory, peer: InstanceId, vclock: Vclock, *, counts: bool) -> Vclock:
        subscribed(self, peer, vclock, counts=counts)
        return EMPTY_VCLOCK

    with patch.object(AckMemory, "subscribed", mute):
        yield


@saboteur("ADR 14", "S14", seeds=60, first=5176, worlds=_loses)
def the_acks_of_others_are_forgotten_at_a_restart() -> Iterator[None]:
    init = AckMemory.__init__

    def empty(self: AckMemory, remembered: Mapping[InstanceId, AckNote] | None = None) -> None:
        init(self)

    with patch.object(AckMemory, "__init__", empty):
        yield


@saboteur("ADR 9", "S14", seeds=60, first=27, worlds=_loses)
def who_is_told_of_lost_rows_goes_on() -> Iterator[None]:
    with patch.object(LinkFacts, "_lose_trust", lambda self, now: []):
        yield


@saboteur("ADR 9", "S14", seeds=60, first=27, worlds=_loses)
def the_flag_of_amnesia_comes_behind_the_new_log() -> Iterator[None]:
    """Which hides what is missing: a crash between the two, and the log looks whole."""
    init, save = Journal.__init__, IdentityFile.save

    def late(self: IdentityFile, identity: Identity) -> None:
        if identity.amnesia and self.identity.amnesia is False and self.log is not None:
            object.__setattr__(self, "late", identity)
        else:
            save(self, identity)

    def first_the_log(self: Journal, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        file = options.get("identity")
        if isinstance(file, IdentityFile) and (identity := file.__dict__.pop("late", None)) is not None:
            save(file, identity)

    with patch.object(IdentityFile, "save", late), patch.object(Journal, "__init__", first_the_log):
        yield


# --- masters where the last write wins


@saboteur("ADR 44", "S22 S4", seeds=40, first=19_000_024, masters=True)
def stamps_are_compared_without_the_origin() -> Iterator[None]:
    of = Stamps.of

    def timeless(self: Stamps, key: object) -> Stamp:
        return Stamp(of(self, key).time, 0)

    with patch.object(Stamps, "of", timeless):
        yield


@saboteur("ADR 44", "S22 S4", seeds=40, first=19_000_000, masters=True)
def tombstones_go_while_older_rows_are_on_their_way() -> Iterator[None]:
    """Everybody has the deletion, but not everything that was written before that."""
    look = Settled.look

    def hasty(self: Settled, own: Vclock, others: frozenset[InstanceId]) -> dict[InstanceId, Lsn] | None:
        said = self._waiting.values()
        return look(self, own.merge(reduce(Vclock.merge, said, EMPTY_VCLOCK)), others)

    with patch.object(Settled, "look", hasty):
        yield


@saboteur("ADR 44", "S22 S4", seeds=20, first=19_000_000, masters=True)
def updates_are_logged_without_a_stamp() -> Iterator[None]:
    with patch.object(policy_changes, "stamped", lambda op, stamp: op):
        yield
