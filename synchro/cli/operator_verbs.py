"""Verbs that change who leads and what an instance does, and those that show its members."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

import click

from synchro.cli import formatting
from synchro.cli.arguments import argument, complete_instance, instance_option, one_instance, the_one
from synchro.cli.connection import client, options
from synchro.cli.formatting import print_table, print_value
from synchro.cli.program import program
from synchro.cli.reach import again
from synchro.errors import AccessDenied, BadCredentials, LoginLimited, PlainConnection, SynchroError

if TYPE_CHECKING:
    from synchro.client import Client, WatchState

ASKED_S: Final = 2.0
"""How long each endpoint has to say who it is."""

member = program.words("member", "Members of the set.")
watch = program.words("watch", "Streams of changes.")
replication = program.words("replication", "Streams between members.")


def _names(db: Client, instance: str | None) -> dict[int, str]:
    try:
        parts = db.get_info("replication", instance=instance)
        return {part["id"]: part["name"] or str(part["id"]) for part in parts.values()}
    except SynchroError:
        return {}


@program.command("promote")
@one_instance("the first of -e")
@click.option("--dry-run", is_flag=True, help="Say what it would do, or why it would fail; change nothing.")
def promote(name: str, instance: str, dry_run: bool) -> int:
    """Make an instance the owner of the queue, and the leader."""
    name = the_one(name, instance)
    if dry_run:
        return _check_promote(name)
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
        return 0
    if reply.term == before and queue.get("owner") == reply.previous_owner:
        print(f"{reply.instance} owns the queue already: term {before}")
        return 0
    print(
        f"{reply.instance} owns the queue: term {before} -> {reply.term}, "
        f"previous owner {previous}, confirmed {reply.confirmed}, rolled back {reply.rolled_back}, "
        f"{took_s:.2f} s"
    )
    return 0


def _check_promote(name: str) -> int:
    """Exit code 0: nothing is known that stands against it."""
    with client() as db:
        found = db.check_promote(name or None, timeout=options.timeout_s if options.timeout else None)
        names = _names(db, name or None)
    if options.output != "table":
        fields = ("instance", "is_owner", "term", "previous_owner", "confirmed", "missing_rows")
        obstacles = [{"reason": reason, "message": text} for reason, text in found.obstacles]
        print_value({field: getattr(found, field) for field in fields} | {"obstacles": obstacles})
    elif found.obstacles:
        print(
            f"{found.instance} owns the queue already: term {found.term}; a promote would fail now"
            if found.is_owner
            else f"{found.instance} would not be promoted now; nothing was changed"
        )
        for reason, text in found.obstacles:
            print(f"  {reason}: {text}")
    elif found.is_owner:
        print(f"{found.instance} owns the queue already: term {found.term}; nothing would be done")
    else:
        former = found.previous_owner
        owner = names.get(former, str(former)) if former else "none"
        lost = f"; {found.missing_rows} rows of {owner} are not here yet" if found.missing_rows else ""
        print(
            f"{found.instance} would own the queue in term {found.term}: previous owner {owner}, "
            f"to be confirmed {found.confirmed}{lost}; nothing was changed"
        )
    return formatting.EXIT_FAILED if found.obstacles else 0


def _waited(state: WatchState) -> None:
    if options.output != "table":
        print_value({field: getattr(state, field) for field in state.__slots__})
        return
    leads = f"leader {state.leader}" if state.leader else "no leader known"
    writes = "takes writes" if state.is_writable else f"takes no writes ({state.ro_reason})"
    print(f"{state.instance} {writes}: {leads}, term {state.term}")


@program.command("wait-rw")
@one_instance("the first of -e")
def wait_rw(name: str, instance: str) -> None:
    """Wait until an instance takes writes. Exit code 5: not within --timeout."""
    with client() as db:
        _waited(db.wait_rw(the_one(name, instance) or None, timeout=options.timeout_s))


@program.command("wait-ro")
@one_instance("the first of -e")
def wait_ro(name: str, instance: str) -> None:
    """Wait until an instance takes no writes. Exit code 5: not within --timeout."""
    with client() as db:
        _waited(db.wait_ro(the_one(name, instance) or None, timeout=options.timeout_s))


@program.command("wait-leader")
@one_instance("the first of -e")
def wait_leader(name: str, instance: str) -> None:
    """Wait until an instance knows who leads, or owns the queue. Exit code 5: not within --timeout."""
    with client() as db:
        _waited(db.wait_leader(the_one(name, instance) or None, timeout=options.timeout_s))


@program.command("demote")
@one_instance("whoever leads")
def demote(name: str, instance: str) -> None:
    """Give up the leadership; the queue, where there are no elections.

    Exit code 0 too if it has nothing to give up, as in Tarantool: it says so, and nothing was changed.
    """
    name = the_one(name, instance)
    with client() as db:
        reply = db.demote(name or None, timeout=options.timeout_s if options.timeout else None)
    if options.output != "table":
        print_value({"instance": reply.instance, "term": reply.term, "is_done": reply.is_done})
        return
    if reply.is_done:
        print(f"{reply.instance} is demoted: term {reply.term}")
    else:
        print(f"{reply.instance} has nothing to give up in term {reply.term}: nothing was changed")


@program.command("snapshot")
@one_instance("the first of -e")
def snapshot(name: str, instance: str) -> None:
    """Write a snapshot."""
    name = the_one(name, instance)
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


@member.command("list")
@instance_option()
def member_list(instance: str) -> None:
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


@member.command("expel")
@argument("name", "NAME", "The member that leaves: name or id.", shell_complete=complete_instance)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def member_expel(name: str, yes: bool) -> int:
    """Remove a member from the set, for good: its id is not given again."""
    with client() as db:
        found = [m for m in db.list_instances() if m.id and name in (m.name, str(m.id))]
        if not found:
            raise formatting.usage(f"the set has no member {name!r}; nothing was done")
        leaver = found[0]
        title = f"{leaver.name or leaver.uuid} (id {leaver.id})"
        if not yes and not _agrees(f"Remove {title} from the set? Its id is not given again"):
            print("nothing was done")
            return 1
        removed = db.space("_cluster").delete([leaver.id], timeout=options.timeout_s)
    if options.output != "table":
        print_value({"expelled": {"id": leaver.id, "uuid": leaver.uuid, "name": leaver.name}})
    elif removed is None:
        print(f"{title} was no member any more")
    else:
        print(f"{title} is no member any more. Next: take it out of the configuration file, and stop it")
    return 0


@program.command("replica-gc")
@argument("name", "NAME", "Who is away: name, id or UUID.", shell_complete=complete_instance)
@instance_option("On this one alone; else on all that answer.")
def replica_gc(name: str, instance: str) -> int:
    """Keep no log for an instance that is away. If it comes back too late for the log, it joins anew."""
    done: dict[str, int] = {}
    refused: dict[str, str] = {}
    with client() as db:
        places = [instance]
        if not instance:
            listed = db.list_instances()
            places = [m.name for m in listed if m.name and name not in (m.name, m.uuid, str(m.id))]
        for place in places:
            try:
                done[place] = db.replica_gc(name, instance=place, timeout=options.timeout_s)
            except SynchroError as error:
                refused[place] = error.message
    if options.output != "table":
        print_value({"instance": name, "files_deleted": done, "refused": refused})
    else:
        for place, count in done.items():
            print(f"{place} keeps no log for {name}: {count} files deleted")
        for place, why in refused.items():
            print(f"{place}: {why}", file=sys.stderr)
    return formatting.EXIT_FAILED if refused else 0


@program.command("bootstrap")
@argument("name", "NAME", "The instance that makes the set.")
def bootstrap(name: str) -> int:
    """Let an instance make the replica set, where all wait for that word (bootstrap_strategy: supervised)."""
    timeout = options.timeout_s if options.timeout else None
    with client() as db:
        endpoint = _endpoint_of(db, name)
        uuid = db.bootstrap(instance=endpoint, timeout=timeout)
    if options.output != "table":
        print_value({"instance": name, "replicaset_uuid": uuid})
    else:
        print(f"{name} made the replica set {uuid}; the others join it now. Next: {again('synchro status')}")
    return 0


def _endpoint_of(db: Client, name: str) -> str:
    """Where the instance of this name is; nobody knows members yet, so each of -e is asked who it is."""
    found: dict[str, str] = {}
    silent: list[str] = []
    refusal: SynchroError | None = None
    for endpoint in dict.fromkeys(db.endpoints):
        if endpoint == name:
            return endpoint
        try:
            found[str(db.get_info("name", instance=endpoint, timeout=ASKED_S))] = endpoint
        except (AccessDenied, BadCredentials, LoginLimited, PlainConnection) as error:
            refusal = refusal or error  # it answers, and not to this user
        except SynchroError:
            silent.append(endpoint)
    if name not in found and refusal is not None:
        raise refusal
    if name not in found:
        known = ", ".join(found) or "nobody"
        quiet = f"; no answer from {', '.join(silent)}" if silent else ""
        raise formatting.usage(
            f"no instance {name!r} answers (-e): there are {known}{quiet}; nothing was done"
        )
    return found[name]


def _agrees(question: str) -> bool:
    if not sys.stdin.isatty():
        raise formatting.usage("this asks, and there is no terminal: -y says yes; nothing was done")
    return click.confirm(question, err=True)


@program.command("rebootstrap")
@argument("name", "NAME", "Which instance.", shell_complete=complete_instance)
@click.option("--discard", is_flag=True, help="Give up the rows and tuples that only it has.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rebootstrap(name: str, discard: bool, yes: bool) -> int:
    """Replace the data of an instance by that of another member.

    It begins anew for that, and does not count meanwhile. Its old files stay until the new ones are whole.
    """
    with client() as db:
        lost = ", and give up the rows that only it has" if discard else ""
        if not yes and not _agrees(f"Replace the data of {name} by that of another member{lost}"):
            print("nothing was done")
            return 1
        done = db.rebootstrap(name, discard=discard, timeout=options.timeout_s)
    if options.output != "table":
        print_value({"instance": done, "discard": discard})
    else:
        print(
            f"{done} joins again; its old data stays until the new is whole. Next: {again('synchro status')}"
        )
    return 0


@watch.command("info")
@instance_option()
@click.option(
    "--count", metavar="N", type=click.IntRange(min=0), default=0, help="End after so many; 0: never."
)
def watch_info(instance: str, count: int) -> None:
    """State of one instance now and at each change, one JSON object a line."""
    with client() as db:
        for number, state in enumerate(db.watch_info(instance or None), 1):
            record = {name: getattr(state, name) for name in state.__slots__}
            print(formatting.to_json(record), flush=True)
            if number == count:
                return


@replication.command("restart")
@argument("name", "NAME", "The instance to follow again.", shell_complete=complete_instance)
@instance_option("On this one.")
@click.option("--skip", metavar="ORIGIN:LSN", default="", help="Leave out this row, which is in conflict.")
def replication_restart(name: str, instance: str, skip: str) -> int:
    """Follow an instance again after its stream was stopped by an error."""
    with client() as db:
        db.restart_upstream(name, skip=skip or None, instance=instance or None)
    print(f"follows {name} again{f', without {skip}' if skip else ''}")
    return 0
