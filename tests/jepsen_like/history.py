"""What clients and the nemesis did, as JSON lines with Jepsen's fields: one object an event.

`type` is invoke, then ok (it happened), fail (certainly nothing happened) or info (not known). A process that
saw info never comes back: its worker goes on under a new number, for the operation may still take effect.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

INF = float("inf")


class History:
    """Thread-safe, in memory and in a file at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._file: TextIO = path.open("w")

    def add(self, process: int | str, type: str, f: str, value: object, **more: object) -> None:
        """more: node, term, lsn, error, key."""
        with self._lock:
            event = {
                "index": len(self.events),
                "time": time.monotonic_ns(),
                "process": process,
                "type": type,
                "f": f,
                "value": value,
                **{key: item for key, item in more.items() if item is not None},
            }
            self.events.append(event)
            self._file.write(json.dumps(event) + "\n")

    def close(self) -> None:
        self._file.close()


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass(slots=True)
class Op:
    """One operation from its call to its end. end: INF = never answered, so it may happen at any time.

    result: of a read the value, None if there was none; of an insert whether it took effect; of a delete the
    old value.
    """

    f: str
    key: object
    value: object
    result: object = None
    began: float = 0.0
    end: float = INF
    type: str = "info"
    process: int | str = 0
    node: str = ""
    lsn: int | None = None
    error: str | None = None

    @property
    def is_known(self) -> bool:
        return self.type == "ok"


@dataclass(slots=True)
class Operations:
    """The history of the clients, paired."""

    ops: list[Op] = field(default_factory=list)

    def of_type(self, type: str) -> Sequence[Op]:
        return [op for op in self.ops if op.type == type]


def pair(events: Iterable[dict[str, Any]]) -> Operations:
    """Nemesis events are left out. An invocation without an end is info."""
    found = Operations()
    open_: dict[int | str, Op] = {}
    for event in events:
        process = event["process"]
        if process == "nemesis":
            continue
        if event["type"] == "invoke":
            assert process not in open_, f"process {process} is busy"
            op = Op(event["f"], event.get("key"), event["value"], began=event["index"], process=process)
            op.node = event.get("node", "")
            open_[process] = op
            found.ops.append(op)
            continue
        op = open_.pop(process)
        op.type = event["type"]
        op.error = event.get("error")
        op.lsn = event.get("lsn")
        if op.type != "info":
            op.end = event["index"]
            op.result = event["value"]
    return found
