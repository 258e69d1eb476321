"""When a connection is tried again."""

from __future__ import annotations

import pytest

from synchro.wire.backoff import BACKOFF_GROWTH, BACKOFF_JITTER, BACKOFF_MAX_S, BACKOFF_MIN_S, Backoff


def test_pauses_grow_to_a_bound_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(lambda: 0.5)
    assert backoff.retry_at == 0
    pauses = []
    for _ in range(10):
        backoff.failed(100.0)
        pauses.append(backoff.retry_at - 100.0)
    assert pauses[:2] == pytest.approx([BACKOFF_MIN_S, BACKOFF_MIN_S * BACKOFF_GROWTH])
    assert pauses[-3:] == pytest.approx([BACKOFF_MAX_S] * 3)
    backoff.succeeded()
    assert backoff.retry_at == 0
    backoff.failed(200.0)
    assert backoff.retry_at == pytest.approx(200.0 + BACKOFF_MIN_S)


@pytest.mark.parametrize(("drawn", "share"), [(0.0, 1 - BACKOFF_JITTER), (1.0, 1 + BACKOFF_JITTER)])
def test_who_failed_together_does_not_come_back_together(drawn: float, share: float) -> None:
    backoff = Backoff(lambda: drawn)
    backoff.failed(0.0)
    assert backoff.retry_at == pytest.approx(BACKOFF_MIN_S * share)
