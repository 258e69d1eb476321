"""Verbs that need no server: init, start, stop, restart, serve, config."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from synchro.cli import connection
from synchro.cli.arguments import argument, complete_file, target_argument
from synchro.cli.connection import options, parse_duration
from synchro.cli.formatting import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    print_error,
    print_records,
    print_value,
    usage,
)
from synchro.cli.passwords import password_in
from synchro.cli.program import program
from synchro.cli.title import WARNING
from synchro.errors import SynchroError
from synchro.secret import without_passwords

if TYPE_CHECKING:
    from synchro.cli.process_table import Process
    from synchro.config.file import ClusterConfig

file_argument: Final = argument(
    "file", "FILE", "YAML file of a set, or its directory.", shell_complete=complete_file
)
force_trust_option: Final = click.option(
    "--force-trust", is_flag=True, help="Let it vote with the log it has, though rows may be lost."
)
new_set_option: Final = click.option(
    "--new-set", is_flag=True, help="Its data is gone: forget its set, make or join another."
)
rejoin_option: Final = click.option(
    "--rejoin", is_flag=True, help="Its files are damaged, or too old: take those of another member."
)
force_recovery_option: Final = click.option(
    "--force-recovery", is_flag=True, help="Its log is damaged: let it end where that begins."
)
insecure_option: Final = click.option(
    "--insecure", is_flag=True, help="Listen where other hosts can connect."
)
fault_option: Final = click.option(
    "--fault-injection", is_flag=True, help="For tests: take synchro fault, by which anybody can break it."
)
kill_option: Final = click.option("--kill", is_flag=True, help="SIGKILL what does not end in time.")
_WORDS: Final = {
    ("running", True): "started",
    ("running", False): "running already",
    ("loading", True): "started, waits for its peers or reads its files",
    ("loading", False): "running already, waits for its peers or reads its files",
    ("stopped", True): "stopped",
    ("stopped", False): "not running",
    ("exited", True): "failed",
    ("exited", False): "failed",
    ("stuck", True): "stuck",
    ("stuck", False): "stuck",
    ("foreign", True): "stopped, but something answers",
    ("foreign", False): "not running, but something answers",
    ("denied", False): "runs, and was not stopped",
}


config = program.words("config", "Check, show and change configurations.")


@program.command("init")
@argument("directory", "DIR", "Where config.yaml is written.")
@click.option("--nodes", type=int, default=3, show_default=True, help="Number of instances.")
@click.option("--base-port", type=int, default=3301, show_default=True, help="Port of the first one.")
@click.option("--failover", default="election", show_default=True, help="election, manual or off.")
def init(directory: str, nodes: int, base_port: int, failover: str) -> None:
    """Write the configuration of a local set."""
    from synchro.cli import processes
    from synchro.cli.neighbours import check_addresses

    if failover not in ("election", "manual", "off"):
        raise usage(f"--failover is election, manual or off, not {failover!r}")
    check_addresses(directory, nodes, base_port)
    path = processes.init(directory, nodes=nodes, base_port=base_port, failover=failover)
    print(f"wrote {path}: {nodes} instances on ports {base_port} to {base_port + nodes - 1}")
    print(f"next:  synchro start {shlex.quote(str(path))}")


@program.command("serve")
@click.option("--config", metavar="FILE", default="", help="YAML file of the whole set.")
@click.option("--name", default="", help="Which of its instances.")
@click.option("--listen", metavar="HOST:PORT", default="", help="Without a file.")
@click.option("--data-dir", metavar="DIR", default="", help="Without a file: where its data is.")
@click.option("--replication", metavar="HOST:PORT,...", default="", help="Without a file: its set.")
@click.option("--read-only", is_flag=True, help="Without a file: take no writes.")
@click.option(
    "--admin-password-file",
    metavar="FILE",
    default="",
    help="Without a file: the password of the user admin of a new set; without it the guest may do all.",
)
@insecure_option
@force_trust_option
@new_set_option
@rejoin_option
@force_recovery_option
@fault_option
def serve(
    config: str,
    name: str,
    listen: str,
    data_dir: str,
    replication: str,
    read_only: bool,
    admin_password_file: str,
    insecure: bool,
    force_trust: bool,
    new_set: bool,
    rejoin: bool,
    force_recovery: bool,
    fault_injection: bool,
) -> int:
    """Run one instance in the foreground."""
    from synchro.config import file as config_file
    from synchro.config import template
    from synchro.config.address import check_has_address, check_listen
    from synchro.process.ready import READY_FILE

    _decisions(force_trust, new_set, rejoin, force_recovery, fault_injection)
    loaded = None
    if config:
        if not name:
            raise usage("serve --config FILE needs --name NAME")
        if listen or data_dir or replication or read_only or admin_password_file:
            raise usage("serve: either --config and --name, or --listen and --data-dir")
        loaded = config_file.load_all(config)
        own = loaded.instance(name)
        settings, warnings = own.settings, own.warnings
    elif listen and data_dir:
        warnings = (WARNING,) * connection.has_password_shown
        settings = template.settings_without_file(
            listen=listen,
            data_dir=data_dir,
            replication=replication,
            read_only=read_only,
            name=name or None,
            admin_password=password_in(admin_password_file) if admin_password_file else None,
        )
        loaded = template.config_of_flags(settings, replication)
    else:
        raise usage("serve needs --config FILE --name NAME, or --listen HOST:PORT --data-dir DIR")
    check_has_address(settings)
    check_listen(settings, insecure=insecure)
    arguments = {
        "--config": config and os.path.abspath(config),
        "--name": name,
        "--listen": listen,
        "--data-dir": data_dir,
        "--replication": without_passwords(replication),
        "--admin-password-file": admin_password_file and os.path.abspath(admin_password_file),
    }
    given = [part for key, value in arguments.items() if value for part in (key, value)]
    flags = [*(["--read-only"] if read_only else []), *(["--insecure"] if insecure else [])]
    flags += ["--fault-injection"] if fault_injection else []
    again = shlex.join(["synchro", "serve", *given, *flags])
    is_foreground = READY_FILE not in os.environ  # else `synchro start` started it
    if not is_foreground:
        again = shlex.join(["synchro", "restart", f"{os.path.abspath(config)}:{name}", *flags])
    settings = replace(
        settings,
        force_trust=force_trust,
        new_set=new_set,
        rejoin=rejoin,
        force_recovery=force_recovery,
        fault_injection=fault_injection,
        again=again,
        is_foreground=is_foreground,
    )
    from synchro.process.serve import serve as serve_instance

    return serve_instance(settings, warnings, loaded)


@program.command("start")
@target_argument
@insecure_option
@force_trust_option
@new_set_option
@rejoin_option
@force_recovery_option
@fault_option
def start(
    target: str,
    insecure: bool,
    force_trust: bool,
    new_set: bool,
    rejoin: bool,
    force_recovery: bool,
    fault_injection: bool,
) -> int:
    """Start instances in the background; returns when they are up."""
    from synchro.cli import process_table, processes
    from synchro.cli.neighbours import check_start
    from synchro.cli.reach import address_of, options_for

    parsed = process_table.parse_target(target)
    extra = _decisions(force_trust, new_set, rejoin, force_recovery, fault_injection)
    if extra and (running := [p.name for p in process_table.processes(parsed) if p.is_running]):
        runs = f"{', '.join(running)} {'runs' if len(running) == 1 else 'run'}"
        raise usage(
            f"{' '.join(extra)} is for a start, but {runs}; nothing was done. "
            f"Next: synchro restart {shlex.quote(target)} {' '.join(extra)}"
        )
    for warning in parsed.config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    check_start(parsed)
    timeout_s = parse_duration(options.timeout) if options.timeout else processes.START_TIMEOUT_S
    done = processes.start(parsed, timeout_s=timeout_s, insecure=insecure, extra=extra)
    started = [parsed.config.instance(process.name).settings for process in done if process.listen]
    where = ",".join(map(address_of, started))
    how = options_for(started[0]) if started else ""
    return show(done, wanted_running=True, hint=f"next:  synchro -e {where} {how}status")


@program.command("stop")
@target_argument
@kill_option
def stop(target: str, kill: bool) -> int:
    """Stop instances."""
    from synchro.cli import processes
    from synchro.cli.process_table import target_to_stop

    parsed, error = target_to_stop(target)
    if error is not None:
        print(f"warning: {error.message}", file=sys.stderr)
        print("warning: stopping what var/run and the process table know", file=sys.stderr)
    timeout_s = parse_duration(options.timeout) if options.timeout else processes.STOP_TIMEOUT_S
    return show(processes.stop(parsed, timeout_s=timeout_s, kill=kill), wanted_running=False)


@program.command("restart")
@target_argument
@insecure_option
@kill_option
@force_trust_option
@new_set_option
@rejoin_option
@force_recovery_option
@fault_option
def restart(
    target: str,
    insecure: bool,
    kill: bool,
    force_trust: bool,
    new_set: bool,
    rejoin: bool,
    force_recovery: bool,
    fault_injection: bool,
) -> int:
    """Stop, then start."""
    from synchro.cli import processes
    from synchro.cli.neighbours import check_start
    from synchro.cli.process_table import parse_target

    parsed = parse_target(target)
    check_start(parsed)
    timeout_s = parse_duration(options.timeout) if options.timeout else processes.START_TIMEOUT_S
    extra = _decisions(force_trust, new_set, rejoin, force_recovery, fault_injection)
    try:
        done = processes.restart(parsed, timeout_s=timeout_s, insecure=insecure, kill=kill, extra=extra)
    except KeyboardInterrupt:
        command = shlex.join(["synchro", "start", target, *(["--insecure"] if insecure else []), *extra])
        print(f"\ninterrupted: instances may be stopped\nnext:  {command}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return show(done, wanted_running=True)


def _decisions(
    force_trust: bool, new_set: bool, rejoin: bool, force_recovery: bool, fault_injection: bool
) -> list[str]:
    """What a person decides for one start, as arguments of `serve`. Raises a mistake in the command."""
    flags = {
        "--force-trust": force_trust,
        "--new-set": new_set,
        "--rejoin": rejoin,
        "--force-recovery": force_recovery,
        "--fault-injection": fault_injection,
    }
    given = [flag for flag, is_given in flags.items() if is_given]
    for flag, why in _AGAINST_FORCE_RECOVERY.items():
        if force_recovery and flag in given:
            raise usage(f"--force-recovery and {flag} exclude each other: {why}; nothing was done")
    return given


_AGAINST_FORCE_RECOVERY: Final = {
    "--force-trust": "who leaves rows out is not trusted by the same word; look at `status` first",
    "--new-set": "that is for an instance without data",
    "--rejoin": "that takes the data of another member instead",
}


def show(done: Sequence[Process], *, wanted_running: bool, hint: str = "") -> int:
    """One line an instance. Returns the exit code."""
    print_records(
        ("NAME", "ADDRESS", "PID", "STATE"),
        [(p.name, p.listen or "-", str(p.pid or "-"), _WORDS[p.state.value, p.changed]) for p in done],
        [record(p) for p in done],
    )
    good = ("running", "loading") if wanted_running else ("stopped",)
    bad = [p for p in done if p.state.value not in good]
    for process in bad:
        if process.message:
            print_error(SynchroError(process.message, reason=process.reason, instance=process.name))
    if hint and not bad and options.output == "table":
        print(hint)
    return EXIT_FAILED if bad else 0


def record(process: Process) -> dict[str, Any]:
    return {
        "name": process.name,
        "listen": process.listen,
        "state": process.state.value,
        "pid": process.pid,
        "log": str(process.log),
        "changed": process.changed,
        "message": process.message or None,
    }


@config.command("check")
@file_argument
def config_check(file: str) -> None:
    """Check a configuration: every mistake with file, line and the nearest valid key."""
    loaded = _loaded(file)
    elsewhere = _check_files(loaded)
    for warning in loaded.warnings:
        print(f"warning: {warning}")
    if elsewhere:
        print(f"not looked at, since they are on other hosts: the files of {', '.join(elsewhere)}")
    print(f"{file}: {len(loaded.instances)} instances: {', '.join(loaded.instances)}")


def _check_files(loaded: ClusterConfig) -> list[str]:
    """As `serve` will, of the instances whose files are on this host; returns the names of the others. Raises
    `ConfigFileError`."""
    from synchro.cli.applications import names_here
    from synchro.config.file import ConfigFileError
    from synchro.config.schema import ConfigProblem
    from synchro.process.files import are_here, are_named, problems_of

    listed = names_here(loaded)
    named = {name: one.settings for name, one in loaded.instances.items() if are_named(one.settings)}
    here = {name: own for name, own in named.items() if (name in listed if listed else are_here(own))}
    problems = [
        ConfigProblem(str(loaded.path), 0, key, f"{name}: {why}")
        for name, own in here.items()
        for key, why in problems_of(own)
    ]
    if problems:
        raise ConfigFileError(problems)
    return [name for name in named if name not in here]


@config.command("show")
@file_argument
@click.option("-i", "--instance", metavar="NAME", default="", help="One of them.")
def config_show(file: str, instance: str) -> None:
    """Show what the instances of a file are set to, defaults included."""
    loaded = _loaded(file)
    names = [instance] if instance else list(loaded.instances)
    print_value({name: loaded.instance(name).tree() for name in names})


def _loaded(file: str) -> ClusterConfig:
    """Of a file, or of the directory that it is in, as `start` finds it; named as it was typed."""
    from synchro.cli.process_table import config_path
    from synchro.config import file as config_file

    path = config_path(file)
    return config_file.load_all(path if path.exists() else file)


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of a configuration, for editors."""
    import json

    from synchro.config.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2))
