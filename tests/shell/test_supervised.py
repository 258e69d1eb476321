"""`bootstrap_strategy: supervised`: nobody makes the set before a person tells one to [M-17]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from synchro.config import BootstrapStrategy, ElectionMode
from synchro.errors import BootstrapRefused, SynchroError, TimedOut
from synchro.server.face import Face
from tests.shell.memory_set import MemorySet, open_set, until
from tests.shell.test_verdicts import problems, verdict

SUPERVISED: dict[str, Any] = {"bootstrap_strategy": BootstrapStrategy.SUPERVISED}


async def wait_for_a_word(replicas: MemorySet, *numbers: int) -> list[Face]:
    faces = [await replicas.start(number, **SUPERVISED) for number in numbers]
    await until(lambda: all("nobody was told yet" in face.node.waits_for for face in faces))
    return faces


async def test_it_is_made_where_it_was_told_and_the_others_join(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        _, two, _ = await wait_for_a_word(replicas, 1, 2, 3)
        assert ("waiting", "instance002") in problems(verdict(replicas))
        assert "synchro bootstrap instance002" in two.node.waits_for
        uuid = await two.bootstrap(10.0)
        await replicas.wait_ready()
        assert two.node.core.self_id == 1 and two.node.replicaset_uuid == uuid
        assert {face.node.replicaset_uuid for face in replicas.nodes} == {uuid}
        with pytest.raises(BootstrapRefused, match="has data, of replica set"):
            await two.bootstrap(1.0)


async def test_two_that_are_told_at_once_make_one_set(tmp_path: Path) -> None:
    """Whichever of the two was first by how much."""
    for attempt in range(5):
        async with open_set(tmp_path / str(attempt)) as replicas:
            faces = await wait_for_a_word(replicas, 1, 2, 3)
            made: list[str] = []
            refused: list[SynchroError] = []

            async def tell(face: Face) -> None:
                try:
                    made.append(await face.bootstrap(10.0))  # noqa: B023
                except SynchroError as error:
                    refused.append(error)  # noqa: B023

            async with trio.open_nursery() as nursery:
                nursery.start_soon(tell, faces[0])
                await trio.sleep(0.03 * attempt)
                nursery.start_soon(tell, faces[2])
            assert len(made) == 1, refused
            assert [type(error) for error in refused] == [BootstrapRefused]
            await replicas.wait_ready()
            assert {face.node.replicaset_uuid for face in replicas.nodes} == set(made)


async def test_who_waits_no_longer_takes_its_word_back(tmp_path: Path) -> None:
    """BootstrapOrder.D1: when its time is over a call says for whom it waited, and nothing is made later."""
    async with open_set(tmp_path) as replicas:
        one, two = await wait_for_a_word(replicas, 1, 2)
        replicas.network.cuts.add(("instance002", "instance001"))  # 2 hears nothing of what 1 was told
        with pytest.raises(TimedOut, match="instance002 chose a different bootstrap leader nobody"):
            await one.bootstrap(0.5)
        replicas.network.heal()
        await until(lambda: "nobody was told yet" in one.node.waits_for)
        await trio.sleep(0.5)
        assert not one.node.has_core and not two.node.has_core
        # It is asked again, after a restart as well as without.
        await replicas.kill(1)
        (one,) = await wait_for_a_word(replicas, 1)
        assert await one.bootstrap(10.0) == one.node.replicaset_uuid
        await replicas.wait_ready()


async def test_it_is_refused_by_name_where_it_cannot_be(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        auto = await replicas.start(1)
        voter = await replicas.start(2, **SUPERVISED, election_mode=ElectionMode.VOTER)
        anonymous = await replicas.start(
            3, **SUPERVISED, is_anonymous=True, read_only=True, election_mode=ElectionMode.OFF
        )
        await until(lambda: bool(auto.node.waits_for and anonymous.node.waits_for))
        for face, why in ((auto, "strategy is auto"), (voter, "may only vote"), (anonymous, "anonymous")):
            with pytest.raises(BootstrapRefused, match=why):
                await face.bootstrap(1.0)


async def test_an_instance_that_is_alone_waits_too(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=0) as replicas:
        (one,) = await wait_for_a_word(replicas, 1)
        assert await one.bootstrap(5.0)
        await replicas.wait_ready()
