"""The bytecode of the tests and of the package, made once before the workers of a run start.

In a fresh checkout each worker would rewrite the assertions of every test file and compile every
module anew, all at the same time: 14 seconds of a processor for each.  Whatever is wrong with a
file is left for the worker that imports it to say.
"""

from __future__ import annotations

import contextlib
import os
import py_compile
from collections.abc import Iterator, Sequence
from importlib.util import cache_from_source
from pathlib import Path

import pytest

try:
    # Pytest has no other way to it; without these each worker does it for itself.
    from _pytest.assertion import rewrite
    from _pytest.stash import StashKey

    _KEY: StashKey[rewrite.AssertionState] | None = rewrite.assertstate_key
    _REWRITE, _WRITE = rewrite._rewrite_test, rewrite._write_pyc
    _TAIL, _FOLDER = rewrite.PYC_TAIL, rewrite.get_cache_dir
except (ImportError, AttributeError):  # pragma: no cover - another pytest
    _KEY = None

TESTS = Path(__file__).parents[1]
#: Fewer files than this are no work to speak of.
_FEW = 10


def prepare(config: pytest.Config) -> None:
    """Make what is missing or older than its source, on every processor."""
    todo = [path for path in _files() if not _is_there(path)]
    if len(todo) < _FEW:
        return
    parts = min(os.cpu_count() or 1, 8)
    # Long files first, dealt in turn: the parts take about as long as each other.
    todo.sort(key=lambda path: -path.stat().st_size)
    children = [_in_child(config, todo[part::parts]) for part in range(1, parts)]
    _make(config, todo[::parts])
    for pid in children:
        os.waitpid(pid, 0)


def _files() -> Iterator[Path]:
    for folder in (TESTS, TESTS.parent / "src"):
        yield from folder.rglob("*.py")


def _is_rewritten(path: Path) -> bool:
    inside = path.is_relative_to(TESTS)
    return inside and (path.name.startswith("test_") or path.name == "conftest.py")


def _cached(path: Path) -> Path:
    if _KEY is not None and _is_rewritten(path):
        return Path(_FOLDER(path), path.stem + _TAIL)
    return Path(cache_from_source(path))


def _is_there(path: Path) -> bool:
    if _KEY is None and _is_rewritten(path):
        return True
    try:
        return _cached(path).stat().st_mtime_ns >= path.stat().st_mtime_ns
    except OSError:
        return False


def _in_child(config: pytest.Config, paths: Sequence[Path]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _make(config, paths)
        finally:
            os._exit(0)
    return pid


def _make(config: pytest.Config, paths: Sequence[Path]) -> None:
    for path in paths:
        with contextlib.suppress(Exception):
            if _KEY is None or not _is_rewritten(path):
                py_compile.compile(str(path), doraise=True)
                continue
            source_hash, code = _REWRITE(path, config)
            _cached(path).parent.mkdir(exist_ok=True)
            _WRITE(config.stash[_KEY], code, source_hash, _cached(path))
