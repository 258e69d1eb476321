"""Open transactions over real gRPC: what is answered, what ends them, and that nothing stays open. [D-43]"""

# ruff: noqa: ASYNC110 - what we wait for sets no event
# ruff: noqa: PT012 - a stream's errors come out of its block

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from synchro.config import Limits
from synchro.errors import (
    BatchTooLarge,
    ConditionFailed,
    IllegalParams,
    Loading,
    OldTerm,
    ReadOnly,
    SynchroError,
    TransactionAborted,
    TransactionConflict,
    TransactionsFull,
    TransactionTimeout,
    TupleFound,
)
from synchro.ids import Term
from synchro.ro_reason import RoReason
from synchro.rpc.generated.v1 import data_pb2
from synchro.rpc.status import from_rpc_error, from_status
from synchro.wire.failure import CallFailed
from tests import messages
from tests.shell.fake_node import FakeNode
from tests.shell.services_world import Client, filled, insert, pack, serving, unpacked, with_bands


class Talk:
    """One stream of Transact: a step and its answer after the other."""

    def __init__(self, duplex: Any) -> None:
        self.duplex = duplex

    def send(self, **step: Any) -> None:
        self.duplex.send_nowait(data_pb2.TransactRequest(**step))

    async def answer(self) -> Any:
        reply = await self.duplex.receive()
        assert reply.header.instance_id == 1
        return reply

    async def begin(self, **options: Any) -> Any:
        self.send(begin=messages.begin(**options))
        return (await self.answer()).begun

    async def do(self, op: Any) -> list[Any] | None:
        """The tuple; a refusal is raised."""
        self.send(op=op)
        reply = await self.answer()
        if reply.WhichOneof("outcome") == "refused":
            error = from_status(reply.refused)
            assert error is not None
            raise error
        assert reply.WhichOneof("outcome") == "tuple"
        return unpacked([reply.tuple])[0]  # type: ignore[no-any-return]

    async def select(self, *key: Any, **fields: Any) -> list[Any]:
        request = {"space": "bands", "key": {"msgpack": pack(*key)}, **fields}
        self.send(select=messages.select(**request))
        reply = await self.answer()
        if reply.WhichOneof("outcome") == "refused":
            error = from_status(reply.refused)
            assert error is not None
            raise error
        return unpacked(reply.rows.tuples)

    async def commit(self, **options: Any) -> Any:
        self.send(commit=messages.commit(**options))
        reply = await self.answer()
        assert reply.WhichOneof("outcome") == "committed"
        await self.over()
        return reply.committed

    async def over(self) -> None:
        with pytest.raises(trio.EndOfChannel):
            await self.duplex.receive()


@asynccontextmanager
async def transacting(client: Client, **begin: Any) -> AsyncIterator[Talk]:
    """A transaction that is begun. What ends its stream is raised as the error it stands for."""
    path, request, response = client.path("Transact")
    try:
        async with client.channel.duplex(
            path, serializer=request.SerializeToString, deserializer=response.FromString
        ) as duplex:
            talk = Talk(duplex)
            if begin.pop("begins", True):
                await talk.begin(**begin)
            yield talk
    except CallFailed as error:
        raise from_rpc_error(error) or error from error


async def wait_closed(node: FakeNode) -> None:
    with trio.fail_after(20):
        while node.open_transactions.count:
            await trio.sleep(0.005)
    node.open_transactions.check()
    assert node.open_transactions.bytes == 0


def update(key: int, *ops: Any) -> Any:
    return messages.op(update={"space": "bands", "key": pack(key), "ops": pack(*ops)})


async def rows_of(client: Client) -> list[Any]:
    return unpacked((await client("Select", space="bands")).tuples)


# --- from begin to commit ----------------------------------------------------------------------------------


async def test_what_a_transaction_does_is_seen_by_itself_and_by_others_when_it_is_committed() -> None:
    async with serving() as (node, client):
        await filled(client, 2)
        async with transacting(client) as talk:
            assert await talk.select(1) == [[1, "x"]]
            assert await talk.do(update(1, ["=", 2, "ABBA"])) == [1, "ABBA"]
            assert await talk.do(insert(5, "Queen")) == [5, "Queen"]
            assert await talk.do(messages.op(delete={"space": "bands", "key": pack(0)})) == [0, "x"]
            assert await talk.select() == [[1, "ABBA"], [5, "Queen"]]
            assert await rows_of(client) == [[0, "x"], [1, "x"]]
            reply = await talk.commit(request_id=b"t" * 16)
            assert (reply.txn_origin, reply.duplicate) == (1, False) and reply.txn_lsn
        assert await rows_of(client) == [[1, "ABBA"], [5, "Queen"]]
        fate = await client("WaitTransaction", request_id=b"t" * 16)
        assert (fate.txn.origin, fate.txn.lsn) == (1, reply.txn_lsn)
        await wait_closed(node)


