"""Who makes a new replica set, and who joins whom: ballots in, decision out. Rules [M-10]..[M-18].

All instances see the same ballots, so they choose the same leader; that leader goes ahead only when everyone
it can reach has named it. That holds for every strategy under which more than one could begin (ADR 45).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from synchro.config import BootstrapStrategy, ElectionMode, Settings
from synchro.errors import ConfigError, InstanceNameMismatch, ReplicasetUuidMismatch
from synchro.replication.admission import check_set_name, of_another_set
from synchro.replication.ballot import Ballot
from synchro.vclock import Comparison


@dataclass(frozen=True, slots=True)
class BootstrapHere:
    """This instance makes the replica set."""


@dataclass(frozen=True, slots=True)
class JoinFrom:
    address: str
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class WaitForPeers:
    """Not yet. leader_uuid: whom this instance would choose, to be shown in its ballot; "" = nobody.
    is_bereft: this instance belongs to a set, has no data, and finds nobody who has."""

    why: str
    leader_uuid: str = ""
    is_bereft: bool = False


NOTHING_UNHEARD: Final[Mapping[str, str]] = MappingProxyType({})
Role: TypeAlias = BootstrapHere | JoinFrom | WaitForPeers


def own_ballot(settings: Settings, uuid: str, replicaset_uuid: str = "") -> Ballot:
    """Of an instance without data. replicaset_uuid: the set that its identity file names; "" = none."""
    return Ballot(
        instance_uuid=uuid,
        instance_name=settings.instance_name,
        replicaset_uuid=replicaset_uuid,
        is_ro_cfg=settings.read_only,
        is_ro=True,
        can_lead=settings.election_mode in (ElectionMode.MANUAL, ElectionMode.CANDIDATE),
        is_anonymous=settings.is_anonymous,
        replicaset_name=shown_name(settings),
    )


def shown_name(settings: Settings) -> str:
    """Of the replica set, for peers; "": nobody chose one."""
    return settings.replicaset_name if settings.is_named else ""


def check_names(settings: Settings, peers: Mapping[str, Ballot]) -> None:
    """[M-5]: raises if who answers is not who is configured there. peers: as in `choose`.

    An instance without data would join whatever set it finds; with a name that a member of it has it would
    take the place of that member.
    """
    names = {peer.address: peer.name for peer in settings.peers if peer.name != peer.address}
    for address, ballot in peers.items():
        if ballot.replicaset_uuid and ballot.replicaset_uuid == settings.replicaset_uuid:
            continue  # the configuration names the set itself
        check_set_name(ballot.replicaset_name, settings.replicaset_name, address, ballot.replicaset_uuid)
        expected = names.get(address, ballot.instance_name)
        if ballot.instance_name != expected:
            raise InstanceNameMismatch(
                f"Instance name mismatch: expected {expected} at {address} (the configuration), got "
                f"{ballot.instance_name}, of replica set {ballot.replicaset_uuid or 'that is not made yet'}; "
                "nothing was joined. Next: check the addresses",
                expected=expected,
                got=ballot.instance_name,
                uuid=ballot.replicaset_uuid,
            )


def score(ballot: Ballot) -> int:
    """[M-14]"""
    return (
        1000 * ballot.is_booted + 100 * (not ballot.is_ro_cfg) + 10 * (not ballot.is_ro) + 1 * ballot.can_lead
    )


def best(ballots: Mapping[str, Ballot]) -> str:
    """Address of the highest score; equal: greater vclock, then lowest UUID. `ballots` is not empty."""
    ranked = sorted(ballots.items(), key=lambda item: item[1].instance_uuid)
    winner, champion = ranked[0]
    for address, ballot in ranked[1:]:
        is_newer = ballot.vclock.compare(champion.vclock) is Comparison.GREATER
        if (score(ballot), is_newer) > (score(champion), False):
            winner, champion = address, ballot
    return winner


def join_source(ballots: Mapping[str, Ballot]) -> str | None:
    """The queue's owner if a booted one is there, else the best booted one."""
    booted = {address: ballot for address, ballot in ballots.items() if ballot.is_booted}
    if not booted:
        return None
    for address, ballot in booted.items():
        if ballot.queue_owner and ballot.queue_owner == ballot.instance_id and not ballot.is_ro:
            return address
    return best(booted)


