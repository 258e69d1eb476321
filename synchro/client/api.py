"""Every call of the client, once, as a plan: what `Client`, `AsyncClient` and `TrioClient` give to programs.

The faces take name, signature, documentation and type of each from here (`Concatenate[Api, P]`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

from synchro.client import encoding, replies, requests
from synchro.client.definitions import Definitions
from synchro.client.errors import CannotConnect, ConnectionLost, OutcomeUnknown
from synchro.client.model import (
    Committed,
    FieldNames,
    Info,
    Result,
    RolledBack,
    Rows,
    TxnId,
    WatchState,
    parse_txn,
    state_of,
)
from synchro.client.ops import Op
from synchro.client.plans import Pause, Plan, Plans, WriteOptions
from synchro.client.replies import IndexKind, Outcome
from synchro.client.requests import (
    ConflictKind,
    FieldSpec,
    IndexRef,
    IteratorName,
    KeyLike,
    Message,
    PartSpec,
    ReadMode,
    SequenceSpec,
    SpaceRef,
    WaitMode,
    check_timeout,
)
from synchro.client.retry import GRACE_S, Tries
from synchro.client.watching import Sought, TransactionWatch
from synchro.errors import IllegalParams, NoLeader
from synchro.rpc.generated.v1 import cluster_pb2, common_pb2, control_pb2, data_pb2, info_pb2, schema_pb2

OPERATOR_TIMEOUT_S: Final = 30.0
"""Promote, demote and snapshots have the server's own limit below this."""
POLL_S: Final = 0.1
PAGE_ROWS: Final = 1000
"""Of `Space.iter`."""


class ConnectOptions(TypedDict, total=False):
    """See `synchro.connect`."""

    user: str | None
    password: str | None
    timeout: float
    read_from: Literal["leader", "any"]
    read_your_writes: bool
    follow_leader: bool
    wait_for_connection: bool


class SelectOptions(TypedDict, total=False):
    """What a select looks for; see `Client.select`."""

    index: IndexRef
    iterator: IteratorName | None
    limit: int | None
    offset: int
    after: Sequence[Any] | None
    read: ReadMode | None
    timeout: float | None


class SpaceNames:
    """Names of the fields of a space, for its rows: what is known, or what `ask` finds out.

    ask: None where a plain call cannot wait for an answer.
    """

    def __init__(self, api: Api, space: SpaceRef) -> None:
        self._api = api
        self._space = space

    def __call__(self) -> Sequence[str]:
        if self._api.ask_names is not None:
            return self._api.ask_names(self._space)
        return self._api.known_names(self._space)


