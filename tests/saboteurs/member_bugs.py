"""Planted bugs of changes: of quorums (ADR 38), of members (ADR 41), of owners in a healthy set (ADR 40)."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

from synchro.ids import InstanceId
from synchro.instance.parts import Parts
from synchro.queue.quorum import Acks
from synchro.raft.core import Raft
from tests.saboteurs.planted import saboteur
from tests.sim.world import World


def _changes_quorums(world: World) -> bool:
    return world.changes.is_on and "quorum" in world.changes.kinds and not world.leavers.is_on


def _loses_members(world: World) -> bool:
    return world.leavers.is_on


def _is_handed_over(world: World) -> bool:
    return world.calm.is_handed_over


# --- quorums that change while transactions wait


@saboteur("ADR 38", "S3", seeds=60, first=18, worlds=_changes_quorums)
def what_waits_is_judged_by_the_quorum_of_its_time() -> Iterator[None]:
    """A quorum that is raised counts for nothing that this owner has."""
    changed = Acks.members_changed

    def stubborn(self: Acks, registered: frozenset[InstanceId], quorum: int) -> None:
        is_raised = registered == getattr(self, "registered", None) and quorum > self.quorum
        changed(self, registered, self.quorum if is_raised else quorum)

    with patch.object(Acks, "members_changed", stubborn):
        yield


# --- members that leave


@saboteur("ADR 41", "S3", seeds=60, first=11, worlds=_loses_members)
def who_leaves_counts_until_that_is_decided() -> Iterator[None]:
    with patch.object(Parts, "counting", Parts.registered):
        yield


# --- who takes a queue over in a healthy set


@saboteur("ADR 40", "S30", seeds=60, first=753, worlds=_is_handed_over)
def who_is_elected_leads_at_once() -> Iterator[None]:
    """What the former owner wrote just before is on its way still, and is rolled back: Raft.R15."""
    with patch.object(Raft, "_has_all_rows", True):
        yield
