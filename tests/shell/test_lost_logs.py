"""Nobody votes with a log that lost acknowledged rows; real files, links in memory.

Each scenario has A, B, C; C is killed, A and B acknowledge writes, both are killed, B's files are damaged,
and B and C start without A. Without the evidence of ADR 14 they elect an owner that has never seen most of
the rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import structlog
import trio

from synchro.config import WalMode
from synchro.instance import events as ev
from synchro.server.face import Face
from synchro.storage.disk import RealDisk
from synchro.storage.recovery import open_xlog
from tests.shell.memory_set import MemorySet, create_space, frame, open_set, put, until, write

ROWS = 100


def last_log(directory: Path) -> Path:
    return max(directory.glob("*.xlog"))


def cut_to_a_quarter(directory: Path) -> None:
    """At a block border."""
    path = last_log(directory)
    with open_xlog(RealDisk(), str(path)) as reader:
        ends = [block.next_offset for block in reader.blocks()]
    with path.open("r+b") as file:
        file.truncate(ends[len(ends) // 4])


def zero_the_tail(directory: Path) -> None:
    """The size stays: a recycled or preallocated file."""
    path = last_log(directory)
    with open_xlog(RealDisk(), str(path)) as reader:
        ends = [block.next_offset for block in reader.blocks()]
    cut = ends[len(ends) // 4]
    with path.open("r+b") as file:
        file.seek(cut)
        file.write(bytes(path.stat().st_size - cut))


def remove_the_last(directory: Path) -> None:
    last_log(directory).unlink()


def remove_all(directory: Path) -> None:
    for path in directory.glob("*.xlog"):
        path.unlink()


def remove_data(directory: Path) -> None:
    """Our own advice: remove its files, let it join again. The identity is kept."""
    remove_all(directory)
    for path in directory.glob("*.snap"):
        path.unlink()


async def start_all(replicas: MemorySet, *numbers: int) -> None:
    for number in numbers:
        await replicas.start(number)
    await replicas.wait_ready()


async def numbered_leader(replicas: MemorySet) -> tuple[int, list[int]]:
    leader = await replicas.wait_leader()
    number = int(leader.node.settings.instance_name[-3:])
    return number, [other for other in (1, 2, 3) if other != number]


def node_of(replicas: MemorySet, number: int) -> Face:
    return replicas.members[f"instance{number:03}"].face


def keys(face: Face) -> list[object]:
    return [row[0] for row in face.node.core.memtx.select(512)]


def is_noted(face: Face) -> bool:
    """What its log has, and what others acknowledged: soon after they have it."""
    file = face.node.directory.identity_file
    return (file.log, file.acks) == (file.notes.log, file.notes.acks)


async def put_all(leader: Face, *, batch: int) -> None:
    """The rows 0 to 99; returns when all are acknowledged."""
    for first in range(0, ROWS, batch):
        outcomes: list[ev.Outcome] = []
        writes = frame(leader, *[[put(key)] for key in range(first, first + batch)])
        leader.submit_writes(writes, partial(lambda to, _, outcome: to.append(outcome), outcomes), 5.0)
        await until(partial(lambda got: len(got) == batch, outcomes))
        assert all(isinstance(outcome, ev.Committed | ev.CommittedTogether) for outcome in outcomes), outcomes


async def formed(replicas: MemorySet) -> tuple[int, int, int]:
    """Three instances with a space; the first number is that of the leader."""
    async with trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            nursery.start_soon(replicas.start, number)
    await replicas.wait_ready()
    a, (b, c) = await numbered_leader(replicas)
    await create_space(node_of(replicas, a))
    await replicas.wait_equal()
    await until(lambda: all(len(face.links.following) == 2 for face in replicas.nodes))
    return a, b, c


async def written_by_two(replicas: MemorySet) -> tuple[int, int, int]:
    """A, B, C of the scenarios: 100 rows were acknowledged by A and B, all three are down."""
    a, b, c = await formed(replicas)
    await replicas.kill(c)
    await put_all(node_of(replicas, a), batch=5)
    await until(lambda: all(is_noted(face) for face in replicas.nodes))
    await replicas.kill(a, b)
    return a, b, c


@pytest.mark.parametrize(
    "damage",
    [cut_to_a_quarter, zero_the_tail, remove_the_last, remove_data],
    ids=lambda damage: damage.__name__,
)
async def test_who_lost_its_log_elects_nobody(damage: Callable[[Path], None], tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        a, b, c = await written_by_two(replicas)
        damage(tmp_path / f"instance{b:03}")
        with structlog.testing.capture_logs() as records:
            await replicas.start(b)
            await replicas.start(c)
            for _ in range(20):  # four election timeouts
                await trio.sleep(0.1)
                cores = [face.node.core for face in replicas.nodes if face.node.has_core]
                assert not any(core.is_writable or core.raft.is_leader for core in cores)
        if damage is not remove_data:  # it joins C again, and waits for A then
            assert "log_incomplete" in {record["event"] for record in records}
        face = node_of(replicas, b)
        await until(lambda: face.node.is_ready)
        assert face.node.directory.identity.amnesia
        info = face.info()["amnesia"]
        assert f"instance{a:03}" in [other["name"] for other in info["must_hear"]]
        assert "--force-trust" in info["next"]
        told = [record for record in records if record["event"] == "amnesia"]
        assert any(f"instance{a:03}" in record["message"] for record in told)

        await replicas.start(a)
        await replicas.wait_leader()
        await replicas.wait_equal()
        for face in replicas.nodes:
            assert keys(face) == list(range(ROWS))
        await until(lambda: not any(n.node.directory.identity.amnesia for n in replicas.nodes))
        assert node_of(replicas, b).info()["amnesia"] is None


async def test_an_old_copy_is_known_by_those_who_remember_its_acks(tmp_path: Path) -> None:
    """A consistent copy from before the writes has nothing in it that shows the loss. A,
    which was restarted since, still knows what B acknowledged, and B hears it at the first contact."""
    async with open_set(tmp_path) as replicas:
        a, b, c = await formed(replicas)
        await replicas.stop(b)
        shutil.copytree(tmp_path / f"instance{b:03}", tmp_path / "copy")
        await replicas.start(b)
        await until(lambda: all(len(face.links.following) == 2 for face in replicas.nodes))
        await replicas.kill(c)
        for key in range(10):  # of A: B's own LSNs tell nothing
            assert isinstance(await write(node_of(replicas, a), put(key)), ev.Committed)
        await until(lambda: all(is_noted(face) for face in replicas.nodes))
        await replicas.kill(a, b)
        shutil.rmtree(tmp_path / f"instance{b:03}")
        shutil.copytree(tmp_path / "copy", tmp_path / f"instance{b:03}")
        with structlog.testing.capture_logs() as records:
            await start_all(replicas, a, b)
            await until(lambda: node_of(replicas, b).node.directory.identity.amnesia)
        assert "log_incomplete" not in {record["event"] for record in records}
        assert "amnesia_began" in {record["event"] for record in records}
        await replicas.start(c)
        await replicas.wait_leader()
        await replicas.wait_equal()
        assert keys(node_of(replicas, b)) == list(range(10))


@pytest.mark.parametrize("mode", [WalMode.FSYNC, WalMode.WRITE])
async def test_an_honest_kill_of_all_elects_again(mode: WalMode, tmp_path: Path) -> None:
    """No amnesia, and no waiting for a dead member: two of three are enough, with rotated logs and a
    checkpoint."""
    async with open_set(tmp_path, wal_mode=mode) as replicas:
        a, b, _ = await written_by_two(replicas)
        await start_all(replicas, a, b)
        leader = await replicas.wait_leader()
        assert keys(leader) == list(range(ROWS))
        await leader.checkpoint()
        assert isinstance(await write(leader, put(ROWS)), ev.Committed)
        await replicas.kill(a, b)
        await start_all(replicas, b, a)
        leader = await replicas.wait_leader()
        await until(lambda: keys(leader) == list(range(ROWS + 1)))
        assert not any(face.node.directory.identity.amnesia for face in replicas.nodes)


async def test_force_trust_elects_with_what_is_left(tmp_path: Path) -> None:
    """The word of a person, which the log repeats; A's rows are given up, and A must not undo that."""
    async with open_set(tmp_path) as replicas:
        _, b, c = await written_by_two(replicas)
        cut_to_a_quarter(tmp_path / f"instance{b:03}")
        await start_all(replicas, b, c)
        assert node_of(replicas, b).node.directory.identity.amnesia
        await replicas.stop(b)
        with structlog.testing.capture_logs() as records:
            await replicas.start(b, force_trust=True)
            leader = await replicas.wait_leader()
        assert "amnesia_overruled" in {record["event"] for record in records}
        assert isinstance(await write(leader, put(1000)), ev.Committed)
        assert len(keys(leader)) < ROWS


