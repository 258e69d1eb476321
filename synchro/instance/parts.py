"""What the parts of one instance share: references to each other, and what a step gathers until its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from synchro.config import Settings
from synchro.ids import ANONYMOUS, NOBODY, InstanceId
from synchro.instance import events as ev
from synchro.instance.calls import WaitingCalls
from synchro.instance.log_tail import LogTail
from synchro.instance.stop import Stop
from synchro.queue.fates import Drops
from synchro.queue.limbo import Limbo
from synchro.queue.request_table import RequestTable
from synchro.raft.core import Raft
from synchro.raft.messages import Membership
from synchro.storage.memtx import Memtx


class Outbox:
    """Effects of the step that runs, in order; answers to calls are gathered in `WaitingCalls`."""

    __slots__ = ("_effects",)

    def __init__(self) -> None:
        self._effects: list[ev.Effect] = []

    def add(self, effect: ev.Effect) -> None:
        self._effects.append(effect)

    def notice(self, event: str, *, is_warning: bool = False, **facts: object) -> None:
        self._effects.append(ev.Notice(event, facts, is_warning))

    def take(self) -> list[ev.Effect]:
        effects, self._effects = self._effects, []
        return effects


class Agenda:
    """What must be looked at again before the step that runs ends.

    progress: something happened that may let waiting work go on. members: a `_cluster` row was prepared,
    decided or undone, or the quorum is another one.
    """

    __slots__ = ("members", "progress")

    def __init__(self) -> None:
        self.progress = False
        self.members = False

    def note_progress(self) -> None:
        self.progress = True

    def note_members(self) -> None:
        self.members = True

    def take_progress(self) -> None:
        self.progress = False

    def take_members(self) -> None:
        self.members = False


class Readers:
    """Who reads what members of an older version do not: shared transactions in which calls have no request
    id (ADR 13), spaces with a policy for conflicts (ADR 44), or rows of users (ADR 42).

    U1  Who is in here said so in its last Hello, or is a member since before such a thing was written into
        the log that this instance has: who wrote it asked all members.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: set[InstanceId] = set()

    def said(self, peer: InstanceId, reads_it: bool) -> None:
        """The Hello of a peer. It outlives the link: who is away comes back as it was, or newer."""
        (self._known.add if reads_it else self._known.discard)(peer)

    def logged(self, members: frozenset[InstanceId]) -> None:
        """A transaction of this kind is in the own log, or on its way to it."""
        self._known |= members

    def without(self, members: frozenset[InstanceId]) -> frozenset[InstanceId]:
        """Those of `members` who do not read it, as far as is known."""
        return members - self._known


@dataclass(slots=True)
class Parts:
    """References, and nothing that decides or writes: each part has methods of its own for that.

    "Set by" names the only module that gives a field another value once it is made.
    """

    uuid: str
    """Set by nobody."""
    self_id: InstanceId
    """Set by `numbering`."""
    settings: Settings
    """Set by `core`: as configured now."""
    memtx: Memtx
    """Set by nobody."""
    limbo: Limbo
    """Set by nobody."""
    raft: Raft
    """Set by `recovery`: before the log is read its state is not known."""
    log: LogTail
    """Set by nobody."""
    requests: RequestTable
    """Set by nobody."""
    drops: Drops
    """Set by nobody."""
    is_doubled: bool = False
    """Set by `links`: another live process has our identity (ADR 23)."""
    orphan_of: tuple[str, ...] = ()
    """Set by `core`: the sources that it has not caught up with (ADR 46)."""
    was_told_expelled: bool = False
    """Set by `links`: a member says that we were removed, which our log may not say yet (ADR 41)."""
    readers_of_unnamed: Readers = field(default_factory=Readers)
    """Set by nobody."""
    readers_of_policies: Readers = field(default_factory=Readers)
    """Set by nobody."""
    readers_of_users: Readers = field(default_factory=Readers)
    """Set by nobody. Asked before the set has its first rows of users; then all members read them."""
    without_sequences: set[InstanceId] = field(default_factory=set)
    """Set by nobody. Whose last Hello was of a version that does not read rows of `_sequence` (ADR 47)."""
    stop: Stop = field(default_factory=Stop)
    """Set by nobody."""
    calls: WaitingCalls = field(default_factory=WaitingCalls)
    """Set by nobody."""
    outbox: Outbox = field(default_factory=Outbox)
    """Set by nobody."""
    agenda: Agenda = field(default_factory=Agenda)
    """Set by nobody."""

    # --- who is who, which needs nothing but reading

    @property
    def is_anonymous(self) -> bool:
        """This instance follows the set without being a member [M-6]."""
        return self.self_id == ANONYMOUS

    @property
    def registered(self) -> frozenset[InstanceId]:
        """Members whose `_cluster` row is committed [M-51], [L-14]."""
        return frozenset(self.memtx.catalog.members())

    @property
    def counting(self) -> frozenset[InstanceId]:
        """Whose copies decide: members whose row is committed, without one whose removal is in the own log.
        From that row on the quorum is one of those who stay (ADR 41)."""
        return self.registered & frozenset(self.memtx.catalog.prepared_members())

    @property
    def who_may_know(self) -> frozenset[InstanceId]:
        """Other members that may have what this instance forgot (ADR 9): all that it knows of. One whose row
        is not decided here may be a member elsewhere, and have acknowledged or voted; elections count it."""
        return (self.registered | frozenset(self.memtx.catalog.prepared_members())) - {self.self_id}

    @property
    def is_expelled(self) -> bool:
        """This instance was removed from the set, or another one has its place [M-25]: its log says so, or a
        member did (ADR 41)."""
        uuid, _ = self.memtx.catalog.members().get(self.self_id, ("", None))
        return self.was_told_expelled or (uuid != self.uuid and not self.is_anonymous)

    def election_membership(self) -> Membership:
        """N of elections counts every `_cluster` row in the own WAL, decided or not (ADR 6)."""
        members = frozenset(self.memtx.catalog.prepared_members())
        quorum = self.settings.synchro_quorum.quorum(len(members))
        owners = {self.limbo.owner_id} | {transfer.origin for transfer in self.limbo.pending}
        return Membership(members, quorum, writers=members if NOBODY in owners else frozenset(owners))

    @property
    def all_read_unnamed(self) -> bool:
        """Whether every member reads shared transactions in which calls have no request id: also one that
        comes, or leaves, by a row that is not decided yet."""
        return not self.readers_of_unnamed.without(self._others)

    @property
    def all_read_users(self) -> bool:
        """Whether every member reads rows of users. Once there are some, nobody else has joined."""
        return not self.memtx.catalog.users.is_unset or not self.readers_of_users.without(self._others)

    @property
    def not_reading_policies(self) -> frozenset[InstanceId]:
        """Members who may be of a version that knows no policies for conflicts."""
        return self.readers_of_policies.without(self._others)

    @property
    def _others(self) -> frozenset[InstanceId]:
        members = self.registered.union(self.memtx.catalog.prepared_members())
        return members - {self.self_id}

    def name_of(self, instance: InstanceId) -> str:
        catalog = self.memtx.catalog
        member = catalog.members().get(instance) or catalog.prepared_members().get(instance)
        return (member[1] or member[0]) if member is not None else ""
