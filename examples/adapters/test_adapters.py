"""The adapters against the contracts of the libraries: `make adapters`."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
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


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgresql"])
def test_langgraph_conformance(kind: str, tmp_path: Path) -> None:
    """Every capability of the conformance suite, and none is skipped."""
    urls = {"memory": "memory://", "postgresql": os.environ.get("TEST_DATABASE_URL")}
    numbers = itertools.count()
    if kind == "postgresql" and not urls[kind]:
        pytest.skip("TEST_DATABASE_URL names no PostgreSQL")

    @checkpointer_test("standfast")
    async def saver() -> AsyncIterator[Any]:
        number = next(numbers)
        url = urls.get(kind, f"sqlite:///{tmp_path}/{number}.db")
        async with standfast.open_async(url, data_dir=tmp_path / str(number)) as store:
            name = f"checkpoints_{number}"
            yield StandfastSaver(store, name)

    report = asyncio.run(validate(saver))
    failed = {
        name: [str(failure) for failure in result.failures]
        for name, result in report.results.items()
        if result.passed is not True
    }
    assert failed == {}


def test_a_thread_goes_on_in_an_outage(standfast_async_store: standfast.AsyncStore) -> None:
    """Checkpoints that are stored while the database is away are the ones that are read."""
    store = standfast_async_store

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


def test_aiogram(standfast_async_store: standfast.AsyncStore) -> None:
    """State and data are kept apart, per conversation, also during an outage."""
    store = standfast_async_store

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
def test_py_key_value(standfast_async_store: standfast.AsyncStore) -> None:
    """The calls of the base classes, with odd names, and expiry."""

    async def main() -> None:
        store = StandfastStore(standfast_async_store)
        await store.put("k/1", {"n": 1}, collection="a/b")
        await store.put("k", {"n": 2}, collection="a", ttl=60)
        assert await store.get("k/1", collection="a/b") == {"n": 1}
        value, ttl = await store.ttl("k", collection="a")
        assert value == {"n": 2}
        assert ttl is not None
        assert 50 < ttl <= 60
        assert await store.get_many(["k", "x"], collection="a") == [{"n": 2}, None]
        assert await store.keys(collection="a") == ["k"]
        assert await store.delete("k", collection="a") is True
        assert await store.delete("k", collection="a") is False
        assert await store.destroy_collection("a/b") is True
        assert await store.get("k/1", collection="a/b") is None

    asyncio.run(main())


def test_tinydb(standfast_store: standfast.Store) -> None:
    """Documents are inserted, found, updated and removed; a second database sees them."""
    db = TinyDB(storage=TinyStorage, store=standfast_store)
    players = db.table("players")
    players.insert_multiple({"name": name, "xp": xp} for name, xp in (("ann", 1), ("bob", 2)))
    with outage(standfast_store):
        pass
    players.update({"xp": 5}, where("name") == "ann")
    players.remove(where("name") == "bob")
    again = TinyDB(storage=TinyStorage, store=standfast_store).table("players")
    assert again.all() == [{"name": "ann", "xp": 5}]
    assert standfast_store["tinydb"].get("players/1") == {"name": "ann", "xp": 5}
    db.drop_tables()
    assert standfast_store["tinydb"].count() == 0
