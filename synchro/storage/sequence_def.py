"""What a sequence is, and which value follows another. Pure values. Rule [D-26], ADR 47."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synchro.errors import IllegalParams, SequenceOverflow
from synchro.row import Tuple
from synchro.storage.schema import ADMIN, TEMPORARY_ID_MIN, check_name

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
SEQUENCE_ID_MAX: Final = TEMPORARY_ID_MIN - 1


@dataclass(frozen=True, slots=True)
class SequenceDef:
    """One sequence. cache: kept for files of Tarantool, which does nothing with it either."""

    id: int
    name: str
    owner: int = ADMIN
    step: int = 1
    min: int = 1
    max: int = INT64_MAX
    start: int = 1
    cache: int = 0
    cycle: bool = False

    def to_tuple(self) -> Tuple:
        """The tuple of `_sequence`."""
        bounds = (self.step, self.min, self.max, self.start)
        return (self.id, self.owner, self.name, *bounds, self.cache, self.cycle)

    @staticmethod
    def from_tuple(row: Tuple) -> SequenceDef:
        """Definition in a tuple of `_sequence` that its format accepted. WrongFormat, IllegalParams."""
        number, owner, name, step, low, high, start, cache, cycle = row[:9]
        check_name(name)
        made = SequenceDef(number, name, owner, step, low, high, start, cache, cycle)
        if why := made._why_wrong():
            raise IllegalParams(f"Can't create or modify sequence '{name}': {why}")
        return made

    def _why_wrong(self) -> str | None:
        numbers = (self.step, self.min, self.max, self.start)
        if not 0 < self.id <= SEQUENCE_ID_MAX:
            return f"its id is out of range [1;{SEQUENCE_ID_MAX}]"
        if not all(INT64_MIN <= number <= INT64_MAX for number in numbers):
            return "step, min, max and start are integers of 64 bits"
        if self.step == 0:
            return "step must not be 0"
        if self.min > self.max:
            return f"max {self.max} must not be less than min {self.min}"
        if not self.min <= self.start <= self.max:
            return f"start {self.start} is not in [{self.min};{self.max}]"
        return None

    def following(self, last: int | None) -> int:
        """The value after `last`; None: it was not used yet. Raises `SequenceOverflow`."""
        if last is None:
            return self.start
        if self.step > 0 and last < self.min:
            return self.min
        if self.step < 0 and last > self.max:
            return self.max
        value = last + self.step
        if self.min <= value <= self.max:
            return value
        if not self.cycle:
            raise SequenceOverflow(
                f"Sequence '{self.name}' has overflowed: no value after {last} in [{self.min};{self.max}]; "
                "nothing was written",
                sequence=self.name,
                last=last,
            )
        return self.min if self.step > 0 else self.max

    def advanced(self, last: int | None, used: int) -> int:
        """Its position when a row has used this value, which it gave or somebody chose.

        A value that is behind leaves it where it is, unless it is the next one: then it went around."""
        if last is None or (used > last if self.step > 0 else used < last):
            return used
        if self.cycle and used == self.following(last):
            return used
        return last


@dataclass(frozen=True, slots=True)
class Numbering:
    """What numbers the tuples of a space. field: 0-based. sequence: None for `_sequence_data` itself, whose
    tuples name theirs."""

    field: int
    sequence: SequenceDef | None
