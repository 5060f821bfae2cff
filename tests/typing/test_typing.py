"""What type checkers see of the public API, in code as users write it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

USER_CODE = Path(__file__).with_name("user_code.py")


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mypy_follows_user_code(tmp_path: Path) -> None:
    """mypy --strict infers what calls return, sync and async, and finds what is wrong."""
    said = run("mypy", "--strict", "--cache-dir", str(tmp_path), str(USER_CODE))
    assert "no issues found in 1 source file" in said


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
