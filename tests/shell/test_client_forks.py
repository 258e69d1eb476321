"""Clients and children of a fork: what is inherited is refused, what is new works.

Each story is a program of its own, so that the process of the tests is never forked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.shell.fake_server import FakeServer

HEAD = """
import asyncio, multiprocessing, os, sys, threading, time
import synchro

endpoint = sys.argv[1]

def in_child(work):
    process = multiprocessing.Process(target=work)
    process.start()
    process.join(20)
    print("exit", process.exitcode)

def refused(call):
    began = time.monotonic()
    try:
        call()
    except synchro.SynchroError as error:
        assert time.monotonic() - began < 9  # at once: no time-out here is below 10 s
        print(error.reason, "fork" in error.message, "nothing was sent" in error.message)
"""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    made = FakeServer(1)  # type: ignore[abstract]
    made.lead(made)
    yield made
    made.stop()


def run(program: str, server: FakeServer) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program, server.address], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_inherited_client_is_refused_and_a_new_one_works(server: FakeServer) -> None:
    said = run(
        """
db = synchro.connect(endpoint, timeout=10)
db.space("s").insert([1])
db.on_change(lambda state: None)
space = db.space("s")

def work():
    refused(lambda: space.insert([2]))
    refused(lambda: db.leader() and db.get_info())
    refused(lambda: db.create_space("x"))
    refused(lambda: db.bulk("s", [[1]]))
    refused(lambda: next(space.iter()))
    db.close()
    with synchro.connect(endpoint, timeout=10) as mine:
        print(mine.space("s").insert([3]))

in_child(work)
print(space.insert([4]))
in_child(work)
db.close()
""",
        server,
    )
    assert said == [
        *(["CLIENT_CLOSED True True"] * 5 + ["(3,)", "exit 0"]),
        "(4,)",
        *(["CLIENT_CLOSED True True"] * 5 + ["(3,)", "exit 0"]),
    ]
    assert [row[0] for row in server.rows] == [1, 3, 4, 3]


def test_a_fork_in_the_midst_of_writes_loses_none_and_hangs_nobody(server: FakeServer) -> None:
    """gRPC may not be ready for it: a client in the child works, or is refused at once."""
    said = run(
        """
db = synchro.connect(endpoint, timeout=20)
stopping = threading.Event()
written = []

def write(number):
    while not stopping.is_set():
        written.append(db.space("s").insert([number])[0])

def work():
    began = time.monotonic()
    try:
        with synchro.connect(endpoint, timeout=10) as mine:
            mine.space("s").insert([100])
    except synchro.ClientClosed as error:
        assert "in the midst of calls" in error.message
    assert time.monotonic() - began < 9

threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
while len(written) < 20:
    time.sleep(0.01)
for _ in range(3):
    in_child(work)
stopping.set()
for thread in threads:
    thread.join()
print(len(written))
db.close()
""",
        server,
    )
    assert said[:3] == ["exit 0"] * 3
    assert len([row for row in server.rows if row != [100]]) == int(said[3])


def test_children_that_leave_as_a_program_does(server: FakeServer) -> None:
    """Modules are torn down there, and what was inherited with them."""
    said = run(
        """
db = synchro.connect(endpoint, timeout=10)
db.space("s").insert([1])
child = os.fork()
if not child:
    refused(lambda: db.space("s").insert([2]))
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
db.close()
""",
        server,
    )
    assert said == ["CLIENT_CLOSED True True", "3"]


def test_children_of_asynchronous_programs_are_told_that_they_cannot_have_clients(server: FakeServer) -> None:
    """grpc.aio does not survive a fork; a child that does not use it must not notice."""
    said = run(
        """
import gc
import synchro.aio

async def main():
    async with synchro.aio.connect(endpoint, timeout=10) as db:
        await db.space("s").insert([1])

        def work():
            async def use(db):
                await db.space("s").insert([2])
            async def make():
                synchro.aio.connect(endpoint)
            refused(lambda: asyncio.run(use(db)))
            refused(lambda: asyncio.run(make()))
            refused(lambda: synchro.connect(endpoint))
            gc.collect()

        for _ in range(4):
            in_child(work)
            in_child(gc.collect)
            print(await db.space("s").insert([5]))

