"""What instances tell the command line about themselves, made by hand."""

from __future__ import annotations

from typing import Any

from synchro.cli.picture import Picture, assemble
from synchro.client.errors import CannotConnect
from synchro.ro_reason import RoReason


def info(
    number: int, *, ro: bool = True, reason: RoReason = RoReason.ELECTION, owner: int = 1, **more: Any
) -> Any:
    return {
        "id": number,
        "name": f"instance00{number}",
        "status": "running",
        "ro": ro,
        "ro_reason": reason.value if ro else None,
        "vclock": {0: 3, 1: 14},
        "pid": 1,
        "replicaset": {"name": "replicaset001"},
        "election_mode": "candidate",
        "election": {"state": "follower" if ro else "leader", "term": 3, "leader": owner},
        "synchro": {"queue": {"owner": owner, "term": 3, "len": 0}, "quorum": 2},
        "replication": {
            1: {"id": 1, "name": "instance001"},
            2: {
                "id": 2,
                "name": "instance002",
                "upstream": {"status": "follow", "idle": 0.2},
                "downstream": {"status": "follow", "behind": {"rows": 0, "seconds": 0.0}},
            },
            3: {"id": 3, "name": "instance003", "upstream": {"status": "disconnected", "idle": 31.0}},
        },
    } | more


def picture(*infos: Any) -> Picture:
    answers: dict[str, Any] = {
        f"127.0.0.1:330{number}": found
        if found is not None
        else CannotConnect("cannot connect: connection refused")
        for number, found in enumerate(infos, 1)
    }
    names = {f"127.0.0.1:330{number}": f"instance00{number}" for number in range(1, len(infos) + 1)}
    return assemble(answers, names, None)
