"""Who this instance is: the identity file, and the lock that keeps a second process out of the directory.

The file is written and synced before the first contact with a peer, so a join that is killed comes back as
the same instance. The amnesia flag in it outlives every restart until the instance is fresh again (S14).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import posixpath
from dataclasses import dataclass
from typing import Final

from synchro.errors import AlreadyRunning, Corruption
from synchro.storage.disk import Disk, write_whole
from synchro.storage.xlog import INPROGRESS_SUFFIX, crc32c

IDENTITY_NAME: Final = "instance.identity"
LOCK_NAME: Final = "instance.lock"
IDENTITY_BYTES_MAX: Final = 4096
_MAGIC: Final = "SYNCHRO IDENTITY"
_VERSION: Final = "1"


@dataclass(frozen=True, slots=True)
class Identity:
    """replicaset_uuid: None until the instance belongs to a set. amnesia: the log is not to be trusted."""

    instance_uuid: str
    name: str
    replicaset_uuid: str | None = None
    amnesia: bool = False


def encode_identity(identity: Identity) -> bytes:
    fields = {
        "Instance": identity.instance_uuid,
        "Name": identity.name,
        "ReplicaSet": identity.replicaset_uuid or "",
        "Amnesia": "yes" if identity.amnesia else "no",
    }
    assert not any(c in value for value in fields.values() for c in "\r\n")
    text = "\n".join([_MAGIC, _VERSION, *(f"{key}: {value}" for key, value in fields.items())]) + "\n"
    data = text.encode()
    return data + f"CRC: {crc32c(data):08x}\n".encode()


def decode_identity(data: bytes, path: str = IDENTITY_NAME) -> Identity:
    """Raises `Corruption`: an instance that does not know who it is may not vote under a guess."""
    try:
        body, _, crc_text = data.rpartition(b"CRC: ")
        if crc_text != f"{crc32c(body):08x}\n".encode():
            raise ValueError("checksum is wrong")
        magic, version, *lines = body.decode().split("\n")[:-1]
        if magic != _MAGIC or version != _VERSION:
            raise ValueError(f"unknown format {magic!r} {version!r}")
        fields = dict(line.split(": ", 1) for line in lines)
        if fields["Amnesia"] not in ("yes", "no"):
            raise ValueError("bad amnesia flag")
        return Identity(
            fields["Instance"], fields["Name"], fields["ReplicaSet"] or None, fields["Amnesia"] == "yes"
        )
    except (ValueError, KeyError) as error:
        raise Corruption(f"{path} is damaged: {error}", file=path, offset=0) from error


def load_identity(disk: Disk, directory: str) -> Identity | None:
    """None: first start. Raises `Corruption`."""
    path = posixpath.join(directory, IDENTITY_NAME)
    if not disk.exists(path):
        return None
    file = disk.open(path)
    try:
        data = disk.pread(file, IDENTITY_BYTES_MAX, 0)
    finally:
        disk.close(file)
    return decode_identity(data, path)


def save_identity(disk: Disk, directory: str, identity: Identity) -> None:
    """Durable when it returns: written beside, synced, renamed, directory synced."""
    path = posixpath.join(directory, IDENTITY_NAME)
    inprogress = path + INPROGRESS_SUFFIX
    file = disk.create(inprogress)
    try:
        write_whole(disk, file, encode_identity(identity), 0)
        disk.sync(file)
    finally:
        disk.close(file)
    disk.rename(inprogress, path)
    disk.sync_dir(directory)


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
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._handle)

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
