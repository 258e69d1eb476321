"""The receiving side of replication: one per configured peer. Rules [A-2], [A-3], [A-10], [A-40].

An applier finds out who its peer is, subscribes to it from the own written vclock [M-49], hands what it
reads to the core and says what is on disk. It decides nothing: it classifies errors and keeps time.
"""

from __future__ import annotations

import random
from enum import StrEnum
from typing import Any, Final

import trio

from synchro.config import PeerAddress
from synchro.errors import (
    AccessDenied,
    BadCredentials,
    ConfigError,
    ConnectionToSelf,
    DecodeError,
    DiskFailed,
    DoubledIdentity,
    Expelled,
    InjectedError,
    Loading,
    LoginLimited,
    LoginQueueFull,
    PlainConnection,
    RemoteProtocolError,
    SessionEnded,
    SessionUnknown,
    SynchroError,
    UnknownReplica,
    XlogGap,
)
from synchro.failpoints import REGISTRY, failpoint_fires
from synchro.ids import NOBODY, InstanceId
from synchro.instance import events as ev
from synchro.replication.admission import check_set
from synchro.replication.catch_up import SourceState
from synchro.replication.doubles import Life, doubled_error
from synchro.server.kept_rows import STEP_BYTES_MAX, KeptRows
from synchro.server.links import Links, Upstream
from synchro.server.node import Node
from synchro.server.own_acks import OwnAcks
from synchro.server.peer_messages import Accepted, Frame, Hello, LinkLost
from synchro.server.tasks import run_until_first_error
from synchro.server.transport import Subscription
from synchro.server.upstream_log import STOP_DETAILS, UpstreamLog
from synchro.storage import xrow
from synchro.storage.xlog import crc32c
from synchro.vclock import EMPTY_VCLOCK, Vclock

TERM_DIGITS_MAX: Final = 19
"""Of a term in a text of a peer: all below 2^62 have no more."""
RECONNECT_MIN_S: Final = 0.05
RECONNECT_MAX_S: Final = 0.5
"""Until it follows for the first time: elections must not wait for a slow second attempt."""
WRONG_LOGIN: Final = (BadCredentials, LoginLimited)
"""Each try counts there as one of somebody who guesses."""
RETRIED: Final = (
    *(Loading, UnknownReplica, ConfigError, XlogGap, *WRONG_LOGIN),
    *(AccessDenied, SessionUnknown, SessionEnded, LoginQueueFull, PlainConnection),
)
"""Errors of the peer that pass by themselves, or when a person has created the user [A-40], [S-8]."""
WRONG_LOGIN_MAX_S: Final = 15.0
"""The longest pause after a login that was refused."""


class Status(StrEnum):
    """`upstream.status` [A-10]."""

    OFF = "off"
    CONNECT = "connect"
    LOADING = "loading"
    SYNC = "sync"
    FOLLOW = "follow"
    STOPPED = "stopped"
    DISCONNECTED = "disconnected"


class _FollowedElsewhere(Exception):
    """Another address of ours leads to the same instance, and is used."""


