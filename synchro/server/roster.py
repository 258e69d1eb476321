"""Which streams an instance has: with the configured peers; with each member that subscribes from elsewhere,
unless the sources were named one by one; and with nobody who was expelled [M-50], [M-52], ADR 41.

A member that joined while this instance runs says in its Hello where it listens; no file need be read again.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from synchro.config import PeerAddress
from synchro.replication.admission import expelled_error
from synchro.server.applier import Applier
from synchro.server.links import Links, OpenRelay
from synchro.server.node import Node


@dataclass(frozen=True, slots=True)
class _Stream:
    """An upstream. uuid: of the member, if no configuration names it; else ""."""

    applier: Applier
    scope: trio.CancelScope
    uuid: str = ""

    @property
    def is_configured(self) -> bool:
        return not self.uuid


class Roster:
    """Starts and ends appliers, ends relays.

    R1  At most one applier for a name; one that was learnt gives way to a new UUID or address of its member,
        and to the configuration.
    """

    def __init__(self, node: Node, links: Links, nursery: trio.Nursery) -> None:
        self._node = node
        self._links = links
        self._nursery = nursery
        self._streams: dict[str, _Stream] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._links.roster_wanted = trio.Event()
            self._follow_configured()
            self._look()
            await self._links.roster_wanted.wait()

    def _follow_configured(self) -> None:
        """The sources of the configuration, as they are now; streams with those that stay go on [M-45]."""
        settings = self._node.settings
        wanted = {peer.name: peer for peer in settings.peers if peer.name != settings.instance_name}
        for name, known in list(self._streams.items()):
            peer = wanted.get(name)
            is_gone = peer is None if known.is_configured else peer is not None
            if is_gone or (peer is not None and peer != known.applier.address):
                self._forget(name)
        for name, peer in wanted.items():
            if name not in self._streams:
                self._begin(peer)

    def _look(self) -> None:
        core = self._node.core
        if core.state.is_expelled:
            self._end_all()
            return
        catalog = core.memtx.catalog
        for learnt, known in list(self._streams.items()):
            if not known.is_configured and catalog.expelled_id(known.uuid) is not None:
                self._forget(learnt)
        for applier in self._links.appliers.values():
            if applier.peer_uuid is not None and catalog.expelled_id(applier.peer_uuid) is not None:
                applier.reset()  # it is refused when it asks who is there
        for relay in self._links.relays.values():
            if catalog.expelled_id(relay.peer_uuid) is not None:
                self._nursery.start_soon(self._let_go, relay)
        if not self._node.settings.follows_all:
            return
        for member, (uuid, name) in catalog.members().items():
            down = self._links.downstreams.get(member)
            if member != core.self_id and down is not None and down.address and down.is_following:
                self._follow(name or uuid, uuid, down.address)

    def _end_all(self) -> None:
        """This instance was expelled."""
        node, links = self._node, self._links
        error = expelled_error(node.uuid, node.core.self_id, node.core.limbo.term)
        for applier in links.appliers.values():
            applier.stop(error)
        for relay in list(links.relays.values()):
            relay.end_with(error)

    async def _let_go(self, relay: OpenRelay) -> None:
        """It gets what says so, the CONFIRM of its own deletion, and ends the stream itself. If it does not
        within a death timeout, it is told in so many words."""
        with trio.move_on_after(self._node.settings.death_timeout_s):
            await relay.ended.wait()
        expelled = self._node.core.memtx.catalog.expelled_id(relay.peer_uuid)
        if expelled is not None and not relay.ended.is_set():
            relay.end_with(expelled_error(relay.peer_uuid, expelled, self._node.core.limbo.term))

    def _follow(self, name: str, uuid: str, address: str) -> None:
        """Unless an applier has it already, under any name."""
        stream = self._streams.get(name)
        if stream is not None and not stream.is_configured:
            if (stream.uuid, stream.applier.address.address) == (uuid, address):
                return
            self._forget(name)  # Roster.R1
        known = self._links.appliers.values()
        if name in self._links.appliers or any(
            uuid == other.peer_uuid or address == other.address.address for other in known
        ):
            return
        self._begin(PeerAddress(name, address), uuid)
        self._node.log.info("member_followed", peer=name, address=address)

    def _begin(self, peer: PeerAddress, uuid: str = "") -> None:
        stream = _Stream(Applier(self._node, self._links, peer), trio.CancelScope(), uuid)
        self._streams[peer.name] = stream
        self._links.appliers[peer.name] = stream.applier
        self._nursery.start_soon(self._run, stream)

    async def _run(self, stream: _Stream) -> None:
        with stream.scope:
            await stream.applier.run()

    def _forget(self, name: str) -> None:
        stream = self._streams.pop(name)
        stream.scope.cancel()
        self._links.forget_applier(name)
