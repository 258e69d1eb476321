"""`grpc.tls` in the file [S-11]: it is whole or refused, and nothing falls back to plain text."""

from __future__ import annotations

import pytest

from synchro.config import ClientAuth, Settings
from synchro.config.address import check_listen, needs_insecure
from synchro.errors import ConfigError
from tests.unit.test_config_file import cluster, read, refusal

ALL = "cert: '{{ instance_name }}.pem', key: keys/node.key, ca: /etc/ca.pem"


def settings(top: str, *, instances: int = 2) -> Settings:
    return read(cluster(top, instances=instances)).instance("i1").settings


def test_names_of_files_begin_beside_the_configuration() -> None:
    found = settings(f"grpc: {{tls: {{{ALL}}}}}")
    assert found.has_tls
    assert found.tls_cert == "/etc/synchro/i1.pem"
    assert found.tls_key == "/etc/synchro/keys/node.key"
    assert found.tls_ca == "/etc/ca.pem"
    assert found.client_auth is ClientAuth.REQUIRE
    assert read(cluster(f"grpc: {{tls: {{{ALL}}}}}")).warnings == ()


def test_without_tls_nobody_is_asked_for_a_certificate() -> None:
    found = settings("")
    assert not found.has_tls and found.client_auth is ClientAuth.OFF


@pytest.mark.parametrize(
    ("tls", "key", "why"),
    [
        ("cert: a", "grpc.tls.cert", "needs grpc.tls.key too"),
        ("key: a", "grpc.tls.key", "needs grpc.tls.cert too"),
        ("ca: a", "grpc.tls.ca", "needs grpc.tls.cert and grpc.tls.key too"),
        ("client_auth: off", "grpc.tls.client_auth", "needs grpc.tls.cert and grpc.tls.key too"),
        ("cert: a, key: b", "grpc.tls.cert", "needs grpc.tls.ca too"),
        (
            "cert: a, key: b, ca: c, client_auth: perhaps",
            "grpc.tls.client_auth",
            "'off', 'request', 'require'",
        ),
        ("cert: 7, key: b, ca: c", "grpc.tls.cert", "a file name"),
        ("cert: a, key: b, ca: c, password: x", "grpc.tls.password", "unknown"),
    ],
)
def test_a_half_set_up_is_refused(tls: str, key: str, why: str) -> None:
    error = refusal(cluster(f"grpc: {{tls: {{{tls}}}}}"))
    assert key in str(error) and why in str(error)


def test_one_that_is_alone_needs_no_ca_but_believes_nobody_without() -> None:
    found = settings("grpc: {tls: {cert: a, key: b}}", instances=1)
    assert found.has_tls and found.client_auth is ClientAuth.OFF
    error = refusal(cluster("grpc: {tls: {cert: a, key: b, client_auth: require}}", instances=1))
    assert "needs grpc.tls.ca" in str(error)


def test_a_set_in_which_some_have_no_tls_is_refused() -> None:
    text = cluster("", i1="database: {mode: rw}").replace("3301'}]", f"3301'}}], tls: {{{ALL}}}")
    assert "TLS is on for i1 and off for i2: they could not connect" in str(refusal(text))


@pytest.mark.parametrize(
    "endpoint",
    [
        "listen: [{uri: '127.0.0.1:1', params: {transport: ssl, ssl_cert_file: a}}]",
        "listen: [{uri: '127.0.0.1:1'}], advertise: {peer: {params: {transport: ssl}}}",
    ],
)
def test_a_file_for_tarantool_that_asks_for_tls_is_not_served_in_plain_text(endpoint: str) -> None:
    text = cluster(instances=1, i1=f"iproto: {{{endpoint}}}")
    assert "transport: ssl is set by grpc.tls" in str(refusal(text))
    plain = text.replace("transport: ssl", "transport: plain")
    assert not read(plain).instance("i1").settings.has_tls


@pytest.mark.parametrize(("auth", "is_insecure"), [("require", False), ("request", True), ("off", True)])
def test_who_demands_certificates_may_listen_for_other_hosts(auth: str, is_insecure: bool) -> None:
    text = cluster(f"grpc: {{tls: {{{ALL}, client_auth: {auth}}}}}").replace(
        "127.0.0.1:3301", "10.0.0.1:3301"
    )
    found = read(text).instance("i1").settings
    assert needs_insecure(found) is is_insecure
    check_listen(found, insecure=True)
    if is_insecure:
        with pytest.raises(ConfigError, match=r"grpc\.tls, with credentials or client_auth: require"):
            check_listen(found, insecure=False)
    else:
        check_listen(found, insecure=False)


@pytest.mark.parametrize("has_tls", [True, False])
def test_with_users_and_tls_other_hosts_may_reach_it(has_tls: bool) -> None:
    """ADR 42: without TLS their passwords could be read on the way."""
    tls = f"grpc: {{tls: {{{ALL}, client_auth: off}}}}" if has_tls else ""
    text = f"credentials: {{users: {{admin: {{password: secret}}}}}}\n{cluster(tls)}"
    found = read(text.replace("127.0.0.1:3301", "10.0.0.1:3301")).instance("i1").settings
    assert needs_insecure(found) is not has_tls


def test_an_environment_names_files_of_its_own() -> None:
    text = cluster(f"grpc: {{tls: {{{ALL}}}}}")
    config = read(text, SYNCHRO_GRPC_TLS_CERT="/run/secrets/a.pem")
    assert config.instance("i1").settings.tls_cert == "/run/secrets/a.pem"


@pytest.mark.parametrize("name", ["CACERT", "CERT", "KEY"])
def test_variables_of_the_command_line_are_no_mistake(name: str) -> None:
    assert read(cluster(), **{f"SYNCHRO_{name}": "x"}).warnings == ()
