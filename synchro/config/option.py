"""What one option of the configuration is: where it stands, what it may be, what it means. Data only.

`settings` declares most options, at the field that holds the value; `options` has the table of all; `values`
reads what a person wrote. Rules [C-2], [C-33].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar, cast

T = TypeVar("T")

KIB: Final = 1024
MIB: Final = 1024 * KIB
SECONDS_MIN: Final = 1e-9
SECONDS_MAX: Final = 3_153_600_000.0
"""100 years: Tarantool's "never"."""
SIZE_MAX: Final = 10**18
COUNT_MAX: Final = 10**9
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


# --- kinds of values ------------------------------------------------------------------------------------
# Named tuples: every verb imports them, and a dataclass takes seven times as long to make.


class Flag(NamedTuple):
    @property
    def text(self) -> str:
        return "true or false"


class Count(NamedTuple):
    """An integer from `low` to `high`."""

    low: int = 1
    high: int = COUNT_MAX

    @property
    def text(self) -> str:
        return f"integer {self.low}..{self.high}"


class Seconds(NamedTuple):
    """A duration: a number, or one with a unit. zero: 0 is legal. refusal: what is said of one below."""

    zero: bool = False
    refusal: str = "the value must be greater than 0"

    @property
    def low(self) -> float:
        return 0 if self.zero else SECONDS_MIN

    @property
    def high(self) -> float:
        return SECONDS_MAX

    @property
    def text(self) -> str:
        return "seconds, or 500ms, 5m, 1h"


class Bytes(NamedTuple):
    """A size from `low` to `high`: a whole number, or one with a unit."""

    low: int = 0
    high: int = SIZE_MAX

    @property
    def text(self) -> str:
        return "bytes, or 10MB, 64KiB"


class Word(NamedTuple):
    """One of `words`. aliases: other spellings, word -> which of `words`."""

    words: tuple[str, ...]
    aliases: Mapping[str, str] = _NONE

    @property
    def text(self) -> str:
        return " | ".join(self.words)


class Text(NamedTuple):
    """A string that matches `pattern` as a whole. is_secret: it is shown nowhere."""

    pattern: str = r"[^\x00]{0,4096}"
    text: str = "a string"
    is_secret: bool = False


class Formula(NamedTuple):
    """A number, or a formula of N [Q-30]. with_q: Q may stand in it, and the result is put into 1 to N."""

    with_q: bool = False

    @property
    def text(self) -> str:
        return "number or formula"


class NameOfInstance(NamedTuple):
    @property
    def text(self) -> str:
        return "name of an instance"


class ListOf(NamedTuple):
    """`low` to `high` elements. what: their name in the plural."""

    inner: Text | Section | Anything
    low: int
    high: int
    what: str

    @property
    def text(self) -> str:
        return f"list of {self.what}"


class Anything(NamedTuple):
    text: str = "anything"


Kind = Flag | Count | Seconds | Bytes | Word | Text | Formula | NameOfInstance | ListOf | Anything
ADDRESS: Final = Text(r"[^\x00-\x1f]{1,300}", "an address HOST:PORT")
FILE: Final = Text(r"[^\x00]{1,4096}", "a file name")
PASSWORD: Final = Text(
    r"[^\x00\r\n]{0,256}",
    "a string of at most 256 characters without line break and NUL (quote a number: '123')",
    is_secret=True,
)
UUID_TEXT: Final = Text(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", "a UUID")


def ends(kind: Kind) -> tuple[float, float] | None:
    """The smallest and the largest legal value of a number."""
    return (kind.low, kind.high) if isinstance(kind, Count | Seconds | Bytes) else None


# --- options --------------------------------------------------------------------------------------------


class Effect(Enum):
    ACTS = auto()
    LATER = auto()
    """Read and checked; this release does nothing with it, and says so."""
    KEPT = auto()
    """What it asks for is so, whatever it says."""
    IGNORED = auto()
    """Of Tarantool, without a counterpart: a file with it loads, and a warning names it."""


class Scope(Enum):
    """Where in the file it may stand [C-1]."""

    ANYWHERE = auto()
    NOT_AT_INSTANCES = auto()
    REPLICASET = auto()
    INSTANCE = auto()


class Option(NamedTuple):
    """key: dotted path; meaning: one line for the reference and for editors.

    is_live: a running instance takes a new value over; else a change needs a restart [C-42].
    field: of `Settings`, or of `Limits` with "limits." in front; "" if the value does not go into one field.
    default: what counts without it; None: see `default_text`, or there is none.
    fixed: why no other value than the default is taken; "": others are.
    """

    key: str
    kind: Kind
    meaning: str = ""
    is_live: bool = False
    effect: Effect = Effect.ACTS
    scope: Scope = Scope.ANYWHERE
    field: str = ""
    default: object = None
    default_text: str = ""
    fixed: str = ""

    @property
    def is_secret(self) -> bool:
        return isinstance(self.kind, Text) and self.kind.is_secret

    @property
    def variable(self) -> str:
        """In the environment, after `SYNCHRO_` [C-2]."""
        return self.key.replace(".", "_").upper()


class Change(NamedTuple):
    """An option that two configurations of one instance give other values.

    before, after: plain values, as YAML has them; None: it is not given. is_live: as in `Option`.
    """

    key: str
    before: Any
    after: Any
    is_live: bool

    def __str__(self) -> str:
        shown = f"{self.key}: {_shown(self.before)} -> {_shown(self.after)}"
        return shown if self.is_live else f"{shown} (needs a restart)"


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


class Section(NamedTuple):
    """A map with known keys; or, with `each`, a map from names to maps or values."""

    keys: Mapping[str, Option | Section] = _NONE
    each: Option | Section | None = None
    required: tuple[str, ...] = ()
    hints: Mapping[str, str] = _NONE
    """Keys that people try, and what to say."""
    meaning: str = ""


DECLARED: Final = "option"
"""Under this key the metadata of a field has its `Option`."""


def option(
    default: T,
    key: str,
    kind: Kind,
    meaning: str,
    *,
    is_live: bool = False,
    effect: Effect = Effect.ACTS,
    default_text: str = "",
    fixed: str = "",
) -> T:
    """A field of a dataclass that an option of the configuration sets."""
    declared = Option(
        key, kind, meaning, is_live, effect, default=default, default_text=default_text, fixed=fixed
    )
    made: Any = field(default=default, metadata={DECLARED: declared})
    return cast(T, made)


def told_value(key: str, value: object) -> str:
    """What the log says of a value that is in use now. Two options are called as documents have them, which
    are of a time without files [A-64]."""
    match key:
        case "replication.peers":
            return f"set 'replication' configuration option to {json.dumps(value)} ({key})"
        case "database.mode" if value in ("ro", "rw"):
            return f"set 'read_only' configuration option to {json.dumps(value == 'ro')} ({key}: {value})"
        case _:
            return f"set '{key}' configuration option to {json.dumps(value)}"
