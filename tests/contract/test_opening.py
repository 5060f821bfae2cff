"""`standfast.open`: which database it is, and that nothing is hidden or created by looking."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

import standfast
from standfast import ConfigError, StandfastError, Unavailable
from standfast.api import opening
from standfast.api.opening import EMBEDDED_FILE
from standfast.config.settings import parse_url
from support import backends
from support.hold import soon


def test_the_default_is_a_file_in_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a URL the documents are in SQLite, in the data directory; opening creates nothing."""
    monkeypatch.chdir(tmp_path)
    with standfast.open() as store:
        assert not (tmp_path / "storage").exists()
        assert store["views"].get("1") is None
        assert not (tmp_path / "storage").exists()
        store["views"].put("1", {"a": 1})
    assert (tmp_path / "storage" / EMBEDDED_FILE).exists()
    with standfast.open(data_dir=tmp_path / "storage") as store:
        assert store["views"].get("1") == {"a": 1}
    with standfast.open(data_dir=tmp_path / "other") as store:
        assert store["views"].get("1") is None


def test_a_url_names_the_database(
    tmp_path: Path, pg_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL, given or from the environment, decides between SQLite and PostgreSQL."""
    with standfast.open(f"sqlite:///{tmp_path}/x.db", data_dir=tmp_path) as store:
        store["views"].put("1", "sqlite")
    assert (tmp_path / "x.db").exists()
    monkeypatch.setenv("DATABASE_URL", pg_database)
    with standfast.open(data_dir=tmp_path) as store:
        assert store["views"].get("1") is None
        store["views"].put("1", "postgresql")
    with psycopg.connect(pg_database) as conn:
        assert conn.execute("SELECT key, data FROM views").fetchall() == [("1", "postgresql")]


def test_opening_logs_where_it_is(
    tmp_path: Path, pg_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the database without its password and the directory as an absolute path."""
    with caplog.at_level(logging.INFO, "standfast"):
        standfast.open(pg_database, data_dir=tmp_path).close()
    assert "postgresql://" in caplog.text
    assert str(tmp_path) in caplog.text
    assert parse_url(pg_database).params["password"] not in caplog.text


def test_embedded_documents_are_not_hidden(tmp_path: Path, pg_database: str) -> None:
    """A PostgreSQL URL beside an embedded database with documents is ConfigError, no empty app."""
    with standfast.open(data_dir=tmp_path) as store:
        store["views"].put("1", 1)
    with pytest.raises(ConfigError) as caught:
        standfast.open(pg_database, data_dir=tmp_path)
    assert caught.value.code == "embedded_data"
    assert "1 document" in caught.value.message
    with standfast.open(data_dir=tmp_path) as store:
        store["views"].delete("1")
    with standfast.open(pg_database, data_dir=tmp_path) as store:
        assert store["views"].get("1") is None


def test_a_mirror_is_not_taken_for_an_embedded_database(tmp_path: Path, pg_database: str) -> None:
    """A directory of a PostgreSQL store that is opened without a URL is ConfigError, which names
    what to do: neither its documents nor its pending writes seem to have vanished."""
    with standfast.open(pg_database, data_dir=tmp_path / "reached") as store:
        store["views"].put("1", 1)
    with standfast.open(NOWHERE, data_dir=tmp_path / "pending") as store:
        store["views"].put("1", 1)
    shutil.copytree(tmp_path / "reached", tmp_path / "no journal")
    for path in (tmp_path / "no journal").glob("journal.db*"):
        path.unlink()
    for name in ("reached", "pending", "no journal"):
        with pytest.raises(ConfigError) as caught:
            standfast.open(data_dir=tmp_path / name)
        assert caught.value.code == "mirror_file"
        assert "DATABASE_URL" in caught.value.hint
        assert not (tmp_path / name / EMBEDDED_FILE).exists()
    with standfast.open(pg_database, data_dir=tmp_path / "reached") as store:
        assert store["views"].get("1") == 1


def test_an_embedded_database_beside_an_empty_journal(tmp_path: Path) -> None:
    """An attempt with a URL that reached nothing and wrote nothing stands in nobody's way, and an
    embedded database that a URL names may lie anywhere."""
    standfast.open(NOWHERE, data_dir=tmp_path).close()
    with standfast.open(data_dir=tmp_path) as store:
        store["views"].put("1", 1)
    with standfast.open(NOWHERE, data_dir=tmp_path / "other") as store:
        store["views"].put("1", 1)
    standfast.open(f"sqlite:///{tmp_path / 'x.db'}", data_dir=tmp_path / "other").close()


NOWHERE = "postgresql://nobody:secret@127.0.0.1:1/none"


def test_a_database_that_does_not_answer_is_no_error(tmp_path: Path) -> None:
    """I4: the store begins with its journal and its mirror; what is not known is not "missing"."""
    with standfast.open(NOWHERE, data_dir=tmp_path) as store:
        assert store.health().state == "journaling"
        assert store["views"].put("1", 1).durable_on == "journal"
        assert store["views"].get("1") == 1
        with pytest.raises(Unavailable) as caught:
            store["views"].get("2")
    assert caught.value.code == "not_mirrored"
    assert "secret" not in str(caught.value)
    with standfast.open(NOWHERE, data_dir=tmp_path) as store:
        assert store["views"].get("1") == 1
        assert store.close(timeout_s=0) == 1


def test_without_a_fallback_it_is_told_at_once(tmp_path: Path) -> None:
    """`fallback="off"` looks when it opens: nothing listens is Unavailable, with a hint."""
    with pytest.raises(Unavailable) as caught:
        standfast.open(NOWHERE, data_dir=tmp_path, fallback="off")
    assert caught.value.code == "connection"
    assert caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_refusal_is_told_at_once(tmp_path: Path, pg_database: str) -> None:
    """A wrong password or a file that is no database is an error of `open`, with every fallback."""
    wrong = re.sub(r":[^:@/]+@", ":mistaken@", pg_database)
    with pytest.raises(StandfastError) as refused:
        standfast.open(wrong, data_dir=tmp_path)
    assert refused.value.code == "auth"
    assert "mistaken" not in str(refused.value)
    (tmp_path / "text.db").write_text("no database")
    with pytest.raises(StandfastError) as no_file:
        standfast.open(f"sqlite:///{tmp_path}/text.db", data_dir=tmp_path)
    assert no_file.value.code == "not_a_database"


def test_settings_that_do_not_exist_are_told(tmp_path: Path) -> None:
    """A wrong option is ConfigError("usage") before anything is opened."""
    for options in (
        {"fallback": "on"},
        {"local_durability": "half"},
        {"on_conflict": "ours"},
        {"max_stale_s": 0},
        {"max_journal_ops": -1},
        {"max_journal_bytes": 0},
    ):
        with pytest.raises(ConfigError) as caught:
            standfast.open(data_dir=tmp_path / "new", **options)  # type: ignore[arg-type]
        assert caught.value.code == "usage"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("tmpfs", "a restart of the machine deletes"),
        ("overlay", "is inside a container"),
        ("nfs", "SQLite's locks are not safe there"),
        ("ext4", ""),
    ],
)
def test_disks_that_keep_nothing_are_warned_of(
    tmp_path: Path,
    kind: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A data directory in memory, in the container or on another machine: a warning at open."""
    monkeypatch.setattr(opening, "mounts", lambda: f"none / {kind} rw 0 0\n")
    with standfast.open(data_dir=tmp_path / "storage"):
        warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(warned) == bool(words)
    assert all(words in line for line in warned)


@pytest.mark.parametrize("late", [False, True], ids=["meanwhile", "opened-just-now"])
def test_an_opening_that_is_cancelled_leaves_nothing_open(
    tmp_path: Path, pg_database: str, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """A task that is cancelled while it waits for `open_async` leaves no connection and no thread
    of an engine behind, whether the engine was open by then or not."""
    begun, cancelled, open_engine = threading.Event(), threading.Event(), opening.open_engine

    def slowly(*args: Any) -> Any:
        engine = open_engine(*args) if late else None
        begun.set()
        cancelled.wait(30)
        return engine or open_engine(*args)

    monkeypatch.setattr(opening, "open_engine", slowly)

    async def main() -> None:
        async def wait() -> None:
            await standfast.open_async(pg_database, data_dir=tmp_path)

        task = asyncio.ensure_future(wait())
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()

    asyncio.run(main())
    own = {"standfast-writer", "standfast-connector"}
    soon(lambda: not own & {one.name for one in threading.enumerate()}, within_s=20.0)
    soon(lambda: not backends.backends(pg_database), within_s=20.0)
