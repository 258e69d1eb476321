"""UUIDs of the configuration: taken at the first start, demanded at each later one. [M-1], [M-2], [C-46]."""

from __future__ import annotations

from pathlib import Path

import pytest

from synchro.errors import InstanceUuidMismatch, ReplicasetUuidMismatch
from tests.e2e.cluster import contents
from tests.shell.memory_set import open_set, until

ONE = "11111111-1111-4111-8111-111111111111"
TWO = "22222222-2222-4222-8222-222222222222"
SET = "33333333-3333-4333-8333-333333333333"


async def test_they_are_taken_at_the_first_start_and_demanded_then(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1, instance_uuid=ONE, replicaset_uuid=SET) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready)
        assert (face.node.uuid, face.node.replicaset_uuid) == (ONE, SET)
        await replicas.stop(1)
        before = contents(tmp_path)
        with pytest.raises(InstanceUuidMismatch, match=f"expected {TWO} .* got {ONE}"):
            await replicas.start(1, instance_uuid=TWO)
        await replicas.start(1, replicaset_uuid=TWO)
        await until(lambda: replicas.members["instance001"].error is not None)
        error = replicas.members["instance001"].error
        assert isinstance(error, ReplicasetUuidMismatch) and error.details == {"expected": TWO, "got": SET}
        assert contents(tmp_path) == before
        again = await replicas.start(1)
        await until(lambda: again.node.is_ready)


async def test_a_set_of_another_uuid_is_not_joined(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=2) as replicas:
        first = await replicas.start(1, replicaset_uuid=SET)
        second = await replicas.start(2, replicaset_uuid=SET)
        await until(lambda: first.node.is_ready and second.node.is_ready)
        await replicas.stop(2)
        for file in (tmp_path / "instance002").iterdir():
            file.unlink()
        await replicas.start(2, replicaset_uuid=TWO)
        await replicas.members["instance002"].ended.wait()
        error = replicas.members["instance002"].error
        assert isinstance(error, ReplicasetUuidMismatch) and error.details == {"expected": TWO, "got": SET}
        assert not list((tmp_path / "instance002").glob("*.snap"))
