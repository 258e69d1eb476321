"""Errors of members, peers, files and the configuration. See `kinds`."""

from __future__ import annotations

from synchro.errors.kinds import BadInput, Code, Exit, Precondition, SynchroError

# --- membership and peers -----------------------------------------------------------------------------


class ReplicasetUuidMismatch(Precondition):
    """The instance or its files belong to another replica set; both UUIDs are given."""

    reason = "REPLICASET_UUID_MISMATCH"
    tnt_code = 63
    advice = "check addresses and directories"


class ReplicasetNameMismatch(Precondition):
    """The configurations of two instances name two replica sets; both names are given [M-5].

    Nobody was joined, nothing was changed. details: expected, got, uuid (of the other set, once it is made).
    """

    reason = "REPLICASET_NAME_MISMATCH"
    tnt_code = 268
    advice = "check the addresses: they are of another replica set"


class InstanceNameMismatch(Precondition):
    """At the address of a configured instance another one answers; both names are given [M-5].

    Nobody was joined, nothing was changed. details: expected, got, uuid (of the set of who answers, if it is
    made).
    """

    reason = "INSTANCE_NAME_MISMATCH"
    tnt_code = 270
    advice = "check the addresses: who answers is not who is configured there"


class OtherSetAnswers(Precondition):
    """An instance of another replica set answers at an address of the configuration.

    Nothing was started or written. details: address, instance, replicaset, uuid (of the set that answers).
    """

    reason = "OTHER_SET_ANSWERS"
    exit_code = Exit.CONFLICT
    advice = "take other ports, or stop the other set"


class InstanceUuidMismatch(Precondition):
    """The files belong to an instance with another UUID than the configuration says [M-1], [C-46].

    Nothing was changed. details: expected, got.
    """

    reason = "INSTANCE_UUID_MISMATCH"
    tnt_code = 66
    advice = "check the directory, and `database.instance_uuid`"


class UnknownReplica(Precondition):
    """The instance is not registered in the set (yet) [M-32].

    The row that registers it may still be on its way.
    """

    reason = "UNKNOWN_REPLICA"
    tnt_code = 62
    advice = "the applier retries by itself"


class BootstrapRefused(Precondition):
    """The instance was told to make a replica set, and does not [M-17].

    Nothing was made.
    """

    reason = "BOOTSTRAP_REFUSED"
    advice = "`synchro status`"


class ReplicaGc(Precondition):
    """What is kept for an instance cannot be given up: it is this one, is connected, or there is none [W-44].

    Nothing was done.
    """

    reason = "REPLICA_GC"
    tnt_code = 291
    advice = "`synchro info gc`"


class Expelled(Precondition):
    """The instance was removed from the replica set; streams with it are refused [M-50], [M-52].

    Nothing was done. It does not come back under its id (ADR 41).

    details: uuid, id, queue_term (of who refuses; ADR 41).
    """

    reason = "EXPELLED"
    advice = "remove its directory and start it: it joins as a new member"


class RebootstrapRefused(Precondition):
    """This instance may not replace its data by that of another member now [M-35].

    Nothing was done.

    details: next.
    """

    reason = "REBOOTSTRAP_REFUSED"
    advice = "see the message; `synchro status`"
    next_command = "synchro status"


class ReplicaMax(Precondition):
    """The set has 31 members."""

    reason = "REPLICA_MAX"
    tnt_code = 73


class LocalInstanceIdIsReadOnly(Precondition):
    """An instance does not remove or change its own row of `_cluster` [M-50].

    Nothing was written.
    """

    reason = "LOCAL_INSTANCE_ID_IS_READ_ONLY"
    tnt_code = 128
    advice = "`synchro promote` another instance, or ask another one with -e"
    next_command = "synchro promote NAME   or   -e HOST:PORT of another member, and the same again"


class SwitchoverFailed(Precondition):
    """A controlled failover cannot begin, or did not come to its fourth step and was undone [A-61].

    The text says what was not done.
    """

    reason = "SWITCHOVER_FAILED"
    advice = "as the message says"


