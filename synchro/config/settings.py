"""Settings of one instance, and every limit with its unit and its reason. Touches no files.

`config/file.py` makes a `Settings` from YAML; tests make one from keywords. Names are those of
Tarantool 3's configuration, the unit last. Rules [C-*], [Q-30], answers in docs/adr/.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from synchro.config.quorum_formula import QuorumFormula
from synchro.ids import InstanceName

KIB: Final = 1024
MIB: Final = 1024 * KIB

FIRST_REQUEST_S: Final = 10.0
"""A connection that makes no request for so long is ended: it holds a descriptor."""
RESERVED_DESCRIPTORS: Final = 8
"""Held back for files: a rotation, an identity and a snapshot at one moment need five."""
LOG_WAITING_BYTES_MAX: Final = 4 * MIB
"""Log records on their way to a sink that does not take them; further ones are dropped and counted."""


FIRST_NAME: Final = InstanceName("instance001")


class ElectionMode(StrEnum):
    """Whether this instance may stand for election [E-9]. Raft itself always runs."""

    OFF = "off"
    VOTER = "voter"
    MANUAL = "manual"
    CANDIDATE = "candidate"


class FencingMode(StrEnum):
    """What a leader does when it loses sight of a quorum [E-30]."""

    OFF = "off"
    SOFT = "soft"
    STRICT = "strict"


class WalMode(StrEnum):
    """fsync: an ack is on disk. write: it may be in the page cache, so S8 does not hold [W-13]."""

    FSYNC = "fsync"
    WRITE = "write"
    NONE = "none"


class BootstrapStrategy(StrEnum):
    AUTO = "auto"
    CONFIG = "config"


# --- limits -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of everything that grows. Bytes where it holds bytes; each has its own refusal."""

    tuple_bytes_max: int = 1 * MIB
    """Larger tuples are refused with BATCH_TOO_LARGE: one row must fit a WAL block and a frame."""
    batch_ops_max: int = 1000
    """Operations of one transaction; it is applied in one step of the core."""
    txn_bytes_max: int = 8 * MIB
    select_bytes_max: int = 1 * MIB
    """One answer; the reader goes on with `after`. It is gathered in one go, a few milliseconds. Of a HASH
    index, which knows no `after`, 8 MiB at least."""
    select_tuples_max: int = 10_000
    """Of one answer too, HASH indexes aside: small tuples cost more than their bytes."""
    connections_max: int = 10_000
    """Of clients and peers together; fewer if RLIMIT_NOFILE does not allow so many."""
    waiting_calls_max: int = 10_000
    """Requests that wait unprepared for room in the limbo, and calls waiting for their outcome."""
    wal_queue_bytes_max: int = 16 * MIB
    """Rows on their way to disk; beyond it client writes wait, from half of it on rows of peers do."""
    wal_block_bytes_max: int = 1 * MIB
    """A block is written with one call and checked with one CRC."""
    wal_lead_bytes: int = 4 * MIB
    """Zero-filled, synced space ahead of the end of the WAL, so that a sync writes no metadata."""
    wal_control_reserve_bytes: int = 1 * MIB
    """Part of the lead that only control rows may use when the disk is full: they must not fail."""
    wal_max_size: int = 256 * MIB
    """A larger file is rotated [W-12]."""
    relay_ring_bytes: int = 16 * MIB
    """Recent synced blocks kept in memory for relays; older rows are read from the files."""
    relay_frame_bytes_max: int = 1 * MIB
    joins_max: int = 3
    """New instances that get everything at a time; further ones are told to come again. Each has a few MiB on
    its way, beside the view that they share."""
    join_calls_max: int = 32
    """Calls of joiners without receipts (an older version): one that stalls cannot be ended before its
    connection, and holds the message that it does not take."""
    join_view_age_s: float = 60.0
    """A view of the data that a join still uses is taken for another one too, up to this age (s): the newer
    one gets the rest from the log."""
    join_chunk_bytes_max: int = 256 * KIB
    """Tuples in one message of a join; what a slow link does not carry in half a heartbeat is cut further."""
    peer_credit_bytes: int = 8 * MIB
    """Bytes a relay may send beyond the last ack."""
    message_bytes_max: int = 16 * MIB
    """One gRPC message."""
    stream_out_bytes_max: int = 4 * MIB
    """Queued output of one stream; beyond it the stream is not read."""
    stream_in_bytes_max: int = 4 * MIB
    remembered_requests_max: int = 1_000_000
    """Request ids of decided transactions."""
    remembered_drops_max: int = 10_000
    """LSN ranges of dropped or nopified transactions, for `WaitTransaction`."""
    update_ops_max: int = 4000
    """Operations of one update [D-18]."""
    ddl_rows_at_once: int = 10_000
    """A change of definitions that must look at more tuples does so in steps: data writes wait meanwhile, all
    else goes on."""
    txn_values_max: int = 1024 * KIB
    """Fields, array elements, map keys and values of one transaction: small ones cost more than their bytes.
    One tuple of the largest size never has more."""
    turn_work_bytes_max: int = 32 * MIB
    """What writes of clients may touch, counted as for `txn_work_bytes_max`, before all else has its turn."""
    txn_work_bytes_max: int = 64 * MIB
    """Bytes that one transaction of a client may touch, an operation counted as 4 KiB, each value of a tuple
    that it updates as 40: it runs in one step of the core, a tenth to a third of a second at this limit."""


