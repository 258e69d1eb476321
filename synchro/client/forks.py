"""Clients and `fork`: threads and connections stay with the parent.

A child that would use a client of its parent would wait for answers that threads of the parent take. It is
refused, and makes a client of its own. gRPC is made ready for that by `GRPC_ENABLE_FORK_SUPPORT`
(`channel.py`): it stops its threads before a fork, which may take a second, and starts anew behind it. It
does not always succeed while calls of other threads are on their way, and then the child would hang: so a
fork waits a moment for them (`Gate`), and if they go on nevertheless, a new client in the child is refused.

grpc.aio is not ready at all: with those handlers a child of a program that uses it may crash, so
`synchro.aio`, if it is imported first, does without them. Then no child of a process that used gRPC can use
it, and each client in such a child is refused. An asynchronous client in the child of a process that used any
client may hang, so it is refused as well. What is inherited is kept for ever: to collect it would wait
for threads.

A client in a trio program uses no gRPC, so a new one works in every child.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from typing import Any, Final

from synchro.client.channel import SURVIVES_FORK
from synchro.client.errors import ClientClosed

import grpc  # isort: skip - after channel.py, which sets its environment

INHERITED: Final = (
    "this client was made before the process forked, and belongs to the parent; "
    "next: connect again in the child; nothing was sent"
)
ADVICE: Final = "start processes with multiprocessing's 'spawn', or before clients are used"
CALLS_END_S: Final = 1.0
"""How long a fork waits for calls of other threads that are on their way."""
POLL_S: Final = 0.002
SETTLE_S: Final = 0.01
"""How long a thread that passed the gate may take to begin the call that it waits for."""


class Gate:
    """Closed while the process forks.

    G1  While it is closed no thread enters; who is inside has `CALLS_END_S` to leave, and so long what was
        written on streams may wait for its answer.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self.is_closed = False
        self.was_quiet = True
        """No call was on its way when the process forked."""

    def __enter__(self) -> None:
        with self._changed:
            while self.is_closed:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            if self.is_closed:
                self._changed.notify_all()

    def pass_by(self) -> None:
        """For a thread that begins a call and waits for its end outside of gRPC."""
        if self.is_closed:
            with self:
                pass

    def close(self) -> None:
        with self._changed:
            self.is_closed = True
            was_left = self._changed.wait_for(lambda: not self._inside, CALLS_END_S)
        time.sleep(SETTLE_S)
        end = time.monotonic() + CALLS_END_S
        while not (is_quiet := all(client.is_quiet for client in list(clients))) and time.monotonic() < end:
            time.sleep(POLL_S)
        self.was_quiet = was_left and is_quiet

    def open(self) -> None:
        with self._changed:
            self.is_closed = False
            self._changed.notify_all()


gate = Gate()
clients: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
"""All that are open. Each has `is_quiet`, when nothing that it sent waits for an answer, and
`become_inherited`, which makes it refuse all calls and returns what must never be collected."""
_kept: Final[list[Any]] = []
_lost: Final = {"aio": False, "all": False}
"""What cannot be used in this process any more."""
_used: Final = {"aio": False, "all": False}
"""What was used in it."""


def _before() -> None:
    if clients:
        gate.close()


def _in_parent() -> None:
    gate.open()


def _in_child() -> None:
    global gate
    _lost["all"] = _used["all"] and not (SURVIVES_FORK and gate.was_quiet)
    _lost["aio"] = _used["all"]
    _used["all"] = _used["aio"] = False
    gate = Gate()
    for client in list(clients):
        _kept.append(client)
        _kept.extend(client.become_inherited())
    clients.clear()


HAS_FORKS: Final = hasattr(os, "register_at_fork")
if HAS_FORKS:
    os.register_at_fork(after_in_child=_in_child)


@functools.cache
def _watch_forks() -> None:
    """Of the hooks before a fork the one that was registered last runs first, and behind the fork last. gRPC
    registers its own with the first channel; the gate is closed before that one stops what calls wait for."""
    if SURVIVES_FORK:
        grpc.insecure_channel("127.0.0.1:1").close()
    os.register_at_fork(before=_before, after_in_parent=_in_parent)


def begin() -> None:
    """A client is being made. Raises `ClientClosed` in a process that cannot have one."""
    _watch_forks()
    if _lost["all"]:
        raise ClientClosed(
            "the parent of this process was in the midst of calls when it forked, or used grpc.aio, "
            f"so there can be none here; next: {ADVICE}; nothing was sent"
        )
    _used["all"] = True


def begin_aio() -> None:
    """As `begin`, for a client on grpc.aio."""
    begin()
    if _lost["aio"]:
        raise ClientClosed(
            "the parent of this process used clients before it forked, so no asynchronous one can be here; "
            f"next: synchro.connect, or {ADVICE}; nothing was sent"
        )
    if not _used["aio"]:
        import grpc.aio

        _used["aio"] = True
        grpc.aio.init_grpc_aio()  # for ever: when the last user ends, it would wait for a thread
