"""Clients and `fork`: threads and connections stay with the parent.

A child that would use a client of its parent would wait for answers that threads of the parent take. It is
refused, and makes a client of its own. gRPC is made ready for that by `GRPC_ENABLE_FORK_SUPPORT`
(`channel.py`): it stops its threads before a fork, which may take a second, and starts anew behind it.

grpc.aio is not ready: a child of a process that used it hangs as soon as it uses it too, or only collects
what is left of it. So what is left is kept for ever, and an asynchronous client in such a child is refused.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Final, Protocol

from synchro.client.errors import ClientClosed

INHERITED: Final = (
    "this client was made before the process forked, and belongs to the parent; "
    "next: connect again in the child; nothing was sent"
)


class Forks(Protocol):
    """A client that its parent's children see."""

    def become_inherited(self) -> list[Any]:
        """Refuse all calls from now on. Returns what must never be collected. Called in the child."""


clients: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
"""All that are open, each a `Forks`."""
_kept: Final[list[Any]] = []
_aio: Final = {"used": False, "lost": False}


def _in_child() -> None:
    _aio["lost"] = _aio["used"]
    for client in list(clients):
        _kept.append(client)
        _kept.extend(client.become_inherited())
    clients.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def begin_aio() -> None:
    """An asynchronous client is being made. Raises `ClientClosed` in a process that cannot have one."""
    if _aio["lost"]:
        raise ClientClosed(
            "the parent of this process had an asynchronous client when it forked, so none can be here; "
            "next: synchro.connect, or start processes with multiprocessing's 'spawn'; nothing was sent"
        )
    if not _aio["used"]:
        import grpc.aio

        _aio["used"] = True
        grpc.aio.init_grpc_aio()  # for ever: when the last user ends, it would wait for a thread
