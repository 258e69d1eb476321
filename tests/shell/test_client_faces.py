"""What the three clients have in common, each against servers whose answers a test chooses."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest
import trio
import trio.lowlevel

import synchro
import synchro.aio
from synchro import errors
from synchro.client import aio_stream, trio_stream
from synchro.rpc.generated.v1 import data_pb2
from synchro.rpc.generated.v1.common_pb2 import Header, Position
from synchro.wire.streams import Http2Stream
from tests.shell.fake_server import FakeServer
from tests.shell.wire_server import WireConnection, WireServer, wire_server


@pytest.fixture
def servers() -> Iterator[list[FakeServer]]:
    made = [FakeServer(1), FakeServer(2), FakeServer(3)]  # type: ignore[abstract]
    made[0].lead(*made)
    yield made
    for server in made:
        server.silent.clear()
        server.stop()


Story = Callable[[Any], Coroutine[Any, Any, None]]


class Awaited:
    """A blocking client, to be used like the others: what it returns is awaited."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name == "space":
            return lambda space: Awaited(found(space))
        if not callable(found):
            return found

        async def call(*arguments: Any, **options: Any) -> Any:
            return found(*arguments, **options)

        async def items(*arguments: Any, **options: Any) -> Any:
            for item in found(*arguments, **options):
                yield item

        return items if name in ("iter", "watch_info", "watch_transaction") else call


def tell(face: str, servers: Sequence[FakeServer | WireServer], story: Story, **options: Any) -> None:
    """Run a story with a client of this kind."""
    endpoints = [server.address for server in servers]

    async def with_aio() -> None:
        async with synchro.aio.connect(endpoints, **options) as db:
            await story(db)

    match face:
        case "blocking":
            with synchro.connect(endpoints, **options) as db:
                asyncio.run(story(Awaited(db)))
        case "asyncio":
            asyncio.run(with_aio())
        case "trio":
            trio.run(with_aio)


async def pause(face: str, seconds: float) -> None:
    if face == "trio":
        await trio.sleep(seconds)
    else:
        await asyncio.sleep(seconds)


faces = pytest.mark.parametrize("face", ["blocking", "asyncio", "trio"])


@faces
def test_a_large_space_is_read_page_by_page(face: str, servers: list[FakeServer]) -> None:
    servers[0].rows = [[number] for number in range(7)]

    async def story(db: Any) -> None:
        assert [row[0] async for row in db.space("bands").iter(page=3)] == list(range(7))
        limits = [select.limit for select in servers[0].selects]
        assert max(limits) == 3 and len(limits) >= 3
        first = db.space("bands").iter(page=2)
        assert (await anext(first))[0] == 0
        await first.aclose()
        with pytest.raises(errors.IllegalParams):
            await anext(db.space("bands").iter(page=0))

    tell(face, servers, story)


@faces
def test_many_rows_are_written_in_transactions(face: str, servers: list[FakeServer]) -> None:
    told: list[int] = []
    threads: set[threading.Thread] = set()

    def progress(done: int) -> None:
        told.append(done)
        threads.add(threading.current_thread())

    def rows() -> Iterator[list[int]]:
        for number in range(95):
            threads.add(threading.current_thread())
            yield [number]

    async def story(db: Any) -> None:
        assert await db.bulk("bands", rows(), batch=10, on_progress=progress) == 95
        assert threads == {threading.current_thread()}  # as a connection of sqlite asks for
        assert told == [40, 80, 95]
        assert sorted(row[0] for row in servers[0].rows) == list(range(95))
        assert {len(call.ops) for call in servers[0].calls} == {10, 5}
        assert await db.bulk("bands", []) == 0

        servers[0].answer = servers[0].refuse(errors.TupleFound)
        with pytest.raises(synchro.DuplicateKey) as caught:
            await db.bulk("bands", ([n] for n in range(10**9)), batch=10)
        assert caught.value.details["bulk_first"] == "0" and caught.value.details["bulk_done"] == "0"
        assert len(servers[0].calls) == 10 + 4

    tell(face, servers, story)