async def test_begin_says_how_long_and_in_which_term() -> None:
    async with serving() as (_, client), transacting(client, begins=False) as talk:
        begun = await talk.begin(timeout={"seconds": 7})
        assert (begun.timeout.seconds, begun.term) == (7, 2)
    async with serving() as (_, client), transacting(client, begins=False) as talk:
        assert (
            await talk.begin(timeout={"seconds": 7000})
        ).timeout.seconds == 60  # as much as the server allows


async def test_a_rollback_ends_it_and_nothing_was_done() -> None:
    async with serving() as (node, client):
        await filled(client, 1)
        async with transacting(client) as talk:
            await talk.do(insert(5, "Queen"))
            talk.send(rollback=data_pb2.TransactRollback())
            assert (await talk.answer()).WhichOneof("outcome") == "rolled_back"
            await talk.over()
        assert await rows_of(client) == [[0, "x"]]
        await wait_closed(node)


async def test_steps_may_be_sent_without_waiting_for_answers() -> None:
    async with serving() as (_, client):
        await filled(client, 1)
        async with transacting(client, begins=False) as talk:
            talk.send(begin=messages.begin())
            talk.send(op=insert(1, "a"))
            talk.send(op=insert(1, "b"))
            talk.send(op=insert(2, "c"))
            talk.send(commit=messages.commit())
            outcomes = [(await talk.answer()).WhichOneof("outcome") for _ in range(5)]
            assert outcomes == ["begun", "tuple", "refused", "tuple", "committed"]
        assert await rows_of(client) == [[0, "x"], [1, "a"], [2, "c"]]


async def test_a_statement_that_is_refused_leaves_the_transaction_open() -> None:
    async with serving() as (_, client):
        await filled(client, 2)
        async with transacting(client) as talk:
            await talk.do(insert(5, "Queen"))
            refused: list[tuple[Any, type[SynchroError]]] = [
                (insert(1, "again"), TupleFound),
                (insert("one", "x"), SynchroError),
                (insert(6, "x", space="nowhere"), SynchroError),
                (messages.op(synchronous={}), IllegalParams),
                (data_pb2.Op(), IllegalParams),
                (insert(320, "x", space="_cluster"), SynchroError),
                (messages.op(update_existing={"space": "bands", "key": pack(9), "ops": pack(["=", 2, "z"])}),
                 ConditionFailed),
                (messages.op(check={"space": "bands", "key": pack(9), "kind": "CHECK_KIND_PRESENT"}),
                ConditionFailed),
            ]  # fmt: skip
            for op, kind in refused:
                with pytest.raises(kind):
                    await talk.do(op)
            for fields in (
                {"min_vclock": {1: 1}},
                {"read": "READ_MODE_LINEARIZABLE"},
                {"timeout": {"seconds": 1}},
            ):
                with pytest.raises(IllegalParams, match="cannot be set"):
                    await talk.select(1, **fields)
            with pytest.raises(BatchTooLarge):
                await talk.select(offset=1000)
            await talk.commit()
        assert await rows_of(client) == [[0, "x"], [1, "x"], [5, "Queen"]]


async def test_without_changes_a_commit_says_that_all_was_read_in_one_state() -> None:
    async with serving() as (_, client):
        await filled(client, 2)
        async with transacting(client) as talk:
            assert await talk.select(1) == [[1, "x"]]
            reply = await talk.commit()
            assert not reply.txn_lsn
        with pytest.raises(TransactionConflict):
            async with transacting(client) as talk:
                await talk.select(1)
                await client("Execute", ops=[update(1, ["=", 2, "y"])])
                await talk.commit()


async def test_a_repetition_that_finds_nothing_to_change_is_told_that_it_is_one() -> None:
    """S12: at most one call with a request id hears that it is no duplicate."""
    async with serving() as (_, client):
        await filled(client, 2)
        removal = messages.op(delete={"space": "bands", "key": pack(1)})
        told = []
        for found in ([1, "x"], None):
            async with transacting(client) as talk:
                assert await talk.do(removal) == found
                told.append(await talk.commit(request_id=b"d" * 16))
        assert [reply.duplicate for reply in told] == [False, True]
        assert told[0].txn_lsn == told[1].txn_lsn != 0
        async with transacting(client) as talk:
            assert await talk.do(removal) is None
            assert not (await talk.commit(request_id=b"e" * 16)).duplicate


