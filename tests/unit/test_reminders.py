"""What is told of something that does not go on: how long it already lasts is true."""

from __future__ import annotations

import structlog
import trio
from trio.testing import MockClock

from synchro.config import PeerAddress
from synchro.server.reminders import AGAIN_S, Reminder
from synchro.server.upstream_log import UpstreamLog

DAY_S = 86_400.0


async def test_the_wait_begins_with_the_first_failure_not_with_the_day_before(
    autojump_clock: MockClock,
) -> None:
    with structlog.testing.capture_logs() as records:
        reminder = Reminder(structlog.get_logger())
        for _ in range(2):
            await trio.sleep(DAY_S)
            reminder.say("retry", "no answer")
            await trio.sleep(AGAIN_S + 1.0)
            reminder.say("retry", "no answer")
            reminder.ended()
    told = [(record["log_level"], record.get("waited_s")) for record in records]
    assert told == [("info", None), ("warning", round(AGAIN_S + 1.0))] * 2


async def test_a_second_address_of_an_instance_that_is_followed_is_told_once(
    autojump_clock: MockClock,
) -> None:
    """Nothing fails, so a failure afterwards is a new one."""
    with structlog.testing.capture_logs() as records:
        told = UpstreamLog(structlog.get_logger(), PeerAddress("instance001", "127.0.0.1:3301"))
        for at in range(10):
            told.waits("uuid", "it is the same instance", is_new=at == 0)
            await trio.sleep(AGAIN_S)
        told.will_retry("no answer", 1.0, kind="no answer")
    assert [(record["event"], record["log_level"]) for record in records] == [
        ("upstream_waits", "warning"),
        ("upstream_retry", "info"),
    ]
