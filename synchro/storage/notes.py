"""What an instance notes of its log, and of what others said they had, so that a loss is seen (ADR 14).

The format of a note, and what the log must know of the file that keeps it (`identity.py`). No I/O here.
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from synchro.ids import InstanceId
from synchro.storage.disk import Disk
from synchro.storage.xlog import crc32c, padded, parse_vclock
from synchro.vclock import AckNote

_NOTE_MAGIC: Final = "NOTE"
YES_NO: Final = {"yes": True, "no": False}


class LogNote(NamedTuple):
    """The newest file of the log, and how many of its bytes were synced, whole blocks: it has more by now."""

    name: str
    length: int


@dataclass(frozen=True, slots=True)
class Notes:
    """What must survive of the log and of what others said they had; see ADR 14."""

    amnesia: bool = False
    log: LogNote | None = None
    """None: an old directory, or there is no log yet."""
    acks: Mapping[InstanceId, AckNote] = field(default_factory=dict)


class NoteKeeper(Protocol):
    """Where the log says what it has. log: that, at least, now; it may be set from any thread."""

    log: LogNote | None

    @property
    def notes(self) -> Notes:
        """What lies synced on the disk."""
        ...

    def write(self) -> bool:
        """Note what is newest; synced when it returns. False: no room, nothing changed."""
        ...


class LogNotes:
    """What the identity file is told of the log; without one nothing is noted anywhere. J4 of `Journal`."""

    def __init__(self, keeper: NoteKeeper | None, directory: str) -> None:
        self._keeper = keeper
        self._directory = directory
        self._is_ours = False
        """The file that is named is one of this log: what was named at the start may have been lost."""

    @property
    def named_path(self) -> str | None:
        """Of the file that the identity file names."""
        noted = None if self._keeper is None else self._keeper.notes.log
        return None if noted is None else posixpath.join(self._directory, noted.name)

    def has_synced(self, path: str, end: int) -> None:
        """Up to `end`; it is noted later. Never called where an end may be page cache only."""
        if self._keeper is not None:
            self._keeper.log = LogNote(posixpath.basename(path), end)

    def write(self) -> bool:
        """From any thread. False: no room, what it said before is still so. Raises what the disk raises."""
        if self._keeper is None:
            return True
        is_written = self._keeper.write()
        self._is_ours = self._is_ours or is_written
        return is_written

    def replaces(self, path: str, end: int) -> None:
        """A file of the name that is noted takes its place in a moment: say what both have, so that it is
        true whichever of them a crash leaves."""
        if self._keeper is None or self.named_path != path:
            return
        noted = self._keeper.notes.log
        if noted is not None and noted.length > end:
            self._keeper.log = LogNote(noted.name, end)
            if not self.write():
                raise OSError(errno.ENOSPC, "no room for the note that a file of the log is replaced")

    def check(self, disk: Disk) -> None:
        """J4"""
        noted = None if self._keeper is None else self._keeper.notes.log
        if noted is not None and self._is_ours:
            path = posixpath.join(self._directory, noted.name)
            assert disk.exists(path)
            file = disk.open(path)
            assert disk.size(file) >= noted.length
            disk.close(file)


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def with_crc(lines: list[str]) -> bytes:
    data = ("\n".join(lines) + "\n").encode()
    return data + f"CRC: {crc32c(data):08x}\n".encode()


def checked_lines(data: bytes) -> list[str]:
    """The lines before the checksum. Raises `ValueError`."""
    body, _, crc_text = data.rpartition(b"CRC: ")
    if crc_text != f"{crc32c(body):08x}\n".encode():
        raise ValueError("checksum is wrong")
    return body.decode().split("\n")[:-1]


def encode_notes(notes: Notes, number: int) -> bytes:
    """A slot: text with at least one NUL behind, in whole sectors. number: the highest one counts."""
    lines = [f"{_NOTE_MAGIC} {number}", f"Amnesia: {yes_no(notes.amnesia)}"]
    if notes.log is not None:
        lines += [f"Log: {notes.log.name}", f"Length: {notes.log.length}"]
    for peer, ack in sorted(notes.acks.items()):
        lines.append(f"{'Forgot' if ack.forgot else 'Ack'}: {peer} {ack.vclock!r}")
    data = with_crc(lines)
    return data.ljust(padded(len(data) + 1), b"\0")


def decode_notes(data: bytes) -> tuple[int, Notes] | None:
    """(number, notes); None: torn, or never written."""
    try:
        first, *lines = checked_lines(data[: data.find(b"\0")])
        magic, number = first.split(" ")
        if magic != _NOTE_MAGIC:
            return None
        fields: dict[str, str] = {}
        acks: dict[InstanceId, AckNote] = {}
        for line in lines:
            key, value = line.split(": ", 1)
            if key in ("Ack", "Forgot"):
                peer, vclock = value.split(" ", 1)
                acks[InstanceId(int(peer))] = AckNote(parse_vclock(vclock), key == "Forgot")
            else:
                fields[key] = value
        log = LogNote(fields["Log"], int(fields["Length"])) if "Log" in fields else None
        return int(number), Notes(YES_NO[fields["Amnesia"]], log, acks)
    except (ValueError, KeyError):
        return None
