"""`status` and `journal`: what is pending, seen from outside, replayed and given up."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from standfast.admin import journal as pending_module
from standfast.backends.postgres.backend import PostgresBackend
from standfast.cli import journal as journal_command
from standfast.engine.journal import Journal
from standfast.engine.lanes import FileLock
from standfast.errors import Unavailable
from standfast.limits import MAX_JOURNAL_AGE_S
from support.cluster import Cluster
from support.commands import run
from support.moving import Place, catalog
from support.outage import Outage

CANARY = "c4n4ry-7391"
COMMANDS = (
    ["status"],
    ["journal", "list"],
    ["journal", "drain"],
    ["journal", "discard", "--all", "--yes"],
    ["conflicts", "list", "--all"],
    ["doctor"],
)


def begin(outage: Outage, name: str = "storage") -> None:
    """A data directory that belongs to the database, with a closed store and nothing pending."""
    with outage.store(name) as store:
        store["settings"].put("first", 1)


def leave_pending(outage: Outage, count: int = 3, name: str = "storage") -> None:
    """A data directory whose store was closed in an outage, with writes in the journal."""
    with outage.away(), outage.store(name) as store:
        for number in range(count):
            receipt = store["views"].put(str(number), {"v": CANARY, "n": number})
            assert receipt.durable_on == "journal"


# ---- nothing is there yet


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_looking_creates_nothing(outage: Outage, command: list[str]) -> None:
    """Without a journal and without a schema, a command leaves neither behind."""
    before = catalog(outage.url)
    ran = outage.run(*command)
    assert ran.code in (0, 1)
    assert not outage.data_dir().exists()
    assert catalog(outage.url) == before


def test_an_embedded_store_says_so(embedded: Place) -> None:
    """`status` of SQLite: exit 0, it names itself embedded, and makes no file."""
    ran = run(embedded, "status")
    assert (ran.code, ran.err) == (1, "")
    assert "direct: an embedded SQLite database" in ran.out
    assert not embedded.data_dir.exists()
    run(embedded, "put", "views", "a", "1")
    ran = run(embedded, "status", "--json")
    status = ran.document
    assert (ran.code, status["safe"]) == (0, True)
    assert (status["state"], status["kind"], status["lag_ops"]) == ("direct", "sqlite", 0)
    assert run(embedded, "journal", "list").code == 0
    assert run(embedded, "journal", "drain").code == 0


# ---- status


def test_a_store_in_order(outage: Outage) -> None:
    """Everything on the primary: exit 0, direct, with histories, versions and the mirror's rows."""
    with outage.store() as store:
        store["views"].put("a", {"v": CANARY})
        ran = outage.run("status", "--json")
    status = ran.document
    assert (ran.code, status["state"], status["lag_ops"]) == (0, "direct", 0)
    assert status["history"] == status["database"]
    assert status["versions"]["schema"] == status["versions"]["schema_known"]
    assert status["versions"]["server"]
    assert (len(status["processes"]), status["left_open"]) == (1, 0)
    assert status["mirrored"] == 1
    assert status["oldest_pending"] is None
    assert Path(status["data_dir"]) == outage.data_dir()
    ran = outage.run("status")
    assert (ran.code, ran.err) == (0, "")
    assert "state      direct: everything is on the primary\n" in ran.out


def test_pending_writes_and_an_answering_primary(outage: Outage) -> None:
    """Somebody has to replay: exit 1, draining, with how much and since when; the lane is dead."""
    leave_pending(outage)
    ran = outage.run("status", "--json")
    status = ran.document
    assert (ran.code, status["state"], status["lag_ops"]) == (1, "draining", 3)
    assert status["lag_bytes"] > 0
    assert status["oldest_pending"].endswith("+00:00")
    assert (status["processes"], status["left_open"]) == ([], 1)
    assert "3 write(s)" in outage.run("status").out


