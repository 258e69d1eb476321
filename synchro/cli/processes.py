"""Instances of a local set as background processes: init, start, stop, restart.

Plain functions with plain results; `local_verbs.py` prints them. No gRPC, trio or structlog here: `start`
must be quick, and gRPC does not survive a fork. What runs, and who listens, is told by process_table.P1 and
process_table.P2.

    P3  A process is ended only if it is our instance by process_table.P1; what answers is not stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

from synchro.cli.process_table import (
    CONFIG_NAME,
    Process,
    ProcessState,
    Target,
    children,
    is_ending,
    is_listening,
    is_ours,
    lacks_port,
    log_file,
    log_of,
    pid_file,
    process_of,
    ready_file,
    run_file,
    running_pid,
)
from synchro.config import Settings
from synchro.config.address import check_has_address, check_listen
from synchro.config.template import DEFAULT_PORT, init_text
from synchro.errors import ConfigError, InAnotherStart
from synchro.process.ready import LOG_FILE, READY_FILE
from synchro.secret import PASSWORD_VARIABLE

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 30.0
LOADING_GRACE_S: Final = 5.0
"""An instance that listens may wait for its peers for ever: after this long it counts as started."""
POLL_S: Final = 0.02
TAIL_BYTES: Final = 4096


# --- init -----------------------------------------------------------------------------------------------


def init(
    directory: str | Path,
    *,
    nodes: int = 3,
    base_port: int = DEFAULT_PORT,
    failover: str = "election",
) -> Path:
    """Write DIR/config.yaml. Refuses to overwrite. Returns its path; next: `start`."""
    path = Path(directory) / CONFIG_NAME
    text = init_text(nodes, base_port=base_port, failover=failover)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists, nothing was written.\n"
            f"next:  synchro start {shlex.quote(str(path))}   or   another directory",
            file=path,
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", file=path) from error
    return path


def _command(config: Path, name: str, extra: Sequence[str] = ()) -> list[str]:
    # -P: a queue.py or synchro/ in the current directory must not shadow the real one.
    return [sys.executable, "-P", "-m", "synchro", "serve", "--config", str(config), "--name", name, *extra]


@contextlib.contextmanager
def _locked(target: Target, timeout_s: float, *, is_needed: bool = True) -> Iterator[None]:
    """One start or stop at a time: two would start an instance twice. A stop does not need it: it works on a
    disk that has become full or read-only. Raises `InAnotherStart`: one is still at it."""
    path = target.directory / "var" / "run" / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (target.directory / "var" / "log").mkdir(parents=True, exist_ok=True)
        file: IO[str] | None = path.open("a+", encoding="ascii")
    except OSError as error:
        if is_needed:
            raise ConfigError(f"cannot write below {path.parent}: {error.strerror}", file=path) from error
        file = None
    with file or contextlib.nullcontext():
        if file is not None:
            _wait_for_lock(file, timeout_s)
        yield


def _wait_for_lock(file: IO[str], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _still_at_it(file, timeout_s) from None
        time.sleep(POLL_S)
    with contextlib.suppress(OSError):  # for people: a full disk does not matter
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()


def _still_at_it(file: IO[str], timeout_s: float) -> InAnotherStart:
    """As a `synchro start` that somebody stopped by Ctrl-Z."""
    file.seek(0)
    pid = file.read(32).strip()
    who = f"process {pid}" if pid else "another process"
    message = (
        f"{who} starts or stops instances of this set, and did not end in {timeout_s:g} s; nothing was done"
    )
    return InAnotherStart(f"{message}.\nnext:  kill -9 {pid}   ends it, and no instance" if pid else message)


# --- start ----------------------------------------------------------------------------------------------


def start(
    target: Target,
    *,
    timeout_s: float = START_TIMEOUT_S,
    insecure: bool = False,
    extra: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    on_starting: Callable[[str], None] | None = None,
) -> list[Process]:
    """Start what is not running, return when all are up. extra: further arguments of `serve`.

    One that runs already, and does not listen yet, is waited for as well (process_table.P2).
    A process that ends or hangs is a result (EXITED, STUCK) with the end of its log, not an exception;
    the others stay up. on_starting: called with each name, for the "starting" lines.
    """
    for name in target.names:
        check_listen(target.config.instance(name).settings, insecure=insecure)
    with _locked(target, timeout_s):
        return _start_all(
            target, timeout_s, [*(["--insecure"] if insecure else []), *extra], environ, on_starting
        )


def _start_all(
    target: Target,
    timeout_s: float,
    options: Sequence[str],
    environ: Mapping[str, str] | None,
    on_starting: Callable[[str], None] | None,
) -> list[Process]:
    """The lock is held."""
    waits: dict[str, _Start] = {}
    unreachable = {name: why for name in target.names if (why := _why_unreachable(target, name))}
    for name in target.names:
        if name in unreachable:
            continue
        pid = running_pid(target, name)
        if pid is not None:
            if lacks_port(target, name, pid):
                waits[name] = _Start(target, name, pid, is_new=False)
            continue
        if on_starting is not None:
            on_starting(name)
        try:
            waits[name] = _Start(target, name, _spawn(target, name, options, environ))
        except OSError as error:
            unreachable[name] = f"{name} was not started: {error.strerror}: {error.filename}"
    results: dict[str, Process] = {}
    deadline = time.monotonic() + timeout_s
    while len(results) < len(waits):
        now = time.monotonic()
        for name, wait in waits.items():
            if name not in results and (result := wait.look(now, is_late=now > deadline)) is not None:
                results[name] = result
        time.sleep(POLL_S)
    for name, why in unreachable.items():
        process = process_of(target, name, message=why)
        results[name] = process if process.pid is not None else replace(process, state=ProcessState.EXITED)
    return [results[name] if name in results else process_of(target, name) for name in target.names]


def _why_unreachable(target: Target, name: str) -> str:
    """The mistake of one instance, which does not keep the others from starting; "": none."""
    try:
        check_has_address(target.config.instance(name).settings)
    except ConfigError as error:
        return error.message
    return ""


def _spawn(target: Target, name: str, options: Sequence[str], environ: Mapping[str, str] | None) -> int:
    """Raises `OSError` if there is no process; the notes in `var/run` only help (process_table.P1)."""
    ready = ready_file(target.directory, name)
    _remove(ready)
    log_path = log_file(target.directory, name)
    environment = dict(os.environ if environ is None else environ)
    environment.pop(PASSWORD_VARIABLE, None)  # of who gave the command
    environment |= {READY_FILE: str(ready), LOG_FILE: str(log_path)}
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            _command(target.config.path, name, options),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=target.directory,
            env=environment,
            start_new_session=True,
        )
    children[child.pid] = child
    settings = target.config.instance(name).settings
    noted = json.dumps({"listen": settings.listen, "data": settings.wal_dir})
    for file, content in (
        (pid_file(target.directory, name), str(child.pid)),
        (run_file(target.directory, name), noted),
    ):
        temporary = file.with_suffix(f"{file.suffix}.new")
        try:
            temporary.write_text(f"{content}\n", encoding="utf-8")
            temporary.replace(file)
        except OSError:  # a full disk: what is there is of an earlier process
            _remove(temporary)
            _remove(file)
    return child.pid


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


@dataclass(slots=True)
class _Start:
    """One process on its way up."""

    target: Target
    name: str
    pid: int
    is_new: bool = True
    """Begun by this call; False: by a person, or an earlier call, whose time was over before it listened."""
    loading_since: float | None = None
    child: subprocess.Popen[bytes] | None = field(init=False)
    """None: it is not ours. `is_ours` forgets one that ended, so it is kept here."""

    def __post_init__(self) -> None:
        self.child = children.get(self.pid)

    def look(self, now: float, *, is_late: bool) -> Process | None:
        """The result, once there is one."""
        target, name = self.target, self.name
        if (end := self._end()) is not None:
            return self._failed(ProcessState.EXITED, None, end)
        listens = is_listening(target, name, self.pid)
        if not self.is_new and not listens:
            listens = not lacks_port(target, name, self.pid)
        if (
            listens
            and (process := process_of(target, name, changed=self.is_new)).state is ProcessState.RUNNING
        ):
            return process
        if self.loading_since is None and listens:
            self.loading_since = now
        if self.loading_since is not None and (is_late or now - self.loading_since > LOADING_GRACE_S):
            return process_of(target, name, changed=self.is_new)
        if is_late:
            return self._failed(ProcessState.STUCK, self.pid, "runs, but does not listen in time")
        return None

    def _end(self) -> str | None:
        """How it ended; None: it runs."""
        if self.is_new and self.child is not None:
            if self.child.poll() is None:
                return None
            children.pop(self.pid, None)
            return f"exited with code {self.child.returncode} while starting"
        return None if is_ours(self.pid, self.target, self.name) else "ended while starting"

    def _failed(self, state: ProcessState, pid: int | None, what: str) -> Process:
        return replace(_failed(self.target, self.name, state, pid, what), changed=self.is_new)


def accepts(settings: Settings) -> bool:
    """Whether anything answers at the address of this instance."""
    host, _, port = settings.listen.rpartition(":")
    host = host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        with socket.create_connection((host, int(port)), timeout=0.2):
            return True
    except (OSError, ValueError):
        return False


def _failed(target: Target, name: str, state: ProcessState, pid: int | None, what: str) -> Process:
    # What ends before it has read its configuration says so on standard error.
    log = next((file for file in (log_of(target, name),) if log_tail(file)), log_file(target.directory, name))
    listen = target.config.instance(name).settings.listen
    tail = log_tail(log)
    if pid is None and (failure := _failure(tail)) is not None:
        reason, why = failure
        message = f"{name} {what}; its log is {log}: {why}"
        if reason == "ALREADY_RUNNING" and f"cannot listen on {listen}" in why:
            message += f"\nnext:  synchro -e {listen} info   shows who listens there"
        return Process(name, listen, state, pid, log, changed=True, message=message, reason=reason)
    message = f"{name} {what}. The end of {log}:\n{tail}" if tail else f"{name} {what}; {log} is empty"
    reason = "TIMED_OUT" if pid is not None else "CONFIG" if "error: CONFIG" in tail else "INTERNAL"
    return Process(name, listen, state, pid, log, changed=True, message=message, reason=reason)


def ended_by(target: Target, name: str) -> str:
    """Reason of the error by which an instance that does not run took its leave; "" if none did."""
    failure = _failure(log_tail(log_of(target, name)))
    return "" if failure is None else failure[0]


def _failure(tail: str) -> tuple[str, str] | None:
    """Reason and message of the record by which an instance takes its leave, if that is the last one."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        record = json.loads(tail.rpartition("\n")[2])
        if record["event"] == "instance_failed":
            return str(record["reason"]), str(record["message"])
    return None


