"""Writes by plain SQL beside ours: versions, exact text, tombstones, conflicts, the change log."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from standfast import Unavailable
from standfast.api.sync import Store
from standfast.backends.base import Form, Load
from support.pg import Sql, opened, url_as

#: Documents whose text jsonb keeps, changes without loss, and cannot hold.
KEPT: Any = {"a": 1}
REORDERED: Any = {"b": 1, "a": [1e16, 0.5]}
LOSSY: Any = {"a": "\x00"}


@pytest.fixture
def store(pg_database: str, db: Sql) -> Iterator[Store]:
    """A store whose collection `things` is there and whose change log is empty."""
    with opened(pg_database) as store:
        store["things"].delete("none")
        db("DELETE FROM standfast.changes")
        yield store


def version(store: Store, key: str) -> int | None:
    found = store["things"].read(key)
    return found.version if found else None


def tombstones(db: Sql) -> dict[str, int]:
    return dict(db("SELECT key, version FROM standfast.tombstones"))


def test_insert(store: Store, db: Sql) -> None:
    """A foreign INSERT begins at version 1, is read at once and logged once."""
    db("""INSERT INTO things (key, data) VALUES ('1', '{"a": 1}'), ('2', '2')""")
    assert store["things"].get("1") == KEPT
    assert (version(store, "1"), version(store, "2")) == (1, 1)
    assert db.changes() == [("things", ["1", "2"])]
    assert store["things"].put("1", 5).version == 2


def test_insert_cannot_bring_a_text_of_its_own(store: Store, db: Sql) -> None:
    """What a foreign writer says in `data` counts, not a `raw` that came along."""
    db("""INSERT INTO things (key, data, raw) VALUES ('1', '1', '2')""")
    assert store["things"].get("1") == 1


def test_insert_after_a_delete_goes_on_above_the_tombstone(store: Store, db: Sql) -> None:
    """R17: a document made again, by whomever, continues above its deleted version."""
    store["things"].put("1", 1)
    assert store["things"].delete("1").version == 2
    db("INSERT INTO things (key, data) VALUES ('1', '2')")
    assert version(store, "1") == 3
    db("DELETE FROM things")
    assert tombstones(db) == {"1": 4}
    assert store["things"].put("1", 3).version == 5
    assert store["things"].delete("1").version == 6


@pytest.mark.parametrize("value", [KEPT, REORDERED, LOSSY])
def test_update_of_data(store: Store, db: Sql, value: Any) -> None:
    """A foreign UPDATE raises the version and wins over the exact text; only a text that held
    more than jsonb could is kept in a conflict."""
    store["things"].put("1", value)
    store["things"].put("2", value)
    db.changes()
    before = store["things"].read("1")
    db("""UPDATE things SET data = '{"sql": true}' WHERE key = '1'""")
    after = store["things"].read("1")
    assert after.value == {"sql": True}
    assert after.version == 2
    assert after.updated_at > before.updated_at
    assert after.created_at == before.created_at
    assert db.changes() == [("things", ["1"])]
    assert db("SELECT raw FROM things WHERE key = '1'") == [(None,)]
    assert store["things"].get("2") == value
    conflicts = db(
        "SELECT collection, key, kind, reason, mine, theirs, state FROM standfast.conflicts"
    )
    kept = ("things", "1", "put", "raw_discarded", '{"a":"\\u0000"}', '{"sql": true}', "open")
    assert conflicts == ([kept] if value is LOSSY else [])


@pytest.mark.parametrize("text", ["0.1000000000000000055511151231257827", "1e-20000", "[1e-400]"])
def test_digits_that_a_float_does_not_have_are_lossy(store: Store, db: Sql, text: str) -> None:
    """More digits than `data` shows are kept in a conflict, even if jsonb refuses them."""
    store.calls.engine.primary.load("run", "done", [Load("things", None, [("1", text)])])
    assert list(store.calls.engine.primary.inconsistent("things")) == []
    db("UPDATE things SET data = '7'")
    assert db("SELECT mine FROM standfast.conflicts") == [(text,)]
    assert store["things"].get("1") == 7


def test_updates_that_change_nothing(store: Store, db: Sql) -> None:
    """The same data again, or another column, is no change: version, text and log stay."""
    db("ALTER TABLE things ADD COLUMN note text")
    for key, value in (("1", REORDERED), ("2", LOSSY), ("3", KEPT)):
        store["things"].put(key, value)
    db.changes()
    before = db("SELECT version, raw, updated_at FROM things ORDER BY key")
    db("UPDATE things SET data = data")
    db("UPDATE things SET note = 'x'")
    db("UPDATE things SET data = data, note = key")
    db("UPDATE things SET data = '1' WHERE key = 'none'")
    assert db("SELECT version, raw, updated_at FROM things ORDER BY key") == before
    assert db.changes() == []
    assert list(store["things"].get("1")) == ["b", "a"]


def test_update_names_only_what_it_changed(store: Store, db: Sql) -> None:
    """Of a statement over many rows, the log names those that are another document now."""
    for number in range(5):
        store["things"].put(number, number % 2)
    db.changes()
    db("UPDATE things SET data = '1'")
    assert db.changes() == [("things", ["0", "2", "4"])]
    assert [version(store, str(number)) for number in range(5)] == [2, 1, 2, 1, 2]


def test_update_with_its_own_time(store: Store, db: Sql) -> None:
    """A foreign writer who sets `updated_at` is believed."""
    store["things"].put("1", 1)
    db("UPDATE things SET data = '2', updated_at = '2020-02-29 12:00+00'")
    assert store["things"].read("1").updated_at.isoformat() == "2020-02-29T12:00:00+00:00"


def test_update_of_the_expiry(store: Store, db: Sql) -> None:
    """Expiry is part of a document: its change raises the version and keeps the text."""
    store["things"].put("1", REORDERED)
    db.changes()
    db("UPDATE things SET expires_at = now() + interval '1 hour'")
    assert version(store, "1") == 2
    assert list(store["things"].get("1")) == ["b", "a"]
    db("UPDATE things SET expires_at = now() - interval '1 hour'")
    assert store["things"].get("1") is None
    assert db.changes() == [("things", ["1"])] * 2


def test_delete(store: Store, db: Sql) -> None:
    """A foreign DELETE leaves a tombstone one version above, and is logged."""
    store["things"].put("1", 1)
    store["things"].put("1", LOSSY)
    store["things"].put("2", 2)
    db.changes()
    db("DELETE FROM things")
    assert store["things"].count() == 0
    assert tombstones(db) == {"1": 3, "2": 2}
    assert db.changes() == [("things", ["1", "2"])]
    db("DELETE FROM things")
    assert db.changes() == []


def test_change_of_a_key(store: Store, db: Sql) -> None:
    """A renamed document is a delete and a create: tombstone, both keys logged, text kept."""
    store["things"].put("old", REORDERED)
    store["things"].put("new", 1)
    store["things"].put("new", 2)
    store["things"].delete("new")
    db.changes()
    db("UPDATE things SET key = 'new' WHERE key = 'old'")
    assert store["things"].get("old") is None
    assert list(store["things"].get("new")) == ["b", "a"]
    assert tombstones(db)["old"] == 2
    assert version(store, "new") == 4
    assert db.changes() == [("things", ["new", "old"])]
    assert store["things"].put("old", 1).version == 3


def test_upsert(store: Store, db: Sql) -> None:
    """INSERT ... ON CONFLICT: what bots write; one log row for all that it touched."""
    statement = (
        "INSERT INTO things (key, data) VALUES ('1', %s), ('2', %s) ON CONFLICT (key)"
        " DO UPDATE SET data = excluded.data, updated_at = now()"
    )
    store["things"].put("1", LOSSY)
    db.changes()
    db(statement, "10", "20")
    assert dict(store["things"].items()) == {"1": 10, "2": 20}
    assert (version(store, "1"), version(store, "2")) == (2, 1)
    assert db.changes() == [("things", ["1", "2"])]
    db(statement, "10", "21")
    assert (version(store, "1"), version(store, "2")) == (2, 2)
    assert db.changes() == [("things", ["2"])]
    db("INSERT INTO things (key, data) VALUES ('1', '0') ON CONFLICT DO NOTHING")
    assert db.changes() == []


def test_merge_and_writing_queries(store: Store, db: Sql) -> None:
    """MERGE and data-modifying WITH fire the same triggers."""
    if db.connection.info.server_version < 150000:
        pytest.skip("MERGE came with PostgreSQL 15")
    store["things"].put("1", 1)
    db.changes()
    db(
        "MERGE INTO things t USING (VALUES ('1'), ('2')) AS v (key) ON t.key = v.key"
        " WHEN MATCHED THEN UPDATE SET data = '5'"
        " WHEN NOT MATCHED THEN INSERT (key, data) VALUES (v.key, '6')"
    )
    assert dict(store["things"].items()) == {"1": 5, "2": 6}
    assert (version(store, "1"), version(store, "2")) == (2, 1)
    db("WITH gone AS (DELETE FROM things WHERE key = '1' RETURNING data) SELECT * FROM gone")
    assert db.changes() == [("things", ["1", "2"]), ("things", ["1"])]


def test_copy(store: Store, db: Sql) -> None:
    """COPY is an INSERT: rows are stamped and logged."""
    store["things"].put("2", 1)
    store["things"].delete("2")
    db.changes()
    with (
        db.connection.cursor() as cursor,
        cursor.copy("COPY things (key, data) FROM STDIN") as copy,
    ):
        copy.write("1\t{}\n2\t[]\n")
    assert dict(store["things"].items()) == {"1": {}, "2": []}
    assert (version(store, "1"), version(store, "2")) == (1, 3)
    assert db.changes() == [("things", ["1", "2"])]


def test_truncate(store: Store, db: Sql) -> None:
    """TRUNCATE raises the floor: whatever is made afterwards is above all that was there."""
    for _ in range(6):
        store["things"].put("1", 1)
    store["things"].put("2", 1)
    db.changes()
    db("TRUNCATE things")
    assert db.changes() == [("things", None)]
    assert store["things"].count() == 0
    assert store["things"].put("2", 2).version == 8
    db("INSERT INTO things (key, data) VALUES ('1', '1')")
    assert version(store, "1") == 8
    db("TRUNCATE things")
    db("TRUNCATE things")
    assert store["things"].put("3", 3).version == 10


@pytest.mark.parametrize("rows", [1000, 1001])
def test_large_statements_are_not_listed(store: Store, db: Sql, rows: int) -> None:
    """Up to 1,000 keys are listed, above that the log says: anything in the collection."""
    keys = sorted(str(number) for number in range(rows))
    listed = keys if rows == 1000 else None
    db("INSERT INTO things (key, data) SELECT unnest(%s::text[]), '1'", keys)
    db("UPDATE things SET data = '2'")
    db("DELETE FROM things")
    assert db.changes() == [("things", listed)] * 3


def test_a_transaction_is_logged_by_collection(store: Store, db: Sql) -> None:
    """What another program does in a transaction is a row of the log for each collection in turn,
    a key once; what it takes back is not in it."""
    store["others"].put("1", 1)
    db.changes()
    with db.connection.transaction():
        db("INSERT INTO things (key, data) VALUES ('1', '1')")
        db("UPDATE things SET data = '2'")
        db("SAVEPOINT a")
        db("INSERT INTO others (key, data) VALUES ('gone', '1')")
        db("ROLLBACK TO a")
        db("INSERT INTO things (key, data) VALUES ('2', '1')")
        db("DELETE FROM others")
        db("UPDATE things SET data = '3' WHERE key = '2'")
    found = db("SELECT count(DISTINCT xid) FROM standfast.changes")
    assert found == [(1,)]
    assert db.changes() == [("things", ["1", "2"]), ("others", ["1"]), ("things", ["2"])]


def test_settings_of_others_do_not_reach_the_log(store: Store, db: Sql) -> None:
    """The row that a transaction continues is one of its own, whatever its settings say."""
    store["things"].put("1", 1)
    number = db.one("SELECT max(id) FROM standfast.changes")
    with db.connection.transaction():
        db("SELECT set_config('standfast.log_id', %s, true)", str(number))
        db("SELECT set_config('standfast.log_of', 'things', true)")
        db("INSERT INTO things (key, data) VALUES ('2', '2')")
    assert db.changes() == [("things", ["1"]), ("things", ["2"])]


def test_our_writes_are_logged_once(store: Store, db: Sql) -> None:
    """Each batch of ours is one row a collection; triggers add none, nor do refused ops."""
    things = store["things"]
    things.put("1", 1)
    things.patch("1", {"a": 2})
    things.increment("n", "", 1)
    things.append("l", "", 1)
    assert db.changes() == [("things", [key]) for key in ("1", "1", "n", "l")]
    things.put_many({"a": 1, "b": 2})
    with store.batch() as batch:
        batch.put("things", "a", 5)
        batch.delete("things", "b")
        batch.put("others", "x", 1)
    assert db.changes() == [("things", ["a", "b"]), ("others", ["x"]), ("things", ["a", "b"])]
    things.delete("nothing")
    assert db.changes() == []
    assert db.one("SELECT count(*) FROM standfast.conflicts") == 0


def test_a_foreign_write_beside_a_transaction_of_ours(store: Store, db: Sql) -> None:
    """Our mark is on our transaction alone: the same session afterwards counts as foreign."""
    with store.calls.engine.primary.connection("testing") as conn:
        with store.calls.engine.primary.transaction(conn, lane="x"):
            conn.execute("SELECT 1")
        conn.execute("INSERT INTO public.things (key, data) VALUES ('1', '1')")
    assert db.changes() == [("things", ["1"])]
    assert version(store, "1") == 1


@pytest.mark.parametrize("key_type", ["bigint", "integer", "varchar(40)"])
def test_tables_with_another_key(pg_database: str, db: Sql, key_type: str) -> None:
    """Triggers name the documents of an adopted table by the text of their keys."""
    db(f"CREATE TABLE waitlist (guild_id {key_type} PRIMARY KEY, data json)")
    with opened(pg_database) as store:
        store["waitlist"].put(42, 1)
        db.changes()
        db("INSERT INTO waitlist VALUES (-7, '{}')")
        db("UPDATE waitlist SET data = '[]'")
        db("UPDATE waitlist SET guild_id = '43' WHERE guild_id = '42'")
        db("DELETE FROM waitlist WHERE guild_id = '-7'")
        assert db.changes() == [
            *[("waitlist", keys) for keys in (["-7"], ["-7", "42"], ["42", "43"], ["-7"])]
        ]
        assert store["waitlist"].read(43).version == 3
        assert store["waitlist"].put(-7, 1).version == 4


def test_white_space_in_a_json_column_is_a_change(pg_database: str, db: Sql) -> None:
    """A json column keeps what was written, blanks and all: other text is another version."""
    db("CREATE TABLE things (key text PRIMARY KEY, data json)")
    with opened(pg_database) as store:
        store["things"].put("1", {"a": 1})
        db("""UPDATE things SET data = '{"a":1}'""")
        assert version(store, "1") == 1
        db("""UPDATE things SET data = '{ "a" : 1 }'""")
        assert version(store, "1") == 2
        assert store["things"].get("1") == {"a": 1}


def test_a_role_that_may_only_use_the_table(role: str, pg_database: str, db: Sql) -> None:
    """The bookkeeping is done with its owner's rights: foreign writers need none on it."""
    with opened(pg_database) as store:
        store["things"].put("1", LOSSY)
        store["things"].put("2", 2)
        db.changes()
        db(f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON things TO {role}")
        with Sql(url_as(pg_database, role)) as plain:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                plain("SELECT * FROM standfast.conflicts")
            plain("UPDATE things SET data = '1' WHERE key = '1'")
            plain("INSERT INTO things (key, data) VALUES ('3', '3')")
            plain("UPDATE things SET key = '4' WHERE key = '3'")
            plain("DELETE FROM things WHERE key = '2'")
            assert db.changes() == [
                *[("things", keys) for keys in (["1"], ["3"], ["3", "4"], ["2"])]
            ]
            assert db.one("SELECT count(*) FROM standfast.conflicts") == 1
            plain("TRUNCATE things")
            assert db.changes() == [("things", None)]
        assert store["things"].put("9", 9).version == 4


def test_tables_of_several_owners(role: str, pg_database: str, db: Sql) -> None:
    """The schema's owner need not have any right on a table for its triggers to do their work."""
    db(f"GRANT CREATE ON DATABASE {db.connection.info.dbname} TO {role}")
    db(f"GRANT CREATE ON SCHEMA public TO {role}")
    with opened(url_as(pg_database, role)) as first:
        first["own"].put("1", 1)
    with opened(f"{pg_database}?trust={role}") as store:
        store["things"].put("1", LOSSY)
        db.changes()
        db("UPDATE things SET data = '2'")
        db("INSERT INTO things (key, data) VALUES ('2', '2')")
        db("DELETE FROM things WHERE key = '2'")
        assert db.one("SELECT count(*) FROM standfast.conflicts") == 1
        assert db.changes() == [("things", ["1"]), ("things", ["2"]), ("things", ["2"])]
        db("TRUNCATE things")
        assert db.changes() == [("things", None)]
        assert store["things"].put("1", 3).version > 3


def test_a_hostile_search_path(role: str, pg_database: str, db: Sql) -> None:
    """A foreign writer's own functions and tables do not get into the bookkeeping."""
    with opened(pg_database) as store:
        store["things"].put("1", 1)
    db.changes()
    db(f"GRANT SELECT, INSERT ON things TO {role}")
    db(f"CREATE SCHEMA evil AUTHORIZATION {role}")
    with Sql(url_as(pg_database, role)) as plain:
        plain(
            "CREATE FUNCTION evil.array_agg(text) RETURNS text[] LANGUAGE sql"
            " AS 'SELECT null::text[]'"
        )
        plain("CREATE TEMP TABLE new_rows (key text)")
        plain("SET search_path = evil, public")
        plain("INSERT INTO public.things (key, data) VALUES ('2', '2')")
    assert db.changes() == [("things", ["2"])]


# ---- transactions of other isolation levels -----------------------------------------------------


@pytest.fixture(params=["REPEATABLE READ", "SERIALIZABLE"])
def old(request: pytest.FixtureRequest, pg_database: str, store: Store) -> Iterator[Sql]:
    """A foreign transaction of this level, whose snapshot shows two documents."""
    store["things"].put("1", 1)
    store["things"].put("other", 1)
    with Sql(pg_database) as theirs:
        theirs(f"BEGIN ISOLATION LEVEL {request.param}")
        theirs("SELECT count(*) FROM pg_class")
        yield theirs


#: What happens to document `1` after the snapshot, and the highest version that it had.
PAST = {"deleted": 2, "deleted twice": 4, "forgotten": 2, "truncated": 2}


def pass_away(store: Store, db: Sql, how: str) -> None:
    things = store["things"]
    if how == "truncated":
        db("TRUNCATE things")
        return
    things.delete("1")
    if how == "deleted twice":
        things.put("1", 2)
        things.delete("1")
    if how == "forgotten":
        db("UPDATE standfast.tombstones SET deleted_at = 'epoch'")
        store.calls.engine.primary.trim()
        assert tombstones(db) == {}


@pytest.mark.parametrize("how", PAST)
def test_an_insert_of_an_old_snapshot(store: Store, db: Sql, old: Sql, how: str) -> None:
    """R17: a version is never given twice: a transaction that cannot see that a document was
    deleted is refused when it makes it anew (40001), and the next one goes on above."""
    pass_away(store, db, how)
    insert = "INSERT INTO things (key, data) VALUES ('1', '2')"
    with pytest.raises(psycopg.errors.SerializationFailure):
        old(insert)
    old("ROLLBACK")
    db(insert)
    found = version(store, "1")
    assert found is not None
    assert found > PAST[how]


@pytest.mark.parametrize("how", sorted(PAST.keys() - {"truncated"}))
def test_a_rename_of_an_old_snapshot(store: Store, db: Sql, old: Sql, how: str) -> None:
    """R17: the same where a document gets the key of another that is gone meanwhile."""
    pass_away(store, db, how)
    rename = "UPDATE things SET key = '1' WHERE key = 'other'"
    with pytest.raises(psycopg.errors.SerializationFailure):
        old(rename)
    old("ROLLBACK")
    db(rename)
    found = version(store, "1")
    assert found is not None
    assert found > PAST[how]


def test_a_truncate_of_an_old_snapshot(store: Store, old: Sql) -> None:
    """R17: it removes versions too that it cannot see: what is made afterwards is above them."""
    for number in range(5):
        store["things"].put("1", number)
    old("TRUNCATE things")
    old("COMMIT")
    assert store["things"].put("1", 1).version > 6


def test_an_old_snapshot_writes_all_else(store: Store, db: Sql, old: Sql) -> None:
    """Only what is gone meanwhile is refused: new documents, and such as were deleted before or in
    the same transaction, are made as in any other, and leave no trace."""
    store["things"].delete("1")
    old("INSERT INTO things (key, data) VALUES ('new', '1')")
    old("DELETE FROM things WHERE key = 'other'")
    old("INSERT INTO things (key, data) VALUES ('other', '2')")
    old("UPDATE things SET key = 'newer' WHERE key = 'new'")
    old("COMMIT")
    assert (version(store, "newer"), version(store, "other")) == (2, 3)
    assert tombstones(db) == {"1": 2, "other": 2, "new": 2}


def test_a_rename_to_a_place_that_was_forgotten(store: Store, db: Sql) -> None:
    """R17: a document that gets the key of one whose tombstone is gone is above its versions."""
    for number in range(5):
        store["things"].put("1", number)
    store["things"].put("other", 1)
    pass_away(store, db, "forgotten")
    db("UPDATE things SET key = '1' WHERE key = 'other'")
    found = version(store, "1")
    assert found is not None
    assert found > 6


def test_an_insert_beside_a_delete(store: Store, pg_database: str, db: Sql) -> None:
    """R17: a document that others make and delete after a foreign INSERT has looked for it, and
    before it has its place, is not made again below them."""
    db(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$"
    )
    db(
        "CREATE TRIGGER z BEFORE INSERT ON things FOR EACH ROW WHEN (NEW.data = '99')"
        " EXECUTE FUNCTION wait()"
    )
    insert = "INSERT INTO things (key, data) VALUES ('1', '99')"
    with Sql(pg_database) as theirs, ThreadPoolExecutor(1) as pool:
        with db.connection.transaction():
            db("SELECT pg_advisory_xact_lock(7)")
            asked = pool.submit(theirs, insert)
            with Sql(pg_database) as watching:
                while not watching("SELECT 1 FROM pg_locks WHERE NOT granted"):
                    assert not asked.done()
            store["things"].put("1", 1)
            store["things"].delete("1")
        with pytest.raises(psycopg.errors.SerializationFailure):
            asked.result()
    db(insert)
    assert version(store, "1") == 3


# ---- triggers of others -------------------------------------------------------------------------


def foreign_trigger(db: Sql, event: str, body: str) -> None:
    db(f"CREATE FUNCTION foreign_{event.lower()}() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
    db(
        f"CREATE TRIGGER foreign_{event.lower()} BEFORE {event} ON things"
        f" FOR EACH ROW EXECUTE FUNCTION foreign_{event.lower()}()"
    )


@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE"])
def test_a_trigger_that_suppresses_rows(store: Store, db: Sql, event: str) -> None:
    """I1: a write that another trigger swallowed is never acknowledged, and leaves nothing."""
    store["things"].put("1", 1)
    foreign_trigger(db, event, "BEGIN RETURN NULL; END")
    db.changes()
    actions = {
        "INSERT": lambda: store["things"].put("2", 2),
        "UPDATE": lambda: store["things"].put("1", 2),
        "DELETE": lambda: store["things"].delete("1"),
    }
    with pytest.raises(Unavailable) as caught:
        actions[event]()
    assert caught.value.code == "contended"
    assert "trigger" in caught.value.hint
    assert dict(store["things"].items()) == {"1": 1}
    assert db.changes() == []
    db(f"DROP TRIGGER foreign_{event.lower()} ON things")
    actions[event]()
    assert len(db.changes()) == 1


def test_a_trigger_that_sets_the_time(store: Store, db: Sql) -> None:
    """The usual `updated_at` trigger of an adopted table neither hides nor doubles a change."""
    store["things"].put("1", 1)
    foreign_trigger(db, "UPDATE", "BEGIN NEW.updated_at := now(); RETURN NEW; END")
    db("UPDATE things SET data = '2'")
    assert version(store, "1") == 2
    assert store["things"].put("1", 3).version == 3
    assert db.one("SELECT count(*) FROM things WHERE updated_at < created_at") == 0


@pytest.mark.parametrize("fires", ["ENABLE", "ENABLE ALWAYS", "ENABLE REPLICA", "DISABLE"])
def test_a_load_leaves_triggers_as_they_were(store: Store, db: Sql, fires: str) -> None:
    """They sleep while rows are added, and fire then as an administrator has set it before."""
    state = "SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    db(f"ALTER TABLE things {fires} TRIGGER standfast_stamp_insert")
    before = db(state)
    store.calls.engine.primary.load("run", "loaded", [Load("things", Form(), [("1", "{}")])])
    assert db(state) == before
    assert store["things"].get("1") == {}
