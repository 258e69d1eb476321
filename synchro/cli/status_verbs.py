"""Verbs that show the state of a set, and those that change who leads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from synchro.cli import formatting
from synchro.cli.connection import client, options
from synchro.cli.formatting import EXIT_FAILED, EXIT_UNKNOWN, ids, print_table, print_value, seconds, usage
from synchro.cli.verdict import UNKNOWN_NAME, Member, Picture, Verdict, has_elections, judge
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from synchro.cli.processes import Process, Target
    from synchro.client import Client, Queue

WATCH_S: Final = 0.5
PROBE_S: Final = 1.0
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
MISSING_SHOWN: Final = 1
"""Only the first waiting entry names who it waits for: the others wait for the same."""
WatchOption = Annotated[bool, typer.Option("--watch", help="Show it again and again.")]
InstanceOption = Annotated[str, typer.Option("-i", "--instance", help="Ask this one.")]


def register(app: typer.Typer) -> None:
    app.command("status")(status)
    app.command("health")(health)
    app.command("info")(info)
    app.command("queue")(queue)
    app.command("promote")(promote)
    app.command("demote")(demote)
    app.command("wait")(wait)
    app.command("snapshot")(snapshot)
    member = typer.Typer(help="Members of the set.", rich_markup_mode=None, no_args_is_help=True)
    member.command("list")(member_list)
    app.add_typer(member, name="member")
    watch = typer.Typer(help="Streams of changes.", rich_markup_mode=None, no_args_is_help=True)
    watch.command("info")(watch_info)
    app.add_typer(watch, name="watch")
    replication = typer.Typer(help="Streams between members.", rich_markup_mode=None, no_args_is_help=True)
    replication.command("restart")(replication_restart)
    app.add_typer(replication, name="replication")


# --- status ---------------------------------------------------------------------------------------------


def take_picture(db: Client, target: Target | None = None) -> Picture:
    """Ask all instances that are known at once, each with a short deadline."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(endpoint: str) -> Any:
        try:
            return dict(db.get_info(instance=endpoint, timeout=min(PROBE_S, options.timeout_s)))
        except SynchroError as error:
            return error

    def ask_all(endpoints: Sequence[str]) -> dict[str, Any]:
        with ThreadPoolExecutor(max(1, len(endpoints))) as pool:
            return dict(zip(endpoints, pool.map(ask, endpoints), strict=True))

    endpoints = list(dict.fromkeys(db.endpoints))
    answers = ask_all(endpoints)
    names: dict[str, str] = {}
    if target is not None:
        names = {target.config.instance(name).settings.listen: name for name in target.config.instances}
    first = next((endpoint for endpoint, found in answers.items() if isinstance(found, dict)), None)
    if first is not None:
        try:
            for known in db.list_instances(instance=first):
                if known.address:
                    names.setdefault(known.address, known.name)
        except SynchroError:
            pass  # it is loading: what was given is all that is known
    if target is None and not options.direct:
        known_addresses = dict.fromkeys([*names, *_peer_names(answers)])
        more = [address for address in known_addresses if address not in answers]
        answers.update(ask_all(more) if more else {})
    picture = _assemble(answers, names, target)
    if target is None:
        _find_local(picture)
    return picture


def _find_local(picture: Picture) -> None:
    """How those that are down can be started: if all of them belong to this host, and somebody runs there
    who was started from the same file."""
    down = [member for member in picture.members if not member.is_up and not member.foreign]
    ports = {member.address: port for member in picture.members if (port := _port_here(member.address))}
    if not down or any(member.address not in ports for member in down):
        return
    from synchro.cli import processes

    found = processes.local_target(
        {
            ports[member.address]: "" if member.name == UNKNOWN_NAME else member.name
            for member in picture.members
            if member.address in ports
        }
    )
    if found is None:
        return
    picture.local = found
    picture.local_states = {p.name: p.state.value for p in processes.processes(found)}
    names = processes.name_by_port(found)
    for member in down:
        member.name = names[ports[member.address]]


def _port_here(address: str) -> int:
    """0: it is not, or not known to be, an address of this host."""
    host, _, port = address.rpartition(":")
    return int(port) if host in LOOPBACK and port.isdigit() else 0


def _peer_names(answers: Mapping[str, Any]) -> dict[str, str]:
    """Address -> registered name, of those that somebody follows: sources may be plain addresses."""
    return {
        address: part["name"]
        for found in answers.values()
        if isinstance(found, Mapping)
        for part in found["replication"].values()
        if part.get("name") and (address := _address(part))
    }


