"""The checkers, before anybody believes them: brute force on small random histories, one bad history for each
anomaly."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.jepsen_like.checks import check_follower_reads, check_register, check_set
from tests.jepsen_like.history import INF, Op, Operations, pair
from tests.jepsen_like.linearizable import apply, is_linearizable
from tests.jepsen_like.topologies import SOURCES, check, name_of


def op(f: str, value: object, result: object, began: float, end: float = INF) -> Op:
    type = "info" if end == INF else "ok"
    return Op(f, "k", value, result, began, end, type)


def brute_force(ops: list[Op]) -> bool:
    """Every subset of the unknown ones, in every order that respects time."""
    must = [each for each in ops if each.end != INF]
    may = [each for each in ops if each.end == INF]
    for count in range(len(may) + 1):
        for some in itertools.combinations(may, count):
            for order in itertools.permutations([*must, *some]):
                if respects_time(order) and fits(order):
                    return True
    return False


def respects_time(order: tuple[Op, ...]) -> bool:
    return all(not (b.end < a.began) for a, b in itertools.combinations(order, 2))


def fits(order: tuple[Op, ...]) -> bool:
    state: object = None
    for each in order:
        good, state = apply(state, each)
        if not good:
            return False
    return True


def random_history(rng: random.Random) -> list[Op]:
    """Up to six operations with three values; most ends are soon, so that real time matters."""
    count = rng.randint(1, 6)
    points = list(range(2 * count))
    rng.shuffle(points)
    ops = []
    for number in range(count):
        began, end = sorted(points[2 * number : 2 * number + 2])
        f = rng.choice(["read", "write", "insert", "delete"])
        value = rng.randint(1, 3) if f in ("write", "insert") else None
        some_value = rng.choice([None, 1, 2, 3])
        result = {"read": some_value, "write": value, "insert": rng.random() < 0.5, "delete": some_value}[f]
        is_unknown = rng.random() < 0.25 and f != "read"
        ops.append(op(f, value, result, began, INF if is_unknown else end))
    return ops


def test_the_search_agrees_with_brute_force() -> None:
    rng = random.Random(7)
    seen = {True: 0, False: 0}
    for _ in range(4000):
        ops = random_history(rng)
        expected = brute_force(ops)
        assert is_linearizable(ops) is expected, ops
        seen[expected] += 1
    assert min(seen.values()) > 500, seen


def test_a_long_valid_history_is_quick() -> None:
    """100 operations of six clients on one key, some of them unknown."""
    rng = random.Random(1)
    state: object = None
    ops: list[Op] = []
    for number in range(100):
        at = number * 10
        began, end = at - rng.randint(0, 40), at + rng.randint(1, 40)
        f = rng.choice(["read", "write", "insert", "delete"])
        value = number if f in ("write", "insert") else None
        before = state
        _, state = apply(state, op(f, value, None, 0))
        result = {"read": before, "write": value, "insert": before is None, "delete": before}[f]
        unknown = f != "read" and rng.random() < 0.05
        ops.append(op(f, value, result, began, INF if unknown else end))
    assert is_linearizable(ops, seconds=10)


@pytest.mark.parametrize(
    "ops",
    [
        [op("write", 1, 1, 0, 1), op("read", None, None, 2, 3)],
        [op("write", 1, 1, 0, 1), op("write", 2, 2, 2, 3), op("read", None, 1, 4, 5)],
        [op("read", None, 7, 0, 1)],
        [op("write", 1, 1, 0, INF), op("read", None, 1, 2, 3), op("read", None, None, 4, 5)],
        [op("insert", 1, True, 0, 1), op("insert", 2, True, 2, 3)],
        [op("insert", 1, False, 0, 1)],
        [op("write", 1, 1, 0, 1), op("delete", None, 1, 2, 3), op("delete", None, 1, 4, 5)],
    ],
    ids=["lost-write", "stale-read", "invented", "un-committed", "two-inserts", "phantom-refusal", "twice"],
)
def test_each_anomaly_is_found(ops: list[Op]) -> None:
    assert not is_linearizable(ops)
    found = Operations(ops)
    assert any("not linearizable" in problem for problem in check_register(found))


def test_a_follower_must_not_show_what_failed() -> None:
    failed = Op("write", "k", 1, None, 0, 1, "fail")
    read = Op("read-follower", "k", None, 1, 2, 3, "ok", node="b")
    assert check_follower_reads([failed], [read])
    assert check_follower_reads([], [read])
    assert not check_follower_reads([Op("write", "k", 1, None, 0, INF, "info")], [read])


def add(value: int, began: float, end: float, type: str) -> Op:
    return Op("add", None, value, value, began, end, type)


def test_the_set_checker_finds_each_anomaly() -> None:
    acknowledged, failed, unknown = add(1, 0, 1, "ok"), add(2, 2, 3, "fail"), add(3, 4, INF, "info")
    found = Operations([acknowledged, failed, unknown])
    assert check_set(found, {"a": {1}, "b": {1}}) == []
    assert check_set(found, {"a": {1, 3}, "b": {1, 3}}) == []
    assert any("lost" in each for each in check_set(found, {"a": set()}))
    assert any("differs" in each for each in check_set(found, {"a": {1}, "b": {1, 3}}))
    assert any("failed" in each for each in check_set(found, {"a": {1, 2}}))
    assert any("nobody added" in each for each in check_set(found, {"a": {1, 9}}))
    dirty = Op("read-all", "confirmed", 0, [1, 3], 5, 6, "ok", node="b")
    assert any(
        "not there in the end" in each for each in check_set(Operations([*found.ops, dirty]), {"a": {1}})
    )
    late = Op("read-all", "linearizable", 0, [], 5, 6, "ok", node="b")
    assert any("missed" in each for each in check_set(Operations([*found.ops, late]), {"a": {1}}))


def test_pairing_gives_unknown_operations_no_end() -> None:
    events = [
        {"index": 0, "process": 0, "type": "invoke", "f": "write", "value": 1, "key": 5},
        {"index": 1, "process": "nemesis", "type": "info", "f": "kill", "value": "a"},
        {"index": 2, "process": 1, "type": "invoke", "f": "read", "value": None, "key": 5},
        {"index": 3, "process": 0, "type": "info", "f": "write", "value": 1},
        {"index": 4, "process": 1, "type": "ok", "f": "read", "value": 1},
        {"index": 5, "process": 2, "type": "invoke", "f": "write", "value": 2, "key": 5},
    ]
    ops = pair(events).ops
    assert [(each.f, each.began, each.end, each.type) for each in ops] == [
        ("write", 0, INF, "info"),
        ("read", 2, 4, "ok"),
        ("write", 5, INF, "info"),
    ]
    assert is_linearizable(ops)


def test_the_checker_of_topologies_finds_each_anomaly() -> None:
    """Rows: lost, refused and there, invented, different. Counts: too many, too few, different."""

    def of(f: str, value: object, type: str, key: object = None) -> Op:
        return Op(f, key, value, type=type)

    ops = [of("add", 1, "ok"), of("add", 2, "fail"), of("add", 3, "info"), of("begin", 0, "ok", 7)]
    ops += [of("count", 1, kind, 7) for kind in ("ok", "ok", "info", "fail")]
    good_rows, good_counts = {1: 7, 3: 7}, {7: 3}
    assert check(ops, {"a": good_rows, "b": good_rows}, {"a": good_counts, "b": good_counts}) == []
    assert check(ops, {"a": {1: 7}}, {"a": {7: 2}}) == []
    for rows, words in (
        ([{3: 7}] * 2, "are lost"),
        ([{1: 7, 2: 7}] * 2, "were refused"),
        ([{1: 7, 4: 7}] * 2, "nobody inserted"),
        ([{1: 7}, {1: 7, 3: 7}], "differs"),
    ):
        found = check(ops, dict(zip("ab", rows, strict=True)), {"a": good_counts})
        assert any(words in problem for problem in found), (words, found)
    for counts, words in (
        ([{7: 4}] * 2, "counts 4"),
        ([{7: 1}] * 2, "counts 1"),
        ([{7: 2}, {7: 3}], "other"),
    ):
        found = check(ops, {"a": good_rows}, dict(zip("ab", counts, strict=True)))
        assert any(words in problem for problem in found), (words, found)


def test_every_instance_of_a_topology_hears_every_other() -> None:
    """By way of others too: else a run would wait for rows that no stream brings."""
    for topology, sources in SOURCES.items():
        for number in sources:
            heard, more = {number}, {number}
            while more:
                more = {source for each in more for source in sources[each]} - heard
                heard |= more
            assert heard == set(sources), f"{topology}: {name_of(number)} hears {heard} only"
