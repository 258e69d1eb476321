"""The file of a running instance is read again, options are set, and tasks that wait by an option hear of it.
[C-30], [C-40]..[C-42], ADR 38."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from synchro import logs
from synchro.config import ElectionMode
from synchro.config.file import ClusterConfig, load_all
from synchro.config.option import Effect
from synchro.config.options import TABLE
from synchro.config.template import config_of_flags, settings_without_file
from synchro.errors import ConfigError, Loading
from synchro.failpoints import REGISTRY
from synchro.instance import events as ev
from synchro.process import live_config
from synchro.process.live_config import LiveConfig
from synchro.ro_reason import RoReason
from synchro.secret import Secret
from synchro.server.face import Face
from synchro.threads import in_thread
from tests.shell.memory_set import create_space, open_set, put, until
from tests.unit.test_effects import ACTING, document, wrong_values

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


async def test_a_file_that_hangs_holds_up_reloads_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for a reload goes away, and asks again: the threads of other work are not used up."""
    answers = threading.Event()

    def hang(path: Path) -> ClusterConfig:
        assert answers.wait(60)
        return load_all(path, {})

    monkeypatch.setattr(live_config, "load_all", hang)
    async with one_instance(tmp_path) as world:
        try:
            for _ in range(60):
                with trio.move_on_after(0.01):
                    await world.config.reload()
            with trio.fail_after(20):
                assert await in_thread(lambda: 1) == 1
                assert await world.set("replication.synchro_timeout", "7")
        finally:
            answers.set()
        with trio.fail_after(20):
            assert await world.reload(TOP) == {"replication.synchro_timeout": True}


async def test_users_change_by_a_reload_and_not_by_set(tmp_path: Path) -> None:
    """[C-43]; and their passwords are told to nobody."""
    async with one_instance(tmp_path) as world:
        node = world.face.node
        assert await world.reload(TOP + "credentials: {users: {app: {password: secret}}}\n") == {
            "credentials": True
        }
        await until(lambda: node.users.find("app") is not None)
        await world.set("replication.synchro_timeout", "1m")
        assert node.settings.credentials is not None
        assert node.settings.credentials.password_of("app") == Secret("secret")
        assert "secret" not in json.dumps(world.config.facts()) + repr(node.settings)
        await world.reload(TOP)
        await until(lambda: node.users.find("app") is None)


async def test_what_set_refuses_changes_nothing(tmp_path: Path) -> None:
    async with one_instance(tmp_path) as world:
        assert "needs a restart; nothing was changed" in await refused(world, "wal.mode", "write")
        assert "belongs to the replica set" in await refused(world, "bootstrap_leader", "instance001")
        for option in (option for option in TABLE if option.effect is Effect.LATER):
            assert "does not act on" in await refused(world, option.key, "1")
        assert "after bootstrap has finished" in await refused(world, "replication.anon", "true")
        assert "did you mean 'timeout'" in await refused(world, "replication.timeou", "1")
        assert "cannot be used together" in await refused(world, "database.mode", "ro")
        assert "no majority of 3" in await refused(world, "replication.synchro_quorum", "1")
        assert "more than" in await refused(world, "log.level", "x" * 5000)
        assert await world.set("replication.synchro_quorum", "1", force=True)
        assert world.face.node.core.limbo.quorum == 1


async def test_a_linearizable_quorum_that_is_too_low_is_refused(tmp_path: Path) -> None:
    """[Q-34]: by `set` and by a reload, directly and by a lower quorum; what is advised is taken."""
    async with one_instance(tmp_path) as world:
        why = "the lowest legal value is 2 (N - Q + 1)"
        assert why in await refused(world, "replication.linearizable_quorum", "1")
        assert why in await refused(world, "replication.linearizable_quorum", "N - Q", force=True)
        assert await world.set("replication.linearizable_quorum", "2")
        before = world.face.node.settings
        low = await refused(world, "replication.synchro_quorum", "1", force=True)
        assert "the lowest legal value is 3 (N - Q + 1)" in low
        with pytest.raises(
            ConfigError, match=r"config.yaml:2: replication.linearizable_quorum: .* value is 2 "
        ):
            await world.reload(TOP.replace("timeout: 0.1", "timeout: 0.1,\n  linearizable_quorum: N / 3"))
        assert world.face.node.settings == before
        assert await world.set("replication.linearizable_quorum", "N - Q + 1")
        assert await world.set("replication.synchro_quorum", "1", force=True)