def choose(
    settings: Settings,
    me: Ballot,
    peers: Mapping[str, Ballot],
    *,
    total: int,
    is_time_over: bool,
    is_told: bool = False,
    unheard: Mapping[str, str] = NOTHING_UNHEARD,
) -> Role:
    """What to do, given what the others say.

    peers: address -> ballot of those that answered, without this instance. total: configured instances,
    this one included. is_time_over: `connect_timeout` has passed, so that a majority is enough [M-13].
    is_told: a person waits for this instance to make the set [M-17]. unheard: address -> why there is no
    ballot from there, where more is known than that nobody answers.
    `ConfigError` if it is for this instance to begin, but all that there are are configured read-only [M-15].
    """
    if settings.is_named and not me.replicaset_uuid:
        check_names(settings, peers)
    _check_one_set(settings, me, peers)
    answered = frozenset(peers)
    members = {address: ballot for address, ballot in peers.items() if not ballot.is_anonymous}
    total -= len(peers) - len(members)  # they make no set, and nobody but their like joins them [M-6]
    source = join_source(members)
    if source is None and me.is_anonymous:
        source = join_source(peers)
    needed = _needed(settings, total)
    if source is not None:
        if settings.bootstrap_strategy is BootstrapStrategy.LEGACY and 1 + len(members) < needed:
            return WaitForPeers(
                _too_few(settings, me, answered, 1 + len(members), total, needed, unheard),
                me.bootstrap_leader_uuid,
            )
        return JoinFrom(source, peers[source])
    if me.replicaset_uuid:
        return _wait_for_data(settings, me, peers, unheard)
    if me.is_anonymous:
        return _wait_for_set(settings, me, peers, unheard)
    peers = members
    bereft = sorted(ballot.instance_name for ballot in peers.values() if ballot.replicaset_uuid)
    if bereft:
        # They belong to a set whose other members may come back: nothing new is made beside it (ADR 14).
        return WaitForPeers(
            f"{', '.join(bereft)} lost the data of a replica set and waits for a member that has it; "
            "a new one is made when it is told to forget that set (see its log)"
        )
    if settings.bootstrap_strategy is BootstrapStrategy.CONFIG:
        return _choose_configured(settings, me, peers, unheard)
    if settings.bootstrap_strategy is BootstrapStrategy.SUPERVISED:
        return _choose_told(settings, me, peers) if is_told else _wait_for_a_word(settings, me, peers)
    connected = 1 + len(peers)
    if connected < needed or (connected < total and not is_time_over):
        return WaitForPeers(
            _too_few(settings, me, answered, connected, total, needed, unheard), me.bootstrap_leader_uuid
        )
    silent = _silent(settings, me, answered, unheard) if connected < total else ""
    return _choose_best(settings, me, peers, silent)


def _check_one_set(settings: Settings, me: Ballot, peers: Mapping[str, Ballot]) -> None:
    """Raises `ReplicasetUuidMismatch` where a peer has data of another set than this instance had, or than
    another peer."""
    foreign = {ballot.replicaset_uuid for ballot in peers.values() if ballot.is_booted}
    if me.replicaset_uuid and foreign - {me.replicaset_uuid}:
        other = min(foreign - {me.replicaset_uuid})
        raise of_another_set(
            me.replicaset_uuid,
            other,
            says=f"(identity file in {settings.wal_dir})",
            found="(the configured peers)",
            next="check the addresses; or, to join the other set, "
            f"{settings.again_with('--new-set')}, which gives up what the old one held",
        )
    if len(foreign) > 1:
        raise ReplicasetUuidMismatch(
            f"the configured peers belong to different replica sets: {', '.join(sorted(foreign))}; "
            "nothing was changed",
            expected=min(foreign),
            got=max(foreign),
        )


