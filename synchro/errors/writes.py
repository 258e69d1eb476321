"""Errors of writes: who may write, what became of one, the queue and elections. See `kinds`."""

from __future__ import annotations

from types import MappingProxyType

from synchro.errors.kinds import (
    Code,
    Elsewhere,
    Exit,
    Extra,
    NotNow,
    OutcomeOpen,
    Overtaken,
    Precondition,
    Retry,
    SynchroError,
)

# --- who may write ---------------------------------------------------------------------------------


class ReadOnly(Elsewhere):
    """The instance does not accept writes; `ro_reason` says why [E-44].

    details: ro_reason, state, term, leader, owner, queue_term; disk: the file that had no room.
    """

    reason = "READ_ONLY"
    tnt_code = 7
    next_command = "synchro status"


class NoLeader(NotNow):
    """No leader is known at the moment; nothing was done."""

    reason = "NO_LEADER"
    exit_code = Exit.NO_CONNECTION
    next_command = "synchro status"


class Loading(NotNow):
    """The instance is still starting, or stopping; `stage` says how far it is [M-19]. details: stage."""

    reason = "LOADING"
    tnt_code = 116
    exit_code = Exit.NO_CONNECTION
    next_command = "synchro status"


class SyncQueueUnclaimed(Precondition):
    """A synchronous write, but nobody owns the queue."""

    reason = "SYNC_QUEUE_UNCLAIMED"
    tnt_code = 227
    facts = MappingProxyType({"next": "promote"})
    exit_code = Exit.READ_ONLY
    advice = "`synchro promote`"
    next_command = "synchro promote NAME"


class SyncQueueForeign(Elsewhere):
    """The queue is owned by another instance."""

    reason = "SYNC_QUEUE_FOREIGN"
    tnt_code = 228
    advice = "send it to the owner in the hint"
    next_command = "synchro status"


class SyncQueueFull(SynchroError):
    """Too much waits for a quorum, or a change of definitions could not look at all tuples in time; nothing
    was written."""

    reason = "SYNC_QUEUE_FULL"
    tnt_code = 289
    code = Code.RESOURCE_EXHAUSTED
    extra = Extra.RETRY | Extra.QUOTA
    retry = Retry.LATER
    advice = "back off, retry; see `synchro queue`"
    next_command = "synchro queue"


class WalQueueFull(SyncQueueFull):
    """Too much waits for the disk of the instance; nothing was written [W-16].

    For a caller it is a full queue too.
    """

    reason = "WAL_QUEUE_FULL"
    tnt_code = 287
    advice = "back off, retry; look at its disk"
    next_command = "synchro status"


# --- fate of a write -------------------------------------------------------------------------------


class SyncTimeout(OutcomeOpen):
    """Not decided in time, the text says why; the transaction stays, **outcome unknown**.

    details: txn, acked, needed, missing.
    """

    reason = "SYNC_TIMEOUT"
    tnt_code = 295
    code = Code.DEADLINE_EXCEEDED
    advice = "`synchro wait ORIGIN:LSN`"


class SyncRollback(Overtaken):
    """A new owner of the queue dropped the transaction; it never happened. details: by_term."""

    reason = "SYNC_ROLLBACK"
    tnt_code = 217
    facts = MappingProxyType({"outcome": "rolled_back"})
    advice = "may be retried"
    next_command = "try again"


class RequestExpired(OutcomeOpen):
    """A retry so late that its first attempt is forgotten; nothing was executed now, **outcome unknown**."""

    reason = "REQUEST_EXPIRED"
    code = Code.ABORTED
    advice = "look at the data"


class TransactionConflict(Overtaken):
    """It rested on a change that was rolled back, or what it had read has changed; nothing was done [D-43].

    details: space, index, key of what it had read.
    """

    reason = "TRANSACTION_CONFLICT"
    tnt_code = 97
    advice = "may be retried"


class TransactionTimeout(Overtaken):
    """The transaction was open for too long; nothing was done. details: timeout."""

    reason = "TRANSACTION_TIMEOUT"
    code = Code.DEADLINE_EXCEEDED
    advice = "begin again; see `database.txn_timeout`"


class TransactionAborted(Overtaken):
    """The connection or the session of an open transaction ended before its commit; nothing was done."""

    reason = "TRANSACTION_ABORTED"
    advice = "begin again"


