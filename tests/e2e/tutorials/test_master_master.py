"""Two masters from one file, a conflict between them, and its repair. MM, WQ-5.

Tests of one file build on each other, in its order.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from synchro.errors import ReadOnly
from tests.e2e.cluster import HEARTBEAT_S, never
from tests.e2e.tutorials.hands import EACH_HAND, run
from tests.e2e.tutorials.walk import PAIR, RW, Walk, refusal

pytestmark = pytest.mark.e2e
FORMAT = ("id:unsigned", "band_name:string", "year:unsigned")
ROXETTE, SCORPIONS = [1, "Roxette", 1986], [2, "Scorpions", 1965]
ACE, BEATLES = [3, "Ace of Base", 1987], [4, "The Beatles", 1960]
PINK, WRONG = [5, "Pink Floyd", 1965], [5, "incorrect data", 0]
FOUR = [ROXETTE, SCORPIONS, ACE, BEATLES]
MESSAGE = (
    'Duplicate key exists in unique index "primary" in space "bands" with old tuple - {} and new tuple - {}'
)
PINK_TEXT, WRONG_TEXT = '[5, "Pink Floyd", 1965]', '[5, "incorrect data", 0]'


def edit_own(walk: Walk, name: str, **sections: Any) -> None:
    """Sections of one instance, as they are to stand in the file."""
    document = yaml.safe_load(walk.config_path.read_text())
    document["groups"]["group001"]["replicasets"]["replicaset001"]["instances"][name] |= sections
    walk.config_path.write_text(yaml.safe_dump(document, sort_keys=False))


class Masters(Walk):
    """What later steps must remember of earlier ones."""

    lsn_before = 0
    second_id = 0

    def lsn(self, number: int) -> int:
        instance = (self.first, self.second)[number - 1]
        return int(self.hand.info(instance, "lsn"))

    def stopped_on_first(self) -> dict[str, Any]:
        return self.stream(self.first, self.second)


@pytest.fixture(scope="module", params=EACH_HAND)
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Masters]:
    directory = tmp_path_factory.mktemp("mm")
    own = dict.fromkeys(PAIR, RW)
    with Masters(directory, request.param, by_verbs=True, instances=own) as cluster:
        cluster.expect_log("upstream_stopped", "Duplicate key")
        yield cluster


def test_MM_01_the_file_is_checked(walk: Masters, tmp_path: Path) -> None:
    """MM-1: the file is accepted; a misspelt key is named with line and nearest key, exit code 2."""
    code, out, _ = run("config", "check", str(walk.config_path))
    assert code == 0 and "2 instances: instance001, instance002" in out
    wrong = tmp_path / "wrong.yaml"
    text = walk.config_path.read_text().replace("mode:", "moed:")
    wrong.write_text(text)
    line = next(number for number, each in enumerate(text.splitlines(), 1) if "moed" in each)
    code, _, err = run("config", "check", str(wrong))
    assert code == 2
    assert f"{wrong}:{line}" in err and "moed" in err and "mode" in err.replace("moed", "")


def test_MM_02_start(walk: Masters) -> None:
    """MM-2: `off` may be bare, which YAML 1.1 reads as false; the start returns when both are up."""
    walk.options["replication"]["failover"] = False
    walk.write_config(walk.config_path)
    assert yaml.safe_load("failover: off") == {"failover": False}
    walk.up()
    assert [walk.hand.info(instance, "status") for instance in walk] == ["running", "running"]


def test_MM_03_status(walk: Masters) -> None:
    """MM-3: two instances run, in two processes, and both are writable."""
    walk.wait_mesh()
    code, out, _ = run("-o", "yaml", "status", str(walk.config_path))
    assert code == 0
    found = yaml.safe_load(out)["instances"]
    assert sorted((one["name"], one["rw"]) for one in found) == [(name, True) for name in PAIR]
    assert len({one["pid"] for one in found}) == 2 and all(one["pid"] for one in found)


def test_MM_04_both_are_writable(walk: Masters) -> None:
    """MM-4: `info ro` is false on each."""
    assert [walk.hand.info(instance, "ro") for instance in walk] == [False, False]


def test_MM_05_each_follows_the_other(walk: Masters) -> None:
    """MM-5: both directions have their facts; the own item has neither, and no password is shown."""
    assert len(walk.hand.info(walk.first, "replication")) == 2
    item = walk.item(walk.first, walk.second)
    assert item["upstream"]["status"] == "follow" and item["downstream"]["status"] == "follow"
    assert item["upstream"]["peer"].rpartition("@")[2] == walk.second.address
    assert item["upstream"]["lag"] is not None and item["upstream"]["idle"] >= 0
    assert item["downstream"]["vclock"]
    own = walk.item(walk.first, walk.first)
    assert "upstream" not in own and "downstream" not in own


def test_MM_06_what_stays_on_an_instance(walk: Masters) -> None:
    """MM-6: rows of a local space count in component 0, which differs; vclocks are compared without it."""
    walk.hand.create(walk.first, "here", local=True)
    walk.hand.insert(walk.first, "here", [1])
    walk.wait_equal_vclocks()
    first, second = (walk.hand.info(instance, "vclock").get(0, 0) for instance in walk)
    assert first > second


def test_MM_07_a_space_with_a_format(walk: Masters) -> None:
    """MM-7: what makes it are rows of instance001."""
    walk.lsn_before = walk.lsn(1)
    walk.hand.create_space(walk.first, "bands")
    walk.hand.alter_format(walk.first, "bands", FORMAT)
    walk.hand.create_index(walk.first, "bands", parts=["id"])
    assert walk.lsn(1) - walk.lsn_before == 3
    assert 0 not in walk.hand.vclock(walk.first)


def test_MM_08_two_inserts(walk: Masters) -> None:
    """MM-8: each is one more row of instance001."""
    before = walk.lsn(1)
    for row in (ROXETTE, SCORPIONS):
        assert walk.hand.insert(walk.first, "bands", row) == row
    assert walk.lsn(1) == before + 2


def test_MM_09_they_are_on_the_other(walk: Masters) -> None:
    """MM-9: instance002 has both tuples."""
    walk.wait_rows(walk.second, "bands", [ROXETTE, SCORPIONS])


def test_MM_10_two_inserts_on_the_other(walk: Masters) -> None:
    """MM-10: the component of instance002 grows by two."""
    before = walk.lsn(2)
    for row in (ACE, BEATLES):
        assert walk.hand.insert(walk.second, "bands", row) == row
    assert walk.lsn(2) == before + 2


def test_MM_11_four_tuples(walk: Masters) -> None:
    """MM-11: instance001 has all four."""
    walk.wait_rows(walk.first, "bands", FOUR)


def test_MM_12_equal_vclocks(walk: Masters) -> None:
    """MM-12: soon both vclocks are equal."""
    assert set(walk.wait_equal_vclocks()) == {1, 2}


def test_MM_13_one_is_stopped(walk: Masters) -> None:
    """MM-13: instance002 stays writable without it."""
    walk.second_id = walk.second.id
    walk.down("instance001")
    assert walk.hand.info(walk.second, "ro") is False


def test_MM_14_incorrect_data(walk: Masters) -> None:
    """MM-14: it takes the key 5, and is stopped too."""
    assert walk.hand.insert(walk.second, "bands", WRONG) == WRONG
    walk.down("instance002")


def test_MM_15_one_alone(walk: Masters) -> None:
    """MM-15: instance001 runs and is writable though its peer is down: it was bootstrapped before."""
    walk.up("instance001")
    walk.soon("it is no orphan", lambda: walk.hand.info(walk.first, "status") == "running")
    assert walk.hand.info(walk.first, "ro") is False


def test_MM_16_the_same_key(walk: Masters) -> None:
    """MM-16: it takes the key 5, too."""
    assert walk.hand.insert(walk.first, "bands", PINK) == PINK


def test_MM_17_WQ_05_the_conflict(walk: Masters) -> None:
    """MM-17, WQ-5: the stream stops, and its message names index, space and both tuples."""
    walk.up("instance002")
    walk.wait_status(walk.first, walk.second, "stopped")
    stream = walk.stream(walk.first, walk.second)
    assert stream["message"] == MESSAGE.format(PINK_TEXT, WRONG_TEXT)
    assert stream["idle"] >= 0 and "lag" in stream


def test_MM_18_and_its_mirror_image(walk: Masters) -> None:
    """MM-18: the other direction was closed by the peer; instance002 shows the same, reversed."""
    walk.wait_status(walk.second, walk.first, "stopped")
    assert walk.stream(walk.second, walk.first)["message"] == MESSAGE.format(WRONG_TEXT, PINK_TEXT)
    for at, of in ((walk.first, walk.second), (walk.second, walk.first)):
        walk.wait_status(at, of, "stopped", "downstream")
        stream = walk.stream(at, of, "downstream")
        assert stream["message"] and stream["system_message"]


def test_MM_19_both_go_on(walk: Masters) -> None:
    """MM-19: both serve reads and take local writes; neither has the other's tuple; both stay healthy."""
    for instance, tuple_5, number in ((walk.first, PINK, 101), (walk.second, WRONG, 102)):
        assert walk.hand.select(instance, "bands", [5]) == [tuple_5]
        walk.hand.insert(instance, "bands", [number, "local", 0])
        walk.hand.execute(instance, ("delete", "bands", [number]))
        assert instance.remote.health("synchro.v1.DataService")


