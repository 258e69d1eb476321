"""The sending side of replication, one `Relay` per subscriber. Rules [A-2], [A-36], [A-39].

A relay holds a cursor in the WAL, not a queue: a peer that is slow or dead costs no memory. Rows go out
byte for byte as they lie on the local disk, and only after they lie there; nearly always in the moment in
which the WAL tells of them. A task goes on where something must be waited for, or each transaction looked
at. Heartbeats and Raft messages have a task of their own, so that neither credit nor a slow file delays them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import trio

from synchro.errors import ProtocolVersion, SynchroError
from synchro.failpoints import REGISTRY, failpoint_fires
from synchro.ids import LOCAL, NOBODY, InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.raft.messages import RaftMessage
from synchro.replication.doubles import Life
from synchro.replication.pace import Pace
from synchro.replication.relay_filter import RelayFilter, TxnHead
from synchro.row import FLAG_SHARED, GROUP_LOCAL
from synchro.server.downstream import Downstream
from synchro.server.links import Links
from synchro.server.node import Node
from synchro.server.peer_messages import Accepted, Frame, Heartbeat, Hello, LinkLost, PeerAck
from synchro.server.tasks import run_until_first_error
from synchro.server.transport import RelayStream
from synchro.storage import xrow
from synchro.storage.catalog import Catalog
from synchro.storage.users import Users
from synchro.storage.wal_reader import PlainRows, WalReader
from synchro.storage.wal_tail import TailSpan
from synchro.storage.xlog import crc32c
from synchro.vclock import EMPTY_VCLOCK, Vclock

FRAMES_AT_ONCE: Final = 2
"""Then others may run: a frame has up to `relay_frame_bytes_max`."""


class Relay:
    """One stream to one subscriber.

    Y1  Nothing is sent that is not synced in the local WAL.
    Y2  Bytes of rows sent beyond the last ack stay below the subscriber's credit, one frame excepted, or one
        transaction that goes in parts.
    Y3  A frame names the persisted term; PROMOTE and DEMOTE rows go only into frames that name theirs.
    Y4  Of Raft messages only the newest waits.
    Y5  Rows that the subscriber gets from their origin are not sent, unless own rows must follow them.
    Y6  Bytes of rows on their way stay within what the link carries in half a heartbeat (`Pace`, ADR 20); of
        a subscriber that takes no parts, one transaction excepted. A part is followed by its next one.
    Y7  A subscriber of an older version is not sent what it would take for damage.
    """

    def __init__(
        self, node: Node, links: Links, downstream: Downstream, hello: Hello, stream: RelayStream
    ) -> None:
        self._node = node
        self._links = links
        self._stream = stream
        self._hello = hello
        self.peer = peer = downstream.peer
        self.peer_name = hello.name
        self.peer_uuid = hello.instance_uuid
        self._is_member = not hello.is_anonymous
        """Of an anonymous follower the core hears nothing [L-9], [M-6]."""
        self.life = Life(hello.start_id, hello.address)
        self.error: SynchroError | None = None
        """Told to the subscriber when `scope` is cancelled."""
        self.downstream = downstream
        self.scope = trio.CancelScope()
        """Cancelled when the same instance subscribes anew, or the link is cut on purpose."""
        self.ended = trio.Event()
        self._filter = RelayFilter(peer=peer, id_filter=hello.id_filter, subscriber_vclock=hello.vclock)
        self._raft: RaftMessage | None = None
        self._control_wanted = trio.Event()
        self._heartbeat_wanted = False
        self._rows_sent_since_heartbeat = False
        self._rows_term = Term(0)
        """The highest term of the PROMOTE and DEMOTE rows that were chosen to be sent."""
        self._credit = hello.credit
        self._unacked: deque[tuple[Vclock, int]] = deque()
        self._unacked_bytes = 0
        self._acked_more = trio.Event()
        self._late_ack: PeerAck | None = None
        """The newest of those that a failpoint may hold back."""
        self._late_ack_came = trio.Event()
        settings = node.settings
        self._frame_bytes_max = settings.limits.relay_frame_bytes_max
        self._pace = Pace(
            beat_s=settings.replication_timeout_s,
            window_max=settings.limits.peer_credit_bytes,
            now=trio.current_time(),
        )
        self._bytes_acked = 0
        """Bytes of rows that acks cover: the only receipts of a subscriber that takes no parts."""
        self._idle_reader: WalReader | None = None
        """The reader while it is at the end of the log and the task waits for `_more`: new rows are sent at
        once if they can be."""
        self._more = trio.Event()
        self.heard_at = trio.current_time()
        self._hearing = trio.lowlevel.ParkingLot()

    # --------------------------------------------------------------------------------- called by the node

    def send_raft(self, message: RaftMessage) -> None:
        if not self._is_member:
            return  # [E-3]
        self._raft = message
        self._control_wanted.set()

    def send_heartbeat(self) -> None:
        """At once: somebody waits for its echo [Q-62]."""
        self._heartbeat_wanted = True
        self._control_wanted.set()

    def rows_written(self) -> None:
        """There is more in the WAL; rows of our own may be behind those of others that are held back
        (Relay.Y5)."""
        reader = self._idle_reader
        if reader is not None:
            self._send_plain(reader)
            if not reader.is_at_end:
                self._idle_reader = None
                self._more.set()
        elif self._has_own_rows():
            self._acked_more.set()

    def settings_changed(self) -> None:
        """The next heartbeat goes out at once: the one that was planned may be far away."""
        self._pace.beat_changed(self._node.settings.replication_timeout_s)
        self.send_heartbeat()

    def end_with(self, error: SynchroError) -> None:
        self.error = error
        self.scope.cancel()

    async def wait_heard(self) -> None:
        """Until it says something more, or its stream ends."""
        await self._hearing.park()

    def term_changed(self) -> None:
        """A row may wait for this (Relay.Y3)."""
        self._acked_more.set()

    async def say_last(self) -> None:
        """The instance stops: what elections are told, and rows on their way, go out before the end."""
        if self._raft is not None:
            self._send_frame()
        await self._stream.wait_sent()

    # ----------------------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """Until the link is lost (`LinkLost`) or `scope` is cancelled; then it is shown as stopped [A-42].

        First comes who we are, then the Raft state and a heartbeat, then rows [M-33]."""
        node, hello, down = self._node, self._hello, self.downstream
        core = node.core
        down.acked = hello.vclock.without_local()
        last_ack = EMPTY_VCLOCK
        if self._is_member:
            last_ack = self._links.acks.subscribed(self.peer, down.acked, counts=hello.counts)
            node.wal.note_soon()
        self._send(
            Accepted(
                id=core.number,
                vclock=core.vclock.shown(),
                replicaset_uuid=node.replicaset_uuid,
                last_ack=last_ack.shown(),
                term=core.raft.shown_term,
                instance_uuid=node.uuid,
                instance_name=node.settings.instance_name,
                start_id=node.start_id,
                address=node.address,
            )
        )
        down.is_following, down.changed_at = True, trio.current_time()
        down.name, down.address = hello.name, hello.address
        down.message = down.system_message = None
        self._links.members_changed()  # it may listen where nobody knew
        peer_id = self.peer if self._is_member else NOBODY
        log = node.log.bind(component="relay", peer=hello.name, peer_id=peer_id, address=hello.address)
        log.info("relay_connected", vclock=str(hello.vclock))
        if self._is_member:
            ack = ev.Ack(hello.vclock, hello.term, 0, hello.counts, hello.quorum)
            node.late_commit.hear(
                ev.RelayConnected(
                    self.peer,
                    ack,
                    hello.takes_unnamed,
                    hello.takes_policies,
                    takes_users=hello.takes_users,
                    takes_sequences=hello.takes_sequences,
                    unwritten=hello.unwritten,
                ),
                core,
            )
            self._raft = core.raft.message()
        self._heartbeat_wanted = True
        self._control_wanted.set()
        try:
            await run_until_first_error(
                self._send_control,
                self._send_rows,
                lambda: self._stream.deliver(self._on_ack),
                self._read_late_acks,
                lambda: self._links.watch_silence(lambda: self.heard_at),
            )
        except LinkLost as error:
            down.message, down.system_message = error.message, error.system
            raise
        finally:
            self._hearing.unpark_all()
            down.is_following, down.changed_at = False, self.heard_at
            down.lag = 0.0
            if down.message is None:
                down.message = "unexpected EOF when reading from socket"
                down.system_message = "Broken pipe"
            log.info("relay_lost", message=down.message)

    def _send(self, message: Accepted | Frame) -> None:
        self.downstream.sent_at = trio.current_time()
        self._stream.send_nowait(message)

    # ----------------------------------------------------------------------------- heartbeats, elections

    async def _send_control(self) -> None:
        """Heartbeats every `replication_timeout` since the last one, while rows flow too [A-25], [L-20]."""
        node = self._node
        next_beat = trio.current_time()
        while True:
            with trio.move_on_at(next_beat):
                await self._control_wanted.wait()
            await self._stream.wait_writable()
            await node.failpoint("relay.control_delay", peer=self.peer)
            self._control_wanted = trio.Event()
            now = trio.current_time()
            beat = None
            is_due = self._heartbeat_wanted or now >= next_beat
            if is_due:
                self._heartbeat_wanted = False
                next_beat = now + node.settings.replication_timeout_s
            if is_due and not failpoint_fires("relay.no_heartbeat", peer=self.peer):
                # Of the round of reads, not of this relay: an echo of a heartbeat that was sent before a
                # reader of the round asked must not count for it.
                number = node.core.read_barrier.show()
                tm = 0.0 if self._rows_sent_since_heartbeat else self._node.clock.now()
                self._rows_sent_since_heartbeat = False
                beat = Heartbeat(number, tm, node.core.vclock.shown())
            if beat is not None or self._raft is not None:
                self._send_frame(heartbeat=beat)

    def _send_frame(
        self,
        *,
        rows: bytes = b"",
        crc: int = 0,
        tm: float = 0.0,
        heartbeat: Heartbeat | None = None,
        continues: bool = False,
    ) -> None:
        raft, self._raft = self._raft, None
        term = self._node.core.raft.shown_term
        assert not rows or term >= self._rows_term, "Relay.Y3"
        self._filter.term_sent = max(self._filter.term_sent, term)  # Relay.Y3
        self._send(
            Frame(
                term=term,
                raft=raft,
                rows=rows,
                rows_crc=crc,
                heartbeat=heartbeat,
                tm=tm,
                rows_continue=continues,
                wants_receipt=self._pace.sent(len(rows), trio.current_time()),
            )
        )

    # ------------------------------------------------------------------------------------------------ rows

    async def _send_rows(self) -> None:
        await self._node.failpoint("relay.journal_open_delay", peer=self.peer)
        reader = self._node.wal.reader(self._hello.vclock.without_local())
        try:
            while True:
                self._send_plain(reader)
                if reader.is_at_end:
                    self._more = trio.Event()
                    self._idle_reader = reader
                    await self._more.wait()
                elif (rows := self._next_plain(reader)) is None:
                    await self._send_next_run(reader)
                else:
                    await self._send_later(reader, rows)
        finally:
            self._idle_reader = None
            reader.close()

    @property
    def _frame_bytes(self) -> int:
        return min(self._frame_bytes_max, self._pace.piece)

    def _send_plain(self, reader: WalReader) -> None:
        """Without waiting: send what can go out now, a few frames at most, and pass over what the peer does
        not get."""
        for _ in range(FRAMES_AT_ONCE):
            rows = self._next_plain(reader)
            if rows is None:
                return
            wanted = self._wants(rows.run)
            if wanted is False:
                reader.accept(rows)
            elif (
                wanted is None
                or self._come_from_origin((rows.run.origin,))
                or self._unacked_bytes >= self._credit
                or not self._pace.has_room(rows.size)
                or not self._stream.writable
                or REGISTRY.armed
            ):
                return
            else:
                self._send_whole(reader, rows)

    def _next_plain(self, reader: WalReader) -> PlainRows | None:
        """Rows that need no look at each transaction (Relay.Y7)."""
        return reader.next_plain(self._frame_bytes) if self._hello.takes_unnamed else None

    async def _send_later(self, reader: WalReader, rows: PlainRows) -> None:
        """Wait for what keeps plain rows from being sent at once; when it is over they are looked at anew."""
        wanted = self._wants(rows.run)
        if wanted is None:
            await self._send_next_run(reader)
        elif wanted and self._come_from_origin((rows.run.origin,)):
            await self._wait_ack()
        else:
            await self._wait_credit()
            await self._wait_room(rows.size)
            await self._stream.wait_writable()  # in any case a chance for others to run
            await self._pass_send_points()
            if (
                self._unacked_bytes < self._credit
                and self._wants(rows.run)
                and not self._come_from_origin((rows.run.origin,))
            ):
                self._send_whole(reader, rows)

    def _send_whole(self, reader: WalReader, rows: PlainRows) -> None:
        assert self._unacked_bytes < self._credit, "Relay.Y2"
        run = rows.run
        data, crc = rows.data_and_crc
        reader.accept(rows)
        self._filter.passed(TxnHead(run.origin, run.last))
        self._send_data(data, crc, Vclock({run.origin: run.last}), reader.block_time)

    def _send_data(
        self, data: bytes, crc: int, vclock: Vclock, tm: float, *, continues: bool = False
    ) -> None:
        assert self._on_disk.covers(vclock), "Relay.Y1"
        self._rows_sent_since_heartbeat = True
        self._unacked.append((vclock, len(data)))
        self._unacked_bytes += len(data)
        self._send_frame(rows=data, crc=crc, tm=tm, continues=continues)

    async def _send_next_run(self, reader: WalReader) -> None:
        """Look at each transaction."""
        spans, data = await reader.next_run(self._frame_bytes)
        while self._come_from_origin(self._wanted_origins(spans)):
            await self._wait_ack()
        kept, vclock = await self._select(spans, data)
        if not kept:
            return
        await self._wait_credit()
        if self._hello.takes_parts:
            kept = await self._send_parts(kept, vclock, reader)
        await self._wait_room(len(kept))
        if not (self._stream.writable and reader.is_at_end):
            await self._stream.wait_writable()
        await self._pass_send_points()
        self._send_data(kept, crc32c(kept), vclock, reader.block_time)

    async def _pass_send_points(self) -> None:
        await self._node.failpoint("relay.before_send", peer=self.peer)
        await self._node.failpoint("relay.send_delay", peer=self.peer)
        await self._node.failpoint("relay.send_slow", peer=self.peer)

    async def _send_parts(self, data: bytes, vclock: Vclock, reader: WalReader) -> bytes:
        """All but the last part of a transaction that is too large for one frame; returns that part."""
        start = 0
        while len(data) - start > (size := self._frame_bytes):
            await self._wait_room(size)
            await self._stream.wait_writable()
            part = data[start : start + size]
            start += size
            self._send_data(part, crc32c(part), vclock, reader.block_time, continues=True)
        return data[start:] if start else data

    async def _wait_ack(self) -> None:
        self._acked_more = trio.Event()
        await self._acked_more.wait()

    @property
    def _on_disk(self) -> Vclock:
        return self._node.late_commit.on_disk(self._node.core)

    def _wants(self, run: TailSpan) -> bool | None:
        """Whether the peer gets this run; None: a part of it."""
        return self._filter.wants_run(run.origin, run.first, run.last)

    def _has_own_rows(self) -> bool:
        """Rows of this instance that the subscriber did not get yet."""
        core = self._node.core
        return self._on_disk.get(core.self_id) > self._filter.position.get(core.self_id, 0)

    def _wanted_origins(self, spans: Sequence[xrow.TxnSpan]) -> list[InstanceId]:
        last = {span.origin: span.lsn for span in spans}
        return [origin for origin, lsn in last.items() if self._filter.wants(TxnHead(origin, lsn))]

    def _come_from_origin(self, wanted: Sequence[InstanceId]) -> bool:
        """Relay.Y5"""
        core = self._node.core
        own_lsn = self._on_disk.get(core.self_id)
        return self._filter.comes_from_origin(wanted, own=core.self_id, own_lsn=own_lsn)

    async def _select(self, spans: Sequence[xrow.TxnSpan], data: bytes) -> tuple[bytes, Vclock]:
        """The part of a run that the peer gets, and the LSNs in it. Unchanged runs are not copied."""
        passing = self._filter
        first, newest = spans[0], spans[-1]
        if first.origin != self.peer and self._hello.takes_unnamed and _is_plain(spans, len(data)):
            # LSNs rise: the ends tell about all of it.
            head = TxnHead(newest.origin, newest.lsn)
            if not passing.wants(head):
                return b"", EMPTY_VCLOCK
            if passing.wants(TxnHead(first.origin, first.lsn)):
                passing.passed(head)
                return data, Vclock({newest.origin: newest.lsn})
        parts: list[bytes] = []
        last: dict[InstanceId, Lsn] = {}
        start = end = 0
        for span in spans:
            head = TxnHead(span.origin, span.lsn, span.term or Term(0))
            if not passing.wants(head):
                continue
            if not self._hello.takes_unnamed:
                check_readable(span, self.peer_name)  # Relay.Y7
            while passing.is_held(head):
                if self._node.core.raft.term >= head.term:
                    # The frame that carries it names the term, and the receiver handles that first.
                    passing.term_sent = self._node.core.raft.term
                    break
                await self._wait_ack()
            self._rows_term = max(self._rows_term, head.term)
            passing.passed(head)
            last[span.origin] = span.lsn
            if span.local_lsn and span.origin != LOCAL:
                parts.append(data[start:end])
                parts.append(without_local_rows(data[span.start : span.end]))
                start = end = span.end
            elif span.start == end:
                end = span.end
            else:
                parts.append(data[start:end])
                start, end = span.start, span.end
        if not parts and start == 0 and end == len(data):
            return data, Vclock(last)
        parts.append(data[start:end])
        return b"".join(parts), Vclock(last)

    async def _wait_credit(self) -> None:
        """Relay.Y2"""
        while self._unacked_bytes >= self._credit:
            await self._wait_ack()

    async def _wait_room(self, size: int) -> None:
        """Relay.Y6"""
        while not self._pace.has_room(size):
            await self._wait_ack()

    # ------------------------------------------------------------------------------------------------ acks

    def _on_ack(self, message: PeerAck) -> None:
        if self.scope.cancel_called:
            return
        self.heard_at = trio.current_time()
        if self._hearing:
            self._hearing.unpark_all()
        if REGISTRY.armed or self._late_ack is not None:
            self._late_ack = message
            self._late_ack_came.set()
        else:
            self._read_ack(message)

    async def _read_late_acks(self) -> None:
        """While a failpoint may hold them back. A newer one takes the place of those that wait, and says all
        that they said."""
        while True:
            await self._late_ack_came.wait()
            self._late_ack_came = trio.Event()
            await self._node.failpoint("relay.ack_read_delay", peer=self.peer)
            message, self._late_ack = self._late_ack, None
            if message is not None:
                self._read_ack(message)

    def _read_ack(self, message: PeerAck) -> None:
        down, ack = self.downstream, message.ack
        if self._is_member:
            self._node.core.check_term(ack.term)
        if self._links.doubles.is_suspect(self.peer_uuid):
            self._links.note_life(self.peer_uuid, self.life)
            if self.scope.cancel_called:
                return
        if message.tm:
            down.lag = max(0.0, self._node.clock.now() - message.tm)
        down.acked = ack.vclock
        if self._is_member:
            self._links.acks.acked(self.peer, ack.vclock, counts=ack.counts)
            self._node.wal.note_soon()
        self._filter.acked(ack.vclock, counts=ack.counts)
        self._credit = message.credit
        self._filter.following = message.following
        while self._unacked and ack.vclock.covers(self._unacked[0][0]):
            size = self._unacked.popleft()[1]
            self._unacked_bytes -= size
            self._bytes_acked += size
        self._pace.received(message.received if self._hello.takes_parts else self._bytes_acked, self.heard_at)
        self._acked_more.set()
        if self._is_member:
            self._node.late_commit.hear(ev.AckReceived(self.peer, ack), self._node.core)


def _is_plain(spans: Sequence[xrow.TxnSpan], size: int) -> bool:
    """Nearly every run: all of the bytes, one origin, no local rows, no PROMOTE or DEMOTE."""
    origin = spans[0].origin
    for span in spans:
        if span.origin != origin or span.term is not None or span.local_lsn:
            return False
        size -= span.end - span.start
    return size == 0


def check_readable(span: xrow.TxnSpan, name: str) -> None:
    """name: of an instance of an older version. Raises `ProtocolVersion` for what it would take for damage:
    a shared transaction in which calls have no request id (ADR 13). None is written while a member is older;
    a member that was replaced by an older version, or joins, may meet one."""
    if span.flags & FLAG_SHARED:
        raise ProtocolVersion(
            f"transaction {span.origin}:{span.lsn} has a form that the version of {name} does not read; "
            "it was not sent. Next: run the version there that the others run",
        )


def check_reads_users(users: Users, takes_users: bool, name: str) -> None:
    """name: of an instance. Raises `ProtocolVersion` for one of an older version, which could not take the
    rows of users that the set has (ADR 42)."""
    if not takes_users and not users.is_unset:
        raise ProtocolVersion(
            f"this set has users, which the version of {name} does not know; nothing was sent. Next: run the "
            "version there that the others run"
        )


def check_policies(catalog: Catalog, name: str, *, takes_policies: bool) -> None:
    """name: of who wants rows. Raises `ProtocolVersion` if it would decide conflicts otherwise than the set
    does (ADR 44): a policy is begun only while all members know them, so it was replaced, or joins."""
    if catalog.has_policies and not takes_policies:
        raise ProtocolVersion(
            f"spaces of this set have a policy for conflicts, which the version of {name} does not know; "
            "nothing was sent. Next: run the version there that the others run",
        )


def without_local_rows(data: bytes) -> bytes:
    """[A-37]: the flags move to the last row that is sent."""
    txn = xrow.decode_txns(data)[0]
    rows = [row for row in txn.rows if row.group_id != GROUP_LOCAL]
    rows[-1] = rows[-1]._replace(flags=txn.flags, request_id=txn.rows[-1].request_id)
    return xrow.encode_txn(rows).data
