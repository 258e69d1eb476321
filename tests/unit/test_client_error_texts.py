"""What the client says of a connection that was not made: the cause, out of gRPC's long sentences."""

from __future__ import annotations

import pytest

from synchro.client.errors import cannot_connect


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to "
            "remote host: Connection refused",
            "connection refused",
        ),
        (
            "errors resolving db1:1: [field:hostname lookup error:address lookup failed for db1:1: Domain "
            "name not found]",
            "address lookup failed for db1:1: Domain name not found",
        ),
        (
            "errors resolving [::1:1: [field:hostname lookup error:Unparsable name: [::1:1]",
            "Unparsable name: [::1:1",
        ),
        ("two\nlines", "two"),
    ],
)
def test_the_cause_stands_alone(said: str, cause: str) -> None:
    error = cannot_connect(said, "db1:1")
    assert error.message == f"cannot connect to db1:1: {cause}"
