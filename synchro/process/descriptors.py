"""How many descriptors this process may have, and who may have them.

Files come first, then the links to peers, then clients: an instance that cannot open a new log file, or reach
its peers, is of no use to a client.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import Any, Final

from synchro.config import RESERVED_DESCRIPTORS, Settings
from synchro.ids import INSTANCE_ID_MAX
from synchro.storage.disk import RESERVE

FILES: Final = 8
"""Opened later: a snapshot, a log that a relay reads, what the libraries open."""
PER_PEER: Final = 2
"""A connection to each peer, and the attempt that replaces it."""
CLIENTS_MIN: Final = 8
"""Fewer connections than this beyond those of the peers are worth a warning."""


@dataclass(frozen=True, slots=True)
class Share:
    """connections: incoming ones at most; peers: how many of them are kept for peers."""

    connections: int
    peers: int


def plan(settings: Settings, log: Any) -> Share:
    """Raise the soft limit to the hard one, hold the reserve, and share the rest. Several instances of one
    process each plan with what the others have left."""
    limit = _raise_limit()
    reserved = RESERVE.hold(RESERVED_DESCRIPTORS)
    peers = min(int(INSTANCE_ID_MAX), max(1, len(settings.peers) - 1)) + 1  # one more joins, or comes again
    wanted = settings.limits.connections_max
    if limit is None:
        return Share(wanted, min(peers, wanted))
    free = limit - _open_now() - FILES - PER_PEER * peers
    connections = max(1, min(wanted, free))
    if connections < min(wanted, peers + CLIENTS_MIN) or reserved < RESERVED_DESCRIPTORS:
        log.warning(
            "descriptors_scarce",
            limit=limit,
            connections=connections,
            message="too few open files are allowed for clients: raise RLIMIT_NOFILE (ulimit -n)",
        )
    return Share(connections, min(peers, connections))


def _raise_limit() -> int | None:
    """The limit that is in force; None: there is none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):  # forbidden here, or no number that the system takes
            pass
    return None if soft == resource.RLIM_INFINITY else soft


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 64  # another system: about what an instance has
