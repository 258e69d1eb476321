"""Who is logged in here: sessions of one instance, in memory. Pure: the time is an argument. ADR 43."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

SESSION_S: Final = 3600.0
"""A session that is not used for so long ends; one that is used is renewed."""
SESSIONS_MAX: Final = 10_000
USER_SESSIONS_MAX: Final = 1_000
"""Of one user, such as that of all processes of an application. Beyond it the one that was not used for the
longest time ends; its client logs in again."""
TOKEN_BYTES: Final = 32
SCHEME: Final = "Bearer "
"""What stands in front of the token in the metadata `authorization`."""


class Session:
    """One login. `on_end`: of the calls that go on under it; each is called once when it ends."""

    __slots__ = ("expires_at", "is_used", "key", "on_end", "stamp", "user", "user_id")

    def __init__(self, key: str, user: str, user_id: int, stamp: str, expires_at: float) -> None:
        self.key = key
        """What the metadata `authorization` is."""
        self.user = user
        self.user_id = user_id
        self.stamp = stamp
        """The verifier by which it was opened: another one ends it."""
        self.expires_at = expires_at
        self.is_used = False
        """Since the last sweep."""
        self.on_end: set[Callable[[], None]] = set()

    @property
    def token(self) -> str:
        return self.key.removeprefix(SCHEME)

    def __repr__(self) -> str:
        return f"Session(user={self.user!r})"


class Sessions:
    """All sessions of one instance.

    N1  At most `USER_SESSIONS_MAX` of one user, and `SESSIONS_MAX` in all.
    N2  A session that has ended is found no more, and each of its calls was told.
    """

    def __init__(
        self,
        *,
        total_max: int = SESSIONS_MAX,
        user_max: int = USER_SESSIONS_MAX,
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(TOKEN_BYTES),
    ) -> None:
        self._total_max = total_max
        self._user_max = user_max
        self._new_token = new_token
        self._by_key: dict[str, Session] = {}
        self._by_user: dict[str, dict[str, Session]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, key: str) -> Session | None:
        """The session of this `authorization`. It is used now."""
        found = self._by_key.get(key)
        if found is not None:
            found.is_used = True
        return found

    def open(self, user: str, user_id: int, stamp: str, now: float) -> Session:
        """A new session; room is made for it (Sessions.N1)."""
        own = self._by_user.get(user, {})
        if len(own) >= self._user_max:
            self.end(_idlest(own))
        elif len(self._by_key) >= self._total_max:
            self.end(_idlest(max(self._by_user.values(), key=len)))
        session = Session(SCHEME + self._new_token(), user, user_id, stamp, now + SESSION_S)
        self._by_key[session.key] = session
        self._by_user.setdefault(user, {})[session.key] = session
        return session

    def end(self, session: Session) -> None:
        """Idempotent."""
        if self._by_key.pop(session.key, None) is None:
            return
        own = self._by_user[session.user]
        del own[session.key]
        if not own:
            del self._by_user[session.user]
        calls, session.on_end = session.on_end, set()
        for told in calls:
            told()

    def end_stale(self, stamp_of: Callable[[str], tuple[int, str] | None]) -> None:
        """End those whose user was dropped, or has another password. stamp_of: id and verifier of a user;
        None: there is none."""
        for user, own in list(self._by_user.items()):
            known = stamp_of(user)
            for session in list(own.values()):
                if known != (session.user_id, session.stamp):
                    self.end(session)

    def sweep(self, now: float) -> None:
        """Renew what was used since the last sweep, or has calls that go on; end what has expired."""
        for session in list(self._by_key.values()):
            if session.is_used or session.on_end:
                session.is_used = False
                session.expires_at = now + SESSION_S
            elif session.expires_at <= now:
                self.end(session)

    def check(self) -> None:
        """Assert Sessions.N1 and the agreement of both tables."""
        assert len(self._by_key) <= self._total_max  # N1
        assert all(0 < len(own) <= self._user_max for own in self._by_user.values())  # N1
        assert sum(map(len, self._by_user.values())) == len(self._by_key)


def _idlest(own: dict[str, Session]) -> Session:
    """One without calls that go on, if there is one, that was not used for the longest time."""
    return min(own.values(), key=lambda one: (bool(one.on_end), one.is_used, one.expires_at))
