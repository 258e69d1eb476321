"""What the services of `rpc/` need of a node. `server/face.py` implements it; tests have a small fake.

Everything here is called on trio's thread. What is not `async` is synchronous and steps the core now.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from synchro.config import Change, Settings
from synchro.ids import INITIAL_TERM, CallId, InstanceId, RequestId, Term
from synchro.instance.events import ClientPuts, ClientWrite, Event, Outcome, Position
from synchro.instance.outlook import PromoteOutlook
from synchro.ro_reason import RoReason
from synchro.row import TxnId
from synchro.secret import Secret
from synchro.server.open_transactions import OpenTransactions
from synchro.server.user_changes import UserChanges
from synchro.storage.memtx import Memtx
from synchro.storage.users import Users
from synchro.vclock import Vclock


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What every reply says about who answered. vclock: written, component 0 included. is_writable: as far as
    elections, the queue and the configuration say.

    A node returns the same object while nothing changed: its encoded form is then made only once.
    """

    replicaset_uuid: str
    instance_id: InstanceId
    instance_name: str
    term: Term
    vclock: Vclock
    decided_position: Position | None = None
    schema_version: int = 0
    is_writable: bool = False


@dataclass(frozen=True, slots=True)
class LeaderFacts:
    """Who can do what this instance refuses. address: host:port, "" if not known."""

    id: InstanceId
    name: str
    address: str
    term: Term


class MissingAck(NamedTuple):
    """An instance that is not known to have a transaction on disk. since_s: how long it has been missing; if
    it is connected, since it or the transaction came, else since it was heard last; None: it was not heard in
    this life of the process."""

    peer: InstanceId
    is_connected: bool
    since_s: float | None


@dataclass(frozen=True, slots=True)
class QueueEntryFacts:
    """One transaction that waits in the limbo. txn: None while it is not on disk; age in seconds."""

    txn: TxnId | None
    space_ids: Sequence[int]
    rows: int
    size_bytes: int
    age_s: float
    acked_by: Sequence[InstanceId]
    missing: Sequence[MissingAck]
    is_sync: bool = True


class Undecided(NamedTuple):
    """How a transaction stands that is not decided here. txn: None while it is not on disk."""

    txn: TxnId | None
    acked_by: Sequence[InstanceId]
    missing: Sequence[InstanceId]
    quorum: int
    """0: its own disk is enough."""


@dataclass(frozen=True, slots=True)
class WatchFacts:
    """What `WatchInfo` and the health services follow. leader: None if nobody is known to lead."""

    leader: LeaderFacts | None
    term: Term
    is_writable: bool
    ro_reason: RoReason
    queue_owner: InstanceId
    queue_len: int
    can_read: bool = True
    """Recovery or join is over; client calls are served."""
    election_state: str = ""
    """follower, candidate or leader; "" while it loads."""
    queue_term: Term = INITIAL_TERM
    sees_quorum: bool = True
    """A quorum of registered instances, this one included, is connected."""


class Compared(NamedTuple):
    """What a configuration changes, or has changed. warnings: what the operator should know of it."""

    changes: Sequence[Change]
    warnings: Sequence[str]


class Configuration(Protocol):
    """The file of a running instance, and what of it is in use [C-40]. Methods raise `ConfigError`; nothing
    was changed then."""

    async def compare(self, text: bytes) -> Compared:
        """With this text of a file; empty: with the file as it is now. Nothing is changed."""

    async def reload(self) -> Compared:
        """Read the file again, and put into use what needs no restart. What `set` did is over."""

    async def set(self, key: str, value: str, *, force: bool) -> Compared:
        """One option, until the next reload or start. value: YAML. force: although two owners could write at
        the same time."""

    async def names(self) -> frozenset[str]:
        """Of the members of the set, in the file as it is now; what is in use stays."""

    def facts(self) -> dict[str, Any]:
        """`box.info.config` [I-17]."""


class InstanceView(Protocol):
    """Read-only views of the core."""

    @property
    def memtx(self) -> Memtx: ...

    @property
    def vclock(self) -> Vclock:
        """Written, component 0 included."""

    @property
    def settings(self) -> Settings: ...

    @property
    def self_id(self) -> InstanceId:
        """`ids.ANONYMOUS` of one that is no member."""

    @property
    def is_writable(self) -> bool: ...

    def read_only_reason(self) -> RoReason:
        """NONE: it is writable [E-42]."""

    def was_committed(self, request_id: RequestId) -> bool:
        """A transaction with this request id is committed, and remembered."""


