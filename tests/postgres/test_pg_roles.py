"""Nobody gets another role's rights through what is installed: attacks, each on a real server.

Attacks on what version 2 left behind succeed first, so that their failing means something.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from standfast.api.sync import Store
from standfast.backends.base import SCHEMA_VERSION, Load, migrations
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.script import ScriptOptions, script
from standfast.config.settings import parse_url
from standfast.engine.embedded import EmbeddedEngine
from standfast.ops.types import Op
from support.pg import Sql, new_role, opened, refused, url_as
from support.roles import AppRole, app_role

V2 = (Path(__file__).parent / "data" / "schema_v2.sql").read_text()
#: What the script of version 2 granted to a role.
V2_GRANTS = (
    "GRANT USAGE ON SCHEMA standfast TO {0};"
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA standfast TO {0};"
)
#: Columns that a trigger touches, beside the key.
COLUMNS = (
    "data jsonb, raw text, version bigint DEFAULT 0, updated_at timestamptz, expires_at timestamptz"
)


@pytest.fixture
def app(pg_admin_url: str, pg_database: str) -> Iterator[AppRole]:
    with app_role(pg_admin_url, pg_database) as app:
        yield app


@pytest.fixture
def mallory(pg_admin_url: str, pg_database: str) -> Iterator[str]:
    """Another role of the same database, which may connect and no more."""
    with new_role(pg_admin_url) as name:
        yield name
        with psycopg.connect(pg_database, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))


def is_superuser(db: Sql, role: str) -> bool:
    return bool(db.one("SELECT rolsuper FROM pg_roles WHERE rolname = %s", role))


def blocked(action: Callable[[], Any], state: str) -> None:
    """The action fails with this SQLSTATE and nothing else."""
    with pytest.raises(psycopg.Error) as caught:
        action()
    assert caught.value.sqlstate == state


@contextmanager
def version_2(db: Sql, role: str) -> Iterator[None]:
    """The bookkeeping as version 2 made it, by a superuser, with a collection `things`."""
    db(V2)
    db(V2_GRANTS.format(role))
    db(f"CREATE TABLE things (key text PRIMARY KEY, {COLUMNS}, created_at timestamptz)")
    db("ALTER TABLE things ALTER version SET NOT NULL, ALTER data SET NOT NULL")
    db(
        "INSERT INTO standfast.collections (name, table_schema, table_name, key_column)"
        " VALUES ('things', 'public', 'things', 'key')"
    )
    db(f"GRANT SELECT, INSERT, UPDATE, DELETE ON things TO {role}")
    yield


# ---- A1: types, casts and relations of the caller in functions of the owner ----------------------


def a_cast(role: str) -> str:
    """A key type whose cast to text makes the role a superuser."""
    return f"""
        CREATE TYPE pg_temp.evil AS (x integer);
        CREATE FUNCTION pg_temp.strike(pg_temp.evil) RETURNS text LANGUAGE plpgsql AS $$
        BEGIN ALTER ROLE {role} SUPERUSER; RETURN 'k'; END $$;
        CREATE CAST (pg_temp.evil AS text) WITH FUNCTION pg_temp.strike(pg_temp.evil);
        CREATE TEMP TABLE trap (key pg_temp.evil, {COLUMNS});
        CREATE TRIGGER t BEFORE INSERT ON trap FOR EACH ROW
            EXECUTE FUNCTION standfast.stamp_insert('things', 'key');
        INSERT INTO trap VALUES (ROW(1), '1')"""


def a_view(role: str) -> str:
    """A view called like the transition table that the trigger does not have."""
    return f"""
        CREATE FUNCTION pg_temp.strike() RETURNS text LANGUAGE plpgsql AS $$
        BEGIN ALTER ROLE {role} SUPERUSER; RETURN 'k'; END $$;
        CREATE TEMP VIEW new_rows AS SELECT pg_temp.strike() AS key, 1::bigint AS version;
        CREATE TEMP TABLE trap (key text, {COLUMNS});
        CREATE TRIGGER t AFTER INSERT ON trap
            EXECUTE FUNCTION standfast.log_insert('things', 'key');
        INSERT INTO trap VALUES ('1', '1')"""


def a_domain(role: str) -> str:
    """A version column of a domain whose constraint makes the role a superuser."""
    return f"""
        CREATE FUNCTION pg_temp.strike(bigint) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            IF current_user <> '{role}' THEN ALTER ROLE {role} SUPERUSER; END IF; RETURN true;
        END $$;
        CREATE DOMAIN pg_temp.number AS bigint CHECK (pg_temp.strike(VALUE));
        CREATE TEMP TABLE trap (key text, data jsonb, raw text, version pg_temp.number DEFAULT 0,
                                updated_at timestamptz, expires_at timestamptz);
        CREATE TRIGGER t BEFORE INSERT ON trap FOR EACH ROW
            EXECUTE FUNCTION standfast.stamp_insert('things', 'key');
        INSERT INTO trap VALUES ('1', '1')"""


ATTACKS = [a_cast, a_view, a_domain]


def in_vain(attack: Any, strike: Callable[[], Any]) -> None:
    """It is refused, or does nothing: no function has a transition table any more."""
    if attack is a_view:
        strike()
    else:
        blocked(strike, "SF003")


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attacks_work_on_version_2(role: str, pg_database: str, db: Sql, attack: Any) -> None:
    """What version 2 left behind made any role of the database a superuser (the tests are real)."""
    with version_2(db, role), Sql(url_as(pg_database, role)) as theirs:
        theirs(attack(role))
        assert is_superuser(db, role)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_caller_gets_no_rights_of_the_functions_owner(app: AppRole, db: Sql, attack: Any) -> None:
    """A1: the app's role may not even make a trigger of these functions."""
    app.run_script(["things"])
    with Sql(app.url) as theirs:
        blocked(lambda: theirs(attack(app.name)), "42501")
    assert not is_superuser(db, app.name)


