"""Which calls that arrived together may share a transaction of the log (ADR 13)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from synchro.ids import REQUEST_ID_BYTES
from synchro.instance.events import SHARED_MIN, Position
from synchro.rpc import codec
from synchro.rpc.codec import Message
from synchro.rpc.generated.v1 import data_pb2

_REQUEST_ID_SIZES: Final = frozenset({0, REQUEST_ID_BYTES})
_ORDINARY_WAITS: Final = frozenset({data_pb2.WAIT_MODE_UNSPECIFIED, data_pb2.WAIT_MODE_COMPLETE})


def shape(call: Message) -> tuple[str, int | str, bytes] | None:
    """(insert or replace, its space, the tuple) of a call that asks for that and nothing special.

    Such calls may share a transaction (ADR 13): no other wait mode, no term. call: an ExecuteCall or
    ExecuteRequest."""
    ops = call.ops
    if (
        len(ops) != 1
        or call.wait not in _ORDINARY_WAITS
        or call.expected_term
        or len(call.request_id) not in _REQUEST_ID_SIZES
    ):
        return None
    op = ops[0]
    kind = op.WhichOneof("op")
    if kind == "insert":
        body = op.insert
    elif kind == "replace":
        body = op.replace
    else:
        return None
    return kind, body.space_id or body.space, body.tuple


class SharedPuts(NamedTuple):
    """What neighbours have in common, and their tuples."""

    kind: str
    space: int | str
    tuples: list[bytes]


_NO_PUTS: Final = SharedPuts("", "", [])


def neighbours(calls: Sequence[Message]) -> Iterator[tuple[SharedPuts | None, int, int]]:
    """Neighbours that may share a transaction, and what lies between such runs: what they have in common,
    place of the first, place behind the last."""
    run, start, done = _NO_PUTS, 0, 0
    for at, call in enumerate(calls):
        put = shape(call)
        if put is not None and put[0] == run.kind and put[1] == run.space:
            run.tuples.append(put[2])
            continue
        if len(run.tuples) >= SHARED_MIN:
            if done < start:
                yield None, done, start
            yield run, start, at
            done = at
        run, start = _NO_PUTS if put is None else SharedPuts(put[0], put[1], [put[2]]), at
    end = len(calls)
    if len(run.tuples) < SHARED_MIN:
        run, start = _NO_PUTS, end
    if done < start:
        yield None, done, start
    if run.tuples:
        yield run, start, end


def first_seq(calls: Sequence[Message]) -> int:
    """Return `seq` of the first call if all want no tuples and their `seq` rise by 1; else 0."""
    first: int = calls[0].seq
    is_range = [call.seq for call in calls] == list(range(first, first + len(calls)))
    return first if is_range and all(call.omit_tuples for call in calls) else 0


def timeouts_s(requests: Sequence[Message], default_s: float) -> float | list[float]:
    """`codec.timeout_s` of each; one for all, if none names its own."""
    if not any(request.HasField("timeout") for request in requests):
        return default_s
    return [codec.timeout_s(request, default_s) for request in requests]


def positions(requests: Sequence[Message], default: Position | None) -> list[Position | None]:
    """`codec.position` of each. Those who know the same get the same object: nearly all do."""
    found: list[Position | None] = []
    last: Position | None = None
    for request in requests:
        if not request.HasField("known_position"):
            found.append(default)
            continue
        known = request.known_position
        if last is None or known.lsn != last.lsn or known.term != last.term:
            last = codec.position(request)
        found.append(last)
    return found
