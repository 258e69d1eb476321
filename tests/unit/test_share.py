"""What joins take of the time of an instance, by design and not by luck."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synchro.replication.share import PAUSE_MAX_S, Share

pieces = st.lists(st.tuples(st.floats(0.0, 0.4), st.floats(0.0, 1.0)), min_size=1, max_size=50)
"""How long each takes, and how long its maker does something else before it asks."""


@given(pieces, st.sampled_from([0.1, 0.5, 1.0]))
def test_pieces_take_no_more_than_their_share(made: list[tuple[float, float]], share: float) -> None:
    """Share.F1: from the begin of the first piece to the moment at which the next one may begin."""
    keeper, now, busy = Share(share), 100.0, 0.0
    for took_s, away_s in made:
        now += away_s
        now += keeper.wait_s(now)
        keeper.took(now, now + took_s)
        now += took_s
        busy += took_s
    paused = all(took_s * (1 / share - 1) <= PAUSE_MAX_S for took_s, _ in made)
    assert not paused or busy <= share * (now + keeper.wait_s(now) - 100.0) + 1e-6


def test_who_is_alone_hardly_waits_and_who_shares_waits_as_long_as_it_took() -> None:
    """The same piece takes longer while others want the processor, and the pause grows with it."""
    keeper = Share(0.5)
    for began, took_s in ((1.0, 0.001), (2.0, 0.02)):
        keeper.took(began, began + took_s)
        assert abs(keeper.wait_s(began + took_s) - took_s) < 1e-9
    assert keeper.wait_s(2.03) > 0.0 == keeper.wait_s(2.05)


def test_a_process_that_was_stopped_is_not_made_to_wait_for_that() -> None:
    keeper = Share(0.5)
    keeper.took(0.0, 3600.0)
    assert keeper.wait_s(3600.0) == PAUSE_MAX_S