@pytest.mark.parametrize("attack", ATTACKS)
def test_who_may_use_the_functions_gets_no_rights_of_their_owner(
    app: AppRole, db: Sql, attack: Any
) -> None:
    """A1, the second line: were the functions open to everybody and a superuser's, they still
    execute nothing that a caller chooses."""
    app.run_script(["things"])
    db("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA standfast TO PUBLIC")
    for function in db(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'standfast'::regnamespace"
    ):
        db(f"ALTER FUNCTION {function[0]} OWNER TO CURRENT_USER")
    with Sql(app.url) as theirs:
        in_vain(attack, lambda: theirs(attack(app.name)))
    assert not is_superuser(db, app.name)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_trigger_made_under_version_2_is_harmless_after_the_migration(
    role: str, pg_database: str, db: Sql, attack: Any
) -> None:
    """A1: the migration disarms what was set up before it."""
    prepare, strike = attack(role).rsplit("INSERT INTO trap", 1)
    with version_2(db, role), Sql(url_as(pg_database, role)) as theirs:
        theirs(prepare)
        db(script(db.connection, "public", [], ScriptOptions(owner=f"{role}_owner")))
        try:
            in_vain(attack, lambda: theirs("INSERT INTO trap" + strike))
            assert not is_superuser(db, role)
        finally:
            db("DROP SCHEMA standfast CASCADE")
            db(f"DROP OWNED BY {role}_owner; DROP ROLE {role}_owner")


