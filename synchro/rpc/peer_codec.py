"""What peers say, as messages and as values of the core.

Numbers are judged where they are decoded: what passes here is compared, added to and persisted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from synchro.errors import RemoteProtocolError
from synchro.ids import INSTANCE_ID_MAX, NUMBER_END, InstanceId, Lsn, Term
from synchro.instance.events import Ack
from synchro.raft.messages import RaftMessage, Role
from synchro.replication.read_barrier import Awaited, ReadPosition
from synchro.row import TxnId
from synchro.rpc.codec import Message, vclock_of
from synchro.rpc.codec import lsns as lsns_of
from synchro.rpc.generated.peer.v1 import replication_pb2 as peer_pb
from synchro.vclock import EMPTY_VCLOCK, Vclock


def peer_number(value: int, what: str) -> int:
    """Return an LSN or a term from a peer. Raises `RemoteProtocolError`, which stops that stream and nothing
    else."""
    if value >= NUMBER_END:
        raise RemoteProtocolError(f"{what} {value} of a peer is not below 2^62; its message was dropped")
    return value


def peer_term(value: int) -> Term:
    return Term(peer_number(value, "term"))


def peer_id(value: int, what: str, *, or_nobody: bool = False) -> InstanceId:
    """Return an instance id from a peer. Raises `RemoteProtocolError`."""
    if not (0 if or_nobody else 1) <= value <= INSTANCE_ID_MAX:
        raise RemoteProtocolError(f"{what} {value} of a peer is not an instance id; its message was dropped")
    return InstanceId(value)


def peer_quorum(value: int) -> int:
    """Return how many votes a peer needs, 0 of an older version. Raises `RemoteProtocolError`."""
    if value > INSTANCE_ID_MAX:
        raise RemoteProtocolError(
            f"quorum {value} of a peer is above {INSTANCE_ID_MAX}; its message was dropped"
        )
    return value


def peer_ids(values: Sequence[int], what: str) -> frozenset[InstanceId]:
    if len(values) > INSTANCE_ID_MAX:
        raise RemoteProtocolError(f"{len(values)} ids in {what} of a peer; its message was dropped")
    return frozenset([peer_id(value, what) for value in values])


def peer_vclock(lsns: Mapping[int, int]) -> Vclock:
    """Return a vclock from a peer. Raises `RemoteProtocolError`. An LSN above the own ones is no error: it
    may tell of lost rows (S14)."""
    if not lsns:
        return EMPTY_VCLOCK
    if len(lsns) > INSTANCE_ID_MAX:
        raise RemoteProtocolError(f"a vclock of a peer has {len(lsns)} parts; its message was dropped")
    lsns = {instance: lsns[instance] for instance in lsns}  # a map of protobuf is slow to look at
    for instance, lsn in lsns.items():
        if not 0 < instance <= INSTANCE_ID_MAX or lsn >= NUMBER_END:
            raise RemoteProtocolError(f"{instance}: {lsn} in a vclock of a peer; its message was dropped")
    return vclock_of(lsns)


TEXT_CHARS_MAX: Final = 300
"""Of a name, a UUID or an address: a host has at most 253."""


def peer_text(value: str, what: str) -> str:
    """Return a name, UUID or address of a peer, which is kept and shown. Raises `RemoteProtocolError`."""
    if len(value) > TEXT_CHARS_MAX or not value.isprintable():
        shown = ascii(value[:40])
        raise RemoteProtocolError(
            f"{what} {shown} of a peer has {len(value)} characters, or some that cannot be printed; its "
            "message was dropped"
        )
    return value


def peer_time(value_s: float) -> float:
    """Return seconds of wall time from a peer. Raises `RemoteProtocolError`: a lag of NaN could be shown to
    nobody."""
    if not 0 <= value_s < NUMBER_END:
        raise RemoteProtocolError(f"time {value_s} of a peer; its message was dropped")
    return value_s


_ROLES: Final = {
    Role.FOLLOWER: peer_pb.RAFT_ROLE_FOLLOWER,
    Role.CANDIDATE: peer_pb.RAFT_ROLE_CANDIDATE,
    Role.LEADER: peer_pb.RAFT_ROLE_LEADER,
}


def raft_message(message: RaftMessage) -> Message:
    made = peer_pb.RaftMessage(
        term=message.term,
        vote=message.vote,
        role=_ROLES[message.role],
        leader=message.leader,
        is_leader_seen=message.is_leader_seen,
    )
    if message.vclock is not None:
        made.vclock.SetInParent()
        made.vclock.lsns.update(dict(message.vclock))
    return made


def raft_from(message: Message) -> RaftMessage:
    """Return a Raft message from a peer. Raises `RemoteProtocolError`."""
    try:
        role = Role(message.role)
    except ValueError as error:
        raise RemoteProtocolError(f"unknown raft role {message.role}") from error
    return RaftMessage(
        term=peer_term(message.term),
        vote=peer_id(message.vote, "vote", or_nobody=True),
        role=role,
        leader=peer_id(message.leader, "leader", or_nobody=True),
        is_leader_seen=message.is_leader_seen,
        vclock=peer_vclock(message.vclock.lsns) if message.HasField("vclock") else None,
    )


def fill_ack(
    made: Message,
    ack: Ack,
    *,
    credit: int,
    tm: float = 0.0,
    following: Iterable[InstanceId] = (),
    received: int = 0,
) -> None:
    """Write an ack into the new message `made`, field by field: there is an ack for each batch of the log,
    and a constructor costs more than twice as much."""
    lsns = made.vclock
    for instance, lsn in ack.vclock:
        lsns[instance] = lsn
    made.term = ack.term
    made.vclock_sync = ack.vclock_sync
    made.tm = tm
    made.credit = credit
    made.counts = ack.counts
    made.synchro_quorum = ack.quorum
    made.following.extend(sorted(following))
    made.received = received


def ack_from(message: Message) -> Ack:
    return Ack(
        vclock=peer_vclock(message.vclock),
        term=peer_term(message.term),
        vclock_sync=peer_number(message.vclock_sync, "vclock_sync"),
        counts=message.counts,
        quorum=peer_quorum(message.synchro_quorum),
    )


def read_position_message(position: ReadPosition) -> peer_pb.GetReadPositionResponse:
    made = peer_pb.GetReadPositionResponse(vclock=lsns_of(position.vclock))
    if (awaited := position.awaited) is not None:
        made.awaited.origin = awaited.txn.origin
        made.awaited.lsn = awaited.txn.lsn
        made.awaited.queue_term = awaited.term
    return made


def read_position_from(message: Message) -> ReadPosition:
    """Raises `RemoteProtocolError`."""
    vclock = peer_vclock(message.vclock)
    if not message.HasField("awaited"):
        return ReadPosition(vclock)
    told = message.awaited
    txn = TxnId(peer_id(told.origin, "origin"), Lsn(peer_number(told.lsn, "LSN")))
    return ReadPosition(vclock, Awaited(txn, peer_term(told.queue_term)))
