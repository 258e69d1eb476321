"""How many transactions are open on one instance, and how much they hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from synchro.config import Limits
from synchro.errors import TransactionsFull


class Held:
    """What one open transaction holds."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class OpenTransactions:
    """Y1  `bytes` = the sum of what those that are open hold; both they and their number stay within the
    limits that were in force when the last one grew, or was begun.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: set[Held] = set()
        self.bytes = 0

    @property
    def count(self) -> int:
        return len(self._open)

    def limits_changed(self, limits: Limits) -> None:
        """They count for what is begun, and what grows, from now on."""
        self._limits = limits

    @contextmanager
    def opened(self) -> Iterator[Held]:
        """One is open within the block. Raises `TransactionsFull`."""
        limit = self._limits.open_transactions_max
        if len(self._open) >= limit:
            raise TransactionsFull(
                f"{limit} transactions are open already (limits.max_open_transactions); none was begun",
                limit=limit,
            )
        held = Held()
        self._open.add(held)
        try:
            yield held
        finally:
            self._open.discard(held)
            self.bytes -= held.bytes

    def check_room(self) -> None:
        """Raises `TransactionsFull` if none may hold more."""
        limit = self._limits.open_transactions_bytes_max
        if self.bytes > limit:
            raise TransactionsFull(
                f"open transactions hold {self.bytes} bytes, the limit is {limit} "
                "(limits.open_transactions_bytes_max); this was not done",
                limit=limit,
            )

    def hold(self, held: Held, size: int) -> None:
        """It holds so many bytes now."""
        self.bytes += size - held.bytes
        held.bytes = size

    def check(self) -> None:
        assert self.bytes == sum(held.bytes for held in self._open)  # OpenTransactions.Y1