def test_the_owner_of_an_adopted_table_gets_no_rights(app: AppRole, mallory: str, db: Sql) -> None:
    """A1: a key column that is altered to a type with a cast of its owner's is not looked at."""
    db(f"CREATE SCHEMA shop AUTHORIZATION {mallory}")
    with Sql(url_as(app.dba_url, mallory)) as theirs:
        theirs("CREATE TABLE shop.things (key text PRIMARY KEY, data jsonb)")
        app.run_script(["things"], schema="shop", trusted=[mallory])
        theirs("CREATE TYPE shop.evil AS (x text)")
        theirs(f"""CREATE FUNCTION shop.strike(shop.evil) RETURNS text LANGUAGE plpgsql AS $$
                   BEGIN ALTER ROLE {mallory} SUPERUSER; RETURN 'k'; END $$""")
        theirs("CREATE CAST (shop.evil AS text) WITH FUNCTION shop.strike(shop.evil)")
        theirs("INSERT INTO shop.things VALUES ('1', '1')")
        theirs("ALTER TABLE shop.things ALTER key TYPE shop.evil USING ROW(key)::shop.evil")
        for statement in (
            "INSERT INTO shop.things VALUES (ROW('2'), '1')",
            "UPDATE shop.things SET data = '2'",
            "DELETE FROM shop.things",
        ):
            blocked(lambda statement=statement: theirs(statement), "SF003")
    assert not is_superuser(db, mallory)
    assert not is_superuser(db, app.owner)


# ---- A3: schemas, tables and functions of strangers ----------------------------------------------


def make_schema(db: Sql, role: str) -> None:
    db(f"CREATE SCHEMA standfast AUTHORIZATION {role}")


def give_function(db: Sql, role: str) -> None:
    db(f"ALTER FUNCTION standfast.expire(timestamptz) OWNER TO {role}")


def give_table(db: Sql, role: str) -> None:
    db(
        f"GRANT CREATE ON SCHEMA standfast TO {role}; ALTER TABLE standfast.runs OWNER TO {role};"
        f" REVOKE CREATE ON SCHEMA standfast FROM {role}"
    )


def let_create(db: Sql, role: str) -> None:
    db(f"GRANT CREATE ON SCHEMA standfast TO {role}")


@pytest.mark.parametrize("takeover", [make_schema, give_function, give_table, let_create])
def test_what_a_stranger_owns_is_refused_everywhere(
    role: str, pg_admin_url: str, pg_database: str, db: Sql, takeover: Any
) -> None:
    """A3: open, a first write, `schema apply` and the script name it and do nothing; `?trust=`
    is how it is shared on purpose."""
    if takeover is not make_schema:
        with opened(pg_database) as store:
            store["old"].put("1", 1)
    takeover(db, role)
    before = db.catalog()
    error = refused(lambda: opened(pg_database).__enter__(), "foreign_owner")
    assert role in error.message
    assert f"?trust={role}" in error.hint
    with opened(pg_database, check=False) as store:
        refused(lambda: store["new"].put("1", 1), "foreign_owner")
    backend = PostgresBackend(parse_url(pg_database))
    refused(lambda: backend.install([]), "foreign_owner")
    backend.close()
    printed = script(None, "public", ["new"], ScriptOptions(owner=f"{role}_owner"))
    with pytest.raises(psycopg.errors.RaiseException, match=role):
        db(printed)
    db("ROLLBACK")
    assert db.catalog() == before
    with opened(f"{pg_database}?trust={role}") as store:
        assert store["new"].put("1", 1).version == 1


def test_a_table_of_a_stranger_is_refused(role: str, pg_database: str, db: Sql) -> None:
    """A3: a superuser's store does not write to a table whose owner could put a trigger on it, and
    the script adopts none, wherever it stands in the list."""
    db("CREATE TABLE things (key text PRIMARY KEY, data jsonb)")
    db(f"ALTER TABLE things OWNER TO {role}")
    before = db.catalog()
    with opened(pg_database) as store:
        for action in (lambda: store["things"].put("1", 1), lambda: store["things"].get("1")):
            assert role in refused(action, "foreign_owner").message
    for names in (["things", "other"], ["other", "things"]):
        with pytest.raises(psycopg.errors.RaiseException, match=role):
            db(script(None, "public", names, ScriptOptions(owner=f"{role}_owner")))
        db("ROLLBACK")
    assert db.catalog() == before
    with opened(f"{pg_database}?trust={role}") as store:
        assert store["things"].put("1", 1).version == 1


