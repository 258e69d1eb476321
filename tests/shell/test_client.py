"""The blocking client against servers whose answers a test chooses."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import synchro
from synchro import errors
from synchro.client import Client, Committed, WatchState, blocking, connect
from synchro.client.encoding import call, insert
from synchro.client.session import Session
from synchro.client.thread_stream import ThreadStream, Waiter
from synchro.rpc.generated.v1 import data_pb2
from tests.shell.fake_server import FakeServer


@pytest.fixture
def servers() -> Iterator[list[FakeServer]]:
    made = [FakeServer(1), FakeServer(2), FakeServer(3)]  # type: ignore[abstract]
    made[0].lead(*made)
    yield made
    for server in made:
        server.stop()


@pytest.fixture
def db(servers: list[FakeServer]) -> Iterator[Client]:
    with connect([server.address for server in servers], timeout=5) as client:
        yield client


def test_a_write_goes_to_the_leader_and_comes_back_as_a_tuple(db: Client, servers: list[FakeServer]) -> None:
    row = db.space("bands").insert([1, "Roxette"])
    assert row.txn == (1, 1)
    assert row["name"] == "Roxette"
    assert row == (1, "Roxette")
    assert servers[0].rows == [[1, "Roxette"]]
    assert not servers[1].calls


def test_a_leader_that_is_silent_is_left_for_the_next_one(
    servers: list[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have done the write: the next owner is asked under the same request id."""
    monkeypatch.setattr(blocking, "SILENT_S", 0.1)
    monkeypatch.setattr(blocking, "ANSWER_S", 0.2)
    first, second, third = servers
    with connect([server.address for server in servers], timeout=60) as db:
        space = db.space("bands")
        space.insert([1])
        first.answer = lambda _: None
        first.silent.set()
        second.lead(first, second, third)
        space.insert([2])
    assert [call.request_id for call in first.calls][-1] == second.calls[-1].request_id


