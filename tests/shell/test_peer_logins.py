"""Peers log in; who has not the role for it neither acknowledges nor joins. [S-7], [S-8], ADR 43."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio

import synchro
from synchro.config import ConfiguredUser, Credentials, PeerLogin, PeerLogins
from synchro.config.template import config_of_flags
from synchro.errors import AccessDenied
from synchro.ids import InstanceId, Term
from synchro.instance import events as ev
from synchro.process.live_config import LiveConfig
from synchro.rpc.generated.peer.v1 import replication_pb2 as pb
from synchro.rpc.generated.peer.v1 import replication_pb2_grpc
from synchro.rpc.generated.v1 import auth_pb2, auth_pb2_grpc
from synchro.secret import Secret
from synchro.server.face import Face
from synchro.server.links import Upstream
from synchro.server.passwords import make_verifier
from synchro.server.peer_access import Asker
from synchro.server.peer_messages import Hello
from synchro.server.peers import Peers
from synchro.storage import users as users_module
from synchro.storage.user_ops import UserDraft
from synchro.storage.users import (
    ADMIN,
    ENTER,
    REPLICATION,
    Caller,
    Grant,
    ObjectType,
    Privilege,
    User,
    UserKind,
    Users,
    first_users,
)
from synchro.vclock import EMPTY_VCLOCK
from tests.shell.memory_set import PATIENCE_S, create_space, put, until, write
from tests.shell.test_grpc_set import open_grpc_set

REPLICATOR, APP, READER = 4, 5, 6
LOGIN = PeerLogins(PeerLogin("replicator", Secret("topsecret")))
CALM_S = 2.0
"""A heartbeat so slow that a busy machine ends no stream for silence."""


@cache
def verifier() -> bytes:
    """One for all: another one, though of the same password, ends sessions as another password does."""
    return make_verifier("topsecret")


def users_of_the_set(*, guest_is_super: bool) -> tuple[list[User], list[Grant]]:
    """The guest has no rights; a peer, an application and a reader have a password."""
    users, grants = first_users(guest_is_super=False)
    for number, name in ((REPLICATOR, "replicator"), (APP, "app"), (READER, "reader")):
        users.append(User(number, name, UserKind.USER, ADMIN, verifier()))
        grants.append(Grant(ADMIN, number, ObjectType.UNIVERSE, 0, ENTER))
    grants += [
        Grant(ADMIN, REPLICATOR, ObjectType.ROLE, REPLICATION, Privilege.EXECUTE),
        Grant(ADMIN, APP, ObjectType.SPACE, 512, Privilege.READ | Privilege.WRITE),
        Grant(ADMIN, READER, ObjectType.UNIVERSE, 0, ENTER | Privilege.READ),
    ]
    return users, grants


@pytest.fixture
def known_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every instance, from its first moment."""
    monkeypatch.setattr(users_module, "first_users", users_of_the_set)


@asynccontextmanager
async def set_with_login(directory: Path, **changes: Any) -> AsyncIterator[tuple[Face, list[Face]]]:
    """Whoever leads, and all."""
    changes = {"replication_timeout_s": CALM_S, **changes}
    async with open_grpc_set(directory, peer_logins=LOGIN, **changes) as nodes:
        await until(lambda: any(face.node.is_ready and face.node.core.is_writable for face in nodes))
        leader = next(face for face in nodes if face.node.is_ready and face.node.core.is_writable)
        await create_space(leader)
        await until(lambda: all(face.node.is_ready and len(face.links.relays) == 2 for face in nodes))
        appliers = [one for face in nodes for one in face.links.appliers.values() if not one.is_off]
        await until(lambda: all(one.is_following for one in appliers))  # it hears of it after the relay
        yield leader, nodes


