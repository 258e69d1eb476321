"""Every method of a running instance, asked by who may not: refused by name, and nothing done. [S-6], [S-12]

What is served is read from the descriptors of the server itself, so a new method is asked too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
import structlog
import trio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from synchro.config import ConfiguredUser, Credentials, Settings
from synchro.errors import SynchroError
from synchro.instance import events as ev
from synchro.process.supervise import run_instance
from synchro.row import RowType
from synchro.rpc.calls import RpcCall
from synchro.rpc.channel import RpcChannel
from synchro.rpc.generated.fault.v1 import fault_pb2
from synchro.rpc.generated.peer.v1 import replication_pb2
from synchro.rpc.generated.v1 import (
    auth_pb2,
    cluster_pb2,
    common_pb2,
    control_pb2,
    data_pb2,
    info_pb2,
    schema_pb2,
)
from synchro.rpc.host import open_rpc_host
from synchro.rpc.status import from_rpc_error, from_status
from synchro.secret import Secret
from synchro.server.face import Face
from synchro.server.peer_messages import PROTOCOL_VERSION
from synchro.storage.row_body import dml_from_values
from synchro.storage.schema import PRIV_ID, SPACE_ID, USER_ID
from synchro.storage.user_ops import Target, UserDraft
from synchro.storage.users import GUEST_CALLER, Caller, ObjectType, Privilege
from synchro.wire.failure import CallFailed
from tests import messages
from tests.shell.memory_set import create_space, put, until, write

FILES = (auth_pb2, cluster_pb2, control_pb2, data_pb2, info_pb2, schema_pb2, fault_pb2, replication_pb2)
OPEN = {
    "GetBallot",  # [S-7]
    "WatchInfo",  # no more than the ballot: who leads, and whether it takes writes
    "WaitInfo",  # the same
    "Login",  # who logs in is nobody yet
    "Logout",
}
"""Methods for everybody. Health and reflection are of other packages, and are open too."""
LOOK = {"GetInfo", "GetSynchro", "ListQueue", "ListInstances", "ListSequences", "ListSpaces", "ListUsers"}
LOOK |= {"WaitTransaction", "WatchTransaction", "CheckPromote"}
LOOK |= {"Transact"}  # to begin a transaction does nothing
"""For everybody who logged in."""
THE_SPACE = Target(ObjectType.SPACE, 512, "")
STRANGER = "99999999-2222-3333-4444-555555555555"


class Served(NamedTuple):
    face: Face
    channel: RpcChannel


@asynccontextmanager
async def serving(directory: Path, *users: ConfiguredUser) -> AsyncIterator[Served]:
    """A new instance, alone, whose guest may do nothing; with the space 512 and a row in it."""
    admin = ConfiguredUser("admin", password=Secret("secret"))
    settings = Settings(
        wal_dir=str(directory),
        snapshot_dir=str(directory),
        credentials=Credentials((admin, *users)),
        fault_injection=True,
    )
    stop = trio.Event()
    with trio.fail_after(30):
        async with open_rpc_host() as host, trio.open_nursery() as nursery:

            async def run(*, task_status: trio.TaskStatus[Face]) -> None:
                await run_instance(
                    settings, host=host, log=structlog.get_logger(), stop=stop, task_status=task_status
                )

            face = await nursery.start(run)
            await until(lambda: face.node.is_ready)
            await create_space(face, is_sync=False)
            assert isinstance(await write(face, put(1)), ev.Committed)
            async with host.channel(face.node.listen) as channel:
                yield Served(face, channel)
            stop.set()


def methods() -> Iterator[MethodDescriptor]:
    for file in FILES:
        service: ServiceDescriptor
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def request_of(method: MethodDescriptor) -> Any:
    """One that would do something, if it were not refused."""
    row = msgpack.packb((2, "y"))
    fields: dict[str, dict[str, Any]] = {
        "Execute": {"ops": [messages.op(insert={"space_id": 512, "tuple": row})]},
        "Select": {"space_id": 512},
        "CreateSpace": {"name": "mine"},
        "CreateIndex": {"space": "512", "name": "more"},
        "AlterSpace": {"space": "512", "name": "other"},
        "TruncateSpace": {"space": "512"},
        "DropSpace": {"space": "512"},
        "DropIndex": {"space": "512", "name": "primary"},
        "ChecksumSpace": {"space": "512"},
        "SetConfig": {"key": "log.level", "value": "debug"},
        "RestartUpstream": {"instance": "1"},
        "CreateUser": {"name": "mine"},
        "SetPassword": {"name": "admin", "password": "x"},
        "DropUser": {"name": "admin"},
        "Grant": {"grantee": "guest", "privileges": ["read"], "object_type": "universe"},
        "Revoke": {"grantee": "guest", "privileges": ["usage"], "object_type": "universe"},
        "SetFailpoint": {"name": "wal.delay", "action": fault_pb2.FAILPOINT_ACTION_ON},
    }
    fields["Register"] = {"protocol_version": PROTOCOL_VERSION, "instance_uuid": STRANGER}
    fields["GetReadPosition"] = {"protocol_version": PROTOCOL_VERSION}
    return GetMessageClass(method.input_type)(**fields.get(method.name, {}))


async def refusal(served: Served, method: MethodDescriptor, request: Any) -> SynchroError | None:
    """What it is refused with; None: it was not."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    coded: dict[str, Any] = {
        "serializer": GetMessageClass(method.input_type).SerializeToString,
        "deserializer": GetMessageClass(method.output_type).FromString,
    }
    try:
        if method.client_streaming:
            async with served.channel.duplex(path, timeout=10, **coded) as stream:
                stream.send_nowait(_first(method))
                reply = await stream.receive()
                if method.name == "ExecuteStream":
                    return from_status(reply.results[0].error)
        elif method.server_streaming:
            async with served.channel.server_stream(path, request, timeout=10, **coded) as replies:
                await replies.__anext__()
        else:
            await served.channel.unary(path, request, timeout=10, **coded)
    except CallFailed as error:
        return from_rpc_error(error) or SynchroError(str(error))
    return None


