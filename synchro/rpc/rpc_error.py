"""The status with which a handler ends its call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, TypeAlias

from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from synchro.rpc.status import DETAILS_KEY, status_code
from synchro.wire import grpc_call
from synchro.wire.grpc_call import StatusCode

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


class RpcError(Exception):
    """Raised by a handler: ends the call with this status instead of INTERNAL.

    status: a google.rpc.Status with the same code and message, sent along for clients that want details.
    """

    def __init__(
        self,
        code: StatusCode,
        message: str,
        *,
        trailing_metadata: Metadata = (),
        status: Status | None = None,
    ) -> None:
        assert code is not StatusCode.OK
        super().__init__(code, message)
        self.code = code
        self.message = message
        details = () if status is None else ((DETAILS_KEY, status.SerializeToString()),)
        self.trailing_metadata: Metadata = (*trailing_metadata, *details)

    @classmethod
    def of(cls, status: Status) -> Self:
        """Return the error with the code and text of a status, and the status as details."""
        return cls(status_code(status), status.message, status=status)

    def block(self) -> bytes:
        """The whole response to a call that it ends before anything was sent."""
        return grpc_call.trailers(self.code, self.message, self.trailing_metadata, whole=True)
