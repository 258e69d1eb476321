"""Unary calls of one turn go to the core together and are answered one by one (ADR 13). The host is a list of
calls here, and nothing waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from google.protobuf.json_format import MessageToDict

from synchro import errors
from synchro.config import Limits
from synchro.instance.events import ClientPuts, Position
from synchro.ro_reason import RoReason
from synchro.rpc import slices, unary_writes
from synchro.rpc.answer_tuples import answer_tuples
from synchro.rpc.host import RpcHost
from synchro.rpc.names import Names
from synchro.rpc.service import Service
from synchro.rpc.unary_writes import UnaryWrites
from synchro.storage import schema_ops
from tests import messages
from tests.shell.fake_node import FakeNode
from tests.shell.held_call import HeldCall
from tests.shell.services_world import insert, pack, steps_of, unpacked


@pytest.fixture(autouse=True)
def _nothing_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 60.0)


class Call(HeldCall):
    def __init__(self, **fields: Any) -> None:
        super().__init__(messages.request(**fields))


class World:
    def __init__(self, limits: Limits | None = None) -> None:
        self.node = FakeNode(None, limits)
        self.later: list[Callable[[], None]] = []
        service = Service(self.node, cast("RpcHost", None))
        self.writes = UnaryWrites(service, Names(lambda: self.node.instance.memtx.catalog), self.later.append)
        memtx = self.node.instance.memtx
        memtx.commit(memtx.prepare(schema_ops.create_space(memtx, "bands", is_sync=True)))
        memtx.commit(memtx.prepare(schema_ops.create_index(memtx, "bands", "primary")))

    def turn(self, *calls: Call) -> None:
        """These come in one turn."""
        self.writes.submit([(call, call.request) for call in calls])
        self.writes.check()

    def go_on(self) -> None:
        """Rounds of the loop, until nothing is left to do."""
        while self.later:
            self.later.pop(0)()
            self.writes.check()


def keys_of(calls: Sequence[Call]) -> list[Any]:
    return [unpacked(call.answer.tuples)[0][0] for call in calls]


def test_calls_of_one_turn_share_and_each_has_its_own_reply() -> None:
    """ADR 13: with a request id and without, of whatever connection."""
    world = World()
    calls = [
        Call(ops=[insert(n, "a")], request_id=n.to_bytes(16, "big") if n % 3 == 0 else b"")
        for n in range(1, 9)
    ]
    world.turn(*calls)
    assert steps_of(world.node) == [("INSERT", 8)]
    (step,) = world.node.steps
    assert isinstance(step, ClientPuts)
    assert step.request_ids == [n.to_bytes(16, "big") if n % 3 == 0 else None for n in range(1, 9)]
    assert keys_of(calls) == list(range(1, 9))
    lsns = [call.answer.txn.lsn for call in calls]
    assert lsns == list(range(lsns[0], lsns[0] + 8))
    assert all(call.answer.is_sync and call.answer.header.instance_id == 1 for call in calls)
    assert world.writes.in_flight == 0


def test_each_is_answered_as_it_asked() -> None:
    """Tuples, their encoding, and whether it is a duplicate are each caller's own."""
    world = World()
    as_json = messages.op(insert={"space": "bands"})
    as_json.insert.tuple_json.extend([7, "json"])
    calls = [
        Call(ops=[insert(1, "a")], request_id=b"1" * 16),
        Call(ops=[insert(2, "b")], omit_tuples=True),
        Call(ops=[insert(3, "c")], encoding="ENCODING_JSON"),
        Call(ops=[insert(4, "d")], request_id=b"1" * 16),
        Call(ops=[insert(1, "e")]),
        Call(ops=[as_json]),
    ]
    world.turn(*calls)
    first, omitted, json, again, found, from_json = (call.answer for call in calls)
    assert unpacked(first.tuples) == [[1, "a"]] and not first.duplicate
    assert not omitted.tuples and omitted.txn.lsn == first.txn.lsn + 1
    assert MessageToDict(json.tuples[0]) == {"json": [3.0, "c"]}
    assert again.duplicate and again.txn == first.txn and not again.tuples
    assert isinstance(found, errors.TupleFound)
    assert MessageToDict(from_json.tuples[0]) == {"json": [7.0, "json"]}


