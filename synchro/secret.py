"""A password or a token: compared and passed on, never shown."""

from __future__ import annotations

import hmac
import os
import re
import stat
from typing import Final, NoReturn

PASSWORD_VARIABLE: Final = "SYNCHRO_PASSWORD"
"""Environment of the command line: with which password it logs in."""
HIDDEN: Final = "***"
"""What is shown in its place."""
_KEY: Final = os.urandom(32)
_LOGIN: Final = re.compile(r"([^\s\"'/@:,\[]+):[^\s,]*@")


class Secret:
    """A text that no log, error, repr, JSON or pickle shows by accident; `reveal` is the only way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return HIDDEN

    def __bool__(self) -> bool:
        """Whether it is not empty."""
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        """In a time that does not tell how much of them is equal."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")

    def mark(self) -> str:
        """What may be shown where two of them must be told apart: another one in each process."""
        return HIDDEN + hmac.digest(_KEY, self._text.encode(), "sha256").hex()[:8]


PASSWORD_BYTES_MAX: Final = 256
_NO_PASSWORD: Final = re.compile(r"[\0\r\n]")


def why_no_password(text: str) -> str | None:
    """Why this is no password of a user; None: it is one. A file of a password is its first line, and C code
    ends a text at NUL."""
    if not 0 < len(text.encode(errors="surrogatepass")) <= PASSWORD_BYTES_MAX:
        return f"a password has 1 to {PASSWORD_BYTES_MAX} bytes"
    return "a password has no line break and no NUL" if _NO_PASSWORD.search(text) else None


def without_passwords(text: str) -> str:
    """With `user:***@host` for each `user:password@host` in it."""
    return _LOGIN.sub(rf"\1:{HIDDEN}@", text)


FILE_BYTES_MAX: Final = 4096


def read_secret(path: str) -> Secret:
    """The first line of a file. Raises `ValueError` with what is wrong."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise ValueError(f"{path} is no file")
        with open(path, encoding="utf-8") as file:
            text = file.read(FILE_BYTES_MAX)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return Secret(text.partition("\n")[0].removesuffix("\r"))
