"""`synchro demo` as a person runs it: real processes, files and a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synchro.cli.failover import unicode_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

COMMAND = [sys.executable, "-P", "-m", "synchro", "demo"]


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(directory), "SYNCHRO_ENDPOINTS": ""}


def left_over(directory: Path) -> list[str]:
    """Processes whose command line names the directory of the test."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(directory) in text and "serve" in text:
            found.append(text)
    return found


def check_clean(directory: Path) -> None:
    assert not left_over(directory)
    assert not list(directory.iterdir())


def test_the_rows_are_those_of_unicode_with_a_name_of_their_own() -> None:
    rows = unicode_rows()
    assert (65, "LATIN CAPITAL LETTER A", "Lu") in rows
    assert not any(name.startswith("HANGUL SYLLABLE ") for _, name, _ in rows)
    if sys.version_info[:2] == (3, 11):
        assert len(rows) == 34_527


@pytest.mark.slow
def test_a_killed_leader_loses_no_acknowledged_write(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--script", "failover", "--once"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "SIGKILL to the leader" in done.stdout
    assert "failover took" in done.stdout
    assert "OK: no acknowledged write was lost" in done.stdout
    check_clean(tmp_path)


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_the_plain_demo_shows_a_set(options: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--once", *options],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("every instance wrote" if options else "confirmed by") in done.stdout
    check_clean(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_cleans_up_when_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(COMMAND, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "Ctrl-C" in line:
                break
        assert len(left_over(tmp_path)) == 3
        time.sleep(0.1)
        demo.send_signal(number)
        assert demo.wait(30) == 0
    check_clean(tmp_path)
