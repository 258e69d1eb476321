"""Passwords that people give: never on a command line, where `ps` shows them."""

from __future__ import annotations

from synchro.errors import IllegalParams
from synchro.secret import PASSWORD_BYTES_MAX, why_no_password


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
    if (why := why_no_password(password)) is not None:
        raise IllegalParams(f"{where} is no password: {why}; nothing was done")
    return password
