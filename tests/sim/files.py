"""Files that name the members, one on each host, and what `autoexpel` does about who is in them no more.

It is the product's own part (`server/autoexpel.py`), one for each life of an instance; what it waits for are
things of this world. A person takes names out of the files, host after host, has them read, and puts one back
in time now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from synchro.config import Settings
from synchro.ids import CallId
from synchro.instance import events as ev
from synchro.row import Dml
from synchro.server.autoexpel import Autoexpel
from synchro.server.node import Node
from synchro.storage.memtx import Memtx
from tests.mesh import uuid_of
from tests.sim.clients import expire

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

GoOn = Callable[[Any], None]


class Files:
    """In a part of the worlds with members that leave."""

    def __init__(self, world: World) -> None:
        self.world = world
        rng = self.rng = world.choices.stream("files")
        self.is_on = world.leavers.is_on and rng.random() < 0.5
        self.pause = rng.choice((0.3, 1.0, 3.0)) * world.time_scale
        everybody = frozenset(f"i{number}" for number in range(1, world.size + 1))
        self.now = dict.fromkeys(range(1, world.size + 1), everybody)
        """Instance -> names in the file on its host."""
        self.read = dict(self.now)
        """Those in the file when the instance read it last."""
        self._watchers: dict[int, _Host] = {}

    def start(self) -> None:
        if self.is_on:
            self._later()

    def begins(self, process: Process) -> None:
        """A life of an instance, which reads its file."""
        if self.is_on and process.number in self.now:
            self.read[process.number] = self.now[process.number]
            host = self._watchers[process.number] = _Host(self, process)
            _go_on(process, Autoexpel(cast(Node, host)).run(), None)

    # --- the person

    def _later(self) -> None:
        self.world.at(self.world.now + self.rng.expovariate(1.0) * self.pause, self._edit)

    def _edit(self) -> None:
        world, rng = self.world, self.rng
        if world.clients_stopped or world.is_over:
            return
        self._later()
        leaver = world.leavers.choose(rng)
        if leaver is None:
            return
        at, hosts = world.now, sorted(self.now)
        rng.shuffle(hosts)
        for number in hosts[: rng.randint(1, len(hosts))]:
            at += rng.expovariate(1.0) * self.pause * 0.2
            world.at(at, self._write, number, leaver, False)
            world.at(at + rng.random() * self.pause * 0.4, self._reload, number)
            if rng.random() < 0.4:
                world.at(at + rng.random() * self.pause * 2, self._write, number, leaver, True)

    def _write(self, number: int, leaver: int, is_named: bool) -> None:
        name = frozenset((f"i{leaver}",))
        self.now[number] = self.now[number] | name if is_named else self.now[number] - name

    def _reload(self, number: int) -> None:
        process = self.world.machines[number].process
        if process is None or process.wait_out_pause(self._reload, number):
            return
        self.read[number] = self.now[number]
        self._watchers[number].was_read()

    # --- what is so

    def is_asked(self, process: Process, leaver: int) -> None:
        """S33"""
        name, number = f"i{leaver}", process.number
        if name in self.read[number] or name in self.now[number]:
            self.world.checks.fail(
                "S33", f"{number} removes {name}: the file was {self.read[number]}, and is {self.now[number]}"
            )


class _Host:
    """What `Autoexpel` knows of its node."""

    def __init__(self, files: Files, process: Process) -> None:
        self._files = files
        self._process = process
        self._wake: Callable[[], None] | None = None
        self.uuid = uuid_of(process.number)
        self.config_reads = 0
        self.core = self.configuration = self.calls = self.log = self

    @property
    def settings(self) -> Settings:
        number, settings = self._process.number, self._process.settings
        return replace(
            settings,
            autoexpel_enabled=True,
            autoexpel_by="prefix",
            autoexpel_prefix="i",
            configured=self._files.read[number],
        )

    @property
    def memtx(self) -> Memtx:
        return self._process.instance.memtx

    @property
    def is_writable(self) -> bool:
        world = self._files.world
        return world.leavers.may_ask(self._process) and not world.clients_stopped

    def was_read(self) -> None:
        self.config_reads += 1
        if self._wake is not None:
            self._wake()

    async def names(self) -> frozenset[str]:
        return self._files.now[self._process.number]

    async def pause(self, seconds: float) -> None:
        """Until then, or until the file is read."""
        await _Waits(partial(self._sleep, seconds))

    def _sleep(self, seconds: float, go_on: GoOn) -> None:
        def wake() -> None:
            if self._wake is wake and not self._process.wait_out_pause(wake):
                self._wake = None
                go_on(None)

        self._wake = wake
        if seconds != float("inf"):
            self._process.after(seconds, wake)

    async def call(self, event_of: Callable[[CallId], ev.Event], *, timeout_s: float) -> ev.Outcome:
        return cast(ev.Outcome, await _Waits(partial(self._ask, event_of, timeout_s)))

    def _ask(self, event_of: Callable[[CallId], ev.Event], timeout_s: float, go_on: GoOn) -> None:
        process, world = self._process, self._files.world

        def asked(call: CallId) -> ev.Event:
            event = event_of(call)
            assert isinstance(event, ev.ClientWrites)
            self._files.is_asked(process, _leaver(event))
            return event

        def done(outcome: ev.Outcome) -> None:
            world.hits["a file names a member no more, and it is removed"] += isinstance(
                outcome, ev.Committed
            )
            go_on(outcome)

        call = process.call(asked, done)
        if call in process.calls:
            world.at(world.now + timeout_s, expire, world, process, call)

    def warning(self, event: str, **_: object) -> None:
        """Of its log."""
        self._files.world.hits[f"log: {event}"] += 1


def _leaver(event: ev.ClientWrites) -> int:
    op = event.writes[0].ops[0]
    assert isinstance(op, Dml) and op.key is not None and isinstance(op.key[0], int)
    return op.key[0]


class _Waits:
    """One thing that a coroutine waits for. begin: is told whom to call then."""

    def __init__(self, begin: Callable[[GoOn], None]) -> None:
        self.begin = begin

    def __await__(self) -> Generator[_Waits, Any, Any]:
        return (yield self)


def _go_on(process: Process, what: Coroutine[_Waits, Any, None], value: Any) -> None:
    """As far as it can: until it waits for something else, or its process is gone."""
    if process.is_alive:
        what.send(value).begin(partial(_go_on, process, what))
    else:
        what.close()
