"""The files of TLS [S-11]: what cannot be used is refused before anybody connects, and named."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from synchro.client.channel import security_of
from synchro.errors import IllegalParams
from synchro.wire.certificates import Certificates, TlsFiles, UnusableFiles
from synchro.wire.tls import TlsLayer
from tests.certificates import CLIENT, DAY, SERVER, Authority, now, write_key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> TlsFiles:
    return authority.issue("node")


def load(files: TlsFiles, own_host: str | None = "127.0.0.1") -> Certificates:
    return Certificates(files, client_certificates=ssl.CERT_REQUIRED, own_host=own_host)


def remove(path: str) -> None:
    os.unlink(path)


def empty(path: str) -> None:
    Path(path).write_text("")


def garble(path: str) -> None:
    text = Path(path).read_text()
    Path(path).write_text(text[:40] + text[140:])


def make_directory(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


def make_pipe(path: str) -> None:
    os.unlink(path)
    os.mkfifo(path)


def forbid(path: str) -> None:
    os.chmod(path, 0)


def encrypt(path: str) -> None:
    write_key(Path(path), ec.generate_private_key(ec.SECP256R1()), b"password")


def change_key(path: str) -> None:
    write_key(Path(path), ec.generate_private_key(ec.SECP256R1()))


BAD: list[tuple[str, Callable[[str], None], str]] = [
    *((which, remove, "cannot be read: No such file") for which in ("cert", "key", "ca")),
    *((which, empty, "in PEM form") for which in ("cert", "key", "ca")),
    *((which, garble, "cannot be (used|read)") for which in ("cert", "key", "ca")),
    *((which, make_directory, "is no file") for which in ("cert", "key", "ca")),
    *((which, make_pipe, "is no file") for which in ("cert", "key", "ca")),
    *((which, forbid, "cannot be read: Permission denied") for which in ("cert", "key", "ca")),
    ("key", encrypt, "is encrypted"),
    ("key", change_key, "does not fit the certificate"),
]


@pytest.mark.parametrize(("which", "spoil", "why"), BAD)
def test_a_file_that_cannot_be_used_is_named(
    files: TlsFiles, which: str, spoil: Callable[[str], None], why: str
) -> None:
    path = getattr(files, which)
    if spoil is forbid and os.geteuid() == 0:
        pytest.skip("root may read everything")
    spoil(path)
    with pytest.raises(UnusableFiles, match=why) as caught:
        load(files)
    assert path in caught.value.why
    with pytest.raises(IllegalParams, match="nothing was sent"):
        security_of(files.ca, files.cert, files.key)


def test_a_certificate_that_the_others_would_refuse_is_named_at_once(authority: Authority) -> None:
    other = Authority(authority.directory / "other")
    expired = authority.issue("expired", begins=now() - 2 * DAY, ends=now() - DAY)
    early = authority.issue("early", begins=now() + DAY)
    for files, why in (
        (expired, "certificate has expired"),
        (early, "certificate is not yet valid"),
        (authority.issue("elsewhere", hosts=["10.0.0.7"]), "not valid for '127.0.0.1'"),
        (authority.issue("self", is_self_signed=True), "no CA of the own file signed it"),
        (replace(authority.issue("a"), ca=other.ca), "no CA of the own file signed it"),
        (authority.issue("client", purposes=[CLIENT]), "purpose"),
        (authority.issue("server", purposes=[SERVER]), "purpose"),
    ):
        with pytest.raises(UnusableFiles, match=why) as caught:
            load(files)
        assert files.cert in caught.value.why
        load(files, own_host=None)  # alone, it may have another CA than its clients


def test_a_client_is_told_at_once_what_everybody_would_refuse(authority: Authority) -> None:
    for files, why in (
        (authority.issue("expired", begins=now() - 2 * DAY, ends=now() - DAY), "certificate has expired"),
        (authority.issue("early", begins=now() + DAY), "certificate is not yet valid"),
        (authority.issue("server", purposes=[SERVER]), "purpose"),
    ):
        with pytest.raises(IllegalParams, match=why):
            security_of(files.ca, files.cert, files.key)
    other = Authority(authority.directory / "other").issue("guest", purposes=[CLIENT])
    assert security_of(authority.ca, other.cert, other.key)  # who is asked may believe that CA


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"cert", "key"}, "needs cacert"),
        ({"ca", "cert"}, "belong together"),
        ({"ca", "key"}, "belong together"),
    ],
)
def test_a_client_needs_all_files_that_belong_together(files: TlsFiles, given: set[str], why: str) -> None:
    with pytest.raises(IllegalParams, match=why):
        security_of(*(getattr(files, name) if name in given else "" for name in ("ca", "cert", "key")))


def test_without_files_a_client_has_no_tls() -> None:
    assert security_of(None, "", None) is None


# --- while it runs --------------------------------------------------------------------------------------


def certificate_of(certificates: Certificates) -> bytes:
    """What new connections are shown."""
    client, server = certificates.client_layer("127.0.0.1"), certificates.server_layer()
    hand_over(client, server)
    hand_over(server, client)
    found = client._tls.getpeercert(binary_form=True)
    assert found is not None
    return found


def hand_over(sender: TlsLayer, receiver: TlsLayer) -> None:
    receiver.received(sender.to_send(b""))


def test_files_that_were_replaced_are_used_for_new_connections(authority: Authority, files: TlsFiles) -> None:
    certificates = load(files)
    before = certificate_of(certificates)
    assert not certificates.renew()
    assert certificate_of(certificates) == before
    authority.issue("node")
    assert certificates.renew()
    assert certificate_of(certificates) != before
    assert not certificates.renew()


@pytest.mark.parametrize("spoil", [remove, empty, encrypt, change_key])
def test_bad_new_files_are_named_once_and_the_former_are_used_on(
    authority: Authority, files: TlsFiles, spoil: Callable[[str], None]
) -> None:
    certificates = load(files)
    before = certificate_of(certificates)
    spoil(files.key)
    with pytest.raises(UnusableFiles):
        certificates.renew()
    assert not certificates.renew()  # Certificates.Z1: it was named
    assert certificate_of(certificates) == before
    authority.issue("node")
    assert certificates.renew()


def test_a_new_certificate_that_has_expired_is_not_used(authority: Authority, files: TlsFiles) -> None:
    certificates = load(files)
    before = certificate_of(certificates)
    authority.issue("node", begins=now() - 2 * DAY, ends=now() - DAY)
    with pytest.raises(UnusableFiles, match="expired"):
        certificates.renew()
    assert certificate_of(certificates) == before
