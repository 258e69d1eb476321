"""Sessions, and who may try a password how often. ADR 43, [S-2]."""

from __future__ import annotations

from itertools import count

import pytest

from synchro.errors import LoginLimited
from synchro.server.login_limits import (
    ADDRESS_BURST,
    USER_BACK_S,
    USER_BURST,
    Buckets,
    LoginLimits,
    bucket_of,
)
from synchro.server.sessions import SESSION_S, Sessions
from synchro.storage.users import Caller

ALICE, BOB = Caller(32, "alice"), Caller(33, "bob")


def sessions(**limits: int) -> Sessions:
    numbers = count(1)
    return Sessions(new_token=lambda: f"t{next(numbers)}", **limits)


# --- sessions ---------------------------------------------------------------------------------------------


def test_a_session_is_found_by_what_the_metadata_says_of_it() -> None:
    known = sessions()
    opened = known.open(ALICE, b"v", now=0)
    assert opened.key == "Bearer t1" and opened.token == "t1"
    assert known.find("Bearer t1") is opened
    assert known.find("t1") is None and known.find("Bearer t2") is None and known.find("") is None


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {Sessions().open(ALICE, b"v", now=0).token for _ in range(100)}
    assert len(tokens) == 100 and min(map(len, tokens)) >= 43


def test_a_session_that_is_used_is_renewed_and_one_that_is_not_ends() -> None:
    known = sessions()
    used, idle = known.open(ALICE, b"v", now=0), known.open(ALICE, b"v", now=0)
    for now in range(60, int(SESSION_S) + 61, 60):
        assert known.find(used.key)
        known.sweep(now)
    assert known.find(used.key) is used and known.find(idle.key) is None
    known.check()


def test_a_session_with_a_stream_is_in_use() -> None:
    known = sessions()
    opened = known.open(ALICE, b"v", now=0)
    opened.on_end.add(lambda: None)
    known.sweep(SESSION_S * 2)
    assert known.find(opened.key) is opened


def test_one_user_cannot_have_more_than_its_share() -> None:
    """Sessions.N1: the one that was not used for the longest time makes room, and none with a stream."""
    known = sessions(user_max=3)
    streaming = known.open(ALICE, b"v", now=0)
    streaming.on_end.add(lambda: None)
    first, second = known.open(ALICE, b"v", now=1), known.open(ALICE, b"v", now=2)
    other = known.open(BOB, b"v", now=0)
    known.find(first.key)
    known.open(ALICE, b"v", now=3)
    assert known.find(second.key) is None
    assert all(known.find(kept.key) for kept in (streaming, first, other))
    known.check()


def test_all_together_have_a_bound_and_who_has_most_makes_room() -> None:
    known = sessions(total_max=4)
    for now in range(3):
        known.open(ALICE, b"v", now=now)
    bobs = known.open(BOB, b"v", now=0)
    known.open(BOB, b"v", now=9)
    assert len(known) == 4 and known.find(bobs.key) and known.find("Bearer t1") is None
    known.check()


def test_a_user_with_another_password_has_no_sessions_and_its_streams_are_told() -> None:
    """Sessions.N2"""
    known, told = sessions(), []
    old, kept = known.open(ALICE, b"old", now=0), known.open(BOB, b"v", now=0)
    old.on_end.add(lambda: told.append("old"))
    known.end_stale(lambda caller, verifier: (caller, verifier) == (BOB, b"v"))
    assert told == ["old"] and known.find(old.key) is None and known.find(kept.key) is kept
    known.end(old)
    assert told == ["old"]


def test_a_session_does_not_show_its_token() -> None:
    assert "t1" not in repr(sessions().open(ALICE, b"v", now=0))


# --- how often --------------------------------------------------------------------------------------------


def test_ten_wrong_passwords_then_one_each_five_seconds() -> None:
    limits = LoginLimits()
    for _ in range(USER_BURST):
        limits.begin("10.0.0.7", "admin", now=0)
    with pytest.raises(LoginLimited, match=r"10\.0\.0\.7.*nothing was done. Try again in 6 s") as refused:
        limits.begin("10.0.0.7", "admin", now=0)
    assert refused.value.details["retry_after_s"] == "6"
    limits.begin("10.0.0.7", "admin", now=USER_BACK_S)
    with pytest.raises(LoginLimited):
        limits.begin("10.0.0.7", "admin", now=USER_BACK_S + 1)


def test_a_right_password_costs_nothing_and_another_address_is_not_concerned() -> None:
    limits = LoginLimits()
    for _ in range(5 * ADDRESS_BURST):
        limits.begin("10.0.0.7", "app", now=0)
        limits.was_right("10.0.0.7", "app")
    for _ in range(USER_BURST):
        limits.begin("10.0.0.7", "app", now=0)
    limits.check("10.0.0.8", "app", now=0)
    limits.check("10.0.0.7", "other", now=0)


def test_other_names_do_not_help_an_address() -> None:
    limits = LoginLimits()
    for number in range(ADDRESS_BURST):
        limits.begin("10.0.0.7", f"user{number}", now=0)
    with pytest.raises(LoginLimited):
        limits.begin("10.0.0.7", "one-more", now=0)


def test_ten_thousand_tries_reach_the_password_less_than_a_thousand_times() -> None:
    """At a try each 10 ms, whatever the names are."""
    limits, reached = LoginLimits(), 0
    for number in range(10_000):
        try:
            limits.begin("10.0.0.7", f"user{number % 50}", now=number / 100)
        except LoginLimited:
            continue
        reached += 1
    assert reached <= ADDRESS_BURST + 101


def test_the_table_of_addresses_has_a_bound() -> None:
    buckets = Buckets(3, 1.0, keys_max=10)
    for number in range(1000):
        buckets.take(number, now=0)
    assert len(buckets) == 10
    assert all(buckets.wait_s(number, now=100) == 0 for number in range(1000)) and not len(buckets)


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("::1", "::1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_for_whom_a_failure_counts(host: str, counted: str) -> None:
    assert bucket_of(host) == counted
