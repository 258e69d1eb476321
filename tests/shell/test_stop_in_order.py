"""A clean stop of whole instances with real disks: what was answered is visible after the next start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from synchro.config import ElectionMode
from synchro.instance import events as ev
from synchro.server import lifecycle
from synchro.server.face import Face
from synchro.server.failing_disk import FailingJournal
from tests.shell.memory_set import MemorySet, create_space, frame, open_set, put, until, write


def number_of(face: Face) -> int:
    return int(face.node.settings.instance_name[-3:])


async def promoted(replicas: MemorySet, size: int) -> Face:
    """The one who made the set owns the queue; nobody stands by itself."""
    for number in range(1, size + 1):
        await replicas.start(number)
    await replicas.wait_ready()
    face = await replicas.wait_leader()
    await create_space(face)
    await replicas.wait_equal()
    return face


@pytest.mark.parametrize("size", [1, 3])
async def test_a_row_that_was_answered_is_visible_without_a_promote(tmp_path: Path, size: int) -> None:
    """Its CONFIRM goes to disk with the stop."""
    async with open_set(tmp_path, size, election_mode=ElectionMode.MANUAL) as replicas:
        face = await promoted(replicas, size)
        for key in range(5):
            assert isinstance(await write(face, put(key)), ev.Committed)
        began = trio.current_time()
        await replicas.stop(number_of(face))
        assert trio.current_time() - began < lifecycle.DRAIN_S - 1, "nobody was waited for in vain"
        again = await replicas.start(number_of(face))
        await until(lambda: again.node.is_ready)
        assert again.node.core.memtx.count(512) == 5 and len(again.node.core.limbo) == 0
        assert again.node.core.raft.leader != again.node.core.self_id


async def test_until_it_ends_its_info_says_that_it_stops(tmp_path: Path) -> None:
    """Not that it loads: nobody has to wait for it."""
    async with open_set(tmp_path, 1, election_mode=ElectionMode.MANUAL) as replicas:
        node = await promoted(replicas, 1)
        assert node.info()["status"] == "running"
        node.node.begin_stop()
        assert node.info()["status"] == "stopping"
        await replicas.stop(1)
        assert node.info()["status"] == "stopping"


async def test_the_others_elect_at_once(tmp_path: Path) -> None:
    """[E-18]: a stopped leader says that it goes; a death timeout (here 12 s) is not waited for."""
    async with open_set(tmp_path, replication_timeout_s=3.0, election_timeout_s=1.0) as replicas:
        for number in (1, 2, 3):
            await replicas.start(number)
        await replicas.wait_ready()
        leader = await replicas.wait_leader()
        await until(lambda: all(len(face.links.relays) == 2 for face in replicas.nodes))
        with trio.fail_after(11):
            await replicas.stop(number_of(leader))
            await replicas.wait_leader()


async def test_every_call_is_answered_before_the_end(tmp_path: Path) -> None:
    """Who waits for a quorum hears the name of the transaction, or that nothing was done."""
    async with open_set(tmp_path, election_mode=ElectionMode.MANUAL) as replicas:
        face = await promoted(replicas, 3)
        for other in replicas.nodes:
            if other is not face:
                replicas.network.cut(face.node.settings.instance_name, other.node.settings.instance_name)
        got: dict[int, ev.Outcome] = {}
        writes = frame(face, *([put(key)] for key in range(100)))
        face.submit_writes(writes, got.__setitem__, 30.0)
        await replicas.stop(number_of(face))
        assert got.keys() == {write.call_id for write in writes}
        assert all(isinstance(outcome, ev.OutcomeUnknown | ev.Rejected) for outcome in got.values())
        named = [o.txn for o in got.values() if isinstance(o, ev.OutcomeUnknown)]
        assert None not in named and len(set(named)) == len(named)


async def test_a_disk_that_does_not_answer_does_not_keep_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "DRAIN_S", 1.0)  # instead of 10
    monkeypatch.setattr(lifecycle, "CLOSE_S", 0.5)
    async with open_set(tmp_path, 1, election_mode=ElectionMode.MANUAL) as replicas:
        face = await promoted(replicas, 1)
        submit = face.node.wal.submit
        face.node.wal.submit = lambda *args, **how: None  # type: ignore[method-assign]
        got: list[ev.Outcome] = []
        face.submit_writes(frame(face, [put(1)]), lambda _, outcome: got.append(outcome), 30.0)
        with trio.fail_after(15):
            await replicas.stop(number_of(face))
        face.node.wal.submit = submit  # type: ignore[method-assign]
        assert len(got) == 1 and isinstance(got[0], ev.OutcomeUnknown) and got[0].txn is None


async def test_a_stop_during_a_take_over_ends(tmp_path: Path) -> None:
    """A PROMOTE that is pending stays so; its caller hears that it may still be decided."""
    async with open_set(tmp_path, election_mode=ElectionMode.MANUAL) as replicas:
        face = await promoted(replicas, 3)
        heir = next(other for other in replicas.nodes if other is not face)
        outcomes: list[ev.Outcome] = []
        heir.submit(ev.PromoteRequested, outcomes.append)
        await replicas.stop(number_of(heir))
        assert len(outcomes) == 1


async def test_a_stop_while_the_log_is_opened_serves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between recovery and the first call: who is asked to end then does not say that it is ready."""
    async with open_set(tmp_path, 1, election_mode=ElectionMode.MANUAL) as replicas:
        await replicas.stop(number_of(await promoted(replicas, 1)))

        def open_log(*args: Any, **how: Any) -> FailingJournal:
            trio.from_thread.run_sync(replicas.members["instance001"].stop.set)
            return FailingJournal(*args, **how)

        monkeypatch.setattr(lifecycle, "FailingJournal", open_log)
        with structlog.testing.capture_logs() as records:
            await replicas.start(1)
            await replicas.members["instance001"].ended.wait()
        said = [record["event"] for record in records]
        assert "instance_stopped" in said and "instance_ready" not in said
