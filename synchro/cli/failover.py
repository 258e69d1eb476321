"""The script of `synchro demo`: a leader is killed in mid-write, and what was acknowledged must be there."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from synchro.cli import process_table
from synchro.cli.demo_set import (
    DemoFailed,
    log_lines,
    say,
    show_members,
    start,
    wait_for,
    wait_leader,
)
from synchro.cli.formatting import seconds
from synchro.cli.loading import load
from synchro.cli.process_table import Target
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from synchro.client import Client, WatchState

WRITERS: Final = 64
BATCH_ROWS: Final = 500
CALM_S: Final = 2.0
"""How long the writers run before the leader is killed, and after the new one took over."""
CATCH_UP_S: Final = 40.0
FAILOVER_MAX_S: Final = 30.0
DERIVED: Final = ("CJK UNIFIED IDEOGRAPH-", "HANGUL SYLLABLE ", "TANGUT IDEOGRAPH-")
"""Names that follow from the code point; Unicode's own list of names leaves them out."""


@dataclass(slots=True)
class Written:
    """What the writers know. Guarded by the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    acked: dict[int, str] = field(default_factory=dict)
    """Key -> who acknowledged it."""
    unknown: set[int] = field(default_factory=set)
    """Keys of writes whose outcome nobody knows."""
    refused: Counter[str] = field(default_factory=Counter)
    first_by_other: float | None = None
    """When somebody else than `killed` acknowledged a write for the first time."""
    killed: str = ""
    longest_s: float = 0.0


class Failover:
    """See the module."""

    def __init__(self, db: Client, target: Target) -> None:
        self.db = db
        self.target = target
        self.written = Written()
        self.stopping = threading.Event()
        self.began = time.monotonic()
        self.killed_at: float | None = None
        self.killed_wall: datetime | None = None
        self.say_lock = threading.Lock()
        self.threads: list[threading.Thread] = []
        self.watching: list[Client] = []

    def event(self, text: str) -> None:
        """A line with its time: since the kill, once that happened."""
        now = time.monotonic()
        mark = (
            f"+{now - self.killed_at:6.3f} s" if self.killed_at is not None else f"{now - self.began:7.3f} s"
        )
        with self.say_lock:
            say(f"[{mark}] {text}")

    def run(self) -> None:
        try:
            self._run()
        finally:
            self._end_threads()

    def _end_threads(self) -> None:
        """Writers end with their write. Who watches waits for a change that may not come."""
        self.stopping.set()
        for client in self.watching:
            client.close()
        for thread in self.threads:
            thread.join(timeout=30)

    def _run(self) -> None:
        nodes = len(self.target.names)
        picture = wait_leader(self.db, nodes)
        show_members(picture)
        leader = next(m.name for m in picture.members if m.state == "leader")
        rows = unicode_rows()
        self._create()
        self._load(rows)
        self._begin_writing(leader)
        time.sleep(CALM_S)
        self._kill(leader)
        self._await_failover()
        time.sleep(CALM_S)
        self._restart(leader)
        self._end_threads()
        self._await_equal()
        self._verify(rows)
        self._show_end()

    def _create(self) -> None:
        db = self.db
        db.create_space("unicode", sync=True, format=["code:unsigned", "name:string", "category:string"])
        db.create_index("unicode", "primary", parts=["code"])
        db.create_space("writes", sync=True, format=["key:unsigned", "writer:unsigned", "number:unsigned"])
        db.create_index("writes", "primary", parts=["key"])
        self.event("spaces 'unicode' and 'writes' (sync) created")

    def _load(self, rows: Sequence[tuple[int, str, str]]) -> None:
        from synchro.client import ops

        started = time.perf_counter()
        made = (ops.insert("unicode", row) for row in rows)
        done = load(self.db, made, BATCH_ROWS, len(rows))
        took_s = time.perf_counter() - started
        self.event(
            f"{done} rows of Unicode {unicodedata.unidata_version} loaded through the queue "
            f"in {took_s:.1f} s, {done / took_s:.0f} a second"
        )

    # --- writers and watchers

    def _begin_writing(self, leader: str) -> None:
        self.written.killed = leader
        for name in self.target.names:
            self._spawn(self._watch, name)
        for number in range(WRITERS):
            self._spawn(self._write, number)
        self.event(f"{WRITERS} writers write to 'writes', one row each at a time")

    def _spawn(self, what: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=what, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _write(self, writer: int) -> None:
        from synchro.client import OutcomeUnknown, ops

        written, number = self.written, 0
        while not self.stopping.is_set():
            number += 1
            key = writer * 10_000_000 + number
            started = time.monotonic()
            try:
                result = self.db.execute([ops.insert("writes", (key, writer, number))], omit_tuples=True)
            except OutcomeUnknown:
                with written.lock:
                    written.unknown.add(key)
                continue
            except SynchroError as error:
                with written.lock:
                    written.refused[error.reason] += 1
                    if error.reason == "TUPLE_FOUND":  # a key is used once: this would be a write done twice
                        written.refused["TUPLE_FOUND of a new key"] += 1
                self.stopping.wait(0.05)
                continue
            now = time.monotonic()
            with written.lock:
                written.acked[key] = result.instance
                written.longest_s = max(written.longest_s, now - started)
                if (
                    written.first_by_other is None
                    and self.killed_at is not None
                    and result.instance != written.killed
                ):
                    written.first_by_other = now

    def _watch(self, name: str) -> None:
        """Report what an instance says about who leads."""
        from synchro.client import connect

        listen = self.target.config.instance(name).settings.listen
        with connect(listen, timeout=2, follow_leader=False) as db:
            self.watching.append(db)
            last: tuple[object, ...] = ()
            while not self.stopping.is_set():
                try:
                    for state in db.watch_info():
                        last = self._report(name, state, last)
                        if self.stopping.is_set():
                            return
                except SynchroError:
                    pass  # it is the one that was killed
                self.stopping.wait(0.1)

    def _report(self, name: str, state: WatchState, last: tuple[object, ...]) -> tuple[object, ...]:
        seen = (state.leader, state.term, state.is_writable, state.ro_reason)
        if seen == last or self.killed_at is None or self.stopping.is_set():
            return seen
        if state.is_writable:
            self.event(f"{name}: leads in term {state.term}, owns the queue, accepts writes")
        elif state.leader is None:
            self.event(f"{name}: term {state.term}, no leader ({state.ro_reason})")
        elif state.leader == self.written.killed:
            self.event(f"{name}: term {state.term}, an election; the queue is still that of {state.leader}")
        else:
            self.event(f"{name}: term {state.term}, follows {state.leader}")
        return seen

    # --- the kill

    def _kill(self, leader: str) -> None:
        pid = process_table.running_pid(self.target, leader)
        if pid is None:
            raise DemoFailed(f"{leader} ended by itself")
        with self.written.lock:
            acked = len(self.written.acked)
        self.event(f"{acked} writes acknowledged, {acked / CALM_S:.0f} a second")
        self.killed_wall = datetime.now(UTC)
        self.killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self.event(f"SIGKILL to the leader {leader} (pid {pid}), {WRITERS} writes are under way")

    def _await_failover(self) -> None:
        wait_for(
            "a write acknowledged by a new leader",
            FAILOVER_MAX_S,
            lambda: self.written.first_by_other is not None,
        )
        assert self.written.first_by_other is not None and self.killed_at is not None
        self.event(
            f"failover took {self.written.first_by_other - self.killed_at:.3f} s, from the kill to the first "
            "write that the new leader acknowledged"
        )

    def _restart(self, leader: str) -> None:
        alone = process_table.parse_target(f"{self.target.config.path}:{leader}")
        self.event(f"{leader} is started again, while the writers go on")
        start(alone)
        behind = self._rows_behind(leader)
        self.event(
            f"{leader} is up" + (f", {behind} rows to fetch" if behind else ", and has caught up already")
        )
        time.sleep(CALM_S / 2)

    def _vclocks(self) -> dict[str, dict[int, int]]:
        found = {}
        for name in self.target.names:
            clock = self.db.get_info("vclock", instance=name)
            found[name] = {int(i): int(lsn) for i, lsn in clock.items() if int(i)}
        return found

    def _rows_behind(self, name: str) -> int:
        clocks = self._vclocks()
        newest: Counter[int] = Counter()
        for clock in clocks.values():
            for origin, lsn in clock.items():
                newest[origin] = max(newest[origin], lsn)
        return sum(lsn - clocks[name].get(origin, 0) for origin, lsn in newest.items())

    def _await_equal(self) -> None:
        def equal() -> bool:
            try:
                clocks = list(self._vclocks().values())
                queues = [self.db.get_info("synchro.queue.len", instance=name) for name in self.target.names]
            except SynchroError:
                return False
            return all(clock == clocks[0] for clock in clocks) and not any(queues)

        wait_for("that all instances are equal", CATCH_UP_S, equal)
        self.event(f"all {len(self.target.names)} instances have the same vclock, their queues are empty")

    # --- proof

    def _verify(self, rows: Sequence[tuple[int, str, str]]) -> None:
        written = self.written
        acked, unknown = set(written.acked), set(written.unknown)
        by = Counter(written.acked.values())
        shares = ", ".join(f"{count} by {name}" for name, count in sorted(by.items()))
        self.event(
            f"{len(acked)} writes acknowledged ({shares}); the longest took {seconds(written.longest_s)}"
        )
        refused = ", ".join(f"{count} x {reason}" for reason, count in sorted(written.refused.items()))
        self.event(f"{len(unknown)} writes with unknown outcome; refused: {refused or 'none'}")
        if written.refused["TUPLE_FOUND"]:
            raise DemoFailed("a write was done twice: a new key existed already")
        if len(by) < 2:
            raise DemoFailed("only one instance acknowledged writes: there was no failover")
        for space in ("unicode", "writes"):
            sums = {name: self.db.checksum(space, instance=name) for name in self.target.names}
            distinct = {(reply.count, reply.checksum) for reply in sums.values()}
            for name, reply in sums.items():
                self.event(f"{name}: '{space}' {reply.count} rows, checksum {reply.checksum}")
            if len(distinct) != 1:
                raise DemoFailed(f"the instances differ in space '{space}'")
        # Equal checksums: what one of them holds, all hold. The one that was killed had most to lose.
        self._read_back("unicode", {row[0]: row for row in rows}, set())
        keys = {key: (key, key // 10_000_000, key % 10_000_000) for key in acked}
        self._read_back("writes", keys, unknown)
        self._check_logs()

    def _read_back(self, space: str, wanted: dict[int, tuple[Any, ...]], maybe: set[int]) -> None:
        from synchro.client import connect

        listen = self.target.config.instance(self.written.killed).settings.listen
        with connect(listen, follow_leader=False, read_from="any", timeout=15) as db:
            found = {row[0]: tuple(row) for row in db.select(space)}
        lost = [key for key, row in wanted.items() if found.get(key) != row]
        if lost:
            raise DemoFailed(f"{len(lost)} acknowledged rows of '{space}' are lost, such as key {lost[0]}")
        extra = [key for key in found if key not in wanted and key not in maybe]
        # A write that was refused with an error that says "nothing was done" must not be there.
        if extra:
            raise DemoFailed(f"{len(extra)} rows of '{space}' nobody was told about, such as key {extra[0]}")
        more = len(found) - len(wanted)
        note = f", and {more} of {len(maybe)} whose outcome was unknown" if maybe else ""
        self.event(f"{self.written.killed}: all {len(wanted)} acknowledged rows of '{space}' are there{note}")

    def _check_logs(self) -> None:
        bad = []
        count = 0
        for name in self.target.names:
            for line in log_lines(self.target, name):
                count += 1
                if not self._is_explained(line):
                    bad.append(f"{name}: {line}")
        if bad:
            shown = "\n  ".join(bad[:5])
            raise DemoFailed(f"{len(bad)} log records at level error:\n  {shown}")
        self.event(f"{count} log records, none at level error that the kill does not explain")

    def _is_explained(self, line: str) -> bool:
        try:
            record = json.loads(line)
        except ValueError:
            return False  # a traceback, or a library that writes by itself
        if record.get("level") not in ("error", "critical"):
            return True
        if record.get("peer") != self.written.killed or self.killed_wall is None:
            return False
        return str(record.get("ts", "")) >= self.killed_wall.isoformat().removesuffix("+00:00")

    def _show_end(self) -> None:
        from synchro.cli.picture import take_picture
        from synchro.cli.queue_verbs import queue_text
        from synchro.cli.status_verbs import status_text

        say("")
        for line in queue_text(self.db, self.db.leader()):
            say(line)
        say("")
        for line in status_text(take_picture(self.db, self.target)):
            say(line)
        total = len(self.written.acked)
        say(f"\nOK: no acknowledged write was lost ({total} writes and the load), no error in the logs.")


def unicode_rows() -> list[tuple[int, str, str]]:
    """(code point, name, category) of all characters with a name of their own."""
    rows = []
    for code in range(sys.maxunicode + 1):
        name = unicodedata.name(chr(code), "")
        if name and not name.startswith(DERIVED):
            rows.append((code, name, unicodedata.category(chr(code))))
    return rows
