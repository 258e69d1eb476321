"""Who makes the set and who joins: the choice alone, then whole instances in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from synchro.config import BootstrapStrategy, ElectionMode, PeerAddress, Settings
from synchro.errors import (
    AccessDenied,
    ConfigError,
    Corruption,
    InstanceNameMismatch,
    ReplicasetNameMismatch,
    ReplicasetUuidMismatch,
)
from synchro.failpoints import REGISTRY
from synchro.ids import InstanceId, InstanceName
from synchro.instance import events as ev
from synchro.replication.ballot import Ballot
from synchro.replication.bootstrap_choice import (
    BootstrapHere,
    JoinFrom,
    WaitForPeers,
    best,
    choose,
    is_foreign,
    own_ballot,
)
from synchro.server import reminders
from synchro.server.join import serve_join
from synchro.server.peer_messages import JoinRequest, JoinStart
from tests.mesh import uuid_of
from tests.shell.memory_set import MemorySet, create_space, open_set, put, until, write

PEERS = tuple(PeerAddress(name, name) for name in ("a", "b", "c"))


def settings(name: str = "a", **changes: object) -> Settings:
    return replace(
        Settings(instance_name=InstanceName(name), peers=PEERS, election_mode=ElectionMode.CANDIDATE),
        **changes,  # type: ignore[arg-type]
    )


def empty(uuid: str, chose: str = "", **changes: object) -> Ballot:
    """A peer without data that may lead."""
    made = own_ballot(settings(), uuid)
    return replace(made, instance_name=uuid, bootstrap_leader_uuid=chose, **changes)  # type: ignore[arg-type]


def test_lowest_uuid_bootstraps_when_all_named_it() -> None:
    """[M-14]: equal scores, so the lowest UUID; and unanimity."""
    role = choose(
        settings(), empty("1", "1"), {"b": empty("2", "1"), "c": empty("3", "1")}, total=3, is_time_over=False
    )
    assert role == BootstrapHere()


def test_leader_waits_for_a_peer_that_has_not_chosen() -> None:
    """[M-14] ER_BOOTSTRAP_NOT_UNANIMOUS: two instances must never both make a set."""
    role = choose(
        settings(), empty("1", "1"), {"b": empty("2", "1"), "c": empty("3")}, total=3, is_time_over=False
    )
    assert isinstance(role, WaitForPeers)
    assert "different bootstrap leader" in role.why


def test_the_others_name_the_leader_and_wait() -> None:
    role = choose(settings(), empty("2"), {"b": empty("1"), "c": empty("3")}, total=3, is_time_over=False)
    assert role == WaitForPeers("1 bootstraps the replica set", "1")


NAMED = tuple(PeerAddress(f"instance00{n}", f"h{n}:1") for n in (1, 2, 3))


def named(**changes: object) -> Settings:
    """instance003 of a file that names a replica set "mine"."""
    own = settings("instance003", peers=NAMED, is_named=True, replicaset_name="mine")
    return replace(own, **changes)  # type: ignore[arg-type]


def member_of(replicaset: str, name: str, **changes: object) -> Ballot:
    """As it answers: of a set that is made, in whose configuration it has that name."""
    theirs = settings(name, is_named=bool(replicaset), replicaset_name=replicaset)
    made = replace(own_ballot(theirs, name, "other-set"), is_booted=True, is_ro=False)
    return replace(made, **changes)  # type: ignore[arg-type]


def chosen(own: Settings, *peers: Ballot) -> object:
    heard = {f"h{n}:1": ballot for n, ballot in enumerate(peers, 1)}
    return choose(own, own_ballot(own, "3"), heard, total=3, is_time_over=True)


@pytest.mark.parametrize("is_made", [True, False])
def test_nobody_joins_a_set_of_another_name(is_made: bool) -> None:
    """[M-5]: it has an absent member of the same name, whose place would be taken. A set that is not made yet
    would be made with it."""
    other = member_of("theirs", "instance001", is_booted=is_made, replicaset_uuid="other-set" * is_made)
    with pytest.raises(ReplicasetNameMismatch, match="expected mine, got theirs of h1:1") as refused:
        chosen(named(), other)
    assert "nothing was joined" in refused.value.message
    assert refused.value.details["uuid"] == other.replicaset_uuid


def test_nobody_joins_where_another_instance_answers() -> None:
    """[M-5]: the addresses are of another set, which an older version does not name."""
    with pytest.raises(InstanceNameMismatch, match=r"expected instance001 at h1:1 .*, got storage-a"):
        chosen(named(), member_of("", "storage-a"))


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        (named(), "mine"),
        (named(), ""),  # by flags, or of an older version
        (named(is_named=False), "theirs"),  # by flags
        (named(replicaset_uuid="other-set"), "theirs"),  # the file says that it is to join that very set
    ],
)
def test_whose_names_do_not_contradict_each_other_join(own: Settings, theirs: str) -> None:
    assert isinstance(chosen(own, member_of(theirs, "instance001")), JoinFrom)


def test_a_member_without_its_data_joins_its_set_whatever_that_is_called_now() -> None:
    """The UUID says more than a name, which people change."""
    me = own_ballot(named(), "3", "other-set")
    role = choose(named(), me, {"h1:1": member_of("renamed", "instance001")}, total=3, is_time_over=True)
    assert isinstance(role, JoinFrom)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"is_anonymous": True},
        {"bootstrap_strategy": BootstrapStrategy.CONFIG, "bootstrap_leader": "instance001"},
        {"bootstrap_strategy": BootstrapStrategy.LEGACY},
    ],
)
def test_what_waits_says_why_nobody_is_heard(how: dict[str, Any]) -> None:
    """It said that they do not answer, and the reason stood nowhere."""
    own, why = named(**how), "the other end refuses this certificate: it has expired"
    role = choose(own, own_ballot(own, "3"), {}, total=3, is_time_over=True, unheard={"h1:1": why})
    assert isinstance(role, WaitForPeers)
    assert why in role.why


def test_a_member_without_its_data_says_why_it_hears_nobody() -> None:
    me = own_ballot(named(), "3", "its-set")
    role = choose(named(), me, {}, total=3, is_time_over=True, unheard={"h2:1": "no ALPN"})
    assert isinstance(role, WaitForPeers)
    assert "instance001 (does not answer), instance002 (no ALPN)" in role.why


async def test_a_join_that_is_refused_says_why_in_info(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong password, no privilege: it stood in the log only. When data comes nothing is waited for."""
    async with open_set(tmp_path, size=2) as replicas:
        first = await replicas.start(
            1,
            connect_timeout_s=0.0,
            bootstrap_strategy=BootstrapStrategy.CONFIG,
            bootstrap_leader="instance001",
        )
        await replicas.wait_ready()
        peers, serve = replicas.members["instance001"].peers, replicas.members["instance001"].peers.serve_join
        refuses = True

        async def refuse(request: JoinRequest) -> Any:
            if refuses:
                raise AccessDenied("Write access to space '_cluster' is denied for user 'app'")
            async for item in serve(request):
                yield item

        monkeypatch.setattr(peers, "serve_join", refuse)
        joiner = await replicas.start(2)
        await until(lambda: "is denied for user 'app'" in str(joiner.info()["waits_for"]))
        assert str(joiner.info()["waits_for"]).startswith("to join instance001 (")
        refuses = False
        await until(lambda: joiner.node.is_ready)
        assert joiner.info()["waits_for"] is None
        assert first.node.is_ready


