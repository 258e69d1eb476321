"""The credentials of the configuration: in a new set from its first row on, in a set that is there by whoever
may write. [C-43], ADR 42."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio

from synchro.config import Credentials
from synchro.errors import SynchroError
from synchro.ids import NOBODY
from synchro.instance import events as ev
from synchro.row import Dml, Tuple
from synchro.server import passwords
from synchro.server.node import Node
from synchro.server.user_changes import UserChanges
from synchro.storage.schema import PRIV_ID, USER_ID
from synchro.storage.user_ops import UserDraft, draft_of_new_set
from synchro.storage.users import ObjectId, ObjectType, Users
from synchro.threads import in_thread

LOOK_S: Final = 0.5
"""How often it is looked whether there is something to do."""
RETRY_S: Final = 5.0
"""Before what was refused is tried again."""
HALF_DONE_S: Final = 1.0
"""Before it is looked again whether the peers call as somebody else."""
TURN_S: Final = 2.0
"""Without an owner of the queue each writable instance waits so long for each member before it: all have the
same configuration, the first one is enough, and two at once would stop at each other's rows [A-55]."""


def first_rows(credentials: Credentials | None) -> list[tuple[int, list[Tuple]]]:
    """Users and grants of a new set; none, if the configuration names none. Takes long: in a worker."""
    if credentials is None or not credentials.users:
        return []
    draft = draft_of_new_set(credentials, _verifiers(credentials, {}))
    users, grants = draft.rows()
    return [(USER_ID, users), (PRIV_ID, grants)]


