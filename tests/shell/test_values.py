"""Whatever a server stores, each client reads and each output shows."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio
import yaml

import synchro
from synchro import aio
from synchro.cli import app
from synchro.ids import InstanceId, Lsn
from synchro.row import RowType
from synchro.rpc.host import open_rpc_host
from synchro.rpc.services import ClientServices
from synchro.storage import row_body, xrow
from tests.shell.fake_node import FakeNode

ROWS = {
    1: {"a": [1, {"b": None}]},
    2: {1: "x", "1": "y", None: 1, 2.5: True, b"\x00": 1},
    3: b"\xff\x00text",
    4: float("nan"),
    5: float("-inf"),
    6: 2**64 - 1,
    7: "\x1b[31m\n é \u2028 \x9b",
    8: {"$binary": "x"},
    9: {float("nan"): 1, float("inf"): 2},
    10: "",
    14: Decimal("-1.50"),
    15: UUID("64d22e4d-ac92-4a23-899a-e59f34af5479"),
    16: datetime(2026, 11, 30, 7, 0, 0, 500, tzinfo=UTC),
    17: synchro.Datetime(1, 999_999_999, 180, 947),
    18: synchro.Interval(years=1, months=-2, adjust="last"),
    19: {Decimal("0.1"): [datetime(9999, 12, 31, tzinfo=UTC)]},
}
OLD = {11: "81 92 01 02 a1 78", 12: "82 01 a1 78 c3 a1 79", 13: "81 91 91 90 01"}
"""Maps that were accepted once: a key that is an array, equal keys."""


@asynccontextmanager
async def served(*, with_rows: bool = True) -> AsyncIterator[tuple[FakeNode, str]]:
    with trio.fail_after(15):
        async with open_rpc_host() as host, trio.open_nursery() as nursery:
            node = FakeNode(host)
            services = ClientServices(node, host)
            nursery.start_soon(services.run)
            server = await host.serve("127.0.0.1:0", services.register)
            address = server.address

            def fill() -> None:
                with synchro.connect(address) as db:
                    db.create_space("s")
                    db.create_index("s", "primary")
                    for key, value in ROWS.items() if with_rows else ():
                        db.space("s").insert([key, value])

            await trio.to_thread.run_sync(fill)
            if with_rows:
                prefix = row_body.insert_dml(RowType.INSERT, 512, b"\x90").raw[:-1]
                for key, text in OLD.items():
                    row = row_body.read_dml(
                        RowType.INSERT, prefix + bytes([0x92, key]) + bytes.fromhex(text.replace(" ", ""))
                    )
                    (txn,) = xrow.decode_txns(xrow.encode_ops([row], InstanceId(1), Lsn(1), 0).data)
                    memtx = node.instance.memtx
                    memtx.commit(memtx.prepare(txn.ops))
            yield node, address
            nursery.cancel_scope.cancel()


def cli(address: str, *arguments: str) -> tuple[int, str, str]:
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = app.run(["-e", address, *arguments])
    assert "Traceback" not in err.getvalue()
    return code, out.buffer.getvalue().decode(), err.getvalue()


async def run(address: str, *arguments: str) -> tuple[int, str, str]:
    return await trio.to_thread.run_sync(lambda: cli(address, *arguments))


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


async def test_each_client_reads_each_value() -> None:
    async with served() as (_, address):

        def blocking() -> Any:
            with synchro.connect(address) as db:
                return db.space("s").select()

        async def asynchronous() -> Any:
            async with aio.connect(address) as db:
                return await db.space("s").select()

        found = [
            await trio.to_thread.run_sync(blocking),
            await trio.to_thread.run_sync(lambda: asyncio.run(asynchronous())),
            await asynchronous(),
        ]
        for rows in found:
            values = {row[0]: row[1] for row in rows}
            assert {key: repr(value) for key, value in values.items() if key in ROWS} == {
                key: repr(value) for key, value in ROWS.items()
            }
            assert values[11] == {(1, 2): "x"}
            assert values[12] == {1: "y"}
            assert values[13] == {(((),),): 1}


async def test_each_value_may_end_a_page() -> None:
    """It comes back as `after`, be it one that nobody may write any more."""
    async with served() as (_, address):

        def paged() -> Any:
            with synchro.connect(address) as db:
                return [row[0] for row in db.space("s").iter(page=1)]

        async def paged_in_a_transaction() -> Any:
            keys: list[Any] = []
            async with aio.connect(address) as db, db.begin() as t:
                after = None
                while rows := await t.space("s").select(limit=1, after=after):
                    keys.append(rows[0][0])
                    after = rows.after
            return keys

        keys = sorted([*ROWS, *OLD])
        assert await trio.to_thread.run_sync(paged) == keys
        assert await trio.to_thread.run_sync(lambda: asyncio.run(paged_in_a_transaction())) == keys


async def test_each_output_shows_each_value() -> None:
    """JSON is JSON; what the command line printed it takes back; a terminal is not told what to do."""
    async with served() as (_, address):
        for output in ("json", "jsonl"):
            code, out, err = await run(address, "select", "s", "-o", output)
            assert (code, err) == (0, "")
            rows = strict(out) if output == "json" else [strict(line) for line in out.split("\n") if line]
            values = {row[0]: row[1] for row in rows}
            assert values[3] == {"$binary": "/wB0ZXh0"}
            assert values[4] == {"$number": "NaN"}
            assert values[2]["$map"][:2] == [[1, "x"], ["1", "y"]]
            assert values[11] == {"$map": [[[1, 2], "x"]]}
            assert values[14] == {"$decimal": "-1.50"}
            assert values[15] == {"$uuid": "64d22e4d-ac92-4a23-899a-e59f34af5479"}
            assert values[16] == {"$datetime": "2026-11-30T07:00:00.0005Z"}
            assert values[17] == {"$datetime": "1970-01-01T03:00:01.999999999+03:00[947]"}
            assert values[18] == {"$interval": "1 year, -2 months, adjust last"}
            for key in range(14, 20):
                line = json.dumps([key, values[key]])
                assert (await run(address, "replace", "s", line))[0] == 0
                _, shown, _ = await run(address, "-o", "json", "get", "s", str(key))
                assert strict(shown) == [key, values[key]]
        code, out, err = await run(address, "select", "s", "-o", "yaml")
        assert (code, err) == (0, "")
        values = {row[0]: row[1] for row in yaml.safe_load(out)}
        assert values[3] == ROWS[3]
        assert values[2] == ROWS[2]
        for arguments in (("select", "s"), ("get", "s", "7"), ("-o", "json", "get", "s", "7")):
            code, out, err = await run(address, *arguments)
            assert code == 0
            assert "\x1b" not in out
            assert "\x9b" not in out
        _, printed, _ = await run(address, "get", "s", "2")
        code, _, err = await run(address, "replace", "s", printed.strip())
        assert (code, err) == (0, "")
        assert (await run(address, "get", "s", "2"))[1] == printed
        # The error of a duplicate shows tuples too.
        code, _, err = await run(address, "-o", "json", "insert", "s", '[4, {"$number": "NaN"}]')
        assert code == 6
        assert json.loads(err)["reason"] == "TUPLE_FOUND"


async def test_what_cannot_be_shown_is_refused_before_it_is_written() -> None:
    async with served() as (_, address):

        def write() -> None:
            with synchro.connect(address) as db, pytest.raises(synchro.SynchroError, match="is an array"):
                db.space("s").insert([20, {(1, 2): 3}])

        await trio.to_thread.run_sync(write)
        for text in (
            '[20, {"a": 1, "a": 2}]',
            '[20, {"$map": [[1, 2], [true, 3]]}]',
            "[20, 1e999]",
            '[20, {"$binary": "?"}]',
            '[20, "\\ud800"]',
            "[" * 100_000,
        ):
            code, _, err = await run(address, "insert", "s", text)
            assert code in (1, 2), text
            assert err.startswith("error: "), text
        assert (await run(address, "get", "s", "20"))[0] == 7


# --- import ---------------------------------------------------------------------------------------------


async def test_an_import_says_how_far_it_came(tmp_path: Path) -> None:
    """With one tuple a transaction what stands before the failed line is in, nothing behind it is."""
    file = tmp_path / "rows.json"
    file.write_text("[216, 1]\n\n[216, 2]\n[217, 3]\n")
    async with served(with_rows=False) as (_, address):
        code, _, err = await run(address, "import", str(file), "--space", "s", "--batch", "1")
        assert code == 6
        assert "3 lines read, 1 tuples in space 's', those of lines 1 to 1, first failed line 3" in err
        assert f"mend line 3, then: synchro import {file} --space s --batch 1 --from-line 2" in err
        assert (await run(address, "get", "s", "217"))[0] == 7
        file.write_text("[216, 1]\n\n[218, 2]\n[217, 3]\n")
        again = ["import", str(file), "--space", "s", "--batch", "1", "--from-line", "2"]
        code, out, _ = await run(address, *again)
        assert (code, out) == (0, "4 lines read, 2 tuples in space 's'\n")
        _, out, _ = await run(address, "select", "s")
        assert out == "[216, 1]\n[217, 3]\n[218, 2]\n"


@pytest.mark.parametrize(
    ("data", "line", "why"),
    [
        (b'[1, "a"]\n[2, "\xe9"]\n[3]\n', 2, "line 2 is not UTF-8: byte 0xe9 at column 6"),
        (b"[1]\n[2\n[3]\n", 2, "line 2 is not JSON"),
        (b"[1]\n{}\n", 2, "line 2 is not a JSON array"),
        (b'[1]\n[2]\n["x"]\n', 3, "expected unsigned, got string"),
        ("[1]\n".encode("utf-16"), 1, "as with: iconv -f utf-16 -t utf8"),
        (b"[1]\n" + b"[" * 200_000, 2, "nested too deep"),
        (b"[1]\n[18446744073709551616]\n", 2, "not a value that can be stored"),
        (b'[1]\n[2, {"$map": [[[1], 2]]}]\n', 2, "a key of a map is a list"),
    ],
)
async def test_a_bad_line_is_named(tmp_path: Path, data: bytes, line: int, why: str) -> None:
    file = tmp_path / "rows.json"
    file.write_bytes(data)
    async with served(with_rows=False) as (_, address):
        code, _, err = await run(address, "-o", "json", "import", str(file), "--space", "s", "--batch", "1")
        report = json.loads(err)
        assert code in (1, 2)
        assert why in report["message"]
        facts = report["details"]
        assert (facts["failed_line"], facts["tuples"]) == (str(line), str(line - 1))
        assert report["next"].startswith(f"mend line {line}, then: synchro import ")
        # A transaction of many is in or not in as a whole.
        _, _, err = await run(address, "-o", "json", "import", str(file), "--space", "s", "--replace")
        assert json.loads(err)["details"]["tuples"] == "0"


async def test_csv_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    async with served(with_rows=False) as (_, address):
        await run(address, "space", "create", "c", "--format", "id:unsigned,name:string")
        await run(address, "index", "create", "c", "primary")
        file.write_bytes(b'\xef\xbb\xbfid,name\n1,"two\nlines"\nx,y\n')
        code, _, err = await run(address, "import", str(file), "--space", "c", "--header", "--batch", "1")
        assert code == 2
        assert "4 lines read, 1 tuples in space 'c', those of lines 1 to 3, first failed line 4" in err
        file.write_bytes(b"1,a\n2," + b"x" * 300_000 + b"\n")
        code, _, err = await run(address, "import", str(file), "--space", "c", "--batch", "1", "--replace")
        assert code == 0


async def test_csv_reads_each_type_by_the_format(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    fields = "id:uuid,price:decimal,at:datetime,every:interval?"
    async with served(with_rows=False) as (_, address):
        await run(address, "space", "create", "c", "--format", fields)
        await run(address, "index", "create", "c", "primary", "--parts", "id")
        await run(address, "index", "create", "c", "price", "--parts", "price,at", "--no-unique")
        name = "64d22e4d-ac92-4a23-899a-e59f34af547"
        file.write_text(
            f"{name}9,9.90,2026-11-30T07:00:00+03:00,1 month\n"
            f"{name}8,9.9,2026-11-30T03:00:00Z,\n"
            f"{name}7,9.899999999999999999999,2026-11-30T03:00:00Z,\n"
        )
        assert (await run(address, "import", str(file), "--space", "c"))[0] == 0
        code, out, _ = await run(address, "-o", "jsonl", "select", "c", "--index", "price")
        assert code == 0
        assert [[row[0]["$uuid"][-1], row[1]["$decimal"]] for row in map(strict, out.splitlines())] == [
            ["7", "9.899999999999999999999"],
            ["8", "9.9"],
            ["9", "9.90"],
        ]
        code, out, _ = await run(address, "-o", "json", "get", "c", f'{{"$uuid": "{name}9"}}')
        assert strict(out)[2:] == [{"$datetime": "2026-11-30T07:00:00+03:00"}, {"$interval": "1 month"}]
        file.write_text(f"{name}6,cheap,2026-11-30T03:00:00Z,\n")
        code, _, err = await run(address, "import", str(file), "--space", "c")
        assert "line 1: 'cheap' is not of type decimal" in err


async def test_bad_lines_can_be_skipped(tmp_path: Path) -> None:
    """Whatever is wrong with them, and whichever transaction they are in: all others are in, in order."""
    file = tmp_path / "rows.json"
    good = [f"[{key}]" for key in range(300, 340)]
    lines = [line.encode() for line in good]
    lines[3:3] = [b"[300]", b"[1"]  # lines 4 and 5: a duplicate in the same file, and no JSON
    lines[20:20] = [b'["x"]', b"{}", b'[2, "\xe9"]']  # 21 to 23: type, no array, no UTF-8
    lines += [b"[18446744073709551616]", b"[299]"]  # 46: cannot be stored
    file.write_bytes(b"\n".join(lines) + b"\n")
    for batch in ("1", "7", "500"):
        async with served(with_rows=False) as (_, address):
            skip = ["import", str(file), "--space", "s", "--batch", batch, "--on-error", "skip"]
            code, out, err = await run(address, *skip)
            assert (code, out) == (1, "47 lines read, 41 tuples in space 's', 6 lines skipped\n")
            told = err.splitlines()
            assert [line.partition(": ")[0] for line in told] == ["skipped"] * 6
            for number, why in (
                (4, "TUPLE_FOUND: line 4: Duplicate key"),
                (5, "line 5 is not JSON"),
                (21, "line 21: "),
                (22, "line 22 is not a JSON array"),
                (23, "line 23 is not UTF-8"),
                (46, "line 46: "),
            ):
                assert any(why in line for line in told), (number, told)
            _, out, _ = await run(address, "select", "s")
            assert out.splitlines() == ["[299]", *good]
            # What was skipped before --from-line is not told again, and a second time all are duplicates.
            code, out, err = await run(address, "-o", "json", *skip, "--from-line", "46")
            assert (code, json.loads(out)) == (1, {"space": "s", "lines": 47, "tuples": 0, "skipped": 2})
            assert len(err.splitlines()) == 2


async def test_bad_lines_of_a_csv_can_be_skipped(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"id,name\n1,a\nx,b\n2,c\xe9\n1,d\n3,e\n")
    async with served(with_rows=False) as (_, address):
        await run(address, "space", "create", "c", "--format", "id:unsigned,name:string")
        await run(address, "index", "create", "c", "primary")
        skip = ["import", str(file), "--space", "c", "--header", "--on-error", "skip"]
        code, out, err = await run(address, *skip)
        assert (code, out) == (1, "6 lines read, 2 tuples in space 'c', 3 lines skipped\n")
        assert "line 3: 'x' is not of type unsigned" in err
        assert "line 4 is not UTF-8" in err
        assert "line 5: Duplicate key" in err


async def test_what_is_not_about_a_line_is_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody to write to is an end, and the command to go on keeps what was asked for."""
    file = tmp_path / "rows.json"
    file.write_text("[1]\n[2]\n[3]\n")
    execute = synchro.client.Client.execute
    calls = iter([None, synchro.ReadOnly("it follows; nothing was written")])

    def refused(*args: Any, **options: Any) -> Any:
        if error := next(calls):
            raise error
        return execute(*args, **options)

    async with served(with_rows=False) as (_, address):
        monkeypatch.setattr(synchro.client.Client, "execute", refused)
        skip = ["import", str(file), "--space", "s", "--batch", "1", "--on-error", "skip"]
        code, _, err = await run(address, *skip)
        assert code == 4
        assert "1 tuples in space 's'" in err
        assert "--batch 1 --on-error skip --from-line 2" in err


