"""Quick start: a second instance copies the first, serves reads beside it, and outlives it. QS, MON, DUP.

Tests of one file build on each other, in its order.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

import synchro
from synchro.errors import AccessDenied, NoSuchSpace, ReadOnly, SpaceExists
from tests.e2e.cluster import contents, never, soon_s
from tests.e2e.tutorials.hands import EACH_HAND
from tests.e2e.tutorials.walk import FLAGS_HEARTBEAT_S, Walk, refusal

pytestmark = pytest.mark.e2e
NAMES = ("instance001", "instance002", "instance003", "other", "guarded")
ROOT_DIR = Path(__file__).resolve().parents[3]
STATES = ("connect", "loading", "sync", "follow")
ROWS = [[number, f"row {number}"] for number in range(100)]


@pytest.fixture(scope="module", params=EACH_HAND)
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Walk]:
    with Walk(tmp_path_factory.mktemp("qs"), request.param, NAMES) as cluster:
        yield cluster


def test_QS_01_a_first_instance(walk: Walk) -> None:
    """QS-1: it makes a replica set of its own, with a UUID that no other has."""
    sets = []
    for instance in (walk.first, walk["other"]):
        walk.serve(instance)
        info = walk.hand.info(instance)
        assert (info["status"], info["ro"], info["id"]) == ("running", False, 1)
        assert len(instance.files(".snap")) == 1
        sets.append(info["replicaset"]["uuid"])
    assert len(set(sets)) == 2 and all(len(uuid) == 36 for uuid in sets)


def test_QS_02_before_any_grant(walk: Walk) -> None:
    """QS-2: in a set that was begun with an admin the guest may not even read, and hears what is missing."""
    guarded = walk["guarded"]
    password = walk.dir / "admin.password"
    password.write_text("secret\n")
    walk.spawn_by_flags(guarded, flags=["--admin-password-file", str(password)])
    walk.wait_record(guarded, "instance_ready")
    for call, word in (
        (partial(walk.hand.select, guarded, "_space"), "Read"),
        (partial(walk.hand.insert, guarded, "tester", [1]), "Write"),
    ):
        error = refusal(call)
        assert isinstance(error, AccessDenied)
        assert error.message.startswith(f"{word} access to space '") and error.details["user"] == "guest"
    assert guarded.stop() == 0


def test_QS_03_what_everybody_may_do(walk: Walk) -> None:
    """QS-3: the guest gets read, write and execute, and a snapshot is named by the signature."""
    assert walk.hand.grant(walk.first, "guest", "read,write,execute", "universe")
    signature = walk.hand.snapshot(walk.first)
    assert signature == walk.hand.info(walk.first, "signature") > 0
    assert f"{signature:020}.snap" in walk.first.files(".snap")
    assert walk.first.files(".inprogress") == []


def test_QS_04_a_directory_of_another_set(walk: Walk) -> None:
    """QS-4, PR-6: a start on another set's files fails, names both sets, and changes not one byte."""
    other = walk["other"]
    uuids = [walk.hand.info(instance, "replicaset.uuid") for instance in (walk.first, other)]
    assert other.stop() == 0
    before = contents(other.dir)
    walk.expect_log("instance_failed", "REPLICASET_UUID_MISMATCH")
    walk.spawn_by_flags(other, walk.first)
    assert other.wait_exit(soon_s(10)) == 1
    [record] = other.records("instance_failed")
    assert record["reason"] == "REPLICASET_UUID_MISMATCH"
    assert all(uuid in record["message"] for uuid in uuids), record
    assert contents(other.dir) == before
    assert len(walk.hand.select(walk.first, "_cluster")) == 1


def test_QS_05_MON_01_a_second_instance_joins(walk: Walk) -> None:
    """QS-5, MON-1: it gets everything from the first, as its states show, and follows it."""
    seen: list[str] = []

    def is_following() -> bool:
        status = walk.stream(walk.second, walk.first).get("status")
        if status and status not in seen:
            seen.append(status)
        return bool(status == "follow")

    walk.spawn_by_flags(walk.second, walk.first)
    walk.soon("the second follows the first", is_following, soon_s(15))
    assert seen == [status for status in STATES if status in seen]
    walk.wait_status(walk.first, walk.second, "follow", "downstream")
    assert "upstream" not in walk.item(walk.first, walk.second), "the first has no source"
    assert walk.hand.info(walk.second, "id") == 2
    uuids = {walk.hand.info(instance, "replicaset.uuid") for instance in (walk.first, walk.second)}
    assert len(uuids) == 1
    assert len(walk.second.files(".snap")) == 1


def test_WQ_11_the_page_lists_these_states() -> None:
    """WQ-11: how a start with a source goes on is told in the order in which the states are seen."""
    page = (ROOT_DIR / "docs" / "tutorials" / "what-if.md").read_text(encoding="utf-8")
    section = page.partition("## How does it work inside?")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == STATES


def test_MON_02_idle_and_lag(walk: Walk) -> None:
    """MON-2: idle grows between messages and stays under two heartbeats; both are seconds."""
    idles = []
    for _ in range(20):
        stream = walk.stream(walk.second, walk.first)
        assert isinstance(stream["idle"], float) and isinstance(stream["lag"], float)
        idles.append(stream["idle"])
    assert max(idles) < soon_s(2 * FLAGS_HEARTBEAT_S)
    assert any(later > earlier for earlier, later in pairwise(idles))


def test_QS_06_a_hundred_tuples(walk: Walk) -> None:
    """QS-6: what is written on the first is on the second soon, in the same order."""
    walk.hand.create(walk.first, "tester")
    for row in ROWS:
        assert walk.hand.insert(walk.first, "tester", row) == row
    walk.wait_rows(walk.second, "tester", ROWS)
    walk.wait_equal_vclocks(walk.first, walk.second)


def test_QS_07_PR_14_reads_are_shared(walk: Walk) -> None:
    """QS-7, PR-14: both serve confirmed reads; a client that is given both takes who answers."""
    pair = (walk.first, walk.second)
    assert [walk.hand.select(instance, "tester") for instance in pair] == [ROWS, ROWS]
    for endpoints in (pair, pair[::-1]):
        given = [instance.address for instance in endpoints]
        with synchro.connect(given, read_from="any", timeout=soon_s(10)) as db:
            assert [list(row) for row in db.space("tester").select()] == ROWS
            assert db.get_info("name") == endpoints[0].name


def test_DUP_01_a_space_that_exists(walk: Walk) -> None:
    """DUP-1: to create it again is refused, SPACE_EXISTS, exit code 6."""
    error = refusal(partial(walk.hand.create_space, walk.first, "tester"))
    assert isinstance(error, SpaceExists) and int(error.exit_code) == 6


def test_DUP_02_if_not_exists(walk: Walk) -> None:
    """DUP-2: it succeeds, changes nothing and takes no LSN."""
    before = walk.hand.info(walk.first, "lsn")
    assert walk.hand.create_space(walk.first, "tester", if_not_exists=True) is False
    assert walk.hand.info(walk.first, "lsn") == before


def test_DUP_03_once(walk: Walk) -> None:
    """DUP-3: of one key the operations run once, on whichever instance; later calls do nothing."""
    operations = ({"create_space": {"name": "made"}}, {"create_index": {"space": "made", "name": "primary"}})
    assert walk.hand.once(walk.first, "space_creator", *operations) is True
    before = walk.hand.info(walk.first, "lsn")
    assert walk.hand.once(walk.first, "space_creator", *operations) is False
    assert walk.hand.info(walk.first, "lsn") == before
    walk.wait_equal_vclocks(walk.first, walk.second)
    assert walk.hand.info(walk.second, "ro") is False
    assert walk.hand.once(walk.second, "space_creator", *operations) is False
    assert walk.hand.select(walk.second, "_schema", ["oncespace_creator"])[0][1]["by"] == walk.first.name


