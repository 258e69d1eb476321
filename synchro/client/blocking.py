"""The blocking client. One object serves any number of threads.

    with synchro.connect("127.0.0.1:3301,127.0.0.1:3302") as db:
        bands = db.space("bands")
        bands.insert([1, "Roxette", 1986])

Concurrent writes of threads share one stream. Nothing is connected before the first call.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from synchro.client import requests, wire
from synchro.client.channel import CHANNEL_OPTIONS, PROBE_S
from synchro.client.errors import (
    CannotConnect,
    ClientClosed,
    ConnectionLost,
    OutcomeUnknown,
    of_rpc_error,
)
from synchro.client.model import Committed, Info, Result, RolledBack, Rows, State, Tuple, Txn, state_of
from synchro.client.requests import FieldSpec, IndexRef, Key, Message, PartSpec, SpaceRef
from synchro.client.retry import GRACE_S, SLOW_START_S, Tries, kind_of
from synchro.client.routes import Routes, parse_endpoints
from synchro.client.session import Session
from synchro.client.thread_stream import Stream, Waiter
from synchro.errors import IllegalParams, Retry, SynchroError
from synchro.rpc.generated.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    control_pb2,
    control_pb2_grpc,
    data_pb2,
    data_pb2_grpc,
    info_pb2,
    info_pb2_grpc,
    schema_pb2,
    schema_pb2_grpc,
)

import grpc  # isort: skip - after channel.py, which sets its environment

T = TypeVar("T")

DEFAULT_TIMEOUT_S: Final = 5.0
OPERATOR_TIMEOUT_S: Final = 30.0
"""Promote, demote and snapshots have the server's own limit below this."""
WATCH_PAUSE_S: Final = 0.2
"""Before a broken watch is begun again."""
POLL_S: Final = 0.1

_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A live stream can keep the interpreter from leaving.
    for client in list(_open_clients):
        client.close()


def connect(
    endpoints: str | Iterable[str],
    *,
    user: str | None = None,
    password: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    read_from: str = "leader",
    read_your_writes: bool = True,
    follow_leader: bool = True,
    wait_for_connection: bool = True,
) -> Client:
    """A client of one replica set. endpoints: any subset of the set, `host:port,...`.

    timeout: seconds for a call with all its retries, unless the call says otherwise. read_from: "leader",
    or "any" for the first endpoint that answers. read_your_writes: a read elsewhere than on the leader
    waits until what this client wrote is decided there. follow_leader=False: ask only the endpoints given,
    in order, and do not go where a refusal points to. wait_for_connection=False: fail at once if nobody
    answers. user, password: for releases with a login; not sent by this one.
    """
    return Client(
        parse_endpoints(endpoints),
        timeout=timeout,
        read_from=read_from,
        read_your_writes=read_your_writes,
        follow_leader=follow_leader,
        wait_for_connection=wait_for_connection,
    )


def _first_answer(call: Any, endpoint: str) -> Message | SynchroError:
    """The first message of a stream, or why there is none."""
    try:
        return next(iter(call))
    except StopIteration:
        return ConnectionLost(f"{endpoint} said nothing", endpoint=endpoint)
    except grpc.RpcError as error:
        return of_rpc_error(error, endpoint)
    except ValueError:  # gRPC: the channel was closed meanwhile
        return ClientClosed("the client is closed; nothing was sent")