def test_an_owner_that_others_can_act_as_is_refused(app: AppRole, mallory: str, db: Sql) -> None:
    """A3: a role without login is as good as its members."""
    app.run_script(["things"])
    opened(app.url).__enter__().close()
    db(f"GRANT {app.owner} TO {mallory}")
    assert mallory in refused(lambda: opened(app.url).__enter__(), "foreign_owner").message
    with pytest.raises(psycopg.errors.RaiseException, match=mallory):
        app.run_script(["things"])
    db(f"REVOKE {app.owner} FROM {mallory}")
    opened(app.url).__enter__().close()


def test_an_owner_that_can_log_in_is_refused_by_the_script(role: str, db: Sql) -> None:
    """The role that owns the functions is nobody's: one that may log in is not taken."""
    with pytest.raises(psycopg.errors.RaiseException, match="may log in"):
        db(script(None, "public", [], ScriptOptions(owner=role)))
    db("ROLLBACK")


# ---- A4: the least rights, and what co-tenants of one database see -------------------------------


def test_every_grant_and_owner_is_as_in_the_file(app: AppRole, db: Sql) -> None:
    """What the script leaves behind is exactly what `data/rights.txt` says: owners, grants, row
    policies, and no membership, default privilege or setting of a role."""
    app.run_script(["things"])
    names = {app.name: "APP", app.owner: "OWNER", db.connection.info.user: "DBA"}
    query = _RIGHTS.replace("'OWNER'", f"'{app.owner}'").replace("'APP'", f"'{app.name}'")
    found = [" ".join(names.get(str(word), str(word)) for word in line) for line in db(query)]
    wanted = (Path(__file__).parent / "data" / "rights.txt").read_text().splitlines()
    assert found == wanted


_RIGHTS = """
SELECT 'schema', nspname::text COLLATE "C", 'owner', nspowner::regrole::text FROM pg_namespace
 WHERE nspname = 'standfast'
UNION ALL
SELECT 'table', c.oid::regclass::text, 'owner', relowner::regrole::text FROM pg_class c
 WHERE relkind = 'r' AND (relnamespace = 'standfast'::regnamespace OR relname = 'things')
UNION ALL
SELECT 'function', p.oid::regprocedure::text, CASE WHEN prosecdef THEN 'DEFINER' ELSE 'INVOKER' END
       || ' ' || array_to_string(proconfig, ' ') || ' owner', proowner::regrole::text
  FROM pg_proc p WHERE pronamespace = 'standfast'::regnamespace
UNION ALL
SELECT 'grant', nspname || ' ' || privilege_type, 'to',
       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
  FROM pg_namespace, aclexplode(nspacl) WHERE nspname = 'standfast' AND grantee <> nspowner
UNION ALL
SELECT 'grant', c.oid::regclass || ' ' || privilege_type, 'to',
       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
  FROM pg_class c, aclexplode(relacl)
 WHERE (relnamespace = 'standfast'::regnamespace OR relname = 'things') AND grantee <> relowner
UNION ALL
SELECT 'grant', attrelid::regclass || '.' || attname || ' ' || privilege_type, 'to',
       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
  FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid, aclexplode(attacl)
 WHERE relnamespace = 'standfast'::regnamespace
UNION ALL
SELECT 'grant', p.oid::regprocedure || ' ' || privilege_type, 'to',
       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
  FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner)))
 WHERE pronamespace = 'standfast'::regnamespace AND grantee <> proowner
UNION ALL
SELECT 'policy', polrelid::regclass || '.' || polname, polcmd::text, polroles::text
  FROM pg_policy
UNION ALL
SELECT 'sequence', c.oid::regclass::text, 'owner', relowner::regrole::text FROM pg_class c
 WHERE relkind = 'S' AND relnamespace = 'standfast'::regnamespace
UNION ALL
SELECT 'member', roleid::regrole::text, 'has', member::regrole::text
  FROM pg_auth_members WHERE 'OWNER' IN (roleid::regrole::text, member::regrole::text)
UNION ALL
SELECT 'default', defaclrole::regrole::text, defaclobjtype::text, defaclacl::text
  FROM pg_default_acl
UNION ALL
SELECT 'setting', setrole::regrole::text, 'is', array_to_string(setconfig, ' ')
  FROM pg_db_role_setting WHERE setrole::regrole::text IN ('APP', 'OWNER')
    OR setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY 1, 2, 3, 4
"""


