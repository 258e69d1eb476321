"""The set of one walk-through, and the hand that does its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tests.e2e.cluster import Cluster, Instance, eventually, soon_s
from tests.e2e.tutorials.hands import HANDS, REFUSED, kill, run

PAIR: Final = ("instance001", "instance002")
RW: Final = {"database": {"mode": "rw"}}
RO: Final = {"database": {"mode": "ro"}}
FLAGS_HEARTBEAT_S: Final = 1.0
"""`replication.timeout` of an instance without a file."""


class Walk(Cluster):
    """Instances of a file, or, with `serve`, by flags alone.

    by_verbs: the hand of the command line starts and stops them by `synchro start` and `synchro stop`.
    """

    def __init__(
        self,
        directory: Path,
        hand: str,
        names: Iterable[str] = PAIR,
        *,
        by_verbs: bool = False,
        **how: Any,
    ) -> None:
        super().__init__(directory, names, **how)
        self.hand = HANDS[hand]()
        self.by_verbs = by_verbs and self.hand.is_by_verbs

    @property
    def first(self) -> Instance:
        return self["instance001"]

    @property
    def second(self) -> Instance:
        return self["instance002"]

    # --- processes

    def serve(self, instance: Instance, *sources: Instance, read_only: bool = False) -> Instance:
        """`synchro serve` by flags; returns when it serves."""
        return self.spawn_by_flags(instance, *sources, read_only=read_only).wait_ready()

    def spawn_by_flags(
        self, instance: Instance, *sources: Instance, read_only: bool = False, flags: Sequence[str] = ()
    ) -> Instance:
        given = ["serve", "--name", instance.name, "--listen", instance.address]
        given += ["--data-dir", str(instance.dir)]
        if sources:
            given += ["--replication", ",".join(source.address for source in sources)]
        return instance.spawn(arguments=[*given, *(["--read-only"] if read_only else []), *flags])

    def up(self, *names: str) -> None:
        """Start these, or all, of the file; returns when they serve."""
        chosen = [self[name] for name in names or self.instances]
        if not self.by_verbs:
            for instance in chosen:
                instance.spawn()
            for instance in chosen:
                instance.wait_ready()
            return
        for instance in chosen:
            instance.log_path = self.dir / "var" / "log" / f"{instance.name}.log"
            instance._forget_channel()
        for target in self.targets(names):
            code, out, err = run("start", target)
            assert code == 0, (out, err)

    def down(self, *names: str) -> None:
        """SIGTERM to these, or all."""
        if not self.by_verbs:
            for name in names or self.instances:
                assert self[name].stop() == 0
            return
        for target in self.targets(names):
            code, out, err = run("stop", target)
            assert code == 0, (out, err)
        for name in names or self.instances:
            self[name]._forget_channel()

    def targets(self, names: Iterable[str]) -> list[str]:
        return [f"{self.config_path}:{name}" for name in names] or [str(self.config_path)]

    def kill(self, instance: Instance) -> None:
        if self.by_verbs:
            kill(int(instance.remote.info("pid")))
            instance._forget_channel()
        else:
            instance.kill()

    # --- states

    def item(self, at: Instance, of: Instance) -> dict[str, Any]:
        """What `info replication` of `at` says about `of`."""
        parts = self.hand.info(at, "replication").values()
        return next((part for part in parts if part["name"] == of.name), {})

    def stream(self, at: Instance, of: Instance, direction: str = "upstream") -> dict[str, Any]:
        found: dict[str, Any] = self.item(at, of).get(direction, {})
        return found

    def wait_status(self, at: Instance, of: Instance, status: str, direction: str = "upstream") -> None:
        self.soon(
            f"{direction} of {of.name} on {at.name} is {status}",
            lambda: self.stream(at, of, direction).get("status") == status,
        )

    def wait_mesh(self, *members: Instance) -> None:
        """Each follows each."""
        chosen = members or tuple(self)
        for at in chosen:
            for of in chosen:
                if at is not of:
                    self.wait_status(at, of, "follow")
                    self.wait_status(at, of, "follow", "downstream")

    def wait_rows(self, at: Instance, space: str, rows: list[list[Any]]) -> None:
        self.soon(f"{at.name} has {rows} in {space}", lambda: self.hand.select(at, space) == rows)

    def wait_equal_vclocks(self, *members: Instance) -> dict[int, int]:
        chosen = members or tuple(self)

        def equal() -> dict[int, int]:
            seen = [self.hand.vclock(instance) for instance in chosen]
            return seen[0] if all(one == seen[0] for one in seen) else {}

        vclock: dict[int, int] = self.soon("the vclocks are equal", equal)
        return vclock

    def soon(self, what: str, condition: Callable[[], Any], timeout: float | None = None) -> Any:
        """As `eventually`; a refusal of any kind counts as "not yet"."""

        def tried() -> Any:
            try:
                return condition()
            except REFUSED:
                return None

        return eventually(what, tried, timeout or soon_s(8))

    def wait_record(self, instance: Instance, event: str, **facts: Any) -> dict[str, Any]:
        """A record of its log with these facts."""

        def found() -> dict[str, Any] | None:
            return next(
                (one for one in instance.records(event) if facts.items() <= one.items()),
                None,
            )

        record = eventually(f"{instance.name} logs {event} {facts}", found)
        assert record is not None
        return record

    # --- the end

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hand.close()
        if self.by_verbs:
            code, out, err = run("stop", str(self.config_path), "--kill")
            assert error is not None or code == 0, (out, err)
        super().__exit__(kind, error, trace)


def refusal(call: partial[Any]) -> Any:
    """The error that a call ends with."""
    try:
        call()
    except REFUSED as error:
        return error
    raise AssertionError(f"not refused: {call}")
