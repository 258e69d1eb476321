"""Operations that run once in the life of a replica set, known by a key. [D-25], ADR 47.

A row of `_schema` with the key `once<KEY>` says that all of it is done, and by whom. It lies in the
transaction of the last operation: whoever has one has the other. Changes of definitions and of tuples cannot
share a transaction, so a run with both has two, and the first one leaves a row `begun.once<KEY>`; the next
run with the key goes on behind it. Both rows are inserted: of two runs that meet, one is refused, and where
two masters accepted one each, each applier stops at the other's row, which names who ran it [A-52].
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Final, TypeAlias

import trio

from synchro.errors import BatchTooLarge, IllegalParams, OnceDiffers, SynchroError, TransactionConflict
from synchro.row import Dml, Field, RowType, Tuple, TxnId
from synchro.rpc import codec, operations
from synchro.rpc.access import refuse_users
from synchro.rpc.codec import Message
from synchro.rpc.schema_changes import (
    BUILDERS,
    REBUILDS_MAX,
    Definitions,
    definitions_of,
    encoded,
    first_try,
    write_built,
)
from synchro.rpc.slices import Slices
from synchro.server.api import NodeApi
from synchro.storage.memtx import Memtx
from synchro.storage.schema import SCHEMA_ID, check_name
from synchro.storage.schema_ops import definitions_alone
from synchro.storage.system_rows import begun_key, once_key

KEY_LENGTH_MAX: Final = 200
"""Characters."""


@dataclass(frozen=True, slots=True)
class Done:
    """executed: by this call. txn: of its last operation. executed_by: name of an instance; "": not known."""

    executed: bool
    txn: TxnId | None
    executed_by: str


async def run_once(node: NodeApi, slices: Slices, request: Message) -> Done:
    """Run the operations of a RunOnceRequest, unless the key was done before.

    Raises what the operations are refused with; then nothing of their transaction was done, and the message
    says it if the one before it was. A call with the key does the rest then.
    """
    run = _Run(node, slices, request)
    timeout_s = codec.timeout_s(request, node.instance.settings.txn_synchro_timeout_s)
    deadline = trio.current_time() + timeout_s
    if (txn := await first_try(node, request, timeout_s)) is not None:
        return Done(True, txn, run.done_by() or "")
    try:
        if request.schema and request.ops:
            await write_built(node, partial(run.build, run.begin), deadline)
        done = await write_built(
            *(node, partial(run.build, run.finish), deadline),
            *(codec.request_id(request.request_id), codec.position(request)),
        )
    except _DoneBefore as before:
        return Done(False, None, before.by)
    except SynchroError as error:
        raise run.explained(error) from error
    assert done is not None
    node.note("once_executed", key=request.key, operations=run.count, txn=str(done.txn))
    return Done(True, done.txn, run.name)


Steps: TypeAlias = Generator[None, None, Sequence[Dml]]


class _DoneBefore(Exception):
    def __init__(self, by: str) -> None:
        super().__init__()
        self.by = by


class _Run:
    """One call; `begin` and `finish` make the operations of its transactions, from what is there then, one
    in each step."""

    def __init__(self, node: NodeApi, slices: Slices, request: Message) -> None:
        """Raises `WrongFormat`, `BatchTooLarge`."""
        self._node = node
        self._slices = slices
        self._request = request
        self.count = len(request.schema) + len(request.ops)
        limit = node.instance.settings.limits.batch_ops_max - 1  # its key is one more
        if not 0 < len(request.key) <= KEY_LENGTH_MAX:
            raise IllegalParams(f"the key of once has 1 to {KEY_LENGTH_MAX} characters; nothing was done")
        check_name(request.key)
        if not self.count:
            raise IllegalParams("once needs at least one operation; nothing was done")
        if self.count > limit:
            raise BatchTooLarge(
                f"{self.count} operations, the limit is {limit}; nothing was done",
                limit=limit,
                got=self.count,
            )
        self.name = node.header().instance_name

    # --- what was done

    def done_by(self) -> str | None:
        """Who finished it; "": that is not known; None: it is not done."""
        row = self._row(once_key(self._request.key))
        if row is None:
            return None
        value = row[1] if len(row) > 1 else None
        return str(value.get("by", "")) if isinstance(value, dict) else ""

    def _row(self, key: str) -> Tuple | None:
        return self._node.instance.memtx.get(SCHEMA_ID, 0, (key,))

    def _has_begun(self) -> bool:
        """Raises `OnceDiffers` if something else was begun under the key."""
        row = self._row(begun_key(self._request.key))
        if row is None:
            return False
        if row[1].get("digest") != self._digest():
            raise OnceDiffers(
                f"the changes of the schema that once {self._request.key!r} began with are not these: they "
                f"were done, by {row[1].get('by')}, and the changes of tuples behind them were not; nothing "
                "was done now. Next: run the former ones, with whatever changes of tuples"
            )
        return True

    def _digest(self) -> str:
        found = sha256()
        for change in self._request.schema:
            found.update(change.SerializeToString(deterministic=True) + b"\n")
        return found.hexdigest()[:16]

    def explained(self, error: SynchroError) -> SynchroError:
        """The error, with what was done before it."""
        if self._request.ops and self._row(begun_key(self._request.key)) is not None:
            error = copy(error)  # it may be the answer to other calls too
            error.message += (
                f"; the {len(self._request.schema)} changes of the schema of once {self._request.key!r} are "
                "done, the changes of tuples are not. Next: the same key again, which goes on with these"
            )
        return error

    # --- what to do

    async def build(self, make: Callable[[], Steps]) -> Sequence[Dml]:
        """What `make` makes, in slices: a thousand definitions rest on one another. Anew if others changed
        definitions meanwhile. Raises what `make` raises, and `TransactionConflict`."""
        for _ in range(REBUILDS_MAX):
            before = self._definitions_now
            ops = await self._slices.run(make())
            if self._definitions_now == before:
                return ops
        raise TransactionConflict(
            f"the definitions changed while the operations of once {self._request.key!r} were made, "
            f"{REBUILDS_MAX} times; nothing was done"
        )

    @property
    def _definitions_now(self) -> tuple[int, int]:
        catalog = self._node.instance.memtx.catalog
        return id(catalog), catalog.schema_version

    def begin(self) -> Steps:
        """The first of two transactions; none if it was done before."""
        self._ensure_open()
        if self._has_begun():
            return ()
        now = _draft(self._node.instance.memtx)
        changes = yield from self._schema_changes(now)
        self._check_tuples(now)
        return [
            self._mark(begun_key(self._request.key), done=len(self._request.schema), digest=self._digest()),
            *changes,
        ]

    def finish(self) -> Steps:
        """The last transaction."""
        self._ensure_open()
        mark = self._mark(once_key(self._request.key))
        if not self._request.ops:
            changes = yield from self._schema_changes(_draft(self._node.instance.memtx))
            return [mark, *changes]
        instance = self._node.instance
        ops = operations.changes(
            self._request.ops, definitions_of(instance.memtx).names, instance.settings.limits
        )
        refuse_users(ops)
        if not self._request.schema:
            return [mark, *ops]
        return [mark, Dml(RowType.DELETE, SCHEMA_ID, b"", 0, (begun_key(self._request.key),)), *ops]

    def _ensure_open(self) -> None:
        if (by := self.done_by()) is not None:
            raise _DoneBefore(by)

    def _mark(self, key: str, **facts: Field) -> Dml:
        """The row of `_schema` that says what the transaction did."""
        value = {"by": self.name, "operations": self.count, **facts}
        return encoded(Dml(RowType.INSERT, SCHEMA_ID, b"", value=(key, value)))

    def _schema_changes(self, now: Definitions) -> Generator[None, None, list[Dml]]:
        """Each rests on those before it. The definitions of `now` are what they make of them."""
        made: list[Dml] = []
        for number, change in enumerate(self._request.schema, 1):
            verb = change.WhichOneof("change")
            if verb is None:
                raise IllegalParams(f"operation {number} is empty; nothing was done", field="schema")
            try:
                ops = [encoded(op) for op in BUILDERS[verb](now, getattr(change, verb))]
                if ops:
                    now.memtx.commit(now.memtx.prepare(ops))
            except SynchroError as error:
                error.message = f"operation {number} ({verb}): {error.message}; nothing was done"
                raise
            made += ops
            yield
        return made

    def _check_tuples(self, now: Definitions) -> None:
        """What can be known of the changes of tuples before the schema is changed for them."""
        ops = operations.changes(self._request.ops, now.names, self._node.instance.settings.limits)
        refuse_users(ops)
        now.memtx.rollback(now.memtx.prepare(ops))


def _draft(memtx: Memtx) -> Definitions:
    """The definitions of this moment without tuples, to be changed on trial."""
    return definitions_of(definitions_alone(memtx))
