"""What the rules that live in SQL are for: a real server, and writes that hang on the wire."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.api import open_patiently
from chaos.calls import REGISTERS
from chaos.world import final_state
from standfast.api.sync import Store
from support import backends
from support.cluster import Cluster
from support.faulty import eventually
from support.leash import Leash
from support.pg import Sql
from support.proxy import Proxy

_TESTS = Path(__file__).parents[1]
_LONG_S = 60.0
_SHORT_S = 0.4


class Real:
    """A database on a server, and a proxy before it."""

    def __init__(self, cluster: Cluster, url: str, folder: Path, *, plant: str) -> None:
        self.url = url
        self.folder = folder
        self.plant = plant
        self.proxy = Proxy(cluster.port)
        self.leash = Leash()

    def close(self) -> None:
        self.proxy.close()
        self.leash.close()

    def open(self, name: str) -> Store:
        return open_patiently(self.url, self.folder / name, deadline_s=20.0)

    @contextmanager
    def held_write(
        self, name: str, *, deadline_s: float, failpoint: str = ""
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A process whose put of `old` is on the wire; at the end of the block it is delivered.

        The bug is planted in that process, too.
        """
        paths = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
        settings = {
            "PYTHONPATH": paths,
            "PLANT": self.plant,
            "PLANT_URL": self.proxy.url(self.url),
            "PLANT_DEADLINE_S": str(deadline_s),
            "PLANT_FAILPOINT": failpoint,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "support.plant_app", str(self.folder / name)],
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.leash.kill_at_end(process.pid)
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None, "it was made with pipes"
        assert stdout is not None, "it was made with pipes"
        try:
            assert stdout.readline() == b"ready\n"
            pids = [backend.pid for backend in backends.backends(self.url)]
            fired = self.proxy.fired["hold_commit"]
            self.proxy.hold_commits(1)
            stdin.write(b"go\n")
            stdin.flush()
            self.proxy.wait_fired("hold_commit", fired + 1)
            yield process
            assert process.wait(20) == -signal.SIGKILL
        finally:
            process.kill()
            process.communicate()
            self.proxy.thaw()
        for pid in pids:
            # With its client gone a backend ends when it has done all that it was sent.
            backends.wait_gone(pid)

    def overwritten(self) -> set[str]:
        """Whether the old value came over the newer one."""
        found = final_state(self.url, [REGISTERS]).documents[REGISTERS, "k"]
        return {"stale overwrite"} if found == "old" else set()


Scenario = Callable[[Real], set[str]]


def zombie_of_a_closed_lane(real: Real) -> set[str]:
    """The process is killed, the next one of its directory writes, and then its put arrives."""
    with real.held_write("data", deadline_s=_LONG_S) as process:
        process.kill()
        process.wait(20)
        with real.open("data") as store:
            assert store[REGISTERS].put("k", "newer").durable_on == "primary"
    return real.overwritten()


def zombie_after_its_deadline(real: Real) -> set[str]:
    """The caller was told that the put is in the journal, another directory writes, and then the
    statement arrives; the process that would replay it is gone."""
    with real.held_write("old", deadline_s=_SHORT_S, failpoint="journal-answered") as process:
        assert process.wait(20) == -signal.SIGKILL
        with real.open("new") as store:
            assert store[REGISTERS].put("k", "newer").durable_on == "primary"
    return real.overwritten()


def restored(real: Real) -> set[str]:
    """The database forgets the last writes, and a plain put comes."""
    with real.open("data") as store, Sql(real.url) as sql:
        for number in range(3):
            store[REGISTERS].put("k", number)
        lane = store.health().lane
        eventually(lambda: sql("SELECT 1 FROM standfast.lanes WHERE lane = %s", lane))
        sql("UPDATE standfast.lanes SET watermark = 1 WHERE lane = %s", lane)
        receipt = store[REGISTERS].put("k", "over it")
        return {"went back unnoticed"} if receipt.durable_on == "primary" else set()


SCENARIOS: dict[str, Scenario] = {
    "put-on-a-closed-lane": zombie_of_a_closed_lane,
    "put-below-the-watermark": restored,
    "no-expiry": zombie_after_its_deadline,
}


def run_on_a_server(name: str, cluster: Cluster, url: str, folder: Path, *, plant: str) -> set[str]:
    """Play the scenario of a plant; what is wrong afterwards."""
    folder.mkdir()
    real = Real(cluster, url, folder, plant=plant)
    try:
        return SCENARIOS[name](real)
    finally:
        real.close()