class Stranger:
    """A stub of grpcio that says what it likes. user: as whom it logs in; "": as guest."""

    def __init__(self, address: str, user: str = "") -> None:
        self._channel = grpc.insecure_channel(address)
        self.peer = replication_pb2_grpc.ReplicationServiceStub(self._channel)
        self.metadata: tuple[tuple[str, str], ...] = ()
        if user:
            auth = auth_pb2_grpc.AuthServiceStub(self._channel)
            reply = auth.Login(auth_pb2.LoginRequest(user=user, password="topsecret"), timeout=PATIENCE_S)
            self.metadata = (("authorization", f"Bearer {reply.session}"),)

    def refusal(self, call: Callable[..., Any], requests: list[Any]) -> tuple[str, str]:
        """Code and text of how a two-way stream ends; "": it was let in."""

        def said() -> Iterator[Any]:
            yield from requests

        try:
            answer = next(iter(call(said(), timeout=PATIENCE_S, metadata=self.metadata)))
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
        return "", str(answer)

    def close(self) -> None:
        self._channel.close()


def hello(face: Face, member: Face) -> pb.SubscribeRequest:
    """As `member` would say it to `face`."""
    return pb.SubscribeRequest(
        hello=pb.Hello(
            protocol_version=1,
            replicaset_uuid=face.node.replicaset_uuid,
            instance_uuid=member.node.uuid,
            name=member.node.settings.instance_name,
            term=1,
            credit=1 << 20,
            counts=True,
            synchro_quorum=2,
            takes_users=True,
            takes_policies=True,
        )
    )


def forged_ack() -> pb.SubscribeRequest:
    made = pb.SubscribeRequest()
    made.ack.vclock.update({1: 10**6, 2: 10**6, 3: 10**6})
    made.ack.counts = True
    return made


def tries(leader: Face, member: Face, user: str) -> dict[str, tuple[str, str]]:
    stranger = Stranger(leader.node.address, user)
    try:
        peer = stranger.peer
        join = pb.JoinRequest(
            protocol_version=1,
            instance_uuid="11111111-1111-4111-8111-111111111111",
            instance_name="stranger",
            takes_parts=True,
            takes_unnamed=True,
            takes_users=True,
            takes_policies=True,
        )
        said = hello(leader, member)
        return {
            "ack": stranger.refusal(peer.Subscribe, [said, forged_ack()]),
            "hello": stranger.refusal(peer.Subscribe, [said]),
            "join": stranger.refusal(peer.Join, [join]),
        }
    finally:
        stranger.close()


@pytest.mark.parametrize(
    ("user", "privileges"),
    [
        ("", ("Read access to universe ''",) * 3),
        ("app", ("Read access to universe ''",) * 3),
        ("reader", ("Write access to space '_cluster'",) * 3),
    ],
)
async def test_who_is_no_peer_is_refused_whatever_it_says(
    tmp_path: Path, known_users: None, user: str, privileges: tuple[str, str, str]
) -> None:
    """A forged ack, a Hello under the UUID of a member, a join: nothing of it is believed, nobody is cut."""
    async with set_with_login(tmp_path) as (leader, nodes):
        other = next(face for face in nodes if face is not leader)
        relay = leader.links.relays[other.node.core.self_id]
        found = await trio.to_thread.run_sync(partial(tries, leader, other, user))
        for (code, text), privilege in zip(found.values(), privileges, strict=True):
            assert code == "PERMISSION_DENIED"
            assert text == f"{privilege} is denied for user '{user or 'guest'}'"
        assert leader.links.relays[other.node.core.self_id] is relay and not relay.ended.is_set()
        acked = leader.links.downstreams[other.node.core.self_id].acked  # true acks may have come meanwhile
        assert leader.node.core.vclock.covers(acked)
        assert len(leader.node.core.memtx.catalog.members()) == 3
        assert not leader.links.doubles.lives(other.node.uuid, trio.current_time())
        assert isinstance(await write(leader, put(1, "x")), ev.Committed)


