"""Who this instance is, what its log has at least, and the lock that keeps a second process out.

The identity file is written and synced before the first contact with a peer, so a join that is killed comes
back as the same instance. The amnesia flag in it outlives every restart until the instance is fresh again
(S14).

Who this is lies in the first 4,096 bytes and is replaced as a whole, by a rename. What is known of the log
(ADR 14) changes often: it is a note in one of two slots behind, which are written in turn, in place. A note
that is torn leaves the one before it, and a full disk has room for both, because their blocks are there
already.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import posixpath
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from synchro.errors import AlreadyRunning, Corruption
from synchro.ids import InstanceId
from synchro.storage.disk import NO_ROOM, Disk, File, write_whole
from synchro.storage.names import IDENTITY_NAME, LOCK_NAME
from synchro.storage.notes import (
    YES_NO,
    Notes,
    checked_lines,
    decode_notes,
    encode_notes,
    with_crc,
    yes_no,
)
from synchro.storage.xlog import INPROGRESS_SUFFIX
from synchro.vclock import AckNote

IDENTITY_BYTES_MAX: Final = 4096
SLOT_BYTES: Final = 32 * 1024
"""A note about 31 peers with vclocks of 31 components, in text, fits."""
_SLOTS: Final = 2
_MAGIC: Final = "SYNCHRO IDENTITY"
_VERSION_BEFORE: Final = "1"
"""Without slots."""
_VERSION: Final = "2"


class Rejoin(StrEnum):
    """How far it is that new files take the place of all old ones; see `storage/replacement.py`."""

    NO = ""
    WANTED = "wanted"
    LOSSY = "wanted though rows are lost"
    """As WANTED, by the word of a person."""
    REPLACING = "replacing"
    MOVING = "moving"


@dataclass(frozen=True, slots=True)
class Identity:
    """replicaset_uuid: None until the instance belongs to a set. amnesia: the log is not to be trusted.
    former_uuid: the set that a person said is gone, until the instance belongs to another one. rejoin:
    whether its files are to be replaced by those of a join."""

    instance_uuid: str
    name: str
    replicaset_uuid: str | None = None
    amnesia: bool = False
    former_uuid: str | None = None
    rejoin: Rejoin = Rejoin.NO


def encode_identity(identity: Identity, *, version: str = _VERSION) -> bytes:
    fields = {
        "Instance": identity.instance_uuid,
        "Name": identity.name,
        "ReplicaSet": identity.replicaset_uuid or "",
        "Amnesia": yes_no(identity.amnesia),
    }
    if identity.former_uuid is not None:
        fields["Former"] = identity.former_uuid
    if identity.rejoin is not Rejoin.NO:
        fields["Rejoin"] = identity.rejoin.value
    assert not any(c in value for value in fields.values() for c in "\r\n")
    return with_crc([_MAGIC, version, *(f"{key}: {value}" for key, value in fields.items())])


def decode_identity(data: bytes, path: str = IDENTITY_NAME) -> Identity:
    """data: the file, or its first `IDENTITY_BYTES_MAX`. The amnesia flag is as it was when that part was
    written; the notes behind it know better. Raises `Corruption`: an instance that does not know who it is
    may not vote under a guess."""
    return _decode(data, path)[0]


def _decode(data: bytes, path: str) -> tuple[Identity, str]:
    """(identity, version of the format)"""
    try:
        magic, version, *lines = checked_lines(data[:IDENTITY_BYTES_MAX].rstrip(b"\0"))
        if magic != _MAGIC or version not in (_VERSION, _VERSION_BEFORE):
            raise ValueError(f"unknown format {magic!r} {version!r}")
        fields = dict(line.split(": ", 1) for line in lines)
        found = Identity(
            fields["Instance"],
            fields["Name"],
            fields["ReplicaSet"] or None,
            YES_NO[fields["Amnesia"]],
            fields.get("Former"),
            Rejoin(fields.get("Rejoin", "")),
        )
    except (ValueError, KeyError) as error:
        raise _damage(path, error) from error
    return found, version


def _damage(path: str, why: object) -> Corruption:
    return Corruption(
        f"{path} is damaged: {why}; nothing was started. Next: restore the file, or move all files of this "
        "instance away and start it again to join anew",
        file=path,
        offset=0,
    )


class IdentityFile:
    """The file of one instance, open.

    F1  What `notes` returns lies synced on the disk.
    F2  The slot that holds `notes` is not written to before the other one holds a newer note.

    `log` and `acks` may be set from any thread; `write` may be called from any, and writes what is newest.
    """

    def __init__(self, disk: Disk, directory: str, identity: Identity, notes: Notes) -> None:
        """Not for use: `load` or `create`."""
        self._disk = disk
        self._path = posixpath.join(directory, IDENTITY_NAME)
        self._directory = directory
        self._identity = identity
        self._written = notes
        self._number = 0
        self._file: File | None = None
        """None: what is at the path is an old format, without slots, or not known to be durable; `write`
        tries to replace it."""
        self._lock = threading.Lock()
        self.log = notes.log
        """What the log has now, at least; `write` notes it."""
        self.acks: Mapping[InstanceId, AckNote] = notes.acks

    @classmethod
    def load(cls, disk: Disk, directory: str) -> IdentityFile | None:
        """None: first start. Raises `Corruption`."""
        path = posixpath.join(directory, IDENTITY_NAME)
        if not disk.exists(path):
            return None
        file = disk.open(path)
        try:
            identity, version = _decode(disk.pread(file, IDENTITY_BYTES_MAX, 0), path)
            if version == _VERSION_BEFORE:
                disk.close(file)
                return cls(disk, directory, identity, Notes(identity.amnesia))
            slots = (disk.pread(file, SLOT_BYTES, _offset(number)) for number in range(_SLOTS))
            found = [slot for slot in map(decode_notes, slots) if slot is not None]
            if not found:
                raise _damage(path, "it has no whole note of the log")
        except BaseException:
            with contextlib.suppress(OSError, KeyError):
                disk.close(file)
            raise
        number, notes = max(found, key=lambda slot: slot[0])
        loaded = cls(disk, directory, replace(identity, amnesia=notes.amnesia), notes)
        loaded._file, loaded._number = file, number
        return loaded

    @classmethod
    def create(cls, disk: Disk, directory: str, identity: Identity) -> IdentityFile:
        """A new one; durable when it returns."""
        made = cls(disk, directory, identity, Notes(identity.amnesia))
        made._replace(identity, made._written)
        return made

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def notes(self) -> Notes:
        """What is on disk."""
        return self._written

    @property
    def names_no_log(self) -> bool:
        """Whether the identity file could name a log and names none: there was none yet, or it was
        forgotten."""
        return self._file is not None and self._written.log is None

    def save(self, identity: Identity) -> None:
        """Durable when it returns; what was noted of the log stays."""
        with self._lock:
            if replace(identity, amnesia=self._identity.amnesia) == self._identity and self._file is not None:
                self._set_amnesia(identity.amnesia)
            else:
                self._replace(identity, self._wanted(amnesia=identity.amnesia))

    def write(self) -> bool:
        """Note what the log has now, and the acks; synced when it returns. False: no room, nothing
        changed."""
        with self._lock:
            wanted = self._wanted(amnesia=self._identity.amnesia)
            if wanted == self._written:
                return True
            try:
                if self._file is None:
                    self._replace(self._identity, wanted)
                else:
                    self._write_slot(wanted)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                return False
            return True

    def forget_log(self) -> None:
        """Its files are about to go: nobody may miss them. Raises what the disk raises."""
        with self._lock:
            self.log = None
            if self._written.log is not None:
                wanted = self._wanted(amnesia=self._identity.amnesia)
                if self._file is None:
                    self._replace(self._identity, wanted)
                else:
                    self._write_slot(wanted)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._disk.close(self._file)
                self._file = None

    # --- below: under the lock

    def _wanted(self, *, amnesia: bool) -> Notes:
        return Notes(amnesia, self.log, self.acks)

    def _set_amnesia(self, amnesia: bool) -> None:
        """In both slots: a flag must not go because one sector went bad."""
        wanted = replace(self._written, amnesia=amnesia)
        for _ in range(_SLOTS):
            self._write_slot(wanted)

    def _write_slot(self, notes: Notes) -> None:
        assert self._file is not None
        number = self._number + 1
        data = encode_notes(notes, number)
        assert len(data) <= SLOT_BYTES
        write_whole(self._disk, self._file, data, _offset(number % _SLOTS))  # IdentityFile.F2
        self._disk.sync(self._file)
        self._number, self._written = number, notes
        if notes.amnesia != self._identity.amnesia:
            self._identity = replace(self._identity, amnesia=notes.amnesia)

    def _replace(self, identity: Identity, notes: Notes) -> None:
        """Written beside, synced, renamed, directory synced."""
        inprogress = self._path + INPROGRESS_SUFFIX
        number = self._number + 1
        size = _offset(_SLOTS)
        data = bytearray(encode_identity(identity).ljust(size, b"\0"))
        note = encode_notes(notes, number)
        data[_offset(number % _SLOTS) : _offset(number % _SLOTS) + len(note)] = note
        file = self._disk.create(inprogress)
        try:
            write_whole(self._disk, file, bytes(data), 0)
            self._disk.sync(file)
            self._disk.rename(inprogress, self._path)
            if self._file is not None:  # IdentityFile.F1: no note goes to a file without a name
                former, self._file = self._file, None
                self._disk.close(former)
            self._disk.sync_dir(self._directory)
        except BaseException:
            with contextlib.suppress(OSError, KeyError):
                self._disk.close(file)
            raise
        self._file, self._number, self._written, self._identity = file, number, notes, identity


def _offset(slot: int) -> int:
    """Of a slot; of the end of the file for the number of slots."""
    return IDENTITY_BYTES_MAX + slot * SLOT_BYTES


class DirectoryLock:
    """Exclusive `flock` on a file of the directory; the kernel drops it when the process ends."""

    def __init__(self, directory: str) -> None:
        """Raises `AlreadyRunning` if another process holds it. details: directory, pid."""
        self._path = os.path.join(directory, LOCK_NAME)
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(self._handle, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._handle)
            raise AlreadyRunning(
                f"another instance (process {pid}) runs in {directory}; nothing was changed",
                directory=directory,
                pid=pid,
            ) from error
        # The kernel holds the lock; the number is for people, and a full disk may lack room for it.
        with contextlib.suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._handle)

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
