"""A test that waits for what never comes fails with a sentence."""

from __future__ import annotations

import pytest
import trio

from tests.mesh import until
from tests.patience import ends


async def waits_for_ever(event: trio.Event) -> None:
    await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await event.wait()


async def test_a_test_on_trio_names_the_line_at_which_it_waits() -> None:
    with pytest.raises(
        pytest.fail.Exception, match=r"still waits .*test_patience.py:\d+ await event.wait\(\)"
    ):
        await ends(waits_for_ever, 0.01)(event=trio.Event())


async def test_a_test_that_ends_in_time_is_left_alone() -> None:
    there = trio.Event()

    async def waits(event: trio.Event) -> None:
        await event.wait()
        raise ValueError("its own")

    there.set()
    with pytest.raises(ValueError, match="its own"):
        await ends(waits, 5)(event=there)


def test_a_story_says_what_did_not_come() -> None:
    with pytest.raises(AssertionError, match=r"^a leader: it did not come"):
        for _ in until(lambda: False, "a leader"):
            pass
