"""`config check` looks at files of certificates and passwords as `serve` will, if they are on this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from synchro.cli import app
from tests.certificates import DAY, Authority, now

CONFIG = """
grpc:
  tls: {cert: "tls/{{ instance_name }}.pem", key: "tls/{{ instance_name }}.key", ca: %s}
  advertise: {peer: {login: replicator, password_file: peers.password}}
credentials: {users: {replicator: {password: topsecret, roles: [replication]}}}
groups:
  g:
    replicasets:
      r:
        instances:
          i1: {grpc: {listen: [{uri: "%s:3301"}]}}
          i2: {grpc: {listen: [{uri: "%s:3302"}]}}
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "tls")
    for name in ("i1", "i2"):
        made.issue(name)
    (tmp_path / "peers.password").write_text("topsecret\n")
    return made


def written(authority: Authority, *, host: str = "127.0.0.1") -> str:
    path = authority.directory.parent / "config.yaml"
    path.write_text(CONFIG % (authority.ca, host, host))
    path.chmod(0o600)
    return str(path)


def test_good_files_pass(authority: Authority, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["config", "check", written(authority)]) == 0
    assert "not looked at" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda a: (a.directory / "i2.pem").unlink(), "i2.pem"),
        (lambda a: (a.directory / "i2.key").unlink(), "i2.key"),
        (lambda a: (a.directory / "i2.key").write_text("nonsense"), "i2.key"),
        (lambda a: (a.directory / "i1.key").rename(a.directory / "i2.key"), "i1.key"),
        (lambda a: Path(a.ca).unlink(), "ca"),
        (lambda a: a.issue("i2", ends=now() - DAY / 2), "expired"),
        (lambda a: a.issue("i2", hosts=["10.0.0.7"]), "not valid for '127.0.0.1'"),
        (lambda a: (a.directory.parent / "peers.password").unlink(), "peers.password cannot be read"),
        (
            lambda a: (a.directory.parent / "peers.password").write_bytes(b"\xff"),
            "peers.password is not UTF-8",
        ),
    ],
)
def test_files_that_would_not_do_are_refused(
    authority: Authority,
    spoil: object,
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = written(authority)
    spoil(authority)  # type: ignore[operator]
    assert app.run(["config", "check", path]) == 2
    said = capsys.readouterr().err
    assert why in said and path in said


def test_files_of_other_hosts_are_not_looked_at(
    authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing can be said of them here; a list beside the file says whose are."""
    path = written(authority, host="10.255.255.254")
    for name in ("i1", "i2"):
        for end in ("pem", "key"):
            (authority.directory / f"{name}.{end}").unlink()
    ca, elsewhere = Path(authority.ca), tmp_path / "elsewhere.pem"
    ca.rename(elsewhere)
    assert app.run(["config", "check", path]) == 0
    assert "on other hosts: the files of i1, i2" in capsys.readouterr().out
    (tmp_path / "instances.yml").write_text("i1:\n")
    assert app.run(["config", "check", path]) == 2
    said = capsys.readouterr().err
    assert "i1: " in said and "i2: " not in said
