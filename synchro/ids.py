"""Identifiers that must not be confused with each other. mypy catches a swap."""

from __future__ import annotations

from typing import Final, NewType

InstanceId = NewType("InstanceId", int)
"""Small number of an instance inside its replica set, 1..31 [M-3]. 0 is `LOCAL`: no instance."""

Lsn = NewType("Lsn", int)
"""Position of a row among the rows first written by one instance; the first row has 1 [W-2]."""

Term = NewType("Term", int)
"""Election epoch, from 1 up [E-1]."""

RequestId = NewType("RequestId", bytes)
"""16 bytes chosen by the client; a retry carries the same ones."""

CallId = NewType("CallId", int)
"""Number the shell gives to one waiting call, so that a `Reply` finds it. Never leaves the process."""

LOCAL: Final = InstanceId(0)
"""Origin of rows that stay on their instance, and the vclock component that counts them [W-5]."""

NOBODY: Final = InstanceId(0)
"""Owner of an unclaimed queue; leader that is not known; vote that was not given."""

INSTANCE_ID_MAX: Final = InstanceId(31)
NUMBER_END: Final = 2**62
"""LSNs, terms and the like that come from the network lie below it: what is counted up from them fits into
the 64 bits that files and messages have, and no honest instance lives to reach it."""
LSN_RESERVE: Final = 2**32
"""So close to `NUMBER_END` an instance writes no data any more: what it leads is still confirmed."""
TERM_LEAP_MAX: Final = 2**32
"""A peer's term further above the own one is refused: no set holds so many elections while one is away, and
a few such leaps would use all terms up, everywhere and for good."""
REQUEST_ID_BYTES: Final = 16
INITIAL_TERM: Final = Term(1)
