"""Raft and the limbo are stepped together; who waits for them looks afterwards. [L-5], [Q-3]."""

from __future__ import annotations

import ast
from pathlib import Path

from synchro.ids import InstanceId, Term
from synchro.instance import events as ev
from synchro.queue.limbo import QueueState
from tests.mesh import Mesh

COUPLING = Path(__file__).resolve().parents[2] / "synchro" / "instance" / "coupling.py"


def test_an_ack_of_a_later_term_deposes_and_fails_the_reads_before_it_counts_for_anything() -> None:
    """One ack with all three: a later term, the rows of an open write, the echo of an open read."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.isolate(1)
    write = mesh.write(1, (1, "x"))
    read = mesh.call_id()
    mesh.step(1, ev.ReadBarrierRequested(read))
    mesh.persist(1)
    owner = mesh[1]
    assert owner.read_barrier.is_open and owner.limbo.state is QueueState.LEADER

    later = Term(owner.raft.volatile_term + 1)
    ack = ev.Ack(owner.vclock, later, owner.read_barrier.show())
    mesh.step(1, ev.AckReceived(InstanceId(2), ack))

    state: QueueState = mesh[1].limbo.state
    assert state is QueueState.REPLICA
    assert mesh.reason(read) == "SYNC_QUEUE_FOREIGN"
    assert mesh.outcome(write) is None
    assert len(owner.limbo) == 1 and not owner.limbo.is_announcement_due


def test_the_same_ack_of_the_same_term_counts_for_both() -> None:
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.isolate(1)
    write = mesh.write(1, (1, "x"))
    read = mesh.call_id()
    mesh.step(1, ev.ReadBarrierRequested(read))
    mesh.persist(1)
    owner = mesh[1]
    ack = ev.Ack(owner.vclock, owner.raft.term, owner.read_barrier.show())
    mesh.step(1, ev.AckReceived(InstanceId(2), ack))
    assert mesh.committed(write)
    assert mesh.outcome(read) == ev.ReadReady()


def test_a_demote_during_a_read_answers_both() -> None:
    """The owner takes a new term for its DEMOTE: it stops to be the one who may say what is current."""
    mesh = Mesh(3)
    mesh.promote(1)
    read, demote = mesh.call_id(), mesh.call_id()
    mesh.isolate(1)
    mesh.step(1, ev.ReadBarrierRequested(read))
    mesh.heal()
    mesh.step(1, ev.DemoteRequested(demote))
    assert mesh.reason(read) == "SYNC_QUEUE_FOREIGN"
    mesh.settle()
    assert isinstance(mesh.outcome(demote), ev.Demoted)


def test_the_coupling_knows_nobody_who_looks() -> None:
    tree = ast.parse(COUPLING.read_text(encoding="utf-8"))
    known = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {"synchro.queue.effects", "synchro.raft"} <= known
    for name in ("core", "transfers", "reads", "links", "client_writes", "view"):
        assert f"synchro.instance.{name}" not in known