def _choose_best(
    settings: Settings, me: Ballot, peers: Mapping[str, Ballot], silent: str
) -> BootstrapHere | WaitForPeers:
    """Enough are connected: the best of them makes the set. silent: who does not answer; "": nobody."""
    everyone = {"": me, **peers}
    leader = everyone[best(everyone)]
    if me.bootstrap_leader_uuid not in ("", leader.instance_uuid):
        # Who was chosen once may have made the set since: it must be heard before another may.
        former = next((b for b in peers.values() if b.instance_uuid == me.bootstrap_leader_uuid), None)
        if former is None and me.bootstrap_leader_uuid != me.instance_uuid:
            return WaitForPeers(
                f"the bootstrap leader {me.bootstrap_leader_uuid} chosen before is not reachable",
                me.bootstrap_leader_uuid,
            )
    if leader is not me:
        return WaitForPeers(f"{leader.instance_name} bootstraps the replica set", leader.instance_uuid)
    if settings.read_only and silent:
        # Who may make the set may only be late: whoever is started first waits [T-4].
        return WaitForPeers(
            f"all {len(everyone)} that answer are configured read-only, and so make no set; {silent}",
            me.bootstrap_leader_uuid,
        )
    if settings.read_only:
        raise ConfigError("Trying to bootstrap a local read-only instance as master; nothing was written")
    return _begin_when_all_agree(me, peers)


def _begin_when_all_agree(me: Ballot, peers: Mapping[str, Ballot]) -> BootstrapHere | WaitForPeers:
    for ballot in peers.values():
        if ballot.bootstrap_leader_uuid != me.instance_uuid:
            return WaitForPeers(
                f"Replica {ballot.instance_name} chose a different bootstrap leader "
                f"{ballot.bootstrap_leader_uuid or 'nobody'}",
                me.instance_uuid,
            )
    return BootstrapHere()


def _needed(settings: Settings, total: int) -> int:
    """[M-13]: instances that must be connected, this one included."""
    if settings.bootstrap_strategy is not BootstrapStrategy.LEGACY:
        return total // 2 + 1
    return total if settings.connect_quorum is None else min(total, settings.connect_quorum)


def _too_few(
    settings: Settings,
    me: Ballot,
    answered: Set[str],
    connected: int,
    total: int,
    needed: int,
    unheard: Mapping[str, str],
) -> str:
    """For whom it waits. answered: addresses. unheard: as in `choose`."""
    late = ", after connect_timeout" if connected >= needed else ""
    silent = _silent(settings, me, answered, unheard)
    return f"connected to {connected} of {total}, {needed} are needed{late}; {silent}"


def _silent(settings: Settings, me: Ballot, answered: Set[str], unheard: Mapping[str, str]) -> str:
    """Who does not answer. answered: addresses. unheard: as in `choose`."""
    silent = [
        f"{peer.name} ({peer.address}{_because(unheard, peer.address)})"
        for peer in settings.peers
        if peer.name != me.instance_name and peer.address not in answered
    ]
    return f"{', '.join(silent) or 'nobody else'} {'does' if len(silent) < 2 else 'do'} not answer"


def _claimed(peers: Mapping[str, Ballot]) -> list[Ballot]:
    """Who was told to make the set, and says so; lowest UUID first."""
    told = [ballot for ballot in peers.values() if ballot.bootstrap_leader_uuid == ballot.instance_uuid]
    return sorted(told, key=lambda ballot: ballot.instance_uuid)


def _wait_for_a_word(settings: Settings, me: Ballot, peers: Mapping[str, Ballot]) -> WaitForPeers:
    """[M-17], of one that was not told: it names who was, and stands by that."""
    former = me.bootstrap_leader_uuid if me.bootstrap_leader_uuid != me.instance_uuid else ""
    if former and all(ballot.instance_uuid != former for ballot in peers.values()):
        return WaitForPeers(
            f"{former} was told to make the replica set and does not answer now: it may have made it. Next: "
            "start it; if it is gone for good, restart this instance",
            former,
        )
    told = _claimed(peers)
    leader = next((ballot for ballot in told if ballot.instance_uuid == former), told[0] if told else None)
    if leader is not None:
        return WaitForPeers(f"{leader.instance_name} was told to make the replica set", leader.instance_uuid)
    return WaitForPeers(
        "nobody was told yet to make the replica set (bootstrap_strategy: supervised). Next: synchro "
        f"bootstrap {me.instance_name}, or another one of the set"
    )


