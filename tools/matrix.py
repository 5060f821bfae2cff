"""Build the wheel and the source distribution, and try the wheel on every Python that is found.

    .venv/bin/python tools/matrix.py

The source distribution is built from the checkout, the wheel from the source distribution, so that
neither misses a file. For each Python >= 3.11 on PATH or below pyenv's folder, one for each minor
version, the wheel is installed in a new environment, at the versions of constraints.txt, and
tools/smoke.py runs there, isolated, in an empty directory. Ends with 1 when one of them fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDEST = (3, 11)
LIMIT_S = 600.0
_PYTHON = re.compile(r"python3(\.\d+)?")
_VERSION = "import sys; print(*sys.version_info[:2])"


def candidates() -> Iterator[Path]:
    """Programs that may be a Python: this one, then those on PATH, then pyenv's."""
    yield Path(sys.executable)
    for folder in os.get_exec_path():
        if Path(folder).is_dir():
            yield from sorted(
                path
                for path in Path(folder).iterdir()
                if re.fullmatch(r"python3(\.\d+)?", path.name)
            )
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob("versions/*/bin/python3"), reverse=True)


def pythons() -> dict[tuple[int, int], Path]:
    """The first program that runs for each minor version."""
    found: dict[tuple[int, int], Path] = {}
    for path in candidates():
        done = subprocess.run([path, "-Ic", _VERSION], capture_output=True, text=True, cwd="/")
        if done.returncode:
            continue  # such as a shim of pyenv for a version that is not chosen
        major, minor = map(int, done.stdout.split())
        if (major, minor) >= OLDEST:
            found.setdefault((major, minor), path)
    return dict(sorted(found.items()))


def clean_environment() -> dict[str, str]:
    """The environment without anything by which a Python finds other packages, or a database."""
    dropped = ("PYTHON", "STANDFAST_", "PG", "VIRTUAL_ENV", "DATABASE_URL")
    env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return env | {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command to its end; OSError or subprocess.SubprocessError when it does not go well."""
    subprocess.run(command, cwd=cwd, env=clean_environment(), check=True, timeout=LIMIT_S)


def build(folder: Path) -> Path:
    """The wheel, made from the source distribution."""
    hatchling = [sys.executable, "-m", "hatchling", "build", "--directory"]
    run(*hatchling, str(folder), "--target", "sdist", cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    run(*hatchling, str(folder), "--target", "wheel", cwd=source)
    shutil.rmtree(folder / "source")
    (wheel,) = folder.glob("*.whl")
    return wheel


def attempt(python: Path, wheel: Path, folder: Path) -> str:
    """Install the wheel for one Python and run the smoke test; what went wrong, or ""."""
    venv, place = folder / "venv", folder / "empty"
    place.mkdir(parents=True)
    try:
        run(python, "-m", "venv", venv, cwd=place)
        run(venv / "bin" / "python", "-m", "pip", "install", "-qq", wheel, cwd=place)
        shutil.copy(ROOT / "tools" / "smoke.py", folder)
        run(venv / "bin" / "python", "-I", folder / "smoke.py", wheel.name.split("-")[1], cwd=place)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return ""


def main() -> int:
    """Build, try everywhere, and print a line for each Python and one that counts them."""
    found = pythons()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="sf-matrix-") as name:
        wheel = build(Path(name))
        for (major, minor), python in found.items():
            wrong = attempt(python, wheel, Path(name) / f"{major}.{minor}")
            failed += bool(wrong)
            print(f"Python {major}.{minor}: {wrong or 'ok'}", flush=True)
    print(f"{wheel.name}: {len(found) - failed} of {len(found)} Pythons >= 3.11 that were found")
    if len(found) == 1:
        print("note: none was found beside the one that runs this; install others to try them")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