def _first(method: MethodDescriptor) -> Any:
    row = msgpack.packb((2, "y"))
    match method.name:
        case "ExecuteStream":
            op = messages.op(insert={"space_id": 512, "tuple": row})
            return messages.frame(calls=[{"seq": 1, "ops": [op]}])
        case "Transact":
            return data_pb2.TransactRequest(begin=messages.begin())
        case "Join" | "FetchSnapshot":
            return replication_pb2.JoinRequest(
                protocol_version=PROTOCOL_VERSION, instance_uuid=STRANGER, instance_name="stranger"
            )
        case "Subscribe":
            request = replication_pb2.SubscribeRequest()
            request.hello.protocol_version = PROTOCOL_VERSION
            request.hello.instance_uuid = STRANGER
            return request
    raise AssertionError(f"what does a stream of {method.name} begin with?")


def state(face: Face) -> Any:
    core = face.node.core
    return core.vclock, core.memtx.freeze(), core.raft.term, face.node.settings, face.links.joins.copy()


async def refusals(served: Served) -> dict[str, SynchroError | None]:
    return {method.name: await refusal(served, method, request_of(method)) for method in methods()}


async def test_the_guest_without_rights_gets_nothing_done_by_any_method(tmp_path: Path) -> None:
    """[S-6]: ACCESS_DENIED, by whatever service."""
    async with serving(tmp_path) as served:
        before = state(served.face)
        found = await refusals(served)
        assert state(served.face) == before
    refused = {name for name, error in found.items() if error is not None and error.reason == "ACCESS_DENIED"}
    assert found.keys() - refused <= OPEN
    assert len(refused) > 35


