"""`JsonFile` while the primary is away, and when nobody knows what became of a save."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from standfast import (
    AsyncJsonFile,
    DataError,
    DeadlineExceeded,
    JsonFile,
    Saved,
    Store,
    Unavailable,
)
from standfast.engine.embedded import EmbeddedEngine
from support.bots import Awaited
from support.faulty import Link, Open, Server, cut_off, wait_direct

MakeFile = Callable[..., Any]
START = {"1": {"a": 1, "n": {"x": 1}}, "2": {"b": 1}, "3": {"c": 1}}


@pytest.fixture(params=["blocking", "awaited"])
def make_file(request: pytest.FixtureRequest) -> Iterator[MakeFile]:
    """A file over a store, by either API; its calls block in the test."""
    if request.param == "blocking":
        yield lambda store, name="g.json", **options: JsonFile(name, store=store, **options)
        return
    with asyncio.Runner() as runner:

        def make(store: Store, name: str = "g.json", **options: Any) -> Any:
            return Awaited(AsyncJsonFile(name, store=store.as_async(), **options), runner)

        yield make


def others(server: Server) -> Store:
    """Another program that writes to the same database."""
    return Store(EmbeddedEngine(server.database))


def reasons(server: Server) -> list[tuple[str, str, str]]:
    """The conflicts: keys, reasons and states."""
    return [(one.key, one.reason, one.state) for one in server.database.conflicts()]


def test_saves_go_on_and_are_merged_when_it_is_back(
    memory: Server, open_it: Open, make_file: MakeFile
) -> None:
    """I5: several saves in an outage, each based on the one before, meet what others wrote: every
    field that only one side changed is there, and a true conflict is among the conflicts."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    others(memory)["g"].put_many(START)
    file = make_file(store)
    data = file.load()
    link.down = True
    data["1"]["a"] = 2
    assert file.save(data) == Saved(written=1)
    data["1"]["n"]["y"] = "mine"
    data["4"] = {"new": 1}
    del data["2"], data["3"]
    assert file.save(data) == Saved(written=2, deleted=2)
    assert file.save(data) == Saved()
    assert make_file(store).load() == data == file.load()
    theirs = JsonFile("g.json", store=others(memory))
    held = theirs.load()
    assert held == START
    held["1"]["n"].update(x=5, y="theirs")
    held["1"]["z"] = 1
    held["3"]["c"] = 2
    held["4"] = {"new": 1, "also": 1}
    assert theirs.save(held) == Saved(written=3)
    link.down = False
    wait_direct(engine)
    merged = {"a": 2, "n": {"x": 5, "y": "mine"}, "z": 1}
    expected = {"1": merged, "3": {"c": 2}, "4": {"new": 1, "also": 1}}
    assert JsonFile("g.json", store=others(memory)).load() == expected
    assert set(reasons(memory)) == {
        ("1", "merged", "merged"),
        ("1", "conflict", "open"),
        ("3", "update_beats_delete", "merged"),
        ("4", "merged", "merged"),
    }
    # The dict knows nothing of all that, and undoes none of it.
    data["1"]["a"] = 3
    assert file.save(data) == Saved(written=1, merged=1)
    assert file.load() == expected | {"1": merged | {"a": 3}}


def test_what_is_not_known_is_no_empty_dict(
    memory: Server, open_it: Open, make_file: MakeFile
) -> None:
    """I4: what this directory has never loaded is Unavailable; the dict at hand can be saved, and
    is merged with what is there as if both had added it."""
    others(memory)["g"].put_many(START)
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    link.down = True
    for options in ({}, {"whole": True}):
        file = make_file(store, **options)
        with pytest.raises(Unavailable) as caught:
            file.load()
        assert caught.value.code == "not_mirrored"
    file = make_file(store)
    assert file.save({"1": {"mine": 1}, "9": {"mine": 2}}) == Saved(written=2)
    link.down = False
    wait_direct(engine)
    assert file.load() == START | {"1": START["1"] | {"mine": 1}, "9": {"mine": 2}}