def test_MM_20_it_stays_stopped(walk: Masters) -> None:
    """MM-20: a conflict is not tried again by itself."""

    def is_back() -> bool:
        return bool(walk.stopped_on_first()["status"] != "stopped")

    never("the stream goes on", is_back, 10 * HEARTBEAT_S)


def test_MM_21_the_wrong_one_is_read_only(walk: Masters) -> None:
    """MM-21: by the file, which both read again; one of them is concerned."""
    walk.own["instance002"] = {"database": {"mode": "ro"}}
    walk.write_config(walk.config_path)
    assert walk.hand.reload(walk.first)[0] == {}
    assert walk.hand.reload(walk.second)[0] == {"database.mode": "ro"}
    assert (walk.hand.info(walk.second, "ro"), walk.hand.info(walk.second, "ro_reason")) == (True, "config")


def test_MM_22_the_wrong_one_starts_anew(walk: Masters) -> None:
    """MM-22: without its files instance002 joins again, as the member that it was."""
    walk.down("instance002")
    for name in walk.second.files(".xlog") + walk.second.files(".snap"):
        (walk.second.dir / name).unlink()
    walk.up("instance002")
    walk.wait_status(walk.second, walk.first, "follow")
    assert walk.hand.info(walk.second, "id") == walk.second_id
    names = [row[2] for row in walk.hand.select(walk.first, "_cluster")]
    assert sorted(names) == list(PAIR)


