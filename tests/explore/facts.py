"""What was ever so in a set, and which of it may not be true together: the invariants S1 to S12."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple


class Violation(Exception):
    """rule: the id of the invariant that does not hold."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class Kind(IntEnum):
    """What a fact is about, and its value."""

    LEADS = 1
    """(term,): instance"""
    VOTES = 2
    """(instance, term): for whom"""
    FATE = 3
    """(origin, LSN): `FateOf`, decided in the queue term `term`"""
    NOP = 4
    """(origin, LSN)"""
    ROW = 5
    """(origin, LSN): bytes"""
    CONFIRMS = 6
    """(term,): instance"""
    TOLD = 7
    """(origin, LSN): a caller heard that it is committed"""
    OWNS = 8
    """(term,): the instance whose own PROMOTE is decided in its log"""
    IS = 9
    """(origin, LSN): the call that made it"""
    REFUSED = 10
    """(call,): it heard that nothing was done, or that all is undone"""


class FateOf(IntEnum):
    ROLLED_BACK = 0
    COMMITTED = 1


class Fact(NamedTuple):
    kind: Kind
    about: tuple[int, ...]
    value: int | bytes = 0
    term: int = 0

    def __str__(self) -> str:
        value = self.value.name if isinstance(self.value, FateOf) else self.value
        return f"{self.kind.name} {self.about} {value!r}"


ONE_VALUE = {
    Kind.LEADS: "S1",
    Kind.VOTES: "S1",
    Kind.FATE: "S5",
    Kind.ROW: "S10",
    Kind.CONFIRMS: "S9",
    Kind.OWNS: "S9",
}
"""Of these there is one value of each, or the invariant does not hold."""


class History:
    """What was so in one state of the set or before: each set of facts is known by a number."""

    def __init__(self) -> None:
        self.all: list[frozenset[Fact]] = [frozenset()]
        self._numbers: dict[frozenset[Fact], int] = {frozenset(): 0}
        self._sums: dict[tuple[int, frozenset[Fact]], tuple[int, frozenset[Fact]]] = {}

    def add(self, number: int, facts: frozenset[Fact]) -> tuple[int, frozenset[Fact]]:
        """The number of both together, and what is new. Raises `Violation`."""
        known = self._sums.get((number, facts))
        if known is None:
            before = self.all[number]
            new = facts - before
            after = before | new
            if new:
                _check(after)
            made = self._numbers.setdefault(after, len(self.all))
            if made == len(self.all):
                self.all.append(after)
            known = self._sums[number, facts] = (made, new)
        return known


def _check(facts: frozenset[Fact]) -> None:
    first: dict[tuple[Kind, tuple[int, ...]], Fact] = {}
    for fact in facts:
        other = first.setdefault((fact.kind, fact.about), fact)
        if other.value != fact.value and fact.kind in ONE_VALUE:
            raise Violation(ONE_VALUE[fact.kind], f"{other}, and {fact}")
    committed = {fact.about for fact in facts if fact.kind is Kind.FATE and fact.value == FateOf.COMMITTED}
    for told in _of(facts, Kind.TOLD):
        if told.about not in committed:
            raise Violation("S4", f"a caller heard that {told.about} is committed, and it is not")
    for made in _of(facts, Kind.IS):
        assert isinstance(made.value, int)
        if made.about in committed and Fact(Kind.REFUSED, (made.value,)) in facts:
            raise Violation("S4", f"{made.about} is committed, and its caller was refused")
    for nop in _of(facts, Kind.NOP):
        if nop.about in committed:
            raise Violation("S3", f"{nop.about} is committed, and somebody made it a Nop")


def _of(facts: frozenset[Fact], kind: Kind) -> Iterator[Fact]:
    return (fact for fact in facts if fact.kind is kind)
