"""An instance whose log is damaged starts with what lies before the damage, and trusts itself no more.
[W-22], ADR 9, ADR 51."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import structlog

from synchro.cli.app import run
from synchro.cli.picture import assemble
from synchro.cli.problems import Problem
from synchro.cli.verdict import judge
from synchro.config import ElectionMode
from synchro.errors import Corruption
from synchro.instance import events as ev
from synchro.server.face import Face
from synchro.storage.disk import FileBytes, RealDisk
from synchro.storage.xlog import XlogReader
from tests.shell.memory_set import create_space, open_set, put, until, write
from tests.shell.test_lost_logs import keys
from tests.shell.test_relay_applier import three


def damage(directory: Path, block: int) -> None:
    """A wrong bit in a block of the newest file of the log, counted from its end; all behind it is whole."""
    path = max(directory.glob("*.xlog"))
    data = FileBytes(RealDisk(), str(path))
    blocks = [one for one in XlogReader(data, data.size, str(path)).blocks() if one.payload]
    data.close()
    content = bytearray(path.read_bytes())
    content[blocks[-block].offset + 60] ^= 1
    path.write_bytes(bytes(content))


def left_out(face: Face) -> Problem:
    seen = judge(assemble({"b": face.info()}, {"b": str(face.node.settings.instance_name)}, None))
    (problem,) = [problem for problem in seen.problems if problem.kind == "left_out"]
    return problem


async def test_a_member_gets_from_the_others_what_it_left_out(tmp_path: Path) -> None:
    """Its acks do not count before it has all of it; then it is a member as before."""
    with structlog.testing.capture_logs() as records:
        async with open_set(tmp_path) as replicas:
            leader, (one, _) = await three(replicas)
            for key in range(10):
                await write(leader, put(key))
            await replicas.wait_equal()
            name = str(one.node.settings.instance_name)
            number = int(name[-3:])
            await replicas.stop(number)
            damage(tmp_path / name, 4)
            await replicas.start(number)
            await replicas.members[name].ended.wait()
            assert isinstance(replicas.members[name].error, Corruption)
            one = await replicas.start(number, force_recovery=True)
            await until(lambda: one.node.is_ready and keys(one) == list(range(10)))
            (cut,) = one.info()["left_out"]
            assert cut["rows"] >= 3
            assert cut["kept_as"][0].endswith(".xlog.damaged")
            assert "3 rows" in left_out(one).text or f"{cut['rows']} rows" in left_out(one).text
            await until(lambda: not one.node.directory.identity.amnesia)
            await replicas.wait_equal()
            assert one.info()["status"] == "running"
    mine = [record for record in records if record.get("instance") == name]
    (record,) = [record for record in mine if record["event"] == "rows_left_out"]
    assert (record["rows"], record["offset"]) == (cut["rows"], cut["offset"])
    assert "is corrupted at offset" in record["message"]


async def test_it_is_in_amnesia_before_anything_goes(tmp_path: Path) -> None:
    """ADR 9: alone, it does not lead with less than it once acknowledged."""
    async with open_set(tmp_path) as replicas:
        leader, (one, _) = await three(replicas)
        for key in range(10):
            await write(leader, put(key))
        await replicas.wait_equal()
        name = str(one.node.settings.instance_name)
        await replicas.kill(1, 2, 3)
        damage(tmp_path / name, 4)
        one = await replicas.start(int(name[-3:]), force_recovery=True)
        await until(lambda: one.node.is_ready)
        assert one.node.directory.identity.amnesia
        assert one.info()["status"] == "waiting_for_own_rows"
        assert keys(one) != list(range(10))


async def test_rows_that_nobody_has_can_be_applied_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `status` names is carried out: the rows behind the damage are operations then."""
    async with open_set(tmp_path, size=1, election_mode=ElectionMode.OFF) as replicas:
        one = await replicas.start(1)
        await until(lambda: one.node.is_ready and one.node.core.is_writable)
        await create_space(one, is_sync=False)
        for key in range(10):
            await write(one, put(key, f"value {key}"))
        await replicas.stop(1)
        damage(tmp_path / "instance001", 4)
        one = await replicas.start(1, force_recovery=True)
        await until(lambda: one.node.is_ready)
        assert keys(one) == list(range(6))
        command = shlex.split(left_out(one).next)
        assert command[:3] == ["synchro", "wal", "cat"]
        capsys.readouterr()
        assert run([*command[1:], "--origin", "1"]) in (0, 1)
        operations = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [one["tuple"] for one in operations] == [[key, f"value {key}"] for key in (7, 8, 9)]
        assert "--force-trust" in one.info()["amnesia"]["next"]  # it has nobody to ask
        await replicas.stop(1)
        one = await replicas.start(1, force_trust=True)
        await until(lambda: one.node.is_ready and one.node.core.is_writable)
        for key in (7, 8, 9):
            assert isinstance(await write(one, put(key, f"value {key}")), ev.Committed)
        await replicas.stop(1)
        again = await replicas.start(1)
        await until(lambda: again.node.is_ready)
        assert (keys(again), again.info()["left_out"]) == ([*range(6), 7, 8, 9], [])


