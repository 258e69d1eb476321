"""synchro.v1.AuthService: who calls."""

from __future__ import annotations

from synchro.rpc.generated.v1 import auth_pb2
from synchro.rpc.host import RpcHost
from synchro.rpc.logging_in import login_method
from synchro.rpc.methods import Registrar
from synchro.rpc.service import Service
from synchro.server.api import NodeApi
from synchro.server.logins import Logins


class AuthService(Service):
    def __init__(self, node: NodeApi, host: RpcHost, logins: Logins) -> None:
        super().__init__(node, host)
        self.Login = login_method(self, logins)
        for name in ("CreateUser", "SetPassword", "DropUser", "Grant", "Revoke", "ListUsers"):
            setattr(self, name, self.Login)

    def register(self, server: Registrar) -> None:
        server.add_service(auth_pb2.DESCRIPTOR.services_by_name["AuthService"], self)