def test_a_refused_save_leaves_all_as_it_was(
    memory: Server, open_it: Open, make_file: MakeFile
) -> None:
    """Unavailable means that nothing was written: the same save does it all once it is back."""
    link = Link(memory)
    store, engine = open_it(link, fallback="read-only")
    wait_direct(engine)
    others(memory)["g"].put_many(START)
    file = make_file(store)
    data = file.load()
    data["1"]["a"] = 2
    del data["2"]
    link.down = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            file.save(data)
    assert data["1"]["a"] == 2
    assert others(memory)["g"].get("1") == START["1"]
    link.down = False
    wait_direct(engine)
    assert file.save(data) == Saved(written=1, deleted=1)
    assert file.load() == data
    assert reasons(memory) == []


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("then", ["same", "taken back", "changed"])
def test_a_lost_reply_is_looked_after(
    memory: Server, open_it: Open, make_file: MakeFile, applied: bool, then: str
) -> None:
    """I2: whether a save without an answer took effect or not, the next one does what is missing:
    it writes nothing twice, calls nothing of its own a conflict, and loses no change that was
    taken back meanwhile."""
    link = Link(memory)
    store, engine = open_it(link, fallback="read-only")
    wait_direct(engine)
    others(memory)["g"].put_many(START)
    file = make_file(store)
    data = file.load()
    data["1"]["a"] = 2
    data["4"] = {"new": 1}
    del data["2"]
    link.script.append(cut_off(link, "after" if applied else "before"))
    with pytest.raises(DeadlineExceeded):
        file.save(data)
    wait_direct(engine)
    left = Saved() if applied else Saved(written=2, deleted=1)
    match then:
        case "taken back":
            data["1"]["a"], data["2"] = 1, {"b": 1}
            del data["4"]
            left = Saved(written=2, deleted=1) if applied else Saved()
        case "changed":
            data["1"]["a"] = 3
            left = Saved(written=1) if applied else left
    assert file.save(data) == left
    assert JsonFile("g.json", store=others(memory)).load() == data
    assert reasons(memory) == []


@pytest.mark.parametrize("applied", [True, False])
def test_a_doubt_ends_with_a_load(memory: Server, open_it: Open, applied: bool) -> None:
    """What was loaded is what counts, whatever became of an earlier save: what another writes then
    is theirs, also where it is what that save had in mind."""
    link = Link(memory)
    store, engine = open_it(link, fallback="read-only")
    wait_direct(engine)
    file = JsonFile("g.json", store=store)
    file.load()
    link.script.append(cut_off(link, "after" if applied else "before"))
    with pytest.raises(DeadlineExceeded):
        file.save({"1": {"a": 1}})
    wait_direct(engine)
    data = file.load()
    assert data == ({"1": {"a": 1}} if applied else {})
    others(memory)["g"].put("1", {"a": 1})
    assert file.save(data) == Saved()
    assert file.load() == {"1": {"a": 1}}


def test_one_refused_document_refuses_the_save(
    memory: Server, open_it: Open, make_file: MakeFile
) -> None:
    """All or nothing: what the database does not take keeps the others out, and the error says so;
    without it, the same save goes through."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    file = make_file(store)
    file.load()
    memory.poison["g", "2"] = DataError("not here", code="bad_key")
    with pytest.raises(DataError) as caught:
        file.save(START)
    assert caught.value.code == "bad_key"
    assert others(memory)["g"].count() == 0
    memory.poison.clear()
    assert file.save(START) == Saved(written=3)


def test_above_the_limit_it_goes_in_parts(
    memory: Server, open_it: Open, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is all or nothing; after an error, the next save does the rest only."""
    monkeypatch.setattr("standfast.jsonfile.MAX_BATCH_OPS", 2)
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    file = make_file(store)
    file.load()
    data = {str(number): {"n": number} for number in range(7)}
    memory.poison["g", "4"] = DataError("not here", code="bad_key")
    with pytest.raises(DataError):
        file.save(data)
    assert sorted(others(memory)["g"].keys()) == ["0", "1", "2", "3"]
    memory.poison.clear()
    assert file.save(data) == Saved(written=3)
    assert {one.version for one in others(memory)["g"].find({})} == {1}


def test_a_save_goes_on_when_its_task_is_cancelled(memory: Server, open_it: Open) -> None:
    """A cancelled task gives up the answer only: the next save, which waits for its turn, knows
    what was written, and a change that was taken back meanwhile is written, too."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    held, go = threading.Event(), threading.Event()

    def gate() -> None:
        held.set()
        go.wait(20)

    async def run() -> None:
        file = AsyncJsonFile("g.json", store=store.as_async())
        data = await file.load()
        data["1"] = {"a": 1}
        await file.save(data)
        data["1"]["a"] = 2
        link.gate = gate
        task = asyncio.create_task(file.save(data))
        await asyncio.to_thread(held.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        data["1"]["a"] = 1
        again = asyncio.create_task(file.save(data))
        await asyncio.sleep(0)  # it has begun, and has read by now if it does not wait
        assert await asyncio.to_thread(store["g"].get, "1") == {"a": 1}
        go.set()
        assert await again == Saved(written=1)
        assert await file.save(data) == Saved()

    asyncio.run(run())
    found = others(memory)["g"].read("1")
    assert found is not None
    assert (found.value, found.version) == ({"a": 1}, 3)
    assert reasons(memory) == []


def test_one_object_serves_one_event_loop_after_the_other(memory: Server, open_it: Open) -> None:
    """A file made at import is there for every `asyncio.run`, also where calls wait for turns."""
    store, engine = open_it(Link(memory))
    wait_direct(engine)
    file = AsyncJsonFile("g.json", store=store.as_async())

    async def run(number: int) -> int:
        data = await file.load()
        data[str(number)] = {}
        saved = await asyncio.gather(file.save(data), file.save(data))
        return sum(one.written for one in saved)

    for number in range(3):
        assert asyncio.run(run(number)) == 1
    assert others(memory)["g"].count() == 3
