"""Local sets as background processes, with a small stand-in for `synchro serve`."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from synchro.cli import app, formatting, local_verbs, process_table, processes
from synchro.cli.process_table import ProcessState, Target, parse_target
from synchro.cli.processes import init, restart, start, stop
from synchro.config.file import ConfigFileError
from synchro.errors import ConfigError, Exit, InAnotherStart
from tests.ports import free_ports
from tests.yardstick import slowness

STAND_IN = """
import json, os, pathlib, resource, signal, socket, sys, time
from synchro.cli.process_table import parse_target
from synchro.process.ready import LISTENING, announce_ready
from synchro.storage.identity import DirectoryLock
arguments = dict(zip(sys.argv[2::2], sys.argv[3::2]))
how = os.environ.get("STAND_IN", "")
if how == "fails":
    print("cannot bind"); sys.exit(3)
if how == "damaged":
    text = "a.snap is bad. Next: restore it"
    print(json.dumps({"event": "instance_failed", "reason": "CORRUPTION", "message": text})); sys.exit(1)
if how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
config = parse_target(arguments["--config"]).config
settings = config.instance(arguments["--name"]).settings
os.makedirs(settings.wal_dir, exist_ok=True)
lock = DirectoryLock(settings.wal_dir)
host, _, port = settings.listen.rpartition(":")
if how == "hangs":
    time.sleep(60)
if how == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
if how == "slow":
    time.sleep(0.5)
server = socket.create_server((host, int(port)))
announce_ready(stage=LISTENING)
if how != "waits":
    announce_ready()
