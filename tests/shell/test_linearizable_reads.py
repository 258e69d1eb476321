"""Linearizable reads of one turn share a question to the core, and each is answered on its own [Q-62]. The
host is a list of calls here, and nothing waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from synchro import errors
from synchro.config import Limits
from synchro.instance.events import ReadBarrierRequested, Rejected
from synchro.row import Dml, RowType
from synchro.rpc import slices
from synchro.rpc.data_service import DataService
from synchro.rpc.generated.v1 import data_pb2
from synchro.rpc.host import RpcHost
from synchro.storage import schema_ops
from tests.shell.fake_node import FakeNode
from tests.shell.held_call import HeldCall
from tests.shell.services_world import pack, unpacked

LINEARIZABLE = data_pb2.READ_MODE_LINEARIZABLE


class Host(RpcHost):
    """Keeps what is to be called later."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.later.append(callback)


def read(number: int, *, space: str = "bands", timeout_s: float = 5.0) -> HeldCall:
    request = data_pb2.SelectRequest(space=space, read=LINEARIZABLE)
    request.key.msgpack = pack(number)
    request.timeout.FromMilliseconds(int(timeout_s * 1000))
    return HeldCall(request)


class World:
    """Ten rows of a synchronous space, `bands`, and one of an asynchronous one, `plain`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.node = FakeNode(None, limits)
        self.node.hold = True
        self.host = Host()
        self.reads = DataService(self.node, self.host).reads
        memtx = self.node.instance.memtx
        for name, is_sync in (("bands", True), ("plain", False)):
            memtx.commit(memtx.prepare(schema_ops.create_space(memtx, name, is_sync=is_sync)))
            memtx.commit(memtx.prepare(schema_ops.create_index(memtx, name, "primary")))
        for number in range(10):
            self.write(number, "old")

    def write(self, number: int, text: str) -> None:
        memtx = self.node.instance.memtx
        space_id = memtx.catalog.space("bands").id
        memtx.commit(memtx.prepare([Dml(RowType.REPLACE, space_id, b"", value=(number, text))]))

    def turn(self, *calls: HeldCall) -> None:
        """These come in one turn."""
        self.reads.submit([(call, call.request) for call in calls])
        self.reads.check()

    def decide(self) -> None:
        """The core answers what it was asked, and what waits for a later round is done."""
        self.node.release()
        self.reads.check()
        while self.host.later:
            self.host.later.pop(0)()
            self.reads.check()

    @property
    def questions(self) -> int:
        return sum(isinstance(step, ReadBarrierRequested) for step in self.node.steps)


def tuples(calls: Sequence[HeldCall]) -> list[Any]:
    return [unpacked(call.answer.tuples) for call in calls]


def test_reads_of_one_turn_share_a_question_and_each_has_its_own_answer() -> None:
    """LinearizableReads.G1: by what is read when the core has answered, and not before."""
    world = World()
    calls = [read(number) for number in (1, 2, 77)]
    world.turn(*calls)
    assert world.questions == 1 and not any(call.is_over for call in calls)
    world.write(2, "new")
    world.decide()
    assert tuples(calls) == [[[1, "old"]], [[2, "new"]], []]
    assert all(call.answer.read_at and call.answer.header.instance_id == 1 for call in calls)
    assert world.reads.waiting == 0


def test_those_of_the_next_turn_ask_anew() -> None:
    """What was asked before they came proves nothing for them (ReadBarrier.B1 says which round they join)."""
    world = World()
    first, second = read(1), read(2)
    world.turn(first)
    world.turn(second)
    assert world.questions == 2
    world.decide()
    assert tuples([first, second]) == [[[1, "old"]], [[2, "old"]]]


def test_who_waits_longer_is_not_refused_with_the_others() -> None:
    world = World()
    calls = [read(1, timeout_s=0.5), read(2, timeout_s=7.0), read(3, timeout_s=0.5)]
    world.turn(*calls)
    assert sorted(world.node.times.values()) == [0.5, 7.0]
    world.decide()
    assert tuples(calls) == [[[n, "old"]] for n in (1, 2, 3)]


def test_a_refusal_is_told_to_each() -> None:
    world = World()
    calls = [read(number) for number in range(3)]
    world.turn(*calls)
    world.node.read_outcome = Rejected(errors.LinearizableQuorum("too few; nothing was read", needed=2))
    world.decide()
    assert all(isinstance(call.answer, errors.LinearizableQuorum) for call in calls)
    assert world.reads.waiting == 0


def test_what_is_wrong_with_one_is_told_to_it_alone() -> None:
    """Before anything is asked; and nothing is asked for it."""
    world = World()
    gone, plain, good = read(1, space="nothing"), read(1, space="plain"), read(1)
    world.turn(gone, plain)
    assert world.questions == 0
    world.turn(read(1, space="nothing"), good)
    world.decide()
    assert isinstance(gone.answer, errors.NoSuchSpace)
    assert isinstance(plain.answer, errors.Unsupported)
    assert tuples([good]) == [[[1, "old"]]]


def test_a_definition_may_change_while_they_wait() -> None:
    """[Q-60]: what has become asynchronous, or is gone, is not read."""
    world = World()
    call = read(1)
    world.turn(call)
    memtx = world.node.instance.memtx
    memtx.commit(memtx.prepare(schema_ops.drop_space(memtx, "bands")))
    world.decide()
    assert isinstance(call.answer, errors.NoSuchSpace)


def test_who_leaves_is_not_answered_and_the_last_one_ends_the_question() -> None:
    """LinearizableReads.G2."""
    world = World()
    one, two, three = calls = [read(number) for number in range(3)]
    world.turn(*calls)
    one.cancel()
    world.reads.check()
    assert world.node.abandoned == []
    two.cancel()
    three.cancel()
    assert len(world.node.abandoned) == 1
    world.decide()
    assert [call.answers for call in calls] == [[], [], []]
    assert world.reads.waiting == 0


def test_many_are_answered_in_slices_and_who_leaves_between_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    world = World()
    calls = [read(number) for number in range(5)]
    world.turn(*calls)
    world.node.release()
    assert [call.is_over for call in calls] == [True, False, False, False, False]
    calls[3].cancel()
    world.decide()
    assert [len(call.answers) for call in calls] == [1, 1, 1, 0, 1]
    assert world.reads.waiting == 0 and world.node.abandoned == []


def test_there_is_a_limit_to_those_that_wait() -> None:
    """LinearizableReads.G2: one turn's calls excepted."""
    world = World(Limits(waiting_calls_max=4))
    waiting = [read(1) for _ in range(5)]
    world.turn(*waiting)
    late = read(2)
    world.turn(late)
    assert isinstance(late.answer, errors.SyncQueueFull) and "nothing was read" in late.answer.message
    world.decide()
    after = read(2)
    world.turn(after)
    world.decide()
    assert tuples([*waiting, after]) == [[[1, "old"]]] * 5 + [[[2, "old"]]]


