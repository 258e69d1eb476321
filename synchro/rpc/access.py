"""What a method asks of its caller before it does anything. [S-2]..[S-7], [S-12], ADR 42.

Each method of a service names its need where it is made (`Service.waiting` and its like), so none is without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from synchro.errors import Loading, NoSuchSpace, SynchroError, Unsupported
from synchro.row import Dml
from synchro.server.api import NodeApi
from synchro.storage.conditions import Condition
from synchro.storage.index import SelectResult
from synchro.storage.schema import SpaceDef
from synchro.storage.users import (
    ENTER,
    USER_SPACES,
    Caller,
    ObjectType,
    Privilege,
    Rights,
    Users,
    denied,
    without_verifier,
)

_BY_WEIGHT: Final = (Privilege.EXECUTE, *Privilege)

Need: TypeAlias = Callable[[Caller, Any], object]
"""Gets the caller and the request; raises `AccessDenied`."""


class Access:
    """The needs that several services share, and the rights behind them."""

    __slots__ = ("_node", "_users")

    def __init__(self, node: NodeApi) -> None:
        self._node = node
        self._users: Users | None = None
        """Those of the core, once there is one: they stay the same object."""

    def rights(self, caller: Caller) -> Rights:
        users = self._users
        return (self.users if users is None else users).rights(caller)

    @property
    def users(self) -> Users:
        """As committed; while the instance loads, as configured."""
        try:
            self._users = self._node.instance.memtx.catalog.users
        except Loading:
            return self._node.users
        return self._users

    # --- needs

    def nothing(self, _caller: Caller, _request: Any) -> None:
        """Everybody may: it tells no more than who leads, as the ballot does [S-7]."""

    def to_look(self, caller: Caller, _request: Any) -> None:
        """To look around: who logged in may, and a guest to whom anything was given."""
        rights = self.rights(caller)
        if rights.is_nobody:
            raise denied(rights, Privilege.READ, ObjectType.UNIVERSE, "")

    def to_do_everything(self, caller: Caller, _request: Any) -> None:
        """What may hold any change needs all there is."""
        rights = self.rights(caller)
        if not rights.has_all:
            missing = next(each for each in _BY_WEIGHT if not rights.universe & each)
            raise denied(rights, missing, ObjectType.UNIVERSE, "")

    def to_operate(self, caller: Caller, _request: Any) -> None:
        """What operators do needs EXECUTE on the universe [S-12]."""
        rights = self.rights(caller)
        if not rights.universe & Privilege.EXECUTE:
            raise denied(rights, Privilege.EXECUTE, ObjectType.UNIVERSE, "")


def refuse_users(ops: Iterable[Dml]) -> None:
    """Raises `Unsupported` for rows that only commands make, whoever writes them."""
    if any(op.space_id in USER_SPACES for op in ops):
        raise _only_by_commands("_user or _priv")


def check_space(rights: Rights, privilege: Privilege, space: SpaceDef) -> None:
    """Raises `AccessDenied`."""
    if not rights.in_space(space.id) & privilege:
        raise denied(rights, privilege, ObjectType.SPACE, space.name)


def check_writes(rights: Rights, ops: Sequence[Dml], space_of: Callable[[int], SpaceDef]) -> None:
    """Whether all of them may be written as data. Raises `AccessDenied`, and `Unsupported` for rows that
    only commands make."""
    last = 0
    for op in ops:
        space_id = op.space_id
        if space_id != last:
            if not rights.may_write(space_id) or space_id in USER_SPACES:
                raise _not_written(rights, space_of(space_id))
            last = space_id


def check_conditions(
    rights: Rights, conditions: Sequence[Condition], space_of: Callable[[int], SpaceDef]
) -> None:
    """Whether what they tell may be read; an update or delete that must match tells no more than without
    that. Raises `AccessDenied`, and `Unsupported` where not all of a row may be read."""
    for condition in conditions:
        if not condition.is_of_change:
            space = space_of(condition.space_id)
            check_space(rights, Privilege.READ, space)
            if condition.space_id in USER_SPACES:
                raise Unsupported(
                    f"Space '{space.name}' does not support conditions; nothing was done", space=space.name
                )


def _not_written(rights: Rights, space: SpaceDef) -> SynchroError:
    missing = rights.missing_to_write(space.id)
    if missing is not None:
        privilege, kind = missing
        return denied(rights, privilege, kind, space.name if kind is ObjectType.SPACE else "")
    return _only_by_commands(space.name)


def _only_by_commands(space: str) -> Unsupported:
    return Unsupported(
        f"Space '{space}' does not support changes of its rows; nothing was written. Next: synchro user, "
        "role, grant, revoke",
        space=space,
    )


def instead_of(error: SynchroError, rights: Rights, privilege: Privilege, name: str) -> SynchroError:
    """What is said instead of "no such space" to whom no name of a space is told."""
    if isinstance(error, NoSuchSpace) and not rights.universe & ~ENTER:
        return denied(rights, privilege, ObjectType.SPACE, name)
    return error


def without_verifiers(rows: SelectResult) -> SelectResult:
    """Rows of `_user` as all see them."""
    return SelectResult(map(without_verifier, rows), more=rows.more)
