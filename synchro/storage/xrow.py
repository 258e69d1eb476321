"""Row <-> bytes: what lies in a WAL block and travels in a stream frame. Rules [W-1], [W-3], [D-40].

A row is a header of 24 bytes, little-endian: body length u32, type u8, flags u8, origin u8, group u8,
LSN u64, TSN u64; then 16 bytes of request id if `FLAG_REQUEST_ID` is set (on the last row, or on rows of a
shared transaction, ADR 13); then the body (`row_body.py`).

A shared transaction is one of global changes with LSNs without a gap. Its rows have a request id each, or
`FLAG_SHARED` each: then one of them at least has no request id.

A transaction is a run of rows up to the one with `FLAG_COMMIT`. Its bytes are made once, by its origin.

Hot path: changes of one transaction stay columns (`Puts`) where they can, rows are not made at all
(`PlainTxn`), `tuple.__new__` builds the named tuples (half the cost of calling the class), one precompiled
`Struct` reads the header, and scalars are recognised without a Python loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from struct import Struct
from struct import error as _StructError
from typing import Final, NamedTuple, cast

from synchro.errors import DecodeError
from synchro.ids import INSTANCE_ID_MAX, LOCAL, REQUEST_ID_BYTES, InstanceId, Lsn, RequestId, Term
from synchro.row import (
    CONTROL_TYPES,
    FLAG_COMMIT,
    FLAG_REQUEST_ID,
    FLAG_SHARED,
    FLAG_WAIT_ACK,
    FLAG_WAIT_SYNC,
    GROUP_DEFAULT,
    Demote,
    Dml,
    PlainTxn,
    Promote,
    Puts,
    Row,
    RowType,
    Txn,
    new_tuple,
)
from synchro.storage.msgpack_check import MALFORMED, unpack_all, why_malformed
from synchro.storage.row_body import (
    DML_TYPES,
    PARSERS,
    PREFIX_BYTES,
    PUT_TYPES,
    SPACE_BY_PREFIX,
    encode_body,
)

ROW_HEADER: Final = Struct("<IBBBBQQ")
ROW_HEADER_BYTES: Final = ROW_HEADER.size

_INNER_HEADER: Final = Struct("<IxBxB16x")
"""Of `ROW_HEADER`: body length, flags, group."""
_PUT_HEADER: Final = Struct("<I4sQ14s")
"""A row of `_decode_puts`: body length; type, flags, origin and group; LSN; TSN and the start of the body."""
_SHARED_PUT_HEADER: Final = Struct("<I4sQ8s16s6s")
"""A row of a shared transaction, as `_PUT_HEADER`; the request id stands between the TSN and the start of the
body."""

_FLAGS_KNOWN: Final = FLAG_COMMIT | FLAG_WAIT_SYNC | FLAG_WAIT_ACK | FLAG_REQUEST_ID | FLAG_SHARED
_FLAGS_WRONG: Final = frozenset(
    f for f in range(256) if f & ~_FLAGS_KNOWN or (f & FLAG_WAIT_ACK and not f & FLAG_WAIT_SYNC)
)
_FLAGS_WRONG_ALONE: Final = _FLAGS_WRONG | frozenset(f for f in range(256) if f & FLAG_SHARED)
"""Of a transaction of one row: it shares with nobody."""
_FLAGS_INNER: Final = FLAG_REQUEST_ID | FLAG_SHARED
"""What a row that is not the last may have."""
_TYPES: Final[dict[int, RowType]] = {int(t): t for t in RowType}
_RAFT: Final = RowType.RAFT
_WITH_TERM: Final = frozenset({int(RowType.PROMOTE), int(RowType.DEMOTE)})
_ALONE_OR_LOCAL: Final = CONTROL_TYPES | {RowType.RAFT}


class TxnSpan(NamedTuple):
    """Where one transaction lies in a run of bytes, and what a relay must know to send it or not.

    origin, lsn: as in `Txn`. local_lsn: highest LSN of component 0 it moves; 0 = it has no local rows.
    term: of the PROMOTE or DEMOTE it consists of, else None.
    """

    start: int
    end: int
    origin: InstanceId
    lsn: Lsn
    local_lsn: Lsn
    flags: int
    type: RowType
    term: Term | None

    @property
    def is_local(self) -> bool:
        return self.origin == LOCAL


def encode_txn(rows: Sequence[Row]) -> Txn:
    """One transaction from its rows; sets COMMIT on the last, REQUEST_ID where there is one [W-3]."""
    pack = ROW_HEADER.pack
    parts: list[bytes] = []
    add = parts.append
    rows = list(rows)
    last = len(rows) - 1
    for number, row in enumerate(rows):
        kind, origin, lsn, tsn, flags, body, group, request_id = row
        flags |= (FLAG_COMMIT if number == last else 0) | (0 if request_id is None else FLAG_REQUEST_ID)
        if flags != row.flags:
            rows[number] = row._replace(flags=flags)
        raw = (type(body) is Dml and body.raw) or encode_body(body)
        add(pack(len(raw), kind, flags, origin, group, lsn, tsn))
        if request_id is not None:
            assert len(request_id) == REQUEST_ID_BYTES
            add(request_id)
        add(raw)
    return Txn(rows, b"".join(parts))


def encode_ops(
    ops: Sequence[Dml],
    origin: InstanceId,
    first_lsn: Lsn,
    flags: int,
    request_ids: Sequence[RequestId | None] = (),
) -> PlainTxn:
    """One transaction of these changes, all global, with the LSNs from `first_lsn` on.

    flags: of the last row; COMMIT, and what the request ids ask for, is added [W-3]. request_ids: as in
    `Txn`.
    """
    flags |= FLAG_COMMIT
    tail = b""
    if request_ids and (last_id := request_ids[-1]) is not None:
        flags |= FLAG_REQUEST_ID
        tail = last_id
        assert len(tail) == REQUEST_ID_BYTES
    pack = ROW_HEADER.pack
    last = len(ops) - 1
    if not last:
        (op,) = ops
        raw = op.raw or encode_body(op)
        head = pack(len(raw), op.type, flags, origin, GROUP_DEFAULT, first_lsn, first_lsn)
        return PlainTxn(ops, b"".join((head, tail, raw)), origin, first_lsn, flags, request_ids)
    if type(ops) is Puts:
        raws, kinds = ops.raws, [int(ops.type)] * len(ops)
    else:
        raws, kinds = [op.raw or encode_body(op) for op in ops], [op.type for op in ops]
    is_shared = len(request_ids) > 1
    assert not is_shared or len(request_ids) == last + 1
    names: Sequence[bytes] = ()
    inner: Iterable[int] = repeat(0)
    if is_shared and None in request_ids:
        flags |= FLAG_SHARED
        names = [request_id or b"" for request_id in request_ids]
        inner = [FLAG_SHARED | FLAG_REQUEST_ID if name else FLAG_SHARED for name in names]
    elif is_shared:
        names, inner = cast("Sequence[RequestId]", request_ids), repeat(FLAG_REQUEST_ID)
    zero, lsns = repeat(0), range(first_lsn, first_lsn + last)
    heads = list(map(pack, map(len, raws), kinds, inner, repeat(origin), zero, lsns, repeat(first_lsn)))
    lsn = Lsn(first_lsn + last)
    heads.append(pack(len(raws[-1]), kinds[-1], flags, origin, GROUP_DEFAULT, lsn, first_lsn))
    if is_shared:
        assert set(map(len, names)) <= {0, REQUEST_ID_BYTES}
        data = b"".join(chain.from_iterable(zip(heads, names, raws, strict=True)))
    else:
        heads[-1] += tail
        data = b"".join(chain.from_iterable(zip(heads, raws, strict=True)))
    return PlainTxn(ops, data, origin, lsn, flags, request_ids)


def shared_bytes(puts: Puts) -> int:
    """The most bytes that `Txn.data` of a shared transaction of them has."""
    return sum(map(len, puts.raws)) + len(puts) * (ROW_HEADER_BYTES + REQUEST_ID_BYTES)


def decode_txns(data: bytes) -> list[Txn]:
    """The transactions of a run of whole ones; each `Txn.data` is a slice of `data`.

    Raises `DecodeError` for anything else, and nothing but that. details: offset (of the row).
    """
    txns: list[Txn] = []
    unpack_header, parsers, wrong = ROW_HEADER.unpack_from, PARSERS, _FLAGS_WRONG_ALONE
    size, pos = len(data), 0
    try:
        while pos < size:
            length, kind_number, flags, origin, group, lsn, tsn = unpack_header(data, pos)
            if not flags & FLAG_COMMIT:
                next_row = pos + 24 + length + (REQUEST_ID_BYTES if flags & FLAG_REQUEST_ID else 0)
                found = None
                if data[pos + 4 : pos + 8] == data[next_row + 4 : next_row + 8]:
                    found = _decode_puts(data, pos)
                txn, pos = found or _decode_changes(data, pos) or _decode_rows(data, pos)
                txns.append(txn)
                continue
            body_start = pos + 24
            request_ids: tuple[RequestId, ...] = ()
            if flags & FLAG_REQUEST_ID:
                request_ids = (RequestId(data[body_start : body_start + REQUEST_ID_BYTES]),)
                body_start += REQUEST_ID_BYTES
            end = body_start + length
            if end > size:
                raise ValueError("the row is longer than the data")
            kind, parse = parsers[kind_number]
            if flags in wrong or origin > 31 or group > 1 or not lsn or (group and origin):
                raise ValueError(f"wrong header: flags {flags}, origin {origin}, group {group}, LSN {lsn}")
            body = parse(kind, data[body_start:end])
            start, pos = pos, end
            if tsn != lsn or (kind is _RAFT and not group):
                raise ValueError(f"{kind.name} with LSN {lsn}, TSN {tsn}, group {group}")
            if origin and type(body) is Dml:
                txns.append(PlainTxn((body,), data[start:end], origin, lsn, flags, request_ids))
            else:
                request_id = request_ids[0] if request_ids else None
                row = new_tuple(Row, (kind, origin, lsn, tsn, flags, body, group, request_id))
                txns.append(Txn((row,), data[start:end]))
    except (*MALFORMED, _StructError) as error:
        raise _bad_row(error, pos) from error
    return txns


def _bad_row(error: Exception, pos: int) -> DecodeError:
    why = "unknown row type" if isinstance(error, KeyError) and not isinstance(error.args[0], str) else ""
    return DecodeError(f"bad row at offset {pos}: {why or why_malformed(error)}", offset=pos)


def _decode_puts(data: bytes, start: int) -> tuple[PlainTxn, int] | None:
    """The transaction at `start`, and its end, if it is a sound one of INSERTs or REPLACEs into one space.

    None: `_decode_rows` must look at it. It accepts all that this accepts, and has the reasons of refusals.
    """
    try:
        _, kind_number, first_flags, origin, group, first_lsn, tsn = ROW_HEADER.unpack_from(data, start)
        is_named = first_flags == FLAG_REQUEST_ID
        body_at = 24 + REQUEST_ID_BYTES if is_named else 24
        kind = PUT_TYPES.get(kind_number)
        prefix = data[start + body_at : start + body_at + PREFIX_BYTES]
        space_id = SPACE_BY_PREFIX.get(prefix)
        if kind is None or space_id is None or group or not 0 < origin <= INSTANCE_ID_MAX:
            return None
        if first_lsn != tsn or not first_lsn or first_flags not in (0, FLAG_REQUEST_ID, FLAG_SHARED):
            return None
        ids: list[RequestId | None] = []
        raws: list[bytes] = []
        add, add_id = raws.append, ids.append
        pos, lsn = start, first_lsn
        same = data[start + 4 : start + 8]
        if is_named:
            unpack_shared, tsn_bytes = _SHARED_PUT_HEADER.unpack_from, data[start + 16 : start + 24]
            while True:
                length, row_same, row_lsn, row_tsn, request_id, row_prefix = unpack_shared(data, pos)
                if row_same != same or row_lsn != lsn or row_tsn != tsn_bytes or row_prefix != prefix:
                    break
                add_id(request_id)
                pos += 40
                add(data[pos : pos + length])
                pos += length
                lsn += 1
        else:
            unpack_plain, tail = _PUT_HEADER.unpack_from, data[start + 16 : start + 30]
            while True:
                length, row_same, row_lsn, row_tail = unpack_plain(data, pos)
                if row_same != same or row_tail != tail or row_lsn != lsn:
                    break
                pos += 24
                add(data[pos : pos + length])
                pos += length
                lsn += 1
            if first_flags:
                ids = [None] * len(raws)
        length, row_kind, flags, row_origin, group, row_lsn, tsn = ROW_HEADER.unpack_from(data, pos)
        if (row_kind, row_origin, group, row_lsn, tsn) != (kind_number, origin, 0, lsn, first_lsn):
            return None
        if not flags & FLAG_COMMIT or flags in _FLAGS_WRONG or (flags ^ first_flags) & FLAG_SHARED:
            return None
        pos += 24
        if flags & FLAG_REQUEST_ID:
            ids.append(RequestId(data[pos : pos + REQUEST_ID_BYTES]))
            pos += REQUEST_ID_BYTES
        elif first_flags:
            if is_named:
                return None
            ids.append(None)
        end = pos + length
        if end > len(data) or not data.startswith(prefix, pos):
            return None
        add(data[pos:end])
        values = unpack_all([raw[PREFIX_BYTES:] for raw in raws])
    except (*MALFORMED, _StructError):
        return None
    ops = Puts(kind, space_id, raws, values)
    return PlainTxn(ops, data[start:end], InstanceId(origin), lsn, flags, ids), end


def _decode_changes(data: bytes, start: int) -> tuple[PlainTxn, int] | None:
    """The same for changes of every kind."""
    unpack_header, parsers = ROW_HEADER.unpack_from, PARSERS
    try:
        _, _, first_flags, origin, _, first_lsn, _ = unpack_header(data, start)
        if not first_lsn or not 0 < origin <= INSTANCE_ID_MAX or first_flags & ~_FLAGS_INNER:
            return None
        ops: list[Dml] = []
        ids: list[RequestId | None] = []
        is_unnamed = first_flags & FLAG_SHARED
        flags, pos, lsn = first_flags, start, first_lsn - 1
        while flags == first_flags or (is_unnamed and not flags & ~_FLAGS_INNER):
            length, kind_number, flags, row_origin, group, row_lsn, tsn = unpack_header(data, pos)
            lsn += 1
            if row_lsn != lsn or tsn != first_lsn or row_origin != origin or group:
                return None
            if (flags ^ first_flags) & FLAG_SHARED:
                return None
            pos += 24
            if flags & FLAG_REQUEST_ID:
                ids.append(RequestId(data[pos : pos + REQUEST_ID_BYTES]))
                pos += REQUEST_ID_BYTES
            elif is_unnamed:
                ids.append(None)
            kind, parse = parsers[kind_number]
            if kind not in DML_TYPES:
                return None
            end = pos + length
            ops.append(cast("Dml", parse(kind, data[pos:end])))
            pos = end
    except (*MALFORMED, _StructError):
        return None
    if not flags & FLAG_COMMIT or flags in _FLAGS_WRONG or pos > len(data):
        return None
    if first_flags and len(ids) != len(ops):
        return None
    if is_unnamed and None not in ids:
        return None
    return PlainTxn(ops, data[start:pos], InstanceId(origin), lsn, flags, ids), pos


def _decode_rows(data: bytes, start: int) -> tuple[Txn, int]:
    """The transaction of several rows at `start`, and its end. Raises `DecodeError`."""
    rows: list[Row] = []
    unpack_header, parsers, wrong = ROW_HEADER.unpack_from, PARSERS, _FLAGS_WRONG
    size, pos = len(data), start
    try:
        while pos < size:
            length, kind_number, flags, origin, group, lsn, tsn = unpack_header(data, pos)
            body_start = pos + 24
            request_id = None
            if flags & FLAG_REQUEST_ID:
                request_id = data[body_start : body_start + REQUEST_ID_BYTES]
                body_start += REQUEST_ID_BYTES
            end = body_start + length
            if end > size:
                raise ValueError("the row is longer than the data")
            kind, parse = parsers[kind_number]
            if flags in wrong or origin > 31 or group > 1 or not lsn or (group and origin):
                raise ValueError(f"wrong header: flags {flags}, origin {origin}, group {group}, LSN {lsn}")
            body = parse(kind, data[body_start:end])
            rows.append(new_tuple(Row, (kind, origin, lsn, tsn, flags, body, group, request_id)))
            pos = end
            if flags & FLAG_COMMIT:
                _check_txn(rows)
                return Txn(tuple(rows), data[start:end]), end
            if flags & ~_FLAGS_INNER:
                raise ValueError("flags on a row that is not the last of its transaction")
    except (*MALFORMED, _StructError) as error:
        raise _bad_row(error, pos) from error
    raise DecodeError("found a not finished transaction in the log", offset=start)  # [W-24]


def _check_txn(rows: Sequence[Row]) -> None:
    """Rows of one transaction belong together [W-3]; ValueError if not."""
    tsn = rows[0].tsn
    origin = 0
    last_lsn = last_local = 0
    for kind, row_origin, lsn, row_tsn, _flags, _body, group, _request_id in rows:
        if row_tsn != tsn:
            raise ValueError(f"rows of transactions {tsn} and {row_tsn} are mixed")
        if kind in _ALONE_OR_LOCAL and (kind is not _RAFT or not group):
            raise ValueError(f"{kind.name} is not alone in its transaction, or not local")
        if group:
            if lsn <= last_local:
                raise ValueError(f"LSN {lsn} follows {last_local}")
            last_local = lsn
            continue
        if lsn <= last_lsn:
            raise ValueError(f"LSN {lsn} follows {last_lsn}")
        if not last_lsn:
            origin = row_origin
            if lsn != tsn:
                raise ValueError(f"TSN {tsn}, but the first global row has LSN {lsn}")
        elif origin != row_origin:
            raise ValueError(f"rows of instances {origin} and {row_origin} in one transaction")
        last_lsn = lsn
    if not last_lsn and rows[0].lsn != tsn:
        raise ValueError(f"TSN {tsn}, but the first row has LSN {rows[0].lsn}")
    if any(row.request_id is not None for row in rows[:-1]) or any(row.flags & FLAG_SHARED for row in rows):
        _check_shared(rows)


def _check_shared(rows: Sequence[Row]) -> None:
    """Each row is the change of another call (ADR 13); ValueError if not."""
    flagged = sum(row.flags & FLAG_SHARED != 0 for row in rows)
    is_each_named = all(row.request_id is not None for row in rows)
    if flagged == len(rows) and is_each_named:
        raise ValueError("a flag says that calls have no request id, and each has one")
    if flagged not in (0, len(rows)):
        raise ValueError("some rows of a transaction are marked as shared, and some are not")
    if not flagged and not is_each_named:
        raise ValueError("request ids on some rows of a transaction, and not on the last one alone")
    if any(row.group_id or row.type not in DML_TYPES for row in rows):
        raise ValueError("a shared transaction has a row that is local or no change")
    if rows[-1].lsn - rows[0].lsn != len(rows) - 1:
        raise ValueError("the LSNs of a shared transaction have a gap")


def scan_txns(data: bytes) -> list[TxnSpan]:
    """What `decode_txns` would find, from the headers alone (bodies of PROMOTE and DEMOTE excepted).

    For bytes that were decoded or CRC-checked before; still raises only `DecodeError`.
    """
    spans: list[TxnSpan] = []
    unpack_header, unpack_inner, types = ROW_HEADER.unpack_from, _INNER_HEADER.unpack_from, _TYPES
    size, pos, start = len(data), 0, 0
    try:
        while pos < size:
            length, kind, flags, origin, group, lsn, _tsn = unpack_header(data, pos)
            end = pos + 24 + length + (REQUEST_ID_BYTES if flags & FLAG_REQUEST_ID else 0)
            if end > size:
                raise ValueError("the row is longer than the data")
            local = 0
            if group:
                origin, lsn, local = LOCAL, 0, lsn
            if not flags & FLAG_COMMIT:
                last_global = last_local = -1
                while not flags & FLAG_COMMIT and end < size:
                    pos = end
                    length, flags, group = unpack_inner(data, pos)
                    end = pos + 24 + length + (REQUEST_ID_BYTES if flags & FLAG_REQUEST_ID else 0)
                    if end > size:
                        raise ValueError("the row is longer than the data")
                    if group:
                        last_local = pos
                    else:
                        last_global = pos
                if not flags & FLAG_COMMIT:
                    break
                if last_local >= 0:
                    local = unpack_header(data, last_local)[5]
                if last_global >= 0:
                    _, _, _, origin, _, lsn, _ = unpack_header(data, last_global)
            if not lsn:
                lsn = local
            term = _term_of(data[start:end]) if kind in _WITH_TERM else None
            spans.append(new_tuple(TxnSpan, (start, end, origin, lsn, local, flags, types[kind], term)))
            pos = start = end
    except (*MALFORMED, _StructError) as error:
        raise DecodeError(f"bad row at offset {pos}: {why_malformed(error)}", offset=pos) from error
    if start != size:
        raise DecodeError("found a not finished transaction in the log", offset=start)
    return spans


def _term_of(data: bytes) -> Term:
    control = decode_txns(data)[0].control
    assert isinstance(control, Promote | Demote)
    return control.term
