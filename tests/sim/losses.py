"""Directories that are lost, cut, zeroed, or replaced by an old copy; and what is asked then.

At most N - Q instances of a world have such a disk, so a quorum's disks are kept. A loss shows on the disk,
by the note in the identity file, or at the first contact with a member that knows what was acknowledged (ADR
14). An instance that votes before either lost what nobody alive could tell: the run ends there, and nothing
more is asked of it.

A directory without a snapshot, or with damage that the files show, is seeded again from a member, with the
functions of a real join. That a lost identity gets a new UUID, and a row in `_cluster`, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

from synchro.errors import Corruption, XlogGap
from synchro.ids import LOCAL, NOBODY, InstanceId
from synchro.instance.recovery import snapshot_view
from synchro.row import RaftState, Txn
from synchro.server.directory import DataDirectory
from synchro.server.join import _Received, _store
from synchro.server.peer_messages import JoinEnd, JoinStart
from synchro.storage.identity import Identity, IdentityFile
from synchro.storage.names import IDENTITY_NAME
from synchro.storage.notes import LogNote
from synchro.storage.recovery import open_xlog
from synchro.storage.snapshot import iter_chunks
from synchro.storage.xlog import SNAP_SUFFIX, XLOG_SUFFIX, is_file_name
from synchro.vclock import EMPTY_VCLOCK, AckNote, Vclock
from tests.mesh import REPLICASET, uuid_of
from tests.sim.disk import Fault, SimDisk
from tests.sim.model import LogModel
from tests.sim.rows import as_peers_see, shown_to_peers

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.net import Accepted, Hello
    from tests.sim.process import Process
    from tests.sim.world import World

DIR = "data"
KINDS: Final = ("directory", "data", "last file", "cut at a border", "cut", "zeros", "old copy")
RETRY_S = 0.1


class NobodyCouldTell(Exception):
    """An instance with an old state voted, or wrote, before it met one who knows: nothing more is asked."""


@dataclass
class Damage:
    """Of a disk, until the instance is up again. must_show: the note of the log says so. is_whole: what is
    there was consistent once, so nothing on the disk may call it lost."""

    kind: str
    former: list[Txn]
    """What was synced before it."""
    must_show: bool = False
    is_whole: bool = False


@dataclass
class Copy:
    disk: SimDisk
    truth: list[Txn]
    base: int
    base_vclock: Vclock


class Losses:
    """The nemesis of disks, and what it knows about them."""

    def __init__(self, world: World) -> None:
        self.world = world
        rng = self.rng = world.choices.stream("losses")
        is_eligible = not (world.may_diverge or world.is_async or world.is_quiet or world.calm.is_on)
        spare = world.size - world.quorum if is_eligible else 0
        chosen = rng.random() < 0.3 and spare > 0
        self.lossy: list[int] = sorted(rng.sample(range(1, world.size + 1), spare)) if chosen else []
        """Instances whose disk may lose something."""
        self.kinds = [kind for kind in KINDS if rng.random() < 0.5] or ["old copy"]
        self.rate = rng.choice((0.1, 0.3, 0.8)) / world.time_scale
        self.ever: set[int] = set()
        """Who lost something."""
        self.hidden: dict[int, Vclock] = {}
        """Who lost something that nothing has shown yet -> what it had shown to others."""
        self.forgetful: set[int] = set()
        """Whose flag must be on its disk."""
        self.copies: dict[int, Copy] = {}

    # --- faults

    def start(self) -> None:
        if self.lossy:
            self._schedule()
        if "old copy" in self.kinds:  # of early ones: the later a copy is, the less is lost by it
            early = self.world.choices.stream("copies")
            for number in self.lossy:
                at = self.world.now + early.uniform(0.0, 5.0) * self.world.time_scale
                self.world.at(at, self._copy, self.world.machines[number])

    def _schedule(self) -> None:
        self.world.at(self.world.now + self.rng.expovariate(1.0) / self.rate, self._act)

    def _act(self) -> None:
        world, rng = self.world, self.rng
        if world.clients_stopped:
            return
        machine = world.machines[rng.choice(self.lossy)]
        kind = rng.choice(self.kinds)
        if kind == "old copy" and (machine.number not in self.copies or rng.random() < 0.3):
            self._copy(machine)
        elif not self._is_another_ill(machine) or rng.random() < 0.1:
            self.lose(machine, kind)
        self._schedule()

    def _is_another_ill(self, machine: Machine) -> bool:
        """Two in amnesia need a person, which is seen now and then only."""
        ill = {m.number for m in self.world.machines.values() if m.damage is not None}
        return bool((ill | set(self.hidden) | self.forgetful) - {machine.number})

    def _copy(self, machine: Machine) -> None:
        """Of all files at one instant."""
        if machine.damage is None and not machine.is_paused:
            disk = machine.disk.clone()
            disk.restart(list(disk.unsynced))
            self.copies[machine.number] = Copy(disk, list(machine.truth), machine.base, machine.base_vclock)

    def lose(self, machine: Machine, kind: str) -> None:
        """While it is down, or because it is."""
        world, rng = self.world, self.rng
        if machine.process is not None:
            machine.kill() if rng.random() < 0.5 else machine.cut_power()
        if machine.damage is not None:
            return
        if kind == "old copy" and world.checks.were_given_again(_rows(self.copies[machine.number].disk)):
            world.hits["a copy from before a loss is left alone"] += 1
            return
        disk = machine.disk
        disk.faults.clear()
        disk.restart(list(disk.unsynced))
        world.note(machine.number, f"lose: {kind}")
        world.hits["fault lose " + kind] += 1
        damage = Damage(kind, list(machine.truth))
        names = [name for name in disk.listdir(DIR) if is_file_name(name, XLOG_SUFFIX)]
        match kind:
            case "directory" | "data":
                _empty(disk, with_identity=kind == "directory")
            case "old copy":
                copy = self.copies[machine.number]
                machine.disk = copy.disk.clone()
                machine.truth, machine.base = list(copy.truth), copy.base
                machine.base_vclock = copy.base_vclock
                damage.is_whole = True
                self.forgetful.discard(machine.number)
            case _:
                if not names:
                    return
                self._spoil(disk, names[-1], damage)
        machine.damage = damage
        machine.noted = {}
        if rng.random() < 0.4:  # it dies once more while it comes back
            machine.disk.faults[machine.disk.calls + rng.randint(1, 12)] = Fault.CUT

    def _spoil(self, disk: SimDisk, name: str, damage: Damage) -> None:
        """The last file of the log."""
        rng = self.rng
        path = f"{DIR}/{name}"
        file = IdentityFile.load(disk, DIR)
        noted: LogNote | None = None
        if file is not None:
            noted = file.notes.log
            file.close()
        old = disk.read(path)
        if damage.kind == "last file":
            new: bytes | None = None
            disk.unlink(path)
            disk.restart(list(disk.unsynced))
        else:
            with open_xlog(disk, path) as reader:
                borders = [block.offset for block in reader.blocks()]
                borders.append(reader.end)
            if rng.random() < 0.5:
                borders = borders[-4:]
            at = rng.choice(borders)
            if damage.kind != "cut at a border":
                at = rng.choice((at, max(0, at - rng.randint(1, 600)), rng.randint(0, len(old))))
            new = old[:at] if damage.kind != "zeros" else old[:at].ljust(len(old), b"\0")
            disk.replace(path, new)
        if noted is not None and noted.name == name:
            length = noted.length
            damage.must_show = new is None or new[:length].ljust(length, b"\0") != old[:length]

    # --- coming back

    def refused(self, machine: Machine, error: Corruption | XlogGap) -> bool:
        """Damage that the files show: the person does what the text says. False: there was no damage."""
        if machine.damage is None:
            return False
        self.world.hits["damage refused"] += 1
        machine.world.note(machine.number, f"refused: {error.message}")
        machine.disk.faults.clear()  # a person's hand
        machine.disk.restart(list(machine.disk.unsynced))
        _empty(machine.disk, with_identity=False)
        return True

    def is_there(self, machine: Machine) -> bool:
        """Its data, if need be by a join. False: nobody can be asked for it now. Raises what the disk
        raises."""
        has_snapshot = any(is_file_name(name, SNAP_SUFFIX) for name in machine.disk.listdir(DIR))
        return has_snapshot or self.seed_again(machine)

    def seed_again(self, machine: Machine) -> bool:
        """What a join would write (`server/join.py`)."""
        world, rng = self.world, self.rng
        source = self._source(machine)
        if source is None:
            return False
        assert source.process is not None
        world.hits["seeded again"] += 1
        meta, spaces = snapshot_view(source.process.instance, with_local=False)
        start = meta.vclock.without_local()
        meta = replace(meta, vclock=start, vote=NOBODY)
        known = [as_peers_see(txn) for txn in source.truth if txn.origin != LOCAL]
        base = [txn for txn in known if txn.lsn <= start.get(txn.origin)]
        later = [txn for txn in known if txn.lsn > start.get(txn.origin)]
        later = later[: rng.choice((0, len(later), rng.randint(0, len(later))))]
        frames = [bytes(f) for f in iter_chunks(meta, spaces, chunk_bytes_max=1 << 16)]
        file = IdentityFile.load(machine.disk, DIR)
        if file is None:
            identity = Identity(uuid_of(machine.number), f"i{machine.number}")
            file = IdentityFile.create(machine.disk, DIR, identity)
        settings = replace(machine.settings, wal_dir=DIR, snapshot_dir=DIR)
        directory = DataDirectory(machine.disk, settings, cast(Any, None), file)
        directory.begin_first_start()
        is_known_name = file.identity.replicaset_uuid is None
        if is_known_name:
            directory.set_amnesia(True)  # `_receive`
        self.forgetful.add(machine.number)
        end = JoinEnd(start, InstanceId(machine.number))
        _store(
            directory, _Received(JoinStart(start, REPLICASET, b""), meta, frames, later, end, is_known_name)
        )
        # The snapshot is what counts, also if the disk takes nothing more: the next start is one from it.
        if machine.damage is None:
            machine.damage = Damage("join", list(machine.truth))
        machine.truth, machine.base, machine.base_vclock = base, len(base), start
        directory.set_replicaset(REPLICASET)
        file.close()
        return True

    def _source(self, machine: Machine) -> Machine | None:
        world = self.world
        found = [
            m
            for m in world.machines.values()
            if m is not machine
            and m.process is not None
            and not m.is_paused
            and not m.process.instance.has_amnesia
            and m.number not in self.hidden
            and not world.net.blocked & {(m.number, machine.number), (machine.number, m.number)}
        ]
        return self.rng.choice(found) if found else None

    def recovered(self, process: Process, log: list[Txn]) -> None:
        """It is up again: what is gone, and whether it knows."""
        machine, checks = process.machine, self.world.checks
        number, damage = machine.number, machine.damage
        is_trusted = process.instance.acks_count
        if number in self.forgetful and is_trusted:
            checks.fail("S14", f"{number}: the flag of amnesia is gone from its disk")
        if damage is None:
            return
        machine.damage = None
        del machine.truth[machine.base + len(log) :]
        # By bytes: LSNs of local rows, votes that is, begin anew with each join.
        here = {(txn.origin, txn.lsn, shown_to_peers(txn)) for txn in (*machine.truth, *log)}
        lost = [txn for txn in damage.former if (txn.origin, txn.lsn, shown_to_peers(txn)) not in here]
        if damage.must_show and is_trusted:
            checks.fail("S14", f"{number} trusts a log that its note calls incomplete ({damage.kind})")
        model = LogModel()
        for txn in machine.truth:
            for _ in model.apply(txn):
                pass
        for origin, lsn in machine.model.lsns.items():
            machine.held[origin] = max(lsn, machine.held.get(origin, 0))
        machine.model = model
        if not lost and is_trusted and not damage.is_whole:  # an old copy may lack a term that no row tells
            return
        self.ever.add(number)
        self.world.hits["rows lost"] += bool(lost)
        shown = machine.shown.merge(self.hidden.pop(number, EMPTY_VCLOCK))
        if is_trusted:
            self.hidden[number] = shown
            self.world.hits["a loss that nothing on the disk shows"] += 1
        machine.shown, machine.shown_term = EMPTY_VCLOCK, process.instance.raft.term
        checks.forget(machine, lost)

    # --- what is asked

    def row_synced(self, machine: Machine, txn: Txn) -> None:
        """Called before anything else is made of it."""
        lost = self.hidden.get(machine.number)
        if lost is None:
            return
        number, body = machine.number, txn.rows[0].body
        if txn.origin == number and txn.lsn <= lost.get(txn.origin):
            self._nobody_could_tell(number)
        if txn.origin != LOCAL or not isinstance(body, RaftState) or body.vote == NOBODY:
            return
        known = self.world.checks.votes.get((number, body.term), body.vote)
        if known != body.vote or not Vclock(machine.model.lsns).covers(lost):  # type: ignore[arg-type]
            self._nobody_could_tell(number)

    def _nobody_could_tell(self, number: int) -> None:
        self.world.hits["an old state voted before somebody told it"] += 1
        raise NobodyCouldTell(f"{number} lost something, and met nobody who knew")

    def begins_amnesia(self, number: int) -> bool:
        """False: it has no reason to."""
        if self.hidden.pop(number, None) is not None:
            self.world.hits["a loss is shown by a member"] += 1
        return number in self.ever

    def contacted(self, process: Process, accepted: Accepted, own: Vclock) -> None:
        """S14: whoever remembers more of us than we have tells us, and then we do not trust our log."""
        number, instance = process.number, process.instance
        if not process.is_alive or not instance.acks_count:
            return
        if not own.covers(accepted.expected):
            self.world.checks.fail(
                "S14", f"{number} is at {own}, a member knows that it acknowledged {accepted.expected}"
            )
        if accepted.vclock.get(instance.self_id) > own.get(instance.self_id):
            self.world.checks.fail("S14", f"{number} is at {own}, a member has rows of it: {accepted.vclock}")

    # --- what a member must remember of the acks of others (an independent `AckMemory`)

    def said_hello(self, process: Process, peer: int, hello: Hello) -> Vclock:
        """What it must be told at least."""
        known = process.machine.known
        told = known.get(peer, AckNote(EMPTY_VCLOCK))
        if hello.counts and told.forgot:
            told = AckNote(EMPTY_VCLOCK)
        vclock = told.vclock.merge(hello.vclock) if hello.counts else told.vclock
        known[peer] = AckNote(vclock, not hello.counts)
        return told.vclock

    def acked(self, process: Process, peer: int, vclock: Vclock, *, counts: bool) -> None:
        known = process.machine.known
        before = known.get(peer, AckNote(EMPTY_VCLOCK))
        if not counts:
            known[peer] = AckNote(before.vclock, forgot=True)
        elif before.forgot:
            known[peer] = AckNote(vclock)
        else:
            known[peer] = AckNote(before.vclock.merge(vclock))

    # --- at the end

    def is_settled(self) -> bool:
        """All are up and have met all others, all trust their logs, and nobody needs rows that only a former
        life had."""
        machines = self.world.machines.values()
        bases = [m.base_vclock for m in machines]
        return all(
            m.process is not None
            and len(m.process.relays) == len(machines) - 1
            and all(applier.is_accepted for applier in m.process.appliers.values())
            and m.process.instance.acks_count
            and all(m.process.instance.vclock.covers(base) for base in bases)
            for m in machines
        )

    def overrule(self) -> bool:
        """Two in amnesia cannot vouch for each other: `--force-trust`. False: they can help themselves."""
        machines = self.world.machines.values()
        ill = [m for m in machines if m.process is not None and not m.process.instance.acks_count]
        if len(ill) < 2:
            return False
        for machine in ill:
            self.world.hits["a person decides for two in amnesia"] += 1
            machine.kill()
            file = IdentityFile.load(machine.disk, DIR)
            assert file is not None
            file.save(replace(file.identity, amnesia=False))
            file.close()
            self.forgetful.discard(machine.number)
        return True


def _empty(disk: SimDisk, *, with_identity: bool) -> None:
    for name in disk.listdir(DIR):
        if with_identity or name != IDENTITY_NAME:
            disk.unlink(f"{DIR}/{name}")
    disk.restart(list(disk.unsynced))


def _rows(disk: SimDisk) -> Iterator[Txn]:
    """All that a restart may find there, synced or not."""
    for name in disk.listdir(DIR):
        if is_file_name(name, XLOG_SUFFIX):
            with suppress(Corruption), open_xlog(disk, f"{DIR}/{name}") as reader:
                for block in reader.blocks():
                    yield from reader.txns(block)
