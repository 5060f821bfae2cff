"""`doctor`: broken set-ups, each named with its cause and the command that mends it.

Where the command can be tried here it is, and afterwards nothing is wrong.  The server of the tests
runs without fsync, which is one of the set-ups, and stays wrong.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

import standfast
from standfast import StandfastError
from standfast.admin import evidence as evidence_module
from standfast.admin.checks import checked, files, primary
from standfast.admin.evidence import Disk
from standfast.engine import replicated
from standfast.engine.journal import FILE as JOURNAL_FILE
from standfast.migrate import rollback as rollback_module
from support.cli import Ran, run_cli
from support.commands import run
from support.databases import temporary_database
from support.hold import soon, wait_direct
from support.moving import Place
from support.outage import Outage
from support.pg import new_role, url_as
from support.pgbouncer import pooled, why_no_pgbouncer

CANARY = "c4n4ry-7391"
EXT4 = "/dev/vda / ext4 rw 0 0\n"
#: What is wrong with every set-up here.
BASE = {"durability"}


class Broken(NamedTuple):
    """A set-up: the SQL that breaks it, the check that names it, and the SQL that mends it.

    `mend` None: the command of the check is tried.
    """

    sql: str
    check: str
    words: str
    mend: str | None = None
    verdict: str = "fail"


SQL = {
    "a right that was revoked": Broken(
        "REVOKE INSERT ON views FROM CURRENT_USER", "`views`", "lacks INSERT on its table"
    ),
    "every right revoked": Broken(
        "REVOKE SELECT, INSERT, UPDATE, DELETE ON views FROM CURRENT_USER",
        "`views`",
        "lacks SELECT, INSERT, UPDATE, DELETE",
    ),
    "a table that was renamed": Broken(
        "ALTER TABLE views RENAME TO gone",
        "`views`",
        "is missing",
        "ALTER TABLE gone RENAME TO views",
    ),
    "a column with another type": Broken(
        "ALTER TABLE views ALTER data TYPE text USING data::text",
        "`views`",
        "its column `data` is text",
        "ALTER TABLE views ALTER data TYPE jsonb USING data::jsonb",
    ),
    "a new column that must have a value": Broken(
        "ALTER TABLE views ADD owner text NOT NULL DEFAULT '';"
        " ALTER TABLE views ALTER owner DROP DEFAULT",
        "`views`",
        "its column `owner` is NOT NULL without a default",
        "ALTER TABLE views DROP owner",
    ),
    "a server whose disk is full": Broken(
        "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END$$;"
        " CREATE TRIGGER no_space BEFORE INSERT ON views FOR EACH ROW EXECUTE FUNCTION no_space()",
        "`views`",
        "53100",
        "DROP FUNCTION no_space CASCADE",
    ),
    "a table that a crash empties": Broken(
        "ALTER TABLE views SET UNLOGGED", "`views`", "UNLOGGED", "ALTER TABLE views SET LOGGED"
    ),
    "row security": Broken(
        "ALTER TABLE views ENABLE ROW LEVEL SECURITY",
        "`views`",
        "row security is enabled on it",
        "ALTER TABLE views DISABLE ROW LEVEL SECURITY",
    ),
    "an older schema": Broken(
        "DELETE FROM standfast.schema_version WHERE version > 1",
        "schema",
        "version 1 of",
        "INSERT INTO standfast.schema_version SELECT n FROM generate_series(2, {known}) n",
        "warn",
    ),
    "a newer schema": Broken(
        "INSERT INTO standfast.schema_version VALUES (99)",
        "connection",
        "has version 99",
        "DELETE FROM standfast.schema_version WHERE version = 99",
    ),
    "a bookkeeping table that is gone": Broken(
        "ALTER TABLE standfast.tombstones RENAME TO gone",
        "installation",
        "table standfast.tombstones is missing",
        "ALTER TABLE standfast.gone RENAME TO tombstones",
        "warn",
    ),
    "a right on the bookkeeping that was revoked": Broken(
        "REVOKE UPDATE ON standfast.lanes FROM CURRENT_USER",
        "installation",
        "lacks the right UPDATE on standfast.lanes",
        "GRANT UPDATE ON standfast.lanes TO CURRENT_USER",
        "warn",
    ),
    "bookkeeping that may not be read": Broken(
        "REVOKE SELECT ON standfast.lanes FROM CURRENT_USER",
        "connection",
        "42501: permission denied for table lanes",
        "GRANT SELECT ON standfast.lanes TO CURRENT_USER",
    ),
    "a time limit that cuts every statement off": Broken(
        "ALTER ROLE CURRENT_USER SET statement_timeout = '1ms'",
        "connection",
        "57014: canceling statement due to statement timeout",
        "SET statement_timeout = 0; ALTER ROLE CURRENT_USER RESET statement_timeout",
    ),
    "triggers that are switched off": Broken(
        "ALTER TABLE views DISABLE TRIGGER USER",
        "installation",
        "trigger standfast_check_insert is switched off",
        "ALTER TABLE views ENABLE TRIGGER USER",
        "warn",
    ),
    "no primary key": Broken(
        "ALTER TABLE views DROP CONSTRAINT views_pkey",
        "`views`",
        "it has no primary key",
        "ALTER TABLE views ADD PRIMARY KEY (key)",
    ),
    "a table in another schema": Broken(
        "CREATE SCHEMA other; ALTER TABLE views SET SCHEMA other",
        "`views`",
        "is missing",
        "ALTER TABLE other.views SET SCHEMA public; DROP SCHEMA other",
    ),
    "a search path to nowhere": Broken(
        "ALTER ROLE CURRENT_USER SET search_path = nosuch",
        "connection",
        "no schema of the connection's search_path exists",
        "ALTER ROLE CURRENT_USER RESET search_path",
    ),
    "a read-only role, or a standby": Broken(
        "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
        "connection",
        "is a standby or read-only",
        "SET transaction_read_only = off;"
        " ALTER ROLE CURRENT_USER RESET default_transaction_read_only",
    ),
}

#: What only an administrator breaks and mends, and what the check `connection` says.
ADMIN = {
    "a password that has expired": (
        "ALTER ROLE {role} VALID UNTIL '2020-01-01'",
        "ALTER ROLE {role} VALID UNTIL 'infinity'",
        "password authentication failed",
        "expired",
    ),
    "a role that may not log in": (
        "ALTER ROLE {role} NOLOGIN",
        "ALTER ROLE {role} LOGIN",
        "is not permitted to log in",
        "ALTER ROLE ... LOGIN",
    ),
    "no connection is left": (
        "ALTER ROLE {role} CONNECTION LIMIT 0",
        "ALTER ROLE {role} CONNECTION LIMIT -1",
        "too many connections",
        "raise the server's limit",
    ),
    "a database that was closed to the role": (
        "REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
        "GRANT CONNECT ON DATABASE {name} TO PUBLIC",
        "permission denied for database",
        "ask for the right",
    ),
}


@pytest.fixture(autouse=True)
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary disk, and stores that report often."""
    monkeypatch.setattr(files, "mounts", lambda: EXT4)
    monkeypatch.setattr(replicated, "SNAPSHOT_PAUSE_S", 0.02)


