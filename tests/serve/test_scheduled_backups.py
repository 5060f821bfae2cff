"""Backups that `serve` makes at intervals: when, what is said of a failure, and who sees it."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import standfast
from standfast.admin.backup import folder as folders
from standfast.admin.backup.pruning import Retention
from standfast.admin.backup.schedule import (
    Schedule,
    Scheduler,
    State,
    due_at,
    load,
    pause_s,
)
from standfast.admin.checks import files as checks
from standfast.admin.evidence import gather
from standfast.admin.serve import metrics, page
from standfast.admin.serve.watcher import Snapshot, Watcher
from standfast.admin.status import status_from
from standfast.config.settings import Settings, load_settings
from standfast.limits import BACKUP_FAILURES
from standfast.system.supervision import Supervisor
from support.hold import soon

HOUR = 3600.0
DAY = Schedule(24 * HOUR)


class Clock:
    """Seconds since 1970 that pass when they are told to."""

    def __init__(self) -> None:
        self.now = datetime.datetime.now(datetime.UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An embedded store with a document."""
    with standfast.open(None, data_dir=tmp_path / "storage") as store:
        store["players"].put("8138", {"mode": "normal"})
    return load_settings(None, data_dir=tmp_path / "storage")


def scheduler(settings: Settings, clock: Clock, schedule: Schedule = DAY) -> Scheduler:
    return Scheduler(settings, schedule, Supervisor(), now=clock)


def names(settings: Settings) -> list[str]:
    return [each.path.name for each in folders.backups(settings.data_dir)]


def test_one_at_once_then_one_an_interval(settings: Settings, clock: Clock) -> None:
    """The first is made at once, verified, the next one when the interval has passed; a process
    that is started anew goes on where the last one was."""
    assert scheduler(settings, clock).turn() == DAY.every_s
    (first,) = folders.backups(settings.data_dir)
    assert first.known is not None
    assert first.known.verified_at
    clock.now += 23 * HOUR
    assert scheduler(settings, clock).turn() == pytest.approx(HOUR)
    assert len(names(settings)) == 1
    clock.now += HOUR
    scheduler(settings, clock).turn()
    assert len(names(settings)) == 2


def test_another_database_gets_one_at_once(settings: Settings, clock: Clock) -> None:
    """A schedule is of one database: another one under the same directory has no backup yet."""
    known = State(every_s=1.0, next_at=9e9, database="there", made_at=clock.now)
    assert due_at(known, DAY, "here") == 0.0
    assert due_at(known, DAY, "there") == clock.now + DAY.every_s


def test_a_replaced_database_gets_one_at_once(settings: Settings, clock: Clock) -> None:
    """A URL is a name: another database in the place of the old one has no backup yet, whatever was
    made under its name.  It gets one, not one at every look."""
    scheduler(settings, clock).turn()
    for path in settings.data_dir.glob("fallback.db*"):
        path.unlink()
    with standfast.open(None, data_dir=settings.data_dir) as store:
        store["players"].put("8138", {"mode": "another"})
    assert scheduler(settings, clock).turn() == DAY.every_s
    assert len(names(settings)) == 2
    assert scheduler(settings, clock).turn() == pytest.approx(DAY.every_s)
    assert len(names(settings)) == 2


def test_what_does_not_answer_is_not_another_database(clock: Clock) -> None:
    """No answer proves nothing about the database; a failure of another one waits for its pause."""
    known = State(every_s=1.0, next_at=9e9, database="there", identity="one", made_at=clock.now)
    assert due_at(known, DAY, "there", None) == clock.now + DAY.every_s
    assert due_at(known, DAY, "there", "one") == clock.now + DAY.every_s
    assert due_at(known, DAY, "there", "other") == 0.0
    assert due_at(known, DAY, "there", "") == 0.0
    failed = msgspec.structs.replace(known, identity="other", failures=1)
    assert due_at(failed, DAY, "there", "other") == failed.next_at


def test_a_clock_that_was_set_back_puts_nothing_off(settings: Settings, clock: Clock) -> None:
    """What is due further away than an interval is due now."""
    scheduler(settings, clock).turn()
    clock.now -= 1000 * HOUR
    scheduler(settings, clock).turn()
    assert len(names(settings)) == 2


def test_old_ones_go(settings: Settings, clock: Clock) -> None:
    """After each, those are removed that no rule keeps."""
    for _ in range(4):
        scheduler(settings, clock, Schedule(24 * HOUR, Retention(2, 0, 0, 0))).turn()
        clock.now += 24 * HOUR
    assert len(names(settings)) == 2


