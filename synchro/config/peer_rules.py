"""As whom an instance calls its peers, from its file [C-11], [S-10].

How others log in stands at the instance that they call: its `advertise.peer.login`. Addresses in
`replication.peers` may name a login themselves; those that do not, and members that joined later, are called
with the login of the caller's own `advertise.peer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from synchro.config.address import join, parse_uri, split
from synchro.config.logins import NO_LOGIN, PeerLogin, PeerLogins
from synchro.config.peer_addresses import peer_uri
from synchro.config.view import View, beside
from synchro.secret import Secret


def peer_logins(view: View, views: Sequence[View], addresses: Mapping[str, str | None]) -> PeerLogins:
    """addresses: name of each member -> host:port. Problems are reported to the view."""
    if view.get("isolated", False):
        return PeerLogins()
    logins: dict[str, PeerLogin] = {}
    for member in views:
        address = addresses[member.name]
        login = advertised(view if member.name == view.name else member)
        if address is not None and login is not None:
            logins[address] = login
    item = view.find("replication.peers")
    for peer in () if item is None else item.value:
        try:
            uri = peer_uri(view, peer)
            address = join(*split(uri.address))
        except ValueError:
            continue  # `peer_addresses` tells
        if uri.user and uri.user != NO_LOGIN:
            logins[address] = PeerLogin(uri.user, uri.password) if uri.password else _known(view, uri.user)
    return PeerLogins(advertised(view), MappingProxyType(logins))


def advertised(view: View) -> PeerLogin | None:
    """How this instance is called; None: as guest."""
    for section in ("grpc", "iproto"):
        peer = f"{section}.advertise.peer"
        if (login := _login(view, peer)) is not None:
            return None if login.user == NO_LOGIN else login
    return None


def idle_logins(view: View) -> Iterator[str]:
    """What has no effect, as `rules.idle_options`."""
    for section in ("grpc", "iproto"):
        peer = f"{section}.advertise.peer"
        for key in ("password", "password_file"):
            if view.find(f"{peer}.{key}") is not None and view.find(f"{peer}.login") is None:
                yield f"{peer}.{key} has no effect without {peer}.login"
    if view.find("grpc.advertise.peer.login") and view.find("iproto.advertise.peer.login"):
        yield "iproto.advertise.peer.login has no effect beside grpc.advertise.peer.login"


def guest_peers(view: View) -> Iterator[str]:
    """That peers call as guest, to whom the file gives no right."""
    if view.find("credentials.users") is None or advertised(view) is not None:
        return
    if view.find("credentials.users.guest.roles") or view.find("credentials.users.guest.privileges"):
        return
    yield (
        "peers call as guest (no grpc.advertise.peer.login), and credentials give the guest no right to "
        "replicate: unless a command granted it that, the instances refuse each other"
    )


def _login(view: View, peer: str) -> PeerLogin | None:
    item = view.find(f"{peer}.login")
    if item is None:
        return _of_uri(view, f"{peer}.uri")
    user = view.text(f"{peer}.login", "")
    if user == NO_LOGIN:
        return PeerLogin(user)
    own = _password(view, user, peer)
    if own is not None:
        return own
    if view.find(f"credentials.users.{user}") is None:
        view.report(f"{peer}.login", f"Cannot find user {user} in the config to build an URI", item)
    elif not _has_password(view, user):
        view.report(
            f"{peer}.login",
            f"user {user} has neither password nor password_file in credentials.users, and "
            f"{peer}.password is not set: nobody could log in as it",
            item,
        )
    return _known(view, user)


def _of_uri(view: View, path: str) -> PeerLogin | None:
    """`user:password@host:port` in the address itself."""
    try:
        uri = parse_uri(view.text(path, ""))
    except ValueError:
        return None  # `rules` tells
    if not uri.user:
        return None
    return PeerLogin(uri.user, uri.password) if uri.password else _known(view, uri.user)


def _known(view: View, user: str) -> PeerLogin:
    """With the password that `credentials` has for it; else the empty one [S-2]."""
    return _password(view, user, f"credentials.users.{user}") or PeerLogin(user)


def _has_password(view: View, user: str) -> bool:
    return any(view.find(f"credentials.users.{user}.{key}") for key in ("password", "password_file"))


def _password(view: View, user: str, place: str) -> PeerLogin | None:
    item = view.find(f"{place}.password")
    if item is not None:
        return PeerLogin(user, Secret(str(item.value)))
    if view.find(f"{place}.password_file") is not None:
        return PeerLogin(user, password_file=beside(view, view.text(f"{place}.password_file", "")))
    return None
