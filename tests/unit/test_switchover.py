"""Controlled failover, step by step, and what is left when one side dies in the middle. [A-61], [T-5]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from synchro.cli.switchover import LEADER, MODE, Handover, Switchover, how_to_release, plan
from synchro.cli.verdict import judge
from synchro.client.errors import CannotConnect
from synchro.errors import InterferingElections, SwitchoverFailed, SwitchoverUnfinished, SynchroError
from synchro.ro_reason import RoReason
from tests.unit.cli_world import info, picture

ONE, TWO = "instance001", "instance002"
MODES = Handover(ONE, TWO, MODE)
OWNED = Handover(ONE, TWO, MODE, is_owned=True)
LEADERS = Handover(ONE, TWO, LEADER)
ELECTED = Handover(ONE, TWO)


class World:
    """Two instances, the first of which writes; the second gets one row with each look at it."""

    def __init__(self, handover: Handover, *, lag: int = 2) -> None:
        self.is_elected = not handover.key
        self.key = handover.key
        self.rows = {ONE: 10, TWO: 10 - lag}
        self.writers = {ONE}
        self.owner = ONE if handover.is_owned or self.is_elected else ""
        self.calls: list[tuple[str, ...]] = []
        self.dead: set[str] = set()
        self.before_call: Callable[[int], None] = lambda _: None
        self.pending = 1
        self.stream = "follow"
        self.leader_name = ONE if self.is_elected else ""
        self.lines: list[str] = []
        self.time = 0.0
        self.promotes_lost = 0

    # --- `Servers`

    def _called(self, *call: str) -> None:
        self.before_call(len(self.calls))
        self.calls.append(call)
        if call[1] in self.dead:
            raise CannotConnect(f"cannot connect to {call[1]}: connection refused")

    def info(self, name: str) -> Mapping[str, Any]:
        self._called("info", name)
        pending, self.pending = self.pending, 0
        if name == TWO and self.stream == "follow":
            self.rows[TWO] = min(self.rows[ONE], self.rows[TWO] + 1)
        return {
            "ro": name not in self.writers,
            "ro_reason": None if name in self.writers else "config",
            "vclock": {0: 5 if name == ONE else 0, 1: self.rows[name]},
            "wal": {"pending": pending if name == ONE else 0},
            "replication": {1: {"name": ONE, "upstream": {"status": self.stream, "message": "broken"}}},
            "election": {"leader_name": self.leader_name},
        }

    def set_option(self, name: str, key: str, value: str) -> None:
        self._called("set", name, key, value)
        assert key == self.key
        writes = value in ("rw", name)
        (self.writers.add if writes else self.writers.discard)(name)
        self._check()

    def promote(self, name: str) -> None:
        self._called("promote", name)
        if self.promotes_lost:
            self.promotes_lost -= 1
            raise InterferingElections("another candidate")
        self.owner = self.leader_name = name
        if self.is_elected:
            self.writers = {name}
        self._check()

    def demote(self, name: str) -> None:
        self._called("demote", name)
        self.writers.discard(name)
        self.leader_name = ""

    def _check(self) -> None:
        """switchover.H1, at each moment."""
        assert len(self.writers) <= 1
        if self.writers == {TWO}:
            assert self.rows[TWO] == self.rows[ONE]

    # --- a run

    def _sleep(self, seconds: float) -> None:
        self.time += seconds

    def run(self, handover: Handover) -> None:
        Switchover(
            self,
            handover,
            timeout_s=1.0,
            say=self.lines.append,
            now=lambda: self.time,
            sleep=self._sleep,
        ).run()


@pytest.mark.parametrize("handover", [MODES, OWNED, LEADERS, ELECTED])
def test_four_steps_in_their_order(handover: Handover) -> None:
    """[A-61]: no second writer, and none before it has all rows that were on their way to disk, too."""
    world = World(handover)
    world.run(handover)
    assert world.writers == {TWO}
    assert world.owner == (TWO if handover.is_owned or not handover.key else "")
    assert [line[:8].strip() for line in world.lines] == [f"{n} of 4" for n in (1, 2, 3, 4)]
    assert world.lines[1] == f"2 of 4  {ONE} has {{1: 10}}"
    if handover.key == LEADER:
        assert [call for call in world.calls if call[0] == "set"] == [
            ("set", ONE, LEADER, TWO),
            ("set", TWO, LEADER, TWO),
        ]


@pytest.mark.parametrize("handover", [MODES, OWNED, LEADERS, ELECTED])
@pytest.mark.parametrize("victim", [ONE, TWO])
@pytest.mark.parametrize("at", range(8))
def test_one_side_dies_at_each_call(handover: Handover, victim: str, at: int) -> None:
    """switchover.H1, switchover.H2: undone before the fourth step, if there is somebody left to undo it at;
    and the text says what stands."""
    world = World(handover)

    def kill(number: int) -> None:
        if number == at:
            world.dead.add(victim)

    world.before_call = kill
    said = ""
    try:
        world.run(handover)
    except (SwitchoverFailed, SwitchoverUnfinished) as error:
        said = error.message
    if not said:
        assert world.writers == {TWO}
    elif said.endswith(f"undone: {ONE} takes writes again, {TWO} was not changed"):
        assert world.writers == {ONE} and victim == TWO
    elif "step 4 had begun" in said:
        assert victim == TWO and world.rows[TWO] == world.rows[ONE]
    else:
        assert f"{TWO} was not changed" in said
        assert victim == ONE and TWO not in world.writers
    assert len(world.writers) <= 1


def test_what_takes_too_long_is_undone() -> None:
    world = World(MODES)
    world.stream = "sync"  # nothing arrives
    with pytest.raises(SwitchoverFailed, match=f"{TWO} lacks 2 rows after 1.0 s; undone"):
        world.run(MODES)
    assert world.writers == {ONE}


def test_a_stream_that_stops_meanwhile_is_not_waited_for() -> None:
    world = World(MODES)
    world.stream = "stopped"
    with pytest.raises(SwitchoverFailed, match=f"{TWO} takes nothing from {ONE}: broken; undone"):
        world.run(MODES)
    assert world.time == 0 and world.writers == {ONE}


def test_an_interrupt_is_undone_too() -> None:
    world = World(MODES)

    def interrupt(number: int) -> None:
        if number == 2:
            world.before_call = lambda _: None
            raise KeyboardInterrupt

    world.before_call = interrupt
    with pytest.raises(SwitchoverFailed, match="interrupted; undone"):
        world.run(MODES)
    assert world.writers == {ONE}


@pytest.mark.parametrize("handover", [MODES, OWNED, LEADERS, ELECTED])
def test_a_second_interrupt_leaves_nobody_in_the_dark(handover: Handover) -> None:
    """It ended without a word, and nobody took writes."""
    world = World(handover)

    def interrupt(number: int) -> None:
        if number >= 2:
            raise KeyboardInterrupt

    world.before_call = interrupt
    with pytest.raises(SwitchoverUnfinished, match=f"{ONE} could not be made writable again: interrupted"):
        world.run(handover)
    assert world.writers == set()


@pytest.mark.parametrize("handover", [MODES, OWNED, LEADERS, ELECTED])
def test_it_goes_on_though_nobody_listens(handover: Handover) -> None:
    """switchover.H2: a pipe that was closed ended it behind its first step, and nobody took writes."""
    world = World(handover)

    def broken(_line: str) -> None:
        raise BrokenPipeError

    world.lines = type("Gone", (), {"append": staticmethod(broken)})()
    world.run(handover)
    assert world.writers == {TWO}


def test_who_was_elected_meanwhile_keeps_the_writes() -> None:
    """Other candidates stand as soon as the leader resigns. That is no failure unless the next one fails."""
    world = World(ELECTED)
    world.before_call = lambda number: setattr(world, "leader_name", "instance003" if number else ONE)
    world.stream = "stopped"
    with pytest.raises(SwitchoverFailed, match="instance003 leads meanwhile and takes the writes"):
        world.run(ELECTED)
    assert ("promote", ONE) not in world.calls


def test_a_promote_that_lost_its_term_is_tried_again() -> None:
    world = World(ELECTED)
    world.promotes_lost = 2
    world.run(ELECTED)
    assert world.writers == {TWO} and world.calls.count(("promote", TWO)) == 3


def test_by_the_word_of_somebody_else_it_ends() -> None:
    world = World(MODES)
    world.before_call = lambda number: world.writers.add(ONE) if number == 1 else None
    with pytest.raises(SwitchoverFailed, match="takes writes again, by somebody else's word"):
        world.run(MODES)
    assert TWO not in world.writers


# --- whether it can begin ---------------------------------------------------------------------------------


def config(*, failover: str = "off", **differs: tuple[str, str]) -> dict[str, Any]:
    """differs: option -> what runs, and what the file says."""
    named = {
        key.replace("_", "."): {"running": running, "file": file} for key, (running, file) in differs.items()
    }
    return {"options": {"replication": {"failover": failover}}, "differs": named}


def seen(one: Any, two: Any) -> Any:
    return picture(one, two)


def without_elections(number: int, *, ro: bool, owner: int = 0, **more: Any) -> Any:
    made = info(number, ro=ro, reason=RoReason.CONFIG, owner=owner, election_mode="off", **more)
    made["election"] = {"state": "follower", "term": 1, "leader": 0}
    return made


FILE = config()


def test_the_way_is_that_of_the_set() -> None:
    off = seen(without_elections(1, ro=False, config=FILE), without_elections(2, ro=True, config=FILE))
    assert plan(off, TWO) == Handover(ONE, TWO, MODE)
    assert plan(off, "2") == Handover(ONE, TWO, MODE)
    assert plan(off, ONE) is None
    owned = seen(
        without_elections(1, ro=False, owner=1, config=FILE), without_elections(2, ro=True, config=FILE)
    )
    assert plan(owned, TWO) == Handover(ONE, TWO, MODE, is_owned=True)
    manual = config(failover="manual")
    led = seen(without_elections(1, ro=False, config=manual), without_elections(2, ro=True, config=manual))
    assert plan(led, TWO) == Handover(ONE, TWO, LEADER)
    assert plan(seen(info(1, ro=False), info(2)), TWO) == Handover(ONE, TWO)


@pytest.mark.parametrize(
    ("one", "two", "name", "why"),
    [
        (info(1, ro=False), info(2), "nobody", "the set has no member 'nobody'"),
        (info(1, ro=False), None, TWO, f"{TWO} does not answer"),
        (info(1, ro=False), info(2, status="loading"), TWO, f"{TWO} is loading"),
        (info(1, ro=False), info(2, amnesia=True), TWO, "in amnesia"),
        (info(1, ro=False), info(2, reason=RoReason.EXPELLED), TWO, "was removed from the set"),
        (info(1, ro=False), info(2, election_mode="voter"), TWO, "its election_mode is voter"),
        (info(1, ro=False), info(2, ro=False), TWO, "from one to one"),
        (info(1), info(2), TWO, "nobody takes writes"),
        (
            without_elections(1, ro=False, config=FILE),
            without_elections(2, ro=True, config=None),
            TWO,
            "started without a file",
        ),
        (
            info(1, ro=False),
            info(
                2, replication={1: {"id": 1, "name": ONE, "upstream": {"status": "stopped", "message": "x"}}}
            ),
            TWO,
            f"{TWO} takes nothing from {ONE}: x",
        ),
    ],
)
def test_what_cannot_work_does_not_begin(one: Any, two: Any, name: str, why: str) -> None:
    with pytest.raises(SwitchoverFailed) as refused:
        plan(seen(one, two), name)
    assert why in refused.value.message and refused.value.message.endswith("; nothing was done")


@pytest.mark.parametrize(
    ("held", "command"),
    [
        (config(database_mode=("ro", "rw")), f"synchro config set database.mode rw -i {ONE}"),
        (
            config(failover="manual", leader=(TWO, ONE)),
            f"synchro config set leader {ONE} -i {ONE}",
        ),
    ],
)
def test_a_run_that_was_killed_in_the_middle_is_seen_and_can_be_ended(held: Any, command: str) -> None:
    """Status says what stands and how to go back; the same command again goes on."""
    found = seen(without_elections(1, ro=True, config=held), without_elections(2, ro=True, config=FILE))
    verdict = judge(found)
    assert f"{ONE} was kept from writing by `config set`" in verdict.text
    assert verdict.next == command == how_to_release(found.members[0])
    again = plan(found, TWO)
    assert again is not None and again.is_held
    world = World(again)
    world.writers = set()
    world.run(again)
    assert world.writers == {TWO} and ("set", ONE) not in [call[:2] for call in world.calls]


def test_all_errors_of_a_server_are_met() -> None:
    """Whatever it says, it is no traceback."""
    world = World(MODES)

    def refuse(number: int) -> None:
        world.before_call = lambda _: None
        raise SynchroError("of a kind that nobody knows")

    world.before_call = refuse
    with pytest.raises(SwitchoverFailed, match="of a kind that nobody knows; undone"):
        world.run(MODES)
