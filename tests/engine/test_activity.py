"""What a store reports of itself: counts, outages and refused writes, in memory and as a file."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from standfast import DataError, Refused, Rejected
from standfast.api.sync import Store
from standfast.engine.embedded import EmbeddedEngine
from standfast.engine.reports import FOLDER, read_reports
from standfast.engine.state_machine import Mode
from standfast.limits import MAX_OLD_REPORTS
from support.faulty import Link, Open, Server, eventually, wait_direct, wait_mode

CANARY = "c4n4ry-7391"
POISON = DataError("a CHECK refuses it", code="constraint", hint="look at the table")


def test_an_outage_in_the_log_and_in_the_report(
    memory: Server, open_it: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A healthy start is silent; an outage is one warning, its end another; the report counts."""
    link = Link(memory)
    with caplog.at_level(logging.INFO, "standfast"):
        store, engine = open_it(link)
        wait_direct(engine)
        store["c"].put("a", {"v": CANARY})
        assert [one for one in caplog.records if one.levelno > logging.INFO] == []
        link.down = True
        for number in range(3):
            store["c"].put(str(number), {"v": CANARY})
        store["c"].get("0")
        link.down = False
        wait_direct(engine)
        store["c"].get("0")

        def warnings() -> list[str]:
            return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]

        eventually(lambda: len(warnings()) >= 2)  # the end is logged just behind the change of mode
    lines = warnings()
    assert len(lines) == 2
    assert "does not answer" in lines[0]
    assert str(tmp_path / "data" / "journal.db") in lines[0]
    assert "is back after" in lines[1]
    assert "3 write(s) were sent" in lines[1]
    assert CANARY not in caplog.text
    report = engine.report()
    assert report.writes == {"primary": 1, "journal": 3}
    assert report.reads == {"mirror": 1, "primary": 1}
    assert (sum(report.write_latency.counts), sum(report.read_latency.counts)) == (4, 1)
    (outage,) = report.outages
    # What waits is counted when the primary answers again, before any of it is sent.
    assert (outage.cause, outage.sent, outage.most_pending) == ("connection", 3, 3)
    assert outage.began <= (outage.answered or 0) <= (outage.ended or 0)


def test_other_processes_read_the_report(memory: Server, open_it: Open, tmp_path: Path) -> None:
    """The file follows within a second or so, is private, and says when the store was closed."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("a", {"v": CANARY})
    data_dir = tmp_path / "data"
    eventually(lambda: [one.report.writes for one in read_reports(data_dir)] == [{"primary": 1}])
    (seen,) = read_reports(data_dir)
    assert seen.alive
    assert seen.report.state == "direct"
    (file,) = (data_dir / FOLDER).glob("*.json")
    assert file.stat().st_mode & 0o777 == 0o600
    assert CANARY not in file.read_text()
    store.close()
    (seen,) = read_reports(data_dir)
    assert (seen.alive, seen.report.closed_at is not None) == (False, True)
    assert not list((data_dir / FOLDER).glob("*.lock"))


def test_old_reports_are_trimmed_and_damaged_ones_left_out(
    memory: Server, open_it: Open, tmp_path: Path
) -> None:
    """I7: a bounded number of them is kept, and nothing depends on their being readable."""
    folder = tmp_path / "data" / FOLDER
    folder.mkdir(parents=True)
    for number in range(MAX_OLD_REPORTS + 5):
        (folder / f"{number}.json").write_text("{")
    open_it(Link(memory))
    assert len(list(folder.glob("*.json"))) in (MAX_OLD_REPORTS, MAX_OLD_REPORTS + 1)
    assert all(one.alive for one in read_reports(tmp_path / "data"))


def test_refused_writes_are_counted_logged_and_passed_on(
    memory: Server, open_it: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """R1: a write that the primary refuses is in health, in the log, and goes to `on_refused`."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    heard: list[Refused] = []
    both = threading.Event()

    def listener(refused: Refused) -> None:
        heard.append(refused)
        if len(heard) == 2:
            both.set()

    store.on_refused(listener)
    memory.poison["c", "a"] = POISON
    for _ in range(2):
        with pytest.raises(DataError):
            store["c"].put("a", {"v": CANARY})
    assert both.wait(10)
    assert heard[0] == ("c", "a", "put", "constraint", "a CHECK refuses it", "look at the table")
    health = store.health()
    assert (health.refused_writes, health.healthy) == (2, False)
    assert health.last_error is not None
    assert health.last_error.code == "constraint"
    assert "writes to `c` are refused since" in health.problems[0]
    lines = [one.getMessage() for one in caplog.records]
    assert len([line for line in lines if "was refused and is not stored" in line]) == 1
    memory.poison.clear()
    store["c"].put("a", 1)
    assert store.health().problems == ()
    assert "writes to `c` are taken again" in caplog.text
    assert CANARY not in caplog.text + repr(heard) + repr(health)


def test_rejected_writes_are_passed_on(memory: Server, open_it: Open) -> None:
    """A replayed write that becomes a conflict goes to `on_rejected`, under its receipt's name."""
    link = Link(memory)
    store, engine = open_it(link, sole_writer=True)
    wait_direct(engine)
    store["c"].put("a", 1)
    heard: list[Rejected] = []
    done = threading.Event()

    def listener(rejected: Rejected) -> None:
        heard.append(rejected)
        done.set()

    store.on_rejected(listener)
    link.down = True
    version = store["c"].read("a").version  # type: ignore[union-attr]
    receipt = store["c"].put("a", 2, if_version=version)
    wait_mode(engine, Mode.JOURNALING)
    Store(EmbeddedEngine(memory.database))["c"].put("a", "theirs")
    link.down = False
    assert done.wait(20)
    assert heard[0][:3] == ("c", "a", "put")
    assert (heard[0].lane, heard[0].seq) == (receipt.lane, receipt.seq)
    assert engine.report().rejected == 1
