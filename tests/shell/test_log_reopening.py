"""SIGHUP opens the log of a process anew, and never waits for whoever is at the other end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import structlog

from synchro import logs
from synchro.errors import ConfigError
from synchro.process import serve, supervise
from synchro.process.ready import LOG_FILE


def test_a_pipe_without_a_reader_does_not_stop_the_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "instance001.log"
    os.mkfifo(path)
    monkeypatch.setenv(LOG_FILE, str(path))
    with structlog.testing.capture_logs() as records:
        thread = threading.Thread(target=supervise._reopen_log, args=(structlog.get_logger(),), daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
    assert [record["event"] for record in records] == ["log_not_reopened"]


def test_the_log_of_the_file_is_written_and_opened_anew(tmp_path: Path) -> None:
    """`log.to: file`: standard error has nothing any more; a rotated file is left alone after SIGHUP."""
    log = tmp_path / "log" / "own.log"
    config = tmp_path / "config.yaml"
    config.write_text(
        f"log: {{to: file, file: {log}}}\n"
        "groups: {g: {replicasets: {r: {instances: {a: {grpc: {listen: [{uri: '127.0.0.1:0'}]}}}}}}}\n"
    )
    command = [sys.executable, "-m", "synchro", "serve", "--config", str(config), "--name", "a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            wait_for(log, "instance_ready")
            old = log.rename(tmp_path / "old.log")
            process.send_signal(signal.SIGHUP)
            wait_for(log, "log_reopened")
            process.terminate()
            output, _ = process.communicate(timeout=15)
        finally:
            process.kill()
    assert (process.returncode, output) == (0, b"")
    assert "instance_stopped" in log.read_text() and "instance_stopped" not in old.read_text()


def test_a_log_that_cannot_be_written_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file, not a directory")
    with pytest.raises(ConfigError, match=r"log.file: cannot write .*nothing was started"):
        serve._log_to(str(tmp_path / "log" / "a.log"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_new_log_now_keeps_nobody_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A set that is restarted while the disk of its logs is full would be gone."""

    def refuse(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(logs, "send_to", refuse)
    monkeypatch.setenv(LOG_FILE, "of `start`")
    path = str(tmp_path / "log" / "a.log")
    why = serve._log_to(path)
    assert why.startswith(f"log.file: cannot write {path}: {os.strerror(number)}; records go to standard")
    assert os.environ[LOG_FILE] == path


def test_a_sighup_makes_the_directory_for_which_there_was_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, **_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setenv(LOG_FILE, "of `start`")
    path = tmp_path / "log" / "a.log"
    with monkeypatch.context() as patched:
        patched.setattr(os, "makedirs", refuse)
        assert serve._log_to(str(path)).endswith("until a SIGHUP finds room")
    output = os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr(logs, "_STDOUT", output)
    monkeypatch.setattr(logs, "_STDERR", output)
    with structlog.testing.capture_logs() as records:
        supervise._reopen_log(structlog.get_logger())
    os.write(output, b"a record")
    os.close(output)
    assert [record["event"] for record in records] == ["log_reopened"]
    assert path.read_bytes().endswith(b"a record")


def wait_for(log: Path, event: str) -> None:
    deadline = time.monotonic() + 15
    while not (log.exists() and event in log.read_text()):
        assert time.monotonic() < deadline, event
        time.sleep(0.05)
