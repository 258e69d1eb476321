"""Instances of a local set as background processes: init, start, stop, restart, and who is running.

Plain functions with plain results; `app.py` prints them. No gRPC, trio or structlog here: `start` must be
quick, and gRPC does not survive a fork. Files beside the configuration: `var/log/NAME.log`, and in `var/run`
NAME.pid, NAME.ready and NAME.json (what `stop` needs if the configuration is gone).

    P1  An instance runs if a process holds the lock of its data directory, whatever the PID file says; the
        PID file counts only for a process that /proc shows to be started for this instance.
    P2  Who listens is told by our child itself, or by the kernel: that a port answers proves nothing.
    P3  A process is ended only if it is our instance by processes.P1; nothing that answers counts as stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Final

from synchro.config import Settings
from synchro.config.address import check_has_address, check_listen
from synchro.config.file import ClusterConfig, InstanceConfig, load_all
from synchro.config.template import DEFAULT_PORT, init_text
from synchro.errors import ConfigError
from synchro.ids import InstanceName

READY_FILE: Final = "SYNCHRO_READY_FILE"
"""Environment of an instance: the file it writes when it is up, see `announce_ready`."""
LOG_FILE: Final = "SYNCHRO_STDERR_FILE"
"""Environment of an instance: the file that its standard error goes to, which SIGHUP opens anew."""
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 30.0
LOADING_GRACE_S: Final = 5.0
"""An instance that listens may wait for its peers for ever: after this long it counts as started."""
POLL_S: Final = 0.02
LOCK_NAME: Final = "instance.lock"
"""In the data directory, see `storage.identity`: locked, and with the PID in it, while the instance runs."""
LISTENING: Final = "listening"
"""Behind the PID in the ready file: the port is ours, data is not served yet."""
TAIL_BYTES: Final = 4096
TCP_LISTEN: Final = "0A"
"""State of a socket in /proc/net/tcp."""
CONFIG_NAME: Final = "config.yaml"


class State(StrEnum):
    RUNNING = "running"
    LOADING = "loading"
    """It listens, but waits for its peers or still reads its files."""
    STOPPED = "stopped"
    EXITED = "exited"
    """It ended by itself while it was being started."""
    STUCK = "stuck"
    """It did not end in time, or does not listen."""
    FOREIGN = "foreign"
    """It does not run, and something else answers at its address."""


@dataclass(frozen=True, slots=True)
class Process:
    """One instance of the file, as its process shows it."""

    name: str
    listen: str
    state: State
    pid: int | None
    log: Path
    changed: bool = False
    """Started or stopped by this call; False: it was so already."""
    message: str = ""
    """What went wrong, and the next command."""
    reason: str = "CONFIG"
    """Of the message, as in docs/errors.md."""

    @property
    def is_running(self) -> bool:
        return self.state in (State.RUNNING, State.LOADING)


@dataclass(frozen=True, slots=True)
class Target:
    """CONFIG or CONFIG:NAME, read and checked."""

    config: ClusterConfig
    names: tuple[str, ...]

    @property
    def directory(self) -> Path:
        return self.config.path.parent


def parse_target(text: str | Path, environ: Mapping[str, str] | None = None) -> Target:
    """CONFIG[:NAME]; CONFIG is a file, or a directory with config.yaml. Raises `ConfigError`."""
    path, name = _split(text)
    config = load_all(path, environ)
    if name:
        config.instance(name)
    return Target(config, (name,) if name else tuple(config.instances))


def _split(text: str | Path) -> tuple[Path, str]:
    """(the file by its real path, name of an instance or "")."""
    path, name = Path(text), ""
    if not path.exists() and ":" in str(text):
        before, _, name = str(text).rpartition(":")
        path = Path(before)
    if path.is_dir() or (not path.exists() and not path.suffix):
        path /= CONFIG_NAME
    return _real(path), name


def _real(path: Path) -> Path:
    """One set has one directory, by whatever links it is addressed: else its files are looked for in two.

    Only a link to a file beside which instances have run stays what it is: their data lies there."""
    beside = Path(os.path.realpath(path.parent))
    real = Path(os.path.realpath(path))
    return beside / path.name if real.parent == beside or (beside / "var" / "lib").exists() else real


def target_to_stop(text: str | Path) -> tuple[Target, ConfigError | None]:
    """As `parse_target`, with those that run although the file does not name them (any more).

    The error: the file could not be read, and the target is what `var/run` and /proc know of it. What runs
    must be stoppable, whatever became of its configuration."""
    try:
        target = parse_target(text)
    except ConfigError as error:
        known = target_without_config(text)
        if known is None:
            raise
        return known, error
    left = None if _split(text)[1] else target_without_config(text)
    if left is None or set(left.names) <= set(target.names):
        return target, None
    instances = {**left.config.instances, **target.config.instances}
    return Target(ClusterConfig(target.config.path, instances), tuple(sorted(instances))), None


def target_without_config(text: str | Path) -> Target | None:
    """What `var/run` and /proc know of a set whose configuration cannot be read; None: nothing runs there."""
    path, only = _split(text)
    run = path.parent / "var" / "run"
    found = {file.stem for suffix in ("pid", "json") for file in run.glob(f"*.{suffix}")}
    found |= {name for pid in _all_pids() if (name := _served_name(pid, path))}
    if only:
        found &= {only}
    instances = {}
    for name in sorted(found):
        listen, data = "", ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads((run / f"{name}.json").read_text(encoding="utf-8"))
            listen, data = str(noted["listen"]), str(noted["data"])
        settings = Settings(instance_name=InstanceName(name), listen=listen, wal_dir=data, snapshot_dir=data)
        instances[name] = InstanceConfig(name, "", "", settings)
    target = Target(ClusterConfig(path, instances), tuple(instances))
    names = tuple(name for name in target.names if running_pid(target, name) is not None)
    return Target(target.config, names) if names else None


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
            f"{path} exists, nothing was written.\nnext:  synchro start {path}   or   another directory",
            file=path,
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", file=path) from error
    return path


# --- who is running -------------------------------------------------------------------------------------

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Started by this very process: they must be reaped, or they stay as zombies."""


