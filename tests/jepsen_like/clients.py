"""Workers: each a thread with its own connections, doing one operation after the other."""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import Any, Final

import grpc

from synchro.errors import SynchroError
from synchro.rpc.generated.v1 import common_pb2, data_pb2
from tests.e2e.cluster import Cluster
from tests.e2e.remote import Lost, Remote, insert, ours, pack, replace, seconds, unpack
from tests.jepsen_like.history import History

TIMEOUT_S: Final = 2.0
OPS_PER_KEY: Final = 100
NOT_SENT: Final = ("failed to connect", "connection refused")
PAGE: Final = 400
"""A read of the set workload covers the newest values only: what is older was read often enough."""


class Numbers:
    """Values and processes that nobody else uses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = itertools.count(1)
        self._process = itertools.count(0)
        self._key_uses = 0

    def value(self) -> int:
        with self._lock:
            return next(self._value)

    def process(self) -> int:
        with self._lock:
            return next(self._process)

    def key(self, rng: random.Random) -> int:
        """One of four current keys; each is retired after about OPS_PER_KEY operations."""
        with self._lock:
            self._key_uses += 1
            return self._key_uses // (4 * OPS_PER_KEY) * 4 + rng.randrange(4)


def is_certain(error: Exception) -> bool:
    """Whether nothing was done."""
    if isinstance(error, SynchroError):
        return error.details.get("outcome") != "unknown"
    text = str(error).lower()
    return any(words in text for words in NOT_SENT)


class Worker(threading.Thread):
    """bound: the name of the instance it stays with and only reads from; None: it follows the owner."""

    def __init__(
        self, cluster: Cluster, history: History, numbers: Numbers, over: threading.Event, seed: object
    ) -> None:
        super().__init__(name=f"worker-{seed}", daemon=True)
        self.cluster = cluster
        self.history = history
        self.numbers = numbers
        self.over = over
        self.rng = random.Random(repr(seed))
        self.bound: str | None = None
        self.process = numbers.process()
        self.owners: set[str] = set()
        """Who accepted a write of this worker."""
        self._remotes = {instance.name: Remote(instance.address) for instance in cluster}
        self._node = self.rng.choice(sorted(self._remotes))
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.step()
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            self.failure = error
        finally:
            for remote in self._remotes.values():
                remote.close()

    def step(self) -> None:
        raise NotImplementedError

    # --- one operation

    def do(self, f: str, key: object, value: object, request: Any, *, is_write: bool) -> None:
        node = self.bound or self._node
        remote = self._remotes[node]
        self.history.add(self.process, "invoke", f, value, key=key, node=node)
        method: Any = remote.data.Execute if is_write else remote.data.Select
        try:
            reply = method(request, timeout=TIMEOUT_S + 1)
        except grpc.RpcError as problem:
            error = ours(problem)
            self._failed(f, key, value, node, error, is_write=is_write)
            return
        lsn = reply.txn.lsn if is_write else None
        result = self.result(f, value, reply)
        self.history.add(self.process, "ok", f, result, key=key, node=node, lsn=lsn, term=reply.header.term)
        if is_write:
            self.owners.add(node)

    def result(self, f: str, value: object, reply: Any) -> object:
        raise NotImplementedError

    def _failed(
        self, f: str, key: object, value: object, node: str, error: SynchroError | Lost, *, is_write: bool
    ) -> None:
        reason = error.reason if isinstance(error, SynchroError) else str(error)[:80]
        if f == "insert" and reason == "TUPLE_FOUND":
            self.history.add(self.process, "ok", f, False, key=key, node=node)
            return
        if not is_write or is_certain(error):
            self.history.add(self.process, "fail", f, value, key=key, node=node, error=reason)
        else:
            self.history.add(self.process, "info", f, value, key=key, node=node, error=reason)
            self.process = self.numbers.process()
        if self.bound is None:
            self._go_elsewhere(error)
        self.over.wait(0.02)

    def _go_elsewhere(self, error: SynchroError | Lost) -> None:
        """To the leader, if the answer names one; else to anybody."""
        hint = error.details.get("leader_name") if isinstance(error, SynchroError) else None
        self._node = hint if hint in self._remotes else self.rng.choice(sorted(self._remotes))


class RegisterWorker(Worker):
    """Linearizable reads are asked of the owner and, by who stays with an instance, of that one [Q-63]."""

    def step(self) -> None:
        rng, key = self.rng, self.numbers.key(self.rng)
        if self.bound is not None:
            is_plain = rng.random() < 0.5
            request = select("register", key, linearizable=not is_plain)
            self.do("read-follower" if is_plain else "read", key, None, request, is_write=False)
            self.over.wait(0.01)
            return
        value = self.numbers.value()
        match rng.choices(("read", "write", "insert", "delete"), (4, 3, 2, 1))[0]:
            case "read":
                request = select("register", key, linearizable=True)
                self.do("read", key, None, request, is_write=False)
            case "write":
                self.do("write", key, value, execute(replace("register", [key, value])), is_write=True)
            case "insert":
                self.do("insert", key, value, execute(insert("register", [key, value])), is_write=True)
            case "delete":
                op = data_pb2.Op(delete=data_pb2.Delete(space="register", key=pack([key])))
                self.do("delete", key, None, execute(op), is_write=True)

    def result(self, f: str, value: object, reply: Any) -> object:
        if f == "insert":
            return True
        if f == "write":
            return value
        tuples = [message for message in reply.tuples if message.WhichOneof("form")]
        return unpack(tuples[0].msgpack)[1] if tuples else None


class SetWorker(Worker):
    def step(self) -> None:
        if self.bound is not None or self.rng.random() < 0.05:
            self._read()
            return
        value = self.numbers.value()
        self.do("add", None, value, execute(insert("set", [value])), is_write=True)

    def _read(self) -> None:
        """`value`: the lowest value it asks for."""
        low = max(0, self.numbers.value() - PAGE)
        kind = "confirmed" if self.bound else "linearizable"
        request = select("set", low, linearizable=self.bound is None)
        request.iterator = "GE"
        self.do("read-all", kind, low, request, is_write=False)
        if self.bound is not None:
            self.over.wait(0.05)

    def result(self, f: str, value: object, reply: Any) -> object:
        return value if f == "add" else [unpack(message.msgpack)[0] for message in reply.tuples]


def select(space: str, key: int, *, linearizable: bool = False) -> Any:
    return data_pb2.SelectRequest(
        space=space,
        key=common_pb2.Tuple(msgpack=pack([key])),
        encoding=common_pb2.ENCODING_MSGPACK,
        read=data_pb2.READ_MODE_LINEARIZABLE if linearizable else data_pb2.READ_MODE_CONFIRMED,
        timeout=seconds(TIMEOUT_S),
    )


def execute(op: Any) -> Any:
    return data_pb2.ExecuteRequest(ops=[op], timeout=seconds(TIMEOUT_S))


def read_everything(cluster: Cluster, space: str) -> dict[str, set[int]]:
    """What each instance holds in the end."""
    return {instance.name: {row[0] for row in instance.remote.select(space)} for instance in cluster}


def wait_until(condition: Any, deadline: float) -> bool:
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
