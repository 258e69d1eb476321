"""Two masters without an owner of the queue each register an instance at the same moment. [M-22], ADR 41."""

from __future__ import annotations

import shutil
from pathlib import Path

import trio

from synchro.cli.picture import assemble
from synchro.cli.problems import find_problems
from synchro.config import ElectionMode, PeerAddress
from synchro.instance import events as ev
from synchro.row import RowType
from synchro.storage import row_body
from synchro.storage.schema import CLUSTER_ID
from tests.shell.memory_set import MemorySet, open_set, until, write
from tests.shell.test_verdicts import follow, picture, problems, verdict
from tests.unit.cli_world import info

NAMES = ("instance001", "instance002")


async def joined_apart(replicas: MemorySet) -> None:
    """Each of two masters that do not see each other let an instance join."""
    async with trio.open_nursery() as nursery:
        for number in (1, 2):
            nursery.start_soon(replicas.start, number)
    await replicas.wait_ready()
    await until(lambda: verdict(replicas).problems == [] and len(verdict(replicas).lines()) == 1)
    replicas.network.cut(*NAMES)
    for number, source in ((3, NAMES[0]), (4, NAMES[1])):
        await replicas.start(number, peers=(PeerAddress(source, source),))
    await replicas.wait_ready()
    assert [replicas.members[f"instance00{n}"].face.node.core.self_id for n in (3, 4)] == [3, 3]
    replicas.network.heal()


def stopped(replicas: MemorySet) -> dict[str, tuple[str, str]]:
    """By instance: text and command."""
    found = [one for one in verdict(replicas).problems if one.kind == "stopped_stream"]
    return {one.instance: (one.text, one.next) for one in found}


async def test_what_stops_says_so_and_its_advice_can_be_followed(tmp_path: Path) -> None:
    """It said that a replica does not support an update, and advised to let the stream go on, in vain."""
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
        await joined_apart(replicas)
        await until(lambda: stopped(replicas).keys() == set(NAMES))
        for name, (text, command) in stopped(replicas).items():
            assert "two instances registered them at the same moment" in text.lower()
            assert command == f"synchro -e {name} --direct member expel 3"
            master = replicas.members[name].face
            removal = row_body.dml_from_values(RowType.DELETE, CLUSTER_ID, key=(3,))
            assert isinstance(await write(master, removal), ev.Committed)
        await replicas.stop(3)
        await replicas.stop(4)
        for name, (_, command) in stopped(replicas).items():
            assert command == f"synchro replication restart {NAMES[name == NAMES[0]]} -i {name}"
            await follow(replicas, command)
        await until(lambda: not stopped(replicas))
        await replicas.wait_equal()
        for number in (3, 4):
            shutil.rmtree(tmp_path / f"instance00{number}")
            await replicas.start(number)
            await replicas.wait_ready()
        assert [replicas.members[f"instance00{n}"].face.node.core.self_id for n in (3, 4)] == [4, 5]
        await replicas.wait_equal()
        await until(lambda: not problems(verdict(replicas)))
        assert len({member.id for member in picture(replicas).members}) == 4


def test_who_has_the_id_itself_is_not_told_to_remove_itself() -> None:
    facts = {"reason": "UNSUPPORTED", "registered_twice": "3"}
    part = {"id": 2, "name": "instance002", "upstream": {"status": "stopped", "stopped_by": facts}}
    answers = {str(n): info(n, replication={2: part, 3: {"id": 3}}) for n in (1, 3)}
    found = find_problems(assemble(answers, {}, None))
    assert [(one.instance, one.next) for one in found if one.kind == "stopped_stream"] == [
        ("instance001", "synchro -e 1 --direct member expel 3"),
        ("instance003", ""),
    ]
