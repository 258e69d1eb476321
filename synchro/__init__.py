"""synchro: Raft-based synchronous replication with the semantics of Tarantool, over gRPC.

All that a program needs: `synchro.connect`, what it returns, and every error by name; `synchro.aio` for
asyncio and trio. The client is imported when one of its names is used: gRPC takes longer to import than all
the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # What type checkers see. They do not see `__getattr__`, so that a misspelt name is an error.
    from synchro.client import *  # noqa: F403
    from synchro.errors import SynchroError as SynchroError
    from synchro.errors.access import *  # noqa: F403
    from synchro.errors.data import *  # noqa: F403
    from synchro.errors.login import *  # noqa: F403
    from synchro.errors.members import *  # noqa: F403
    from synchro.errors.writes import *  # noqa: F403
else:
    _CLIENT = frozenset(
        [
            "BeginOptions",
            "CannotConnect",
            "Checkpoint",
            "Checksum",
            "Client",
            "ClientClosed",
            "Committed",
            "ConnectOptions",
            "ConnectionLost",
            "Datetime",
            "Demoted",
            "DuplicateKey",
            "FieldInfo",
            "GrantInfo",
            "IndexChanged",
            "IndexInfo",
            "Info",
            "Interval",
            "Member",
            "MissingAck",
            "Op",
            "OpenTransaction",
            "OutcomeUnknown",
            "PartInfo",
            "PromoteOutlook",
            "Promoted",
            "Queue",
            "QueueEntry",
            "QueueFull",
            "Result",
            "RolledBack",
            "Rows",
            "SelectOptions",
            "Space",
            "SpaceChanged",
            "SpaceInfo",
            "Synced",
            "WatchState",
            "Transaction",
            "Tuple",
            "TxnId",
            "TxnState",
            "UserChanged",
            "UserInfo",
            "Users",
            "WriteOptions",
            "connect",
            "ops",
        ]
    )

    def _errors():
        from synchro.errors import ALL_ERRORS, SynchroError

        return {kind.__name__: kind for kind in (SynchroError, *ALL_ERRORS)}

    def __dir__():
        return sorted({*globals(), *_CLIENT, *_errors()})

    def __getattr__(name):
        if name in _CLIENT:
            from synchro import client

            return getattr(client, name)
        if name == "__all__":
            return sorted({*_CLIENT, *_errors()})
        if not name.startswith("_") and name in (kinds := _errors()):
            return kinds[name]
        raise AttributeError(f"module 'synchro' has no attribute {name!r}")
