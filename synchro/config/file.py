"""The YAML configuration: four scopes, templates, environment, validation with line numbers.

One document describes the whole cluster. Global < group < replica set < instance, the inner one wins
[C-1]; `SYNCHRO_A_B_C` in the environment of an instance beats the file [C-2]. `load` gives the `Settings`
of one instance, `load_all` those of all. Every mistake is a `ConfigFileError` that lists the problems with
file, line, key and the nearest valid key. The schema is `config/schema.py`'s; this file reads, merges and
checks what concerns more than one key. No trio or gRPC: `synchro start` must start quickly.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from synchro.config import ElectionMode, Settings, WalMode, doubtful
from synchro.config.address import needs_insecure
from synchro.config.aliases import rename, why_no_variable
from synchro.config.configured_users import unused_privileges
from synchro.config.effective import effective
from synchro.config.located import Located, NotYaml, compose, compose_value
from synchro.config.option import Section
from synchro.config.peer_addresses import check_addresses, peer_address
from synchro.config.peer_rules import guest_peers, idle_logins, peer_logins
from synchro.config.quorum_rules import quorum_warnings
from synchro.config.rules import idle_options, settings_of
from synchro.config.schema import (
    COMMAND_SCOPE,
    ENVIRONMENT,
    ENVIRONMENT_SCOPE,
    ROOT,
    ConfigProblem,
    check,
)
from synchro.config.view import View, members_of, merge, without
from synchro.errors import ConfigError
from synchro.ids import INSTANCE_ID_MAX, InstanceName, twin_of

FILE_BYTES_MAX: Final = 1 << 20
"""A configuration is written by a person; more is a mistake, and a parser should not find out slowly."""
PROBLEMS_SHOWN_MAX: Final = 20
PROGRAM_VARIABLES: Final = frozenset(
    (
        *("ENDPOINTS", "FAILPOINTS", "FAULT_INJECTION", "OUTPUT", "READY_FILE", "STDERR_FILE", "TIMEOUT"),
        *("USER", "PASSWORD", "PASSWORD_FILE", "NEW_PASSWORD", "CACERT", "CERT", "KEY"),
    )
)
"""What else `SYNCHRO_...` in the environment may be: of the command line, of `start`, and of tests."""


class ConfigFileError(ConfigError):
    """Nothing was started or changed. details: those of the first problem, and how many there are."""

    def __init__(self, problems: Iterable[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        lines = [str(problem) for problem in self.problems[:PROBLEMS_SHOWN_MAX]]
        if len(self.problems) > PROBLEMS_SHOWN_MAX:
            lines.append(f"... and {len(self.problems) - PROBLEMS_SHOWN_MAX} more problems")
        super().__init__(
            "\n".join(lines),
            file=first.file,
            line=first.line or None,
            key=first.key or None,
            nearest=first.nearest,
            problems=len(self.problems),
        )


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """One instance of the file, and what `Settings` has no room for."""

    name: str
    group: str
    replicaset: str
    settings: Settings
    warnings: tuple[str, ...] = ()
    """What was read but means nothing in this release; also what the operator should know."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key -> plain value of each option that acts on it, defaults included."""

    def tree(self) -> dict[str, Any]:
        """`options` as they stand in a file, maps in maps."""
        root: dict[str, Any] = {}
        for key, value in self.options.items():
            *sections, last = key.split(".")
            place = root
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        return root

    @property
    def needs_insecure(self) -> bool:
        return needs_insecure(self.settings)


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A whole file, checked."""

    path: Path
    instances: Mapping[str, InstanceConfig]
    """In the order of names inside each replica set."""
    warnings: tuple[str, ...] = ()
    text: bytes = field(default=b"", repr=False)
    """What was read: passwords may stand in it."""
    exposure: str = ""
    """Who can read the passwords in the file but should not, for people; it stands among the warnings too."""
    is_file: bool = True
    """False: it stands for the flags of `serve`; there is nothing to read again, and the environment says
    nothing."""

    def instance(self, name: str) -> InstanceConfig:
        if name not in self.instances:
            known = ", ".join(self.instances)
            raise ConfigFileError(
                [ConfigProblem(str(self.path), 0, name, f"no such instance; the file has: {known}")]
            )
        return self.instances[name]


# --- entry points ---------------------------------------------------------------------------------------


def load(path: str | Path, instance_name: str, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of one instance. environ: None = os.environ. Raises `ConfigFileError`, nothing else."""
    return load_all(path, environ).instance(instance_name).settings


