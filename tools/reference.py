"""Make the tables in docs/errors.md and docs/configuration.md from the code. `--check`: only compare.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the rest of the page is written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from synchro.config.schema import GROUP, IGNORED, REPLICASET, ROOT, Section, leaves
from synchro.errors import ALL_ERRORS
from synchro.rpc.status import TABLE

ROOT_DIR: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT_DIR / "docs"

MEANINGS: Final = {
    "READ_ONLY": (
        "the instance does not accept writes; `ro_reason` says why",
        "send it to the leader in the hint",
    ),
    "NO_LEADER": ("no leader is known at the moment; nothing was done", "retry"),
    "LOADING": ("the instance is still starting, or stopping; `stage` says how far it is", "retry"),
    "SYNC_QUEUE_UNCLAIMED": ("a synchronous write, but nobody owns the queue", "`synchro promote`"),
    "SYNC_QUEUE_FOREIGN": ("the queue is owned by another instance", "send it to the owner in the hint"),
    "SYNC_QUEUE_FULL": (
        "too much waits for a quorum; nothing was written",
        "back off, retry; see `synchro queue`",
    ),
    "WAL_QUEUE_FULL": (
        "too much waits for the disk of the instance; nothing was written",
        "back off, retry; look at its disk",
    ),
    "SYNC_TIMEOUT": (
        "not decided in time, the text says why; the transaction stays, **outcome unknown**",
        "`synchro wait ORIGIN:LSN`",
    ),
    "SYNC_ROLLBACK": (
        "a new owner of the queue dropped the transaction; it never happened",
        "may be retried",
    ),
    "REQUEST_EXPIRED": (
        "a retry so late that its first attempt is forgotten; nothing was executed now, **outcome unknown**",
        "look at the data",
    ),
    "TRANSACTION_CONFLICT": (
        "it rested on a change that was rolled back; nothing was done",
        "may be retried",
    ),
    "WAL_IO": (
        "the log could not be written (disk full); nothing was written",
        "free space; retry elsewhere",
    ),
    "DISK": (
        "a sync failed, the process leaves; **outcome unknown** for what was on its way",
        "next endpoint",
    ),
    "QUORUM_WAIT": ("fewer registered instances than the quorum needs", "start more instances; retry"),
    "LINEARIZABLE_QUORUM": ("a linearizable read found no quorum", "retry, or read `confirmed`"),
    "INTERFERING_PROMOTE": (
        "another instance claimed the queue meanwhile",
        "look who owns it, promote again",
    ),
    "INTERFERING_ELECTIONS": ("another instance was elected meanwhile", "look who leads, promote again"),
    "OLD_TERM": ("the term has moved on", "promote again"),
    "IN_ANOTHER_PROMOTE": ("a promote or demote is running here already", "wait for it"),
    "ELECTION_DISABLED": (
        "needs elections, but `election_mode` is off, the log is not known to be complete, or terms or LSNs "
        "are used up",
        "change the configuration, or as the message says",
    ),
    "NO_ELECTION_QUORUM": ("too few instances are connected to elect", "`synchro status`"),
    "NOT_LEADER": ("only the leader may do this", "send it to the leader in the hint"),
    "TIMED_OUT": (
        "promote, demote, snapshot or barrier did not finish in time; it may still",
        "`synchro info`",
    ),
    "TUPLE_FOUND": ("a unique index has this key; both tuples are in the details", "-"),
    "SPACE_EXISTS": ("a space of this name exists", "`--if-not-exists`"),
    "INDEX_EXISTS": ("an index of this name exists", "-"),
    "NO_SUCH_SPACE": ("no space of this name", "`synchro space list`"),
    "NO_SUCH_INDEX": ("no index of this name", "`synchro space show`"),
    "FIELD_TYPE": ("a field has another type than the format or index says", "-"),
    "FIELD_MISSING": ("the tuple is too short for the format or an index", "-"),
    "WRONG_FORMAT": ("malformed msgpack, a tuple that is no array, a bad definition", "-"),
    "KEY_PART_TYPE": ("a part of the key has the wrong type", "-"),
    "EXACT_MATCH": ("the key needs all parts of the index", "-"),
    "KEY_PART_COUNT": ("the key has more parts than the index", "-"),
    "MORE_THAN_ONE_TUPLE": ("`get` found more than one tuple", "use `select`"),
    "ITERATOR_TYPE": ("the index does not support this iterator", "-"),
    "UNSUPPORTED_INDEX_FEATURE": ("the index cannot do this", "-"),
    "NO_SUCH_FIELD": ("an update names a field that the tuple does not have", "-"),
    "UPDATE_ARG_TYPE": ("an update operation got an argument of the wrong type", "-"),
    "UPDATE_SPLICE": ("a splice with wrong offsets", "-"),
    "UPDATE_INTEGER_OVERFLOW": ("the sum does not fit an integer", "-"),
    "UNKNOWN_UPDATE_OP": ("no such update operation", "-"),
    "CANT_UPDATE_PRIMARY_KEY": ("an update would change the primary key", "delete and insert"),
    "BATCH_TOO_LARGE": ("a tuple, transaction or answer over its limit", "split it, or raise the limit"),
    "MEMORY_ISSUE": (
        "the data would need more than `memtx.memory`; nothing was done",
        "delete rows, or raise the limit on all members",
    ),
    "ILLEGAL_PARAMS": ("the call itself is wrong", "-"),
    "UNSUPPORTED": ("this combination is not possible", "-"),
    "UNIMPLEMENTED": ("known and described, not built yet", "-"),
    "REPLICASET_UUID_MISMATCH": (
        "the instance or its files belong to another replica set; both UUIDs are given",
        "check addresses and directories",
    ),
    "UNKNOWN_REPLICA": ("the instance is not registered in the set (yet)", "the applier retries by itself"),
    "REPLICA_MAX": ("the set has 31 members", "-"),
    "LOCAL_INSTANCE_ID_IS_READ_ONLY": (
        "an instance does not remove or change its own row of `_cluster`",
        "-",
    ),
    "DOUBLED_IDENTITY": (
        "two live processes have one identity, as with a copied data directory; `lives` names both",
        "stop the one that is the copy, and remove its directory",
    ),
    "CONNECTION_TO_SELF": ("the address of a peer leads back to this instance", "correct the address"),
    "XLOG_GAP": (
        "the log files that the peer needs are gone",
        "remove its snapshots and logs, keep `instance.identity`, let it join again",
    ),
    "CHECKPOINT_IN_PROGRESS": ("a snapshot is being written already", "wait for it"),
    "PROTOCOL": ("a peer broke the protocol; only this stream stops", "report it, with the logs of both"),
    "PROTOCOL_VERSION": (
        "a peer speaks another version of the peer protocol; both are given, nothing was done",
        "use releases that speak the same one",
    ),
    "SPLIT_BRAIN": (
        "two histories that contradict each other met; only this stream stops",
        "decide which side is right, let the other join again",
    ),
    "CORRUPTION": (
        "a file is damaged where it was known to be whole; the instance does not start",
        "as the message says: restore the file, or join again",
    ),
    "DECODE": ("bytes that are not what they should be", "-"),
    "ALREADY_RUNNING": ("another process uses the directory or the port", "stop it, or choose another"),
    "CONFIG": ("the configuration is wrong; file, line and key are given, nothing was changed", "correct it"),
}
"""reason -> what happened, what to do next."""

KEYS: Final = {
    "credentials.users": "users and passwords; checked, not used in this release",
    "credentials.roles": "roles; checked, not used in this release",
    "grpc.listen": "where the instance listens; none: it does not",
    "grpc.advertise.peer.uri": "where peers reach it, if not at `listen`",
    "grpc.advertise.peer.login": "how peers log in to each other; not used in this release",
    "grpc.advertise.peer.password": "not used in this release",
    "grpc.tls.cert": "not used in this release",
    "grpc.tls.key": "not used in this release",
    "grpc.tls.ca": "not used in this release",
    "grpc.tls.client_auth": "not used in this release",
    "http.listen": "metrics and health; not served in this release",
    "database.dir": "log and snapshots; relative to the file",
    "database.mode": "who may write, only with `failover: off`; default rw if the instance is alone, else ro",
    "database.txn_synchro_timeout": "how long a write waits for its quorum; then: outcome unknown",
    "wal.dir": "beats `database.dir`",
    "wal.mode": "fsync: an acknowledged write is on disk; write: it may be lost with the power; none: no log",
    "wal.max_size": "a larger file is rotated",
    "wal.queue_max_size": "bytes on their way to disk; beyond it clients wait",
    "memtx.memory": "bytes that data may need, as estimated; an owner refuses more; default none",
    "snapshot.dir": "beats `database.dir`",
    "snapshot.count": "snapshots to keep",
    "snapshot.by.interval": "time between snapshots; 0: never by time",
    "replication.failover": "who decides who may write: `database.mode`, `leader`, or Raft",
    "replication.election_mode": "whether an instance may stand for election; only with `failover: election`",
    "replication.election_timeout": "how long a leader may be silent, and a round of votes last",
    "replication.election_fencing_mode": "what a leader does when it loses sight of a quorum",
    "replication.timeout": "time between heartbeats; a link is dead after four of them",
    "replication.reconnect_timeout": "between attempts to connect; default: `timeout`",
    "replication.connect_timeout": "how long a start waits for its peers",
    "replication.synchro_quorum": "instances that must hold a synchronous write; N: registered members",
    "replication.linearizable_quorum": "instances asked by a linearizable read, at least N - Q + 1; Q: "
    "`synchro_quorum`",
    "replication.synchro_timeout": "how long promote, demote and snapshot wait",
    "replication.synchro_queue_max_size": "bytes that may wait for a quorum; more waits outside; 0: no limit",
    "replication.skip_conflict": "a row of a peer whose key exists becomes a NOP, and travels on so (ADR 19)",
    "replication.bootstrap_strategy": "who creates the set: its members agree, or `bootstrap_leader`",
    "replication.peers": "replaces the addresses of the members; several sources",
    "log.format": "one JSON object a line, or text for people",
    "log.level": "the least important level that is written",
    "limits.max_waiting_calls": "calls that may wait; more are refused with SYNC_QUEUE_FULL",
    "limits.max_batch_ops": "operations of one transaction",
    "groups.G.replicasets.R.leader": "the writable instance, with `failover: manual`",
    "groups.G.replicasets.R.bootstrap_leader": "who creates the set, with `bootstrap_strategy: config`",
    "isolated": "cut this instance off: it does not listen, has no sources and is read-only",
}

DEFAULTS: Final = {
    "database.dir": "`var/lib/{{ instance_name }}`",
    "database.mode": "see left",
    "database.txn_synchro_timeout": "5",
    "wal.mode": "fsync",
    "wal.max_size": "256 MiB",
    "wal.queue_max_size": "16 MiB",
    "snapshot.count": "2",
    "snapshot.by.interval": "1h",
    "replication.failover": "off",
    "replication.election_mode": "candidate",
    "replication.election_timeout": "5",
    "replication.election_fencing_mode": "soft",
    "replication.timeout": "1",
    "replication.connect_timeout": "30",
    "replication.synchro_quorum": "N / 2 + 1",
    "replication.linearizable_quorum": "N - Q + 1",
    "replication.synchro_timeout": "5",
    "replication.synchro_queue_max_size": "16 MiB",
    "replication.skip_conflict": "false",
    "replication.bootstrap_strategy": "auto",
    "log.format": "json",
    "log.level": "info",
    "limits.max_waiting_calls": "10000",
    "limits.max_batch_ops": "1000",
    "isolated": "false",
}


def errors_table() -> Iterator[str]:
    yield "| reason | tnt | gRPC status | what happened | what to do |"
    yield "|---|---|---|---|---|"
    for cls in ALL_ERRORS:
        meaning, what_next = MEANINGS[cls.reason]
        code = TABLE[cls].code.name
        yield f"| {cls.reason} | {cls.tnt_code or '-'} | {code} | {meaning} | {what_next} |"


def keys_table() -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key, kind in _documented():
        if key in KEYS:
            shown = kind.replace("|", "\\|")
            yield f"| `{key}` | {shown} | {DEFAULTS.get(key, '-')} | {KEYS[key]} |"


def later_keys() -> Iterator[str]:
    yield ", ".join(
        f"`{key}`" for key, _ in _documented() if key not in KEYS and not key.startswith("limits.")
    )


def _documented() -> Iterator[tuple[str, str]]:
    own = Section({key: value for key, value in ROOT.keys.items() if key not in ("groups", "iproto")})
    for path, value in leaves(own):
        if value is not IGNORED:
            yield ".".join(path), value.text
    yield "credentials.users", "map: name to {password, roles}"
    yield "credentials.roles", "map: name to {roles}"
    yield "isolated", "true or false"
    for key in ("leader", "bootstrap_leader"):
        assert key in REPLICASET.keys and key not in GROUP.keys
        yield f"groups.G.replicasets.R.{key}", "name of an instance"


TABLES: Final = {
    "errors": ("errors.md", errors_table),
    "keys": ("configuration.md", keys_table),
    "later": ("configuration.md", later_keys),
}


def page(name: str) -> tuple[Path, str]:
    """The file that holds a table, and its text with the table made anew."""
    file, make = TABLES[name]
    path = DOCS / file
    text = path.read_text(encoding="utf-8")
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"{path}: no {begin.strip()} ... {end}")
    return path, f"{head}{begin}" + "".join(f"{line}\n" for line in make()) + f"{end}{tail}"


def main() -> int:
    stale = 0
    for name in TABLES:
        path, text = page(name)
        if path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv:
            print(
                f"{path}: the table {name!r} is not current. next: python tools/reference.py", file=sys.stderr
            )
            stale += 1
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