class _Link:
    """A channel to one instance, its stubs, and its stream of writes."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.channel = grpc.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
        self.data = data_pb2_grpc.DataServiceStub(self.channel)
        self.info = info_pb2_grpc.InfoServiceStub(self.channel)
        self.schema = schema_pb2_grpc.SchemaServiceStub(self.channel)
        self.control = control_pb2_grpc.ControlServiceStub(self.channel)
        self.cluster = cluster_pb2_grpc.ClusterServiceStub(self.channel)
        self.stream: Stream | None = None

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.channel.close()


class Client:
    """See `connect`. All methods may be called from any thread."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        read_from: str = "leader",
        read_your_writes: bool = True,
        follow_leader: bool = True,
        wait_for_connection: bool = True,
    ) -> None:
        if read_from not in ("leader", "any"):
            raise IllegalParams(f"read_from is leader or any, not {read_from!r}")
        self.timeout = timeout
        self.read_from = read_from
        self.read_your_writes = read_your_writes
        self.follow_leader = follow_leader
        self.wait_for_connection = wait_for_connection
        self._routes = Routes(endpoints)
        self._session = Session()
        self._lock = threading.Lock()
        """Guards `_links`, `_routes` and the session; never held while waiting."""
        self._search = threading.Lock()
        """One thread looks for the leader; the others wait for what it finds."""
        self._members_known = False
        self._links: dict[str, _Link] = {}
        self._formats: dict[SpaceRef, tuple[int, tuple[str, ...]]] = {}
        self._watches: list[_Watch] = []
        self._closed = False
        _open_clients.add(self)

    # --- life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel streams and watches, close connections. Waiting writes raise `OutcomeUnknown`."""
        with self._lock:
            self._closed = True
            links, self._links = list(self._links.values()), {}
            watches, self._watches = self._watches, []
        for watch in watches:
            watch.stop()
        for link in links:
            link.close()
        _open_clients.discard(self)

    def _link(self, endpoint: str) -> _Link:
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed; nothing was sent")
            link = self._links.get(endpoint)
            if link is None:
                link = self._links[endpoint] = _Link(endpoint)
            return link

    def _stream(self, endpoint: str) -> Stream:
        link = self._link(endpoint)
        stream = link.stream
        if stream is not None and not stream.is_broken:
            return stream
        with self._lock:
            if link.stream is None or link.stream.is_broken:
                link.stream = Stream(
                    link.channel, endpoint, timeout_s=self.timeout, on_header=self._on_header
                )
            return link.stream

    def _on_header(self, header: Message, endpoint: str) -> None:
        with self._lock:
            self._routes.learn(header, endpoint)
            self._session.see(header)

    # --- who leads

    def leader(self) -> str:
        """`host:port` of the leader. Raises `CannotConnect` if nobody answers."""
        leader = self._routes.leader
        if leader is not None:
            return leader
        with self._search:
            if self._routes.leader is not None:
                return self._routes.leader
            answers, errors = self._probe(self._routes.endpoints())
            if not answers:
                raise nobody(errors)
            with self._lock:
                chosen = self._routes.choose(answers)
                for _, answer in answers:
                    self._session.see(answer.header)
            if not self._members_known and self.follow_leader:
                self._learn_members(answers[0][0])
            return chosen

    def _probe(
        self, endpoints: Sequence[str]
    ) -> tuple[list[tuple[str, Message]], list[tuple[str, SynchroError]]]:
        """Ask all at once who leads: first messages of WatchInfo, and why the others did not answer.

        Each is heard in a thread of its own: an answer counts only if it is taken while its call has time,
        and one that says nothing would take the time of all.
        """
        patience = time.monotonic() + min(PROBE_S, self.timeout) - PROBE_S / 2
        calls = [
            self._link(endpoint).info.WatchInfo(info_pb2.WatchInfoRequest(), timeout=PROBE_S)
            for endpoint in endpoints
        ]
        heard: queue.SimpleQueue[tuple[int, Message | SynchroError]] = queue.SimpleQueue()

        def hear(number: int) -> None:
            heard.put((number, _first_answer(calls[number], endpoints[number])))

        found: dict[int, Message | SynchroError] = {}
        has_writable = False
        try:
            if len(calls) == 1:
                hear(0)
            else:
                for number in range(len(calls)):
                    threading.Thread(target=hear, args=(number,), name="probe", daemon=True).start()
            while len(found) < len(calls):
                left_s = max(0.0, patience - time.monotonic()) if has_writable else PROBE_S + GRACE_S
                try:
                    number, answer = heard.get(timeout=left_s)
                except queue.Empty:
                    break  # who leads is known, as far as anybody told in time
                found[number] = answer
                has_writable = has_writable or bool(getattr(answer, "is_writable", False))
        finally:
            for call in calls:
                call.cancel()
        answers: list[tuple[str, Message]] = []
        errors: list[tuple[str, SynchroError]] = []
        for number, endpoint in enumerate(endpoints):
            answer = found.get(number)
            if isinstance(answer, SynchroError):
                errors.append((endpoint, answer))
            elif answer is not None:
                answers.append((endpoint, answer))
        return answers, errors

    def _learn_members(self, endpoint: str) -> None:
        try:
            reply = self._unary(endpoint, "cluster", "ListInstances", cluster_pb2.ListInstancesRequest(), 1.0)
        except SynchroError:
            return  # it may be loading; the endpoints given are enough for now
        with self._lock:
            for member in reply.instances:
                self._routes.learn_member(member)
            self._members_known = True

    # --- calls

    def _unary(self, endpoint: str, service: str, method: str, request: Message, timeout_s: float) -> Message:
        link = self._link(endpoint)
        try:
            reply = getattr(getattr(link, service), method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise of_rpc_error(error, endpoint) from None
        except ValueError as error:  # gRPC: the channel was closed meanwhile
            raise ClientClosed("the client is closed; nothing was sent") from error
        self._on_header(reply.header, endpoint)
        return reply

    def _with_retries(self, tries: Tries, where: Callable[[], str], attempt: Callable[[str], T]) -> T:
        """`attempt(endpoint)` until it succeeds, may not be repeated, or time is over."""
        while True:
            endpoint = ""
            try:
                endpoint = where()
                return attempt(endpoint)
            except SynchroError as error:
                delay = self._after_failure(tries, error, endpoint)
            if delay:
                time.sleep(delay)

    def _after_failure(self, tries: Tries, error: SynchroError, endpoint: str) -> float:
        kind = kind_of(error)
        redirected = False
        with self._lock:
            if kind is Retry.ELSEWHERE and self.follow_leader:
                redirected = self._routes.redirect(endpoint, error)
            elif kind in (Retry.LOST, Retry.LATER, Retry.ELSEWHERE):
                self._routes.failed(endpoint)
            claimed = self._session.position is not None or bool(self._routes.queue_owner)
        if self._is_final(error, kind, endpoint, tries):
            raise error
        try:
            return tries.failed(error, endpoint, time.monotonic(), redirected=redirected, claimed=claimed)
        except OutcomeUnknown as unknown:
            raise unknown.bind(self) from error

    def _is_final(self, error: SynchroError, kind: Retry, endpoint: str, tries: Tries) -> bool:
        """What the options of this client forbid to try again."""
        if kind is not Retry.ELSEWHERE or tries.unknown_at is not None:
            return False
        if isinstance(error, CannotConnect):
            return not self.wait_for_connection and not endpoint
        return not self.follow_leader

    def _write_place(self) -> str:
        return self.leader() if self.follow_leader else self._first_place()

    def _first_place(self) -> str:
        """The first endpoint given that answers."""
        known = self._session.good_endpoint
        if known is not None:
            return known
        errors = []
        for endpoint in self._routes.seeds:
            answers, why = self._probe([endpoint])
            if answers:
                with self._lock:
                    self._session.good_endpoint = endpoint
                    self._routes.learn(answers[0][1].header, endpoint)
                    self._session.see(answers[0][1].header)
                    self._routes.queue_owner = answers[0][1].queue_owner
                return endpoint
            errors += why
        raise nobody(errors)

    def _unary_write(self, service: str, method: str, request: Message, timeout: float | None) -> Message:
        """A schema change: a write like any other, in a call of its own."""
        timeout_s = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout_s
        request.request_id = requests.new_request_id()
        tries = Tries(deadline, request.request_id)

        def attempt(endpoint: str) -> Message:
            if tries.is_first_sent and self._session.position is not None:
                request.known_position.CopyFrom(self._session.position)
            left_s = max(0.05, deadline - time.monotonic())
            request.timeout.CopyFrom(requests.duration(left_s))
            reply = self._unary(endpoint, service, method, request, left_s + GRACE_S)
            self._wrote(reply)
            return reply

        return self._with_retries(tries, self._write_place, attempt)

    def _wrote(self, reply: Message) -> None:
        with self._lock:
            self._session.wrote(reply)

    def execute(
        self,
        ops: Iterable[Message],
        *,
        wait: str = "complete",
        timeout: float | None = None,
        expected_term: int = 0,
        omit_tuples: bool = False,
        request_id: bytes | None = None,
    ) -> Result:
        """One transaction. ops: from `synchro.client.requests` (insert, replace, update, upsert, delete).

        wait: "complete" when it is decided, "submit" when it is on the leader's disk and in the queue, "none"
        at once. timeout: seconds. expected_term: refuse unless this is the election term. Raises the server's
        errors, `CannotConnect`, or `OutcomeUnknown`.
        """
        encoded = [wire.encoded(op) for op in ops]
        reply, instance = self._write(
            b"".join(encoded),
            len(encoded),
            wait=wait,
            timeout=timeout,
            expected_term=expected_term,
            omit_tuples=omit_tuples,
            request_id=request_id,
        )
        return wire.result(reply, encoded, self._names_of(encoded), instance, omit_tuples=omit_tuples)

    def _write(
        self,
        ops: bytes,
        count: int,
        *,
        wait: str = "complete",
        timeout: float | None = None,
        expected_term: int = 0,
        omit_tuples: bool = False,
        request_id: bytes | None = None,
    ) -> tuple[Message, str]:
        """`execute` of `count` encoded operations: an ExecuteReply, and the name of who did it."""
        timeout_s = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout_s
        request_id = request_id or requests.new_request_id()
        options = wire.options(wait, timeout, expected_term, omit_tuples)
        tries = Tries(deadline, request_id)
        position = b""

        def attempt(endpoint: str) -> tuple[Message, str]:
            nonlocal options, position
            now = time.monotonic()
            if tries.is_again or deadline - now < timeout_s - SLOW_START_S:
                options = wire.options(wait, max(0.05, deadline - now), expected_term, omit_tuples)
            if tries.is_first_sent:
                position = self._session.position_field
            stream = self._stream(endpoint)
            waiter = Waiter()
            stream.submit(wire.call(request_id, position, ops, options), count, waiter)
            if not waiter.wait(deadline + GRACE_S - now):
                stream.forget(waiter)
                raise ConnectionLost(f"no answer from {endpoint} in {timeout_s:g} s", endpoint=endpoint)
            outcome = waiter.outcome
            if isinstance(outcome, SynchroError):
                raise outcome
            self._note_txn(outcome)
            return outcome, stream.instance

        return self._with_retries(tries, self._write_place, attempt)

    def _note_txn(self, reply: Message) -> None:
        if reply.txn_origin:
            with self._lock:
                self._session.wrote_txn(reply.txn_origin, reply.txn_lsn)

    # --- data

    def space(self, name: SpaceRef) -> Space:
        """A space by name or id. Nothing is sent."""
        return Space(self, name)

    @contextlib.contextmanager
    def transaction(self, **options: Any) -> Iterator[Transaction]:
        """Collects operations and runs them as one transaction at the end; nothing is sent on an exception.

        options: as in `execute`. The result is `tx.result` afterwards.
        """
        transaction = Transaction()
        yield transaction
        if transaction.ops:
            transaction.result = self.execute(transaction.ops, **options)

    def select(
        self,
        space: SpaceRef,
        key: Key = None,
        *,
        index: IndexRef = None,
        iterator: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        after: Sequence[Any] | None = None,
        read: str | None = None,
        timeout: float | None = None,
    ) -> Rows:
        """Tuples in the order of the index. iterator: EQ (default), REQ, ALL, LT, LE, GE, GT.

        limit: None for all; then a large answer comes in pages, each true at its own moment. after: continue
        behind this tuple. read: "confirmed" (default) or "linearizable", which asks the leader.
        """
        timeout_s = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout_s
        request = requests.select(
            space, key, index=index, iterator=iterator, limit=limit, offset=offset, after=after, read=read
        )
        at_leader = read == "linearizable" or self.read_from == "leader"
        rows, names = Rows(), self._names(space)

        def attempt(endpoint: str) -> Message:
            left_s = max(0.05, deadline - time.monotonic())
            request.timeout.CopyFrom(requests.duration(left_s))
            request.min_vclock.clear()
            if self.read_your_writes and endpoint != self._routes.leader:
                request.min_vclock.update(self._session.vclock)
            return self._unary(endpoint, "data", "Select", request, left_s + GRACE_S)

        while True:
            reply = self._read(Tries(deadline, is_read=True), attempt, at_leader=at_leader)
            if not requests.add_page(rows, request, reply, names):
                return rows

    def _read(self, tries: Tries, attempt: Callable[[str], T], *, at_leader: bool) -> T:
        place = self._write_place if at_leader else lambda: self._read_place(tries)
        return self._with_retries(tries, place, attempt)

    def _read_place(self, tries: Tries) -> str:
        """The first endpoint given; after a failure the others in turn."""
        if not tries.is_again:
            return self._first_place()
        self._session.good_endpoint = None
        return self._first_place()

    def _names(self, space: SpaceRef) -> Callable[[], Sequence[str]]:
        return lambda: self.field_names(space)

    def _names_of(self, ops: Sequence[bytes]) -> Callable[[], Sequence[str]]:
        return lambda: self.field_names(wire.space_of(ops))

    def field_names(self, space: SpaceRef) -> Sequence[str]:
        """Names of the fields of a space; asked for again when the schema changed."""
        version = self._session.schema_version
        known = self._formats.get(space)
        if known is None or known[0] != version:
            spaces = self.spaces(space)
            names = tuple(field.name for field in spaces[0].format) if spaces else ()
            known = self._formats[space] = (self._session.schema_version, names)
        return known[1]

    # --- outcome of a transaction

    def wait_transaction(self, txn: Txn | str | bytes, timeout: float | None = None) -> str:
        """How a transaction ended: "committed", "rolled_back", "pending" or "unknown".

        txn: its name as (origin, lsn) or "origin:lsn", or the 16 bytes of a request id.
        """
        timeout_s = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout_s
        request = data_pb2.WaitTransactionRequest()
        if isinstance(txn, bytes):
            request.request_id = txn
        else:
            request.txn.origin, request.txn.lsn = requests_txn(txn)
        tries = Tries(deadline, is_read=True)

        def attempt(endpoint: str) -> str:
            left_s = max(0.0, deadline - time.monotonic())
            request.timeout.CopyFrom(requests.duration(left_s))
            reply = self._unary(endpoint, "data", "WaitTransaction", request, left_s + GRACE_S)
            name: str = data_pb2.TransactionOutcome.Name(reply.outcome)
            return name.removeprefix("TRANSACTION_OUTCOME_").lower()

        return self._with_retries(tries, self._write_place, attempt)

    def wait_outcome(self, unknown: OutcomeUnknown, timeout: float | None = None) -> Committed | RolledBack:
        """See `OutcomeUnknown.wait`."""
        timeout_s = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout_s
        last = "unknown"
        while True:
            left_s = deadline - time.monotonic()
            for name in (unknown.request_id, unknown.txn):
                if not name or left_s <= 0:
                    continue
                with contextlib.suppress(CannotConnect, ConnectionLost):
                    last = self.wait_transaction(name, left_s)
                if last == "committed":
                    return Committed(unknown.txn)
                # Of several tries one may be rolled back and another one committed.
                if last == "rolled_back" and name == unknown.txn and unknown.is_only_try:
                    return RolledBack(unknown.txn)
            if time.monotonic() + POLL_S >= deadline:
                break
            time.sleep(POLL_S)
        again = OutcomeUnknown(
            f"after {timeout_s:g} s the outcome is still {last}",
            txn=unknown.txn,
            request_id=unknown.request_id,
            reason=unknown.details.get("reason"),
        )
        raise again.bind(self)

    # --- information

    @property
    def info(self) -> Info:
        """The tree of `box.info` of the instance that is read from: `db.info.synchro.queue.len`."""
        value = self.get_info()
        assert isinstance(value, Info)
        return value

    def get_info(self, path: str = "", *, instance: str | None = None, timeout: float | None = None) -> Any:
        """A part of `box.info`. path: "synchro.queue"; instance: name, or host:port; None: as reads."""
        request = requests.get_info([path] if path else [])
        value = requests.unpack(self._ask("info", "GetInfo", request, instance, timeout).info_msgpack)
        return Info(value) if isinstance(value, dict) else value

    def list_queue(self, *, instance: str | None = None, limit: int = 0) -> Message:
        """ListQueueResponse: the queue, entry by entry."""
        return self._ask("info", "ListQueue", info_pb2.ListQueueRequest(limit=limit), instance)

    def list_instances(self, *, instance: str | None = None) -> list[Message]:
        """InstanceInfo of each member, as the answering instance sees it."""
        request = cluster_pb2.ListInstancesRequest()
        return list(self._ask("cluster", "ListInstances", request, instance).instances)

    def _ask(
        self,
        service: str,
        method: str,
        request: Message,
        instance: str | None = None,
        timeout: float | None = None,
    ) -> Message:
        """A call that changes nothing."""
        timeout_s = self.timeout if timeout is None else timeout
        tries = Tries(time.monotonic() + timeout_s, is_read=True)
        if instance is not None:
            if not self.wait_for_connection:
                return self._unary(self.endpoint_of(instance), service, method, request, timeout_s)
            return self._with_retries(
                tries,
                lambda: self.endpoint_of(instance),
                lambda endpoint: self._unary(endpoint, service, method, request, timeout_s),
            )
        return self._read(
            tries,
            lambda endpoint: self._unary(endpoint, service, method, request, timeout_s),
            at_leader=self.read_from == "leader",
        )

    def endpoint_of(self, instance: str) -> str:
        """host:port of an instance given by name, id or host:port. Raises `IllegalParams`."""
        if ":" in instance:
            return parse_endpoints(instance)[0]
        found = self._routes.named(instance)
        if found is None:
            answers, errors = self._probe(self._routes.endpoints())
            if not answers:
                raise nobody(errors)
            with self._lock:
                self._routes.choose(answers)
            for endpoint, _ in answers:
                self._learn_members(endpoint)
                found = self._routes.named(instance)
                if found is not None:
                    break
        if found is None:
            raise IllegalParams(f"no instance {instance!r} is known here; next: synchro member list")
        return found

    def on_change(self, callback: Callable[[State], None]) -> Callable[[], None]:
        """Call back with each change of leader, term, writability or queue, from a thread of its own.

        Returns what ends it.
        """
        watch = _Watch(self, callback)
        with self._lock:
            self._watches.append(watch)
        watch.start()
        return watch.stop

    def watch_info(self, instance: str | None = None) -> Iterator[State]:
        """The state of one instance now and at each change. Ends when the connection does."""
        endpoint = self._first_place() if instance is None else self.endpoint_of(instance)
        call = self._link(endpoint).info.WatchInfo(info_pb2.WatchInfoRequest())
        try:
            for message in call:
                self._on_header(message.header, endpoint)
                yield state_of(message)
        except grpc.RpcError as error:
            raise of_rpc_error(error, endpoint) from None
        finally:
            call.cancel()

    # --- operators

    def promote(self, instance: str | None = None, *, timeout: float | None = None) -> Message:
        """Make an instance the owner of the queue and the leader. instance: name; None: the first endpoint.

        Returns a PromoteResponse (term, previous_owner, confirmed, rolled_back). Never retried.
        """
        request = control_pb2.PromoteRequest()
        if timeout is not None:
            request.timeout.CopyFrom(requests.duration(timeout))
        reply = self._command(instance, "Promote", request, timeout)
        with self._lock:
            self._routes.leader = None
        return reply

    def demote(self, instance: str | None = None, *, timeout: float | None = None) -> Message:
        """Give up the queue and leadership. instance: name; None: whoever leads. Returns a DemoteResponse."""
        request = control_pb2.DemoteRequest()
        if timeout is not None:
            request.timeout.CopyFrom(requests.duration(timeout))
        reply = self._command(instance or self._write_place(), "Demote", request, timeout)
        with self._lock:
            self._routes.leader = None
        return reply

    def snapshot(self, instance: str | None = None) -> Message:
        """Write a snapshot. Returns a CheckpointResponse (vclock, signature)."""
        return self._command(instance, "Checkpoint", control_pb2.CheckpointRequest(), None)

    def restart_upstream(self, upstream: str, *, instance: str | None = None) -> None:
        """Let `instance` follow `upstream` again after its stream was stopped by an error."""
        request = control_pb2.RestartUpstreamRequest(instance=upstream)
        self._command(instance, "RestartUpstream", request, None)

    def _command(self, instance: str | None, method: str, request: Message, timeout: float | None) -> Message:
        endpoint = self._first_place() if instance is None else self.endpoint_of(instance)
        limit_s = OPERATOR_TIMEOUT_S if timeout is None else timeout + GRACE_S
        return self._unary(endpoint, "control", method, request, limit_s)

    # --- schema

    def spaces(
        self, space: SpaceRef = "", *, with_system: bool = False, instance: str | None = None
    ) -> list[Message]:
        """SpaceDef of all spaces, or of one."""
        request = schema_pb2.ListSpacesRequest(space=str(space), with_system=with_system)
        return list(self._ask("schema", "ListSpaces", request, instance).spaces)

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
        timeout: float | None = None,
    ) -> Message:
        """Make a space without indexes. Returns a CreateSpaceResponse."""
        request = schema_pb2.CreateSpaceRequest(
            name=name,
            is_sync=sync,
            format=requests.fields(format),
            if_not_exists=if_not_exists,
            is_local=local,
            is_temporary=temporary,
            field_count=field_count,
            id=id,
        )
        return self._unary_write("schema", "CreateSpace", request, timeout)

    def alter_space(
        self,
        space: SpaceRef,
        *,
        sync: bool | None = None,
        name: str | None = None,
        format: Iterable[FieldSpec] | None = None,
        timeout: float | None = None,
    ) -> Message:
        """Change what is given. Returns an AlterSpaceResponse."""
        request = schema_pb2.AlterSpaceRequest(space=str(space))
        if sync is not None:
            request.is_sync = sync
        if name is not None:
            request.name = name
        if format is not None:
            request.format.SetInParent()
            request.format.fields.extend(requests.fields(format))
        return self._unary_write("schema", "AlterSpace", request, timeout)

    def truncate_space(self, space: SpaceRef, *, timeout: float | None = None) -> Message:
        request = schema_pb2.TruncateSpaceRequest(space=str(space))
        return self._unary_write("schema", "TruncateSpace", request, timeout)

    def drop_space(
        self, space: SpaceRef, *, if_exists: bool = False, timeout: float | None = None
    ) -> Message:
        request = schema_pb2.DropSpaceRequest(space=str(space), if_exists=if_exists)
        return self._unary_write("schema", "DropSpace", request, timeout)

    def create_index(
        self,
        space: SpaceRef,
        name: str,
        *,
        parts: Iterable[PartSpec] = (),
        unique: bool = True,
        type: str = "tree",
        if_not_exists: bool = False,
        timeout: float | None = None,
    ) -> Message:
        """The first index of a space is its primary key. parts: default field 1, unsigned."""
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
        )
        return self._unary_write("schema", "CreateIndex", request, timeout)

    def drop_index(
        self, space: SpaceRef, name: str, *, if_exists: bool = False, timeout: float | None = None
    ) -> Message:
        request = schema_pb2.DropIndexRequest(space=str(space), name=name, if_exists=if_exists)
        return self._unary_write("schema", "DropIndex", request, timeout)

    def checksum(
        self, space: SpaceRef, *, instance: str | None = None, timeout: float | None = None
    ) -> Message:
        """ChecksumSpaceResponse (count, checksum, read_at): equal where the same tuples are confirmed."""
        request = schema_pb2.ChecksumSpaceRequest(space=str(space))
        return self._ask("schema", "ChecksumSpace", request, instance, timeout)


