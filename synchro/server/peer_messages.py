"""What peers say to each other, as values [A-2]."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from synchro.ids import InstanceId, Term
from synchro.instance.events import Ack
from synchro.raft.messages import RaftMessage
from synchro.vclock import EMPTY_VCLOCK, Vclock

if TYPE_CHECKING:
    pass


PROTOCOL_VERSION: Final = 1
_REFUSED: Final = os.strerror(errno.ECONNREFUSED).lower()


class LinkLost(Exception):
    """The connection broke, was refused, or was silent for too long: worth another try [A-40].

    system: what the operating system or gRPC said; `upstream.system_message`."""

    def __init__(self, message: str, system: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.system = system

    @property
    def why(self) -> str:
        """All that is known, for a person."""
        return f"{self.message}: {self.system}" if self.system else self.message

    @property
    def is_refused(self) -> bool:
        """Whether the host answered that nobody listens there."""
        return self.system is not None and _REFUSED in self.system.lower()


@dataclass(frozen=True, slots=True)
class JoinRequest:
    instance_uuid: str
    instance_name: str
    protocol_version: int = PROTOCOL_VERSION
    takes_unnamed: bool = False
    """As in `Hello`."""
    takes_policies: bool = False
    """As in `Hello`."""
    takes_users: bool = False
    """As in `Hello`."""
    is_anonymous: bool = False
    """It asks for a snapshot only, and is not registered [M-31]."""
    replicaset_uuid: str = ""
    """Of the set that it was of, or that its configuration names; "": it takes the one that it joins."""
    replicaset_name: str = ""
    """As in `Ballot`."""


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """An anonymous instance wants to be a member [M-30]."""

    instance_uuid: str
    instance_name: str
    replicaset_uuid: str


@dataclass(frozen=True, slots=True)
class ReadPositionRequest:
    """How far must one be to answer linearizable reads [Q-63]? timeout_s: of the round of heartbeats."""

    replicaset_uuid: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class JoinStart:
    """Stage 1 begins: the view is the committed prefix at `vclock` [M-21]. meta: as in a snapshot file.
    tuples: how many come, for people; 0: an older version does not say it."""

    vclock: Vclock
    replicaset_uuid: str
    meta: bytes
    tuples: int = 0


@dataclass(frozen=True, slots=True)
class JoinChunk:
    """Tuples of one space, at most 1 MiB unless one is larger. crc: CRC32C of `data`."""

    space_id: int
    data: bytes
    crc: int


@dataclass(frozen=True, slots=True)
class JoinSnapshotEnd:
    """All of stage 1 was sent: what the joiner must have counted.

    checksum: CRC32C over the CRCs of all chunks, each as 4 bytes, little end first, in order."""

    count: int
    checksum: int


@dataclass(frozen=True, slots=True)
class JoinRows:
    """Stage 2: a run of whole transactions."""

    rows: bytes
    crc: int


@dataclass(frozen=True, slots=True)
class JoinEnd:
    """The joiner is registered as `id`, and has the log up to `vclock` [M-23]. id: `NOBODY` if it is
    anonymous."""

    vclock: Vclock
    id: InstanceId


@dataclass(frozen=True, slots=True)
class JoinProgress:
    """A part of the next item came: a sign of life. Never sent as such."""


JoinItem: TypeAlias = JoinStart | JoinChunk | JoinSnapshotEnd | JoinRows | JoinEnd


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a subscriber; its vclock counts as its first ack [M-32]."""

    replicaset_uuid: str
    instance_uuid: str
    name: str
    vclock: Vclock
    term: Term
    credit: int
    id_filter: frozenset[InstanceId] = frozenset()
    counts: bool = True
    protocol_version: int = PROTOCOL_VERSION
    start_id: str = ""
    """Of this life of the process (ADR 23); "": an older version."""
    address: str = ""
    """host:port at which it listens; "": an older version."""
    takes_parts: bool = False
    """It puts transactions together that were cut, and says how many bytes came (ADR 20)."""
    takes_unnamed: bool = False
    """It reads shared transactions in which calls have no request id (ADR 13)."""
    takes_users: bool = False
    """It reads rows of users (ADR 42)."""
    takes_policies: bool = False
    """It knows what spaces do with conflicts (ADR 44)."""
    quorum: int = 0
    """By how many votes it is elected; 0: an older version (ADR 38)."""
    is_anonymous: bool = False
    """It is no member: its acks say how far it is, and count for nothing [M-6]."""
    takes_sequences: bool = False
    """It reads rows that define sequences (ADR 47)."""
    unwritten: Vclock = EMPTY_VCLOCK
    """Of rows that it received and may have to write yet, the newest LSN of each origin (ADR 9)."""


class PeerAck(NamedTuple):
    """What the subscriber says after its Hello. tm: wall time (s) at the relay of the newest block that
    is written now, 0 = unknown [A-26]. credit: bytes that may be sent beyond this ack. following: whose
    rows it gets from themselves. received: bytes of rows that came on this stream, on disk or not."""

    ack: Ack
    credit: int
    tm: float = 0.0
    following: frozenset[InstanceId] = frozenset()
    received: int = 0


@dataclass(frozen=True, slots=True)
class Accepted:
    """First answer of a relay. id: `NOBODY` of one that is anonymous. last_ack: what it remembers that the
    subscriber acked [M-33], S14."""

    id: InstanceId
    vclock: Vclock
    replicaset_uuid: str
    last_ack: Vclock
    term: Term
    instance_uuid: str
    instance_name: str
    start_id: str = ""
    address: str = ""
    """Both as in `Hello`."""


class Heartbeat(NamedTuple):
    """vclock: written vclock of the sender; tm: its wall time, 0 if rows were sent since the last [A-25]."""

    vclock_sync: int
    tm: float
    vclock: Vclock


class Frame(NamedTuple):
    """The receiver handles term, then raft, then rows, then heartbeat."""

    term: Term
    raft: RaftMessage | None = None
    rows: bytes = b""
    rows_crc: int = 0
    heartbeat: Heartbeat | None = None
    tm: float = 0.0
    """Wall time of the newest block in `rows`; 0 without rows."""
    rows_continue: bool = False
    """The transaction in `rows` goes on in the next frame that has rows."""
    wants_receipt: bool = False
    """An ack shall say at once how many bytes of rows came."""
