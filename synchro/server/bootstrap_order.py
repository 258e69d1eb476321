"""A person tells an instance without data to make the replica set. Rule [M-17], ADR 45."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from synchro.errors import BootstrapRefused, SynchroError, TimedOut


@dataclass(slots=True)
class _Word:
    """What all calls that wait at one time are told together."""

    over: trio.Event = field(default_factory=trio.Event)
    error: SynchroError | None = None
    replicaset_uuid: str = ""


class BootstrapOrder:
    """What the first start of one instance is told, and what its callers hear of it.

    D1  It stands as long as a call waits for it, or the set is being made: a caller that is gone, or whose
        time is over, takes it back, so nothing is made behind the back of who told it.
    """

    def __init__(self) -> None:
        self._callers = 0
        self._word = _Word()
        self._is_begun = False
        self.why = "it has not looked yet"
        """For whom it waits, for people."""

    @property
    def is_told(self) -> bool:
        return self._callers > 0 and not self._word.over.is_set()

    # --- from the first start

    def begin(self) -> None:
        """The set is being made now."""
        self._is_begun = True

    def made(self, replicaset_uuid: str) -> None:
        self._word.replicaset_uuid = replicaset_uuid
        self._word.over.set()

    def refuse(self, why: str) -> None:
        """It will not be done; nothing was made here."""
        if self.is_told:
            self._word.error = BootstrapRefused(f"{why}; this instance made no replica set")
            self._word.over.set()

    # --- from callers

    async def carry_out(self, timeout_s: float) -> str:
        """UUID of the new set. Raises `BootstrapRefused`, or `TimedOut`."""
        if self._word.error is not None:
            self._word = _Word()
        word = self._word
        self._callers += 1
        try:
            with trio.move_on_after(timeout_s):
                await word.over.wait()
        finally:
            self._callers -= 1
        if word.error is not None:
            raise word.error
        if word.over.is_set():
            return word.replicaset_uuid
        if self._is_begun:
            raise TimedOut("The replica set is being made; it may be there soon. Next: synchro status")
        raise TimedOut(f"No replica set was made, and this instance does not try on: {self.why}")
