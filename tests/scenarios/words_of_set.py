"""Words for the set, its links, time, files and members."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from synchro.config import ElectionMode, FencingMode, QuorumFormula
from synchro.errors import SynchroError
from synchro.ids import CallId
from synchro.instance import events as ev
from tests.scenarios import arguments, show
from tests.scenarios.box import Box
from tests.scenarios.first_start import ballot_of
from tests.scenarios.script import ScenarioError
from tests.scenarios.vocabulary import Run, word
from tests.scenarios.world import Pair, World

_FLAGS: dict[str, bool] = {"yes": True, "no": False}
SETTINGS: dict[str, tuple[str, Callable[[str], object]]] = {
    "quorum": ("synchro_quorum", QuorumFormula),
    "mode": ("election_mode", ElectionMode),
    "fencing": ("election_fencing_mode", FencingMode),
    "read_only": ("read_only", _FLAGS.__getitem__),
    "skip_conflict": ("skip_conflict", _FLAGS.__getitem__),
    "snapshots": ("checkpoint_count", int),
    "queue_bytes": ("synchro_queue_max_size", int),
}


def _settings(options: dict[str, str]) -> dict[str, object]:
    found = {}
    for key, text in options.items():
        if key not in SETTINGS:
            raise ScenarioError(f"no setting {key!r}; there are {', '.join(SETTINGS)}")
        field, read = SETTINGS[key]
        try:
            found[field] = read(text)
        except (KeyError, ValueError, SynchroError) as error:
            raise ScenarioError(f"no value of {key}: {text!r}") from error
    return found


class SetWords(Run):
    # --- the set

    @word("members COUNT [OPTIONS]")
    def members(self, count: int, options: dict[str, str]) -> None:
        """Instances 1 to COUNT of a set, all up, each following each. Spaces are `sync`, `async` and `local`,
        elections off unless an option says otherwise."""
        if self._world is not None or not 1 <= count <= 31:
            raise ScenarioError("a scenario has one set, of 1 to 31 members")
        pairs = arguments.pairs("all", range(1, count + 1))
        self._world = World(count, pairs, self.tell_once, _settings(options))

    @word("settings N OPTIONS")
    def settings(self, number: int, options: dict[str, str]) -> None:
        """Change settings of one instance, while it runs or for its next start."""
        box = self.box(number)
        self.world.change(number, replace(box.settings, **_settings(options)))  # type: ignore[arg-type]

    @word("follow PAIRS")
    def follow(self, text: str) -> None:
        """From now on rows flow so: `1->2` means that 2 follows 1."""
        self.world.add_links(arguments.pairs(text, sorted(self.world.boxes)))

    @word("unfollow PAIRS")
    def unfollow(self, text: str) -> None:
        """These streams end, and do not come again."""
        self.world.remove_links(arguments.pairs(text, sorted(self.world.boxes)))

    @word("cut N N")
    def cut(self, a: int, b: int) -> None:
        """The network between two instances breaks, in both directions."""
        self.box(a), self.box(b)
        self.world.cut(a, b)

    @word("isolate N")
    def isolate(self, number: int) -> None:
        """The network between this instance and all others breaks."""
        self.box(number)
        self.world.isolate(number)

    @word("heal")
    def heal(self) -> None:
        """The network is whole again, and lost streams begin anew."""
        self.world.heal()

    @word("restart-applier N N")
    def restart_applier(self, target: int, source: int) -> None:
        """`restart-applier 2 1`: 2 follows 1 again after its applier stopped."""
        self.world.follow_again(target, source)

    @word("leave-out N TEXT")
    def leave_out(self, number: int, text: str) -> None:
        """A row such as `1:3`, at which a stream of N stands, becomes a Nop there when it is restarted."""
        self.instance(number)
        self.world.step(number, ev.SkipGranted(arguments.txn_id(text)))

    # --- time and order

    @word("deliver PAIR [COUNT]")
    def deliver(self, pair: Pair, count: int | None) -> None:
        """What waits on one link arrives, or COUNT transactions of it. Prints which."""
        source, target = self.link(pair)
        self.world.deliver(source, target, limit=count)
        self.tell(f"carries {show.txn_ids(self.world.carried)}")

    @word("settle")
    def settle(self) -> None:
        """All is delivered and written until nothing moves."""
        self.world.settle()

    @word("hold PAIRS")
    def hold(self, text: str) -> None:
        """These streams carry nothing for now, in either direction, but do not break."""
        self.world.held.update(map(self.link, arguments.pairs(text, sorted(self.world.members))))

    @word("let-go PAIRS")
    def let_go(self, text: str) -> None:
        """Held streams go on."""
        for pair in arguments.pairs(text, sorted(self.world.members)):
            self.world.let_go(*pair)

    @word("slow N")
    def slow(self, number: int) -> None:
        """From now on this disk writes on `write-out` only."""
        self.instance(number)
        self.world.slow.add(number)

    @word("write-out N")
    def write_out(self, number: int) -> None:
        """The slow disk of N catches up."""
        self.instance(number)
        self.world.write_out(number)

    @word("fast N")
    def fast(self, number: int) -> None:
        """The disk writes at once again."""
        self.world.slow.discard(number)

    @word("full N")
    def full(self, number: int) -> None:
        """The disk of N takes no more rows."""
        self.instance(number)
        self.world.boxes[number].is_full = True

    @word("room N")
    def room(self, number: int) -> None:
        """The disk of N has room again."""
        self.box(number).is_full = False

    @word("wait COUNT seconds")
    def wait(self, seconds: int) -> None:
        """Time passes: timers ring and heartbeats flow."""
        self.world.run_for(seconds)

    # --- life and files

    @word("kill N")
    def kill(self, number: int) -> None:
        """The process dies; what it has written stays."""
        self.instance(number)
        self.world.end(number)

    @word("hang N")
    def hang(self, number: int) -> None:
        """Its process is alive and does nothing: nothing comes from it, and nothing is taken."""
        self.instance(number)
        self.world.hung.add(number)

    @word("go-on N")
    def go_on(self, number: int) -> None:
        """The hung N goes on, with all that came meanwhile."""
        self.instance(number)
        self.world.go_on(number)

    @word("power-cut N")
    def power_cut(self, number: int) -> None:
        """The machine dies; what was not synced is gone."""
        self.instance(number)
        self.world.end(number, power=True)

    @word("stop N")
    def stop(self, number: int) -> None:
        """A clean stop."""
        self.instance(number)
        self.world.stop(number)

    @word("start N")
    def start(self, number: int) -> None:
        """Recover from the disk. Prints why not, if it does not start."""
        if number not in self.world.down:
            raise ScenarioError(f"instance {number} is not down")
        try:
            self.world.start(number)
        except SynchroError as error:
            self.tell(f"{number} does not start: {error.reason}")

    @word("snapshot N")
    def snapshot(self, number: int) -> None:
        """Write one. Prints its vclock."""
        box = self.box(number)
        self.tell(f"at {show.vclock(box.snapshot(self.instance(number), self.world.now))}")

    @word("clean-log N")
    def clean_log(self, number: int) -> None:
        """Delete what nobody needs of the log. Prints how many files went."""
        gone = self.world.boxes[number].collect(self.instance(number).registered)
        self.tell(f"{gone} deleted")

    @word("tear N COUNT")
    def tear(self, number: int, count: int) -> None:
        """The last COUNT writes of N, which is down, are gone, but for some bytes of the first of them."""
        self._down(number).tear(count)

    @word("flip N NAME")
    def flip(self, number: int, kind: str) -> None:
        """A wrong bit in the `first` or `last` write of the last life of N, or in its newest `snapshot`."""
        if kind not in ("first", "last", "snapshot"):
            raise ScenarioError(f"flip first, last or snapshot, not {kind!r}")
        self._down(number).flip(kind)

    @word("delete-files N NAME")
    def delete_files(self, number: int, kind: str) -> None:
        """The newest `log` or `snapshot` of N, which is down, is gone; or all its `data`."""
        if kind not in ("log", "snapshot", "data"):
            raise ScenarioError(f"delete-files log, snapshot or data, not {kind!r}")
        self._down(number).unlink(kind)

    @word("copy-files N")
    def copy_files(self, number: int) -> None:
        """Keep a copy of the files of N, which is down."""
        box = self._down(number)
        box.copy = box.disk.clone()

    @word("put-back-files N")
    def put_back_files(self, number: int) -> None:
        """The copy takes the place of the files of N, which is down."""
        box = self._down(number)
        if box.copy is None:
            raise ScenarioError(f"no files of {number} were copied")
        box.disk = box.copy.clone()

    def _down(self, number: int) -> Box:
        if number not in self.world.down:
            raise ScenarioError(f"instance {number} is not down")
        return self.world.boxes[number]

    # --- members

    @word("join N from N")
    def join(self, number: int, source: int) -> CallId:
        """An instance without data gets it from a member and starts; it follows as `follow` says. One that
        has to wait for its registration asks again later."""
        self.instance(source)
        if number in self.world.members:
            raise ScenarioError(f"instance {number} is up")
        call = self.world.join_set(number, source)
        self.labels[call] = f"join of {number}:"
        return call

    @word("anonymous N from N [OPTIONS]")
    def anonymous(self, number: int, source: int, options: dict[str, str]) -> None:
        """An instance without data takes a snapshot, is not registered, and starts; it follows as `follow`
        says. Options as for `settings`."""
        self.instance(source)
        if number in self.world.members:
            raise ScenarioError(f"instance {number} is up")
        self.world.take_snapshot(number, source)
        if options:
            self.settings(number, options)

    @word("register N from N")
    def register(self, number: int, source: int) -> CallId:
        """The anonymous N asks a member to make it one; it is one when the row has come to it."""
        self.instance(source)
        if not self.instance(number).is_anonymous:
            raise ScenarioError(f"instance {number} is a member")
        call = self.world.register(number, source)
        self.labels[call] = f"registration of {number}:"
        return call

    @word("newcomer N of COUNT [OPTIONS]")
    def newcomer(self, number: int, total: int, options: dict[str, str]) -> None:
        """An instance without data, one of COUNT in its configuration. Options: read_only, mode, strategy,
        leader, connect_quorum, anon; `set=lost` if it lost the data of the set."""
        self._first.add(number, total, options)

    @word("looks N [TEXT]")
    def looks(self, number: int, text: str | None) -> None:
        """`looks 1 2 3 late`: newcomer 1 sees the ballots of 2 and 3; `late` is after `connect_timeout`,
        `told` while a person tells it to make the set. Prints what it does."""
        names = (text or "").split()
        flags = {name for name in names if name in ("late", "told")}
        if number not in self._first.ballots:
            raise ScenarioError(f"{number} is no newcomer")
        seen = {}
        for name in names:
            if name in flags:
                continue
            peer = int(name) if name.isdecimal() else 0
            if self._world is not None and peer in self._world.members:
                seen[peer] = ballot_of(self._world[peer], self._world.boxes[peer].settings)
            elif peer in self._first.ballots:
                seen[peer] = self._first.ballots[peer]
            else:
                raise ScenarioError(f"{name!r} is neither up nor a newcomer")
        found = self._first.look(number, seen, is_time_over="late" in flags, is_told="told" in flags)
        self.tell(found)
