"""A client that reads elsewhere than it writes sees what it wrote; the CONFIRM comes later (ADR 11)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator

import pytest

import synchro.client
from synchro.cli import app
from tests.e2e.cluster import Cluster, eventually

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    modes = {f"instance00{number}": {"database": {"mode": "rw"}} for number in (1, 2, 3)}
    with Cluster(tmp_path_factory.mktemp("ryw"), modes, instances=modes) as made:
        made.start()
        made["instance001"].remote.promote()
        made["instance001"].remote.create("sync", is_sync=True)
        yield made


def test_each_write_is_seen_on_a_follower_at_once(cluster: Cluster) -> None:
    """Unary calls and transactions; each read waits until its instance has decided what was written."""
    with synchro.client.connect(cluster["instance003"].address, read_from="any") as db:
        for number in range(30):
            db.space("sync").insert([number])
            assert db.space("sync").get([number]) is not None
            with db.transaction() as transaction:
                transaction.insert("sync", [1000 + number])
                transaction.insert("sync", [2000 + number])
            assert db.space("sync").get([2000 + number]) is not None
            db.space("sync").delete([number])
            assert db.space("sync").get([number]) is None


def test_a_definition_is_seen_on_a_follower_at_once(cluster: Cluster) -> None:
    with synchro.client.connect(cluster["instance003"].address, read_from="any") as db:
        for number in range(5):
            db.create_space(f"made{number}", sync=True)
            db.create_index(f"made{number}", "primary")
            assert list(db.space(f"made{number}").select()) == []


def test_a_linearizable_read_on_a_follower_sees_what_anybody_was_answered(cluster: Cluster) -> None:
    """[Q-63]: the reader has not written, so nothing but the word of the owner tells it how far to wait."""
    writer, *readers = (cluster[name].remote for name in ("instance001", "instance002", "instance003"))
    for number in range(3000, 3020):
        writer.insert("sync", number)
        for reader in readers:
            assert reader.select("sync", [number], "EQ", linearizable=True)
    cluster["instance002"].pause()
    try:
        writer.insert("sync", 4000)
        assert readers[1].select("sync", [4000], "EQ", linearizable=True)
    finally:
        cluster["instance002"].resume()


def test_what_waits_is_shown_to_who_asks_for_it(cluster: Cluster) -> None:
    """[Q-56]: on the owner and, once it is there, on a follower; a plain read shows it when it is decided."""
    with synchro.client.connect(cluster["instance001"].address) as db:
        bands = db.space("sync")
        bands.insert([5000, "old"])
        for name in ("instance002", "instance003"):
            cluster[name].pause()
        try:
            bands.replace([5000, "new"], wait="submit")
            assert bands.get([5000]) == (5000, "old")
            assert bands.get([5000], read="read_committed") == (5000, "new")
            assert (5000, "new") in bands.select([4999], iterator="GT", read="read_committed")
        finally:
            for name in ("instance002", "instance003"):
                cluster[name].resume()
        assert bands.get([5000], read="linearizable") == (5000, "new")  # it waits for that
    with synchro.client.connect(cluster["instance003"].address, read_from="any") as db:
        bands = db.space("sync")
        eventually("it is decided", lambda: bands.get([5000]) == (5000, "new"))
        assert bands.get([5000], read="read_committed") == (5000, "new")


def test_a_linearizable_read_waits_for_what_waits_or_says_what_that_is(cluster: Cluster) -> None:
    """[Q-60], ADR 54: on the owner and elsewhere; what it advises is carried out."""

    def run(instance: str, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = app.run(["-e", cluster[instance].address, "--direct", *words])
        return code, out.getvalue(), err.getvalue()

    owner, others = "instance001", ("instance002", "instance003")
    assert run(owner, "config", "set", "replication.synchro_quorum", "3", "-i", owner)[0] == 0
    cluster["instance003"].pause()
    try:
        with synchro.client.connect(cluster[owner].address) as db:
            db.space("sync").insert([6000], wait="submit")
        read = ("get", "sync", "6000", "--read", "linearizable", "--timeout")
        for instance in (owner, "instance002"):
            code, out, err = run(instance, *read, "2s")  # time enough for the round, which goes through
            assert (code, out) == (1, ""), err
            assert "LINEARIZABLE_PENDING" in err and "nothing was read" in err
            advice = err.partition("next:  ")[2].partition("   or   ")
            assert advice[0].split() == ["synchro", "wait", advice[0].split()[-1]]
            assert advice[2].strip() == "synchro queue"
    finally:
        cluster["instance003"].resume()
    name = advice[0].split()[-1]
    assert run(owner, "queue")[0] == 0
    assert run(owner, "wait", name, "--timeout", "10s")[1] == f"{name} is committed\n"
    assert run(owner, "config", "set", "replication.synchro_quorum", "N / 2 + 1", "-i", owner)[0] == 0
    for instance in (owner, *others):
        assert run(instance, *read, "10s")[:2] == (0, "[6000]\n")
