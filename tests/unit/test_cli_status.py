"""The verdict of `synchro status` and `synchro health` on what instances tell, and what it advises."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from synchro.cli import app, connection, process_table, processes, status_verbs
from synchro.cli.advice import relative, reload_command
from synchro.cli.picture import Picture, SeenMember, assemble
from synchro.cli.verdict import judge
from synchro.client.errors import CannotConnect, cannot_connect
from synchro.errors import AccessDenied, BadCredentials, ConfigError, SynchroError
from synchro.ro_reason import RoReason
from synchro.storage.disk import RealDisk
from synchro.storage.identity import Identity, IdentityFile
from tests.unit.cli_world import info, picture


def test_names_that_nobody_knows_are_not_advised() -> None:
    address = "127.0.0.1:3301"
    down = assemble({address: CannotConnect("connection refused")}, {}, None)
    assert judge(down).next == "synchro start CONFIG"


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        (process_table.ProcessState.RUNNING, "synchro restart CONFIG:instance003 --kill"),
        (process_table.ProcessState.LOADING, "synchro status --watch"),
        (process_table.ProcessState.STOPPED, "synchro start CONFIG:instance003"),
    ],
)
def test_who_is_silent_although_its_process_runs_is_restarted(
    state: process_table.ProcessState, advice: str
) -> None:
    seen = picture(info(1, ro=False), info(2), None)
    seen.members[2].process = process_table.Process("instance003", "127.0.0.1:3303", state, 7, Path("x.log"))
    assert judge(seen).next == advice


def test_a_deposed_leader_with_rows_of_its_own_gives_them_up() -> None:
    """The others refuse its row, and its own stream stands at one of theirs with the same key: to leave that
    out would keep what the set does not have, and a restart of the streams alone stops again."""
    leader, deposed = info(1, ro=False), info(3)
    stopped = {
        "status": "stopped",
        "message": "Split-Brain discovered: got an async transaction from an old term",
    }
    facts = {"reason": "SPLIT_BRAIN", "txn": "3:4"}
    leader["replication"][3]["upstream"] = {**stopped, "stopped_by": facts}
    facts = {
        "reason": "TUPLE_FOUND",
        "at": "1:9",
        "txn": "1:9",
        "space": "a",
        "key": "[7]",
        "skippable": "yes",
    }
    upstream = {"status": "stopped", "message": "Duplicate key exists", "stopped_by": facts}
    deposed["replication"][1]["upstream"] = upstream
    found = judge(picture(leader, info(2), deposed)).problems
    told = {one.instance: one for one in found}
    give_up = (
        "instance003 wrote 3:4, and perhaps more, when the others had another owner already: `wal cat` of "
        "its log shows it. To give that up stop it, move its snapshots and logs away, keep instance.identity "
        "and start it again: it joins anew."
    )
    assert give_up in told["instance001"].text and give_up in told["instance003"].text
    assert told["instance001"].next == "synchro replication restart instance003 -i instance001"
    assert told["instance003"].next == ""


def test_a_directory_with_a_blank_in_its_name_is_one_word_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = processes.init(tmp_path / "my set", nodes=1)
    with pytest.raises(ConfigError, match=r"next:  synchro start '.*my set/config.yaml'   or"):
        processes.init(tmp_path / "my set", nodes=1)
    target = process_table.parse_target(path)
    address = target.config.instance("instance001").settings.listen
    seen = assemble({address: CannotConnect("connection refused")}, {address: "instance001"}, target)
    command = judge(seen).next
    assert command == "synchro start 'my set/config.yaml'"
    assert process_table.parse_target(shlex.split(command)[-1]).config.path == path
    assert reload_command(seen, "instance001") == "synchro config reload 'my set/config.yaml:instance001'"


def test_who_stands_in_a_directory_that_is_gone_gets_an_advice_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = process_table.parse_target(processes.init(tmp_path / "set", nodes=1))
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    address = target.config.instance("instance001").settings.listen
    seen = assemble({address: CannotConnect("connection refused")}, {address: "instance001"}, target)
    assert judge(seen).next == f"synchro start {target.config.path}"


def test_a_source_that_no_file_has_as_an_instance_is_not_started() -> None:
    """It is known by its address, as `replication.peers` names it."""
    address = "10.0.0.9:3301"
    answers = {"127.0.0.1:3301": info(1, ro=False), "127.0.0.1:3302": info(2), address: CannotConnect("x")}
    names = {"127.0.0.1:3301": "instance001", "127.0.0.1:3302": "instance002", address: address}
    seen = assemble(answers, names, None)
    assert [member.name for member in seen.down] == ["instance003", address]
    assert judge(seen).next == "synchro start CONFIG:instance003"
    seen.members = [member for member in seen.members if member.name != "instance003"]
    assert judge(seen).next == ""


def test_who_is_called_where_it_does_not_listen_any_more_is_named() -> None:
    """It follows, and says where it listens now; the others find it when they have read their files."""
    leader = info(1, ro=False)
    leader["replication"][3] = {
        "id": 3,
        "name": "instance003",
        "upstream": {
            "status": "disconnected",
            "idle": 31.0,
            "peer": "127.0.0.1:3303",
            "message": "can't connect to master",
            "system_message": "connection refused",
        },
        "downstream": {
            "status": "follow",
            "address": "127.0.0.1:3399",
            "behind": {"rows": 0, "seconds": 0.0},
        },
    }
    [problem] = [one for one in judge(picture(leader, info(2), None)).problems if one.kind == "no_link"]
    assert problem.text == (
        "instance001 cannot connect to instance003: can't connect to master: connection refused. It calls it "
        "at 127.0.0.1:3303, and instance003 says that it listens at 127.0.0.1:3399. If the file of "
        "instance001 says so too by now, it must read it again."
    )
    assert problem.next == "synchro config reload CONFIG:instance001"


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
    assert problem.next == "synchro rebootstrap instance002"
    gone["joins_again_in"] = 38.0
    found = judge(picture(info(1, ro=False), gone, info(3)))
    [problem] = [problem for problem in found.problems if problem.kind == "log_gap"]
    assert "joins again by itself (replication.autorejoin), in at most 38" in problem.text
    assert problem.next == "synchro status --watch"


def test_one_owner_is_shown() -> None:
    """One whose disk is stuck does not know yet that another one owns the queue."""
    stuck = info(1)
    stuck["synchro"]["queue"] = {"owner": 1, "term": 3, "len": 1}
    owner = info(2, ro=False, owner=2)
    owner["synchro"]["queue"] = {"owner": 2, "term": 4, "len": 0}
    rows = status_verbs.status_rows(picture(stuck, owner, info(3)))[1]
    assert [row[5] for row in rows] == ["former len 1", "owner len 0", ""]
    rows = status_verbs.status_rows(picture(stuck, None, info(3)))[1]
    assert rows[0][5] == "owner len 1"


@pytest.mark.parametrize("reason", ["CORRUPTION", "XLOG_GAP"])
def test_damaged_files_are_replaced_by_those_of_another_member(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[M-36], [W-28]: one command, as long as somebody has the data."""
    monkeypatch.chdir(tmp_path)
    seen = picture(info(1, ro=False), info(2), None)
    seen.target = target = process_table.parse_target(processes.init(tmp_path, nodes=3))
    assert processes.ended_by(target, "instance003") == ""
    log = process_table.log_of(target, "instance003")
    log.parent.mkdir(parents=True)
    log.write_text(
        f'{{"event": "x"}}\n{{"event": "instance_failed", "reason": "{reason}", "message": "m"}}\n'
    )
    seen.members[2].ended_by = processes.ended_by(target, "instance003")
    found = judge(seen)
    assert found.next == "synchro start config.yaml:instance003 --rejoin"
    [problem] = [problem for problem in found.problems if problem.kind == "down"]
    assert f"its files are damaged ({reason})" in problem.text
    alone = picture(None, None, None)
    alone.target = target
    alone.members[2].ended_by = reason
    assert "--rejoin" not in judge(alone).next


