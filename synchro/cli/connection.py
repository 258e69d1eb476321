"""Options that every verb has, and the client they describe. No gRPC is imported before it is needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from synchro.errors import IllegalParams

if TYPE_CHECKING:
    from synchro.client import Client

DEFAULT_ENDPOINTS: Final = "127.0.0.1:3301,127.0.0.1:3302,127.0.0.1:3303"
"""Where `synchro init` puts instances."""
DEFAULT_TIMEOUT_S: Final = 5.0
DURATION_S_MAX: Final = 365 * 24 * 3600.0
"""As servers see it, too: longer times are mistakes of units."""
OUTPUTS: Final = ("table", "json", "yaml", "jsonl")
_UNITS: Final = {"": 1.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(slots=True)
class Options:
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

    @property
    def timeout_s(self) -> float:
        return parse_duration(self.timeout) if self.timeout else DEFAULT_TIMEOUT_S

    @property
    def where(self) -> str:
        return self.endpoints or os.environ.get("SYNCHRO_ENDPOINTS", "") or DEFAULT_ENDPOINTS


options = Options()
"""Of this run of the program."""


def parse_duration(text: str) -> float:
    """`5`, `5s`, `500ms`, `2m`: seconds. Raises `IllegalParams`."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)", text.strip())
    if match is None or match[2] not in _UNITS:
        raise IllegalParams(f"{text!r} is not a time; examples: 5s, 500ms, 2m")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > DURATION_S_MAX:
        raise IllegalParams(f"{text.strip()[:40]} is longer than a year; times are at most 365 days")
    return seconds


@contextmanager
def client(*, read_from: Literal["leader", "any"] = "any") -> Iterator[Client]:
    """A client of `-e`; closed in any case, since a live stream can keep the interpreter from leaving.

    read_from: "any" = the first endpoint that answers, which is what `-e` names.
    """
    if options.cacert or options.cert or options.key:
        raise IllegalParams("this release has no TLS: --cacert, --cert and --key are not used yet")
    if options.user:
        raise IllegalParams("this release has no login: --user is not used yet")
    from synchro.client import connect

    db = connect(
        options.where,
        timeout=options.timeout_s,
        read_from=read_from,
        follow_leader=not options.direct,
        wait_for_connection=False,
    )
    try:
        yield db
    finally:
        db.close()