async def test_who_is_asked_for_a_join_compares_the_names_too(tmp_path: Path) -> None:
    """[M-5], [M-20]: the ballot may be of a moment ago, or a joiner does not look at it."""
    async with open_set(tmp_path, size=1, is_named=True, replicaset_name="theirs") as replicas:
        face = await replicas.start(1)
        await replicas.wait_leader()
        for request, error in (
            (JoinRequest(uuid_of(9), "instance002", replicaset_name="mine"), ReplicasetNameMismatch),
            (JoinRequest(uuid_of(9), "instance002", replicaset_uuid="mine"), ReplicasetUuidMismatch),
        ):
            with pytest.raises(error):
                await anext(serve_join(face.node, face.links, request))
        known = JoinRequest(
            uuid_of(9), "instance002", replicaset_uuid=face.node.replicaset_uuid, replicaset_name="mine"
        )
        items = serve_join(face.node, face.links, known)
        assert isinstance(await anext(items), JoinStart)
        await items.aclose()


@pytest.mark.parametrize("strategy", list(BootstrapStrategy))
def test_an_instance_of_a_set_never_makes_another(strategy: BootstrapStrategy) -> None:
    """Whatever the configuration says, all named it and time is over: its data is somewhere, or it
    is for a person to say that it is not."""
    mine = settings(
        bootstrap_strategy=strategy, bootstrap_leader="a", again="synchro restart '/etc/my set.yaml:a'"
    )
    me = replace(empty("1", "1"), instance_name="a", replicaset_uuid="X")
    some = {"b": empty("2", "1")}
    role = choose(mine, me, some, total=3, is_time_over=True)
    assert isinstance(role, WaitForPeers)
    assert role.is_bereft
    assert "b (never had data), c (does not answer)" in role.why
    assert "--new-set" not in role.why
    everybody = {"b": empty("2", "1"), "c": empty("3", "1", replicaset_uuid="X")}
    role = choose(mine, me, everybody, total=3, is_time_over=True)
    assert isinstance(role, WaitForPeers)
    assert "c (its data is gone too)" in role.why
    assert "stop it, then once: synchro restart '/etc/my set.yaml:a' --new-set" in role.why

    alive = {"b": empty("2"), "c": empty("3", replicaset_uuid="X", is_booted=True)}
    assert choose(mine, me, alive, total=3, is_time_over=False) == JoinFrom("c", alive["c"])
    with pytest.raises(ReplicasetUuidMismatch, match="--new-set"):
        choose(mine, me, {"c": empty("3", replicaset_uuid="Y", is_booted=True)}, total=3, is_time_over=True)


