"""An instance that runs, and of which all others have deleted the log that it needs, joins again by itself.
Rules [M-35], [W-45], ADR 51. It ends its service for that, and begins anew inside its process (`rejoin`).
"""

from __future__ import annotations

from typing import Final

import trio

from synchro.replication.rejoin import may_leave
from synchro.server.bootstrap import ask_all
from synchro.server.links import Links
from synchro.server.node import Node
from synchro.server.rejoin import known_of

PAUSE_S: Final = 600.0
"""After one that was given up: until then a person has to look."""


def is_stuck(node: Node, links: Links) -> bool:
    return node.settings.autorejoin and node.is_ready and links.is_too_old and not node.is_in_charge


def joins_again_in(node: Node, links: Links) -> float | None:
    """Seconds until an instance that is stuck has joined again by itself, or something keeps it from that;
    None: a person has to look."""
    if not is_stuck(node, links) or node.rejoin_given_up or node.core.memtx.own_keys:
        return None
    settings, since = node.settings, node.outrun_since
    stuck_s = 0.0 if since is None else trio.current_time() - since
    left_s = 2 * settings.death_timeout_s + settings.connect_timeout_s - stuck_s
    return left_s if left_s > 0 else None


class Outrun:
    """Looks every death timeout.

    T1  It leaves only when it follows nobody for two looks, and each member that answers both has all of its
        rows and no more of the log that it needs. One that does not answer may have that log: it is waited
        for, for a `connect_timeout`.
    """

    def __init__(self, node: Node, links: Links) -> None:
        self._node = node
        self._links = links

    async def run(self) -> None:
        """Until it joins again, or is cancelled."""
        node = self._node
        if node.rejoin_given_up:
            await trio.sleep(PAUSE_S)
        while True:
            await node.pause(node.settings.death_timeout_s)
            if not is_stuck(node, self._links):
                node.outrun_since = None
            elif node.outrun_since is None:
                node.outrun_since = trio.current_time()
            elif await self._is_sure(trio.current_time() - node.outrun_since) and is_stuck(node, self._links):
                node.log.warning(
                    "rebootstrap_began",
                    message="replica is too old, initiating rebootstrap",
                    vclock=str(node.core.vclock),
                )
                node.join_again(is_lossy=False)
                return

    async def _is_sure(self, stuck_s: float) -> bool:
        node, settings = self._node, self._node.settings
        addresses = [peer.address for peer in settings.peers if peer.name != settings.instance_name]
        ballots = await ask_all(node.transport, addresses, node.uuid)
        if len(ballots) < len(addresses) and stuck_s < settings.connect_timeout_s:
            return False
        own = {at: one for at, one in ballots.items() if one.replicaset_uuid == node.replicaset_uuid}
        return may_leave(known_of(node.core), own)
