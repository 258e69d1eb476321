"""Open transactions as plans: what is told when something goes wrong, and what is repeated. [D-43]"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import pytest

from synchro.client.errors import CannotConnect, ConnectionLost, OutcomeUnknown
from synchro.client.open_transaction import (
    BeginOptions,
    OpenTransactionApi,
    Repeats,
    SpaceInTransaction,
)
from synchro.client.plans import EndTalk, OpenTalk, Pause, Say
from synchro.errors import (
    IllegalParams,
    OldTerm,
    ReadOnly,
    SynchroError,
    SyncRollback,
    SyncTimeout,
    TransactionAborted,
    TransactionConflict,
    TransactionsFull,
    TupleFound,
    Unimplemented,
)
from synchro.rpc.generated.v1 import common_pb2, data_pb2
from synchro.rpc.status import to_status
from tests.unit.test_client_plans import World, follower, leader

Answer = Callable[[Any], Any]


class Talking(World):
    """`says`: as in `World`. on_step: what comes of a request; an error ends the call."""

    def __init__(self, **says: Any) -> None:
        super().__init__(**says)
        self.on_step: Answer = self.well
        self.asked: list[str] = []
        self.ended = 0

    def well(self, request: Any) -> Any:
        match request.WhichOneof("step"):
            case "begin":
                return data_pb2.TransactResponse(begun=data_pb2.TransactBegun(term=2))
            case "op":
                return data_pb2.TransactResponse(tuple=common_pb2.Tuple(msgpack=b"\x91\x01"))
            case "select":
                return data_pb2.TransactResponse(rows=data_pb2.SelectResponse())
            case _:
                reply = data_pb2.ExecuteReply(txn_origin=1, txn_lsn=9, is_sync=True)
                return data_pb2.TransactResponse(committed=reply)

    def on(self, step: str, answer: Any) -> None:
        self.on_step = lambda request: answer if request.WhichOneof("step") == step else self.well(request)

    def _do(self, step: Any) -> Any:
        match step:
            case OpenTalk(endpoint, request):
                self.asked.append(endpoint)
                answer = self.on_step(request)
                return answer if isinstance(answer, SynchroError) else ("talk", answer)
            case Say("talk", request):
                return self.on_step(request)
            case EndTalk("talk"):
                self.ended += 1
                return None
        return super()._do(step)

    def begun(self, **options: Unpack[BeginOptions]) -> OpenTransactionApi:
        made = OpenTransactionApi(self.api, options)
        self.run(made.begin())
        return made


def world() -> Talking:
    return Talking(a=leader(1), b=follower(2, leads=1))


def insert(made: OpenTransactionApi) -> Any:
    return SpaceInTransaction(made, "bands").insert([1])


def test_a_transaction_is_opened_where_writes_go() -> None:
    talking = world()
    made = talking.begun(open_for=3, is_sync=True, expected_term=7)
    begin = next(step for step in talking.steps if isinstance(step, OpenTalk)).request.begin
    assert talking.asked == ["a:1"]
    assert (begin.timeout.seconds, begin.is_sync, begin.expected_term) == (3, True, 7)
    assert talking.run(insert(made)) == (1,)
    assert talking.run(SpaceInTransaction(made, "bands").get(1)) is None
    result = talking.run(made.commit())
    assert (result.txn, result.is_sync) == ((1, 9), True) and made.result is result and made.is_over
    assert talking.plans.session.vclock == {1: 9} and talking.ended == 1
    for late in (insert(made), made.commit()):
        with pytest.raises(IllegalParams, match="over"):
            talking.run(late)
    talking.run(made.rollback())
    assert talking.ended == 1


@pytest.mark.parametrize("error", [TransactionConflict("changed"), ConnectionLost("gone"), ReadOnly("no")])
def test_what_ended_it_is_told_at_the_end_of_its_block_too(error: SynchroError) -> None:
    """Whoever caught it in the block must not take the transaction for committed."""
    talking = world()
    made = talking.begun()
    talking.on("op", error)
    with pytest.raises(SynchroError) as first:
        talking.run(insert(made))
    with pytest.raises(SynchroError) as again:
        talking.run(made.finish())
    assert again.value is first.value and made.result is None
    talking.run(made.rollback())  # who says this knows
    talking.run(made.finish())


def test_the_end_of_the_block_commits_what_is_open() -> None:
    talking = world()
    made = talking.begun()
    talking.run(made.finish())
    assert made.result is not None and made.result.txn == (1, 9)
    talking.run(made.finish())
    assert talking.ended == 1


def test_an_answer_that_nobody_waited_for_is_not_taken_for_that_of_the_next_statement() -> None:
    """A statement that was cancelled, and one of another task."""
    talking = world()
    made = talking.begun()
    given_up = insert(made)
    assert isinstance(next(given_up), Say)
    said = len(talking.steps)
    for late in (insert(made), made.commit(), made.finish()):
        with pytest.raises(IllegalParams, match="no answer yet"):
            talking.run(late)
    assert len(talking.steps) == said
    talking.run(made.rollback())
    assert talking.ended == 1 and made.result is None


def test_a_begin_that_is_refused_goes_on_elsewhere() -> None:
    """Nothing was done: it is as safe as a read."""
    talking = world()
    answers = [ConnectionLost("gone"), ReadOnly("no"), TransactionsFull("later")]

    def refused(request: Any) -> Any:
        return answers.pop(0) if answers else talking.well(request)

    talking.on_step = refused
    talking.begun()
    assert answers == [] and len(talking.asked) == 4
    talking.on("begin", Unimplemented("an older server"))
    with pytest.raises(Unimplemented):
        talking.begun()


def test_a_statement_that_is_refused_leaves_the_transaction_open() -> None:
    talking = world()
    made = talking.begun()
    talking.on("op", data_pb2.TransactResponse(refused=to_status(TupleFound("there"))))
    with pytest.raises(TupleFound):
        talking.run(insert(made))
    assert not made.is_over
    talking.on_step = talking.well
    assert talking.run(made.commit()).txn == (1, 9)


@pytest.mark.parametrize("lost", [ConnectionLost("gone"), CannotConnect("not sent")])
def test_a_connection_that_is_lost_before_the_commit_did_nothing(lost: SynchroError) -> None:
    talking = world()
    made = talking.begun()
    talking.on("op", lost)
    with pytest.raises(TransactionAborted, match="nothing was done"):
        talking.run(insert(made))
    assert made.is_over and talking.ended == 1
    assert talking.plans.routes.leader is None  # the next one looks who leads


def test_what_the_server_ends_it_with_is_told_as_it_is() -> None:
    for error in (TransactionConflict("changed"), OldTerm("term")):
        talking = world()
        made = talking.begun()
        talking.on("op", error)
        with pytest.raises(type(error)):
            talking.run(insert(made))
        assert made.is_over


def test_nothing_is_said_behind_a_commit_that_has_no_answer_yet() -> None:
    """Its answer would be taken for that of the statement, and the other way round."""
    for more in (insert, OpenTransactionApi.commit):
        talking = world()
        made = talking.begun()
        commit = made.commit()
        next(commit)
        with pytest.raises(IllegalParams, match="nothing was sent"):
            talking.run(more(made))
        commit.close()


def test_a_commit_without_an_answer_may_have_been_done() -> None:
    for error in (ConnectionLost("gone"), SyncTimeout("no quorum", txn="1:9")):
        talking = world()
        made = talking.begun()
        talking.run(insert(made))
        talking.on("commit", error)
        with pytest.raises(OutcomeUnknown) as caught:
            talking.run(made.commit())
        assert caught.value.request_id == made.request_id
        assert caught.value.details["reason"] == error.reason
        assert caught.value.txn == ((1, 9) if isinstance(error, SyncTimeout) else None)
        assert made.is_over and made.result is None


def test_a_commit_that_is_refused_did_nothing() -> None:
    for error in (TransactionConflict("changed"), SyncRollback("dropped"), ReadOnly("no")):
        talking = world()
        made = talking.begun()
        talking.on("commit", error)
        with pytest.raises(type(error)):
            talking.run(made.commit())
        assert made.is_over


def test_options_that_no_server_takes_are_refused_before_anything_is_sent() -> None:
    wrong: list[Any] = [
        {"wait": "never"},
        {"open_for": -1},
        {"open_for": "x"},
        {"expected_term": -1},
        {"timeout": -1},
    ]
    for options in wrong:
        talking = world()
        with pytest.raises(IllegalParams):
            talking.begun(**options)
        assert talking.asked == []


@pytest.mark.parametrize(
    ("error", "is_again"),
    [
        (TransactionConflict("x"), True),
        (SyncRollback("x"), True),
        (OldTerm("x"), True),
        (TransactionAborted("x"), True),
        (ReadOnly("x"), True),
        (TransactionsFull("x"), True),
        (ConnectionLost("x"), True),  # while it was begun
        (TupleFound("x"), False),
        (OutcomeUnknown("x"), False),
        (IllegalParams("x"), False),
    ],
)
def test_all_of_a_transaction_is_repeated_only_if_nothing_was_done(
    error: SynchroError, is_again: bool
) -> None:
    talking = world()
    repeats = Repeats(talking.api, 2.0)
    assert repeats.options({"timeout": 9.0})["timeout"] == 2.0
    tries, end = 0, talking.now + 2.0

    def repeat() -> None:
        nonlocal tries
        for tries in range(1000):  # noqa: B007
            talking.run(repeats.after(error))

    with pytest.raises(type(error)):
        repeat()
    assert (tries > 5) is is_again and talking.now < end
    pauses = [step.seconds for step in talking.steps if isinstance(step, Pause)]
    assert pauses == sorted(pauses)
