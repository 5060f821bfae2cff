"""docs/collections.md: every block runs, one after the other; every public call is on the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import standfast

PAGE = Path(__file__).parents[2] / "docs" / "collections.md"


def test_every_block_of_the_page_runs() -> None:
    """What the page shows is so."""
    text = PAGE.read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert len(blocks) == text.count("```") // 2
    for block in blocks:
        lines = "\n" * text[: block.start(1)].count("\n")  # a traceback shows the page's line
        exec(compile(lines + block[1], str(PAGE), "exec"), scope)


def test_the_page_has_every_call() -> None:
    """No call of a collection is missing on its page."""
    text = PAGE.read_text(encoding="utf-8")
    calls = [name for name in vars(standfast.Collection) if not name.startswith("_")]
    missing = [name for name in calls if not re.search(rf"\b{name}\(", text)]
    assert missing == []
