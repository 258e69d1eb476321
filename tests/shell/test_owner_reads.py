"""Linearizable reads where the queue is not owned, on real nodes: whom they ask, what they wait for, and what
they are refused with. [Q-63], ADR 50."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from synchro.config import ElectionMode
from synchro.errors import (
    AccessDenied,
    BadCredentials,
    ConfigError,
    LinearizablePending,
    LinearizableQuorum,
    Loading,
    LoginLimited,
    LoginQueueFull,
    PlainConnection,
    SessionEnded,
    SessionUnknown,
    SynchroError,
    SyncQueueForeign,
    SyncQueueFull,
    TimedOut,
)
from synchro.failpoints import REGISTRY
from synchro.ids import Lsn
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.replication.read_barrier import ReadPosition
from synchro.server.face import Face
from synchro.server.owner_reads import ANSWERS_MAX
from synchro.server.peer_messages import LinkLost, ReadPositionRequest
from synchro.storage.index import Iterator_
from tests.shell.memory_set import MemorySet, create_space, open_set, put, until, write


@asynccontextmanager
async def three(tmp_path: Path) -> AsyncIterator[tuple[MemorySet, Face, list[Face]]]:
    """The set, the owner of its queue, and the others."""
    async with open_set(tmp_path, election_mode=ElectionMode.OFF) as made:
        faces = [await made.start(number) for number in (1, 2, 3)]
        await made.wait_ready()
        await until(lambda: len(faces[0].node.core.registered) == 3)
        assert isinstance(await faces[0].call(ev.PromoteRequested, timeout_s=5.0), ev.Promoted)
        await create_space(faces[0])
        await made.wait_equal()
        yield made, faces[0], faces[1:]


def keys(face: Face) -> set[Any]:
    return {row[0] for row in face.node.core.memtx.select(512, iterator=Iterator_.ALL)}


def one_ahead(owner: Face) -> ReadPosition:
    """A position with a row that the owner has not written yet."""
    own, vclock = owner.node.core.self_id, owner.node.core.read_position.vclock
    return ReadPosition(vclock.follow(own, Lsn(vclock.get(own) + 1)))


async def test_what_was_answered_is_read_on_every_instance_at_once(tmp_path: Path) -> None:
    """Without waiting for anything but the read itself."""
    async with three(tmp_path) as (_, owner, others):
        for key in range(20):
            assert isinstance(await write(owner, put(key)), ev.Committed)
            for face in others:
                assert await face.read_barrier(timeout_s=5.0) == ev.ReadReady()
                assert key in keys(face)


async def test_reads_share_a_question_that_is_sent_after_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OwnerReads.O1: who comes while it is on its way waits for the next one."""
    async with three(tmp_path) as (_, owner, (face, _other)), trio.open_nursery() as nursery:
        gates = [trio.Event(), trio.Event()]
        sent: list[int] = []

        async def read_position(_address: str, _request: ReadPositionRequest) -> ReadPosition:
            number = len(sent)
            sent.append(number)
            await gates[number].wait()
            return owner.node.core.read_position

        monkeypatch.setattr(face.node.transport, "read_position", read_position)
        done: list[str] = []

        async def read(name: str) -> None:
            await face.read_barrier(timeout_s=5.0)
            done.append(name)

        nursery.start_soon(read, "first")
        await until(lambda: sent == [0])
        for name in ("second", "third"):
            nursery.start_soon(read, name)
        await trio.sleep(0.02)
        gates[0].set()
        await until(lambda: sent == [0, 1])
        assert done == ["first"]
        gates[1].set()
        await until(lambda: sorted(done) == ["first", "second", "third"])


async def test_it_waits_until_it_is_there_or_says_that_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with three(tmp_path) as (_, owner, (face, _other)):
        ahead = one_ahead(owner)

        async def read_position(_address: str, _request: ReadPositionRequest) -> ReadPosition:
            return ahead

        monkeypatch.setattr(face.node.transport, "read_position", read_position)
        with pytest.raises(TimedOut, match=r"did not reach vclock .*; nothing was read"):
            await face.read_barrier(timeout_s=1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, owner, put(1))
            assert await face.read_barrier(timeout_s=5.0) == ev.ReadReady()
            assert 1 in keys(face)


