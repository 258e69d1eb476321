"""Masters that start write when they have caught up. [M-40]..[M-43], [M-45]..[M-47], ADR 46."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from synchro.config import ElectionMode, PeerAddress
from synchro.failpoints import REGISTRY
from synchro.ids import InstanceId, Lsn
from synchro.instance import events as ev
from synchro.ro_reason import RoReason
from synchro.server.applier import Applier, Status
from synchro.server.face import Face
from synchro.vclock import Vclock
from tests.shell.memory_set import MemorySet, appliers_of, create_space, open_set, put, until, write
from tests.shell.test_anonymous import follow


def masters(directory: Path, **changes: Any) -> AbstractAsyncContextManager[MemorySet]:
    """A pair without a queue, in which both write."""
    settings = {"election_mode": ElectionMode.OFF, "connect_timeout_s": 60.0} | changes
    return open_set(directory, size=2, **settings)


async def a_pair(replicas: MemorySet) -> tuple[Face, Face]:
    one, two = await replicas.start(1), await replicas.start(2)
    await until(lambda: is_writing(one) and is_writing(two))
    await create_space(one, is_sync=False)
    await replicas.wait_equal()
    return one, two


def is_writing(face: Face) -> bool:
    return face.node.is_ready and face.node.core.is_writable


async def refused(face: Face, key: int) -> str:
    outcome = await write(face, put(key))
    assert isinstance(outcome, ev.Rejected), outcome
    return outcome.error.message


async def test_who_comes_back_takes_what_it_missed_before_it_writes(tmp_path: Path) -> None:
    async with masters(tmp_path) as replicas:
        one, two = await a_pair(replicas)
        await replicas.stop(2)
        assert isinstance(await write(one, put(1, "new")), ev.Committed)
        REGISTRY.set("applier.subscribe_delay")
        try:
            two = await replicas.start(2)
            await until(lambda: two.node.is_ready)
            info = two.info()
            assert (info["status"], info["ro_reason"], info["ro"]) == ("orphan", "orphan", True)
            assert info["orphan"]["sources"][0]["name"] == "instance001"
            assert "it is an orphan: it has not caught up with instance001 yet" in await refused(two, 1)
        finally:
            REGISTRY.clear()
        await until(lambda: is_writing(two))
        assert two.info()["status"] == "running"
        assert two.info()["orphan"] is None
        assert two.node.core.memtx.catalog.space(512) is not None
        assert isinstance(await write(two, put(2)), ev.Committed)


async def test_of_a_pair_one_can_start_alone(tmp_path: Path) -> None:
    """It says for whom it waits; nobody listens there, so it does for a death timeout."""
    async with masters(tmp_path) as replicas:
        await a_pair(replicas)
        await replicas.stop_all()
        began = trio.current_time()
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready)
        assert two.info()["status"] == "orphan"
        [source] = two.info()["orphan"]["sources"]
        assert source["name"] == "instance001"
        assert source["left"] <= 60.0
        await until(lambda: is_writing(two))
        assert two.node.settings.death_timeout_s <= trio.current_time() - began < 10.0
        assert isinstance(await write(two, put(3)), ev.Committed)
        one = await replicas.start(1)  # who comes later finds the other, and is quick
        await until(lambda: is_writing(one))
        await replicas.wait_equal()
        assert two.info()["status"] == "running"


async def test_a_source_that_is_anonymous_is_not_waited_for(tmp_path: Path) -> None:
    """[M-41], [M-32]: a member gets nothing from it; it asks again as seldom as after a lost link."""
    async with masters(tmp_path) as replicas:
        await a_pair(replicas)
        await follow(replicas, 3, "instance001")
        await replicas.stop(2)
        names = ("instance001", "instance002", "instance003")
        peers = tuple(PeerAddress(name, name) for name in names)
        two = await replicas.start(2, peers=peers, reconnect_timeout_s=1000.0)
        await until(lambda: is_writing(two))
        (refusing,) = (one for one in appliers_of(two) if one.address.name == "instance003")
        assert refusing.status is Status.LOADING
        await until(lambda: (refusing.next_attempt_s or 0.0) > 100.0)


async def test_without_sources_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    """[M-46], and by live configuration: an orphan becomes independent."""
    async with masters(tmp_path) as replicas:
        await a_pair(replicas)
        await replicas.stop_all()
        two = await replicas.start(2)
        two.links.blocked_in.add("instance001")  # not heard of, so it may be there
        await until(lambda: two.node.is_ready)
        assert two.node.core.read_only_reason() is RoReason.ORPHAN
        two.node.change_settings(replace(two.node.settings, peers=(), follows_all=False))
        assert is_writing(two)
        assert two.info()["status"] == "running"
        await until(lambda: not two.links.appliers)
        assert isinstance(await write(two, put(3)), ev.Committed)


async def test_a_source_that_is_named_while_it_runs(tmp_path: Path) -> None:
    """[M-45]: rows flow from then on; until all is here it takes no writes. Streams that stay are not cut."""
    async with masters(tmp_path) as replicas:
        one, two = await a_pair(replicas)
        peers = one.node.settings.peers
        for face in (one, two):
            face.node.change_settings(replace(face.node.settings, peers=(), follows_all=False))
        await until(lambda: not one.links.appliers and not two.links.relays and not one.links.relays)
        assert isinstance(await write(one, put(1, "of one")), ev.Committed)
        assert isinstance(await write(two, put(2, "of two")), ev.Committed)
        two.node.change_settings(replace(two.node.settings, peers=peers))
        assert two.node.core.read_only_reason() is RoReason.ORPHAN
        await until(lambda: is_writing(two))
        assert two.node.core.vclock.covers(one.node.core.vclock)
        stream = two.links.appliers["instance001"]
        two.node.change_settings(
            replace(two.node.settings, peers=(*peers, PeerAddress("elsewhere", "elsewhere")))
        )
        await until(lambda: "elsewhere" in two.links.appliers)
        assert two.links.appliers["instance001"] is stream
        assert stream.facts()["status"] == "follow"
        one.node.change_settings(replace(one.node.settings, peers=peers))
        await until(lambda: one.node.core.vclock.covers(two.node.core.vclock))


async def test_a_stopped_stream_is_taken_out_and_put_back(tmp_path: Path) -> None:
    """[A-41], [M-45]: the same list restarts nothing; without the source, and with it, it runs again."""
    async with masters(tmp_path) as replicas:
        one, two = await a_pair(replicas)
        peers = two.node.settings.peers
        REGISTRY.set("applier.apply_fail", times=1)
        try:
            assert isinstance(await write(one, put(1)), ev.Committed)
            applier = two.links.appliers["instance001"]
            await until(lambda: applier.facts()["status"] == Status.STOPPED.value)
        finally:
            REGISTRY.clear()
        assert is_writing(two)  # a stopped source blocks nobody [M-41]
        two.node.change_settings(replace(two.node.settings))
        await trio.testing.wait_all_tasks_blocked()
        assert two.links.appliers["instance001"].facts()["status"] == "stopped"
        two.node.change_settings(replace(two.node.settings, peers=()))
        await until(lambda: not two.links.appliers)
        two.node.change_settings(replace(two.node.settings, peers=peers))
        await until(lambda: two.node.core.vclock.covers(one.node.core.vclock))
        await until(lambda: is_writing(two))


async def test_a_start_may_wait_until_it_has_caught_up(tmp_path: Path) -> None:
    """[M-42]: `sync_timeout`; clients get LOADING as long as it lasts, and then an orphan."""
    async with masters(tmp_path) as replicas:
        await a_pair(replicas)
        await replicas.stop_all()
        two = await replicas.start(2, sync_timeout_s=3.0)
        two.links.blocked_in.add("instance001")
        await until(lambda: two.node.has_core and two.node.stage == "sync")
        assert two.info()["status"] == "loading"
        assert two.info()["loading"]["message"].startswith("it waits for instance001 (")
        await until(lambda: two.node.is_ready)
        assert two.info()["status"] == "orphan"
        one = await replicas.start(1, sync_timeout_s=60.0)
        await until(lambda: one.node.is_ready)
        assert one.info()["status"] == "running"
        two.links.heal({"instance001"})
        await until(lambda: is_writing(two))


@pytest.mark.effect_of("replication.sync_timeout")
async def test_a_start_that_waits_may_be_told_not_to(tmp_path: Path) -> None:
    async with masters(tmp_path) as replicas:
        await a_pair(replicas)
        await replicas.stop_all()
        two = await replicas.start(2, sync_timeout_s=3600.0)
        await until(lambda: two.node.has_core and two.node.stage == "sync")
        two.node.change_settings(replace(two.node.settings, sync_timeout_s=0.1))
        await until(lambda: two.node.is_ready)
        assert two.info()["status"] == "orphan"


async def test_who_made_the_set_is_no_orphan(tmp_path: Path) -> None:
    async with masters(tmp_path, connect_timeout_s=0.3) as replicas:
        one = await replicas.start(1)
        await replicas.start(2)
        await until(lambda: one.node.is_ready or replicas.members["instance002"].face.node.is_ready)
        made = next(face for face in replicas.nodes if face.node.is_ready)
        assert made.node.core.is_writable
        made.node.change_settings(replace(made.node.settings, confirm_delay_s=0.02))
        assert made.node.core.is_writable


async def test_a_late_row_of_a_source_with_another_clock(tmp_path: Path) -> None:
    """`sync_lag` measures with two clocks; who has all that its source has is not late by any of them."""
    async with masters(tmp_path, sync_lag_s=1e-9) as replicas:
        one, two = await a_pair(replicas)
        await replicas.stop(2)
        assert isinstance(await write(one, put(1)), ev.Committed)
        two = await replicas.start(2)
        await until(lambda: is_writing(two))


@pytest.mark.effect_of("replication.sync_lag")
async def test_how_late_the_last_row_may_be_counts_from_now_on(tmp_path: Path) -> None:
    """[M-41]: something is missing, and what came last is five seconds old."""
    async with masters(tmp_path) as replicas:
        _, two = await a_pair(replicas)
        applier = two.links.appliers["instance001"]
        assert isinstance(applier, Applier)
        await until(lambda: applier.status is Status.FOLLOW)
        applier.status, applier.lag = Status.SYNC, 5.0
        applier._has = two.node.core.vclock.merge(Vclock({InstanceId(1): Lsn(1000)}))
        for lag_s, status in ((1.0, Status.SYNC), (10.0, Status.FOLLOW)):
            two.node.change_settings(replace(two.node.settings, sync_lag_s=lag_s))
            applier._look_if_synced()
            assert applier.status is status
