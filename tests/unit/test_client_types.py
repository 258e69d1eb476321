"""What type checkers say of programs that use the client: nothing of good ones, a word to each mistake."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import synchro
import synchro.aio
from synchro import errors
from synchro.client import Client, Space
from synchro.client.aio import AsyncClient, AsyncSpace
from synchro.client.api import Api
from synchro.client.on_trio import TrioClient
from synchro.client.space_api import SpaceApi

ROOT = Path(__file__).resolve().parents[2]

BLOCKING = """
import synchro

def main() -> None:
    with synchro.connect("127.0.0.1:3301", timeout=5, read_from="any") as db:
        made: synchro.SpaceChanged = db.create_space("bands", sync=True, format=["id:unsigned"])
        bands = db.space("bands")
        row: synchro.Tuple = bands.insert([1, "Roxette"], timeout=5, wait="complete")
        name: object = row["name"], row[0], row.txn
        found = bands.get([1], read="linearizable")
        if found is not None:
            print(found.to_dict(), made.space)
        for each in bands.iter(page=100, iterator="GE"):
            print(each[0])
        with db.transaction(timeout=3, omit_tuples=True) as tx:
            tx.replace("bands", [2])
        count: int = db.bulk("bands", ([n] for n in range(10)), on_progress=print, replace=True)
        result: synchro.Result = db.execute([synchro.ops.delete("bands", 1)], wait="submit")
        length: int = db.list_queue().len
        term: int = db.promote("instance002").term
        stop = db.on_change(lambda state: print(state.leader, state.term))
        stop()
        print(db.info.synchro.queue.len, count, result.txn, length, term, name)
        try:
            bands.insert([3])
        except (synchro.DuplicateKey, synchro.ReadOnly, synchro.NoLeader) as error:
            print(error.reason, error.details)
        except synchro.OutcomeUnknown as unknown:
            end: synchro.Committed | synchro.RolledBack = unknown.wait(timeout=30)
            print(end)
"""
ASYNC = """
import synchro
import synchro.aio

async def main() -> None:
    async with synchro.aio.connect("127.0.0.1:3301", timeout=5) as db:
        await db.create_index("bands", "primary", parts=["id"], type="tree")
        bands: synchro.aio.AsyncSpace = db.space("bands")
        row: synchro.Tuple = await bands.insert([1, "Roxette"], timeout=5, wait="none")
        async for each in bands.iter([1], page=100):
            print(each[0])
        async with db.transaction(timeout=3) as tx:
            tx.replace("bands", [2])
        count: int = await db.bulk("bands", [[1]], on_progress=print)
        members: list[synchro.Member] = await db.list_instances(instance="instance001")
        async for state in db.watch_info():
            print(state.term, row, count, members)
        queue = (await db.info).synchro.queue
        try:
            await bands.delete(1)
        except synchro.OutcomeUnknown as unknown:
            end: synchro.Committed | synchro.RolledBack = await db.wait_outcome(unknown, timeout=3)
            print(end, queue)
"""
GOOD = {
    "blocking": BLOCKING + "\nmain()\n",
    "asyncio": ASYNC + "\nimport asyncio\nasyncio.run(main())\n",
    "trio": ASYNC
    + """
import trio

async def both() -> None:
    async with synchro.aio.connect("127.0.0.1:3301") as db, trio.open_nursery() as nursery:
        nursery.start_soon(db.space("bands").insert, [1])

trio.run(both)
""",
}
GOOD["errors"] = "import synchro\n" + "".join(
    f"kind: type[synchro.SynchroError] = synchro.{kind.__name__}\n"
    if number == 0
    else f"kind = synchro.{kind.__name__}\n"
    for number, kind in enumerate(errors.ALL_ERRORS)
)
BAD = {
    "s.insert([1], timout=5)": 'Unexpected keyword argument "timout"',
    's.insert([1], wait="complet")': "incompatible type",
    's.insert([1], timeout="5")': "incompatible type",
    "s.insert(1)": "incompatible type",
    "s.insrt([1])": 'has no attribute "insrt"',
    "x: int = s.insert([1])": "Incompatible types in assignment",
    "s.update(1)": "Too few arguments",
    's.select([1], iterator="GR")': "incompatible type",
    "s.select([1], limt=3)": 'Unexpected keyword argument "limt"',
    's.get([1], read="linearisable")': "incompatible type",
    "s.get([1])[0]": "is not indexable",
    "s.iter(page='x')": "incompatible type",
    "db.transaction(timout=5)": 'Unexpected keyword argument "timout"',
    'db.transaction(timeout="5")': "incompatible type",
    "db.execute([b'x'])": "incompatible type",
    "db.execute([synchro.ops.insert('s', [1])], expected_term='x')": "incompatible type",
    "db.bulk('s', [1])": "incompatible type",
    "db.bulk('s', [[1]], on_progress=lambda: None)": "incompatible type",
    "db.create_index('s', 'i', type='btree')": "incompatible type",
    "db.create_space('s', synchronous=True)": 'Unexpected keyword argument "synchronous"',
    "db.promote().header": 'has no attribute "header"',
    "db.list_queue().lenght": 'has no attribute "lenght"',
    "db.spaces()[0].is_synchronous": 'has no attribute "is_synchronous"',
    "db.watch_inf()": 'has no attribute "watch_inf"',
    "db.on_change(lambda: None)": "incompatible type",
    "synchro.conect('h:1')": 'has no attribute "conect"',
    "synchro.connect('h:1', timout=3)": 'Unexpected keyword argument "timout"',
    "synchro.connect('h:1', read_from='leadr')": "incompatible type",
    "synchro.Exit": 'has no attribute "Exit"',
    "synchro.ALL_ERRORS": 'has no attribute "ALL_ERRORS"',
    "synchro.NoSuchError": 'has no attribute "NoSuchError"',
    "synchro.aio.conect('h:1')": 'has no attribute "conect"',
    "synchro.aio.connect('h:1', timout=3)": 'Unexpected keyword argument "timout"',
    "await a.insrt([1])": 'has no attribute "insrt"',
    "await a.insert([1], timout=5)": 'Unexpected keyword argument "timout"',
    'await a.insert([1], wait="complet")': "incompatible type",
    "y: int = await a.insert([1])": "Incompatible types in assignment",
    "await ad.promte()": 'has no attribute "promte"',
    "ad.transaction(timout=5)": 'Unexpected keyword argument "timout"',
    "(await ad.demote()).header": 'has no attribute "header"',
}
HEAD = """
import synchro
import synchro.aio

