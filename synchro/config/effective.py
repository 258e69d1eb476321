"""What acts on an instance in the end, as options again: `synchro config show`."""

from __future__ import annotations

from typing import Any

from synchro.config import Settings
from synchro.config.address import join, parse_uri, split
from synchro.config.option import Effect, Option
from synchro.config.options import LOGINS, TABLE
from synchro.config.peer_addresses import peer_uri
from synchro.config.view import View, plain
from synchro.secret import Secret


def effective(view: View, settings: Settings) -> dict[str, Any]:
    """Key -> plain value of all options that act on this instance, defaults included.

    As the options of this instance alone, they give the same settings again.
    """
    found = {
        option.key: _effective(option, view, settings) for option in TABLE if option.effect is Effect.ACTS
    }
    return {key: plain(value) for key, value in found.items() if value is not None}


def _effective(option: Option, view: View, settings: Settings) -> Any:
    match option.key:
        case "database.dir":
            return None  # wal.dir and snapshot.dir say it
        case "database.mode":
            is_asked = view.get("replication.failover", "off") == "off"
            return ("ro" if settings.read_only else "rw") if is_asked else None
        case "replication.peers":
            shown = _shown_sources(view)
            sources = [shown.get(peer.address, peer.address) for peer in settings.sources]
            return sources or ([] if view.find(option.key) and not view.get("isolated", False) else None)
    if option.is_secret:
        item = view.find(option.key)
        return None if item is None else Secret(str(item.value)).mark()
    if option.key.endswith(".advertise.peer.uri") and view.find(option.key) is not None:
        return parse_uri(view.text(option.key, "")).shown()
    if not option.field or option.field == LOGINS:
        return view.get(option.key, option.default)
    owner, _, name = option.field.rpartition(".")
    value = getattr(settings.limits if owner else settings, name)
    return None if option.default_text and value == option.default else value


def _shown_sources(view: View) -> dict[str, str]:
    """Address -> what may be shown, of the sources that name a login."""
    item = view.find("replication.peers")
    uris = [peer_uri(view, uri) for uri in (() if item is None else item.value)]
    return {join(*split(uri.address)): uri.shown() for uri in uris if uri.user}
