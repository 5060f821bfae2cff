"""`JsonFile`: load a dict, change it, save it, and nobody's change is lost."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import standfast
from standfast import AsyncJsonFile, ConfigError, DataError, JsonFile, Store, Unavailable
from standfast.backends.memory import MemoryBackend
from standfast.engine.embedded import EmbeddedEngine
from support.cli import run_cli
from support.faulty import eventually
from support.outage import Outage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def open_store(database: str | None, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Opens stores on one database, each with a data directory of its own."""
    url = database or f"sqlite:///{tmp_path / 'one.db'}"
    stores: list[Store] = []

    def opened() -> Store:
        stores.append(standfast.open(url, data_dir=tmp_path / f"data{len(stores)}", deadline_s=10))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


def guilds(count: int) -> dict[str, Any]:
    return {str(10**18 + n): {"waitlist": [], "n": n} for n in range(count)}


def test_a_dict_comes_back_and_only_what_changed_is_written(
    open_store: Callable[..., Store],
) -> None:
    """One change is one document: versions tell that the others were not touched."""
    store = open_store()
    file = JsonFile("waitlist_data.json", store=store)
    assert file.load() == {}
    data = guilds(50)
    assert file.save(data) == standfast.Saved(written=50)
    assert JsonFile("waitlist_data.json", store=store).load() == data
    key = sorted(data)[7]
    data[key]["waitlist"].append({"member_id": 42})
    del data[sorted(data)[8]]
    data["5"] = {"new": True}
    assert file.save(data) == standfast.Saved(written=2, deleted=1)
    assert file.save(data) == standfast.Saved()
    assert JsonFile("waitlist_data.json", store=store).load() == data
    versions = {document.key: document.version for document in store["waitlist_data"].find({})}
    assert versions.pop(key) == 2
    assert set(versions.values()) == {1}
    assert list(file.load()) == sorted(data)


def test_two_writers_lose_nothing(open_store: Callable[..., Store]) -> None:
    """What others changed, added and deleted meanwhile stays, also after further saves."""
    mine, theirs = (JsonFile("g.json", store=open_store()) for _ in range(2))
    mine.load()
    mine.save({"1": {"a": 1, "b": 1}, "2": {"x": 1}, "3": {"y": 1}, "4": {"z": 1}})
    one, two = mine.load(), theirs.load()
    two["1"]["b"] = 2
    two["1"]["c"] = {"new": 1}
    del two["2"]
    two["3"]["y"] = 2
    two["9"] = {"theirs": 1}
    assert theirs.save(two) == standfast.Saved(written=3, deleted=1)
    one["1"]["a"] = 5
    del one["3"]
    # The delete gave way to their change.
    assert mine.save(one) == standfast.Saved(written=1, deleted=0, merged=2)
    expected = {"1": {"a": 5, "b": 2, "c": {"new": 1}}, "3": {"y": 2}, "4": {"z": 1}}
    assert mine.load() == expected | {"9": {"theirs": 1}}
    # The dict that knows nothing of the merge does not undo it.
    one["1"]["a"] = 6
    one["4"]["z"] = 2
    again = JsonFile("g.json", store=open_store())
    again.load()
    del expected["3"]
    mine2 = JsonFile("g.json", store=open_store())
    held = mine2.load()
    theirs.load()
    held["1"]["a"] = 7
    mine2.save(held)
    other = theirs.load()
    other["1"]["d"] = 1
    theirs.save(other)
    held["1"]["a"] = 8
    assert mine2.save(held).merged == 1
    assert theirs.load()["1"] == {"a": 8, "b": 2, "c": {"new": 1}, "d": 1}
    held["1"]["a"] = 9
    assert mine2.save(held).written == 1
    assert theirs.load()["1"] == {"a": 9, "b": 2, "c": {"new": 1}, "d": 1}


