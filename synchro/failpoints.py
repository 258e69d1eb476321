"""Named points in the shell where a test can pause, delay, fail, end or count. Off by default.

    await failpoint("relay.send_delay", peer=2)      # in a trio task
    failpoint_in_thread("wal.delay")                 # in a worker thread
    if failpoint_fires("relay.no_heartbeat", peer=2):  # where a step is left out, or done wrong

While nothing is armed a point costs one attribute test. Armed by `SYNCHRO_FAILPOINTS` or by synchro.fault.v1:
`wal.delay=on; relay.send_delay=on(0.5),peer=2; wal.fail=on,countdown=2,times=1; wal.before_write=error(28)`
Cores have none: there every interleaving is an order of events. The registry is one per process.
"""

from __future__ import annotations

import errno
import math
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import trio

from synchro.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Point:
    """One place in the code.

    meaning: what holds when it is reached, or what goes wrong while it is on. is_place: it is passed, and all
    actions go there; else only `on` and `count`. value: what the value of `on` means; "": it takes none.
    default: the value if none is given; seconds 0: until it is cleared. has_peer: it knows which peer it is
    about.
    """

    meaning: str
    is_place: bool = True
    value: str = "seconds"
    default: float = 0.0
    has_peer: bool = False


def _wrong(meaning: str, value: str = "", default: float = 0.0, *, has_peer: bool = False) -> Point:
    return Point(meaning, is_place=False, value=value, default=default, has_peer=has_peer)


POINTS: Final[Mapping[str, Point]] = {
    "wal.before_write": Point("bytes for the log are about to be written, marks and room ahead included"),
    "wal.before_fsync": Point("bytes are in the file of the log, perhaps only in the page cache"),
    "wal.after_fsync": Point("bytes of the log are on disk, nobody knows yet"),
    "wal.delay": Point("a batch of rows was taken from the queue, nothing of it is in the file"),
    "wal.fail": _wrong(
        "the write of a batch of data fails, no byte of it was written", "errno", errno.ENOSPC
    ),
    "wal.fail_late": _wrong(
        "the write of a batch of data fails, all of it was written", "errno", errno.ENOSPC
    ),
    "wal.partial_write": _wrong("the write of a batch of data is short", "bytes", -1),
    "wal.no_space": _wrong("the disk of the log is full: no batch of data fits, no file grows"),
    "tx.completion_delay": Point("a batch of rows is on disk, neither callers nor peers know"),
    "relay.before_send": Point("rows were chosen for a peer, nothing is sent", has_peer=True),
    "relay.send_delay": Point("rows were chosen for a peer, nothing is sent", has_peer=True),
    "relay.send_slow": Point("as relay.send_delay, each time for a while", default=1.0, has_peer=True),
    "relay.before_local_commit": Point(
        "rows of this instance are on disk and go to peers, it has not committed them"
    ),
    "relay.ack_read_delay": Point("an ack of a peer arrived, nobody has read it", has_peer=True),
    "relay.control_delay": Point(
        "a heartbeat or Raft message for a peer is due, not made yet", has_peer=True
    ),
    "relay.no_heartbeat": _wrong("no heartbeat is sent to a peer", has_peer=True),
    "relay.journal_open_delay": Point("a peer subscribed, the log is not opened for it", has_peer=True),
    "recovery.delay": Point("the port is open, the files of the instance are not read"),
    "relay.final_join_delay": Point("who joins has the snapshot and is registered, it lacks the rows since"),
    "join.delay": Point("somebody asked to join, nothing is sent"),
    "applier.subscribe_delay": Point("a peer was found, it is not asked for rows", has_peer=True),
    "applier.before_step": Point("rows of a peer arrived, the core has not seen them", has_peer=True),
    "applier.apply_fail": _wrong("rows of a peer cannot be applied: its stream stops", has_peer=True),
    "applier.before_ack": Point("rows of a peer are on disk, the peer does not know", has_peer=True),
    "applier.ack_delay": Point("as applier.before_ack, but the link is kept alive", has_peer=True),
    "applier.ack_slow": Point("as applier.ack_delay, each time for a while", default=1.0, has_peer=True),
    "raft.promote_delay": Point("an election is won, its PROMOTE is not in the file of the log"),
    "raft.term_persisted_delay": Point("a term or a vote is on disk, neither this instance nor a peer knows"),
    "limbo.worker_delay": Point("the queue decided, its CONFIRM or ROLLBACK is not in the file of the log"),
    "limbo.promote_begin_delay": Point("somebody asked for a promote, nothing was begun"),
    "net.replication_request_delay": Point("a peer asked for rows or to join, nobody has looked at it"),
    "net.read_chunk": _wrong("a read of a connection takes no more than so much", "bytes", 1),
    "snapshot.before_rename": Point("a snapshot is complete and synced under its temporary name"),
}
"""Every point."""

