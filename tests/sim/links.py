"""The two ends of a link of the simulator: what `server/relay.py` and `server/applier.py` are for a real
process. The rows and the filter of the relays are the real ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synchro.config import FencingMode
from synchro.errors import SynchroError
from synchro.ids import InstanceId, Term
from synchro.instance import events as ev
from synchro.raft.messages import RaftMessage
from synchro.replication.relay_filter import RelayFilter, TxnHead
from synchro.row import Demote, Promote
from synchro.storage import xrow
from synchro.vclock import EMPTY_VCLOCK
from tests.sim.net import REFUSED, Accepted, Conn, Frame, Hello, Refused, SaysExpelled, SaysGap
from tests.sim.rows import shown_to_peers

if TYPE_CHECKING:
    from tests.sim.process import Process

RECONNECT_MIN_S, RECONNECT_MAX_S = 0.05, 0.5


class Relay:
    """The sending side of one subscription (`server/relay.py`)."""

    def __init__(self, process: Process, conn: Conn, hello: Hello) -> None:
        self.process = process
        self.conn = conn
        self.peer = InstanceId(conn.subscriber)
        self.is_member = conn.subscriber in process.world.machines
        """Of an anonymous follower the core hears nothing [L-9]."""
        self.filter = RelayFilter(
            peer=self.peer,
            id_filter=frozenset(map(InstanceId, hello.id_filter)),
            subscriber_vclock=hello.vclock,
        )
        self.position = 0
        self.raft: RaftMessage | None = None
        self.heartbeat_wanted = False
        self.heard_at = process.local_now
        self.is_open = True

    def start(self, hello: Hello) -> None:
        process, peer = self.process, self.peer
        process.heard_acks[peer] = process.world.now
        process.acked[peer] = hello.vclock
        if not self.is_member:
            self._start_outsider()
            return
        instance = process.instance
        last_ack = process.acks.subscribed(peer, hello.vclock, counts=hello.counts)
        losses = process.world.losses
        expected = losses.said_hello(process, peer, hello) if losses.lossy else EMPTY_VCLOCK
        vclock = process.show()
        process.world.net.send(self.conn.down, Accepted(vclock, instance.raft.term, last_ack, expected))
        ack = ev.Ack(hello.vclock, Term(hello.term), 0, hello.counts)
        process.step(
            ev.RelayConnected(peer, ack, hello.takes_unnamed, hello.takes_unnamed, unwritten=hello.unwritten)
        )
        if self.is_open:
            self.raft = process.instance.raft.message()
            self.heartbeat_wanted = True
            self._flush()
            self.pump()
            self._beat()

    def _start_outsider(self) -> None:
        process = self.process
        term = process.instance.raft.term
        process.world.net.send(self.conn.down, Accepted(process.show(), term, EMPTY_VCLOCK, EMPTY_VCLOCK))
        self.heartbeat_wanted = True
        self._flush()
        self.pump()
        self._beat()

    def _beat(self) -> None:
        """Heartbeats, and the watch over silence."""
        if not self.is_open:
            return
        process = self.process
        if process.wait_out_pause(self._beat):
            return
        settings = process.settings
        if process.local_now - self.heard_at > process.silence_s:
            self.close()
            return
        self.heartbeat_wanted = True
        self._flush()
        process.after(settings.replication_timeout_s, self._beat)

    def send_raft(self, message: RaftMessage) -> None:
        if not self.is_member:
            return
        self.raft = message
        self._flush()

    def send_heartbeat(self) -> None:
        """It carries the number of the newest round of linearizable reads [Q-62]."""
        self.heartbeat_wanted = True
        self._flush()

    def _flush(self, rows: bytes = b"") -> None:
        process = self.process
        beat = None
        if self.heartbeat_wanted:
            self.heartbeat_wanted = False
            beat = (process.instance.read_barrier.show(), process.show())
        raft, self.raft = self.raft, None
        if raft is not None:
            process.machine.shows_vote(raft)
        term = process.instance.raft.term
        self.filter.term_sent = max(self.filter.term_sent, term)
        process.world.net.send(self.conn.down, Frame(term, raft, rows, beat))

    def pump(self) -> None:
        """Send what is synced and wanted."""
        process, log = self.process, self.process.log
        held_until = process.machine.rows_held.get(self.peer, 0.0)
        if held_until > process.world.now:
            process.world.at(held_until, self.pump)
            return
        term = process.instance.raft.term
        limit = process.machine.frame_txns_max
        while self.position < len(log) and self.is_open and process.is_alive:
            parts: list[bytes] = []
            while self.position < len(log) and len(parts) < limit:
                txn = log[self.position]
                if txn.is_local:
                    self.position += 1
                    continue
                body = txn.control
                head = TxnHead(
                    txn.origin, txn.lsn, body.term if isinstance(body, Promote | Demote) else Term(0)
                )
                if self.filter.wants(head):
                    if self.filter.is_held(head):
                        if term < head.term:
                            process.world.hits["row held for its term"] += 1
                            break
                        self.filter.term_sent = term
                    self.filter.passed(head)
                    parts.append(shown_to_peers(txn))
                    if txn.has_unnamed and process.world.hosts[self.peer].is_older:
                        if self.peer not in process.instance.memtx.catalog.expelled():
                            process.world.checks.fail(
                                "Relay.Y7", f"{process.number} sends {txn} to an older one"
                            )
                        self.close()  # it has left, and its stream had a moment more
                        return
                self.position += 1
            if not parts:
                return
            self._flush(b"".join(parts))

    def on_ack(self, ack: ev.Ack) -> None:
        process = self.process
        self.heard_at = process.local_now
        process.heard_acks[self.peer] = process.world.now
        process.acked[self.peer] = ack.vclock
        self.filter.acked(ack.vclock, counts=ack.counts)
        if not self.is_member:
            return
        process.acks.acked(self.peer, ack.vclock, counts=ack.counts)
        if process.world.losses.lossy:
            process.world.losses.acked(process, self.peer, ack.vclock, counts=ack.counts)
        process.step(ev.AckReceived(self.peer, ack))

    def close(self, *, tell: bool = True) -> None:
        if not self.is_open:
            return
        self.is_open = False
        process = self.process
        self.conn.relay = None
        if tell:
            process.world.net.send(self.conn.down, REFUSED)
        if process.relays.get(self.peer) is self:
            del process.relays[self.peer]
            if self.is_member:
                process.step(ev.RelayLost(self.peer))


class Applier:
    """The receiving side (`server/applier.py`): one per peer, with reconnect."""

    def __init__(self, process: Process, peer: int) -> None:
        self.process = process
        self.peer = InstanceId(peer)
        self.conn: Conn | None = None
        self.is_accepted = False
        self.stopped: SynchroError | None = None
        self.vclock_sync = 0
        self.heard_at = 0.0
        self.delay = RECONNECT_MIN_S
        self.ack_wanted = False
        self.handed: dict[InstanceId, int] = {}
        self.epoch = 0

    def connect(self) -> None:
        process = self.process
        if not process.is_alive or self.conn is not None or self.stopped is not None:
            return
        if process.wait_out_pause(self.connect):
            return
        instance = process.instance
        if instance.state.is_expelled or self.peer in instance.memtx.catalog.expelled():
            return
        self.epoch += 1
        self.conn = conn = process.world.net.connect(process.number, self.peer)
        conn.applier = self
        self.is_accepted = False
        self.heard_at = process.local_now
        vclock = process.show()
        counts = instance.acks_count
        is_member = process.number in process.world.machines
        id_filter = frozenset({process.number}) if counts and is_member else frozenset()
        takes_unnamed = not process.machine.is_older
        hello = Hello(
            vclock,
            instance.raft.term,
            id_filter,
            counts=counts,
            takes_unnamed=takes_unnamed,
            unwritten=instance.unwritten,
        )
        process.world.net.send(conn.up, hello)
        self._watch(self.epoch)

    def _watch(self, epoch: int) -> None:
        if epoch != self.epoch or self.conn is None:
            return
        process = self.process
        if process.wait_out_pause(self._watch, epoch):
            return
        left = self.heard_at + process.silence_s - process.local_now
        if left <= 0:
            process.world.hits["link timed out"] += 1
            self.lost()
        else:
            if process.settings.election_fencing_mode is FencingMode.STRICT:
                left = min(left, process.silence_s / 2)  # it may lead by then
            process.after(left + 1e-6, self._watch, epoch)

    def on_message(self, message: Any) -> None:
        process = self.process
        conn = self.conn
        if conn is None or not process.is_alive:
            return
        if isinstance(message, Refused):
            self.lost(tell=False)
            if isinstance(message, SaysGap):
                process.gaps.add(self.peer)
            if isinstance(message, SaysExpelled):
                process.world.hits["told that it was expelled"] += 1
                process.step(ev.ExpulsionTold(message.queue_term))
                if process.instance.state.is_expelled:
                    process.world.leavers.ends(process)
            return
        self.heard_at = process.local_now
        process.heard_frames[self.peer] = process.world.now
        if isinstance(message, Accepted):
            self.is_accepted = True
            process.gaps.discard(self.peer)
            self.vclock_sync = 0
            self.handed = {}
            self.delay = RECONNECT_MIN_S
            own = process.instance.vclock
            process.step(ev.ApplierFollowing(self.peer, message.vclock, Term(message.term), message.last_ack))
            if process.world.losses.lossy:
                process.world.losses.contacted(process, message, own)
            return
        instance = process.instance
        if message.term > instance.raft.volatile_term:
            process.step(ev.FrameTermSeen(Term(message.term)))
        if message.raft is not None and process.is_alive:
            process.step(ev.PeerRaftReceived(self.peer, message.raft))
        if message.rows and self.conn is conn and process.is_alive:
            txns = xrow.decode_txns(message.rows)
            for txn in txns:
                self.handed[txn.origin] = txn.lsn
            process.step(ev.TxnsReceived(self.peer, txns))
        if message.heartbeat is not None and self.conn is conn and process.is_alive:
            sync, vclock = message.heartbeat
            self.vclock_sync = max(self.vclock_sync, sync)
            process.step(ev.HeartbeatReceived(self.peer, vclock))
            self.ack_wanted = True
        if self.ack_wanted and self.conn is conn and process.is_alive:
            self.send_ack()

    def send_ack(self) -> None:
        """Sampled now: written vclock and persisted term."""
        self.ack_wanted = False
        if self.conn is None or not self.is_accepted:
            return
        process = self.process
        instance = process.instance
        vclock = process.show()
        counts = instance.acks_count
        quorum = 0 if process.machine.is_older else instance.raft.membership.election_quorum
        ack = ev.Ack(vclock, instance.raft.term, self.vclock_sync, counts, quorum)
        process.world.net.send(self.conn.up, ack)

    def lost(self, *, tell: bool = True) -> None:
        conn = self.conn
        if conn is None:
            return
        process = self.process
        self.conn = None
        conn.applier = None
        if tell:
            process.world.net.send(conn.up, REFUSED)
        if self.is_accepted:
            self.is_accepted = False
            process.step(ev.ApplierLost(self.peer))
        if process.is_alive and self.stopped is None:
            delay = self.delay * process.rng.uniform(0.5, 1.0)
            self.delay = min(self.delay * 2, RECONNECT_MAX_S)
            process.after(delay, self.connect)

    def stop(self, error: SynchroError) -> None:
        self.stopped = error
        self.lost()
