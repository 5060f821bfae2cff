"""Bots that promote at once, in processes and in threads: nobody twice, nobody lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

import standfast
from standfast import ConflictError
from standfast.api.sync import Store
from support.bots import Home
from support.leash import Leash
from support.waitlist_app import REGISTRATIONS, Played, Round

KILLS = frozenset({20, 41, 70, 71, 140, 199})
LEASE_S = 60
NOON = datetime(2030, 5, 1, 12, tzinfo=UTC)


class Process:
    """A bot in a process of its own (`support.waitlist_app`)."""

    def __init__(self, url: str, data_dir: Path, face: str, leash: Leash) -> None:
        command = [sys.executable, "-m", "support.waitlist_app", "--url", url, "--face", face]
        self._process = subprocess.Popen(
            [*command, "--data-dir", str(data_dir)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        leash.kill_at_end(self._process.pid)

    def ask(self, one: Round) -> None:
        """Have it play, beside the others."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(one) + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Played:
        """What it says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "it ended"
        return msgspec.json.decode(line, type=Played)

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self._process.kill()
        self._process.communicate()

    def end(self) -> None:
        """Let it close its store."""
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


Start = Callable[[str], Process]


@pytest.fixture
def start(pg_prepared: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a bot of one API, in a data directory of its own; none outlives the test."""
    started: list[Process] = []
    with Leash() as leash:

        def start_one(face: str) -> Process:
            data_dir = tmp_path / f"{face}-{len(started)}"
            started.append(Process(pg_prepared, data_dir, face, leash))
            started[-1].answer()
            return started[-1]

        yield start_one
        for process in started:
            process.kill()


class Tournament:
    """One round: who waits, who is registered already, how many places there are."""

    def __init__(self, number: int) -> None:
        choose = random.Random(number)
        self.guild = number + 1
        self.mode = choose.choice(["normal", "doubleup"])
        self.teams = {
            member: choose.choice(["", "Reef", "Lagoon", "Deep Sea", "Tide"])
            for member in range(1, choose.randrange(6, 12))
        }
        self.registered = {"101": "Reef", "102": ""}
        self.capacity = choose.randrange(2, 10)
        self.together = choose.random() < 0.5

    def fill(self, store: Store) -> None:
        entries = [
            {"member_id": member, "discord_tag": "t", "ign": "i", "team_name": team or None}
            for member, team in self.teams.items()
        ]
        store["waitlist_data"].put(self.guild, {"waitlist": entries})
        store[REGISTRATIONS].put(self.guild, self.registered)

    def round(self, *, halt: bool = False, later_s: float = 0) -> Round:
        return Round(
            guild=self.guild,
            capacity=self.capacity,
            mode=self.mode,
            now=NOON + timedelta(seconds=later_s),
            together=self.together,
            halt=halt,
        )

    def check(self, store: Store, claimed: list[int]) -> None:
        """Nobody was claimed twice, capacity and teams are kept, nobody is lost."""
        registered = {int(one): team for one, team in store[REGISTRATIONS].get(self.guild).items()}
        waiting = [
            entry["member_id"] for entry in store["waitlist_data"].get(self.guild)["waitlist"]
        ]
        assert len(claimed) == len(set(claimed))
        assert sorted(registered) == sorted([*claimed, 101, 102])
        assert len(registered) <= self.capacity
        assert waiting == [member for member in self.teams if member not in claimed]
        if self.mode == "normal":
            assert sorted(claimed) == list(self.teams)[: self.capacity - 2]
        else:
            teams = Counter(team for team in registered.values() if team)
            assert max(teams.values()) <= 2
            assert len(teams) <= max(1, self.capacity // 2)


@pytest.mark.parametrize("rounds", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_two_processes_promote_at_once(
    pg_prepared: str, tmp_path: Path, start: Start, rounds: int
) -> None:
    """Many rounds on PostgreSQL, one process through each API: no double claim, the capacity is
    never exceeded, nobody is lost.  In some rounds a process is killed between claim and
    registration: its entries are back when the claims lapse, and not before."""
    processes = {face: start(face) for face in ("blocking", "awaited")}
    retries = 0
    with standfast.open(pg_prepared, data_dir=tmp_path / "own", deadline_s=10.0) as store:
        for number in range(rounds):
            tournament = Tournament(number)
            tournament.fill(store)
            if number in KILLS:
                face = "blocking" if number % 2 else "awaited"
                claimed = _killed(processes, face, tournament, store)
                processes[face] = start(face)
            else:
                for process in processes.values():
                    process.ask(tournament.round())
                played = [process.answer() for process in processes.values()]
                claimed = [member for one in played for member in one.claimed]
                retries += sum(one.retries for one in played)
            tournament.check(store, claimed)
    for process in processes.values():
        process.end()
    assert retries, "the two were never in each other's way"


def _killed(
    processes: dict[str, Process], face: str, tournament: Tournament, store: Store
) -> list[int]:
    """Kill the process of one API when it has claimed; the other one goes on."""
    victim = processes[face]
    (other,) = (process for name, process in processes.items() if name != face)
    victim.ask(tournament.round(halt=True))
    lost = victim.answer().claimed
    if tournament.capacity > 2:
        assert lost
    victim.kill()
    other.ask(tournament.round(later_s=LEASE_S - 1))
    early = other.answer().claimed
    assert not set(early) & set(lost)
    registered = store[REGISTRATIONS].get(tournament.guild)
    assert len(registered) + len(lost) <= tournament.capacity
    other.ask(tournament.round(later_s=LEASE_S))
    late = other.answer().claimed
    if tournament.mode == "normal":
        assert late == lost
    return [*early, *late]


@contextmanager
def running(works: list[Any]) -> Iterator[list[Any]]:
    """Functions in threads that begin together; what each returned or raised, at the end."""
    results: list[Any] = [None] * len(works)
    barrier = threading.Barrier(len(works))

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = works[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    yield results
    for thread in threads:
        thread.join()


def test_everything_at_once(shared: Home) -> None:
    """Adding, removing, updating and promoting at the same time, over stores of their own: every
    addition counts, who is claimed is neither lost nor claimed twice."""
    guild = 7
    workers = [shared.bot(f"w{number}") for number in range(4)]
    registered: dict[int, None] = {}

    def work(number: int) -> list[int]:
        waitlist = workers[number].waitlist
        got: list[int] = []
        for step in range(10):
            member = number * 100 + step
            waitlist.add(guild, member_id=member, discord_tag="t", ign="i")
            waitlist.add(guild, member_id=999, discord_tag=f"t{number}", ign="i")
            waitlist.update(guild, member, ign="new")
            if step % 5 == 4:
                assert waitlist.remove(guild, member) or member in registered
            for claim in waitlist.promote(guild, capacity=12, registered=lambda: dict(registered)):
                registered[claim.entry.member_id] = None
                try:
                    waitlist.confirm(claim)
                except ConflictError:  # removed by their own thread
                    del registered[claim.entry.member_id]
                else:
                    got.append(claim.entry.member_id)
        return got

    with running([lambda number=number: work(number) for number in range(4)]) as results:
        pass
    for result in results:
        assert isinstance(result, list), result
    got = [member for result in results for member in result]
    assert len(got) == len(set(got))
    assert set(got) == set(registered)
    assert len(got) <= 12
    waiting = [entry.member_id for entry in workers[0].waitlist.list(guild)]
    assert len(waiting) == len(set(waiting))
    added = {number * 100 + step for number in range(4) for step in range(10) if step % 5 != 4}
    assert added | {999} <= set(waiting) | set(got)
