"""What calls return, as values: members, spaces, the queue, and what operators' commands did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from synchro.client.model import TxnId
from synchro.client.requests import CONFLICT_POLICIES, ConflictKind, Message, seconds
from synchro.rpc.generated.v1 import data_pb2, schema_pb2

Outcome: TypeAlias = Literal["committed", "rolled_back", "pending", "unknown"]
"""pending: it is in the queue. unknown: the instance that was asked has not heard of it."""
Stage: TypeAlias = Literal["submitted", "on_disk", "committed", "rolled_back", "unknown"]
"""submitted: on its way to the disk. on_disk: it waits for its quorum. The others are ends; unknown: the
instance that was asked cannot tell."""
IndexKind: TypeAlias = Literal["tree", "hash"]


# --- spaces ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """A field of a format. type: "" for any."""

    name: str
    type: str
    is_nullable: bool


@dataclass(frozen=True, slots=True)
class PartInfo:
    """A part of a key. field: its number, from 1."""

    field: int
    type: str
    is_nullable: bool


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An index; the one with id 0 is the primary key."""

    id: int
    name: str
    type: IndexKind
    unique: bool
    parts: tuple[PartInfo, ...]


@dataclass(frozen=True, slots=True)
class SpaceInfo:
    """A space. field_count: how many fields a tuple must have; 0: any number. tuple_count: confirmed tuples
    on the instance that answered. sequence: name of what gives values to field `sequence_field`, from 1, of
    the primary key; "": nothing does."""

    id: int
    name: str
    is_sync: bool
    is_local: bool
    is_temporary: bool
    field_count: int
    format: tuple[FieldInfo, ...]
    indexes: tuple[IndexInfo, ...]
    tuple_count: int
    conflict: ConflictKind = "stop"
    """What becomes of a received row that is in the way."""
    sequence: str = ""
    sequence_field: int = 0


@dataclass(frozen=True, slots=True)
class SpaceChanged:
    """What became of a change of a space. space: as it is now; None if it is gone, or was not told.

    done: False if there was nothing to do, as with if_not_exists. txn: None if nothing was written.
    """

    done: bool
    space: SpaceInfo | None
    txn: TxnId | None


@dataclass(frozen=True, slots=True)
class IndexChanged:
    """What became of a change of an index. done, txn: as in `SpaceChanged`."""

    done: bool
    index: IndexInfo | None
    txn: TxnId | None


@dataclass(frozen=True, slots=True)
class SequenceInfo:
    """A sequence. last: the value that it gave last; None: it gave none. spaces: those that it numbers."""

    id: int
    name: str
    step: int
    min: int
    max: int
    start: int
    cache: int
    cycle: bool
    last: int | None
    spaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SequenceChanged:
    """What became of a change of a sequence. sequence: as it is now; None: it is gone, or was not told. done,
    txn: as in `SpaceChanged`."""

    done: bool
    sequence: SequenceInfo | None
    txn: TxnId | None


@dataclass(frozen=True, slots=True)
class RanOnce:
    """What became of operations that run once. executed: by this call; False: they were done before.

    executed_by: name of the instance that did them; "" if nobody wrote it down. txn: as in `SpaceChanged`.
    """

    executed: bool
    executed_by: str
    txn: TxnId | None


@dataclass(frozen=True, slots=True)
class Checksum:
    """Equal wherever the same tuples are confirmed. read_at: a vclock."""

    instance: str
    count: int
    checksum: str
    read_at: Mapping[int, int]


def space_info(message: Message) -> SpaceInfo:
    """From a SpaceDef."""
    return SpaceInfo(
        id=message.id,
        name=message.name,
        is_sync=message.is_sync,
        is_local=message.is_local,
        is_temporary=message.is_temporary,
        field_count=message.field_count,
        format=tuple(FieldInfo(field.name, field.type, field.is_nullable) for field in message.format),
        indexes=tuple(index_info(index) for index in message.indexes),
        tuple_count=message.tuple_count,
        sequence=message.sequence,
        sequence_field=message.sequence_field,
        conflict=_conflict(message.conflict),
    )


def _conflict(number: int) -> ConflictKind:
    """Of an older instance: stop."""
    return next((policy for policy, known in CONFLICT_POLICIES.items() if known == number), "stop")


def index_info(message: Message) -> IndexInfo:
    """From an IndexDef."""
    return IndexInfo(
        id=message.id,
        name=message.name,
        type="hash" if message.type == schema_pb2.INDEX_TYPE_HASH else "tree",
        unique=message.unique,
        parts=tuple(PartInfo(part.field, part.type, part.is_nullable) for part in message.parts),
    )


