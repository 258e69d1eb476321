"""Logins in addresses, in arguments and in files [S-10], and that no text shows a password."""

from __future__ import annotations

from pathlib import Path

import pytest

import synchro
from synchro.cli.title import _addresses
from synchro.client.channel import tls_params
from synchro.client.login import Login, Sessions, login_of
from synchro.client.routes import parse_uris
from synchro.config import PeerLogin, Settings
from synchro.config.address import is_loopback, parse_uri
from synchro.config.file import ConfigFileError, parse
from synchro.config.template import settings_without_file
from synchro.errors import IllegalParams, PlainConnection
from synchro.secret import Secret

TOP = Secret("topsecret")


@pytest.mark.parametrize(
    ("text", "address", "user", "password"),
    [
        ("3301", "3301", "", None),
        ("127.0.0.1:3301", "127.0.0.1:3301", "", None),
        ("user@127.0.0.1:3301", "127.0.0.1:3301", "user", None),
        ("user:@127.0.0.1:3301", "127.0.0.1:3301", "user", ""),
        ("user:topsecret@127.0.0.1:3301", "127.0.0.1:3301", "user", "topsecret"),
        ("user:top:se@cret@[::1]:3301", "[::1]:3301", "user", "top:se@cret"),
        ("us%40er:top%2Csecret%3f@h:1?transport=plain", "h:1", "us@er", "top,secret?"),
        ("user:100%@h:1", "h:1", "user", "100%"),
    ],
)
def test_an_address_may_name_a_login(text: str, address: str, user: str, password: str | None) -> None:
    """[S-10]"""
    uri = parse_uri(text)
    assert (uri.address, uri.user) == (address, user)
    assert (uri.password and uri.password.reveal()) == (password or uri.password)
    assert not password or password not in repr(uri)


@pytest.mark.parametrize(
    "text",
    [
        *("user:topsecret", ":topsecret@127.0.0.1:3301", "user:topsecret@127.0.0.1:99999"),
        *("user:topsecret@", "user:topsecret@::1:3301", "user:topsecret@h:1?x", "a:topsecret@h:1,b:x@h:2"),
        *("user:topsecret@h:1?ssl=yes", "user:topsecret@h:1?transport=ssl", "user:topsecret@h/x:1"),
    ],
)
def test_what_is_no_address_is_refused_without_showing_the_password(text: str) -> None:
    with pytest.raises(IllegalParams) as refused:
        synchro.connect(text)
    assert "topsecret" not in str(refused.value) + repr(refused.value.details)


def login(
    endpoints: str, user: str | None = None, password: str | None = None, file: str = ""
) -> Login | None:
    return login_of(parse_uris(endpoints), user, password, file)


def test_who_logs_in_is_said_by_arguments_or_by_an_endpoint(tmp_path: Path) -> None:
    """[S-1]"""
    file = tmp_path / "password"
    file.write_text("topsecret\n")
    for found in (
        login("a:1", "user", "topsecret"),
        login("user:topsecret@a:1,b:2"),
        login("user@a:1", None, "topsecret"),
        login("user:other@a:1", "user", "topsecret"),
        login("other:x@a:1", "user", "topsecret"),
        login("a:1", "user", None, str(file)),
    ):
        assert found == Login("user", TOP)
    assert login("user@a:1") == Login("user", Secret("")) and login("a:1") is None
    assert "topsecret" not in repr(login("user:topsecret@a:1"))
    wrong = (
        ("a:1", None, "topsecret", ""),
        ("a:topsecret@a:1,b:topsecret@b:1", None, None, ""),
        ("a:1", "user", "topsecret", str(file)),
        ("a:1", "user", None, str(tmp_path / "none")),
    )
    for arguments in wrong:
        with pytest.raises(IllegalParams) as refused:
            login(*arguments)
        assert "topsecret" not in str(refused.value)