async def wrong(
    db: synchro.Client, s: synchro.Space, ad: synchro.aio.AsyncClient, a: synchro.aio.AsyncSpace
) -> None:
"""


def mypy(directory: Path, programs: dict[str, str]) -> str:
    for name, program in programs.items():
        (directory / f"{name}.py").write_text(program)
    (directory / "mypy.ini").write_text(
        "[mypy]\nstrict = True\n[mypy-grpc_status.*,google.*]\nignore_missing_imports=True\n"
    )
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context"]
    cache = ROOT / ".mypy_cache" / "user_programs"
    done = subprocess.run(
        [*command, f"--cache-dir={cache}", *(f"{name}.py" for name in programs)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert not done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("programs")
    good = {f"good_{face}": program for face, program in GOOD.items()}
    return mypy(directory, good | {"wrong": HEAD + "".join(f"    {line}\n" for line in BAD)})


@pytest.mark.parametrize("face", GOOD)
def test_a_good_program_passes(face: str, verdicts: str) -> None:
    assert not [line for line in verdicts.splitlines() if line.startswith(f"good_{face}.py")]


@pytest.mark.parametrize("line", BAD)
def test_a_mistake_is_found(line: str, verdicts: str) -> None:
    number = HEAD.count("\n") + 1 + list(BAD).index(line)
    said = [text for text in verdicts.splitlines() if text.startswith(f"wrong.py:{number}:")]
    assert any(BAD[line] in text for text in said), said


# --- names ----------------------------------------------------------------------------------------------


def test_every_error_is_a_name_of_the_package() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    reasons = set(re.findall(r"^\| ([A-Z_]+) \|", page, re.MULTILINE))
    named = {kind.reason: kind for name in dir(synchro) if _is_error(kind := getattr(synchro, name))}
    assert reasons <= named.keys()
    assert {kind.reason for kind in errors.ALL_ERRORS} <= named.keys()


def _is_error(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, errors.SynchroError)


def test_the_names_of_the_client_are_those_of_the_package() -> None:
    client: Any = synchro.client
    package: Any = synchro
    for name in client.__all__:
        assert getattr(synchro, name) is getattr(client, name)
        assert name in dir(synchro)
    assert set(client.__all__) < set(package.__all__)
    with pytest.raises(AttributeError, match="'conect'"):
        synchro.conect  # type: ignore[attr-defined]


def public(face: type) -> set[str]:
    return {name for name in dir(face) if not name.startswith("_")} - {"become_inherited"}


def test_the_faces_have_the_same_methods() -> None:
    assert public(Client) == public(AsyncClient) == public(TrioClient)
    assert public(Space) == public(AsyncSpace)
    assert public(Api) - public(Client) == {
        "known_names",
        "names_of",
        "transaction_watch",
        "watch_place",
    }
    assert public(SpaceApi) <= public(Space)


@pytest.mark.parametrize("face", [Client, AsyncClient, TrioClient, Space, AsyncSpace])
def test_each_method_is_documented_and_typed(face: type) -> None:
    api = SpaceApi if "Space" in face.__name__ else Api
    for name in public(face):
        method = getattr(face, name)
        assert inspect.getdoc(method), name
        if callable(method) and hasattr(api, name):
            assert inspect.signature(method) == inspect.signature(getattr(api, name)), name
            assert method.__doc__ == getattr(api, name).__doc__
        if callable(method):
            kinds = [parameter.annotation for parameter in inspect.signature(method).parameters.values()]
            assert "Any" not in kinds[1:] and "Message" not in str(inspect.signature(method)), name