def test_a_database_that_refuses_and_one_that_is_read_only(outage: Outage) -> None:
    """The primary does not take writes: exit 3, journaling, with the code and the local facts."""
    leave_pending(outage)
    with outage.away():
        ran = outage.run("status", "--json")
        assert (ran.code, ran.document["state"]) == (3, "journaling")
        assert (ran.document["code"], ran.document["lag_ops"]) == ("shutdown", 3)
        assert ran.document["database"] is None
        ran = outage.run("status")
        assert ran.code == 3
        assert "3 write(s)" in ran.out
        assert "hint: " in ran.err
    outage.execute("ALTER DATABASE {name} SET default_transaction_read_only = on")
    ran = outage.run("status", "--json")
    assert (ran.code, ran.document["code"]) == (3, "read_only")


def test_a_server_that_is_killed_or_frozen(tmp_path: Path) -> None:
    """Exit 3 within the deadline, whether nobody listens or the server hangs; then it is back."""
    with Cluster() as cluster:
        outage = Outage(cluster.url(), tmp_path)
        begin(outage)
        cluster.freeze()
        env = {"STANDFAST_DEADLINE_S": "0.3"}
        for command in COMMANDS[:1] + COMMANDS[4:]:
            assert outage.run(*command, env=env).code == 3
        cluster.kill()
        with outage.store() as store:
            assert store["views"].put("a", 1).durable_on == "journal"
        for command in (["status"], ["journal", "drain"], ["conflicts", "list"], ["doctor"]):
            ran = outage.run(*command)
            assert ran.code == 3
            assert "Connection refused" in ran.said
        cluster.start()
        assert outage.run("journal", "drain").code == 0
        assert outage.run("get", "views", "a").out == "1\n"


def test_a_mirror_without_its_url_is_refused(outage: Outage) -> None:
    """Who forgot DATABASE_URL is told, instead of hearing that an embedded store is fine."""
    leave_pending(outage)
    env = {"DATABASE_URL": ""}
    for command in (["status"], ["doctor"], ["conflicts", "list"]):
        ran = outage.run(*command, env=env)
        assert ran.code in (1, 2)
        assert "mirror of a PostgreSQL database" in ran.said
    ran = outage.run("journal", "drain", env=env)
    assert ran.code == 2
    assert "set DATABASE_URL" in ran.err
    assert outage.run("journal", "list", "--json", env=env).document["pending"] == 3


# ---- journal list


def test_the_list_tells_everything_but_contents(outage: Outage) -> None:
    """Every pending write with its name, place, size and marks; exit 0 with and without any."""
    with outage.store() as store:
        store["views"].put("known", 1)
    with outage.away(), outage.store(sole_writer=True) as store:
        store["views"].put("a", {"v": CANARY})
        version = store["views"].read("known").version  # type: ignore[union-attr]
        store["views"].put("known", 2, if_version=version)
        with store.batch() as batch:
            batch.put("views", "b", 1)
            batch.delete("views", "c")
        ran = outage.run("journal", "list", "--json")
    assert ran.code == 0
    first, second, third, fourth = ran.document["writes"]
    assert (first["kind"], first["collection"], first["key"]) == ("put", "views", "a")
    assert first["bytes"] == len(json.dumps({"v": CANARY}).replace(" ", ""))
    assert first["acknowledged_at"].endswith("+00:00")
    assert (first["conditional"], second["conditional"]) == (False, True)
    assert third["batch"] == fourth["batch"] == third["seq"]
    assert fourth["kind"] == "delete"
    ran = outage.run("journal", "list", "--limit", "2")
    assert (ran.code, len(ran.out.splitlines())) == (0, 2)
    assert "4 write(s) pending, 2 shown" in ran.err
    assert "(conditional)" in ran.out
    assert CANARY not in ran.said


