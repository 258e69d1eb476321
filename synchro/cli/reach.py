"""How a command must be given so that it reaches a set with TLS and logins, and is let in: for all that is
printed as the next command."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from synchro.cli.connection import options

if TYPE_CHECKING:
    from synchro.config import ConfiguredUser, Credentials, Settings

_LOCAL: Final = "init|start|stop|restart|serve|demo|wal|config (?:check|show|schema)"
_REMOTE: Final = re.compile(rf"\bsynchro (?=(?:-[a-z-]+ |[a-z]))(?!(?:{_LOCAL})\b)")
_LOGIN: Final = re.compile(r"[^\s,@]+@")
_FLAGS: Final = {
    "user": ("-u", "--user"),
    "password_file": ("--password-file",),
    "cacert": ("--cacert",),
    "cert": ("--cert",),
    "key": ("--key",),
}


def again(command: str) -> str:
    """The command, with the login and the certificates that stand on the command line of this run, and then
    its endpoints too. What the environment says counts for the next one anyway."""
    given = {
        name: value
        for name in _FLAGS
        if name in options.given
        and (value := str(getattr(options, name)))
        and not _names(command, _FLAGS[name])
    }
    if not given:
        return command
    words = [word for name, value in given.items() for word in (_FLAGS[name][-1], value)]
    if "endpoints" in options.given and not _names(command, ("-e", "--endpoints")):
        words = ["-e", _LOGIN.sub("", options.endpoints), *words]
    return _REMOTE.sub(lambda _: f"synchro {shlex.join(words)} ", command)


def _names(command: str, flags: tuple[str, ...]) -> bool:
    return any(f" {flag} " in command for flag in flags)


def options_for(settings: Settings) -> str:
    """Of a command to instances of this file: their certificates, if they speak TLS, and a user of the file,
    if the guest may do nothing; what was given for this run comes first. Ends in a blank, or is empty."""
    words: list[str] = []
    if settings.tls_cert:
        words += ["--cacert", options.cacert or settings.tls_ca or settings.tls_cert]
        if options.cert or settings.tls_ca:
            words += ["--cert", options.cert or settings.tls_cert, "--key", options.key or settings.tls_key]
    if options.user or options.password_file:
        words += ["--user", options.user] * bool(options.user)
        words += ["--password-file", options.password_file] * bool(options.password_file)
    elif (user := _who_may_look(settings.credentials)) is not None:
        words += ["--user", user.name]
        words += ["--password-file", user.password_file] * bool(user.password_file)
    return f"{shlex.join(words)} " if words else ""


def address_of(settings: Settings) -> str:
    """Where a client reaches the instance; a certificate is one of this address."""
    return (settings.own_address if settings.tls_cert else "") or settings.listen


def _who_may_look(credentials: Credentials | None) -> ConfiguredUser | None:
    """None: the guest may, or nobody of the file can log in."""
    if credentials is None or any(
        one.name == "guest" and (one.roles or one.grants) for one in credentials.users if not one.is_role
    ):
        return None
    able = [one for one in credentials.users if not one.is_role and one.password is not None]
    return min(able, key=lambda one: (one.name != "admin", "super" not in one.roles), default=None)
