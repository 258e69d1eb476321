"""What `wal cat` and `wal check` say of files: one line a row, or one a file."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from synchro.cli.connection import options
from synchro.cli.formatting import print_error, to_json, usage
from synchro.cli.log_files import (
    LogChain,
    LoggedRow,
    Names,
    Wanted,
    is_snapshot,
    is_unfinished,
    learn_snapshot,
    names_before,
    open_log,
    open_snapshot,
    read_log,
)
from synchro.errors import Corruption
from synchro.row import GROUP_DEFAULT, Dml
from synchro.storage.schema import is_system
from synchro.storage.snapshot import SnapshotMeta
from synchro.storage.xlog import Ending


def _tell(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


class Listing:
    """One run of `wal cat`."""

    def __init__(self, wanted: Wanted, *, only_operations: bool, skips_damage: bool) -> None:
        """only_operations: leave out what a client cannot repeat. skips_damage: go on behind damage, and read
        files that were never finished."""
        self._wanted = wanted
        self._only_operations = only_operations
        self._skips_damage = skips_damage
        self._names: Names | None = None
        self._chain = LogChain(_tell)
        self._left_out: Counter[str] = Counter()
        self.has_damage = False

    def file(self, path: str) -> bool:
        """Print what is wanted of one file. False: it is damaged, and nothing behind that is read."""
        if is_unfinished(path):
            if not self._skips_damage:
                raise usage(
                    f"{path} was never finished, so nobody relied on it; nothing of it was read. "
                    "Next: leave it out, or add --skip-damage"
                )
            _tell(f"{path} was never finished")
        try:
            if is_snapshot(path):
                self._snapshot(path)
            else:
                self._log(path)
        except Corruption as error:
            if self._skips_damage:
                self._pass_damage(error)
                return True
            self.has_damage = True
            text = (
                f"{error.message.rstrip('.')}; nothing behind it was read. Next: the same with --skip-damage"
            )
            print_error(Corruption(text, **error.details))
            return False
        return True

    def _pass_damage(self, error: Corruption) -> None:
        self.has_damage = True
        _tell(error.message)

    def _log(self, path: str) -> None:
        if self._names is None:
            self._names = names_before(path, _tell)
        with open_log(path) as reader:
            self._chain.begin(reader)
            for found in read_log(reader, _tell, self._pass_damage if self._skips_damage else None):
                self._chain.pass_row(found.row)
                self._row(found, self._names)

    def _row(self, found: LoggedRow, names: Names) -> None:
        row, op = found.row, found.row.body
        if isinstance(op, Dml):
            names.learn(op)
        if not self._wanted.has_row(row):
            return
        if isinstance(op, Dml):
            if not self._wanted.has_space(names, op.space_id):
                return
            is_for_clients = not is_system(op.space_id) and row.group_id == GROUP_DEFAULT
            kind = f"{row.type.name} in {names.space(op.space_id)}"
        else:
            is_for_clients, kind = False, row.type.name
        if self._only_operations and not is_for_clients:
            self._left_out[kind] += 1
            return
        print(to_json(_record(found, names)))

    def _snapshot(self, path: str) -> None:
        names = self._names = self._names or Names()
        with open_snapshot(path) as snapshot:
            if self._wanted.is_by_lsn:
                _tell(f"{path}: tuples of a snapshot have no LSNs; only names of spaces are taken from it")
                learn_snapshot(names, snapshot)
                return
            if not self._only_operations:
                print(to_json(_state(snapshot.meta)))
            for space_id, tuples in snapshot.tuples():
                self._tuples(space_id, tuples, names)

    def _tuples(self, space_id: int, tuples: Sequence[Any], names: Names) -> None:
        if is_system(space_id):
            for value in tuples:
                names.learn_tuple(space_id, value)
        if not self._wanted.has_space(names, space_id):
            return
        if self._only_operations and is_system(space_id):
            self._left_out[f"INSERT in {names.space(space_id)}"] += len(tuples)
            return
        for value in tuples:
            print(to_json({"op": "insert", "space": names.space(space_id), "tuple": value}))

    def tell_left_out(self) -> None:
        if self._left_out:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._left_out.items()))
            _tell(f"left out, since no client can repeat it: {kinds}")


def _record(found: LoggedRow, names: Names) -> dict[str, Any]:
    row, txn = found.row, found.txn
    record: dict[str, Any] = {}
    body: Any = row.body
    if hasattr(body, "space_id"):
        record["op"] = row.type.name.lower()
        record["space"] = names.space(body.space_id)
        if body.value is not None:
            record["tuple"] = body.value
        if body.key is not None:
            record["key"] = body.key
            if body.index_id:
                record["index"] = names.index(body.space_id, body.index_id)
        if body.ops is not None:
            record["ops"] = body.ops
    else:
        record["type"] = row.type.name.lower()
        record.update({name: value for name, value in body._asdict().items() if name != "raw"})
    record["origin"], record["row_lsn"] = row.replica_id, row.lsn
    record["txn"] = f"{txn.origin}:{row.lsn if txn.is_shared else txn.lsn}"
    if txn.is_shared:
        record["shared"] = f"{txn.tsn}..{txn.lsn}"
    if row.group_id:
        record["local"] = True
    if txn.is_wait_ack:
        record["sync"] = True
    if row.request_id is not None:
        record["request_id"] = bytes(row.request_id).hex()
    if options.verbose:
        record["offset"], record["time"] = found.offset, found.time
    return record


def _state(meta: SnapshotMeta) -> dict[str, Any]:
    """What a snapshot says beside tuples [W-32]."""
    return {
        "type": "snapshot",
        "vclock": meta.vclock.as_dict(),
        "replicaset_uuid": meta.replicaset_uuid,
        "term": meta.term,
        "vote": meta.vote,
        "queue_owner": meta.queue_owner,
        "queue_term": meta.queue_term,
        "confirmed_lsn": meta.confirmed_lsn,
    }


def check_log(path: str) -> dict[str, Any]:
    """Read it to its end. Raises `Corruption`, `IllegalParams`."""
    blocks = transactions = rows = 0
    with open_log(path) as reader:
        lsns = {int(origin): int(lsn) for origin, lsn in reader.header.vclock}
        start = dict(lsns)
        for _, _, txns in reader:
            blocks += 1
            transactions += len(txns)
            for txn in txns:
                rows += txn.row_count
                for origin, lsn in txn.components():
                    lsns[int(origin)] = max(lsns.get(int(origin), 0), int(lsn))
        clean = reader.ending is Ending.CLEAN
        open_end = f"no end marker at offset {reader.end}: still written to, or the process was killed"
        return {
            "file": path,
            "instance_uuid": reader.header.instance_uuid,
            "blocks": blocks,
            "transactions": transactions,
            "rows": rows,
            "from": str(start),
            "to": str(lsns),
            "end": "closed clean" if clean else open_end,
        }


def check_snapshot(path: str) -> dict[str, Any]:
    """As `check_log`."""
    spaces: Counter[int] = Counter()
    with open_snapshot(path) as snapshot:
        for space_id, tuples in snapshot.tuples():
            spaces[space_id] += len(tuples)
        return {
            "file": path,
            "instance_uuid": snapshot.header.instance_uuid,
            "spaces": len(spaces),
            "tuples": spaces.total(),
            "at": str(snapshot.meta.vclock),
        }