def test_who_was_removed_and_is_stopped_is_not_advised_to_be_started() -> None:
    """ADR 41: its old files are of no use. Who asks by address sees nothing of it; a file may name it."""
    leader = info(1, ro=False)
    leader["replication"].pop(3)
    leader["expelled"] = {3: {"uuid": "u3", "name": "instance003"}}
    seen = picture(leader, info(2), None)
    assert [member.name for member in seen.members] == ["instance001", "instance002"]
    assert judge(seen).next == ""

    seen.members.append(SeenMember("instance003", "127.0.0.1:3303", has_left=True))
    found = judge(seen)
    assert (found.next, [p.instance for p in found.problems if p.kind == "expelled"]) == ("", ["instance003"])
    assert [row[3] for row in status_verbs.status_rows(seen)[1]][-1] == "removed"


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


def test_fault_injection_is_told_of_the_instance_that_has_it() -> None:
    broken = info(2) | {"fault_injection": True}
    lines = status_verbs.status_text(picture(info(1, ro=False), broken, info(3)))
    [line] = [line for line in lines if "WARNING: fault injection is on" in line]
    assert line.startswith("2 ")
    assert line.endswith("synchro fault list -i instance002")


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
        "instance003", "", process_table.ProcessState(state), pid, Path("log")
    )
    assert judge(seen).next == command


