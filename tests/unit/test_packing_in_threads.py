"""Threads of one process pack values at the same time: programs with the blocking client, a join beside the
loop. So does a signal handler, or a finalizer, in the middle of what its own thread packs.

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


def in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("meanwhile", [in_a_thread, lambda work: work()], ids=["thread", "handler"])
@pytest.mark.parametrize("one", PACKERS.values(), ids=PACKERS)
@pytest.mark.parametrize("other", PACKERS.values(), ids=PACKERS)
def test_another_one_packs_in_the_middle_of_what_is_packed(
    one: Callable[[Any], bytes],
    other: Callable[[Any], bytes],
    meanwhile: Callable[[Callable[[], None]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value, between = ["first", Decimal("1.5"), "last"], ["of", "another", "thread"]
    expected, expected_between = one(value), other(between)
    found: list[bytes] = []
    kinds = dict(msgpack_ext._PACKERS)

    def slow(number: Any) -> Any:
        meanwhile(lambda: found.append(other(between)))
        return kinds[Decimal](number)

    monkeypatch.setattr(msgpack_ext, "_PACKERS", ((Decimal, slow),))
    assert one(value) == expected
    assert found == [expected_between]
