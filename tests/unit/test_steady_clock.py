"""The clock of the tests of the shell."""

from __future__ import annotations

import time

import trio

from tests.steady_clock import STALL_S, SteadyClock


def test_a_stall_of_the_process_is_left_out_and_a_sleep_is_not() -> None:
    async def main() -> tuple[float, float]:
        began = trio.current_time()
        time.sleep(1.0)  # noqa: ASYNC251 - nobody in this process gets on
        await trio.lowlevel.checkpoint()
        stalled = trio.current_time() - began
        began = trio.current_time()
        await trio.sleep(0.3)
        return stalled, trio.current_time() - began

    stalled, slept = trio.run(main, clock=SteadyClock())
    assert STALL_S <= stalled < 0.5
    assert 0.3 <= slept < 0.6
