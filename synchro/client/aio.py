"""The asynchronous client, for asyncio. `synchro.aio.connect` chooses it, or its twin for trio.

    async with synchro.aio.connect("127.0.0.1:3301,127.0.0.1:3302") as db:
        await db.space("bands").insert([4, "ABBA", 1972])

Names and meanings are those of the blocking client. Concurrent writes of tasks share one stream. A cancelled
call detaches: its write may still be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from functools import partial, wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeAlias, TypeVar, Unpack

from synchro.client import forks
from synchro.client.aio_talk import AioTalk
from synchro.client.api import PAGE_ROWS, POLL_S, Api
from synchro.client.bulk import BATCH_ROWS, Bulk
from synchro.client.channel import PROBE_S, open_channel
from synchro.client.errors import ClientClosed, ConnectionLost, of_rpc_error
from synchro.client.model import Info, Result, Tuple, TxnId, WatchState
from synchro.client.open_transaction import (
    BeginOptions,
    OpenTransactionApi,
    Repeats,
    SpaceInTransaction,
)
from synchro.client.ops import Transaction
from synchro.client.plans import (
    WATCH_INFO,
    WRITE_OPTIONS,
    Answers,
    Changes,
    ClientOptions,
    EndTalk,
    LogIn,
    OpenTalk,
    Pause,
    Plan,
    Plans,
    Probe,
    Say,
    Step,
    Submit,
    Unary,
    WriteOptions,
)
from synchro.client.replies import TxnState
from synchro.client.requests import (
    IndexRef,
    IteratorName,
    KeyLike,
    Message,
    ReadMode,
    SpaceRef,
    check_options,
)
from synchro.client.space_api import SpaceApi
from synchro.client.task_runner import TaskRunner, Turn
from synchro.client.user_api import UserApi
from synchro.errors import IllegalParams, SynchroError
from synchro.rpc.generated.v1 import (
    auth_pb2_grpc,
    cluster_pb2_grpc,
    control_pb2_grpc,
    data_pb2_grpc,
    info_pb2_grpc,
    schema_pb2_grpc,
)

import grpc  # isort: skip - after channel.py, which sets its environment

if TYPE_CHECKING:
    from synchro.client.aio_stream import AioStream, AioStreams
    from synchro.client.secure import Security

A = TypeVar("A", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")
Awaited: TypeAlias = Coroutine[Any, Any, T]


class AsyncRunner(TaskRunner["_Link"]):
    """Carries out the plans of one client, as tasks of one asyncio loop."""

    late_errors = (asyncio.InvalidStateError, grpc.aio.UsageError)

    def __init__(self, plans: Plans, face: AsyncClient) -> None:
        super().__init__(plans, face)
        self._probes: dict[Probe, asyncio.Task[Answers]] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        """Set when it is closed, for who waits between two tries."""

    async def begin(self) -> None:
        pass

    def new_turn(self) -> Turn:
        return asyncio.Lock()

    async def carry_out(self, step: Step) -> Any:
        match step:
            case Submit():
                raise AssertionError
            case Unary():
                return await self._unary(step)
            case LogIn():
                return await self.log_in(step)
            case Probe():
                return await self._probe(step)
            case Pause():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), step.seconds)
                return None
            case OpenTalk(endpoint, request, timeout_s):
                metadata = self._plans.logins.metadata(endpoint)
                talk = AioTalk(self.link(endpoint).data, endpoint, metadata)
                try:
                    return talk, await self._say(talk, request, timeout_s)
                except BaseException:
                    talk.end()
                    raise
            case Say(talk, request, timeout_s):
                if self.closed:
                    raise ClientClosed(self.closed)
                return await self._say(talk, request, timeout_s)
            case EndTalk(talk):
                if not self.closed:
                    talk.end()
                return None

    async def close(self, why: str) -> None:
        self.closed = self.closed or why
        self._over.set()
        for task in self._watches:
            task.cancel()
        for asking in self._probes.values():
            asking.cancel()
        links, self.links = list(self.links.values()), {}
        for link in links:
            await link.close()

    def become_inherited(self) -> list[Any]:
        self.closed = forks.INHERITED
        links, self.links = self.links, {}
        probes, self._probes = self._probes, {}
        watches, self._watches = self._watches, set()
        return [links, probes, watches]

    def link(self, endpoint: str) -> _Link:
        link = self.links.get(endpoint)
        if link is None:
            if self.closed:
                raise ClientClosed(self.closed)
            link = self.links[endpoint] = _Link(endpoint, self._plans.options.security)
        return link

    async def stream(self, endpoint: str) -> AioStream:
        link = self.link(endpoint)
        if link.streams is None:
            from synchro.client.aio_stream import AioStreams  # so that who only reads starts sooner

            plans = self._plans
            link.streams = AioStreams(
                endpoint,
                plans.options.timeout,
                plans.on_replies,
                plans.session,
                plans.options.security,
                partial(plans.logins.metadata, endpoint),
                plans.is_claimed,
            )
        stream = link.stream = link.streams.newest()
        if stream.is_full:
            await stream.wait_room()
        return stream

    async def _say(self, talk: AioTalk, request: Message, timeout_s: float) -> Message:
        try:
            return await talk.say(request, timeout_s)
        except asyncio.CancelledError:
            if self._is_caller_cancelled():
                raise
            raise _closed_link(talk.endpoint) from None

    async def _unary(self, step: Unary) -> Message:
        link = self.link(step.endpoint)
        try:
            return await getattr(getattr(link, step.service), step.method)(
                step.request,
                timeout=step.timeout_s,
                metadata=self._plans.logins.metadata(step.endpoint),
            )
        except grpc.RpcError as error:
            raise of_rpc_error(error, step.endpoint) from None
        except asyncio.CancelledError:
            if self._is_caller_cancelled():
                raise
            raise _closed_link(step.endpoint) from None

    def _is_caller_cancelled(self) -> bool:
        """False: gRPC says so of a call of its own, because its channel was closed; its caller goes on."""
        task = asyncio.current_task()
        return not self.closed or task is None or task.cancelling() > 0

    async def _probe(self, probe: Probe) -> Answers:
        """Tasks that ask the same at the same time share the answers."""
        asking = self._probes.get(probe)
        if asking is None:
            asking = self._probes[probe] = asyncio.get_running_loop().create_task(self._ask(probe))
            asking.add_done_callback(lambda _: self._probes.pop(probe, None))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            if not asking.cancelled() or self._is_caller_cancelled():
                raise
            raise ClientClosed(self.closed) from None

    async def _ask(self, probe: Probe) -> Answers:
        answers = Answers(probe, time.monotonic())

        async def ask(endpoint: str) -> None:
            answer = await self.first_answer(endpoint, probe.timeout_s)
            answers.add(endpoint, answer, time.monotonic())

        tasks = {asyncio.ensure_future(ask(endpoint)) for endpoint in probe.endpoints}
        try:
            while tasks and not answers.is_over:
                left_s = answers.until - time.monotonic()
                if left_s <= 0:
                    break
                done, tasks = await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        answers.close()
        return answers

    async def ask_for_answer(self, endpoint: str, timeout_s: float) -> Message | SynchroError:
        call = self._stream(endpoint, WATCH_INFO, timeout_s)
        try:
            answer = await call.read()
            if answer is grpc.aio.EOF:
                return ConnectionLost(f"{endpoint} said nothing", endpoint=endpoint)
            return answer
        except grpc.RpcError as error:
            return of_rpc_error(error, endpoint)
        finally:
            call.cancel()

    def _stream(self, endpoint: str, changes: Changes[Any], timeout_s: float | None = None) -> Any:
        return getattr(getattr(self.link(endpoint), changes.service), changes.method)(
            changes.request,
            timeout=timeout_s,
            metadata=self._plans.logins.metadata(endpoint),
        )

    # --- changes

    async def changes_at(self, place: str, changes: Changes[T]) -> AsyncGenerator[T, None]:
        call = self._stream(place, changes, changes.timeout_s)
        try:
            async for message in call:
                self._plans.on_header(message.header, place)
                yield changes.value(message)
        except grpc.RpcError as error:
            raise of_rpc_error(error, place) from None
        except asyncio.CancelledError:
            if self._is_caller_cancelled():
                raise
            raise _closed_link(place) from None
        finally:
            call.cancel()

    def watch(self, api: Api, callback: Callable[[WatchState], None]) -> Callable[[], None]:
        if self.closed:
            raise ClientClosed(self.closed)
        task = asyncio.get_running_loop().create_task(self._follow(api, callback))
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

        def stop() -> None:
            task.cancel()

        return stop

    async def _follow(self, api: Api, callback: Callable[[WatchState], None]) -> None:
        failure: Exception | None = None
        while True:
            with contextlib.suppress(SynchroError):
                async for state in self.changes(api.most_informed(timeout=PROBE_S), WATCH_INFO):
                    try:
                        callback(state)
                    except Exception as error:  # noqa: BLE001 - raised below: it is none of the connection
                        failure = error
                        break
            if failure is not None:
                raise failure
            with self._plans.lock:
                self._plans.routes.leader = None
            await asyncio.sleep(POLL_S)

    async def together(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        return await asyncio.gather(*(call() for call in calls))


def _closed_link(endpoint: str) -> ConnectionLost:
    return ConnectionLost(f"the client closed its connection to {endpoint}", endpoint=endpoint)


class _Link:
    def __init__(self, endpoint: str, security: Security | None) -> None:
        self.endpoint = endpoint
        self.channel = stubs = open_channel(grpc.aio, endpoint, security)
        self.data: Any = data_pb2_grpc.DataServiceStub(stubs)
        self.info: Any = info_pb2_grpc.InfoServiceStub(stubs)
        self.schema: Any = schema_pb2_grpc.SchemaServiceStub(stubs)
        self.control: Any = control_pb2_grpc.ControlServiceStub(stubs)
        self.cluster: Any = cluster_pb2_grpc.ClusterServiceStub(stubs)
        self.auth: Any = auth_pb2_grpc.AuthServiceStub(stubs)
        self.streams: AioStreams | None = None
        """They have connections of their own."""
        self.stream: AioStream | None = None
        """The newest of them."""

    async def close(self) -> None:
        if self.streams is not None:
            await self.streams.close()
        await self.channel.close()


class AsyncFace(Generic[A]):
    """What turns the plans of an `Api` into methods to be awaited."""

    _api: A
    _run: Callable[[Callable[..., Plan[Any]], Any, tuple[Any, ...], dict[str, Any]], Awaited[Any]]
    """`_run(make, api, args, kwargs)` carries out the plan that `make(api, *args, **kwargs)` makes."""


def _awaited(
    plan: Callable[Concatenate[A, P], Plan[T]],
) -> Callable[Concatenate[AsyncFace[A], P], Awaited[T]]:
    """The method that carries out a plan: its signature and documentation, its result to be awaited."""

    @wraps(plan)
    def call(self: AsyncFace[A], /, *args: P.args, **kwargs: P.kwargs) -> Awaited[T]:
        return self._run(plan, self._api, args, kwargs)

    return call


class AsyncClient(AsyncFace[Api]):
    """See `synchro.client.Client`, whose methods these are, to be awaited. Belongs to one event loop.

    What goes wrong is raised as a `SynchroError`; `OutcomeUnknown` is the only one after which a write may
    have been done.
    """

    def __init__(self, endpoints: Sequence[str], options: ClientOptions) -> None:
        plans = Plans(endpoints, options)
        self._api = Api(plans)
        self._runner = self._new_runner(plans)
        self._run = self._runner.run
        forks.clients.add(self)

    def _new_runner(self, plans: Plans) -> TaskRunner[Any]:
        forks.begin_aio()
        return AsyncRunner(plans, self)

    # --- life

    async def __aenter__(self) -> Self:
        await self._runner.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel streams and watches, close connections. Waiting writes raise `OutcomeUnknown`."""
        await self._runner.close("the client is closed; nothing was sent")
        forks.clients.discard(self)

    def become_inherited(self) -> list[Any]:
        """In the child of a fork; see `synchro.client.forks`."""
        self._api.plans.lock = threading.Lock()
        return self._runner.become_inherited()

    @property
    def is_quiet(self) -> bool:
        """True: its loop cannot go on while the process forks, so there is nothing to wait for."""
        return True

    @property
    def endpoints(self) -> list[str]:
        """Where instances are, as far as is known: the leader first."""
        return self._api.plans.routes.endpoints()

    # --- who leads

    leader = _awaited(Api.leader)
    most_informed = _awaited(Api.most_informed)
    endpoint_of = _awaited(Api.endpoint_of)

    # --- data

    execute = _awaited(Api.execute)
    select = _awaited(Api.select)
    field_names = _awaited(Api.field_names)

    def space(self, name: SpaceRef) -> AsyncSpace:
        """A space by name or id. Nothing is sent."""
        return AsyncSpace(self, name)

    @contextlib.asynccontextmanager
    async def transaction(self, **options: Unpack[WriteOptions]) -> AsyncIterator[Transaction]:
        """Collects operations and runs them as one transaction at the end; nothing is sent on an exception.

        options: as in `execute`. The result is `tx.result` afterwards.
        """
        check_options(options, WRITE_OPTIONS, "a transaction")
        transaction = Transaction()
        yield transaction
        if transaction.ops:
            transaction.result = await self.execute(transaction.ops, **options)

    @contextlib.asynccontextmanager
    async def begin(self, **options: Unpack[BeginOptions]) -> AsyncIterator[AsyncOpenTransaction]:
        """An open transaction: what it changes nobody else sees before it is committed, at the end of the
        block. An exception rolls it back.

        options: see `BeginOptions`. The result is `t.result` afterwards. Raises `TransactionConflict` if
        something that it read has changed: see `run_transaction`.
        """
        transaction = AsyncOpenTransaction(self, OpenTransactionApi(self._api, options))
        await transaction._begin()
        try:
            yield transaction
            await transaction._finish()
        finally:
            await transaction.rollback()

    async def run_transaction(
        self,
        work: Callable[[AsyncOpenTransaction], Awaitable[T]],
        *,
        within: float | None = None,
        **options: Unpack[BeginOptions],
    ) -> T:
        """`await work(t)` in an open transaction, which is committed then; returns what it returned. All of
        it is done again after a conflict, or when the leader changed.

        within: seconds for all tries; None: the client's. options: as in `begin`. Raises what `work` raises,
        the last conflict when time is over, and `OutcomeUnknown`, which is not tried again.
        """
        repeats = Repeats(self._api, within)
        while True:
            try:
                async with self.begin(**repeats.options(options)) as transaction:
                    made = await work(transaction)
            except SynchroError as error:
                await self._run(lambda _, error=error: repeats.after(error), None, (), {})
            else:
                return made

    async def bulk(
        self,
        space: SpaceRef,
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        *,
        on_progress: Callable[[int], None] | None = None,
        replace: bool = False,
        batch: int = BATCH_ROWS,
        timeout: float | None = None,
    ) -> int:
        """Insert rows in transactions of up to `batch` of them, a few at a time. Returns how many there were.

        on_progress: told how many are committed so far. replace: rows may be there already. timeout: seconds
        for each transaction. The first error ends it: no transaction is begun after that. Its details tell
        how many rows are committed (`bulk_done`) and which it is about (`bulk_first` to `bulk_last`, from 0).
        """
        bulk = Bulk(self._api, space, replace=replace, batch=batch, timeout=timeout, on_progress=on_progress)
        if isinstance(rows, AsyncIterable):
            async for row in rows:
                if bulk.add(row):
                    bulk.ended(await self._together(bulk.take()))
        else:
            for row in rows:
                if bulk.add(row):
                    bulk.ended(await self._together(bulk.take()))
        bulk.ended(await self._together(bulk.take(is_last=True)))
        return bulk.done

    async def _together(self, plans: Sequence[Plan[T]]) -> list[T | SynchroError]:
        return await self._runner.together([partial(self._outcome, plan) for plan in plans])

    async def _outcome(self, plan: Plan[T]) -> T | SynchroError:
        try:
            result: T = await self._run(lambda _: plan, None, (), {})
            return result
        except SynchroError as error:
            return error

    # --- outcome of a transaction

    wait_transaction = _awaited(Api.wait_transaction)
    wait_outcome = _awaited(Api.wait_outcome)

    # --- information

    @property
    def info(self) -> Awaited[Info]:
        """The tree of `box.info` of the instance that is read from: `(await db.info).synchro.queue.len`."""
        return self.get_info()

    get_info = _awaited(Api.get_info)
    wait_rw = _awaited(Api.wait_rw)
    wait_ro = _awaited(Api.wait_ro)
    wait_leader = _awaited(Api.wait_leader)
    list_queue = _awaited(Api.list_queue)
    list_instances = _awaited(Api.list_instances)

    def on_change(self, callback: Callable[[WatchState], None]) -> Callable[[], None]:
        """Call back with each change of leader, term, writability or queue.

        Returns what ends it; an exception of the callback ends it, too.
        """
        return self._runner.watch(self._api, callback)

    def watch_info(self, instance: str | None = None) -> AsyncIterator[WatchState]:
        """The state of one instance now and at each change. Ends when the connection does.

        instance: name, id or host:port; None: the first endpoint that answers.
        """
        return self._runner.changes(self._api.watch_place(instance), WATCH_INFO)

    def watch_transaction(
        self, txn: TxnId | str | bytes, timeout: float | None = None
    ) -> AsyncIterator[TxnState]:
        """How a transaction stands at the leader, and each change up to its end, or until the time is over.

        txn, timeout: as in `wait_transaction`. If the instance that tells it is lost it goes on at another
        one; what was told is not told again. Raises `CannotConnect` or `ConnectionLost` if nobody answers in
        time.
        """
        return self._runner.watch_transaction(self._api.transaction_watch(txn, timeout))

    # --- operators

    promote = _awaited(Api.promote)
    check_promote = _awaited(Api.check_promote)
    demote = _awaited(Api.demote)
    sync_wal = _awaited(Api.sync_wal)
    snapshot = _awaited(Api.snapshot)
    rebootstrap = _awaited(Api.rebootstrap)
    check_config = _awaited(Api.check_config)
    reload_config = _awaited(Api.reload_config)
    set_config = _awaited(Api.set_config)
    bootstrap = _awaited(Api.bootstrap)
    replica_gc = _awaited(Api.replica_gc)
    restart_upstream = _awaited(Api.restart_upstream)

    # --- schema

    spaces = _awaited(Api.spaces)
    create_space = _awaited(Api.create_space)
    alter_space = _awaited(Api.alter_space)
    truncate_space = _awaited(Api.truncate_space)
    drop_space = _awaited(Api.drop_space)
    create_index = _awaited(Api.create_index)
    drop_index = _awaited(Api.drop_index)
    checksum = _awaited(Api.checksum)
    create_sequence = _awaited(Api.create_sequence)
    alter_sequence = _awaited(Api.alter_sequence)
    drop_sequence = _awaited(Api.drop_sequence)
    next_value = _awaited(Api.next_value)
    set_sequence = _awaited(Api.set_sequence)
    sequences = _awaited(Api.sequences)
    once = _awaited(Api.once)

    @property
    def users(self) -> AsyncUsers:
        """Users and roles."""
        return AsyncUsers(self)


