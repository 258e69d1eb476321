"""A member that is a million rows behind, or has nothing left, while the owner of the queue writes as fast as
it can: it comes back by itself, and the owner neither slows down by half nor grows. [M-49], [W-28]"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import pytest

import synchro.aio
from synchro.errors import SynchroError
from tests.e2e.cluster import Cluster, Instance
from tests.e2e.remote import Lost
from tests.e2e.test_idle_connections import MIB, resident_bytes

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.long, pytest.mark.timeout(900)]

ROWS: Final = 1_000_000
TXN_ROWS: Final = 500
FILLERS: Final = 4
CALLERS: Final = 64
KEYS: Final = 10_000
"""That are replaced again and again: what is written under load does not make the owner grow."""
WINDOW_S: Final = 10.0
ROUNDS: Final = 3
BACK_S: Final = 240.0
"""Of a machine on which others work too; alone it is a tenth."""
POLL_S: Final = 0.5
GROWTH_MAX: Final = 150 * MIB
"""Of the owner while it sends a million rows, which take 300 MiB."""


class Writers(threading.Thread):
    """`CALLERS` tasks of one client, each one write after the other. `done`: writes that a quorum has."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.done = 0
        self._address = address
        self._is_over = False

    def run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        async with synchro.aio.connect(self._address, timeout=60) as db:
            hot = db.space("hot")

            async def write(number: int) -> None:
                while not self._is_over:
                    number = (number + CALLERS) % KEYS
                    await hot.replace([number, "x" * 100], omit_tuples=True)
                    self.done += 1

            async with asyncio.TaskGroup() as group:
                for number in range(CALLERS):
                    group.create_task(write(number))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self.join(60)

    def rate(self, until: Callable[[], bool]) -> float:
        """Writes a second from now until this is so, which is asked for seldom: questions cost, too."""
        begun, before = time.monotonic(), self.done
        while not until():
            assert time.monotonic() < begun + BACK_S
            time.sleep(POLL_S)
        return (self.done - before) / (time.monotonic() - begun)


def fill(address: str) -> None:
    async def write(first: int) -> None:
        async with synchro.aio.connect(address, timeout=60) as db:
            for start in range(first, ROWS, FILLERS * TXN_ROWS):
                async with db.transaction(omit_tuples=True) as transaction:
                    for number in range(start, start + TXN_ROWS):
                        transaction.insert("big", [number, "x" * 100])

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(FILLERS):
                group.create_task(write(number * TXN_ROWS))

    asyncio.run(all_of_them())


def processor_s(pid: int) -> float:
    """Seconds of a processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Cost:
    """What writes cost an instance: however much of the machine it gets, which others use, too."""

    def __init__(self, instance: Instance, writers: Writers) -> None:
        self._pid, self._writers = instance.pid, writers
        self._before = processor_s(self._pid), writers.done

    def of_a_write(self) -> float:
        """Seconds of a processor since this was made, for each write."""
        spent_s, done = self._before
        return (processor_s(self._pid) - spent_s) / max(1, self._writers.done - done)


class Peak(threading.Thread):
    """The most memory that a process has while the block lasts."""

    def __init__(self, instance: Instance) -> None:
        super().__init__()
        self._pid = instance.pid
        self.before = self.most = resident_bytes(self._pid)
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(0.1):
            self.most = max(self.most, resident_bytes(self._pid))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.join()


def is_back(owner: Instance, member: Instance) -> bool:
    """It has all that the owner had, and follows."""
    try:
        status = member.remote.info("status", timeout=2)
    except (SynchroError, Lost):
        return False
    parts = owner.remote.info("replication").values()
    follows = any(
        p["name"] == member.name and p.get("downstream", {}).get("status") == "follow" for p in parts
    )
    return follows and bool(status == "running")


def test_a_million_rows_behind_and_wiped_under_full_load(make_cluster: Callable[..., Cluster]) -> None:
    names = ("instance001", "instance002", "instance003")
    masters = {name: {"database": {"mode": "rw"}} for name in names}
    cluster = make_cluster(names, instances=masters).start()
    owner, _, third = cluster
    owner.remote.promote()
    owner.remote.create("big", is_sync=False)
    owner.remote.create("hot", is_sync=True)
    cluster.wait_equal("hot")
    assert third.stop() == 0
    fill(owner.address)

    with Writers(owner.address) as writers:
        with Peak(owner) as behind:
            begun = time.monotonic()
            third.spawn()
            rate_behind = writers.rate(lambda: is_back(owner, third))
            took_behind = time.monotonic() - begun
        alone, joining, took, growth = [], [], [], []
        capacity: list[float] = []
        for _ in range(ROUNDS):
            assert third.stop() == 0
            shutil.rmtree(third.dir)
            ends = time.monotonic() + WINDOW_S
            cost = Cost(owner, writers)
            alone.append(writers.rate(lambda ends=ends: time.monotonic() > ends))  # type: ignore[misc]
            cost_alone, cost = cost.of_a_write(), Cost(owner, writers)
            with Peak(owner) as peak:
                begun = time.monotonic()
                third.spawn()
                joining.append(writers.rate(lambda: is_back(owner, third)))
                took.append(time.monotonic() - begun)
            growth.append(peak.most - peak.before)
            capacity.append(cost_alone / cost.of_a_write())
    ratios = [b / a for a, b in zip(alone, joining, strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"{ROWS:,} rows behind: back after {took_behind:.1f} s, {rate_behind:,.0f} writes/s meanwhile, "
        f"owner {behind.before / MIB:.0f} + {(behind.most - behind.before) / MIB:.0f} MiB"
    )
    print(
        f"wiped: joined after {statistics.median(took):.1f} s; {statistics.median(joining):,.0f} writes/s "
        f"meanwhile, {statistics.median(alone):,.0f} without: x {ratio:.2f}, of "
        f"{', '.join(f'{one:.2f}' for one in ratios)}; owner + {max(growth) / MIB:.0f} MiB at most; "
        f"in its own processor time x {statistics.median(capacity):.2f}"
    )
    cluster.wait_equal("big", "hot", timeout=60)
    assert statistics.median(capacity) >= 0.5, "a write with a join costs the owner no more than twice"
    assert ratio >= 0.5
    assert max(growth) < GROWTH_MAX