def _pid_file(directory: Path, name: str) -> Path:
    return directory / "var" / "run" / f"{name}.pid"


def _ready_file(directory: Path, name: str) -> Path:
    return directory / "var" / "run" / f"{name}.ready"


def _log_file(directory: Path, name: str) -> Path:
    return directory / "var" / "log" / f"{name}.log"


def _command(config: Path, name: str, extra: Sequence[str] = ()) -> list[str]:
    # -P: a queue.py or synchro/ in the current directory must not shadow the real one.
    return [sys.executable, "-P", "-m", "synchro", "serve", "--config", str(config), "--name", name, *extra]


def _run_file(directory: Path, name: str) -> Path:
    return directory / "var" / "run" / f"{name}.json"


def _all_pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _served(pid: int) -> tuple[str, str] | None:
    """Configuration and name of the instance that the process was started for; None: it is none of a file."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    if "serve" not in arguments:
        return None
    values = {}
    for at, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        values[option] = value if equals else "".join(arguments[at + 1 : at + 2])
    given = values.get("--config", "")
    if not os.path.isabs(given):
        try:
            given = os.path.join(os.readlink(f"/proc/{pid}/cwd"), given)
        except OSError:
            return None
    return given, values.get("--name", "")


def _served_name(pid: int, config: Path) -> str | None:
    """The instance of this file that the process was started for; None: of another one, or no instance."""
    found = _served(pid)
    if found is None or os.path.realpath(found[0]) != os.path.realpath(config):
        return None
    return found[1] or None


def local_target(members: Mapping[int, str]) -> Target | None:
    """The set of which instances run on this host, if its file has these members: port here -> name, "" if
    that is not known. By it a person can be told how those that do not run are started."""
    seen: set[str] = set()
    for pid in _all_pids():
        found = _served(pid)
        if found is None or found[0] in seen or not _shares_network(pid):
            continue
        seen.add(found[0])
        if not os.path.isfile(found[0]):  # gone, or one that is never read to its end
            continue
        try:
            target = parse_target(found[0])
        except ConfigError:
            continue
        named = name_by_port(target)
        if all(port in named and name in ("", named[port]) for port, name in members.items()):
            return target
    return None


def name_by_port(target: Target) -> dict[int, str]:
    listens = {name: target.config.instance(name).settings.listen for name in target.names}
    ports = {name: listen.rpartition(":")[2] for name, listen in listens.items()}
    return {int(port): name for name, port in ports.items() if port.isdigit()}


def _shares_network(pid: int) -> bool:
    """Else 127.0.0.1 is another host for it, as in a container."""
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), os.stat("/proc/self/ns/net"))
    except OSError:
        return False


def _lock_holder(data: str) -> int | None:
    """The process that holds the lock of a data directory. Not asked by locking: an instance that starts at
    this moment would find the lock taken."""
    if not data:
        return None
    try:
        with open(os.path.join(data, LOCK_NAME), "rb") as file:
            text = file.read(32).strip()
            lock = os.fstat(file.fileno())
        with open("/proc/locks", "rb") as file:
            lines = [line.split() for line in file.read().splitlines()]
    except OSError:
        return None
    inode = b":%d" % lock.st_ino
    by_kernel = [
        line[4] for line in lines if len(line) > 5 and line[1] == b"FLOCK" and line[5].endswith(inode)
    ]
    for candidate in (text, *by_kernel):
        if candidate.isdigit() and _has_open(int(candidate), lock, is_locked=candidate in by_kernel):
            return int(candidate)
    return None


def _has_open(pid: int, file: os.stat_result, *, is_locked: bool) -> bool:
    """is_locked: the kernel names it, which is enough for the process of another user."""
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), file):
                    return True
    except PermissionError:
        return is_locked
    except OSError:
        return False
    return False


def _is_ours(pid: int, target: Target, name: str) -> bool:
    """Alive, and this instance (processes.P1): a pid may have been given to somebody else."""
    if (child := _children.get(pid)) is not None and child.poll() is not None:
        del _children[pid]
        return False
    if _served_name(pid, target.config.path) == name:
        return True
    return _lock_holder(target.config.instance(name).settings.wal_dir) == pid


def running_pid(target: Target, name: str) -> int | None:
    """Pid of the running process of an instance; None if it is not running."""
    pid = _lock_holder(target.config.instance(name).settings.wal_dir)
    if pid is not None and _is_ours(pid, target, name):
        return pid
    pid = _noted_pid(target, name)
    if pid is not None and _is_ours(pid, target, name):
        return pid
    # It may not have its lock yet, or another one: the configuration may have changed since.
    path = target.config.path
    return next((pid for pid in _all_pids() if _served_name(pid, path) == name), None)


def processes(target: Target) -> list[Process]:
    """The state of each process, without talking to it."""
    return [_process(target, name) for name in target.names]


def _process(target: Target, name: str, *, changed: bool = False, message: str = "") -> Process:
    pid = running_pid(target, name)
    state = State.STOPPED
    if pid is not None:
        is_told = _is_ready(target, name, pid) or not _was_started_here(target, name, pid)
        state = State.RUNNING if is_told else State.LOADING
    listen = target.config.instance(name).settings.listen
    return Process(name, listen, state, pid, _log_file(target.directory, name), changed, message)


def _was_started_here(target: Target, name: str, pid: int) -> bool:
    """By `start`, whose files are there: else nothing tells how far it is, as with `serve` in a terminal or a
    lost `var/run`."""
    return _noted_pid(target, name) == pid or _is_listening(target, name, pid)


def _noted_pid(target: Target, name: str) -> int | None:
    try:
        return int(_pid_file(target.directory, name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _is_ready(target: Target, name: str, pid: int) -> bool:
    return _announced(target, name) == [str(pid)]


def _is_listening(target: Target, name: str, pid: int) -> bool:
    return _announced(target, name)[:1] == [str(pid)]


def _lacks_port(target: Target, name: str, pid: int) -> bool:
    """It runs, and nobody can connect to it yet: by its own word, or, if `start` was not told, by the
    kernel's."""
    if _is_listening(target, name, pid):
        return False
    holds = _holds_port(pid, target.config.instance(name).settings.listen)
    return _noted_pid(target, name) == pid if holds is None else not holds


