"""What a stranger relies on: the files, commands and tables that the documents speak of."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import synchro.cli.app  # noqa: F401 - finds the verbs
from synchro.cli.program import Group, program
from synchro.config import ClientAuth
from synchro.config.file import ClusterConfig, load_all
from synchro.errors import ALL_ERRORS, BY_REASON
from synchro.failpoints import POINTS
from synchro.secret import Secret
from synchro.wire.certificates import Certificates, TlsFiles
from tests.conftest import REAL_PROCESSES

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


def test_make_looks_for_real_processes_in_their_folders() -> None:
    """A folder that only one of the two knows would be run by none of its three parts."""
    named = re.search(r"^PROCESSES := (.*)$", MAKEFILE, re.MULTILINE)
    assert named and tuple(named[1].split()) == REAL_PROCESSES


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


DEPLOYED = sorted((ROOT / "deploy").glob("*/config.yaml"))


def _deployed(path: Path, place: Path) -> ClusterConfig:
    """As it is installed: with the passwords of its users beside it."""
    shutil.copy(path, place / path.name)
    (place / "secrets").mkdir()
    for user in ("admin", "replicator"):
        (place / "secrets" / f"{user}.password").write_text("topsecret\n")
    return load_all(place / path.name, {})


@pytest.mark.parametrize("path", DEPLOYED, ids=lambda path: path.parent.name)
def test_what_is_deployed_has_logins_and_tls(path: Path, tmp_path: Path) -> None:
    """Nobody is let in without a certificate, and the guest has no rights."""
    config = _deployed(path, tmp_path)
    assert config.warnings == () and len(config.instances) == 3
    for one in config.instances.values():
        settings = one.settings
        assert settings.client_auth is ClientAuth.REQUIRE and not one.needs_insecure
        login = settings.peer_logins.default
        assert login is not None
        assert (login.user, login.password_file) == ("replicator", f"{tmp_path}/secrets/replicator.password")
        assert settings.credentials is not None
        assert settings.credentials.password_of("replicator") == Secret("topsecret")
        assert not any(user.name == "guest" for user in settings.credentials.users)
    said = subprocess.run(
        [sys.executable, "-m", "synchro", "config", "check", str(tmp_path / path.name)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "3 instances" in said.stdout and "warning" not in said.stdout + said.stderr


def test_the_services_of_compose_are_the_instances_of_its_file(tmp_path: Path) -> None:
    folder = ROOT / "deploy" / "compose"
    config = _deployed(folder / "config.yaml", tmp_path)
    services = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert list(config.instances) == sorted(services)
    files = "/etc/synchro/tls"
    for name, service in services.items():
        assert service["command"][-2:] == ["--name", name] and "--insecure" not in service["command"]
        assert [peer.address for peer in config.instance(name).settings.peers] == [
            f"{other}:3301" for other in config.instances
        ]
        shown = {"SYNCHRO_CERT": f"{files}/{name}.pem", "SYNCHRO_KEY": f"{files}/{name}.key"}
        assert shown.items() <= service["environment"].items()
        assert service["environment"]["SYNCHRO_USER"] == "admin"
        assert "./secrets:/etc/synchro/secrets:ro" in service["volumes"]


def test_the_image_and_the_unit_name_verbs_that_there_are() -> None:
    image = (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    unit = (ROOT / "deploy" / "systemd" / "synchro@.service").read_text(encoding="utf-8")
    assert "HEALTHCHECK" in image and "ExecReload=" in unit and "--insecure" not in image + unit
    commands = [json.loads(check)[1:] for check in re.findall(r'CMD (\["synchro".*\])', image)]
    commands += [line.split()[1:] for line in re.findall(r"^Exec\w+=(.*)$", unit, re.MULTILINE)]
    assert len(commands) == 4
    for words in commands:
        command = program.commands[words[0]]
        if isinstance(command, Group):
            command, words = command.commands[words[1]], words[1:]
        command.make_context(words[0], words[1:], resilient_parsing=True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_the_files_that_compose_prepares_fit(tmp_path: Path) -> None:
    """Each instance can be started with them, and can be asked from its own host."""
    script = shutil.copy(ROOT / "deploy" / "compose" / "prepare.sh", tmp_path / "prepare.sh")
    subprocess.run([str(script)], check=True, capture_output=True, timeout=60)
    tls = tmp_path / "tls"
    assert (tmp_path / "ca.key").exists() and not (tls / "ca.key").exists()
    for name in ("instance001", "instance002", "instance003"):
        files = TlsFiles(str(tls / f"{name}.pem"), str(tls / f"{name}.key"), str(tls / "ca.pem"))
        for host in (name, "127.0.0.1"):
            Certificates(files, client_certificates=ssl.CERT_REQUIRED, own_host=host)
    passwords = {path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert len(passwords) == 2 and min(map(len, passwords)) > 40
    assert subprocess.run([str(script)], check=False, capture_output=True, timeout=60).returncode == 1


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
