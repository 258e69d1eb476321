"""One call as a test writes it down, and what came of it, whoever makes it."""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from synchro.wire.certificates import TlsFiles
from synchro.wire.grpc_call import StatusCode

SERVICE: Final = "/conformance.v1.Echo"
KIB: Final = 1024
MIB: Final = 1024 * KIB
MESSAGE_BYTES_MAX: Final = 16 * MIB
"""What either server takes as one message, and sends."""
WAIT_S: Final = 10.0
"""Seconds for what happens soon."""

Metadata = tuple[tuple[str, str | bytes], ...]


class Kind(Enum):
    """unary, and who streams."""

    UNARY = "unary"
    SERVER = "server"
    CLIENT = "client"
    BOTH = "both"


@dataclass(frozen=True)
class Exchange:
    """A call to be made. cancel_after: replies after which the client cancels; cancel_after_s: seconds after
    which it does. pause_s: seconds for which it takes nothing after the first reply."""

    method: str
    requests: tuple[bytes, ...] = (b"",)
    kind: Kind = Kind.UNARY
    timeout_s: float | None = 30.0
    metadata: Metadata = ()
    cancel_after: int | None = None
    cancel_after_s: float | None = None
    pause_s: float = 0.0
    wait_for_ready: bool = False

    @property
    def path(self) -> str:
        return self.method if self.method.startswith("/") else f"{SERVICE}/{self.method}"


@dataclass(frozen=True)
class Outcome:
    """What the client has seen. trailing: metadata behind the status, names to values in order; None: the
    client does not show it."""

    replies: list[bytes]
    code: StatusCode
    message: str = ""
    trailing: dict[str, list[str | bytes]] | None = field(default_factory=dict)

    @property
    def reply(self) -> bytes:
        """The one reply of a call that went well."""
        assert self.code is StatusCode.OK, f"{self.code.name}: {self.message}"
        assert len(self.replies) == 1
        return self.replies[0]

    def refused(self, code: StatusCode) -> str:
        """The message of a call that ended with `code`."""
        assert self.code is code, f"{self.code.name} instead of {code.name}: {self.message}"
        return self.message


@dataclass(frozen=True)
class FaceOptions:
    """How a client is set up. keepalive_s: seconds between its pings, also without calls; gzip: compress;
    tls: what it shows and believes."""

    keepalive_s: float | None = None
    gzip: bool = False
    tls: TlsFiles | None = None


class Face(Protocol):
    """A gRPC client. Every function may be called from any thread."""

    def run(self, exchange: Exchange) -> Outcome:
        """Make one call."""

    def many(self, exchange: Exchange, *, count: int, at_once: int) -> Counter[StatusCode]:
        """Make the same call often, up to so many at a time; how they ended."""

    def close(self) -> None: ...


class Journal:
    """What handlers of a server did, for a test in another thread. Calls are named by metadata `x-call`."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        """Calls that reached a handler."""
        self.cancelled: Counter[str] = Counter()
        """Calls whose handler was cancelled."""
        self.made: Counter[str] = Counter()
        """Replies that a streaming handler has made."""
        self.peers: set[str] = set()
        """Addresses from which calls came."""
        self.gate = threading.Event()
        """What the method Held waits for."""

    def wait(self, what: str, condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not in time: {what}"
            time.sleep(0.005)


def multi(pairs: object) -> dict[str, list[str | bytes]]:
    """Metadata as name -> values, without what gRPC adds by itself."""
    found: dict[str, list[str | bytes]] = {}
    for key, value in pairs or ():  # type: ignore[attr-defined]
        if key.startswith("x-") or key == "grpc-status-details-bin":
            found.setdefault(key, []).append(value)
    return found


def summary(messages: list[bytes]) -> bytes:
    """How many messages, how many bytes, and a digest: what the method Sum answers."""
    digest = hashlib.sha256()
    for message in messages:
        digest.update(b"%d:" % len(message) + message)
    return b"%d %d %s" % (len(messages), sum(map(len, messages)), digest.hexdigest().encode())


@functools.cache
def pattern(size: int) -> bytes:
    """Bytes in which a piece that is missing or comes twice shows."""
    return array("I", range(size // 4 + 1)).tobytes()[:size]
