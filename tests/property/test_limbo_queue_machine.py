"""`LimboQueue` against a plain list that is searched from end to end for every question."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from synchro.ids import LOCAL, InstanceId, Lsn
from synchro.queue.entry import LimboEntry
from synchro.queue.limbo_queue import LimboQueue
from synchro.vclock import Vclock

OWNERS = (InstanceId(1), InstanceId(2))


@dataclass
class Item:
    """The model of an entry."""

    lsn: int
    is_local: bool
    size: int
    count: int
    is_written: bool = False


class LimboQueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue = LimboQueue(OWNERS[0])
        self.items: list[Item] = []
        self.top = {False: 0, True: 0}
        self.reached = {False: 0, True: 0}
        self.confirmed = 0

    def take(self, items: list[Item], entries: list[LimboEntry]) -> None:
        """The queue says that these left it, in this order."""
        assert [(i.lsn, i.is_local, i.size, i.count) for i in items] == [
            (e.lsn, e.is_local, e.size, e.count) for e in entries
        ]
        self.items = [item for item in self.items if item not in items]

    def completed(self, upto: int) -> list[Item]:
        """What the rules say leaves on the left: slow, one look at each item."""
        left: list[Item] = []
        for item in self.items:
            if not item.is_written if item.is_local else item.lsn > upto:
                break
            left.append(item)
        return left

    @rule(is_local=st.booleans(), size=st.integers(0, 5), gap=st.integers(1, 3), count=st.integers(1, 4))
    def append(self, is_local: bool, size: int, gap: int, count: int) -> None:
        """A shared one (ADR 13) has an LSN for each of its `count` callers; none is local."""
        is_local = is_local and len(self.items) > 0
        count = 1 if is_local else count
        self.top[is_local] += max(gap, count)
        item = Item(self.top[is_local], is_local, size, count)
        origin = LOCAL if is_local else self.queue.owner_id
        self.items.append(item)
        self.queue.append(LimboEntry(origin, Lsn(item.lsn), True, size, 0.0, count))

    @rule(count=st.integers(1, 4))
    def write(self, count: int) -> None:
        for item in [item for item in self.items if not item.is_written][:count]:
            item.is_written = True
        for item in self.items:
            if item.is_written:
                self.reached[item.is_local] = max(self.reached[item.is_local], item.lsn)
        vclock = Vclock({self.queue.owner_id: Lsn(self.reached[False]), LOCAL: Lsn(self.reached[True])})
        expected = self.completed(0)
        self.take(expected, self.queue.mark_written(vclock))

    @rule(lsn=st.integers(0, 60))
    def confirm_what_a_quorum_holds(self, lsn: int) -> None:
        """As the owner does: rows that are on its own disk; the LSN need not be that of an entry."""
        held = min(lsn, self.reached[False])
        expected = self.completed(held)
        self.confirmed = max([self.confirmed, *(item.lsn for item in expected if not item.is_local)])
        self.take(expected, self.queue.confirm_held(Lsn(held), now=0.0))

    @rule(index=st.integers(0, 5))
    def confirm_an_entry(self, index: int) -> None:
        """As a replica reads it: written rows only, never counted."""
        lsns = [item.lsn for item in self.items if not item.is_local and item.is_written]
        if index < len(lsns):
            expected = self.completed(lsns[index])
            self.confirmed = lsns[index]
            self.take(expected, self.queue.confirm(Lsn(self.confirmed), now=0.0))

    @rule()
    def cut_back(self) -> None:
        lost = [item for item in self.items if not item.is_written]
        self.take(lost[::-1], self.queue.cut_back())

    @precondition(lambda self: all(item.is_local or item.is_written for item in self.items))
    @rule(owner=st.sampled_from(OWNERS))
    def hand_over(self, owner: InstanceId) -> None:
        first = next((n for n, item in enumerate(self.items) if not item.is_local), len(self.items))
        self.take(self.items[first:][::-1], self.queue.rollback_rest())
        self.confirmed = self.top[False]
        self.queue.transfer(owner, Lsn(self.confirmed))

    @invariant()
    def agrees(self) -> None:
        queue = self.queue
        queue.check()
        global_lsns = [item.lsn for item in self.items if not item.is_local]
        told_lsns = [item.lsn - item.count + 1 for item in self.items if not item.is_local]
        assert [(e.lsn, e.is_local, e.is_written) for e in queue] == [
            (i.lsn, i.is_local, i.is_written) for i in self.items
        ]
        assert len(queue) == len(self.items)
        assert queue.first_lsn == min(global_lsns, default=0)
        assert queue.last_lsn == max(global_lsns, default=0)
        assert queue.first_told_lsn == min(told_lsns, default=0)
        assert queue.size == sum(item.size for item in self.items)
        assert queue.count == sum(item.count for item in self.items)
        assert queue.confirmed_lsn == self.confirmed
        for lsn in range(self.top[False] + 2):
            found = queue.entry_at(Lsn(lsn))
            first = min((one for one in global_lsns if one >= lsn), default=None)
            assert (None if found is None else found.lsn) == first
            assert found is None or not found.is_local


TestLimboQueueMachine = LimboQueueMachine.TestCase
TestLimboQueueMachine.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True
)
