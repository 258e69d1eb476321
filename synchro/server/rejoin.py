"""An instance with data joins its set again: because it is too old to follow anybody, or because a person
said so. Rules [M-35], ADR 46. What is decided is in `replication.rejoin`, what happens to files in
`storage.replacement`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from synchro.errors import Expelled, RemoteProtocolError, SynchroError
from synchro.replication.rejoin import Known, OnlyHere, Turn, is_removed, is_too_old, source, turn
from synchro.server.bootstrap import POLL_S, ask_all
from synchro.server.join import join, tell_stage
from synchro.server.peer_messages import LinkLost
from synchro.server.progress import ReceivedSoFar
from synchro.storage.identity import Rejoin
from synchro.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synchro.instance.core import Instance
    from synchro.replication.ballot import Ballot
    from synchro.server.node import Node
    from synchro.server.peers import Peers

RETRY_S: Final = 0.5
TRIES_MAX: Final = 10
REMOVED: Final = "this instance was removed from the set"


def known_of(instance: Instance) -> Known:
    """What the instance must not forget by a join."""
    return Known(
        instance.vclock.without_local(),
        instance.raft.term,
        instance.raft.vote,
        only_here(instance),
        instance.is_anonymous,
    )


def only_here(instance: Instance) -> OnlyHere:
    return OnlyHere(kept=instance.memtx.own_keys, local=instance.memtx.local_tuples)


class JoinAgain:
    """One start of an instance that has data.

    J1  While `Peers.rejoins` is set, peers hear that this instance does it, or is about to.
    J2  It ends: with new files; or with the old ones as they were, when it was not begun for a
        `connect_timeout`, or failed `TRIES_MAX` times.
    """

    def __init__(self, node: Node, peers: Peers) -> None:
        self._node = node
        self._peers = peers
        self._replacement = node.directory.replacement
        self._idle_since: float | None = None
        """Since when it is to be begun."""
        self._failed = 0
        self._why = ""

    @property
    def is_wanted(self) -> bool:
        """By the word of a person, or by a former start that was cut off."""
        return self._node.settings.rejoin or self._replacement.state is not Rejoin.NO

    async def is_too_old(self, known: Known) -> bool:
        if not self._node.settings.autorejoin or known.only_here:
            return False
        ballots = await self._ask()
        found = is_too_old(known.vclock, ballots) and not self._is_removed(known, ballots)
        if found:
            self._node.log.warning(
                "rebootstrap_began",
                message="replica is too old, initiating rebootstrap",
                vclock=str(known.vclock),
            )
        return found

    async def find(self, known: Known | None) -> ReceivedSoFar | None:
        """Whom to join, when it is our turn; None: nobody in time. known: None: it cannot be read."""
        node = self._node
        node.stage = "rejoin"
        self._idle_since = self._idle_since or trio.current_time()
        keeps = known if self._replacement.state is not Rejoin.LOSSY else None
        try:
            while self._failed < TRIES_MAX:
                self._peers.rejoins = True
                ballots = await self._ask()
                if known is not None and self._is_removed(known, ballots):
                    self._why = REMOVED
                    break
                self._why = await self._look(ballots)
                address = source(keeps, ballots)
                if not self._why and address is None:
                    self._why = "no member that answers has all that this instance has"
                elif not self._why and address is not None:
                    return ReceivedSoFar(ballots[address].instance_name, address)
                if self._is_time_over:
                    break
                node.waiting.wait(self._why, POLL_S)
                await trio.sleep(POLL_S)
        finally:
            node.waiting.over()
        await in_thread(self._give_up)
        return None

    def _is_removed(self, known: Known, ballots: Mapping[str, Ballot]) -> bool:
        """Who never was a member is named by nobody, and may be about to become one [M-30]."""
        return not known.is_anonymous and is_removed(self._node.uuid, known.vclock, ballots)

    async def _look(self, ballots: Mapping[str, Ballot]) -> str:
        """Why it is not our turn; empty: it is."""
        mine = turn(self._node.uuid, ballots)
        if mine is Turn.MINE:
            return ""
        self._peers.rejoins = mine is Turn.WAIT
        names = ", ".join(sorted(ballot.instance_name for ballot in ballots.values() if ballot.rejoins))
        return f"{names} joins again, and no two do it at once"

    async def keep(self, instance: Instance) -> bool:
        """Write down what the old files alone have, before they may go (ADR 53). False: the disk does not
        take it; the old data stays."""
        found = only_here(instance)
        if not found:
            return True
        replacement, signature = self._replacement, instance.vclock.signature
        try:
            await in_thread(lambda: self._want(is_lossy=False))
            path, _ = await in_thread(lambda: replacement.keep(signature, instance.memtx.only_here()))
        except OSError as error:
            self._why = f"{found} could not be written down: {error.strerror or error}"
            await in_thread(self._give_up)
            return False
        self._node.log.warning(
            "tuples_kept",
            file=path,
            message=f"{found}, which nobody else has, are in this file when the data of another member is "
            "here: synchro import takes it",
        )
        return True

    def _want(self, *, is_lossy: bool) -> None:
        if self._replacement.state is Rejoin.NO:
            self._replacement.want(is_lossy=is_lossy)

    async def fetch(self, so_far: ReceivedSoFar, known: Known | None) -> bool:
        """Get the data, and put it in the place of the old. False: it failed, and may be tried again."""
        node, directory = self._node, self._node.directory
        await in_thread(lambda: self._want(is_lossy=known is None))
        node.progress.at = so_far
        try:
            await in_thread(self._replacement.begin)
            end = await join(
                directory,
                node.transport,
                so_far,
                self._replacement,
                known,
                is_anonymous=node.settings.is_anonymous,
                on_stage=partial(tell_stage, node, so_far),
            )
            covers = known is not None and end.vclock.covers(known.vclock)
            if not covers and self._replacement.state is not Rejoin.LOSSY:
                raise RemoteProtocolError(
                    f"{so_far.source} has less than this instance; nothing was replaced"
                )
            amnesia = directory.identity.amnesia or not covers
            await in_thread(lambda: self._replacement.carry_out(amnesia=amnesia))
        except (LinkLost, SynchroError) as error:
            if isinstance(error, Expelled) and error.details.get("uuid") == node.uuid:
                self._why, self._failed = REMOVED, TRIES_MAX
                return False
            self._why = error.message  # also of a source that was removed itself
        except OSError as error:
            if self._replacement.state not in (Rejoin.WANTED, Rejoin.LOSSY):
                raise  # the old files may be gone: the next start goes on
            self._why = error.strerror or str(error)
        else:
            self._peers.rejoins = False
            node.log.info("joined_again", id=end.id, vclock=str(end.vclock), peer=so_far.source)
            return True
        finally:
            node.progress.at = None
        self._failed += 1
        self._idle_since = trio.current_time()
        retry_s = min(RETRY_S, node.settings.replication_timeout_s)
        message = f"rebootstrap failed, will retry every {retry_s:.2f} second: {self._why}"
        node.log.warning("rebootstrap_retry", message=message, peer=so_far.source)
        await trio.sleep(retry_s)
        return False

    @property
    def _is_time_over(self) -> bool:
        assert self._idle_since is not None
        return trio.current_time() - self._idle_since >= self._node.settings.connect_timeout_s

    def _give_up(self) -> None:
        self._peers.rejoins = False
        self._node.rejoin_given_up = True
        self._replacement.give_up()
        name = self._node.settings.instance_name
        what_next = "" if self._why == REMOVED else f". Next: synchro rebootstrap {name}"
        self._node.log.warning("rebootstrap_given_up", message=f"{self._why}; the old data stays{what_next}")

    async def _ask(self) -> dict[str, Ballot]:
        node = self._node
        addresses = [peer.address for peer in node.settings.peers if peer.name != node.settings.instance_name]
        ballots = await ask_all(node.transport, addresses, node.uuid)
        own = node.replicaset_uuid
        return {address: ballot for address, ballot in ballots.items() if ballot.replicaset_uuid == own}
