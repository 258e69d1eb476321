"""The same instances over real gRPC, still in one process: the codec and the bridge are in the path."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from synchro.config import ElectionMode, PeerAddress, Settings
from synchro.ids import InstanceName
from synchro.instance import events as ev
from synchro.process.supervise import run_instance
from synchro.rpc.host import RpcHost, open_rpc_host
from synchro.server.face import Face
from tests.ports import free_ports
from tests.shell.memory_set import create_space, put, until, write


def free_addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


@asynccontextmanager
async def open_grpc_set(directory: Path, size: int = 3, **changes: Any) -> AsyncIterator[list[Face]]:
    peers = tuple(
        PeerAddress(f"instance{n:03}", address) for n, address in enumerate(free_addresses(size), start=1)
    )
    stop = trio.Event()
    nodes = []
    async with open_rpc_host() as host, trio.open_nursery() as nursery:
        for peer in peers:
            path = str(directory / peer.name)
            settings = Settings(
                instance_name=InstanceName(peer.name),
                listen=peer.address,
                peers=peers,
                wal_dir=path,
                snapshot_dir=path,
                election_mode=ElectionMode.CANDIDATE,
                replication_timeout_s=0.25,
                election_timeout_s=1,
            )
            settings = replace(settings, **changes)

            async def run(settings: Settings = settings, *, task_status: trio.TaskStatus[Face]) -> None:
                await run_instance(
                    settings, host=host, log=structlog.get_logger(), stop=stop, task_status=task_status
                )

            nodes.append(await nursery.start(run))
        yield nodes
        stop.set()


async def test_three_instances_commit_over_grpc(tmp_path: Path) -> None:
    """Join, elections, rows and acks through protobuf; a clean stop of all three at the end."""
    async with open_grpc_set(tmp_path) as nodes:
        await until(lambda: all(face.node.is_ready for face in nodes))
        await until(lambda: any(face.node.core.is_writable for face in nodes))
        leader = next(face for face in nodes if face.node.core.is_writable)
        await create_space(leader)
        for key in range(20):
            assert isinstance(await write(leader, put(key, "v" * 1000)), ev.Committed)
        await until(lambda: all(face.node.core.memtx.count(512) == 20 for face in nodes))
        await until(lambda: all(len(face.links.relays) == 2 for face in nodes))
        assert len({face.node.replicaset_uuid for face in nodes}) == 1


async def test_an_isolated_instance_runs_without_a_port(tmp_path: Path) -> None:
    """It has its data and talks to nobody; its empty address could not be bound once."""
    path = str(tmp_path)
    member = Settings(listen="127.0.0.1:0", wal_dir=path, snapshot_dir=path)
    for settings in (member, replace(member, listen="", read_only=True)):
        stop = trio.Event()
        async with open_rpc_host() as host, trio.open_nursery() as nursery:

            async def run(
                settings: Settings = settings,
                host: RpcHost = host,
                stop: trio.Event = stop,
                *,
                task_status: trio.TaskStatus[Face],
            ) -> None:
                await run_instance(
                    settings, host=host, log=structlog.get_logger(), stop=stop, task_status=task_status
                )

            face = await nursery.start(run)
            await until(partial(lambda face: face.node.is_ready, face))
            stop.set()
