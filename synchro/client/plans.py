"""Where a call goes, what is repeated, and when its outcome is unknown: plans, which do no I/O.

A plan is a generator of steps. Whoever runs it (a thread, an asyncio task) carries out each step, and sends
back what came of it or throws the `SynchroError` that it ended with; the plan returns the result of the call.
Between two steps a plan neither waits nor calls anybody, so all clients decide alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from copy import copy
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypedDict, TypeVar

from synchro.client import encoding, requests
from synchro.client.channel import MESSAGE_BYTES_MAX, PROBE_S
from synchro.client.errors import CannotConnect, ConnectionLost, is_silence, is_tls
from synchro.client.login import LOGIN_S, REFUSALS, Login, Sessions
from synchro.client.model import state_of
from synchro.client.requests import Message, WaitMode, check_timeout
from synchro.client.retry import GRACE_S, SLOW_START_S, Tries, kind_of
from synchro.client.routes import Routes, parse_endpoints
from synchro.client.session import Session
from synchro.errors import BatchTooLarge, IllegalParams, NoLeader, Retry, SessionUnknown, SynchroError
from synchro.row import new_tuple
from synchro.rpc.generated.v1 import cluster_pb2, info_pb2, schema_pb2

if TYPE_CHECKING:
    from synchro.client.secure import Security

T = TypeVar("T")
DEFAULT_TIMEOUT_S: Final = 5.0
SETTLE_S: Final = 0.1
"""After one instance said that it leads, so long others may still say that they lead in a newer term."""
PROBE_AGAIN_S: Final = 0.3
"""How long a probe takes at most while a leader is waited for: the next one sees who was elected since."""
SIDE_CALL_S: Final = 1.0
"""Of questions whose answer helps, but is not needed."""
ENVELOPE_BYTES: Final = 64
"""What a frame adds to its only call: the seq, lengths, the options of the frame."""
TIME_LEFT_MIN_S: Final = 0.05
SYSTEM_ID_MAX: Final = 511
"""Ids of system spaces end here."""


# --- steps ----------------------------------------------------------------------------------------------


class Unary(NamedTuple):
    """Make this call. Sent back: its reply. timeout_s: seconds."""

    endpoint: str
    service: str
    method: str
    request: Message
    timeout_s: float


class LogIn(NamedTuple):
    """Get a session of this instance into `Plans.logins`, in one login for all who want it at the same time.
    Sent back: None. timeout_s: seconds."""

    endpoint: str
    timeout_s: float


class Submit(NamedTuple):
    """Send a call (`encoding.call`) of `ops` operations on the stream to an instance; sent back: an
    ExecuteReply.

    deadline: monotonic seconds, after which `ConnectionLost` is thrown.
    """

    endpoint: str
    call: bytes
    ops: int
    deadline: float


class Probe(NamedTuple):
    """Ask all of these at once who leads. Sent back: `Answers`. Nothing is thrown because nobody answers.

    timeout_s: seconds. wants: which answers are enough.
    """

    endpoints: tuple[str, ...]
    timeout_s: float
    wants: Wants


class Pause(NamedTuple):
    """Do nothing for so many seconds. Sent back: None."""

    seconds: float


class OpenTalk(NamedTuple):
    """Open a transaction: a call of Transact, with this first request. Sent back: the talk, and the answer.
    timeout_s: seconds until `ConnectionLost` is thrown."""

    endpoint: str
    request: Message
    timeout_s: float


class Say(NamedTuple):
    """The next request of a talk. Sent back: its answer. timeout_s: as in `OpenTalk`; it is over then."""

    talk: Any
    request: Message
    timeout_s: float


class EndTalk(NamedTuple):
    """Nothing more is said: what was not committed never is. Sent back: None."""

    talk: Any


Step: TypeAlias = Unary | LogIn | Submit | Probe | Pause | OpenTalk | Say | EndTalk
Plan: TypeAlias = Generator[Step, Any, T]
"""A call as steps; its result is of type T."""


@dataclass(frozen=True, slots=True)
class Changes(Generic[T]):
    """A call that is answered by a stream. value: what a program is told of a reply. timeout_s: seconds;
    None: until the program has enough."""

    service: str
    method: str
    request: Message
    value: Callable[[Message], T]
    timeout_s: float | None = None


WATCH_INFO: Final = Changes("info", "WatchInfo", info_pb2.WatchInfoRequest(), state_of)


class Wants(Enum):
    LEADER = auto()
    """Somebody who says that it leads, and what others have to say against it soon after."""
    FIRST = auto()
    """The first of the endpoints, in their order, that answers at all."""


class Answers:
    """What instances said to a `Probe`: filled by whoever carries it out, until it `is_over`."""

    def __init__(self, probe: Probe, now: float) -> None:
        self.probe = probe
        self.found: dict[str, Message] = {}
        """Endpoint -> WatchInfoResponse."""
        self.failed: dict[str, SynchroError] = {}
        self.until = now + probe.timeout_s
        """Monotonic seconds."""

    def add(self, endpoint: str, answer: Message | SynchroError, now: float) -> None:
        if isinstance(answer, SynchroError):
            self.failed[endpoint] = answer
            return
        self.found[endpoint] = answer
        if self.probe.wants is Wants.LEADER and answer.is_writable:
            self.until = min(self.until, now + SETTLE_S)

    @property
    def is_over(self) -> bool:
        if len(self.found) + len(self.failed) == len(self.probe.endpoints):
            return True
        return self.probe.wants is Wants.FIRST and self.first is not None

    @property
    def first(self) -> str | None:
        """The first endpoint that answered, once all before it are known to have failed."""
        for endpoint in self.probe.endpoints:
            if endpoint not in self.failed:
                return endpoint if endpoint in self.found else None
        return None

    def close(self) -> None:
        """Time is over: who did not answer is silent."""
        for endpoint in self.probe.endpoints:
            if endpoint not in self.found and endpoint not in self.failed:
                self.failed[endpoint] = ConnectionLost(
                    f"no answer from {endpoint} in time", endpoint=endpoint
                )


def nobody(answers: Answers) -> SynchroError:
    """Nobody answered: nothing was sent to anybody. details: silent, if some may just be slow."""
    failed = answers.failed
    if refused := next((error for error in failed.values() if isinstance(error, REFUSALS)), None):
        return copy(refused)
    details: dict[str, str] = {}
    if any(is_silence(error) for error in failed.values()):
        details["silent"] = ",".join(e for e, error in failed.items() if is_silence(error))
    if failed and all(is_tls(error) for error in failed.values()):
        details["tls"] = "yes"
    if len(failed) == 1:
        ((endpoint, error),) = failed.items()
        return CannotConnect(error.message, endpoint=endpoint, **details)
    why = "; ".join(f"{endpoint}: {_end_of(error)}" for endpoint, error in failed.items())
    return CannotConnect(f"no instance answers: {why}", endpoints=",".join(failed), **details)


def _end_of(error: SynchroError) -> str:
    return "no answer in time" if isinstance(error, ConnectionLost) else error.message.rpartition(": ")[2]


def refuse_too_large(size: int, what: str) -> None:
    """Raises `BatchTooLarge` for what no instance would read: nothing was sent."""
    limit = MESSAGE_BYTES_MAX - ENVELOPE_BYTES
    if size > limit:
        raise BatchTooLarge(
            f"{what} of {size} bytes is over the {limit} bytes that fit into a message; nothing was sent",
            limit=limit,
            got=size,
        )


class WriteOptions(TypedDict, total=False):
    """How a transaction is done.

    wait: "complete" (default) when it is decided, "submit" when it is on the leader's disk and in the queue,
    "none" at once. timeout: seconds, with all repetitions. expected_term: refuse unless this is the election
    term; 0: any. omit_tuples: do not send tuples back. request_id: 16 bytes that name this transaction; one
    with the same name that was done already is not done again. is_sync: it waits for a quorum, whatever
    spaces it changes.
    """

    wait: WaitMode
    timeout: float | None
    expected_term: int
    omit_tuples: bool
    request_id: bytes | None
    is_sync: bool


WRITE_OPTIONS: Final = frozenset(WriteOptions.__annotations__)


# --- plans ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a client behaves; see `synchro.connect`. timeout: seconds."""

    timeout: float = DEFAULT_TIMEOUT_S
    read_from: Literal["leader", "any"] = "leader"
    read_your_writes: bool = True
    follow_leader: bool = True
    wait_for_connection: bool = True
    security: Security | None = None
    """TLS; None: plain TCP."""
    login: Login | None = None
    """None: as guest."""

    def __post_init__(self) -> None:
        if self.read_from not in ("leader", "any"):
            raise IllegalParams(f"read_from is leader or any, not {self.read_from!r}")
        check_timeout(self.timeout)


