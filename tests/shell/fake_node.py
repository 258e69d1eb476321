"""A node without disk and peers: real memtx, outcomes that a test may hold back."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import count
from typing import Any

import trio

from synchro.config import Limits, PeerAddress, Settings
from synchro.errors import (
    BootstrapRefused,
    CheckpointInProgress,
    ConfigError,
    IllegalParams,
    Loading,
    ReadOnly,
    ReplicaGc,
    SynchroError,
    SyncTimeout,
)
from synchro.ids import NOBODY, CallId, InstanceId, Lsn, RequestId, Term
from synchro.instance.events import (
    ClientPuts,
    ClientWrite,
    ClientWrites,
    Committed,
    Demoted,
    DemoteRequested,
    Event,
    Fate,
    FateKnown,
    Outcome,
    OutcomeUnknown,
    Position,
    Promoted,
    PromoteRequested,
    ReadBarrierRequested,
    ReadReady,
    Rejected,
    Submitted,
    WaitMode,
    WaitRequested,
)
from synchro.instance.outlook import Obstacle, PromoteOutlook
from synchro.ro_reason import RoReason
from synchro.row import TxnId
from synchro.rpc.host import RpcHost
from synchro.secret import Secret
from synchro.server.api import (
    Configuration,
    HeaderFacts,
    LeaderFacts,
    MissingAck,
    NodeApi,
    QueueEntryFacts,
    Undecided,
    WatchFacts,
)
from synchro.server.open_transactions import OpenTransactions
from synchro.server.user_changes import UserChanges
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import PendingRefusal
from synchro.storage.system_rows import first_rows
from synchro.storage.users import Users
from synchro.vclock import Vclock

UUID = "11111111-2222-3333-4444-555555555555"


class FakeInstance:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.memtx = Memtx(settings.limits)
        self.vclock = Vclock({InstanceId(1): Lsn(1)})
        self.self_id = InstanceId(1)
        self.ro_reason = RoReason.NONE
        self.requests: dict[bytes, TxnId] = {}

    def was_committed(self, request_id: RequestId) -> bool:
        return request_id in self.requests

    @property
    def is_writable(self) -> bool:
        return self.ro_reason is RoReason.NONE

    def read_only_reason(self) -> RoReason:
        return self.ro_reason


class FakeNode:
    def __init__(self, host: RpcHost | None, limits: Limits | None = None) -> None:
        self.host = host
        self.instance = FakeInstance(
            Settings(
                limits=limits or Limits(),
                peers=(PeerAddress("instance001", "h:1"), PeerAddress("instance002", "h:2")),
            )
        )
        self.loading = False
        self.user_changes = UserChanges()
        self.open_transactions = OpenTransactions(self.instance.settings.limits)
        self.term = Term(2)
        self.services: Any = None
        """Those that serve it."""
        self.leader_facts: LeaderFacts | None = None
        self.hold = False
        """Outcomes of writes, waits and linearizable reads wait for `release`."""
        self.waited_for_decision: bool | None = None
        """Of the last read with a vclock."""
        self.held: dict[CallId, Callable[[], None]] = {}
        self.steps: list[Event] = []
        self.times: dict[CallId, float] = {}
        """Of the calls that were submitted together, seconds."""
        self.abandoned: list[CallId] = []
        self.read_outcome: Outcome = ReadReady()
        """Of a linearizable read's question."""
        self.requests = self.instance.requests
        self.changed = trio.Event()
        self.queue_len = 0
        self.checkpoint_error: SynchroError | None = None
        self.sync_error: SynchroError | None = None
        self.is_follower = False
        self.restarted: list[str] = []
        self.rebootstrapped: list[bool] = []
        self.notes: list[tuple[str, dict[str, object]]] = []
        self._ids = count(1)
        memtx = self.instance.memtx
        memtx.begin_bulk()
        for space_id, tuples in first_rows(
            replicaset_uuid=UUID, replicaset_name="rs", instance_uuid=UUID, instance_name="instance001"
        ):
            memtx.load(space_id, tuples)
        memtx.end_bulk()

    def ensure_ready(self) -> None:
        if self.loading:
            raise Loading("loading, nothing was done", stage="recovery")

    def password_while_loading(self, name: str) -> Secret | None:
        return None

    @property
    def users(self) -> Users:
        return self.instance.memtx.catalog.users

    # --- stepping

    def submit(
        self,
        make_event: Callable[[CallId], Event],
        on_outcome: Callable[[Outcome], None],
        *,
        timeout_s: float = math.inf,
    ) -> CallId:
        call_id = CallId(next(self._ids))
        event = make_event(call_id)
        self.steps.append(event)
        if isinstance(event, ClientWrites):
            (write,) = event.writes
            self._answer(call_id, lambda: on_outcome(self._write(write)))
        elif isinstance(event, WaitRequested):
            self._answer(call_id, lambda: on_outcome(self._fate(event)))
        elif isinstance(event, ReadBarrierRequested):
            self.times[call_id] = timeout_s
            self._answer(call_id, lambda: on_outcome(self.read_outcome))
        else:
            on_outcome(_SIMPLE[type(event)])
        return call_id

    def new_call_id(self) -> CallId:
        return CallId(next(self._ids))

    def submit_writes(
        self,
        writes: Sequence[ClientWrite],
        on_outcome: Callable[[CallId, Outcome], None],
        timeout_s: float | Sequence[float],
    ) -> None:
        self.steps.append(ClientWrites(writes))
        self._begin(writes, on_outcome, timeout_s)

    def _begin(
        self,
        writes: Sequence[ClientWrite],
        on_outcome: Callable[[CallId, Outcome], None],
        timeout_s: float | Sequence[float],
    ) -> None:
        times = [timeout_s] * len(writes) if isinstance(timeout_s, float | int) else timeout_s
        for write, each_s in zip(writes, times, strict=True):
            self.times[write.call_id] = each_s
            self._answer(write.call_id, lambda w=write: on_outcome(w.call_id, self._write(w)))  # type: ignore[misc]
            if write.call_id in self.held and trio.lowlevel.in_trio_run():
                trio.lowlevel.spawn_system_task(self._expire, write.call_id, on_outcome, each_s)

    async def _expire(
        self, call_id: CallId, on_outcome: Callable[[CallId, Outcome], None], timeout_s: float
    ) -> None:
        await trio.sleep(timeout_s)
        if self.held.pop(call_id, None) is not None:
            on_outcome(call_id, _expired())

    def submit_puts(
        self,
        puts: ClientPuts,
        on_outcome: Callable[[CallId, Outcome], None],
        timeout_s: float | Sequence[float],
    ) -> None:
        self.steps.append(puts)
        self._begin(puts.writes(), on_outcome, timeout_s)

    def abandon(self, call_id: CallId) -> None:
        self.abandoned.append(call_id)
        self.held.pop(call_id, None)

    async def call(self, make_event: Callable[[CallId], Event], *, timeout_s: float) -> Outcome:
        found: list[Outcome] = []
        done = trio.Event()

        def on_outcome(outcome: Outcome) -> None:
            found.append(outcome)
            done.set()

        call_id = self.submit(make_event, on_outcome)
        try:
            with trio.move_on_after(timeout_s):
                await done.wait()
            if not found:
                return _expired()
            return found[0]
        finally:
            if not found:
                self.abandon(call_id)

    async def wait_applied(self, vclock: Vclock, *, timeout_s: float, is_decided: bool = True) -> bool:
        self.waited_for_decision = is_decided
        with trio.move_on_after(timeout_s):
            while not self.instance.vclock.covers(vclock):
                await self.changed.wait()
        return self.instance.vclock.covers(vclock)

    async def watch_transaction(
        self, txn: TxnId | None, request_id: RequestId | None, *, timeout_s: float
    ) -> AsyncGenerator[Undecided | Outcome, None]:
        outcome: list[Outcome] = []
        one, two = InstanceId(1), InstanceId(2)
        self.ensure_ready()
        self.submit(lambda call_id: WaitRequested(call_id, txn, request_id), outcome.append)
        if not outcome:
            yield Undecided(None, (), (one, two), 2)
            yield Undecided(TxnId(one, Lsn(9)), (one,), (two,), 2)
            with trio.move_on_after(timeout_s):
                while not outcome:
                    await self.changed.wait()
        yield outcome[0] if outcome else FateKnown(Fate.PENDING, txn)

    async def sync_wal(self, timeout_s: float) -> Vclock:
        await trio.lowlevel.checkpoint()
        if self.sync_error is not None:
            raise self.sync_error
        return self.instance.vclock

    @property
    def owns_queue(self) -> bool:
        return not self.is_follower

    async def read_barrier(self, *, timeout_s: float) -> Outcome:
        return await self.call(ReadBarrierRequested, timeout_s=timeout_s)

    def release(self) -> None:
        held, self.held = self.held, {}
        for answer in held.values():
            answer()

    def change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def _answer(self, call_id: CallId, answer: Callable[[], None]) -> None:
        if self.hold:
            self.held[call_id] = answer
        else:
            answer()

    def _write(self, write: ClientWrite) -> Outcome:
        if self.instance.ro_reason is not RoReason.NONE:
            return Rejected(ReadOnly("read-only", ro_reason=self.instance.ro_reason.value))
        if write.request_id in self.requests:
            return Committed(self.requests[write.request_id], duplicate=True)
        memtx = self.instance.memtx
        try:
            prepared = memtx.prepare(write.ops, conditions=write.conditions)
        except PendingRefusal as refusal:
            return Rejected(refusal.error)
        except SynchroError as error:
            return Rejected(error)
        memtx.commit(prepared)
        lsn = Lsn(self.instance.vclock.get(InstanceId(1)) + len(prepared.ops))
        self.instance.vclock = self.instance.vclock.follow(InstanceId(1), lsn)
        txn = TxnId(InstanceId(1), lsn)
        if write.request_id is not None:
            self.requests[write.request_id] = txn
        if write.wait is not WaitMode.COMPLETE:
            return Submitted(txn if write.wait is WaitMode.SUBMIT else None, is_sync=prepared.is_sync)
        return Committed(txn, tuple(prepared.results), is_sync=prepared.is_sync)

    def _fate(self, event: WaitRequested) -> Outcome:
        txn = event.txn or self.requests.get(event.request_id or b"")
        return FateKnown(Fate.UNKNOWN if txn is None else Fate.COMMITTED, txn)

    def note(self, event: str, **facts: object) -> None:
        self.notes.append((event, facts))

    # --- reading

    def writable_term(self) -> Term:
        if self.instance.ro_reason is not RoReason.NONE:
            raise ReadOnly("read-only", ro_reason=self.instance.ro_reason.value)
        return self.term

    def header(self) -> HeaderFacts:
        at, vclock = Position(Term(2), Lsn(1)), self.instance.vclock
        return HeaderFacts(UUID, InstanceId(1), "instance001", Term(2), vclock, at, 7, True)

    def leader(self) -> LeaderFacts | None:
        return self.leader_facts

    def info(self) -> dict[str, Any]:
        queue = {
            "owner": 1, "term": 2, "len": 1, "size": 40, "busy": False, "age": 1.5, "confirm_lag": 0.0,
        }  # fmt: skip
        upstream = {"status": "follow", "idle": 0.25, "lag": 0.001}
        return {
            "id": 1,
            "vclock": {1: 14},
            "ro": False,
            "synchro": {"queue": queue, "quorum": 2},
            "replication": {
                1: {"id": 1, "uuid": UUID, "name": "instance001", "lsn": 14},
                3: {"id": 3, "uuid": UUID, "name": None, "lsn": 0, "upstream": upstream},
            },
        }

    def queue_entries(self) -> Sequence[QueueEntryFacts]:
        one, two = InstanceId(1), InstanceId(2)
        missing = [MissingAck(two, False, 4.5)]
        return [QueueEntryFacts(TxnId(one, Lsn(12 + n)), [512], 1, 40, 1.5, [one], missing) for n in range(3)]

    def watch_facts(self) -> WatchFacts:
        return WatchFacts(
            leader=self.leader_facts,
            term=Term(2),
            is_writable=self.instance.is_writable,
            ro_reason=self.instance.ro_reason,
            queue_owner=NOBODY,
            queue_len=self.queue_len,
            election_state="follower",
            queue_term=Term(2),
            can_read=not self.loading,
        )

    async def watch(self) -> AsyncGenerator[WatchFacts, None]:
        while True:
            changed = self.changed
            yield self.watch_facts()
            await changed.wait()

    def quorum_without(self, users: Users, user: str = "") -> Sequence[str]:
        return ()

    async def replica_gc(self, instance: str) -> int:
        raise ReplicaGc("Cannot clean up replica's resources: Replica does not exist; nothing was done")

    def promote_outlook(self) -> PromoteOutlook:
        obstacles = (Obstacle("NO_ELECTION_QUORUM", "1 of 2; nothing was changed"),)
        return PromoteOutlook(False, Term(3), InstanceId(1), 2, 4, obstacles)

    async def bootstrap(self, timeout_s: float) -> str:
        raise BootstrapRefused("a fake has its data; nothing was made")

    async def checkpoint(self) -> Vclock:
        await trio.lowlevel.checkpoint()
        if self.checkpoint_error is not None:
            raise self.checkpoint_error
        return self.instance.vclock

    @property
    def configuration(self) -> Configuration:
        raise ConfigError("Started without a file; nothing was changed. Next: restart it")

    def rebootstrap(self, *, discard: bool) -> None:
        self.rebootstrapped.append(discard)

    def restart_upstream(self, instance: str, skip: TxnId | None = None) -> None:
        if instance != "instance002":
            raise IllegalParams(f"there is no member '{instance}'")
        self.restarted.append(instance)


def _expired() -> OutcomeUnknown:
    return OutcomeUnknown(SyncTimeout("no quorum", acked=1, needed=2), TxnId(InstanceId(1), Lsn(15)))


_SIMPLE: dict[type, Outcome] = {
    ReadBarrierRequested: ReadReady(),
    PromoteRequested: Promoted(Term(3), InstanceId(1), confirmed=2, rolled_back=1),
    DemoteRequested: Demoted(Term(4)),
}
_: type[NodeApi] = FakeNode  # type: ignore[type-abstract, assignment, unused-ignore]
busy = CheckpointInProgress
