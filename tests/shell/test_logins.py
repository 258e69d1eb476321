"""Passwords are looked at in turns, in a thread; nobody is told who there is. ADR 43."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.testing

from synchro.errors import (
    AccessDenied,
    BadCredentials,
    LoginLimited,
    LoginQueueFull,
    PlainConnection,
    SynchroError,
)
from synchro.row import Tuple
from synchro.secret import Secret
from synchro.server import logins as logins_module
from synchro.server.login_limits import USER_BURST
from synchro.server.logins import Logins, _is_valid, refuse_plain
from synchro.server.password_work import ADDRESS_WAITING_MAX, WAITING_MAX, PasswordWork
from synchro.server.passwords import make_verifier
from synchro.storage.users import USERS_MAX, Users

ALICE = 5
ENTER: Tuple = (1, ALICE, "universe", 0, 24, {})


def users(verifier: bytes | None, *, may_enter: bool = True) -> Users:
    made = Users()
    auth = {} if verifier is None else {"scrypt": verifier}
    rows: list[Tuple] = [(0, 1, "guest", "user", {}, {}), (ALICE, 1, "alice", "user", auth, {})]
    made.read(rows, [ENTER, (1, 0, "universe", 0, 24, {})] if may_enter else [])
    return made


def cheap(verifier: bytes, password: str) -> bool:
    """Without the cost of scrypt."""
    return verifier == password.encode()


@pytest.fixture
def is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins_module, "fits", cheap)


async def refusal(logins: Logins, user: str, password: str, address: str = "10.0.0.7") -> SynchroError:
    with pytest.raises(SynchroError) as caught:
        await logins.login(user, Secret(password), address=address)
    return caught.value


# --- the worker -------------------------------------------------------------------------------------------


async def test_work_is_done_one_at_a_time_in_another_thread() -> None:
    """PasswordWork.P1"""
    work = PasswordWork()
    threads: set[int] = set()
    busy: list[int] = []

    def one() -> None:
        assert not busy
        busy.append(1)
        threads.add(threading.get_ident())
        time.sleep(0.01)
        busy.pop()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(partial(work.run, "a", one))
    assert len(threads) == 1 and threading.get_ident() not in threads
    work.close()


async def test_who_floods_the_worker_delays_another_address_by_one_piece() -> None:
    """PasswordWork.P1"""
    work = PasswordWork()
    order: list[object] = []
    gate = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(work.run, "flood", gate.wait))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(10):
            nursery.start_soon(partial(work.run, "flood", partial(order.append, number)))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(partial(work.run, "honest", partial(order.append, "honest")))
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert order.index("honest") <= 1 and len(order) == 11
    work.close()


async def test_the_queue_has_bounds_for_one_address_and_for_all() -> None:
    """PasswordWork.P2"""
    work, gate = PasswordWork(), threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(work.run, "0", gate.wait))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(WAITING_MAX):
            address = str(number // ADDRESS_WAITING_MAX)
            nursery.start_soon(partial(work.run, address, lambda: None))
        await trio.testing.wait_all_tasks_blocked()
        for address in ("0", "unheard of"):
            with pytest.raises(LoginQueueFull, match="nothing was done, try again"):
                await work.run(address, lambda: None)
        gate.set()
    work.close()


async def test_who_waits_when_it_closes_is_refused() -> None:
    """PasswordWork.P3: an instance that stops does not end such a call by a bug."""
    work, gate = PasswordWork(), threading.Event()
    done: list[str] = []
    refused: list[str] = []

    async def wait() -> None:
        try:
            await work.run("b", lambda: done.append("waited"))
        except LoginQueueFull as error:
            refused.append(error.message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(work.run, "a", gate.wait))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        work.close()
        gate.set()
    assert (done, refused) == ([], ["this instance is stopping; nothing was done"])


async def test_who_leaves_the_queue_gives_its_turn_to_the_next() -> None:
    work, gate = PasswordWork(), threading.Event()
    done: list[str] = []
    leaving = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(work.run, "a", gate.wait))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(partial(work.run, "b", partial(done.append, "b")))
        nursery.start_soon(_cancelled, leaving, partial(work.run, "a", partial(done.append, "left")))
        await trio.testing.wait_all_tasks_blocked()
        leaving.cancel()
        gate.set()
    assert done == ["b"]
    await work.run("c", partial(done.append, "c"))
    assert done == ["b", "c"]
    work.close()


async def _cancelled(scope: trio.CancelScope, call: Callable[[], object]) -> None:
    with scope:
        await call()  # type: ignore[misc]


async def test_an_error_of_the_work_ends_only_its_own_call() -> None:
    work = PasswordWork()
    with pytest.raises(ZeroDivisionError):
        await work.run("a", lambda: 1 // 0)
    assert await work.run("a", lambda: 7) == 7
    work.close()


# --- logins -----------------------------------------------------------------------------------------------


async def test_a_right_password_opens_a_session_and_a_wrong_one_is_told_as_no_user_is(is_cheap: None) -> None:
    """[S-2], logins.L1"""
    logins = Logins(lambda: users(b"secret"))
    session = await logins.login("alice", Secret("secret"), address="10.0.0.7")
    assert session.caller == (ALICE, "alice") and logins.sessions.find(session.key) is session
    told = {
        str(await refusal(logins, user, password))
        for user, password in (("alice", "wrong"), ("nobody", "secret"), ("guest", "x"), ("alice", ""))
    }
    assert told == {"User not found or supplied credentials are invalid"}
    logins.work.close()


async def test_a_login_that_was_begun_while_it_loaded_is_looked_at_again(is_cheap: None) -> None:
    """The password that a user has when the look is over counts: nobody hears "wrong" of a right one."""
    seen = [users(None), users(b"secret")]
    logins = Logins(lambda: seen.pop(0) if len(seen) > 1 else seen[0])
    session = await logins.login("alice", Secret("secret"), address="10.0.0.7")
    assert session.caller == (ALICE, "alice")
    for _ in range(USER_BURST):
        assert isinstance(await refusal(logins, "alice", "wrong"), BadCredentials)
    logins.work.close()


async def test_a_password_that_changes_with_each_look_opens_nothing(is_cheap: None) -> None:
    seen = [users(b"a"), users(b"b"), users(b"c"), users(b"d")]
    logins = Logins(lambda: seen.pop(0) if len(seen) > 1 else seen[0])
    assert isinstance(await refusal(logins, "alice", "b"), BadCredentials)
    logins.work.close()


async def test_the_guest_has_the_empty_password_and_who_has_none_cannot_log_in(is_cheap: None) -> None:
    """[S-2]"""
    logins = Logins(lambda: users(None))
    assert (await logins.login("guest", Secret(""), address="a")).caller.name == "guest"
    assert isinstance(await refusal(logins, "alice", ""), BadCredentials)
    assert isinstance(await refusal(Logins(lambda: users(b"", may_enter=False)), "alice", ""), AccessDenied)
    logins.work.close()


async def test_a_password_that_changes_while_it_is_looked_at_opens_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = [users(b"secret")]

    def slow(verifier: bytes, password: str) -> bool:
        known[0] = users(b"other")
        return cheap(verifier, password)

    monkeypatch.setattr(logins_module, "fits", slow)
    logins = Logins(lambda: known[0])
    assert isinstance(await refusal(logins, "alice", "secret"), BadCredentials)
    assert len(logins.sessions) == 0
    logins.work.close()


async def test_while_an_instance_loads_the_configured_password_is_right(is_cheap: None) -> None:
    """So that who may look sees how far it is; the session ends when the users are there."""
    known = [users(None)]
    logins = Logins(lambda: known[0], lambda name: Secret("secret") if name == "alice" else None)
    session = await logins.login("alice", Secret("secret"), address="a")
    assert isinstance(await refusal(logins, "alice", "wrong"), BadCredentials)
    assert isinstance(await refusal(logins, "nobody", "secret"), BadCredentials)
    known[0] = users(b"secret")
    logins.sessions.end_stale(partial(_is_valid, known[0]))
    assert logins.sessions.find(session.key) is None
    logins.work.close()


async def test_a_session_is_not_that_of_the_next_user_with_its_name(is_cheap: None) -> None:
    """Dropped and made again between two looks: the next call is refused already, and a stream that is open
    is nobody's."""
    known = [users(b"secret")]
    logins = Logins(lambda: known[0])
    session = await logins.login("alice", Secret("secret"), address="a")
    assert logins.sessions.find(session.key) is session and not session.is_over
    known[0] = users(b"another")
    assert logins.sessions.find(session.key) is None and session.is_over
    logins.work.close()


