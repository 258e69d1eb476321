"""Schema changes and operations as people write them, in files and programs, as messages.

An operation is a map with one key: `{"create_space": {"name": "test"}}`, or `{"insert": {"space": "test",
"tuple": [1]}}`. Keys inside are those of the messages in proto/synchro/v1/schema.proto. Everything raises
`IllegalParams` or `WrongFormat`, before anything is sent or done. Clients and instances read the same forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from synchro import json_form
from synchro.errors import IllegalParams, WrongFormat
from synchro.msgpack_ext import packb
from synchro.rpc.generated.v1 import schema_pb2

Message: TypeAlias = Any
FieldSpec: TypeAlias = "str | tuple[str, str] | Mapping[str, Any]"
PartSpec: TypeAlias = "str | int | tuple[str | int, str] | Mapping[str, Any]"
SequenceSpec: TypeAlias = "bool | str | Mapping[str, Any] | None"
Operation: TypeAlias = "Mapping[str, Any]"
"""A map with one key, as above."""

_OF_THE_CALL: Final = frozenset({"request_id", "known_position", "timeout"})
"""Fields of a call of its own, which mean nothing in one of many."""
_POLICIES: Final = dict(schema_pb2.ConflictPolicy.items())
DIGITS_MAX: Final = 20


# --- formats and parts ----------------------------------------------------------------------------------


def fields(format: Iterable[FieldSpec]) -> list[Message]:
    """`"id"`, `"id:unsigned"`, `("id", "unsigned")` or `{"name":, "type":, "is_nullable":}`; a `?` at the
    end of a type: may be null."""
    made = []
    for spec in format:
        if isinstance(spec, Mapping):
            made.append(_filled(schema_pb2.FieldDef(), spec, "a field of a format"))
            continue
        name, kind = _pair(spec) if not isinstance(spec, str) else spec.partition(":")[::2]
        made.append(
            schema_pb2.FieldDef(name=name, type=kind.removesuffix("?"), is_nullable=kind.endswith("?"))
        )
    return made


def parts(specs: Iterable[PartSpec]) -> list[Message]:
    """A field by name or by number from 1, alone, with a type (`"id:unsigned"`), or as a mapping."""
    made = []
    for spec in specs:
        if isinstance(spec, Mapping):
            made.append(_filled(schema_pb2.KeyPart(), spec, "a part of a key"))
            continue
        field: object
        if isinstance(spec, str):
            field, kind = spec.partition(":")[::2]
        elif isinstance(spec, int):
            field, kind = spec, ""
        else:
            field, kind = _pair(spec)
        if isinstance(field, str) and field.isascii() and field.isdecimal() and len(field) <= DIGITS_MAX:
            field = int(field)
        part = schema_pb2.KeyPart(type=kind.removesuffix("?"), is_nullable=kind.endswith("?"))
        _set(part, "field" if isinstance(field, int) else "name", field, "a part of a key")
        made.append(part)
    return made


def index_type(name: object) -> int:
    """ "tree" or "hash", in any case, as in IndexType."""
    kind = f"INDEX_TYPE_{str(name).upper()}"
    if kind not in dict(schema_pb2.IndexType.items()):
        raise IllegalParams(f"index type is tree or hash, not {name!r}; nothing was done")
    return schema_pb2.IndexType.Value(kind)


def conflict_policy(name: object) -> int:
    """As in ConflictPolicy, in small letters. `IllegalParams`."""
    known = {
        word.removeprefix("CONFLICT_POLICY_").lower(): value for word, value in _POLICIES.items() if value
    }
    if not isinstance(name, str) or name not in known:
        raise IllegalParams(f"conflict is one of {', '.join(known)}, not {name!r}; nothing was done")
    return known[name]


def _pair(spec: Any) -> tuple[Any, str]:
    match spec:
        case [field, str(kind)]:
            return field, kind
        case [field]:
            return field, ""
    raise IllegalParams(f"a field is a name, a name and a type, or a map, not {spec!r}; nothing was done")


# --- operations -----------------------------------------------------------------------------------------


def run_once(key: str, operations: Iterable[Operation]) -> Message:
    """A RunOnceRequest. Changes of the schema stand before those of tuples."""
    if not isinstance(key, str):
        raise IllegalParams(f"the key of once is a string, not {key!r}; nothing was done")
    request = schema_pb2.RunOnceRequest(key=key)
    for number, operation in enumerate(operations, 1):
        where = f"operation {number}"
        if not isinstance(operation, Mapping) or len(operation) != 1:
            raise IllegalParams(
                f"{where} is a map with one key, as {{create_space: {{name: test}}}}, not {operation!r}; "
                "nothing was done"
            )
        ((verb, body),) = operation.items()
        if verb in DATA_VERBS:
            _change_of_tuples(request.ops.add(), verb, body, f"{where} ({verb})")
        elif verb not in SCHEMA_VERBS:
            known = ", ".join((*SCHEMA_VERBS, *DATA_VERBS))
            raise IllegalParams(
                f"{where}: {verb!r} is none of {known}; users and privileges have calls of their own; "
                "nothing was done"
            )
        elif request.ops:
            raise IllegalParams(
                f"{where} ({verb}) stands behind a change of tuples: changes of the schema come first, in a "
                "transaction of their own; nothing was done"
            )
        else:
            _fill(getattr(request.schema.add(), verb), verb, body, f"{where} ({verb})")
    if not request.ops and not request.schema:
        raise IllegalParams("once needs at least one operation; nothing was done")
    return request


def _fill(message: Message, verb: str, body: Any, where: str) -> None:
    message.SetInParent()
    if not isinstance(body, Mapping):
        raise IllegalParams(f"{where}: expected a map, got {body!r}; nothing was done")
    convert = _CONVERTED.get(verb, {})
    plain = {}
    for name, value in body.items():
        if name in convert:
            convert[name](message, value, f"{where}: {name!r}")
        else:
            plain[name] = value
    _filled(message, plain, where)


def _filled(message: Message, body: Mapping[str, Any], where: str) -> Message:
    """Sets plain fields by their names."""
    known = set(message.DESCRIPTOR.fields_by_name) - _OF_THE_CALL
    for name, value in body.items():
        if name not in known:
            raise IllegalParams(f"{where}: unknown key {name!r}; there are {', '.join(sorted(known))}")
        if value is not None:
            _set(message, name, value, where)
    return message


def _set(message: Message, name: str, value: Any, where: str) -> None:
    if name == "type" and message.DESCRIPTOR.fields_by_name[name].enum_type is not None:
        value = index_type(value)
    if name == "conflict":
        value = conflict_policy(value)
    try:
        setattr(message, name, value)
    except (TypeError, ValueError, AttributeError):
        raise IllegalParams(f"{where}: {value!r} is no value for {name!r}; nothing was done") from None


def _listed(value: Any, what: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise IllegalParams(f"{what} is a list, not {value!r}; nothing was done")
    return value


def _create_format(message: Message, format: Any, what: str) -> None:
    message.format.extend(fields(_listed(format, what)))


def _alter_format(message: Message, format: Any, what: str) -> None:
    message.format.SetInParent()
    message.format.fields.extend(fields(_listed(format, what)))


def _parts(message: Message, specs: Any, what: str) -> None:
    message.parts.extend(parts(_listed(specs, what)))


def _sequence(message: Message, spec: Any, what: str) -> None:
    if (made := index_sequence(spec, what)) is not None:
        message.sequence.CopyFrom(made)


def index_sequence(spec: SequenceSpec, what: str = "the sequence of an index") -> Message | None:
    """True: one that is made for the space; a name; or a map with `name` and `field`, by name or number from
    1. None, False: none."""
    if spec is None or spec is False:
        return None
    if isinstance(spec, Mapping):
        plain = {
            ("field_name" if type(spec[key]) is str and key == "field" else key): spec[key] for key in spec
        }
        return _filled(schema_pb2.IndexSequence(), plain, what)
    return _filled(schema_pb2.IndexSequence(), {} if spec is True else {"name": spec}, what)


_CONVERTED: Final[Mapping[str, Mapping[str, Callable[[Message, Any, str], None]]]] = {
    "create_space": {"format": _create_format},
    "alter_space": {"format": _alter_format},
    "create_index": {"parts": _parts, "sequence": _sequence},
}
"""verb -> fields that are written otherwise than in the message"""
SCHEMA_VERBS: Final = tuple(field.name for field in schema_pb2.SchemaChange.DESCRIPTOR.fields)


# --- tuples ---------------------------------------------------------------------------------------------

DATA_VERBS: Final[Mapping[str, Sequence[str]]] = {
    "insert": ("tuple",),
    "replace": ("tuple",),
    "update": ("key", "ops"),
    "upsert": ("tuple", "ops"),
    "delete": ("key",),
}
"""verb -> what it needs beside `space`"""


def _change_of_tuples(op: Message, verb: str, body: Any, where: str) -> None:
    if not isinstance(body, Mapping):
        raise IllegalParams(f"{where}: expected a map, got {body!r}; nothing was done")
    needed = DATA_VERBS[verb]
    for name in ("space", *needed):
        if name not in body:
            raise IllegalParams(f"{where}: {name!r} is missing; nothing was done")
    message = getattr(op, verb)
    for name, value in body.items():
        if name in needed:
            if name == "key" and not isinstance(value, list | tuple):
                value = (value,)
            what = f"{where}: {name!r}"
            setattr(message, name, packed(_listed(value, what), what))
        elif name == "space" or (name == "index" and "key" in needed):
            _set(message, f"{name}_id" if type(value) is int else name, value, where)
        else:
            known = ("space", *needed, *(("index",) if "key" in needed else ()))
            raise IllegalParams(f"{where}: unknown key {name!r}; there are {', '.join(known)}")


def packed(value: Any, where: str) -> bytes:
    """As msgpack. What JSON and YAML lack has the forms of `json_form`."""
    try:
        return packb(_decoded(value))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise WrongFormat(f"{where} cannot be stored: {error}; nothing was done") from error


def _decoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json_form.decode_object({key: _decoded(inner) for key, inner in value.items()})
    if isinstance(value, list | tuple):
        return tuple(map(_decoded, value))
    return value