async def test_json_is_answered_in_json() -> None:
    async with serving() as (_, client):
        await filled(client, 2)
        async with transacting(client) as talk:
            talk.send(op=messages.op(replace={"space": "bands", "tuple_json": [7, "seven"]}))
            assert list((await talk.answer()).tuple.json) == [7, "seven"]
            talk.send(select=messages.select(space="bands", key={"json": [7]}))
            assert [list(each.json) for each in (await talk.answer()).rows.tuples] == [[7, "seven"]]


# --- conflicts ---------------------------------------------------------------------------------------------


async def test_two_who_read_and_change_the_same_do_not_both_win() -> None:
    async with serving() as (node, client):
        await with_bands(client, is_sync=True)
        await client("Execute", ops=[insert(1, "x")])
        async with transacting(client) as first:
            await first.do(update(1, ["=", 2, "first"]))
            with pytest.raises(TransactionConflict, match="nothing was written"):
                async with transacting(client) as second:
                    await second.do(update(1, ["=", 2, "second"]))
                    await first.commit()
                    await second.commit()
        assert await rows_of(client) == [[1, "first"]]
        await wait_closed(node)


async def test_a_conflict_that_is_seen_in_a_statement_ends_the_transaction() -> None:
    async with serving() as (node, client):
        await filled(client, 2)
        with pytest.raises(TransactionConflict):
            async with transacting(client) as talk:
                await talk.select(1)
                await client("Execute", ops=[update(1, ["=", 2, "y"])])
                await talk.do(update(1, ["=", 2, "z"]))
        await wait_closed(node)


async def test_a_definition_that_changes_meanwhile_is_a_conflict() -> None:
    async with serving() as (node, client):
        await filled(client, 2)
        with pytest.raises(TransactionConflict, match="defined anew or emptied"):
            async with transacting(client) as talk:
                await talk.do(insert(5, "Queen"))
                await client("TruncateSpace", space="bands")
                await talk.commit()
        assert await rows_of(client) == []
        await wait_closed(node)


# --- ends that nobody asked for ----------------------------------------------------------------------------


async def test_another_term_ends_it() -> None:
    """OpenTransaction.X5"""
    async with serving() as (node, client):
        await filled(client, 1)
        for step in ("op", "commit"):
            node.term = Term(2)
            with pytest.raises(OldTerm, match="nothing was written"):
                async with transacting(client) as talk:
                    await talk.do(insert(5, "Queen"))
                    node.term = Term(3)
                    await (talk.do(insert(6, "x")) if step == "op" else talk.commit())
        with pytest.raises(OldTerm):
            async with transacting(client, expected_term=2):
                pass
        assert await rows_of(client) == [[0, "x"]]
        await wait_closed(node)


async def test_who_may_not_write_any_more_ends_it() -> None:
    async with serving() as (node, client):
        await filled(client, 1)
        with pytest.raises(ReadOnly):
            async with transacting(client) as talk:
                await talk.do(insert(5, "Queen"))
                node.instance.ro_reason = RoReason.ELECTION
                await talk.commit()
        with pytest.raises(ReadOnly):
            async with transacting(client):
                pass
        node.instance.ro_reason = RoReason.NONE
        assert await rows_of(client) == [[0, "x"]]
        await wait_closed(node)


@pytest.mark.effect_of("database.txn_timeout")
async def test_a_transaction_that_is_open_for_too_long_is_rolled_back() -> None:
    async with serving() as (node, client):
        await filled(client, 1)
        node.instance.settings = replace(node.instance.settings, txn_timeout_s=0.05)
        with pytest.raises(TransactionTimeout, match=r"open for 0\.05 s; nothing was done"):
            async with transacting(client) as talk:
                await talk.do(insert(5, "Queen"))
                await talk.answer()
        with pytest.raises(TransactionTimeout):  # one that does not even begin
            async with transacting(client, begins=False) as talk:
                await talk.answer()
        node.instance.settings = replace(node.instance.settings, txn_timeout_s=60)
        with pytest.raises(TransactionTimeout, match=r"open for 0\.02 s"):
            async with transacting(client, timeout={"nanos": 20_000_000}) as talk:
                await talk.answer()
        assert await rows_of(client) == [[0, "x"]]
        await wait_closed(node)


