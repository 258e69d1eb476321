"""The failure of a remote call, as its caller sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from synchro.wire.grpc_call import Status, StatusCode


class CallFailed(Exception):
    """A call that ended with another status than OK, whoever gave it: the server, or this end for it."""

    def __init__(
        self, code: StatusCode, message: str, trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> None:
        assert code is not StatusCode.OK
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.trailing_metadata = tuple(trailing_metadata)
        """What came with the status; the values of keys that end in "-bin" are bytes."""

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"

    @classmethod
    def of(cls, status: Status) -> Self:
        """Return the failure that a status tells of."""
        return cls(status.code, status.message, status.metadata)


class CallNotBegun(CallFailed):
    """The server has not looked at the call: it did nothing, and may be made again anywhere."""
