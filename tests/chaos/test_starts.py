"""Several processes that open one data directory at the same moment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from chaos.checkers import check
from chaos.history import read_lines, run_of
from chaos.world import final_state, spawn
from support.cluster import Cluster
from support.leash import Leash

_PROCESSES = 5
_LIMIT_S = 60.0


def start_together(url: str, folder: Path) -> list[str]:
    """Processes that share a new directory, until each has made some calls; what went wrong."""
    with Leash() as leash:
        started: list[subprocess.Popen[bytes]] = []
        for number in range(_PROCESSES):
            arguments = {
                "seed": folder.name,
                "worker": f"w{number}",
                "data-dir": folder / "data",
                "directory": folder.name,
                "history": folder / f"w{number}.jsonl",
                "ops": 20,
                "pause-s": 0,
            }
            started.append(spawn(url, folder / f"w{number}.log", **arguments))
            leash.kill_at_end(started[-1].pid)
        codes = [process.wait(_LIMIT_S) for process in started]
        for process in started:
            process.communicate()
    logs = [(folder / f"w{number}.log").read_text() for number in range(_PROCESSES)]
    return [f"{code}: {log}" for code, log in zip(codes, logs, strict=True) if code]


def starts(url: str, folder: Path, *, rounds: int) -> None:
    problems: list[str] = []
    for number in range(rounds):
        there = folder / f"r{number}"
        there.mkdir()
        problems += start_together(url, there)
    assert not problems, "\n".join(problems)


def test_a_directory_is_opened_by_several_at_once(
    mortal_cluster: Cluster, mortal_url: str, tmp_path: Path
) -> None:
    """I2, I12: processes that make and open one data directory together all start, and what they
    write is there exactly once."""
    folder = tmp_path / "once"
    folder.mkdir()
    starts(mortal_url, folder, rounds=1)
    run = run_of(read_lines(sorted(folder.glob("*/*.jsonl"))))
    final = final_state(mortal_url, ("lists", "counters", "registers", "claims"))
    assert list(map(str, check(run, final))) == []


@pytest.mark.slow
def test_many_directories_are_opened_by_several_at_once(
    mortal_cluster: Cluster, mortal_url: str, tmp_path: Path
) -> None:
    """The files of a data directory are made by one process and found by the others."""
    starts(mortal_url, tmp_path, rounds=20)
