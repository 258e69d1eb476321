"""What all services share: headers, errors as statuses, names of spaces and indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from copy import copy
from typing import Any, TypeVar

from synchro.errors import Loading, SynchroError
from synchro.instance.events import Outcome, OutcomeUnknown, Rejected
from synchro.rpc.access import Access, Need
from synchro.rpc.codec import Message
from synchro.rpc.generated.v1 import common_pb2 as pb
from synchro.rpc.host import RpcCall, RpcHost
from synchro.rpc.methods import Together
from synchro.rpc.rpc_error import RpcError
from synchro.rpc.status import to_status
from synchro.server.api import HeaderFacts, LeaderFacts, NodeApi
from synchro.server.logins import refuse_plain

T = TypeVar("T")


def header(facts: HeaderFacts) -> Message:
    made = pb.Header(
        replicaset_uuid=facts.replicaset_uuid,
        instance_id=facts.instance_id,
        instance_name=facts.instance_name,
        term=facts.term,
        vclock=dict(facts.vclock),
        schema_version=facts.schema_version,
        is_writable=facts.is_writable,
    )
    if facts.decided_position is not None:
        made.decided_position.term = facts.decided_position.term
        made.decided_position.lsn = facts.decided_position.lsn
    return made


def leader_hint(facts: LeaderFacts | None) -> Message | None:
    if facts is None:
        return None
    return pb.LeaderHint(
        instance_id=facts.id, instance_name=facts.name, address=facts.address, term=facts.term
    )


class Service:
    """The base of the client-facing services. Their methods take a request and return a reply.

    A `SynchroError` that a method raises becomes a status with details, anything else INTERNAL.
    """

    def __init__(self, node: NodeApi, host: RpcHost) -> None:
        self.node = node
        self.host = host
        self.access = Access(node)
        self._facts: HeaderFacts | None = None
        self._header: Message = pb.Header()

    def header(self) -> Message:
        """The header of every reply. It is made again only when the node's facts are another object, and
        empty while there is nothing to tell."""
        try:
            facts = self.node.header()
        except Loading:
            return pb.Header()
        if facts is not self._facts:
            self._facts, self._header = facts, header(facts)
        return self._header

    # --- adapters: `needs` raises for who may not

    def waiting(
        self,
        method: Callable[..., Awaitable[Message]],
        *,
        needs: Need,
        when_ready: bool = True,
        with_caller: bool = False,
        has_password: Callable[[Any], bool] = lambda _: False,
        at_once: Callable[[Any], Message | None] | None = None,
        together: Together | None = None,
    ) -> Any:
        """An RPC that may wait. when_ready: refused while the instance is loading. with_caller: `method` gets
        it after the request. has_password: whether there is one in the request: it must not have been read by
        others on its way. at_once: asked first, and answers what needs no waiting; None from it:
        `together` takes the call, or `method` is asked."""

        async def handle(request: Any, call: RpcCall) -> Message:
            try:
                if when_ready:
                    self.node.ensure_ready()
                caller = call.caller
                needs(caller, request)
                if has_password(request):
                    refuse_plain(is_private=call.is_private)
                return await (method(request, caller) if with_caller else method(request))
            except SynchroError as error:
                raise self.refusal(error) from error

        handle.__qualname__ = method.__qualname__
        first = None if at_once is None else self._from_memory(at_once, needs, when_ready=when_ready)
        return self.host.unary(handle, at_once=first, together=together)

    def at_once(self, method: Callable[[Any], Message], *, needs: Need, when_ready: bool = True) -> Any:
        """An RPC that is answered from memory."""
        return self.host.unary_sync(self._from_memory(method, needs, when_ready=when_ready))

    def _from_memory(
        self, method: Callable[[Any], T], needs: Need, *, when_ready: bool
    ) -> Callable[[Any, RpcCall], T]:
        def handle(request: Any, call: RpcCall) -> T:
            try:
                if when_ready:
                    self.node.ensure_ready()
                needs(call.caller, request)
                return method(request)
            except SynchroError as error:
                raise self.refusal(error) from error

        handle.__qualname__ = method.__qualname__
        return handle

    def streaming(self, method: Callable[[Any], AsyncIterator[Message]], *, needs: Need) -> Any:
        """An RPC with a stream of replies."""

        async def handle(request: Any, call: RpcCall) -> AsyncIterator[Message]:
            try:
                needs(call.caller, request)
                async for reply in method(request):
                    yield reply
            except SynchroError as error:
                raise self.refusal(error) from error

        handle.__qualname__ = method.__qualname__
        return self.host.server_stream(handle)

    # --- errors

    def status(self, error: SynchroError) -> Message:
        """Return a google.rpc.Status, with the leader if that helps."""
        try:
            leader = self.node.leader()
        except Loading:
            leader = None
        return to_status(error, leader_hint(leader))

    def refusal(self, error: SynchroError) -> RpcError:
        return RpcError.of(self.status(error))


def expect(outcome: Outcome, kind: type[T]) -> T:
    """Return the outcome if it is of this kind; raise the error of a refusal or of an unknown outcome."""
    if isinstance(outcome, kind):
        return outcome
    raise error_of(outcome)


def error_of(outcome: Outcome) -> SynchroError:
    match outcome:
        case Rejected(error=error):
            return error
        case OutcomeUnknown(error=error, txn=txn):
            facts = {"outcome": "unknown"} | ({} if txn is None else {"txn": str(txn)})
            if not facts.keys() <= error.details.keys():
                error = copy(error)  # it may be the answer to other calls too
                error.details = facts | dict(error.details)
            return error
        case _:
            raise AssertionError(f"unexpected outcome {outcome}")
