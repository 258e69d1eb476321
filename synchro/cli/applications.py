"""`instances.yml` beside a configuration: which of its instances belong to this host. Rule [C-3]."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from synchro.config.file import FILE_BYTES_MAX, ClusterConfig, ConfigFileError
from synchro.config.located import NotYaml, compose
from synchro.config.schema import ConfigProblem
from synchro.config.values import nearest

LISTS: Final = ("instances.yml", "instances.yaml")


def names_here(config: ClusterConfig) -> tuple[str, ...]:
    """In the order of the list; empty: there is none, so all belong here. Raises `ConfigFileError`."""
    path = next((found for name in LISTS if os.path.lexists(found := config.path.parent / name)), None)
    return () if path is None else _read(path, config)


def _read(path: Path, config: ClusterConfig) -> tuple[str, ...]:
    def refused(line: int, key: str, why: str, meant: str | None = None) -> ConfigFileError:
        return ConfigFileError([ConfigProblem(str(path), line, key, why, meant)])

    if not path.is_file():  # a link to nothing, or what would be waited for: not as if there were no list
        raise refused(0, "", "the list of instances is no regular file")
    try:
        with path.open("rb") as file:
            document = compose(file.read(FILE_BYTES_MAX), source=str(path))
    except OSError as error:
        raise refused(0, "", f"cannot read the list of instances: {error.strerror}") from error
    except NotYaml as error:
        raise refused(error.line, "", f"not YAML: {error}") from error
    if not isinstance(document.value, dict) or not document.value:
        raise refused(document.line, "", "expected names of instances, each with a colon: `instance001:`")
    for name, item in document.value.items():
        if name not in config.instances:
            known = list(config.instances)
            raise refused(item.line, name, f"no such instance in {config.path}", nearest(name, known))
        if item.value:
            raise refused(item.line, name, f"has a body: options stand in {config.path}, here are names only")
    return tuple(document.value)
