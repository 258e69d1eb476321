"""The file of a running instance is read again, options are set, and tasks that wait by an option hear of it.
[C-30], [C-40]..[C-42], ADR 38."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from synchro import logs
from synchro.config.file import load_all
from synchro.errors import ConfigError, Loading
from synchro.ids import RequestId
from synchro.instance import events as ev
from synchro.process.live_config import LiveConfig
from synchro.server.face import Face
from tests.shell.memory_set import MemorySet, create_space, open_set, put, until, write

TOP = "replication: {failover: election, timeout: 0.1, election_timeout: 0.5, synchro_timeout: 3}\n"
GROUPS = """
groups: {g: {replicasets: {replicaset001: {instances: {
  instance001: {grpc: {listen: [{uri: '127.0.0.1:3301'}]}},
  instance002: {grpc: {listen: [{uri: '127.0.0.1:3302'}]}},
  instance003: {grpc: {listen: [{uri: '127.0.0.1:3303'}]}}}}}}}
"""


class World:
    def __init__(self, face: Face, config: LiveConfig, path: Path) -> None:
        self.face = face
        self.config = config
        self.path = path

    def edit(self, top: str) -> None:
        self.path.write_text(top + GROUPS)

    async def reload(self, top: str) -> dict[str, bool]:
        """Options that changed; True: they are in use."""
        self.edit(top)
        return {change.key: change.is_live for change in (await self.config.reload()).changes}

    async def set(self, key: str, value: str, *, force: bool = False) -> list[str]:
        return [str(change) for change in (await self.config.set(key, value, force=force)).changes]


@asynccontextmanager
async def one_instance(tmp_path: Path) -> AsyncIterator[World]:
    """Of three; it waits for the others, or leads alone: `loading` or `leading`."""
    path = tmp_path / "config.yaml"
    path.write_text(TOP + GROUPS)
    loaded = load_all(path, {})
    settings = loaded.instance("instance001").settings
    async with open_set(tmp_path, 1) as made:
        face = await made.start(1, **{name: getattr(settings, name) for name in ("replication_timeout_s",)})
        await made.wait_leader()
        face.node.configuration = config = LiveConfig(face.node, loaded)
        yield World(face, config, path)


async def refused(world: World, key: str, value: str, **how: bool) -> str:
    before = world.face.node.settings, world.config.facts()
    with pytest.raises(ConfigError) as caught:
        await world.set(key, value, **how)
    assert (world.face.node.settings, world.config.facts()) == before
    return caught.value.message


async def test_a_reload_uses_what_is_live_and_names_the_rest(tmp_path: Path) -> None:
    """[C-42]: a static option stays as it was, until a restart."""
    async with one_instance(tmp_path) as world:
        top = TOP.replace("synchro_timeout: 3", "synchro_timeout: 7") + "wal: {mode: write}\n"
        assert await world.reload(top) == {"wal.mode": False, "replication.synchro_timeout": True}
        node = world.face.node
        assert (node.settings.synchro_timeout_s, node.core.settings.synchro_timeout_s) == (7.0, 7.0)
        facts = world.face.info()["config"]
        assert facts["differs"] == {"wal.mode": {"running": "fsync", "file": "write"}}
        assert facts["status"] == "check_warnings"
        (alert,) = facts["alerts"]
        assert (
            alert["message"] == "non-dynamic option wal.mode will not be set until the instance is restarted"
        )
        assert facts["options"]["replication"]["synchro_timeout"] == 7.0
        assert facts["options"]["wal"]["mode"] == "fsync"
        assert await world.reload(TOP) == {"replication.synchro_timeout": True}
        assert (world.config.facts()["status"], world.config.facts()["differs"]) == ("ready", {})


@pytest.mark.parametrize(
    ("top", "text"),
    [
        (
            "replication: {failover: election,\n  timeout: -1}\n",
            "config.yaml:2: replication.timeout: the value",
        ),
        (
            "replication:\n  timeou: 1\n",
            "config.yaml:2: replication.timeou: unknown key (did you mean 'timeout'",
        ),
        ("replication: [\n", "config.yaml"),
        ("replication: {failover: supervised}\n", "supervised needs an external coordinator"),
    ],
)
async def test_a_file_that_cannot_be_used_leaves_everything_as_it_was(
    tmp_path: Path, top: str, text: str
) -> None:
    """[C-41]: file and line are named, also in the status."""
    async with one_instance(tmp_path) as world:
        settings, options = world.face.node.settings, world.config.facts()["options"]
        with pytest.raises(ConfigError) as caught:
            await world.reload(top)
        assert text in caught.value.message
        facts = world.config.facts()
        assert world.face.node.settings == settings and facts["options"] == options
        assert facts["status"] == "check_errors" and text in facts["alerts"][0]["message"]
        assert await world.reload(TOP) == {}
        assert world.config.facts()["status"] == "ready"


async def test_a_file_that_is_gone_or_without_the_instance(tmp_path: Path) -> None:
    async with one_instance(tmp_path) as world:
        settings = world.face.node.settings
        world.path.write_text((TOP + GROUPS).replace("instance001", "instance009"))
        with pytest.raises(ConfigError, match="no such instance"):
            await world.config.reload()
        world.path.unlink()
        with pytest.raises(ConfigError, match="cannot read the configuration"):
            await world.config.reload()
        assert world.face.node.settings == settings


async def test_a_value_that_is_set_holds_until_the_next_reload(tmp_path: Path) -> None:
    async with one_instance(tmp_path) as world:
        assert await world.set("replication.synchro_timeout", "1m") == [
            "replication.synchro_timeout: 3.0 -> 60.0"
        ]
        world.edit(TOP + "wal: {mode: write}\n")  # not reloaded: it is no business of the next one
        assert await world.set("log.level", "warn") == ['log.level: "info" -> "warning"']
        facts = world.config.facts()
        assert facts["set"] == {"replication.synchro_timeout": "1m", "log.level": "warn"}
        assert facts["differs"].keys() == {"replication.synchro_timeout", "log.level"}
        world.edit(TOP)
        compared = await world.config.compare(b"")
        assert {change.key for change in compared.changes} == facts["differs"].keys()
        assert await world.reload(TOP) == {"replication.synchro_timeout": True, "log.level": True}
        assert world.face.node.settings.synchro_timeout_s == 3.0
        assert world.config.facts()["set"] == {}


async def test_what_set_refuses_changes_nothing(tmp_path: Path) -> None:
    async with one_instance(tmp_path) as world:
        assert "needs a restart; nothing was changed" in await refused(world, "wal.mode", "write")
        assert "belongs to the replica set" in await refused(world, "bootstrap_leader", "instance001")
        assert "does not act on" in await refused(world, "replication.anon", "true")
        assert "did you mean 'timeout'" in await refused(world, "replication.timeou", "1")
        assert "cannot be used together" in await refused(world, "database.mode", "ro")
        assert "no majority of 3" in await refused(world, "replication.synchro_quorum", "1")
        assert "more than" in await refused(world, "log.level", "x" * 5000)
        assert await world.set("replication.synchro_quorum", "1", force=True)
        assert world.face.node.core.limbo.quorum == 1


async def test_one_at_a_time(tmp_path: Path) -> None:
    """[C-41]"""
    errors: list[str] = []

    async def reload(world: World) -> None:
        try:
            await world.config.reload()
        except ConfigError as error:
            errors.append(error.message)

    async with one_instance(tmp_path) as world:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload, world)
            nursery.start_soon(reload, world)
        assert errors == ["instance configuration is already in progress; nothing was changed"]


async def test_who_reads_its_files_has_no_ear(tmp_path: Path) -> None:
    async with one_instance(tmp_path) as world:
        world.face.node.stage = "stopping"
        with pytest.raises(Loading):
            await world.config.reload()
        world.face.node.stage = "ready"


async def test_the_log_level_changes_for_loggers_that_are_bound_already(tmp_path: Path) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.level
    logs.configure(stream=stream, level="info")
    log = logs.get_logger("node")
    try:
        async with one_instance(tmp_path) as world:
            for level, is_shown in (("error", False), ("debug", True), ("info", False)):
                await world.set("log.level", level)
                log.debug(f"at_{level}")
                logs.flush()
                events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
                assert (f"at_{level}" in events) == is_shown
    finally:
        logs.configure()
        root.setLevel(before)


# --- tasks that wait


def change(face: Face, **options: Any) -> None:
    face.node.change_settings(replace(face.node.settings, **options))


async def start_all(made: MemorySet) -> list[Face]:
    faces = [await made.start(number) for number in range(1, made_size(made) + 1)]
    await made.wait_ready()
    return faces


def made_size(made: MemorySet) -> int:
    return len(made.settings.peers)


async def test_a_first_start_waits_no_longer_than_it_is_told_now(tmp_path: Path) -> None:
    """[M-13]: `replication.connect_timeout` of two instances that wait an hour for the third."""
    async with open_set(tmp_path, 3, connect_timeout_s=3600.0) as made:
        faces = [await made.start(number) for number in (1, 2)]
        await until(lambda: all("connected to 2 of 3" in face.node.waits_for for face in faces))
        for face in faces:
            change(face, connect_timeout_s=0.01)
        await made.wait_leader()


async def test_a_shorter_heartbeat_is_kept_at_once(tmp_path: Path) -> None:
    """[A-25], [A-27]: after an hour between heartbeats nobody waits for the rest of it; a peer that falls
    silent is noticed by the new measure."""
    async with open_set(tmp_path, 2, replication_timeout_s=3600.0, election_timeout_s=0.2) as made:
        one, two = await start_all(made)
        await until(lambda: one.links.connected == 2 and two.links.connected == 2)
        for face in (one, two):
            change(face, replication_timeout_s=0.05)
        await until(lambda: one.links.doubles.death_s == 0.2)
        (relay,) = one.links.relays.values()
        heard = relay.heard_at
        await until(lambda: relay.heard_at > heard)
        await trio.sleep(0.5)
        assert one.links.connected == two.links.connected == 2
        change(two, replication_timeout_s=3600.0)  # it says nothing for an hour: dead for one after 0.2 s
        await until(lambda: one.links.connected == 1)
        change(two, replication_timeout_s=0.05)
        await until(lambda: one.links.connected == 2)


async def test_snapshots_come_by_the_new_interval(tmp_path: Path) -> None:
    """[W-30]: never by time, then soon; and no more than are to be kept."""
    async with open_set(tmp_path, 1, checkpoint_interval_s=0.0) as made:
        (one,) = await start_all(made)
        await made.wait_leader()
        await create_space(one)
        directory = tmp_path / "instance001"
        first = len(list(directory.glob("*.snap")))
        change(one, checkpoint_interval_s=0.05, checkpoint_count=5)
        for key in range(3):
            before = len(list(directory.glob("*.snap")))
            assert isinstance(await write(one, put(key)), ev.Committed)
            await until(lambda before=before: len(list(directory.glob("*.snap"))) > before)  # type: ignore[misc]
        assert len(list(directory.glob("*.snap"))) >= first + 3
        change(one, checkpoint_count=1)
        await write(one, put(9))
        await until(lambda: len(list(directory.glob("*.snap"))) == 1)


async def test_a_quorum_that_changes_is_told_to_the_owner(tmp_path: Path) -> None:
    """ADR 38: each member's quorum travels with its acks."""
    async with open_set(tmp_path, 3) as made:
        faces = await start_all(made)
        owner = await made.wait_leader()
        await until(lambda: owner.links.connected == 3)
        other = next(face for face in faces if face is not owner)
        formula = type(owner.node.settings.synchro_quorum)
        change(other, synchro_quorum=formula(1))
        await until(lambda: not owner.node.core.limbo.is_majority)
        change(other, synchro_quorum=formula(2))
        await until(lambda: owner.node.core.limbo.is_majority)


async def test_calls_are_bounded_by_the_new_limit(tmp_path: Path) -> None:
    async with open_set(tmp_path, 1) as made:
        (one,) = await start_all(made)
        await made.wait_leader()
        limits = one.node.settings.limits
        change(one, limits=replace(limits, waiting_calls_max=1))
        outcomes: list[ev.Outcome] = []
        for _ in range(3):
            one.submit(lambda call: ev.WaitRequested(call, request_id=RequestId(b"x" * 16)), outcomes.append)
        one.node.calls.check()
        change(one, limits=limits)
        assert one.node.settings.limits.waiting_calls_max == limits.waiting_calls_max
