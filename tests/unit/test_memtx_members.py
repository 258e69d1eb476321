"""Memtx: the members of the set are rows of `_cluster`, its UUID is one of `_schema`. Rules [D-22], [D-23],
[M-1]..[M-5], [M-37], [M-51]."""

from __future__ import annotations

import pytest

from synchro.errors import IllegalParams, ReplicaMax, SynchroError, TupleFound, Unsupported
from synchro.row import Dml, RowType, Tuple
from synchro.storage.schema import CLUSTER_ID, SCHEMA_ID
from tests.unit.memtx_world import UUIDS, booted, do, empty, put


def test_the_first_member_has_id_one_and_the_set_its_uuid() -> None:
    """M-2, M-3, D-22: the old name of the key answers too."""
    memtx = booted()
    assert memtx.catalog.members() == {1: (UUIDS[1], "one")}
    assert memtx.catalog.replicaset_uuid() == UUIDS[39]
    assert memtx.get(SCHEMA_ID, 0, ("cluster",)) == ("replicaset_uuid", UUIDS[39])
    assert empty().catalog.replicaset_uuid() is None


def test_the_uuid_of_the_set_is_given_once() -> None:
    """D-22."""
    memtx = booted()
    for op in (
        put(SCHEMA_ID, "replicaset_uuid", UUIDS[5]),
        Dml(RowType.DELETE, SCHEMA_ID, b"", 0, ("replicaset_uuid",)),
    ):
        with pytest.raises(IllegalParams) as caught:
            memtx.prepare([op])
        assert str(caught.value) == "Can't reset replica set UUID: it is already assigned"
    do(memtx, [put(SCHEMA_ID, "replicaset_uuid", UUIDS[39])])


def test_a_member_counts_for_elections_at_once() -> None:
    """[M-3], [M-51], ADR 6: N for elections counts undecided rows of `_cluster`, N for commits does not."""
    memtx = booted()
    second = memtx.prepare([put(CLUSTER_ID, 2, UUIDS[2], "two")])
    assert (second.is_ddl, second.touches_system) == (False, True)
    third = memtx.prepare([put(CLUSTER_ID, 3, UUIDS[3])])
    assert list(memtx.catalog.members()) == [1]
    assert memtx.catalog.prepared_members() == {
        1: (UUIDS[1], "one"),
        2: (UUIDS[2], "two"),
        3: (UUIDS[3], None),
    }
    memtx.rollback(third)
    memtx.commit(second)
    assert list(memtx.catalog.members()) == list(memtx.catalog.prepared_members()) == [1, 2]
    removal = memtx.prepare([Dml(RowType.DELETE, CLUSTER_ID, b"", 0, (1,))])
    assert (list(memtx.catalog.members()), list(memtx.catalog.prepared_members())) == ([1, 2], [2])
    memtx.commit(removal)


def test_a_set_has_at_most_31_members() -> None:
    """M-3."""
    memtx = booted()
    for number in range(2, 32):
        do(memtx, [put(CLUSTER_ID, number, UUIDS[number])])
    with pytest.raises(ReplicaMax) as caught:
        memtx.prepare([put(CLUSTER_ID, 32, UUIDS[32])])
    assert str(caught.value) == "Replica count limit reached: 32"


@pytest.mark.parametrize(
    ("row", "error", "text"),
    [
        ((0, UUIDS[5]), IllegalParams, "Can't initialize replica id with a reserved value 0"),
        ((5, "nonsense"), IllegalParams, "Invalid UUID: nonsense"),
        ((5, UUIDS[0]), IllegalParams, "Nil UUID is reserved and can't be used in replication"),
        ((5, UUIDS[5], "fi ve"), IllegalParams, "Invalid instance name: 'fi ve'"),
        ((5, UUIDS[5], "one"), TupleFound, 'unique index "name"'),
        ((5, UUIDS[1]), TupleFound, "Duplicate key"),
        ((1, UUIDS[5], "other"), Unsupported, "UUID and name update together"),
        ((2, UUIDS[5]), Unsupported, "Replica without a name does not support UUID update"),
        ((1, UUIDS[2], "one"), TupleFound, 'unique index "uuid"'),
    ],
)
def test_a_wrong_member_is_refused(row: Tuple, error: type[SynchroError], text: str) -> None:
    """D-23, M-1, M-3, M-5, M-37."""
    memtx = booted()
    do(memtx, [put(CLUSTER_ID, 2, UUIDS[2])])
    with pytest.raises(error, match=text):
        memtx.prepare([put(CLUSTER_ID, *row)])
    assert list(memtx.catalog.prepared_members()) == [1, 2]


def test_a_named_member_may_come_back_with_another_uuid() -> None:
    """M-37."""
    memtx = booted()
    do(memtx, [put(CLUSTER_ID, 1, UUIDS[7], "one")])
    assert memtx.catalog.members() == {1: (UUIDS[7], "one")}
