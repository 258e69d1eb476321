"""What the command line prints: errors, exit codes, values, tables, the queue. Snapshots of the documented
texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from synchro import errors
from synchro.cli import app, connection, formatting, queue_verbs
from synchro.client.errors import CannotConnect, OutcomeUnknown
from synchro.client.replies import queue
from synchro.errors import SynchroError
from synchro.rpc.generated.v1 import common_pb2, info_pb2

# --- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SynchroError("x"), 1),
        (errors.ConfigError("x"), 2),
        (CannotConnect("x"), 3),
        (errors.NoLeader("x"), 3),
        (errors.ReadOnly("x"), 4),
        (errors.SyncQueueForeign("x"), 4),
        (errors.SyncQueueUnclaimed("x"), 4),
        (OutcomeUnknown("x"), 5),
        (errors.TimedOut("x"), 5),
        (errors.TupleFound("x"), 6),
        (errors.SyncRollback("x"), 6),
        (errors.NoSuchSpace("x"), 7),
        (errors.Unimplemented("x"), 1),
    ],
)
def test_exit_codes(error: SynchroError, code: int) -> None:
    assert formatting.exit_code(error) == code


def test_a_terminal_obeys_nothing_that_is_in_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    """A name may hold a sign that turns the direction of writing, and words of others may hold anything."""
    formatting.print_error(SynchroError("no space 'pay\u202eroll'\nsaid \x1b[2J\U000e0041 ä ✓"))
    assert capsys.readouterr().err == (
        "error: INTERNAL: no space 'pay\\u202eroll'\nsaid \\u001b[2J\\udb40\\udc41 ä ✓\n"
    )
    lines = formatting.table_lines(("ID", "NAME"), [("512", "pay\u202eroll"), ("513", "ä ✓")])
    assert lines == ["ID  NAME", "512 pay\\u202eroll", "513 ä ✓"]


def test_an_unknown_outcome_names_the_reason_and_how_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    formatting.print_error(
        OutcomeUnknown("no quorum for 1:15 within 2.0 s.", txn=(1, 15), reason="SYNC_TIMEOUT")
    )
    assert capsys.readouterr().err == (
        "error: SYNC_TIMEOUT: no quorum for 1:15 within 2.0 s.\n"
        "next:  synchro wait 1:15   or   synchro queue\n"
    )


@pytest.mark.parametrize(
    ("details", "advice"),
    [
        (
            {"index": "primary", "key": "[1]", "new_tuple": '[1, "it\'s"]'},
            "synchro replace bands '[1, \"it'\"'\"'s\"]'   or   synchro get bands '[1]'",
        ),
        (
            {"index": "by_name", "key": '["x"]', "new_tuple": '[2, "x"]'},
            "synchro get bands '[\"x\"]' --index by_name",
        ),
        ({"index": "primary", "key": "[1]", "new_tuple": "[1, 2, ..."}, "synchro get bands '[1]'"),
        ({"index": "primary", "key": "[1, ...", "new_tuple": "[1]"}, "synchro select bands"),
        ({"index": "unbuilt", "new_tuple": "[1]"}, "synchro select bands"),
    ],
)
def test_what_to_do_about_a_key_that_is_taken_names_the_tuple(details: dict[str, str], advice: str) -> None:
    """A replace is advised only where it would be done, and nothing that was cut off."""
    error = errors.TupleFound("x", space="bands", old_tuple="[1]", **details)
    assert formatting.next_command(error) == advice


def test_what_a_refusal_advises_is_the_next_line(capsys: pytest.CaptureFixture[str]) -> None:
    formatting.print_error(
        errors.SyncQueueUnclaimed("Nobody owns it; nothing was written. Next: synchro promote i2")
    )
    assert capsys.readouterr().err.splitlines() == [
        "error: SYNC_QUEUE_UNCLAIMED: Nobody owns it; nothing was written",
        "next:  synchro promote i2",
    ]


@pytest.mark.parametrize(
    "kind", [errors.OldTerm, errors.InterferingElections, errors.InterferingPromote], ids=lambda k: k.reason
)
def test_who_was_overtaken_by_a_promote_may_promote_again(
    kind: type[SynchroError], capsys: pytest.CaptureFixture[str]
) -> None:
    formatting.print_error(kind("The term is outdated: old - 3, new - 4"))
    assert capsys.readouterr().err.splitlines()[1] == "next:  synchro promote NAME   or   synchro status"


def test_errors_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(connection.options, "output", "json")
    formatting.print_error(errors.NoSuchSpace("Space 'x' does not exist", space="x"))
    report = json.loads(capsys.readouterr().err)
    assert report == {
        "code": 7,
        "reason": "NO_SUCH_SPACE",
        "message": "Space 'x' does not exist",
        "details": {"space": "x"},
        "next": "synchro space list",
    }


def test_verbs_of_later_releases_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["export", "bands"], ["backup", "create"]):
        assert app.run(words) == 1
        text = capsys.readouterr().err
        assert text.startswith(f"error: UNIMPLEMENTED: '{words[0]}")
        assert "\nnext:  " in text


# --- values ---------------------------------------------------------------------------------------------


def test_info_as_yaml_has_the_documented_form(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection.options, "output", "yaml")
    queue = {"owner": 1, "term": 2, "len": 3, "size": 312, "busy": False, "age": 5.2658, "confirm_lag": 0.0}
    formatting.print_value({"queue": queue, "quorum": 2})
    assert capsys.readouterr().out == (
        "queue: {owner: 1, term: 2, len: 3, size: 312, busy: false, age: 5.2658, confirm_lag: 0.0}\n"
        "quorum: 2\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0000004, "0.0 ms"), (0.0004, "0.4 ms"), (0.0123, "12.3 ms"), (0.2, "0.2 s"), (31.2, "31 s")],
)
def test_times_have_the_unit_that_suits_them(value: float, text: str) -> None:
    assert formatting.seconds(value) == text


# --- tables ---------------------------------------------------------------------------------------------

COLUMNS = ("ID", "NAME", "ADDRESS", "STATE", "RW", "QUEUE", "VCLOCK", "LAG", "SEEN")
WIDE = [
    [
        "1",
        "instance001",
        "127.0.0.1:3301",
        "leader",
        "rw",
        "owner len 0",
        "{1: 1402, 2: 33, 3: 7}",
        "-",
        "now",
    ],
    [
        "2",
        "instance002",
        "127.0.0.1:3302",
        "follower",
        "ro",
        "",
        "{1: 1402, 2: 33}",
        "12 rows, 0.2 s",
        "0.2 s ago",
    ],
    [
        "3",
        "instance003",
        "127.0.0.1:3303",
        "down",
        "",
        "",
        "-",
        "-",
        "31 s ago",
        "connection [red]refused[/red] " * 4,
    ],
]


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_table_fits_the_screen_and_loses_nothing(width: int) -> None:
    lines = formatting.table_lines(COLUMNS, WIDE, width)
    assert max(map(len, lines)) <= width
    letters = Counter("".join(lines).replace(" ", ""))
    letters.subtract("instance003:" if width < 180 else "")
    assert letters == Counter("".join(cell for row in (COLUMNS, *WIDE) for cell in row).replace(" ", ""))


def test_names_and_addresses_stay_whole_at_80_characters() -> None:
    lines = formatting.table_lines(COLUMNS, WIDE, 80)
    for number in (1, 2, 3):
        assert any(f"instance00{number}  127.0.0.1:330{number}" in line for line in lines)


def test_what_is_no_terminal_gets_a_line_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """For `grep` and `awk`, whatever COLUMNS says."""
    monkeypatch.setenv("COLUMNS", "40")
    assert len(formatting.table_lines(COLUMNS, WIDE)) == 4
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert max(map(len, formatting.table_lines(COLUMNS, WIDE))) <= 40
    monkeypatch.delenv("COLUMNS")
    assert formatting.screen_width() == 80  # a terminal that does not say it


# --- queue ----------------------------------------------------------------------------------------------


def _entry(lsn: int, *waits_for: info_pb2.MissingAck, acked: Sequence[int] = (1,)) -> Any:
    missing = [one.instance_id for one in waits_for]
    made = info_pb2.QueueEntry(
        txn=common_pb2.TxnId(origin=1, lsn=lsn),
        space_ids=[512],
        rows=1,
        acked_by=acked,
        missing=missing,
        waits_for=waits_for,
    )
    made.age.FromMilliseconds(5300)
    return made


def _missing(peer: int, since_ms: int | None, *, is_connected: bool = False) -> info_pb2.MissingAck:
    made = info_pb2.MissingAck(instance_id=peer, is_connected=is_connected)
    if since_ms is not None:
        made.since.FromMilliseconds(since_ms)
    return made


def test_the_queue_shows_owner_entries_and_who_is_missing() -> None:
    def entry(lsn: int) -> Any:
        return _entry(lsn, _missing(2, 6100))

    reply = info_pb2.ListQueueResponse(
        queue=info_pb2.QueueInfo(owner=1, term=2, len=3, size=312), entries=[entry(12), entry(13)], quorum=2
    )
    reply.queue.age.FromMilliseconds(5300)
    lines = queue_verbs.queue_lines(queue(reply), {1: "instance001"}, {512: "sync"})
    assert lines == [
        "owner 1 (instance001)  term 2  len 3  size 312 B  age 5.3 s  confirm_lag 0.000 s  busy no  quorum 2",
        "TXN   SPACE  ROWS  AGE    ACKS",
        "1:12  sync   1     5.3 s  1 of 2 {1}   waiting for one of {2: down 6.1 s}",
        "1:13  sync   1     5.3 s  1 of 2 {1}",
        "... and 1 more",
    ]


def test_each_entry_says_who_owes_what_since_when() -> None:
    """An entry that waits for others than the one before says so itself; an older version says ids only."""
    entries = [
        _entry(12, _missing(3, None), acked=[1, 2]),
        _entry(13, _missing(2, 3000, is_connected=True), _missing(3, None)),
        _entry(14, _missing(2, 2500, is_connected=True), _missing(3, None)),
    ]
    old = _entry(15, _missing(3, None), _missing(4, 1))
    del old.waits_for[:]
    reply = info_pb2.ListQueueResponse(
        queue=info_pb2.QueueInfo(owner=1, len=4), entries=[*entries, old], quorum=3
    )
    lines = queue_verbs.queue_lines(queue(reply), {}, {})
    assert [line.partition("waiting for ")[2] for line in lines[2:]] == [
        "one of {3: not heard yet}",
        "2 of {2: no ack 3.0 s, 3: not heard yet}",
        "",
        "2 of {3, 4}",
    ]
