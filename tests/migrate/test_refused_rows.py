"""What a table refuses is named: the document, the constraint, and what to do."""

from __future__ import annotations

from typing import Any

import apsw
import psycopg
import pytest

from standfast.errors import DataError
from standfast.migrate.rundir import all_runs
from support.cli import run_cli
from support.databases import needs_triggers
from support.moving import Place
from support.pg import new_role, url_as

FILES = {str(number): {"n": number, "name": f"n{number}"} for number in range(300)}
UNIQUE = "CREATE UNIQUE INDEX one_name ON things ((data ->> 'name'))"
CHECK = "ALTER TABLE things ADD CONSTRAINT small CHECK ((data ->> 'n')::int <> 207)"
GENERATED = "ALTER TABLE things ADD COLUMN n int GENERATED ALWAYS AS ((data ->> 'n')::int) STORED"
TRIGGER = (
    "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.key = '207' THEN"
    " RAISE EXCEPTION 'secret %', NEW.data USING CONSTRAINT = NEW.data; END IF; RETURN NEW; END $$;"
    " CREATE TRIGGER no BEFORE INSERT OR UPDATE ON things FOR EACH ROW EXECUTE FUNCTION no()"
)
ROW = """INSERT INTO things VALUES ('x', '{"n": -5, "name": "taken"}')"""


def table(place: Place, demand: str) -> None:
    """A table of the application's own, with a demand of its own, and one row."""
    statements = ["CREATE TABLE things (key text PRIMARY KEY, data jsonb)", demand, ROW]
    if place.postgres_url:
        with psycopg.connect(place.postgres_url, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())
        return
    place.data_dir.mkdir(exist_ok=True)
    statements[0] = statements[0].replace("jsonb", "text")
    with apsw.Connection(str(place.data_dir / "fallback.db")) as conn:
        for statement in statements:
            conn.execute(statement)


def assert_named(place: Place, path: Any, code: str, *named: str) -> None:
    """A migration is refused by name, and nothing of it is left."""
    before = place.documents("things")
    with pytest.raises(DataError) as caught:
        place.migrate(path)
    assert caught.value.code == code
    for name in named:
        assert name in caught.value.message
    assert "secret" not in caught.value.message
    assert place.documents("things") == before
    assert path.exists()
    assert list(all_runs(place.data_dir)) == []


def test_a_unique_index_is_named(place: Place) -> None:
    """On an expression, too; the plan is not blamed for being stale."""
    table(place, UNIQUE)
    path = place.write("things.json", FILES | {"207": {"name": "taken", "secret": 1}})
    assert_named(place, path, "constraint", "'207'", "one_name")


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("demand", "code", "named"),
    [
        (CHECK, "constraint", "small"),
        (GENERATED, "refused", "22P02"),
        pytest.param(TRIGGER, "trigger", "P0001", marks=needs_triggers),
    ],
)
def test_what_a_table_demands_is_named(place: Place, demand: str, code: str, named: str) -> None:
    """A CHECK, a generated column and a trigger: for a new document and for a changed one."""
    table(place, demand)
    bad = {"207": {"n": "no number" if demand is GENERATED else 207, "secret": 1}}
    path = place.write("things.json", FILES | bad)
    assert_named(place, path, code, "'207'", named)
    place.moved(place.write("things.json", {key: {"n": 1} for key in FILES if key != "207"}))
    with psycopg.connect(str(place.postgres_url), autocommit=True) as conn:
        conn.execute("ALTER TABLE things DISABLE TRIGGER USER")
        conn.execute("""INSERT INTO things (key, data, version) VALUES ('207', '{"n": 3}', 1)""")
        conn.execute("ALTER TABLE things ENABLE TRIGGER USER")
    place.write("things.json", {key: {"n": 2} for key in FILES} | bad)
    with pytest.raises(DataError) as caught:
        place.migrate(path, on_conflict="file")
    assert "'207'" in caught.value.message
    assert caught.value.code == code
    assert len(list(all_runs(place.data_dir))) == 1


NUMBER = GENERATED.replace("ADD COLUMN n", "ADD COLUMN number")
LATE_KEY = "ALTER TABLE things ADD CONSTRAINT late UNIQUE (number) DEFERRABLE INITIALLY DEFERRED"
LATE_TRIGGER = (
    "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.key = '207' THEN"
    " RAISE EXCEPTION 'secret'; END IF; RETURN NULL; END $$;"
    " CREATE CONSTRAINT TRIGGER no AFTER INSERT ON things DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION no()"
)


