"""Members leave and come by the command line, while the others run on. [M-50], [M-52], ADR 41."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from synchro.errors import ReadOnly
from tests.e2e.cluster import Cluster, eventually, soon_s
from tests.e2e.test_whom_to_ask import synchro, with_space

pytestmark = pytest.mark.e2e


def test_a_member_is_expelled_and_another_comes(make_cluster: Callable[..., Cluster]) -> None:
    """The questions first, which change nothing; then the removal; then a new instance of the file."""
    cluster = make_cluster(3, failover="election").start()
    leader, (leaver, other) = with_space(cluster)
    stay = [leader, other]
    for words, code, text in (
        (["member", "expel", leaver.name], 2, "-y says yes; nothing was done"),
        (["member", "expel", "-y", "nobody"], 2, "no member 'nobody'"),
        (["member", "expel", "-y", leader.name], 1, "LOCAL_INSTANCE_ID_IS_READ_ONLY"),
    ):
        asked = synchro(stay, *words)
        assert (asked.returncode, text in asked.stderr) == (code, True), asked.stderr
    number = leaver.id
    cluster.expect_log("upstream_stopped")
    done = synchro(stay, "member", "expel", "-y", leaver.name)
    assert done.returncode == 0, done.stderr
    assert f"{leaver.name} (id {number}) is no member any more" in done.stdout
    eventually("it says why", lambda: leaver.remote.info("ro_reason") == "expelled", soon_s())
    with pytest.raises(ReadOnly):
        leaver.remote.insert("pay", 9, "x")
    told = synchro([*stay, leaver], "status")
    assert f"{leaver.name} was removed from the set" in told.stdout
    assert leader.remote.info("synchro.quorum") == 2
    leader.remote.insert("pay", 2, "after")
    assert leaver.stop() == 0

    new = cluster.add("instance004")
    new.start()
    cluster.wait_following()  # all three, and nobody was restarted
    assert new.id == 4
    listed = synchro(stay, "member", "list")
    assert "instance004" in listed.stdout and new.address in listed.stdout
    cluster.wait_equal("pay")  # who lacks a row of its voters loses the term that its promote begins
    promoted = synchro(stay, "promote", "instance004")
    assert promoted.returncode == 0, promoted.stderr
    new.remote.insert("pay", 3, "by the new one")
    cluster.wait_equal("pay")
