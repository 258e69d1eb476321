"""Structured logs: one record a line, with the same field names everywhere.

    ts level event instance replicaset component term role vclock peer space txn reason duration_ms trace_id

`event` is a fixed snake_case name, so that a search or an alert never depends on a sentence. Passwords are
never written, tuples only at level debug. Loggers of libraries (grpc, asyncio) come out in the same form.

A log is outside the data path: no sink, whether full, closed or stuck, and no record ends or delays the task
that logs. What cannot be written is dropped and counted.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TextIO

from synchro.config import KIB, LOG_WAITING_BYTES_MAX

# structlog takes rich if it is there: 5 MiB in each instance, for tracebacks that our records do not have.
_rich = sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
import structlog  # noqa: E402

if _rich is None:
    del sys.modules["rich"]

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

FLUSH_S: Final = 1.0
"""How long the end of the process waits for records on their way to a sink that does not take them."""
LINE_CHARS_MAX: Final = 64 * KIB
"""Of what Python prints: a line that does not end must not fill the memory."""
_STDOUT: Final = 1
_STDERR: Final = 2

Record = MutableMapping[str, Any]


class Sink:
    """Where records go.

    K1  `put` never raises. Of a sink with a thread it never blocks either: a pipe that nobody reads, a
        stopped terminal or a stuck disk stops that thread only.
    K2  Records come out whole, in order, or not at all; the piece that a full disk took is ended by a line
        feed.
    K3  What was dropped is counted in `dropped`, and told by one record as soon as the sink works again.
    """

    def __init__(
        self, write: Callable[[bytes], int | None], *, bytes_max: int = LOG_WAITING_BYTES_MAX
    ) -> None:
        """write: takes bytes, returns how many it took (None: all), raises `OSError` or `ValueError`."""
        self._dropped = 0
        self.on_recovery: Callable[[int], str] = lambda count: f"logs_dropped {count}"
        """The record that tells of so many dropped ones."""
        self._write = write
        self._bytes_max = bytes_max
        self._told = 0
        self._is_torn = False
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_writing = False

    @property
    def dropped(self) -> int:
        """Records that were not written, in the whole life of the sink."""
        return self._dropped

    @classmethod
    def of_descriptor(cls, descriptor: int) -> Sink:
        """With a thread of its own."""
        sink = cls(lambda data: _write_patiently(descriptor, data))
        sink._thread = threading.Thread(target=sink._run, name="log", daemon=True)
        sink._thread.start()
        return sink

    @classmethod
    def of_stream(cls, stream: TextIO) -> Sink:
        """Written at once, in the thread that logs."""

        def write(data: bytes) -> None:
            stream.write(data.decode())
            stream.flush()

        return cls(write)

    def put(self, text: str) -> None:
        data = text.encode(errors="backslashreplace") + b"\n"
        if self._thread is None:
            self._out(data)
            return
        with self._changed:
            if self._waiting_bytes + len(data) > self._bytes_max:
                self._dropped += 1
                return
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self._changed.notify_all()

    def drop(self) -> None:
        """A record that could not be written, or not even be made."""
        with self._changed:
            self._dropped += 1

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is written or dropped; False: not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._is_writing, timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting[0]  # it counts as waiting until it is out
                self._is_writing = True
            self._out(data)
            with self._changed:
                self._waiting.popleft()
                self._waiting_bytes -= len(data)
                self._is_writing = False
                self._changed.notify_all()

    def _out(self, data: bytes) -> None:
        dropped = self.dropped
        if dropped > self._told:
            notice = self.on_recovery(dropped - self._told).encode(errors="backslashreplace") + b"\n"
            if not self._try(notice):
                self.drop()
                return
            self._told = dropped
        if not self._try(data):
            self.drop()

    def _try(self, data: bytes) -> bool:
        start = b"\n" if self._is_torn else b""
        data, at = start + data, 0
        try:
            while at < len(data):
                taken = self._write(data[at:])
                at = len(data) if taken is None else at + taken
        except (OSError, ValueError):  # ValueError: a closed stream
            if at:
                self._is_torn = at > len(start)
            return False
        self._is_torn = False
        return True


def _write_patiently(descriptor: int, data: bytes) -> int:
    """A descriptor that somebody made non-blocking is waited for, as a blocking one is."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            room = select.poll()
            room.register(descriptor, select.POLLOUT)
            room.poll()


