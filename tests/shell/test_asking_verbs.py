"""Verbs that ask and change nothing, and modes of writes: what they print, exit codes, of canned answers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from synchro.cli import app
from synchro.rpc.generated.v1 import control_pb2, data_pb2
from tests.shell.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    made = FakeServer(1)  # type: ignore[abstract]
    made.lead()
    yield made
    made.stop()


def run(server: FakeServer, *words: str) -> int:
    return app.run(["-e", server.address, *words])


def test_a_dry_run_says_why_a_promote_would_fail(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """[P-16]"""
    assert run(server, "promote", "--dry-run") == 1
    assert capsys.readouterr().out.splitlines() == [
        "instance001 would not be promoted now; nothing was changed",
        "  SPLIT_BRAIN: two histories",
    ]
    assert run(server, "-o", "json", "promote", "--dry-run") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["obstacles"] == [{"reason": "SPLIT_BRAIN", "message": "two histories"}]


def test_a_dry_run_says_what_a_promote_would_do(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.outlook = control_pb2.CheckPromoteResponse(term=5, previous_owner=2, confirmed=3, missing_rows=4)
    assert run(server, "promote", "--dry-run") == 0
    assert capsys.readouterr().out == (
        "instance001 would own the queue in term 5: previous owner 2, to be confirmed 3; 4 rows of 2 are not "
        "here yet; nothing was changed\n"
    )
    server.outlook.is_owner = True
    assert run(server, "promote", "--dry-run") == 0
    assert capsys.readouterr().out == ("instance001 owns the queue already: term 5; nothing would be done\n")
    server.outlook.obstacles.add(reason="STAYS_READ_ONLY", message="it takes no writes")
    assert run(server, "promote", "--dry-run") == 1
    assert capsys.readouterr().out.splitlines() == [
        "instance001 owns the queue already: term 5; a promote would fail now",
        "  STAYS_READ_ONLY: it takes no writes",
    ]


def test_a_transaction_is_watched_to_its_end(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """[Q-48]"""
    assert run(server, "watch", "txn", "1:9") == 0
    assert capsys.readouterr().out.splitlines() == [
        "1:9 waits for its quorum: 1 of 2 {1}, missing {3}",
        "1:9 is committed",
    ]
    assert run(server, "watch", "txn", "nine") == 2


def test_what_has_no_end_yet_is_told_with_what_to_do_next(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """[Q-48]: in time, nobody said how it ended; or it is older than what is remembered."""
    server.stages = [[data_pb2.TRANSACTION_STAGE_ON_DISK], []]
    assert run(server, "--timeout", "1", "watch", "txn", "1:9") == 5
    assert capsys.readouterr().out.splitlines()[1:] == ["next:  synchro queue"]
    server.outcome = data_pb2.TRANSACTION_OUTCOME_UNKNOWN
    server.vclock, server.stages = {1: 9}, [[data_pb2.TRANSACTION_STAGE_UNKNOWN]]
    for words in (["wait", "1:9"], ["watch", "txn", "1:9"]):
        assert run(server, "--timeout", "300", *words) == 5
        text, following = capsys.readouterr().out.splitlines()
        assert "it has not come there, or is older than what is remembered; outcome unknown" in text
        assert following.endswith("--direct wait 1:9   at another member   or   synchro status")


def test_a_watch_that_nobody_answers_in_time_says_what_to_do_next(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.stages = [[data_pb2.TRANSACTION_STAGE_ON_DISK, "dies"], ["dies"]]
    assert run(server, "--timeout", "1", "watch", "txn", "1:9") == 5
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1
    assert "CONNECTION_LOST" in told.err and "next:  synchro status" in told.err


def test_the_disk_and_a_state_are_waited_for(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """[W-48], [E-43]"""
    assert run(server, "wal", "sync") == 0
    assert capsys.readouterr().out == "instance001 has on its disk: {1: 9}\n"
    for verb in ("wait-rw", "wait-leader"):
        assert run(server, verb) == 0
        assert capsys.readouterr().out == "instance001 takes writes: leader instance001, term 2\n"
    server.writable = False
    server.leader = None
    assert run(server, "wait-ro") == 0
    assert "takes no writes" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["complete", "submit", "none"])
def test_a_write_says_when_it_wants_its_answer(server: FakeServer, mode: str) -> None:
    """[Q-45]"""
    assert run(server, "insert", "bands", "[1]", "--wait", mode) == 0
    wanted = {"complete": 0, "submit": data_pb2.WAIT_MODE_SUBMIT, "none": data_pb2.WAIT_MODE_NONE}
    assert server.calls[-1].wait == wanted[mode]  # what is not said is complete
    assert run(server, "insert", "bands", "[1]", "--wait", "soon") == 2


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ((), data_pb2.READ_MODE_CONFIRMED),
        (("--read", "confirmed"), data_pb2.READ_MODE_CONFIRMED),
        (("--read", "linearizable"), data_pb2.READ_MODE_LINEARIZABLE),
        (("--read", "read_committed"), data_pb2.READ_MODE_READ_COMMITTED),
    ],
)
def test_what_waits_is_asked_for_by_name_only(server: FakeServer, words: tuple[str, ...], mode: int) -> None:
    """[Q-56]"""
    server.rows = [[1, "a"]]
    for verb in (("get", "bands", "1"), ("select", "bands")):
        assert run(server, *verb, *words) == 0
        assert server.selects[-1].read == mode
    assert run(server, "get", "bands", "1", "--read", "dirty") == 2
