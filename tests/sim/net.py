"""Connections between instances: ordered, delayed, cut one way or both, reset in the middle of anything.

A connection is one subscription: frames flow down from the relay, acks up from the applier. Like TCP, what
meets a cut waits and goes on when it heals, if neither end has given the connection up by then.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from synchro.vclock import Vclock

if TYPE_CHECKING:
    from tests.sim.links import Applier, Relay
    from tests.sim.world import World


class Hello:
    __slots__ = ("counts", "id_filter", "takes_unnamed", "term", "unwritten", "vclock")

    def __init__(
        self,
        vclock: Vclock,
        term: int,
        id_filter: frozenset[int],
        *,
        counts: bool,
        takes_unnamed: bool,
        unwritten: Vclock,
    ) -> None:
        self.vclock, self.term, self.id_filter, self.counts = vclock, term, id_filter, counts
        self.takes_unnamed, self.unwritten = takes_unnamed, unwritten


class Accepted:
    __slots__ = ("expected", "last_ack", "term", "vclock")

    def __init__(self, vclock: Vclock, term: int, last_ack: Vclock, expected: Vclock) -> None:
        """expected: for the checkers, what the sender surely knows that the subscriber acknowledged."""
        self.vclock, self.term, self.last_ack, self.expected = vclock, term, last_ack, expected


class Frame:
    __slots__ = ("heartbeat", "raft", "rows", "term")

    def __init__(self, term: int, raft: Any, rows: bytes, heartbeat: tuple[int, Vclock] | None) -> None:
        self.term, self.raft, self.rows, self.heartbeat = term, raft, rows, heartbeat


class Refused:
    """The other side does not serve, or has closed."""


class SaysExpelled(Refused):
    """The subscriber was removed from the set. queue_term: of who says so."""

    __slots__ = ("queue_term",)

    def __init__(self, queue_term: int) -> None:
        self.queue_term = queue_term


class SaysGap(Refused):
    """The log does not go back as far as the subscriber needs."""


REFUSED, SAYS_GAP = Refused(), SaysGap()


class Pipe:
    """One direction of a connection."""

    __slots__ = ("conn", "is_down", "key", "kind", "last", "stalled")

    def __init__(self, conn: Conn, *, is_down: bool, key: tuple[int, int]) -> None:
        self.conn = conn
        self.is_down = is_down
        self.key = key
        """(from, to)"""
        self.kind = (*key, is_down)
        self.last = 0.0
        self.stalled: deque[Any] = deque()


class Conn:
    """`subscriber` follows `server`."""

    __slots__ = ("applier", "down", "is_dead", "relay", "server", "subscriber", "up")

    def __init__(self, subscriber: int, server: int) -> None:
        self.subscriber = subscriber
        self.server = server
        self.down = Pipe(self, is_down=True, key=(server, subscriber))
        self.up = Pipe(self, is_down=False, key=(subscriber, server))
        self.relay: Relay | None = None
        self.applier: Applier | None = None
        self.is_dead = False
        """Reset: nothing that is under way arrives."""


class Net:
    def __init__(self, world: World) -> None:
        self.world = world
        self.conns: list[Conn] = []
        self.blocked: set[tuple[int, ...]] = set()
        """(from, to): everything; (from, to, is_down): frames only, or acks only."""
        self.delay_min = 0.001
        self.delay_mean = 0.002
        self.message_lag = 0.0
        """Seconds by which frames with a Raft message are behind what is sent the other way, at most."""
        self._rng = {}  # type: dict[tuple[int, int], Any]

    def connect(self, subscriber: int, server: int) -> Conn:
        conn = Conn(subscriber, server)
        self.conns = [c for c in self.conns if not c.is_dead and (c.relay or c.applier)]
        self.conns.append(conn)
        return conn

    def delay(self, key: tuple[int, int]) -> float:
        rng = self._rng.get(key)
        if rng is None:
            rng = self._rng[key] = self.world.choices.stream("link", *key)
        return self.delay_min + float(rng.expovariate(1.0)) * self.delay_mean

    def send(self, pipe: Pipe, message: Any) -> None:
        if pipe.conn.is_dead:
            return
        at = self.world.now + self.delay(pipe.key)
        if self.message_lag and isinstance(message, Frame) and message.raft is not None:
            at += self.world.choices.stream("lag", *pipe.key, pipe.last).uniform(0, self.message_lag)
        if at <= pipe.last:
            at = pipe.last
        pipe.last = at
        self.world.at(at, self._arrive, pipe, message)

    def _arrive(self, pipe: Pipe, message: Any) -> None:
        if pipe.conn.is_dead:
            return
        machine = self.world.hosts[pipe.key[1]]
        if pipe.stalled or machine.is_paused or self._is_blocked(pipe):
            pipe.stalled.append(message)
            if machine.is_paused and len(pipe.stalled) == 1:
                machine.after_pause(self._drain, pipe)
        else:
            self._deliver(pipe, message)

    def _deliver(self, pipe: Pipe, message: Any) -> None:
        if pipe.is_down:
            applier = pipe.conn.applier
            if applier is not None:
                applier.on_message(message)
        else:
            self.world.hosts[pipe.key[1]].on_up_message(pipe.conn, message)

    def _drain(self, pipe: Pipe) -> None:
        """What met a cut or a stopped process goes on, in order."""
        if self._is_blocked(pipe):
            return
        machine = self.world.hosts[pipe.key[1]]
        if machine.is_paused:
            machine.after_pause(self._drain, pipe)
            return
        while pipe.stalled and not pipe.conn.is_dead:
            self._deliver(pipe, pipe.stalled.popleft())

    def _is_blocked(self, pipe: Pipe) -> bool:
        return pipe.key in self.blocked or pipe.kind in self.blocked

    def block(self, keys: set[tuple[int, ...]]) -> None:
        self.blocked |= keys

    def heal(self, keys: set[tuple[int, int]] | None = None) -> None:
        """keys: (from, to); None: all."""
        self.blocked = set() if keys is None else {b for b in self.blocked if b[:2] not in keys}
        for conn in self.conns:
            for pipe in (conn.down, conn.up):
                if pipe.stalled and not self._is_blocked(pipe):
                    self.world.at(self.world.now + self.delay(pipe.key), self._drain, pipe)

    def reset(self, conn: Conn) -> None:
        """Both ends hear at once; what is under way is lost."""
        if conn.is_dead:
            return
        conn.is_dead = True
        self.world.hits["connection reset"] += 1
        if conn.relay is not None:
            conn.relay.close(tell=False)
        if conn.applier is not None:
            conn.applier.lost(tell=False)
