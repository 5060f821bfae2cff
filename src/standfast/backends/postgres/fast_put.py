"""A batch of plain puts in one statement, and so in one round trip and one transaction.

Most writes are puts without a condition.  Their result does not depend on what is stored, so
nothing has to be read first: the statement checks and advances the watermark, upserts and logs; at
the end it makes sure that no tombstone has a higher version, and that none was forgotten (R17).
Where the documents are known to be there it is an update, which needs neither the look at the
tombstones nor the preparations for an insert: half of the server's work for a single put.
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

from standfast.backends.postgres.prepared import (
    BOOL,
    BOOLS,
    EMPTY,
    INT8,
    INT8S,
    TEXT,
    TEXTS,
    UUID,
    array,
    fetch,
    int8,
    parameters,
)
from standfast.backends.postgres.tables import Table, sent_us
from standfast.backends.postgres.write import (
    TransactionOptions,
    Written,
    decode_watermarks,
    key_values,
    statement,
)
from standfast.document.jsonb import jsonb_columns_of_many
from standfast.ops.types import Applied, Observed, Op, Outcome, State


def _made_of(form: LiteralString, *parts: Mapping[LiteralString, LiteralString]) -> LiteralString:
    """A statement with its `<parts>`, which may have parts that come later."""
    for each in parts:
        for name, part in each.items():
            form = form.replace(f"<{name}>", part)
    return form


#: What statements have in common.  `passed` is the gate of the lane; `others` are the watermarks of
#: the directory's other lanes, in the statement's snapshot; `checked` is called where it raises,
#: since a function costs as much as a look-up.
_COMMON: dict[LiteralString, LiteralString] = {
    "passed": """passed AS (
    UPDATE standfast.lanes SET watermark = $5, outcomes = '[]', updated_at = now()
     WHERE lane = $1 AND generation = 0 AND state = 'open'
       AND watermark >= $3 AND watermark < $4 RETURNING 1)""",
    "logged": """logged AS (
    INSERT INTO standfast.changes (collection, keys) SELECT $11, <keys> FROM passed)""",
    "again": """updated_at = now(),
           created_at = CASE WHEN t.expires_at <= now() THEN now() ELSE t.created_at END""",
    "returned": "t.version, {created_sent} AS created, {expires_sent} AS expires",
    "result": "version, created, timestamptz_send(now()), expires,"
    " timestamptz_send(clock_timestamp())",
    "others": """(SELECT jsonb_object_agg(l.lane, l.watermark)::text FROM standfast.lanes l
         WHERE l.directory = $2 AND l.state = 'open' AND l.lane <> $1)""",
    "checked": """CASE WHEN (<fine>) IS NOT TRUE THEN standfast.require(<fine>)
            WHEN clock_timestamp() > <until> THEN standfast.expire(<until>) END""",
}
#: What `$1` to `$15` are: lane, directory, the watermark that is expected, the first and the last
#: sequence, keys, `data`, whether `raw` is the same text, `raw` where it is another one, times to
#: live, collection, number of documents, expiry, keys of the column's type, puts of each document.
_TAKES = parameters(
    *(UUID, UUID, INT8, INT8, INT8, TEXTS, TEXTS, BOOLS, TEXTS, INT8S),
    *(TEXT, INT8, INT8, INT8S, INT8S),
)
_MANY: dict[LiteralString, LiteralString] = {
    "keys": "CASE WHEN $12 <= 1000 THEN $6 END",
    "rows": """(SELECT * FROM unnest($14::{key_type}[], $7, $8, $9, $10, $15)
                        AS u(key, data, keep, raw, ttl, times) ORDER BY {new_order}) u""",
    "raw": "coalesce(u.raw, CASE WHEN u.keep THEN u.data END)",
    "expires": "now() + u.ttl * interval '1 microsecond'",
    "floor": "(SELECT f.version_floor FROM standfast.collections f WHERE f.name = $11)",
    "until": "to_timestamp(0) + $13 * interval '1 microsecond'",
}
#: Documents that may be there or not.  Only the last text of one that is put several times is
#: written.
_PUT: LiteralString = _made_of(
    """
