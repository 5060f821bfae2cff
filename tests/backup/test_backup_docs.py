"""docs/backup.md: its programs run, and what it says of the format is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import standfast
from standfast.admin import backup
from standfast.admin.backup.format import Head, PendingWrite

PAGE = (Path(__file__).parents[2] / "docs" / "backup.md").read_text(encoding="utf-8")
READER, FROM_PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    with standfast.open(data_dir=tmp_path / "storage") as store:
        store["players"].put_many({"8138": {"mode": "normal", "n": 10**30}, "ü": [None]})
        store["board"].put("only", "x")
    return tmp_path


def program(app: Path, text: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text, *words], cwd=app, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_reader_reads_every_document(app: Path) -> None:
    """The page's reader gives back every document, and finds a damaged file."""
    made = backup.create(data_dir=app / "storage")
    assert sum(bool(line.strip()) for line in READER.splitlines()) <= 10
    lines = program(app, READER, str(made.path)).splitlines()
    found = {tuple(line.split(" ", 2)[:2]): json.loads(line.split(" ", 2)[2]) for line in lines}
    assert found == {
        ("board", "only"): "x",
        ("players", "8138"): {"mode": "normal", "n": 10**30},
        ("players", "ü"): [None],
    }


@pytest.mark.process
def test_the_python_of_the_page(app: Path) -> None:
    """The functions of the page do what it says."""
    assert re.fullmatch(r"\['[\d-]+-[0-9a-f]+\.jsonl\.gz'\]\n", program(app, FROM_PYTHON))


def test_the_page_names_every_member() -> None:
    """Every member of the first line is in the table, and those of a pending write that matter."""
    table = PAGE[PAGE.index("| first |") :]
    assert [name for name in Head.__struct_fields__ if f"`{name}`" not in table] == []
    assert {"lane", "seq", "kind", "collection", "key", "body"} <= set(
        PendingWrite.__struct_fields__
    )
