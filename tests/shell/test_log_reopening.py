"""SIGHUP opens the log of a process anew, and never waits for whoever is at the other end (MEND-R3)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import structlog

from synchro.process import supervise
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
