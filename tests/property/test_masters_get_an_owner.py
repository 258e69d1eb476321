"""Masters that write get an owner of the queue, and it a successor, while rows are on the way: Raft.R15.

Nothing is at fault here: messages and rows take their time, in any order of the links, and no timer rings. So
no stream may stop, nobody may lose a row, and the promote is done.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synchro.ids import CallId
from synchro.instance import events as ev
from tests.mesh import ASYNC, Mesh

NUMBERS = st.integers(1, 3)
PAIRS = st.permutations([1, 2, 3]).map(lambda order: (order[0], order[1]))
STEPS = st.tuples(st.sampled_from(["write", "deliver", "exchange", "exchange"]), PAIRS)
Step = tuple[str, tuple[int, int]]


class Masters:
    """Three of them, without elections."""

    def __init__(self) -> None:
        self.mesh = Mesh(3)
        self.mesh.settle()
        self.calls: dict[CallId, int] = {}

    def take(self, steps: list[Step]) -> None:
        mesh = self.mesh
        for kind, (a, b) in steps:
            match kind:
                case "write":
                    key = len(self.calls) + 1
                    self.calls[mesh.write(a, (key, a), ASYNC)] = key
                case "deliver":
                    mesh.deliver(a, b, limit=1)
                case _:
                    for source, target in ((a, b), (b, a)):
                        mesh.persist(source)
                        mesh.deliver(source, target)
                        mesh.persist(target)

    def promote(self, number: int) -> CallId:
        call = self.mesh.call_id()
        self.mesh.step(number, ev.PromoteRequested(call))
        return call


@given(
    before=st.lists(STEPS, max_size=8),
    asked=NUMBERS,
    after=st.lists(STEPS, max_size=15),
    next_asked=NUMBERS,
    is_given_up=st.booleans(),
)
def test_no_stream_stops_and_no_row_is_lost(
    before: list[Step],
    asked: int,
    after: list[Step],
    next_asked: int,
    is_given_up: bool,
) -> None:
    """is_given_up: by a demote, so that all write again before the next promote; else only the owner does."""
    masters = Masters()
    mesh = masters.mesh
    for number in (asked, next_asked):
        masters.take(before)
        promoted = masters.promote(number)
        masters.take(after)
        mesh.settle()
        outcome = mesh.outcome(promoted)
        assert isinstance(outcome, ev.Promoted), outcome
        if is_given_up:
            mesh.demote(number)
    assert not any(member.stopped for member in mesh.members.values())
    kept = {key for call, key in masters.calls.items() if mesh.committed(call)}
    for number in mesh.members:
        assert {row[0] for row in mesh.rows(number, ASYNC)} == kept
