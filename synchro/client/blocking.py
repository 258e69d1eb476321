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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Final, Generic, Literal, ParamSpec, Self, TypeVar, Unpack

from synchro.client import forks
from synchro.client.api import PAGE_ROWS, Api
from synchro.client.bulk import BATCH_ROWS, BATCHES_AT_ONCE, Bulk
from synchro.client.channel import ANSWER_S, PROBE_S, SILENT_S, open_channel, security_of
from synchro.client.errors import ClientClosed, ConnectionLost, OutcomeUnknown, is_silence, of_rpc_error
from synchro.client.login import login_of, no_login
from synchro.client.model import Info, Result, Tuple, TxnId, WatchState, state_of
from synchro.client.open_transaction import (
    BeginOptions,
    OpenTransactionApi,
    Repeats,
    SpaceInTransaction,
)
from synchro.client.ops import Transaction
from synchro.client.plans import (
    DEFAULT_TIMEOUT_S,
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
from synchro.client.routes import addresses_of, parse_uris
from synchro.client.space_api import SpaceApi
from synchro.client.thread_stream import ThreadStream, Waiter
from synchro.client.thread_talk import ThreadTalk
from synchro.client.user_api import UserApi
from synchro.client.watching import TransactionWatch
from synchro.errors import IllegalParams, SessionUnknown, SynchroError
from synchro.rpc.generated.v1 import (
    auth_pb2_grpc,
    cluster_pb2_grpc,
    control_pb2_grpc,
    data_pb2_grpc,
    info_pb2_grpc,
    schema_pb2_grpc,
)
from synchro.secret import Secret

import grpc  # isort: skip - after channel.py, which sets its environment

A = TypeVar("A", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")

WATCH_PAUSE_S: Final = 0.2
"""Before a broken watch is begun again."""


@atexit.register
def _close_all() -> None:
    # A live stream can keep the interpreter from leaving.
    for client in list(forks.clients):
        if isinstance(client, Client):
            client.close()


def connect(
    endpoints: str | Iterable[str],
    *,
    user: str | None = None,
    password: str | Secret | None = None,
    password_file: str | None = None,
    cacert: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    read_from: Literal["leader", "any"] = "leader",
    read_your_writes: bool = True,
    follow_leader: bool = True,
    wait_for_connection: bool = True,
) -> Client:
    """A client of one replica set. endpoints: any subset of the set, `host:port,...`.

    timeout: seconds for a call with all its retries, unless the call says otherwise. read_from: "leader", or
    "any" for the first endpoint that answers. Who says with its answer that it leads no more is not taken for
    the leader: the next one is asked. One that does not know yet answers with what it has; a linearizable
    read is never old. read_your_writes: a read elsewhere than on the leader
    waits until what this client wrote is decided there. follow_leader=False: ask only the endpoints given,
    in order, and do not go where a refusal points to. wait_for_connection=False: fail at once if all
    endpoints refuse to be connected.

    user, password, password_file: how it logs in, at each instance before its first call there; without them
    its calls are those of the user `guest`. An endpoint may say it too: `user:password@host:port`. A password
    is sent to another host only with TLS.

    cacert, cert, key: PEM files; with one of them the client speaks TLS only. cacert: the CAs that are
    believed; cert, key: what the client shows of itself.
    """
    uris = parse_uris(endpoints)
    options = ClientOptions(
        timeout,
        read_from,
        read_your_writes,
        follow_leader,
        wait_for_connection,
        security_of(cacert, cert, key, uris=uris),
        login_of(uris, user, password, password_file),
    )
    return Client(addresses_of(uris), options)


class BlockingRunner:
    """Carries out the plans of one client, each in the thread that calls. See `Client`."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans
        self._lock = threading.Lock()
        """Guards `_links` and `_probes`; never held while waiting."""
        self._links: dict[str, _Link] = {}
        self._probes: dict[Probe, _SharedProbe] = {}
        self.closed = ""
        """Why it is; "" while it is not."""

    def run(self, plan: Plan[T]) -> T:
        try:
            step = next(plan)
            while True:
                try:
                    answer = self._submit(step) if type(step) is Submit else self._carry_out(step)
                except SynchroError as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        except ValueError as error:  # gRPC: the channel was closed meanwhile
            if not self.closed:
                raise
            raise ClientClosed(self.closed) from error

    def _carry_out(self, step: Step) -> Any:
        match step:
            case Submit():
                return self._submit(step)
            case Unary():
                return self._unary(step)
            case LogIn():
                return self._log_in(step)
            case Probe():
                return self._probe(step)
            case Pause():
                time.sleep(step.seconds)
                return None
            case OpenTalk(endpoint, request, timeout_s):
                link = self.link(endpoint)
                with forks.gate:
                    talk = ThreadTalk(link.data, endpoint, self._plans.logins.metadata(endpoint))
                try:
                    return talk, talk.say(request, timeout_s)
                except BaseException:
                    talk.end()
                    raise
            case Say(talk, request, timeout_s):
                if self.closed:
                    raise ClientClosed(self.closed)
                return talk.say(request, timeout_s)
            case EndTalk(talk):
                if not self.closed:
                    talk.end()
                return None

    def close(self, why: str) -> None:
        with self._lock:
            self.closed = self.closed or why
            links, self._links = list(self._links.values()), {}
        for link in links:
            link.close()

    def become_inherited(self) -> list[Any]:
        """In the child of a fork: locks may be held by threads that are not here."""
        self.closed = forks.INHERITED
        self._lock = threading.Lock()
        links, self._links = list(self._links.values()), {}
        probes, self._probes = list(self._probes.values()), {}
        return [links, probes]

    def link(self, endpoint: str) -> _Link:
        with self._lock:
            if self.closed:
                raise ClientClosed(self.closed)
            link = self._links.get(endpoint)
        if link is not None:
            return link
        with forks.gate, self._lock:
            if self.closed:
                raise ClientClosed(self.closed)
            if endpoint not in self._links:
                self._links[endpoint] = _Link(endpoint, self._plans.options)
            return self._links[endpoint]

    # --- writes

    def streams(self) -> list[ThreadStream]:
        return [link.stream for link in list(self._links.values()) if link.stream is not None]

    def _submit(self, step: Submit) -> Message:
        stream = self._stream(step.endpoint)
        waiter = Waiter()
        forks.gate.pass_by()
        stream.submit(step.call, step.ops, waiter)
        first_s = min(SILENT_S, step.deadline - time.monotonic())
        if not waiter.wait(first_s) and not self._wait_longer(stream, waiter, step.deadline):
            stream.forget(waiter)
            raise ConnectionLost(f"no answer from {step.endpoint} in time", endpoint=step.endpoint)
        outcome = waiter.outcome
        if isinstance(outcome, SynchroError):
            raise outcome
        return outcome

    def _wait_longer(self, stream: ThreadStream, waiter: Waiter, deadline: float) -> bool:
        """Wait for the end of a call whose instance may be silent. False: time is over."""
        while (left_s := deadline - time.monotonic()) > 0:
            is_silent = stream.silent_s >= SILENT_S and self._plans.is_claimed()
            if is_silent and stream.is_asked.acquire(blocking=False):
                try:
                    self._ask_if_there(stream, min(left_s, ANSWER_S))
                finally:
                    stream.is_asked.release()
            if waiter.wait(min(deadline - time.monotonic(), SILENT_S)):
                return True
        return False

    def _ask_if_there(self, stream: ThreadStream, limit_s: float) -> None:
        """Give the stream up if its instance does not answer: what was sent on it may have been done."""
        endpoint = stream.endpoint
        told: queue.SimpleQueue[tuple[str, Message | SynchroError]] = queue.SimpleQueue()
        calls: list[Any] = []
        try:
            self._tell_answer(endpoint, limit_s, calls, told)
        finally:
            with forks.gate:
                for call in calls:
                    call.cancel()
        _, answer = told.get()
        if isinstance(answer, SynchroError) and is_silence(answer):
            words = f"{endpoint} is silent: no answer for {stream.silent_s:.1f} s"
            stream.give_up(ConnectionLost(words, endpoint=endpoint))
        else:
            stream.heard()

    def _stream(self, endpoint: str) -> ThreadStream:
        link = self.link(endpoint)
        stream = link.stream
        if stream is not None and not stream.is_broken:
            return stream
        with forks.gate, self._lock:
            if link.stream is None or link.stream.is_broken:
                timeout_s = self._plans.options.timeout
                link.stream = ThreadStream(
                    link.channel,
                    endpoint,
                    timeout_s=timeout_s,
                    on_replies=self._plans.on_replies,
                    session=self._plans.session,
                    metadata=self._plans.logins.metadata(endpoint),
                )
            return link.stream

    # --- other calls

    def _unary(self, step: Unary) -> Message:
        link = self.link(step.endpoint)
        try:
            with forks.gate:
                return getattr(getattr(link, step.service), step.method)(
                    step.request,
                    timeout=step.timeout_s,
                    metadata=self._plans.logins.metadata(step.endpoint),
                )
        except grpc.RpcError as error:
            raise of_rpc_error(error, step.endpoint) from None

    def _log_in(self, step: LogIn) -> None:
        lock = self.link(step.endpoint).login_lock
        rounds = self._plans.logins.at(step.endpoint).rounds
        if not lock.acquire(timeout=step.timeout_s):
            raise no_login(step.endpoint)
        try:
            self.run(self._plans.log_in(step, rounds))
        finally:
            lock.release()

    # --- who leads

    def _probe(self, probe: Probe) -> Answers:
        """Threads that ask the same at the same time share the answers."""
        with self._lock:
            shared = self._probes.get(probe)
            is_mine = shared is None
            if shared is None:
                shared = self._probes[probe] = _SharedProbe()
        if not is_mine:
            if shared.is_over.wait(probe.timeout_s) and shared.answers is not None:
                return shared.answers
            answers = Answers(probe, time.monotonic())
            answers.close()
            return answers
        try:
            shared.answers = self._ask(probe)
            return shared.answers
        finally:
            with self._lock:
                self._probes.pop(probe, None)
            shared.is_over.set()

    def _ask(self, probe: Probe) -> Answers:
        answers = Answers(probe, time.monotonic())
        told: queue.SimpleQueue[tuple[str, Message | SynchroError]] = queue.SimpleQueue()
        calls: list[Any] = []
        """Of threads that end behind us, too: what is begun late is over within the time of the probe."""
        for endpoint in probe.endpoints:
            self.link(endpoint)
        try:
            for endpoint in probe.endpoints:
                thread = threading.Thread(
                    target=self._tell_answer,
                    args=(endpoint, probe.timeout_s, calls, told),
                    name="synchro-probe",
                    daemon=True,
                )
                thread.start()
            while not answers.is_over:
                try:
                    endpoint, answer = told.get(timeout=max(0.0, answers.until - time.monotonic()))
                except queue.Empty:
                    break
                answers.add(endpoint, answer, time.monotonic())
        finally:
            with forks.gate:
                for call in list(calls):
                    call.cancel()
        answers.close()
        return answers

    def _tell_answer(
        self,
        endpoint: str,
        timeout_s: float,
        calls: list[Any],
        told: queue.SimpleQueue[tuple[str, Message | SynchroError]],
    ) -> None:
        try:
            answer = self._first_answer(endpoint, timeout_s, calls)
            if isinstance(answer, SessionUnknown):
                answer = self._first_answer(endpoint, timeout_s, calls)
        except SynchroError as error:
            answer = error
        except ValueError:  # gRPC: the channel was closed meanwhile
            answer = ClientClosed("the client is closed; nothing was sent")
        told.put((endpoint, answer))

    def _first_answer(self, endpoint: str, timeout_s: float, calls: list[Any]) -> Message | SynchroError:
        """What the instance says of itself now, in a session if it needs one."""
        logins = self._plans.logins
        if logins.is_needed(endpoint):
            self._log_in(LogIn(endpoint, timeout_s))
        token = logins.at(endpoint).token
        call = self.watch_info(endpoint, timeout_s)
        calls.append(call)
        try:
            forks.gate.pass_by()
            return next(iter(call))
        except StopIteration:
            return ConnectionLost(f"{endpoint} said nothing", endpoint=endpoint)
        except grpc.RpcError as error:
            failure = of_rpc_error(error, endpoint)
            if isinstance(failure, SessionUnknown):
                logins.forget(endpoint, token)
            return failure

    def watch_info(self, endpoint: str, timeout_s: float | None = None) -> Any:
        """A call of WatchInfo, to be iterated over and cancelled."""
        return self.stream(endpoint, WATCH_INFO, timeout_s)

    def stream(self, endpoint: str, changes: Changes[Any], timeout_s: float | None = None) -> Any:
        """A call that is answered by a stream, to be iterated over and cancelled."""
        stub = getattr(self.link(endpoint), changes.service)
        with forks.gate:
            return getattr(stub, changes.method)(
                changes.request,
                timeout=timeout_s,
                metadata=self._plans.logins.metadata(endpoint),
            )


class _SharedProbe:
    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.answers: Answers | None = None


class _Link:
    """A channel to one instance, its stubs, and its stream of writes."""

    def __init__(self, endpoint: str, options: ClientOptions) -> None:
        self.endpoint = endpoint
        self.channel = open_channel(grpc, endpoint, options.security)
        self.data = data_pb2_grpc.DataServiceStub(self.channel)
        self.info = info_pb2_grpc.InfoServiceStub(self.channel)
        self.schema = schema_pb2_grpc.SchemaServiceStub(self.channel)
        self.control = control_pb2_grpc.ControlServiceStub(self.channel)
        self.cluster = cluster_pb2_grpc.ClusterServiceStub(self.channel)
        self.auth = auth_pb2_grpc.AuthServiceStub(self.channel)
        self.stream: ThreadStream | None = None
        self.login_lock = threading.Lock()

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.channel.close()


class BlockingFace(Generic[A]):
    """What turns the plans of an `Api` into methods that wait for the result."""

    _api: A
    _client: Client

    def _run(self, plan: Plan[T]) -> T:
        try:
            return self._client._runner.run(plan)
        except OutcomeUnknown as unknown:
            unknown.bind(self._client)
            raise


def _blocking(plan: Callable[Concatenate[A, P], Plan[T]]) -> Callable[Concatenate[BlockingFace[A], P], T]:
    """The method that carries out a plan: its signature and documentation, its result."""

    @wraps(plan)
    def call(self: BlockingFace[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(plan(self._api, *args, **kwargs))

    return call


class Client(BlockingFace[Api]):
    """See `connect`. All methods may be called from any thread.

    What goes wrong is raised as a `SynchroError`; `OutcomeUnknown` is the only one after which a write may
    have been done.
    """

    def __init__(self, endpoints: Sequence[str], options: ClientOptions) -> None:
        forks.begin()
        plans = Plans(endpoints, options)
        self._client = self
        self._api = Api(plans, ask_names=self._ask_names)
        self._runner = BlockingRunner(plans)
        self._watches: list[_Watch] = []
        forks.clients.add(self)

    # --- life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel streams and watches, close connections. Waiting writes raise `OutcomeUnknown`."""
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.stop()
        self._runner.close("the client is closed; nothing was sent")
        forks.clients.discard(self)

    def become_inherited(self) -> list[Any]:
        """In the child of a fork; see `synchro.client.forks`."""
        watches, self._watches = self._watches, []
        self._api.plans.lock = threading.Lock()
        return [watches, *self._runner.become_inherited()]

    @property
    def is_quiet(self) -> bool:
        """Nothing that was sent waits for its answer."""
        return all(stream.is_quiet for stream in self._runner.streams())

    @property
    def endpoints(self) -> list[str]:
        """Where instances are, as far as is known: the leader first."""
        return self._api.plans.routes.endpoints()

    # --- who leads

    leader = _blocking(Api.leader)
    most_informed = _blocking(Api.most_informed)
    endpoint_of = _blocking(Api.endpoint_of)

    # --- data

    execute = _blocking(Api.execute)
    select = _blocking(Api.select)
    field_names = _blocking(Api.field_names)

    def _ask_names(self, space: SpaceRef) -> Sequence[str]:
        return self.field_names(space)

    def space(self, name: SpaceRef) -> Space:
        """A space by name or id. Nothing is sent."""
        return Space(self, name)

    @contextlib.contextmanager
    def transaction(self, **options: Unpack[WriteOptions]) -> Iterator[Transaction]:
        """Collects operations and runs them as one transaction at the end; nothing is sent on an exception.

        options: as in `execute`. The result is `tx.result` afterwards.
        """
        check_options(options, WRITE_OPTIONS, "a transaction")
        transaction = Transaction()
        yield transaction
        if transaction.ops:
            transaction.result = self.execute(transaction.ops, **options)

    @contextlib.contextmanager
    def begin(self, **options: Unpack[BeginOptions]) -> Iterator[OpenTransaction]:
        """An open transaction: what it changes nobody else sees before it is committed, at the end of the
        block. An exception rolls it back.

        options: see `BeginOptions`. The result is `t.result` afterwards. Raises `TransactionConflict` if
        something that it read has changed: see `run_transaction`.
        """
        transaction = OpenTransaction(self, OpenTransactionApi(self._api, options))
        transaction._begin()
        try:
            yield transaction
            transaction._finish()
        finally:
            transaction.rollback()

    def run_transaction(
        self,
        work: Callable[[OpenTransaction], T],
        *,
        within: float | None = None,
        **options: Unpack[BeginOptions],
    ) -> T:
        """`work(t)` in an open transaction, which is committed then; returns what it returned. All of it is
        done again after a conflict, or when the leader changed.

        within: seconds for all tries; None: the client's. options: as in `begin`. Raises what `work` raises,
        the last conflict when time is over, and `OutcomeUnknown`, which is not tried again.
        """
        repeats = Repeats(self._api, within)
        while True:
            try:
                with self.begin(**repeats.options(options)) as transaction:
                    made = work(transaction)
            except SynchroError as error:
                self._run(repeats.after(error))
            else:
                return made

    def bulk(
        self,
        space: SpaceRef,
        rows: Iterable[Sequence[Any]],
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
        with ThreadPoolExecutor(BATCHES_AT_ONCE, "synchro-bulk") as pool:
            for row in rows:
                if bulk.add(row):
                    bulk.ended(list(pool.map(self._outcome, bulk.take())))
            bulk.ended(list(pool.map(self._outcome, bulk.take(is_last=True))))
        return bulk.done

    def _outcome(self, plan: Plan[T]) -> T | SynchroError:
        try:
            return self._run(plan)
        except SynchroError as error:
            return error

    # --- outcome of a transaction

    wait_transaction = _blocking(Api.wait_transaction)
    wait_outcome = _blocking(Api.wait_outcome)

    # --- information

    @property
    def info(self) -> Info:
        """The tree of `box.info` of the instance that is read from: `db.info.synchro.queue.len`."""
        value = self.get_info()
        assert isinstance(value, Info)
        return value

    get_info = _blocking(Api.get_info)
    wait_rw = _blocking(Api.wait_rw)
    wait_ro = _blocking(Api.wait_ro)
    wait_leader = _blocking(Api.wait_leader)
    list_queue = _blocking(Api.list_queue)
    list_instances = _blocking(Api.list_instances)

    def on_change(self, callback: Callable[[WatchState], None]) -> Callable[[], None]:
        """Call back with each change of leader, term, writability or queue, from a thread of its own.

        Returns what ends it; an exception of the callback ends it, too.
        """
        watch = _Watch(self, callback)
        self._watches.append(watch)
        watch.start()
        return watch.stop

    def watch_info(self, instance: str | None = None) -> Iterator[WatchState]:
        """The state of one instance now and at each change. Ends when the connection does.

        instance: name, id or host:port; None: the first endpoint that answers.
        """
        return self._changes(self._api.watch_place(instance), WATCH_INFO)

    def watch_transaction(self, txn: TxnId | str | bytes, timeout: float | None = None) -> Iterator[TxnState]:
        """How a transaction stands at the leader, and each change up to its end, or until the time is over.

        txn, timeout: as in `wait_transaction`. If the instance that tells it is lost it goes on at another
        one; what was told is not told again. Raises `CannotConnect` or `ConnectionLost` if nobody answers in
        time.
        """
        return self._watched(self._api.transaction_watch(txn, timeout))

    def _watched(self, watch: TransactionWatch) -> Iterator[TxnState]:
        while not watch.is_over:
            place = self._run(watch.where())
            try:
                for state in self._changes_at(place, watch.changes()):
                    if state is not None:
                        yield state
            except SynchroError as error:
                self._run(watch.lost(error))
            else:
                self._run(watch.ended())
        if (last := watch.last_word()) is not None:
            yield last

    def _changes(self, where: Plan[str], changes: Changes[T]) -> Iterator[T]:
        place = self._run(self._api.plans.place_with_session(where))
        yield from self._changes_at(place, changes)

    def _changes_at(self, place: str, changes: Changes[T]) -> Iterator[T]:
        call = self._runner.stream(place, changes, changes.timeout_s)
        try:
            for message in call:
                self._api.plans.on_header(message.header, place)
                yield changes.value(message)
        except grpc.RpcError as error:
            raise of_rpc_error(error, place) from None
        finally:
            call.cancel()

    # --- operators

    promote = _blocking(Api.promote)
    check_promote = _blocking(Api.check_promote)
    demote = _blocking(Api.demote)
    sync_wal = _blocking(Api.sync_wal)
    snapshot = _blocking(Api.snapshot)
    rebootstrap = _blocking(Api.rebootstrap)
    check_config = _blocking(Api.check_config)
    reload_config = _blocking(Api.reload_config)
    set_config = _blocking(Api.set_config)
    bootstrap = _blocking(Api.bootstrap)
    replica_gc = _blocking(Api.replica_gc)
    restart_upstream = _blocking(Api.restart_upstream)

    # --- schema

    spaces = _blocking(Api.spaces)
    create_space = _blocking(Api.create_space)
    alter_space = _blocking(Api.alter_space)
    truncate_space = _blocking(Api.truncate_space)
    drop_space = _blocking(Api.drop_space)
    create_index = _blocking(Api.create_index)
    drop_index = _blocking(Api.drop_index)
    checksum = _blocking(Api.checksum)
    create_sequence = _blocking(Api.create_sequence)
    alter_sequence = _blocking(Api.alter_sequence)
    drop_sequence = _blocking(Api.drop_sequence)
    next_value = _blocking(Api.next_value)
    set_sequence = _blocking(Api.set_sequence)
    sequences = _blocking(Api.sequences)
    once = _blocking(Api.once)

    @property
    def users(self) -> Users:
        """Users and roles."""
        return Users(self)


class Users(BlockingFace[UserApi]):
    """Users and roles of the set, and what they may do."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._api = UserApi(client._api)

    create = _blocking(UserApi.create)
    set_password = _blocking(UserApi.set_password)
    drop = _blocking(UserApi.drop)
    grant = _blocking(UserApi.grant)
    revoke = _blocking(UserApi.revoke)
    list = _blocking(UserApi.list)


class Space(BlockingFace[SpaceApi]):
    """One space. Writes are transactions of one operation; options are those of `Client.execute`."""

    def __init__(self, client: Client, name: SpaceRef) -> None:
        self._client = client
        self._api = SpaceApi(client._api, name)
        self.name = name

    def __repr__(self) -> str:
        return f"Space({self.name!r})"

    insert = _blocking(SpaceApi.insert)
    replace = _blocking(SpaceApi.replace)
    update = _blocking(SpaceApi.update)
    upsert = _blocking(SpaceApi.upsert)
    delete = _blocking(SpaceApi.delete)
    get = _blocking(SpaceApi.get)
    select = _blocking(SpaceApi.select)
    count = _blocking(SpaceApi.count)

    def iter(
        self,
        key: KeyLike = None,
        *,
        page: int = PAGE_ROWS,
        index: IndexRef = None,
        iterator: IteratorName | None = None,
        after: Sequence[Any] | None = None,
        read: ReadMode | None = None,
        timeout: float | None = None,
    ) -> Iterator[Tuple]:
        """Tuples one after another, of which only a page is held at a time; see `select`.

        page: tuples of one call, each page true at its own moment. timeout: seconds for each page.
        """
        if page < 1:
            raise IllegalParams(f"a page has one tuple at least, not {page}; nothing was read")
        while True:
            rows = self.select(
                key, index=index, iterator=iterator, limit=page, after=after, read=read, timeout=timeout
            )
            yield from rows
            after = rows.after
            if after is None or not rows:
                return


class OpenTransaction(BlockingFace[OpenTransactionApi]):
    """See `Client.begin`. Its calls wait for one another: it belongs to one thread."""

    def __init__(self, client: Client, api: OpenTransactionApi) -> None:
        self._client = client
        self._api = api

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

    def space(self, name: SpaceRef) -> SpaceOfTransaction:
        """A space by name or id, as this transaction sees it. Nothing is sent."""
        return SpaceOfTransaction(self._client, SpaceInTransaction(self._api, name))

    _begin = _blocking(OpenTransactionApi.begin)
    _finish = _blocking(OpenTransactionApi.finish)
    execute = _blocking(OpenTransactionApi.execute)
    commit = _blocking(OpenTransactionApi.commit)
    rollback = _blocking(OpenTransactionApi.rollback)


class SpaceOfTransaction(BlockingFace[SpaceInTransaction]):
    """One space, as an open transaction sees it, with its own changes."""

    def __init__(self, client: Client, api: SpaceInTransaction) -> None:
        self._client = client
        self._api = api
        self.name = api.name

    insert = _blocking(SpaceInTransaction.insert)
    replace = _blocking(SpaceInTransaction.replace)
    update = _blocking(SpaceInTransaction.update)
    upsert = _blocking(SpaceInTransaction.upsert)
    delete = _blocking(SpaceInTransaction.delete)
    get = _blocking(SpaceInTransaction.get)
    select = _blocking(SpaceInTransaction.select)


class _Watch:
    """A thread that follows WatchInfo of whoever answers."""

    def __init__(self, client: Client, callback: Callable[[WatchState], None]) -> None:
        self._client = client
        self._callback = callback
        self._stopping = threading.Event()
        self._call: Any = None
        self._failure: Exception | None = None
        """What the callback raised."""
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
                self._follow(self._client.most_informed(timeout=PROBE_S))
            if self._failure is not None:
                raise self._failure
            self._stopping.wait(WATCH_PAUSE_S)

    def _follow(self, endpoint: str) -> None:
        self._call = self._client._runner.watch_info(endpoint)
        plans = self._client._api.plans
        try:
            for message in self._call:
                if self._stopping.is_set():
                    return
                plans.on_header(message.header, endpoint)
                try:
                    self._callback(state_of(message))
                except Exception as error:  # noqa: BLE001 - raised by `_run`: it is none of the connection
                    self._failure = error
                    return
                forks.gate.pass_by()
        finally:
            self._call.cancel()
            with plans.lock:
                plans.routes.failed(endpoint)
