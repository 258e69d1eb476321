"""Logging in at one instance: who may try, whether the password is right, and what comes of it. ADR 43.

L1  A user that does not exist costs as much time, and is told the same, as a wrong password [S-2].
L2  No password is looked at in the loop, and none that came over a connection that others can read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from synchro.errors import BadCredentials, PlainConnection
from synchro.secret import Secret
from synchro.server.login_limits import LoginLimits
from synchro.server.password_work import PasswordWork
from synchro.server.passwords import dummy_verifier, fits
from synchro.server.sessions import Session, Sessions
from synchro.storage.users import GUEST, Caller, Privilege, User, UserKind, Users

SWEEP_S: Final = 60.0
"""Seconds between two looks for sessions that have expired."""


class Logins:
    """Of one instance. While it loads, the users and passwords are those of its configuration: whoever may
    look then sees how far it is."""

    def __init__(
        self, users: Callable[[], Users], configured: Callable[[str], Secret | None] = lambda _: None
    ) -> None:
        """users: as committed, or while it loads as configured. configured: the password of a user while it
        loads; None: there is none, or it has loaded."""
        self.sessions = Sessions()
        self.limits = LoginLimits()
        self.work = PasswordWork()
        self._users = users
        self._configured = configured
        self._nobody = dummy_verifier()
        self._seen: object = None
        self.sessions.look = self._look

    async def login(self, name: str, password: Secret, *, address: str) -> Session:
        """A new session. address: for which failures are counted (`login_limits.bucket_of`).

        Raises `BadCredentials`, `LoginLimited`, `LoginQueueFull`, `AccessDenied`.
        """
        limits, now = self.limits, trio.current_time
        user = self._find(name)
        limits.check(address, name, now())
        if user is not None and user.id == GUEST and not password:
            return self._open(user)
        verifier = None if user is None else user.verifier
        is_right = await self._is_right(
            verifier, name, password, address, begin=lambda: limits.begin(address, name, now())
        )
        current = self._find(name)
        if current is not None and current.verifier != verifier:
            # It has loaded meanwhile, or the password was changed: what was looked at counts no more.
            verifier = current.verifier
            is_right = await self._is_right(verifier, name, password, address)
            current = self._find(name)
        if not is_right or current is None or current.verifier != verifier:
            raise BadCredentials("User not found or supplied credentials are invalid")
        limits.was_right(address, name)
        return self._open(current)

    async def _is_right(
        self,
        verifier: bytes | None,
        name: str,
        password: Secret,
        address: str,
        *,
        begin: Callable[[], None] = lambda: None,
    ) -> bool:
        """verifier: None costs as much; the password is then that of the configuration, if there is one."""
        shown = self._nobody if verifier is None else verifier
        is_right = await self.work.run(address, partial(fits, shown, password.reveal()), begin=begin)
        if verifier is None:
            wanted = self._configured(name)
            return wanted is not None and wanted == password
        return is_right

    def _find(self, name: str) -> User | None:
        return self._users().find(name, UserKind.USER)

    def _open(self, user: User) -> Session:
        self._users().check(user.caller, Privilege.SESSION)
        return self.sessions.open(user.caller, user.verifier, trio.current_time())

    async def run(self, interval_s: Callable[[], float]) -> None:
        """End sessions whose user was dropped or has another password, and those that expire. interval_s:
        seconds between two looks."""
        sweep_at = -math.inf
        try:
            while True:
                await trio.sleep(interval_s())
                self._look()
                if trio.current_time() >= sweep_at:
                    self.sessions.sweep(trio.current_time())
                    sweep_at = trio.current_time() + SWEEP_S
        finally:
            self.work.close()

    def _look(self) -> None:
        users = self._users()
        if users.users is not self._seen:
            self._seen = users.users
            self.sessions.end_stale(partial(_is_valid, users))


def _is_valid(users: Users, caller: Caller, verifier: bytes | None) -> bool:
    user = users.users.get(caller.id)
    return user is not None and user.caller == caller and user.verifier == verifier


def refuse_plain(*, is_private: bool) -> None:
    """Of a call that brings a password. Raises `PlainConnection`."""
    if not is_private:
        raise PlainConnection(
            "the password came over a connection that is not encrypted, from another host; it was not looked "
            "at, and others may have read it. Next: set grpc.tls, or connect on the host of the instance"
        )
