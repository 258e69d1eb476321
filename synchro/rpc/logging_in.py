"""`Login` of synchro.v1.AuthService. ADR 43."""

from __future__ import annotations

import time
from typing import Any, Final

import trio

from synchro.errors import IllegalParams, SynchroError
from synchro.rpc.codec import Message
from synchro.rpc.generated.v1 import auth_pb2
from synchro.rpc.host import RpcCall
from synchro.rpc.peer_address import host_of
from synchro.rpc.service import Service
from synchro.secret import Secret
from synchro.server.login_limits import bucket_of
from synchro.server.logins import Logins, refuse_plain

NAME_CHARS_MAX: Final = 256
"""Of a user: there is none with a longer name."""
PASSWORD_CHARS_MAX: Final = 1024


def login_method(service: Service, logins: Logins) -> Any:
    """The method of the service that opens sessions."""

    async def login(request: Message, call: RpcCall) -> Message:
        try:
            refuse_plain(is_private=call.is_private)
            if len(request.user) > NAME_CHARS_MAX or len(request.password) > PASSWORD_CHARS_MAX:
                raise IllegalParams("a name or password of that length is nobody's; nothing was done")
            session = await logins.login(
                request.user, Secret(request.password), address=bucket_of(host_of(call.peer))
            )
        except SynchroError as error:
            raise service.refusal(error) from None
        reply = auth_pb2.LoginResponse(header=service.header(), session=session.token)
        left_s = session.expires_at - trio.current_time()
        reply.expires.FromMilliseconds(int(1000 * (time.time() + left_s)))
        return reply

    return service.host.unary(login, opens_session=True)
