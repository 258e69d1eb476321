"""The instances of a scenario: `Mesh` with real files, links in one direction, and a voice.

What happens to a caller, a stream or a log is told as a line in the step in which it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from synchro.config import Settings
from synchro.errors import SynchroError, WalIo
from synchro.ids import ANONYMOUS, NOBODY, CallId, InstanceId
from synchro.instance import events as ev
from synchro.instance.recovery import snapshot_view
from synchro.replication.admission import check_serves_members, member_of
from synchro.replication.read_barrier import ReadPosition
from synchro.replication.relay_filter import RelayFilter
from synchro.row import GROUP_LOCAL, Txn
from synchro.server.relay import without_local_rows
from synchro.storage import xrow
from synchro.vclock import EMPTY_VCLOCK
from tests.mesh import Link, Member, Mesh, uuid_of
from tests.scenarios import show
from tests.scenarios.box import Box, later_than
from tests.scenarios.script import ScenarioError

ROUNDS_MAX = 1000
"""A scenario that has not come to rest by then never does."""
Pair = tuple[int, int]


class World(Mesh):
    """`wanted`: who sends rows to whom, if both are up. A held link carries nothing until it is let go."""

    def __init__(
        self, count: int, wanted: Iterable[Pair], tell: Callable[[str], None], settings: dict[str, object]
    ) -> None:
        self.tell = tell
        self.wanted = set(wanted)
        self.held: set[Pair] = set()
        self.slow: set[int] = set()
        self.hung: set[int] = set()
        self.boxes: dict[int, Box] = {}
        self.answered: list[CallId] = []
        self.carried: list[Txn] = []
        self._ended: list[Pair] = []
        self._again: list[int] = []
        self._asking: dict[CallId, Pair] = {}
        self._reading: dict[CallId, tuple[int, ReadPosition]] = {}
        super().__init__(count, **settings)

    # --- life

    def _start(self, number: int, wal: list[Txn], *, trusted: bool = True) -> None:
        """Recover from the disk, which has the log. wal, trusted: not used."""
        if number not in self.boxes:
            self.boxes[number] = Box(number, self.settings)
            self.boxes[number].begin_set(self.spaces)
        box = self.boxes[number]
        instance, log = box.start(self.now)
        if not instance.acks_count:
            self.tell(f"{number} does not trust its log")
        self.members[number] = Member(instance, log, len(log))
        self._carry_out(number, instance.start(self.now))

    def start(self, number: int) -> None:
        self._start(number, [])
        self.down.pop(number, None)
        self._connect_all(number)

    def end(self, number: int, *, power: bool = False) -> None:
        self.crash(number)
        self.slow.discard(number)
        self.hung.discard(number)
        self.boxes[number].dies(power=power)

    def stop(self, number: int) -> None:
        """ADR 18."""
        self.step(number, ev.StopRequested())
        for _ in range(40):
            if self.members[number].is_stopped:
                break
            self.run_for(0.25)
        else:
            raise ScenarioError(f"{number} does not stop")
        self.boxes[number].journal.close_clean(self.now)
        self.end(number)

    def join_set(self, number: int, source: int) -> CallId:
        """An instance without data asks to be registered, and if it is, gets the data and starts."""
        meta, spaces = snapshot_view(self[source], with_local=False)
        call = self.call_id()
        self.step(source, ev.RegisterRequested(call, uuid_of(number), f"i{number}"))
        self.settle()
        outcome = self.outcomes.get(call)
        if not isinstance(outcome, ev.Registered):
            return call
        if outcome.id != number:
            raise ScenarioError(f"{number} would get the id {outcome.id}: name it so")
        if number not in self.boxes:
            self.boxes[number] = Box(number, self.settings)
        member = self.members[source]
        later = later_than(member.wal[: member.written], meta.vclock, outcome.vclock)
        self.boxes[number].receive(meta, spaces, later)
        self.start(number)
        return call

    def take_snapshot(self, number: int, source: int) -> None:
        """[M-31]: an instance without data gets the committed state of `source` and starts, unregistered."""
        meta, spaces = snapshot_view(self[source], with_local=False)
        if number not in self.boxes:
            self.boxes[number] = Box(number, self.settings)
        self.boxes[number].receive(meta, spaces, (), id=NOBODY)
        self.start(number)

    def register(self, number: int, source: int) -> CallId:
        """[M-30]: an anonymous instance asks `source` to make it a member."""
        call = self.call_id()
        self.step(source, ev.RegisterRequested(call, uuid_of(number), f"i{number}", must_be_new=True))
        return call

    # --- reads elsewhere

    def ask_owner(self, number: int, owner: int) -> CallId:
        """A linearizable read on `number`, of which it asks the owner of the queue."""
        call = self.call_id()
        self._asking[call] = (number, owner)
        self.step(owner, ev.ReadBarrierRequested(call, awaits_queue=False))
        return call

    def _on_answer(self, call: CallId, outcome: ev.Outcome) -> None:
        reader, owner = self._asking.pop(call, (0, 0))
        if reader and outcome == ev.ReadReady():
            self._reading[call] = (reader, self[owner].read_position)
        else:
            self.answered.append(call)

    def _answer_readers(self) -> None:
        for call, (reader, position) in list(self._reading.items()):
            if reader in self.members and self[reader].has_reached(position):
                del self._reading[call]
                self.answered.append(call)

    # --- links

    def _id_of(self, number: int) -> InstanceId:
        """What others call it: its id, or a number above all ids."""
        return InstanceId(ANONYMOUS + number if self[number].is_anonymous else number)

    def _connect_all(self, number: int) -> None:
        for source, target in sorted(self.wanted):
            if number in (source, target):
                self._connect(source, target)

    def _connect(self, source: int, target: int) -> None:
        """`target` subscribes to `source`, if it may [M-32], [W-45]."""
        if not {source, target} <= self.members.keys() or (source, target) in self.links:
            return
        if frozenset((source, target)) in self._cuts or source in self.members[target].stopped:
            return
        server, client, box = self[source], self[target], self.boxes[source]
        own, peer = client.vclock.without_local(), self._id_of(target)
        if self._was_removed(source, target):
            self.tell(f"{source} refuses to send to {target}: {target} was removed")
            self.step(target, ev.ExpulsionTold(server.limbo.term))
            return
        if self._was_removed(source, source) or self._was_removed(target, source):
            return  # it sends nothing, and nobody asks it
        try:
            if not client.is_anonymous:
                check_serves_members(server.is_anonymous)
                member_of(uuid_of(target), server.memtx.catalog.members())
            box.journal.files_after(own)
        except SynchroError as error:
            self.tell(f"{source} refuses to send to {target}: {error.reason}")
            return
        counts = client.acks_count
        last_ack, messages = EMPTY_VCLOCK, []
        if not client.is_anonymous:
            last_ack = box.acks.subscribed(peer, own, counts=counts)
            messages = [server.raft.message()]
        id_filter = frozenset({peer}) if counts else frozenset()
        self.links[source, target] = Link(
            RelayFilter(peer=peer, id_filter=id_filter, subscriber_vclock=own),
            self._id_of(source),
            None if client.is_anonymous else peer,
            messages=messages,
        )
        seen = server.vclock.without_local()
        self.step(target, ev.ApplierFollowing(self._id_of(source), seen, server.raft.term, last_ack))
        if not client.is_anonymous:
            hello = ev.RelayConnected(
                peer, self.ack_of(target), True, takes_policies=True, unwritten=client.unwritten
            )
            self.step(source, hello)

    def _ack(self, source: int, target: int, vclock_sync: int = 0) -> None:
        if self._carries(source, target):
            ack, peer = self.ack_of(target), self.links[source, target].target
            if peer is not None:
                self.boxes[source].acks.acked(peer, ack.vclock.without_local(), counts=ack.counts)
            super()._ack(source, target, vclock_sync)

    def isolate(self, number: int) -> None:
        """Also from those that are down now."""
        for other in self.boxes:
            if other != number:
                self.cut(number, other)

    def let_go(self, source: int, target: int) -> None:
        self.held.discard((source, target))
        if (source, target) in self.links:
            self._ack(source, target)

    def add_links(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            self.wanted.add(pair)
            self._connect(*pair)

    def remove_links(self, pairs: Iterable[Pair]) -> None:
        """Who takes a source out of its list and puts it back has it tried again [M-45]."""
        for pair in pairs:
            self.wanted.discard(pair)
            self.members[pair[1]].stopped.pop(pair[0], None)
            if pair in self.links:
                self._disconnect(*pair)

    def follow_again(self, target: int, source: int) -> None:
        """[A-41]"""
        self.members[target].stopped.pop(source, None)
        self._connect(source, target)

    def _read(self, source: int, target: int, limit: int | None) -> list[Txn]:
        self.carried = [_as_sent(txn) for txn in super()._read(source, target, limit)]
        return self.carried

    def deliver(self, source: int, target: int, *, limit: int | None = None) -> bool:
        return self._carries(source, target) and super().deliver(source, target, limit=limit)

    def _carries(self, source: int, target: int) -> bool:
        is_open = (source, target) not in self.held and target not in self._again
        return is_open and self.runs(source) and self.runs(target)

    def runs(self, number: int) -> bool:
        return super().runs(number) and number not in self.hung

    def go_on(self, number: int) -> None:
        """What came meanwhile is there; who follows it, or whom it follows, is told what it has."""
        self.hung.discard(number)
        for pair in [pair for pair in self.links if number in pair]:
            self._ack(*pair)

    def would_send(self, source: int, target: int) -> list[Txn]:
        """What the relay has for this subscriber, without sending it."""
        link, member = self.links[source, target], self.members[source]
        position, lsns = link.position, dict(link.filter.position)
        rows = super()._read(source, target, None)
        link.position, link.filter.position = position, lsns
        assert link.position <= member.written
        return rows

    # --- what happens

    def step(self, number: int, event: ev.Event) -> None:
        try:
            super().step(number, event)
        except SynchroError as error:
            raise ScenarioError(f"a step of {number} raised {error.reason}: {error.message}") from error

    def _carry_out(self, number: int, effects: Sequence[ev.Effect]) -> None:
        super()._carry_out(number, effects)
        for effect in effects:
            match effect:
                case ev.Replies(replies=replies):
                    for call_id, outcome in replies:
                        self._on_answer(call_id, outcome)
                case ev.StopApplier(peer=peer, error=error):
                    source = peer - ANONYMOUS if peer > ANONYMOUS else peer
                    self.tell(f"{number} stops following {source}: {show.error(error)}")
                    self._ended.append((source, number))
                case ev.BeginAmnesia():
                    self.tell(f"{number} does not trust its log")
                    self.boxes[number].set_amnesia(True)
                    self._again.append(number)
                case ev.EndAmnesia():
                    self.tell(f"{number} trusts its log again")
                    self.boxes[number].set_amnesia(False)
                case ev.BecameMember(id=own):
                    self.tell(f"{number} is member {own} now")
                    self._again.append(number)
                case ev.ResetAppliers():
                    self._again.append(number)
                case _:
                    pass

    def persist(self, number: int) -> bool:
        return number not in self.slow and self.runs(number) and self.write_out(number)

    def write_out(self, number: int) -> bool:
        """The disk of one instance catches up, also if it is slow. False: nothing was waiting."""
        member, box = self.members[number], self.boxes[number]
        txns = member.wal[member.written :]
        if not txns:
            return False
        try:
            box.write(txns, self.now, member.instance.registered)
        except WalIo as error:
            if any(txn.control is not None for txn in txns):
                raise ScenarioError(
                    f"a row of control does not fit on the disk of {number}: it ends"
                ) from error
            del member.wal[member.written :]
            self.tell(f"the disk of {number} is full")
            self.step(number, ev.RowsCutBack(box.journal.vclock, error))
            return True
        return super().persist(number)

    def _tidy(self) -> bool:
        """Streams that ended, and those that begin again, now that no step is running."""
        ended, self._ended = self._ended, []
        again, self._again = self._again, []
        for pair in ended:
            if pair in self.links:
                self._disconnect(*pair)
        for number in again:
            for pair in [pair for pair in self.links if pair[1] == number]:
                self._disconnect(*pair)
            if number in self.members:
                self._connect_all(number)
        return bool(ended or again)

    def flush(self) -> None:
        """What instances do by themselves, until there is nothing more to do."""
        for _ in range(ROUNDS_MAX):
            is_tidied = self._tidy()
            if not self.work_alone() and not is_tidied:
                self._answer_readers()
                return
        raise ScenarioError("it does not come to rest")

    def settle(self) -> None:
        for _ in range(ROUNDS_MAX):
            super().settle()
            if not self._tidy() and not self._end_removed():
                return
        raise ScenarioError("it does not come to rest")

    def _was_removed(self, here: int, number: int) -> bool:
        """What the log of `here` says of `number`."""
        return self[here].memtx.catalog.expelled_id(uuid_of(number)) is not None

    def _end_removed(self) -> bool:
        """Streams with a member that was removed [M-52]; it had time to hear of that by its own log."""
        ended = [
            (source, target)
            for source, target in sorted(self.links)
            if any(self._was_removed(here, one) for here in (source, target) for one in (source, target))
        ]
        for source, target in ended:
            self._disconnect(source, target)
            self.tell(f"{source}->{target} ends")
        return bool(ended)

    # --- settings

    def change(self, number: int, settings: Settings) -> None:
        self.boxes[number].settings = settings
        if number in self.members:
            self.step(number, ev.SettingsChanged(settings))


def _as_sent(txn: Txn) -> Txn:
    """Local rows of a transaction stay at home [A-37]."""
    if all(row.group_id != GROUP_LOCAL for row in txn.rows):
        return txn
    (sent,) = xrow.decode_txns(without_local_rows(bytes(txn.data)))
    return sent
