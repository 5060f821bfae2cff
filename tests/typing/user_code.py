"""Code as users write it, with the types that a checker must find; `test_typing` checks it.

It is checked and never run.  Where a line is wrong on purpose, the comment says that it must be
found: both checkers report a comment that suppresses nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_type

import msgspec

import standfast
from standfast import (
    UNCHANGED,
    AsyncBatch,
    AsyncCollection,
    AsyncJsonFile,
    AsyncStore,
    Batch,
    Collection,
    Document,
    Health,
    JsonFile,
    Receipt,
    Saved,
    StandfastError,
    StateChange,
    Store,
    Unchanged,
    WriteOutcome,
    ge,
    gt,
    le,
    lt,
)
from standfast.bot import AsyncBotStore, BotStore, Due, DueClaim, EntryClaim, Message, WaitlistEntry
from standfast.testing import Outage, outage, restore


class Player(msgspec.Struct):
    name: str
    score: int = 0


@dataclass
class Team:
    members: list[str]


def won(player: Player) -> Player:
    return Player(player.name, player.score + 1)


def synchronous(store: Store) -> None:
    players = store.collection("players", type=Player, index=True)
    assert_type(players, Collection[Player])
    assert_type(players.get("1"), Player | None)
    assert_type(players.get(1, Player("nobody")), Player)
    assert_type(players.get("1", 0), Player | int)
    assert_type(players.get("1", default=None, consistency="local"), Player | None)
    assert_type(players.read("1"), Document[Player] | None)
    assert_type(players.get_many(["1", 2]), dict[str, Player])
    assert_type(players.put("1", Player("ann"), if_absent=True, ttl_s=60), Receipt)
    assert_type(players.put_many({"1": Player("ann")}), dict[str, Receipt])
    assert_type(players.update("1", won, default=Player("ann")), Player)
    assert_type(players.patch("1", {"score": 2}), Receipt)
    assert_type(players.append("1", "/list", 1), list[Any] | None)
    assert_type(players.increment("1", "/score"), int | float | None)
    assert_type(players.pop("1"), Player | None)
    assert_type(players.get_or_create("1", Player("ann")), Player)
    assert_type(players.delete("1", if_version=3), Receipt)
    assert_type(players.keys(prefix="8"), Iterator[str])
    assert_type(players.count(), int)
    assert_type(players.as_of(), float | None)
    assert_type(players.items(), Iterator[tuple[str, Player]])
    assert_type(players.find({"score": 1}), Iterator[Document[Player]])
    if (found := players.read("1")) is not None:
        assert_type(found.value.score, int)
        players.put("1", won(found.value), base=found, if_version=found.version)
    players.put("1", Team([]))  # type: ignore[arg-type]
    players.put("1", Player("ann"), if_vesrion=1)  # type: ignore[call-arg]
    won(players.get("1"))  # type: ignore[arg-type]

    assert_type(store.collection("teams", type=Team), Collection[Team])
    assert_type(store.collection("lists", type=list[int]), Collection[list[int]])
    assert_type(store.outcome(Receipt(1, "primary")), WriteOutcome)
    assert_type(store.health(), Health)
    assert_type(store.as_async(), AsyncStore)


def every_call(store: Store) -> None:
    """Each call of docs/collections.md, as people write it."""
    players = store.collection("players", type=Player)
    found = players.read("ann")
    if found is not None:
        assert_type(found.expires_at, datetime | None)
        assert_type(found.version, int)
        players.put("ann", found.value, if_version=found.version)
    assert_type(players.exists("ann"), bool)
    assert_type("ann" in players, bool)
    assert_type(players.put_if_absent("bob", Player("bob"), ttl_s=60), bool)
    assert_type(players.touch("bob", timedelta(hours=1)), Receipt)
    assert_type(players.touch("bob", None), Receipt)
    assert_type(players.set("bob", "/name", "rob"), Receipt)
    assert_type(players.remove("bob", "/score", if_version=2), Receipt)
    assert_type(players.delete_many(["bob", 7]), dict[str, Receipt])
    assert_type(players.delete(prefix="s/"), int)
    assert_type(players.delete("bob"), Receipt)
    assert_type(players.clear(), int)
    assert_type(players.first(), Document[Player] | None)
    assert_type(players.last(prefix="s/"), Document[Player] | None)
    assert_type(players.put_many({7: Player("ann")}, ttl_s=0.5), dict[str, Receipt])
    assert_type(players.keys(after="a", limit=3, reverse=True), Iterator[str])
    assert_type(players.items(prefix="s/", limit=3), Iterator[tuple[str, Player]])
    newest = players.find({"score": ge(10) & lt(20)}, order_by="updated_at", limit=5)
    assert_type(newest, Iterator[Document[Player]])
    for key in players:
        assert_type(key, str)
    if players.delete("ann"):
        players.put("ann", Player("ann"))

    def promoted(player: Player) -> Player | Unchanged:
        return UNCHANGED if player.score < 5 else Player(player.name, 0)

    assert_type(players.update("ann", promoted), Player)
    assert_type(players.update("ann", lambda player: Player(player.name, 1)), Player)
    players.put("ann", Player("ann"), ttl_s="60")  # type: ignore[arg-type]
    players.find({}, order_by="size")  # type: ignore[arg-type]
    with store.batch(independent=True) as batch:
        batch.set("players", "ann", "/score", 1)
        batch.remove("players", "ann", "/score")
        batch.touch("players", "ann", 60)
    for result in batch.results:
        if isinstance(result, Receipt):
            assert_type(result.changed, bool)
        else:
            assert_type(result, StandfastError)


async def every_call_awaited(store: AsyncStore) -> None:
    players = store.collection("players", type=Player)
    assert_type(await players.exists("ann"), bool)
    assert_type(await players.put_if_absent("bob", Player("bob")), bool)
    assert_type(await players.touch("bob", 60), Receipt)
    assert_type(await players.set("bob", "/name", "rob"), Receipt)
    assert_type(await players.remove("bob", "/score"), Receipt)
    assert_type(await players.delete_many(["bob", 7]), dict[str, Receipt])
    assert_type(await players.delete(prefix="s/"), int)
    assert_type(await players.delete("bob"), Receipt)
    assert_type(await players.clear(), int)
    assert_type(await players.first(), Document[Player] | None)
    assert_type(await players.last(), Document[Player] | None)
    async for key in players:
        assert_type(key, str)
    assert_type(players.keys(reverse=True), AsyncIterator[str])
    async for document in players.find({"name": gt("a"), "score": le(3)}, limit=2):
        assert_type(document.value, Player)

    async def looked_up(player: Player) -> Player:
        return (await players.get(player.name)) or player

    assert_type(await players.update("ann", looked_up), Player)
    assert_type(await players.update("ann", won, default=Player("ann")), Player)

    assert_type(await players.get_many(["1", 2]), dict[str, Player])
    assert_type(await players.put_many({"1": Player("ann")}, ttl_s=60), dict[str, Receipt])
    assert_type(await players.patch("1", {"score": 2}), Receipt)
    assert_type(await players.append("1", "/list", 1), list[Any] | None)
    assert_type(await players.pop("1"), Player | None)
    assert_type(await players.pop("1", 0), Player | int)
    assert_type(await players.get_or_create("1", Player("ann")), Player)
    assert_type(await players.count(), int)
    assert_type(await players.as_of(), float | None)


def whole_collections(store: Store) -> None:
    assert_type(store.copy("players", "copied"), int)
    assert_type(store.rename("copied", "kept"), int)
    assert_type(store.drop("kept"), bool)
    assert_type(store.collections(), list[str])
    assert_type(store.create_index("players"), None)
    assert_type(store.flush(timeout_s=5), None)
    assert_type(store.close(), int)
    store.drop(1)  # type: ignore[arg-type]
    store.on_refused(lambda refused: refused.collection)
    store.on_rejected(lambda rejected: rejected.key)


async def whole_collections_awaited(store: AsyncStore) -> None:
    assert_type(await store.copy("players", "copied"), int)
    assert_type(await store.rename("copied", "kept"), int)
    assert_type(await store.drop("kept"), bool)
    assert_type(await store.collections(), list[str])
    assert_type(await store.outcome(Receipt(1, "primary")), WriteOutcome)
    async with store.batch(independent=True) as batch:
        batch.patch("players", "ann", {"score": 1})
        batch.append("players", "ann", "/list", 1)
        batch.increment("players", "ann", "/score", 1)
        batch.set("players", "ann", "/score", 1)
        batch.remove("players", "ann", "/score")
        batch.touch("players", "ann", 60)
        batch.delete("players", "ann")
    assert_type(batch.results, list[Receipt | StandfastError])
    store.on_state_change(said)
    store.on_refused(print)
    store.on_rejected(print)
    assert_type(await store.create_index("players"), None)
    await store.flush(timeout_s=5)
    assert_type(await store.close(), int)


def own_tests(store: Store) -> None:
    with outage(store) as away:
        assert_type(away, Outage)
    restore(store)


def untyped(store: Store) -> None:
    views = store["persisted_views"]
    assert_type(views, Collection[Any])
    assert_type(views.get("8138"), Any | None)
    assert_type(views.get("8138", {})["event_mode"], Any)
    assert_type(views.get_or_create("8138", {}), Any)
    views.update("8138", lambda view: {**view, "open": True}, default={})
    for key, value in views.items(prefix="81"):
        assert_type(key, str)
        assert_type(value, Any)
    with store.batch() as batch:
        assert_type(batch, Batch)
        batch.put("waitlist_data", "1", {}, if_version=2)
        batch.delete("persisted_views", 2)
        batch.patch("persisted_views", 2, {"open": None})
        batch.append("persisted_views", 2, "/list", 1)
        batch.increment("persisted_views", 2, "/n")
    assert_type(batch.receipts, list[Receipt])


def said(change: StateChange) -> None:
    assert_type(change, StateChange)


def whole_program() -> None:
    with standfast.open("sqlite:///x.db", deadline_s=0.5) as store:
        store.on_state_change(said)
        synchronous(store)
        untyped(store)
        file = JsonFile("players.json", store=store)
        assert_type(file.save({"1": 2}), Saved)
        data: dict[str, int] = file.load()
        data["1"] += 1
        bot(BotStore(store))
    try:
        store["x"].put("1", 1)
    except standfast.Unavailable as error:
        assert_type(error.retryable, bool)
        assert_type(error.hint, str)


def bot(state: BotStore) -> None:
    assert_type(state.messages.set(1, "registration", 2, 3), Receipt)
    assert_type(state.messages.list(), list[Message])
    assert_type(state.modes.get(1), str)
    assert_type(state.schedules.due(), list[Due])
    assert_type(state.schedules.claim_due(), list[DueClaim])
    assert_type(state.waitlist.list(1), list[WaitlistEntry])
    assert_type(state.waitlist.promote(1, capacity=2, registered={}), list[EntryClaim])
    assert_type(state.allows("1"), bool)


async def asynchronous(store: AsyncStore) -> None:
    players = store.collection("players", type=Player)
    assert_type(players, AsyncCollection[Player])
    assert_type(await players.get("1"), Player | None)
    assert_type(await players.get("1", 0), Player | int)
    assert_type(await players.read("1"), Document[Player] | None)
    assert_type(await players.put("1", Player("ann")), Receipt)
    assert_type(await players.update("1", won), Player)
    assert_type(await players.increment("1", "/score"), int | float | None)
    assert_type(players.items(), AsyncIterator[tuple[str, Player]])
    async for document in players.find({"score": 1}):
        assert_type(document, Document[Player])
    async with store.batch() as batch:
        assert_type(batch, AsyncBatch)
        batch.put("x", "1", {})
    assert_type(await store["x"].get("1", {}), Any)
    assert_type(await store.health(), Health)
    await players.put("1", Team([]))  # type: ignore[arg-type]


async def whole_asynchronous_program() -> None:
    async with standfast.open_async() as store:
        await asynchronous(store)
        file = AsyncJsonFile("players.json", store=store)
        assert_type(await file.save({}), Saved)
        state = AsyncBotStore(store)
        assert_type(await state.modes.get(1), str)
        assert_type(await state.waitlist.entry(1, 2), WaitlistEntry | None)
    assert_type(await standfast.open_async(), AsyncStore)
