"""The stages of one instance: first start or recovery, links and elections, a clean end. [M-10], [M-28].

Start: the port (ballot, `info` and health only: all else is LOADING), recovery or bootstrap or join, links
and elections, client calls. Stop (ADR 18): the core ends in order, links closed, WAL drained and closed
clean. Knows no gRPC: how the port is opened is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final

import trio

from synchro.config import ElectionMode, Settings, WalMode, doubtful, told_value
from synchro.errors import Corruption, DiskFailed, XlogGap
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.replication.doubles import Life
from synchro.replication.rejoin import Known
from synchro.server.autoexpel import Autoexpel
from synchro.server.bootstrap import refuse_foreign
from synchro.server.directory import DataDirectory, new_salt
from synchro.server.face import Face
from synchro.server.failing_disk import FailingJournal, WalDisk
from synchro.server.first_start import FirstStart, forget_set
from synchro.server.garbage import release_memory
from synchro.server.links import Links
from synchro.server.node import LoopHooks, Node
from synchro.server.outrun import Outrun
from synchro.server.peers import Peers
from synchro.server.recovering import Recovering
from synchro.server.registrar import Registrar
from synchro.server.rejoin import JoinAgain, known_of
from synchro.server.roster import Roster
from synchro.server.runnable import runnable_tasks
from synchro.server.tasks import run_until_first_error
from synchro.server.transport import Transport
from synchro.storage.recovery import Recovered
from synchro.storage.wal import Wal
from synchro.threads import in_thread

DRAIN_S: Final = 10.0
"""How long a clean stop may take: a disk or a peer that does not answer must not keep the process."""
CLOSE_S: Final = 1.0
"""The part of `DRAIN_S` that is kept for closing the log."""


def assemble(
    *,
    settings: Settings,
    directory: DataDirectory,
    transport: Transport,
    hooks: LoopHooks,
    log: Any,
    on_panic: Callable[[BaseException], None],
) -> Face:
    """The parts of one instance, put together. Nothing runs yet."""
    node = Node(
        settings=settings, directory=directory, transport=transport, hooks=hooks, log=log, on_panic=on_panic
    )
    node.links = links = Links(node)
    node.observer = face = Face(node, links)
    return face


class Lifecycle:
    """The stages of one run."""

    def __init__(
        self,
        face: Face,
        peers: Peers,
        stop: trio.Event,
        open_port: Callable[[], AbstractAsyncContextManager[str]],
    ) -> None:
        """open_port: serves ballot, peers and clients for as long as the context lasts; gives host:port."""
        self._face = face
        self._node = node = face.node
        self._links = face.links
        self._peers = peers
        self._stop = stop
        self._open_port = open_port
        self._log = node.log
        self._recovering = Recovering(node, stop.is_set)
        self._has_bootstrapped = False
        self._end = trio.Event()
        """This life of the instance ends: the process is asked to stop, or it begins anew."""
        node.end_life = self._end.set
        self._wal_ended = trio.Event()
        self._stop_by = math.inf

    async def run(self, task_status: trio.TaskStatus[Face]) -> None:
        """Until `stop` is set. Raises `SynchroError` when it cannot start, or must leave."""
        node, directory = self._node, self._node.directory
        for option, message in doubtful(node.settings):
            self._log.warning("option_doubtful", option=option, message=message)
        sources = [peer.address for peer in node.settings.peers if peer.name != node.settings.instance_name]
        message = told_value("replication.peers", sources)
        self._log.info("sources_set", value=sources, message=message)
        recovered = None
        if node.settings.new_set:
            forget_set(node)
        await in_thread(directory.replacement.go_on)
        node.has_data = directory.has_data
        async with self._open_port() as node.listen:
            self._log.info("listening", message=f"bound to {node.listen}", address=node.listen)
            task_status.started(self._face)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._cancel_on_stop, scope)
                    nursery.start_soon(self._face.remind)
                    if node.has_data:
                        recovered = await self._recover_or_join_again()
                    else:
                        self._has_bootstrapped = await FirstStart(node, self._peers).run()
                        recovered = await self._recovering.recover()
                    nursery.cancel_scope.cancel()
            if recovered is None or self._stop.is_set():
                return
            await self._work(*recovered)

    async def _cancel_on_stop(self, scope: trio.CancelScope) -> None:
        await self._stop.wait()
        scope.cancel()

    async def _recover_or_join_again(self) -> tuple[Instance, Recovered] | None:
        """What is on the disk; or, if that is too old or a person said so, what a join brings [M-35]."""
        node, again = self._node, JoinAgain(self._node, self._peers)
        known: Known | None = None
        try:
            recovered = await self._recovering.recover()
        except (Corruption, XlogGap) as error:
            if not again.is_wanted:
                raise
            self._log.warning("files_unreadable", message=error.message)
            recovered = None
        if recovered is not None:
            await refuse_foreign(node.settings, node.uuid, node.transport, node.replicaset_uuid)
            known = known_of(recovered[0])
            if not again.is_wanted and not await again.is_too_old(known):
                return recovered
        if self._stop.is_set() or (source := await again.find(known)) is None:
            return recovered or await self._recovering.recover()
        if recovered is not None and not await again.keep(recovered[0]):
            return recovered
        recovered = None
        release_memory()
        while not await again.fetch(source, known):
            if (source := await again.find(known)) is None:
                break
        return await self._recovering.recover()

    # -------------------------------------------------------------------------------------------------- work

    async def _work(self, instance: Instance, recovered: Recovered) -> None:
        node, links, settings = self._node, self._links, self._node.settings
        if settings.wal_mode is not WalMode.FSYNC:
            self._log.warning(
                "wal_mode", message="an acknowledgement is not on disk: confirmed rows may be lost"
            )
        disk = WalDisk()
        journal = await in_thread(
            lambda: FailingJournal(
                disk,
                settings.wal_dir,
                instance_uuid=node.uuid,
                new_salt=new_salt,
                start=recovered.journal_start,
                limits=settings.limits,
                sync=settings.wal_mode is WalMode.FSYNC,
                wall_time=node.clock.now(),
                identity=node.directory.identity_file,
            )
        )
        wal = Wal(
            disk,
            journal,
            on_written=node.on_written,
            on_cut=node.on_cut,
            wall_clock=node.clock.now,
            on_rotation_refused=lambda error: self._log.warning(
                "wal_rotation_refused",
                message=f"no new log file: {error.strerror}; rows go on into the old one",
                errno=error.errno,
            ),
            limits=settings.limits,
        )
        with runnable_tasks() as tasks:
            node.attach(instance, wal, tasks)
            links.load_acks()
            await self._work_on(instance, wal)

    async def _work_on(self, instance: Instance, wal: Wal) -> None:
        node, links = self._node, self._links
        async with trio.open_nursery() as outer:
            outer.start_soon(self._run_wal, wal)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(self._hear_stop)
                    inner.start_soon(self._stop_in_order, scope)
                    inner.start_soon(self._cancel_on_leaving, scope)
                    inner.start_soon(self._keep_notes, wal)
                    inner.start_soon(node.run)
                    inner.start_soon(self._face.run_watchers)
                    inner.start_soon(self._face.owner_reads.run)
                    self._begin_links(inner)
                    node.start()
                    inner.start_soon(self._face.snapshotter.run)
                    inner.start_soon(Autoexpel(node).run)
                    inner.start_soon(self._face.credentials.run)
                    inner.start_soon(self._face.remind)
                    await self._wait_until_caught_up()
                    if not self._stop.is_set():
                        self._warn_of_guest(instance)
                        node.become_ready()
                        if self._has_bootstrapped:
                            self._promote_first()
            node.is_ready = False
            links.is_serving = False
            for relay in list(links.relays.values()):
                relay.scope.cancel()
            if node.halted is None:
                wal.stop()
                await self._drain(outer)
            else:
                outer.cancel_scope.cancel()
        if node.halted is not None:
            raise node.halted
        self._log.info("instance_stopped", vclock=str(instance.vclock))

    def _warn_of_guest(self, instance: Instance) -> None:
        if instance.memtx.catalog.users.is_unset:
            self._log.warning(
                "no_users",
                message="nobody has said who may do what: whoever can connect may do everything, as the "
                "user guest. Next: synchro user create NAME, synchro grant NAME super, and when the peers "
                "log in, too (docs/security.md): synchro revoke guest super",
            )

    def _begin_links(self, nursery: trio.Nursery) -> None:
        node, links = self._node, self._links
        links.doubles.me = Life(node.start_id, node.address)
        links.is_serving = True
        links.sources_changed(has_all=self._has_bootstrapped)
        nursery.start_soon(links.watch_doubles)
        nursery.start_soon(links.relogins.run)
        nursery.start_soon(links.watch_catching_up)
        nursery.start_soon(Roster(node, links, nursery).run)
        nursery.start_soon(Registrar(node).run)
        nursery.start_soon(Outrun(node, links).run)

    async def _wait_until_caught_up(self) -> None:
        """[M-42]: for `sync_timeout`, which is 0 unless somebody wants it; it may change meanwhile."""
        node, links = self._node, self._links
        since = trio.current_time()
        while node.core.is_orphan:
            left = since + node.settings.sync_timeout_s - trio.current_time()
            if left <= 0:
                return
            node.stage = "sync"
            await run_until_first_error(links.caught_up.wait, partial(node.pause, left))

    def _promote_first(self) -> None:
        """[E-26]: who made the set need not wait for an election timeout."""
        if self._node.settings.election_mode in (ElectionMode.MANUAL, ElectionMode.CANDIDATE):
            self._node.calls.submit(
                ev.PromoteRequested, lambda outcome: self._log.debug("first_promote", outcome=repr(outcome))
            )

    async def _hear_stop(self) -> None:
        await self._stop.wait()
        self._end.set()

    async def _stop_in_order(self, scope: trio.CancelScope) -> None:
        """ADR 18: the core ends and every call has its answer; its last word goes out; then links are cut."""
        await self._end.wait()
        node = self._node
        self._stop_by = trio.current_time() + DRAIN_S
        node.begin_stop()
        with trio.move_on_at(self._stop_by - CLOSE_S):
            await node.stopped.wait()
            with trio.move_on_after(node.settings.replication_timeout_s):
                async with trio.open_nursery() as saying:
                    for relay in list(self._links.relays.values()):
                        saying.start_soon(relay.say_last)
        node.end_calls()
        scope.cancel()

    async def _drain(self, outer: trio.Nursery) -> None:
        """The WAL task ends by itself, if the disk answers."""
        with trio.CancelScope(shield=True), trio.move_on_at(self._stop_by) as waiting:
            await self._wal_ended.wait()
        if waiting.cancelled_caught:
            outer.cancel_scope.cancel()

    async def _run_wal(self, wal: Wal) -> None:
        try:
            await wal.run()
        except DiskFailed as error:
            self._node.disk_failed(error)
        finally:
            self._wal_ended.set()

    async def _keep_notes(self, wal: Wal) -> None:
        try:
            await wal.keep_notes(self._links.collect_acks)
        except DiskFailed as error:
            self._node.disk_failed(error)

    async def _cancel_on_leaving(self, scope: trio.CancelScope) -> None:
        await self._node.leaving.wait()
        scope.cancel()
