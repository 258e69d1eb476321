"""Peers that are called with another login from now on: their streams are opened anew, one after the other.
[S-8], [L-27], ADR 43.

All at once would take the quorum of a healthy set, and a wrong password would end streams that go well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import trio

from synchro.config import ElectionMode, PeerAddress
from synchro.errors import SynchroError
from synchro.server.node import Node
from synchro.server.peer_messages import LinkLost

POLL_S: Final = 0.05
LOGIN_S: Final = 10.0
"""For one login: a password is looked at slowly on purpose, and in turn with others."""
TURN_S: Final = 1.0
"""How long an instance waits for each member before it, at the most."""
RETRY_S: Final = 0.5
RETRY_MAX_S: Final = 15.0
"""Each login that is refused counts there as one of somebody who guesses."""


class Upstream(Protocol):
    """What is needed of an applier; see `links.Upstream`."""

    address: PeerAddress

    @property
    def is_following(self) -> bool: ...

    def login_refused(self, message: str, reason: str | None) -> None: ...

    def reset(self) -> None:
        """`is_following` is False from now on, until the next stream is accepted."""


class Relogins:
    """Of one node.

    N1  At most one stream is moved at a time; the next one when it is followed again, or its time is over.
    N2  A stream that is followed is ended only when the new login was right.
    """

    def __init__(self, node: Node, appliers: Mapping[str, Upstream], connected: Callable[[], int]) -> None:
        """appliers: by name, a live view. connected: members with streams both ways, this one too."""
        self._node = node
        self._appliers = appliers
        self._connected = connected
        self._logins = node.settings.peer_logins
        """Those with which the appliers were connected, or are to be."""
        self._due: set[str] = set()
        """Names of appliers whose streams have another login."""
        self._wanted = trio.Event()

    def settings_changed(self) -> None:
        before, self._logins = self._logins, self._node.settings.peer_logins
        self._due |= {
            name
            for name, applier in self._appliers.items()
            if before.of(applier.address.address) != self._logins.of(applier.address.address)
        }
        if self._due:
            self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        node, delay = self._node, RETRY_S
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            await trio.sleep(self._turn_s())
            delay = RETRY_S
            while self._due and not self._wanted.is_set():
                for name in sorted(self._due):
                    if await self._move(name):
                        self._due.discard(name)
                if self._due:
                    await node.pause(delay)
                    delay = min(2 * delay, RETRY_MAX_S)

    def _turn_s(self) -> float:
        """A file is read again on all members at once: who comes first in the list begins."""
        core = self._node.core
        members = sorted(core.memtx.catalog.members())
        before = members.index(core.self_id) if core.self_id in members else 0
        return before * min(TURN_S, self._node.settings.replication_timeout_s)

    async def _move(self, name: str) -> bool:
        """False: it is to be tried again."""
        node, applier = self._node, self._appliers.get(name)
        if applier is None:
            return True
        if not applier.is_following:  # it logs in when it connects
            applier.reset()
            return True
        death_s, is_right = node.settings.death_timeout_s, False
        try:
            with trio.move_on_after(LOGIN_S):
                is_right = await node.transport.log_in(applier.address.address)
        except LinkLost as error:
            applier.login_refused(error.why, None)
        except SynchroError as error:
            applier.login_refused(error.message, error.reason)
        if not is_right:
            return False
        with trio.move_on_after(death_s):
            while self._takes_quorum:  # noqa: ASYNC110 - members come back by several ways
                await trio.sleep(POLL_S)
        applier.reset()
        with trio.move_on_after(death_s):
            while not applier.is_following:  # noqa: ASYNC110 - it has no event for that
                await trio.sleep(POLL_S)
        return True

    @property
    def _takes_quorum(self) -> bool:
        """Whether this instance leads, and would not with one link less: another one may come back."""
        raft = self._node.core.raft
        has_elections = self._node.settings.election_mode is not ElectionMode.OFF
        return raft.is_leader and has_elections and self._connected() <= raft.membership.election_quorum
