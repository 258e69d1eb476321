"""Whoever is asked for a join looks at the name before it sends any data (ADR 26). [M-20]"""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import trio

from synchro.errors import IllegalParams
from synchro.server.join import serve_join
from synchro.server.peer_messages import JoinRequest, JoinStart
from tests.shell.memory_set import PATIENCE_S, open_set


@pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 64, "ä"])
async def test_a_joiner_without_a_proper_name_gets_no_data(tmp_path: Path, name: str) -> None:
    """It got all data, and the refusal of its row afterwards."""
    async with open_set(tmp_path, size=1) as replicas:
        with trio.fail_after(PATIENCE_S):
            face = await replicas.start(1)
            await replicas.wait_ready()
            await replicas.wait_leader()
            items = serve_join(face.node, face.links, JoinRequest(str(uuid4()), name))
            with pytest.raises(IllegalParams, match="is not a name"):
                await anext(items)
            proper = serve_join(face.node, face.links, JoinRequest(str(uuid4()), "Node1"))
            assert isinstance(await anext(proper), JoinStart)
            await proper.aclose()


@pytest.mark.parametrize("uuid", ["abc", "../../etc/passwd", "a" * 1_000_000])
async def test_a_joiner_without_a_proper_uuid_gets_no_data(tmp_path: Path, uuid: str) -> None:
    """It got all data, and the refusal of its row afterwards."""
    async with open_set(tmp_path, size=1) as replicas:
        with trio.fail_after(PATIENCE_S):
            face = await replicas.start(1)
            await replicas.wait_ready()
            await replicas.wait_leader()
            items = serve_join(face.node, face.links, JoinRequest(uuid, "Node1"))
            with pytest.raises(IllegalParams, match="Invalid UUID"):
                await anext(items)
            twin = serve_join(face.node, face.links, JoinRequest(face.node.uuid.upper(), "Node1"))
            with pytest.raises(IllegalParams, match="in nothing but case"):
                await anext(twin)