async def test_who_logged_in_may_look_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S-4]: a new user, and all that it was not granted."""
    async with serving(tmp_path, ConfiguredUser("bob")) as served:
        bob = served.face.users.user("bob").caller
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: bob))
        before = state(served.face)
        found = await refusals(served)
        assert state(served.face) == before
    allowed = {name for name, error in found.items() if error is None or error.reason != "ACCESS_DENIED"}
    assert allowed - OPEN == LOOK


async def test_all_paths_that_are_served_are_among_those(tmp_path: Path) -> None:
    """A service that is not in the list above would be asked by nobody."""
    known = {f"/{method.containing_service.full_name}/{method.name}" for method in methods()}
    async with serving(tmp_path) as served:
        (server,) = served.face.node._hooks._servers  # type: ignore[attr-defined]
        paths = {path.decode() for path in server._methods}
    assert {path for path in paths if path.startswith("/synchro.")} == known
    others = {path.split("/")[1] for path in paths if not path.startswith("/synchro.")}
    assert others == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


# --- what a call may do follows its user -----------------------------------------------------------------


def allow(face: Face, name: str, privileges: Privilege, target: Target = THE_SPACE) -> None:
    """As a grant that another instance made: the rows are there at once."""
    memtx = face.node.core.memtx
    draft = UserDraft(memtx.prepared_rows(USER_ID), memtx.prepared_rows(PRIV_ID))
    grantee = next(user for user in draft.users.values() if user.name == name)
    draft.grant(grantee, privileges, target)
    memtx.commit(memtx.prepare(draft.ops()))


async def select(served: Served, **fields: Any) -> Any:
    return await served.channel.unary(
        "/synchro.v1.DataService/Select",
        data_pb2.SelectRequest(**fields),
        serializer=data_pb2.SelectRequest.SerializeToString,
        deserializer=data_pb2.SelectResponse.FromString,
        timeout=10,
    )


def rows_of(reply: Any) -> list[Any]:
    return [msgpack.unpackb(one.msgpack) for one in reply.tuples]


async def test_a_grant_counts_from_the_next_call_on(tmp_path: Path) -> None:
    """On a stream that was open before, too."""
    (stream,) = [method for method in methods() if method.name == "ExecuteStream"]
    coded: dict[str, Any] = {
        "serializer": GetMessageClass(stream.input_type).SerializeToString,
        "deserializer": GetMessageClass(stream.output_type).FromString,
    }
    async with serving(tmp_path) as served:
        path = f"/{stream.containing_service.full_name}/{stream.name}"
        async with served.channel.duplex(path, timeout=10, **coded) as duplex:
            for is_allowed in (False, True):
                if is_allowed:
                    allow(served.face, "guest", Privilege.READ | Privilege.WRITE)
                duplex.send_nowait(_first(stream))
                (result,) = (await duplex.receive()).results
                assert result.HasField("error") is not is_allowed
        assert rows_of(await select(served, space_id=512)) == [[1, "x"], [2, "y"]]


async def test_an_operator_does_not_say_whose_rows_count(tmp_path: Path) -> None:
    """Rows of a source are taken without asking, those of users too; and a password file is shown to it."""
    (method,) = [method for method in methods() if method.name == "SetConfig"]
    request = GetMessageClass(method.input_type)

    async def refused(key: str, value: str) -> str:
        error = await refusal(served, method, request(key=key, value=value))
        return "" if error is None else error.reason

    async with serving(tmp_path) as served:
        allow(served.face, "guest", Privilege.EXECUTE, Target(ObjectType.UNIVERSE, 0, ""))
        before = served.face.node.settings
        for key, value in (
            ("replication.peers", "['127.0.0.1:9']"),
            ("grpc.advertise.peer.password_file", "/etc/shadow"),
            ("iproto.advertise.peer.login", "replicator"),
            (" grpc.advertise.peer.password", "x"),
        ):
            assert await refused(key, value) == "ACCESS_DENIED", key
        assert served.face.node.settings == before
        assert await refused("log.level", "debug") != "ACCESS_DENIED"


async def test_one_sequence_may_be_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[S-3]: by its name; it goes with the sequence, and another one of that name is another one."""
    by_name = {method.name: method for method in methods()}
    async with serving(tmp_path, ConfiguredUser("bob")) as served:
        callers = {name: served.face.users.user(name).caller for name in ("admin", "bob")}
        who = "admin"
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: callers[who]))

        async def call(verb: str, **fields: Any) -> str:
            method = by_name[verb]
            error = await refusal(served, method, GetMessageClass(method.input_type)(**fields))
            return "" if error is None else error.message

        granted = {"grantee": "bob", "privileges": ["write"], "object_type": "sequence"}
        for name in ("ids", "others"):
            assert not await call("CreateSequence", name=name)
        assert "Sequence 'none' does not exist" in await call("Grant", object="none", **granted)
        assert not await call("Grant", object="ids", **granted)
        (grant,) = [one for one in served.face.users.grants[callers["bob"].id] if one.type == "sequence"]
        assert grant.object_id == served.face.node.core.memtx.catalog.sequences.named("ids").id

        who = "bob"
        assert not await call("NextSequenceValue", sequence="ids")
        assert not await call("SetSequence", sequence="ids", last=7)
        for name in ("others", "none"):
            assert await call("NextSequenceValue", sequence=name) == (
                f"Write access to sequence '{name}' is denied for user 'bob'"
            )
        assert "Drop access to sequence 'ids'" in await call("DropSequence", sequence="ids")
        assert "Create access to sequence ''" in await call("CreateSequence", name="mine")

        who = "admin"
        assert not await call("DropSequence", sequence="ids")
        assert not await call("CreateSequence", name="ids")
        who = "bob"
        assert "is denied" in await call("NextSequenceValue", sequence="ids")


