"""What differs between what we install in a database and what is there.

The migrations themselves say what should be there: the text of each function, who may execute it,
which tables show their rows by a policy, and which triggers a collection's table has.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, LiteralString

from psycopg import Connection

from standfast.backends.base import migrations
from standfast.backends.postgres.script import FUNCTIONS, GRANTS
from standfast.backends.postgres.tables import OBSOLETE, TRIGGERS

_FUNCTION = re.compile(
    r"CREATE (?:OR REPLACE )?FUNCTION standfast\.(\w+)\(([^()]*)\)(?: RETURNS \w+)?\s+"
    r"LANGUAGE \w+[^$]*?SECURITY (INVOKER|DEFINER)\s+SET [^$]*? AS \$\$(.*?)\$\$",
    re.DOTALL,
)
_DROPPED = re.compile(r"^DROP FUNCTION standfast\.(\w+)\((.*?)\);", re.MULTILINE)
_GUARDED = re.compile(r"^ALTER TABLE standfast\.(\w+) ENABLE ROW LEVEL SECURITY", re.MULTILINE)
_INSTALLED: LiteralString = """
SELECT p.proname::text, p.pronargs::int4, p.prosrc, p.prosecdef,
       EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                WHERE a.grantee = 0),
       has_function_privilege(p.oid, 'EXECUTE'), p.proconfig IS NULL
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'standfast'
"""
_TABLES: LiteralString = """
SELECT c.relname::text, c.relrowsecurity
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'standfast' AND c.relkind = 'r'
"""
_TRIGGERS: LiteralString = """
SELECT k.name, c.oid IS NOT NULL, g.tgname::text, g.tgenabled::text,
       g.tgfoid = (SELECT p.oid FROM pg_proc p JOIN pg_namespace f ON f.oid = p.pronamespace
                    WHERE f.nspname = 'standfast' AND 'standfast_' || p.proname = g.tgname)
  FROM standfast.collections k
  LEFT JOIN pg_namespace n ON n.nspname = k.table_schema::name
  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = k.table_name::name
  LEFT JOIN pg_trigger g ON g.tgrelid = c.oid AND starts_with(g.tgname::text, 'standfast_')
 ORDER BY k.name
"""

_OTHERS: LiteralString = """
SELECT DISTINCT format('%I on %I.%I', g.tgname, k.table_schema, k.table_name)
  FROM standfast.collections k
  JOIN pg_namespace n ON n.nspname = k.table_schema::name
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = k.table_name::name
  JOIN pg_trigger g ON g.tgrelid = c.oid AND NOT g.tgisinternal
  JOIN pg_proc p ON p.oid = g.tgfoid
  JOIN pg_namespace f ON f.oid = p.pronamespace AND f.nspname <> 'standfast'
  JOIN pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal')
 WHERE NOT EXISTS (SELECT FROM unnest(p.proconfig) s WHERE starts_with(s, 'search_path='))
 ORDER BY 1
