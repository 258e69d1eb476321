"""A set of three that speaks mutual TLS only [S-11]: peers, clients, the command line, newer certificates."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import synchro
from synchro.wire.certificates import TlsFiles
from tests.certificates import CLIENT, DAY, Authority, now
from tests.e2e.cluster import Cluster, Instance, eventually, soon_s

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
NAMES = ("instance001", "instance002", "instance003")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "tls")
    for name in NAMES:
        made.issue(name)
    return made


def tls_of(authority: Authority) -> dict[str, object]:
    place = authority.directory / "{{ instance_name }}"
    return {"grpc": {"tls": {"cert": f"{place}.pem", "key": f"{place}.key", "ca": authority.ca}}}


def cli(where: str, *words: str, tls: TlsFiles | None) -> tuple[int, str]:
    """Exit code, and what was said."""
    shown = {"--cacert": tls.ca, "--cert": tls.cert, "--key": tls.key} if tls is not None else {}
    options = [part for name, value in shown.items() if value for part in (name, value)]
    got = subprocess.run(
        [sys.executable, "-m", "synchro", "-e", where, *options, "--timeout", "5s", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("SYNCHRO_")},
    )
    return got.returncode, got.stdout + got.stderr


def streams(instance: Instance, tls: TlsFiles) -> dict[str, str]:
    """The upstream of each other member: its status, and what is wrong with it; "": no answer."""
    code, said = cli(instance.address, "--direct", "info", "replication", "-o", "json", tls=tls)
    if code:
        return {"": said}
    found = {}
    for part in json.loads(said).values():
        upstream = part.get("upstream") or {}
        if part["name"] != instance.name:
            found[part["name"]] = f"{upstream.get('status')} {upstream.get('message') or ''}".strip()
    return found


def test_a_set_speaks_mutual_tls_only(make_cluster: MakeCluster, authority: Authority) -> None:
    cluster = make_cluster(
        NAMES, failover="election", replication={"election_timeout": 1}, options=tls_of(authority)
    )
    for instance in cluster:
        instance.spawn()
    client = authority.issue("client", hosts=["client"], purposes=[CLIENT])
    where = ",".join(instance.address for instance in cluster)
    with synchro.connect(where, cacert=client.ca, cert=client.cert, key=client.key, timeout=15) as db:
        eventually("a leader", lambda: bool(db.leader(timeout=5)), soon_s(15))
        db.create_space("t", sync=True, if_not_exists=True)
        db.create_index("t", "primary")
        for number in range(20):
            db.space("t").insert([number, "x" * 1000])
        first = cluster["instance001"]
        eventually("all follow", lambda: set(streams(first, client).values()) == {"follow"}, soon_s(10))

        # Who has no certificate, or no TLS, is refused at once and told why.
        for tls, why in (
            (TlsFiles(ca=client.ca), "demands a certificate"),
            (None, "TLS only"),
        ):
            code, said = cli(where, "get", "t", "[1]", tls=tls)
            assert code == 3 and why in said, said
        assert cli(where, "get", "t", "[1]", tls=client)[0] == 0

        # Newer files: bad ones are named and not used, good ones are.
        authority.issue("instance001", ends=now() - DAY / 2)
        eventually("bad files are named", lambda: first.records("certificates_not_renewed"))
        assert "expired" in first.records("certificates_not_renewed")[0]["message"]
        assert cli(first.address, "--direct", "get", "t", "[1]", tls=client)[0] == 0
        authority.issue("instance001")
        eventually("good files are used", lambda: first.records("certificates_renewed"))
        assert cli(first.address, "--direct", "get", "t", "[1]", tls=client)[0] == 0

        # One that was killed comes back over TLS, and one that speaks plain text does not.
        third = cluster["instance003"]
        third.kill()
        third.spawn()
        eventually("it follows again", lambda: set(streams(third, client).values()) == {"follow"}, soon_s(15))
        db.space("t").insert([100, "y"])
    assert all(not instance.records("connection_faulty") for instance in cluster)
    third.stop()
    plain = cluster.dir / "plain.yaml"
    cluster.options.pop("grpc")
    cluster.write_config(plain)
    third.spawn(config=plain)
    expected = "TLS only"
    eventually("the plain one is told why", lambda: is_told(third, expected), soon_s(10))
    eventually("it is named in the logs", lambda: first.records("tls_refused"), soon_s(10))


def test_what_start_prints_next_can_be_typed(make_cluster: MakeCluster, authority: Authority) -> None:
    """With certificates and logins: it named neither, and was refused."""
    (authority.directory / "admin.password").write_text("topsecret\n")
    (authority.directory / "admin.password").chmod(0o600)
    users = {"admin": {"password_file": str(authority.directory / "admin.password")}}
    cluster = make_cluster(
        ["instance001"], failover="election", options={**tls_of(authority), "credentials": {"users": users}}
    )
    try:
        started = synchro_of(["start", str(cluster.config_path)])
        assert started.returncode == 0, started.stderr
        command = started.stdout.rpartition("next:  synchro ")[2]
        done = synchro_of(shlex.split(command))
        assert done.returncode == 0 and "Writable" in done.stdout, (command, done.stdout, done.stderr)
        refused = synchro_of(["status", str(cluster.config_path)])
        advised = synchro_of(shlex.split(refused.stdout.rpartition("Next: synchro ")[2]))
        assert advised.returncode == 0 and "Writable" in advised.stdout, (refused.stdout, advised.stderr)
    finally:
        synchro_of(["stop", str(cluster.config_path), "--kill"])


def synchro_of(words: list[str]) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("SYNCHRO_")}
    command = [sys.executable, "-m", "synchro", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=soon_s(40), env=env)


def is_told(instance: Instance, why: str) -> bool:
    parts = instance.remote.info("replication").values()
    return any(why in str(part.get("upstream", {}).get("system_message")) for part in parts)


def test_a_certificate_that_the_others_would_refuse_starts_nothing(
    make_cluster: MakeCluster, authority: Authority
) -> None:
    authority.issue("instance001", hosts=["10.0.0.7"])
    cluster = make_cluster(NAMES, options=tls_of(authority))
    cluster.expect_log("instance_failed", "not valid for '127.0.0.1'")
    began = time.monotonic()
    first = cluster["instance001"].spawn()
    assert first.wait_exit(soon_s(10)) == 1
    assert time.monotonic() - began < soon_s(5)
    [record] = first.records("instance_failed")
    assert record["reason"] == "CONFIG" and "The instance was not started" in record["message"]
    assert first.files() == []
