"""One instance as a process: `serve` in the foreground, `run_instance` inside a trio loop.

Importing this is cheap: verbs that run no server must start at once.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from synchro.errors import ConfigError
from synchro.process.ready import LOG_FILE

_NOT_NOW: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of a disk that is full or was set read-only: the name of the file is no mistake."""

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from synchro.config import Settings
    from synchro.config.file import ClusterConfig
    from synchro.rpc.host import RpcHost
    from synchro.server.face import Face


def serve(settings: Settings, warnings: Sequence[str] = (), loaded: ClusterConfig | None = None) -> int:
    """Run one instance in the foreground. 0: stopped by SIGTERM or SIGINT; 1: could not start, or had to
    leave, with one log record that says why. Raises `ConfigError` if its log cannot be written. warnings: of
    its configuration, a record each. loaded: the file that the settings are from, or what stands for the
    flags."""
    _hold_standard_descriptors()
    if settings.log_file and (why := _log_to(settings.log_file)):
        warnings = (*warnings, why)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the loop hears it; see `supervise`
    from synchro.process.supervise import serve_in_foreground

    return serve_in_foreground(settings, warnings, loaded)


def _hold_standard_descriptors() -> None:
    """A process that was started with one of them closed would open a data file in its place, and what C code
    prints would go there."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)


def _log_to(path: str) -> str:
    """Standard output and error go to the file of the log from here on; SIGHUP opens it anew. Returns a
    warning if the disk takes no new file now: records go to standard error until then."""
    from synchro import logs

    why = ""
    try:
        logs.send_to(path)
    except OSError as error:
        why = f"log.file: cannot write {path}: {error.strerror}"
        if error.errno in _NOT_NOW:
            why += "; records go to standard error until a SIGHUP finds room"
        else:
            raise ConfigError(f"{why}; nothing was started", file=path) from error
    os.environ[LOG_FILE] = path
    return why


async def run_instance(
    settings: Settings,
    *,
    host: RpcHost,
    log: Any,
    stop: trio.Event,
    task_status: trio.TaskStatus[Face] | None = None,
) -> None:
    """One instance in this trio loop, until `stop` is set; see `supervise.run_instance`."""
    import trio

    from synchro.process import supervise

    await supervise.run_instance(
        settings, host=host, log=log, stop=stop, task_status=task_status or trio.TASK_STATUS_IGNORED
    )