def test_keys_in_the_list_are_harmless_on_a_terminal(outage: Outage) -> None:
    """Control characters of a key are escaped where people read it."""
    with outage.away(), outage.store() as store:
        store["views"].put("\x1b[31m", 1)
    assert "\\x1b[31m" in outage.run("journal", "list").out


# ---- journal drain


def test_drain_replays_once(outage: Outage) -> None:
    """Exit 0, everything is there exactly once, and a second drain has nothing to do."""
    with outage.store() as store:
        store["views"].put("count", 0)
    with outage.away(), outage.store() as store:
        for _ in range(5):
            store["views"].increment("count", "", 1)
    ran = outage.run("journal", "drain", "--json")
    assert (ran.code, ran.document) == (
        0,
        {"before": 5, "left": 0, "reason": None, "open_conflicts": 0},
    )
    assert outage.run("get", "views", "count").out == "5\n"
    ran = outage.run("journal", "drain")
    assert (ran.code, ran.err) == (0, "nothing is pending\n")
    assert outage.run("status").code == 0


def test_a_directory_that_never_reached_a_database(outage: Outage) -> None:
    """Opened in an outage from the start: drain installs the schema, and the journal belongs."""
    leave_pending(outage)
    assert outage.run("status", "--json").document["history"] is None
    assert outage.run("journal", "drain").code == 0
    status = outage.run("status", "--json").document
    assert status["history"] == status["database"]
    assert outage.run("list", "views").out == "0\n1\n2\n"


def test_drain_beside_a_running_app(outage: Outage) -> None:
    """The app and the command may replay at once: nothing is lost, nothing takes effect twice."""
    begin(outage)
    with outage.away():
        code = "for _ in range(40): store['views'].increment('count', '', 1)"
        app = outage.app(code)
        process = app.__enter__()
    try:
        assert outage.run("journal", "drain").code == 0
        assert outage.run("journal", "list", "--json").document["pending"] == 0
        assert outage.run("get", "views", "count").out == "40\n"
        assert process.poll() is None
    finally:
        app.__exit__(None, None, None)


def test_another_database_is_held(outage: Outage, pg_url: str) -> None:
    """Exit 4 with the way out, and not a byte is written there; status and doctor tell it too."""
    begin(outage)
    leave_pending(outage)
    before = catalog(pg_url)
    ran = outage.run("journal", "drain", "--json", "--to", pg_url)
    assert (ran.code, ran.document["error"]["code"]) == (4, "other_database")
    assert "standfast doctor --adopt" in ran.document["error"]["hint"]
    ran = outage.run("status", "--json", "--to", pg_url)
    assert (ran.code, ran.document["state"], ran.document["lag_ops"]) == (1, "other_database", 3)
    assert catalog(pg_url) == before
    assert outage.run("journal", "drain").code == 0


def test_an_old_journal_is_held_until_confirmed(outage: Outage) -> None:
    """More than a day old: exit 1 and the reason; --confirm replays it."""
    begin(outage)
    leave_pending(outage)
    outage.aged(MAX_JOURNAL_AGE_S - 600)
    assert outage.run("status", "--json").document["state"] == "draining"
    outage.aged(1200)
    ran = outage.run("status", "--json")
    assert (ran.code, ran.document["state"]) == (1, "journal_old")
    ran = outage.run("journal", "drain", "--json")
    assert (ran.code, ran.document["left"]) == (1, 3)
    assert "--confirm" in ran.document["reason"]
    assert outage.run("journal", "drain").code == 1
    assert outage.run("journal", "drain", "--confirm").code == 0
    assert outage.run("list", "views").out == "0\n1\n2\n"


