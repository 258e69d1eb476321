"""The tree of `box.info`, and the entries of the queue [I-1]. Reading neither blocks nor steps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any, Final, overload

import trio

from synchro import logs
from synchro.config import ElectionMode
from synchro.ids import ANONYMOUS, NOBODY, InstanceId, Lsn, RequestId
from synchro.instance.core import Instance
from synchro.instance.pending_txn import PendingTxn
from synchro.queue.entry import LimboEntry
from synchro.replication.catch_up import Patience, SourceState
from synchro.replication.trust import Missing
from synchro.ro_reason import RoReason
from synchro.row import TxnId
from synchro.server.api import MissingAck, QueueEntryFacts, Undecided
from synchro.server.downstream import Downstream
from synchro.server.links import Links
from synchro.server.node import Node
from synchro.server.outrun import joins_again_in
from synchro.server.snapshotter import Snapshotter
from synchro.storage.users import GUEST_CALLER
from synchro.vclock import Vclock

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


def box_info(node: Node, links: Links, progress: Progress, snapshotter: Snapshotter) -> dict[str, Any]:
    """[I-2], [I-3], [I-4], [I-5], [I-6], [I-7], [I-8], [I-10], [I-12], [I-13], [I-15], [I-16], [I-17]; fields
    of the core are null while loading."""
    settings = node.settings
    tree: dict[str, Any] = {
        "id": None,
        "uuid": node.uuid,
        "name": settings.instance_name,
        "lsn": -1,
        "signature": 0,
        "vclock": {},
        "ro": node.ro_reason is not RoReason.NONE,
        "ro_reason": node.ro_reason.value or None,
        "no_room": None,
        "waits_for": None if node.progress.is_receiving else node.waits_for or None,
        "waiting": waiting(node, links),
        "loading": _loading(node, links),
        "ro_cfg": settings.read_only,
        "election_mode": settings.election_mode.value,
        "leader_seen": False,
        "status": node.status,
        "uptime": trio.current_time() - node.started_at,
        "pid": os.getpid(),
        "version": version(),
        "listen": node.listen,
        "logs_dropped": logs.dropped(),
        "fault_injection": settings.fault_injection,
        "config": None if node.configuration is None else node.configuration.facts(),
        "replicaset": {"uuid": node.replicaset_uuid or None, "name": settings.replicaset_name},
        "replication": {},
        "replication_anon": {"count": 0, "instances": {}},
        "is_anonymous": settings.is_anonymous,
        "gc": None,
        "expelled": {},
        "election": None,
        "synchro": None,
        "memtx": None,
        "transactions": None,
        "wal": None,
        "schema_version": None,
        "amnesia": None,
        "orphan": None,
        "own_keys": None,
        "joins_again_in": None,
        "local_tuples": None,
        "kept_files": [],
        "lost_files": snapshotter.lost_files,
        "left_out": [asdict(cut) | {"here": _shown(node.cut_at)} for cut in node.left_out],
        "users": None,
    }
    if not node.has_core:
        return tree
    core = node.core
    now = trio.current_time()
    vclock = core.vclock
    tree |= {
        "id": int(core.number),
        "lsn": int(vclock.get(core.number)),
        "is_anonymous": core.is_anonymous,
        "signature": vclock.signature,
        "vclock": {int(i): int(lsn) for i, lsn in vclock},
        "no_room": None if core.no_room is None else core.no_room.message,
        "leader_seen": core.raft.is_leader_seen,
        "replication": _replication(node, links, progress),
        "replication_anon": _replication_anon(node, links, progress),
        "gc": _gc(node, links),
        "expelled": {
            int(number): {"uuid": uuid, "name": name}
            for number, (uuid, name) in core.memtx.catalog.expelled().items()
        },
        "election": _election(node, links),
        "synchro": synchro(core, now),
        "memtx": {"used": core.memtx.memory_used, "limit": core.memtx.memory_max or None},
        "transactions": {"open": node.open_transactions.count, "bytes": node.open_transactions.bytes},
        "wal": _wal(node, snapshotter),
        "schema_version": core.memtx.catalog.schema_version,
        "amnesia": amnesia(node, links),
        "orphan": _orphan(node, links),
        "own_keys": core.memtx.own_keys,
        "joins_again_in": joins_again_in(node, links),
        "local_tuples": core.memtx.local_tuples,
        "kept_files": list(snapshotter.facts.kept_files),
        "users": _users(core),
    }
    return tree


def _loading(node: Node, links: Links) -> dict[str, Any] | None:
    """How far the start is; None: it is over."""
    if node.status != "loading":
        return None
    orphan = _orphan(node, links) if node.has_core else None
    text = node.progress.text if orphan is None else orphan["message"]
    return {"stage": node.stage, "message": text or None} | node.progress.facts()


def waiting(node: Node, links: Links) -> dict[str, Any] | None:
    """For what an instance waits that does not go on, or serve, yet; None: for nothing.

    for: a sentence; since: seconds that it has waited; next: seconds until something is tried again, None
    if it is waited for without that.
    """
    if not node.progress.is_receiving and (facts := node.waiting.facts()) is not None:
        return facts
    now, held = trio.current_time(), node.waiting
    if not node.has_core:
        text = node.progress.text or f"stage: {node.stage}"
        return {"for": f"its data ({text})", "since": now - node.started_at, "next": None}
    if held.amnesia_since is not None and (found := amnesia(node, links)) is not None:
        names = [str(one["name"]) for one in found["must_hear"]]
        since, text = held.amnesia_since, str(found["message"])
    elif (orphan := _orphan(node, links)) is not None:
        names = list(links.catch_up.waits_for)
        since, text = held.orphan_since or now, str(orphan["message"])
    else:
        return None
    attempts = [links.appliers[name].next_attempt_s for name in names if name in links.appliers]
    following = min((seconds for seconds in attempts if seconds is not None), default=None)
    return {"for": text, "since": now - since, "next": following}


def _orphan(node: Node, links: Links) -> dict[str, Any] | None:
    """With whom this instance must catch up before it writes; None: it is no orphan [M-40]."""
    if not node.core.is_orphan:
        return None
    sources = []
    for name, since in links.catch_up.waits_for.items():
        applier = links.appliers.get(name)
        facts = applier.facts() if applier is not None else {}
        said = (facts.get("message"), facts.get("system_message"))
        why = ": ".join(text for text in said if text) or None
        one = {"name": name, "status": facts.get("status"), "message": why}
        state = SourceState.AWAY if applier is None else applier.source_state
        if state in (SourceState.AWAY, SourceState.DOWN):
            away_s = trio.current_time() - since
            left_s = Patience.of(node.settings).with_one(state) - away_s
            one |= {"away": away_s, "left": max(0.0, left_s)}
        sources.append(one)
    return {"sources": sources, "message": f"it waits for {'; '.join(map(_source_text, sources))}"}


def _source_text(source: dict[str, Any]) -> str:
    if "away" not in source:
        return f"{source['name']} ({source['status']})"
    why = f": {source['message']}" if source["message"] else ""
    return f"{source['name']} (away for {source['away']:.0f} s{why}; {source['left']:.0f} s more)"


def _users(core: Instance) -> dict[str, Any]:
    """unset: nobody has said who may do what. open: whoever can connect may do everything."""
    users = core.memtx.catalog.users
    return {"unset": users.is_unset, "open": users.rights(GUEST_CALLER).has_all}


def _wal(node: Node, snapshotter: Snapshotter) -> dict[str, Any]:
    """files, bytes, oldest, kept_for: as they were looked at last, a few seconds ago. pending: transactions
    on their way to disk, which are not in `vclock` yet."""
    facts, settings = snapshotter.facts, node.settings
    return {
        "files": facts.files,
        "bytes": facts.bytes,
        "oldest": {int(i): int(lsn) for i, lsn in facts.oldest},
        "kept_for": list(facts.kept_for),
        "pending": len(node.core.state.log.in_flight),
        "since_snapshot": snapshotter.logged_bytes,
        "retention_period": settings.wal_retention_period_s,
        "cleanup_delay": settings.wal_cleanup_delay_s,
    }


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


def _election(node: Node, links: Links) -> dict[str, Any]:
    """[I-20]"""
    raft = node.core.raft
    tree: dict[str, Any] = {
        "state": raft.role.name.lower(),
        "term": int(raft.volatile_term),
        "vote": int(raft.volatile_vote),
        "leader": int(raft.leader),
        "leader_idle": 0.0 if raft.is_leader else links.leader_idle(),
    }
    if raft.exhausted is not None:
        tree["exhausted"] = raft.exhausted.message
    if raft.leader != NOBODY:
        tree["leader_name"] = node.core.state.name_of(raft.leader) or None
    return tree


def _replication(node: Node, links: Links, progress: Progress) -> dict[int, Any]:
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
        if skipped := core.conflicts_skipped.get(member):
            part["conflicts_skipped"] = skipped
            part["conflict"] = dict(core.last_skipped[member])
        lives = links.lives_of(uuid)
        if lives:
            part["doubled"] = [{"start_id": life.start_id, "address": life.address} for life in lives]
        if member != core.self_id:
            upstream = _upstream(links, uuid, name)
            if upstream is not None:
                part["upstream"] = upstream
            down = next((d for d in links.downstreams.values() if d.peer == member), None)
            if down is not None:
                part["downstream"] = _downstream(node, progress, down)
        tree[int(member)] = part
    return tree


def _replication_anon(node: Node, links: Links, progress: Progress) -> dict[str, Any]:
    """[I-14]: anonymous followers, and sources that are anonymous themselves, by UUID."""
    instances: dict[str, Any] = {}
    now = trio.current_time()
    for follower in links.followers:
        part: dict[str, Any] = {"uuid": follower.uuid, "name": follower.name}
        if follower.away_since is not None:
            part["away"] = now - follower.away_since
            part["forgotten_in"] = max(0.0, follower.away_since + node.settings.anon_ttl_s - now)
        lives = links.lives_of(follower.uuid)
        if lives:
            part["doubled"] = [{"start_id": life.start_id, "address": life.address} for life in lives]
        part["downstream"] = _downstream(node, progress, follower.downstream)
        instances[follower.uuid] = part
    count = len(instances)
    members = {uuid for uuid, _ in node.core.memtx.catalog.members().values()}
    for applier in links.appliers.values():
        uuid = applier.peer_uuid
        if uuid is not None and uuid not in members and applier.peer_id > ANONYMOUS:
            part = instances.setdefault(uuid, {"uuid": uuid, "name": applier.address.name})
            part["upstream"] = applier.facts()
    return {"count": count, "instances": instances}


def _gc(node: Node, links: Links) -> dict[str, Any]:
    """[I-18]: from where the log is here, and for whom it is kept [W-41], [W-42]. vclock of a consumer: it
    needs what is behind; None: a member that was not heard since the start, which may need everything."""
    core = node.core
    consumers: list[dict[str, Any]] = []
    for member, (uuid, name) in core.memtx.catalog.members().items():
        if member != core.self_id and member not in links.released:
            down = links.downstreams.get(member)
            is_connected = down is not None and down.is_following
            consumers.append(_consumer(uuid, name, is_connected, None if down is None else down.acked))
    for follower in links.followers:
        is_connected = follower.away_since is None
        consumers.append(
            _consumer(follower.uuid, follower.name, is_connected, follower.downstream.acked, anon=True)
        )
    oldest = node.wal.files[0].vclock
    return {"vclock": _shown(oldest), "signature": oldest.signature, "consumers": consumers}


def _consumer(
    uuid: str, name: str | None, is_connected: bool, position: Vclock | None, *, anon: bool = False
) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "is_anonymous": anon,
        "is_connected": is_connected,
        "vclock": None if position is None else _shown(position),
        "signature": None if position is None else position.signature,
    }


def _shown(vclock: Vclock) -> dict[int, int]:
    return {int(i): int(lsn) for i, lsn in vclock if i}


def _upstream(links: Links, uuid: str, name: str | None) -> dict[str, Any] | None:
    known = [a for a in links.appliers.values() if a.peer_uuid == uuid]
    applier = next((a for a in known if a is links.upstreams.get(uuid)), known[0] if known else None)
    if applier is None:
        applier = links.appliers.get(name or "")
    if applier is None or applier.is_off:
        return None
    part = applier.facts()
    waiting = [{"peer": a.address.address, "message": a.message} for a in known if a is not applier]
    return part | {"waiting": waiting} if waiting else part


def _downstream(node: Node, progress: Progress, down: Downstream) -> dict[str, Any]:
    vclock = node.core.vclock
    rows = sum(max(0, int(lsn) - int(down.acked.get(i))) for i, lsn in vclock if i)
    behind_s = progress.behind_s(down.acked, trio.current_time()) if rows else 0.0
    behind = {"rows": rows, "seconds": behind_s}
    where = {"name": down.name or None, "address": down.address or None}
    if down.is_following:
        return where | {
            "status": "follow",
            "idle": down.idle,
            "vclock": _shown(down.acked),
            "lag": down.lag,
            "behind": behind,
        }
    part: dict[str, Any] = where | {"status": "stopped", "message": down.message, "behind": behind}
    if down.system_message is not None:
        part["system_message"] = down.system_message
    return part


def amnesia(node: Node, links: Links) -> dict[str, Any] | None:
    """None: this instance trusts its log. Else of which members it waits for what, and the next
    command."""
    core = node.core
    if not core.has_amnesia or core.is_anonymous:  # who has acknowledged nothing forgot nothing
        return None
    missing = core.must_hear()
    others = [
        {"id": int(peer), "name": core.state.name_of(peer) or "", "why": why.value}
        for peer, why in missing.items()
    ]
    if not missing and not core.acks_count:  # not even the registrations of the others are left
        others = [
            {
                "id": int(applier.peer_id),
                "name": applier.address.name,
                "why": (Missing.BEHIND if applier.lacks_rows else Missing.UNHEARD).value,
            }
            for applier in links.appliers.values()
            if applier.peer_uuid != node.uuid
        ]
    command = node.settings.again_with("--force-trust")
    bare = node.settings.again_command("--force-trust")
    unheard = [str(one["name"]) for one in others if one["why"] == Missing.UNHEARD.value]
    if core.acks_count:
        text = "its log is whole again; it votes when this term is over"
        has_elections = node.settings.election_mode is not ElectionMode.OFF
        following = "wait" if has_elections else "nothing has to be done; a promote begins the next one"
    else:
        text = "its log may have lost acknowledged rows, so it does not vote; "
        text += (
            "it must hear " + ", ".join(f"{one['name']} ({one['why']})" for one in others)
            if others
            else "there is no other member that could say which"
        )
        if links.is_too_old:
            by_itself = joins_again_in(node, links) is not None
            how = (
                "it joins again by itself"
                if by_itself
                else f"synchro rebootstrap {node.settings.instance_name}"
            )
            following = f"the logs of the others do not go back so far: {how}"
        elif unheard:
            following = f"start {', '.join(unheard)}; if their data is gone for good: {command}"
        elif others and all(one["why"] == Missing.BEHIND.value for one in others):
            following = "wait until it caught up" if links.appliers else _how_to_hear(node, links, others)
        else:
            following = f"a person must decide, on the member with the newest data: {command}"
    return {"must_hear": others, "message": text, "next": following, "command": bare}


def _how_to_hear(node: Node, links: Links, others: Sequence[Mapping[str, Any]]) -> str:
    """Of an instance without sources that others are ahead of: their rows do not come by themselves."""
    known = {int(peer): down.address for peer, down in links.downstreams.items()}
    sources = json.dumps([known.get(one["id"]) or f"address of {one['name']}" for one in others])
    name = node.settings.instance_name
    return (
        f"it follows nobody, so they do not come: synchro config set replication.peers '{sources}' -i {name}"
    )


class QueueEntries(Sequence[QueueEntryFacts]):
    """The entries of the queue at one moment. There may be tens of thousands: each is made when it is asked
    for."""

    def __init__(self, core: Instance, now: float, downstreams: Mapping[InstanceId, Downstream]) -> None:
        self._core = core
        self._now = now
        self._downstreams = downstreams
        self._entries = core.limbo.entries
        self._count = core.limbo.count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[QueueEntryFacts]:
        return _queue_entries(self._core, self._entries, self._now, self._downstreams)

    @overload
    def __getitem__(self, index: int) -> QueueEntryFacts: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[QueueEntryFacts]: ...
    def __getitem__(self, index: int | slice) -> QueueEntryFacts | Sequence[QueueEntryFacts]:
        return list(self)[index]


def queue_entries(
    core: Instance, now: float, downstreams: Mapping[InstanceId, Downstream]
) -> Sequence[QueueEntryFacts]:
    """downstreams: what is known of those who follow this instance, by their ids."""
    return QueueEntries(core, now, downstreams)


def _missing_ack(entry: LimboEntry, down: Downstream | None, peer: InstanceId, now: float) -> MissingAck:
    """[I-27]"""
    if peer == entry.origin or (down is not None and down.is_following):
        came_at = down.changed_at if down is not None else None
        return MissingAck(peer, True, now - max(entry.submitted_at, came_at or entry.submitted_at))
    lost_at = None if down is None else down.changed_at
    return MissingAck(peer, False, None if lost_at is None else now - lost_at)


def undecided(core: Instance, txn: TxnId | None, request_id: RequestId | None) -> Undecided | None:
    """See `api.NodeApi.watch_transaction`."""
    found = core.undecided(txn, request_id)
    if found is None:
        return None
    pending, lsn = found
    is_written = pending.lsn <= core.vclock.get(pending.origin)
    name = TxnId(pending.origin, lsn) if is_written else None
    if not pending.is_queued:
        return Undecided(name, (), (), 0)
    acked = core.limbo.holders(pending.origin, pending.lsn)
    return Undecided(name, sorted(acked), sorted(core.limbo.registered - acked), core.limbo.effective_quorum)


def _queue_entries(
    core: Instance,
    entries: Sequence[LimboEntry],
    now: float,
    downstreams: Mapping[InstanceId, Downstream],
) -> Iterator[QueueEntryFacts]:
    for entry in entries:
        assert isinstance(entry, PendingTxn)
        txn = entry.txn
        acked = core.limbo.holders(entry.origin, entry.lsn)
        waits_for = [
            _missing_ack(entry, downstreams.get(peer), peer, now)
            for peer in sorted(core.limbo.registered - acked)
        ]
        space_ids = sorted({op.space_id for op in txn.ops})
        for lsn in range(entry.lsn - entry.count + 1, entry.lsn + 1):  # as clients know them (ADR 13)
            yield QueueEntryFacts(
                txn=TxnId(entry.origin, Lsn(lsn)) if entry.is_written else None,
                space_ids=space_ids,
                rows=txn.row_count // entry.count,
                size_bytes=entry.size // entry.count,
                age_s=now - entry.submitted_at,
                acked_by=sorted(acked),
                missing=waits_for,
                is_sync=entry.wait_ack,
            )
