"""Named points in the shell where a test can pause, delay, fail, end or count. Off by default.

    await failpoint("wal.before_write")        # in a trio task
    failpoint_in_thread("wal.before_fsync")    # in a worker thread

While nothing is armed a point costs one attribute test. Armed by `SYNCHRO_FAILPOINTS` or an admin call of
test builds:  `wal.before_fsync=delay(0.5); relay.before_send=pause,skip=2; wal.before_write=error(28)`
Cores have none: there every interleaving is an order of events. The registry is one per process.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import trio

from synchro.errors import ConfigError

POINTS: Final[Mapping[str, str]] = {
    "wal.before_write": "a batch was taken from the queue, nothing of it is in the file",
    "wal.before_fsync": "a batch is in the file, perhaps only in the page cache",
    "wal.after_fsync": "a batch is on disk, nobody knows yet",
    "relay.before_send": "rows were chosen for a peer, nothing is sent",
    "applier.before_step": "rows of a peer were decoded, the core has not seen them",
    "applier.before_ack": "rows of a peer are on disk, the peer does not know",
    "snapshot.before_rename": "a snapshot is complete and synced under its temporary name",
}
"""Every point, and what holds when it is reached."""

ENVIRONMENT: Final = "SYNCHRO_FAILPOINTS"
EXIT_CODE: Final = 137
"""As after SIGKILL: no cleanup, no flush, no answer."""


class Action(StrEnum):
    PAUSE = "pause"
    """Wait until the point is cleared."""
    DELAY = "delay"
    ERROR = "error"
    """Raise an OSError."""
    EXIT = "exit"
    COUNT = "count"


@dataclass(slots=True)
class Armed:
    """One point that does something."""

    action: Action
    delay_s: float = 0.0
    errno: int = errno.EIO
    skip: int = 0
    """Passes that do nothing first."""
    times: int = 0
    """Passes that act; 0: all."""
    passes: int = 0
    """Passes seen since it was armed."""
    waiting: int = 0
    """Passes that are paused now."""
    cleared: threading.Event = field(default_factory=threading.Event)
    tasks: dict[int, trio.Event] = field(default_factory=dict)

    def count(self) -> bool:
        """One pass; True if it is to act."""
        self.passes += 1
        number = self.passes - self.skip
        return number > 0 and (self.times == 0 or number <= self.times)


class Failpoints:
    """Which points are armed. Armed and cleared in the trio thread; passed in any."""

    __slots__ = ("_lock", "armed")

    def __init__(self) -> None:
        self.armed: dict[str, Armed] = {}
        self._lock = threading.Lock()

    def set(
        self,
        name: str,
        action: Action | str,
        *,
        delay_s: float = 0.0,
        error: int = errno.EIO,
        skip: int = 0,
        times: int = 0,
    ) -> None:
        """Arm a point anew. Raises `ConfigError` for a name or an action that does not exist."""
        _check_name(name)
        try:
            action = Action(action)
        except ValueError as unknown:
            known = ", ".join(Action)
            raise ConfigError(f"failpoint {name}: unknown action {action!r}; there are: {known}") from unknown
        if delay_s < 0 or skip < 0 or times < 0:
            raise ConfigError(f"failpoint {name}: a delay or a number of passes below 0")
        self.clear(name)
        self.armed[name] = Armed(action, delay_s, error or errno.EIO, skip, times)

    def clear(self, name: str | None = None) -> int:
        """Disarm one point, or all; what was paused goes on. Returns the passes it saw."""
        if name is None:
            return sum(self.clear(each) for each in list(self.armed))
        _check_name(name)
        armed = self.armed.pop(name, None)
        if armed is None:
            return 0
        armed.cleared.set()
        for event in armed.tasks.values():
            event.set()
        return armed.passes

    def passes(self, name: str) -> int:
        """Passes since the point was armed; 0 while it is not."""
        _check_name(name)
        return self.armed[name].passes if name in self.armed else 0

    def waiting(self, name: str) -> int:
        """Tasks and threads that are paused there now."""
        _check_name(name)
        return self.armed[name].waiting if name in self.armed else 0

    def load(self, text: str) -> None:
        """Arm what `text` lists; nothing at all if a part of it is wrong."""
        parts = [_parse(part.strip()) for part in text.split(";") if part.strip()]
        for name, armed in parts:
            self.clear(name)
            self.armed[name] = armed

    async def hit(self, name: str) -> None:
        armed = self._pass(name)
        if armed is None:
            return
        if armed.action is Action.DELAY:
            await trio.sleep(armed.delay_s)
        elif armed.action is Action.PAUSE:
            event = trio.Event()
            armed.tasks[id(event)] = event
            armed.waiting += 1
            try:
                await event.wait()
            finally:
                armed.waiting -= 1
                del armed.tasks[id(event)]

    def hit_in_thread(self, name: str) -> None:
        armed = self._pass(name)
        if armed is None:
            return
        if armed.action is Action.DELAY:
            time.sleep(armed.delay_s)
        elif armed.action is Action.PAUSE:
            with self._lock:
                armed.waiting += 1
            armed.cleared.wait()
            with self._lock:
                armed.waiting -= 1

    def _pass(self, name: str) -> Armed | None:
        """Count; fail or end at once; else what the caller has to wait for, if anything."""
        _check_name(name)
        armed = self.armed.get(name)
        if armed is None:
            return None
        with self._lock:
            if not armed.count():
                return None
        if armed.action is Action.ERROR:
            raise OSError(armed.errno, f"{os.strerror(armed.errno)} (failpoint {name})")
        if armed.action is Action.EXIT:
            os._exit(EXIT_CODE)
        return armed


def _check_name(name: str) -> None:
    if name not in POINTS:
        raise ConfigError(f"unknown failpoint {name!r}; there are: {', '.join(POINTS)}", key=name)


_PART: Final = re.compile(
    r"(?P<name>[a-z_.]+)\s*=\s*(?P<action>[a-z]+)(?:\((?P<argument>[0-9.]+)\))?"
    r"(?:\s*,\s*skip=(?P<skip>\d+))?(?:\s*,\s*times=(?P<times>\d+))?"
)


def _parse(part: str) -> tuple[str, Armed]:
    found = _PART.fullmatch(part)
    if found is None:
        raise ConfigError(f"{ENVIRONMENT}: expected NAME=ACTION[(ARGUMENT)][,skip=N][,times=N], got {part!r}")
    _check_name(found["name"])
    try:
        action = Action(found["action"])
        delay_s = float(found["argument"] or 0) if action is Action.DELAY else 0.0
        error = int(found["argument"] or errno.EIO) if action is Action.ERROR else errno.EIO
    except ValueError as wrong:
        raise ConfigError(f"{ENVIRONMENT}: {part!r}: {wrong}") from wrong
    return found["name"], Armed(action, delay_s, error, int(found["skip"] or 0), int(found["times"] or 0))


REGISTRY: Final = Failpoints()


def load_environment(environ: Mapping[str, str] | None = None) -> None:
    """Arm what `SYNCHRO_FAILPOINTS` lists. Called once, by the process that serves."""
    REGISTRY.load((os.environ if environ is None else environ).get(ENVIRONMENT, ""))


async def failpoint(name: str) -> None:
    """A point in a trio task. Not a checkpoint while nothing is armed."""
    if REGISTRY.armed:
        await REGISTRY.hit(name)


def failpoint_in_thread(name: str) -> None:
    """A point in a worker thread; a pause blocks the thread."""
    if REGISTRY.armed:
        REGISTRY.hit_in_thread(name)
