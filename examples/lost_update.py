"""Two processes that load a dict, change it and save it: what is lost, and what is not.

Each process notes 30 registrations of its own in the same guild's document, as a bot would: load
everything, change one member, save everything.  First with a JSON file that is written atomically
(the careful way), then with `standfast.JsonFile`.  The two take turns of load, load, save, save, so
that each saves what it loaded before the other's change.  Run: python examples/lost_update.py
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import standfast

ROUNDS = 30
GUILD = "1199000000000000101"


class PlainFile:
    """A JSON file, replaced atomically and flushed at each save."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def save(self, data: dict[str, Any]) -> None:
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with draft.open("w", encoding="utf-8") as file:
            json.dump(data, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)


def bot(kind: str, place: str, who: int, meet: Any) -> None:
    """One process: load, change one member, save; the other does the same at the same time."""
    path = Path(place) / "registrations.json"
    if kind == "plain file":
        run(PlainFile(path), who, meet.wait)
        return
    with standfast.open(data_dir=Path(place) / "storage") as store:
        run(standfast.JsonFile(path, store=store), who, meet.wait)


def run(file: Any, who: int, meet: Callable[[], object]) -> None:
    for number in range(ROUNDS):
        data = file.load()
        meet()  # both have loaded
        data.setdefault(GUILD, {})[f"member {who}-{number}"] = {"registered": True}
        file.save(data)
        meet()  # both have saved


def found(kind: str, place: str) -> int:
    """The registrations that are there in the end."""
    path = Path(place) / "registrations.json"
    if kind == "plain file":
        return len(PlainFile(path).load()[GUILD])
    with standfast.open(data_dir=Path(place) / "storage") as store:
        return len(standfast.JsonFile(path, store=store).load()[GUILD])


def main() -> int:
    """Let two processes write in both ways; the last line is JSON."""
    for name in ("DATABASE_URL", "STANDFAST_DATABASE_URL", "STANDFAST_DATA_DIR"):
        os.environ.pop(name, None)
    context = get_context("spawn")
    counts: dict[str, dict[str, int]] = {}
    for kind in ("plain file", "standfast"):
        with tempfile.TemporaryDirectory() as place:
            meet = context.Barrier(2, timeout=60)
            bots = [context.Process(target=bot, args=(kind, place, who, meet)) for who in range(2)]
            for process in bots:
                process.start()
            for process in bots:
                process.join()
            if any(process.exitcode for process in bots):
                return 1
            there = found(kind, place)
        counts[kind] = {"saved": 2 * ROUNDS, "found": there, "lost": 2 * ROUNDS - there}
        print(f"{kind:10}  {2 * ROUNDS} saved, {there} found, {2 * ROUNDS - there} lost")
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