async def test_a_retry_hears_what_it_did_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may alter one space renames or drops it, and asks again; the id of the request opens no other
    one."""
    by_name = {method.name: method for method in methods()}
    async with serving(tmp_path, ConfiguredUser("bob")) as served:
        memtx = served.face.node.core.memtx
        bob = served.face.users.user("bob").caller
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: bob))
        allow(served.face, "bob", Privilege.ALTER | Privilege.DROP)
        name, ids = memtx.catalog.space(512).name, {"AlterSpace": b"a" * 16, "DropSpace": b"d" * 16}

        async def reason(method: str, **fields: Any) -> str:
            request = GetMessageClass(by_name[method].input_type)(**fields)
            error = await refusal(served, by_name[method], request)
            return "" if error is None else error.reason

        for _ in range(2):
            assert not await reason("AlterSpace", space=name, name="other", request_id=ids["AlterSpace"])
        assert await reason("AlterSpace", space=name, name="other") == "ACCESS_DENIED"
        for request_id in (b"x" * 16, ids["AlterSpace"]):
            assert await reason("DropSpace", space="_schema", request_id=request_id) == "ACCESS_DENIED"
        for _ in range(2):
            assert not await reason("DropSpace", space="other", request_id=ids["DropSpace"])
        assert await reason("DropSpace", space="other") == "ACCESS_DENIED"


async def test_a_grant_that_outlives_its_sequence_is_of_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grant and the drop of what it names may meet."""
    by_name = {method.name: method for method in methods()}
    async with serving(tmp_path, ConfiguredUser("bob")) as served:
        admin = served.face.users.user("admin").caller
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: admin))
        allow(served.face, "bob", Privilege.WRITE, Target(ObjectType.SEQUENCE, 1, "gone"))
        create = GetMessageClass(by_name["CreateSequence"].input_type)(name="ids")
        assert await refusal(served, by_name["CreateSequence"], create) is None
        assert served.face.node.core.memtx.catalog.sequences.named("ids").id == 2


