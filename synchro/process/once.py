"""The operations under `once:` in the file, run by the one instance whose turn it is. [D-25], ADR 47.

Whoever owns the queue runs them; without an owner the member with the lowest id does, which made the set: of
two masters with one file only one begins. A key that was done before, by whomever, is left alone for ever.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, cast

import trio

from synchro.errors import Retry, SynchroError, SyncRollback, TransactionConflict
from synchro.ids import NOBODY, InstanceId
from synchro.rpc.once import run_once
from synchro.rpc.schema_form import run_once as request_of
from synchro.rpc.slices import Slices
from synchro.server.api import WatchFacts
from synchro.server.face import Face
from synchro.storage.schema import SCHEMA_ID
from synchro.storage.system_rows import once_key

RETRY_S: Final = 1.0
"""Between two tries of what may work by itself later."""


async def run_configured(face: Face) -> None:
    """Each key once in the life of the set; ends when all are done, or refused."""
    keys = list(face.node.settings.once)
    while keys := [key for key in keys if not _is_done(face, key)]:
        if not await _wait_for_turn(face, keys):
            return
        for key in list(keys):
            if not await _run(face, key):
                break  # later
            keys.remove(key)
        else:
            return
        await trio.sleep(RETRY_S)


def _is_done(face: Face, key: str) -> bool:
    if not face.node.has_core:
        return False
    return face.node.core.memtx.get(SCHEMA_ID, 0, (once_key(key),)) is not None


async def _wait_for_turn(face: Face, keys: list[str]) -> bool:
    """Until it is this instance that runs them. False: somebody has, or the instance stops."""
    has_said = False
    async with aclosing(cast("AsyncGenerator[WatchFacts]", face.watch())) as changes:
        async for facts in changes:
            if not facts.can_read:
                continue
            runner = _runner(face, facts)
            if facts.is_writable and runner == face.node.core.self_id:
                return True
            if all(_is_done(face, key) for key in keys):
                return False
            if facts.is_writable and not has_said:
                has_said = True
                name = face.node.core.state.name_of(runner) or str(runner)
                face.node.log.info(
                    "once_waits",
                    keys=keys,
                    message=f"without an owner of the queue {name} runs what stands under once, when it is "
                    "writable",
                    next="synchro once KEY FILE",
                )
    return False


def _runner(face: Face, facts: WatchFacts) -> InstanceId:
    if facts.queue_owner != NOBODY:
        return facts.queue_owner
    core = face.node.core
    return min(core.memtx.catalog.members(), default=core.self_id)


async def _run(face: Face, key: str) -> bool:
    """False: try again later."""
    try:
        await run_once(face, Slices(), request_of(key, face.node.settings.once[key]))
    except (SyncRollback, TransactionConflict):
        return False
    except SynchroError as error:
        if error.retry is not Retry.REFUSED:
            return False
        face.node.log.warning(
            "once_failed",
            key=key,
            reason=error.reason,
            message=error.message,
            next="mend once in the file, then synchro restart; or synchro once KEY FILE",
        )
    return True
