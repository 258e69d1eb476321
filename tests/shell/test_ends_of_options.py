"""No legal value of an option stops progress, unless the log names the option.

Every option of the configuration that is a number is set to its smallest and to its largest legal value, one
at a time: two instances must elect, write, replicate, restart and write a snapshot, or warn.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import yaml

from synchro.config import Limits, Settings, doubtful
from synchro.config.file import parse
from synchro.config.located import compose
from synchro.config.option import Effect
from synchro.config.option import ends as number_ends
from synchro.config.schema import INSTANCE, ROOT, check, leaves
from synchro.errors import ReadOnly
from synchro.instance import events as ev
from tests.shell.memory_set import MemorySet, create_space, open_set, put, until, write

PROGRESS_S = 60.0
"""For the whole story, which takes half a second on a quiet machine."""
HOPELESS_S = 8.0
"""The same where the log warns, and nobody expects progress."""
SMALLEST_SECONDS = "0.000000001"
INSTANCES = {
    f"instance{number:03}": {"grpc": {"listen": [{"uri": f"127.0.0.1:{3300 + number}"}]}} for number in (1, 2)
}
TOGETHER = {
    ("limits.txn_bytes_max", "4096"): {"limits.tuple_bytes_max": "4096"},
    ("limits.tuple_bytes_max", str(15 << 20)): {"limits.txn_bytes_max": str(15 << 20)},
}
"""What is legal only with another option."""


def ends() -> list[tuple[str, str]]:
    """(dotted option, value) for both ends of each number; where 0 means "never", the smallest one too."""
    found = []
    for path, option in leaves(INSTANCE):
        if (legal := number_ends(option.kind)) is None or option.effect is Effect.LATER or option.fixed:
            continue
        low, high = legal
        texts = [SMALLEST_SECONDS if 0 < low < 1 else f"{low:.0f}", f"{high:.0f}"]
        if low == 0:
            texts.append(SMALLEST_SECONDS if "interval" in path else "1")
        found += [(".".join(path), text) for text in texts]
    return found


def settings_with(options: dict[str, str]) -> Settings:
    tree: dict[str, Any] = {"replication": {"failover": "election"}}
    for item in options.items():
        options = {**options, **TOGETHER.get(item, {})}
    for option, text in options.items():
        place: Any = tree
        *sections, key = option.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = text if "." in text else int(text)
    tree["groups"] = {"group001": {"replicasets": {"replicaset001": {"instances": INSTANCES}}}}
    config = parse(yaml.safe_dump(tree), path="/tmp/config.yaml", environ={})
    return config.instance("instance001").settings


def changes(options: dict[str, str]) -> dict[str, Any]:
    """The fields of `Settings` that these options change."""
    plain, changed = settings_with({}), settings_with(options)
    names = [each.name for each in fields(Settings)]
    return {n: getattr(changed, n) for n in names if getattr(plain, n) != getattr(changed, n)}


async def commit(replicas: MemorySet, op: Any) -> None:
    """By whoever leads: on a busy machine, or without its follower, a leader may resign meanwhile."""
    outcome: ev.Outcome | None = None
    while not isinstance(outcome, ev.Committed):
        outcome = await write(await replicas.wait_leader(), op)
        if isinstance(outcome, ev.Rejected):
            assert isinstance(outcome.error, ReadOnly), outcome


async def make_progress(directory: Path, settings: dict[str, Any], within_s: float) -> None:
    async with open_set(directory, size=2, **settings) as replicas:
        with trio.fail_after(within_s):
            for number in (1, 2):
                await replicas.start(number)
            await replicas.wait_ready()
            leader = await replicas.wait_leader()
            await create_space(leader, 512)
            await create_space(leader, 513, is_sync=False)
            for key in range(5):
                for space_id in (512, 513):
                    await commit(replicas, put(key, "x" * 300, space_id=space_id))
            await replicas.wait_equal()
            leader = await replicas.wait_leader()
            await leader.checkpoint()
            follower = next(node for node in replicas.nodes if node is not leader)
            number = int(follower.node.settings.instance_name[-3:])
            await replicas.stop(number)
            again = await replicas.start(number)
            await until(lambda: again.node.is_ready)
            await commit(replicas, put(9))
            await replicas.wait_equal()


def warned(logged: list[Any]) -> set[str]:
    return {record["option"] for record in logged if record["event"] == "option_doubtful"}


async def check_progress(directory: Path, options: dict[str, str]) -> None:
    within_s = HOPELESS_S if doubtful(settings_with(options)) else PROGRESS_S
    with structlog.testing.capture_logs() as logged:
        try:
            await make_progress(directory, changes(options), within_s)
        except BaseException:
            if not warned(logged) & set(options):
                raise


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("wal.queue_max_size", "1"),
        ("limits.wal_queue_bytes_max", "1"),
        ("limits.peer_credit_bytes", "1"),
        ("limits.tuple_bytes_max", "4096"),
        ("limits.wal_lead_bytes", str(64 << 20)),
        ("replication.synchro_queue_max_size", "1"),
    ],
)
async def test_what_once_stopped_or_looks_as_if_it_could(tmp_path: Path, option: str, value: str) -> None:
    await check_progress(tmp_path, {option: value})
    assert not doubtful(settings_with({option: value}))


def test_what_makes_large_rows_slow_is_named() -> None:
    """Byte by byte 100 kB need half a minute on a busy machine, and a write waits 5 s for its quorum."""
    assert [option for option, _ in doubtful(settings_with({"limits.relay_frame_bytes_max": "1"}))] == [
        "limits.relay_frame_bytes_max"
    ]
    assert not doubtful(settings_with({"limits.relay_frame_bytes_max": "1024"}))


@pytest.mark.parametrize("end", ["smallest", "largest"])
async def test_all_options_at_one_end_together(tmp_path: Path, end: str) -> None:
    """But those about which the log warns."""
    legal = [(option, text) for option, text in ends() if not doubtful(settings_with({option: text}))]
    legal.sort(key=lambda item: float(item[1]), reverse=end == "smallest")
    chosen = dict(legal)  # the last of each option
    assert len(chosen) > 20
    await check_progress(tmp_path, chosen)


@pytest.mark.long
@pytest.mark.parametrize(("option", "value"), ends())
async def test_each_option_at_each_end(tmp_path: Path, option: str, value: str) -> None:
    await check_progress(tmp_path, {option: value})


async def test_instances_with_other_limits_understand_each_other(tmp_path: Path) -> None:
    """A sender with large frames, a receiver with small limits, and the other way round."""
    small = Limits(peer_credit_bytes=1, relay_frame_bytes_max=1, txn_bytes_max=4096, tuple_bytes_max=4096)
    for directory, first, second in (("one", small, Limits()), ("two", Limits(), small)):
        async with open_set(tmp_path / directory, size=2) as replicas:
            await replicas.start(1, limits=first)
            await replicas.start(2, limits=second)
            await replicas.wait_ready()
            leader = await replicas.wait_leader()
            await create_space(leader)
            with trio.fail_after(PROGRESS_S):
                for key in range(20):
                    await commit(replicas, put(key, "x" * 3000))
            await replicas.wait_equal()


def test_the_ends_are_legal_and_one_step_beyond_is_not() -> None:
    for option, text in ends():
        settings_with({option: text})
    for path, known in leaves(INSTANCE):
        legal = number_ends(known.kind)
        for beyond in () if legal is None else (legal[0] - 1, legal[1] * 2):
            nested: Any = int(beyond)
            for key in reversed(path):
                nested = {key: nested}
            document = compose(yaml.safe_dump(nested), source="test.yaml")
            assert check(document, ROOT, file="test.yaml").problems, (path, beyond)
