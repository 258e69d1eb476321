"""What the parts of one instance share, and questions about it that need more than one of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from synchro.config import ElectionMode, Settings
from synchro.errors import (
    Loading,
    NotLeader,
    ReadOnly,
    RemoteProtocolError,
    SynchroError,
    SyncQueueForeign,
    SyncQueueUnclaimed,
)
from synchro.ids import NOBODY, TERM_LEAP_MAX, CallId, InstanceId, Term
from synchro.instance import events as ev
from synchro.instance.log_tail import LogTail
from synchro.instance.pending_txn import Call
from synchro.queue.fates import Drops
from synchro.queue.limbo import Limbo, QueueState
from synchro.queue.request_table import RequestTable
from synchro.raft.core import Raft
from synchro.raft.messages import Membership
from synchro.row import Dml
from synchro.storage import schema
from synchro.storage.memtx import Memtx
from synchro.vclock import Vclock

OWN_ROWS_LOST: Final = "waiting to receive its own transactions back from the replicaset"
"""`ro_reason` of an instance whose log is not known to be complete [E-42]."""
DOUBLED: Final = "doubled"
"""`ro_reason` while another live process has the identity of this one (ADR 23)."""


@dataclass(slots=True)
class State:
    """The parts, the calls that wait, and the effects of the step that runs.

    progressed: something happened that may let waiting work go on; looked at before a step ends.
    membership_touched: a `_cluster` row was prepared, decided or undone.
    """

    self_id: InstanceId
    settings: Settings
    memtx: Memtx
    limbo: Limbo
    raft: Raft
    log: LogTail
    requests: RequestTable
    drops: Drops
    decided: ev.Position
    effects: list[ev.Effect] = field(default_factory=list)
    replies: list[ev.Reply] = field(default_factory=list)
    calls: dict[CallId, Call] = field(default_factory=dict)
    no_room: SynchroError | None = None
    """Why the last rows of data were cut back from the log; None: the disk has taken some since."""
    registering: dict[CallId, InstanceId] = field(default_factory=dict)
    """calls that ask for a `_cluster` row, and the id it gives"""
    is_stopping: bool = False
    """Nothing new is admitted (ADR 18)."""
    conflicts_skipped: dict[InstanceId, int] = field(default_factory=dict)
    """origin -> its rows that this process stored as Nops [A-35]"""
    progressed: bool = False
    membership_touched: bool = False
    is_doubled: bool = False
    """Another live process has our identity (ADR 23)."""

    # --- answers

    def reply(self, call_id: CallId, outcome: ev.Outcome) -> None:
        self.forget_call(call_id)
        self.replies.append(ev.Reply(call_id, outcome))

    def reply_together(self, calls: Iterable[CallId], outcome: ev.Outcome) -> None:
        """To writes of clients: they register nothing."""
        for call_id in calls:
            self.calls.pop(call_id, None)
            self.replies.append(ev.Reply(call_id, outcome))

    def refuse(self, call_id: CallId, error: SynchroError) -> None:
        self.reply(call_id, ev.Rejected(error))

    def forget_call(self, call_id: CallId) -> Call | None:
        if self.registering:
            self.registering.pop(call_id, None)
        return self.calls.pop(call_id, None)

    def announce(self) -> None:
        """Put the CONFIRM of what was committed here into the log, ahead of what is numbered next."""
        body = self.limbo.announce()
        if body is not None:
            self.log.append_own_control(body, self.log.next_lsn(self.self_id), is_barrier=False)

    def registered_as(self, instance: InstanceId) -> ev.Registered:
        """Whoever reads the log up to this vclock has the `_cluster` row, and the CONFIRM that decided it."""
        self.announce()
        return ev.Registered(instance, Vclock(self.log.assigned))

    def notice(self, event: str, *, is_warning: bool = False, **facts: object) -> None:
        self.effects.append(ev.Notice(event, facts, is_warning))

    # --- who is who

    @property
    def registered(self) -> frozenset[InstanceId]:
        """Members whose `_cluster` row is committed [M-51]."""
        return frozenset(self.memtx.catalog.members())

    def election_membership(self) -> Membership:
        """N of elections counts every `_cluster` row in the own WAL, decided or not (ADR 6)."""
        members = frozenset(self.memtx.catalog.prepared_members())
        return Membership(members, self.settings.synchro_quorum.quorum(len(members)))

    def name_of(self, instance: InstanceId) -> str:
        member = self.memtx.catalog.members().get(instance)
        return (member[1] or member[0]) if member is not None else ""

    def check_term(self, term: Term) -> None:
        """Raises `RemoteProtocolError` for a term that no peer can have reached; nothing of it is kept."""
        if term - self.raft.volatile_term > TERM_LEAP_MAX:
            raise RemoteProtocolError(
                f"term {term} of a peer is more than 2^32 above {self.raft.volatile_term}, the one known "
                "here; it was not adopted",
                term=term,
                known=self.raft.volatile_term,
            )

    # --- who may write

    def read_only_reason(self) -> str | None:
        """First match of [E-42], None when writable [E-40].

        election: "synchro", while no leader is seen and there are elections; the next owner is not known yet.
        """
        if self.is_doubled:
            return DOUBLED
        has_elections = self.settings.election_mode is not ElectionMode.OFF
        if (
            self.limbo.state is QueueState.REPLICA
            or self.raft.volatile_term > self.limbo.term
            or (has_elections and not self.raft.is_leader)
        ):
            return "election" if has_elections and not self.raft.is_leader_seen else "synchro"
        if self.settings.read_only:
            return "config"
        # Its own rows may be among what the log lost: a new one would take an LSN that peers know [M-38],
        # [L-24].
        return None if self.raft.trusted else OWN_ROWS_LOST

    def read_only_error(self, reason: str) -> ReadOnly:
        """[E-44], [A-60]"""
        raft, limbo = self.raft, self.limbo
        leader = raft.leader if raft.is_leader_seen else NOBODY  # one that fell silent is no place to go to
        facts: dict[str, object] = {}
        if reason == "config":
            text = "the configuration says so (database.mode: ro, or failover: manual with another leader)"
        elif reason == DOUBLED:
            text = (
                "another live process has the identity of this one (a copied data directory?): "
                "stop one of the two"
            )
        elif reason == OWN_ROWS_LOST:
            text = (
                "it has lost some of its own transactions and is waiting to receive them back from "
                "the replicaset"
            )
        else:
            text = f"state is election {raft.role.name.lower()} with term {raft.volatile_term}"
            if leader != NOBODY:
                text += f", leader is {leader} ({self.name_of(leader)})"
            text += f", synchro queue with term {limbo.term} belongs to {limbo.owner_id}"
            if limbo.owner_id != NOBODY:
                text += f" ({self.name_of(limbo.owner_id)})"
            if limbo.owner_id == self.self_id:
                text += " and is frozen until promotion"
            facts = {"state": raft.role.name.lower(), "queue_term": limbo.term}
        text += "; nothing was written"
        if self.no_room is not None:
            file = self.no_room.details.get("file", "its log")
            text += f". The disk had no room for its last rows ({file}). Next: free space there"
            facts["disk"] = file
        return ReadOnly(
            f"Can't modify data on a read-only instance - {text}",
            ro_reason=reason,
            term=raft.volatile_term,
            owner=limbo.owner_id,
            leader=leader or None,
            **facts,
        )

    def stopping_error(self) -> SynchroError:
        return Loading("The instance is stopping; nothing was done", stage="stopping")

    def is_never_read_only(self, op: Dml) -> bool:
        """Local and temporary data, and the definitions of temporary spaces [D-4], [L-22]."""
        if schema.is_ddl_space(op.space_id):
            named = op.value or op.key or (0,)
            return isinstance(named[0], int) and named[0] >= schema.TEMPORARY_ID_MIN
        space = self.memtx.catalog.space(op.space_id)
        return space.is_local or space.is_temporary

    def not_owner_error(self) -> SynchroError:
        owner = self.limbo.owner_id
        if owner == NOBODY:
            return SyncQueueUnclaimed(
                "The synchronous transaction queue doesn't belong to any instance; nothing was read. "
                "Next: synchro promote NAME"
            )
        if owner == self.self_id:
            return SyncQueueForeign(
                "The synchronous transaction queue is frozen until promotion; nothing was read. "
                f"Next: synchro promote {self.name_of(owner)}",
                owner=owner,
            )
        return SyncQueueForeign(
            f"The synchronous transaction queue belongs to other instance with id {owner} "
            f"({self.name_of(owner)}); nothing was read",
            owner=owner,
        )

    def not_giver_error(self) -> NotLeader:
        """[P-31]: why this instance cannot give the queue away."""
        limbo, owner = self.limbo, self.limbo.owner_id
        if owner == self.self_id:
            text = (
                f"This instance owns the queue of term {limbo.term}, but does not lead the term "
                f"{self.raft.volatile_term} that is on now; nothing was changed. Next: synchro promote "
                f"{self.name_of(owner)}"
            )
        else:
            name = self.name_of(owner)
            text = (
                f"The queue is not this instance's to give away: its owner is {owner} ({name}); nothing "
                f"was changed. Next: synchro demote {name}"
            )
        return NotLeader(text, owner=owner)

    @property
    def is_queue_busy(self) -> bool:
        """[Q-4], with what other instances decided and is on its way to the own disk."""
        return self.limbo.is_busy or self.log.has_received_control
