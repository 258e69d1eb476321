"""The load generator: one process a measurement. `python -m benchmarks.load '{...}'` prints one JSON object.

Closed loops: each caller starts its next call when the previous one ended. A short warm-up is not counted.
Keys are fresh and scattered: a counter times an odd constant, so that sorted indexes get no easy order.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgpack

from benchmarks.wire import Load
from synchro.client.encoding import varint

WARM_UP_S: Final = 0.5
VALUE: Final = "v" * 100
KEY_BITS: Final = 48
SCATTER: Final = 0x9E3779B97F4B
"""Odd, so that the product modulo 2^48 gives each number once."""
KEYS_A_RUN: Final = 10_000_000


@dataclass
class Job:
    """What one process measures."""

    system: str
    what: str
    """unary, coalesced, batch, read; how: confirmed, linearizable."""
    address: str
    callers: int
    seconds: float = 3.0
    connections: int = 1
    ops: int = 1
    """Operations in one call."""
    how: str = ""
    first_key: int = 0
    limit: int = 0
    """write: so many operations and no more; read: keys from `first_key` on; 0: no limit."""
    pids: tuple[int, ...] = ()
    """Processes whose processor time is charged to the operations: the leader."""


def key_of(number: int) -> int:
    return number * SCATTER % (1 << KEY_BITS)


def cpu_ns(pid: int) -> int:
    """Time on a processor of all threads of a process."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_bytes().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


class Meter:
    """Counts what ended inside the window."""

    def __init__(self, pids: tuple[int, ...], ops: int) -> None:
        self._pids = pids
        self._ops = ops
        self.is_open = False
        self.calls = 0
        """All that were acknowledged, in the window or not."""
        self.failed = 0
        self._latencies: list[float] = []

    def done(self, began: float, ended: float, reply_bytes: int) -> None:
        if not reply_bytes:
            self.failed += 1
            return
        self.calls += 1
        if self.is_open:
            self._latencies.append(ended - began)

    def open(self) -> None:
        self._cpu = sum(map(cpu_ns, self._pids))
        self._own = time.process_time_ns()
        self._at = time.perf_counter()
        self.is_open = True

    def close(self) -> None:
        self.is_open = False
        self._seconds = time.perf_counter() - self._at
        self._cpu = sum(map(cpu_ns, self._pids)) - self._cpu
        self._own = time.process_time_ns() - self._own

    def result(self) -> dict[str, Any]:
        calls = max(1, len(self._latencies))
        cuts = statistics.quantiles(self._latencies, n=100) if calls > 1 else [0.0] * 99
        return {
            "ops_s": len(self._latencies) * self._ops / self._seconds,
            "p50_ms": 1000 * cuts[49],
            "p99_ms": 1000 * cuts[98],
            "cpu_us_per_op": self._cpu / 1000 / calls / self._ops,
            "client_us_per_op": self._own / 1000 / calls / self._ops,
            "acked_ops": self.calls * self._ops,
            "failed": self.failed,
        }


# --- requests -------------------------------------------------------------------------------------------


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def etcd_put(number: int) -> bytes:
    return field(1, key_of(number).to_bytes(8, "big")) + field(2, VALUE.encode())


def etcd_requests(job: Job, count: Callable[[], int]) -> tuple[str, Callable[[], bytes]]:
    if job.what == "read":
        tail = b"\x38\x01" if job.how == "confirmed" else b""  # serializable: local
        return "/etcdserverpb.KV/Range", lambda: field(1, key_of(count()).to_bytes(8, "big")) + tail
    if job.ops == 1:
        return "/etcdserverpb.KV/Put", lambda: etcd_put(count())
    ops = range(job.ops)
    return "/etcdserverpb.KV/Txn", lambda: b"".join(field(2, field(2, etcd_put(count()))) for _ in ops)


def synchro_requests(job: Job, count: Callable[[], int]) -> tuple[str, Callable[[], bytes]]:
    from benchmarks.systems import SPACE_ID
    from synchro.rpc.generated.v1 import data_pb2

    pack = msgpack.Packer().pack
    if job.what == "read":
        mode = data_pb2.READ_MODE_LINEARIZABLE if job.how == "linearizable" else data_pb2.READ_MODE_CONFIRMED

        def read() -> bytes:
            request = data_pb2.SelectRequest(space_id=SPACE_ID, read=mode)
            request.key.msgpack = pack((key_of(count()),))
            return bytes(request.SerializeToString())

        return "/synchro.v1.DataService/Select", read

    def write() -> bytes:
        request = data_pb2.ExecuteRequest(omit_tuples=True)
        for _ in range(job.ops):
            insert = request.ops.add().insert
            insert.space_id = SPACE_ID
            insert.tuple = pack((key_of(count()), VALUE))
        return bytes(request.SerializeToString())

    return "/synchro.v1.DataService/Execute", write


async def run_wire(job: Job, meter: Meter, count: Callable[[], int]) -> None:
    path, make = (etcd_requests if job.system == "etcd" else synchro_requests)(job, count)
    least = 100 if job.what == "read" else 1  # a read must bring its value

    def done(began: float, ended: float, size: int) -> None:
        meter.done(began, ended, size if size > least else 0)

    load = Load(job.address, path, job.callers, job.connections, make, done)
    if job.limit and job.what != "read":
        load.stop_after(job.limit // job.ops)
    await load.start()
    await _window(job, meter)
    await load.stop()
    load.check()


async def _window(job: Job, meter: Meter) -> None:
    await asyncio.sleep(WARM_UP_S)
    meter.open()
    await asyncio.sleep(job.seconds)
    meter.close()


async def run_client(job: Job, meter: Meter, count: Callable[[], int]) -> None:
    from benchmarks import load_client

    await load_client.run(
        job.address,
        job.callers,
        job.ops,
        lambda: (key_of(count()), VALUE),
        meter.done,
        lambda: _window(job, meter),
    )


def run(job: Job) -> dict[str, Any]:
    began, own = time.perf_counter(), time.process_time()
    if job.what == "read":
        count = itertools.cycle(range(job.first_key, job.first_key + job.limit)).__next__
    else:
        count = iter(range(job.first_key, job.first_key + KEYS_A_RUN)).__next__
    meter = Meter(job.pids, job.ops)
    asyncio.run((run_client if job.what == "coalesced" else run_wire)(job, meter, count))
    return (
        asdict(job)
        | meter.result()
        | {"wall_s": time.perf_counter() - began, "client_cpu_s": time.process_time() - own}
    )


def main() -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    print(json.dumps(run(Job(**json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