@pytest.fixture(scope="module")
def shared(pg_admin_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    """A database and a data directory that every test leaves as they were: in order."""
    root = tmp_path_factory.mktemp("doctor")
    with new_role(pg_admin_url) as role, temporary_database(pg_admin_url) as url:
        found = Outage(url, root, admin_url=pg_admin_url)
        found.execute(f'GRANT CREATE ON DATABASE {{name}} TO "{role}"')
        found.execute(f'GRANT CREATE ON SCHEMA public TO "{role}"')
        outage = Outage(url_as(url, role), root, admin_url=pg_admin_url)
        with outage.store() as store:
            store["views"].put("a", {"v": 1})
            store["numbers"].put("1", 1)
        yield outage


def named(ran: Ran) -> dict[str, Any]:
    """The checks that are not ok; each says what to do."""
    found = {check["name"]: check for check in ran.document["checks"] if check["verdict"] != "ok"}
    assert all(check["found"] and check["hint"] for check in found.values()), found
    assert CANARY not in ran.said
    return found


def doctor(outage: Outage, **options: Any) -> dict[str, Any]:
    return named(outage.run("doctor", "--json", **options))


def mend(outage: Outage, command: str) -> None:
    """Run what a check says: a command of ours, SQL, or a command of the system."""
    if command.startswith("standfast "):
        assert outage.run(*shlex.split(command)[1:]).code in (0, 1)
    elif command.split()[0].isupper():
        outage.execute(command)
    else:
        subprocess.run(command, shell=True, check=True)


def in_order(outage: Outage) -> None:
    assert set(doctor(outage)) == BASE


# ---- the database's own


def test_a_set_up_in_order(shared: Outage) -> None:
    """All but the tests' own server without fsync is well, and a tried write leaves nothing."""
    before = outage_rows(shared)
    found = doctor(shared)
    assert set(found) == BASE
    assert "a crash of the server's machine can lose" in found["durability"]["found"]
    assert "ALTER SYSTEM SET fsync = on" in found["durability"]["command"]
    assert outage_rows(shared) == before


def outage_rows(outage: Outage) -> list[Any]:
    with psycopg.connect(outage.url) as conn:
        return conn.execute(
            "SELECT (SELECT count(*) FROM views), (SELECT count(*) FROM standfast.changes),"
            " (SELECT count(*) FROM standfast.tombstones), (SELECT count(*) FROM standfast.lanes)"
        ).fetchall()


@pytest.mark.parametrize("name", SQL)
def test_what_sql_breaks(shared: Outage, name: str) -> None:
    """Named with its cause, and mended by the command where the check has one."""
    from standfast.backends.base import SCHEMA_VERSION

    broken = SQL[name]
    shared.execute(broken.sql)
    command = broken.mend or ""
    try:
        check = doctor(shared)[broken.check]
        command = command or str(check["command"])
        assert check["verdict"] == broken.verdict
        assert broken.words in check["found"]
    finally:
        mend(shared, command.replace("{known}", str(SCHEMA_VERSION)))
    in_order(shared)


@pytest.mark.parametrize("name", ADMIN)
def test_what_an_administrator_breaks(shared: Outage, pg_admin_url: str, name: str) -> None:
    """Nobody is let in: why, as far as the server says it, and what a DBA does."""
    breaks, mends, found, hint = ADMIN[name]
    parts = urlsplit(shared.url)
    names = {"role": f'"{parts.username}"', "name": f'"{parts.path[1:]}"'}
    with psycopg.connect(pg_admin_url, autocommit=True) as conn:
        conn.execute(breaks.format(**names).encode())
        try:
            check = doctor(shared)["connection"]
            assert found in check["found"]
            assert hint in check["hint"]
        finally:
            conn.execute(mends.format(**names).encode())
    in_order(shared)


def test_a_database_without_identity(shared: Outage) -> None:
    """I9: no app takes it for a new database; the command gives it back the one it had."""
    shared.execute("DELETE FROM standfast.identity")
    check = doctor(shared)["connection"]
    try:
        assert "the row of standfast.identity is gone" in check["found"]
        with pytest.raises(StandfastError) as caught:
            shared.store()
        assert caught.value.code == "no_identity"
    finally:
        mend(shared, check["command"])
    with shared.store() as store:  # also finishes what the open that failed has left
        wait_direct(store)
    in_order(shared)


def test_a_rule_of_the_owner(shared: Outage) -> None:
    """A constraint that refuses documents is named; it is not wrong while no write breaks it."""
    shared.execute("ALTER TABLE views ADD CONSTRAINT wants_v CHECK (data ? 'v')")
    try:
        checks = {one["name"]: one for one in shared.run("doctor", "--json").document["checks"]}
        assert checks["`views`"]["verdict"] == checks["collections"]["verdict"] == "ok"
        assert "its constraint `wants_v` refuses an empty document" in checks["`views`"]["found"]
        with shared.store() as store:
            with pytest.raises(StandfastError, match="wants_v"):
                store["views"].put("b", {})
            soon(lambda: "refused" in doctor(shared), within_s=20)
            check = doctor(shared)["refused"]
            assert "`wants_v`" in check["found"]
            assert "DROP CONSTRAINT" in check["hint"]
    finally:
        shared.execute("ALTER TABLE views DROP CONSTRAINT wants_v")


@pytest.mark.skipif(bool(why_no_pgbouncer()), reason=why_no_pgbouncer())
def test_a_pooler_that_no_url_names(shared: Outage, tmp_path: Path) -> None:
    """Recognised by its answers; nothing is wrong with it."""
    with pooled(shared.url, tmp_path / "pooler") as url:
        ran = Outage(url, shared.root).run("doctor", "--json")
        assert set(named(ran)) == BASE
        checks = {one["name"]: one["found"] for one in ran.document["checks"]}
        assert "a transaction pooler" in checks["pooler"]


def test_a_role_that_may_not_create(pg_admin_url: str, tmp_path: Path) -> None:
    """R7: a fresh database, a role without CREATE: the missing right, the SQL that gives it."""
    with new_role(pg_admin_url) as role, temporary_database(pg_admin_url) as url:
        dba, app = Outage(url, tmp_path), Outage(url_as(url, role), tmp_path)
        check = doctor(app)["schema"]
        assert (check["verdict"], "this role may not create it" in check["found"]) == ("fail", True)
        assert check["command"].count("GRANT CREATE ON") == 2
        dba.execute(check["command"])
        assert "schema" not in doctor(app)
        with app.store() as store:
            store["views"].put("a", 1)


def test_commits_that_are_not_waited_for(shared: Outage) -> None:
    """synchronous_commit off for the role: with how to switch it on."""
    shared.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
    try:
        # Behind fsync, which is worse: asked for by itself.
        from standfast.backends.postgres.schema import ServerFacts

        facts = ServerFacts("15", "UTF8", "off", "on", "on", 0.0, 3, encrypted=False)
        check = primary.durability(facts)
        assert (check.verdict, "synchronous_commit is off" in check.found) == ("warn", True)
        assert check.command == "ALTER ROLE ... SET synchronous_commit = on"
    finally:
        shared.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")


@pytest.mark.parametrize("lock", ["row", "table"])
def test_a_lock_of_another_session(
    shared: Outage, lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds it; the command ends that session, and the lock is gone."""
    monkeypatch.setattr(evidence_module, "BLOCKING_AFTER_S", 0.0)
    statement = {"row": "SELECT * FROM views FOR UPDATE", "table": "LOCK TABLE views"}[lock]
    conn = psycopg.connect(shared.url, application_name="pgadmin")
    conn.execute(statement.encode())
    found = doctor(shared)
    check = found["locks"]
    assert f"`views` is locked by session {conn.info.backend_pid} (pgadmin)" in check["found"]
    assert ("`views`" in found) == (lock == "table")
    mend(shared, check["command"])
    with pytest.raises(psycopg.Error):
        conn.execute("SELECT 1")
    in_order(shared)


def test_a_transaction_that_is_open_for_long(
    shared: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgotten pg_dump or psql keeps old versions of rows: named, and ended by the command."""
    monkeypatch.setattr(primary, "LONG_SNAPSHOT_S", 0.0)
    conn = psycopg.connect(shared.url, application_name="pg_dump")
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    conn.execute("SELECT 1")
    check = doctor(shared)["transactions"]
    assert "(pg_dump)" in check["found"]
    mend(shared, check["command"])
    monkeypatch.undo()
    monkeypatch.setattr(files, "mounts", lambda: EXT4)
    in_order(shared)
    conn.close()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"port": 1}, 3, "refused"),
        ({"password": "wrong"}, 3, "password"),
        ({"path": "/nosuch"}, 1, "nosuch"),
    ],
    ids=["nobody listens", "wrong password", "no such database"],
)
def test_a_database_that_does_not_let_us_in(
    shared: Outage, change: dict[str, Any], code: int, words: str
) -> None:
    """The connection is one failed check among the others, with what to do."""
    parts = urlsplit(shared.url)
    where = f"{parts.hostname}:{change.get('port', parts.port)}"
    who = f"{parts.username}:{change.get('password', parts.password)}"
    url = urlunsplit(parts._replace(netloc=f"{who}@{where}", path=change.get("path", parts.path)))
    ran = shared.run("doctor", "--json", "--to", url)
    assert ran.code == code
    assert words in named(ran)["connection"]["found"]
    assert {"space", "privacy", "sqlite"} <= {check["name"] for check in ran.document["checks"]}


