"""The connections of a store to its primary: a bounded set, shared where it is small."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

import standfast
from standfast.errors import ConfigError
from support.cluster import Cluster
from support.faulty import eventually
from support.lines import PATIENCE_S

Count = Callable[[], int]


@pytest.fixture
def sessions(pg_cluster: Cluster) -> Iterator[Count]:
    """The number of sessions of stores."""

    def ask(statement: LiteralString) -> int:
        with psycopg.connect(pg_cluster.url(), autocommit=True) as conn:
            found = conn.execute(statement)
            return int(found.fetchall()[0][0]) if found.description else 0

    ask("DROP DATABASE IF EXISTS bounded WITH (FORCE)")
    ask("CREATE DATABASE bounded")
    yield lambda: ask(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'standfast'"
        " AND datname = 'bounded'"
    )
    ask("DROP DATABASE bounded WITH (FORCE)")


def _use(store: standfast.Store, worker: int, rounds: int) -> None:
    things = store["things"]
    for number in range(rounds):
        things.put(f"{worker}-{number}", {"n": number})
        assert things.get(f"{worker}-{number}") == {"n": number}
        things.increment("sum", "", 1)
        assert len(list(things.items(prefix=f"{worker}-"))) == number + 1
        assert things.find({"n": number})


@pytest.mark.parametrize(
    ("options", "most"), [({}, 3), *(({"max_connections": n}, n) for n in (1, 2, 5))]
)
def test_no_more_connections_than_allowed(
    options: dict[str, Any], most: int, pg_cluster: Cluster, sessions: Count, tmp_path: Path
) -> None:
    """I7: a store has at most `max_connections` to PostgreSQL, 3 by default, also under writes,
    reads and scans at once; with one of them all calls still work."""
    with (
        standfast.open(
            pg_cluster.url("bounded"), data_dir=tmp_path, deadline_s=PATIENCE_S, **options
        ) as store,
        ThreadPoolExecutor(4) as pool,
    ):
        eventually(lambda: store.health().state == "direct")
        seen = {sessions()}
        calls = [pool.submit(_use, store, worker, 5) for worker in range(4)]
        while not all(call.done() for call in calls):
            seen.add(sessions())
        for call in calls:
            call.result()
        assert store["things"].get("sum") == 20
        assert max(seen) <= most
        assert store.health().state == "direct"


def test_an_outage_on_one_connection(pg_cluster: Cluster, sessions: Count, tmp_path: Path) -> None:
    """I2: with a single connection the store journals, replays and is DIRECT again."""
    url = pg_cluster.url("bounded")
    with standfast.open(url, data_dir=tmp_path, max_connections=1) as store:
        eventually(lambda: store.health().state == "direct")
        things = store["things"]
        assert things.put("1", 1).durable_on == "primary"
        pg_cluster.stop()
        try:
            assert things.put("1", 2).durable_on == "journal"
            assert things.get("1") == 2
            for number in range(20):
                things.put(f"more-{number}", number)
        finally:
            pg_cluster.start()
        eventually(lambda: store.health().healthy)
        assert things.put("1", 3).durable_on == "primary"
        assert things.count() == 21
        assert sessions() == 1
    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT count(*), sum(data::int) FILTER (WHERE key <> '1') FROM things")
        assert row.fetchone() == (21, sum(range(20)))


def test_it_can_be_given_to_an_asynchronous_store(
    pg_cluster: Cluster, sessions: Count, tmp_path: Path
) -> None:
    """`open_async` takes `max_connections` too; less than one is a ConfigError."""

    async def use() -> None:
        url = pg_cluster.url("bounded")
        async with standfast.open_async(
            url, data_dir=tmp_path, deadline_s=PATIENCE_S, max_connections=1
        ) as store:
            things = store["things"]
            await asyncio.gather(*(things.put(str(n), n) for n in range(50)))
            assert await things.count() == 50
            assert sessions() == 1

    asyncio.run(use())
    with pytest.raises(ConfigError):
        standfast.open(pg_cluster.url("bounded"), data_dir=tmp_path / "x", max_connections=0)