def log_tail(path: Path, lines: int = 5) -> str:
    """The last lines of a log, for a message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])


# --- stop -----------------------------------------------------------------------------------------------


def stop(target: Target, *, timeout_s: float = STOP_TIMEOUT_S, kill: bool = False) -> list[Process]:
    """SIGTERM to all, then wait. kill: SIGKILL for those that are left after the time.

    Without `kill` an instance that does not end is left alone and reported as STUCK; one of another user at
    once, as DENIED.
    """
    with _locked(target, timeout_s, is_needed=False):
        return _stop_all(target, timeout_s, kill=kill)


def _stop_all(target: Target, timeout_s: float, *, kill: bool) -> list[Process]:
    """The lock is held, if there is one."""
    ending = {name: pid for name in target.names if (pid := running_pid(target, name)) is not None}
    denied = {name: pid for name, pid in ending.items() if not _send(target, name, pid, signal.SIGTERM)}
    ending = {name: pid for name, pid in ending.items() if name not in denied}
    deadline = time.monotonic() + timeout_s
    left = [name for name, pid in ending.items() if not _wait_gone(target, name, pid, deadline)]
    if kill:
        for name in left:
            _send(target, name, ending[name], signal.SIGKILL)
        deadline = time.monotonic() + timeout_s
        left = [name for name in left if not _wait_gone(target, name, ending[name], deadline)]
    results = []
    for name in target.names:
        if name in denied:
            results.append(_denied(target, name, denied[name]))
            continue
        if name in left:
            next_command = f"synchro stop {_quoted(target, name)} --kill"
            message = f"{name} (pid {ending[name]}) did not end in {timeout_s:g} s.\nnext:  {next_command}"
            listen = target.config.instance(name).settings.listen
            log = log_of(target, name)
            stuck = Process(
                name, listen, ProcessState.STUCK, ending[name], log, message=message, reason="TIMED_OUT"
            )
            results.append(stuck)
            continue
        for file in (pid_file, ready_file, run_file):
            _remove(file(target.directory, name))
        results.append(_stopped(target, name, changed=name in ending))
    return results


def _stopped(target: Target, name: str, *, changed: bool) -> Process:
    """The instance does not run; if its address answers all the same, that is no success (processes.P3)."""
    process = process_of(target, name, changed=changed)
    settings = target.config.instance(name).settings
    if process.pid is not None or not settings.listen or not accepts(settings):
        return process
    message = (
        f"no process holds the data of {name} in {settings.wal_dir}, but {settings.listen} answers: another "
        f"program, or an instance of another set. It was left alone.\n"
        f"next:  synchro -e {settings.listen} info   shows what it is"
    )
    return replace(process, state=ProcessState.FOREIGN, message=message, reason="ALREADY_RUNNING")


def _quoted(target: Target, name: str) -> str:
    """One instance, as a word of a command."""
    return shlex.quote(f"{target.config.path}:{name}")


def _denied(target: Target, name: str, pid: int) -> Process:
    process = process_of(target, name)
    message = (
        f"{name} (pid {pid}) runs as {_owner_of(pid)}, and this user may not end it; it was left alone.\n"
        f"next:  as that user, or as root: synchro stop {_quoted(target, name)}"
    )
    return replace(process, state=ProcessState.DENIED, pid=pid, message=message, reason="ACCESS_DENIED")


def _owner_of(pid: int) -> str:
    """The user of a process, for people."""
    import pwd

    try:
        uid = os.stat(f"/proc/{pid}").st_uid
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
    except OSError:
        return "another user"


def _send(target: Target, name: str, pid: int, number: int) -> bool:
    """A signal to exactly this process: the descriptor is opened first, then we look whose it is. False: this
    user may not do that."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):  # an old kernel, or another system
        return _signalled(target, name, pid, lambda: os.kill(pid, number))
    try:
        return _signalled(target, name, pid, lambda: signal.pidfd_send_signal(descriptor, number))
    finally:
        os.close(descriptor)


