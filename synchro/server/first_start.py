"""The first start of an instance: its set is made, or it joins one. Rules [M-10], [M-11], [M-26], [M-27]."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from synchro.errors import (
    AccessDenied,
    BadCredentials,
    ConfigError,
    Loading,
    LoginLimited,
    LoginQueueFull,
    PlainConnection,
    QuorumWait,
    ReadOnly,
    RemoteProtocolError,
    SessionUnknown,
    SynchroError,
    SyncQueueFull,
    SyncRollback,
    SyncTimeout,
    TimedOut,
    WalQueueFull,
)
from synchro.replication.ballot import Ballot
from synchro.replication.bootstrap_choice import BootstrapHere, JoinFrom, WaitForPeers
from synchro.server import credentials
from synchro.server.applier import WRONG_LOGIN
from synchro.server.bootstrap import POLL_S, check_wanted_set, find_role
from synchro.server.directory import DataDirectory
from synchro.server.join import join, tell_stage
from synchro.server.node import Node
from synchro.server.peer_messages import LinkLost
from synchro.server.peers import Peers
from synchro.server.progress import ReceivedSoFar
from synchro.server.reminders import Reminder
from synchro.storage.memtx import Memtx
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.storage.system_rows import first_rows
from synchro.threads import in_thread

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
        LoginLimited,
        LoginQueueFull,
        SessionUnknown,
        PlainConnection,
    )
)
"""Answers to a join that pass by themselves: another source may be writable by then [M-26], [M-27], or may
have data that is not broken; the user may get its privileges."""


def forget_set(node: Node) -> None:
    """`--new-set`: a person says that the set of this instance is gone."""
    directory = node.directory
    former = directory.identity.replicaset_uuid
    if former is None:
        node.log.info("new_set_unused", message="--new-set: this instance belongs to no set yet")
        return
    if directory.has_data:
        raise ConfigError(
            f"{directory.settings.snapshot_dir} has data of replica set {former}, so --new-set is "
            "refused; nothing was changed. Next: start without it, or move the files away first"
        )
    directory.forget_replicaset()
    node.log.warning(
        "replicaset_forgotten", replicaset_uuid=former, message="--new-set: what it held is given up"
    )


class FirstStart:
    """One that was a member joins its set again, in amnesia, or waits (ADR 14)."""

    def __init__(self, node: Node, peers: Peers) -> None:
        self._node = node
        self._peers = peers
        self._waits = Reminder(node.log)
        self._wrong_logins = 0
        """How many joins in a row were refused so, at most WRONG_LOGINS_MAX."""
        self._joins = ""
        """The address from which it joined last."""

    async def run(self) -> bool:
        """Until the directory has data. Returns whether the set was made here."""
        node, directory = self._node, self._node.directory
        directory.begin_first_start()
        node.stage = "bootstrap"
        tried: JoinFrom | None = None
        while True:
            role = await find_role(
                lambda: node.settings,
                node.uuid,
                node.transport,
                publish=self._publish,
                note=self._note,
                order=node.bootstrap_order,
                replicaset_uuid=directory.identity.replicaset_uuid or "",
                tried=tried,
            )
            if isinstance(role, BootstrapHere):
                await self._make_set()
                return True
            check_wanted_set(node.settings, role.ballot.replicaset_uuid, role.ballot.instance_name)
            if await self._join(role):
                return False
            tried = role

    def _publish(self, ballot: Ballot) -> None:
        self._peers.bootstrap_ballot = ballot
        self._node.bootstrap_leader_uuid = ballot.bootstrap_leader_uuid

    def _note(self, wait: WaitForPeers) -> None:
        self._node.waiting.wait(wait.why, POLL_S)
        self._waits.say("bootstrap_waiting", wait.why, is_urgent=wait.is_bereft)

    async def _make_set(self) -> None:
        node, directory = self._node, self._node.directory
        directory.set_amnesia(False)  # Of a set that is new nothing can be forgotten.
        await in_thread(_write_first_snapshot, directory)
        node.bootstrap_leader_uuid = node.uuid
        node.bootstrap_order.made(directory.identity.replicaset_uuid or "")
        node.log.info("replicaset_bootstrapped", replicaset_uuid=directory.identity.replicaset_uuid)

    async def _join(self, role: JoinFrom) -> bool:
        """One try. False: it was in vain, and the pause before the next one is over."""
        node, ballot = self._node, role.ballot
        node.stage = "join"
        if role.address != self._joins:
            self._joins = role.address
            message = f"bootstrapping replica from {ballot.instance_uuid} at {role.address}"
            node.log.info("joining", peer=ballot.instance_name, message=message)
        node.progress.at = so_far = ReceivedSoFar(ballot.instance_name, role.address)
        is_refused = False
        try:
            end = await join(
                node.directory,
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
            node.bootstrap_leader_uuid = ballot.bootstrap_leader_uuid
            node.log.info("joined", id=end.id, vclock=str(end.vclock))
            return True
        node.progress.at = None
        node.directory.begin_first_start()
        self._wrong_logins = min(self._wrong_logins + 1, WRONG_LOGINS_MAX) if is_refused else 0
        pause_s = min(JOIN_RETRY_S, node.settings.replication_timeout_s) * 2**self._wrong_logins
        message = f"{why}; will retry every {pause_s:g} second"
        self._waits.say("join_retry", message, kind=why, peer=ballot.instance_name)
        node.waiting.wait(f"to join {ballot.instance_name} ({role.address}): {why}", pause_s)
        await trio.sleep(pause_s)
        return False


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