def requests_txn(txn: Txn | str) -> Txn:
    from synchro.client.model import parse_txn

    try:
        origin, lsn = parse_txn(txn) if isinstance(txn, str) else txn
    except ValueError:
        raise IllegalParams(f"a transaction is written ORIGIN:LSN, got {txn!r}") from None
    return requests.number(origin, "the origin of a transaction"), requests.number(lsn, "an LSN", bits=63)


def nobody(errors: Sequence[tuple[str, SynchroError]]) -> SynchroError:
    """Nobody answered."""
    if len(errors) == 1:
        return errors[0][1]
    why = "; ".join(f"{endpoint}: {error.message.rpartition(': ')[2]}" for endpoint, error in errors)
    return CannotConnect(f"no instance answers: {why}", endpoints=",".join(e for e, _ in errors))


class Space:
    """One space. Writes are transactions of one operation; options are those of `Client.execute`."""

    def __init__(self, client: Client, name: SpaceRef) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"Space({self.name!r})"

    def insert(self, fields: Sequence[Any], **options: Any) -> Tuple:
        """Add a tuple; `DuplicateKey` if its key exists. Returns it."""
        return self._stored(wire.insert(self.name, fields), fields, options)

    def replace(self, fields: Sequence[Any], **options: Any) -> Tuple:
        """Add a tuple, or replace the one with the same primary key. Returns the new one."""
        return self._stored(wire.replace(self.name, fields), fields, options)

    def _stored(self, op: bytes, fields: Sequence[Any], options: Mapping[str, Any]) -> Tuple:
        stored = self._changed(op, options)
        return stored if stored is not None else Tuple(fields)

    def update(
        self, key: Key, ops: Sequence[Sequence[Any]], *, index: IndexRef = None, **options: Any
    ) -> Tuple | None:
        """Change fields: ops are `[operator, field, argument...]`, fields count from 1 as on the server.

        Returns the new tuple; None if there is none with this key.
        """
        return self._changed(wire.encoded(requests.update(self.name, key, ops, index)), options)

    def upsert(self, fields: Sequence[Any], ops: Sequence[Sequence[Any]], **options: Any) -> None:
        """Change the tuple with this primary key, or add it."""
        self._changed(wire.encoded(requests.upsert(self.name, fields, ops)), options)

    def delete(self, key: Key, *, index: IndexRef = None, **options: Any) -> Tuple | None:
        """Remove a tuple. Returns what it was; None if there was none."""
        return self._changed(wire.encoded(requests.delete(self.name, key, index)), options)

    def _changed(self, op: bytes, options: Mapping[str, Any]) -> Tuple | None:
        reply, _ = self._client._write(op, 1, **options)
        if options.get("omit_tuples"):
            return None
        return wire.tuples_of(reply, (op,), self._client._names(self.name))[0]

    def get(self, key: Key, *, index: IndexRef = None, read: str | None = None) -> Tuple | None:
        """The tuple with this full key of a unique index."""
        rows = self._client.select(self.name, key, index=index, iterator="EQ", limit=1, read=read)
        return rows[0] if rows else None

    def select(self, key: Key = None, **options: Any) -> Rows:
        """As `Client.select`: iterator, limit, offset, after, index, read, timeout."""
        return self._client.select(self.name, key, **options)

    def count(self) -> int:
        """Number of confirmed tuples on the instance that is read from."""
        return int(self._client.spaces(self.name)[0].tuple_count)


