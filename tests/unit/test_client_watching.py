"""A transaction is watched at one instance after the other [Q-48]: what is told of what they say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from synchro.client.errors import CannotConnect, ConnectionLost
from synchro.client.plans import ClientOptions, Pause, Plan, Plans
from synchro.client.replies import TxnState
from synchro.client.watching import Sought, TransactionWatch
from synchro.errors import SynchroError
from synchro.rpc.generated.v1 import common_pb2, data_pb2

Said = tuple[str, Sequence[int]]


class World:
    def __init__(self, *, waits: bool = True) -> None:
        self.now = 0.0
        self.plans = Plans(("a:1", "b:1"), ClientOptions(wait_for_connection=waits), lambda: self.now)
        request = data_pb2.WatchTransactionRequest()
        self.watch = TransactionWatch(self.plans, request, (1, 9), 10.0)

    def carry_out(self, plan: Plan[None]) -> None:
        for step in plan:
            assert isinstance(step, Pause)
            self.now += step.seconds

    def hear(self, *said: Said, has: int = 0) -> list[TxnState]:
        """What is told of what one instance says, one stream long."""
        value = self.watch.changes().value
        header = common_pb2.Header(vclock={1: has})
        replies = [
            data_pb2.WatchTransactionResponse(
                header=header,
                stage=data_pb2.TransactionStage.Value(f"TRANSACTION_STAGE_{stage.upper()}"),
                acked_by=acked,
                quorum=2,
            )
            for stage, acked in said
        ]
        return [state for reply in replies if (state := value(reply)) is not None]


def stages(told: list[TxnState]) -> list[tuple[str, int]]:
    return [(state.stage, len(state.acked_by)) for state in told]


def test_another_instance_tells_only_what_lies_behind() -> None:
    """TransactionWatch.V1: it knows of fewer acks than the former owner did, and then of more."""
    world = World()
    assert stages(world.hear(("submitted", []), ("on_disk", [1, 2]))) == [("submitted", 0), ("on_disk", 2)]
    world.carry_out(world.watch.lost(ConnectionLost("gone")))
    assert world.hear(("submitted", []), ("on_disk", [2]), ("on_disk", [2, 3])) == []
    world.carry_out(world.watch.lost(ConnectionLost("gone")))
    assert stages(world.hear(("on_disk", [2]), ("on_disk", [1, 2, 3]))) == [("on_disk", 3)]
    assert stages(world.hear(("committed", []))) == [("committed", 0)]
    assert world.watch.is_over and world.watch.last_word() is None


def test_the_same_instance_tells_every_change() -> None:
    """A member that was removed takes its ack with it."""
    told = World().hear(("on_disk", [1, 2]), ("on_disk", [1]))
    assert stages(told) == [("on_disk", 2), ("on_disk", 1)]


def test_it_ends_in_time_with_a_pause_between_two_questions() -> None:
    """TransactionWatch.V2, and the last word is that it is not known."""
    world, asked = World(), 0
    while not world.watch.is_over:
        asked += 1
        before = world.now
        assert world.hear(("unknown", []), has=8) == []
        world.carry_out(world.watch.ended())
        assert world.watch.is_over or world.now > before
    assert world.now == pytest.approx(10.0) and asked < 60
    last = world.watch.last_word()
    assert last is not None and last.stage == "unknown"


def test_who_is_refused_after_the_beginning_may_come_back() -> None:
    """wait_for_connection=False is about the beginning."""
    world = World(waits=False)
    with pytest.raises(CannotConnect):
        world.carry_out(world.watch.lost(CannotConnect("connection refused")))
    world = World(waits=False)
    world.hear(("on_disk", [1]))
    world.carry_out(world.watch.lost(CannotConnect("connection refused")))
    world.now = 10.0
    with pytest.raises(SynchroError):
        world.carry_out(world.watch.lost(CannotConnect("connection refused")))


def test_who_has_later_rows_and_does_not_know_it_never_will() -> None:
    """Its rows may have come between the answer and the header: the second answer counts."""
    before, after = common_pb2.Header(vclock={1: 8}), common_pb2.Header(vclock={1: 9})
    sought = Sought((1, 9))
    assert [sought.may_come(header, "a:1") for header in (before, after, after)] == [True, True, False]
    sought = Sought((1, 9))
    assert [sought.may_come(after, place) for place in ("a:1", "b:1", "b:1")] == [True, True, False]
    assert all(Sought(None).may_come(after, "a:1") for _ in range(3)), "a request id may come at any time"
    assert Sought((7, 1)).may_come(after, "a:1")
