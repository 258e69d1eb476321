"""Input that no honest client sends, over real gRPC: refused, each with its own reason, nothing changed."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Generator
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import ListValue

from synchro.errors import SynchroError
from synchro.rpc.generated.v1 import common_pb2, control_pb2, data_pb2, info_pb2, schema_pb2
from tests.e2e.cluster import Cluster, soon_s
from tests.e2e.remote import Lost, Remote, insert, pack, replace, seconds, update

pytestmark = pytest.mark.e2e

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with Cluster(
        tmp_path_factory.mktemp("bad"), ["instance001"], replication={"synchro_quorum": 1}
    ) as cluster:
        remote = cluster.start()["instance001"].remote
        remote.promote()
        remote.create("bands", is_sync=True, format=[("id", "unsigned"), ("name", "string")])
        remote.create_space("numbers", format=[("n", "number")])
        part = schema_pb2.KeyPart(field=1, type="number")
        remote.schema.CreateIndex(schema_pb2.CreateIndexRequest(space="numbers", name="pk", parts=[part]))
        remote.insert("bands", 1, "Roxette")
        remote.insert("numbers", 1.5)
        yield cluster


@pytest.fixture
def remote(server: Cluster) -> Generator[Remote]:
    """After the test: the same vclock, the same tuples, an empty queue, and writes still work."""
    remote = server["instance001"].remote
    remote.replace("numbers", 1.5)  # the CONFIRM of what was committed goes ahead of it (ADR 11): none is due
    before = state(remote)
    yield remote
    assert state(remote) == before
    assert server["instance001"].is_running


def state(remote: Remote) -> object:
    spaces = [remote.checksum(space) for space in ("bands", "numbers", "_space", "_index")]
    return remote.vclock(), remote.queue()["len"], spaces


def refused(call: Any, *arguments: Any, **more: Any) -> SynchroError:
    with pytest.raises(SynchroError) as error:
        call(*arguments, **more)
    assert error.value.message
    return error.value


def raw(space: str, data: bytes) -> data_pb2.Op:
    return data_pb2.Op(insert=data_pb2.Insert(space=space, tuple=data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x92\x02",
        b"\x92\x02\xa1x\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff" + b"\x01" * 10,
        b"\x92\x02\xdb\xff\xff\xff\xffx",
        b"\x92\x02\xc6\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x92\x02\xa2\xff\xfe",
        b"\x92\x02\xd4\x05\x00",
        pack({1: "x"}),
        pack("a string"),
        pack(7),
        bytes(range(256)),
    ],
    ids=[
        "empty",
        "never-used",
        "cut",
        "trailing",
        "lying-array",
        "short-array",
        "lying-string",
        "lying-binary",
        "deep",
        "not-utf8",
        "extension",
        "map",
        "string",
        "number",
        "noise",
    ],
)
def test_malformed_msgpack(remote: Remote, data: bytes) -> None:
    error = refused(remote.execute, raw("bands", data))
    assert error.reason in ("WRONG_FORMAT", "DECODE"), error
    assert error.details["field"].startswith("ops[0].insert")


def test_malformed_keys_and_operations(remote: Remote) -> None:
    for key in (b"\xc1", b"\x93\x01", pack({}), pack("x")):
        op = data_pb2.Op(delete=data_pb2.Delete(space="bands", key=key))
        assert refused(remote.execute, op).reason == "WRONG_FORMAT"
        request = data_pb2.SelectRequest(space="bands", key=common_pb2.Tuple(msgpack=key))
        assert refused(remote.call, remote.data.Select, request).reason == "WRONG_FORMAT"
    reasons = {
        "UNKNOWN_UPDATE_OP": [["?", 2, "x"]],
        "UPDATE_ARG_TYPE": [["+", 2, 1]],
        "NO_SUCH_FIELD": [["=", 9, "x"]],
        "CANT_UPDATE_PRIMARY_KEY": [["=", 1, 2]],
        "FIELD_TYPE": [["=", 2, 7]],
    }
    for reason, ops in reasons.items():
        assert refused(remote.execute, update("bands", [1], ops)).reason == reason
    no_ops: tuple[object, ...] = (7, ["="], [[]], [["="]], [[1, 2, 3]], {"=": 1})
    for wrong in no_ops:
        op = data_pb2.Op(update=data_pb2.Update(space="bands", key=pack([1]), ops=pack(wrong)))
        error = refused(remote.execute, op)
        assert error.reason in ("WRONG_FORMAT", "ILLEGAL_PARAMS", "UNKNOWN_UPDATE_OP"), (ops, error.reason)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([2, 3], "FIELD_TYPE"),
        ([-1, "x"], "FIELD_TYPE"),
        (["2", "x"], "FIELD_TYPE"),
        ([2.5, "x"], "FIELD_TYPE"),
        ([None, "x"], "FIELD_TYPE"),
        ([True, "x"], "FIELD_TYPE"),
        ([2, b"\x00"], "FIELD_TYPE"),
        ([2], "FIELD_MISSING"),
        ([], "FIELD_MISSING"),
        ([1, "again"], "TUPLE_FOUND"),
    ],
)
def test_wrong_fields(remote: Remote, fields: list[Any], reason: str) -> None:
    assert refused(remote.insert, "bands", *fields).reason == reason


@pytest.mark.parametrize("value", [math.nan, -math.nan, "x", None, True])
def test_not_a_number_is_no_key(remote: Remote, value: Any) -> None:
    assert refused(remote.insert, "numbers", value).reason == "FIELD_TYPE"
    error = refused(remote.select, "numbers", [value], "EQ")
    assert error.reason == "KEY_PART_TYPE"


def test_huge_numbers(server: Cluster) -> None:
    """Those that msgpack can hold are stored exactly; those that JSON cannot are refused."""
    remote = server["instance001"].remote
    kept = [2**64 - 1, -(2**63), 1.7976931348623157e308, math.inf, -math.inf]
    for value in kept:
        remote.insert("numbers", value)
        assert remote.select("numbers", [value], "EQ") == [[value]]
    before = state(remote)
    for value in (1e30, -1, 0.5, math.nan, 2.0**64):
        listed = ListValue()
        listed.values.add(number_value=value)
        listed.values.add(string_value="x")
        op = data_pb2.Op(insert=data_pb2.Insert(space="bands", tuple_json=listed))
        error = refused(remote.execute, op)
        assert error.reason in ("FIELD_TYPE", "WRONG_FORMAT"), (value, error.reason)
    assert state(remote) == before


def test_unknown_space_and_the_nearest_name(remote: Remote) -> None:
    for call in (
        lambda: remote.insert("band", 1, "x"),
        lambda: remote.select("band"),
        lambda: remote.checksum("band"),
        lambda: remote.create_index("band", "more"),
    ):
        error = refused(call)
        assert error.reason == "NO_SUCH_SPACE"
        assert "bands" in error.message or "bands" in error.details.values()
    unknown_id = data_pb2.Op(insert=data_pb2.Insert(space_id=9999, tuple=pack([1])))
    assert refused(remote.execute, unknown_id).reason == "NO_SUCH_SPACE"
    none_given = data_pb2.Op(insert=data_pb2.Insert(tuple=pack([1])))
    assert refused(remote.execute, none_given).reason == "ILLEGAL_PARAMS"
    request = data_pb2.SelectRequest(space="bands", index="primry")
    assert refused(remote.call, remote.data.Select, request).reason == "NO_SUCH_INDEX"
    assert refused(remote.create_space, "bands").reason == "SPACE_EXISTS"
    assert refused(remote.create_index, "bands", "pk").reason == "INDEX_EXISTS"


def test_wrong_key_parts(remote: Remote) -> None:
    assert refused(remote.select, "bands", ["x"], "EQ").reason == "KEY_PART_TYPE"
    assert refused(remote.select, "bands", [1, 2], "EQ").reason == "KEY_PART_COUNT"
    for key, reason in ([], "EXACT_MATCH"), ([1, 2], "EXACT_MATCH"), (["x"], "KEY_PART_TYPE"):
        op = data_pb2.Op(delete=data_pb2.Delete(space="bands", key=pack(key)))
        error = refused(remote.execute, op)
        assert error.reason in (reason, "KEY_PART_COUNT"), (key, error.reason)


def test_unknown_iterator_and_modes(remote: Remote) -> None:
    error = refused(remote.select, "bands", [1], "NEAREST")
    assert error.reason == "ITERATOR_TYPE" and "NEAREST" in error.message
    request = data_pb2.SelectRequest(space="bands", read=77)  # type: ignore[arg-type]  # it is not one of the enum
    assert refused(remote.call, remote.data.Select, request).reason == "ILLEGAL_PARAMS"
    assert refused(remote.execute, insert("bands", [5, "x"]), wait=77).reason == "ILLEGAL_PARAMS"


def test_over_the_limits(remote: Remote) -> None:
    error = refused(remote.insert, "bands", 2, "x" * MIB)
    assert error.reason == "BATCH_TOO_LARGE" and error.details["limit"] == str(MIB)
    error = refused(remote.execute, *(insert("bands", [10 + n, "x"]) for n in range(1001)))
    assert error.reason == "BATCH_TOO_LARGE" and error.details["limit"] == "1000"
    large = [replace("bands", [10 + n, "x" * (MIB - 100)]) for n in range(9)]
    assert refused(remote.execute, *large).reason == "BATCH_TOO_LARGE"
    with pytest.raises(Lost) as lost:
        remote.execute(*(replace("bands", [10 + n, "x" * (MIB - 100)]) for n in range(17)))
    assert lost.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_nothing_of_a_transaction_with_one_bad_operation(remote: Remote) -> None:
    error = refused(remote.execute, insert("bands", [2, "good"]), insert("bands", [3, 3]))
    assert error.reason == "FIELD_TYPE"
    error = refused(remote.execute, insert("bands", [2, "good"]), insert("bands", [1, "duplicate"]))
    assert error.reason == "TUPLE_FOUND"
    assert '"pk"' in error.message and '[1, "Roxette"]' in error.message


def test_wrong_calls(remote: Remote) -> None:
    assert refused(remote.execute).reason == "ILLEGAL_PARAMS"
    assert refused(remote.execute, data_pb2.Op()).reason == "ILLEGAL_PARAMS"
    for request_id in (b"x", b"x" * 15, b"x" * 17, b"x" * 100_000):
        error = refused(remote.execute, insert("bands", [2, "x"]), request_id=request_id)
        assert error.reason == "ILLEGAL_PARAMS"
    for timeout in (-1.0, 1e9):
        request = data_pb2.ExecuteRequest(ops=[insert("bands", [2, "x"])])
        request.timeout.CopyFrom(seconds(timeout))
        if timeout < 0:
            assert refused(remote.call, remote.data.Execute, request).reason == "ILLEGAL_PARAMS"
    wrong = data_pb2.ExecuteRequest(ops=[insert("bands", [2, "x"])], expected_term=999)
    assert refused(remote.call, remote.data.Execute, wrong).reason == "OLD_TERM"
    assert refused(remote.call, remote.data.WaitTransaction, data_pb2.WaitTransactionRequest())
    unknown = info_pb2.GetInfoRequest(paths=["no.such.part"])
    assert refused(remote.call, remote.infos.GetInfo, unknown).reason == "ILLEGAL_PARAMS"
    nobody = control_pb2.RestartUpstreamRequest(instance="nobody")
    assert refused(remote.call, remote.control.RestartUpstream, nobody)
    for change in (
        control_pb2.SetConfigRequest(),
        control_pb2.SetConfigRequest(key="x" * 100_000, value="1"),
        control_pb2.SetConfigRequest(key="log.level", value="[" * 1000),
        control_pb2.SetConfigRequest(key="grpc.listen", value="[]"),
    ):
        assert refused(remote.call, remote.control.SetConfig, change).reason in ("ILLEGAL_PARAMS", "CONFIG")


def test_bytes_that_are_no_http2(server: Cluster, remote: Remote) -> None:
    host, port = server["instance001"].address.split(":")
    for data in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        os.urandom(10_000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000,
    ):
        with socket.create_connection((host, int(port)), timeout=soon_s()) as connection:
            connection.sendall(data)
            remote.info()
    idle = [socket.create_connection((host, int(port)), timeout=soon_s()) for _ in range(50)]
    assert remote.select("bands") == [[1, "Roxette"]]
    for connection in idle:
        connection.close()


def test_one_bad_call_of_a_stream_touches_no_other(server: Cluster) -> None:
    remote = server["instance001"].remote
    good = data_pb2.ExecuteCall(seq=1, ops=[replace("bands", [1, "Roxette"])])
    bad = data_pb2.ExecuteCall(seq=2, ops=[raw("bands", b"\xc1")])
    also_good = data_pb2.ExecuteCall(seq=3, ops=[replace("bands", [1, "Roxette"])])
    frame = data_pb2.ExecuteStreamRequest(calls=[good, bad, also_good])
    results = {
        result.seq: result.WhichOneof("outcome")
        for reply in remote.data.ExecuteStream(iter([frame]), timeout=soon_s())
        for result in reply.results
    }
    assert results == {1: "reply", 2: "error", 3: "reply"}


@pytest.mark.parametrize(
    "method", ["DataService/Execute", "DataService/Select", "ControlService/Promote", "InfoService/WatchInfo"]
)
def test_bytes_that_are_no_message(server: Cluster, remote: Remote, method: str) -> None:
    """Refused like other bad input, and not by a traceback in the log, which anybody could fill."""
    instance = server["instance001"]
    with grpc.insecure_channel(instance.address) as channel:
        kind: Any = channel.unary_stream if method.endswith("WatchInfo") else channel.unary_unary
        for data in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f"):
            with pytest.raises(grpc.RpcError) as refusal:
                list(kind(f"/synchro.v1.{method}")(data, timeout=5))
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "nothing was done" in str(refusal.value.details())
    assert not [one for one in instance.records() if one["level"] in ("error", "critical")]


def test_a_stream_message_that_is_none_ends_the_stream(server: Cluster, remote: Remote) -> None:
    instance = server["instance001"]
    with grpc.insecure_channel(instance.address) as channel:
        method: Any = channel.stream_stream("/synchro.v1.DataService/ExecuteStream")
        call = method(iter([b"\xff\xff"]), timeout=5)
        with pytest.raises(grpc.RpcError) as refusal:
            list(call)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not [one for one in instance.records() if one["level"] in ("error", "critical")]


def test_an_unknown_method(remote: Remote) -> None:
    method: Any = remote.channel.unary_unary("/synchro.v1.DataService/NoSuchMethod")
    with pytest.raises(grpc.RpcError) as error:
        method(b"", timeout=soon_s())
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
