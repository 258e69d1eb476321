"""The file of a running instance: read again, compared, and put into use as far as that needs no restart.

Rules [C-30], [C-40], [C-41], [C-42]; ADR 38. The file is read and parsed in a worker thread, since a large
one takes long; what comes of it is put into use in one step of trio's thread.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import trio

from synchro import logs
from synchro.config import Change, Settings, told_value
from synchro.config.changes import changes, credentials_change, live_settings, put_into_use
from synchro.config.file import ClusterConfig, InstanceConfig, load_all, parse
from synchro.config.option import Effect
from synchro.config.options import BY_KEY
from synchro.config.quorum_rules import is_no_majority, too_few_for_reads
from synchro.config.schema import SETTABLE
from synchro.errors import ConfigError, DiskFailed
from synchro.ids import NOBODY
from synchro.replication.admission import stays_member
from synchro.ro_reason import RoReason
from synchro.secret import without_passwords
from synchro.server.api import Compared
from synchro.server.bootstrap import ask_all
from synchro.server.node import Node
from synchro.threads import read_in_thread

VALUE_CHARS_MAX: Final = 4096
"""Of a value for `set`: the longest that an option takes."""
NEEDS_FILE: Final = "stop it, and start it with --config FILE, which has this option"
"""What to do about an option that is neither a flag of `serve` nor live."""
SETTLE_S: Final = 3.0
"""How long the answer to a change after which an instance takes no writes waits for its disk."""


class LiveConfig:
    """`api.Configuration` of one instance.

    F1  Options in use are those of the start, with each live one as the last reload or `set` left it.
    F2  What raises changes nothing: neither what is in use nor what counts as the file.
    F3  One reload, comparison or `set` at a time [C-41].
    """

    def __init__(self, node: Node, loaded: ClusterConfig) -> None:
        """loaded: the file with which the node is started, or what its flags say."""
        self._node = node
        self._path = os.path.abspath(loaded.path) if loaded.is_file else ""
        self._parse = partial(parse, path=loaded.path, environ=None if loaded.is_file else {})
        self._name = str(node.settings.instance_name)
        self._loaded = loaded
        """The file as it was read last."""
        self._commands: dict[str, str] = {}
        """What `set` has set since, key -> YAML."""
        self._running: Mapping[str, Any] = loaded.instance(self._name).options
        self._read_at = self._changed_at = _now()
        self._alerts: list[dict[str, str]] = []
        self._is_busy = False

    def serve(self, node: Node) -> None:
        """Another life of the instance, with the options that are in use."""
        self._node, node.configuration = node, self

    # --- what operators ask for

    async def compare(self, text: bytes) -> Compared:
        async with self._alone():
            self._check_has_file()
            read = partial(self._parse, text) if text else partial(load_all, self._path)
            own = await self._read(read, self._path)
        return Compared(self._changes(own), own.warnings)

    async def reload(self) -> Compared:
        async with self._alone():
            self._check_has_file()
            self._ensure_changeable()
            try:
                loaded = await read_in_thread(partial(load_all, self._path), self._path)
                own = loaded.instance(self._name)
                self._check_anonymous(own)
            except ConfigError as error:
                self._alerts = [_alert("error", error.message)]
                self._node.log.error("config_refused", reason=error.reason, message=error.message)
                raise
            self._ensure_changeable()
            self._refuse_old_reads(own, self._by_file)
            self._loaded, self._commands, self._read_at = loaded, {}, _now()
            self._alerts = []
            took_writes = self._takes_writes
            compared = self._use(own)
            self._node.config_was_read()
            warnings = [*compared.warnings, *await self._settle(took_writes)]
            return Compared(compared.changes, warnings)

    async def set(self, key: str, value: str, *, force: bool) -> Compared:
        self._check_settable(key, value)
        async with self._alone():
            self._ensure_changeable()
            commands = {**self._commands, key: value}
            read = partial(self._parse, self._loaded.text, commands=commands, commanded=self._name)
            own = await self._read(read, f"set {self._path}")  # a file that hangs does not hold it up
            if key not in BY_KEY:  # a group of them: each would have to be looked at, and may be a password
                raise ConfigError(
                    f"{key} is no single option that can be set; nothing was changed. Next: name one, as "
                    "replication.timeout; users, and what else has passwords, are changed in the file",
                    key=key,
                )
            # Users are those of the last reload, or of the flags: `set` says nothing of them.
            same = replace(own.settings, credentials=self._node.settings.credentials)
            own = replace(own, settings=same)
            self._ensure_changeable()
            if any(
                change.key == key and not change.is_live for change in changes(self._running, own.options)
            ):
                raise self._needs_restart(key)
            self._check_anonymous(own)
            self._refuse_old_reads(own, "synchro config set replication.linearizable_quorum 'N - Q + 1'")
            if not force:
                self._refuse_danger(own)
            self._commands = commands
            took_writes = self._takes_writes
            compared = self._use(own)
            if key.startswith("replication.autoexpel."):  # other options leave out nobody who joined since
                self._node.config_was_read()
            # What else the file has waits for a restart as before.
            live = [change for change in compared.changes if change.is_live]
            warnings = [*compared.warnings, *await self._settle(took_writes)]
            if any((change.key, change.after) == ("database.mode", "rw") for change in live):
                warnings += await self._other_writers()
        return Compared(live, warnings)

    async def names(self) -> frozenset[str]:
        own = await self._read(partial(load_all, self._path), self._path)
        return own.settings.configured

    def facts(self) -> dict[str, Any]:
        in_file = self._loaded.instance(self._name).options
        differs = {
            change.key: {"running": change.before, "file": change.after}
            for change in changes(self._running, in_file)
        }
        alerts = [*self._alerts, *self._standing()]
        kinds = {alert["type"] for alert in alerts}
        status = "check_errors" if "error" in kinds else "check_warnings" if kinds else "ready"
        return {
            "status": "reload_in_progress" if self._is_busy else status,
            "alerts": alerts,
            "file": self._path or None,
            "read_at": self._read_at if self._path else None,
            "changed_at": self._changed_at,
            "set": {key: without_passwords(value) for key, value in self._commands.items()},
            "differs": differs,
            "options": InstanceConfig(self._name, "", "", self._node.settings, options=self._running).tree(),
        }

    def _standing(self) -> list[dict[str, str]]:
        """Alerts that go on until their cause is gone."""
        exposed = [self._loaded.exposure] if self._loaded.exposure else []
        low = self._why_reads_are_old(self._node.settings)
        reads = [f"{low}; as many as that are asked. Next: {self._by_file}"] if low else []
        told = [*exposed, *self._node.user_problems, *reads]
        return [{"type": "warn", "message": message, "timestamp": self._read_at} for message in told]

    # --- how

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._is_busy:
            raise ConfigError("instance configuration is already in progress; nothing was changed")
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    async def _read(self, read: Callable[[], ClusterConfig], what: str) -> InstanceConfig:
        return (await read_in_thread(read, what)).instance(self._name)

    def _check_has_file(self) -> None:
        if not self._path:
            raise ConfigError(
                "This instance was started without a file (--listen, --data-dir), so there is nothing to "
                "read or to compare with; nothing was changed. Next: synchro config set KEY VALUE"
            )

    def _ensure_changeable(self) -> None:
        if not self._node.can_change_settings:
            raise self._node.loading()

    def _changes(self, own: InstanceConfig) -> list[Change]:
        known = changes(self._running, own.options)
        return known + credentials_change(self._node.settings, own.settings)

    def _use(self, own: InstanceConfig) -> Compared:
        """Put into use what needs no restart, name the rest. Does not wait."""
        node, found = self._node, self._changes(own)
        settings = live_settings(node.settings, own.settings, found)
        if settings != node.settings:
            node.change_settings(settings)
        if any(change.key == "log.level" for change in found):
            logs.set_level(node.settings.log_level)
        self._running = put_into_use(self._running, found)
        for change in found:
            self._tell(change)
        return Compared(found, own.warnings)

    def _tell(self, change: Change) -> None:
        log = self._node.log
        if change.is_live:
            message = told_value(change.key, change.after)
            log.info("option_set", option=change.key, value=change.after, message=message)
            self._changed_at = _now()
            return
        message = f"non-dynamic option {change.key} will not be set until the instance is restarted"
        if any(alert["message"] == message for alert in self._alerts):
            return
        self._alerts.append(_alert("warn", message))
        log.warning("option_needs_restart", option=change.key, message=message)

    def _check_anonymous(self, own: InstanceConfig) -> None:
        """Raises `ConfigError`: a member does not become anonymous [M-6]."""
        node = self._node
        if own.settings.is_anonymous and node.has_core and not node.core.is_anonymous:
            raise stays_member(node.core.self_id)

    def _refuse_old_reads(self, own: InstanceConfig, what_next: str) -> None:
        """Raises `ConfigError` if that would make `linearizable_quorum` too low for the registered members
        [Q-34]; the file was looked at for those that it names."""
        now = self._node.settings
        is_as_before = (now.linearizable_quorum, now.synchro_quorum) == (
            own.settings.linearizable_quorum,
            own.settings.synchro_quorum,
        )
        if why := "" if is_as_before else self._why_reads_are_old(own.settings):
            key = "replication.linearizable_quorum"
            raise ConfigError(f"{why}; nothing was changed. Next: {what_next}", key=key)

    def _why_reads_are_old(self, settings: Settings) -> str:
        node = self._node
        return too_few_for_reads(settings, len(node.core.registered)) if node.has_core else ""

    async def _other_writers(self) -> list[str]:
        """Of those peers that answer soon: two writers without an owner are masters."""
        node = self._node
        if not node.has_core or node.core.limbo.owner_id != NOBODY:
            return []
        addresses = [peer.address for peer in node.settings.peers if peer.name != self._name]
        ballots = await ask_all(node.transport, addresses, node.uuid)
        return [
            f"{ballot.instance_name} is writable too: two changes of one key at the same time are a conflict"
            for ballot in ballots.values()
            if not ballot.is_ro
        ]

    @property
    def _takes_writes(self) -> bool:
        return self._node.ro_reason is RoReason.NONE

    async def _settle(self, took_writes: bool) -> list[str]:
        """Who took writes and takes none any more answers when those under way are on its disk: from then on
        its vclock stands, and somebody may wait until another instance has all of it. Bounded: what the disk
        did not take in time is said."""
        if not took_writes or self._takes_writes:
            return []
        with trio.move_on_after(SETTLE_S):
            try:
                await self._node.wal.sync()
            except DiskFailed as error:
                self._node.disk_failed(error)  # [L-30]
            else:
                return []
        return [
            "writes that were under way are not on its disk yet, so its vclock may still grow. Next: "
            f"synchro wal sync {self._name}"
        ]

    # --- what `set` refuses

    def _check_settable(self, key: str, value: str) -> None:
        """Raises `ConfigError`. An unknown key is left to the parser, which knows the nearest one."""
        if len(value) > VALUE_CHARS_MAX or len(key) > VALUE_CHARS_MAX:
            raise ConfigError(
                f"a key or value of more than {VALUE_CHARS_MAX} characters; nothing was changed"
            )
        option = BY_KEY.get(key)
        if option is None:
            return
        if option.effect is not Effect.ACTS:
            raise ConfigError(f"this release does not act on {key}; nothing was changed", key=key)
        if option.is_secret:
            raise ConfigError(
                f"{key} is a password: it is read from the file, and is no word of a command; nothing was "
                f"changed. Next: {self._by_file}",
                key=key,
            )
        if not option.is_live:
            raise self._needs_restart(key)
        if key not in SETTABLE:
            raise ConfigError(
                f"{key} belongs to the replica set, not to one instance; nothing was changed. Next: "
                f"{self._by_file}",
                key=key,
            )

    @property
    def _by_file(self) -> str:
        """What to do about an option that only the file may change."""
        path = self._path
        return f"change {path}, then: synchro config reload {shlex.quote(path)}" if path else NEEDS_FILE

    def _needs_restart(self, key: str) -> ConfigError:
        settings = self._node.settings
        how = "restart the instance" if settings.is_foreground else settings.again
        change = f"change {self._path}, then: {how}" if self._path else NEEDS_FILE
        return ConfigError(f"{key} needs a restart; nothing was changed. Next: {change}", key=key)

    def _refuse_danger(self, own: InstanceConfig) -> None:
        quorum, count = own.settings.synchro_quorum, len(own.settings.configured)
        if is_no_majority(own.settings, count) and not is_no_majority(self._node.settings, count):
            raise ConfigError(
                f"replication.synchro_quorum = {quorum.text} is no majority of {count} instances: two owners "
                "could write at the same time, and a change of owner could lose acknowledged writes; nothing "
                "was changed. Next: --force, if that is wanted",
                key="replication.synchro_quorum",
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _alert(kind: str, message: str) -> dict[str, str]:
    return {"type": kind, "message": message, "timestamp": _now()}
