"""Members that leave and come while the others run on. [M-36], [M-50], [M-52], ADR 41."""

from __future__ import annotations

import shutil
from pathlib import Path

import trio

from synchro.config import PeerAddress
from synchro.errors import Expelled
from synchro.ids import InstanceId
from synchro.instance import events as ev
from synchro.ro_reason import RoReason
from synchro.row import RowType
from synchro.server.applier import Status
from synchro.server.face import Face
from synchro.server.snapshotter import Snapshotter
from synchro.storage import row_body
from synchro.storage.schema import CLUSTER_ID
from tests.shell.memory_set import appliers_of, open_set, put, until, write
from tests.shell.test_lost_logs import remove_data
from tests.shell.test_relay_applier import is_meshed, three
from tests.shell.test_verdicts import picture, problems, verdict


async def expel(owner: Face, face: Face) -> InstanceId:
    number = face.node.core.self_id
    outcome = await write(owner, row_body.dml_from_values(RowType.DELETE, CLUSTER_ID, key=(int(number),)))
    assert isinstance(outcome, ev.Committed), outcome
    return number


def number_of(face: Face) -> int:
    """Of its name, which its id need not be."""
    return int(face.node.settings.instance_name[-3:])


def has_stream_with(face: Face, number: InstanceId) -> bool:
    links = face.links
    return number in links.relays or any(a.has_link and a.peer_id == number for a in appliers_of(face))


async def test_who_is_expelled_applies_it_ends_its_streams_and_says_why(tmp_path: Path) -> None:
    """[M-50], [M-52]: and the others have no stream with it, nor a line in `info`."""
    async with open_set(tmp_path, replication_timeout_s=0.25) as replicas:
        owner, (leaver, other) = await three(replicas)
        number = await expel(owner, leaver)
        await until(lambda: leaver.node.ro_reason is RoReason.EXPELLED)
        stay = (owner, other)
        await until(lambda: not any(has_stream_with(face, number) for face in stay))
        await until(lambda: all(applier.status is Status.STOPPED for applier in appliers_of(leaver)))
        assert number not in leaver.node.core.registered  # by its own log, not by hearsay
        await trio.sleep(5 * 0.1)  # it is not let in again
        for face in stay:
            assert not has_stream_with(face, number)
            assert int(number) not in face.info()["replication"]
        outcome = await write(leaver, put(1))
        assert isinstance(outcome, ev.Rejected) and "removed from the replica set" in outcome.error.message
        assert isinstance(await write(owner, put(2)), ev.Committed)
        found = verdict(replicas)
        assert ("expelled", leaver.node.settings.instance_name) in problems(found)
        assert found.writable and picture(replicas).quorum == 2


async def test_who_was_away_is_told_at_its_next_hello(tmp_path: Path) -> None:
    """Its log does not say it, so it would ask for ever."""
    async with open_set(tmp_path) as replicas:
        owner, (leaver, _) = await three(replicas)
        await replicas.stop(number_of(leaver))
        number = await expel(owner, leaver)
        again = await replicas.start(number_of(leaver))
        await until(lambda: again.node.ro_reason is RoReason.EXPELLED)
        assert number in again.node.core.registered
        assert not any(has_stream_with(face, number) for face in replicas.nodes if face is not again)
        await until(lambda: all(applier.status is Status.STOPPED for applier in appliers_of(again)))
        assert {a.facts()["stopped_by"]["reason"] for a in appliers_of(again)} == {"EXPELLED"}


