"""The files that the crash tests migrate, and the rows that are in the database before.

Every value holds CANARY, which no output, log or state may ever show; no key does.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from standfast.api.sync import Store
from standfast.backends.base import Backend, Form, Load

#: Part of every value: what shows it, shows somebody's data.
CANARY = "Kanarienvogel"
#: A whole number of seconds and a fraction that only nanoseconds hold.
MTIME_NS = 1_600_000_000_123_456_789
#: Files by name: bytes and mode.
SOURCES: dict[str, tuple[bytes, int]] = {}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def value(number: int, **more: Any) -> dict[str, Any]:
    """A document that tells its number and holds the canary."""
    return {"name": f"{CANARY} {number}", "n": number, **more}


_GUILDS = (
    "{\n"
    f'  "equal": {{"n": 1, "name": "{CANARY} 1"}},\n'
    f'  "differs": {{"zeta": 1.0e2, "alpha": "{CANARY} file \\u0000"}},\n'
    f'  "ttl": {{"name": "{CANARY} file"}},\n'
    f'  "gone": "{CANARY} is back",\n'
    f'  "expired": "{CANARY} again",\n'
    f'  "new": [1, 12345678901234567890123, "{CANARY}"]\n'
    "}"
)
_PLAYERS = _text([value(1, id="p1"), value(2, id="p2"), value(30, id="p3")])
_EVENTS = "".join(json.dumps(value(n, id=n)) + "\n" for n in range(9))
_BOARD = _text({"a": value(1), "ä": value(2)})

SOURCES["guilds.json"] = (_GUILDS.encode(), 0o644)
SOURCES["players.json"] = (_PLAYERS.encode(), 0o600)
SOURCES["events.jsonl"] = (_EVENTS.encode(), 0o640)
SOURCES["board.json"] = (b"\xff\xfe" + _BOARD.encode("utf-16-le"), 0o444)

COLLECTIONS = sorted(Path(name).stem for name in SOURCES)


def write_sources(folder: Path) -> None:
    """Make the files, each with its own mode and time of modification."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (name, (data, mode)) in enumerate(SOURCES.items()):
        path = folder / name
        path.write_bytes(data)
        path.chmod(mode)
        os.utime(path, ns=(MTIME_NS, MTIME_NS + index))


def fill(backend: Backend, store: Store) -> None:
    """Rows that are equal, different, only in the database, deleted; and a collection's form.

    `store` and `backend` lead to the same database.
    """
    guilds = [
        ("equal", f'{{"name":"{CANARY} 1","n":1}}'),
        # Neither the order nor the numbers nor the escape is what jsonb gives back.
        ("differs", f'{{"zeta":1.50,"alpha":"{CANARY} \\u0000","a":1e3}}'),
        ("only", f'{{"z":"{CANARY}","a":"\\ud800"}}'),
        ("only_plain", f'"{CANARY}"'),
    ]
    players = [("p3", json.dumps(value(3, id="p3"))), ("p4", json.dumps(value(4, id="p4")))]
    backend.load(
        "before",
        "loaded",
        [Load("guilds", None, guilds), Load("players", Form("lines", "id"), players)],
    )
    here = store["guilds"]
    here.put("ttl", value(7), ttl_s=100_000.5)
    here.put("expired", value(8), ttl_s=100_000)
    for number in range(3):
        here.put("gone", value(number))
    here.delete("gone")
    here.patch("only_plain", value(9))