class SinkStream(io.TextIOBase):
    """Stands for `sys.stderr`: what Python itself prints (warnings, errors in threads and finalizers) takes
    the way of the records, which cannot block."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._line = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._sink.put(line)
        if len(self._line) > LINE_CHARS_MAX:
            self._sink.put(self._line)
            self._line = ""
        return len(text)


_sink: Sink | None = None
_threshold = logging.INFO
"""Records below are dropped; see `set_level`."""


def dropped() -> int:
    """Records of this process that could not be written."""
    return 0 if _sink is None else _sink.dropped


def flush(timeout_s: float = FLUSH_S) -> None:
    """What is on its way to the sink goes out, or the time is over."""
    if _sink is not None:
        _sink.flush(timeout_s)


def send_to(path: str) -> None:
    """Standard output and error of the process go to the end of this file; its directory is made if there is
    none. Raises `OSError`."""
    os.makedirs(os.path.dirname(path) or os.curdir, exist_ok=True)
    # NONBLOCK: a pipe without a reader is refused, instead of waiting for one.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    file = os.open(path, flags, 0o644)
    for descriptor in (_STDOUT, _STDERR):
        os.dup2(file, descriptor)
    os.close(file)


def take_stderr() -> None:
    """For a process that is one instance: nothing in it writes to the descriptor but the sink."""
    assert _sink is not None
    sys.stderr = SinkStream(_sink)


def configure(
    *, format: str = "json", level: str = "info", stream: TextIO | None = None, sink: Sink | None = None
) -> None:
    """Set up logging of the whole process. format: json or console; sink: by default standard error."""
    global _sink, _threshold
    if sink is None:
        sink = Sink.of_descriptor(_STDERR) if stream is None else Sink.of_stream(stream)
    _sink = target = sink
    _threshold = number = LEVELS[level]
    renderer = _renderer(format, has_colours=os.isatty(_STDERR) if stream is None else stream.isatty())
    steps = [*_STEPS, renderer]

    def tell(count: int) -> str:
        record: Record = {"event": "logs_dropped", "component": "main", "count": count}
        for step in steps:
            record = step(None, "warning", record)
        return str(record)

    sink.on_recovery = tell

    class BoundLogger(structlog.make_filtering_bound_logger(logging.DEBUG)):  # type: ignore[misc]
        """A value that cannot be shown costs its record, never the task that logs. The level is looked at for
        each record, so loggers that are bound already follow a change."""

        def _proxy_to_logger(self, method_name: str, event: str | None = None, **facts: Any) -> Any:
            if LEVELS.get(method_name, logging.CRITICAL) < _threshold:
                return None
            try:
                return super()._proxy_to_logger(method_name, event, **facts)
            except Exception:  # noqa: BLE001 - of whatever kind: counted, and told by `logs_dropped`
                target.drop()
                return None

    structlog.configure(
        processors=steps,
        wrapper_class=BoundLogger,
        logger_factory=lambda *_: _SinkLogger(target),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(max(number, logging.WARNING))


def set_level(level: str) -> None:
    """The least important level that is written from now on, by all loggers of the process."""
    global _threshold
    _threshold = LEVELS[level]
    logging.getLogger().setLevel(max(_threshold, logging.WARNING))


def get_logger(component: str, *, instance: str | None = None, replicaset: str | None = None) -> Any:
    """A logger with these fields in every record. Methods: debug info warning error critical, and bind."""
    bound = {"instance": instance, "replicaset": replicaset, "component": component}
    return structlog.get_logger().bind(**{key: value for key, value in bound.items() if value is not None})


def _renderer(format: str, *, has_colours: bool) -> Any:
    if format == "console":
        return structlog.dev.ConsoleRenderer(colors=has_colours, timestamp_key="ts", sort_keys=False)
    return structlog.processors.JSONRenderer(default=str, ensure_ascii=False)


def _hide(logger: object, method: str, record: Record) -> Record:
    for key in record.keys() & SECRETS:
        record[key] = "***"
    return record


def _drop_tuples(logger: object, method: str, record: Record) -> Record:
    """User data belongs into the space, not into a log that others read; at level debug it is wanted."""
    if _threshold <= logging.DEBUG:
        return record
    for key in record.keys() & TUPLES:
        del record[key]
    return record


def _order(logger: object, method: str, record: Record) -> Record:
    return dict(sorted(record.items(), key=lambda item: _RANK.get(item[0], len(_RANK))))


_STEPS: Final = (
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    structlog.processors.format_exc_info,
    _hide,
    _drop_tuples,
    _order,
)


class _SinkLogger:
    """What structlog calls with a finished record."""

    def __init__(self, sink: Sink) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = sink.put


class _Bridge(logging.Handler):
    """Records of libraries that use the standard module."""

    def emit(self, record: logging.LogRecord) -> None:
        level = next((name for name, number in LEVELS.items() if record.levelno <= number), "critical")
        log = structlog.get_logger().bind(component="rpc" if record.name.startswith("grpc") else "main")
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit the format, or cannot be shown
            message = repr(type(record.msg)) if not isinstance(record.msg, str) else record.msg
        facts: dict[str, Any] = {"logger": record.name, "message": message}
        if record.exc_info:
            facts["exc_info"] = record.exc_info
        getattr(log, level)("library_message", **facts)
