"""The streams of one instance with its peers: who sends to us, whom we send to, who joins, who is doubled.

A registry and nothing more: appliers and relays run themselves. It knows of them only what `Upstream` and
`RelayStream` say, so neither they nor the node need to know all of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Protocol

import trio

from synchro.config import PeerAddress, WalMode
from synchro.errors import IllegalParams, ReplicaGc, SplitBrain, SynchroError
from synchro.ids import ANONYMOUS, InstanceId
from synchro.instance import events as ev
from synchro.raft.messages import RaftMessage
from synchro.replication.admission import expelled_error
from synchro.replication.catch_up import CatchUp, Patience, SourceState
from synchro.replication.doubles import Doubles, Life, doubled_error
from synchro.replication.rejoin import seems_too_old
from synchro.replication.share import Share
from synchro.replication.silence import SilenceWatch, silence_s
from synchro.replication.trust import AckMemory
from synchro.row import Tuple, TxnId
from synchro.server.downstream import Downstream
from synchro.server.followers import Followers
from synchro.server.node import Node
from synchro.server.peer_access import may_be_member
from synchro.server.peer_messages import LinkLost
from synchro.server.relogins import Relogins
from synchro.storage.snapshot import SnapshotMeta
from synchro.storage.users import Caller, UserKind, Users
from synchro.vclock import EMPTY_VCLOCK, Vclock

JOIN_SHARE: Final = 0.5
"""Of the time of an instance, what all joins together may take to make their parts of the snapshot."""


class Upstream(Protocol):
    """One applier, as all others see it."""

    address: PeerAddress
    peer_id: InstanceId
    peer_uuid: str | None
    life: Life
    heard_at: float
    has_link: bool
    lacks_rows: bool
    message: str | None

    @property
    def is_following(self) -> bool: ...

    @property
    def stopped_by(self) -> SynchroError | None:
        """Why it follows no more until a person restarts it; None: it was not stopped since it followed."""

    @property
    def is_off(self) -> bool:
        """Whether the address of this source leads to this instance itself."""

    @property
    def source_state(self) -> SourceState: ...

    @property
    def next_attempt_s(self) -> float | None:
        """Seconds until it is tried again; None: it is tried now, or stands."""

    @property
    def has(self) -> Vclock:
        """What it surely has, by what it said last."""

    def facts(self) -> dict[str, Any]:
        """`box.info.replication[n].upstream` [I-13b]."""

    def login_refused(self, message: str, reason: str | None) -> None:
        """The stream goes on; with the login of now there would be none."""

    def wake_ack(self) -> None: ...

    def wake_rows(self) -> None: ...

    def rows_written(self) -> None: ...

    def rows_cut_back(self) -> None: ...

    def reset(self) -> None: ...

    def stop(self, error: SynchroError) -> None: ...

    def restart(self) -> None: ...


class OpenRelay(Protocol):
    """One relay, while its subscriber is connected."""

    peer_name: str
    peer_uuid: str
    life: Life
    heard_at: float
    scope: trio.CancelScope
    ended: trio.Event

    def send_raft(self, message: RaftMessage) -> None: ...

    def send_heartbeat(self) -> None: ...

    def rows_written(self) -> None: ...

    def term_changed(self) -> None: ...

    def settings_changed(self) -> None: ...

    def end_with(self, error: SynchroError) -> None: ...

    async def wait_heard(self) -> None: ...

    async def say_last(self) -> None: ...


@dataclass(slots=True)
class JoinView:
    """What stage 1 sends, for all joins that began while it was in use. vclock: with the local component.
    known: UUIDs and names of the members in it."""

    meta: SnapshotMeta
    spaces: Sequence[tuple[int, Iterable[Tuple]]]
    vclock: Vclock
    taken_at: float
    known: frozenset[str | None]
    users: int = 0


class Links:
    """What one node has of streams and of identities."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.appliers: dict[str, Upstream] = {}
        """By the name that the configuration has for the peer."""
        self.upstreams: dict[str, Upstream] = {}
        """UUID -> the applier that follows it, or tries to: one, however many addresses it has here."""
        self.relays: dict[InstanceId, OpenRelay] = {}
        self.downstreams: dict[InstanceId, Downstream] = {}
        self.callers: dict[str, Caller] = {}
        """UUID of a member -> as whom its last stream was asked for."""
        """Of members."""
        self.released: set[InstanceId] = set()
        """Members for which no log is kept, by a person's word, until they subscribe again [W-44]."""
        self._numbers = count(ANONYMOUS + 1)
        self.followers = Followers(lambda: node.settings, self.new_number)
        self.acks = AckMemory()
        """What each peer once acknowledged, kept over restarts (ADR 14)."""
        self.joins: dict[str, Vclock] = {}
        """UUID of an instance that joins now -> from where it needs the log [W-41]."""
        self.join_view: JoinView | None = None
        """What they get, as long as one of them gets it."""
        self.join_turn = trio.Lock()
        """Of who makes the next part of a snapshot for a joiner."""
        self.join_share = Share(JOIN_SHARE)
        self.blocked_in: set[str] = set()
        """Names of peers whose rows and messages the fault service keeps away."""
        self.blocked_out: set[str] = set()
        """Names of peers to which it lets nothing through."""
        self.roster_wanted = trio.Event()
        """Set when members, or what is known of where they are, changed: `roster.Roster` looks."""
        self.is_serving = False
        """Peers may subscribe: recovery or join is over, though clients may still have to wait."""
        self.doubles = Doubles(
            node.uuid, Life(node.start_id, node.settings.listen), node.settings.death_timeout_s
        )
        self.catch_up = CatchUp()
        """With whom this instance must catch up before it writes (ADR 46)."""
        self.caught_up = trio.Event()
        """Set while there is nobody; another one when there is somebody again."""
        self._has_sources = trio.Event()
        self._doubled: dict[str, tuple[Life, ...]] = {}
        """UUID -> the lives that it was found in, as long as it is doubled."""
        self._leader_heard_at = trio.current_time()
        self.relogins = Relogins(node, self.appliers, lambda: self.connected)

    def new_number(self) -> InstanceId:
        """For one end of a stream that has no id; known in this process only."""
        return InstanceId(next(self._numbers))

    def load_acks(self) -> None:
        noted = self._node.directory.identity_file.notes.acks
        self.acks = AckMemory(noted)

    def collect_acks(self) -> None:
        """Hand what peers acknowledged to the next note (ADR 14). Not with `wal.mode: write`: who
        acknowledges rows that are not on disk may lose them without having forgotten a promise."""
        node = self._node
        if node.settings.wal_mode is WalMode.FSYNC:
            node.directory.identity_file.acks = self.acks.export(node.core.memtx.catalog.prepared_members())

    # -------------------------------------------------------------------------------- told by the node

    def send_raft(self, message: RaftMessage) -> None:
        for relay in self.relays.values():
            relay.send_raft(message)

    def request_heartbeats(self) -> None:
        for relay in self.relays.values():
            relay.send_heartbeat()

    def term_changed(self) -> None:
        """A new term is on disk: peers may be told of it now."""
        for relay in self.relays.values():
            relay.term_changed()
        for applier in self.appliers.values():
            applier.wake_ack()

    def settings_changed(self) -> None:
        """Peers hear of another quorum at once (ADR 38), and of us in the new interval; there may be other
        sources [M-45]. Who is called with another login from now on is connected anew, in its turn: whether
        it is right shows before it is needed."""
        self.relogins.settings_changed()
        self.sources_changed()
        self.doubles.death_s = self._node.settings.death_timeout_s
        self.roster_wanted.set()
        for relay in self.relays.values():
            relay.settings_changed()
        self.changed()

    def rows_written(self) -> None:
        """Rows were synced, so there is room again for received ones."""
        for applier in self.appliers.values():
            applier.rows_written()
            applier.wake_rows()
        for relay in self.relays.values():
            relay.rows_written()

    def room_again(self) -> None:
        for applier in self.appliers.values():
            applier.wake_rows()

    def rows_cut_back(self) -> None:
        for applier in self.appliers.values():
            applier.rows_cut_back()

    def reset_appliers(self) -> None:
        for applier in self.appliers.values():
            applier.reset()

    def members_changed(self) -> None:
        self.roster_wanted.set()

    def became_member(self) -> None:
        """All streams begin anew: with the id that this instance has now [M-30]."""
        self.reset_appliers()
        for relay in self.relays.values():
            relay.scope.cancel()
        self.roster_wanted.set()

    def check_expelled(self, uuid: str) -> None:
        """Raises `Expelled`, of us or of this instance: there are no streams then [M-52]."""
        core = self._node.core
        if core.state.is_expelled:
            raise expelled_error(self._node.uuid, core.self_id, core.limbo.term)
        number = core.memtx.catalog.expelled_id(uuid)
        if number is not None:
            raise expelled_error(uuid, number, core.limbo.term)

    def stop_applier(self, peer: InstanceId, error: SynchroError) -> None:
        applier = self.find_applier(peer)
        if applier is not None:
            applier.stop(error)

    def find_applier(self, peer: InstanceId) -> Upstream | None:
        """The applier with a live link to `peer`; else the one that had one last; None: there was none."""
        found = [applier for applier in self.appliers.values() if applier.peer_id == peer]
        return next((applier for applier in found if applier.has_link), found[0] if found else None)

    # ------------------------------------------------------------------------------------------- streams

    @property
    def following(self) -> frozenset[InstanceId]:
        """Members whose rows come from themselves."""
        found = (applier.peer_id for applier in self.appliers.values() if applier.is_following)
        return frozenset(peer for peer in found if peer < ANONYMOUS)

    def changed(self) -> None:
        """What acks say is something else now, such as `following`: peers pass on what we do not get from its
        origin."""
        for applier in self.appliers.values():
            applier.wake_ack()

    def other_address(self, peer: PeerAddress) -> str:
        """Where a member that follows us says that it listens, if that is not where we call it; "" else."""
        said = (
            down.address for down in self.downstreams.values() if down.name == peer.name and down.is_following
        )
        return next((address for address in said if address not in ("", peer.address)), "")

    @property
    def silence_s(self) -> float:
        """After so many seconds without a message a link is dead now."""
        return silence_s(self._node.settings, is_leader=self._node.core.raft.is_leader)

    async def watch_silence(self, heard_at: Callable[[], float]) -> None:
        """Raises `LinkLost` when the stream that was `heard_at` (trio time) is dead [A-27]. What silence is
        depends on our role too, so it is asked again at half time."""
        watch = SilenceWatch()
        while (wait_s := watch.look(heard_at(), trio.current_time(), self.silence_s)) > 0:
            await self._node.pause(wait_s)
        raise LinkLost("timed out")

    def leader_idle(self) -> float:
        """Seconds since the leader was last heard [I-20]."""
        return trio.current_time() - self._leader_heard_at

    def note_heard(self, peer: InstanceId) -> None:
        """A sign of life came from this peer."""
        if peer == self._node.core.raft.leader:
            self._leader_heard_at = trio.current_time()

    @property
    def connected(self) -> int:
        """Registered instances with streams in both directions, this one included."""
        return 1 + len(self._connected)

    @property
    def _connected(self) -> frozenset[InstanceId]:
        return self.following & self.relays.keys() & self._node.core.registered

    def cut_off_by(self, users: Users, user: str = "") -> list[str]:
        """What would be said of each member that has no streams both ways with this instance any more under
        these users: who calls whom, and as whom (ADR 43). user: whoever calls as this one may not, either."""

        def may_call(caller: Caller | None) -> bool:
            return caller is not None and caller.name != user and may_be_member(users, caller)

        lost: dict[InstanceId, str] = {}
        for applier in self.appliers.values():
            own = self._node.transport.called_as(applier.address.address)
            if applier.is_following and not may_call(_as_user(users, own)):
                caller_name = self._node.settings.instance_name
                lost[applier.peer_id] = f"{caller_name} at {applier.address.name} (as '{own}')"
        for number, (uuid, name) in self._node.core.memtx.catalog.members().items():
            caller = self.callers.get(uuid)
            if number in self.relays and caller is not None and not may_call(caller):
                lost[number] = f"{name or uuid} (as '{caller.name}')"
        return [words for number, words in lost.items() if number in self._connected]

    @property
    def is_too_old(self) -> bool:
        """Somebody deleted the log that this instance needs, and nobody that it follows has more than it."""
        appliers = self.appliers.values()
        return seems_too_old(
            self._node.core.vclock,
            gone=[applier.has for applier in appliers if applier.lacks_rows],
            followed=[one.has for one in appliers if one.is_following and not one.lacks_rows],
        )

    @property
    def is_counted(self) -> bool:
        """Its acks may count for a quorum: it is not too old, or it follows who leads or owns the queue."""
        core = self._node.core
        return not self.is_too_old or bool(self.following & {core.limbo.owner_id, core.raft.leader})

    def said(self) -> dict[InstanceId, Vclock]:
        """What each connected member has, by what it said last: in acks, and on its stream."""
        said = {peer: down.acked for peer, down in self.downstreams.items() if down.is_following}
        for applier in self.appliers.values():
            if applier.is_following:
                said[applier.peer_id] = applier.has.merge(said.get(applier.peer_id, EMPTY_VCLOCK))
        return said

    def split_brains(self) -> dict[str, SynchroError]:
        """Name of a source -> why its stream was stopped: its history contradicts that of this instance."""
        stopped = ((name, applier.stopped_by) for name, applier in self.appliers.items())
        return {name: error for name, error in stopped if isinstance(error, SplitBrain)}

    def holders_of(self, vclock: Vclock) -> int:
        """Instances that answer and have all of this, by what they said last: in acks, on their streams, or,
        where they deleted the log that we need, in their ballots."""
        following = [down for down in self.downstreams.values() if down.is_following]
        holders = {down.name for down in following if down.acked.covers(vclock)}
        heard = [name for name, a in self.appliers.items() if a.is_following or a.lacks_rows]
        return len(holders.union(name for name in heard if self.appliers[name].has.covers(vclock)))

    # --------------------------------------------------------------------------------------- operators

    def restart_upstream(self, instance: str, skip: TxnId | None = None) -> None:
        """By any of the words that `info` has for it: name, id, UUID or address. skip: the row in conflict at
        which it stands, to leave it out (ADR 44). Raises `IllegalParams`."""
        names = {
            text
            for member, (uuid, name) in self._node.core.memtx.catalog.members().items()
            if instance in (uuid, name, str(member))
            for text in (uuid, name)
        }
        found = False
        for applier in self.appliers.values():
            address = applier.address
            if instance in (address.name, address.address) or names & {address.name, applier.peer_uuid}:
                found = True
                if skip is not None:
                    self._skip(applier, skip)
                if not applier.is_following:
                    applier.restart()
        if not found:
            raise IllegalParams(f"there is no upstream {instance!r}; nothing was changed")

    def _skip(self, applier: Upstream, row: TxnId) -> None:
        error = applier.stopped_by
        at = "" if error is None else error.details.get("at", "")
        if error is None or at != str(row):
            where = f"stands at {at}" if at else "is not stopped by a row"
            raise IllegalParams(
                f"the stream from {applier.address.name} {where}, not at {row}; nothing was changed"
            )
        if not error.details.get("skippable"):
            raise IllegalParams(
                f"row {row} cannot be left out: it waited for a quorum, or is of a system space, or does not "
                "stop the stream by what it holds; nothing was changed"
            )
        self._node.step(ev.SkipGranted(row))

    def release(self, instance: str) -> None:
        """Keep no log for this one, which is away: a member by name, id or UUID, an anonymous follower by its
        name or UUID [W-44]. Raises `ReplicaGc`."""
        core = self._node.core
        for member, (uuid, name) in core.memtx.catalog.members().items():
            if instance in (name, uuid, str(member)):
                if member == core.self_id:
                    raise replica_gc_error("Cannot clean up self")
                if member in self.relays:
                    raise replica_gc_error("Replica is connected")
                self.released.add(member)
                self.downstreams.pop(member, None)
                return
        for follower in self.followers:
            if instance in (follower.name, follower.uuid):
                if follower.away_since is None:
                    raise replica_gc_error("Replica is connected")
                self.followers.forget(follower.uuid)
                return
        raise replica_gc_error("Replica does not exist")

    def cut(self, peers: set[str], *, incoming: bool, outgoing: bool) -> None:
        """Drop the streams with these peers and refuse new ones, for the fault service."""
        if incoming:
            self.blocked_in |= peers
            for name in peers & self.appliers.keys():
                self.appliers[name].reset()
        if outgoing:
            self.blocked_out |= peers
            for relay in self.relays.values():
                if relay.peer_name in peers:
                    relay.scope.cancel()

    def heal(self, peers: set[str]) -> None:
        self.blocked_in -= peers
        self.blocked_out -= peers

    # --------------------------------------------------------------------------------- catching up

    def sources_changed(self, *, has_all: bool = False) -> None:
        """These are the sources now; with a new one this instance has to catch up [M-40], [M-45], [M-46].
        has_all: it made the set, so there is nothing that it could lack."""
        settings = self._node.settings
        names = [peer.name for peer in settings.peers if peer.name != settings.instance_name]
        self.catch_up.sources_are(names, trio.current_time())
        if has_all:
            self.catch_up.settle()
        self.look_if_caught_up()

    def look_if_caught_up(self) -> None:
        """A source was caught up with, is not to be waited for any more, or is new."""
        node, core = self._node, self._node.core
        states = {name: applier.source_state for name, applier in self.appliers.items()}
        self.catch_up.look(states, trio.current_time(), Patience.of(node.settings))
        waits_for = tuple(self.catch_up.waits_for)
        if waits_for == core.state.orphan_of:
            return
        if bool(waits_for) is not bool(core.state.orphan_of):
            node.waiting.orphan_since = trio.current_time() if waits_for else None
        node.step(ev.OrphanChanged(waits_for))
        if not waits_for:
            self.caught_up.set()
        elif self.caught_up.is_set():
            self.caught_up = trio.Event()
        self._has_sources.set()

    async def watch_catching_up(self) -> None:
        """Who stays away is seen by time alone. Until cancelled."""
        while True:
            self._has_sources = trio.Event()
            if not self.catch_up.waits_for:
                await self._has_sources.wait()
            await self._node.pause(self._node.settings.replication_timeout_s / 2)
            self.look_if_caught_up()

    # ------------------------------------------------------------------------------- doubled identities

    def note_life(self, uuid: str, life: Life) -> None:
        """`life` of this identity spoke to us now; streams of this identity did so at their last message."""
        doubles, now = self.doubles, trio.current_time()
        for relay in self.relays.values():
            if relay.peer_uuid == uuid:
                doubles.heard(uuid, relay.life, relay.heard_at)
        for applier in self.appliers.values():
            if applier.has_link and applier.peer_uuid == uuid:
                doubles.heard(uuid, applier.life, applier.heard_at)
        doubles.heard(uuid, life, now)
        self.check_doubles()

    def check_double(self, uuid: str) -> None:
        """Raises `DoubledIdentity`."""
        lives = self.doubles.lives(uuid, trio.current_time())
        if lives:
            raise doubled_error(uuid, lives)

    def check_doubles(self) -> None:
        """Who became doubled is told so, cut off and named in the log; who is single again comes back by
        itself."""
        node, now = self._node, trio.current_time()
        for member, member_uuid, name in self._identities():
            lives = self.doubles.lives(member_uuid, now)
            known = self._doubled.get(member_uuid)
            if lives and not known:
                node.log.error("identity_doubled", **doubled_error(member_uuid, lives).details, name=name)
                self._doubled[member_uuid] = lives
                self._cut_double(member, member_uuid, lives)
            elif known and not lives:
                del self._doubled[member_uuid]
                node.log.info("identity_single", uuid=member_uuid, name=name)
        if node.has_core and self.is_doubled != node.core.state.is_doubled:
            node.step(ev.DoubledChanged(self.is_doubled))

    def _identities(self) -> Iterator[tuple[InstanceId, str, str | None]]:
        """Of members, of anonymous followers, and the own one if it is anonymous."""
        node = self._node
        if not node.has_core:
            return
        for member, (uuid, name) in node.core.memtx.catalog.members().items():
            yield member, uuid, name
        for follower in self.followers:
            yield follower.number, follower.uuid, follower.name
        if node.core.is_anonymous:
            yield ANONYMOUS, node.uuid, node.settings.instance_name

    def _cut_double(self, member: InstanceId, uuid: str, lives: tuple[Life, ...]) -> None:
        relay = self.relays.get(member)
        if relay is not None:
            relay.end_with(doubled_error(uuid, lives))
        for applier in self.appliers.values():
            if applier.has_link and uuid in (applier.peer_uuid, self._node.uuid):
                applier.reset()  # if it is us, nobody gets an ack any more

    async def watch_doubles(self) -> None:
        """What is not heard any more ends by time alone. Until cancelled."""
        while True:
            await self._node.pause(self._node.settings.replication_timeout_s / 2)
            self.check_doubles()

    @property
    def is_doubled(self) -> bool:
        """Another live process has our identity."""
        return self._node.uuid in self._doubled

    def lives_of(self, uuid: str) -> tuple[Life, ...]:
        """For `info`: empty if it is not doubled."""
        return self._doubled.get(uuid, ())


def _as_user(users: Users, name: str) -> Caller | None:
    """None: there is no such user."""
    user = users.find(name, UserKind.USER)
    return None if user is None else user.caller


def replica_gc_error(why: str) -> ReplicaGc:
    return ReplicaGc(f"Cannot clean up replica's resources: {why}; nothing was done")