async def test_of_calls_that_come_together_each_has_its_own_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ADR 13: they may share a transaction, not what they may do."""
    async with serving(tmp_path, ConfiguredUser("bob")) as served:
        bob = served.face.users.user("bob").caller
        allow(served.face, "bob", Privilege.WRITE)
        callers: dict[int, tuple[Any, Caller]] = {}
        """With the calls, or a later one might be taken for one that is over."""

        def caller(call: Any) -> Caller:
            made = call, GUEST_CALLER if len(callers) % 3 == 0 else bob
            return callers.setdefault(id(call), made)[1]

        monkeypatch.setattr(RpcCall, "caller", property(caller))
        (execute,) = [method for method in methods() if method.name == "Execute"]
        found: list[SynchroError | None] = []

        async def insert(number: int) -> None:
            op = messages.op(insert={"space_id": 512, "tuple": msgpack.packb((number, "z"))})
            found.append(await refusal(served, execute, messages.request(ops=[op])))

        async with trio.open_nursery() as nursery:
            for number in range(10, 40):
                nursery.start_soon(insert, number)
        denied = [error for error in found if error is not None]
        assert len(denied) == 10 and {error.reason for error in denied} == {"ACCESS_DENIED"}
        assert served.face.node.core.memtx.count(512) == 1 + 20


async def test_a_condition_is_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[D-42]: it tells what it found; an update that must match tells no more than one that need not."""
    async with serving(tmp_path, ConfiguredUser("bob")) as served:
        bob = served.face.users.user("bob").caller
        allow(served.face, "bob", Privilege.WRITE)
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: bob))
        (execute,) = [method for method in methods() if method.name == "Execute"]
        where = {"space_id": 512, "key": msgpack.packb((7,))}
        update = messages.op(update_existing={**where, "ops": msgpack.packb(())})

        async def reason(*ops: Any) -> tuple[str, str]:
            error = await refusal(served, execute, messages.request(ops=ops))
            assert error is not None
            return error.reason, error.message

        assert (await reason(update))[0] == "CONDITION_FAILED"
        check = messages.op(check={**where, "kind": data_pb2.CHECK_KIND_PRESENT})
        put_one = messages.op(replace={"space_id": 512, "tuple": msgpack.packb((8, "y"))})
        assert (await reason(check, put_one))[0] == "ACCESS_DENIED"
        for name in ("_space", "nowhere"):  # one is there, one is not
            elsewhere = messages.op(check={"space": name, "key": where["key"], "kind": 2})
            assert (await reason(elsewhere, put_one))[
                1
            ] == f"Read access to space '{name}' is denied for user 'bob'"
        allow(served.face, "bob", Privilege.READ | Privilege.WRITE)
        assert (await reason(check, put_one))[0] == "CONDITION_FAILED"
        assert served.face.node.core.memtx.count(512) == 1


