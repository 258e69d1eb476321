"""Where an instance listens, where its peers reach it, and whom it follows. Rules [C-4], [C-10] to [C-12]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from synchro.config import PeerAddress
from synchro.config.address import Uri, is_connectable, join, parse_uri, split
from synchro.config.located import Located
from synchro.config.view import View


def listen_address(view: View) -> str:
    """host:port, or "" for an instance that does not listen [C-10]. iproto stands in for grpc [C-4]."""
    for section in ("grpc", "iproto"):
        item = view.find(f"{section}.listen")
        if item is None:
            continue
        if not item.value:
            return ""
        uri = item.value[0].value["uri"].value
        try:
            return join(*split(str(view.expand(uri, item, f"{section}.listen"))))
        except ValueError as error:
            view.report(f"{section}.listen", str(error), item)
            return ""
    return ""


def peer_address(view: View) -> str | None:
    """Where peers reach this instance [C-11]; None: nowhere, it is left out for everybody [C-12]."""
    if view.get("isolated", False):
        return None
    for section in ("grpc", "iproto"):
        path = f"{section}.advertise.peer.uri"
        if (item := view.find(path)) is not None:
            try:
                address = parse_uri(view.text(path, "")).address
                host, port = split(address)
            except ValueError as error:
                view.report(path, str(error), item)
                return None
            if not is_connectable(address):
                view.report(path, f"peers cannot connect to {address!r}", item)
            return join(host, port)
    listen = listen_address(view)
    return listen if listen and is_connectable(listen) else None


def check_addresses(views: list[View], addresses: Mapping[str, str | None]) -> None:
    """Two instances on one address: peers would talk to one of them and take it for both."""
    seen: dict[str, str] = {}
    for view in views:
        address = addresses[view.name]
        if address is None:
            continue
        if address in seen:
            path = next(
                f"{section}.{key}"
                for section in ("grpc", "iproto")
                for key in ("advertise.peer.uri", "listen")
                if view.find(f"{section}.{key}")
            )
            view.report(path, f"{address} is also the address of {seen[address]}")
        seen.setdefault(address, view.name)


def sources_of(view: View, addresses: Mapping[str, str | None]) -> tuple[PeerAddress, ...]:
    item = view.find("replication.peers")
    if view.get("isolated", False):
        return ()
    if item is not None:
        names = {address: name for name, address in addresses.items() if address is not None}
        peers: list[PeerAddress] = []
        for uri in item.value:
            try:
                address = join(*split(peer_uri(view, uri).address))
            except ValueError as error:
                view.report("replication.peers", str(error), uri)
                continue
            if any(peer.address == address for peer in peers):
                view.report("replication.peers", f"{address} is named twice: each peer has one address", uri)
                continue
            peers.append(PeerAddress(names.get(address, address), address))
        return tuple(peers)
    if addresses.keys() <= {view.name}:
        return ()
    if not any(addresses.values()):
        # One that cannot be reached is its own mistake, told when it is started (ADR 21); here nobody can.
        view.report(
            f"groups.{view.group}.replicasets.{view.replicaset}",
            f"no suitable peer URIs found for instance {view.name!r}: "
            "the instances of the set need grpc.listen or grpc.advertise.peer.uri",
            view.root,
        )
    return tuple(PeerAddress(name, address) for name, address in addresses.items() if address is not None)


def peer_uri(view: View, item: Located) -> Uri:
    """One of `replication.peers`. Raises `ValueError`."""
    return parse_uri(str(view.expand(item.value, item, "replication.peers")))


def follows_all(view: View, peers: Sequence[PeerAddress], addresses: Mapping[str, str | None]) -> bool:
    """Whether the sources are all instances of the set; one that is alone in it needs none, but if it names
    some it means those."""
    if view.find("replication.peers") is None:
        return bool(peers) or len(addresses) == 1
    known = {address for address in addresses.values() if address is not None}
    return len(addresses) > 1 and known <= {peer.address for peer in peers}
