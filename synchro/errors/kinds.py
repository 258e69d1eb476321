"""What an error says of itself: gRPC code, details, exit code, what a client does next.

No gRPC here: cores raise these. `rpc/status.py` makes statuses of them, `client/retry.py` asks for `retry`,
the command line for `exit_code` and `next_command`, `tools/reference.py` for all that docs/errors.md shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, Flag, IntEnum, auto
from types import MappingProxyType
from typing import ClassVar, Final


class Code(IntEnum):
    """gRPC status codes that errors have, by their numbers."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Extra(Flag):
    """Details that go along with the ErrorInfo of a gRPC status."""

    NONE = 0
    LEADER = auto()
    """LeaderHint: who can do it."""
    RETRY = auto()
    """RetryInfo: nothing was done, try again after this."""
    QUOTA = auto()
    """QuotaFailure: which limit."""
    BAD_REQUEST = auto()
    """BadRequest: which field is wrong."""
    RESOURCE = auto()
    """ResourceInfo: which space or index."""


class Retry(Enum):
    """What a client may do about a call that ended so."""

    ELSEWHERE = auto()
    """Nothing was done; somebody else can do it."""
    LATER = auto()
    """Nothing was done; the same place can do it soon."""
    LOST = auto()
    """Perhaps it was done."""
    UNKNOWN = auto()
    """The server says that the outcome is unknown; trying again would not tell more than waiting."""
    REFUSED = auto()
    """Nothing was done, and trying again would not help."""


class Exit(IntEnum):
    """Exit codes of the command line; a script relies on them."""

    FAILED = 1
    USAGE = 2
    NO_CONNECTION = 3
    READ_ONLY = 4
    UNKNOWN = 5
    CONFLICT = 6
    NOT_FOUND = 7
    ACCESS = 8
    BUG = 70
    """An error that nobody expected (EX_SOFTWARE)."""
    INTERRUPTED = 130


_NO_FACTS: Final[Mapping[str, str]] = MappingProxyType({})


class SynchroError(Exception):
    """The caller may not do this now, or the input is bad. Nothing was changed unless the class says so.

    details: machine-readable facts (strings), sent as ErrorInfo metadata.
    """

    reason: ClassVar[str] = "INTERNAL"
    """The stable word for it."""
    tnt_code: ClassVar[int] = 0
    """Tarantool's number for the same; 0: it has none."""
    code: ClassVar[Code] = Code.INTERNAL
    extra: ClassVar[Extra] = Extra.NONE
    facts: ClassVar[Mapping[str, str]] = _NO_FACTS
    """Metadata that every error of the class has."""
    exit_code: ClassVar[Exit] = Exit.FAILED
    retry: ClassVar[Retry] = Retry.REFUSED
    advice: ClassVar[str] = ""
    """What to do, for the reference; "" = see `next_command`."""
    next_command: ClassVar[str] = ""
    """What the command line proposes."""

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, str] = {k: str(v) for k, v in details.items() if v is not None}

    def __str__(self) -> str:
        return self.message


def meaning_of(kind: type[SynchroError]) -> str:
    """The first sentence of its docstring, without details and rule ids: what happened."""
    first = " ".join((kind.__dict__.get("__doc__") or "").partition("\n\n")[0].split())
    return re.sub(r" \[[A-Z]-\d+\]", "", first.partition(" details:")[0]).rstrip(".")


# --- what many have in common ---------------------------------------------------------------------------


class BadInput(SynchroError):
    """The call or its data is wrong."""

    code = Code.INVALID_ARGUMENT
    extra = Extra.BAD_REQUEST


class Precondition(SynchroError):
    """The state of the instance or of its set does not allow it."""

    code = Code.FAILED_PRECONDITION


class Elsewhere(SynchroError):
    """Another instance can do it; a hint names it."""

    code = Code.FAILED_PRECONDITION
    extra = Extra.LEADER
    exit_code = Exit.READ_ONLY
    retry = Retry.ELSEWHERE
    advice = "send it to the leader in the hint"


class NotNow(SynchroError):
    """The same place can do it soon; nothing was done."""

    code = Code.UNAVAILABLE
    extra = Extra.RETRY
    retry = Retry.LATER
    advice = "retry"


class Overtaken(SynchroError):
    """Something else came first."""

    code = Code.ABORTED
    exit_code = Exit.CONFLICT


class OutcomeOpen(SynchroError):
    """A write may have been done, or may still be. Nothing is rolled back because of a timeout."""

    facts = MappingProxyType({"outcome": "unknown"})
    exit_code = Exit.UNKNOWN
    retry = Retry.UNKNOWN


class AlreadyThere(SynchroError):
    """What is to be made exists; nothing was done."""

    code = Code.ALREADY_EXISTS
    exit_code = Exit.CONFLICT