def test_a_failure_is_said_and_tried_again(
    settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that does not answer: logged, kept where `status` sees it, tried again after a
    pause that doubles up to an hour; the recovery is logged at the same level, and then nothing is
    wrong any more."""
    away = load_settings(
        "postgresql://nobody:secret@127.0.0.1:1/none", data_dir=settings.data_dir.parent / "away"
    )
    pauses: list[float] = []
    for _ in range(9):
        pauses.append(scheduler(away, clock).turn())
        clock.now += pauses[-1]
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    known = load(away.data_dir)
    assert known is not None
    assert known.failures == 9
    assert "Connection refused" in known.error
    assert "secret" not in known.error + caplog.text
    assert "the scheduled backup failed" in caplog.text
    write_state(settings, msgspec.structs.replace(known, database=settings.target.display))
    scheduler(settings, clock).turn()
    assert [one.levelname for one in caplog.records if "work again" in one.message] == ["WARNING"]
    now = load(settings.data_dir)
    assert now is not None
    assert not now.is_failing
    assert not now.error


def write_state(settings: Settings, state: State) -> None:
    place = folders.folder(settings.data_dir)
    place.mkdir(parents=True, exist_ok=True)
    (place / "schedule.json").write_bytes(msgspec.json.encode(state))


def test_pauses_never_exceed_the_interval() -> None:
    """A short interval is its own limit."""
    assert pause_s(20, 900.0) == 900.0


def test_two_processes_make_one(settings: Settings, clock: Clock) -> None:
    """While another process makes a backup none is made, and no failure is noted; its result
    counts for both."""
    with folders.locked(settings.data_dir):
        assert scheduler(settings, clock).turn() == 60.0
        assert load(settings.data_dir) is None
    one, other = scheduler(settings, clock), scheduler(settings, clock)
    one.turn()
    other.turn()
    assert len(names(settings)) == 1


Make = Callable[[Clock], State]


@pytest.mark.parametrize(
    ("state", "severity", "text"),
    [
        (lambda c: State(every_s=HOUR, next_at=c.now + HOUR, made_at=c.now), None, ""),
        (
            lambda c: State(
                every_s=HOUR, next_at=c.now + 60, failures=1, failing_since=c.now, error="disk full"
            ),
            "wait",
            "1 time(s) so far: disk full",
        ),
        (
            lambda c: State(
                every_s=HOUR,
                next_at=c.now + 60,
                failures=BACKUP_FAILURES,
                failing_since=c.now,
                error="disk full",
            ),
            "act",
            "disk full",
        ),
        (lambda c: State(every_s=HOUR, next_at=c.now - 3 * HOUR), "act", "was not made"),
    ],
)
def test_everybody_sees_it(
    settings: Settings, clock: Clock, state: Make, severity: str | None, text: str
) -> None:
    """`status`, `doctor`, the page and the metrics say the same of the schedule: all is well, a
    failure that is tried again, one that a person must look at, and one that nobody made."""
    kept = state(clock)
    write_state(settings, kept)
    evidence = gather(settings)
    status = status_from(evidence, library="1").status
    found = [one for one in status.findings if "scheduled backup" in one.text]
    assert [one.severity for one in found] == ([severity] if severity else [])
    assert all(text in one.text for one in found)
    assert checks.backups(evidence).verdict == ("ok" if severity is None else "fail")
    seen = Snapshot(0.0, clock.now, evidence, status, None, [], {})
    exposed = metrics.render(seen).decode()
    assert f"standfast_failed_backups {float(kept.failures)}" in exposed
    shown = page.status(seen, root="", may_decide=False)
    assert "The next one is due at" in shown
    assert (f"{kept.failures} tries have failed" in shown) == bool(kept.failures)


def test_the_thread_makes_them(settings: Settings) -> None:
    """A watcher with a schedule makes the first one by itself."""
    watcher = Watcher(settings, DAY)
    try:
        watcher.start()
        soon(lambda: names(settings), within_s=20)
        soon(lambda: load(settings.data_dir), within_s=20)
    finally:
        watcher.close()


def test_damage_right_after_it_was_made_is_a_failure(
    settings: Settings,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is not whole when it is read back counts as a failure, and is tried again."""
    from standfast.admin.backup import schedule

    def damaged(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        real(path)

    real = schedule.verify
    monkeypatch.setattr(schedule, "verify", damaged)
    with caplog.at_level(logging.WARNING):
        assert scheduler(settings, clock).turn() == 60.0
    assert "damaged" in caplog.text
