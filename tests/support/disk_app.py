"""An app on a small disk that fills up: `python -m support.disk_app PART URL DATA_DIR`.

The disk is a file system in memory in a mount namespace of the app's own.  It prints one line of
JSON: what became of its part.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import apsw

import standfast
from standfast import StandfastError
from standfast.admin.data_dir import look
from standfast.api.sync import Store
from standfast.engine import reserve
from support.far import Far
from support.hold import on_primary, soon, wait_direct

_MOUNT = 'mkdir -p "$1"; mount -t tmpfs -o "size=$2" standfast "$1"; shift 2; exec "$@"'


def play(part: str, url: str, data_dir: Path, *, size: str = "8m") -> Any:
    """Run a part on a small disk at `data_dir`; what it printed."""
    app = [sys.executable, "-m", "support.disk_app", part, url, str(data_dir)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", _MOUNT, "sh", str(data_dir), size, *app],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def full(data_dir: Path, name: str = "filler") -> Iterator[None]:
    """No byte is free inside the block."""
    filler = data_dir / name
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    try:
        yield
    finally:
        filler.unlink()


def stale_mirror(url: str, data_dir: Path) -> Any:
    """Fill the disk under acknowledged puts, free it, start again in an outage, and read."""
    store = standfast.open(url, data_dir=data_dir)
    wait_direct(store)
    store["c"].put("k", 0)
    last = 0
    with full(data_dir):
        for number in range(1, 200):
            if store["c"].put("k", number).durable_on == "primary":
                last = number
    store.close()
    nowhere = urlunsplit(urlsplit(url)._replace(netloc="nobody@127.0.0.1:1"))
    with standfast.open(nowhere, data_dir=data_dir) as store:
        try:
            return {"last": last, "read": store["c"].get("k")}
        except StandfastError as error:
            return {"last": last, "error": error.code}


def forgetting(url: str, data_dir: Path) -> Any:
    """One write is pending when the disk is full and the primary comes back."""
    with Far.to(url) as line, standfast.open(line.url(url), data_dir=data_dir) as store:
        wait_direct(store)
        store["c"].put("first", 0)
        with line.down():
            assert store["c"].put("pending", 1).durable_on == "journal"
            filling = full(data_dir)
            filling.__enter__()
        until = time.monotonic() + 6
        durable_on = "nothing"
        while durable_on != "primary" and time.monotonic() < until:
            try:
                durable_on = store["c"].put("later", 1).durable_on
            except StandfastError as error:
                durable_on = error.code
                time.sleep(0.05)
        filling.__exit__(None, None, None)
        return {"durable_on": durable_on}


def restarted(url: str, data_dir: Path, *, away: bool) -> Any:
    """A store that is opened on a full disk, in health or in an outage; then there is room again.

    The counter shows what is lost or doubled: it is what was acknowledged, and one more.
    """
    found: dict[str, Any] = {"acknowledged": 0, "pending": 0, "refused": []}

    def count(store: Store) -> None:
        try:
            store["c"].increment("n", "/x")
        except StandfastError as error:
            found["refused"] = sorted({*found["refused"], f"{error.code}, {bool(error.hint)}"})
        else:
            found["acknowledged"] += 1
            found["pending"] = max(found["pending"], store.health().lag_ops)

    deadline_s = 0.3 if away else 5.0  # in health no write may be in doubt
    with Far.to(url) as line:
        for _ in range(2):  # what the first open makes, later ones find
            with standfast.open(line.url(url), data_dir=data_dir) as store:
                wait_direct(store)
                store["c"].put("n", {"x": 1})
        if away:
            line.set(max_connections=0)
            line.cut()
        with contextlib.ExitStack() as filled:
            filled.enter_context(full(data_dir))
            for number in range(3):  # what a closed store leaves is enough for the next one
                with standfast.open(
                    line.url(url), data_dir=data_dir, deadline_s=deadline_s
                ) as store:
                    if not away:
                        wait_direct(store)
                    count(store)  # in the room that the reserve has left
                    filled.enter_context(full(data_dir, f"rest-{number}"))
                    for _ in range(20):
                        count(store)
                    found["read"] = store["c"].get("n")
                    found["problems"] = store.health().problems
                    found["looked"] = [look(data_dir).shortage]
                filled.enter_context(full(data_dir, f"closed-{number}"))
                found["mirrored"] = look(data_dir).mirrored  # with no store open
        with standfast.open(line.url(url), data_dir=data_dir, deadline_s=deadline_s) as store:
            if away:
                assert store["c"].get("n") == found["read"]
            line.set(max_connections=None)
            wait_direct(store)
            store["c"].put("later", 1)
            soon(lambda: not store.health().problems, within_s=30.0)
    found["counted"] = on_primary(url, "c")["n"]["x"] - 1
    return found


def under_a_quota(url: str, data_dir: Path) -> Any:
    """A store that is opened where no file can grow, although the disk does not say so."""
    for _ in range(2):
        with standfast.open(url, data_dir=data_dir) as store:
            wait_direct(store)
            store["c"].put("n", 1)
    reserve.free_bytes = lambda _: None
    with full(data_dir), standfast.open(url, data_dir=data_dir) as store:
        wait_direct(store)
        return {"read": store["c"].get("n"), "local": store["c"].get("n", consistency="local")}


def killed_on_the_reserve(url: str, data_dir: Path, *, away: bool) -> Any:
    """Stores that are opened on a full disk, one after the other, each killed with -9 there."""
    found: dict[str, Any] = {"acknowledged": 0, "opened": []}
    with Far.to(url) as line:
        for _ in range(2):
            with standfast.open(line.url(url), data_dir=data_dir) as store:
                wait_direct(store)
                store["c"].put("n", {"x": 1})
        line.set(max_connections=0)
        line.cut()
        with standfast.open(line.url(url), data_dir=data_dir, deadline_s=0.3) as store:
            for number in range(40):  # a log that is longer than the file
                store["c"].put("grown", {"x": number, "pad": "x" * 1000})
            store["c"].increment("n", "/x")
        if not away:
            line.set(max_connections=None)
        with contextlib.ExitStack() as filled:
            filled.enter_context(full(data_dir))
            for number in range(4):
                app = [sys.executable, "-m", "support.disk_app", "reserve", line.url(url)]
                done = subprocess.run(
                    [*app, str(data_dir), str(int(away))], capture_output=True, text=True
                )
                told = json.loads(done.stdout or '{"error": "nothing"}')
                found["opened"].append(told.get("error", "opened"))
                found["acknowledged"] += told.get("acknowledged", 0)
                if done.returncode != -signal.SIGKILL:
                    found["stderr"] = done.stderr
                filled.enter_context(full(data_dir, f"rest-{number}"))
        line.set(max_connections=None)
        with standfast.open(line.url(url), data_dir=data_dir) as store:
            wait_direct(store)
    found["counted"] = on_primary(url, "c")["n"]["x"] - 2
    found["grown"] = on_primary(url, "c")["grown"]["x"]
    return found


def dies_on_the_reserve(url: str, data_dir: Path, *, away: bool) -> None:
    """One of these: says what it reads and what was acknowledged, and is killed."""
    told: dict[str, Any] = {"acknowledged": 0}
    try:
        store = standfast.open(url, data_dir=data_dir, deadline_s=0.3 if away else 5.0)
        if not away:
            wait_direct(store)
        assert store["c"].get("grown")["x"] == 39
        for _ in range(10):
            with contextlib.suppress(StandfastError):
                store["c"].increment("n", "/x")
                told["acknowledged"] += 1
    except StandfastError as error:
        told["error"] = f"{error.code}: {error}"
    print(json.dumps(told), flush=True)  # noqa: T201 - a program
    os.kill(os.getpid(), signal.SIGKILL)


def without_reserve(url: str, data_dir: Path) -> Any:
    """An outage on a disk without a free byte, and somebody has removed the reserve."""
    with Far.to(url) as line:
        for _ in range(2):
            with standfast.open(line.url(url), data_dir=data_dir) as store:
                wait_direct(store)
                store["c"].put("k", 1)
        line.set(max_connections=0)
        line.cut()
        with standfast.open(line.url(url), data_dir=data_dir, deadline_s=0.3) as store:
            store["c"].put("pending", 2)
        (data_dir / reserve.FILE).unlink()
        with full(data_dir):
            store = standfast.open(line.url(url), data_dir=data_dir, deadline_s=0.3)
            read = [store["c"].get(key) for key in ("k", "pending")]
            problems = store.health().problems
            try:
                store["c"].put("k", 3)
            except StandfastError as error:
                refused = error.code
        soon(lambda: "locked" not in str(store.health().problems), within_s=8.0)
        mirrored = look(data_dir).mirrored  # as another process: it is not alone any more
        line.set(max_connections=None)
        wait_direct(store)
        store.close()
    found = on_primary(url, "c")
    return {
        "read": read,
        "problems": problems,
        "refused": refused,
        "mirrored": mirrored,
        "found": found,
    }


def embedded(url: str, data_dir: Path) -> Any:
    """A store on SQLite alone, on a disk without a free byte, opened twice."""
    url = f"sqlite:///{data_dir / 'bot.db'}"
    told: dict[str, Any] = {"codes": []}
    with standfast.open(url, data_dir=data_dir) as store:
        store["c"].put_many({str(number): "x" * 1000 for number in range(250)})
    with contextlib.ExitStack() as filled:
        for life in range(2):
            filled.enter_context(full(data_dir, f"filler-{life}"))
            with standfast.open(url, data_dir=data_dir) as store:
                told["read"] = [
                    store["c"].get("0"),
                    store["c"].count(),
                    len(list(store["c"].items())),
                ]
                try:
                    store["c"].put("large", "y" * 300_000)
                except StandfastError as error:
                    told["codes"].append(error.code)
                for number in range(20):
                    store["c"].delete(str(100 + 20 * life + number))
                told["problems"] = store.health().problems
    with standfast.open(url, data_dir=data_dir) as store:
        told["kept"] = sorted(map(int, store["c"].keys()))
        store["c"].put("large", "y" * 300_000)
        told["healthy"] = store.health().healthy
    return told


class Ledger:
    """What was acknowledged of each key, and whether reads have ever shown anything older."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.tried: dict[str, int] = {}
        self.old: list[str] = []
        self.refused = 0
        self.acknowledged = 0

    def write(self, store: Store, key: str) -> bool:
        """Put a higher number, and read it; whether it was acknowledged."""
        number = self.tried[key] = self.tried.get(key, 0) + 1
        try:
            store["c"].put(key, number)
        except StandfastError:
            done = False
            self.refused += 1
        else:
            done = True
            self.note(key, number)
        with contextlib.suppress(StandfastError):
            self.judge(key, store["c"].get(key, 0))
        return done

    def note(self, key: str, number: int) -> None:
        self.last[key] = number
        self.acknowledged += 1

    def judge(self, key: str, found: int, *, where: str = "read") -> None:
        """Not older than the last acknowledged one, and no number that nobody wrote."""
        if not self.last.get(key, 0) <= found <= self.tried[key]:
            self.old.append(f"{where}: {key} is {found}, acknowledged was {self.last.get(key)}")