def sequence_info(message: Message) -> SequenceInfo:
    """From a SequenceDef."""
    return SequenceInfo(
        id=message.id,
        name=message.name,
        step=message.step,
        min=message.min,
        max=message.max,
        start=message.start,
        cache=message.cache,
        cycle=message.cycle,
        last=message.last if message.HasField("last") else None,
        spaces=tuple(message.spaces),
    )


def sequence_changed(reply: Message, done: bool) -> SequenceChanged:
    names = reply.DESCRIPTOR.fields_by_name
    shown = sequence_info(reply.sequence) if "sequence" in names and reply.HasField("sequence") else None
    return SequenceChanged(done, shown, txn_of(reply))


def space_changed(reply: Message, done: bool | None = None) -> SpaceChanged:
    """From the reply to a change. done: None if it is so exactly when something was written."""
    names = reply.DESCRIPTOR.fields_by_name
    space = space_info(reply.space) if "space" in names and reply.HasField("space") else None
    txn = txn_of(reply)
    return SpaceChanged(txn is not None if done is None else done, space, txn)


def index_changed(reply: Message, done: bool) -> IndexChanged:
    names = reply.DESCRIPTOR.fields_by_name
    index = index_info(reply.index) if "index" in names and reply.HasField("index") else None
    return IndexChanged(done, index, txn_of(reply))


def txn_of(reply: Message) -> TxnId | None:
    return (reply.txn.origin, reply.txn.lsn) if reply.HasField("txn") else None


