"""Lost replies, cuts, locks and refusals at random: what is acknowledged is applied, or in the
conflicts, and outcomes are true (P3, R18, R21)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psycopg
import pytest

import standfast
from standfast import Receipt, StandfastError
from standfast.api.sync import Store
from support import backends
from support.cluster import Cluster
from support.hold import on_primary, wait_direct
from support.pg import Sql
from support.proxy import Proxy

PLACES = ("a", "b", "c")


class Schedule:
    """One round on a collection of its own: writes in one batch, a fault, a lock."""

    def __init__(self, store: Store, proxy: Proxy, url: str, seed: int) -> None:
        self.store, self.proxy, self.url = store, proxy, url
        self.random = random.Random(seed)
        self.name = f"t{seed}"
        self.asked = 0
        self.acknowledged: dict[str, Any] = {}
        self.unknown: set[str] = set()

    def run(self) -> None:
        """Write, let things go wrong, heal, and check."""
        c = self.store[self.name]
        c.put_many({key: {"n": 0} for key in PLACES} | {key: [] for key in ("list", "first")})
        with Sql(self.url) as others, Sql(self.url) as locker:
            others("SET lock_timeout = '100ms'")
            locker("SET lock_timeout = '300ms'")
            asyncio.run(self._play(others, locker))
        wait_direct(self.store)
        self._check()

    async def _play(self, others: Sql, locker: Sql) -> None:
        proxy, rand = self.proxy, self.random
        c = self.store.as_async()[self.name]
        # While the writer waits for this one, the others come into one batch.
        fired = proxy.fired["hold_commit"]
        proxy.hold_commits(1)
        tasks = [asyncio.ensure_future(self._write("first", c.put("first", ["first"])))]
        await asyncio.to_thread(proxy.wait_fired, "hold_commit", fired + 1)
        for number in range(rand.randint(2, 8)):
            tasks.append(asyncio.ensure_future(self._write(*self._call(c, number, others))))
        await asyncio.sleep(0.03)
        fault = rand.choice(
            [
                *[lambda: proxy.drop_commit_replies(rand.randint(1, 2))] * 3,
                lambda: proxy.reset_before_commits(1),
                proxy.cut,
                lambda: None,
            ]
        )
        fault()
        proxy.delay(rand.choice([0, 0, 15]))
        proxy.thaw()
        await asyncio.sleep(rand.choice([0, 0.01, 0.05]))
        await asyncio.to_thread(self._lock, locker)
        if rand.random() < 0.3:
            proxy.cut()
        held = asyncio.ensure_future(asyncio.sleep(rand.choice([0, 0.05, 0.3, 0.6])))
        held.add_done_callback(lambda _: locker("ROLLBACK"))
        await asyncio.gather(*tasks, held)
        proxy.delay(0)
        proxy.disarm()
        proxy.heal(held="thaw")

    def _lock(self, locker: Sql) -> None:
        locker("BEGIN")
        place = self.random.choice([*PLACES, "list", "first"])
        with contextlib.suppress(psycopg.Error):
            locker(f"SELECT 1 FROM {self.name} WHERE key = '{place}' FOR UPDATE")

    def _call(self, c: Any, number: int, others: Sql) -> tuple[str, Coroutine[Any, Any, Any]]:
        place, token = self.random.choice(PLACES), f"token{number}"
        refuses = [self.random.random() < 0.6]

        def change(value: dict[str, int]) -> dict[str, int]:
            if refuses.pop() if refuses else False:
                with contextlib.suppress(psycopg.Error):
                    others(
                        f"UPDATE {self.name} SET data = data || '{{\"other{number}\": 1}}'"
                        f" WHERE key = '{place}'"
                    )
            return value | {token: 1}

        calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: c.update(place, change),
            lambda: c.update(place, change),
            lambda: c.patch(place, {token: 1}),
            lambda: c.append("list", "", token),
            lambda: self._batch(place, token),
        ]
        return token, self.random.choice(calls)()

    async def _batch(self, place: str, token: str) -> None:
        async with self.store.as_async().batch() as batch:
            batch.patch(self.name, place, {token: 1})
            batch.append(self.name, "list", "", token)

    async def _write(self, token: str, call: Coroutine[Any, Any, Any]) -> None:
        try:
            self.acknowledged[token] = await call
        except StandfastError:
            self.unknown.add(token)

    def _check(self) -> None:
        found = on_primary(self.url, self.name)
        with backends.looking(self.url) as connection:
            records: list[Any] = connection.execute(
                "SELECT mine FROM standfast.conflicts WHERE collection = %s", [self.name]
            ).fetchall()
        conflicts = [record[0] or "" for record in records]
        values = [found[place] for place in PLACES]
        for token in [*self.acknowledged, *self.unknown]:
            lists = found["list"].count(token) + found["first"].count(token)
            assert lists <= 1, f"{self.name}: {token} twice: {found}"
            there = lists + sum(token in value for value in values)
            recorded = any(f'"{token}"' in text for text in conflicts)
            if token in self.acknowledged:
                assert there or recorded, f"{self.name}: {token} is lost: {found} {conflicts}"
            receipt = self.acknowledged.get(token)
            if isinstance(receipt, Receipt):
                state = self.store.outcome(receipt).state
                true = bool(there) if state in ("applied", "merged") else recorded
                assert true, f"{self.name}: {token} is said to be {state}: {found} {conflicts}"


def run_schedules(cluster: Cluster, url: str, folder: Path, seeds: range) -> None:
    with (
        Proxy(cluster.port) as proxy,
        standfast.open(proxy.url(url), data_dir=folder / "data", deadline_s=1.0) as store,
    ):
        wait_direct(store)
        for seed in seeds:
            Schedule(store, proxy, url, seed).run()


def test_schedules(pg_cluster: Cluster, pg_database: str, tmp_path: Path) -> None:
    """I2, R18: five schedules of lost replies, cuts, locks and refusals lose nothing, double
    nothing, and report the truth."""
    run_schedules(pg_cluster, pg_database, tmp_path, range(5))


@pytest.mark.slow
def test_many_schedules(pg_cluster: Cluster, pg_database: str, tmp_path: Path) -> None:
    """The same for 200 of them."""
    run_schedules(pg_cluster, pg_database, tmp_path, range(100, 300))
