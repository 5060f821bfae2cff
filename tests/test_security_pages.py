"""SECURITY.md and docs/security.md: what they say is proved by the tests that they name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from support.sources import nodes_of, sources

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TESTS = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
FUNCTIONS = {
    name
    for text in TESTS.values()
    for name in re.findall(r"^ *(?:async )?(?:def|class) (\w+)", text, re.M)
}

#: The sentences of SECURITY.md on what is protected, and what proves each.
SENTENCES = {
    "Contents are not shown": ["test_secrets_and_contents_are_nowhere", "test_errors_of_the_store"],
    "Passwords are not shown": ["test_secrets_and_contents_are_nowhere"],
    "Files are private": ["test_the_files_are_private"],
    "No role gets another's rights": ["test_a_caller_gets_no_rights_of_the_functions_owner"],
    "SQL is never built from data": ["test_every_name_in_our_statements_is_postgresqls_or_ours"],
    "Input is bounded": ["test_odd_texts"],
    "No code from data": ["test_nothing_is_unpickled_or_evaluated"],
    "No other network access": ["test_only_the_database_is_connected_to"],
}


def test_every_test_that_the_page_names_exists() -> None:
    """A sentence of docs/security.md without its test would be a promise only."""
    named = set(re.findall(r"`(test_\w+|Test\w+)`", PAGE))
    assert len(named) > 25
    assert named <= FUNCTIONS
    files = set(re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)`", PAGE))
    assert files <= {path.name for path in TESTS}


def test_every_sentence_of_the_policy_has_its_test() -> None:
    """SECURITY.md: each thing that standfast protects is proved by a test."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    part = text[text.index("## What standfast protects") : text.index("## What it does not")]
    said = [sentence.rstrip(".") for sentence in re.findall(r"^- \*\*(.+?)\*\*", part, re.M)]
    assert sorted(said) == sorted(SENTENCES)
    assert {name for names in SENTENCES.values() for name in names} <= FUNCTIONS


#: All of the package but `standfast demo`, which starts a bot and a server of its own to kill them.
SOURCES = [
    path for path in sources() if not path.name.startswith("demo") and path.name != "own_server.py"
]


def test_nothing_is_unpickled_or_evaluated() -> None:
    """No code from data: the package imports nothing that runs what it reads, and calls no eval."""
    forbidden = {"pickle", "marshal", "shelve", "yaml", "subprocess"}
    for path in SOURCES:
        for node in nodes_of(path):
            if isinstance(node, ast.Import):
                assert not forbidden & {each.name.partition(".")[0] for each in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in forbidden, path
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), path


def test_only_the_database_is_connected_to() -> None:
    """No other network access: one module opens connections, to the database; one asks for the
    addresses of its host."""
    network = {"socket", "ssl", "http", "urllib.request", "requests", "aiohttp", "asyncio.streams"}
    found: set[str] = set()
    for path in SOURCES:
        for node in nodes_of(path):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            if network.intersection(names):
                found.add(path.name)
    assert found <= {"connecting.py", "deadline.py", "platform.py", "activity.py"}
