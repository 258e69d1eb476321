"""Real instances with users: peers log in, and a run leaves no password anywhere. ADR 43."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import synchro
from synchro.errors import SynchroError
from tests.e2e.cluster import Cluster, Instance, eventually, soon_s

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
NAMES = ("instance001", "instance002", "instance003")
ADMIN, PEER, APP = "hunter-admin", "hunter-peer", "hunter-app"
"""All passwords of this file have a word in common, by which they are looked for."""


def cli(where: str, *words: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code, and all that was said."""
    got = subprocess.run(
        [sys.executable, "-m", "synchro", "-e", where, "--timeout", "5s", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={key: value for key, value in os.environ.items() if not key.startswith("SYNCHRO_")}
        | (environ or {}),
    )
    return got.returncode, got.stdout + got.stderr


def upstreams(db: synchro.Client, name: str) -> set[str]:
    """Status of the upstreams of one instance."""
    parts = db.get_info("replication", instance=name)
    return {str(part["upstream"]["status"]) for part in parts.values() if "upstream" in part}


def all_follow(db: synchro.Client) -> bool:
    return all(upstreams(db, name) == {"follow"} for name in NAMES)


def moves(instance: Instance) -> tuple[int, int]:
    """How often it logged in at a peer, and how often a stream of it began to follow."""
    return len(instance.records("upstream_authenticated")), len(instance.records("upstream_following"))


def where_of(cluster: Cluster) -> str:
    return ",".join(instance.address for instance in cluster)


def with_users(directory: Path) -> dict[str, Any]:
    """Of the file: the guest has no rights; one password of each place in which it may stand."""
    (directory / "app.password").write_text(f"{APP}\n")
    return {
        "credentials": {
            "users": {
                "admin": {"password": ADMIN, "roles": ["super"]},
                "replicator": {"password": PEER, "roles": ["replication"]},
                "app": {
                    "password_file": str(directory / "app.password"),
                    "privileges": [{"permissions": ["read", "write"], "universe": True}],
                },
            }
        },
        "grpc": {"advertise": {"peer": {"login": "replicator"}}},
    }


@pytest.mark.long
def test_peers_log_in_and_no_password_is_found_anywhere(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """[S-8], [S-10], [C-11]: in logs, answers, process list, files of the data; with right and wrong ones."""
    cluster = make_cluster(
        NAMES, failover="election", replication={"election_timeout": 1}, options=with_users(tmp_path)
    )
    for instance in cluster:
        instance.spawn()
    where, said = where_of(cluster), []
    with synchro.connect(where, user="admin", password=ADMIN, timeout=15) as db:
        eventually("a leader", lambda: bool(db.leader(timeout=5)), soon_s(15))
        db.create_space("t", sync=True)
        db.create_index("t", "primary")
        eventually("all follow", lambda: all_follow(db), soon_s(10))
        db.space("t").insert([1])
        said.append(repr(db.info))

        # An instance that was killed comes back with its login; the clients' sessions there are opened again.
        third = cluster["instance003"]
        third.kill()
        third.spawn()
        eventually("it follows again", lambda: upstreams(db, "instance003") == {"follow"}, soon_s(10))
        db.space("t").insert([2])

        app = {"SYNCHRO_USER": "app", "SYNCHRO_PASSWORD_FILE": str(tmp_path / "app.password")}
        admin = {"SYNCHRO_USER": "admin", "SYNCHRO_PASSWORD": ADMIN}
        config = str(cluster.config_path)
        words_said: tuple[tuple[int, list[str], dict[str, str]], ...] = (
            (0, ["get", "t", "[2]"], app),
            (0, ["status", "-o", "json"], admin),
            (0, ["info", "-o", "json"], admin),
            (0, ["config", "show", config], {}),
            (0, ["config", "diff", config], admin),
            (0, ["config", "reload", config], admin),
            (8, ["get", "t", "[2]"], {}),
            (8, ["get", "t", "[2]"], {"SYNCHRO_USER": "app", "SYNCHRO_PASSWORD": "hunter-wrong"}),
            (2, ["config", "set", "grpc.advertise.peer.password", "hunter-new"], admin),
        )
        for code, words, environ in words_said:
            got, text = cli(where, *words, environ=environ)
            assert got == code, f"{words}: {text}"
            said.append(text)
        code, text = cli(f"app:{APP}@{third.address}", "-v", "get", "t", "[2]")
        assert code == 0 and "it was wiped from the list of processes" in text
        said.append(text)
        said += [Path(f"/proc/{instance.pid}/cmdline").read_text() for instance in cluster]
    said += [instance.log_path.read_text() for instance in cluster]
    assert not [text for text in said if "hunter" in text]
    files = [path for instance in cluster for path in instance.dir.iterdir() if path.is_file()]
    assert files and not [path for path in files if b"hunter" in path.read_bytes()]


class Writer(threading.Thread):
    """Inserts 0, 1, 2, ... one after the other. `acked`: what it was told is done."""

    def __init__(self, where: str, user: str, password: str) -> None:
        super().__init__(daemon=True)
        self._where, self._login = where, {"user": user, "password": password}
        self.is_over = threading.Event()
        self.acked: list[int] = []
        self.errors: list[SynchroError] = []

    def run(self) -> None:
        number = 0
        with synchro.connect(self._where, timeout=10, **self._login) as db:  # type: ignore[arg-type]
            while not self.is_over.is_set():
                number += 1
                try:
                    db.space("t").insert([number])
                    self.acked.append(number)
                except SynchroError as error:
                    self.errors.append(error)


def test_a_set_moves_to_logins_one_instance_after_the_other(make_cluster: MakeCluster) -> None:
    """The steps of docs/security.md, under load: no write fails, none is lost, and in the end nobody is let
    in without a login."""
    cluster = make_cluster(NAMES, failover="election", replication={"election_timeout": 1})
    cluster.start()
    where = where_of(cluster)
    with synchro.connect(where, timeout=15) as guest:
        eventually("a leader", lambda: bool(guest.leader(timeout=5)), soon_s(15))
        guest.create_space("t", sync=True)
        guest.create_index("t", "primary")
        for user, password, role in (("root", ADMIN, "super"), ("replicator", PEER, "replication")):
            guest.users.create(user, password)
            guest.users.grant(user, "execute", "role", role)
        guest.users.create("app", APP)
        guest.users.grant("app", "read,write", "space", "t")

    with synchro.connect(where, user="root", password=ADMIN, timeout=15) as db:
        writer = Writer(where, "app", APP)
        writer.start()
        eventually("it writes", lambda: len(writer.acked) > 20)
        cluster.options["grpc"] = {"advertise": {"peer": {"login": "replicator", "password": PEER}}}
        cluster.write_config(cluster.config_path)
        login = {"SYNCHRO_USER": "root", "SYNCHRO_PASSWORD": ADMIN}
        for instance in cluster:
            _, followed = moves(instance)
            code, text = cli(
                where, "config", "reload", f"{cluster.config_path}:{instance.name}", environ=login
            )
            assert code == 0 and "grpc.advertise.peer.login" in text and "hunter" not in text, text

            def has_moved(instance: Instance = instance, followed: int = followed) -> bool:
                logins, now = moves(instance)
                return logins >= 2 and now >= followed + 2 and all_follow(db)

            eventually(f"{instance.name} follows with its login", has_moved, soon_s(10))
        db.users.revoke("guest", "execute", "role", "super")
        eventually("all follow without the guest", lambda: all_follow(db), soon_s(10))
        done = len(writer.acked)
        eventually("it goes on", lambda: len(writer.acked) > done + 20, soon_s(10))
        writer.is_over.set()
        writer.join(timeout=15)
        assert not writer.errors
        # Of another client than the writer's: a plain read would show what its instance knows by now.
        stored = {row[0] for row in db.space("t").select(read="linearizable")}
        assert stored == set(writer.acked)
    for instance in cluster:
        code, text = cli(instance.address, "--direct", "get", "t", "[1]")
        assert code == 8 and "denied for user 'guest'" in text
    assert json.dumps(sorted(writer.acked)) == json.dumps(list(range(1, len(writer.acked) + 1)))
