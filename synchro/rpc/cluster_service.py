"""synchro.v1.ClusterService: the members, from the tree of `box.info` and from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synchro.rpc import codec
from synchro.rpc.codec import Message
from synchro.rpc.generated.v1 import cluster_pb2
from synchro.rpc.host import RpcHost
from synchro.rpc.methods import Registrar
from synchro.rpc.service import Service
from synchro.server.api import NodeApi


class ClusterService(Service):
    def __init__(self, node: NodeApi, host: RpcHost) -> None:
        super().__init__(node, host)
        self.ListInstances = self.at_once(self._list_instances, needs=self.access.to_look)

    def register(self, server: Registrar) -> None:
        server.add_service(cluster_pb2.DESCRIPTOR.services_by_name["ClusterService"], self)

    def _list_instances(self, _request: Message) -> Message:
        info, instance = self.node.info(), self.node.instance
        addresses = {peer.name: peer.address for peer in instance.settings.peers}
        own = str(instance.settings.instance_name)
        own_address = {own: str(info.get("listen") or "")} if instance.settings.listen else {}
        members: Mapping[int, Mapping[str, Any]] = info.get("replication") or {}
        # Leadership is of the election, ownership of the queue: an owner that is down leads nobody.
        election: Mapping[str, Any] = info.get("election") or {}
        leader_id = election.get("leader", 0) if info.get("leader_seen") else 0
        owner_id = ((info.get("synchro") or {}).get("queue") or {}).get("owner", 0)
        listed = [
            _member(
                member,
                {**own_address, **addresses},
                self_id=instance.self_id,
                leader_id=leader_id,
                owner_id=owner_id,
            )
            for _, member in sorted(members.items())
        ]
        # A source that was given as an address is a member of the same address.
        known = {member.name for member in listed} | {member.address for member in listed}
        listed += [
            cluster_pb2.InstanceInfo(name=name, address=address, is_self=name == own)
            for name, address in sorted(addresses.items())
            if name not in known and address not in known
        ]
        return cluster_pb2.ListInstancesResponse(header=self.header(), instances=listed)


def _member(
    member: Mapping[str, Any], addresses: Mapping[str, str], *, self_id: int, leader_id: int, owner_id: int
) -> Message:
    name = member.get("name") or ""
    upstream: Mapping[str, Any] = member.get("upstream") or {}
    downstream: Mapping[str, Any] = member.get("downstream") or {}
    made = cluster_pb2.InstanceInfo(
        id=member["id"],
        uuid=member.get("uuid") or "",
        name=name,
        address=addresses.get(name) or upstream.get("peer") or downstream.get("address") or "",
        is_self=member["id"] == self_id,
        is_leader=bool(leader_id) and member["id"] == leader_id,
        owns_queue=bool(owner_id) and member["id"] == owner_id,
        lsn=max(0, member.get("lsn") or 0),
        upstream_status=upstream.get("status") or "",
        upstream_message=upstream.get("message") or "",
        downstream_status=downstream.get("status") or "",
    )
    for field in ("idle", "lag"):
        if upstream.get(field) is not None:
            getattr(made, f"upstream_{field}").CopyFrom(codec.duration(upstream[field]))
    return made
