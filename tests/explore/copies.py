"""Copies of an instance, and a short name for what it is: the same for two that will behave alike.

A copy is a pickle. What never changes, the settings and all spaces but one among it, is shared by all copies.
"""

from __future__ import annotations

import gc
import hashlib
import io
import marshal
import pickle
import random
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final

from synchro.config import Limits, Settings
from synchro.errors import SynchroError
from synchro.raft.messages import RaftMessage
from synchro.row import PlainTxn, Txn
from synchro.storage.key_def import KeyDef
from synchro.storage.memtx import Memtx
from synchro.storage.schema import IndexDef, SpaceDef
from synchro.storage.space_store import SpaceStore
from synchro.storage.tuple_format import TupleFormat
from synchro.storage.users import Users
from synchro.vclock import Vclock
from tests.mesh import SYNC

IGNORED: Final = frozenset(
    {
        "_dead",
        "_effects",
        "_serial",
        "clock",
        "confirm_lag",
        "dead",
        "memory_used",
        "outdated_messages",
        "prepared",
        "serial",
        "waits_started",
        "work",
    }
)
"""Fields that decide nothing: counters, and what is empty between two steps."""


class Even(random.Random):
    """Always in the middle: chance is no part of a state, since every timer may ring at any time."""

    def random(self) -> float:
        return 0.5

    def __reduce__(self) -> str:
        return "EVEN"


EVEN: Final = Even()


# --- copies ---------------------------------------------------------------------------------------------

_kept: list[object] = []
_numbers: dict[int, int] = {}


def _shared(number: int) -> object:
    return _kept[number]


def _keep(thing: object) -> tuple[Any, ...]:
    number = _numbers.get(id(thing))
    if number is None:
        number = _numbers[id(thing)] = len(_kept)
        _kept.append(thing)
    return _shared, (number,)


def _keep_other_spaces(store: SpaceStore) -> Any:
    return store.__reduce_ex__(4) if store.definition.id == SYNC else _keep(store)


def _view(inner: dict[Any, Any]) -> Mapping[Any, Any]:
    return types.MappingProxyType(inner)


def _view_of(view: Any) -> tuple[Any, ...]:
    return _view, (gc.get_referents(view)[0],)


UNCHANGED: Final = (
    Settings,
    Limits,
    Txn,
    PlainTxn,
    IndexDef,
    KeyDef,
    SpaceDef,
    TupleFormat,
    Users,
    RaftMessage,
)
_HOW: Final[dict[type, Callable[[Any], Any]]] = {
    **dict.fromkeys(UNCHANGED, _keep),
    SpaceStore: _keep_other_spaces,
    types.MappingProxyType: _view_of,
}


def freeze(thing: object) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _HOW
    pickler.dump(thing)
    return file.getvalue()


def thaw(data: bytes) -> Any:
    return pickle.loads(data)


# --- names ----------------------------------------------------------------------------------------------


def digest(thing: object, now: float) -> bytes:
    """now: of the instance. A time that has passed is as good as any other; one to come counts from now."""
    return hashlib.blake2b(marshal.dumps(_Form(now).of(thing), 2), digest_size=12).digest()


_As = Callable[["_Form", Any], Any]


class _Form:
    """Tuples and numbers that are equal if two objects are."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.seen: dict[int, int] = {}

    def of(self, thing: Any) -> Any:
        kind = type(thing)
        if kind in _PLAIN:
            return thing
        way = _WAYS.get(kind)
        if way is None:
            way = _WAYS[kind] = _way_of(kind)
        return way(self, thing)

    def time(self, at: float) -> float:
        return round(at - self.now, 6) if at > self.now else 0.0

    def vclock(self, vclock: Vclock) -> Any:
        return tuple(sorted(vclock))

    def unordered(self, things: Iterable[Any]) -> Any:
        return tuple(sorted(map(self.of, things), key=repr))

    def mapping(self, things: Mapping[Any, Any]) -> Any:
        if len(things) < 2:
            return tuple((self.of(key), self.of(value)) for key, value in things.items())
        return tuple(sorted(((self.of(k), self.of(v)) for k, v in things.items()), key=repr))

    def ordered(self, things: Iterable[Any]) -> Any:
        return tuple(map(self.of, things))

    def memtx(self, memtx: Memtx) -> Any:
        store = memtx.catalog.store(SYNC)
        return self.mapping(store.tuples), self.unordered(store.pending)


def _way_of(kind: type) -> _As:
    for base, way in _BASES:
        if issubclass(kind, base):
            return way
    names = [name for each in kind.__mro__ for name in _slots(each)]
    has_dict = any("__dict__" in each.__dict__ for each in kind.__mro__)
    if not names and not has_dict:
        raise TypeError(f"what is a {kind}?")
    return _object_way(kind.__name__, sorted(set(names) - IGNORED), has_dict=has_dict)


def _slots(kind: type) -> Sequence[str]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else slots


def _object_way(title: str, names: Sequence[str], *, has_dict: bool) -> _As:
    def of(form: _Form, thing: Any) -> Any:
        number = form.seen.get(id(thing))
        if number is not None:
            return number
        form.seen[id(thing)] = len(form.seen)
        fields = [form.of(getattr(thing, name, None)) for name in names]
        if has_dict:
            inner = thing.__dict__
            fields += [form.of(inner[name]) for name in sorted(inner) if name not in IGNORED]
        return (title, *fields)

    return of


_PLAIN: Final = frozenset({int, str, bytes, bool, type(None)})
_BASES: Final[tuple[tuple[type | tuple[type, ...], _As], ...]] = (
    (Enum, lambda form, thing: thing.name),
    (int, lambda form, thing: int(thing)),
    (float, _Form.time),
    (Vclock, _Form.vclock),
    (Txn, lambda form, thing: bytes(thing.data)),
    (SynchroError, lambda form, thing: thing.reason),
    ((random.Random, types.FunctionType, Settings, Limits), lambda form, thing: 0),
    ((set, frozenset), _Form.unordered),
    ((dict, types.MappingProxyType), _Form.mapping),
    ((tuple, list, deque), _Form.ordered),
    (Memtx, _Form.memtx),
    (type, lambda form, thing: thing.__name__),
)
_WAYS: Final[dict[type, _As]] = {}
