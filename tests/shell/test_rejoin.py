"""An instance that cannot follow anybody any more joins again, and forgets nothing by it. [M-35], ADR 46."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from synchro.config import ElectionMode
from synchro.errors import Corruption, RebootstrapRefused
from synchro.failpoints import REGISTRY
from synchro.ids import InstanceId
from synchro.instance import events as ev
from synchro.replication.admission import expelled_error
from synchro.row import RowType
from synchro.server.face import Face
from synchro.server.join import join
from synchro.server.peer_messages import LinkLost
from synchro.storage import row_body
from synchro.storage.identity import Rejoin
from synchro.storage.replacement import SIDE
from synchro.storage.schema import CLUSTER_ID
from tests.shell.memory_set import MemorySet, create_space, open_set, put, until, write
from tests.shell.test_anonymous import follow
from tests.shell.test_lost_logs import formed, keys, node_of, remove_data, start_all


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    REGISTRY.clear()


def directory(tmp_path: Path, number: int) -> Path:
    return tmp_path / f"instance{number:03}"


async def one_too_old(tmp_path: Path, replicas: MemorySet) -> tuple[int, int, int]:
    """b was down; c joined anew meanwhile and has no older log; a, which has it, is down."""
    a, b, c = await formed(replicas)
    await replicas.stop(b)
    assert isinstance(await write(await replicas.wait_leader(), put(1)), ev.Committed)
    await replicas.stop(c)
    remove_data(directory(tmp_path, c))
    await replicas.start(c)
    await until(lambda: node_of(replicas, c).node.is_ready and 1 in keys(node_of(replicas, c)))
    await replicas.stop(a)
    return a, b, c


async def expel(owner: Face, number: InstanceId) -> None:
    outcome = await write(owner, row_body.dml_from_values(RowType.DELETE, CLUSTER_ID, key=(int(number),)))
    assert isinstance(outcome, ev.Committed), outcome


def events(records: list[Any], number: int) -> list[str]:
    return [r["event"] for r in records if r.get("instance") == f"instance{number:03}"]


async def test_who_is_too_old_comes_back_by_itself(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        a, b, _ = await one_too_old(tmp_path, replicas)
        uuid = node_of(replicas, b).node.uuid
        with structlog.testing.capture_logs() as records:
            face = await replicas.start(b)
            await until(lambda: face.node.is_ready and 1 in keys(face))
        said = events(records, b)
        assert said.index("rebootstrap_began") < said.index("joined_again") < said.index("instance_ready")
        began = next(record for record in records if record["event"] == "rebootstrap_began")
        assert began["message"] == "replica is too old, initiating rebootstrap"
        identity = face.node.directory.identity
        assert (identity.instance_uuid, identity.rejoin, identity.amnesia) == (uuid, Rejoin.NO, False)
        assert not list((directory(tmp_path, b) / SIDE).iterdir())
        await replicas.start(a)
        await replicas.wait_leader()
        await replicas.wait_equal()


@pytest.mark.parametrize("is_configured", [False, True])
async def test_who_lost_nothing_by_it_keeps_its_trust(tmp_path: Path, is_configured: bool) -> None:
    """ADR 14: its own UUID is registered, of course, whoever chose it; and its data is there still."""
    async with open_set(tmp_path) as replicas:

        def uuid(number: int) -> dict[str, Any]:
            return {"instance_uuid": f"{number}aaaaaaa-0000-4000-8000-000000000000"} if is_configured else {}

        for number in (1, 2, 3):
            await replicas.start(number, **uuid(number))
        leader = await replicas.wait_leader()
        await replicas.wait_ready()
        await create_space(leader)
        await replicas.wait_equal()
        b, c = (number for number in (1, 2, 3) if node_of(replicas, number) is not leader)
        await replicas.kill(c)
        await replicas.stop(b)
        face = await replicas.start(b, rejoin=True, **uuid(b))
        await until(lambda: face.node.is_ready)
        assert not face.node.directory.identity.amnesia
        assert isinstance(await write(await replicas.wait_leader(), put(2)), ev.Committed)


async def test_a_vote_and_a_term_outlive_it(tmp_path: Path) -> None:
    """S1: what this instance voted in its former files is as if it stood in the new ones."""
    async with open_set(tmp_path) as replicas:
        _, b, c = await one_too_old(tmp_path, replicas)
        face = await replicas.start(b, replication_timeout_s=0.1, election_mode=ElectionMode.VOTER)
        await until(lambda: face.node.is_ready)
        before = node_of(replicas, c).node.core.raft.term
        assert face.node.core.raft.term >= 2
        assert face.node.core.raft.term <= max(before, face.node.core.raft.term)


async def test_it_is_not_begun_while_somebody_has_the_log(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        a, b, _ = await one_too_old(tmp_path, replicas)
        await replicas.start(a)
        await until(lambda: node_of(replicas, a).node.is_ready)
        with structlog.testing.capture_logs() as records:
            face = await replicas.start(b)
            await until(lambda: face.node.is_ready and 1 in keys(face))
        assert "rebootstrap_began" not in events(records, b)


async def test_a_join_that_fails_leaves_the_old_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again; when that has no end, the old files are used, and `status` names the command."""
    async with open_set(tmp_path) as replicas:
        _, b, _ = await one_too_old(tmp_path, replicas)

        async def lost(*_: Any, **__: Any) -> None:
            await trio.lowlevel.checkpoint()
            raise LinkLost("the source went away")

        monkeypatch.setattr("synchro.server.rejoin.join", lost)
        with structlog.testing.capture_logs() as records:
            face = await replicas.start(b, connect_timeout_s=0.5)
            await until(lambda: face.node.is_ready)
        failed = [r["message"] for r in records if r["event"] == "rebootstrap_retry"]
        assert failed[0] == "rebootstrap failed, will retry every 0.10 second: the source went away"
        assert len(failed) <= 10
        assert "rebootstrap_given_up" in events(records, b)
        assert 1 not in keys(face)
        assert face.node.directory.identity.rejoin is Rejoin.NO

        def upstream() -> Any:
            parts = face.info()["replication"].values()
            return [(p.get("upstream") or {}).get("reason") for p in parts]

        await until(lambda: "XLOG_GAP" in upstream())