async def test_members_that_the_file_does_not_name_count_too(tmp_path: Path) -> None:
    """[Q-34], ADR 17: a file of two instances in a set that has grown to three. What was enough before counts
    as N - Q + 1 since; what would be too low now is refused, and what is advised is taken."""
    text = "replication: {failover: election, linearizable_quorum: 1, synchro_quorum: 2}\n"
    text += GROUPS.replace("  instance003: {grpc: {listen: [{uri: '127.0.0.1:3303'}]}}", "")
    path = tmp_path / "config.yaml"
    path.write_text(text)
    loaded = load_all(path, {})
    formulas = loaded.instance("instance001").settings
    kept: dict[str, Any] = {
        "linearizable_quorum": formulas.linearizable_quorum,
        "synchro_quorum": formulas.synchro_quorum,
    }
    async with open_set(tmp_path, 3) as made:
        faces = [await made.start(number, **(kept if number == 1 else {})) for number in (1, 2, 3)]
        await made.wait_leader()
        node = faces[0].node
        await until(lambda: node.has_core and len(node.core.registered) == 3)
        node.configuration = config = LiveConfig(node, loaded)
        world = World(faces[0], config, path)
        assert node.settings.read_quorum(3) == 2
        facts = config.facts()
        assert facts["status"] == "check_warnings"
        assert (
            "lowest legal value is 2 (N - Q + 1); as many as that are asked" in facts["alerts"][0]["message"]
        )
        assert await world.set("replication.synchro_timeout", "9")  # says nothing of reads
        assert "lowest legal value is 2" in await refused(world, "replication.linearizable_quorum", "N - Q")
        low = await refused(world, "replication.synchro_quorum", "1", force=True)
        assert "lowest legal value is" in low
        how = await refused(world, "replication.linearizable_quorum", "N / 3 + 0.5")
        key, value = "replication.linearizable_quorum", "N - Q + 1"
        assert how.endswith(f"Next: synchro config set {key} '{value}'")
        await world.set(key, value)
        assert config.facts()["status"] == "ready"
        before = node.settings
        path.write_text(text.replace("linearizable_quorum: 1", "linearizable_quorum: N / 3 + 0.5"))
        with pytest.raises(ConfigError) as caught:
            await config.reload()
        assert node.settings == before
        assert caught.value.message.endswith(f"Next: change {path}, then: synchro config reload {path}")
        path.write_text(text.replace("linearizable_quorum: 1", "linearizable_quorum: N - Q + 1"))
        await config.reload()
        assert config.facts()["status"] == "ready"


async def test_anonymous_instances_are_in_no_majority(tmp_path: Path) -> None:
    """[Q-32], [C-22]: two of three members are one, whoever follows them."""
    async with one_instance(tmp_path) as world:
        more = "".join(
            f", copy{n}: {{replication: {{anon: true}}, grpc: {{listen: [{{uri: '127.0.0.1:330{n}'}}]}}}}"
            for n in (4, 5)
        )
        head, end = GROUPS.rstrip().split("'127.0.0.1:3303'}]}}")
        world.path.write_text(TOP + head + "'127.0.0.1:3303'}]}}" + more + end)
        await world.config.reload()
        assert await world.set("replication.synchro_quorum", "2")
        assert "no majority of 3" in await refused(world, "replication.synchro_quorum", "1")


