"""Whose the objects are that run in our sessions: what a stranger owns is refused.

Who owns a table can put a trigger on it that runs as whoever writes to it, and who owns a function
can replace it.  So the bookkeeping, and the tables of collections, must belong to roles as which
only these can act: the current user, a role that it is a member of, a superuser, the database's
owner, or one that the URL names (`?trust=`).  A role that cannot log in counts for its members.

A superuser is a member of every role as far as `pg_has_role` goes; here only of those that it was
made a member of, since it has more to lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection, sql

from standfast.errors import ConfigError

#: `{objects}`: kind, name and owner (0: everybody); `{trusted}`: an array of names of roles.
_STRANGERS: LiteralString = """
WITH RECURSIVE
ours (role) AS (
    SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user
    UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m, ours
           WHERE m.member OPERATOR(pg_catalog.=) ours.role),
trusted (role) AS (
    SELECT role FROM ours
    UNION ALL SELECT d.datdba FROM pg_catalog.pg_database d
               WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
    UNION ALL SELECT r.oid FROM pg_catalog.pg_roles r
               WHERE r.rolsuper OR r.rolname::pg_catalog.text OPERATOR(pg_catalog.=) ANY ({trusted})
),
objects (kind, name, owner) AS ({objects}),
holders (owner, role) AS (
    SELECT DISTINCT o.owner, o.owner FROM objects o
    UNION SELECT h.owner, m.member FROM holders h
            JOIN pg_catalog.pg_auth_members m ON m.roleid OPERATOR(pg_catalog.=) h.role
           WHERE NOT EXISTS (SELECT FROM trusted t WHERE t.role OPERATOR(pg_catalog.=) h.role))
SELECT o.kind, o.name, coalesce(r.rolname, 'PUBLIC')::pg_catalog.text AS holder
  FROM objects o JOIN holders h ON h.owner OPERATOR(pg_catalog.=) o.owner
  LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) h.role
 WHERE coalesce(r.rolcanlogin, true)
   AND NOT EXISTS (SELECT FROM trusted t WHERE t.role OPERATOR(pg_catalog.=) h.role)
 ORDER BY 1, 2, 3 LIMIT 1
"""
_BOOKKEEPING: LiteralString = """
    SELECT 'schema'::pg_catalog.text, n.nspname::pg_catalog.text, n.nspowner
      FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'standfast'
    UNION ALL
    SELECT 'right to create in schema', n.nspname::pg_catalog.text, a.grantee
      FROM pg_catalog.pg_namespace n, LATERAL pg_catalog.aclexplode(n.nspacl) a
     WHERE n.nspname OPERATOR(pg_catalog.=) 'standfast'
       AND a.privilege_type OPERATOR(pg_catalog.=) 'CREATE'
    UNION ALL
    SELECT 'table', c.relname::pg_catalog.text, c.relowner
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
        ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
     WHERE n.nspname OPERATOR(pg_catalog.=) 'standfast'
    UNION ALL
    SELECT 'function', p.proname::pg_catalog.text, p.proowner
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n
        ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
     WHERE n.nspname OPERATOR(pg_catalog.=) 'standfast'
    UNION ALL
    SELECT 'type', t.typname::pg_catalog.text, t.typowner
      FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n
        ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
     WHERE n.nspname OPERATOR(pg_catalog.=) 'standfast'
    UNION ALL
    SELECT 'operator', p.oprname::pg_catalog.text, p.oprowner
      FROM pg_catalog.pg_operator p JOIN pg_catalog.pg_namespace n
        ON n.oid OPERATOR(pg_catalog.=) p.oprnamespace
     WHERE n.nspname OPERATOR(pg_catalog.=) 'standfast'
"""
_TABLES: LiteralString = """
    SELECT 'table'::pg_catalog.text, c.relname::pg_catalog.text, c.relowner
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
        ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
     WHERE n.nspname OPERATOR(pg_catalog.=) {schema}
       AND c.relname OPERATOR(pg_catalog.=) {name}
"""


class Stranger(NamedTuple):
    """What somebody owns, or may do, whom this role has no reason to trust."""

    kind: str
    name: str
    holder: str


def strangers(trusted: Sequence[str], objects: sql.Composable | None = None) -> sql.Composed:
    """The query for the first of them: in the bookkeeping, or of `objects`."""
    return sql.SQL(_STRANGERS).format(
        trusted=sql.SQL("{}::pg_catalog.text[]").format(list(trusted)),
        objects=objects or sql.SQL(_BOOKKEEPING),
    )


def tables(schema: str | sql.Composable, name: str | sql.Composable) -> sql.Composed:
    """The object that is this table."""
    return sql.SQL(_TABLES).format(schema=schema, name=name)


def require_trusted(
    conn: Connection[Any], trusted: Sequence[str], objects: sql.Composable | None = None
) -> None:
    """ConfigError `foreign_owner` when a role as which a stranger can act owns one of them."""
    refuse_stranger(conn.execute(strangers(trusted, objects)).fetchall())


def refuse_stranger(found: Sequence[tuple[Any, ...]]) -> None:
    """The same of the rows of that query."""
    if found:
        raise _refused(Stranger(*found[0]))


def _refused(found: Stranger) -> ConfigError:
    what = f"{found.kind} `{found.name}`"
    return ConfigError(
        f"the {what} belongs to the role `{found.holder}`, which is neither this role nor one that"
        " it is a member of, nor a superuser, nor the database's owner",
        code="foreign_owner",
        hint=f"that role could run code with your rights: give the {found.kind} another owner, or,"
        f" when it is meant to be shared, add ?trust={found.holder} to the URL",
    )


def refusal(trusted: Sequence[str], objects: sql.Composable | None = None) -> sql.Composed:
    """The same as a statement of a script: it raises."""
    body = (
        sql.SQL("DECLARE found record; BEGIN FOR found IN ")
        + strangers(trusted, objects)
        + sql.SQL(
            " LOOP RAISE EXCEPTION '% % belongs to role %, whom this role does not trust',"
            " found.kind, found.name, found.holder USING HINT ="
            " 'give it another owner, or print this script with ?trust= in the URL';"
            " END LOOP; END"
        )
    )
    return sql.SQL("DO {}").format(body.as_string(None))
