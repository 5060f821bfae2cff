"""Random schedules of writes, restores, restarts and outages (I9, I10, I12, R22, R23)."""

from __future__ import annotations

import contextlib
import random
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest
from psycopg import sql

import standfast
from standfast import Unavailable
from standfast.api.sync import Store
from support import backends
from support.cluster import Cluster
from support.hold import is_direct, on_primary, run, soon

KEYS = ("a", "b", "c")
STEPS = 14


class World:
    """A server with one backup, a directory, and what its owner may expect of each key."""

    def __init__(self, cluster: Cluster, url: str, folder: Path, seed: int) -> None:
        self.cluster, self.url, self.folder = cluster, url, folder
        self.random = random.Random(seed)
        self.count = 0
        self.saved: dict[str, int] | None = None
        self.expected: dict[str, int] = {}
        self.adopted = 0
        self.store: Store = self.open()

    def open(self) -> Store:
        return standfast.open(self.url, data_dir=self.folder, deadline_s=0.5)

    def write(self) -> None:
        """Put, and read what was acknowledged (I12)."""
        for _ in range(self.random.randint(1, 4)):
            key = self.random.choice(KEYS)
            self.count += 1
            self.store["t"].put(key, self.count)
            self.expected[key] = self.count
            assert self.store["t"].get(key) == self.count

    def restart(self) -> None:
        self.store.close(timeout_s=0)
        self.store = self.open()

    def outage(self) -> None:
        """Writes of an outage are read at once, and arrive."""
        self.cluster.stop()
        self.write()
        self.cluster.start()

    def back_up(self) -> None:
        self.settle()
        self.cluster.stop()
        backup = self.cluster.root / "backup"
        shutil.rmtree(backup, ignore_errors=True)
        subprocess.run(["cp", "-a", self.cluster.data, backup], check=True)
        self.cluster.start()
        self.saved = dict(self.expected)

    def restore(self) -> None:
        """With the app stopped or running, with or without a write in the meantime."""
        if self.saved is None:
            return
        self.settle()  # what is pending would rightly arrive afterwards
        stopped = self.random.random() < 0.5
        if stopped:
            self.store.close(timeout_s=0)
        self.cluster.stop()
        shutil.rmtree(self.cluster.data)
        subprocess.run(["cp", "-a", self.cluster.root / "backup", self.cluster.data], check=True)
        self.expected = dict(self.saved)
        if not stopped and self.random.random() < 0.5:
            self.write()
        self.cluster.start()
        if stopped:
            self.store = self.open()

    def settle(self) -> None:
        """Until it is direct; the documented way out where it is held."""
        soon(lambda: is_direct(self.store) or "went_back" in self.store.health().cause, within_s=20)
        if is_direct(self.store):
            return
        self.store.close(timeout_s=0)
        ran = run(self.url, self.folder, "doctor", "--adopt", "--yes")
        assert ran.code == 0, ran.said
        self.adopted += 1
        self.store = self.open()
        soon(lambda: is_direct(self.store), within_s=20)

    def check(self) -> None:
        """What is on the primary is what was acknowledged there last, and is read here."""
        self.settle()
        found = on_primary(self.url, "t")
        assert found == self.expected
        for key in KEYS:
            with contextlib.suppress(Unavailable):
                assert self.store["t"].get(key, consistency="local") == found.get(key)


def schedule(cluster: Cluster, folder: Path, seed: int) -> None:
    name = f"s_{secrets.token_hex(6)}"
    with backends.looking(cluster.url()) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    world = World(cluster, cluster.url(name), folder / "data", seed)
    try:
        world.write()
        world.back_up()
        for _ in range(STEPS):
            step = world.random.choice(
                [world.write, world.write, world.restart, world.outage, world.restore, world.check]
            )
            step()
        world.check()
    finally:
        world.store.close(timeout_s=0)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_restores_at_random(tmp_path: Path, seed: int) -> None:
    """I9, I10, I12, R23: through restores, restarts and outages, acknowledged writes are read, and
    arrive; what a restore undid is gone here as well."""
    with Cluster() as cluster:
        schedule(cluster, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 22))
def test_restores_at_random_for_longer(tmp_path: Path, seed: int) -> None:
    """The same for twenty more seeds."""
    with Cluster() as cluster:
        schedule(cluster, tmp_path, seed)
