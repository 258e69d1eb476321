"""The committed gRPC code is what proto/ gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_generated_code_is_up_to_date() -> None:
    pytest.importorskip("grpc_tools")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "protogen.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_every_message_field_and_method_is_described() -> None:
    """The protos are the reference that users of other languages read."""
    for file in (ROOT / "proto" / "synchro").rglob("*.proto"):
        before = ""
        for number, line in enumerate(file.read_text().splitlines(), 1):
            text = line.strip()
            declares = text.endswith(("{", "{}", ";")) and not text.startswith(
                ("syntax", "import", "//", "option", "}")
            )
            if declares:
                assert before.startswith("//"), f"{file.name}:{number}: {text}"
            before = text
