"""Members that the file no longer names are removed, by the one that may write. Rule [C-45], ADR 45.

By the file, never because a process does not answer. Which members a file leaves out is seen when it is
read: one that joins later stands in a newer file, which this instance has not read. Each removal is that of
`synchro member expel`, one at a time, and before each the file is looked at once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from synchro.config import Settings
from synchro.errors import ConfigError, QuorumWait
from synchro.ids import InstanceId
from synchro.instance import events as ev
from synchro.row import RowType
from synchro.server.node import Node
from synchro.storage import row_body, schema


def left_out(
    settings: Settings, members: Mapping[InstanceId, tuple[str, str | None]], own_uuid: str
) -> dict[str, str]:
    """UUID -> name of the members whose name has the prefix and is not in the file, this instance aside."""
    prefix = settings.autoexpel_prefix
    if not settings.autoexpel_enabled or settings.autoexpel_by is None or not prefix:
        return {}
    return {
        uuid: name
        for uuid, name in members.values()
        if name is not None
        and uuid != own_uuid
        and name.startswith(prefix)
        and name not in settings.configured
    }


class Autoexpel:
    """A1  Only who was left out when the file was read is removed.
    A2  Only while this instance may write, and only what the file on disk does not name now either.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._read = -1
        """`node.config_reads` when it was seen who is left out."""
        self._left_out: dict[str, str] = {}
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled."""
        node = self._node
        while True:
            if self._read != node.config_reads:
                self._read = node.config_reads
                members = node.core.memtx.catalog.members()
                self._left_out = left_out(node.settings, members, node.uuid)
                self._said.clear()
            if self._left_out and node.core.is_writable:
                await self._expel_next()
            if self._read == node.config_reads:
                await node.pause(node.settings.retry_s if self._left_out else math.inf)

    async def _expel_next(self) -> None:
        node = self._node
        numbers = {uuid: number for number, (uuid, _) in node.core.memtx.catalog.members().items()}
        self._left_out = {
            uuid: name for uuid, name in self._left_out.items() if uuid in numbers
        }  # Autoexpel.A1
        for uuid in sorted(self._left_out, key=lambda uuid: numbers[uuid]):
            if not await self._look_at_file() or not node.core.is_writable:
                return
            if uuid in self._left_out and await self._expel(uuid, numbers[uuid]):
                return

    async def _look_at_file(self) -> bool:
        """Whose name is in it again stays (Autoexpel.A2). False: it cannot be read, or was read anew."""
        node = self._node
        try:
            now = await node.configuration.names() if node.configuration is not None else frozenset()
        except ConfigError as error:
            self._say("the file", f"the file cannot be read: {error.message}")
            return False
        self._left_out = {uuid: name for uuid, name in self._left_out.items() if name not in now}
        return self._read == node.config_reads

    async def _expel(self, uuid: str, number: InstanceId) -> bool:
        """False: it could not be decided, which may be otherwise for another one."""
        node, name = self._node, self._left_out[uuid]
        op = row_body.dml_from_values(RowType.DELETE, schema.CLUSTER_ID, key=(int(number),))
        outcome = await node.calls.call(
            lambda call_id: ev.ClientWrites([ev.ClientWrite(call_id, (op,))]),
            timeout_s=node.settings.txn_synchro_timeout_s,
        )
        match outcome:
            case ev.Committed():
                del self._left_out[uuid]
                node.log.warning(
                    "member_autoexpelled", member=name, id=number, message="the file does not name it"
                )
                return True
            case ev.Rejected(error=why) | ev.OutcomeUnknown(error=why):
                self._say(name, f"{name} is not in the file, and not removed yet: {why.message}")
                return not isinstance(why, QuorumWait)
            case _:
                raise AssertionError(f"unexpected outcome {outcome}")

    def _say(self, about: str, message: str) -> None:
        """Once, until it is something else. about: a name, or the file."""
        if self._said.get(about) != message:
            self._said[about] = message
            self._node.log.warning("autoexpel_waits", message=message, retry_s=self._node.settings.retry_s)
