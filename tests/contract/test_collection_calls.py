"""Deleting, expiry, places, iterating, conditions and habits, over every backend."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from standfast import ConfigError, ConflictError, DataError, Receipt, ge, gt, le, lt
from standfast.api.collection import PAGE
from standfast.api.sync import Collection, Store


class Player(msgspec.Struct):
    name: str
    score: int = 0


@pytest.fixture
def views(store: Store) -> Collection[Any]:
    return store["views"]


# ---- expiry


def test_touch_prolongs_and_never_ends(views: Collection[Any]) -> None:
    """`touch` gives a document another time to live, or none; a false receipt: there is none."""
    views.put("1", {"n": 1}, ttl_s=60)
    assert views.touch("1", timedelta(hours=2))
    found = views.read("1")
    assert found is not None
    assert found.expires_at is not None
    left = found.expires_at - datetime.now(UTC)
    assert timedelta(hours=1) < left < timedelta(hours=3)
    assert (found.value, found.version) == ({"n": 1}, 2)
    assert views.touch("1", None)
    assert [d.expires_at for d in views.find({})] == [None]
    assert not views.touch("2", 60)


def test_a_time_to_live_is_seconds_or_a_timedelta(views: Collection[Any]) -> None:
    """Booleans, strings, nothing and what is not above 0 are refused, in every call."""
    bad: list[Any] = [True, "60", 0, -1, timedelta(0), timedelta(days=-1), float("nan"), 10**12, []]
    for ttl_s in bad:
        for call in (
            lambda ttl_s=ttl_s: views.put("1", 1, ttl_s=ttl_s),
            lambda ttl_s=ttl_s: views.put_many({"1": 1}, ttl_s=ttl_s),
            lambda ttl_s=ttl_s: views.touch("1", ttl_s),
        ):
            with pytest.raises(ConfigError) as caught:
                call()
            assert caught.value.code == "usage"
    views.put_many({"1": 1, "2": 2}, ttl_s=timedelta(seconds=90))
    assert all(d.expires_at is not None for d in map(views.read, ("1", "2")) if d is not None)


# ---- deleting


def test_many_are_deleted_at_once(views: Collection[Any]) -> None:
    """`delete_many` says of each key whether there was a document."""
    views.put_many({"a": 1, "b": 2})
    receipts = views.delete_many(["a", "c", 7, "a"])
    assert {key: bool(receipt) for key, receipt in receipts.items()} == {
        "a": True,
        "c": False,
        "7": False,
    }
    assert list(views) == ["b"]


def test_a_prefix_is_deleted_and_nothing_else(views: Collection[Any]) -> None:
    """`delete(prefix=)` takes exactly the keys that begin so, over pages; `clear` takes all."""
    keys = [f"s/{number:04}" for number in range(PAGE + 2)]
    views.put_many(dict.fromkeys([*keys, "s", "s.", "s0", "S/1", "t"], 1))
    assert views.delete(prefix="s/") == len(keys)
    assert list(views.keys()) == ["S/1", "s", "s.", "s0", "t"]
    assert views.delete(prefix="s/") == 0
    assert views.clear() == 5
    assert views.clear() == 0
    assert views.count() == 0


def test_a_prefix_is_not_mixed_with_a_key(views: Collection[Any]) -> None:
    """An empty prefix, a key beside it and a condition are refused: nothing is deleted."""
    views.put("1", 1)
    wrong: list[dict[str, Any]] = [
        {"prefix": ""},
        {"prefix": "1", "key": "1"},
        {"prefix": "1", "if_version": 1},
    ]
    for options in wrong:
        with pytest.raises(ConfigError):
            views.delete(**options)
    with pytest.raises(DataError):
        views.delete()  # type: ignore[call-overload]
    assert views.exists("1")


# ---- whole collections


def test_copy_and_rename(store: Store) -> None:
    """Every document arrives with its exact text and its expiry; a second call finds it done."""
    views = store["views"]
    views.put_many({f"{number:04}": {"n": number} for number in range(501)})
    views.put("late", {"b": 1.0, "a": 10**30}, ttl_s=3600)
    assert store.copy("views", "copied") == 502
    assert store.copy("views", "copied") == 502
    assert store.rename("views", "moved") == 502
    assert store.rename("views", "moved") == 0
    assert views.count() == 0
    for name in ("copied", "moved"):
        assert list(store[name].items())[500:] == [
            ("0500", {"n": 500}),
            ("late", {"b": 1.0, "a": 10**30}),
        ]
        found = store[name].read("late")
        assert found is not None
        assert list(found.value) == ["b", "a"]
        assert found.expires_at is not None


def test_nothing_is_overwritten_by_a_copy(store: Store) -> None:
    """A key that is taken in the target is a ConflictError; both documents stay as they were."""
    store["a"].put_many({"1": 1, "2": 2})
    for call, target in ((store.copy, "b"), (store.rename, "c")):
        store[target].put("2", "other")
        with pytest.raises(ConflictError) as caught:
            call("a", target)
        assert f"key '2' in `{target}`" in str(caught.value)
        assert (store["a"].get("2"), store[target].get("2")) == (2, "other")
    with pytest.raises(ConfigError):
        store.copy("a", "a")


# ---- places inside a document


def test_places_are_set_and_removed(views: Collection[Any]) -> None:
    """`set` replaces or creates one place, `remove` takes one out; the rest and the expiry stay."""
    views.put("1", {"a": {"b": 1}, "l": [1, 2]}, ttl_s=600)
    before = views.read("1")
    assert views.set("1", "/a/c", [1])
    assert views.set("1", "/l/0", None)
    assert views.remove("1", "/a/b")
    assert not views.remove("1", "/a/b")
    after = views.read("1")
    assert before is not None
    assert after is not None
    assert after.value == {"a": {"c": [1]}, "l": [None, 2]}
    assert (after.version, after.expires_at) == (4, before.expires_at)
    assert views.set("2", "/new/deep", 1)
    assert views.get("2") == {"new": {"deep": 1}}
    assert views.set("2", "", [3])
    assert views.get("2") == [3]
    with pytest.raises(ConflictError):
        views.set("2", "/0", 1, if_version=9)


def test_a_place_that_cannot_be_is_refused(views: Collection[Any]) -> None:
    """Steps into scalars, missing elements, bad pointers and the removal of the whole."""
    views.put("1", {"n": 1, "l": [1]})
    for pointer, code in (("/n/x", "wrong_type"), ("/l/1", "bad_index"), ("n", "bad_pointer")):
        with pytest.raises(DataError) as caught:
            views.set("1", pointer, 1)
        assert caught.value.code == code
    for pointer in ("", "n"):
        with pytest.raises(DataError) as caught:
            views.remove("1", pointer)
        assert caught.value.code == "bad_pointer"
    assert not views.remove("1", "/n/x")
    assert not views.remove("2", "/n")
    assert views.get("1") == {"n": 1, "l": [1]}


# ---- iterating


def test_first_and_last(views: Collection[Any]) -> None:
    """The documents at both ends, of all or of a prefix; None where there is none."""
    assert views.first() is None
    views.put_many({"b1": 1, "a": 2, "b2": 3})
    ends = [views.first(), views.last(), views.first(prefix="b"), views.last(prefix="a")]
    assert [found.value for found in ends if found] == [2, 3, 1, 2]
    assert views.last(prefix="c") is None


def test_items_and_find_take_a_range(views: Collection[Any]) -> None:
    """`items` and `find` go either way, behind a key, up to a limit, over pages."""
    views.put_many({f"{number:04}": {"n": number % 2} for number in range(PAGE + 10)})
    assert len(list(views.items())) == PAGE + 10
    assert [key for key, _ in views.items(reverse=True, limit=2)] == ["1009", "1008"]
    assert [d.key for d in views.find({"n": 1}, after="0005", limit=2)] == ["0007", "0009"]
    found = views.find({"n": 0}, after="0005", reverse=True)
    assert [d.key for d in found] == ["0004", "0002", "0000"]


def test_comparisons(views: Collection[Any]) -> None:
    """Numbers compare with numbers, strings with strings, and nothing else is found."""
    values: list[Any] = [9, 10, 10.5, 2**70, "10", "é", True, None, [11], {"x": 11}]
    views.put_many({str(number): {"xp": value} for number, value in enumerate(values)})
    views.put_many({"a": {"in": {"xp": 3}, "k": "y"}, "b": 11, "c": {}})
    cases: list[tuple[Any, list[str]]] = [
        ({"xp": gt(9)}, ["1", "2", "3"]),
        ({"xp": ge(9) & lt(10.5)}, ["0", "1"]),
        ({"xp": le(2**70) & gt(10.5)}, ["3"]),
        ({"xp": ge("10")}, ["4", "5"]),
        ({"xp": lt("é")}, ["4"]),
        ({"in": {"xp": lt(4)}, "k": "y"}, ["a"]),
        ({"in": {"xp": lt(4)}, "k": "z"}, []),
        (gt(10), ["b"]),
    ]
    for query, keys in cases:
        assert [found.key for found in views.find(query)] == keys, query
    for wrong in (lambda: gt(True), lambda: gt(None), lambda: lt(float("inf"))):  # type: ignore[arg-type]
        with pytest.raises(DataError):
            wrong()
    with pytest.raises(DataError):
        views.find({"xp": [gt(1)]})


def test_find_by_the_time_of_the_last_change(views: Collection[Any]) -> None:
    """`order_by="updated_at"` gives the oldest or the newest changes first; it needs a limit."""
    for key in ("c", "a", "b", "d"):
        views.put(key, {"n": 1})
    views.put("a", {"n": 1})
    found = views.find({}, order_by="updated_at", limit=3)
    assert [d.key for d in found] == ["c", "b", "d"]
    found = views.find({}, order_by="updated_at", limit=2, reverse=True)
    assert [d.key for d in found] == ["a", "d"]
    wrong: list[dict[str, Any]] = [{}, {"limit": 10**6}, {"limit": 1, "after": "a"}]
    for options in wrong:
        with pytest.raises(ConfigError):
            views.find({}, order_by="updated_at", **options)
    with pytest.raises(ConfigError):
        views.find({}, order_by="size", limit=1)  # type: ignore[arg-type]


# ---- conditions


def test_put_if_absent_and_exists(views: Collection[Any]) -> None:
    """`put_if_absent` says whether it was put; `exists` whether there is one."""
    assert not views.exists("1")
    assert views.put_if_absent("1", 1, ttl_s=60) is True
    assert views.put_if_absent("1", 2) is False
    assert views.exists("1")
    assert views.get("1") == 1


def test_an_independent_batch_refuses_one_by_one(store: Store) -> None:
    """Each write of an independent batch is made or refused alone; `results` has all, in order."""
    store["views"].put("1", {"n": "x"})
    with store.batch(independent=True) as batch:
        batch.put("views", "1", 1, if_version=7)
        batch.put("views", "2", 2, if_absent=True)
        batch.increment("views", "1", "/n")
        batch.set("others", "1", "/a", 1)
        batch.remove("views", "1", "/n")
        batch.touch("views", "1", 60)
    kinds = [type(result) for result in batch.results]
    assert kinds == [ConflictError, Receipt, DataError, Receipt, Receipt, Receipt]
    assert len(batch.receipts) == 4
    assert dict(store["views"].items()) == {"1": {}, "2": 2}


# ---- habits


def test_habits(views: Collection[Any]) -> None:
    """`in` and `for` work; `len` and `[]` name the call to use; a collection is always true."""
    views.put_many({"a": 1, "b": 2})
    assert "a" in views
    assert "c" not in views
    assert list(views) == ["a", "b"]
    for habit, call in (
        (lambda: len(views), "count()"),
        (lambda: views["a"], "get(key)"),
        (lambda: views.__setitem__("a", 1), "put(key, value)"),
        (lambda: views.__delitem__("a"), "delete(key)"),
    ):
        with pytest.raises(TypeError, match="a collection has no") as caught:
            habit()
        assert call in str(caught.value)
    views.clear()
    assert views


# ---- typed collections


def test_every_write_of_a_typed_collection_is_validated(store: Store) -> None:
    """Nothing is written that the collection could not read back, whatever the call."""
    players = store.collection("players", type=Player)
    players.put("1", Player("ann", 3))
    for call in (
        lambda: players.patch("1", {"score": "x"}),
        lambda: players.patch("2", {"score": 1}),
        lambda: players.append("1", "", 1),
        lambda: players.increment("1", "/score", 0.5),
        lambda: players.set("1", "/name", 1),
        lambda: players.remove("1", "/name"),
    ):
        with pytest.raises(DataError) as caught:
            call()
        assert "in `players`" in caught.value.message
    assert dict(players.items()) == {"1": Player("ann", 3)}
    assert players.increment("1", "/score", 2) == 5
    assert players.set("1", "/name", "bob")
    assert not players.remove("1", "/nothing")
    assert players.patch("2", {"name": "eve"}).version == 1
    assert players.update("2", lambda player: Player(player.name, 9)) == Player("eve", 9)
    assert dict(players.items()) == {"1": Player("bob", 5), "2": Player("eve", 9)}


def test_an_older_document_is_upgraded_before_it_is_judged(store: Store) -> None:
    """What `upgrade` makes readable may be changed; the stored form stays until it is put."""
    store["players"].put("1", {"nick": "ann", "score": 1})

    def upgrade(old: Any) -> Any:
        return {"name": old.get("nick"), "score": old.get("score", 0)}

    players = store.collection("players", type=Player, upgrade=upgrade)
    assert players.increment("1", "/score") == 2
    assert players.get("1") == Player("ann", 2)
    for call in (lambda: players.remove("1", "/nick"), lambda: players.set("1", "/score", "x")):
        with pytest.raises(DataError):
            call()

    def strict(old: Any) -> Any:
        return {"name": old["nick"]}

    store.collection("players", type=Player, upgrade=strict).put("2", Player("eve"))
    with pytest.raises(DataError):  # not the KeyError of a function that is for older documents
        store.collection("players", type=Player, upgrade=strict).set("2", "/score", "x")


def test_a_type_is_a_type(store: Store) -> None:
    """`type=` refuses values, names and classes of which JSON says nothing."""
    wrong: list[Any] = ["Player", 3, Player("ann"), object, Store, [int]]
    for kind in wrong:
        with pytest.raises(ConfigError) as caught:
            store.collection("players", type=kind)
        assert caught.value.code == "usage"