def _choose_told(settings: Settings, me: Ballot, peers: Mapping[str, Ballot]) -> BootstrapHere | WaitForPeers:
    """[M-17], of one that was told. leader_uuid of another one: it gives way to that one. Its configuration
    need not allow it to write [M-15]."""
    if me.bootstrap_leader_uuid not in ("", me.instance_uuid):
        names = {ballot.instance_uuid: ballot.instance_name for ballot in peers.values()}
        name = names.get(me.bootstrap_leader_uuid, me.bootstrap_leader_uuid)
        return WaitForPeers(f"{name} was told before to make the replica set", me.bootstrap_leader_uuid)
    told = _claimed(peers)
    if told and told[0].instance_uuid < me.instance_uuid:
        # Of two that claim it one must give way, or both wait. Neither has begun: each needs the word of the
        # other.
        return WaitForPeers(f"{told[0].instance_name} was told too", told[0].instance_uuid)
    if me.bootstrap_leader_uuid != me.instance_uuid:
        return WaitForPeers("it tells its peers", me.instance_uuid)
    return _begin_when_all_agree(me, peers)


def _because(unheard: Mapping[str, str], address: str) -> str:
    return f": {unheard[address]}" if address in unheard else ""


def _wait_for_data(
    settings: Settings, me: Ballot, peers: Mapping[str, Ballot], unheard: Mapping[str, str]
) -> WaitForPeers:
    """ADR 14: an identity that names a set never makes another; a person may, when nobody has data."""
    others = [peer for peer in settings.peers if peer.name != me.instance_name]

    def state_of(address: str) -> str:
        ballot = peers.get(address)
        if ballot is None:
            return unheard.get(address, "does not answer")
        return "its data is gone too" if ballot.replicaset_uuid else "never had data"

    who = ", ".join(f"{peer.name} ({state_of(peer.address)})" for peer in others)
    why = (
        f"this instance is of replica set {me.replicaset_uuid}, but its data is gone; it makes no new set, "
        f"it waits for a member that has the data, to join again: {who}"
    )
    if len(peers) >= len(others):
        why += (
            ". Nobody has it. If no copy can be restored: on every member, "
            f"{settings.again_with('--new-set')}; that makes a new, empty set and gives up all that the old "
            "one held"
        )
    return WaitForPeers(why, is_bereft=True)


def _wait_for_set(
    settings: Settings, me: Ballot, peers: Mapping[str, Ballot], unheard: Mapping[str, str]
) -> WaitForPeers:
    """An anonymous instance makes no set [M-6]."""
    sources = ", ".join(
        f"{peer.name} "
        f"({'has no data yet' if peer.address in peers else unheard.get(peer.address, 'does not answer')})"
        for peer in settings.peers
        if peer.name != me.instance_name
    )
    return WaitForPeers(
        f"an anonymous instance (replication.anon: true) makes no set; it waits for {sources}"
    )


def _choose_configured(
    settings: Settings, me: Ballot, peers: Mapping[str, Ballot], unheard: Mapping[str, str]
) -> Role:
    """[M-16]: one instance is named, by name, UUID or address."""
    wanted = settings.bootstrap_leader
    if wanted is None:
        raise ConfigError(
            "bootstrap_strategy is config, but bootstrap_leader names nobody; nothing was started"
        )
    own = {address.address for address in settings.peers if address.name == settings.instance_name}
    if wanted in (me.instance_name, me.instance_uuid, settings.listen, *own):
        if settings.read_only:
            raise ConfigError("Trying to bootstrap a local read-only instance as master; nothing was written")
        if settings.election_mode is ElectionMode.VOTER:
            raise ConfigError(
                f"bootstrap_leader {wanted} may only vote (election_mode: voter): it could not register "
                "the others; nothing was written"
            )
        return BootstrapHere()
    for address, ballot in peers.items():
        if wanted in (address, ballot.instance_name, ballot.instance_uuid):
            return WaitForPeers(f"{ballot.instance_name} bootstraps the replica set", ballot.instance_uuid)
    address = next((peer.address for peer in settings.peers if wanted in (peer.name, peer.address)), "")
    return WaitForPeers(f"failed to connect to the bootstrap leader {wanted}{_because(unheard, address)}")


def is_foreign(replicaset_uuid: str, peers: Mapping[str, Ballot], *, total: int) -> str | None:
    """UUID of the set that the others belong to, if this instance's files are of another one; else None.

    peers: as in `choose`. total: configured peers. Most of them must say so and none the contrary, so that
    one peer with wrong files keeps nobody else from starting.
    """
    sets = [ballot.replicaset_uuid for ballot in peers.values() if ballot.is_booted]
    if replicaset_uuid in sets or len(sets) <= total // 2:
        return None
    return min(sets)
