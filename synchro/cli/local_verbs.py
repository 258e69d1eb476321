"""Verbs that need no server: init, start, stop, restart, serve, config."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from synchro.cli.connection import options, parse_duration
from synchro.cli.formatting import EXIT_FAILED, print_error, print_records, print_value, usage
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from synchro.cli.processes import Process

TargetArgument = Annotated[str, typer.Argument(metavar="CONFIG[:NAME]", help="File, or directory of `init`.")]
TrustOption = Annotated[
    bool, typer.Option("--force-trust", help="Let it vote with the log it has, though rows may be lost.")
]
NewSetOption = Annotated[
    bool, typer.Option("--new-set", help="Its data is gone: forget its set, make or join another.")
]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="Listen where other hosts can connect.")]
_WORDS: Final = {
    ("running", True): "started",
    ("running", False): "running already",
    ("loading", True): "started, waits for its peers",
    ("loading", False): "running already, waits for its peers",
    ("stopped", True): "stopped",
    ("stopped", False): "not running",
    ("exited", True): "failed",
    ("exited", False): "failed",
    ("stuck", True): "stuck",
    ("stuck", False): "stuck",
    ("foreign", True): "stopped, but something answers",
    ("foreign", False): "not running, but something answers",
}


def register(app: typer.Typer) -> None:
    app.command("init")(init)
    app.command("serve")(serve)
    app.command("start")(start)
    app.command("stop")(stop)
    app.command("restart")(restart)
    config = typer.Typer(help="Check and show configurations.", rich_markup_mode=None, no_args_is_help=True)
    config.command("check")(config_check)
    config.command("show")(config_show)
    config.command("schema")(config_schema)
    app.add_typer(config, name="config")


def init(
    directory: Annotated[str, typer.Argument(metavar="DIR")],
    nodes: Annotated[int, typer.Option("--nodes", help="Number of instances.")] = 3,
    base_port: Annotated[int, typer.Option("--base-port", help="Port of the first one.")] = 3301,
    failover: Annotated[str, typer.Option("--failover", help="election, manual or off.")] = "election",
) -> None:
    """Write the configuration of a local set."""
    from synchro.cli import processes

    if failover not in ("election", "manual", "off"):
        raise usage(f"--failover is election, manual or off, not {failover!r}")
    path = processes.init(directory, nodes=nodes, base_port=base_port, failover=failover)
    print(f"wrote {path}: {nodes} instances on ports {base_port} to {base_port + nodes - 1}")
    print(f"next:  synchro start {path}")


def serve(
    config: Annotated[str, typer.Option("--config", help="YAML file of the whole set.")] = "",
    name: Annotated[str, typer.Option("--name", help="Which of its instances.")] = "",
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Without a file.")] = "",
    data_dir: Annotated[str, typer.Option("--data-dir", metavar="DIR")] = "",
    replication: Annotated[str, typer.Option("--replication", metavar="HOST:PORT,...")] = "",
    read_only: Annotated[bool, typer.Option("--read-only")] = False,
    insecure: InsecureOption = False,
    force_trust: TrustOption = False,
    new_set: NewSetOption = False,
    fault_service: Annotated[bool, typer.Option("--fault-service", hidden=True)] = False,
) -> int:
    """Run one instance in the foreground."""
    from synchro.cli.processes import READY_FILE
    from synchro.config import file as config_file
    from synchro.config import template
    from synchro.config.address import check_has_address, check_listen

    if config:
        if not name:
            raise usage("serve --config FILE needs --name NAME")
        if listen or data_dir or replication or read_only:
            raise usage("serve: either --config and --name, or --listen and --data-dir")
        own = config_file.load_all(config).instance(name)
        settings, warnings = own.settings, own.warnings
    elif listen and data_dir:
        has_login = "@" in replication
        warnings = ("logins in --replication are not used: this release has no login",) * has_login
        settings = template.settings_without_file(
            listen=listen,
            data_dir=data_dir,
            replication=replication,
            read_only=read_only,
            name=name or None,
        )
    else:
        raise usage("serve needs --config FILE --name NAME, or --listen HOST:PORT --data-dir DIR")
    check_has_address(settings)
    check_listen(settings, insecure=insecure)
    arguments = {
        "--config": config and os.path.abspath(config),
        "--name": name,
        "--listen": listen,
        "--data-dir": data_dir,
        "--replication": replication,
    }
    given = [part for key, value in arguments.items() if value for part in (key, value)]
    flags = [*(["--read-only"] if read_only else []), *(["--insecure"] if insecure else [])]
    again = shlex.join(["synchro", "serve", *given, *flags])
    is_foreground = READY_FILE not in os.environ  # else `synchro start` started it
    if not is_foreground:
        again = shlex.join(["synchro", "restart", f"{os.path.abspath(config)}:{name}", *flags])
    settings = replace(
        settings,
        force_trust=force_trust,
        new_set=new_set,
        fault_service=fault_service,
        again=again,
        is_foreground=is_foreground,
    )
    from synchro.process.serve import serve as serve_instance

    return serve_instance(settings, warnings)


def start(
    target: TargetArgument,
    insecure: InsecureOption = False,
    force_trust: TrustOption = False,
    new_set: NewSetOption = False,
) -> int:
    """Start instances in the background; returns when they are up."""
    from synchro.cli import processes

    parsed = processes.parse_target(target)
    extra = _decisions(force_trust, new_set)
    if extra and (running := [p.name for p in processes.processes(parsed) if p.is_running]):
        runs = f"{', '.join(running)} {'runs' if len(running) == 1 else 'run'}"
        raise usage(
            f"{' '.join(extra)} is for a start, but {runs}; nothing was done. "
            f"Next: synchro restart {target} {' '.join(extra)}"
        )
    for warning in parsed.config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    timeout_s = parse_duration(options.timeout) if options.timeout else processes.START_TIMEOUT_S
    done = processes.start(parsed, timeout_s=timeout_s, insecure=insecure, extra=extra)
    return show(done, wanted_running=True, hint=f"next:  synchro -e {listen_list(done)} status")


def stop(
    target: TargetArgument,
    kill: Annotated[bool, typer.Option("--kill", help="SIGKILL what does not end in time.")] = False,
) -> int:
    """Stop instances."""
    from synchro.cli import processes

    parsed, error = processes.target_to_stop(target)
    if error is not None:
        print(f"warning: {error.message}", file=sys.stderr)
        print("warning: stopping what var/run and the process table know", file=sys.stderr)
    timeout_s = parse_duration(options.timeout) if options.timeout else processes.STOP_TIMEOUT_S
    return show(processes.stop(parsed, timeout_s=timeout_s, kill=kill), wanted_running=False)


def restart(
    target: TargetArgument,
    insecure: InsecureOption = False,
    kill: Annotated[bool, typer.Option("--kill", help="SIGKILL what does not end in time.")] = False,
    force_trust: TrustOption = False,
    new_set: NewSetOption = False,
) -> int:
    """Stop, then start."""
    from synchro.cli import processes

    parsed = processes.parse_target(target)
    timeout_s = parse_duration(options.timeout) if options.timeout else processes.START_TIMEOUT_S
    return show(
        processes.restart(
            parsed,
            timeout_s=timeout_s,
            insecure=insecure,
            kill=kill,
            extra=_decisions(force_trust, new_set),
        ),
        wanted_running=True,
    )


def _decisions(force_trust: bool, new_set: bool) -> list[str]:
    """What a person decides for one start, as arguments of `serve`."""
    return [*(["--force-trust"] if force_trust else []), *(["--new-set"] if new_set else [])]


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


def listen_list(done: Sequence[Process]) -> str:
    return ",".join(p.listen for p in done if p.listen)


def config_check(file: Annotated[str, typer.Argument(metavar="FILE")]) -> None:
    """Check a configuration: every mistake with file, line and the nearest valid key."""
    from synchro.config import file as config_file

    loaded = config_file.load_all(file)
    for warning in loaded.warnings:
        print(f"warning: {warning}")
    print(f"{file}: {len(loaded.instances)} instances: {', '.join(loaded.instances)}")


def config_show(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    instance: Annotated[str, typer.Option("-i", "--instance", help="One of them.")] = "",
) -> None:
    """Show what the instances of a file are set to, defaults included."""
    from synchro.config import file as config_file

    loaded = config_file.load_all(file)
    names = [instance] if instance else list(loaded.instances)
    print_value({name: loaded.instance(name).tree() for name in names})


def config_schema() -> None:
    """Print the JSON Schema of a configuration, for editors."""
    import json

    from synchro.config.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2))
