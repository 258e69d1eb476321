"""Structured logs: one record a line, with the same field names everywhere.

    ts level event instance replicaset component term role vclock peer space txn reason duration_ms trace_id

`event` is a fixed snake_case name, so that a search or an alert never depends on a sentence. Passwords are
never written, tuples only at level debug. Loggers of libraries (grpc, asyncio) come out in the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog

FIELDS: Final = (
    "ts",
    "level",
    "event",
    "instance",
    "replicaset",
    "component",
    "term",
    "role",
    "vclock",
    "peer",
    "space",
    "txn",
    "reason",
    "duration_ms",
    "trace_id",
)
"""Their order in a record; other facts follow in the order they were given."""
COMPONENTS: Final = frozenset({"raft", "queue", "relay", "applier", "wal", "rpc", "config", "node", "main"})
LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
SECRETS: Final = frozenset({"password", "password_file", "secret", "token", "authorization", "credentials"})
TUPLES: Final = frozenset({"tuple", "tuples", "old_tuple", "new_tuple", "row", "rows_data", "ops"})
"""Not `key`: by it an operator finds what a conflict left out, or what is wrong in the configuration."""
_RANK: Final = {name: number for number, name in enumerate(FIELDS)}

Record = MutableMapping[str, Any]


def configure(*, format: str = "json", level: str = "info", stream: TextIO | None = None) -> None:
    """Set up logging of the whole process. format: json or console; stream: None = standard error."""
    stream = sys.stderr if stream is None else stream
    number = LEVELS[level]
    steps = [*_steps(number), _renderer(format, stream)]
    structlog.configure(
        processors=steps,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(max(number, logging.WARNING))


def get_logger(component: str, *, instance: str | None = None, replicaset: str | None = None) -> Any:
    """A logger with these fields in every record. Methods: debug info warning error critical, and bind."""
    bound = {"instance": instance, "replicaset": replicaset, "component": component}
    return structlog.get_logger().bind(**{key: value for key, value in bound.items() if value is not None})


def _steps(level: int) -> list[Any]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.format_exc_info,
        _hide,
        *([] if level <= logging.DEBUG else [_drop_tuples]),
        _order,
    ]


def _renderer(format: str, stream: TextIO) -> Any:
    if format == "console":
        return structlog.dev.ConsoleRenderer(colors=stream.isatty(), timestamp_key="ts", sort_keys=False)
    return structlog.processors.JSONRenderer(default=str, ensure_ascii=False)


def _hide(logger: object, method: str, record: Record) -> Record:
    for key in record.keys() & SECRETS:
        record[key] = "***"
    return record


def _drop_tuples(logger: object, method: str, record: Record) -> Record:
    """User data belongs into the space, not into a log that others read."""
    for key in record.keys() & TUPLES:
        del record[key]
    return record


def _order(logger: object, method: str, record: Record) -> Record:
    return dict(sorted(record.items(), key=lambda item: _RANK.get(item[0], len(_RANK))))


class _Bridge(logging.Handler):
    """Records of libraries that use the standard module."""

    def emit(self, record: logging.LogRecord) -> None:
        level = next((name for name, number in LEVELS.items() if record.levelno <= number), "critical")
        log = structlog.get_logger().bind(component="rpc" if record.name.startswith("grpc") else "main")
        facts: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            facts["exc_info"] = record.exc_info
        getattr(log, level)("library_message", **facts)
