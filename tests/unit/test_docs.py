"""The documents: their words are those of the glossary, and what they name exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from standfast.errors import CODES
from support.commands import COMMANDS
from support.sources import PACKAGE, nodes_of, sources

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "examples/**/README.md")
    for page in ROOT.glob(pattern)
)

#: Words that once stood for something here and no longer do, and phrases that read badly: each with
#: what to write in its place.
PRIVATE = {
    r"\bledger": "conflicts",
    r"\bpark(s|ed|ing)?\b": "rejected",
    r"\bfaces?\b": "synchronous or asynchronous API",
    r"\bthe hold\b": "local state, outage",
    r"\bsweep(s|ing)?\b|\bswept\b": "full scan",
    r"\bsettle[sd]?\b|\bsettling\b": "applied, confirmed, done",
    r"\bfold(s|ed)?\b": "apply",
    r"\bfuses?\b|\bburn(s|ed)?\b|\bblown\b": "deadline, expired",
    r"\btells?\b|\btold\b": "reports, shows, says",
    r"\bsomebody\b|\bnobody\b": "another process, the user; none",
    r"(?<!there )\bis no (?!longer)[a-z]": "is not",
    r"\b(goes|go) on (in|while|without)\b": "keeps working during",
    r"\blaid over\b": "applied over",
}
#: Where the old names have to be said: what changed.
ALLOWED = {("CHANGELOG.md", r"\bledger")}


def prose(text: str) -> str:
    """The text without blocks of code, which other tests run."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def wrong_words(text: str) -> Iterator[tuple[str, str]]:
    """(pattern, where it stands) of every private word in the text."""
    for pattern in PRIVATE:
        for found in re.finditer(pattern, text, re.IGNORECASE):
            yield pattern, " ".join(text[max(0, found.start() - 40) : found.end() + 40].split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_the_words_of_the_glossary(page: Path) -> None:
    """No page that users or maintainers read has a private word in it."""
    found = [
        f"...{place}... (write: {PRIVATE[pattern]})"
        for pattern, place in wrong_words(prose(page.read_text(encoding="utf-8")))
        if (page.name, pattern) not in ALLOWED
    ]
    assert found == []


def messages_of(nodes: Sequence[ast.AST]) -> Iterator[ast.Constant]:
    """The texts of a module that may reach a user: with a space in them, and no docstrings."""
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        match node:
            case ast.Constant(str(text)) if " " in text and id(node) not in docstrings:
                yield node
            case _:
                pass


def test_messages_use_the_words_of_the_glossary() -> None:
    """No message, hint or log line has a private word in it, and no help of a command."""
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: ...{place}... (write: {PRIVATE[pattern]})"
        for path in sources()
        for node in messages_of(nodes_of(path))
        for pattern, place in wrong_words(str(node.value))
    ]
    found += [
        f"{' '.join(words)} --help: ...{place}... (write: {PRIVATE[pattern]})"
        for words, command in COMMANDS
        for pattern, place in wrong_words(command.help or "")
    ]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_pages_name_exists(page: Path) -> None:
    """Every file that a page names or links to is there."""
    text = prose(page.read_text(encoding="utf-8"))
    named = set(re.findall(r"`((?:src|tests|tools|bench|docs|examples)/[\w./-]*)`", text))
    linked = set(re.findall(r"\]\((?!https?:|#)([^)#]+)", text))
    missing = {name for name in named if not (ROOT / name).exists()}
    missing |= {name for name in linked if not (page.parent / name).exists()}
    if page.name == "ARCHITECTURE.md":
        inside = re.findall(r"`((?:[a-z]+/)*[a-z_]+\.py|backends/[\w/]+/)`", text)
        missing |= {name for name in inside if not (PACKAGE / name).exists()}
        missing -= named
    assert missing == set()


def test_every_room_is_in_the_picture() -> None:
    """ARCHITECTURE.md draws every package and module at the top of the tree, and no other."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    picture = text.split("```")[1]
    drawn = {word for line in picture.splitlines() for word in line[:35].split()}
    there = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    inside = {"base,", "memory", "postgres", "sqlite"}
    assert {word for word in drawn if re.match(r"\w", word)} - inside == there


#: Functions whose first argument is a code.
CODE_FIRST = {"fail", "_refused", "Refusal", "print_error"}
ERRORS = {
    *("StandfastError", "ConfigError", "DataError", "ConflictError"),
    *("Unavailable", "DeadlineExceeded", "CorruptData", "MigrationError"),
}


def codes_in(nodes: Sequence[ast.AST]) -> Iterator[object]:
    """The codes that a module gives to errors: arguments, class attributes, tables of errors."""
    for node in nodes:
        match node:
            case ast.keyword(arg="code", value=ast.Constant(value)):
                yield value
            case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name), args=[first, *_]):
                if name in CODE_FIRST and isinstance(first, ast.Constant):
                    yield first.value
            case ast.Assign(targets=[ast.Name("code")], value=ast.Constant(value)):
                yield value
            case ast.Tuple(elts=[ast.Name(name), ast.Constant(value), *_]) if name in ERRORS:
                yield value
            case _:
                pass


def documented_codes() -> list[tuple[str, bool]]:
    """The codes of docs/errors.md, and whether each is marked as retryable."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    tables = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    own = text[text.index("Each class has a code") : text.index("## What may be tried")]
    own = own.replace("`unavailable`, `deadline`", "`unavailable` †, `deadline` †")
    found = [match for cell in [own, *tables] for match in re.findall(r"`([a-z_]+)`( †)?", cell)]
    return [(code, bool(mark)) for code, mark in found]


