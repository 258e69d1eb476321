"""What clients are told and what they read, compared with what the logs say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from synchro.ids import InstanceId, RequestId
from synchro.instance import events as ev
from synchro.queue.entry import EntryState, LimboEntry
from tests.sim.model import TxnKey

if TYPE_CHECKING:
    from tests.sim.checkers import Checks
    from tests.sim.process import Process
    from tests.sim.world import World


class Answers:
    """Those of one world; what else is known of it stands in its `Checks`."""

    def __init__(self, world: World, checks: Checks) -> None:
        self.world = world
        self.checks = checks
        self._fail = checks.fail
        self.told_committed: dict[TxnKey, str] = {}
        self.told_here: dict[int, set[TxnKey]] = {}
        """Instance -> own transactions of which it told a caller that they are committed"""
        self.unknown: dict[TxnKey, str] = {}
        """Transaction that an unknown outcome named -> what its caller wrote"""

    def told(self, number: int, outcome: ev.Outcome) -> None:
        """S3, S4: what an answer says is what the logs say."""
        match outcome:
            case ev.Committed(txn=txn) if txn is not None:
                key = self.checks.shared.get(txn, txn)
                fate = self.checks.fates.get(key)
                self.told_committed.setdefault((key[0], key[1]), f"{number} at {self.world.now:.3f}")
                if key[0] == number:
                    self.told_here.setdefault(number, set()).add((key[0], key[1]))
                if fate is None or not fate[0]:
                    self._fail("S4", f"{number} says {txn} is committed; its fate is {fate}")
            case ev.Rejected(error=error) if error.reason == "SYNC_ROLLBACK":
                self.world.hits["client told of a rollback"] += 1
            case ev.FateKnown(fate=told, txn=txn) if txn is not None and told in (
                ev.Fate.COMMITTED,
                ev.Fate.ROLLED_BACK,
            ):
                key = self.checks.shared.get(txn, txn)
                fate = self.checks.fates.get(key)
                is_committed = told is ev.Fate.COMMITTED
                is_nop = (key[0], key[1]) in self.checks.nops
                if (fate is None and not is_nop) or (fate is not None and fate[0] != is_committed):
                    self._fail("S4", f"{number} says {txn} is {told}; its fate is {fate}, nop: {is_nop}")
                if is_nop and is_committed:
                    self._fail(
                        "S5", f"{number} says {txn} is committed; {self.checks.nops[key]} made it a NOP"
                    )

    def _logged_fate(self, process: Process, key: TxnKey) -> ev.Fate | None:
        """What the log of an instance says of it; None: nothing, or it is still in the queue."""
        model = process.machine.model
        if key in model.nops:
            return ev.Fate.ROLLED_BACK
        fate = model.fates.get(key)
        return None if fate is None else ev.Fate.COMMITTED if fate else ev.Fate.ROLLED_BACK

    def told_late(self, process: Process, txn: TxnKey, outcome: ev.Outcome) -> None:
        """S5: an answer at once, about an old transaction, is what the log of the one that answers says."""
        want = self._logged_fate(process, self.checks.shared.get(txn, txn))
        got = outcome.fate if isinstance(outcome, ev.FateKnown) else outcome
        if want is not None and got is not want:
            self._fail("S5", f"{process.number} says {txn} is {got}; its log says {want}")

    def told_request_late(self, process: Process, request_id: RequestId, outcome: ev.Outcome) -> None:
        """S12: a request that is decided in the log of the one that is asked is known there, done once."""
        known = self.checks.requests.get(request_id)
        if known is None:
            return
        if self._logged_fate(process, self.checks.shared.get(known, known)) is not ev.Fate.COMMITTED:
            return
        match outcome:
            case ev.Committed(txn=txn, duplicate=True) if txn == known:
                return
            case ev.FateKnown(fate=ev.Fate.COMMITTED, txn=txn) if txn == known:
                return
            case ev.FateKnown(fate=ev.Fate.UNKNOWN) if self.world.first_position is not None:
                self.world.hits["request forgotten"] += 1
                return
            case ev.Rejected(error=error) if error.reason == "REQUEST_EXPIRED":
                if self.world.first_position is not None:
                    self.world.hits["request expired"] += 1
                    return
        self._fail("S12", f"{process.number} knows request {request_id.hex()} as {outcome}; it is {known}")

    def told_together(
        self, number: int, request_id: RequestId | None, value: object, outcome: ev.Committed
    ) -> None:
        """S12: the LSN that a caller is told is that of its row, with its request id if it has one."""
        found = outcome.txn if request_id is None else self.checks.requests.get(request_id)
        if found != outcome.txn:
            self._fail("S12", f"{number} says request {request_id!r} is {outcome.txn}; it is {found}")
        row = None if found is None else self.checks.callers.get(found)
        if row is not None and row.value != value:
            self._fail("S12", f"{number} says that {value} is {outcome.txn}; that is {row.value}")

    def told_unknown(self, process: Process, value: str, outcome: ev.OutcomeUnknown) -> None:
        """S8: the transaction that an unknown outcome names is on that disk, and is what was asked for."""
        txn = outcome.txn
        if txn is None or not process.is_alive:
            return
        number = process.number
        self.world.hits["an unknown outcome names its transaction"] += 1
        row = self.checks.callers.get(txn)
        written = self.checks.bodies.get(self.checks.shared.get(txn, txn), b"")
        if txn.lsn > process.journal.vclock.get(txn.origin):
            self._fail("S8", f"{number} names {txn}, which is not on its disk")
        if (row is not None and row.value[1] != value) or value.encode() not in written:
            self._fail("S12", f"{number} says that {value} is {txn}; that is {row or written!r}")
        self.unknown[txn] = value

    def unknown_are_decided(self, process: Process) -> None:
        """S5: what became of each transaction that an unknown outcome named is known in the end; but of what
        one had only itself when it was removed, nobody knows."""
        vclock = process.instance.vclock
        for txn in self.unknown:
            origin, lsn = txn
            if origin in self.world.leavers.left and lsn > vclock.get(InstanceId(origin)):
                continue
            if self._logged_fate(process, self.checks.shared.get(txn, txn)) is None:
                self._fail("S5", f"{process.number} does not know what became of {txn}")

    def read_is_linearizable(self, process: Process, asked_at: float, queue: Sequence[LimboEntry]) -> None:
        """S13, ADR 17: whoever answers is the last owner, or was when it was asked; with any quorum. ADR 54:
        what stood in its queue then is decided. queue: its entries when it was asked."""
        self.world.hits["a linearizable read waits for a verdict"] += bool(queue)
        waiting = [e for e in queue if not e.is_local and e.state is EntryState.SUBMITTED]
        if waiting:
            self._fail(
                "S13",
                f"{process.number} answers a linearizable read asked for at {asked_at:.3f}, but what stood "
                f"in its queue then has no verdict: {waiting}",
            )
        term = process.instance.limbo.term
        later = [(at, newer) for newer, at in self.checks.claims.items() if newer > term and at < asked_at]
        if later:
            at, newer = min(later)
            self._fail(
                "S13",
                f"{process.number} of term {term} answers a linearizable read asked for at "
                f"{asked_at:.3f}, but the queue was claimed in term {newer} at {at:.3f}",
            )

    def read(self, number: int, key: object, row: tuple[object, ...] | None) -> None:
        """S4: only committed data is read."""
        if row is not None and row[1] not in self.checks.versions.get(key, ()):
            self._fail("S4", f"{number}: read {row}, which is not committed anywhere")
