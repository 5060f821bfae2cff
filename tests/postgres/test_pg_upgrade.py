"""Bookkeeping of an earlier version becomes the present one, under programs that use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from standfast.backends.base import SCHEMA_VERSION, migrations
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.script import ScriptOptions, grants, script
from standfast.config.settings import parse_url
from support.pg import Sql, opened, url_as

#: A collection's table as version 5 has made it.
V5_TABLE = """
CREATE TABLE things (key text COLLATE "C" PRIMARY KEY, data jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    version bigint NOT NULL DEFAULT 0, raw text, expires_at timestamptz);
INSERT INTO standfast.collections (name, table_schema, table_name, key_column)
    VALUES ('things', 'public', 'things', 'key');
CREATE TRIGGER standfast_stamp_insert BEFORE INSERT ON things FOR EACH ROW
    WHEN (NEW.version = 0) EXECUTE FUNCTION standfast.stamp_insert('things', 'key');
CREATE TRIGGER standfast_stamp_update BEFORE UPDATE ON things FOR EACH ROW
    WHEN (NEW.version = OLD.version) EXECUTE FUNCTION standfast.stamp_update('things', 'key');
CREATE TRIGGER standfast_stamp_delete AFTER DELETE ON things FOR EACH ROW
    EXECUTE FUNCTION standfast.stamp_delete('things', 'key');
CREATE TRIGGER standfast_log_insert AFTER INSERT ON things REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT WHEN (coalesce(current_setting('standfast.lane', true), '') = '')
    EXECUTE FUNCTION standfast.log_insert('things', 'key');
CREATE TRIGGER standfast_log_update AFTER UPDATE ON things
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT WHEN (coalesce(current_setting('standfast.lane', true), '') = '')
    EXECUTE FUNCTION standfast.log_update('things', 'key');
CREATE TRIGGER standfast_log_delete AFTER DELETE ON things REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT WHEN (coalesce(current_setting('standfast.lane', true), '') = '')
    EXECUTE FUNCTION standfast.log_delete('things', 'key');
CREATE TRIGGER standfast_log_truncate BEFORE TRUNCATE ON things FOR EACH STATEMENT
    EXECUTE FUNCTION standfast.log_truncate('things', 'key');
"""
#: What a program of version 5 sends while it writes.
V5_LOG = "INSERT INTO standfast.changes (collection, keys) VALUES ('things', '{1}')"
V5_FINISH = (
    "SELECT watermarks FROM standfast.finish_puts(1, 1, 'things', '{x}', 0, gen_random_uuid(),"
    " 'infinity')"
)
PRESENT = {
    "standfast_check_insert",
    "standfast_log_truncate",
    "standfast_stamp_delete",
    "standfast_stamp_insert",
    "standfast_stamp_update",
}


@pytest.fixture
def v5(db: Sql) -> Iterator[Sql]:
    """An installation of version 5 with a table, a document and its log."""
    db("CREATE SCHEMA standfast")
    for number, statements in migrations("postgres")[:5]:
        db(statements)
        db("INSERT INTO standfast.schema_version (version) VALUES (%s)", number)
    db(V5_TABLE)
    db("INSERT INTO things (key, data) VALUES ('1', '{}'), ('2', '{}')")
    db("DELETE FROM things WHERE key = '2'")
    assert db.one("SELECT count(*) FROM standfast.changes") == 2
    yield db
    db("DROP SCHEMA standfast CASCADE; DROP TABLE things")


def triggers(db: Sql) -> set[str]:
    found = db(
        "SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'things'::regclass"
        " AND NOT tgisinternal"
    )
    return {name for (name,) in found}


def test_the_owner_brings_it_up_to_date(pg_database: str, v5: Sql) -> None:
    """Without a DBA: at the first write, after which versions go on, and each write is logged once,
    whoever makes it."""
    v5("DELETE FROM standfast.changes")
    with opened(pg_database) as store:
        assert store["things"].put("1", 1).version == 2
        assert store["things"].put("2", 1).version == 3
    assert triggers(v5) == PRESENT
    assert v5.one("SELECT max(version) FROM standfast.schema_version") == SCHEMA_VERSION
    v5("UPDATE things SET data = '7'")
    assert v5.changes() == [("things", ["1"]), ("things", ["2"]), ("things", ["1", "2"])]
    with closing(PostgresBackend(parse_url(pg_database))) as backend:
        assert backend.differences() == []


def test_a_table_in_use_is_written_all_the_same(pg_database: str, v5: Sql) -> None:
    """A backup that reads the table for hours holds no write up: what needs the table for itself
    is done by a later process, and is named until then."""
    with Sql(pg_database) as backup, backup.connection.transaction():
        backup("SELECT count(*) FROM things")
        with opened(pg_database) as store:
            assert store["things"].put("1", 1).version == 2
        assert triggers(v5) > PRESENT
        v5.changes()
        v5("UPDATE things SET data = '8'")
        assert v5.changes() == [("things", ["1"])], "once, by the triggers that are there to stay"
        with closing(PostgresBackend(parse_url(pg_database))) as backend:
            assert "standfast_log_update is of an earlier version" in str(backend.differences())
    with opened(pg_database) as store:
        assert store["things"].put("1", 1).version == 4
    assert triggers(v5) == PRESENT


def test_programs_of_version_5_write_on(role: str, pg_database: str, v5: Sql) -> None:
    """A role with the least rights keeps what its running programs need, before and after the
    script."""
    owner = f"{role}_owner"
    v5(grants(role, "public", ["things"]).as_string(None))
    with Sql(url_as(pg_database, role)) as program:
        program(V5_LOG)
        program(V5_FINISH)
        v5(script(v5.connection, "public", [], ScriptOptions(owner=owner)))
        assert triggers(v5) == PRESENT, "tables that are not asked for are brought up to date"
        for _ in range(2):
            program(V5_LOG)
            program(V5_FINISH)
            program("UPDATE things SET data = '5' WHERE key = '1'")
            v5(script(v5.connection, "public", ["things"], ScriptOptions(role, owner)))
        with opened(url_as(pg_database, role)) as store:
            assert store["things"].put("1", 1).version == 3
            with closing(PostgresBackend(parse_url(url_as(pg_database, role)))) as backend:
                assert backend.differences() == []
    v5(f"DROP SCHEMA standfast CASCADE; DROP OWNED BY {owner}; DROP ROLE {owner}")
    v5("CREATE SCHEMA standfast")


def test_the_script_gives_nobody_rights_on_other_tables(
    role: str, pg_database: str, v5: Sql
) -> None:
    """A table that is only brought up to date is as open as before."""
    owner = f"{role}_owner"
    v5(script(v5.connection, "public", ["more"], ScriptOptions(role, owner)))
    with Sql(url_as(pg_database, role)) as plain:
        assert plain("SELECT * FROM more") == []
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            plain("SELECT * FROM things")
    assert triggers(v5) == PRESENT
    v5(f"DROP TABLE more; DROP SCHEMA standfast CASCADE; DROP OWNED BY {owner}; DROP ROLE {owner}")
    v5("CREATE SCHEMA standfast")