async def test_what_stands_in_the_owner_s_queue_is_waited_for_everywhere(tmp_path: Path) -> None:
    """[Q-60], [Q-63]: until its verdict is known where it is read, or the time of the read is over."""
    async with three(tmp_path) as (_, owner, others), trio.open_nursery() as nursery:
        core = owner.node.core
        shown: list[bool] = []

        async def read(face: Face) -> None:
            assert await face.read_barrier(timeout_s=10.0) == ev.ReadReady()
            shown.append(1 in keys(face))

        REGISTRY.set("relay.send_delay")
        try:
            nursery.start_soon(write, owner, put(1))
            await until(lambda: 0 < core.limbo.last_lsn <= core.vclock.get(core.self_id))
            refused = await owner.read_barrier(timeout_s=1.0)
            assert isinstance(refused, ev.Rejected) and isinstance(refused.error, LinearizablePending)
            name = f"{core.self_id}:{core.limbo.last_lsn}"
            missing = ",".join(str(number) for number in (1, 2, 3) if number != core.self_id)
            told = {"txn": name, "acked": str(core.self_id), "needed": "2", "missing": missing}
            assert refused.error.details == told
            assert f"no quorum for {name} in time (1 of 2); nothing was read" in refused.error.message
            for face in others:
                with pytest.raises(LinearizablePending, match=f"what became of {name}; nothing was read"):
                    await face.read_barrier(timeout_s=1.0)
            for face in (owner, *others):
                nursery.start_soon(read, face)
            await trio.sleep(0.1)
            assert shown == []
        finally:
            REGISTRY.clear()
        await until(lambda: shown == [True] * 3)


async def test_an_owner_that_cannot_be_asked_or_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first refusal leads a client to the owner; both say that nothing was read."""
    async with three(tmp_path) as (made, owner, (face, _other)):
        made.network.cut("instance001", face.node.settings.instance_name)
        with pytest.raises(SyncQueueForeign, match=r"could not be asked.*; nothing was read"):
            await face.read_barrier(timeout_s=5.0)

        async def silent(_address: str, _request: ReadPositionRequest) -> ReadPosition:
            await trio.sleep_forever()
            raise AssertionError

        monkeypatch.setattr(face.node.transport, "read_position", silent)
        with pytest.raises(LinearizableQuorum, match="did not say in time that it still is; nothing"):
            await face.read_barrier(timeout_s=0.05)
        with pytest.raises(LinearizableQuorum, match=r"did not answer within .*; nothing was read"):
            await face.read_barrier(timeout_s=5.0)
        assert owner.owns_queue

        async def older(_address: str, _request: ReadPositionRequest) -> ReadPosition:
            raise LinkLost("can't read row: unimplemented")

        monkeypatch.setattr(face.node.transport, "read_position", older)
        with pytest.raises(SyncQueueForeign, match="belongs to other instance"):
            await face.read_barrier(timeout_s=5.0)


async def test_who_does_not_trust_its_log_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[Q-63]: an instance in amnesia neither reads nor echoes (ADR 9)."""
    async with three(tmp_path) as (_, _owner, (face, _other)):
        with monkeypatch.context() as patch:
            patch.setattr(Instance, "has_amnesia", property(lambda core: core is face.node.core))
            with pytest.raises(SyncQueueForeign, match="whether its log is whole; nothing was read"):
                await face.read_barrier(timeout_s=1.0)
        assert await face.read_barrier(timeout_s=5.0) == ev.ReadReady()


REFUSALS: dict[type[SynchroError], bool] = {
    AccessDenied: True,
    BadCredentials: True,
    LoginLimited: True,
    LoginQueueFull: True,
    SessionUnknown: True,
    SessionEnded: True,
    PlainConnection: True,
    ConfigError: True,
    Loading: False,
    LinearizableQuorum: False,
    SyncQueueFull: False,
}
"""Whether it is said of the instance that asks the owner, and not of the read."""


