"""A disk in memory that forgets like a real one: what was not synced may be lost, torn or garbled.

Per file: the bytes as the process sees them, the bytes that are surely on the platter, and the operations
between the two. Per directory: the same for names. `crash` decides what is left; after it the same object
is the disk of the restarted process. Failures are injected by call number.
"""

from __future__ import annotations

import copy
import errno
import posixpath
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from synchro.storage.disk import File

SECTOR = 512


class PowerCut(BaseException):
    """The machine is gone in the middle of a call. Not an `Exception`: nobody may handle it."""


class Fault(Enum):
    EIO = "eio"
    ENOSPC = "enospc"
    SHORT = "short"
    """Half of a write arrives, the call says so; other calls fail with ENOSPC."""
    CUT = "cut"
    """Power is lost before this call has any effect."""
    LIE = "lie"
    """A sync that does nothing and says it did."""


@dataclass
class Inode:
    """Content of a file. live: what a read returns. synced: what survives for sure."""

    number: int
    live: bytearray = field(default_factory=bytearray)
    synced: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Write:
    inode: Inode
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    inode: Inode
    size: int


@dataclass(frozen=True)
class Link:
    """Path -> what it becomes; None: it goes. A rename is one operation of two changes, as it is one
    transaction of a file system with a journal, from one directory to another, too."""

    changes: tuple[tuple[str, Inode | None], ...]

    def touches(self, directory: str) -> bool:
        return any(posixpath.dirname(path) == directory for path, _ in self.changes)


Op: TypeAlias = Write | Truncate | Link


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