def test_MM_23_it_has_the_right_tuple(walk: Masters) -> None:
    """MM-23: five tuples, the fifth is that of instance001."""
    walk.wait_rows(walk.second, "bands", [*FOUR, PINK])


def test_MM_24_the_other_direction_is_still_stopped(walk: Masters) -> None:
    """MM-24: instance001 sends, and still receives nothing."""
    walk.wait_status(walk.first, walk.second, "follow", "downstream")
    item = walk.item(walk.first, walk.second)
    assert item["upstream"]["status"] == "stopped"
    assert item["upstream"]["message"] == MESSAGE.format(PINK_TEXT, WRONG_TEXT)
    walk.soon(
        "the vclock it acknowledged is that of instance001",
        lambda: (
            {i: lsn for i, lsn in walk.stream(walk.first, walk.second, "downstream")["vclock"].items() if i}
            == walk.hand.vclock(walk.first)
        ),
    )


def test_MM_25_the_right_one_loses_its_address(walk: Masters) -> None:
    """MM-25: with `grpc: {}` and mode ro in the file that it reads, instance001 has no source, and takes no
    writes."""
    walk.own["instance001"] = {"database": {"mode": "ro"}}
    walk.write_config(walk.config_path)
    edit_own(walk, "instance001", grpc={})
    changes, _ = walk.hand.reload(walk.first)
    assert changes == {"database.mode": "ro", "replication.peers": None}
    assert "upstream" not in walk.item(walk.first, walk.second)
    error = refusal(partial(walk.hand.insert, walk.first, "bands", [0, "never", 0]))
    assert isinstance(error, ReadOnly) and error.details["ro_reason"] == "config"


