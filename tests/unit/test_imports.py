"""The shape of the code: imports go downwards, pure modules stay pure, importing stays cheap."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from support.sources import nodes_of
from support.sources import sources as modules

SRC = Path(__file__).parents[2] / "src"

# From the bottom up. A top-level module that is not named here counts as pure: the strictest rules.
PURE = "pure"
LAYERS = [
    {PURE, "document", "ops", "config"},
    {"system"},
    {"backends"},
    {"engine"},
    {"api"},
    {"jsonfile"},
    {"migrate"},
    {"bot"},
    {"admin"},
    {"testing"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

IMPURE = {
    "apsw",
    "asyncio",
    "io",
    "os",
    "psycopg",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
}
# Pure but for what they are there for: where time comes from, and the environment's variables.
ALLOWED = {"config.settings": {"os"}}


@functools.cache
def sources() -> dict[str, Path]:
    """Every module of the package by its dotted name below `standfast`, such as `engine.mirror`."""
    found: dict[str, Path] = {}
    for path in modules():
        parts = path.relative_to(SRC / "standfast").with_suffix("").parts
        if len(parts) > 1 and parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


def imports(name: str, path: Path, *, package: bool) -> Iterator[str]:
    """Absolute names of everything that a module imports, wherever in its code."""
    base = ["standfast", *([] if name == "__init__" else name.split("."))]
    if not package:
        base.pop()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer(name: str) -> str:
    top = name.split(".")[0]
    return PURE if top in LAYERS[0] or top not in RANK else top


def resolve(parts: list[str], known: Set[str]) -> str:
    """The module that `standfast.<parts>` names or lies in; `__init__` for a name in there."""
    for length in range(len(parts), 0, -1):
        if (module := ".".join(parts[:length])) in known:
            return module
    return parts[0] if len(parts) > 1 else "__init__"


@functools.cache
def edges() -> tuple[tuple[str, str], ...]:
    return tuple(_edges())


def _edges() -> Iterator[tuple[str, str]]:
    """(importing module, imported module) inside the package; `from standfast import x` is x."""
    known = sources()
    for name, path in known.items():
        directory = SRC.joinpath("standfast", *name.split("."))
        package = name == "__init__" or directory.is_dir()
        for target in imports(name, path, package=package):
            if target != "standfast" and not target.startswith("standfast."):
                continue
            yield name, resolve(target.split(".")[1:], known.keys())


def test_imports_go_downwards_only() -> None:
    """No module imports one of a higher layer; the package itself is for the command line."""
    wrong = [f"{a} -> {b}" for a, b in edges() if RANK[layer(b)] > RANK[layer(a)]]
    assert wrong == []


def test_modules_of_one_layer_do_not_import_each_other_in_a_circle() -> None:
    """The modules import each other without a circle, inside the layers too."""
    graph: dict[str, set[str]] = {}
    for importer, imported in edges():
        # A package and its own modules are one thing here: `__init__` re-exports them.
        if importer != imported and not importer.startswith(f"{imported}."):
            graph.setdefault(importer, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(reversed(error.args[1]))}")


def test_pure_modules_do_no_io() -> None:
    """Pure modules import nothing that reads, writes, waits, runs threads or asks the clock."""
    wrong: list[str] = []
    for name, path in sources().items():
        if layer(name) == PURE:
            tops = {target.split(".")[0] for target in imports(name, path, package=False)}
            wrong += [
                f"{name} -> {top}" for top in sorted(tops & IMPURE - ALLOWED.get(name, set()))
            ]
    assert wrong == []


@pytest.mark.process
def test_importing_standfast_loads_no_driver() -> None:
    """`import standfast` leaves psycopg, rich, click and asyncio to those who need them."""
    code = (
        "import sys; before = set(sys.modules); import standfast;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "standfast" in loaded
    assert loaded & {"psycopg", "rich", "click", "asyncio"} == set()
