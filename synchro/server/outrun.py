"""An instance that runs, and of which all others have deleted the log that it needs, joins again by itself.
Rules [M-35], [W-45], ADR 51. It ends its service for that, and begins anew inside its process (`rejoin`).
"""

from __future__ import annotations

import math
from typing import Final

import trio

from synchro.errors import DiskFailed
from synchro.ids import NOBODY
from synchro.replication.rejoin import may_leave
from synchro.server.bootstrap import ask_all
from synchro.server.links import Links
from synchro.server.node import Node
from synchro.server.rejoin import known_of

PAUSE_S: Final = 600.0
"""After one that was given up, or that the disk did not take: until then a person has to look."""


def is_stuck(node: Node, links: Links) -> bool:
    if not node.settings.autorejoin or not node.is_ready or node.core.raft.is_leader:
        return False
    return links.is_too_old


def joins_again_in(node: Node, links: Links) -> float | None:
    """Seconds until an instance that is stuck has joined again by itself, or something keeps it from that;
    None: a person has to look."""
    memtx = node.core.memtx
    if not is_stuck(node, links) or node.rejoin_given_up or memtx.own_keys or memtx.local_tuples:
        return None
    settings, since = node.settings, node.outrun_since
    stuck_s = 0.0 if since is None else trio.current_time() - since
    left_s = 2 * settings.death_timeout_s + settings.connect_timeout_s - stuck_s
    return left_s if left_s > 0 else None


class Outrun:
    """Looks every death timeout.

    T1  It leaves only when for two looks nobody that it follows brings it anything, and each member that
        answers and is ahead both has all of its rows and no more of the log that it needs. One that does not
        answer may have that log: it is waited for, for a `connect_timeout`.
    T2  It does not lead, and does not own the queue. Who owned it before it was outrun cannot hear so in its
        log: the ballots of those who are ahead say it.
    """

    def __init__(self, node: Node, links: Links) -> None:
        self._node = node
        self._links = links
        self._has_told = False
        """That it cannot begin."""

    async def run(self) -> None:
        """Until it joins again, or is cancelled."""
        node = self._node
        if node.rejoin_given_up:
            await trio.sleep(PAUSE_S)
        while True:
            await node.pause(node.settings.death_timeout_s)
            if not is_stuck(node, self._links):
                node.outrun_since, self._has_told = None, False
            elif node.outrun_since is None:
                node.outrun_since = trio.current_time()
            elif await self._is_sure(trio.current_time() - node.outrun_since) and is_stuck(node, self._links):
                if self._leave():
                    return
                node.outrun_since = -math.inf  # a person has to look
                await trio.sleep(PAUSE_S)
                node.outrun_since = None

    def _leave(self) -> bool:
        """False: the disk does not take it, nothing was done."""
        node = self._node
        if not self._has_told:
            node.log.warning(
                "rebootstrap_began",
                message="replica is too old, initiating rebootstrap",
                vclock=str(node.core.vclock),
            )
        try:
            node.join_again(is_lossy=False)
        except DiskFailed as error:
            if not self._has_told:
                node.log.warning(
                    "rebootstrap_not_begun",
                    message=f"{error.message}; will retry every {PAUSE_S:g} seconds",
                )
            self._has_told = True
            return False
        return True

    async def _is_sure(self, stuck_s: float) -> bool:
        node, settings = self._node, self._node.settings
        addresses = [peer.address for peer in settings.peers if peer.name != settings.instance_name]
        ballots = await ask_all(node.transport, addresses, node.uuid)
        if len(ballots) < len(addresses) and stuck_s < settings.connect_timeout_s:
            return False
        own = {at: one for at, one in ballots.items() if one.replicaset_uuid == node.replicaset_uuid}
        core = node.core
        owner = core.self_id if core.limbo.owner_id == core.self_id else NOBODY
        return may_leave(known_of(core), own, owner=owner)