def test_what_cannot_be_read_is_refused_alone() -> None:
    """UnaryWrites.U3, Submission.U2: whatever is wrong with one, the others share."""
    world = World(Limits(tuple_bytes_max=1000))
    fine = [Call(ops=[insert(n, "a")]) for n in range(20)]
    wrong = {
        Call(ops=[messages.op(insert={"space": "bands", "tuple": b"\xc1"})]): errors.WrongFormat,
        Call(ops=[insert(100, "x" * 2000)]): errors.BatchTooLarge,
        Call(ops=[messages.op(insert={"space": "bands"})]): errors.WrongFormat,
        Call(ops=[]): errors.IllegalParams,
        Call(ops=[insert(100, "a")], timeout={"seconds": -1}): errors.IllegalParams,
        Call(ops=[insert(100, "a")], known_position={"term": 1 << 62}): errors.IllegalParams,
        Call(ops=[insert(100, "a")], request_id=b"short"): errors.IllegalParams,
        Call(ops=[insert(100, "a")], wait=9): errors.IllegalParams,
        Call(ops=[insert(100, "a", space="nope")]): errors.NoSuchSpace,
    }
    calls = list(wrong)
    world.turn(*fine[:4], *calls[:3], *fine[4:8], *calls[3:6], *fine[8:12], *calls[6:], *fine[12:])
    assert {call: type(call.answer) for call in calls} == wrong
    assert sorted(keys_of(fine)) == list(range(20))
    assert [step for step in steps_of(world.node) if step[0] == "INSERT"] == [
        ("INSERT", 4),
        ("INSERT", 4),
        ("INSERT", 4),
        ("INSERT", 8),
    ]


def test_each_call_waits_as_long_and_for_what_it_asked() -> None:
    """Time, position and wait mode are of the call; those of its neighbours are not."""
    world = World()
    calls = [
        Call(ops=[insert(1, "a")], timeout={"seconds": 3}),
        Call(ops=[insert(2, "a")], known_position={"term": 1, "lsn": 7}),
        Call(ops=[insert(3, "a")], known_position={"term": 1, "lsn": 7}, timeout={"seconds": 1}),
        Call(ops=[insert(4, "a")], known_position={"term": 2, "lsn": 1}),
        Call(ops=[insert(5, "a")], wait="WAIT_MODE_SUBMIT"),
        Call(ops=[insert(6, "a")], wait="WAIT_MODE_NONE"),
    ]
    world.turn(*calls)
    assert steps_of(world.node) == [("INSERT", 4), ("each", 2)]
    default_s = world.node.instance.settings.txn_synchro_timeout_s
    assert list(world.node.times.values()) == [3.0, default_s, 1.0, *[default_s] * 3]
    (puts, _) = world.node.steps
    assert isinstance(puts, ClientPuts)
    assert list(puts.known_positions) == [None, Position(1, 7), Position(1, 7), Position(2, 1)]  # type: ignore[arg-type]
    submitted, unnamed = calls[4].answer, calls[5].answer
    assert submitted.txn.lsn and not submitted.tuples
    assert not unnamed.HasField("txn")


def test_one_that_is_cancelled_leaves_the_others_alone() -> None:
    """Its entry stays where it is; nobody answers it."""
    world = World()
    world.node.hold = True
    calls = [Call(ops=[insert(n, "a")]) for n in range(6)]
    world.turn(*calls)
    assert world.writes.in_flight == 6
    calls[2].cancel()
    assert len(world.node.abandoned) == 1
    assert world.writes.in_flight == 5
    world.writes.check()
    world.node.release()
    assert calls[2].answers == []
    assert keys_of([*calls[:2], *calls[3:]]) == [0, 1, 3, 4, 5]
    calls[0].cancel()
    assert len(world.node.abandoned) == 1


def test_while_it_loads_each_call_is_refused() -> None:
    world = World()
    world.node.loading = True
    calls = [Call(ops=[insert(n, "a")]) for n in range(5)]
    world.turn(*calls)
    assert {type(call.answer) for call in calls} == {errors.Loading}
    assert world.node.steps == []


def test_who_may_not_write_tells_each_why() -> None:
    world = World()
    world.node.instance.ro_reason = RoReason.CONFIG
    calls = [Call(ops=[insert(n, "a")]) for n in range(5)]
    world.turn(*calls)
    assert {type(call.answer) for call in calls} == {errors.ReadOnly}


# --- what is too much for one turn -------------------------------------------------------------------------


def large_call(first: int) -> Call:
    return Call(ops=[insert(key, "x" * 2000) for key in range(first, first + 100)])


