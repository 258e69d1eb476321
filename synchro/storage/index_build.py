"""Indexes over tuples that are there, made in steps between which no tuple may change (ADR 25)."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Protocol, TypeVar

from synchro.errors import TupleFound
from synchro.row import Tuple
from synchro.storage.index import Index, PrimaryIndex, SecondaryIndex
from synchro.storage.key_def import Key
from synchro.storage.schema import USER_ID, IndexDef, SpaceDef
from synchro.storage.tuple_format import TupleFormat, show_tuple
from synchro.storage.users import without_verifier

BUILD_ROWS = 500
"""Tuples of one step of a build: about a millisecond."""
T = TypeVar("T")


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, BUILD_ROWS)):
        yield chunk


def made_at_once(build: Generator[None, None, T]) -> T:
    """All steps of something that is made in steps; what it returns."""
    while True:
        try:
            next(build)
        except StopIteration as end:
            made: T = end.value
            return made


class SpaceView(Protocol):
    """What a schema change asks of a space that is there."""

    @property
    def definition(self) -> SpaceDef: ...

    @property
    def format(self) -> TupleFormat: ...

    @property
    def indexes(self) -> Mapping[int, Index]: ...

    @property
    def primary(self) -> PrimaryIndex | None: ...

    @property
    def tuples(self) -> Mapping[Key, Tuple]:
        """The committed ones."""
        ...

    @property
    def has_pending(self) -> bool:
        """Some change of it is not decided."""
        ...

    def prepared_tuples(self) -> Iterator[Tuple]:
        """All tuples as a writer sees them."""
        ...


def build_indexes(
    space: SpaceView,
    definition: SpaceDef,
    indexes: Mapping[int, IndexDef],
    *,
    sort: bool = True,
    check: bool = True,
) -> Generator[None, None, dict[int, Index]]:
    """The indexes that the space will have, in steps of `BUILD_ROWS` tuples between which no tuple may
    change. check: raises what is wrong with the tuples that are there: FieldType, TupleFound, ..."""
    if check:
        form = TupleFormat(definition, indexes.values())
        if not form.same_checks(space.format):
            for values in _chunks(space.tuples.values()):
                for value in values:
                    form.check(value)
                yield
    built: dict[int, Index] = {}
    if 0 not in indexes:
        return built
    built[0] = primary = yield from _build_primary(space, definition, indexes[0])
    for number, wanted in sorted(indexes.items()):
        kept = space.indexes.get(number)
        if number == 0:
            continue
        if isinstance(kept, SecondaryIndex) and kept.primary is primary and kept.definition == wanted:
            built[number] = kept
            continue
        built[number] = index = SecondaryIndex(primary, wanted)
        if wanted.unique:
            for items in _chunks(primary.tuples.items()):
                duplicate = index.fill(items)
                if duplicate is not None:
                    raise duplicate_key(space.definition, index, *duplicate, is_built=True)
                yield
    for index_ in built.values():
        if sort and index_.is_tree and not index_.is_sorted:
            yield from index_.sort_in_steps(BUILD_ROWS)
    return built


def _build_primary(
    space: SpaceView, definition: SpaceDef, wanted: IndexDef
) -> Generator[None, None, PrimaryIndex]:
    if space.primary is not None and space.primary.definition == wanted:
        return space.primary
    primary = PrimaryIndex(definition, wanted)
    of, tuples = primary.key_def.of, primary.tuples
    for values in _chunks(space.tuples.values()):
        for value in values:
            other = tuples.setdefault(of(value), value)
            if other is not value:
                raise duplicate_key(space.definition, primary, other, value, is_built=True)
        yield
    return primary


def duplicate_key(
    space: SpaceDef, index: Index, old: Tuple, new: Tuple, *, is_built: bool = False
) -> TupleFound:
    """The error for two tuples with an equal key of a unique index. People read it, also in logs and status:
    two masters may give one id to two users. is_built: the index is not there, so nobody can ask it."""
    if space.id == USER_ID:
        old, new = without_verifier(old), without_verifier(new)
    shown_old, shown_new = show_tuple(old), show_tuple(new)
    name = index.definition.name
    return TupleFound(
        f'Duplicate key exists in unique index "{name}" in space "{space.name}" '
        f"with old tuple - {shown_old} and new tuple - {shown_new}",
        space=space.name,
        index=name,
        key=None if is_built else show_tuple(index.key_def.user_key(new)),
        old_tuple=shown_old,
        new_tuple=shown_new,
    )
