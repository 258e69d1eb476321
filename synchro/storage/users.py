"""Users, roles, and what they may do: rows of `_user` and `_priv`, and what those mean. [S-2]..[S-6], ADR 42.

Pure. `login` proves who asks; here stands what that one may do. A row of `_user` is
(id, owner, name, "user" or "role", {method: verifier}, options), one of `_priv` is
(grantor, grantee, object type, object id, privilege bits, options).

While a set has no such rows, nobody has said yet who may do what: the built-in users are there, and the guest
is super (`Users.is_unset`). The first change of users writes them all down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntFlag, StrEnum
from typing import Final, NamedTuple

from synchro.errors import AccessDenied, IllegalParams, NoSuchRole, NoSuchUser
from synchro.row import Field, Tuple
from synchro.storage.schema import CLUSTER_ID, PRIV_ID, SCHEMA_ID, USER_ID, is_system

GUEST: Final = 0
ADMIN: Final = 1
PUBLIC: Final = 2
REPLICATION: Final = 3
SUPER: Final = 31
USERS_MAX: Final = 32
"""Users and roles together; their ids are below it [S-3]."""
BUILT_IN: Final = frozenset({GUEST, ADMIN, PUBLIC, REPLICATION, SUPER})
METHOD: Final = "scrypt"
"""The key in the fourth field of `_user` under which the verifier stands."""
USER_SPACES: Final = frozenset({USER_ID, PRIV_ID})
_OF_THE_SET: Final = frozenset({CLUSTER_ID, SCHEMA_ID})
"""Spaces whose rows are about the set itself: to change them is what operators do."""
_CONFIG: Final = "config"
"""The key of options: made by the configuration [C-43]."""


def without_verifier(row: Tuple) -> Tuple:
    """A row of `_user` as people see it: that there is a password, and not what is kept of it."""
    return (*row[:4], *({METHOD: None} if auth else {} for auth in row[4:5]), *row[5:])


class Caller(NamedTuple):
    """Who makes a call: a user, by id, with the name that the id had when it logged in."""

    id: int
    name: str


GUEST_CALLER: Final = Caller(GUEST, "guest")
"""Who makes a call without a session."""


class Privilege(IntFlag):
    """Bits of `_priv` [S-3]."""

    READ = 1
    WRITE = 2
    EXECUTE = 4
    SESSION = 8
    """Log in."""
    USAGE = 16
    """Without it no other one counts."""
    CREATE = 32
    DROP = 64
    ALTER = 128


NOTHING: Final = Privilege(0)
EVERYTHING: Final = Privilege(255)
ENTER: Final = Privilege.SESSION | Privilege.USAGE
_DATA: Final = Privilege.READ | Privilege.WRITE
_DEFINE: Final = Privilege.CREATE | Privilege.DROP | Privilege.ALTER


class ObjectType(StrEnum):
    """What a privilege is about."""

    UNIVERSE = "universe"
    SPACE = "space"
    SEQUENCE = "sequence"
    ROLE = "role"
    USER = "user"


class UserKind(StrEnum):
    USER = "user"
    ROLE = "role"


class ByConfig(IntFlag):
    """What of a user the configuration made, and takes away with what it no longer says [C-43]."""

    USER = 1
    """The user or role itself."""
    PASSWORD = 2


OWN: Final = ByConfig(0)
"""Nothing of it."""


_TYPES: Final = frozenset(ObjectType)
_KINDS: Final = frozenset(UserKind)


ObjectId = int | str
"""Of the universe 0; "" means all objects of the type; else the id of one."""
ALL_OF_TYPE: Final = ""


class User(NamedTuple):
    """A user or a role. owner: who made it. verifier: what a password is checked with; None: it has none."""

    id: int
    name: str
    kind: UserKind
    owner: int
    verifier: bytes | None = None
    by_config: ByConfig = OWN

    @property
    def is_role(self) -> bool:
        return self.kind is UserKind.ROLE

    @property
    def caller(self) -> Caller:
        return Caller(self.id, self.name)

    def to_tuple(self) -> Tuple:
        auth: dict[str, Field] = {} if self.verifier is None else {METHOD: self.verifier}
        options: dict[str, Field] = {_CONFIG: int(self.by_config)} if self.by_config else {}
        return self.id, self.owner, self.name, self.kind.value, auth, options


class Grant(NamedTuple):
    """What one user or role may do with one object. by_config: the bits that the configuration gave."""

    grantor: int
    grantee: int
    type: ObjectType
    object_id: ObjectId
    privileges: Privilege
    by_config: Privilege = NOTHING

    def to_tuple(self) -> Tuple:
        options: dict[str, Field] = {_CONFIG: int(self.by_config)} if self.by_config else {}
        return (
            *(self.grantor, self.grantee, self.type.value, self.object_id, int(self.privileges)),
            options,
        )


def user_of(row: Tuple) -> User | None:
    """None: a row that means nothing here; rows of peers are not refused."""
    if len(row) < 5 or not 0 <= row[0] < USERS_MAX or row[3] not in _KINDS:
        return None
    verifier = row[4].get(METHOD) if isinstance(row[4], dict) else None
    return User(
        row[0],
        row[2],
        UserKind(row[3]),
        row[1],
        verifier if isinstance(verifier, bytes) else None,
        ByConfig(_option(row, 5) & (ByConfig.USER | ByConfig.PASSWORD)),
    )


def grant_of(row: Tuple) -> Grant | None:
    """As `user_of`."""
    if len(row) < 5 or row[2] not in _TYPES or isinstance(row[3], bool):
        return None
    if not isinstance(row[3], int | str):
        return None
    return Grant(
        row[0],
        row[1],
        ObjectType(row[2]),
        row[3],
        Privilege(row[4] & EVERYTHING),
        Privilege(_option(row, 5) & EVERYTHING),
    )


def _option(row: Tuple, field: int) -> int:
    options = row[field] if len(row) > field else None
    found = options.get(_CONFIG) if isinstance(options, dict) else None
    return found if type(found) is int and found >= 0 else 0


def first_users(*, guest_is_super: bool) -> tuple[list[User], list[Grant]]:
    """The built-in users and roles, and what they may do [S-3], [S-5]."""
    users = [
        User(GUEST, "guest", UserKind.USER, ADMIN),
        User(ADMIN, "admin", UserKind.USER, ADMIN),
        User(PUBLIC, "public", UserKind.ROLE, ADMIN),
        User(REPLICATION, "replication", UserKind.ROLE, ADMIN),
        User(SUPER, "super", UserKind.ROLE, ADMIN),
    ]
    everything = [Grant(ADMIN, number, ObjectType.UNIVERSE, 0, EVERYTHING) for number in (ADMIN, SUPER)]
    grants = [
        *_enter(GUEST),
        *everything,
        Grant(ADMIN, REPLICATION, ObjectType.UNIVERSE, 0, Privilege.READ),
        Grant(ADMIN, REPLICATION, ObjectType.SPACE, CLUSTER_ID, Privilege.WRITE),
    ]
    if guest_is_super:
        grants.append(Grant(ADMIN, GUEST, ObjectType.ROLE, SUPER, Privilege.EXECUTE))
    return users, grants


def grants_of_new_user(number: int) -> list[Grant]:
    """What each user may do [S-4]: it has the role `public`, may log in, and may alter itself."""
    return [*_enter(number), Grant(ADMIN, number, ObjectType.USER, number, Privilege.ALTER)]


def _enter(number: int) -> list[Grant]:
    return [
        Grant(ADMIN, number, ObjectType.ROLE, PUBLIC, Privilege.EXECUTE),
        Grant(ADMIN, number, ObjectType.UNIVERSE, 0, ENTER),
    ]


_PUBLIC_ROLE: Final = (ObjectType.ROLE, PUBLIC)


class Rights:
    """What one user may do, roles included, until a row changes. Asked for each call: one look-up.

    has_all: as the role `super`. universe: what it may do with everything.
    """

    __slots__ = (
        "_objects",
        "_owner_of",
        "_spaces",
        "caller",
        "has_all",
        "reads_all",
        "universe",
        "writes_all",
    )

    def __init__(
        self,
        caller: Caller,
        objects: Mapping[tuple[ObjectType, ObjectId], Privilege],
        owner_of: Callable[[int], int | None],
    ) -> None:
        """owner_of: space id -> id of its owner; None: there is no such space."""
        self.caller = caller
        universe = objects.get((ObjectType.UNIVERSE, 0), NOTHING)
        if not universe & Privilege.USAGE:
            universe, objects = universe & Privilege.SESSION, {}
        self.universe: Final = universe
        self._objects: Final = objects
        self._owner_of: Final = owner_of
        self._spaces: Final[dict[int, Privilege]] = {}
        self.has_all: Final = universe == EVERYTHING
        self.reads_all: Final = bool(universe & Privilege.READ)
        self.writes_all: Final = bool(universe & Privilege.WRITE)
        """Spaces that are no system spaces."""

    def of(self, kind: ObjectType, object_id: ObjectId) -> Privilege:
        """With one object; of a space: see `in_space`."""
        if kind is ObjectType.SPACE and isinstance(object_id, int):
            return self.in_space(object_id)
        return self._granted(kind, object_id)

    def _granted(self, kind: ObjectType, object_id: ObjectId) -> Privilege:
        objects = self._objects
        found = objects.get((kind, object_id), NOTHING)
        return self.universe | objects.get((kind, ALL_OF_TYPE), NOTHING) | found

    def in_space(self, space_id: int) -> Privilege:
        """With a space and its data. Its owner may do everything with it."""
        found = self._spaces.get(space_id)
        if found is None:
            found = self._granted(ObjectType.SPACE, space_id)
            owner = self._owner_of(space_id)
            if owner is None:
                return found  # a client may name as many of those as it likes: they are not kept
            if owner == self.caller.id and self.universe & Privilege.USAGE:
                found |= _DATA | _DEFINE
            self._spaces[space_id] = found
        return found

    def may_write(self, space_id: int) -> bool:
        """Rows, as data. In system spaces that changes what is defined, and members: WRITE is not enough."""
        if is_system(space_id):
            return self.missing_to_write(space_id) is None
        return self.writes_all or bool(self.in_space(space_id) & Privilege.WRITE)

    def missing_to_write(self, space_id: int) -> tuple[Privilege, ObjectType] | None:
        """The first privilege that is missing for that, and on what; None: none is."""
        found = self.in_space(space_id)
        wanted: Sequence[Privilege] = (Privilege.WRITE,)
        if space_id in _OF_THE_SET:
            if found & Privilege.WRITE and not self.universe & Privilege.EXECUTE:
                return Privilege.EXECUTE, ObjectType.UNIVERSE
        elif is_system(space_id):
            wanted = (Privilege.WRITE, Privilege.CREATE, Privilege.ALTER, Privilege.DROP)
        return next(((each, ObjectType.SPACE) for each in wanted if not found & each), None)

    @property
    def is_nobody(self) -> bool:
        """The guest, as long as nothing was given to it: it may not even look around."""
        if self.caller.id != GUEST:
            return False
        return not any(given & ~ENTER for key, given in self._objects.items() if key != _PUBLIC_ROLE)

    def items(self) -> Iterable[tuple[tuple[ObjectType, ObjectId], Privilege]]:
        return self._objects.items()


class Users:
    """All of them, as of committed rows.

    K1  Ids are below `USERS_MAX`, names differ, and what grants name may be gone: such grants give nothing.
    K2  `rights` of a user are those of its own grants and of all roles that it reaches by grants of roles.
    """

    def __init__(
        self,
        owner_of: Callable[[int], int | None] = lambda _: None,
        owned_by: Callable[[int], Sequence[int]] = lambda _: (),
    ) -> None:
        """owner_of: space id -> owner; None: no such space. owned_by: owner -> ids of spaces."""
        self._owner_of = owner_of
        self._owned_by = owned_by
        self._rights: dict[int, Rights] = {}
        self.is_unset = True
        """The set has no rows of users: the guest is super."""
        self.users: dict[int, User] = {}
        self.grants: dict[int, list[Grant]] = {}
        """Grantee -> what was granted to it."""
        self.read((), ())

    def read(self, users: Iterable[Tuple], grants: Iterable[Tuple]) -> None:
        """Take over committed rows of `_user` and `_priv`; those that mean nothing are passed over."""
        known = [user for user in map(user_of, users) if user is not None]
        given = [grant for grant in map(grant_of, grants) if grant is not None]
        self.is_unset = not known
        if self.is_unset:
            known, given = first_users(guest_is_super=True)
        self.users = {user.id: user for user in sorted(known)}
        self.grants = {}
        for grant in given:
            if grant.grantee in self.users:
                self.grants.setdefault(grant.grantee, []).append(grant)
        self.forget_rights()

    def forget_rights(self) -> None:
        """Rows of users changed, or who owns which space: the next question counts again."""
        self._rights = {}

    # --- who there is

    def find(self, name: str, kind: UserKind | None = None) -> User | None:
        return next(
            (u for u in self.users.values() if u.name == name and (kind is None or u.kind is kind)), None
        )

    def user(self, name: str) -> User:
        """NoSuchUser."""
        found = self.find(name, UserKind.USER)
        if found is None:
            raise NoSuchUser(f"User '{name}' is not found")
        return found

    def role(self, name: str) -> User:
        """NoSuchRole."""
        found = self.find(name, UserKind.ROLE)
        if found is None:
            raise NoSuchRole(f"Role '{name}' is not found")
        return found

    def roles_of(self, number: int) -> set[int]:
        """All roles that it has, those of its roles included. Loops do no harm."""
        reached: set[int] = set()
        todo = [number]
        while todo:
            for grant in self.grants.get(todo.pop(), ()):
                role = grant.object_id
                if grant.type is not ObjectType.ROLE or not isinstance(role, int) or role in reached:
                    continue
                if role in self.users and grant.privileges & Privilege.EXECUTE:
                    reached.add(role)
                    todo.append(role)
        return reached

    # --- what they may do

    def rights(self, caller: Caller) -> Rights:
        """None at all, if the user is gone or has another name by now."""
        found = self._rights.get(caller.id)
        if found is None or found.caller != caller:
            found = self._count(caller)
            if caller.id in self.users:  # so many are kept at most
                self._rights[caller.id] = found
        return found

    def _count(self, caller: Caller) -> Rights:
        user = self.users.get(caller.id)
        is_there = user is not None and user.name == caller.name and not user.is_role
        return Rights(caller, self._granted_to(caller.id) if is_there else {}, self._owner_of)

    def _granted_to(self, number: int) -> dict[tuple[ObjectType, ObjectId], Privilege]:
        """By its own grants, and by those of all its roles."""
        objects: dict[tuple[ObjectType, ObjectId], Privilege] = {}
        for each in (number, *self.roles_of(number)):
            for grant in self.grants.get(each, ()):
                key = grant.type, grant.object_id
                objects[key] = objects.get(key, NOTHING) | grant.privileges
        return objects

    def check(
        self,
        caller: Caller,
        privilege: Privilege,
        kind: ObjectType = ObjectType.UNIVERSE,
        object_id: ObjectId = 0,
        name: str = "",
    ) -> None:
        """Raise `AccessDenied` [S-6] if the caller may not. name: of the object, for people."""
        rights = self.rights(caller)
        if not rights.of(kind, object_id) & privilege:
            raise denied(rights, privilege, kind, name)

    def may_act_for(self, caller: Caller, user: User) -> bool:
        """Whether whoever becomes that user, or has that role, gains nothing which the caller has not: by
        what was granted, also while it counts for nothing without `usage`. To alter oneself is no gain."""
        own, itself = self.rights(caller), (ObjectType.USER, user.id)
        if own.has_all or caller == user.caller:
            return True
        granted = self._granted_to(user.id).items()
        if any(_lacks(own.of(*key), given) for key, given in granted if key != itself):
            return False
        return all(not _lacks(own.in_space(space), _DATA | _DEFINE) for space in self._owned_by(user.id))

    def check_rules(self) -> None:
        assert all(0 <= number < USERS_MAX for number in self.users)  # Users.K1
        for kept in self._rights.values():  # Users.K2
            assert dict(kept.items()) == dict(self._count(kept.caller).items())

    def owned_by(self, number: int) -> Sequence[int]:
        """Ids of the spaces that it owns."""
        return self._owned_by(number)


def _lacks(own: Privilege, wanted: Privilege) -> bool:
    return bool(wanted & ~own)


def denied(rights: Rights, privilege: Privilege, kind: ObjectType, name: str) -> AccessDenied:
    """The refusal, with exactly the text of [S-6]."""
    if not rights.universe & Privilege.USAGE and privilege is not Privilege.SESSION:
        privilege, kind, name = Privilege.USAGE, ObjectType.UNIVERSE, ""
    word, user = str(privilege.name).lower(), rights.caller.name
    return AccessDenied(
        f"{word.capitalize()} access to {kind} '{name}' is denied for user '{user}'",
        privilege=word,
        object_type=kind.value,
        object=name,
        user=user,
    )


# --- words of people ------------------------------------------------------------------------------------


def parse_privileges(words: Iterable[str]) -> Privilege:
    """["read", "write"] or ["read,write"]. IllegalParams."""
    found = NOTHING
    for word in (part.strip().lower() for each in words for part in each.split(",")):
        if word.upper() not in Privilege.__members__:
            known = ", ".join(name.lower() for name in Privilege.__members__)
            raise IllegalParams(f"unknown privilege {word!r}: there are {known}; nothing was done")
        found |= Privilege[word.upper()]
    if not found:
        raise IllegalParams("which privileges? None is given; nothing was done")
    return found


def parse_object_type(word: str) -> ObjectType:
    """IllegalParams."""
    if word.lower() not in _TYPES:
        raise IllegalParams(
            f"unknown object type {word!r}: there are {', '.join(ObjectType)}; nothing was done"
        )
    return ObjectType(word.lower())


def show_privileges(privileges: Privilege) -> str:
    """ "read,write" """
    return ",".join(str(each.name).lower() for each in Privilege if each & privileges)