async def test_who_may_only_read_does_not_name_a_member_as_an_anonymous_follower(
    tmp_path: Path, known_users: None
) -> None:
    """Another life of a member, or of the one that is asked, would make it a double: it would neither count
    nor write. Under a UUID of its own it is served."""
    async with set_with_login(tmp_path) as (leader, nodes):
        other = next(face for face in nodes if face is not leader)

        def say(*uuids: str) -> list[tuple[str, str]]:
            stranger = Stranger(leader.node.address, "reader")
            try:
                found = []
                for uuid in uuids:
                    said = hello(leader, other)
                    said.hello.MergeFrom(
                        pb.Hello(
                            instance_uuid=uuid,
                            is_anonymous=True,
                            start_id="forged",
                            takes_policies=True,
                            takes_users=True,
                        )
                    )
                    found.append(stranger.refusal(stranger.peer.Subscribe, [said, said]))
                return found
            finally:
                stranger.close()

        uuids = (other.node.uuid, leader.node.uuid, "11111111-1111-4111-8111-111111111111")
        *refused, served = await trio.to_thread.run_sync(partial(say, *uuids))
        text = "Write access to space '_cluster' is denied for user 'reader'"
        assert refused == [("PERMISSION_DENIED", text)] * 2
        assert served[0] == ""
        assert not leader.links.is_doubled and not leader.links.lives_of(other.node.uuid)
        await until(lambda: any(face.node.core.is_writable for face in nodes))  # a busy one may have resigned
        writer = next(face for face in nodes if face.node.core.is_writable)
        assert isinstance(await write(writer, put(1, "x")), ev.Committed)


async def test_a_peer_with_the_role_is_let_in(tmp_path: Path, known_users: None) -> None:
    """What was refused above was refused for want of the role."""
    async with set_with_login(tmp_path) as (leader, nodes):
        other = next(face for face in nodes if face is not leader)
        found = await trio.to_thread.run_sync(partial(tries, leader, other, "replicator"))
        assert not [text for _, text in found.values() if "denied" in text], found


@pytest.mark.effect_of(
    "grpc.advertise.peer.login",
    "grpc.advertise.peer.password",
    "grpc.advertise.peer.password_file",
    "iproto.advertise.peer.login",
    "iproto.advertise.peer.password",
    "iproto.advertise.peer.password_file",
)
async def test_a_wrong_password_shows_in_status_until_it_is_right(tmp_path: Path, known_users: None) -> None:
    """[S-8]: with the message, while the stream goes on; `loading` when it is lost, and it comes by itself
    when the password fits."""
    async with set_with_login(tmp_path) as (leader, nodes):
        face = next(face for face in nodes if face is not leader)
        node = face.node
        wrong = PeerLogins(PeerLogin("replicator", Secret("hunter2")))
        node.change_settings(_with_logins(node.settings, wrong))
        applier = face.links.appliers[leader.node.settings.instance_name]
        await until(lambda: applier.facts().get("reason") == "BAD_CREDENTIALS")
        assert applier.facts()["status"] == "follow"
        applier.reset()
        assert not applier.is_following  # who waits for the next stream must not see the one that ends
        await until(lambda: applier.facts()["status"] == "loading")
        assert applier.facts()["message"] == "User not found or supplied credentials are invalid"
        assert applier.facts()["reason"] == "BAD_CREDENTIALS"
        assert "hunter2" not in str(applier.facts()) + repr(node.settings)
        node.change_settings(_with_logins(node.settings, LOGIN))
        await until(lambda: applier.facts()["status"] == "follow")


