"""What an instance says of its sources, and of what it waits for. [A-28], [A-64], [M-19], [M-43]."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from synchro.cli.picture import assemble
from synchro.cli.verdict import judge
from synchro.config import ElectionMode, PeerAddress, told_value
from synchro.failpoints import REGISTRY
from synchro.server import face as face_module
from synchro.server import reminders as reminders_module
from synchro.server.applier import RECONNECT_MAX_S, Status
from synchro.server.face import Face
from tests.shell.memory_set import appliers_of, open_set, until
from tests.shell.test_orphan import a_pair, masters

Records = list[Any]


def said(records: Records, instance: str, event: str) -> Records:
    return [one for one in records if one.get("instance") == instance and one["event"] == event]


def messages(records: Records, instance: str, event: str) -> list[str]:
    return [one["message"] for one in said(records, instance, event)]


async def test_a_stream_is_told_from_the_first_attempt_on(tmp_path: Path) -> None:
    """[A-64]: the words connecting, subscribed, following, and of a lost one how soon it is tried again."""
    with structlog.testing.capture_logs() as records:
        async with masters(tmp_path, reconnect_timeout_s=0.25) as replicas:
            _, two = await a_pair(replicas)
            (applier,) = appliers_of(two)
            await until(lambda: applier.status is Status.FOLLOW)
            assert messages(records, "instance002", "upstream_connecting") == [
                "connecting to instance001 at instance001"
            ]
            assert messages(records, "instance002", "upstream_subscribed")[0].startswith(
                "subscribed to instance001 at instance001 from {"
            )
            assert messages(records, "instance002", "upstream_following")[0].startswith(
                "following instance001"
            )
            before = len(said(records, "instance002", "upstream_retry"))
            await replicas.stop(1)
            await until(lambda: len(said(records, "instance002", "upstream_retry")) > before)
    retry = said(records, "instance002", "upstream_retry")[before]
    assert retry["message"].endswith("; will retry every 0.25 second or sooner")
    assert retry["retry_s"] == 0.25


async def test_one_that_listens_elsewhere_by_now_is_told(tmp_path: Path) -> None:
    """It follows, and says where it listens; who calls it finds nobody where its own file has it."""
    with structlog.testing.capture_logs() as records:
        async with masters(tmp_path, reconnect_timeout_s=0.05) as replicas:
            _, two = await a_pair(replicas)
            settings = two.node.settings
            await replicas.stop(2)
            await replicas.start_at("elsewhere", settings)
            words = "it says that it listens at elsewhere: change the file"
            await until(
                lambda: any(words in text for text in messages(records, "instance001", "upstream_retry"))
            )


async def test_one_that_stays_away_is_told_once_not_with_each_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of attempts an hour are one record, and then one a minute."""
    with structlog.testing.capture_logs() as records:
        async with masters(tmp_path, reconnect_timeout_s=0.02) as replicas:
            _, two = await a_pair(replicas)
            (applier,) = appliers_of(two)
            await replicas.stop(1)
            attempts = 0
            address = applier.address.address
            ask = two.node.transport.get_ballot

            async def count(to: str) -> Any:
                nonlocal attempts
                attempts += to == address
                return await ask(to)

            monkeypatch.setattr(two.node.transport, "get_ballot", count)
            await until(lambda: attempts > 30)
    assert len(said(records, "instance002", "upstream_retry")) <= 8
    assert len(said(records, "instance002", "upstream_connecting")) <= 2