@pytest.mark.parametrize("strategy", list(BootstrapStrategy))
def test_nobody_makes_a_set_beside_one_that_lost_its_data(strategy: BootstrapStrategy) -> None:
    mine = settings(bootstrap_strategy=strategy, bootstrap_leader="a")
    peers = {"b": empty("2", "1"), "c": empty("3", "1", replicaset_uuid="X")}
    role = choose(mine, replace(empty("1", "1"), instance_name="a"), peers, total=3, is_time_over=True)
    assert isinstance(role, WaitForPeers)
    assert role.why.startswith("3 lost the data")


def test_two_of_three_wait_for_the_third_until_time_is_over() -> None:
    """[M-13]: all are waited for; then a majority is enough."""
    peers = {"b": empty("2", "1")}
    assert isinstance(choose(settings(), empty("1", "1"), peers, total=3, is_time_over=False), WaitForPeers)
    assert choose(settings(), empty("1", "1"), peers, total=3, is_time_over=True) == BootstrapHere()


def test_a_minority_never_bootstraps() -> None:
    role = choose(settings(), empty("1"), {}, total=3, is_time_over=True)
    assert isinstance(role, WaitForPeers)


def test_a_choice_is_kept_while_the_chosen_one_is_away() -> None:
    """It may have made the set before it was cut off; another one would be a second set."""
    role = choose(settings(), empty("2", "1"), {"c": empty("3", "2")}, total=3, is_time_over=True)
    assert isinstance(role, WaitForPeers)
    assert role.leader_uuid == "1"


def test_who_finds_a_set_joins_its_owner() -> None:
    """[M-14]: the owner of the queue is the best source of a join."""
    member = empty("2", is_booted=True, replicaset_uuid="s", instance_id=InstanceId(1))
    owner = replace(
        member, instance_uuid="3", instance_id=InstanceId(2), queue_owner=InstanceId(2), is_ro=False
    )
    role = choose(settings(), empty("1"), {"b": member, "c": owner}, total=3, is_time_over=False)
    assert role == JoinFrom("c", owner)


def test_peers_of_two_sets_are_refused() -> None:
    """[M-2]: with both UUIDs, and nothing is changed."""
    one = empty("2", is_booted=True, replicaset_uuid="s1")
    two = empty("3", is_booted=True, replicaset_uuid="s2")
    with pytest.raises(ReplicasetUuidMismatch, match="s1, s2"):
        choose(settings(), empty("1"), {"b": one, "c": two}, total=3, is_time_over=False)


def test_files_of_another_set_are_foreign_when_most_peers_say_so() -> None:
    """QS-4. A single peer with wrong files must not keep the others from starting."""
    ours, theirs = (empty("2", is_booted=True, replicaset_uuid=uuid) for uuid in ("ours", "theirs"))
    assert is_foreign("ours", {"b": theirs}, total=1) == "theirs"
    assert is_foreign("ours", {"b": theirs, "c": theirs}, total=2) == "theirs"
    assert is_foreign("ours", {"b": theirs, "c": ours}, total=2) is None
    assert is_foreign("ours", {"b": theirs}, total=2) is None
    assert is_foreign("ours", {"b": empty("2"), "c": empty("3")}, total=2) is None
    assert is_foreign("ours", {}, total=0) is None


