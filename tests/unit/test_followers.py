"""Anonymous followers that are away: how long the log is kept for them. [W-42], ADR 45."""

from __future__ import annotations

import itertools

import trio
from trio.testing import MockClock

from synchro.config import Settings
from synchro.ids import InstanceId
from synchro.server.followers import Followers
from synchro.vclock import EMPTY_VCLOCK


def test_who_comes_back_at_the_end_of_its_time_has_all_of_it_again() -> None:
    """It took a new snapshot, and its stream begins a moment later: the log behind it must be there."""
    clock = MockClock()
    numbers = itertools.count(33)
    settings = Settings(anon_ttl_s=60.0)

    async def main() -> None:
        followers = Followers(lambda: settings, lambda: InstanceId(next(numbers)))
        first = followers.admit("uuid-1", "reports", EMPTY_VCLOCK)
        clock.jump(59.0)
        assert followers.admit("uuid-1", "reports", EMPTY_VCLOCK) is first
        clock.jump(59.0)
        assert followers.find("uuid-1") is first
        clock.jump(2.0)
        assert followers.find("uuid-1") is None  # Followers.F2

    trio.run(main, clock=clock)