def _address(part: Mapping[str, Any]) -> str:
    """Where a member is, as far as its streams say."""
    upstream, downstream = part.get("upstream") or {}, part.get("downstream") or {}
    return upstream.get("peer") or downstream.get("address") or ""


def _assemble(answers: Mapping[str, Any], names: Mapping[str, str], target: Target | None) -> Picture:
    names = {**names, **(_peer_names(answers) if target is None else {})}
    processes_of = _processes(target)
    set_uuid = _set_uuid(answers, target)
    by_name: dict[str, Member] = {}
    for address, found in answers.items():
        name = names.get(address, "")
        if isinstance(found, SynchroError):
            shown = name or (UNKNOWN_NAME if target is None else address)
            if shown not in by_name or shown == UNKNOWN_NAME:
                error = found.message.rpartition(": ")[2]
                by_name[shown if shown != UNKNOWN_NAME else address] = Member(shown, address, error=error)
        elif foreign := _foreign(found, name, set_uuid, target, processes_of.get(name)):
            shown = name or found["name"]
            by_name.setdefault(
                shown if target is not None else address, Member(shown, address, foreign=foreign)
            )
        else:
            member = Member(found["name"], address, found["id"] or 0, info=found)
            by_name[member.name] = member
    picture = Picture(list(by_name.values()), target=target)
    # An address nobody of this set has, while somebody answers: it is just not part of it.
    if any(member.is_up for member in picture.members) and target is None:
        picture.members = [member for member in picture.members if member.name != UNKNOWN_NAME]
    authority = picture.authority
    if authority is not None and authority.info is not None:
        picture.replicaset = authority.info["replicaset"].get("name") or ""
        seen = {part.get("name"): part for part in authority.info["replication"].values()}
        for member in picture.members:
            part = {} if member.foreign and target is None else seen.pop(member.name, {})
            member.seen_by_leader = part
            member.id = member.id or part.get("id", 0)
        for name, part in seen.items():
            if name:
                address = _address(part) or "-"
                picture.members.append(Member(name, address, part.get("id", 0), seen_by_leader=part))
    if target is not None:
        for member in picture.members:
            member.process = processes_of.get(member.name)
        picture.replicaset = picture.replicaset or next(
            config.replicaset for config in target.config.instances.values()
        )
    picture.members.sort(key=lambda m: (m.id or 99, m.name))
    return picture


def _processes(target: Target | None) -> dict[str, Process]:
    if target is None:
        return {}
    from synchro.cli import processes

    return {process.name: process for process in processes.processes(target)}


def _set_uuid(answers: Mapping[str, Any], target: Target | None) -> str:
    """UUID of the set that was asked for; "" if nothing says it."""
    if target is not None:
        from synchro.storage.identity import IDENTITY_NAME, decode_identity

        for config in target.config.instances.values():
            try:
                path = Path(config.settings.wal_dir, IDENTITY_NAME)
                uuid = decode_identity(path.read_bytes(), str(path)).replicaset_uuid
            except (OSError, SynchroError):
                continue  # it runs on another host, or never did
            if uuid:
                return uuid
        return ""
    uuids = (found["replicaset"].get("uuid") for found in answers.values() if isinstance(found, Mapping))
    return next((uuid for uuid in uuids if uuid), "")


def _foreign(
    found: Mapping[str, Any], name: str, set_uuid: str, target: Target | None, process: Process | None
) -> str:
    """Who answers, if that is nobody of the set that was asked for; else ""."""
    replicaset = found["replicaset"]
    uuid = replicaset.get("uuid") or ""
    is_other = bool(uuid and set_uuid and uuid != set_uuid)
    if target is not None:
        config = target.config.instances.get(name)
        is_other = is_other or (bool(name) and found["name"] != name)
        is_other = is_other or (
            config is not None and bool(replicaset.get("name")) and replicaset["name"] != config.replicaset
        )
        # No instance of this file has ever run here, and the one that answers is not what we started.
        is_here = process is not None and process.listen.rpartition(":")[0] in LOOPBACK
        if is_here and not set_uuid and process is not None and process.pid != found.get("pid"):
            is_other = True
    if not is_other:
        return ""
    set_name = replicaset.get("name") or "no name"
    return f"{found['name']} of another set ({set_name}, UUID {uuid or 'not known'}, pid {found.get('pid')})"


