"""Who is logged in here: sessions of one instance, in memory. Pure: the time is an argument. ADR 43."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from synchro.storage.users import Caller

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
    """One login. verifier: what its password was checked with; None: of the guest, who has none."""

    __slots__ = ("caller", "expires_at", "is_over", "is_used", "key", "on_end", "verifier")

    def __init__(self, key: str, caller: Caller, verifier: bytes | None, expires_at: float) -> None:
        self.key = key
        """What the metadata `authorization` says."""
        self.caller = caller
        self.verifier = verifier
        self.expires_at = expires_at
        self.is_used = False
        """Since the last sweep."""
        self.is_over = False
        self.on_end: set[Callable[[], None]] = set()
        """Streams that go on under it: each is told once when it ends."""

    @property
    def token(self) -> str:
        return self.key.removeprefix(SCHEME)

    def __repr__(self) -> str:
        return f"Session({self.caller})"


class Sessions:
    """All sessions of one instance.

    N1  At most `user_max` of one user, and `total_max` in all.
    N2  A session that has ended is found no more, and each of its streams was told.
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
        self._by_caller: dict[Caller, dict[str, Session]] = {}
        self.look: Callable[[], None] = lambda: None
        """Ends those whose user has changed since the last look. Cheap: each call asks for it, so that nobody
        acts as the user that has the name of a dropped one."""

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, key: str) -> Session | None:
        """The session of this `authorization`. It is used now."""
        self.look()
        # A dict tells nothing by its time: its hash has a random key, and what it compares are whole tokens.
        found = self._by_key.get(key)
        if found is not None:
            found.is_used = True
        return found

    def open(self, caller: Caller, verifier: bytes | None, now: float) -> Session:
        """A new session; room is made for it (Sessions.N1)."""
        own = self._by_caller.get(caller, {})
        if len(own) >= self._user_max:
            self.end(_idlest(own))
        elif len(self._by_key) >= self._total_max:
            self.end(_idlest(max(self._by_caller.values(), key=len)))
        session = Session(SCHEME + self._new_token(), caller, verifier, now + SESSION_S)
        self._by_key[session.key] = session
        self._by_caller.setdefault(caller, {})[session.key] = session
        return session

    def end(self, session: Session) -> None:
        """Idempotent."""
        if self._by_key.pop(session.key, None) is None:
            return
        session.is_over = True
        own = self._by_caller[session.caller]
        del own[session.key]
        if not own:
            del self._by_caller[session.caller]
        streams, session.on_end = session.on_end, set()
        for told in streams:
            told()

    def end_stale(self, is_valid: Callable[[Caller, bytes | None], bool]) -> None:
        """End those whose user is gone, or has another password by now."""
        for session in list(self._by_key.values()):
            if not is_valid(session.caller, session.verifier):
                self.end(session)

    def sweep(self, now: float) -> None:
        """Renew what was used since the last sweep, or has streams; end what has expired."""
        for session in list(self._by_key.values()):
            if session.is_used or session.on_end:
                session.is_used = False
                session.expires_at = now + SESSION_S
            elif session.expires_at <= now:
                self.end(session)

    def check(self) -> None:
        """Assert Sessions.N1, and that both tables agree."""
        assert len(self._by_key) <= self._total_max  # Sessions.N1
        assert all(0 < len(own) <= self._user_max for own in self._by_caller.values())  # Sessions.N1
        assert sum(map(len, self._by_caller.values())) == len(self._by_key)


def _idlest(own: dict[str, Session]) -> Session:
    """One without streams, if there is one, that was not used for the longest time."""
    return min(own.values(), key=lambda one: (bool(one.on_end), one.is_used, one.expires_at))
