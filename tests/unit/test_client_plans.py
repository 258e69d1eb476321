"""Where calls go and what they repeat: plans that the test carries out, without connections and clocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from google.protobuf.empty_pb2 import Empty

from synchro import errors
from synchro.client import ops, requests
from synchro.client.api import Api
from synchro.client.bulk import BATCH_BYTES_MAX, Bulk
from synchro.client.channel import MESSAGE_BYTES_MAX
from synchro.client.encoding import RangeReply
from synchro.client.errors import CannotConnect, ConnectionLost, OutcomeUnknown
from synchro.client.open_transaction import OpenTransactionApi
from synchro.client.plans import (
    SETTLE_S,
    Answers,
    ClientOptions,
    Pause,
    Plan,
    Plans,
    Probe,
    Submit,
    Unary,
    Wants,
)
from synchro.client.retry import Tries
from synchro.client.routes import Routes
from synchro.client.space_api import SpaceApi
from synchro.errors import BatchTooLarge, NoLeader, SynchroError
from synchro.rpc.generated.v1 import (
    cluster_pb2,
    common_pb2,
    control_pb2,
    data_pb2,
    info_pb2,
    schema_pb2,
)

T = TypeVar("T")
Says = dict[str, Any]
ROUND_S = 0.05


class World:
    """Three instances and a clock. `says`: endpoint -> what it tells a probe; an error if it does not.

    answer: to a call on the stream.
    """

    def __init__(self, **says: Any) -> None:
        self.now = 1000.0
        self.says: dict[str, Any] = {f"{name}:1": answer for name, answer in says.items()}
        self.answer: Callable[[Submit], Any] = lambda step: RangeReply(1, 7)
        self.steps: list[Any] = []
        self.known: list[int] = []
        """Known position of each call that was sent: its own, or else that of its frame."""
        self.is_sync = True
        self.renames: list[tuple[str, int]] = []
        """Answers to `ListSpaces`: name of the first field, and a version that a call sees meanwhile."""
        self.plans = Plans(list(self.says), ClientOptions(timeout=5.0), now=lambda: self.now)
        self.api = Api(self.plans)
        self.space = SpaceApi(self.api, "bands")

    def client(self, **options: Any) -> World:
        self.plans = Plans(
            list(self.says), ClientOptions(**{"timeout": 5.0, **options}), now=lambda: self.now
        )
        self.api = Api(self.plans)
        self.space = SpaceApi(self.api, "bands")
        return self

    def run(self, plan: Plan[T]) -> T:
        try:
            step: Any = next(plan)
            while True:
                self.steps.append(step)
                answer = self._do(step)
                step = plan.throw(answer) if isinstance(answer, SynchroError) else plan.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _do(self, step: Any) -> Any:
        match step:
            case Pause(seconds):
                self.now += seconds
                return None
            case Probe():
                return self._probe(step)
            case Submit():
                known = data_pb2.ExecuteCall.FromString(step.call).known_position
                self.known.append(known.lsn or self.api.plans.session.position.lsn)
                return self.answer(step)
            case Unary(_, _, "ListInstances"):
                return cluster_pb2.ListInstancesResponse(
                    instances=[
                        cluster_pb2.InstanceInfo(id=n, name=f"instance00{n}", address=f"{name}:1")
                        for n, name in enumerate("abc", 1)
                        if f"{name}:1" in self.says
                    ]
                )
            case Unary(_, _, "GetSynchro"):
                return info_pb2.GetSynchroResponse(quorum=2)
            case Unary(_, _, "ListSpaces") if self.renames:
                name, version = self.renames.pop(0)
                self.plans.session.see(common_pb2.Header(instance_id=1, schema_version=version))
                field = schema_pb2.FieldDef(name=name, type="unsigned")
                return schema_pb2.ListSpacesResponse(
                    spaces=[schema_pb2.SpaceDef(name="bands", id=512, format=[field])]
                )
            case Unary(_, _, "ListSpaces"):
                spaces = [
                    schema_pb2.SpaceDef(name=name, id=number, is_sync=self.is_sync and number == 512)
                    for name, number in (("bands", 512), ("_log", 513), ("_space", 280))
                ]
                return schema_pb2.ListSpacesResponse(spaces=spaces)
            case Unary(_, "control", _):
                return control_pb2.PromoteResponse()
            case Unary(_, _, "WaitTransaction"):
                self.now += step.request.timeout.ToMilliseconds() / 1000
                return data_pb2.WaitTransactionResponse(outcome=data_pb2.TRANSACTION_OUTCOME_PENDING)
            case Unary(endpoint, _, "Select"):
                says = self.says[endpoint]
                return data_pb2.SelectResponse(header=getattr(says, "header", None))
        raise AssertionError(step)

    def _probe(self, probe: Probe) -> Answers:
        answers = Answers(probe, self.now)
        begun = self.now
        for endpoint in probe.endpoints:
            said = self.says[endpoint]
            if callable(said):
                said = said()
            if said is not None:
                answers.add(endpoint, said, begun)
        self.now = begun + ROUND_S if answers.is_over else max(begun, answers.until)
        answers.close()
        return answers

    def submitted(self) -> list[tuple[str, bytes, int]]:
        """Where, with which request id, and with which known position (LSN) each call was sent."""
        calls = [
            data_pb2.ExecuteCall.FromString(step.call) for step in self.steps if isinstance(step, Submit)
        ]
        places = [step.endpoint for step in self.steps if isinstance(step, Submit)]
        known = self.known[len(self.known) - len(calls) :]
        return [(p, c.request_id, at) for p, c, at in zip(places, calls, known, strict=True)]


def leader(number: int, *, term: int = 2, position: int = 10) -> Any:
    return follower(number, leads=number, term=term, position=position, writable=True)


def follower(
    number: int, *, leads: int = 0, term: int = 2, position: int = 10, writable: bool = False, owner: int = 1
) -> Any:
    return info_pb2.WatchInfoResponse(
        header=common_pb2.Header(
            instance_id=number,
            instance_name=f"instance00{number}",
            decided_position=common_pb2.Position(term=term, lsn=position),
            is_writable=writable,
        ),
        leader=leads,
        leader_name=f"instance00{leads}" if leads else "",
        leader_address=f"{'abc'[leads - 1]}:1" if leads else "",
        term=term,
        is_writable=writable,
        ro_reason="" if writable else "election",
        queue_owner=owner,
    )


def refused(endpoint: str) -> CannotConnect:
    return CannotConnect(f"cannot connect to {endpoint}: connection refused", endpoint=endpoint)


SILENT = None


# --- too large -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MESSAGE_BYTES_MAX - 100, MESSAGE_BYTES_MAX, 40_000_000])
def test_a_call_that_no_instance_would_read_is_refused_before_it_is_sent(size: int) -> None:
    world = World(a=leader(1))
    with pytest.raises(BatchTooLarge, match="nothing was sent") as caught:
        world.run(world.space.insert([1, "x" * size]))
    assert int(caught.value.details["got"]) > int(caught.value.details["limit"])
    assert world.steps == []


def test_what_just_fits_into_a_message_is_sent() -> None:
    world = World(a=leader(1))
    world.run(world.space.insert([1, "x" * (MESSAGE_BYTES_MAX - 300)], omit_tuples=True))
    assert len(world.submitted()) == 1


def test_many_operations_together_are_refused_too() -> None:
    world = World(a=leader(1))
    with pytest.raises(BatchTooLarge):
        world.run(world.api.execute([ops.insert("bands", [n, "x" * 1_000_000]) for n in range(17)]))


@pytest.mark.parametrize(
    "call",
    [
        lambda api: api.select("bands", ["x" * 17_000_000]),
        lambda api: api.select("bands", after=["x" * 17_000_000]),
        lambda api: api.create_space("x" * 17_000_000),
        lambda api: api.get_info("x" * 17_000_000),
        lambda api: api.wait_transaction(bytes(17_000_000)),
    ],
)
def test_every_other_call_has_the_same_limit(call: Callable[[Api], Plan[Any]]) -> None:
    world = World(a=leader(1))
    with pytest.raises(BatchTooLarge):
        world.run(call(world.api))
    assert not [
        step for step in world.steps if isinstance(step, Unary) and step.service in ("data", "schema")
    ]


# --- probes go on ----------------------------------------------------------------------------------------


def wakes_at(world: World, at_s: float, answer: Any) -> Callable[[], Any]:
    return lambda: answer if world.now >= 1000 + at_s else SILENT


@pytest.mark.parametrize("read_from", ["leader", "any"])
@pytest.mark.parametrize(
    "call",
    [
        lambda world: world.space.insert([1]),
        lambda world: world.space.get([1]),
        lambda world: world.api.leader(),
        lambda world: world.api.most_informed(),
        lambda world: world.api.endpoint_of("instance001"),
        lambda world: world.api.watch_place(None),
        lambda world: world.plans.command(world.plans.first_place, "Promote", Empty(), 20.0),
    ],
)
def test_a_silent_instance_is_asked_until_the_time_of_the_caller_is_over(
    call: Callable[[World], Plan[Any]], read_from: Any
) -> None:
    """An instance is paused for 3 s; the caller gave 20."""
    world = World(a=SILENT).client(timeout=20.0, wait_for_connection=False, read_from=read_from)
    world.says["a:1"] = wakes_at(world, 3.0, leader(1))
    world.run(call(world))
    assert world.now < 1005


def test_the_server_is_told_what_time_is_left_when_the_leader_was_found_late() -> None:
    """Else its "outcome unknown", which names the transaction, comes when nobody waits for it any more."""
    world = World(a=SILENT)
    world.says["a:1"] = wakes_at(world, 1.5, leader(1))
    world.run(world.space.insert([1], timeout=4))
    found_s = world.now - 1000
    world.run(world.space.insert([2], timeout=3))
    world.run(world.space.insert([3]))
    late, given, default = (
        data_pb2.ExecuteCall.FromString(step.call) for step in world.steps if isinstance(step, Submit)
    )
    assert requests.seconds(late.timeout) == pytest.approx(4 - found_s, abs=0.001)
    assert requests.seconds(given.timeout) == 3
    assert not default.HasField("timeout")


def test_a_failed_probe_is_never_an_unknown_outcome() -> None:
    world = World(a=SILENT)
    with pytest.raises(CannotConnect) as caught:
        world.run(world.space.insert([1], timeout=7))
    assert 1006 < world.now <= 1007.1
    assert caught.value.details["silent"] == "a:1"
    assert not world.submitted()


def test_a_stopped_endpoint_does_not_keep_from_those_that_answer() -> None:
    """`-e STOPPED,F,L`: two live endpoints are listed."""
    world = World(a=SILENT, b=follower(2, leads=3), c=leader(3))
    assert world.run(world.api.most_informed()) == "c:1"
    assert world.now <= 1000 + SETTLE_S
    assert world.run(world.api.leader()) == "c:1"


def test_after_a_lost_try_a_failed_probe_leaves_the_outcome_unknown() -> None:
    world = World(a=leader(1))
    world.run(world.space.insert([1]))
    world.says["a:1"] = SILENT
    world.answer = lambda step: ConnectionLost("gone", endpoint="a:1")
    with pytest.raises(OutcomeUnknown):
        world.run(world.space.insert([2]))


def test_who_refuses_to_be_connected_is_believed_at_once_if_the_client_does_not_wait() -> None:
    world = World(a=refused("a:1"), b=refused("b:1")).client(wait_for_connection=False)
    with pytest.raises(CannotConnect, match="no instance answers"):
        world.run(world.space.insert([1]))
    assert world.now < 1001


def test_a_year_is_waited_if_the_caller_says_so() -> None:
    """The bound is the time, not a number of tries."""
    world = World(a=refused("a:1"))
    with pytest.raises(CannotConnect):
        world.run(world.space.insert([1], timeout=3600))
    assert world.now > 1000 + 3599


# --- reads go where the leader is ------------------------------------------------------------------------


def reads(world: World) -> str:
    """The instances that were read from since the last time, by letter."""
    found = "".join(step.endpoint[0] for step in world.steps if getattr(step, "method", "") == "Select")
    world.steps.clear()
    return found


def reader_whose_leader_changed(b: Any) -> World:
    """It knows `a` as the leader of term 2, which is over; b: what `b` says."""
    world = World(a=leader(1), b=follower(2, leads=1))
    world.run(world.space.get([1]))
    assert reads(world) == "a"
    world.says |= {"a:1": follower(1, term=3), "b:1": b}
    return world


def test_who_says_that_it_leads_no_more_is_not_believed_as_the_leader() -> None:
    """Routes.T1: else a reader that never writes stays with it, and reads what was true once."""
    world = reader_whose_leader_changed(leader(2, term=3))
    world.run(world.space.get([1]))
    assert reads(world) == "ab"
    world.run(world.space.get([1]))
    assert reads(world) == "b"


def test_while_nobody_leads_an_answer_is_an_answer() -> None:
    world = reader_whose_leader_changed(follower(2, term=3))
    world.run(world.space.get([1]))
    assert reads(world) == "a"
    world.run(world.space.get([1]))
    assert len(reads(world)) == 1 and world.now < 1001


def test_it_is_looked_for_once() -> None:
    """Whatever they say to a probe and with their answers."""
    world = reader_whose_leader_changed(leader(2, term=3))
    world.says["b:1"].header.is_writable = False
    world.run(world.space.get([1]))
    assert reads(world) == "ab"


def test_a_linearizable_read_is_right_wherever_it_was_answered() -> None:
    world = reader_whose_leader_changed(leader(2, term=3))
    world.run(world.space.get([1], read="linearizable"))
    assert reads(world) == "a"


def test_a_former_version_does_not_say_whether_it_takes_writes() -> None:
    world = reader_whose_leader_changed(leader(2, term=3))
    world.says["a:1"].header.ClearField("is_writable")
    world.run(world.space.get([1]))
    assert reads(world) == "a" and world.plans.routes.leader == "a:1"


# --- nobody leads ----------------------------------------------------------------------------------------


def without_leader() -> World:
    """The leader, instance002, and a follower are dead."""
    world = World(a=follower(1, leads=2, owner=2), b=leader(2), c=follower(3, leads=2, owner=2))
    world.run(world.space.insert([0]))
    world.says = {"a:1": follower(1, owner=2, term=3), "b:1": refused("b:1"), "c:1": refused("c:1")}
    world.plans.routes.failed("b:1")
    world.steps.clear()
    return world


def test_who_answers_is_asked_though_the_leader_is_dead() -> None:
    world = without_leader()
    assert world.run(world.api.most_informed()) == "a:1"
    world.run(world.space.select())
    assert world.steps[-1].endpoint == "a:1"


def test_a_hint_to_somebody_who_did_not_answer_is_not_followed() -> None:
    """The follower has not noticed yet."""
    world = World(a=follower(1, leads=2, owner=2), b=refused("b:1"), c=refused("c:1")).client(
        wait_for_connection=False
    )
    assert world.run(world.api.most_informed()) == "a:1"
    with pytest.raises(NoLeader):
        world.run(world.space.insert([1]))


def test_a_write_waits_its_time_for_a_leader_and_says_who_is_missing() -> None:
    world = without_leader()
    began = world.now
    with pytest.raises(NoLeader) as caught:
        world.run(world.space.insert([1], timeout=4))
    assert caught.value.message == "last leader instance002 is down, 1 of 2 needed instances up"
    assert began + 3 < world.now <= began + 4.1
    assert not world.submitted()


def test_more_instances_than_are_needed_are_no_share_of_them() -> None:
    world = World(a=follower(1, owner=0), b=follower(2, owner=0), c=follower(3, owner=0))
    with pytest.raises(NoLeader) as caught:
        world.run(world.space.insert([1], timeout=1))
    assert caught.value.message == "no leader is known, 3 instances up, 2 needed"


def test_one_that_knows_nothing_of_the_last_leader_says_what_it_knows() -> None:
    world = World(a=follower(1, owner=0), b=refused("b:1"))
    with pytest.raises(NoLeader) as caught:
        world.run(world.space.insert([1], timeout=1))
    assert caught.value.message == "no leader is known, 1 of 2 needed instances up"


def test_a_leader_that_is_elected_meanwhile_gets_the_write() -> None:
    world = without_leader()
    elected_at = world.now + 2
    world.says["a:1"] = lambda: leader(1, term=4) if world.now >= elected_at else follower(1, owner=2, term=3)
    world.run(world.space.insert([1], timeout=4))
    assert [place for place, _, _ in world.submitted()] == ["a:1"]
    assert world.now < elected_at + 0.5


def test_a_lost_write_keeps_its_id_and_first_position_while_a_leader_is_waited_for() -> None:
    world = World(a=leader(1, position=10), b=follower(2, leads=1), c=follower(3, leads=1))
    world.run(world.space.insert([0]))
    lost = [True]

    def answer(step: Submit) -> Any:
        if lost:
            lost.clear()
            elected_at = world.now + 1
            world.says = {
                "a:1": refused("a:1"),
                "b:1": lambda: leader(2, term=3, position=90) if world.now > elected_at else follower(2),
                "c:1": follower(3, position=80),
            }
            return ConnectionLost("gone", endpoint="a:1")
        return RangeReply(2, 8, duplicate=True)

    world.answer = answer
    world.steps.clear()
    world.run(world.space.insert([1]))
    (first, one, at), (second, other, again) = world.submitted()
    assert (first, second) == ("a:1", "b:1")
    assert one == other and at == again == 10


def test_a_lost_asynchronous_write_does_not_go_elsewhere() -> None:
    """It may come back with the instance that has it, and would have been done twice."""
    world = World(a=leader(1), b=follower(2, leads=1), c=follower(3, leads=1))
    world.run(world.space.insert([0]))
    world.is_sync = False
    world.steps.clear()

    def answer(step: Submit) -> Any:
        world.says = {"a:1": refused("a:1"), "b:1": leader(2, term=3), "c:1": follower(3, leads=2)}
        is_first = len(world.submitted()) == 1
        return ConnectionLost("gone") if is_first else refused("a:1")

    world.answer = answer
    with pytest.raises(OutcomeUnknown):
        world.run(world.space.insert([1]))
    assert {place for place, _, _ in world.submitted()} == {"a:1"}
    assert len({request_id for _, request_id, _ in world.submitted()}) == 1


def test_a_lost_asynchronous_write_is_asked_for_where_it_was_sent() -> None:
    world = World(a=leader(1), b=follower(2, leads=1))
    world.run(world.space.insert([0]))
    world.is_sync = False
    answers = iter([ConnectionLost("gone"), RangeReply(1, 9, duplicate=True)])
    world.answer = lambda step: next(answers)
    world.steps.clear()
    world.run(world.space.insert([1]))
    assert [place for place, _, _ in world.submitted()] == ["a:1", "a:1"]


def test_what_is_asked_to_be_synchronous_is_asked_for_on_the_next_leader() -> None:
    """[D-28]: it went through the queue, so its request id is known there, whatever the space is."""
    world = World(a=leader(1), b=follower(2, leads=1), c=follower(3, leads=1))
    world.run(world.space.insert([0]))
    world.is_sync = False
    world.steps.clear()

    def answer(step: Submit) -> Any:
        world.says = {"a:1": refused("a:1"), "b:1": leader(2, term=3), "c:1": follower(3, leads=2)}
        return ConnectionLost("gone") if step.endpoint == "a:1" else RangeReply(2, 9)

    world.answer = answer
    result = world.run(world.api.execute([ops.insert("bands", [1])], is_sync=True))
    assert result.txn == (2, 9) and len(result.tuples) == 1
    submits = [step for step in world.steps if isinstance(step, Submit)]
    assert [step.endpoint for step in submits] == ["a:1", "b:1"] and [step[2] for step in submits] == [2, 2]
    for step in submits:
        kinds = [op.WhichOneof("op") for op in data_pb2.ExecuteCall.FromString(step.call).ops]
        assert kinds == ["synchronous", "insert"]


def test_rows_have_the_names_of_what_was_changed_and_not_of_what_was_looked_at() -> None:
    world = World(a=leader(1))
    looked: list[Any] = []
    world.api.ask_names = lambda space: looked.append(space) or ["id"]  # type: ignore[func-returns-value]
    checked = [ops.if_equal("leases", "writer", {"token": 1}), ops.insert("bands", [7])]
    result = world.run(world.api.execute(checked))
    assert result.tuples[1] is not None and result.tuples[1]["id"] == 7 and looked == ["bands"]


@pytest.mark.parametrize("space", ["_space", 280])
def test_a_lost_change_of_a_system_space_is_one_of_the_queue(space: str | int) -> None:
    world = World(a=leader(1), b=follower(2, leads=1))
    world.run(world.space.insert([0]))
    world.is_sync = False

    def answer(step: Submit) -> Any:
        if step.endpoint == "b:1":
            return RangeReply(2, 9)
        world.says = {"a:1": refused("a:1"), "b:1": leader(2, term=3)}
        return ConnectionLost("gone")

    world.answer = answer
    result = world.run(world.api.execute([ops.insert(space, [1])]))
    assert result.txn == (2, 9)


def masters() -> World:
    """Nobody ever owned the queue."""
    world = World(a=master(1), b=master(2))
    world.is_sync = False
    return world


def master(number: int) -> Any:
    said = leader(number, term=0, position=0)
    said.queue_owner = 0
    return said


@pytest.mark.parametrize("space", ["bands", "_log", 513, "_space", 280])
def test_what_one_master_may_have_done_is_not_done_by_another(space: str | int) -> None:
    """[D-24]: without an owner nothing goes through the queue, so the other one knows no request id of it.
    Not even a change of a system space; and a space may have a name that looks like one of those."""
    world = masters()

    def answer(step: Submit) -> Any:
        world.says["a:1"] = refused("a:1")
        return ConnectionLost("gone") if len(world.submitted()) == 1 else refused("a:1")

    world.answer = answer
    with pytest.raises(OutcomeUnknown):
        world.run(world.api.execute([ops.insert(space, [1])]))
    assert {place for place, _, _ in world.submitted()} == {"a:1"}


def test_a_definition_that_one_master_may_have_made_is_not_made_by_another() -> None:
    """Both would have made it, and each would stop the stream of the other [D-24]."""
    world, places = masters(), list[str]()
    do = world._do

    def lose(step: Any) -> Any:
        if not (isinstance(step, Unary) and step.method == "CreateSpace"):
            return do(step)
        places.append(step.endpoint)
        if step.endpoint == "b:1":
            return schema_pb2.CreateSpaceResponse()
        world.says["a:1"] = refused("a:1")
        return ConnectionLost("gone") if len(places) == 1 else refused("a:1")

    world._do = lose  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        world.run(world.api.create_space("t"))
    assert set(places) == {"a:1"}


def test_a_lost_change_of_a_space_that_looks_like_a_system_space_does_not_go_elsewhere() -> None:
    """The owner is gone, but this asynchronous row of it may come back."""
    world = World(a=leader(1), b=follower(2, leads=1))
    world.run(world.space.insert([0]))

    def answer(step: Submit) -> Any:
        world.says = {"a:1": refused("a:1"), "b:1": leader(2, term=3)}
        return RangeReply(2, 9) if step.endpoint == "b:1" else ConnectionLost("gone")

    world.answer = answer
    with pytest.raises(OutcomeUnknown):
        world.run(world.api.execute([ops.insert("_log", [1])]))


def test_who_follows_no_leader_goes_on_to_the_next_endpoint() -> None:
    """It stayed with the one that had answered first, though that was dead."""
    world = World(a=leader(1), b=leader(2)).client(follow_leader=False)
    world.run(world.space.insert([1]))
    world.says["a:1"] = refused("a:1")
    world.answer = lambda step: refused("a:1") if step.endpoint == "a:1" else RangeReply(2, 8)
    world.steps.clear()
    assert world.run(world.space.insert([2])).txn == (2, 8)
    assert [place for place, _, _ in world.submitted()] == ["a:1", "b:1"]


def test_read_only_for_another_reason_is_told_by_whoever_is() -> None:
    """It knows better why than we do."""
    said = follower(1)
    said.ro_reason = "config"
    world = World(a=said)
    world.answer = lambda step: errors.ReadOnly("by configuration", ro_reason="config")
    with pytest.raises(errors.ReadOnly, match="by configuration"):
        world.run(world.space.insert([1]))


# --- what is enough for a probe --------------------------------------------------------------------------


def test_others_may_contradict_whoever_says_that_it_leads() -> None:
    probe = Probe(("a:1", "b:1", "c:1"), 1.0, Wants.LEADER)
    answers = Answers(probe, 10.0)
    answers.add("a:1", follower(1), 10.01)
    assert answers.until == 11.0 and not answers.is_over
    answers.add("b:1", leader(2), 10.02)
    assert answers.until == 10.02 + SETTLE_S and not answers.is_over
    answers.add("c:1", leader(3, term=3), 10.05)
    assert answers.is_over


def test_the_first_endpoint_is_waited_for_unless_it_fails() -> None:
    probe = Probe(("a:1", "b:1", "c:1"), 1.0, Wants.FIRST)
    answers = Answers(probe, 10.0)
    answers.add("b:1", follower(2), 10.01)
    assert not answers.is_over and answers.first is None
    answers.add("a:1", refused("a:1"), 10.02)
    assert answers.is_over and answers.first == "b:1"
    answers.close()
    assert isinstance(answers.failed["c:1"], ConnectionLost)


# --- bulk ------------------------------------------------------------------------------------------------


def bulk(world: World, told: list[int], *, batch: int = 3) -> Bulk:
    return Bulk(world.api, "bands", replace=False, batch=batch, timeout=None, on_progress=told.append)


def test_rows_are_cut_into_transactions_of_a_size() -> None:
    world, told = World(a=leader(1)), list[int]()
    todo = bulk(world, told)
    for number in range(31):
        if todo.add([number]):
            todo.ended([world.run(plan) for plan in todo.take()])
    todo.ended([world.run(plan) for plan in todo.take(is_last=True)])
    sizes = [step.ops for step in world.steps if isinstance(step, Submit)]
    assert sizes == [3] * 10 + [1]
    assert told == [12, 24, 31] and todo.done == 31


def test_large_rows_share_no_transaction() -> None:
    world, told = World(a=leader(1)), list[int]()
    todo = bulk(world, told, batch=100)
    for number in range(3):
        assert not todo.add([number, "x" * (BATCH_BYTES_MAX * 2 // 3)])
    todo.ended([world.run(plan) for plan in todo.take(is_last=True)])
    assert [step.ops for step in world.steps if isinstance(step, Submit)] == [1, 1, 1]


def test_the_first_error_says_which_rows_and_how_many_are_in() -> None:
    world, told = World(a=leader(1)), list[int]()
    todo = bulk(world, told, batch=2)
    rows = 0
    while not todo.add([rows]):
        rows += 1
    todo.take()
    with pytest.raises(errors.TupleFound) as caught:
        todo.ended([2, errors.TupleFound("exists"), 2, errors.TupleFound("later")])
    assert caught.value.details == {"bulk_done": "4", "bulk_first": "2", "bulk_last": "3"}
    with pytest.raises(errors.WrongFormat) as wrong:
        todo.add("abc")
    assert wrong.value.details["bulk_first"] == wrong.value.details["bulk_last"] == str(rows + 1)
    with pytest.raises(errors.IllegalParams):
        bulk(world, told, batch=0)


def test_requests_know_no_other_ways_to_read() -> None:
    with pytest.raises(errors.IllegalParams):
        requests.select("s", read="linearisable")  # type: ignore[arg-type]


# --- the caller's time --------------------------------------------------------------------------------------


def test_an_outcome_is_waited_for_no_longer_than_the_caller_wants() -> None:
    """By its request id, and then by its name: both in the same time."""
    world = World(a=leader(1))
    began = world.now
    unknown = OutcomeUnknown("no answer", txn=(1, 15), request_id=b"x" * 16)
    with pytest.raises(OutcomeUnknown, match="still pending"):
        world.run(world.api.wait_outcome(unknown, 3))
    assert world.now - began < 3.5


# --- several threads -------------------------------------------------------------------------------------


class Vanishing(Routes):
    """Another thread hears that the leader failed, between two looks of this one."""

    looks = 0

    @property
    def leader(self) -> str | None:
        self.looks += 1
        return "a:1" if self.looks == 1 else None

    @leader.setter
    def leader(self, endpoint: str | None) -> None:
        pass


@pytest.mark.parametrize("where", ["write_place", "informed_place"])
def test_a_leader_that_is_gone_meanwhile_is_still_a_place(where: str) -> None:
    world = World(a=leader(1))
    world.plans.routes = Vanishing(["a:1"])
    assert world.run(getattr(world.plans, where)(Tries(world.now + 5))) == "a:1"


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("inf"), 1e9])
def test_a_time_that_no_instance_takes_is_refused_before_anything_is_sent(timeout: float) -> None:
    world = World(a=SILENT).client()
    for plan in (
        world.space.insert([1], timeout=timeout),
        world.space.select(timeout=timeout),
        world.api.promote("a", timeout=timeout),
        world.api.create_space("b", timeout=timeout),
    ):
        with pytest.raises(errors.IllegalParams, match="nothing was done"):
            world.run(plan)
    with pytest.raises(errors.IllegalParams):
        world.client(timeout=timeout)
    assert world.steps == []


def test_an_option_that_is_misspelt_is_not_left_out() -> None:
    """`timeout` written as `timout` would else be the client's own."""
    world = World(a=leader(1))
    for wrong, meant in (("timout", "timeout"), ("is_synch", "is_sync"), ("expected_trem", "expected_term")):
        given: Any = {wrong: 1}
        says = f"no option '{wrong}'; did you mean '{meant}'[?]; nothing was sent"
        for write in (world.space.insert, world.space.replace, world.space.delete):
            with pytest.raises(TypeError, match=says):
                world.run(write([1], **given))
    with pytest.raises(TypeError, match="no option 'colour' of expected_term"):
        world.run(world.space.upsert([1], [], colour=1))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="has no option 'open_fr'; did you mean 'open_for'"):
        OpenTransactionApi(world.api, {"open_fr": 3})  # type: ignore[typeddict-unknown-key]
    assert world.steps == []


def test_names_that_were_asked_for_before_a_change_are_not_taken_for_those_after_it() -> None:
    world = World(a=leader(1))
    world.renames = [("old", 2), ("new", 2), ("never asked", 2)]
    assert [world.run(world.api.field_names("bands")) for _ in range(4)] == [
        ("old",), ("new",), ("new",), ("new",),
    ]  # fmt: skip
