"""What stands under `once` in the file: one instance runs it, once, whoever it is. [D-25]"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from synchro.config import ElectionMode
from synchro.server.face import Face
from synchro.storage.schema import SCHEMA_ID
from tests.shell.memory_set import until
from tests.shell.test_grpc_set import open_grpc_set

BANDS: Any = [
    {"create_space": {"name": "bands", "is_sync": True}},
    {"create_index": {"space": "bands", "name": "primary"}},
]


def key_on(face: Face, key: str) -> Any:
    if not face.node.is_ready:
        return None
    return face.node.core.memtx.get(SCHEMA_ID, 0, (key,))


def events(records: list[Any], name: str) -> list[Any]:
    return [record for record in records if record["event"] == name]


async def test_the_owner_of_the_queue_runs_it(tmp_path: Path) -> None:
    """Whoever is elected; the others hear of it by their logs. At the next start nobody does."""
    with capture_logs() as records:
        async with open_grpc_set(tmp_path, once={"bands": BANDS}) as nodes:
            await until(lambda: all(key_on(face, "oncebands") for face in nodes))
            owner = next(face for face in nodes if face.node.core.is_writable)
            assert key_on(owner, "oncebands")[1]["by"] == owner.node.settings.instance_name
            assert all(face.node.core.memtx.catalog.space("bands").is_sync for face in nodes)
        async with open_grpc_set(tmp_path, once={"bands": BANDS}) as nodes:
            await until(lambda: any(face.node.is_ready and face.node.core.is_writable for face in nodes))
    assert [record["key"] for record in events(records, "once_executed")] == ["bands"]
    assert not events(records, "once_failed")


async def test_of_masters_without_an_owner_the_one_with_the_lowest_id_runs_it(tmp_path: Path) -> None:
    """All three are writable and have the same file: only one begins, so nothing is in conflict."""
    with capture_logs() as records:
        off: Any = {"election_mode": ElectionMode.OFF}
        async with open_grpc_set(tmp_path, once={"bands": BANDS}, **off) as nodes:
            await until(lambda: all(key_on(face, "oncebands") for face in nodes))
            runner = next(face for face in nodes if face.node.core.self_id == 1)
            assert key_on(nodes[0], "oncebands")[1]["by"] == runner.node.settings.instance_name
            await until(lambda: all(len(face.links.relays) == 2 for face in nodes))
    assert len(events(records, "once_executed")) == 1
    assert not events(records, "once_failed")


async def test_what_cannot_be_done_is_told_and_the_next_key_runs(tmp_path: Path) -> None:
    bad = [{"create_index": {"space": "none", "name": "primary"}}]
    with capture_logs() as records:
        async with open_grpc_set(tmp_path, once={"bad": bad, "bands": BANDS}) as nodes:
            await until(lambda: all(key_on(face, "oncebands") for face in nodes))
            assert key_on(nodes[0], "oncebad") is None
    (failed,) = events(records, "once_failed")
    assert (failed["key"], failed["reason"]) == ("bad", "NO_SUCH_SPACE")
