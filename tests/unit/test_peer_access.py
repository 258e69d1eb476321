"""Who may speak as a member: who has the role, or a certificate of its address. ADR 43."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from synchro.errors import AccessDenied
from synchro.row import Tuple
from synchro.server.peer_access import Asker, check_member, check_reader
from synchro.storage.users import Caller, Users
from synchro.wire.link import is_loopback

OPEN = Users()
"""As long as nobody said who may do what, the guest may do everything."""


def asker(*names: str) -> Asker:
    """A guest whose connection shows a certificate of these hosts."""
    return Asker(host="10.0.0.9", is_of=lambda host: host in names)


def test_on_tls_the_guest_speaks_as_a_member_with_a_certificate_of_its_address_only() -> None:
    """The certificate of a client is not one of a peer."""
    check_member(OPEN, asker("10.0.0.1"), name="i1", address="10.0.0.1:3301")
    check_member(OPEN, asker("::1"), name="i1", address="[::1]:3301")
    wrong = ((("client",), "10.0.0.1:3301"), (("10.0.0.2",), "10.0.0.1:3301"), (("client",), ""))
    for shown, address in wrong:
        with pytest.raises(AccessDenied, match="it may not speak as that instance; nothing was done"):
            check_member(OPEN, asker(*shown), name="i1", address=address)
    check_member(OPEN, asker("10.0.0.9"), name="i1", address="")  # it is not configured: from where it comes
    check_reader(OPEN, asker("client"))


def test_without_a_certificate_the_rights_of_the_guest_count() -> None:
    check_member(OPEN, Asker(), name="i1", address="10.0.0.1:3301")
    closed = Users()
    closed.read([(0, 1, "guest", "user", {}, {})], [])
    with pytest.raises(AccessDenied):
        check_member(closed, asker("10.0.0.1"), name="i1", address="10.0.0.1:3301")


def test_who_logged_in_needs_the_role_and_no_certificate_of_its_own() -> None:
    """[S-7]"""
    rows: list[Tuple] = [(5, 1, "replicator", "user", {}, {}), (3, 1, "replication", "role", {}, {})]
    grants: list[Tuple] = [
        (1, 5, "universe", 0, 24, {}),
        (1, 3, "universe", 0, 1, {}),
        (1, 3, "space", 320, 2, {}),
    ]
    users, caller = Users(), Caller(5, "replicator")
    users.read(rows, grants)
    with pytest.raises(AccessDenied, match="Read access to universe"):
        check_member(users, Asker(caller), name="i1", address="10.0.0.1:1")
    users.read(rows, [*grants, (1, 5, "role", 3, 4, {})])
    check_member(users, Asker(caller, is_of=lambda _: False), name="i1", address="10.0.0.1:1")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9"])
def test_a_connection_within_the_host_is_private(address: str) -> None:
    with (
        socket.create_server((address, 0)) as listening,
        socket.create_connection(listening.getsockname()) as connected,
    ):
        assert is_loopback(connected)
    assert not is_loopback(socket.socket())


@pytest.mark.skipif(sys.platform != "linux", reason="the list of processes of Linux")
def test_a_password_is_wiped_from_the_list_of_processes() -> None:
    program = (
        "import sys; from synchro.cli.title import hide_passwords; print(hide_passwords(sys.argv[1:])); "
        "print(open('/proc/self/cmdline').read()); print(sys.argv[2])"
    )
    address = "user:hun-ter2@127.0.0.1:1"
    said = subprocess.run(
        [sys.executable, "-c", program, "-e", address, "status"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
    ).stdout
    is_hidden, shown, used = said.splitlines()
    assert is_hidden == "True" and used == address
    assert "hun-ter2" not in shown and "user:********@127.0.0.1:1" in shown
