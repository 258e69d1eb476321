"""The client: finds the leader, retries what is safe to retry, says plainly when an outcome is unknown."""

from synchro.client.blocking import Client, Space, Transaction, connect
from synchro.client.errors import (
    CannotConnect,
    ConnectionLost,
    DuplicateKey,
    NoLeader,
    OutcomeUnknown,
    QueueFull,
    ReadOnly,
    SynchroError,
)
from synchro.client.model import Committed, Info, Result, RolledBack, Rows, State, Tuple

__all__ = [
    "CannotConnect",
    "Client",
    "Committed",
    "ConnectionLost",
    "DuplicateKey",
    "Info",
    "NoLeader",
    "OutcomeUnknown",
    "QueueFull",
    "ReadOnly",
    "Result",
    "RolledBack",
    "Rows",
    "Space",
    "State",
    "SynchroError",
    "Transaction",
    "Tuple",
    "connect",
]