async def test_a_stream_that_is_closed_before_the_commit_is_told_so() -> None:
    """OpenTransaction.X4"""
    async with serving() as (node, client):
        await filled(client, 1)
        for begins in (True, False):
            with pytest.raises(TransactionAborted, match="nothing was done"):
                async with transacting(client, begins=begins) as talk:
                    if begins:
                        await talk.do(insert(5, "Queen"))
                    talk.duplex.done_sending()
                    await talk.answer()
        assert await rows_of(client) == [[0, "x"]]
        await wait_closed(node)


async def test_a_client_that_is_gone_leaves_nothing_open() -> None:
    async with serving() as (node, client):
        await filled(client, 1)
        async with transacting(client) as talk:
            await talk.do(insert(5, "Queen"))
            assert node.open_transactions.count == 1 and node.open_transactions.bytes > 0
        await wait_closed(node)
        assert await rows_of(client) == [[0, "x"]]


async def test_who_leaves_during_the_commit_abandons_the_call() -> None:
    async with serving() as (node, client):
        await filled(client, 1)
        node.hold = True
        async with transacting(client) as talk:
            await talk.do(insert(5, "Queen"))
            talk.send(commit=messages.commit())
            with trio.fail_after(20):
                while not node.held:
                    await trio.sleep(0.005)
        await wait_closed(node)
        assert node.abandoned and not node.held


async def test_an_instance_that_stops_ends_what_is_open_and_answers_what_is_being_committed() -> None:
    async with serving() as (node, client):
        await filled(client, 1)
        node.hold = True
        with pytest.raises(Loading, match="stopping; nothing was done"):
            async with transacting(client) as committing:
                await committing.do(insert(5, "Queen"))
                committing.send(commit=messages.commit())
                async with transacting(client) as idle:
                    while not node.held:
                        await trio.sleep(0.005)
                    node.services.end_streams()
                    node.release()
                    assert (await committing.answer()).committed.txn_lsn
                    await idle.answer()
        await wait_closed(node)


@pytest.mark.parametrize(
    "steps",
    [
        [{"op": insert(1, "x")}],
        [{"commit": messages.commit()}],
        [{}],
        [{"begin": messages.begin()}, {"begin": messages.begin()}],
        [{"begin": messages.begin()}, {}],
        [{"begin": messages.begin(timeout={"seconds": -1})}],
        [{"begin": messages.begin(expected_term=1 << 63)}],
        [{"begin": messages.begin()}, {"commit": messages.commit(request_id=b"short")}],
        [{"begin": messages.begin()}, {"op": insert(8, "x")},
         {"commit": messages.commit(wait=77)}],
    ],
)  # fmt: skip
async def test_steps_that_make_no_sense_end_the_stream(steps: list[dict[str, Any]]) -> None:
    async with serving() as (node, client):
        await filled(client, 1)
        with pytest.raises(IllegalParams, match="nothing was done"):
            async with transacting(client, begins=False) as talk:
                for step in steps:
                    talk.send(**step)
                while True:
                    await talk.answer()
        assert await rows_of(client) == [[0, "x"]]
        await wait_closed(node)


# --- bounds ------------------------------------------------------------------------------------------------


@pytest.mark.effect_of("limits.max_open_transactions")
async def test_so_many_are_open_at_a_time() -> None:
    async with serving(Limits(open_transactions_max=1)) as (node, client):
        await filled(client, 1)
        async with transacting(client) as talk:
            with pytest.raises(TransactionsFull, match="none was begun"):
                async with transacting(client):
                    pass
            node.open_transactions.limits_changed(Limits(open_transactions_max=2))
            async with transacting(client):
                pass
            await talk.commit()
        await wait_closed(node)


@pytest.mark.effect_of("limits.open_transactions_bytes_max")
async def test_so_much_is_held_by_all_of_them() -> None:
    async with serving(Limits(open_transactions_bytes_max=64 * 1024)) as (node, client):
        await filled(client, 1)
        async with transacting(client) as talk:
            await talk.do(insert(5, "x" * 70_000))
            with pytest.raises(TransactionsFull, match="this was not done"):
                await talk.do(insert(6, "x"))
            async with transacting(client) as other:
                with pytest.raises(TransactionsFull):
                    await other.select(1)
            node.open_transactions.limits_changed(Limits())
            await talk.do(insert(6, "x"))
            await talk.commit()
        await wait_closed(node)
