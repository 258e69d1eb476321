"""The `credentials` of a configuration: users, roles, and what they may do [C-43]. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field

from synchro.secret import Secret


@dataclass(frozen=True, slots=True)
class ConfiguredGrant:
    """privileges: words such as `read`. type: `universe`, `space`, ...; object: "" = all of the type."""

    privileges: tuple[str, ...]
    type: str
    object: str = ""


@dataclass(frozen=True, slots=True)
class ConfiguredUser:
    """A user or role. password: None: the configuration sets none. password_file: where it is from; "": it
    stands in the configuration. roles: names of roles that it has."""

    name: str
    is_role: bool = False
    password: Secret | None = None
    roles: tuple[str, ...] = ()
    grants: tuple[ConfiguredGrant, ...] = ()
    password_file: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Roles first, then users, each in the order of names."""

    users: tuple[ConfiguredUser, ...] = ()

    def password_of(self, name: str) -> Secret | None:
        """None: no such user, or one without a password here."""
        return next((one.password for one in self.users if one.name == name and not one.is_role), None)
