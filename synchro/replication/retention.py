"""From where the log is kept. Rules [W-40]..[W-42]. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from synchro.ids import LOCAL, InstanceId
from synchro.vclock import EMPTY_VCLOCK, Vclock


def log_floor(
    oldest_snapshot: Vclock,
    *,
    members: Iterable[InstanceId],
    acked: Mapping[InstanceId, Vclock],
    joins: Iterable[Vclock],
    anonymous: Iterable[Vclock] = (),
) -> Vclock:
    """Vclock behind which somebody may still need rows: a recovery from the oldest snapshot kept, a join
    that goes on now, each other registered instance, each anonymous follower that is not forgotten.

    members: registered ones, without this instance. acked: what each of them has by its newest word; one that
    was not heard since the start may need everything. joins, anonymous: from where each of them needs it.
    """
    floor = oldest_snapshot
    needs = [*joins, *anonymous, *(acked.get(member, EMPTY_VCLOCK) for member in members)]
    for need in needs:
        # Local rows go to nobody: only recovery needs them.
        floor = floor.floor(need.replace(LOCAL, oldest_snapshot.get(LOCAL)))
    return floor
