"""A replica logs in as a user: what that user needs, and what is seen while it lacks it. BR, MON, WQ.

Who is an operator here is the guest; what the source's user may do counts for the replica alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Instance, soon_s
from tests.e2e.tutorials.hands import EACH_HAND
from tests.e2e.tutorials.walk import Walk

pytestmark = [pytest.mark.e2e, pytest.mark.long]
EVERYTHING = ("read", "universe"), ("write", "space", "_cluster")
"""What the role replication has."""
MISMATCH = "User not found or supplied credentials are invalid"


def follow(walk: Walk, replica: Instance, login: str) -> None:
    """Start it with the first instance as its source."""
    walk.spawn_by_flags(replica, flags=["--replication", f"{login}@{walk.first.address}"])


def wait_refused(walk: Walk, replica: Instance, text: str) -> None:
    """Before it has joined, its log says why it does not."""
    walk.soon(
        f"{replica.name} is refused: {text}",
        lambda: any(text in record.get("message", "") for record in replica.records("join_retry")),
        soon_s(15),
    )


def message(walk: Walk, replica: Instance) -> str:
    stream: dict[str, Any] = walk.stream(replica, walk.first)
    return str(stream.get("message") or "")


@pytest.mark.parametrize("hand", EACH_HAND)
def test_BR_10_MON_04_WQ_10_the_user_of_a_replica(hand: str, tmp_path: Path) -> None:
    """BR-10, MON-4, WQ-10: without the password, and without each of the privileges, it is refused by name;
    with them it joins, whether they come directly or by the role; revoked, it stays away, and a grant heals
    it without a restart. No password is in a log."""
    with Walk(tmp_path, hand, ("instance001", "instance002", "instance003")) as walk:
        walk.serve(walk.first)
        walk.hand.create_user(walk.first, "replicator", "hunter2")
        third = walk["instance003"]
        follow(walk, third, "replicator:hunter-wrong")
        wait_refused(walk, third, MISMATCH)
        third.kill()

        follow(walk, walk.second, "replicator:hunter2")
        wait_refused(walk, walk.second, "Read access to universe '' is denied for user 'replicator'")
        walk.hand.grant(walk.first, "replicator", *EVERYTHING[0])
        wait_refused(walk, walk.second, "Write access to space '_cluster' is denied for user 'replicator'")
        walk.hand.grant(walk.first, "replicator", *EVERYTHING[1])
        walk.wait_status(walk.second, walk.first, "follow")

        for what in EVERYTHING:
            walk.hand.revoke(walk.first, "replicator", *what)
        assert walk.second.stop() == 0
        follow(walk, walk.second, "replicator:hunter2")
        walk.soon("it says what is missing", lambda: "is denied for user" in message(walk, walk.second))
        assert walk.stream(walk.second, walk.first)["status"] == "loading"

        walk.hand.grant(walk.first, "replicator", "replication")
        walk.wait_status(walk.second, walk.first, "follow")

        assert walk.second.stop() == 0
        follow(walk, walk.second, "replicator:hunter-wrong")
        walk.soon("it says that the login failed", lambda: MISMATCH in message(walk, walk.second))
        assert walk.stream(walk.second, walk.first)["status"] == "loading"
        assert not [one.name for one in walk if "hunter" in one.log_path.read_text()]
