"""How channels are opened, for the blocking client and for the asynchronous one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from synchro.errors import IllegalParams

if TYPE_CHECKING:
    from synchro.client.secure import Security
    from synchro.config.address import Uri

# Before gRPC is imported: it writes lines of its own to stderr about each broken connection; and without its
# handlers a child of a fork that makes a client of its own hangs on locks that threads of the parent held.
# `synchro.aio` comes before and chooses 0: with handlers a child of a program that uses grpc.aio may crash.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
CHOSEN_BY: Final = "GRPC_FORKS_CHOSEN_BY"
"""Id of the process that chose it by itself: what its children inherit is no wish of the user."""
if (
    os.environ.get(CHOSEN_BY, "") not in ("", str(os.getpid()))
    or "GRPC_ENABLE_FORK_SUPPORT" not in os.environ
):
    os.environ.update({"GRPC_ENABLE_FORK_SUPPORT": "1", CHOSEN_BY: str(os.getpid())})
SURVIVES_FORK: Final = os.environ["GRPC_ENABLE_FORK_SUPPORT"].lower() in ("1", "true", "t", "yes", "y")
"""Whether a child of a process that used gRPC can use it too."""

MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
CONNECT_S: Final = 1.0
"""Seconds that one attempt to connect may take, until the other end has spoken."""
KEEPALIVE_AFTER_S: Final = 10.0
"""Seconds without a byte until the other end is asked whether it is there."""
KEEPALIVE_TIMEOUT_S: Final = 5.0
"""Seconds it has for the answer."""
SILENT_S: Final = 1.5
"""While a write waits: seconds without a word of its instance until that is asked whether it is there."""
ANSWER_S: Final = 1.5
"""Seconds it has for the answer then. A leader that is paused costs its callers this much, and not all of
their time: the others may have elected another one by then."""
CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", int(KEEPALIVE_AFTER_S * 1000)),
    ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),  # also how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # two clients of one process share neither connection nor fate
)


def security_of(
    cacert: str | None, cert: str | None, key: str | None, *, uris: Iterable[Uri] = ()
) -> Security | None:
    """TLS with these files, or with those of the endpoints; None: no file is given, so it is plain TCP.
    Raises `IllegalParams`."""
    named = tls_params(uris)
    cacert = cacert or named.get("cacert")
    cert = cert or named.get("cert")
    key = key or named.get("key")
    if not (cacert or cert or key):
        return None
    from synchro.client.secure import Security  # so that a client without TLS starts sooner
    from synchro.wire.certificates import TlsFiles

    return Security(TlsFiles(cert or "", key or "", cacert or ""))


TLS_PARAMS: Final = {"ssl_ca_file": "cacert", "ssl_cert_file": "cert", "ssl_key_file": "key"}
"""Of an endpoint [S-11]."""


def tls_params(uris: Iterable[Uri]) -> Mapping[str, str]:
    """cacert, cert and key by the parameters of endpoints. Raises `IllegalParams` for others, and if
    endpoints differ: a client speaks TLS with all of them, or with none."""
    found: list[dict[str, str]] = []
    for uri in uris:
        if unknown := uri.params.keys() - TLS_PARAMS.keys() - {"transport"}:
            known = ", ".join(("transport", *TLS_PARAMS))
            raise IllegalParams(f"unknown parameter {min(unknown)!r} of an endpoint; there are: {known}")
        own = {TLS_PARAMS[key]: value for key, value in uri.params.items() if key in TLS_PARAMS}
        transport = uri.params.get("transport", "ssl" if own else "plain")
        if transport not in ("plain", "ssl") or (transport == "ssl") is not ("cacert" in own):
            raise IllegalParams("transport is ssl, with ssl_ca_file=FILE, or plain; nothing was sent")
        found.append(own)
    if any(own != found[0] for own in found):
        raise IllegalParams("the endpoints differ in their parameters; a client speaks one way with all")
    return found[0] if found else {}


def open_channel(library: Any, endpoint: str, security: Security | None) -> Any:
    """library: `grpc`, or `grpc.aio`."""
    if security is None:
        return library.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
    return library.secure_channel(endpoint, security.credentials, options=CHANNEL_OPTIONS)


FRAME_OPS_MAX: Final = 1024
"""Operations in one frame, a call without any counts as one; the server takes 4096 calls."""
FRAME_BYTES_MAX: Final = 128 * 1024
"""A frame ends before the call that would pass one of these, but holds one call at least, of up to 8 MiB.

The server runs a frame in one go. With small ones it decodes the next while the last is on its way to disk
and to the followers; below a few hundred operations what a frame itself costs begins to show.
"""
IN_FLIGHT_MAX: Final = 8192
"""Calls without an answer on one stream; beyond it the server would stop reading."""
PROBE_S: Final = 1.0
"""How long an instance may take to say who leads."""
