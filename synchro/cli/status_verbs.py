"""Verbs that show the state of a set: status, health, info."""

from __future__ import annotations

from typing import Any

import click

from synchro.cli import formatting
from synchro.cli.arguments import argument, complete_target, instance_option, watch_lines, watch_option
from synchro.cli.connection import client, options
from synchro.cli.formatting import EXIT_FAILED, print_value, seconds
from synchro.cli.picture import Picture, SeenMember, take_picture
from synchro.cli.program import program
from synchro.cli.verdict import Verdict, has_elections, judge

# --- how it is shown --------------------------------------------------------------------------------------


def status_rows(picture: Picture) -> tuple[list[str], list[list[str]]]:
    with_process = any(member.process is not None for member in picture.members)
    columns = ["ID", "NAME", "ADDRESS", "STATE", "RW", "QUEUE", "VCLOCK", "LAG", "SEEN"]
    if with_process:
        columns.append("PROCESS")
    rows = []
    for member in shown_members(picture):
        row = [
            str(member.id or "-"),
            member.name,
            member.address,
            member.state,
            _rw(member),
            _queue(member, picture),
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


def shown_members(picture: Picture) -> list[SeenMember]:
    """All, unless one was asked for by its name."""
    named = picture.target.named if picture.target is not None else ""
    return [member for member in picture.members if named in ("", member.name)]


def _queue(member: SeenMember, picture: Picture) -> str:
    if not member.owns_queue:
        return ""
    word = "former" if picture.is_former_owner(member) else "owner"
    return f"{word} len {member.queue.get('len', 0)}"


def _rw(member: SeenMember) -> str:
    if not member.is_ready or member.info is None:
        return ""
    return "ro" if member.info["ro"] else "rw"


def _vclock(member: SeenMember) -> str:
    if member.info is not None:
        return formatting.vclock(member.info["vclock"])
    acked = member.seen_by_leader.get("downstream", {}).get("vclock")
    if acked:
        return formatting.vclock(acked)
    return "-"


def _lag(member: SeenMember, picture: Picture) -> str:
    """Behind whoever knows most, now; not the delay of the last row that arrived."""
    rows, behind_s = picture.rows_behind(member), picture.seconds_behind(member)
    if rows is None:
        return "-"
    return f"{rows} rows" + (f", {seconds(behind_s)}" if rows and behind_s is not None else "")


def _seen(member: SeenMember, picture: Picture) -> str:
    if member is picture.authority:
        return "now"
    return "-" if member.heard_s is None else f"{seconds(member.heard_s)} ago"


def _remark(member: SeenMember) -> str:
    if member.foreign:
        return member.foreign
    if member.info is None:
        return member.error
    if member.progress:
        return member.progress
    own = [
        f"{part.get('name')}: {part['upstream'].get('message') or part['upstream']['status']}"
        for part in member.info["replication"].values()
        if part.get("upstream", {}).get("status") == "stopped"
    ]
    if member.info.get("fault_injection"):
        own.append(f"WARNING: fault injection is on, for tests only: synchro fault list -i {member.name}")
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


def _record(member: SeenMember, picture: Picture) -> dict[str, Any]:
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
        "fault_injection": bool(found.get("fault_injection")),
        "open_to_all": bool(_users(member).get("open")),
        "process": member.process.state.value if member.process is not None else None,
    }


def status_text(picture: Picture) -> list[str]:
    columns, rows = status_rows(picture)
    table = formatting.table_lines(columns, rows)
    lines = [head_line(picture), *table, *judge(picture).lines(), *_warnings(picture)]
    return [formatting.on_screen(line) for line in lines]


def _warnings(picture: Picture) -> list[str]:
    """Of the whole set."""
    if not any(_users(member).get("unset") for member in picture.members):
        return []
    return [
        "WARNING: nobody has said who may do what, so whoever can connect may do everything. "
        "Next: synchro user create NAME, synchro grant NAME super, and when the peers log in, too "
        "(docs/security.md): synchro revoke guest super"
    ]


def _users(member: SeenMember) -> dict[str, Any]:
    found: dict[str, Any] = (member.info or {}).get("users") or {}
    return found


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
            "instances": [_record(member, picture) for member in shown_members(picture)],
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


@program.command("health")
@click.option("--rw", is_flag=True, help="Writes are taken, and enough acknowledge them.")
@click.option("--read", is_flag=True, help="Somebody can be read.")
@click.option("--quorum", is_flag=True, help="A quorum answers and is trusted.")
def health(rw: bool, read: bool, quorum: bool) -> int:
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
        lines = ["healthy" if healthy else "not healthy", *found.lines()]
        print(formatting.on_screen("\n".join(lines)))
    else:
        print_value({"healthy": healthy, **_verdict_record(found)})
    return 0 if healthy else EXIT_FAILED


@program.command("status")
@argument(
    "config", "[CONFIG[:NAME]]", "Shows processes too.", is_optional=True, shell_complete=complete_target
)
@watch_option
def status(config: str, watch: bool) -> int:
    """All instances, and a verdict in words. Exit code 3 if nobody answers."""
    target = None
    if config:
        from synchro.cli.process_table import parse_target

        target = parse_target(config)
        if "endpoints" not in options.given:
            options.endpoints = ",".join(i.settings.listen for i in target.config.instances.values())
    with client() as db:
        if watch:
            watch_lines(lambda: status_text(take_picture(db, target)))
            return 0
        picture = take_picture(db, target)
    print_status(picture)
    return 0 if any(member.is_up for member in picture.members) else formatting.EXIT_NO_CONNECTION


# --- info ------------------------------------------------------------------------------------------


@program.command("info")
@argument("path", "[PATH]", "synchro, replication.2.upstream, ro, ...", is_optional=True)
@instance_option()
def info(path: str, instance: str) -> None:
    """The tree of `box.info` of one instance, or a part of it."""
    with client() as db:
        value = db.get_info(path, instance=instance or None)
    print_value(value)