def test_a_configured_read_only_instance_does_not_bootstrap() -> None:
    """[M-15]"""
    with pytest.raises(ConfigError, match="read-only"):
        choose(
            settings(read_only=True, bootstrap_strategy=BootstrapStrategy.CONFIG, bootstrap_leader="a"),
            empty("1"),
            {},
            total=3,
            is_time_over=False,
        )


def test_the_configured_leader_asks_nobody() -> None:
    """[M-16]"""
    mine = settings(bootstrap_strategy=BootstrapStrategy.CONFIG, bootstrap_leader="a")
    assert choose(mine, own_ballot(mine, "9"), {}, total=3, is_time_over=False) == BootstrapHere()


def test_a_configured_leader_that_may_only_vote_makes_no_set() -> None:
    """[M-16]: nobody could ever join it."""
    mine = settings(
        bootstrap_strategy=BootstrapStrategy.CONFIG, bootstrap_leader="a", election_mode=ElectionMode.VOTER
    )
    with pytest.raises(ConfigError, match="may only vote"):
        choose(mine, own_ballot(mine, "9"), {}, total=3, is_time_over=False)


def test_a_writable_instance_scores_higher_than_a_lower_uuid() -> None:
    """[M-14]: +100 for not configured read-only."""
    assert best({"b": empty("1", is_ro_cfg=True), "c": empty("2")}) == "c"


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
async def test_three_instances_form_one_set_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    """[M-11]: launch order is irrelevant."""
    async with open_set(tmp_path) as replicas:
        for number in order:
            await replicas.start(number)
            await trio.sleep(0.05)
        await replicas.wait_ready()
        leader = await replicas.wait_leader()
        await create_space(leader)
        await write(leader, put(1))
        await replicas.wait_equal()
        assert len({face.node.replicaset_uuid for face in replicas.nodes}) == 1
        assert {int(face.node.core.self_id) for face in replicas.nodes} == {1, 2, 3}
        assert all(face.node.core.memtx.get(512, 0, (1,)) == (1, "x") for face in replicas.nodes)


async def form(replicas: MemorySet, *numbers: int) -> None:
    for number in numbers:
        await replicas.start(number)
    await replicas.wait_ready()
    await replicas.wait_leader()


async def test_the_own_address_by_another_name_is_no_other_instance(tmp_path: Path) -> None:
    """[M-47]: who finds itself at one of its sources counts itself once, and does not wait for a second."""
    sources = tuple(PeerAddress(name, name) for name in ("other-name", "instance002"))
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF, connect_timeout_s=60) as replicas:
        first = await replicas.start(1, peers=sources)
        replicas.network.endpoints["other-name"] = replicas.members["instance001"].peers
        second = await replicas.start(2)
        await until(lambda: first.node.is_ready and second.node.is_ready)
        assert first.node.replicaset_uuid == second.node.replicaset_uuid


async def test_a_set_restarts_with_its_data(tmp_path: Path) -> None:
    """[W-20], [M-12]: recovery instead of join; a new leader is elected."""
    async with open_set(tmp_path) as replicas:
        await form(replicas, 1, 2, 3)
        leader = await replicas.wait_leader()
        await create_space(leader)
        await write(leader, put(7, "kept"))
        await replicas.wait_equal()
    async with open_set(tmp_path) as replicas:
        await form(replicas, 1, 2, 3)
        assert all(face.node.core.memtx.get(512, 0, (7,)) == (7, "kept") for face in replicas.nodes)


async def test_a_late_instance_joins_and_catches_up(tmp_path: Path) -> None:
    """[M-21], [M-22], [M-23]: stage 1 is the snapshot, stage 2 the rows up to its registration. It has the
    queue and the term of the source from the start [M-24], [L-13], so it is never writable [L-28]."""
    async with open_set(tmp_path, connect_timeout_s=0.3) as replicas:
        await form(replicas, 1, 2)
        leader = await replicas.wait_leader()
        await create_space(leader)
        for key in range(50):
            await write(leader, put(key))
        joiner = await replicas.start(3)
        await until(lambda: joiner.node.has_core)
        assert joiner.node.core.limbo.owner_id == leader.node.core.self_id
        assert joiner.node.core.limbo.term == leader.node.core.limbo.term
        assert not joiner.node.core.is_writable
        assert list((tmp_path / "instance003").glob("*.snap"))  # [M-28], [W-35]
        await replicas.wait_ready()
        await replicas.wait_equal()
        assert joiner.node.core.memtx.count(512) == 50


