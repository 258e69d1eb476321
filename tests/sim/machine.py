"""The machine of one instance of the simulator: its disk, its clock, and what is remembered by the checkers.

A `Process` is one life of the instance on it. Recovery is the real one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from synchro.config import Limits, Settings
from synchro.errors import Corruption, DiskFailed, WalIo, XlogGap
from synchro.ids import InstanceId, Term
from synchro.instance import events as ev
from synchro.instance.recovery import recover_instance
from synchro.raft.messages import RaftMessage
from synchro.row import Field, Txn
from synchro.storage.identity import Identity, IdentityFile
from synchro.storage.journal import Journal, WalFile
from synchro.storage.recovery import Recovered, open_xlog, recover
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.vclock import EMPTY_VCLOCK, AckNote, Vclock
from tests.mesh import REPLICASET, first_tuples, uuid_of
from tests.sim.disk import Fault, PowerCut, SimDisk
from tests.sim.links import Relay
from tests.sim.losses import RETRY_S, Damage
from tests.sim.model import LogModel
from tests.sim.net import REFUSED, SAYS_GAP, Conn, Hello, Refused, SaysExpelled
from tests.sim.process import DIR, Process

if TYPE_CHECKING:
    from tests.sim.world import World

SMALL = Limits(
    wal_lead_bytes=16384,
    wal_control_reserve_bytes=4096,
    wal_block_bytes_max=4096,
    wal_max_size=1 << 20,
    turn_work_bytes_max=20_000,
)


@lru_cache
def _spaces(members: int, conflict: str) -> list[tuple[int, Iterable[tuple[Field, ...]]]]:
    return first_tuples(members, Settings(), conflict=conflict)


def read_log(disk: SimDisk, files: Sequence[WalFile]) -> list[Txn]:
    """All transactions in a chain of files, in WAL order, as relays read them."""
    log: list[Txn] = []
    for number, file in enumerate(files):
        limit = files[number + 1].vclock if number + 1 < len(files) else None
        with open_xlog(disk, file.path) as reader:
            for block in reader.blocks():
                for txn in reader.txns(block):
                    if limit is None or txn.lsn <= limit.get(txn.origin):
                        log.append(txn)
    return log


class Machine:
    """A disk, a clock, and what this instance has ever shown to others."""

    def __init__(self, world: World, number: int, settings: Settings) -> None:
        self.world = world
        self.number = number
        self.settings = settings
        self.rng: random.Random = world.choices.stream("machine", number)
        self.is_older: bool = number in world.older
        """Its version reads no shared transactions in which calls have no request id (ADR 13)."""
        self.clock_rate = 1.0
        self.clock_offset = 0.0
        self.disk_min, self.disk_mean = 0.0005, 0.002
        self.stall_until = 0.0
        self.frame_txns_max = 100
        self.rows_held: dict[int, float] = {}
        """peer -> until when its relay sends heartbeats and Raft messages, but no rows"""
        self.paused_until = 0.0
        self._paused_at = 0.0
        self._has_stood = False
        """A pause began, and what stands in it was not asked yet."""
        self._held_up: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        """What happens when it goes on, in order."""
        self.note_share = self.rng.choice((0.05, 0.3, 1.0))
        """of the batches that are followed by a note soon"""
        self.lives = 0
        self.process: Process | None = None
        self.disk = SimDisk()
        self.disk.makedirs(DIR)
        meta = SnapshotMeta(replicaset_uuid=REPLICASET)
        spaces = _spaces(world.size, "stop" if world.masters is None else "last_write_wins")
        write_snapshot(self.disk, DIR, meta, spaces, instance_uuid=uuid_of(number))
        self.identity = IdentityFile.create(
            self.disk, DIR, Identity(uuid_of(number), f"i{number}", REPLICASET)
        )
        self.shown = EMPTY_VCLOCK
        self.shown_term = Term(1)
        self.votes: dict[int, int] = {}
        self.truth: list[Txn] = []
        """Every transaction that was ever synced here and not lost, in WAL order."""
        self.base = 0
        """How many of them came with a snapshot from another instance."""
        self.base_vclock = EMPTY_VCLOCK
        self.damage: Damage | None = None
        """What was done to the disk since it was up last."""
        self.held: dict[int, int] = {}
        """Origin -> highest LSN that was synced in a former life."""
        self.known: dict[int, AckNote] = {}
        """What this process heard of the acks of others, and what it noted of it: see `Losses`."""
        self.noted: dict[int, AckNote] = {}
        self.model = LogModel()

    @property
    def may_stand(self) -> bool:
        """It runs, and is a member by its own log: who reads there that it is removed stands no more, though
        that is not decided."""
        instance = None if self.process is None else self.process.instance
        return instance is not None and instance.self_id in instance.raft.membership.registered

    # --- pauses

    @property
    def is_paused(self) -> bool:
        return self.paused_until > self.world.now

    def pause(self, until: float) -> None:
        """SIGSTOP. Of two pauses the one counts that ends later."""
        if not self.is_paused:
            self._paused_at, self._has_stood = self.world.now, True
        self.paused_until = max(self.paused_until, until)

    def wake(self) -> None:
        """SIGCONT, before its time."""
        if self.is_paused:
            self.paused_until = self.world.now
            self.world.at(self.world.now, self._go_on)

    def has_stood_still(self, longer_than_s: float) -> bool:
        """Asked before its next step; once for each pause, in seconds of its own clock."""
        has_stood, self._has_stood = self._has_stood, False
        return has_stood and (self.paused_until - self._paused_at) * self.clock_rate > longer_than_s

    def after_pause(self, call: Callable[..., None], *args: Any) -> None:
        """`call` comes when the pause of now ends, whenever that is."""
        if not self._held_up:
            self.world.at(self.paused_until, self._go_on)
        self._held_up.append((call, args))

    def _go_on(self) -> None:
        if not self._held_up:
            return
        if self.is_paused:
            self.world.at(self.paused_until, self._go_on)
            return
        held_up, self._held_up = self._held_up, []
        for call, args in held_up:
            call(*args)

    # --- what it has told others

    def shows(self, vclock: Vclock) -> None:
        if not self.shown.covers(vclock):
            self.shown = self.shown.merge(vclock)

    def shows_vote(self, message: RaftMessage) -> None:
        self.world.checks.vote_shown(self, message)

    # --- disk

    def write_latency(self) -> float:
        latency = self.disk_min + self.rng.expovariate(1.0) * self.disk_mean
        if self.stall_until > self.world.now:
            latency += self.stall_until - self.world.now
        return latency

    def synced(self, txns: Sequence[Txn]) -> None:
        for txn in txns:
            self.truth.append(txn)
            self.world.checks.row_synced(self, txn)

    def set_amnesia(self, amnesia: bool) -> None:
        """Raises what the disk raises: nothing goes on before it is done."""
        self.identity.save(replace(self.identity.identity, amnesia=amnesia))

    def is_log_whole(self, found: Recovered) -> bool:
        """As `Life` asks it: the flag is on disk before the journal opens."""
        if found.lost is None:
            return True
        self.world.checks.log_lost(self, found.lost)
        self.world.losses.forgetful.add(self.number)
        self.set_amnesia(True)
        return False

    # --- life

    @property
    def is_snapshotting(self) -> bool:
        return self.process is not None and self.process.is_snapshotting

    @property
    def is_up(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        """Recover and run. Raises what recovery raises: with an honest disk it never does."""
        assert self.process is None
        world = self.world
        self.lives += 1
        world.note(self.number, "start")
        self.disk.log.clear()
        try:
            if self.damage is not None and not world.losses.is_there(self):
                world.at(world.now + RETRY_S * world.time_scale, self.start_again)
                return
            world.logs.go_on(self)
            identity = IdentityFile.load(self.disk, DIR)
            assert identity is not None
            self.identity = identity
            found = recover(self.disk, DIR, DIR, uuid_of(self.number), identity.notes.log)
            assert found is not None
            now = self.clock_offset + world.now * self.clock_rate
            instance = recover_instance(
                uuid=uuid_of(self.number),
                settings=self.settings,
                meta=found.meta,
                spaces=found.tuples(),
                txns=chain.from_iterable(found.batches()),
                rng=world.choices.stream("instance", self.number, self.lives),
                trusted=not identity.identity.amnesia,
                now=now,
                is_log_whole=lambda: self.is_log_whole(found),
            )
            if world.logs.joins_again(self, instance, identity):
                identity.close()
                self.start()
                return
            journal = Journal(
                self.disk,
                DIR,
                instance_uuid=uuid_of(self.number),
                new_salt=lambda: self.rng.getrandbits(64),
                start=found.journal_start,
                limits=world.limits,
                identity=identity,
            )
        except PowerCut:
            self.disk.crash(self.rng)
            self.after_crash()
            return
        except (DiskFailed, WalIo, OSError):
            self.disk.restart(None)
            self.after_crash()
            return
        except (Corruption, XlogGap) as error:
            if not world.losses.refused(self, error):
                raise
            self.after_crash()
            return
        log = read_log(self.disk, journal.files)
        world.logs.rebase(self, journal.files[0].vclock)
        if self.is_older and self.lives > 1 and self.world.versions.random() < 0.3:
            self.is_older = False
            self.world.hits["instance upgraded"] += 1
        process = Process(self, instance, journal, log)
        if found.torn_tail is not None and self.lives > 1:
            world.hits["restart without a clean stop"] += 1
        world.checks.recovered(process, log, found.meta)
        self.process = process
        process.start()
        if world.masters is not None:
            world.masters.set_clock(self)

    def after_crash(self) -> None:
        self.disk.faults.clear()
        self.disk.room = None
        if self.world.restarts_by_itself:
            down_s = self.rng.choice((0.05, 0.5, 2.0)) * self.rng.uniform(0.5, 4.0) * self.world.time_scale
            if self.world.clients_stopped:  # a stop that a pause had held up: it is to be healthy soon (S21)
                down_s = min(down_s, 0.5 * self.world.time_scale)
            self.world.at(self.world.now + down_s, self.start_again)

    def start_again(self) -> None:
        if self.process is None and not self.world.is_over and self.number not in self.world.broken:
            self.start()

    def _end(self) -> Process | None:
        process, self.process = self.process, None
        if process is None:
            return None
        if self.world.checks.ahead(process):
            self.world.hits["owner died with unannounced commits"] += 1
        process.die()
        return process

    def _tear(self, process: Process) -> None:
        """Die inside a write, at any call of it."""
        if process.batch is None or self.rng.random() < 0.3:
            return
        self.world.hits["died inside a write"] += 1
        self.disk.faults[self.disk.calls + self.rng.choice((1, 2, 2, 2, 3, 4))] = Fault.CUT
        with suppress(PowerCut, WalIo, DiskFailed):
            process.append_now()

    def _drop_links(self, process: Process, *, tell: bool) -> None:
        for relay in list(process.relays.values()):
            relay.is_open = False
            relay.conn.relay = None
            if tell:
                self.world.net.send(relay.conn.down, REFUSED)
            else:
                relay.conn.is_dead = self.rng.random() < 0.5
        for applier in process.appliers.values():
            conn, applier.conn = applier.conn, None
            if conn is not None:
                conn.applier = None
                if tell:
                    self.world.net.send(conn.up, REFUSED)
                else:
                    conn.is_dead = self.rng.random() < 0.5

    def stop_cleanly(self) -> None:
        if self.process is not None:
            self.process.begin_stop()

    def end_cleanly(self, process: Process) -> None:
        """The core has said that it is done: the log is closed, then the links."""
        if process is not self.process or process.wait_out_pause(self.end_cleanly, process):
            return
        if process.batch is not None:  # a vote, say, that came meanwhile
            self.world.at(self.world.now + 0.001, self.end_cleanly, process)
            return
        self.world.hits["clean stop"] += 1
        self.world.checks.stops_cleanly(process)
        self._end()
        self._drop_links(process, tell=True)
        try:
            process.journal.close_clean(1.0)
        except PowerCut:
            self.disk.crash(self.rng)
        except (DiskFailed, WalIo, OSError):
            self.disk.restart(None)
        self.after_crash()

    def give_up_stop(self, process: Process) -> None:
        if process is self.process:
            self.world.hits["clean stop took too long"] += 1
            self.kill()

    def kill(self) -> None:
        """kill -9, or exit 1: the page cache survives."""
        process = self._end()
        if process is None:
            return
        self.world.note(self.number, "killed")
        self._tear(process)
        self._drop_links(process, tell=True)
        self.disk.faults.clear()
        self.disk.restart(None)
        self.after_crash()

    def cut_power(self) -> None:
        process = self._end()
        if process is None:
            return
        self._tear(process)
        self._drop_links(process, tell=False)
        self.disk.faults.clear()
        kept = self.disk.crash(self.rng)
        self.world.note(self.number, f"power cut, kept {kept}")
        self.after_crash()

    # --- subscriptions of others

    def on_up_message(self, conn: Conn, message: Any) -> None:
        process = self.process
        relay = conn.relay
        if isinstance(message, Hello):
            if process is None or conn.is_dead:
                self.world.net.send(conn.down, REFUSED)
                return
            if conn.applier is None:
                return
            if self.world.leavers.refuses(process, conn.subscriber):
                instance = process.instance
                is_told = conn.subscriber in instance.memtx.catalog.expelled()
                refusal = SaysExpelled(instance.limbo.term) if is_told else REFUSED
                self.world.net.send(conn.down, refusal)
                return
            former = process.relays.get(InstanceId(conn.subscriber))
            if former is not None:
                former.close()
            if not process.is_alive:
                return
            if not message.vclock.covers(self.base_vclock):
                self.world.hits["rows before the snapshot of a join are asked for"] += 1
                conn.relay = None
                self.world.net.send(conn.down, SAYS_GAP)
                return
            relay = Relay(process, conn, message)
            conn.relay = relay
            process.relays[relay.peer] = relay
            relay.start(message)
        elif relay is None or not relay.is_open:
            return
        elif isinstance(message, Refused):
            relay.close(tell=False)
        else:
            assert isinstance(message, ev.Ack)
            relay.on_ack(message)