def test_json_of_status_has_every_instance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection.options, "output", "json")
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


def test_the_leader_of_the_file_is_started_where_nobody_else_may_be_promoted() -> None:
    """`failover: manual`: the others are told to read, and it would be watched for ever."""
    told_to_read: dict[str, Any] = {"ro_cfg": True, "election_mode": "off", "reason": RoReason.CONFIG}
    followers = [info(number, **told_to_read) for number in (2, 3)]
    for follower in followers:
        follower["ro_reason"] = RoReason.SYNCHRO.value
    found = judge(picture(None, *followers))
    assert found.text.endswith("nobody who is connected to a quorum can be promoted.")
    assert found.next == "synchro start CONFIG:instance001"


def test_who_was_removed_is_not_asked_to_acknowledge() -> None:
    """It runs on, and says so itself: that it does not count is no second problem."""
    removed = info(3, reason=RoReason.EXPELLED)
    problems = judge(picture(info(1, ro=False), info(2), removed)).problems
    assert [(p.kind, p.instance) for p in problems if p.instance == "instance003"] == [
        ("expelled", "instance003")
    ]


def test_addresses_that_were_swapped_in_the_file_while_the_set_runs(tmp_path: Path) -> None:
    """Both are of this set, and it takes writes: none of that is said of another set."""
    target = process_table.parse_target(processes.init(tmp_path / "mine", nodes=2))
    names = {config.settings.listen: name for name, config in target.config.instances.items()}
    directory = Path(target.config.instance("instance001").settings.wal_dir)
    directory.mkdir(parents=True)
    IdentityFile.create(RealDisk(), str(directory), Identity("u", "instance001", "mine")).close()
    own = {"replicaset": {"name": "replicaset001", "uuid": "mine"}}
    swapped = zip(reversed(names), (1, 2), strict=True)
    answers: dict[str, Any] = {at: info(number, ro=number > 1) | own for at, number in swapped}
    seen = assemble(answers, names, target)
    assert [(m.name, m.address, m.state) for m in seen.members[:2]] == [
        ("instance001", "127.0.0.1:3302", "leader"),
        ("instance002", "127.0.0.1:3301", "follower"),
    ]
    found = judge(seen)
    assert found.writable
    told = [problem for problem in found.problems if problem.kind == "misplaced"]
    assert [problem.instance for problem in told] == ["instance001", "instance002"]
    assert told[0].text == (
        "instance001 listens at 127.0.0.1:3302, which the file names as the address of instance002."
    )
    assert told[0].next == f"synchro restart {relative(str(target.config.path))}"


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


