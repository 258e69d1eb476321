"""Names of files in a data directory, for whoever looks without reading them. Imports nothing."""

from __future__ import annotations

from typing import Final

IDENTITY_NAME: Final = "instance.identity"
LOCK_NAME: Final = "instance.lock"
"""Locked, and with the PID in it, while the instance runs."""
