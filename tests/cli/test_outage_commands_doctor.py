"""`doctor`: what it finds, and `--adopt`: another database as the journal's new home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from standfast.admin import data_dir as local
from standfast.admin.checks import files as checks
from standfast.admin.checks import primary
from standfast.system.disks import filesystem_of
from support.cli import Ran
from support.cluster import Cluster
from support.commands import run
from support.moving import Place, catalog
from support.outage import Outage

CANARY = "c4n4ry-7391"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server that keeps what it says: all others of the tests run without fsync."""
    with Cluster(conf={"fsync": "on"}) as found:
        yield found


@pytest.fixture
def kept(cluster: Cluster, tmp_path: Path) -> Iterator[Outage]:
    """A fresh database on that server."""
    with psycopg.connect(cluster.url(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE kept")
    yield Outage(cluster.url("kept"), tmp_path, admin_url=cluster.url())
    with psycopg.connect(cluster.url(), autocommit=True) as conn:
        conn.execute("DROP DATABASE kept WITH (FORCE)")


def begin(outage: Outage) -> None:
    """A data directory that belongs to the database, with a closed store and nothing pending."""
    with outage.store() as store:
        store["settings"].put("first", 1)


def leave_pending(outage: Outage, count: int = 3, **options: Any) -> None:
    """A data directory whose store was closed in an outage, with writes in the journal."""
    with outage.away(), outage.store(**options) as store:
        for number in range(count):
            store["views"].put(str(number), {"v": CANARY})


def verdicts(ran: Ran) -> dict[str, str]:
    """The verdict of each check; each that is not ok has a hint."""
    for check in ran.document["checks"]:
        assert bool(check["hint"]) == (check["verdict"] != "ok"), check
    return {check["name"]: check["verdict"] for check in ran.document["checks"]}


def bad(ran: Ran) -> dict[str, str]:
    """The checks that are not ok."""
    return {name: verdict for name, verdict in verdicts(ran).items() if verdict != "ok"}


# ---- what it finds


def test_a_store_in_order(kept: Outage) -> None:
    """Everything is well, before the first write, after it, and while an app runs: exit 0."""
    for _ in range(2):
        ran = kept.run("doctor", "--json")
        assert (ran.code, bad(ran)) == (0, {})
        with kept.store() as store:
            store["views"].put("a", CANARY)
            ran = kept.run("doctor", "--json")
            assert (ran.code, bad(ran), ran.document["green"]) == (0, {}, True)
    ran = kept.run("doctor")
    assert (ran.code, ran.err.endswith(" checks: all ok\n")) == (0, True)
    assert ran.out.count("ok    ") == len(ran.out.splitlines())


def test_an_embedded_store_in_order(embedded: Place) -> None:
    """SQLite has its checks too, with and without a file: exit 0, and nothing is created."""
    assert run(embedded, "doctor").code == 0
    assert not embedded.data_dir.exists()
    run(embedded, "put", "views", "a", "1")
    ran = run(embedded, "doctor", "--json")
    assert (ran.code, bad(ran)) == (0, {})
    assert run(embedded, "doctor", "--adopt", "--yes").code == 2


def test_what_an_outage_leaves(kept: Outage) -> None:
    """Pending writes and the lane of an ended process: exit 1; away: exit 3, local checks too."""
    begin(kept)
    leave_pending(kept)
    ran = kept.run("doctor", "--json")
    assert (ran.code, bad(ran)) == (1, {"pending": "warn", "processes": "warn"})
    with kept.away():
        ran = kept.run("doctor", "--json")
    assert (ran.code, bad(ran)) == (
        3,
        {"connection": "fail", "pending": "warn", "processes": "warn"},
    )
    kept.aged(25 * 3600)
    ran = kept.run("doctor")
    assert ran.code == 1
    assert "journal_old" in ran.out
    assert "standfast journal drain --confirm" in ran.out
    assert kept.run("journal", "drain", "--confirm").code == 0
    assert kept.run("doctor").code == 0


def test_an_open_conflict(kept: Outage) -> None:
    """Lines that wait for somebody are a warning, until they are resolved."""
    begin(kept)
    with kept.away(), kept.store() as store:
        store["settings"].put("first", 2)
    with kept.store("other") as store:
        store["settings"].put("first", 3)
    kept.run("journal", "drain")
    assert bad(kept.run("doctor", "--json")) == {"conflicts": "warn"}
    assert kept.run("conflicts", "resolve", "1", "--dismiss").code == 0
    assert kept.run("doctor").code == 0


def test_settings_of_the_server_that_lose_commits(kept: Outage, pg_cluster: Cluster) -> None:
    """synchronous_commit off is a warning, a server without fsync a failure."""
    kept.execute("ALTER DATABASE {name} SET synchronous_commit = off")
    ran = kept.run("doctor", "--json")
    assert (ran.code, bad(ran)) == (1, {"durability": "warn"})
    ran = kept.run("doctor", "--json", "--to", pg_cluster.url())
    assert (ran.code, bad(ran)) == (1, {"durability": "fail"})


def test_a_schema_that_is_newer_or_older(kept: Outage) -> None:
    """A newer schema is refused with its reason, an older one is a warning; exit 1."""
    begin(kept)
    kept.execute("INSERT INTO standfast.schema_version (version) VALUES (99)")
    ran = kept.run("doctor", "--json")
    assert (ran.code, verdicts(ran)["connection"]) == (1, "fail")
    assert "version 99" in ran.out
    kept.execute("DELETE FROM standfast.schema_version WHERE version > 1")
    assert bad(kept.run("doctor", "--json")) == {"schema": "warn"}


def test_a_data_directory_that_others_may_read(kept: Outage) -> None:
    """World-readable: a warning with the command that mends it."""
    begin(kept)
    kept.data_dir().chmod(0o755)
    ran = kept.run("doctor", "--json")
    assert (ran.code, bad(ran)) == (1, {"privacy": "warn"})
    assert "chmod o-rwx" in ran.out


def test_a_data_directory_that_a_restart_empties(
    kept: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a tmpfs the journal is not durable: a failure."""
    begin(kept)
    monkeypatch.setattr(checks, "mounts", lambda: f"none {kept.data_dir()} tmpfs rw 0 0\n")
    ran = kept.run("doctor", "--json")
    assert (ran.code, bad(ran)) == (1, {"data directory": "fail"})


def test_the_file_system_of_a_path(tmp_path: Path) -> None:
    """The longest mount point above the path decides, and of several at one point the last."""
    spaced = tmp_path / "a b"
    mounted = (
        f"/dev/vda / ext4 rw 0 0\ntmpfs {tmp_path}/x tmpfs rw 0 0\n"
        f"over {str(spaced).replace(' ', chr(92) + '040')} overlay rw 0 0\n"
        f"over {str(spaced).replace(' ', chr(92) + '040')} ramfs rw 0 0\nshort\n"
    )
    assert filesystem_of(tmp_path, mounted) == "ext4"
    assert filesystem_of(tmp_path / "x" / "storage", mounted) == "tmpfs"
    assert filesystem_of(tmp_path / "xy", mounted) == "ext4"
    assert filesystem_of(spaced, mounted) == "ramfs"
    assert filesystem_of(spaced, "") == ""


@pytest.mark.parametrize(("ahead_s", "word"), [(61.0, "behind"), (-61.0, "ahead of"), (59.0, "")])
def test_clocks_that_differ(ahead_s: float, word: str) -> None:
    """More than a minute either way is a warning that says which one is late."""
    check = primary.clock(ahead_s)
    assert check.verdict == ("warn" if word else "ok")
    assert word in check.found


def test_files_of_somebody_else(kept: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may not be read is an error with a hint, and no bug; a failed check hides no other."""
    begin(kept)
    leave_pending(kept)

    def refuse(*_: object) -> bool:
        raise PermissionError(13, "Permission denied", "journal.db")

    monkeypatch.setattr(local, "is_dead", refuse)
    ran = kept.run("journal", "drain", "--json")
    assert (ran.code, ran.document["error"]["code"]) == (2, "data_dir")
    assert "Permission denied" in ran.document["error"]["message"]
    ran = kept.run("status", "--json")
    assert (ran.code, ran.document["safe"]) == (2, False)
    assert "Permission denied" in ran.document["headline"]
    assert ran.document["database"]


# ---- another database


def test_another_database_is_adopted(kept: Outage) -> None:
    """Under the same address a new, empty one: held, then adopted with its schema, then drained."""
    begin(kept)
    leave_pending(kept)
    kept.replaced()
    before = catalog(kept.url)
    ran = kept.run("doctor", "--json")
    assert (ran.code, bad(ran)["history"]) == (1, "fail")
    assert "standfast doctor --adopt" in ran.out
    assert kept.run("status", "--json").document["state"] == "other_database"
    assert kept.run("journal", "drain").code == 4
    with kept.store() as store:
        assert store["views"].put("late", 1).durable_on == "journal"
    assert catalog(kept.url) == before
    ran = kept.run("doctor", "--adopt", "--yes", "--json")
    assert ran.code == 0  # done, although the writes are still pending
    assert ran.document["adopted"]["pending"] == 4
    assert bad(ran) == {"pending": "warn", "processes": "warn"}
    assert kept.run("journal", "drain").code == 0
    assert kept.run("list", "views").out == "0\n1\n2\nlate\n"
    with kept.store() as store:
        assert store["views"].put("after", 1).durable_on == "primary"
    assert kept.run("doctor").code == 0
    ran = kept.run("doctor", "--adopt", "--json")
    assert (ran.code, ran.document["adopted"]) == (0, None)


def test_adopting_needs_a_yes(kept: Outage, pg_database: str) -> None:
    """Nobody answers: exit 2; no: exit 1; the journal stays where it belongs."""
    begin(kept)
    leave_pending(kept)
    flags = ["doctor", "--adopt", "--to", pg_database]
    before = catalog(pg_database)
    assert kept.run(*flags).code == 2
    assert kept.run(*flags, "--json").code == 2
    ran = kept.run(*flags, stdin="n\n")
    assert ran.code == 1
    assert "3 pending write(s) would go to it" in ran.err
    assert catalog(pg_database) == before
    assert kept.run("journal", "drain").code == 0


def test_an_app_that_has_the_directory_open(kept: Outage, pg_database: str) -> None:
    """A live lane: exit 5 before anything changes; when the app has ended, it works."""
    begin(kept)
    flags = ["doctor", "--adopt", "--yes", "--to", pg_database]
    with kept.app("store['settings'].put('second', 2)"):
        ran = kept.run(*flags, "--json")
        assert (ran.code, ran.document["error"]["code"]) == (5, "locked")
    assert kept.run(*flags, "--json").document["adopted"]["pending"] == 0


def test_conditions_do_not_move_to_another_history(kept: Outage, pg_database: str) -> None:
    """A version of the old database means nothing in the new one: such writes become conflicts."""
    begin(kept)
    with kept.store() as store:
        assert store["settings"].get("third") is None
    with kept.away(), kept.store(sole_writer=True) as store:
        store["settings"].put("first", "conditional", if_version=1)
        store["settings"].put("second", "plain")
        store["settings"].put("third", "new", if_absent=True)
    assert kept.run("put", "settings", "first", '"theirs"', "--to", pg_database).code == 0
    ran = kept.run("doctor", "--adopt", "--yes", "--json", "--to", pg_database)
    assert ran.document["adopted"]["rejected"] == 1
    assert kept.run("journal", "drain", "--to", pg_database).code == 0
    assert kept.run("get", "settings", "first", "--to", pg_database).out == '"theirs"\n'
    assert kept.run("get", "settings", "second", "--to", pg_database).out == '"plain"\n'
    assert kept.run("get", "settings", "third", "--to", pg_database).out == '"new"\n'
    ran = kept.run("conflicts", "list", "--json", "--to", pg_database)
    (entry,) = ran.document["conflicts"]
    assert (ran.code, entry["key"], entry["reason"]) == (1, "first", "other_history")