def status_rows(picture: Picture) -> tuple[list[str], list[list[str]]]:
    with_process = any(member.process is not None for member in picture.members)
    columns = ["ID", "NAME", "ADDRESS", "STATE", "RW", "QUEUE", "VCLOCK", "LAG", "SEEN"]
    if with_process:
        columns.append("PROCESS")
    rows = []
    for member in picture.members:
        row = [
            str(member.id or "-"),
            member.name,
            member.address,
            member.state,
            _rw(member),
            f"owner len {member.queue.get('len', 0)}" if member.owns_queue else "",
            _vclock(member),
            _lag(member, picture),
            _seen(member, picture),
        ]
        if with_process:
            process = member.process
            row.append("-" if process is None else f"{process.state.value} {process.pid or ''}".strip())
        if remark := _remark(member):
            row.append(remark)
        rows.append(row)
    return columns, rows


def _rw(member: Member) -> str:
    if not member.is_ready or member.info is None:
        return ""
    return "ro" if member.info["ro"] else "rw"


def _vclock(member: Member) -> str:
    if member.info is not None:
        return formatting.vclock(member.info["vclock"])
    acked = member.seen_by_leader.get("downstream", {}).get("vclock")
    if acked:
        return formatting.vclock(acked)
    return "-"


def _lag(member: Member, picture: Picture) -> str:
    """Behind whoever knows most, now; not the delay of the last row that arrived."""
    rows, behind_s = picture.rows_behind(member), picture.seconds_behind(member)
    if rows is None:
        return "-"
    return f"{rows} rows" + (f", {seconds(behind_s)}" if rows and behind_s is not None else "")


def _seen(member: Member, picture: Picture) -> str:
    authority = picture.authority
    if member is authority:
        return "now"
    idle = member.seen_by_leader.get("upstream", {}).get("idle")
    if idle is None:
        idle = member.seen_by_leader.get("downstream", {}).get("idle")
    return "-" if idle is None else f"{seconds(idle)} ago"


def _remark(member: Member) -> str:
    if member.foreign:
        return member.foreign
    if member.info is None:
        return member.error
    own = [
        f"{part.get('name')}: {part['upstream'].get('message') or part['upstream']['status']}"
        for part in member.info["replication"].values()
        if part.get("upstream", {}).get("status") == "stopped"
    ]
    return "; ".join(own)


def head_line(picture: Picture) -> str:
    authority = picture.authority
    parts = [picture.replicaset or "replica set"]
    if authority is None:
        return f"{parts[0]}  nobody answers as a member"
    if has_elections(picture):
        parts.append("election")
    elif picture.target is not None or any(member.mode for member in picture.members):
        parts.append("no election")
    parts.append(f"term {max(member.term for member in picture.members)}")
    parts.append(f"quorum {picture.quorum} of {picture.registered}")
    return "  ".join(parts)


def _record(member: Member, picture: Picture) -> dict[str, Any]:
    found = member.info or {}
    rows = picture.rows_behind(member)
    return {
        "id": member.id or None,
        "name": member.name,
        "address": member.address,
        "state": member.state,
        "rw": member.is_up and not found.get("ro", True),
        "ro_reason": found.get("ro_reason"),
        "term": member.election.get("term"),
        "queue": dict(member.queue) or None,
        "vclock": {str(i): lsn for i, lsn in found.get("vclock", {}).items()} or None,
        "lag": None if rows is None else {"rows": rows, "seconds": picture.seconds_behind(member)},
        "acknowledges": picture.acknowledges(member),
        "error": member.foreign or member.error or None,
        "pid": member.process.pid if member.process is not None else found.get("pid"),
        "process": member.process.state.value if member.process is not None else None,
    }


def status_text(picture: Picture) -> list[str]:
    columns, rows = status_rows(picture)
    return [head_line(picture), *formatting.table_lines(columns, rows), *judge(picture).lines()]


def print_status(picture: Picture) -> None:
    if options.output == "table":
        for line in status_text(picture):
            print(line)
        return
    found = judge(picture)
    print_value(
        {
            "replicaset": picture.replicaset,
            "quorum": picture.quorum,
            "registered": picture.registered,
            "instances": [_record(member, picture) for member in picture.members],
            **_verdict_record(found),
        }
    )


