"""Words that print what is seen of the instances."""

from __future__ import annotations

from tests.scenarios import show
from tests.scenarios.script import ScenarioError
from tests.scenarios.vocabulary import Run, word
from tests.scenarios.world import Pair


class SightWords(Run):
    @word("rows N SPACE [NAME]")
    def rows(self, number: int, space: str, mode: str | None) -> None:
        """The committed tuples, in the order of the primary key; with `read-committed` also what waits."""
        if mode not in (None, "read-committed"):
            raise ScenarioError(f"no kind of read: {mode!r}")
        memtx = self.instance(number).memtx
        found = [*memtx.select(self.space(number, space), prepared=mode is not None)]
        for value in found:
            self.tell(show.value(value))
        if not found:
            self.tell("none")

    @word("vclock N")
    def vclock(self, number: int) -> None:
        """Without local rows."""
        self.tell(show.vclock(self.instance(number).vclock))

    @word("vclocks")
    def vclocks(self) -> None:
        """Of all that are up; one line if they are equal."""
        found = {n: show.vclock(m.instance.vclock) for n, m in sorted(self.world.members.items())}
        if len(set(found.values())) == 1:
            self.tell(f"all {next(iter(found.values()))}")
        else:
            for number, text in found.items():
                self.tell(f"{number} {text}")

    @word("compare SPACE")
    def compare(self, space: str) -> None:
        """Do all that are up have the same tuples?"""
        found = {n: show.value(self.world.rows(n, self.space(n, space))) for n in sorted(self.world.members)}
        if len(set(found.values())) == 1:
            self.tell("all equal")
        else:
            for number, text in found.items():
                self.tell(f"{number} {text}")

    @word("log N [COUNT]")
    def log(self, number: int, skip: int | None) -> None:
        """The rows of the log of N, without the first COUNT transactions."""
        for txn in self.world.members[number].wal[skip or 0 :]:
            for line in show.rows(txn, self.instance(number)):
                self.tell(line)

    @word("to-send PAIR")
    def to_send(self, pair: Pair) -> None:
        """What the relay of this link has for its subscriber now."""
        self.tell(show.txn_ids(self.world.would_send(*self.link(pair))))

    @word("upstream N")
    def upstream(self, number: int) -> None:
        """Whom N follows, and which of these streams are connected."""
        member = self.world.members[number]
        for source in sorted(a for a, b in self.world.wanted if b == number):
            stands = (source, number) in self.world.links
            status = "stopped" if source in member.stopped else "follow" if stands else "disconnected"
            self.tell(f"{source} {status}")

    @word("may-write N")
    def may_write(self, number: int) -> None:
        """Whether N takes writes, and why not."""
        self.tell(show.may_write(self.instance(number)))

    @word("queue N")
    def queue(self, number: int) -> None:
        """The queue as N sees it."""
        self.tell(show.queue(self.instance(number)))

    @word("election N")
    def election(self, number: int) -> None:
        """Role, term and leader as N sees them."""
        self.tell(show.election(self.instance(number)))

    @word("registered N")
    def registered(self, number: int) -> None:
        """The members that N knows, with their names."""
        for number_of, (_, name) in sorted(self.instance(number).memtx.catalog.members().items()):
            self.tell(f"{number_of} {name}")

    @word("spaces N")
    def spaces(self, number: int) -> None:
        """The spaces of users that N has."""
        for space in self.instance(number).memtx.catalog.spaces():
            if not space.is_system:
                self.tell(f"{space.id} {space.name}")
