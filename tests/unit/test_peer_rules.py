"""Whom a peer admits, from where the log is kept, after how much silence a link is dead."""

from __future__ import annotations

import pytest

from synchro.config import FencingMode, Settings
from synchro.errors import ConnectionToSelf, IllegalParams, ReplicasetUuidMismatch, UnknownReplica
from synchro.ids import LOCAL, InstanceId, Lsn
from synchro.replication.admission import check_set, check_stranger, check_twin, member_of
from synchro.replication.retention import kept_for, log_floor, retained_from
from synchro.replication.silence import silence_s
from synchro.vclock import Vclock
from tests.mesh import uuid_of

ONE, TWO, THREE = InstanceId(1), InstanceId(2), InstanceId(3)


def clock(*lsns: int, local: int = 0) -> Vclock:
    """Of instances 1, 2, ..."""
    return Vclock({LOCAL: Lsn(local)} | {InstanceId(n): Lsn(lsn) for n, lsn in enumerate(lsns, 1)})


def test_who_subscribes_must_have_a_uuid_of_its_own() -> None:
    """[M-32]"""
    me, you = uuid_of(1), uuid_of(2)
    for wrong in ("", "00000000-0000-0000-0000-000000000000", "abc", f"{you}\n", "x" * 3_000_000):
        with pytest.raises(IllegalParams) as refused:
            check_stranger(wrong, own_uuid=me)
        assert len(refused.value.message) < 300
    with pytest.raises(ConnectionToSelf):
        check_stranger(me, own_uuid=me)
    check_stranger(you, own_uuid=me)


def test_a_uuid_in_other_letters_is_no_other_uuid() -> None:
    """[M-20]: an instance asked with its UUID in capitals became a second member, and the quorum grew."""
    uuid = "0000000a-000b-4000-8000-00000000000c"
    members: dict[InstanceId, tuple[str, str | None]] = {ONE: (uuid, "one"), TWO: (uuid_of(2), None)}
    with pytest.raises(IllegalParams, match="in nothing but case; nothing was done"):
        check_twin(uuid.upper(), members)
    check_twin(uuid, members)
    check_twin(uuid_of(3), members)
    check_twin(uuid.upper(), {ONE: (uuid.upper(), "of an older version")})


def test_who_subscribes_is_of_the_same_set() -> None:
    """[M-32]"""
    with pytest.raises(ReplicasetUuidMismatch) as refused:
        check_set("theirs", expected="ours")
    assert refused.value.details == {"expected": "ours", "got": "theirs"}
    check_set("ours", expected="ours")


def test_who_subscribes_is_registered_first() -> None:
    """[M-32]"""
    members: dict[InstanceId, tuple[str, str | None]] = {ONE: ("me", "n1"), TWO: ("you", None)}
    assert member_of("you", members) == TWO
    with pytest.raises(UnknownReplica):
        member_of("somebody", members)


def test_the_log_is_kept_from_the_oldest_snapshot() -> None:
    """[W-40]"""
    assert log_floor(clock(5, 5), members=(), acked={}, joins=()) == clock(5, 5)


def test_the_log_is_kept_for_the_slowest_member() -> None:
    """[W-41]"""
    acked = {TWO: clock(9, 3), THREE: clock(2, 9)}
    assert log_floor(clock(5, 5), members=(TWO, THREE), acked=acked, joins=()) == clock(2, 3)


def test_all_of_the_log_is_kept_for_a_member_that_was_not_heard() -> None:
    """[W-42]"""
    assert log_floor(clock(5), members=(TWO,), acked={}, joins=()) == Vclock()


def test_the_log_is_kept_for_a_join() -> None:
    """[W-41]"""
    assert log_floor(clock(5), members=(), acked={}, joins=[clock(4)]) == clock(4)


def test_local_rows_are_kept_for_recovery_only() -> None:
    """Peers never get them, so what peers have says nothing of them."""
    acked = {TWO: clock(5)}
    assert log_floor(clock(5, local=7), members=(TWO,), acked=acked, joins=()) == clock(5, local=7)


FILES = [(clock(), 100.0), (clock(3), 200.0), (clock(6), 300.0)]
"""Start of each closed file, and when it was written to last."""


@pytest.mark.parametrize(
    ("now", "period", "paused_until", "kept"),
    [
        (310.0, 0.0, 0.0, None),
        (310.0, 50.0, 0.0, clock(6)),
        (310.0, 150.0, 0.0, clock(3)),
        (310.0, 1e9, 0.0, clock()),
        (310.0, 0.0, 311.0, clock()),
        (311.0, 0.0, 311.0, None),
        (250.0, 1.0, 0.0, clock(6)),  # the clock went back
    ],
)
def test_the_age_of_a_file_keeps_it_and_all_behind_it(
    now: float, period: float, paused_until: float, kept: Vclock | None
) -> None:
    """[W-18], [W-43]"""
    assert retained_from(FILES, now=now, period_s=period, paused_until=paused_until) == kept
    floor = log_floor(clock(9), members=(), acked={}, joins=(), retained=kept)
    assert floor == (clock(9) if kept is None else kept)


def test_who_keeps_the_oldest_file_is_named() -> None:
    needs = {"n2": clock(4, local=2), "n3": clock(9, local=2), "snapshots": clock(9, local=1)}
    assert kept_for(clock(5, local=1), needs) == ["n2"]
    assert kept_for(clock(5, local=2), needs) == ["n2", "snapshots"]
    assert kept_for(clock(1), needs) == []


@pytest.mark.parametrize("mode", FencingMode)
@pytest.mark.parametrize("is_leader", [True, False])
def test_only_a_strictly_fenced_leader_gives_links_up_earlier(mode: FencingMode, is_leader: bool) -> None:
    """[E-30], [A-27]"""
    settings = Settings(replication_timeout_s=1.0, election_fencing_mode=mode)
    expected = 2.0 if mode is FencingMode.STRICT and is_leader else 4.0
    assert silence_s(settings, is_leader=is_leader) == expected