def test_a_drain_lock_that_somebody_holds(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held for the whole time: exit 5 for drain and discard, and nothing has changed."""
    begin(outage)
    leave_pending(outage)
    monkeypatch.setattr(journal_command, "LOCK_WAIT_S", 0.05)
    lock = FileLock(outage.data_dir() / "drain.lock")
    assert lock.acquire()
    try:
        ran = outage.run("journal", "drain", "--timeout", "0.05", "--json")
        assert (ran.code, ran.document["left"]) == (5, 3)
        assert ran.document["reason"] == "another process is replaying"
        ran = outage.run("journal", "discard", "--all", "--yes", "--json")
        assert (ran.code, ran.document["error"]["code"]) == (5, "locked")
    finally:
        lock.release()
    assert outage.run("journal", "list", "--json").document["pending"] == 3


def test_a_row_that_somebody_has_locked(outage: Outage) -> None:
    """What can go goes; exit 1 with the reason for the rest, which stays in the journal."""
    import psycopg

    with outage.store() as store:
        store["views"].put("0", 0)
    leave_pending(outage)
    with psycopg.connect(outage.url) as conn:
        conn.execute("SELECT * FROM views WHERE key = '0' FOR UPDATE")
        ran = outage.run("journal", "drain", "--timeout", "3", "--json")
        assert (ran.code, ran.document["left"]) == (1, 1)
        assert "locked" in ran.document["reason"]
    assert outage.run("journal", "drain").code == 0


def test_a_primary_that_is_lost_on_the_way(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 3, and everything that was not confirmed is still pending; the next drain ends it."""
    begin(outage)
    leave_pending(outage)

    def lost(*_: object, **__: object) -> None:
        raise Unavailable("the connection was lost", code="connection_lost")

    with monkeypatch.context() as patch:
        patch.setattr(PostgresBackend, "apply", lost)
        assert outage.run("journal", "drain").code == 3
    assert outage.run("journal", "list", "--json").document["pending"] == 3
    assert outage.run("journal", "drain").code == 0


def test_drain_decides_conflicts_as_it_is_told(outage: Outage) -> None:
    """--prefer theirs: the primary's value stays, and the conflict record says so."""
    with outage.store() as store:
        store["views"].put("a", {"v": "base"})
    with outage.away(), outage.store() as store:
        store["views"].put("a", {"v": "mine"})
    with outage.store("other") as store:
        store["views"].put("a", {"v": "theirs"})
    ran = outage.run("journal", "drain", "--prefer", "theirs")
    assert ran.code == 0
    assert "1 conflict(s) are open" in ran.err
    assert outage.run("get", "views", "a").out == '{"v":"theirs"}\n'
    assert outage.run("status").code == 1


# ---- journal discard


def test_discarded_writes_are_kept_in_a_file(outage: Outage) -> None:
    """Their contents are in a private file, exactly; the others are still pending."""
    begin(outage)
    leave_pending(outage)
    ran = outage.run("journal", "discard", "1", "3", "9", "--yes", "--json")
    assert (ran.code, ran.document["discarded"], ran.document["missing"]) == (0, 2, [9])
    (path,) = map(Path, ran.document["files"])
    assert path.parent == outage.data_dir()
    assert path.name.startswith("discarded-")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = json.loads(path.read_text())
    assert [write["body"]["n"] for write in kept["writes"]] == [0, 2]
    assert kept["writes"][0]["body"]["v"] == CANARY
    assert outage.run("journal", "drain").code == 0
    assert outage.run("list", "views").out == "1\n"


def test_a_discarded_write_was_not_applied(outage: Outage) -> None:
    """`outcome` of a write that was given up says so, and where its contents are: it had no
    conflict and was not pending, which was taken for "applied"."""
    begin(outage)
    with outage.away(), outage.store() as store:
        given_up = store["views"].put("given-up", 1)
        kept = store["views"].put("kept", 1)
        ran = outage.run("journal", "discard", "1", "--yes", "--json")
        assert ran.document["discarded"] == 1, ran.said
    with outage.store() as store:
        store.flush(timeout_s=30)
        outcome = store.outcome(given_up)
        assert outcome.state == "rejected"
        assert Path(ran.document["files"][0]).name in outcome.reason
        assert store.outcome(kept).state == "applied"
        assert store["views"].get("given-up") is None


def test_discard_needs_a_word_and_a_yes(outage: Outage) -> None:
    """Neither IDs nor --all, or both: exit 2.  Nobody answers: 2.  The answer is no: 1."""
    begin(outage)
    leave_pending(outage)
    for words in ([], ["1", "--all"], ["--all"], ["--all", "--json"]):
        assert outage.run("journal", "discard", *words).code == 2
    # Consent is given on the command line alone.
    assert outage.run("journal", "discard", "--yes", env={"STANDFAST_ALL": "1"}).code == 2
    ran = outage.run("journal", "discard", "--all", stdin="n\n")
    assert ran.code == 1
    assert "Give up 3 acknowledged write(s)?" in ran.err
    assert outage.run("journal", "discard", "77", "--yes").code == 1
    assert outage.run("journal", "list", "--json").document["pending"] == 3
    assert outage.run("journal", "discard", "--all", stdin="y\n").code == 0
    assert outage.run("journal", "discard", "--all", "--yes").code == 1
    assert outage.run("status").code == 0


def test_a_batch_is_discarded_whole_or_not_at_all(outage: Outage) -> None:
    """Half of an all-or-nothing batch is refused, and the hint names the rest."""
    begin(outage)
    with outage.away(), outage.store() as store, store.batch() as batch:
        for key in "abc":
            batch.put("views", key, 1)
    ran = outage.run("journal", "discard", "2", "--yes", "--json")
    assert (ran.code, ran.document["error"]["code"]) == (2, "batch_split")
    assert ran.document["error"]["hint"].endswith("1, 3")
    assert outage.run("journal", "discard", "1", "2", "3", "--yes").code == 0


def test_large_discards_go_into_several_files(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit of one file there is another; together they hold each write once."""
    begin(outage)
    leave_pending(outage, 5)
    monkeypatch.setattr(pending_module, "MAX_FILE_OPS", 2)
    files = outage.run("journal", "discard", "--all", "--yes", "--json").document["files"]
    kept = [json.loads(Path(path).read_text())["writes"] for path in files]
    assert [len(writes) for writes in kept] == [2, 2, 1]
    assert [write["key"] for writes in kept for write in writes] == list("01234")


def test_a_file_that_cannot_be_written_discards_nothing(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writes leave the journal only after their file is on disk."""
    begin(outage)
    leave_pending(outage)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "discarded")

    monkeypatch.setattr(pending_module, "write_atomic", full)
    ran = outage.run("journal", "discard", "--all", "--yes")
    assert ran.code == 2
    assert "No space left on device" in ran.err
    assert outage.run("journal", "list", "--json").document["pending"] == 3


# ---- what is never shown


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["human", "json"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_output_shows_a_value_or_a_password(
    outage: Outage, command: list[str], flags: list[str]
) -> None:
    """With pending writes and an open conflict, away and not: keys at the most, one document."""
    with outage.store() as store:
        store["views"].put("0", {"v": CANARY + "base"})
    leave_pending(outage)
    with outage.store("other") as store:
        store["views"].put("0", {"v": CANARY + "theirs"})
    with outage.away():
        said = [outage.run(*command, *flags)]
    said.append(outage.run(*command, *flags))
    outage.run("journal", "drain")
    said.append(outage.run(*command, *flags))
    for ran in said:
        assert ran.code in (0, 1, 3)
        assert CANARY not in ran.said
        assert outage.password not in ran.said
        if flags:
            assert ran.document is not None


def test_the_journal_survives_being_looked_at(outage: Outage) -> None:
    """`status` and `journal list` of a directory that an app has open change nothing in it."""
    leave_pending(outage)
    journal = Journal(outage.data_dir())
    before, version = list(journal.everything()), journal.version()
    for command in (["status"], ["journal", "list"], ["doctor"]):
        outage.run(*command)
    assert (list(journal.everything()), journal.version()) == (before, version)
    journal.close()
