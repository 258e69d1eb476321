"""How an instance logs in at its peers: once for each connection, before its first stream there. ADR 43."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from synchro.config import NO_LOGIN, PeerLogin
from synchro.config.address import is_loopback
from synchro.errors import ConfigError, PlainConnection
from synchro.rpc.channel import RpcChannel
from synchro.rpc.generated.v1 import auth_pb2
from synchro.rpc.rpc_error import Metadata
from synchro.secret import Secret, read_secret
from synchro.server.sessions import SCHEME
from synchro.threads import read_in_thread
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import StatusCode
from synchro.wire.link import Link

LOGIN: Final = "/synchro.v1.AuthService/Login"


class _Session(NamedTuple):
    link: Link
    login: PeerLogin
    metadata: Metadata


class PeerSessions:
    """Sessions at peers. One ends with its connection: the instance behind a new one may not know it."""

    def __init__(
        self,
        login_at: Callable[[str], PeerLogin | None],
        *,
        is_encrypted: bool,
        lacks: Callable[[str], bool],
        on_login: Callable[[str, str], None],
    ) -> None:
        """login_at: as whom the peer at this address is called now; None: as guest. lacks: whether the set of
        this instance has no user of this name. on_login: the peer at this address took us for this user."""
        self._login_at = login_at
        self._lacks = lacks
        self._on_login = on_login
        self._is_encrypted = is_encrypted
        self._sessions: dict[str, _Session] = {}

    async def metadata(self, channel: RpcChannel) -> Metadata:
        """What a call has to say. Raises `CallFailed`, `PlainConnection`, `ConfigError`."""
        address = channel.address
        login = self._login_at(address)
        if login is None:
            self.forget(address)
            return ()
        link = await channel.connect()
        known = self._sessions.get(address)
        if known is not None and known.link is link and known.login == login:
            return known.metadata
        if not self._is_encrypted and not is_loopback(address.rpartition(":")[0]):
            raise PlainConnection(
                f"{address} is on another host, and the connection is not encrypted: the password of "
                f"{login.user!r} was not sent. Next: set grpc.tls at all instances",
                endpoint=address,
            )
        password = await password_of(login)
        metadata = await self._log_in(channel, login.user, password)
        if metadata:
            self._on_login(address, login.user)
        self._sessions[address] = _Session(link, login, metadata)
        return metadata

    async def prove(self, channel: RpcChannel) -> bool:
        """Log in ahead of the next call. False: as the guest, while the own set lacks the user. Raises as
        `metadata` does."""
        login = self._login_at(channel.address)
        if await self.metadata(channel) or login is None or not self._lacks(login.user):
            return True
        self.forget(channel.address)
        return False

    def user_at(self, address: str) -> str:
        """As whom the peer there was called last."""
        session = self._sessions.get(address)
        return session.login.user if session is not None and session.metadata else NO_LOGIN

    def forget(self, address: str) -> None:
        """The peer refused a call that was made with it."""
        self._sessions.pop(address, None)

    async def _log_in(self, channel: RpcChannel, user: str, password: Secret) -> Metadata:
        request = auth_pb2.LoginRequest(user=user, password=password.reveal())
        try:
            reply = await channel.unary(
                LOGIN,
                request,
                serializer=auth_pb2.LoginRequest.SerializeToString,
                deserializer=auth_pb2.LoginResponse.FromString,
            )
        except CallFailed as error:
            if error.code is StatusCode.UNIMPLEMENTED:
                return ()  # a former version, which asks nobody who he is
            if error.code is StatusCode.UNAUTHENTICATED and self._lacks(user):
                # One reload may name the user and its login. The set gets the user by its quorum, which it
                # has by these very links: they stay those of the guest until then, as far as it may.
                return ()
            raise
        return (("authorization", SCHEME + reply.session),)


async def password_of(login: PeerLogin) -> Secret:
    """As it is configured now. Raises `ConfigError`."""
    if not login.password_file:
        return login.password
    try:
        return await read_in_thread(partial(read_secret, login.password_file), login.password_file)
    except ValueError as error:
        raise ConfigError(f"the password of {login.user!r}: {error}", file=login.password_file) from None