IMPOSSIBLE = [
    "replication: {failover: election}\ndatabase: {mode: rw}\n",
    "replication: {failover: off, election_mode: voter}\n",
    "replication: {failover: election, synchro_quorum: 4}\n",
    "replication: {failover: election, bootstrap_strategy: config}\n",
    "replication: {failover: election, peers: ['127.0.0.1:3302', '127.0.0.1:3302']}\n",
    "replication: {failover: supervised}\n",
    "replication: {failover: election}\nwal: {mode: none}\n",
    "replication: {failover: election}\ngrpc: {tls: {cert: c.pem}}\n",
    "replication: {failover: election}\nlimits: {nothing_max: 1}\n",
    "replication: {failover: election, timeout: 1, timeout: 2}\n",
    "groups: [\n",
    "",
]
"""Options that cannot go together, and what is no configuration at all."""


async def test_no_wrong_edit_changes_what_runs(tmp_path: Path) -> None:
    """[C-41]: of each option a value of a wrong type, or beyond its ends, by file and by `set`; and pairs."""
    async with one_instance(tmp_path) as world:
        before = world.face.node.settings, world.config.facts()["options"]
        texts = [text + GROUPS for text in IMPOSSIBLE[:-2]] + IMPOSSIBLE[-2:]
        for number, option in enumerate(ACTING):
            values = wrong_values(option)
            value = values[number % len(values)]
            texts.append(json.dumps(document(option, value)))
            with pytest.raises(ConfigError):
                await world.set(option.key, json.dumps(value), force=True)
        for text in texts:
            world.path.write_text(text)
            with pytest.raises(ConfigError):
                await world.config.reload()
            assert world.config.facts()["status"] == "check_errors"
        assert (world.face.node.settings, world.config.facts()["options"]) == before
        assert world.config.facts()["set"] == {} == world.config.facts()["differs"]
        assert await world.reload(TOP) == {}


async def test_who_was_started_by_flags_has_options_to_set_and_nothing_to_reload(tmp_path: Path) -> None:
    async with one_instance(tmp_path) as world:
        node = world.face.node
        settings = settings_without_file(
            listen="127.0.0.1:3301",
            data_dir=tmp_path,
            replication="u:secret@127.0.0.1:3302",
            name="instance001",
        )
        config = LiveConfig(node, config_of_flags(settings, "u:secret@127.0.0.1:3302"))
        assert config.facts()["file"] is None and config.facts()["differs"] == {}
        [source] = config.facts()["options"]["replication"]["peers"]
        assert source.startswith("u:") and source.endswith("@127.0.0.1:3302")
        assert "secret" not in str(config.facts())
        done = await config.set("replication.peers", "[]", force=False)
        assert [str(change) for change in done.changes] == [f'replication.peers: ["{source}"] -> []']
        assert not node.settings.peers
        await config.set("replication.peers", "['v:other@127.0.0.1:3303']", force=False)
        assert [peer.address for peer in node.settings.peers] == ["127.0.0.1:3303"]
        login = node.settings.peer_logins.of("127.0.0.1:3303")
        assert login is not None and login.user == "v" and "other" not in str(config.facts())
        await config.set("replication.peers", "[]", force=False)
        await config.set("replication.timeout", "300ms", force=False)
        assert (node.settings.replication_timeout_s, node.settings.peers) == (0.3, ())
        for nothing in (config.reload, partial(config.compare, b"")):
            with pytest.raises(ConfigError, match="started without a file"):
                await nothing()
        with pytest.raises(ConfigError, match="start it with --config FILE"):
            await config.set("wal.mode", "write", force=False)


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


@pytest.mark.effect_of("log.level")
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