class TransactionsFull(SynchroError):
    """Too many transactions are open, or they hold too much; nothing was done. details: limit."""

    reason = "TRANSACTIONS_FULL"
    code = Code.RESOURCE_EXHAUSTED
    extra = Extra.RETRY | Extra.QUOTA
    retry = Retry.LATER
    advice = "back off, retry; see `limits.max_open_transactions`"


class ConditionFailed(Overtaken):
    """A condition of the transaction is not true; nothing was done [D-42].

    details: op (which operation, from 0), condition, space, index, key, found (the tuple), field, wanted.
    """

    reason = "CONDITION_FAILED"
    advice = "read again, then decide"
    next_command = "synchro get SPACE KEY"


class WalIo(SynchroError):
    """The log could not be written (disk full); nothing was written.

    The batch was cut back: LSNs are used again.
    """

    reason = "WAL_IO"
    tnt_code = 40
    code = Code.UNAVAILABLE
    retry = Retry.ELSEWHERE
    advice = "free space; retry elsewhere"


class DiskFailed(OutcomeOpen):
    """A sync failed, the process leaves; **outcome unknown** for what was on its way."""

    reason = "DISK"
    tnt_code = 40
    code = Code.UNAVAILABLE
    retry = Retry.LOST
    advice = "next endpoint"


# --- quorum, promote, elections ----------------------------------------------------------------------


class QuorumWait(NotNow):
    """Fewer registered instances than the quorum needs. details: needed, registered."""

    reason = "QUORUM_WAIT"
    tnt_code = 222
    advice = "start more instances; retry"
    next_command = "synchro status"


class LinearizableQuorum(NotNow):
    """A linearizable read found no quorum."""

    reason = "LINEARIZABLE_QUORUM"
    advice = "retry, or read `confirmed`"


class LinearizablePending(NotNow):
    """A linearizable read waited for a transaction that was not decided in time; nothing was read [Q-60].

    details: txn; from the owner of the queue also acked, needed, missing.
    """

    reason = "LINEARIZABLE_PENDING"
    advice = "`synchro wait ORIGIN:LSN`, then read again; or read `confirmed`"


class InterferingPromote(Overtaken):
    """Another instance claimed the queue meanwhile."""

    reason = "INTERFERING_PROMOTE"
    tnt_code = 223
    advice = "look who owns it, promote again"
    next_command = "synchro promote NAME   or   synchro status"


class InterferingElections(Overtaken):
    """Another instance was elected meanwhile."""

    reason = "INTERFERING_ELECTIONS"
    tnt_code = 246
    advice = "look who leads, promote again"
    next_command = "synchro promote NAME   or   synchro status"


class OldTerm(Overtaken):
    """The term has moved on."""

    reason = "OLD_TERM"
    tnt_code = 245
    advice = "promote again, or begin the transaction again"
    next_command = "synchro promote NAME   or   synchro status"


class InAnotherPromote(Precondition):
    """A promote or demote is running here already."""

    reason = "IN_ANOTHER_PROMOTE"
    tnt_code = 278
    exit_code = Exit.CONFLICT
    advice = "wait for it"


class ElectionDisabled(Precondition):
    """Needs elections, but `election_mode` is off, the log is not known to be complete, or terms or LSNs are
    used up.
    """

    reason = "ELECTION_DISABLED"
    tnt_code = 224
    exit_code = Exit.READ_ONLY
    advice = "change the configuration, or as the message says"


class NoElectionQuorum(SynchroError):
    """Too few instances are connected to elect."""

    reason = "NO_ELECTION_QUORUM"
    tnt_code = 242
    code = Code.UNAVAILABLE
    exit_code = Exit.NO_CONNECTION
    next_command = "synchro status"


class NotLeader(Elsewhere):
    """Only the leader may do this."""

    reason = "NOT_LEADER"
    tnt_code = 226


class TimedOut(SynchroError):
    """Promote, demote, snapshot or barrier did not finish in time; it may still."""

    reason = "TIMED_OUT"
    tnt_code = 115
    code = Code.DEADLINE_EXCEEDED
    exit_code = Exit.UNKNOWN
    advice = "`synchro info`"