async def test_it_starts_with_a_snapshot_that_does_not_have_it(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        owner, (leaver, _) = await three(replicas)
        await expel(owner, leaver)
        await until(lambda: leaver.node.ro_reason is RoReason.EXPELLED)
        await Snapshotter(leaver.node, leaver.links).checkpoint()
        await replicas.stop(number_of(leaver))
        again = await replicas.start(number_of(leaver))
        await until(lambda: again.node.ro_reason is RoReason.EXPELLED)
        await until(lambda: all(applier.status is Status.STOPPED for applier in appliers_of(again)))


async def test_it_comes_back_without_its_files_as_a_new_member(tmp_path: Path) -> None:
    """[M-36], ADR 41: at the same address and under the same name, and under an id that nobody had."""
    async with open_set(tmp_path) as replicas:
        owner, (leaver, other) = await three(replicas)
        await expel(owner, leaver)
        await until(lambda: leaver.node.ro_reason is RoReason.EXPELLED)
        await replicas.stop(number_of(leaver))
        shutil.rmtree(tmp_path / leaver.node.settings.instance_name)
        again = await replicas.start(number_of(leaver))
        await until(lambda: again.node.is_ready)
        assert again.node.core.self_id == 4
        await until(lambda: all(is_meshed(face) for face in (owner, other, again)))
        await replicas.wait_equal()


async def test_with_its_identity_alone_it_does_not_come_back(tmp_path: Path) -> None:
    """ADR 41: an instance that was removed is a new member only under a new identity. It joined under the
    old one, which every member takes for that of one that was removed."""
    async with open_set(tmp_path) as replicas:
        owner, (leaver, other) = await three(replicas)
        await expel(owner, leaver)
        await until(lambda: leaver.node.ro_reason is RoReason.EXPELLED)
        name, number = leaver.node.settings.instance_name, number_of(leaver)
        await replicas.stop(number)
        remove_data(tmp_path / name)
        await replicas.start(number)
        await until(replicas.members[name].ended.is_set)
        error = replicas.members[name].error
        assert isinstance(error, Expelled), error
        assert error.details["uuid"] == leaver.node.uuid
        assert "instance.identity too, take database.instance_uuid out of its configuration" in error.message
        assert (
            owner.node.core.registered == other.node.core.registered == {1, 2, 3} - {leaver.node.core.self_id}
        )
        shutil.rmtree(tmp_path / name)  # as it is advised
        again = await replicas.start(number)
        await until(lambda: again.node.is_ready)
        assert again.node.core.self_id == 4


async def test_a_new_member_is_followed_by_all_without_their_restart(tmp_path: Path) -> None:
    """Nobody has it in its file; it says in its Hello where it listens. It can be promoted then."""
    async with open_set(tmp_path, follows_all=True) as replicas:
        owner, others = await three(replicas)
        peers = (*replicas.settings.peers, PeerAddress("instance004", "instance004"))
        new = await replicas.start(4, peers=peers)
        olds = [owner, *others]
        await until(lambda: all(InstanceId(4) in face.links.following for face in olds))
        listed = owner.info()["replication"][4]
        assert listed["upstream"]["peer"] == listed["downstream"]["address"] == "instance004"
        assert owner.address_of(InstanceId(4)) == "instance004"
        await until(lambda: verdict(replicas).writable and picture(replicas).quorum == 3)
        promoted = await new.call(ev.PromoteRequested, timeout_s=10.0)
        assert isinstance(promoted, ev.Promoted), promoted
        assert isinstance(await write(new, put(4)), ev.Committed)
        # And it leaves again.
        keeper = replicas.members["instance001"].face
        back = await keeper.call(ev.PromoteRequested, timeout_s=10.0)
        assert isinstance(back, ev.Promoted), back
        await expel(keeper, new)
        await until(lambda: not any("instance004" in face.links.appliers for face in olds))


async def test_sources_that_were_named_stay_as_they_are(tmp_path: Path) -> None:
    """Master and replicas, rings and lines [A-2]: who has `replication.peers` follows those alone."""
    async with open_set(tmp_path) as replicas:
        owner, _ = await three(replicas)
        peers = (*replicas.settings.peers, PeerAddress("instance004", "instance004"))
        new = await replicas.start(4, peers=peers)
        await until(lambda: new.node.is_ready and InstanceId(4) in owner.links.relays)
        assert "instance004" not in owner.links.appliers
        assert owner.address_of(InstanceId(4)) == "instance004"