async def test_a_new_login_moves_one_stream_after_the_other(tmp_path: Path, known_users: None) -> None:
    """All were reset at once, and a healthy set lost its leader. ADR 43. There is one stream for each source
    before and after [L-27]."""
    async with set_with_login(tmp_path, replication_timeout_s=5.0) as (leader, nodes):
        users, grants = users_of_the_set(guest_is_super=False)
        grants.append(Grant(ADMIN, READER, ObjectType.ROLE, REPLICATION, Privilege.EXECUTE))
        for face in nodes:
            rows = [user.to_tuple() for user in users]
            face.instance.memtx.catalog.users.read(rows, [grant.to_tuple() for grant in grants])
        other = PeerLogins(PeerLogin("reader", Secret("topsecret")))
        await until(lambda: all(face.links.connected == 3 for face in nodes))
        most = 0
        for moving in (leader, *(face for face in nodes if face is not leader)):
            going_well = [one for one in moving.links.appliers.values() if one.is_following]
            assert len(going_well) == 2
            moving.node.change_settings(_with_logins(moving.node.settings, other))

            def has_moved(mine: Face = moving, streams: list[Upstream] = going_well) -> bool:
                nonlocal most
                most = max(most, sum(not one.is_following for one in streams))
                called = [face.links.callers[mine.node.uuid].name for face in nodes if face is not mine]
                moved = called == ["reader", "reader"]
                return moved and all(face.links.connected == 3 for face in nodes)

            await until(has_moved)
            assert [one for one in moving.links.appliers.values() if one.is_following] == going_well
            await until(lambda: all(len(face.links.relays) == 2 for face in nodes))
        assert most <= 1


async def test_a_wrong_login_ends_no_stream_that_goes_well(tmp_path: Path, known_users: None) -> None:
    """On all members at once: each says why, and the set goes on. ADR 43."""
    async with set_with_login(tmp_path, replication_timeout_s=5.0) as (leader, nodes):
        term = leader.node.core.raft.volatile_term
        wrong = PeerLogins(PeerLogin("replicator", Secret("hunter2")))
        for face in nodes:
            face.node.change_settings(_with_logins(face.node.settings, wrong))
        appliers = [one for face in nodes for one in face.links.appliers.values() if not one.is_off]
        await until(lambda: all(one.facts().get("reason") == "BAD_CREDENTIALS" for one in appliers))
        assert all(one.facts()["status"] == "follow" for one in appliers)
        assert leader.node.core.raft.volatile_term == term and leader.node.core.is_writable
        for face in nodes:
            face.node.change_settings(_with_logins(face.node.settings, LOGIN))
        await until(lambda: all(one.facts().get("reason") is None for one in appliers))


def _with_logins(settings: Any, logins: PeerLogins) -> Any:
    return replace(settings, peer_logins=logins)


def _without_role(face: Face) -> None:
    users, grants = users_of_the_set(guest_is_super=False)
    rows = [user.to_tuple() for user in users]
    face.instance.memtx.catalog.users.read(
        rows, [grant.to_tuple() for grant in grants if grant.object_id != REPLICATION]
    )


async def test_a_role_that_is_taken_away_ends_streams_that_are_open(
    tmp_path: Path, known_users: None
) -> None:
    async with set_with_login(tmp_path) as (leader, nodes):
        await until(lambda: len(leader.links.relays) == 2)
        _without_role(leader)
        await until(lambda: not leader.links.relays)
        other = next(face for face in nodes if face is not leader)
        applier = other.links.appliers[leader.node.settings.instance_name]
        await until(lambda: applier.facts().get("reason") == "ACCESS_DENIED")


async def test_a_password_that_changes_ends_streams_that_are_open(tmp_path: Path, known_users: None) -> None:
    async with set_with_login(tmp_path) as (leader, nodes):
        users, grants = users_of_the_set(guest_is_super=False)
        rows = [user._replace(verifier=None).to_tuple() for user in users]
        leader.instance.memtx.catalog.users.read(rows, [grant.to_tuple() for grant in grants])
        await until(lambda: not leader.links.relays)
        other = next(face for face in nodes if face is not leader)
        applier = other.links.appliers[leader.node.settings.instance_name]
        await until(lambda: applier.facts().get("reason") == "BAD_CREDENTIALS")
        assert InstanceId(1) in leader.node.core.memtx.catalog.members()


