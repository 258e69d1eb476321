"""Passwords that people give: never on a command line, where `ps` shows them."""

from __future__ import annotations

from typing import Final

from synchro.errors import IllegalParams

PASSWORD_BYTES_MAX: Final = 256


def password_in(name: str) -> str:
    """The first line of a file. Raises `IllegalParams`."""
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read(PASSWORD_BYTES_MAX + 2)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise IllegalParams(f"cannot read {name}: {why}; nothing was done") from error
    return checked_password(text.partition("\n")[0].removesuffix("\r"), name)


def checked_password(password: str, where: str) -> str:
    """Raises `IllegalParams`. where: for people."""
    if not 0 < len(password.encode()) <= PASSWORD_BYTES_MAX:
        raise IllegalParams(f"{where} has 1 to {PASSWORD_BYTES_MAX} bytes; nothing was done")
    return password