def test_a_leader_that_lets_a_write_wait_and_is_there_is_not_left(
    servers: list[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "SILENT_S", 0.05)
    monkeypatch.setattr(blocking, "ANSWER_S", 30.0)
    with connect([server.address for server in servers], timeout=60) as db:
        db.space("bands").insert([1])
        servers[0].gate.clear()
        opening = threading.Timer(0.6, servers[0].gate.set)
        opening.start()
        db.space("bands").insert([2])
        opening.join()
    assert [len(server.calls) for server in servers] == [2, 0, 0]


def test_who_is_silent_while_nobody_owns_the_queue_is_waited_for(
    servers: list[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with masters: nobody else knows what it may have done."""
    monkeypatch.setattr(blocking, "SILENT_S", 0.05)
    monkeypatch.setattr(blocking, "ANSWER_S", 0.05)
    goes_on = threading.Event()

    def late(call: object) -> object:
        goes_on.wait(30)
        return servers[0].accept(call)

    for server in servers:
        server.claimed, server.position = False, (0, 0)
    with connect([server.address for server in servers], timeout=60) as db:
        db.space("bands").insert([1])
        servers[0].answer = late
        servers[0].silent.set()
        resuming = threading.Timer(0.6, goes_on.set)
        resuming.start()
        db.space("bands").insert([2])
        resuming.join()
    assert [len(server.calls) for server in servers] == [2, 0, 0]


def test_one_endpoint_is_enough_to_find_the_leader(servers: list[FakeServer]) -> None:
    with connect(servers[2].address) as db:
        db.space("bands").insert([1])
    assert servers[0].rows == [[1]]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_that_answers_is_found_among_silent_ones(servers: list[FakeServer], place: int) -> None:
    """Who accepts a connection and says nothing is no reason not to hear the others."""
    with contextlib.ExitStack() as silent:
        addresses = []
        for _ in range(2):
            made = silent.enter_context(socket.create_server(("127.0.0.1", 0)))
            addresses.append(f"127.0.0.1:{made.getsockname()[1]}")
        addresses.insert(place, servers[0].address)
        for _ in range(3):
            with connect(addresses, timeout=5, wait_for_connection=False) as db:
                assert db.leader() == servers[0].address
            with connect(addresses, timeout=5, read_from="any", wait_for_connection=False) as db:
                assert db.endpoint_of("instance001") == servers[0].address


def test_a_refusal_with_a_hint_is_followed_with_the_same_request_id(
    db: Client, servers: list[FakeServer]
) -> None:
    """It led when the client looked, and does not any more when the write arrives."""
    db.space("bands").insert([1])
    servers[1].lead(*servers)
    servers[0].answer = servers[0].refuse(errors.ReadOnly, ro_reason="election")
    db.space("bands").insert([2])
    assert servers[1].rows == [[2]]
    assert servers[0].calls[-1].request_id == servers[1].calls[-1].request_id


def test_a_linearizable_read_that_another_one_cannot_answer_goes_to_the_owner(
    servers: list[FakeServer],
) -> None:
    """[Q-63]: it is tried anywhere first."""
    servers[0].rows = [[1]]
    with connect([server.address for server in servers[1:]], timeout=5, read_from="any") as db:
        assert db.space("bands").select(read="linearizable") == [(1,)]
    assert servers[0].selects and (servers[1].selects or servers[2].selects)


def test_a_lost_connection_is_repeated_with_the_same_id_on_the_new_leader(
    db: Client, servers: list[FakeServer]
) -> None:
    db.space("bands").insert([1])
    servers[1].done = servers[0].done  # the rows were replicated

    def die(call: object) -> object:
        servers[0].accept(call)
        servers[1].lead(*servers)
        return "break"

    servers[0].answer = die
    row = db.space("bands").insert([2, "x"])
    assert row == (2, "x")
    assert servers[1].rows == []  # known by its id: not done a second time
    assert servers[1].calls[-1].request_id == servers[0].calls[-1].request_id


def test_the_known_position_is_that_of_the_first_try(db: Client, servers: list[FakeServer]) -> None:
    """A later one could lie above the transaction of the lost try, which then would not be found."""
    servers[0].position = (2, 10)
    db.space("bands").insert([1])
    answers = iter(["break", None])

    def first_break(call: object) -> object:
        servers[0].position = (2, 50)
        return next(answers) or servers[0].accept(call)

    servers[0].answer = first_break
    db.space("bands").insert([2])
    positions = [(c.known_position.term, c.known_position.lsn) for c in servers[0].calls[1:]]
    assert positions == [(2, 10), (2, 10)]


def test_no_answer_is_an_unknown_outcome_that_can_be_asked_about(servers: list[FakeServer]) -> None:
    servers[0].answer = lambda call: None
    with connect(servers[0].address, timeout=1.0) as db:
        with pytest.raises(synchro.OutcomeUnknown) as caught:
            db.space("bands").insert([1])
        assert caught.value.request_id == servers[0].calls[0].request_id
        assert caught.value.wait(timeout=5) == Committed(None)
        servers[0].outcome = data_pb2.TRANSACTION_OUTCOME_PENDING
        with pytest.raises(synchro.OutcomeUnknown, match="still pending"):
            caught.value.wait(timeout=1.0)


def test_a_timeout_of_the_quorum_names_the_transaction(db: Client, servers: list[FakeServer]) -> None:
    servers[0].answer = servers[0].refuse(errors.SyncTimeout, txn="1:15")
    with pytest.raises(synchro.OutcomeUnknown) as caught:
        db.space("bands").insert([1])
    assert caught.value.txn == (1, 15)


def test_a_full_queue_is_tried_again(db: Client, servers: list[FakeServer]) -> None:
    answers = iter([errors.SyncQueueFull("full"), errors.SyncQueueFull("full")])
    servers[0].answer = lambda call: next(answers, None) or servers[0].accept(call)
    db.space("bands").insert([1])
    assert len(servers[0].calls) == 3


def test_a_duplicate_key_is_raised_with_its_details(db: Client, servers: list[FakeServer]) -> None:
    servers[0].answer = servers[0].refuse(errors.TupleFound, space="bands", index="primary")
    with pytest.raises(synchro.DuplicateKey) as caught:
        db.space("bands").insert([1])
    assert caught.value.details["index"] == "primary"
    assert len(servers[0].calls) == 1


def test_many_threads_may_write_at_once(db: Client, servers: list[FakeServer]) -> None:
    threads = [threading.Thread(target=db.space("bands").insert, args=([number],)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(row[0] for row in servers[0].rows) == list(range(64))


class SlowChannel:
    """Takes a frame only when the test asks for it, as gRPC does while a message is being sent."""

    def __init__(self) -> None:
        self.frames: Iterator[bytes] = iter(())
        self.ended = threading.Event()

    def stream_stream(self, *_: object, **__: object) -> Callable[[Iterator[Any]], SlowChannel]:
        return self

    def __call__(self, frames: Iterator[bytes], metadata: object = ()) -> SlowChannel:
        self.frames = frames
        return self

    def __iter__(self) -> Iterator[Any]:
        self.ended.wait(10)
        return iter(())

    def cancel(self) -> None:
        self.ended.set()

    def next_seqs(self) -> list[int]:
        return [call.seq for call in data_pb2.ExecuteStreamRequest.FromString(next(self.frames)).calls]


def test_answers_for_many_calls_at_once_reach_each_thread(db: Client, servers: list[FakeServer]) -> None:
    """ADR 13."""
    lsns: list[int] = []

    def write(number: int) -> None:
        with db.transaction(omit_tuples=True) as transaction:
            transaction.insert("bands", [number])
        result = transaction.result
        assert result is not None and result.tuples == () and result.is_sync and result.txn is not None
        lsns.append(result.txn[1])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(lsns)) == 64


def stream_on(channel: SlowChannel) -> ThreadStream:
    return ThreadStream(
        channel,  # type: ignore[arg-type]
        "h:1",
        timeout_s=1,
        on_replies=lambda response, endpoint: None,
        session=Session(),
    )


def test_a_frame_is_everything_that_waited_while_the_last_one_was_sent() -> None:
    channel = SlowChannel()
    stream = stream_on(channel)
    waiters = [Waiter() for _ in range(70)]
    stream.submit(b"", 1, waiters[0])
    assert channel.next_seqs() == [1]
    for waiter in waiters[1:65]:
        stream.submit(b"", 1, waiter)
    assert channel.next_seqs() == list(range(2, 66))
    for waiter in waiters[65:]:
        stream.submit(b"", 1, waiter)
    stream.close()
    assert [waiter.outcome.reason for waiter in waiters[63:67]] == [
        "CONNECTION_LOST",  # sent: nobody knows
        "CONNECTION_LOST",
        "CANNOT_CONNECT",  # not sent: nothing was done
        "CANNOT_CONNECT",
    ]


def test_large_calls_go_in_several_frames() -> None:
    """The server decodes one while the one before is on its way to disk."""
    channel = SlowChannel()
    stream = stream_on(channel)
    large = call(b"i" * 16, b"", insert("bands", ["x" * 50_000]), b"")
    for _ in range(5):
        stream.submit(large, 1, Waiter())
    assert [channel.next_seqs() for _ in range(3)] == [[1, 2], [3, 4], [5]]
    stream.close()


def test_a_transaction_is_one_call_and_nothing_on_an_exception(db: Client, servers: list[FakeServer]) -> None:
    with db.transaction() as tx:
        tx.insert("bands", [1])
        tx.insert("bands", [2])
    assert [len(call.ops) for call in servers[0].calls] == [2]
    assert tx.result is not None
    assert tx.result.txn == (1, 1)
    with contextlib.suppress(RuntimeError), db.transaction() as tx:
        tx.insert("bands", [3])
        raise RuntimeError("stop")
    assert len(servers[0].calls) == 1


def test_a_long_answer_comes_in_pages(db: Client, servers: list[FakeServer]) -> None:
    servers[0].rows = [[number] for number in range(5)]
    rows = db.space("bands").select()
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
    assert rows.after is None
    assert len(servers[0].selects) == 3
    assert len(db.space("bands").select(limit=4)) == 4


def test_nobody_there_is_told_with_every_endpoint(servers: list[FakeServer]) -> None:
    for server in servers:
        server.stop()
    with connect([s.address for s in servers[:2]], timeout=1.0) as db:
        with pytest.raises(synchro.CannotConnect) as caught:
            db.space("bands").insert([1])
        assert servers[0].address in caught.value.message
        assert "connection refused" in caught.value.message
    started = time.monotonic()
    impatient = connect(servers[0].address, timeout=20, wait_for_connection=False)
    with impatient as db, pytest.raises(synchro.CannotConnect):
        db.space("bands").insert([1])
    assert time.monotonic() - started < 10


def test_an_instance_that_comes_back_is_found_within_the_timeout(servers: list[FakeServer]) -> None:
    port = servers[0].port
    servers[0].stop()
    with connect(f"127.0.0.1:{port}", timeout=15) as db:
        result: list[object] = []
        thread = threading.Thread(target=lambda: result.append(db.space("bands").insert([1])))
        thread.start()
        time.sleep(0.3)
        servers[0] = FakeServer(1, port)  # type: ignore[abstract]
        servers[0].lead()
        thread.join(20)
    assert result == [(1,)]


def test_schema_changes_follow_hints_too(db: Client, servers: list[FakeServer]) -> None:
    db.leader()
    servers[1].lead(*servers)
    assert db.create_space("x", sync=True).done
    first, second = servers[0].calls[-1], servers[1].calls[-1]
    assert first.request_id == second.request_id != b""


def test_without_following_a_refusal_is_raised(servers: list[FakeServer]) -> None:
    servers[1].answer = servers[1].refuse(errors.ReadOnly, ro_reason="synchro")
    with connect(servers[1].address, follow_leader=False) as db, pytest.raises(synchro.ReadOnly):
        db.space("bands").insert([1])


def test_info_is_a_tree(db: Client) -> None:
    assert db.info.synchro.queue.len == 3
    assert db.get_info(instance="instance002").name == "instance002"


def test_changes_are_told(db: Client, servers: list[FakeServer]) -> None:
    states: list[WatchState] = []
    told = threading.Event()

    def tell(state: WatchState) -> None:
        states.append(state)
        told.set()

    stop = db.on_change(tell)
    assert told.wait(5)
    stop()
    assert (states[0].leader, states[0].term, states[0].is_writable) == ("instance001", 2, True)


def test_close_ends_what_waits(servers: list[FakeServer]) -> None:
    servers[0].answer = lambda call: None
    db = connect(servers[0].address, timeout=30)
    caught: list[BaseException] = []

    def write() -> None:
        try:
            db.space("bands").insert([1])
        except synchro.SynchroError as error:
            caught.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    while not servers[0].calls:
        time.sleep(0.01)
    db.close()
    thread.join(5)
    assert not thread.is_alive()
    assert isinstance(caught[0], synchro.OutcomeUnknown)


def test_a_program_that_forgets_to_close_ends_all_the_same(servers: list[FakeServer]) -> None:
    """A live stream must not keep the interpreter."""
    program = (
        "import synchro\n"
        f"db = synchro.connect({servers[0].address!r})\n"
        "db.space('s').insert([1])\n"
        "db.on_change(lambda state: None)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)


def test_importing_the_package_imports_no_grpc() -> None:
    program = (
        "import sys, synchro; assert 'grpc' not in sys.modules; synchro.connect; assert 'grpc' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
    heavy = "{'trio', 'structlog', 'pydantic'}"
    program = f"import sys, synchro.client, synchro.cli.app; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)


def test_the_very_first_call_knows_the_position_its_leader_told(servers: list[FakeServer]) -> None:
    """Without it the server could not tell a first try from a repetition that is older than its memory."""
    servers[0].position = (2, 10)
    with connect(servers[0].address) as db:
        db.space("bands").insert([1])
    known = servers[0].calls[0].known_position
    assert (known.term, known.lsn) == (2, 10)