@pytest.fixture
def tenants(app: AppRole, mallory: str, db: Sql) -> Iterator[Sql]:
    """One app with all kinds of bookkeeping; a connection of another app of the same database."""
    app.run_script(["things"])
    AppRole(mallory, app.dba_url, app.owner).run_script(["others"])
    backend = app.backend()
    with Store(EmbeddedEngine(backend)) as store:
        for number in range(3):
            store["things"].put(str(number), {"secret": number})
        store["things"].delete("0")
        backend.load("run-of-a", "done", [Load("things", None, [("9", "1")])])
        db(
            "INSERT INTO standfast.conflicts (collection, key, kind, reason, mine)"
            " VALUES ('things', '1', 'put', 'stale', '{\"secret\":0}')"
        )
        with Sql(url_as(app.dba_url, mallory)) as theirs:
            yield theirs
        assert store["things"].put("1", 2).version == 2  # whatever they did


KEPT_OF_A = ("collections", "lanes", "changes", "tombstones", "conflicts", "runs")


def test_an_app_sees_nothing_of_another(tenants: Sql, db: Sql) -> None:
    """A4: what is kept about a collection is seen by whoever may read its table, lanes and runs by
    the app that opened them."""
    for table in KEPT_OF_A:
        mine = "name <> 'others'" if table == "collections" else "true"
        assert db.one(f"SELECT count(*) FROM standfast.{table} WHERE {mine}") > 0, table
        assert tenants(f"SELECT * FROM standfast.{table} WHERE {mine}") == [], table
    blocked(lambda: tenants("SELECT * FROM things"), "42501")


def test_an_app_changes_nothing_of_another(tenants: Sql, db: Sql, app: AppRole) -> None:
    """A4: neither the identity, nor where a collection is, nor lanes, conflicts or versions."""

    def all_of_it() -> list[Any]:
        return [
            db(f"SELECT * FROM standfast.{table} ORDER BY 1, 2")
            for table in (*KEPT_OF_A, "identity", "schema_version")
        ]

    before = all_of_it()
    lane = db.one("SELECT max(lane::text) FROM standfast.lanes")
    for refused_right in (
        "UPDATE standfast.identity SET identity = gen_random_uuid()",
        "DELETE FROM standfast.identity",
        "INSERT INTO standfast.schema_version VALUES (99)",
        "UPDATE standfast.collections SET table_name = 'others'",
        "UPDATE standfast.collections SET key_column = 'data' WHERE name = 'things'",
        "INSERT INTO standfast.collections VALUES ('new', 'public', 'others', 'key')",
        "DELETE FROM standfast.collections",
        "UPDATE standfast.lanes SET app = current_user",
        f"INSERT INTO standfast.lanes (lane, directory) VALUES ('{lane}', NULL)"
        " ON CONFLICT (lane, generation) DO UPDATE SET state = 'fenced'",
        "INSERT INTO standfast.changes (collection, keys) VALUES ('things', NULL)",
        "INSERT INTO standfast.tombstones (collection, key, version) VALUES ('things', 'x', 99)",
        "INSERT INTO standfast.conflicts (collection, key, kind, reason) VALUES"
        " ('things', 'x', 'put', 'x')",
        "SELECT standfast.bury('things', '1', 99)",
        "CREATE TRIGGER t AFTER DELETE ON others FOR EACH ROW"
        " EXECUTE FUNCTION standfast.stamp_delete('things', 'key')",
        "TRUNCATE standfast.conflicts",
    ):
        blocked(lambda statement=refused_right: tenants(statement), "42501")
    for nothing_to_do in (
        "UPDATE standfast.collections SET shape = 'records' WHERE name = 'things'",
        "UPDATE standfast.lanes SET watermark = 0, state = 'fenced'",
        "DELETE FROM standfast.lanes",
        "DELETE FROM standfast.changes",
        "UPDATE standfast.tombstones SET version = 0",
        "DELETE FROM standfast.tombstones",
        "UPDATE standfast.conflicts SET state = 'resolved'",
        "UPDATE standfast.runs SET report = '{}'",
    ):
        tenants(nothing_to_do)
    assert all_of_it() == before
    assert app.name != tenants.connection.info.user


