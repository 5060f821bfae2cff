"""The local disk: full, damaged, locked, copied (rows D1 to D6)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

import standfast
from standfast import StandfastError
from support.crash_disk import why_no_mounts
from support.disk_app import PHASES, play
from support.far import FarPg
from support.hold import locked, on_primary, soon, wait_direct

MakeFar = Callable[..., FarPg]


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """Where `play` mounts a small file system for its app alone."""
    if why := why_no_mounts():
        pytest.skip(why)
    return tmp_path / "small"


def test_a_mirror_that_missed_writes_is_not_read(pg_database: str, small_disk: Path) -> None:
    """D1, R25: what a full disk kept out of the mirror is not served as its old value later."""
    told = play("stale_mirror", pg_database, small_disk)
    assert told["last"] > 0
    assert "error" in told or told["read"] == told["last"], told


def test_a_journal_forgets_on_a_full_disk(pg_database: str, small_disk: Path) -> None:
    """D2, R25: what is settled is known on a full disk, and the store is direct again."""
    assert play("forgetting", pg_database, small_disk) == {"durable_on": "primary"}


@pytest.mark.parametrize(
    "phase",
    [*(pytest.param(one, marks=pytest.mark.slow) for one in PHASES if one != "spool"), "spool"],
)
def test_a_disk_that_fills_loses_nothing(pg_database: str, small_disk: Path, phase: str) -> None:
    """D1, D2, D5, I1, I12, R25: 4 MB that fill up in any phase, a kill -9, a restart on the full
    disk and on a free one: nothing acknowledged is lost, and nothing old is read."""
    told = play(phase, pg_database, small_disk, size="4m")
    logging.getLogger(__name__).info("%s: %s", phase, told)
    assert told["old"] == []
    assert told["acknowledged"] > 20
    assert told["was_full"]


@pytest.mark.parametrize("part", ["restarted", "restarted_away"])
def test_a_store_opens_on_a_full_disk(pg_database: str, small_disk: Path, part: str) -> None:
    """D2, I1, I2: with 0 bytes free a store opens, twice; with the primary it works directly,
    without it it reads, and acknowledges nothing that is not on disk.  `health` and the commands
    say so; with room again nothing is lost or doubled."""
    told = play(part, pg_database, small_disk)
    logging.getLogger(__name__).info("%s: %s", part, told)
    assert told["counted"] == told["acknowledged"]
    assert told["read"]["x"] >= 1
    for problems in (told["problems"], told["looked"]):
        assert any("the disk" in one and "full" in one for one in problems), problems
    if part == "restarted":
        assert (told["pending"], told["refused"]) == (0, [])
    else:
        assert told["refused"] == ["disk_full, True"]
        assert told["mirrored"] == 1
        assert told["pending"] >= 1


@pytest.mark.parametrize("part", ["killed_away", "killed_near"])
def test_a_store_opens_after_a_kill_on_a_full_disk(
    pg_database: str, small_disk: Path, part: str
) -> None:
    """D2, I1, I2: each of four stores on a disk without a free byte is killed with -9 and opened
    again, with the primary and without: what is pending is read, and arrives when there is room."""
    told = play(part, pg_database, small_disk)
    logging.getLogger(__name__).info("%s: %s", part, told)
    assert told["opened"] == ["opened"] * 4, told
    assert told["counted"] == told["acknowledged"]
    assert told["grown"] == 39


def test_a_store_opens_on_a_full_disk_without_its_reserve(
    pg_database: str, small_disk: Path
) -> None:
    """D2, I1, I12: in an outage too: it reads what is pending and what is in the mirror, refuses
    writes, and says that it has its files alone; with room, others can use them again."""
    told = play("without_reserve", pg_database, small_disk)
    assert told["read"] == [1, 2]
    assert told["refused"] == "disk_full"
    assert any("find it locked" in one for one in told["problems"])
    assert told["mirrored"] == 1
    assert told["found"] == {"k": 1, "pending": 2}


def test_an_embedded_store_opens_on_a_full_disk(small_disk: Path) -> None:
    """D2, I1: a store on SQLite alone reads there, deletes from the room of the reserve, and says
    what is wrong; nothing else is lost, and with room it takes everything again."""
    told = play("embedded", "", small_disk)
    assert told["read"][0] == "x" * 1000
    assert told["read"][1:] == [230, 230]
    assert told["codes"] == ["disk_full"] * 2
    assert "full" in told["problems"][0]
    assert told["kept"] == [*range(100), *range(140, 250)]
    assert told["healthy"]


def test_a_store_opens_where_the_disk_hides_that_it_is_full(
    pg_database: str, small_disk: Path
) -> None:
    """D2: as under a quota, of which only a write that fails gives notice."""
    assert play("under_a_quota", pg_database, small_disk) == {"read": 1, "local": 1}


@pytest.mark.parametrize("damage", ["garbage", "directory"])
def test_a_damaged_mirror_is_made_anew(
    pg_database: str, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """D3: a mirror that cannot be read is set aside with one warning, and the store works."""
    path = tmp_path / "data" / "mirror.db"
    with standfast.open(pg_database, data_dir=path.parent) as store:
        wait_direct(store)
        store["c"].put("k", 1)
    assert path.exists()
    for rest in path.parent.glob("mirror.db-*"):
        rest.unlink()
    if damage == "garbage":
        path.write_bytes(b"\x00\xff" * 8192)
    else:
        path.unlink()
        path.mkdir()
    with standfast.open(pg_database, data_dir=path.parent) as store:
        wait_direct(store)
        assert store["c"].get("k") == 1
        assert store["c"].get("k", consistency="local") == 1
    assert "mirror" in caplog.text


def test_a_damaged_journal_is_salvaged(
    far_pg: MakeFar, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """D3: what can be read of a damaged journal arrives; what is lost is counted and named."""
    far = far_pg()
    path = tmp_path / "data" / "journal.db"
    with standfast.open(far.url, data_dir=path.parent) as store:
        wait_direct(store)
        store["c"].put("first", 1)
        far.line.set(max_connections=0)
        far.line.cut()
        for number in range(100):
            store["c"].put(str(number), "x" * 2000)
    damage_a_page(path)
    far.line.set(max_connections=None)
    with standfast.open(far.url, data_dir=path.parent) as store:
        wait_direct(store)
    assert len(on_primary(far.near_url, "c")) > 50
    assert "journal" in caplog.text


def damage_a_page(path: Path) -> None:
    """Overwrite the last page in the middle of the file that holds rows of a table."""
    with apsw.Connection(str(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((page_size,),) = connection.execute("PRAGMA page_size").fetchall()
    connection.close()
    content = bytearray(path.read_bytes())
    pages = range(page_size, len(content), page_size)
    leaves = [at for at in pages if content[at] == 0x0D]  # a leaf of a table's tree
    at = leaves[len(leaves) // 2]
    content[at : at + page_size] = b"\xff" * page_size
    path.write_bytes(content)


def test_a_directory_in_the_place_of_a_file_stops_no_write(far_pg: MakeFar, tmp_path: Path) -> None:
    """D3, D5: where the spool or the lock of the replay should be: set aside, and named."""
    far = far_pg()
    data_dir = tmp_path / "data"
    with standfast.open(far.url, data_dir=data_dir) as store:
        wait_direct(store)
        for name in ("spool.jsonl", "drain.lock"):
            (data_dir / name).unlink(missing_ok=True)
            (data_dir / name).mkdir()
        assert store["c"].put("healthy", 1).durable_on == "primary"
        with far.line.down():
            assert store["c"].put("away", 1).durable_on == "journal"
        wait_direct(store)
        (problem,) = store.health().problems
        assert "spool.jsonl.damaged-" in problem
        (aside,) = data_dir.glob("spool.jsonl.damaged-*")
        aside.rmdir()
        assert store.health().healthy
    assert on_primary(far.near_url, "c") == {"healthy": 1, "away": 1}


def test_a_locked_mirror_holds_up_no_write(pg_database: str, tmp_path: Path) -> None:
    """D4: when the primary has answered, a write does not wait for a lock on the mirror."""
    with standfast.open(pg_database, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["c"].put("k", 0)
        with locked(tmp_path / "data" / "mirror.db"):
            start = time.monotonic()
            assert store["c"].put("k", 1).durable_on == "primary"
            # Far above the 50 ms that are promised, and below the 5 s that SQLite waits.
            assert time.monotonic() - start < 4
        assert store["c"].get("k") == 1


def test_a_locked_database_stops_no_event_loop(tmp_path: Path) -> None:
    """D4: embedded, with somebody's lock on the file: a read stops the event loop for no one.

    A thread beside it shows what the machine itself does to whoever wants to run every 10 ms.
    """
    over = threading.Event()
    beside = [0.0]

    def watch() -> None:
        while not over.is_set():
            start = time.monotonic()
            time.sleep(0.01)
            beside.append(time.monotonic() - start)

    async def longest_pause() -> float:
        pauses = [0.0]

        async def tick() -> None:
            while True:
                start = time.monotonic()
                await asyncio.sleep(0.01)
                pauses.append(time.monotonic() - start)

        url = f"sqlite:///{tmp_path / 'own.db'}"
        async with standfast.open_async(url, data_dir=tmp_path / "data") as store:
            await store["c"].put("k", 1)
            ticking = asyncio.create_task(tick())
            with locked(tmp_path / "own.db"):
                writing = asyncio.create_task(store["c"].put("k", 2))
                await asyncio.sleep(0.2)  # it is waiting for the lock by now
                assert await store["c"].get("k") == 1
                await asyncio.sleep(0.02)
            with contextlib.suppress(StandfastError):
                await writing
            ticking.cancel()
        return max(pauses)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        longest = asyncio.run(longest_pause())
    finally:
        over.set()
        watching.join()
    assert longest < 0.5 + 2 * max(beside)


def test_a_spool_takes_what_the_journal_cannot(far_pg: MakeFar, tmp_path: Path) -> None:
    """D5: with the primary away and the journal locked, a write is in the spool, and arrives."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["c"].put("first", 1)
        with far.line.down():
            assert store["c"].put("before", 1).durable_on == "journal"
            with locked(tmp_path / "data" / "journal.db"):
                assert store["c"].put("k", 1).durable_on == "spool"
                assert (tmp_path / "data" / "spool.jsonl").exists()
            assert store["c"].get("k") == 1
        wait_direct(store)
        assert on_primary(far.near_url, "c") == {"first": 1, "before": 1, "k": 1}


