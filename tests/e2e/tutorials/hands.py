"""Three ways to do what a tutorial says: by the command line, by the Python client, by a plain grpcio stub.

A walk-through is written once and run with each hand; the outcome must be the same. Every hand speaks to
exactly the instance that is named, follows no leader and repeats nothing. Refusals are the classes of
`synchro.errors`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Any, Final

import pytest

import synchro
from synchro import errors
from synchro.cli import app
from synchro.client import Client, ops
from synchro.client.replies import ConfigChanges
from synchro.errors import SynchroError
from synchro.rpc.generated.v1 import auth_pb2, control_pb2, data_pb2, schema_pb2
from tests.e2e.cluster import Instance
from tests.e2e.remote import CALL_S, COMMITTED, GRACE_S, PENDING, ROLLED_BACK, Lost, pack, seconds, unpack

Row = Sequence[Any]
Change = tuple[Any, ...]
"""An operation: its name, the space, and what `synchro.ops` takes behind that."""
Changes = tuple[dict[str, Any], list[str]]
"""Key of an option -> its value now, as far as it is in use; and warnings."""
HANG_S: Final = 1000.0
"""Deadline of a write that is to wait for its quorum."""


@dataclass(frozen=True, slots=True)
class Promoted:
    term: int
    previous_owner: int
    confirmed: int
    rolled_back: int


class Waiting:
    """A write on its way. Its end: None, or the error."""

    def __init__(self, is_done: Callable[[], bool], end: Callable[[float], Exception | None]) -> None:
        self._is_done, self._end = is_done, end

    @property
    def is_done(self) -> bool:
        return self._is_done()

    def error(self, timeout: float) -> Exception | None:
        """Raises `AssertionError` if it has not ended after `timeout` seconds."""
        return self._end(timeout)


class Hand(ABC):
    """What all three can do. at: the instance that is asked."""

    name: str
    is_by_verbs: bool = False
    """Sets are started and stopped by verbs of the command line, too."""

    @abstractmethod
    def execute(self, at: Instance, *changes: Change, timeout: float = CALL_S) -> list[Any]:
        """One transaction. Returns its tuples, one for each operation, None where there is none."""

    @abstractmethod
    def hang(self, at: Instance, *changes: Change, timeout: float = HANG_S) -> Waiting:
        """Begin a transaction that is expected to wait."""

    @abstractmethod
    def select(self, at: Instance, space: str, key: Row = (), iterator: str = "") -> list[list[Any]]: ...

    @abstractmethod
    def info(self, at: Instance, path: str = "") -> Any: ...

    @abstractmethod
    def promote(self, at: Instance) -> Promoted: ...

    @abstractmethod
    def demote(self, at: Instance) -> int:
        """Returns the term."""

    @abstractmethod
    def create_space(
        self,
        at: Instance,
        name: str,
        *,
        sync: bool = False,
        format: Iterable[str] = (),
        if_not_exists: bool = False,
        local: bool = False,
        temporary: bool = False,
    ) -> bool:
        """format: as `id:unsigned`. Returns whether there was something to do."""

    @abstractmethod
    def create_index(
        self, at: Instance, space: str, name: str = "primary", parts: Iterable[str] = ()
    ) -> None:
        """parts: names of fields; none: the first field, unsigned."""

    @abstractmethod
    def alter_format(self, at: Instance, space: str, format: Iterable[str]) -> None:
        """format: as `id:unsigned`."""

    @abstractmethod
    def number(self, at: Instance, space: str, sequence: str, *, start: int, step: int) -> None:
        """Make a sequence, and a primary key of `space` that it gives values to."""

    @abstractmethod
    def next_value(self, at: Instance, sequence: str) -> int: ...

    @abstractmethod
    def once(self, at: Instance, key: str, *operations: dict[str, Any]) -> bool:
        """Run operations once in the life of the set. Returns whether they were, by this call."""

    @abstractmethod
    def snapshot(self, at: Instance) -> int:
        """Returns the signature, which is the name of the file."""

    @abstractmethod
    def queue(self, at: Instance) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
        """Its head, and its entries with `txn`, `acked_by`, `missing`, `rows`."""

    @abstractmethod
    def outcome(self, at: Instance, txn: str, timeout: float = CALL_S) -> str:
        """Of a transaction `origin:lsn`: committed, rolled_back, pending or unknown."""

    @abstractmethod
    def checksum(self, at: Instance, space: str) -> tuple[int, str]: ...

    @abstractmethod
    def is_sync(self, at: Instance, space: str) -> bool: ...

    @abstractmethod
    def restart_upstream(self, at: Instance, upstream: str) -> None: ...

    @abstractmethod
    def set_option(self, at: Instance, key: str, value: str, *, force: bool = False) -> Changes: ...

    @abstractmethod
    def reload(self, at: Instance) -> Changes: ...

    @abstractmethod
    def create_user(self, at: Instance, name: str, password: str) -> bool:
        """Returns whether there was something to do."""

    @abstractmethod
    def grant(self, at: Instance, name: str, *what: str) -> bool:
        """what: a role; or privileges, the kind of an object, its name. Returns as `create_user`."""

    @abstractmethod
    def revoke(self, at: Instance, name: str, *what: str) -> bool: ...

    @abstractmethod
    def close(self) -> None:
        """Give up what it has open."""

    # --- shorter

    def expel(self, at: Instance, leaver: Instance) -> None:
        """As the manual has it: by the deletion of its row."""
        [row] = [row for row in self.select(at, "_cluster") if row[2] == leaver.name]
        self.execute(at, ("delete", "_cluster", row[:1]))

    def insert(self, at: Instance, space: str, row: Row, **more: Any) -> list[Any]:
        return list(self.execute(at, ("insert", space, row), **more)[0])

    def replace(self, at: Instance, space: str, row: Row, **more: Any) -> list[Any]:
        return list(self.execute(at, ("replace", space, row), **more)[0])

    def create(self, at: Instance, space: str, **more: Any) -> None:
        """With a primary index on its first field, unsigned."""
        self.create_space(at, space, **more)
        self.create_index(at, space)

    def vclock(self, at: Instance) -> dict[int, int]:
        """Without component 0."""
        return {member: lsn for member, lsn in self.info(at, "vclock").items() if member and lsn}


# --- the command line -----------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of one command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = app.run(arguments)
    return code, out.getvalue(), err.getvalue()


def failure(code: int, err: str) -> SynchroError:
    """What `-o json` printed on standard error. Its exit code is the one of its class."""
    report = json.loads(err.strip().splitlines()[-1])
    kind = errors.BY_REASON.get(report["reason"], SynchroError)
    assert code == report["code"], (code, report)
    error = kind(report["message"])
    error.details = report["details"]
    return error


def numbered(value: Any) -> Any:
    """JSON has no numbers as keys."""
    if isinstance(value, dict):
        return {int(key) if key.isdecimal() else key: numbered(part) for key, part in value.items()}
    return [numbered(part) for part in value] if isinstance(value, list) else value


class CommandLine(Hand):
    name = "cli"
    is_by_verbs = True

    def call(self, at: Instance, *arguments: str, good: Sequence[int] = (0,), timeout: float = CALL_S) -> Any:
        code, out, err = run(*self._all(at, arguments, timeout))
        if code not in good:
            raise failure(code, err)
        return json.loads(out) if out.strip() else None

    def _all(self, at: Instance, arguments: Sequence[str], timeout: float) -> list[str]:
        return ["-e", at.address, "--direct", "-o", "json", "--timeout", f"{timeout}s", *arguments]

    def execute(self, at: Instance, *changes: Change, timeout: float = CALL_S) -> list[Any]:
        if len(changes) == 1:
            reply = self.call(at, *self._verb(changes[0]), timeout=timeout)
            return [reply["tuple"]] if "tuple" in reply else list(reply["tuples"]) or [None]
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps(_line(change)) + "\n" for change in changes)
            file.flush()
            return list(self.call(at, "txn", file.name, timeout=timeout)["tuples"])

    def _verb(self, change: Change) -> list[str]:
        verb, space, *rest = change
        return [verb, space, *(json.dumps(part) for part in rest)]

    def hang(self, at: Instance, *changes: Change, timeout: float = HANG_S) -> Waiting:
        """In a process of its own, as a person has it in a terminal."""
        process = subprocess.Popen(
            [
                *(sys.executable, "-X", "faulthandler", "-P", "-m", "synchro"),
                *self._all(at, self._verb(changes[0]), timeout),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def end(patience: float) -> Exception | None:
            try:
                _, err = process.communicate(timeout=patience)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)  # where each of its threads is
                _, err = process.communicate(timeout=patience)
                raise AssertionError(f"the command has not ended after {patience} s: {err}") from None
            return failure(process.returncode, err) if process.returncode else None

        self._begun.append(process)
        return Waiting(lambda: process.poll() is not None, end)

    def __init__(self) -> None:
        self._begun: list[subprocess.Popen[str]] = []

    def close(self) -> None:
        for process in self._begun:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def select(self, at: Instance, space: str, key: Row = (), iterator: str = "") -> list[list[Any]]:
        given = [json.dumps(key)] if key else []
        return list(self.call(at, "select", space, *given, *(["--iterator", iterator] if iterator else [])))

    def info(self, at: Instance, path: str = "") -> Any:
        return numbered(self.call(at, "info", *([path] if path else [])))

    def promote(self, at: Instance) -> Promoted:
        reply = self.call(at, "promote")
        return Promoted(reply["term"], reply["previous_owner"], reply["confirmed"], reply["rolled_back"])

    def demote(self, at: Instance) -> int:
        return int(self.call(at, "demote", at.name)["term"])

    def create_space(
        self,
        at: Instance,
        name: str,
        *,
        sync: bool = False,
        format: Iterable[str] = (),
        if_not_exists: bool = False,
        local: bool = False,
        temporary: bool = False,
    ) -> bool:
        flags = {"sync": sync, "if-not-exists": if_not_exists, "local": local, "temporary": temporary}
        given = [f"--{flag}" for flag, is_given in flags.items() if is_given]
        fields = ",".join(format)
        reply = self.call(at, "space", "create", name, *given, *(["--format", fields] if fields else []))
        return bool(reply["changed"])

    def create_index(
        self, at: Instance, space: str, name: str = "primary", parts: Iterable[str] = ()
    ) -> None:
        fields = ",".join(parts)
        self.call(at, "index", "create", space, name, *(["--parts", fields] if fields else []))

    def alter_format(self, at: Instance, space: str, format: Iterable[str]) -> None:
        self.call(at, "space", "alter", space, "--format", ",".join(format))

    def number(self, at: Instance, space: str, sequence: str, *, start: int, step: int) -> None:
        self.call(at, "sequence", "create", sequence, "--start", str(start), "--step", str(step))
        self.call(at, "index", "create", space, "primary", "--sequence", sequence)

    def next_value(self, at: Instance, sequence: str) -> int:
        return int(self.call(at, "sequence", "next", sequence)["value"])

    def once(self, at: Instance, key: str, *operations: dict[str, Any]) -> bool:
        return bool(self.call(at, "once", key, json.dumps(operations))["executed"])

    def snapshot(self, at: Instance) -> int:
        return int(self.call(at, "snapshot")["signature"])

    def queue(self, at: Instance) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
        reply = self.call(at, "queue")
        return reply["queue"], reply["entries"]

    def outcome(self, at: Instance, txn: str, timeout: float = CALL_S) -> str:
        return str(self.call(at, "wait", txn, good=(0, 5, 6), timeout=timeout)["outcome"])

    def checksum(self, at: Instance, space: str) -> tuple[int, str]:
        [reply] = self.call(at, "space", "checksum", space)
        return reply["count"], reply["checksum"]

    def is_sync(self, at: Instance, space: str) -> bool:
        return bool(self.call(at, "space", "show", space)["is_sync"])

    def restart_upstream(self, at: Instance, upstream: str) -> None:
        code, _, err = run(*self._all(at, ["replication", "restart", upstream], CALL_S))
        if code:
            raise failure(code, err)

    def set_option(self, at: Instance, key: str, value: str, *, force: bool = False) -> Changes:
        reply = self.call(at, "config", "set", key, value, "-i", at.name, *(["--force"] if force else []))
        return _in_use(reply["changes"]), reply["warnings"]

    def reload(self, at: Instance) -> Changes:
        """Of an instance of a file."""
        code, out, err = run("-o", "json", "config", "reload", f"{at.cluster.config_path}:{at.name}")
        if code:
            raise failure(code, err)
        reply = json.loads(out)[at.name]
        return _in_use(reply["changes"]), reply["warnings"]

    def expel(self, at: Instance, leaver: Instance) -> None:
        self.call(at, "member", "expel", leaver.name, "-y")

    def create_user(self, at: Instance, name: str, password: str) -> bool:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(password + "\n")
            file.flush()
            return bool(self.call(at, "user", "create", name, "--new-password-file", file.name)["changed"])

    def grant(self, at: Instance, name: str, *what: str) -> bool:
        return bool(self.call(at, "grant", name, *what)["changed"])

    def revoke(self, at: Instance, name: str, *what: str) -> bool:
        return bool(self.call(at, "revoke", name, *what)["changed"])


def _object(what: Sequence[str]) -> tuple[str, str, str]:
    """Privileges, kind of object and name, as the command line understands them."""
    if len(what) == 1:
        return "execute", "role", what[0]
    words, kind, name = (*what, "")[:3]
    return words, kind, name


def _in_use(changes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {change["key"]: change["after"] for change in changes if not change["needs_restart"]}


def _line(change: Change) -> dict[str, Any]:
    """Of a file for `synchro txn`."""
    verb, space, *rest = change
    keys = {"update": ("key", "ops"), "upsert": ("tuple", "ops"), "delete": ("key",)}.get(verb, ("tuple",))
    return {"op": verb, "space": space, **dict(zip(keys, rest, strict=True))}


# --- the Python client ----------------------------------------------------------------------------------


class PythonClient(Hand):
    name = "client"

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}
        self._threads = ThreadPoolExecutor(8)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._threads.shutdown()

    def at(self, at: Instance) -> Client:
        if at.address not in self._clients:
            self._clients[at.address] = synchro.connect(
                at.address,
                timeout=CALL_S,
                read_from="any",
                read_your_writes=False,  # MM-22 drops rows that this client wrote
                follow_leader=False,
                wait_for_connection=False,
            )
        return self._clients[at.address]

    def execute(self, at: Instance, *changes: Change, timeout: float = CALL_S) -> list[Any]:
        made = [getattr(ops, verb)(*rest) for verb, *rest in changes]
        found = self.at(at).execute(made, timeout=timeout).tuples
        return [None if row is None else list(row) for row in found] or [None]

    def create_user(self, at: Instance, name: str, password: str) -> bool:
        return self.at(at).users.create(name, password).done

    def grant(self, at: Instance, name: str, *what: str) -> bool:
        return self.at(at).users.grant(name, *_object(what)).done

    def revoke(self, at: Instance, name: str, *what: str) -> bool:
        return self.at(at).users.revoke(name, *_object(what)).done

    def hang(self, at: Instance, *changes: Change, timeout: float = HANG_S) -> Waiting:
        future: Future[Any] = self._threads.submit(self.execute, at, *changes, timeout=timeout)

        def end(patience: float) -> Exception | None:
            try:
                future.result(patience)
            except NotYet:
                raise AssertionError(f"the write has not ended after {patience} s") from None
            except SynchroError as error:
                return error
            return None

        return Waiting(future.done, end)

    def select(self, at: Instance, space: str, key: Row = (), iterator: str = "") -> list[list[Any]]:
        how: Any = iterator.upper() or None
        return [list(row) for row in self.at(at).select(space, list(key) or None, iterator=how)]

    def info(self, at: Instance, path: str = "") -> Any:
        return _plain(self.at(at).get_info(path))

    def promote(self, at: Instance) -> Promoted:
        reply = self.at(at).promote()
        return Promoted(reply.term, reply.previous_owner, reply.confirmed, reply.rolled_back)

    def demote(self, at: Instance) -> int:
        return self.at(at).demote(at.address).term

    def create_space(
        self,
        at: Instance,
        name: str,
        *,
        sync: bool = False,
        format: Iterable[str] = (),
        if_not_exists: bool = False,
        local: bool = False,
        temporary: bool = False,
    ) -> bool:
        reply = self.at(at).create_space(
            name,
            sync=sync,
            format=list(format),
            if_not_exists=if_not_exists,
            local=local,
            temporary=temporary,
        )
        return reply.done

    def create_index(
        self, at: Instance, space: str, name: str = "primary", parts: Iterable[str] = ()
    ) -> None:
        self.at(at).create_index(space, name, parts=list(parts))

    def alter_format(self, at: Instance, space: str, format: Iterable[str]) -> None:
        self.at(at).alter_space(space, format=list(format))

    def number(self, at: Instance, space: str, sequence: str, *, start: int, step: int) -> None:
        self.at(at).create_sequence(sequence, start=start, step=step)
        self.at(at).create_index(space, "primary", sequence=sequence)

    def next_value(self, at: Instance, sequence: str) -> int:
        return self.at(at).next_value(sequence)

    def once(self, at: Instance, key: str, *operations: dict[str, Any]) -> bool:
        return self.at(at).once(key, operations).executed

    def snapshot(self, at: Instance) -> int:
        return self.at(at).snapshot().signature

    def queue(self, at: Instance) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
        reply = self.at(at).list_queue()
        head: dict[str, Any] = {
            "owner": reply.owner,
            "term": reply.term,
            "len": reply.len,
            "busy": reply.busy,
        }
        entries: list[dict[str, Any]] = [
            {
                "txn": f"{entry.txn[0]}:{entry.txn[1]}" if entry.txn else None,
                "acked_by": list(entry.acked_by),
                "missing": list(entry.missing),
                "rows": entry.rows,
            }
            for entry in reply.entries
        ]
        return head, entries

    def outcome(self, at: Instance, txn: str, timeout: float = CALL_S) -> str:
        return str(self.at(at).wait_transaction(txn, timeout))

    def checksum(self, at: Instance, space: str) -> tuple[int, str]:
        reply = self.at(at).checksum(space)
        return reply.count, reply.checksum

    def is_sync(self, at: Instance, space: str) -> bool:
        return self.at(at).spaces(space)[0].is_sync

    def restart_upstream(self, at: Instance, upstream: str) -> None:
        self.at(at).restart_upstream(upstream)

    def set_option(self, at: Instance, key: str, value: str, *, force: bool = False) -> Changes:
        return self._changes(self.at(at).set_config(key, value, force=force))

    def reload(self, at: Instance) -> Changes:
        return self._changes(self.at(at).reload_config())

    def _changes(self, reply: ConfigChanges) -> Changes:
        in_use = {option.key: option.after for option in reply.options if not option.needs_restart}
        return in_use, list(reply.warnings)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in value}
    return value


# --- a plain stub ---------------------------------------------------------------------------------------

_OUTCOMES: Final[Mapping[int, str]] = {COMMITTED: "committed", ROLLED_BACK: "rolled_back", PENDING: "pending"}
_OPS: Final[Mapping[str, Callable[..., data_pb2.Op]]] = {
    "insert": lambda space, row: data_pb2.Op(insert=data_pb2.Insert(space=space, tuple=pack(row))),
    "replace": lambda space, row: data_pb2.Op(replace=data_pb2.Replace(space=space, tuple=pack(row))),
    "update": lambda space, key, ops: data_pb2.Op(
        update=data_pb2.Update(space=space, key=pack(key), ops=pack(ops))
    ),
    "upsert": lambda space, row, ops: data_pb2.Op(
        upsert=data_pb2.Upsert(space=space, tuple=pack(row), ops=pack(ops))
    ),
    "delete": lambda space, key: data_pb2.Op(delete=data_pb2.Delete(space=space, key=pack(key))),
}


class Stub(Hand):
    """The generated stubs of grpcio, by `Remote`."""

    name = "stub"

    def execute(self, at: Instance, *changes: Change, timeout: float = CALL_S) -> list[Any]:
        made = [_OPS[verb](*rest) for verb, *rest in changes]
        reply = at.remote.execute(*made, timeout=timeout)
        return [unpack(row.msgpack) if row.msgpack else None for row in reply.tuples] or [None]

    def hang(self, at: Instance, *changes: Change, timeout: float = HANG_S) -> Waiting:
        write = at.remote.begin(*(_OPS[verb](*rest) for verb, *rest in changes), timeout=timeout)
        return Waiting(lambda: write.is_done, write.error)

    def select(self, at: Instance, space: str, key: Row = (), iterator: str = "") -> list[list[Any]]:
        return at.remote.select(space, key, iterator.upper() or ("EQ" if key else "GE"))

    def info(self, at: Instance, path: str = "") -> Any:
        return at.remote.info(path)

    def promote(self, at: Instance) -> Promoted:
        reply = at.remote.promote()
        return Promoted(reply.term, reply.previous_owner, reply.confirmed, reply.rolled_back)

    def demote(self, at: Instance) -> int:
        return int(at.remote.demote().term)

    def create_space(
        self,
        at: Instance,
        name: str,
        *,
        sync: bool = False,
        format: Iterable[str] = (),
        if_not_exists: bool = False,
        local: bool = False,
        temporary: bool = False,
    ) -> bool:
        request = schema_pb2.CreateSpaceRequest(
            name=name,
            is_sync=sync,
            format=[_field(text) for text in format],
            if_not_exists=if_not_exists,
            is_local=local,
            is_temporary=temporary,
            timeout=seconds(CALL_S),
        )
        reply = at.remote.call(at.remote.schema.CreateSpace, request, CALL_S + GRACE_S)
        return bool(reply.created)

    def create_index(
        self, at: Instance, space: str, name: str = "primary", parts: Iterable[str] = ()
    ) -> None:
        request = schema_pb2.CreateIndexRequest(space=space, name=name, timeout=seconds(CALL_S))
        request.parts.extend(schema_pb2.KeyPart(name=part) for part in parts)
        at.remote.call(at.remote.schema.CreateIndex, request, CALL_S + GRACE_S)

    def alter_format(self, at: Instance, space: str, format: Iterable[str]) -> None:
        request = schema_pb2.AlterSpaceRequest(space=space, timeout=seconds(CALL_S))
        request.format.fields.extend(_field(text) for text in format)
        at.remote.call(at.remote.schema.AlterSpace, request, CALL_S + GRACE_S)

    def number(self, at: Instance, space: str, sequence: str, *, start: int, step: int) -> None:
        made = schema_pb2.CreateSequenceRequest(name=sequence, start=start, step=step)
        at.remote.call(at.remote.schema.CreateSequence, made, CALL_S + GRACE_S)
        by = schema_pb2.IndexSequence(name=sequence)
        request = schema_pb2.CreateIndexRequest(space=space, name="primary", sequence=by)
        at.remote.call(at.remote.schema.CreateIndex, request, CALL_S + GRACE_S)

    def next_value(self, at: Instance, sequence: str) -> int:
        request = schema_pb2.NextSequenceValueRequest(sequence=sequence, timeout=seconds(CALL_S))
        return int(at.remote.call(at.remote.schema.NextSequenceValue, request, CALL_S + GRACE_S).value)

    def once(self, at: Instance, key: str, *operations: dict[str, Any]) -> bool:
        request = schema_pb2.RunOnceRequest(key=key, timeout=seconds(CALL_S))
        for operation in operations:
            ((verb, body),) = operation.items()
            if verb == "insert":
                request.ops.append(_OPS[verb](body["space"], body["tuple"]))
            else:
                getattr(request.schema.add(), verb).CopyFrom(_schema_change(verb, body))
        return bool(at.remote.call(at.remote.schema.RunOnce, request, CALL_S + GRACE_S).executed)

    def snapshot(self, at: Instance) -> int:
        return int(at.remote.snapshot().signature)

    def queue(self, at: Instance) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
        entries = [
            {
                "txn": f"{entry.txn.origin}:{entry.txn.lsn}" if entry.txn.lsn else None,
                "acked_by": list(entry.acked_by),
                "missing": list(entry.missing),
                "rows": entry.rows,
            }
            for entry in at.remote.entries()
        ]
        return at.remote.queue(), entries

    def outcome(self, at: Instance, txn: str, timeout: float = CALL_S) -> str:
        origin, lsn = map(int, txn.split(":"))
        return _OUTCOMES.get(at.remote.wait_transaction((origin, lsn), timeout), "unknown")

    def checksum(self, at: Instance, space: str) -> tuple[int, str]:
        return at.remote.checksum(space)

    def is_sync(self, at: Instance, space: str) -> bool:
        return bool(at.remote.space(space).is_sync)

    def create_user(self, at: Instance, name: str, password: str) -> bool:
        request = auth_pb2.CreateUserRequest(name=name, password=password, timeout=seconds(CALL_S))
        return bool(at.remote.call(at.remote.auth.CreateUser, request, CALL_S + GRACE_S).created)

    def grant(self, at: Instance, name: str, *what: str) -> bool:
        words, kind, of = _object(what)
        request = auth_pb2.GrantRequest(grantee=name, privileges=[words], object_type=kind, object=of)
        return bool(at.remote.call(at.remote.auth.Grant, request, CALL_S).granted)

    def revoke(self, at: Instance, name: str, *what: str) -> bool:
        words, kind, of = _object(what)
        request = auth_pb2.RevokeRequest(grantee=name, privileges=[words], object_type=kind, object=of)
        return bool(at.remote.call(at.remote.auth.Revoke, request, CALL_S).revoked)

    def close(self) -> None:
        """Channels belong to the instances."""

    def restart_upstream(self, at: Instance, upstream: str) -> None:
        request = control_pb2.RestartUpstreamRequest(instance=upstream)
        at.remote.call(at.remote.control.RestartUpstream, request)

    def set_option(self, at: Instance, key: str, value: str, *, force: bool = False) -> Changes:
        request = control_pb2.SetConfigRequest(key=key, value=value, force=force)
        return self._changes(at.remote.call(at.remote.control.SetConfig, request))

    def reload(self, at: Instance) -> Changes:
        request = control_pb2.ReloadConfigRequest()
        return self._changes(at.remote.call(at.remote.control.ReloadConfig, request))

    def _changes(self, reply: Any) -> Changes:
        in_use = {one.key: json.loads(one.after or "null") for one in reply.options if not one.needs_restart}
        return in_use, list(reply.warnings)


def _field(text: str) -> Any:
    name, _, kind = text.partition(":")
    return schema_pb2.FieldDef(name=name, type=kind)


def _schema_change(verb: str, body: Mapping[str, Any]) -> Any:
    """create_space or create_index; parts are names."""
    if verb == "create_space":
        return schema_pb2.CreateSpaceRequest(name=body["name"])
    parts = [schema_pb2.KeyPart(name=part) for part in body.get("parts", ())]
    return schema_pb2.CreateIndexRequest(space=body["space"], name=body["name"], parts=parts)


HANDS: Final[Mapping[str, type[Hand]]] = {hand.name: hand for hand in (CommandLine, PythonClient, Stub)}


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


REFUSED: Final = (SynchroError, Lost)

EACH_HAND: Final = [
    name if name == CommandLine.name else pytest.param(name, marks=pytest.mark.long) for name in HANDS
]
"""For fixtures and tests: the command line each time, the others in the long run."""