time.sleep(60)
"""


@pytest.fixture
def free_port() -> int:
    """The first of two free ports in a row; the kernel gives neither to an outgoing connection."""
    ports = free_ports(20)
    return next(port for port in ports if port + 1 in ports)


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
    assert [p.state for p in started] == [ProcessState.RUNNING, ProcessState.RUNNING]
    assert all(p.changed and p.pid for p in started)
    assert len({p.pid for p in started}) == 2
    assert [p.pid for p in process_table.processes(target)] == [p.pid for p in started]

    again = start(target)
    assert [(p.pid, p.changed) for p in again] == [(p.pid, False) for p in started]

    stopped = stop(target)
    assert [(p.state, p.changed) for p in stopped] == [(ProcessState.STOPPED, True)] * 2
    assert [(p.state, p.changed) for p in stop(target)] == [(ProcessState.STOPPED, False)] * 2
    assert not list((target.directory / "var" / "run").glob("*.pid"))


def test_one_instance_of_a_set(target: Target) -> None:
    second = parse_target(f"{target.config.path}:instance002")
    assert [p.name for p in start(second)] == ["instance002"]
    assert [p.is_running for p in process_table.processes(target)] == [False, True]
    [before] = process_table.processes(second)
    [after] = restart(second)
    assert after.state is ProcessState.RUNNING
    assert after.pid != before.pid


def test_an_instance_that_waits_for_its_peers_counts_as_started(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "waits")
    monkeypatch.setattr(processes, "LOADING_GRACE_S", 0.1)
    assert [p.state for p in start(target)] == [ProcessState.LOADING, ProcessState.LOADING]


def test_an_instance_that_ends_at_once_shows_its_log(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN", "fails")
    [first, _] = start(target)
    assert (first.state, first.pid) == (ProcessState.EXITED, None)
    assert "exited with code 3" in first.message
    assert "cannot bind" in first.message
    assert first.reason == "INTERNAL"


def test_an_instance_that_says_why_it_ends_is_quoted(
    target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAND_IN", "damaged")
    [first, _] = processes_done = start(target)
    assert (first.state, first.reason) == (ProcessState.EXITED, "CORRUPTION")
    assert local_verbs.show(processes_done, wanted_running=True) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        "error: CORRUPTION: instance001 exited with code 1 while starting; its log is "
    )
    assert lines[0].endswith(f"{first.log}: a.snap is bad")
    assert lines[1] == "next:  restore it"


def test_a_stubborn_instance_is_killed_only_on_request(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "stubborn")
    start(target)
    stuck = stop(target, timeout_s=0.1)
    assert [p.state for p in stuck] == [ProcessState.STUCK, ProcessState.STUCK]
    assert "--kill" in stuck[0].message
    assert [p.state for p in restart(target, timeout_s=0.1)] == [ProcessState.STUCK, ProcessState.STUCK]
    assert [p.state for p in stop(target, timeout_s=0.1, kill=True)] == [
        ProcessState.STOPPED,
        ProcessState.STOPPED,
    ]


def test_a_pid_file_of_somebody_else_s_process_is_not_believed(target: Target) -> None:
    """After a reboot the number may belong to anything: never signal that."""
    run = target.directory / "var" / "run"
    run.mkdir(parents=True)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (run / "instance001.pid").write_text(f"{other.pid}\n")
        (run / "instance002.pid").write_text(f"{os.getpid()}\n")
        assert [p.state for p in stop(target)] == [ProcessState.STOPPED, ProcessState.STOPPED]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


# --- what is true, whatever the files in var/run say ------------------------------------------------------


def pids(target: Target) -> list[int | None]:
    return [process.pid for process in process_table.processes(target)]


def test_a_set_is_one_set_by_whatever_link_it_is_addressed(target: Target, tmp_path: Path) -> None:
    running = [process.pid for process in start(target)]
    (tmp_path / "links").mkdir()
    links = [tmp_path / "set_link", tmp_path / "links" / "other.yaml", target.directory / "same.yaml"]
    links[0].symlink_to(target.directory)
    links[1].symlink_to(target.config.path)
    links[2].symlink_to("config.yaml")
    for link in links:
        other = parse_target(link)
        assert pids(other) == running, link
        assert [(p.pid, p.changed) for p in start(other)] == [(pid, False) for pid in running], link
        assert pids(parse_target(f"{link}:instance002"))[-1] == running[1]
    assert [(p.state, p.changed) for p in stop(parse_target(links[0]))] == [(ProcessState.STOPPED, True)] * 2
    assert pids(target) == [None, None]


def test_the_link_of_a_configuration_beside_which_instances_ran_stays_a_set_of_its_own(
    target: Target, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "var" / "lib" / "instance001").mkdir(parents=True)
    (other / "config.yaml").symlink_to(target.config.path)
    assert parse_target(other).directory == other


@pytest.mark.parametrize("content", [None, "", "nonsense", "-1", "1", "99999999", "{self}", "{other}"])
def test_the_pid_file_may_say_what_it_likes(target: Target, content: str | None) -> None:
    """Removed, emptied, overwritten, of a process that is gone, of somebody else's: the lock is the truth."""
    first = parse_target(f"{target.config.path}:instance001")
    [process] = start(first)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    file = target.directory / "var" / "run" / "instance001.pid"
    file.unlink()
    if content is not None:
        file.write_text(content.format(self=os.getpid(), other=other.pid))
    try:
        assert pids(first) == [process.pid]
        assert [(p.pid, p.changed) for p in start(first)] == [(process.pid, False)]
        assert [(p.state, p.changed) for p in stop(first)] == [(ProcessState.STOPPED, True)]
        assert other.poll() is None
        assert pids(first) == [None]
    finally:
        other.kill()
        other.wait()


def test_the_file_of_a_set_is_found_by_the_processes_of_this_host(target: Target, free_port: int) -> None:
    """By ports, and by the names that are known; one process is enough."""
    first = parse_target(f"{target.config.path}:instance001")
    names = {free_port: "instance001", free_port + 1: ""}
    assert process_table.local_target(names) is None
    start(first)
    found = process_table.local_target(names)
    assert found is not None and found.config.path == target.config.path
    assert process_table.name_by_port(found) == {free_port: "instance001", free_port + 1: "instance002"}
    assert process_table.local_target({free_port: "another"}) is None
    assert process_table.local_target({free_port: "instance001", free_port + 2: ""}) is None


