"""Instances without data that look for each other: who makes the set, who joins whom. Rules [M-10..M-16]."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from synchro.config import BootstrapStrategy, ElectionMode, Settings
from synchro.config.settings import PeerAddress
from synchro.errors import SynchroError
from synchro.ids import InstanceId, InstanceName
from synchro.instance.core import Instance
from synchro.replication.ballot import Ballot
from synchro.replication.bootstrap_choice import BootstrapHere, JoinFrom, choose, own_ballot
from tests.mesh import REPLICASET, uuid_of
from tests.scenarios.script import ScenarioError

_OPTIONS: dict[str, Any] = {
    "read_only": ("read_only", lambda text: {"yes": True, "no": False}[text]),
    "mode": ("election_mode", ElectionMode),
    "strategy": ("bootstrap_strategy", BootstrapStrategy),
    "leader": ("bootstrap_leader", str),
    "connect_quorum": ("connect_quorum", int),
    "anon": ("is_anonymous", lambda text: {"yes": True, "no": False}[text]),
}


def ballot_of(core: Instance, settings: Settings) -> Ballot:
    """Of a running instance [M-7]."""
    return Ballot(
        instance_uuid=core.state.uuid,
        instance_name=settings.instance_name,
        replicaset_uuid=REPLICASET,
        instance_id=core.number,
        is_anonymous=core.is_anonymous,
        is_booted=True,
        is_ro_cfg=settings.read_only,
        is_ro=not core.is_writable,
        can_lead=settings.election_mode in (ElectionMode.MANUAL, ElectionMode.CANDIDATE),
        vclock=core.vclock.shown(),
        queue_owner=core.limbo.owner_id,
        term=core.raft.shown_term,
    )


class FirstStarts:
    """Newcomers by number; what each chose is in its ballot for the next who looks."""

    def __init__(self) -> None:
        self.settings: dict[int, Settings] = {}
        self.ballots: dict[int, Ballot] = {}

    def add(self, number: int, total: int, options: dict[str, str]) -> None:
        """total: instances in its configuration, itself included. options: see `_OPTIONS`; `set=lost` is one
        whose identity file names a set, though its data is gone."""
        former = REPLICASET if options.pop("set", "") == "lost" else ""
        values: dict[str, Any] = {}
        for key, text in options.items():
            if key not in _OPTIONS:
                raise ScenarioError(f"no option of a newcomer: {key}; there are {', '.join(_OPTIONS)}, set")
            field, read = _OPTIONS[key]
            try:
                values[field] = read(text)
            except (KeyError, ValueError) as error:
                raise ScenarioError(f"no value of {key}: {text}") from error
        peers = tuple(PeerAddress(f"i{n}", f"i{n}") for n in range(1, total + 1))
        self.settings[number] = Settings(instance_name=InstanceName(f"i{number}"), peers=peers, **values)
        self.ballots[number] = own_ballot(self.settings[number], uuid_of(number), former)

    def look(
        self, number: int, seen: dict[int, Ballot], *, is_time_over: bool = False, is_told: bool = False
    ) -> str:
        """What it does, given the ballots that it sees."""
        settings, me = self.settings[number], self.ballots[number]
        peers = {f"i{n}": ballot for n, ballot in sorted(seen.items())}
        total = len(settings.peers)
        try:
            role = choose(settings, me, peers, total=total, is_time_over=is_time_over, is_told=is_told)
        except SynchroError as error:
            return f"refuses, {error.reason}: {error.message}"
        match role:
            case BootstrapHere():
                self.ballots[number] = replace(
                    me,
                    is_booted=True,
                    instance_id=InstanceId(1),
                    replicaset_uuid=REPLICASET,
                    is_ro=False,
                    bootstrap_leader_uuid=me.instance_uuid,
                )
                return "makes the set"
            case JoinFrom(address=address):
                return f"joins {address}"
            case _:
                self.ballots[number] = replace(me, bootstrap_leader_uuid=role.leader_uuid)
                if is_told and role.leader_uuid != me.instance_uuid:
                    return f"refuses what it was told, and waits: {role.why}"
                return f"waits: {role.why}"
