"""What an installed standfast must be able to do: run by tools/matrix.py in an empty directory."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import standfast


def check(holds: bool, what: str) -> None:
    """End with an error unless it holds."""
    if not holds:
        sys.exit(f"error: {what}")


def command(*arguments: str) -> str:
    """Run the installed command; its output."""
    program = Path(sys.executable).with_name("standfast")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
    check(done.returncode == 0, f"standfast {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def installed(version: str) -> None:
    """The package is the installed one, whole, and of this version."""
    where = Path(standfast.__file__)
    check(where.is_relative_to(Path(sys.prefix)), f"{where} is not the installed package")
    check(standfast.__version__ == version, f"version {standfast.__version__}, not {version}")
    check((where.parent / "py.typed").is_file(), "py.typed is missing")


def store() -> None:
    """A document is put and read, in an embedded store."""
    with standfast.open("sqlite:///sync.db", data_dir="sync") as opened:
        opened["views"].put("1", {"mode": "normal"})
        check(opened["views"].get("1") == {"mode": "normal"}, "get after put")


async def async_store() -> None:
    """The same, awaited."""
    async with standfast.open_async("sqlite:///async.db", data_dir="async") as opened:
        await opened["views"].put("1", [1, None])
        check(await opened["views"].get("1") == [1, None], "get after put, awaited")


def json_file() -> None:
    """A dict is saved and loaded."""
    with standfast.open("sqlite:///file.db", data_dir="file") as opened:
        file = standfast.JsonFile("state.json", store=opened)
        file.save({"a": 1})
        check(file.load() == {"a": 1}, "load after save")


def migration() -> None:
    """A sample is migrated, exported, and taken back byte for byte."""
    sample = Path("players.json")
    before = b'{"1": {"name": "a"}, "2": [1, 2.50, null]}\n'
    sample.write_bytes(before)
    check("migrate" in command("--help"), "--help names migrate")
    run = json.loads(command("migrate", str(sample), "--json"))["run"]
    check(not sample.exists(), "the original is moved away")
    check(json.loads(command("export", "players")) == json.loads(before), "export")
    command("rollback", run)
    check(sample.read_bytes() == before, "rollback gives back the same bytes")


def main() -> None:
    """All of it; sys.argv[1] is the version that must be installed."""
    installed(sys.argv[1])
    store()
    asyncio.run(async_store())
    json_file()
    migration()


if __name__ == "__main__":
    main()