def load_all(path: str | Path, environ: Mapping[str, str] | None = None) -> ClusterConfig:
    """All instances of a file. The environment counts for each of them, as it does when each is started."""
    path = Path(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        why = error.strerror or error
        message = f"cannot read the configuration: {why}"
        if isinstance(error, FileNotFoundError):
            message += ". Next: synchro init DIR --nodes 3"
        raise ConfigFileError([ConfigProblem(str(path), 0, "", message)]) from error
    config = parse(data, path=path, environ=environ)
    if not mode & stat.S_IROTH or not _has_passwords(config):
        return config
    exposure = (
        f"{path} has passwords in it, and everybody on this host can read it (mode {mode:04o}). Next: chmod "
        "o-rwx on it, or password_file in place of password"
    )
    return replace(config, exposure=exposure, warnings=(*config.warnings, exposure))


def _has_passwords(config: ClusterConfig) -> bool:
    """In the file itself, not in files that it names."""
    for instance in config.instances.values():
        credentials, logins = instance.settings.credentials, instance.settings.peer_logins
        for user in () if credentials is None else credentials.users:
            if user.password is not None and not user.password_file:
                return True
        for login in (logins.default, *logins.by_address.values()):
            if login is not None and login.password and not login.password_file:
                return True
    return False


def parse(
    data: bytes | str,
    *,
    path: str | Path,
    environ: Mapping[str, str] | None = None,
    commands: Mapping[str, str] | None = None,
    commanded: str = "",
) -> ClusterConfig:
    """As `load_all`, from the text. path: names the file in messages; directories are relative to its own.

    commands: key -> value as YAML, of `config set` to the instance `commanded`; they beat its file and
    environment, and say nothing of the others.
    """
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    if len(data) > FILE_BYTES_MAX:
        raise ConfigFileError([ConfigProblem(str(path), 0, "", f"larger than {FILE_BYTES_MAX} bytes")])
    try:
        document = compose(data, source=str(path))
    except NotYaml as error:
        raise ConfigFileError([ConfigProblem(str(path), error.line, "", f"not YAML: {error}")]) from error
    reader = _Reader(path, os.environ if environ is None else environ, commands or {}, commanded)
    return replace(reader.read(document), text=data)


# --- the reader -----------------------------------------------------------------------------------------


class _Reader:
    """Reads one document; collects problems and goes on, so that a person sees all of them at once."""

    def __init__(
        self, path: Path, environ: Mapping[str, str], commands: Mapping[str, str], commanded: str
    ) -> None:
        self.path = path
        self.file = str(path)
        self.environ = environ
        self.commands = commands
        self.commanded = commanded
        self.problems: list[ConfigProblem] = []
        self.ignored: dict[str, None] = {}
        self.later: dict[str, None] = {}
        self.warnings: list[str] = []

    def read(self, document: Located) -> ClusterConfig:
        renamed = rename(document, file=self.file)
        self.problems += renamed.problems
        self.warnings += renamed.warnings
        root = self._checked(renamed.document, ROOT)
        self._stop_if_bad()
        strong, weak = self._environment()
        commands = self._commanded()
        members = list(self._members(root))
        self._stop_if_bad()
        instances: dict[str, InstanceConfig] = {}
        merged: dict[str, View] = {}
        for views in members:
            # The environment is that of one process: it says nothing about the addresses of the others.
            addresses: dict[str, str | None] = {view.name: peer_address(view) for view in views}
            for view in views:
                own = merge(merge(weak, view.root), strong)
                own = merge(own, commands) if view.name == self.commanded else own
                merged[view.name] = mine = replace(view, root=own)
                settings = settings_of(mine, views, addresses)
                settings = replace(settings, peer_logins=peer_logins(mine, views, addresses))
                instances[view.name] = InstanceConfig(view.name, view.group, view.replicaset, settings)
            check_addresses(views, addresses)
        self._stop_if_bad()
        warnings = tuple(self._all_warnings(instances, members))
        return ClusterConfig(
            self.path,
            {
                name: replace(one, warnings=warnings, options=effective(merged[name], one.settings))
                for name, one in instances.items()
            },
            warnings,
        )

    def _checked(self, item: Located, schema: Section) -> Located:
        result = check(item, schema, file=self.file)
        self.problems += result.problems
        self.ignored.update(dict.fromkeys(result.ignored))
        self.later.update(dict.fromkeys(result.later))
        return result.item

    def _stop_if_bad(self) -> None:
        if self.problems:
            unique = dict.fromkeys(self.problems)
            raise ConfigFileError(sorted(unique, key=lambda problem: problem.line))

    # environment

    def _environment(self) -> tuple[Located, Located]:
        """Two trees: what beats the file, and what the file beats (`..._DEFAULT`)."""
        trees = ({}, {})  # type: tuple[dict[str, Any], dict[str, Any]]
        for variable, text in sorted(self.environ.items()):
            if not variable.startswith("SYNCHRO_"):
                continue
            name, is_weak = variable.removeprefix("SYNCHRO_"), False
            if name not in ENVIRONMENT and name.endswith("_DEFAULT"):
                name, is_weak = name.removesuffix("_DEFAULT"), True
            if name not in ENVIRONMENT:
                if why := why_no_variable(name, text):
                    self.problems.append(ConfigProblem(f"environment {variable}", 0, name.lower(), why))
                elif name not in PROGRAM_VARIABLES:
                    self.warnings.append(f"{variable} in the environment is no option: ignored")
                continue
            path = ENVIRONMENT[name]
            try:
                item = compose_value(text, source=f"environment {variable}")
            except NotYaml as error:
                self.problems.append(
                    ConfigProblem(f"environment {variable}", 0, ".".join(path), f"not YAML: {error}")
                )
                continue
            tree = trees[is_weak]
            for key in path[:-1]:
                tree = tree.setdefault(key, {})
            tree[path[-1]] = item
        strong, weak = (self._checked(_locate(tree), ENVIRONMENT_SCOPE) for tree in trees)
        self._stop_if_bad()
        return strong, weak

    def _commanded(self) -> Located:
        """What `config set` has set, as a tree."""
        tree = Located({})
        for key, text in self.commands.items():
            source = f"config set {key}"
            try:
                item = compose_value(text, source=source)
            except NotYaml as error:
                self.problems.append(ConfigProblem(source, 0, key, f"not YAML: {error}"))
                continue
            for part in reversed(key.split(".")):
                item = Located({part: item}, 0, source)
            tree = merge(tree, item)
        checked = self._checked(tree, COMMAND_SCOPE)
        self._stop_if_bad()
        return checked

    # scopes

    def _members(self, root: Located) -> Iterator[list[View]]:
        """The instances of each replica set, in name order, each with its merged options."""
        seen: dict[str, Located] = {}
        sets: dict[str, Located] = {}
        groups_seen: dict[str, Located] = {}
        base = without(root, "groups")
        groups = root.value.get("groups")
        if groups is None or not groups.value:
            self._report(
                root,
                "groups",
                "no instances: expected groups: {G: {replicasets: {R: {instances: {I: ...}}}}}",
            )
            return
        for group_name, group in groups.value.items():
            self._once(groups_seen, group_name, group, f"groups.{group_name}", "group")
            group_view = merge(base, without(group, "replicasets"))
            replicasets = group.value.get("replicasets")
            if replicasets is None or not replicasets.value:
                self._report(group, f"groups.{group_name}", "a group has at least one replica set")
                continue
            for set_name, replicaset in replicasets.value.items():
                path = f"groups.{group_name}.replicasets.{set_name}"
                self._once(sets, set_name, replicaset, path, "replica set")
                set_view = merge(group_view, without(replicaset, "instances"))
                instances = replicaset.value.get("instances")
                if instances is None or not instances.value:
                    self._report(replicaset, path, "a replica set has at least one instance")
                    continue
                if len(instances.value) > INSTANCE_ID_MAX:
                    self._report(instances, path, f"a replica set has at most {INSTANCE_ID_MAX} instances")
                views = []
                for text, instance in sorted(instances.value.items()):
                    name = InstanceName(text)  # the schema has looked
                    self._once(seen, name, instance, f"{path}.instances.{name}", "instance")
                    templates = {"instance_name": name, "replicaset_name": set_name, "group_name": group_name}
                    merged = merge(set_view, instance)
                    views.append(
                        View(name, group_name, set_name, merged, self.file, self.problems, templates)
                    )
                yield views

    def _once(self, seen: dict[str, Located], name: str, item: Located, path: str, what: str) -> None:
        if name in seen:
            self._report(item, path, f"{what} {name!r} is already defined in line {seen[name].line}")
        elif (twin := twin_of(name, seen)) is not None:
            place = f"{what} {twin!r} of line {seen[twin].line}"
            self._report(item, path, f"{what} {name!r} differs from {place} in nothing but case")
        seen.setdefault(name, item)

    def _report(self, item: Located, path: str, message: str) -> None:
        self.problems.append(ConfigProblem(item.source or self.file, item.line, path, message))

    # warnings

    def _all_warnings(
        self, instances: Mapping[str, InstanceConfig], members: list[list[View]]
    ) -> Iterator[str]:
        yield from dict.fromkeys(self.warnings)
        if self.ignored:
            yield f"these options mean nothing here and were ignored: {', '.join(self.ignored)}"
        if self.later:
            names = ", ".join(self.later)
            yield f"these options are read and checked, but this release does not act on them: {names}"
        for views in members:
            yield from self._privilege_warnings(views)
            yield from self._set_warnings(views, [instances[view.name].settings for view in views])
            yield from self._address_warnings(views, instances)
        for instance in instances.values():
            for _, message in doubtful(instance.settings):
                yield f"{message} ({instance.name})"
            if instance.settings.wal_mode is WalMode.WRITE:
                yield f"wal.mode = write on {instance.name}: a power cut may lose acknowledged writes"

    def _privilege_warnings(self, views: list[View]) -> Iterator[str]:
        unused = dict.fromkeys(kind for view in views for kind in unused_privileges(view))
        if unused:
            yield f"privileges on {', '.join(unused)} mean nothing here, and were ignored: there are none"

    def _set_warnings(self, views: list[View], settings: list[Settings]) -> Iterator[str]:
        """Of one replica set; said once, with the names of those that it concerns unless it is all."""
        concerned: dict[str, list[str]] = {}
        for view, own in zip(views, settings, strict=True):
            idle = (*idle_options(view, own), *idle_logins(view))
            denied = guest_peers(view) if len(views) > 1 else ()
            for warning in (*quorum_warnings(own, len(members_of(view, views))), *idle, *denied):
                concerned.setdefault(warning, []).append(view.name)
        for warning, names in concerned.items():
            yield warning if len(names) == len(views) else f"{', '.join(names)}: {warning}"
        standing = (ElectionMode.MANUAL, ElectionMode.CANDIDATE)
        is_election = all(view.get("replication.failover") == "election" for view in views)
        if is_election and not any(own.election_mode in standing for own in settings):
            told = "as the file has the others, " if self.commanded in [view.name for view in views] else ""
            yield (
                f"{told}no instance of {views[0].replicaset} may stand for election "
                "(replication.election_mode): nobody will own the queue, and none may write"
            )

    def _address_warnings(self, views: list[View], instances: Mapping[str, InstanceConfig]) -> Iterator[str]:
        for view in views if len(views) > 1 else ():
            listen = instances[view.name].settings.listen
            if view.get("isolated", False) or (listen and peer_address(view)):
                continue
            what = "cannot be started" if not listen else f"listens on {listen}, where peers cannot connect"
            yield (
                f"{view.name} has no usable address (grpc.listen, grpc.advertise.peer.uri): it {what}; "
                "the others do without it"
            )


def _locate(tree: Mapping[str, Any]) -> Located:
    return Located({k: v if isinstance(v, Located) else _locate(v) for k, v in tree.items()})