class SimDisk:
    """Implements `synchro.storage.disk.Disk`.

    calls: number of calls that change something, so far. faults: call number -> what happens there; the
    first has number 1. room: bytes that files may hold together before writes fail with ENOSPC.
    """

    CHANGING = frozenset({"create", "pwrite", "truncate", "sync", "rename", "unlink", "sync_dir"})

    def __init__(self, *, room: int | None = None) -> None:
        self.calls = 0
        self.log: list[str] = []
        self.faults: dict[int, Fault] = {}
        self.room = room
        self.on_call: Callable[[str, str], None] | None = None
        """Called with (call, path) before it; the simulator counts time here."""
        self._handles: dict[int, tuple[Inode, str]] = {}
        self._next_handle = 3
        self._next_inode = 1
        self._names: dict[str, dict[str, Inode]] = {}
        self._synced_names: dict[str, dict[str, Inode]] = {}
        self.unsynced: list[Op] = []
        """Operations that a crash may undo, oldest first."""

    # --- faults -----------------------------------------------------------------------------------------

    def _call(self, name: str, path: str) -> Fault | None:
        if self.on_call is not None:
            self.on_call(name, path)
        self.calls += 1
        self.log.append(f"{name} {posixpath.basename(path)}")
        fault = self.faults.pop(self.calls, None)
        match fault:
            case Fault.CUT:
                raise PowerCut(f"call {self.calls}: {name} {path}")
            case Fault.EIO:
                raise OSError(errno.EIO, "injected I/O error")
            case Fault.ENOSPC:
                raise OSError(errno.ENOSPC, "injected: no space left on device")
            case Fault.SHORT if name != "pwrite":
                raise OSError(errno.ENOSPC, "injected: no space left on device")
        return fault

    # --- Disk -------------------------------------------------------------------------------------------

    def open(self, path: str) -> File:
        return self._handle(self._find(path), path)

    def create(self, path: str) -> File:
        self._call("create", path)
        inode = Inode(self._next_inode)
        self._next_inode += 1
        self._link((path, inode))
        return self._handle(inode, path)

    def close(self, file: File) -> None:
        del self._handles[file]

    def pread(self, file: File, size: int, offset: int) -> bytes:
        return bytes(self._handles[file][0].live[offset : offset + size])

    def pwrite(self, file: File, data: bytes, offset: int) -> int:
        inode, path = self._handles[file]
        fault = self._call("pwrite", path)
        if fault is Fault.SHORT:
            data = data[: len(data) // 2]
        if self.room is not None:
            grows = max(0, offset + len(data) - len(inode.live))
            left = self.room - self.used
            if grows > left:
                data = data[: max(0, len(data) - (grows - left))]
                if not data:
                    raise OSError(errno.ENOSPC, "no space left on device")
        data = bytes(data)
        _put(inode.live, offset, data)
        self.unsynced.append(Write(inode, offset, data))
        return len(data)

    def size(self, file: File) -> int:
        return len(self._handles[file][0].live)

    def truncate(self, file: File, size: int) -> None:
        inode, path = self._handles[file]
        self._call("truncate", path)
        _resize(inode.live, size)
        self.unsynced.append(Truncate(inode, size))

    def sync(self, file: File) -> None:
        inode, path = self._handles[file]
        if self._call("sync", path) is Fault.LIE:
            return
        left: list[Op] = []
        for op in self.unsynced:
            if isinstance(op, Link) or op.inode is not inode:
                left.append(op)
            else:
                self._apply(op)
        self.unsynced = left

    def rename(self, source: str, target: str) -> None:
        self._call("rename", source)
        self._link((source, None), (target, self._find(source)))

    def unlink(self, path: str) -> None:
        self._call("unlink", path)
        self._find(path)
        self._link((path, None))

    def sync_dir(self, directory: str) -> None:
        if self._call("sync_dir", directory) is Fault.LIE:
            return
        left: list[Op] = []
        for op in self.unsynced:
            if isinstance(op, Link) and op.touches(directory):
                self._apply(op)
            else:
                left.append(op)
        self.unsynced = left

    def listdir(self, directory: str) -> list[str]:
        return sorted(self._names.get(directory, {}))

    def exists(self, path: str) -> bool:
        return posixpath.basename(path) in self._names.get(posixpath.dirname(path), {})

    def makedirs(self, directory: str) -> None:
        self._names.setdefault(directory, {})
        self._synced_names.setdefault(directory, {})

    # --- crashes ----------------------------------------------------------------------------------------

    def crash(self, rng: random.Random) -> str:
        """Lose power: some un-synced operations survive, whole or torn. Returns what was chosen."""
        pending = self.unsynced
        kind = rng.choice(["all", "none", "prefix", "subset", "torn", "garbage"])
        match kind:
            case "all":
                kept: Sequence[Op] = pending
            case "none":
                kept = ()
            case "prefix":
                kept = pending[: rng.randint(0, len(pending))]
            case "subset":
                kept = [op for op in pending if rng.random() < 0.5]
            case _:
                count = rng.randint(0, len(pending))
                kept = list(pending[:count])
                if count < len(pending):
                    kept = [*kept, *torn(pending[count], rng, garbage=kind == "garbage")]
        self.restart(kept)
        return f"{kind}: {len(kept)} of {len(pending)}"

    def restart(self, kept: Sequence[Op] | None = None) -> None:
        """What the next process finds: synced state plus `kept`. None: only the process died; the page
        cache is all there, and a later power cut may still take it."""
        self._handles = {}
        if kept is None:
            return
        for op in kept:
            self._apply(op)
        self.unsynced = []
        self._names = {directory: dict(names) for directory, names in self._synced_names.items()}
        for names in self._names.values():
            for inode in names.values():
                inode.live = bytearray(inode.synced)

    def clone(self) -> SimDisk:
        """An independent copy of content and pending operations, without open files or faults."""
        other = SimDisk(room=self.room)
        other._next_inode = self._next_inode
        other._names, other._synced_names, other.unsynced = copy.deepcopy(
            (self._names, self._synced_names, self.unsynced)
        )
        return other

    def images(self, rng: random.Random, *, torn_each: int = 2) -> Iterator[tuple[str, SimDisk]]:
        """Every disk a crash now may leave: each prefix, each single operation missing, each one torn."""
        count = len(self.unsynced)
        for length in range(count + 1):
            disk = self.clone()
            disk.restart(disk.unsynced[:length])
            yield f"prefix {length}", disk
        for missing in range(count - 1):
            disk = self.clone()
            disk.restart([*disk.unsynced[:missing], *disk.unsynced[missing + 1 :]])
            yield f"without {missing}", disk
        for at in range(count):
            for _ in range(torn_each if isinstance(self.unsynced[at], Write) else 0):
                disk = self.clone()
                ops = disk.unsynced
                disk.restart([*ops[:at], *torn(ops[at], rng), *ops[at + 1 :]])
                yield f"torn {at}", disk

    # --- damage and looks ---------------------------------------------------------------------------

    @property
    def used(self) -> int:
        inodes = {i.number: i for names in self._names.values() for i in names.values()}
        return sum(len(inode.live) for inode in inodes.values())

    def read(self, path: str) -> bytes:
        return bytes(self._find(path).live)

    def replace(self, path: str, data: bytes) -> None:
        """Damage: the file holds `data` from now on, synced."""
        self.makedirs(posixpath.dirname(path))
        inode = Inode(self._next_inode, bytearray(data), bytearray(data))
        self._next_inode += 1
        for names in (self._names, self._synced_names):
            names[posixpath.dirname(path)][posixpath.basename(path)] = inode

    def flip(self, path: str, bit: int) -> None:
        """Damage: one bit of a synced file."""
        inode = self._find(path)
        for content in (inode.live, inode.synced):
            if bit // 8 < len(content):
                content[bit // 8] ^= 1 << bit % 8

    # --- below ------------------------------------------------------------------------------------------

    def _find(self, path: str) -> Inode:
        try:
            return self._names[posixpath.dirname(path)][posixpath.basename(path)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", path) from None

    def _handle(self, inode: Inode, path: str) -> File:
        handle = self._next_handle
        self._next_handle += 1
        self._handles[handle] = (inode, path)
        return File(handle)

    def _link(self, *changes: tuple[str, Inode | None]) -> None:
        _change(self._names, changes)
        self.unsynced.append(Link(changes))

    def _apply(self, op: Op) -> None:
        match op:
            case Write():
                _put(op.inode.synced, op.offset, op.data)
            case Truncate():
                _resize(op.inode.synced, op.size)
            case Link():
                _change(self._synced_names, op.changes)


def _change(names: dict[str, dict[str, Inode]], changes: Sequence[tuple[str, Inode | None]]) -> None:
    for path, inode in changes:
        directory, name = posixpath.split(path)
        if inode is None:
            names[directory].pop(name, None)
        else:
            names[directory][name] = inode


def torn(op: Op, rng: random.Random, *, garbage: bool = False) -> list[Op]:
    """What is left of one write: some of its sectors, a piece cut at any byte, or noise. Others: nothing.

    A disk writes sectors whole; noise stays inside the bytes that were being written.
    """
    if not isinstance(op, Write) or not op.data:
        return []
    if garbage:
        return [Write(op.inode, op.offset, rng.randbytes(len(op.data)))]
    if rng.random() < 0.5:
        return [Write(op.inode, op.offset, op.data[: rng.randint(0, len(op.data))])]
    pieces = []
    for start in range(0, len(op.data), SECTOR):
        if rng.random() < 0.5:
            pieces.append(Write(op.inode, op.offset + start, op.data[start : start + SECTOR]))
    return list(pieces)
