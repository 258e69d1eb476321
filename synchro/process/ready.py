"""How an instance tells `synchro start`, which began its process, how far it is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

READY_FILE: Final = "SYNCHRO_READY_FILE"
"""Environment of an instance: the file it writes when it is up, see `announce_ready`."""
LOG_FILE: Final = "SYNCHRO_STDERR_FILE"
"""Environment of an instance: the file that its standard error goes to, which SIGHUP opens anew."""
LISTENING: Final = "listening"
"""Behind the PID in the ready file: the port is ours, data is not served yet."""


def announce_ready(environ: Mapping[str, str] | None = None, stage: str = "") -> None:
    """Called by an instance when it serves data: tells `synchro start`, if that started it.

    stage: `LISTENING`, when only its port is open. It is not the data: what fails here is not fatal. On a
    full disk the text becomes the target of a symbolic link, which needs no block."""
    path = (os.environ if environ is None else environ).get(READY_FILE)
    if path:
        temporary = Path(f"{path}.{os.getpid()}")
        text = f"{os.getpid()} {stage}"
        with contextlib.suppress(OSError):
            try:
                temporary.write_text(f"{text}\n", encoding="ascii")
            except OSError:
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(text)
            temporary.replace(path)
