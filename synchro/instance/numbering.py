"""An anonymous instance becomes a member: when, and that all parts call it so from the same step on. [M-30],
ADR 45."""

from __future__ import annotations

from synchro.ids import InstanceId
from synchro.instance.parts import Parts


def number_given(state: Parts) -> InstanceId | None:
    """The id under which this instance, anonymous until now, is registered by a decided row; None: it is
    not."""
    if not state.is_anonymous:
        return None
    members = state.memtx.catalog.members()
    return next((number for number, (uuid, _) in members.items() if uuid == state.uuid), None)


def become_member(state: Parts, self_id: InstanceId) -> None:
    """Raft and the limbo still have to hear of the members, as whenever these change."""
    state.raft.registered_as(self_id)
    state.limbo.registered_as(self_id)
    state.log.registered_as(self_id)
    state.memtx.self_id = self_id
    state.self_id = self_id
