"""One write of a client, or a crowd that shares one: may it be done, has it been done; then prepare, number,
queue, log."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import assert_never

from synchro.errors import (
    IllegalParams,
    OlderMember,
    OldTerm,
    ProtocolVersion,
    QuorumWait,
    RequestExpired,
    SynchroError,
)
from synchro.ids import NOBODY, Lsn, RequestId
from synchro.instance import events as ev
from synchro.instance.expulsion import with_record
from synchro.instance.parts import Parts
from synchro.instance.pending_txn import PendingTxn
from synchro.instance.transactions import Transactions, conflict
from synchro.instance.writability import (
    WRITABLE,
    is_never_read_only,
    read_only_error,
    read_only_reason,
    stopping_error,
)
from synchro.queue.limbo import QueueState
from synchro.row import (
    FLAG_COMMIT,
    FLAG_WAIT_ACK,
    FLAG_WAIT_SYNC,
    PENDING_ROW_BYTES,
    Puts,
    TxnId,
)
from synchro.storage import xrow
from synchro.storage.conditions import Condition
from synchro.storage.prepared import PendingRefusal, Prepared
from synchro.storage.read_set import Unchanged
from synchro.storage.schema import is_system
from synchro.storage.users import USER_SPACES


class Admission:
    """A write from its call to its LSN.

    W2  Every refusal leaves no trace: nothing prepared, no LSN, no request id.
    W3  While the writes of one event begin, roles, terms and members stay as they are: asked once (`look`).
    """

    __slots__ = ("_state", "_txns", "may_write", "may_write_sync")

    def __init__(self, state: Parts, txns: Transactions) -> None:
        self._state = state
        self._txns = txns
        self.may_write = False
        self.may_write_sync = False

    def look(self) -> None:
        """`may_write`, `may_write_sync`: False means, ask for each, and say why."""
        state = self._state
        members = len(state.memtx.catalog.members())
        self.may_write = read_only_reason(state) is WRITABLE and not state.stop.is_begun
        self.may_write_sync = (
            state.limbo.state is QueueState.LEADER
            and members >= state.settings.synchro_quorum.quorum(members)
        )

    def is_refused(self, write: ev.ClientWrite) -> bool:
        """Leadership is gone: nobody need wait for room, or behind others, to hear it."""
        try:
            self._check_may_write(write)
        except SynchroError:
            return True
        return False

    # --- one write

    def begin(self, write: ev.ClientWrite, now: float) -> PendingTxn | None:
        """None: it is answered already. Raises `PendingRefusal` and `BuildNeeded` too."""
        state = self._state
        if write.request_id is not None and self._answer_retry(write):
            return None
        self._check_may_write(write)
        ops = with_record(state, self._txns, write.ops)
        state.memtx.clock.now = now
        prepared = state.memtx.prepare(ops, conditions=write.conditions)
        if ops is not write.ops:
            prepared.results = prepared.results[: len(write.ops)]
        is_asked = bool(write.is_sync or write.conditions) and self._is_asked_to_be_sync(write, prepared)
        if not prepared.ops:
            state.memtx.commit(prepared)
            state.calls.reply(write.call_id, ev.Committed(None, prepared.results))
            return None
        try:
            if not USER_SPACES.isdisjoint(prepared.system):
                self._check_readers_of_users()
            if prepared.draft is not None:
                if prepared.draft.begins_policy:
                    self._check_policies_are_read()
                if prepared.draft.changes_sequences:
                    self._check_sequences_are_read()
            is_sync = self._is_sync(write, prepared, is_asked=is_asked)
        except SynchroError:
            state.memtx.rollback(prepared)  # Admission.W2
            raise
        request_ids = () if write.request_id is None else (write.request_id,)
        pending = self._send(request_ids, prepared, is_sync=is_sync, now=now)
        self._answer_later(write, pending, pending.lsn)
        return pending

    # --- a crowd

    def may_share(self, puts: Puts) -> bool:
        """None of them has to be refused, or to wait for room."""
        state = self._state
        if not self.may_write or not self.may_write_sync:
            return False
        if not state.memtx.may_go_together(puts.space_id):
            return False
        return not (state.log.barriers or self._txns.must_wait(puts)) and self._has_room(puts)

    def to_look_up(self, event: ev.ClientPuts) -> Set[int]:
        """Positions of those that may be retries: an id that is known, or comes a second time, or may have
        been forgotten. And those without an id, while a member does not read shared ones of that kind."""
        ids, requests = event.request_ids, self._state.requests
        apart: set[int] = set()
        unnamed = ids.count(None)
        if unnamed and not self._state.all_read_unnamed:
            apart.update(n for n, request_id in enumerate(ids) if request_id is None)
        if requests.holds_any(ids) or len(set(ids)) != len(ids) - unnamed + (unnamed > 0):
            seen: set[RequestId] = set()
            for n, request_id in enumerate(ids):
                if request_id is not None:
                    if request_id in seen or requests.find(request_id) is not None:
                        apart.add(n)
                    seen.add(request_id)
        known = event.known_positions
        oldest = min((position for position in known if position is not None), default=None)
        if oldest is not None and self._is_forgotten(oldest):
            apart.update(
                n
                for n, (request_id, position) in enumerate(zip(ids, known, strict=True))
                if request_id is not None and position is not None and self._is_forgotten(position)
            )
        return apart

    def begin_shared(self, event: ev.ClientPuts, prepared: Prepared, now: float) -> None:
        """prepared: all of them, as one."""
        pending = self._send(event.request_ids, prepared, is_sync=True, now=now)
        pending.calls = dict(zip(event.call_ids, range(pending.txn.tsn, pending.lsn + 1), strict=True))  # type: ignore[arg-type]
        pending.is_whole = True
        self._state.calls.wait_together(event.call_ids, pending)

    def _has_room(self, puts: Puts) -> bool:
        """For all of them: one by one, some would have to wait where a limit is reached."""
        limbo, log, limits = self._state.limbo, self._state.log, self._state.settings.limits
        if limbo.max_size and limbo.size + self._state.memtx.size_of(puts) > limbo.max_size:
            return False
        wal_max = limits.wal_queue_bytes_max
        size = xrow.shared_bytes(puts) + PENDING_ROW_BYTES * len(puts)
        return not wal_max or log.bytes + size <= wal_max

    # --- both

    def _check_may_write(self, write: ev.ClientWrite) -> None:
        state = self._state
        if state.stop.is_begun:
            raise stopping_error()
        if write.expected_term is not None and write.expected_term != state.limbo.term:
            raise OldTerm(
                f"The term is outdated: old - {write.expected_term}, new - {state.limbo.term}; "
                "nothing was written",
                expected=write.expected_term,
                term=state.limbo.term,
            )
        if not self.may_write:
            reason = read_only_reason(state)
            if reason is not WRITABLE and not all(is_never_read_only(state, op) for op in write.ops):
                raise read_only_error(state, reason)
        if write.conditions and not self.may_write_sync:
            self._check_may_look(write)

    def _check_may_look(self, write: ev.ClientWrite) -> None:
        """ADR 49: only the owner of the queue knows whether a condition on what is synchronous holds. Others
        refuse it without a look. Raises [Q-11], [Q-13]."""
        state = self._state
        if not any(map(self._looks_at_queue, write.conditions)):
            return
        if all(is_never_read_only(state, op) for op in write.ops):
            raise _fully_local_error()
        state.limbo.check_submit(is_fully_local=False)

    def _is_asked_to_be_sync(self, write: ev.ClientWrite, prepared: Prepared) -> bool:
        """Beside what its changes ask for: by its caller [D-28], or by a condition that looks at what is
        synchronous, which only the owner of the queue knows, and only as long as a quorum follows it [D-42].

        Raises [Q-11], and `TransactionConflict` if nothing is logged that could wait for what it looked at.
        """
        is_asked = write.is_sync or any(map(self._looks_at_queue, write.conditions))
        error: SynchroError | None = None
        if is_asked and all(prepared.local):
            error = _fully_local_error(is_logged=bool(prepared.local))
        elif prepared.base is not None and not prepared.ops:
            error = conflict()
        if error is not None:
            self._state.memtx.rollback(prepared)  # Admission.W2
            raise error
        return is_asked

    def _looks_at_queue(self, condition: Condition | Unchanged) -> bool:
        space_id = condition.space_id
        if is_system(space_id):
            return self._state.limbo.owner_id != NOBODY
        store = self._state.memtx.catalog.stores.get(space_id)
        return store is not None and store.definition.is_sync

    def _is_sync(self, write: ev.ClientWrite, prepared: Prepared, *, is_asked: bool) -> bool:
        """[Q-10]; rows of system spaces too while the queue has an owner (ADR 6). Raises [Q-13]."""
        limbo = self._state.limbo
        if not (prepared.is_sync or is_asked or (prepared.touches_system and limbo.owner_id != NOBODY)):
            return False
        if self.may_write_sync:
            return True
        limbo.check_submit(is_fully_local=False)
        if write.call_id not in self._state.calls.registering:
            self._check_enough_members()
        return True

    def _check_readers_of_users(self) -> None:
        if not self._state.all_read_users:
            raise OlderMember(
                "not every member is known to read rows of users: one runs an older version, or was not "
                "heard yet since this instance started; nothing was written"
            )

    def _check_sequences_are_read(self) -> None:
        """ADR 47: the applier of a member of an older version would stop at the row."""
        if old := self._state.without_sequences & self._state.registered:
            names = ", ".join(self._state.name_of(member) for member in sorted(old))
            raise OlderMember(f"{names} cannot read sequences; nothing was written")

    def _check_policies_are_read(self) -> None:
        """ADR 44: a member of an older version would decide conflicts in its own way."""
        if unheard := self._state.not_reading_policies:
            names = ", ".join(self._state.name_of(member) for member in sorted(unheard))
            raise ProtocolVersion(
                f"a policy for conflicts needs members who know it, and {names} did not say so: away, or of "
                "an older version; nothing was written. Next: start the version there that runs here",
            )

    def _check_enough_members(self) -> None:
        """A synchronous write that can never have its quorum would block the registration that frees it."""
        registered = len(self._state.memtx.catalog.members())
        needed = self._state.settings.synchro_quorum.quorum(registered)
        if registered < needed:
            raise QuorumWait(
                f"Couldn't wait for quorum {needed}: only {registered} instances are registered; "
                "nothing was written",
                needed=needed,
                registered=registered,
            )

    def _send(
        self, request_ids: Sequence[RequestId | None], prepared: Prepared, *, is_sync: bool, now: float
    ) -> PendingTxn:
        """Give LSNs, queue it if it must wait for a quorum or behind one that does, write it."""
        state = self._state
        in_queue = is_sync or state.limbo.must_wait()
        flags = FLAG_COMMIT
        if is_sync:
            flags |= FLAG_WAIT_SYNC | FLAG_WAIT_ACK
        elif in_queue:
            flags |= FLAG_WAIT_SYNC
        if state.limbo.is_announcement_due:  # what it may build on is told first: `Transactions.announce`
            self._txns.announce()
        txn = state.log.number(prepared.ops, prepared.local, flags, request_ids)
        pending = self._txns.enter(txn, prepared, in_queue=in_queue, is_sync=is_sync, now=now)
        state.log.append(pending)
        return pending

    def _answer_later(self, write: ev.ClientWrite, pending: PendingTxn, lsn: Lsn) -> None:
        """lsn: what the caller is told."""
        match write.wait:
            case ev.WaitMode.COMPLETE:
                if pending.calls is None:
                    pending.calls = {}
                pending.calls[write.call_id] = lsn
                pending.is_whole = False
                self._state.calls.wait(write.call_id, pending)
            case ev.WaitMode.SUBMIT:
                if pending.submit_calls is None:
                    pending.submit_calls = {}
                pending.submit_calls[write.call_id] = lsn
                self._state.calls.wait(write.call_id, pending)
            case ev.WaitMode.NONE:
                self._state.calls.reply(write.call_id, ev.Submitted(None, pending.is_sync))
            case _:
                assert_never(write.wait)

    # --- retries and refusals

    def _answer_retry(self, write: ev.ClientWrite) -> bool:
        """A known request id has one effect: join the waiters, or say what it was. True if answered."""
        requests = self._state.requests
        assert write.request_id is not None
        known = requests.find(write.request_id)
        if known is None:
            position = write.known_position
            if position is not None and self._is_forgotten(position):
                raise RequestExpired(
                    "the request id is older than what is remembered; outcome unknown, "
                    "nothing was executed now",
                    outcome="unknown",
                )
            return False
        txn_id = TxnId(known.origin, known.lsn)
        pending = None if known.is_decided else self._txns.find(txn_id)
        if known.is_decided:
            self._state.calls.reply(write.call_id, ev.Committed(txn_id, duplicate=True))
        else:
            assert pending is not None, txn_id
            is_written = txn_id.lsn <= self._state.log.vclock.get(txn_id.origin)
            if write.wait is ev.WaitMode.SUBMIT and is_written:
                self._state.calls.reply(write.call_id, ev.Submitted(txn_id, pending.is_sync, duplicate=True))
            elif write.wait is ev.WaitMode.NONE:
                self._state.calls.reply(write.call_id, ev.Submitted(None, pending.is_sync, duplicate=True))
            else:
                if pending.retries is None:
                    pending.retries = set()
                pending.retries.add(write.call_id)
                self._answer_later(write, pending, pending.told_lsn(known.lsn))
        return True

    def _is_forgotten(self, known: ev.Position) -> bool:
        """Whether a retry that knew no more than this may be one of what was forgotten."""
        return self._state.requests.expired(known_term=known.term, known_lsn=known.lsn)

    def hold_refusal(self, write: ev.ClientWrite, refusal: PendingRefusal) -> None:
        """The refusal rests on a tuple that nobody may see yet: answer when its fate is known (ADR 7)."""
        if write.wait is ev.WaitMode.NONE:
            self._state.calls.refuse(write.call_id, conflict())
            return
        blocker = self._txns.find_prepared(refusal.blocker)
        if blocker.refusals is None:
            blocker.refusals = []
        blocker.refusals.append((write.call_id, refusal.error))
        self._state.calls.wait(write.call_id, blocker)


def _fully_local_error(*, is_logged: bool = True) -> IllegalParams:
    why = (
        "a fully local transaction synchronously: nothing of it goes to other instances"
        if is_logged
        else "a transaction without a row synchronously: nothing of it is logged"
    )
    return IllegalParams(f"An attempt to commit {why}; nothing was done")