async def test_an_open_transaction_may_what_its_user_may_at_each_statement_and_at_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[D-43]: a statement that is denied did nothing; what is denied by then is not committed."""
    (transact,) = [method for method in methods() if method.name == "Transact"]
    coded: dict[str, Any] = {
        "serializer": GetMessageClass(transact.input_type).SerializeToString,
        "deserializer": GetMessageClass(transact.output_type).FromString,
    }
    put_two = {"op": messages.op(insert={"space_id": 512, "tuple": msgpack.packb((2, "y"))})}
    key = msgpack.packb((1,))
    look = {"op": messages.op(check={"space_id": 512, "key": key, "kind": "CHECK_KIND_PRESENT"})}
    read = {"select": messages.select(space_id=512)}
    elsewhere = {"select": messages.select(space="nowhere")}

    async with serving(tmp_path, ConfiguredUser("bob")) as served:
        bob = served.face.users.user("bob").caller
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: bob))

        async def told(*steps: Any) -> list[str]:
            """Outcomes; of one that was refused the reason."""
            found = []
            try:
                async with served.channel.duplex(
                    f"/{transact.containing_service.full_name}/Transact", timeout=10, **coded
                ) as stream:
                    for step in ({"begin": messages.begin()}, *steps):
                        if callable(step):
                            step()
                            continue
                        stream.send_nowait(data_pb2.TransactRequest(**step))
                        reply = await stream.receive()
                        kind = reply.WhichOneof("outcome")
                        error = from_status(reply.refused) if kind == "refused" else None
                        found.append(kind if error is None else error.reason)
            except CallFailed as failed:
                ended = from_rpc_error(failed)
                assert ended is not None
                found.append(ended.reason)
            return found

        commit = {"commit": messages.commit()}
        denied = "ACCESS_DENIED"
        assert await told(put_two, look, read, elsewhere, commit) == ["begun", *[denied] * 4, "committed"]
        allow(served.face, "bob", Privilege.WRITE)
        assert await told(look, read, put_two) == ["begun", denied, denied, "tuple"]
        allow(served.face, "bob", Privilege.READ | Privilege.WRITE)

        def take_away() -> None:
            monkeypatch.setattr(RpcCall, "caller", property(lambda _: GUEST_CALLER))

        assert await told(put_two, take_away, commit) == ["begun", "tuple", denied]
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: bob))
        assert await told(read, take_away, commit) == ["begun", "rows", denied]
        assert served.face.node.core.memtx.count(512) == 1
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: bob))
        assert await told(look, read, put_two, commit) == ["begun", "tuple", "rows", "tuple", "committed"]
        assert served.face.node.core.memtx.count(512) == 2

        calls: list[RpcCall] = []
        monkeypatch.setattr(RpcCall, "caller", property(lambda call: calls.append(call) or bob))  # type: ignore[func-returns-value]
        remove = {"op": messages.op(delete={"space_id": 512, "key": key})}
        ended = await told(remove, lambda: calls[-1]._end_with_session(), commit)
        assert ended == ["begun", "tuple", "TRANSACTION_ABORTED"]  # and not that the outcome is unknown
        assert served.face.node.core.memtx.count(512) == 2


@pytest.mark.parametrize("fields", [{}, {"min_vclock": {1: 1}}])
@pytest.mark.parametrize("space", ["_user", "nowhere"])
async def test_names_of_spaces_are_not_told_to_who_may_not_read_them(
    tmp_path: Path, space: str, fields: dict[str, Any]
) -> None:
    """QS-2: one is there, one is not, and the guest hears the same; behind a wait too."""
    async with serving(tmp_path) as served:
        with pytest.raises(CallFailed) as caught:
            await select(served, space=space, **fields)
        error = from_rpc_error(caught.value)
        assert error is not None
        assert error.message == f"Read access to space '{space}' is denied for user 'guest'"


async def test_a_read_waits_for_the_grant_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S-6]: by `min_vclock`, as for any other row."""
    async with serving(tmp_path, ConfiguredUser("bob")) as served:
        core, found = served.face.node.core, list[Any]()
        bob, asked = served.face.users.user("bob").caller, list[RpcCall]()
        monkeypatch.setattr(RpcCall, "caller", property(lambda call: asked.append(call) or bob))  # type: ignore[func-returns-value]
        wanted = {int(core.self_id): int(core.vclock.get(core.self_id)) + 1}

        async def read() -> None:
            found.extend(rows_of(await select(served, space="space512", min_vclock=wanted)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await until(lambda: bool(asked))
            allow(served.face, "bob", Privilege.READ)
            assert isinstance(await write(served.face, put(2)), ev.Committed)
        assert found == [[1, "x"], [2, "x"]]


async def test_nobody_sees_what_is_kept_of_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor admin, nor who replicates and reads all."""
    async with serving(tmp_path) as served:
        admin = served.face.users.user("admin")
        assert admin.verifier
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: admin.caller))
        fields: dict[str, Any]
        for fields in ({}, {"limit": 1}, {"encoding": common_pb2.ENCODING_JSON}, {"min_vclock": {1: 1}}):
            reply = await select(served, space="_user", **fields)
            assert admin.verifier not in reply.SerializeToString()
        rows = rows_of(await select(served, space="_user"))
        assert ["admin", "user", {"scrypt": None}] in [row[2:5] for row in rows]


UNWRITTEN: Sequence[tuple[str, tuple[Any, ...]]] = (
    ("_user", (9, 1, "eve", "user", {})),
    ("_priv", (1, 0, "universe", 0, 255)),
)


@pytest.mark.parametrize(("space", "row"), UNWRITTEN)
async def test_users_are_changed_by_their_commands_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: str, row: tuple[Any, ...]
) -> None:
    """Not even by admin: rows as data go past what the commands look at."""
    async with serving(tmp_path) as served:
        admin = served.face.users.user("admin").caller
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: admin))
        (execute,) = [method for method in methods() if method.name == "Execute"]
        op = messages.op(replace={"space": space, "tuple": msgpack.packb(row)})
        error = await refusal(served, execute, messages.request(ops=[op]))
        assert error is not None and error.reason == "UNSUPPORTED"


async def test_who_owns_a_space_grants_on_no_other_that_has_its_id_as_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The space "513" is not the space 513, which it owns."""
    (grant,) = [method for method in methods() if method.name == "Grant"]
    async with serving(tmp_path, ConfiguredUser("bob")) as served:
        bob = served.face.users.user("bob").caller
        for number, owner, name in ((513, bob.id, "mine"), (514, 1, "513")):
            row: Any = (number, owner, name, "memtx", 0, {}, ())
            outcome = await write(served.face, dml_from_values(RowType.INSERT, SPACE_ID, value=row))
            assert isinstance(outcome, ev.Committed), outcome
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: bob))
        found: dict[str, SynchroError | None] = {}
        for space in ("513", "mine", "514", "515"):
            request = auth_pb2.GrantRequest(
                grantee="guest", privileges=["read"], object_type="space", object=space
            )
            found[space] = await refusal(served, grant, request)
        assert found.pop("mine") is None
        assert {error.reason for error in found.values() if error is not None} == {"ACCESS_DENIED"}
        assert None not in found.values()


