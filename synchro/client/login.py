"""Logging in, as far as it needs no I/O: who, where, and with which session [S-1], ADR 43.

A client has one user. It logs in at each instance when it first calls it, and again when that instance does
not know the session any more: sessions live in the memory of an instance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from synchro.client.errors import CannotConnect, ConnectionLost
from synchro.config.address import Uri, is_loopback
from synchro.errors import (
    AccessDenied,
    BadCredentials,
    IllegalParams,
    LoginLimited,
    LoginQueueFull,
    PlainConnection,
    SynchroError,
)
from synchro.rpc.generated.v1 import auth_pb2
from synchro.secret import Secret, read_secret

LOGIN_S: Final = 2.0
"""What a login may take longer than other questions: a password is looked at slowly on purpose."""
SCHEME: Final = "Bearer "
"""In front of a token, in the metadata `authorization`."""

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Login:
    """What an instance is told. Without a password it is the empty one [S-2]."""

    user: str
    password: Secret


REFUSALS: Final = (BadCredentials, AccessDenied, LoginLimited, LoginQueueFull, PlainConnection)
"""What an instance says of who calls: worth more than that others cannot be reached."""


class Session:
    """With one instance. token: "" while there is none."""

    __slots__ = ("error", "metadata", "rounds", "token")

    def __init__(self) -> None:
        self.token = ""
        self.metadata: Metadata = ()
        """What goes along with each call."""
        self.rounds = 0
        """How often a login ended here, well or not: who waited meanwhile need not try again."""
        self.error: SynchroError | None = None
        """Of the last login; None: it went well."""

    def succeeded(self, token: str) -> None:
        self.rounds += 1
        self.error = None
        self.token, self.metadata = token, (("authorization", SCHEME + token),)

    def failed(self, error: SynchroError) -> None:
        """A login that got no answer did nothing of what its caller wants."""
        self.rounds += 1
        if isinstance(error, ConnectionLost):
            error = CannotConnect(error.message, **{**error.details, "silent": "yes"})
        self.error = error


class Sessions:
    """Those of one client. login: None = it calls as guest, without any."""

    def __init__(self, login: Login | None, *, is_encrypted: bool) -> None:
        self.login = login
        self._is_encrypted = is_encrypted
        self._by_endpoint: dict[str, Session] = {}

    def at(self, endpoint: str) -> Session:
        session = self._by_endpoint.get(endpoint)
        if session is None:
            session = self._by_endpoint.setdefault(endpoint, Session())
        return session

    def metadata(self, endpoint: str) -> Metadata:
        return () if self.login is None else self.at(endpoint).metadata

    def is_needed(self, endpoint: str) -> bool:
        """Whether a call has to be preceded by a login."""
        return self.login is not None and not self.at(endpoint).token

    def forget(self, endpoint: str, token: str) -> None:
        """The instance does not know this one; a newer one is kept."""
        session = self.at(endpoint)
        if session.token == token:
            session.token, session.metadata = "", ()

    def request(self, endpoint: str) -> auth_pb2.LoginRequest:
        """Raises `PlainConnection`: nothing was sent."""
        assert self.login is not None
        self.refuse_open(endpoint)
        return auth_pb2.LoginRequest(user=self.login.user, password=self.login.password.reveal())

    def refuse_open(self, endpoint: str) -> None:
        """A password is sent there. Raises `PlainConnection` if others could read it: nothing was sent."""
        if not self._is_encrypted and not is_loopback(endpoint.rpartition(":")[0]):
            raise PlainConnection(
                f"{endpoint} is on another host, and the connection is not encrypted: the password was not "
                "sent. Next: --cacert FILE, for an instance with grpc.tls; or run this on its host",
                endpoint=endpoint,
            )


def no_login(endpoint: str) -> CannotConnect:
    """Time was over while somebody else logged in there."""
    return CannotConnect(
        f"{endpoint} took no login in time; nothing was sent", endpoint=endpoint, silent="yes"
    )


# --- what a person gave -----------------------------------------------------------------------------------


def login_of(
    uris: Iterable[Uri], user: str | None, password: str | Secret | None, password_file: str | None
) -> Login | None:
    """Of `connect`: what the arguments say beats what the endpoints do. Raises `IllegalParams`."""
    if password is not None and password_file:
        raise IllegalParams("either password or password_file; nothing was sent")
    secret = Secret(password) if isinstance(password, str) else password
    if password_file:
        secret = read_password(password_file)
    named = {uri.user: uri.password for uri in uris if uri.user}
    if len(named) > 1:
        raise IllegalParams(
            f"the endpoints name several users ({', '.join(named)}); a client has one. Nothing was sent"
        )
    for name, of_uri in named.items():
        if user and user != name:
            continue
        user = name
        secret = of_uri if secret is None else secret
    if not user:
        if secret is not None:
            raise IllegalParams("a password without a user; nothing was sent. Next: -u NAME, or user=")
        return None
    return Login(user, Secret("") if secret is None else secret)


def read_password(path: str) -> Secret:
    """The first line of a file. Raises `IllegalParams`."""
    try:
        found = read_secret(path)
    except ValueError as error:
        raise IllegalParams(f"{error}; nothing was sent", file=path) from None
    if not found:
        raise IllegalParams(f"the first line of {path} is empty; nothing was sent", file=path)
    return found
