"""What connections that are there, and say nothing, cost an instance and those who call it."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from synchro.wire import frames
from synchro.wire.grpc_call import request_block
from tests.e2e.cluster import Cluster, Instance
from tests.shell.stranger import Stranger, frame, message

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.long]

COUNT: Final = 5000
MIB: Final = 1 << 20
SPARE: Final = 500
"""Descriptors for all else."""
BATCH: Final = 500
ROUNDS: Final = 15


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def call_s(instance: Instance) -> float:
    """Seconds of one call, the median of a few."""
    found = []
    for _ in range(BATCH):
        begun = time.perf_counter()
        instance.remote.health()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def idle(address: str) -> Stranger:
    """A connection with one call that is over."""
    stranger = Stranger(address).hello()
    block = request_block("/grpc.health.v1.Health/Check", "localhost")
    stranger.say(frame(frames.HEADERS, frames.END_HEADERS, 1, block), message(1))
    assert stranger.hear(lambda: stranger.statuses)
    return stranger


def test_five_thousand_idle_connections(make_cluster: Callable[..., Cluster]) -> None:
    """Under 60 MB, and no caller is slowed by more than a tenth. Rounds with and without them change places,
    so that the rest of the machine is in both."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < COUNT + SPARE:
        assert hard >= COUNT + SPARE, f"RLIMIT_NOFILE is {hard}"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cluster = make_cluster(1).start()
    (instance,) = cluster
    call_s(instance)
    without: list[float] = []
    among: list[float] = []
    before = resident_bytes(instance.pid)
    cost = 0
    for round_ in range(3):
        without.append(min(call_s(instance) for _ in range(ROUNDS // 3)))
        with ExitStack() as stack:
            strangers = [stack.enter_context(idle(instance.address)) for _ in range(COUNT)]
            if not round_:
                cost = resident_bytes(instance.pid) - before
            among.append(min(call_s(instance) for _ in range(ROUNDS // 3)))
            assert all(not stranger.is_closed for stranger in strangers)
    slower = statistics.median(among) / statistics.median(without)
    print(f"{COUNT} idle connections: {cost / MIB:.1f} MiB, {cost / COUNT / 1024:.1f} KiB each")
    print(
        f"a call: {min(without) * 1e6:.0f} us without, {min(among) * 1e6:.0f} us among them, x {slower:.2f}"
    )
    assert cost < 60e6
    assert slower < 1.1
