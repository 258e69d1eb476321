"""The status with which a handler ends its call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

import grpc

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailing metadata in which gRPC carries a serialized `google.rpc.Status`."""


class ProtobufMessage(Protocol):
    def SerializeToString(self) -> bytes: ...


class RpcError(Exception):
    """Raised by a handler: ends the call with this status instead of INTERNAL.

    status: a google.rpc.Status with the same code and message, sent along for clients that want details.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        trailing_metadata: Metadata = (),
        status: ProtobufMessage | None = None,
    ) -> None:
        assert code is not grpc.StatusCode.OK
        super().__init__(code, message)
        self.code = code
        self.message = message
        details = () if status is None else ((STATUS_DETAILS_KEY, status.SerializeToString()),)
        self.trailing_metadata: Metadata = (*trailing_metadata, *details)
