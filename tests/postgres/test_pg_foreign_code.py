"""Triggers and rows of others: what they say is not repeated, what they claim is not believed."""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

import standfast
from standfast import ConfigError, StandfastError
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.errors import explain
from standfast.config.settings import parse_url
from support.cli import run_cli
from support.databases import temporary_database
from support.pg import Sql, opened

SECRET = "canary-51c0"
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def raising(db: Sql, state: str, event: str = "UPDATE") -> None:
    db(
        "CREATE OR REPLACE FUNCTION public.say() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.key = 'bad' THEN"
        f" RAISE EXCEPTION 'not %', NEW.data USING ERRCODE = '{state}', DETAIL = NEW.data,"
        " HINT = NEW.data, CONSTRAINT = NEW.data, COLUMN = NEW.data; END IF; RETURN NEW; END $$"
    )
    db(
        f"CREATE OR REPLACE TRIGGER say BEFORE {event} ON things FOR EACH ROW"
        " EXECUTE FUNCTION public.say()"
    )


STATES = [
    *(
        "AB001",
        "23514",
        "42501",
        "57014",
        "0A000",
        "55000",
        "55P03",
        "42P01",
        "42883",
        "P0001",
        "22023",
    ),
    *("XX001", "XX000", "08006", "08P01", "57P01", "57P03", "58030", "53100", "28000", "3D000"),
    *("25006", "SF001", "53300"),
]


@pytest.mark.parametrize("state", STATES)
def test_no_error_repeats_what_a_trigger_says(
    pg_database: str, db: Sql, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A6: a document does not reach an error or a log, whatever SQLSTATE a trigger raises."""
    caplog.set_level(logging.DEBUG)
    with opened(pg_database) as store:
        store["things"].put("bad", 1)
        raising(db, state)
        with pytest.raises(StandfastError) as caught:
            store["things"].put("bad", {"name": SECRET})
        shown: list[object] = []
        error: BaseException | None = caught.value
        while error is not None:
            shown += [str(error), repr(error), getattr(error, "hint", ""), *error.args]
            shown += getattr(error, "__notes__", [])
            error = error.__cause__ or error.__context__
        assert SECRET not in "".join(map(str, shown))
        assert SECRET not in caplog.text
        assert state in caught.value.message
        assert store["things"].get("bad") == 1
        assert store["things"].put("good", 1).version == 1


CLAIMS = ["XX001", "08006", "57P01", "57P03", "58030", "28000", "25006", "SF001"]


@pytest.mark.parametrize("state", CLAIMS)
def test_a_claim_of_a_trigger_is_no_outage(
    pg_database: str, db: Sql, state: str, tmp_path: Path
) -> None:
    """A7, I4: an error *response* on a live connection refuses that write alone: the store stays
    with its primary, whatever a trigger of one key claims of the server."""
    with standfast.open(pg_database, data_dir=tmp_path / "d", deadline_s=20) as store:
        store["things"].put("bad", 1)
        raising(db, state)
        for _ in range(3):
            with pytest.raises(standfast.DataError) as caught:
                store["things"].put("bad", 2)
            assert caught.value.code == "trigger"
            assert store["things"].put("good", 1).durable_on == "primary"
        assert store.health().state == "direct"


def test_names_in_a_trigger_of_others(pg_database: str, db: Sql, tmp_path: Path) -> None:
    """Sessions of ours look names up in pg_catalog alone: a trigger that counts on a search path is
    named, with what to do."""
    db("CREATE TABLE public.audit (key text)")
    with opened(pg_database) as store:
        store["things"].put("1", 1)
        db(
            "CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO audit VALUES (NEW.key); RETURN NEW; END $$;"
            "CREATE TRIGGER note BEFORE UPDATE ON things FOR EACH ROW"
            " EXECUTE FUNCTION public.note()"
        )
        with pytest.raises(ConfigError) as caught:
            store["things"].put("1", 2)
        assert "search_path" in caught.value.hint
        checks = run_cli("doctor", "--json", cwd=tmp_path, env={"DATABASE_URL": pg_database})
        shown = {check["name"]: check["found"] for check in checks.document["checks"]}
        assert "note on public.things" in shown["triggers"]
        db("ALTER FUNCTION public.note() SET search_path = public")
        store["things"].put("1", 2)
    assert db.one("SELECT count(*) FROM audit") == 1


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("infinity", LAST),
        ("-infinity", FIRST),
        ("4714-11-24 BC", FIRST),
        ("294276-01-01", LAST),
    ],
)
def test_times_that_python_does_not_have(
    pg_database: str, db: Sql, stored: str, read: datetime
) -> None:
    """A7: a foreign row with a time beyond Python's calendar is read; its neighbours too."""
    with opened(pg_database) as store:
        store["things"].put("1", 1)
        store["things"].put("2", 2)
        db(f"UPDATE things SET created_at = '{stored}', updated_at = '{stored}' WHERE key = '1'")
        assert dict(store["things"].items()) == {"1": 1, "2": 2}
        with closing(PostgresBackend(parse_url(pg_database))) as backend:
            page = backend.page("things").states
            assert page == backend.observe("things", ["1", "2"]).states
        assert store["things"].get("1") == 1
        found = store["things"].read("1")
        assert found is not None
        assert found.created_at == read
        db("UPDATE things SET expires_at = 'infinity'")
        assert store["things"].count() == 2
        assert store["things"].get("2") == 2
        db("UPDATE things SET expires_at = '-infinity'")
        assert store["things"].get("1") is None
        assert store["things"].put("1", 5)


def test_what_the_server_itself_says_of_damage_is_quoted(
    pg_admin_url: str, pg_database: str, db: Sql
) -> None:
    """A7: the genuine texts of XX001 and 58030 name a relation or a file, as a DBA needs it, and
    are quoted; what a trigger raises under the same states is not (above)."""
    with pytest.raises(psycopg.Error) as caught:
        db("SELECT pg_catalog.pg_read_binary_file('/proc/self/mem')")
    error = explain(caught.value, "reading", connecting=False)
    assert error.code == "server_io"
    assert error.message == (
        'reading: PostgreSQL answered 58030: could not read file "/proc/self/mem":'
        " Input/output error"
    )
    with opened(pg_database) as store:
        store["things"].put("1", {"name": SECRET})
    template = db.connection.info.dbname
    db("CHECKPOINT")
    db.connection.close()
    # The pages of a copied database are in no buffer yet.
    with temporary_database(pg_admin_url, template=template) as url:
        with Sql(url) as other:
            table = str(other.one("SELECT pg_relation_filepath('things')"))
            file = Path(str(other.one("SHOW data_directory"))) / table
            page = file.read_bytes()
            file.write_bytes(b"\xff" * 24 + page[24:])
        with opened(url) as store, pytest.raises(StandfastError) as damaged:
            store["things"].get("1")
    assert damaged.value.code == "server_internal"
    assert "PostgreSQL answered XX001: invalid page in block 0 of relation" in str(damaged.value)
    assert table in str(damaged.value)
    assert SECRET not in f"{damaged.value} {damaged.value!r} {damaged.value.__context__!r}"
