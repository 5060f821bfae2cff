"""The tree as a whole: nothing of the place where it was written, files of a readable length."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.sources import tree_of

ROOT = Path(__file__).parents[1]

# Put together here, so that this file does not hold them itself.
FORBIDDEN = [
    "/".join(["", "root", ""]),
    "/".join(["", "work", ""]),
    ".".join(["pypi", "org"]),
    ".".join(["files", "pythonhosted"]),
]
MAX_LINES = 800
OLD_NAME = "".join(["hold", "fast"])
#: At the top of the package, so that one sees at a glance where things are.
MAX_MODULES = 6
MAX_PACKAGES = 12

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def project_files() -> list[Path]:
    """Every file that is or would be committed; outside a git checkout, all but generated ones."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.split("\0") if name]
        return [path for name in names if (path := ROOT / name).is_file()]
    return list(walk(ROOT))


def walk(top: Path) -> Iterator[Path]:
    generated = {"build", "dist", "storage", "__pycache__", "_build"}
    for directory, folders, names in os.walk(top):
        folders[:] = [
            name
            for name in folders
            if name not in generated and (name == ".ci" or not name.startswith("."))
        ]
        yield from (Path(directory, name) for name in names)


FILES = project_files()


def python_files(*folders: str) -> list[Path]:
    return [
        path
        for path in FILES
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders
    ]


def test_the_tree_is_found() -> None:
    """The checks below look at something: the files of the project, this one among them."""
    assert Path(__file__) in FILES
    assert ROOT / "pyproject.toml" in FILES


@pytest.mark.parametrize("needle", FORBIDDEN)
def test_nothing_names_the_machine_or_a_registry(needle: str) -> None:
    """No file holds a path of a developer's machine or the address of a package registry."""
    holding = [str(p.relative_to(ROOT)) for p in FILES if needle.encode() in p.read_bytes()]
    assert holding == []


def test_source_files_stay_short() -> None:
    """No Python file of the package is longer than one idea needs."""
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files("src")
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_the_old_name_is_history() -> None:
    """Nothing but the changelog names the package as it was called at first."""
    holding = [
        str(p.relative_to(ROOT))
        for p in FILES
        if OLD_NAME in str(p.relative_to(ROOT)).lower()
        or OLD_NAME.encode() in p.read_bytes().lower()
    ]
    assert set(holding) <= {"CHANGELOG.md"}


def test_the_top_of_the_package_can_be_taken_in_at_a_glance() -> None:
    """The package has few modules and few sub-packages at its top."""
    package = ROOT / "src" / "standfast"
    parts = [path.relative_to(package).parts for path in python_files("src")]
    assert len([part for part in parts if len(part) == 1]) <= MAX_MODULES
    assert len({part[0] for part in parts if len(part) > 1}) <= MAX_PACKAGES


def public_definitions(path: Path) -> Iterator[tuple[ast.ClassDef | None, Definition]]:
    """(class or None, definition) of everything public that a file defines."""
    stack: list[tuple[ast.ClassDef | None, list[ast.stmt]]] = [(None, tree_of(path).body)]
    while stack:
        owner, body = stack.pop()
        for node in body:
            if not isinstance(node, Definition):
                continue
            overload = any("overload" in ast.unparse(mark) for mark in node.decorator_list)
            if node.name.startswith("_") or overload:
                continue
            yield owner, node
            if isinstance(node, ast.ClassDef):
                stack.append((node, node.body))


def test_whatever_is_public_is_documented() -> None:
    """Every public module, class, function and method of the package has a docstring.

    A method that a protocol of the package documents is documented there, once for all who
    implement it.
    """
    files = python_files("src")
    missing = {
        str(path.relative_to(ROOT)) for path in files if not ast.get_docstring(tree_of(path))
    }
    contract: set[str] = set()
    pending: set[tuple[str, str]] = set()
    for path in files:
        for owner, node in public_definitions(path):
            documented = ast.get_docstring(node) is not None
            if documented and owner and "Protocol" in {ast.unparse(base) for base in owner.bases}:
                contract.add(node.name)
            if not documented:
                where = f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
                pending.add((node.name if owner else "", where))
    missing |= {where for name, where in pending if name not in contract}
    assert missing == set()
