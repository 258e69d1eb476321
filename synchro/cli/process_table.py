"""Which instances of a local set run on this host: CONFIG[:NAME] or APP[:NAME] as a target, and the process
table.

Nothing is asked of an instance here; what counts is what the kernel shows. Files beside the configuration:
`var/log/NAME.log`, and in `var/run` NAME.pid, NAME.ready and NAME.json (what `stop` needs if the
configuration is gone).

    P1  An instance runs if a process holds the lock of its data directory, whatever the PID file says; the
        PID file counts only for a process that /proc shows to be started for this instance.
    P2  Who listens is told by our child itself, or by the kernel: that a port answers proves nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from synchro.cli.applications import names_here
from synchro.config import Settings
from synchro.config.file import ClusterConfig, InstanceConfig, load_all
from synchro.errors import ConfigError
from synchro.ids import InstanceName
from synchro.storage.names import LOCK_NAME

TCP_LISTEN: Final = "0A"
"""State of a socket in /proc/net/tcp."""
CONFIG_NAME: Final = "config.yaml"
APPS: Final = Path("instances.enabled")
"""Where applications are that have no directory of their name here."""


class ProcessState(StrEnum):
    RUNNING = "running"
    LOADING = "loading"
    """The instance listens, but waits for its peers or still reads its files."""
    STOPPED = "stopped"
    EXITED = "exited"
    """The process ended by itself while it was being started."""
    STUCK = "stuck"
    """The process did not end in time, or does not listen."""
    FOREIGN = "foreign"
    """The instance does not run, and something else answers at its address."""
    DENIED = "denied"
    """The process belongs to another user, and goes on: this user may not end it."""


@dataclass(frozen=True, slots=True)
class Process:
    """One instance of the file, as its process shows it."""

    name: str
    listen: str
    state: ProcessState
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
        return self.state in (ProcessState.RUNNING, ProcessState.LOADING)


@dataclass(frozen=True, slots=True)
class Target:
    """CONFIG[:NAME] or APP[:NAME], read and checked."""

    config: ClusterConfig
    names: tuple[str, ...]
    named: str = ""
    """NAME, if one was given."""

    @property
    def path(self) -> Path:
        """What a person types for it: the directory, if a list in it says who belongs to this host."""
        is_part = not self.named and len(self.names) < len(self.config.instances)
        return self.directory if is_part else self.config.path

    @property
    def directory(self) -> Path:
        return self.config.path.parent


def parse_target(text: str | Path, environ: Mapping[str, str] | None = None) -> Target:
    """CONFIG[:NAME]; CONFIG is a file, or a directory with config.yaml. Raises `ConfigError`.

    A directory may have an `instances.yml`, too, which says who of the set belongs to this host [C-3]. It is
    looked for by its name, and then below `instances.enabled`."""
    path, name = _split(text)
    config = load_all(path, environ)
    if name:
        config.instance(name)
    names = (name,) if name else tuple(config.instances)
    if not name and not _is_file(text):
        names = names_here(config) or names
    return Target(config, names, name)


def _is_file(text: str | Path) -> bool:
    return Path(text).is_file() or Path(str(text).rpartition(":")[0]).is_file()


def _split(text: str | Path) -> tuple[Path, str]:
    """(the file by its real path, name of an instance or "")."""
    path, name = Path(text), ""
    if not path.exists() and ":" in str(text):
        before, _, name = str(text).rpartition(":")
        path = Path(before)
        if not name:
            raise ConfigError(f"{text}: no instance is named behind the colon; nothing was done")
    if not str(text) or (name and not before):
        raise ConfigError("CONFIG is empty; nothing was done")
    return _real(config_path(path)), name


def config_path(text: str | Path) -> Path:
    """The file, of itself or of the directory that it is in."""
    path = Path(text)
    if not path.exists() and (enabled := APPS / path).is_dir():
        path = enabled
    if path.is_dir() or (not path.exists() and not path.suffix):
        path /= CONFIG_NAME
    return path


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
    names = tuple(sorted({*target.names, *left.names}))
    return Target(ClusterConfig(target.config.path, instances), names), None


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


# --- who is running -------------------------------------------------------------------------------------

children: dict[int, subprocess.Popen[bytes]] = {}
"""Started by this very process: they must be reaped, or they stay as zombies."""


def pid_file(directory: Path, name: str) -> Path:
    return directory / "var" / "run" / f"{name}.pid"


def ready_file(directory: Path, name: str) -> Path:
    return directory / "var" / "run" / f"{name}.ready"


def log_file(directory: Path, name: str) -> Path:
    """What it prints to standard error."""
    return directory / "var" / "log" / f"{name}.log"


def log_of(target: Target, name: str) -> Path:
    """Its log: `log.file`, or standard error."""
    configured = target.config.instance(name).settings.log_file
    return Path(configured) if configured else log_file(target.directory, name)


def run_file(directory: Path, name: str) -> Path:
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


def served_files() -> Iterator[tuple[str, str]]:
    """Configuration and name of each instance that was started from a file on this host, as far as its
    network is ours."""
    for pid in _all_pids():
        found = _served(pid)
        # A file may be gone, or one that is never read to its end.
        if found is not None and os.path.isfile(found[0]) and _shares_network(pid):
            yield found


def _served_name(pid: int, config: Path) -> str | None:
    """The instance of this file that the process was started for; None: of another one, or no instance."""
    found = _served(pid)
    if found is None or os.path.realpath(found[0]) != os.path.realpath(config):
        return None
    return found[1] or None


def local_target(members: Mapping[int, str]) -> Target | None:
    """The set of which instances run on this host, if its file has these members: port here -> name, "" if
    that is not known. By it a person can be told how those that do not run are started."""
    for path in dict.fromkeys(path for path, _ in served_files()):
        try:
            target = parse_target(path)
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


def is_ours(pid: int, target: Target, name: str) -> bool:
    """Alive, and this instance (process_table.P1): a pid may have been given to somebody else."""
    if (child := children.get(pid)) is not None and child.poll() is not None:
        del children[pid]
        return False
    if (served := _served_name(pid, target.config.path)) is not None:
        return served == name  # another one of the file may hold this lock: both name one directory
    return _lock_holder(target.config.instance(name).settings.wal_dir) == pid


def is_ending(pid: int) -> bool:
    """A process without a command line that is no zombie: it lets go of its memory before its files, the
    sockets among them."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return not command and state not in (b"Z", b"X")


