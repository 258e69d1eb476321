"""Real processes of one replica set in a temporary directory, driven by signals, configuration and gRPC only.

    with Cluster(tmp_path, ["instance001", "instance002"], failover="off") as cluster:
        cluster.start()
        cluster["instance001"].remote.promote()

Leaving the block stops what still runs with SIGTERM and demands exit code 0 from each, and no log record of
level error or above that was not announced with `expect_log`. Nothing here sleeps for a fixed time:
`eventually` polls until a deadline that grows with the load of the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import yaml

from synchro.errors import SynchroError
from tests.e2e.remote import Lost, Remote
from tests.ports import free_ports

T = TypeVar("T")

HEARTBEAT_S: Final = 0.2
"""`replication.timeout` of tests."""
POLL_S: Final = 0.02
PATIENCE_S: Final = 15.0
"""What `eventually` waits at least: what comes late on a slow machine, or on one with a slow disk, is no
failure; it only takes its time where something never comes."""
LAST_RECORDS: Final = 50
STOP_S: Final = 15.0
_BAD_LEVELS: Final = frozenset({"error", "critical"})


def soon_s(seconds: float = 5.0) -> float:
    """ "Soon": 5 s on an idle machine, up to four times that when others use it too."""
    return seconds * min(4.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def eventually(what: str, condition: Callable[[], T | None], timeout: float | None = None) -> T:
    """The first true value of `condition`. Refusals and lost connections count as "not yet". timeout:
    seconds, if more than PATIENCE_S."""
    deadline = time.monotonic() + max(PATIENCE_S, soon_s() if timeout is None else timeout)
    last: object = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = value
        except (SynchroError, Lost) as error:
            last = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise AssertionError(f"not in time: {what}; last: {last}")
        time.sleep(POLL_S)


def never(what: str, condition: Callable[[], object], during: float) -> None:
    """`condition` stays false for `during` seconds; the one kind of test that has to take its time."""
    deadline = time.monotonic() + during
    while time.monotonic() < deadline:
        assert not condition(), f"must not happen: {what}"
        time.sleep(POLL_S)


class Instance:
    """One process at a time, its files and its log."""

    def __init__(self, cluster: Cluster, name: str, port: int) -> None:
        self.cluster = cluster
        self.name = name
        self.address = f"127.0.0.1:{port}"
        self.dir = cluster.dir / "data" / name
        self.log_path = cluster.dir / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.module = "synchro"
        """What it runs; `tests.grpcio_host`: the same on grpcio's own server."""
        self.python: Path | None = None
        """The interpreter of an environment with another version of `synchro`; None: this one's."""
        self._remote: Remote | None = None

    @property
    def remote(self) -> Remote:
        if self._remote is None:
            self._remote = Remote(self.address)
        return self._remote

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def id(self) -> int:
        return int(self.remote.info("id"))

    def spawn(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        config: Path | None = None,
        arguments: Sequence[str] = (),
        first: str = "",
        **popen: Any,
    ) -> Instance:
        """Start it, and do not wait for anything. arguments: of the program, not the usual ones. first: what
        a shell does before it becomes the instance, such as "ulimit -n 64"; a Python function in a forked
        child would meet what gRPC left there. popen: for `subprocess.Popen`, such as another `stderr`."""
        assert not self.is_running, f"{self.name} runs already"
        path = str(config or self.cluster.config_path)
        if arguments:
            arguments = ["-m", "synchro", *arguments]
        else:
            arguments = ["-m", self.module, "serve", "--config", path, "--name", self.name]
            arguments += ["--fault-injection"] if self.cluster.faults else []
        env = {key: value for key, value in os.environ.items() if not key.startswith("SYNCHRO_")}
        if self.python is not None:
            arguments = ["-P", *arguments]  # what lies in this directory is this version
        with open(self.log_path, "ab") as log:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            command = [str(self.python or sys.executable), *arguments]
            if first:
                command = ["sh", "-c", f'{first} && exec "$@"', "sh", *command]
            self.process = subprocess.Popen(
                command,
                **streams | popen,
                env=env | dict(environ or {}),
            )
        self._forget_channel()
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send_signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def start(self, **how: Any) -> Instance:
        """Start it and wait until it serves."""
        self.spawn(**how)
        return self.wait_ready()

    def wait_ready(self) -> Instance:
        def is_ready() -> bool:
            assert self.is_running, (
                f"{self.name} ended with exit code {self.process and self.process.poll()}; "
                f"its last words: {str(self.records()[-1:])[-2000:]}"
            )
            info = self.remote.info(timeout=2)
            away = {source["name"] for source in (info.get("orphan") or {}).get("sources", ())}
            running = {instance.name for instance in self.cluster.running}
            is_serving = info["status"] in ("running", "waiting_for_own_rows")
            return is_serving or (info["status"] == "orphan" and not away & running)

        eventually(f"{self.name} runs", is_ready, soon_s(15))
        return self

    def kill(self) -> None:
        """SIGKILL: no cleanup, no flush, no answer."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._forget_channel()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.wait_exit(soon_s(STOP_S))

    def wait_exit(self, timeout: float) -> int:
        assert self.process is not None
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # a stack in the log, if faulthandler is on
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} has not ended after {timeout} s") from None
        self._forget_channel()
        return code

    def pause(self) -> None:
        """It stands still when this returns: none of its threads is in the midst of anything."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")

        def stands_still() -> bool:
            try:
                stats = [(task / "stat").read_text() for task in tasks.iterdir()]
            except FileNotFoundError:  # a thread ended meanwhile
                return False
            return {stat.rpartition(")")[2].split()[0] for stat in stats} == {"T"}

        eventually(f"{self.name} stands still", stands_still)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _forget_channel(self) -> None:
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    # --- its log

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        """What it logged, all runs together. A line that is no record comes as event `not_a_record`."""
        if not self.log_path.exists():
            return []
        found: list[dict[str, Any]] = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                if line.strip() and not line.startswith("{"):  # "{...": cut off by SIGKILL
                    found.append({"level": "error", "event": "not_a_record", "message": line})
        return found if event is None else [record for record in found if record["event"] == event]

    def files(self, suffix: str = "") -> list[str]:
        if not self.dir.exists():
            return []
        return sorted(path.name for path in self.dir.iterdir() if path.name.endswith(suffix))


