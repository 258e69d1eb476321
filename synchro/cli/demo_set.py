"""The sets of `synchro demo`: their configuration, their start, and what is asked of them.

The instances are real processes with durable files. They are started before gRPC is imported here.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from synchro.cli import processes
from synchro.cli.process_table import CONFIG_NAME, Target, parse_target

if TYPE_CHECKING:
    from synchro.cli.picture import Picture
    from synchro.client import Client

FIRST_PORT: Final = 3301
START_S: Final = 40.0
POLL_S: Final = 0.05

_CONFIG: Final = """\
replication:
  failover: {failover}
  timeout: 0.3
  election_timeout: 1
  synchro_timeout: 10
database: {{{mode}txn_synchro_timeout: 10}}
log: {{format: json, level: info}}
credentials: {{users: {{guest: {{roles: [super]}}}}}}  # for a demo: whoever can connect may do everything
groups:
  group001:
    replicasets:
      replicaset001:
        instances:
{members}"""


class DemoFailed(Exception):
    """The demo did not show what it should."""


def write_config(directory: Path, nodes: int, *, is_async: bool, usual: bool = True) -> Target:
    directory.mkdir()
    members = "".join(
        f"          instance{number:03}: {{grpc: {{listen: [{{uri: '127.0.0.1:{port}'}}]}}}}\n"
        for number, port in enumerate(free_ports(nodes, usual=usual), 1)
    )
    path = directory / CONFIG_NAME
    path.write_text(
        _CONFIG.format(
            failover="off" if is_async else "election",
            mode="mode: rw, " if is_async else "",
            members=members,
        ),
        encoding="utf-8",
    )
    return parse_target(path)


def free_ports(count: int, *, usual: bool = True) -> list[int]:
    """The usual ones, so that `synchro status` finds them without -e; others if one of those is taken."""
    choices = [list(range(FIRST_PORT, FIRST_PORT + count))] if usual else []
    for ports in (*choices, [0] * count):
        taken = []
        try:
            for port in ports:
                taken.append(socket.create_server(("127.0.0.1", port)))
            return [server.getsockname()[1] for server in taken]
        except OSError:
            continue
        finally:
            for server in taken:
                server.close()
    raise DemoFailed("no free ports on 127.0.0.1")


def start(target: Target) -> None:
    done = processes.start(target, timeout_s=START_S)
    for process in done:
        if not process.is_running:
            raise DemoFailed(process.message)


@contextmanager
def connect_to(target: Target) -> Iterator[Client]:
    from synchro.client import connect

    instances = target.config.instances.values()
    with connect([i.settings.listen for i in instances], timeout=15, read_from="any") as db:
        yield db


def picture_of(db: Client) -> Picture:
    from synchro.cli.picture import take_picture

    return take_picture(db)


def wait_for(what: str, limit_s: float, condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + limit_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DemoFailed(f"{what} did not happen within {limit_s:g} s")
        time.sleep(POLL_S)


def wait_leader(db: Client, nodes: int) -> Picture:
    def ready() -> Picture | None:
        picture = picture_of(db)
        leaders = [m for m in picture.members if m.state == "leader" and not (m.info or {"ro": True})["ro"]]
        up = [m for m in picture.members if m.is_ready]
        return picture if len(leaders) == 1 and len(up) == nodes == picture.registered else None

    picture: Picture = wait_for("the election of a leader", START_S, ready)
    return picture


def say(text: str) -> None:
    print(text, flush=True)


def show_members(picture: Picture) -> None:
    for member in sorted(picture.members, key=lambda m: m.name):
        rw = "ro" if (member.info or {"ro": True})["ro"] else "rw"
        term = f"  term {member.election.get('term')}" if member.state == "leader" else ""
        say(f"{member.name} {member.address}  {member.state:<8}  {rw}{term}")


def log_lines(target: Target, name: str) -> list[str]:
    path = target.directory / "var" / "log" / f"{name}.log"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()]
