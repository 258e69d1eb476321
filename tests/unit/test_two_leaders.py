"""Quorum 1, two candidates: a leader that was away, and two leaders of one term (ADR 15)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from synchro.config import ElectionMode, QuorumFormula
from synchro.errors import SplitBrain
from synchro.ids import InstanceId, Lsn
from synchro.instance import events as ev
from synchro.queue.limbo import QueueState
from tests.mesh import ASYNC, SYNC, Mesh
from tests.unit.limbo_world import A, B, C, Data, LogRow, Site, confirm, promote


def set_of(members: int, quorum: int = 1) -> Mesh:
    """Candidates without a majority; 1 leads and owns the queue."""
    mesh = Mesh(members, election_mode=ElectionMode.CANDIDATE, synchro_quorum=QuorumFormula(quorum))
    mesh.promote(1)
    mesh.settle()
    assert mesh[1].limbo.state is QueueState.LEADER
    return mesh


def owners(mesh: Mesh) -> list[int]:
    return [number for number in mesh.members if mesh[number].limbo.state is QueueState.LEADER]


def assert_one_leader(mesh: Mesh) -> int:
    """One owner that all follow, without an error on anybody, and a write of it is everywhere."""
    mesh.run_for(20)
    (owner,) = owners(mesh)
    assert {mesh[n].raft.leader for n in mesh.members} == {owner}
    assert {mesh[n].limbo.owner_id for n in mesh.members} == {owner}
    assert all(not member.stopped for member in mesh.members.values())
    call = mesh.write(owner, (99, "after"))
    mesh.run_for(1)
    assert mesh.committed(call)
    assert all((99, "after") in mesh.rows(number) for number in mesh.members)
    return owner


def two_leaders(mesh: Mesh, *leaders: int) -> None:
    """The owner is gone; these lead the next term, and have not heard of each other."""
    for one in mesh.members:
        for other in mesh.members:
            if one < other and (one in leaders or other in leaders):
                mesh.cut(one, other)
    for leader in leaders:
        mesh.step(leader, ev.PromoteRequested(mesh.call_id()))
    mesh.settle()
    assert owners(mesh) == sorted(leaders)
    assert len({mesh[leader].raft.term for leader in leaders}) == 1


def test_a_leader_that_was_away_follows_the_next_one() -> None:
    """Its own ack tells it of the next term before the leader of that term does."""
    mesh = set_of(2)
    term = mesh[1].raft.term
    mesh.step(2, ev.PromoteRequested(mesh.call_id()))
    mesh.persist(2)  # the ack of 2 is with 1 now, its message is not
    mesh.persist(1)
    mesh.persist(1)
    assert mesh[1].raft.volatile_term == term + 1 and not mesh[1].raft.is_leader
    mesh.settle()
    assert assert_one_leader(mesh) == 2
    assert mesh[1].raft.term == term + 1


def test_a_pair_of_leaders_becomes_one_again() -> None:
    """Both own the queue of one term, and nobody wrote: no person is needed."""
    mesh = set_of(3)
    mesh.write(1, (1, "before"))
    mesh.settle()
    mesh.crash(1)
    two_leaders(mesh, 2, 3)
    term = mesh[2].raft.term
    mesh.heal()
    assert assert_one_leader(mesh) == 2
    assert mesh[2].raft.term == term + 1, "one more election is enough"
    mesh.restart(1)
    assert_one_leader(mesh)


def test_a_pair_is_one_again_although_only_one_direction_works() -> None:
    """3 hears that 2 leads; what 3 said is lost, but its row is not."""
    mesh = set_of(3)
    mesh.crash(1)
    two_leaders(mesh, 2, 3)
    mesh.heal()
    mesh.links[3, 2].messages = []
    assert_one_leader(mesh)


def test_bystanders_need_no_more_than_the_pair() -> None:
    """Four and five instances; the third and fourth follow either leader, or both decided differently."""
    for seed in range(40):
        rng = random.Random(seed)
        mesh = set_of(rng.choice((4, 5)), quorum=rng.choice((1, 1, 2)))
        mesh.write(1, (1, "before"))
        mesh.settle()
        mesh.crash(1)
        a, b, *rest = rng.sample(sorted(mesh.members), len(mesh.members))
        sides = [{a}, {b}]
        for other in rest:
            rng.choice(sides).add(other)
        if mesh.settings.synchro_quorum == QuorumFormula(2) and min(map(len, sides)) < 2:
            continue
        for one in sides[0]:
            for other in sides[1]:
                mesh.cut(one, other)
        for leader in (a, b):
            mesh.step(leader, ev.PromoteRequested(mesh.call_id()))
        mesh.settle()
        assert owners(mesh) == sorted((a, b)), f"seed {seed}"
        mesh.heal()
        pairs = list(mesh.links)
        for _ in range(rng.randrange(12)):  # any order of the first exchanges
            if rng.random() < 0.5:
                mesh.deliver(*rng.choice(pairs))
            else:
                mesh.persist(rng.choice(sorted(mesh.members)))
        assert_one_leader(mesh)


def test_the_pair_survives_restarts() -> None:
    """What was accepted once is so after a restart, also under another quorum."""
    mesh = set_of(3)
    mesh.write(1, (1, "before"))
    mesh.settle()
    mesh.crash(1)
    two_leaders(mesh, 2, 3)
    mesh.heal()
    owner = assert_one_leader(mesh)
    mesh.settings = mesh.settings.__class__(election_mode=ElectionMode.CANDIDATE)  # a majority
    states = {n: (mesh[n].limbo.owner_id, mesh[n].limbo.term) for n in (2, 3)}
    for number in (2, 3):
        mesh.crash(number)
        mesh.restart(number)
        assert (mesh[number].limbo.owner_id, mesh[number].limbo.term) == states[number]
        assert (1, "before") in mesh.rows(number)
    assert states[2] == states[3] and states[2][0] == owner


def test_where_both_wrote_it_stays_a_split_brain() -> None:
    """S16: an answer was given on both sides; nobody chooses between them but a person."""
    mesh = set_of(3)
    mesh.crash(1)
    two_leaders(mesh, 2, 3)
    calls = [mesh.write(2, (1, "two")), mesh.write(3, (1, "three"))]
    mesh.settle()
    assert all(mesh.committed(call) for call in calls)
    mesh.heal()
    mesh.run_for(5)
    stopped = [error for member in mesh.members.values() for error in member.stopped.values()]
    assert stopped and all(isinstance(error, SplitBrain) for error in stopped)
    assert mesh.rows(2) != mesh.rows(3)


@pytest.mark.parametrize("writer", [2, 3])
@pytest.mark.parametrize("space", [SYNC, ASYNC])
def test_where_one_wrote_nothing_is_lost_in_silence(writer: int, space: int) -> None:
    """S16: it is everywhere in the end, or somebody says that it is not."""
    mesh = set_of(3)
    mesh.crash(1)
    two_leaders(mesh, 2, 3)
    call = mesh.write(writer, (1, "one"), space)
    mesh.settle()
    assert mesh.committed(call)
    mesh.heal()
    mesh.run_for(5)
    everywhere = all((1, "one") in mesh.rows(number, space) for number in (2, 3))
    assert everywhere or any(member.stopped for member in mesh.members.values())


def test_the_leader_of_the_term_refuses_a_rival_with_a_majority() -> None:
    """Raft.R5: there a second leader of a term is no accident but a broken vote."""
    mesh = Mesh(3, election_mode=ElectionMode.CANDIDATE)
    mesh.promote(1)
    message = replace(mesh[1].raft.message(), vote=InstanceId(2), leader=InstanceId(2))
    mesh.step(1, ev.PeerRaftReceived(InstanceId(2), message))
    assert mesh[1].raft.is_leader and mesh[1].raft.conflicting_leader_seen == 1


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_leader_that_fell_silent_before_it_was_heard_gives_way(is_killed: bool) -> None:
    """2 leads the next term, alone, and is away before its rows are; 3 has seen no more than the term, and
    stands in the one after it. Nobody wrote: both took over the same."""
    mesh = set_of(3)
    mesh.write(1, (1, "before"))
    mesh.settle()
    mesh.isolate(2)
    mesh.step(2, ev.PromoteRequested(mesh.call_id()))
    while mesh.persist(2):
        pass
    assert mesh[2].limbo.state is QueueState.LEADER
    mesh.step(3, ev.FrameTermSeen(mesh[2].raft.term))
    mesh.settle()
    if is_killed:
        mesh.crash(2)
    mesh.step(3, ev.PromoteRequested(mesh.call_id()))
    mesh.settle()
    assert mesh[3].limbo.state is QueueState.LEADER
    if is_killed:
        mesh._cuts.clear()
        mesh.restart(2)
    mesh.heal()
    assert assert_one_leader(mesh) == 3


def test_what_it_wrote_meanwhile_is_not_dropped_in_silence() -> None:
    """S16: 2 led a term alone and answered a write; 3 saw no more of it than the term, and leads the next."""
    mesh = set_of(3)
    mesh.isolate(2)
    mesh.step(2, ev.PromoteRequested(mesh.call_id()))
    while mesh.persist(2):
        pass
    call = mesh.write(2, (1, "two"))
    while mesh.persist(2):
        pass
    assert mesh.committed(call)
    mesh.step(3, ev.FrameTermSeen(mesh[2].raft.term))
    mesh.step(3, ev.PromoteRequested(mesh.call_id()))
    mesh.settle()
    mesh.heal()
    mesh.run_for(5)
    assert any(member.stopped for member in mesh.members.values())


# --- the order in which twins and their CONFIRMs come (ADR 15), on an instance that only hears --------------


def bystander() -> tuple[Site, Lsn]:
    """4 of four instances, quorum 1; 1 owns the queue of term 2. And the border that all twins name."""
    site = Site(InstanceId(4), members=4, quorum=1).follow(2)
    for row in (
        LogRow(A, Lsn(1), promote(0, 0, 2, 1)),
        LogRow(A, Lsn(2), confirm(1, 1)),
        LogRow(A, Lsn(3), Data()),
        LogRow(A, Lsn(4), confirm(1, 3)),
    ):
        site.receive(row)
    return site, Lsn(3)


def test_the_confirm_of_a_twin_by_the_owner_of_before_confirms_none_of_its_entries() -> None:
    """1 owned the queue, and leads term 4 as 2 does. Then comes what 3 did in term 3, which fits too."""
    site, border = bystander()
    site.follow(4)
    site.receive(LogRow(B, Lsn(1), promote(1, border, 4, 2)))
    site.receive(LogRow(A, Lsn(5), promote(1, border, 4, 2)))
    site.receive(LogRow(A, Lsn(6), confirm(1, 5)))
    assert site.limbo.confirmed_lsn == border
    site.receive(LogRow(C, Lsn(1), promote(1, border, 3, 2)))
    site.receive(LogRow(C, Lsn(2), confirm(3, 1)))
    site.receive(LogRow(B, Lsn(2), confirm(2, 1)))
    assert (site.limbo.owner_id, site.limbo.term) == (B, 4)


def test_a_higher_twin_that_came_first_still_takes_the_place_of_the_lower_one() -> None:
    """Else this instance would follow one owner and write Nops for the rows of the other."""
    site, border = bystander()
    site.follow(5)
    site.receive(LogRow(B, Lsn(1), promote(1, border, 5, 2)))
    site.receive(LogRow(C, Lsn(1), promote(1, border, 4, 2)))
    site.receive(LogRow(C, Lsn(2), confirm(3, 1)))
    assert (site.limbo.owner_id, site.limbo.term) == (C, 4)
    site.receive(LogRow(B, Lsn(2), confirm(2, 1)))
    assert (site.limbo.owner_id, site.limbo.term) == (B, 5)
    site.receive(LogRow(B, Lsn(3), Data()))
    site.receive(LogRow(B, Lsn(4), confirm(2, 3)))
    assert site.committed == [3, 3]


def test_a_twin_takes_no_place_in_which_something_was_written() -> None:
    site, border = bystander()
    site.follow(5)
    site.receive(LogRow(B, Lsn(1), promote(1, border, 5, 2)))
    site.receive(LogRow(C, Lsn(1), promote(1, border, 4, 2)))
    site.receive(LogRow(C, Lsn(2), confirm(3, 1)))
    site.receive(LogRow(C, Lsn(3), Data()))
    site.receive(LogRow(B, Lsn(2), confirm(2, 1)))
    assert (site.limbo.owner_id, site.lsns, site.rolled_back) == (C, [3], [])
    site.receive(LogRow(B, Lsn(3), Data()))
    with pytest.raises(SplitBrain):
        site.receive(LogRow(B, Lsn(4), confirm(2, 3)))


def test_a_restart_bears_a_twin_of_which_it_does_not_know_that_it_was_one() -> None:
    """Transfers are remembered in a bounded number, not in snapshots; the row was accepted once [Q-70]."""
    site, border = bystander()
    site.follow(4)
    site.receive(LogRow(B, Lsn(1), promote(1, border, 4, 2)))
    site.log.append(LogRow(A, Lsn(5), promote(3, 7, 4, 2)))  # 3:7 is forgotten; it built on the same
    site.restart()
    assert [(one.origin, one.term) for one in site.limbo.pending] == [(B, 4)]
    assert (site.limbo.owner_id, site.limbo.confirmed_lsn) == (A, border)


def test_any_order_of_pauses_and_exchanges_ends_with_one_leader() -> None:
    """Two to four instances, away now and then; they come back one link after the other. Nobody writes."""
    for seed, members in ((58, 3), (0, 4), *((seed, 2 + seed % 3) for seed in range(1, 16))):
        rng = random.Random(seed)
        mesh = set_of(members)
        mesh.write(1, (1, "before"))
        mesh.settle()
        for _ in range(3):
            _go_away_and_come_back(mesh, rng)
        assert_one_leader(mesh)


def _go_away_and_come_back(mesh: Mesh, rng: random.Random) -> None:
    numbers = sorted(mesh.members)
    for number in rng.sample(numbers, rng.randrange(1, len(numbers))):
        mesh.isolate(number)
    for number in rng.sample(numbers, rng.randrange(1, len(numbers) + 1)):
        if rng.random() < 0.6:
            mesh.promote(number)
    if rng.random() < 0.5:
        mesh.run_for(rng.choice((1, 3, 6)))
    pairs = [(a, b) for a in numbers for b in numbers if a < b]
    rng.shuffle(pairs)
    for a, b in pairs:
        mesh.join(a, b)
        for _ in range(rng.randrange(14)):
            if rng.random() < 0.5:
                mesh.deliver(*rng.choice(list(mesh.links)))
            else:
                mesh.persist(rng.choice(numbers))
    if rng.random() < 0.5:
        mesh.run_for(20)