@pytest.mark.parametrize("force_recovery", [False, True])
async def test_old_damage_costs_nothing_and_is_told_once(tmp_path: Path, force_recovery: bool) -> None:
    """[W-23], ADR 51: the snapshot has the rows of the file, so no row goes and nothing is forgotten."""
    with structlog.testing.capture_logs() as records:
        async with open_set(tmp_path, size=1, election_mode=ElectionMode.OFF) as replicas:
            one = await replicas.start(1)
            await until(lambda: one.node.is_ready and one.node.core.is_writable)
            await create_space(one, is_sync=False)
            for key in range(3):
                await write(one, put(key))
            await one.checkpoint()
            for key in range(3, 6):
                await write(one, put(key))
            await replicas.stop(1)
            oldest = min((tmp_path / "instance001").glob("*.xlog"))
            oldest.write_bytes(b"?" + oldest.read_bytes()[1:])
            for forced in (force_recovery, False):
                one = await replicas.start(1, force_recovery=forced)
                await replicas.wait_leader()
                assert keys(one) == list(range(6))
                assert one.info()["left_out"] == []
                assert not one.node.directory.identity.amnesia
                await replicas.stop(1)
    kept = list((tmp_path / "instance001").glob("*.damaged"))
    (told,) = [record for record in records if record["event"] == "old_log_set_aside"]
    assert told["files"] == (f"{oldest}.damaged",)
    assert [str(path) for path in kept] == list(told["files"])
    assert "nothing is lost" in told["message"]
    assert oldest.name in told["message"]


async def test_a_whole_log_is_started_from_as_ever(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as records:
        async with open_set(tmp_path, size=1, election_mode=ElectionMode.OFF) as replicas:
            one = await replicas.start(1)
            await until(lambda: one.node.is_ready)
            await replicas.stop(1)
            one = await replicas.start(1, force_recovery=True)
            await until(lambda: one.node.is_ready)
            assert not one.node.directory.identity.amnesia
    assert "force_recovery_unused" in [record["event"] for record in records]


@pytest.mark.parametrize("other", ["--force-trust", "--new-set", "--rejoin"])
@pytest.mark.parametrize("verb", ["start", "restart", "serve"])
def test_it_is_refused_with_what_means_something_else(
    verb: str, other: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    assert run(["init", str(tmp_path / "set"), "--nodes", "1"]) == 0
    config = tmp_path / "set" / "config.yaml"
    where = (
        ["--config", str(config), "--name", "instance001"] if verb == "serve" else [f"{config}:instance001"]
    )
    capsys.readouterr()
    assert run([verb, *where, "--force-recovery", other]) == 2
    said = capsys.readouterr().err
    assert f"--force-recovery and {other} exclude each other" in said
    assert "nothing was done" in said