class Transaction:
    """Collects operations, encoded; see `Client.transaction`."""

    def __init__(self) -> None:
        self.ops: list[bytes] = []
        self.result: Result | None = None

    def insert(self, space: SpaceRef, fields: Sequence[Any]) -> None:
        self.ops.append(wire.insert(space, fields))

    def replace(self, space: SpaceRef, fields: Sequence[Any]) -> None:
        self.ops.append(wire.replace(space, fields))

    def update(self, space: SpaceRef, key: Key, ops: Sequence[Sequence[Any]], index: IndexRef = None) -> None:
        self.ops.append(wire.encoded(requests.update(space, key, ops, index)))

    def upsert(self, space: SpaceRef, fields: Sequence[Any], ops: Sequence[Sequence[Any]]) -> None:
        self.ops.append(wire.encoded(requests.upsert(space, fields, ops)))

    def delete(self, space: SpaceRef, key: Key, index: IndexRef = None) -> None:
        self.ops.append(wire.encoded(requests.delete(space, key, index)))


class _Watch:
    """A thread that follows WatchInfo of whoever answers."""

    def __init__(self, client: Client, callback: Callable[[State], None]) -> None:
        self._client = client
        self._callback = callback
        self._stopping = threading.Event()
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="synchro-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._call is not None:
            self._call.cancel()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._stopping.is_set():
            # Not connected, or the channel was closed: begin again.
            with contextlib.suppress(SynchroError, grpc.RpcError, ValueError):
                self._follow(self._client.leader())
            self._stopping.wait(WATCH_PAUSE_S)

    def _follow(self, endpoint: str) -> None:
        self._call = self._client._link(endpoint).info.WatchInfo(info_pb2.WatchInfoRequest())
        try:
            for message in self._call:
                if self._stopping.is_set():
                    return
                self._client._on_header(message.header, endpoint)
                self._callback(state_of(message))
        finally:
            self._call.cancel()
            with self._client._lock:
                self._client._routes.failed(endpoint)
