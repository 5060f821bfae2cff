"""Odd input to the command line, the codec and the URL parser: refused or done, never a bug.

FUZZ_INPUTS=20000 for a long run; the seed of a failure is in its message.
"""

from __future__ import annotations

import os
import random
import resource
import sys
from pathlib import Path

import pytest

from standfast.cli.main import run_command
from standfast.config.settings import parse_url
from standfast.document.codec import accept, decode
from standfast.errors import StandfastError

INPUTS = int(os.environ.get("FUZZ_INPUTS", "1500"))
#: Of each kind, by `make chaos`.
LONG = 20_000
MAX_MEMORY = 600 * 2**20
PIECES = [
    *("get", "put", "patch", "delete", "list", "export", "status", "journal", "conflicts", "runs"),
    *("doctor", "schema", "sql", "plan", "verify", "rollback", "discard", "show", "resolve", "--"),
    *("--json", "--to", "--limit", "--after", "--prefix", "-o", "-f", "--all", "--yes", "--ttl"),
    *("sqlite:///d.db", "sqlite://", "postgresql://", "://", "c", "k", "1", "-1", "1e999", "{}"),
    *('{"a":', "[[[", "\x00", "\x1b", "\ud800", "é", "%", "%zz", "@", "/", "..", "", " ", "\n"),
    *("\\u0000", "9" * 5000, "[" * 300, '"', "'", "NaN", "null", "host=h", "sslmode=x", "?", "&"),
]


def text(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 6)))


def memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@pytest.mark.parametrize("inputs", [INPUTS, pytest.param(LONG, marks=pytest.mark.slow)])
def test_odd_texts(inputs: int) -> None:
    """The codec and the URL parser return or raise an error of ours, whatever they are given."""
    before = memory()
    for seed in range(inputs):
        given = text(random.Random(seed))
        for read in (accept, decode, parse_url):
            try:
                read(given)
            except StandfastError:
                pass
            except Exception as error:
                raise AssertionError(f"seed {seed}, {read.__name__}: {given!r}") from error
    assert memory() < max(MAX_MEMORY, before + MAX_MEMORY // 4)


@pytest.mark.parametrize("inputs", [INPUTS // 5, pytest.param(LONG, marks=pytest.mark.slow)])
def test_odd_command_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    inputs: int,
) -> None:
    """No command line ends with exit code 70, nor takes more memory than 600 MB."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    before = memory()
    for seed in range(inputs):
        rng = random.Random(seed)
        words = [rng.choice((rng.choice(PIECES), text(rng))) for _ in range(rng.randint(1, 6))]
        words[0] = rng.choice((words[0], *PIECES[:14]))
        # What no argument of a process can hold; bytes that are not UTF-8 come as U+DC80 and above.
        words = [word.replace("\0", "").replace("\ud800", "\udc80") for word in words]
        with Path("empty").open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            code = run_command(words)
        said = capfd.readouterr()  # which would be kept, and counted as ours
        assert code != 70, (seed, words, said.err)
    assert memory() < max(MAX_MEMORY, before + MAX_MEMORY // 4)
