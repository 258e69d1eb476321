"""synchro.v1.ControlService: commands of operators to this instance."""

from __future__ import annotations

import json
from typing import Final

from synchro.errors import IllegalParams
from synchro.failpoints import failpoint
from synchro.instance.events import Demoted, DemoteRequested, Promoted, PromoteRequested
from synchro.rpc import codec
from synchro.rpc.codec import Message
from synchro.rpc.generated.v1 import control_pb2
from synchro.rpc.host import RpcHost
from synchro.rpc.methods import Registrar
from synchro.rpc.service import Service, expect
from synchro.server.api import Compared, NodeApi
from synchro.storage.users import Caller

BOOTSTRAP_S: Final = 20.0
"""How long a call waits for a new set if it does not say: peers that are down answer late."""


_OF_TRUST: Final = ("replication.peers", "grpc.advertise.peer", "iproto.advertise.peer")
"""Keys that say whose rows this instance takes without asking, and which password, or first line of a file,
it shows them."""


class ControlService(Service):
    def __init__(self, node: NodeApi, host: RpcHost) -> None:
        super().__init__(node, host)
        operate = self.access.to_operate
        self.Promote = self.waiting(self._promote, needs=operate)
        self.CheckPromote = self.at_once(self._check_promote, needs=self.access.to_look)
        self.Bootstrap = self.waiting(self._bootstrap, needs=operate, when_ready=False)
        self.Demote = self.waiting(self._demote, needs=operate)
        self.SyncWal = self.waiting(self._sync_wal, needs=operate)
        self.Checkpoint = self.waiting(self._checkpoint, needs=operate)
        self.ReplicaGc = self.waiting(self._replica_gc, needs=operate)
        self.RestartUpstream = self.at_once(self._restart_upstream, needs=operate)
        self.Rebootstrap = self.at_once(self._rebootstrap, needs=operate)
        self.CheckConfig = self.waiting(self._check_config, needs=operate, when_ready=False)
        self.ReloadConfig = self.waiting(self._reload_config, needs=operate, when_ready=False)
        self.SetConfig = self.waiting(self._set_config, needs=self._to_set, when_ready=False)

    def _to_set(self, caller: Caller, request: Message) -> None:
        """Who says whose rows count, rows of users among them, may do everything by that."""
        is_of_trust = request.key.strip().startswith(_OF_TRUST)
        (self.access.to_do_everything if is_of_trust else self.access.to_operate)(caller, request)

    def register(self, server: Registrar) -> None:
        server.add_service(control_pb2.DESCRIPTOR.services_by_name["ControlService"], self)

    async def _promote(self, request: Message) -> Message:
        default_s = self.node.instance.settings.synchro_timeout_s
        await failpoint("limbo.promote_begin_delay")
        outcome = await self.node.call(PromoteRequested, timeout_s=codec.timeout_s(request, default_s))
        done = expect(outcome, Promoted)
        return control_pb2.PromoteResponse(
            header=self.header(),
            term=done.term,
            previous_owner=done.previous_owner,
            confirmed=done.confirmed,
            rolled_back=done.rolled_back,
        )

    def _check_promote(self, _request: Message) -> Message:
        outlook = self.node.promote_outlook()
        return control_pb2.CheckPromoteResponse(
            header=self.header(),
            is_owner=outlook.is_owner,
            term=outlook.term,
            previous_owner=outlook.previous_owner,
            confirmed=outlook.confirmed,
            missing_rows=outlook.missing_rows,
            obstacles=[
                control_pb2.PromoteObstacle(reason=one.reason, message=one.message)
                for one in outlook.obstacles
            ],
        )

    async def _bootstrap(self, request: Message) -> Message:
        uuid = await self.node.bootstrap(codec.timeout_s(request, BOOTSTRAP_S))
        return control_pb2.BootstrapResponse(header=self.header(), replicaset_uuid=uuid)

    async def _demote(self, request: Message) -> Message:
        default_s = self.node.instance.settings.synchro_timeout_s
        outcome = await self.node.call(DemoteRequested, timeout_s=codec.timeout_s(request, default_s))
        demoted = expect(outcome, Demoted)
        return control_pb2.DemoteResponse(
            header=self.header(), term=demoted.term, was_idle=not demoted.is_done
        )

    async def _sync_wal(self, request: Message) -> Message:
        default_s = self.node.instance.settings.synchro_timeout_s
        vclock = await self.node.sync_wal(codec.timeout_s(request, default_s))
        return control_pb2.SyncWalResponse(header=self.header(), vclock=codec.lsns(vclock))

    async def _checkpoint(self, _request: Message) -> Message:
        vclock = await self.node.checkpoint()
        return control_pb2.CheckpointResponse(
            header=self.header(), vclock=codec.lsns(vclock), signature=vclock.signature
        )

    async def _replica_gc(self, request: Message) -> Message:
        if not request.instance:
            raise IllegalParams("which instance? Its name, id or UUID is missing", field="instance")
        gone = await self.node.replica_gc(request.instance)
        return control_pb2.ReplicaGcResponse(header=self.header(), files_deleted=gone)

    def _restart_upstream(self, request: Message) -> Message:
        if not request.instance:
            raise IllegalParams("which instance? Its name or its id is missing", field="instance")
        skip = codec.txn_id(request.skip) if request.HasField("skip") else None
        self.node.restart_upstream(request.instance, skip)
        return control_pb2.RestartUpstreamResponse(header=self.header())

    def _rebootstrap(self, request: Message) -> Message:
        header = self.header()
        self.node.rebootstrap(discard=request.discard)
        return control_pb2.RebootstrapResponse(header=header)

    # --- configuration; one that loads may wait for what is to be changed

    async def _check_config(self, request: Message) -> Message:
        compared = await self.node.configuration.compare(request.yaml.encode())
        return self._compared(control_pb2.CheckConfigResponse, compared)

    async def _reload_config(self, _request: Message) -> Message:
        return self._compared(control_pb2.ReloadConfigResponse, await self.node.configuration.reload())

    async def _set_config(self, request: Message) -> Message:
        if not request.key:
            raise IllegalParams("which option? Its key is missing; nothing was changed", field="key")
        compared = await self.node.configuration.set(request.key, request.value, force=request.force)
        return self._compared(control_pb2.SetConfigResponse, compared)

    def _compared(self, response: type[Message], compared: Compared) -> Message:
        options = [
            control_pb2.ConfigChange(
                key=change.key,
                before="" if change.before is None else json.dumps(change.before),
                after="" if change.after is None else json.dumps(change.after),
                needs_restart=not change.is_live,
            )
            for change in compared.changes
        ]
        return response(
            header=self.header(),
            changes=map(str, compared.changes),
            options=options,
            warnings=compared.warnings,
        )
