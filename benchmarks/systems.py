"""The two systems under test: three synchro instances, and three etcd members, on loopback and real files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import grpc

from synchro.rpc.generated.v1 import (
    control_pb2,
    control_pb2_grpc,
    info_pb2,
    info_pb2_grpc,
    schema_pb2,
    schema_pb2_grpc,
)

NODES: Final = 3
START_TIMEOUT_S: Final = 30.0
REPLICATION_TIMEOUT_S: Final = 0.1
ELECTION_TIMEOUT_S: Final = 1.0
SPACE: Final = "bench"
SPACE_ID: Final = 512
CHANNEL_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 1 << 26))
INSTALL_ETCD: Final = "etcd is not installed: only synchro is measured. next:  apt-get install etcd-server"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass
class Member:
    """One process."""

    name: str
    address: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    environ: dict[str, str] = field(default_factory=dict)
    tree: Path | None = None
    """Where it runs; None: here."""
    started_at: float = 0.0
    """Wall clock of its last exec."""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        self.started_at = time.time()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ | self.environ,
                cwd=self.tree,
            )  # fmt: skip

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def check(self) -> None:
        if self.process is not None and self.process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{tail}")


class System:
    """Three processes and who leads them."""

    name: str
    tree: Path | None = None
    """Where its load generator runs; None: here."""
    python: str = sys.executable

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.members: list[Member] = []

    def start(self) -> None:
        for member in self.members:
            member.start()

    def stop(self) -> None:
        for member in self.members:
            if member.process is not None and member.process.poll() is None:
                member.process.terminate()
        for member in self.members:
            member.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def leader(self) -> Member:
        """Waits until there is one."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            for member in self.members:
                member.check()
                try:
                    if self.is_leader(member):
                        return member
                except grpc.RpcError:
                    pass
            time.sleep(0.05)
        raise RuntimeError(f"{self.name}: no leader within {START_TIMEOUT_S:g} s")

    def is_leader(self, member: Member) -> bool:
        raise NotImplementedError

    def rows(self, member: Member) -> int:
        """How many keys it holds."""
        raise NotImplementedError


def _channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)


