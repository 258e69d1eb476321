"""What a client remembers of the replies it saw."""

from __future__ import annotations

from typing import Any

from synchro.client.encoding import frame_position
from synchro.rpc.generated.v1 import common_pb2


class Session:
    """Not locked: its owner guards it."""

    def __init__(self) -> None:
        self.position: Any = None
        """The newest decided position seen in any header: `known_position` of a call that is sent now."""
        self.frame_position = b""
        """`known_position` of an ExecuteStreamRequest, encoded as that field."""
        self.vclock: dict[int, int] = {}
        """What this client wrote: a read that must show it waits for this."""
        self.schema_version = 0
        """Rises whenever an instance has other definitions than it had when it answered last."""
        self._versions: dict[tuple[str, int], int] = {}
        """Each instance counts for itself: what it said last."""
        self.good_endpoint: str | None = None
        """Where reads go that need not go to the leader."""

    def see(self, header: Any) -> None:
        if header.HasField("decided_position"):
            seen, known = header.decided_position, self.position
            if known is None or (seen.term, seen.lsn) > (known.term, known.lsn):
                # A new object: calls in the making hold the old one.
                self.position = common_pb2.Position(term=seen.term, lsn=seen.lsn)
                self.frame_position = frame_position(self.position)
        instance = header.replicaset_uuid, header.instance_id
        if header.schema_version and self._versions.get(instance) != header.schema_version:
            self._versions[instance] = header.schema_version
            self.schema_version += 1

    def wrote_txn(self, origin: int, lsn: int) -> None:
        if lsn > self.vclock.get(origin, 0):
            self.vclock[origin] = lsn

    def wrote(self, reply: Any) -> None:
        """The reply to any other change than a transaction; without `txn` nothing was written."""
        if "txn" in reply.DESCRIPTOR.fields_by_name and reply.HasField("txn"):
            self.wrote_txn(reply.txn.origin, reply.txn.lsn)