# --- settings ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """A configured member of the replica set, this instance included."""

    name: str
    address: str
    """host:port"""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything one instance must know; durations in seconds, sizes in bytes."""

    instance_name: InstanceName = FIRST_NAME
    replicaset_name: str = "replicaset001"
    listen: str = "127.0.0.1:0"
    peers: tuple[PeerAddress, ...] = ()
    """All configured members, this one included, in name order; empty = alone [C-12]."""
    wal_dir: str = "var/lib"
    snapshot_dir: str = "var/lib"

    read_only: bool = False
    """database.mode: ro"""
    election_mode: ElectionMode = ElectionMode.OFF
    election_timeout_s: float = 5.0
    election_fencing_mode: FencingMode = FencingMode.SOFT
    replication_timeout_s: float = 1.0
    """Heartbeat interval; a link is dead after four of them [A-27]."""
    reconnect_timeout_s: float | None = None
    connect_timeout_s: float = 30.0
    bootstrap_strategy: BootstrapStrategy = BootstrapStrategy.AUTO
    bootstrap_leader: str | None = None
    synchro_quorum: QuorumFormula = field(default_factory=lambda: QuorumFormula("N / 2 + 1"))
    confirm_delay_s: float = 0.01
    """A CONFIRM waits so long for an own row to go ahead of, then it is written alone (ADR 11)."""
    linearizable_quorum: QuorumFormula = field(default_factory=lambda: QuorumFormula("N - Q + 1", clamp=True))
    synchro_timeout_s: float = 5.0
    """How long promote, demote and snapshot wait."""
    txn_synchro_timeout_s: float = 5.0
    """How long a write waits for its quorum before its caller is told OUTCOME UNKNOWN [Q-42]."""
    synchro_queue_max_size: int = 16 * MIB
    """Bytes in the limbo beyond which its owner lets new requests wait; 0 = unlimited [Q-46]."""
    skip_conflict: bool = False
    wal_mode: WalMode = WalMode.FSYNC
    checkpoint_interval_s: float = 3600.0
    checkpoint_count: int = 2
    memtx_memory: int = 0
    """Bytes that tuples and their indexes may need, as `Memtx.memory_used` counts them; 0 = unlimited. All
    members hold the same rows, so without it memory ends for all of them together."""
    log_level: str = "info"
    log_format: str = "json"
    http_listen: str | None = None
    fault_service: bool = False
    """Serve synchro.fault.v1; only for tests."""
    force_trust: bool = False
    """Operator's word that the local log may be trusted although it is not provably complete."""
    new_set: bool = False
    """Operator's word that the replica set which the identity file names is gone: make, or join, another."""
    again: str = ""
    """Command that starts this instance again, for people; "" = unknown, it runs inside another program."""
    is_foreground: bool = True
    """It must be stopped first then."""
    limits: Limits = field(default_factory=Limits)

    def read_quorum(self, members: int) -> int:
        """Instances, this one included, that must say that they know of no later owner (ADR 17).

        members: N as elections count it. Whoever is elected needs min(Q, N) votes, so among N - Q + 1
        instances is a voter of each later leader; `linearizable_quorum` may ask for more, never for fewer
        [Q-34].
        """
        members = max(1, members)
        quorum = min(self.synchro_quorum.quorum(members), members)
        return max(members - quorum + 1, min(self.linearizable_quorum.quorum(members, quorum), members))

    def again_command(self, option: str) -> str:
        """The command by which a person starts this instance with one more option, for once."""
        return f"{self.again or 'synchro serve ...'} {option}"

    def again_with(self, option: str) -> str:
        """The same in a sentence."""
        command = self.again_command(option)
        return f"stop it, then once: {command}" if self.is_foreground else command

    @property
    def death_timeout_s(self) -> float:
        """Silence after which a link, and a leader, counts as dead [A-27], [E-21]."""
        return 4 * self.replication_timeout_s

    @property
    def retry_s(self) -> float:
        return self.replication_timeout_s if self.reconnect_timeout_s is None else self.reconnect_timeout_s


# --- legal, but doubtful ----------------------------------------------------------------------------------

_HOUR_S: Final = 3600.0
_DOUBTFUL: Final[tuple[tuple[str, str, float, float, str], ...]] = (
    (
        "replication.timeout",
        "replication_timeout_s",
        0.01,
        _HOUR_S,
        "a dead link is noticed after four of them",
    ),
    ("replication.election_timeout", "election_timeout_s", 0.05, _HOUR_S, "a round of votes lasts so long"),
    ("replication.reconnect_timeout", "retry_s", 0.01, _HOUR_S, "a lost link is tried again after it"),
    ("replication.connect_timeout", "connect_timeout_s", 0.05, math.inf, "a start gives its peers so long"),
    ("replication.synchro_timeout", "synchro_timeout_s", 0.05, math.inf, "promote and demote have so long"),
    (
        "database.txn_synchro_timeout",
        "txn_synchro_timeout_s",
        0.01,
        math.inf,
        "a write waits so long for a quorum",
    ),
    ("snapshot.by.interval", "checkpoint_interval_s", 1.0, math.inf, "all data is written each time"),
)
"""(option, field, from, to, what it does)"""


def doubtful(settings: Settings) -> list[tuple[str, str]]:
    """(option, what is to be feared) for values that are legal, but may keep the instance from its work.

    Told by `config check` and in the log at each start: who set them must find the reason there.
    """
    found = []
    for option, name, low, high, what in _DOUBTFUL:
        value: float = getattr(settings, name)
        if value == 0 and name == "checkpoint_interval_s":  # 0: never by time
            continue
        if not low <= value <= high:
            word = "very short" if value < low else "very long"
            found.append((option, f"{option} = {value:g} s is {word}: {what}"))
    return found
