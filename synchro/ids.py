"""Identifiers that must not be confused with each other. mypy catches a swap."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final, NewType

InstanceId = NewType("InstanceId", int)
"""The small number of an instance inside its replica set, 1..31 [M-3]. 0 is `LOCAL`: no instance."""

Lsn = NewType("Lsn", int)
"""The position of a row among the rows first written by one instance; the first row has 1 [W-2]."""

Term = NewType("Term", int)
"""The number of an election epoch, from 1 up [E-1]."""

InstanceName = NewType("InstanceName", str)
"""Name of an instance, made by `instance_name`. Replica sets and groups are named by the same rule [M-5]."""

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
ANONYMOUS: Final = InstanceId(32)
"""What an instance without an id has in its place, inside its own process only (ADR 45) [M-6]: no row, vote,
ack or message ever names it. It is neither `LOCAL` nor `NOBODY`, so nothing of those is taken for its own."""
NUMBER_END: Final = 2**62
"""LSNs, terms and other numbers from the network are below it. What is counted up from them fits into the 64
bits that files and messages have, and no honest instance lives long enough to reach it."""
LSN_RESERVE: Final = 2**32
"""So close to `NUMBER_END` an instance writes no data any more: what it leads is still confirmed."""
TERM_LEAP_MAX: Final = 2**32
"""A peer's term that is further above the own one is refused: no set holds so many elections while one
instance is away, and a few such leaps would use all terms up, everywhere and for good."""
REQUEST_ID_BYTES: Final = 16
INITIAL_TERM: Final = Term(1)


# --- names ----------------------------------------------------------------------------------------------

NAME_LENGTH_MAX: Final = 63
"""A label of a host name has as many."""
NAME_PATTERN: Final = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"


def why_no_name(text: str) -> str | None:
    """Why this is no name of an instance, a replica set or a group; None: it is one (ADR 26) [M-5].

    The one rule: the configuration, the command line, and whoever registers a member ask here.
    """
    if re.fullmatch(NAME_PATTERN, text):
        return None
    return (
        f"{text[:70]!r} is not a name: 1 to {NAME_LENGTH_MAX} letters a-z and A-Z, digits, '-' and '_', "
        "the first one not '-'"
    )


def instance_name(text: str) -> InstanceName:
    """Raises ValueError that says what is wrong."""
    if (why := why_no_name(text)) is not None:
        raise ValueError(why)
    return InstanceName(text)


def name_like(text: str) -> str | None:
    """The nearest name, for a hint; None if nothing is left of it."""
    plain = unicodedata.normalize("NFKD", text[: 4 * NAME_LENGTH_MAX]).encode("ascii", "ignore").decode()
    words = re.findall(r"[A-Za-z0-9_-]+", plain)
    return "-".join(words).strip("-")[:NAME_LENGTH_MAX].rstrip("-") or None


def twin_of(name: str, names: Iterable[str]) -> str | None:
    """Another one of `names` that differs from `name` in case only: no two of a set may (ADR 26).

    Where files or hosts are named after them, as on many systems, both would be one.
    """
    return next((other for other in names if other != name and other.lower() == name.lower()), None)
