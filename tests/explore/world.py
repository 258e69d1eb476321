"""Three instances, what is on its way between them, and what may happen next.

A state is a tuple of numbers, so that equal states are equal tuples: see `State`. Streams are those of the
product: rows read from the synced log through `RelayFilter`, none while a Raft message waits, and acks the
other way. Of each stream one row, one Raft message and one ack are on their way; each is sent as early as can
be, and may stay on its way for ever. What comes behind it is sent when it arrived; an ack may still be
replaced by the newest one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, NamedTuple

from synchro.ids import CallId, InstanceId, Term
from synchro.instance import events as ev
from synchro.raft.messages import RaftMessage
from synchro.replication.relay_filter import RelayFilter, TxnHead
from synchro.row import Demote, Promote, RowType, Txn
from synchro.storage import row_body
from synchro.vclock import EMPTY_VCLOCK, Vclock
from tests.explore.cells import WRITES_MAX, Cells, Step
from tests.explore.facts import Fact, FateOf, History, Kind, Violation
from tests.explore.start import Start
from tests.mesh import SYNC

NUMBERS: Final = (1, 2, 3)
QUORUM: Final = 2
PAIRS: Final = ((1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2))
"""(source, target) of each stream: rows go so, acks the other way."""
ALL_LINKS: Final = (1 << len(PAIRS)) - 1
TERM_MAX: Final = 4
"""The first term has no owner, so there are three that can have one."""
CRASHES_MAX: Final = 1
SCOPE, FIRST_LINK, HISTORY, WRITES, CRASHES = 0, 4, 10, 11, 12
"""Places in a state."""

State = tuple[int, ...]
"""Scope (which links there are at all, and the settings), cells 1 to 3, a link for each of `PAIRS` (0: none),
history, writes that were made, crashes that were made."""
Action = tuple[str, int, int]
"""What happens, to whom, and who else is in it (0: nobody)."""


class Link(NamedTuple):
    """One stream. position: how much of the source's log was read. have: as in `RelayFilter`."""

    position: int
    have: Vclock
    term: Term
    """Of the newest ack: told again when it grows."""
    acked: Vclock
    waits: RaftMessage | None = None
    """Not sent yet."""
    says: RaftMessage | None = None
    down: tuple[Term, Txn] | None = None
    up: ev.Ack | None = None


