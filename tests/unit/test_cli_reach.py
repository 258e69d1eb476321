"""What is printed as the next command reaches a set with TLS and logins as it stands: every kind of advice
goes through the same two functions."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from synchro.cli import connection, formatting, reach
from synchro.config import ClientAuth, ConfiguredUser, Credentials, PeerAddress, Settings
from synchro.errors import SyncQueueUnclaimed
from synchro.ids import InstanceName
from synchro.secret import Secret

TLS = Settings(
    instance_name=InstanceName("a"),
    listen="0.0.0.0:3301",
    peers=(PeerAddress("a", "db1:3301"),),
    tls_cert="/s/a.pem",
    tls_key="/s/a.key",
    tls_ca="/s/ca.pem",
)
ADMIN = ConfiguredUser("admin", password=Secret("x"), password_file="/s/admin password")
APP = ConfiguredUser("app", password=Secret("y"))
OPS = ConfiguredUser("ops", password=Secret("z"), roles=("super",))
GUEST = ConfiguredUser("guest", roles=("super",))
GIVEN = "-e h:1 --user admin --password-file F --cacert C"


@pytest.fixture
def given() -> connection.CommonOptions:
    """`synchro -e h:1 -u admin --password-file F --cacert C`."""
    connection.options.forget()
    for name, value in {"endpoints": "h:1", "user": "admin", "password_file": "F", "cacert": "C"}.items():
        connection.options.keep(name, value)
    return connection.options


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("synchro wait 1:15   or   synchro queue", f"synchro {GIVEN} wait 1:15   or   synchro {GIVEN} queue"),
        ("synchro start x.yaml:a --rejoin", "synchro start x.yaml:a --rejoin"),
        ("synchro config check FILE", "synchro config check FILE"),
        ("synchro config set a 1", f"synchro {GIVEN} config set a 1"),
        ("synchro -e l:2 queue", f"synchro {GIVEN.removeprefix('-e h:1 ')} -e l:2 queue"),
        ("try again", "try again"),
    ],
)
def test_a_command_is_given_as_this_one_was(
    given: connection.CommonOptions, command: str, wanted: str
) -> None:
    assert reach.again(command) == wanted


def test_what_the_environment_says_is_not_repeated() -> None:
    connection.options.forget()
    connection.options.keep("user", "admin", is_given=False)
    assert reach.again("synchro queue") == "synchro queue"


def test_a_password_of_an_endpoint_is_not_printed(given: connection.CommonOptions) -> None:
    given.endpoints = "app:secret@h:1,app@h:2"
    assert reach.again("synchro queue").startswith("synchro -e h:1,h:2 ")


def test_an_error_names_the_whole_command(
    given: connection.CommonOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    formatting.print_error(SyncQueueUnclaimed("Nobody owns it. Next: synchro promote i2"))
    assert f"next:  synchro {GIVEN} promote i2\n" in capsys.readouterr().err


def with_users(*users: ConfiguredUser) -> Settings:
    return Settings(credentials=Credentials(users))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(), []),
        (TLS, ["--cacert", "/s/ca.pem", "--cert", "/s/a.pem", "--key", "/s/a.key"]),
        (replace(TLS, tls_ca=""), ["--cacert", "/s/a.pem"]),
        (with_users(APP, ADMIN, OPS), ["--user", "admin", "--password-file", "/s/admin password"]),
        (with_users(APP, OPS), ["--user", "ops"]),
        (with_users(ADMIN, GUEST), []),
        (with_users(ConfiguredUser("nobody")), []),
    ],
)
def test_a_set_of_a_file_is_reached_by_what_the_file_says(settings: Settings, words: list[str]) -> None:
    connection.options.forget()
    assert shlex.split(reach.options_for(settings)) == words


def test_what_was_given_comes_before_the_file(given: connection.CommonOptions) -> None:
    words = shlex.split(reach.options_for(replace(TLS, tls_client_auth=ClientAuth.REQUEST)))
    assert words[:2] == ["--cacert", "C"] and words[-4:] == ["--user", "admin", "--password-file", "F"]


def test_the_address_is_the_one_of_the_certificate() -> None:
    """Nothing answers for 0.0.0.0 in a certificate."""
    assert reach.address_of(TLS) == "db1:3301"
    assert reach.address_of(replace(TLS, tls_cert="")) == "0.0.0.0:3301"
