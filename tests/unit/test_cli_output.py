"""What the command line prints: tables, verdicts, errors, exit codes. Snapshots of the documented texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synchro import errors
from synchro.cli import app, connection, formatting, process_table, processes, queue_verbs, status_verbs
from synchro.cli.picture import Picture, assemble
from synchro.cli.program import Group, program
from synchro.cli.verdict import judge
from synchro.client.errors import CannotConnect, OutcomeUnknown
from synchro.client.replies import queue
from synchro.errors import IllegalParams, SynchroError
from synchro.ro_reason import RoReason
from synchro.rpc.generated.v1 import common_pb2, info_pb2
from synchro.storage.disk import RealDisk
from synchro.storage.identity import Identity, IdentityFile


@pytest.fixture
def options() -> connection.Options:
    """As at the start of a command line; `tests/conftest.py` sees to the end."""
    connection.options.forget()
    return connection.options


# --- options


PLACES = [
    ["-e", "h:1", "-v", "config", "--timeout", "500ms", "schema", "-o=json", "--direct", "-v"],
    ["-e=h:1", "--timeout=500ms", "-o", "json", "-vv", "--direct", "config", "schema"],
    ["config", "schema", "-eh:1", "--direct", "--timeout", "500ms", "--output", "json", "-vv"],
    [
        "-e",
        "h:9",
        "-o",
        "yaml",
        "config",
        "schema",
        "-e",
        "h:1",
        "-o",
        "json",
        "--timeout",
        ".5",
        "-vv",
        "--direct",
    ],
]


@pytest.mark.parametrize("arguments", PLACES)
def test_shared_options_may_stand_anywhere(arguments: list[str], options: connection.Options) -> None:
    """Behind the verb counts more than before it."""
    assert app.run(arguments) == 0
    assert (options.endpoints, options.timeout_s, options.output, options.direct, options.verbose) == (
        "h:1",
        0.5,
        "json",
        True,
        2,
    )


def test_the_environment_counts_less_than_the_command_line(
    monkeypatch: pytest.MonkeyPatch, options: connection.Options
) -> None:
    monkeypatch.setenv("SYNCHRO_ENDPOINTS", "h:2")
    monkeypatch.setenv("SYNCHRO_TIMEOUT", "7s")
    assert app.run(["-e", "h:1", "config", "schema"]) == 0
    assert (options.where, options.timeout_s, options.given) == ("h:1", 7.0, {"endpoints"})
    assert app.run(["config", "schema"]) == 0
    assert (options.where, options.given) == ("h:2", set())
    monkeypatch.setenv("NO_COLOR", "1")
    assert app.run(["config", "schema"]) == 0
    assert not options.color


def test_a_command_line_does_not_see_the_options_of_the_one_before(options: connection.Options) -> None:
    assert app.run(["-e", "h:1", "--no-color", "-v", "config", "schema"]) == 0
    assert app.run(["config", "schema"]) == 0
    assert (options.where, options.color, options.verbose) == (connection.DEFAULT_ENDPOINTS, True, 0)


def test_behind_two_dashes_nothing_is_an_option(
    options: connection.Options, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["config", "check", "--", "-e"]) == 2
    assert "error: CONFIG: -e: cannot read" in capsys.readouterr().err
    assert options.where == connection.DEFAULT_ENDPOINTS


def _verbs(group: Group = program, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*words, name), command
        if isinstance(command, Group):
            yield from _verbs(command, (*words, name))


SHOWN_VERBS = [words for words, command in _verbs() if not command.hidden]


def test_a_verb_is_a_function_in_a_module_that_is_found() -> None:
    """By its name alone: a new verb touches one file, and no list."""
    folder = Path(app.__file__).parent
    makers = {path.stem for path in folder.glob("*.py") if ".command(" in path.read_text(encoding="utf-8")}
    assert {name for name in makers if not name.endswith(("_verb", "_verbs"))} == {"program"}  # its docstring
    modules = {command.callback.__module__.rpartition(".")[2] for _, command in _verbs() if command.callback}
    assert modules == makers - {"program"}


@pytest.mark.parametrize("words", SHOWN_VERBS, ids=" ".join)
def test_the_help_of_each_verb_fits_and_shows_the_shared_options(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for option in ("-e, --endpoints", "--direct", "--timeout", "-o, --output", "--no-color", "-v, --verbose"):
        assert option in shown


@pytest.mark.parametrize(
    ("arguments", "error", "command"),
    [
        (["frobnicate"], "No such command 'frobnicate'.", "synchro --help"),
        (["get", "s"], "Missing argument 'KEY'.", "synchro get --help"),
        (["space", "list", "--bad"], "No such option '--bad'.", "synchro space list --help"),
        (["select", "s", "--limit", "x"], "'x' is not a valid integer range", "synchro select --help"),
        (["--timeout", "soon", "info"], "'soon' is not a time; examples: 5s, 500ms, 2m", "synchro --help"),
    ],
)
def test_a_command_line_that_is_wrong_names_the_help_of_its_verb(
    arguments: list[str], error: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ILLEGAL_PARAMS: ")
    assert error in first
    assert second == f"next:  {command}"


def test_an_instance_is_named_by_its_option_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    """NAME without the option is the older form of three of them."""
    takes = {" ".join(words) for words, command in _verbs() if "instance" in {p.name for p in command.params}}
    assert takes == {
        *(
            "config show",
            "demote",
            "info",
            "member list",
            "promote",
            "queue",
            "replication restart",
            "snapshot",
        ),
        *("space checksum", "space list", "space show", "watch info"),
    }
    for verb in ("promote", "demote", "snapshot"):
        assert app.run([verb, "one", "-i", "two"]) == 2
        assert "either one or -i two" in capsys.readouterr().err
    assert app.run(["space", "checksum", "s", "--all", "-i", "one"]) == 2
    assert "either --all or -i" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["-e"], ["-o", "xml"], ["--timeout", "soon"]])
def test_bad_shared_options_are_usage_errors(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*arguments]) == 2
    assert "error: ILLEGAL_PARAMS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5), ("5s", 5), ("500ms", 0.5), ("1.5s", 1.5), ("2m", 120), (".5", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert connection.parse_duration(text) == seconds


def test_a_duration_without_sense_is_refused() -> None:
    for text in ("", "s", "-1", "5 parsecs", "1e3"):
        with pytest.raises(IllegalParams):
            connection.parse_duration(text)


# --- errors


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


def test_an_unknown_outcome_names_the_reason_and_how_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    formatting.print_error(
        OutcomeUnknown("no quorum for 1:15 within 2.0 s.", txn=(1, 15), reason="SYNC_TIMEOUT")
    )
    assert capsys.readouterr().err == (
        "error: SYNC_TIMEOUT: no quorum for 1:15 within 2.0 s.\n"
        "next:  synchro wait 1:15   or   synchro queue\n"
    )


def test_errors_as_json(options: connection.Options, capsys: pytest.CaptureFixture[str]) -> None:
    options.output = "json"
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
    for words in (["user", "create", "bob"], ["switchover", "--to", "x"], ["config", "set", "a", "b"]):
        assert app.run(words) == 1
        text = capsys.readouterr().err
        assert text.startswith(f"error: UNIMPLEMENTED: '{words[0]}")
        assert "\nnext:  " in text


# --- values


def test_info_as_yaml_has_the_documented_form(
    options: connection.Options, capsys: pytest.CaptureFixture[str]
) -> None:
    options.output = "yaml"
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


# --- tables

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


# --- queue


def test_the_queue_shows_owner_entries_and_who_is_missing() -> None:
    def entry(lsn: int) -> Any:
        made = info_pb2.QueueEntry(
            txn=common_pb2.TxnId(origin=1, lsn=lsn), space_ids=[512], rows=1, acked_by=[1], missing=[2]
        )
        made.age.FromMilliseconds(5300)
        return made

    reply = info_pb2.ListQueueResponse(
        queue=info_pb2.QueueInfo(owner=1, term=2, len=3, size=312), entries=[entry(12), entry(13)], quorum=2
    )
    reply.queue.age.FromMilliseconds(5300)
    lines = queue_verbs.queue_lines(queue(reply), {1: "instance001"}, {512: "sync"}, {2: ": down 6.1 s"})
    assert lines == [
        "owner 1 (instance001)  term 2  len 3  size 312 B  age 5.3 s  confirm_lag 0.000 s  busy no  quorum 2",
        "TXN   SPACE  ROWS  AGE    ACKS",
        "1:12  sync   1     5.3 s  1 of 2 {1}   waiting for one of {2: down 6.1 s}",
        "1:13  sync   1     5.3 s  1 of 2 {1}",
        "... and 1 more",
    ]


# --- status


def info(
    number: int, *, ro: bool = True, reason: RoReason = RoReason.ELECTION, owner: int = 1, **more: Any
) -> Any:
    return {
        "id": number,
        "name": f"instance00{number}",
        "status": "running",
        "ro": ro,
        "ro_reason": reason.value if ro else None,
        "vclock": {0: 3, 1: 14},
        "pid": 1,
        "replicaset": {"name": "replicaset001"},
        "election_mode": "candidate",
        "election": {"state": "follower" if ro else "leader", "term": 3, "leader": owner},
        "synchro": {"queue": {"owner": owner, "term": 3, "len": 0}, "quorum": 2},
        "replication": {
            1: {"id": 1, "name": "instance001"},
            2: {
                "id": 2,
                "name": "instance002",
                "upstream": {"status": "follow", "idle": 0.2},
                "downstream": {"status": "follow", "behind": {"rows": 0, "seconds": 0.0}},
            },
            3: {"id": 3, "name": "instance003", "upstream": {"status": "disconnected", "idle": 31.0}},
        },
    } | more


def picture(*infos: Any) -> Picture:
    answers: dict[str, Any] = {
        f"127.0.0.1:330{number}": found
        if found is not None
        else CannotConnect("cannot connect: connection refused")
        for number, found in enumerate(infos, 1)
    }
    names = {f"127.0.0.1:330{number}": f"instance00{number}" for number in range(1, len(infos) + 1)}
    return assemble(answers, names, None)


def test_what_a_refusal_advises_is_the_next_line(capsys: pytest.CaptureFixture[str]) -> None:
    formatting.print_error(
        errors.SyncQueueUnclaimed("Nobody owns it; nothing was written. Next: synchro promote i2")
    )
    assert capsys.readouterr().err.splitlines() == [
        "error: SYNC_QUEUE_UNCLAIMED: Nobody owns it; nothing was written",
        "next:  synchro promote i2",
    ]


def test_names_that_nobody_knows_are_not_advised() -> None:
    address = "127.0.0.1:3301"
    down = assemble({address: CannotConnect("connection refused")}, {}, None)
    assert judge(down).next == "synchro start CONFIG"


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        (process_table.State.RUNNING, "synchro restart CONFIG:instance003 --kill"),
        (process_table.State.LOADING, "synchro status --watch"),
        (process_table.State.STOPPED, "synchro start CONFIG:instance003"),
    ],
)
def test_who_is_silent_although_its_process_runs_is_restarted(
    state: process_table.State, advice: str
) -> None:
    seen = picture(info(1, ro=False), info(2), None)
    seen.members[2].process = process_table.Process("instance003", "127.0.0.1:3303", state, 7, Path("x.log"))
    assert judge(seen).next == advice


def test_an_instance_that_stops_is_neither_down_nor_loading() -> None:
    """It answers, but takes and acknowledges nothing; nobody has to do anything about it."""
    found = judge(picture(info(1, ro=False), info(2), info(3, status="stopping")))
    assert found.lines() == [
        "Writable: 2 of 2 needed instances acknowledge. One more failure stops synchronous writes."
    ]
    assert [(p.kind, p.text) for p in found.problems] == [("stopping", "instance003 is stopping.")]
    rows = status_verbs.status_rows(picture(info(1, ro=False), info(2), info(3, status="stopping")))[1]
    assert [row[3] for row in rows] == ["leader", "follower", "stopping"]

    found = judge(picture(info(1, ro=False, status="stopping")))
    assert not found.writable and not found.readable
    assert found.lines() == ["Not ready: instance001 is stopping. Next: synchro status --watch"]


def test_rows_that_no_log_holds_any_more() -> None:
    gone = info(2)
    gone["replication"][1]["upstream"] = {"status": "loading", "reason": "XLOG_GAP"}
    found = judge(picture(info(1, ro=False), gone, info(3)))
    [problem] = [problem for problem in found.problems if problem.kind == "log_gap"]
    assert problem.instance == "instance002"
    assert "the log of instance001 does not hold any more" in problem.text
    assert "keep instance.identity" in problem.text


def test_status_with_one_instance_down() -> None:
    assert status_verbs.status_text(picture(info(1, ro=False), info(2), None)) == [
        "replicaset001  election  term 3  quorum 2 of 3",
        "ID NAME         ADDRESS         STATE     RW  QUEUE        VCLOCK   LAG     SEEN",
        "1  instance001  127.0.0.1:3301  leader    rw  owner len 0  {1: 14}  -       now",
        "2  instance002  127.0.0.1:3302  follower  ro               {1: 14}  0 rows  0.2 s ago",
        "3  instance003  127.0.0.1:3303  down                       -        -       31 s ago   "
        "connection refused",
        "Writable: 2 of 2 needed instances are up. One more failure stops synchronous writes. "
        "Next: synchro start CONFIG:instance003",
    ]


def test_a_set_of_which_nobody_answers() -> None:
    """All other verdicts: tests/shell/test_verdicts.py, from the trees of instances that run."""
    assert judge(picture(None, None)).lines() == [
        "Down: no instance answers. Next: synchro start CONFIG:instance001"
    ]


@pytest.mark.parametrize(
    ("state", "command"),
    [
        ("running", "synchro restart config.yaml:instance003 --kill"),
        ("stopped", "synchro start config.yaml:instance003"),
        ("loading", "synchro status --watch"),
    ],
)
def test_a_process_that_hangs_is_not_advised_to_be_started(
    state: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one stopped by SIGSTOP: `start` says "running already" and changes nothing."""
    monkeypatch.chdir(tmp_path)
    seen = picture(info(1, ro=False), info(2), None)
    seen.target = process_table.parse_target(processes.init(tmp_path, nodes=3))
    pid = None if state == "stopped" else 1
    seen.members[2].process = process_table.Process(
        "instance003", "", process_table.State(state), pid, Path("log")
    )
    assert judge(seen).next == command


