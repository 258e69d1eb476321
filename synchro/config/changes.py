"""What two configurations of one instance differ in, and what of it a running instance takes over. Pure.

Rules [C-30], [C-41], [C-42], ADR 38.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from synchro.config import Change, ConfiguredUser, Credentials, Settings
from synchro.config.options import BY_KEY, TABLE

_ROLE: Final = {
    "database.mode": "read_only",
    "leader": "read_only",
    "replication.failover": "election_mode",
    "replication.election_mode": "election_mode",
}
"""Options that say together who may write and stand, and the fields that they go into."""
_LIVE: Final = frozenset(option.field for option in TABLE if option.is_live and option.field) | {
    "read_only",
    "read_only_by",
    "configured",
    "credentials",
}
"""Fields that change while the instance runs; those of `Limits` with "limits." in front."""
_SOURCES: Final = "replication.peers"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """before, after: key -> plain value, as in `InstanceConfig.options`. In the order of the reference."""
    found = [
        Change(option.key, before.get(option.key), after.get(option.key), option.is_live)
        for option in TABLE
        if before.get(option.key) != after.get(option.key)
    ]
    if not _changes_links(found):
        return found
    of_links = {*_ROLE, _SOURCES}
    return [change._replace(is_live=change.is_live and change.key not in of_links) for change in found]


def _changes_links(found: Sequence[Change]) -> bool:
    """Who is cut off, or comes back, changes its role and its sources with its links: by a restart."""
    return any(change.key == "isolated" for change in found)


def credentials_change(before: Settings, after: Settings) -> list[Change]:
    """Passwords are not shown, so a new one may look as the old one did."""
    former, now = _users(before.credentials), _users(after.credentials)
    if former == now:
        return []
    return [Change("credentials", _names(former), _names(now), is_live=True)]


def _users(credentials: Credentials | None) -> Sequence[ConfiguredUser]:
    return () if credentials is None else credentials.users


def _names(users: Sequence[ConfiguredUser]) -> list[str]:
    return [one.name for one in users]


def put_into_use(running: Mapping[str, Any], found: Sequence[Change]) -> dict[str, Any]:
    """The options that are in use when those of `found` that need no restart are."""
    merged = dict(running)
    for change in found:
        if change.is_live and change.key in BY_KEY:
            merged[change.key] = change.after
    order = {key: number for number, key in enumerate(BY_KEY)}
    kept = {key: value for key, value in merged.items() if value is not None}
    return dict(sorted(kept.items(), key=lambda item: order[item[0]]))


def live_settings(running: Settings, wanted: Settings, found: Sequence[Change]) -> Settings:
    """`running`, with the fields of `wanted` that may change while it runs. found: what differs."""
    fields = _LIVE - {*_ROLE.values(), "read_only_by"} if _changes_links(found) else _LIVE
    names = [field.removeprefix("limits.") for field in fields if field.startswith("limits.")]
    limits = replace(running.limits, **{name: getattr(wanted.limits, name) for name in names})
    own = {field: getattr(wanted, field) for field in fields if not field.startswith("limits.")}
    if any(change.key == _SOURCES and change.is_live for change in found):
        own["peers"] = wanted.sources
        own["follows_all"] = wanted.follows_all and bool(wanted.listen)
    return replace(running, limits=limits, **own)
