"""`synchro demo`: a set that lives as long as the command.

Its instances are ended by the process ids that were recorded, also after an exception.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from synchro.cli import processes
from synchro.cli.connection import options
from synchro.cli.demo_set import (
    FIRST_PORT,
    START_S,
    DemoFailed,
    connect_to,
    log_lines,
    picture_of,
    say,
    show_members,
    start,
    wait_for,
    wait_leader,
    write_config,
)
from synchro.cli.failover import Failover
from synchro.cli.process_table import Target
from synchro.cli.signals import ENDING, interrupt_at_signals
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from synchro.client import Client

START_TRIES: Final = 3


def run(*, script: str, once: bool, nodes: int, is_async: bool) -> int:
    """The exit code: 0 only if everything that was promised held."""
    interrupt_at_signals()
    directory = Path(tempfile.mkdtemp(prefix="synchro-demo-"))
    target: Target | None = None
    code = 1
    try:
        say(f"{nodes} instances in {directory}")
        for attempt in range(START_TRIES):
            target = write_config(directory / f"try{attempt}", nodes, is_async=is_async, usual=not attempt)
            try:
                start(target)
                break
            except DemoFailed as error:
                # Somebody else took a port between our look at it and the start of the instance.
                if "ALREADY_RUNNING" not in str(error) or attempt == START_TRIES - 1:
                    raise
                processes.stop(target, timeout_s=10, kill=True)
        assert target is not None
        with connect_to(target) as db:
            if is_async:
                _show_async(db, target)
            elif script == "failover":
                Failover(db, target).run()
            else:
                _show(db, target)
            code = 0
            if not once:
                say("\nCtrl-C ends it and removes its files.")
                while True:
                    time.sleep(1)
    except KeyboardInterrupt:
        say("")
    except DemoFailed as error:
        say(f"\nFAILED: {error}")
        code = 1
    except SynchroError as error:
        say(f"\nFAILED: {error.reason}: {error.message}")
        code = 1
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        if target is not None:
            if code:
                _show_logs(target)
            processes.stop(target, timeout_s=10, kill=True)
        shutil.rmtree(directory, ignore_errors=True)
    return code


def _endpoint_option(target: Target) -> str:
    listens = [i.settings.listen for i in target.config.instances.values()]
    usual = [f"127.0.0.1:{FIRST_PORT + i}" for i in range(len(listens))]
    return "" if listens == usual and len(listens) <= 3 else f"-e {','.join(listens)} "


def _show(db: Client, target: Target) -> None:
    nodes = len(target.names)
    picture = wait_leader(db, nodes)
    show_members(picture)
    db.create_space("bands", sync=True, format=["id:unsigned", "name:string", "year:unsigned"])
    db.create_index("bands", "primary", parts=["id"])
    started = time.perf_counter()
    with db.transaction() as tx:
        tx.insert("bands", [1, "Roxette", 1986])
        tx.insert("bands", [2, "Scorpions", 1965])
        tx.insert("bands", [3, "ABBA", 1972])
    took_s = time.perf_counter() - started
    counts = [db.checksum("bands", instance=name).count for name in target.names]
    confirmed = max(picture.quorum, sum(1 for count in counts if count == 3))
    say(
        f"space 'bands' (sync) created, 3 tuples written, confirmed by {confirmed} of {nodes} "
        f"in {took_s * 1000:.1f} ms"
    )
    where = _endpoint_option(target)
    say(f"Try:  synchro {where}status | synchro {where}queue --watch | synchro demo --script failover")


def _show_async(db: Client, target: Target) -> None:
    """Master-master: every instance writes, all end with the same rows."""
    from synchro.client import connect

    listens = [i.settings.listen for i in target.config.instances.values()]
    wait_for(
        "all instances being writable",
        START_S,
        lambda: all(not (m.info or {"ro": True})["ro"] for m in picture_of(db).members),
    )
    show_members(picture_of(db))
    with connect(listens[0], follow_leader=False, timeout=10) as first:
        first.create_space("bands", format=["id:unsigned", "name:string"])
        first.create_index("bands", "primary", parts=["id"])

    def has_index(name: str) -> bool:
        try:
            spaces = db.spaces("bands", instance=name)
        except SynchroError:
            return False
        return bool(spaces and spaces[0].indexes)

    wait_for("the space on all instances", START_S, lambda: all(has_index(name) for name in target.names))
    for number, listen in enumerate(listens, 1):
        with connect(listen, follow_leader=False, timeout=10) as one:
            one.space("bands").insert([number, f"written on {target.names[number - 1]}"])
    wait_for(
        "all rows on all instances",
        START_S,
        lambda: all(db.checksum("bands", instance=n).count == len(listens) for n in target.names),
    )
    sums = {db.checksum("bands", instance=name).checksum for name in target.names}
    if len(sums) != 1:
        raise DemoFailed(f"the instances differ: {sums}")
    say(f"every instance wrote one tuple into 'bands' (async); all {len(listens)} hold all of them")


def _show_logs(target: Target) -> None:
    for name in target.names:
        lines = log_lines(target, name)[-5 if not options.verbose else -50 :]
        say(f"--- end of the log of {name}")
        for line in lines:
            say(line)
