"""An instance that runs, and whose peers have deleted the log that it needs, joins again by itself.
[M-35], [W-45], ADR 51."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
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
from synchro.storage.disk import File, RealDisk
from synchro.storage.identity import Rejoin
from synchro.storage.names import IDENTITY_NAME
from tests.shell.memory_set import Member, MemorySet, appliers_of, create_space, open_set, put, until, write
from tests.shell.test_grpc_set import open_grpc_set

OPTIONS: dict[str, Any] = {
    "election_mode": ElectionMode.OFF,
    "checkpoint_count": 1,
    "replication_timeout_s": 0.1,
    "limits": Limits(relay_ring_bytes=1),  # what is not in files is gone
}


async def outrun(stay: Sequence[Face], left: Sequence[Face], then: Any = None) -> None:
    """Those who are left missed rows of the first, and who stays has no log of them any more. then: what the
    first does before it writes them."""
    one = stay[0]
    names = {str(face.node.settings.instance_name) for face in left}
    numbers = {face.node.core.self_id for face in left}
    for face in stay:
        face.links.cut(names, incoming=True, outgoing=True)
    await until(lambda: not any(numbers & face.links.relays.keys() for face in stay))
    if then is not None:
        await one.call(then, timeout_s=10.0)
    for key in range(3):
        assert isinstance(await write(one, put(key, "missed")), ev.Committed)
        await until(lambda: len({face.node.core.vclock.shown() for face in stay}) == 1)
        for face in stay:
            await face.checkpoint()
    for face in stay:
        for name in names:
            await face.replica_gc(name)
    for face in stay:
        assert not any(late.node.core.vclock.covers(face.node.wal.files[0].vclock) for late in left)
        face.links.heal(names)


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
            await outrun([one], [two])
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
        await outrun([one], [two])
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
        await outrun([one], [two])
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
        await outrun([one], [two])
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
        await outrun([one], [two])
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


async def test_what_keep_local_keeps_waits_for_a_word_and_is_written_down(tmp_path: Path) -> None:
    """[A-54]: neither while it runs nor at its start does it lose what was last written on it."""
    async with pair(tmp_path) as (replicas, one, two):
        row = (512, schema.ADMIN, "space512", "memtx", 0, {"conflict": "keep_local"}, ())
        alter = row_body.dml_from_values(RowType.REPLACE, schema.SPACE_ID, value=row)
        assert isinstance(await write(one, alter), ev.Committed)
        await replicas.wait_equal()
        assert isinstance(await write(two, put(1, "kept")), ev.Committed)
        await replicas.wait_equal()
        await outrun([one], [two])
        await until(lambda: lacks_rows(two))
        await trio.sleep(4 * two.node.settings.death_timeout_s)
        assert not replicas.members["instance002"].ended.is_set()
        await replicas.stop(2)
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready and lacks_rows(two))
        assert two.node.core.memtx.get(512, 0, (1,)) == (1, "kept")
        seen = judge(assemble({"b": two.info()}, {"b": "instance002"}, None))
        (problem,) = [problem for problem in seen.problems if problem.kind == "log_gap"]
        assert problem.next == "synchro rebootstrap instance002"
        two.rebootstrap(discard=False)
        await replicas.members["instance002"].ended.wait()
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready and bool(two.info()["kept_files"]))
        assert two.node.core.memtx.get(512, 0, (1,)) == (1, "missed")
        assert kept_tuples(two) == [("replace", "space512", [1, "kept"])]


async def keep_here(replicas: MemorySet, one: Face, two: Face) -> None:
    """The second has a tuple in a local space."""
    space = (600, schema.ADMIN, "own", "memtx", 0, {"group_id": 1}, ())
    index = (600, 0, "primary", "tree", {"unique": True}, ((0, "unsigned"),))
    for target, row in ((schema.SPACE_ID, space), (schema.INDEX_ID, index)):
        made = await write(one, row_body.dml_from_values(RowType.INSERT, target, value=row))
        assert isinstance(made, ev.Committed)
    await replicas.wait_equal()
    assert isinstance(await write(two, put(1, "here", space_id=600)), ev.Committed)


def kept_tuples(face: Face) -> list[Any]:
    """What was written down, [] while nothing was."""
    lines = [line for path in face.info()["kept_files"] for line in Path(path).read_text().splitlines()]
    return [(one["op"], one["space"], one["tuple"]) for one in map(json.loads, lines)]


async def test_a_local_tuple_that_came_after_the_last_look_is_written_down(tmp_path: Path) -> None:
    """The flag was on disk already: the start finds the tuple in the files, and keeps it beside the new
    ones."""
    async with pair(tmp_path) as (replicas, one, two):
        await keep_here(replicas, one, two)
        two.node.directory.want_rejoin(is_lossy=False)
        await replicas.stop(2)
        with structlog.testing.capture_logs() as records:
            two = await replicas.start(2)
            await until(lambda: two.node.is_ready and bool(two.info()["kept_files"]))
        assert two.node.core.memtx.count(600) == 0
        assert kept_tuples(two) == [("replace", "own", [1, "here"])]
        (kept,) = [record for record in records if record["event"] == "tuples_kept"]
        assert kept["message"].startswith("1 tuples of local spaces, which nobody else has, are in this file")
        assert [kept["file"]] == two.info()["kept_files"]


async def test_a_disk_that_does_not_take_them_keeps_the_old_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[M-35]: nothing goes before it is written down."""
    async with pair(tmp_path) as (replicas, one, two):
        await keep_here(replicas, one, two)
        two.node.directory.want_rejoin(is_lossy=True)
        await replicas.stop(2)
        create = RealDisk.create

        def full(disk: RealDisk, path: str) -> File:
            if ".kept.jsonl" in path:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            return create(disk, path)

        monkeypatch.setattr(RealDisk, "create", full)
        with structlog.testing.capture_logs() as records:
            two = await replicas.start(2)
            await until(lambda: two.node.is_ready)
        assert two.node.core.memtx.get(600, 0, (1,)) == (1, "here")
        assert two.node.directory.identity.rejoin is Rejoin.NO
        (given_up,) = [record for record in records if record["event"] == "rebootstrap_given_up"]
        assert given_up["message"] == (
            "1 tuples of local spaces could not be written down: No space left on device; the old data "
            "stays. Next: synchro rebootstrap instance002"
        )