async def test_a_second_address_of_a_source_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing fails: the instance is followed at the other one."""
    monkeypatch.setattr(reminders_module, "AGAIN_S", 0.0)
    with structlog.testing.capture_logs() as records:
        async with masters(tmp_path, reconnect_timeout_s=0.02) as replicas:
            _, two = await a_pair(replicas)
            replicas.network.endpoints["alias"] = replicas.members["instance001"].peers
            both = (*two.node.settings.peers, PeerAddress("alias", "alias"))
            await replicas.stop(2)
            attempts = 0
            two = await replicas.start(2, peers=both)
            ask = two.node.transport.get_ballot

            async def count(to: str) -> Any:
                nonlocal attempts
                attempts += to == spare(two)
                return await ask(to)

            monkeypatch.setattr(two.node.transport, "get_ballot", count)
            await until(lambda: bool(spare(two)))
            before = len(said(records, "instance002", "upstream_retry"))
            await until(lambda: attempts > 10)
            assert len(said(records, "instance002", "upstream_retry")) == before
    assert len(said(records, "instance002", "upstream_waits")) == 1


def spare(face: Face) -> str:
    """The address that is not used."""
    return next(
        (one.address.address for one in appliers_of(face) if "is the same instance" in (one.message or "")),
        "",
    )


async def test_each_attempt_at_a_lost_link_waits_as_long_as_it_is_told(tmp_path: Path) -> None:
    """[A-28]: not only the first one after the loss."""
    async with masters(tmp_path, reconnect_timeout_s=0.02) as replicas:
        _, two = await a_pair(replicas)
        (applier,) = appliers_of(two)
        await until(lambda: applier.status is Status.FOLLOW)
        await replicas.stop(1)
        await until(lambda: applier.status is Status.DISCONNECTED)
        await trio.sleep(0.2)
        two.node.change_settings(replace(two.node.settings, reconnect_timeout_s=3600.0))
        await until(lambda: (applier.next_attempt_s or 0.0) > 100 * RECONNECT_MAX_S)
        assert applier.facts()["next_attempt"] <= 3600.0


async def test_an_orphan_says_for_whom_since_when_and_when_it_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_module, "AGAIN_S", 0.1)
    with structlog.testing.capture_logs() as records:
        async with masters(tmp_path) as replicas:
            await a_pair(replicas)
            await replicas.stop(1)
            await replicas.stop(2)
            two = await replicas.start(2, connect_timeout_s=600.0, reconnect_timeout_s=5.0)
            await until(lambda: two.node.is_ready and two.info()["status"] == "orphan")
            facts = two.info()["waiting"]
            assert facts["for"].startswith("it waits for instance001 (away for ")
            assert 0.0 <= facts["since"] < 60.0
            await until(lambda: two.info()["waiting"]["next"] is not None)
            assert two.info()["waiting"]["next"] <= 5.0
            await until(lambda: any("; will retry in " in text for text in reminders(records)))
            seen = judge(assemble({"b": two.info()}, {"b": "instance002"}, None))
            (problem,) = [problem for problem in seen.problems if problem.kind == "orphan"]
            assert " (for " in problem.text
            assert "next attempt in" in problem.text
    assert any(text.startswith("it waits for instance001") for text in reminders(records))


def reminders(records: Records) -> list[str]:
    return messages(records, "instance002", "still_waiting")


async def test_a_first_start_says_since_when_it_waits(tmp_path: Path) -> None:
    async with open_set(tmp_path, connect_timeout_s=600.0) as replicas:
        one = await replicas.start(1)
        await until(lambda: bool(one.node.waits_for))
        facts = one.info()["waiting"]
        assert facts["for"] == one.info()["waits_for"]
        began = facts["since"]
        await trio.sleep(0.3)
        assert one.info()["waiting"]["since"] >= began + 0.25, "a new round is not a new wait"
        assert one.info()["waiting"]["next"] <= 0.1
        await replicas.start(2)
        await replicas.start(3)
        await until(lambda: one.node.is_ready)
        assert one.info()["waiting"] is None


async def test_one_that_reads_its_files_says_so(tmp_path: Path) -> None:
    """[M-19]"""
    async with open_set(tmp_path, size=1) as replicas:
        one = await replicas.start(1)
        await until(lambda: one.node.is_ready)
        await replicas.stop(1)
        REGISTRY.set("recovery.delay")
        try:
            one = await replicas.start(1)
            await until(lambda: REGISTRY.armed["recovery.delay"].waiting > 0)
            assert one.info()["waiting"]["for"] == "its data (stage: recovery)"
            assert one.info()["waiting"]["next"] is None
        finally:
            REGISTRY.clear()
        await until(lambda: one.node.is_ready)


async def test_one_without_the_end_of_its_log_says_whom_it_must_hear(tmp_path: Path) -> None:
    """ADR 9: `waiting_for_own_rows`."""
    async with open_set(tmp_path) as replicas:
        faces = [await replicas.start(number) for number in (1, 2, 3)]
        await replicas.wait_leader()
        await replicas.wait_ready()
        faces[0].node.directory.set_amnesia(True)
        await replicas.kill(1, 2, 3)
        one = await replicas.start(1)
        await until(lambda: one.node.is_ready and one.info()["status"] == "waiting_for_own_rows")
        facts = one.info()["waiting"]
        assert "it must hear " in facts["for"] and "instance002 (was not heard yet)" in facts["for"]
        assert facts["since"] >= 0.0


async def test_a_join_is_told_by_the_joiner(tmp_path: Path) -> None:
    """[A-64]: from whom, and what has come."""
    with structlog.testing.capture_logs() as records:
        async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
            one, two = await replicas.start(1), await replicas.start(2)
            await until(lambda: one.node.is_ready and two.node.is_ready)
            joiner, source = sorted((one, two), key=lambda face: -face.node.core.self_id)
            name = joiner.node.settings.instance_name
    (joining,) = messages(records, name, "joining")
    assert joining == (
        f"bootstrapping replica from {source.node.uuid} at {source.node.settings.instance_name}"
    )
    assert messages(records, name, "join_initial_data_received") == ["initial data received"]
    assert messages(records, name, "join_final_data_received") == ["final data received"]
    assert messages(records, name, "instance_ready") == ["ready to accept requests"]
    (sources,) = messages(records, name, "sources_set")
    assert sources.startswith("set 'replication' configuration option to [\"instance00")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (
            "replication.peers",
            ["127.0.0.1:3301"],
            "set 'replication' configuration option to [\"127.0.0.1:3301\"] (replication.peers)",
        ),
        (
            "database.mode",
            "ro",
            "set 'read_only' configuration option to true (database.mode: ro)",
        ),
        (
            "database.mode",
            "rw",
            "set 'read_only' configuration option to false (database.mode: rw)",
        ),
        ("replication.timeout", 2.0, "set 'replication.timeout' configuration option to 2.0"),
        ("database.mode", None, "set 'database.mode' configuration option to null"),
    ],
)
def test_two_options_are_called_as_documents_have_them(key: str, value: object, text: str) -> None:
    """[A-64], [C-30]"""
    assert told_value(key, value) == text