def _holds_port(pid: int, listen: str) -> bool | None:
    """Whether the process listens at the port of this address; None: that cannot be known here."""
    port = listen.rpartition(":")[2]
    if not port.isdigit():
        return None
    wanted = set()
    try:
        for table in ("tcp", "tcp6"):
            file = Path(f"/proc/{pid}/net/{table}")
            lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
            for fields in map(str.split, lines[1:]):
                if fields[3] == TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == int(port):
                    wanted.add(f"socket:[{fields[9]}]")
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{descriptor}") in wanted:
                    return True
    except (OSError, ValueError, IndexError):
        return None
    return False


def _announced(target: Target, name: str) -> list[str]:
    file = _ready_file(target.directory, name)
    try:
        return (os.readlink(file) if file.is_symlink() else file.read_text(encoding="ascii")).split()
    except (OSError, ValueError):
        return []


def announce_ready(environ: Mapping[str, str] | None = None, stage: str = "") -> None:
    """Called by an instance when it serves data: tells `synchro start`, if that started it.

    stage: `LISTENING`, when only its port is open. It is not the data: what fails here is not fatal. On a
    full disk the text becomes the target of a symbolic link, which needs no block."""
    path = (os.environ if environ is None else environ).get(READY_FILE)
    if path:
        temporary = Path(f"{path}.{os.getpid()}")
        text = f"{os.getpid()} {stage}"
        with contextlib.suppress(OSError):
            try:
                temporary.write_text(f"{text}\n", encoding="ascii")
            except OSError:
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(text)
            temporary.replace(path)


