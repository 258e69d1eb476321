"""Local sets as background processes, with a small stand-in for `synchro serve`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from synchro.cli import processes
from synchro.cli.processes import State, Target, init, parse_target, restart, start, stop
from synchro.config_file import ConfigFileError
from synchro.errors import ConfigError

STAND_IN = """
import os, pathlib, signal, socket, sys, time
from synchro.cli.processes import announce_ready, parse_target
arguments = dict(zip(sys.argv[2::2], sys.argv[3::2]))
how = os.environ.get("STAND_IN", "")
if how == "fails":
    print("cannot bind"); sys.exit(3)
if how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
config = parse_target(arguments["--config"]).config
host, _, port = config.instance(arguments["--name"]).settings.listen.rpartition(":")
server = socket.create_server((host, int(port)))
if how != "waits":
    announce_ready()
time.sleep(60)
"""


@pytest.fixture
def free_port() -> int:
    """The first of two free ports in a row, as far as one can know."""
    for _ in range(100):
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            if port < 65000:
                try:
                    socket.create_server(("127.0.0.1", port + 1)).close()
                except OSError:
                    continue
                return port
    raise AssertionError("no free ports")


@pytest.fixture
def target(tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)

    def command(config: Path, name: str, extra: object = ()) -> list[str]:
        return [sys.executable, str(script), "serve", "--config", str(config), "--name", name]

    monkeypatch.setattr(processes, "_command", command)
    found = parse_target(init(tmp_path / "set", nodes=2, base_port=free_port))
    yield found
    stop(found, timeout_s=0.1, kill=True)


def test_start_status_stop(target: Target) -> None:
    names: list[str] = []
    started = start(target, on_starting=names.append)
    assert names == ["instance001", "instance002"]
    assert [p.state for p in started] == [State.RUNNING, State.RUNNING]
    assert all(p.changed and p.pid for p in started)
    assert len({p.pid for p in started}) == 2
    assert [p.pid for p in processes.processes(target)] == [p.pid for p in started]

    again = start(target)
    assert [(p.pid, p.changed) for p in again] == [(p.pid, False) for p in started]

    stopped = stop(target)
    assert [(p.state, p.changed) for p in stopped] == [(State.STOPPED, True)] * 2
    assert [(p.state, p.changed) for p in stop(target)] == [(State.STOPPED, False)] * 2
    assert not list((target.directory / "var" / "run").glob("*.pid"))


def test_one_instance_of_a_set(target: Target) -> None:
    second = parse_target(f"{target.config.path}:instance002")
    assert [p.name for p in start(second)] == ["instance002"]
    assert [p.is_running for p in processes.processes(target)] == [False, True]
    [before] = processes.processes(second)
    [after] = restart(second)
    assert after.state is State.RUNNING
    assert after.pid != before.pid


def test_an_instance_that_waits_for_its_peers_counts_as_started(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "waits")
    monkeypatch.setattr(processes, "LOADING_GRACE_S", 0.1)
    assert [p.state for p in start(target)] == [State.LOADING, State.LOADING]


def test_an_instance_that_ends_at_once_shows_its_log(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN", "fails")
    [first, _] = start(target)
    assert (first.state, first.pid) == (State.EXITED, None)
    assert "exited with code 3" in first.message
    assert "cannot bind" in first.message


def test_a_stubborn_instance_is_killed_only_on_request(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "stubborn")
    start(target)
    stuck = stop(target, timeout_s=0.1)
    assert [p.state for p in stuck] == [State.STUCK, State.STUCK]
    assert "--kill" in stuck[0].message
    assert [p.state for p in restart(target, timeout_s=0.1)] == [State.STUCK, State.STUCK]
    assert [p.state for p in stop(target, timeout_s=0.1, kill=True)] == [State.STOPPED, State.STOPPED]


def test_a_pid_file_of_somebody_else_s_process_is_not_believed(target: Target) -> None:
    """After a reboot the number may belong to anything: never signal that."""
    run = target.directory / "var" / "run"
    run.mkdir(parents=True)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (run / "instance001.pid").write_text(f"{other.pid}\n")
        (run / "instance002.pid").write_text(f"{os.getpid()}\n")
        assert [p.state for p in stop(target)] == [State.STOPPED, State.STOPPED]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_targets(tmp_path: Path) -> None:
    path = init(tmp_path / "set", nodes=1)
    assert path == tmp_path / "set" / "config.yaml"
    assert parse_target(tmp_path / "set").names == ("instance001",)
    assert parse_target(f"{tmp_path / 'set'}:instance001").names == ("instance001",)
    with pytest.raises(ConfigFileError, match="no such instance"):
        parse_target(f"{path}:instance009")
    with pytest.raises(ConfigFileError, match="cannot read"):
        parse_target(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="exists, nothing was written"):
        init(tmp_path / "set")


def test_an_address_that_others_reach_needs_a_word(tmp_path: Path) -> None:
    path = init(tmp_path, nodes=1)
    path.write_text(path.read_text().replace("127.0.0.1", "0.0.0.0"))
    with pytest.raises(ConfigError, match="--insecure"):
        start(parse_target(path))


def test_verbs_start_quickly() -> None:
    code = (
        "import time; t = time.process_time(); import synchro.cli.processes; print(time.process_time() - t)"
    )
    got = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    )
    assert got < 0.25
