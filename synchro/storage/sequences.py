"""Sequences: numbers that the writer gives, and that all others read in rows. Rule [D-26], ADR 47.

Q1  The position of a sequence is a tuple of `_sequence_data`: its last value. It moves with every value that
    a row uses: prepared with that row, committed and rolled back with it. So it is a function of the log,
    equal on all who have the same rows, after a restart, and in a snapshot or join.
Q2  Only a client's null becomes a value. Rows carry values, and what a row has is never changed.

A definition is a tuple of `_sequence`; a tuple of `_space_sequence` ties one to a field of a primary key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from synchro.errors import IllegalParams, NoSuchSequence, SequenceOverflow, Unsupported, WrongFormat
from synchro.row import Dml, Puts, RowType, Tuple
from synchro.storage.ddl import Draft, DraftSpace
from synchro.storage.prepared import Prepared
from synchro.storage.row_body import put_dml
from synchro.storage.schema import SEQUENCE_DATA_ID, SEQUENCE_ID, SPACE_SEQUENCE_ID
from synchro.storage.sequence_def import INT64_MAX, INT64_MIN, Numbering, SequenceDef
from synchro.storage.space_store import SpaceStore

KEY_TYPES: Final = frozenset({"unsigned", "integer"})
"""Of fields that a sequence can number."""


class Sequences:
    """Those of one instance. sequences.Q1, sequences.Q2 above."""

    def __init__(self, stores: Mapping[int, SpaceStore]) -> None:
        self._stores = stores
        self._definitions = stores[SEQUENCE_ID]
        self._data = stores[SEQUENCE_DATA_ID]
        self._links = stores[SPACE_SEQUENCE_ID]
        self.by_id: dict[int, SequenceDef] = {}
        """Committed."""
        self._read: dict[int, tuple[Tuple, SequenceDef]] = {}
        """Of `by_id`, with the tuples that they were read from."""
        self._numbered: list[SpaceStore] = []
        self._data.numbering = Numbering(1, None)

    # --- definitions

    def read(self) -> None:
        """Definitions or links were committed."""
        known, rows = self._read, self._definitions.tuples
        self._read = {  # what has not changed is not looked at again: there may be thousands
            number: known[number] if number in known and known[number][0] is row else _definition(row)
            for number, row in rows.items()
        }
        self.by_id = {number: sequence for number, (_, sequence) in self._read.items()}
        for store in self._numbered:
            store.numbering = None
        self._numbered = []
        for space_id, sequence_id, _, field, *_ in self._links.tuples.values():
            numbered, sequence = self._stores.get(space_id), self.by_id.get(sequence_id)
            if numbered is not None and sequence is not None:
                numbered.numbering = Numbering(field, sequence)
                self._numbered.append(numbered)

    def named(self, name: str) -> SequenceDef:
        """Committed. Raises `NoSuchSequence`."""
        for sequence in self.by_id.values():
            if sequence.name == name:
                return sequence
        raise NoSuchSequence(f"Sequence '{name}' does not exist", sequence=name)

    def link_of(self, space_id: int) -> Tuple | None:
        """The committed tuple of `_space_sequence`: space, sequence, is_generated, field (0-based)."""
        return self._links.tuples.get(space_id)

    def of_space(self, space_id: int) -> tuple[SequenceDef, int] | None:
        """What numbers its tuples, and in which field, 0-based; None: nothing."""
        link = self.link_of(space_id)
        return None if link is None else (self.by_id[link[1]], link[3])

    def users(self) -> dict[int, list[int]]:
        """Sequence -> ids of spaces that it numbers; none of one that numbers none."""
        found: dict[int, list[int]] = {}
        for row in self._links.tuples.values():
            found.setdefault(row[1], []).append(row[0])
        return found

    def last(self, sequence_id: int) -> int | None:
        """The last committed value; None: it was not used yet."""
        row = self._data.tuples.get(sequence_id)
        return None if row is None else int(row[1])

    def need(self, sequence_id: int) -> SequenceDef:
        """As a writer sees it. Raises `NoSuchSequence`."""
        below = self._definitions.pending.get(sequence_id)
        row = self._definitions.view.get(sequence_id) if below is None else below[1]
        if row is None:
            raise NoSuchSequence(f"Sequence #{sequence_id} does not exist")
        known = self.by_id.get(sequence_id)
        return known if known is not None and below is None else SequenceDef.from_tuple(row)

    def check(self, draft: Draft) -> None:
        """Refuse a change of definitions that would leave a sequence without its space, or the other way
        round."""
        links = [tuple(row) for row in self._links.prepared_tuples()]
        if not draft.changes_sequences and not any(row[0] in draft.spaces for row in links):
            return
        known = {row[0] for row in self._definitions.prepared_tuples()}
        for row in links:
            if row[1] not in known:
                raise self._in_use(row[1], f"space #{row[0]} is numbered by it")
            _check_link(row, draft.spaces.get(row[0]) or DraftSpace(self._stores.get(row[0])))
        for row in self._data.prepared_tuples():
            if row[0] not in known:
                raise self._in_use(row[0], "it has a value in _sequence_data")

    def _in_use(self, sequence_id: int, why: str) -> IllegalParams:
        known = self.by_id.get(sequence_id)
        name = f"'{known.name}'" if known is not None else f"#{sequence_id}"
        return IllegalParams(f"Can't drop sequence {name}: the sequence is in use, {why}")

    # --- values, for clients only

    def filled(self, prepared: Prepared, store: SpaceStore, op: Dml) -> Dml:
        """`op` with the next value in the place of a null. Raises `SequenceOverflow`, `NoSuchSequence`."""
        value, numbering = op.value, store.numbering
        assert value is not None and numbering is not None
        if len(value) <= numbering.field or value[numbering.field] is not None:
            return op
        sequence = numbering.sequence
        if sequence is None:
            if type(value[0]) is not int:
                return op  # the format refuses it
            sequence = self.need(value[0])
        made = _with(value, numbering.field, sequence.following(self._position(prepared, sequence)))
        if op.type is RowType.UPSERT:
            return op._replace(raw=b"", value=made)
        return put_dml(op.type, op.space_id, made)

    def filled_puts(self, prepared: Prepared, store: SpaceStore, puts: Puts) -> Puts | None:
        """The same for columns of a numbered space. None: one of them gets no value."""
        numbering = store.numbering
        assert numbering is not None and numbering.sequence is not None
        field, sequence = numbering.field, numbering.sequence
        if all(len(value) <= field or value[field] is not None for value in puts.values):
            return puts
        last = self._position(prepared, sequence)
        raws, values = list(puts.raws), list(puts.values)
        for at, value in enumerate(values):
            if len(value) <= field:
                return None
            if value[field] is None:
                try:
                    last = sequence.following(last)
                except SequenceOverflow:
                    return None
                made = put_dml(puts.type, puts.space_id, _with(value, field, last))
                assert made.value is not None
                raws[at], values[at] = made.raw, made.value
            else:
                last = _advanced(sequence, last, value[field])
        return Puts(puts.type, puts.space_id, raws, values)

    # --- positions

    def _position(self, prepared: Prepared, sequence: SequenceDef) -> int | None:
        """As a writer sees it; what it rests on is remembered."""
        below = self._data.pending.get(sequence.id)
        if below is None:
            row = self._data.view.get(sequence.id)
        else:
            row = below[1]
            prepared.rest_on(below[0])
        return None if row is None else int(row[1])

    def used(self, prepared: Prepared, store: SpaceStore, values: Iterable[Tuple]) -> None:
        """These tuples were put into a numbered space, by whomever (sequences.Q1)."""
        numbering = store.numbering
        assert numbering is not None
        sequence = numbering.sequence
        if sequence is None:
            return  # the tuple is the position itself
        data = self._data
        below = data.pending.get(sequence.id)
        old = data.view.get(sequence.id) if below is None else below[1]
        before = last = None if old is None else int(old[1])
        for value in values:
            last = _advanced(sequence, last, value[numbering.field])
        if last != before:
            data.push(prepared, sequence.id, old, (sequence.id, last), below)


def _definition(row: Tuple) -> tuple[Tuple, SequenceDef]:
    return row, SequenceDef.from_tuple(row)


def _advanced(sequence: SequenceDef, last: int | None, used: object) -> int | None:
    """An integer above those of 64 bits with a sign can be a key, and leaves the sequence where it is."""
    if type(used) is not int or not INT64_MIN <= used <= INT64_MAX:
        return last
    return sequence.advanced(last, used)


def _with(value: Sequence[object], field: int, number: int) -> Tuple:
    return (*value[:field], number, *value[field + 1 :])


def _check_link(row: Tuple, space: DraftSpace) -> None:
    definition, field = space.definition, row[3]
    if definition is None:
        raise IllegalParams(f"Can't drop space #{row[0]}: the space has a sequence")
    where = f"Can't number space '{definition.name}' by a sequence: "
    if definition.is_temporary or definition.is_local:
        raise Unsupported(f"{where}its tuples stay on their instance, and so would its values")
    if definition.is_system:
        raise Unsupported(f"{where}it is a system space")
    if row[4]:
        raise Unsupported(f"{where}paths in fields are not supported")
    primary = space.indexes.get(0)
    part = None if primary is None else next((p for p in primary.parts if p.field == field), None)
    if part is None:
        raise IllegalParams(f"{where}field {field + 1} is no part of its primary key")
    if part.type not in KEY_TYPES:
        raise WrongFormat(f"{where}field {field + 1} is {part.type}, not unsigned or integer")
