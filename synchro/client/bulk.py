"""Many rows, as transactions of a few hundred, some of which wait for their decision at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from synchro.client import encoding
from synchro.client.api import Api
from synchro.client.plans import Plan, WriteOptions
from synchro.client.requests import SpaceRef
from synchro.errors import IllegalParams, SynchroError

BATCH_ROWS: Final = 500
"""Of one transaction; an instance takes up to 1000."""
BATCH_BYTES_MAX: Final = 1 << 20
"""Of one transaction, unless a single row is larger."""
BATCHES_AT_ONCE: Final = 4
"""Transactions that wait for their decision at the same time."""


class Batch:
    """Rows of one transaction. first: number of the first of them, from 0."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.ops: list[bytes] = []
        self.size_bytes = 0

    @property
    def end(self) -> int:
        return self.first + len(self.ops)


class Bulk:
    """One `bulk`: add rows; whenever that says so, carry out what `take` returns and tell how it `ended`.

    B1  `done` rows are committed; all of them lie in batches that were taken.
    B2  After a batch failed none is taken any more.

    batch: rows of a transaction. timeout: seconds for each of them.
    """

    def __init__(
        self,
        api: Api,
        space: SpaceRef,
        *,
        replace: bool,
        batch: int,
        timeout: float | None,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        if batch < 1:
            raise IllegalParams(f"a batch has one row at least, not {batch}; nothing was sent")
        self.done = 0
        self._api = api
        self._space = space
        self._encode = encoding.replace if replace else encoding.insert
        self._batch_rows = batch
        self._timeout_s = timeout
        self._on_progress = on_progress
        self._wave = [Batch(0)]
        self._taken: list[Batch] = []

    def add(self, row: Sequence[Any]) -> bool:
        """True: it is time to `take`."""
        batch = self._wave[-1]
        try:
            op = self._encode(self._space, row)
        except SynchroError as error:
            raise self._explained(error, batch.end, batch.end + 1) from None
        if batch.ops and (len(batch.ops) >= self._batch_rows or batch.size_bytes + len(op) > BATCH_BYTES_MAX):
            batch = Batch(batch.end)
            self._wave.append(batch)
        batch.ops.append(op)
        batch.size_bytes += len(op)
        return len(self._wave) > BATCHES_AT_ONCE

    def take(self, *, is_last: bool = False) -> list[Plan[int]]:
        """What to carry out at the same time; each returns its number of rows. is_last: no row follows."""
        if is_last:
            self._taken, self._wave = [batch for batch in self._wave if batch.ops], []
        else:
            *self._taken, begun = self._wave
            self._wave = [begun]
        return [self._write(batch) for batch in self._taken]

    def _write(self, batch: Batch) -> Plan[int]:
        rows = len(batch.ops)
        options: WriteOptions = {"omit_tuples": True, "timeout": self._timeout_s}
        return self._api.plans.write(b"".join(batch.ops), rows, options, lambda *_: rows)

    def ended(self, outcomes: Sequence[int | SynchroError]) -> None:
        """How each of them ended. Raises the error of the first that failed.

        Its details tell `bulk_done`, and the rows it is about, from 0: `bulk_first` to `bulk_last`.
        """
        if not outcomes:
            return
        self.done += sum(outcome for outcome in outcomes if isinstance(outcome, int))
        if self._on_progress is not None:
            self._on_progress(self.done)
        for batch, outcome in zip(self._taken, outcomes, strict=True):
            if isinstance(outcome, SynchroError):
                raise self._explained(outcome, batch.first, batch.end)

    def _explained(self, error: SynchroError, first: int, end: int) -> SynchroError:
        facts = {"bulk_done": str(self.done), "bulk_first": str(first), "bulk_last": str(end - 1)}
        error.details = {**error.details, **facts}
        return error
