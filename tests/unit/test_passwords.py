"""What is kept of a password, at what it costs in use; elsewhere in the tests it costs little. ADR 42."""

from __future__ import annotations

from synchro.server.passwords import dummy_verifier, fits, make_verifier


def test_a_verifier_fits_its_password_only() -> None:
    kept = make_verifier("secret")
    assert fits(kept, "secret") and not fits(kept, "Secret")
    assert b"secret" not in kept and kept != make_verifier("secret")


def test_each_is_a_guess_that_takes_32_mib() -> None:
    """Version, log2 of the cost, block, lanes: 128 bytes for each block of each step."""
    version, cost, block, lanes = make_verifier("secret")[:4]
    assert (version, lanes) == (1, 1) and 128 * block << cost == 32 << 20


def test_what_no_password_fits_looks_like_any_other() -> None:
    kept = dummy_verifier()
    assert not fits(kept, "") and kept[:4] == make_verifier("x")[:4] and len(kept) == len(make_verifier("x"))
    assert not fits(b"", "") and not fits(kept[:-1], "")
