"""Verbs for users, roles, and what they may do."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from synchro.cli.arguments import argument, instance_option
from synchro.cli.connection import client, options
from synchro.cli.formatting import print_records, print_value, usage
from synchro.cli.passwords import checked_password, password_in
from synchro.cli.program import program

if TYPE_CHECKING:
    from synchro.client import GrantInfo, UserInfo

NEW_PASSWORD: Final = "SYNCHRO_NEW_PASSWORD"
"""In the environment: the password of the user that is made or changed."""
OBJECT_TYPES: Final = ("universe", "space", "sequence", "role", "user")
user = program.words("user", "Users.")
role = program.words("role", "Roles, which users and other roles may have.")

if_not_exists: Final = click.option("--if-not-exists", is_flag=True, help="No error if it is so already.")
if_exists: Final = click.option("--if-exists", is_flag=True, help="No error if there is none.")
new_password_file: Final = click.option(
    "--new-password-file",
    metavar="FILE",
    default="",
    help=f"Its first line is the new password; without -u --password-file says the same. Default: "
    f"{NEW_PASSWORD} in the environment, or a question.",
)
role_option: Final = click.option("--role", "is_role", is_flag=True, help="NAME is a role.")


def _report(what: str, done: bool, txn: Any, otherwise: str) -> None:
    shown = f"{txn[0]}:{txn[1]}" if txn else None
    if options.output != "table":
        print_value({"changed": done, "what": what, "txn": shown})
    else:
        print(
            f"{what}{f'   txn {shown}' if shown else ''}"
            if done
            else f"{what}: {otherwise}, nothing was done"
        )


# --- passwords: never on a command line, where `ps` shows them ------------------------------------------


def _new_password(file: str, name: str, *, is_needed: bool) -> str | None:
    """From a file, the environment, or a question. None: there is none, and none is needed."""
    if not file and not options.user and "password_file" in options.given:
        # Without -u nobody logs in by it.
        file, options.password_file = options.password_file, ""
    if file:
        return password_in(file)
    found = os.environ.get(NEW_PASSWORD)
    if found is not None:
        return checked_password(found, NEW_PASSWORD)
    if sys.stdin.isatty():
        asked: str = click.prompt(
            f"New password of {name}", hide_input=True, confirmation_prompt=True, err=True
        )
        return checked_password(asked, "the password")
    if is_needed:
        raise usage(f"which password? Give --new-password-file, or {NEW_PASSWORD}; nothing was done")
    return None


# --- users and roles ------------------------------------------------------------------------------------


@user.command("create")
@argument("name", "NAME", "Of the new user.")
@new_password_file
@click.option("--no-password", is_flag=True, help="Nobody can log in as it.")
@if_not_exists
def user_create(name: str, new_password_file: str, no_password: bool, if_not_exists: bool) -> None:
    """Make a user. It may log in and change its password, and nothing else before something is granted."""
    if no_password and new_password_file:
        raise usage("either --no-password or --new-password-file; nothing was done")
    password = None if no_password else _new_password(new_password_file, name, is_needed=False)
    with client() as db:
        reply = db.users.create(name, password, if_not_exists=if_not_exists, timeout=options.timeout_s)
    what = f"user '{name}' created" + ("" if password is not None else " without a password")
    _report(what, reply.done, reply.txn, "exists already")


@user.command("passwd")
@argument("name", "[NAME]", "Whose. Default: who is logged in.", is_optional=True)
@new_password_file
def user_passwd(name: str, new_password_file: str) -> None:
    """Give a user another password."""
    password = _new_password(new_password_file, name or options.user, is_needed=True)
    assert password is not None
    with client() as db:
        reply = db.users.set_password(password, name, timeout=options.timeout_s)
    _report(f"password of user '{name or options.user}' set", True, reply.txn, "")


@user.command("drop")
@argument("name", "NAME", "The user that goes.")
@if_exists
def user_drop(name: str, if_exists: bool) -> None:
    """Remove a user, with all that was granted to it."""
    with client() as db:
        reply = db.users.drop(name, if_exists=if_exists, timeout=options.timeout_s)
    _report(f"user '{name}' dropped", reply.done, reply.txn, "there is none")


@role.command("create")
@argument("name", "NAME", "Of the new role.")
@if_not_exists
def role_create(name: str, if_not_exists: bool) -> None:
    """Make a role."""
    with client() as db:
        reply = db.users.create(name, is_role=True, if_not_exists=if_not_exists, timeout=options.timeout_s)
    _report(f"role '{name}' created", reply.done, reply.txn, "exists already")


@role.command("drop")
@argument("name", "NAME", "The role that goes.")
@if_exists
def role_drop(name: str, if_exists: bool) -> None:
    """Remove a role, from all who have it too."""
    with client() as db:
        reply = db.users.drop(name, is_role=True, if_exists=if_exists, timeout=options.timeout_s)
    _report(f"role '{name}' dropped", reply.done, reply.txn, "there is none")


@user.command("list")
@instance_option()
def user_list(instance: str) -> None:
    """List users and roles."""
    with client() as db:
        found = db.users.list(instance=instance or None)
    print_records(
        ("ID", "NAME", "KIND", "PASSWORD", "ROLES", "PRIVILEGES"),
        [_row(one) for one in found],
        [_record(one) for one in found],
    )


@user.command("info")
@argument("name", "NAME", "User or role.")
@instance_option()
def user_info(name: str, instance: str) -> None:
    """Show one user or role, and what was granted to it."""
    with client() as db:
        (found,) = db.users.list(name, instance=instance or None)
    print_value(_record(found))


def _row(one: UserInfo) -> tuple[str, ...]:
    roles = [grant.object for grant in one.grants if _is_role(grant)]
    others = [_shown(grant) for grant in one.grants if not _is_role(grant)]
    return (
        *(str(one.id), one.name, "role" if one.is_role else "user", "yes" if one.has_password else ""),
        *(", ".join(roles), "; ".join(others)),
    )


def _is_role(grant: GrantInfo) -> bool:
    return grant.object_type == "role" and "execute" in grant.privileges


def _shown(grant: GrantInfo) -> str:
    where = f"{grant.object_type} {grant.object}".strip()
    return f"{','.join(grant.privileges)} on {where}"


def _record(one: UserInfo) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "kind": "role" if one.is_role else "user",
        "owner": one.owner,
        "has_password": one.has_password,
        "is_from_config": one.is_from_config,
        "privileges": [
            {
                "object_type": grant.object_type,
                "object": grant.object,
                "privileges": list(grant.privileges),
                "by_config": list(grant.by_config),
            }
            for grant in one.grants
        ],
    }


# --- privileges -----------------------------------------------------------------------------------------


@program.command("grant")
@argument("name", "NAME", "The user that gets it.")
@argument("what", "ROLE | PRIVILEGES", "A role; or privileges as read,write, and then on what.")
@argument("type", "[universe|space|sequence|role|user]", "Kind of the object.", is_optional=True)
@argument("object", "[OBJECT]", "Its name. Default: all of the kind.", is_optional=True)
@role_option
@if_not_exists
def grant(name: str, what: str, type: str, object: str, is_role: bool, if_not_exists: bool) -> None:
    """Give a user a role, or privileges: grant bob super; grant bob read,write space bands."""
    privileges, kind, named = _asked(what, type, object)
    with client() as db:
        reply = db.users.grant(
            name,
            privileges,
            kind,
            named,
            to_role=is_role,
            if_not_exists=if_not_exists,
            timeout=options.timeout_s,
        )
    _report(f"{_said(privileges, kind, named)} granted to '{name}'", reply.done, reply.txn, "it has that")


@program.command("revoke")
@argument("name", "NAME", "The user that loses it.")
@argument("what", "ROLE | PRIVILEGES", "A role; or privileges as read,write, and then on what.")
@argument("type", "[universe|space|sequence|role|user]", "Kind of the object.", is_optional=True)
@argument("object", "[OBJECT]", "Its name. Default: all of the kind.", is_optional=True)
@role_option
@if_exists
def revoke(name: str, what: str, type: str, object: str, is_role: bool, if_exists: bool) -> None:
    """Take a role or privileges away: revoke bob super; revoke bob write space bands."""
    privileges, kind, named = _asked(what, type, object)
    with client() as db:
        reply = db.users.revoke(
            name,
            privileges,
            kind,
            named,
            from_role=is_role,
            if_exists=if_exists,
            timeout=options.timeout_s,
        )
    _report(f"{_said(privileges, kind, named)} revoked from '{name}'", reply.done, reply.txn, "it lacks that")


def _asked(what: str, type: str, object: str) -> tuple[str, str, str]:
    """(privileges, kind, name): `role NAME`, and a role alone, mean to execute it [S-4]."""
    if not type:
        return "execute", "role", what
    if what == "role" and not object:
        return "execute", "role", type
    if type not in OBJECT_TYPES:
        raise usage(f"unknown kind of object {type!r}: there are {', '.join(OBJECT_TYPES)}; nothing was done")
    return what, type, object


def _said(privileges: str, kind: str, name: str) -> str:
    if kind == "role" and privileges == "execute":
        return f"role '{name}'"
    return f"{privileges} on {kind}{f' {name!r}' if name else ''}"
