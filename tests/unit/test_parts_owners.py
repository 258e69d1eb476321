"""`instance.parts.Parts` holds references: the module that its field names is the only one that sets it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "synchro"
SET_BY = re.compile(r"Set by (nobody|`(\w+)`)[.:]")
NAMES = ("state", "_state")
"""What a reference to the holder is called, wherever it is kept."""


def fields() -> dict[str, str | None]:
    """Field -> the module that may set it, None for nobody."""
    tree = ast.parse((PACKAGE / "instance" / "parts.py").read_text(encoding="utf-8"))
    (holder,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Parts")
    found: dict[str, str | None] = {}
    for node, text in zip(holder.body, holder.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign):
            name = ast.unparse(node.target)
            said = SET_BY.match(ast.literal_eval(text.value) if isinstance(text, ast.Expr) else "")
            assert said is not None, f"Parts.{name}: say at the field who sets it"
            found[name] = said[2]
    return found


def targets(node: ast.AST) -> Iterator[ast.expr]:
    match node:
        case ast.Assign(targets=found) | ast.Delete(targets=found):
            for one in found:
                yield from one.elts if isinstance(one, ast.Tuple) else (one,)
        case ast.AugAssign(target=one) | ast.AnnAssign(target=one):
            yield one


def set_in(source: str) -> set[str]:
    """Fields of a holder that this code sets."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        for target in targets(node):
            if isinstance(target, ast.Attribute):
                holder = target.value
                name = holder.attr if isinstance(holder, ast.Attribute) else ast.unparse(holder)
                if name in NAMES:
                    found.add(target.attr)
    return found


def test_each_field_is_set_by_its_owner_only() -> None:
    owners = fields()
    assert len(owners) > 10
    setters: dict[str, set[str]] = {name: set() for name in owners}
    for path in PACKAGE.rglob("*.py"):
        module = path.stem if path.parent.name == "instance" else str(path.relative_to(PACKAGE))
        for name in set_in(path.read_text(encoding="utf-8")) & owners.keys():
            setters[name].add(module)
    assert setters == {name: set() if owner is None else {owner} for name, owner in owners.items()}


def test_the_holder_decides_nothing() -> None:
    """Who may write, terms and calls have modules of their own; what is left reads."""
    tree = ast.parse((PACKAGE / "instance" / "parts.py").read_text(encoding="utf-8"))
    (holder,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Parts")
    branches = (ast.If, ast.Raise, ast.While, ast.For, ast.Try, ast.Match)
    assert not [node for node in ast.walk(holder) if isinstance(node, branches)]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("state.settings = x", {"settings"}),
        ("self._state.raft = x", {"raft"}),
        ("core.state.is_doubled, y = x, 1", {"is_doubled"}),
        ("self._state.is_doubled |= x", {"is_doubled"}),
        ("del instance.state.log", {"log"}),
        ("state.log.vclock = x; settings = state.settings", set()),
    ],
)
def test_what_counts_as_setting(source: str, names: set[str]) -> None:
    assert set_in(source) == names