def test_every_error_code_is_documented() -> None:
    """docs/errors.md explains every code of an error, and no code that does not exist."""
    documented = [code for code, _ in documented_codes()]
    assert len(documented) == len(set(documented))
    used: set[object] = set()
    constants: set[object] = set()
    for path in sources():
        nodes = nodes_of(path)
        used.update(codes_in(nodes))
        constants.update(node.value for node in nodes if isinstance(node, ast.Constant))
    assert len(used) > 100
    assert used - set(documented) - {None} == set()
    assert set(documented) - constants == set()
    assert used - set(CODES) - {None} == set()


def test_the_registry_of_codes_is_true() -> None:
    """CODES and docs/errors.md have the same codes, and the same ones of them are retryable."""
    assert dict(documented_codes()) == {code: known.retryable for code, known in CODES.items()}
    assert {name for known in CODES.values() for name in known.classes} <= ERRORS | {"command"}


def test_errors_have_the_class_of_their_code_and_a_hint() -> None:
    """Wherever an error is made with a code, it has a class that CODES names, and a hint."""
    wrong: list[str] = []
    for path in sources():
        for node in nodes_of(path):
            match node:
                case ast.Call(func=ast.Name(name), keywords=options) if name in ERRORS:
                    given = {option.arg: option.value for option in options}
                    place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                    code = given.get("code")
                    if (
                        isinstance(code, ast.Constant)
                        and name not in CODES[str(code.value)].classes
                    ):
                        wrong.append(f"{place}: {name}({code.value})")
                    if "hint" not in given and None not in given:
                        wrong.append(f"{place}: no hint")
                case _:
                    pass
    assert wrong == []


def test_every_guarantee_names_tests_that_exist() -> None:
    """docs/guarantees.md: each invariant has faults, and each fault a file and the tests in it."""
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (I\d+):", text, re.M) == [f"I{n}" for n in range(1, 13)]
    parts = re.split(r"^## ", text, flags=re.M)[1:]
    rows = 0
    for part in parts:
        table = [line.split("|") for line in part.splitlines() if re.match(r"\|.*`tests/", line)]
        assert table or not re.match(r"I\d+:", part), part[:40]
        for _, what, files, tests, _ in table:
            code = "".join(
                (ROOT / file).read_text(encoding="utf-8") for file in re.findall(r"`(.+?)`", files)
            )
            named = re.findall(r"`(\w+)`", tests)
            assert what.strip()
            assert named or tests.strip() == "all"
            assert [name for name in named if f"def {name}(" not in code] == []
            rows += 1
    assert rows > 50


#: Which test runs the blocks of Python of a page.
RUN_BY = {
    "README.md": "tests/bot/test_pages.py",
    "docs/backup.md": "tests/backup/test_backup_docs.py",
    "docs/bot.md": "tests/bot/test_bot_state.py",
    "docs/bot_waitlist.md": "tests/bot/test_pages.py",
    "docs/collections.md": "tests/contract/test_collections_page.py",
    "docs/errors.md": "tests/bot/test_pages.py",
    "docs/json_file.md": "tests/bot/test_pages.py",
    "docs/move_your_bot.md": "tests/bot/test_pages.py",
    "docs/operations.md": "tests/bot/test_pages.py",
    "docs/outages.md": "tests/bot/test_pages.py",
    "docs/quickstart.md": "tests/bot/test_pages.py",
    "examples/drop_in/README.md": "tests/bot/test_drop_in_docs.py",
}


def test_every_block_of_python_has_a_test_that_runs_it() -> None:
    """A page with a block of Python is in the list, and its test names the page."""
    with_code = {
        str(page.relative_to(ROOT))
        for page in PAGES
        if "```python" in page.read_text(encoding="utf-8")
    }
    assert with_code == set(RUN_BY)
    for page, test in RUN_BY.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8"), page


def commands_in(text: str) -> Iterator[str]:
    """Every command line of ours that a page shows: in blocks, and between backticks."""
    for block in re.findall(r"^```(?:console|sh|text|yaml|ini)\n(.*?)^```", text, re.S | re.M):
        yield from re.findall(r"(?:^|[ /=(])(standfast [a-z][^#\n)|]*)", block, re.M)
    yield from re.findall(r"`(standfast [a-z][^`]*)`", prose(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_pages_show_exist(page: Path) -> None:
    """Every command that a page shows exists, and has the options that are shown with it."""
    known = {" ".join(words): command for words, command in COMMANDS}
    wrong: list[str] = []
    for line in commands_in(page.read_text(encoding="utf-8")):
        words = line.replace(",", " ").split()[1:]
        name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), None)
        if name is None:
            wrong.append(line)
            continue
        options = {opt for param in known[name].params for opt in param.opts} | {"--help"}
        wrong += [
            f"{line}: {word}"
            for word in words
            if word.startswith("--") and word.partition("=")[0].rstrip(".;") not in options
        ]
    assert wrong == []