class NodeApi(Protocol):
    """One running instance, as its services see it."""

    @property
    def instance(self) -> InstanceView:
        """Raises `Loading` before recovery, bootstrap or join is over."""

    @property
    def users(self) -> Users:
        """Who may do what: as committed, or while it loads as configured."""

    def password_while_loading(self, name: str) -> Secret | None:
        """Of a user of the configuration; None: it has none, or the instance has loaded."""

    @property
    def user_changes(self) -> UserChanges:
        """How users are changed."""

    @property
    def open_transactions(self) -> OpenTransactions:
        """How many there are."""

    def writable_term(self) -> Term:
        """The term of the queue, where writes are taken. Raises what a write would be refused with here."""

    def ensure_ready(self) -> None:
        """Raise `Loading` while recovery or join is not over, `DiskFailed` when leaving. Cheap."""

    # --- stepping the core: an exception of the core itself ends the node, here nothing is raised

    def submit(
        self,
        make_event: Callable[[CallId], Event],
        on_outcome: Callable[[Outcome], None],
        *,
        timeout_s: float = math.inf,
    ) -> CallId:
        """Step the event with a new call id; after `timeout_s` seconds the core hears that its time is over.
        `on_outcome` is called once, maybe before this returns; never after `abandon`. It must not raise and
        must not call back into the node."""

    def new_call_id(self) -> CallId:
        """The one after the last: those of a frame are consecutive."""

    def submit_writes(
        self,
        writes: Sequence[ClientWrite],
        on_outcome: Callable[[CallId, Outcome], None],
        timeout_s: float | Sequence[float],
    ) -> None:
        """Transactions that arrived together in one `ClientWrites` step, with call ids from `new_call_id`.

        `on_outcome` is called once for each, maybe before this returns, in any order; the rules of `submit`
        hold. After `timeout_s`, one for all or one for each, the node steps `CallExpired` for those without
        an outcome.
        """

    def submit_puts(
        self,
        puts: ClientPuts,
        on_outcome: Callable[[CallId, Outcome], None],
        timeout_s: float | Sequence[float],
    ) -> None:
        """As `submit_writes`, for a run of single writes that may share a transaction; their call ids are
        consecutive. An outcome may be `CommittedTogether`: one object for many of them, one after the
        other."""

    def abandon(self, call_id: CallId) -> None:
        """The caller is gone; a finished or unknown call is ignored."""

    async def call(self, make_event: Callable[[CallId], Event], *, timeout_s: float) -> Outcome:
        """Step, wait for the outcome. When time is over `CallExpired` is stepped and its outcome
        returned. Cancelled: abandons."""

    async def wait_applied(self, vclock: Vclock, *, timeout_s: float, is_decided: bool = True) -> bool:
        """Until rows up to this vclock are written and, in the queue, decided (unless it does not matter).
        False: time was over."""

    def watch_transaction(
        self, txn: TxnId | None, request_id: RequestId | None, *, timeout_s: float
    ) -> AsyncIterator[Undecided | Outcome]:
        """How it stands now and at each change, and last the outcome of `WaitRequested`; `Fate.PENDING`: the
        time is over, or the instance stops. States in between may be left out. One of both names is given.
        Raises `Loading`."""

    @property
    def owns_queue(self) -> bool:
        """Whether this instance itself knows when a read is linearizable. Raises `Loading`."""

    async def read_barrier(self, *, timeout_s: float) -> Outcome:
        """Until what is committed here has every write that was answered anywhere before, and what waited in
        the queue of the owner then is decided here: `ReadReady`. Raises `SynchroError`; nothing was read."""

    # --- reading

    def header(self) -> HeaderFacts:
        """May raise `Loading`; so may `leader`."""

    def leader(self) -> LeaderFacts | None:
        """The queue's owner if it has one, else the raft leader; None if neither is known or it is
        this instance itself and it is not writable."""

    def info(self) -> dict[str, Any]:
        """The tree of `box.info` [I-*]: dicts (str or int keys), lists, str, int, float (s), bool, None."""

    def queue_entries(self) -> Sequence[QueueEntryFacts]:
        """Oldest first: those of this moment, each as it is when it is asked for."""

    def watch(self) -> AsyncIterator[WatchFacts]:
        """The present state at once, then each change; states in between may be left out."""

    def note(self, event: str, **facts: object) -> None:
        """A record in the log of the process."""

    # --- operators

    @property
    def configuration(self) -> Configuration:
        """Raises `ConfigError`: the instance runs inside a program that sets its options."""

    def quorum_without(self, users: Users, user: str = "") -> Sequence[str]:
        """Members whose streams end with these users, if this instance leads or owns the queue and would lose
        its quorum; else none. user: has another password then, by which nobody calls yet; "": nobody has."""

    async def replica_gc(self, instance: str) -> int:
        """Keep no log for an instance that is away; returns how many files went. Raises `ReplicaGc`."""

    def promote_outlook(self) -> PromoteOutlook:
        """What a promote would do here now, and what stands against it; nothing is changed. Raises
        `Loading`, `DiskFailed`."""

    async def bootstrap(self, timeout_s: float) -> str:
        """Make the replica set, as an instance that waits to be told; returns its UUID. Raises
        `BootstrapRefused`: nothing was made; `TimedOut`."""

    async def sync_wal(self, timeout_s: float) -> Vclock:
        """Until all that was written before is synced, with `wal.mode: write` too [W-48]; up to where it is
        then. Raises `WalIo`: some of it was cut back; `TimedOut`, `DiskFailed`."""

    async def checkpoint(self) -> Vclock:
        """Write a snapshot; returns what it covers. Raises `CheckpointInProgress` and other errors."""

    def restart_upstream(self, instance: str, skip: TxnId | None = None) -> None:
        """Follow a member again, by name, decimal id, UUID or address; a running stream is left alone. skip:
        the row in conflict at which it stands, to leave it out. Raises `IllegalParams` if there is no such
        upstream, or it does not stand there."""

    def rebootstrap(self, *, discard: bool) -> None:
        """Begin anew, and replace the data by that of another member. discard: rows that only this instance
        has may go. Raises `RebootstrapRefused`, `DiskFailed`; nothing was done then."""