def test_a_rejected_write_without_a_table_is_its_own_apps(
    app: AppRole, mallory: str, db: Sql
) -> None:
    """A4: what an app could not write, and has no table for, is kept for this app alone, also when
    another one gets a table of that name."""
    AppRole(mallory, app.dba_url, app.owner).run_script()
    record = (
        "INSERT INTO standfast.conflicts (collection, key, kind, reason, mine, app)"
        " VALUES ('later', '1', 'put', 'refused', '\"secret\"', %s)"
    )
    with (
        closing(app.backend()) as backend,
        Sql(app.url) as ours,
        Sql(url_as(app.dba_url, mallory)) as they,
    ):
        backend.apply([rejected("later")])
        blocked(lambda: they(record, app.name), "42501")
        blocked(lambda: they(record, None), "42501")
        they(record, mallory)
        assert [entry.key for entry in backend.conflicts()] == ["mine"]
        for _ in range(2):
            assert ours("SELECT key FROM standfast.conflicts") == [("mine",)]
            assert they("SELECT key FROM standfast.conflicts") == [("1",)]
            they("UPDATE standfast.conflicts SET state = 'resolved' WHERE key = 'mine'")
            blocked(lambda: they("UPDATE standfast.conflicts SET app = NULL"), "42501")
            AppRole(mallory, app.dba_url, app.owner).run_script(["later"])
        assert backend.resolve_conflict(1, "kept")
        backend.apply([rejected("later")])  # a table that is somebody else's makes no difference
        assert db.one("SELECT count(*) FROM standfast.conflicts WHERE app = %s", app.name) == 2


def rejected(collection: str) -> Op:
    """A write that was rejected on replay, to be recorded."""
    return Op(
        lane=str(uuid.uuid4()),
        seq=1,
        kind="put",
        collection=collection,
        key="mine",
        body="1",
        replay=True,
        reject="refused",
    )


def test_a_rejected_write_of_a_collection_with_a_table_is_shared(app: AppRole, db: Sql) -> None:
    """Whoever may read the table, a dashboard maybe, sees its conflicts, as before."""
    app.run_script(["things"])
    with closing(app.backend()) as backend:
        backend.apply([rejected("things")])
    assert db("SELECT collection, app FROM standfast.conflicts") == [("things", None)]


def test_logins_of_one_app_share_its_lanes(app: AppRole, mallory: str, db: Sql) -> None:
    """A new login of the same app (a changed password by a second role) takes up where the old one
    stopped: rights are the group's."""
    app.run_script(["things"])
    with Sql(app.url) as first:
        first("INSERT INTO standfast.lanes (lane) VALUES (gen_random_uuid())")
    db(f"GRANT {app.name} TO {mallory}")
    with Sql(url_as(app.dba_url, mallory)) as second:
        second("INSERT INTO standfast.lanes (lane) VALUES (gen_random_uuid())")
        assert second("SELECT DISTINCT app FROM standfast.lanes") == [(app.name,)]
        assert second.one("SELECT count(*) FROM standfast.lanes") == 2


