"""One open transaction of the asyncio client: a call of Transact, one request after the other."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from synchro.client.errors import ConnectionLost, of_rpc_error
from synchro.client.login import Metadata
from synchro.client.requests import Message

import grpc  # isort: skip - after channel.py, which sets its environment


class AioTalk:
    """K1  There is one answer for each request, or an error that ends all, in the time that was given."""

    def __init__(self, stub: Any, endpoint: str, metadata: Metadata) -> None:
        self.endpoint = endpoint
        self._call = stub.Transact(metadata=metadata)

    async def say(self, request: Message, timeout_s: float) -> Message:
        """Raises the error that ended the call, and `ConnectionLost` if no answer comes in time."""
        try:
            async with asyncio.timeout(timeout_s):
                with contextlib.suppress(asyncio.InvalidStateError):  # it is over: `read` says why
                    await self._call.write(request)
                answer = await self._call.read()
        except TimeoutError:
            self.end()
            raise ConnectionLost(f"no answer from {self.endpoint} in time", endpoint=self.endpoint) from None
        except grpc.RpcError as error:
            raise of_rpc_error(error, self.endpoint) from None
        if answer is grpc.aio.EOF:
            raise ConnectionLost(f"{self.endpoint} ended the call", endpoint=self.endpoint)
        return answer

    def end(self) -> None:
        """Cancel the call if it goes on. Idempotent."""
        self._call.cancel()
