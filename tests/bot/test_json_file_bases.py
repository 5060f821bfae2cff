"""`JsonFile`: a dict knows what it was made from, and a collection whose file it holds."""

from __future__ import annotations

import asyncio
import copy
import functools
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import standfast
from standfast import AsyncJsonFile, ConfigError, DataError, JsonFile, Saved, Store
from standfast.backends.memory import MemoryBackend
from standfast.engine.embedded import EmbeddedEngine
from support.faulty import Link, Open, Server
from support.moving import Place

#: Random sequences, in parts that workers can share. Of those with an outage, which take three
#: times as long, all are run where time is not short.
SEQUENCES, OUTAGE_SEQUENCES, PARTS = 2000, 500, 20
#: The default run has a twentieth of them.
SEVERAL = [pytest.param(0), *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, PARTS))]


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(EmbeddedEngine(MemoryBackend())) as opened:
        yield opened


def awaited(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, in a loop of its own."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


def test_each_dict_is_compared_with_its_own_load(store: Store) -> None:
    """Two dicts of one object: each save writes what its own dict changed, and nothing else."""
    file = JsonFile("g.json", store=store)
    file.save({"1": {"a": 1, "b": 1}, "2": {}, "3": {}})
    first = file.load()
    second = file.load()
    first["1"]["a"] = 2
    del first["2"]
    second["1"]["b"] = 2
    second["4"] = {}
    assert file.save(first) == Saved(written=1, deleted=1)
    assert file.save(second) == Saved(written=2, merged=1)
    assert file.load() == {"1": {"a": 2, "b": 2}, "3": {}, "4": {}}
    assert store.health().conflicts.get("open", 0) == 0


@pytest.mark.parametrize("copied", [dict, copy.copy, copy.deepcopy, lambda d: d.copy()])
def test_a_copy_is_compared_with_what_it_was_copied_from(
    store: Store, copied: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """A dict made from a loaded one deletes only what the caller has removed."""
    file, other = JsonFile("g.json", store=store), JsonFile("g.json", store=store)
    other.save({"1": {"n": 1}, "2": {"n": 1}})
    mine = copied(file.load())
    theirs = other.load()
    theirs["9"] = {"theirs": 1}
    theirs["2"]["n"] = 2
    other.save(theirs)
    file.load()  # sees theirs; `mine` was made before
    del mine["1"]
    file.save(mine)
    assert file.load() == {"2": {"n": 2}, "9": {"theirs": 1}}


def test_a_filtered_dict_deletes(store: Store) -> None:
    """A new dict of what is left is a deletion of the rest, as with a file."""
    file = JsonFile("g.json", store=store)
    file.save({"1": {"n": 1}, "2": {"n": 2}})
    data = file.load()
    assert file.save({key: value for key, value in data.items() if key != "1"}).deleted == 1
    assert file.load() == {"2": {"n": 2}}


def test_a_dict_of_ones_own_is_known_after_its_save(store: Store) -> None:
    """The global dict of old code, saved from any thread: what it drops is dropped, no more."""
    file = JsonFile("g.json", store=store)
    state: dict[str, Any] = {"1": {}, "2": {}}
    file.save(state)
    JsonFile("g.json", store=store).save({"9": {}})
    file.load()
    del state["1"]
    thread = threading.Thread(target=file.save, args=(state,))
    thread.start()
    thread.join()
    assert file.load() == {"2": {}, "9": {}}


def test_a_dict_of_another_file_has_no_base_here(store: Store) -> None:
    """Saving one file's dict to another writes all of it."""
    one, two = JsonFile("one.json", store=store), JsonFile("two.json", store=store)
    one.save({"1": {"n": 1}})
    assert two.save(one.load()).written == 1
    assert two.load() == {"1": {"n": 1}}


def test_an_edit_saves_what_its_block_did_or_nothing(store: Store) -> None:
    """`with file.edit() as data:` saves at its end; an exception saves nothing."""
    file = JsonFile("g.json", store=store)
    with file.edit() as data:
        data["1"] = {"n": 1}
    with pytest.raises(ZeroDivisionError), file.edit() as data:
        data["1"]["n"] = 1 / 0
    with file.edit() as data:
        data["2"] = {}
        file.save(data)
        assert file.load() == {"1": {"n": 1}, "2": {}}
    assert file.load() == {"1": {"n": 1}, "2": {}}


def test_an_edit_that_waits_for_itself_is_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait has a deadline: a save that waits for the edit around it ends with an error."""
    monkeypatch.setattr(standfast.jsonfile, "JSON_FILE_TURN_S", 0.05)
    file = JsonFile("g.json", store=store)
    errors: list[standfast.StandfastError] = []

    def save() -> None:
        try:
            file.save({"2": {}})
        except standfast.StandfastError as error:
            errors.append(error)

    with file.edit() as data:
        data["1"] = {}
        thread = threading.Thread(target=save)
        thread.start()
        thread.join()
    assert [error.code for error in errors] == ["busy"]
    assert file.load() == {"1": {}}
    file.save({"3": {}})


@awaited
async def test_ten_commands_at_once(store: Store) -> None:
    """Ten tasks edit one file: ten counts."""
    both = store.as_async()
    files = [AsyncJsonFile("g.json", store=both) for _ in range(2)]

    async def command(number: int) -> None:
        async with files[number % 2].edit() as data:
            data.setdefault("count", {"n": 0})["n"] += 1
            await asyncio.sleep(0)

    await asyncio.gather(*map(command, range(10)))
    assert await files[0].load() == {"count": {"n": 10}}


@awaited
async def test_a_cancelled_edit_passes_its_turn_on(store: Store) -> None:
    """A task that is cancelled in its edit, or while it waits for one, holds nobody up."""
    file = AsyncJsonFile("g.json", store=store.as_async())
    inside = asyncio.Event()

    async def holds() -> None:
        async with file.edit() as data:
            data["1"] = {}
            inside.set()
            await asyncio.Event().wait()

    async def waits() -> None:
        async with file.edit() as data:
            data["2"] = {}

    holding = asyncio.create_task(holds())
    await inside.wait()
    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0)
    waiting.cancel()
    holding.cancel()
    await asyncio.gather(holding, waiting, return_exceptions=True)
    async with file.edit() as data:
        data["3"] = {}
    assert await file.load() == {"3": {}}


# ---- random interleavings


class _Crew:
    """Workers that all save one file, and what must be there in the end.

    Each worker owns one field of the shared document and documents of its own; the counter belongs
    to all and is changed only within an edit.
    """

    def __init__(self, seed: int, store: Store, name: str = "g") -> None:
        self.name = f"{name}.json"
        self.rng = random.Random(seed)
        self.store = store
        count = self.rng.randint(1, 3)
        self.blocking = [JsonFile(self.name, store=store) for _ in range(count)]
        awaited = store.as_async()
        self.awaited = [AsyncJsonFile(self.name, store=awaited) for _ in range(count)]
        self.blocking[0].save({"shared": {"count": 0}, "seed": {"kept": 1}})
        self.edits = 0
        self.expected: dict[str, Any] = {"seed": {"kept": 1}}
        self.fields: dict[str, int] = {}
        self.errors: list[BaseException] = []

    def script(self) -> list[str]:
        kinds = ["edit", "field", "add", "remove", "late", "copy"]
        return [self.rng.choice(kinds) for _ in range(self.rng.randint(1, 4))]

    def change(self, kind: str, me: str, step: int, data: dict[str, Any]) -> None:
        if kind == "edit":
            data["shared"]["count"] += 1
        elif kind == "add":
            data[f"{me}.{step}"] = {"n": step}
        elif kind == "remove":
            for key in [key for key in data if key.startswith(f"{me}.")]:
                del data[key]
        else:
            data["shared"][me] = step

    def note(self, kind: str, me: str, step: int) -> None:
        if kind == "edit":
            self.edits += 1
        elif kind == "add":
            self.expected[f"{me}.{step}"] = {"n": step}
        elif kind == "remove":
            for key in [key for key in self.expected if key.startswith(f"{me}.")]:
                del self.expected[key]
        else:
            self.fields[me] = step

    def thread(self, me: str, script: list[str], file: JsonFile, lock: threading.Lock) -> None:
        try:
            for step, kind in enumerate(script):
                if kind == "edit":
                    with file.edit() as data:
                        self.change(kind, me, step, data)
                else:
                    data = file.load()
                    if kind == "late":
                        file.load()
                    if kind == "copy":
                        data = dict(data)
                    self.change(kind, me, step, data)
                    file.save(data)
                with lock:
                    self.note(kind, me, step)
        except BaseException as error:
            self.errors.append(error)

    async def task(
        self, me: str, script: list[str], file: AsyncJsonFile, lock: threading.Lock
    ) -> None:
        for step, kind in enumerate(script):
            if kind == "edit":
                async with file.edit() as data:
                    self.change(kind, me, step, data)
                    await asyncio.sleep(0)
            else:
                data = await file.load()
                if kind == "late":
                    await file.load()
                if kind == "copy":
                    data = dict(data)
                self.change(kind, me, step, data)
                await asyncio.sleep(0)
                await file.save(data)
            with lock:
                self.note(kind, me, step)

    def run(self) -> None:
        rng, lock = self.rng, threading.Lock()
        workers = [(f"w{n}", self.script(), rng.random() < 0.5) for n in range(rng.randint(2, 8))]
        threads = [
            threading.Thread(target=self.thread, args=(me, script, rng.choice(self.blocking), lock))
            for me, script, blocking in workers
            if blocking
        ]

        async def tasks() -> None:
            jobs = [
                self.task(me, script, rng.choice(self.awaited), lock)
                for me, script, blocking in workers
                if not blocking
            ]
            await asyncio.gather(*jobs)

        for thread in threads:
            thread.start()
        asyncio.run(tasks())
        for thread in threads:
            thread.join()
        assert self.errors == []

    def check(self) -> None:
        shared = {"count": self.edits, **self.fields}
        assert JsonFile(self.name, store=self.store).load() == {**self.expected, "shared": shared}
        assert self.store.health().conflicts.get("open", 0) == 0


def seeds(part: int, count: int) -> range:
    return range(part * count // PARTS, (part + 1) * count // PARTS)


@pytest.mark.parametrize("part", SEVERAL)
def test_random_interleavings_lose_nothing(part: int) -> None:
    """2 to 8 tasks and threads over 1 to 3 objects, awaited and blocking: every update is there,
    and nothing is gone that nobody deleted."""
    for seed in seeds(part, SEQUENCES):
        with Store(EmbeddedEngine(MemoryBackend())) as store:
            crew = _Crew(seed, store)
            crew.run()
            crew.check()


@pytest.mark.parametrize("part", SEVERAL)
def test_random_interleavings_with_an_outage_lose_nothing(
    memory: Server, open_it: Open, part: int
) -> None:
    """The same with the primary away in the middle: all of it arrives when it is back."""
    link = Link(memory)
    store, _ = open_it(link)
    for seed in seeds(part, OUTAGE_SEQUENCES):
        crew = _Crew(seed, store, f"g{seed}")
        crew.run()
        link.down = True
        crew.run()
        link.down = False
        crew.run()
        store.flush(timeout_s=60)
        crew.check()


# ---- whose file a collection holds


def test_another_file_of_that_name_is_refused(place: Place) -> None:
    """A collection remembers the file that it was filled from; another gives it another name."""
    path = place.write("data/111/settings.json", {"g": {"n": 1}})
    place.moved(path)
    store = Store(EmbeddedEngine(place.backend))
    assert JsonFile(path, store=store).load() == {"g": {"n": 1}}
    other = path.parents[1] / "222" / "settings.json"
    for call in (JsonFile(other, store=store).load, lambda: JsonFile(other, store=store).save({})):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.code == "other_file"
        assert "collection='c_222_settings'" in caught.value.hint
    assert JsonFile(other, store=store, collection="c_222_settings").load() == {}
    assert JsonFile(other, store=store, collection="settings").load() == {"g": {"n": 1}}


def test_two_files_of_that_name_in_one_process(store: Store, tmp_path: Path) -> None:
    """Neither was ever migrated: the first of the process has the collection."""
    JsonFile(tmp_path / "a" / "s.json", store=store).save({"1": {}})
    with pytest.raises(ConfigError) as caught:
        JsonFile(tmp_path / "b" / "s.json", store=store).load()
    assert caught.value.code == "other_file"


def test_an_app_that_was_deployed_elsewhere_finds_its_data(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The recorded folder is not there, and the path within the app is the same."""
    place.moved(place.write("data/settings.json", {"g": {"n": 1}}))
    place.root.rename(tmp_path / "deployed")
    place.root.mkdir()
    (tmp_path / "deployed" / "storage").rename(place.data_dir)
    monkeypatch.chdir(tmp_path / "deployed")
    store = Store(EmbeddedEngine(place.backend))
    assert JsonFile("data/settings.json", store=store).load() == {"g": {"n": 1}}
    with pytest.raises(ConfigError):
        JsonFile("data/222/settings.json", store=store).load()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", [1, {"a": 2}]),
        ("records.json", [{"id": 7, "n": 1}, {"id": 3}]),
        ("number.json", 42),
    ],
)
def test_a_file_comes_back_in_its_form(place: Place, name: str, content: Any) -> None:
    """What was migrated as a list is a list when it is loaded, changed and saved."""
    path = place.write(name, content)
    place.moved(path)
    store = Store(EmbeddedEngine(place.backend))
    file = JsonFile(path, store=store)
    data = file.load()
    assert data == content
    if isinstance(data, list):
        del data[0]
        data.append({"id": 9})
        file.save(data)
        assert JsonFile(path, store=store).load() == [*content[1:], {"id": 9}]


def test_a_record_without_its_name_is_refused(place: Place) -> None:
    """Before anything is written, with the place."""
    path = place.write("records.json", [{"id": 7}])
    place.moved(path)
    file = JsonFile(path, store=Store(EmbeddedEngine(place.backend)))
    with pytest.raises(DataError) as caught:
        file.save([*file.load(), {"n": 1}])
    assert caught.value.path == "$[1]"