def _verdict_record(found: Verdict) -> dict[str, Any]:
    return {
        "writable": found.writable,
        "may_fail": found.may_fail,
        "next": found.command or None,
        "problems": [problem.as_record() for problem in found.problems],
        "verdict": " ".join(found.lines()),
    }


def health(
    rw: Annotated[bool, typer.Option("--rw", help="Writes are taken, and enough acknowledge them.")] = False,
    read: Annotated[bool, typer.Option("--read", help="Somebody can be read.")] = False,
    quorum: Annotated[bool, typer.Option("--quorum", help="A quorum answers and is trusted.")] = False,
) -> int:
    """Exit code 0 or 1, for scripts and probes. Without an option: writes are taken and nothing is wrong.

    It asks the whole set; with --direct only the instances of -e.
    """
    with client() as db:
        found = judge(take_picture(db))
    asked = [
        ok
        for wanted, ok in ((rw, found.writable), (read, found.readable), (quorum, found.has_quorum))
        if wanted
    ]
    healthy = all(asked) if asked else found.writable and not found.problems
    if options.output == "table":
        print("\n".join(["healthy" if healthy else "not healthy", *found.lines()]))
    else:
        print_value({"healthy": healthy, **_verdict_record(found)})
    return 0 if healthy else EXIT_FAILED


def status(
    config: Annotated[str, typer.Argument(metavar="[CONFIG]", help="Shows processes too.")] = "",
    watch: WatchOption = False,
) -> int:
    """All instances, and a verdict in words. Exit code 3 if nobody answers."""
    target = None
    if config:
        from synchro.cli import processes

        target = processes.parse_target(config)
        if "endpoints" not in options.given:
            options.endpoints = ",".join(i.settings.listen for i in target.config.instances.values())
    with client() as db:
        if watch:
            _watch(lambda: status_text(take_picture(db, target)))
            return 0
        picture = take_picture(db, target)
    print_status(picture)
    return 0 if any(member.is_up for member in picture.members) else formatting.EXIT_NO_CONNECTION


def _watch(lines: Callable[[], Sequence[str]]) -> None:
    """Show it again until Ctrl-C: in place on a terminal, one after another elsewhere."""
    if not formatting.is_terminal():
        while True:
            print("\n".join(_safe(lines)), flush=True)
            print(flush=True)
            time.sleep(WATCH_S)
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(Text("..."), console=Console(), screen=False, auto_refresh=False) as live:
        while True:
            live.update(Text("\n".join(_safe(lines))), refresh=True)
            time.sleep(WATCH_S)


def _safe(lines: Callable[[], Sequence[str]]) -> Sequence[str]:
    try:
        return lines()
    except SynchroError as error:
        return [f"error: {formatting.shown_reason(error)}: {error.message}"]


# --- info, queue ------------------------------------------------------------------------------------------


def info(
    path: Annotated[
        str, typer.Argument(metavar="[PATH]", help="synchro, replication.2.upstream, ro, ...")
    ] = "",
    instance: InstanceOption = "",
) -> None:
    """The tree of `box.info` of one instance, or a part of it."""
    with client() as db:
        value = db.get_info(path, instance=instance or None)
    print_value(value)


def queue_lines(
    queue: Queue, names: Mapping[int, str], spaces: Mapping[int, str], down: Mapping[int, str]
) -> list[str]:
    if not queue.owner:
        return [f"nobody owns the queue  term {queue.term}  quorum {queue.quorum}"]
    owner = names.get(queue.owner, "")
    lines = [
        f"owner {queue.owner}{f' ({owner})' if owner else ''}  term {queue.term}  len {queue.len}  "
        f"size {formatting.size(queue.size)}  age {queue.age_s:.1f} s  "
        f"confirm_lag {queue.confirm_lag_s:.3f} s  busy {'yes' if queue.busy else 'no'}  "
        f"quorum {queue.quorum}"
    ]
    if not queue.entries:
        return lines
    rows = []
    for number, entry in enumerate(queue.entries):
        txn = f"{entry.txn[0]}:{entry.txn[1]}" if entry.txn else "-"
        row = [
            txn,
            ",".join(spaces.get(i, str(i)) for i in entry.space_ids),
            str(entry.rows),
            f"{entry.age_s:.1f} s",
            f"{len(entry.acked_by)} of {queue.quorum} {ids(entry.acked_by)}",
        ]
        if number < MISSING_SHOWN and entry.missing and len(entry.acked_by) < queue.quorum:
            wanted = queue.quorum - len(entry.acked_by)
            missing = ", ".join(f"{i}{down.get(i, '')}" for i in sorted(entry.missing))
            row.append(f"waiting for {'one' if wanted == 1 else wanted} of {{{missing}}}")
        rows.append(row)
    lines += formatting.table_lines(("TXN", "SPACE", "ROWS", "AGE", "ACKS"), rows)
    if queue.len > len(queue.entries):
        lines.append(f"... and {queue.len - len(queue.entries)} more")
    return lines