@pytest.mark.parametrize("face", ["asyncio", "trio"])
def test_rows_may_come_asynchronously(face: str, servers: list[FakeServer]) -> None:
    async def rows() -> Any:
        for number in range(25):
            await pause(face, 0)
            yield [number]

    async def story(db: Any) -> None:
        assert await db.bulk("bands", rows(), batch=10) == 25

    tell(face, servers, story)


@faces
def test_calls_are_answered_with_values(face: str, servers: list[FakeServer]) -> None:
    async def story(db: Any) -> None:
        assert await db.leader() == servers[0].address
        assert await db.most_informed() == servers[0].address
        assert await db.endpoint_of("instance002") == servers[1].address
        changed = await db.create_space("x", sync=True)
        assert changed == synchro.SpaceChanged(True, None, None)
        (space,) = await db.spaces("bands")
        assert (space.name, space.is_sync, space.format[1].name) == ("bands", True, "name")
        assert list(await db.field_names("bands")) == ["id", "name"]
        assert await db.list_instances() == []
        assert (await db.get_info("", instance="instance003")).name == "instance003"
        async for state in db.watch_info("instance002"):
            assert state.leader == "instance001"
            break
        assert [state async for state in db.watch_transaction("1:9", timeout=5)] == [
            synchro.TxnState("on_disk", (1, 9), (1,), (3,), 2),
            synchro.TxnState("committed", (1, 9), (), (), 0),
        ]
        assert await db.sync_wal() == synchro.Synced("instance001", {0: 2, 1: 9})
        assert (await db.sync_wal("instance002")).instance == "instance002"
        assert await db.check_promote("instance002") == synchro.PromoteOutlook(
            "instance002", False, 5, 1, 2, 0, (("SPLIT_BRAIN", "two histories"),)
        )
        for wait in (db.wait_rw, db.wait_ro, db.wait_leader):
            assert (await wait("instance001")).leader == "instance001"
        row = await db.space("bands").insert([1, "Roxette"])
        assert pickle.loads(pickle.dumps(row))["name"] == "Roxette"
        assert servers[0].address in db.endpoints

    tell(face, servers, story)


@faces
def test_changes_are_told_until_the_end(face: str, servers: list[FakeServer]) -> None:
    async def story(db: Any) -> None:
        states: list[Any] = []
        stop = db.on_change(states.append)
        stop = await stop if face == "blocking" else stop
        async with asyncio.timeout(10) if face != "trio" else trio.open_nursery():
            while not states:
                await pause(face, 0.01)
        stop()
        assert states[0].leader == "instance001"

    tell(face, servers, story)


# --- time and outcomes -----------------------------------------------------------------------------------


@faces
@pytest.mark.parametrize("wait", [True, False])
def test_a_paused_instance_is_waited_for(face: str, wait: bool, servers: list[FakeServer]) -> None:
    """Silent for longer than a probe takes, but not for as long as the caller waits."""
    servers[0].silent.set()
    threading.Timer(1.6, servers[0].silent.clear).start()

    async def story(db: Any) -> None:
        assert await db.space("bands").insert([1]) == (1,)
        assert len(servers[0].calls) == 1

    tell(face, servers[:1], story, timeout=20, wait_for_connection=wait)


@faces
def test_a_silent_instance_is_no_unknown_outcome(face: str, servers: list[FakeServer]) -> None:
    servers[0].silent.set()

    async def story(db: Any) -> None:
        began = time.monotonic()
        with pytest.raises(synchro.CannotConnect, match="no answer"):
            await db.space("bands").insert([1])
        assert time.monotonic() - began > 1.3

    tell(face, servers[:1], story, timeout=1.4)


