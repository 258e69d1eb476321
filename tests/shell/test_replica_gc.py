"""A person gives up the log that is kept for an instance that is away [W-44], [W-41]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synchro.errors import ReplicaGc
from synchro.instance import events as ev
from synchro.server.face import Face
from tests.shell.memory_set import MemorySet, open_set, put, until, write
from tests.shell.test_anonymous import follow
from tests.shell.test_members import number_of
from tests.shell.test_relay_applier import three


def kept_for(face: Face) -> dict[str, Any]:
    return {one["name"]: one["vclock"] for one in face.info()["gc"]["consumers"]}


async def fill(owner: Face) -> int:
    """Some files of the log, and a snapshot behind them; returns how many are left."""
    for key in range(3):
        assert isinstance(await write(owner, put(key)), ev.Committed)
        await owner.checkpoint()
    return len(owner.node.wal.files)


async def with_one_away(replicas: MemorySet) -> tuple[Face, Face]:
    owner, (away, _) = await three(replicas)
    await replicas.stop(number_of(away))
    await until(lambda: away.node.core.self_id not in owner.links.relays)
    return owner, away


async def test_the_log_of_one_that_is_away_is_given_up(tmp_path: Path) -> None:
    """The files go at once, until it subscribes again."""
    async with open_set(tmp_path, checkpoint_count=1) as replicas:
        owner, away = await with_one_away(replicas)
        name = str(away.node.settings.instance_name)
        count, had = await fill(owner), away.node.core.vclock
        assert had.covers(owner.node.wal.files[0].vclock)
        assert name in kept_for(owner)
        assert 0 < await owner.replica_gc(name) == count - len(owner.node.wal.files)
        assert not had.covers(owner.node.wal.files[0].vclock)
        assert name not in kept_for(owner)
        # Written again for it from the moment at which it is back.
        await replicas.start(number_of(away))
        await until(lambda: name in kept_for(owner))


async def test_what_it_refuses_changes_nothing(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        owner, (peer, _) = await three(replicas)
        before = kept_for(owner)
        for who, why in (
            (owner.node.settings.instance_name, "Cannot clean up self"),
            (owner.node.uuid, "Cannot clean up self"),
            (peer.node.uuid, "Replica is connected"),
            ("instance009", "Replica does not exist"),
            ("0", "Replica does not exist"),
        ):
            with pytest.raises(ReplicaGc, match=f"{why}; nothing was done"):
                await owner.replica_gc(who)
        assert kept_for(owner) == before


async def test_an_anonymous_follower_that_is_away_is_forgotten(tmp_path: Path) -> None:
    """[W-42]"""
    async with open_set(tmp_path) as replicas:
        owner, _ = await three(replicas)
        follower = await follow(replicas, 4)
        with pytest.raises(ReplicaGc, match="connected"):
            await owner.replica_gc("instance004")
        await replicas.stop(4)
        await until(lambda: owner.info()["replication_anon"]["instances"][follower.node.uuid].get("away"))
        await owner.replica_gc(follower.node.uuid)
        assert owner.info()["replication_anon"]["count"] == 0
        assert "instance004" not in kept_for(owner)