async def test_sessions_end_with_their_password_and_their_streams_are_told(
    is_cheap: None, autojump_clock: trio.testing.MockClock
) -> None:
    known, told = [users(b"secret")], []
    logins = Logins(lambda: known[0])
    session = logins._open(known[0].user("alice"))
    session.on_end.add(lambda: told.append(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(logins.run, lambda: 0.5)
        await trio.sleep(1.1)
        assert not told
        known[0] = users(b"other")
        await trio.sleep(0.6)
        assert told == [1] and logins.sessions.find(session.key) is None
        nursery.cancel_scope.cancel()


async def test_ten_thousand_wrong_passwords_open_nothing(is_cheap: None) -> None:
    logins = Logins(lambda: users(b"secret"))
    for number in range(10_000):
        user = "alice" if number % 2 else f"user{number % USERS_MAX}"
        error = await refusal(logins, user, f"wrong{number}", address=f"10.0.{number % 50}.{number % 7}")
        assert isinstance(error, BadCredentials | LoginLimited)
    assert len(logins.sessions) == 0
    await logins.login("alice", Secret("secret"), address="10.9.9.9")
    logins.work.close()


async def test_a_right_password_does_not_help_who_was_wrong_too_often(is_cheap: None) -> None:
    logins = Logins(lambda: users(b"secret"))
    for _ in range(USER_BURST):
        assert isinstance(await refusal(logins, "alice", "wrong"), BadCredentials)
    assert isinstance(await refusal(logins, "alice", "secret"), LoginLimited)
    await logins.login("alice", Secret("secret"), address="10.0.0.8")
    logins.work.close()


def test_a_password_that_others_could_read_is_not_looked_at() -> None:
    """logins.L2"""
    refuse_plain(is_private=True)
    with pytest.raises(PlainConnection, match=r"it was not looked at.*Next: set grpc\.tls"):
        refuse_plain(is_private=False)


@pytest.mark.long
@pytest.mark.timeout(390)  # 600 looks at a password, each of 80 ms of a processor
async def test_nobody_can_tell_by_the_time_whether_there_is_a_user() -> None:
    """logins.L1: medians of 300 tries within 10 %."""
    logins = Logins(partial(_same, users(make_verifier("secret"))))
    times: dict[str, list[float]] = {"alice": [], "nobody": []}
    for number in range(300):
        for user, found in times.items():
            began = time.perf_counter()
            await refusal(logins, user, "wrong", address=f"10.{number // 250}.{number % 250}.1")
            found.append(time.perf_counter() - began)
    wrong, nobody = (statistics.median(found) for found in times.values())
    assert abs(wrong - nobody) < 0.1 * wrong
    logins.work.close()


def _same(known: Users) -> Users:
    return known
