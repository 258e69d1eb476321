"""The stages of one instance: first start or recovery, links and elections, a clean end. [M-10], [M-28].

Start: the port (ballot, `info` and health only: all else is LOADING), recovery or bootstrap or join, links
and elections, client calls. Stop (ADR 18): the core ends in order, links closed, WAL drained and closed
clean. Knows no gRPC: how the port is opened is an argument.
"""

from __future__ import annotations

import gc
import math
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

import trio

from synchro.config import ElectionMode, Settings, WalMode, doubtful, told_value
from synchro.errors import (
    AccessDenied,
    BadCredentials,
    ConfigError,
    Corruption,
    DiskFailed,
    Loading,
    LoginLimited,
    LoginQueueFull,
    PlainConnection,
    QuorumWait,
    ReadOnly,
    RemoteProtocolError,
    ReplicasetUuidMismatch,
    SessionUnknown,
    SynchroError,
    SyncQueueFull,
    SyncRollback,
    SyncTimeout,
    TimedOut,
    WalQueueFull,
    XlogGap,
)
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.instance.recovery import recover_instance
from synchro.replication.admission import stays_member
from synchro.replication.ballot import Ballot
from synchro.replication.bootstrap_choice import BootstrapHere, WaitForPeers
from synchro.replication.doubles import Life
from synchro.replication.rejoin import Known
from synchro.row import Tuple, Txn
from synchro.server import credentials
from synchro.server.applier import WRONG_LOGIN
from synchro.server.autoexpel import Autoexpel
from synchro.server.bootstrap import POLL_S, find_role, refuse_foreign
from synchro.server.directory import DataDirectory, new_salt
from synchro.server.face import Face
from synchro.server.failing_disk import FailingJournal, WalDisk
from synchro.server.garbage import release_memory, tune_garbage_collector
from synchro.server.join import join, tell_stage
from synchro.server.links import Links
from synchro.server.node import LoopHooks, Node
from synchro.server.outrun import Outrun
from synchro.server.peer_messages import LinkLost
from synchro.server.peers import Peers
from synchro.server.progress import ReceivedSoFar
from synchro.server.registrar import Registrar
from synchro.server.rejoin import JoinAgain, known_of
from synchro.server.reminders import Reminder
from synchro.server.roster import Roster
from synchro.server.runnable import runnable_tasks
from synchro.server.tasks import run_until_first_error
from synchro.server.transport import Transport
from synchro.storage.memtx import Memtx
from synchro.storage.recovery import Recovered, recover_with_any
from synchro.storage.salvage import LeftOut, recover_by_force
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.storage.system_rows import first_rows
from synchro.storage.wal import Wal
from synchro.storage.xlog import DAMAGED_SUFFIX

DRAIN_S: Final = 10.0
"""How long a clean stop may take: a disk or a peer that does not answer must not keep the process."""
CLOSE_S: Final = 1.0
"""The part of `DRAIN_S` that is kept for closing the log."""
JOIN_RETRY_S: Final = 0.5
"""The longest pause before a join is tried again; `Settings.replication_timeout_s` if that is less [M-27]."""

WRONG_LOGINS_MAX: Final = 5
"""After so many logins that were refused the pause, doubled with each, grows no further: 16 s at the most."""

JOIN_RETRIED: Final = frozenset(
    error.reason
    for error in (
        Loading,
        ReadOnly,
        AccessDenied,
        BadCredentials,
        ConfigError,
        QuorumWait,
        SyncTimeout,
        SyncRollback,
        TimedOut,
        SyncQueueFull,
        WalQueueFull,
        RemoteProtocolError,
        BadCredentials,
        LoginLimited,
        LoginQueueFull,
        AccessDenied,
        SessionUnknown,
        PlainConnection,
    )
)
"""Answers to a join that pass by themselves: another source may be writable by then [M-26], [M-27], or may
have data that is not broken; the user may get its privileges."""


_Found: TypeAlias = tuple[Recovered, Instance, list[Corruption]] | None
"""What `recover_with_any` returns."""


