"""As whom a peer is called whose set does not have the configured user yet. ADR 42, ADR 43"""

from __future__ import annotations

from typing import Any, cast

import pytest

from synchro.config import PeerLogin
from synchro.rpc.channel import RpcChannel
from synchro.rpc.generated.v1 import auth_pb2
from synchro.rpc.peer_login import PeerSessions
from synchro.secret import Secret
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import StatusCode


class Channel:
    """To a peer that refuses each login."""

    address = "127.0.0.1:3301"

    def __init__(self, code: StatusCode | None = StatusCode.UNAUTHENTICATED) -> None:
        """code: None: it takes each."""
        self.code = code
        self.logins = 0

    async def connect(self) -> Any:
        return self

    async def unary(self, *_: Any, **__: Any) -> Any:
        self.logins += 1
        if self.code is None:
            return auth_pb2.LoginResponse(session="one")
        raise CallFailed(self.code, "refused")


def sessions(*, lacks: bool, told: list[tuple[str, str]] | None = None) -> PeerSessions:
    login = PeerLogin("replicator", Secret("hidden"))
    noted = [] if told is None else told
    return PeerSessions(
        lambda _: login,
        is_encrypted=False,
        lacks=lambda user: lacks,
        on_login=lambda address, user: noted.append((address, user)),
    )


async def test_a_login_is_told_once_for_each_connection() -> None:
    """[A-64]: the word authenticated, where a login happened, and nowhere else."""
    told: list[tuple[str, str]] = []
    tried = sessions(lacks=False, told=told)
    channel = cast("RpcChannel", Channel(None))
    for _ in range(2):
        assert await tried.metadata(channel) == (("authorization", "Bearer one"),)
    assert told == [("127.0.0.1:3301", "replicator")]
    await sessions(lacks=True, told=told).metadata(cast("RpcChannel", Channel()))
    assert len(told) == 1, "who goes on as the guest was not authenticated"


async def test_a_user_that_the_set_does_not_have_yet_is_no_reason_to_stay_away() -> None:
    """It comes by the quorum, which needs this link. When the guest may no more, the login is tried again."""
    channel, tried = Channel(), sessions(lacks=True)
    for attempt in (1, 2):
        assert await tried.metadata(cast("RpcChannel", channel)) == ()
        assert channel.logins == attempt
        tried.forget(channel.address)  # the call was refused


@pytest.mark.parametrize(
    ("code", "lacks"), [(StatusCode.UNAUTHENTICATED, False), (StatusCode.RESOURCE_EXHAUSTED, True)]
)
async def test_any_other_refusal_is_told(code: StatusCode, lacks: bool) -> None:
    """A wrong password shows; nobody becomes the guest by it."""
    with pytest.raises(CallFailed):
        await sessions(lacks=lacks).metadata(cast("RpcChannel", Channel(code)))
