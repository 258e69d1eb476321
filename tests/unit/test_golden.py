"""Files of every format that was ever written are read for ever: `tests/golden/README.md`."""

from __future__ import annotations

import json
import random
import shutil
from itertools import chain
from pathlib import Path

import pytest

from synchro.config import ElectionMode, Settings
from synchro.instance.core import Instance
from synchro.instance.recovery import recover_instance
from synchro.storage.disk import RealDisk
from synchro.storage.identity import Identity, IdentityFile, decode_identity
from synchro.storage.journal import Journal
from synchro.storage.notes import LogNote
from synchro.storage.recovery import Recovered, open_xlog, recover
from synchro.storage.snapshot import iter_chunks, read_snapshot
from synchro.storage.users import GUEST_CALLER
from tests.golden.make import LIMITS, ME, facts
from tests.mesh import REPLICASET, uuid_of

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FOLDERS = sorted(path for path in GOLDEN.iterdir() if (path / "data").is_dir())


def recovered_from(directory: Path) -> tuple[Recovered, Instance]:
    file = IdentityFile.load(RealDisk(), str(directory))
    assert file is not None
    noted = file.notes.log
    file.close()
    found = recover(RealDisk(), str(directory), str(directory), uuid_of(ME), noted)
    assert found is not None
    instance = recover_instance(
        uuid=uuid_of(ME),
        settings=Settings(election_mode=ElectionMode.OFF),
        meta=found.meta,
        spaces=found.tuples(),
        txns=chain.from_iterable(found.batches()),
        rng=random.Random(1),
        trusted=True,
        now=0.0,
    )
    return found, instance


def copied(folder: Path, target: Path, *, without: str = "") -> Path:
    """Its data directory, which a test may change."""
    shutil.copytree(folder / "data", target)
    if without:
        (target / without).unlink()
    return target


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_directory_of_a_former_format_is_read_as_it_was(folder: Path, tmp_path: Path) -> None:
    """Tuples, vclock, queue, terms, remembered requests and drops; and the log goes on from there."""
    expected = json.loads((folder / "expected.json").read_text())
    directory = copied(folder, tmp_path / "data")
    file = IdentityFile.load(RealDisk(), str(directory))
    assert file is not None
    file.close()
    identity = file.identity
    assert identity.instance_uuid == uuid_of(ME)
    assert (identity.name, identity.replicaset_uuid, identity.amnesia) == ("i1", REPLICASET, False)
    found, instance = recovered_from(directory)
    assert found.torn_tail is not None
    assert found.lost is None
    assert facts(instance) == expected
    for is_clean in (False, True):
        journal = Journal(
            RealDisk(),
            str(directory),
            instance_uuid=uuid_of(ME),
            new_salt=lambda: random.Random(2).getrandbits(64),
            start=found.journal_start,
            limits=LIMITS,
        )
        assert journal.vclock == instance.vclock
        if is_clean:
            journal.close_clean(1.0)
        else:
            journal.close_files()
        found, instance = recovered_from(directory)
        assert found.clean_stop == is_clean
        assert facts(instance) == expected


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_older_snapshot_and_the_whole_log_say_the_same(folder: Path, tmp_path: Path) -> None:
    """All rows of all files are read, those from before the newest snapshot too."""
    expected = json.loads((folder / "expected.json").read_text())
    newest = max(path.name for path in (folder / "data").glob("*.snap"))
    directory = copied(folder, tmp_path / "data", without=newest)
    assert facts(recovered_from(directory)[1]) == expected


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_snapshots_of_former_formats_have_a_key_that_means_nothing_any_more(folder: Path) -> None:
    """`pending_promotes`: passed over, as the tests above show, and written empty for members of former
    versions, which join from this one."""
    for path in (folder / "data").glob("*.snap"):
        assert b"pending_promotes" in path.read_bytes()
        snapshot = read_snapshot(RealDisk(), str(path))
        assert b"pending_promotes\x90" in b"".join(iter_chunks(snapshot.meta, snapshot.tuples()))


def test_there_is_a_directory_of_each_format() -> None:
    assert [folder.name for folder in FOLDERS] == ["v1", "v2", "v3", "v4", "v5"]
    identity = IdentityFile.load(RealDisk(), str(GOLDEN / "v2" / "data"))
    assert identity is not None
    assert identity.notes.log == LogNote("00000000000000000022.xlog", 5632)
    identity.close()


def test_the_newest_format_tells_what_was_in_conflict_from_what_was_rolled_back() -> None:
    """ADR 19: the Nop of an owner of before has a mark, and is not among what was dropped."""
    nops = []
    for path in sorted((GOLDEN / "v5" / "data").glob("*.xlog")):
        with open_xlog(RealDisk(), str(path)) as reader:
            nops += [txn for block in reader.blocks() for txn in reader.txns(block) if txn.is_nop]
    assert [(txn.origin, txn.lsn, txn.is_done_elsewhere) for txn in nops] == [(3, 5, True)]
    assert json.loads((GOLDEN / "v5" / "expected.json").read_text())["drops"] == [[1, 24, 25]]


def test_the_newest_format_has_shared_transactions_without_request_ids() -> None:
    """ADR 13: all, some or none of the calls have an id, decided and not."""
    shared: dict[str, list[list[bool]]] = {}
    for name in ("v3", "v4"):
        shared[name] = []
        for path in sorted((GOLDEN / name / "data").glob("*.xlog")):
            with open_xlog(RealDisk(), str(path)) as reader:
                txns = [txn for block in reader.blocks() for txn in reader.txns(block)]
            shared[name] += [[one is not None for one in txn.request_ids] for txn in txns if txn.is_shared]
    assert shared["v3"] == [[True] * 6, [True] * 5, [True] * 4]
    assert shared["v4"] == [
        [True] * 6,
        [False] * 5,
        [False, True, True, False, True],
        [True] * 5,
        [True] * 4,
        [True, False, False, True],
    ]


def test_identity_of_the_first_format() -> None:
    """Byte for byte: whoever changes the format must still read this one."""
    data = (GOLDEN / "v1" / "data" / "instance.identity").read_bytes()
    assert data.startswith(b"SYNCHRO IDENTITY\n1\n")
    assert decode_identity(data) == Identity(uuid_of(ME), "i1", REPLICASET)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_directory_of_before_there_were_users_is_open_to_the_guest(folder: Path, tmp_path: Path) -> None:
    """ADR 42: it goes on as it did, and says so."""
    _, instance = recovered_from(copied(folder, tmp_path / "data"))
    users = instance.memtx.catalog.users
    assert users.is_unset and users.rights(GUEST_CALLER).has_all
