"""How far a start is, and for what it waits: for `info`, the error LOADING and the log [M-19]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import trio

from synchro.storage.recovery import ReadSoFar

MIB: Final = 1024 * 1024


@dataclass(slots=True)
class ReceivedSoFar:
    """How far a join is. tuples_total: 0 if the source, of an older version, does not say it."""

    source: str
    """Name of the member that sends."""
    address: str
    tuples: int = 0
    tuples_total: int = 0
    bytes: int = 0
    rows: int = 0
    """Of the log behind the snapshot."""


class Waiting:
    """For what an instance that does not go on waits, since when, and when it tries again."""

    def __init__(self) -> None:
        self.text = ""
        """Of a start, or of one that is to become a member; empty: for nothing."""
        self.orphan_since: float | None = None
        """None: it is no orphan."""
        self.amnesia_since: float | None = None
        """Since when it asks the others for what it may have forgotten; None: it trusts its log."""
        self._since = 0.0
        self._next_at = 0.0

    def wait(self, text: str, next_s: float) -> None:
        """next_s: seconds until the next attempt."""
        now = trio.current_time()
        if not self.text:
            self._since = now
        self.text, self._next_at = text, now + next_s

    def over(self) -> None:
        self.text = ""

    def facts(self) -> dict[str, Any] | None:
        """for: a sentence; since: seconds that it has waited; next: seconds until it tries again."""
        if not self.text:
            return None
        now = trio.current_time()
        return {"for": self.text, "since": now - self._since, "next": max(0.0, self._next_at - now)}


class StartProgress:
    """The files, or the join, that an instance is at before it serves data. Nothing here blocks."""

    def __init__(self) -> None:
        self.at: ReadSoFar | ReceivedSoFar | None = None
        """None: at neither."""

    @property
    def is_receiving(self) -> bool:
        """A join goes on: what was waited for is here."""
        return isinstance(self.at, ReceivedSoFar) and bool(self.at.tuples_total or self.at.tuples)

    @property
    def text(self) -> str:
        """As a part of a sentence; empty while there is nothing to count."""
        match self.at:
            case ReadSoFar() as read if read.snapshot_bytes < read.snapshot_size:
                return f"snapshot: {_share(read.snapshot_bytes, read.snapshot_size)}"
            case ReadSoFar() as read if read.log_bytes < read.log_size:
                return f"log: {_share(read.log_bytes, read.log_size)}, {read.rows} rows"
            case ReadSoFar() as read:
                return f"all is read, {read.rows} rows of the log among it; indexes are built"
            case ReceivedSoFar() as got if got.rows or got.tuples == got.tuples_total > 0:
                return f"from {got.source}: {got.tuples} tuples, and {got.rows} rows behind them"
            case ReceivedSoFar() as got:
                of = f" of {got.tuples_total}" if got.tuples_total else ""
                return f"from {got.source}: {got.tuples}{of} tuples, {got.bytes / MIB:.1f} MiB"
            case _:
                return ""

    def facts(self) -> dict[str, Any]:
        """What is read or received so far, of how much."""
        match self.at:
            case ReadSoFar() as read:
                return {
                    "snapshot": {"bytes": read.snapshot_bytes, "of": read.snapshot_size},
                    "log": {"bytes": read.log_bytes, "of": read.log_size, "rows": read.rows},
                }
            case ReceivedSoFar() as got:
                return {
                    "from": got.source,
                    "address": got.address,
                    "snapshot": {"tuples": got.tuples, "of": got.tuples_total or None, "bytes": got.bytes},
                    "log": {"rows": got.rows},
                }
            case _:
                return {}


def _share(done: int, total: int) -> str:
    return f"{done / MIB:.1f} of {total / MIB:.1f} MiB"
