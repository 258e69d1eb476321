"""Tests that wait in vain end, and say for what."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio

PATIENCE_S: Final = 120.0
"""Of a test on trio; by the clock of its loop, which in many leaves stalls of the machine out."""


def ends(test: Callable[..., Awaitable[None]], patience_s: float) -> Callable[..., Awaitable[None]]:
    """The test, which fails where it waits for what never comes, and says where that is."""

    @functools.wraps(test)
    async def bounded(**fixtures: Any) -> None:
        lines: list[str] = []
        patience, watch = trio.CancelScope(), trio.CancelScope()

        async def run_out() -> None:
            """A scope with a deadline would be one that the test can see."""
            with watch:
                await trio.sleep(patience_s)
                patience.cancel()

        trio.lowlevel.spawn_system_task(run_out)
        with patience:
            try:
                await test(**fixtures)
            except BaseException as error:
                if patience.cancel_called:
                    lines = [line for one in _leaves(error) for line in _lines_of(one, test)]
                raise
            finally:
                watch.cancel()
        if patience.cancelled_caught:
            where = "; ".join(lines) or test.__name__
            pytest.fail(
                f"after {patience_s:.0f} s it still waits for what did not come: {where}", pytrace=False
            )

    return bounded


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]


def _lines_of(error: BaseException, test: Callable[..., Any]) -> list[str]:
    """The innermost line of the file of the test through which the error came."""
    file = inspect.getfile(inspect.unwrap(test))
    lines = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == file]
    return [f"{Path(file).name}:{one.lineno} {one.line}" for one in lines[-1:]]
