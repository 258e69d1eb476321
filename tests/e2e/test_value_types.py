"""Decimals, UUIDs, datetimes and intervals in log, snapshot, streams and joins (ADR 37). Rule [D-6]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

import synchro
from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
FORMAT = ["id:uuid", "price:decimal", "at:datetime", "every:interval?"]
MONTHLY = synchro.Interval(months=1, adjust="last")
LATE = synchro.Datetime(1, 999_999_999, 180, 947)


def rows_of(address: str, **options: Any) -> list[Sequence[Any]]:
    with synchro.connect(address, timeout=15, read_from="any") as db:
        return list(db.space("prices").select(**options))


def test_they_survive_kills_snapshots_and_a_join(make_cluster: MakeCluster) -> None:
    """What lies in a snapshot, what lies in the log behind it, and an update that each instance computes."""
    cluster = make_cluster(2, instances={"instance001": {"database": {"mode": "rw"}}}).start()
    first = cluster["instance001"]
    first.remote.promote()
    with synchro.connect(first.address, timeout=15) as db:
        db.create_space("prices", sync=True, format=FORMAT)
        db.create_index("prices", "primary", parts=["id"])
        db.create_index("prices", "price", parts=["price", "at"], unique=False)
        prices = db.space("prices")
        prices.insert([UUID(int=2), Decimal("9.90"), datetime(2026, 11, 30, tzinfo=UTC), MONTHLY])
        prices.insert([UUID(int=1), Decimal("1E-38"), LATE])
        first.remote.snapshot()
        prices.insert([UUID(int=3), Decimal("9.9"), datetime(1, 1, 1, tzinfo=UTC)])
        prices.update(UUID(int=1), [["+", "price", Decimal("0.5")]])
        with pytest.raises(synchro.FieldType, match="expected decimal, got double"):
            prices.insert([UUID(int=4), 9.9, LATE])
    cluster.wait_equal("prices")
    expected = [
        (UUID(int=1), Decimal("0.5" + "0" * 36 + "1"), LATE),
        (UUID(int=3), Decimal("9.9"), datetime(1, 1, 1, tzinfo=UTC)),
        (UUID(int=2), Decimal("9.90"), datetime(2026, 11, 30, tzinfo=UTC), MONTHLY),
    ]
    cluster.kill_all()
    cluster.start()
    first.remote.promote()
    joiner = cluster.add("instance003")
    joiner.start()
    cluster.wait_equal("prices")
    for instance in cluster:
        assert list(map(repr, rows_of(instance.address, index="price"))) == list(map(repr, expected))
        found = rows_of(instance.address, index="price", key=Decimal("9.900"), iterator="EQ")
        assert [row[0].int for row in found] == [3, 2]
