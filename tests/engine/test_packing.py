"""Ops as bytes: everything in them comes back."""

from __future__ import annotations

import pytest

from standfast.ops.build import build_op
from standfast.ops.types import Op, pack, pack_batch, unpack, unpack_batch


@pytest.mark.parametrize(
    "op",
    [
        build_op("put", "c", "8138", body={"a": ["\ud800", "\u0000", 2**70, 1e-7]}, ttl_s=5),
        build_op("append", "c", "k", pointer="/a\ud800/~1", body=1),
        build_op("increment", "c", "", pointer="", body=2**80),
        build_op("delete", "c", "é", if_version=3),
        Op(
            lane="l",
            seq=2**60,
            kind="patch",
            collection="c",
            key="k",
            body="{}",
            pending=(("l", 1), ("m", 2)),
            replay=True,
            seen="present",
            base='{"a":1}',
            reject="reason",
            at_us=1,
            origin=("x", 7),
        ),
    ],
)
def test_an_op_comes_back(op: Op) -> None:
    """I11: keys, pointers and texts of every kind survive the journal and the mirror."""
    assert unpack(pack(op)) == op
    assert unpack_batch(pack_batch([(op, 5), (op, None)])) == [(op, 5), (op, None)]