ENVIRONMENT: Final = "SYNCHRO_FAILPOINTS"
SWITCH: Final = "SYNCHRO_FAULT_INJECTION"
EXIT_CODE: Final = 137
"""As after SIGKILL: no cleanup, no flush, no answer."""


class Action(StrEnum):
    ON = "on"
    """What the point is for: wait until it is cleared, or for its value in seconds; or go wrong."""
    PAUSE = "pause"
    """Wait until the point is cleared."""
    DELAY = "delay"
    ERROR = "error"
    """Raise an OSError."""
    EXIT = "exit"
    COUNT = "count"


@dataclass(slots=True)
class Armed:
    """One point that does something, or did until it was cleared."""

    action: Action
    delay_s: float = 0.0
    errno: int = errno.EIO
    skip: int = 0
    """Passes that do nothing first."""
    times: int = 0
    """Passes that act; 0: all."""
    value: float = 0.0
    """Of `on`, for a point that goes wrong."""
    peers: frozenset[int] = frozenset()
    """Ids of the peers it is about; none: all. Others do not count as passes."""
    passes: int = 0
    """Passes seen since it was armed."""
    triggers: int = 0
    """Those of them that acted."""
    is_off: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tasks: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _threads: deque[threading.Event] = field(default_factory=deque)

    @property
    def waiting(self) -> int:
        """Passes that wait now."""
        return len(self._tasks) + len(self._threads)

    @property
    def acts_next(self) -> bool:
        done = self.passes - self.skip
        return done >= 0 and (self.times == 0 or done < self.times)

    def count(self) -> bool:
        """One pass; True if it is to act."""
        with self._lock:
            acts = self.acts_next
            self.passes += 1
            self.triggers += acts
        return acts

    @property
    def _longest_s(self) -> float:
        return math.inf if self.action is Action.PAUSE else self.delay_s

    async def wait(self) -> None:
        try:
            with trio.move_on_after(self._longest_s):
                await self._tasks.park()
        finally:
            if self.is_off:
                self._tasks.unpark()

    def wait_in_thread(self) -> None:
        mine = threading.Event()
        with self._lock:
            if self.is_off:
                return
            self._threads.append(mine)
        mine.wait(None if self.action is Action.PAUSE else self.delay_s)
        with self._lock:
            self._threads.remove(mine)
            self._wake_thread()

    def release(self) -> None:
        """Who waits goes on, in the order in which they came: each wakes the next one."""
        with self._lock:
            self.is_off = True
            self._wake_thread()
        self._tasks.unpark()

    def _wake_thread(self) -> None:
        if self.is_off and self._threads:
            self._threads[0].set()