asyncio.run(main())
in_child(gc.collect)
asyncio.run(main())
""",
        server,
    )
    part = [*["CLIENT_CLOSED True True"] * 3, "exit 0", "exit 0", "(5,)"]
    assert said == [*part * 4, "exit 0", *part * 4]


ASYNCHRONOUS = """
def work():
    import synchro.aio

    async def main():
        async with synchro.aio.connect(endpoint, timeout=10) as db:
            print(await db.space("s").insert([1]))
"""


def test_a_child_of_a_program_that_never_used_one_has_all_clients(server: FakeServer) -> None:
    said = run(ASYNCHRONOUS + "    asyncio.run(main())\n\nin_child(work)\nin_child(work)\n", server)
    assert said == ["(1,)", "exit 0", "(1,)", "exit 0"]


def test_a_child_of_a_program_that_used_one_has_no_asynchronous_client(server: FakeServer) -> None:
    """It hung in some runs. A blocking one works."""
    said = run(
        ASYNCHRONOUS
        + """
    refused(lambda: asyncio.run(main()))
    with synchro.connect(endpoint, timeout=10) as mine:
        print(mine.space("s").insert([3]))

with synchro.connect(endpoint, timeout=10) as db:
    db.space("s").insert([2])
    in_child(work)
in_child(work)
""",
        server,
    )
    assert said == ["CLIENT_CLOSED True True", "(3,)", "exit 0"] * 2


def test_children_of_a_trio_program(server: FakeServer) -> None:
    """No gRPC is used there: what is inherited is refused, and the parent goes on; what is new works."""
    said = run(
        """
import trio
import synchro.aio

async def write(number):
    async with synchro.aio.connect(endpoint, timeout=10) as mine:
        print(await mine.space("s").insert([number]))

async def main():
    async with synchro.aio.connect(endpoint, timeout=10) as db:
        await db.space("s").insert([1])

        def work():
            def sent(call):
                try:
                    call().send(None)
                except StopIteration:
                    pass
            refused(lambda: sent(lambda: db.space("s").insert([2])))
            refused(lambda: sent(lambda: db.create_space("x")))
            refused(lambda: db.on_change(print))

        for _ in range(2):
            in_child(work)
            print(await db.space("s").insert([5]))

def child():
    trio.run(write, 6)

trio.run(main)
in_child(child)
with synchro.connect(endpoint, timeout=10) as db:
    print(db.space("s").insert([7]))
    in_child(child)
""",
        server,
    )
    part = [*["CLIENT_CLOSED True True"] * 3, "exit 0", "(5,)"]
    works = ["(6,)", "exit 0"]
    assert [line for line in said if line != "(7,)"] == [*part * 2, *works * 2]


def test_the_gate_is_closed_before_grpc_stops_what_calls_wait_for(server: FakeServer) -> None:
    """Of the hooks before a fork, the one that was registered last runs first."""
    said = run(
        """
def told(**hooks):
    before = hooks.get("before")
    if before is not None:
        print(getattr(before, "__module__", None) or "another")
    register(**hooks)

register, os.register_at_fork = os.register_at_fork, told
db = synchro.connect(endpoint, timeout=10)
db.space("s").insert([1])
db.close()
synchro.connect(endpoint).close()
""",
        server,
    )
    assert said[-1] == "synchro.client.forks"
    assert said.count(said[-1]) == 1


def test_writes_of_other_threads_go_on_behind_a_fork(server: FakeServer) -> None:
    """Those that begin while the process forks wait for its end."""
    said = run(
        """
db = synchro.connect(endpoint, timeout=10)
space, stop, done, failed = db.space("s"), threading.Event(), [], []

def write():
    while not stop.is_set():
        try:
            space.insert([1])
            done.append(1)
        except synchro.SynchroError as error:
            failed.append(error)

threads = [threading.Thread(target=write) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(5):
    before = len(done)
    in_child(lambda: None)
    end = time.monotonic() + 10
    while len(done) < before + 8 and time.monotonic() < end:
        time.sleep(0.01)
    print(len(done) >= before + 8)
stop.set()
for thread in threads:
    thread.join()
print(failed)
db.close()
""",
        server,
    )
    assert said == ["exit 0", "True"] * 5 + ["[]"]
