"""Numbers that come from the network have bounds: what is decoded can be compared, added to, kept, sent on.

One message with a term of 2^64 - 1, persisted by all, would make the next election the end of every instance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synchro.config import ElectionMode
from synchro.errors import IllegalParams, RemoteProtocolError
from synchro.ids import INSTANCE_ID_MAX, NUMBER_END, TERM_LEAP_MAX, InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.raft.messages import RaftMessage, Role
from synchro.replication.ballot import Ballot
from synchro.row import Confirm, Demote, Promote, Rollback, Row, RowType
from synchro.rpc import codec, peer_codec
from synchro.rpc import peer_transport as transport
from synchro.rpc.generated.peer.v1 import replication_pb2 as pb
from synchro.rpc.generated.v1 import common_pb2, data_pb2
from synchro.server import join
from synchro.server.peer_messages import Hello, PeerAck
from synchro.storage import row_body, xrow
from synchro.storage.snapshot import SnapshotMeta
from synchro.vclock import Vclock
from tests import messages
from tests.mesh import SYNC, Mesh

U32, U64 = 2**32 - 1, 2**64 - 1
ONE, TWO = InstanceId(1), InstanceId(2)

numbers = st.one_of(
    st.sampled_from([0, 1, 2, 31, 32, 2**32, 2**61, NUMBER_END - 1, NUMBER_END, 2**63, U64]),
    st.integers(0, U64),
)
ids = st.one_of(st.integers(0, 33), st.integers(0, U32))
times = st.floats(allow_nan=True, allow_infinity=True)


def messages_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any message of this type: each field at random, or left out."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in kind.DESCRIPTOR.fields:
        many = field.is_repeated
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            fields[field.name] = st.dictionaries(ids, numbers, max_size=40)
            continue
        value: st.SearchStrategy[Any]
        match field.type:
            case FieldDescriptor.TYPE_UINT64 | FieldDescriptor.TYPE_FIXED64:
                value = numbers
            case FieldDescriptor.TYPE_UINT32 | FieldDescriptor.TYPE_FIXED32:
                value = ids
            case FieldDescriptor.TYPE_DOUBLE:
                value = times
            case FieldDescriptor.TYPE_BOOL:
                value = st.booleans()
            case FieldDescriptor.TYPE_ENUM:
                value = st.sampled_from([v.number for v in field.enum_type.values])
            case FieldDescriptor.TYPE_STRING:
                value = st.text(max_size=3)
            case FieldDescriptor.TYPE_BYTES:
                value = st.binary(max_size=3)
            case _:
                value = messages_of(field.message_type._concrete_class)
        fields[field.name] = st.lists(value, max_size=40) if many else value
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: kind(**chosen))


def is_sound(value: object) -> bool:
    """No number in it is out of its bounds."""
    match value:
        case bool() | str() | bytes() | None:
            return True
        case Vclock():
            return all(0 < i <= INSTANCE_ID_MAX and 0 < lsn < NUMBER_END for i, lsn in value)
        case float():
            return 0 <= value < float("inf")
        case int():
            return 0 <= value < NUMBER_END
        case frozenset():
            return all(isinstance(one, str) or 0 < one <= INSTANCE_ID_MAX for one in value)
    return all(is_sound(getattr(value, name)) for name in value.__slots__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "decode", "encode"),
    [
        (pb.Ballot, transport.ballot_from, transport.ballot_message),
        (pb.Hello, transport.hello_from, transport.hello_message),
        (pb.SubscribeRequest, transport.peer_ack_from, transport.peer_ack_message),
        (pb.SubscribeResponse, transport.relay_message_from, transport.relay_message),
        (pb.JoinResponse, transport.join_item_from, transport.join_message),
        (pb.RaftMessage, peer_codec.raft_from, peer_codec.raft_message),
    ],
)
@settings(max_examples=50)
@given(data=st.data())
def test_a_message_is_sound_or_an_error_of_its_stream(
    kind: Any, decode: Any, encode: Any, data: st.DataObject
) -> None:
    """Every kind of message of peers, with every field at random."""
    message = data.draw(messages_of(kind))
    try:
        value = decode(message)
    except RemoteProtocolError:
        return
    if isinstance(value, Ballot | Hello | PeerAck):
        assert is_sound(value)
    encode(value)  # what was accepted can be sent on


@pytest.mark.parametrize(
    "lsns", [{1: NUMBER_END}, {1: U64}, {0: 1}, {32: 1}, {U32: 1}, dict.fromkeys(range(1, 33), 1)]
)
def test_a_vclock_of_a_peer_names_instances_and_lsns(lsns: dict[int, int]) -> None:
    for message, decode in (
        (pb.Hello(vclock=lsns), transport.hello_from),
        (pb.Hello(unwritten=lsns), transport.hello_from),
        (pb.SubscribeRequest(ack=pb.Ack(vclock=lsns)), transport.peer_ack_from),
        (pb.SubscribeResponse(accepted=pb.Accepted(id=1, last_ack=lsns)), transport.relay_message_from),
    ):
        with pytest.raises(RemoteProtocolError, match=r"its message was dropped"):
            decode(message)


def test_a_quorum_of_a_peer_is_a_number_of_members() -> None:
    """ADR 38"""
    for message, decode in (
        (pb.Hello(synchro_quorum=32), transport.hello_from),
        (pb.SubscribeRequest(ack=pb.Ack(synchro_quorum=U32)), transport.peer_ack_from),
    ):
        with pytest.raises(RemoteProtocolError, match=r"quorum .* is above 31; its message was dropped"):
            decode(message)


@pytest.mark.parametrize("text", ["x" * 301, "a\nb", "\x1b[2J", "\u202ename"])
@pytest.mark.parametrize("field", ["name", "address", "instance_uuid", "start_id", "replicaset_uuid"])
def test_a_text_of_a_peer_is_short_and_can_be_shown(field: str, text: str) -> None:
    """Followers are remembered for an hour: six with names of 3 MB made `info` and `status` useless."""
    hello: Any = {field: text}
    told: Any = {"instance_name" if field == "name" else field: text}
    for message, decode in (
        (pb.Hello(**hello), transport.hello_from),
        (pb.SubscribeResponse(accepted=pb.Accepted(id=1, **told)), transport.relay_message_from),
        (pb.Ballot(**told), transport.ballot_from),
    ):
        with pytest.raises(RemoteProtocolError, match=r"its message was dropped") as refused:
            decode(message)
        assert len(refused.value.message) < 200


# --- the core -------------------------------------------------------------------------------------------


def raft_message(term: int, role: Role = Role.CANDIDATE) -> RaftMessage:
    vclock = Vclock({ONE: Lsn(2**61)}) if role is Role.CANDIDATE else None
    leader = TWO if role is Role.LEADER else InstanceId(0)
    return RaftMessage(Term(term), TWO, role, leader, is_leader_seen=False, vclock=vclock)


def promote(term: int) -> ev.Event:
    body = Promote(ONE, Lsn(1), Term(term), Term(1))
    txn = xrow.encode_txn([Row(RowType.PROMOTE, TWO, Lsn(1), Lsn(1), 1, body)])
    return ev.TxnsReceived(TWO, [txn])


def demote(term: int) -> ev.Event:
    body = Demote(ONE, Lsn(1), Term(term), Term(1))
    txn = xrow.encode_txn([Row(RowType.DEMOTE, TWO, Lsn(1), Lsn(1), 1, body)])
    return ev.TxnsReceived(TWO, [txn])


FAR = Vclock({ONE: Lsn(2**61), TWO: Lsn(2**61)})
CARRIERS: dict[str, Callable[[int], ev.Event]] = {
    "frame": lambda term: ev.FrameTermSeen(Term(term)),
    "ack": lambda term: ev.AckReceived(TWO, ev.Ack(FAR, Term(term))),
    "hello": lambda term: ev.RelayConnected(TWO, ev.Ack(Vclock(), Term(term))),
    "accepted": lambda term: ev.ApplierFollowing(TWO, Vclock(), Term(term), Vclock()),
    "candidate": lambda term: ev.PeerRaftReceived(TWO, raft_message(term)),
    "leader": lambda term: ev.PeerRaftReceived(TWO, raft_message(term, Role.LEADER)),
    "follower": lambda term: ev.PeerRaftReceived(TWO, raft_message(term, Role.FOLLOWER)),
    "promote": promote,
    "demote": demote,
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("leap", [TERM_LEAP_MAX + 1, NUMBER_END - 1, U64])
def test_a_term_far_above_the_own_one_is_not_adopted(carrier: str, leap: int) -> None:
    """Nothing of what it came with is kept; the instance goes on, elections and a restart included."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.settle()
    term, wal = mesh[1].raft.volatile_term, len(mesh.members[1].wal)
    mesh.step(1, CARRIERS[carrier](min(term + leap, U64)))
    assert mesh[1].raft.volatile_term == term
    assert len(mesh.members[1].wal) == wal
    if carrier in ("candidate", "leader", "follower", "promote", "demote"):
        assert isinstance(mesh.members[1].stopped[2], RemoteProtocolError)
    call = mesh.write(1, (1,))
    mesh.settle()
    assert mesh.committed(call)
    mesh.promote(3)
    assert mesh[3].limbo.owner_id == 3
    mesh.crash(1)
    mesh.restart(1)
    mesh.settle()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_term_that_is_just_near_enough_is_adopted(carrier: str) -> None:
    mesh = Mesh(3)
    mesh.promote(1)
    term = mesh[1].raft.volatile_term
    mesh.step(1, CARRIERS[carrier](term + TERM_LEAP_MAX))
    assert mesh[1].raft.volatile_term == term + TERM_LEAP_MAX
    mesh.persist(1)
    mesh.crash(1)
    mesh.restart(1)
    assert mesh[1].raft.volatile_term == term + TERM_LEAP_MAX