class Cluster:
    """A configuration file and its instances, none of them running at first."""

    def __init__(
        self,
        directory: Path,
        names: Iterable[str],
        *,
        failover: str = "off",
        options: Mapping[str, Any] | None = None,
        replication: Mapping[str, Any] | None = None,
        instances: Mapping[str, Mapping[str, Any]] | None = None,
        faults: bool = False,
    ) -> None:
        """options: top level of the file; replication: its section; instances: name -> own scope.
        faults: serve `synchro.fault.v1`."""
        self.dir = directory
        self.faults = faults
        directory.mkdir(parents=True, exist_ok=True)
        names = list(names)
        self.instances = {
            name: Instance(self, name, port) for name, port in zip(names, free_ports(len(names)), strict=True)
        }
        self.config_path = directory / "config.yaml"
        self.options: dict[str, Any] = {
            "database": {"dir": str(directory / "data" / "{{ instance_name }}")},
            "replication": {"failover": failover, "timeout": HEARTBEAT_S, **(replication or {})},
        }
        for key, value in (options or {}).items():
            self.options[key] = {**self.options.get(key, {}), **value}
        self.own = {name: dict((instances or {}).get(name, {})) for name in names}
        self.write_config(self.config_path)
        self._expected: list[tuple[str, str]] = []

    def write_config(self, path: Path, names: Iterable[str] | None = None) -> None:
        """names: the instances it lists, all of them by default."""
        listed = {
            name: {**self.own[name], "grpc": {"listen": [{"uri": self.instances[name].address}]}}
            for name in (self.instances if names is None else names)
        }
        text = {
            **self.options,
            "groups": {"group001": {"replicasets": {"replicaset001": {"instances": listed}}}},
        }
        path.write_text(yaml.safe_dump(text, sort_keys=False))

    def add(self, name: str, **own: Any) -> Instance:
        """One more instance in the file; those that run do not see the change before they start again."""
        self.instances[name] = Instance(self, name, free_ports(1)[0])
        self.own[name] = own
        self.write_config(self.config_path)
        return self.instances[name]

    def __getitem__(self, name: str) -> Instance:
        return self.instances[name]

    def __iter__(self) -> Iterator[Instance]:
        return iter(self.instances.values())

    @property
    def running(self) -> list[Instance]:
        return [instance for instance in self if instance.is_running]

    def start(self, *names: str) -> Cluster:
        """Start these, or all, side by side; wait until they serve and follow each other."""
        chosen = [self.instances[name] for name in names or self.instances]
        for instance in chosen:
            instance.spawn()
        for instance in chosen:
            instance.wait_ready()
        self.wait_following()
        return self

    def kill_all(self) -> None:
        """At one moment, as far as signals allow."""
        running = self.running
        for instance in running:
            os.kill(instance.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        for instance in running:
            instance.kill()

    # --- states to wait for

    def wait_following(self) -> None:
        """Every running instance receives from and sends to every other one."""
        running = self.running
        names = {instance.name for instance in running}

        def all_follow(instance: Instance) -> bool:
            parts = instance.remote.info("replication").values()
            others = [part for part in parts if part["name"] in names - {instance.name}]
            return len(others) == len(names) - 1 and all(
                part.get(stream, {}).get("status") == "follow"
                for part in others
                for stream in ("upstream", "downstream")
            )

        for instance in running:
            eventually(f"{instance.name} follows all", partial(all_follow, instance), soon_s(10))

    def wait_leader(self, timeout: float | None = None) -> Instance:
        """The running instance that leads and owns the queue, and all running ones agree."""

        def agreed() -> Instance | None:
            views = {
                (info["election"]["leader"], info["synchro"]["queue"]["owner"])
                for info in (instance.remote.info(timeout=2) for instance in self.running)
            }
            if len(views) != 1:
                return None
            leader, owner = views.pop()
            if leader == 0 or leader != owner:
                return None
            for instance in self.running:
                if instance.id == owner and not instance.remote.info("ro"):
                    return instance
            return None

        found = eventually("one leader that all agree on", agreed, timeout or soon_s(10))
        assert found is not None
        return found

    def wait_equal(self, *spaces: str, timeout: float | None = None) -> None:
        """Running instances have equal vclocks without component 0, empty queues and equal checksums."""

        def difference() -> object:
            views = [
                (
                    instance.remote.vclock(),
                    instance.remote.queue()["len"],
                    [instance.remote.checksum(space) for space in spaces],
                )
                for instance in self.running
            ]
            return None if all(view == views[0] and view[1] == 0 for view in views) else views

        last: list[object] = [None]

        def are_equal() -> bool:
            last[0] = difference()
            return last[0] is None

        try:
            eventually("equal vclocks and checksums", are_equal, timeout or soon_s(10))
        except AssertionError:
            raise AssertionError(f"instances differ: {last[0]}") from None

    # --- the end

    def expect_log(self, event: str, containing: str = "") -> None:
        """This event may be of level error in this test, if its record has this text."""
        self._expected.append((event, containing))

    def unexpected(self) -> list[dict[str, Any]]:
        return [
            record
            for instance in self
            for record in instance.records()
            if record.get("level") in _BAD_LEVELS
            and not any(record["event"] == event and text in str(record) for event, text in self._expected)
        ]

    def report(self) -> str:
        """Status, queue and the last records of each instance: what a failed test prints."""
        lines = []
        for instance in self:
            lines.append(f"=== {instance.name} {instance.address} running: {instance.is_running}")
            if instance.is_running:
                try:
                    lines.append(f"info: {instance.remote.info(timeout=2)}")
                    for entry in instance.remote.entries()[:20]:
                        lines.append(f"queue: {str(entry).split()}")
                except (SynchroError, Lost) as error:
                    lines.append(f"no status: {error}")
            lines += [json.dumps(record)[:600] for record in instance.records()[-LAST_RECORDS:]]
        return "\n".join(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(check=error is None)

    def close(self, *, check: bool) -> None:
        """Stop everything with SIGTERM. check: demand exit code 0 and no unexpected error record."""
        running = self.running
        codes: dict[str, int] = {}
        try:
            for instance in running:
                instance.resume()
                instance.process.terminate()  # type: ignore[union-attr]
            for instance in running:
                codes[instance.name] = instance.wait_exit(soon_s(STOP_S))
        finally:
            for instance in self:
                if instance.is_running:
                    instance.kill()
                instance._forget_channel()
        if check:
            assert all(code == 0 for code in codes.values()), f"exit codes after SIGTERM: {codes}"
            assert not self.unexpected(), f"unexpected log records: {self.unexpected()[:10]}"


def copy_directory(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below it, byte for byte, but the lock, which names the process that tried last."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }
