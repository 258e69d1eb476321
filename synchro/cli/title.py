"""Passwords on a command line, `user:password@host:port`: everybody on the host can read those of a process,
as `ps` does. They are wiped there at once; the program goes on with what it was given. Linux only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

WARNING: Final = (
    "a password on the command line could be read by everybody on this host until now; it was wiped from the "
    "list of processes, but may stand in the history of the shell. Next: --password-file FILE, "
    "SYNCHRO_PASSWORD, or user@host:port, which asks for it"
)
_PASSWORD: Final = re.compile(rb"[^\s\"'/@:,\[]+:([^\s,]+)@")
_OPTIONS: Final = ("-e", "--endpoints", "--replication")
_ARG_START: Final = 45
"""Of the fields of /proc/self/stat behind the name; the end follows."""


def hide_passwords(arguments: Sequence[str]) -> bool:
    """Wipe them from the list of processes. False: there is none."""
    found = [match for text in _addresses(arguments) for match in _PASSWORD.findall(text.encode())]
    if not found:
        return False
    if sys.platform == "linux":
        _wipe(found)
    return True


def _addresses(arguments: Sequence[str]) -> Iterator[str]:
    """What may be addresses: values of options, and all words of `config set`."""
    if list(arguments[:2]) == ["config", "set"]:
        yield from arguments
        return
    before = ""
    for argument in arguments:
        if before in _OPTIONS or (argument.startswith("-e") and not argument.startswith("--")):
            yield argument
        elif argument.partition("=")[0] in _OPTIONS:
            yield argument.partition("=")[2]
        before = argument


def _wipe(secrets: Iterable[bytes]) -> None:
    import ctypes

    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    with open("/proc/self/cmdline", "rb") as file:
        shown = file.read()
    start, end = (int(field) for field in fields[_ARG_START : _ARG_START + 2])
    if end - start != len(shown) or ctypes.string_at(start, len(shown)) != shown:
        return  # the kernel tells of another place than we can see
    for secret in secrets:
        for match in re.finditer(re.escape(b":" + secret + b"@"), shown):
            ctypes.memset(start + match.start() + 1, ord("*"), len(secret))
