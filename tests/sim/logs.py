"""What of the log is kept, and what follows for who comes too late: it joins again (ADR 46), with the
functions of a real instance.

After a snapshot the files go that nobody needs, by the rule of `replication.retention`. In some worlds
members that are away do not count, as if a person had let them go or the disk had been full.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, cast

from synchro.ids import LOCAL, NOBODY, InstanceId
from synchro.instance.core import Instance
from synchro.instance.recovery import snapshot_view
from synchro.replication.ballot import Ballot
from synchro.replication.rejoin import Known, is_too_old, source
from synchro.replication.retention import log_floor
from synchro.row import Txn
from synchro.server.directory import DataDirectory
from synchro.server.join import _Received, _store
from synchro.server.peer_messages import JoinEnd, JoinStart
from synchro.storage.identity import IdentityFile, Rejoin
from synchro.storage.snapshot import iter_chunks
from synchro.vclock import EMPTY_VCLOCK, Vclock
from tests.mesh import REPLICASET, uuid_of
from tests.sim.disk import Fault
from tests.sim.model import LogModel
from tests.sim.rows import as_peers_see

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.process import Process
    from tests.sim.world import World

DIR: Final = "data"


class Logs:
    """In a part of the worlds, and not where disks are lost: there directories are seeded again."""

    def __init__(self, world: World) -> None:
        self.world = world
        rng = self.rng = world.choices.stream("logs")
        is_eligible = not (world.may_diverge or world.is_async or world.is_quiet or world.masters)
        self.is_on = is_eligible and not world.losses.lossy and rng.random() < 0.1
        self.waits_for_all = rng.random() < 0.3
        self.pause = rng.choice((0.1, 0.3)) * world.time_scale
        if self.is_on and not self.waits_for_all:
            world.nemesis.also("isolate", 0.3)
            world.nemesis.also("power", 0.2)
        self._snapshots: dict[tuple[int, str], Vclock] = {}
        """(instance, name of a file) -> where a recovery from it begins"""
        self._replacing: dict[int, tuple[list[Txn], Vclock]] = {}
        """Who replaces its files -> what the new ones stand for: the rows up to a snapshot, its vclock."""

    def start(self) -> None:
        if self.is_on:
            self._later()

    def _later(self) -> None:
        self.world.at(self.world.now + self.rng.expovariate(1.0) * self.pause, self._act)

    def _act(self) -> None:
        """Snapshots more often than elsewhere; and a person starts anew who is told that it is too old."""
        world, rng = self.world, self.rng
        if world.is_over:
            return
        self._later()
        machine = rng.choice(list(world.hosts.values()))
        process = machine.process
        if process is None or machine.is_paused:
            return
        if process.gaps and self._is_too_old(machine, process.instance):
            world.hits["too old to follow anybody"] += 1
            machine.kill()
        elif not world.clients_stopped:
            process.snapshot()

    # --- what is kept

    def snapshot_written(self, process: Process, name: str, vclock: Vclock, kept: list[str]) -> None:
        """Raises what the disk raises."""
        if not self.is_on:
            return
        number = process.number
        self._snapshots[number, name] = vclock
        oldest = self._snapshots.get((number, kept[0]), EMPTY_VCLOCK)
        members = process.instance.registered - {InstanceId(number)}
        if not self.waits_for_all:
            members &= process.relays.keys()
        outsiders = self.world.outsiders.numbers
        anonymous = [process.acked.get(n, EMPTY_VCLOCK) for n in outsiders if n in process.relays]
        acked = {InstanceId(peer): vclock for peer, vclock in process.acked.items()}
        floor = log_floor(oldest, members=members, acked=acked, joins=(), anonymous=anonymous)
        if process.journal.collect_garbage(floor, oldest):
            self.world.hits["files of the log go"] += 1
            self._trim(process)

    def _trim(self, process: Process) -> None:
        start = process.journal.files[0].vclock
        count = _covered(process.log, start)
        del process.log[:count]
        process.machine.base += count
        process.machine.base_vclock = start.without_local()
        for relay in list(process.relays.values()):
            relay.position -= count
            if relay.position < 0:
                relay.close()

    def rebase(self, machine: Machine, start: Vclock) -> None:
        """The log that a start finds begins here: a crash may have brought back files that were to go."""
        if self.is_on:
            machine.base = _covered(machine.truth, start)
            machine.base_vclock = start.without_local()

    def are_apart(self, numbers: set[int]) -> bool:
        """Two of these have rows that the other one lacks, in files that are gone. They were deleted although
        somebody needed them, so a person must say whose rows go (`--rejoin`)."""
        if not self.is_on or self.waits_for_all:
            return False
        up = [(m, m.process.show()) for n in numbers if (m := self.world.machines[n]).process is not None]
        return any(
            not a.covers(two.base_vclock) and not b.covers(one.base_vclock)
            for (one, a), (two, b) in combinations(up, 2)
        )

    # --- who joins again

    def _ballots(self, machine: Machine) -> dict[str, Ballot]:
        """Of who answers now."""
        world, found = self.world, {}
        for number, other in world.machines.items():
            process = other.process
            is_cut = world.net.blocked & {(number, machine.number), (machine.number, number)}
            if other is machine or process is None or other.is_paused or is_cut:
                continue
            if process.instance.state.is_expelled or process.instance.has_amnesia:
                continue
            found[str(number)] = Ballot(
                uuid_of(number),
                f"i{number}",
                is_booted=True,
                vclock=process.show(),
                gc_vclock=other.base_vclock,
                queue_owner=process.instance.limbo.owner_id,
                term=process.instance.raft.term,
            )
        return found

    def _is_too_old(self, machine: Machine, instance: Instance) -> bool:
        return is_too_old(instance.vclock.without_local(), self._ballots(machine))

    def joins_again(self, machine: Machine, instance: Instance, file: IdentityFile) -> bool:
        """At a start, before anything is written. True: the files are others now. Raises what the disk
        raises."""
        if not (self.is_on and machine.lives > 1 and self._is_too_old(machine, instance)):
            return False
        vclock = instance.vclock.without_local()
        known = Known(vclock, instance.raft.term, instance.raft.vote)
        address = source(known, self._ballots(machine))
        if address is None:
            return False
        self.world.hits["joins again"] += 1
        self._replace(machine, self.world.machines[int(address)], known, file)
        return True

    def _replace(self, machine: Machine, other: Machine, known: Known, file: IdentityFile) -> None:
        assert other.process is not None
        meta, spaces = snapshot_view(other.process.instance, with_local=False)
        start = meta.vclock.without_local()
        term, vote = known.vote_in(meta.term)
        shown = replace(meta, vclock=start, term=term, vote=vote)
        rows = [as_peers_see(txn) for txn in other.truth if txn.origin != LOCAL]
        base = [txn for txn in rows if txn.lsn <= start.get(txn.origin)]
        later = [txn for txn in rows if txn.lsn > start.get(txn.origin)]  # what is pending may be amid others
        is_member = machine.number in self.world.machines
        number = InstanceId(machine.number) if is_member else NOBODY
        settings = replace(machine.settings, wal_dir=DIR, snapshot_dir=DIR)
        directory = DataDirectory(machine.disk, settings, cast(Any, None), file)
        if self.rng.random() < 0.4:
            machine.disk.faults[machine.disk.calls + self.rng.randint(1, 40)] = Fault.CUT
        beside = directory.replacement
        beside.want(is_lossy=False)
        beside.begin()
        frames = [bytes(frame) for frame in iter_chunks(shown, spaces, chunk_bytes_max=1 << 16)]
        end = JoinEnd(start, number)
        _store(
            directory,
            _Received(JoinStart(start, REPLICASET, b""), shown, frames, later, end, is_known_name=False),
            beside,
        )
        self._replacing[machine.number] = (base, start)
        beside.carry_out(amnesia=file.identity.amnesia)

    def go_on(self, machine: Machine) -> None:
        """What a crash interrupted, at the next start; and what the files stand for."""
        if not self.is_on:
            return
        file = IdentityFile.load(machine.disk, DIR)
        assert file is not None
        settings = replace(machine.settings, wal_dir=DIR, snapshot_dir=DIR)
        DataDirectory(machine.disk, settings, cast(Any, None), file).replacement.go_on()
        state = file.identity.rejoin
        file.close()
        replaced = self._replacing.pop(machine.number, None)
        if replaced is None or state is Rejoin.WANTED:
            return  # the old files are all there
        self.world.hits["files replaced"] += 1
        machine.truth, machine.base_vclock = replaced
        if (seen := self.world.checks.seen.get(machine.number)) is not None:
            seen.vclock = seen.vclock.without_local()  # local rows begin anew
        for origin, lsn in machine.model.lsns.items():
            machine.held[origin] = max(lsn, machine.held.get(origin, 0))
        machine.model = LogModel()
        for txn in machine.truth:
            for _ in machine.model.apply(txn):
                pass


def _covered(log: list[Txn], start: Vclock) -> int:
    """How many transactions at its beginning are in files that begin before `start`."""
    count = 0
    while count < len(log) and log[count].lsn <= start.get(log[count].origin):
        count += 1
    return count
