"""Options that every verb has, and the client they describe. No gRPC is imported before it is needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal

from synchro.errors import IllegalParams

if TYPE_CHECKING:
    from synchro.client import Client

DEFAULT_ENDPOINTS: Final = "127.0.0.1:3301,127.0.0.1:3302,127.0.0.1:3303"
"""Where `synchro init` puts instances."""
DEFAULT_TIMEOUT_S: Final = 5.0
OUTPUTS: Final = ("table", "json", "yaml", "jsonl")
_UNITS: Final = {"": 1.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(slots=True)
class CommonOptions:
    """What stood before or behind the verb, or in the environment."""

    endpoints: str = ""
    user: str = ""
    password_file: str = ""
    cacert: str = ""
    cert: str = ""
    key: str = ""
    timeout: str = ""
    output: str = "table"
    color: bool = True
    verbose: int = 0
    direct: bool = False
    given: set[str] = field(default_factory=set)

    def forget(self) -> None:
        """As at the start of a command line."""
        fresh = CommonOptions(color="NO_COLOR" not in os.environ)
        for option in fields(fresh):
            setattr(self, option.name, getattr(fresh, option.name))

    def keep(self, name: str, value: Any, *, is_given: bool = True) -> None:
        """is_given: on the command line."""
        if name == "no_color":
            self.color = self.color and not value
        elif name == "verbose":
            self.verbose += value
        else:
            setattr(self, name, value)
        if is_given:
            self.given.add(name)

    def arguments(self) -> list[str]:
        """What was given on the command line and says how to connect and what to print, as it is given
        again."""
        found = []
        for name in ("user", "password_file", "cacert", "cert", "key", "timeout", "output"):
            if name in self.given:
                found += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        return [*found, *["--no-color"] * ("no_color" in self.given), *["-v"] * self.verbose]

    @property
    def timeout_s(self) -> float:
        return parse_duration(self.timeout) if self.timeout else DEFAULT_TIMEOUT_S

    @property
    def where(self) -> str:
        return self.endpoints or DEFAULT_ENDPOINTS


options = CommonOptions()
"""Of this run of the program."""


def parse_duration(text: str) -> float:
    """`5`, `5s`, `500ms`, `2m`: seconds. Raises `IllegalParams`."""
    from synchro.config import DURATION_S_MAX

    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)", text.strip())
    if match is None or match[2] not in _UNITS:
        raise IllegalParams(f"{text!r} is not a time; examples: 5s, 500ms, 2m")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > DURATION_S_MAX:
        raise IllegalParams(f"{text.strip()[:40]} is longer than a year; times are at most 365 days")
    return seconds


@contextmanager
def client(*, read_from: Literal["leader", "any"] = "any", where: str = "") -> Iterator[Client]:
    """A client of `where`, or else of `-e`; closed in any case, since a live stream can keep the interpreter
    from leaving.

    read_from: "any" = the first endpoint that answers, which is what `-e` names.
    """
    if options.user:
        raise IllegalParams("this release has no login: --user is not used yet")
    from synchro.client import connect

    db = connect(
        where or options.where,
        cacert=options.cacert,
        cert=options.cert,
        key=options.key,
        timeout=options.timeout_s,
        read_from=read_from,
        follow_leader=not options.direct,
        wait_for_connection=False,
    )
    try:
        yield db
    finally:
        db.close()
