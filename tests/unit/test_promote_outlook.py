"""What a promote would do, asked before: it fits what is done then, and asking changes nothing. [P-16]"""

from __future__ import annotations

from collections.abc import Mapping

from synchro.config import ElectionMode
from synchro.errors import TimedOut
from synchro.ids import NOBODY, InstanceId, Lsn
from synchro.instance import events as ev
from synchro.instance.outlook import PromoteOutlook
from synchro.vclock import Vclock
from tests.mesh import Mesh, until


def said(mesh: Mesh, number: int) -> Mapping[InstanceId, Vclock]:
    """What each member that this one can hear has on disk."""
    peers = [peer for peer in mesh.members if peer != number and (peer, number) in mesh.links]
    return {mesh[peer].self_id: mesh[peer].vclock.shown() for peer in peers}


def ask(mesh: Mesh, number: int) -> PromoteOutlook:
    """Ask, and see that nothing follows from it."""
    core = mesh[number]
    before = (core.raft.volatile_term, core.limbo.term, core.limbo.owner_id, core.limbo.count, core.vclock)
    outlook = core.promote_outlook(said(mesh, number))
    after = (core.raft.volatile_term, core.limbo.term, core.limbo.owner_id, core.limbo.count, core.vclock)
    assert before == after
    return outlook


def reasons(outlook: PromoteOutlook) -> list[str]:
    return [obstacle.reason for obstacle in outlook.obstacles]


def test_it_foretells_term_former_owner_and_what_is_confirmed() -> None:
    mesh = Mesh(3)
    outlook = ask(mesh, 1)
    call = mesh.promote(1)
    mesh.settle()
    assert mesh.outcome(call) == ev.Promoted(outlook.term, NOBODY, 0, 0)
    assert (outlook.previous_owner, outlook.obstacles) == (NOBODY, ())
    mesh.cut(1, 3)
    mesh.cut(2, 3)
    pending = [mesh.write(1, (number, "x")) for number in (1, 2)]
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.persist(2)
    mesh.cut(1, 2)
    mesh.join(2, 3)
    outlook = ask(mesh, 2)
    assert (outlook.previous_owner, outlook.confirmed, outlook.obstacles) == (1, 2, ())
    call = mesh.promote(2)
    mesh.settle()
    assert mesh.outcome(call) == ev.Promoted(outlook.term, InstanceId(1), outlook.confirmed, 0)
    assert len(pending) == 2


def test_it_says_what_rows_of_the_owner_are_not_here() -> None:
    """Those of them that have no quorum would be dropped; those that have one keep it from being elected."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.settle()
    assert ask(mesh, 2).missing_rows == 0
    mesh.write(1, (1, "x"))
    mesh.persist(1)
    outlook = ask(mesh, 2)
    assert (outlook.missing_rows, outlook.obstacles) == (1, ())  # 3 would vote for it
    mesh.deliver(1, 3)
    mesh.persist(3)
    outlook = ask(mesh, 2)
    assert reasons(outlook) == ["NOT_UP_TO_DATE"]
    assert "1 of 2 votes: i1, i3 would not vote" in outlook.obstacles[0].message
    mesh.settle()
    assert ask(mesh, 2).obstacles == ()


def test_without_a_quorum_it_says_what_the_promote_would_say() -> None:
    """[P-11]: and no term is taken by either."""
    mesh = Mesh(3)
    mesh.isolate(1)
    outlook = ask(mesh, 1)
    assert reasons(outlook) == ["NO_ELECTION_QUORUM"]
    term = mesh[1].raft.volatile_term
    call = mesh.promote(1)
    mesh.step(1, ev.CallExpired(call))
    assert mesh.reason(call) == "NO_ELECTION_QUORUM"
    refusal = mesh.outcome(call)
    assert isinstance(refusal, ev.Rejected)
    assert refusal.error.message == outlook.obstacles[0].message
    assert mesh[1].raft.volatile_term == term


def test_an_owner_a_voter_and_a_second_promote() -> None:
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.settle()
    owner = ask(mesh, 1)
    assert (owner.is_owner, owner.term, owner.confirmed, owner.obstacles) == (True, 2, 0, ())
    mesh.step(2, ev.PromoteRequested(mesh.call_id()))
    assert reasons(ask(mesh, 2)) == ["IN_ANOTHER_PROMOTE"]
    voters = Mesh(3, election_mode=ElectionMode.VOTER)
    assert reasons(ask(voters, 1)) == ["UNSUPPORTED"]


def test_who_is_read_only_by_its_configuration_would_stay_so() -> None:
    """[P-13]: such a promote is done, and its caller hears that its time is over."""
    mesh = Mesh(3, read_only=True)
    outlook = ask(mesh, 1)
    assert reasons(outlook) == ["STAYS_READ_ONLY"]
    assert outlook.obstacles[0].message == (
        "it would own the queue and take no writes: the configuration says so (database.mode: ro)"
    )
    call = mesh.promote(1)
    mesh.settle()
    mesh.step(1, ev.CallExpired(call))
    refusal = mesh.outcome(call)
    assert isinstance(refusal, ev.Rejected) and isinstance(refusal.error, TimedOut)


def test_the_term_is_that_of_the_promote_for_a_leader_too() -> None:
    """A PROMOTE that is pending will be decided in its own; after a DEMOTE nobody leads, and a new one is
    needed."""
    mesh = Mesh(3)
    pending = mesh.call_id()
    mesh.step(1, ev.PromoteRequested(pending))
    for _ in until(lambda: mesh[1].raft.is_leader, "1 as the leader"):
        mesh.persist(1)
        for peer in (2, 3):
            mesh.deliver(1, peer)
            mesh.persist(peer)
            mesh.deliver(peer, 1)
    mesh.step(1, ev.CallExpired(pending))
    assert mesh.reason(pending) == "TIMED_OUT"
    outlook = ask(mesh, 1)
    assert (outlook.is_owner, outlook.term, outlook.obstacles) == (False, mesh[1].raft.volatile_term, ())
    call = mesh.promote(1)
    assert mesh.outcome(call) == ev.Promoted(outlook.term, NOBODY, 0, 0)
    mesh.demote(1)
    assert not mesh[1].raft.is_leader and mesh[1].limbo.term == mesh[1].raft.volatile_term
    outlook = ask(mesh, 1)
    assert (outlook.is_owner, outlook.obstacles) == (False, ())
    call = mesh.promote(1)
    assert mesh.outcome(call) == ev.Promoted(outlook.term, NOBODY, 0, 0)


def test_who_gave_the_queue_away_needs_votes_again() -> None:
    """Those who have rows that it lacks would not give them."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.demote(1)
    mesh.settle()
    ahead = mesh[1].vclock.shown().follow(InstanceId(2), Lsn(1))
    outlook = mesh[1].promote_outlook({InstanceId(2): ahead, InstanceId(3): ahead})
    assert reasons(outlook) == ["NOT_UP_TO_DATE"]


def test_an_owner_that_takes_no_writes_says_so_too() -> None:
    """[P-13]: a promote there waits until it is writable, in vain."""
    mesh = Mesh(3, read_only=True, read_only_by="replication.election_mode: off")
    mesh.promote(1)
    outlook = ask(mesh, 1)
    assert outlook.is_owner and reasons(outlook) == ["STAYS_READ_ONLY"]
    assert "replication.election_mode: off" in outlook.obstacles[0].message
    mesh.step(1, ev.StopRequested())
    assert "LOADING" in reasons(ask(mesh, 1))