async def test_who_has_tuples_of_local_spaces_waits_for_a_word(tmp_path: Path) -> None:
    """[D-4]: they are here only, and no row brings them back. So it stays as it is, at its start too."""
    async with pair(tmp_path) as (replicas, one, two):
        await keep_here(replicas, one, two)
        await outrun([one], [two])
        await until(lambda: lacks_rows(two))
        await trio.sleep(4 * two.node.settings.death_timeout_s)
        assert not replicas.members["instance002"].ended.is_set()
        await replicas.stop(2)
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready and lacks_rows(two))
        assert two.node.core.memtx.get(600, 0, (1,)) == (1, "here")
        seen = judge(assemble({"b": two.info()}, {"b": "instance002"}, None))
        (problem,) = [problem for problem in seen.problems if problem.kind == "log_gap"]
        assert problem.next == "synchro rebootstrap instance002"
        assert "goes into a file that `import` takes: 1 tuples of local spaces" in problem.text
        gone = row_body.dml_from_values(RowType.DELETE, 600, key=(1,))
        assert isinstance(await write(two, gone), ev.Committed)
        await replicas.members["instance002"].ended.wait()
        assert two.node.begins_anew, "with nothing of its own left it goes by itself"
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready and two.node.core.memtx.count(512) == 3)


