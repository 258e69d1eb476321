"""An open transaction, as plans: begun at one instance, statements, then committed or rolled back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypedDict

from synchro.client import encoding, requests
from synchro.client.api import Api
from synchro.client.errors import CannotConnect, ConnectionLost, of_status
from synchro.client.model import Result, Rows, Tuple
from synchro.client.ops import Op
from synchro.client.plans import EndTalk, OpenTalk, Pause, Plan, Say, refuse_too_large
from synchro.client.requests import IndexRef, IteratorName, KeyLike, Message, SpaceRef, WaitMode
from synchro.client.retry import GRACE_S, Tries, kind_of, outcome_unknown
from synchro.errors import (
    IllegalParams,
    OldTerm,
    Retry,
    SynchroError,
    SyncRollback,
    TransactionAborted,
    TransactionConflict,
)
from synchro.rpc.generated.v1 import data_pb2

_AGAIN: Final = (TransactionConflict, SyncRollback, OldTerm, TransactionAborted, ConnectionLost)
"""Nothing was done, and another try of the whole transaction may succeed."""
PAUSE_FIRST_S: Final = 0.005
PAUSE_MAX_S: Final = 0.2


class BeginOptions(TypedDict, total=False):
    """How a transaction is opened and committed.

    open_for: seconds that it may be open; None: as long as the server allows (`database.txn_timeout`).
    timeout: seconds for each statement, and for the commit; None: the client's. is_sync: it waits for a
    quorum, whatever spaces it changes. wait, request_id: of the commit, as in `Client.execute`.
    expected_term: refuse unless this is the election term; 0: any.
    """

    open_for: float | None
    timeout: float | None
    is_sync: bool
    wait: WaitMode
    request_id: bytes | None
    expected_term: int


BEGIN_OPTIONS: Final = frozenset(BeginOptions.__annotations__)


class OpenTransactionApi:
    """The statements of one open transaction. It ends with the first error that is not said to be of a
    statement alone; nothing was done then."""

    def __init__(self, api: Api, options: BeginOptions) -> None:
        requests.check_options(options, BEGIN_OPTIONS, "an open transaction")
        self.api = api
        self.result: Result | None = None
        """What was committed; None before that."""
        self.is_over = False
        self.request_id = options.get("request_id") or requests.new_request_id()
        """By which `wait_transaction` knows it once it was committed."""
        self._options = options
        self._talk: Any = None
        self._endpoint = ""
        self._ended_by: SynchroError | None = None
        """What ended it in one of its statements."""
        self._is_asking = False
        """A statement has no answer: another task waits for it, or nobody does any more."""

    # --- begin

    def begin(self) -> Plan[None]:
        """Open it where writes go. Raises `CannotConnect` or `NoLeader` if nobody takes it in time."""
        options, plans = self._options, self.api.plans
        request = data_pb2.TransactRequest()
        request.begin.is_sync = options.get("is_sync", False)
        request.begin.expected_term = requests.number(options.get("expected_term", 0), "a term", bits=62)
        open_for = options.get("open_for")
        if open_for is not None:
            request.begin.timeout.CopyFrom(requests.duration(open_for))
        if options.get("wait", "complete") not in requests.WAIT_MODES:
            raise IllegalParams(
                f"wait is complete, submit or none, not {options['wait']!r}; nothing was sent"
            )
        tries = Tries(plans.deadline(options.get("timeout")), is_read=True)

        def attempt(endpoint: str) -> Plan[None]:
            left_s = plans.left_s(tries.deadline)
            step = OpenTalk(endpoint, request, left_s)
            self._talk, answer = yield from plans.with_session(endpoint, step, left_s)
            self._endpoint = endpoint
            plans.on_header(answer.header, endpoint)

        yield from plans.repeat(tries, plans.write_place, attempt)

    # --- statements

    def execute(self, ops: Iterable[Op]) -> Plan[list[Tuple | None]]:
        """Run operations of `synchro.ops`, one after the other; what each of them returns. The first that is
        refused is raised; those before it are done, as long as the transaction is not rolled back."""
        found = []
        for op in ops:
            message = encoding.decoded(op)
            answer = yield from self._say(data_pb2.TransactRequest(op=message))
            found.append(requests.read_tuple(answer.tuple, self.api.names_of(encoding.space_of((op,)))))
        return found

    def change(self, space: SpaceRef, op: Message) -> Plan[Tuple | None]:
        answer = yield from self._say(data_pb2.TransactRequest(op=op))
        return requests.read_tuple(answer.tuple, self.api.names_of(space))

    def select(self, request: Message, space: SpaceRef) -> Plan[Rows]:
        rows, names = Rows(), self.api.names_of(space)
        while True:
            answer = yield from self._say(data_pb2.TransactRequest(select=request))
            if not requests.add_page(rows, request, answer.rows, names):
                return rows

    def _say(self, request: Message) -> Plan[Message]:
        """Raises what refuses a statement; any other error ends the transaction."""
        self._check_open()
        size = request.ByteSize()
        refuse_too_large(size, "a statement")
        plans = self.api.plans
        timeout_s = plans.timeout_s(self._options.get("timeout"))
        self._is_asking = True
        try:
            answer = yield Say(self._talk, request, timeout_s + GRACE_S)
        except SynchroError as error:
            self._ended_by = ended = _ended_by(error)
            yield from self._end()
            plans.learn_of_failure(error, self._endpoint)
            if ended is error:
                raise
            raise ended from error
        self._is_asking = False
        plans.on_header(answer.header, self._endpoint)
        if answer.WhichOneof("outcome") == "refused":
            raise of_status(answer.refused, self._endpoint)
        return answer

    def _check_open(self) -> None:
        if self.is_over or self._talk is None:
            raise IllegalParams("the transaction is over; nothing was sent")
        if self._is_asking:
            raise IllegalParams(
                "a statement of this transaction has no answer yet, or was given up before it came; one task "
                "at a time uses it; nothing was sent"
            )

    # --- the end

    def finish(self) -> Plan[None]:
        """At the end of its block: commit it, unless the program did, or rolled it back. Raises as `commit`,
        and again what had ended it, whatever the program did with that error."""
        if self._ended_by is not None:
            raise self._ended_by
        if not self.is_over:
            yield from self.commit()

    def commit(self) -> Plan[Result]:
        """Make it. Raises `TransactionConflict` if something that it read has changed, and other errors that
        say that nothing was done; `OutcomeUnknown` if it may be done."""
        self._check_open()
        plans, options = self.api.plans, self._options
        timeout_s = plans.timeout_s(options.get("timeout"))
        commit = data_pb2.TransactCommit(
            request_id=self.request_id,
            known_position=plans.session.position,
            wait=requests.WAIT_MODES[options.get("wait", "complete")],
            timeout=requests.duration(timeout_s),
        )
        request = data_pb2.TransactRequest(commit=commit)
        self.is_over = True
        try:
            answer = yield Say(self._talk, request, timeout_s + GRACE_S)
        except SynchroError as error:
            plans.learn_of_failure(error, self._endpoint)
            if kind_of(error) in (Retry.LOST, Retry.UNKNOWN):
                raise outcome_unknown(error, self.request_id) from error
            raise
        yield EndTalk(self._talk)
        plans.on_header(answer.header, self._endpoint)
        reply = answer.committed
        txn = (reply.txn_origin, reply.txn_lsn) if reply.txn_origin else None
        if txn is not None:
            with plans.lock:
                plans.session.wrote_txn(*txn)
        self.result = Result((), txn, reply.is_sync, reply.duplicate, plans.routes.name_at(self._endpoint))
        return self.result

    def rollback(self) -> Plan[None]:
        """End it; nothing was done. Does nothing if it is over."""
        self._ended_by = None
        if not self.is_over and self._talk is not None:
            yield from self._end()

    def _end(self) -> Plan[None]:
        self.is_over = True
        yield EndTalk(self._talk)


def _ended_by(error: SynchroError) -> SynchroError:
    """What a statement is told whose call ended so: it was not the commit."""
    if kind_of(error) is Retry.LOST or isinstance(error, CannotConnect):
        return TransactionAborted(f"{error.message}; the transaction was not committed, nothing was done")
    return error


class SpaceInTransaction:
    """One space, as an open transaction sees it, with its own changes."""

    def __init__(self, transaction: OpenTransactionApi, name: SpaceRef) -> None:
        self._transaction = transaction
        self.name = name

    def insert(self, fields: Sequence[Any]) -> Plan[Tuple | None]:
        """Add a tuple, and return it. Raises `TupleFound` if its key exists; the transaction goes on."""
        return self._transaction.change(self.name, requests.insert(self.name, fields))

    def replace(self, fields: Sequence[Any]) -> Plan[Tuple | None]:
        """Add a tuple, or replace the one with the same primary key, which is not read unless the space has
        a second unique index. Returns the new one."""
        return self._transaction.change(self.name, requests.replace(self.name, fields))

    def update(
        self,
        key: KeyLike,
        ops: Sequence[Sequence[Any]],
        *,
        index: IndexRef = None,
        must_match: bool = False,
    ) -> Plan[Tuple | None]:
        """As `Space.update`."""
        op = requests.update(self.name, key, ops, index, must_match=must_match)
        return self._transaction.change(self.name, op)

    def upsert(self, fields: Sequence[Any], ops: Sequence[Sequence[Any]]) -> Plan[None]:
        """As `Space.upsert`."""
        yield from self._transaction.change(self.name, requests.upsert(self.name, fields, ops))

    def delete(self, key: KeyLike, *, index: IndexRef = None, must_match: bool = False) -> Plan[Tuple | None]:
        """Remove a tuple, and return what it was; None if there was none."""
        return self._transaction.change(
            self.name, requests.delete(self.name, key, index, must_match=must_match)
        )

    def get(self, key: KeyLike, *, index: IndexRef = None) -> Plan[Tuple | None]:
        """The tuple with this full key of a unique index; None if there is none."""
        rows = yield from self.select(key, index=index, iterator="EQ", limit=1)
        return rows[0] if rows else None

    def select(
        self,
        key: KeyLike = None,
        *,
        index: IndexRef = None,
        iterator: IteratorName | None = None,
        limit: int | None = None,
        offset: int = 0,
        after: Sequence[Any] | None = None,
    ) -> Plan[Rows]:
        """As `Client.select`. A transaction reads 10,000 tuples at most."""
        request = requests.select(
            self.name, key, index=index, iterator=iterator, limit=limit, offset=offset, after=after
        )
        return (yield from self._transaction.select(request, self.name))


class Repeats:
    """When a whole transaction is tried once more. deadline: monotonic seconds."""

    def __init__(self, api: Api, timeout: float | None) -> None:
        self._plans = api.plans
        self.deadline = api.plans.deadline(timeout)
        self._pause_s = PAUSE_FIRST_S

    def options(self, options: BeginOptions) -> BeginOptions:
        """Of the next try: within the time that is left."""
        left_s = self._plans.left_s(self.deadline)
        return {**options, "timeout": min(left_s, self._plans.timeout_s(options.get("timeout")))}

    def after(self, error: SynchroError) -> Plan[None]:
        """Wait for the next try. Raises the error if there is none."""
        is_transient = isinstance(error, _AGAIN) or kind_of(error) in (Retry.ELSEWHERE, Retry.LATER)
        if not is_transient or self._plans.now() + self._pause_s >= self.deadline:
            raise error
        yield Pause(self._pause_s)
        self._pause_s = min(PAUSE_MAX_S, 2 * self._pause_s)