def running_pid(target: Target, name: str) -> int | None:
    """Pid of the running process of an instance; None if it is not running."""
    pid = _lock_holder(target.config.instance(name).settings.wal_dir)
    if pid is not None and is_ours(pid, target, name):
        return pid
    pid = _noted_pid(target, name)
    if pid is not None and is_ours(pid, target, name):
        return pid
    # It may not have its lock yet, or another one: the configuration may have changed since.
    path = target.config.path
    return next((pid for pid in _all_pids() if _served_name(pid, path) == name), None)


def processes(target: Target) -> list[Process]:
    """The state of each process, without talking to it."""
    return [process_of(target, name) for name in target.names]


def process_of(target: Target, name: str, *, changed: bool = False, message: str = "") -> Process:
    pid = running_pid(target, name)
    state = ProcessState.STOPPED
    if pid is not None:
        is_told = _is_ready(target, name, pid) or not _was_started_here(target, name, pid)
        state = ProcessState.RUNNING if is_told else ProcessState.LOADING
    listen = target.config.instance(name).settings.listen
    return Process(name, listen, state, pid, log_of(target, name), changed, message)


def _was_started_here(target: Target, name: str, pid: int) -> bool:
    """By `start`, whose files are there: else nothing tells how far it is, as with `serve` in a terminal or a
    lost `var/run`."""
    return _noted_pid(target, name) == pid or is_listening(target, name, pid)


def _noted_pid(target: Target, name: str) -> int | None:
    try:
        return int(pid_file(target.directory, name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _is_ready(target: Target, name: str, pid: int) -> bool:
    return _announced(target, name) == [str(pid)]


def is_listening(target: Target, name: str, pid: int) -> bool:
    return _announced(target, name)[:1] == [str(pid)]


def lacks_port(target: Target, name: str, pid: int) -> bool:
    """Whether the instance runs and nobody can connect to it yet: by its own word, or, if `start` was not
    told, by the kernel's."""
    if is_listening(target, name, pid):
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
    file = ready_file(target.directory, name)
    try:
        return (os.readlink(file) if file.is_symlink() else file.read_text(encoding="ascii")).split()
    except (OSError, ValueError):
        return []
