"""A system that has no more than Windows has, made of this one: run as a program of its own.

What Windows lacks is taken away before standfast is imported; what it does differently (a file that
is open can be neither renamed nor removed, a rename leaves a target alone, a directory cannot be
opened) is imitated.  Python's own modules are loaded first: they have their ways of doing without.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "syslog")
OF_OS = """
    fork forkpty register_at_fork fchmod fchown chown lchown getuid geteuid getgid getegid setuid
    setsid killpg mkfifo statvfs sync fdatasync pread pwrite sched_getaffinity uname nice
    O_DIRECTORY O_CLOEXEC O_NOFOLLOW O_NONBLOCK O_SYNC O_DSYNC O_NOCTTY
""".split()
OF_SELECT = ("poll", "epoll", "kqueue")
OF_SIGNAL = """
    SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGQUIT SIGPIPE SIGSTOP SIGCONT
    alarm setitimer pthread_sigmask siginterrupt
""".split()


def take_away() -> None:
    """Leave of this process's modules what Windows has of them."""
    assert not any(name.startswith("standfast") for name in sys.modules), "too late"
    _imitate(open_files=_open_files)
    statvfs = os.statvfs

    def disk_usage(path: Any) -> Any:  # Python's own has another way on Windows
        found = statvfs(path)
        size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        return shutil._ntuple_diskusage(size, size - free, free)  # type: ignore[attr-defined]

    shutil.disk_usage = disk_usage
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in (
        (os, OF_OS),
        (select, OF_SELECT),
        (signal, OF_SIGNAL),
    ):
        for name in names:
            vars(module).pop(name, None)
    for name in ("supports_dir_fd", "supports_fd", "supports_follow_symlinks"):
        setattr(os, name, set())
    shutil._use_fd_functions = False  # type: ignore[attr-defined]


def _open_files() -> set[str]:
    """The files that this process has open, by their real paths."""
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # that of the listing itself
    return found


def _imitate(*, open_files: Callable[[], set[str]]) -> None:
    real: dict[str, Callable[..., Any]] = {
        name: getattr(os, name) for name in "open fsync rename replace unlink utime link".split()
    }
    import fcntl

    def require_closed(path: Any) -> None:
        if os.path.realpath(os.fspath(path)) in open_files():
            raise PermissionError(errno.EACCES, "the file is in use", os.fspath(path))

    def opened(path: Any, flags: int, mode: int = 0o777, **_: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "a directory cannot be opened", os.fspath(path))
        return real["open"](path, flags, mode)

    def fsync(fd: int) -> None:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "the file is not open for writing")
        real["fsync"](fd)

    def rename(source: Any, target: Any, **_: Any) -> None:
        require_closed(source)
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "it exists", os.fspath(target))
        real["rename"](source, target)

    def replace(source: Any, target: Any, **_: Any) -> None:
        require_closed(source)
        require_closed(target)
        real["replace"](source, target)

    def unlink(path: Any, **_: Any) -> None:
        require_closed(path)
        real["unlink"](path)

    def utime(path: Any, times: Any = None, **how: Any) -> None:
        if isinstance(path, int):
            raise TypeError("a path is needed, not a descriptor")
        real["utime"](path, times, **how)

    def link(source: Any, target: Any, *, follow_symlinks: bool = True) -> None:
        if not follow_symlinks:
            raise NotImplementedError("follow_symlinks is not available here")
        real["link"](source, target)

    for name, imitation in {
        "open": opened,
        "fsync": fsync,
        "rename": rename,
        "replace": replace,
        "unlink": unlink,
        "remove": unlink,
        "utime": utime,
        "link": link,
    }.items():
        setattr(os, name, imitation)


async def _use_async(url: str | None, data_dir: Path) -> None:
    import standfast

    async with standfast.open_async(url, data_dir=data_dir) as store:
        players = store["players"]
        await players.put("2", {"name": "Bo"})
        async with store.batch() as batch:
            batch.put("players", "3", {"name": "Cy"})
            batch.delete("players", "2")
        assert await players.get("2") is None
        assert await players.get("3") == {"name": "Cy"}


def use_store(url: str | None, data_dir: Path) -> None:
    """Put, get, patch, batch and scan, synchronously and asynchronously; opened twice."""
    import standfast

    for _ in range(2):
        with standfast.open(url, data_dir=data_dir) as store:
            players = store["players"]
            assert players.put("1", {"name": "Al"}).durable_on == "primary"
            players.patch("1", {"level": 3})
            with store.batch() as batch:
                batch.put("players", "4", {"name": "Di"})
            assert players.get("1") == {"name": "Al", "level": 3}
            assert players.count() >= 2
            assert store.health().state == "direct"
    asyncio.run(_use_async(url, data_dir))


def use_json_file(data_dir: Path) -> None:
    """A dict as a document, loaded, changed and saved, from two stores."""
    import standfast

    for level in (1, 2):
        with standfast.open(data_dir=data_dir) as store:
            file = standfast.JsonFile("levels", store=store)
            levels = file.load()
            levels[str(level)] = {"level": level}
            file.save(levels)
            assert len(file.load()) == level


def run(words: list[str], *, code: int = 0) -> None:
    """One command."""
    from standfast.cli.main import run_command

    ended = run_command(words)
    assert ended == code, (words, ended)


def use_commands(folder: Path) -> None:
    """Every kind of command, a migration and its rollback among them; a damaged run is resumed."""
    sources = folder / "json"
    sources.mkdir()
    source = sources / "bot_views.json"
    before = b'{"8138": {"event_mode": "normal"}, "8139": {"event_mode": "doubleup"}}\r\n'
    source.write_bytes(before)
    os.utime(source, ns=(10**18, 10**18))
    run(["migrate", str(source), "--yes"])
    assert not source.exists()
    run(["get", "bot_views", "8138"])
    run(["put", "bot_views", "9", '{"event_mode": "normal"}'])
    run(["patch", "bot_views", "9", '{"event_mode": "x"}'])
    run(["export", "bot_views", "--output", str(folder / "out.json")])
    run(["export", "bot_views", "--output", str(folder / "out.json"), "--force"])
    run(["delete", "bot_views", "9"])
    run(["list", "bot_views"])
    (one,) = (name for name in os.listdir("storage/migration_backups"))
    run(["verify", one])
    run(["rollback", one])
    assert source.read_bytes() == before
    assert source.stat().st_mtime_ns == 10**18
    os.chmod("storage", 0o777)  # what Windows shows of every directory
    for words in (["runs"], ["status"], ["doctor"], ["schema", "status"], ["journal", "list"]):
        run([*words, "--json"])
    run(["conflicts", "list"])


def main() -> None:
    """`embedded`, or `postgresql URL`: use all of it in the current directory."""
    take_away()
    if sys.argv[1] == "embedded":
        use_store(None, Path("store"))
        use_json_file(Path("files"))
        use_commands(Path.cwd())
    else:
        use_store(sys.argv[2], Path("store"))
    lacking = [name for name in MODULES if sys.modules[name] is not None]
    assert not lacking, f"brought back: {lacking}"
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
