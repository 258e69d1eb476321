"""A master and its replica swap their roles, by signatures, while somebody writes. CF.

Tests of one set build on each other, in the order of the file.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from functools import partial

import pytest
import yaml

from synchro.errors import ConfigError, ReadOnly
from tests.e2e.cluster import HEARTBEAT_S, Instance, never
from tests.e2e.remote import Remote
from tests.e2e.tutorials.hands import EACH_HAND, REFUSED, run
from tests.e2e.tutorials.walk import PAIR, RO, RW, Walk, refusal

pytestmark = pytest.mark.e2e


class Background(threading.Thread):
    """Runs until it is told to stop; what fails in it fails the test that ends it."""

    def __init__(self, *instances: Instance) -> None:
        super().__init__(daemon=True)
        self._remotes = [Remote(instance.address) for instance in instances]
        self._stop_asked = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                self.work()
        except BaseException as error:  # noqa: BLE001 - raised again by `end`
            self._error = error

    def work(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        self._stop_asked.set()
        self.join()
        for remote in self._remotes:
            remote.close()
        if self._error is not None:
            raise self._error


class Writer(Background):
    """Inserts one number after the other at whoever takes it."""

    def __init__(self, *instances: Instance) -> None:
        super().__init__(*instances)
        self.acknowledged: list[int] = []
        self._number = 0
        self._at = 0

    def work(self) -> None:
        self._number += 1
        try:
            self._remotes[self._at].insert("numbers", self._number)
        except REFUSED:
            self._at = 1 - self._at
            self._stop_asked.wait(0.02)
        else:
            self.acknowledged.append(self._number)


class Watcher(Background):
    """Asks who may write. The first is asked before and after the second: it was writable in between."""

    both = 0

    def work(self) -> None:
        first, second = self._remotes
        try:
            if not any((first.info("ro"), second.info("ro"), first.info("ro"))):
                self.both += 1
        except REFUSED:
            pass
        self._stop_asked.wait(0.01)


class Pair(Walk):
    """A master and a replica of one file; somebody writes and somebody watches from CF-0 to CF-5."""

    writer: Writer
    watcher: Watcher
    signature = 0

    def __exit__(self, *why: object) -> None:
        for thread in (self.writer, self.watcher):
            if thread.is_alive():
                thread.end()
        super().__exit__(*why)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=EACH_HAND)
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    directory = tmp_path_factory.mktemp("cf")
    with Pair(directory, request.param, instances={"instance001": RW, "instance002": RO}) as cluster:
        cluster.up()
        cluster.wait_mesh()
        cluster.hand.create(cluster.first, "numbers")
        cluster.wait_equal("numbers")
        cluster.writer, cluster.watcher = Writer(*cluster), Watcher(*cluster)
        yield cluster


def test_CF_00_somebody_writes(walk: Pair) -> None:
    """CF-0: numbered inserts at whoever is writable; those that were acknowledged are kept."""
    walk.writer.start()
    walk.watcher.start()
    walk.soon("some are acknowledged", lambda: len(walk.writer.acknowledged) > 20)


def test_CF_01_the_master_becomes_read_only(walk: Pair) -> None:
    """CF-1: with the reply of `config set` no write succeeds there any more."""
    changes, _ = walk.hand.set_option(walk.first, "database.mode", "ro")
    assert changes == {"database.mode": "ro"}
    error = refusal(partial(walk.hand.insert, walk.first, "numbers", [1_000_000]))
    assert isinstance(error, ReadOnly) and error.details["ro_reason"] == "config"


def test_CF_02_its_signature_stands(walk: Pair) -> None:
    """CF-2: nothing is written there, so it does not change."""
    walk.signature = walk.hand.info(walk.first, "signature")
    never("it changes", lambda: walk.hand.info(walk.first, "signature") != walk.signature, 3 * HEARTBEAT_S)


def test_CF_03_the_replica_reaches_it(walk: Pair) -> None:
    """CF-3: soon, and never more than that."""
    walk.soon("the replica has all", lambda: walk.hand.info(walk.second, "signature") == walk.signature)


def test_CF_04_PR_11_the_replica_becomes_writable(walk: Pair) -> None:
    """CF-4, PR-11: without a restart; the former master follows it."""
    changes, warnings = walk.hand.set_option(walk.second, "database.mode", "rw")
    assert changes == {"database.mode": "rw"} and not warnings
    assert walk.hand.info(walk.second, "ro") is False
    before = len(walk.writer.acknowledged)
    walk.soon("writes go on", lambda: len(walk.writer.acknowledged) > before + 20)


def test_CF_05_nothing_is_lost(walk: Pair) -> None:
    """CF-5: what was acknowledged is on both, and at no moment were both writable."""
    walk.writer.end()
    walk.watcher.end()
    walk.wait_equal("numbers")
    assert walk.watcher.both == 0
    for instance in walk:
        found = {row[0] for row in walk.hand.select(instance, "numbers")}
        assert set(walk.writer.acknowledged) <= found
    assert walk.hand.info(walk.second, "signature") > walk.signature


def test_CF_06_the_wrong_order(walk: Pair) -> None:
    """CF-6: two writable instances are allowed, and the answer names the other one."""
    _, warnings = walk.hand.set_option(walk.first, "database.mode", "rw")
    assert [warning.partition(" ")[0] for warning in warnings] == ["instance002"]
    walk.hand.set_option(walk.first, "database.mode", "ro")


def switch(walk: Pair, to: Instance, timeout: str = "10s") -> int:
    """`synchro switchover`; its exit code."""
    addresses = ",".join(instance.address for instance in walk)
    return run("-e", addresses, "--timeout", timeout, "switchover", "--to", to.name)[0]


def test_CF_07_one_command(walk: Pair) -> None:
    """CF-7: `switchover` does the four steps. If the replica cannot catch up in time, the master is writable
    again and the command fails."""
    first, second = walk
    assert switch(walk, first) == 0
    assert [walk.hand.info(instance, "ro") for instance in walk] == [False, True]
    walk.hand.set_option(second, "replication.peers", "[]")
    walk.hand.insert(first, "numbers", [2_000_000])
    assert switch(walk, second, "500ms") != 0
    assert [walk.hand.info(instance, "ro") for instance in walk] == [False, True]
    walk.hand.set_option(second, "replication.peers", json.dumps([first.address]))
    assert switch(walk, second) == 0
    assert walk.hand.select(second, "numbers", [2_000_000]) == [[2_000_000]]


def lead(walk: Walk, leader: str | None) -> None:
    """Write a file of `failover: manual` with this leader."""
    walk.write_config(walk.config_path)
    document = yaml.safe_load(walk.config_path.read_text())
    document["groups"]["group001"]["replicasets"]["replicaset001"]["leader"] = leader
    walk.config_path.write_text(yaml.safe_dump(document, sort_keys=False))


def test_CF_08_by_the_leader_of_the_file(walk: Pair) -> None:
    """CF-8: nobody leads, the vclocks meet, another leads: by two reloads. `database.mode` is an error."""
    walk.options["replication"]["failover"] = "manual"
    walk.own = {name: {} for name in PAIR}
    for leader, ro in (("instance001", [False, True]), (None, [True, True]), ("instance002", [True, False])):
        lead(walk, leader)
        for instance in walk:
            assert walk.hand.reload(instance)[0]["leader"] == leader
        assert [walk.hand.info(instance, "ro") for instance in walk] == ro
        walk.wait_mesh()
        walk.wait_equal_vclocks()
    walk.hand.insert(walk.second, "numbers", [3_000_000])
    walk.soon("it is on the other one", lambda: walk.hand.select(walk.first, "numbers", [3_000_000]))

    walk.own["instance001"] = RW
    lead(walk, "instance002")
    code, _, err = run("config", "check", str(walk.config_path))
    assert code == 2 and "database.mode" in err
    walk.expect_log("config_refused", "database.mode")
    assert isinstance(refusal(partial(walk.hand.reload, walk.first)), ConfigError)
    assert walk.hand.info(walk.first, "ro") is True
