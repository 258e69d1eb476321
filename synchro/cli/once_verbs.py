"""The verb for what runs once in the life of a replica set."""

from __future__ import annotations

from typing import Any, Final

from synchro.cli.arguments import argument, complete_file
from synchro.cli.connection import client, options
from synchro.cli.data_verbs import open_input, short
from synchro.cli.formatting import print_value, usage
from synchro.cli.program import program

BYTES_MAX: Final = 1 << 20
"""Of the operations: as of a configuration, where they may stand too."""


@program.command("once")
@argument("key", "KEY", "What the operations are known by.")
@argument(
    "operations",
    "FILE|OPERATIONS",
    "A file with a list of operations; -: standard input; or the list itself.",
    shell_complete=complete_file,
)
def once(key: str, operations: str) -> None:
    """Run operations once in the life of the set: '[{"create_space": {"name": "s"}}]'. YAML or JSON.

    Nothing is done if KEY was done before, on whichever instance. Changes of the schema come first. They are
    one transaction, changes of tuples are another; if that one fails, the same KEY goes on with it.
    """
    wanted = _read(operations)
    with client() as db:
        ran = db.once(key, wanted, timeout=options.timeout_s)
    txn = f"{ran.txn[0]}:{ran.txn[1]}" if ran.txn else None
    if options.output != "table":
        print_value({"key": key, "executed": ran.executed, "executed_by": ran.executed_by, "txn": txn})
    elif ran.executed:
        print(f"once '{key}': executed by {ran.executed_by}   txn {txn}")
    else:
        by = f" by {ran.executed_by}" if ran.executed_by else ""
        print(f"once '{key}': was executed before{by}, nothing was done")


def _read(text: str) -> list[Any]:
    from synchro.config.located import NotYaml, compose
    from synchro.config.view import plain

    name = "the list of operations"
    data: str | bytes = text
    if not text.lstrip().startswith(("[", "{")):
        name = text
        with open_input(text) as file:
            try:
                data = file.read(BYTES_MAX + 1)
            except OSError as error:
                raise usage(f"cannot read {text}: {error.strerror}; nothing was done") from error
    if len(data) > BYTES_MAX:
        raise usage(f"{name} has more than {BYTES_MAX} bytes; nothing was done")
    try:
        found = plain(compose(data, source=name))
    except NotYaml as error:
        place = f"{name}:{error.line}" if error.line else name
        raise usage(f"{place}: not YAML: {error}; nothing was done") from error
    if not isinstance(found, list):
        raise usage(
            f"{name} is no list of operations, as [{{create_space: {{name: test}}}}]; got {short(str(found))}"
        )
    return found