@needs_triggers
@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("demand", "code", "named"),
    [(LATE_KEY, "constraint", "late"), (LATE_TRIGGER, "trigger", "P0001")],
    ids=["key", "trigger"],
)
def test_what_is_asked_at_the_end_is_named(
    place: Place, demand: str, code: str, named: str
) -> None:
    """Deferred constraints: what they refuse is named, and what they allow is moved; nothing is
    left of what was refused, not even the table of another file."""
    table(place, f"{NUMBER}; {demand}")
    bad = place.write("things.json", FILES | {"207": {"n": 3}})
    other = place.write("other.json", FILES)
    with pytest.raises(DataError) as caught:
        place.migrate(bad, other)
    assert caught.value.code == code
    assert named in caught.value.message
    assert place.backend.collections() == ["things"]
    good = {key: value for key, value in FILES.items() if key != "207"}
    place.moved(place.write("things.json", good))
    assert len(place.documents("things")) == len(good) + 1


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_database_that_takes_no_write_is_named_by_the_plan(place: Place) -> None:
    """default_transaction_read_only, as on a standby: the plan says it, not the load."""
    path = place.write("v.json", {"1": {}})
    with psycopg.connect(str(place.postgres_url), autocommit=True) as conn:
        name = psycopg.sql.Identifier(conn.info.dbname)
        setting = "ALTER DATABASE {} SET default_transaction_read_only = on"
        conn.execute(psycopg.sql.SQL(setting).format(name))
    planned = run_cli("plan", str(path), env=place.env)
    assert planned.code == 2
    assert "read-only" in planned.err


def test_a_check_in_a_sqlite_file_is_named(embedded: Place) -> None:
    embedded.data_dir.mkdir()
    with apsw.Connection(str(embedded.data_dir / "fallback.db")) as conn:
        conn.execute(
            "CREATE TABLE things (key TEXT PRIMARY KEY, data TEXT,"
            " CONSTRAINT small CHECK (key <> '207'))"
        )
    assert_named(embedded, embedded.write("things.json", FILES), "constraint", "'207'", "small")


def test_what_a_trigger_of_a_sqlite_file_says_is_not_repeated(embedded: Place) -> None:
    """A trigger can say what it likes, also in the words of a constraint."""
    embedded.data_dir.mkdir()
    with apsw.Connection(str(embedded.data_dir / "fallback.db")) as conn:
        conn.execute("CREATE TABLE things (key TEXT PRIMARY KEY, data TEXT)")
        conn.execute(
            "CREATE TRIGGER no BEFORE INSERT ON things WHEN NEW.key = '207' BEGIN"
            " SELECT RAISE(ABORT, 'CHECK constraint failed: secret'); END"
        )
    assert_named(embedded, embedded.write("things.json", FILES), "constraint", "'207'", "a trigger")


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_keys_and_rights_are_checked_by_the_plan(place: Place) -> None:
    """A plan that ends green means a migration that does: a bigint key, and a missing right."""
    with psycopg.connect(str(place.postgres_url), autocommit=True) as conn:
        conn.execute("CREATE TABLE numbers (guild_id bigint PRIMARY KEY, data jsonb)")
    numbers = place.write("numbers.json", {"1": {}, "x": {}})
    other = place.write("other.json", {"1": {}})
    (problem,) = place.plan(numbers, other).problems
    assert "'x'" in problem.error.message
    assert place.migrate(numbers, other, skip_bad=True).green
    assert place.documents("other") == {"1": {}}
    assert numbers.exists()
    with new_role(str(place.postgres_url)) as role:
        url = url_as(str(place.postgres_url), role)
        planned = run_cli("plan", str(numbers), env={**place.env, "DATABASE_URL": url})
        assert planned.code == 2
        assert "right" in planned.err


def test_an_env_file_names_the_database(embedded: Place) -> None:
    """`--env-file`: for one command; without it, a warning names the file."""
    embedded.write("v.json", {"1": 1})
    embedded.write(".env", f"DATABASE_URL=sqlite:///{embedded.root}/named.db\n")
    env = {"STANDFAST_DATA_DIR": str(embedded.data_dir)}
    done = run_cli("migrate", "v.json", "--env-file", ".env", env=env, cwd=embedded.root)
    assert done.code == 0, done.said
    assert (embedded.root / "named.db").exists()
    embedded.write("v.json", {"1": 1})
    done = run_cli("plan", "v.json", env=env, cwd=embedded.root)
    assert ".env" in done.err
