"""Settings of one instance, and every limit with its unit and its reason. Touches no files.

An option of the configuration is declared here, once, at the field that holds its value: key, kind, ends,
meaning. `config/file.py` makes a `Settings` from YAML; tests make one from keywords. Keys are those of
Tarantool 3's configuration, fields have the unit last. Rules [C-*], [Q-30], ADR 27.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from synchro.config.credentials import Credentials
from synchro.config.logins import PeerLogins
from synchro.config.option import (
    FILE,
    KIB,
    MIB,
    UUID_TEXT,
    Bytes,
    Count,
    Flag,
    Formula,
    Seconds,
    Text,
    Word,
    option,
)
from synchro.config.quorum_formula import QuorumFormula
from synchro.ids import InstanceName

MESSAGE_ROOM: Final = 15 * MIB
"""What surely fits a message of gRPC, a frame of a snapshot and a block of the log, headers included."""
LEVELS_OF_TARANTOOL: Final = {
    "verbose": "debug",
    "warn": "warning",
    "crit": "critical",
    "fatal": "critical",
    "syserror": "error",
}

DURATION_S_MAX: Final = 365 * 24 * 3600.0
"""The longest wait that is accepted, in seconds: longer ones are mistakes of units."""
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


class ClientAuth(StrEnum):
    """Whether who connects shows a certificate that `grpc.tls.ca` signed [S-11]. request: who shows one,
    shows a good one."""

    OFF = "off"
    REQUEST = "request"
    REQUIRE = "require"


class BootstrapStrategy(StrEnum):
    """Who makes a new replica set [M-14]..[M-18]. native: Tarantool's word for what fits `failover`, which is
    auto here."""

    AUTO = "auto"
    CONFIG = "config"
    SUPERVISED = "supervised"
    NATIVE = "native"
    LEGACY = "legacy"


# --- limits -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of everything that grows. Bytes where it holds bytes; each has its own refusal.

    None may be 0: that would stop the instance. Some have narrower ends, where as little or as much as one
    likes would stop it, or the next one that must read what it wrote.
    """

    tuple_bytes_max: int = option(
        1 * MIB,
        "limits.tuple_bytes_max",
        Bytes(4 * KIB, MESSAGE_ROOM),  # rows of the system spaces must fit
        "larger tuples are refused with BATCH_TOO_LARGE: one row must fit a block of the log and a frame",
    )
    batch_ops_max: int = option(
        1000,
        "limits.max_batch_ops",
        Count(4, 10**6),  # a space comes with an index
        "operations of one transaction; it is applied in one step of the core",
        is_live=True,
    )
    txn_bytes_max: int = option(
        8 * MIB, "limits.txn_bytes_max", Bytes(4 * KIB, MESSAGE_ROOM), "rows of one transaction"
    )
    select_bytes_max: int = option(
        1 * MIB,
        "limits.select_bytes_max",
        Bytes(1, MESSAGE_ROOM),
        "one answer; the reader goes on with `after`. It is gathered in one go, a few milliseconds. Of a "
        "HASH index, which knows no `after`, 8 MiB at least",
        is_live=True,
    )
    select_tuples_max: int = option(
        10_000,
        "limits.select_tuples_max",
        Count(),
        "tuples of one answer, HASH indexes aside: small ones cost more than their bytes",
        is_live=True,
    )
    connections_max: int = option(
        10_000,
        "limits.connections_max",
        Count(64, 10**6),  # 31 peers, twice while links come again
        "connections of clients and peers together; fewer if RLIMIT_NOFILE does not allow so many",
    )
    connections_bytes_max: int = option(
        512 * MIB,
        "limits.connections_bytes_max",
        Bytes(64 * MIB),
        "what connections of clients and peers together may have lie here: unfinished requests, and answers "
        "that nobody takes. Beyond it the connection that has most is ended",
    )
    connections_per_address_max: int = option(
        10**6,
        "limits.connections_per_address_max",
        Count(2, 10**6),  # a peer comes again before its old link is gone
        "connections from one address. By default there is no such limit: behind a proxy all clients have "
        "one address",
    )
    waiting_calls_max: int = option(
        10_000,
        "limits.max_waiting_calls",
        Count(),
        "requests that wait for room in the queue, and calls that wait for their outcome; more are "
        "refused with SYNC_QUEUE_FULL",
        is_live=True,
    )
    open_transactions_max: int = option(
        1000,
        "limits.max_open_transactions",
        Count(),
        "transactions that are open at the same time; one more is refused with TRANSACTIONS_FULL",
        is_live=True,
    )
    open_transactions_bytes_max: int = option(
        64 * MIB,
        "limits.open_transactions_bytes_max",
        Bytes(64 * KIB),
        "what open transactions together hold: their changes, and the tuples that they read. Beyond it their "
        "statements are refused with TRANSACTIONS_FULL",
        is_live=True,
    )
    wal_queue_bytes_max: int = option(
        16 * MIB,
        "limits.wal_queue_bytes_max",
        Bytes(1),
        "as `wal.queue_max_size`, which beats it",
        is_live=True,
    )
    wal_block_bytes_max: int = option(
        1 * MIB,
        "limits.wal_block_bytes_max",
        Bytes(1, 32 * MIB),  # a larger block would not be read back
        "a block of the log is written with one call and checked with one CRC",
    )
    wal_lead_bytes: int = option(
        4 * MIB,
        "limits.wal_lead_bytes",
        Bytes(1, 64 * MIB),  # zeros that are written at one go
        "zero-filled, synced space ahead of the end of the log, so that a sync writes no metadata",
    )
    wal_control_reserve_bytes: int = option(
        1 * MIB,
        "limits.wal_control_reserve_bytes",
        Bytes(4 * KIB, 64 * MIB),
        "part of that space which only control rows may use when the disk is full: they must not fail",
    )
    wal_max_size: int = option(
        256 * MIB,
        "limits.wal_max_size",
        Bytes(1 * MIB),
        "as `wal.max_size`, which beats it",  # [W-12]
    )
    relay_ring_bytes: int = option(
        16 * MIB,
        "limits.relay_ring_bytes",
        Bytes(1),
        "recent synced blocks kept in memory for relays; older rows are read from the files",
    )
    relay_frame_bytes_max: int = option(
        1 * MIB, "limits.relay_frame_bytes_max", Bytes(1, MESSAGE_ROOM), "rows in one message to a peer"
    )
    joins_max: int = option(
        3,
        "limits.joins_max",
        Count(),
        "new instances that get everything at a time; further ones are told to come again. Each has a few "
        "MiB on its way, beside the view that they share",
        is_live=True,
    )
    join_calls_max: int = option(
        32,
        "limits.join_calls_max",
        Count(),
        "calls of joiners without receipts (an older version): one that stalls cannot be ended before its "
        "connection, and holds the message that it does not take",
        is_live=True,
    )
    join_view_age_s: float = option(
        60,
        "limits.join_view_age_s",
        Count(),
        "seconds: a view of the data that a join still uses is taken for another one too, up to this age; "
        "the newer one gets the rest from the log",
        is_live=True,
    )
    join_chunk_bytes_max: int = option(
        256 * KIB,
        "limits.join_chunk_bytes_max",
        Bytes(1),
        "tuples in one message of a join; what a slow link does not carry in half a heartbeat is cut further",
        is_live=True,
    )
    anonymous_max: int = option(
        64,
        "limits.anonymous_max",
        Count(1, 10_000),
        "anonymous followers that are known here, connected or away: each is a stream, and keeps log. For "
        "one more the one that is away longest is forgotten; if none is away, it is told to come again",
        is_live=True,
    )
    peer_credit_bytes: int = option(
        8 * MIB, "limits.peer_credit_bytes", Bytes(1), "bytes a relay may send beyond the last ack"
    )
    message_bytes_max: int = option(
        16 * MIB,
        "limits.message_bytes_max",
        Bytes(1),
        "one gRPC message",
        fixed="it is the same for all instances and clients, and does not change in this release",
    )
    stream_out_bytes_max: int = option(
        4 * MIB,
        "limits.stream_out_bytes_max",
        Bytes(1),
        "queued output of one stream; beyond it the stream is not read",
        fixed="it does not change in this release",
    )
    stream_in_bytes_max: int = option(
        4 * MIB,
        "limits.stream_in_bytes_max",
        Bytes(1),
        "queued input of one stream",
        fixed="it does not change in this release",
    )
    remembered_requests_max: int = option(
        1_000_000, "limits.remembered_requests_max", Count(), "request ids of decided transactions"
    )
    remembered_drops_max: int = option(
        10_000,
        "limits.remembered_drops_max",
        Count(),
        "LSN ranges of dropped or nopified transactions, for `WaitTransaction`",
    )
    tombstones_max: int = option(
        1_000_000,
        "limits.tombstones_max",
        Count(1000, 10**8),
        "deletions that are remembered until all members have them, where the last write wins, about 250 "
        "bytes each; beyond it rows of who missed the oldest are refused with TOMBSTONES_GONE",
        is_live=True,
    )
    update_ops_max: int = option(
        4000,
        "limits.update_ops_max",
        Count(),
        "operations of one update",  # [D-18]
        is_live=True,
    )
    ddl_rows_at_once: int = option(
        10_000,
        "limits.ddl_rows_at_once",
        Count(),
        "a change of definitions that must look at more tuples does so in steps: data writes wait meanwhile, "
        "all else goes on",
        is_live=True,
    )
    txn_values_max: int = option(
        1024 * KIB,
        "limits.txn_values_max",
        Count(1000),
        "fields, array elements, map keys and values of one transaction: small ones cost more than their "
        "bytes. One tuple of the largest size never has more",
        is_live=True,
    )
    turn_work_bytes_max: int = option(
        32 * MIB,
        "limits.turn_work_bytes_max",
        Bytes(1),
        "what writes of clients may touch, counted as for `txn_work_bytes_max`, before all else has its turn",
        is_live=True,
    )
    txn_work_bytes_max: int = option(
        64 * MIB,
        "limits.txn_work_bytes_max",
        Bytes(1 * MIB),  # a large tuple, changed once
        "bytes that one transaction of a client may touch, an operation counted as 4 KiB, each value of a "
        "tuple that it updates as 40, each field of a space that it defines as 2 KiB: it runs in one step of "
        "the core, a tenth to a third of a second at this limit",
        is_live=True,
    )


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
    is_named: bool = False
    """A file names the replica set and its members; False: flags, whose names nobody chose [M-5]."""
    listen: str = "127.0.0.1:0"
    peers: tuple[PeerAddress, ...] = ()
    """All configured members, this one included, in name order; empty = alone [C-12]."""
    follows_all: bool = False
    """The sources are all members [C-12], so one that joins later is followed too; False: they were named."""
    tls_cert: str = option(
        "",
        "grpc.tls.cert",
        FILE,
        "certificate of the instance, in PEM form, with those between it and its CA. With it the port speaks "
        "TLS only, and so do the connections to peers",
        default_text="no TLS",
    )
    tls_key: str = option("", "grpc.tls.key", FILE, "the key of `cert`, not encrypted", default_text="no TLS")
    tls_ca: str = option(
        "",
        "grpc.tls.ca",
        FILE,
        "whose certificates are believed, those of peers and of clients; a set of several needs it",
        default_text="none",
    )
    tls_client_auth: ClientAuth = option(
        ClientAuth.REQUIRE,
        "grpc.tls.client_auth",
        Word(tuple(ClientAuth)),
        "whether who connects shows a certificate signed by `ca`; request: who shows none is let in too",
        default_text="require with `ca`, else off",
    )
    credentials: Credentials | None = None
    """Users and roles of the set, whatever their scope in the file; None: it has none."""
    peer_logins: PeerLogins = field(default_factory=PeerLogins)
    """As whom it calls its peers."""
    instance_uuid: str = option(
        "",
        "database.instance_uuid",
        UUID_TEXT,
        "UUID of the instance; other files are refused. For one instance",  # [M-1]
        default_text="chosen at the first start",
    )
    replicaset_uuid: str = option(
        "",
        "database.replicaset_uuid",
        UUID_TEXT,
        "UUID of the replica set; another set is refused",  # [M-2]
        default_text="chosen by who creates the set",
    )
    wal_dir: str = "var/lib"
    snapshot_dir: str = "var/lib"

    read_only: bool = False
    read_only_by: str = "database.mode: ro"
    """The option that makes it so, for people."""
    election_mode: ElectionMode = ElectionMode.OFF
    election_timeout_s: float = option(
        5.0,
        "replication.election_timeout",
        Seconds(refusal="the value must be a positive number"),
        "how long a leader may be silent, and a round of votes last",
        is_live=True,
    )
    election_fencing_mode: FencingMode = option(
        FencingMode.SOFT,
        "replication.election_fencing_mode",
        Word(tuple(FencingMode)),
        "what a leader does when it loses sight of a quorum",
        is_live=True,
    )
    replication_timeout_s: float = option(
        1.0,
        "replication.timeout",
        Seconds(),
        "time between heartbeats; a link is dead after four of them",
        is_live=True,
    )
    reconnect_timeout_s: float | None = option(
        None,
        "replication.reconnect_timeout",
        Seconds(),
        "between attempts to connect",
        is_live=True,
        default_text="`replication.timeout`",
    )
    connect_timeout_s: float = option(
        30.0, "replication.connect_timeout", Seconds(), "how long a start waits for its peers", is_live=True
    )
    sync_lag_s: float = option(
        10.0,
        "replication.sync_lag",
        Seconds(),
        "how old the newest row of a source may be, here, for it to count as caught up with",  # [M-41]
        is_live=True,
    )
    sync_timeout_s: float = option(
        0.0,
        "replication.sync_timeout",
        Seconds(zero=True),
        "how long a start stays LOADING until its sources are caught up with; after that it is an orphan "
        "until they are",  # [M-42]
        is_live=True,
    )
    bootstrap_strategy: BootstrapStrategy = option(
        BootstrapStrategy.AUTO,
        "replication.bootstrap_strategy",
        Word(tuple(BootstrapStrategy)),
        "who creates the set: its members agree (auto, native, legacy), `bootstrap_leader` (config), or who "
        "is told to by `synchro bootstrap` (supervised)",
        is_live=True,
    )
    connect_quorum: int | None = option(
        None,
        "replication.connect_quorum",
        Count(0, 31),
        "instances of the set, this one included, that must be connected before it is created or joined; "
        "only with `bootstrap_strategy: legacy`",
        is_live=True,
        default_text="all",
    )
    bootstrap_leader: str | None = None
    is_anonymous: bool = option(
        False,
        "replication.anon",
        Flag(),
        "follow the set without being a member: never writable, no vote, no ack that counts, no id. From "
        "true to false while it runs it registers and becomes a member; the way back is a new directory",
        is_live=True,
    )
    autoexpel_enabled: bool = option(
        False,
        "replication.autoexpel.enabled",
        Flag(),
        "whether members that the file does not name are removed, when it is read, by the one that may write",
        is_live=True,
    )
    autoexpel_by: str | None = option(
        None,
        "replication.autoexpel.by",
        Word(("prefix",)),
        "whom that concerns: those whose names begin with `prefix`",
        is_live=True,
    )
    autoexpel_prefix: str | None = option(
        None,
        "replication.autoexpel.prefix",
        Text(),
        "how their names begin; all names of the set in the file must, too",
        is_live=True,
    )
    configured: frozenset[str] = frozenset()
    """Names of the members in the file [C-45]; live."""
    autorejoin: bool = option(
        True,
        "replication.autorejoin",
        Flag(),
        "whether an instance that lacks rows which no other member has in its log any more joins again by "
        "itself, at its start and while it runs",  # [M-35]
        is_live=True,
    )
    anon_ttl_s: float = option(
        3600.0,
        "replication.anon_ttl",
        Seconds(),
        "how long the log is kept for an anonymous follower that is away",  # [W-42]
        is_live=True,
    )
    synchro_quorum: QuorumFormula = option(
        QuorumFormula("N / 2 + 1"),
        "replication.synchro_quorum",
        Formula(),
        "instances that must hold a synchronous write before it is confirmed; N: registered members",
        is_live=True,
    )
    confirm_delay_s: float = 0.01
    """A CONFIRM waits so long for an own row to go ahead of, then it is written alone (ADR 11)."""
    linearizable_quorum: QuorumFormula = option(
        QuorumFormula("N - Q + 1", clamp=True),
        "replication.linearizable_quorum",
        Formula(with_q=True),
        "instances asked by a linearizable read; fewer than N - Q + 1 is refused; Q: `synchro_quorum`",
        is_live=True,
    )
    synchro_timeout_s: float = option(
        5.0,
        "replication.synchro_timeout",
        Seconds(refusal="the value must be greater than zero"),
        "how long promote, demote and snapshot wait",
        is_live=True,
    )
    txn_synchro_timeout_s: float = option(
        5.0,
        "database.txn_synchro_timeout",
        Seconds(),
        "how long a write waits for its quorum before its caller is told that the outcome is unknown",
        is_live=True,
    )
    txn_timeout_s: float = option(
        60.0,
        "database.txn_timeout",
        Seconds(),
        "how long a transaction of `Transact` may be open before its commit; then it is rolled back",
        is_live=True,
    )
    synchro_queue_max_size: int = option(
        16 * MIB,
        "replication.synchro_queue_max_size",
        Bytes(),
        "bytes that may wait for a quorum; beyond it new requests wait outside; 0: no limit",
        is_live=True,
    )
    skip_conflict: bool = option(
        False,
        "replication.skip_conflict",
        Flag(),
        "a row of a peer whose key exists becomes a NOP, and travels on so (ADR 19)",
        is_live=True,
    )
    wal_mode: WalMode = option(
        WalMode.FSYNC,
        "wal.mode",
        Word(tuple(WalMode)),
        "fsync: an acknowledged write is on disk; write: it may be lost with the power; none: no log",
    )
    wal_retention_period_s: float = option(
        0.0,
        "wal.retention_period",
        Seconds(zero=True),  # [W-18]
        "a closed file of the log stays for so long, even if nobody needs it, unless the disk is full",
        is_live=True,
    )
    wal_cleanup_delay_s: float = option(
        0.0,
        "wal.cleanup_delay",
        Seconds(zero=True),  # [W-43]
        "for so long after a start no file of the log is deleted. What a member lacks is kept anyway",
        is_live=True,
    )
    checkpoint_interval_s: float = option(
        3600.0,
        "snapshot.by.interval",
        Seconds(zero=True),
        "time between snapshots; 0: never by time",
        is_live=True,
    )
    checkpoint_wal_size: int = option(
        0,
        "snapshot.by.wal_size",
        Bytes(),  # [W-30]
        "bytes of the log since the last snapshot after which there is another one; 0: never by that. It "
        "begins after a rest of four times what the last one took",
        is_live=True,
    )
    checkpoint_count: int = option(2, "snapshot.count", Count(1, 10_000), "snapshots to keep", is_live=True)
    memtx_memory: int = option(
        0,
        "memtx.memory",
        Bytes(1 * MIB),
        "bytes that tuples and their indexes may need, as estimated; an owner refuses more. All members "
        "hold the same rows, so without it memory ends for all of them together",
        is_live=True,
        default_text="no limit",
    )
    log_level: str = option(
        "info",
        "log.level",
        Word(("debug", "info", "warning", "error", "critical"), LEVELS_OF_TARANTOOL),
        "the least important level that is written",
        is_live=True,
    )
    log_format: str = option(
        "json",
        "log.format",
        Word(("json", "console"), {"plain": "console"}),
        "one JSON object a line, or text for people",
    )
    log_file: str = ""
    """Absolute; "": the log goes to standard error."""
    once: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict, hash=False)
    """key -> operations that run once in the life of the set, as they stand in the file [D-25]."""
    fault_injection: bool = False
    """Serve synchro.fault.v1, and heed failpoints; only for tests."""
    force_trust: bool = False
    """Operator's word that the local log may be trusted although it is not provably complete."""
    new_set: bool = False
    """Operator's word that the replica set which the identity file names is gone: make, or join, another."""
    rejoin: bool = False
    """Operator's word that the data of another member takes the place of this instance's."""
    force_recovery: bool = False
    """Operator's word that a log which is damaged ends where the damage begins [W-22]."""
    again: str = ""
    """Command that starts this instance again, for people; "" = unknown, it runs inside another program."""
    is_foreground: bool = True
    """True: a person must stop the instance before `again` starts it; False: `synchro restart` does both."""
    limits: Limits = field(default_factory=Limits)

    def read_quorum(self, members: int, lowest: int | None = None) -> int:
        """Instances, this one included, that must say that they know of no later owner (ADR 17).

        members: N as elections count it. lowest: the smallest quorum by which one of them is elected, as far
        as they said (ADR 38); None: by that of this instance. Whoever is elected needs min(Q, N) votes, so
        among N - Q + 1 instances is a voter of each later leader; `linearizable_quorum` may ask for more. One
        that asks for fewer is refused, and if members came since it counts as this [Q-34].
        """
        members = max(1, members)
        quorum = min(self.synchro_quorum.quorum(members), members)
        asked = min(self.linearizable_asked(members), members)
        return max(members - min(quorum, lowest or quorum) + 1, asked)

    def linearizable_asked(self, members: int) -> int:
        """What `linearizable_quorum` says for so many members, be it enough or not."""
        members = max(1, members)
        return self.linearizable_quorum.quorum(members, min(self.synchro_quorum.quorum(members), members))

    def again_command(self, option: str) -> str:
        """The command by which a person starts this instance with one more option, for once."""
        return f"{self.again or 'synchro serve ...'} {option}"

    def again_with(self, option: str) -> str:
        """`again_command` as a part of a sentence."""
        command = self.again_command(option)
        return f"stop it, then once: {command}" if self.is_foreground else command

    @property
    def has_tls(self) -> bool:
        return bool(self.tls_cert)

    @property
    def client_auth(self) -> ClientAuth:
        """`tls_client_auth`, as far as there is somebody to be believed."""
        return self.tls_client_auth if self.tls_ca else ClientAuth.OFF

    @property
    def sources(self) -> tuple[PeerAddress, ...]:
        """Whom it follows; nobody if its file gives it no address: so one that runs is cut off [C-44]."""
        return self.peers if self.listen else ()

    @property
    def own_address(self) -> str:
        """Where peers reach this instance, host:port; "": nowhere, or there are none."""
        return next((peer.address for peer in self.peers if peer.name == self.instance_name), "")

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
    ("database.txn_timeout", "txn_timeout_s", 0.01, math.inf, "an open transaction has so long"),
    ("snapshot.by.interval", "checkpoint_interval_s", 1.0, math.inf, "all data is written each time"),
)
"""(option, field, from, to, what it does)"""
_FRAME_BYTES_MIN: Final = 1024
"""Smaller messages cost what a message costs, whatever is in it: a few thousand a second go to a peer."""


def doubtful(settings: Settings) -> list[tuple[str, str]]:
    """(option, what is to be feared) for values that are legal, but may keep the instance from its work.

    Told by `config check` and in the log at each start: who set them must find the reason there.
    """
    found = []
    for key, name, low, high, what in _DOUBTFUL:
        value: float = getattr(settings, name)
        if value == 0 and name == "checkpoint_interval_s":  # 0: never by time
            continue
        if not low <= value <= high:
            word = "very short" if value < low else "very long"
            found.append((key, f"{key} = {value:g} s is {word}: {what}"))
    if (size := settings.limits.relay_frame_bytes_max) < _FRAME_BYTES_MIN:
        key = "limits.relay_frame_bytes_max"
        found.append((key, f"{key} = {size} bytes is very little: a large row is on its way for seconds"))
    return found
