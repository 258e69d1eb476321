"""Imports point downward only, and cores are pure: read with `ast`, compared with the table of
docs/architecture.md, "Who may import whom"."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "synchro"

# --- the table ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What one row of the table allows: full names; one that ends in `.*` stands for all below it too."""

    always: frozenset[str]
    in_functions: frozenset[str]


def _read_table() -> dict[str, Row]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## Who may import whom\n")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line]
    groups = {cells[0]: cells[1] for cells in lines if len(cells) == 2}
    top = {path.stem for path in PACKAGE.iterdir()}

    def names(cell: str) -> frozenset[str]:
        words = " ".join(groups.get(word, word) for word in cell.split()).replace("`", "").split()
        return frozenset(f"synchro.{word}" if word.partition(".")[0] in top else word for word in words)

    table = {}
    for module, always, in_functions in (cells for cells in lines if len(cells) == 3 and "`" in cells[0]):
        name = module.strip("`")
        table["synchro" if name == "__init__" else f"synchro.{name}"] = Row(
            names(always), names(in_functions)
        )
    return table


TABLE = _read_table()
"""Prefix of a module -> its row in docs/architecture.md."""

CORES = tuple(
    f"synchro.{name}"
    for name in (
        *("ids", "vclock", "row", "errors", "json_form", "config.settings", "config.quorum_formula"),
        *("values", "msgpack_ext"),
        *("config.option", "config.options", "config.values", "config.schema", "config.json_schema"),
        *("raft", "queue", "replication", "storage", "instance"),
        *(
            "wire.limits",
            "wire.frames",
            "wire.headers",
            "wire.floods",
            "wire.flow",
            "wire.streams",
            "wire.connection",
            "wire.grpc_call",
            "wire.backoff",
            "client.data_stream",
        ),
    )
)
NOT_CORES = tuple(
    f"synchro.storage.{name}"
    for name in ("disk", "wal", "log_thread", "wal_reader", "identity", "replacement")
)
ON_A_DISK = tuple(
    f"synchro.storage.{name}"
    for name in (
        *("journal", "xlog_file", "notes", "recovery", "salvage", "snapshot"),
        "kept_tuples",
    )
)
"""Work on the `Disk` they are given, real or simulated; pure otherwise."""

IMPURE_MODULES = frozenset(
    [
        "asyncio",
        "concurrent",
        "contextvars",
        "glob",
        "grpc",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "queue",
        "sched",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "trio",
        "uuid",
        "weakref",
    ]
)
"""Clocks, files, threads, the network and sources of randomness: a core gets their results as arguments."""
PURE_NAMES = {
    "uuid": {"UUID"},
    "os": {"strerror"},
    "pathlib": {"PurePath", "PurePosixPath"},
    "io": {"BytesIO"},
    "threading": {"local"},
}
"""Value types of such modules, and a place to work for each thread; `from uuid import UUID` is good."""
IMPURE_CALLS = frozenset({"open", "input", "print", "exec", "eval", "breakpoint", "id"})
NOW = frozenset({"now", "utcnow", "today"})

LIGHT = ("synchro.cli", "synchro.client", "synchro.process.serve", "synchro.__main__", "synchro.config")
NOT_LIGHT = tuple(f"synchro.client.{name}" for name in ("aio", "on_trio", "trio_runner", "trio_stream"))
HEAVY = frozenset({"trio", "structlog", "rich"})


# --- reading the sources --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    target: str
    """The module, or module.name, as written."""
    line: int
    lazy: bool
    typing_only: bool


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    _name(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "generated" not in path.parts and not path.name.startswith(".")
}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def _is_typing_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _imports_under(node: ast.AST, *, lazy: bool, typing_only: bool, package: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names, lineno=line):
                for alias in names:
                    yield Import(alias.name, line, lazy, typing_only)
            case ast.ImportFrom(module=source, names=names, level=level, lineno=line):
                base = ".".join(package.split(".")[: len(package.split(".")) - level + 1]) if level else ""
                prefix = ".".join(part for part in (base, source or "") if part)
                for alias in names:
                    whole = f"{prefix}.{alias.name}"
                    yield Import(whole if whole in MODULES else prefix, line, lazy, typing_only)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _imports_under(child, lazy=True, typing_only=typing_only, package=package)
            case ast.If() if _is_typing_guard(child):
                yield from _imports_under(child, lazy=lazy, typing_only=True, package=package)
            case _:
                yield from _imports_under(child, lazy=lazy, typing_only=typing_only, package=package)


@cache
def imports(module: str) -> tuple[Import, ...]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return tuple(_imports_under(_tree(module), lazy=False, typing_only=False, package=package))