def test_json_of_status_has_every_instance(
    options: connection.Options, capsys: pytest.CaptureFixture[str]
) -> None:
    options.output = "json"
    leader = info(1, ro=False)
    del leader["replication"][2]["downstream"]
    status_verbs.print_status(picture(leader, None))
    report = json.loads(capsys.readouterr().out)
    assert [i["state"] for i in report["instances"]] == ["leader", "down", "down"]
    assert report["quorum"] == 2
    assert (report["writable"], report["may_fail"]) == (False, 0)
    assert report["next"] == "synchro start CONFIG:instance002"
    assert [problem["kind"] for problem in report["problems"]] == ["down", "down"]
    assert report["verdict"].startswith("Synchronous writes wait: 1 of 2 needed instances is up.")


def test_a_set_whose_ports_are_held_by_another_one(tmp_path: Path) -> None:
    """The same names and addresses; the UUID is another one, or nothing was ever started here."""
    path = processes.init(tmp_path / "mine", nodes=2)
    target = process_table.parse_target(path)
    names = {config.settings.listen: name for name, config in target.config.instances.items()}

    def seen(uuid: str) -> Picture:
        answers: dict[str, Any] = {
            address: info(number, ro=number > 1) | {"replicaset": {"name": "replicaset001", "uuid": uuid}}
            for number, address in enumerate(names, 1)
        }
        return assemble(answers, names, target)

    found = judge(seen("theirs"))
    assert not found.writable
    assert [problem.kind for problem in found.problems] == ["foreign", "foreign"]
    assert found.lines()[0] == (
        "127.0.0.1:3301 of instance001 is held by instance001 of another set (replicaset001, UUID theirs, "
        "pid 1). Next: synchro -e 127.0.0.1:3301 --direct status"
    )
    assert found.lines()[-1] == "Down: no instance of this set answers."

    directory = Path(target.config.instance("instance001").settings.wal_dir)
    directory.mkdir(parents=True)
    IdentityFile.create(RealDisk(), str(directory), Identity("u", "instance001", "mine")).close()
    assert [m.state for m in seen("theirs").members] == ["foreign", "foreign"]
    assert judge(seen("mine")).text.startswith("Writable: ")


