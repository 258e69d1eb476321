"""The questions that readers ask: more masters, one that comes back, two writers of a key, lost files. WQ.

Tests of one set build on each other, in the order of the file. WQ-5 is in test_master_master.py.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Final

import pytest

from synchro.storage.disk import RealDisk
from synchro.storage.recovery import open_xlog
from tests.e2e.cluster import Instance, contents, soon_s
from tests.e2e.tutorials.hands import EACH_HAND, run
from tests.e2e.tutorials.walk import RW, Walk

pytestmark = pytest.mark.e2e
NAMES = ("instance001", "instance002", "instance003")


@pytest.fixture(scope="module", params=EACH_HAND)
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Walk]:
    """Three masters; each follows the two others."""
    directory = tmp_path_factory.mktemp("wq")
    with Walk(directory, request.param, NAMES, instances=dict.fromkeys(NAMES, RW), faults=True) as walk:
        yield walk


def third(walk: Walk) -> Instance:
    return walk["instance003"]


def inserts(walk: Walk, at: Instance, first: int, count: int) -> None:
    rows = [[number, at.name] for number in range(first, first + count)]
    walk.hand.execute(at, *(("insert", "tester", row) for row in rows))


def test_WQ_01_three_masters(mesh: Walk) -> None:
    """WQ-1: rows come by two ways and count once: 300 tuples everywhere, and equal vclocks."""
    mesh.up()
    mesh.wait_mesh()
    mesh.hand.create(mesh.first, "tester")
    mesh.wait_equal_vclocks()
    before = mesh.hand.vclock(mesh.first)
    for number, instance in enumerate(mesh):
        for part in range(10):
            inserts(mesh, instance, 1000 * number + 10 * part, 10)
    mesh.wait_equal("tester")
    vclock = mesh.wait_equal_vclocks()
    grown = {member: lsn - before.get(member, 0) for member, lsn in vclock.items()}
    assert grown == dict.fromkeys((1, 2, 3), 100)

    assert {mesh.hand.checksum(instance, "tester")[0] for instance in mesh} == {300}


def test_WQ_07_which_set(mesh: Walk) -> None:
    """WQ-7: the UUID of the set is in _schema, and the same on all its members."""
    uuids = {mesh.hand.info(instance, "replicaset.uuid") for instance in mesh}
    assert len(uuids) == 1
    for instance in mesh:
        [row] = mesh.hand.select(instance, "_schema", ["cluster"])
        assert row[1] in uuids


def test_WQ_08_which_instances(mesh: Walk) -> None:
    """WQ-8: _cluster has id, UUID and name of each member, and each finds its own row there."""
    rows = mesh.hand.select(mesh.first, "_cluster")
    assert [row[0] for row in rows] == [1, 2, 3] and len({row[1] for row in rows}) == 3
    for instance in mesh:
        info = mesh.hand.info(instance)
        assert [info["id"], info["uuid"], instance.name] in [row[:3] for row in rows]


def joins(walk: Walk) -> int:
    """How many full copies were begun."""
    return sum(len(instance.records("join_began")) for instance in walk)


def test_WQ_03_PR_07_one_leaves_and_comes_back(mesh: Walk) -> None:
    """WQ-3, PR-7: the others go on; when it is back it gets the rows that it lacks, and no full copy."""
    uuid = mesh.hand.info(third(mesh), "replicaset.uuid")
    before = joins(mesh)
    mesh.kill(third(mesh))
    for number, instance in enumerate((mesh.first, mesh.second)):
        inserts(mesh, instance, 10_000 * (number + 1), 500)
    third(mesh).start()
    mesh.wait_mesh()
    mesh.wait_equal("tester", timeout=soon_s(10))
    assert mesh.hand.checksum(third(mesh), "tester")[0] == 1300
    assert joins(mesh) == before
    assert mesh.hand.info(third(mesh), "replicaset.uuid") == uuid


def test_WQ_04a_one_after_the_other(mesh: Walk) -> None:
    """WQ-4a: who changed a tuple last has the word, everywhere."""
    mesh.hand.create(mesh.first, "shared")
    mesh.hand.replace(mesh.first, "shared", [1, "first"])
    mesh.wait_rows(mesh.second, "shared", [[1, "first"]])
    mesh.hand.replace(mesh.second, "shared", [1, "second"])
    for instance in mesh:
        mesh.wait_rows(instance, "shared", [[1, "second"]])
    mesh.wait_equal("shared")


def test_WQ_02_PR_11_one_is_taken_out(mesh: Walk) -> None:
    """WQ-2, PR-11: without sources an instance gets nothing more, keeps what it has, and the others go on;
    with its sources again it goes on where it was."""
    out = third(mesh)
    before = mesh.hand.checksum(out, "tester")
    assert mesh.hand.set_option(out, "replication.peers", "[]")[0] == {"replication.peers": []}
    for instance in (mesh.first, mesh.second):
        assert "upstream" not in mesh.item(out, instance)
        inserts(mesh, instance, 30_000 + 1000 * instance.id, 10)
    for instance in (mesh.first, mesh.second):
        mesh.soon(
            "the others go on", partial(lambda at: mesh.hand.checksum(at, "tester")[0] == 1320, instance)
        )
    assert mesh.hand.checksum(out, "tester") == before and mesh.hand.info(out, "status") == "running"
    joined = joins(mesh)
    mesh.hand.reload(out)
    mesh.wait_mesh()
    mesh.wait_equal("tester")
    assert mesh.hand.checksum(out, "tester")[0] == 1320 and joins(mesh) == joined


def cut(mesh: Walk) -> None:
    """instance001 from the two others, and they from it."""
    mesh.first.remote.partition("instance002", "instance003")
    for instance in (mesh.second, third(mesh)):
        instance.remote.partition("instance001")


def heal(mesh: Walk) -> None:
    for instance in mesh:
        instance.remote.heal()
    mesh.wait_mesh()
    mesh.wait_equal_vclocks()


def test_WQ_04b_PR_15_at_the_same_time(mesh: Walk) -> None:
    """WQ-4b, PR-15: after two replaces without a link the streams run and the vclocks are equal; the tuples
    may differ, and then the checksums say so."""
    cut(mesh)
    mesh.hand.replace(mesh.first, "shared", [1, "A"])
    mesh.hand.replace(mesh.second, "shared", [1, "B"])
    heal(mesh)
    values = [mesh.hand.select(instance, "shared", [1])[0][1] for instance in mesh]
    assert set(values) <= {"A", "B"}
    sums = {mesh.hand.checksum(instance, "shared") for instance in mesh}
    assert len(sums) == len(set(values))
    code, _, _ = run("-e", mesh.first.address, "space", "checksum", "shared", "--all")
    assert code == (0 if len(sums) == 1 else 1)
    mesh.hand.replace(mesh.first, "shared", [1, "settled"])
    mesh.wait_equal("shared")


def test_WQ_04c_operations_that_commute(mesh: Walk) -> None:
    """WQ-4c: of additions on both sides the sum is left, everywhere."""
    mesh.hand.replace(mesh.first, "shared", [2, 0])
    mesh.wait_equal("shared")
    cut(mesh)
    for instance, count in ((mesh.first, 2), (mesh.second, 3)):
        for _ in range(count):
            mesh.hand.execute(instance, ("upsert", "shared", [2, 1], [["+", 2, 1]]))
    heal(mesh)
    assert [mesh.hand.select(instance, "shared", [2]) for instance in mesh] == [[[2, 5]]] * 3


# --- lost files -----------------------------------------------------------------------------------------


DAMAGES: Final = [
    "flip",
    pytest.param("snapshot", marks=pytest.mark.long),
    pytest.param("tail", marks=pytest.mark.long),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_WQ_09_PR_10_damaged_files(mesh: Walk, damage: str) -> None:
    """WQ-9, PR-10: a damaged log or a lost snapshot is refused by file and place, a torn end is not. Without
    its files the instance starts again from its source, and has all the data."""
    hurt_one = third(mesh)
    if not mesh.running:  # of the tests of this set only long ones are run
        mesh.up()
        mesh.wait_mesh()
    mesh.hand.create(mesh.first, damage)
    mesh.hand.execute(mesh.first, *(("insert", damage, [number, "x" * 200]) for number in range(50)))
    mesh.wait_equal(damage)
    mesh.hand.insert(mesh.first, damage, [1000, "behind it"])  # what is damaged at the end may be torn
    mesh.wait_equal(damage)
    mesh.kill(hurt_one)
    hurt(hurt_one, damage)
    if damage != "tail":
        before = contents(hurt_one.dir)
        mesh.expect_log("instance_failed", "CORRUPTION")
        hurt_one.spawn()
        assert hurt_one.wait_exit(soon_s(10)) == 1
        record = hurt_one.records("instance_failed")[-1]
        assert record["reason"] == "CORRUPTION" and str(hurt_one.dir) in record["file"]
        assert contents(hurt_one.dir) == before
        for suffix in (".snap", ".xlog", ".inprogress"):
            for name in hurt_one.files(suffix):
                (hurt_one.dir / name).unlink()
    hurt_one.start()
    mesh.wait_mesh()
    mesh.wait_equal(damage)
    assert mesh.hand.checksum(hurt_one, damage)[0] == 51


def hurt(instance: Instance, damage: str) -> None:
    path = max(instance.dir.glob("*.xlog"))
    data = bytearray(path.read_bytes())
    match damage:
        case "flip":
            data[data.find(b"xxxx") + 50] ^= 0x10
            path.write_bytes(data)
        case "snapshot":
            for snapshot in instance.dir.glob("*.snap"):
                snapshot.unlink()
        case "tail":
            with open_xlog(RealDisk(), str(path)) as reader:
                ends = [block.next_offset for block in reader.blocks()]
            path.write_bytes(data[: ends[-1] - 5])
