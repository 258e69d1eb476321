"""What `health` and `status` advise of instances on this host can be carried out as it is printed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest

import synchro
from synchro.cli.picture import take_picture
from synchro.cli.verdict import Verdict, judge
from tests.e2e.cluster import Cluster, eventually, soon_s

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]


def run(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "synchro", *arguments],
        cwd=cluster.dir,
        capture_output=True,
        text=True,
        timeout=soon_s(60),
        check=False,
    )


def test_the_advice_names_the_file_by_which_the_set_was_started(
    make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only addresses are given, so nothing but the processes of this host tells it."""
    cluster = make_cluster(3, failover="election").start()
    monkeypatch.chdir(cluster.dir)
    cluster.wait_leader()
    follower = next(i for i in cluster if i.remote.info("ro"))
    where = ",".join(instance.address for instance in cluster)
    start = f"synchro start config.yaml:{follower.name}"

    def health(place: str = where) -> Verdict:
        with synchro.connect(place, read_from="any", wait_for_connection=False) as db:
            return judge(take_picture(db))

    eventually("all is well", lambda: health().command == "")
    follower.pause()
    restart = f"synchro restart config.yaml:{follower.name} --kill"
    eventually("it is missed", lambda: health().command == restart)
    follower.kill()
    for place in (where, where.replace("127.0.0.1", "localhost")):
        assert health(place).command == start

    try:
        shown = run(cluster, "-e", where, "health")
        assert (shown.returncode, shown.stdout.splitlines()[-1][-len(start) :]) == (1, start)
        done = run(cluster, *shlex.split(start)[1:])
        assert done.returncode == 0, done.stderr
        eventually("all is well", lambda: not health().problems, soon_s(20))
    finally:
        run(cluster, "stop", f"config.yaml:{follower.name}", "--kill")

    for instance in cluster.running:  # nobody answers: those that hang still show where all belong
        instance.pause()
    advice = {problem.instance: problem.next for problem in health().problems}
    assert advice == {
        instance.name: start
        if instance is follower
        else f"synchro restart config.yaml:{instance.name} --kill"
        for instance in cluster
    }
