"""synchro: Raft-based synchronous replication with the semantics of Tarantool, over gRPC.

`synchro.connect(...)` and the errors of the client come from `synchro.client`, which is imported when one of
them is asked for: gRPC takes longer to import than all the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from synchro.client import (
        CannotConnect,
        Client,
        Committed,
        DuplicateKey,
        NoLeader,
        OutcomeUnknown,
        QueueFull,
        ReadOnly,
        RolledBack,
        SynchroError,
        Tuple,
        connect,
    )

__all__ = [
    "CannotConnect",
    "Client",
    "Committed",
    "DuplicateKey",
    "NoLeader",
    "OutcomeUnknown",
    "QueueFull",
    "ReadOnly",
    "RolledBack",
    "SynchroError",
    "Tuple",
    "connect",
]
_NAMES: Final = frozenset(__all__)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        from synchro import client

        return getattr(client, name)
    raise AttributeError(f"module 'synchro' has no attribute {name!r}")
