"""Identifiers that must not be confused with each other. mypy catches a swap."""

from __future__ import annotations

from typing import Final, NewType

InstanceId = NewType("InstanceId", int)
"""The small number of an instance inside its replica set, 1..31 [M-3]. 0 is `LOCAL`: no instance."""

Lsn = NewType("Lsn", int)
"""The position of a row among the rows first written by one instance; the first row has 1 [W-2]."""

Term = NewType("Term", int)
"""The number of an election epoch, from 1 up [E-1]."""

RequestId = NewType("RequestId", bytes)
"""The 16 bytes by which a client names a request; a retry carries the same ones."""

CallId = NewType("CallId", int)
"""The number that the shell gives to one waiting call, so that a `Reply` finds it. It never leaves the
process."""

LOCAL: Final = InstanceId(0)
"""The origin of rows that stay on their instance, and the vclock component that counts them [W-5]."""

NOBODY: Final = InstanceId(0)
"""The owner of an unclaimed queue, a leader that is not known, a vote that was not given."""

INSTANCE_ID_MAX: Final = InstanceId(31)
NUMBER_END: Final = 2**62
"""LSNs, terms and other numbers from the network are below it. What is counted up from them fits into the 64
bits that files and messages have, and no honest instance lives long enough to reach it."""
TERM_LEAP_MAX: Final = 2**32
"""A peer's term that is further above the own one is refused: no set holds so many elections while one
instance is away, and a few such leaps would use all terms up, everywhere and for good."""
REQUEST_ID_BYTES: Final = 16
INITIAL_TERM: Final = Term(1)
