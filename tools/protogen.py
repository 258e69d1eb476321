"""Make synchro/rpc/generated from proto/. `--check`: only tell whether it is up to date (exit code 1 if not).

The generated code is committed, so that using the package needs no protoc. Its modules live in the package
`synchro.rpc.generated`, not in `synchro.v1` as their proto package would have it; the imports are rewritten.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PROTO: Final = ROOT / "proto"
GENERATED: Final = ROOT / "synchro" / "rpc" / "generated"
PACKAGE: Final = "synchro.rpc.generated"

_PROTO_PACKAGE: Final = r"synchro\.((?:peer\.|fault\.)?v1)"
_REWRITES: Final = (
    (re.compile(rf"^from {_PROTO_PACKAGE} import", re.MULTILINE), rf"from {PACKAGE}.\1 import"),
    (re.compile(rf"^import {_PROTO_PACKAGE}\.", re.MULTILINE), rf"import {PACKAGE}.\1."),
    (re.compile(rf"'{_PROTO_PACKAGE}\.(\w+_pb2)'"), rf"'{PACKAGE}.\1.\2'"),
    # The generated code needs no more than pyproject.toml asks for.
    (re.compile(r"GRPC_GENERATED_VERSION = '1\.85\.\d+'"), "GRPC_GENERATED_VERSION = '1.85.0'"),
)
_VERSIONS: Final = (
    re.compile(r"(?<=^GRPC_GENERATED_VERSION = ').*(?=')", re.MULTILINE),
    re.compile(r"(?<=^# Protobuf Python Version: ).*", re.MULTILINE),
    re.compile(r"(?<=Domain\.PUBLIC,)\s+\d+,\s+\d+,\s+\d+(?=,)"),
)
"""Versions of the compiler: not compared, or each release of it would fail the check of old commits."""


def protoc(out: Path) -> None:
    """Run the compiler on every own proto file."""
    from grpc_tools import protoc as compiler  # type: ignore[import-untyped]

    well_known = Path(compiler.__file__).parent / "_proto"
    programs = Path(sys.executable).parent
    files = sorted(str(file.relative_to(PROTO)) for file in (PROTO / "synchro").rglob("*.proto"))
    code = compiler.main(
        [
            "protoc",
            f"-I{PROTO}",
            f"-I{PROTO / 'third_party'}",
            f"-I{well_known}",
            f"--plugin=protoc-gen-mypy={programs / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={programs / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *files,
        ]
    )
    if code != 0:
        raise SystemExit(f"protoc failed with exit code {code}")


def generate() -> Mapping[str, str]:
    """Path below synchro/rpc/generated -> text."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        protoc(out)
        made = {
            str(file.relative_to(out / "synchro")): file.read_text(encoding="utf-8")
            for file in sorted((out / "synchro").rglob("*.py*"))
            if file.is_file()
        }
    for pattern, replacement in _REWRITES:
        made = {name: pattern.sub(replacement, text) for name, text in made.items()}
    packages = {Path()} | {parent for name in made for parent in Path(name).parents}
    text = '"""Generated from proto/ by tools/protogen.py. Do not edit."""\n'
    return made | {str(package / "__init__.py"): text for package in packages}


def present() -> Mapping[str, str]:
    return {
        str(file.relative_to(GENERATED)): file.read_text(encoding="utf-8")
        for file in GENERATED.rglob("*.py*")
        if file.is_file() and file.suffix in {".py", ".pyi"}
    }


def is_same(one: str | None, other: str | None) -> bool:
    """Apart from `_VERSIONS`."""
    if one is None or other is None:
        return one is other
    for pattern in _VERSIONS:
        one, other = pattern.sub("", one), pattern.sub("", other)
    return one == other


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: protogen.py [--check]", file=sys.stderr)
        return 2
    wanted, found = generate(), present()
    names = sorted(wanted.keys() | found.keys())
    different = [name for name in names if not is_same(wanted.get(name), found.get(name))]
    if arguments:
        for name in different:
            print(f"synchro/rpc/generated/{name} is not what proto/ gives; run: make proto", file=sys.stderr)
        return 1 if different else 0
    different = [name for name in names if wanted.get(name) != found.get(name)]
    for name in different:
        file = GENERATED / name
        if name in wanted:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(wanted[name], encoding="utf-8")
        else:
            file.unlink()
    print(f"{len(different)} of {len(wanted)} files written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
