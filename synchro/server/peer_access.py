"""Who may speak as a member, or get all data to become one [S-7]. ADR 43.

Acks decide what is committed, and votes who leads: a stranger who speaks under the UUID of a member could
lose acknowledged writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from synchro.errors import AccessDenied
from synchro.storage.schema import CLUSTER_ID
from synchro.storage.users import GUEST_CALLER, Caller, ObjectType, Privilege, Users


class Asker(NamedTuple):
    """Who asks to be a peer. host: from where the connection comes. is_of: whether the certificate that it
    shows is one of a host; None: it shows none."""

    caller: Caller = GUEST_CALLER
    host: str = ""
    is_of: Callable[[str], bool | None] = lambda _: None


def check_reader(users: Users, asker: Asker) -> None:
    """Raise `AccessDenied` for who may not have all data."""
    users.check(asker.caller, Privilege.READ)


def may_be_member(users: Users, caller: Caller) -> bool:
    """By its rights alone."""
    try:
        _check_rights(users, caller)
    except AccessDenied:
        return False
    return True


def _check_rights(users: Users, caller: Caller) -> None:
    users.check(caller, Privilege.READ)
    users.check(caller, Privilege.WRITE, ObjectType.SPACE, CLUSTER_ID, "_cluster")


def check_member(users: Users, asker: Asker, *, name: str, address: str) -> None:
    """Raise `AccessDenied` for who may not speak as a member: acks and votes need more than reading.

    address: host:port at which the member listens; "" = not known.
    """
    _check_rights(users, asker.caller)
    if asker.caller != GUEST_CALLER:
        return
    host = address.rpartition(":")[0].strip("[]") or asker.host
    if asker.is_of(host) is False:
        raise AccessDenied(
            f"the certificate of this connection is not valid for '{host}', the address of '{name}': it may "
            "not speak as that instance; nothing was done. Next: log in, by grpc.advertise.peer.login",
            object_type="instance",
            object=name,
            user=asker.caller.name,
        )