class Plans:
    """What the calls of one client have in common. Its plans may run at the same time, in several threads.

    now: monotonic seconds.
    """

    def __init__(
        self, endpoints: Sequence[str], options: ClientOptions, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.options = options
        self.now = now
        self.routes = Routes(endpoints)
        self.session = Session()
        self.logins = Sessions(options.login, is_encrypted=options.security is not None)
        self.lock = threading.Lock()
        """Guards routes and session; held between two steps only."""
        self._members_known = False
        self._quorum = 0

    def deadline(self, timeout: float | None) -> float:
        return self.now() + self.timeout_s(timeout)

    def timeout_s(self, timeout: float | None) -> float:
        """Seconds that a call may take: its own, or the client's."""
        return self.options.timeout if timeout is None else check_timeout(timeout)

    def on_header(self, header: Message, endpoint: str) -> None:
        """Take in what a reply says of its instance."""
        with self.lock:
            self.routes.learn(header, endpoint)
            self.session.see(header)

    def on_replies(self, response: Message, endpoint: str) -> None:
        """Take in an ExecuteStreamResponse: its header, and what this client wrote."""
        session = self.session
        with self.lock:
            self.routes.learn(response.header, endpoint)
            session.see(response.header)
            for part in response.committed:
                session.wrote_txn(part.txn_origin, part.first_lsn + part.count - 1)
            for result in response.results:
                reply = result.reply
                if reply.txn_origin:
                    session.wrote_txn(reply.txn_origin, reply.txn_lsn)

    def left_s(self, deadline: float) -> float:
        return max(TIME_LEFT_MIN_S, deadline - self.now())

    # --- where

    def ask(
        self, endpoints: Sequence[str], deadline: float, wants: Wants, probe_s: float = PROBE_S
    ) -> Plan[Answers]:
        """Who answers. Raises `CannotConnect` if nobody does, or what is said of who calls (`REFUSALS`)."""
        if any(map(self.logins.is_needed, endpoints)):
            probe_s += LOGIN_S
        answers: Answers = yield Probe(tuple(endpoints), min(probe_s, self.left_s(deadline)), wants)
        if not answers.found:
            raise nobody(answers)
        with self.lock:
            for endpoint, answer in answers.found.items():
                self.routes.learn(answer.header, endpoint)
                self.session.see(answer.header)
        return answers

    def write_place(self, tries: Tries) -> Plan[str]:
        """Who leads. Raises `NoLeader` while an election is under way, or cannot be."""
        if not self.options.follow_leader:
            return (yield from self.first_place(tries))
        if (leader := self.routes.leader) is not None:
            return leader
        answers, place = yield from self._look_around(tries)
        if (leader := self.routes.leader) is not None:
            return leader
        if answers.found[place].ro_reason != "election":
            return place  # it refuses, and says why better than we could
        if not self._quorum or not tries.is_again:
            yield from self._learn_quorum(place, tries.deadline)
        raise NoLeader(self._why_nobody_leads(answers))

    def informed_place(self, tries: Tries) -> Plan[str]:
        """Who leads; while nobody does, whoever knows most."""
        if not self.options.follow_leader:
            return (yield from self.first_place(tries))
        if (leader := self.routes.leader) is not None:
            return leader
        _, place = yield from self._look_around(tries)
        return self.routes.leader or place

    def _look_around(self, tries: Tries) -> Plan[tuple[Answers, str]]:
        """Ask everybody, and choose: a leader is known afterwards, or else the place is who knows most."""
        probe_s = PROBE_AGAIN_S if tries.is_answered else PROBE_S
        endpoints = self.routes.endpoints()
        answers = yield from self.ask(endpoints, tries.deadline, Wants.LEADER, probe_s)
        tries.is_answered = True
        with self.lock:
            place = self.routes.choose(list(answers.found.items()), answers.failed)
        if not self._members_known:
            yield from self.learn_members(next(iter(answers.found)), tries.deadline)
        return answers, place

    def first_place(self, tries: Tries) -> Plan[str]:
        """The first endpoint that answers: those given, then, if we may follow hints, those learned. The one
        of before, if that did not fail since, or may have done what is asked for."""
        known = self.session.good_endpoint
        if known is not None and not (tries.is_again and tries.unknown_at is None):
            return known
        endpoints = self.routes.in_order() if self.options.follow_leader else list(self.routes.seeds)
        answers = yield from self.ask(endpoints, tries.deadline, Wants.FIRST)
        place = next(endpoint for endpoint in endpoints if endpoint in answers.found)
        with self.lock:
            self.session.good_endpoint = place
            self.routes.queue_owner = answers.found[place].queue_owner
        return place

    def read_place(self, tries: Tries) -> Plan[str]:
        if self.options.read_from == "leader":
            return (yield from self.informed_place(tries))
        return (yield from self.first_place(tries))

    def place_of(self, instance: str, deadline: float) -> Plan[str]:
        """host:port of an instance given by name, id or host:port. Raises `IllegalParams`."""
        if ":" in instance:
            return parse_endpoints(instance)[0]
        found = self.routes.named(instance)
        if found is None:
            answers = yield from self.ask(self.routes.endpoints(), deadline, Wants.LEADER)
            with self.lock:
                self.routes.choose(list(answers.found.items()), answers.failed)
            for endpoint in answers.found:
                yield from self.learn_members(endpoint, deadline)
                found = self.routes.named(instance)
                if found is not None:
                    break
        if found is None:
            raise IllegalParams(f"no instance {instance!r} is known here. Next: synchro member list")
        return found

    def learn_members(self, endpoint: str, deadline: float) -> Plan[None]:
        was_known, self._members_known = self._members_known, True
        request = cluster_pb2.ListInstancesRequest()
        limit_s = min(SIDE_CALL_S, self.left_s(deadline))
        try:
            reply = yield from self.unary(endpoint, "cluster", "ListInstances", request, limit_s)
        except SynchroError:
            self._members_known = was_known
            return  # it may be loading; what was given is enough for now
        with self.lock:
            for member in reply.instances:
                self.routes.learn_member(member)

    def _learn_quorum(self, endpoint: str, deadline: float) -> Plan[None]:
        request = info_pb2.GetSynchroRequest()
        limit_s = min(SIDE_CALL_S, self.left_s(deadline))
        try:
            reply = yield from self.unary(endpoint, "info", "GetSynchro", request, limit_s)
        except SynchroError:
            return
        self._quorum = reply.quorum

    def _why_nobody_leads(self, answers: Answers) -> str:
        name, endpoint = self.routes.last_leader
        error = answers.failed.get(endpoint)
        if not name:
            words = "no leader is known"
        elif endpoint in answers.found:
            words = f"last leader {name} leads no more"
        elif error is not None and is_silence(error):
            words = f"last leader {name} does not answer"
        else:
            words = f"last leader {name} is down"
        if not self._quorum:
            return words
        count = len(answers.found)
        if count > self._quorum:
            return f"{words}, {count} instances up, {self._quorum} needed"
        return f"{words}, {count} of {self._quorum} needed instances up"

    # --- what is repeated

    def unary(
        self, endpoint: str, service: str, method: str, request: Message, timeout_s: float
    ) -> Plan[Message]:
        """One call, once: again only with a new session, if the instance did not look at it without one.
        Raises `BatchTooLarge` before anything is sent."""
        refuse_too_large(request.ByteSize(), "a request")
        if service == "auth" and getattr(request, "password", None):
            self.logins.refuse_open(endpoint)
        reply = yield from self.with_session(
            endpoint, Unary(endpoint, service, method, request, timeout_s), timeout_s
        )
        self.on_header(reply.header, endpoint)
        return reply

    def with_session(self, endpoint: str, step: Unary | Submit | OpenTalk, timeout_s: float) -> Plan[Any]:
        """Log in if that is needed, then the step; once more with a new session, if the former one is not
        known there any more: that refusal says that nothing was done."""
        logins = self.logins
        if logins.login is None:
            return (yield step)
        if logins.is_needed(endpoint):
            yield LogIn(endpoint, timeout_s)
        token = logins.at(endpoint).token
        try:
            return (yield step)
        except SessionUnknown:
            logins.forget(endpoint, token)
        if logins.is_needed(endpoint):
            yield LogIn(endpoint, timeout_s)
        return (yield step)

    def place_with_session(self, where: Plan[str]) -> Plan[str]:
        """The place, for a watch; with a session that is known there, if this client logs in."""
        place = yield from where
        if self.logins.login is not None:
            request = info_pb2.GetInfoRequest(paths=["status"])
            yield from self.unary(place, "info", "GetInfo", request, self.options.timeout)
        return place

    def log_in(self, step: LogIn, rounds: int) -> Plan[None]:
        """Carry out this step, one at a time for an endpoint. rounds: of its session when it was asked for:
        who logged in since did it for us, and failed for us."""
        session = self.logins.at(step.endpoint)
        if session.rounds == rounds:
            try:
                request = self.logins.request(step.endpoint)
                reply = yield Unary(step.endpoint, "auth", "Login", request, step.timeout_s)
            except SynchroError as error:
                session.failed(error)
            else:
                session.succeeded(reply.session)
                self.on_header(reply.header, step.endpoint)
        if session.error is not None:
            raise copy(session.error)

    def repeat(
        self, tries: Tries, where: Callable[[Tries], Plan[str]], attempt: Callable[[str], Plan[T]]
    ) -> Plan[T]:
        """`attempt(endpoint)` until it succeeds, may not be repeated, or time is over."""
        while True:
            endpoint = ""
            try:
                endpoint = yield from where(tries)
                return (yield from attempt(endpoint))
            except SynchroError as error:
                yield from self.after_failure(tries, error, endpoint)

    def after_failure(self, tries: Tries, error: SynchroError, endpoint: str) -> Plan[None]:
        """Wait until the next try. endpoint: "" if there was nowhere to go, so that nothing was sent. Raises
        what the caller is to get."""
        if not endpoint and isinstance(error, ConnectionLost):
            error = CannotConnect(error.message, **{"silent": "yes", **error.details})
        kind = kind_of(error)
        redirected = self.learn_of_failure(error, endpoint)
        with self.lock:
            claimed = self.session.position is not None or bool(self.routes.queue_owner)
        if self._is_final(error, kind, endpoint, tries):
            raise error
        delay = tries.failed(error, endpoint, self.now(), redirected=redirected, claimed=claimed)
        if delay:
            yield Pause(delay)

    def is_claimed(self) -> bool:
        """Whether the queue has or had an owner, as far as is known. If not, as with masters, nobody else can
        tell what became of a call, and so nobody is left for being silent."""
        with self.lock:
            position = self.session.position
            return bool(self.routes.queue_owner) or (position is not None and position.term > 0)

    def is_owned(self) -> bool:
        """Whether the queue has an owner, as heard last: changes of system spaces go through it then, and are
        known on all instances [D-24]."""
        with self.lock:
            return self.routes.queue_owner != 0

    def learn_of_failure(self, error: SynchroError, endpoint: str) -> bool:
        """Whether it names a new place to go to."""
        kind = kind_of(error)
        with self.lock:
            if kind is Retry.ELSEWHERE and self.options.follow_leader:
                return self.routes.redirect(endpoint, error)
            if kind in (Retry.LOST, Retry.LATER, Retry.ELSEWHERE):
                self.routes.failed(endpoint)
            return False

    def not_yet(self, tries: Tries, endpoint: str) -> Plan[bool]:
        """Wait until what this one cannot tell yet is asked again, of whoever leads then. False: time is
        over."""
        with self.lock:
            self.routes.failed(endpoint)
        delay = tries.again(self.now())
        if delay is None:
            return False
        yield Pause(delay)
        return True

    def _is_final(self, error: SynchroError, kind: Retry, endpoint: str, tries: Tries) -> bool:
        """What the options of this client forbid to try again."""
        if kind is not Retry.ELSEWHERE or tries.unknown_at is not None:
            return False
        if isinstance(error, CannotConnect):
            is_only_place = not endpoint or tries.is_bound
            gives_up = not self.options.wait_for_connection and not tries.is_begun
            return is_only_place and gives_up and not is_silence(error)
        return not self.options.follow_leader

    def read(
        self,
        service: str,
        method: str,
        request: Message,
        instance: str | None = None,
        timeout: float | None = None,
    ) -> Plan[Message]:
        """A call that changes nothing, at one instance, or where reads of this client go."""
        tries = Tries(self.deadline(timeout), is_read=True)

        def attempt(endpoint: str) -> Plan[Message]:
            return self.unary(endpoint, service, method, request, self.left_s(tries.deadline))

        return (yield from self.repeat(tries, self.at(instance, tries) or self.read_place, attempt))

    def at(self, instance: str | None, tries: Tries) -> Callable[[Tries], Plan[str]] | None:
        """The place of a call that only this instance can answer; None if none is named."""
        if instance is None:
            return None
        tries.is_bound = True
        return lambda tries: self.place_of(instance, tries.deadline)

    def command(
        self, where: Callable[[Tries], Plan[str]], method: str, request: Message, limit_s: float
    ) -> Plan[Message]:
        """A call for operators. It is repeated only as long as it did not reach anybody."""
        tries = Tries(self.now() + limit_s)
        while True:
            endpoint = ""
            try:
                endpoint = yield from where(tries)
                left_s = self.left_s(tries.deadline)
                return (yield from self.unary(endpoint, "control", method, request, left_s))
            except SynchroError as error:
                if endpoint and not isinstance(error, CannotConnect):
                    raise
                self.session.good_endpoint = None
                yield from self.after_failure(tries, error, endpoint)

    # --- writes

    def change(
        self, method: str, request: Message, timeout: float | None, *, service: str = "schema"
    ) -> Plan[Message]:
        """A change of the schema, or of users: a write like any other, in a call of its own."""
        request.request_id = requests.new_request_id()
        tries = Tries(self.deadline(timeout), request.request_id)

        def where(tries: Tries) -> Plan[str]:
            place = yield from self.write_place(tries)
            lost_at = tries.unknown_at
            return place if lost_at is None or self.is_owned() else lost_at

        def attempt(endpoint: str) -> Plan[Message]:
            if tries.is_first_sent and self.session.position is not None:
                request.known_position.CopyFrom(self.session.position)
            left_s = self.left_s(tries.deadline)
            request.timeout.CopyFrom(requests.duration(left_s))
            reply = yield from self.unary(endpoint, service, method, request, left_s + GRACE_S)
            with self.lock:
                self.session.wrote(reply)
            return reply

        return (yield from self.repeat(tries, where, attempt))

    def write(
        self,
        ops: bytes,
        count: int,
        modes: WriteOptions,
        finish: Callable[[Message, str], T],
    ) -> Plan[T]:
        """A transaction of `count` encoded operations. finish: makes the result of an ExecuteReply and the
        endpoint that it came from."""
        if not WRITE_OPTIONS.issuperset(modes):
            requests.check_options(modes, WRITE_OPTIONS, "a write")
        if modes.get("is_sync"):
            ops, count = encoding.SYNCHRONOUS + ops, count + 1
        timeout = modes.get("timeout")
        timeout_s = self.timeout_s(timeout)
        deadline = self.now() + timeout_s
        request_id = modes.get("request_id") or requests.new_request_id()
        position = self.session.position
        options = encoding.options(
            modes.get("wait", "complete"),
            timeout,
            modes.get("expected_term", 0),
            modes.get("omit_tuples", False),
        )
        call = encoding.call(request_id, b"", ops, options)
        if len(call) > encoding.CALL_BYTES_SURE:
            refuse_too_large(len(call), "a transaction")
        # The way of nearly all calls: the leader is known, and does it.
        endpoint = self.routes.leader
        tries: Tries | None = None
        if endpoint is not None and self.options.follow_leader:
            submit = new_tuple(Submit, (endpoint, call, count, deadline + GRACE_S))
            try:
                if self.options.login is None:
                    reply = yield submit
                else:
                    reply = yield from self.with_session(endpoint, submit, timeout_s)
            except SynchroError as error:
                tries = Tries(deadline, request_id)
                yield from self.after_failure(tries, error, endpoint)
            else:
                return finish(reply, endpoint)
        if tries is None:
            tries = Tries(deadline, request_id)
        reply, endpoint = yield from self._write(ops, count, modes, position, tries)
        return finish(reply, endpoint)

    def _write(
        self,
        ops: bytes,
        count: int,
        modes: WriteOptions,
        position: Message | None,
        tries: Tries,
    ) -> Plan[tuple[Message, str]]:
        timeout_s = modes.get("timeout")
        whole_s = self.options.timeout if timeout_s is None else timeout_s

        def where(tries: Tries) -> Plan[str]:
            place = yield from self.write_place(tries)
            lost_at = tries.unknown_at
            if lost_at is None or lost_at == place:
                return place
            # What may have been done there is known elsewhere only if it went through the queue. Otherwise it
            # may come back with that instance, and would have been done twice.
            is_sync = yield from self._is_synchronous(ops, place, tries.deadline)
            return place if is_sync else lost_at

        def attempt(endpoint: str) -> Plan[tuple[Message, str]]:
            nonlocal timeout_s, position
            left_s = tries.deadline - self.now()
            if tries.is_again or left_s < whole_s - SLOW_START_S:
                timeout_s = max(TIME_LEFT_MIN_S, left_s)
            known = b""
            if tries.is_first_sent:
                position = self.session.position  # the frame names the same, or a later one
            else:
                known = encoding.position_field(position)
            options = encoding.options(
                modes.get("wait", "complete"),
                timeout_s,
                modes.get("expected_term", 0),
                modes.get("omit_tuples", False),
            )
            call = encoding.call(tries.request_id, known, ops, options)
            submit = Submit(endpoint, call, count, tries.deadline + GRACE_S)
            reply = yield from self.with_session(endpoint, submit, self.left_s(tries.deadline))
            return reply, endpoint

        return (yield from self.repeat(tries, where, attempt))

    def _is_synchronous(self, ops: bytes, endpoint: str, deadline: float) -> Plan[bool]:
        """Whether a transaction is one of the queue: it asks for that, or one of its spaces is synchronous,
        or a system space while the queue has an owner."""
        if ops.startswith(encoding.SYNCHRONOUS):
            return True
        spaces = encoding.spaces_of(ops)
        request = schema_pb2.ListSpacesRequest(with_system=True)
        limit_s = min(SIDE_CALL_S, self.left_s(deadline))
        reply = yield from self.unary(endpoint, "schema", "ListSpaces", request, limit_s)
        found = [space for space in reply.spaces if not spaces.isdisjoint((space.name, space.id))]
        is_owned = self.is_owned()
        return any(space.is_sync or (is_owned and space.id <= SYSTEM_ID_MAX) for space in found)
