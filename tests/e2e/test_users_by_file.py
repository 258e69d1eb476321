"""The file of `synchro init` is made safe by one edit and one reload. [C-43], ADR 42"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import synchro
from synchro.errors import AccessDenied
from tests.e2e.cluster import Cluster, eventually, soon_s
from tests.e2e.tutorials.hands import run

pytestmark = [pytest.mark.e2e, pytest.mark.long]
NAMES = ("instance001", "instance002", "instance003")


def test_guest_goes_and_peers_log_in_by_one_reload(make_cluster: Callable[..., Cluster]) -> None:
    """Peers get their user by the quorum that they have as guests: no link may wait for the user first."""
    cluster = make_cluster(
        NAMES,
        failover="election",
        replication={"election_timeout": 1},
        options={"credentials": {"users": {"guest": {"roles": ["super"]}}}},
    )
    cluster.start()
    cluster.wait_leader().remote.create("sync", is_sync=True)
    cluster.wait_leader().remote.replace("sync", 1, "s", timeout=10)

    cluster.options["credentials"] = {
        "users": {
            "admin": {"password": "secret"},
            "replicator": {"password": "hidden", "roles": ["replication"]},
        }
    }
    cluster.options["grpc"] = {"advertise": {"peer": {"login": "replicator"}}}
    cluster.write_config(cluster.config_path)
    code, out, err = run("config", "reload", str(cluster.config_path))
    assert code == 0, (out, err)

    where = ",".join(instance.address for instance in cluster)
    with synchro.connect(where, user="admin", password="secret", timeout=15) as db:

        def is_safe() -> bool:
            guest = db.users.list("guest")[0]
            return not any(grant.object == "super" for grant in guest.grants)

        eventually("the guest is not super any more", is_safe, soon_s(15))
        for name in NAMES:
            eventually(
                f"{name} follows as replicator",
                lambda name=name: all(  # type: ignore[misc]
                    part["upstream"]["status"] == "follow"
                    for part in db.get_info("replication", instance=name).values()
                    if "upstream" in part
                ),
                soon_s(15),
            )
        db.space("sync").insert([2, "s"], timeout=15)
    with synchro.connect(where, timeout=5) as guest, pytest.raises(AccessDenied):
        guest.space("sync").insert([3, "s"])
