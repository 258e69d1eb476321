"""Words for what clients ask, and for rows that no honest peer sends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from synchro.ids import CallId, InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.row import (
    FLAG_WAIT_ACK,
    FLAG_WAIT_SYNC,
    GROUP_LOCAL,
    Body,
    Confirm,
    Dml,
    Nop,
    Promote,
    Rollback,
    Row,
    RowType,
    Txn,
)
from synchro.storage import row_body, schema_ops, xrow
from synchro.storage.conditions import Condition, Expected
from tests.scenarios import arguments
from tests.scenarios.script import ScenarioError
from tests.scenarios.vocabulary import Run, word
from tests.scenarios.world import Pair

SHAPES = {"insert": "SPACE TUPLE", "replace": "SPACE TUPLE", "delete": "SPACE KEY"}
CONDITIONS = {
    "if-absent": (Expected.ABSENT, "SPACE KEY"),
    "if-present": (Expected.PRESENT, "SPACE KEY"),
    "if-equal": (Expected.EQUAL, "SPACE KEY TUPLE"),
}


class CallWords(Run):
    # --- calls

    @word("insert N SPACE TUPLE")
    def insert(self, number: int, space: str, value: tuple[Any, ...]) -> CallId:
        """Prints the answer, or `waits`. A call that waits needs a name, as in `a = insert ...`; the step in
        which its answer comes prints it."""
        return self._write(number, [self._op("insert", number, space, value)])

    @word("replace N SPACE TUPLE")
    def replace(self, number: int, space: str, value: tuple[Any, ...]) -> CallId:
        """As `insert`."""
        return self._write(number, [self._op("replace", number, space, value)])

    @word("delete N SPACE KEY")
    def delete(self, number: int, space: str, key: tuple[Any, ...]) -> CallId:
        """As `insert`."""
        return self._write(number, [self._op("delete", number, space, key)])

    @word("update N SPACE KEY OPS")
    def update(self, number: int, space: str, key: tuple[Any, ...], ops: tuple[Any, ...]) -> CallId:
        """As `insert`. OPS: `[["+", 2, 1]]`"""
        op = row_body.dml_from_values(RowType.UPDATE, self.space(number, space), key=key, ops=ops)
        return self._write(number, [op])

    @word("upsert N SPACE TUPLE OPS")
    def upsert(self, number: int, space: str, value: tuple[Any, ...], ops: tuple[Any, ...]) -> CallId:
        """As `insert`."""
        op = row_body.dml_from_values(RowType.UPSERT, self.space(number, space), value=value, ops=ops)
        return self._write(number, [op])

    @word("transaction N TEXT")
    def transaction(self, number: int, text: str) -> CallId:
        """Some of `insert SPACE TUPLE`, `replace SPACE TUPLE`, `delete SPACE KEY`, `if-absent SPACE KEY`,
        `if-present SPACE KEY`, `if-equal SPACE KEY TUPLE` (`[[2, "a"]]`: its fields) and `synchronous`, with
        `;` between them."""
        ops: list[Dml] = []
        conditions: list[Condition] = []
        parts = text.split("; ")
        for place, part in enumerate(parts):
            verb, _, rest = part.partition(" ")
            if verb in CONDITIONS:
                expected, shape = CONDITIONS[verb]
                space, key, *fields = arguments.read(f"{verb} {shape}", rest)
                at = (self.space(number, space), 0, key, len(ops), place)
                conditions.append(Condition(expected, *at, *fields))
            elif verb in SHAPES:
                space, value = arguments.read(f"{verb} {SHAPES[verb]}", rest)
                ops.append(self._op(verb, number, space, value))
            elif part != "synchronous":
                known = ", ".join([*SHAPES, *CONDITIONS, "synchronous"])
                raise ScenarioError(f"no part of a transaction: {verb!r}; there are {known}")
        self.instance(number)
        is_sync = "synchronous" in parts
        return self.world.write_ops(number, ops, conditions=conditions, is_sync=is_sync)

    def _op(self, verb: str, number: int, space: str, value: tuple[Any, ...]) -> Dml:
        number = self.space(number, space)
        if verb == "delete":
            return row_body.dml_from_values(RowType.DELETE, number, key=value)
        return row_body.dml_from_values(RowType[verb.upper()], number, value=value)

    def _write(self, number: int, ops: Sequence[Dml]) -> CallId:
        self.instance(number)
        return self.world.write_ops(number, ops)

    @word("submit N SPACE TUPLE")
    def submit(self, number: int, space: str, value: tuple[Any, ...]) -> CallId:
        """As `replace`, for a caller who waits for the log of N, and not for the decision."""
        return self._put(number, space, value, wait=ev.WaitMode.SUBMIT)

    @word("hand-over N SPACE TUPLE")
    def hand_over(self, number: int, space: str, value: tuple[Any, ...]) -> CallId:
        """As `replace`, for a caller who waits for nothing."""
        return self._put(number, space, value, wait=ev.WaitMode.NONE)

    @word("request N NAME SPACE TUPLE")
    def request(self, number: int, name: str, space: str, value: tuple[Any, ...]) -> CallId:
        """As `replace`, with NAME as its request id: who sends it again sends the same request."""
        return self._put(number, space, value, request_id=name.encode().ljust(16))

    def _put(self, number: int, space: str, value: tuple[Any, ...], **how: Any) -> CallId:
        self.instance(number)
        return self.world.write_ops(number, [self._op("replace", number, space, value)], **how)

    @word("fate N TEXT")
    def fate(self, number: int, text: str) -> CallId:
        """What became of a transaction such as `1:3`: prints it when N knows."""
        named = arguments.txn_id(text)
        return self._ask(number, lambda call: ev.WaitRequested(call, named))

    @word("read N")
    def read(self, number: int) -> CallId:
        """Ask whether a linearizable read may be made on N now."""
        return self._ask(number, ev.ReadBarrierRequested)

    @word("read-elsewhere N from N")
    def read_elsewhere(self, number: int, owner: int) -> CallId:
        """`read-elsewhere 2 from 1`: as `read`, on 2, which asks the owner 1 how far it must be."""
        self.instance(number)
        self.instance(owner)
        return self.world.ask_owner(number, owner)

    def _ask(self, number: int, event_of: Callable[[CallId], ev.Event]) -> CallId:
        self.instance(number)
        call = self.world.call_id()
        self.world.step(number, event_of(call))
        return call

    @word("create-space N NAME [NAME]")
    def create_space(self, number: int, name: str, kind: str | None) -> CallId:
        """With a kind: `sync`, `local` or `temporary`."""
        if kind not in (None, "sync", "local", "temporary"):
            raise ScenarioError(f"no kind of space: {kind!r}")
        memtx = self.instance(number).memtx
        flags = {f"is_{kind}" if kind != "temporary" else kind: True} if kind else {}
        return self._write(number, schema_ops.create_space(memtx, name, **flags))  # type: ignore[arg-type]

    @word("format N SPACE TUPLE")
    def format(self, number: int, space: str, fields: tuple[Any, ...]) -> CallId:
        """Name the fields: `[["id", "unsigned"], ["band", "string"]]`"""
        named = [{"name": name, "type": kind} for name, kind in fields]
        memtx = self.instance(number).memtx
        return self._write(number, schema_ops.alter_space(memtx, space, format=named))

    @word("policy N SPACE NAME")
    def policy(self, number: int, space: str, name: str) -> CallId:
        """What becomes of conflicts in a space: `stop`, `skip`, `keep_local` or `last_write_wins`."""
        memtx = self.instance(number).memtx
        return self._write(number, schema_ops.alter_space(memtx, space, conflict=name))

    @word("create-index N SPACE NAME [OPS]")
    def create_index(self, number: int, space: str, name: str, parts: tuple[Any, ...] | None) -> CallId:
        """OPS: its parts, as in `[[2, "string"]]`"""
        memtx = self.instance(number).memtx
        given = {"parts": parts} if parts else {}
        return self._write(number, schema_ops.create_index(memtx, space, name, **given))  # type: ignore[arg-type]

    @word("drop-space N SPACE")
    def drop_space(self, number: int, space: str) -> CallId:
        """Its indexes go with it."""
        return self._write(number, schema_ops.drop_space(self.instance(number).memtx, space))

    @word("truncate N SPACE")
    def truncate(self, number: int, space: str) -> CallId:
        """All tuples go."""
        return self._write(number, schema_ops.truncate(self.instance(number).memtx, space))

    @word("promote N")
    def promote(self, number: int) -> CallId:
        """Ask for the queue."""
        return self._ask(number, ev.PromoteRequested)

    @word("demote N")
    def demote(self, number: int) -> CallId:
        """Give the queue up."""
        return self._ask(number, ev.DemoteRequested)

    @word("expire N NAME")
    def expire(self, number: int, label: str) -> None:
        """The time of a call is over."""
        self.world.step(number, ev.CallExpired(self.call(label)))

    @word("abandon N NAME")
    def abandon(self, number: int, label: str) -> None:
        """The caller goes away."""
        self.world.step(number, ev.RequestAbandoned(self.call(label)))

    # --- what no honest peer sends

    @word("resend PAIR TEXT")
    def resend(self, pair: Pair, text: str) -> None:
        """`resend 1->2 1:3 1:4`: these transactions of the log of 1 arrive at 2 together, wanted or not."""
        source, _ = self.link(pair)
        log = {f"{txn.origin}:{txn.lsn}": txn for txn in self.world.members[source].wal}
        missing = [name for name in text.split() if name not in log]
        if missing:
            raise ScenarioError(f"the log of {source} ends no transaction at {missing[0]}")
        self._send(pair, [log[name] for name in text.split()])

    @word("forge PAIR TEXT")
    def forge(self, pair: Pair, text: str) -> None:
        """`forge 1->2 3:7 insert async [1]; 3:8 nop`: a transaction of these rows arrives at 2. Rows are
        insert, replace, delete, nop, `local ...`, `confirm OWNER LSN`, `rollback OWNER LSN`, `promote OWNER
        LSN TERM PREV`; `sync` ahead of all makes it wait."""
        _, target = self.link(pair)
        flags = 0
        if text.startswith("sync "):
            flags, text = FLAG_WAIT_SYNC | FLAG_WAIT_ACK, text.removeprefix("sync ")
        parts = text.split("; ")
        rows = [self._row(target, part, flags if part is parts[-1] else 0) for part in parts]
        first = rows[0].lsn
        self._send(pair, [xrow.encode_txn([row._replace(tsn=first) for row in rows])])

    def _row(self, target: int, text: str, flags: int) -> Row:
        place, _, rest = text.partition(" ")
        group = 0
        if rest.startswith("local "):
            group, rest = GROUP_LOCAL, rest.removeprefix("local ")
        origin, colon, lsn = place.partition(":")
        if not colon or not origin.isdecimal() or not lsn.isdecimal():
            raise ScenarioError(f"a row begins with its place, such as 1:7, not {place!r}")
        verb, _, rest = rest.partition(" ")
        kind, body = self._body(target, verb, rest)
        return Row(kind, InstanceId(int(origin)), Lsn(int(lsn)), Lsn(int(lsn)), flags, body, group)

    def _body(self, target: int, verb: str, rest: str) -> tuple[RowType, Body]:
        if verb in SHAPES:
            space, value = arguments.read(f"{verb} {SHAPES[verb]}", rest)
            op = self._op(verb, target, space, value)
            return op.type, op
        if verb == "nop":
            return RowType.NOP, Nop()
        if verb == "confirm":
            owner, lsn = arguments.read("confirm N COUNT", rest)
            return RowType.CONFIRM, Confirm(InstanceId(owner), Lsn(lsn))
        if verb == "rollback":
            owner, lsn = arguments.read("rollback N COUNT", rest)
            return RowType.ROLLBACK, Rollback(InstanceId(owner), Lsn(lsn))
        if verb == "promote":
            owner, lsn, term, before = arguments.read("promote N COUNT COUNT COUNT", rest)
            return RowType.PROMOTE, Promote(InstanceId(owner), Lsn(lsn), Term(term), Term(before))
        raise ScenarioError(f"no row: {verb!r}")

    def _send(self, pair: Pair, txns: Sequence[Txn]) -> None:
        source, target = pair
        self.world.step(target, ev.TxnsReceived(InstanceId(source), txns))
