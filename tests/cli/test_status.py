"""`status`: the first line says whether a person has to act, and what to do.

Each set-up of an operator at night is made here, and the right sentence asserted.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from standfast import StandfastError
from standfast.admin import evidence as evidence_module
from standfast.admin import verdict as verdict_module
from standfast.admin.evidence import Disk
from standfast.cli import status as status_command
from standfast.engine import replicated
from standfast.engine.journal import FILE as JOURNAL_FILE
from standfast.migrate import rollback as rollback_module
from support.cli import Ran
from support.commands import run
from support.databases import temporary_database
from support.hold import soon, wait_direct
from support.moving import Place
from support.outage import Outage
from support.pg import new_role, url_as

CANARY = "c4n4ry-7391"


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores report more often than once a second."""
    monkeypatch.setattr(replicated, "SNAPSHOT_PAUSE_S", 0.02)


@pytest.fixture
def owned(pg_admin_url: str, tmp_path: Path) -> Iterator[Outage]:
    """A fresh database with a role that is not a superuser: it owns what it makes."""
    with new_role(pg_admin_url) as role, temporary_database(pg_admin_url) as url:
        found = Outage(url, tmp_path, admin_url=pg_admin_url)
        found.execute(f'GRANT CREATE ON DATABASE {{name}} TO "{role}"')
        found.execute(f'GRANT CREATE ON SCHEMA public TO "{role}"')
        yield Outage(url_as(url, role), tmp_path, admin_url=pg_admin_url)


def begin(outage: Outage, name: str = "storage") -> None:
    """A data directory that belongs to the database, with a closed store and nothing pending."""
    with outage.store(name) as store:
        store["views"].put("a", {"v": CANARY})


def leave_pending(outage: Outage, count: int = 3) -> None:
    with outage.away(), outage.store() as store:
        for number in range(count):
            store["views"].put(str(number), {"v": CANARY})


def first_line(ran: Ran) -> str:
    return ran.out.splitlines()[0]


def reported(outage: Outage, text: str) -> Ran:
    """`status`, as soon as it says this: the app reports about once a second."""
    found: list[Ran] = []

    def says() -> bool:
        found.append(outage.run("status"))
        return text in found[-1].out

    soon(says, within_s=15, what=text)
    return found[-1]


def test_a_store_in_order_is_safe(outage: Outage) -> None:
    """Nothing has to be done: one sentence, green, exit 0; words of the glossary only (R10)."""
    with outage.store() as store:
        store["views"].put("a", {"v": CANARY})
        ran = reported(outage, "processes  1: ")
    assert ran.code == 0
    assert first_line(ran).startswith("safe, nothing to do: everything is on postgresql://")
    assert f"processes  1: {os.getpid()} on " in ran.out
    assert "lane" not in ran.said
    assert "backup     none that is verified" in ran.out
    assert re.search(r"disk +[0-9.]+ [KMGT]B of [0-9.]+ [KMGT]B free", ran.out)
    assert re.search(r"journal +.* of 1,000,000 writes", ran.out)
    assert all(len(line) < 200 for line in ran.out.splitlines())
    assert "none has the store open" in outage.run("status").out


# ---- R1: every write of the app fails


