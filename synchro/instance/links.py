"""Links with peers, and what is heard on them of the own log: who follows whom, and may this instance be
trusted to vote and to count (amnesia, invariant S14; doubled identity, ADR 23)?"""

from __future__ import annotations

from synchro.ids import InstanceId, Lsn
from synchro.instance import events as ev
from synchro.instance.coupling import Coupling, Happening
from synchro.instance.parts import Parts
from synchro.instance.received import Received
from synchro.raft import messages as raft_ev
from synchro.replication.trust import Missing, Trust
from synchro.vclock import EMPTY_VCLOCK


class LinkFacts:
    """Each method tells a fact, steps raft and the limbo with what follows, and returns what happened.

    K1  A peer is healthy exactly while both streams stand: our relay to it, our applier from it [E-11].
    K2  While the own log is not trusted, the flag on disk is set, or asked to be in the step that runs: it
        outlives a crash.
    """

    __slots__ = ("_appliers", "_coupling", "_received", "_relays", "_state", "has_amnesia_flag", "trust")

    def __init__(self, state: Parts, coupling: Coupling, received: Received, trust: Trust) -> None:
        self._state = state
        self._coupling = coupling
        self._received = received
        self._relays: set[InstanceId] = set()
        self._appliers: set[InstanceId] = set()
        self.trust = trust
        self.has_amnesia_flag = not trust.is_trusted

    @property
    def subscribers(self) -> frozenset[InstanceId]:
        return frozenset(self._relays)

    def on_relay_connected(self, event: ev.RelayConnected, now: float) -> list[Happening]:
        """Its ack is looked at next, as any other, and then `health_changed`."""
        state, ack = self._state, event.ack
        self._relays.add(event.peer)
        state.readers_of_unnamed.said(event.peer, event.takes_unnamed)
        state.readers_of_users.said(event.peer, event.takes_users)
        state.readers_of_policies.said(event.peer, event.takes_policies)
        (state.without_sequences.discard if event.takes_sequences else state.without_sequences.add)(
            event.peer
        )
        happened = self._coupling.see_term(ack.term, now)
        unwritten = event.unwritten.get(state.self_id)
        if unwritten > state.log.vclock.get(state.self_id):
            self.trust.hear_unwritten(event.peer, unwritten)
            happened += self._lose_trust(now)  # it has rows of ours that are gone here, if not on its disk
        else:
            self.trust.hear_unwritten(event.peer, Lsn(0))
        first = ack.vclock if ack.counts else EMPTY_VCLOCK
        return happened + self._coupling.carry_out(state.limbo.forget_acks(event.peer, first, now))

    def on_relay_lost(self, peer: InstanceId, now: float) -> list[Happening]:
        self._relays.discard(peer)
        return self.health_changed(now)

    def on_applier_following(self, event: ev.ApplierFollowing, now: float) -> list[Happening]:
        state, own = self._state, self._state.log.vclock
        happened: list[Happening] = []
        if not own.covers(event.last_ack) or event.vclock.get(state.self_id) > own.get(state.self_id):
            # We acked what is not here, or the peer has rows of ours that are gone here.
            happened += self._lose_trust(now)
            self.trust.hear_own(event.peer, state.self_id, event.vclock.get(state.self_id))
        self._received.follows(event.peer)
        self._appliers.add(event.peer)
        happened += self._coupling.see_term(event.term, now)
        happened += self.health_changed(now)
        return happened + self.check_trust(now)

    def on_applier_lost(self, peer: InstanceId, now: float) -> list[Happening]:
        self._appliers.discard(peer)
        return self.health_changed(now) + self._coupling.step_raft(raft_ev.PeerUnseen(peer), now)

    def health_changed(self, now: float) -> list[Happening]:
        healthy = frozenset(self._relays & self._appliers)
        return self._coupling.step_raft(raft_ev.HealthChanged(healthy), now)

    # --- trust in the own log

    def on_ack(self, source: InstanceId, ack: ev.Ack, now: float) -> list[Happening]:
        """What it says of our log. Its term was seen before."""
        state = self._state
        happened: list[Happening] = []
        if ack.vclock.get(state.self_id) > state.log.vclock.get(state.self_id):
            happened += self._lose_trust(now)  # it has rows of ours that are gone here
            self.trust.hear_own(source, state.self_id, ack.vclock.get(state.self_id))
        if not ack.counts:
            self.trust.hear_forgetful(source)
        elif self.has_amnesia_flag:
            if self.trust.has_written(source, ack.vclock.get(state.self_id)):
                self.trust.hear(source, ack.vclock, ack.term)
            happened += self.check_trust(now)
        return happened

    def _lose_trust(self, now: float) -> list[Happening]:
        """Somebody has from us what our log has not: it was cut, or an old copy of it was put in its place.

        Then it may also lack rows that it acknowledged, and votes that it gave. If it counted on, a second
        quorum could form that has only this instance in common with the first, which has forgotten what that
        one confirmed. So from this very step on it neither votes nor counts, and the flag on disk says so
        before it is heard of again; it keeps following, until it has all that each member has.
        """
        if not self.trust.is_trusted:
            return []
        self.trust.lose()
        self.has_amnesia_flag = True
        self._state.outbox.add(ev.BeginAmnesia())
        return self._coupling.step_raft(raft_ev.TrustChanged(trusted=False), now)

    def check_trust(self, now: float) -> list[Happening]:
        """The flag outlives the trust: a vote of this very term may be forgotten, and only the flag on disk
        would say so after a restart."""
        state = self._state
        if not self.has_amnesia_flag or state.is_doubled:
            return []
        happened: list[Happening] = []
        if self.trust.update(state.who_may_know, state.log.vclock, state.raft.term):
            state.agenda.note_progress()
            happened = self._coupling.step_raft(raft_ev.TrustChanged(trusted=True), now)
        if self.trust.is_trusted and not state.raft.may_have_forgotten_vote:
            self.has_amnesia_flag = False
            state.outbox.add(ev.EndAmnesia())
        return happened

    def must_hear(self) -> dict[InstanceId, Missing]:
        """In amnesia: what is needed of which member before trust comes back; empty: nothing, or only a term
        in which no forgotten vote can matter."""
        state = self._state
        if self.trust.is_trusted:
            return {}
        return self.trust.missing(state.who_may_know, state.log.vclock, state.raft.term)

    # --- trust in the own identity

    def on_doubled_changed(self, is_doubled: bool, now: float) -> list[Happening]:
        """To raft it is as with a log that is not to be trusted; nothing of it is on disk. Afterwards raft
        holds that a vote of this term may be forgotten: the other one may have given it in our name."""
        state = self._state
        if is_doubled == state.is_doubled:
            return []
        state.is_doubled = is_doubled
        state.agenda.note_progress()
        happened: list[Happening] = []
        if self.trust.is_trusted:
            happened = self._coupling.step_raft(raft_ev.TrustChanged(trusted=not is_doubled), now)
        return happened + self.check_trust(now)

    def on_expulsion_told(self, queue_term: int | None) -> None:
        """A member says so for a row that is decided there, so nobody takes it back. The log says it after a
        restart, or whoever is asked then.

        One that has not seen our queue's last owner had no word in it: a deletion that a quorum decided would
        stand in our log, before that PROMOTE. It removed us alone, while it knew of no owner (ADR 41)."""
        if queue_term is not None and queue_term < self._state.limbo.term:
            return
        self._state.was_told_expelled = True
        self._state.agenda.note_progress()

    def check(self) -> None:
        assert self.trust.is_trusted or self.has_amnesia_flag  # LinkFacts.K2
