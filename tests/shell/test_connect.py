"""`synchro connect APP:INSTANCE`: verbs for one instance, one a line. [C-3]"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import trio

from tests.shell.test_values import cli, served

CONFIG = """
groups:
  g:
    replicasets:
      r:
        instances:
          one: {{grpc: {{listen: [{{uri: '{address}'}}]}}}}
          two: {{grpc: {{listen: [{{uri: '127.0.0.1:1'}}]}}}}
"""


async def typed(monkeypatch: pytest.MonkeyPatch, target: str, text: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return await trio.to_thread.run_sync(lambda: cli("127.0.0.1:1", "--timeout", "2s", "connect", target))


async def test_lines_are_verbs_for_that_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is that of the last one; what was given to `connect` counts for each of them."""
    async with served(with_rows=False) as (_, address):
        (tmp_path / "config.yaml").write_text(CONFIG.format(address=address))
        target = f"{tmp_path}:one"
        lines = "insert s '[1, \"a b\"]'\n\nget s '[1]'\n"
        code, out, err = await typed(monkeypatch, target, lines)
        assert (code, err) == (0, "") and out.splitlines()[-1] == '[1, "a b"]'
        code, out, err = await typed(monkeypatch, target, "get s '[9]'\nexit\nget s '[1]'\n")
        assert (code, out, err) == (7, "", "")
        code, out, err = await typed(monkeypatch, target, "get s '[1\n")
        assert code == 2 and "No closing quotation" in err
        assert (await typed(monkeypatch, target, "nonsense\n"))[0] == 2


@pytest.mark.parametrize(
    ("name", "code", "why"),
    [
        (":two", 3, "cannot connect"),
        ("", 2, "connect needs one instance"),
        (":three", 2, "no such instance"),
    ],
)
async def test_whom_nobody_can_talk_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, why: str
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.format(address="127.0.0.1:2"))
    found, out, err = await typed(monkeypatch, f"{tmp_path}{name}", "get s 1\n")
    assert (found, out) == (code, "") and why in err
