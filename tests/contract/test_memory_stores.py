"""Stores in memory, for people's own tests: as real ones, in an outage too."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import standfast
from standfast import ConfigError, Document, Receipt, StandfastError
from standfast.api.sync import Store
from standfast.testing import outage, pytest_plugin, restore
from standfast.testing.pytest_plugin import standfast_async_store, standfast_store
from support.databases import temporary_database
from support.outage import Outage

__all__ = ["standfast_async_store", "standfast_store"]


def test_a_store_in_memory_is_empty_and_alone(tmp_path: Path, monkeypatch: Any) -> None:
    """`memory://` leaves nothing: no file, and nothing for the next store."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with standfast.open("memory://") as store:
            assert store["c"].put("k", 1).durable_on == "primary"
            assert store["c"].get("k") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_fixtures_are_the_plugin(
    standfast_store: standfast.Store, standfast_async_store: standfast.AsyncStore
) -> None:
    """Both fixtures are one store, for either API; the package names the plugin."""
    standfast_store["c"].put("k", 1)

    async def main() -> Any:
        return await standfast_async_store["c"].increment("k", "")

    assert asyncio.run(main()) == 2
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    named = project["project"]["entry-points"]["pytest11"]
    assert named == {"standfast": pytest_plugin.__name__}


def test_only_a_store_with_a_primary_elsewhere_has_an_outage(tmp_path: Path) -> None:
    """A local database is never away: ConfigError."""
    for url in ("memory://", f"sqlite:///{tmp_path}/x.db"):
        with standfast.open(url) as store, pytest.raises(ConfigError) as caught:
            outage(store)
        assert caught.value.code == "usage"


#: Calls before, during and after an outage.
CALLS: list[Callable[[Store], Any]] = [
    lambda s: s["c"].put("new", {"n": 1}),
    lambda s: s["c"].get("known"),
    lambda s: s["c"].read("known"),
    lambda s: s["c"].get("unknown"),
    lambda s: s["c"].read("unknown"),
    lambda s: s["c"].put("known", 1, if_version=1),
    lambda s: s["c"].put_if_absent("known", 1),
    lambda s: s["c"].put_if_absent("x", 1, provisional=True),
    lambda s: s["c"].pop("known"),
    lambda s: s["c"].increment("n", ""),
    lambda s: s["c"].append("unknown", "/l", 1),
    lambda s: s["c"].set("known", "/a", 1),
    lambda s: s["c"].set("known", "/a/b", 1),
    lambda s: s["c"].remove("known", "/gone"),
    lambda s: s["c"].touch("known", 60),
    lambda s: s["c"].touch("never", 60),
    lambda s: s["c"].update("known", lambda value: {**value, "u": 1}),
    lambda s: s["c"].delete(prefix="k"),
    lambda s: s["c"].clear(),
    lambda s: s["c"].count(),
    lambda s: list(s["c"].items()),
    lambda s: list(s["whole"].find({"n": 1})),
    lambda s: list(s["whole"].keys(reverse=True)),
    lambda s: s["whole"].first(),
    lambda s: s["c"].get("known", consistency="local"),
    lambda s: s["c"].exists("known"),
    lambda s: s["c"].delete("new"),
    lambda s: s["c"].delete_many(["n", "never"]),
    lambda s: s.collections(),
    lambda s: s.health().state,
    lambda s: s.health().lag_ops,
]


def plain(result: Any) -> Any:
    match result:
        case StandfastError():
            return type(result), result.code
        case Receipt():
            return result.version, result.durable_on, bool(result)
        case Document():
            expires = isinstance(result.expires_at, datetime)
            return result.key, result.value, repr(result.version), result.source, expires
        case list():
            return [plain(one) for one in result]
        case dict():
            return {key: plain(one) for key, one in result.items()}
        case _:
            return result


def all_of(store: Store) -> list[Any]:
    told: list[Any] = []
    for call in CALLS:
        try:
            told.append(plain(call(store)))
        except StandfastError as error:
            told.append(plain(error))
    return told


def prepare(store: Store) -> None:
    store["c"].put("known", {"a": {"x": 1}, "gone": 1}, ttl_s=3600)
    store["c"].put("n", 1)
    store["whole"].put_many({"a": {"n": 1}, "b": {"n": 2}})
    list(store["whole"].items())


def test_an_outage_on_demand_is_like_a_real_one(
    standfast_store: standfast.Store, pg_admin_url: str, pg_database: str, tmp_path: Path
) -> None:
    """Journal, conditions and reads answer as with a PostgreSQL that is away, in memory and where
    only the store's own connections are cut; then a replay."""
    real = Outage(pg_database, tmp_path)
    with real.store(deadline_s=10) as store:
        prepare(store)
        with real.away():
            store["starter"].put("1", 1)  # the store learns of it
            wanted = all_of(store)
        store.flush(timeout_s=30)
        wanted_after = dict(store["c"].items()), all_of(store)
    with (
        temporary_database(pg_admin_url) as url,
        standfast.open(url, data_dir=tmp_path / "cut", deadline_s=10) as cut,
        standfast.open(url, data_dir=tmp_path / "other") as other,
    ):
        for store in (standfast_store, cut):
            prepare(store)
            with outage(store):
                store["starter"].put("1", 1)
                assert all_of(store) == wanted
                if store is cut:
                    assert other["there"].put("1", 1).durable_on == "primary"
            if store is cut:
                assert store.drop("there")
            assert (dict(store["c"].items()), all_of(store)) == wanted_after
    outage(standfast_store)
    assert standfast_store["c"].put("k", 1).durable_on == "journal"
    restore(standfast_store)
    assert standfast_store.health().lag_ops == 0