class Api(Definitions):
    """The calls of a client. Each returns a plan; nothing is sent before that is carried out."""

    def __init__(self, plans: Plans, ask_names: Callable[[SpaceRef], Sequence[str]] | None = None) -> None:
        self.plans = plans
        self.ask_names = ask_names
        self._formats: dict[SpaceRef, tuple[int, tuple[str, ...]]] = {}

    # --- who leads

    def leader(self, *, timeout: float | None = None) -> Plan[str]:
        """`host:port` of the leader, which is waited for.

        timeout: seconds; None: the client's. Raises `NoLeader` if there is none in time, `CannotConnect` if
        nobody answers.
        """
        tries = Tries(self.plans.deadline(timeout), is_read=True)

        def is_it(endpoint: str) -> Plan[str]:
            if self.plans.options.follow_leader and endpoint != self.plans.routes.leader:
                raise NoLeader(f"{endpoint} knows no leader")
            return endpoint
            yield

        return (yield from self.plans.repeat(tries, self.plans.write_place, is_it))

    def most_informed(self, *, timeout: float | None = None) -> Plan[str]:
        """`host:port` of the leader; while nobody leads, of that instance which knows most.

        With follow_leader=False: of the first endpoint that answers. timeout: seconds; None: the client's.
        Raises `CannotConnect` if nobody answers in time.
        """
        tries = Tries(self.plans.deadline(timeout), is_read=True)
        return (yield from self.plans.repeat(tries, self.plans.informed_place, _itself))

    def endpoint_of(self, instance: str, *, timeout: float | None = None) -> Plan[str]:
        """host:port of an instance given by name, id or host:port.

        Raises `IllegalParams` if it is not known.
        """
        tries = Tries(self.plans.deadline(timeout), is_read=True)
        where = self.plans.at(instance, tries)
        assert where is not None
        return (yield from self.plans.repeat(tries, where, _itself))

    def watch_place(self, instance: str | None) -> Plan[str]:
        """Where `watch_info` looks."""
        if instance is not None:
            return (yield from self.endpoint_of(instance))
        tries = Tries(self.plans.deadline(None), is_read=True)
        return (yield from self.plans.repeat(tries, self.plans.first_place, _itself))

    # --- data

    def execute(
        self,
        ops: Iterable[Op],
        *,
        wait: WaitMode = "complete",
        timeout: float | None = None,
        expected_term: int = 0,
        omit_tuples: bool = False,
        request_id: bytes | None = None,
        is_sync: bool = False,
    ) -> Plan[Result]:
        """Run one transaction. ops: from `synchro.ops`.

        wait: "complete" when it is decided, "submit" when it is on the leader's disk and in the queue, "none"
        at once. timeout: seconds, with all repetitions; None: the client's. expected_term: refuse unless this
        is the election term; 0: any. omit_tuples: do not send tuples back. request_id: 16 bytes that name
        this transaction; one with the same name that was done already is not done again. is_sync: it waits
        for a quorum, whatever spaces it changes.

        Raises the server's errors, `CannotConnect` or `NoLeader` when nothing was done, `OutcomeUnknown` when
        something may have been.
        """
        encoded = list(ops)
        options: WriteOptions = {
            "wait": wait,
            "timeout": timeout,
            "expected_term": expected_term,
            "omit_tuples": omit_tuples,
            "request_id": request_id,
            "is_sync": is_sync,
        }

        def result(reply: Message, endpoint: str) -> Result:
            instance = self.plans.routes.name_at(endpoint)
            names = None if omit_tuples else self.names_of(encoding.space_of(encoded))
            return encoding.result(reply, encoded, names, instance, omit_tuples=omit_tuples)

        return self.plans.write(b"".join(encoded), len(encoded), options, result)

    def select(
        self,
        space: SpaceRef,
        key: KeyLike = None,
        *,
        index: IndexRef = None,
        iterator: IteratorName | None = None,
        limit: int | None = None,
        offset: int = 0,
        after: Sequence[Any] | None = None,
        read: ReadMode | None = None,
        timeout: float | None = None,
    ) -> Plan[Rows]:
        """Tuples in the order of an index.

        key: a list of parts, the first of the index, or a single part; None: all tuples. iterator: EQ
        (default), REQ, ALL, LT, LE, GE, GT. limit: None for all; then a large answer comes in pages, each
        true at its own moment. offset: tuples to skip. after: continue behind this tuple. read: "confirmed"
        (default); "linearizable": with all that was answered anywhere before, and the verdict of what waited
        then; "read_committed": with what waits for its quorum on the instance that is read, and may be rolled
        back. timeout: seconds; None: the client's.
        """
        plans = self.plans
        deadline = plans.deadline(timeout)
        request = requests.select(
            space, key, index=index, iterator=iterator, limit=limit, offset=offset, after=after, read=read
        )
        rows, names = Rows(), self.names_of(space)
        goes_after = plans.options.read_from == "leader" and read != "linearizable"

        def attempt(endpoint: str) -> Plan[Message]:
            nonlocal goes_after
            leader = plans.routes.leader
            left_s = plans.left_s(deadline)
            request.timeout.CopyFrom(requests.duration(left_s))
            request.min_vclock.clear()
            if plans.options.read_your_writes and endpoint != plans.routes.leader:
                request.min_vclock.update(plans.session.vclock)
            reply = yield from plans.unary(endpoint, "data", "Select", request, left_s + GRACE_S)
            if goes_after and leader == endpoint != plans.routes.leader:
                goes_after = False  # once: the reply says that it leads no more
                place = yield from plans.informed_place(Tries(deadline, is_read=True))
                return reply if place == endpoint else (yield from attempt(place))
            return reply

        def where(tries: Tries) -> Plan[str]:
            if read == "linearizable" and tries.is_again:  # the owner answers where another one cannot
                return plans.informed_place(tries)
            return plans.read_place(tries)

        while True:
            reply = yield from plans.repeat(Tries(deadline, is_read=True), where, attempt)
            if not requests.add_page(rows, request, reply, names):
                return rows

    def field_names(self, space: SpaceRef) -> Plan[Sequence[str]]:
        """Names of the fields of a space; asked for again when the schema changed.

        Rows ask by themselves when a name is used first; those of an asynchronous client cannot, so await
        this once before.
        """
        known = self._formats.get(space)
        version = self.plans.session.schema_version
        if known is None or known[0] != version:
            spaces = yield from self.spaces(space)
            names = tuple(field.name for field in spaces[0].format) if spaces else ()
            # As of the question: a change that another call has heard of meanwhile may not be in the answer.
            known = self._formats[space] = (version, names)
        return known[1]

    def known_names(self, space: SpaceRef) -> Sequence[str]:
        """The names of the fields of `space` that `field_names` found last."""
        return self._formats.get(space, (0, ()))[1]

    def names_of(self, space: SpaceRef) -> FieldNames:
        return SpaceNames(self, space)

    # --- outcome of a transaction

    def wait_transaction(self, txn: TxnId | str | bytes, timeout: float | None = None) -> Plan[Outcome]:
        """How a transaction ended, or how it stands when the time is over.

        txn: its name as (origin, lsn) or "origin:lsn", or the 16 bytes of a request id. timeout: seconds;
        None: the client's. Within that time who does not know it is asked again, as long as it may still
        come there: its LSN was not reached yet. "unknown" before that time: it is older than what is
        remembered.
        """
        deadline = self.plans.deadline(timeout)
        which, name = _which(txn)
        sought = Sought(name)
        tries = Tries(deadline, is_read=True)
        while True:
            outcome, header, endpoint = yield from self._ask_outcome(which, tries)
            if outcome != "unknown" or not sought.may_come(header, endpoint):
                return outcome
            if not (yield from self.plans.not_yet(tries, endpoint)):
                return outcome

    def _ask_outcome(self, which: Mapping[str, Any], tries: Tries) -> Plan[tuple[Outcome, Message, str]]:
        """What somebody says now, or when it is decided there: with the header, and where that was."""
        request = data_pb2.WaitTransactionRequest(**which)

        def attempt(endpoint: str) -> Plan[tuple[Outcome, Message, str]]:
            left_s = max(0.0, tries.deadline - self.plans.now())
            request.timeout.CopyFrom(requests.duration(left_s))
            reply = yield from self.plans.unary(
                endpoint, "data", "WaitTransaction", request, left_s + GRACE_S
            )
            return _OUTCOMES.get(reply.outcome, "unknown"), reply.header, endpoint

        return (yield from self.plans.repeat(tries, self.plans.informed_place, attempt))

    def transaction_watch(self, txn: TxnId | str | bytes, timeout: float | None = None) -> TransactionWatch:
        """What `watch_transaction` carries out."""
        which, name = _which(txn)
        request = data_pb2.WatchTransactionRequest(**which)
        return TransactionWatch(self.plans, request, name, self.plans.timeout_s(timeout))

    def wait_outcome(
        self, unknown: OutcomeUnknown, timeout: float | None = None
    ) -> Plan[Committed | RolledBack]:
        """How a transaction ended whose outcome was unknown.

        timeout: seconds; None: the client's. Raises `OutcomeUnknown` if that is not known in time.
        """
        timeout_s = self.plans.timeout_s(timeout)
        deadline = self.plans.deadline(timeout)
        last: str = "unknown"
        while True:
            for name in (unknown.request_id, unknown.txn):
                left_s = deadline - self.plans.now()
                if not name or left_s <= 0:
                    continue
                try:
                    tries = Tries(self.plans.deadline(left_s), is_read=True)
                    last, _, _ = yield from self._ask_outcome(_which(name)[0], tries)
                except (CannotConnect, ConnectionLost, NoLeader):
                    continue
                if last == "committed":
                    return Committed(unknown.txn)
                # Of several tries one may be rolled back and another one committed.
                if last == "rolled_back" and name == unknown.txn and unknown.is_only_try:
                    return RolledBack(unknown.txn)
            if self.plans.now() + POLL_S >= deadline:
                break
            yield Pause(POLL_S)
        raise OutcomeUnknown(
            f"after {timeout_s:g} s the outcome is still {last}",
            txn=unknown.txn,
            request_id=unknown.request_id,
            reason=unknown.details.get("reason"),
        )

    # --- information

    def get_info(
        self, path: str = "", *, instance: str | None = None, timeout: float | None = None
    ) -> Plan[Any]:
        """A part of `box.info`: an `Info`, or a value.

        path: "synchro.queue", "ro"; "": the whole tree. instance: name, id or host:port; None: where reads
        go.
        """
        request = requests.get_info([path] if path else [])
        reply = yield from self.plans.read("info", "GetInfo", request, instance, timeout)
        value = requests.unpack(reply.info_msgpack)
        return Info(value) if isinstance(value, dict) else value

    def wait_rw(self, instance: str | None = None, *, timeout: float | None = None) -> Plan[WatchState]:
        """Wait until an instance takes writes; returns its state then.

        instance: as in `promote`. timeout: seconds; None: the client's. Raises `TimedOut`.
        """
        return (yield from self._wait_info(info_pb2.WAIT_CONDITION_WRITABLE, instance, timeout))

    def wait_ro(self, instance: str | None = None, *, timeout: float | None = None) -> Plan[WatchState]:
        """Wait until an instance takes no writes; otherwise as `wait_rw`."""
        return (yield from self._wait_info(info_pb2.WAIT_CONDITION_READ_ONLY, instance, timeout))

    def wait_leader(self, instance: str | None = None, *, timeout: float | None = None) -> Plan[WatchState]:
        """Wait until an instance knows who leads, or owns the queue, itself too; otherwise as `wait_rw`."""
        return (yield from self._wait_info(info_pb2.WAIT_CONDITION_LEADER, instance, timeout))

    def _wait_info(self, condition: Any, instance: str | None, timeout: float | None) -> Plan[WatchState]:
        deadline = self.plans.deadline(timeout)
        request = info_pb2.WaitInfoRequest(condition=condition)
        tries = Tries(deadline, is_read=True)

        def attempt(endpoint: str) -> Plan[WatchState]:
            left_s = max(0.0, deadline - self.plans.now())
            request.timeout.CopyFrom(requests.duration(left_s))
            reply = yield from self.plans.unary(endpoint, "info", "WaitInfo", request, left_s + GRACE_S)
            return state_of(reply.state)

        where = self.plans.at(instance, tries) or self.plans.first_place
        return (yield from self.plans.repeat(tries, where, attempt))

    def list_queue(
        self, *, instance: str | None = None, limit: int = 0, timeout: float | None = None
    ) -> Plan[replies.Queue]:
        """The queue, entry by entry. limit: 0: the first 1000."""
        request = info_pb2.ListQueueRequest(limit=limit)
        return replies.queue((yield from self.plans.read("info", "ListQueue", request, instance, timeout)))

    def list_instances(
        self, *, instance: str | None = None, timeout: float | None = None
    ) -> Plan[list[replies.Member]]:
        """The members of the set, as one instance sees them."""
        request = cluster_pb2.ListInstancesRequest()
        reply = yield from self.plans.read("cluster", "ListInstances", request, instance, timeout)
        return [replies.member(message) for message in reply.instances]

    # --- operators

    def promote(self, instance: str | None = None, *, timeout: float | None = None) -> Plan[replies.Promoted]:
        """Make an instance the owner of the queue and the leader.

        instance: name, id or host:port; None: the first endpoint. timeout: seconds. Not repeated once it was
        sent: `ConnectionLost` and `TimedOut` mean that it may still happen.
        """
        request = control_pb2.PromoteRequest()
        if timeout is not None:
            request.timeout.CopyFrom(requests.duration(timeout))
        reply = yield from self._command(instance, "Promote", request, timeout)
        self._forget_leader()
        return replies.Promoted(
            reply.header.instance_name, reply.term, reply.previous_owner, reply.confirmed, reply.rolled_back
        )

    def check_promote(
        self, instance: str | None = None, *, timeout: float | None = None
    ) -> Plan[replies.PromoteOutlook]:
        """What `promote` would do at an instance now, or why it would fail; nothing is changed.

        instance: as in `promote`.
        """
        request = control_pb2.CheckPromoteRequest()
        return replies.promote_outlook((yield from self._command(instance, "CheckPromote", request, timeout)))

    def demote(self, instance: str | None = None, *, timeout: float | None = None) -> Plan[replies.Demoted]:
        """Give up the leadership; without elections, the queue. Where there is nothing to give up nothing is
        done, and `is_done` of the reply is False.

        instance: as in `promote`; None: whoever leads.
        """
        request = control_pb2.DemoteRequest()
        if timeout is not None:
            request.timeout.CopyFrom(requests.duration(timeout))
        reply = yield from self._command(
            instance, "Demote", request, timeout, or_at=self.plans.informed_place
        )
        self._forget_leader()
        return replies.Demoted(reply.header.instance_name, reply.term, not reply.was_idle)

    def sync_wal(self, instance: str | None = None, *, timeout: float | None = None) -> Plan[replies.Synced]:
        """Wait until all that an instance wrote before is synced to its disk, with `wal.mode: write` too.

        instance: as in `promote`; None: whoever leads. Raises `WalIo` if some of it was cut back.
        """
        request = control_pb2.SyncWalRequest()
        if timeout is not None:
            request.timeout.CopyFrom(requests.duration(timeout))
        reply = yield from self._command(
            instance, "SyncWal", request, timeout, or_at=self.plans.informed_place
        )
        return replies.Synced(reply.header.instance_name, dict(reply.vclock))

    def snapshot(
        self, instance: str | None = None, *, timeout: float | None = None
    ) -> Plan[replies.Checkpoint]:
        """Write a snapshot. instance: as in `promote`."""
        request = control_pb2.CheckpointRequest()
        reply = yield from self._command(instance, "Checkpoint", request, timeout)
        return replies.Checkpoint(reply.header.instance_name, dict(reply.vclock), reply.signature)

    def rebootstrap(self, instance: str, *, discard: bool = False, timeout: float | None = None) -> Plan[str]:
        """Let an instance replace its data by that of another member; returns its name when that was begun.

        discard: rows that only it has may go. instance: as in `promote`. Not repeated once it was sent.
        """
        request = control_pb2.RebootstrapRequest(discard=discard)
        reply = yield from self._command(instance, "Rebootstrap", request, timeout)
        return str(reply.header.instance_name)

    def check_config(
        self, text: str = "", *, instance: str | None = None, timeout: float | None = None
    ) -> Plan[replies.ConfigChanges]:
        """Compare a configuration with what an instance runs with; nothing is changed.

        text: of a file; "": the file of the instance, as it is now. instance: as in `promote`.
        """
        request = control_pb2.CheckConfigRequest(yaml=text)
        return replies.config_changes((yield from self._command(instance, "CheckConfig", request, timeout)))

    def reload_config(
        self, instance: str | None = None, *, timeout: float | None = None
    ) -> Plan[replies.ConfigChanges]:
        """Let an instance read its file again, and put into use what needs no restart. instance: as in
        `promote`."""
        request = control_pb2.ReloadConfigRequest()
        return replies.config_changes((yield from self._command(instance, "ReloadConfig", request, timeout)))

    def set_config(
        self,
        key: str,
        value: str,
        *,
        force: bool = False,
        instance: str | None = None,
        timeout: float | None = None,
    ) -> Plan[replies.ConfigChanges]:
        """Change one option of an instance until its next reload or start. value: as in the file.

        force: although two owners could write at the same time. instance: as in `promote`.
        """
        request = control_pb2.SetConfigRequest(key=key, value=value, force=force)
        return replies.config_changes((yield from self._command(instance, "SetConfig", request, timeout)))

    def bootstrap(self, *, instance: str | None = None, timeout: float | None = None) -> Plan[str]:
        """Let `instance` make the replica set, with `bootstrap_strategy: supervised`; returns its UUID."""
        request = control_pb2.BootstrapRequest()
        if timeout is not None:
            request.timeout.CopyFrom(requests.duration(timeout))
        reply = yield from self._command(instance, "Bootstrap", request, timeout)
        return str(reply.replicaset_uuid)

    def replica_gc(
        self, away: str, *, instance: str | None = None, timeout: float | None = None
    ) -> Plan[int]:
        """Let `instance` keep no log for `away`, which is not connected; returns how many files went.

        away: a member by name, id or UUID, an anonymous follower by name or UUID.
        """
        request = control_pb2.ReplicaGcRequest(instance=away)
        return int((yield from self._command(instance, "ReplicaGc", request, timeout)).files_deleted)

    def restart_upstream(
        self,
        upstream: str,
        *,
        skip: str | TxnId | None = None,
        instance: str | None = None,
        timeout: float | None = None,
    ) -> Plan[None]:
        """Let `instance` follow `upstream` again after its stream was stopped by an error.

        skip: the row in conflict at which it stands, as `"2:3"`, to leave it out there.
        """
        request = control_pb2.RestartUpstreamRequest(instance=upstream)
        if skip is not None:
            request.skip.origin, request.skip.lsn = parse_txn(skip) if isinstance(skip, str) else skip
        yield from self._command(instance, "RestartUpstream", request, timeout)

    def _command(
        self,
        instance: str | None,
        method: str,
        request: Message,
        timeout: float | None,
        or_at: Callable[[Tries], Plan[str]] | None = None,
    ) -> Plan[Message]:
        plans = self.plans
        limit_s = OPERATOR_TIMEOUT_S if timeout is None else check_timeout(timeout) + GRACE_S

        def named(tries: Tries) -> Plan[str]:
            assert instance is not None
            tries.is_bound = True
            return plans.place_of(instance, tries.deadline)

        where = (or_at or plans.first_place) if instance is None else named
        return (yield from plans.command(where, method, request, limit_s))

    def _forget_leader(self) -> None:
        with self.plans.lock:
            self.plans.routes.leader = None

    # --- schema

    def spaces(
        self,
        space: SpaceRef = "",
        *,
        with_system: bool = False,
        instance: str | None = None,
        timeout: float | None = None,
    ) -> Plan[list[replies.SpaceInfo]]:
        """All spaces, or one. with_system: those whose names begin with `_` too."""
        request = schema_pb2.ListSpacesRequest(space=str(space), with_system=with_system)
        reply = yield from self.plans.read("schema", "ListSpaces", request, instance, timeout)
        return [replies.space_info(message) for message in reply.spaces]

    def create_space(
        self,
        name: str,
        *,
        sync: bool = False,
        format: Iterable[FieldSpec] = (),
        if_not_exists: bool = False,
        local: bool = False,
        temporary: bool = False,
        field_count: int = 0,
        id: int = 0,
        conflict: ConflictKind = "stop",
        timeout: float | None = None,
    ) -> Plan[replies.SpaceChanged]:
        """Make a space without indexes.

        sync: its writes wait for a quorum. format: fields, as `"id:unsigned"`, `("id", "unsigned")`, or
        `{"name":, "type":, "is_nullable":}`; a `?` at the end of a type: may be null. local: tuples stay on
        their instance. temporary: tuples are never written. field_count: how many fields a tuple must have;
        0: any number. id: 512 or more; 0: the next free one. conflict: what becomes of a row of another
        instance that is in the way of what an instance has.
        """
        request = schema_pb2.CreateSpaceRequest(
            name=name,
            is_sync=sync,
            format=requests.fields(format),
            if_not_exists=if_not_exists,
            is_local=local,
            is_temporary=temporary,
            field_count=field_count,
            id=id,
            conflict=requests.conflict(conflict),
        )
        reply = yield from self.plans.change("CreateSpace", request, timeout)
        return replies.space_changed(reply, reply.created)

    def alter_space(
        self,
        space: SpaceRef,
        *,
        sync: bool | None = None,
        name: str | None = None,
        format: Iterable[FieldSpec] | None = None,
        conflict: ConflictKind | None = None,
        timeout: float | None = None,
    ) -> Plan[replies.SpaceChanged]:
        """Change what is given; None: leave it as it is."""
        request = schema_pb2.AlterSpaceRequest(space=str(space))
        if sync is not None:
            request.is_sync = sync
        if name is not None:
            request.name = name
        if format is not None:
            request.format.SetInParent()
            request.format.fields.extend(requests.fields(format))
        if conflict is not None:
            request.conflict = requests.conflict(conflict)
        return replies.space_changed((yield from self.plans.change("AlterSpace", request, timeout)))

    def truncate_space(self, space: SpaceRef, *, timeout: float | None = None) -> Plan[replies.SpaceChanged]:
        """Remove all tuples of a space."""
        request = schema_pb2.TruncateSpaceRequest(space=str(space))
        reply = yield from self.plans.change("TruncateSpace", request, timeout)
        return replies.space_changed(reply, True)

    def drop_space(
        self, space: SpaceRef, *, if_exists: bool = False, timeout: float | None = None
    ) -> Plan[replies.SpaceChanged]:
        """Remove a space with its tuples."""
        request = schema_pb2.DropSpaceRequest(space=str(space), if_exists=if_exists)
        reply = yield from self.plans.change("DropSpace", request, timeout)
        return replies.space_changed(reply, reply.dropped)

    def create_index(
        self,
        space: SpaceRef,
        name: str,
        *,
        parts: Iterable[PartSpec] = (),
        unique: bool = True,
        type: IndexKind = "tree",
        if_not_exists: bool = False,
        sequence: SequenceSpec = None,
        timeout: float | None = None,
    ) -> Plan[replies.IndexChanged]:
        """Make an index; the first one of a space is its primary key.

        parts: fields by name or by number from 1, alone or with a type (`"id:unsigned"`); default: field 1,
        unsigned. sequence: what gives a value to the primary key of a tuple that comes with None there: its
        name, True for one that is made for the space, or `{"name":, "field":}` for another part than the
        first.
        """
        kind = f"INDEX_TYPE_{type.upper()}"
        if kind not in dict(schema_pb2.IndexType.items()):
            raise IllegalParams(f"index type is tree or hash, not {type!r}; nothing was done")
        request = schema_pb2.CreateIndexRequest(
            space=str(space),
            name=name,
            parts=requests.parts(parts),
            unique=unique,
            type=schema_pb2.IndexType.Value(kind),
            if_not_exists=if_not_exists,
            sequence=requests.index_sequence(sequence),
        )
        reply = yield from self.plans.change("CreateIndex", request, timeout)
        return replies.index_changed(reply, reply.created)

    def drop_index(
        self, space: SpaceRef, name: str, *, if_exists: bool = False, timeout: float | None = None
    ) -> Plan[replies.IndexChanged]:
        """Remove an index."""
        request = schema_pb2.DropIndexRequest(space=str(space), name=name, if_exists=if_exists)
        reply = yield from self.plans.change("DropIndex", request, timeout)
        return replies.index_changed(reply, reply.dropped)

    def checksum(
        self, space: SpaceRef, *, instance: str | None = None, timeout: float | None = None
    ) -> Plan[replies.Checksum]:
        """Number of tuples of a space, and a checksum: equal where the same tuples are confirmed."""
        request = schema_pb2.ChecksumSpaceRequest(space=str(space))
        reply = yield from self.plans.read("schema", "ChecksumSpace", request, instance, timeout)
        return replies.Checksum(reply.header.instance_name, reply.count, reply.checksum, dict(reply.read_at))


_OUTCOMES: Final[dict[int, Outcome]] = {
    data_pb2.TRANSACTION_OUTCOME_COMMITTED: "committed",
    data_pb2.TRANSACTION_OUTCOME_ROLLED_BACK: "rolled_back",
    data_pb2.TRANSACTION_OUTCOME_PENDING: "pending",
}


def _itself(endpoint: str) -> Plan[str]:
    return endpoint
    yield


def _which(txn: TxnId | str | bytes) -> tuple[Mapping[str, Any], TxnId | None]:
    """The fields of a request that say which transaction is meant; its name, unless it is a request id."""
    if isinstance(txn, bytes):
        return {"request_id": txn}, None
    name = origin, lsn = _txn_name(txn)
    return {"txn": common_pb2.TxnId(origin=origin, lsn=lsn)}, name


def _txn_name(txn: TxnId | str) -> TxnId:
    try:
        origin, lsn = parse_txn(txn) if isinstance(txn, str) else txn
    except ValueError:
        raise IllegalParams(f"a transaction is written ORIGIN:LSN, got {txn!r}") from None
    return requests.number(origin, "the origin of a transaction"), requests.number(lsn, "an LSN", bits=63)
