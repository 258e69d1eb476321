"""Protobuf messages made of dicts: protobuf takes a dict for a field that is a message, its stubs do not."""

from __future__ import annotations

from typing import Any

from synchro.rpc.generated.v1 import data_pb2


def op(**change: Any) -> data_pb2.Op:
    """One operation: `op(insert={"space": "bands", "tuple": data})`."""
    return data_pb2.Op(**change)


def request(**fields: Any) -> data_pb2.ExecuteRequest:
    """One transaction as a call of its own."""
    return data_pb2.ExecuteRequest(**fields)


def call(**fields: Any) -> data_pb2.ExecuteCall:
    """One transaction of a frame."""
    return data_pb2.ExecuteCall(**fields)


def frame(**fields: Any) -> data_pb2.ExecuteStreamRequest:
    """A message of a stream of transactions."""
    return data_pb2.ExecuteStreamRequest(**fields)


def select(**fields: Any) -> data_pb2.SelectRequest:
    """One read: `select(space="bands", key={"json": [7]})`."""
    return data_pb2.SelectRequest(**fields)


def begin(**fields: Any) -> data_pb2.TransactBegin:
    """How a transaction is opened."""
    return data_pb2.TransactBegin(**fields)


def commit(**fields: Any) -> data_pb2.TransactCommit:
    """How it is committed."""
    return data_pb2.TransactCommit(**fields)