def test_lanes_of_a_role_that_is_gone(app: AppRole, db: Sql) -> None:
    """What it has left behind is seen by nobody, and stands in nobody's way."""
    app.run_script(["things"])
    db("INSERT INTO standfast.lanes (lane, app) VALUES (gen_random_uuid(), 'it is \"gone\"')")
    with opened(app.url) as store:
        store["things"].put("1", 1)
    with Sql(app.url) as theirs:
        theirs("INSERT INTO standfast.lanes (lane) VALUES (gen_random_uuid())")
        assert theirs("SELECT DISTINCT app FROM standfast.lanes") == [(app.name,)]


def test_a_script_does_not_redirect_a_collection(app: AppRole, db: Sql) -> None:
    """F4, A4: a collection has one table; a script for another of that name is refused, with and
    without a connection."""
    app.run_script(["things"])
    db("CREATE SCHEMA botb")
    refused(lambda: app.run_script(["things"], schema="botb"), "other_schema")
    with pytest.raises(psycopg.errors.RaiseException, match="another schema"):
        db(script(None, "botb", ["things"], ScriptOptions(owner=app.owner)).replace(V3, ""))
    db("ROLLBACK")


#: What a script without a connection cannot know to be there already.
V3 = "".join(
    f"{text}INSERT INTO standfast.schema_version (version) VALUES ({number});\n"
    for number, text in migrations("postgres")
)


def test_version_2_becomes_the_present_one_under_a_running_role(
    role: str, pg_admin_url: str, pg_database: str, db: Sql
) -> None:
    """The migration of an installation of version 2: documents, versions, lanes and runs stay, the
    role works on, what it should never have had is gone."""
    with version_2(db, role):
        db("INSERT INTO standfast.lanes (lane, watermark) VALUES (gen_random_uuid(), 7)")
        db("INSERT INTO standfast.tombstones VALUES ('things', '9', 41)")
        db("INSERT INTO things VALUES ('1', '1', NULL, 5)")
        app = AppRole(role, pg_database, f"{role}_owner")
        with Sql(app.url) as theirs:
            theirs("UPDATE standfast.identity SET epoch = epoch")
            db(script(db.connection, "public", ["things"], ScriptOptions(owner=app.owner)))
            assert theirs("SELECT watermark, app FROM standfast.lanes") == [(7, role)]
            blocked(lambda: theirs("UPDATE standfast.identity SET epoch = 1"), "42501")
        for _ in range(2):  # with the rights of version 2 that are left, then with the least
            with opened(app.url) as store:
                assert store["things"].get("1") == 1
                store["things"].put("1", 2)
                store["things"].delete("1")
                assert store["things"].put("1", 1).version >= 8
                assert store["things"].put("9", 1).version > 41
                store["things"].delete("9")
            app.run_script(["things"])
        assert db.one("SELECT max(version) FROM standfast.schema_version") == SCHEMA_VERSION
    db("DROP SCHEMA standfast CASCADE; DROP TABLE things")
    db(f"DROP OWNED BY {app.owner}; DROP ROLE {app.owner}")


