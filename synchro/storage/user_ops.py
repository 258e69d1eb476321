"""Requests of people (make a user, grant a privilege, ...) as changes of `_user` and `_priv`. [S-2]..[S-6],
[C-43].

A `UserDraft` is all users as a writer sees them, changed by what is asked for; `ops` are the rows that
differ. Make it right before `Memtx.prepare`, with nothing prepared in between. Who may ask is for the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from synchro.config import ConfiguredUser, Credentials
from synchro.errors import (
    DropUser,
    GuestUserPassword,
    IllegalParams,
    NoSuchRole,
    NoSuchSpace,
    NoSuchUser,
    PrivGranted,
    PrivNotGranted,
    RoleExists,
    RoleGranted,
    RoleLoop,
    RoleNotGranted,
    SynchroError,
    Unsupported,
    UserExists,
    UserMax,
)
from synchro.ids import why_no_name
from synchro.row import Dml, RowType, Tuple
from synchro.storage.row_body import dml_from_values
from synchro.storage.schema import PRIV_ID, USER_ID
from synchro.storage.users import (
    ADMIN,
    ALL_OF_TYPE,
    BUILT_IN,
    GUEST,
    NOTHING,
    OWN,
    SUPER,
    USERS_MAX,
    ByConfig,
    Grant,
    ObjectId,
    ObjectType,
    Privilege,
    User,
    UserKind,
    Users,
    first_users,
    grant_of,
    grants_of_new_user,
    parse_object_type,
    parse_privileges,
    show_privileges,
    user_of,
)

Find: TypeAlias = Callable[[ObjectType, str], ObjectId]
"""Name of a space or sequence -> its id. Raises `SynchroError` if there is none."""
_Key: TypeAlias = tuple[int, ObjectType, ObjectId]


class Target(NamedTuple):
    """An object, and its name for people."""

    type: ObjectType
    object_id: ObjectId
    name: str

    def __str__(self) -> str:
        return f"{self.type} '{self.name}'" if self.name else str(self.type)


UNIVERSE: Final = Target(ObjectType.UNIVERSE, 0, "")


class UserDraft:
    """All users as they will be.

    W1  Ids are below `USERS_MAX` and names differ; grants are of who is there, and on users and roles that
        are there.
    """

    def __init__(
        self, users: Iterable[Tuple], grants: Iterable[Tuple], *, guest_is_super: bool = True
    ) -> None:
        """users, grants: rows as a writer sees them. guest_is_super: what the guest gets if there are none,
        and the built-in ones are written down now."""
        known = {user.id: (user, row) for row in users if (user := user_of(row)) is not None}
        given = {_key(grant): (grant, row) for row in grants if (grant := grant_of(row)) is not None}
        self._user_rows = {number: row for number, (_, row) in known.items()}
        self._grant_rows = {key: row for key, (_, row) in given.items()}
        self.is_first = not known
        """The set had no rows of users."""
        self.users = {number: user for number, (user, _) in known.items()}
        self.grants = {key: grant for key, (grant, _) in given.items()}
        if self.is_first:
            first, first_grants = first_users(guest_is_super=guest_is_super)
            self.users = {user.id: user for user in first}
            self.grants = {_key(grant): grant for grant in first_grants}
        for grant in list(self.grants.values()):  # what a change elsewhere left behind [UserDraft.W1]
            if not self._is_there(grant):
                del self.grants[_key(grant)]

    def _is_there(self, grant: Grant) -> bool:
        names_user = grant.type in (ObjectType.ROLE, ObjectType.USER) and grant.object_id != ALL_OF_TYPE
        return grant.grantee in self.users and (not names_user or grant.object_id in self.users)

    def ops(self, *, may_exist: bool = False) -> list[Dml]:
        """Of one transaction; [] if nothing differs. may_exist: a row that is new here and not there is no
        error."""
        users = {number: user.to_tuple() for number, user in self.users.items()}
        grants = {key: grant.to_tuple() for key, grant in self.grants.items()}
        return [
            *(_delete(PRIV_ID, *key) for key in self._grant_rows if key not in grants),
            *(_delete(USER_ID, number) for number in self._user_rows if number not in users),
            *_puts(USER_ID, self._user_rows, users, may_exist),
            *_puts(PRIV_ID, self._grant_rows, grants, may_exist),
        ]

    def rows(self) -> tuple[list[Tuple], list[Tuple]]:
        """All of `_user`, and of `_priv`."""
        return [user.to_tuple() for user in self.users.values()], [
            grant.to_tuple() for grant in self.grants.values()
        ]

    # --- who there is

    def find(self, name: str, *, is_role: bool) -> User:
        """NoSuchUser, NoSuchRole."""
        kind = UserKind.ROLE if is_role else UserKind.USER
        found = next((user for user in self.users.values() if user.name == name), None)
        if found is None or found.kind is not kind:
            error = NoSuchRole if is_role else NoSuchUser
            raise error(f"{kind.value.capitalize()} '{name}' is not found")
        return found

    def create(
        self,
        name: str,
        *,
        is_role: bool = False,
        owner: int = ADMIN,
        verifier: bytes | None = None,
        if_not_exists: bool = False,
        by_config: bool = False,
    ) -> bool:
        """False: it exists [S-4]. UserExists, RoleExists, UserMax; `IllegalParams` for no name (ADR 26)."""
        known = next((user for user in self.users.values() if user.name == name), None)
        if known is not None:
            if if_not_exists and known.is_role == is_role:
                return False
            error = RoleExists if known.is_role else UserExists
            raise error(f"{known.kind.value.capitalize()} '{name}' already exists")
        if (why := why_no_name(name)) is not None:
            raise IllegalParams(f"{why}; nothing was done", field="name")
        number = next((n for n in range(USERS_MAX) if n not in self.users and n not in BUILT_IN), None)
        if number is None:
            raise UserMax(
                f"A limit on the total number of users has been reached: {USERS_MAX}; nothing was done"
            )
        kind = UserKind.ROLE if is_role else UserKind.USER
        made = OWN
        if by_config:
            made = ByConfig.USER | (OWN if verifier is None else ByConfig.PASSWORD)
        self.users[number] = User(number, name, kind, owner, verifier, made)
        if not is_role:
            self.grants |= {_key(grant): grant for grant in grants_of_new_user(number)}
        return True

    def set_verifier(self, name: str, verifier: bytes, *, by_config: bool = False) -> None:
        """NoSuchUser, GuestUserPassword."""
        user = self.find(name, is_role=False)
        if user.id == GUEST:
            raise GuestUserPassword("Setting password for guest user has no effect; nothing was done")
        mark = user.by_config & ~ByConfig.PASSWORD
        if by_config:
            mark |= ByConfig.PASSWORD
        self.users[user.id] = user._replace(verifier=verifier, by_config=ByConfig(mark))

    def drop(self, name: str, *, is_role: bool, spaces: Sequence[str] = (), if_exists: bool = False) -> bool:
        """With all that was granted to it, and on it. False: there is none. spaces: names of those it owns.
        DropUser, NoSuchUser, NoSuchRole."""
        try:
            user = self.find(name, is_role=is_role)
        except (NoSuchUser, NoSuchRole):
            if if_exists:
                return False
            raise
        if user.id in BUILT_IN:
            raise DropUser(f"Failed to drop {user.kind} '{name}': it is built in; nothing was done")
        if spaces:
            shown = ", ".join(spaces[:10])
            raise DropUser(
                f"Failed to drop user '{name}': it owns spaces: {shown}; nothing was done. Next: drop them "
                "first"
            )
        del self.users[user.id]
        self.grants = {key: grant for key, grant in self.grants.items() if self._is_there(grant)}
        for other in list(self.users.values()):
            if other.owner == user.id:
                self.users[other.id] = other._replace(owner=ADMIN)
        return True

    # --- what they may do

    def target(self, type: str, name: str, find: Find) -> Target:
        """The object that people name; "" = all of the type. NoSuchUser, NoSuchRole, and as `find`."""
        kind = parse_object_type(type)
        if kind is ObjectType.UNIVERSE:
            return UNIVERSE
        if not name:
            return Target(kind, ALL_OF_TYPE, name)
        if kind in (ObjectType.ROLE, ObjectType.USER):
            return Target(kind, self.find(name, is_role=kind is ObjectType.ROLE).id, name)
        return Target(kind, find(kind, name), name)

    def grant(
        self,
        grantee: User,
        privileges: Privilege,
        target: Target,
        *,
        grantor: int = ADMIN,
        if_not_granted: bool = False,
        by_config: bool = False,
    ) -> bool:
        """False: it has all of it. PrivGranted, RoleGranted, RoleLoop, IllegalParams."""
        _check_pair(privileges, target)
        key = grantee.id, target.type, target.object_id
        known = self.grants.get(key)
        had = NOTHING if known is None else known.privileges
        new = Privilege(privileges & ~had)
        if not new:
            if if_not_granted:
                return False
            if target.type is ObjectType.ROLE:
                raise RoleGranted(f"User '{grantee.name}' already has role '{target.name}'")
            raise PrivGranted(
                f"User '{grantee.name}' already has {show_privileges(privileges)} access on {target}"
            )
        if target.type is ObjectType.ROLE and new & Privilege.EXECUTE:
            self._refuse_loop(grantee, target)
        marked = NOTHING if known is None else known.by_config
        self.grants[key] = Grant(
            grantor if known is None else known.grantor,
            *key,
            Privilege(had | new),
            Privilege(marked | new) if by_config else marked,
        )
        return True

    def _refuse_loop(self, grantee: User, target: Target) -> None:
        role = target.object_id
        if grantee.is_role and isinstance(role, int) and grantee.id in {role} | self.after().roles_of(role):
            raise RoleLoop(f"Granting role '{target.name}' to role '{grantee.name}' would create a loop")

    @property
    def has_administrator(self) -> bool:
        """Somebody who may do everything can call: with a password, or as the guest."""
        view = self.after()
        callers = [user for user in self.users.values() if user.id == GUEST or user.verifier is not None]
        return any(view.rights(user.caller).has_all for user in callers)

    def after(self) -> Users:
        """Who may do what when the change is committed."""
        seen = Users()
        seen.read(*self.rows())
        return seen

    def revoke(
        self, grantee: User, privileges: Privilege, target: Target, *, if_granted: bool = False
    ) -> bool:
        """False: it has nothing of it. PrivNotGranted, RoleNotGranted."""
        _check_pair(privileges, target)
        if grantee.id in (ADMIN, SUPER):
            raise Unsupported(
                f"{grantee.kind.value.capitalize()} '{grantee.name}' does not support that: what it may do "
                "is built in; nothing was done"
            )
        key = grantee.id, target.type, target.object_id
        known = self.grants.get(key)
        if known is None or not known.privileges & privileges:
            if if_granted:
                return False
            if target.type is ObjectType.ROLE:
                raise RoleNotGranted(f"User '{grantee.name}' does not have role '{target.name}'")
            raise PrivNotGranted(
                f"User '{grantee.name}' does not have {show_privileges(privileges)} access on {target}"
            )
        self._take(known, privileges)
        return True

    def _take(self, grant: Grant, privileges: Privilege) -> None:
        left = Privilege(grant.privileges & ~privileges)
        if left:
            marked = Privilege(grant.by_config & left)
            self.grants[_key(grant)] = grant._replace(privileges=left, by_config=marked)
        else:
            del self.grants[_key(grant)]

    # --- the configuration [C-43]

    def configure(
        self,
        wanted: Credentials,
        verifiers: Mapping[str, bytes],
        find: Find,
        spaces_of: Callable[[int], Sequence[str]] = lambda _: (),
        *,
        takes_away: bool = True,
    ) -> list[str]:
        """What the configuration wants is there, and what it once made and wants no more is gone.

        verifiers: of users whose password is another one now. find: raises `SynchroError` for an object that
        is not there. takes_away: False: only what is missing is added. Returns what could not be done, for
        people.
        """
        problems: list[str] = []
        for one in wanted.users:
            _attempt(problems, partial(self._configure_user, one, verifiers.get(one.name)))
        given: dict[_Key, Privilege] = {}
        for one in wanted.users:
            self._configure_grants(one, find, given, problems)
        if not takes_away:
            return problems
        for key, grant in list(self.grants.items()):
            if unwanted := grant.by_config & ~given.get(key, NOTHING):
                self._take(grant, Privilege(unwanted))
        names = {(one.name, one.is_role): one for one in wanted.users}
        for user in list(self.users.values()):
            self._forget_user(user, names.get((user.name, user.is_role)), spaces_of, problems)
        return problems

    def _configure_user(self, one: ConfiguredUser, verifier: bytes | None) -> None:
        made = self.create(
            one.name, is_role=one.is_role, verifier=verifier, if_not_exists=True, by_config=True
        )
        if not made and verifier is not None:
            self.set_verifier(one.name, verifier, by_config=True)

    def _configure_grants(
        self,
        one: ConfiguredUser,
        find: Find,
        given: dict[_Key, Privilege],
        problems: list[str],
    ) -> None:
        def give(words: Sequence[str], type: str, name: str) -> None:
            privileges, grantee = parse_privileges(words), self.find(one.name, is_role=one.is_role)
            target = self.target(type, name, find)
            self.grant(grantee, privileges, target, if_not_granted=True, by_config=True)
            key = grantee.id, target.type, target.object_id
            given[key] = given.get(key, NOTHING) | privileges

        for role in one.roles:
            _attempt(problems, partial(give, ("execute",), "role", role))
        for grant in one.grants:
            _attempt(problems, partial(give, grant.privileges, grant.type, grant.object))

    def _forget_user(
        self,
        user: User,
        wanted: ConfiguredUser | None,
        spaces_of: Callable[[int], Sequence[str]],
        problems: list[str],
    ) -> None:
        if user.by_config & ByConfig.PASSWORD and (wanted is None or wanted.password is None):
            user = self.users[user.id] = user._replace(
                verifier=None, by_config=ByConfig(user.by_config & ~ByConfig.PASSWORD)
            )
        if user.by_config & ByConfig.USER and wanted is None:
            spaces = spaces_of(user.id)
            _attempt(problems, partial(self.drop, user.name, is_role=user.is_role, spaces=spaces))

    def check(self) -> None:
        assert all(0 <= number < USERS_MAX for number in self.users)  # UserDraft.W1
        assert len({user.name for user in self.users.values()}) == len(self.users)
        assert all(map(self._is_there, self.grants.values()))


def draft_of_new_set(wanted: Credentials, verifiers: Mapping[str, bytes]) -> UserDraft:
    """The users of a set that begins with this configuration; it has no spaces of its own yet."""

    def no_object(_kind: ObjectType, name: str) -> ObjectId:
        raise NoSuchSpace(f"Space '{name}' does not exist")

    draft = UserDraft((), (), guest_is_super=False)
    draft.configure(wanted, verifiers, no_object)
    return draft


def users_while_loading(wanted: Credentials | None) -> Users:
    """Who may do what before rows are known: as configured. Nobody can log in yet."""
    users = Users()
    if wanted is not None and wanted.users:
        users.read(*draft_of_new_set(wanted, {}).rows())
    return users


def _check_pair(privileges: Privilege, target: Target) -> None:
    """EXECUTE of a role is the role itself."""
    if target.type is not ObjectType.ROLE or not privileges & Privilege.EXECUTE:
        return
    if target.object_id == ALL_OF_TYPE:
        raise IllegalParams("which role? Its name is missing; nothing was done")
    if privileges != Privilege.EXECUTE:
        raise IllegalParams(
            f"a role is granted by execute alone, not by {show_privileges(privileges)}; nothing was done"
        )


def _key(grant: Grant) -> _Key:
    return grant.grantee, grant.type, grant.object_id


def _same(before: Tuple | None, now: Tuple) -> bool:
    """The options, which come last, may be missing."""
    return before is not None and (*before, {})[: len(now)] == now


def _puts(
    space_id: int, before: Mapping[Any, Tuple], now: Mapping[Any, Tuple], may_exist: bool
) -> Iterator[Dml]:
    for key, row in now.items():
        if not _same(before.get(key), row):
            kind = RowType.REPLACE if key in before or may_exist else RowType.INSERT
            yield dml_from_values(kind, space_id, value=row)


def _delete(space_id: int, *key: ObjectId) -> Dml:
    return dml_from_values(RowType.DELETE, space_id, index_id=0, key=tuple(key))


def _attempt(problems: list[str], change: Callable[[], object]) -> None:
    try:
        change()
    except SynchroError as error:
        problems.append(error.message)
