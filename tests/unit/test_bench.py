"""The parts of the benchmarks that could lie: the load generator, the keys, the medians."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from benchmarks.load import KEYS_A_RUN, Job, Meter, etcd_put, key_of, synchro_requests
from benchmarks.suite import ETCDS, OURS, Cell, Samples
from benchmarks.systems import fields
from benchmarks.wire import Load
from synchro.rpc.generated.v1 import data_pb2


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that answers `fail` with an error and everything else with itself, doubled."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"fail":
            context.abort(grpc.StatusCode.ABORTED, "no")
        return request * 2

    server = grpc.server(ThreadPoolExecutor(4))
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Call": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def run_calls(address: str, messages: list[bytes], callers: int) -> list[int]:
    sizes: list[int] = []

    async def run() -> None:
        load = Load(
            address, "/test.Echo/Call", callers, 1, iter(messages).__next__, lambda *end: sizes.append(end[2])
        )
        load.stop_after(len(messages))
        await load.start()
        await load.stop()
        load.check()

    asyncio.run(run())
    return sizes


def test_every_call_of_the_generator_reaches_the_server_and_is_counted_once(echo: str) -> None:
    # 5 bytes in front of a message are gRPC's.
    assert run_calls(echo, [b"x" * 100] * 500, callers=16) == [205] * 500


def test_messages_larger_than_a_frame_and_the_window_arrive_whole(echo: str) -> None:
    assert run_calls(echo, [b"x" * 50_000] * 8, callers=4) == [100_005] * 8


def test_a_failed_call_is_not_taken_for_an_answer(echo: str) -> None:
    assert sorted(run_calls(echo, [b"fail", b"x", b"fail"], callers=1)) == [0, 0, 7]


def test_keys_are_fresh() -> None:
    numbers = [*range(1000), *range(KEYS_A_RUN, KEYS_A_RUN + 1000)]
    assert len({key_of(number) for number in numbers}) == len(numbers)


def test_both_systems_get_the_same_keys_and_values() -> None:
    put = fields(etcd_put(7))
    assert put[1] == key_of(7).to_bytes(8, "big")
    value = put[2]
    assert isinstance(value, bytes)
    assert len(value) == 100
    _, make = synchro_requests(Job("synchro", "unary", "", 1), lambda: 7)
    (op,) = data_pb2.ExecuteRequest.FromString(make()).ops
    assert value in op.insert.tuple


def test_what_ends_outside_the_window_counts_as_done_but_not_as_measured() -> None:
    meter = Meter((), ops=2)
    meter.done(0.0, 0.1, 9)
    meter.open()
    meter.done(0.0, 0.1, 9)
    meter.done(0.0, 0.3, 9)
    meter.done(0.0, 0.1, 0)
    meter.close()
    result = meter.result()
    assert result["acked_ops"] == 6
    assert result["failed"] == 1
    assert result["p50_ms"] == pytest.approx(200)


def test_the_best_variant_is_that_with_the_best_median() -> None:
    def run(ops_s: float) -> dict[str, float]:
        return dict.fromkeys(("p50_ms", "p99_ms", "cpu_us_per_op", "client_us_per_op"), 1.0) | {
            "ops_s": ops_s
        }

    samples = Samples(
        Cell("put", 64, "unary", None), {1: [run(5), run(6), run(90)], 4: [run(7), run(8), run(1)]}
    )
    best = samples.best()
    assert best is not None
    assert (best["ops_s"], best["connections"]) == (7, 4)


def test_every_row_is_compared_with_a_cell_that_is_measured() -> None:
    measured = {(cell.what, cell.callers) for cell in ETCDS}
    assert {cell.versus for cell in OURS} <= measured