KEYS = ("a", "b", "c")


def killed_app(url: str, data_dir: Path, phase: str) -> None:
    """The first life: fills the disk, and is killed; prints what is acknowledged."""
    store = standfast.open(url, data_dir=data_dir, deadline_s=0.3)
    if phase in ("healthy", "drain"):
        with contextlib.suppress(AssertionError):
            wait_direct(store, within_s=3.0 if phase == "healthy" else 0.5)
    lock = apsw.Connection(str(data_dir / "journal.db"))
    if phase == "spool":
        lock.execute("BEGIN IMMEDIATE")
    filling = full(data_dir)  # for good: nothing but its own end frees the disk
    for number in range(60):
        if number == 20:
            filling.__enter__()
        key = KEYS[number % 3]
        print(json.dumps(["try", key]), flush=True)  # noqa: T201
        with contextlib.suppress(StandfastError):
            store["c"].put(key, int(sys.argv[5]) + number // 3 + 1)
            print(json.dumps(["done", key]), flush=True)  # noqa: T201
    os.kill(os.getpid(), signal.SIGKILL)


def filled(url: str, data_dir: Path, phase: str) -> Any:
    """A disk that fills in one phase, a kill -9, a restart on the full disk, another on a free one.

    phase: healthy, outage, drain, spool.
    """
    told = Ledger()
    with Far.to(url) as line:
        with standfast.open(line.url(url), data_dir=data_dir) as store:
            wait_direct(store)
            for key in KEYS * 3:
                told.write(store, key)
            if phase != "healthy":
                line.set(max_connections=0)
                line.cut()
            if phase == "drain":
                for _ in range(100):
                    for key in KEYS:
                        told.write(store, key)
        if phase == "drain":
            line.set(max_connections=None)
        _first_life(line.url(url), data_dir, phase, told)
        filler = data_dir / "filler"
        was_full = filler.exists()
        try:
            store = standfast.open(line.url(url), data_dir=data_dir, deadline_s=0.3)
            opened_full = True
        except StandfastError:
            filler.unlink()
            opened_full = False
            store = standfast.open(line.url(url), data_dir=data_dir, deadline_s=0.3)
        for key in KEYS * 5:
            told.write(store, key)
        store.close(timeout_s=0)
        filler.unlink(missing_ok=True)
        with standfast.open(line.url(url), data_dir=data_dir) as store:
            for key in KEYS * 2:
                told.write(store, key)
            line.set(max_connections=None)
            wait_direct(store)
            for key in KEYS:
                told.judge(key, store["c"].get(key), where="in the end")
    found = on_primary(url, "c")
    for key in KEYS:
        told.judge(key, found[key], where="on the primary")
    return {
        "old": told.old,
        "acknowledged": told.acknowledged,
        "refused": told.refused,
        "was_full": was_full,
        "opened_full": opened_full,
    }


def _first_life(url: str, data_dir: Path, phase: str, told: Ledger) -> None:
    base = max(told.tried.values())
    told.tried = dict.fromkeys(KEYS, base)
    app = [sys.executable, "-m", "support.disk_app", "killed", url, str(data_dir), phase, str(base)]
    done = subprocess.run(app, capture_output=True, text=True, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for line in done.stdout.splitlines():
        what, key = json.loads(line)
        if what == "try":
            told.tried[key] += 1
        else:
            told.note(key, told.tried[key])


PHASES = ("healthy", "outage", "drain", "spool")
PARTS: dict[str, Callable[[str, Path], Any]] = {
    "stale_mirror": stale_mirror,
    "forgetting": forgetting,
    "restarted": partial(restarted, away=False),
    "killed_away": partial(killed_on_the_reserve, away=True),
    "killed_near": partial(killed_on_the_reserve, away=False),
    "under_a_quota": under_a_quota,
    "without_reserve": without_reserve,
    "embedded": embedded,
    "restarted_away": partial(restarted, away=True),
    **{phase: partial(filled, phase=phase) for phase in PHASES},
}

if __name__ == "__main__" and sys.argv[1] == "killed":
    killed_app(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
elif __name__ == "__main__" and sys.argv[1] == "reserve":
    dies_on_the_reserve(sys.argv[2], Path(sys.argv[3]), away=sys.argv[4] == "1")
elif __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))))  # noqa: T201 - a program
