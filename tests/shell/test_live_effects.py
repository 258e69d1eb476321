"""What waits or goes on by an option hears of its new value, without a restart. [C-30], ADR 38.

`effect_of` names the options of a test; `tests/unit/test_effects.py` demands one for each that is live.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from synchro.config import BootstrapStrategy, ElectionMode
from synchro.errors import Loading, SyncTimeout
from synchro.ids import RequestId
from synchro.instance import events as ev
from synchro.server.applier import Status
from synchro.server.face import Face
from synchro.server.join import serve_join
from synchro.server.peer_messages import JoinChunk, JoinItem, JoinRequest, JoinSnapshotEnd, JoinStart
from tests.shell.memory_set import MemorySet, appliers_of, create_space, open_set, put, until, write


def change(face: Face, **options: Any) -> None:
    face.node.change_settings(replace(face.node.settings, **options))


async def start_all(made: MemorySet) -> list[Face]:
    faces = [await made.start(number) for number in range(1, made_size(made) + 1)]
    await made.wait_ready()
    return faces


def made_size(made: MemorySet) -> int:
    return len(made.settings.peers)


@pytest.mark.effect_of("replication.connect_timeout")
async def test_a_first_start_waits_no_longer_than_it_is_told_now(tmp_path: Path) -> None:
    """[M-13]: `replication.connect_timeout` of two instances that wait an hour for the third."""
    async with open_set(tmp_path, 3, connect_timeout_s=3600.0) as made:
        faces = [await made.start(number) for number in (1, 2)]
        await until(lambda: all("connected to 2 of 3" in face.node.waits_for for face in faces))
        for face in faces:
            change(face, connect_timeout_s=0.01)
        await made.wait_leader()


@pytest.mark.effect_of("replication.timeout")
async def test_a_shorter_heartbeat_is_kept_at_once(tmp_path: Path) -> None:
    """[A-25], [A-27]: after an hour between heartbeats nobody waits for the rest of it; a peer that falls
    silent is noticed by the new measure."""
    async with open_set(tmp_path, 2, replication_timeout_s=3600.0, election_timeout_s=0.2) as made:
        one, two = await start_all(made)
        await until(lambda: one.links.connected == 2 and two.links.connected == 2)
        for face in (one, two):
            change(face, replication_timeout_s=0.2)
        await until(lambda: one.links.doubles.death_s == 0.8)
        (relay,) = one.links.relays.values()
        heard = relay.heard_at
        await until(lambda: relay.heard_at > heard)
        await trio.sleep(1.2)
        assert one.links.connected == two.links.connected == 2
        change(two, replication_timeout_s=3600.0)  # it says nothing for an hour: dead for one after 0.8 s
        await until(lambda: one.links.connected == 1)
        change(two, replication_timeout_s=0.2)
        await until(lambda: one.links.connected == 2)


@pytest.mark.effect_of("snapshot.by.interval", "snapshot.count")
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


async def test_the_shortest_interval_of_snapshots_leaves_the_loop_alone(tmp_path: Path) -> None:
    """[W-30]: with nothing new to write it turned in a circle, and nobody was answered any more."""
    async with open_set(tmp_path, 1, checkpoint_interval_s=0.000001) as made:
        (one,) = await start_all(made)
        await made.wait_leader()
        await create_space(one)
        for key in range(3):
            assert isinstance(await write(one, put(key)), ev.Committed)
            await trio.sleep(0.05)


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


@pytest.mark.effect_of("replication.reconnect_timeout")
async def test_a_lost_link_is_tried_again_as_soon_as_it_is_told_now(tmp_path: Path) -> None:
    """[A-28]: an hour between attempts, of which nobody waits for the rest."""
    async with open_set(tmp_path, 2, reconnect_timeout_s=3600.0) as made:
        one, two = await start_all(made)
        await until(lambda: one.links.connected == two.links.connected == 2)
        (applier,) = appliers_of(one)
        await until(lambda: applier.status is Status.FOLLOW)
        made.network.cut("instance001", "instance002")
        await until(lambda: applier.status is Status.DISCONNECTED)
        made.network.heal()
        await trio.sleep(0.5)
        assert applier.status is Status.DISCONNECTED
        change(one, reconnect_timeout_s=0.05)
        await until(lambda: applier.is_following)


@pytest.mark.effect_of("replication.synchro_timeout")
async def test_who_asks_for_a_quorum_waits_as_long_as_it_may_now(tmp_path: Path) -> None:
    """[M-22], [M-27]: the owner of a pair is alone, and would wait an hour for a third to be registered."""
    options = {"election_mode": ElectionMode.OFF, "synchro_timeout_s": 3600.0}
    async with open_set(tmp_path, 2, **options) as made:
        one, _ = await start_all(made)
        await until(lambda: one.links.connected == 2)
        assert isinstance(await one.call(ev.PromoteRequested, timeout_s=10.0), ev.Promoted)
        await made.kill(2)
        change(one, synchro_timeout_s=0.05)
        with trio.fail_after(10), pytest.raises(SyncTimeout):
            async for _ in await joined_view(one):
                pass


@pytest.mark.effect_of("replication.bootstrap_strategy", "bootstrap_leader")
async def test_who_makes_the_set_may_be_named_while_all_wait(tmp_path: Path) -> None:
    """[M-16]: one of three waits an hour for the others, until its file names it."""
    async with open_set(tmp_path, 3, connect_timeout_s=3600.0) as made:
        one = await made.start(1)
        await until(lambda: "connected to 1 of 3" in one.node.waits_for)
        change(one, bootstrap_strategy=BootstrapStrategy.CONFIG, bootstrap_leader="instance002")
        await until(lambda: "bootstrap leader instance002" in one.node.waits_for)
        change(one, bootstrap_leader="instance001")
        await made.wait_ready()


@pytest.mark.effect_of("replication.connect_quorum")
async def test_the_old_way_waits_for_as_many_as_it_is_told_now(tmp_path: Path) -> None:
    """[M-18]: one of three waits for all, until one is enough."""
    options = {"bootstrap_strategy": BootstrapStrategy.LEGACY, "connect_timeout_s": 0.2}
    async with open_set(tmp_path, 3, **options) as made:
        one = await made.start(1)
        await until(lambda: "connected to 1 of 3, 3 are needed" in one.node.waits_for)
        await trio.sleep(0.5)  # beyond connect_timeout
        assert not one.node.is_ready
        change(one, connect_quorum=1)
        await made.wait_ready()


async def joined_view(face: Face) -> AsyncGenerator[JoinItem]:
    """A join that has begun, by somebody new."""
    items = serve_join(face.node, face.links, JoinRequest(str(uuid4()), f"new-{uuid4()}"))
    assert isinstance(await anext(items), JoinStart)
    return items


@pytest.mark.effect_of("limits.joins_max")
async def test_joins_are_served_up_to_the_new_limit(tmp_path: Path) -> None:
    async with open_set(tmp_path, 1) as made:
        (one,) = await start_all(made)
        await made.wait_leader()
        limits = one.node.settings.limits
        begun = [await joined_view(one)]
        change(one, limits=replace(limits, joins_max=1))
        with pytest.raises(Loading, match="serves 1 joins"):
            await joined_view(one)
        change(one, limits=replace(limits, joins_max=2))
        begun.append(await joined_view(one))
        for items in begun:
            await items.aclose()


@pytest.mark.effect_of("limits.join_view_age_s")
async def test_a_view_is_shared_up_to_the_new_age(tmp_path: Path) -> None:
    async with open_set(tmp_path, 1) as made:
        (one,) = await start_all(made)
        await made.wait_leader()
        limits = one.node.settings.limits
        first = await joined_view(one)
        view = one.links.join_view
        second = await joined_view(one)
        assert one.links.join_view is view
        change(one, limits=replace(limits, join_view_age_s=0.0))
        await trio.sleep(0.01)
        third = await joined_view(one)
        assert one.links.join_view is not view
        for items in (first, second, third):
            await items.aclose()


@pytest.mark.effect_of("limits.join_chunk_bytes_max")
async def test_a_join_is_cut_into_pieces_of_the_new_size(tmp_path: Path) -> None:
    async with open_set(tmp_path, 1) as made:
        (one,) = await start_all(made)
        await made.wait_leader()
        await create_space(one)
        for key in range(20):
            assert isinstance(await write(one, put(key, "x" * 1000)), ev.Committed)

        async def chunks() -> int:
            found = 0
            items = await joined_view(one)
            async for item in items:
                if isinstance(item, JoinSnapshotEnd):
                    break
                found += isinstance(item, JoinChunk)
            await items.aclose()
            return found

        few = await chunks()
        change(one, limits=replace(one.node.settings.limits, join_chunk_bytes_max=1000))
        assert await chunks() >= few + 15