def test_a_snapshot_is_written_when_things_are_quiet(pg_database: str, tmp_path: Path) -> None:
    """D5: what a collection holds stands in `snapshot/<collection>.json`, as plain JSON."""
    path = tmp_path / "data" / "snapshot" / "c.json"
    with standfast.open(pg_database, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["c"].put("k", {"a": [1]})
        assert dict(store["c"].items()) == {"k": {"a": [1]}}
        soon(path.exists, within_s=20.0)
        assert json.loads(path.read_text(encoding="utf-8")) == {"k": {"a": [1]}}


def test_a_copy_without_its_log_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """D6: a `fallback.db` that was copied without its -wal is not opened as if it were whole."""
    (tmp_path / "copy").mkdir()
    with standfast.open(data_dir=tmp_path / "data") as store:
        for number in range(50):
            store["c"].put(str(number), number)
        shutil.copy(tmp_path / "data" / "fallback.db", tmp_path / "copy" / "fallback.db")
    caplog.clear()
    count = -1
    with (
        contextlib.suppress(StandfastError),
        standfast.open(data_dir=tmp_path / "copy") as store,
    ):
        count = store["c"].count()
    assert count in (-1, 50) or "wal" in caplog.text.lower(), f"{count} of 50 documents"


def test_an_ordinary_restart_warns_of_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """D6: a store that was closed, or whose process was killed, opens without a warning; so does
    a copy of all of its files, and of the file of a closed store alone."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    for _ in range(2):
        with standfast.open(data_dir=data) as store:
            store["c"].put("k", 1)
    copy.mkdir()
    shutil.copy(data / "fallback.db", copy / "fallback.db")
    with standfast.open(data_dir=copy) as store:
        assert store["c"].get("k") == 1
    store = standfast.open(data_dir=data)
    store["c"].put("k", 2)
    shutil.copytree(data, tmp_path / "killed")  # as a kill -9 would leave it
    store.close()
    for _ in range(2):
        with standfast.open(data_dir=tmp_path / "killed") as store:
            assert store["c"].get("k") == 2
    assert "wal" not in caplog.text.lower()
