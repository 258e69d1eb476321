"""`credentials` of a file -> `Credentials` [C-43]. Problems are reported to the view, with their place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from synchro.config.credentials import ConfiguredGrant, ConfiguredUser, Credentials
from synchro.config.located import Located
from synchro.secret import Secret, read_secret, why_no_password

_OBJECTS: Final = {"spaces": "space", "sequences": "sequence"}
_WITHOUT: Final = frozenset({"functions", "lua_eval", "lua_call", "sql"})
"""Objects of Tarantool that are not here: privileges on them are passed over, with a warning."""
_PERMISSIONS: Final = frozenset({"read", "write", "execute", "session", "usage", "create", "drop", "alter"})


class View(Protocol):
    """What is needed of `view.View`."""

    file: str

    def find(self, path: str) -> Located | None: ...

    def report(self, path: str, message: str, place: Located | None = None) -> None: ...


def credentials_of(view: View) -> Credentials:
    """Roles first: users have them."""
    users = [
        _user(view, name, item, is_role=is_role)
        for is_role, path in ((True, "credentials.roles"), (False, "credentials.users"))
        for name, item in _named(view, path)
    ]
    names = [user.name for user in users]
    for user in users:
        if user.is_role and names.count(user.name) > 1:
            path = f"credentials.roles.{user.name}"
            view.report(path, f"{user.name!r} is a user and a role: names of both differ", view.find(path))
    return Credentials(tuple(users))


def unused_privileges(view: View) -> Iterator[str]:
    """Kinds of objects that the file names and that are not here."""
    for path in ("credentials.roles", "credentials.users"):
        for _, item in _named(view, path):
            for grant in _list(item, "privileges"):
                if isinstance(grant, dict):
                    yield from (kind for kind in grant if kind in _WITHOUT)


def _named(view: View, path: str) -> list[tuple[str, Located]]:
    found = view.find(path)
    if found is None:
        return []
    return sorted((name, item) for name, item in found.value.items() if item.value is not None)


def _user(view: View, name: str, item: Located, *, is_role: bool) -> ConfiguredUser:
    path = f"credentials.{'roles' if is_role else 'users'}.{name}"
    roles = tuple(str(role) for role in _list(item, "roles"))
    grants = [
        grant
        for number, entry in enumerate(_list(item, "privileges"), 1)
        for grant in _grants(view, f"{path}.privileges", number, entry, item)
    ]
    password = None if is_role else _password(view, path, item)
    file = item.value.get("password_file")
    place = "" if password is None or file is None else _beside(view, str(file.value))
    return ConfiguredUser(name, is_role, password, roles, tuple(grants), place)


def _beside(view: View, name: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(view.file)), name)


def _list(item: Located, key: str) -> Sequence[Any]:
    inner = item.value.get(key)
    value = None if inner is None else _plain(inner.value)
    return value if isinstance(value, list) else ()


def _plain(value: Any) -> Any:
    if isinstance(value, Located):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _grants(view: View, path: str, number: int, entry: Any, place: Located) -> Iterator[ConfiguredGrant]:
    def report(message: str) -> None:
        view.report(path, f"item {number}: {message}", place.value["privileges"])

    known = {"permissions", "universe", *_OBJECTS, *_WITHOUT}
    if not isinstance(entry, dict) or not entry.keys() <= known:
        report(f"expected a map with: {', '.join(sorted(known))}")
        return
    words = entry.get("permissions")
    if not isinstance(words, list) or not words or not _PERMISSIONS.issuperset(map(str, words)):
        report(f"permissions is a list of: {', '.join(sorted(_PERMISSIONS))}")
        return
    permissions = tuple(map(str, words))
    if entry.get("universe") in (True, ["all"]):
        yield ConfiguredGrant(permissions, "universe")
    for key, kind in _OBJECTS.items():
        names = entry.get(key, [])
        if not isinstance(names, list):
            report(f"{key} is a list of names")
            continue
        for name in map(str, names):
            yield ConfiguredGrant(permissions, kind, "" if name == "all" else name)


def _password(view: View, path: str, item: Located) -> Secret | None:
    text, file = item.value.get("password"), item.value.get("password_file")
    if text is not None and file is not None:
        view.report(path, "give password or password_file, not both", item)
    if file is None or file.value is None:
        return None if text is None or text.value is None else Secret(str(text.value))
    name = _beside(view, str(file.value))
    try:
        found = read_secret(name)
    except ValueError as error:
        view.report(f"{path}.password_file", str(error), file)
        return None
    if (why := why_no_password(found.reveal())) is not None:
        view.report(f"{path}.password_file", f"the first line of {name} is no password: {why}", file)
        return None
    return found
