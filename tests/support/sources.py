"""The package's source as syntax trees: parsed once by each process that looks at it.

To parse all of it takes a second; a dozen tests look at every module.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "standfast"


@functools.cache
def sources() -> tuple[Path, ...]:
    """Every module of the package."""
    return tuple(sorted(PACKAGE.rglob("*.py")))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """A file's syntax tree, for all who ask: they leave it as it is."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file's tree, as `ast.walk` finds them."""
    return tuple(ast.walk(tree_of(path)))