async def test_an_option_that_is_set_is_no_reading_of_the_file(tmp_path: Path) -> None:
    """Autoexpel.A1: who joined since stands in a newer file, and is not left out by `config set`."""
    async with one_instance(tmp_path) as world:
        node = world.face.node
        before = node.config_reads
        await world.set("log.level", "debug")
        await world.set("replication.timeout", "0.2")
        assert node.config_reads == before
        await world.reload(TOP)
        assert node.config_reads == before + 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("grpc", "{advertise: {peer: {login: x, password: hunter2}}}"),
        ("grpc.advertise.peer", "{login: x, password: hunter2}"),
        ("iproto.advertise.peer", "{login: x, password: hunter2}"),
        ("credentials", "{users: {eve: {password: hunter2, roles: [super]}}}"),
        ("credentials.users.eve.password", "hunter2"),
        ("app.cfg", "{password: hunter2}"),
        ("wal", "{mode: write}"),
    ],
)
async def test_a_group_of_options_is_not_set(tmp_path: Path, key: str, value: str) -> None:
    """It may hold a password, which `info config` would show, or what needs a restart; it was taken without
    a word."""
    async with one_instance(tmp_path) as world:
        before = world.face.node.settings
        with pytest.raises(ConfigError, match="is no single option"):
            await world.set(key, value)
        assert world.face.node.settings == before
        assert world.config.facts()["set"] == {} and "hunter2" not in str(world.config.facts())


async def test_a_file_that_cannot_be_reached_holds_up_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file system does not answer: who asked is gone some time, and then the next one may ask."""
    answers = threading.Event()

    def stuck(path: str) -> ClusterConfig:
        answers.wait()
        return load_all(path)

    async with one_instance(tmp_path) as world:
        monkeypatch.setattr(live_config, "load_all", stuck)
        try:
            with trio.move_on_after(0.1) as waited:
                await world.config.reload()
        finally:
            answers.set()
        assert waited.cancelled_caught
        assert await world.reload(TOP.replace("synchro_timeout: 3", "synchro_timeout: 7")) == {
            "replication.synchro_timeout": True
        }


@asynccontextmanager
async def one_master(tmp_path: Path) -> AsyncIterator[World]:
    """No elections; it has an asynchronous space, and a write that its disk does not take yet."""
    path = tmp_path / "config.yaml"
    path.write_text("replication: {failover: off}\ndatabase: {mode: rw}\n" + GROUPS)
    async with open_set(tmp_path, 1) as made:
        face = await made.start(1, election_mode=ElectionMode.OFF, read_only=False)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        await create_space(face, is_sync=False)
        face.node.configuration = config = LiveConfig(face.node, load_all(path, {}))
        try:
            REGISTRY.set("wal.delay")
            face.submit_writes([ev.ClientWrite(face.new_call_id(), [put(1)])], lambda *_: None, 10.0)
            await until(lambda: REGISTRY.waiting("wal.delay") > 0)
            yield World(face, config, path)
        finally:
            REGISTRY.clear()


@pytest.mark.parametrize("way", ["set", "reload"])
async def test_who_takes_no_more_writes_answers_when_those_under_way_are_on_its_disk(
    tmp_path: Path, way: str
) -> None:
    """[C-30], CF-2: from the answer on its signature stands."""
    async with one_master(tmp_path) as world, trio.open_nursery() as nursery:
        node, answered = world.face.node, trio.Event()
        written = node.wal.vclock

        async def change() -> None:
            if way == "set":
                compared = await world.config.set("database.mode", "ro", force=False)
            else:
                world.edit("replication: {failover: off}\ndatabase: {mode: ro}\n")
                compared = await world.config.reload()
            assert compared.warnings == []
            assert node.wal.vclock != written
            answered.set()

        nursery.start_soon(change)
        await until(lambda: node.ro_reason is RoReason.CONFIG)
        await trio.testing.wait_all_tasks_blocked()
        assert not answered.is_set()
        REGISTRY.clear()
        await answered.wait()


async def test_a_disk_that_does_not_take_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_config, "SETTLE_S", 0.05)
    async with one_master(tmp_path) as world:
        compared = await world.config.set("database.mode", "ro", force=False)
        (warning,) = compared.warnings
        assert "Next: synchro wal sync instance001" in warning
        assert world.face.node.ro_reason is RoReason.CONFIG
