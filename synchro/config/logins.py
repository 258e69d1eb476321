"""As whom an instance calls its peers [C-11], [S-10]. Pure data; no text that Python makes of it shows a
password."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from synchro.secret import Secret

NO_LOGIN: Final = "guest"
"""A login as this user is none."""


@dataclass(frozen=True, slots=True)
class PeerLogin:
    """password_file: read anew at each login; "": it is `password`."""

    user: str
    password: Secret = field(default_factory=lambda: Secret(""))
    password_file: str = ""


@dataclass(frozen=True, slots=True)
class PeerLogins:
    """by_address: host:port -> as whom the peer there is called. default: for all others, such as a member
    that joined later; None: as guest."""

    default: PeerLogin | None = None
    by_address: Mapping[str, PeerLogin] = field(default_factory=lambda: MappingProxyType({}))

    def as_user(self, user: str) -> list[PeerLogin]:
        """Those by which this instance calls as that user."""
        logins = {self.default, *self.by_address.values()}
        return [login for login in logins if login is not None and login.user == user]

    def of(self, address: str) -> PeerLogin | None:
        """None: as guest."""
        return self.by_address.get(address, self.default)
