"""Data directories that exist twice, processes that fork, and databases that are not the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import psycopg
import pytest

import standfast
from chaos.world import final_state
from standfast.api.sync import Store
from support.cluster import Cluster
from support.faulty import eventually
from support.outage import Outage
from support.pg import Sql
from support.proxy import Proxy

_DEADLINE_S = 3.0
_FLUSH_S = 20.0


class Box:
    """One machine: a data directory, and a way of its own to the server."""

    def __init__(self, cluster: Cluster, url: str, data_dir: Path) -> None:
        self.url = url
        self.data_dir = data_dir
        self.proxy = Proxy(cluster.port)
        self.store: Store | None = None

    def open(self, *, away: bool = False) -> Store:
        if away:
            self.proxy.refuse()
        self.store = standfast.open(
            self.proxy.url(self.url), data_dir=self.data_dir, deadline_s=_DEADLINE_S
        )
        return self.store

    def back(self) -> None:
        """The server is reached again, and everything pending is on it."""
        assert self.store is not None
        self.proxy.heal()
        self.store.flush(timeout_s=_FLUSH_S)
        store = self.store
        eventually(lambda: store.health().healthy)

    def close(self) -> None:
        if self.store is not None:
            self.store.close(timeout_s=0)
        self.store = None

    def end(self) -> None:
        self.close()
        self.proxy.close()


class Machines:
    """Boxes on one database, and what was acknowledged on any of them."""

    def __init__(self, cluster: Cluster, url: str, folder: Path) -> None:
        self.cluster = cluster
        self.url = url
        self.folder = folder
        self.total = 0
        self.tokens: list[str] = []
        self._boxes: list[Box] = []

    def box(self, name: str) -> Box:
        self._boxes.append(Box(self.cluster, self.url, self.folder / name))
        return self._boxes[-1]

    def write(self, store: Store, *, times: int = 3) -> None:
        """Acknowledged additions, each of which would show when it is lost or doubled."""
        for _ in range(times):
            self.total += 1
            token = f"t{self.total}"
            store["counters"].increment("n", "")
            store["lists"].append("l", "", token)
            with store.batch() as batch:
                batch.append("lists", "b", "", token)
                batch.increment("counters", "b", "")
            self.tokens.append(token)

    def assert_exact(self) -> None:
        """I2: every acknowledged write once, whoever has delivered it."""
        documents = final_state(self.url, ["counters", "lists"]).documents
        assert sorted(documents["lists", "l"]) == sorted(self.tokens)
        assert sorted(documents["lists", "b"]) == sorted(self.tokens)
        assert documents["counters", "n"] == documents["counters", "b"] == self.total
        assert final_state(self.url, []).conflicts == []

    def end(self) -> None:
        for box in self._boxes:
            box.end()


@pytest.fixture
def machines(mortal_cluster: Cluster, mortal_url: str, tmp_path: Path) -> Generator[Machines]:
    machines = Machines(mortal_cluster, mortal_url, tmp_path)
    yield machines
    machines.end()


def copied(source: Box, target: Box) -> None:
    """`cp -a` of a data directory."""
    shutil.copytree(source.data_dir, target.data_dir, copy_function=shutil.copy2)


Order = Callable[[Box, Box], None]


def original_first(original: Box, copy: Box) -> None:
    original.back()
    copy.back()


def copy_first(original: Box, copy: Box) -> None:
    copy.back()
    original.back()


def both_at_once(original: Box, copy: Box) -> None:
    original.proxy.heal()
    copy.proxy.heal()
    original_first(original, copy)


@pytest.mark.parametrize("order", [original_first, copy_first, both_at_once])
def test_a_living_directory_is_copied(machines: Machines, order: Order) -> None:
    """I2, R1: a directory that is copied while its process lives and has writes pending: original
    and copy both go on writing and both drain; nothing is swallowed, nothing arrives twice."""
    original, copy = machines.box("data"), machines.box("copy")
    store = original.open()
    machines.write(store)
    original.proxy.refuse()
    machines.write(store)
    copied(original, copy)
    machines.write(store)
    second = copy.open(away=True)
    machines.write(second)
    order(original, copy)
    machines.assert_exact()
    machines.write(store)
    machines.write(second)
    machines.assert_exact()


@pytest.mark.parametrize("order", [original_first, copy_first])
def test_a_copy_meets_a_locked_row(machines: Machines, order: Order) -> None:
    """I2, R1: the same where one of the two meets a locked row first, closes the lane because of
    it, and goes on under fresh ones: the other one finds what that delivered, and no more."""
    original, copy = machines.box("data"), machines.box("copy")
    store = original.open()
    machines.write(store)
    original.proxy.refuse()
    machines.write(store)
    copied(original, copy)
    copy.open(away=True)
    first = original if order is original_first else copy
    with psycopg.connect(machines.url) as connection:
        connection.execute("SELECT FROM lists WHERE key = 'b' FOR UPDATE")
        first.proxy.heal()
        assert first.store is not None
        health = first.store.health
        eventually(lambda: health().state == "direct")
        assert health().lag_ops
    order(original, copy)
    machines.assert_exact()


@pytest.mark.parametrize("killed", [False, True])
def test_an_old_copy_is_put_back(machines: Machines, killed: bool) -> None:
    """I2, R1: a snapshot with writes pending that is put back over a directory which has delivered
    them since, under the same lane or another: nothing arrives twice."""
    box, snapshot = machines.box("data"), machines.box("snapshot")
    store = box.open()
    machines.write(store)
    box.proxy.refuse()
    machines.write(store)
    if killed:  # its lane is closed by the next process, which goes on under another one
        box.close()
    copied(box, snapshot)
    if killed:
        store = box.open()
    box.back()
    machines.write(store)
    box.close()
    machines.assert_exact()
    shutil.rmtree(box.data_dir)
    copied(snapshot, box)
    store = box.open()
    box.back()
    machines.assert_exact()
    machines.write(store)
    machines.assert_exact()


# ---- forks

#: Parent and child write under the same store object; each tells its lanes.
_FORKING = """
import os, sys, standfast
store = standfast.open(sys.argv[1], data_dir=sys.argv[2], deadline_s=3.0)
store["counters"].increment("n", "")
lanes = [store.health().lane]
pid = os.fork()
lanes.append(store["counters"].put(f"own-{pid == 0}", 1).lane)
for _ in range(20):
    store["counters"].increment("n", "")