async def come_back(replicas: MemorySet, *numbers: int) -> None:
    """Each ends, begins anew in its process, and has all."""
    left = [replicas.members[f"instance00{number}"] for number in numbers]
    while left:
        await until(partial(any_ended, left))
        ended = [member for member in left if member.ended.is_set()]
        for member in ended:
            assert member.face.node.begins_anew
            left.remove(member)
            await replicas.start(int(member.name.removeprefix("instance")))
    await until(lambda: all(f.node.is_ready and f.node.core.memtx.count(512) == 3 for f in replicas.nodes))
    others = len(replicas.nodes) - 1
    await until(lambda: all(len(f.links.following) == others for f in replicas.nodes))


def any_ended(members: list[Member]) -> bool:
    return any(member.ended.is_set() for member in members)


async def test_two_that_are_outrun_together_come_back_after_a_restart(tmp_path: Path) -> None:
    """One finds the other one running, and equally old; that one joins while it runs."""
    async with open_set(tmp_path, 3, **(OPTIONS | {"autorejoin": False})) as replicas:
        one, two, three = [await replicas.start(number) for number in (1, 2, 3)]
        await until(lambda: all(f.node.is_ready and f.node.core.is_writable for f in (one, two, three)))
        await create_space(one, is_sync=False)
        await replicas.wait_equal()
        await outrun([one], [two, three])
        await replicas.stop(2)
        with structlog.testing.capture_logs() as records:
            two = await replicas.start(2, autorejoin=True)
            await until(lambda: two.node.is_ready)
        assert "joined_again" in [r["event"] for r in records if r.get("instance") == "instance002"]
        three.node.change_settings(replace(three.node.settings, autorejoin=True))
        await come_back(replicas, 3)


@pytest.mark.long
async def test_two_of_five_come_back_and_one_of_them_was_the_owner(tmp_path: Path) -> None:
    """Outrun.T2: that it owns the queue no more stands in rows that it cannot get. Both see each other."""
    async with open_set(tmp_path, 5, **OPTIONS) as replicas:
        faces = [await replicas.start(number) for number in range(1, 6)]
        await until(lambda: all(f.node.is_ready and len(f.links.following) == 4 for f in faces))
        one, four, five = faces[0], faces[3], faces[4]
        await create_space(four)
        assert isinstance(await four.call(ev.PromoteRequested, timeout_s=10.0), ev.Promoted)
        await replicas.wait_equal()
        await outrun(faces[:3], [four, five], then=ev.PromoteRequested)
        assert four.node.core.limbo.owner_id == four.node.core.self_id != one.node.core.limbo.owner_id
        with structlog.testing.capture_logs() as records:
            await come_back(replicas, 4, 5)
            await trio.sleep(4 * one.node.settings.death_timeout_s)
        joined = [(r["instance"], r["peer"]) for r in records if r["event"] == "joined_again"]
        assert sorted(name for name, _ in joined) == ["instance004", "instance005"], "each of them once"
        assert joined[0][1] != "instance005", "who was outrun, too, has nothing to give"


class FullDisk(RealDisk):
    """No identity file is written while it is full."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False
        self.refused = 0

    def create(self, path: str) -> File:
        if self.is_full and IDENTITY_NAME in path:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().create(path)


async def test_a_disk_that_takes_no_flag_lets_it_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was done, so it goes on serving what it has, says so once, and tries again."""
    monkeypatch.setattr("synchro.server.outrun.PAUSE_S", 0.05)
    disk = FullDisk()
    with structlog.testing.capture_logs() as records:
        async with pair(tmp_path) as (replicas, one, two):
            await replicas.stop(2)
            two = await replicas.start(2, disk=disk)
            await until(lambda: two.node.is_ready)
            await replicas.wait_equal()
            disk.is_full = True
            await outrun([one], [two])
            await until(lambda: disk.refused >= 3 or replicas.members["instance002"].ended.is_set())
            assert not replicas.members["instance002"].ended.is_set()
            assert two.node.is_ready and not two.node.begins_anew
            (told,) = [record for record in records if record["event"] == "rebootstrap_not_begun"]
            assert os.strerror(errno.ENOSPC) in told["message"]
            disk.is_full = False
            await replicas.members["instance002"].ended.wait()
            assert two.node.begins_anew
            assert replicas.members["instance002"].error is None
