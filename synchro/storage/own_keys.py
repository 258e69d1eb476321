"""Which tuples of a space were last written on this instance: what `keep_local` keeps (ADR 44) [A-54]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from synchro.errors import TupleFound
from synchro.row import Dml, Tuple
from synchro.storage.key_def import Key, KeyDef
from synchro.storage.prepared import Pending, Prepared
from synchro.storage.schema import SpaceDef
from synchro.storage.stamps import MARK_OWN
from synchro.storage.tuple_format import show_tuple


class OwnKeys:
    """A holder of changes that stands beside the space itself.

    K1  It holds the keys of committed tuples whose last change came from this instance, and no others: a key
        that was deleted has nothing to keep.
    """

    is_system = False

    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys: dict[Key, None] = {}

    def follow(self, prepared: Prepared) -> None:
        """The change that was prepared last is one of this space."""
        _, key, new, _, _ = prepared.changes[-1]
        prepared.changes.append((self, key, new, None, 0))

    def commit(self, prepared: Prepared, key: Key, new: Tuple | None) -> None:
        if prepared.is_own and new is not None:
            self.keys[key] = None
        else:
            self.keys.pop(key, None)  # OwnKeys.K1

    def rollback(self, prepared: Prepared, key: Key, below: Pending | None, size: int) -> int:
        """Nothing was changed."""
        return 0

    def undo_temporary(self, key: Key, old: Tuple | None, new: Tuple | None) -> int:
        raise AssertionError("a temporary space keeps nothing")

    def rows(self, space_id: int, key_def: KeyDef) -> Iterable[Tuple]:
        """What a snapshot holds of it, as it is now."""
        return _Rows(space_id, key_def, self.keys.copy())

    def check(self, tuples: Iterable[Key]) -> None:
        assert set(self.keys) <= set(tuples)  # OwnKeys.K1


class _Rows:
    """Each is made when whoever writes the snapshot, not the loop, asks for it."""

    def __init__(self, space_id: int, key_def: KeyDef, keys: dict[Key, None]) -> None:
        self._space_id, self._key_def, self._keys = space_id, key_def, keys

    def __iter__(self) -> Iterator[Tuple]:
        return ((self._space_id, MARK_OWN, self._key_def.sent(key)) for key in self._keys)


def kept(space: SpaceDef, op: Dml, old: Tuple) -> TupleFound:
    """The conflict of a received change with a tuple that stays."""
    new = show_tuple(op.value) if op.value is not None else f"none, a {op.type.name}"
    return TupleFound(
        f'Tuple in space "{space.name}" was last written here and is kept: '
        f"old tuple - {show_tuple(old)} and new tuple - {new}",
        space=space.name,
        old_tuple=show_tuple(old),
        new_tuple=new,
    )
