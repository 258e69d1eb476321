"""Which streams an instance has: with the configured peers, which may change while it runs [M-45]; with each
member that subscribes from elsewhere, unless the sources were named one by one; and with nobody who was
expelled [M-50], [M-52], ADR 41.

A member that joined while this instance runs says in its Hello where it listens; no file need be read again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import trio

from synchro.config import PeerAddress
from synchro.replication.admission import expelled_error
from synchro.server.applier import Applier
from synchro.server.links import Links, OpenRelay
from synchro.server.node import Node


@dataclass(frozen=True, slots=True)
class _Source:
    """uuid: of one that was learnt; "": the configuration names it."""

    uuid: str
    applier: Applier
    scope: trio.CancelScope

    def end(self) -> None:
        self.applier.give_up()
        self.scope.cancel()


class Roster:
    """Starts and ends appliers, ends relays.

    R1  At most one applier for a name; one that was learnt gives way to a new UUID or address of its member,
        and to the configuration.
    """

    def __init__(self, node: Node, links: Links, nursery: trio.Nursery) -> None:
        self._node = node
        self._links = links
        self._nursery = nursery
        self._sources: dict[str, _Source] = {}
        self._configured: tuple[PeerAddress, ...] = ()
        """As they were when this looked last."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._links.roster_wanted = trio.Event()
            self._follow_configured()
            self._look()
            await self._links.roster_wanted.wait()

    def _follow_configured(self) -> None:
        """The list of sources may be another one: those that follow are left alone, the others of it try
        again, also one that was stopped; who is not in it any more is let go [M-45], [M-46]."""
        settings = self._node.settings
        if settings.peers == self._configured:
            return
        self._configured = settings.peers
        wanted = {peer.name: peer for peer in settings.peers if peer.name != settings.instance_name}
        for name, source in list(self._sources.items()):
            if source.applier.address != wanted.get(name) and not (source.uuid and settings.follows_all):
                self._forget(name)
        for name, peer in wanted.items():
            known = self._sources.get(name)
            if known is None or known.applier.address != peer:
                self._begin(peer)
                continue
            self._sources[name] = replace(known, uuid="")
            if not known.applier.is_following:
                known.applier.restart()

    def _look(self) -> None:
        core = self._node.core
        if core.state.is_expelled:
            self._end_all()
            return
        catalog = core.memtx.catalog
        for known, source in list(self._sources.items()):
            if source.uuid and catalog.expelled_id(source.uuid) is not None:
                self._forget(known)
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
        known = self._sources.get(name)
        if known is not None and known.uuid:
            if (known.uuid, known.applier.address.address) == (uuid, address):
                return
            self._forget(name)  # Roster.R1
        others = self._links.appliers.values()
        if name in self._links.appliers or any(
            uuid == other.peer_uuid or address == other.address.address for other in others
        ):
            return
        self._node.log.info("member_followed", peer=name, address=address)
        self._begin(PeerAddress(name, address), uuid)

    def _begin(self, peer: PeerAddress, uuid: str = "") -> None:
        """uuid: as in `_Source`."""
        if peer.name in self._sources:
            self._forget(peer.name)  # Roster.R1
        applier = Applier(self._node, self._links, peer)
        self._links.appliers[peer.name] = applier
        self._sources[peer.name] = source = _Source(uuid, applier, trio.CancelScope())
        self._nursery.start_soon(self._run_source, source)

    async def _run_source(self, source: _Source) -> None:
        with source.scope:
            await source.applier.run()

    def _forget(self, name: str) -> None:
        self._sources.pop(name).end()
        del self._links.appliers[name]
