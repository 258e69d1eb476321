"""What an upstream is told of us, and when it must be told anew."""

from __future__ import annotations

from synchro.ids import InstanceId, Lsn
from synchro.server.own_acks import OwnAcks
from synchro.server.peer_messages import Hello
from synchro.vclock import Vclock


def test_rows_that_the_hello_named_are_asked_for_again_when_the_disk_had_no_room_for_them() -> None:
    """ADR 9: the peer, which has lost them, waits until they are written here; only a new Hello says that
    they are gone."""
    there, named = Vclock({InstanceId(2): Lsn(5)}), Vclock({InstanceId(2): Lsn(10)})
    acks = OwnAcks()
    acks.asked(Hello("set", "uuid", "name", there, term=1, credit=1, unwritten=named))  # type: ignore[arg-type]
    acks.accepted()
    assert not acks.are_there(there)
    assert acks.are_there(named)
    acks.asked(Hello("set", "uuid", "name", there, term=1, credit=1))  # type: ignore[arg-type]
    acks.accepted()
    assert acks.are_there(there)
