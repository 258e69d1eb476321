"""Options that every verb has, and the client they describe. No gRPC is imported before it is needed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal

from synchro.config.logins import NO_LOGIN
from synchro.errors import IllegalParams
from synchro.secret import PASSWORD_VARIABLE, Secret

if TYPE_CHECKING:
    from synchro.client import Client

DEFAULT_ENDPOINTS: Final = "127.0.0.1:3301,127.0.0.1:3302,127.0.0.1:3303"
"""Where `synchro init` puts instances."""
DEFAULT_TIMEOUT_S: Final = 5.0
has_password_shown = False
"""One stood on the command line of this process."""
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
    typed: Secret | None = None
    """The password that a person was asked for."""
    may_ask: bool = True
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
    def logs_in(self) -> bool:
        return bool(self.user) or "@" in self.where

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


def login(where: str) -> dict[str, Any]:
    """How `connect` logs in: user, password and password_file. A password is asked for on a terminal,
    once. Raises `IllegalParams` if there is none."""
    from synchro.client.routes import parse_uris

    named = {uri.user: uri.password for uri in parse_uris(where) if uri.user}
    user = options.user or next(iter(named), "")
    if not user:
        return {}
    if options.password_file:
        return {"user": user, "password_file": options.password_file}
    password = named.get(user)
    if not password and PASSWORD_VARIABLE in os.environ:
        password = Secret(os.environ[PASSWORD_VARIABLE])
    if not password and user != NO_LOGIN:
        password = _typed(user)
    return {"user": user, "password": password}


def _typed(user: str) -> Secret:
    """Raises `IllegalParams` where nobody can be asked, or types none: the empty one would be sent."""
    import getpass

    if options.typed is None and options.may_ask and sys.stdin is not None and sys.stdin.isatty():
        options.typed = Secret(getpass.getpass(f"password of {user}: "))
    if not options.typed:
        raise IllegalParams(
            f"the password of {user} is not known; nothing was sent",
            next_command=f"--password-file FILE   or   {PASSWORD_VARIABLE}",
        )
    return options.typed


@contextmanager
def client(*, read_from: Literal["leader", "any"] = "any", where: str = "") -> Iterator[Client]:
    """A client of `where`, or else of `-e`; closed in any case, since a live stream can keep the interpreter
    from leaving.

    read_from: "any" = the first endpoint that answers, which is what `-e` names.
    """
    from synchro.client import connect

    where = where or options.where
    db = connect(
        where,
        **login(where),
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
