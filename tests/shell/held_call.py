"""A unary call without a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from synchro.rpc.rpc_error import RpcError
from synchro.rpc.status import DETAILS_KEY, from_status
from synchro.storage.users import GUEST_CALLER, Caller


class HeldCall:
    """A unary call, as a host has it."""

    def __init__(self, request: Any, caller: Caller = GUEST_CALLER) -> None:
        self.request = request
        self.caller = caller
        self.on_cancel: Callable[[], None] | None = None
        self.is_over = False
        self.answers: list[Any] = []

    def reply(self, message: Any) -> None:
        if not self.is_over:
            self._answer(message)

    def fail(self, error: Exception) -> None:
        if not self.is_over:
            self._answer(error)

    def _answer(self, answer: Any) -> None:
        self.is_over = True
        self.answers.append(answer)

    def cancel(self) -> None:
        """Its client is gone, or its time is over."""
        if not self.is_over:
            self.is_over = True
            if self.on_cancel is not None:
                self.on_cancel()

    @property
    def answer(self) -> Any:
        """A reply, or the `SynchroError` that it was refused with; there is exactly one."""
        (answer,) = self.answers
        if not isinstance(answer, RpcError):
            return answer
        data = dict(answer.trailing_metadata)[DETAILS_KEY]
        return from_status(Status.FromString(cast("bytes", data)))
