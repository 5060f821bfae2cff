"""A failover to a standby that had not received the last commits (R13 to R16, I10)."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

import standfast
from standfast.api.sync import Store
from support import backends
from support.cluster import Cluster
from support.far import Far
from support.hold import conflicts, is_direct, on_primary, soon, wait_direct
from support.outage_points import FAILOVER
from support.pg import Sql


@pytest.fixture(scope="module")
def failing_cluster() -> Iterator[Cluster]:
    """A server that these tests replace by its standby; each leaves it running."""
    with Cluster() as cluster:
        yield cluster


class Failover:
    """A server, a line to it, and a standby that is as old as the last `copy`."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        name = f"f_{secrets.token_hex(6)}"
        with backends.looking(cluster.url()) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        self.cluster = cluster
        self.near_url = cluster.url(name)
        self.line = stack.enter_context(Far.to(self.near_url))
        self.url = self.line.url(self.near_url)

    def copy(self) -> None:
        """What the standby has: all that is committed now, and nothing later."""
        self.cluster.stop()
        shutil.rmtree(self.cluster.root / "standby", ignore_errors=True)
        self._move("cp", "-a", self.cluster.data, self.cluster.root / "standby")
        self.cluster.start()

    def fail_over(self) -> None:
        """The server is lost, and its standby promoted; the line stays down."""
        self.line.set(max_connections=0)
        self.line.cut()
        self.cluster.kill()
        shutil.rmtree(self.cluster.data)
        self._move("mv", self.cluster.root / "standby", self.cluster.data)
        (self.cluster.data / "standby.signal").touch()
        self.cluster.start()
        with backends.looking(self.cluster.url()) as connection:
            connection.execute("SELECT pg_promote()")

    def connect(self) -> None:
        """The line leads to the new primary."""
        self.line.set(max_connections=None)

    def _move(self, *command: str | Path) -> None:
        subprocess.run(command, check=True)


@pytest.fixture
def failover(failing_cluster: Cluster) -> Iterator[Failover]:
    """One database on the server that fails."""
    with ExitStack() as stack:
        yield Failover(failing_cluster, stack)


def prepare(store: Store) -> None:
    """What the standby has."""
    c = store["c"]
    c.put_many({"put": 1, "contested": 1, "gone": 1, "updated": {"n": 1}})
    c.put_many({"list": [1], "number": 1, "theirs": [1], "twice": 1})


def write(store: Store) -> None:
    """What it has not."""
    c = store["c"]
    assert c.put("put", 2).durable_on == "primary"
    c.put("new", 2)
    c.put("contested", 2)
    c.delete("gone")
    c.append("list", "", 2)
    c.increment("number", "", 2)
    c.append("theirs", "", 2)
    c.update("updated", lambda value: value | {"m": 2})
    c.put("twice", 2)
    c.append("list", "", 3)
    c.put("twice", 3)
    with store.batch() as batch:
        batch.put("c", "batch1", 2)
        batch.put("c", "batch2", 2)


EXPECTED: dict[str, Any] = {
    "put": 2,
    "new": 2,
    "contested": "others",
    "updated": {"n": 1, "m": 2},
    "list": [1, 2, 3],
    "number": 3,
    "theirs": [1, "others", 2],
    "twice": 3,
    "batch1": 2,
    "batch2": 2,
}


@pytest.mark.parametrize("app", [pytest.param("stopped", marks=pytest.mark.slow), "running"])
def test_what_a_failover_lost_is_sent_again(
    failover: Failover, tmp_path: Path, app: str, caplog: pytest.LogCaptureFixture
) -> None:
    """R13-R16: confirmed writes that a failover lost are applied again once, in order; where
    others have written since, replacements yield, and are in the conflicts; it is reported."""
    data_dir = tmp_path / "data"
    store = standfast.open(failover.url, data_dir=data_dir)
    try:
        wait_direct(store)
        prepare(store)
        failover.copy()
        wait_direct(store)
        write(store)
        if app == "stopped":
            store.close()
        failover.fail_over()
        if app == "running":
            assert store["c"].put("outage", 1).durable_on == "journal"
        with Sql(failover.near_url) as others:
            others("UPDATE c SET data = '\"others\"' WHERE key = 'contested'")
            others("UPDATE c SET data = '[1, \"others\"]' WHERE key = 'theirs'")
        failover.connect()
        if app == "stopped":
            store = standfast.open(failover.url, data_dir=data_dir)
        wait_direct(store)
        expected = EXPECTED | ({"outage": 1} if app == "running" else {})
        assert on_primary(failover.near_url, "c") == expected
        assert conflicts(failover.near_url) == [("c", "contested", "time_travel")]
        assert {key: store["c"].get(key, consistency="local") for key in EXPECTED} == EXPECTED
        assert store["c"].put("later", 1).durable_on == "primary"
        assert "time_travel" in caplog.text
    finally:
        store.close()
    with standfast.open(failover.url, data_dir=data_dir) as store:
        wait_direct(store)
        assert on_primary(failover.near_url, "c") == expected | {"later": 1}


def test_whoever_wants_to_be_asked_is(failover: Failover, tmp_path: Path) -> None:
    """R15: with `on_time_travel="hold"` nothing that a failover lost is sent again by itself; it is
    saved in a file, and what is pending waits for `doctor --adopt`."""
    data_dir = tmp_path / "data"
    with standfast.open(failover.url, data_dir=data_dir, on_time_travel="hold") as store:
        wait_direct(store)
        prepare(store)
        failover.copy()
        wait_direct(store)
        write(store)
        failover.fail_over()
        assert store["c"].put("outage", 1).durable_on == "journal"
        failover.connect()
        soon(lambda: "went_back" in store.health().cause, within_s=20)
        assert not is_direct(store)
        assert on_primary(failover.near_url, "c")["put"] == 1
        assert list(data_dir.glob("undone-*.jsonl"))


_OPEN = """
import sys, time, standfast
with standfast.open(sys.argv[1], data_dir=sys.argv[2]) as store:
    time.sleep(30)
"""


@pytest.mark.slow
def test_a_kill_while_writes_are_regained(failover: Failover, tmp_path: Path) -> None:
    """R13-R16, I2: killed at each step of it, what a failover lost is applied once in the end."""
    data_dir = tmp_path / "data"
    with standfast.open(failover.url, data_dir=data_dir) as store:
        wait_direct(store)
        prepare(store)
        failover.copy()
        wait_direct(store)
        write(store)
    failover.fail_over()
    failover.connect()
    for step in sorted(FAILOVER):
        done = subprocess.run(
            [sys.executable, "-c", _OPEN, failover.url, str(data_dir)],
            env=os.environ | {"STANDFAST_FAILPOINT": step},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == -signal.SIGKILL, (step, done.stderr)
    with standfast.open(failover.url, data_dir=data_dir) as store:
        wait_direct(store)
    alone = EXPECTED | {"contested": 2, "theirs": [1, 2]}
    assert on_primary(failover.near_url, "c") == alone
    assert conflicts(failover.near_url) == []
