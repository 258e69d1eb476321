"""`start` never says that an instance is up unless the process that it began listens, however long that takes
and whoever else answers at its port."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.cluster import Cluster, Instance, eventually, soon_s
from tests.e2e.remote import Remote

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
SLOW_S: Final = 6.0
"""Longer than `start` waits for peers before it calls an instance started."""
CUSTOMIZE: Final = """
import os, sys, threading, time
if "serve" in sys.orig_argv:
    if "BEGUN" in os.environ:
        open(os.environ["BEGUN"], "w").close()
    while not os.path.exists(os.environ.get("GATE", "/")):
        time.sleep(0.02)
    time.sleep(float(os.environ.get("SLOW_S", "0")))
    if "EXIT_AFTER_S" in os.environ:
        ends = threading.Timer(float(os.environ["EXIT_AFTER_S"]), os._exit, (3,))
        ends.daemon = True
        ends.start()
"""
"""Run by Python before anything else: an instance that takes long, as with a large recovery, or that ends.
BEGUN: a file that it makes at once; GATE: one without which it does not go on."""
Verb = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def verb(tmp_path: Path) -> Iterator[Verb]:
    """Begins `synchro VERB CONFIG`; what it started is stopped in the end."""
    (tmp_path / "sitecustomize.py").write_text(CUSTOMIZE)
    used: set[str] = set()

    def begin(name: str, target: str, *options: str, **environ: str) -> subprocess.Popen[str]:
        used.add(target)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "synchro", "-o", "json", name, target, *options],
            env={**os.environ, "PYTHONPATH": str(tmp_path), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    yield begin
    for stop in [begin("stop", target, "--kill") for target in sorted(used)]:
        stop.communicate(timeout=soon_s(40))


def outcome(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, the record of the one instance, and what was said besides."""
    out, err = process.communicate(timeout=soon_s(45))
    assert out, f"exit code {process.returncode}, nothing printed: {err}"
    [record] = json.loads(out)
    return process.returncode, record, err


def one(make_cluster: MakeCluster, **how: Any) -> Instance:
    """An instance of a set of its own that nobody started yet."""
    return make_cluster(1, instances={"instance001": {"database": {"mode": "rw"}}}, **how)["instance001"]


def at(instance: Instance) -> tuple[str, int]:
    host, _, port = instance.address.rpartition(":")
    return host, int(port)


def target_of(instance: Instance) -> str:
    return f"{instance.cluster.config_path}:{instance.name}"


def listens(record: dict[str, Any]) -> bool:
    """The process that was started answers at its address itself."""
    remote = Remote(record["listen"])
    try:
        return bool(remote.info("pid", timeout=5) == record["pid"])
    finally:
        remote.close()


