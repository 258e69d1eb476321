"""How long no write is acknowledged after the leader is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc.aio
import msgpack

from benchmarks.load import VALUE, etcd_put, key_of
from benchmarks.systems import CHANNEL_OPTIONS, SPACE_ID, Etcd, Member, Synchro, System
from synchro.rpc.generated.v1 import data_pb2, data_pb2_grpc

CALLERS_A_MEMBER: Final = 4
PAUSE_S: Final = 0.005
"""Between attempts at a member that refused."""
WRITE_TIMEOUT_S: Final = 0.25
"""A write that is stuck is given up soon: its caller asks again."""
SETTLE_S: Final = 2.0
"""Load before a kill, all three members up."""
LIMIT_S: Final = 30.0

Write = Callable[[int], Awaitable[object]]


async def measure(system: System, kills: int) -> list[float]:
    """Seconds from each SIGKILL of the leader to the first acknowledgement of a write that another member
    got after it. The killed one is started again and catches up before the next kill."""
    last_ack: dict[str, tuple[float, float]] = {}
    numbers = iter(range(1 << 40)).__next__

    async def caller(member: Member, write: Write) -> None:
        while True:
            began = time.perf_counter()
            try:
                await write(numbers())
            except grpc.aio.AioRpcError:
                await asyncio.sleep(PAUSE_S)
            else:
                last_ack[member.name] = (began, time.perf_counter())

    async def first_ack(killed: Member, at: float) -> float:
        while True:
            acks = [ack for name, ack in last_ack.items() if name != killed.name and ack[0] > at]
            if acks:
                return min(end for _, end in acks) - at
            if time.perf_counter() - at > LIMIT_S:
                raise RuntimeError(f"{system.name}: no write for {LIMIT_S:g} s after a kill")
            await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        channels = [grpc.aio.insecure_channel(m.address, options=_OPTIONS) for m in system.members]
        callers = [
            group.create_task(caller(member, _writer(system, channel)))
            for member, channel in zip(system.members, channels, strict=True)
            for _ in range(CALLERS_A_MEMBER)
        ]
        found = []
        for _ in range(kills):
            leader = await asyncio.to_thread(system.leader)
            await asyncio.sleep(SETTLE_S)
            assert leader.process is not None
            at = time.perf_counter()
            os.kill(leader.pid, signal.SIGKILL)
            found.append(await first_ack(leader, at))
            await asyncio.to_thread(leader.process.wait)
            leader.start()
            await _caught_up(system, leader)
        for one in callers:
            one.cancel()
    for channel in channels:
        await channel.close()
    return found


_OPTIONS: Final = (
    *CHANNEL_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


def _writer(system: System, channel: grpc.aio.Channel) -> Write:
    if isinstance(system, Etcd):
        put: Any = channel.unary_unary("/etcdserverpb.KV/Put")
        return lambda number: put(etcd_put(number), timeout=WRITE_TIMEOUT_S)
    execute = data_pb2_grpc.DataServiceStub(channel).Execute
    pack = msgpack.Packer().pack

    def write(number: int) -> Awaitable[object]:
        request = data_pb2.ExecuteRequest(omit_tuples=True)
        insert = request.ops.add().replace
        insert.space_id = SPACE_ID
        insert.tuple = pack((key_of(number), VALUE))
        call: Awaitable[object] = execute(request, timeout=WRITE_TIMEOUT_S)
        return call

    return write


async def _caught_up(system: System, member: Member) -> None:
    """Up again; the settling time under load does the rest."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            await asyncio.to_thread(system.is_leader, member)
        except grpc.RpcError:
            await asyncio.sleep(0.1)
        else:
            return
    raise RuntimeError(f"{member.name} did not come back")


def run(system: System, kills: int) -> list[float]:
    try:
        system.start()
        if isinstance(system, Synchro):
            system.create_space()
        system.leader()
        return asyncio.run(measure(system, kills))
    finally:
        system.stop()


def both(directory: Path, kills: int) -> dict[str, list[float]]:
    systems: list[System] = [Synchro(directory / "failover-synchro")]
    if Etcd.is_installed():
        systems.append(Etcd(directory / "failover-etcd"))
    return {system.name: run(system, kills) for system in systems}
