"""What `status` says of sets that run, and that its advice can be followed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from synchro.cli import status_verbs
from synchro.cli.picture import LATE_S, Picture, assemble
from synchro.cli.problems import Problem, find_problems
from synchro.cli.verdict import Verdict, judge
from synchro.client.errors import CannotConnect
from synchro.client.model import parse_txn
from synchro.config import ElectionMode, Limits
from synchro.errors import IllegalParams, TimedOut, WalIo
from synchro.ids import InstanceId, Lsn
from synchro.instance import events as ev
from synchro.ro_reason import RoReason
from synchro.row import RowType, TxnId
from synchro.server import snapshotter
from synchro.server.face import Face
from synchro.storage import row_body, schema_ops
from tests.shell.memory_set import MemorySet, create_space, open_set, put, until, write
from tests.shell.test_lost_logs import remove_data
from tests.unit.cli_world import info

SET_UUID = "11111111-2222-3333-4444-555555555555"


def picture(replicas: MemorySet, *, known: bool = True) -> Picture:
    """What `synchro status` would see. known: the addresses of those that are down are."""
    answers: dict[str, Any] = {}
    for name, member in replicas.members.items():
        down = member.ended.is_set()
        answers[name] = CannotConnect("cannot connect: connection refused") if down else member.face.info()
    return assemble(answers, {name: name for name in answers} if known else {}, None)


def verdict(replicas: MemorySet) -> Verdict:
    return judge(picture(replicas))


def problems(found: Verdict) -> list[tuple[str, str]]:
    return [(problem.kind, problem.instance) for problem in found.problems]


def parse_row(text: str) -> TxnId:
    origin, lsn = parse_txn(text)
    return TxnId(InstanceId(origin), Lsn(lsn))


async def follow(replicas: MemorySet, command: str, **changes: Any) -> None:
    """Do what the advice says, as the command line would; a refusal fails the test."""
    words = command.split()
    assert words[0] == "synchro", command
    match words[1:]:
        case ["promote", name]:
            face = replicas.members[name].face
            outcome = await face.call(ev.PromoteRequested, timeout_s=5.0)
            assert isinstance(outcome, ev.Promoted), outcome
        case ["demote", name]:
            outcome = await replicas.members[name].face.call(ev.DemoteRequested, timeout_s=5.0)
            assert isinstance(outcome, ev.Demoted), outcome
        case ["replication", "restart", peer, "-i", name]:
            replicas.members[name].face.restart_upstream(peer)
        case ["replication", "restart", peer, "-i", name, "--skip", row]:
            replicas.members[name].face.restart_upstream(peer, parse_row(row))
        case ["space", "checksum", name, "--all"]:
            sums = {
                face.node.core.memtx.checksum(face.node.core.memtx.catalog.space(name).id)
                for face in replicas.nodes
            }
            assert len(sums) > 1
        case ["start", target]:
            await replicas.start(int(target.rpartition(":instance")[2]), **changes)
        case ["status", "--watch"] | ["info", "replication", "-i", _] | ["member", "list", "-i", _]:
            pass
        case _:
            raise AssertionError(f"no test can follow {command!r}")


async def started(replicas: MemorySet, numbers: Iterable[int] = (1, 2, 3), **changes: Any) -> None:
    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(partial(replicas.start, number, **changes))
    await replicas.wait_ready()


async def led(replicas: MemorySet) -> Face:
    await started(replicas)
    await linked(replicas)
    leader = await replicas.wait_leader()
    await create_space(leader)
    await replicas.wait_equal()
    await until(lambda: verdict(replicas).may_fail == 1)
    return await replicas.wait_leader()  # the first one may have resigned while links came up


async def linked(replicas: MemorySet) -> None:
    """Everybody exchanges messages with everybody: an election is possible."""
    await until(lambda: all(m.links == len(replicas.nodes) for m in picture(replicas).members if m.is_up))


def as_candidates(seen: Picture) -> Picture:
    """The moment at which nobody leads, held: as if they would stand by themselves."""
    for member in seen.members:
        if member.info is not None:
            member.info = {**member.info, "election_mode": "candidate"}
    return seen


def with_reason(seen: Picture, name: str, reason: RoReason) -> Picture:
    """The tree of this instance, as the server makes it for this reason."""
    for member in seen.members:
        if member.name == name and member.info is not None:
            ro = reason is not RoReason.NONE
            member.info = {**member.info, "ro": ro, "ro_reason": reason.value or None}
    return seen


FROZEN = {
    RoReason.LOADING: ("does not accept writes", False),
    RoReason.DOUBLED: ("shares its identity with another process", False),
    RoReason.SYNCHRO: ("waits to be promoted", True),
    RoReason.CONFIG: ("is read-only itself", False),
    RoReason.OUT_OF_LSNS: ("has used up its LSNs", False),
    RoReason.OWN_ROWS_LOST: ("waits for its own transactions, which its log has lost", False),
    RoReason.EXPELLED: ("was removed from the set", False),
    RoReason.ANONYMOUS: ("is no member of the set", False),
    RoReason.ORPHAN: ("has not caught up with its sources yet", True),
}
"""Of an owner without elections: what is said, and whether it is the one to be promoted."""
LEADING = {
    RoReason.CONFIG: ", and its configuration says read-only.",
    RoReason.DOUBLED: ", and shares its identity with another process.",
    RoReason.OUT_OF_LSNS: ", and has used up its LSNs.",
    RoReason.OWN_ROWS_LOST: ", and waits for its own transactions, which its log has lost.",
    RoReason.EXPELLED: ", and was removed from the set.",
    RoReason.ANONYMOUS: ", and is no member of the set.",
}
"""Of a leader; any other reason: it is taking the queue over."""


def number_of(face: Face) -> int:
    return int(face.node.settings.instance_name[-1])


# --- elections ------------------------------------------------------------------------------------------


async def test_from_a_healthy_set_to_one_that_cannot_elect(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        leader = await led(replicas)
        found = verdict(replicas)
        assert found.lines() == ["Writable: 2 of 2 needed instances are up. 3 are up, 1 more may fail."]
        assert (found.writable, found.may_fail, found.next, found.has_quorum) == (True, 1, "", True)

        for reason in set(RoReason) - {RoReason.NONE, RoReason.ANONYMOUS}:  # no leader is anonymous
            name = leader.node.settings.instance_name
            seen = judge(with_reason(picture(replicas), name, reason))
            told = LEADING.get(reason, " and is taking the queue over.")
            assert seen.text == f"Read-only: {name} leads term {leader.node.core.raft.volatile_term}{told}"
            if reason is RoReason.CONFIG:
                assert seen.next in {f"synchro promote instance00{n}" for n in (1, 2, 3)} - {name}
            else:
                assert seen.next == ("" if reason in LEADING else "synchro status --watch")

        first, second = (number_of(face) for face in replicas.nodes if face is not leader)
        await replicas.stop(first)
        await until(lambda: "One more failure stops synchronous writes." in verdict(replicas).text)
        found = verdict(replicas)
        assert (found.writable, found.may_fail) == (True, 0)
        assert found.next == f"synchro start CONFIG:instance00{first}"
        assert problems(found) == [("down", f"instance00{first}")]

        await replicas.stop(number_of(leader))
        await until(lambda: not picture(replicas).members[second - 1].is_leader)
        found = verdict(replicas)
        assert found.text == "Read-only: 1 of 2 needed instances is up, nobody can be elected or promoted."
        assert not found.writable
        assert not found.has_quorum
        await follow(replicas, found.next)
        await replicas.wait_leader()
        assert verdict(replicas).writable


async def test_an_election_is_named_with_its_term_whatever_ro_reason_is(tmp_path: Path) -> None:
    """The old leader is down: it owns the queue still, leads nobody, and nobody must be promoted."""
    async with open_set(tmp_path, election_mode=ElectionMode.MANUAL) as replicas:
        await started(replicas)
        leader = replicas.nodes[0]
        await linked(replicas)
        await follow(replicas, f"synchro promote {leader.node.settings.instance_name}")
        await replicas.stop(number_of(leader))
        await until(lambda: not any(face.node.core.raft.is_leader_seen for face in replicas.nodes))
        found = judge(as_candidates(picture(replicas)))
        term = max(face.node.core.raft.volatile_term for face in replicas.nodes)
        assert found.text.startswith(f"Read-only: an election in term {term}, nobody leads yet (")
        assert found.next == "synchro status --watch"
        for reason in (RoReason.SYNCHRO.value, RoReason.ELECTION.value, "a word of a newer release"):
            seen = as_candidates(picture(replicas))
            for member in seen.members:
                if member.info is not None:
                    member.info = {**member.info, "ro_reason": reason}
            assert judge(seen).text == found.text
            assert "election" in status_verbs.head_line(seen)
        # What `member list` shows: the owner that is down is no leader.
        for face in replicas.nodes:
            assert not face.info()["leader_seen"]


async def test_in_mode_manual_somebody_must_be_promoted_and_can_be(tmp_path: Path) -> None:
    async with open_set(tmp_path, election_mode=ElectionMode.MANUAL) as replicas:
        await started(replicas)
        await linked(replicas)
        found = verdict(replicas)
        if not found.writable:
            assert "nobody stands by itself" in found.text
            await follow(replicas, found.next)
        leader = await replicas.wait_leader()
        await replicas.stop(number_of(leader))
        await until(lambda: not any(face.node.core.raft.is_leader_seen for face in replicas.nodes))
        found = verdict(replicas)
        assert "in mode manual nobody stands by itself" in found.text
        assert found.next.startswith("synchro promote instance00")
        await follow(replicas, found.next)
        assert verdict(replicas).writable


async def test_a_leader_that_its_configuration_keeps_from_writing_is_taken_over(tmp_path: Path) -> None:
    """Somebody promoted an instance that is read-only: until another one is, nobody writes."""
    async with open_set(tmp_path, election_mode=ElectionMode.MANUAL) as replicas:
        await started(replicas)
        await linked(replicas)
        leader = await replicas.wait_leader()
        face = next(face for face in replicas.nodes if face is not leader)
        face.node.change_settings(replace(face.node.settings, read_only=True))
        outcome = await face.call(ev.PromoteRequested, timeout_s=1.0)
        assert isinstance(outcome, ev.Rejected), outcome
        assert "stays read-only" in outcome.error.message
        await until(lambda: "its configuration says read-only" in verdict(replicas).text)
        found = verdict(replicas)
        assert not found.writable
        assert found.next.startswith("synchro promote instance00")
        assert not found.next.endswith(face.node.settings.instance_name)
        await follow(replicas, found.next)
        assert verdict(replicas).writable


async def test_two_leaders_of_one_term_lead_the_verdict(tmp_path: Path) -> None:
    """From the trees of two sets of one that were made apart, as after a promote on both sides."""
    async with open_set(tmp_path / "a", size=1) as one, open_set(tmp_path / "b", size=1) as two:
        for replicas in (one, two):
            await started(replicas, (1,))
            await replicas.wait_leader()
        answers = {"h:1": one.nodes[0].info(), "h:2": two.nodes[0].info()}
        other = answers["h:2"]
        other |= {"id": 2, "name": "instance002", "replicaset": answers["h:1"]["replicaset"]}
        other["synchro"]["queue"]["owner"] = 2
        assert answers["h:1"]["election"]["term"] == other["election"]["term"]
        found = judge(assemble(answers, {}, None))
        assert found.lines()[0].startswith("Two leaders of term 2: instance001 and instance002.")
        assert not found.writable
        assert found.may_fail == 0
        assert "enough" not in " ".join(found.lines())
        # Of two terms: two owners.
        other["election"]["term"] = other["synchro"]["queue"]["term"] = 7
        found = judge(assemble(answers, {}, None))
        assert found.lines()[0].startswith(
            "Two owners of the queue: instance001 in term 2, instance002 in term 7"
        )


def missing(tree: Any, real: Any, path: str = "") -> list[str]:
    """Paths of a tree that the real one has not, or has as another type."""
    if not isinstance(tree, dict) or not isinstance(real, dict) or path.endswith(".vclock"):
        is_same = (
            tree is None
            or real is None
            or isinstance(real, type(tree))
            or {type(tree), type(real)} == {int, float}
        )
        return [] if is_same else [f"{path}: {type(real).__name__}"]
    found = []
    for key, value in tree.items():
        found += missing(value, real[key], f"{path}.{key}") if key in real else [f"{path}.{key}"]
    return found


async def test_trees_that_are_written_by_hand_look_as_the_server_makes_them(tmp_path: Path) -> None:
    """Those of tests/unit/test_cli_status.py, which judge moments that no set here can be held in."""
    async with open_set(tmp_path) as replicas:
        leader = await led(replicas)
        real = leader.info()
        followed = next(i for i in real["replication"] if i != real["id"])
        parts = {
            1: real["replication"][real["id"]],
            2: real["replication"][followed],
            3: real["replication"][followed],
        }
        real = {**real, "replication": parts}
        assert missing(info(1, ro=False), real) == []
        follower = next(face for face in replicas.nodes if face is not leader).info()
        assert missing({**info(2), "replication": {}}, follower) == []


# --- members that do not count ----------------------------------------------------------------------------


async def test_a_follower_with_a_full_disk_does_not_count(tmp_path: Path) -> None:
    async with open_set(tmp_path, replication_timeout_s=0.5) as replicas:
        leader = await led(replicas)
        full = next(face for face in replicas.nodes if face is not leader)
        for face in replicas.nodes:
            if face is not full:
                replicas.network.cut(full.node.settings.instance_name, face.node.settings.instance_name)
        full.node.core.state.log.no_room = WalIo("No space left on device")  # as a cut notes it
        for key in range(20):
            assert isinstance(await write(leader, put(key)), ev.Committed)
        assert picture(replicas).rows_behind(member_of(replicas, full)) >= 20  # type: ignore[operator]
        found = verdict(replicas)
        assert found.may_fail == 0
        assert found.text == (
            "Writable: 2 of 2 needed instances acknowledge. One more failure stops synchronous writes."
        )
        assert problems(found) == [("no_room", full.node.settings.instance_name)]
        assert found.lines()[0].startswith(
            f"The disk of {full.node.settings.instance_name} is full: No space left"
        )
        rows = dict(zip(*status_table(replicas, full), strict=False))
        assert re.fullmatch(r"\d+ rows, [0-9.]+ m?s", rows["LAG"]), rows["LAG"]


@pytest.mark.parametrize("what", ["deleted", "moved"])
async def test_a_directory_that_is_gone_under_a_running_instance_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """It writes on into files that have no name, and nothing but its log said so."""
    monkeypatch.setattr(snapshotter, "GARBAGE_S", 0.02)
    async with open_set(tmp_path, replication_timeout_s=0.5) as replicas:
        await led(replicas)
        lost = replicas.members["instance002"].face
        name, path = lost.node.settings.instance_name, Path(lost.node.settings.wal_dir)
        assert lost.info()["lost_files"] is None and problems(verdict(replicas)) == []
        if what == "deleted":
            shutil.rmtree(path)
        else:
            os.rename(path, tmp_path / "elsewhere")
        await until(lambda: lost.info()["lost_files"] is not None)
        assert str(path / "instance.identity") in lost.info()["lost_files"]
        found = verdict(replicas)
        assert problems(found) == [("lost_files", name)]
        assert found.problems[0].next == f"synchro restart CONFIG:{name}"
        if what == "moved":
            os.rename(tmp_path / "elsewhere", path)
            await until(lambda: lost.info()["lost_files"] is None)
            assert problems(verdict(replicas)) == []
        else:  # as it is advised
            await replicas.stop(2)
            await replicas.start(2)
            await replicas.wait_ready()
            await replicas.wait_equal()
            await until(lambda: problems(verdict(replicas)) == [])


def test_where_all_have_lost_their_files_nobody_is_told_to_restart() -> None:
    lost: Any = {"lost_files": "/d/instance.identity is not there any more"}
    found = find_problems(assemble({str(n): info(n, ro=n != 1, **lost) for n in (1, 2)}, {}, None))
    assert [(one.kind, one.next) for one in found if one.kind == "lost_files"] == [("lost_files", "")] * 2
    assert "copy its tuples elsewhere before it is stopped" in found[0].text


async def test_a_disk_that_takes_rows_again_is_not_full(tmp_path: Path) -> None:
    """However soon: by the next write, not by the next that comes long enough after another one."""
    async with open_set(tmp_path, replication_timeout_s=0.5) as replicas:
        leader = await led(replicas)
        assert isinstance(await write(leader, put(1)), ev.Committed)
        leader.node.on_cut(leader.node.core.vclock, WalIo("No space left on device"))
        assert leader.info()["no_room"] == "No space left on device"
        assert isinstance(await write(leader, put(2)), ev.Committed)
        assert leader.info()["no_room"] is None


def member_of(replicas: MemorySet, face: Face) -> Any:
    return next(m for m in picture(replicas).members if m.name == face.node.settings.instance_name)


def status_table(replicas: MemorySet, face: Face) -> tuple[list[str], list[str]]:
    columns, rows = status_verbs.status_rows(picture(replicas))
    return columns, next(row for row in rows if row[1] == face.node.settings.instance_name)


async def test_a_follower_that_is_late_does_not_count(tmp_path: Path) -> None:
    """Its stream runs, and its last good lag is small: what it lacks now is told."""
    async with open_set(tmp_path) as replicas:
        leader = await led(replicas)
        late = next(face for face in replicas.nodes if face is not leader)
        down = leader.links.downstreams[late.node.core.self_id]
        await until(lambda: not picture(replicas).rows_behind(member_of(replicas, late)))
        seen = picture(replicas)
        member = next(m for m in seen.members if m.id == late.node.core.self_id)
        part = dict(member.seen_by_leader["downstream"])
        assert part["behind"].keys() == {"rows", "seconds"}
        assert down.is_following
        assert member.info is not None
        own = dict(member.info["vclock"])
        own[int(leader.node.core.self_id)] -= 3
        member.info = {**member.info, "vclock": own}
        member.seen_by_leader = {"downstream": {**part, "behind": {"rows": 3, "seconds": LATE_S + 1}}}
        found = judge(seen)
        assert found.may_fail == 0
        assert found.lines()[0] == (
            f"{member.name} acknowledges nothing, it is 3 rows, 3.0 s behind, and does not count. "
            f"Next: synchro info replication -i {member.name}"
        )
        told = "\n".join(judge(with_reason(seen, member.name, RoReason.EXPELLED)).lines())
        assert "was removed from the set" in told and "acknowledges nothing" not in told


def silent(seen: Picture, name: str) -> Picture:
    """As if the probe of this one had got no answer: a process that is stopped, or a way that is cut."""
    error = TimedOut(f"no answer from {name} in time")
    answers: dict[str, Any] = {m.address: m.info or error for m in seen.members}
    answers[name] = error
    return assemble(answers, {address: address for address in answers}, None)


async def test_who_is_paused_is_not_counted_on_before_the_others_miss_it(tmp_path: Path) -> None:
    """For four heartbeats its streams look sound: what is known then is that it does not answer."""
    async with open_set(tmp_path) as replicas:
        leader = await led(replicas)
        name, term = leader.node.settings.instance_name, leader.node.core.raft.volatile_term
        one, two = (f.node.settings.instance_name for f in replicas.nodes if f is not leader)
        seen = silent(picture(replicas), one)
        assert {m.name: m.state for m in seen.members if m.name in (one, name)} == {
            one: "silent",
            name: "leader",
        }
        found = judge(seen)
        assert (found.writable, found.may_fail, found.has_quorum) == (True, 0, True)
        assert re.fullmatch(
            rf"{one} does not answer, though {name} heard it [0-9.]+ m?s ago\. Next: synchro status --watch",
            found.lines()[0],
        )
        assert (
            found.text
            == "Writable: 2 of 2 needed instances are up. One more failure stops synchronous writes."
        )

        seen = silent(silent(picture(replicas), one), two)
        found = judge(seen)
        names = ", ".join(member.name for member in seen.members if member.name != name)
        assert (found.writable, found.may_fail) == (True, 0)
        assert found.text == (
            f"Writable as far as {name} knows: 1 of 2 needed instances answers, and it does not miss "
            f"{names} yet."
        )

        seen = as_candidates(silent(picture(replicas), name))
        found = judge(seen)
        assert {m.name: m.state for m in seen.members}[name] == "silent"
        assert (found.writable, found.next) == (False, "synchro status --watch")
        assert found.text.startswith(
            f"Not known to be writable: {name}, which leads term {term} as instance00"
        )


async def test_a_member_in_amnesia_leads_the_verdict(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        leader = await led(replicas)
        forgetful = next(face for face in replicas.nodes if face is not leader)
        seen = picture(replicas)
        for member in seen.members:
            if member.name == forgetful.node.settings.instance_name and member.info is not None:
                assert member.info["amnesia"] is None
                member.info = {**member.info, "amnesia": {"message": "it must hear x", "next": "start x"}}
        found = judge(seen)
        assert found.may_fail == 0
        assert problems(found) == [("amnesia", forgetful.node.settings.instance_name)]
        name = forgetful.node.settings.instance_name
        assert found.lines()[0].startswith(f"{name} is in amnesia: it must hear x; start x. Next: synchro ")


async def test_a_stopped_stream_names_the_row_and_can_be_restarted(tmp_path: Path) -> None:
    """A conflict of two masters: origin:LSN, space and key, and a command that is accepted."""
    off = {"election_mode": ElectionMode.OFF}
    async with open_set(tmp_path, size=2, **off) as replicas:
        await started(replicas, (1, 2))
        one, two = replicas.nodes
        await create_space(one, 600, is_sync=False)
        await replicas.wait_equal()
        replicas.network.cut("instance001", "instance002")
        for face, text in ((one, "l"), (two, "r")):
            row = put(6, text, space_id=600)
            await write(face, row._replace(type=type(row.type).INSERT, raw=b""))
        replicas.network.heal()
        await until(lambda: [kind for kind, _ in problems(verdict(replicas))] == ["stopped_stream"] * 2)
        found = verdict(replicas)

        def kinds_of(kind: str) -> list[Problem]:
            return [problem for problem in verdict(replicas).problems if problem.kind == kind]

        stopped = {problem.instance: problem for problem in found.problems}
        assert set(stopped) <= {"instance001", "instance002"}
        for problem in stopped.values():
            assert (problem.space, problem.key) == ("space600", "[6]")
            origin, _, lsn = problem.txn.partition(":")
            assert int(origin) in (1, 2)
            assert int(lsn) > 0
            assert f"(row {problem.txn}, space space600, key [6])" in problem.text
            assert 'tuple - [6, "l"]' in problem.text and 'tuple - [6, "r"]' in problem.text
            await follow(replicas, problem.next)

        # Each has left out the other's row, which is told; a person writes the one that is right.
        await until(lambda: not kinds_of("stopped_stream"))
        await until(lambda: len(kinds_of("conflicts_skipped")) == 2)
        for problem in kinds_of("conflicts_skipped"):
            assert (problem.space, problem.key) == ("space600", "[6]")
            assert 'tuple - [6, "l"]' in problem.text and 'tuple - [6, "r"]' in problem.text
            await follow(replicas, problem.next)
        await write(one, put(6, "right", space_id=600))
        await replicas.wait_equal()


async def test_a_row_of_a_space_that_was_dropped_is_passed_by_the_command(tmp_path: Path) -> None:
    """[A-35], ADR 44: a restart of the stream alone would stop at that row for ever."""
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
        await started(replicas, (1, 2))
        one, two = (replicas.members[name].face for name in ("instance001", "instance002"))
        await create_space(one, 600, is_sync=False)
        await replicas.wait_equal()
        replicas.network.cut("instance001", "instance002")
        assert isinstance(await write(two, put(6, space_id=600)), ev.Committed)
        assert isinstance(await write(one, *schema_ops.drop_space(one.node.core.memtx, 600)), ev.Committed)
        replicas.network.heal()
        await until(lambda: problems(verdict(replicas)) == [("stopped_stream", "instance001")])
        (problem,) = verdict(replicas).problems
        assert "Space '#600' does not exist" in problem.text and "--skip" in problem.next
        await follow(replicas, problem.next)
        await replicas.wait_equal()
        await until(lambda: [kind for kind, _ in problems(verdict(replicas))] == ["conflicts_skipped"])
        assert verdict(replicas).problems[0].next == ""  # there is nothing to compare


async def test_who_missed_deletions_beyond_the_limit_is_named_and_joins_again(tmp_path: Path) -> None:
    """ADR 44: then its rows can be merged again."""
    options = {"election_mode": ElectionMode.OFF, "limits": Limits(tombstones_max=1000)}
    async with open_set(tmp_path, size=2, **options) as replicas:
        await started(replicas, (1, 2))
        one, two = (replicas.members[name].face for name in ("instance001", "instance002"))
        await create_space(one, 600, is_sync=False)
        await until(lambda: not one.node.core.state.not_reading_policies)
        (op,) = schema_ops.alter_space(one.node.core.memtx, 600, conflict="last_write_wins")
        altered = await write(one, row_body.dml_from_values(op.type, op.space_id, key=op.key, ops=op.ops))
        assert isinstance(altered, ev.Committed)
        await replicas.wait_equal()
        replicas.network.cut("instance001", "instance002")
        await write(two, put(5000, "older", space_id=600))
        lsn = two.node.core.vclock.get(two.node.core.self_id)
        delete = partial(row_body.dml_from_values, RowType.DELETE, 600)
        for first in (0, 900):
            await write(one, *(delete(key=(key,)) for key in range(first, first + 900)))
        replicas.network.heal()
        await until(lambda: ("stopped_stream", "instance001") in problems(verdict(replicas)))
        found = verdict(replicas).problems
        (problem,) = (p for p in found if (p.kind, p.instance) == ("stopped_stream", "instance001"))
        assert "instance002 missed these deletions: stop it" in problem.text
        assert (problem.txn, problem.key) == (f"{two.node.core.self_id}:{lsn}", "[5000]")
        await replicas.stop(2)
        remove_data(tmp_path / "instance002")
        await replicas.start(2)
        await follow(replicas, problem.next)
        await until(lambda: not problems(verdict(replicas)))
        await write(replicas.members["instance002"].face, put(1, "newer", space_id=600))
        await replicas.wait_equal()
        assert one.node.core.memtx.get(600, 0, (1,)) == (1, "newer")


async def test_only_the_row_in_conflict_may_be_left_out(tmp_path: Path) -> None:
    """A mistyped number changes nothing."""
    off = {"election_mode": ElectionMode.OFF}
    async with open_set(tmp_path, size=2, **off) as replicas:
        await started(replicas, (1, 2))
        one = replicas.members["instance001"].face
        await until(lambda: "instance002" in one.links.appliers)
        with pytest.raises(IllegalParams, match="is not stopped by a row, not at 2:7"):
            one.restart_upstream("instance002", TxnId(InstanceId(2), Lsn(7)))


# --- without elections ------------------------------------------------------------------------------------


async def test_a_plain_asynchronous_pair_is_never_advised_to_promote(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
        await started(replicas, (1, 2))
        await create_space(replicas.nodes[0], 600, is_sync=False)
        await replicas.wait_equal()
        await until(lambda: not verdict(replicas).problems)
        found = verdict(replicas)
        (line,) = found.lines()
        assert sorted(re.findall("instance00[12]", line)) == ["instance001", "instance002"]
        assert line.endswith(": asynchronous replication, nobody owns the queue.")
        assert (found.writable, found.may_fail, found.command) == (True, 1, "")
        await replicas.stop(2)
        found = verdict(replicas)
        assert (found.writable, found.may_fail) == (True, 0)
        assert "promote" not in " ".join(found.lines())


async def test_a_frozen_owner_is_to_be_promoted_and_can_be(tmp_path: Path) -> None:
    async with open_set(tmp_path, election_mode=ElectionMode.OFF) as replicas:
        await started(replicas)
        await linked(replicas)
        owner = replicas.members["instance001"].face
        await follow(replicas, "synchro promote instance001")
        await create_space(owner)
        await replicas.wait_equal()
        await replicas.stop(1)
        found = verdict(replicas)
        assert "which does not answer" in found.text
        assert found.next.startswith("synchro promote instance00")
        await replicas.start(1)
        await replicas.wait_ready()
        await linked(replicas)
        found = verdict(replicas)
        assert found.text == "Read-only: the queue belongs to instance001, which waits to be promoted."
        assert found.next == "synchro promote instance001"
        for reason, (why, is_able) in FROZEN.items():
            seen = judge(with_reason(picture(replicas), "instance001", reason))
            assert seen.text == f"Read-only: the queue belongs to instance001, which {why}."
            assert (seen.next == "synchro promote instance001") == is_able
            assert is_able or seen.next in ("synchro promote instance002", "synchro promote instance003")
        # ELECTION: with elections. ANONYMOUS: owns nothing.
        assert {*FROZEN, RoReason.NONE, RoReason.ELECTION, RoReason.ANONYMOUS} == set(RoReason)
        nobody = picture(replicas)
        for member in nobody.members:
            nobody = with_reason(nobody, member.name, RoReason.DOUBLED)
        seen = judge(nobody)
        assert seen.text.endswith(", and nobody who is connected to a quorum can be promoted.")
        assert seen.next == "synchro status --watch"
        await linked(replicas)
        await follow(replicas, found.next)
        assert verdict(replicas).writable


async def test_who_is_to_be_promoted_is_who_may_write_then(tmp_path: Path) -> None:
    """[C-20]: the file names another writer while the queue has an owner, as with `failover: manual`. The
    owner would own the queue and take no writes."""
    async with open_set(tmp_path, election_mode=ElectionMode.OFF) as replicas:
        await started(replicas)
        await linked(replicas)
        await follow(replicas, "synchro promote instance001")
        await create_space(replicas.members["instance001"].face)
        await replicas.wait_equal()
        await replicas.stop(1)
        await replicas.start(1)
        await replicas.wait_ready()
        await linked(replicas)
        for name in ("instance001", "instance003"):
            node = replicas.members[name].face.node
            node.change_settings(replace(node.settings, read_only=True))
        found = verdict(replicas)
        assert found.text.startswith("Read-only: the queue belongs to instance001, which ")
        assert found.next == "synchro promote instance002"
        await follow(replicas, found.next)
        await until(lambda: verdict(replicas).writable)


async def test_nobody_is_promoted_without_a_quorum(tmp_path: Path) -> None:
    async with open_set(tmp_path, election_mode=ElectionMode.OFF) as replicas:
        await started(replicas)
        await linked(replicas)
        await follow(replicas, "synchro promote instance001")
        await replicas.stop(1)
        await replicas.stop(2)
        found = verdict(replicas)
        assert found.text == "Read-only: 1 of 2 needed instances is up, nobody can be elected or promoted."
        assert found.next in ("synchro start CONFIG:instance001", "synchro start CONFIG:instance002")


async def test_a_set_that_may_only_read_is_not_told_to_promote(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1, election_mode=ElectionMode.OFF) as replicas:
        await started(replicas, (1,))
        await replicas.stop(1)
        replicas.settings = replace(replicas.settings, read_only=True)
        await started(replicas, (1,))
        found = verdict(replicas)
        assert found.text.startswith("Read-only: the configuration says so; set database.mode: rw")
        assert found.command == ""


# --- who is who -------------------------------------------------------------------------------------------


async def test_sources_that_are_addresses(tmp_path: Path) -> None:
    """A replica that follows is not down because its address is not known; a dead master is listed once."""
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
        await started(replicas, (1, 2))
        one = replicas.nodes[0]
        await until(
            lambda: (
                all(d.is_following for d in one.links.downstreams.values()) and bool(one.links.downstreams)
            )
        )
        tree = one.info()
        (other,) = (part for part in tree["replication"].values() if part["id"] != tree["id"])
        upstream = other.pop("upstream")
        assert other["downstream"].pop("address")
        seen = assemble({"h:1": tree}, {}, None)
        states = {m.name: (m.address, m.state) for m in seen.members}
        assert states[other["name"]] == ("-", "follows")
        assert not [p for p in judge(seen).problems if p.kind == "down"]

        other["upstream"] = {**upstream, "peer": "h:2", "status": "disconnected"}
        del other["downstream"]
        answers = {"h:1": tree, "h:2": CannotConnect("cannot connect to h:2: connection refused")}
        # The configuration names a source by its address.
        seen = assemble(answers, {"h:1": "h:1", "h:2": "h:2"}, None)
        assert len(seen.members) == 2
        (dead,) = (m for m in seen.members if not m.is_up)
        assert (dead.id, dead.name, dead.address, dead.state) == (other["id"], other["name"], "h:2", "down")


async def test_another_set_on_the_address_is_named(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1) as replicas:
        await started(replicas, (1,))
        await replicas.wait_leader()
        tree = replicas.nodes[0].info()
        other = {**tree, "replicaset": {"uuid": SET_UUID, "name": "replicaset009"}, "pid": 77}
        seen = assemble({"h:1": tree, "h:2": other}, {}, None)
        assert [m.state for m in seen.members if m.address == "h:2"] == ["foreign"]
        found = judge(seen)
        who = f"instance001 of another set (replicaset009, UUID {SET_UUID}, pid 77)"
        assert found.lines()[0].startswith(f"h:2 of instance001 is held by {who}.")