class AsyncUsers(AsyncFace[UserApi]):
    """See `synchro.client.Users`, whose methods these are, to be awaited."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._api = UserApi(client._api)
        self._run = client._run

    create = _awaited(UserApi.create)
    set_password = _awaited(UserApi.set_password)
    drop = _awaited(UserApi.drop)
    grant = _awaited(UserApi.grant)
    revoke = _awaited(UserApi.revoke)
    list = _awaited(UserApi.list)


class AsyncSpace(AsyncFace[SpaceApi]):
    """One space. Writes are transactions of one operation; options are those of `AsyncClient.execute`."""

    def __init__(self, client: AsyncClient, name: SpaceRef) -> None:
        self._client = client
        self._api = SpaceApi(client._api, name)
        self._run = client._run
        self.name = name

    def __repr__(self) -> str:
        return f"AsyncSpace({self.name!r})"

    insert = _awaited(SpaceApi.insert)
    replace = _awaited(SpaceApi.replace)
    update = _awaited(SpaceApi.update)
    upsert = _awaited(SpaceApi.upsert)
    delete = _awaited(SpaceApi.delete)
    get = _awaited(SpaceApi.get)
    select = _awaited(SpaceApi.select)
    count = _awaited(SpaceApi.count)

    async def iter(
        self,
        key: KeyLike = None,
        *,
        page: int = PAGE_ROWS,
        index: IndexRef = None,
        iterator: IteratorName | None = None,
        after: Sequence[Any] | None = None,
        read: ReadMode | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Tuple]:
        """Tuples one after another, of which only a page is held at a time; see `select`.

        page: tuples of one call, each page true at its own moment. timeout: seconds for each page.
        """
        if page < 1:
            raise IllegalParams(f"a page has one tuple at least, not {page}; nothing was read")
        while True:
            rows = await self.select(
                key, index=index, iterator=iterator, limit=page, after=after, read=read, timeout=timeout
            )
            for row in rows:
                yield row
            after = rows.after
            if after is None or not rows:
                return


class AsyncOpenTransaction(AsyncFace[OpenTransactionApi]):
    """See `AsyncClient.begin`. Its calls wait for one another: it belongs to one task."""

    def __init__(self, client: AsyncClient, api: OpenTransactionApi) -> None:
        self._client = client
        self._api = api
        self._run = client._run

    @property
    def result(self) -> Result | None:
        """What was committed; None before that."""
        return self._api.result

    @property
    def is_over(self) -> bool:
        return self._api.is_over

    @property
    def request_id(self) -> bytes:
        """By which `wait_transaction` knows it once it was committed."""
        return self._api.request_id

    def space(self, name: SpaceRef) -> AsyncSpaceOfTransaction:
        """A space by name or id, as this transaction sees it. Nothing is sent."""
        return AsyncSpaceOfTransaction(self._client, SpaceInTransaction(self._api, name))

    _begin = _awaited(OpenTransactionApi.begin)
    _finish = _awaited(OpenTransactionApi.finish)
    execute = _awaited(OpenTransactionApi.execute)
    commit = _awaited(OpenTransactionApi.commit)
    rollback = _awaited(OpenTransactionApi.rollback)


class AsyncSpaceOfTransaction(AsyncFace[SpaceInTransaction]):
    """See `synchro.client.SpaceOfTransaction`, whose methods these are, to be awaited."""

    def __init__(self, client: AsyncClient, api: SpaceInTransaction) -> None:
        self._api = api
        self._run = client._run
        self.name = api.name

    insert = _awaited(SpaceInTransaction.insert)
    replace = _awaited(SpaceInTransaction.replace)
    update = _awaited(SpaceInTransaction.update)
    upsert = _awaited(SpaceInTransaction.upsert)
    delete = _awaited(SpaceInTransaction.delete)
    get = _awaited(SpaceInTransaction.get)
    select = _awaited(SpaceInTransaction.select)
