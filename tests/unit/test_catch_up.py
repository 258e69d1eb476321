"""With whom an instance must catch up before it writes. [M-40]..[M-46], ADR 46."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchro.config import ElectionMode, Settings
from synchro.instance import events as ev
from synchro.replication.catch_up import CatchUp, Patience, SourceState
from synchro.ro_reason import RoReason
from tests.mesh import ASYNC, Mesh

AWAY, DOWN = SourceState.AWAY, SourceState.DOWN
SYNCING, SETTLED = SourceState.SYNCING, SourceState.SETTLED
PATIENCE = Patience(away_s=30.0, down_s=4.0)


def waits_for(catch_up: CatchUp) -> set[str]:
    return set(catch_up.waits_for)


def test_nobody_is_waited_for_without_sources() -> None:
    """[M-40], [M-46]"""
    catch_up = CatchUp()
    assert not catch_up.waits_for
    catch_up.sources_are(["b"], 0.0)
    catch_up.sources_are([], 1.0)
    assert not catch_up.waits_for


def test_all_sources_are_waited_for() -> None:
    catch_up = CatchUp()
    catch_up.sources_are(["b", "c"], 0.0)
    catch_up.look({"b": SYNCING, "c": SYNCING}, 1.0, PATIENCE)
    assert waits_for(catch_up) == {"b", "c"}
    catch_up.look({"b": SETTLED, "c": SYNCING}, 2.0, PATIENCE)
    assert waits_for(catch_up) == {"c"}
    catch_up.look({"b": AWAY, "c": SETTLED}, 3.0, PATIENCE)
    assert not catch_up.waits_for  # CatchUp.K1: b was settled once


def test_who_stays_away_is_waited_for_as_long_as_a_start_waits_for_peers() -> None:
    """The number of a pair of which one is down: `connect_timeout`. [M-13]"""
    catch_up = CatchUp()
    catch_up.sources_are(["b"], 100.0)
    catch_up.look({}, 129.9, PATIENCE)
    assert waits_for(catch_up) == {"b"}
    catch_up.look({}, 130.0, PATIENCE)
    assert not catch_up.waits_for
    catch_up.look({"b": SYNCING}, 140.0, PATIENCE)  # it came back, later: nobody stops writing
    assert not catch_up.waits_for


def test_who_is_down_for_sure_is_waited_for_less_long() -> None:
    """A master whose partner was stopped takes writes soon."""
    catch_up = CatchUp()
    catch_up.sources_are(["b", "c"], 100.0)
    catch_up.look({"b": DOWN, "c": AWAY}, 104.0, PATIENCE)
    assert waits_for(catch_up) == {"c"}
    settings = Settings(connect_timeout_s=2.0, replication_timeout_s=1.0)
    assert Patience.of(settings) == (2.0, 2.0)
    assert Patience.of(Settings()) == (30.0, 4.0)


def test_who_is_there_is_waited_for_however_long_it_takes() -> None:
    catch_up = CatchUp()
    catch_up.sources_are(["b"], 0.0)
    catch_up.look({"b": SYNCING}, 1000.0, PATIENCE)
    assert waits_for(catch_up) == {"b"}
    catch_up.look({"b": AWAY}, 1029.0, PATIENCE)  # the link broke: its time begins anew
    assert waits_for(catch_up) == {"b"}
    catch_up.look({"b": AWAY}, 1030.0, PATIENCE)
    assert not catch_up.waits_for


def test_a_new_source_is_waited_for_and_an_old_one_is_not_again() -> None:
    """[M-45]"""
    catch_up = CatchUp()
    catch_up.sources_are(["b"], 0.0)
    catch_up.look({"b": SETTLED}, 1.0, PATIENCE)
    catch_up.sources_are(["b", "c"], 2.0)
    assert waits_for(catch_up) == {"c"}
    catch_up.sources_are(["c"], 3.0)
    catch_up.sources_are(["b", "c"], 4.0)  # b was away in between: it may have written
    assert waits_for(catch_up) == {"b", "c"}


@given(st.lists(st.sampled_from(list(SourceState)), max_size=30), st.floats(0.1, 50))
def test_nobody_waits_for_ever_for_who_does_not_answer(states: list[SourceState], step_s: float) -> None:
    catch_up, now = CatchUp(), 0.0
    catch_up.sources_are(["b"], now)
    for state in states:
        now += step_s
        catch_up.look({"b": state}, now, PATIENCE)
    catch_up.look({}, now, PATIENCE)
    catch_up.look({}, now + PATIENCE.away_s + 1, PATIENCE)
    assert not catch_up.waits_for


# --- what it means for writes ----------------------------------------------------------------------------


def test_an_orphan_refuses_writes_until_it_has_caught_up() -> None:
    mesh = Mesh(3)
    mesh.step(1, ev.OrphanChanged(("i2",)))
    call = mesh.write(1, (1, "a"), ASYNC)
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Rejected)
    assert outcome.error.details["ro_reason"] == "orphan"
    mesh.step(1, ev.OrphanChanged(()))
    call = mesh.write(1, (1, "a"), ASYNC)
    mesh.settle()
    assert isinstance(mesh.outcome(call), ev.Committed)


def test_a_promote_makes_an_orphan_writable() -> None:
    """A quorum has said that it has all that a quorum has."""
    mesh = Mesh(3)
    mesh.step(1, ev.OrphanChanged(("i2", "i3")))
    mesh.promote(1)
    mesh.settle()
    assert mesh[1].read_only_reason() is RoReason.NONE
    assert not mesh[1].is_orphan


@pytest.mark.parametrize("mode", [ElectionMode.VOTER, ElectionMode.MANUAL, ElectionMode.CANDIDATE])
def test_with_elections_nobody_is_an_orphan(mode: ElectionMode) -> None:
    mesh = Mesh(3)
    mesh.step(1, ev.OrphanChanged(("i2",)))
    assert mesh[1].is_orphan
    mesh.step(1, ev.SettingsChanged(replace(mesh.settings, election_mode=mode)))
    assert not mesh[1].is_orphan
