"""Situations that many seeds must get into: where one of them is never met, the generator went blind.

A run of `ENOUGH` seeds fails where one is never met, a run of `FEW` where one of the frequent ones is not.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

SITUATIONS: Final[dict[str, str]] = {
    "an entry is rolled back by a decided promote": "entry rolled back",
    "rows of a deposed owner become nops": "nop written",
    "a promote is void": "void promote",
    "a promote decides an older one with it": "promote with ancestors decided",
    "a demote is decided": "demote decided",
    "a confirm comes after the queue changed hands": "late confirm",
    "an owner dies before its CONFIRM of what it committed": "owner died with unannounced commits",
    "an owner restarts with a full queue": "owner restarts with a full queue",
    "a replica restarts with a full queue": "replica restarts with a full queue",
    "rows that were never synced survive a crash": "unsynced rows survived",
    "a process dies inside a write": "died inside a write",
    "one write carries several batches": "group commit",
    "rows are cut back for want of room": "rows cut back",
    "a control row does not fit and ends the process": "control row did not fit",
    "an I/O error ends the process": "disk failed",
    "the disk does not answer for a death timeout": "disk stuck",
    "a link times out": "link timed out",
    "a connection is reset with rows under way": "connection reset",
    "a snapshot is taken with a full queue": "snapshot with a full queue",
    "a snapshot is taken with a pending promote": "snapshot with a pending promote",
    "a client is told of a rollback": "client told of a rollback",
    "a client retries after an unknown outcome": "retry after an unknown outcome",
    "a call is abandoned": "call abandoned",
    "somebody asks late, and anybody": "late question",
    "a request is repeated long after": "request repeated late",
    "questions come behind a snapshot and a restart": "asked behind a snapshot and a restart",
    "callers share a transaction": "transaction shared",
    "a shared transaction is rolled back": "shared transaction rolled back",
    "callers without request ids share": "transaction shared without request ids",
    "an instance is upgraded": "instance upgraded",
    "a promote is asked for and answered": "promote answered",
    "a promote is lost to another": "promote refused: INTERFERING_PROMOTE",
    "something happens to who takes the queue": "ambush",
    "all instances lose power at once": "fault power all",
    "an owner stops cleanly": "clean stop",
    "a loss shows in the notes of the log": "a loss shows in the notes",
    "a loss that nothing on the disk shows": "a loss that nothing on the disk shows",
    "such a loss is shown by a member": "a loss is shown by a member",
    "an old copy of a directory is restored": "fault lose old copy",
    "a cut log is refused": "damage refused",
    "a directory is seeded again": "seeded again",
    "a member is removed": "a member left",
    "a removal is refused for want of a quorum": "expel refused: QUORUM_WAIT",
    "who was removed while it was away is told": "told that it was expelled",
    "an amnesia ends": "amnesia ended",
    "two leaders of one term meet": "two leaders met",
    "histories diverge where the quorum is too small": "histories diverged",
    "files of the log go": "files of the log go",
    "an instance is too old to follow anybody": "too old to follow anybody",
    "an instance that is too old joins again": "files replaced",
    "an anonymous follower goes on": "an anonymous follower goes on",
    "an unknown outcome names its transaction": "an unknown outcome names its transaction",
    "a request is older than what is remembered": "request expired",
    "a quorum changes while rows wait": "option changed: quorum",
    "an election mode changes": "option changed: mode",
    "time-outs change": "option changed: time-outs",
    "fencing changes": "option changed: fencing",
    "a space is made": "clerk: sync space",
    "a space is dropped": "clerk: drop",
    "a space is emptied": "clerk: truncate",
    "an index is made of what is there": "clerk: second index",
    "a key comes from a sequence": "clerk: numbered",
    "rows are updated, upserted and deleted": "clerk: changed",
    "a transaction is in two spaces": "clerk: two spaces",
    "a local row is written": "clerk: local",
    "a local row is written beside others": "local rows beside others",
    "temporary data is written": "clerk: temporary",
    "money goes from one space to another": "clerk: transfer",
    "a reader stays with a deposed owner": "a deposed owner is asked",
    "a reader stays with an owner that is cut off": "an owner that is cut off is asked",
    "a reader stays with a paused instance": "a paused instance is asked",
    "a linearizable read waits for a verdict": "a linearizable read waits for a verdict",
    "a writable owner is seen to have its quorum": "a writable owner has its quorum",
    "nothing is broken, and nothing happens": "nothing is broken, and nothing happens",
    "promotes in a healthy set roll nothing back": "a promote rolls nothing back",
    "half of the links are cut, and one owner stays": "half of the links are cut, and one owner stays",
    "a condition holds": "condition held",
    "a condition does not hold": "condition refused: CONDITION_FAILED",
    "a condition holds because of what waits": "a condition holds because of what waits",
    "what a condition rested on is rolled back with it": "what a condition rested on is rolled back with it",
    "what a condition failed by is rolled back": "condition refused: TRANSACTION_CONFLICT",
    "a retry with conditions is known": "a retry with conditions is known",
    "a transaction asks to be synchronous": "asked to be synchronous",
    "a transaction that stays open is begun": "open transaction: opened",
    "one is refused at its begin": "open transaction: refused at its begin",
    "one is refused, as many are open": "open transaction: refused, as many are open",
    "one is committed": "open transaction: committed",
    "one that changed nothing is committed": "open transaction: committed without changes",
    "one is rolled back by its client": "open transaction: rolled back",
    "one loses its client": "open transaction: its client is gone",
    "one loses its instance": "open transaction: its instance is gone",
    "a statement of one meets a conflict": "open transaction: conflict at a statement",
    "a commit of one meets a conflict": "open transaction: TRANSACTION_CONFLICT at the commit",
    "one meets another term at a statement": "open transaction: another term",
    "one meets another term at its commit": "open transaction: OLD_TERM at the commit",
    "one is open for too long": "open transaction: time limit",
    "one is rolled back with the queue": "open transaction: rolled back with the queue",
    "an unknown commit of one is asked for": "open transaction: committed, as was told later",
    "READ_COMMITTED shows what waits": "READ_COMMITTED shows what waits",
    "READ_COMMITTED showed what is rolled back": "READ_COMMITTED showed what is rolled back",
    "a member leaves because the file does not name it": "a file names a member no more, and it is removed",
}
"""What a person calls it -> what the simulator counts."""


ENOUGH: Final = 500
"""Seeds in which each situation must be met: the rarest are met in one of fifty worlds."""
FEW: Final = 100
FREQUENT: Final = frozenset(
    {
        "a promote decides an older one with it",
        "a confirm comes after the queue changed hands",
        "an owner restarts with a full queue",
        "a replica restarts with a full queue",
        "rows that were never synced survive a crash",
        "a process dies inside a write",
        "one write carries several batches",
        "the disk does not answer for a death timeout",
        "a link times out",
        "a connection is reset with rows under way",
        "a snapshot is taken with a full queue",
        "a client retries after an unknown outcome",
        "a call is abandoned",
        "somebody asks late, and anybody",
        "a request is repeated long after",
        "questions come behind a snapshot and a restart",
        "callers share a transaction",
        "a promote is asked for and answered",
        "something happens to who takes the queue",
        "an owner stops cleanly",
        "a member is removed",
        "an amnesia ends",
        "an unknown outcome names its transaction",
        "a writable owner is seen to have its quorum",
        "a condition holds",
        "a condition does not hold",
        "a transaction asks to be synchronous",
        "a transaction that stays open is begun",
        "one is refused at its begin",
        "READ_COMMITTED shows what waits",
    }
)
"""Met in an eighth of all worlds or more: that `FEW` seeds have none of one happens once in 300,000 runs."""


def table(hits: Counter[str], met: Counter[str]) -> list[str]:
    """met: in how many seeds."""
    return [f"  {hits[key]:9d} {met[key]:5d} seeds  {name}" for name, key in SITUATIONS.items()]


def never_met(hits: Counter[str], seeds: int) -> list[str]:
    """Of those that so many seeds must get into."""
    if seeds < FEW:
        return []
    asked = SITUATIONS if seeds >= ENOUGH else FREQUENT
    return [name for name, key in SITUATIONS.items() if name in asked and not hits[key]]
