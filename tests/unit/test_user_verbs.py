"""What the verbs for users make of their words, and where they get a password from. Nothing is sent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import pytest

from synchro.cli import app, operator_verbs, user_verbs
from synchro.cli.connection import options
from synchro.client import Client, ConnectionLost
from synchro.errors import AccessDenied, BadCredentials, SynchroError


@pytest.fixture(autouse=True)
def _no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    options.forget()
    monkeypatch.delenv(user_verbs.NEW_PASSWORD, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("not a terminal\n"))


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("super", "", ""), ("execute", "role", "super")),
        (("role", "super", ""), ("execute", "role", "super")),
        (("execute", "role", "super"), ("execute", "role", "super")),
        (("read,write", "universe", ""), ("read,write", "universe", "")),
        (("read", "space", "bands"), ("read", "space", "bands")),
        (("read", "space", ""), ("read", "space", "")),
    ],
)
def test_the_short_and_the_long_form_of_a_grant(
    words: tuple[str, str, str], meant: tuple[str, str, str]
) -> None:
    """[S-4]"""
    assert user_verbs._asked(*words) == meant


@pytest.mark.parametrize("verb", ["grant", "revoke"])
def test_an_unknown_kind_of_object_is_a_matter_of_usage(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([verb, "bob", "read", "table", "bands"]) == 2
    assert "there are universe, space, sequence, role, user; nothing was done" in capsys.readouterr().err


def test_a_password_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never from an argument: `ps` shows those."""
    file = tmp_path / "password"
    file.write_text("in the file\nand more\n")
    monkeypatch.setenv(user_verbs.NEW_PASSWORD, "in the environment")
    assert user_verbs._new_password(str(file), "bob", is_needed=True) == "in the file"
    assert user_verbs._new_password("", "bob", is_needed=True) == "in the environment"
    monkeypatch.delenv(user_verbs.NEW_PASSWORD)
    assert user_verbs._new_password("", "bob", is_needed=False) is None
    with pytest.raises(SynchroError, match="which password"):
        user_verbs._new_password("", "bob", is_needed=True)


def test_without_a_login_the_password_file_is_the_new_password(tmp_path: Path) -> None:
    """With -u it is that of who logs in."""
    file = tmp_path / "password"
    file.write_text("secret\n")
    options.keep("password_file", str(file))
    assert user_verbs._new_password("", "bob", is_needed=True) == "secret"
    assert options.password_file == ""
    options.keep("password_file", str(file))
    options.keep("user", "admin")
    assert user_verbs._new_password("", "bob", is_needed=False) is None
    assert options.password_file == str(file)


@pytest.mark.parametrize("text", ["", "\n", "x" * 257])
def test_what_is_no_password_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "password"
    file.write_text(text)
    for name in (str(file), str(tmp_path / "missing")):
        with pytest.raises(SynchroError, match="nothing was done") as caught:
            user_verbs._new_password(name, "bob", is_needed=True)
        assert "x" * 20 not in caught.value.message


@pytest.mark.parametrize("error", [BadCredentials("no such password"), AccessDenied("Read access is denied")])
def test_who_may_not_ask_who_is_there_is_told_so(error: SynchroError) -> None:
    """`bootstrap NAME` asks each address who it is: one that refuses is not one that does not answer."""

    class Db:
        endpoints = ("127.0.0.1:1", "127.0.0.1:2")

        def get_info(self, *_: object, instance: str, **__: object) -> str:
            if instance.endswith(":1"):
                raise ConnectionLost("nobody listens")
            raise error

    with pytest.raises(type(error)):
        operator_verbs._endpoint_of(cast(Client, Db()), "i1")
