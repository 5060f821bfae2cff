"""A batch of plain puts in one statement, and so in one round trip and one transaction.

Most writes are puts without a condition.  Their result does not depend on what is stored, so
nothing has to be read first: the statement checks and advances the watermark, upserts and logs; at
the end it makes sure that no tombstone has a higher version, and that none was forgotten (R17).
If anything is not plain, the server aborts, and the general transaction in `write` decides.  A
resend finds its ops at or below the watermark and skips them, and `recall_versions` finds out which
versions they were given.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import msgspec
from psycopg import Connection
from psycopg.types.numeric import Int8

from standfast.backends.postgres.tables import Table
from standfast.backends.postgres.write import TransactionOptions, Written, key_values, statement
from standfast.document.jsonb import JsonbColumns, jsonb_columns_of_many
from standfast.ops.types import KEEP_EXPIRY, Applied, Observed, Op, Outcome, State

_PUT: LiteralString = """
WITH passed AS (
    UPDATE standfast.lanes SET watermark = %(last)b, outcomes = '[]', updated_at = now(),
           directory = coalesce(%(directory)s::uuid, directory)
     WHERE lane = %(lane)s AND generation = 0 AND state = 'open'
       AND watermark >= %(expected_watermark)b AND watermark < %(first)b RETURNING 1),
done AS (
    INSERT INTO {table} AS t ({key}, data, raw, version, expires_at, created_at, updated_at)
    SELECT u.key, u.data::{data_type}, coalesce(u.raw, CASE WHEN u.keep THEN u.data END),
           c.version_floor + 1,
           now() + u.ttl * interval '1 microsecond', now(), now()
      FROM passed, standfast.collections c,
           unnest(%(keys)b::{key_type}[], %(data)b::text[], %(keep)b::boolean[],
                  %(raw)b::text[], %(ttl)b::bigint[]) AS u(key, data, keep, raw, ttl)
     WHERE c.name = %(collection)s
     ORDER BY {new_order}
    ON CONFLICT ({key}) DO UPDATE SET data = excluded.data, raw = excluded.raw,
        version = t.version + 1, expires_at = excluded.expires_at, updated_at = now(),
        created_at = CASE WHEN t.expires_at <= now() THEN now() ELSE t.created_at END
    RETURNING {key_text} AS key, t.version, {created_us} AS created_us, {expires_us} AS expires_us),
logged AS (
    INSERT INTO standfast.changes (collection, keys)
    SELECT %(collection)s, CASE WHEN %(count)b <= 1000 THEN %(texts)b::text[] END FROM passed)
SELECT key, version, created_us, (extract(epoch FROM now()) * 1000000)::bigint, expires_us,
       server_us, watermarks
  FROM standfast.finish_puts((SELECT count(*) FROM done d WHERE d.key = ANY (%(texts)b::text[])),
                            %(count)b, %(collection)s,
                            %(texts)b::text[],
                            (SELECT f.version_floor FROM standfast.collections f
                              WHERE f.name = %(collection)s), %(directory)s::uuid,
                            to_timestamp(0) + %(expires)b::bigint * interval '1 microsecond')
  LEFT JOIN done ON true
"""
#: The same where documents are put several times: only the last text of each is written.
_PUT_AGAIN: LiteralString = (
    _PUT.replace("c.version_floor + 1", "c.version_floor + u.times")
    .replace("%(ttl)b::bigint[]) AS u(", "%(ttl)b::bigint[], %(times)b::bigint[]) AS u(")
    .replace("raw, ttl)\n", "raw, ttl, times)\n")
    .replace(
        "t.version + 1",
        "t.version + excluded.version - (SELECT f.version_floor FROM standfast.collections f"
        " WHERE f.name = %(collection)s)",
    )
)
#: Where keys are text, they are sent only once.
_BY_TEXT: dict[LiteralString, LiteralString] = {
    form: form.replace("%(keys)b", "%(texts)b") for form in (_PUT, _PUT_AGAIN)
}


def is_plain(ops: Sequence[Op]) -> bool:
    """Whether a batch is puts to one collection without conditions, and nothing else."""
    first = ops[0]
    for op in ops:
        if (
            op.kind != "put"
            or op.if_version is not None
            or op.group
            or op.replay
            or op.ttl_us == KEEP_EXPIRY
            or op.seen != "unknown"
            or op.collection != first.collection
        ):
            return False
    return True


def _versions(ops: Sequence[Op], final: Mapping[str, int]) -> list[int]:
    """The version that each put made, where the last one of its document made the final one."""
    versions = dict(final)
    backwards: list[int] = []
    for op in reversed(ops):
        backwards.append(versions[op.key])
        versions[op.key] -= 1
    return backwards[::-1]


def _columns(ops: Sequence[Op]) -> list[JsonbColumns]:
    """What goes into `data` and `raw`; most ops know already."""
    texts = [op.body or "" for op in ops]
    if any(op.exact is None for op in ops):
        return jsonb_columns_of_many(texts)
    return [
        JsonbColumns(text, None if op.exact else text) for op, text in zip(ops, texts, strict=True)
    ]


_RECALL: LiteralString = """
SELECT {key_text}, t.version FROM {table} t, standfast.lanes l
 WHERE l.lane = %s AND l.generation = 0 AND t.xmin = l.xmin AND t.{key} = ANY (%b::{key_type}[])
