"""Operations of `once` as people write them: in the file, where mistakes are found with their line, and as
messages. [D-25]"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from synchro.config import once
from synchro.config.file import ConfigFileError, parse
from synchro.config.option import Option, Section
from synchro.errors import IllegalParams, SynchroError, WrongFormat
from synchro.msgpack_ext import unpack_extension
from synchro.rpc import schema_form
from synchro.rpc.generated.v1 import schema_pb2

import msgpack  # isort: skip

SET = "groups: {g: {replicasets: {r: {instances: {i1: {grpc: {listen: [{uri: '127.0.0.1:3301'}]}}}}}}}\n"


def settings_of(operations: str) -> Any:
    text = f"{SET}once:\n  schema:\n{operations}"
    return parse(text, path="c.yaml", environ={}).instance("i1").settings.once


def test_the_file_gives_the_operations_as_they_stand_there() -> None:
    found = settings_of(
        "  - create_space: {name: bands, is_sync: true, format: [id:unsigned, {name: x, type: string}]}\n"
        "  - create_index: {space: bands, name: primary, parts: [id, 2], type: hash}\n"
        "  - insert: {space: bands, tuple: [1, {$decimal: '1.50'}, [2, {a: null}]]}\n"
    )
    assert [next(iter(operation)) for operation in found["schema"]] == [
        "create_space",
        "create_index",
        "insert",
    ]
    request = schema_form.run_once("schema", found["schema"])
    space, index = request.schema
    assert space.create_space.is_sync
    assert [(field.name, field.type) for field in space.create_space.format] == [
        ("id", "unsigned"),
        ("x", "string"),
    ]
    assert [part.WhichOneof("field_ref") for part in index.create_index.parts] == ["name", "field"]
    assert index.create_index.type == schema_pb2.INDEX_TYPE_HASH
    packed = msgpack.unpackb(request.ops[0].insert.tuple, ext_hook=unpack_extension)
    assert packed == [1, Decimal("1.50"), [2, {"a": None}]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("create_spac: {name: t}", "did you mean 'create_space'?"),
        ("create_space: {nam: t}", "did you mean 'name'?"),
        ("create_space: {is_sync: true}", "'name' is missing"),
        ("create_space:", "needs a map"),
        ("create_space: {name: t, sync: true}", "use is_sync"),
        ("create_space: {name: 5}", "expected a name"),
        ("{create_space: {name: t}, drop_space: {space: t}}", "a map with one key"),
        ("insert: {space: t, tuple: 3}", "expected a list of values"),
        ("insert: {space: t, tuple: [1]}\n  - create_space: {name: t}", "changes of the schema come first"),
        ("create_index: {space: t, name: i, type: btree}", "one of the following strings"),
        ("just words", "expected a map"),
        ("create_user: {name: app}", "stand under credentials in the file"),
        ("grant: {user: app}", "stand under credentials in the file"),
    ],
)
def test_a_mistake_in_the_file_is_found_there(line: str, said: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        settings_of(f"  - {line}\n")
    assert said in str(caught.value)
    assert caught.value.problems[0].line > 1


@pytest.mark.parametrize(
    ("operations", "kind"),
    [
        ([], IllegalParams),
        ([3], IllegalParams),
        ([{}], IllegalParams),
        ([{"create_space": {"name": "a"}, "drop_space": {"space": "a"}}], IllegalParams),
        ([{"make_space": {"name": "a"}}], IllegalParams),
        ([{"create_space": {"nam": "a"}}], IllegalParams),
        ([{"create_space": {"name": 3}}], IllegalParams),
        ([{"create_space": {"name": "a", "request_id": b"x"}}], IllegalParams),
        ([{"create_space": {"name": "a", "format": [3]}}], IllegalParams),
        ([{"create_space": {"name": "a", "format": "id"}}], IllegalParams),
        ([{"create_index": {"space": "a", "name": "i", "parts": [-1]}}], IllegalParams),
        ([{"create_index": {"space": "a", "name": "i", "type": "btree"}}], IllegalParams),
        ([{"insert": {"tuple": [1]}}], IllegalParams),
        ([{"insert": {"space": "a", "tuple": "x"}}], IllegalParams),
        ([{"insert": {"space": "a", "tuple": [1], "index": "i"}}], IllegalParams),
        ([{"insert": {"space": "a", "tuple": [{1, 2}]}}], WrongFormat),
        ([{"insert": {"space": "a", "tuple": [{"$decimal": "x"}]}}], WrongFormat),
        ([{"delete": {"space": "a", "key": 1}}, {"drop_space": {"space": "a"}}], IllegalParams),
    ],
)
def test_a_mistake_of_a_program_is_refused_before_anything_is_sent(
    operations: Any, kind: type[SynchroError]
) -> None:
    with pytest.raises(kind):
        schema_form.run_once("k", operations)


def test_file_and_messages_know_the_same_keys() -> None:
    """Else a file could ask for what no instance understands, or less than there is."""
    fields = {field.name: field for field in schema_pb2.SchemaChange.DESCRIPTOR.fields}
    of_the_call = {"request_id", "known_position", "timeout"}
    assert set(once.OPERATION.keys) == {*fields, *schema_form.DATA_VERBS}
    for verb, field in fields.items():
        section = once.OPERATION.keys[verb]
        assert field.message_type is not None
        assert isinstance(section, Section)
        assert set(section.keys) == set(field.message_type.fields_by_name) - of_the_call
        assert all(isinstance(option, Option) for option in section.keys.values())
