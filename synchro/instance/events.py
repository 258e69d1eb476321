"""Events and effects of `Instance`: everything that crosses the border between the core and a shell.

A shell is `server/node.py` in production and `tests/sim` in the simulator. Both carry batches, because
Python pays per call: one `RowsWritten` per fsync, one `TxnsReceived` per network read, one `Replies` per
step. What is made for each transaction is a named tuple: a frozen dataclass costs three times as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from synchro.config import Settings
from synchro.errors import SynchroError
from synchro.ids import CallId, InstanceId, Lsn, RequestId, Term
from synchro.raft.messages import RaftMessage
from synchro.row import Dml, Puts, Tuple, Txn, TxnId
from synchro.storage.conditions import Condition
from synchro.storage.ddl import Build
from synchro.storage.read_set import Unchanged
from synchro.vclock import EMPTY_VCLOCK, Vclock


class WaitMode(Enum):
    """When a write is answered [Q-45]."""

    COMPLETE = "complete"
    """at its decision"""
    SUBMIT = "submit"
    """when it is in the local WAL"""
    NONE = "none"
    """at once; refused if it would have to wait for room"""


class Position(NamedTuple):
    """Place of a transaction in the history of a claimed queue, the same on all instances."""

    term: Term
    lsn: Lsn


class Ack(NamedTuple):
    """What a subscriber has on disk: written vclock and persisted term, sampled when it was sent."""

    vclock: Vclock
    term: Term
    vclock_sync: int = 0
    """Last heartbeat number seen on this connection [Q-62]."""
    counts: bool = True
    """False: the sender does not trust its own log (amnesia), so the ack confirms nothing."""
    quorum: int = 0
    """By how many votes the sender is elected; 0: an older version, which does not say (ADR 38)."""


# --- events: clients ------------------------------------------------------------------------------------


class ClientWrite(NamedTuple):
    """One transaction asked for by a client. Answered by one `Reply` with the same `call_id`."""

    call_id: CallId
    ops: Sequence[Dml]
    request_id: RequestId | None = None
    known_position: Position | None = None
    wait: WaitMode = WaitMode.COMPLETE
    expected_term: Term | None = None
    conditions: Sequence[Condition | Unchanged] = ()
    """In order; what must be true for it to be done (ADR 49), and what it has read (ADR 52)."""
    is_sync: bool = False
    """It goes through the queue, whatever spaces it changes [D-28]."""


@dataclass(frozen=True, slots=True)
class ClientWrites:
    writes: Sequence[ClientWrite]


SHARED_MIN: Final = 4
"""Fewer calls do not share a transaction: it would save nothing."""


@dataclass(frozen=True, slots=True)
class ClientPuts:
    """Transactions of one INSERT, or REPLACE, each, into one space, that arrived together; as columns.

    They may become one shared transaction (ADR 13). Each gets a `Reply` of its own, as a `ClientWrite` does;
    the outcome may be one object for many of them.
    Parallel: call_ids, puts, request_ids, known_positions.
    """

    call_ids: Sequence[CallId]
    puts: Puts
    request_ids: Sequence[RequestId | None]
    known_positions: Sequence[Position | None]

    def writes(self) -> list[ClientWrite]:
        """Return these writes one by one, each as a transaction of its own."""
        ops = [(put,) for put in self.puts]
        return list(map(ClientWrite, self.call_ids, ops, self.request_ids, self.known_positions))

    def __getitem__(self, part: slice) -> ClientPuts:
        return ClientPuts(
            self.call_ids[part], self.puts[part], self.request_ids[part], self.known_positions[part]
        )


@dataclass(frozen=True, slots=True)
class CallExpired:
    """The call's time is over. Answered by a `Reply` at once: refused if nothing was done, else
    `OutcomeUnknown`; the transaction stays where it is [Q-42]."""

    call_id: CallId


@dataclass(frozen=True, slots=True)
class RequestAbandoned:
    """The caller is gone: drop the waiter, no `Reply`. A request that still waits unprepared is dropped
    with it; an entry in the queue stays [Q-43], [L-15]."""

    call_id: CallId


@dataclass(frozen=True, slots=True)
class WaitRequested:
    """WaitTransaction: answered by `Reply` when the fate of the transaction is known here."""

    call_id: CallId
    txn: TxnId | None = None
    request_id: RequestId | None = None


@dataclass(frozen=True, slots=True)
class ReadBarrierRequested:
    """Linearizable read on the owner: answered `ReadReady` once a quorum has echoed a heartbeat, and what
    waited in the queue when it came is decided [Q-60].

    awaits_queue: False for another instance, which waits for the second part itself [Q-63]."""

    call_id: CallId
    awaits_queue: bool = True


@dataclass(frozen=True, slots=True)
class PromoteRequested:
    call_id: CallId


@dataclass(frozen=True, slots=True)
class DemoteRequested:
    call_id: CallId


@dataclass(frozen=True, slots=True)
class RegisterRequested:
    """A joining instance wants its `_cluster` row [M-22]. Answered `Registered` when it is decided."""

    call_id: CallId
    uuid: str
    name: str
    must_be_new: bool = False
    """An anonymous instance registers [M-30]. It has rows already, so it takes nobody's place by a name."""


