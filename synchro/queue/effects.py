"""What the limbo asks for and reports. The caller carries them out in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from synchro.ids import InstanceId, Term
from synchro.queue.entry import LimboEntry
from synchro.queue.promotion import PendingPromote
from synchro.row import Confirm, Demote, Promote


@dataclass(frozen=True, slots=True)
class WriteControl:
    """Write this row now, as the next one of the own instance; answered by `control_sent` when it has an
    LSN and by `control_written` when it is synced, or by `cut_back`. At most one is outstanding. The
    CONFIRM of entries that a majority holds does not pass here: see `Limbo.announce`."""

    body: Confirm | Promote | Demote


@dataclass(frozen=True, slots=True)
class EntriesCommitted:
    """Make these visible and answer their callers. entries: oldest first. term: queue term of their segment,
    so (term, lsn) is the position of each."""

    entries: Sequence[LimboEntry]
    term: Term


@dataclass(frozen=True, slots=True)
class EntriesRolledBack:
    """Undo these and tell their callers. entries: newest first [Q-51]. term: queue term of their segment.
    by_term: term of the PROMOTE or DEMOTE that dropped them."""

    entries: Sequence[LimboEntry]
    term: Term
    by_term: Term


@dataclass(frozen=True, slots=True)
class OwnerChanged:
    """A PROMOTE or DEMOTE, and its pending ancestors, are decided. Follows the fate of the entries.

    decided: oldest first; the last one made `new` the owner (`NOBODY` after a DEMOTE).
    confirmed, rolled_back: transactions of clients."""

    old: InstanceId
    new: InstanceId
    term: Term
    confirmed: int
    rolled_back: int
    decided: Sequence[PendingPromote]


LimboEffect: TypeAlias = WriteControl | EntriesCommitted | EntriesRolledBack | OwnerChanged
