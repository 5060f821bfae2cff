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
    todo = [each for each in _files() if not _is_there(*each)]
    if len(todo) < _FEW:
        return
    parts = min(os.cpu_count() or 1, 8)
    # Long files first, dealt in turn: the parts take about as long as each other.
    todo.sort(key=lambda each: -each[0].stat().st_size)
    children = [_in_child(config, todo[part::parts]) for part in range(1, parts)]
    _make(config, todo[::parts])
    for pid in children:
        os.waitpid(pid, 0)


def _files() -> Iterator[tuple[Path, bool]]:
    """Each file, and whether its assertions are rewritten.

    The package is there twice: pytest rewrites it too, since it has a plugin in it; the programs
    that tests start read it as it is.
    """
    for path in TESTS.rglob("*.py"):
        yield path, path.name.startswith("test_") or path.name == "conftest.py"
    for path in (TESTS.parent / "src").rglob("*.py"):
        yield path, True
        yield path, False


def _cached(path: Path, rewritten: bool) -> Path:
    return Path(_FOLDER(path), path.stem + _TAIL) if rewritten else Path(cache_from_source(path))


def _is_there(path: Path, rewritten: bool) -> bool:
    if _KEY is None and rewritten:
        return True
    try:
        return _cached(path, rewritten).stat().st_mtime_ns >= path.stat().st_mtime_ns
    except OSError:
        return False


def _in_child(config: pytest.Config, todo: Sequence[tuple[Path, bool]]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _make(config, todo)
        finally:
            os._exit(0)
    return pid


def _make(config: pytest.Config, todo: Sequence[tuple[Path, bool]]) -> None:
    for path, rewritten in todo:
        with contextlib.suppress(Exception):
            if _KEY is None or not rewritten:
                py_compile.compile(str(path), doraise=True)
                continue
            source_hash, code = _REWRITE(path, config)
            made = _cached(path, rewritten)
            made.parent.mkdir(exist_ok=True)
            _WRITE(config.stash[_KEY], code, source_hash, made)
