"""The calls about users and roles, as plans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from synchro.client.api import Api
from synchro.client.model import TxnId
from synchro.client.plans import Plan
from synchro.client.replies import txn_of
from synchro.client.requests import Message
from synchro.rpc.generated.v1 import auth_pb2

Privileges: TypeAlias = "str | Iterable[str]"
"""`"read,write"`, or a list of such words."""


@dataclass(frozen=True, slots=True)
class GrantInfo:
    """What a user or role may do with an object; object: "" = all of the type. by_config: the privileges
    that the configuration gave."""

    object_type: str
    object: str
    privileges: Sequence[str]
    by_config: Sequence[str]


@dataclass(frozen=True, slots=True)
class UserInfo:
    """A user or a role. owner: name of who made it. is_from_config: the configuration made it, or set its
    password. The password itself is shown to nobody."""

    id: int
    name: str
    is_role: bool
    owner: str
    has_password: bool
    is_from_config: bool
    grants: Sequence[GrantInfo]


@dataclass(frozen=True, slots=True)
class UserChanged:
    """done: False if it was so already, and nothing was changed."""

    done: bool
    txn: TxnId | None


class UserApi:
    """Users and roles: `db.users`. Raises the server's errors, `OutcomeUnknown` as writes do."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def create(
        self,
        name: str,
        password: str | None = None,
        *,
        is_role: bool = False,
        if_not_exists: bool = False,
        timeout: float | None = None,
    ) -> Plan[UserChanged]:
        """Make a user or a role. password: None: nobody can log in as it."""
        request = auth_pb2.CreateUserRequest(
            name=name, is_role=is_role, password=password, if_not_exists=if_not_exists
        )
        reply = yield from self._change("CreateUser", request, timeout)
        return UserChanged(reply.created, txn_of(reply))

    def set_password(
        self, password: str, name: str = "", *, timeout: float | None = None
    ) -> Plan[UserChanged]:
        """Give a user another password. name: "" = who is logged in."""
        request = auth_pb2.SetPasswordRequest(name=name, password=password)
        reply = yield from self._change("SetPassword", request, timeout)
        return UserChanged(True, txn_of(reply))

    def drop(
        self, name: str, *, is_role: bool = False, if_exists: bool = False, timeout: float | None = None
    ) -> Plan[UserChanged]:
        """Remove a user or a role, with all that was granted to it and on it."""
        request = auth_pb2.DropUserRequest(name=name, is_role=is_role, if_exists=if_exists)
        reply = yield from self._change("DropUser", request, timeout)
        return UserChanged(reply.dropped, txn_of(reply))

    def grant(
        self,
        grantee: str,
        privileges: Privileges,
        object_type: str = "universe",
        object: str = "",
        *,
        to_role: bool = False,
        if_not_exists: bool = False,
        timeout: float | None = None,
    ) -> Plan[UserChanged]:
        """Give privileges on an object: read, write, execute, create, drop, alter, session, usage.

        object_type: universe, space, sequence, role or user; object: "" = all of the type. "execute" of a
        role is the role: `grant("bob", "execute", "role", "super")`. to_role: the grantee is a role.
        """
        request = auth_pb2.GrantRequest(
            grantee=grantee,
            is_role=to_role,
            privileges=_words(privileges),
            object_type=object_type,
            object=object,
            if_not_granted=if_not_exists,
        )
        reply = yield from self._change("Grant", request, timeout)
        return UserChanged(reply.granted, txn_of(reply))

    def revoke(
        self,
        grantee: str,
        privileges: Privileges,
        object_type: str = "universe",
        object: str = "",
        *,
        from_role: bool = False,
        if_exists: bool = False,
        timeout: float | None = None,
    ) -> Plan[UserChanged]:
        """Take privileges away; as `grant`."""
        request = auth_pb2.RevokeRequest(
            grantee=grantee,
            is_role=from_role,
            privileges=_words(privileges),
            object_type=object_type,
            object=object,
            if_granted=if_exists,
        )
        reply = yield from self._change("Revoke", request, timeout)
        return UserChanged(reply.revoked, txn_of(reply))

    def list(
        self, name: str = "", *, instance: str | None = None, timeout: float | None = None
    ) -> Plan[list[UserInfo]]:
        """Users and roles that may be seen, or one. instance: as one instance knows them."""
        request = auth_pb2.ListUsersRequest(name=name)
        reply = yield from self._api.plans.read("auth", "ListUsers", request, instance, timeout)
        return [_user(message) for message in reply.users]

    def _change(self, method: str, request: Message, timeout: float | None) -> Plan[Message]:
        return self._api.plans.change(method, request, timeout, service="auth")


def _words(privileges: Privileges) -> list[str]:
    return [privileges] if isinstance(privileges, str) else [*privileges]


def _user(message: Message) -> UserInfo:
    return UserInfo(
        id=message.id,
        name=message.name,
        is_role=message.is_role,
        owner=message.owner,
        has_password=message.has_password,
        is_from_config=message.is_from_config,
        grants=tuple(
            GrantInfo(grant.object_type, grant.object, tuple(grant.privileges), tuple(grant.by_config))
            for grant in message.grants
        ),
    )
