"""May this instance trust its own log? The amnesia rule (invariant S14).

Two quorums overlap in 2Q - N instances: with three instances and Q = 2 in one. If that one forgot rows it
had acknowledged, it could elect an owner without them. So an instance whose log is not provably complete
neither votes nor stands, and its acks do not count, until it is as fresh as *every* other registered
member was when first heard: a forgotten vote may be known to one of them only.

That a log is not complete is told by the own disk (`storage/recovery.py`), or by those who remember what this
instance acknowledged (`AckMemory`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from synchro.ids import InstanceId, Lsn, Term
from synchro.vclock import EMPTY_VCLOCK, AckNote, Vclock


class Missing(Enum):
    """What an instance in amnesia still needs of a member."""

    UNHEARD = "was not heard yet"
    FORGOT = "has amnesia too"
    BEHIND = "has rows, or a term, that are missing here"
    """On its disk, or on their way to it."""


@dataclass(slots=True)
class Trust:
    """T1  Once lost, trust comes back only by `update` (or by an operator, at the next start)."""

    is_trusted: bool
    _first_reports: dict[InstanceId, tuple[Vclock, Term]] = field(default_factory=dict)
    _forgetful: set[InstanceId] = field(default_factory=set)
    """The members without a report that were heard to have amnesia too."""
    _unwritten: dict[InstanceId, Lsn] = field(default_factory=dict)
    """Of our rows that are gone here, the newest that a member said it has received and not written."""

    def lose(self) -> None:
        """The log turned out to be incomplete: what was heard before does not count any more."""
        if self.is_trusted:
            self.is_trusted = False
            self._first_reports.clear()

    def hear(self, peer: InstanceId, vclock: Vclock, term: Term) -> None:
        """`peer` reported its written vclock and its term; the first report since the start counts."""
        if not self.is_trusted:
            self._first_reports.setdefault(peer, (vclock, term))

    def hear_forgetful(self, peer: InstanceId) -> None:
        """`peer` has amnesia itself. That is no report: two instances that forgot cannot vouch for each
        other."""
        self._forgetful.add(peer)

    def hear_unwritten(self, peer: InstanceId, lsn: Lsn) -> None:
        """`peer` began to follow, and said which of our rows that are gone here it may have to write yet: up
        to `lsn`; 0: none.

        Until they are on its disk, what it has written is no report: with trust we would give their LSNs to
        other rows, which `peer` would take for those that it has."""
        if lsn:
            self._unwritten[peer] = lsn
            self._first_reports.pop(peer, None)
        else:
            self._unwritten.pop(peer, None)

    def hear_own(self, peer: InstanceId, own: InstanceId, lsn: Lsn) -> None:
        """`peer` has our rows up to `lsn`, which are gone here: they are needed whatever it reported first.
        We write none meanwhile, so nobody gets more of them than there were."""
        report = self._first_reports.get(peer)
        if report is not None and lsn > report[0].get(own):
            self._first_reports[peer] = (report[0].replace(own, lsn), report[1])

    def has_written(self, peer: InstanceId, lsn: Lsn) -> bool:
        """Whether `peer`, which has our rows up to `lsn` on its disk, waits for no other ones."""
        if lsn < self._unwritten.get(peer, 0):
            return False
        self._unwritten.pop(peer, None)
        return True

    def missing(self, others: Iterable[InstanceId], vclock: Vclock, term: Term) -> dict[InstanceId, Missing]:
        """Return why trust does not come back: member -> what is needed of it. The arguments are those of
        `update`."""
        missing: dict[InstanceId, Missing] = {}
        for peer in sorted(others):
            report = self._first_reports.get(peer)
            if report is None:
                if peer in self._unwritten:
                    missing[peer] = Missing.BEHIND
                else:
                    missing[peer] = Missing.FORGOT if peer in self._forgetful else Missing.UNHEARD
            elif not vclock.covers(report[0]) or term < report[1]:
                missing[peer] = Missing.BEHIND
        return missing

    def update(self, others: frozenset[InstanceId], vclock: Vclock, term: Term) -> bool:
        """Return True if trust came back now. others: registered members but this one; vclock, term: own,
        persisted.

        Alone in the set nobody can say what was forgotten, so a lone member does not heal by itself.
        """
        if self.is_trusted or not others:
            return False
        if self.missing(others, vclock, term):
            return False
        self.is_trusted = True
        return True


_NOTHING = AckNote(EMPTY_VCLOCK)


class AckMemory:
    """What each peer once said it has on disk; it is told so whenever it subscribes (S14).

    M1  What is told of a peer does not go down while that peer may have lost rows: only when it says that its
        amnesia ended, which is to trust it anew, or when it is no member any more.

    A memory that is a little old weakens the detection and nothing else (ADR 14): so it is kept on disk, but
    lazily.
    """

    def __init__(self, remembered: Mapping[InstanceId, AckNote] | None = None) -> None:
        self._before: dict[InstanceId, AckNote] = dict(remembered or {})
        """What each peer had acknowledged up to its last Hello."""
        self._newest: dict[InstanceId, Vclock] = {}
        """What each peer has acknowledged since its last Hello; these acks never go back."""

    def subscribed(self, peer: InstanceId, vclock: Vclock, *, counts: bool) -> Vclock:
        """A peer said Hello. Returns what it is told: the highest vclock that it acknowledged before."""
        told = self.of(peer)
        self._newest.pop(peer, None)
        if counts and told.forgot:
            told = _NOTHING  # AckMemory.M1
        self._before[peer] = AckNote(told.vclock.merge(vclock) if counts else told.vclock, not counts)
        return told.vclock

    def acked(self, peer: InstanceId, vclock: Vclock, *, counts: bool) -> None:
        """An ack came on the newest stream of this peer."""
        forgot = self._before.get(peer, _NOTHING).forgot
        if counts:
            if forgot:
                self._before[peer] = AckNote(vclock)  # AckMemory.M1
            self._newest[peer] = vclock
        elif not forgot:
            self._before[peer] = AckNote(self.of(peer).vclock, forgot=True)
            self._newest.pop(peer, None)

    def of(self, peer: InstanceId) -> AckNote:
        before = self._before.get(peer, _NOTHING)
        newest = self._newest.get(peer)
        return before if newest is None else before._replace(vclock=before.vclock.merge(newest))

    def export(self, members: Iterable[InstanceId]) -> dict[InstanceId, AckNote]:
        """What goes to the disk. members: others are forgotten."""
        self._before = {peer: self.of(peer) for peer in members if peer in self._before}
        self._newest = {peer: newest for peer, newest in self._newest.items() if peer in self._before}
        return dict(self._before)
