"""While writes wait for their quorum, who asks for something else is answered at once. S2-11."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.remote import replace
from tests.e2e.tutorials.hands import HANDS
from tests.e2e.tutorials.test_synchro_quorum import Pair

pytestmark = [pytest.mark.e2e, pytest.mark.alone]
LIMIT_S = 0.1


def test_S2_11_the_admin_path_while_writes_wait(tmp_path: Path) -> None:
    """S2-11: with 203 writes in the queue info, queue, status and health answer in less than 100 ms."""
    with Pair(tmp_path, "client") as walk:
        walk.prepare()
        walk.second.kill()
        remote = walk.first.remote
        writes = [remote.begin(replace("sync", [1 + number % 3]), timeout=1000) for number in range(203)]
        walk.soon("they wait", lambda: walk.queue()["len"] == 203)
        for name, hand in ((name, HANDS[name]()) for name in ("client", "stub")):
            assert_fast(f"info, {name}", partial(hand.info, walk.first))
            assert_fast(f"queue, {name}", partial(hand.queue, walk.first))
            hand.close()
        assert_fast("status", remote.list_instances)
        assert_fast("health", remote.health)
        assert not any(write.is_done for write in writes)
        walk.second.start()
        for write in writes:
            write.result(15)


def assert_fast(name: str, call: Callable[[], object]) -> None:
    """The slowest of 10 calls is under the limit in the best of 5 rounds.

    Best of several rounds because other programs on the machine take turns of 100 ms and more themselves; a
    path that really waits for the queue is slow in all of them.
    """
    rounds = []
    for _ in range(5):
        took = []
        for _ in range(10):
            began = time.perf_counter()
            call()
            took.append(time.perf_counter() - began)
        rounds.append(max(took))
        if rounds[-1] < LIMIT_S:
            return
    raise AssertionError(f"{name} took {', '.join(f'{each * 1000:.0f}' for each in rounds)} ms")