async def test_an_import_that_is_interrupted_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.json"
    file.write_text("[1]\n[2]\n[3]\n")
    execute = synchro.client.Client.execute
    calls = iter([None, KeyboardInterrupt])

    def interrupted(*args: Any, **options: Any) -> Any:
        if error := next(calls):
            raise error
        return execute(*args, **options)

    async with served(with_rows=False) as (_, address):
        monkeypatch.setattr(synchro.client.Client, "execute", interrupted)
        code, _, err = await run(address, "import", str(file), "--space", "s", "--batch", "1")
        assert code == 130
        assert "2 tuples" not in err
        assert "1 tuples in space 's', those of lines 1 to 1, outcome unknown for lines 2 to 2" in err
        assert "--from-line 2 --replace   (lines 2 to 2 may be in already)" in err


# --- no tracebacks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("select", "s", "--limit", "-1"),
        ("select", "s", "--limit", "9" * 30),
        ("select", "s", "--offset", "-1"),
        ("select", "9" * 19),
        ("select", ""),
        ("bench", "--callers", "0"),
        ("bench", "--callers", "-1"),
        ("bench", "--payload", "-1"),
        ("bench", "--duration", "0s"),
        ("bench", "--duration", "9" * 30),
        ("queue", "--limit", "-1"),
        ("watch", "info", "--count", "-1"),
        ("space", "create", "x", "--id", "-1"),
        ("space", "create", "x", "--id", "9" * 30),
        ("space", "show", ""),
        ("index", "create", "s", "i", "--parts", "9" * 5000),
        ("index", "create", "s", "i", "--sequence", "--sequence-field", "9" * 5000),
        ("init", "d", "--nodes", "-1"),
        ("init", "d", "--base-port", "99999"),
        ("import", "/nonexistent", "--space", "s"),
        ("import", "/tmp", "--space", "s"),
        ("txn", "/tmp"),
        ("wait", "1:" + "9" * 30),
        ("wait", "-1:1"),
        ("--timeout", "9" * 400, "status"),
        ("insert", "s", "\udcff"),
        ("wal", "cat", "/tmp"),
        ("config", "check", "/tmp"),
        ("start", "/nonexistent"),
    ],
)
def test_no_input_gives_a_traceback(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        code, _, err = cli("127.0.0.1:1", "--timeout", "200ms", *arguments)
    assert code in (1, 2, 3), err
    assert err.isprintable() or "\n" in err
    assert "BUG" not in err


def test_what_nobody_expected_is_one_line_and_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("unhashable\ntype")

    monkeypatch.setattr("synchro.client.connect", broken)
    code, _, err = cli("127.0.0.1:1", "status")
    assert code == 70
    assert err == (
        "error: BUG: TypeError: unhashable type\n"
        "next:  report this as a bug, with the command and what -v adds\n"
    )
    code, _, err = cli("127.0.0.1:1", "-o", "json", "status")
    assert json.loads(err)["reason"] == "BUG"
