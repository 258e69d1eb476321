"""Errors of the client: those of the server, and those that only a client can have."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import grpc

from synchro import errors
from synchro.errors import Exit, NoLeader, ReadOnly, Retry, SynchroError
from synchro.rpc.status import from_rpc_error, from_status
from synchro.wire.failure import CallFailed, CallNotBegun
from synchro.wire.grpc_call import StatusCode

if TYPE_CHECKING:
    from synchro.client.model import Committed, RolledBack

__all__ = [
    "CannotConnect",
    "ClientClosed",
    "ConnectionLost",
    "DuplicateKey",
    "NoLeader",
    "OutcomeUnknown",
    "QueueFull",
    "ReadOnly",
    "SynchroError",
    "of_rpc_error",
    "of_status",
    "reason_of",
]

QueueFull = errors.SyncQueueFull
DuplicateKey = errors.TupleFound


class CannotConnect(SynchroError):
    """Nothing was sent. details: endpoint, or endpoints; silent: who may just be slow."""

    reason = "CANNOT_CONNECT"
    exit_code = Exit.NO_CONNECTION
    retry = Retry.ELSEWHERE
    next_command = "synchro start CONFIG   or   -e HOST:PORT of a running instance"


class ConnectionLost(SynchroError):
    """The connection broke, or no answer came; whether the call was carried out is not known."""

    reason = "CONNECTION_LOST"
    exit_code = Exit.UNKNOWN
    retry = Retry.LOST
    next_command = "synchro status"


class ClientClosed(SynchroError):
    """This client was closed, or made by the process that this one was forked from. Nothing was sent."""

    reason = "CLIENT_CLOSED"


class OutcomeUnknown(SynchroError):
    """A write may have been done, or may still be. Nothing was rolled back because of a timeout.

    details: reason (that of the error behind it), txn, request_id (hexadecimal).
    """

    reason = "OUTCOME_UNKNOWN"
    exit_code = Exit.UNKNOWN

    def __init__(
        self, message: str, *, txn: tuple[int, int] | None = None, request_id: bytes = b"", **details: object
    ) -> None:
        facts = dict(details)
        if txn is not None:
            facts["txn"] = f"{txn[0]}:{txn[1]}"
        if request_id:
            facts["request_id"] = request_id.hex()
        super().__init__(message, **facts)
        self.txn = txn
        """(origin, lsn), if an instance said so."""
        self.request_id = request_id
        self.is_only_try = True
        """False: earlier tries of the same call may have been carried out as other transactions."""
        self._client: Any = None

    def bind(self, client: Any) -> OutcomeUnknown:
        """Give it the client that `wait` asks."""
        self._client = client
        return self

    def wait(self, timeout: float | None = None) -> Committed | RolledBack:
        """How it ended. Raises `OutcomeUnknown` if that is not known in time (seconds; None: the client's).

        In an asynchronous program: `await db.wait_outcome(error)`.
        """
        if self._client is None:
            raise ClientClosed(
                "this error came from another process, whose client it is; use wait_outcome of yours"
            )
        result: Committed | RolledBack = self._client.wait_outcome(self, timeout)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message,), {**self.__dict__, "_client": None}


_NOT_SENT: Final = (
    "failed to connect",
    "name resolution",
    "dns resolution failed",
    "errors resolving",
    "connections to all backends failing",
)
"""What grpcio says when a connection was never made; it has no code of its own for that. Errors of sockets
are not among them: an established connection can have them too."""


_SILENT: Final = ("timed out", "timeout", "deadline", "settings")
"""What it says of a connection whose other end took too long to speak."""


def of_rpc_error(error: grpc.RpcError | CallFailed, endpoint: str) -> SynchroError:
    """The server's error, or what grpcio or our own channel had to say, as `CannotConnect` or
    `ConnectionLost`."""
    ours = from_rpc_error(error)
    if ours is not None:
        return ours
    if isinstance(error, CallFailed):
        if isinstance(error, CallNotBegun):
            is_silent = any(words in error.message for words in ("timed out", "deadline"))
            return cannot_connect(error.message, endpoint, is_silent=is_silent)
        return of_grpc_code(error.code, error.message, endpoint)
    code = StatusCode[error.code().name] if hasattr(error, "code") else StatusCode.UNKNOWN
    text: str = (error.details() if hasattr(error, "details") else None) or str(error)
    if code is StatusCode.UNAVAILABLE and any(words in text.lower() for words in _NOT_SENT):
        is_silent = not _tls_words(text) and any(word in text.lower() for word in _SILENT)
        return cannot_connect(text, endpoint, is_silent=is_silent)
    return of_grpc_code(code, text, endpoint)


def of_grpc_code(code: StatusCode, text: str, endpoint: str) -> SynchroError:
    """What the end of a call means that may have been carried out."""
    if code is StatusCode.UNIMPLEMENTED:
        return errors.Unimplemented(f"{endpoint} does not have this call: {_short(text)}", endpoint=endpoint)
    if code is StatusCode.DEADLINE_EXCEEDED:
        return ConnectionLost(f"no answer from {endpoint} in time", endpoint=endpoint)
    short = _short(text)
    return ConnectionLost(f"lost the connection to {endpoint}: {short}", endpoint=endpoint, grpc=code.name)


def cannot_connect(why: str, endpoint: str, *, is_silent: bool = False) -> CannotConnect:
    """Nothing was sent. why: what the system or gRPC says. is_silent: the other end may only be slow."""
    return CannotConnect(
        f"cannot connect to {endpoint}: {_short(why)}",
        endpoint=endpoint,
        silent="yes" if is_silent else None,
        tls="yes" if _tls_words(why) else None,
    )


def is_silence(error: SynchroError) -> bool:
    """Whether who was asked may only be slow, as a paused process is. One that refuses is not."""
    return isinstance(error, ConnectionLost) or "silent" in error.details


def is_tls(error: SynchroError) -> bool:
    """Whether the other end is there, and TLS is why there is no connection."""
    return "tls" in error.details


_CAUSES: Final = (
    "connection refused",
    "connection reset",
    "connection timed out",
    "socket closed",
    "no route to host",
)
_OF_TLS: Final = (
    (
        re.compile(r"CERTIFICATE_VERIFY_FAILED: ([^:]+)"),
        r"the certificate of the instance is refused: \1",
    ),
    (
        re.compile(r"Hostname Verification Check failed"),
        "the certificate of the instance is refused: it is of another name or address",
    ),
    (re.compile(r"WRONG_VERSION_NUMBER"), "the other end does not speak TLS"),
    (
        re.compile(r"Unwrap failed"),
        "the other end demands a certificate, and this client shows none that it believes",
    ),
    (
        re.compile(r"Expected SETTINGS frame|INADEQUATE_SECURITY"),
        "the other end does not speak plain HTTP/2: it may speak TLS only",
    ),
)
"""What grpcio says of TLS, and what that means."""


_LOOKUP: Final = "[field:hostname lookup error:"
"""What grpcio says in front of why a name was not found, with a bracket behind it."""


def _short(text: str) -> str:
    """The cause inside gRPC's long sentences."""
    if words := _tls_words(text):
        return words
    lowered = text.lower()
    for words in _CAUSES:
        if words in lowered:
            return words
    _, is_lookup, cause = text.partition(_LOOKUP)
    if is_lookup:
        text = cause.removesuffix("]")
    return text.partition("\n")[0][:200]


def _tls_words(text: str) -> str:
    """What TLS has against the connection, if grpcio says so; "": nothing."""
    for pattern, meaning in _OF_TLS:
        if found := pattern.search(text):
            return found.expand(meaning)
    return ""


def of_status(status: Any, endpoint: str) -> SynchroError:
    """The error inside a google.rpc.Status of a stream."""
    error = from_status(status)
    if error is not None:
        return error
    return SynchroError(status.message or f"{endpoint} answered with code {status.code}")


def reason_of(error: SynchroError) -> str:
    """The reason to show: that of a newer server, or of the error behind an unknown outcome."""
    if type(error) in (SynchroError, OutcomeUnknown):
        return error.details.get("reason", error.reason)
    return error.reason