def test_DUP_04_once_that_fails_halfway(walk: Walk) -> None:
    """DUP-4: nothing of it is applied, the key is not remembered, and it runs when it is mended."""
    space = {"create_space": {"name": "half"}}
    before = walk.hand.info(walk.first, "lsn")
    bad = {"create_index": {"space": "no such", "name": "primary"}}
    error = refusal(partial(walk.hand.once, walk.first, "half", space, bad))
    assert isinstance(error, NoSuchSpace)
    assert walk.hand.info(walk.first, "lsn") == before
    assert walk.hand.select(walk.first, "_schema", ["oncehalf"]) == []
    assert walk.hand.once(walk.first, "half", space) is True


def test_a_sequence_gives_values_that_travel_in_rows(walk: Walk) -> None:
    """The first gives the numbers, the second reads them, and goes on behind them if it is asked [D-26]."""
    walk.hand.create_space(walk.first, "numbered")
    walk.hand.number(walk.first, "numbered", "ids", start=10, step=5)
    assert walk.hand.insert(walk.first, "numbered", [None, "a"]) == [10, "a"]
    assert walk.hand.next_value(walk.first, "ids") == 15
    assert walk.hand.insert(walk.first, "numbered", [None, "b"]) == [20, "b"]
    walk.wait_rows(walk.second, "numbered", [[10, "a"], [20, "b"]])
    assert walk.hand.select(walk.second, "_sequence_data") == [[1, 20]]
    assert walk.hand.insert(walk.second, "numbered", [None, "c"]) == [25, "c"]


def test_QS_08_what_the_second_writes_stays_there(walk: Walk) -> None:
    """QS-8: the second is writable, and the first never hears of that: it has no source."""
    walk.hand.insert(walk.second, "tester", [1000, "on the second"])
    found = partial(walk.hand.select, walk.first, "tester", [1000])
    never("the first has it", found, 3 * FLAGS_HEARTBEAT_S)
    assert walk.hand.select(walk.second, "tester", [1000]) == [[1000, "on the second"]]


def test_QS_10_a_read_only_instance(walk: Walk) -> None:
    """QS-10: with --read-only it serves reads and refuses writes, READ_ONLY because of its configuration."""
    third = walk.serve(walk["instance003"], walk.first, read_only=True)
    walk.wait_rows(third, "tester", ROWS)
    error = refusal(partial(walk.hand.insert, third, "tester", [2000, "never"]))
    assert isinstance(error, ReadOnly) and error.details["ro_reason"] == "config"
    assert walk.hand.info(third, "ro_reason") == "config"


def test_MON_03_the_source_logs_who_comes_and_goes(walk: Walk) -> None:
    """MON-3: records of the component `relay` name the peer and its address."""
    third = walk["instance003"]
    assert third.stop() == 0
    for event in ("relay_connected", "relay_lost"):
        record = walk.wait_record(walk.first, event, peer=third.name)
        assert (record["component"], record["address"]) == ("relay", third.address)


def test_QS_09_the_first_one_dies(walk: Walk) -> None:
    """QS-9: the second goes on with reads and writes, and says once that its source is lost."""
    before = {key: walk.hand.info(walk.second, key) for key in ("ro", "id", "synchro.queue.owner")}
    walk.kill(walk.first)
    walk.wait_status(walk.second, walk.first, "disconnected")
    assert walk.hand.insert(walk.second, "tester", [1001, "alone"]) == [1001, "alone"]
    assert walk.hand.select(walk.second, "tester", [1001]) == [[1001, "alone"]]
    assert [record["peer"] for record in walk.second.records("upstream_lost")] == [walk.first.address]
    assert {key: walk.hand.info(walk.second, key) for key in before} == before
