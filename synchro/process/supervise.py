"""Builds an instance that speaks gRPC, supervises its process, and turns its end into an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

import trio

from synchro import logs
from synchro.config import FIRST_REQUEST_S, Settings
from synchro.config.file import ClusterConfig
from synchro.errors import AlreadyRunning, SynchroError
from synchro.failpoints import REGISTRY, is_wanted, load_environment
from synchro.process import descriptors
from synchro.process.certificates import certificates_of, watch
from synchro.process.live_config import LiveConfig
from synchro.process.once import run_configured
from synchro.process.ready import LISTENING, LOG_FILE, announce_ready
from synchro.rpc import fault_service, peer_service
from synchro.rpc.host import RpcHost, open_rpc_host
from synchro.rpc.methods import Registrar
from synchro.rpc.peer_transport import open_grpc_transport
from synchro.rpc.services import ClientServices
from synchro.server.api import WatchFacts
from synchro.server.directory import DataDirectory
from synchro.server.face import Face
from synchro.server.failing_disk import SnapshotDisk
from synchro.server.garbage import release_memory, tune_garbage_collector
from synchro.server.lifecycle import Lifecycle, assemble
from synchro.server.node import Node
from synchro.server.peers import Peers
from synchro.wire.admission import PortLimits
from synchro.wire.certificates import Certificates
from synchro.wire.io import plain_client, plain_server

SWITCH_INTERVAL_S: Final = 0.0005
"""How long the WAL thread may wait for the interpreter lock behind a busy main thread."""
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_HARMLESS: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Their default is an unclean death. SIGHUP reopens the log; the others mean nothing here."""
REOPEN_FLUSH_S: Final = 0.05
"""What came before a SIGHUP belongs to the old file; the loop waits for it no longer than this."""
STOP_GRACE_S: Final = 2.0
"""What calls in progress get when the process is asked to stop: all have an outcome, which is on its way."""


async def run_instance(
    settings: Settings,
    *,
    host: RpcHost,
    log: Any,
    stop: trio.Event,
    task_status: trio.TaskStatus[Face] = trio.TASK_STATUS_IGNORED,
    loaded: ClusterConfig | None = None,
) -> None:
    """One instance, until `stop` is set. Several may live in one process. loaded: the file that `settings`
    are from, or what stands for the flags; None: the program that runs it sets its options.

    `task_status` gets the node as soon as its port is open; it is ready later. Raises `SynchroError` when
    it cannot start, or must leave. The directory is locked first, then the port is taken.
    """
    configuration: LiveConfig | None = None
    while True:
        node = await _live(settings, host, log, stop, task_status, loaded, configuration)
        if not node.begins_anew or stop.is_set():
            return
        # What a person decided holds for one start; the file is as it was read last.
        settings = replace(
            node.settings, force_trust=False, new_set=False, rejoin=False, force_recovery=False
        )
        configuration = cast("LiveConfig | None", node.configuration)
        task_status = trio.TASK_STATUS_IGNORED
        node.leaving.set()  # who waits for that holds the data of the life that is over
        del node
        await trio.lowlevel.checkpoint()
        release_memory()


async def _live(
    settings: Settings,
    host: RpcHost,
    log: Any,
    stop: trio.Event,
    task_status: trio.TaskStatus[Face],
    loaded: ClusterConfig | None,
    configuration: LiveConfig | None,
) -> Node:
    """One life of the instance: its directory and its port are taken, and given back. configuration: of the
    life before."""
    certificates = certificates_of(settings)
    layer = plain_client if certificates is None else certificates.client_layer
    directory = DataDirectory.open(SnapshotDisk(), settings)
    try:
        async with open_grpc_transport(
            host,
            directory.identity.instance_uuid,
            layer,
            lambda address: face.node.settings.peer_logins.of(address),
            lambda user: face.node.has_core and face.node.users.find(user) is None,
            lambda address, user: log.info(
                "upstream_authenticated", message=f"authenticated at {address} as {user!r}"
            ),
        ) as transport:
            face = assemble(
                settings=settings,
                directory=directory,
                transport=transport,
                hooks=host,
                log=log,
                on_panic=host.panic,
            )
            if configuration is not None:
                configuration.serve(face.node)
            elif loaded is not None:
                face.node.configuration = LiveConfig(face.node, loaded)
            peers = Peers(face.node, face.links)
            port = partial(_open_port, face, peers, host, certificates)
            await Lifecycle(face, peers, stop, port).run(task_status)
            return face.node
    finally:
        directory.close()


