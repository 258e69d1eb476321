"""The three clients log in where they call, and again when their session is not known any more. ADR 43."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from synchro import errors
from synchro.errors import BadCredentials, SessionUnknown
from synchro.rpc.generated.v1 import auth_pb2
from synchro.rpc.status import to_status
from tests.shell.fake_server import FakeServer
from tests.shell.test_client_faces import faces, tell

LOGIN = "/synchro.v1.AuthService/Login"


class Doorman(grpc.ServerInterceptor):
    """Lets nobody in without a session of its own. `logins`: what it was told."""

    def __init__(self) -> None:
        self.logins: list[tuple[str, str]] = []
        self.known: set[str] = set()
        self.refused = 0
        self.password = "topsecret"

    def intercept_service(self, continuation: Callable[..., Any], details: Any) -> Any:
        if details.method == LOGIN:
            return grpc.unary_unary_rpc_method_handler(
                self._log_in,
                request_deserializer=auth_pb2.LoginRequest.FromString,
                response_serializer=auth_pb2.LoginResponse.SerializeToString,
            )
        handler = continuation(details)
        if dict(details.invocation_metadata).get("authorization") in self.known:
            return handler
        self.refused += 1
        return _refusing(handler)

    def _log_in(self, request: auth_pb2.LoginRequest, context: Any) -> auth_pb2.LoginResponse:
        self.logins.append((request.user, request.password))
        if request.password != self.password:
            error = BadCredentials("User not found or supplied credentials are invalid")
            context.abort_with_status(rpc_status.to_status(to_status(error)))
        token = f"t{len(self.logins)}"
        self.known.add(f"Bearer {token}")
        return auth_pb2.LoginResponse(session=token)


def _refusing(handler: Any) -> Any:
    def refuse(_request: Any, context: Any) -> Any:
        status = to_status(SessionUnknown("the session is not known here; nothing was done"))
        context.abort_with_status(rpc_status.to_status(status))

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def doormen() -> list[Doorman]:
    return [Doorman(), Doorman()]


@pytest.fixture
def servers(doormen: list[Doorman]) -> Iterator[list[FakeServer]]:
    made = [
        FakeServer(number, interceptors=[doorman])  # type: ignore[abstract]
        for number, doorman in enumerate(doormen, 1)
    ]
    made[0].lead(*made)
    yield made
    for server in made:
        server.stop()


@faces
def test_a_client_logs_in_once_at_each_instance(
    face: str, servers: list[FakeServer], doormen: list[Doorman]
) -> None:
    async def story(db: Any) -> None:
        for number in range(5):
            await db.space("bands").insert([number])
        assert len([row async for row in db.space("bands").iter()]) == 5
        async for state in db.watch_info():
            assert state
            break

    tell(face, servers, story, user="app", password="topsecret")
    assert [doorman.logins for doorman in doormen] == [[("app", "topsecret")]] * 2
    assert [doorman.refused for doorman in doormen] == [0, 0]


@faces
def test_a_session_that_is_not_known_is_opened_again_once_and_nothing_is_done_twice(
    face: str, servers: list[FakeServer], doormen: list[Doorman]
) -> None:
    """As after a restart of the instance: each call comes through, each write is done once."""

    async def story(db: Any) -> None:
        await db.space("bands").insert([1])
        for doorman in doormen:
            doorman.known.clear()
        assert [row[0] async for row in db.space("bands").iter()] == [1]
        await db.space("bands").insert([2])

    tell(face, servers, story, user="app", password="topsecret")
    assert servers[0].rows == [[1], [2]]
    assert len(doormen[0].logins) == 2 and doormen[0].refused == 1


@faces
def test_a_write_on_a_new_stream_with_a_former_session_is_done_once(
    face: str, servers: list[FakeServer], doormen: list[Doorman]
) -> None:
    """The stream of writes itself is refused: nothing of it was looked at, so it is sent again."""

    async def story(db: Any) -> None:
        async for _ in db.space("bands").iter():
            pass
        doormen[0].known.clear()
        await db.space("bands").insert([1])

    tell(face, servers, story, user="app", password="topsecret")
    assert servers[0].rows == [[1]] and len(servers[0].calls) == 1
    assert len(doormen[0].logins) == 2 and doormen[0].refused == 1


@faces
def test_an_instance_that_never_knows_its_sessions_is_asked_twice(
    face: str, servers: list[FakeServer], doormen: list[Doorman]
) -> None:
    """No loop: the refusal reaches the caller."""

    async def story(db: Any) -> None:
        await db.space("bands").insert([1])
        for doorman in doormen:
            doorman.known = _Forgetful()
        with pytest.raises(errors.SessionUnknown):
            await db.get_info() if face != "blocking" else await db.list_instances()

    tell(face, servers[:1], story, user="app", password="topsecret", timeout=3)
    assert doormen[0].refused == 2


class _Forgetful(set[str]):
    def add(self, element: str) -> None:
        pass


@faces
def test_a_wrong_password_is_tried_once_and_shown_nowhere(
    face: str, servers: list[FakeServer], doormen: list[Doorman]
) -> None:
    async def story(db: Any) -> None:
        with pytest.raises(BadCredentials) as refused:
            await db.space("bands").insert([1])
        assert "hunter2" not in repr(refused.value) + str(refused.value.details)

    tell(face, servers, story, user="app", password="hunter2", timeout=3)
    assert servers[0].rows == []
    assert all(len(doorman.logins) == 1 for doorman in doormen)
