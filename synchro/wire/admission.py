"""Which incoming connections a port takes, and which it ends: because they say nothing, or hold too much."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

CROWDED_SILENCE_S: Final = 0.5
"""Seconds that a connection gets for its first request while fewer than the share are free."""
IDLE_S: Final = 10.0
"""Seconds without a call after which a connection is ended while fewer than the share are free."""

L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class PortLimits:
    """What strangers may take of one port."""

    connections_max: int = 10_000
    """At once: each holds a descriptor and some kilobytes."""
    share: int = 2
    """How many of them stay free of silent ones: a peer that comes must find room."""
    kept_bytes_max: int = 512 << 20
    """What all connections together may have lie here: parts of messages, requests whose calls do not end,
    messages that nobody takes, answers that clients do not read. One connection may have half of that."""
    per_address_max: int = 10**6
    """From one address. Behind a proxy all clients have one address, so by default there is no such limit."""
    first_bytes_s: float = 5.0
    """From the connection to its whole preface: who connects to speak HTTP/2 has it ready."""
    first_request_s: float = 10.0
    """From the connection to its first request."""
    stalled_s: float = 120.0
    """For which a client may leave what it asked for where it is: its windows let nothing through. Its PINGs
    may be answered all the time; what waits for it is memory."""


class Admission(Generic[L]):
    """The incoming connections of one port, whoever they are (`L`). Reads no clock.

    C1  A connection without a request is ended after `first_request_s`, or after `CROWDED_SILENCE_S`, oldest
        first, while fewer than `share` of `connections_max` are free: a peer that connects speaks at once.
    C2  `silent` are those without a request, oldest first; all of them count in `count` and `per_address`.
    C3  While fewer than `share` are free, a connection that has no call, and began none for `IDLE_S`, is
        ended in good order: as many as make room, longest without a call first. A call that is on its way is
        served, and the client comes again with its next one.
    """

    def __init__(self, limits: PortLimits) -> None:
        self.limits = limits
        self.count = 0
        self.per_address: Counter[str] = Counter()
        self.silent: dict[L, float] = {}
        """Since when each is here."""
        self._idle: dict[L, tuple[int, float]] = {}
        """The newest call of each that had none under way when `idle` was asked, and since when."""

    @property
    def is_crowded(self) -> bool:
        return self.limits.connections_max - self.count < self.limits.share

    def refusal(self, address: str) -> str:
        """Why one more from this address is not taken; "": it is."""
        if self.count >= self.limits.connections_max:
            return f"there are {self.count} connections, the limit"
        if self.per_address[address] >= self.limits.per_address_max:
            return f"there are {self.per_address[address]} connections from {address}, the limit"
        return ""

    def add(self, link: L, address: str, now: float) -> None:
        assert link not in self.silent, "Admission.C2"
        self.count += 1
        self.per_address[address] += 1
        self.silent[link] = now

    def spoke(self, link: L) -> None:
        """It made a request."""
        self.silent.pop(link, None)

    def remove(self, link: L, address: str) -> None:
        assert self.count > 0, "Admission.C2"
        self.count -= 1
        self.per_address[address] -= 1
        if not self.per_address[address]:
            del self.per_address[address]
        self.silent.pop(link, None)

    def due(self, now: float) -> list[L]:
        """Those to be ended now (Admission.C1)."""
        limits = self.limits
        free = limits.connections_max - self.count
        found = []
        for link, since in self.silent.items():
            if now - since < (limits.first_request_s if free >= limits.share else CROWDED_SILENCE_S):
                break
            found.append(link)
            free += 1
        return found

    def next_due(self, now: float) -> float:
        """When to ask `due` again; inf: nobody is silent."""
        for since in self.silent.values():
            wait_s = CROWDED_SILENCE_S if self.is_crowded else self.limits.first_request_s
            return max(now, since + wait_s)
        return math.inf

    def idle(self, newest: Mapping[L, int], now: float) -> list[L]:
        """Those to be ended now (Admission.C3). Ask again every few seconds while the port is crowded.
        newest: the number of the newest call of each connection that has no call under way."""
        if not self.is_crowded:
            self._idle = {}
            return []
        before = self._idle
        self._idle = {
            link: before[link] if link in before and before[link][0] == call else (call, now)
            for link, call in newest.items()
        }
        wanted = self.limits.share - (self.limits.connections_max - self.count)
        found = [link for link, (_, since) in self._idle.items() if now - since >= IDLE_S]
        return sorted(found, key=lambda link: self._idle[link][1])[:wanted]

    def check(self) -> None:
        """Assert Admission.C2, for tests."""
        assert self.count == sum(self.per_address.values()) >= len(self.silent)
        assert all(self.per_address.values())
        assert list(self.silent.values()) == sorted(self.silent.values())


def heaviest(kept: Iterable[tuple[L, str, int]], excess: int) -> list[L]:
    """Which connections to end so that `excess` bytes come free: of the address that has most the one that
    has most, again and again. Many small ones of one client do not drive out the larger one of another.

    kept: connection, address, bytes."""
    of_address: dict[str, list[tuple[int, L]]] = {}
    sums: Counter[str] = Counter()
    for link, address, size in kept:
        if size:
            of_address.setdefault(address, []).append((size, link))
            sums[address] += size
    for links in of_address.values():
        links.sort(key=lambda each: each[0])
    found: list[L] = []
    while excess > 0 and sums:
        address = max(sums, key=sums.__getitem__)
        size, link = of_address[address].pop()
        found.append(link)
        excess -= size
        sums[address] -= size
        if not of_address[address]:
            del sums[address]
    return found
