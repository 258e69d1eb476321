"""Every error has a gRPC status, and comes back from it as the same class with the same facts."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from synchro import errors
from synchro.errors import ALL_ERRORS, Extra, SynchroError, meaning_of
from synchro.rpc.generated.v1.common_pb2 import LeaderHint
from synchro.rpc.status import (
    DETAILS_KEY,
    DOMAIN,
    code_of,
    cut,
    from_rpc_error,
    from_status,
    leader_hint,
    status_code,
    to_status,
)
from synchro.wire.grpc_call import StatusCode

HINT = LeaderHint(instance_id=2, instance_name="instance002", address="127.0.0.1:3302", term=3)


def detail(status: Status, kind: Any) -> Any:
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            message = kind()
            packed.Unpack(message)
            return message
    return None


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.reason)
def test_a_class_says_all_of_itself(kind: type[SynchroError]) -> None:
    """One that says nothing would reach clients as INTERNAL, and the reference without a meaning."""
    assert "reason" in vars(kind)
    assert meaning_of(kind) and "details:" not in meaning_of(kind) and "[" not in meaning_of(kind)
    assert kind.code.name != "INTERNAL" or kind is errors.RemoteProtocolError
    assert grpc.StatusCode[kind.code.name].value[0] == kind.code
    assert kind.next_command == "" or kind.next_command.split()[0] in ("synchro", "try", "--if-not-exists")


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.reason)
def test_an_error_survives_the_way_there_and_back(kind: type[SynchroError]) -> None:
    error = kind("what happened", txn="1:15", limit=7, nothing=None)

    found = from_status(Status.FromString(to_status(error, HINT).SerializeToString()))

    assert type(found) is kind
    assert found.message == error.message
    assert error.details.items() <= found.details.items()
    assert status_code(to_status(error)) is not StatusCode.OK
    info = detail(to_status(error), error_details_pb2.ErrorInfo)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (kind.reason, DOMAIN)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ReadOnly, StatusCode.FAILED_PRECONDITION),
        (errors.NoLeader, StatusCode.UNAVAILABLE),
        (errors.SyncQueueFull, StatusCode.RESOURCE_EXHAUSTED),
        (errors.SyncTimeout, StatusCode.DEADLINE_EXCEEDED),
        (errors.SyncRollback, StatusCode.ABORTED),
        (errors.SplitBrain, StatusCode.DATA_LOSS),
        (errors.TupleFound, StatusCode.ALREADY_EXISTS),
        (errors.NoSuchSpace, StatusCode.NOT_FOUND),
        (errors.WrongFormat, StatusCode.INVALID_ARGUMENT),
        (errors.Unimplemented, StatusCode.UNIMPLEMENTED),
    ],
)
def test_codes_are_those_of_the_contract(kind: type[SynchroError], code: StatusCode) -> None:
    assert code_of(kind("text")) is code


def test_a_leader_hint_says_where_to_go() -> None:
    found = from_status(to_status(errors.ReadOnly("read-only", ro_reason="election"), HINT))

    assert found is not None
    assert leader_hint(found) == HINT
    assert found.details["ro_reason"] == "election"
    assert found.details["tnt"] == "7"


def test_a_hint_goes_only_with_errors_that_another_instance_could_avoid() -> None:
    assert detail(to_status(errors.TupleFound("duplicate"), HINT), LeaderHint) is None


def test_outcomes_are_named_by_the_class() -> None:
    for kind, outcome in [(errors.SyncTimeout, "unknown"), (errors.SyncRollback, "rolled_back")]:
        found = from_status(to_status(kind("text")))
        assert found is not None
        assert found.details["outcome"] == outcome


def test_details_that_the_table_names_are_there() -> None:
    kinds = {
        Extra.RETRY: error_details_pb2.RetryInfo,
        Extra.QUOTA: error_details_pb2.QuotaFailure,
        Extra.BAD_REQUEST: error_details_pb2.BadRequest,
        Extra.RESOURCE: error_details_pb2.ResourceInfo,
        Extra.LEADER: LeaderHint,
    }
    for cls in ALL_ERRORS:
        status = to_status(cls("text", space="bands", field="ops[0].insert"), HINT)
        for extra, kind in kinds.items():
            assert (detail(status, kind) is not None) is (extra in cls.extra), (cls, extra)


def test_resource_and_field_are_named() -> None:
    resource = detail(
        to_status(errors.NoSuchSpace("no", space="bnds", nearest="bands")), error_details_pb2.ResourceInfo
    )
    assert isinstance(resource, error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("space", "bnds")
    bad = detail(to_status(errors.WrongFormat("bad", field="ops[3].insert")), error_details_pb2.BadRequest)
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert bad.field_violations[0].field == "ops[3].insert"


def test_a_status_fits_the_trailers_whatever_the_error_quotes() -> None:
    """gRPC refuses trailers above 8 KiB; a duplicate key quotes two tuples of up to 1 MiB each."""
    big = "ы" * 2**20
    status = to_status(
        errors.TupleFound(big, old_tuple=big, new_tuple=big, **{f"k{i}": big for i in range(50)})
    )

    assert len(status.SerializeToString()) * 4 / 3 + 3 * len(status.message.encode()) < 8192


def test_a_reason_of_a_newer_server_is_still_an_error() -> None:
    class Newer(SynchroError):
        reason = "NEWER"

    found = from_status(to_status(Newer("text")))

    assert type(found) is SynchroError
    assert found.details["reason"] == "NEWER"


def test_split_brain_gets_its_prefix_once() -> None:
    found = from_status(to_status(errors.SplitBrain("got a request with lsn from the past")))
    assert str(found) == "Split-Brain discovered: got a request with lsn from the past"


def test_what_did_not_come_from_a_server_of_ours_is_left_alone() -> None:
    class Plain(grpc.RpcError):
        def trailing_metadata(self) -> Any:
            return ((DETAILS_KEY, Status(code=14, message="connection refused").SerializeToString()),)

    assert from_rpc_error(Plain()) is None
    assert from_rpc_error(grpc.RpcError()) is None


def test_an_exception_of_grpc_is_opened() -> None:
    class Refused(grpc.RpcError):
        def trailing_metadata(self) -> Any:
            return ((DETAILS_KEY, to_status(errors.NoLeader("none")).SerializeToString()),)

    found = from_rpc_error(Refused())
    assert isinstance(found, errors.NoLeader)
    assert found.details["retry_delay_s"] == "0.2"


def test_cut_never_splits_a_character() -> None:
    assert cut("ы" * 10, 10) == "ыыы..."
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 0) == ""


def test_the_client_needs_no_trio() -> None:
    code = "import sys, synchro.rpc.status, synchro.rpc.codec; sys.exit('trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