class Applier:
    """One upstream.

    U1  Rows reach the core in stream order, each transaction whole.
    U2  An ack is made at the moment it is sent: written vclock and persisted term.
    U3  Unapplied rows in memory never exceed the credit that was given.
    """

    def __init__(self, node: Node, links: Links, address: PeerAddress) -> None:
        self._node = node
        self._links = links
        self.address = address
        self._told = UpstreamLog(node.log, address)
        self.peer_id: InstanceId = NOBODY
        self.peer_uuid: str | None = None
        self._number = NOBODY
        """Of an anonymous source."""
        self.status = Status.CONNECT
        self.message: str | None = None
        self.system_message: str | None = None
        self.reason: str | None = None
        """Why the peer did not let us follow it, as in docs/errors.md."""
        self.lag: float | None = None
        """Seconds; None until a row or heartbeat came [A-20]."""
        self.life = Life("", "")
        """The life of the peer's process, as it told it when it accepted us."""
        self.heard_at = trio.current_time()
        self._has_followed = False
        self._next_at: float | None = None
        """When the next attempt begins; None: none is waited for."""
        self.has_link = False
        self._is_empty = False
        """The peer has no data: there is nothing to catch up with."""
        self._is_down = False
        """Nobody listens at its address."""
        self._refuses_members = False
        """The peer is anonymous, and we are not: it may be about to become a member [M-30]."""
        self.lacks_rows = False
        """The peer's log begins behind ours: it cannot help, before rows come from it again, or it has none
        that are not here. That it accepted a stream does not show that yet."""
        self._waits_for: Upstream | None = None
        """The applier that follows the same instance through another address; None: there is none."""
        self._scope: trio.CancelScope | None = None
        self._stopped: SynchroError | None = None
        self._reset = False
        """The stream is given up: nothing of it may reach the core any more."""
        self._is_doubled = False
        """The last attempt ended so."""
        self._asked = False
        """The peer speaks: what it says of our double is its word, not ours."""
        self._was_cut = False
        self._restart = trio.Event()
        self._ack_wanted = trio.Event()
        self._rows_wanted = trio.Event()
        self._stream: Subscription | None = None
        """While it is accepted."""
        self._kept = KeptRows(address.name, node.settings.limits)
        """What could not be handed to the core as it came."""
        self._acks = OwnAcks()
        self._is_applying = False
        """The task has rows in its hands: what comes behind them waits."""
        self._sync_until = EMPTY_VCLOCK
        """What the peer had when we subscribed."""
        self._has = EMPTY_VCLOCK
        """What it had when it said it last."""

    # --------------------------------------------------------------------------------- called by the node

    @property
    def idle(self) -> float:
        """Seconds since the last message of any kind [A-21]."""
        return trio.current_time() - self.heard_at

    @property
    def is_following(self) -> bool:
        return self.has_link and not self._reset and self.status in (Status.SYNC, Status.FOLLOW)

    @property
    def next_attempt_s(self) -> float | None:
        """Seconds until it is tried again, at the latest; None: it is tried now, or stands."""
        return None if self._next_at is None else max(0.0, self._next_at - trio.current_time())

    @property
    def is_off(self) -> bool:
        return self.status is Status.OFF

    @property
    def has(self) -> Vclock:
        """What the peer has, by what it said last and by the rows that it sent on this stream."""
        return self._has.merge(self._acks.handed)

    @property
    def source_state(self) -> SourceState:
        """[M-41]: whether we have what this source has; an address that waits for another one asks nobody."""
        if self.status in (Status.OFF, Status.STOPPED, Status.FOLLOW):
            return SourceState.SETTLED
        if self._is_empty or self._refuses_members or self._waits_for is not None:
            return SourceState.SETTLED
        if self.has_link or self.lacks_rows:
            return SourceState.SYNCING
        return SourceState.DOWN if self._is_down else SourceState.AWAY

    def facts(self) -> dict[str, Any]:
        """`box.info.replication[n].upstream` [I-13b]."""
        part: dict[str, Any] = {
            "status": self.status.value,
            "idle": self.idle,
            "peer": self.address.address,
        }
        optional = {
            "lag": self.lag,
            "message": self.message,
            "system_message": self.system_message,
            "reason": self.reason,
            "next_attempt": self.next_attempt_s,
        }
        part |= {name: value for name, value in optional.items() if value is not None}
        if self.status is Status.STOPPED and (error := self._stopped) is not None:
            told = {name: error.details[name] for name in STOP_DETAILS if name in error.details}
            part["stopped_by"] = {"reason": error.reason, **told}
        return part

    def wake_ack(self) -> None:
        """The term was persisted, or we follow others than before: tell the peer soon."""
        self._ack_wanted.set()

    def rows_written(self) -> None:
        """More rows are on disk. Who waits to hear it is told now, the others with the next heartbeat."""
        if self._acks.is_owed:
            stream = self._stream
            if stream is None or not stream.writable or REGISTRY.armed:
                self._ack_wanted.set()
            else:
                self._send_ack(stream)

    def wake_rows(self) -> None:
        """There is room in the WAL queue again."""
        if self._kept:
            self._rows_wanted.set()

    def stop(self, error: SynchroError) -> None:
        """Follow this peer no more until an operator restarts it [A-41]."""
        self._stopped = error
        self._cancel()

    def reset(self) -> None:
        """Drop the stream and subscribe again from the written vclock."""
        self._reset = True
        self._cancel()

    def rows_cut_back(self) -> None:
        """Rows were lost on their way to disk. Only who handed over such rows, or named them in its Hello,
        must ask for them again: a leader that only sends keeps its links, and with them its quorum."""
        if not self._acks.are_there(self._node.core.vclock):
            self._was_cut = True
            self.reset()

    def login_refused(self, message: str, reason: str | None) -> None:
        """See `links.Upstream`."""
        self.message, self.reason = message, reason

    def restart(self) -> None:
        """An operator's word: a stopped applier tries again, a running one reconnects."""
        self._stopped = None
        self._restart.set()
        self.reset()

    def give_up(self) -> None:
        """This is no source any more: nothing of it reaches the core from now on, and another address may
        lead to the same instance. Who runs it cancels it."""
        self.reset()
        self._release()

    def _release(self) -> None:
        upstreams = self._links.upstreams
        for uuid in [uuid for uuid, holder in upstreams.items() if holder is self]:
            del upstreams[uuid]

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    # ----------------------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """For ever; once it followed, a lost link is tried again every `reconnect_timeout` [A-28]."""
        delay = RECONNECT_MIN_S
        while True:
            if self._stopped is not None:  # also while it was not connected: rows in the core may fail then
                await self._wait_restart(self._stopped)
                delay = RECONNECT_MIN_S
            self._reset = self._is_doubled = self._asked = is_refused = is_spare = False
            try:
                with trio.CancelScope() as self._scope:
                    await self._follow_once()
            except ConnectionToSelf:
                self.status = Status.OFF
                self._links.look_if_caught_up()
                return
            except LinkLost as error:
                self._is_down = error.is_refused
                self._failed(Status.DISCONNECTED, error.message, error.system)
            except DiskFailed as error:  # the peer's: it leaves, and comes back
                self._failed(Status.DISCONNECTED, error.message)
            except RETRIED as error:
                self.lacks_rows = isinstance(error, XlogGap)
                self._failed(Status.LOADING, error.message)
                self.reason = error.reason
                is_refused = isinstance(error, WRONG_LOGIN)
            except DoubledIdentity as error:
                self._doubled(error)
            except Expelled as error:
                self._on_expelled(error)
            except _FollowedElsewhere as error:
                self._failed(Status.CONNECT, str(error))
                is_spare = True
            except SynchroError as error:
                if "is_anonymous" in error.details:
                    self._failed(Status.LOADING, error.message)
                    self.reason = error.reason
                    self._refuses_members = True
                    self._links.look_if_caught_up()
                else:
                    self._stopped = error
            finally:
                self._scope = None
                self._lost()
            if self._stopped is not None:
                continue
            delay = self._next_delay(delay, is_refused=is_refused, is_spare=is_spare)
            await self._wait_for_next(delay * random.uniform(0.5, 1.0))

    def _next_delay(self, delay: float, *, is_refused: bool, is_spare: bool) -> float:
        """Seconds until the next attempt, at the most; told, unless the stream was only begun anew, or the
        instance is followed at another address (is_spare). delay: that of the last attempt."""
        settings = self._node.settings
        if self._was_cut:
            # The disk is full: asking for the same rows at once would only be cut again.
            self._was_cut = False
            delay = longest = settings.retry_s
        elif self._is_doubled or self._waits_for is not None:
            # Asked again in time for the other end to know that we still live, or that the place is free.
            delay = longest = min(settings.retry_s, settings.replication_timeout_s)
        elif self._reset:
            return RECONNECT_MIN_S
        elif is_refused:
            delay, longest = min(delay * 2, WRONG_LOGIN_MAX_S), WRONG_LOGIN_MAX_S
        elif self._has_followed or self._refuses_members:
            delay = longest = settings.retry_s
        else:
            delay, longest = min(delay * 2, RECONNECT_MAX_S), RECONNECT_MAX_S
        if is_spare:
            return delay
        why = ": ".join(filter(None, (self.message or "the link was lost", self.system_message)))
        if elsewhere := self._links.other_address(self.address):
            why += (
                f"; it says that it listens at {elsewhere}: change the file if that is so, and read it again"
            )
        self._told.will_retry(why, longest, kind=self.reason or why)
        return delay

    async def _wait_for_next(self, seconds: float) -> None:
        self._next_at = trio.current_time() + seconds
        await self._node.pause(seconds)
        self._next_at = None

    @property
    def stopped_by(self) -> SynchroError | None:
        return self._stopped

    async def _wait_restart(self, error: SynchroError) -> None:
        self._failed(Status.STOPPED, error.message)
        self._told.stopped(error)
        self._links.look_if_caught_up()
        self._restart = trio.Event()
        await self._restart.wait()

    def _doubled(self, error: DoubledIdentity) -> None:
        """The peer has a double, or says that we have one, or we know it and subscribe to nobody."""
        node = self._node
        self._is_doubled = True
        self._failed(Status.DISCONNECTED, error.message)
        if self._asked and error.details.get("uuid") == node.uuid:
            places = [text.partition("@") for text in error.details.get("lives", "").split(",")]
            lives = [Life(start_id, address) for start_id, _, address in places if start_id]
            self._links.doubles.told(self.address.name, lives, trio.current_time())
            self._links.check_doubles()

    def _on_expelled(self, error: Expelled) -> None:
        """If it is us, and the peer may say so, there is nothing more to ask. If it is the peer, its address
        may lead to a new member one day."""
        if error.details.get("uuid") == self._node.uuid:
            told = error.details.get("queue_term", "")
            is_number = told.isdecimal() and len(told) <= TERM_DIGITS_MAX
            self._node.step(ev.ExpulsionTold(int(told) if is_number else None))
            if self._node.core.state.is_expelled:
                self._stopped = error
                self._links.members_changed()
                return
        self._failed(Status.DISCONNECTED, error.message)
        self.reason = error.reason

    def _claim(self, uuid: str) -> None:
        """Two streams of one instance would cut each other off without end: one address is used, and the
        others wait until it fails."""
        holder = self._links.upstreams.setdefault(uuid, self)
        if holder is self:
            self._waits_for = None
            return
        text = f"{self.address.address} is the same instance as {holder.address.address}, which is used"
        self._told.waits(uuid, text, is_new=self._waits_for is not holder)
        self._waits_for = holder
        raise _FollowedElsewhere(text)

    def _failed(self, status: Status, message: str, system: str | None = None) -> None:
        if self.status in (Status.FOLLOW, Status.SYNC):
            self._told.lost(message, system)
        self.status = status
        self.message = message
        self.system_message = system
        self.reason = None

    def _lost(self) -> None:
        self._stream = None
        self._is_applying = False
        self._kept.clear()
        self._acks.lost()
        if self._stopped is None:  # else an operator must act: another address leads to the same error
            self._release()
        if self.peer_id != NOBODY and self.has_link:
            self.has_link = False
            self._links.changed()
            self._node.step(ev.ApplierLost(self.peer_id))

    async def _follow_once(self) -> None:
        """One connection from dialling to its end; always ends by an exception or by cancellation."""
        node = self._node
        if self.address.name in self._links.blocked_in:
            raise LinkLost("partitioned by the fault service")
        if self._links.is_doubled and not self._links.doubles.is_told_by(self.address.name):
            raise doubled_error(
                node.uuid, self._links.lives_of(node.uuid)
            )  # no acks; who said so is asked again
        if self.status not in (Status.DISCONNECTED, Status.LOADING):
            self.status = Status.CONNECT
        self._told.connecting()
        death = node.settings.death_timeout_s
        ballot = None
        with trio.move_on_after(death):
            ballot = await node.transport.get_ballot(self.address.address)
        if ballot is None:
            raise LinkLost("timed out")
        self.heard_at = trio.current_time()
        if ballot.instance_uuid == node.uuid and ballot.start_id in ("", node.start_id):
            raise ConnectionToSelf("Connection to self")
        self._told.connected(ballot.instance_uuid)
        self.peer_uuid = ballot.instance_uuid
        self._is_empty, self._is_down = not ballot.is_booted, False
        if ballot.replicaset_uuid:
            check_set(ballot.replicaset_uuid, expected=node.replicaset_uuid)
        self._links.check_expelled(ballot.instance_uuid)
        self._links.note_life(ballot.instance_uuid, Life(ballot.start_id, ballot.address))
        if ballot.instance_uuid != node.uuid:  # a double of ours must hear of us
            self._links.check_double(ballot.instance_uuid)
        self._claim(ballot.instance_uuid)
        self._has = ballot.vclock
        await node.failpoint("applier.subscribe_delay", peer=ballot.instance_id)
        hello = self._hello()
        self._acks.asked(hello)
        async with node.transport.subscribe(self.address.address, hello) as stream:
            accepted = None
            self._asked = True
            with trio.move_on_after(death):
                accepted = await stream.receive()
            if accepted is None:
                raise LinkLost("timed out")
            if not isinstance(accepted, Accepted):
                raise RemoteProtocolError(f"{self.address.name} sent a frame before it accepted the stream")
            self._asked = False
            self._accepted(accepted)
            self._asked = True
            self._stream = stream
            await run_until_first_error(
                lambda: stream.deliver(self._on_message),
                lambda: self._send_acks(stream),
                self._apply_rows,
                lambda: self._links.watch_silence(lambda: self.heard_at),
            )

    def _hello(self) -> Hello:
        node = self._node
        core = node.core
        return Hello(
            replicaset_uuid=node.replicaset_uuid,
            instance_uuid=node.uuid,
            name=node.settings.instance_name,
            vclock=core.vclock.shown(),
            term=core.raft.shown_term,
            credit=node.settings.limits.peer_credit_bytes,
            # Who may have forgotten rows of its own wants them back [M-38].
            id_filter=frozenset({core.number} - {NOBODY}) if core.acks_count else frozenset(),
            counts=core.acks_count,
            start_id=node.start_id,
            address=node.address,
            takes_parts=True,
            takes_unnamed=True,
            takes_users=True,
            takes_policies=True,
            quorum=core.raft.membership.election_quorum,
            is_anonymous=core.is_anonymous,
            takes_sequences=True,
            unwritten=core.unwritten,
        )

    def _accepted(self, accepted: Accepted) -> None:
        node = self._node
        check_set(accepted.replicaset_uuid, expected=node.replicaset_uuid)
        node.core.check_term(accepted.term)
        self.peer_id = self._number_of(accepted)
        self.peer_uuid = accepted.instance_uuid
        self.life = Life(accepted.start_id, accepted.address)
        self._refuses_members = False
        self._links.doubles.accepted(self.address.name)
        self._links.check_doubles()
        if self._links.is_doubled:
            raise doubled_error(node.uuid, self._links.lives_of(node.uuid))
        self._acks.accepted()
        self._sync_until = self._has = accepted.vclock
        self.heard_at = trio.current_time()
        self.lag = None
        self.has_link = True
        self.status = Status.SYNC
        self._links.changed()
        self._told.subscribed(self.peer_id, self._acks.last.ack.vclock)
        following = ev.ApplierFollowing(self.peer_id, accepted.vclock, accepted.term, accepted.last_ack)
        node.late_commit.hear(following, node.core)
        self._look_if_synced()

    def _number_of(self, accepted: Accepted) -> InstanceId:
        """Its id; a source without one gets a number that it keeps here as long as this applier."""
        if accepted.id != NOBODY:
            return accepted.id
        if not self._node.core.is_anonymous:
            raise RemoteProtocolError(
                f"{self.address.name} has no id, and only anonymous instances follow it"
            )
        if self._number == NOBODY:
            self._number = self._links.new_number()
        return self._number

    def _look_if_synced(self) -> None:
        """SYNC becomes FOLLOW once all is here that the peer had when we subscribed, and what came last is no
        older than `sync_lag` [M-41]. Clocks may differ: with all that the peer has there is no lag."""
        if self.status is not Status.SYNC:
            return
        vclock = self._node.core.vclock
        is_late = (self.lag or 0.0) > self._node.settings.sync_lag_s and not vclock.covers(self._has)
        if vclock.covers(self._sync_until) and not is_late:
            self.status = Status.FOLLOW
            self.message = self.system_message = self.reason = None
            self._has_followed = True
            self.lacks_rows = False
            self._told.following(self.peer_id)
            self._links.look_if_caught_up()

    # ---------------------------------------------------------------------------------------------- frames

    @property
    def _is_given_up(self) -> bool:
        return self._reset or self._stopped is not None

    def _on_message(self, message: Accepted | Frame) -> None:
        if self._is_given_up:
            return
        self.heard_at = trio.current_time()
        if self.peer_uuid is not None and self._links.doubles.is_suspect(self.peer_uuid):
            self._links.note_life(self.peer_uuid, self.life)
            if self._is_given_up:
                return
        if not isinstance(message, Frame):
            raise RemoteProtocolError(f"{self.address.name} accepted one stream twice")
        self._on_frame(message)

    def _on_frame(self, frame: Frame) -> None:
        """All of it at once; only rows may have to wait for room, so a slow disk is not silence."""
        node = self._node
        node.core.check_term(frame.term)
        if frame.term > node.core.raft.volatile_term:  # nearly every frame names what is known
            node.step(ev.FrameTermSeen(frame.term))
        if frame.raft is not None:
            node.step(ev.PeerRaftReceived(self.peer_id, frame.raft))
        if frame.rows:
            if crc32c(frame.rows) != frame.rows_crc:
                raise LinkLost(f"checksum of a frame from {self.address.name} does not match")
            self.lacks_rows = False
            self._acks.received_bytes += len(frame.rows)
            if frame.rows_continue or self._kept.has_parts:  # the core gets whole transactions (Applier.U1)
                frame = frame._replace(rows=self._kept.joined(frame))
        if frame.wants_receipt:
            self._ack_wanted.set()
        if frame.rows:
            is_large = len(frame.rows) > STEP_BYTES_MAX
            if is_large or self._kept or self._is_applying or not node.has_wal_room or REGISTRY.armed:
                self._kept.keep(frame.rows, frame.tm)
                self._rows_wanted.set()
            else:
                self._hand_over(frame.rows, frame.tm)
        if frame.heartbeat is not None and not self._is_given_up:
            beat = frame.heartbeat
            self._acks.heard_beat(beat.vclock_sync)
            if beat.tm:
                self.lag = max(0.0, self._node.clock.now() - beat.tm)
            self._has = beat.vclock
            node.step(ev.HeartbeatReceived(self.peer_id, beat.vclock))
            self._links.note_heard(self.peer_id)
            self._ack_wanted.set()

    async def _apply_rows(self) -> None:
        """Hand over what was kept, a step at a time, as long as the WAL queue has room."""
        node = self._node
        while True:
            while not self._kept or not node.has_wal_room or self._is_given_up:
                self._rows_wanted = trio.Event()
                await self._rows_wanted.wait()
            data, tm = self._kept.take()
            self._is_applying = True
            await node.failpoint("applier.before_step", peer=self.peer_id)
            if failpoint_fires("applier.apply_fail", peer=self.peer_id):
                raise InjectedError("Error injection 'applier.apply_fail'; the rows were not applied")
            self._hand_over(data, tm)
            self._is_applying = False
            if self._kept:
                await trio.lowlevel.checkpoint()

    def _hand_over(self, data: bytes, tm: float) -> None:
        try:
            txns = xrow.decode_txns(data)
        except DecodeError as error:
            raise RemoteProtocolError(f"rows from {self.address.name}: {error.message}") from error
        if tm:
            self.lag = max(0.0, self._node.clock.now() - tm)
        self._acks.hand(txns, tm, is_syncing=self.status is Status.SYNC)
        self._node.step(ev.TxnsReceived(self.peer_id, txns))
        if self._acks.is_owed and self._acks.are_covered(self._node.core.vclock):
            self._ack_wanted.set()  # all of it came through another stream: no write will remind us

    # ------------------------------------------------------------------------------------------------ acks

    async def _send_acks(self, stream: Subscription) -> None:
        """The newest state only: an ack that was not sent yet is replaced, never queued [A-26]."""
        node = self._node
        while True:
            await self._ack_wanted.wait()
            if not stream.writable:
                await stream.wait_writable()
            await node.failpoint("applier.before_ack", peer=self.peer_id)
            if REGISTRY.armed:
                await self._pass_ack_points(stream)
            self._ack_wanted = trio.Event()
            self._send_ack(stream)

    async def _pass_ack_points(self, stream: Subscription) -> None:
        """Meanwhile the last ack is said again and again: the peer hears that we live, and nothing else."""

        async def keep_alive() -> None:
            while True:
                await trio.sleep(self._node.settings.replication_timeout_s)
                await stream.wait_writable()
                stream.send_nowait(self._acks.last._replace(tm=0.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_alive)
            await self._node.failpoint("applier.ack_delay", peer=self.peer_id)
            await self._node.failpoint("applier.ack_slow", peer=self.peer_id)
            nursery.cancel_scope.cancel()

    def _send_ack(self, stream: Subscription) -> None:
        node = self._node
        credit = node.settings.limits.peer_credit_bytes
        stream.send_nowait(self._acks.make(node.core, credit=credit, following=self._links.following))
        self._look_if_synced()