def _is_under(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def _is_named(target: str, names: frozenset[str]) -> bool:
    """`target`: a module, or a module and a name in it; a library with all its parts."""
    if not target.startswith("synchro"):
        return target.partition(".")[0] in names
    below = [target[:at] for at, char in enumerate(target) if char == "."]
    return target in names or any(f"{name}.*" in names for name in (*below, target))


def _row(module: str) -> Row | None:
    rows = [prefix for prefix in TABLE if prefix != "synchro" and _is_under(module, (prefix,))]
    name = max(rows, key=len, default="synchro")
    return None if name == "synchro" and module != "synchro" else TABLE[name]


def _is_core(module: str) -> bool:
    return _is_under(module, CORES) and not _is_under(module, NOT_CORES)


CORE_MODULES = [module for module in MODULES if _is_core(module)]


# --- a server process has neither asyncio nor grpcio ------------------------------------------------------


SERVING = ("synchro.rpc", "synchro.server", "synchro.wire", "synchro.process")


@pytest.mark.parametrize("module", [module for module in MODULES if _is_under(module, SERVING)])
def test_a_server_has_neither_asyncio_nor_grpcio(module: str) -> None:
    """Each `*_pb2_grpc` imports grpc; the generated messages do not."""
    names = {
        alias.name
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not [name for name in names if name.endswith("_pb2_grpc")]
    found = {each.target.partition(".")[0] for each in imports(module)}
    assert not found & {"asyncio", "grpc"}


# --- imports point downward ------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    row = _row(module)
    assert row is not None, f"{module} has no row in the table of docs/architecture.md"
    problems = []
    for item in imports(module):
        top = item.target.partition(".")[0]
        if top == "__future__" or (top in sys.stdlib_module_names and top != "synchro"):
            continue
        allowed = row.always | row.in_functions if item.lazy else row.always
        if item.target != "synchro" and not _is_named(item.target, allowed):
            problems.append(f"{MODULES[module]}:{item.line}: {module} may not import {item.target}")
        # A format is a function from bytes to rows: the files behind it are the shell's.
        shell = NOT_CORES[1:] if _is_under(module, ON_A_DISK) else NOT_CORES
        if _is_core(module) and _is_under(item.target, shell):
            problems.append(f"{MODULES[module]}:{item.line}: a core may not import {item.target}")
    assert not problems, "\n".join(problems)


def test_every_row_of_the_table_has_a_module() -> None:
    assert not [prefix for prefix in TABLE if not any(_is_under(module, (prefix,)) for module in MODULES)]


def _circles() -> list[list[str]]:
    """Groups of modules that import each other, by whatever path [Tarjan]."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    circles = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        path.append(module)
        for item in imports(module):
            if item.target not in MODULES:
                continue
            if item.target not in order:
                visit(item.target)
            if item.target in path:
                lowest[module] = min(lowest[module], lowest[item.target])
        if lowest[module] == order[module]:
            group = path[path.index(module) :]
            del path[path.index(module) :]
            if len(group) > 1:
                circles.append(sorted(group))

    for module in MODULES:
        if module not in order:
            visit(module)
    return circles


def test_no_modules_import_each_other() -> None:
    """`TYPE_CHECKING` and imports inside functions are no way around it."""
    assert _circles() == []


def test_cores_do_not_know_each_other() -> None:
    names = ("raft", "queue", "replication", "storage")
    for name in names:
        others = {f"synchro.{other}.*" for other in names if other != name}
        assert not others & TABLE[f"synchro.{name}"].always


def test_client_verbs_start_without_the_server_s_libraries() -> None:
    """Start-up under 250 ms: nothing a client verb imports at start pulls in trio, structlog or rich."""
    light = [m for m in MODULES if _is_under(m, LIGHT) and not _is_under(m, NOT_LIGHT)]
    chains = {module: module for module in light}
    todo = list(light)
    while todo:
        module = todo.pop()
        for item in imports(module):
            if item.lazy or item.typing_only:
                continue
            top = item.target.partition(".")[0]
            assert top not in HEAVY, f"{chains[module]} -> {item.target}"
            if item.target in MODULES and item.target not in chains:
                chains[item.target] = f"{chains[module]} -> {item.target}"
                todo.append(item.target)


def test_parents_of_instances_do_not_import_grpc() -> None:
    """gRPC's threads do not survive a fork; `synchro start` needs none of it."""
    seen, todo = {"synchro.cli.processes"}, ["synchro.cli.processes"]
    while todo:
        for item in imports(todo.pop()):
            if not item.typing_only:
                assert item.target.partition(".")[0] not in ("grpc", "google"), item
                if item.target in MODULES and item.target not in seen:
                    seen.add(item.target)
                    todo.append(item.target)


# --- cores are pure -------------------------------------------------------------------------------------


def _impurities(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names, lineno=line):
                for alias in names:
                    if alias.name.partition(".")[0] in IMPURE_MODULES:
                        yield line, f"imports {alias.name}"
            case ast.ImportFrom(module=str(source), names=names, lineno=line):
                top = source.partition(".")[0]
                wrong = {alias.name for alias in names} - PURE_NAMES.get(source, set())
                if top in IMPURE_MODULES and wrong:
                    yield line, f"imports {sorted(wrong)} from {source}"
                if top == "random" and wrong - {"Random"}:
                    yield line, "uses the module-level random; take a random.Random as an argument"
            case ast.Attribute(value=ast.Name(id="random"), attr=attr, lineno=line) if attr != "Random":
                yield line, f"random.{attr}: take a random.Random as an argument"
            case ast.Call(func=ast.Attribute(attr="Random"), args=[], lineno=line):
                yield line, "random.Random() seeds itself from the operating system"
            case ast.Call(func=ast.Attribute(value=value, attr=attr), lineno=line) if attr in NOW:
                if ast.unparse(value).rpartition(".")[2] in ("datetime", "date"):
                    yield line, f"reads the clock: {ast.unparse(value)}.{attr}"
            case ast.Call(func=ast.Name(id=name), lineno=line) if name in IMPURE_CALLS:
                yield line, f"calls {name}()"
            case ast.AsyncFunctionDef(lineno=line) | ast.Await(lineno=line):
                yield line, "may not suspend"


@pytest.mark.parametrize("module", CORE_MODULES)
def test_cores_are_pure(module: str) -> None:
    problems = [f"{MODULES[module]}:{line}: {what}" for line, what in _impurities(_tree(module))]
    assert not problems, "\n".join(problems)


# --- the order of a set decides nothing ------------------------------------------------------------------

SET_TYPES = ("set", "frozenset", "Set", "AbstractSet", "MutableSet")
ORDER_FREE = frozenset({"sorted", "set", "frozenset", "any", "all", "sum", "len", "min", "max"})


def _is_set_type(annotation: ast.expr | None) -> bool:
    if annotation is None:
        return False
    text = ast.unparse(annotation).strip("'\"")
    return text.partition("[")[0].rpartition(".")[2] in SET_TYPES


def _set_names(tree: ast.AST) -> set[str]:
    """Names and attributes that are sets by annotation or by assignment; one scope a module is enough."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign(target=target, annotation=annotation) if _is_set_type(annotation):
                names.add(ast.unparse(target).removeprefix("self."))
            case ast.Assign(targets=[target], value=value) if _is_set(value, set()):
                names.add(ast.unparse(target).removeprefix("self."))
    return names


def _is_set(node: ast.expr, names: set[str]) -> bool:
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name in ("set", "frozenset")
        case ast.BinOp(left=left, right=right, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
            return _is_set(left, names) or _is_set(right, names)
        case ast.Name(id=name):
            return name in names
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return name in names
    return False


def _unordered_loops(tree: ast.Module) -> Iterator[tuple[int, str]]:
    names = _set_names(tree)
    free: set[ast.AST] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[ast.expr() as argument, *_]) if name in ORDER_FREE:
                free.add(argument)
    for node in ast.walk(tree):
        match node:
            case ast.For(iter=source, lineno=line) if _is_set(source, names):
                yield line, ast.unparse(source)
            case (
                ast.ListComp(generators=loops)
                | ast.GeneratorExp(generators=loops)
                | ast.DictComp(generators=loops)
            ):
                if node not in free:
                    yield from ((node.lineno, ast.unparse(x.iter)) for x in loops if _is_set(x.iter, names))
            case ast.Call(
                func=ast.Name(id="list" | "tuple" | "next" | "iter" | "enumerate"), args=[source, *_]
            ):
                if _is_set(source, names) and node not in free:
                    yield node.lineno, ast.unparse(source)
            case ast.Call(func=ast.Attribute(value=value, attr="pop"), args=[]) if _is_set(value, names):
                yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("module", CORE_MODULES)
def test_the_order_of_a_set_decides_nothing(module: str) -> None:
    """A replayed seed must take the same path: loop over sorted(...) or a dict."""
    problems = [
        f"{MODULES[module]}:{line}: iterates over the set {what}; use sorted()"
        for line, what in _unordered_loops(_tree(module))
    ]
    assert not problems, "\n".join(problems)


# --- the checks themselves -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from os import urandom",
        "import random\nx = random.random()",
        "import random\nx = random.Random()",
        "from random import shuffle",
        "import datetime\nx = datetime.datetime.now()",
        "from uuid import uuid4",
        "async def f(): pass",
        "x = open('f')",
    ],
)
def test_the_purity_check_sees(source: str) -> None:
    assert list(_impurities(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    ["from uuid import UUID", "import random\ndef f(r: random.Random): return r.random()", "import math"],
)
def test_the_purity_check_passes(source: str) -> None:
    assert not list(_impurities(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "for x in {1, 2}: pass",
        "s: set[int] = set()\nfor x in s: pass",
        "s = set(); y = [x for x in s]",
        "class A:\n  def __init__(self): self.s = set()\n  def f(self):\n    for x in self.s: pass",
        "s: frozenset[int]\ny = list(s | t)",
        "s = {1}\ns.pop()",
    ],
)
def test_the_set_check_sees(source: str) -> None:
    assert list(_unordered_loops(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "for x in sorted({1, 2}): pass",
        "s: set[int] = set()\ny = sum(x for x in s)",
        "s = set(); y = {x for x in s}",
        "d: dict[int, int] = {}\nfor x in d: pass",
    ],
)
def test_the_set_check_passes(source: str) -> None:
    assert not list(_unordered_loops(ast.parse(source)))
