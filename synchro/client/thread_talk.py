"""One open transaction of the blocking client: a call of Transact, one request after the other."""

from __future__ import annotations

import queue
import threading
from typing import Any

from synchro.client.errors import ConnectionLost, of_rpc_error
from synchro.client.login import Metadata
from synchro.client.requests import Message
from synchro.errors import SynchroError

import grpc  # isort: skip - after channel.py, which sets its environment


class ThreadTalk:
    """K1  There is one answer for each request, or an error that ends all, in the time that was given."""

    def __init__(self, stub: Any, endpoint: str, metadata: Metadata) -> None:
        self._endpoint = endpoint
        self._requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Message | SynchroError] = queue.SimpleQueue()
        self._call = stub.Transact(iter(self._requests.get, None), metadata=metadata)
        threading.Thread(target=self._read, name=f"synchro-transaction-{endpoint}", daemon=True).start()

    def say(self, request: Message, timeout_s: float) -> Message:
        """Raises the error that ended the call, and `ConnectionLost` if no answer comes in time."""
        self._requests.put(request)
        try:
            answer = self._answers.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            self.end()
            raise ConnectionLost(
                f"no answer from {self._endpoint} in time", endpoint=self._endpoint
            ) from None
        if isinstance(answer, SynchroError):
            self._answers.put(answer)  # whoever asks again hears it too
            raise answer
        return answer

    def end(self) -> None:
        """Cancel the call if it goes on. Idempotent."""
        self._call.cancel()

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._answers.put(answer)
            self._answers.put(ConnectionLost(f"{self._endpoint} ended the call", endpoint=self._endpoint))
        except grpc.RpcError as error:
            self._answers.put(of_rpc_error(error, self._endpoint))
        finally:
            self._requests.put(None)  # else gRPC's thread would wait for one more request