@contextlib.contextmanager
def _locked(target: Target, *, is_needed: bool = True) -> Iterator[None]:
    """One start or stop at a time: two would start an instance twice. A stop does not need it: it works on a
    disk that has become full or read-only."""
    path = target.directory / "var" / "run" / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (target.directory / "var" / "log").mkdir(parents=True, exist_ok=True)
        file: IO[str] | None = path.open("w", encoding="ascii")
    except OSError as error:
        if is_needed:
            raise ConfigError(f"cannot write below {path.parent}: {error.strerror}", file=path) from error
        file = None
    with file or contextlib.nullcontext():
        if file is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


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

    One that runs already, and does not listen yet, is waited for as well (processes.P2).
    A process that ends or hangs is a result (EXITED, STUCK) with the end of its log, not an exception;
    the others stay up. on_starting: called with each name, for the "starting" lines.
    """
    for name in target.names:
        check_listen(target.config.instance(name).settings, insecure=insecure)
    options = [*(["--insecure"] if insecure else []), *extra]
    with _locked(target):
        waits: dict[str, _Start] = {}
        unreachable = {name: why for name in target.names if (why := _why_unreachable(target, name))}
        for name in target.names:
            if name in unreachable:
                continue
            pid = running_pid(target, name)
            if pid is not None:
                if _lacks_port(target, name, pid):
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
            process = _process(target, name, message=why)
            results[name] = process if process.pid is not None else replace(process, state=State.EXITED)
        return [results[name] if name in results else _process(target, name) for name in target.names]


def _why_unreachable(target: Target, name: str) -> str:
    """The mistake of one instance, which does not keep the others from starting; "": none."""
    try:
        check_has_address(target.config.instance(name).settings)
    except ConfigError as error:
        return error.message
    return ""


def _spawn(target: Target, name: str, options: Sequence[str], environ: Mapping[str, str] | None) -> int:
    """Raises `OSError` if there is no process; the notes in `var/run` only help (processes.P1)."""
    ready = _ready_file(target.directory, name)
    _remove(ready)
    log_file = _log_file(target.directory, name)
    environment = dict(os.environ if environ is None else environ)
    environment |= {READY_FILE: str(ready), LOG_FILE: str(log_file)}
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    with log_file.open("ab") as log:
        child = subprocess.Popen(
            _command(target.config.path, name, options),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=target.directory,
            env=environment,
            start_new_session=True,
        )
    _children[child.pid] = child
    settings = target.config.instance(name).settings
    noted = json.dumps({"listen": settings.listen, "data": settings.wal_dir})
    for file, content in (
        (_pid_file(target.directory, name), str(child.pid)),
        (_run_file(target.directory, name), noted),
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

    def look(self, now: float, *, is_late: bool) -> Process | None:
        """The result, once there is one."""
        target, name = self.target, self.name
        if (end := self._end()) is not None:
            return self._failed(State.EXITED, None, end)
        is_listening = _is_listening(target, name, self.pid)
        if not self.is_new and not is_listening:
            is_listening = not _lacks_port(target, name, self.pid)
        if is_listening and (process := _process(target, name, changed=self.is_new)).state is State.RUNNING:
            return process
        if self.loading_since is None and is_listening:
            self.loading_since = now
        if self.loading_since is not None and (is_late or now - self.loading_since > LOADING_GRACE_S):
            return _process(target, name, changed=self.is_new)
        if is_late:
            return self._failed(State.STUCK, self.pid, "runs, but does not listen in time")
        return None

    def _end(self) -> str | None:
        """How it ended; None: it runs."""
        if self.is_new:
            if _children[self.pid].poll() is None:
                return None
            return f"exited with code {_children.pop(self.pid).returncode} while starting"
        return None if _is_ours(self.pid, self.target, self.name) else "ended while starting"

    def _failed(self, state: State, pid: int | None, what: str) -> Process:
        return replace(_failed(self.target, self.name, state, pid, what), changed=self.is_new)


def _accepts(settings: Settings) -> bool:
    host, _, port = settings.listen.rpartition(":")
    host = host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        with socket.create_connection((host, int(port)), timeout=0.2):
            return True
    except OSError:
        return False


def _failed(target: Target, name: str, state: State, pid: int | None, what: str) -> Process:
    log = _log_file(target.directory, name)
    listen = target.config.instance(name).settings.listen
    tail = log_tail(log)
    if pid is None and (failure := _failure(tail)) is not None:
        reason, why = failure
        message = f"{name} {what}; its log is {log}: {why}"
        return Process(name, listen, state, pid, log, changed=True, message=message, reason=reason)
    message = f"{name} {what}. The end of {log}:\n{tail}" if tail else f"{name} {what}; {log} is empty"
    reason = "TIMED_OUT" if pid is not None else "CONFIG" if "error: CONFIG" in tail else "INTERNAL"
    return Process(name, listen, state, pid, log, changed=True, message=message, reason=reason)


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

    Without `kill` an instance that does not end is left alone and reported as STUCK.
    """
    with _locked(target, is_needed=False):
        ending = {name: pid for name in target.names if (pid := running_pid(target, name)) is not None}
        for name, pid in ending.items():
            _send(target, name, pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        left = [name for name, pid in ending.items() if not _wait_gone(target, name, pid, deadline)]
        if kill:
            for name in left:
                _send(target, name, ending[name], signal.SIGKILL)
            deadline = time.monotonic() + timeout_s
            left = [name for name in left if not _wait_gone(target, name, ending[name], deadline)]
        results = []
        for name in target.names:
            if name in left:
                next_command = f"synchro stop {target.config.path}:{name} --kill"
                message = (
                    f"{name} (pid {ending[name]}) did not end in {timeout_s:g} s.\nnext:  {next_command}"
                )
                listen = target.config.instance(name).settings.listen
                log = _log_file(target.directory, name)
                stuck = Process(
                    name, listen, State.STUCK, ending[name], log, message=message, reason="TIMED_OUT"
                )
                results.append(stuck)
                continue
            for file in (_pid_file, _ready_file, _run_file):
                _remove(file(target.directory, name))
            results.append(_stopped(target, name, changed=name in ending))
        return results


def _stopped(target: Target, name: str, *, changed: bool) -> Process:
    """The instance does not run; if its address answers all the same, that is no success (processes.P3)."""
    process = _process(target, name, changed=changed)
    settings = target.config.instance(name).settings
    if process.pid is not None or not settings.listen or not _accepts(settings):
        return process
    message = (
        f"no process holds the data of {name} in {settings.wal_dir}, but {settings.listen} answers: another "
        f"program, or an instance of another set. It was left alone.\n"
        f"next:  synchro -e {settings.listen} info   shows what it is"
    )
    return replace(process, state=State.FOREIGN, message=message, reason="ALREADY_RUNNING")


def _send(target: Target, name: str, pid: int, number: signal.Signals) -> None:
    """A signal to exactly this process: the descriptor is opened first, then we look whose it is."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # an old kernel, or another system
        if _is_ours(pid, target, name):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return
    try:
        if _is_ours(pid, target, name):
            # Who may not is told that it did not end.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def _wait_gone(target: Target, name: str, pid: int, deadline: float) -> bool:
    while _is_ours(pid, target, name):
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
    """Stop, then start. An instance that does not stop is not started a second time."""
    for name in target.names:
        check_listen(target.config.instance(name).settings, insecure=insecure)
    stopped = stop(target, timeout_s=timeout_s, kill=kill)
    if any(process.state in (State.STUCK, State.FOREIGN) for process in stopped):
        return stopped
    return start(target, timeout_s=timeout_s, insecure=insecure, extra=extra, on_starting=on_starting)
