"""Passwords are passed on, and shown nowhere."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest

from synchro.secret import HIDDEN, Secret, read_secret, without_passwords

HUNTER = Secret("hunter2")


@dataclass
class Holder:
    password: Secret


def test_no_text_shows_it() -> None:
    texts = [
        *(repr(HUNTER), str(HUNTER), f"{HUNTER}", f"{HUNTER!r:>40}", f"{HUNTER}", "%s" % HUNTER),  # noqa: UP031
        *(repr([HUNTER]), repr(Holder(HUNTER)), json.dumps({"password": HUNTER}, default=str)),
        str(ValueError(HUNTER)),
    ]
    assert not [text for text in texts if "hunter2" in text]
    assert HUNTER.reveal() == "hunter2"


def test_it_is_neither_pickled_nor_dumped() -> None:
    for dump in (pickle.dumps, json.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            dump(HUNTER)


def test_equal_ones_are_equal_and_have_the_same_mark() -> None:
    assert Secret("hunter2") == HUNTER and Secret("hunter3") != HUNTER and HUNTER != "hunter2"
    assert Secret("hunter2").mark() == HUNTER.mark() != Secret("hunter3").mark()
    assert HUNTER.mark().startswith(HIDDEN) and "hunter2" not in HUNTER.mark()
    assert HUNTER and not Secret("")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("user:hunter2@127.0.0.1:3301", "user:***@127.0.0.1:3301"),
        ('["a:hunter2@h:1","b:hun@ter2@h:2"]', '["a:***@h:1","b:***@h:2"]'),
        ("user@127.0.0.1:3301,[::1]:3302", "user@127.0.0.1:3301,[::1]:3302"),
        ("127.0.0.1:3301", "127.0.0.1:3301"),
    ],
)
def test_a_text_with_logins_is_shown_without_passwords(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_a_file_gives_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    for written, read in ((b"hunter2\n", "hunter2"), (b"a b \r\nmore", "a b "), (b"", ""), (b"\n", "")):
        file.write_bytes(written)
        assert read_secret(str(file)).reveal() == read
    file.write_bytes(b"\xff\xfe")
    for path, why in ((file, "not UTF-8"), (tmp_path, "no file"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(ValueError, match=why):
            read_secret(str(path))