WITH <passed>,
done AS (
    INSERT INTO {table} AS t ({key}, data, raw, version, expires_at, created_at, updated_at)
    SELECT u.key, u.data::{data_type}, <raw>, c.version_floor + coalesce(u.times, 1), <expires>,
           now(), now()
      FROM passed, standfast.collections c, <rows> WHERE c.name = $11
    ON CONFLICT ({key}) DO UPDATE SET data = excluded.data, raw = excluded.raw,
           version = t.version + excluded.version - <floor>, expires_at = excluded.expires_at,
           <again>
    RETURNING {key_text} AS key, <returned>),
<logged>
SELECT key, <result>, watermarks
  FROM standfast.finish_puts((SELECT count(*) FROM done d WHERE d.key = ANY ($6)), $12, $11, $6,
                             <floor>, $2, <until>)
  LEFT JOIN done ON true
""",
    _COMMON,
    _MANY,
)
#: Documents that are there: all of them are changed, or the server aborts.  A row that was changed
#: since the statement began is another one than it saw, and sent back: so the rows and the
#: watermarks of other lanes are of one snapshot, and nothing has to be looked at again after the
#: locks.  Nor has a tombstone: what is there has a version above all that is known of its place.
_CHANGE: LiteralString = _made_of(
    """
WITH <passed>,
done AS (
    UPDATE {table} AS t SET data = u.data::{data_type}, raw = <raw>,
           version = t.version + coalesce(u.times, 1), expires_at = <expires>, <again>
      FROM passed, <rows>, {table} AS seen
     WHERE seen.{key} = u.key AND t.ctid = seen.ctid
    RETURNING {key_text} AS key, <returned>, t.{key} = u.key AS kept),
<logged>,
checked AS MATERIALIZED (SELECT <checked> AS failed FROM done d)
SELECT key, <result>, <others>
  FROM checked JOIN done ON failed IS NULL
""",
    _COMMON,
    _MANY,
    {"fine": "count(*) FILTER (WHERE d.kept) = $12"},
)
#: Where keys are text, they are sent only once.
_BY_TEXT: dict[LiteralString, LiteralString] = {
    form: form.replace("$14::{key_type}[]", "$6") for form in (_PUT, _CHANGE)
}
#: What `$1` to `$12` are for a single document: lane, directory, the watermark that is expected,
#: the sequence twice, key, `data`, whether `raw` is the same text, `raw` where it is another one,
#: time to live, collection, expiry.
_TAKES_ONE = parameters(UUID, UUID, INT8, INT8, INT8, TEXT, TEXT, BOOL, TEXT, INT8, TEXT, INT8)
#: The same for one document.
_CHANGE_ONE: LiteralString = _made_of(
    """
WITH <passed>,
done AS (
    UPDATE {table} AS t SET data = $7::{data_type},
           raw = coalesce($9, CASE WHEN $8 THEN $7 END), version = t.version + 1,
           expires_at = now() + $10 * interval '1 microsecond', <again>
      FROM passed, {table} AS seen
     WHERE seen.{key} = $6::{key_type} AND t.ctid = seen.ctid
    RETURNING <returned>, t.{key} = $6::{key_type} AS kept),
<logged>
SELECT <checked>, <result>, <others>
  FROM (SELECT 1) AS one LEFT JOIN done AS d ON true