# --- events: peers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TxnsReceived:
    """All transactions of one network read, in stream order, from the applier of `source`."""

    source: InstanceId
    txns: Sequence[Txn]


@dataclass(frozen=True, slots=True)
class PeerRaftReceived:
    source: InstanceId
    message: RaftMessage


@dataclass(frozen=True, slots=True)
class FrameTermSeen:
    term: Term


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """The relay of `source` told us it is alive. `vclock`: its written vclock."""

    source: InstanceId
    vclock: Vclock


@dataclass(frozen=True, slots=True)
class AckReceived:
    source: InstanceId
    ack: Ack


@dataclass(frozen=True, slots=True)
class RelayConnected:
    """`peer` subscribed to us; its Hello counts as its first ack, former ones are forgotten [L-10].

    takes_unnamed: it reads shared transactions in which calls have no request id (ADR 13). takes_policies: it
    knows what spaces do with conflicts (ADR 44). takes_users: it reads rows of users (ADR 42).
    takes_sequences: it reads rows that define sequences (ADR 47). unwritten: of rows that it received and may
    have to write yet, the newest LSN of each origin (ADR 9)."""

    peer: InstanceId
    ack: Ack
    takes_unnamed: bool = False
    takes_policies: bool = False
    takes_users: bool = False
    takes_sequences: bool = True
    unwritten: Vclock = EMPTY_VCLOCK


@dataclass(frozen=True, slots=True)
class RelayLost:
    peer: InstanceId


@dataclass(frozen=True, slots=True)
class ExpulsionTold:
    """A member refuses us because we were removed from the set; our log may not say so yet (ADR 41).

    queue_term: of the last decided PROMOTE or DEMOTE in its log; None: a version that does not tell."""

    queue_term: int | None = None


@dataclass(frozen=True, slots=True)
class ClockCompared:
    """The clock of this host: microseconds since 1970 at the moment that is 0 in `now`. A core has no other
    way to know the time of day, and needs it only where the last write wins (ADR 44)."""

    offset_us: int


@dataclass(frozen=True, slots=True)
class SkipGranted:
    """A person lets this row become a Nop if it is in conflict, as with `skip_conflict` [A-35]; its stream,
    which stands there, starts again."""

    row: TxnId


@dataclass(frozen=True, slots=True)
class ApplierFollowing:
    """Our subscription to `peer` was accepted. `vclock`, `term`: the peer's at that moment.

    last_ack: the highest vclock the peer remembers that we acked; above ours = amnesia (S14)."""

    peer: InstanceId
    vclock: Vclock
    term: Term
    last_ack: Vclock


@dataclass(frozen=True, slots=True)
class DoubledChanged:
    """Another live process has our identity, or has it no more: while it has, this instance neither votes,
    counts nor writes (ADR 23)."""

    is_doubled: bool


