"""Requests for changes of the schema as rows of system spaces, and how such rows are written.

The builders make their operations from the definitions that there are at that moment: of the instance, or of
a draft (`once`). `storage/schema_ops.py` says what they mean.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import trio

from synchro.errors import NoSuchIndex, NoSuchSequence, NoSuchSpace, SyncTimeout, TupleFound
from synchro.ids import CallId, RequestId
from synchro.instance.events import (
    ClientWrite,
    ClientWrites,
    Committed,
    Fate,
    FateKnown,
    Outcome,
    Position,
    Rejected,
    WaitRequested,
)
from synchro.row import Dml, TxnId
from synchro.rpc import codec
from synchro.rpc.codec import Message
from synchro.rpc.generated.v1 import schema_pb2
from synchro.rpc.names import Names
from synchro.rpc.service import expect
from synchro.server.api import NodeApi
from synchro.storage import schema_ops
from synchro.storage.memtx import Memtx
from synchro.storage.row_body import dml_from_values
from synchro.storage.schema import ADMIN, ConflictPolicy, FieldDef, IndexType

REBUILDS_MAX: Final = 10
"""Two changes that were asked for at once may choose the same id; the later one is built again."""

_RACES: Final = frozenset({"_space", "_index", "_schema", "_sequence", "_user", "_priv"})
"""Spaces in which another change may have been first."""
_TYPES: Final = {
    schema_pb2.INDEX_TYPE_UNSPECIFIED: IndexType.TREE,
    schema_pb2.INDEX_TYPE_TREE: IndexType.TREE,
    schema_pb2.INDEX_TYPE_HASH: IndexType.HASH,
}
POLICIES: Final = {
    ConflictPolicy.STOP: schema_pb2.CONFLICT_POLICY_STOP,
    ConflictPolicy.SKIP: schema_pb2.CONFLICT_POLICY_SKIP,
    ConflictPolicy.KEEP_LOCAL: schema_pb2.CONFLICT_POLICY_KEEP_LOCAL,
    ConflictPolicy.LAST_WRITE_WINS: schema_pb2.CONFLICT_POLICY_LAST_WRITE_WINS,
}


@dataclass(frozen=True, slots=True)
class Definitions:
    """What builders look at."""

    memtx: Memtx
    names: Names
    owner: int = ADMIN
    """The user to whom belongs what is made."""


def definitions_of(memtx: Memtx) -> Definitions:
    return Definitions(memtx, Names(lambda: memtx.catalog))


# --- builders: an empty list says that there is nothing to do -----------------------------------------------


def create_space(now: Definitions, request: Message) -> Sequence[Dml]:
    return schema_ops.create_space(
        now.memtx,
        request.name,
        space_id=request.id or None,
        field_count=request.field_count,
        format=_fields(request.format),
        if_not_exists=request.if_not_exists,
        is_local=request.is_local,
        is_sync=request.is_sync,
        temporary=request.is_temporary,
        conflict=_policy(request.conflict) or ConflictPolicy.STOP,
        owner=now.owner,
    )


def alter_space(now: Definitions, request: Message) -> Sequence[Dml]:
    try:
        space = now.names.named_space(request.space)
    except NoSuchSpace as error:
        if request.HasField("name") and any(one.name == request.name for one in now.memtx.catalog.spaces()):
            error.message += _renamed("space", request.name)
        raise
    return schema_ops.alter_space(
        now.memtx,
        space.id,
        name=request.name if request.HasField("name") else None,
        is_sync=request.is_sync if request.HasField("is_sync") else None,
        field_count=request.field_count if request.HasField("field_count") else None,
        format=_fields(request.format.fields) if request.HasField("format") else None,
        conflict=_policy(request.conflict),
    )


def _renamed(kind: str, name: str) -> str:
    """What is said to who repeats a change of a name by hand, after one whose end was not known."""
    return f". There is a {kind} '{name}': if that is the one, it has its new name already; nothing was done"


def truncate_space(now: Definitions, request: Message) -> Sequence[Dml]:
    return schema_ops.truncate(now.memtx, now.names.named_space(request.space).id)


def drop_space(now: Definitions, request: Message) -> Sequence[Dml]:
    try:
        space = now.names.named_space(request.space)
    except NoSuchSpace:
        if request.if_exists:
            return ()
        raise
    return schema_ops.drop_space(now.memtx, space.id)


def create_index(now: Definitions, request: Message) -> Sequence[Dml]:
    return schema_ops.create_index(
        now.memtx,
        now.names.named_space(request.space).id,
        request.name,
        type=_TYPES.get(request.type, str(request.type)),
        unique=request.unique if request.HasField("unique") else True,
        if_not_exists=request.if_not_exists,
        parts=[_part(part) for part in request.parts] or schema_ops.DEFAULT_PARTS,
        sequence=_numbered(request.sequence) if request.HasField("sequence") else None,
    )


def _numbered(message: Message) -> schema_ops.Numbered:
    which = message.WhichOneof("field_ref")
    return schema_ops.Numbered(message.name or None, getattr(message, which) if which else None)


def drop_index(now: Definitions, request: Message) -> Sequence[Dml]:
    space = now.names.named_space(request.space)
    try:
        index_id = now.names.index_id(space.id, request.name)
    except NoSuchIndex:
        if request.if_exists:
            return ()
        raise
    return schema_ops.drop_index(now.memtx, space.id, index_id)


def create_sequence(now: Definitions, request: Message) -> Sequence[Dml]:
    return schema_ops.create_sequence(
        now.memtx, request.name, if_not_exists=request.if_not_exists, **_given(request)
    )


def alter_sequence(now: Definitions, request: Message) -> Sequence[Dml]:
    name = request.name if request.HasField("name") else None
    try:
        return schema_ops.alter_sequence(now.memtx, request.sequence, name=name, **_given(request))
    except NoSuchSequence as error:
        if name is not None and any(one.name == name for one in now.memtx.catalog.sequences.by_id.values()):
            error.message += _renamed("sequence", name)
        raise


def _given(request: Message) -> dict[str, Any]:
    """Properties of a sequence that were set, as arguments of `schema_ops`."""
    names = {"step": "step", "min": "low", "max": "high", "start": "start", "cache": "cache"}
    names["cycle"] = "cycle"
    is_new = not request.DESCRIPTOR.fields_by_name["cycle"].has_presence
    return {
        argument: getattr(request, name)
        for name, argument in names.items()
        if (is_new and name in ("cache", "cycle")) or request.HasField(name)
    }


def drop_sequence(now: Definitions, request: Message) -> Sequence[Dml]:
    try:
        return schema_ops.drop_sequence(now.memtx, request.sequence)
    except NoSuchSequence:
        if request.if_exists:
            return ()
        raise


def set_sequence(now: Definitions, request: Message) -> Sequence[Dml]:
    if not request.HasField("last"):
        return schema_ops.reset_sequence(now.memtx, request.sequence)
    return schema_ops.set_sequence(now.memtx, request.sequence, request.last)


def next_value(now: Definitions, request: Message) -> Sequence[Dml]:
    return schema_ops.set_sequence(now.memtx, request.sequence, None)


Builder: TypeAlias = Callable[[Definitions, Message], Sequence[Dml]]
BUILDERS: Final[Mapping[str, Builder]] = {
    "create_space": create_space,
    "alter_space": alter_space,
    "truncate_space": truncate_space,
    "drop_space": drop_space,
    "create_index": create_index,
    "drop_index": drop_index,
    "create_sequence": create_sequence,
    "alter_sequence": alter_sequence,
    "drop_sequence": drop_sequence,
    "set_sequence": set_sequence,
}
"""Field of SchemaChange -> how it is done."""


def _policy(number: int) -> str | None:
    """A policy for conflicts by its name; None: as it is. One of a later version has none, and is refused."""
    if number == schema_pb2.CONFLICT_POLICY_UNSPECIFIED:
        return None
    return next((policy for policy, known in POLICIES.items() if known == number), str(number))


def _fields(messages: Sequence[Message]) -> list[dict[str, object]]:
    """Return the fields of a format as `schema.parse_format` takes them."""
    return [
        FieldDef(message.name, message.type or "any", message.is_nullable).to_map() for message in messages
    ]


def _part(message: Message) -> dict[str, object]:
    """Return a key part as `schema.resolve_parts` takes it; what is not set comes from the format."""
    which = message.WhichOneof("field_ref")
    part: dict[str, object] = {"field": getattr(message, which) if which else 0}
    if message.type:
        part["type"] = message.type
    if message.is_nullable:
        part["is_nullable"] = True
    return part


def encoded(op: Dml) -> Dml:
    if op.raw:
        return op
    return dml_from_values(op.type, op.space_id, index_id=op.index_id, key=op.key, value=op.value, ops=op.ops)


# --- writing ----------------------------------------------------------------------------------------------


async def first_try(node: NodeApi, request: Message, timeout_s: float) -> TxnId | None:
    """What the call with this request id wrote already: a retry would find its own work, and be refused.

    None: nothing. Raises `SyncTimeout` if it is not decided in time."""
    request_id = codec.request_id(request.request_id)
    if request_id is None:
        return None
    outcome = await node.call(
        lambda call_id: WaitRequested(call_id, request_id=request_id), timeout_s=timeout_s
    )
    first = expect(outcome, FateKnown)
    if first.fate is Fate.PENDING:
        raise SyncTimeout(
            f"the change {first.txn} was not decided within {timeout_s:g} s; it stays in the "
            "queue, outcome unknown",
            txn=first.txn,
        )
    return first.txn if first.fate is Fate.COMMITTED else None


async def write(
    node: NodeApi,
    build: Callable[[], Sequence[Dml]],
    deadline: float,
    request_id: RequestId | None = None,
    known_position: Position | None = None,
) -> Committed | None:
    """Run what `build` makes from the definitions of this moment, in one transaction.

    deadline: trio's seconds. Returns None if nothing had to be done.
    """

    async def at_once() -> Sequence[Dml]:
        return build()

    return await write_built(node, at_once, deadline, request_id, known_position)


async def write_built(
    node: NodeApi,
    build: Callable[[], Awaitable[Sequence[Dml]]],
    deadline: float,
    request_id: RequestId | None = None,
    known_position: Position | None = None,
) -> Committed | None:
    """As `write`. build: when it returns, what it made is of that moment."""
    for attempt in range(1, REBUILDS_MAX + 1):
        ops = [encoded(op) for op in await build()]
        if not ops:
            return None

        def event(call_id: CallId, ops: Sequence[Dml] = ops) -> ClientWrites:
            return ClientWrites([ClientWrite(call_id, ops, request_id, known_position)])

        outcome = await node.call(event, timeout_s=max(0.0, deadline - trio.current_time()))
        if attempt == REBUILDS_MAX or not _is_race(outcome):
            break
    return expect(outcome, Committed)


def _is_race(outcome: Outcome) -> bool:
    """Whether another change took the id, the name or the key while this one waited for its turn."""
    return (
        isinstance(outcome, Rejected)
        and isinstance(outcome.error, TupleFound)
        and outcome.error.details.get("space") in _RACES
    )
