"""Transactions that stay open, on real processes: clients, a plain stub, a leader that is lost. [D-43]"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Generator
from typing import Any

import grpc
import msgpack
import pytest
import trio

import synchro
import synchro.aio
from synchro import ops
from synchro.rpc.generated.v1 import data_pb2, data_pb2_grpc
from tests.e2e.cluster import Cluster, eventually

pytestmark = pytest.mark.e2e
NAMES = ["instance001", "instance002", "instance003"]
FACES = ["blocking", "asyncio", "trio"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with Cluster(
        tmp_path_factory.mktemp("open"), NAMES, failover="election", replication={"election_timeout": 1}
    ) as made:
        made.start()
        made.wait_leader()
        with connect(made) as db:
            db.create_space("accounts", sync=True, format=["id:unsigned", "balance:integer"])
            db.create_index("accounts", "primary")
        yield made


def endpoints(cluster: Cluster) -> list[str]:
    return [cluster[name].address for name in NAMES]


def connect(cluster: Cluster) -> synchro.Client:
    return synchro.connect(endpoints(cluster), timeout=10)


def open_everywhere(cluster: Cluster) -> int:
    return sum(instance.remote.info()["transactions"]["open"] for instance in cluster.running)


def test_the_three_clients_move_money(cluster: Cluster) -> None:
    """Read, decide, write: what others did meanwhile is a conflict, and all is done again."""
    with connect(cluster) as db:
        for number in range(4):
            db.space("accounts").replace([number, 100])

        def blocking(source: int, target: int) -> None:
            def move(t: synchro.OpenTransaction) -> None:
                accounts = t.space("accounts")
                row = accounts.get(source)
                assert row is not None and row["balance"] >= 0
                accounts.replace([source, row["balance"] - 1])
                accounts.update(target, [["+", "balance", 1]])

            for _ in range(10):
                db.run_transaction(move, within=20)

        async def awaited(source: int, target: int) -> None:
            async def move(t: Any) -> None:
                accounts = t.space("accounts")
                row = await accounts.get(source)
                await accounts.replace([source, row[1] - 1])
                await accounts.update(target, [["+", 2, 1]])

            async with synchro.aio.connect(endpoints(cluster), timeout=10) as mine:
                for _ in range(10):
                    await mine.run_transaction(move, within=20)

        threads = [
            threading.Thread(target=blocking, args=(0, 1)),
            threading.Thread(target=blocking, args=(1, 0)),
            threading.Thread(target=lambda: asyncio.run(awaited(0, 2))),
            threading.Thread(target=lambda: trio.run(awaited, 0, 3)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        rows = {row[0]: row[1] for row in db.space("accounts").select(limit=4, read="linearizable")}
        assert rows == {0: 80, 1: 100, 2: 110, 3: 110}
    eventually("nothing stays open", lambda: not open_everywhere(cluster))


def test_an_exception_rolls_back_and_a_refusal_does_not(cluster: Cluster) -> None:
    with connect(cluster) as db:
        accounts = db.space("accounts")
        accounts.replace([50, 1])

        def fail() -> None:
            with db.begin() as t:
                t.space("accounts").update(50, [["=", 2, 7]])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        with db.begin(is_sync=True) as t:
            mine = t.space("accounts")
            with pytest.raises(synchro.TupleFound):
                mine.insert([50, 2])
            assert mine.get(50) == (50, 1) and mine.get(51) is None
            assert t.execute([ops.if_absent("accounts", 51), ops.insert("accounts", [51, 5])]) == [
                None,
                (51, 5),
            ]
            assert [row[0] for row in mine.select(50, iterator="GE")] == [50, 51]
            assert accounts.get(51) is None
        assert t.result is not None and t.result.is_sync and t.result.txn is not None
        assert db.wait_transaction(t.request_id) == "committed" and accounts.get(51) == (51, 5)
        with pytest.raises(synchro.IllegalParams, match="over"):
            mine.get(50)


def test_a_plain_stub_needs_no_client(cluster: Cluster) -> None:
    steps: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with grpc.insecure_channel(cluster.wait_leader().address) as channel:
        call = data_pb2_grpc.DataServiceStub(channel).Transact(iter(steps.get, None), timeout=10)
        request = data_pb2.TransactRequest
        steps.put(request(begin=data_pb2.TransactBegin()))
        assert next(call).begun.term >= 1
        row = msgpack.packb([70, 7])
        steps.put(request(op=data_pb2.Op(insert=data_pb2.Insert(space="accounts", tuple=row))))
        assert next(call).tuple.msgpack == row
        steps.put(request(commit=data_pb2.TransactCommit(request_id=b"p" * 16)))
        assert next(call).committed.is_sync
        assert list(call) == [] and call.code() is grpc.StatusCode.OK
        steps.put(None)


def test_a_leader_that_is_lost_takes_its_open_transactions_with_it(cluster: Cluster) -> None:
    """Nothing of them was done; a whole one is done again at the next leader."""
    with connect(cluster) as db:
        db.space("accounts").replace([60, 0])
        seen: list[str] = []

        def work(t: synchro.OpenTransaction) -> None:
            t.space("accounts").update(60, [["+", 2, 1]])
            if not seen:
                leader = cluster.wait_leader()
                seen.append(leader.name)
                leader.kill()
            t.space("accounts").get(60)

        db.run_transaction(work, within=15)
        assert db.space("accounts").get(60) == (60, 1)
        eventually("nothing stays open", lambda: not open_everywhere(cluster))
