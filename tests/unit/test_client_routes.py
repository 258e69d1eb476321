"""Who leads, as far as answers and hints tell."""

from __future__ import annotations

import pytest

from synchro.client.routes import Routes, parse_endpoints
from synchro.errors import IllegalParams, ReadOnly
from synchro.rpc.generated.v1 import common_pb2, info_pb2


def answer(
    instance: int, *, leader: int = 0, address: str = "", writable: bool = False, term: int = 1
) -> object:
    return info_pb2.WatchInfoResponse(
        header=common_pb2.Header(instance_id=instance, instance_name=f"instance00{instance}"),
        leader=leader,
        leader_address=address,
        is_writable=writable,
        term=term,
        queue_owner=leader,
    )


def test_endpoints_are_checked_and_logins_dropped() -> None:
    assert parse_endpoints("127.0.0.1:1, u:secret@h:2,127.0.0.1:1") == ("127.0.0.1:1", "h:2")
    assert parse_endpoints(["3301"]) == ("127.0.0.1:3301",)
    for bad in ("", "h:notaport", "http://h:1"):
        with pytest.raises(IllegalParams):
            parse_endpoints(bad)


def test_the_writable_instance_of_the_newest_term_leads() -> None:
    """A deposed leader may not know it yet."""
    routes = Routes(["a:1", "b:2"])
    chosen = routes.choose(
        [
            ("a:1", answer(1, leader=1, writable=True, term=2)),
            ("b:2", answer(2, leader=2, writable=True, term=3)),
        ]
    )
    assert chosen == routes.leader == "b:2"


def test_a_leader_outside_the_endpoints_is_found_by_its_address() -> None:
    routes = Routes(["a:1"])
    assert routes.choose([("a:1", answer(1, leader=3, address="c:3"))]) == "c:3"
    assert "c:3" in routes.endpoints()


def test_if_nobody_leads_somebody_is_asked_who_can_say_why() -> None:
    routes = Routes(["a:1", "b:2"])
    assert routes.choose([("a:1", answer(1)), ("b:2", answer(2, term=5))]) == "b:2"
    assert routes.leader is None


def test_a_leader_that_takes_no_writes_says_best_why() -> None:
    """Its configuration keeps it from writing. A demote that names nobody goes there as well."""
    routes = Routes(["a:1", "b:2", "c:3"])
    answers = [(f"{'abc'[n - 1]}:{n}", answer(n, leader=2, term=5)) for n in (1, 2, 3)]
    assert routes.choose(answers) == "b:2"
    assert routes.leader is None


def test_a_hint_names_an_instance_that_is_known_by_another_address() -> None:
    routes = Routes(["a:1", "b:2"])
    routes.choose([("a:1", answer(1, leader=1, writable=True)), ("b:2", answer(2))])
    error = ReadOnly("ro", leader_id=2, leader_name="instance002", leader_address="inside:2")
    assert routes.redirect("a:1", error)
    assert routes.leader == "b:2"


def test_a_hint_to_who_refused_is_no_hint() -> None:
    routes = Routes(["a:1"])
    routes.leader = "a:1"
    assert not routes.redirect("a:1", ReadOnly("ro", leader_id=1, leader_address="a:1", leader_name="x"))
    assert routes.leader is None


def test_an_old_hint_does_not_replace_a_newer_leader() -> None:
    routes = Routes(["a:1", "b:2", "c:3"])
    routes.leader = "c:3"  # found by another thread while this call was on its way to a:1
    routes.redirect("a:1", ReadOnly("ro", leader_id=2, leader_address="b:2", leader_name="x"))
    assert routes.leader == "c:3"
