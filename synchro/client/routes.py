"""Where the instances are and which of them leads, as far as replies told. No I/O, no clock, no locks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from synchro.client.model import is_number
from synchro.config.address import Uri, parse_uri, split
from synchro.errors import IllegalParams, SynchroError

ENDPOINTS_MAX: Final = 64
"""Addresses kept; a set has at most 31 instances, and each may have moved once."""


def parse_uris(endpoints: str | Iterable[str]) -> list[Uri]:
    """`user:password@host:port,host:port`, or a list of those. Raises `IllegalParams`."""
    texts = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    try:
        return [parse_uri(text.strip()) for text in texts]
    except ValueError as error:
        raise IllegalParams(f"an endpoint: {error}", field="endpoints") from None


def parse_endpoints(endpoints: str | Iterable[str]) -> tuple[str, ...]:
    """Their addresses, without logins. Raises `IllegalParams`."""
    return addresses_of(parse_uris(endpoints))


def addresses_of(uris: Iterable[Uri]) -> tuple[str, ...]:
    """Raises `IllegalParams`."""
    found: dict[str, None] = {}
    for uri in uris:
        if not uri.address:
            continue
        try:
            host, port = split(uri.address)
        except ValueError as error:
            shown = uri.address.rpartition(":")[0] or uri.address  # what stands behind may be a password
            raise IllegalParams(f"endpoint {shown!r}: {error}", field="endpoints") from None
        found[f"[{host}]:{port}" if ":" in host else f"{host}:{port}"] = None
    if not found:
        raise IllegalParams(
            "no endpoint is given. Next: -e HOST:PORT, or set SYNCHRO_ENDPOINTS", field="endpoints"
        )
    return tuple(found)


class Routes:
    """Endpoints, and who leads.

    T1  `leader` is an endpoint that said, or was said, to accept writes; since then it neither failed nor
        said that it does not.
    T2  A hint from somebody who was asked before the present leader was found changes nothing.
    """

    def __init__(self, seeds: Sequence[str]) -> None:
        self.seeds = tuple(seeds)
        self.leader: str | None = None
        self.queue_owner = 0
        """Id of the owner of the queue when last heard; 0: unclaimed."""
        self._known: dict[str, None] = dict.fromkeys(seeds)
        self._by_id: dict[int, str] = {}
        self._by_name: dict[str, str] = {}
        self._names: dict[int, str] = {}
        self._named_at: dict[str, str] = {}
        self._last_leader = 0

    def endpoints(self) -> list[str]:
        """Leader first, then those given by the user, then what was learned."""
        return list(dict.fromkeys([*([self.leader] if self.leader else []), *self._known]))

    def in_order(self) -> list[str]:
        """The endpoints given by the user, then those that were learned."""
        return list(self._known)

    @property
    def last_leader(self) -> tuple[str, str]:
        """Name and endpoint of who led, or owned the queue, when last heard; "" for what is not known."""
        last = self._last_leader
        return self._names.get(last, f"with id {last}" if last else ""), self._by_id.get(last, "")

    def add(self, endpoint: str) -> None:
        if endpoint and endpoint not in self._known and len(self._known) < ENDPOINTS_MAX:
            self._known[endpoint] = None

    def learn(self, header: Any, endpoint: str) -> None:
        """Who answered at this endpoint, and whether it may still be taken for the leader."""
        if endpoint == self.leader and not header.is_writable and header.HasField("is_writable"):
            self.leader = None
        if header.instance_id:
            self._by_id[header.instance_id] = endpoint
            self._names[header.instance_id] = header.instance_name
        if header.instance_name:
            self._by_name[header.instance_name] = endpoint
            self._named_at[endpoint] = header.instance_name

    def learn_member(self, member: Any) -> None:
        """An InstanceInfo: what answered itself counts more than what somebody says about it."""
        if member.id and member.name:
            self._names.setdefault(member.id, member.name)
        if member.address:
            self.add(member.address)
            self._by_name.setdefault(member.name, member.address)
            if member.id:
                self._by_id.setdefault(member.id, member.address)

    def named(self, name: str) -> str | None:
        return self._by_name.get(name) or (self._by_id.get(int(name)) if is_number(name) else None)

    def name_at(self, endpoint: str) -> str:
        """Name of the instance that answered there last; "" if none did."""
        return self._named_at.get(endpoint, "")

    def hinted(self, error: SynchroError) -> str | None:
        """Where the LeaderHint of an error points."""
        number = error.details.get("leader_id", "")
        known = self._by_id.get(int(number)) if is_number(number) else None
        address = error.details.get("leader_address") or None
        if known is None and address is not None:
            self.add(address)
        return known or address

    def redirect(self, refused: str, error: SynchroError) -> bool:
        """`refused` says somebody else leads. True: there is a new place to try at once."""
        hint = self.hinted(error)
        if hint is None or hint == refused:
            self.failed(refused)
            return False
        if self.leader in (refused, None):
            self.leader = hint
        return self.leader != refused

    def failed(self, endpoint: str) -> None:
        if self.leader == endpoint:
            self.leader = None

    def choose(self, answers: Sequence[tuple[str, Any]], failed: Collection[str] = ()) -> str:
        """Who leads, from one or more WatchInfoResponses; else somebody who can tell why nobody does.

        failed: endpoints that were asked too, and did not answer. None of them leads.
        """
        for endpoint, answer in answers:
            self.learn(answer.header, endpoint)
        newest = max(answers, key=lambda item: item[1].term)
        self.queue_owner = newest[1].queue_owner
        self._last_leader = newest[1].leader or newest[1].queue_owner or self._last_leader
        writable = [(answer.term, endpoint) for endpoint, answer in answers if answer.is_writable]
        if writable:
            best = max(term for term, _ in writable)
            self.leader = next(endpoint for term, endpoint in writable if term == best)
            return self.leader
        asked = {*failed, *(endpoint for endpoint, _ in answers)}
        for _, answer in sorted(answers, key=lambda item: -item[1].term):
            hint = self._by_id.get(answer.leader) or answer.leader_address
            if answer.leader and hint and hint not in asked:
                self.add(hint)
                self.leader = hint
                return hint
        # Whoever leads and takes no writes knows best why, and what can be done about it.
        leads = newest[1].leader or newest[1].queue_owner
        return next((place for place, said in answers if said.header.instance_id == leads), newest[0])