def test_a_node_that_loads_refuses_all() -> None:
    world = World()
    world.node.ensure_ready = _loading  # type: ignore[method-assign]
    calls = [read(1), read(2)]
    world.turn(*calls)
    assert all(isinstance(call.answer, errors.Loading) for call in calls)
    assert world.questions == 0


def _loading() -> None:
    raise errors.Loading("not yet", stage="recovery")


def test_an_answer_that_cannot_be_made_is_one_calls_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core, which answers, is not to hear of it."""
    world = World()
    good, bad = read(1), read(2)
    world.turn(bad, good)
    sound = world.reads._read
    broken = [ZeroDivisionError("a bug")]
    monkeypatch.setattr(
        world.reads, "_read", lambda *asked: sound(*asked) if not broken else _raise(broken.pop())
    )
    world.decide()
    assert isinstance(bad.answers[0], ZeroDivisionError)
    assert tuples([good]) == [[[1, "old"]]]


def _raise(error: Exception) -> Any:
    raise error


def test_all_rounds_that_a_step_decides_share_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """LinearizableReads.G3: others wait for one slice, however many turns the readers came in."""
    world = World()
    sound = world.reads._read

    def slow(*asked: Any) -> Any:
        time.sleep(0.001)
        return sound(*asked)

    monkeypatch.setattr(world.reads, "_read", slow)
    calls = [read(number % 10) for number in range(50)]
    for call in calls:
        world.turn(call)
    answered = [0]
    world.node.release()
    while True:
        answered.append(sum(call.is_over for call in calls))
        world.reads.check()
        if not world.host.later:
            break
        (go_on,) = world.host.later
        world.host.later.clear()
        go_on()
    assert answered[-1] == 50
    assert max(after - before for before, after in pairwise(answered)) < 25
    assert tuples(calls) == [[[number % 10, "old"]] for number in range(50)]
