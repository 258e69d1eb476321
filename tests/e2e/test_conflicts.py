"""Two masters that change the same keys while they are apart, by the command line. ADR 44, [A-51], [A-52]."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, Instance, eventually, soon_s
from tests.e2e.test_whom_to_ask import synchro

pytestmark = pytest.mark.e2e
RW = {"database": {"mode": "rw"}}
NAMES = ("instance001", "instance002")


def do(at: Instance, *words: str) -> Any:
    """What it prints as JSON."""
    done = synchro([at], "--direct", "-o", "json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.long
def test_the_last_write_wins_and_what_stops_can_be_passed(make_cluster: Callable[..., Cluster]) -> None:
    """Each starts without the other, writes, and is stopped; then they meet. `newest` becomes equal by
    itself; `bands` stops both streams, and the commands of `status` bring them on."""
    cluster = make_cluster(2, instances=dict.fromkeys(NAMES, RW)).start()
    one, two = cluster
    cluster.expect_log("upstream_stopped", "Duplicate key")
    do(one, "space", "create", "newest", "--format", "id:unsigned,name:string")
    one.remote.create_index("newest")
    do(one, "space", "alter", "newest", "--conflict", "last_write_wins")
    assert do(one, "space", "show", "newest")["conflict"] == "last_write_wins"
    one.remote.create("bands", is_sync=False)
    refused = synchro([one], "--direct", "index", "create", "newest", "second", "--parts", "name")
    assert refused.returncode != 0 and "unique secondary indexes" in refused.stderr
    one.remote.insert("newest", 1, "before")
    cluster.wait_equal("newest", "bands")

    assert two.stop() == 0
    one.remote.insert("newest", 5, "one")
    do(one, "update", "newest", "1", '[["=", 2, "one"]]')
    one.remote.insert("bands", 5, "Pink Floyd")
    assert one.stop() == 0
    two.start()
    waited = synchro([two], "--direct", "wait-rw", two.name, "--timeout", "15s")
    assert waited.returncode == 0, waited.stderr
    two.remote.insert("newest", 5, "two")
    do(two, "delete", "newest", "1")
    two.remote.insert("bands", 5, "incorrect data")
    one.start()

    def stops() -> list[dict[str, Any]]:
        found = json.loads(synchro([one, two], "-o", "json", "status").stdout)["problems"]
        return [problem for problem in found if problem["kind"] == "stopped_stream"]

    def both() -> list[dict[str, Any]]:
        found = stops()
        return found if len(found) == 2 else []

    for problem in eventually("both streams stand", both, soon_s()):
        assert (problem["space"], problem["key"]) == ("bands", "[5]")
        assert "Pink Floyd" in problem["text"] and "incorrect data" in problem["text"]
        followed = synchro([one, two], *shlex.split(problem["next"])[1:])
        assert followed.returncode == 0, followed.stderr
    cluster.wait_equal("newest")
    assert one.remote.select("newest") == two.remote.select("newest") == [[5, "two"]]
    assert synchro([one, two], "space", "checksum", "bands", "--all").returncode == 1
    one.remote.replace("bands", 5, "Pink Floyd")
    cluster.wait_equal("bands")


@pytest.mark.long
def test_a_former_leader_gives_up_rows_that_only_it_has(make_cluster: Callable[..., Cluster]) -> None:
    """An asynchronous row that never left its disk, and one of the next leader with its key: what `status`
    says brings all streams back, with the next leader's row everywhere."""
    cluster = make_cluster(3, failover="election", faults=True).start()
    cluster.expect_log("upstream_stopped")
    former = cluster.wait_leader()
    former.remote.create("bands", is_sync=False)
    cluster.wait_equal("bands")
    former.remote.pause_at("relay.before_send")
    former.remote.insert("bands", 7, "former")
    former.kill()
    leader = cluster.wait_leader()
    leader.remote.insert("bands", 7, "next")
    former.start()

    def stops(count: int) -> list[dict[str, Any]]:
        found = json.loads(synchro(list(cluster), "-o", "json", "status").stdout)["problems"]
        found = [problem for problem in found if problem["kind"] == "stopped_stream"]
        return found if len(found) >= count else []

    stopped = eventually("four streams stand", lambda: stops(4), soon_s(10))
    assert all(f"{former.name} wrote" in problem["text"] for problem in stopped)
    assert {problem["next"] for problem in stopped if problem["instance"] == former.name} == {None}
    assert former.stop() == 0
    for path in (*former.dir.glob("*.snap"), *former.dir.glob("*.xlog")):
        path.rename(path.with_suffix(f"{path.suffix}.away"))
    former.spawn()
    for problem in stopped:
        if problem["next"]:
            followed = synchro(list(cluster), *shlex.split(problem["next"])[1:])
            assert followed.returncode == 0, followed.stderr
    cluster.wait_equal("bands")
    assert former.remote.select("bands") == [[7, "next"]]
    eventually("nothing is wrong", lambda: not stops(1), soon_s(10))
