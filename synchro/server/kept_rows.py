"""Rows of one upstream that wait in memory before they reach the core."""

from __future__ import annotations

from collections import deque
from typing import Final

from synchro.config import Limits
from synchro.errors import DecodeError, RemoteProtocolError
from synchro.server.peer_messages import Frame
from synchro.storage import xrow

STEP_BYTES_MAX: Final = 64 * 1024
"""Rows handed to the core in one step, unless one transaction has more: a MiB of small ones takes half a
second. Then others may run."""


class KeptRows:
    """K1  Bytes that are kept, parts of a transaction included, exceed the credit that was given by no more
        than one frame or transaction.

    Each entry has its rows and the wall time (s) of their newest block at the relay, 0 if it is not known.
    """

    def __init__(self, peer: str, limits: Limits) -> None:
        """peer: name of the upstream, for errors."""
        self._peer = peer
        # The last transaction, or frame, may be as large as the peer's own limits let it: not always ours.
        last = max(limits.message_bytes_max, limits.txn_bytes_max + limits.relay_frame_bytes_max)
        self._bytes_max = limits.peer_credit_bytes + last
        self._rows: deque[tuple[bytes, float]] = deque()
        self._rows_bytes = 0
        self._parts: list[bytes] = []
        self._parts_bytes = 0

    def __len__(self) -> int:
        """Entries; parts of a transaction that is not here as a whole do not count."""
        return len(self._rows)

    @property
    def size(self) -> int:
        """Bytes of the entries and parts."""
        return self._rows_bytes + self._parts_bytes

    @property
    def has_parts(self) -> bool:
        """A transaction has begun to come."""
        return bool(self._parts)

    def clear(self) -> None:
        """The stream is over."""
        self._rows.clear()
        self._parts.clear()
        self._rows_bytes = self._parts_bytes = 0

    def joined(self, frame: Frame) -> bytes:
        """Rows of a frame that is part of a transaction: empty until the last part is here, then all of it.

        Raises `RemoteProtocolError` for more rows than there was credit for.
        """
        self._parts.append(frame.rows)
        self._parts_bytes += len(frame.rows)
        self._check_credit()
        if frame.rows_continue:
            return b""
        rows = b"".join(self._parts)
        self._parts.clear()
        self._parts_bytes = 0
        return rows

    def keep(self, rows: bytes, tm: float) -> None:
        """Put rows behind what is kept. Raises `RemoteProtocolError`, as `joined` does, and for bad rows."""
        self._rows_bytes += len(rows)
        self._check_credit()
        self._rows.extend((part, tm) for part in self.cut(rows))

    def take(self) -> tuple[bytes, float]:
        """The rows of the next step of the core."""
        data, tm = self._pop()
        chunk, size = [data], len(data)
        while self._rows and size + len(self._rows[0][0]) <= STEP_BYTES_MAX:
            data, tm = self._pop()
            size += len(data)
            chunk.append(data)
        return chunk[0] if len(chunk) == 1 else b"".join(chunk), tm

    def cut(self, rows: bytes) -> list[bytes]:
        """Pieces of `rows`, cut between transactions; none is larger than a step, unless a transaction is."""
        if len(rows) <= STEP_BYTES_MAX:
            return [rows]
        parts, start = list[bytes](), 0
        try:
            for span in xrow.scan_txns(rows):
                if span.end - start > STEP_BYTES_MAX and span.start > start:
                    parts.append(rows[start : span.start])
                    start = span.start
        except DecodeError as error:
            raise RemoteProtocolError(f"rows from {self._peer}: {error.message}") from error
        return [*parts, rows[start:]]

    def _pop(self) -> tuple[bytes, float]:
        data, tm = self._rows.popleft()
        self._rows_bytes -= len(data)
        return data, tm

    def _check_credit(self) -> None:
        """KeptRows.K1"""
        if self.size > self._bytes_max:
            raise RemoteProtocolError(f"{self._peer} sent more rows than it had credit for")
