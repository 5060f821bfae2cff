"""Slips in calls: each is refused where it is made, writes nothing, and stops nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from standfast import MISSING, ConfigError, ConflictError, DataError
from standfast.api.sync import Collection, Store


@pytest.fixture
def views(store: Store) -> Collection[Any]:
    return store["views"]


def test_two_documents_for_one_key_are_refused(views: Collection[Any]) -> None:
    """1 and "1" are one key: `put_many` would let the last one win in silence."""
    both: dict[Any, Any] = {"0": 0, 1: "a", "1": "b"}
    with pytest.raises(DataError, match="two documents for key '1'") as caught:
        views.put_many(both)
    assert caught.value.code == "bad_key"
    assert list(views) == []


def test_no_value_is_not_a_value(views: Collection[Any], store: Store) -> None:
    """MISSING stands for no value: given as one it was a receipt for nothing on one backend, and on
    another the end of every write that was sent with it."""
    views.put("1", {"n": 1, "l": []})
    calls = [
        lambda: views.put("1", MISSING),
        lambda: views.put_many({"1": MISSING}),
        lambda: views.patch("1", MISSING),
        lambda: views.set("1", "/n", MISSING),
        lambda: views.append("1", "/l", MISSING),
        lambda: views.increment("1", "/n", MISSING),  # type: ignore[arg-type]
        lambda: views.update("1", lambda value: MISSING),
        lambda: views.get_or_create("2", MISSING),
    ]
    for call in calls:
        with pytest.raises(DataError) as caught:
            call()
        assert caught.value.code == "not_json"
    with pytest.raises(DataError), store.batch() as batch:
        batch.put("views", "2", MISSING)
    assert dict(views.items()) == {"1": {"n": 1, "l": []}}


@pytest.mark.parametrize("version", [2**63, -(2**63), 10**40, -2])
def test_what_no_version_can_be_is_refused(version: int, views: Collection[Any]) -> None:
    """A number that no column can hold stopped the thread that writes, after it was sent."""
    views.put("1", 1)
    for call in (
        lambda: views.put("1", 2, if_version=version),
        lambda: views.delete("1", if_version=version),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.code == "usage"
    with pytest.raises(ConflictError):
        views.put("1", 2, if_version=2**63 - 1)
    assert views.get("1") == 1


def test_a_batch_is_not_entered_twice(views: Collection[Any], store: Store) -> None:
    """The inner block took the outer one's writes away: they were never made."""
    with store.batch() as batch:
        batch.put("views", "1", 1)
        with pytest.raises(ConfigError, match="again inside"):
            batch.__enter__()
        batch.put("views", "2", 2)
    assert list(views) == ["1", "2"]
    views.clear()
    assert list(views) == []
    with batch:
        batch.put("views", "3", 3)
    assert list(views) == ["3"]


def test_what_is_no_receipt_has_no_outcome(store: Store) -> None:
    """A coroutine that was not awaited, or None, is named as that."""
    for one in (None, 1, "receipt", object()):
        with pytest.raises(ConfigError, match="not a receipt") as caught:
            store.outcome(one)  # type: ignore[arg-type]
        assert caught.value.code == "usage"


class Player(msgspec.Struct):
    score: int = 0
    tags: tuple[str, ...] = ()


def test_a_typed_put_may_name_its_base(store: Store) -> None:
    """`base=` takes the document that `read` returned, of a typed collection too: it was refused,
    since its value is no JSON."""
    players = store.collection("players", type=Player)
    players.put("1", Player(1, ("a",)))
    document = players.read("1")
    players.put("1", Player(2), base=document)
    assert players.get("1") == Player(2)
    with pytest.raises(ConfigError, match="cannot be called"):
        store.collection("players", type=Player, upgrade=5)  # type: ignore[arg-type]