def queue_text(db: Client, instance: str | None = None, limit: int = 20) -> list[str]:
    reply = db.list_queue(instance=instance, limit=limit)
    replication = db.get_info("replication", instance=instance)
    names = {part["id"]: part["name"] or "" for part in replication.values()}
    down = {}
    for part in replication.values():
        upstream = part.get("upstream") or {}
        if upstream.get("status") not in (None, "follow", "sync"):
            down[part["id"]] = f": down {upstream.get('idle', 0):.1f} s"
    spaces: dict[int, str] = {}
    if reply.entries:
        try:
            spaces = {space.id: space.name for space in db.spaces(with_system=True, instance=instance)}
        except SynchroError:
            spaces = {}
    return queue_lines(reply, names, spaces, down)


def _owner_endpoint(db: Client) -> str:
    """The owner of the queue shows who has acknowledged what; others only know what they have."""
    return db.most_informed()


def queue(
    watch: WatchOption = False,
    instance: InstanceOption = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=2**32 - 1, help="Entries to show.")] = 100,
) -> None:
    """The queue of synchronous transactions: its owner, and what waits for whom."""
    with client(read_from="leader") as db:
        if watch:
            _watch(lambda: queue_text(db, instance or _owner_endpoint(db), limit))
            return
        place = instance or _owner_endpoint(db)
        if options.output == "table":
            for line in queue_text(db, place, limit):
                print(line)
            return
        reply = db.list_queue(instance=place, limit=limit)
    print_value(
        {
            "queue": {
                "owner": reply.owner,
                "term": reply.term,
                "len": reply.len,
                "size": reply.size,
                "busy": reply.busy,
                "age": reply.age_s,
                "confirm_lag": reply.confirm_lag_s,
            },
            "quorum": reply.quorum,
            "entries": [
                {
                    "txn": f"{e.txn[0]}:{e.txn[1]}" if e.txn else None,
                    "space_ids": list(e.space_ids),
                    "rows": e.rows,
                    "size": e.size,
                    "age": e.age_s,
                    "acked_by": list(e.acked_by),
                    "missing": list(e.missing),
                    "is_sync": e.is_sync,
                }
                for e in reply.entries
            ],
        }
    )


# --- who leads ----------------------------------------------------------------------------------------------


def _names(db: Client, instance: str | None) -> dict[int, str]:
    try:
        parts = db.get_info("replication", instance=instance)
        return {part["id"]: part["name"] or str(part["id"]) for part in parts.values()}
    except SynchroError:
        return {}


def promote(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Default: the first of -e.")] = "",
) -> None:
    """Make an instance the owner of the queue, and the leader."""
    with client() as db:
        timeout = options.timeout_s if options.timeout else None
        queue = (db.get_info("", instance=name or None).get("synchro") or {}).get("queue") or {}
        before = queue.get("term", 0)  # while it loads there is none, and promote says why it is refused
        started = time.monotonic()
        reply = db.promote(name or None, timeout=timeout)
        took_s = time.monotonic() - started
        names = _names(db, name or None)
    previous = names.get(reply.previous_owner, "none") if reply.previous_owner else "none"
    if options.output != "table":
        print_value(
            {
                "instance": reply.instance,
                "term": reply.term,
                "previous_owner": reply.previous_owner,
                "confirmed": reply.confirmed,
                "rolled_back": reply.rolled_back,
                "seconds": round(took_s, 4),
            }
        )
        return
    if reply.term == before and queue.get("owner") == reply.previous_owner:
        print(f"{reply.instance} owns the queue already: term {before}")
        return
    print(
        f"{reply.instance} owns the queue: term {before} -> {reply.term}, "
        f"previous owner {previous}, confirmed {reply.confirmed}, rolled back {reply.rolled_back}, "
        f"{took_s:.2f} s"
    )