@pytest.mark.parametrize(
    ("third_is_up", "whys", "is_for_a_person"),
    [
        (True, ("was not heard yet", "was not heard yet"), False),
        (True, ("has amnesia too", "was not heard yet"), False),
        (True, ("was not heard yet",), False),
        (True, ("has amnesia too", "has rows, or a term, that are missing here"), False),
        (True, ("has amnesia too",), True),
        (False, ("was not heard yet",), False),
        (False, ("has amnesia too",), True),
    ],
)
def test_trust_is_not_to_be_forced_while_streams_only_stand(
    third_is_up: bool, whys: tuple[str, ...], is_for_a_person: bool
) -> None:
    """All are up and not yet connected: what the others have is not known, and amnesia may end by itself."""

    def forgetful(number: int) -> Any:
        others = [3 - number, 3]
        facts = {
            "message": "it must hear others",
            "must_hear": [
                {"id": other, "name": f"instance00{other}", "why": why}
                for other, why in zip(others, whys, strict=False)
            ],
            "next": "start them; if their data is gone for good: synchro restart c --force-trust",
            "command": "synchro restart c --force-trust",
        }
        streams = {other: {"name": f"instance00{other}", "upstream": {"status": "auth"}} for other in others}
        return info(number, reason=RoReason.SYNCHRO) | {"amnesia": facts, "replication": streams}

    third = info(3, reason=RoReason.SYNCHRO) if third_is_up else None
    found = judge(picture(forgetful(1), forgetful(2), third))
    said = [problem for problem in found.problems if problem.kind == "amnesia"]
    assert len(said) == 2
    for problem in said:
        assert ("--force-trust" in problem.text) is is_for_a_person
        assert third_is_up is False or ("--force-trust" in problem.next) is is_for_a_person
    assert third_is_up is False or ("--force-trust" in found.command) is is_for_a_person

    def waiting(number: int) -> Any:
        return info(number) | {
            "status": "loading",
            "waits_for": "nobody has its data: synchro restart --new-set.",
        }

    found = judge(picture(waiting(1), waiting(2)))
    assert found.lines()[-1] == "Not ready: nobody has the data of this set, a person must decide."
    assert found.lines()[0] == "instance001 waits: nobody has its data: synchro restart --new-set."
    never_had_any = info(3) | {"status": "loading", "waits_for": "instance001 lost the data of a set"}
    found = judge(picture(waiting(1), waiting(2), never_had_any))
    assert found.lines()[-1] == "Not ready: nobody has the data of this set, a person must decide."


@pytest.mark.parametrize("streams", [{}, {"upstream": {"status": "stopped", "message": "Split-Brain"}}])
def test_a_stream_that_brings_nothing_is_not_waited_for(streams: dict[str, Any]) -> None:
    """It was stopped for good, or two members of a ring are no neighbours."""
    facts = {
        "message": "it must hear others",
        "must_hear": [{"id": 2, "name": "instance002", "why": "was not heard yet"}],
        "next": "a person must decide: synchro restart c --force-trust",
        "command": "synchro restart c --force-trust",
    }
    peer = {2: {"name": "instance002", **streams}}
    forgetful = info(1, reason=RoReason.SYNCHRO) | {"amnesia": facts, "replication": peer}
    found = judge(picture(forgetful, info(2, reason=RoReason.SYNCHRO), info(3, reason=RoReason.SYNCHRO)))
    (said,) = (problem for problem in found.problems if problem.kind == "amnesia")
    assert "can be asked" not in said.text
    assert said.next == "synchro restart c --force-trust"


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


TLS_ONLY = "Failed to connect to remote host: Expected SETTINGS frame as the first frame"


def test_a_set_that_tls_guards_is_not_advised_to_be_killed() -> None:
    """Who asks without certificates sees nothing of it; its processes run, and are well."""
    address = "127.0.0.1:3301"
    seen = assemble({address: cannot_connect(TLS_ONLY, address)}, {address: "instance001"}, None)
    state = process_table.ProcessState.RUNNING
    seen.members[0].process = process_table.Process("instance001", address, state, 7, Path("x.log"))
    found = judge(seen)
    assert found.lines() == [
        "Not shown: TLS does not let this client connect. "
        "Next: synchro --cacert FILE --cert FILE --key FILE status"
    ]
    assert "kill" not in found.command and seen.members[0].state == "refuses"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (BadCredentials("User not found or supplied credentials are invalid"), "there is no such user, or"),
        (AccessDenied("Read access to universe '' is denied for user 'guest'"), "this user may not look."),
    ],
)
def test_a_login_that_is_refused_is_not_a_right_that_is_missing(error: SynchroError, why: str) -> None:
    found = judge(assemble({"127.0.0.1:3301": error}, {}, None))
    assert found.lines()[0].startswith(f"Not shown: {why}")
    assert found.command == "synchro -u USER --password-file FILE status"


