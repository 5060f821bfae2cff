"""The bookkeeping schema in PostgreSQL: who may make it, what it refuses, where tables are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from standfast.backends.base import SCHEMA_VERSION
from standfast.backends.postgres import schema
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.script import ScriptOptions, grants, script
from standfast.config.settings import parse_url
from support.pg import Sql, opened, refused, url_as

# ---- rights -------------------------------------------------------------------------------------


def test_a_role_without_ddl_rights_works_after_a_script(
    role: str, pg_database: str, db: Sql
) -> None:
    """The error of a role that may not create names the script; after it, everything works."""
    db("CREATE TABLE waitlist (guild_id bigint PRIMARY KEY, data json)")
    db("INSERT INTO waitlist VALUES (1, '{}')")
    db(f"GRANT SELECT ON waitlist TO {role}")
    plain_url = url_as(pg_database, role)
    collections = ["waitlist", "fresh"]
    before = db.catalog()
    with opened(plain_url) as plain:
        for name in collections:
            error = refused(lambda name=name: plain[name].put("2", [1]), "no_rights")
            assert "standfast schema sql" in error.hint
        assert plain["waitlist"].get(1) == {}
        assert db.catalog() == before
        options = ScriptOptions(role=role, owner=f"{role}_owner")
        printed = script(db.connection, "public", collections, options)
        assert db.catalog() == before
        db(printed)
        for name in collections:
            assert plain[name].put("2", [1]).version == 1
            assert plain[name].put("2", [2]).version == 2
            assert plain[name].delete("2").version == 3
            assert plain[name].put("2", [3]).version == 4
            assert plain.calls.engine.primary.adoptable(name) == ""
        assert plain.collections() == sorted(collections)
        error = refused(lambda: plain["another"].put("1", 1), "no_rights")
        assert plain["another"].get("1") is None
    before = db.catalog()
    again = script(db.connection, "public", collections, options)
    assert "CREATE TABLE" not in again
    assert "CREATE FUNCTION" not in again
    db(again)
    assert db.catalog() == before
    drop_role(db, f"{role}_owner")


def test_a_script_without_a_connection_makes_the_same(pg_database: str, db: Sql) -> None:
    """The printed script, run on an empty database, is what a first write would have made."""
    with opened(pg_database) as store:
        store["things"].put("1", 1)
        owner = f"{db.connection.info.dbname}_owner"

        def catalog() -> list[str]:
            user = db.connection.info.user
            return [str(line[:4]).replace(owner, user) for line in db.catalog()]

        wanted = catalog()
        db("DROP TABLE things")
        db("DROP SCHEMA standfast CASCADE")
        db(script(None, "public", ["things"], ScriptOptions(owner=owner)))
        assert catalog() == wanted
    with opened(pg_database) as store:
        assert store["things"].put("1", 1).version == 1
    assert catalog() == wanted
    drop_role(db, owner)


def drop_role(db: Sql, role: str) -> None:
    """A role is the cluster's: what it owns in the database goes first."""
    db(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_table_of_another_owner(role: str, pg_database: str, db: Sql) -> None:
    """Only its owner can make a table ours; the error says so and names the script."""
    db("CREATE TABLE things (key text PRIMARY KEY, data jsonb)")
    db(f"GRANT ALL ON things TO {role}")
    db(f"GRANT CREATE ON DATABASE {db.connection.info.dbname} TO {role}")
    before = db.catalog()
    with opened(url_as(pg_database, role)) as store:
        error = refused(lambda: store["things"].put("1", 1), "no_rights")
        assert "`public.things`" in str(error)
        assert "standfast schema sql --collection things" in error.hint
        assert "does not own it" in store.calls.engine.primary.adoptable("things")
        assert db.catalog() == before
        db(f"ALTER TABLE things OWNER TO {role}")
        assert store["things"].put("1", 1).version == 1


def test_rights_that_were_taken_away(role: str, pg_database: str, db: Sql) -> None:
    """Without a right the call is a ConfigError; with it again the same store goes on."""
    with opened(pg_database) as store:
        store["things"].put("1", 1)
    db(grants(role, "public", ["things"]).as_string(None))
    with opened(url_as(pg_database, role)) as plain:
        assert plain["things"].put("1", 2).version == 2
        db(f"REVOKE UPDATE ON things FROM {role}")
        refused(lambda: plain["things"].put("1", 3), "no_rights")
        assert plain["things"].get("1") == 2
        db(f"REVOKE SELECT ON things FROM {role}")
        refused(lambda: plain["things"].get("1"), "no_rights")
        db(f"REVOKE USAGE ON SCHEMA standfast FROM {role}")
        refused(lambda: plain["things"].get("1"), "no_rights")
        db(f"GRANT SELECT, UPDATE ON things TO {role}")
        db(f"GRANT USAGE ON SCHEMA standfast TO {role}")
        assert plain["things"].put("1", 3).version == 3


# ---- creation -----------------------------------------------------------------------------------


def test_many_start_at_once(pg_database: str, db: Sql) -> None:
    """Eight stores that create the schema, one collection of all and one of their own at the same
    moment: all succeed, with one schema and one identity."""
    count = 8
    ready = threading.Barrier(count)

    def start(number: int) -> str | None:
        with opened(pg_database) as store:
            ready.wait()
            assert store["shared"].put(str(number), number).version == 1
            store[f"own_{number}"].increment("n", "", 1)
            return store.calls.engine.primary.identity()

    with ThreadPoolExecutor(count) as pool:
        identities = set(pool.map(start, range(count)))
    assert len(identities) == 1
    versions = [(number,) for number in range(1, SCHEMA_VERSION + 1)]
    assert db("SELECT version FROM standfast.schema_version ORDER BY version") == versions
    assert db.one("SELECT count(*) FROM standfast.collections") == count + 1
    assert db.one("SELECT count(*) FROM shared") == count


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_the_servers_isolation_does_not_matter(pg_database: str, db: Sql, isolation: str) -> None:
    """Stores that wait for each other see what the other did, whatever the default isolation is."""
    name = db.connection.info.dbname
    db(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    ready = threading.Barrier(4)

    def count_up(_: int) -> None:
        with opened(pg_database) as store:
            ready.wait()
            for _ in range(5):
                store["things"].increment("n", "", 1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count_up, range(4)))
    with opened(pg_database) as store:
        assert store["things"].read("n").value == 20
        assert store["things"].read("n").version == 20


def test_a_newer_schema_is_refused(pg_database: str, db: Sql) -> None:
    """A schema that a newer library made is left alone: neither opened nor written to."""
    with opened(pg_database) as store:
        store["things"].put("1", 1)
    newer = SCHEMA_VERSION + 1
    db("INSERT INTO standfast.schema_version (version) VALUES (%s)", newer)
    before = db.catalog()
    error = refused(lambda: opened(pg_database).__enter__(), "schema_newer")
    assert f"version {newer}, this library knows {SCHEMA_VERSION}" in str(error)
    with opened(pg_database, check=False) as store:
        refused(lambda: store["fresh"].put("1", 1), "schema_newer")
    assert db.catalog() == before


def test_an_old_server_is_refused(pg_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below PostgreSQL 14 nothing is tried."""
    backend = PostgresBackend(parse_url(pg_database))

    monkeypatch.setattr(schema, "MIN_SERVER_VERSION", 1_000_000)
    error = refused(backend.check, "server_too_old")
    backend.close()
    assert "is too old" in str(error)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text_is_refused(
    pg_admin_url: str, encoding: str
) -> None:
    """I11: only UTF8 keeps every string; another encoding is refused when the store is opened."""
    name = sql.Identifier(f"standfast_{encoding.lower()}")
    create = sql.SQL("CREATE DATABASE {} ENCODING {} LOCALE 'C' TEMPLATE template0")
    with psycopg.connect(pg_admin_url, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
        admin.execute(create.format(name, encoding))
        try:
            url = urlunsplit(urlsplit(pg_admin_url)._replace(path=f"/standfast_{encoding.lower()}"))
            error = refused(lambda: opened(url).__enter__(), "server_encoding")
            assert encoding in str(error)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def test_the_encoding_of_the_connection_does_not_matter(pg_database: str, db: Sql) -> None:
    """I11: text goes over the wire as UTF-8, whatever the server or the URL would make of it."""
    db(f"ALTER DATABASE {db.connection.info.dbname} SET client_encoding = 'LATIN1'")
    for url in (pg_database, f"{pg_database}?client_encoding=SQL_ASCII"):
        with opened(url) as store:
            store["things"].put("schlüssel \U0001f600", "\U0001f600")
            assert dict(store["things"].items()) == {"schlüssel \U0001f600": "\U0001f600"}


# ---- where tables are ---------------------------------------------------------------------------


def test_schema_parameter(pg_database: str, db: Sql) -> None:
    """`?schema=` says where tables are found and created."""
    db("CREATE SCHEMA app")
    db("CREATE TABLE app.old (key text PRIMARY KEY, data jsonb)")
    db("""INSERT INTO app.old VALUES ('1', '"app"')""")
    db("CREATE TABLE old (key text PRIMARY KEY, data jsonb)")
    with opened(f"{pg_database}?schema=app") as store:
        assert store["old"].get("1") == "app"
        store["fresh"].put("1", "new")
        store["old"].put("1", "more")
    assert db.one("SELECT data FROM app.fresh") == "new"
    assert db.one("SELECT data FROM app.old") == "more"
    assert db.one("SELECT count(*) FROM public.old") == 0
    with opened(pg_database) as store:
        error = refused(lambda: store["fresh"].get("1"), "other_schema")
        assert "?schema=app" in error.hint


def test_one_collection_is_in_one_schema(pg_database: str, db: Sql) -> None:
    """A URL that names another schema than the collection's is refused: it means other data."""
    db("CREATE SCHEMA staging")
    with opened(pg_database) as store:
        store["things"].put("1", "production")
    with opened(f"{pg_database}?schema=staging") as store:
        for action in (
            lambda: store["things"].put("1", "staging"),
            lambda: store["things"].get("1"),
            lambda: store["things"].count(),
        ):
            error = refused(action, "other_schema")
            assert "`public`" in str(error)
            assert "`staging`" in str(error)
    assert db.one("SELECT data FROM things") == "production"


def test_a_schema_that_is_missing(pg_database: str, db: Sql) -> None:
    """A schema of the URL is never created: what is missing is told."""
    before = db.catalog()
    with opened(f"{pg_database}?schema=nowhere") as store:
        assert store["things"].get("1") is None
        refused(lambda: store["things"].put("1", 1), "no_schema")
    assert db.catalog() == before
    db(f"ALTER DATABASE {db.connection.info.dbname} SET search_path = nowhere")
    refused(lambda: opened(pg_database).__enter__(), "no_schema")


def test_search_path(pg_database: str, db: Sql) -> None:
    """Without `?schema=` tables are in the first schema of the search path that exists."""
    db("CREATE SCHEMA app")
    db(f"ALTER DATABASE {db.connection.info.dbname} SET search_path = nowhere, app, public")
    with opened(pg_database) as store:
        store["things"].put("1", 1)
    assert db.one("SELECT count(*) FROM app.things") == 1
    db(f"ALTER DATABASE {db.connection.info.dbname} RESET search_path")
    with opened(pg_database) as store:
        refused(lambda: store["things"].get("1"), "other_schema")
    with opened(f"{pg_database}?schema=app") as store:
        assert store["things"].get("1") == 1


def by_url(url: str, schema: str, db: Sql) -> str:
    return f"{url}?schema={schema}"


def by_options(url: str, schema: str, db: Sql) -> str:
    return f"{url}?options=-csearch_path%3D{schema}"


def by_role(url: str, schema: str, db: Sql) -> str:
    info = db.connection.info
    db(f"ALTER ROLE {info.user} IN DATABASE {info.dbname} SET search_path = {schema}")
    return url


def by_database(url: str, schema: str, db: Sql) -> str:
    db(f"ALTER DATABASE {db.connection.info.dbname} SET search_path = {schema}")
    return url


@pytest.mark.parametrize("pooler", ["", "pgbouncer=true"])
@pytest.mark.parametrize("way", [by_url, by_options, by_role, by_database])
def test_two_apps_that_differ_by_their_search_path(
    pg_database: str, db: Sql, way: Callable[[str, str, Sql], str], pooler: str
) -> None:
    """F4: a collection has one schema, recorded and compared, however another app came to its own:
    by the URL, its options, the role or the database.  Nothing of the second reaches the first."""

    def url_of(schema: str) -> str:
        url = way(pg_database, schema, db)
        return url + ("&" if "?" in url else "?") + pooler if pooler else url

    db("CREATE SCHEMA bota; CREATE SCHEMA botb")
    with opened(url_of("bota")) as store:
        store["things"].put("1", "a")
    assert db.one("SELECT count(*) FROM bota.things") == 1
    with opened(url_of("botb")) as store:
        for action in (
            lambda: store["things"].put("1", "b"),
            lambda: store["things"].get("1"),
            lambda: store["things"].delete("1"),
        ):
            refused(action, "other_schema")
        assert store["others"].put("1", "b").version == 1
    assert db.one("SELECT data FROM bota.things") == "a"
    assert db.one("SELECT count(*) FROM botb.others") == 1


def test_a_percent_in_the_name_of_a_schema(pg_database: str, db: Sql) -> None:
    """A9: the driver would take it for a placeholder: refused by name when the store is opened, and
    no outage that never ends."""
    db('CREATE SCHEMA "a%b"')
    db(f'ALTER DATABASE {db.connection.info.dbname} SET search_path = "a%b"')
    error = refused(lambda: opened(pg_database).__enter__(), "no_schema")
    assert "`a%b`" in error.message
    with opened(f"{pg_database}?schema=public") as store:
        assert store["things"].put("1", 1).version == 1