async def test_a_certificate_of_a_client_is_none_of_a_member_whatever_name_and_address_it_says(
    tmp_path: Path,
) -> None:
    """Where the guest may replicate: the UUID says as whom it would count, so its address is looked up."""
    async with open_grpc_set(tmp_path, replication_timeout_s=CALM_S) as nodes:
        await until(lambda: all(face.node.is_ready and len(face.links.relays) == 2 for face in nodes))
        first, second = nodes[:2]
        client = Asker(host="client.example", is_of=lambda host: host == "client.example")
        member = Asker(host="127.0.0.1", is_of=lambda host: host == "127.0.0.1")
        said = Hello(
            first.node.replicaset_uuid,
            second.node.uuid,
            "nobody",
            EMPTY_VCLOCK,
            Term(1),
            1,
            address="client.example:1",
        )
        peers = Peers(first.node, first.links)
        with pytest.raises(AccessDenied, match="may not speak as that instance"):
            peers.admit_subscriber(client, said)
        peers.admit_subscriber(member, said)


async def test_a_change_of_users_that_would_take_the_quorum_is_refused(tmp_path: Path) -> None:
    """Without logins all members call as the guest: without its rights the leader would be alone, and nobody
    could give them back."""
    async with open_grpc_set(tmp_path, replication_timeout_s=CALM_S) as nodes:
        await until(lambda: any(face.node.is_ready and face.node.core.is_writable for face in nodes))
        leader = next(face for face in nodes if face.node.is_ready and face.node.core.is_writable)
        await until(lambda: leader.links.connected == 3)

        def ask() -> str:
            with synchro.connect(leader.node.address, timeout=PATIENCE_S) as db:
                db.users.create("root", "topsecret")
                db.users.grant("root", "execute", "role", "super")
                try:
                    db.users.revoke("guest", "execute", "role", "super")
                except synchro.SynchroError as error:
                    return error.message
            return ""

        said = await trio.to_thread.run_sync(ask)
        others = [face.node.settings.instance_name for face in nodes if face is not leader]
        assert all(f"{name} (as 'guest')" in said for name in others) and "nothing was done" in said, said
        assert leader.links.connected == 3 and leader.node.core.is_writable


async def test_a_change_that_leaves_a_quorum_is_done(tmp_path: Path, known_users: None) -> None:
    """The members call by a login, so what the guest may do is nothing to them."""
    async with set_with_login(tmp_path) as (leader, _):
        guest_only = UserDraft((), ()).after()
        await until(lambda: leader.links.connected == 3)
        assert len(leader.quorum_without(guest_only)) == 2
        assert leader.quorum_without(leader.instance.memtx.catalog.users) == ()
        uuid = next(iter(leader.links.callers))
        leader.links.callers[uuid] = Caller(READER, "reader")
        assert leader.quorum_without(leader.instance.memtx.catalog.users) == ()  # one of three may go


async def test_streams_of_the_leader_that_still_call_as_the_guest_count(tmp_path: Path) -> None:
    """The others have a login by now; the guest loses its rights, and with them the leader its sources."""
    logged_in = Users()
    users, grants = users_of_the_set(guest_is_super=False)
    logged_in.read([user.to_tuple() for user in users], [grant.to_tuple() for grant in grants])
    async with open_grpc_set(tmp_path, replication_timeout_s=CALM_S) as nodes:
        await until(lambda: any(face.node.is_ready and face.node.core.is_writable for face in nodes))
        leader = next(face for face in nodes if face.node.is_ready and face.node.core.is_writable)
        await until(lambda: leader.links.connected == 3)
        for uuid in leader.links.callers:
            leader.links.callers[uuid] = Caller(REPLICATOR, "replicator")
        own = leader.node.settings.instance_name
        others = {str(face.node.settings.instance_name) for face in nodes if face is not leader}
        assert set(leader.quorum_without(logged_in)) == {f"{own} at {name} (as 'guest')" for name in others}