"""


class _Function:
    """A function as the migrations leave it."""

    def __init__(self, match: re.Match[str]) -> None:
        self.name, arguments, security, self.body = match.groups()
        self.arguments = _inputs(arguments)
        self.definer = security == "DEFINER"


def expected_functions() -> dict[tuple[str, int], _Function]:
    """The functions by name and number of arguments."""
    found: dict[tuple[str, int], _Function] = {}
    for _, statements in migrations("postgres"):
        for match in _FUNCTION.finditer(statements):
            made = _Function(match)
            found[made.name, made.arguments] = made
        for name, arguments in _DROPPED.findall(statements):
            found.pop((name, _inputs(arguments)), None)
    return found


def _inputs(arguments: str) -> int:
    """The number of arguments of a call."""
    return sum(not one.strip().startswith("OUT ") for one in arguments.split(",") if one.strip())


def differences(conn: Connection[Any]) -> list[str]:
    """Sentences about what is missing, was changed or added; empty when all is as installed."""
    return [
        *_tables(conn),
        *_functions(conn),
        *(f"this role lacks the right {right}" for right in missing_grants(conn)),
        *_rows(conn),
        *_triggers(conn),
        *_session(conn),
    ]


def missing_grants(conn: Connection[Any], tables: Collection[str] = ()) -> list[str]:
    """The rights on the bookkeeping, or some of its tables, that the app's statements need and this
    role lacks."""
    wanted = [
        (privilege, table, column.strip())
        for privileges, table in GRANTS
        if table in tables or not tables
        for privilege, columns in _PRIVILEGE.findall(privileges)
        for column in columns.split(",")
    ]
    found = conn.execute(_LACKING, tuple(map(list, zip(*wanted, strict=True)))).fetchall()
    return [f"{privilege} on standfast.{table}" for privilege, table in found]


_PRIVILEGE = re.compile(r"([A-Z]+)(?: \(([^)]*)\))?")
_LACKING: LiteralString = """
SELECT DISTINCT w.privilege, w.name
  FROM unnest(%s::text[], %s::text[], %s::text[]) AS w (privilege, name, col)
  JOIN pg_class c ON c.relname = w.name
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'standfast'
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = w.col
 WHERE NOT CASE WHEN w.col = '' THEN has_table_privilege(c.oid, w.privilege)
                ELSE has_column_privilege(c.oid, a.attnum, w.privilege) END
 ORDER BY 2, 1
"""


_MISSING: LiteralString = """
SELECT w.name FROM unnest(%s::text[]) AS w (name)
 WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = 'standfast' AND c.relname = w.name)
 ORDER BY 1
"""


def _tables(conn: Connection[Any]) -> Iterator[str]:
    names = sorted({table for _, table in GRANTS})
    for (name,) in conn.execute(_MISSING, (names,)):
        yield f"table standfast.{name} is missing"


def _functions(conn: Connection[Any]) -> Iterator[str]:
    wanted = expected_functions()
    called = {(name.partition("(")[0], _inputs(name.partition("(")[2])) for name in FUNCTIONS}
    for name, count, body, definer, everybody, may, open_path in conn.execute(_INSTALLED):
        made = wanted.pop((name, count), None)
        what = f"function standfast.{name}"
        if made is None:
            yield f"{what} is not one of ours"
        elif body != made.body or definer != made.definer or open_path:
            yield f"{what} was changed"
        if everybody:
            yield f"{what} may be executed by everybody"
        if not may and (name, count) in called:
            yield f"{what} may not be executed by this role"
    yield from (f"function standfast.{name} is missing" for name, _ in wanted)


def _rows(conn: Connection[Any]) -> Iterator[str]:
    guarded = {name for _, text in migrations("postgres") for name in _GUARDED.findall(text)}
    for name, secured in conn.execute(_TABLES):
        if name in guarded and not secured:
            yield f"table standfast.{name} shows every row to everybody: row security is off"


def _triggers(conn: Connection[Any]) -> Iterator[str]:
    tables: dict[str, set[str]] = {}
    for collection, there, name, enabled, ours in conn.execute(_TRIGGERS):
        if not there:
            yield f"collection `{collection}`: its table is missing"
            continue
        good = tables.setdefault(collection, set())
        if name is None:
            continue
        if enabled not in ("O", "A") or not ours:
            yield f"collection `{collection}`: trigger {name} is switched off or not ours"
        good.add(name)
    for collection, found in tables.items():
        for name in sorted({name for name, *_ in TRIGGERS} - found):
            yield f"collection `{collection}`: trigger {name} is missing"
        for name in sorted(found & OBSOLETE):
            yield f"collection `{collection}`: trigger {name} is of an earlier version, and slow"


def _session(conn: Connection[Any]) -> Iterator[str]:
    row = conn.execute("SELECT current_setting('session_replication_role')").fetchone()
    if row is not None and row[0] == "replica":
        yield (
            "session_replication_role is replica for this role or database, so that triggers and"
            " foreign keys do not act: what other programs change is not noticed"
        )


def triggers_without_path(conn: Connection[Any]) -> list[str]:
    """Triggers of others on tables of collections whose functions set no search path: in sessions
    of ours they find what is written with its schema, and nothing else."""
    return [name for (name,) in conn.execute(_OTHERS)]