class _Stopped(Exception):
    """The process was asked to stop while it recovered."""


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
        self._has_bootstrapped = False
        self._has_overruled = False
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
            self._forget_set()
        await trio.to_thread.run_sync(directory.replacement.go_on)
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
                        await self._first_start()
                        recovered = await self._recover()
                    nursery.cancel_scope.cancel()
            if recovered is None or self._stop.is_set():
                return
            await self._work(*recovered)

    async def _cancel_on_stop(self, scope: trio.CancelScope) -> None:
        await self._stop.wait()
        scope.cancel()

    # ------------------------------------------------------------------------------------------ first start

    def _forget_set(self) -> None:
        """`--new-set`: a person says that the set of this instance is gone."""
        directory = self._node.directory
        former = directory.identity.replicaset_uuid
        if former is None:
            self._log.info("new_set_unused", message="--new-set: this instance belongs to no set yet")
            return
        if directory.has_data:
            raise ConfigError(
                f"{directory.settings.snapshot_dir} has data of replica set {former}, so --new-set is "
                "refused; nothing was changed. Next: start without it, or move the files away first"
            )
        directory.forget_replicaset()
        self._log.warning(
            "replicaset_forgotten", replicaset_uuid=former, message="--new-set: what it held is given up"
        )

    async def _first_start(self) -> None:
        """Make the set, or join one; afterwards the directory has data [M-10], [M-11]. One that was a member
        joins its set again, in amnesia, or waits (ADR 14)."""
        node, directory = self._node, self._node.directory
        directory.begin_first_start()
        node.stage = "bootstrap"

        def publish(ballot: Ballot) -> None:
            self._peers.bootstrap_ballot = ballot
            node.bootstrap_leader_uuid = ballot.bootstrap_leader_uuid

        waits = Reminder(self._log)

        def note(wait: WaitForPeers) -> None:
            node.waiting.wait(wait.why, POLL_S)
            waits.say("bootstrap_waiting", wait.why, is_urgent=wait.is_bereft)

        wrong_logins, joins = 0, ""
        while True:
            is_refused = False
            role = await find_role(
                lambda: node.settings,
                node.uuid,
                node.transport,
                publish=publish,
                note=note,
                order=node.bootstrap_order,
                replicaset_uuid=directory.identity.replicaset_uuid or "",
            )
            if isinstance(role, BootstrapHere):
                directory.set_amnesia(False)  # Of a set that is new nothing can be forgotten.
                await trio.to_thread.run_sync(_write_first_snapshot, directory)
                node.bootstrap_leader_uuid = node.uuid
                self._has_bootstrapped = True
                node.bootstrap_order.made(directory.identity.replicaset_uuid or "")
                self._log.info("replicaset_bootstrapped", replicaset_uuid=directory.identity.replicaset_uuid)
                return
            _check_wanted_set(node.settings, role.ballot.replicaset_uuid, role.ballot.instance_name)
            node.stage = "join"
            if role.address != joins:
                joins = role.address
                message = f"bootstrapping replica from {role.ballot.instance_uuid} at {role.address}"
                self._log.info("joining", peer=role.ballot.instance_name, message=message)
            node.progress.at = so_far = ReceivedSoFar(role.ballot.instance_name, role.address)
            try:
                end = await join(
                    directory,
                    node.transport,
                    so_far,
                    is_anonymous=node.settings.is_anonymous,
                    on_stage=partial(tell_stage, node, so_far),
                )
            except LinkLost as error:
                why = error.why
            except SynchroError as error:
                if error.reason not in JOIN_RETRIED:
                    raise
                why = error.message
                is_refused = isinstance(error, WRONG_LOGIN)
            else:
                node.bootstrap_leader_uuid = role.ballot.bootstrap_leader_uuid
                self._log.info("joined", id=end.id, vclock=str(end.vclock))
                return
            node.progress.at = None
            directory.begin_first_start()
            wrong_logins = min(wrong_logins + 1, WRONG_LOGINS_MAX) if is_refused else 0
            pause_s = min(JOIN_RETRY_S, node.settings.replication_timeout_s) * 2**wrong_logins
            message = f"{why}; will retry every {pause_s:g} second"
            waits.say("join_retry", message, kind=why, peer=role.ballot.instance_name)
            node.waiting.wait(f"to join {role.ballot.instance_name} ({role.address}): {why}", pause_s)
            await trio.sleep(pause_s)

    # --------------------------------------------------------------------------------------------- recovery

    async def _recover_or_join_again(self) -> tuple[Instance, Recovered] | None:
        """What is on the disk; or, if that is too old or a person said so, what a join brings [M-35]."""
        node, again = self._node, JoinAgain(self._node, self._peers)
        known: Known | None = None
        try:
            recovered = await self._recover()
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
            return recovered or await self._recover()
        if recovered is not None and not await again.keep(recovered[0]):
            return recovered
        recovered = None
        release_memory()
        while not await again.fetch(source, known):
            if (source := await again.find(known)) is None:
                break
        return await self._recover()

    async def _recover(self) -> tuple[Instance, Recovered] | None:
        """Snapshot and log from disk; the core, not started yet. None: asked to stop."""
        node, settings = self._node, self._node.settings
        directory = node.directory
        node.stage = "recovery"
        node.progress.at = None
        await node.failpoint("recovery.delay")
        began = time.perf_counter()
        if settings.force_trust and directory.identity.amnesia:
            self._overrule()
            directory.set_amnesia(False)
        now = trio.current_time()
        try:
            # In a thread, so that a signal is heard; nothing else of this instance runs yet.
            found, node.left_out = await trio.to_thread.run_sync(partial(self._read_files, now))
        except _Stopped:
            return None
        assert found is not None
        recovered, instance, damaged = found
        node.cut_at = recovered.vclock
        self._tell_of_cuts()
        if recovered.unneeded:
            self._log.warning(
                "old_log_set_aside",
                files=recovered.unneeded,
                message=f"{recovered.fault}; nothing is lost: the rows of these older files, which were "
                f"renamed, are in {recovered.snapshot_path}. Who lacks rows of them must join again",
            )
        for error in damaged:
            self._log.warning(
                "snapshot_damaged",
                file=f"{error.details['file']}{DAMAGED_SUFFIX}",
                message=f"{error.message}; it was renamed, and {recovered.snapshot_path} with the log behind "
                "it took its place",
            )
        if settings.force_trust and not self._has_overruled:
            self._log.info("force_trust_unused", message="--force-trust: the log is trusted without it")
        self._check_set(instance)
        if settings.is_anonymous and not instance.is_anonymous:
            raise stays_member(instance.self_id)
        if recovered.torn_tail is not None:
            self._log.warning(
                "wal_not_closed", file=recovered.torn_tail.path, offset=recovered.torn_tail.offset
            )
        self._log.info(
            "recovered",
            message=f"recovered from '{recovered.snapshot_path}'",
            snapshot=recovered.snapshot_path,
            rows=recovered.rows,
            vclock=str(recovered.vclock),
            duration_ms=round(1000 * (time.perf_counter() - began), 1),
        )
        tune_garbage_collector()
        await trio.lowlevel.checkpoint()
        return instance, recovered

    def _read_files(self, now: float) -> tuple[_Found, Sequence[LeftOut]]:
        """In a thread. Raises `Corruption`, `XlogGap`, `_Stopped`."""
        settings, directory = self._node.settings, self._node.directory

        def attempt() -> _Found:
            return recover_with_any(
                directory.disk,
                settings.snapshot_dir,
                settings.wal_dir,
                self._node.uuid,
                directory.identity_file.notes.log,
                lambda recovered: self._replay(recovered, now),
            )

        if not settings.force_recovery:
            return attempt(), ()
        return recover_by_force(
            attempt,
            directory.disk,
            settings.wal_dir,
            before_cut=lambda: directory.set_amnesia(True),
        )

    def _tell_of_cuts(self) -> None:
        node = self._node
        for cut in node.left_out:
            self._log.warning(
                "rows_left_out",
                file=cut.file,
                offset=cut.offset,
                message=f"{cut.why}; the log ends there now",
                rows=cut.rows,
                kept_as=cut.kept_as,
            )
        if node.settings.force_recovery and not node.left_out:
            self._log.info(
                "force_recovery_unused",
                message="--force-recovery: all of the log that is needed is whole; nothing was left out",
            )

    def _overrule(self) -> None:
        self._has_overruled = True
        self._log.warning(
            "amnesia_overruled", message="--force-trust: votes and confirmed rows may be forgotten"
        )

    def _is_log_whole(self, recovered: Recovered) -> bool:
        """ADR 14. False: the flag is on disk, before a new file of the log hides what is missing."""
        if recovered.lost is None:
            return True
        self._log.warning("log_incomplete", message=f"{recovered.lost}; acknowledged rows may be lost")
        if self._node.settings.force_trust:
            self._overrule()
            return True
        self._node.directory.set_amnesia(True)
        return False

    def _replay(self, recovered: Recovered, now: float) -> Instance:
        """Into memory. Raises `_Stopped`. Nothing made here is garbage: none is looked for."""
        settings, directory = self._node.settings, self._node.directory
        self._node.progress.at = recovered.read

        def ensure_wanted() -> None:
            if self._stop.is_set():
                raise _Stopped

        def spaces() -> Iterator[tuple[int, Sequence[Tuple]]]:
            for chunk in recovered.tuples():
                ensure_wanted()
                yield chunk

        def txns() -> Iterator[Txn]:
            for batch in recovered.batches():
                ensure_wanted()
                yield from batch

        was_collecting = gc.isenabled()
        gc.disable()
        try:
            return recover_instance(
                uuid=self._node.uuid,
                settings=settings,
                meta=recovered.meta,
                spaces=spaces(),
                txns=txns(),
                rng=random.Random(),
                trusted=not directory.identity.amnesia,
                now=now,
                is_log_whole=lambda: self._is_log_whole(recovered),
            )
        finally:
            if was_collecting:
                gc.enable()

    def _check_set(self, instance: Instance) -> None:
        directory = self._node.directory
        stored = instance.memtx.catalog.replicaset_uuid() or ""
        _check_wanted_set(directory.settings, stored, "snapshot")
        expected = directory.identity.replicaset_uuid
        if expected is not None and stored != expected:
            raise ReplicasetUuidMismatch(
                f"Replica set UUID mismatch: expected {expected} (identity file), got {stored} (snapshot); "
                "nothing was changed",
                expected=expected,
                got=stored,
            )
        directory.set_replicaset(stored)

    # -------------------------------------------------------------------------------------------------- work

    async def _work(self, instance: Instance, recovered: Recovered) -> None:
        node, links, settings = self._node, self._links, self._node.settings
        if settings.wal_mode is not WalMode.FSYNC:
            self._log.warning(
                "wal_mode", message="an acknowledgement is not on disk: confirmed rows may be lost"
            )
        disk = WalDisk()
        journal = await trio.to_thread.run_sync(
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


def _check_wanted_set(settings: Settings, found: str, where: str) -> None:
    """The configuration may name the set [M-2]."""
    wanted = settings.replicaset_uuid
    if wanted and found and wanted != found:
        raise ReplicasetUuidMismatch(
            f"Replica set UUID mismatch: expected {wanted} (database.replicaset_uuid), got {found} "
            f"({where}); nothing was changed",
            expected=wanted,
            got=found,
        )


def _write_first_snapshot(directory: DataDirectory) -> None:
    """Snapshot 0 of a new replica set: its UUID, this instance as number 1 [M-2], [W-34], and the users of
    the configuration [C-43]."""
    settings, identity = directory.settings, directory.identity
    replicaset_uuid = settings.replicaset_uuid or str(uuid.uuid4())
    memtx = Memtx(settings.limits)
    memtx.begin_bulk()
    rows = first_rows(
        replicaset_uuid=replicaset_uuid,
        replicaset_name=settings.replicaset_name,
        instance_uuid=identity.instance_uuid,
        instance_name=identity.name,
    )
    for space_id, tuples in [*rows, *credentials.first_rows(settings.credentials)]:
        memtx.load(space_id, tuples)
    memtx.end_bulk()
    write_snapshot(
        directory.disk,
        settings.snapshot_dir,
        replace(SnapshotMeta(), replicaset_uuid=replicaset_uuid),
        memtx.freeze(),
        instance_uuid=identity.instance_uuid,
    )
    directory.set_replicaset(replicaset_uuid)
