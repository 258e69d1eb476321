"""The tree of `box.info`, and the entries of the queue [I-1]. Reading neither blocks nor steps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, overload

import trio

from synchro import logs
from synchro.ids import NOBODY, Lsn
from synchro.instance.core import Instance
from synchro.instance.pending_txn import PendingTxn
from synchro.queue.entry import LimboEntry
from synchro.row import TxnId
from synchro.server.api import QueueEntryFacts
from synchro.server.applier import Status
from synchro.vclock import Vclock

if TYPE_CHECKING:
    from synchro.server.node import Node


SAMPLE_S: Final = 0.1
"""Between two moments whose vclock is remembered: how exact `behind.seconds` is."""
SAMPLES_MAX: Final = 512
"""When there are more, every second one is forgotten: about a minute of steady writes at first."""


class Progress:
    """What was on disk when, to say how far a subscriber is behind *now*; its last ack cannot."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, Vclock]] = []

    def note(self, vclock: Vclock, now: float) -> None:
        samples = self._samples
        if samples and now - samples[-1][0] < SAMPLE_S:
            return
        vclock = vclock.without_local()
        if samples and samples[-1][1] == vclock:
            return
        samples.append((now, vclock))
        if len(samples) > SAMPLES_MAX:
            del samples[::2]

    def behind_s(self, acked: Vclock, now: float) -> float:
        """Seconds since the first rows that `acked` lacks were written here."""
        for at, vclock in self._samples:
            if not acked.covers(vclock):
                return now - at
        return now - self._samples[-1][0] if self._samples else 0.0


def version() -> str:
    try:
        return metadata.version("synchrodb")
    except metadata.PackageNotFoundError:
        return "0"


def box_info(node: Node) -> dict[str, Any]:
    """[I-2], [I-3], [I-4], [I-5], [I-6], [I-7], [I-8], [I-10], [I-12], [I-13], [I-15], [I-16]; fields of the
    core are null while loading."""
    settings = node.settings
    tree: dict[str, Any] = {
        "id": None,
        "uuid": node.uuid,
        "name": settings.instance_name,
        "lsn": -1,
        "signature": 0,
        "vclock": {},
        "ro": True,
        "ro_reason": None,
        "no_room": None,
        "waits_for": node.waits_for or None,
        "election_mode": settings.election_mode.value,
        "leader_seen": False,
        "status": "running" if node.is_ready else "loading",
        "uptime": trio.current_time() - node.started_at,
        "pid": os.getpid(),
        "version": version(),
        "listen": node.listen,
        "logs_dropped": logs.dropped(),
        "replicaset": {"uuid": node.replicaset_uuid or None, "name": settings.replicaset_name},
        "replication": {},
        "election": None,
        "synchro": None,
        "memtx": None,
        "amnesia": None,
    }
    if not node.has_core:
        return tree
    core = node.core
    now = trio.current_time()
    reason = core.read_only_reason()
    vclock = core.vclock
    tree |= {
        "id": int(core.self_id),
        "lsn": int(vclock.get(core.self_id)),
        "signature": vclock.signature,
        "vclock": {int(i): int(lsn) for i, lsn in vclock},
        "ro": reason is not None,
        "ro_reason": reason,
        "no_room": None if core.state.no_room is None else core.state.no_room.message,
        "leader_seen": core.raft.is_leader_seen,
        "replication": _replication(node),
        "election": _election(node),
        "synchro": synchro(core, now),
        "memtx": {"used": core.memtx.memory_used, "limit": core.memtx.memory_max or None},
        "amnesia": node.amnesia(),
    }
    return tree


def synchro(core: Instance, now: float) -> dict[str, Any]:
    """[I-25]: exactly these keys."""
    limbo = core.limbo
    return {
        "queue": {
            "owner": int(limbo.owner_id),
            "term": int(limbo.term),
            "len": limbo.count,
            "size": limbo.size,
            "busy": core.is_queue_busy,
            "age": limbo.age(now),
            "confirm_lag": limbo.confirm_lag,
        },
        "quorum": limbo.quorum,
    }


def _election(node: Node) -> dict[str, Any]:
    """[I-20]"""
    raft = node.core.raft
    tree: dict[str, Any] = {
        "state": raft.role.name.lower(),
        "term": int(raft.volatile_term),
        "vote": int(raft.volatile_vote),
        "leader": int(raft.leader),
        "leader_idle": 0.0 if raft.is_leader else node.leader_idle(),
    }
    if raft.leader != NOBODY:
        tree["leader_name"] = node.core.state.name_of(raft.leader) or None
    return tree


