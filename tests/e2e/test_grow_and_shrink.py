"""A set of three becomes one of five, a member is replaced, and it becomes one of three again, while
clients write. Nobody else is restarted, and nothing that was acknowledged is lost. [M-50] to [M-52], ADR 41.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest

from synchro.client import connect
from synchro.client.errors import OutcomeUnknown
from tests.e2e.cluster import Cluster, Instance, eventually, soon_s
from tests.e2e.test_whom_to_ask import synchro, with_space

pytestmark = [pytest.mark.e2e, pytest.mark.long]


class Load:
    """Clients that find the owner by themselves; each inserts numbers that nobody else inserts."""

    def __init__(self, instances: list[Instance], clients: int = 4) -> None:
        self.acknowledged: set[int] = set()
        self.failure: BaseException | None = None
        self._numbers = itertools.count(10)
        self._endpoints = ",".join(instance.address for instance in instances)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        try:
            with connect(self._endpoints, timeout=20) as db:
                while not self._over.is_set():
                    number = next(self._numbers)
                    try:
                        db.space("pay").insert([number, "x"])
                    except OutcomeUnknown:
                        continue
                    self.acknowledged.add(number)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.failure = error

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        assert self.failure is None, self.failure


def expel(cluster: Cluster, leaver: Instance) -> None:
    stay = [instance for instance in cluster.running if instance is not leaver]

    def is_gone() -> bool:
        done = synchro(stay, "member", "expel", "-y", leaver.name)
        # One change of members at a time: the last one may not be decided yet.
        assert done.returncode == 0 or "QUORUM_WAIT" in done.stderr, done.stderr
        return done.returncode == 0

    eventually(f"{leaver.name} is removed", is_gone, soon_s(15))
    eventually("it says so", lambda: leaver.remote.info("ro_reason") == "expelled", soon_s())
    assert leaver.stop() == 0


def promote(asked: list[Instance], next_one: Instance) -> None:
    """Again if it is too far behind at that moment, as docs/errors.md says of OLD_TERM: clients write on."""

    def is_owner() -> bool:
        done = synchro(asked, "promote", next_one.name)
        assert done.returncode == 0 or "OLD_TERM" in done.stderr, done.stderr
        return done.returncode == 0

    eventually(f"{next_one.name} is promoted", is_owner, soon_s(15))


def add(cluster: Cluster, name: str) -> Instance:
    new = cluster.add(name)
    new.start()
    cluster.wait_following()
    return new


def test_three_to_five_and_back_under_load(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(3, failover="election").start()
    cluster.expect_log("upstream_stopped")
    leader, (second, third) = with_space(cluster)
    pids = {instance.name: instance.pid for instance in cluster}
    load = Load(list(cluster))
    try:
        fourth, fifth = add(cluster, "instance004"), add(cluster, "instance005")
        assert leader.remote.info("synchro.quorum") == 3
        expel(cluster, third)
        sixth = add(cluster, "instance006")  # takes its place
        assert leader.remote.info("synchro.quorum") == 3
        expel(cluster, fourth)
        promote([fifth, sixth], fifth)
        expel(cluster, leader)
    finally:
        load.end()
    assert {instance.name for instance in cluster.running} == {second.name, fifth.name, sixth.name}
    assert second.pid == pids[second.name]
    assert fifth.remote.info("synchro.quorum") == 2
    cluster.wait_following()
    cluster.wait_equal("pay")
    there = {row[0] for row in second.remote.select("pay")}
    assert load.acknowledged - there == set()
    assert len(load.acknowledged) > 100


def test_a_quorum_that_is_lost_and_comes_back(make_cluster: Callable[..., Cluster]) -> None:
    """Two of three are killed under load: writes wait. With one of them there is a quorum again, and what was
    acknowledged before is there."""
    cluster = make_cluster(3, failover="election").start()
    leader, others = with_space(cluster)
    load = Load(list(cluster))
    eventually("writes", lambda: len(load.acknowledged) > 50, soon_s())
    try:
        for other in others:
            other.kill()
        eventually("nobody leads", lambda: leader.remote.info("ro"), soon_s(10))
        found = synchro(cluster.running, "status").stdout
        assert "1 of 2 needed instances is up" in found, found
        assert synchro(cluster.running, "get", "pay", "1").returncode == 0
        others[0].start()
        known = len(load.acknowledged)
        eventually("writes again", lambda: len(load.acknowledged) > known + 20, soon_s(15))
    finally:
        load.end()
    others[1].start()
    cluster.wait_following()
    cluster.wait_equal("pay")
    assert load.acknowledged <= {row[0] for row in others[1].remote.select("pay")}
