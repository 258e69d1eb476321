"""The pages of docs/tutorials/ and the runbook do what they say, command by command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.tutorials.pages import Session, parse

pytestmark = pytest.mark.e2e
DOCS = Path(__file__).resolve().parents[3] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
PAGES = [page for page in TUTORIALS if "```console" in page.read_text()]


@pytest.mark.parametrize(
    "page", [*PAGES, pytest.param(DOCS / "runbook.md", marks=pytest.mark.long)], ids=lambda p: p.stem
)
def test_the_page_is_true(page: Path, tmp_path: Path) -> None:
    session = Session(page.name, tmp_path)
    try:
        session.play(parse(page.read_text(encoding="utf-8")))
    except BaseException:
        session.close()
        raise
    assert session.close() == []
