"""Faults, one at a time, with a look at whether each one bit."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from synchro.errors import SynchroError
from tests.e2e.cluster import Cluster, Instance, eventually, soon_s
from tests.e2e.remote import Lost
from tests.jepsen_like.history import History

KINDS: Final = ("kill", "pause", "partition", "deaf", "mute")
"""deaf: it hears nobody, and all hear it; mute: nobody hears it, and it hears all."""
PERIOD_S: Final = 3.0
FAULT_S: Final = 1.5


class Nemesis(threading.Thread):
    """Every `period_s` a fault of one of `kinds` on one instance, every other time the owner."""

    def __init__(
        self,
        cluster: Cluster,
        history: History,
        kinds: list[str],
        over: threading.Event,
        seed: int,
        period_s: float = PERIOD_S,
    ) -> None:
        super().__init__(name="nemesis", daemon=True)
        self.cluster = cluster
        self.history = history
        self.kinds = kinds
        self.over = over
        self.period_s = period_s
        self.rng = random.Random(seed)
        self.planned = 0
        self.bites = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.over.wait(self.period_s - FAULT_S):
                kind = self.kinds[self.planned % len(self.kinds)]
                target = self.choose_target()
                self.planned += 1
                self.history.add("nemesis", "invoke", kind, target.name)
                bit = getattr(self, f"_{kind}")(target)
                self.bites += bool(bit)
                self.history.add("nemesis", "info", kind, {"node": target.name, "bit": bool(bit)})
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            self.failure = error

    def choose_target(self) -> Instance:
        owner = self.owner() if self.planned % 2 == 0 else None
        return owner or self.rng.choice(list(self.cluster))

    def owner(self) -> Instance | None:
        for instance in self.cluster:
            try:
                info = instance.remote.info(timeout=1)
            except (SynchroError, Lost):
                continue
            if info["synchro"] and info["synchro"]["queue"]["owner"] == info["id"] and not info["ro"]:
                return instance
        return None

    def linked(self, target: Instance) -> list[Instance]:
        """Who follows it."""
        return [instance for instance in self.cluster if instance is not target]

    def _kill(self, target: Instance) -> bool:
        process = target.process
        assert process is not None
        target.kill()
        gone = process.returncode == -9
        self.over.wait(FAULT_S)
        target.start()
        return gone

    def _pause(self, target: Instance) -> bool:
        assert target.process is not None
        target.pause()
        state = Path(f"/proc/{target.process.pid}/stat")

        def is_stopped() -> bool:
            return state.read_text().rpartition(")")[2].split()[0] == "T"

        eventually("it stands still", is_stopped)
        self.over.wait(FAULT_S)
        still = is_stopped()
        target.resume()
        return still

    def _partition(self, target: Instance) -> bool:
        target.remote.partition()
        for other in self.linked(target):
            other.remote.partition(target.name)

        def is_alone() -> bool:
            parts: dict[Any, Any] = target.remote.info("replication")
            return not any(part.get("upstream", {}).get("status") == "follow" for part in parts.values())

        eventually("its links are silent", is_alone)
        self.over.wait(FAULT_S)
        alone = is_alone()
        for instance in self.cluster:
            instance.remote.heal()
        return alone

    def _deaf(self, target: Instance) -> bool:
        return self._one_way(target, [target], "IN")

    def _mute(self, target: Instance) -> bool:
        return self._one_way(target, self.linked(target), "OUT")

    def _one_way(self, target: Instance, listeners: list[Instance], way: str) -> bool:
        """`listeners` follow those no more that they do not hear."""
        target.remote.partition(way=way)

        def is_silent() -> bool:
            for listener in listeners:
                parts: dict[Any, Any] = listener.remote.info("replication")
                unheard = [part for part in parts.values() if way == "IN" or part["name"] == target.name]
                if any(part.get("upstream", {}).get("status") == "follow" for part in unheard):
                    return False
            return True

        eventually("its links are silent one way", is_silent)
        self.over.wait(FAULT_S)
        silent = is_silent()
        target.remote.heal()
        return silent

    def heal(self) -> None:
        """At the end: everything runs and reaches everything."""
        for instance in self.cluster:
            if not instance.is_running:
                instance.start()
            instance.resume()
            if self.cluster.faults:
                eventually("it heals", partial(lambda i: i.remote.heal() or True, instance), soon_s())


def let_loose(
    nemesis: Nemesis, workers: Sequence[threading.Thread], seconds: float, over: threading.Event
) -> None:
    """The nemesis, if it has any faults, ends first: the workers see what becomes of the last one. over: ends
    the workers."""
    for worker in workers:
        worker.start()
    if nemesis.kinds:
        nemesis.start()
    time.sleep(seconds)
    nemesis.over.set()
    if nemesis.kinds:
        nemesis.join(soon_s(20))
    over.set()
    for worker in workers:
        worker.join(soon_s(10))
