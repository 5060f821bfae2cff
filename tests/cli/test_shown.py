"""What commands show and write: no password of a misplaced address, no key that acts on a terminal
or looks like another, no file but a regular one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from standfast.migrate.rundir import checksum_line
from support.cli import run_cli

SECRET = "canary-9c1f"
URL = f"postgresql://bot:{SECRET}/@h.example.com:5432/db"
EMBEDDED = ["--to", "sqlite:///d.db"]

MISPLACED = [
    *(["get", "c", URL], ["get", URL, "k"], ["list", URL], ["export", URL], ["delete", "c", URL]),
    *(["migrate", "a.json", URL], ["plan", URL], ["verify", URL], ["rollback", URL]),
    *(
        ["put", URL, "k", "1"],
        ["put", "c", "k", URL],
        ["patch", "c", "k", URL],
        [URL],
        ["get", URL],
    ),
    *(["list", "c", "--limit", URL], ["journal", "discard", URL], ["conflicts", "show", URL]),
    *(["doctor", URL], ["schema", "sql", "--collection", URL], ["export", "c", "-o", URL]),
    *(["status", f"host=h password={SECRET}"], ["list", f"host=h password='{SECRET} x'"]),
]


@pytest.mark.parametrize("words", MISPLACED)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_address_in_the_wrong_place(tmp_path: Path, words: list[str], flags: list[str]) -> None:
    """A10: an argument that is echoed may be an address: its password is not shown."""
    (tmp_path / "a.json").write_text("{}")
    ran = run_cli(*words, *flags, *EMBEDDED, cwd=tmp_path)
    assert ran.code not in (0, 70)
    assert SECRET not in ran.out + ran.err


KEYS = ["plain", "a\nb", "a\\x0ab", "\x1b[31mred", "bell\x07", "tab\tkey", "back\\slash", "\x9b2J"]


def test_keys_in_lines(tmp_path: Path) -> None:
    """A11: one key is one line, nothing of it acts on a terminal, and no two look alike."""
    for key in KEYS:
        assert run_cli("put", "c", "--", key, "1", cwd=tmp_path).code == 0
    lines = run_cli("list", "c", cwd=tmp_path).out.splitlines()
    assert len(lines) == len(set(lines)) == len(KEYS)
    assert all(line.isprintable() for line in lines)
    assert "a\\x0ab" in lines
    assert "a\\\\x0ab" in lines
    whole = run_cli("list", "c", "-0", cwd=tmp_path).out
    assert sorted(whole.split("\0")) == sorted([*KEYS, ""])


def test_names_in_checksums() -> None:
    """A14: a file's name cannot forge a line of SHA256SUMS; `sha256sum -c` reads it back."""
    assert checksum_line("0" * 64, "a.json") == f"{'0' * 64}  a.json\n"
    assert checksum_line("0" * 64, "a\nb\\c") == f"\\{'0' * 64}  a\\nb\\\\c\n"


@pytest.mark.parametrize("kind", ["fifo", "symlink", "directory", "dangling"])
def test_export_writes_regular_files_only(tmp_path: Path, kind: str) -> None:
    """A8: `export -f -o` leaves a FIFO, a directory and a symlink as they are, and says so."""
    run_cli("put", "c", "k", "1", cwd=tmp_path)
    target, other = tmp_path / "out", tmp_path / "other"
    other.write_text("mine")
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "directory":
        target.mkdir()
    else:
        target.symlink_to(other if kind == "symlink" else tmp_path / "nowhere")
    before = target.lstat()
    ran = run_cli("export", "c", "-f", "-o", str(target), cwd=tmp_path)
    assert ran.code == 2
    assert "not a regular file" in ran.err
    assert stat.S_IFMT(target.lstat().st_mode) == stat.S_IFMT(before.st_mode)
    assert target.lstat().st_ino == before.st_ino
    assert other.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