async def test_the_last_administrator_who_can_log_in_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`revoke guest super` in a set where nobody has a password would lock everybody out."""
    by_name = {method.name: method for method in methods()}
    revoke, drop, password = by_name["Revoke"], by_name["DropUser"], by_name["SetPassword"]
    asked: dict[str, Any] = {"privileges": ["execute"], "object_type": "role", "object": "super"}
    async with serving(tmp_path, ConfiguredUser("root", password=Secret("x"), roles=("super",))) as served:
        memtx = served.face.node.core.memtx
        draft = UserDraft(memtx.prepared_rows(USER_ID), memtx.prepared_rows(PRIV_ID))
        draft.users[1] = draft.users[1]._replace(verifier=None)
        memtx.commit(memtx.prepare(draft.ops()))
        monkeypatch.setattr(RpcCall, "caller", property(lambda _: served.face.users.user("admin").caller))
        before = served.face.node.core.vclock
        for method, request in (
            (revoke, auth_pb2.RevokeRequest(grantee="root", **asked)),
            (drop, auth_pb2.DropUserRequest(name="root")),
        ):
            error = await refusal(served, method, request)
            assert error is not None and error.reason == "UNSUPPORTED" and "admin" in error.message
        assert served.face.node.core.vclock == before
        new = auth_pb2.SetPasswordRequest(name="admin", password="y")
        assert await refusal(served, password, new) is None
        assert await refusal(served, revoke, auth_pb2.RevokeRequest(grantee="root", **asked)) is None