def test_var_run_and_the_lock_file_may_be_gone(target: Target) -> None:
    running = [process.pid for process in start(target)]
    shutil.rmtree(target.directory / "var" / "run")
    for lock in target.directory.rglob("instance.lock"):
        lock.unlink()
    assert pids(target) == running
    assert [(p.pid, p.changed) for p in start(target)] == [(pid, False) for pid in running]
    assert [(p.state, p.changed) for p in stop(target)] == [(ProcessState.STOPPED, True)] * 2


def test_a_process_that_a_person_started_is_stopped_as_well(target: Target, tmp_path: Path) -> None:
    """With a relative path, and with none at all: only the data directory tells."""
    command = [sys.executable, str(tmp_path / "stand_in.py"), "serve", "--config", "config.yaml", "--name"]
    by_hand = subprocess.Popen([*command, "instance001"], cwd=target.directory)
    data = target.config.instance("instance002").settings.wal_dir
    os.makedirs(data)
    code = (
        "import sys, time; from synchro.storage.identity import DirectoryLock;"
        "lock = DirectoryLock(sys.argv[1]); time.sleep(60)"
    )
    bare = subprocess.Popen([sys.executable, "-c", code, data])
    try:
        deadline = time.monotonic() + 30
        while pids(target) != [by_hand.pid, bare.pid] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert pids(target) == [by_hand.pid, bare.pid]
        for child in (by_hand, bare):
            threading.Thread(target=child.wait, daemon=True).start()  # else they stay as zombies
        assert [(p.state, p.changed) for p in stop(target)] == [(ProcessState.STOPPED, True)] * 2
    finally:
        for child in (by_hand, bare):
            child.kill()
            child.wait()


def test_what_nothing_is_noted_of_is_not_called_loading(target: Target) -> None:
    """Started by a person or systemd, or `var/run` is lost: only `start` is told how far an instance is."""
    start(target)
    shutil.rmtree(target.directory / "var" / "run")
    assert [process.state for process in process_table.processes(target)] == [ProcessState.RUNNING] * 2


