"""What to do after a call failed. Pure: time comes in as an argument, the delay goes out as a value.

A try that may have been carried out leaves the outcome *unknown*. From then on a refusal by anybody proves
nothing about that try, so it cannot be told to the caller as "nothing was done": only success, or
`OutcomeUnknown`. Tries of one call carry one request id, so that the owner of the queue does it once.
"""

from __future__ import annotations

from typing import Final

from synchro import errors
from synchro.client.errors import CannotConnect, OutcomeUnknown, reason_of
from synchro.client.model import is_number
from synchro.errors import Retry, SynchroError

DELAY_FIRST_S: Final = 0.02
DELAY_MAX_S: Final = 0.3
"""Elections take longer than this; a leader that is found again should not wait long for its callers."""
REDIRECTS_AT_ONCE: Final = 3
"""Hints followed without a pause; two instances that name each other must not be asked in a busy loop."""
GRACE_S: Final = 1.0
"""How much later than its own timeout a server's answer may come before we stop waiting for it."""

SLOW_START_S: Final = 0.1
"""Who needed longer before the call was sent, as to find the leader, tells the server what time is left."""


def kind_of(error: SynchroError) -> Retry:
    if isinstance(error, errors.SyncTimeout) and error.details.get("stage") == "stopping":
        return Retry.LOST  # this instance says no more of it; the next owner knows it by its request id
    return error.retry


class Tries:
    """The tries of one call. is_read: nothing that is done twice matters."""

    def __init__(self, deadline: float, request_id: bytes = b"", *, is_read: bool = False) -> None:
        self.deadline = deadline
        self.request_id = request_id
        self.is_read = is_read
        self.unknown_at: str | None = None
        """Endpoint of a try that may have been carried out."""
        self._unknown_txn = ""
        """What that one was called there, if it was told."""
        self.is_bound = False
        """Only one instance can answer: there is no other place to go."""
        self.is_answered = False
        """Somebody said already that nobody leads."""
        self.is_begun = False
        """Somebody answered a part of it: who refuses to be connected now may come back."""
        self._count = 0
        self._received = 0
        self._hopeless = 0
        self._redirects = 0
        self._delay = DELAY_FIRST_S

    @property
    def is_first_sent(self) -> bool:
        """What is sent now was never received by anybody: `known_position` may be that of this moment.

        Any later one could lie above the transaction of an earlier try, which then would not be found.
        """
        return self._received == 0

    @property
    def is_again(self) -> bool:
        """True from the second try on."""
        return self._count > 0

    def failed(
        self, error: SynchroError, endpoint: str, now: float, *, redirected: bool, claimed: bool = True
    ) -> float:
        """Seconds to wait before the next try. Raises what the caller is to get.

        endpoint: "" if there was nowhere to go: nothing was sent then. redirected: a new place to try is
        known. claimed: the queue has an owner, so that request ids are known on all instances and a lost try
        may be repeated elsewhere.
        """
        self._count += 1
        kind = kind_of(error)
        if endpoint and not isinstance(error, CannotConnect):
            self._received += 1
        if kind is Retry.LOST and not self.is_read and endpoint:
            self.unknown_at = endpoint
            self._unknown_txn = error.details.get("txn", self._unknown_txn)
        if kind is Retry.UNKNOWN:
            raise error if self.is_read else self._unknown(error)
        if kind is Retry.REFUSED or self._is_hopeless(error, redirected):
            raise self._final(error)
        if self.unknown_at is not None and not (self.request_id and claimed):
            raise self._unknown(error)
        delay = self._next_delay()
        if redirected and self._redirects < REDIRECTS_AT_ONCE:
            self._redirects += 1
            delay = 0.0
        if now + delay >= self.deadline:
            raise self._final(error)
        return delay

    def again(self, now: float) -> float | None:
        """Seconds until the same is asked again because the answer may be another one; None: time is over."""
        left_s = self.deadline - now
        if left_s <= 0:
            return None
        self._count += 1
        return min(left_s, self._next_delay())

    def _is_hopeless(self, error: SynchroError, redirected: bool) -> bool:
        """Read-only by configuration, and nobody else was named: time does not change that."""
        if redirected or error.details.get("ro_reason") not in ("config", "anon"):
            return False
        self._hopeless += 1
        return self._hopeless > 1

    def _next_delay(self) -> float:
        delay, self._delay = self._delay, min(DELAY_MAX_S, self._delay * 1.6)
        return delay

    def _final(self, error: SynchroError) -> SynchroError:
        return error if self.unknown_at is None else self._unknown(error)

    def _unknown(self, error: SynchroError) -> OutcomeUnknown:
        unknown = outcome_unknown(error, self.request_id, self._unknown_txn)
        unknown.is_only_try = self.unknown_at is None
        return unknown


def outcome_unknown(error: SynchroError, request_id: bytes, txn: str = "") -> OutcomeUnknown:
    """What a call ends with of which a try may have been carried out. error: of the last try. txn: what that
    try was called, if the error does not say it."""
    details: dict[str, object] = dict(error.details)
    origin, _, lsn = str(details.pop("txn", txn)).partition(":")
    name = (int(origin), int(lsn)) if is_number(origin) and is_number(lsn) else None
    details.update(reason=reason_of(error), outcome="unknown")
    details.pop("request_id", None)
    message = error.message
    if kind_of(error) is not Retry.UNKNOWN:
        message = f"an earlier try got no answer, its outcome is unknown; the last one: {message}"
        if kind_of(error) is Retry.LOST:
            message = f"{error.message}; the outcome of the write is unknown"
    unknown = OutcomeUnknown(message, txn=name, request_id=request_id, **details)
    unknown.__cause__ = error
    return unknown