def test_version_3_becomes_version_4_under_a_running_role(
    role: str, pg_database: str, db: Sql
) -> None:
    """The migration of an installation of version 3: the role works on, its conflicts are there,
    and what is new in version 4 it may do without being granted anything else."""
    db("CREATE SCHEMA standfast")
    for number, statements in migrations("postgres")[:3]:
        db(statements)
        db(f"INSERT INTO standfast.schema_version (version) VALUES ({number})")
    db(V3_GRANTS.format(role))
    db(
        "INSERT INTO standfast.conflicts (collection, key, kind, reason)"
        " VALUES ('things', '1', 'put', 'stale')"
    )
    db(script(db.connection, "public", ["things"], ScriptOptions(owner=f"{role}_owner")))
    db(f"GRANT SELECT, INSERT, UPDATE, DELETE ON things TO {role}")
    try:
        with closing(PostgresBackend(parse_url(url_as(pg_database, role)))) as backend:
            backend.apply([rejected("later")])
            assert [entry.collection for entry in backend.conflicts()] == ["things", "later"]
        with opened(url_as(pg_database, role)) as store:
            assert store["things"].put("1", 1).version == 1
            store["things"].delete("1")
            db("UPDATE standfast.tombstones SET deleted_at = 'epoch'")
            with closing(PostgresBackend(parse_url(url_as(pg_database, role)))) as other:
                other.trim()
            assert db.one("SELECT count(*) FROM standfast.tombstones") == 0
            assert store["things"].put("1", 1).version == 3
    finally:
        db("DROP SCHEMA standfast CASCADE; DROP TABLE things")
        db(f"DROP OWNED BY {role}_owner; DROP ROLE {role}_owner")


#: What the script of version 3 granted to a role.
V3_GRANTS = """
GRANT USAGE ON SCHEMA standfast TO {0};
GRANT SELECT ON standfast.schema_version, standfast.identity TO {0};
GRANT SELECT, UPDATE (shape, key_field) ON standfast.collections TO {0};
GRANT SELECT, INSERT (lane, generation, directory, state),
    UPDATE (watermark, outcomes, directory, state, updated_at), DELETE ON standfast.lanes TO {0};
GRANT SELECT, INSERT (collection, keys), DELETE ON standfast.changes TO {0};
GRANT SELECT, INSERT (collection, key, version), UPDATE (version, deleted_at), DELETE
    ON standfast.tombstones TO {0};
GRANT SELECT, INSERT (lane, seq, collection, key, kind, pointer, reason, base, mine, theirs,
    state, resolution), UPDATE (state, resolved_at, resolution) ON standfast.conflicts TO {0};
GRANT SELECT, INSERT (run, state, report), UPDATE (state, report, updated_at)
    ON standfast.runs TO {0};
GRANT EXECUTE ON FUNCTION standfast.app(), standfast.may(text, text),
    standfast.may(text, text, text), standfast.require(boolean), standfast.expire(timestamptz),
    standfast.finish_puts(bigint, bigint, text, text[], uuid, timestamptz) TO {0};
"""


def test_version_2_becomes_the_present_one_at_the_first_write_of_its_owner(
    pg_database: str, db: Sql
) -> None:
    """Without a DBA: the role that made the schema brings it up to date itself."""
    db(V2)
    with opened(pg_database) as store:
        assert store["things"].put("1", 1).version == 1
    assert db.one("SELECT max(version) FROM standfast.schema_version") == SCHEMA_VERSION


def test_functions_that_nobody_may_execute_by_default(app: AppRole, db: Sql) -> None:
    """F16: where the server's default takes EXECUTE from everybody, the script still grants what
    the app needs."""
    db("DROP SCHEMA standfast CASCADE")
    db("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    app.run_script(["things"])
    with opened(app.url) as store:
        assert store["things"].put("1", 1).version == 1
        assert store["things"].delete("1").version == 2


@pytest.mark.parametrize("name", ["tombstones", "changes", "runs"])
def test_a_right_that_was_taken_back_is_named(name: str, app: AppRole, db: Sql) -> None:
    """F16: `doctor` and `schema status` name a right on the bookkeeping that this role lacks, and a
    plan that would fail for it does not end green."""
    app.run_script(["things"])
    with closing(PostgresBackend(parse_url(app.url))) as backend:
        assert backend.differences() == []
        assert backend.adoptable("things") == ""
    db(f"REVOKE ALL ON standfast.{name} FROM {app.name}")
    with closing(PostgresBackend(parse_url(app.url))) as backend:
        assert f"on standfast.{name}" in " ".join(backend.differences())
        assert f"on standfast.{name}" in backend.adoptable("things")