# --- the queue ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MissingAck:
    """An instance that has not acknowledged a transaction. is_connected: it follows the one that was asked.

    since_s: seconds; connected, since it or the transaction came, whichever is later; else since it was heard
    last; None: not since the one that was asked started.
    """

    id: int
    is_connected: bool
    since_s: float | None


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A transaction in the queue. txn: None before it has a name. size: bytes. age_s: seconds.

    acked_by, missing: ids of the instances that have, and have not, acknowledged it; the owner knows all.
    waits_for: why those of `missing` have not, in the same order; empty from an older version.
    """

    txn: TxnId | None
    space_ids: tuple[int, ...]
    rows: int
    size: int
    age_s: float
    acked_by: tuple[int, ...]
    missing: tuple[int, ...]
    is_sync: bool
    waits_for: tuple[MissingAck, ...] = ()


@dataclass(frozen=True, slots=True)
class Queue:
    """The queue of synchronous transactions, as one instance sees it.

    owner: id; 0: nobody. term: in which the owner claimed it. len: entries. size: bytes. age_s: of the oldest
    entry, seconds. confirm_lag_s: from submission to decision of the last one decided, seconds. quorum:
    copies that decide. entries: oldest first, as many as were asked for.
    """

    instance: str
    owner: int
    term: int
    len: int
    size: int
    busy: bool
    age_s: float
    confirm_lag_s: float
    quorum: int
    entries: tuple[QueueEntry, ...]


def queue(reply: Message) -> Queue:
    """From a ListQueueResponse."""
    found = reply.queue
    return Queue(
        instance=reply.header.instance_name,
        owner=found.owner,
        term=found.term,
        len=found.len,
        size=found.size,
        busy=found.busy,
        age_s=seconds(found.age),
        confirm_lag_s=seconds(found.confirm_lag),
        quorum=reply.quorum,
        entries=tuple(_entry(entry) for entry in reply.entries),
    )


def _entry(message: Message) -> QueueEntry:
    return QueueEntry(
        txn=txn_of(message),
        space_ids=tuple(message.space_ids),
        rows=message.rows,
        size=message.size,
        age_s=seconds(message.age),
        acked_by=tuple(message.acked_by),
        missing=tuple(message.missing),
        is_sync=message.is_sync,
        waits_for=tuple(
            MissingAck(
                missing.instance_id,
                missing.is_connected,
                seconds(missing.since) if missing.HasField("since") else None,
            )
            for missing in message.waits_for
        ),
    )


# --- members and commands -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """An instance of the set, as another one sees it.

    lsn: last one of its own rows that is known there. upstream, downstream: the streams from it and to it;
    status "": there is none. upstream_idle_s, upstream_lag_s: seconds.
    """

    id: int
    uuid: str
    name: str
    address: str
    is_self: bool
    is_leader: bool
    owns_queue: bool
    lsn: int
    upstream_status: str
    upstream_message: str
    upstream_idle_s: float
    upstream_lag_s: float
    downstream_status: str


def member(message: Message) -> Member:
    """From an InstanceInfo."""
    return Member(
        id=message.id,
        uuid=message.uuid,
        name=message.name,
        address=message.address,
        is_self=message.is_self,
        is_leader=message.is_leader,
        owns_queue=message.owns_queue,
        lsn=message.lsn,
        upstream_status=message.upstream_status,
        upstream_message=message.upstream_message,
        upstream_idle_s=seconds(message.upstream_idle),
        upstream_lag_s=seconds(message.upstream_lag),
        downstream_status=message.downstream_status,
    )


@dataclass(frozen=True, slots=True)
class Promoted:
    """Who owns the queue now, since which term. previous_owner: id; 0: nobody.

    confirmed, rolled_back: how many transactions of the previous owner were.
    """

    instance: str
    term: int
    previous_owner: int
    confirmed: int
    rolled_back: int


@dataclass(frozen=True, slots=True)
class PromoteOutlook:
    """What a promote would do now. is_owner: nothing, it owns the queue and leads already.

    term: in which the queue would be owned. confirmed: transactions that wait there. missing_rows: rows of
    the present owner that are not there: those of them that wait for their quorum would be rolled back.
    obstacles: reason and text of what it would fail by; none: nothing is known that stands against it.
    """

    instance: str
    is_owner: bool
    term: int
    previous_owner: int
    confirmed: int
    missing_rows: int
    obstacles: tuple[tuple[str, str], ...]


def promote_outlook(reply: Message) -> PromoteOutlook:
    """From a CheckPromoteResponse."""
    return PromoteOutlook(
        reply.header.instance_name,
        reply.is_owner,
        reply.term,
        reply.previous_owner,
        reply.confirmed,
        reply.missing_rows,
        tuple((one.reason, one.message) for one in reply.obstacles),
    )


@dataclass(frozen=True, slots=True)
class Demoted:
    """Who gave up the leadership, or, without elections, the queue; in which term. is_done: False if it did
    not lead, or nobody owned the queue; an older version does not say so."""

    instance: str
    term: int
    is_done: bool = True


@dataclass(frozen=True, slots=True)
class ConfigOption:
    """An option that a configuration changes. before, after: plain values; None: it is not given.

    needs_restart: it is not in use before a restart."""

    key: str
    before: Any
    after: Any
    needs_restart: bool


@dataclass(frozen=True, slots=True)
class ConfigChanges:
    """What a configuration changes, or has changed, at an instance. instance: "" while it loads."""

    instance: str
    options: Sequence[ConfigOption]
    warnings: Sequence[str]


def config_changes(reply: Message) -> ConfigChanges:
    options = [
        ConfigOption(
            option.key,
            json.loads(option.before) if option.before else None,
            json.loads(option.after) if option.after else None,
            option.needs_restart,
        )
        for option in reply.options
    ]
    return ConfigChanges(reply.header.instance_name, options, list(reply.warnings))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A snapshot that was written. vclock: instance id -> LSN; signature: their sum, the name of the file."""

    instance: str
    vclock: Mapping[int, int]
    signature: int


@dataclass(frozen=True, slots=True)
class Synced:
    """What is on the disk of an instance: everything up to `vclock`, instance id -> LSN."""

    instance: str
    vclock: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class TxnState:
    """How a transaction stands at one instance. txn: None while it is not on disk, or not known.

    acked_by, missing: while it waits, ids of those known to have it on disk, and of the other members.
    quorum: how many must have it; 0: one disk is enough, or it does not wait.
    """

    stage: Stage
    txn: TxnId | None
    acked_by: tuple[int, ...]
    missing: tuple[int, ...]
    quorum: int

    @property
    def is_end(self) -> bool:
        """Nothing will change any more, as far as that instance can tell."""
        return self.stage in ("committed", "rolled_back", "unknown")


_STAGES: Mapping[int, Stage] = {
    data_pb2.TRANSACTION_STAGE_SUBMITTED: "submitted",
    data_pb2.TRANSACTION_STAGE_ON_DISK: "on_disk",
    data_pb2.TRANSACTION_STAGE_COMMITTED: "committed",
    data_pb2.TRANSACTION_STAGE_ROLLED_BACK: "rolled_back",
}


def txn_state(message: Message) -> TxnState:
    """From a WatchTransactionResponse."""
    return TxnState(
        _STAGES.get(message.stage, "unknown"),
        (message.txn.origin, message.txn.lsn) if message.HasField("txn") else None,
        tuple(message.acked_by),
        tuple(message.missing),
        message.quorum,
    )