def demote(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Default: whoever leads.")] = "",
) -> None:
    """Give up the queue and leadership."""
    with client() as db:
        reply = db.demote(name or None, timeout=options.timeout_s if options.timeout else None)
    if options.output != "table":
        print_value({"instance": reply.instance, "term": reply.term})
        return
    print(f"{reply.instance} gave up the queue: term {reply.term}")


def wait(
    txn: Annotated[str, typer.Argument(metavar="ORIGIN:LSN", help="Or a request id, in hexadecimal.")],
) -> int:
    """Wait for the end of a transaction. Exit code 0: committed; 6: rolled back; 5: still not known."""
    name: Any = txn
    if ":" not in txn:
        try:
            name = bytes.fromhex(txn)
        except ValueError:
            name = b""
        if len(name) != 16:
            raise usage(f"a transaction is ORIGIN:LSN, or a request id of 32 hexadecimal digits; got {txn!r}")
    with client(read_from="leader") as db:
        outcome = db.wait_transaction(name, options.timeout_s)
    if options.output != "table":
        print_value({"txn": txn, "outcome": outcome})
    else:
        words = {
            "committed": "is committed",
            "rolled_back": "was rolled back",
            "pending": "still waits in the queue: outcome unknown",
            "unknown": "is not known to the instance that was asked: outcome unknown",
        }
        print(f"{txn} {words[outcome]}")
    return {"committed": 0, "rolled_back": formatting.EXIT_CONFLICT}.get(outcome, EXIT_UNKNOWN)


def snapshot(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Default: the first of -e.")] = "",
) -> None:
    """Write a snapshot."""
    with client() as db:
        reply = db.snapshot(name or None)
    if options.output != "table":
        print_value(
            {
                "instance": reply.instance,
                "signature": reply.signature,
                "vclock": dict(reply.vclock),
            }
        )
        return
    print(f"{reply.instance} wrote {reply.signature:020d}.snap: vclock {formatting.vclock(reply.vclock)}")


# --- members ------------------------------------------------------------------------------------------------


def member_list(instance: InstanceOption = "") -> None:
    """The members, as one instance sees them."""
    with client() as db:
        members = db.list_instances(instance=instance or None)
    rows = []
    for m in members:
        role = ", ".join(
            word
            for word, is_so in (
                ("leader", m.is_leader),
                ("owner", m.owns_queue and not m.is_leader),
                ("self", m.is_self and not m.is_leader),
            )
            if is_so
        )
        row = [
            str(m.id or "-"),
            m.name or "-",
            m.address or "-",
            role,
            str(m.lsn),
            m.upstream_status or "-",
            m.downstream_status or "-",
        ]
        if m.upstream_message:
            row.append(m.upstream_message)
        rows.append(row)
    if options.output == "table":
        print_table(("ID", "NAME", "ADDRESS", "ROLE", "LSN", "UPSTREAM", "DOWNSTREAM"), rows)
        return
    print_value(
        [
            {
                "id": m.id,
                "uuid": m.uuid,
                "name": m.name,
                "address": m.address,
                "is_self": m.is_self,
                "is_leader": m.is_leader,
                "owns_queue": m.owns_queue,
                "lsn": m.lsn,
                "upstream_status": m.upstream_status or None,
                "upstream_message": m.upstream_message or None,
                "downstream_status": m.downstream_status or None,
            }
            for m in members
        ]
    )


def watch_info(
    instance: InstanceOption = "",
    count: Annotated[int, typer.Option("--count", min=0, help="End after so many; 0: never.")] = 0,
) -> None:
    """State of one instance now and at each change, one JSON object a line."""
    with client() as db:
        for number, state in enumerate(db.watch_info(instance or None), 1):
            record = {name: getattr(state, name) for name in state.__slots__}
            print(formatting.to_json(record), flush=True)
            if number == count:
                return


def replication_restart(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The instance to follow again.")],
    instance: Annotated[str, typer.Option("-i", "--instance", help="On this one.")] = "",
) -> int:
    """Follow an instance again after its stream was stopped by an error."""
    with client() as db:
        db.restart_upstream(name, instance=instance or None)
    print(f"follows {name} again")
    return 0


__all__ = [
    "EXIT_FAILED",
    "Picture",
    "judge",
    "print_status",
    "queue_text",
    "register",
    "status_text",
    "take_picture",
]
