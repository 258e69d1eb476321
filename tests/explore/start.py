"""Where an exploration starts: settings of the three instances, and what they had done by then."""

from __future__ import annotations

from dataclasses import dataclass

from synchro.config import ElectionMode, Settings


@dataclass(frozen=True)
class Start:
    """script: actions of `tests.explore.world`; `settle [N ...]`: all moves, but nothing from or to these.

    slow: instances whose disk writes a transaction at a time, when the explorer says so; other disks at once.
    ring: whether timers ring that begin elections; else only those after which an owner announces, or who is
    elected waits no longer for what others wrote (Raft.R15).
    free: what clients, operators and power may do from there on: `write`, `promote`, `crash` (restart and
    kill go with it), of all instances or, as `promote 3`, of one. The less, the deeper the rest is seen.
    """

    number: int
    name: str
    script: tuple[str, ...]
    mode: ElectionMode = ElectionMode.MANUAL
    slow: frozenset[int] = frozenset()
    ring: bool = False
    free: tuple[str, ...] = ("write", "promote", "crash")

    @property
    def kind(self) -> str:
        """What an instance of it is, beside its log and its state: equal for starts that differ in no more
        than what was done."""
        return f"{self.mode.value} {sorted(self.slow)}"

    def allows(self, word: str, number: int) -> bool:
        return word in self.free or f"{word} {number}" in self.free

    @property
    def settings(self) -> Settings:
        return _SETTINGS[self.mode]


_SETTINGS = {mode: Settings(election_mode=mode) for mode in ElectionMode}

_OWNED = ("settle", "promote 1", "settle")
_ALONE = (*_OWNED, "write 1")
_HELD = (*_ALONE, "down 1 2")
_ELECTED = ("promote 2", "settle 1")
"""2 has the vote of 3, and waits for what 1 writes (Raft.R15)."""
_TAKES_OVER = (*_ELECTED, "ring 2")
"""It waited in vain, and leads: its PROMOTE is on its disk."""
_WAITED_FOR = (*_ALONE, *_ELECTED)
_PROMOTED = (*_ALONE, *_TAKES_OVER)
_SENT = ("says 2 3", "down 2 3")
"""It comes to 3, which has heard who leads."""
_DEPOSED = (*_PROMOTED, "settle 1")
ALL_SLOW = frozenset({1, 2, 3})
STARTS = (
    Start(0, "an owner", _OWNED),
    Start(1, "an entry that only its owner has", _ALONE),
    Start(2, "an entry that a quorum has, and its owner does not know", _HELD),
    Start(3, "an owner, and disks that take their time", _OWNED, slow=ALL_SLOW),
    Start(4, "nobody has led", ("settle",), slow=frozenset({2})),
    Start(5, "an owner that does not know that it is deposed", _DEPOSED),
    Start(6, "a PROMOTE on one disk", (*_PROMOTED, *_SENT), slow=frozenset({3})),
    Start(7, "a PROMOTE on the disks of a quorum", (*_PROMOTED, *_SENT)),
    Start(8, "candidates", _OWNED, mode=ElectionMode.CANDIDATE, ring=True),
    Start(9, "an entry that a quorum has, and one who lacks it stands", _HELD, free=("promote 3",)),
    Start(10, "an entry, and two who stand", _HELD, free=("promote 2", "promote 3")),
    Start(11, "an entry, and its owner dies", _ALONE, free=("promote 2", "crash 1")),
    Start(
        12,
        "a PROMOTE, and its writer dies",
        (*_PROMOTED, *_SENT),
        free=("promote 3", "crash 2"),
    ),
    Start(13, "an entry that its owner has, and one who lacks it stands", _ALONE, free=("promote 3",)),
    Start(14, "a PROMOTE of one, and another stands", _PROMOTED, free=("promote 3",)),
    Start(15, "writes of an owner that is deposed", _DEPOSED, free=("write",)),
    Start(
        16,
        "a PROMOTE of a quorum, and another stands",
        (*_OWNED, *_TAKES_OVER, *_SENT),
        free=("promote 3",),
    ),
    Start(17, "an entry that a quorum has, and one who has it stands", _HELD, free=("promote 2",)),
    Start(
        18, "an entry of its owner alone, for which one who is elected waits", _WAITED_FOR, free=("write",)
    ),
)
