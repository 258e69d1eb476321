"""Log records: fixed fields in a fixed order, no secrets, no user data at level info."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from synchro import logs
from synchro.logs import Sink, SinkStream, configure, get_logger


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    yield
    structlog.reset_defaults()
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def records(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_has_the_documented_fields_in_order() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    log = get_logger("raft", instance="instance001", replicaset="replicaset001")
    log.info("leader_elected", leader="instance001", vclock="{1: 5}", term=3)

    [record] = records(stream)
    assert list(record) == [
        "ts",
        "level",
        "event",
        "instance",
        "replicaset",
        "component",
        "term",
        "vclock",
        "leader",
    ]
    assert (record["event"], record["level"], record["term"]) == ("leader_elected", "info", 3)
    assert str(record["ts"]).endswith("Z")


def test_passwords_are_never_written_and_tuples_only_at_debug() -> None:
    for level, shown in (("info", False), ("debug", True)):
        stream = io.StringIO()
        configure(stream=stream, level=level)
        get_logger("applier").warning("conflict", password="topsecret", old_tuple=[5, "x"])
        [record] = records(stream)
        assert record["password"] == "***"
        assert ("old_tuple" in record) is shown


def test_the_place_of_a_conflict_is_written_at_every_level() -> None:
    """[A-35]: without its key nobody finds the row that was left out."""
    stream = io.StringIO()
    configure(stream=stream, level="warning")
    get_logger("node").warning("conflict_skipped", origin=2, lsn=4, space="bands", key="[6]")
    [record] = records(stream)
    assert [record[name] for name in ("origin", "lsn", "space", "key")] == [2, 4, "bands", "[6]"]


def test_the_level_filters() -> None:
    stream = io.StringIO()
    configure(stream=stream, level="error")
    log = get_logger("wal")
    log.warning("not_this")
    log.error("this")
    assert [record["event"] for record in records(stream)] == ["this"]


def test_libraries_come_out_in_the_same_form() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    configure(stream=stream)
    logging.getLogger("grpc._cython").warning("bad %s", "thing")
    [record] = records(stream)
    assert (record["component"], record["message"], record["level"]) == ("rpc", "bad thing", "warning")


def test_an_exception_is_part_of_its_record() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    try:
        raise ValueError("no")
    except ValueError:
        get_logger("main").exception("crashed")
    [record] = records(stream)
    assert "ValueError: no" in str(record["exception"])


def test_the_console_form_is_for_people() -> None:
    stream = io.StringIO()
    configure(format="console", stream=stream)
    get_logger("relay").info("relay_connected", peer="instance002")
    assert "relay_connected" in stream.getvalue()
    assert "peer=instance002" in stream.getvalue()


# --- sinks that refuse --------------------------------------------------------------------------------------


class Disk:
    """What a log file lies on: `room` bytes are left, then each write is short or fails."""

    def __init__(self, room: int, error: int = errno.ENOSPC) -> None:
        self.room = room
        self.error = error
        self.text = b""

    def write(self, data: bytes) -> int:
        taken = data[: max(0, self.room)]
        if not taken:
            raise OSError(self.error, os.strerror(self.error))
        self.text += taken
        self.room -= len(taken)
        return len(taken)

    @property
    def lines(self) -> list[bytes]:
        return self.text.splitlines()


@pytest.mark.parametrize(
    "error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE, errno.EBADF, errno.EFBIG]
)
def test_a_record_that_cannot_be_written_is_dropped_and_counted(error: int) -> None:
    disk = Disk(room=10_000, error=error)
    configure(sink=Sink(disk.write))
    log = get_logger("node")
    log.info("first")
    disk.room = 0
    log.info("lost")
    logging.getLogger("grpc").warning("lost too")
    assert logs.dropped() == 2
    disk.room = 10_000
    log.info("works_again")
    log.info("and_on")
    assert [json.loads(line)["event"] for line in disk.lines] == [
        "first",
        "logs_dropped",
        "works_again",
        "and_on",
    ]
    assert json.loads(disk.lines[1])["count"] == 2
    assert logs.dropped() == 2  # of the whole life


def test_a_piece_that_a_full_disk_took_does_not_spoil_the_next_record() -> None:
    disk = Disk(room=10_000)
    configure(sink=Sink(disk.write))
    get_logger("node").info("first")
    for room in (20, 0, 1, 30):
        disk.room = room
        get_logger("node").info("torn")
    disk.room = 10_000
    get_logger("node").info("whole")
    events = []
    for line in disk.lines:
        with contextlib.suppress(ValueError):
            events.append(json.loads(line)["event"])
    assert events == ["first", "logs_dropped", "whole"]


def test_the_record_that_tells_may_be_refused_as_well() -> None:
    disk = Disk(room=0)
    configure(sink=Sink(disk.write))
    for _ in range(5):
        get_logger("node").info("lost")
    disk.room = 100  # not enough for both
    get_logger("node").info("lost", fact="x" * 200)
    disk.room = 10_000
    get_logger("node").info("whole")
    told = [json.loads(line) for line in disk.lines if line.endswith(b"}")]
    assert sum(record.get("count", 0) for record in told) == logs.dropped() == 6


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def test_a_value_that_cannot_be_shown_costs_its_record_only() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    log = get_logger("node")
    circle: list[object] = []
    circle.append(circle)
    for value in (Unshowable(), circle, {Unshowable(): 1}, {(1, 2): 3}):
        log.info("bad", value=value)
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if "pytest" not in type(handler).__module__]
    logging.getLogger("grpc").error("%d %s", "no number")
    logging.getLogger("grpc").error("%s", Unshowable())
    log.info("name", path="\udcff.xlog")
    shown = records(stream)
    assert [record["message"] for record in shown if "message" in record] == ["%d %s", "%s"]
    assert shown[-1]["event"] == "name"
    assert logs.dropped() >= 2


def test_a_closed_stream_is_a_sink_that_refuses() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    stream.close()
    get_logger("node").error("nowhere")
    assert logs.dropped() == 1


def test_a_pipe_whose_reader_is_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = Sink.of_descriptor(writer)
    configure(sink=sink)
    get_logger("node").error("nowhere")
    assert sink.flush(5)
    assert logs.dropped() == 1


@pytest.mark.parametrize("is_blocking", [True, False])
def test_a_pipe_that_nobody_reads_delays_nobody(is_blocking: bool) -> None:
    """64 KiB fit a pipe; the task that logs goes on, what waits has a bound, and all is told in the end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, is_blocking)
    sink = Sink.of_descriptor(writer)
    sink._bytes_max = 100_000
    configure(sink=sink)
    for number in range(400):
        get_logger("node").info("full", number=number, fact="x" * 1000)
    assert not sink.flush(0.01)
    lost = logs.dropped()
    assert 100 < lost < 400

    text = bytearray()

    def read_all() -> None:
        while data := os.read(reader, 65536):
            text.extend(data)

    thread = threading.Thread(target=read_all)
    thread.start()
    assert sink.flush(5)
    get_logger("node").info("works_again")
    assert sink.flush(5)
    os.close(writer)
    thread.join(5)
    found = [json.loads(line) for line in bytes(text).splitlines()]
    numbers = [record["number"] for record in found if record["event"] == "full"]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 400 - lost
    assert sum(record.get("count", 0) for record in found) == lost
    assert found[-1]["event"] == "works_again"


def test_what_python_prints_takes_the_way_of_the_records() -> None:
    disk = Disk(room=10_000)
    sink = Sink(disk.write)
    stream = SinkStream(sink)
    print("one", "line", file=stream)
    stream.write("half ")
    disk.room = 0
    print("lost", file=stream)
    assert disk.lines == [b"one line"]
    assert sink.dropped == 1


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    disk = Disk(room=2_000_000)
    stream = SinkStream(Sink(disk.write))
    for _ in range(1000):
        stream.write("x" * 1000)
    assert sum(map(len, disk.lines)) > 900_000


def test_an_instance_does_without_what_only_makes_tracebacks_beautiful() -> None:
    """structlog would bring rich, some MiB in each process; whoever wants it later still gets it."""
    program = "import sys, synchro.logs; assert 'rich' not in sys.modules; import rich.console"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
