"""First start without data: ask all configured peers again and again until it is clear who makes the new
replica set and who joins whom. The decision itself is `replication.bootstrap_choice`. Rules [M-10]..[M-18].
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from synchro.config import BootstrapStrategy, PeerAddress, Settings
from synchro.errors import ConfigError, RemoteProtocolError
from synchro.replication.admission import of_another_set
from synchro.replication.ballot import Ballot
from synchro.replication.bootstrap_choice import (
    BootstrapHere,
    JoinFrom,
    WaitForPeers,
    choose,
    is_foreign,
    own_ballot,
)
from synchro.server.bootstrap_order import BootstrapOrder
from synchro.server.peer_messages import LinkLost
from synchro.server.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_S: Final = 0.1
"""Between two rounds of questions."""
BALLOT_TIMEOUT_S: Final = 2.0


async def find_role(
    current: Callable[[], Settings],
    uuid: str,
    transport: Transport,
    *,
    publish: Callable[[Ballot], None],
    note: Callable[[WaitForPeers], None],
    order: BootstrapOrder,
    replicaset_uuid: str = "",
    tried: JoinFrom | None = None,
) -> BootstrapHere | JoinFrom:
    """Ask until it is clear, whoever starts first [M-11].

    current: settings as they are now; options may change while we wait. publish: our ballot changed. note:
    why we wait, told in each round. order: what a person told us. replicaset_uuid: the set that the identity
    file names, which is joined again or nothing; "" = none. tried: the last join, which was in vain. So there
    is a set, with rows that its maker may have acknowledged alone: no other one is made, but by a person.
    """
    settings = current()
    me = own_ballot(settings, uuid, replicaset_uuid)
    if is_alone := not _others(settings):
        _check_may_be_alone(settings, replicaset_uuid)
        if settings.bootstrap_strategy is not BootstrapStrategy.SUPERVISED:
            return BootstrapHere()
    began = trio.current_time()
    while True:
        settings = current()
        others = _others(settings)
        if not others and not is_alone:  # nobody begins a set because its sources were taken away
            note(WaitForPeers("its sources were taken away (replication.peers)"))
            await trio.sleep(POLL_S)
            continue
        own = own_ballot(settings, uuid, replicaset_uuid)
        me = replace(own, bootstrap_leader_uuid=me.bootstrap_leader_uuid)
        publish(me)
        unheard: dict[str, str] = {}
        mine: set[str] = set()
        ballots = await ask_all(transport, [peer.address for peer in others], uuid, unheard, mine)
        is_time_over = trio.current_time() - began >= settings.connect_timeout_s
        is_told = order.is_told
        role = choose(
            settings,
            me,
            ballots,
            total=1 + len(others) - len(mine),
            is_time_over=is_time_over,
            is_told=is_told,
            unheard=unheard,
        )
        is_by_person = is_told and settings.bootstrap_strategy is BootstrapStrategy.SUPERVISED
        if tried is not None and not replicaset_uuid and not isinstance(role, JoinFrom) and not is_by_person:
            role = _wait_for_made(tried)
        match role:
            case BootstrapHere():
                order.begin()
                return role
            case JoinFrom():
                order.refuse(f"{role.ballot.instance_name} belongs to a replica set, which is joined")
                return role
        if is_told and role.leader_uuid != me.instance_uuid:
            order.refuse(role.why)
        order.why = role.why
        note(role)
        if role.leader_uuid != me.bootstrap_leader_uuid:
            me = replace(me, bootstrap_leader_uuid=role.leader_uuid)
            continue
        await trio.sleep(POLL_S)


def _wait_for_made(tried: JoinFrom) -> WaitForPeers:
    """leader_uuid: whoever sees that makes no set either."""
    made = tried.ballot
    return WaitForPeers(
        f"{made.instance_name} has replica set {made.replicaset_uuid}, which was begun to be joined, "
        "and does not answer; no other set is made. Next: start it; if its data is gone for good, "
        "restart all that wait",
        made.instance_uuid,
    )


def _others(settings: Settings) -> list[PeerAddress]:
    return [peer for peer in settings.peers if peer.name != settings.instance_name]


def _check_may_be_alone(settings: Settings, replicaset_uuid: str) -> None:
    """Nobody else is configured. Raises `ConfigError` if this instance does not begin a set then."""
    if settings.is_anonymous:
        raise ConfigError(
            "an anonymous instance (replication.anon: true) needs a source to follow, and none is "
            "configured; nothing was started"
        )
    if replicaset_uuid:
        raise ConfigError(
            f"{settings.wal_dir} is of an instance of replica set {replicaset_uuid}, but its data is "
            "gone, and no other member is configured; nothing was changed. Next: restore the files; or "
            f"{settings.again_with('--new-set')}, which makes a new, empty set and gives up the old one"
        )
    if settings.read_only and settings.bootstrap_strategy is not BootstrapStrategy.SUPERVISED:
        raise ConfigError("Trying to bootstrap a local read-only instance as master; nothing was written")


def check_wanted_set(settings: Settings, found: str, where: str) -> None:
    """The configuration may name the set [M-2]."""
    wanted = settings.replicaset_uuid
    if wanted and found and wanted != found:
        raise of_another_set(wanted, found, says="(database.replicaset_uuid)", found=f"({where})")


async def refuse_foreign(settings: Settings, uuid: str, transport: Transport, replicaset_uuid: str) -> None:
    """Raises `ReplicasetUuidMismatch` before an instance writes into a directory that the configuration
    took for another set's [M-2]. Peers that cannot be reached say nothing; the applier finds out later."""
    addresses = [peer.address for peer in _others(settings)]
    with trio.move_on_after(settings.replication_timeout_s):
        ballots = await ask_all(transport, addresses, uuid)
        other = is_foreign(replicaset_uuid, ballots, total=len(addresses))
        if other is not None:
            raise of_another_set(
                other,
                replicaset_uuid,
                says="(the configured peers)",
                found=f"({settings.wal_dir})",
                next="check the directory and the addresses",
            )


async def ask_all(
    transport: Transport,
    addresses: list[str],
    own_uuid: str,
    unheard: dict[str, str] | None = None,
    mine: set[str] | None = None,
) -> dict[str, Ballot]:
    """Ballots of all that answer in time; a connection to oneself is left out. unheard: gets why others do
    not, as in `choose`. mine: gets the addresses of connections to oneself."""
    ballots: dict[str, Ballot] = {}

    async def ask(address: str) -> None:
        try:
            ballot = await transport.get_ballot(address)
        except (LinkLost, RemoteProtocolError) as error:  # nonsense is no answer: it takes part in nothing
            if unheard is not None and not (isinstance(error, LinkLost) and error.is_refused):
                unheard[address] = error.why if isinstance(error, LinkLost) else error.message
            return
        if ballot.instance_uuid != own_uuid:
            ballots[address] = ballot
        elif mine is not None:
            mine.add(address)

    with trio.move_on_after(BALLOT_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(ask, address)
    return dict(sorted(ballots.items()))
