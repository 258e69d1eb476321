"""Log records: fixed fields in a fixed order, no secrets, no user data at level info."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from synchro.logs import configure, get_logger


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