def _verifiers(credentials: Credentials, known: Mapping[str, bytes]) -> dict[str, bytes]:
    """Of each user whose password is not the one that is known. Takes long: in a worker."""
    found: dict[str, bytes] = {}
    for one in credentials.users:
        if one.password is None or one.is_role:
            continue
        if one.name not in known or not passwords.fits(known[one.name], one.password.reveal()):
            found[one.name] = passwords.make_verifier(one.password.reveal())
    return found


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What was, or is to be, put into the set. schema_version: 0 unless something waits for a definition."""

    credentials: Credentials
    term: int
    schema_version: int = 0


class CredentialsKeeper:
    """Puts the configured users into the set while this instance may write; else it waits [C-43].

    problems: what could not be done, for people.

    V1  Nothing is taken away from peers without which there would be no quorum, before they call as somebody
        who may go on (ADR 42).
    """

    def __init__(
        self, node: Node, changes: UserChanges, quorum_without: Callable[[Users], Sequence[str]]
    ) -> None:
        """quorum_without: as in `api.NodeApi`."""
        self._node = node
        self._changes = changes
        self._quorum_without = quorum_without
        self._fitting: tuple[Credentials, Mapping[str, bytes]] | None = None
        """Whose passwords were found to be those of the set."""
        self._is_half_done = False
        """Something waits to be taken away."""
        self._done: _Wanted | None = None
        self._due_at = 0.0
        self.problems: Sequence[str] = ()

    async def run(self) -> None:
        while True:
            wanted = self._wanted()
            if wanted is not None and wanted != self._done and self._may_begin():
                try:
                    schema_version = await self._apply(wanted.credentials)
                except SynchroError as error:
                    self._node.log.info("credentials_deferred", reason=error.reason, message=error.message)
                    self._due_at = trio.current_time() + RETRY_S
                else:
                    if self._is_half_done:
                        self._due_at = trio.current_time() + HALF_DONE_S
                        continue
                    # Not what is wanted by now: the file may have been read again meanwhile.
                    self._done = replace(wanted, schema_version=schema_version if self.problems else 0)
                    self._due_at = 0.0  # turns are taken for the next change, too
            await self._node.pause(LOOK_S)

    def _wanted(self) -> _Wanted | None:
        """None: the configuration says nothing of users, and did not before."""
        node = self._node
        credentials, catalog = node.settings.credentials, node.core.memtx.catalog
        if credentials is None or (not credentials.users and catalog.users.is_unset):
            return None
        return _Wanted(credentials, node.core.raft.term, catalog.schema_version if self.problems else 0)

    def _may_begin(self) -> bool:
        core, now = self._node.core, trio.current_time()
        if not core.is_writable:
            self._due_at = 0.0
            return False
        if not self._due_at:
            members = sorted(core.memtx.catalog.members())
            is_alone = core.limbo.owner_id != NOBODY or core.self_id not in members
            self._due_at = now + (0.0 if is_alone else TURN_S * members.index(core.self_id))
        return now >= self._due_at

    async def _apply(self, credentials: Credentials) -> int:
        """Returns the version of the definitions by which it was done."""
        node = self._node
        catalog = node.core.memtx.catalog
        known = {u.name: u.verifier for u in catalog.users.users.values() if u.verifier is not None}
        verifiers: Mapping[str, bytes] = {}
        if self._fitting != (credentials, known):
            verifiers = await in_thread(_verifiers, credentials, known, abandon_on_cancel=True)
            self._fitting = None if verifiers else (credentials, known)
        timeout_s = node.settings.synchro_timeout_s
        async with self._changes.turn(timeout_s):
            schema_version = catalog.schema_version
            ops, problems = self._ops(credentials, verifiers)
            if ops:
                await self._write(ops, timeout_s)
                node.log.info("credentials_applied", users=[one.name for one in credentials.users])
        if problems != self.problems:
            self.problems = node.user_problems = problems
            for problem in problems:
                node.log.warning("credentials_refused", message=problem)
        return schema_version

    def _ops(self, credentials: Credentials, verifiers: Mapping[str, bytes]) -> tuple[list[Dml], list[str]]:
        memtx = self._node.core.memtx

        def find(kind: ObjectType, name: str) -> ObjectId:
            if kind is ObjectType.SEQUENCE:
                return memtx.catalog.sequences.named(name).id
            return memtx.catalog.space(name).id

        def spaces_of(user: int) -> list[str]:
            return [memtx.catalog.space(number).name for number in memtx.catalog.users.owned_by(user)]

        names_guest = any(one.name == "guest" for one in credentials.users)

        def begun() -> UserDraft:
            rows = memtx.prepared_rows(USER_ID), memtx.prepared_rows(PRIV_ID)
            return UserDraft(*rows, guest_is_super=not names_guest)

        draft = begun()
        if draft.is_first and not names_guest:
            self._node.log.warning(
                "guest_is_super",
                message="the set had no users before: whoever can connect may still do everything, as the "
                "user guest. Next, when the peers log in, too: synchro revoke guest super",
            )
        problems = draft.configure(credentials, verifiers, find, spaces_of)
        lost = self._quorum_without(draft.after())
        if lost:  # CredentialsKeeper.V1
            draft = begun()
            problems = draft.configure(credentials, verifiers, find, spaces_of, takes_away=False)
            problems.append(
                f"credentials: nothing is taken away yet: {', '.join(lost)} could not speak as a member any "
                "more, and without them there is no quorum. Next: set grpc.advertise.peer.login in their "
                "files, and let each of them read it: synchro config reload CONFIG"
            )
        self._is_half_done = bool(lost)
        # Another master may do the same at this moment: equal rows put twice do no harm.
        return draft.ops(may_exist=True), problems

    async def _write(self, ops: Sequence[Dml], timeout_s: float) -> None:
        outcome = await self._node.calls.call(
            lambda call_id: ev.ClientWrites([ev.ClientWrite(call_id, ops)]), timeout_s=timeout_s
        )
        match outcome:
            case ev.Committed():
                return
            case ev.Rejected(error=error) | ev.OutcomeUnknown(error=error):
                raise error
            case _:
                raise AssertionError(f"unexpected outcome {outcome}")
