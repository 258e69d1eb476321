"""Threads of one process pack values at the same time: programs with the blocking client, a join beside the
loop.

Found by hand: a decimal is packed by a function in Python, during which another thread may run. Both used one
packer, and each got a part of what the other one packed: a write was refused as malformed, or had the values
of another call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from synchro import msgpack_ext
from synchro.client import requests
from synchro.storage import msgpack_check

PACKERS = {"client": requests.pack, "server": msgpack_check.packb}


@pytest.mark.parametrize("one", PACKERS.values(), ids=PACKERS)
@pytest.mark.parametrize("other", PACKERS.values(), ids=PACKERS)
def test_a_thread_packs_in_the_middle_of_what_another_one_packs(
    one: Callable[[Any], bytes], other: Callable[[Any], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    value, between = ["first", Decimal("1.5"), "last"], ["of", "another", "thread"]
    expected, expected_between = one(value), other(between)
    found: list[bytes] = []
    kinds = dict(msgpack_ext._PACKERS)

    def slow(number: Any) -> Any:
        thread = threading.Thread(target=lambda: found.append(other(between)))
        thread.start()
        thread.join()
        return kinds[Decimal](number)

    monkeypatch.setattr(msgpack_ext, "_PACKERS", ((Decimal, slow),))
    assert one(value) == expected
    assert found == [expected_between]