async def test_a_password_of_peers_changes_when_they_have_it_in_their_file(tmp_path: Path) -> None:
    """S26: whoever has another password may not go on, so a change by itself would end the quorum."""
    admin = ConfiguredUser("admin", password=Secret("topsecret"))
    first = Credentials(
        (admin, ConfiguredUser("replicator", password=Secret("topsecret"), roles=("replication",)))
    )

    def said(call: Callable[[Any], object]) -> str:
        where = f"admin:topsecret@{leader.node.address}"
        with synchro.connect(where, timeout=PATIENCE_S) as db:
            try:
                call(db)
            except synchro.SynchroError as error:
                return error.message
        return ""

    async def call_as(user: str, password: str) -> None:
        logins = PeerLogins(PeerLogin(user, Secret(password)))
        for face in nodes:
            face.node.change_settings(replace(face.node.settings, peer_logins=logins))

    async with open_grpc_set(
        tmp_path, credentials=first, peer_logins=LOGIN, replication_timeout_s=CALM_S
    ) as nodes:
        await until(lambda: any(face.node.is_ready and face.node.core.is_writable for face in nodes))
        leader = next(face for face in nodes if face.node.is_ready and face.node.core.is_writable)
        await until(lambda: leader.links.connected == 3)
        for make in (
            lambda db: db.users.create("peers", "first"),
            lambda db: db.users.grant("peers", "execute", "role", "replication"),
        ):
            assert await trio.to_thread.run_sync(said, make) == ""
        await call_as("peers", "first")
        callers = leader.links.callers
        await until(lambda: [one.name for one in callers.values()] == ["peers"] * 2)
        await until(lambda: leader.links.connected == 3 and leader.node.core.is_writable)

        def change(db: Any) -> None:
            db.users.set_password("second", "peers")

        refused = await trio.to_thread.run_sync(said, change)
        others = [face.node.settings.instance_name for face in nodes if face is not leader]
        assert all(f"{name} (as 'peers')" in refused for name in others) and "nothing was done" in refused
        assert leader.links.connected == 3
        await call_as("peers", "second")  # refused for now: streams go on
        assert await trio.to_thread.run_sync(said, change) == ""
        await until(lambda: all(len(face.links.relays) == 2 for face in nodes))


async def test_a_file_takes_nothing_from_peers_before_they_call_as_somebody_else(tmp_path: Path) -> None:
    """One reload of the leader alone took the quorum, and no change could bring it back. ADR 42"""

    def file_with(*peers: str) -> Credentials:
        users = [ConfiguredUser(name, password=Secret("topsecret"), roles=("replication",)) for name in peers]
        return Credentials((ConfiguredUser("admin", password=Secret("topsecret")), *users))

    first: dict[str, Any] = {"credentials": file_with("replicator"), "peer_logins": LOGIN}
    async with open_grpc_set(tmp_path, replication_timeout_s=CALM_S, **first) as nodes:
        await until(lambda: any(face.node.is_ready and face.node.core.is_writable for face in nodes))
        leader = next(face for face in nodes if face.node.is_ready and face.node.core.is_writable)
        await until(lambda: leader.links.connected == 3)
        leader.node.configuration = config = LiveConfig(
            leader.node, config_of_flags(leader.node.settings, "")
        )
        second = file_with("other")
        leader.node.change_settings(replace(leader.node.settings, credentials=second))
        await until(lambda: bool(leader.node.user_problems))
        assert "(as 'replicator')" in leader.node.user_problems[0]
        assert [alert["message"] for alert in config.facts()["alerts"]] == list(leader.node.user_problems)
        assert {"replicator", "other"} <= {user.name for user in leader.users.users.values()}
        assert leader.links.connected == 3
        other = PeerLogins(PeerLogin("other", Secret("topsecret")))
        for face in nodes:
            settings = replace(face.node.settings, credentials=second, peer_logins=other)
            face.node.change_settings(settings)
        await until(lambda: "replicator" not in {user.name for user in leader.users.users.values()})
        await until(lambda: not leader.node.user_problems)  # its own answer comes a moment after the row
        await until(lambda: leader.node.core.is_writable and leader.links.connected == 3)