class Links:
    """Streams as values; what moves on one by itself is worked out once."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self.all: list[Link | None] = [None]
        self._numbers: dict[Hashable, int] = {}
        self._filled: dict[tuple[int, int, int], int] = {}

    def number(self, link: Link) -> int:
        down = None if link.down is None else (link.down[0], bytes(link.down[1].data))
        number = self._numbers.setdefault((link[:-2], down, link.up), len(self.all))
        if number == len(self.all):
            self.all.append(link)
        return number

    def show(self, number: int, message: RaftMessage) -> int:
        """Only the newest Raft message waits."""
        link = self.all[number]
        assert link is not None
        return self.number(link._replace(waits=message))

    def took(self, number: int, what: str) -> int:
        """What was on its way arrived."""
        link = self.all[number]
        assert link is not None
        if what == "down":
            return self.number(link._replace(down=None))
        if what == "says":
            return self.number(link._replace(says=None))
        if what == "renews":
            return self.number(link._replace(up=None, term=Term(0)))
        assert link.up is not None
        have = link.have.merge(link.up.vclock.without_local())
        return self.number(link._replace(up=None, have=have))

    def fill(self, number: int, source: int, target: int) -> int:
        """Send what can be sent. source, target: cells."""
        key = (number, source, target)
        filled = self._filled.get(key)
        if filled is None:
            link = self.all[number]
            assert link is not None
            filled = self._filled[key] = self.number(self._fill(link, source, target))
        return filled

    def _fill(self, link: Link, source: int, target: int) -> Link:
        ack = self._cells.faces[target].ack
        if link.up is None and ack is not None:
            vclock = ack.vclock.without_local()
            if ack.term != link.term or vclock != link.acked:
                link = link._replace(up=ack, term=ack.term, acked=vclock)
        if link.says is None and link.waits is not None:
            link = link._replace(waits=None, says=link.waits)
        if link.says is None and link.down is None:
            return self._read(link, source, target)
        return link

    def _read(self, link: Link, source: int, target: int) -> Link:
        cell, face = self._cells.all[source], self._cells.faces[source]
        peer = InstanceId(self._cells.all[target].number)
        stream = RelayFilter(peer=peer, id_filter=frozenset({peer}), subscriber_vclock=link.have)
        stream.term_sent = Term(face.term)
        for position in range(link.position, cell.written):
            txn = cell.log[position]
            body = txn.control
            term = body.term if isinstance(body, Promote | Demote) else Term(0)
            head = TxnHead(txn.origin, txn.lsn, term)
            if stream.wants(head):
                stream.passed(head)
                have = Vclock(stream.position)
                return link._replace(position=position + 1, have=have, down=(stream.term_sent, txn))
        return link._replace(position=cell.written)


class World:
    def __init__(self) -> None:
        self.cells = Cells()
        self.links = Links(self.cells)
        self.history = History()
        self.hits: dict[str, int] = {}
        self._starts: list[Start] = []

    # --- where it begins

    def begin(self, start: Start, links: int) -> State:
        """The set as its script leaves it, with the streams of which the bit in `links` is set.

        What happens by then is no situation of the exploration.
        """
        hits = dict(self.hits)
        if start not in self._starts:
            self._starts.append(start)
        scope = self._starts.index(start) << len(PAIRS)
        cells = [self.cells.first(start, number) for number in NUMBERS]
        state = [scope | ALL_LINKS, *cells, *([0] * len(PAIRS)), 0, 0, 0]
        for at in range(len(PAIRS)):
            self._connect(state, at)
        for line in start.script:
            word, *rest = line.split()
            if word == "settle":
                self._settle(state, frozenset(map(int, rest)))
            else:
                numbers = [int(number) for number in rest]
                found = self.apply(tuple(state), (word, numbers[0], numbers[1] if numbers[1:] else 0))
                assert found is not None, line
                state = list(found)
        state[SCOPE] = scope | links
        for at in range(len(PAIRS)):
            if not links >> at & 1:
                self._disconnect(state, at)
        self.hits = hits
        return tuple(state)

    def _settle(self, state: list[int], without: frozenset[int]) -> None:
        """All arrives and is written, but nothing from or to `without`."""
        while True:
            moves = [
                action
                for action in self.actions(tuple(state))
                if action[0] in ("says", "down", "up", "disk", "announce")
                and not without & {action[1], action[2]}
            ]
            if not moves:
                return
            found = self.apply(tuple(state), moves[0])
            assert found is not None
            state[:] = found

    # --- what may happen

    def actions(self, state: State) -> Iterator[Action]:
        start = self._starts[state[SCOPE] >> len(PAIRS)]
        for at, (source, target) in enumerate(PAIRS):
            link = self.links.all[state[FIRST_LINK + at]]
            if link is not None:
                if link.says is not None:
                    yield "says", source, target
                if link.down is not None:
                    yield "down", source, target
                if link.up is not None:
                    yield "up", source, target
                    if link.up != self.cells.faces[state[target]].ack:
                        yield "renews", source, target
        for number in NUMBERS:
            face = self.cells.faces[state[number]]
            if not face.is_up:
                yield "restart", number, 0
                continue
            if face.has_unsynced:
                yield "disk", number, 0
            if face.must_announce:
                yield "announce", number, 0
            elif face.deadline is not None and (start.ring or face.is_patient):
                yield "ring", number, 0
            if start.allows("write", number) and face.is_writable and state[WRITES] < WRITES_MAX:
                yield "write", number, 0
            if start.allows("promote", number) and not face.is_promoting and face.volatile_term < TERM_MAX:
                yield "promote", number, 0
            if start.allows("crash", number) and state[CRASHES] < CRASHES_MAX:
                yield "crash", number, 0
                if face.has_unsynced:
                    yield "kill", number, 0

    def apply(self, state: State, action: Action) -> State | None:
        """The state behind it; None: it is out of the scope. Raises `Violation`."""
        after, (word, number, other) = list(state), action
        match word:
            case "says" | "down" | "up":
                self._arrive(after, PAIRS.index((number, other)), word)
            case "renews":
                self._renew(after, FIRST_LINK + PAIRS.index((number, other)))
            case "write":
                after[WRITES] += 1
                self._step(after, number, *self._write(after[WRITES]))
            case "promote":
                call = ev.PromoteRequested(CallId(100 + number))
                self._step(after, number, "promote", (call,))
            case "disk":
                self._step(after, number, "disk")
            case "announce" | "ring":
                if self.cells.faces[state[number]].is_patient:
                    self._hit("elected, and a writer waited for in vain")
                self._step(after, number, "timer")
            case "crash" | "kill":
                after[CRASHES] += 1
                self._crash(after, number, keeps_all=word == "kill")
            case "restart":
                self._restart(after, number)
            case _:
                raise ValueError(f"{word}?")
        if any(self.cells.faces[after[each]].volatile_term > TERM_MAX for each in NUMBERS):
            return None
        return tuple(after)

    def _write(self, number: int) -> tuple[Hashable, tuple[ev.Event, ...]]:
        op = row_body.dml_from_values(RowType.REPLACE, SYNC, value=(number, "v"))
        return ("write", number), (ev.ClientWrites([ev.ClientWrite(CallId(number), [op])]),)

    # --- how it happens

    def _step(self, state: list[int], number: int, name: Hashable, events: tuple[ev.Event, ...] = ()) -> None:
        self._made(state, number, self.cells.step(state[number], name, events))

    def _made(self, state: list[int], number: int, step: Step) -> None:
        state[number] = step.cell
        for at, (source, _) in enumerate(PAIRS, FIRST_LINK):
            if source == number and state[at] and step.shows is not None:
                state[at] = self.links.show(state[at], step.shows)
        for at, pair in enumerate(PAIRS, FIRST_LINK):
            if number in pair and state[at]:
                state[at] = self.links.fill(state[at], state[pair[0]], state[pair[1]])
        facts = self.cells.faces[step.cell].facts
        self._learn(state, number, facts.union(step.facts) if step.facts else facts)

    def _learn(self, state: list[int], number: int, facts: frozenset[Fact]) -> None:
        state[HISTORY], new = self.history.add(state[HISTORY], facts)
        for fact in new:
            match fact.kind:
                case Kind.FATE if fact.value == FateOf.COMMITTED:
                    self._hit("entry confirmed")
                    self._check_quorum(state, number, fact)
                case Kind.FATE:
                    self._hit("entry rolled back")
                case Kind.OWNS:
                    self._hit("PROMOTE decided")
                    self._check_completeness(state, number, fact)
                case Kind.NOP:
                    self._hit("row of a deposed owner made a Nop")

    def _check_quorum(self, state: list[int], number: int, fact: Fact) -> None:
        """S3: what is committed first is on the disks of a quorum."""
        origin, lsn = fact.about
        faces = [self.cells.faces[state[each]] for each in NUMBERS]
        holders = sum(face.vclock.get(InstanceId(origin)) >= lsn for face in faces)
        if holders < QUORUM:
            raise Violation("S3", f"{number} commits {origin}:{lsn}, which {holders} of 3 have")

    def _check_completeness(self, state: list[int], number: int, owns: Fact) -> None:
        """S2: a new owner has what was confirmed in an earlier term."""
        (term,) = owns.about
        mine = {(fact.about, fact.value) for fact in self.cells.faces[state[number]].facts}
        for fact in self.history.all[state[HISTORY]]:
            is_older = fact.kind is Kind.FATE and fact.value == FateOf.COMMITTED and fact.term < term
            if is_older and (fact.about, fact.value) not in mine:
                raise Violation("S2", f"{number} owns the queue in term {term}, and has not {fact.about}")

    def _hit(self, situation: str) -> None:
        self.hits[situation] = self.hits.get(situation, 0) + 1

    def _arrive(self, state: list[int], at: int, what: str) -> None:
        (source, target), place = PAIRS[at], FIRST_LINK + at
        link = self.links.all[state[place]]
        assert link is not None
        state[place] = self.links.took(state[place], what)
        if what == "up":
            assert link.up is not None
            ack = ev.AckReceived(InstanceId(target), link.up)
            self._step(state, source, ("ack", target, link.up), (ack,))
        elif what == "says":
            assert link.says is not None
            heard = ev.PeerRaftReceived(InstanceId(source), link.says)
            self._step(state, target, ("raft", source, link.says), (heard,))
        else:
            assert link.down is not None
            term, txn = link.down
            events = (ev.FrameTermSeen(term), ev.TxnsReceived(InstanceId(source), [txn]))
            self._step(state, target, ("rows", source, term, bytes(txn.data)), events)

    def _renew(self, state: list[int], place: int) -> None:
        """The ack had not been sent yet: the newest one goes in its place."""
        source, target = PAIRS[place - FIRST_LINK]
        renewed = self.links.took(state[place], "renews")
        state[place] = self.links.fill(renewed, state[source], state[target])

    # --- streams begin and end

    def _connect(self, state: list[int], at: int) -> None:
        source, target = PAIRS[at]
        server, client = (self.cells.faces[state[each]] for each in (source, target))
        if not (server.is_up and client.is_up):
            return
        assert server.message is not None and client.ack is not None
        own = client.vclock.without_local()
        link = Link(0, own, client.ack.term, own, waits=server.message)
        state[FIRST_LINK + at] = self.links.number(link)
        seen, term = server.vclock.without_local(), Term(server.term)
        following = ev.ApplierFollowing(InstanceId(source), seen, term, EMPTY_VCLOCK)
        self._step(state, target, ("following", following), (following,))
        ack = self.cells.faces[state[target]].ack
        assert ack is not None
        self._step(
            state,
            source,
            ("subscribed", target, ack),
            (ev.RelayConnected(InstanceId(target), ack, takes_unnamed=True, takes_policies=True),),
        )

    def _disconnect(self, state: list[int], at: int) -> None:
        if state[FIRST_LINK + at]:
            state[FIRST_LINK + at] = 0
            self._tell_lost(state, at)

    def _tell_lost(self, state: list[int], at: int) -> None:
        source, target = PAIRS[at]
        if self.cells.faces[state[source]].is_up:
            self._step(state, source, ("relay lost", target), (ev.RelayLost(InstanceId(target)),))
        if self.cells.faces[state[target]].is_up:
            self._step(state, target, ("applier lost", source), (ev.ApplierLost(InstanceId(source)),))

    def _crash(self, state: list[int], number: int, *, keeps_all: bool) -> None:
        state[number] = self.cells.crash(state[number], keeps_all=keeps_all)
        face = self.cells.faces[state[number]]
        if face.has_pending_promote:
            self._hit("PROMOTE pending over a crash")
        self._learn(state, number, face.facts)
        gone = [at for at, pair in enumerate(PAIRS) if number in pair and state[FIRST_LINK + at]]
        for at in gone:
            state[FIRST_LINK + at] = 0
        for at in gone:
            self._tell_lost(state, at)

    def _restart(self, state: list[int], number: int) -> None:
        self._made(state, number, self.cells.restart(state[number]))
        for at, pair in enumerate(PAIRS):
            if number in pair and state[SCOPE] >> at & 1:
                self._connect(state, at)


def patterns() -> Iterator[int]:
    """All sets of streams, small ones first."""
    yield from sorted(range(ALL_LINKS + 1), key=lambda links: links.bit_count())
