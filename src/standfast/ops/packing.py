"""Ops as bytes, for the journal and the mirror."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from standfast.ops.types import Op

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Op).decode
_decode_batch = msgspec.msgpack.Decoder(list[tuple[Op, int | None]]).decode
#: Prefix of a pointer that is kept as JSON text, since UTF-8 has no lone surrogates.  No real
#: pointer begins with it.
_ESCAPED = "\0"


def pack(op: Op) -> bytes:
    """The bytes of an op; `unpack` restores it completely."""
    try:
        return _encode(op)
    except UnicodeEncodeError:
        return _encode(_escaped(op))


def unpack(data: bytes) -> Op:
    """The op that was packed."""
    return _plain(_decode(data))


def pack_batch(batch: Sequence[tuple[Op, int | None]]) -> bytes:
    """The bytes of ops with the versions that they were given."""
    try:
        return _encode(batch)
    except UnicodeEncodeError:
        return _encode([(_escaped(op), version) for op, version in batch])


def unpack_batch(data: bytes) -> list[tuple[Op, int | None]]:
    """The batch that was packed."""
    return [(_plain(op), version) for op, version in _decode_batch(data)]


def _escaped(op: Op) -> Op:
    return msgspec.structs.replace(op, pointer=_ESCAPED + json.dumps(op.pointer))


def _plain(op: Op) -> Op:
    if not op.pointer.startswith(_ESCAPED):
        return op
    return msgspec.structs.replace(op, pointer=json.loads(op.pointer[1:]))