@pytest.mark.parametrize(
    ("arguments", "has_problem", "code"),
    [
        ([], False, 0),
        ([], True, 1),
        (["--rw"], True, 0),
        (["--read"], True, 0),
        (["--quorum"], True, 0),
        (["--rw", "--quorum"], False, 0),
    ],
)
def test_health_for_probes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    has_problem: bool,
    code: int,
) -> None:
    leader = info(1, ro=False) | {"logs_dropped": 3 * has_problem}
    leader["replication"][3]["downstream"] = leader["replication"][2]["downstream"]
    seen = picture(leader, info(2), info(3))
    monkeypatch.setattr(status_verbs, "take_picture", lambda _: seen)
    assert app.run(["health", *arguments]) == code
    assert capsys.readouterr().out.startswith("healthy\n" if code == 0 else "not healthy\n")


@pytest.mark.parametrize("argument", ["--rw", "--read", "--quorum"])
def test_a_set_that_is_down_is_not_healthy(monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    monkeypatch.setattr(status_verbs, "take_picture", lambda _: picture(None, None))
    assert app.run(["health", argument]) == 1
    monkeypatch.setattr(status_verbs, "take_picture", lambda _: picture(info(1), None, None))
    assert app.run(["health", argument]) == (0 if argument == "--read" else 1)


def test_what_other_parts_tell_is_shown_and_may_be_absent() -> None:
    leader = info(1, ro=False) | {
        "memtx": {"used": 90, "limit": 100},
        "logs_dropped": 2,
        "amnesia": {"message": "it must hear instance003", "next": "start instance003"},
    }
    lives = [{"start_id": 7, "address": "127.0.0.1:3302"}, {"start_id": 8, "address": "127.0.0.1:3309"}]
    leader["replication"][2]["doubled"] = lives
    leader["replication"][2]["conflicts_skipped"] = 4
    leader["replication"][3]["downstream"] = leader["replication"][2]["downstream"]
    found = judge(picture(leader, info(2), info(3)))
    assert [problem.kind for problem in found.problems] == [
        "doubled",
        "amnesia",
        "memory",
        "logs_dropped",
        "conflicts_skipped",
    ]
    assert not found.writable
    assert found.lines()[0].startswith(
        "The identity of instance002 is in two live processes: 127.0.0.1:3302 (start id 7), 127.0.0.1:3309"
    )
    assert "instance001 is in amnesia: it must hear instance003; start instance003." in " ".join(
        found.lines()
    )


def test_where_only_a_person_can_decide_the_command_is_named() -> None:
    """Amnesia that does not end by itself, and data that is gone everywhere: to wait would be for ever."""

    def forgetful(number: int) -> Any:
        command = f"synchro restart c:instance00{number} --force-trust"
        facts = {
            "message": "it must hear others",
            "next": f"a person must decide: {command}",
            "command": command,
        }
        return info(number, reason=RoReason.SYNCHRO) | {"amnesia": facts, "vclock": {1: 14 + number}}

    found = judge(picture(forgetful(1), forgetful(2), info(3, reason=RoReason.SYNCHRO)))
    assert found.command == "synchro restart c:instance001 --force-trust"
    assert found.next == "synchro restart c:instance002 --force-trust"
    assert found.text.startswith("Read-only: 1 of 2 needed instances is up and trusted")

    def waiting(number: int) -> Any:
        return info(number) | {
            "status": "loading",
            "waits_for": "nobody has its data: synchro restart --new-set.",
        }

    found = judge(picture(waiting(1), waiting(2)))
    assert found.lines()[-1] == "Not ready: nobody has the data of this set, a person must decide."
    assert found.lines()[0] == "instance001 waits: nobody has its data: synchro restart --new-set."


def test_an_exhausted_term_is_a_problem_and_no_promote_is_advised() -> None:
    """It would be refused."""
    state = {"state": "follower", "term": 2**62 - 1, "leader": 0}
    members = {1: {"id": 1, "name": "instance001"}}
    queue = {"queue": {"owner": 1, "term": 3, "len": 0}, "quorum": 1}
    more: dict[str, Any] = {"replication": members, "synchro": queue, "election_mode": "manual"}
    sound = judge(picture(info(1, reason=RoReason.SYNCHRO, election=state, **more)))
    assert "promote" in sound.command
    state["exhausted"] = "its term is the last"
    spent = judge(picture(info(1, reason=RoReason.SYNCHRO, election=state, **more)))
    assert (spent.problems[0].kind, spent.problems[0].instance) == ("exhausted", "instance001")
    assert "its term is the last" in spent.lines()[0]
    assert "promote" not in spent.command
