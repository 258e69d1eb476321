"""Limbos wired by hand: every row, ack and term moves only when the story says so."""

from __future__ import annotations

from dataclasses import dataclass

from synchro.ids import LOCAL, InstanceId, Lsn, Term
from synchro.queue.effects import EntriesCommitted, EntriesRolledBack, LimboEffect, OwnerChanged, WriteControl
from synchro.queue.entry import LimboEntry
from synchro.queue.limbo import Limbo
from synchro.queue.request_filter import DataVerdict
from synchro.queue.state import LimboState
from synchro.row import Confirm, Control, Demote, Promote
from synchro.vclock import EMPTY_VCLOCK, Vclock

A, B, C = InstanceId(1), InstanceId(2), InstanceId(3)


@dataclass(frozen=True)
class Data:
    wait_ack: bool = True
    is_nop: bool = False


@dataclass(frozen=True)
class LogRow:
    origin: InstanceId
    lsn: Lsn
    body: Data | Control


class Site:
    """A limbo, its log, and what became of its entries. `now` is moved by hand."""

    def __init__(
        self, self_id: InstanceId, *, members: int = 3, quorum: int = 2, max_size: int = 0, first_lsn: int = 1
    ) -> None:
        self.id = self_id
        self.now = 0.0
        self.log: list[LogRow] = []
        self.unsynced: list[LogRow] = []
        self.assigned = self.written = Vclock({self_id: Lsn(first_lsn - 1)})
        self.committed: list[int] = []
        self.rolled_back: list[tuple[int, Term]] = []
        self.changes: list[OwnerChanged] = []
        registered = frozenset(InstanceId(i + 1) for i in range(members))
        self.limbo = Limbo(self_id=self_id, registered=registered, quorum=quorum, max_size=max_size)
        self.run(self.limbo.recovery_finished(self.now))

    # --- raft

    def lead(self, term: int) -> Site:
        return self.raft(term, is_leader=True)

    def follow(self, term: int) -> Site:
        return self.raft(term, is_leader=False)

    def raft(self, term: int, *, is_leader: bool, persisted: int | None = None) -> Site:
        self.run(
            self.limbo.raft_changed(
                volatile_term=Term(term),
                persisted_term=Term(term if persisted is None else persisted),
                is_leader=is_leader,
                now=self.now,
            )
        )
        return self

    # --- rows

    def write(self, *, wait_ack: bool = True, is_local: bool = False, size: int = 1) -> int:
        """An own transaction; returns its LSN. It is on its way to disk until `sync`."""
        self.limbo.check_submit(is_fully_local=is_local)
        self.announce()
        origin = LOCAL if is_local else self.id
        lsn = Lsn(self.assigned.get(origin) + 1)
        self.append(LogRow(origin, lsn, Data(wait_ack)), size=size)
        return lsn

    def announce(self) -> Site:
        """Nothing else was written for a while, or something is about to be: tell what was committed."""
        body = self.limbo.announce()
        if body is not None:
            self.append(LogRow(self.id, Lsn(self.assigned.get(self.id) + 1), body))
        return self

    def append(self, row: LogRow, *, size: int = 1) -> None:
        self.assigned = self.assigned.replace(row.origin, row.lsn)
        self.unsynced.append(row)
        if isinstance(row.body, Data) and not row.body.is_nop:
            self.limbo.submit(LimboEntry(row.origin, row.lsn, row.body.wait_ack, size, self.now))

    def sync(self) -> Site:
        """The disk catches up, with the control rows that follow from it too."""
        while self.announce().unsynced:
            rows, self.unsynced = self.unsynced, []
            for row in rows:
                self.written = self.written.replace(row.origin, row.lsn)
            self.log += rows
            self.run(self.limbo.written(self.written, self.now))
            for row in rows:
                if not isinstance(row.body, Data):
                    self.run(self.limbo.control_written(row.origin, row.lsn, row.body, self.now))
        self.limbo.check()
        return self

    def cut_back(self) -> list[int]:
        self.unsynced = []
        self.assigned = self.written
        return [entry.lsn for entry in self.limbo.cut_back()]

    def receive(self, row: LogRow) -> None:
        """One row of a stream, synced at once."""
        body = row.body
        if isinstance(body, Data):
            if self.limbo.filter_data(row.origin, wait_sync=True, is_nop=body.is_nop) is DataVerdict.NOP:
                row = LogRow(row.origin, row.lsn, Data(body.wait_ack, is_nop=True))
        else:
            self.limbo.filter_control(row.origin, row.lsn, body)
        self.append(row)
        self.sync()

    def pull(self, other: Site) -> Site:
        """Everything `other` has on disk and we have not, in its order."""
        for row in list(other.log):
            if row.origin != LOCAL and row.lsn > self.assigned.get(row.origin):
                self.receive(row)
        return self

    def acked_by(self, *others: Site) -> Site:
        for other in others:
            self.run(self.limbo.ack(other.id, other.written, self.now))
        return self

    def restart(self, state: LimboState | None = None, vclock: Vclock = EMPTY_VCLOCK) -> Site:
        """Recover from the log alone, or from a snapshot and the log behind it; counts start anew."""
        limbo = self.limbo
        self.limbo = Limbo(
            self_id=self.id, registered=limbo.registered, quorum=limbo.quorum, max_size=limbo.max_size
        )
        self.committed, self.rolled_back, self.changes, self.unsynced = [], [], [], []
        if state is not None:
            self.limbo.restore(state)
        for row in self.log:
            if row.lsn <= vclock.get(row.origin):
                continue
            if not isinstance(row.body, Data):
                self.run(self.limbo.control_written(row.origin, row.lsn, row.body, self.now))
            elif not row.body.is_nop:
                self.limbo.submit(LimboEntry(row.origin, row.lsn, True, 1, self.now))
        self.run(self.limbo.recovery_finished(self.now))
        self.run(self.limbo.written(self.written, self.now))
        self.limbo.check()
        return self

    def run(self, effects: list[LimboEffect]) -> None:
        for effect in effects:
            match effect:
                case WriteControl(body):
                    lsn = Lsn(self.assigned.get(self.id) + 1)
                    self.append(LogRow(self.id, lsn, body))
                    self.limbo.control_sent(body, lsn)
                case EntriesCommitted(entries):
                    self.committed += [entry.lsn for entry in entries]
                case EntriesRolledBack(entries, by_term=by_term):
                    self.rolled_back += [(entry.lsn, by_term) for entry in entries]
                case OwnerChanged():
                    self.changes.append(effect)

    # --- what the stories look at

    @property
    def lsns(self) -> list[int]:
        return [entry.lsn for entry in self.limbo.entries]

    @property
    def control_rows(self) -> list[Control]:
        """Own control rows, on disk or on their way."""
        rows = [*self.log, *self.unsynced]
        return [row.body for row in rows if row.origin == self.id and not isinstance(row.body, Data)]

    @property
    def pending_terms(self) -> list[int]:
        return [promote.term for promote in self.limbo.pending]


def promote(prev_owner: int, lsn: int, term: int, prev_term: int) -> Promote:
    return Promote(InstanceId(prev_owner), Lsn(lsn), Term(term), Term(prev_term))


def demote(prev_owner: int, lsn: int, term: int, prev_term: int) -> Demote:
    return Demote(InstanceId(prev_owner), Lsn(lsn), Term(term), Term(prev_term))


def confirm(owner: int, lsn: int) -> Confirm:
    return Confirm(InstanceId(owner), Lsn(lsn))


def cluster(*, quorum: int = 2) -> tuple[Site, Site, Site]:
    """Three instances; 1 owns the queue since term 2, and all have read that. 1's next LSN is 3."""
    sites = Site(A, quorum=quorum), Site(B, quorum=quorum), Site(C, quorum=quorum)
    claim(*sites, term=2)
    return sites


def claim(owner: Site, *others: Site, term: int) -> None:
    """`owner` is elected and takes the queue over; everybody hears of everything."""
    for other in others:
        other.follow(term)
    owner.lead(term).sync()
    for _ in range(3):
        for other in others:
            other.pull(owner)
            owner.acked_by(other)
        owner.sync()
