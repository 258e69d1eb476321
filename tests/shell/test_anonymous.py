"""Anonymous followers: they have all rows, and no say [M-6], [M-30], [M-31], [W-42], ADR 45."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from synchro.config import ElectionMode, PeerAddress
from synchro.errors import ConfigError
from synchro.ids import InstanceId
from synchro.instance import events as ev
from synchro.ro_reason import RoReason
from synchro.server.applier import Status
from synchro.server.face import Face
from tests.shell.memory_set import MemorySet, appliers_of, create_space, open_set, put, until, write
from tests.shell.test_copied_directory import start_at
from tests.shell.test_members import expel, number_of
from tests.shell.test_relay_applier import three
from tests.shell.test_verdicts import picture, problems, verdict

ANONYMOUS: dict[str, Any] = {
    "is_anonymous": True,
    "read_only": True,
    "election_mode": ElectionMode.OFF,
}


async def follow(replicas: MemorySet, number: int, *sources: str, **changes: Any) -> Face:
    """An anonymous instance that is ready, and follows `sources`; none: the members of the file."""
    names = sources or [peer.name for peer in replicas.settings.peers]
    peers = tuple(PeerAddress(name, name) for name in names)
    face = await replicas.start(number, peers=peers, **{**ANONYMOUS, **changes})
    await until(lambda: face.node.is_ready and any(a.is_following for a in appliers_of(face)))
    return face


def be_member(face: Face) -> None:
    """As a reload of a file with `anon: false` does."""
    settings = replace(face.node.settings, is_anonymous=False, election_mode=ElectionMode.CANDIDATE)
    face.node.change_settings(replace(settings, read_only=False))


def shown(face: Face, follower: Face) -> dict[str, Any] | None:
    return face.info()["replication_anon"]["instances"].get(follower.node.uuid)  # type: ignore[no-any-return]


async def test_it_has_all_rows_and_no_say(tmp_path: Path) -> None:
    """[M-6], [I-14]: shown at its source, read-only by name, and not among those that make a quorum."""
    async with open_set(tmp_path) as replicas:
        owner, others = await three(replicas)
        follower = await follow(replicas, 4)
        assert isinstance(await write(owner, put(1)), ev.Committed)
        assert await follower.read_barrier(timeout_s=5.0) == ev.ReadReady()
        assert follower.node.core.memtx.get(512, 0, (1,)) is not None
        await replicas.wait_equal()
        own = follower.info()
        assert (own["id"], own["is_anonymous"], own["ro_reason"], own["amnesia"]) == (0, True, "anon", None)
        outcome = await write(follower, put(2))
        assert isinstance(outcome, ev.Rejected) and "never writable" in outcome.error.message
        leader = follower.leader()
        assert leader is not None and leader.id == owner.node.core.self_id
        for face in (owner, *others):
            assert face.info()["replication_anon"]["count"] == 1
            assert len(face.info()["replication"]) == 3
        part = shown(owner, follower)
        assert part is not None and part["downstream"]["status"] == "follow"
        await until(lambda: shown(owner, follower)["downstream"]["behind"]["rows"] == 0)  # type: ignore[index]
        # Two members away: it is no substitute.
        await replicas.kill(*(number_of(face) for face in others))
        waits = await write(owner, put(3), timeout_s=0.5)
        assert isinstance(waits, ev.OutcomeUnknown | ev.Rejected), waits
        found = verdict(replicas)
        assert not found.writable and picture(replicas).quorum == 2
        assert [one.state for one in picture(replicas).members if one.name == "instance004"] == ["anonymous"]


@pytest.mark.effect_of("replication.anon_ttl")
async def test_the_log_is_kept_for_it_as_long_as_the_time_that_it_may_be_away(tmp_path: Path) -> None:
    """[W-42], [I-18], Followers.F2."""
    async with open_set(tmp_path) as replicas:
        owner, _ = await three(replicas)
        follower = await follow(replicas, 4)

        def kept() -> list[tuple[str, bool]]:
            consumers = owner.info()["gc"]["consumers"]
            return [(one["name"], one["is_connected"]) for one in consumers if one["is_anonymous"]]

        assert kept() == [("instance004", True)]
        await replicas.stop(4)
        await until(lambda: kept() == [("instance004", False)])
        part = shown(owner, follower)
        assert part is not None and part["forgotten_in"] > 600.0 and part["downstream"]["status"] == "stopped"
        owner.node.change_settings(replace(owner.node.settings, anon_ttl_s=1.0))
        await until(lambda: kept() == [])
        assert follower.node.uuid not in owner.info()["replication_anon"]["instances"]
        assert all(number < InstanceId(32) for number in owner.links.downstreams)


@pytest.mark.effect_of("limits.anonymous_max")
async def test_there_are_not_more_than_the_limit_allows(tmp_path: Path) -> None:
    """Followers.F1: a new one takes the place of one that is away, not of one that is connected."""
    async with open_set(tmp_path) as replicas:
        owner, _ = await three(replicas)
        limits = replace(owner.node.settings.limits, anonymous_max=1)
        owner.node.change_settings(replace(owner.node.settings, limits=limits))
        source = owner.node.settings.instance_name
        first = await follow(replicas, 4, source)
        second = await replicas.start(5, peers=(PeerAddress(source, source),), **ANONYMOUS)
        await until(lambda: second.node.stage == "join")
        await trio.sleep(0.5)
        assert not second.node.is_ready and shown(owner, second) is None
        await replicas.stop(4)
        await until(lambda: second.node.is_ready and any(a.is_following for a in appliers_of(second)))
        assert shown(owner, second) is not None and shown(owner, first) is None


@pytest.mark.effect_of("replication.anon")
async def test_it_becomes_a_member_while_it_runs(tmp_path: Path) -> None:
    """[M-30]: its id comes with the row, and then it counts, is followed, and can be elected."""
    async with open_set(tmp_path, follows_all=True) as replicas:
        owner, others = await three(replicas)
        follower = await follow(replicas, 4)
        assert isinstance(await write(owner, put(1)), ev.Committed)
        be_member(follower)
        await until(lambda: follower.node.core.self_id == 4)
        members = [owner, *others]
        await until(lambda: all(InstanceId(4) in face.links.following for face in members))
        assert owner.info()["replication_anon"]["count"] == 0
        assert follower.node.waits_for == ""
        await until(lambda: verdict(replicas).writable and picture(replicas).quorum == 3)
        promoted = await follower.call(ev.PromoteRequested, timeout_s=10.0)
        assert isinstance(promoted, ev.Promoted), promoted
        assert isinstance(await write(follower, put(2)), ev.Committed)
        await replicas.wait_equal()
        # It stays one over a restart, and there is no way back.
        await replicas.stop(4)
        again = await replicas.start(4, election_mode=ElectionMode.CANDIDATE)
        await until(lambda: again.node.is_ready)
        assert again.node.core.self_id == 4
        await replicas.stop(4)
        await replicas.start(4, **ANONYMOUS)
        await until(lambda: replicas.members["instance004"].error is not None)
        error = replicas.members["instance004"].error
        assert isinstance(error, ConfigError) and "this instance is member 4" in error.message


async def test_it_says_for_whom_it_waits_to_become_a_member(tmp_path: Path) -> None:
    async with open_set(tmp_path, election_mode=ElectionMode.OFF, read_only=True) as replicas:
        writer = await replicas.start(1, read_only=False)
        for number in (2, 3):
            await replicas.start(number)
        await replicas.wait_ready()
        follower = await follow(replicas, 4, reconnect_timeout_s=0.2)
        await replicas.stop(1)
        be_member(follower)
        await until(lambda: "instance001 (does not answer)" in follower.node.waits_for)
        assert "instance002 (read-only)" in follower.node.waits_for
        assert ("waiting", "instance004") in problems(verdict(replicas))
        await replicas.start(1, read_only=False)
        await until(lambda: follower.node.core.self_id == 4)
        assert writer.node.uuid != follower.node.uuid


async def test_one_follows_another(tmp_path: Path) -> None:
    """[M-6]: in a line, over a restart in between, and also when the one in between becomes a member."""
    async with open_set(tmp_path, follows_all=True) as replicas:
        owner, _ = await three(replicas)
        near = await follow(replicas, 4)
        far = await follow(replicas, 5, "instance004")
        assert isinstance(await write(owner, put(1)), ev.Committed)
        await replicas.wait_equal()
        assert shown(near, far) is not None and shown(owner, far) is None
        upstream = shown(far, near)
        assert upstream is not None and upstream["upstream"]["status"] in ("sync", "follow")
        await replicas.stop(4)
        near = await follow(replicas, 4)
        assert isinstance(await write(owner, put(2)), ev.Committed)
        await replicas.wait_equal()
        be_member(near)
        await until(lambda: near.node.core.self_id == 4)
        assert isinstance(await write(owner, put(3)), ev.Committed)
        await replicas.wait_equal()
        assert far.node.core.is_anonymous
        await until(lambda: any(a.is_following and a.peer_id == 4 for a in appliers_of(far)))


async def test_no_member_follows_it(tmp_path: Path) -> None:
    """[M-32]: it is refused by name, until it is a member itself: of two that read a new file, the one that
    follows may be the first."""
    async with open_set(tmp_path) as replicas:
        await three(replicas)
        follower = await follow(replicas, 4)
        await replicas.stop(3)
        names = ("instance001", "instance002", "instance003", "instance004")
        wrong = await replicas.start(3, peers=tuple(PeerAddress(name, name) for name in names))
        await until(lambda: _status(wrong, "instance004") is Status.LOADING)
        assert "does not support non-anonymous" in str(wrong.links.appliers["instance004"].message)
        be_member(follower)
        await until(lambda: _status(wrong, "instance004") in (Status.SYNC, Status.FOLLOW))
        await until(lambda: not wrong.links.appliers["instance004"].message)


def _status(face: Face, name: str) -> Status | None:
    return next((a.status for a in appliers_of(face) if a.address.name == name), None)


async def test_its_source_leaves_the_set(tmp_path: Path) -> None:
    """[M-50]: the stream ends, the others go on."""
    async with open_set(tmp_path) as replicas:
        owner, (leaver, _) = await three(replicas)
        follower = await follow(replicas, 4)
        await expel(owner, leaver)
        await until(lambda: leaver.node.ro_reason is RoReason.EXPELLED)
        name = leaver.node.settings.instance_name
        await until(lambda: not follower.links.appliers[name].is_following)
        assert isinstance(await write(owner, put(1)), ev.Committed)
        await replicas.stop(number_of(leaver))
        await replicas.wait_equal()


async def test_a_wiped_one_takes_a_snapshot_again(tmp_path: Path) -> None:
    """[M-31], [M-36]: under its old UUID if the identity file is left, else under a new one."""
    async with open_set(tmp_path) as replicas:
        owner, _ = await three(replicas)
        follower = await follow(replicas, 4)
        uuid, home = follower.node.uuid, tmp_path / "instance004"
        await replicas.stop(4)
        for file in [*home.glob("*.xlog"), *home.glob("*.snap")]:
            file.unlink()
        assert isinstance(await write(owner, put(1)), ev.Committed)
        follower = await follow(replicas, 4)
        assert follower.node.uuid == uuid
        await replicas.wait_equal()
        await replicas.stop(4)
        shutil.rmtree(home)
        follower = await follow(replicas, 4)
        assert follower.node.uuid != uuid
        await replicas.wait_equal()


async def test_a_copy_of_its_directory_is_told_from_it(tmp_path: Path) -> None:
    """ADR 23: two streams of one UUID would cut each other off for ever."""
    async with open_set(tmp_path) as replicas:
        owner, _ = await three(replicas)
        follower = await follow(replicas, 4)
        await replicas.stop(4)
        shutil.copytree(tmp_path / "instance004", tmp_path / "copy")
        follower = await follow(replicas, 4)
        replicas.settings = replace(replicas.settings, **ANONYMOUS)
        copy = await start_at(replicas, tmp_path / "copy", "instance004", "elsewhere")
        await until(lambda: follower.links.is_doubled and copy.face.links.is_doubled)
        part = shown(owner, follower)
        assert part is None or part.get("doubled")
        copy.stop.set()
        await copy.ended.wait()
        await until(lambda: not follower.links.is_doubled)
        assert isinstance(await write(owner, put(1)), ev.Committed)
        await replicas.wait_equal()


async def test_it_keeps_no_log_for_members(tmp_path: Path) -> None:
    """[W-41]: none of them follows it, so their acks would be waited for without end."""
    async with open_set(tmp_path, checkpoint_count=1) as replicas:
        one = await replicas.start(1)
        await replicas.start(2)
        await replicas.wait_leader()
        await replicas.wait_ready()
        leader = await replicas.wait_leader()
        await create_space(leader)
        follower = await follow(replicas, 3, one.node.settings.instance_name)
        for key in range(3):
            await write(leader, put(key))
            await replicas.wait_equal()
            await follower.checkpoint()
        assert len(follower.node.wal.files) == 1
