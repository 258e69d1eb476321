"""Own rows that are on disk and with peers while the instance itself does not know yet [fault injection].

Usually the core is told of a batch in the moment in which relays are, so no peer can have a row that its
owner has not. A failpoint may come between the two: then peers store the rows and acknowledge them first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import trio

from synchro.failpoints import REGISTRY, failpoint
from synchro.ids import InstanceId
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.instance.pending_txn import PendingTxn
from synchro.vclock import Vclock

OfOwnLog: TypeAlias = ev.AckReceived | ev.RelayConnected | ev.ApplierFollowing
"""What tells how much of our rows a peer has."""


class LateCommit:
    """Batches of the log that are held back from the core, and what peers say of them meanwhile.

    C1  Batches behind one that is held are held with it: the core hears of all in the order of the log.
    C2  While one is held the core hears of no own row that it does not know: it would take it for a row that
        its log lost (S14). The newest ack of each peer is told in full once the core knows the row.
    """

    def __init__(self, step: Callable[[ev.Event], None]) -> None:
        self._step = step
        self._held: Vclock | None = None
        """Up to here the log is on disk; None: the core knows all of it."""
        self._acks: dict[InstanceId, ev.Ack] = {}
        """Those that say more than the core knows."""
        self._came = trio.Event()

    def holds(self, vclock: Vclock, core: Instance) -> bool:
        """The log is on disk up to here. True: the core is told later, by `run`."""
        if self._held is None and not (REGISTRY.armed and _is_to_be_held(vclock, core)):
            return False
        self._held = vclock  # LateCommit.C1
        self._came.set()
        return True

    def cut_back(self) -> None:
        """The core is told how far the log reaches now, which includes what was held; peers say again what
        they have."""
        self._held = None
        self._acks.clear()

    def on_disk(self, core: Instance) -> Vclock:
        """What relays may send."""
        return core.vclock if self._held is None else self._held

    def hear(self, event: OfOwnLog, core: Instance) -> None:
        """A peer says how much of our rows it has."""
        self._step(event if self._held is None else self._as_known(event, self._held, core))

    def _as_known(self, event: OfOwnLog, held: Vclock, core: Instance) -> OfOwnLog:
        """LateCommit.C2. What not even the disk has is passed on: it is lost indeed."""
        own = core.self_id
        known, there = core.vclock.get(own), held.get(own)

        def cut(vclock: Vclock) -> Vclock:
            return vclock.replace(own, known) if known < vclock.get(own) <= there else vclock

        if isinstance(event, ev.ApplierFollowing):
            return replace(event, vclock=cut(event.vclock))
        peer = event.source if isinstance(event, ev.AckReceived) else event.peer
        ack = event.ack._replace(vclock=cut(event.ack.vclock))
        if ack.vclock != event.ack.vclock:
            self._acks[peer] = event.ack
        elif isinstance(event, ev.RelayConnected):
            self._acks.pop(peer, None)  # it may have lost what it acknowledged
        if isinstance(event, ev.RelayConnected):
            return replace(event, ack=ack, unwritten=cut(event.unwritten))
        return replace(event, ack=ack)

    async def run(self, tell: Callable[[Vclock], None]) -> None:
        """tell: tells the core, and who waits for it, how far the log is on disk."""
        while True:
            await self._came.wait()
            self._came = trio.Event()
            if self._held is None:
                continue  # cut back
            await failpoint("relay.before_local_commit")
            if self._held is not None:
                held, self._held = self._held, None
                acks, self._acks = self._acks, {}
                tell(held)
                for peer, ack in acks.items():
                    self._step(ev.AckReceived(peer, ack))


def _is_to_be_held(vclock: Vclock, core: Instance) -> bool:
    """Whether the point is armed, and a batch that ends here has rows of data that this instance made."""
    if "relay.before_local_commit" not in REGISTRY.armed:
        return False
    own, end = core.self_id, vclock.get(core.self_id)
    in_flight = core.state.log.in_flight
    return any(isinstance(item, PendingTxn) and item.origin == own and item.lsn <= end for item in in_flight)
