"""A transaction watched to its end, at one instance after the other: what the three faces share. No I/O."""

from __future__ import annotations

from typing import Final

from synchro.client import requests
from synchro.client.model import TxnId
from synchro.client.plans import Changes, Plan, Plans
from synchro.client.replies import Stage, TxnState, txn_state
from synchro.client.requests import Message
from synchro.client.retry import GRACE_S, Tries
from synchro.errors import SynchroError

_ORDER: Final[tuple[Stage, ...]] = ("submitted", "on_disk", "committed", "rolled_back")


class Sought:
    """Whether an instance that does not know a transaction may know it later [Q-48].

    txn: its name; None: it is sought by a request id, of which nobody can say that it will not come.
    """

    def __init__(self, txn: TxnId | None) -> None:
        self._txn = txn
        self._had_by = ""

    def may_come(self, header: Message, endpoint: str) -> bool:
        """header: of the answer that says UNKNOWN. Who has rows up to this LSN and does not know it knows it
        never: it is older than what is remembered. The vclock may have grown since the answer was made, so
        that counts from the second answer on."""
        if self._txn is None:
            return True
        origin, lsn = self._txn
        if header.vclock.get(origin, 0) < lsn:
            self._had_by = ""
            return True
        is_first, self._had_by = self._had_by != endpoint, endpoint
        return is_first


class TransactionWatch:
    """One call of `watch_transaction`. Its caller asks `where`, reads `changes` there, and says by `ended` or
    `lost` that there are no more, until it `is_over`; then it tells the `last_word`.

    V1  What is told after a change of the instance lies behind what was told before it.
    V2  Between two questions lies a pause; none begins after the deadline.
    """

    def __init__(self, plans: Plans, request: Message, txn: TxnId | None, timeout_s: float) -> None:
        """request: a WatchTransactionRequest. timeout_s: seconds for all of it."""
        self.is_over = False
        self._plans = plans
        self._request = request
        self._sought = Sought(txn)
        self._tries = Tries(plans.now() + timeout_s, is_read=True)
        self._place = ""
        self._told: TxnState | None = None
        self._is_behind = False
        """What this instance says may be older than what was told."""
        self._unknown: TxnState | None = None
        """The last answer, if that was UNKNOWN."""

    def where(self) -> Plan[str]:
        """Which instance to ask. Raises what the last try ended with when time is over."""
        while True:
            self._place = ""
            try:
                return (yield from self._plans.place_with_session(self._informed()))
            except SynchroError as error:
                yield from self.lost(error)

    def _informed(self) -> Plan[str]:
        self._place = yield from self._plans.informed_place(self._tries)
        return self._place

    def changes(self) -> Changes[TxnState | None]:
        """What to ask there; None in place of a state that is not told."""
        left_s = max(0.0, self._tries.deadline - self._plans.now())
        self._request.timeout.CopyFrom(requests.duration(left_s))
        self._is_behind = self._told is not None
        return Changes("data", "WatchTransaction", self._request, self._heard, left_s + GRACE_S)

    def _heard(self, message: Message) -> TxnState | None:
        self._tries.is_begun = True
        state, told = txn_state(message), self._told
        if state.stage == "unknown":
            self._unknown = state
            self.is_over = not self._sought.may_come(message.header, self._place)
            return None
        self._unknown = None
        self.is_over = state.is_end
        if self._is_behind and told is not None and _rank(state) <= _rank(told):
            return None  # TransactionWatch.V1
        self._is_behind = False
        self._told = state
        return state

    def lost(self, error: SynchroError) -> Plan[None]:
        """The instance is: after a pause another one may be asked. Raises `error` if not."""
        if self.is_over:
            return
        yield from self._plans.after_failure(self._tries, error, self._place)

    def ended(self) -> Plan[None]:
        """The instance had no more to say: it knows the end, or nothing at all, or stops, or time is over."""
        if not self.is_over:
            self.is_over = not (yield from self._plans.not_yet(self._tries, self._place))

    def last_word(self) -> TxnState | None:
        """That the last one who was asked does not know it; None: that is not so."""
        return self._unknown


def _rank(state: TxnState) -> tuple[int, int]:
    return _ORDER.index(state.stage), len(state.acked_by)


__all__ = ["Sought", "TransactionWatch"]