@asynccontextmanager
async def _open_port(
    face: Face, peers: Peers, host: RpcHost, certificates: Certificates | None
) -> AsyncIterator[str]:
    """From here on peers see our ballot, and clients see LOADING."""
    settings, log = face.node.settings, face.node.log
    if not settings.listen:
        yield "nowhere"  # isolated: it has its data, and talks to nobody
        return
    services = ClientServices(face, host, with_fault=settings.fault_injection)

    def register(server: Registrar) -> None:
        peer_service.register(server, host, peers)
        if settings.fault_injection:
            fault_service.register(server, face, host)
        services.register(server)

    share = descriptors.plan(settings, log)
    limits = PortLimits(
        connections_max=share.connections,
        share=share.peers,
        kept_bytes_max=settings.limits.connections_bytes_max,
        per_address_max=settings.limits.connections_per_address_max,
        first_request_s=FIRST_REQUEST_S,
    )
    try:
        layer = plain_server if certificates is None else certificates.server_layer
        server = await host.serve(
            settings.listen, register, limits=limits, layer=layer, sessions=services.sessions, log=log
        )
    except OSError as error:
        raise AlreadyRunning(
            f"{error.strerror or error}; the instance was not started",
            address=settings.listen,
            errno=error.errno,
        ) from error
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(services.run)
            if settings.once:
                nursery.start_soon(run_configured, face)
            if certificates is not None:
                nursery.start_soon(watch, certificates, log)
            yield server.address
            nursery.cancel_scope.cancel()
    finally:
        services.end_streams()
        await server.stop(STOP_GRACE_S)


async def _announce(face: Face) -> None:
    """Tell `synchro start` that the port is ours, and when data is served."""
    announce_ready(stage=LISTENING)
    async with aclosing(cast("AsyncGenerator[WatchFacts]", face.watch())) as changes:
        async for facts in changes:
            if facts.can_read:
                announce_ready()
                return


async def _release_waiters(face: Face) -> None:
    """What waits at a failpoint must not keep a process that leaves."""
    await face.node.leaving.wait()
    REGISTRY.clear()


async def _serve(settings: Settings, log: Any, loaded: ClusterConfig | None) -> None:
    stop = trio.Event()
    async with open_rpc_host() as host, trio.open_nursery() as nursery:

        class PortOpen:
            def started(self, value: Face | None = None) -> None:
                assert value is not None
                nursery.start_soon(_announce, value)
                nursery.start_soon(_release_waiters, value)

        async def run() -> None:
            await run_instance(settings, host=host, log=log, stop=stop, task_status=PortOpen(), loaded=loaded)
            nursery.cancel_scope.cancel()

        nursery.start_soon(run)
        with trio.open_signal_receiver(*_STOPPING, *_HARMLESS) as signals:
            async for number in signals:
                log.info("signal_received", signal=signal.Signals(number).name)
                if number == signal.SIGHUP:
                    _reopen_log(log)
                elif number in _STOPPING:
                    REGISTRY.clear()
                    stop.set()


def _reopen_log(log: Any) -> None:
    """After a rotation of log files: go on in a new file of the old name. `log.file` or `start` tells the
    name; an instance whose standard error is something else has nothing to reopen."""
    path = os.environ.get(LOG_FILE)
    if not path:
        return
    logs.flush(REOPEN_FLUSH_S)
    try:
        logs.send_to(path)
    except OSError as error:
        log.warning("log_not_reopened", file=path, message=f"{error.strerror}; the old file is kept")
        return
    log.info("log_reopened", file=path)


def serve_in_foreground(
    settings: Settings, warnings: Sequence[str] = (), loaded: ClusterConfig | None = None
) -> int:
    """See `synchro.process.serve.serve`."""
    logs.configure(format=settings.log_format, level=settings.log_level)
    logs.take_stderr()
    log = logs.get_logger("node", instance=settings.instance_name, replicaset=settings.replicaset_name)
    for warning in warnings:
        log.warning("configuration", message=warning)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    tune_garbage_collector()
    try:
        trio.run(_serve, _with_faults(settings, log), log, loaded)
    except BaseException as error:  # noqa: BLE001 - the last line of the process: everything becomes one record
        return _report(log, error)
    finally:
        logs.flush()
    return 0


def _with_faults(settings: Settings, log: Any) -> Settings:
    """The environment may ask for fault injection, and arm points before anything else is done."""
    if not (settings.fault_injection or is_wanted()):
        return settings
    load_environment()
    log.warning(
        "fault_injection",
        message="this instance takes synchro.fault.v1: whoever can connect can stop it and lose its writes; "
        "for tests only",
        armed=sorted(REGISTRY.armed),
    )
    return replace(settings, fault_injection=True)


def _report(log: Any, error: BaseException) -> int:
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt):
            return 0
    for leaf in leaves:
        if isinstance(leaf, SynchroError):
            log.critical("instance_failed", reason=leaf.reason, message=leaf.message, **leaf.details)
            return 1
        if isinstance(leaf, OSError):
            log.critical(
                "instance_failed",
                reason="DISK" if leaf.errno != errno.EADDRINUSE else "ALREADY_RUNNING",
                message=str(leaf),
                file=leaf.filename,
                errno=leaf.errno,
            )
            return 1
    # Notes name the row at which the core broke an assertion.
    notes = [note for leaf in leaves for note in getattr(leaf, "__notes__", ())]
    log.critical("instance_crashed", notes=notes, exc_info=error)
    return 1


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