def _signalled(target: Target, name: str, pid: int, send: Callable[[], None]) -> bool:
    try:
        if is_ours(pid, target, name):
            send()
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def _wait_gone(target: Target, name: str, pid: int, deadline: float) -> bool:
    # One that ends loses its command line first and its files last: until it is gone its port may answer.
    while is_ours(pid, target, name) or is_ending(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def restart(
    target: Target,
    *,
    timeout_s: float = START_TIMEOUT_S,
    insecure: bool = False,
    kill: bool = False,
    extra: Sequence[str] = (),
    on_starting: Callable[[str], None] | None = None,
) -> list[Process]:
    """Stop, then start, and nobody else between. If one may not be stopped none is; if one does not stop none
    is started."""
    for name in target.names:
        check_listen(target.config.instance(name).settings, insecure=insecure)
    found = {name: running_pid(target, name) for name in target.names}
    denied = {name: pid for name, pid in found.items() if pid is not None and not _send(target, name, pid, 0)}
    if denied:
        return [_denied(target, n, denied[n]) if n in denied else process_of(target, n) for n in target.names]
    with _locked(target, timeout_s):
        stopped = _stop_all(target, timeout_s, kill=kill)
        left = [p for p in stopped if p.state in (ProcessState.STUCK, ProcessState.DENIED)]
        options = [*(["--insecure"] if insecure else []), *extra]
        if all(process.state is ProcessState.FOREIGN for process in stopped):
            return stopped
        if left:
            return [_left_down(target, process, left, options) for process in stopped]
        return _start_all(target, timeout_s, options, None, on_starting)


def _left_down(target: Target, process: Process, left: Sequence[Process], options: Sequence[str]) -> Process:
    """One that this restart has stopped, and does not start."""
    if process.state is not ProcessState.STOPPED or not process.changed:
        return process
    others = ", ".join(one.name for one in left)
    message = (
        f"{process.name} was stopped and not started again: {others} did not end\n"
        f"next:  {' '.join(['synchro', 'start', _quoted(target, process.name), *options])}"
    )
    return replace(process, message=message, reason=left[0].reason)
