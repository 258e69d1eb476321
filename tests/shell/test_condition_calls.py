"""Conditions and `synchronous` over real gRPC: forms, answers, what is refused. [D-42], [D-28]."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from synchro.errors import ConditionFailed, SynchroError
from synchro.rpc.generated.v1 import data_pb2
from synchro.rpc.status import from_status
from tests import messages
from tests.shell.services_world import insert, pack, serving, streaming, unpacked, with_bands

EQUAL, PRESENT = data_pb2.CHECK_KIND_EQUAL, data_pb2.CHECK_KIND_PRESENT
ABSENT = data_pb2.CHECK_KIND_ABSENT
SYNCHRONOUS = messages.op(synchronous={})


def check(kind: Any, key: int, **more: Any) -> data_pb2.Op:
    return messages.op(check={"space": "bands", "key": pack(key), "kind": kind, **more})


async def test_each_operation_has_its_place_in_the_answer() -> None:
    """A condition answers with no tuple, `synchronous` not at all."""
    async with serving() as (_, client):
        await with_bands(client, is_sync=True)
        await client("Execute", ops=[insert(1, "Roxette")])
        reply = await client(
            "Execute",
            ops=[
                SYNCHRONOUS,
                check(EQUAL, 1, fields=pack([2, "Roxette"])),
                messages.op(
                    update_existing={"space": "bands", "key": pack(1), "ops": pack(["=", 2, "ABBA"])}
                ),
                check(ABSENT, 2),
                insert(2, "Queen"),
                check(PRESENT, 2),
                messages.op(delete_existing={"space": "bands", "key": pack(1)}),
            ],
        )
        assert unpacked(reply.tuples) == [None, [1, "ABBA"], None, [2, "Queen"], None, [1, "ABBA"]]


async def test_by_hand_conditions_are_json() -> None:
    async with serving() as (_, client):
        await with_bands(client)
        await client("Execute", ops=[insert(1, "Roxette")])
        asked = {
            "ops": [
                {"check": {"space": "bands", "keyJson": [1], "kind": 3, "fieldsJson": [[2, "x"]]}},
                {"delete": {"space": "bands", "keyJson": [1]}},
            ]
        }
        request = ParseDict(asked, data_pb2.ExecuteRequest())
        error = await client.refusal("Execute", ops=request.ops)
        assert isinstance(error, ConditionFailed)
        assert dict(error.details) | {
            "op": "0",
            "condition": "equal",
            "space": "bands",
            "key": "[1]",
            "found": '[1, "Roxette"]',
            "field": "2",
            "wanted": '"x"',
        } == dict(error.details)
        found = await client("Select", space="bands")
        assert unpacked(found.tuples) == [[1, "Roxette"]]


@pytest.mark.parametrize(
    ("op", "reason", "field"),
    [
        (data_pb2.Op.FromString(b"\xfa\x01\x00"), "ILLEGAL_PARAMS", "ops[0]"),  # field 31, of a later version
        (check(0, 1), "ILLEGAL_PARAMS", "ops[0].check.kind"),
        (check(9, 1), "ILLEGAL_PARAMS", "ops[0].check.kind"),
        (check(EQUAL, 1), "WRONG_FORMAT", "ops[0].check.fields"),
        (check(EQUAL, 1, fields=pack()), "ILLEGAL_PARAMS", "ops[0].check"),
        (check(EQUAL, 1, fields=pack([0, 1])), "ILLEGAL_PARAMS", "ops[0].check"),
        (check(EQUAL, 1, fields=b"\xc1"), "WRONG_FORMAT", "ops[0].check.fields"),
        (check(EQUAL, 1, fields=b"\xdd\x00\x00\x10\x00"), "BATCH_TOO_LARGE", "ops[0].check.fields"),
        (check(PRESENT, 1, fields=pack([1, 1])), "ILLEGAL_PARAMS", "ops[0].check.fields"),
        (messages.op(check={"space": "bands", "kind": ABSENT}), "WRONG_FORMAT", "ops[0].check.key"),
        (messages.op(check={"key": pack(1), "kind": ABSENT}), "ILLEGAL_PARAMS", "ops[0].check.space"),
        (check(EQUAL, 1, fields=pack(["nmae", 1])), "NO_SUCH_FIELD", None),
        (check(PRESENT, 1, index_id=9), "NO_SUCH_INDEX", None),
        (messages.op(check={"space_id": 9999, "key": pack(1), "kind": ABSENT}), "NO_SUCH_SPACE", None),
        (messages.op(check={"space": "bands", "key": pack(), "kind": ABSENT}), "EXACT_MATCH", None),
        (messages.op(check={"space": "_user", "key": pack(1), "kind": ABSENT}), "UNSUPPORTED", None),
    ],
)  # fmt: skip
async def test_what_is_no_condition_is_refused_by_name(op: Any, reason: str, field: str | None) -> None:
    async with serving() as (_, client):
        await with_bands(client)
        await client("Execute", ops=[insert(1, "Roxette")])
        error = await client.refusal("Execute", ops=[op, insert(2, "ABBA")])
        assert error.reason == reason
        if field is not None:
            assert error.details["field"] == field
        assert len((await client("Select", space="bands")).tuples) == 1


async def test_conditions_alone_are_no_transaction() -> None:
    async with serving() as (_, client):
        await with_bands(client)
        for ops in ([check(ABSENT, 1)], [SYNCHRONOUS], [SYNCHRONOUS, check(ABSENT, 1)]):
            error = await client.refusal("Execute", ops=ops)
            assert error.reason == "ILLEGAL_PARAMS" and "read instead" in str(error)


async def test_an_operation_of_a_later_version_is_refused_among_many() -> None:
    """Many inserts are decoded as columns: what they do not know must not be left out there."""
    async with serving() as (_, client):
        await with_bands(client)
        later = data_pb2.Op.FromString(b"\xfa\x01\x00")
        for place in (0, 3, 6):
            ops = [insert(number, "x") for number in range(6)]
            ops.insert(place, later)
            error = await client.refusal("Execute", ops=ops)
            assert error.reason == "ILLEGAL_PARAMS" and error.details["field"] == f"ops[{place}]"


async def test_the_same_on_a_stream() -> None:
    async with serving() as (_, client):
        await with_bands(client)
        async with streaming(client) as stream:
            stream.send(
                {"seq": 1, "ops": [check(ABSENT, 1), insert(1, "a")]},
                {"seq": 2, "ops": [check(ABSENT, 1), insert(1, "b")]},
                *({"seq": 3 + n, "ops": [insert(10 + n, "c")]} for n in range(5)),
                {"seq": 8, "ops": [check(PRESENT, 14), SYNCHRONOUS, insert(2, "d")]},
            )
            results = await stream.results_of(*range(1, 9))
            failed = [result.seq for result in results if result.HasField("error")]
            assert failed == [2]
            error = from_status(results[1].error)
            assert isinstance(error, ConditionFailed) and error.details["found"] == '[1, "a"]'
            assert [unpacked(results[n].reply.tuples) for n in (0, 7)] == [[None, [1, "a"]], [None, [2, "d"]]]


def test_a_condition_that_failed_has_its_own_class() -> None:
    assert issubclass(ConditionFailed, SynchroError) and ConditionFailed.exit_code == 6
