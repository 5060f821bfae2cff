"""What commands show and write: no password of a misplaced address, no key that acts on a terminal
or looks like another, no file but a regular one."""

from __future__ import annotations

import json
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


def test_names_in_a_plan(tmp_path: Path) -> None:
    """A11: members of a file and of documents, names of files and fields: nothing of them acts on a
    terminal, in a plan, a report, or a list of runs."""
    odd = "\x1b[31mred\x07\x9b2J\u2028"
    (tmp_path / "a.json").write_text(json.dumps({odd: {odd: 1}, "2": {odd: 1}}))
    (tmp_path / f"b{odd}.json").write_text(json.dumps([{odd: 1}]))
    assert run_cli("migrate", "a.json", "--yes", "--keep-files", *EMBEDDED, cwd=tmp_path).code == 0
    (tmp_path / "a.json").write_text(json.dumps({odd: {odd: 2}, "2": {odd: 3}, f"{odd}3": 1}))
    for words in (["plan", "a.json"], ["plan", f"b{odd}.json"], ["runs"], ["plan", "."]):
        ran = run_cli(*words, "--key", odd, *EMBEDDED, cwd=tmp_path)
        if words == ["runs"]:
            ran = run_cli("runs", *EMBEDDED, cwd=tmp_path)
        assert ran.code in (0, 1, 2, 4)
        assert not {char for char in ran.said if ord(char) < 32 or 127 <= ord(char) < 160} - {"\n"}


def test_a_name_forges_no_line_of_a_log(tmp_path: Path) -> None:
    """A14: run.log has one line for each thing that was done, whatever a file is called."""
    name = "a\n2020-01-01T00:00:00+00:00 done\x1b[31m.json"
    (tmp_path / name).write_text('{"1": 1}')
    ran = run_cli("migrate", name, "--collection", "c", "--yes", *EMBEDDED, cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.err
    (run,) = (tmp_path / "storage" / "migration_backups").iterdir()
    lines = (run / "run.log").read_text().splitlines()
    assert not [line for line in lines if line.startswith("2020")]
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if "a\\x0a2020" in line]


def test_backups_are_not_written_through_a_link(tmp_path: Path) -> None:
    """A14: `migration_backups` that leads to another's folder is refused, and nothing is moved."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "migration_backups").symlink_to(tmp_path / "theirs")
    (tmp_path / "a.json").write_text('{"1": 1}')
    ran = run_cli("migrate", "a.json", "--yes", *EMBEDDED, cwd=tmp_path)
    assert ran.code == 2
    assert "symbolic link" in ran.err
    assert list((tmp_path / "theirs").iterdir()) == []
    assert (tmp_path / "a.json").exists()


def test_a_database_that_everybody_could_read_is_closed_to_them(tmp_path: Path) -> None:
    """A14: files of an earlier program, or of a careless copy, lose the rights of others when they
    are opened; doctor names what is left, and links."""
    data = tmp_path / "storage"
    assert run_cli("put", "c", "k", "1", cwd=tmp_path).code == 0
    (data / "fallback.db").chmod(0o666)
    assert run_cli("put", "c", "k", "2", cwd=tmp_path).code == 0
    assert stat.S_IMODE((data / "fallback.db").stat().st_mode) == 0o660
    (data / "notes.txt").touch()
    (data / "notes.txt").chmod(0o644)
    (data / "elsewhere").symlink_to(tmp_path)
    checks = run_cli("doctor", "--json", cwd=tmp_path).document["checks"]
    (privacy,) = [check for check in checks if check["name"] == "privacy"]
    assert privacy["verdict"] == "warn"
    assert "`notes.txt` (mode 644)" in privacy["found"]
    assert "`elsewhere` is a symbolic link" in privacy["found"]


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
