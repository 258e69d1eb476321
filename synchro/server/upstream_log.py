"""What is told of one upstream, in the words that readers of Tarantool's documents look for. Rule [A-64]."""

from __future__ import annotations

from typing import Any, Final

from synchro.config import PeerAddress
from synchro.errors import SynchroError
from synchro.ids import InstanceId
from synchro.server.reminders import Reminder
from synchro.vclock import Vclock

STOP_DETAILS: Final = ("txn", "at", "space", "key", "old_tuple", "new_tuple", "skippable", "registered_twice")
"""Where the row is at which an applier stopped, what is in its way, and whether it may be left out."""


class UpstreamLog:
    """The records of one applier. A peer that does not answer is told as a `Reminder` does, not with each
    attempt."""

    def __init__(self, log: Any, address: PeerAddress) -> None:
        self._log = log
        self._peer = address.name
        self._address = address.address
        self._failures = Reminder(log)
        self._is_connecting = False

    def connecting(self) -> None:
        """An attempt begins; the first one since the last link is told."""
        if not self._is_connecting:
            self._is_connecting = True
            message = f"connecting to {self._peer} at {self._address}"
            self._log.info("upstream_connecting", peer=self._peer, message=message)

    def connected(self, peer_uuid: str) -> None:
        """The peer has said who it is."""
        message = f"connected to {peer_uuid} at {self._address}"
        self._log.debug("upstream_connected", peer=self._peer, message=message)

    def subscribed(self, peer_id: InstanceId, vclock: Vclock) -> None:
        """vclock: what is here, from which on rows come."""
        self._is_connecting = False
        message = f"subscribed to {self._peer} at {self._address} from {vclock}"
        self._log.info("upstream_subscribed", peer=self._peer, peer_id=peer_id, message=message)

    def following(self, peer_id: InstanceId) -> None:
        self._failures.ended()
        message = f"following {self._peer}: all is here that it had"
        self._log.info("upstream_following", peer=self._peer, peer_id=peer_id, message=message)

    def lost(self, message: str, system_message: str | None) -> None:
        self._log.warning("upstream_lost", peer=self._peer, message=message, system_message=system_message)

    def waits(self, peer_uuid: str, message: str, *, is_new: bool) -> None:
        """Another address leads to the same instance, and is used: nothing fails. is_new: was not told."""
        self._failures.ended()
        if is_new:
            self._log.warning("upstream_waits", peer=self._peer, peer_uuid=peer_uuid, message=message)

    def will_retry(self, why: str, retry_s: float, *, kind: str) -> None:
        """retry_s: the longest pause between two attempts from now on. kind: of failures, of which each is
        told once."""
        message = f"{why}; will retry every {retry_s:g} second or sooner"
        self._failures.say("upstream_retry", message, kind=kind, peer=self._peer, retry_s=retry_s)

    def stopped(self, error: SynchroError) -> None:
        self._is_connecting = False
        self._failures.ended()
        self._log.error(
            "upstream_stopped",
            peer=self._peer,
            reason=error.reason,
            message=error.message,
            **{name: error.details[name] for name in STOP_DETAILS if name in error.details},
        )
