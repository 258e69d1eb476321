"""From where the log is kept, and for whom. Rules [W-18], [W-40]..[W-43]. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from synchro.ids import LOCAL, InstanceId
from synchro.vclock import EMPTY_VCLOCK, Vclock


def log_floor(
    oldest_snapshot: Vclock,
    *,
    members: Iterable[InstanceId],
    acked: Mapping[InstanceId, Vclock],
    joins: Iterable[Vclock],
    anonymous: Iterable[Vclock] = (),
    retained: Vclock | None = None,
) -> Vclock:
    """Vclock behind which somebody may still need rows: a recovery from the oldest snapshot kept, a join
    that goes on now, each other registered instance, each anonymous follower that is not forgotten.

    members: registered ones, without this instance. acked: what each of them has by its newest word; one that
    was not heard since the start may need everything. joins, anonymous: from where each of them needs it.
    retained: as `retained_from` gives it.
    """
    floor = oldest_snapshot
    needs = [*joins, *anonymous, *(acked.get(member, EMPTY_VCLOCK) for member in members)]
    for need in needs:
        floor = floor.floor(without_local_rows(need, oldest_snapshot))
    return floor if retained is None else floor.floor(retained)


def without_local_rows(need: Vclock, oldest_snapshot: Vclock) -> Vclock:
    """`need` of somebody else: local rows go to nobody, only recovery needs them."""
    return need.replace(LOCAL, oldest_snapshot.get(LOCAL))


def retained_from(
    files: Sequence[tuple[Vclock, float]], *, now: float, period_s: float, paused_until: float
) -> Vclock | None:
    """Start of the oldest closed file that is kept because of its age [W-18], [W-43]; None: none is.

    files: (start, time of the last write) of each closed one, oldest first. paused_until: until then none
    goes. Times are those of the wall clock, in seconds; a file that seems to be of the future is kept.
    """
    for start, written_at in files:
        if now < paused_until or now - written_at < period_s:
            return start
    return None


def kept_for(end_of_oldest: Vclock, needs: Mapping[str, Vclock]) -> list[str]:
    """Who needs rows of the oldest file of the log, so that it stays.

    end_of_oldest: its last vclock. needs: name of somebody, or of an option -> vclock behind which rows are
    needed.
    """
    return [name for name, need in needs.items() if not need.covers(end_of_oldest, with_local=True)]
