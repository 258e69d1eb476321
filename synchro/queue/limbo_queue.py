"""The queue itself: order, size, commit from the left, rollback from the right. Rules [Q-1], [Q-51].

A list and two cursors instead of a deque: "written" ends in the middle of the queue and only moves on, so
every entry is looked at once per cursor, however large the queue is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from synchro.ids import LOCAL, NOBODY, InstanceId, Lsn
from synchro.queue.entry import EntryState, LimboEntry
from synchro.vclock import Vclock

_SUBMITTED: Final = EntryState.SUBMITTED
ZERO_LSN: Final = Lsn(0)
COMPACT_AT: Final = 1024
"""How many decided entries stay at the front of the list before it is shortened; shortening costs one
move."""


class LimboQueue:
    """Transactions of one owner in the local WAL whose fate is still open, oldest first.

    Q1  All global entries have the same origin: `owner_id`. No owner means no global entries [P-3].
    Q2  LSNs of global entries rise from left to right and lie above `confirmed_lsn`; those of fully local
        entries rise too, in their own numbering, and are compared with nothing else [Q-15].
    Q3  Commit takes from the left, rollback from the right. Nothing leaves from the middle [Q-51].
    Q4  `confirmed_lsn` never goes back while the owner stays.
    Q5  Written entries are a prefix. A local entry is at the front only while it is not written: the
        global entry it followed is committed, its own disk write is all that is missing.
    Q6  `size` and `count` are the sums of the sizes and counts of the entries.
    """

    __slots__ = (
        "_entries",
        "_head",
        "_last",
        "_written",
        "confirm_lag",
        "confirmed_lsn",
        "count",
        "owner_id",
        "size",
    )

    def __init__(self, owner_id: InstanceId = NOBODY, confirmed_lsn: Lsn = ZERO_LSN) -> None:
        self.owner_id = owner_id
        self.confirmed_lsn = confirmed_lsn
        self.size = 0
        self.count = 0
        self.confirm_lag = 0.0
        self._entries: list[LimboEntry] = []
        self._last: LimboEntry | None = None  # the newest global one, perhaps decided meanwhile
        self._head = 0  # entries left of it are decided, and dropped at the next compaction
        self._written = 0  # entries left of it are synced here

    # --- reading ------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._entries) - self._head

    def __iter__(self) -> Iterator[LimboEntry]:
        """All entries, oldest first."""
        return iter(self._entries[self._head :])

    @property
    def first(self) -> LimboEntry | None:
        return self._entries[self._head] if self._head < len(self._entries) else None

    @property
    def first_lsn(self) -> Lsn:
        """LSN of the oldest global entry; 0 if there is none."""
        index = self._first_global()
        return self._entries[index].lsn if index < len(self._entries) else ZERO_LSN

    @property
    def first_told_lsn(self) -> Lsn:
        """The lowest LSN that a client was told of an undecided transaction; 0 if there is none (ADR 13)."""
        index = self._first_global()
        if index == len(self._entries):
            return ZERO_LSN
        entry = self._entries[index]
        return Lsn(entry.lsn - entry.count + 1)

    @property
    def last(self) -> LimboEntry | None:
        """The newest global entry; None if there is none."""
        last = self._last
        return last if last is not None and last.state is _SUBMITTED else None

    @property
    def last_lsn(self) -> Lsn:
        """LSN of the newest global entry; 0 if there is none."""
        return ZERO_LSN if (last := self.last) is None else last.lsn

    def entry_at(self, lsn: Lsn) -> LimboEntry | None:
        """The oldest global entry with this LSN or a higher one."""
        entries = self._entries
        low, high = self._head, len(entries)
        while low < high:  # bisect by hand: local entries have no place in the order
            middle = probe = low + (high - low) // 2
            while probe < high and entries[probe].origin == LOCAL:
                probe += 1
            if probe == high or entries[probe].lsn >= lsn:
                high = middle
            else:
                low = probe + 1
        while low < len(entries) and entries[low].origin == LOCAL:
            low += 1
        return entries[low] if low < len(entries) else None

    # --- changing -----------------------------------------------------------------------------------

    def append(self, entry: LimboEntry, is_written: bool = False) -> None:
        """Add an entry at the right. is_written: it was read from the WAL, so no `mark_written` comes for
        it."""
        assert entry.origin in (self.owner_id, LOCAL), (entry, self.owner_id)  # LimboQueue.Q1
        assert entry.origin != LOCAL or len(self) > 0, entry  # LimboQueue.Q5: it would not have to wait
        self._entries.append(entry)
        if entry.origin != LOCAL:
            self._last = entry
        self.size += entry.size
        self.count += entry.count
        if is_written:
            assert self._written == len(self._entries) - 1  # LimboQueue.Q5
            entry.is_written = True
            self._written = len(self._entries)

    def mark_written(self, vclock: Vclock) -> list[LimboEntry]:
        """The disk has everything up to `vclock`. Returns the local entries that waited only for that."""
        owner_lsn, local_lsn = vclock.get(self.owner_id), vclock.get(LOCAL)
        entries, index = self._entries, self._written
        while index < len(entries):
            entry = entries[index]
            if entry.lsn > (local_lsn if entry.origin == LOCAL else owner_lsn):
                break
            entry.is_written = True
            index += 1
        self._written = index
        return self._take_left(self._head, ZERO_LSN)

    def held_lsn(self, quorum_lsn: Lsn) -> Lsn:
        """LSN of the last entry, of either kind, at or below `quorum_lsn`; 0 if there is none [Q-22]."""
        entries, index, held = self._entries, self._head, ZERO_LSN
        while index < len(entries):
            entry = entries[index]
            if entry.origin != LOCAL:
                if entry.lsn > quorum_lsn:
                    break
                held = entry.lsn
            index += 1
        return held

    def confirm_held(self, quorum_lsn: Lsn, now: float) -> list[LimboEntry]:
        """Commit the entries at or below `quorum_lsn`, which a quorum holds (ADR 2). `confirmed_lsn` becomes
        the LSN of the last of them, of either kind, never one between entries [Q-22]."""
        committed = self._take_left(self._head, quorum_lsn)
        for entry in reversed(committed):
            if entry.origin != LOCAL:
                self._confirmed(entry.lsn, committed, now)
                break
        return committed

    def confirm(self, lsn: Lsn, now: float) -> list[LimboEntry]:
        """Commit the global entries up to `lsn` and the local ones behind them; returns them, oldest first.

        An asynchronous entry behind `lsn` stays, or instances could end it differently [Q-25], [P-52], ADR 2.
        """
        committed = self._take_left(self._head, lsn)
        if 0 < self.first_lsn <= lsn:
            # A local entry in between: one sync covered it, what is behind it and the CONFIRM of that, and
            # `mark_written` comes last. A CONFIRM follows its entries in the WAL.
            self._mark_written_up_to(lsn)
            committed += self._take_left(self._head, lsn)
        assert not 0 < self.first_lsn <= lsn, (self.first_lsn, lsn)
        self._confirmed(lsn, committed, now)
        return committed

    def _confirmed(self, lsn: Lsn, committed: list[LimboEntry], now: float) -> None:
        self.confirmed_lsn = max(self.confirmed_lsn, lsn)  # LimboQueue.Q4
        for entry in reversed(committed):
            if entry.wait_ack:  # one that only waited behind others says nothing of the quorum [I-25]
                self.confirm_lag = now - entry.submitted_at
                break

    def rollback_rest(self) -> list[LimboEntry]:
        """Drop the oldest global entry and all behind it; returns them, newest first [Q-51].

        Local entries in front of it follow a committed entry, so they stay until they are written.
        """
        return self._drop_right(self._first_global())

    def cut_back(self) -> list[LimboEntry]:
        """Drop the entries that are not on disk; returns them, newest first [Q-47]."""
        return self._drop_right(max(self._written, self._head))

    def transfer(self, owner_id: InstanceId, confirmed_lsn: Lsn) -> None:
        """Hand the queue over. Every entry of the old owner is decided by then [P-3]."""
        assert self._first_global() == len(self._entries)  # LimboQueue.Q1
        self.owner_id = owner_id
        self.confirmed_lsn = confirmed_lsn

    # --- private ------------------------------------------------------------------------------------

    def _first_global(self) -> int:
        """Index of the oldest global entry; the length of the list if there is none."""
        index = self._head
        while index < len(self._entries) and self._entries[index].origin == LOCAL:
            index += 1
        return index

    def _take_left(self, start: int, lsn: Lsn) -> list[LimboEntry]:
        entries, index, size, count = self._entries, start, 0, 0
        while index < len(entries):
            entry = entries[index]
            if not entry.is_written if entry.origin == LOCAL else entry.lsn > lsn:
                break
            entry.state = EntryState.COMMIT
            size += entry.size
            count += entry.count
            index += 1
        if index == start:
            return []
        taken = entries[start:index]
        self.size -= size
        self.count -= count
        self._head = index
        self._written = max(self._written, index)
        self._compact()
        return taken

    def _drop_right(self, keep: int) -> list[LimboEntry]:
        dropped = self._entries[keep:]
        del self._entries[keep:]
        dropped.reverse()
        for entry in dropped:
            entry.state = EntryState.ROLLBACK
            self.size -= entry.size
            self.count -= entry.count
        self._written = min(self._written, keep)
        left = self._entries[self._head :]
        self._last = next((entry for entry in reversed(left) if entry.origin != LOCAL), None)
        return dropped

    def _mark_written_up_to(self, lsn: Lsn) -> None:
        """The global entries up to `lsn` are on disk, and what is ahead of them."""
        entries = self._entries
        last = max(
            i for i in range(self._head, len(entries)) if entries[i].origin != LOCAL and entries[i].lsn <= lsn
        )
        for index in range(self._written, last + 1):
            entries[index].is_written = True
        self._written = max(self._written, last + 1)

    def _compact(self) -> None:
        head = self._head
        if head == len(self._entries) or (head >= COMPACT_AT and 2 * head >= len(self._entries)):
            del self._entries[:head]
            self._written -= head
            self._head = 0
            self._last = self.last

    def check(self) -> None:
        waiting = self._entries[self._head :]
        global_lsns = [entry.lsn for entry in waiting if not entry.is_local]
        local_lsns = [entry.lsn for entry in waiting if entry.is_local]
        assert all(entry.origin == self.owner_id for entry in waiting if not entry.is_local)  # LimboQueue.Q1
        assert self.owner_id != NOBODY or not global_lsns  # LimboQueue.Q1
        assert self.last_lsn == (global_lsns[-1] if global_lsns else ZERO_LSN)
        assert global_lsns == sorted(set(global_lsns))  # LimboQueue.Q2
        assert not global_lsns or global_lsns[0] > self.confirmed_lsn  # LimboQueue.Q2
        assert local_lsns == sorted(set(local_lsns))  # LimboQueue.Q2
        assert all(entry.state is EntryState.SUBMITTED for entry in waiting)  # LimboQueue.Q3
        assert [entry.is_written for entry in waiting] == [
            index < self._written for index in range(self._head, len(self._entries))
        ]  # LimboQueue.Q5
        assert not waiting or not waiting[0].is_local or not waiting[0].is_written  # LimboQueue.Q5
        assert self.size == sum(entry.size for entry in waiting)  # LimboQueue.Q6
        assert self.count == sum(entry.count for entry in waiting)  # LimboQueue.Q6
