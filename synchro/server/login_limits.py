"""How often a wrong password may be tried from one address. Pure: the time is an argument. ADR 43."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

from synchro.errors import LoginLimited

ADDRESSES_MAX: Final = 10_000
"""Beyond it the address that failed first is forgotten."""
USER_BURST: Final = 10
USER_BACK_S: Final = 5.0
"""Wrong passwords of one user from one address: ten at once, then one each 5 s."""
ADDRESS_BURST: Final = 100
ADDRESS_BACK_S: Final = 1.0
"""From one address in all, whatever the names are."""


class Buckets:
    """How many tries each key has left: `burst` at first, one more each `back_s` seconds.

    What is not here has all of them, so there are no more entries than tries that failed lately.
    """

    def __init__(self, burst: int, back_s: float, *, keys_max: int = ADDRESSES_MAX) -> None:
        self._burst = burst
        self._back_s = back_s
        self._keys_max = keys_max
        self._full_at: OrderedDict[object, float] = OrderedDict()
        """Key -> when it has all of them again."""

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_s(self, key: object, now: float) -> float:
        """Seconds until there is a try left; 0: there is one."""
        full_at = self._full_at.get(key)
        if full_at is None:
            return 0.0
        if full_at <= now:
            del self._full_at[key]
            return 0.0
        return max(0.0, full_at - now - (self._burst - 1) * self._back_s)

    def take(self, key: object, now: float) -> None:
        self._full_at[key] = max(now, self._full_at.get(key, now)) + self._back_s
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._keys_max:
            self._full_at.popitem(last=False)

    def give_back(self, key: object) -> None:
        if key in self._full_at:
            self._full_at[key] -= self._back_s


class LoginLimits:
    """Wrong passwords by address and user, and by address. A right password costs nothing."""

    def __init__(self) -> None:
        self._users = Buckets(USER_BURST, USER_BACK_S)
        self._addresses = Buckets(ADDRESS_BURST, ADDRESS_BACK_S)

    def check(self, address: str, user: str, now: float) -> None:
        """Raises `LoginLimited`, which says when to try again."""
        wait_s = max(self._users.wait_s((address, user), now), self._addresses.wait_s(address, now))
        if wait_s > 0:
            seconds = int(wait_s) + 1
            raise LoginLimited(
                f"too many failed logins from {address}; nothing was done. Try again in {seconds} s",
                retry_after_s=seconds,
            )

    def begin(self, address: str, user: str, now: float) -> None:
        """A password is looked at: it counts as wrong until `was_right`. Raises `LoginLimited`."""
        self.check(address, user, now)
        self._users.take((address, user), now)
        self._addresses.take(address, now)

    def was_right(self, address: str, user: str) -> None:
        self._users.give_back((address, user))
        self._addresses.give_back(address)


def bucket_of(host: str) -> str:
    """Whom tries from this IP address are counted for: itself; of IPv6 the network of a customer (/64)."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