class Failpoints:
    """Which points are armed. Armed and cleared in the trio thread; passed in any."""

    __slots__ = ("_last", "armed")

    def __init__(self) -> None:
        self.armed: dict[str, Armed] = {}
        self._last: dict[str, Armed] = {}
        """What was armed last, by point: its counts stay readable when it is cleared."""

    def set(
        self,
        name: str,
        action: Action | str = Action.ON,
        *,
        delay_s: float = 0.0,
        error: int = errno.EIO,
        skip: int = 0,
        times: int = 0,
        value: float | None = None,
        peers: Iterable[int] = (),
    ) -> None:
        """Arm a point anew; who waited there goes on. value: of `on`; None: the default of the point. peers:
        ids; none: all. Raises `ConfigError` for what does not exist or means nothing; nothing is changed."""
        made = _armed(
            name,
            action,
            delay_s=delay_s,
            error=error,
            skip=skip,
            times=times,
            value=value,
            peers=frozenset(peers),
        )
        self._arm(name, made)

    def _arm(self, name: str, made: Armed) -> None:
        self.clear(name)
        self.armed[name] = self._last[name] = made

    def clear(self, name: str | None = None) -> int:
        """Disarm one point, or all; who waited goes on. Returns the passes it saw."""
        if name is None:
            return sum(self.clear(each) for each in list(self.armed))
        _check_name(name)
        armed = self.armed.pop(name, None)
        if armed is None:
            return 0
        armed.release()
        return armed.passes

    def last(self, name: str) -> Armed | None:
        """What was armed there last; None: nothing since the start."""
        _check_name(name)
        return self._last.get(name)

    def passes(self, name: str) -> int:
        """Passes since the point was armed; 0 while it is not."""
        _check_name(name)
        return self.armed[name].passes if name in self.armed else 0

    def waiting(self, name: str) -> int:
        """Tasks and threads that wait there now."""
        last = self.last(name)
        return 0 if last is None else last.waiting

    def load(self, text: str) -> None:
        """Arm what `text` lists; nothing at all if a part of it is wrong."""
        parts = [_parse(part.strip()) for part in text.split(";") if part.strip()]
        for name, armed in parts:
            self._arm(name, armed)

    def acts_next(self, name: str) -> bool:
        """Whether the next pass will act. Is no pass itself."""
        armed = self.armed.get(name)
        return armed is not None and armed.acts_next

    def fires(self, name: str, peer: int | None = None) -> Armed | None:
        """One pass of a point at which something goes wrong; None: it does not."""
        armed = self._pass(name, peer)
        return armed if armed is not None and armed.action is Action.ON else None

    async def hit(self, name: str, peer: int | None = None) -> None:
        armed = self._pass(name, peer)
        if armed is not None and armed.action in _WAITS:
            await armed.wait()

    def hit_in_thread(self, name: str) -> None:
        armed = self._pass(name, None)
        if armed is not None and armed.action in _WAITS:
            armed.wait_in_thread()

    def _pass(self, name: str, peer: int | None) -> Armed | None:
        """Count; fail or end at once; else what the caller has to heed, if anything."""
        _check_name(name)
        armed = self.armed.get(name)
        if armed is None or (armed.peers and peer not in armed.peers) or not armed.count():
            return None
        if armed.action is Action.ERROR:
            raise OSError(armed.errno, f"{os.strerror(armed.errno)} (failpoint {name})")
        if armed.action is Action.EXIT:
            os._exit(EXIT_CODE)
        return armed


_WAITS: Final = (Action.PAUSE, Action.DELAY)
VALUE_MAX: Final = 2**31 - 1
"""Of counts, seconds, bytes and errnos alike: no more means anything, and it fits everywhere."""


def _check_name(name: str) -> None:
    if name not in POINTS:
        raise ConfigError(f"unknown failpoint {name!r}; there are: {', '.join(POINTS)}", key=name)


