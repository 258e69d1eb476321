"""The logs of a whole set lie on disks that are full, its data on disks that are not.

Nobody ends, elections and writes go on, what was lost is counted, and one record tells it when there is room
again. A file system of its own needs the right to mount; a limit of the file size does the same without.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.cluster import Cluster, Instance, eventually

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
MOUNT: Final = 'mount -t tmpfs -o size=1m synchro-logs "$1" && echo ready && exec cat'
LIMIT: Final = 8 << 20
"""Bytes that a file may have where nobody may mount; far more than the data of these tests."""


class SmallDisk:
    """A tmpfs of 1 MB in a mount namespace of its own, which a process holds; it goes with that process."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._holder: subprocess.Popen[bytes] | None = None
        refusals = []
        for how in (["-rm"], ["-m"]):  # as root of a user namespace, or as root
            command = ["unshare", *how, "sh", "-c", MOUNT, "sh", str(directory)]
            try:
                holder = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
            except OSError as error:
                refusals.append(f"{command[0]}: {error.strerror}")
                continue
            assert holder.stdout is not None and holder.stderr is not None
            if holder.stdout.readline() == b"ready\n":
                self._holder = holder
                break
            refusals.append(f"unshare {how[0]}: {holder.stderr.read().decode().strip()}")
            _end(holder)
        if self._holder is None:
            pytest.skip(f"no file system can be mounted here ({'; '.join(refusals)})")
        self.root = Path(f"/proc/{self._holder.pid}/root{directory}")
        """As others see it, without being in the namespace."""
        try:
            (self.root / "here").touch()
        except OSError as error:
            self.close()
            pytest.skip(f"a mount of another namespace cannot be reached through /proc ({error.strerror})")

    def fill(self) -> None:
        with (self.root / "filler").open("ab", buffering=0) as filler:
            while True:
                try:
                    filler.write(bytes(4096))
                except OSError as error:
                    if error.errno == errno.ENOSPC:
                        return
                    raise

    def free(self) -> None:
        (self.root / "filler").unlink()

    def close(self) -> None:
        if self._holder is not None:
            _end(self._holder)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def disks(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], SmallDisk]]:
    made: list[SmallDisk] = []

    def make(name: str) -> SmallDisk:
        made.append(SmallDisk(tmp_path / "logs" / name))
        return made[-1]

    yield make
    for disk in made:
        disk.close()


def test_a_set_lives_while_the_disks_of_its_logs_are_full(
    make_cluster: MakeCluster, disks: Callable[[str], SmallDisk]
) -> None:
    cluster = make_cluster(3, failover="election")
    small = {instance.name: disks(instance.name) for instance in cluster}
    for instance in cluster:
        instance.log_path = small[instance.name].root / "instance.log"
        instance.spawn()

    def fill() -> None:
        for disk in small.values():
            disk.fill()

    def free() -> None:
        for disk in small.values():
            disk.free()

    live_through(cluster, fill, free)
    # What a failed test shows, and what is checked at the end, stays when the disks are gone.
    for instance in cluster:
        kept = cluster.dir / f"{instance.name}.log"
        shutil.copy(instance.log_path, kept)
        instance.log_path = kept


def test_a_set_lives_while_its_logs_may_not_grow(make_cluster: MakeCluster) -> None:
    """Logs that cannot grow, where nobody may mount a disk: they are as large as a file may be."""
    cluster = make_cluster(3, failover="election", options={"wal": {"max_size": "2MiB"}})
    for instance in cluster:
        instance.spawn(first=f"ulimit -f {LIMIT // 512}")
    sizes = {}

    def fill() -> None:
        for instance in cluster:
            sizes[instance] = instance.log_path.stat().st_size
            os.truncate(instance.log_path, LIMIT)

    def free() -> None:
        for instance in cluster:
            os.truncate(instance.log_path, sizes[instance])

    live_through(cluster, fill, free)


def live_through(cluster: Cluster, fill: Callable[[], None], free: Callable[[], None]) -> None:
    """A set that was spawned: its logs are full from `fill` to `free`."""
    for instance in cluster:
        instance.wait_ready()
    cluster.wait_following()
    old = cluster.wait_leader()
    old.remote.create("pay", is_sync=True)
    processes = {instance: instance.process for instance in cluster}
    fill()
    for key in range(50):
        old.remote.insert("pay", key, "x" * 100)
    cluster.wait_equal("pay")  # who lacks a row that was acknowledged cannot be elected
    heir = next(instance for instance in cluster if instance is not old)
    heir.remote.promote()  # everybody has much to say
    assert cluster.wait_leader() is heir
    for key in range(50, 100):
        heir.remote.insert("pay", key, "x" * 100)
    for instance in cluster:
        # The last block of a file has room for some more.
        eventually(f"{instance.name} counts", partial(says_and_loses, instance))
        assert not instance.records("logs_dropped")
    old.pause()  # one that is not heard for a while, and comes back
    eventually("it is missed", lambda: upstream_status(heir, old) != "follow")
    old.resume()
    cluster.wait_following()
    cluster.wait_equal("pay")

    free()
    for instance in cluster:
        say_something(instance)
        [told] = eventually("it is told", partial(instance.records, "logs_dropped"))
        assert told["count"] == lost(instance)
        say_something(instance)
        eventually("records come again", partial(says_what_it_does, instance))
        assert len(instance.records("logs_dropped")) == 1
    for instance, process in processes.items():
        assert instance.process is process and instance.is_running
    assert len(cluster.wait_leader().remote.select("pay")) == 100


def lost(instance: Instance) -> int:
    return int(instance.remote.info("logs_dropped"))


def upstream_status(instance: Instance, other: Instance) -> str:
    parts = instance.remote.info("replication").values()
    return next(str(part["upstream"]["status"]) for part in parts if part["name"] == other.name)


def say_something(instance: Instance) -> None:
    """Makes it write one record."""
    assert instance.process is not None
    instance.process.send_signal(signal.SIGUSR1)


def says_what_it_does(instance: Instance) -> bool:
    """Whether its log has a record of a signal behind that of what was lost."""
    events = [record["event"] for record in instance.records()]
    return "signal_received" in events[events.index("logs_dropped") :]


def says_and_loses(instance: Instance) -> bool:
    """Whether the record that it writes is dropped."""
    say_something(instance)
    return bool(lost(instance) > 0)