async def test_an_instance_without_peers_makes_its_own_set_and_owns_it_at_once(tmp_path: Path) -> None:
    """[M-10], [E-26]: in mode manual nobody else would promote it."""
    async with open_set(tmp_path, size=1, election_mode=ElectionMode.MANUAL) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        assert face.node.core.self_id == face.node.core.limbo.owner_id == 1
        assert (tmp_path / "instance001" / f"{0:020}.snap").exists()


@pytest.mark.parametrize("read_only", [True, False], ids=["replica", "master"])
@pytest.mark.parametrize("is_late", [False, True], ids=["at-once", "late"])
async def test_who_names_only_its_source_waits_for_it(tmp_path: Path, read_only: bool, is_late: bool) -> None:
    """[M-11], [T-4]: `serve --replication` names others only, and the order of starts does not matter."""
    timeout_s = 0.2 if is_late else 30.0
    how = {"election_mode": ElectionMode.OFF, "connect_timeout_s": timeout_s}
    async with open_set(tmp_path, size=2, **how) as made:
        first, second = made.settings.peers
        two = await made.start(2, peers=(first,), read_only=read_only)
        await until(lambda: "instance001 (instance001) does not answer" in two.node.waits_for)
        if is_late:
            await trio.sleep(2 * timeout_s)
        assert not two.node.has_core and made.members["instance002"].error is None
        one = await made.start(1, peers=(first,) if read_only else (second,))
        await until(lambda: one.node.is_ready and two.node.is_ready)
        assert one.node.replicaset_uuid == two.node.replicaset_uuid


async def test_who_began_to_join_makes_no_other_set_when_its_maker_is_gone(tmp_path: Path) -> None:
    """[M-14], ADR 14: the maker may have acknowledged writes alone, before anybody had joined."""
    async with open_set(tmp_path, election_mode=ElectionMode.CANDIDATE, connect_timeout_s=0.5) as replicas:
        REGISTRY.set("join.delay")
        uuids = {number: f"{number}aaaaaaa-0000-4000-8000-000000000000" for number in (1, 2, 3)}
        faces = {number: await replicas.start(number, instance_uuid=uuids[number]) for number in uuids}
        await until(lambda: faces[1].node.is_ready and REGISTRY.armed["join.delay"].waiting > 0)
        await until(lambda: faces[1].node.core.is_writable)
        await create_space(faces[1])
        assert isinstance(await write(faces[1], put(7, "kept")), ev.Committed)
        await replicas.kill(1)
        REGISTRY.clear()
        waits = "which was begun to be joined, and does not answer"
        await until(lambda: all(waits in faces[number].node.waits_for for number in (2, 3)))
        await trio.sleep(1.5)  # a few times the connect_timeout
        assert not any(faces[number].node.has_core for number in (2, 3))
        await replicas.start(1, instance_uuid=uuids[1])
        await replicas.wait_ready()
        await replicas.wait_equal()
        assert faces[2].node.core.memtx.get(512, 0, (7,)) == (7, "kept")


async def test_the_ballot_says_what_others_choose_by(tmp_path: Path) -> None:
    """[M-7]: before there is data, and afterwards."""
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.MANUAL) as replicas:
        one = await replicas.start(1)
        ballot = replicas.members["instance001"].peers.ballot()
        assert (ballot.instance_uuid, ballot.instance_name) == (one.node.uuid, "instance001")
        assert (ballot.is_booted, ballot.is_ro, ballot.is_ro_cfg) == (False, True, False)
        assert ballot.can_lead
        await form(replicas, 2)
        leader = await replicas.wait_leader()
        await replicas.wait_equal()
        ballots = {name: member.peers.ballot() for name, member in replicas.members.items()}
        for name, ballot in ballots.items():
            assert (ballot.instance_name, ballot.is_booted) == (name, True)
            assert ballot.is_ro == (ballot.instance_uuid != leader.node.uuid)
            assert ballot.vclock == leader.node.core.vclock.without_local()
            assert ballot.gc_vclock.without_local() == ballot.gc_vclock
            assert ballot.registered_uuids == {face.node.uuid for face in replicas.nodes}
        made_by = {ballot.bootstrap_leader_uuid for ballot in ballots.values()}
        assert len(made_by) == 1 and made_by <= {face.node.uuid for face in replicas.nodes}


