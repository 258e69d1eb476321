"""The tuples that a write answers with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from synchro.instance.events import Committed, Submitted
from synchro.row import Dml, RowType, Tuple
from synchro.rpc import codec, operations
from synchro.rpc.codec import Message
from synchro.rpc.generated.v1 import common_pb2

Encoded: TypeAlias = bytes | Message | None
"""A tuple on its way out: msgpack, a Tuple message with JSON, or none."""
OpsOf: TypeAlias = Callable[[int], Sequence[Dml]]
"""The operations of the call with this index among those that were submitted together."""

_UNSPECIFIED: Final = common_pb2.ENCODING_UNSPECIFIED
_JSON: Final = common_pb2.ENCODING_JSON
_STORED_AS_SENT: Final = frozenset({RowType.INSERT, RowType.REPLACE})


def answer_tuples(
    request: Message, index: int, ops: OpsOf, outcome: Committed | Submitted
) -> Sequence[Encoded]:
    """Return what the caller wants to see of what it did. request: an ExecuteRequest or ExecuteCall."""
    if type(outcome) is not Committed or not outcome.tuples or request.omit_tuples:
        return ()
    encoding = request.encoding
    as_json = operations.is_json(request.ops) if encoding == _UNSPECIFIED else encoding == _JSON
    encoded = encoded_tuples(ops(index), outcome.tuples, as_json=as_json)
    return encoded if len(encoded) == len(request.ops) else _in_their_places(request, encoded)


def _in_their_places(request: Message, encoded: Sequence[Encoded]) -> list[Encoded]:
    """One for each operation but `synchronous`; a condition has none."""
    given = iter(encoded)
    kinds = [op.WhichOneof("op") for op in request.ops]
    return [None if kind == "check" else next(given) for kind in kinds if kind != "synchronous"]


def encoded_tuples(ops: Sequence[Dml], tuples: Sequence[Tuple | None], *, as_json: bool) -> list[Encoded]:
    """Return what each operation returns. A tuple that was stored as it came goes back as it came."""
    if as_json:
        return [codec.tuple_message(value, as_json=True) for value in tuples]
    return [
        None
        if value is None
        else operations.stored_bytes(change)
        if value is change.value and change.type in _STORED_AS_SENT
        else codec.pack(value)
        for change, value in zip(ops, tuples, strict=False)
    ]


def add_tuples(field: Any, tuples: Sequence[Encoded]) -> None:
    """Append to a repeated field of a reply."""
    for value in tuples:
        if type(value) is bytes:
            field.add(msgpack=value)
        elif value is None:
            field.add()
        else:
            field.append(value)
