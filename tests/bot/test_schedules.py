"""Schedules: times in and out, what is due, and that of many processes one carries it out."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from standfast import ConflictError, CorruptData, DataError, DeadlineExceeded, StandfastError
from standfast.bot import BotStore, Claim, Due, Environment
from support.bots import Clock, Home
from support.faulty import Link, Open, Server, after, cut_off, wait_direct
from support.leash import Leash

NOON = datetime(2030, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
THREADS = 6
GUILDS = 40


def code(error: type[StandfastError], call: Callable[[], Any]) -> str:
    with pytest.raises(error) as caught:
        call()
    return caught.value.code


def names(dues: list[Due]) -> list[tuple[str, str]]:
    return [(due.guild_id, due.name) for due in dues]


# ---- times


def test_times_go_in_and_come_out(home: Home) -> None:
    """Aware datetimes and ISO 8601, stored as ISO 8601 in the layout of the field."""
    bot = home.bot()
    assert bot.schedules.get(1, "open") is None
    assert bot.schedules.list(1) == {}
    berlin = datetime(2030, 7, 1, 18, tzinfo=ZoneInfo("Europe/Berlin"))
    bot.schedules.set(1, "open", berlin)
    bot.schedules.set(1, "close", "2030-05-01T12:00:00Z")
    bot.schedules.set("1", "remind", "2030-05-01T07:30:00.5-04:00")
    raw = home.store()["persisted_views"].get("1")
    assert raw["open_schedule"] == "2030-07-01T18:00:00+02:00"
    assert datetime.fromisoformat(raw["close_schedule"]) == NOON
    assert bot.schedules.get(1, "open") == berlin
    assert bot.schedules.get(1, "close") == NOON
    listed = bot.schedules.list(1)
    assert list(listed) == ["remind", "close", "open"]
    assert all(when.utcoffset() is not None for when in listed.values())
    assert bot.schedules.clear(1, "open") is True
    assert bot.schedules.clear(1, "open") is False
    assert bot.schedules.clear(2, "open") is False
    assert list(bot.schedules.list(1)) == ["remind", "close"]
    assert bot.messages.list(1) == []


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (datetime(2030, 1, 1), "naive_datetime"),  # noqa: DTZ001
        ("2030-01-01T00:00:00", "naive_datetime"),
        ("2030-01-01", "naive_datetime"),
        ("tomorrow", "bad_time"),
        ("", "bad_time"),
        (1893456000, "bad_time"),
        (None, "bad_time"),
    ],
)
def test_a_time_without_a_timezone_is_refused(embedded: Home, when: Any, expected: str) -> None:
    """What would mean another moment on another machine is refused, as is what is no time."""
    bot = embedded.bot()
    assert code(DataError, lambda: bot.schedules.set(1, "open", when)) == expected
    if isinstance(when, datetime):
        assert code(DataError, lambda: bot.schedules.due(when)) == expected
        assert code(DataError, lambda: bot.schedules.claim_due(when)) == expected


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 101, None, 3])
def test_names_of_schedules_are_checked(embedded: Home, name: Any) -> None:
    """What names nothing is refused by every call."""
    bot = embedded.bot()
    for call in (
        lambda: bot.schedules.set(1, name, NOON),
        lambda: bot.schedules.get(1, name),
        lambda: bot.schedules.clear(1, name),
        lambda: bot.schedules.claim(Due("1", name, NOON)),
    ):
        assert code(DataError, call) == "bad_name"


def test_what_older_code_has_stored_is_read(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """A naive time is UTC, null is none; what is no time is an error here, and told in listings."""
    document = {
        "open_schedule": "2030-05-01T11:00:00",
        "close_schedule": None,
        "claims": "odd",
        "_schedule": "2030-05-01T11:00:00",
    }
    store = home.store()
    store["persisted_views"].put_many({1: document, 2: {"open_schedule": "soon"}, 3: [1]})
    bot = home.bot()
    assert bot.schedules.list(1) == {"open": NOON - 60 * MINUTE}
    assert bot.schedules.get(1, "close") is None
    assert code(CorruptData, lambda: bot.schedules.get(2, "open")) == "bad_time"
    assert code(CorruptData, lambda: bot.schedules.list(2)) == "bad_time"
    with caplog.at_level(logging.WARNING, logger="standfast"):
        assert names(bot.schedules.due()) == [("1", "open")]
    assert "open_schedule" in caplog.text
    assert "soon" not in caplog.text
    (claim,) = bot.schedules.claim_due()
    assert bot.schedules.done(claim)
    assert store["persisted_views"].get("1") == {
        "close_schedule": None,
        "_schedule": "2030-05-01T11:00:00",
    }


# ---- what is due


def test_what_is_due_is_listed_over_all_guilds(home: Home) -> None:
    """Up to now and not later, sorted by time, whatever the timezone."""
    bot = home.bot()
    east = timezone(timedelta(hours=9))
    bot.schedules.set(2, "open", (NOON - MINUTE).astimezone(east))
    bot.schedules.set(1, "open", NOON)
    bot.schedules.set(1, "close", NOON + MINUTE)
    bot.schedules.set(3, "open", NOON - 2 * MINUTE)
    assert names(bot.schedules.due()) == [("3", "open"), ("2", "open"), ("1", "open")]
    assert [due.when for due in bot.schedules.due()] == [NOON - 2 * MINUTE, NOON - MINUTE, NOON]
    assert names(bot.schedules.due(NOON - MINUTE)) == [("3", "open"), ("2", "open")]
    home.clock.advance(60)
    assert len(bot.schedules.due()) == 4


# ---- claims


def test_a_claim_is_exclusive_until_it_lapses(home: Home) -> None:
    """One gets it; for the others it is not due until the lease ends, and then it is again."""
    bot, other = home.bot(), home.bot("other")
    bot.schedules.set(1, "open", NOON)
    (due,) = bot.schedules.due()
    claim = bot.schedules.claim(due, lease_s=30)
    assert isinstance(claim, Claim)
    assert (claim.guild_id, claim.due, claim.until) == ("1", due, NOON + MINUTE / 2)
    mark = home.store()["persisted_views"].get("1")["claims"]["open"]
    assert mark.keys() == {"id", "until", "when"}
    assert datetime.fromisoformat(mark["until"]) == claim.until
    assert other.schedules.due() == []
    assert other.schedules.claim_due() == []
    assert other.schedules.claim(due) is None
    assert bot.schedules.claim(due) is None
    assert other.schedules.get(1, "open") == NOON
    home.clock.advance(29.9)
    assert other.schedules.due() == []
    home.clock.advance(0.1)
    (again,) = other.schedules.claim_due()
    assert again.due == due
    assert again.id != claim.id
    assert bot.schedules.done(claim) is False
    assert bot.schedules.release(claim) is False
    assert other.schedules.get(1, "open") == NOON
    assert other.schedules.done(again) is True
    assert other.schedules.get(1, "open") is None
    assert home.store()["persisted_views"].get("1") == {}
    assert other.schedules.done(again) is False


def test_a_lapsed_claim_that_nobody_took_is_still_ours(home: Home) -> None:
    """Who was slow and alone is done with it all the same: it was carried out once."""
    bot = home.bot()
    bot.schedules.set(1, "open", NOON)
    (claim,) = bot.schedules.claim_due(lease_s=1)
    home.clock.advance(3600)
    assert bot.schedules.done(claim) is True
    assert bot.schedules.due() == []


def test_a_released_claim_is_due_again(home: Home) -> None:
    """What was given back goes to the next one."""
    bot, other = home.bot(), home.bot("other")
    bot.schedules.set(1, "open", NOON)
    bot.schedules.set(1, "close", NOON)
    claims = {claim.due.name: claim for claim in bot.schedules.claim_due()}
    assert bot.schedules.release(claims["open"]) is True
    assert bot.schedules.release(claims["open"]) is False
    assert names([claim.due for claim in other.schedules.claim_due()]) == [("1", "open")]
    assert bot.schedules.done(claims["close"]) is True
    assert home.store()["persisted_views"].get("1")["claims"].keys() == {"open"}


def test_a_schedule_that_was_moved_is_another_one(home: Home) -> None:
    """A claim does not hold for the new time, and being done with it leaves that alone."""
    bot = home.bot()
    bot.schedules.set(1, "open", NOON)
    (due,) = bot.schedules.due()
    claim = bot.schedules.claim(due)
    bot.schedules.set(1, "open", NOON - MINUTE)
    moved = bot.schedules.due()
    assert [one.when for one in moved] == [NOON - MINUTE]
    assert bot.schedules.claim(due) is None
    assert bot.schedules.done(claim) is True
    assert bot.schedules.due() == moved
    again = bot.schedules.claim(moved[0])
    bot.schedules.set(1, "open", NOON + MINUTE)
    assert bot.schedules.release(again) is True
    assert bot.schedules.list(1) == {"open": NOON + MINUTE}
    assert home.store()["persisted_views"].get("1").keys() == {"open_schedule"}


def test_a_schedule_that_was_cleared_is_not_done_by_an_old_claim(home: Home) -> None:
    """Cleared and set anew, even for the same time, it is due again."""
    bot = home.bot()
    bot.schedules.set(1, "open", NOON)
    (claim,) = bot.schedules.claim_due()
    assert bot.schedules.clear(1, "open") is True
    assert bot.schedules.due() == []
    assert bot.schedules.claim(claim.due) is None
    bot.schedules.set(1, "open", NOON)
    assert names(bot.schedules.due()) == [("1", "open")]
    assert bot.schedules.done(claim) is False
    assert bot.schedules.get(1, "open") == NOON


def test_marks_that_are_none_do_not_stop_a_schedule(embedded: Home) -> None:
    """An unreadable mark counts as lapsed; one that does not say for which time, for every time."""
    store = embedded.store()
    bot = embedded.bot()
    for mark in (None, "x", {}, {"id": "x"}, {"id": "x", "until": "soon"}, {"until": 3}):
        store["persisted_views"].put(
            "1", {"open_schedule": NOON.isoformat(), "claims": {"open": mark}}
        )
        assert len(bot.schedules.due()) == 1
    mark = {"id": "x", "until": (NOON + MINUTE).isoformat()}
    store["persisted_views"].put("1", {"open_schedule": NOON.isoformat(), "claims": {"open": mark}})
    assert bot.schedules.due() == []
    assert bot.schedules.claim(Due("1", "open", NOON)) is None


@pytest.mark.parametrize("lease_s", [0, -1, float("nan"), float("inf"), 86401, True, "5", None])
def test_a_lease_is_a_bounded_time(embedded: Home, lease_s: float) -> None:
    """A claim that never lapses, or at once, is refused."""
    bot = embedded.bot()
    bot.schedules.set(1, "open", NOON)
    assert code(DataError, lambda: bot.schedules.claim_due(lease_s=lease_s)) == "bad_lease"


def test_what_a_claim_leaves_alone(shared: Home) -> None:
    """Messages, modes and members of others that change meanwhile are kept by every step."""
    bot, other = shared.bot(), shared.bot("other")
    bot.schedules.set(1, "open", NOON)
    other.messages.set(1, "registration", 2, 3)
    other.guilds.patch(1, {"custom": [1]})
    (claim,) = bot.schedules.claim_due()
    other.modes.set(1, "doubleup")
    assert bot.schedules.done(claim)
    assert bot.guilds.get(1) == {
        "registration": [2, 3],
        "custom": [1],
        "event_mode": "doubleup",
    }


# ---- many at once


@pytest.mark.parametrize("rounds", [5])
def test_of_many_threads_one_gets_each(shared: Home, rounds: int) -> None:
    """Bots that look at the same schedules at once carry out each exactly once."""
    bots = [shared.bot(f"bot-{index}") for index in range(THREADS)]
    for number in range(rounds):
        for guild in range(1, 9):
            for name in ("open", "close"):
                bots[0].schedules.set(guild, name, NOON - number * MINUTE)
        barrier = threading.Barrier(THREADS)
        done: list[list[tuple[str, str]]] = [[] for _ in bots]
        errors: list[BaseException] = []

        def work(
            index: int,
            barrier: threading.Barrier = barrier,
            done: list[list[tuple[str, str]]] = done,
            errors: list[BaseException] = errors,
        ) -> None:
            try:
                barrier.wait()
                for claim in bots[index].schedules.claim_due():
                    assert bots[index].schedules.done(claim)
                    done[index].append((claim.guild_id, claim.due.name))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        expected = [(str(guild), name) for guild in range(1, 9) for name in ("close", "open")]
        assert sorted(one for mine in done for one in mine) == expected
        assert bots[0].schedules.due() == []


class Process:
    """A bot in a process of its own (`support.schedule_app`)."""

    def __init__(self, url: str, data_dir: Path, leash: Leash, *options: str) -> None:
        command = [sys.executable, "-m", "support.schedule_app", "--url", url, *options]
        self._process = subprocess.Popen(
            [*command, "--data-dir", str(data_dir)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        leash.kill_at_end(self._process.pid)
        assert self.answer() == []

    def ask(self, now: datetime) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(now.isoformat().encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> list[tuple[str, str]]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "it ended"
        return msgspec.json.decode(line, type=list[tuple[str, str]])

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def start(shared: Home) -> Iterator[Callable[..., Process]]:
    """Starts a bot in a process of its own; none outlives the test."""
    with ExitStack() as stack:
        leash = stack.enter_context(Leash())

        def start_one(name: str, face: str, *options: str) -> Process:
            data_dir = shared.root / name
            process = Process(shared.url, data_dir, leash, "--face", face, *options)
            stack.callback(process.kill)
            return process

        yield start_one


@pytest.mark.process
def test_of_two_processes_one_gets_each(shared: Home, start: Callable[..., Process]) -> None:
    """Two bots started after a downtime carry out everything that was missed, each of it once."""
    bot = shared.bot()
    processes = [start("one", "blocking"), start("two", "awaited")]
    expected = [(str(guild), "open") for guild in range(GUILDS)]
    for number in range(5):
        for guild in range(GUILDS):
            bot.schedules.set(guild, "open", NOON + number * MINUTE)
        for process in processes:
            process.ask(NOON + 60 * MINUTE)
        carried_out = [one for process in processes for one in process.answer()]
        assert sorted(carried_out) == sorted(expected)
        assert bot.schedules.due(NOON + 60 * MINUTE) == []


@pytest.mark.process
def test_what_a_killed_process_had_claimed_is_due_again(
    shared: Home, start: Callable[..., Process]
) -> None:
    """Killed between claim and done: nobody has it until the lease ends, then somebody does."""
    bot = shared.bot()
    bot.schedules.set(1, "open", NOON)
    process = start("one", "blocking", "--halt")
    process.ask(NOON)
    assert process.answer() == [("1", "open")]
    process.kill()
    assert bot.schedules.claim_due() == []
    shared.clock.advance(60)
    (claim,) = bot.schedules.claim_due()
    assert bot.schedules.done(claim)


# ---- replies that are lost


def test_a_claim_whose_reply_is_lost_is_nobodys(memory: Server, open_it: Open) -> None:
    """It is told as unknown, nobody carries it out at once, and it lapses."""
    clock = Clock()
    link = Link(memory)
    store, engine = open_it(link)
    bot = BotStore(store, environment=Environment(), clock=clock)
    wait_direct(engine)
    bot.schedules.set(1, "open", NOON)
    link.script += [cut_off(link, "after")]
    with pytest.raises(DeadlineExceeded):
        bot.schedules.claim_due()
    wait_direct(engine)
    assert bot.schedules.due() == []
    clock.advance(60)
    (claim,) = bot.schedules.claim_due()
    assert bot.schedules.done(claim)


def test_what_was_claimed_before_an_error_is_not_lost(memory: Server, open_it: Open) -> None:
    """Claims that were made are returned, although a later one of the same call failed."""
    link = Link(memory)
    store, engine = open_it(link)
    bot = BotStore(store, environment=Environment(), clock=Clock())
    wait_direct(engine)
    for guild in (1, 2, 3):
        bot.schedules.set(guild, "open", NOON - guild * MINUTE)
    link.script += [after(), cut_off(link, "after")]
    claims = bot.schedules.claim_due()
    assert names([claim.due for claim in claims]) == [("3", "open")]
    wait_direct(engine)
    assert names([claim.due for claim in bot.schedules.claim_due()]) == [("1", "open")]


def test_a_conflict_of_one_guild_is_told(shared: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others who are always faster make a claim a clear error after a bound."""
    monkeypatch.setattr("standfast.api.drive._LONGEST_PAUSE_S", 0.0)
    monkeypatch.setattr("standfast.bot.guilds.MAX_UPDATE_ATTEMPTS", 3)
    bot, other = shared.bot(), shared.store("other")["persisted_views"]
    bot.schedules.set(1, "open", NOON)
    monkeypatch.setattr(
        "standfast.bot.schedules.mark_of",
        lambda *_: other.increment("1", "/n") and {},
    )
    assert code(ConflictError, bot.schedules.claim_due) == "contended"
    assert other.get("1")["n"] == 3
