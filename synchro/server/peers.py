"""What an instance does for its peers: ballot, join, subscription. Checks of [M-19], [M-20], [M-32]."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import trio

from synchro.config import ElectionMode, Settings
from synchro.ids import InstanceId
from synchro.instance import events as ev
from synchro.replication.admission import (
    check_name,
    check_serves_members,
    check_set,
    check_stranger,
    check_twin,
    member_of,
)
from synchro.replication.ballot import Ballot
from synchro.replication.bootstrap_choice import own_ballot, shown_name
from synchro.replication.doubles import Life
from synchro.replication.read_barrier import ReadPosition
from synchro.server.downstream import Downstream
from synchro.server.join import register, serve_join
from synchro.server.links import Links
from synchro.server.node import Node
from synchro.server.peer_access import Asker, check_member, check_reader
from synchro.server.peer_messages import (
    Hello,
    JoinItem,
    JoinRequest,
    LinkLost,
    ReadPositionRequest,
    RegisterRequest,
)
from synchro.server.relay import Relay, check_policies, check_reads_users
from synchro.server.transport import RelayStream

REPLACE_GRACE_S = 2.0
"""How long a new subscription waits for the end of the old one of the same instance."""


class Peers:
    """`PeerEndpoint` of one node. The ballot is served from the moment the port is open."""

    def __init__(self, node: Node, links: Links) -> None:
        self._node = node
        self._links = links
        self.bootstrap_ballot: Ballot | None = None
        """Set while this instance has no data."""
        self.rejoins = False
        """It replaces its data by a join, or is about to."""

    @property
    def settings(self) -> Settings:
        return self._node.settings

    def ballot(self) -> Ballot:
        """[M-7]"""
        node = self._node
        if not node.has_core:
            known = self.bootstrap_ballot or own_ballot(node.settings, node.uuid, node.replicaset_uuid)
            # While it reads its files it has a set: nobody makes another one, who joins asks again.
            is_booted = node.has_data and bool(node.replicaset_uuid)
            return replace(
                known,
                is_booted=is_booted,
                rejoins=self.rejoins,
                start_id=node.start_id,
                address=node.address,
            )
        core, settings = node.core, node.settings
        return Ballot(
            instance_uuid=node.uuid,
            instance_name=settings.instance_name,
            replicaset_uuid=node.replicaset_uuid,
            instance_id=core.number,
            is_booted=True,
            is_ro_cfg=settings.read_only,
            is_ro=not core.is_writable,
            can_lead=settings.election_mode in (ElectionMode.MANUAL, ElectionMode.CANDIDATE),
            vclock=core.vclock.shown(),
            gc_vclock=node.wal.files[0].vclock.shown(),
            bootstrap_leader_uuid=node.bootstrap_leader_uuid,
            registered_uuids=frozenset(uuid for uuid, _ in core.memtx.catalog.members().values()),
            queue_owner=core.limbo.owner_id,
            term=core.raft.shown_term,
            start_id=node.start_id,
            address=node.address,
            is_anonymous=core.is_anonymous,
            replicaset_name=shown_name(settings),
        )

    def admit_joiner(
        self, asker: Asker, instance_uuid: str, instance_name: str, *, is_anonymous: bool = False
    ) -> None:
        """[S-7]: all data is read, and who is no member yet becomes one, unless it stays anonymous."""
        catalog = self._node.core.memtx.catalog
        if is_anonymous or (instance_uuid, instance_name) in catalog.members().values():
            check_reader(catalog.users, asker)
        else:
            address = self._address_of(instance_name)
            check_member(catalog.users, asker, name=instance_name, address=address)

    def admit_subscriber(self, asker: Asker, hello: Hello) -> object:
        """Asked before anything that it says of itself is believed. Who names the UUID of a member, or ours,
        speaks as that one whatever else it says: another life of it would make it a double (ADR 23), and its
        certificate is that of the name under which it is registered."""
        catalog = self._node.core.memtx.catalog
        known = dict((*catalog.members().values(), *catalog.prepared_members().values()))
        if hello.is_anonymous and hello.instance_uuid not in {*known, self._node.uuid}:
            check_reader(catalog.users, asker)
        else:
            name = known.get(hello.instance_uuid) or hello.name
            address = self._address_of(name) or self._address_of(hello.name) or hello.address
            check_member(catalog.users, asker, name=name, address=address)
            if hello.instance_uuid in known:
                self._links.callers[hello.instance_uuid] = asker.caller
        return catalog.users.users

    def is_admitted(self, shown: object) -> bool:
        return self._node.core.memtx.catalog.users.users is shown

    def _address_of(self, name: str) -> str:
        """As configured; "": it is not."""
        return next((peer.address for peer in self.settings.peers if peer.name == name), "")

    async def serve_register(self, request: RegisterRequest) -> InstanceId:
        """[M-30]. One that is registered already hears its id: its first answer may have been lost."""
        node = self._node
        node.ensure_ready()
        check_stranger(request.instance_uuid, own_uuid=node.uuid)
        check_name(request.instance_name)
        check_twin(request.instance_uuid, node.core.memtx.catalog.prepared_members())
        check_set(request.replicaset_uuid, expected=node.replicaset_uuid)
        check_serves_members(node.core.is_anonymous)
        self._links.check_expelled(request.instance_uuid)
        if not node.core.is_writable:
            raise node.core.read_only_error()
        asked = (request.instance_uuid, request.instance_name)
        registered = await register(node, *asked, must_be_new=True)
        return registered.id

    def admit_reader(self, asker: Asker) -> None:
        """[S-7]"""
        check_reader(self._node.core.memtx.catalog.users, asker)

    async def serve_read_position(self, request: ReadPositionRequest) -> ReadPosition:
        """[Q-63]. What was committed when the round was over is committed afterwards too, so a later position
        is as good. What waits is waited for where it is read: its time is not known here."""
        node = self._node
        node.ensure_ready()
        check_set(request.replicaset_uuid, expected=node.replicaset_uuid)
        outcome = await node.calls.call(
            lambda call_id: ev.ReadBarrierRequested(call_id, awaits_queue=False), timeout_s=request.timeout_s
        )
        if isinstance(outcome, ev.Rejected | ev.OutcomeUnknown):
            raise outcome.error
        return node.core.read_position

    async def serve_join(self, request: JoinRequest) -> AsyncGenerator[JoinItem]:
        await self._node.failpoint("net.replication_request_delay")
        async with aclosing(serve_join(self._node, self._links, request)) as items:
            async for item in items:
                yield item

    async def serve_subscriber(self, hello: Hello, stream: RelayStream) -> None:
        """Relay to it until the link is lost."""
        node = self._node
        await node.failpoint("net.replication_request_delay")
        peer = self._check(hello)
        if hello.name in self._links.blocked_out:
            raise LinkLost("partitioned by the fault service")
        await self._tell_doubles_apart(hello, peer)
        deadline = trio.current_time() + REPLACE_GRACE_S
        while (former := self._links.relays.get(peer)) is not None and trio.current_time() < deadline:
            # Its TCP connection may be half dead for a while: the newer word counts. Again, because another
            # new one may have come while we waited.
            former.scope.cancel()
            with trio.move_on_at(deadline):
                await former.ended.wait()
        if hello.is_anonymous:  # once more: it may have been forgotten while we waited
            downstream = self._admit(hello)
            peer = downstream.peer
        else:
            self._links.released.discard(peer)
            downstream = self._links.downstreams.setdefault(peer, Downstream(peer))
        relay = Relay(node, self._links, downstream, hello, stream)
        self._links.relays[peer] = relay
        try:
            with relay.scope:
                await relay.run()
            raise relay.error or LinkLost("the subscription was replaced or cut")
        finally:
            relay.ended.set()
            if self._links.relays.get(peer) is relay:
                del self._links.relays[peer]
                if hello.is_anonymous:
                    self._links.followers.went(hello.instance_uuid)
                else:
                    node.step(ev.RelayLost(peer))

    async def _tell_doubles_apart(self, hello: Hello, peer: InstanceId) -> None:
        """ADR 23: a restart of who was here before, or a second process? Who was here is asked, for one
        heartbeat at most: a half dead connection says nothing more, and the new one takes its place."""
        node = self._node
        self._links.note_life(hello.instance_uuid, Life(hello.start_id, hello.address))
        self._links.check_double(hello.instance_uuid)
        former = self._links.relays.get(peer)
        if former is None or "" in (hello.start_id, former.life.start_id):
            return
        if former.life.start_id != hello.start_id:
            former.send_heartbeat()
            with trio.move_on_after(node.settings.replication_timeout_s):
                await former.wait_heard()
            self._links.check_double(hello.instance_uuid)

    def _check(self, hello: Hello) -> InstanceId:
        """Who subscribes: its id, or the number of one without; [M-32] in its order."""
        node = self._node
        core = node.core  # Loading
        if not self._links.is_serving:
            raise node.loading()
        if hello.instance_uuid == node.uuid and hello.start_id not in ("", node.start_id):
            self._links.note_life(node.uuid, Life(hello.start_id, hello.address))
            self._links.check_double(node.uuid)
        check_stranger(hello.instance_uuid, own_uuid=node.uuid)
        check_set(hello.replicaset_uuid, expected=node.replicaset_uuid)
        if not hello.is_anonymous:
            core.check_term(hello.term)
        self._links.check_expelled(hello.instance_uuid)
        check_reads_users(core.memtx.catalog.users, hello.takes_users, hello.name)
        check_policies(core.memtx.catalog, hello.name, takes_policies=hello.takes_policies)
        members = core.memtx.catalog.prepared_members()
        if hello.is_anonymous:  # also one that is registered, by a row that has yet to come to it
            return self._admit(hello).peer
        check_serves_members(core.is_anonymous)
        peer = member_of(hello.instance_uuid, members)
        self._links.followers.forget(hello.instance_uuid)
        registered = members[peer][1]
        if registered != hello.name:
            node.log.warning("peer_name_differs", peer=hello.name, registered=registered)
        return peer

    def _admit(self, hello: Hello) -> Downstream:
        followers = self._links.followers
        return followers.admit(hello.instance_uuid, hello.name, hello.vclock.without_local()).downstream