class Synchro(System):
    """Election mode `candidate`, fsync on, quorum 2 of 3."""

    name = "synchro"

    def __init__(self, directory: Path, nodes: int = NODES, *, tree: Path | None = None) -> None:
        """tree: a checkout of another version, made ready by `make setup` there; it is called "before"."""
        super().__init__(directory)
        if tree is not None:
            self.name, self.tree, self.python = "before", tree, str(tree / ".venv" / "bin" / "python")
        ports = free_ports(nodes)
        names = [f"instance{number:03}" for number in range(1, nodes + 1)]
        self.config = directory / "config.yaml"
        instances = "".join(
            f"          {name}: {{grpc: {{listen: [{{uri: '127.0.0.1:{port}'}}]}}}}\n"
            for name, port in zip(names, ports, strict=True)
        )
        self.config.write_text(
            "replication:\n"
            "  failover: election\n"
            f"  timeout: {REPLICATION_TIMEOUT_S}\n"
            f"  election_timeout: {ELECTION_TIMEOUT_S}\n"
            "wal: {mode: fsync}\n"
            "groups:\n  group001:\n    replicasets:\n      replicaset001:\n        instances:\n" + instances
        )
        for name, port in zip(names, ports, strict=True):
            self.members.append(
                Member(
                    name,
                    f"127.0.0.1:{port}",
                    [self.python, "-m", "synchro", "serve", "--config", str(self.config), "--name", name],
                    directory / f"{name}.log",
                    tree=self.tree,
                )
            )

    def is_leader(self, member: Member) -> bool:
        with _channel(member.address) as channel:
            stream = info_pb2_grpc.InfoServiceStub(channel).WatchInfo(info_pb2.WatchInfoRequest(), timeout=2)
            is_writable = bool(next(stream).is_writable)
            stream.cancel()
        return is_writable

    def create_space(self) -> None:
        """[unsigned key, 100 bytes], synchronous."""
        with _channel(self.leader().address) as channel:
            schema = schema_pb2_grpc.SchemaServiceStub(channel)
            schema.CreateSpace(
                schema_pb2.CreateSpaceRequest(name=SPACE, id=SPACE_ID, is_sync=True, if_not_exists=True)
            )
            schema.CreateIndex(
                schema_pb2.CreateIndexRequest(
                    space=SPACE, name="primary", parts=[schema_pb2.KeyPart(field=1, type="unsigned")]
                )
            )

    def rows(self, member: Member) -> int:
        with _channel(member.address) as channel:
            reply = schema_pb2_grpc.SchemaServiceStub(channel).ListSpaces(schema_pb2.ListSpacesRequest())
        return next(int(space.tuple_count) for space in reply.spaces if space.name == SPACE)

    def checkpoint(self, member: Member) -> None:
        with _channel(member.address) as channel:
            control_pb2_grpc.ControlServiceStub(channel).Checkpoint(
                control_pb2.CheckpointRequest(), timeout=120
            )

    def events(self, member: Member) -> list[dict[str, Any]]:
        """Its log records since it was started last."""
        records = []
        for line in member.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return [one for one in records if datetime.fromisoformat(one["ts"]).timestamp() >= member.started_at]

    def wait_event(self, member: Member, name: str, timeout_s: float) -> tuple[dict[str, Any], float]:
        """The record, and seconds from exec to it."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            member.check()
            for one in self.events(member):
                if one["event"] == name:
                    return one, datetime.fromisoformat(one["ts"]).timestamp() - member.started_at
            time.sleep(0.05)
        raise RuntimeError(f"{member.name}: no {name} within {timeout_s:g} s")


class Etcd(System):
    """Its defaults (heartbeat 100 ms, election 1 s, fsync on), with room for the data and for large Txn."""

    name = "etcd"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        ports = free_ports(2 * NODES)
        names = [f"m{number}" for number in range(NODES)]
        cluster = ",".join(
            f"{name}=http://127.0.0.1:{port}" for name, port in zip(names, ports[NODES:], strict=True)
        )
        for at, name in enumerate(names):
            client, peer = f"http://127.0.0.1:{ports[at]}", f"http://127.0.0.1:{ports[NODES + at]}"
            command = [
                "etcd", "--name", name, "--data-dir", str(directory / name),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", cluster, "--initial-cluster-state", "new",
                "--quota-backend-bytes", str(8 << 30), "--max-txn-ops", "1024",
                "--log-level", "error",
            ]  # fmt: skip
            environ = {"ETCD_UNSUPPORTED_ARCH": os.uname().machine}
            self.members.append(
                Member(name, f"127.0.0.1:{ports[at]}", command, directory / f"{name}.log", environ=environ)
            )

    @staticmethod
    def is_installed() -> bool:
        return shutil.which("etcd") is not None

    @staticmethod
    def version() -> str:
        shown = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
        return shown.splitlines()[0].removeprefix("etcd Version: ")

    def is_leader(self, member: Member) -> bool:
        with _channel(member.address) as channel:
            call: Any = channel.unary_unary("/etcdserverpb.Maintenance/Status")
            status = fields(call(b"", timeout=2))
        header = fields(status[1])
        return bool(status.get(4)) and status[4] == header[2]

    def rows(self, member: Member) -> int:
        """All keys, counted (linearizable)."""
        request = b"\x0a\x01\x00" + b"\x12\x01\x00" + b"\x48\x01"  # key \0, range_end \0, count_only
        with _channel(member.address) as channel:
            call: Any = channel.unary_unary("/etcdserverpb.KV/Range")
            reply = fields(call(request, timeout=60))
        return int(reply.get(4, 0))


def fields(message: bytes) -> dict[int, Any]:
    """The fields of a protobuf message of varints and bytes; of a repeated one the last."""
    found: dict[int, Any] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == 2:
            found[tag >> 3] = message[at : at + value]
            at += value
        elif tag & 7 == 0:
            found[tag >> 3] = value
        else:
            raise ValueError(f"wire type {tag & 7}")
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