def test_a_full_disk_below_var_keeps_nobody_from_starting(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data may lie elsewhere, and the instances do not need these files."""
    run = target.directory / "var" / "run"
    for name in target.names:
        (run / f"{name}.pid.new").mkdir(parents=True)
        (run / f"{name}.json.new").mkdir()
    monkeypatch.setenv("STAND_IN", "full")
    started = start(target)
    assert [(p.state, p.changed, p.message) for p in started] == [(ProcessState.RUNNING, True, "")] * 2
    assert [p.state for p in process_table.processes(target)] == [ProcessState.RUNNING] * 2
    assert [(p.state, p.changed) for p in stop(target)] == [(ProcessState.STOPPED, True)] * 2


def test_a_log_that_cannot_be_opened_does_not_keep_the_others_from_starting(
    target: Target,
) -> None:
    log = target.directory / "var" / "log" / "instance001.log"
    log.mkdir(parents=True)
    first, second = start(target)
    assert (first.state, second.state) == (ProcessState.EXITED, ProcessState.RUNNING)
    assert first.message == f"instance001 was not started: Is a directory: {log}"


@pytest.mark.parametrize("what", ["run", "run/.lock", "run/instance001.pid", "run/instance001.ready"])
def test_stop_needs_no_file_below_var(target: Target, what: str) -> None:
    """As on a disk that became read-only."""
    start(target)
    path = target.directory / "var" / what
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("in the way")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    assert [(p.state, p.changed) for p in stop(target)] == [(ProcessState.STOPPED, True)] * 2
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_lock_file_that_was_left_is_not_believed(target: Target) -> None:
    """The number in it may belong to anything by now, this process included."""
    data = Path(target.config.instance("instance001").settings.wal_dir)
    data.mkdir(parents=True)
    for content in (f"{os.getpid()}", "1", "nonsense", ""):
        (data / "instance.lock").write_text(content)
        assert pids(target) == [None, None]


def test_a_foreign_program_on_the_port_is_not_our_instance(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is slow to find that out: until it says itself that it listens, nothing counts as started."""
    monkeypatch.setenv("STAND_IN", "slow")
    monkeypatch.setattr(processes, "LOADING_GRACE_S", 0.1)
    first = parse_target(f"{target.config.path}:instance001")
    host, _, port = first.config.instance("instance001").settings.listen.rpartition(":")
    with socket.create_server((host, int(port))):
        [process] = start(first)
        assert process.state is ProcessState.EXITED
        assert "exited with code 1" in process.message
        assert "in use" in process.message
        [process] = stop(first)
        assert (process.state, process.changed) == (ProcessState.FOREIGN, False)
        assert "was left alone" in process.message
        [process] = restart(first)
        assert process.state is ProcessState.FOREIGN
    assert [p.state for p in stop(first)] == [ProcessState.STOPPED]


def test_an_instance_without_an_address_does_not_keep_the_others_from_starting(target: Target) -> None:
    """It only cannot be followed by the others."""
    file = target.config.path
    listen = target.config.instance("instance001").settings.listen
    file.write_text(file.read_text().replace(f"{{listen: [{{uri: '{listen}'}}]}}", "{}"))
    first, second = start(parse_target(file))
    assert (first.state, first.changed, second.state) == (ProcessState.EXITED, False, ProcessState.RUNNING)
    assert "nobody could reach it" in first.message
    assert [p.state for p in stop(parse_target(file))] == [ProcessState.STOPPED, ProcessState.STOPPED]


def test_an_instance_that_hangs_before_it_listens_is_stuck(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hangs")
    [first, _] = start(target, timeout_s=1.0)
    assert first.state is ProcessState.STUCK
    assert "does not listen in time" in first.message


def test_a_second_start_does_not_take_it_for_started(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, but nobody can connect to it; until it listens the second one waits as the first."""
    monkeypatch.setenv("STAND_IN", "hangs")
    [first, _] = start(target, timeout_s=0.1)
    [again, _] = start(target, timeout_s=0.1)
    assert (again.state, again.pid, again.changed) == (ProcessState.STUCK, first.pid, False)
    assert first.pid is not None
    killer = threading.Timer(1.0, os.kill, (first.pid, signal.SIGKILL))
    killer.start()
    [ended, _] = start(target, timeout_s=3.0)  # all of it: the other instance hangs on
    assert (ended.state, ended.pid, ended.changed) == (ProcessState.EXITED, None, False)
    assert "ended while starting" in ended.message


def test_start_does_not_take_a_process_for_up_that_a_person_began_and_that_does_not_listen(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that recovers much. It tells nobody how far it is, so the kernel is asked who has the port."""
    first = parse_target(f"{target.config.path}:instance001")
    host, _, port = first.config.instance("instance001").settings.listen.rpartition(":")
    command = [sys.executable, str(tmp_path / "stand_in.py"), "serve", "--config", str(target.config.path)]
    by_hand = subprocess.Popen([*command, "--name", "instance001"], env={**os.environ, "STAND_IN": "hangs"})
    try:
        deadline = time.monotonic() + 30
        while pids(first) != [by_hand.pid] and time.monotonic() < deadline:
            time.sleep(0.02)
        with socket.create_server((host, int(port))):  # that somebody answers proves nothing
            [process] = start(first, timeout_s=0.2)
        assert (process.state, process.pid, process.changed) == (ProcessState.STUCK, by_hand.pid, False)
    finally:
        by_hand.kill()
        by_hand.wait()
    by_hand = subprocess.Popen([*command, "--name", "instance001"], env={**os.environ, "STAND_IN": "slow"})
    try:
        while pids(first) != [by_hand.pid] and time.monotonic() < deadline + 30:
            time.sleep(0.02)
        [process] = start(first)
        assert (process.state, process.pid, process.changed) == (ProcessState.RUNNING, by_hand.pid, False)
        socket.create_connection((host, int(port)), timeout=1).close()
    finally:
        by_hand.kill()
        by_hand.wait()


def test_one_that_listens_when_the_time_is_over_is_started(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short the time of the call is: it only waits for its peers."""
    monkeypatch.setenv("STAND_IN", "waits")
    monkeypatch.setattr(processes, "LOADING_GRACE_S", 1000.0)
    assert [p.state for p in start(target, timeout_s=4.0)] == [ProcessState.LOADING, ProcessState.LOADING]


@pytest.mark.parametrize("damage", ["removed", "broken", "renamed", "dangling", "other environment"])
def test_stop_works_without_a_configuration(
    target: Target, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = [process.pid for process in start(target)]
    file = target.config.path
    text = file.read_text()
    match damage:
        case "removed":
            file.unlink()
        case "broken":
            file.write_text("groups: [")
        case "renamed":
            file.write_text(text.replace("instance001", "someone").replace("instance002", "else"))
        case "dangling":
            file.unlink()
            file.symlink_to("/nowhere/config.yaml")
        case "other environment":
            monkeypatch.setenv("SYNCHRO_REPLICATION_TIMEOUT", "nonsense")
    for address in (target.directory, file):
        found = process_table.target_without_config(address)
        assert found is not None
        assert pids(found) == running
    one = process_table.target_without_config(f"{file}:instance002")
    assert one is not None
    assert [(p.name, p.state) for p in stop(one)] == [("instance002", ProcessState.STOPPED)]
    (target.directory / "var" / "run" / "instance001.pid").unlink()
    rest = process_table.target_without_config(file)
    assert rest is not None
    assert [(p.name, p.state, p.pid) for p in stop(rest)] == [("instance001", ProcessState.STOPPED, None)]
    assert process_table.target_without_config(file) is None


def test_the_verb_stops_without_a_configuration(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    start(target)
    target.config.path.write_text("groups: [")
    assert app.run(["stop", str(target.directory)]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("stopped") == 2
    assert "not YAML" in shown.err
    assert app.run(["stop", str(target.directory)]) == 2
    assert "not YAML" in capsys.readouterr().err


def test_who_left_the_configuration_is_stopped_with_the_others(target: Target) -> None:
    start(target)
    file = target.config.path
    file.write_text(file.read_text().replace("instance002", "instance003"))
    found, error = process_table.target_to_stop(file)
    assert error is None
    ended = [process.name for process in stop(found) if process.changed]
    assert ended == ["instance001", "instance002"]


def test_the_verb_does_not_call_stopped_what_answers(
    target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    host, _, port = target.config.instance("instance002").settings.listen.rpartition(":")
    with socket.create_server((host, int(port))):
        assert app.run(["stop", str(target.directory)]) != 0
    shown = capsys.readouterr()
    assert "something answers" in shown.out
    assert app.run(["stop", str(target.directory)]) == 0


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
    assert got / slowness() < 0.25


def test_neither_one_that_runs_nor_a_zombie_is_about_to_end() -> None:
    """What is between the two has no command line any more, but its port may still answer."""
    assert not process_table.is_ending(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}/cmdline").read_bytes() == b""
    assert not process_table.is_ending(child.pid)
    child.wait()
    assert not process_table.is_ending(child.pid)


def test_a_child_that_ends_between_two_looks_has_its_exit_code(target: Target) -> None:
    """Whoever asks for the process of the instance meanwhile forgets the child."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(3)"])
    process_table.children[child.pid] = child
    begun = processes._Start(target, "instance001", child.pid)
    child.wait()
    assert not process_table.is_ours(child.pid, target, "instance001")
    found = begun.look(0.0, is_late=False)
    assert found is not None and found.state is ProcessState.EXITED
    assert "exited with code 3" in found.message


def test_an_application_is_what_belongs_to_this_host(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """[C-3]: `instances.yml` beside the file; the file itself, and a name, mean what they did."""
    directory = target.config.path.parent
    (directory / "instances.yml").write_text("instance002:\n")
    assert parse_target(directory).names == ("instance002",)
    assert parse_target(directory).path == directory
    assert parse_target(f"{directory}:instance001").path == parse_target(target.config.path).path
    assert parse_target(target.config.path).names == ("instance001", "instance002")
    assert parse_target(f"{directory}:instance001").names == ("instance001",)
    monkeypatch.chdir(directory.parent)
    assert [p.name for p in start(parse_target("set"))] == ["instance002"]
    start(parse_target("set:instance001"))
    stopped, error = process_table.target_to_stop("set")
    assert error is None and stopped.names == ("instance001", "instance002")  # what runs can be stopped
    (directory.parent / "instances.enabled").mkdir()
    directory.rename(directory.parent / "instances.enabled" / "app")
    assert parse_target("app").names == ("instance002",)
    assert parse_target("app:instance001").named == "instance001"
    (directory.parent / "instances.enabled" / "app").rename(directory)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("instance003:\n", "instances.yml:1: instance003: no such instance"),
        ("instance001: {}\ninstance002: {iproto: {}}\n", "instances.yml:2: instance002: has a body"),
        ("- instance001\n", "expected names of instances"),
        ("", "expected names of instances"),
        ("a: [\n", "not YAML"),
    ],
)
def test_a_list_of_instances_that_is_none(target: Target, text: str, why: str) -> None:
    (target.directory / "instances.yml").write_text(text)
    with pytest.raises(ConfigFileError) as refused:
        parse_target(target.directory)
    assert why in refused.value.message


@pytest.mark.parametrize("content", ["link", "directory", "pipe"])
def test_a_list_of_instances_that_cannot_be_read_is_not_taken_for_none(target: Target, content: str) -> None:
    """All instances of the file would start here, those of other hosts too."""
    file = target.directory / "instances.yml"
    if content == "link":
        file.symlink_to("nowhere")
    elif content == "directory":
        file.mkdir()
    else:
        os.mkfifo(file)
    with pytest.raises(ConfigFileError, match="the list of instances is no regular file"):
        parse_target(target.directory)
    assert parse_target(target.config.path).names == ("instance001", "instance002")


def test_two_instances_of_a_file_that_name_one_directory(target: Target) -> None:
    """The lock tells of the one that runs; the other one is neither taken for running nor stopped."""
    file = target.config.path
    file.write_text(file.read_text() + "\ndatabase: {dir: var/lib/both}\n")
    both = parse_target(file)
    first, second = parse_target(f"{file}:instance001"), parse_target(f"{file}:instance002")
    [one] = start(first)
    assert (pids(first), pids(second)) == ([one.pid], [None])
    [other] = start(second)
    assert other.state is ProcessState.EXITED
    assert [(p.state, p.changed) for p in stop(second)] == [(ProcessState.STOPPED, False)]
    assert pids(both) == [one.pid, None]


@pytest.mark.parametrize("content", ["pipe", "missing"])
def test_whatever_the_file_became_what_runs_can_be_stopped(target: Target, content: str) -> None:
    """A pipe without a writer would be waited for."""
    start(target)
    file = target.config.path
    file.unlink()
    if content == "pipe":
        os.mkfifo(file)
    found, error = process_table.target_to_stop(file)
    assert error is not None
    assert [(p.name, p.state) for p in stop(found)] == [
        ("instance001", ProcessState.STOPPED),
        ("instance002", ProcessState.STOPPED),
    ]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_an_instance_of_another_user_is_said_to_be_so_at_once(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be waited for in vain, and --kill would do no more."""
    [one, other] = start(target)
    try:
        os.setresuid(65534, 65534, 0)
        before = time.monotonic()
        done = stop(target, timeout_s=600.0)
        again = restart(target, timeout_s=600.0)
    finally:
        os.setresuid(0, 0, 0)
    assert time.monotonic() - before < 300
    assert [(p.state, p.pid, p.reason) for p in done] == [
        (ProcessState.DENIED, one.pid, "ACCESS_DENIED"),
        (ProcessState.DENIED, other.pid, "ACCESS_DENIED"),
    ]
    assert "runs as user root, and this user may not end it; it was left alone" in done[0].message
    assert [p.state for p in again] == [ProcessState.DENIED] * 2
    assert local_verbs.show(done, wanted_running=False) == local_verbs.show(done, wanted_running=True) == 1
    assert pids(target) == [one.pid, other.pid]


def test_a_restart_lets_no_other_start_between_its_stop_and_its_start(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that nothing was done, and all instances were stopped."""
    start(target)
    before = pids(target)
    is_over, has_it = threading.Event(), threading.Event()

    def take_the_lock() -> None:
        with (target.directory / "var" / "run" / ".lock").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            has_it.set()
            is_over.wait(60)

    other = threading.Thread(target=take_the_lock)
    wait_gone = processes._wait_gone

    def gone(*arguments: object) -> bool:
        if other.ident is None:
            other.start()
            time.sleep(0.2)  # it waits for the lock by now
            assert not has_it.is_set()
        return wait_gone(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(processes, "_wait_gone", gone)
    try:
        done = restart(target, timeout_s=10.0 * slowness())
        assert [p.state for p in done] == [ProcessState.RUNNING] * 2
        assert not set(pids(target)) & set(before)
    finally:
        is_over.set()
        other.join()


def test_a_restart_that_cannot_write_its_notes_stops_nothing(target: Target) -> None:
    """What a start needs is looked at before the stop."""
    start(target)
    before = pids(target)
    lock = target.directory / "var" / "run" / ".lock"
    lock.unlink()
    lock.mkdir()
    with pytest.raises(ConfigError, match="cannot write below"):
        restart(target)
    assert pids(target) == before
    assert [p.state for p in stop(target)] == [ProcessState.STOPPED] * 2


def test_a_restart_that_stopped_some_only_says_how_these_are_started(
    target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The advice was about the one that did not end alone, and the others stayed down."""
    second = parse_target(f"{target.config.path}:instance002")
    start(parse_target(f"{target.config.path}:instance001"))
    monkeypatch.setenv("STAND_IN", "stubborn")
    start(second)
    monkeypatch.delenv("STAND_IN")
    done = restart(target, timeout_s=2.0 * slowness())
    assert [p.state for p in done] == [ProcessState.STOPPED, ProcessState.STUCK]
    assert local_verbs.show(done, wanted_running=True) == 1
    said = capsys.readouterr().err.splitlines()
    assert (
        said[0] == "error: TIMED_OUT: instance001 was stopped and not started again: instance002 did not end"
    )
    assert said[1] == f"next:  synchro start {target.config.path}:instance001"
    assert app.run(said[1].removeprefix("next:  synchro ").split()) == 0
    stop(target, timeout_s=0.1, kill=True)


def test_a_restart_that_is_interrupted_says_what_brings_all_back(
    target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended without a word, and instances were stopped."""
    start(target)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(processes, "_start_all", interrupted)
        assert app.run(["restart", str(target.config.path)]) == formatting.EXIT_INTERRUPTED
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == "interrupted: instances may be stopped"
    assert said[-1] == f"next:  synchro start {target.config.path}"
    assert pids(target) == [None, None]
    assert app.run(said[-1].removeprefix("next:  synchro ").split()) == 0


def test_a_start_that_hangs_keeps_no_stop_for_ever(target: Target) -> None:
    """Somebody pressed Ctrl-Z."""
    lock = target.directory / "var" / "run" / ".lock"
    lock.parent.mkdir(parents=True)
    code = (
        "import fcntl, os, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
        "file.write(str(os.getpid())); file.flush(); print(flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline()
        for verb in (start, stop):
            with pytest.raises(InAnotherStart, match="nothing was done") as refused:
                verb(target, timeout_s=0.1)
            assert refused.value.message.endswith(f"next:  kill -9 {other.pid}   ends it, and no instance")
            assert formatting.exit_code(refused.value) == Exit.FAILED  # and not: it may still be done
    finally:
        other.kill()
        other.communicate()
    assert [p.state for p in start(target)] == [ProcessState.RUNNING] * 2
    assert lock.read_text() == f"{os.getpid()}\n"
