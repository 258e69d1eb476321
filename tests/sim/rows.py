"""What of a transaction others get."""

from __future__ import annotations

from synchro.ids import LOCAL
from synchro.row import Txn
from synchro.server.relay import without_local_rows
from synchro.storage import xrow


def has_local_rows(txn: Txn) -> bool:
    """Beside others."""
    return txn.origin != LOCAL and any(origin == LOCAL for origin, _ in txn.components())


def shown_to_peers(txn: Txn) -> bytes:
    """Its bytes without local rows, which go to nobody [A-37]."""
    return without_local_rows(txn.data) if has_local_rows(txn) else bytes(txn.data)


def as_peers_see(txn: Txn) -> Txn:
    return xrow.decode_txns(shown_to_peers(txn))[0] if has_local_rows(txn) else txn