def _armed(
    name: str,
    action: Action | str,
    *,
    delay_s: float,
    error: int,
    skip: int,
    times: int,
    value: float | None,
    peers: frozenset[int],
) -> Armed:
    _check_name(name)
    point = POINTS[name]
    try:
        action = Action(action)
    except ValueError as unknown:
        known = ", ".join(Action)
        raise ConfigError(f"failpoint {name}: unknown action {action!r}; there are: {known}") from unknown
    for number in (delay_s, skip, times, error, value or 0):
        if not 0 <= number <= VALUE_MAX:
            raise ConfigError(f"failpoint {name}: {number} is not from 0 to {VALUE_MAX}; nothing was armed")
    if peers and not point.has_peer:
        raise ConfigError(f"failpoint {name} is not about one peer; nothing was armed")
    if not point.is_place and action not in (Action.ON, Action.COUNT):
        raise ConfigError(f"failpoint {name} takes on and count, not {action}; nothing was armed")
    if value is not None and (action is not Action.ON or not point.value):
        raise ConfigError(f"failpoint {name} with {action} takes no value; nothing was armed")
    value = point.default if value is None else value
    if action is Action.ON and point.is_place:
        action, delay_s = (Action.DELAY, value) if value else (Action.PAUSE, 0.0)
    return Armed(action, delay_s, error or errno.EIO, skip, times, value, peers)


_PART: Final = re.compile(
    r"(?P<name>[a-z_.]+)\s*=\s*(?P<action>[a-z]+)(?:\((?P<argument>[0-9.]+)\))?(?P<more>(?:\s*,[^,]*)*)"
)
_FORM: Final = re.compile(r"\s*(?P<form>skip|countdown|times|peer)\s*=\s*(?P<number>\d{1,10})\s*")


def _parse(part: str) -> tuple[str, Armed]:
    found = _PART.fullmatch(part)
    forms = [_FORM.fullmatch(form) for form in found["more"].split(",")[1:]] if found is not None else []
    if found is None or None in forms:
        raise ConfigError(
            f"{ENVIRONMENT}: expected NAME=ACTION[(ARGUMENT)][,countdown=N][,times=N][,peer=ID], got {part!r}"
        )
    given = [(form["form"], int(form["number"])) for form in forms if form is not None]
    numbers = dict(given)
    action, argument = found["action"], found["argument"]
    try:
        armed = _armed(
            found["name"],
            action,
            delay_s=float(argument or 0) if action == Action.DELAY else 0.0,
            error=int(argument or errno.EIO) if action == Action.ERROR else errno.EIO,
            skip=numbers.get("countdown", numbers.get("skip", 0)),
            times=numbers.get("times", 0),
            value=float(argument) if argument and action == Action.ON else None,
            peers=frozenset(number for form, number in given if form == "peer"),
        )
    except ValueError as wrong:
        raise ConfigError(f"{ENVIRONMENT}: {part!r}: {wrong}") from wrong
    return found["name"], armed


REGISTRY: Final = Failpoints()


def load_environment(environ: Mapping[str, str] | None = None) -> None:
    """Arm what `SYNCHRO_FAILPOINTS` lists. Called once, by the process that serves."""
    REGISTRY.load((os.environ if environ is None else environ).get(ENVIRONMENT, ""))


def is_wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the environment asks for fault injection: by its switch, or by what it arms.

    Raises `ConfigError` for a switch that is neither on nor off.
    """
    environ = os.environ if environ is None else environ
    switch = environ.get(SWITCH, "").strip().lower()
    if switch not in ("", "0", "1", "false", "true"):
        raise ConfigError(f"{SWITCH} is 1 or 0, not {switch!r}; nothing was started", key=SWITCH)
    return switch in ("1", "true") or bool(environ.get(ENVIRONMENT, "").strip())


async def failpoint(name: str, *, peer: int | None = None) -> None:
    """A point in a trio task. Not a checkpoint while nothing is armed. peer: id of whom it is about."""
    if REGISTRY.armed:
        await REGISTRY.hit(name, peer)


def failpoint_in_thread(name: str) -> None:
    """A point in a worker thread; a wait blocks the thread."""
    if REGISTRY.armed:
        REGISTRY.hit_in_thread(name)


def failpoint_fires(name: str, *, peer: int | None = None) -> Armed | None:
    """A point at which something goes wrong, in any thread; None: nothing does."""
    return REGISTRY.fires(name, peer) if REGISTRY.armed else None
