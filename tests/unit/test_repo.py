"""What a stranger relies on: the files, commands and tables that the documents speak of."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from synchro.config.file import load_all
from synchro.errors import ALL_ERRORS, BY_REASON
from synchro.failpoints import POINTS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *(ROOT / "docs").glob("tutorials/*.md")]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_tables_of_the_documents_are_current() -> None:
    """If this fails: python tools/reference.py"""
    command = [sys.executable, str(ROOT / "tools" / "reference.py"), "--check"]
    got = subprocess.run(command, capture_output=True, text=True, check=False)
    assert got.returncode == 0, got.stderr


def test_every_error_has_its_own_reason() -> None:
    assert len(BY_REASON) == len(ALL_ERRORS)
    assert all(re.fullmatch(r"[A-Z][A-Z_]+[A-Z]", reason) for reason in BY_REASON)


@pytest.mark.parametrize("target", ["demo", "test", "test-long", "check", "sim", "proto", "bench"])
def test_make_targets_set_themselves_up(target: str) -> None:
    needed = r"\$\(READY\)" + (r" \$\(NODE_READY\)" if target.startswith("test") else "")
    assert re.search(rf"^{target}: {needed}$", MAKEFILE, re.MULTILINE)


def test_without_node_the_tests_say_what_to_install(tmp_path: Path) -> None:
    for name in ("bash", "sed"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    make, target = str(shutil.which("make")), "tests/conformance/js/node_modules/.ready"
    got = subprocess.run(
        [make, "-B", target, f"SHELL={tmp_path / 'bash'}"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert got.returncode != 0
    assert "no node here" in got.stderr and "apt-get install nodejs npm" in got.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_pages_name_exist(page: Path) -> None:
    """A page that names a file which has moved sends people nowhere."""
    named = re.findall(
        r"`((?:synchro|tests|tools|docs|proto|deploy)/[\w./-]+)`", page.read_text(encoding="utf-8")
    )
    assert [path for path in named if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()] == []


def test_the_readme_names_real_targets() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)|`make (\w+)", text, re.MULTILINE):
        name = target[0] or target[1]
        assert re.search(rf"^{name}:", MAKEFILE, re.MULTILINE), name


def test_continuous_integration_runs_what_the_readme_says() -> None:
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    text = path.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    for target in ("check", "test", "sim"):
        assert re.search(rf"make --no-print-directory {target}\b", text)
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_package_says_what_it_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "synchrodb"
    assert project["license"] == "BSD-2-Clause"
    assert set(project["scripts"]) == {"synchro"}
    assert (ROOT / "synchro" / "py.typed").exists()
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("BSD 2-Clause License")


MODULES_OF = {
    "grpcio": "grpc",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "protobuf": "google.protobuf",
    "googleapis-common-protos": "google.rpc",
    "pyyaml": "yaml",
}
"""Where it is not the name of the distribution."""


def _imported() -> set[str]:
    """Libraries that the package imports, anywhere in a file. `google` is the home of several."""
    found = set()
    for path in (ROOT / "synchro").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    found |= {alias.name for alias in names}
                case ast.ImportFrom(module=str(module), level=0):
                    found.add(module)
    tops = {".".join(name.split(".")[: 2 if name.startswith("google.") else 1]) for name in found}
    return tops - sys.stdlib_module_names - {"synchro"}


def test_the_package_depends_on_what_it_imports() -> None:
    """No more: a library comes with its feature. No less: what another one brings may leave with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[<>=~ ]", text)[0] for text in project["dependencies"]]
    declared = {MODULES_OF.get(name.lower(), name.replace("-", "_")) for name in names}
    assert declared == _imported()


def test_the_compose_set_is_a_valid_configuration() -> None:
    config = load_all(ROOT / "deploy" / "compose" / "config.yaml", {})
    assert config.warnings == ()
    services = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text(encoding="utf-8"))
    assert list(config.instances) == sorted(services["services"])
    for name, service in services["services"].items():
        assert name in service["command"]
        assert "--insecure" in service["command"]
        assert config.instance(name).needs_insecure
        assert [peer.address for peer in config.instance(name).settings.peers] == [
            f"{other}:3301" for other in config.instances
        ]


def test_the_yaml_of_the_documents_loads() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    path = ROOT / "docs" / "configuration.md"
    from synchro.config.file import parse

    assert parse(example, path=path, environ={}).warnings == ()


def test_every_failpoint_in_the_code_is_registered_and_used() -> None:
    """A point nobody passes tests nothing; one that is not registered fails when it is armed."""
    used = set()
    for path in (ROOT / "synchro").rglob("*.py"):
        if path.name != "failpoints.py":
            used |= set(
                re.findall(
                    r"failpoint(?:_in_thread|_fires)?\(\s*\"([a-z_.]+)\"", path.read_text(encoding="utf-8")
                )
            )
    assert used == set(POINTS)
