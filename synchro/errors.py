"""Error taxonomy. Every error has a stable `reason`, kept for ever once released; see docs/errors.md.

A text says what happened, with which values, what did not happen, and the next command. Numbers are
Tarantool's. The mapping to gRPC statuses is in `rpc/status.py`, the only place that translates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class SynchroError(Exception):
    """The caller may not do this now, or the input is bad. Nothing was changed unless the class says so.

    details: machine-readable facts (strings), sent as ErrorInfo metadata.
    """

    reason: ClassVar[str] = "INTERNAL"
    tnt_code: ClassVar[int] = 0

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, str] = {k: str(v) for k, v in details.items() if v is not None}

    def __str__(self) -> str:
        return self.message


# --- who may write ---------------------------------------------------------------------------------


class ReadOnly(SynchroError):
    """[E-44]. details: ro_reason, state, term, leader, owner, queue_term; disk: the file that had no room."""

    reason = "READ_ONLY"
    tnt_code = 7


class NoLeader(SynchroError):
    reason = "NO_LEADER"


class Loading(SynchroError):
    """[M-19]. details: stage."""

    reason = "LOADING"
    tnt_code = 116


class SyncQueueUnclaimed(SynchroError):
    reason = "SYNC_QUEUE_UNCLAIMED"
    tnt_code = 227


class SyncQueueForeign(SynchroError):
    reason = "SYNC_QUEUE_FOREIGN"
    tnt_code = 228


class SyncQueueFull(SynchroError):
    """Nothing was written."""

    reason = "SYNC_QUEUE_FULL"
    tnt_code = 289


class WalQueueFull(SyncQueueFull):
    """Too much is on its way to the disk [W-16]. Nothing was written. For a caller it is a full queue too."""

    reason = "WAL_QUEUE_FULL"
    tnt_code = 287


# --- fate of a write -------------------------------------------------------------------------------


class SyncTimeout(SynchroError):
    """Outcome unknown: the transaction stays in the queue. details: txn, acked, needed, missing."""

    reason = "SYNC_TIMEOUT"
    tnt_code = 295


class SyncRollback(SynchroError):
    """A decided PROMOTE dropped the transaction. details: by_term."""

    reason = "SYNC_ROLLBACK"
    tnt_code = 217


class RequestExpired(SynchroError):
    """Outcome unknown: the request id is older than what is remembered. Nothing was executed now."""

    reason = "REQUEST_EXPIRED"


class TransactionConflict(SynchroError):
    reason = "TRANSACTION_CONFLICT"
    tnt_code = 97


class WalIo(SynchroError):
    """The batch was cut back: nothing was written, LSNs are used again."""

    reason = "WAL_IO"
    tnt_code = 40


class DiskFailed(SynchroError):
    """The process is leaving; outcome unknown for what was on its way."""

    reason = "DISK"
    tnt_code = 40


# --- quorum, promote, elections ----------------------------------------------------------------------


class QuorumWait(SynchroError):
    """Fewer registered instances than the quorum needs. details: needed, registered."""

    reason = "QUORUM_WAIT"
    tnt_code = 222


class LinearizableQuorum(SynchroError):
    reason = "LINEARIZABLE_QUORUM"


class InterferingPromote(SynchroError):
    reason = "INTERFERING_PROMOTE"
    tnt_code = 223


class InterferingElections(SynchroError):
    reason = "INTERFERING_ELECTIONS"
    tnt_code = 246


class OldTerm(SynchroError):
    reason = "OLD_TERM"
    tnt_code = 245


class InAnotherPromote(SynchroError):
    reason = "IN_ANOTHER_PROMOTE"
    tnt_code = 278


class ElectionDisabled(SynchroError):
    reason = "ELECTION_DISABLED"
    tnt_code = 224


class NoElectionQuorum(SynchroError):
    reason = "NO_ELECTION_QUORUM"
    tnt_code = 242


class NotLeader(SynchroError):
    reason = "NOT_LEADER"
    tnt_code = 226


class TimedOut(SynchroError):
    """A promote, demote, snapshot or barrier did not finish in its time; it may still."""

    reason = "TIMED_OUT"
    tnt_code = 115


# --- data ------------------------------------------------------------------------------------------------


class TupleFound(SynchroError):
    """[D-9]. details: space, index, key, old_tuple, new_tuple."""

    reason = "TUPLE_FOUND"
    tnt_code = 3


class SpaceExists(SynchroError):
    reason = "SPACE_EXISTS"
    tnt_code = 10


class IndexExists(SynchroError):
    reason = "INDEX_EXISTS"
    tnt_code = 85


class NoSuchSpace(SynchroError):
    reason = "NO_SUCH_SPACE"
    tnt_code = 36


class NoSuchIndex(SynchroError):
    reason = "NO_SUCH_INDEX"
    tnt_code = 35


class FieldType(SynchroError):
    reason = "FIELD_TYPE"
    tnt_code = 23


class FieldMissing(SynchroError):
    reason = "FIELD_MISSING"
    tnt_code = 39


class WrongFormat(SynchroError):
    """Malformed msgpack, a tuple that is not an array, a bad definition."""

    reason = "WRONG_FORMAT"


class KeyPartType(SynchroError):
    reason = "KEY_PART_TYPE"
    tnt_code = 18


class ExactMatch(SynchroError):
    reason = "EXACT_MATCH"
    tnt_code = 19


class KeyPartCount(SynchroError):
    reason = "KEY_PART_COUNT"
    tnt_code = 31


class MoreThanOneTuple(SynchroError):
    reason = "MORE_THAN_ONE_TUPLE"
    tnt_code = 41


class IteratorType(SynchroError):
    reason = "ITERATOR_TYPE"
    tnt_code = 72


class UnsupportedIndexFeature(SynchroError):
    reason = "UNSUPPORTED_INDEX_FEATURE"
    tnt_code = 112


class NoSuchField(SynchroError):
    reason = "NO_SUCH_FIELD"
    tnt_code = 37


class UpdateArgType(SynchroError):
    reason = "UPDATE_ARG_TYPE"
    tnt_code = 26


class UpdateSplice(SynchroError):
    reason = "UPDATE_SPLICE"
    tnt_code = 25


class UpdateIntegerOverflow(SynchroError):
    reason = "UPDATE_INTEGER_OVERFLOW"
    tnt_code = 95


class UnknownUpdateOp(SynchroError):
    reason = "UNKNOWN_UPDATE_OP"
    tnt_code = 28


class CantUpdatePrimaryKey(SynchroError):
    reason = "CANT_UPDATE_PRIMARY_KEY"
    tnt_code = 94


class BatchTooLarge(SynchroError):
    """A tuple, a transaction or an answer over its limit. details: limit, got."""

    reason = "BATCH_TOO_LARGE"


class MemoryIssue(SynchroError):
    """`memtx.memory` is used up: the change would need more. details: used, limit, needed."""

    reason = "MEMORY_ISSUE"
    tnt_code = 2


class IllegalParams(SynchroError):
    reason = "ILLEGAL_PARAMS"
    tnt_code = 1


class Unsupported(SynchroError):
    reason = "UNSUPPORTED"
    tnt_code = 5


class Unimplemented(SynchroError):
    """Known, described, not built yet."""

    reason = "UNIMPLEMENTED"


# --- membership and peers -----------------------------------------------------------------------------


class ReplicasetUuidMismatch(SynchroError):
    reason = "REPLICASET_UUID_MISMATCH"
    tnt_code = 63


class UnknownReplica(SynchroError):
    """Not registered (yet): the applier retries [M-32]."""

    reason = "UNKNOWN_REPLICA"
    tnt_code = 62


class ReplicaMax(SynchroError):
    reason = "REPLICA_MAX"
    tnt_code = 73


class LocalInstanceIdIsReadOnly(SynchroError):
    """[M-50]: an instance does not remove or rename itself. Nothing was written."""

    reason = "LOCAL_INSTANCE_ID_IS_READ_ONLY"
    tnt_code = 128


class ConnectionToSelf(SynchroError):
    reason = "CONNECTION_TO_SELF"
    tnt_code = 117


class DoubledIdentity(SynchroError):
    """Two live processes have one identity: a copied data directory (ADR 23). Passes when one falls silent.

    details: uuid, lives (start_id@address, comma between).
    """

    reason = "DOUBLED_IDENTITY"


class XlogGap(SynchroError):
    """The subscriber needs rows whose WAL files are gone [W-45]."""

    reason = "XLOG_GAP"
    tnt_code = 219


class CheckpointInProgress(SynchroError):
    reason = "CHECKPOINT_IN_PROGRESS"
    tnt_code = 120


class RemoteProtocolError(SynchroError):
    """A peer broke the protocol: stops that applier, not the node [A-34]."""

    reason = "PROTOCOL"
    tnt_code = 104


class ProtocolVersion(RemoteProtocolError):
    """A peer speaks another version of the peer protocol; nothing of what it asked was done.

    details: version, supported.
    """

    reason = "PROTOCOL_VERSION"


class SplitBrain(RemoteProtocolError):
    """[P-53]."""

    reason = "SPLIT_BRAIN"
    tnt_code = 244

    def __init__(self, why: str, **details: object) -> None:
        super().__init__(f"Split-Brain discovered: {why}", **details)


# --- files ------------------------------------------------------------------------------------------------


class Corruption(SynchroError):
    """A file is damaged where it was known to be whole. details: file, offset, lsn [W-22]."""

    reason = "CORRUPTION"


class DecodeError(SynchroError):
    """Bytes that are not what they should be; a decoder raises nothing else."""

    reason = "DECODE"


class AlreadyRunning(SynchroError):
    reason = "ALREADY_RUNNING"
    tnt_code = 126


class ConfigError(SynchroError):
    """details: file, line, key, nearest."""

    reason = "CONFIG"
    tnt_code = 59


ALL_ERRORS: tuple[type[SynchroError], ...] = tuple(
    cls
    for cls in list(globals().values())
    if isinstance(cls, type) and issubclass(cls, SynchroError) and cls is not SynchroError
)
BY_REASON: Mapping[str, type[SynchroError]] = {cls.reason: cls for cls in ALL_ERRORS}
