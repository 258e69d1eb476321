"""Users in a set of several: restart, snapshot, join, older members, and the configuration. [C-43], ADR 42"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from synchro.config import ConfiguredGrant, ConfiguredUser, Credentials, ElectionMode
from synchro.errors import ProtocolVersion
from synchro.failpoints import REGISTRY
from synchro.instance import events as ev
from synchro.secret import Secret
from synchro.server import credentials
from synchro.server.face import Face
from synchro.server.join import serve_join
from synchro.server.passwords import fits
from synchro.server.peer_messages import JoinRequest
from synchro.storage import schema_ops
from synchro.storage.schema import PRIV_ID, USER_ID
from synchro.storage.user_ops import UserDraft
from synchro.storage.users import GUEST_CALLER, ObjectType, Privilege
from tests.shell.memory_set import PATIENCE_S, MemorySet, open_set, until, write

APP = ConfiguredUser("app", password=Secret("secret"), roles=("replication",))


async def create(face: Face, name: str, **more: Any) -> ev.Outcome:
    """As the command does."""
    memtx = face.node.core.memtx
    draft = UserDraft(memtx.prepared_rows(USER_ID), memtx.prepared_rows(PRIV_ID))
    draft.create(name, **more)
    return await write(face, *draft.ops())


def names(face: Face) -> set[str]:
    return {user.name for user in face.users.users.values()}


async def started(replicas: MemorySet, *numbers: int, **changes: Any) -> Face:
    for number in numbers:
        await replicas.start(number, **changes)
    await replicas.wait_ready()
    await until(lambda: all(len(face.links.relays) == len(numbers) - 1 for face in replicas.nodes))
    return await replicas.wait_leader()


async def test_users_come_with_the_log_a_snapshot_and_a_join(tmp_path: Path) -> None:
    """And an instance that starts again has them."""
    async with open_set(tmp_path, size=3) as replicas:
        leader = await started(replicas, 1, 2)
        assert isinstance(await create(leader, "bob", verifier=b"v"), ev.Committed)
        await leader.checkpoint()
        assert isinstance(await create(leader, "eve"), ev.Committed)
        await replicas.wait_equal()
        await replicas.start(3)
        await replicas.wait_ready()
        await replicas.wait_equal()
        for face in replicas.nodes:
            assert {"bob", "eve"} <= names(face)
            assert face.users.user("bob").verifier == b"v"
        await replicas.kill(1, 2, 3)
        for number in (1, 2, 3):
            await replicas.start(number)
        await replicas.wait_ready()
        assert all({"bob", "eve"} <= names(face) for face in replicas.nodes)


async def test_of_two_masters_the_first_takes_over_each_change_of_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[C-43], [A-55]: if both began, each would give the same id to a user, and stop at the row of the other.
    That holds for the second change as for the first."""
    monkeypatch.setattr(credentials, "TURN_S", 0.0)
    guest = ConfiguredUser("guest", roles=("super",))
    changes = {"election_mode": ElectionMode.OFF, "credentials": Credentials((guest,))}
    async with open_set(tmp_path, size=2, **changes) as replicas:
        await started(replicas, 1, 2)
        first, second = sorted(replicas.nodes, key=lambda face: face.node.core.self_id)
        await until(lambda: None not in (first.credentials._done, second.credentials._done))
        monkeypatch.setattr(credentials, "TURN_S", 10 * PATIENCE_S)
        REGISTRY.set("relay.send_delay")
        try:
            for face in (first, second):
                settings = replace(face.node.settings, credentials=Credentials((guest, APP)))
                face.node.change_settings(settings)
            await until(lambda: "app" in names(first))
            await trio.sleep(3 * credentials.LOOK_S)  # if the second one began, it has by now
            assert "app" not in names(second)
        finally:
            REGISTRY.clear("relay.send_delay")
        await until(lambda: "app" in names(second))
        await replicas.wait_equal()


async def test_a_change_that_is_not_decided_counts_for_nobody(tmp_path: Path) -> None:
    """As of committed rows: without its quorum a grant gives nothing."""
    async with open_set(tmp_path, size=3) as replicas:
        leader = await started(replicas, 1, 2, 3)
        number = int(leader.node.settings.instance_name[-1])
        await replicas.kill(*({1, 2, 3} - {number}))
        outcome = await create(leader, "bob")
        assert isinstance(outcome, ev.OutcomeUnknown | ev.Rejected)
        assert "bob" not in names(leader) and leader.users.is_unset


# --- older members ---------------------------------------------------------------------------------------


async def test_no_row_of_users_is_written_while_a_member_may_not_read_it(tmp_path: Path) -> None:
    """One that was not heard since the start may be older. It comes back, and the change is done."""
    async with open_set(tmp_path, size=3, election_mode=ElectionMode.OFF) as replicas:
        await started(replicas, 1, 2, 3)
        await replicas.kill(1, 2, 3)
        await replicas.start(1)
        first = await replicas.start(2)
        await until(lambda: first.node.is_ready and len(first.links.relays) == 1)
        await until(lambda: first.node.core.is_writable)  # it waits for 3 no more [M-40]
        before = first.node.core.vclock
        outcome = await create(first, "bob")
        assert isinstance(outcome, ev.Rejected) and outcome.error.reason == "OLDER_MEMBER"
        assert first.node.core.vclock == before and first.users.is_unset
        await replicas.start(3)
        await until(lambda: len(first.links.relays) == 2)
        assert isinstance(await create(first, "bob"), ev.Committed)


