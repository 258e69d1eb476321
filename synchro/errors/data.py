"""Errors of tuples, keys and definitions, and of calls that are wrong. See `kinds`."""

from __future__ import annotations

from synchro.errors.kinds import AlreadyThere, BadInput, Code, Exit, Extra, SynchroError


class TupleFound(AlreadyThere):
    """A unique index has this key; both tuples are in the details [D-9].

    details: space, index, key (not if the index is being built), old_tuple, new_tuple.
    """

    reason = "TUPLE_FOUND"
    tnt_code = 3
    next_command = "synchro replace SPACE TUPLE   or   synchro get SPACE KEY"


class SpaceExists(AlreadyThere):
    """A space of this name exists."""

    reason = "SPACE_EXISTS"
    tnt_code = 10
    extra = Extra.RESOURCE
    advice = "`--if-not-exists`"
    next_command = "--if-not-exists   or   synchro space show NAME"


class IndexExists(AlreadyThere):
    """An index of this name exists."""

    reason = "INDEX_EXISTS"
    tnt_code = 85
    extra = Extra.RESOURCE
    next_command = "--if-not-exists   or   synchro space show SPACE"


class NoSuchSpace(SynchroError):
    """No space of this name."""

    reason = "NO_SUCH_SPACE"
    tnt_code = 36
    code = Code.NOT_FOUND
    extra = Extra.RESOURCE
    exit_code = Exit.NOT_FOUND
    next_command = "synchro space list"


class NoSuchIndex(SynchroError):
    """No index of this name."""

    reason = "NO_SUCH_INDEX"
    tnt_code = 35
    code = Code.NOT_FOUND
    extra = Extra.RESOURCE
    exit_code = Exit.NOT_FOUND
    advice = "`synchro space show`"
    next_command = "synchro space show NAME"


class SequenceExists(AlreadyThere):
    """A sequence of this name exists."""

    reason = "SEQUENCE_EXISTS"
    extra = Extra.RESOURCE
    advice = "`--if-not-exists`"
    next_command = "--if-not-exists   or   synchro sequence list"


class NoSuchSequence(SynchroError):
    """No sequence of this name."""

    reason = "NO_SUCH_SEQUENCE"
    code = Code.NOT_FOUND
    extra = Extra.RESOURCE
    exit_code = Exit.NOT_FOUND
    next_command = "synchro sequence list"


class SequenceOverflow(SynchroError):
    """A sequence that does not cycle has given its last value; nothing was written.

    details: sequence, last.
    """

    reason = "SEQUENCE_OVERFLOW"
    code = Code.RESOURCE_EXHAUSTED
    advice = "give it other bounds, or set it"
    next_command = "synchro sequence alter NAME --max N   or   synchro sequence set NAME VALUE"


class SequenceNotStarted(SynchroError):
    """The sequence has no value yet: it gave none since it was made or reset."""

    reason = "SEQUENCE_NOT_STARTED"
    code = Code.FAILED_PRECONDITION
    next_command = "synchro sequence next NAME"


class OnceDiffers(AlreadyThere):
    """Other operations of `once` were begun under this key, and not finished; nothing was done now."""

    reason = "ONCE_DIFFERS"
    advice = "run the former ones"
    next_command = "synchro select _schema"


class FieldType(BadInput):
    """A field has another type than the format or index says."""

    reason = "FIELD_TYPE"
    tnt_code = 23


class FieldMissing(BadInput):
    """The tuple is too short for the format or an index."""

    reason = "FIELD_MISSING"
    tnt_code = 39


class WrongFormat(BadInput):
    """Malformed msgpack, a tuple that is no array, a bad definition."""

    reason = "WRONG_FORMAT"


class KeyPartType(BadInput):
    """A part of the key has the wrong type."""

    reason = "KEY_PART_TYPE"
    tnt_code = 18


class ExactMatch(BadInput):
    """The key needs all parts of the index."""

    reason = "EXACT_MATCH"
    tnt_code = 19


class KeyPartCount(BadInput):
    """The key has more parts than the index."""

    reason = "KEY_PART_COUNT"
    tnt_code = 31


class MoreThanOneTuple(BadInput):
    """`get` found more than one tuple."""

    reason = "MORE_THAN_ONE_TUPLE"
    tnt_code = 41
    advice = "use `select`"


class IteratorType(BadInput):
    """The index does not support this iterator."""

    reason = "ITERATOR_TYPE"
    tnt_code = 72


class UnsupportedIndexFeature(BadInput):
    """The index cannot do this."""

    reason = "UNSUPPORTED_INDEX_FEATURE"
    tnt_code = 112


class NoSuchField(BadInput):
    """An update names a field that the tuple does not have."""

    reason = "NO_SUCH_FIELD"
    tnt_code = 37


class UpdateArgType(BadInput):
    """An update operation got an argument of the wrong type."""

    reason = "UPDATE_ARG_TYPE"
    tnt_code = 26


class UpdateSplice(BadInput):
    """A splice with wrong offsets."""

    reason = "UPDATE_SPLICE"
    tnt_code = 25


class UpdateIntegerOverflow(BadInput):
    """The sum does not fit an integer."""

    reason = "UPDATE_INTEGER_OVERFLOW"
    tnt_code = 95


class UpdateDecimalOverflow(BadInput):
    """The sum has more digits before the point than a decimal has, or is no number."""

    reason = "UPDATE_DECIMAL_OVERFLOW"


class UnknownUpdateOp(BadInput):
    """No such update operation."""

    reason = "UNKNOWN_UPDATE_OP"
    tnt_code = 28


class CantUpdatePrimaryKey(BadInput):
    """An update would change the primary key."""

    reason = "CANT_UPDATE_PRIMARY_KEY"
    tnt_code = 94
    advice = "delete and insert"


class BatchTooLarge(BadInput):
    """A tuple, transaction or answer over its limit. details: limit, got."""

    reason = "BATCH_TOO_LARGE"
    advice = "split it, or raise the limit"


class MemoryIssue(SynchroError):
    """The data would need more than `memtx.memory`; nothing was done. details: used, limit, needed."""

    reason = "MEMORY_ISSUE"
    tnt_code = 2
    code = Code.RESOURCE_EXHAUSTED
    advice = "delete rows, or raise the limit on all members"


class IllegalParams(BadInput):
    """The call itself is wrong."""

    reason = "ILLEGAL_PARAMS"
    tnt_code = 1
    exit_code = Exit.USAGE


class Unsupported(BadInput):
    """This combination is not possible."""

    reason = "UNSUPPORTED"
    tnt_code = 5


class Unimplemented(SynchroError):
    """Known and described, not built yet."""

    reason = "UNIMPLEMENTED"
    code = Code.UNIMPLEMENTED
