"""`ro_reason`: one enum for the core, the services and the command line. [E-42], [E-44]."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from synchro.config import ElectionMode
from synchro.ids import LSN_RESERVE, NUMBER_END, InstanceId, Lsn
from synchro.instance import events as ev
from synchro.instance.recovery import recover_instance
from synchro.ro_reason import RoReason
from synchro.row import RowType
from synchro.storage import row_body, xrow
from synchro.storage.snapshot import SnapshotMeta
from tests.mesh import ASYNC, REPLICASET, SYNC, Member, Mesh, uuid_of

PACKAGE = Path(__file__).resolve().parents[2] / "synchro"


def promoted() -> Mesh:
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.settle()
    return mesh


def without_a_leader() -> Mesh:
    return Mesh(3, election_mode=ElectionMode.CANDIDATE)


def frozen() -> Mesh:
    mesh = promoted()
    mesh.crash(1)
    mesh.restart(1)
    return mesh


def configured() -> Mesh:
    mesh = promoted()
    mesh.step(1, ev.SettingsChanged(replace(mesh.settings, read_only=True)))
    return mesh


def doubled() -> Mesh:
    mesh = promoted()
    mesh.step(1, ev.DoubledChanged(True))
    return mesh


def expelled() -> Mesh:
    mesh = promoted()
    mesh.step(1, ev.ExpulsionTold())
    return mesh


def anonymous() -> Mesh:
    mesh = promoted()
    instance = recover_instance(
        uuid=uuid_of(9),
        settings=mesh.settings,
        meta=SnapshotMeta(replicaset_uuid=REPLICASET),
        spaces=mesh.spaces,
        txns=(),
        rng=random.Random(1),
        trusted=True,
        now=mesh.now,
    )
    mesh.members[1] = Member(instance)
    return mesh


def forgetful() -> Mesh:
    mesh = Mesh(3)
    mesh.isolate(1)
    mesh.crash(1)
    mesh.restart(1, trusted=False)
    return mesh


def orphan() -> Mesh:
    mesh = Mesh(3)
    mesh.step(1, ev.OrphanChanged(("i2", "i3")))
    return mesh


def without_lsns() -> Mesh:
    mesh = Mesh(3)
    mesh.crash(1)
    row = row_body.dml_from_values(RowType.REPLACE, ASYNC, value=(1,))
    last = xrow.encode_ops([row], InstanceId(1), Lsn(NUMBER_END - LSN_RESERVE), 0)
    mesh.down[1] = [xrow.decode_txns(bytes(last.data))[0]]
    mesh.restart(1)
    return mesh


WORLDS: dict[RoReason, tuple[Callable[[], Mesh], str]] = {
    RoReason.NONE: (promoted, ""),
    RoReason.ELECTION: (
        without_a_leader,
        "state is election follower with term 1, synchro queue with term 1",
    ),
    RoReason.SYNCHRO: (frozen, "belongs to 1 (i1) and is frozen until promotion"),
    RoReason.CONFIG: (configured, "the configuration says so (database.mode: ro)"),
    RoReason.DOUBLED: (doubled, "another live process has the identity of this one"),
    RoReason.ANONYMOUS: (anonymous, "it follows the set as an anonymous instance"),
    RoReason.EXPELLED: (expelled, "it was removed from the replica set"),
    RoReason.OWN_ROWS_LOST: (forgetful, "it has lost some of its own transactions"),
    RoReason.ORPHAN: (orphan, "it is an orphan: it has not caught up with i2, i3 yet"),
    RoReason.OUT_OF_LSNS: (without_lsns, "its LSNs are used up"),
}


@pytest.mark.parametrize("reason", WORLDS)
def test_each_reason_has_its_text_and_its_word(reason: RoReason) -> None:
    """Of instance 1, which is asked to write."""
    make, text = WORLDS[reason]
    mesh = make()
    assert mesh[1].read_only_reason() is reason
    assert mesh[1].is_writable == (reason is RoReason.NONE)
    call = mesh.write(1, (7, "x"), SYNC if reason is RoReason.NONE else ASYNC)
    mesh.settle()
    outcome = mesh.outcome(call)
    if reason is RoReason.NONE:
        assert isinstance(outcome, ev.Committed)
        return
    assert isinstance(outcome, ev.Rejected)
    assert outcome.error.message.startswith("Can't modify data on a read-only instance - ")
    assert text in outcome.error.message and "nothing was written" in outcome.error.message
    assert outcome.error.details["ro_reason"] == reason.value


def test_no_reason_is_left_out() -> None:
    """LOADING is the shell's: before it has a core, or opens it for calls (`tests/shell/test_node.py`)."""
    assert {*WORLDS, RoReason.LOADING} == set(RoReason)


def test_the_words_stay_as_users_know_them() -> None:
    assert {reason.value for reason in RoReason} == {
        "",
        "loading",
        "doubled",
        "expelled",
        "anon",
        "election",
        "synchro",
        "config",
        "lsn",
        "orphan",
        "waiting to receive its own transactions back from the replicaset",
    }


def test_the_command_line_asks_for_words_that_the_server_says() -> None:
    """What it compares `ro_reason` with, where it is a string yet."""
    asked = set()
    for path in (PACKAGE / "cli").rglob("*.py"):
        asked |= set(re.findall(r'ro_reason(?:"\))? [!=]= "([^"]*)"', path.read_text(encoding="utf-8")))
    assert asked <= {reason.value for reason in RoReason}