def test_whoever_else_has_the_port_is_not_our_instance(make_cluster: MakeCluster, verb: Verb) -> None:
    """Ours finds that out late; the foreign ones are left alone."""
    ours = {what: one(make_cluster) for what in ("tcp", "http")}
    # Two addresses of one name: to have one of them is not enough.
    named = one(make_cluster)
    named.address = named.address.replace("127.0.0.1", "localhost")
    named.cluster.write_config(named.cluster.config_path)
    ours["localhost"] = named
    with ExitStack() as foreign:
        foreign.enter_context(socket.create_server(at(ours["tcp"])))
        foreign.enter_context(socket.create_server(("127.0.0.1", at(named)[1])))
        handler = http.server.SimpleHTTPRequestHandler
        server = foreign.enter_context(http.server.ThreadingHTTPServer(at(ours["http"]), handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        begun = {what: verb("start", target_of(each), SLOW_S=f"{SLOW_S}") for what, each in ours.items()}
        for what, process in begun.items():
            code, record, err = outcome(process)
            assert (code, record["state"], record["pid"]) == (1, "exited", None), (what, record, err)
            assert "in use" in err, (what, err)
        server.shutdown()


def test_a_new_set_does_not_join_the_one_beside_it(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """It took the place of its absent member. Refused by name and UUID of who answers: the whole set, the one
    whose port is free, and a file with those ports. A set with data of its own is kept apart by its UUID."""
    own = {"instance001": {"database": {"mode": "rw"}}, "instance002": {}}
    theirs = make_cluster(2, failover="off", instances=own).start()
    theirs["instance002"].stop()
    known = theirs["instance001"].remote.info("replicaset")["uuid"]
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine" / "config.yaml"
    theirs.write_config(mine)
    theirs_text = mine.read_text()
    mine.write_text(theirs_text.replace(str(theirs.config_path.parent), str(mine.parent)))
    assert mine.read_text() != theirs_text
    port = theirs["instance001"].address.rpartition(":")[2]
    for arguments in (
        ["start", str(mine)],
        ["start", f"{mine}:instance002"],
        ["restart", str(mine)],
        ["init", str(tmp_path / "new"), "--nodes", "1", "--base-port", port],
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "synchro", *arguments],
            capture_output=True,
            text=True,
            timeout=soon_s(30),
        )
        assert done.returncode == 6, (arguments, done.stdout, done.stderr)
        assert f"OTHER_SET_ANSWERS: at 127.0.0.1:{port} answers instance001" in done.stderr
        assert known in done.stderr
    assert sorted(path.name for path in mine.parent.iterdir()) == ["config.yaml"]
    assert not (tmp_path / "new").exists()
    assert theirs["instance001"].remote.info("id") == 1


def test_a_child_that_takes_long_counts_when_it_listens(make_cluster: MakeCluster, verb: Verb) -> None:
    """With nobody else at the port; and it never does if it ends before, with or without having listened."""
    slow, dying = one(make_cluster), one(make_cluster)
    alone = make_cluster(2, failover="election")["instance001"]  # it waits for its peer
    begun = [
        verb("start", target_of(slow), SLOW_S=f"{SLOW_S}"),
        verb("start", target_of(dying), SLOW_S=f"{SLOW_S}", EXIT_AFTER_S="0"),
        verb("start", target_of(alone), EXIT_AFTER_S="4"),
    ]
    (code, record, err), *others = [outcome(process) for process in begun]
    assert (code, record["state"], record["changed"]) == (0, "running", True), err
    assert listens(record)
    for code, record, err in others:
        assert (code, record["state"], record["pid"]) == (1, "exited", None), (record, err)
        assert "exited with code 3 while starting" in err


def test_a_second_start_waits_for_the_child_of_the_first(
    make_cluster: MakeCluster, verb: Verb, tmp_path: Path
) -> None:
    """The first one ran out of time: what runs, but does not listen, is not "running already"."""
    slow, dying = one(make_cluster), one(make_cluster)
    gate = tmp_path / "gate"
    of = {slow: {"GATE": str(gate)}, dying: {"GATE": str(gate), "EXIT_AFTER_S": "0"}}
    for each, environ in of.items():
        code, record, err = outcome(verb("start", target_of(each), "--timeout", "0.5s", **environ))
        assert (code, record["state"]) == (1, "stuck"), err
    code, record, err = outcome(verb("start", target_of(slow), "--timeout", "0.5s"))
    assert (code, record["state"]) == (1, "stuck"), err
    again, broken = (verb("start", target_of(each), **environ) for each, environ in of.items())
    time.sleep(1.0)  # most of the time both look at their child by then
    gate.touch()
    code, record, err = outcome(again)
    assert (code, record["state"], record["changed"]) == (0, "running", False), err
    assert listens(record)
    code, record, err = outcome(broken)
    assert (code, record["state"]) == (1, "exited"), err


def test_a_port_that_is_taken_while_ours_starts(
    make_cluster: MakeCluster, verb: Verb, tmp_path: Path
) -> None:
    """It was free when `start` looked."""
    mine, begun, gate = one(make_cluster), tmp_path / "begun", tmp_path / "gate"
    process = verb("start", target_of(mine), BEGUN=str(begun), GATE=str(gate))
    eventually("the instance runs", begun.exists)
    with socket.create_server(("0.0.0.0", at(mine)[1])):
        gate.touch()
        code, record, err = outcome(process)
    assert (code, record["state"]) == (1, "exited"), err
    assert "in use" in err