@dataclass(frozen=True, slots=True)
class OrphanChanged:
    """With which sources this instance has to catch up before it writes without a queue; none: with nobody
    (ADR 46)."""

    waits_for: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApplierLost:
    peer: InstanceId


# --- events: disk, time, operators ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowsWritten:
    """Everything up to `vclock` (component 0 included) is synced. Answers one or more `WriteRows`."""

    vclock: Vclock


@dataclass(frozen=True, slots=True)
class RowsCutBack:
    """The disk had no room: all rows asked for beyond `vclock` are durably gone from the WAL, and their
    LSNs will be used again. The shell has dropped its queue of later `WriteRows` too."""

    vclock: Vclock
    error: SynchroError


@dataclass(frozen=True, slots=True)
class TurnBegan:
    """Answers `RequestTurn`: everything else had its turn."""


@dataclass(frozen=True, slots=True)
class IndexesBuilt:
    """Answers `BuildIndexes`: the build is done, well or not."""

    build: Build


@dataclass(frozen=True, slots=True)
class WalStuck:
    """The disk has not answered for one death timeout: a leader resigns by word alone, where there are
    elections (ADR 16). Told again while it lasts, since elections may be turned on meanwhile."""


@dataclass(frozen=True, slots=True)
class StoodStill:
    """The process did nothing for so long that others may have elected another leader: one with strict
    fencing resigns before it takes a write [L-18]."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The process was asked to end. Answered by `Stopped`, when the disk allows; every call that waits gets
    its `Reply` before: a result that is known, `OutcomeUnknown` once its transaction is on disk, or that
    nothing was done. Facts go on being told until then (ADR 18)."""


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """`now` is at or past `Instance.deadline`."""


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """Options that may change while the instance runs have other values now [C-30]. The others are as they
    were."""

    settings: Settings


Event: TypeAlias = (
    ClientWrites
    | ClientPuts
    | CallExpired
    | RequestAbandoned
    | WaitRequested
    | ReadBarrierRequested
    | PromoteRequested
    | DemoteRequested
    | RegisterRequested
    | TxnsReceived
    | PeerRaftReceived
    | FrameTermSeen
    | HeartbeatReceived
    | AckReceived
    | RelayConnected
    | RelayLost
    | ExpulsionTold
    | ClockCompared
    | SkipGranted
    | ApplierFollowing
    | ApplierLost
    | DoubledChanged
    | OrphanChanged
    | RowsWritten
    | RowsCutBack
    | TurnBegan
    | IndexesBuilt
    | WalStuck
    | StoodStill
    | StopRequested
    | DeadlineReached
    | SettingsChanged
)


# --- outcomes -------------------------------------------------------------------------------------------


class Committed(NamedTuple):
    """tuples: per operation, what it returns: new tuple, old tuple of a delete, or None [D-16]."""

    txn: TxnId | None
    """None: a transaction without rows of its own (temporary space, or nothing changed)."""
    tuples: Sequence[Tuple | None] = ()
    is_sync: bool = False
    duplicate: bool = False
    """True: a retry; the call that the transaction was made for hears False."""


class CommittedTogether(NamedTuple):
    """`Committed` for all calls of a `ClientPuts` that share a transaction, while none has left it (ADR 13).

    calls: call id -> LSN of its row, in the order of both. first_lsn: of the first row. tuples: a row each.
    """

    calls: Mapping[CallId, Lsn]
    origin: InstanceId
    first_lsn: Lsn
    tuples: Sequence[Tuple | None]

    def of(self, call_id: CallId) -> Committed:
        lsn = self.calls[call_id]
        return Committed(TxnId(self.origin, lsn), (self.tuples[lsn - self.first_lsn],), is_sync=True)