"""


def recall_versions(
    conn: Connection[Any], table: Table, ops: Sequence[Op], written: Written
) -> Written:
    """The answer to a resend, with the versions that its plain puts were given the first time.

    Those are not stored with the lane.  A row that the same transaction has written as the lane's
    row still has its version; where another one has changed it since, the version stays unknown,
    and so do those of puts that others of the batch have overwritten.
    """
    applied = written.applied
    unknown = {
        outcome.seq
        for outcome in applied.outcomes
        if outcome.status == "skipped" and outcome.version is None
    }
    puts = {op.key: op.seq for op in ops if op.seq in unknown and op.kind == "put"}
    if not puts:
        return written
    found = conn.execute(statement(table, _RECALL), (ops[0].lane, key_values(table, puts)))
    versions = {puts[key]: version for key, version in found}
    outcomes = [
        msgspec.structs.replace(outcome, version=versions.get(outcome.seq, outcome.version))
        for outcome in applied.outcomes
    ]
    return written._replace(applied=msgspec.structs.replace(applied, outcomes=outcomes))


def put_batch(
    conn: Connection[Any], table: Table, ops: Sequence[Op], options: TransactionOptions
) -> Written:
    """Apply plain puts; the server's SF002 says that the general way has to."""
    written = ops
    form = _PUT
    if len(last := {op.key: op for op in ops}) < len(ops):
        written, form = list(last.values()), _PUT_AGAIN
    keys = [op.key for op in written]
    columns = _columns(written)
    odd = any(one.raw is not None and one.raw != one.data for one in columns)
    mortal = any(op.ttl_us for op in written)
    values: dict[str, Any] = {
        "lane": ops[0].lane,
        "expected_watermark": Int8(options.expected_watermark),
        "first": Int8(ops[0].seq),
        "last": Int8(ops[-1].seq),
        **({} if table.key_type == "text" else {"keys": key_values(table, keys)}),
        "texts": keys,
        "data": [one.data for one in columns],
        # The same text twice would cost twice; it differs only where jsonb refuses a character.
        "keep": [one.raw is not None for one in columns],
        # An array that is too short is filled up with NULL.
        "raw": [None if one.raw == one.data else one.raw for one in columns] if odd else [],
        "ttl": [Int8(op.ttl_us) if op.ttl_us else None for op in written] if mortal else [],
        "collection": table.collection,
        "directory": options.directory,
        "count": Int8(len(written)),
        "expires": None if options.expires_us is None else Int8(options.expires_us),
    }
    if written is not ops:
        times = Counter(op.key for op in ops)
        values["times"] = [Int8(times[key]) for key in keys]
    if table.key_type == "text":
        form = _BY_TEXT[form]
    records = conn.execute(statement(table, form), values).fetchall()
    at = time.monotonic()
    found = {record[0]: record[1:5] for record in records}
    server_us, told = records[0][5:]
    states = [State(op.collection, op.key, op.body, *found[op.key]) for op in written]
    final = {state.key: state.version for state in states}
    versions = [final[op.key] for op in ops] if written is ops else _versions(ops, final)
    outcomes = [
        Outcome(op.seq, "applied", version, op.body)
        for op, version in zip(ops, versions, strict=True)
    ]
    watermarks = msgspec.json.decode(told, type=dict[str, int]) if told else {}
    watermarks[ops[0].lane] = ops[-1].seq
    return Written(Applied(outcomes, ops[-1].seq, Observed(states, watermarks)), server_us, at)
