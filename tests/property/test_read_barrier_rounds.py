"""Linearizable reads, whatever the order of questions, heartbeats and echoes: each that is let through was
proved by heartbeats that were made after it had asked. [Q-60], [Q-62], ReadBarrier.B1"""

from __future__ import annotations

from itertools import count

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from synchro.ids import CallId, InstanceId, Term
from synchro.replication.read_barrier import Electorate, ReadBarrier

OURS = InstanceId(1)
TERM = Term(5)


class Rounds(RuleBasedStateMachine):
    """One owner and its readers; heartbeats that are on their way, and echoes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = ReadBarrier()
        self.clock = count()
        self.calls = count(1)
        self.asked: dict[CallId, int] = {}
        """Readers without an answer, and when they asked."""
        self.heartbeats: list[tuple[int, int]] = []
        """(number, when it was made)"""
        self.echoed: dict[InstanceId, int] = {}
        """The newest heartbeat of our term that a member is known to have had: when it was made."""

    @initialize(members=st.integers(1, 5), data=st.data())
    def electorate(self, members: int, data: st.DataObject) -> None:
        self.members = frozenset(InstanceId(n) for n in range(1, members + 1))
        self.needed = data.draw(st.integers(1, members))

    @rule()
    def ask(self) -> None:
        call = CallId(next(self.calls))
        self.asked[call] = next(self.clock)
        self.barrier.ask(call)
        self.let_through()

    @rule()
    def heartbeat(self) -> None:
        self.heartbeats.append((self.barrier.show(), next(self.clock)))

    @precondition(lambda self: self.heartbeats)
    @rule(data=st.data(), is_ours=st.booleans())
    def echo(self, data: st.DataObject, is_ours: bool) -> None:
        """An ack names the newest heartbeat that its sender had; it may come late, and again."""
        source = data.draw(st.integers(2, 6).map(InstanceId))
        number, made = data.draw(st.sampled_from(self.heartbeats[-4:]))
        if is_ours and source in self.members:
            self.echoed[source] = max(made, self.echoed.get(source, -1))
        self.barrier.echo(source, number, TERM if is_ours else Term(6), TERM)
        self.let_through()

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.asked)))
        del self.asked[call]
        self.barrier.drop(call)
        self.let_through()

    @rule()
    def deposed(self) -> None:
        assert sorted(self.barrier.fail()) == sorted(self.asked)
        self.asked.clear()

    def let_through(self) -> None:
        more = True
        while more:
            ready, more = self.barrier.finish([Electorate(self.members, self.needed)])
            for call in ready:
                asked = self.asked.pop(call)
                proofs = {source for source, made in self.echoed.items() if made > asked}
                assert 1 + len(proofs) >= self.needed

    @invariant()
    def holds(self) -> None:
        self.barrier.check()
        assert self.barrier.is_open == bool(self.asked)


TestRounds = Rounds.TestCase
