"""Who holds what on disk, and which LSN a quorum holds. Rules [Q-20], [Q-22], [Q-30..32], [L-9], [L-10]."""

from __future__ import annotations

from collections.abc import Iterable, Set

from synchro.ids import InstanceId, Lsn
from synchro.vclock import EMPTY_VCLOCK, Vclock


def quorum_lsn(lsns: Iterable[Lsn], quorum: int) -> Lsn:
    """Return the highest LSN that at least `quorum` of the instances hold on disk; 0 while there is none
    [Q-22].

    lsns: one per instance that counts: the last LSN of one origin that it has synced, 0 for none. quorum:
    from 1 up; 1 is the own disk [Q-31].
    """
    assert quorum >= 1
    held = sorted(lsns, reverse=True)
    return held[quorum - 1] if len(held) >= quorum else Lsn(0)


class Acks:
    """The written vclock of each instance, as far as it has told us; that of this instance, and of an owner
    before us [P-15], included [Q-20]. What is acknowledged need not be here yet [Q-23].

    A1  An ack never lowers what is known of its source, except at a new Hello [L-10].
    A2  Only registered instances count, and one whose removal is in the own log does not (ADR 41); acks of
        others are kept, for the day they are registered.
    A3  The effective quorum is never more than the registered instances: a set that is still growing can
        elect and promote. The caller refuses synchronous client writes meanwhile.
    A4  `lowest` is the smallest quorum with which a registered instance may be elected, as far as they have
        said: quorums change while instances run, one after the other (ADR 38).
    """

    def __init__(self, registered: frozenset[InstanceId], quorum: int) -> None:
        self._vclocks: dict[InstanceId, Vclock] = {}
        self._quorums: dict[InstanceId, int] = {}
        self.members_changed(registered, quorum)

    def members_changed(self, registered: frozenset[InstanceId], quorum: int) -> None:
        """Other instances count, or another quorum."""
        self.registered = registered
        self.quorum = quorum
        self.effective_quorum = max(1, min(quorum, len(registered)))  # Acks.A3
        self._compare()

    def quorum_said(self, source: InstanceId, quorum: int) -> bool:
        """`source` needs so many votes; 0: it does not say, and has the quorum of this instance. False: that
        is known."""
        if self._quorums.get(source, 0) == quorum:
            return False
        self._quorums[source] = quorum
        self._compare()
        return True

    def _compare(self) -> None:
        members, own = len(self.registered), self.effective_quorum
        said = [self._quorums[i] for i in self.registered if self._quorums.get(i)]
        self.lowest = max(1, min([own, *said]))  # Acks.A4
        self.is_majority = 2 * self.lowest > members
        """Whether any two quorums share an instance."""
        self.meets_all = own + self.lowest > members
        """Whether each instance that is elected has a voter among those that the own quorum counted."""

    def record(self, source: InstanceId, vclock: Vclock) -> None:
        known = self._vclocks.get(source)
        if known is not None and not vclock.covers(known, with_local=True):
            vclock = known.merge(vclock)  # Acks.A1
        self._vclocks[source] = vclock

    def of(self, source: InstanceId) -> Vclock:
        """What it has on disk, as far as it said."""
        return self._vclocks.get(source, EMPTY_VCLOCK)

    def forget(self, source: InstanceId, vclock: Vclock) -> None:
        """A new stream of `source` begins: its Hello says `vclock`, and what it said before is void
        [L-10]."""
        self._vclocks[source] = vclock

    @property
    def heard(self) -> Set[InstanceId]:
        """Who said something that counts since its last Hello; one without trust in its log did not."""
        return {source for source, vclock in self._vclocks.items() if vclock}

    def quorum_lsn(self, origin: InstanceId) -> Lsn:
        """The highest LSN of `origin` that an effective quorum holds; 0 if there is none."""
        vclocks = self._vclocks
        held = [vclocks[i].get(origin) for i in self.registered if i in vclocks]  # Acks.A2
        return quorum_lsn(held, self.effective_quorum)

    def holders(self, origin: InstanceId, lsn: Lsn) -> frozenset[InstanceId]:
        """The registered instances that are known to hold this row."""
        return frozenset(i for i in self.registered if self._vclocks.get(i, EMPTY_VCLOCK).get(origin) >= lsn)

    def check(self) -> None:
        assert self.quorum >= 1
        assert self.effective_quorum == max(1, min(self.quorum, len(self.registered)))  # Acks.A3
        assert 1 <= self.lowest <= self.effective_quorum  # Acks.A4
        assert self.meets_all or not self.is_majority  # Acks.A4
