"""Tuples that only this instance has, as a file of operations, before a join takes the place of its data.
Rules [M-35], ADR 53.

`synchro import` takes it: each line is `{"op": "replace", "space": NAME, "tuple": [...]}`.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable
from typing import Final

from synchro import json_form
from synchro.row import Tuple
from synchro.storage.disk import Disk, write_whole

KEPT_SUFFIX: Final = ".kept.jsonl"
_WRITE_BYTES: Final = 1 << 20


def is_kept_file(name: str) -> bool:
    return name.endswith(KEPT_SUFFIX)


def kept_files(disk: Disk, directory: str) -> list[str]:
    """Their paths, in the order of their names. Raises `OSError`."""
    return [posixpath.join(directory, name) for name in sorted(disk.listdir(directory)) if is_kept_file(name)]


def write_kept(disk: Disk, path: str, tuples: Iterable[tuple[str, Tuple]]) -> int:
    """Durable when this returns, its name too. tuples: with the name of their space. Returns how many there
    were; no file is made for none. Raises `OSError`; then nothing has that name."""
    count, offset, part = 0, 0, bytearray()
    unfinished = f"{path}.inprogress"
    file = None
    try:
        for space, value in tuples:
            file = file if file is not None else disk.create(unfinished)
            part += _line(space, value)
            count += 1
            if len(part) >= _WRITE_BYTES:
                write_whole(disk, file, bytes(part), offset)
                offset += len(part)
                part.clear()
        if file is None:
            return 0
        write_whole(disk, file, bytes(part), offset)
        disk.sync(file)
    finally:
        if file is not None:
            disk.close(file)
    disk.rename(unfinished, path)
    disk.sync_dir(posixpath.dirname(path))
    return count


def _line(space: str, value: Tuple) -> bytes:
    record = {"op": "replace", "space": space, "tuple": json_form.encode(value)}
    return json.dumps(record, allow_nan=False).encode() + b"\n"