# ---- what waits


def test_writes_that_nobody_sends(shared: Outage) -> None:
    """Pending writes, and what an ended process left: the command sends them."""
    with shared.away(), shared.store() as store:
        store["views"].put("b", {"v": CANARY})
    found = doctor(shared)
    assert set(found) == BASE | {"pending", "processes"}
    mend(shared, found["pending"]["command"])
    in_order(shared)


def test_writes_of_yesterday(shared: Outage) -> None:
    """A journal over the age limit: the command that confirms it."""
    with shared.away(), shared.store() as store:
        store["views"].put("b", {"v": CANARY})
    shared.aged(25 * 3600)
    check = doctor(shared)["pending"]
    assert "journal_old" in check["found"]
    mend(shared, check["command"])
    in_order(shared)


def test_a_conflict(shared: Outage) -> None:
    """Open conflicts, until they are decided."""
    with shared.away(), shared.store() as store:
        store["views"].put("a", {"v": 2})
    with shared.store("other") as store:
        store["views"].put("a", {"v": 3})
    shared.run("journal", "drain")
    check = doctor(shared)["conflicts"]
    assert (check["verdict"], check["command"]) == ("warn", "standfast conflicts list")
    (conflict,) = shared.run("conflicts", "list", "--json").document["conflicts"]
    assert shared.run("conflicts", "resolve", str(conflict["id"]), "--dismiss").code == 0
    in_order(shared)


