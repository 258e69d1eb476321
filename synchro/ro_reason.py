"""Why an instance accepts no writes: the words of `ro_reason`, for the core, the services and clients."""

from __future__ import annotations

from enum import Enum


class RoReason(Enum):
    """The values are what users see; they stay as they are once released [E-42]."""

    NONE = ""
    """The instance accepts writes."""
    LOADING = "loading"
    """Recovery, bootstrap or join is not over, or the instance is not open for calls yet, or any more."""
    EXPELLED = "expelled"
    """The instance was removed from the replica set (ADR 41)."""
    DOUBLED = "doubled"
    """Another live process has the identity of this one (ADR 23)."""
    ANONYMOUS = "anon"
    """The instance follows the set without being a member (ADR 45)."""
    ELECTION = "election"
    """The instance does not lead, and sees nobody who does: who owns the queue next is not known yet."""
    SYNCHRO = "synchro"
    """The queue belongs to another instance, or to this one and is frozen until it is promoted."""
    CONFIG = "config"
    """The configuration says so."""
    OUT_OF_LSNS = "lsn"
    """Its rows could not be numbered below 2^62 any more."""
    OWN_ROWS_LOST = "waiting to receive its own transactions back from the replicaset"
    """Its log is not known to be complete, so a new row might take an LSN that peers know already."""
    ORPHAN = "orphan"
    """It has not caught up with its sources since it started, or since they were named (ADR 46)."""