FAULTS = {
    "rights revoked": ("REVOKE INSERT, UPDATE ON views FROM {role}", "42501"),
    "table dropped": ("DROP TABLE views", "is missing"),
    "table renamed": ("ALTER TABLE views RENAME TO views_old", "is missing"),
    "table retyped": ("ALTER TABLE views ALTER data TYPE text", "its column `data` is text"),
    "a new column": (
        "ALTER TABLE views ADD owner text NOT NULL DEFAULT '';"
        " ALTER TABLE views ALTER owner DROP DEFAULT",
        "",
    ),
    "the server's disk full": (
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END$$;"
        " CREATE TRIGGER no_space BEFORE INSERT ON views FOR EACH ROW EXECUTE FUNCTION full_disk()",
        "53100",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_writes_that_the_database_refuses(owned: Outage, fault: str) -> None:
    """R1: what the app's callers get as errors is the first line, with the server's words."""
    statement, words = FAULTS[fault]
    begin(owned)
    with owned.store() as store:
        wait_direct(store)
        owned.execute(statement.replace("{role}", "CURRENT_USER"))
        with pytest.raises(StandfastError):
            store["views"].put("b", {"v": CANARY})
        ran = reported(owned, "writes to `views` are refused")
    assert first_line(ran).startswith("act now: writes to `views` are refused since ")
    assert "are not stored: put of key 'b' in `views`" in first_line(ran) or words in ran.out
    assert words in ran.out
    assert ran.code == 1
    assert "refused    1 write(s), which are not stored" in ran.out
    assert "last error" in ran.out
    assert CANARY not in ran.said


# ---- R2: the wrong directory


def test_a_directory_that_no_app_has_used(outage: Outage, embedded: Place) -> None:
    """R2: run elsewhere, or without the app's URL: exit 1, and the database knows who wrote."""
    begin(outage)
    ran = outage.run("status", name="elsewhere")
    assert ran.code == 1
    assert first_line(ran).startswith(f"act now: the data directory {outage.data_dir('elsewhere')}")
    assert "is not there: what an app elsewhere keeps is not seen from here" in first_line(ran)
    assert "1 other(s) wrote to this database, the last of them" in first_line(ran)
    assert "STANDFAST_DATA_DIR and DATABASE_URL of the app" in first_line(ran)
    outage.data_dir("empty").mkdir()
    assert "was never used by an app" in first_line(outage.run("status", name="empty"))
    ran = run(embedded, "status")
    assert ran.code == 1
    assert "is not there" in first_line(ran)
    ran = outage.run("status")
    assert "wrote here this data directory, no other in the last day" in ran.out
    begin(outage, "elsewhere")
    assert "this data directory, and 1 other in the last day" in outage.run("status").out


# ---- R3: the primary went back in time


def test_a_database_that_went_back(outage: Outage) -> None:
    """R3: named, with the way out, whether writes are pending or not."""
    begin(outage)
    outage.execute("UPDATE standfast.lanes SET watermark = 0")
    outage.execute("DELETE FROM standfast.lanes")
    leave_pending(outage)
    with outage.store() as store:
        soon(lambda: store.health().cause == "went_back", within_s=15)
        ran = outage.run("status")
    assert ran.code == 1
    assert first_line(ran).startswith("act now: the database went back in time (")
    assert "4 write(s) are held" in first_line(ran) or "3 write(s) are held" in first_line(ran)
    assert "-> standfast doctor --adopt" in first_line(ran)


# ---- R4: what cannot be looked at


@pytest.mark.parametrize("damage", ["mirror", "journal", "unreadable"])
def test_local_files_that_cannot_be_looked_at(
    outage: Outage, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4: one damaged file hides nothing else: the database is asked all the same."""
    begin(outage)
    path = outage.data_dir() / ("mirror.db" if damage == "mirror" else JOURNAL_FILE)
    if damage == "unreadable":
        from standfast.admin import data_dir

        def refuse(*_: object, **__: object) -> bool:
            raise PermissionError(13, "Permission denied", "journal.db")

        monkeypatch.setattr(data_dir, "opened_journal", refuse)
    else:
        for extra in ("-wal", "-shm"):
            Path(f"{path}{extra}").unlink(missing_ok=True)
        path.write_bytes(b"not a database" * 1000)
    ran = outage.run("status")
    assert re.search(r"versions +standfast .*PostgreSQL 1", ran.out), ran.said
    assert "conflicts  none" in ran.out
    if damage == "mirror":  # disposable: the next open fills another one
        assert (ran.code, first_line(ran)[:4]) == (0, "safe")
    else:
        assert first_line(ran).startswith("act now: ")
        assert ran.code in (1, 2, 4)
    if damage != "unreadable":  # looking changes nothing: it is the app that sets it aside
        assert path.read_bytes() == b"not a database" * 1000
        assert not [one for one in outage.data_dir().iterdir() if "damaged" in one.name]
    if damage == "unreadable":
        assert "Permission denied" in first_line(ran)
        assert ran.code == 2


# ---- R5: space


def test_a_disk_that_is_nearly_full(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: little free space, and a journal near its limits, are each the first line."""
    begin(outage)

    def nearly_full(data_dir: Path) -> Disk:
        return Disk(50_000_000, 10**10, 1000)

    monkeypatch.setattr(evidence_module, "disk_of", nearly_full)
    ran = outage.run("status")
    assert ran.code == 1
    assert first_line(ran).startswith("act now: only 50.0 MB are free on the disk of ")
    assert "disk       50.0 MB of 10.0 GB free" in ran.out
    monkeypatch.undo()
    monkeypatch.setattr(verdict_module, "MAX_JOURNAL_OPS", 4)
    leave_pending(outage)
    assert "act now: the journal is 75% full (3 writes, " in outage.run("status").out


# ---- R6: locked by somebody else


@pytest.mark.parametrize("lock", ["row", "table"])
def test_a_lock_of_another_session(
    outage: Outage, lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R6: who blocks is named: process id, application, role, since when, kind of statement."""
    monkeypatch.setattr(evidence_module, "BLOCKING_AFTER_S", 0.0)
    begin(outage)
    leave_pending(outage)
    with psycopg.connect(outage.url, application_name="pgadmin") as conn:
        statement = {
            "row": "SELECT * FROM views FOR UPDATE",
            "table": "LOCK TABLE views IN ACCESS EXCLUSIVE MODE",
        }[lock]
        conn.execute(statement.encode())
        pid = conn.info.backend_pid
        with outage.store() as store:
            store["views"].put("a", 2)
            ran = outage.run("status")
    assert f"`views` is locked by session {pid} (pgadmin) of role" in ran.out
    word = "SELECT" if lock == "row" else "LOCK"
    assert f"(idle in transaction, its last statement is {word})" in ran.out
    assert f"pg_terminate_backend({pid})" in ran.out
    assert ran.code == 1


# ---- R8: an outage


def test_an_outage_is_safe(outage: Outage) -> None:
    """R8, R14: safe, since when, next try, what is kept where; exit 3, as the database is away."""
    begin(outage)
    with outage.store() as store:
        wait_direct(store)
        with outage.away():
            store["views"].put("b", {"v": CANARY})
            ran = reported(outage, "next try in")
            assert ran.code == 3
            assert first_line(ran).startswith("safe: the database does not answer since 20")
            assert "1 write(s) are safe in the journal" in first_line(ran)
            # Said once, not in every line: a person at night has 24 of them.
            assert ran.out.count("is not currently accepting connections") <= 2
            assert re.search(r"^wrote here not known$", ran.out, re.MULTILINE)
            assert "pending    1 write(s), " in ran.out
            assert CANARY not in ran.said
        wait_direct(store)
        assert outage.run("status").code == 0


def test_a_time_limit_that_cuts_everything_off(owned: Outage) -> None:
    """R8: a database that answers is not called silent: the setting in the way is what is named."""
    begin(owned)
    owned.execute("ALTER ROLE CURRENT_USER SET statement_timeout = '1ms'")
    try:
        ran = owned.run("status")
    finally:
        owned.execute("SET statement_timeout = 0; ALTER ROLE CURRENT_USER RESET statement_timeout")
    assert "does not answer" not in ran.out
    assert first_line(ran).startswith("act now: ")
    assert "57014" in first_line(ran)
    assert "statement_timeout" in ran.said
    assert owned.run("status").code == 0


def test_nobody_is_there_to_send(outage: Outage) -> None:
    """Writes wait, the database answers, and no process runs: act, with the command."""
    begin(outage)
    leave_pending(outage)
    ran = outage.run("status")
    assert ran.code == 1
    assert first_line(ran) == (
        "act now: 3 write(s) wait in the journal, and no process is running to send them ->"
        " standfast journal drain"
    )
    assert outage.run("journal", "drain").code == 0
    assert outage.run("status").code == 0


# ---- R9: interrupted migrations


def test_a_rollback_that_was_interrupted(embedded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """R9: named, with the command that finishes it, which the test runs."""
    run_id = str(embedded.moved(embedded.write("views.json", {"a": 1})).run)

    def killed(name: str) -> None:
        if name == "state-rolling-back":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rollback_module, "failpoint", killed)
        run(embedded, "rollback", run_id)
    ran = run(embedded, "status")
    assert ran.code == 1
    match = re.search(r"-> standfast (rollback \S+)", first_line(ran))
    assert match, ran.out
    assert "act now: a rollback was interrupted at " in first_line(ran)
    assert run(embedded, *match[1].split()).code == 0
    assert run(embedded, "status").code == 0


# ---- watching


def test_watch_shows_the_same_again(embedded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--watch` without a terminal prints one block after the other; Ctrl-C gives the last code."""
    run(embedded, "put", "views", "a", "1")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(status_command.time, "sleep", pause)
    ran = run(embedded, "status", "--watch")
    assert ran.code == 0
    assert ran.out.count("safe, nothing to do") == 2


def test_a_copy_of_the_directory_is_not_an_open_store(outage: Outage) -> None:
    """The report of a copied directory does not count as a process: its lock is not there."""
    with outage.store() as store:
        store["views"].put("a", 1)
        reported(outage, "processes  1: ")
        shutil.copytree(outage.data_dir(), outage.data_dir("copy"))
        assert "none has the store open" in outage.run("status", name="copy").out
