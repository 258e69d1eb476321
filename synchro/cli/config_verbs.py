"""Verbs that compare and change the configuration of running instances. Rules [C-30], [C-40]..[C-42]."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from synchro.cli.arguments import argument, instance_option, target_argument
from synchro.cli.connection import client, options
from synchro.cli.formatting import EXIT_FAILED, print_error, print_value, to_json
from synchro.cli.local_verbs import config
from synchro.cli.reach import again
from synchro.errors import PlainConnection, SynchroError
from synchro.secret import without_passwords

if TYPE_CHECKING:
    from synchro.cli.process_table import Target
    from synchro.client import Client
    from synchro.client.replies import ConfigChanges


@config.command("diff")
@target_argument
def config_diff(target: str) -> int:
    """Compare a file with what its instances run with."""
    parsed = _parsed(target)
    text = parsed.config.text.decode()
    return _for_each(parsed, lambda db: db.check_config(text), same="runs as the file says", sends_file=True)


@config.command("reload")
@target_argument
def config_reload(target: str) -> int:
    """Let instances read their file again."""
    return _for_each(_parsed(target), lambda db: db.reload_config(), same="nothing changed")


@config.command("set")
@argument("key", "KEY", "As in the file: replication.timeout.")
@argument("value", "VALUE", "As in the file: 500ms.")
@instance_option()
@click.option("--force", is_flag=True, help="Although two owners could write at the same time.")
def config_set(key: str, value: str, instance: str, force: bool) -> None:
    """Change one option of a running instance, until its next reload or start."""
    with client() as db:
        done = db.set_config(key, value, force=force, instance=instance or None)
    if options.output != "table":
        print_value(_record(done))
        return
    name = done.instance or instance or "the instance"
    _print_changes(name, done, same=f"{key} has this value already", command="")
    if done.options:
        print("Nothing was written: a reload or a restart takes the former value.")


def _parsed(target: str) -> Target:
    from synchro.cli.process_table import parse_target

    return parse_target(target)


def _for_each(
    parsed: Target, ask: Callable[[Client], ConfigChanges], *, same: str, sends_file: bool = False
) -> int:
    """Ask each instance of the target at its address. One that fails is told, and the others go on."""
    from synchro.config.address import client_address

    answers: dict[str, Any] = {}
    failed = False
    for name in parsed.names:
        where = client_address(parsed.config.instance(name).settings) or _noted_address(parsed, name)
        try:
            if not where:
                raise SynchroError(f"{name} does not listen, so it cannot be asked")
            if sends_file:
                _refuse_to_show(parsed.config.text.decode(), where)
            with client(where=where) as db:
                done = ask(db)
        except SynchroError as error:
            failed = True
            print_error(error)
            continue
        answers[name] = _record(done)
        if options.output == "table":
            instance = shlex.quote(f"{parsed.config.path}:{name}")
            _print_changes(name, done, same=same, command=f"synchro restart {instance}")
    if options.output != "table":
        print_value(answers)
    return EXIT_FAILED if failed else 0


def _refuse_to_show(text: str, where: str) -> None:
    """Raises `PlainConnection`: a file with passwords is sent as a password is."""
    from synchro.config.address import is_loopback

    has_password = "password:" in text or without_passwords(text) != text
    if has_password and not options.cacert and not is_loopback(where.rpartition(":")[0]):
        raise PlainConnection(
            f"the file has passwords, and {where} is on another host, without --cacert; nothing was sent. "
            "Next: --cacert FILE, or keep passwords in files of their own (password_file)"
        )


def _noted_address(parsed: Target, name: str) -> str:
    """Where one listens to which the file gives no address any more [C-44]; "": it was not started by
    `synchro start`, or does not run."""
    from synchro.cli.process_table import target_without_config

    known = target_without_config(f"{parsed.config.path}:{name}")
    return "" if known is None else known.config.instance(name).settings.listen


def _print_changes(name: str, done: ConfigChanges, *, same: str, command: str) -> None:
    """command: puts into use what needs a restart."""
    for warning in done.warnings:
        print(f"warning: {name}: {warning}", file=sys.stderr)
    for option in done.options:
        before, after = (_shown(value) for value in (option.before, option.after))
        restart = "  (needs a restart)" if option.needs_restart else ""
        print(f"{name}: {option.key}  {before} -> {after}{restart}")
    if not done.options:
        print(f"{name}: {same}")
    if any(option.needs_restart for option in done.options):
        print(f"next:  {again(command)}")


def _shown(value: Any) -> str:
    return "not set" if value is None else value if isinstance(value, str) else to_json(value)


def _record(done: ConfigChanges) -> dict[str, Any]:
    return {
        "instance": done.instance,
        "changes": [
            {
                "key": option.key,
                "before": option.before,
                "after": option.after,
                "needs_restart": option.needs_restart,
            }
            for option in done.options
        ],
        "warnings": list(done.warnings),
    }
