"""docs/recipes.md is true: its commands and its Python, and what they promise while the leader is killed."""

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import synchro
from synchro.cli import app
from tests.e2e.cluster import Cluster
from tests.e2e.tutorials.pages import Session, parse

pytestmark = pytest.mark.e2e
PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
NAMES = ["instance001", "instance002", "instance003"]
ACCOUNTS, EACH, THREADS, TRANSFERS = 4, 1000, 4, 10


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("recipes"), NAMES, failover="election") as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def page(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The page, carried out from top to bottom; the names that its Python made."""
    cluster.wait_leader()
    text = PAGE.read_text(encoding="utf-8")
    ports = {f"330{number}": int(cluster[name].address[10:]) for number, name in enumerate(NAMES, 1)}
    session = Session("recipes.md", tmp_path_factory.mktemp("page"), ports)
    session.play(parse(text))
    names: dict[str, Any] = {"ENDPOINTS": [cluster[name].address for name in NAMES]}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_page_is_true(page: dict[str, Any]) -> None:
    """[D-42]: the lock and the transfer are those of the page; the Python on it has its own asserts."""
    assert page["transfer"] and page["Lease"]


def test_conditions_of_the_command_line(cluster: Cluster, page: dict[str, Any], tmp_path: Path) -> None:
    """[D-42], [D-28]: lines of `txn`, `--must-match`, `--sync`."""
    lines = [
        {"op": "if_absent", "space": "accounts", "key": [50]},
        {"op": "insert", "space": "accounts", "tuple": [50, 7]},
        {"op": "if_equal", "space": "accounts", "key": [50], "fields": {"balance": 7}},
        {"op": "delete", "space": "accounts", "key": [50], "must_match": True},
    ]
    (tmp_path / "ops.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(*words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        endpoints = ",".join(page["ENDPOINTS"])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = app.run(["-e", endpoints, *words])
        return code, out.getvalue(), err.getvalue()

    code, out, _ = run("txn", str(tmp_path / "ops.jsonl"))
    assert code == 0 and out.splitlines()[:4] == ["-", "[50, 7]", "-", "[50, 7]"]
    code, _, err = run("update", "accounts", "50", '[["=", 2, 1]]', "--must-match")
    assert code == 6 and "no tuple with key [50]" in err and "next:  synchro get accounts '[50]'" in err
    assert run("get", "accounts", "[50]")[0] == 7
    assert run("space", "create", "notes")[0] == 0
    assert run("index", "create", "notes", "primary")[0] == 0
    code, out, _ = run("insert", "notes", "[1]", "--sync")
    assert code == 0 and out.endswith("  sync\n")
    assert run("insert", "notes", "[2]")[1].endswith("  async\n")


def test_no_money_comes_or_goes_while_the_leader_is_killed(cluster: Cluster, page: dict[str, Any]) -> None:
    """S27: transfers of many threads, each of which is done once or not at all. Some are transactions that
    stay open."""
    errors: list[Exception] = []
    with synchro.connect(page["ENDPOINTS"], timeout=30.0) as db:
        for number in range(10, 10 + ACCOUNTS):
            db.space("accounts").insert([number, EACH])
        db.space("accounts").insert([99, 0])

        def work(thread: int) -> None:
            transfer = page["move" if thread % 2 else "transfer"]
            try:
                for number in range(TRANSFERS):
                    source, target = 10 + number % ACCOUNTS, 10 + (number + thread + 1) % ACCOUNTS
                    transfer(db, f"{thread} {number} around", source, target, 3)
                    transfer(db, f"{thread} {number} out", 10 + thread, 99, 1)
            except Exception as error:  # noqa: BLE001 - it is told below
                errors.append(error)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
        for thread in threads:
            thread.start()
        cluster.wait_leader().kill()
        for thread in threads:
            thread.join(60)
        assert errors == []
        balances = {row[0]: row[1] for row in db.space("accounts").select()}
    assert balances[99] == THREADS * TRANSFERS
    assert sum(balances[number] for number in (*range(10, 10 + ACCOUNTS), 99)) == ACCOUNTS * EACH
