"""The asynchronous client, for asyncio. `synchro.aio.connect` chooses it, or its twin for trio.

    async with synchro.aio.connect("127.0.0.1:3301,127.0.0.1:3302") as db:
        await db.space("bands").insert([4, "ABBA", 1972])

Names and meanings are those of the blocking client. Concurrent writes of tasks share one stream: a frame is
everything that was pending when the previous one had been written, up to a limit. A cancelled call detaches:
its write may still be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

from synchro.client import requests, wire
from synchro.client.blocking import OPERATOR_TIMEOUT_S, POLL_S, Transaction, nobody, requests_txn
from synchro.client.channel import CHANNEL_OPTIONS, IN_FLIGHT_MAX, PROBE_S
from synchro.client.errors import (
    CannotConnect,
    ClientClosed,
    ConnectionLost,
    OutcomeUnknown,
    of_rpc_error,
    of_status,
)
from synchro.client.model import Committed, Info, Result, RolledBack, Rows, State, Tuple, Txn, state_of
from synchro.client.requests import FieldSpec, IndexRef, Key, Message, PartSpec, SpaceRef
from synchro.client.retry import GRACE_S, SLOW_START_S, Tries, kind_of
from synchro.client.routes import Routes, parse_endpoints
from synchro.client.session import Session
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
_Entry: TypeAlias = "tuple[asyncio.Future[Message], float, bytes, int]"
"""Who waits for an ExecuteReply, until when (monotonic), the call, and how many operations it has."""
SWEEP_S: Final = 0.25
"""How often calls are looked through for those whose answer is overdue: a timer for each would cost more
than the call."""


class _Stream:
    """One ExecuteStream to one instance, used by tasks of one loop.

    B1  Each future in `_pending` and `_sent` gets one outcome: a reply, or an exception.
    B2  A call is in one of them until its end; or it was cancelled, or is overdue.

    on_header: told of each header; wrote: of the name of each transaction.
    """

    def __init__(
        self,
        link: _Link,
        timeout_s: float,
        on_header: Callable[[Any, str], None],
        wrote: Callable[[int, int], None],
    ) -> None:
        self.endpoint = link.endpoint
        self.instance = ""
        self.is_broken = False
        self._options = wire.frame_options(timeout_s)
        self._on_header = on_header
        self._wrote = wrote
        self._loop = asyncio.get_running_loop()
        self._pending: deque[_Entry] = deque()
        self._sent: dict[int, _Entry] = {}
        self._seqs = wire.seqs()
        self._wake: asyncio.Future[None] | None = None
        self._room: asyncio.Event = asyncio.Event()
        self._call = link.open_stream()
        self._tasks = [
            self._loop.create_task(self._send()),
            self._loop.create_task(self._receive()),
        ]
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def submit(self, call: bytes, ops: int, deadline: float) -> asyncio.Future[Message]:
        """A call (`wire.call`) of so many operations. Raises `CannotConnect` if the stream is over: nothing
        was sent."""
        if self.is_broken:
            raise CannotConnect(f"the stream to {self.endpoint} is over", endpoint=self.endpoint)
        future: asyncio.Future[Message] = self._loop.create_future()
        self._pending.append((future, deadline, call, ops))
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)
        return future

    @property
    def is_full(self) -> bool:
        return len(self._pending) + len(self._sent) >= IN_FLIGHT_MAX

    async def wait_room(self) -> None:
        while self.is_full and not self.is_broken:
            self._room.clear()
            await self._room.wait()

    async def _send(self) -> None:
        try:
            while True:
                if not self._pending:
                    self._wake = self._loop.create_future()
                    await self._wake
                calls = self._take()
                if calls:
                    calls.append(self._options)
                    await self._call.write(b"".join(calls))
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the receiving task learns why

    def _take(self) -> list[bytes]:
        """The calls of a frame. What was cancelled, or is overdue, before it was sent is not sent."""
        calls: list[bytes] = []
        for entry in wire.take(self._pending):
            if not entry[0].done():
                seq, seq_field = next(self._seqs)
                self._sent[seq] = entry
                calls.append(wire.in_frame(seq_field, entry[2]))
        return calls

    async def _receive(self) -> None:
        error: SynchroError = ConnectionLost(f"{self.endpoint} ended the stream", endpoint=self.endpoint)
        try:
            while True:
                response = await self._call.read()
                if response is grpc.aio.EOF:
                    break
                header = response.header
                self.instance = header.instance_name
                self._on_header(header, self.endpoint)
                for seq, committed in wire.replies(response):
                    entry = self._sent.pop(seq, None)
                    if entry is not None and not entry[0].done():
                        self._wrote(committed.txn_origin, committed.txn_lsn)
                        entry[0].set_result(committed)
                for result in response.results:
                    entry = self._sent.pop(result.seq, None)
                    if entry is None or entry[0].done():
                        continue
                    reply = result.reply
                    origin = reply.txn_origin
                    if origin:
                        self._wrote(origin, reply.txn_lsn)
                    if origin or result.HasField("reply"):
                        entry[0].set_result(reply)
                    else:
                        entry[0].set_exception(of_status(result.error, self.endpoint))
                if not self._room.is_set():
                    self._room.set()
        except grpc.RpcError as failure:
            error = of_rpc_error(failure, self.endpoint)
        except asyncio.CancelledError:
            error = ConnectionLost(f"the client closed its stream to {self.endpoint}")
            raise
        finally:
            self._end(error)

    def _sweep(self) -> None:
        now = time.monotonic()
        for future, deadline, _, _ in (*self._sent.values(), *self._pending):
            if deadline < now and not future.done():
                future.set_exception(
                    ConnectionLost(f"no answer from {self.endpoint} in time", endpoint=self.endpoint)
                )
        self._sent = {seq: entry for seq, entry in self._sent.items() if not entry[0].done()}
        if not self.is_full:
            self._room.set()
        if not self.is_broken:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _end(self, error: SynchroError) -> None:
        self.is_broken = True
        self._sweeper.cancel()
        self._room.set()
        sent, self._sent = self._sent, {}
        pending, self._pending = self._pending, deque()
        # One object for each: an exception collects the traceback of whoever raises it.
        for future, _, _, _ in sent.values():
            if not future.done():
                future.set_exception(type(error)(error.message, **error.details))
        for future, _, _, _ in pending:
            if not future.done():
                future.set_exception(CannotConnect(f"not sent: {error.message}", endpoint=self.endpoint))
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def close(self) -> None:
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Link:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.channel = grpc.aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
        stubs: Any = self.channel
        self.data: Any = data_pb2_grpc.DataServiceStub(stubs)
        self.info: Any = info_pb2_grpc.InfoServiceStub(stubs)
        self.schema: Any = schema_pb2_grpc.SchemaServiceStub(stubs)
        self.control: Any = control_pb2_grpc.ControlServiceStub(stubs)
        self.cluster: Any = cluster_pb2_grpc.ClusterServiceStub(stubs)
        self.open_stream: Callable[[], Any] = wire.open_stream(self.channel)
        self.stream: _Stream | None = None

    async def close(self) -> None:
        if self.stream is not None:
            await self.stream.close()
        await self.channel.close()


class AsyncClient:
    """See `synchro.client.Client`, whose methods these are, to be awaited. Belongs to one event loop."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout: float,
        read_from: str = "leader",
        read_your_writes: bool = True,
        follow_leader: bool = True,
    ) -> None:
        if read_from not in ("leader", "any"):
            raise IllegalParams(f"read_from is leader or any, not {read_from!r}")
        self.timeout = timeout
        self.read_from = read_from
        self.read_your_writes = read_your_writes
        self.follow_leader = follow_leader
        self._routes = Routes(endpoints)
        self._session = Session()
        self._search = asyncio.Lock()
        self._links: dict[str, _Link] = {}
        self._formats: dict[SpaceRef, tuple[str, ...]] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._members_known = False
        self._closed = False

    # --- life

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel streams and watches, close connections. Waiting writes raise `OutcomeUnknown`."""
        self._closed = True
        for task in self._watches:
            task.cancel()
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close()

    def _link(self, endpoint: str) -> _Link:
        link = self._links.get(endpoint)
        if link is None:
            if self._closed:
                raise ClientClosed("the client is closed; nothing was sent")
            link = self._links[endpoint] = _Link(endpoint)
        return link

    def _stream(self, endpoint: str) -> _Stream:
        link = self._link(endpoint)
        if link.stream is None or link.stream.is_broken:
            link.stream = _Stream(link, self.timeout, self._on_header, self._session.wrote_txn)
        return link.stream

    def _on_header(self, header: Message, endpoint: str) -> None:
        self._routes.learn(header, endpoint)
        self._session.see(header)

    # --- who leads

    async def leader(self) -> str:
        """`host:port` of the leader. Raises `CannotConnect` if nobody answers."""
        if self._routes.leader is not None:
            return self._routes.leader
        async with self._search:
            if self._routes.leader is not None:
                return self._routes.leader
            answers, errors = await self._probe(self._routes.endpoints())
            if not answers:
                raise nobody(errors)
            chosen = self._routes.choose(answers)
            for _, answer in answers:
                self._session.see(answer.header)
            if not self._members_known and self.follow_leader:
                await self._learn_members(answers[0][0])
            return chosen

    async def _probe(
        self, endpoints: Sequence[str]
    ) -> tuple[list[tuple[str, Message]], list[tuple[str, SynchroError]]]:
        async def ask(endpoint: str) -> Message | SynchroError:
            call = self._link(endpoint).info.WatchInfo(info_pb2.WatchInfoRequest(), timeout=PROBE_S)
            try:
                answer = await call.read()
                if answer is grpc.aio.EOF:
                    return ConnectionLost(f"{endpoint} said nothing", endpoint=endpoint)
                return answer
            except grpc.RpcError as error:
                return of_rpc_error(error, endpoint)
            finally:
                call.cancel()

        found = await asyncio.gather(*(ask(endpoint) for endpoint in endpoints))
        pairs = list(zip(endpoints, found, strict=True))
        answers = [(e, answer) for e, answer in pairs if not isinstance(answer, SynchroError)]
        errors = [(e, answer) for e, answer in pairs if isinstance(answer, SynchroError)]
        return answers, errors

    async def _learn_members(self, endpoint: str) -> None:
        request = cluster_pb2.ListInstancesRequest()
        with contextlib.suppress(SynchroError):  # it may be loading
            reply = await self._unary(endpoint, "cluster", "ListInstances", request, 1.0)
            for member in reply.instances:
                self._routes.learn_member(member)
            self._members_known = True

    # --- calls

    async def _unary(
        self, endpoint: str, service: str, method: str, request: Message, timeout_s: float
    ) -> Message:
        link = self._link(endpoint)
        try:
            reply = await getattr(getattr(link, service), method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise of_rpc_error(error, endpoint) from None
        except asyncio.InvalidStateError as error:
            raise ClientClosed("the client is closed") from error
        self._on_header(reply.header, endpoint)
        return reply

    async def _with_retries(
        self, tries: Tries, where: Callable[[], Awaitable[str]], attempt: Callable[[str], Awaitable[T]]
    ) -> T:
        while True:
            endpoint = ""
            try:
                endpoint = await where()
                return await attempt(endpoint)
            except SynchroError as error:
                delay = self._after_failure(tries, error, endpoint)
            if delay:
                await asyncio.sleep(delay)

    def _after_failure(self, tries: Tries, error: SynchroError, endpoint: str) -> float:
        kind = kind_of(error)
        redirected = False
        if kind is Retry.ELSEWHERE and self.follow_leader:
            redirected = self._routes.redirect(endpoint, error)
        elif kind in (Retry.LOST, Retry.LATER, Retry.ELSEWHERE):
            self._routes.failed(endpoint)
        claimed = self._session.position is not None or bool(self._routes.queue_owner)
        if kind is Retry.ELSEWHERE and not self.follow_leader and not isinstance(error, CannotConnect):
            raise error
        try:
            return tries.failed(error, endpoint, time.monotonic(), redirected=redirected, claimed=claimed)
        except OutcomeUnknown as unknown:
            raise unknown.bind(self) from error

    async def _write_place(self) -> str:
        return await self.leader() if self.follow_leader else await self._first_place()

    async def _first_place(self) -> str:
        if self._session.good_endpoint is not None:
            return self._session.good_endpoint
        errors = []
        for endpoint in self._routes.seeds:
            answers, why = await self._probe([endpoint])
            if answers:
                self._session.good_endpoint = endpoint
                self._on_header(answers[0][1].header, endpoint)
                self._routes.queue_owner = answers[0][1].queue_owner
                return endpoint
            errors += why
        raise nobody(errors)

    async def _read_place(self, tries: Tries) -> str:
        if tries.is_again:
            self._session.good_endpoint = None
        return await self._first_place()

    async def _unary_write(
        self, service: str, method: str, request: Message, timeout: float | None
    ) -> Message:
        timeout_s = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout_s
        request.request_id = requests.new_request_id()
        tries = Tries(deadline, request.request_id)

        async def attempt(endpoint: str) -> Message:
            if tries.is_first_sent and self._session.position is not None:
                request.known_position.CopyFrom(self._session.position)
            left_s = max(0.05, deadline - time.monotonic())
            request.timeout.CopyFrom(requests.duration(left_s))
            reply = await self._unary(endpoint, service, method, request, left_s + GRACE_S)
            self._session.wrote(reply)
            return reply

        return await self._with_retries(tries, self._write_place, attempt)

    async def execute(
        self,
        ops: Iterable[Message],
        *,
        wait: str = "complete",
        timeout: float | None = None,
        expected_term: int = 0,
        omit_tuples: bool = False,
        request_id: bytes | None = None,
    ) -> Result:
        """One transaction, see `Client.execute`."""
        encoded = [wire.encoded(op) for op in ops]
        reply, instance = await self._write(
            b"".join(encoded),
            len(encoded),
            wait=wait,
            timeout=timeout,
            expected_term=expected_term,
            omit_tuples=omit_tuples,
            request_id=request_id,
        )
        return wire.result(reply, encoded, self._names_of(encoded), instance, omit_tuples=omit_tuples)

    async def _write(
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
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        request_id = request_id or requests.new_request_id()
        position = self._session.position_field
        options = wire.options(wait, timeout, expected_term, omit_tuples)
        call = wire.call(request_id, position, ops, options)
        # The way of nearly all calls: the leader is known, and does it.
        endpoint = self._routes.leader
        link = self._links.get(endpoint) if endpoint is not None and self.follow_leader else None
        stream = link.stream if link is not None else None
        tries: Tries | None = None
        if stream is not None and endpoint is not None and not stream.is_broken and not stream.is_full:
            try:
                return await stream.submit(call, count, deadline + GRACE_S), stream.instance
            except SynchroError as error:
                tries = Tries(deadline, request_id)
                delay = self._after_failure(tries, error, endpoint)
                if delay:
                    await asyncio.sleep(delay)
        modes = wait, timeout, expected_term, omit_tuples
        return await self._write_with_retries(
            ops, count, modes, position, tries or Tries(deadline, request_id)
        )

    async def _write_with_retries(
        self,
        ops: bytes,
        count: int,
        modes: tuple[str, float | None, int, bool],
        position: bytes,
        tries: Tries,
    ) -> tuple[Message, str]:
        wait, timeout_s, expected_term, omit_tuples = modes
        whole_s = self.timeout if timeout_s is None else timeout_s

        async def attempt(endpoint: str) -> tuple[Message, str]:
            nonlocal timeout_s, position
            left_s = tries.deadline - time.monotonic()
            if tries.is_again or left_s < whole_s - SLOW_START_S:
                timeout_s = max(0.05, left_s)
            if tries.is_first_sent:
                position = self._session.position_field
            options = wire.options(wait, timeout_s, expected_term, omit_tuples)
            call = wire.call(tries.request_id, position, ops, options)
            stream = self._stream(endpoint)
            if stream.is_full:
                await stream.wait_room()
            return await stream.submit(call, count, tries.deadline + GRACE_S), stream.instance

        return await self._with_retries(tries, self._write_place, attempt)

    # --- data

    def space(self, name: SpaceRef) -> AsyncSpace:
        return AsyncSpace(self, name)

    @contextlib.asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[Transaction]:
        """As `Client.transaction`: operations are collected, one call is made at the end."""
        transaction = Transaction()
        yield transaction
        if transaction.ops:
            transaction.result = await self.execute(transaction.ops, **options)

    async def select(
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
        """See `Client.select`."""
        timeout_s = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout_s
        request = requests.select(
            space, key, index=index, iterator=iterator, limit=limit, offset=offset, after=after, read=read
        )
        at_leader = read == "linearizable" or self.read_from == "leader"
        rows, names = Rows(), self._names(space)

        async def attempt(endpoint: str) -> Message:
            left_s = max(0.05, deadline - time.monotonic())
            request.timeout.CopyFrom(requests.duration(left_s))
            request.min_vclock.clear()
            if self.read_your_writes and endpoint != self._routes.leader:
                request.min_vclock.update(self._session.vclock)
            return await self._unary(endpoint, "data", "Select", request, left_s + GRACE_S)

        while True:
            reply = await self._read(Tries(deadline, is_read=True), attempt, at_leader=at_leader)
            if not requests.add_page(rows, request, reply, names):
                return rows

    async def _read(self, tries: Tries, attempt: Callable[[str], Awaitable[T]], *, at_leader: bool) -> T:
        place = self._write_place if at_leader else lambda: self._read_place(tries)
        return await self._with_retries(tries, place, attempt)

    def _names(self, space: SpaceRef) -> Callable[[], Sequence[str]]:
        return lambda: self._formats.get(space, ())

    def _names_of(self, ops: Sequence[bytes]) -> Callable[[], Sequence[str]]:
        return lambda: self._formats.get(wire.space_of(ops), ())

    async def field_names(self, space: SpaceRef) -> Sequence[str]:
        """Names of the fields of a space. Await it once, then `row["name"]` works for its rows."""
        spaces = await self.spaces(space)
        self._formats[space] = tuple(field.name for field in spaces[0].format) if spaces else ()
        return self._formats[space]

    # --- outcome of a transaction

    async def wait_transaction(self, txn: Txn | str | bytes, timeout: float | None = None) -> str:
        """ "committed", "rolled_back", "pending" or "unknown", see `Client.wait_transaction`."""
        timeout_s = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout_s
        request = data_pb2.WaitTransactionRequest()
        if isinstance(txn, bytes):
            request.request_id = txn
        else:
            request.txn.origin, request.txn.lsn = requests_txn(txn)

        async def attempt(endpoint: str) -> str:
            left_s = max(0.0, deadline - time.monotonic())
            request.timeout.CopyFrom(requests.duration(left_s))
            reply = await self._unary(endpoint, "data", "WaitTransaction", request, left_s + GRACE_S)
            name: str = data_pb2.TransactionOutcome.Name(reply.outcome)
            return name.removeprefix("TRANSACTION_OUTCOME_").lower()

        return await self._with_retries(Tries(deadline, is_read=True), self._write_place, attempt)

    async def wait_outcome(
        self, unknown: OutcomeUnknown, timeout: float | None = None
    ) -> Committed | RolledBack:
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
                    last = await self.wait_transaction(name, left_s)
                if last == "committed":
                    return Committed(unknown.txn)
                if last == "rolled_back" and name == unknown.txn and unknown.is_only_try:
                    return RolledBack(unknown.txn)
            if time.monotonic() + POLL_S >= deadline:
                break
            await asyncio.sleep(POLL_S)
        again = OutcomeUnknown(
            f"after {timeout_s:g} s the outcome is still {last}",
            txn=unknown.txn,
            request_id=unknown.request_id,
            reason=unknown.details.get("reason"),
        )
        raise again.bind(self)

    # --- information

    async def get_info(
        self, path: str = "", *, instance: str | None = None, timeout: float | None = None
    ) -> Any:
        """A part of `box.info`, see `Client.get_info`; without a path the whole tree."""
        request = requests.get_info([path] if path else [])
        reply = await self._ask("info", "GetInfo", request, instance, timeout)
        value = requests.unpack(reply.info_msgpack)
        return Info(value) if isinstance(value, dict) else value

    async def list_queue(self, *, instance: str | None = None, limit: int = 0) -> Message:
        return await self._ask("info", "ListQueue", info_pb2.ListQueueRequest(limit=limit), instance)

    async def list_instances(self, *, instance: str | None = None) -> list[Message]:
        request = cluster_pb2.ListInstancesRequest()
        return list((await self._ask("cluster", "ListInstances", request, instance)).instances)

    async def _ask(
        self,
        service: str,
        method: str,
        request: Message,
        instance: str | None = None,
        timeout: float | None = None,
    ) -> Message:
        timeout_s = self.timeout if timeout is None else timeout
        tries = Tries(time.monotonic() + timeout_s, is_read=True)

        async def attempt(endpoint: str) -> Message:
            return await self._unary(endpoint, service, method, request, timeout_s)

        if instance is not None:
            return await self._with_retries(tries, lambda: self.endpoint_of(instance), attempt)
        return await self._read(tries, attempt, at_leader=self.read_from == "leader")

    async def endpoint_of(self, instance: str) -> str:
        """host:port of an instance given by name, id or host:port. Raises `IllegalParams`."""
        if ":" in instance:
            return parse_endpoints(instance)[0]
        found = self._routes.named(instance)
        if found is None:
            answers, errors = await self._probe(self._routes.endpoints())
            if not answers:
                raise nobody(errors)
            self._routes.choose(answers)
            for endpoint, _ in answers:
                await self._learn_members(endpoint)
                found = self._routes.named(instance)
                if found is not None:
                    break
        if found is None:
            raise IllegalParams(f"no instance {instance!r} is known here; next: synchro member list")
        return found

    def on_change(self, callback: Callable[[State], None]) -> Callable[[], None]:
        """Call back with each change of leader, term, writability or queue. Returns what ends it."""

        async def follow() -> None:
            while True:
                with contextlib.suppress(SynchroError):
                    async for state in self.watch_info(await self.leader()):
                        callback(state)
                self._routes.leader = None
                await asyncio.sleep(POLL_S)

        task = asyncio.get_running_loop().create_task(follow())
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)
        return task.cancel  # type: ignore[return-value]

    async def watch_info(self, instance: str | None = None) -> AsyncIterator[State]:
        """The state of one instance now and at each change. Ends when the connection does."""
        endpoint = await (self._first_place() if instance is None else self.endpoint_of(instance))
        call = self._link(endpoint).info.WatchInfo(info_pb2.WatchInfoRequest())
        try:
            async for message in call:
                self._on_header(message.header, endpoint)
                yield state_of(message)
        except grpc.RpcError as error:
            raise of_rpc_error(error, endpoint) from None
        finally:
            call.cancel()

    # --- operators

    async def promote(self, instance: str | None = None, *, timeout: float | None = None) -> Message:
        request = control_pb2.PromoteRequest()
        if timeout is not None:
            request.timeout.CopyFrom(requests.duration(timeout))
        reply = await self._command(instance, "Promote", request, timeout)
        self._routes.leader = None
        return reply

    async def demote(self, instance: str | None = None, *, timeout: float | None = None) -> Message:
        request = control_pb2.DemoteRequest()
        if timeout is not None:
            request.timeout.CopyFrom(requests.duration(timeout))
        reply = await self._command(instance or await self._write_place(), "Demote", request, timeout)
        self._routes.leader = None
        return reply

    async def snapshot(self, instance: str | None = None) -> Message:
        return await self._command(instance, "Checkpoint", control_pb2.CheckpointRequest(), None)

    async def _command(
        self, instance: str | None, method: str, request: Message, timeout: float | None
    ) -> Message:
        endpoint = await (self._first_place() if instance is None else self.endpoint_of(instance))
        limit_s = OPERATOR_TIMEOUT_S if timeout is None else timeout + GRACE_S
        return await self._unary(endpoint, "control", method, request, limit_s)

    # --- schema

    async def spaces(
        self, space: SpaceRef = "", *, with_system: bool = False, instance: str | None = None
    ) -> list[Message]:
        request = schema_pb2.ListSpacesRequest(space=str(space), with_system=with_system)
        return list((await self._ask("schema", "ListSpaces", request, instance)).spaces)

    async def create_space(
        self,
        name: str,
        *,
        sync: bool = False,
        format: Iterable[FieldSpec] = (),
        if_not_exists: bool = False,
        timeout: float | None = None,
    ) -> Message:
        request = schema_pb2.CreateSpaceRequest(
            name=name, is_sync=sync, format=requests.fields(format), if_not_exists=if_not_exists
        )
        return await self._unary_write("schema", "CreateSpace", request, timeout)

    async def truncate_space(self, space: SpaceRef, *, timeout: float | None = None) -> Message:
        request = schema_pb2.TruncateSpaceRequest(space=str(space))
        return await self._unary_write("schema", "TruncateSpace", request, timeout)

    async def drop_space(
        self, space: SpaceRef, *, if_exists: bool = False, timeout: float | None = None
    ) -> Message:
        request = schema_pb2.DropSpaceRequest(space=str(space), if_exists=if_exists)
        return await self._unary_write("schema", "DropSpace", request, timeout)

    async def create_index(
        self,
        space: SpaceRef,
        name: str,
        *,
        parts: Iterable[PartSpec] = (),
        unique: bool = True,
        if_not_exists: bool = False,
        timeout: float | None = None,
    ) -> Message:
        request = schema_pb2.CreateIndexRequest(
            space=str(space),
            name=name,
            parts=requests.parts(parts),
            unique=unique,
            if_not_exists=if_not_exists,
        )
        return await self._unary_write("schema", "CreateIndex", request, timeout)

    async def checksum(
        self, space: SpaceRef, *, instance: str | None = None, timeout: float | None = None
    ) -> Message:
        request = schema_pb2.ChecksumSpaceRequest(space=str(space))
        return await self._ask("schema", "ChecksumSpace", request, instance, timeout)


class AsyncSpace:
    """See `synchro.client.Space`."""

    def __init__(self, client: AsyncClient, name: SpaceRef) -> None:
        self._client = client
        self.name = name

    async def insert(self, fields: Sequence[Any], **options: Any) -> Tuple:
        op = wire.insert(self.name, fields)
        reply, _ = await self._client._write(op, 1, **options)
        stored = None if options.get("omit_tuples") else self._changed(op, reply)
        return stored if stored is not None else Tuple(fields)

    async def replace(self, fields: Sequence[Any], **options: Any) -> Tuple:
        op = wire.replace(self.name, fields)
        reply, _ = await self._client._write(op, 1, **options)
        stored = None if options.get("omit_tuples") else self._changed(op, reply)
        return stored if stored is not None else Tuple(fields)

    async def update(
        self, key: Key, ops: Sequence[Sequence[Any]], *, index: IndexRef = None, **options: Any
    ) -> Tuple | None:
        return await self._one(requests.update(self.name, key, ops, index), options)

    async def upsert(self, fields: Sequence[Any], ops: Sequence[Sequence[Any]], **options: Any) -> None:
        await self._one(requests.upsert(self.name, fields, ops), options)

    async def delete(self, key: Key, *, index: IndexRef = None, **options: Any) -> Tuple | None:
        return await self._one(requests.delete(self.name, key, index), options)

    async def _one(self, op: Message, options: Mapping[str, Any]) -> Tuple | None:
        encoded = wire.encoded(op)
        reply, _ = await self._client._write(encoded, 1, **options)
        return None if options.get("omit_tuples") else self._changed(encoded, reply)

    def _changed(self, op: bytes, reply: Message) -> Tuple | None:
        return wire.tuples_of(reply, (op,), self._client._names(self.name))[0]

    async def get(self, key: Key, *, index: IndexRef = None, read: str | None = None) -> Tuple | None:
        rows = await self._client.select(self.name, key, index=index, iterator="EQ", limit=1, read=read)
        return rows[0] if rows else None

    async def select(self, key: Key = None, **options: Any) -> Rows:
        return await self._client.select(self.name, key, **options)