def test_writes_that_a_running_app_cannot_make(shared: Outage) -> None:
    """What the app reports of refused writes is a failed check, too."""
    with shared.store() as store:
        wait_direct(store)
        shared.execute("REVOKE INSERT, UPDATE ON views FROM CURRENT_USER")
        with pytest.raises(StandfastError):
            store["views"].put("b", {"v": CANARY})
        check = soon(lambda: doctor(shared).get("refused"), within_s=10)
        assert "writes to `views` are refused (1 so far)" in check["found"]
        mend(shared, doctor(shared)["`views`"]["command"])
        store["views"].put("b", 1)
        soon(lambda: "refused" not in doctor(shared), within_s=10)


# ---- the data directory


def test_a_directory_that_others_may_enter(shared: Outage) -> None:
    """World-readable: the command takes that right away."""
    shared.data_dir().chmod(0o755)
    mend(shared, doctor(shared)["privacy"]["command"])
    in_order(shared)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user(shared: Outage) -> None:
    """A command that was run as another user has left files: the command gives them back."""
    os.chown(shared.data_dir() / JOURNAL_FILE, 12345, -1)
    check = doctor(shared)["owner"]
    assert JOURNAL_FILE in check["found"]
    mend(shared, check["command"])
    in_order(shared)


@pytest.mark.parametrize(
    ("kind", "verdict", "words"),
    [
        ("tmpfs", "fail", "a restart deletes the journal"),
        ("overlay", "warn", "a new container begins without it"),
        ("nfs4", "fail", "SQLite's locks are not safe there"),
    ],
)
def test_disks_that_do_not_keep_a_journal(
    shared: Outage, kind: str, verdict: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12: memory, the container itself, and other machines' file systems."""
    mounted = f"{EXT4}none {shared.data_dir()} {kind} rw 0 0\n"
    monkeypatch.setattr(files, "mounts", lambda: mounted)
    check = doctor(shared)["data directory"]
    assert (check["verdict"], words in check["found"]) == (verdict, True)
    assert "STANDFAST_DATA_DIR" in check["hint"]


def test_a_disk_that_is_nearly_full(shared: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: little free space."""

    def nearly_full(data_dir: Path) -> Disk:
        return Disk(50_000_000, 10**10, 0)

    monkeypatch.setattr(evidence_module, "disk_of", nearly_full)
    check = doctor(shared)["space"]
    assert check["found"] == "50.0 MB of 10.0 GB free: an outage could fill the disk"


@pytest.mark.parametrize(
    ("kind", "words"),
    [("file", "is a file"), ("link", "which is not there")],
    ids=["a file in its place", "a link to a disk that is not mounted"],
)
def test_no_data_directory(shared: Outage, tmp_path: Path, kind: str, words: str) -> None:
    """One check says so, and no other asks for rights that a file has not."""
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("")
    else:
        place.symlink_to(tmp_path / "volume")
    found = named(shared.run("doctor", "--json", "--data-dir", str(place)))
    assert (found["data directory"]["verdict"], words in found["data directory"]["found"]) == (
        "fail",
        True,
    )
    assert not {"owner", "privacy"} & set(found)


def test_documents_that_the_url_would_hide(shared: Outage, tmp_path: Path) -> None:
    """With DATABASE_URL set while documents are in the embedded database no app opens its store:
    `status` said that the directory was never used, or "safe", and doctor nothing."""
    place = str(tmp_path / "place")
    with standfast.open(f"sqlite:///{place}/fallback.db", data_dir=place) as store:
        store["views"].put("1", 1)
    status = shared.run("status", "--data-dir", place)
    assert status.out.startswith("act now: with these settings no app can open its store")
    assert "-> standfast promote" in status.out.splitlines()[0]
    check = named(shared.run("doctor", "--json", "--data-dir", place))["fallback.db"]
    assert (check["verdict"], check["command"]) == ("fail", "standfast promote")
    assert "1 documents, which would be hidden" in check["found"]


def test_a_directory_of_another_user(shared: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may not be opened is not called damaged, and nobody is advised to delete it."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    found = doctor(shared)
    assert "it belongs to " in found["owner"]["found"]
    assert found["owner"]["command"].startswith("chown -R ")
    for name in ("mirror.db", JOURNAL_FILE):
        assert found[name]["found"].startswith("Permission denied")
        assert not found[name]["command"]


@pytest.mark.parametrize("damage", ["mirror.db", JOURNAL_FILE])
def test_damaged_local_files(shared: Outage, damage: str) -> None:
    """R4: named, the other checks run; the mirror is deleted by the command, the journal is not."""
    with shared.store("spare") as store:
        store["views"].put("a", {"v": 1})
    path = shared.data_dir("spare") / damage
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    damaged = path.read_bytes()
    found = doctor(shared, name="spare")
    shared.run("status", name="spare")
    shared.run("journal", "list", name="spare")
    assert path.read_bytes() == damaged, "whoever looks changes nothing"
    assert not list(path.parent.glob("*.damaged-*"))
    check = found[damage]
    assert "damaged" in check["found"]
    assert set(found) <= BASE | {damage, "local files", "history", "processes"}
    if damage == "mirror.db":
        mend(shared, check["command"])
        assert set(doctor(shared, name="spare")) == BASE
    else:
        assert check["verdict"] == "fail"


def test_a_directory_that_no_app_uses(shared: Outage) -> None:
    """R2: not the app's directory, while others write to the database."""
    check = doctor(shared, name="elsewhere")["directory"]
    assert "wrote to this database in the last day" in check["found"]


def test_an_empty_url(tmp_path: Path) -> None:
    """R12: DATABASE_URL is set, and empty: an error that names it, instead of another database."""
    env = {"STANDFAST_DATA_DIR": str(tmp_path / "storage"), "DATABASE_URL": ""}
    ran = run_cli("doctor", cwd=tmp_path, env=env)
    assert ran.code == 2
    assert "DATABASE_URL is set, and empty" in ran.err
    assert "unset DATABASE_URL" in ran.err


def test_a_url_that_nothing_reads(tmp_path: Path) -> None:
    """R12: DATABASE_URL is only in a file that nothing has read."""
    env = {"STANDFAST_DATA_DIR": str(tmp_path / "storage")}
    (tmp_path / ".env").write_text("A=1\nexport DATABASE_URL=postgresql://app:geheim@db/x\n")
    ran = run_cli("doctor", "--json", cwd=tmp_path, env=env)
    check = named(ran)["url"]
    assert "nothing has read it" in check["found"]
    assert check["command"]
    assert "geheim" not in ran.said


def test_an_interrupted_rollback(embedded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """R9: the command that finishes it does."""
    run_id = str(embedded.moved(embedded.write("views.json", {"a": 1})).run)

    def killed(name: str) -> None:
        if name == "state-rolling-back":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rollback_module, "failpoint", killed)
        run(embedded, "rollback", run_id)
    check = named(run(embedded, "doctor", "--json"))["migrations"]
    assert "was interrupted" in check["found"]
    assert run(embedded, *shlex.split(check["command"])[1:]).code == 0
    assert run(embedded, "doctor").code == 0


def test_a_damaged_embedded_database(embedded: Place) -> None:
    """The SQLite file of an embedded store is looked at, too."""
    run(embedded, "put", "views", "a", "1")
    path = embedded.data_dir / "fallback.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    ran = run(embedded, "doctor", "--json")
    assert ran.code in (1, 4)
    assert any(
        "damaged" in check["found"] or "malformed" in check["found"]
        for check in named(ran).values()
    )


def test_backups(embedded: Place) -> None:
    """The newest verified backup is named; a damaged one is a failure, mended by another one."""
    run(embedded, "put", "views", "a", "1")
    assert "none that is verified" in run(embedded, "status").out
    assert run(embedded, "backup", "create").code == 0
    assert run(embedded, "backup", "verify").code == 0
    ran = run(embedded, "status")
    assert (ran.code, ", verified 20" in ran.out) == (0, True)
    (path,) = (embedded.data_dir / "backups").glob("*.jsonl.gz")
    path.write_bytes(b"not a backup")
    check = named(run(embedded, "doctor", "--json"))["backup"]
    assert path.name in check["found"]
    assert run(embedded, "status").out.startswith("act now: the newest backup is not good: ")
    assert run(embedded, *shlex.split(check["command"])[1:]).code == 0
    assert "backup" not in named(run(embedded, "doctor", "--json"))


def test_an_old_sqlite() -> None:
    """A SQLite that can damage a file in WAL mode: with the command that brings another."""
    check = files.sqlite_version("3.40.1")
    assert (check.verdict, check.command) == ("fail", "pip install --upgrade apsw")
    assert files.sqlite_version().verdict == "ok"


def test_the_last_line_names_what_is_wrong(shared: Outage) -> None:
    """What stays on the screen after thirty checks."""
    ran = shared.run("doctor")
    assert re.fullmatch(r"\d+ checks: durability \(fail\)", ran.err.splitlines()[-1])


def test_a_check_that_fails_hides_no_other() -> None:
    """R4: an error of a check is its finding."""

    def fails() -> Any:
        raise PermissionError(13, "Permission denied", "journal.db")

    (check,) = checked("x", fails)
    assert (check.verdict, check.found) == ("fail", "Permission denied (journal.db)")
    assert check.hint


def test_set_ups_are_counted() -> None:
    """At least 25 broken set-ups are made here."""
    tests: list[Callable[..., Any]] = [
        value for name, value in globals().items() if name.startswith("test_")
    ]
    assert len(SQL) + len(ADMIN) + len(tests) - 2 >= 25
