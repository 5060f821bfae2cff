"""What the names in our SQL mean to the server: functions, operators, casts and types of its own
catalog, or of our schema, and nothing that anybody else could have made.

The server shows it itself: with `debug_print_parse` it sends the tree of every statement that it
parses, those inside functions and triggers too, in which names have become numbers.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from standfast.api.sync import Store
from standfast.backends.base import Change, Load
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.connection import DeadlineConnection
from standfast.backends.postgres.schema import server_facts
from standfast.engine.embedded import EmbeddedEngine
from standfast.ops.types import Op, Span
from support.pg import Sql, url_as
from support.roles import AppRole, app_role

#: What a tree of the parser says of a function, an operator and the type that a cast makes.
_FUNCTIONS = re.compile(r":(?:funcid|opfuncid|aggfnoid|winfnoid|inputcollfuncid) (\d+)")
_OPERATORS = re.compile(r":(?:opno|eqop|sortop|reqop) (\d+)")
_TYPES = re.compile(r":(?:resulttype|funcresulttype|opresulttype|consttype|array_typeid) (\d+)")
_STRANGE = """
SELECT 'function', p.oid::regprocedure::text FROM pg_proc p
 WHERE p.oid = ANY (%(functions)s) AND NOT p.pronamespace = ANY (%(ours)s::regnamespace[])
UNION ALL
SELECT 'operator', o.oid::regoperator::text FROM pg_operator o
 WHERE o.oid = ANY (%(operators)s) AND NOT o.oprnamespace = ANY (%(ours)s::regnamespace[])
UNION ALL
SELECT 'type', t.oid::regtype::text FROM pg_type t
 WHERE t.oid = ANY (%(types)s) AND NOT t.typnamespace = ANY (%(ours)s::regnamespace[])
"""
OURS = ["pg_catalog", "standfast"]


class Trees:
    """What was parsed, as numbers."""

    def __init__(self) -> None:
        self.functions: set[int] = set()
        self.operators: set[int] = set()
        self.types: set[int] = set()
        self.count = 0

    def take(self, tree: str) -> None:
        self.count += 1
        self.functions.update(map(int, _FUNCTIONS.findall(tree)))
        self.operators.update(map(int, _OPERATORS.findall(tree)))
        self.types.update(map(int, _TYPES.findall(tree)))

    def notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.message_primary == "parse tree:":
            self.take(diagnostic.message_detail or "")

    def strange(self, db: Sql) -> list[tuple[str, str]]:
        """What is neither PostgreSQL's nor ours."""
        values = {
            "functions": list(self.functions),
            "operators": list(self.operators),
            "types": list(self.types),
            "ours": OURS,
        }
        return db.connection.execute(_STRANGE, values).fetchall()


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch) -> Trees:
    """Every tree that the sessions of stores parse from now on."""
    trees, connect = Trees(), DeadlineConnection._connect

    def connected(self: DeadlineConnection, deadline: float) -> Connection[Any]:
        conn = connect(self, deadline)
        conn.add_notice_handler(trees.notice)
        return conn

    monkeypatch.setattr(DeadlineConnection, "_connect", connected)
    return trees


@pytest.fixture
def app(pg_admin_url: str, pg_database: str) -> Iterator[AppRole]:
    """An app with the least rights, whose sessions and whose DBA's show what they parse."""
    with app_role(pg_admin_url, pg_database) as app:
        with Sql(pg_database) as db:
            db(f"ALTER ROLE {app.name} SET debug_print_parse = on")
            db(f"ALTER ROLE {app.name} SET client_min_messages = log")
        yield app


def op(lane: str, seq: int, kind: str, key: str, body: str | None = "1", **more: Any) -> Op:
    return Op(lane=lane, seq=seq, kind=kind, collection="things", key=key, body=body, **more)  # type: ignore[arg-type]


def use_everything(backend: PostgresBackend) -> None:
    """Each statement of the backend once, in each of its forms."""
    line, directory = backend.new_handle(), str(uuid.uuid4())
    line.connect(time.monotonic() + 30)
    lane, other = str(uuid.uuid4()), str(uuid.uuid4())

    def apply(*ops: Op, through: PostgresBackend = line, **how: Any) -> None:
        through.apply(ops, directory=directory, deadline=time.monotonic() + 30, **how)

    apply(op(lane, 1, "put", "1"), op(lane, 2, "put", "2", '{"a": 1.0}', ttl_us=10**9))
    apply(op(lane, 3, "put", "1"), op(lane, 4, "put", "1", '"x"'))
    apply(op(lane, 5, "put", "3", "[]"), op(lane, 6, "delete", "2", None))
    apply(op(lane, 7, "append", "3"), op(lane, 8, "put", "2"))
    apply(op(lane, 7, "append", "3"), op(lane, 8, "put", "2"))  # sent once more
    apply(op(lane, 9, "patch", "4", '{"a": 1}', if_version=0, group=9))
    apply(op(lane, 10, "put", "5", replay=True, reject="refused"))
    apply(op(lane, 11, "put", "6", replay=True, origin=(other, 1), pending=((other, 1),)))
    apply(op(str(uuid.uuid4()), 1, "increment", "7"), through=backend)
    backend.fence([other], directory=directory)
    backend.outcomes(lane)
    backend.observe("things", ["1", "none"], directory=directory)
    backend.observe("nothing", ["1"], directory=directory)
    backend.read("things", ["1"])
    backend.scan("things", Span(prefix="1", after="0", query={"a": 1}))
    backend.scan("things", Span(query="\ud800"))
    backend.count("things")
    list(backend.dump("things", in_order=True))
    list(backend.inconsistent("things"))
    image = backend.images("things", ["1"])["1"]
    backend.collections()
    backend.form("things")
    backend.adoptable("things")
    backend.create_index("things")
    changes = [Change("1", image.version, image=image), Change("3", 2, text="2"), Change("4", 1)]
    backend.load("run", "loaded", [Load("things", None, [("new", "1")], changes, "things.json")])
    backend.run_record("run")
    backend.moved()
    backend.buried("things")
    backend.conflicts(state="open", name=(lane, 10))
    backend.count_conflicts()
    backend.resolve_conflict(1, "kept")
    backend.trim()
    backend.trim("things")
    backend.differences()
    backend.identity()
    backend.check()
    with backend.connection("looking") as conn:
        server_facts(conn)
    backend.close_lane(lane)


