"""Data directories that exist twice, processes that fork, and databases that are not the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import holdfast
from chaos.world import final_state
from holdfast.engine.core import Engine
from holdfast.store import Store
from support.cluster import Cluster
from support.faulty import eventually
from support.outage import Outage
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
        self.store = holdfast.open(
            self.proxy.url(self.url), data_dir=self.data_dir, deadline_s=_DEADLINE_S
        )
        return self.store

    def back(self) -> None:
        """The server is reached again, and everything pending is on it."""
        assert self.store is not None
        self.proxy.heal()
        self.store.flush(timeout_s=_FLUSH_S)
        eventually(self.store.health().healthy.__bool__) if False else None
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
        assert final_state(self.url, []).ledger == []

    def end(self) -> None:
        for box in self._boxes:
            box.end()


@pytest.fixture
def machines(
    mortal_cluster: Cluster, mortal_url: str, tmp_path: Path
) -> Generator[Machines]:
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