""",
    _COMMON,
    {
        "fine": "d.kept",
        "keys": "ARRAY[$6]",
        "until": "to_timestamp(0) + $12 * interval '1 microsecond'",
    },
)
_YES, _NO = b"\1", b"\0"


def _versions(ops: Sequence[Op], final: Mapping[str, int]) -> list[int]:
    """The version that each put made, where the last one of its document made the final one."""
    versions = dict(final)
    backwards: list[int] = []
    for op in reversed(ops):
        backwards.append(versions[op.key])
        versions[op.key] -= 1
    return backwards[::-1]


def _columns(ops: Sequence[Op]) -> tuple[list[bytes], list[bytes], list[bytes | None]]:
    """What goes into `data`, whether the same goes into `raw`, and what does where it is not.

    The same text twice would cost twice; it differs only where jsonb refuses a character.  Most ops
    know whether jsonb keeps theirs.
    """
    exact = [op.exact for op in ops]
    if None not in exact:
        data = [(op.body or "").encode() for op in ops]
        return data, [_NO if one else _YES for one in exact], []
    columns = jsonb_columns_of_many([op.body or "" for op in ops])
    raw = [None if one.raw is None or one.raw == one.data else one.raw.encode() for one in columns]
    return (
        [one.data.encode() for one in columns],
        [_NO if one.raw is None else _YES for one in columns],
        raw if any(raw) else [],
    )


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


def _change_one(
    conn: Connection[Any], table: Table, op: Op, options: TransactionOptions
) -> list[tuple[Any, ...]]:
    (data,), (keep,), raw = _columns([op])
    values = (
        *(op.lane.encode(), options.directory.encode() if options.directory else None),
        *(int8(options.expected_watermark), int8(op.seq), int8(op.seq)),
        *(op.key.encode(), data, keep, raw[0] if raw else None),
        *(int8(op.ttl_us) if op.ttl_us else None, table.collection.encode(), _instant(options)),
    )
    return fetch(conn, statement(table, _CHANGE_ONE), _TAKES_ONE, values)


def _put_many(
    conn: Connection[Any],
    table: Table,
    written: Sequence[Op],
    names: Sequence[str],
    form: LiteralString,
    times: bytes,
    options: TransactionOptions,
    span: tuple[Op, Op],
) -> list[tuple[Any, ...]]:
    """`span`: the first and last op of a batch, of which `written` are the last of each key."""
    keys = None
    if table.key_type == "text":
        form = _BY_TEXT[form]
    else:
        keys = array(INT8S, list(map(int8, key_values(table, names))))
    data, keep, raw = _columns(written)
    lives = [op.ttl_us for op in written]
    times_to_live = [int8(one) if one else None for one in lives] if any(lives) else None
    values = (
        *(span[0].lane.encode(), options.directory.encode() if options.directory else None),
        *(int8(options.expected_watermark), int8(span[0].seq), int8(span[1].seq)),
        *(array(TEXTS, [name.encode() for name in names]), array(TEXTS, data)),
        # An array that is too short is filled up with NULL.
        *(array(BOOLS, keep), array(TEXTS, raw) if raw else EMPTY[TEXTS]),
        array(INT8S, times_to_live) if times_to_live else EMPTY[INT8S],
        *(table.collection.encode(), int8(len(written))),
        *(_instant(options), keys, times),
    )
    return fetch(conn, statement(table, form), _TAKES, values)


def _instant(options: TransactionOptions) -> bytes | None:
    return None if options.expires_us is None else int8(options.expires_us)


def put_batch(
    conn: Connection[Any],
    table: Table,
    ops: Sequence[Op],
    options: TransactionOptions,
    *,
    present: bool = False,
) -> Written:
    """Apply plain puts; the server's SF002 says that the general way has to.

    `present`: the documents are there, as far as is known; SF002 where one is not.
    """
    first, last = ops[0], ops[-1]
    written, times = ops, EMPTY[INT8S]
    names = [op.key for op in ops]
    if len(ops) > 1 and len(set(names)) < len(ops):
        written = list({op.key: op for op in ops}.values())
        counted, names = Counter(names), [op.key for op in written]
        times = array(INT8S, [int8(counted[name]) for name in names])
    if present and len(ops) == 1:
        records = _change_one(conn, table, first, options)
    else:
        form = _CHANGE if present else _PUT
        records = _put_many(conn, table, written, names, form, times, options, (first, last))
    at = time.monotonic()
    clock, told = records[0][5:]
    if len(written) == 1:
        states = [_state(first, records[0])]
    else:
        found = {record[0]: record for record in records}
        states = [_state(op, found[op.key]) for op in written]
    if written is ops:
        versions = [state.version for state in states]
    else:
        versions = _versions(ops, {state.key: state.version for state in states})
    outcomes = [
        Outcome(op.seq, "applied", version, op.body)
        for op, version in zip(ops, versions, strict=True)
    ]
    watermarks = decode_watermarks(told) if told else {}
    watermarks[first.lane] = last.seq
    return Written(Applied(outcomes, last.seq, Observed(states, watermarks)), sent_us(clock), at)


def _state(op: Op, record: tuple[Any, ...]) -> State:
    """A document as a record of `<result>` shows it."""
    _, version, created, updated, expires = record[:5]
    return State(
        *(op.collection, op.key, op.body, version),
        created_us=sent_us(created) if created else 0,
        updated_us=sent_us(updated),
        expires_us=sent_us(expires) if expires else None,
    )