def test_what_takes_long_goes_on_in_later_turns_and_delays_only_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Works take turns; who comes later and asks for little is answered first."""
    monkeypatch.setattr(slices, "SLICE_S", -1.0)  # each step is a slice
    world = World()
    large, small = large_call(1000), Call(ops=[insert(1, "a")])
    world.turn(large, small)
    assert not large.answers
    later = [Call(ops=[insert(n, "a")]) for n in range(2, 8)]
    world.turn(*later)
    world.go_on()
    assert len(large.answer.tuples) == 100
    assert keys_of([small, *later]) == list(range(1, 8))
    assert steps_of(world.node)[-1] == ("each", 1)


def test_one_that_is_cancelled_before_its_turn_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_S", -1.0)
    world = World()
    world.turn(large_call(1000))
    gone, stays = Call(ops=[insert(1, "a")]), Call(ops=[insert(2, "a")])
    world.turn(gone, stays)
    gone.cancel()
    world.go_on()
    assert gone.answers == [] and world.node.abandoned == []
    assert unpacked(stays.answer.tuples) == [[2, "a"]]
    assert world.node.instance.memtx.get(512, 0, (1,)) is None


def test_no_more_than_may_wait_are_kept_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """UnaryWrites.U4"""
    monkeypatch.setattr(slices, "SLICE_S", -1.0)
    world = World(Limits(waiting_calls_max=2))
    world.turn(large_call(1000), large_call(2000))
    refused = [Call(ops=[insert(n, "a")]) for n in range(3)]
    world.turn(*refused)
    assert {type(call.answer) for call in refused} == {errors.SyncQueueFull}
    world.go_on()
    welcome = Call(ops=[insert(1, "a")])
    world.turn(welcome)
    assert unpacked(welcome.answer.tuples) == [[1, "a"]]


def test_thousands_of_one_turn_are_taken_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unary_writes, "CALLS_AT_ONCE_MAX", 10)
    world = World()
    calls = [Call(ops=[insert(n, "a")]) for n in range(35)]
    world.turn(*calls)
    world.go_on()
    assert steps_of(world.node) == [("INSERT", 10)] * 3 + [("INSERT", 5)]
    assert keys_of(calls) == list(range(35))


def test_a_bug_ends_the_calls_that_met_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """UnaryWrites.U3: their clients hear of it, and the next turn is served."""
    world = World()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world.node, "submit_puts", broken)
    calls = [Call(ops=[insert(n, "a")]) for n in range(5)]
    world.writes.submit([(call, call.request) for call in calls])
    assert [type(call.answers[0]) for call in calls] == [ZeroDivisionError] * 5
    monkeypatch.undo()
    after = Call(ops=[insert(9, "a")])
    world.writes.submit([(after, after.request)])
    assert unpacked(after.answer.tuples) == [[9, "a"]]


def test_an_answer_that_cannot_be_made_is_that_of_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node, which calls back, hears nothing of it."""
    world = World()
    world.node.hold = True
    calls = [Call(ops=[insert(n, "a")]) for n in range(5)]
    world.turn(*calls)
    made = answer_tuples

    def broken(request: Any, index: int, *rest: Any) -> Any:
        assert index != 2
        return made(request, index, *rest)

    monkeypatch.setattr(unary_writes, "answer_tuples", broken)
    world.node.release()
    assert [type(error) for error in calls[2].answers] == [AssertionError]
    assert keys_of([*calls[:2], *calls[3:]]) == [0, 1, 3, 4]


def test_changes_of_every_kind_go_in_the_order_they_came() -> None:
    """Nothing overtakes anything: who writes twice without waiting finds the second."""
    world = World()
    key = pack(1)
    update = messages.op(update={"space": "bands", "key": key, "ops": pack(("=", 2, "u"))})
    delete = messages.op(delete={"space": "bands", "key": key})
    kinds = [[insert(1, "a")], [update], [delete], [insert(1, "b"), insert(2, "c")], [update]]
    calls = [Call(ops=ops) for ops in kinds]
    world.turn(*calls)
    assert [unpacked(call.answer.tuples) for call in calls] == [
        [[1, "a"]],
        [[1, "u"]],
        [[1, "u"]],
        [[1, "b"], [2, "c"]],
        [[1, "u"]],
    ]
    assert [step[0] for step in steps_of(world.node)] == ["each"]
