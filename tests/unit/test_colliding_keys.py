"""Keys of a map that were chosen so that all have one hash: each insertion into the map looks at all before
it (ADR 25). A map of UUIDs in one tuple of the largest size took two minutes, on every member."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from synchro import json_form
from synchro.errors import WrongFormat
from synchro.row import RowType
from synchro.rpc.codec import json_field, json_value
from synchro.storage import row_body
from synchro.storage.msgpack_check import packb, unpack
from synchro.values import COLLIDING_KEYS_MAX, OTHER_KEYS_MAX, Datetime, Interval

MODULUS = 2**61 - 1
"""Of the hashes of Python's numbers."""


def uuid_key(number: int) -> UUID:
    return UUID(int=number * MODULUS)


def decimal_key(number: int) -> Decimal:
    return Decimal(number * MODULUS)


KINDS = {"uuid": uuid_key, "decimal": decimal_key}


def many(key: Callable[[int], Any], count: int) -> dict[Any, int]:
    found = {key(number): number for number in range(1, count + 1)}
    assert len(set(map(hash, found))) == 1
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_many_of_one_hash_are_refused_whichever_way_they_come(kind: str) -> None:
    bad = many(KINDS[kind], COLLIDING_KEYS_MAX + 2)
    nested = (1, [{"in": [bad]}])
    with pytest.raises(WrongFormat, match="more than 100 keys of maps have the hash of another one"):
        row_body.insert_dml(RowType.REPLACE, 512, packb((1, bad)))
    with pytest.raises(WrongFormat, match="the hash of another one"):
        row_body.insert_all(RowType.REPLACE, 512, [packb(nested)])
    with pytest.raises(WrongFormat, match="the hash of another one"):
        row_body.update_dml(512, 0, (1,), packb((("=", 1, bad),)))
    with pytest.raises(WrongFormat, match="the hash of another one"):
        row_body.upsert_dml(512, packb((1, bad)), ())
    with pytest.raises(WrongFormat, match="the hash of another one"):
        row_body.delete_dml(512, 0, packb((bad,)))
    with pytest.raises(ValueError, match="the hash of another one"):
        json_form.decode_object({json_form.MAP: [[key, 1] for key in bad]})


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_log_has_is_read(kind: str) -> None:
    """New refusals bind calls of clients only."""
    value = (1, many(KINDS[kind], COLLIDING_KEYS_MAX + 2))
    assert unpack(packb(value)) == value
    fits = (1, many(KINDS[kind], COLLIDING_KEYS_MAX + 1))
    assert row_body.insert_dml(RowType.REPLACE, 512, packb(fits)).value == fits


def test_honest_keys_are_as_many_as_fit() -> None:
    """Texts and bytes without a bound of their own; of every other kind, among them those whose hash one
    other key has; and small maps are not counted."""
    keys: list[Any] = [UUID(int=number * 0x9E3779B97F4A7C15) for number in range(700)]
    keys += [Decimal(number) / 7 for number in range(1, 700)]
    keys += [Datetime(number) for number in range(700)]
    keys += [Interval(months=number) for number in range(1, 700)]
    keys += [float(number) / 8 for number in range(700)]
    keys += [-1, -2, 2**61 - 1, 2.0**61, 2**62]
    texts = [f"k{number}" for number in range(30_000)] + [b"%d" % number for number in range(30_000)]
    small = [dict.fromkeys(range(15), 0)] * 1000
    value = (1, dict.fromkeys(keys, 0), dict.fromkeys(texts, 0), tuple(small))
    assert row_body.insert_dml(RowType.REPLACE, 512, packb(value)).value == value


def test_numbers_in_each_others_way_are_refused_at_once() -> None:
    """All hashes differ: half of the keys fill an arc of the places that a dict looks at one after the other,
    and all others begin there. 160 KB took 0.8 s on each member, four times as much for twice as many."""
    data = packb((1, dict.fromkeys(range(OTHER_KEYS_MAX + 1), 0)))
    with pytest.raises(WrongFormat, match="more than 4000 keys of maps are neither text nor bytes"):
        row_body.insert_dml(RowType.REPLACE, 512, data)
    halves = (1, dict.fromkeys(range(3000), 0), [dict.fromkeys(range(3000), 0)])
    with pytest.raises(WrongFormat, match="more than 4000 keys"):
        row_body.insert_dml(RowType.REPLACE, 512, packb(halves))
    many = (1, [many_of_one_hash(number) for number in range(3)])
    with pytest.raises(WrongFormat, match="the hash of another one"):
        row_body.insert_dml(RowType.REPLACE, 512, packb(many))


def many_of_one_hash(start: int) -> dict[Any, int]:
    return {uuid_key(number): 0 for number in range(1 + 60 * start, 61 + 60 * start)}


def test_the_largest_tuple_of_them_is_refused_at_once() -> None:
    body = b"".join(packb(uuid_key(number)) + b"\x00" for number in range(1, 50_001))
    data = b"\x92\x01\xdf" + (50_000).to_bytes(4, "big") + body
    began = time.process_time()
    with pytest.raises(WrongFormat, match="more than 4000 keys"):
        row_body.insert_dml(RowType.REPLACE, 512, data)
    assert time.process_time() - began < 1.0  # 0.1 s here; 100 s without the check


def test_a_value_of_json_too() -> None:
    pairs = [[{"$uuid": str(uuid_key(number))}, number] for number in range(1, COLLIDING_KEYS_MAX + 3)]
    made = json_value({"$map": pairs})
    with pytest.raises(WrongFormat, match="the hash of another one"):
        json_field(made, 1, [100_000])