def test_a_true_conflict_is_in_the_ledger(open_store: Callable[..., Store]) -> None:
    """I5: both changed the same field: the later save wins, and nothing is gone for good."""
    stores = [open_store(), open_store()]
    mine, theirs = (JsonFile("g.json", store=store) for store in stores)
    mine.load()
    mine.save({"1": {"a": 1}})
    one, two = mine.load(), theirs.load()
    one["1"]["a"], two["1"]["a"] = "mine", "theirs"
    theirs.save(two)
    assert mine.save(one).merged == 1
    assert mine.load() == {"1": {"a": "mine"}}
    assert stores[0].health().conflicts == {"open": 1}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_random_writers_lose_no_update(seed: int) -> None:
    """Whatever two do in turn, with dicts of any age: each one's last change of its own members
    is there, and the members that nobody deleted are all there."""
    rng = random.Random(seed)
    store = Store(EmbeddedEngine(MemoryBackend()))
    files = [JsonFile("g.json", store=store) for _ in range(2)]
    dicts: list[dict[str, Any]] = [file.load() for file in files]
    model: dict[str, dict[str, Any]] = {}
    unsaved: list[dict[tuple[str, str], int]] = [{}, {}]
    for step in range(rng.randrange(1, 25)):
        who = rng.randrange(2)
        match rng.choice(["change", "change", "save", "load"]):
            case "change":
                guild, field = str(rng.randrange(3)), f"{who}{rng.randrange(2)}"
                dicts[who].setdefault(guild, {})[field] = step
                unsaved[who][guild, field] = step
            case "save":
                files[who].save(dicts[who])
                for (guild, field), value in unsaved[who].items():
                    model.setdefault(guild, {})[field] = value
                unsaved[who].clear()
            case _:
                dicts[who] = files[who].load()
                unsaved[who].clear()
    assert JsonFile("g.json", store=store).load() == model
    assert store.health().conflicts.get("open", 0) == 0
    store.close()


def test_a_save_without_a_load_deletes_nothing(open_store: Callable[..., Store]) -> None:
    """What was never seen is not missing."""
    store = open_store()
    first = JsonFile("g.json", store=store)
    first.load()
    first.save({"1": {"a": 1}, "2": {}})
    JsonFile("g.json", store=store).save({"1": {"b": 2}})
    assert first.load() == {"1": {"a": 1, "b": 2}, "2": {}}


def test_nothing_is_written_when_something_is_refused(open_store: Callable[..., Store]) -> None:
    """A value that JSON cannot hold stops the save before the first document."""
    file = JsonFile("g.json", store=open_store())
    file.load()
    with pytest.raises(DataError) as caught:
        file.save({"1": {"fine": 1}, "2": {"bad": {1, 2}}})
    assert caught.value.path == '$["2"].bad'
    assert file.load() == {}
    with pytest.raises(DataError):
        file.save([1, 2])


def test_a_document_that_its_table_cannot_hold_refuses_the_save(
    pg_database: str, tmp_path: Path
) -> None:
    """All or nothing, also where the database finds out: older tables have bigint keys."""
    with psycopg.connect(pg_database, autocommit=True) as conn:
        conn.execute("CREATE TABLE waitlist_data (guild_id BIGINT PRIMARY KEY, data JSONB)")
    with standfast.open(pg_database, data_dir=tmp_path, deadline_s=10) as store:
        file = JsonFile("waitlist_data.json", store=store)
        assert file.load() == {}
        with pytest.raises(DataError) as caught:
            file.save({"1": {"a": 1}, "general": {}, "2": {}})
        assert caught.value.code == "bad_key"
        assert file.load() == {}
        assert file.save({1: {"a": 1}, 2: {}}) == standfast.Saved(written=2)
        assert file.load() == {"1": {"a": 1}, "2": {}}


def test_the_order_is_that_of_creation(open_store: Callable[..., Store]) -> None:
    """As in a dict: what came later stands behind; a change leaves it where it is."""
    file = JsonFile("g.json", store=open_store())
    data = file.load()
    for key in ("9", "10", "1"):
        data[key] = {"n": 0}
        file.save(data)
    data["10"]["n"] = 1
    file.save(data)
    assert list(file.load()) == ["9", "10", "1"]


def test_one_document_of_any_form(open_store: Callable[..., Store]) -> None:
    """`whole=True`: a list, a number, whatever the file was."""
    store = open_store()
    file = JsonFile("bans.json", store=store, whole=True)
    assert file.load() == {}
    assert file.save([1, {"a": 2}]).written == 1
    assert file.save([1, {"a": 2}]).written == 0
    assert JsonFile("bans.json", store=store, whole=True).load() == [1, {"a": 2}]
    assert store["bans"].get("default") == [1, {"a": 2}]