@dataclass(frozen=True, slots=True)
class Submitted:
    """`wait: submit` or `none`: on disk (txn set), or accepted (txn None); not decided."""

    txn: TxnId | None
    is_sync: bool = False
    duplicate: bool = False
    """As of `Committed`."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Nothing was done, or (SyncRollback) it was undone."""

    error: SynchroError


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """The time is over; the transaction may still commit. Only rows on disk are named."""

    error: SynchroError
    txn: TxnId | None = None


class Fate(Enum):
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    PENDING = "pending"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class FateKnown:
    fate: Fate
    txn: TxnId | None = None


@dataclass(frozen=True, slots=True)
class ReadReady:
    """Committed data read now is linearizable."""


@dataclass(frozen=True, slots=True)
class Promoted:
    term: Term
    previous_owner: InstanceId
    confirmed: int
    rolled_back: int


@dataclass(frozen=True, slots=True)
class Demoted:
    """is_done: it led, or owned the queue; else there was nothing to give up."""

    term: Term
    is_done: bool = True


@dataclass(frozen=True, slots=True)
class Registered:
    """`vclock` covers the decided `_cluster` row and its CONFIRM, which may still be on their way to disk:
    the join's final stage must reach it."""

    id: InstanceId
    vclock: Vclock


Outcome: TypeAlias = (
    Committed
    | CommittedTogether
    | Submitted
    | Rejected
    | OutcomeUnknown
    | FateKnown
    | ReadReady
    | Promoted
    | Demoted
    | Registered
)


# --- effects --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WriteRows:
    """Append to the WAL in this order and sync; answered by `RowsWritten` or `RowsCutBack`.

    has_control: holds hard state, PROMOTE, DEMOTE or ROLLBACK: if it cannot be written the process must
    exit [L-30]; it may use the reserved lead."""

    txns: Sequence[Txn]
    has_control: bool = False


@dataclass(frozen=True, slots=True)
class BroadcastRaft:
    message: RaftMessage


@dataclass(frozen=True, slots=True)
class RequestHeartbeats:
    """Send a heartbeat on every relay at once, with the number that `ReadBarrier.show` tells then [Q-62]."""


class Reply(NamedTuple):
    call_id: CallId
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Replies:
    """What a step has to say to callers; the last of its effects."""

    replies: Sequence[Reply]


@dataclass(frozen=True, slots=True)
class StopApplier:
    """Stop following `peer` until an operator acts: conflict, split brain [A-40]."""

    peer: InstanceId
    error: SynchroError


@dataclass(frozen=True, slots=True)
class ResetAppliers:
    """Rows were cut back: whoever handed some of them over must be asked again, from the written vclock."""


@dataclass(frozen=True, slots=True)
class EndAmnesia:
    """Clear the flag in the identity file, synced; the log is complete again (S14)."""


@dataclass(frozen=True, slots=True)
class BeginAmnesia:
    """Set the flag in the identity file, synced, before anything is acked or voted (S14)."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Answers `StopRequested`: all that was written is synced, and told to peers as far as they listen."""


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """Other instances are members than before, by decided rows: streams with others end (ADR 41)."""


@dataclass(frozen=True, slots=True)
class BecameMember:
    """This instance was anonymous, and is the member `id` from now on: all its streams begin anew [M-30]."""

    id: InstanceId


@dataclass(frozen=True, slots=True)
class RequestTurn:
    """Step `TurnBegan` as soon as all that waits in the shell had its turn."""


@dataclass(frozen=True, slots=True)
class BuildIndexes:
    """Call `build.advance()`, a few milliseconds at a time with everything else in between, until it is done
    or cancelled; if it is done, step `IndexesBuilt`. At most one is outstanding that is not cancelled."""

    build: Build


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person wants to see in the log: fixed snake_case name, facts."""

    event: str
    facts: dict[str, object]
    is_warning: bool = False


Effect: TypeAlias = (
    WriteRows
    | BroadcastRaft
    | RequestHeartbeats
    | Replies
    | StopApplier
    | ResetAppliers
    | EndAmnesia
    | BeginAmnesia
    | Stopped
    | MembersChanged
    | BecameMember
    | RequestTurn
    | BuildIndexes
    | Notice
)