async def test_writes_in_one_frame_are_noted_too(tmp_path: Path) -> None:
    """All 100 at once, and a kill soon after."""
    async with open_set(tmp_path) as replicas:
        a, b, c = await formed(replicas)
        await replicas.kill(c)
        await put_all(node_of(replicas, a), batch=ROWS)
        await until(lambda: all(is_noted(face) for face in replicas.nodes))
        await replicas.kill(a, b)
        noted = node_of(replicas, b).node.directory.identity_file.notes
        assert noted.log is not None
        with open_xlog(RealDisk(), str(last_log(tmp_path / f"instance{b:03}"))) as reader:
            ends = [block.next_offset for block in reader.blocks() if block.rows]
        assert noted.log.length >= ends[-1]


async def test_who_lost_even_the_registrations_joins_again(tmp_path: Path) -> None:
    """The first member has nothing but its first snapshot: it knows of no other one, and the others joined
    behind it, so their logs do not begin early enough. Trusted, it would be a set of one beside them."""
    async with open_set(tmp_path) as replicas:
        await formed(replicas)
        first = next(face for face in replicas.nodes if face.node.core.self_id == 1)
        one = int(first.node.settings.instance_name[-3:])
        others = [number for number in (1, 2, 3) if number != one]
        await put_all(await replicas.wait_leader(), batch=5)
        await replicas.wait_equal()
        await replicas.kill(1, 2, 3)
        remove_all(tmp_path / f"instance{one:03}")
        face = await replicas.start(one)
        await until(lambda: face.node.is_ready)
        info = face.info()["amnesia"]
        assert [who["name"] for who in info["must_hear"]] == [f"instance{other:03}" for other in others]
        assert info["next"].startswith("start ")

        await start_all(replicas, *others)
        name = face.node.settings.instance_name
        await until(lambda: f"synchro rebootstrap {name}" in face.info()["amnesia"]["next"])
        assert "--force-trust" not in face.info()["amnesia"]["next"]
        face.rebootstrap(discard=False)
        await replicas.members[name].ended.wait()
        face = await replicas.start(one)
        await until(lambda: face.node.is_ready and face.info()["amnesia"] is None)
        await replicas.wait_leader()
        await replicas.wait_equal()
        assert keys(face) == list(range(ROWS))
