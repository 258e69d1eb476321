"""Texts that people read speak of what they can type here: commands of `synchro` and keys of its file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import synchro

SOURCES = sorted(
    path for path in Path(synchro.__file__).parent.rglob("*.py") if "generated" not in path.parts
)
FOREIGN = re.compile(
    r"\bbox\.(ctl|cfg|info|schema|space)\b"  # calls of Tarantool's Lua
    r"|\breplication_[a-z_]+"  # its options under their Lua names
    r"|\bNew leader is\b"
)


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings that are no documentation: constants, and those inside of f-strings."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    documentation |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCES[0].parent)))
def test_no_text_names_what_only_tarantool_has(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [(line, text) for line, text in texts(tree) if " " in text and FOREIGN.search(text)]
    assert not found