def test_a_file_that_was_not_moved_is_not_a_first_run(
    open_store: Callable[..., Store], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty store beside the old file is refused, for load and for save."""
    path = tmp_path / "bot" / "g.json"
    path.parent.mkdir()
    path.write_text('{"1": {"a": 1}}', encoding="utf-8")
    store = open_store()
    file = JsonFile(path, store=store)
    for call in (file.load, lambda: file.save({})):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.code == "not_migrated"
        assert f"standfast migrate {path}" in caught.value.hint
    store["g"].put("1", {"a": 1})
    assert file.load() == {"1": {"a": 1}}
    assert JsonFile(path, store=store).load() == {"1": {"a": 1}}
    warned = [record.levelname for record in caplog.records if "not read" in record.message]
    assert warned == ["WARNING"]
    # What is empty later was emptied by somebody: the file is not what is meant.
    file.save({})
    assert file.load() == {}


@pytest.mark.parametrize("text", ["{}", " {\n}\n", "[]", "", "{", "[[]]"])
def test_a_file_that_holds_nothing_is_no_reason(
    open_store: Callable[..., Store], tmp_path: Path, text: str
) -> None:
    """An empty object has nothing that could be forgotten; an empty file is a damaged one."""
    path = tmp_path / "g.json"
    path.write_text(text, encoding="utf-8")
    for whole in (False, True):
        file = JsonFile(path, store=open_store(), whole=whole)
        if "".join(text.split()) in ("{}", "[]"):
            assert file.load() == {}
        else:
            with pytest.raises(ConfigError) as caught:
                file.load()
            assert (" --whole" in caught.value.hint) == whole


def test_a_file_with_a_name_of_its_own(open_store: Callable[..., Store]) -> None:
    """A name that cannot name a collection gives one that can, unless another is given."""
    store = open_store()
    JsonFile("guild-data.json", store=store).save({"2": {}})
    assert store["guild_data"].get("2") == {}
    JsonFile("guild-data.json", store=store, collection="guilds").save({"1": {}})
    assert store["guilds"].get("1") == {}


def test_the_store_of_the_other_face_is_refused(open_store: Callable[..., Store]) -> None:
    """With the way out, instead of an error from within at the first call."""
    store = open_store()
    with pytest.raises(ConfigError):
        JsonFile("g.json", store=store.as_async())  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        AsyncJsonFile("g.json", store=store)  # type: ignore[arg-type]


def test_migrated_files_are_loaded_as_they_were(tmp_path: Path) -> None:
    """What `standfast migrate` has stored is what json.load gave."""
    old = {"20": {"waitlist": [{"id": 1}], "n": 1.5}, "3": {"x": None, "ä": "\u2028"}}
    (tmp_path / "waitlist_data.json").write_text(json.dumps(old), encoding="utf-8")
    done = run_cli("migrate", "waitlist_data.json", cwd=tmp_path)
    assert done.code == 0, done
    with standfast.open(data_dir=tmp_path / "storage") as store:
        found = JsonFile(tmp_path / "waitlist_data.json", store=store).load()
    assert found == old
    assert list(found) == list(old)


def test_the_store_of_the_process_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changed lines: without a store, that of the environment; one for all files."""
    monkeypatch.chdir(tmp_path)
    one, two = JsonFile("a.json"), JsonFile("b.json")
    assert one.load() == {}
    one.save({1: {"x": 1}})
    two.save({"2": {}})
    assert one.calls.handle.engine is two.calls.handle.engine
    assert JsonFile("a.json").load() == {"1": {"x": 1}}

    async def awaited() -> None:
        file = AsyncJsonFile("a.json")
        assert await file.load() == {"1": {"x": 1}}
        data = {"1": {"x": 2}}
        saved = await asyncio.gather(*(file.save(data) for _ in range(3)))
        assert sum(one.written for one in saved) == 1

    asyncio.run(awaited())
    assert one.load() == {"1": {"x": 2}}
    standfast.jsonfile.shared_store().close()
    assert JsonFile("a.json").load() == {"1": {"x": 2}}
    standfast.jsonfile.shared_store().close()


def test_an_outage_does_not_stop_it(pg_database: str, tmp_path: Path) -> None:
    """Loaded once, it loads and saves without PostgreSQL, and all of it arrives, merged."""
    outage = Outage(pg_database, tmp_path)
    with outage.store("mine") as store, outage.store("theirs") as other:
        file = JsonFile("g.json", store=store)
        file.load()
        file.save({"1": {"a": 1}, "2": {"b": 1}, "3": {}})
        file.load()
        theirs = JsonFile("g.json", store=other)
        held = theirs.load()
        with outage.away():
            data = file.load()
            data["1"]["a"] = 2
            data["4"] = {"new": 1}
            del data["3"]
            assert file.save(data) == standfast.Saved(written=2, deleted=1)
            assert JsonFile("g.json", store=store).load() == data
            with pytest.raises(Unavailable):
                JsonFile("never_loaded.json", store=store).load()
        store.flush(timeout_s=20)
        held["1"]["z"] = 9
        # The other one has noticed nothing yet.
        eventually(lambda: [found.source for found in other["g"].find({"a": 2})] == ["primary"])
        assert theirs.save(held).merged == 1
        expected = {"1": {"a": 2, "z": 9}, "2": {"b": 1}, "4": {"new": 1}}
        assert JsonFile("g.json", store=other).load() == expected


@pytest.mark.process
def test_two_processes_lose_nothing_where_the_plain_file_does() -> None:
    """The pattern that loses data today, beside the same two lines over standfast."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "lost_update.py")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["standfast"]["lost"] == 0
    assert counts["plain file"]["lost"] > 0