if sys.argv[3] == "parent dies" and pid:
    print(*lanes, flush=True)
    os.kill(os.getpid(), 9)
if sys.argv[3] == "parent dies":
    while os.getppid() == int(sys.argv[4]):
        pass
store["counters"].increment("n", "")
print(*lanes, flush=True)
store.close()
if pid:
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("ending", ["both close", "parent dies"])
def test_a_forked_child_has_a_lane_of_its_own(
    machines: Machines, tmp_path: Path, ending: str
) -> None:
    """R1, I2: a forked child goes on under a fresh lane in the same directory; what either of them
    writes is there once, also when the parent is killed and the next process clears up after it."""
    box = machines.box("data")
    forking = [sys.executable, "-c", _FORKING, box.proxy.url(box.url), str(box.data_dir), ending]
    with subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@" $$', "sh", *forking],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    ) as process:
        assert process.stdout is not None
        told = [line.split() for line in process.stdout.read().splitlines()]
    (first, own), (same, other) = sorted(told, key=lambda lanes: lanes[0] != lanes[1])
    assert (first, same) == (own, first)
    assert other != first
    store = box.open()
    box.back()
    expected = 1 + 21 + (20 if ending == "parent dies" else 21)
    assert store["counters"].get_many(["n", "own-True", "own-False"]) == {
        "n": expected,
        "own-True": 1,
        "own-False": 1,
    }
    box.close()
    with Sql(box.url) as sql:
        assert sql("SELECT lane FROM standfast.lanes WHERE state = 'open'") == []


# ---- another database


def is_empty(outage: Outage) -> bool:
    """Whether nobody has made anything in the database."""
    with Sql(outage.url) as sql:
        return not sql(
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
        )


@pytest.mark.parametrize("living", [False, True])
def test_another_database_under_the_same_address(
    mortal_url: str, tmp_path: Path, living: bool
) -> None:
    """I9: where another database answers, nothing is written; `status` says so, and it goes on
    after somebody has adopted it, with every pending write, whether the app was running or not."""
    outage = Outage(mortal_url, tmp_path)
    store = outage.store(deadline_s=_DEADLINE_S)
    store["c"].put("before", 1)
    with outage.away():
        assert store["c"].put("pending", 1).durable_on == "journal"
        store["c"].increment("n", "")  # what it makes of an unknown document, nobody can tell
        if not living:
            store.close(timeout_s=0)
    outage.replaced()
    if not living:
        store = outage.store(deadline_s=_DEADLINE_S)
    eventually(lambda: store.health().cause == "other_database")
    store["c"].increment("n", "")
    assert store["c"].get("pending") == 1
    assert is_empty(outage)
    status = outage.run("status", "--json")
    assert (status.code, json.loads(status.out)["state"]) == (1, "other_database")
    assert outage.run("doctor", "--adopt", "--yes").code == 5  # a process has it open
    assert store.close(timeout_s=0) == 3
    assert is_empty(outage)
    adopted = outage.run("doctor", "--adopt", "--yes")
    assert adopted.code in (0, 1), adopted.err  # a warning about the folder's mode is none of ours
    with outage.store(deadline_s=_DEADLINE_S) as store:
        store.flush(timeout_s=_FLUSH_S)
        assert dict(store["c"].items()) == {"pending": 1, "n": 2}
    assert outage.run("status").code == 0
