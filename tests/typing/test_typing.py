"""What type checkers see of the public API, in code as users write it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import standfast

USER_CODE = Path(__file__).with_name("user_code.py")


def test_every_call_is_in_the_user_code() -> None:
    """Each public call of stores, collections and batches is checked, of both APIs."""
    text = USER_CODE.read_text(encoding="utf-8")
    awaited = "".join(re.findall(r"^async def .*?(?=^def |\Z)", text, re.DOTALL | re.MULTILINE))
    not_calls = {"engine", "over", "is_open"}
    for kind, code in (
        *((standfast.Store, text), (standfast.Collection, text), (standfast.Batch, text)),
        (standfast.AsyncStore, awaited),
        (standfast.AsyncCollection, awaited),
        (standfast.AsyncBatch, awaited),
    ):
        calls = {name for each in kind.__mro__[:-1] for name in vars(each) if name[0] != "_"}
        missing = [name for name in calls - not_calls if not re.search(rf"\.{name}\(", code)]
        assert missing == [], kind


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.process
def test_mypy_follows_user_code(tmp_path: Path) -> None:
    """mypy --strict infers what calls return, sync and async, and finds what is wrong."""
    said = run("mypy", "--strict", "--cache-dir", str(tmp_path), str(USER_CODE))
    assert "no issues found in 1 source file" in said


@pytest.mark.process
def test_pyright_follows_user_code(tmp_path: Path) -> None:
    """pyright infers what calls return, sync and async, and finds what is wrong."""
    shutil.copy(USER_CODE, tmp_path)
    configuration = {
        "include": [USER_CODE.name],  # relative, or it checks nothing
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(configuration), encoding="utf-8")
    said = run(
        *("pyright", "--pythonpath", sys.executable, "--project", str(tmp_path), "--outputjson")
    )
    assert json.loads(said)["summary"]["filesAnalyzed"] == 1
