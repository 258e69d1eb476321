"""How a new instance gets all data, seen from both sides. Rules [M-20..28], [L-13], ADR 4.

Stage 1 is a snapshot of the committed prefix, stage 2 the log from there up to the decided registration.
The joiner keeps both in files of its own: first the rows as an xlog, then the snapshot. Its rename is the
moment at which the instance has data; before it, a killed join starts over. What follows is a plain
recovery, so a joiner and a restarted instance run the same code.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

import trio

from synchro.config import Settings
from synchro.errors import (
    ConfigError,
    DecodeError,
    DiskFailed,
    Loading,
    RemoteProtocolError,
    SynchroError,
)
from synchro.ids import (
    INITIAL_TERM,
    LOCAL,
    NOBODY,
    NUMBER_END,
    TERM_LEAP_MAX,
    InstanceId,
    Lsn,
    Term,
)
from synchro.instance import events as ev
from synchro.instance.recovery import recover_instance, snapshot_view
from synchro.replication.admission import (
    check_is_no_member,
    check_name,
    check_not_removed,
    check_serves_members,
    check_set,
    check_set_name,
    check_stranger,
    check_twin,
    of_another_set,
)
from synchro.replication.applier_filter import Place, check_numbers, order
from synchro.replication.bootstrap_choice import shown_name
from synchro.replication.rejoin import Known
from synchro.replication.relay_filter import RelayFilter, TxnHead
from synchro.row import Demote, Dml, Promote, RowType, Tuple, Txn
from synchro.server.directory import DataDirectory, new_salt
from synchro.server.links import JoinView, Links
from synchro.server.node import Node
from synchro.server.peer_messages import (
    JoinChunk,
    JoinEnd,
    JoinItem,
    JoinProgress,
    JoinRequest,
    JoinRows,
    JoinSnapshotEnd,
    JoinStart,
    LinkLost,
)
from synchro.server.progress import ReceivedSoFar
from synchro.server.relay import check_policies, check_readable, check_reads_users, without_local_rows
from synchro.server.transport import JoinStream, Transport
from synchro.storage import schema, xrow
from synchro.storage.journal import Journal, JournalStart
from synchro.storage.memtx import Memtx
from synchro.storage.recovery import recover_unnamed
from synchro.storage.replacement import Replacement
from synchro.storage.snapshot import (
    Chunk,
    ChunkKind,
    SnapshotAssembler,
    SnapshotMeta,
    decode_chunk,
    iter_chunks,
    write_snapshot,
)
from synchro.storage.system_rows import replaced_of
from synchro.storage.xlog import crc32c
from synchro.threads import in_thread
from synchro.vclock import Vclock

_CRC: Final = struct.Struct("<I")


# --- the side that has the data -------------------------------------------------------------------------


async def serve_join(node: Node, links: Links, request: JoinRequest) -> AsyncGenerator[JoinItem]:
    """Raises what [M-20] names. One join per UUID at a time, and `joins_max` in all."""
    node.ensure_ready()
    check_stranger(request.instance_uuid, own_uuid=node.uuid)
    check_name(request.instance_name)
    check_twin(request.instance_uuid, node.core.memtx.catalog.prepared_members())
    if request.replicaset_uuid:
        check_set(request.replicaset_uuid, expected=node.replicaset_uuid)
    else:
        check_set_name(request.replicaset_name, shown_name(node.settings), request.instance_name, "")
    if request.instance_uuid in links.joins:
        raise ConfigError("duplicate connection with the same replica UUID; the join goes on elsewhere")
    limits = node.settings.limits
    if len(links.joins) >= limits.joins_max:
        raise Loading(
            f"this instance serves {len(links.joins)} joins, which is all it serves at a time; nothing "
            "was done, the joiner tries again",
            stage="join",
            limit=limits.joins_max,
        )
    core = node.core
    is_member = False
    check_reads_users(core.memtx.catalog.users, request.takes_users, request.instance_name)
    check_policies(core.memtx.catalog, request.instance_name, takes_policies=request.takes_policies)
    members = core.memtx.catalog.members()
    if request.is_anonymous:
        links.check_expelled(request.instance_uuid)
        check_is_no_member(request.instance_uuid, core.memtx.catalog.prepared_members())
        links.followers.admit(request.instance_uuid, request.instance_name, core.vclock.without_local())
    else:
        check_serves_members(core.is_anonymous)
        is_member = (request.instance_uuid, request.instance_name) in members.values()
        if not is_member and not core.is_writable:
            raise core.read_only_error()
        check_not_removed(request.instance_uuid, core.memtx.catalog.expelled(), members, core.limbo.term)
    links.joins[request.instance_uuid] = core.vclock
    node.log.info("join_began", peer=request.instance_name, peer_uuid=request.instance_uuid)
    try:
        await node.failpoint("join.delay")
        count = checksum = 0
        with _shared_view(node, links, request) as view:
            start = view.meta.vclock
            links.joins[request.instance_uuid] = view.vclock
            tuples = sum(len(rows) for _, rows in view.spaces if isinstance(rows, Sized))
            yield JoinStart(start, node.replicaset_uuid, b"", tuples)
            frames = iter_chunks(view.meta, view.spaces, chunk_bytes_max=limits.join_chunk_bytes_max)
            while (frame := await _next_frame(links, frames)) is not None:
                crc = crc32c(frame)
                count += 1
                checksum = crc32c(_CRC.pack(crc), checksum)
                yield JoinChunk(0, frame, crc)
            yield JoinSnapshotEnd(count, checksum)
        node.log.info("join_initial_data_sent", peer=request.instance_name, frames=count)
        if request.is_anonymous:  # [M-31]; the rest comes in its stream
            links.followers.admit(request.instance_uuid, request.instance_name, start.without_local())
            yield JoinEnd(start.without_local(), NOBODY)
            return
        if is_member:  # it may have been removed meanwhile: that is not undone by its join
            links.check_expelled(request.instance_uuid)
        registered = await register(node, request.instance_uuid, request.instance_name)
        await node.failpoint("relay.final_join_delay")
        async for rows in _rows_between(node, request, start, registered.vclock):
            yield JoinRows(rows, crc32c(rows))
        yield JoinEnd(registered.vclock.without_local(), registered.id)
        node.log.info("join_final_data_sent", peer=request.instance_name, id=registered.id)
    finally:
        del links.joins[request.instance_uuid]


async def _next_frame(links: Links, frames: Iterator[bytes]) -> bytes | None:
    """None: it was the last one. All joins make theirs in turn, and take no more than `JOIN_SHARE` of the
    time from those who write and read (Share.F1)."""
    share = links.join_share
    async with links.join_turn:
        await trio.sleep(share.wait_s(trio.current_time()))
        began = trio.current_time()
        frame = await in_thread(next, frames, None)
        share.took(began, trio.current_time())
    return frame


@contextmanager
def _shared_view(node: Node, links: Links, request: JoinRequest) -> Iterator[JoinView]:
    """The log behind it is kept: by the entries in `Links.joins` of those who use it. Who joins must see in
    it that it was a member before, see `_FormerLife`."""
    now = trio.current_time()
    view, members = links.join_view, node.core.memtx.catalog.members()
    missed = _known_by(members) - (frozenset() if view is None else view.known)
    is_missed = not missed.isdisjoint((request.instance_uuid, request.instance_name))
    if view is None or is_missed or now - view.taken_at > node.settings.limits.join_view_age_s:
        # One step of the core: nothing may come between the state and the tuples.
        meta, spaces = snapshot_view(node.core, with_local=False)
        # Our vote is not its vote: who joins shows what it finds here, and candidates count it.
        shown = replace(meta, vclock=meta.vclock.without_local(), vote=NOBODY)
        view = links.join_view = JoinView(shown, spaces, meta.vclock, now, _known_by(members))
    view.users += 1
    try:
        yield view
    finally:
        view.users -= 1
        if not view.users and links.join_view is view:
            links.join_view = None


def _known_by(members: Mapping[InstanceId, tuple[str, str | None]]) -> frozenset[str | None]:
    return frozenset(one for member in members.values() for one in member)


async def register(node: Node, uuid: str, name: str, *, must_be_new: bool = False) -> ev.Registered:
    """[M-22]: wait until its row is decided. must_be_new: as in `RegisterRequested`."""
    outcome = await node.calls.call(
        lambda call_id: ev.RegisterRequested(call_id, uuid, name, must_be_new),
        timeout_s=node.settings.synchro_timeout_s,
    )
    match outcome:
        case ev.Registered():
            return outcome
        case ev.Rejected(error=error) | ev.OutcomeUnknown(error=error):
            raise error
        case _:
            raise AssertionError(f"unexpected outcome {outcome}")


async def _rows_between(
    node: Node, request: JoinRequest, start: Vclock, stop: Vclock
) -> AsyncGenerator[bytes]:
    """Whole transactions in (start, stop], without local rows."""
    passing = RelayFilter(peer=InstanceId(0), id_filter=frozenset(), subscriber_vclock=start)
    passing.term_sent = max(node.core.raft.term, node.core.raft.volatile_term)
    reader = node.wal.reader(start)
    position = start
    try:
        while not position.covers(stop):
            spans, data = await reader.next_run(node.settings.limits.relay_frame_bytes_max)
            parts: list[bytes] = []
            for span in spans:
                position = position.merge(Vclock([(span.origin, span.lsn)]))
                head = TxnHead(span.origin, span.lsn, span.term or Term(0))
                if not passing.wants(head) or span.lsn > stop.get(span.origin):
                    continue
                passing.passed(head)
                if not request.takes_unnamed:
                    check_readable(span, request.instance_name)
                txn = data[span.start : span.end]
                parts.append(without_local_rows(txn) if span.local_lsn and span.origin != LOCAL else txn)
            if parts:
                yield b"".join(parts)
    finally:
        reader.close()


# --- the side that wants it -----------------------------------------------------------------------------


class JoinStage(Enum):
    """What has come of a join."""

    BEGAN = auto()
    """The source lets us join."""
    INITIAL = auto()
    """The snapshot."""
    FINAL = auto()
    """The rows behind it, up to the own registration."""


def tell_stage(node: Node, so_far: ReceivedSoFar, stage: JoinStage) -> None:
    """The records of a join [A-64]; who receives something waits no more."""
    match stage:
        case JoinStage.BEGAN:
            node.waiting.over()
        case JoinStage.INITIAL:
            node.log.info(
                "join_initial_data_received",
                peer=so_far.source,
                message="initial data received",
                tuples=so_far.tuples,
            )
        case JoinStage.FINAL:
            node.log.info(
                "join_final_data_received",
                peer=so_far.source,
                message="final data received",
                rows=so_far.rows,
            )


@dataclass(slots=True)
class _Received:
    start: JoinStart
    meta: SnapshotMeta
    frames: list[bytes]
    txns: list[Txn]
    end: JoinEnd
    is_known_name: bool
    """It was a member before: `_FormerLife.is_known`."""


async def join(
    directory: DataDirectory,
    transport: Transport,
    so_far: ReceivedSoFar,
    beside: Replacement | None = None,
    known: Known | None = None,
    *,
    is_anonymous: bool = False,
    on_stage: Callable[[JoinStage], None] = lambda _: None,
) -> JoinEnd:
    """Get everything from `so_far.address` and keep it; how much came is counted there. Raises `LinkLost` or
    what the source answered.

    When it returns the directory has data, durably, and the identity file names the set. beside: where the
    files go as long as those of the instance count. known: what the instance must not forget by it.
    is_anonymous: without being registered [M-31]. on_stage: told each stage as it is reached.
    """
    identity, address, settings = directory.identity, so_far.address, directory.settings
    request = JoinRequest(
        identity.instance_uuid,
        identity.name,
        takes_unnamed=True,
        takes_policies=True,
        takes_users=True,
        is_anonymous=is_anonymous,
        replicaset_uuid=identity.replicaset_uuid or settings.replicaset_uuid,
        replicaset_name=shown_name(settings),
    )
    async with transport.join(address, request) as stream:
        received = await _receive(directory, stream, so_far, on_stage, is_anonymous, known is not None)
    expected, got = identity.replicaset_uuid, received.start.replicaset_uuid
    if expected is not None and got != expected:
        raise of_another_set(expected, got, says="(identity file)", found=f"from {address}")
    if identity.former_uuid == got:
        directory.set_amnesia(
            True
        )  # Also where the word of a person was not carried out: `forget_replicaset`.
    elif identity.former_uuid is not None and not received.is_known_name:
        directory.set_amnesia(False)  # It was of another set: nothing can be forgotten here.
    if known is not None:
        term, vote = known.vote_in(received.meta.term)
        received.meta = replace(received.meta, term=term, vote=vote)
    await in_thread(_store, directory, received, beside)
    directory.set_replicaset(received.start.replicaset_uuid)
    return received.end


async def _receive(
    directory: DataDirectory,
    stream: JoinStream,
    so_far: ReceivedSoFar,
    on_stage: Callable[[JoinStage], None],
    is_anonymous: bool,
    knows: bool,
) -> _Received:
    """knows: the data of this instance is there still, and says what may be forgotten."""
    settings = directory.settings
    silence_s = settings.death_timeout_s + settings.synchro_timeout_s

    async def next_item() -> JoinItem:
        while True:
            item: JoinItem | JoinProgress | None = None
            with trio.move_on_after(silence_s):
                item = await stream.receive()
            if item is None:
                raise LinkLost("timed out")
            if not isinstance(item, JoinProgress):
                return item

    start = await next_item()
    if not isinstance(start, JoinStart):
        raise RemoteProtocolError("a join did not begin with its start")
    so_far.tuples_total = start.tuples
    on_stage(JoinStage.BEGAN)
    assembler = SnapshotAssembler()
    trial = _Trial(settings)
    reached = start.vclock.as_dict()
    frames: list[bytes] = []
    txns: list[Txn] = []
    checksum = 0
    former = None if is_anonymous or knows else _FormerLife(directory)
    while True:
        match item := await next_item():
            case JoinChunk():
                if crc32c(item.data) != item.crc:
                    raise LinkLost("checksum of a part of the snapshot does not match")
                checksum = crc32c(_CRC.pack(item.crc), checksum)
                chunk = await in_thread(_checked, assembler, trial, item.data)
                if former is not None and chunk.kind is ChunkKind.TUPLES:
                    former.see_tuples(chunk.space_id, chunk.tuples)
                frames.append(item.data)
                so_far.tuples += len(chunk.tuples)
                so_far.bytes += len(item.data)
            case JoinSnapshotEnd():
                if (item.count, item.checksum) != (len(frames), checksum) or not assembler.is_done:
                    raise LinkLost("the snapshot came incomplete")
                on_stage(JoinStage.INITIAL)
            case JoinRows():
                if crc32c(item.rows) != item.crc:
                    raise LinkLost("checksum of rows does not match")
                for txn in _checked_rows(item.rows):
                    _check_next(txn, reached)
                    if former is not None:
                        former.see_row(txn)
                    txns.append(txn)
                    so_far.rows += txn.row_count
            case JoinEnd():
                if not assembler.is_done:
                    raise RemoteProtocolError("a join ended without its snapshot")
                if (item.id == NOBODY) is not is_anonymous:
                    raise RemoteProtocolError(f"a join ended with the id {item.id}; nothing was kept")
                assert assembler.meta is not None
                _check_meta(assembler.meta)
                _check_ends(start, assembler.meta, item, Vclock(reached))
                if not is_anonymous:
                    on_stage(JoinStage.FINAL)
                return _Received(
                    start, assembler.meta, frames, txns, item, former is not None and former.is_known
                )
            case _:
                raise RemoteProtocolError("a join began twice")


def _checked_rows(rows: bytes) -> list[Txn]:
    try:
        txns = xrow.decode_txns(rows)
    except DecodeError as error:
        raise RemoteProtocolError(f"bad rows in a join: {error.message}") from error
    for txn in txns:
        check_numbers(txn)
        if isinstance(txn.control, Promote | Demote):
            _check_term(txn.control.term)
    return txns


def _check_next(txn: Txn, reached: dict[InstanceId, Lsn]) -> None:
    """Each is the next of its origin, as in any other stream."""
    if order(txn, reached) is Place.OLD:
        raise RemoteProtocolError(f"a join sent {txn.origin}:{txn.lsn} again; nothing was kept")
    reached.update(txn.components())


def _check_ends(start: JoinStart, meta: SnapshotMeta, end: JoinEnd, reached: Vclock) -> None:
    """Both stages fit together and to what was said of them."""
    if start.vclock != meta.vclock:
        raise RemoteProtocolError(
            f"the snapshot of a join is at {meta.vclock}, but it began at {start.vclock}; nothing was kept"
        )
    if not reached.covers(end.vclock):
        raise RemoteProtocolError(
            f"the rows of a join end at {reached}, but it ended at {end.vclock}; nothing was kept"
        )
    if start.replicaset_uuid != meta.replicaset_uuid:
        raise RemoteProtocolError(
            f"the snapshot of a join is of replica set {meta.replicaset_uuid}, not of "
            f"{start.replicaset_uuid}; nothing was kept"
        )


def _check_term(term: int) -> None:
    """Who joins knows no term but the first: see `coupling.check_term`."""
    if term - INITIAL_TERM > TERM_LEAP_MAX:
        raise RemoteProtocolError(f"term {term} in a join is more than 2^32 elections; nothing was kept")


def _check_meta(meta: SnapshotMeta) -> None:
    """What a recovery from it would go on counting from. Raises `RemoteProtocolError`."""
    for term in (meta.term, meta.queue_term, *(term for _, term in meta.promote_terms)):
        _check_term(term)
    for clock in (meta.vclock, meta.confirmed_vclock):
        if any(lsn >= NUMBER_END for _, lsn in clock):
            raise RemoteProtocolError(f"vclock {clock} in a join: not all is below 2^62; nothing was kept")
    if meta.confirmed_lsn >= NUMBER_END:
        raise RemoteProtocolError(f"confirmed LSN {meta.confirmed_lsn} in a join; nothing was kept")


def _checked(assembler: SnapshotAssembler, trial: _Trial, data: bytes) -> Chunk:
    """In a worker thread."""
    try:
        chunk = assembler.add(decode_chunk(data))
    except DecodeError as error:
        raise RemoteProtocolError(f"bad part of a snapshot: {error.message}") from error
    if chunk.kind is ChunkKind.TUPLES:
        trial.add(chunk.space_id, chunk.tuples)
    return chunk


class _Trial:
    """The tuples of a snapshot as they come, put in as rows of a peer are; a recovery from it asks nothing.

    So types, formats, definitions and unique keys are judged, and a join ends with the first bad tuple.
    """

    def __init__(self, settings: Settings) -> None:
        self._memtx = Memtx(settings.limits)
        self._memtx.begin_bulk()
        self._space_id = 0
        self._count = 0

    def add(self, space_id: int, tuples: Sequence[Tuple]) -> None:
        """Raises `RemoteProtocolError`: space, key and number of the tuple."""
        if space_id < self._space_id:
            raise RemoteProtocolError(
                f"tuple {self._count + 1} of a snapshot, of space {space_id}, comes behind those of space "
                f"{self._space_id}; nothing was kept"
            )
        self._space_id = space_id
        if space_id == schema.TRUNCATE_ID:
            # Of a space that was dropped row by row its row may be left; it means nothing any more.
            known = {space.id for space in self._memtx.catalog.spaces()}
            judged = [row for row in tuples if not row or not isinstance(row[0], int) or row[0] in known]
            self._count += len(tuples) - len(judged)
            tuples = judged
        ops = [Dml(RowType.INSERT, space_id, b"", value=value) for value in tuples]
        if not ops:
            return
        try:
            if space_id == schema.MARKS_ID:
                self._memtx.load(space_id, tuples)
            else:
                self._memtx.commit(self._memtx.prepare(ops, from_peer=True))
        except SynchroError as error:
            at = min(int(error.details.get("op", 0)), len(ops) - 1)
            place = self._place(ops[at])
            text = ", ".join(f"{name} {value}" for name, value in place.items())
            raise RemoteProtocolError(
                f"tuple {self._count + at + 1} of a snapshot ({text}) may not be there: {error.message}; "
                "nothing was kept",
                tuple=self._count + at + 1,
                **place,
            ) from error
        self._count += len(ops)

    def _place(self, op: Dml) -> dict[str, str]:
        try:
            return self._memtx.catalog.place_of(op)
        except (LookupError, TypeError):  # it has no such key
            return self._memtx.catalog.place_of(op._replace(index_id=-1))


class _FormerLife:
    """Whether the set had this instance before, so that what it forgot may matter (ADR 9, ADR 14).

    Its name is registered, or was until its new UUID took that place [M-25]. Or its UUID is, and that is the
    configured one: an emptied directory gets that again. Any other UUID that is registered already is that of
    a join which was killed, and acknowledged nothing."""

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._replaced: set[InstanceId] = set()
        """Ids under which somebody has the place of another one."""
        self.is_known = False

    def see_tuples(self, space_id: int, tuples: Sequence[Tuple]) -> None:
        """Of the snapshot; `_schema` comes before `_cluster`. Raises `DiskFailed`."""
        if space_id == schema.SCHEMA_ID:
            self._replaced.update(replaced_of(tuples).values())
        elif space_id == schema.CLUSTER_ID:
            self._see_members(tuples, is_own_new=False)

    def see_row(self, txn: Txn) -> None:
        """Behind the snapshot: the own row there may be of this very join. Raises `DiskFailed`."""
        if self._directory.identity.name.encode() in txn.data:  # else nearly all: they need no look
            members = [op.value for op in txn.ops if op.space_id == schema.CLUSTER_ID and op.value]
            self._see_members(members, is_own_new=True)

    def _see_members(self, members: Sequence[Tuple], *, is_own_new: bool) -> None:
        mine = self._directory.identity
        for member in members:
            if self.is_known or len(member) < 3:
                continue
            if member[1] == mine.instance_uuid:
                is_former = bool(self._directory.settings.instance_uuid) or member[0] in self._replaced
                self.is_known = is_former and not is_own_new
            else:
                self.is_known = member[2] == mine.name
            if self.is_known:
                self._directory.note_former_life()


def _store(directory: DataDirectory, received: _Received, beside: Replacement | None = None) -> None:
    """In a worker thread. The snapshot comes last: it is what makes the join complete. Recovery starts from
    it, with the queue and the term of the source, and goes on to what was reached [M-24], [M-28], [W-35]."""
    disk, settings, identity = directory.disk, directory.settings, directory.identity
    wal_dir, snapshot_dir = settings.wal_dir, settings.snapshot_dir
    if beside is not None:
        wal_dir, snapshot_dir = beside.wal_dir, beside.snapshot_dir
    start = received.start.vclock
    journal = Journal(
        disk,
        wal_dir,
        instance_uuid=identity.instance_uuid,
        new_salt=new_salt,
        start=JournalStart(vclock=start),
        limits=settings.limits,
        wall_time=time.time(),
    )  # not noted in the identity file: it counts only with the snapshot, see `DataDirectory.has_data`
    try:
        if received.txns:
            journal.append(received.txns, time.time(), has_control=True)
        journal.close_clean(time.time())
    except SynchroError:
        journal.close_files()
        raise
    write_snapshot(
        disk,
        snapshot_dir,
        received.meta,
        _with_own_member(received, directory),
        instance_uuid=identity.instance_uuid,
        judge=lambda path: _rehearse(directory, received, path, wal_dir),
    )


def _rehearse(directory: DataDirectory, received: _Received, path: str, wal_dir: str) -> None:
    """The recovery that will follow, before its snapshot counts: what ends it would end every start from now
    on. Raises `RemoteProtocolError`, also where the core meets what it takes to be impossible."""
    identity = directory.identity
    received.frames.clear()  # they lie in the file; what is made of them takes their room
    received.txns.clear()
    at = path

    def txns() -> Iterator[Txn]:
        nonlocal at
        assert found is not None
        for batch in found.batches():
            for txn in batch:
                at = f"{txn.origin}:{txn.lsn}"
                yield txn

    found = None
    try:
        found = recover_unnamed(directory.disk, path, wal_dir, identity.instance_uuid)
        instance = recover_instance(
            uuid=identity.instance_uuid,
            settings=directory.settings,
            meta=found.meta,
            spaces=found.tuples(),
            txns=txns(),
            rng=random.Random(),
            trusted=not identity.amnesia,
            now=0.0,
        )
        at = "the end"
        instance.check()
        instance.start(0.0)
        instance.check()
        if instance.memtx.catalog.replicaset_uuid() != received.start.replicaset_uuid:
            raise RemoteProtocolError("its _schema names another replica set")
    except (OSError, MemoryError, DiskFailed):
        raise
    except Exception as error:
        why = error.message if isinstance(error, SynchroError) else f"{type(error).__name__} {error}".strip()
        raise RemoteProtocolError(
            f"no instance can start from what a join sent: at {at}: {why}; nothing was kept", at=at
        ) from error
    finally:
        if found is not None:
            found.close()


def _with_own_member(received: _Received, directory: DataDirectory) -> Iterator[tuple[int, Sequence[Tuple]]]:
    """The tuples of stage 1, and the own row of `_cluster`: a recovery must know who it is before it
    replays anything. That row is decided, and replacing it once more by stage 2 changes nothing."""
    mine = (int(received.end.id), directory.identity.instance_uuid, directory.identity.name)
    for frame in received.frames:
        chunk = decode_chunk(frame)
        if chunk.kind is not ChunkKind.TUPLES:
            continue
        tuples = chunk.tuples
        if chunk.space_id == schema.CLUSTER_ID and mine[0] != NOBODY:
            tuples = sorted([*(member for member in tuples if member[0] != mine[0]), mine])
        yield chunk.space_id, tuples
