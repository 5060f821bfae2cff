"""The adapters against the contracts of the libraries: `make adapters`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiogram.fsm.state import State
from aiogram.fsm.storage.base import StorageKey
from aiogram_storage import StandfastStorage as AiogramStorage
from key_value_store import StandfastStore
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph_saver import StandfastSaver
from tinydb import TinyDB, where
from tinydb_storage import StandfastStorage as TinyStorage

import standfast
from standfast.testing import outage
from support.cluster import Cluster


def conform(saver: Callable[[], AsyncIterator[StandfastSaver]]) -> None:
    """Every capability of the conformance suite is there and passes, and none is skipped."""
    report = asyncio.run(validate(checkpointer_test("standfast")(saver)))
    failed = {
        name: [str(failure) for failure in result.failures]
        for name, result in report.results.items()
        if result.passed is not True
    }
    assert failed == {}
    assert sum(result.tests_skipped for result in report.results.values()) == 0


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgresql"])
def test_langgraph_conformance(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each capability gets a saver of its own."""
    numbers = itertools.count()
    server = request.getfixturevalue("database") if kind == "postgresql" else "memory://"

    async def saver() -> AsyncIterator[StandfastSaver]:
        number = next(numbers)
        url = f"sqlite:///{tmp_path}/{number}.db" if kind == "sqlite" else server
        async with standfast.open_async(url, data_dir=tmp_path / str(number)) as store:
            yield StandfastSaver(store, f"checkpoints_{number}")

    conform(saver)


class Killing(StandfastSaver):
    """A saver whose server is killed while the third checkpoint is being stored."""

    cluster: Cluster
    puts = 0

    async def aput(self, *args: Any) -> Any:
        self.puts += 1
        if self.puts == 3:
            self.cluster.kill()
        return await super().aput(*args)


def test_langgraph_conformance_while_the_server_is_killed(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    """Each capability passes although its server is killed in the middle of it; afterwards
    everything that was stored is on the server."""
    told: dict[str, dict[str, Any]] = {}

    async def saver() -> AsyncIterator[StandfastSaver]:
        name = f"checkpoints_{len(told)}"
        if not cluster.running:
            cluster.start()
        async with standfast.open_async(
            database, data_dir=tmp_path / name, sole_writer=True
        ) as store:
            await store.create_index(name)
            assert [key async for key in store[name]] == []  # read whole: so it is known whole
            killing = Killing(store, name)
            killing.cluster = cluster
            yield killing
            told[name] = {key: value async for key, value in store[name].items()}
            assert (await store.health()).state == ("journaling" if killing.puts > 2 else "direct")

    conform(saver)
    if not cluster.running:
        cluster.start()
    for name, wanted in told.items():
        with standfast.open(database, data_dir=tmp_path / name) as store:
            store.flush(timeout_s=30)
            assert dict(store[name].items()) == wanted
            assert store.health().conflicts == {}
    assert any(told.values())


def test_a_thread_goes_on_in_an_outage(async_store: standfast.AsyncStore) -> None:
    """Checkpoints that are stored while the database is away are the ones that are read."""
    store = async_store

    async def main() -> list[str]:
        saver = StandfastSaver(store)
        config: Any = {"configurable": {"thread_id": "t/1", "checkpoint_ns": ""}}

        async def step(number: int) -> None:
            nonlocal config
            checkpoint: Any = {"v": 1, "id": f"{number:04}", "ts": "", "channel_values": {}}
            checkpoint |= {"channel_versions": {}, "versions_seen": {}}
            config = await saver.aput(config, checkpoint, {"step": number}, {})
            await saver.aput_writes(config, [("c", number)], "task")

        await step(1)
        with outage(store):
            await step(2)
            found = await saver.aget_tuple({"configurable": {"thread_id": "t/1"}})
            assert found is not None
            assert found.pending_writes == [("task", "c", 2)]
        thread: Any = {"configurable": {"thread_id": "t/1"}}
        return [each.checkpoint["id"] async for each in saver.alist(thread)]

    assert asyncio.run(main()) == ["0002", "0001"]


def test_aiogram(async_store: standfast.AsyncStore) -> None:
    """State and data are kept apart, per conversation, also during an outage."""
    store = async_store

    async def main() -> None:
        storage = AiogramStorage(store, ttl_s=60)
        key, other = StorageKey(1, 2, 3), StorageKey(1, 2, 3, destiny="other")
        assert (await storage.get_state(key), await storage.get_data(key)) == (None, {})
        await storage.set_state(key, State("name", "Form"))
        assert await storage.get_state(key) == "Form:name"
        await storage.set_data(key, {"a": 1})
        with outage(store):
            assert await storage.update_data(key, {"b": 2}) == {"a": 1, "b": 2}
            await storage.set_state(key)
        assert (await storage.get_state(key), await storage.get_value(key, "b")) == (None, 2)
        await storage.set_data(other, {"x": 1})
        assert await storage.get_data(key) == {"a": 1, "b": 2}
        document = await store["aiogram_fsm"].first()
        assert document is not None
        assert document.expires_at is not None

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore:.*")
def test_py_key_value(async_store: standfast.AsyncStore) -> None:
    """The calls of the base classes, with odd names, and expiry."""

    async def main() -> None:
        store = StandfastStore(async_store)
        await store.put("k/1", {"n": 1}, collection="a/b")
        await store.put("k", {"n": 2}, collection="a", ttl=60)
        assert await store.get("k/1", collection="a/b") == {"n": 1}
        value, ttl = await store.ttl("k", collection="a")
        assert value == {"n": 2}
        assert ttl is not None
        assert 50 < ttl <= 60
        assert await store.get_many(["k", "x"], collection="a") == [{"n": 2}, None]
        with outage(async_store):
            await store.put("k2", {"n": 3}, collection="a")
            assert await store.get("k2", collection="a") == {"n": 3}
            assert await store.delete("k2", collection="a") is True
        assert await store.keys(collection="a") == ["k"]
        assert await store.delete("k", collection="a") is True
        assert await store.delete("k", collection="a") is False
        assert await store.destroy_collection("a/b") is True
        assert await store.get("k/1", collection="a/b") is None

    asyncio.run(main())


def test_tinydb(store: standfast.Store) -> None:
    """Documents are inserted, found, updated and removed; a second database sees them."""
    db = TinyDB(storage=TinyStorage, store=store)
    players = db.table("players")
    players.insert_multiple({"name": name, "xp": xp} for name, xp in (("ann", 1), ("bob", 2)))
    assert len(players.all()) == 2
    with outage(store):
        players.update({"xp": 5}, where("name") == "ann")
        players.insert({"name": "eve"})
        assert players.count(where("xp") == 5) == 1
    players.remove(where("name") == "eve")
    players.remove(where("name") == "bob")
    again = TinyDB(storage=TinyStorage, store=store).table("players")
    assert again.all() == [{"name": "ann", "xp": 5}]
    assert store["tinydb"].get("players/1") == {"name": "ann", "xp": 5}
    db.drop_tables()
    assert store["tinydb"].count() == 0