async def test_who_is_killed_in_the_middle_has_its_old_data_and_goes_on(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        _, b, _ = await one_too_old(tmp_path, replicas)
        REGISTRY.set("relay.final_join_delay", times=1)
        face = await replicas.start(b)
        await until(lambda: REGISTRY.armed["relay.final_join_delay"].waiting > 0)
        assert face.node.directory.identity.rejoin is Rejoin.WANTED
        assert face.info()["loading"]["stage"] == "rejoin"
        before = sorted(path.name for path in directory(tmp_path, b).glob("*.snap"))
        await replicas.kill(b)
        assert sorted(path.name for path in directory(tmp_path, b).glob("*.snap")) == before
        REGISTRY.clear()
        face = await replicas.start(b)
        await until(lambda: face.node.is_ready and 1 in keys(face))
        assert face.node.directory.identity.rejoin is Rejoin.NO


async def test_who_was_removed_does_not_come_back_by_it(tmp_path: Path) -> None:
    """ADR 41: its rows are in no log any more, so it would join anew, and be a new member that nobody asked
    for."""
    async with open_set(tmp_path) as replicas:
        a, b, c = await formed(replicas)
        b_id = node_of(replicas, b).node.core.self_id
        await replicas.stop(b)
        await expel(await replicas.wait_leader(), b_id)
        for one in (c, a):
            await replicas.stop(one)
            remove_data(directory(tmp_path, one))
            face = await replicas.start(one)
            await until(lambda face=face: face.node.is_ready and face.node.core.acks_count)  # type: ignore[misc]
        with structlog.testing.capture_logs() as records:
            face = await replicas.start(b)
            await until(lambda: face.node.is_ready and face.node.core.state.is_expelled)
        assert face.node.core.self_id == b_id
        assert "rebootstrap_began" not in events(records, b)
        assert len(node_of(replicas, a).node.core.memtx.catalog.members()) == 2


async def test_who_is_removed_while_it_joins_again_stays_removed(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        numbers = await formed(replicas)
        leader = await replicas.wait_leader()
        number = next(n for n in numbers if node_of(replicas, n) is not leader)
        face = node_of(replicas, number)
        leaver_id = face.node.core.self_id
        await until(lambda: face.links.connected == 3)
        await until(lambda: face.links.holders_of(face.node.core.vclock.without_local()) > 0)
        face.rebootstrap(discard=False)
        await replicas.members[f"instance{number:03}"].ended.wait()
        REGISTRY.set("join.delay", times=1)
        again = await replicas.start(number)
        await until(lambda: REGISTRY.armed["join.delay"].waiting > 0)
        await expel(leader, leaver_id)
        REGISTRY.clear()
        await until(lambda: again.node.is_ready and again.node.core.state.is_expelled)
        assert again.node.core.self_id == leaver_id
        assert again.node.directory.identity.rejoin is Rejoin.NO
        assert len(leader.node.core.memtx.catalog.members()) == 2


async def test_who_follows_anonymously_and_is_to_be_a_member_is_not_taken_for_removed(tmp_path: Path) -> None:
    """[M-30]: nobody has registered it yet."""
    async with open_set(tmp_path, follows_all=True) as replicas:
        a, b, c = await formed(replicas)
        await follow(replicas, 4)
        await replicas.stop(4)
        assert isinstance(await write(await replicas.wait_leader(), put(1)), ev.Committed)
        await replicas.wait_equal()
        for one in (c, a, b):
            await replicas.stop(one)
            remove_data(directory(tmp_path, one))
            face = await replicas.start(one)
            await until(lambda face=face: face.node.is_ready and face.node.core.acks_count)  # type: ignore[misc]
        await replicas.wait_leader()
        with structlog.testing.capture_logs() as records:
            face = await replicas.start(4, election_mode=ElectionMode.CANDIDATE)
            await until(lambda: face.node.is_ready)
        said = [event for event in events(records, 4) if "rebootstrap" in event or event == "joined_again"]
        assert said == ["rebootstrap_began", "joined_again"]
        assert (face.node.core.self_id, keys(face)) == (4, [1])
        await replicas.wait_equal()


async def test_a_source_that_was_removed_is_a_failed_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its refusal names itself, not who asks."""
    async with open_set(tmp_path) as replicas:
        _, b, _ = await one_too_old(tmp_path, replicas)
        error = expelled_error("11111111-1111-4111-8111-111111111111", InstanceId(3), 2)
        refusals = [error]

        async def refuse_first(*args: Any, **how: Any) -> Any:
            await trio.lowlevel.checkpoint()
            if refusals:
                raise refusals.pop()
            return await join(*args, **how)

        monkeypatch.setattr("synchro.server.rejoin.join", refuse_first)
        with structlog.testing.capture_logs() as records:
            face = await replicas.start(b)
            await until(lambda: face.node.is_ready)
        (retry,) = [record for record in records if record["event"] == "rebootstrap_retry"]
        assert retry["message"].endswith(error.message)
        assert "joined_again" in events(records, b)
        assert keys(face) == [1]


async def test_a_person_lets_one_join_again(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        a, b, c = await formed(replicas)
        leader = await replicas.wait_leader()
        assert isinstance(await write(leader, put(1)), ev.Committed)
        await replicas.wait_equal()
        with pytest.raises(RebootstrapRefused, match=r"owns the queue.*promote"):
            leader.rebootstrap(discard=True)
        number = next(n for n in (a, b, c) if node_of(replicas, n) is not leader)
        face = node_of(replicas, number)
        await until(lambda: face.links.connected == 3)
        await until(lambda: face.links.holders_of(face.node.core.vclock.without_local()) > 0)
        face.rebootstrap(discard=False)
        await replicas.members[f"instance{number:03}"].ended.wait()
        assert face.node.begins_anew
        assert face.node.directory.identity.rejoin is Rejoin.WANTED
        with structlog.testing.capture_logs() as records:
            face = await replicas.start(number)
            await until(lambda: face.node.is_ready)
        assert "joined_again" in events(records, number)
        assert not face.node.directory.identity.amnesia
        await replicas.wait_equal()
        assert 1 in keys(face)


async def test_it_is_refused_where_writes_would_stop(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        a, b, c = await formed(replicas)
        leader = await replicas.wait_leader()
        others = [n for n in (a, b, c) if node_of(replicas, n) is not leader]
        await replicas.stop(others[0])
        face = node_of(replicas, others[1])
        await until(lambda: face.links.connected == 2)
        await until(lambda: face.links.holders_of(face.node.core.vclock.without_local()) > 0)
        with pytest.raises(RebootstrapRefused, match="1 other members are connected, and 2 are needed"):
            face.rebootstrap(discard=False)
        assert face.node.directory.identity.rejoin is Rejoin.NO


async def test_the_last_one_that_has_a_row_gives_it_up_by_a_word_only(tmp_path: Path) -> None:
    """Masters in conflict: the wrong row goes, and its LSN is given again."""
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
        one, two = await replicas.start(1), await replicas.start(2)
        await until(lambda: one.node.is_ready and two.node.is_ready)
        await create_space(one, is_sync=False)
        await replicas.wait_equal()
        await until(lambda: two.node.core.is_writable)
        one.links.cut({"instance002"}, incoming=True, outgoing=True)
        two.links.cut({"instance001"}, incoming=True, outgoing=True)
        assert isinstance(await write(two, put(5, "wrong")), ev.Committed)
        with pytest.raises(RebootstrapRefused, match=r"no other member.*has all of its rows"):
            two.rebootstrap(discard=False)
        two.rebootstrap(discard=True)
        await replicas.members["instance002"].ended.wait()
        one.links.heal({"instance002"})
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready and two.node.core.is_writable)
        assert keys(two) == []
        await replicas.wait_equal()


async def test_damaged_files_are_replaced_by_the_word_of_a_person(tmp_path: Path) -> None:
    """`--rejoin`, for once: what the error about the file names."""
    async with open_set(tmp_path) as replicas:
        _, b, _ = await formed(replicas)
        assert isinstance(await write(await replicas.wait_leader(), put(1)), ev.Committed)
        await replicas.wait_equal()
        await replicas.stop(b)
        snapshot = max(directory(tmp_path, b).glob("*.snap"))
        snapshot.write_bytes(snapshot.read_bytes()[:-1])
        await replicas.start(b)
        await replicas.members[f"instance{b:03}"].ended.wait()
        error = replicas.members[f"instance{b:03}"].error
        assert isinstance(error, Corruption)
        assert "--rejoin" in error.message
        face = await replicas.start(b, rejoin=True)
        await until(lambda: face.node.is_ready and 1 in keys(face))
        await until(lambda: not face.node.directory.identity.amnesia)  # it hears the others
        await replicas.wait_equal()


async def test_no_two_at_once(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        a, b, c = await formed(replicas)
        await replicas.wait_equal()
        leader = await replicas.wait_leader()
        others = [n for n in (a, b, c) if node_of(replicas, n) is not leader]
        for number in others:
            await replicas.stop(number)
        REGISTRY.set("join.delay", times=1)
        for number in others:
            await replicas.start(number, rejoin=True, connect_timeout_s=30.0)
        await until(lambda: REGISTRY.armed["join.delay"].waiting > 0)
        rejoins = [replicas.members[f"instance{n:03}"].peers for n in others]
        await until(lambda: any(peers.rejoins for peers in rejoins))

        def waits() -> bool:
            whys = [node_of(replicas, n).node.waits_for for n in others]
            return any("joins again, and no two do it at once" in why for why in whys)

        await until(waits)
        await trio.sleep(0.5)
        assert len(leader.links.joins) == 1 and waits()
        REGISTRY.clear()
        await until(lambda: all(node_of(replicas, n).node.is_ready for n in others))
        await start_all(replicas)
        await replicas.wait_equal()