async def test_what_is_said_of_this_instance_is_not_said_of_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is allowed to read: it goes to the owner. The log says once why."""
    async with three(tmp_path) as (_, _owner, (face, _other)):
        for kind, is_of_us in REFUSALS.items():

            async def refused(
                _address: str, _request: ReadPositionRequest, kind: type[SynchroError] = kind
            ) -> ReadPosition:
                raise kind("not you")

            with monkeypatch.context() as patch, structlog.testing.capture_logs() as records:
                patch.setattr(face.node.transport, "read_position", refused)
                expected = SyncQueueForeign if is_of_us else kind
                for _ in range(3):
                    with pytest.raises(expected, match="not you") as caught:
                        await face.read_barrier(timeout_s=5.0)
                    assert not is_of_us or f"{kind.reason}: not you; nothing was read" in str(caught.value)
            told = [record for record in records if record["event"] == "read_position_refused"]
            assert [record["reason"] for record in told] == [kind.reason] * is_of_us
        assert await face.read_barrier(timeout_s=5.0) == ev.ReadReady()


@asynccontextmanager
async def ahead_of(face: Face, owner: Face, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[int]]:
    """The owner names a row that is not written yet; what is yielded grows by one with each question."""
    ahead = one_ahead(owner)
    asked: list[int] = []

    async def read_position(_address: str, _request: ReadPositionRequest) -> ReadPosition:
        asked.append(len(asked))
        return ahead

    with monkeypatch.context() as patch:
        patch.setattr(face.node.transport, "read_position", read_position)
        yield asked


async def test_readers_of_one_answer_wait_as_one_and_count_until_they_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OwnerReads.O2"""
    async with three(tmp_path) as (_, owner, (face, _other)):
        limits = replace(face.node.settings.limits, waiting_calls_max=5)
        face.node.change_settings(replace(face.node.settings, limits=limits))
        waits: list[ReadPosition] = []
        wait_reached = face.node.calls.wait_reached

        async def counted(core: Instance, position: ReadPosition, *, timeout_s: float) -> bool:
            waits.append(position)
            return await wait_reached(core, position, timeout_s=timeout_s)

        monkeypatch.setattr(face.node.calls, "wait_reached", counted)
        done: list[ev.Outcome] = []

        async def read() -> None:
            done.append(await face.read_barrier(timeout_s=5.0))

        async with ahead_of(face, owner, monkeypatch) as asked, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
            await until(lambda: bool(waits))
            assert (len(asked), len(waits), done) == (1, 1, [])
            with pytest.raises(SyncQueueFull, match="5 reads wait"):
                await face.read_barrier(timeout_s=5.0)
            assert isinstance(await write(owner, put(1)), ev.Committed)
        assert done == [ev.ReadReady()] * 5
        assert await face.read_barrier(timeout_s=5.0) == ev.ReadReady()


async def test_so_many_answers_are_waited_for_and_who_leaves_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OwnerReads.O2: what comes one after the other while rows are late."""
    async with three(tmp_path) as (_, owner, (face, _other)):
        async with ahead_of(face, owner, monkeypatch) as asked, trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(ANSWERS_MAX)]

            async def read(scope: trio.CancelScope) -> None:
                with scope:
                    await face.read_barrier(timeout_s=60.0)

            for number, scope in enumerate(scopes):
                nursery.start_soon(read, scope)
                await until(lambda number=number: len(asked) == number + 1)  # type: ignore[misc]
            with pytest.raises(TimedOut, match=r"what reads before this one wait for.*; nothing was read"):
                await face.read_barrier(timeout_s=0.05)
            assert len(asked) == ANSWERS_MAX
            scopes.append(trio.CancelScope())
            nursery.start_soon(read, scopes[-1])
            scopes[3].cancel()
            await until(lambda: len(asked) == ANSWERS_MAX + 1)
            for scope in scopes:
                scope.cancel()
        assert await face.read_barrier(timeout_s=5.0) == ev.ReadReady()