def test_MM_26_both_are_masters_again(walk: Masters) -> None:
    """MM-26: address and modes are as they were, by one more reload of both."""
    walk.own = dict.fromkeys(PAIR, RW)
    walk.write_config(walk.config_path)
    for instance in walk:
        walk.hand.reload(instance)
    walk.soon("both write", lambda: not any(walk.hand.info(instance, "ro") for instance in walk))


def test_MM_27_both_follow(walk: Masters) -> None:
    """MM-27: both directions, and no message is left. Nobody was started again."""
    walk.wait_mesh()
    item = walk.item(walk.first, walk.second)
    assert "message" not in item["upstream"] and "message" not in item["downstream"]


def test_MM_28_two_masters_again(walk: Masters) -> None:
    """MM-28: a write on each is on both, and the vclocks are equal."""
    walk.hand.insert(walk.first, "bands", [6, "a", 1])
    walk.hand.insert(walk.second, "bands", [7, "b", 2])
    for instance in walk:
        walk.wait_rows(instance, "bands", [*FOUR, PINK, [6, "a", 1], [7, "b", 2]])
    walk.wait_equal_vclocks()


def test_MM_29_one_command_ends_it(walk: Masters) -> None:
    """MM-29: another conflict; each takes its tuple back, and `replication restart` starts its stream."""
    for instance in walk:
        walk.hand.set_option(instance, "replication.peers", "[]")
    for instance in walk:
        walk.hand.insert(instance, "bands", [8, instance.name, 0])
    for instance in walk:
        walk.hand.reload(instance)
    walk.wait_status(walk.first, walk.second, "stopped")
    walk.wait_status(walk.second, walk.first, "stopped")
    for instance in walk:
        walk.hand.execute(instance, ("delete", "bands", [8]))
    walk.hand.restart_upstream(walk.first, "instance002")
    walk.hand.restart_upstream(walk.second, "instance001")
    walk.wait_mesh()
    walk.wait_equal("bands")


def test_MM_30_skip_conflict(walk: Masters) -> None:
    """MM-30: with skip_conflict nothing stops: each makes a NOP of the other's row, counts and logs it,
    and keeps its own tuple."""
    for instance in walk:
        walk.hand.set_option(instance, "replication.peers", "[]")
    for instance in walk:
        walk.hand.insert(instance, "bands", [10, instance.name, 0])
    walk.options["replication"]["skip_conflict"] = True
    walk.write_config(walk.config_path)
    for instance in walk:
        assert walk.hand.reload(instance)[0]["replication.skip_conflict"] is True
    walk.wait_mesh()
    walk.wait_equal_vclocks()
    for at, of in ((walk.first, walk.second), (walk.second, walk.first)):
        assert walk.hand.select(at, "bands", [10]) == [[10, at.name, 0]]
        assert walk.item(at, of)["conflicts_skipped"] == 1
        assert walk.wait_record(at, "conflict_skipped")["level"] == "warning"


def test_MM_31_one_leaves(walk: Masters) -> None:
    """MM-31: read-only, without sources, and expelled: the other one goes on, and lists it no more. That its
    id is not given again: tests/e2e/test_members.py."""
    walk.hand.set_option(walk.second, "database.mode", "ro")
    walk.hand.set_option(walk.second, "replication.peers", "[]")
    walk.hand.expel(walk.first, walk.second)
    assert walk.item(walk.first, walk.second) == {}
    assert walk.hand.insert(walk.first, "bands", [9, "alone", 0]) == [9, "alone", 0]
