"""Calls of the client that define things and are done once, as plans; see `api.Api`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from synchro.client import replies
from synchro.client.plans import Plan, Plans
from synchro.client.requests import Message
from synchro.errors import IllegalParams
from synchro.rpc.generated.v1 import schema_pb2
from synchro.rpc.schema_form import Operation, run_once


class Definitions:
    """A part of `Api`."""

    plans: Plans

    # --- sequences

    def create_sequence(
        self,
        name: str,
        *,
        start: int | None = None,
        min: int | None = None,
        max: int | None = None,
        step: int | None = None,
        cycle: bool = False,
        cache: int = 0,
        if_not_exists: bool = False,
        timeout: float | None = None,
    ) -> Plan[replies.SequenceChanged]:
        """Make a sequence, which gives the numbers from `start` to `max` by `step`.

        A negative step: down to `min`. Default: 1, 2, 3... as far as 64 bits go. cycle: then from the other
        end on; else `SequenceOverflow`. cache: kept, and without effect.
        """
        given = {"step": step, "min": min, "max": max, "start": start}
        request = _filled(schema_pb2.CreateSequenceRequest(name=name, if_not_exists=if_not_exists), given)
        _filled(request, {"cycle": cycle, "cache": cache})
        reply = yield from self.plans.change("CreateSequence", request, timeout)
        return replies.sequence_changed(reply, reply.created)

    def alter_sequence(
        self,
        sequence: str,
        *,
        name: str | None = None,
        start: int | None = None,
        min: int | None = None,
        max: int | None = None,
        step: int | None = None,
        cycle: bool | None = None,
        cache: int | None = None,
        timeout: float | None = None,
    ) -> Plan[replies.SequenceChanged]:
        """Change what is given; None: leave it as it is. The value that it gave last stays."""
        given = {"step": step, "min": min, "max": max, "start": start, "cycle": cycle, "cache": cache}
        request = _filled(schema_pb2.AlterSequenceRequest(sequence=sequence), {"name": name, **given})
        return replies.sequence_changed(
            (yield from self.plans.change("AlterSequence", request, timeout)), True
        )

    def drop_sequence(
        self, sequence: str, *, if_exists: bool = False, timeout: float | None = None
    ) -> Plan[replies.SequenceChanged]:
        """Remove a sequence that numbers no space."""
        request = schema_pb2.DropSequenceRequest(sequence=sequence, if_exists=if_exists)
        reply = yield from self.plans.change("DropSequence", request, timeout)
        return replies.sequence_changed(reply, reply.dropped)

    def next_value(self, sequence: str, *, timeout: float | None = None) -> Plan[int]:
        """Take the next value of a sequence, which nobody else gets.

        If an answer is lost it is asked for another one, so values may be left out.
        """
        request = schema_pb2.NextSequenceValueRequest(sequence=sequence)
        reply = yield from self.plans.change("NextSequenceValue", request, timeout)
        return int(reply.value)

    def set_sequence(
        self, sequence: str, last: int | None, *, timeout: float | None = None
    ) -> Plan[replies.SequenceChanged]:
        """Go on behind `last`; None: begin at `start` again."""
        request = _filled(schema_pb2.SetSequenceRequest(sequence=sequence), {"last": last})
        reply = yield from self.plans.change("SetSequence", request, timeout)
        return replies.sequence_changed(reply, reply.HasField("txn"))

    def sequences(
        self, sequence: str = "", *, instance: str | None = None, timeout: float | None = None
    ) -> Plan[list[replies.SequenceInfo]]:
        """All sequences, or one, with the values that they gave last, as one instance has them."""
        request = schema_pb2.ListSequencesRequest(sequence=sequence)
        reply = yield from self.plans.read("schema", "ListSequences", request, instance, timeout)
        return [replies.sequence_info(message) for message in reply.sequences]

    # --- once

    def once(
        self, key: str, operations: Iterable[Operation], *, timeout: float | None = None
    ) -> Plan[replies.RanOnce]:
        """Run operations once in the life of the replica set; nothing is done if `key` was done before.

        operations: maps with one key, as `{"create_space": {"name": "test"}}`, `{"insert": {"space": "test",
        "tuple": [1]}}`; changes of the schema come first. Either kind alone is one transaction, in which the
        key is remembered too; both are two, and a call after the first one goes on with the second.
        """
        reply = yield from self.plans.change("RunOnce", run_once(key, operations), timeout)
        return replies.RanOnce(reply.executed, reply.executed_by, replies.txn_of(reply))


def _filled(request: Message, given: Mapping[str, Any]) -> Message:
    """Sets what is not None. Raises `IllegalParams`."""
    for name, value in given.items():
        if value is not None:
            try:
                setattr(request, name, value)
            except (TypeError, ValueError):
                raise IllegalParams(f"{value!r} is no value for {name!r}; nothing was sent") from None
    return request