async def test_an_older_instance_does_not_join_a_set_with_users(tmp_path: Path) -> None:
    """It would take their rows for damage; it is told what to do."""
    async with open_set(tmp_path, size=1) as replicas:
        leader = await started(replicas, 1)
        request = JoinRequest(str(uuid4()), "instance009", takes_unnamed=True)

        async def first_item() -> object:
            async for item in serve_join(leader.node, leader.links, request):
                return item
            return None

        assert await first_item() is not None
        assert isinstance(await create(leader, "bob"), ev.Committed)
        with pytest.raises(ProtocolVersion, match="this set has users, which the version of instance009"):
            await first_item()
        request = replace(request, takes_users=True)
        assert await first_item() is not None


# --- the configuration -------------------------------------------------------------------------------------


async def test_a_new_set_has_its_configured_users_from_the_first_row_on(tmp_path: Path) -> None:
    """[C-43]: nobody has to be writable first, and the guest has nothing at any moment."""
    async with open_set(tmp_path, size=1, credentials=Credentials((APP,))) as replicas:
        face = await replicas.start(1)
        assert face.users.rights(GUEST_CALLER).is_nobody
        await replicas.wait_ready()
        app = face.users.user("app")
        assert app.verifier is not None and fits(app.verifier, "secret")
        assert face.users.rights(app.caller).universe & Privilege.READ
        assert face.users.rights(GUEST_CALLER).is_nobody


async def test_whoever_may_write_puts_the_configured_users_into_the_set(tmp_path: Path) -> None:
    """[C-43]: and takes them out again. The others get the rows."""
    async with open_set(tmp_path, size=2) as replicas:
        leader = await started(replicas, 1, 2)
        before = leader.node.core.vclock
        await trio.sleep(0.7)
        assert leader.node.core.vclock == before and leader.users.is_unset

        for face in replicas.nodes:
            face.node.change_settings(replace(face.node.settings, credentials=Credentials((APP,))))
        await until(lambda: all("app" in names(face) for face in replicas.nodes))
        assert all(face.users.rights(GUEST_CALLER).has_all for face in replicas.nodes)  # as before

        for face in replicas.nodes:
            face.node.change_settings(replace(face.node.settings, credentials=Credentials()))
        await until(lambda: all("app" not in names(face) for face in replicas.nodes))


async def test_a_file_grants_one_sequence_when_it_is_there(tmp_path: Path) -> None:
    """[C-43]: a privilege on what does not exist yet waits, and `info config` says so."""
    grant = ConfiguredGrant(("write",), "sequence", "ids")
    async with open_set(tmp_path, size=1) as replicas:
        face = await started(replicas, 1)
        wanted = Credentials((replace(APP, grants=(grant,)),))
        face.node.change_settings(replace(face.node.settings, credentials=wanted))
        await until(lambda: list(face.node.user_problems) == ["Sequence 'ids' does not exist"])
        assert isinstance(
            await write(face, *schema_ops.create_sequence(face.node.core.memtx, "ids")), ev.Committed
        )
        await until(lambda: not face.node.user_problems)
        number = face.node.core.memtx.catalog.sequences.named("ids").id
        rights = face.users.rights(face.users.user("app").caller)
        assert rights.of(ObjectType.SEQUENCE, number) & Privilege.WRITE
        assert not rights.of(ObjectType.SEQUENCE, number + 1) & Privilege.WRITE


async def test_a_file_that_is_read_while_the_last_one_is_carried_out_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[C-43]: what it takes away would stay for ever else."""
    verifiers, seen = credentials._verifiers, list[Credentials]()

    def read_again(wanted: Credentials, known: Mapping[str, bytes]) -> dict[str, bytes]:
        seen.append(wanted)
        if len(seen) == 1:
            changed = replace(face.node.settings, credentials=Credentials())
            trio.from_thread.run_sync(face.node.change_settings, changed)
        return verifiers(wanted, known)

    monkeypatch.setattr(credentials, "_verifiers", read_again)
    async with open_set(tmp_path, size=1) as replicas:
        face = await started(replicas, 1)
        face.node.change_settings(replace(face.node.settings, credentials=Credentials((APP,))))
        await until(lambda: len(seen) == 2)
        assert [len(each.users) for each in seen] == [1, 0]
        await until(lambda: "app" not in names(face))


async def test_who_may_not_write_waits_until_it_may(tmp_path: Path) -> None:
    """[C-43]"""
    guest = ConfiguredUser("guest", roles=("super",))
    async with open_set(tmp_path, size=1, election_mode=ElectionMode.OFF) as replicas:
        await replicas.start(1)
        await replicas.wait_ready()
        await replicas.stop(1)
        face = await replicas.start(1, credentials=Credentials((APP, guest)), read_only=True)
        await replicas.wait_ready()
        await trio.sleep(0.7)
        assert face.users.is_unset
        face.node.change_settings(replace(face.node.settings, read_only=False))
        await until(lambda: "app" in names(face))
        (role,) = [grant for grant in face.users.grants[0] if grant.by_config]
        assert role.object_id == 31


async def test_two_masters_with_one_configuration_agree(tmp_path: Path) -> None:
    """Without an owner both may write: one does it, and the other sees that it is done."""
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
        await started(replicas, 1, 2)
        for face in replicas.nodes:
            face.node.change_settings(replace(face.node.settings, credentials=Credentials((APP,))))
        await until(lambda: all("app" in names(face) for face in replicas.nodes))
        await replicas.wait_equal()
        assert len({face.users.user("app").verifier for face in replicas.nodes}) == 1
