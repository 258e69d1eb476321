"""An instance that runs, and whose peers have deleted the log that it needs, joins again by itself.
[M-35], [W-45], ADR 51."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from synchro.cli.picture import assemble
from synchro.cli.verdict import judge
from synchro.config import ElectionMode, Limits
from synchro.instance import events as ev
from synchro.row import RowType
from synchro.server.face import Face
from synchro.storage import row_body, schema
from synchro.storage.identity import Rejoin
from tests.shell.memory_set import MemorySet, appliers_of, create_space, open_set, put, until, write
from tests.shell.test_grpc_set import open_grpc_set

OPTIONS: dict[str, Any] = {
    "election_mode": ElectionMode.OFF,
    "checkpoint_count": 1,
    "replication_timeout_s": 0.1,
    "limits": Limits(relay_ring_bytes=1),  # what is not in files is gone
}


async def outrun(one: Face, two: Face) -> None:
    """The second of two masters missed rows, and the first has no log of them any more."""
    name = str(two.node.settings.instance_name)
    one.links.cut({name}, incoming=True, outgoing=True)
    await until(lambda: two.node.core.self_id not in one.links.relays)
    for key in range(3):
        assert isinstance(await write(one, put(key, "missed")), ev.Committed)
        await one.checkpoint()
    await one.replica_gc(name)
    assert not two.node.core.vclock.covers(one.node.wal.files[0].vclock)
    one.links.heal({name})


@asynccontextmanager
async def pair(directory: Path, **changes: Any) -> AsyncIterator[tuple[MemorySet, Face, Face]]:
    async with open_set(directory, 2, **(OPTIONS | changes)) as replicas:
        one, two = await replicas.start(1), await replicas.start(2)
        await until(lambda: all(face.node.is_ready and face.node.core.is_writable for face in (one, two)))
        await create_space(one, is_sync=False)
        await replicas.wait_equal()
        yield replicas, one, two


def lacks_rows(face: Face) -> bool:
    return any(applier.lacks_rows for applier in appliers_of(face))


async def test_it_comes_back_by_itself_in_the_same_process(tmp_path: Path) -> None:
    """Its service ends for a moment; ids, own rows and what it missed are there afterwards."""
    with structlog.testing.capture_logs() as records:
        async with open_grpc_set(tmp_path, 2, **OPTIONS) as nodes:
            one, two = nodes
            await until(lambda: all(f.node.is_ready and f.node.core.is_writable for f in nodes))
            await create_space(one, is_sync=False)
            made = one.node.core.vclock.without_local()
            await until(lambda: two.node.core.vclock.covers(made))
            assert isinstance(await write(two, put(100, "own")), ev.Committed)
            await until(lambda: one.node.core.memtx.count(512) == 1)
            number, had = two.node.core.self_id, two.node.core.vclock.without_local()
            await outrun(one, two)
            said: set[str] = set()

            def is_back() -> bool:
                said.update(record["event"] for record in records)
                return "joined_again" in said and number in one.links.following & one.links.relays.keys()

            await until(is_back)
            assert said >= {"rebootstrap_began", "rebootstrap_wanted", "joined_again"}
            mine = one.node.core.vclock.without_local()
            assert mine.covers(had)
            await until(lambda: one.links.holders_of(mine) == 1)
            assert one.node.core.memtx.count(512) == 4
    (joined,) = [record for record in records if record["event"] == "joined_again"]
    assert joined["id"] == number
    assert not [record for record in records if record["event"] == "amnesia_began"]


async def test_the_flag_is_on_disk_before_it_leaves(tmp_path: Path) -> None:
    """ADR 46: a crash in between starts as if it had been told to."""
    async with pair(tmp_path) as (replicas, one, two):
        await outrun(one, two)
        await replicas.members["instance002"].ended.wait()
        assert two.node.begins_anew
        assert two.node.directory.identity.rejoin is Rejoin.WANTED
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready and two.node.core.memtx.count(512) == 3)
        await replicas.wait_equal()


@pytest.mark.effect_of("replication.autorejoin")
async def test_an_option_leaves_it_to_a_person(tmp_path: Path) -> None:
    """It goes on serving what it has, at its start too; `status` names the command. Then the option is
    changed."""
    async with pair(tmp_path, autorejoin=False) as (replicas, one, two):
        await outrun(one, two)
        await until(lambda: lacks_rows(two))
        await trio.sleep(4 * two.node.settings.death_timeout_s)
        assert not replicas.members["instance002"].ended.is_set()
        await replicas.stop(2)
        two = await replicas.start(2, autorejoin=False)
        await until(lambda: two.node.is_ready and lacks_rows(two))
        seen = judge(assemble({"b": two.info()}, {"b": "instance002"}, None))
        (problem,) = [problem for problem in seen.problems if problem.kind == "log_gap"]
        assert problem.next == "synchro rebootstrap instance002"
        assert two.info()["joins_again_in"] is None
        two.node.change_settings(replace(two.node.settings, autorejoin=True))
        await replicas.members["instance002"].ended.wait()
        assert two.node.begins_anew


async def test_rows_that_only_it_has_keep_it_from_leaving(tmp_path: Path) -> None:
    """A row that the other one did not get is acknowledged, and would be gone."""
    async with pair(tmp_path) as (replicas, one, two):
        name = str(two.node.settings.instance_name)
        two.links.cut({"instance001"}, incoming=True, outgoing=True)
        assert isinstance(await write(two, put(50, "nowhere else")), ev.Committed)
        await outrun(one, two)
        two.links.heal({"instance001"})
        one.links.cut({name}, incoming=True, outgoing=False)  # its own rows do not leave
        await until(lambda: lacks_rows(two))
        await trio.sleep(4 * two.node.settings.death_timeout_s)
        assert not replicas.members["instance002"].ended.is_set()
        one.links.heal({name})
        await replicas.members["instance002"].ended.wait()
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready)
        await replicas.wait_equal()
        assert two.node.core.memtx.count(512) == 4, "three that it missed, and its own"


async def test_a_member_that_does_not_answer_may_have_the_log(tmp_path: Path) -> None:
    """It is waited for, for a `connect_timeout`."""
    async with pair(tmp_path, connect_timeout_s=600.0) as (replicas, one, two):
        nobody = replace(two.node.settings.peers[0], name="instance003", address="nobody")
        two.node.change_settings(replace(two.node.settings, peers=(*two.node.settings.peers, nobody)))
        await outrun(one, two)
        await until(lambda: lacks_rows(two))
        await trio.sleep(4 * two.node.settings.death_timeout_s)
        assert not replicas.members["instance002"].ended.is_set()
        assert 590 < two.info()["joins_again_in"] < 601
        (problem,) = [
            one
            for one in judge(assemble({"b": two.info()}, {"b": "instance002"}, None)).problems
            if one.kind == "log_gap"
        ]
        assert problem.next == "synchro status --watch"
        two.node.change_settings(replace(two.node.settings, connect_timeout_s=0.1))
        await replicas.members["instance002"].ended.wait()
        assert two.node.begins_anew


async def test_what_keep_local_keeps_is_given_up_by_a_word_only(tmp_path: Path) -> None:
    """[A-54]: neither while it runs nor at its start does it lose what was last written on it."""
    async with pair(tmp_path) as (replicas, one, two):
        row = (512, schema.ADMIN, "space512", "memtx", 0, {"conflict": "keep_local"}, ())
        alter = row_body.dml_from_values(RowType.REPLACE, schema.SPACE_ID, value=row)
        assert isinstance(await write(one, alter), ev.Committed)
        await replicas.wait_equal()
        assert isinstance(await write(two, put(1, "kept")), ev.Committed)
        await replicas.wait_equal()
        await outrun(one, two)
        await until(lambda: lacks_rows(two))
        await trio.sleep(4 * two.node.settings.death_timeout_s)
        assert not replicas.members["instance002"].ended.is_set()
        await replicas.stop(2)
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready and lacks_rows(two))
        assert two.node.core.memtx.get(512, 0, (1,)) == (1, "kept")
        seen = judge(assemble({"b": two.info()}, {"b": "instance002"}, None))
        (problem,) = [problem for problem in seen.problems if problem.kind == "log_gap"]
        assert problem.next == "synchro rebootstrap instance002 --discard"
        two.rebootstrap(discard=True)
        await replicas.members["instance002"].ended.wait()
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready)
        assert two.node.core.memtx.get(512, 0, (1,)) == (1, "missed")
