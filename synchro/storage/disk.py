"""The disk as storage code sees it, and the real one. Calls are synchronous and may block.

The shell makes them in a worker thread; the simulator calls its own disk (`tests/sim/disk.py`) directly.
Every call may raise `OSError`; who calls decides what that means (ADR 8, [L-30]).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from typing import Final, NewType, Protocol, TypeVar

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a write that mean: nothing is broken, there is just no room."""

File = NewType("File", int)
"""An open file. Never kept across a restart."""
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors of an `open` that mean: nothing is broken, too much is open."""
_T = TypeVar("_T")


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


class DescriptorReserve:
    """Descriptors held for the files of an instance: connections cannot take what these occupy.

    Process-wide, as descriptors are; empty until `hold`. From any thread.
    """

    def __init__(self) -> None:
        self._held: list[int] = []
        self._wanted = 0
        self._lock = threading.Lock()

    def hold(self, count: int) -> int:
        """From now on; returns how many there were to get. 0 gives all back."""
        with self._lock:
            self._wanted = count
            while len(self._held) > count:
                os.close(self._held.pop())
        self.refill()
        return len(self._held)

    def refill(self) -> None:
        """After something was closed."""
        if len(self._held) < self._wanted:
            with self._lock, contextlib.suppress(OSError):
                while len(self._held) < self._wanted:
                    self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def open(self, action: Callable[[], _T]) -> _T:
        """`action` opens something; if no descriptor is free, one of the reserve makes room for it."""
        while True:
            try:
                return action()
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR or not self._release():
                    raise

    def _release(self) -> bool:
        with self._lock:
            if not self._held:
                return False
            os.close(self._held.pop())
            return True


RESERVE: Final = DescriptorReserve()


class RealDisk:
    """Files of the operating system.

    A directory stays open from its first `sync_dir` on, so that what was begun with a descriptor to spare,
    such as a rotation of the log, does not fail at its end for want of one.
    """

    def __init__(self) -> None:
        self._directories: dict[str, int] = {}

    def __del__(self) -> None:
        for handle in self._directories.values():
            os.close(handle)

    def open(self, path: str) -> File:
        return File(RESERVE.open(lambda: os.open(path, os.O_RDWR | os.O_CLOEXEC)))

    def create(self, path: str) -> File:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        # All data, and what is kept of passwords: nothing for everybody on the host.
        return File(RESERVE.open(lambda: os.open(path, flags, 0o640)))

    def close(self, file: File) -> None:
        os.close(file)
        RESERVE.refill()

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
        handle = self._directories.get(directory)
        if handle is not None and not os.path.samestat(os.fstat(handle), os.stat(directory)):
            os.close(self._directories.pop(directory))  # removed and made anew meanwhile
            handle = None
        if handle is None:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            handle = RESERVE.open(lambda: os.open(directory, flags))
            self._directories[directory] = handle
        os.fsync(handle)

    def listdir(self, directory: str) -> list[str]:
        names = RESERVE.open(lambda: os.listdir(directory))
        RESERVE.refill()
        return sorted(names)

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