class SwitchoverUnfinished(SynchroError):
    """A controlled failover ended in the middle, and nothing was undone [A-61].

    The text says what stands.
    """

    reason = "SWITCHOVER_UNFINISHED"
    code = Code.UNAVAILABLE
    exit_code = Exit.UNKNOWN
    advice = "`synchro status`"


class ConnectionToSelf(Precondition):
    """The address of a peer leads back to this instance."""

    reason = "CONNECTION_TO_SELF"
    tnt_code = 117
    advice = "correct the address"


class DoubledIdentity(Precondition):
    """Two live processes have one identity, as with a copied data directory; `lives` names both.

    Passes when one of them falls silent (ADR 23).

    details: uuid, lives (start_id@address, comma between).
    """

    reason = "DOUBLED_IDENTITY"
    advice = "stop the one that is the copy, and remove its directory"


class XlogGap(Precondition):
    """The log files that the peer needs are gone [W-45]."""

    reason = "XLOG_GAP"
    tnt_code = 219
    advice = "remove its snapshots and logs, keep `instance.identity`, let it join again"


class TombstonesGone(Precondition):
    """A row of another instance is older than deletions that are remembered no more (ADR 44)."""

    reason = "TOMBSTONES_GONE"
    advice = "let the instance that sent it, or missed the deletions, join again"


class CheckpointInProgress(Precondition):
    """A snapshot is being written already."""

    reason = "CHECKPOINT_IN_PROGRESS"
    tnt_code = 120
    exit_code = Exit.CONFLICT
    advice = "wait for it"


class RemoteProtocolError(SynchroError):
    """A peer broke the protocol; only this stream stops [A-34]."""

    reason = "PROTOCOL"
    tnt_code = 104
    advice = "report it, with the logs of both"


class ProtocolVersion(RemoteProtocolError):
    """A peer speaks another version of the protocol, or does not read our log; nothing was done.

    details: version, supported; both of the protocol.
    """

    reason = "PROTOCOL_VERSION"
    code = Code.FAILED_PRECONDITION
    advice = "use releases that speak the same one"


class SplitBrain(RemoteProtocolError):
    """Two histories that contradict each other met; only this stream stops [P-53]."""

    reason = "SPLIT_BRAIN"
    tnt_code = 244
    code = Code.DATA_LOSS
    advice = "decide which side is right, let the other join again"

    def __init__(self, why: str, **details: object) -> None:
        super().__init__(f"Split-Brain discovered: {why}", **details)


class InjectedError(Precondition):
    """A failpoint made it fail, in an instance that was started with fault injection."""

    reason = "INJECTED"
    tnt_code = 8
    advice = "clear the failpoint; a stream that stopped: synchro replication restart NAME"


# --- files ------------------------------------------------------------------------------------------------


class Corruption(SynchroError):
    """A file is damaged where it was known to be whole; the instance does not start [W-22].

    details: file, offset, lsn.
    """

    reason = "CORRUPTION"
    code = Code.DATA_LOSS
    advice = "as the message says: restore the file, or join again"


class DecodeError(BadInput):
    """Bytes that are not what they should be.

    A decoder raises nothing else.
    """

    reason = "DECODE"


class AlreadyRunning(Precondition):
    """Another process uses the directory or the port."""

    reason = "ALREADY_RUNNING"
    tnt_code = 126
    advice = "stop it, or choose another"


class InAnotherStart(Precondition):
    """Another process starts or stops instances of this set, and did not end in time; nothing was done."""

    reason = "IN_ANOTHER_START"
    advice = "wait for it, or end it as the message says"


class ConfigError(BadInput):
    """The configuration is wrong; file, line and key are given, nothing was changed.

    details: file, line, key, nearest.
    """

    reason = "CONFIG"
    tnt_code = 59
    exit_code = Exit.USAGE
    advice = "correct it"
