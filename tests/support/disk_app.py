"""An app on a disk of 8 MB that fills up: `python -m support.disk_app PART URL DATA_DIR`.

The disk is a file system in memory in a mount namespace of the app's own.  It prints one line of
JSON: what became of its part.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import standfast
from standfast import StandfastError
from support.far import Far
from support.hold import wait_direct

_MOUNT = 'mkdir -p "$1"; mount -t tmpfs -o size=8m standfast "$1"; shift; exec "$@"'


def play(part: str, url: str, data_dir: Path) -> Any:
    """Run a part on a small disk at `data_dir`; what it printed."""
    app = [sys.executable, "-m", "support.disk_app", part, url, str(data_dir)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", _MOUNT, "sh", str(data_dir), *app],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def full(data_dir: Path) -> Iterator[None]:
    """No byte is free inside the block."""
    filler = data_dir / "filler"
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


PARTS: dict[str, Callable[[str, Path], Any]] = {
    "stale_mirror": stale_mirror,
    "forgetting": forgetting,
}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))))  # noqa: T201 - a program