async def test_a_join_waits_for_somebody_who_may_write(tmp_path: Path) -> None:
    """[M-27]: a source that is read-only refuses; the joiner asks again until one is not."""
    async with open_set(tmp_path, connect_timeout_s=0.3, election_mode=ElectionMode.MANUAL) as replicas:
        await form(replicas, 1, 2)
        leader = await replicas.wait_leader()
        await until(lambda: all(len(face.links.following) == 1 for face in replicas.nodes))
        assert isinstance(await leader.call(ev.DemoteRequested, timeout_s=5), ev.Demoted)
        with structlog.testing.capture_logs() as records:
            joiner = await replicas.start(3)
            await until(lambda: any(record["event"] == "join_retry" for record in records))
        assert "read-only" in next(r["message"] for r in records if r["event"] == "join_retry")
        assert not joiner.node.has_core
        assert isinstance(await leader.call(ev.PromoteRequested, timeout_s=5), ev.Promoted)
        await until(lambda: joiner.node.is_ready)
        assert joiner.node.core.self_id == 3


@pytest.mark.parametrize("event", ["join_retry", "bootstrap_waiting"])
async def test_a_first_start_that_cannot_go_on_says_so_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    """At info when it begins, then every minute at warning, with the time that it has waited."""
    monkeypatch.setattr(reminders, "AGAIN_S", 0.3)
    async with open_set(tmp_path, election_mode=ElectionMode.VOTER, connect_timeout_s=0.2) as replicas:
        with structlog.testing.capture_logs() as records:
            await replicas.start(1)
            if event == "join_retry":
                await replicas.start(2)  # one makes the set, and will never own the queue

            def warned() -> list[Any]:
                return [r for r in records if r["event"] == event and r["log_level"] == "warning"]

            await until(lambda: len(warned()) >= 2)
        waiting = [r for r in records if r["event"] in ("join_retry", "bootstrap_waiting")]
        assert waiting[0]["log_level"] == "info" and len(waiting) < 12, "not in each round"
        assert all(record["message"] and record["next"] for record in warned())


async def test_a_data_directory_without_snapshot_is_refused(tmp_path: Path) -> None:
    """S15: a log alone is a sign of damage, not of a first start."""
    async with open_set(tmp_path, size=1) as replicas:
        await form(replicas, 1)
    for path in (tmp_path / "instance001").glob("*.snap"):
        path.unlink()
    async with open_set(tmp_path, size=1) as replicas:
        with pytest.raises(RuntimeError, match="without calling task_status"):
            await replicas.start(1)
        assert isinstance(replicas.members["instance001"].error, Corruption)


async def test_a_lost_directory_is_amnesia_until_all_others_were_heard(tmp_path: Path) -> None:
    """S14: the same name comes back under a new UUID, with its old id [M-25], and may not vote at
    once. A person may have deleted the files on purpose [M-36], [W-28]."""
    async with open_set(tmp_path) as replicas:
        await form(replicas, 1, 2, 3)
        leader = await replicas.wait_leader()
        await create_space(leader)
        victim = next(n for n in (1, 2, 3) if replicas.members[f"instance{n:03}"].face is not leader)
        old_id = replicas.members[f"instance{victim:03}"].face.node.core.self_id
        await replicas.stop(victim)
        for path in (tmp_path / f"instance{victim:03}").iterdir():
            path.unlink()
        face = await replicas.start(victim)
        await until(lambda: face.node.is_ready)
        assert face.node.core.self_id == old_id
        await until(lambda: face.node.core.acks_count and not face.node.directory.identity.amnesia)


async def test_a_join_killed_before_its_snapshot_starts_over(tmp_path: Path) -> None:
    """[M-26], ADR 9: the identity file is there, some files of a join are; it comes back as itself."""
    async with open_set(tmp_path, connect_timeout_s=0.3) as replicas:
        await form(replicas, 1, 2)
        face = await replicas.start(3)
        await until(lambda: face.node.is_ready)
        uuid, number = face.node.uuid, face.node.core.self_id
        await replicas.stop(3)
        directory = tmp_path / "instance003"
        for path in directory.glob("*.snap"):
            path.rename(path.with_name(path.name + ".inprogress"))
        identity = face.node.directory.identity
        face.node.directory.save(replace(identity, replicaset_uuid=None))
        face = await replicas.start(3)
        await until(lambda: face.node.is_ready)
        assert (face.node.uuid, face.node.core.self_id) == (uuid, number)
        assert face.node.core.acks_count
        assert not list(directory.glob("*.inprogress"))
