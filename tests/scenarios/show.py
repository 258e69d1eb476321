"""How scenarios show values, rows, outcomes and instances: one line each, without anything that varies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from synchro import json_form
from synchro.errors import SynchroError, TupleFound
from synchro.ids import LOCAL, NOBODY, InstanceId, Lsn
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.row import Confirm, Demote, Dml, Nop, Promote, RaftState, Rollback, Row, Txn
from synchro.vclock import Vclock


def value(of: Any) -> str:
    return json.dumps(json_form.encode(of), ensure_ascii=False)


def vclock(of: Vclock) -> str:
    """Without local rows, which differ between instances [W-5]."""
    return "{" + ", ".join(f"{instance}: {lsn}" for instance, lsn in sorted(of.without_local())) + "}"


def place(origin: InstanceId, lsn: Lsn) -> str:
    return f"local:{lsn}" if origin == LOCAL else f"{origin}:{lsn}"


def txn_ids(txns: Iterable[Txn]) -> str:
    return " ".join(f"{txn.origin}:{txn.lsn}" for txn in txns) or "nothing"


def error(of: SynchroError) -> str:
    """Its word; with the text where two rules of one word differ in nothing else."""
    return f"{of.reason}: {of.message}" if of.reason != TupleFound.reason else of.message


def outcome(of: ev.Outcome) -> str:
    match of:
        case ev.Committed(txn=txn, duplicate=duplicate):
            text = "committed without a row" if txn is None else f"committed {place(txn.origin, txn.lsn)}"
            return text + (" before" if duplicate else "")
        case ev.Submitted(txn=txn):
            return "submitted" if txn is None else f"submitted {txn.origin}:{txn.lsn}"
        case ev.Rejected(error=refusal):
            cause = refusal.details.get("ro_reason")
            return f"refused {refusal.reason}" + (f" ({cause})" if cause else "")
        case ev.OutcomeUnknown(error=reason, txn=txn):
            return f"outcome unknown, {reason.reason}" + (f" {txn.origin}:{txn.lsn}" if txn else "")
        case ev.FateKnown(fate=fate):
            return fate.value
        case ev.ReadReady():
            return "may read"
        case ev.Promoted():
            return f"promoted in term {of.term}: {of.confirmed} committed, {of.rolled_back} rolled back"
        case ev.Demoted(term=term, is_done=is_done):
            return f"demoted in term {term}" if is_done else f"nothing to give up in term {term}"
        case ev.Registered(id=number):
            return f"registered as {number}"
        case _:
            raise AssertionError(f"{of!r} is the outcome of no word")


def rows(of: Txn, instance: Instance) -> Iterator[str]:
    """One line a row; of a transaction of several rows those behind the first say to which they belong."""
    for row in of.rows:
        where = place(row.replica_id, row.lsn)
        part = "" if row.lsn == row.tsn or row.replica_id == LOCAL else f" (of {of.origin}:{of.tsn})"
        yield f"{where} {_body(row, instance)}{part}"


def _body(row: Row, instance: Instance) -> str:
    match row.body:
        case Nop():
            return "NOP"
        case RaftState(term=term, vote=vote):
            return f"RAFT term {term}" + (f" vote {vote}" if vote else "")
        case Confirm(owner=owner, lsn=lsn):
            return f"CONFIRM {owner} up to {lsn}"
        case Rollback(owner=owner, lsn=lsn):
            return f"ROLLBACK {owner} from {lsn}"
        case Promote() | Demote() as request:
            after = f"{request.prev_owner} up to {request.lsn}"
            return f"{row.type.name} term {request.term} after {after}"
        case Dml() as op:
            text = f"{op.type.name} {_space(op, instance)} {value(op.key if op.value is None else op.value)}"
            return text if op.ops is None else f"{text} {value(op.ops)}"
        case _:
            raise AssertionError(row)


def _space(op: Dml, instance: Instance) -> str:
    known = {space.id: space.name for space in instance.memtx.catalog.spaces()}
    return known.get(op.space_id, str(op.space_id))


def queue(of: Instance) -> str:
    limbo = of.limbo
    owner = "nobody" if limbo.owner_id == NOBODY else str(limbo.owner_id)
    waiting = " ".join(str(entry.lsn) for entry in limbo.entries)
    text = (
        f"owner {owner}, term {limbo.term}, confirmed {limbo.confirmed_lsn}, waiting: {waiting or 'nothing'}"
    )
    return text + (", busy" if limbo.is_busy else "")


def election(of: Instance) -> str:
    raft = of.raft
    leader = "nobody" if raft.leader == NOBODY else str(raft.leader)
    return f"{raft.role.name.lower()}, term {raft.volatile_term}, leader {leader}"


def may_write(of: Instance) -> str:
    return "writable" if of.is_writable else f"read-only: {of.read_only_reason().value}"