@pytest.mark.parametrize("face", ["asyncio", "trio"])
@pytest.mark.parametrize("owner", [0, 1])
def test_who_is_silent_is_left_if_somebody_owns_the_queue(
    face: str, owner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an owner nobody else knows what it may have done, as with masters: the call waits for it."""
    for module in (aio_stream, trio_stream):
        monkeypatch.setattr(module, "SWEEP_S", 0.02)
        monkeypatch.setattr(module, "SILENT_S", 0.1)
        monkeypatch.setattr(module, "ANSWER_S", 0.1)

    def fall_silent(connection: WireConnection, stream: Http2Stream) -> None:
        connection.flush()
        server.is_mute = True

    with wire_server(fall_silent) as server:

        async def story(db: Any) -> None:
            db._api.plans.session.good_endpoint = server.address
            db._api.plans.routes.queue_owner = owner
            db._api.plans.session.see(Header(decided_position=Position()))  # of a queue that nobody claimed
            with pytest.raises(synchro.OutcomeUnknown):
                await db.space("bands").insert([1])
            assert (len(server.connections) > 1) is bool(owner)

        tell(face, [server], story, timeout=1, follow_leader=False)


@faces
def test_a_silent_endpoint_does_not_hide_the_others(face: str, servers: list[FakeServer]) -> None:
    servers[2].silent.set()
    order = [servers[2], servers[1], servers[0]]

    async def story(db: Any) -> None:
        took = []
        for _ in range(5):  # one of them is not held up by what else the machine does
            began = time.monotonic()
            assert await db.most_informed() == servers[0].address
            took.append(time.monotonic() - began)
        assert min(took) < 0.9  # less than the silent one is waited for

    tell(face, order, story, timeout=20)


@faces
def test_without_a_leader_a_write_says_who_is_missing(face: str, servers: list[FakeServer]) -> None:
    for server in servers[1:]:
        server.leader = servers[0]

    async def story(db: Any) -> None:
        await db.space("bands").insert([1])
        servers[0].stop()
        servers[1].stop()
        await pause(face, 0.3)  # the stream notices its end
        with pytest.raises(synchro.NoLeader) as caught:
            await db.space("bands").insert([2], timeout=1)
        assert caught.value.message == "last leader instance001 is down, 1 of 2 needed instances up"
        assert await db.most_informed() == servers[2].address
        assert (await db.get_info()).name == "instance003"

    tell(face, servers, story, timeout=5)


@faces
def test_what_is_too_large_is_refused_before_it_is_sent(face: str, servers: list[FakeServer]) -> None:
    async def story(db: Any) -> None:
        await db.space("bands").insert([1])
        began = time.monotonic()
        with pytest.raises(errors.BatchTooLarge, match="nothing was sent"):
            await db.space("bands").insert([1, "x" * (16 << 20)])
        assert time.monotonic() - began < 15  # half of its time-out: it is not tried again
        assert len(servers[0].calls) == 1
        assert await db.space("bands").insert([2]) == (2,)

    tell(face, servers, story, timeout=30)


@pytest.mark.parametrize("face", ["asyncio", "trio"])
def test_a_server_that_goes_away_is_waited_for(face: str, servers: list[FakeServer]) -> None:
    """grpcio's server stops gracefully: what it has it answers, the next call goes elsewhere."""
    released = threading.Event()
    old, new = servers[:2]
    stopping = threading.Thread(target=lambda: old._server.stop(8).wait())

    def hold(call: Any) -> Any:
        released.wait(5)
        return old.accept(call)

    async def go_on(db: Any) -> None:
        while len(old.calls) < 2:
            await pause(face, 0.01)
        stopping.start()
        await pause(face, 0.3)
        new.lead(*servers)
        assert await db.space("bands").insert([3]) == (3,)
        assert [row[0] for row in new.rows] == [3]
        released.set()

    async def story(db: Any) -> None:
        await db.space("bands").insert([1])
        old.answer = hold
        if face == "asyncio":
            waiting = asyncio.ensure_future(db.space("bands").insert([2]))
            await go_on(db)
            assert await waiting == (2,)
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(db.space("bands").insert, [2])
                await go_on(db)
        assert [row[0] for row in old.rows] == [1, 2]

    tell(face, servers, story, timeout=8)
    stopping.join()


@faces
def test_an_unknown_outcome_is_asked_for(face: str, servers: list[FakeServer]) -> None:
    async def story(db: Any) -> None:
        servers[0].answer = servers[0].refuse(errors.SyncTimeout, txn="1:15")
        with pytest.raises(synchro.OutcomeUnknown) as caught:
            await db.space("bands").insert([1])
        assert await db.wait_outcome(caught.value, 5) == synchro.Committed((1, 15))
        ended = caught.value.wait(5)
        assert (ended if face == "blocking" else await ended) == synchro.Committed((1, 15))  # type: ignore[misc]

    tell(face, servers, story)


@faces
def test_a_closed_client_says_so(face: str, servers: list[FakeServer]) -> None:
    async def story(db: Any) -> None:
        await db.space("bands").insert([1])
        await db.close()
        calls: list[Callable[[], Any]] = [
            lambda: db.space("bands").insert([2]),
            lambda: db.space("bands").select(),
            lambda: db.create_space("x"),
            lambda: db.bulk("bands", [[1]]),
            lambda: db.promote(),
        ]
        for call in calls:
            with pytest.raises(synchro.ClientClosed, match="nothing was sent"):
                await call()

    tell(face, servers, story, timeout=3)


ON_DISK, COMMITTED = data_pb2.TRANSACTION_STAGE_ON_DISK, data_pb2.TRANSACTION_STAGE_COMMITTED
UNKNOWN = data_pb2.TRANSACTION_STAGE_UNKNOWN


def stages_told(face: str, servers: list[FakeServer], timeout: float = 10) -> list[str]:
    told: list[str] = []

    async def story(db: Any) -> None:
        await db.leader()  # connected: the time is that of the watch alone
        told.extend([state.stage async for state in db.watch_transaction("1:9", timeout=timeout)])

    tell(face, servers, story)
    return told


@faces
def test_a_watch_goes_on_at_another_instance(face: str, servers: list[FakeServer]) -> None:
    """[Q-48]: what was told is not told again, and never what lies before it."""
    servers[0].stages = [[ON_DISK, lambda: servers[1].lead(*servers), "dies"]]
    servers[1].stages = [[data_pb2.TRANSACTION_STAGE_SUBMITTED, "dies"], [ON_DISK, COMMITTED]]
    assert stages_told(face, servers) == ["on_disk", "committed"]


@faces
def test_a_watch_goes_on_where_the_instance_stops(face: str, servers: list[FakeServer]) -> None:
    """One that stops ends the stream before its time, and says no end."""
    servers[0].stages = [[ON_DISK], [COMMITTED]]
    assert stages_told(face, servers) == ["on_disk", "committed"]


@faces
def test_a_watch_waits_for_what_may_still_come(face: str, servers: list[FakeServer]) -> None:
    servers[0].stages = [[UNKNOWN], [UNKNOWN], [ON_DISK], [UNKNOWN], [COMMITTED]]
    assert stages_told(face, servers) == ["on_disk", "committed"]


@faces
def test_a_watch_ends_where_no_answer_can_come(face: str, servers: list[FakeServer]) -> None:
    """It is older than what is remembered: the instance has rows up to there."""
    servers[0].vclock = {1: 9}
    servers[0].stages = [[UNKNOWN]]
    assert stages_told(face, servers, timeout=1000) == ["unknown"]


@faces
def test_a_watch_ends_when_its_time_is_over(face: str, servers: list[FakeServer]) -> None:
    servers[0].stages = [[UNKNOWN]]
    assert stages_told(face, servers, timeout=1.0) == ["unknown"]
    servers[0].stages = [[ON_DISK, "dies"], ["dies"]]
    with pytest.raises(synchro.ConnectionLost):
        stages_told(face, servers, timeout=1.0)


@faces
def test_a_wait_goes_on_while_an_answer_may_come(face: str, servers: list[FakeServer]) -> None:
    """[Q-48]: within its time for an LSN that is not there yet; it ends at once for one that is too old."""
    servers[0].outcome = data_pb2.TRANSACTION_OUTCOME_UNKNOWN

    def after(asked: int) -> None:
        if asked == 3:
            servers[0].outcome = data_pb2.TRANSACTION_OUTCOME_COMMITTED

    servers[0].on_wait = after

    async def story(db: Any) -> None:
        assert await db.wait_transaction("1:9", timeout=10) == "committed"
        servers[0].outcome = data_pb2.TRANSACTION_OUTCOME_UNKNOWN
        assert await db.wait_transaction("1:9", timeout=1.0) == "unknown"
        assert await db.wait_transaction(bytes(16), timeout=1.0) == "unknown"
        servers[0].vclock = {1: 9}
        assert await db.wait_transaction("1:9", timeout=1000) == "unknown"

    tell(face, servers, story)
