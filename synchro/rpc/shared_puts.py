"""Which calls of a frame may share a transaction of the log (ADR 13)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from synchro.instance.events import SHARED_MIN
from synchro.rpc import codec
from synchro.rpc.codec import Message


class SharedPuts(NamedTuple):
    """What neighbours in a frame have in common, and their tuples."""

    kind: str
    space: int | str
    tuples: list[bytes]


_NO_PUTS: Final = SharedPuts("", "", [])


def neighbours(calls: Sequence[Message]) -> Iterator[tuple[SharedPuts | None, Sequence[Message]]]:
    """Neighbours that may share a transaction, and what lies between such runs."""
    others: list[Message] = []
    run, same = _NO_PUTS, list[Message]()
    for call in (*calls, None):
        shape = None if call is None else codec.shape(call)
        if shape is not None and shape[0] == run.kind and shape[1] == run.space:
            run.tuples.append(shape[2])
            same.append(call)
            continue
        if len(same) < SHARED_MIN:
            others += same
        else:
            if others:
                yield None, others
                others = []
            yield run, same
        run, same = (_NO_PUTS, []) if shape is None else (SharedPuts(shape[0], shape[1], [shape[2]]), [call])
        if shape is None and call is not None:
            others.append(call)
    if others:
        yield None, others


def first_seq(calls: Sequence[Message]) -> int:
    """Return `seq` of the first call if all want no tuples and their `seq` rise by 1; else 0."""
    first: int = calls[0].seq
    is_range = [call.seq for call in calls] == list(range(first, first + len(calls)))
    return first if is_range and all(call.omit_tuples for call in calls) else 0