def test_an_lsn_above_the_own_one_is_proof_of_loss_and_no_error() -> None:
    """S14: it may be the only one."""
    for event in (
        ev.ApplierFollowing(TWO, Vclock(), Term(1), FAR),
        ev.ApplierFollowing(TWO, FAR, Term(1), Vclock()),
    ):
        mesh = Mesh(3)
        mesh.step(1, event)
        assert not mesh.members[1].stopped
        assert not mesh[1].acks_count


@pytest.mark.parametrize("number", [NUMBER_END, 2**63, U64])
@pytest.mark.parametrize("make", [Confirm, Rollback, Promote, Demote])
def test_control_rows_with_numbers_out_of_bounds_stop_their_stream(make: Any, number: int) -> None:
    """They are not written either, though their verdict might be that they have no effect."""
    for at in range(3 if make in (Promote, Demote) else 1):
        values = [1, 1, 1]
        values[at] = number
        body = make(TWO, *values[: 3 if make in (Promote, Demote) else 1])
        mesh = Mesh(3)
        mesh.promote(1)
        wal = len(mesh.members[1].wal)
        kind = RowType[make.__name__.upper()]
        mesh.step(1, ev.TxnsReceived(TWO, [xrow.encode_txn([Row(kind, TWO, Lsn(1), Lsn(1), 1, body)])]))
        assert isinstance(mesh.members[1].stopped[2], RemoteProtocolError)
        assert len(mesh.members[1].wal) == wal