def test_every_name_in_our_statements_is_postgresqls_or_ours(
    app: AppRole, trees: Trees, db: Sql
) -> None:
    """A2: whatever is in the search path that a role, a database or a URL gives to a session."""
    with closing(app.backend()) as backend:
        use_everything(backend)
    with closing(app.backend(pooler=True)) as backend, Store(EmbeddedEngine(backend)) as store:
        store["pooled"].put("1", 1)
        store["pooled"].get("1")
    assert trees.count > 200
    assert len(trees.functions) > 60
    assert trees.strange(db) == []


def test_every_name_in_our_triggers_is_postgresqls_or_ours(app: AppRole, db: Sql) -> None:
    """A2: the same for what runs in the sessions of foreign writers."""
    app.run_script(["things"])
    trees = Trees()
    with Sql(app.url) as theirs:
        theirs.connection.add_notice_handler(trees.notice)
        theirs("INSERT INTO things (key, data) VALUES ('1', '1'), ('2', '2')")
        theirs("UPDATE things SET data = '3', raw = '3' WHERE key = '1'")
        theirs("UPDATE things SET key = '9' WHERE key = '2'")
        theirs("UPDATE things SET raw = '{\"a\":1.00}', version = version + 1 WHERE key = '1'")
        theirs("UPDATE things SET data = '4'")
        theirs("DELETE FROM things WHERE key = '1'")
        db(f"GRANT TRUNCATE ON things TO {app.name}")
        theirs("TRUNCATE things")
    # The statements of that writer itself name nothing but the table.
    assert trees.count > 40
    assert trees.strange(db) == []


def test_every_name_in_what_is_installed_is_postgresqls_or_ours(app: AppRole, db: Sql) -> None:
    """A2: defaults, checks, policies, conditions of triggers, expressions of indexes; and every
    function looks names up in pg_catalog alone."""
    app.run_script(["things"], indexes=True)
    trees = Trees()
    for (tree,) in db(
        "SELECT adbin::text FROM pg_attrdef UNION ALL SELECT conbin::text FROM pg_constraint"
        " WHERE conbin IS NOT NULL AND connamespace = ANY ('{standfast,public}'::regnamespace[])"
        " UNION ALL SELECT polqual::text FROM pg_policy WHERE polqual IS NOT NULL"
        " UNION ALL SELECT polwithcheck::text FROM pg_policy WHERE polwithcheck IS NOT NULL"
        " UNION ALL SELECT tgqual::text FROM pg_trigger WHERE tgqual IS NOT NULL"
        " UNION ALL SELECT indexprs::text FROM pg_index WHERE indexprs IS NOT NULL"
        " UNION ALL SELECT indpred::text FROM pg_index WHERE indpred IS NOT NULL"
    ):
        trees.take(tree)
    assert trees.count > 20
    assert trees.strange(db) == []
    paths = db(
        "SELECT DISTINCT c FROM pg_proc p, unnest(p.proconfig) c"
        " WHERE p.pronamespace = 'standfast'::regnamespace AND c ~ '^search_path'"
    )
    assert paths == [("search_path=pg_catalog, pg_temp",)]
    without = "SELECT count(*) FROM pg_proc WHERE pronamespace = %s::regnamespace"
    assert db.one(without + " AND proconfig IS NULL", "standfast") == 0
    strangers = (
        "SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
        " WHERE NOT t.tgisinternal AND p.pronamespace <> 'standfast'::regnamespace"
    )
    assert db.one(strangers) == 0


def test_a_name_of_somebody_else_is_noticed(app: AppRole, db: Sql) -> None:
    """The other tests here would fail: a function, an operator and a cast of others are seen."""
    db("CREATE FUNCTION public.lower(integer) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$")
    db("CREATE TYPE public.odd AS ENUM ('x')")
    db("CREATE FUNCTION public.both(integer, integer) RETURNS text LANGUAGE sql AS $$SELECT 'x'$$")
    db("CREATE OPERATOR public.<-> (LEFTARG = integer, RIGHTARG = integer, FUNCTION = public.both)")
    trees = Trees()
    with Sql(url_as(app.dba_url, app.name)) as theirs:
        theirs.connection.add_notice_handler(trees.notice)
        theirs("SELECT lower(1), 1 <-> 2, 'x'::public.odd")
    assert {kind for kind, _ in trees.strange(db)} == {"function", "operator", "type"}
