"""What others may look at of an instance: facts, read at no cost, that change in `step` only."""

from __future__ import annotations

from collections.abc import Mapping

from synchro.config import Settings
from synchro.errors import SynchroError
from synchro.ids import NOBODY, InstanceId, Lsn, RequestId, Term
from synchro.instance import events as ev
from synchro.instance.client_writes import Writes
from synchro.instance.coupling import check_term
from synchro.instance.links import LinkFacts
from synchro.instance.outlook import PromoteOutlook, promote_outlook
from synchro.instance.parts import Parts
from synchro.instance.pending_txn import PendingTxn
from synchro.instance.reads import Reads
from synchro.instance.received import Received
from synchro.instance.transactions import Transactions
from synchro.instance.transfers import Transfers
from synchro.instance.writability import WRITABLE, is_orphan, read_only_error, read_only_reason
from synchro.queue.limbo import Limbo, QueueState
from synchro.raft.core import Raft
from synchro.replication.read_barrier import Awaited, ReadBarrier, ReadPosition
from synchro.replication.trust import Missing
from synchro.ro_reason import RoReason
from synchro.row import TxnId
from synchro.storage.memtx import Memtx
from synchro.vclock import Vclock


class Facts:
    """The part of `Instance` that changes nothing."""

    _state: Parts
    _txns: Transactions
    _writes: Writes
    _reads: Reads
    _transfers: Transfers
    _links: LinkFacts
    _received: Received

    @property
    def self_id(self) -> InstanceId:
        """Of an anonymous instance `ids.ANONYMOUS`, which nobody else knows."""
        return self._state.self_id

    @property
    def is_anonymous(self) -> bool:
        """This instance follows the set without being a member [M-6]."""
        return self._state.is_anonymous

    @property
    def number(self) -> InstanceId:
        """Its id as others see it: `NOBODY` for an anonymous instance [I-2]."""
        return NOBODY if self._state.is_anonymous else self._state.self_id

    @property
    def settings(self) -> Settings:
        return self._state.settings

    @property
    def memtx(self) -> Memtx:
        return self._state.memtx

    @property
    def limbo(self) -> Limbo:
        return self._state.limbo

    @property
    def raft(self) -> Raft:
        return self._state.raft

    @property
    def state(self) -> Parts:
        """For `instance.recovery.snapshot_view`."""
        return self._state

    @property
    def vclock(self) -> Vclock:
        """Written and synced rows, component 0 included."""
        return self._state.log.vclock

    @property
    def volatile_vclock(self) -> Vclock:
        """Rows that have an LSN, synced or on their way."""
        return Vclock(self._state.log.assigned)

    @property
    def unwritten(self) -> Vclock:
        """Of rows of others that came and may have to be written yet, the newest LSN of each origin."""
        newest = self._received.newest
        for origin, lsn in self._state.log.unwritten.items():
            newest[origin] = max(lsn, newest.get(origin, lsn))
        return Vclock({one: lsn for one, lsn in newest.items() if one != self.self_id}).shown()

    def has_applied(self, vclock: Vclock, *, is_decided: bool = True) -> bool:
        """Rows up to `vclock` are on disk here, and if is_decided those of the queue's owner are decided."""
        first = self.limbo.first_told_lsn if is_decided else 0
        return self.vclock.covers(vclock) and not 0 < first <= vclock.get(self.limbo.owner_id)

    def undecided(self, txn_id: TxnId | None, request_id: RequestId | None) -> tuple[PendingTxn, Lsn] | None:
        """The transaction of this name, or of this request, and the LSN by which it is told, if it is not
        decided here."""
        if txn_id is None:
            known = None if request_id is None else self._state.requests.find(request_id)
            if known is None or known.is_decided:
                return None
            txn_id = TxnId(known.origin, known.lsn)
        pending = self._txns.find(txn_id)
        return None if pending is None else (pending, pending.told_lsn(txn_id.lsn))

    def was_committed(self, request_id: RequestId) -> bool:
        """A transaction with this request id is committed, and remembered."""
        known = self._state.requests.find(request_id)
        return known is not None and known.is_decided

    @property
    def owns_queue(self) -> bool:
        """Whether linearizable reads are answered after a round of heartbeats from here."""
        return self.limbo.state is QueueState.LEADER

    @property
    def read_position(self) -> ReadPosition:
        """Of the owner: where another instance shows all that is committed here, and what becomes of all that
        waits here, on disk [Q-63]. What is not on this disk was told to nobody, and may never come there."""
        limbo, vclock, own = self.limbo, self.vclock.shown(), self.self_id
        first, written = limbo.first_told_lsn, vclock.get(own)
        if limbo.owner_id != own or not 0 < first <= written:
            return ReadPosition(vclock)
        awaited = Awaited(TxnId(own, min(limbo.last_lsn, written)), limbo.term)
        return ReadPosition(Vclock({**dict(vclock), own: Lsn(first - 1)}), awaited)

    def has_reached(self, position: ReadPosition) -> bool:
        """Whether a linearizable read for which the owner said `position` may be made here now [Q-63].

        A later term of the queue has decided all that waited in the awaited one: a PROMOTE or DEMOTE commits
        the queue of the former owner up to its border, and drops the rest, of which rows may never come."""
        if not self.has_applied(position.vclock):
            return False
        if (awaited := position.awaited) is None or self.limbo.term > awaited.term:
            return True
        return self.has_applied(Vclock({awaited.txn.origin: awaited.txn.lsn}))

    @property
    def acks_count(self) -> bool:
        """False while the own log is not to be trusted: acks carry `counts=False` (S14)."""
        return self._links.trust.is_trusted

    @property
    def has_amnesia(self) -> bool:
        """The flag is set: this instance may have forgotten rows or votes (S14)."""
        return self._links.has_amnesia_flag

    def must_hear(self) -> dict[InstanceId, Missing]:
        """In amnesia: what is needed of which member before trust comes back; empty: nothing, or only a term
        in which no forgotten vote can matter."""
        return self._links.must_hear()

    @property
    def registered(self) -> frozenset[InstanceId]:
        return self._state.registered

    @property
    def waiting_unprepared(self) -> int:
        """The number of requests that wait, unprepared, for room in the limbo or for a DDL barrier."""
        return len(self._writes.waiting)

    @property
    def decided_position(self) -> ev.Position:
        """Newest decided transaction known here."""
        return self._txns.decided

    @property
    def no_room(self) -> SynchroError | None:
        """Why the last rows of data were cut back from the log; None: the disk has taken some since."""
        return self._state.log.no_room

    @property
    def conflicts_skipped(self) -> Mapping[InstanceId, int]:
        """origin -> its rows that this process stored as Nops [A-35]"""
        return self._txns.conflicts_skipped

    @property
    def last_skipped(self) -> Mapping[InstanceId, Mapping[str, object]]:
        """origin -> the newest of them, for people: where it is, both tuples, the policy of its space."""
        return self._txns.last_skipped

    @property
    def read_barrier(self) -> ReadBarrier:
        return self._reads.barrier

    def promote_outlook(self, said: Mapping[InstanceId, Vclock]) -> PromoteOutlook:
        """What a promote would do here now. said: what each connected member has, by its last word."""
        return promote_outlook(self._state, self._transfers, said)

    @property
    def is_writable(self) -> bool:
        return read_only_reason(self._state) is WRITABLE

    def read_only_reason(self) -> RoReason:
        return read_only_reason(self._state)

    @property
    def is_orphan(self) -> bool:
        """It may lack rows of its sources, so it does not write beside them (ADR 46)."""
        return is_orphan(self._state)

    def read_only_error(self) -> SynchroError:
        """For what the shell refuses while `is_writable` is False."""
        return read_only_error(self._state, self.read_only_reason())

    @property
    def is_queue_busy(self) -> bool:
        """[Q-4], with what other instances decided and is on its way to the own disk."""
        return self.limbo.is_busy or self._state.log.has_received_control

    def check_term(self, term: Term) -> None:
        """For the shell, before it hands over what came with this term: raises `RemoteProtocolError`."""
        check_term(self._state, term)
