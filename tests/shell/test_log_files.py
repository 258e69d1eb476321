"""`wal cat` and `wal check` on real files: names, what a client can repeat, snapshots, damage. [A-62],
[W-21]."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from synchro.cli import app
from synchro.ids import LOCAL, InstanceId, Lsn
from synchro.row import GROUP_LOCAL, Dml, Row, RowType
from synchro.storage.disk import RealDisk
from synchro.storage.journal import Journal
from synchro.storage.row_body import dml_from_values
from synchro.storage.schema import INDEX_ID, SPACE_ID
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.storage.xlog import SECTOR
from synchro.storage.xrow import encode_txn
from tests.storage_world import SMALL, UUID, confirm, put, txn, vclock

BANDS = dml_from_values(RowType.INSERT, SPACE_ID, value=(512, 1, "bands", "memtx", 0, {}, ()))
TUPLES_OF_BANDS: list[Any] = [BANDS.value]
BY_YEAR = dml_from_values(RowType.INSERT, INDEX_ID, value=(512, 1, "by_year", "tree", {}, ((1, "unsigned"),)))
RENAMED = dml_from_values(RowType.UPDATE, SPACE_ID, key=(512,), ops=(("=", 3, "groups"),))


def journal_in(directory: Path) -> Journal:
    salts = iter(range(1, 1000))
    return Journal(RealDisk(), str(directory), instance_uuid=UUID, limits=SMALL, new_salt=lambda: next(salts))


def written(directory: Path, *batches: Sequence[Any], clean: bool = True) -> str:
    """One file of the log, a block for each of `batches`; its path."""
    journal = journal_in(directory)
    for number, batch in enumerate(batches):
        journal.append(list(batch), wall_time=float(number))
    [file] = journal.files
    if clean:
        journal.close_clean(9.0)
    else:
        journal.close_files()
    return file.path


def cat(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]], str]:
    code = app.run(["wal", "cat", *words])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def local_txn(lsn: int) -> Any:
    op: Dml = put("only here")
    return encode_txn([Row(op.type, LOCAL, Lsn(lsn), Lsn(lsn), 0, op, GROUP_LOCAL)])


def test_operations_of_one_instance_by_the_names_of_their_spaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """[A-62]: exactly the rows behind the vclock of who lacks them; what no client can repeat is told."""
    change = dml_from_values(RowType.UPDATE, 512, index_id=1, key=(1986,), ops=(("=", 2, 1987),))
    path = written(
        tmp_path,
        [txn(1, BANDS, BY_YEAR), txn(3, put(1)), txn(1, put(7), origin=2)],
        [txn(4, put(2), put(3)), local_txn(1), confirm(6, upto=5), txn(7, change)],
        [txn(8, put(4), sync=True)],
    )
    code, rows, notes = cat(capsys, path, "--origin", "1", "--from-vclock", "{1: 3}")
    assert code == 0
    assert [(row["op"], row["space"], row["txn"]) for row in rows] == [
        ("replace", "bands", "1:5"),
        ("replace", "bands", "1:5"),
        ("update", "bands", "1:7"),
        ("replace", "bands", "1:8"),
    ]
    assert (rows[2]["index"], rows[2]["key"], rows[3]["sync"]) == ("by_year", [1986], True)
    assert notes == "note: left out, since no client can repeat it: 1 CONFIRM\n"
    _, rows, notes = cat(capsys, path, "--origin", "1", "--until-vclock", '{"1": 5}')
    assert [row["row_lsn"] for row in rows] == [3, 4, 5]
    assert "1 INSERT in _index, 1 INSERT in _space" in notes
    _, rows, _ = cat(capsys, path)  # all of it, for who looks
    assert [row.get("op", row.get("type")) for row in rows].count("confirm") == 1 and len(rows) == 10


def test_names_come_from_the_snapshot_and_the_logs_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system: list[tuple[int, list[Any]]] = [(SPACE_ID, TUPLES_OF_BANDS), (512, [(5, "a tuple")])]
    write_snapshot(RealDisk(), str(tmp_path), SnapshotMeta(), system, instance_uuid=UUID)
    journal = journal_in(tmp_path)
    journal.append([txn(1, put(1))], 0.0)
    journal.rotate(1.0)
    journal.append([txn(2, RENAMED), txn(3, put(2))], 2.0)
    journal.rotate(3.0)
    journal.append([txn(4, put(3))], 4.0)
    first, second, third = [file.path for file in journal.files]
    journal.close_clean(5.0)
    assert [row["space"] for row in cat(capsys, first)[1]] == ["bands"]
    assert [row["space"] for row in cat(capsys, second)[1]] == ["_space", "groups"]
    assert [row["space"] for row in cat(capsys, third)[1]] == ["groups"]
    _, rows, notes = cat(capsys, first, third)
    assert len(rows) == 2
    assert f"{third} starts at {{1: 3}}, but what was read before it ends at {{1: 1}}" in notes


def test_a_snapshot_is_listed_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_snapshot(
        RealDisk(),
        str(tmp_path),
        SnapshotMeta(vclock=vclock(_1=9)),
        [(SPACE_ID, TUPLES_OF_BANDS), (512, [(1, "a"), (2, "b")])],
        instance_uuid=UUID,
    )
    code, rows, _ = cat(capsys, path)
    assert (code, rows[0]["type"], rows[0]["vclock"]) == (0, "snapshot", {"1": 9})
    assert [row["space"] for row in rows[1:]] == ["_space", "bands", "bands"]
    _, rows, _ = cat(capsys, path, "--space", "bands")
    assert rows == [{"op": "insert", "space": "bands", "tuple": [n, t]} for n, t in ((1, "a"), (2, "b"))]
    _, rows, notes = cat(capsys, path, "--origin", "1")
    assert rows == [] and "no LSNs" in notes
    assert app.run(["wal", "check", path]) == 0
    assert capsys.readouterr().out == f"{path}: 3 tuples in 2 spaces, at {{1: 9}}, whole\n"
    damage(path, Path(path).stat().st_size - 30)
    assert app.run(["wal", "check", path]) == 1
    assert "is corrupted at offset" in capsys.readouterr().err


def damage(path: str, offset: int) -> None:
    data = bytearray(Path(path).read_bytes())
    data[offset] ^= 1
    Path(path).write_bytes(bytes(data))


def test_damage_ends_it_and_is_passed_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """[W-22]: where it is, what was read before it; behind it nothing, but with --skip-damage."""
    path = written(tmp_path, [txn(1)], [txn(2)], [txn(3)], [txn(4)])
    damage(path, 2 * SECTOR + 60)  # the block with LSN 2, behind the header and block 1
    code, rows, err = cat(capsys, path)
    assert code == 1 and [row["row_lsn"] for row in rows] == [1]
    assert f"is corrupted at offset {2 * SECTOR}, after LSN 1:1" in err
    assert "nothing behind it was read" in err and "next:  the same with --skip-damage" in err
    code, rows, err = cat(capsys, path, "--skip-damage")
    assert code == 1 and [row["row_lsn"] for row in rows] == [1, 3, 4]
    assert f"bytes {2 * SECTOR} to {3 * SECTOR} are left out" in err
    assert app.run(["wal", "check", path]) == 1
    damage(path, 3)
    assert cat(capsys, path)[:2] == (1, [])
    assert cat(capsys, path, "--skip-damage")[:2] == (1, [])  # nothing tells its blocks from others


def test_a_file_that_nobody_closed_says_where_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, [txn(1)], [txn(2)], clean=False)
    code, rows, err = cat(capsys, path)
    assert (code, len(rows)) == (0, 2)
    assert err == f"note: {path}: no end marker at offset {3 * SECTOR}: still written to, or it was killed\n"
    assert app.run(["wal", "check", path]) == 0
    assert f"no end marker at offset {3 * SECTOR}" in capsys.readouterr().out


def test_a_file_that_was_never_finished_is_read_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(written(tmp_path, [txn(1)]))
    unfinished = path.rename(f"{path}.inprogress")
    code, rows, err = cat(capsys, str(unfinished))
    assert (code, rows) == (2, []) and "nobody relied on it" in err
    code, rows, err = cat(capsys, str(unfinished), "--skip-damage")
    assert (code, len(rows)) == (0, 1) and "was never finished" in err


@pytest.mark.parametrize("text", ["{1: x}", "1", "{1: 2: 3}", "{40: 1}", "{1: -1}", "nothing"])
def test_what_is_no_vclock_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, [txn(1)])
    code, rows, err = cat(capsys, path, "--from-vclock", text)
    assert (code, rows) == (2, []) and "is not a vclock" in err


def test_an_instance_id_is_one_of_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, [txn(1, origin=31)])
    assert len(cat(capsys, path, "--origin", str(InstanceId(31)))[1]) == 1
    assert cat(capsys, path, "--origin", "32")[0] == 2


def test_files_with_data_are_not_for_everybody_on_the_host(tmp_path: Path) -> None:
    """All tuples lie in them, and the verifiers of passwords."""
    former = os.umask(0o022)
    try:
        path = written(tmp_path, [txn(1)])
    finally:
        os.umask(former)
    assert os.stat(path).st_mode & 0o777 == 0o640
