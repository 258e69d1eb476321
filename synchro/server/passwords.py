"""What is kept of a password, and how one is compared with it. ADR 42.

Both functions take tens of milliseconds of a processor: call them in a worker thread.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import Final

_SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
_COST, _BLOCK, _LANES = 2**15, 8, 1
_MEMORY_MAX: Final = 64 * 1024 * 1024
_HEAD: Final = struct.Struct(">BBBB")
"""Version, log2 of the cost, block size, lanes; then salt and key."""
_VERSION: Final = 1


def make_verifier(password: str) -> bytes:
    """What to keep of it: nobody finds the password in it in reasonable time."""
    salt = os.urandom(_SALT_BYTES)
    return _HEAD.pack(_VERSION, _COST.bit_length() - 1, _BLOCK, _LANES) + salt + _key(password, salt)


def fits(verifier: bytes, password: str) -> bool:
    """Whether it was made from this password. False for what is no verifier."""
    if len(verifier) != _HEAD.size + _SALT_BYTES + _KEY_BYTES or verifier[: _HEAD.size] != _HEAD.pack(
        _VERSION, _COST.bit_length() - 1, _BLOCK, _LANES
    ):
        return False
    salt = verifier[_HEAD.size : -_KEY_BYTES]
    return hmac.compare_digest(verifier[-_KEY_BYTES:], _key(password, salt))


def _key(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=_COST, r=_BLOCK, p=_LANES, maxmem=_MEMORY_MAX, dklen=_KEY_BYTES
    )


def dummy_verifier() -> bytes:
    """One that no password fits, and whose comparison takes as long as any."""
    head = _HEAD.pack(_VERSION, _COST.bit_length() - 1, _BLOCK, _LANES)
    return head + os.urandom(_SALT_BYTES + _KEY_BYTES)
