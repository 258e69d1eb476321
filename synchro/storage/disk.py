"""The disk as storage code sees it, and the real one. Calls are synchronous and may block.

The shell makes them in a worker thread; the simulator calls its own disk (`tests/sim/disk.py`) directly.
Every call may raise `OSError`; who calls decides what that means (answers in docs/adr/, [L-30]).
"""

from __future__ import annotations

import errno
import os
from typing import Final, NewType, Protocol

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a write that mean: nothing is broken, there is just no room."""

File = NewType("File", int)
"""An open file. Never kept across a restart."""


class Disk(Protocol):
    """What a file system promises: a write is durable after `sync`, a name after `sync_dir`."""

    def open(self, path: str) -> File:
        """An existing file, for reading and writing."""
        ...

    def create(self, path: str) -> File:
        """A new file; an old one of that name is emptied. Durable after `sync` and `sync_dir`."""
        ...

    def close(self, file: File) -> None: ...

    def pread(self, file: File, size: int, offset: int) -> bytes:
        """Fewer bytes only at the end of the file."""
        ...

    def pwrite(self, file: File, data: bytes, offset: int) -> int:
        """Bytes written; fewer than asked for is a short write, which usually means a full disk."""
        ...

    def size(self, file: File) -> int: ...

    def truncate(self, file: File, size: int) -> None: ...

    def sync(self, file: File) -> None:
        """Data and size are durable when it returns. After a failure nothing is known: never repeat it."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Atomic; replaces `target`. Durable after `sync_dir`."""
        ...

    def unlink(self, path: str) -> None: ...

    def sync_dir(self, directory: str) -> None: ...

    def listdir(self, directory: str) -> list[str]:
        """Names, sorted."""
        ...

    def exists(self, path: str) -> bool: ...

    def makedirs(self, directory: str) -> None: ...


class RealDisk:
    """Files of the operating system."""

    def open(self, path: str) -> File:
        return File(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def create(self, path: str) -> File:
        return File(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))

    def close(self, file: File) -> None:
        os.close(file)

    def pread(self, file: File, size: int, offset: int) -> bytes:
        data = os.pread(file, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        left, offset = size - len(data), offset + len(data)
        while left and (data := os.pread(file, left, offset)):
            parts.append(data)
            left -= len(data)
            offset += len(data)
        return b"".join(parts)

    def pwrite(self, file: File, data: bytes, offset: int) -> int:
        return os.pwrite(file, data, offset)

    def size(self, file: File) -> int:
        return os.fstat(file).st_size

    def truncate(self, file: File, size: int) -> None:
        os.ftruncate(file, size)

    def sync(self, file: File) -> None:
        os.fdatasync(file)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def sync_dir(self, directory: str) -> None:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def listdir(self, directory: str) -> list[str]:
        return sorted(os.listdir(directory))

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def makedirs(self, directory: str) -> None:
        os.makedirs(directory, exist_ok=True)


def write_whole(disk: Disk, file: File, data: bytes, offset: int) -> None:
    """Write all of `data`; a short write becomes ENOSPC, which is what it means."""
    done = disk.pwrite(file, data, offset)
    if done != len(data):
        raise OSError(errno.ENOSPC, f"short write: {done} of {len(data)} bytes at {offset}")


class FileBytes:
    """Reads a file front to back in big pieces; `__call__(size, offset)` is what `XlogReader` wants."""

    def __init__(self, disk: Disk, path: str, *, window_bytes: int = 4 * 1024 * 1024) -> None:
        self._disk = disk
        self._file = disk.open(path)
        self._window = b""
        self._start = 0
        self._window_bytes = window_bytes
        self.size = disk.size(self._file)

    def __call__(self, size: int, offset: int) -> bytes:
        begin = offset - self._start
        if begin < 0 or begin + size > len(self._window):
            self._window = self._disk.pread(self._file, max(size, self._window_bytes), offset)
            self._start, begin = offset, 0
        return self._window[begin : begin + size]

    def forget(self) -> None:
        """Read anew next time: the file may have grown."""
        self._window = b""

    def close(self) -> None:
        self._disk.close(self._file)