def test_a_confirm_of_what_comes_behind_it_stops_its_stream() -> None:
    """It would commit rows, unseen, that no quorum holds."""
    mesh = Mesh(3)
    mesh.promote(1)
    lsn = Lsn(mesh[2].vclock.get(ONE) + 1)
    confirm = Row(RowType.CONFIRM, ONE, lsn, lsn, 1, Confirm(ONE, Lsn(lsn + 5)))
    mesh.step(2, ev.TxnsReceived(ONE, [xrow.encode_txn([confirm])]))
    assert isinstance(mesh.members[2].stopped[1], RemoteProtocolError)
    assert mesh[2].limbo.confirmed_lsn < lsn


def test_an_old_log_with_such_numbers_is_still_read() -> None:
    """They were accepted once: only what comes from the network is judged."""
    lsn = Lsn(NUMBER_END + 7)
    write = row_body.dml_from_values(RowType.REPLACE, SYNC, value=(1,))
    txns = [
        xrow.encode_ops([write], TWO, lsn, 0),
        xrow.encode_txn([Row(RowType.CONFIRM, TWO, Lsn(lsn + 1), Lsn(lsn + 1), 1, Confirm(TWO, lsn))]),
    ]
    mesh = Mesh(2)
    mesh.crash(1)
    mesh.down[1] = [xrow.decode_txns(txn.data)[0] for txn in txns]
    mesh.restart(1)
    assert mesh[1].vclock.get(TWO) == lsn + 1
    assert mesh.rows(1) == [(1,)]


# --- clients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [NUMBER_END, 2**63, U64])
def test_numbers_of_clients_are_refused_where_they_name_nothing(number: int) -> None:
    """Each field of the client protocol that takes an LSN, a term or an id."""
    refused: list[Callable[[], object]] = [
        lambda: codec.min_vclock({1: number}),
        lambda: codec.min_vclock({32: 1}),
        lambda: codec.txn_id(common_pb2.TxnId(origin=1, lsn=number)),
        lambda: codec.txn_id(common_pb2.TxnId(origin=32, lsn=1)),
        lambda: codec.txn_id(common_pb2.TxnId(origin=1, lsn=0)),
        lambda: codec.expected_term(data_pb2.ExecuteRequest(expected_term=number)),
        lambda: codec.position(messages.request(known_position={"term": number, "lsn": 1})),
        lambda: codec.position(messages.request(known_position={"term": 1, "lsn": number})),
    ]
    for decode in refused:
        with pytest.raises(IllegalParams, match=r"nothing was done") as info:
            decode()
        assert info.value.details["field"] in ("min_vclock", "txn", "expected_term", "known_position")
    assert codec.min_vclock({0: 3, 1: 4}).get(ONE) == 4  # as `info` shows it


