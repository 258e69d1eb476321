"""The asynchronous client in a trio program."""

from __future__ import annotations

from typing import Any

from synchro.client.aio import AsyncClient
from synchro.client.plans import Plans
from synchro.client.task_runner import TaskRunner
from synchro.client.trio_runner import TrioRunner


class TrioClient(AsyncClient):
    """`AsyncClient` for trio tasks. Belongs to one trio run, and is used inside `async with` only.

    Everything goes on in the trio thread, callbacks too. What a callback of `on_change` raises ends its
    watch, and is logged.
    """

    def _new_runner(self, plans: Plans) -> TaskRunner[Any]:
        return TrioRunner(plans, self)


__all__ = ["TrioClient"]
