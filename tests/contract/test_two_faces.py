"""One store with both APIs: `Store.as_async`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import standfast
from standfast import Unavailable


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'one.db'}"
    return request.getfixturevalue("pg_prepared")


def test_both_faces_are_one_store(url: str, tmp_path: Path) -> None:
    """I12: what one API acknowledged the other reads; both close together."""
    store = standfast.open(url, data_dir=tmp_path / "data")
    twin = store.as_async()

    async def work() -> None:
        await twin["c"].put("a", 1)
        assert store["c"].get("a") == 1
        store["c"].put("b", 2)
        assert {key: value async for key, value in twin["c"].items()} == {"a": 1, "b": 2}
        async with twin.batch() as batch:
            batch.put("c", "c", 3)
        await twin.close()

    asyncio.run(work())
    with pytest.raises(Unavailable) as caught:
        store["c"].get("a")
    assert caught.value.code == "closed"