def test_files_of_tls_may_stand_in_an_endpoint() -> None:
    """[S-10], [S-11]"""
    params = "?transport=ssl&ssl_ca_file=ca.pem&ssl_cert_file=a.pem&ssl_key_file=a%20b.key"
    found = tls_params(parse_uris(f"h:1{params},h:2{params}"))
    assert found == {"cacert": "ca.pem", "cert": "a.pem", "key": "a b.key"}
    assert tls_params(parse_uris("h:1?transport=plain,h:2")) == {}
    with pytest.raises(IllegalParams, match="differ"):
        tls_params(parse_uris(f"h:1{params},h:2"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"])
def test_a_password_goes_in_plain_text_to_this_host_only(host: str) -> None:
    assert is_loopback(host)
    assert Sessions(Login("u", TOP), is_encrypted=False).request(f"{host}:1").password == "topsecret"


@pytest.mark.parametrize(
    "host", ["10.0.0.7", "0.0.0.0", "localhost.example", "127.0.0.1.example", "[::2]", ""]
)
def test_a_password_is_not_sent_in_plain_text_to_another_host(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(PlainConnection, match=r"was not sent\. Next: --cacert FILE") as refused:
        Sessions(Login("u", TOP), is_encrypted=False).request(f"{host}:1")
    assert "topsecret" not in str(refused.value)
    assert Sessions(Login("u", TOP), is_encrypted=True).request(f"{host}:1").user == "u"


def test_a_command_line_is_looked_through_where_addresses_stand() -> None:
    hidden = "user:topsecret@127.0.0.1:3301"
    for arguments in (
        ["-e", hidden, "status"],
        [f"-e{hidden}", "status"],
        ["status", f"--endpoints={hidden}"],
        ["serve", "--replication", hidden],
        ["config", "set", "replication.peers", f'["{hidden}"]'],
    ):
        assert any("topsecret" in text for text in _addresses(arguments))
    assert not list(_addresses(["insert", "t", f'[1, "{hidden}"]']))


# --- peers ------------------------------------------------------------------------------------------------


def config(top: str, first: str = "", second: str = "") -> dict[str, Settings]:
    members = "".join(
        f"          {name}: {{{own}grpc: {{listen: [{{uri: '127.0.0.1:330{number}'}}]{advertise}}}}}\n"
        for number, (name, own, advertise) in enumerate(
            (("i1", "", first), ("i2", "", second), ("i3", "", "")), 1
        )
    )
    text = f"{top}\ngroups:\n  g:\n    replicasets:\n      r:\n        instances:\n{members}"
    found = parse(text, path="/etc/synchro/config.yaml", environ={})
    assert "topsecret" not in repr(found) and not [text for text in found.warnings if "topsecret" in text]
    assert "topsecret" not in repr([one.tree() for one in found.instances.values()])
    return {name: one.settings for name, one in found.instances.items()}


USERS = "credentials: {users: {replicator: {password: topsecret, roles: [replication]}}}"
REPLICATOR = PeerLogin("replicator", TOP)


def test_peers_log_in_as_the_user_that_the_other_one_advertises() -> None:
    """[C-11]"""
    found = config(f"{USERS}\niproto: {{advertise: {{peer: {{login: replicator}}}}}}")
    logins = found["i1"].peer_logins
    assert logins.default == REPLICATOR
    assert all(logins.of(f"127.0.0.1:330{number}") == REPLICATOR for number in (1, 2, 3))

    found = config(USERS, second=", advertise: {peer: {login: replicator}}")
    assert found["i1"].peer_logins.of("127.0.0.1:3302") == REPLICATOR
    assert found["i1"].peer_logins.of("127.0.0.1:3303") is None
    assert found["i2"].peer_logins.of("127.0.0.1:9999") == REPLICATOR  # one that joined later


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("login: other, password: topsecret", PeerLogin("other", TOP)),
        ("login: replicator, password: mine", PeerLogin("replicator", Secret("mine"))),
        ("login: other, password_file: secret", PeerLogin("other", Secret(""), "/etc/synchro/secret")),
        ("uri: 'replicator:topsecret@127.0.0.1:3302'", REPLICATOR),
        ("uri: 'replicator@127.0.0.1:3302'", REPLICATOR),
        ("login: guest", None),
    ],
)
def test_where_the_password_of_a_peer_stands(peer: str, expected: PeerLogin | None) -> None:
    """[C-11], [S-10]"""
    found = config(USERS, second=f", advertise: {{peer: {{{peer}}}}}")
    assert found["i1"].peer_logins.of("127.0.0.1:3302") == expected


@pytest.mark.parametrize(
    ("users", "why"),
    [
        ("credentials: {users: {x: {password: topsecret}}}", "Cannot find user replicator in the config"),
        ("credentials: {users: {replicator: {}}}", "has neither password nor password_file"),
    ],
)
def test_a_login_without_a_password_anywhere_is_refused(users: str, why: str) -> None:
    """[C-11]"""
    with pytest.raises(ConfigFileError, match=why) as refused:
        config(f"{users}\ngrpc: {{advertise: {{peer: {{login: replicator}}}}}}")
    assert "topsecret" not in str(refused.value)


def test_sources_may_name_logins_of_their_own() -> None:
    """[S-10]"""
    peers = "'a:topsecret@127.0.0.1:3301', 'replicator@127.0.0.1:3302', '127.0.0.1:3303'"
    found = config(
        f"{USERS}\nreplication: {{peers: [{peers}]}}\ngrpc: {{advertise: {{peer: {{login: replicator}}}}}}"
    )["i1"]
    assert [peer.address for peer in found.peers] == [f"127.0.0.1:330{number}" for number in (1, 2, 3)]
    assert found.peer_logins.of("127.0.0.1:3301") == PeerLogin("a", TOP)
    assert found.peer_logins.of("127.0.0.1:3302") == REPLICATOR
    assert found.peer_logins.of("127.0.0.1:3303") == REPLICATOR


def test_an_instance_without_a_file_has_logins_too() -> None:
    """[S-10]"""
    found = settings_without_file(
        listen="127.0.0.1:3302",
        data_dir="d",
        replication="replicator:topsecret@127.0.0.1:3301,127.0.0.1:3302",
    )
    assert found.peer_logins.of("127.0.0.1:3301") == found.peer_logins.default == REPLICATOR
    assert "topsecret" not in repr(found)
    with pytest.raises(ConfigFileError) as refused:
        settings_without_file(listen="127.0.0.1:1", data_dir="d", replication="user:topsecret")
    assert "topsecret" not in str(refused.value)


@pytest.mark.parametrize("wrong", ["[topsecret]", "{topsecret: 1}", "31415926", "31415.926", "true"])
def test_a_password_of_another_kind_is_not_shown(wrong: str) -> None:
    for text in (
        f"credentials: {{users: {{u: {{password: {wrong}}}}}}}",
        f"grpc: {{advertise: {{peer: {{login: u, password: {wrong}}}}}}}",
    ):
        with pytest.raises(ConfigFileError, match="quote a number") as refused:
            config(text)
        assert wrong.strip("[{}]: 1") not in str(refused.value)
