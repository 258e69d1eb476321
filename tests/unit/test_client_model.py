"""Tuples, the tree of info, requests."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from synchro.client import encoding, requests
from synchro.client.errors import CannotConnect, ClientClosed, OutcomeUnknown
from synchro.client.model import (
    Committed,
    Info,
    Result,
    RolledBack,
    Rows,
    Tuple,
    make_tuple,
    parse_txn,
)
from synchro.client.session import Session
from synchro.errors import IllegalParams, WrongFormat
from synchro.rpc.generated.v1 import common_pb2, data_pb2


def test_a_tuple_has_fields_by_position_and_by_name() -> None:
    row = make_tuple([1, "Roxette"], lambda: ["id", "name", "year"], (1, 7))
    assert row[1] == "Roxette"
    assert row["name"] == "Roxette"
    assert row["year"] is None  # a field at the end that was left out
    assert row.txn == (1, 7)
    assert row.to_dict() == {"id": 1, "name": "Roxette"}
    with pytest.raises(KeyError, match="id, name, year"):
        row["nmae"]
    with pytest.raises(KeyError, match="no format"):
        Tuple([1])["id"]
    assert row == (1, "Roxette")


@pytest.mark.parametrize("copied", [lambda v: pickle.loads(pickle.dumps(v)), copy.copy, copy.deepcopy])
def test_what_the_client_returns_can_be_copied_and_sent_to_other_processes(
    copied: Callable[[Any], Any],
) -> None:
    row: Any = copied(make_tuple([1, "Roxette"], lambda: ["id", "name"], (1, 7)))
    assert type(row) is Tuple and list(row) == [1, "Roxette"]
    assert row["name"] == "Roxette" and row.txn == (1, 7)
    assert copied(Tuple([1])).field_names is None

    rows: Any = Rows([row])
    rows.after, rows.read_at = row, {1: 7}
    again: Any = copied(rows)
    assert isinstance(again, Rows) and again == rows and again.after is not None
    assert again[0]["name"] == "Roxette" and again.after["id"] == 1 and again.read_at == {1: 7}

    assert copied(Info({"synchro": {"queue": {"len": 3}}})).synchro.queue.len == 3
    result = Result([row], (1, 7), is_sync=True, duplicate=False, instance="i")
    for value in (result, Committed((1, 7)), RolledBack(None)):
        assert copied(value) == value


def test_names_that_cannot_be_found_out_do_not_keep_a_row_from_being_sent() -> None:
    def ask() -> list[str]:
        raise CannotConnect("nobody there")

    row = pickle.loads(pickle.dumps(make_tuple([1], ask)))
    assert row == (1,)
    with pytest.raises(KeyError):
        row["id"]


def test_an_unknown_outcome_can_be_sent_to_another_process() -> None:
    """It cannot ask there any more, but says all it knows."""
    unknown = OutcomeUnknown("perhaps", txn=(1, 7), request_id=b"i" * 16, reason="SYNC_TIMEOUT")
    unknown.bind(threading.Lock())
    again = pickle.loads(pickle.dumps(unknown))
    assert (again.message, again.txn, again.request_id) == ("perhaps", (1, 7), b"i" * 16)
    assert again.details == unknown.details and again.is_only_try
    with pytest.raises(ClientClosed, match="another process"):
        again.wait()


def test_info_is_a_tree_of_attributes() -> None:
    info = Info({"synchro": {"queue": {"len": 3}}, "replication": {1: {"name": "a"}}, "ro": False})
    assert info.synchro.queue.len == 3
    assert info.replication[1].name == info.replication["1"].name == "a"
    assert info.ro is False
    with pytest.raises(AttributeError, match="synchro, replication, ro"):
        _ = info.nothing


def test_a_call_names_its_space_index_and_key() -> None:
    op = requests.update("bands", 1, [["=", 2, "x"]], index="by_name")
    assert op.update.space == "bands"
    assert op.update.index == "by_name"
    assert requests.unpack(op.update.key) == [1]
    assert requests.insert(512, (1, 2)).insert.space_id == 512


def test_what_cannot_be_stored_is_refused_before_it_is_sent() -> None:
    with pytest.raises(WrongFormat, match="nothing was sent"):
        requests.insert("s", [object()])
    with pytest.raises(WrongFormat, match="list of fields"):
        requests.insert("s", "abc")
    with pytest.raises(IllegalParams):
        encoding.options("maybe", None, 0, False)


def test_a_duplicate_reply_shows_what_was_sent() -> None:
    """The server remembers that it was done, not what it returned."""
    ops = [encoding.insert("s", [1, "a"]), encoding.encoded(requests.delete("s", 2))]
    reply = data_pb2.ExecuteReply(txn_origin=1, txn_lsn=9, duplicate=True, is_sync=True)
    result = encoding.result(reply, ops, None, "instance001", omit_tuples=False)
    assert result.tuples == [(1, "a"), None]
    assert result.txn == (1, 9)
    assert result.duplicate
    assert encoding.result(reply, ops, None, "instance001", omit_tuples=True).tuples == ()
    assert result.duplicate


def test_formats_and_parts_have_short_forms() -> None:
    fields = requests.fields(["id:unsigned", ("name", "string?"), {"name": "x", "type": "any"}, "free"])
    assert [(f.name, f.type, f.is_nullable) for f in fields] == [
        ("id", "unsigned", False),
        ("name", "string", True),
        ("x", "any", False),
        ("free", "", False),
    ]
    parts = requests.parts([1, "name", "2:string?", ("id", "unsigned")])
    assert [(p.WhichOneof("field_ref"), p.type, p.is_nullable) for p in parts] == [
        ("field", "", False),
        ("name", "", False),
        ("field", "string", True),
        ("name", "unsigned", False),
    ]


def test_the_newest_position_of_any_header_is_kept() -> None:
    session = Session()
    for term, lsn in ((2, 10), (3, 1), (2, 99)):
        session.see(common_pb2.Header(decided_position=common_pb2.Position(term=term, lsn=lsn)))
    assert (session.position.term, session.position.lsn) == (3, 1)
    session.see(common_pb2.Header())
    assert session.position.term == 3


def test_names_are_read_again_whenever_an_instance_has_other_definitions() -> None:
    """Each counts for itself, and anew when it starts: who leads now may say less than the last leader."""
    session, seen = Session(), []
    said = [(1, 9), (1, 9), (2, 4), (1, 9), (2, 4), (2, 5), (1, 9), (1, 6), (2, 5), (3, 0)]
    for instance, version in said:
        session.see(common_pb2.Header(instance_id=instance, schema_version=version))
        seen.append(session.schema_version)
    assert seen == [1, 1, 2, 2, 2, 3, 3, 4, 4, 4]


def test_names_of_transactions() -> None:
    assert parse_txn("1:15") == (1, 15)
    with pytest.raises(ValueError, match="invalid literal"):
        parse_txn("x")