# --- whatever peers say ---------------------------------------------------------------------------------

any_terms = st.one_of(
    st.integers(0, 8), st.sampled_from([2**31, 2**32, 2**32 + 1, 2**33, 2**61, NUMBER_END - 1])
).map(Term)
any_lsns = st.one_of(st.integers(0, 30), st.sampled_from([2**40, NUMBER_END - 1])).map(Lsn)
any_vclocks = st.dictionaries(st.integers(1, 31).map(InstanceId), any_lsns, max_size=4).map(Vclock)
peers = st.sampled_from([2, 2, 3, 3, 31]).map(InstanceId)
any_ids = st.sampled_from([0, 1, 2, 3, 31]).map(InstanceId)
acks = st.builds(ev.Ack, any_vclocks, any_terms, any_lsns, st.booleans())
rafts = st.builds(
    RaftMessage, any_terms, any_ids, st.sampled_from(Role), any_ids, st.booleans(), st.none() | any_vclocks
)
said = st.one_of(
    st.builds(ev.FrameTermSeen, any_terms),
    st.builds(ev.AckReceived, peers, acks),
    st.builds(ev.RelayConnected, peers, acks),
    st.builds(ev.ApplierFollowing, peers, any_vclocks, any_terms, any_vclocks),
    st.builds(ev.PeerRaftReceived, peers, rafts),
    st.builds(ev.PeerRaftReceived, peers, rafts),
    st.builds(ev.HeartbeatReceived, peers, any_vclocks),
    st.builds(ev.ApplierLost, peers),
    st.builds(ev.RelayLost, peers),
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(list(ElectionMode)), st.booleans(), st.lists(st.tuples(said, st.booleans()), max_size=12)
)
def test_whatever_peers_say_the_instance_lives_and_restarts(
    mode: ElectionMode, leads: bool, heard: list[tuple[ev.Event, bool]]
) -> None:
    """In any order, to a leader and to a follower, with a write waiting, with and without the disk."""
    mesh = Mesh(3, election_mode=ElectionMode.OFF)
    mesh.promote(1 if leads else 2)
    mesh.isolate(1)
    mesh.step(1, ev.SettingsChanged(replace(mesh.settings, election_mode=mode)))
    mesh.write(1, (1,))
    for event, is_persisted in heard:
        mesh.step(1, event)
        if is_persisted:
            mesh.persist(1)
    while mesh.persist(1):
        pass
    for _ in range(3):
        mesh.now += 5.0
        mesh.step(1, ev.DeadlineReached())
        mesh.persist(1)
    term = mesh[1].raft.term
    mesh.crash(1)
    mesh.restart(1)
    assert mesh[1].raft.term == term


@pytest.mark.parametrize(
    "meta",
    [
        SnapshotMeta(term=Term(2**32 + 2)),
        SnapshotMeta(queue_term=Term(U64)),
        SnapshotMeta(promote_terms=((TWO, Term(2**61)),)),
        SnapshotMeta(vclock=Vclock({ONE: Lsn(NUMBER_END)})),
        SnapshotMeta(confirmed_vclock=Vclock({ONE: Lsn(U64)})),
        SnapshotMeta(confirmed_lsn=Lsn(NUMBER_END)),
    ],
)
def test_a_join_is_judged_before_anything_of_it_is_kept(meta: SnapshotMeta) -> None:
    """Who joins knows no term but the first; what is kept would be started from again and again."""
    with pytest.raises(RemoteProtocolError):
        join._check_meta(meta)
    join._check_meta(SnapshotMeta(term=Term(2**32), vclock=Vclock({ONE: Lsn(NUMBER_END - 1)})))


def test_rows_of_a_join_are_judged_too() -> None:
    far = Promote(ONE, Lsn(1), Term(2**32 + 2), Term(1))
    confirm = Confirm(TWO, Lsn(NUMBER_END))
    write = row_body.dml_from_values(RowType.REPLACE, SYNC, value=(1,))
    bad = [
        xrow.encode_txn([Row(RowType.PROMOTE, TWO, Lsn(5), Lsn(5), 1, far)]).data,
        xrow.encode_txn([Row(RowType.CONFIRM, ONE, Lsn(5), Lsn(5), 1, confirm)]).data,
        xrow.encode_ops([write], TWO, Lsn(NUMBER_END), 0).data,
        b"\x00" * 30,
    ]
    for data in bad:
        with pytest.raises(RemoteProtocolError):
            join._checked_rows(data)
    assert len(join._checked_rows(xrow.encode_ops([write], TWO, Lsn(7), 0).data)) == 1
