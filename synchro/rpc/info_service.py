"""synchro.v1.InfoService: what `box.info` tells. Answers from memory, in every state of the instance."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from itertools import islice
from typing import Any, Final, cast

import trio

from synchro.errors import IllegalParams, Loading, TimedOut
from synchro.ro_reason import RoReason
from synchro.rpc import codec
from synchro.rpc.codec import Message
from synchro.rpc.generated.v1 import common_pb2, info_pb2
from synchro.rpc.host import RpcHost
from synchro.rpc.methods import Registrar
from synchro.rpc.service import Service
from synchro.rpc.slices import mapped
from synchro.server.api import MissingAck, NodeApi, QueueEntryFacts, WatchFacts

NUMBER_DIGITS_MAX: Final = 20
"""Of a number in the path of an info; all that are keys have fewer."""
QUEUE_ENTRIES_DEFAULT: Final = 1000
QUEUE_ENTRIES_MAX: Final = 100_000
"""The most entries in one answer: about what fits a message of 16 MiB."""
QUEUE_LEN_INTERVAL_S: Final = 0.1
"""Watchers get the length of the queue, which changes with every write, at most this often, in seconds."""


_CONDITIONS: Final[Mapping[int, tuple[str, Callable[[WatchFacts], bool]]]] = {
    info_pb2.WAIT_CONDITION_WRITABLE: ("become writable", lambda facts: facts.is_writable),
    info_pb2.WAIT_CONDITION_READ_ONLY: ("become read-only", lambda facts: not facts.is_writable),
    info_pb2.WAIT_CONDITION_LEADER: ("hear of a leader", lambda facts: facts.leader is not None),
}


class InfoService(Service):
    def __init__(self, node: NodeApi, host: RpcHost) -> None:
        super().__init__(node, host)
        look = self.access.to_look
        self.GetInfo = self.at_once(self._get_info, needs=look, when_ready=False)
        self.GetSynchro = self.at_once(self._get_synchro, needs=look)
        self.ListQueue = self.waiting(self._list_queue, needs=look)
        self.WaitInfo = self.waiting(self._wait_info, needs=self.access.nothing)
        self.WatchInfo = self.streaming(self._watch_info, needs=self.access.nothing)

    def register(self, server: Registrar) -> None:
        server.add_service(info_pb2.DESCRIPTOR.services_by_name["InfoService"], self)

    def _get_info(self, request: Message) -> Message:
        tree = self.node.info()
        paths = list(request.paths)
        value: Any = tree
        if len(paths) == 1:
            value = part(tree, paths[0])
        elif paths:
            value = {path: part(tree, path) for path in paths}
        reply = info_pb2.GetInfoResponse(header=self.header())
        if request.encoding == common_pb2.ENCODING_MSGPACK:
            reply.info_msgpack = codec.pack(value)
        else:
            reply.info.CopyFrom(codec.json_value(value))
        return reply

    def _queue(self) -> tuple[Message, int]:
        synchro = self.node.info()["synchro"]
        queue = synchro["queue"]
        message = info_pb2.QueueInfo(
            owner=queue["owner"],
            term=queue["term"],
            len=queue["len"],
            size=queue["size"],
            busy=queue["busy"],
            age=codec.duration(queue["age"]),
            confirm_lag=codec.duration(queue["confirm_lag"]),
        )
        return message, int(synchro["quorum"])

    def _get_synchro(self, _request: Message) -> Message:
        queue, quorum = self._queue()
        return info_pb2.GetSynchroResponse(header=self.header(), queue=queue, quorum=quorum)

    async def _list_queue(self, request: Message) -> Message:
        limit = request.limit or QUEUE_ENTRIES_DEFAULT
        if limit > QUEUE_ENTRIES_MAX:
            raise IllegalParams(f"limit {limit} is over {QUEUE_ENTRIES_MAX}", field="limit")
        queue, quorum = self._queue()
        found = islice(self.node.queue_entries(), limit)
        entries = await self.host.slices.run(mapped(map(_entry_message, found)))
        return info_pb2.ListQueueResponse(header=self.header(), queue=queue, quorum=quorum, entries=entries)

    async def _watch_info(self, _request: Message) -> AsyncIterator[Message]:
        last: WatchFacts | None = None
        # The node's generator must end with the call, not when it is collected.
        async with aclosing(cast("AsyncGenerator[WatchFacts]", self.node.watch())) as changes:
            async for facts in changes:
                yield self._state(facts)
                if last is not None and replace(last, queue_len=facts.queue_len) == facts:
                    await trio.sleep(QUEUE_LEN_INTERVAL_S)
                last = facts

    def _state(self, facts: WatchFacts) -> Message:
        leader = facts.leader
        return info_pb2.WatchInfoResponse(
            header=self.header(),
            leader=0 if leader is None else leader.id,
            leader_name="" if leader is None else leader.name,
            leader_address="" if leader is None else leader.address,
            term=facts.term,
            is_writable=facts.is_writable,
            ro_reason=facts.ro_reason.value,
            queue_owner=facts.queue_owner,
            queue_len=facts.queue_len,
            election_state=facts.election_state,
            queue_term=facts.queue_term,
        )

    async def _wait_info(self, request: Message) -> Message:
        """[E-43]"""
        condition = _CONDITIONS.get(request.condition)
        if condition is None:
            raise IllegalParams("what to wait for? writable, read_only or leader", field="condition")
        what, is_true = condition
        timeout_s = codec.timeout_s(request, self.node.instance.settings.synchro_timeout_s)
        last: WatchFacts | None = None
        with trio.move_on_after(timeout_s):
            async with aclosing(cast("AsyncGenerator[WatchFacts]", self.node.watch())) as changes:
                async for last in changes:
                    if is_true(last):
                        return info_pb2.WaitInfoResponse(header=self.header(), state=self._state(last))
        if last is not None and last.ro_reason is RoReason.LOADING:
            raise Loading("The instance is loading, or stopping; nothing was done")
        why = "" if last is None or last.is_writable else f" (ro_reason: {last.ro_reason.value})"
        raise TimedOut(f"this instance did not {what} within {timeout_s:.3g} s{why}; nothing was done")


def _entry_message(entry: QueueEntryFacts) -> Message:
    return info_pb2.QueueEntry(
        txn=codec.txn_message(entry.txn),
        space_ids=entry.space_ids,
        rows=entry.rows,
        size=entry.size_bytes,
        age=codec.duration(entry.age_s),
        acked_by=entry.acked_by,
        missing=[missing.peer for missing in entry.missing],
        is_sync=entry.is_sync,
        waits_for=map(_missing_message, entry.missing),
    )


def _missing_message(missing: MissingAck) -> Message:
    made = info_pb2.MissingAck(instance_id=missing.peer, is_connected=missing.is_connected)
    if missing.since_s is not None:
        made.since.CopyFrom(codec.duration(missing.since_s))
    return made


def part(tree: Mapping[Any, Any], path: str) -> Any:
    """Return the value at a path such as `replication.2.upstream`. Raises `IllegalParams`."""
    value: Any = tree
    done: list[str] = []
    for name in filter(None, path.split(".")):
        if not isinstance(value, Mapping):
            raise IllegalParams(f"info path '{path}': '{'.'.join(done)}' has no parts", field="paths")
        is_number = name not in value and name.isdecimal() and len(name) <= NUMBER_DIGITS_MAX
        key: Any = int(name) if is_number else name
        if key not in value:
            known = ", ".join(str(known) for known in value)
            raise IllegalParams(f"info path '{path}': there is no '{name}', but {known}", field="paths")
        value = value[key]
        done.append(name)
    return value
