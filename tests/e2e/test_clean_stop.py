"""SIGTERM while calls wait: over real gRPC none of them ends without a word of ours."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from synchro.errors import SynchroError
from synchro.rpc.generated.v1 import data_pb2
from tests.e2e.cluster import Cluster, eventually, soon_s
from tests.e2e.remote import Lost, insert, seconds

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
RW = {"database": {"mode": "rw"}}


def test_what_was_acknowledged_is_there_after_a_clean_stop(make_cluster: MakeCluster) -> None:
    """The stop comes right behind the answer, before the CONFIRM would go out by itself."""
    cluster = make_cluster(1, instances={"instance001": RW}).start()
    one = cluster["instance001"]
    one.remote.promote()
    one.remote.create("pay", is_sync=True)
    for number in range(2):
        one.remote.insert("pay", number, "row")
        assert one.stop() == 0
        one.start()
        assert len(one.remote.select("pay")) == number + 1
        assert one.remote.queue()["len"] == 0
        one.remote.promote()


def test_a_thousand_waiting_writes_hear_their_fate(make_cluster: MakeCluster) -> None:
    """Unary calls and a stream, with no quorum."""
    cluster = make_cluster(3, instances={"instance001": RW}).start()
    leader = cluster["instance001"]
    leader.remote.promote()
    leader.remote.create("pay", is_sync=True)
    cluster.wait_equal()
    for other in cluster:
        if other is not leader:
            other.pause()
    writes = [leader.remote.begin(insert("pay", [number, "u"]), timeout=30) for number in range(500)]
    frames: queue.Queue[Any] = queue.Queue()
    answers = leader.remote.data.ExecuteStream(iter(frames.get, None))
    call = data_pb2.ExecuteCall
    frame = data_pb2.ExecuteStreamRequest(timeout=seconds(30))
    for number in range(500):
        frame.calls.append(call(seq=number + 1, ops=[insert("pay", [1000 + number, "s"])]))
    frames.put(frame)
    eventually("all of them wait", lambda: leader.remote.queue()["len"] == 1000, soon_s(10))
    assert leader.process is not None
    leader.process.terminate()
    results, end = until_end(answers)
    errors = [write.error(soon_s(10)) for write in writes]
    frames.put(None)
    assert leader.wait_exit(soon_s(10)) == 0
    for other in cluster:
        if other is not leader:
            other.resume()

    lost = [error for error in errors if isinstance(error, Lost)]
    assert not lost, lost[:3]
    assert all(error is None or is_a_word(error) for error in errors)
    assert end is not None and "nothing was done" in str(end.details()), "to calls without an answer"
    assert {result.seq for result in results} == set(range(1, 501))
    assert all(result.WhichOneof("outcome") in ("reply", "error") for result in results)


def is_a_word(error: Exception) -> bool:
    assert isinstance(error, SynchroError), error
    return (
        "txn" in error.details and error.details["outcome"] == "unknown"
    ) or "nothing was" in error.message


def until_end(answers: Any) -> tuple[list[Any], grpc.RpcError | None]:
    results: list[Any] = []
    try:
        for response in answers:
            results += response.results
    except grpc.RpcError as error:
        return results, error
    return results, None
