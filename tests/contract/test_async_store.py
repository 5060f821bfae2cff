"""The asynchronous API: the same meaning as the blocking one, cancelled tasks, loops that end."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import standfast
from standfast import AsyncStore, DataError, Document, Receipt, StandfastError, Store
from standfast.backends.memory import MemoryBackend
from standfast.engine.embedded import EmbeddedEngine
from standfast.engine.local_state import LocalState, OutageOptions
from standfast.engine.replicated import ReplicatedEngine
from support.faulty import Link, Server, wait_direct

OpenAsync = Callable[[], AbstractAsyncContextManager[AsyncStore]]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def opening(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Callable[[], Store], OpenAsync]]:
    """How to open one database by either API."""
    if request.param == "memory":
        backend = MemoryBackend()

        @asynccontextmanager
        async def open_async() -> AsyncIterator[AsyncStore]:
            async with AsyncStore(EmbeddedEngine(backend)) as store:
                yield store

        yield lambda: Store(EmbeddedEngine(backend)), open_async
        return
    url = f"sqlite:///{tmp_path}/x.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("pg_prepared")
    options: dict[str, Any] = {"data_dir": tmp_path / "data", "deadline_s": 10.0}
    yield (
        lambda: standfast.open(url, **options),
        lambda: standfast.open_async(url, **options),  # type: ignore[return-value]
    )


#: Calls that give an iterator.
ITERATORS = ("keys", "items", "find")
# Calls on a collection, one after the other: method, arguments, options.
SCENARIO: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("get", ("1",), {"default": "none"}),
    ("read", ("1",), {}),
    ("put", (1, {"b": 1, "a": [1.5, None, "\ud800"]}), {}),
    ("read", ("1",), {}),
    ("put", ("1", 2), {"if_version": 7}),
    ("put", ("1", 2), {"if_absent": True}),
    ("put", ("1", float("nan")), {}),
    ("put", ("1", 2), {"if_version": 1, "if_absent": True}),
    ("patch", ("1", {"c": 10**30, "a": None}), {}),
    ("increment", ("1", "/b", 5), {}),
    ("increment", ("n", "", 2.5), {}),
    ("append", ("1", "/l", "x"), {}),
    ("append", ("1", "/b", "x"), {}),
    ("update", ("1", lambda value: {**value, "u": 1}), {}),
    ("update", ("none", lambda value: value), {}),
    ("update", ("new", lambda value: [*value, 1]), {"default": []}),
    ("get_or_create", ("made", [1]), {}),
    ("get_or_create", ("made", [2]), {}),
    ("put_many", ({"m1": 1, "m2": {"x": [1, 2]}, 3: "three"},), {}),
    ("get_many", (["1", "m1", 3, "none"],), {}),
    ("get", ("m2",), {"consistency": "local"}),
    ("get", ("m2",), {"consistency": "odd"}),
    ("keys", (), {"prefix": "m"}),
    ("keys", (), {"limit": 0}),
    ("keys", (), {"after": "m1", "limit": 2}),
    ("keys", (), {"reverse": True, "limit": 3}),
    ("first", (), {}),
    ("last", (), {"prefix": "m"}),
    ("exists", ("m1",), {}),
    ("put_if_absent", ("m1", 1), {}),
    ("put_if_absent", ("p", 1), {"ttl_s": True}),
    ("put_if_absent", ("p", 1), {"ttl_s": 3600}),
    ("touch", ("p", 7200), {}),
    ("touch", ("none", 7200), {}),
    ("set", ("m2", "/y", 1), {}),
    ("remove", ("m2", "/y"), {}),
    ("remove", ("m2", ""), {}),
    ("find", ({"x": [1]},), {"order_by": "updated_at", "limit": 1}),
    ("delete_many", (["p", "q"],), {}),
    ("delete", (), {"prefix": "made"}),
    ("count", (), {}),
    ("items", (), {"prefix": "m"}),
    ("find", ({"x": [2]},), {}),
    ("find", (None,), {}),
    ("pop", ("m1",), {}),
    ("pop", ("m1", "gone"), {}),
    ("delete", ("m2",), {"if_version": 9}),
    ("delete", ("m2",), {}),
    ("delete", ("m2",), {}),
    ("put", ("m2", 1), {}),
    ("batch", ([("put", "b", 1), ("increment", "b", "", 2), ("delete", "1")],), {}),
    ("batch", ([("put", "b", 9), ("increment", "made", "", 2)],), {}),
    ("items", (), {}),
    ("clear", (), {}),
    ("items", (), {}),
]


def plain(result: Any) -> Any:
    """What both APIs must agree on."""
    if isinstance(result, StandfastError):
        return type(result), result.code
    if isinstance(result, Receipt):
        return result.version, result.durable_on
    if isinstance(result, Document):
        return result.key, result.value, result.version, result.source
    if isinstance(result, list):
        return [plain(one) for one in result]
    if isinstance(result, dict):
        return {key: plain(one) for key, one in result.items()}
    return result


def blocking_call(store: Store, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    try:
        if name == "batch":
            with store.batch() as batch:
                for kind, *rest in args[0]:
                    getattr(batch, kind)("blocking", *rest)
            return batch.receipts
        found = getattr(store["blocking"], name)(*args, **options)
        return list(found) if name in ITERATORS else found
    except StandfastError as error:
        return error


async def awaited_call(
    store: AsyncStore, name: str, args: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    try:
        if name == "batch":
            async with store.batch() as batch:
                for kind, *rest in args[0]:
                    getattr(batch, kind)("awaited", *rest)
            return batch.receipts
        found = getattr(store["awaited"], name)(*args, **options)
        if name in ITERATORS:
            return [one async for one in found]
        return await found
    except StandfastError as error:
        return error


def test_both_faces_mean_the_same(opening: tuple[Callable[[], Store], OpenAsync]) -> None:
    """I11: every call gives the same answer, or the same error, awaited as it does blocking."""
    open_sync, open_async = opening

    async def awaited() -> list[Any]:
        async with open_async() as store:
            return [plain(await awaited_call(store, *call)) for call in SCENARIO]

    with open_sync() as store:
        expected = [plain(blocking_call(store, *call)) for call in SCENARIO]
    found = asyncio.run(awaited())
    for call, one, other in zip(SCENARIO, expected, found, strict=True):
        assert one == other, call[0]
    assert (standfast.ConflictError, "conflict") in expected
    with open_sync() as store:
        assert store.collections() == ["awaited", "blocking"]


def test_a_store_is_opened_by_awaiting_or_entering(tmp_path: Path) -> None:
    """`await open_async()` and `async with open_async()` give the same kind of store."""

    async def main() -> None:
        store = await standfast.open_async(data_dir=tmp_path)
        assert (await store["c"].put("k", 1)).durable_on == "primary"
        assert await store.close() == 0
        assert await store.close() == 0
        async with standfast.open_async(data_dir=tmp_path) as again:
            assert await again["c"].get("k") == 1
            assert (await again.health()).healthy
            await again.flush()
            assert "memory" not in repr(again)
        with pytest.raises(standfast.Unavailable) as caught:
            await again["c"].get("k")
        assert caught.value.code == "closed"
        with pytest.raises(standfast.ConfigError):
            async with standfast.open_async("nonsense://x", data_dir=tmp_path):
                pass

    asyncio.run(main())


def test_many_tasks_at_once(opening: tuple[Callable[[], Store], OpenAsync]) -> None:
    """I2: 200 tasks at once all get their receipts, and all of it is there, once."""
    _, open_async = opening

    async def main() -> None:
        async with open_async() as store:
            puts = [store["c"].put(str(n), {"n": n}) for n in range(200)]
            counts = [store["c"].increment("count", "") for _ in range(200)]
            done = await asyncio.gather(*puts, *counts)
            assert [receipt.version for receipt in done[:200]] == [1] * 200
            assert sorted(done[200:]) == list(range(1, 201))
            values = await store["c"].get_many(range(200))
            assert values == {str(n): {"n": n} for n in range(200)}
            reads = await asyncio.gather(*[store["c"].get(n) for n in range(200)])
            assert reads == [{"n": n} for n in range(200)]

    asyncio.run(main())


def test_a_cancelled_task_leaves_all_or_nothing(
    opening: tuple[Callable[[], Store], OpenAsync],
) -> None:
    """A batch of a cancelled task is applied as a whole or not at all, and the store goes on."""
    _, open_async = opening

    async def write(store: AsyncStore, number: int) -> None:
        async with store.batch() as batch:
            batch.append("c", "one", "", number)
            batch.append("c", "two", "", number)

    async def main() -> None:
        async with open_async() as store:
            kept: list[int] = []
            for number in range(60):
                task = asyncio.create_task(write(store, number))
                for _ in range(number % 6):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    await task
                    kept.append(number)
                except asyncio.CancelledError:
                    pass
            await write(store, 99)  # behind all of them
            found = await store["c"].get_many(["one", "two"])
            assert found["one"] == found["two"]
            assert len(set(found["one"])) == len(found["one"])
            assert {*kept, 99} <= set(found["one"])

    asyncio.run(main())


# ---- over an engine whose primary is scripted


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[tuple[Link, ReplicatedEngine]]:
    link = Link(Server())
    hold = LocalState(tmp_path / "data", OutageOptions(), display=link.display)
    engine = ReplicatedEngine(link, hold, deadline_s=5.0)  # type: ignore[arg-type]
    engine.start()
    wait_direct(engine)
    yield link, engine
    link.down = True
    engine.close(0.0)


def test_the_outage_is_the_same_awaited(scripted: tuple[Link, ReplicatedEngine]) -> None:
    """I12: writes go on in the journal and are read back, and the rest is told as it is."""
    link, engine = scripted

    async def main() -> None:
        store = AsyncStore(engine)
        await store["c"].put("k", {"n": 1})
        link.down = True
        assert (await store["c"].patch("k", {"m": 2})).durable_on == "journal"
        assert await store["c"].get("k") == {"n": 1, "m": 2}
        for call in (store["c"].get("x"), store["c"].put("k", 1, if_version=1), store["c"].count()):
            with pytest.raises(standfast.Unavailable):
                await call
        with pytest.raises(standfast.DeadlineExceeded):
            await store.flush(timeout_s=0.01)
        link.down = False
        await store.flush(timeout_s=20)
        assert await store["c"].get("k") == {"n": 1, "m": 2}

    asyncio.run(main())


def test_a_loop_that_ends_early_hurts_nobody(scripted: tuple[Link, ReplicatedEngine]) -> None:
    """An answer for a loop that is closed is dropped; the write stands, the engine goes on."""
    link, engine = scripted
    store = AsyncStore(engine)
    reached, go = threading.Event(), threading.Event()
    link.gate = lambda: (reached.set(), go.wait(20))

    async def leave() -> None:
        tasks = [asyncio.create_task(store["c"].put(str(n), n)) for n in range(3)]
        await asyncio.sleep(0)
        assert await asyncio.to_thread(reached.wait, 20)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(leave())
    go.set()

    async def again() -> dict[str, Any]:
        await store["c"].put("3", 3)
        return await store["c"].get_many(["0", "1", "2", "3"])

    assert asyncio.run(again()) == {"0": 0, "1": 1, "2": 2, "3": 3}
    assert Store(engine)["c"].get("0") == 0


def test_an_error_that_nobody_waits_for_is_no_news(
    scripted: tuple[Link, ReplicatedEngine], caplog: pytest.LogCaptureFixture
) -> None:
    """Of several reads that fail, one is raised; the others do not end up in asyncio's log."""
    link, engine = scripted

    async def main() -> None:
        store = AsyncStore(engine)
        link.read_error = DataError("an answer", code="odd")
        with pytest.raises(DataError):
            await store["c"].get_many(["1", "2", "3"])
        link.read_error = None
        assert await store["c"].get("1") is None  # the reader has the others behind it

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
        gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []
