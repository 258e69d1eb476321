"""Files of the log that stay, and that go: by age, by a delay after the start, by snapshots. [W-18], [W-30],
[W-40], [W-43]."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from synchro.config import KIB
from synchro.server.face import Face
from synchro.storage.disk import RealDisk
from synchro.storage.xlog import file_name
from synchro.vclock import Vclock
from tests.shell.memory_set import create_space, open_set, put, until, write

HOUR = 3600.0


def has_first_log(face: Face) -> bool:
    """The one that began with the set, which no snapshot of `written_alone` needs."""
    return (Path(face.node.settings.wal_dir) / file_name(Vclock())).exists()


def snapshots(face: Face) -> int:
    return len(list(Path(face.node.settings.wal_dir).glob("*.snap")))


def newest_snapshot(face: Face) -> Path:
    return max(Path(face.node.settings.wal_dir).glob("*.snap"))


def change(face: Face, **settings: Any) -> None:
    face.node.change_settings(replace(face.node.settings, **settings))


async def written_alone(replicas: Any) -> Face:
    """A set of one, three checkpoints behind: two snapshots, and all the log that they made superfluous."""
    face: Face = await replicas.start(1)
    await until(lambda: face.node.is_ready and face.node.core.is_writable)
    await create_space(face)
    for key in range(3):
        await write(face, put(key))
        await face.checkpoint()
    return face


async def test_what_nobody_needs_goes_with_the_checkpoint(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1) as replicas:
        face = await written_alone(replicas)
        assert snapshots(face) == 2 and not has_first_log(face)
        assert face.info()["wal"]["kept_for"] == ["snapshots"]


@pytest.mark.effect_of("wal.retention_period")
async def test_a_young_file_stays_until_the_period_is_shorter(tmp_path: Path) -> None:
    """[W-18]: snapshots go all the same; the option is live, and no checkpoint is needed for it."""
    async with open_set(tmp_path, size=1, wal_retention_period_s=HOUR) as replicas:
        face = await written_alone(replicas)
        assert snapshots(face) == 2 and has_first_log(face)
        found = face.info()["wal"]
        assert (found["files"], found["retention_period"]) == (4, HOUR)
        assert found["kept_for"] == ["wal.retention_period or wal.cleanup_delay"]
        assert found["bytes"] > 0 and found["oldest"] == {}
        change(face, wal_retention_period_s=0.0)
        await until(lambda: not has_first_log(face))
        await until(lambda: face.info()["wal"]["files"] < 4)


@pytest.mark.effect_of("wal.cleanup_delay")
async def test_after_a_start_nothing_goes_for_a_while(tmp_path: Path) -> None:
    """[W-43]"""
    async with open_set(tmp_path, size=1, wal_cleanup_delay_s=HOUR) as replicas:
        face = await written_alone(replicas)
        assert has_first_log(face)
        change(face, wal_cleanup_delay_s=0.0)
        await until(lambda: not has_first_log(face))


async def test_a_start_drops_what_became_old_while_it_was_down(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1, wal_retention_period_s=HOUR) as replicas:
        assert has_first_log(await written_alone(replicas))
        await replicas.stop(1)
        again = await replicas.start(1, wal_retention_period_s=0.0)
        await until(lambda: not has_first_log(again))


async def test_a_log_that_grew_is_a_reason_for_a_snapshot(tmp_path: Path) -> None:
    """[W-30]: one after each growth by more than the limit, and none without."""
    async with open_set(tmp_path, size=1, checkpoint_wal_size=4 * KIB) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        await create_space(face)
        await write(face, put(1))
        assert snapshots(face) == 1  # the first one of all
        assert 0 < face.info()["wal"]["since_snapshot"] < 4 * KIB
        await write(face, put(2, "x" * 5 * KIB))
        await until(lambda: snapshots(face) == 2)
        await until(lambda: face.info()["wal"]["since_snapshot"] < 4 * KIB)
        before = newest_snapshot(face)
        await replicas.stop(1)
        again = await replicas.start(1)
        await until(lambda: again.node.is_ready)
        assert newest_snapshot(again) == before


@pytest.mark.effect_of("snapshot.by.wal_size")
async def test_the_log_of_former_runs_counts_too(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        await create_space(face)
        await write(face, put(1, "x" * 8 * KIB))
        await replicas.stop(1)
        again = await replicas.start(1)
        await until(lambda: again.node.is_ready and again.info()["wal"]["since_snapshot"] > 8 * KIB)
        change(again, checkpoint_wal_size=4 * KIB)
        await until(lambda: snapshots(again) == 2)


async def test_a_disk_that_fails_at_an_old_file_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told; what becomes of the instance is decided where its log is written."""

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with open_set(tmp_path, size=1, wal_retention_period_s=HOUR) as replicas:
        face = await written_alone(replicas)
        monkeypatch.setattr(RealDisk, "rename", fail)
        with structlog.testing.capture_logs() as records:
            change(face, wal_retention_period_s=0.0)
            await until(lambda: any(record["event"] == "garbage_not_collected" for record in records))
        assert replicas.host.bugs == []
        monkeypatch.undo()
