"""A data directory on a disk that is full, read-only or failing; and why that cannot be tried here.

Full and read-only disks are small file systems in memory, mounted in a private mount namespace, so
that nobody else sees them and nothing of them is left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from support.crash_world import Done, World

#: $1: the data directory; $2: the room on its disk in KiB, or "ro"; $3: a folder for results; the
#: rest: the command.
_SCRIPT = r"""
set -eu
dir=$1; room=$2; out=$3; shift 3
cp -a "$dir/." "$out/seed"
mount -t tmpfs -o size=64m,mode=0700 standfast "$dir"
cp -a "$out/seed/." "$dir"
case $room in
    ro) mount -o remount,ro "$dir" ;;
    *) used=$(df -k --output=used "$dir" | tail -1)
       mount -o "remount,size=$((used + room))k" "$dir" ;;
esac
set +e
"$@" >"$out/first.out" 2>"$out/first.err"; echo $? >"$out/first.code"
mount -o remount,rw,size=64m "$dir"
ls -A "$dir/migration_backups" >"$out/between" 2>/dev/null
"$@" >"$out/second.out" 2>"$out/second.err"; echo $? >"$out/second.code"
set -e
cp -a "$dir/." "$out/data"
"""


def why_no_mounts() -> str:
    """Why no file system can be mounted here; empty when one can."""
    if shutil.which("unshare") is None:
        return "there is no `unshare` here"
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "standfast", "/mnt"]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"mounting is not allowed here: {done.stderr.strip()}"


def why_no_strace() -> str:
    """Why no system call can be made to fail here; empty when one can."""
    if shutil.which("strace") is None:
        return "there is no `strace` here"
    done = subprocess.run([*failing_fsync(1), "true"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"tracing is not allowed here: {done.stderr.strip()}"


def failing_fsync(number: int) -> list[str]:
    """The command under which the N-th fsync of a program fails with EIO."""
    inject = f"inject=fsync,fdatasync:error=EIO:when={number}"
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", inject]


def twice_on(world: World, room: str, folder: Path) -> tuple[Done, Done]:
    """Migrate with the data directory on a disk with `room` KiB left (or `ro`), then again with
    enough; its content is put in the world's place afterwards."""
    script = folder / "mounted.sh"
    script.write_text(_SCRIPT)
    (folder / "seed").mkdir()
    world.storage.mkdir(mode=0o700, exist_ok=True)
    under = ["unshare", "-m", "sh", str(script), str(world.storage), room, str(folder)]
    ended = world.run(*world.migration(), under=under)
    assert ended.code == 0, ended.all
    shutil.rmtree(world.storage)
    os.rename(folder / "data", world.storage)
    return _done(world, folder, "first"), _done(world, folder, "second")


def _done(world: World, folder: Path, name: str) -> Done:
    done = Done(
        int((folder / f"{name}.code").read_text()),
        (folder / f"{name}.out").read_text(),
        (folder / f"{name}.err").read_text(),
    )
    world.assert_discreet(done.all, "output")
    return done
