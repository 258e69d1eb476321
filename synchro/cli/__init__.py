"""The command line. `main` is the entry point of the program `synchro`; its verbs are in `app`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line of this process and leave with its exit code."""
    if "serve" in sys.argv[1:]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # from now on: the import below takes time
    from synchro.cli.title import hide_passwords

    has_hidden = hide_passwords(sys.argv[1:])
    from synchro.cli import app

    app.main(has_password=has_hidden)
