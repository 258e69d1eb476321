"""Errors <-> gRPC statuses, in both directions: the only place that translates.

Used by servers and by the client, so it imports no trio. A status carries `google.rpc.ErrorInfo`
(reason, domain "synchro.v1", metadata = `SynchroError.details`) and, where it helps, more details.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from synchro import errors
from synchro.errors import Extra, SynchroError
from synchro.rpc.generated.v1.common_pb2 import LeaderHint
from synchro.wire.grpc_call import StatusCode

DOMAIN: Final = "synchro.v1"
DETAILS_KEY: Final = "grpc-status-details-bin"
"""The trailing metadata in which gRPC carries a serialized `google.rpc.Status`."""

MESSAGE_BYTES_MAX: Final = 1024
"""Trailers hold message and details together and are refused above 8 KiB; a tuple may have 1 MiB."""
VALUE_BYTES_MAX: Final = 256
METADATA_BYTES_MAX: Final = 2048


_CODES: Final = frozenset(StatusCode)
RETRY_DELAY_MS: Final = 200
"""What RetryInfo advises: about one election or one fsync later, not a busy loop."""


def code_of(error: SynchroError) -> StatusCode:
    return StatusCode(error.code)


def to_status(error: SynchroError, leader: LeaderHint | None = None) -> Status:
    """Return the status of an error. leader: added if the class has Extra.LEADER. Long texts are cut, see the
    limits above."""
    status = Status(code=error.code, message=cut(error.message, MESSAGE_BYTES_MAX))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_metadata(error))
    _pack(status, info)
    if Extra.LEADER in error.extra and leader is not None:
        _pack(status, leader)
    if Extra.RETRY in error.extra:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(RETRY_DELAY_MS)
        _pack(status, retry)
    if Extra.QUOTA in error.extra:
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(subject=error.details.get("limit", error.reason), description=status.message)
        _pack(status, quota)
    if Extra.BAD_REQUEST in error.extra:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=error.details.get("field", ""), description=error.reason)
        _pack(status, bad)
    if Extra.RESOURCE in error.extra:
        kind = "index" if "index" in error.details else "space"
        _pack(
            status,
            error_details_pb2.ResourceInfo(
                resource_type=kind, resource_name=cut(error.details.get(kind, ""), VALUE_BYTES_MAX)
            ),
        )
    return status


def _metadata(error: SynchroError) -> dict[str, str]:
    found = dict(error.facts)
    if error.tnt_code:
        found["tnt"] = str(error.tnt_code)
    room = METADATA_BYTES_MAX
    for key, value in error.details.items():
        text = cut(value, min(VALUE_BYTES_MAX, room))
        room -= len(text.encode())
        found[key] = text
    return found


def cut(text: str, bytes_max: int) -> str:
    """Return at most this many bytes of UTF-8; what was cut off shows as "..."."""
    data = text.encode("utf-8", "replace")
    if len(data) <= bytes_max:
        return data.decode()
    return data[: max(0, bytes_max - 3)].decode("utf-8", "ignore") + "..."[:bytes_max]


def _pack(status: Status, detail: Any) -> None:
    status.details.add().Pack(detail)


# --- the way back ---------------------------------------------------------------------------------------


def from_status(status: Status) -> SynchroError | None:
    """The error a server sent; None if it is not one of ours (then only code and message are known).

    Its `details` are the metadata, and from a LeaderHint `leader_id`, `leader_name`, `leader_address`,
    `leader_term`, from a RetryInfo `retry_delay_s`. A reason of a newer server gives a plain
    `SynchroError` whose `details` have `reason`.
    """
    info = _detail(status.details, error_details_pb2.ErrorInfo)
    if info is None or info.domain != DOMAIN:
        return None
    details = dict(info.metadata)
    hint = _detail(status.details, LeaderHint)
    if hint is not None:
        details["leader_id"] = str(hint.instance_id)
        details["leader_name"] = hint.instance_name
        details["leader_address"] = hint.address
        details["leader_term"] = str(hint.term)
    retry = _detail(status.details, error_details_pb2.RetryInfo)
    if retry is not None:
        details["retry_delay_s"] = str(retry.retry_delay.ToMilliseconds() / 1000)
    kind = errors.BY_REASON.get(info.reason)
    if kind is None:
        kind = SynchroError
        details["reason"] = info.reason
    # Not through the constructor of the class: SplitBrain would put its prefix in front a second time.
    error = kind.__new__(kind)
    SynchroError.__init__(error, status.message)
    error.details = details
    return error


def leader_hint(error: SynchroError) -> LeaderHint | None:
    """The hint that came with an error made by `from_status`."""
    if "leader_id" not in error.details:
        return None
    return LeaderHint(
        instance_id=int(error.details["leader_id"]),
        instance_name=error.details["leader_name"],
        address=error.details["leader_address"],
        term=int(error.details["leader_term"]),
    )


def from_rpc_error(error: Exception) -> SynchroError | None:
    """The error inside a `CallFailed`, or an exception of grpcio, blocking or aio; None if it came from gRPC
    itself."""
    trailing = getattr(error, "trailing_metadata", None)
    return from_trailing_metadata((trailing() if callable(trailing) else trailing) or ())


def from_trailing_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> SynchroError | None:
    for key, value in metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            return from_status(Status.FromString(value))
    return None


def status_code(status: Status) -> StatusCode:
    return StatusCode(status.code) if status.code in _CODES else StatusCode.UNKNOWN


def _detail(details: Iterable[AnyMessage], kind: type[Any]) -> Any | None:
    for packed in details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            return detail
    return None