def test_peers_that_refuse_each_other_are_named() -> None:
    """The guest has lost its rights before the instances had a login."""
    infos = [info(number) for number in (1, 2, 3)]
    text = "Read access to universe '' is denied for user 'guest'"
    infos[0]["replication"][2]["upstream"] = {
        "status": "loading",
        "reason": "ACCESS_DENIED",
        "message": text,
    }
    [problem] = [p for p in judge(picture(*infos)).problems if p.kind == "refused_stream"]
    assert problem.text.startswith(f"instance002 refuses instance001 as a peer: {text}. Peers log in as ")
    assert problem.instance == "instance001"


def test_a_member_that_cannot_reach_another_one_says_why() -> None:
    """Both answer us, so nothing looked wrong but a count."""
    infos = [info(number) for number in (1, 2, 3)]
    why = "the other end refuses this certificate: it has expired"
    link = {
        "status": "disconnected",
        "idle": 9.0,
        "message": "can't connect to master",
        "system_message": why,
    }
    infos[2]["replication"][1]["upstream"] = link
    found = judge(picture(*infos))
    [problem] = [p for p in found.problems if p.kind == "no_link"]
    assert problem.text == f"instance003 cannot connect to instance001: can't connect to master: {why}."
    link["idle"] = 0.1  # it was restarted a moment ago
    assert not [p for p in judge(picture(*infos)).problems if p.kind == "no_link"]


@pytest.mark.parametrize("reason", ["LOGIN_LIMITED", "CONFIG", "BAD_CREDENTIALS"])
def test_every_way_in_which_a_login_fails_is_named(reason: str) -> None:
    """A file of a password that cannot be read is one of them."""
    infos = [info(number) for number in (1, 2, 3)]
    infos[0]["replication"][2]["upstream"] = {"status": "loading", "reason": reason, "message": "so it is"}
    assert [p.text for p in judge(picture(*infos)).problems if p.kind == "refused_stream"]


def test_how_a_process_of_this_host_ended_is_told() -> None:
    infos = [info(number) for number in (1, 2, 3)]
    seen = picture(*infos)
    seen.members[2].info, seen.members[2].ended_by = None, "REPLICASET_NAME_MISMATCH"
    [problem] = [p for p in judge(seen).problems if p.kind == "down"]
    assert problem.text == "instance003 does not answer: it ended (REPLICASET_NAME_MISMATCH), see its log."


@pytest.mark.parametrize("reason", [RoReason.ANONYMOUS, RoReason.EXPELLED])
def test_who_is_no_member_does_not_know_of_members_that_were_not_asked(reason: RoReason) -> None:
    """With `--direct`: nobody is told to start, or to kill, what runs."""
    is_anonymous = reason is RoReason.ANONYMOUS
    upstream = {"status": "follow" if is_anonymous else "stopped", "idle": 0.1}
    parts = {
        number: {
            "id": number,
            "name": f"instance00{number}",
            "upstream": {**upstream, "peer": f"127.0.0.1:330{number}"},
        }
        for number in (1, 2)
    }
    found = info(9, reason=reason, is_anonymous=is_anonymous, election_mode="off", replication=parts)
    seen = assemble({"127.0.0.1:3309": found}, {}, None)
    verdict = judge(seen)
    assert verdict.text == (
        "Not known whether the set takes writes: instance009 is no member of it, and no member was asked."
    )
    assert verdict.next == "synchro -e 127.0.0.1:3301,127.0.0.1:3302 status"
    states = {member.name: member.state for member in seen.members if member.id != 9}
    assert set(states.values()) == {"heard" if is_anonymous else "down"}
    assert not [problem for problem in verdict.problems if "start" in problem.next]
