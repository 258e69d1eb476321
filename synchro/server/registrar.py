"""An anonymous instance that is to be one no more finds a member that registers it. Rule [M-30], ADR 45.

The answer of that member is a courtesy: the instance is a member when the row itself has come in its stream.
"""

from __future__ import annotations

import math

import trio

from synchro.errors import SynchroError
from synchro.replication.ballot import Ballot
from synchro.server.bootstrap import ask_all
from synchro.server.node import Node
from synchro.server.peer_messages import LinkLost, RegisterRequest


class Registrar:
    """One attempt at a time, every `Settings.retry_s`, until the row is there."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._said = ""

    async def run(self) -> None:
        """Until this instance is a member; at once if it is one."""
        node = self._node
        while node.core.is_anonymous:
            if node.settings.is_anonymous:
                self._waits("")
                await node.pause(math.inf)
                continue
            self._waits(await self._attempt())
            await node.pause(node.settings.retry_s)
        self._waits("")

    def _waits(self, why: str) -> None:
        node = self._node
        why = why if node.core.is_anonymous else ""
        if not why:
            node.waiting.over()
        else:
            node.waiting.wait(f"to become a member (replication.anon: false): {why}", node.settings.retry_s)
        if why and why != self._said:
            node.log.info("register_waiting", message=node.waits_for, retry_s=node.settings.retry_s)
        self._said = why

    async def _attempt(self) -> str:
        """Ask once; returns what it waits for then."""
        node, settings = self._node, self._node.settings
        addresses = [peer.address for peer in settings.peers if peer.name != settings.instance_name]
        ballots = await ask_all(node.transport, addresses, node.uuid)
        source = next((address for address, ballot in ballots.items() if _may_register(ballot)), None)
        if source is None:
            found = [f"{one.instance_name} (read-only)" for one in ballots.values() if not one.is_anonymous]
            silent = [address for address in addresses if address not in ballots]
            seen = ", ".join([*found, *(f"{address} (does not answer)" for address in silent)])
            return f"Couldn't find an instance to register this replica on: {seen or 'it has no sources'}"
        request = RegisterRequest(node.uuid, settings.instance_name, node.replicaset_uuid)
        name = ballots[source].instance_name
        try:
            with trio.move_on_after(settings.death_timeout_s + settings.synchro_timeout_s):
                number = await node.transport.register(source, request)
                return f"{name} has registered it as {number}, and the row is on its way"
        except LinkLost as error:
            return f"{name} did not register it: {error.why}"
        except SynchroError as error:
            return f"{name} did not register it: {error.message}"
        return f"{name} does not answer"


def _may_register(ballot: Ballot) -> bool:
    return ballot.is_booted and not ballot.is_ro and not ballot.is_anonymous
