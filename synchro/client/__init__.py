"""The client: finds the leader, retries what is safe to retry, says plainly when an outcome is unknown."""

from synchro.client import ops
from synchro.client.api import ConnectOptions, SelectOptions
from synchro.client.blocking import Client, OpenTransaction, Space, Users, connect
from synchro.client.errors import (
    CannotConnect,
    ClientClosed,
    ConnectionLost,
    DuplicateKey,
    OutcomeUnknown,
    QueueFull,
)
from synchro.client.model import Committed, Info, Result, RolledBack, Rows, Tuple, TxnId, WatchState
from synchro.client.open_transaction import BeginOptions
from synchro.client.ops import Op, Transaction
from synchro.client.plans import WriteOptions
from synchro.client.replies import (
    Checkpoint,
    Checksum,
    Demoted,
    FieldInfo,
    IndexChanged,
    IndexInfo,
    Member,
    MissingAck,
    PartInfo,
    Promoted,
    PromoteOutlook,
    Queue,
    QueueEntry,
    SpaceChanged,
    SpaceInfo,
    Synced,
    TxnState,
)
from synchro.client.user_api import GrantInfo, UserChanged, UserInfo
from synchro.values import Datetime, Interval

__all__ = [
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
    "Transaction",
    "Tuple",
    "TxnId",
    "TxnState",
    "UserChanged",
    "UserInfo",
    "Users",
    "WatchState",
    "WriteOptions",
    "connect",
    "ops",
]
