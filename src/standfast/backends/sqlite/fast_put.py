"""A batch of plain puts, as most writes are: each is one statement, and nothing is read first.

What is not plain is left to `write`, which decides everything: conditions, groups, replays, resends
of what the lane has applied already, and the first batch of a lane or a collection.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from standfast.backends.base import encode_outcomes
from standfast.backends.sqlite.known import KnownTables
from standfast.ops.types import Applied, Op, Outcome

# The row of the lane shows whether these ops are new, and whether they may be applied (R2).
_GATE = (
    "UPDATE _standfast_lanes SET watermark = ?, outcomes = ?, updated_at = ?"
    " WHERE lane = ? AND generation = 0 AND state = 'open' AND watermark >= ? AND watermark < ?"
)
_UNBURY = "DELETE FROM _standfast_tombstones WHERE collection = ? AND key = ?"


class NotPlain(Exception):
    """These ops are decided by the general way; the transaction is to be rolled back."""


def put_batch(
    conn: apsw.Connection,
    known: KnownTables,
    ops: Sequence[Op],
    *,
    expected_watermark: int,
    now_us: int,
) -> Applied:
    """Apply plain puts (`is_plain`) inside the caller's transaction."""
    collection = ops[0].collection
    known.hold()
    table = known.get(collection)
    if table is None or not table.table.ready:
        raise NotPlain
    execute = known.execute
    outcomes: list[Outcome] = []
    for op in ops:
        expires_us = now_us + op.ttl_us if op.ttl_us else None
        version = execute(table.update, (op.body, now_us, expires_us, op.key)).get
        if version is None:
            values = (op.key, op.body, now_us, expires_us, collection)
            version = execute(table.insert, values).get
            if version is None:
                raise NotPlain
            execute(_UNBURY, (collection, op.key))
        outcomes.append(Outcome(op.seq, "applied", version, op.body))
    watermark = ops[-1].seq
    lane = (ops[0].lane, expected_watermark, ops[0].seq)
    execute(_GATE, (watermark, encode_outcomes(outcomes), now_us, *lane))
    if conn.changes() != 1:
        raise NotPlain
    return Applied(outcomes, watermark)