def _replication(node: Node) -> dict[int, Any]:
    """[I-13a..c], every registered member, this one included."""
    core = node.core
    tree: dict[int, Any] = {}
    for member, (uuid, name) in core.memtx.catalog.members().items():
        part: dict[str, Any] = {
            "id": int(member),
            "uuid": uuid,
            "name": name,
            "lsn": int(core.vclock.get(member)),
        }
        if skipped := core.state.conflicts_skipped.get(member):
            part["conflicts_skipped"] = skipped
        lives = node.lives_of(uuid)
        if lives:
            part["doubled"] = [{"start_id": life.start_id, "address": life.address} for life in lives]
        if member != core.self_id:
            upstream = _upstream(node, uuid, name)
            if upstream is not None:
                part["upstream"] = upstream
            downstream = _downstream(node, member)
            if downstream is not None:
                part["downstream"] = downstream
        tree[int(member)] = part
    return tree


def _upstream(node: Node, uuid: str, name: str | None) -> dict[str, Any] | None:
    known = [a for a in node.appliers.values() if a.peer_uuid == uuid]
    applier = next((a for a in known if a is node.upstreams.get(uuid)), known[0] if known else None)
    if applier is None:
        applier = node.appliers.get(name or "")
    if applier is None or applier.status is Status.OFF:
        return None
    part: dict[str, Any] = {
        "status": applier.status.value,
        "idle": applier.idle,
        "peer": applier.address.address,
    }
    waiting = [{"peer": a.address.address, "message": a.message} for a in known if a is not applier]
    if waiting:
        part["waiting"] = waiting
    if applier.lag is not None:
        part["lag"] = applier.lag
    if applier.message is not None:
        part["message"] = applier.message
    if applier.system_message is not None:
        part["system_message"] = applier.system_message
    if applier.reason is not None:
        part["reason"] = applier.reason
    if applier.status is Status.STOPPED and (error := applier.stopped_by) is not None:
        facts = {name: error.details[name] for name in ("txn", "at", "space", "key") if name in error.details}
        part["stopped_by"] = {"reason": error.reason, **facts}
    return part


def _downstream(node: Node, member: int) -> dict[str, Any] | None:
    down = next((d for d in node.downstreams.values() if d.peer == member), None)
    if down is None:
        return None
    vclock = node.core.vclock
    rows = sum(max(0, int(lsn) - int(down.acked.get(i))) for i, lsn in vclock if i)
    behind_s = node.progress.behind_s(down.acked, trio.current_time()) if rows else 0.0
    behind = {"rows": rows, "seconds": behind_s}
    where = {"name": down.name or None, "address": down.address or None}
    if down.is_following:
        return where | {
            "status": "follow",
            "idle": down.idle,
            "vclock": {int(i): int(lsn) for i, lsn in down.acked},
            "lag": down.lag,
            "behind": behind,
        }
    part: dict[str, Any] = where | {"status": "stopped", "message": down.message, "behind": behind}
    if down.system_message is not None:
        part["system_message"] = down.system_message
    return part


class QueueEntries(Sequence[QueueEntryFacts]):
    """Those of one moment. There may be tens of thousands: each is made when it is asked for."""

    def __init__(self, core: Instance, now: float) -> None:
        self._core = core
        self._now = now
        self._entries = core.limbo.entries
        self._count = core.limbo.count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[QueueEntryFacts]:
        return _queue_entries(self._core, self._entries, self._now)

    @overload
    def __getitem__(self, index: int) -> QueueEntryFacts: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[QueueEntryFacts]: ...
    def __getitem__(self, index: int | slice) -> QueueEntryFacts | Sequence[QueueEntryFacts]:
        return list(self)[index]


def queue_entries(core: Instance, now: float) -> Sequence[QueueEntryFacts]:
    return QueueEntries(core, now)


def _queue_entries(core: Instance, entries: Sequence[LimboEntry], now: float) -> Iterator[QueueEntryFacts]:
    for entry in entries:
        assert isinstance(entry, PendingTxn)
        txn = entry.txn
        acked = core.limbo.holders(entry.origin, entry.lsn)
        missing = core.limbo.registered - acked
        space_ids = sorted({op.space_id for op in txn.ops})
        for lsn in range(entry.lsn - entry.count + 1, entry.lsn + 1):  # as clients know them (ADR 13)
            yield QueueEntryFacts(
                txn=TxnId(entry.origin, Lsn(lsn)) if entry.is_written else None,
                space_ids=space_ids,
                rows=txn.row_count // entry.count,
                size_bytes=entry.size // entry.count,
                age_s=now - entry.submitted_at,
                acked_by=sorted(acked),
                missing=sorted(missing),
                is_sync=entry.wait_ack,
            )
