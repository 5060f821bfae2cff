"""The synchronous API over every backend: each method, each option, each documented error."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from standfast import UNCHANGED, ConfigError, ConflictError, DataError, Unavailable
from standfast.api.sync import Store
from standfast.backends.base import Backend
from standfast.engine.embedded import EmbeddedEngine
from standfast.limits import MAX_BATCH_OPS, MAX_KEY_BYTES


class Colour(enum.IntEnum):
    RED = 7


class Name(str):
    __slots__ = ()


# ---- one document


def test_what_is_put_is_read_back(store: Store) -> None:
    """I1, I11: the value comes back with its order of members, its version and its times."""
    value = {"b": [1, 2.5, None, True], "a": {"é": "🪸\x00\ud800"}, "n": 10**40}
    receipt = store["views"].put("8138", value)
    assert (receipt.version, receipt.durable_on) == (1, "primary")
    assert receipt.lane
    assert receipt.seq == 1
    assert store["views"].get("8138") == value
    document = store["views"].read("8138")
    assert document is not None
    assert (document.key, document.value, document.version) == ("8138", value, 1)
    assert list(document.value) == ["b", "a", "n"]
    assert (document.source, document.age_s) == ("primary", 0.0)
    assert datetime(2020, 1, 1, tzinfo=UTC) < document.created_at == document.updated_at
    assert document.created_at.utcoffset() == UTC.utcoffset(None)


def test_a_missing_document_is_the_default(store: Store) -> None:
    """`get` gives the default only when there is no document: a stored null is a value."""
    views = store["views"]
    assert views.get("1") is None
    assert views.get("1", default=5) == 5
    assert views.read("1") is None
    views.put("1", None)
    assert views.get("1", default=5) is None
    document = views.read("1")
    assert document is not None
    assert document.value is None


def test_put_under_a_condition(store: Store) -> None:
    """`if_version` and `if_absent` hold or raise ConflictError, which changes nothing."""
    views = store["views"]
    assert views.put("1", "a", if_absent=True).version == 1
    assert views.put("1", "b", if_version=1).version == 2
    assert views.put("2", "c", if_version=0).version == 1
    for options, expected in (({"if_version": 1}, 1), ({"if_absent": True}, 0)):
        with pytest.raises(ConflictError) as caught:
            views.put("1", "lost", **options)
        error = caught.value
        assert (error.code, error.expected, error.actual) == ("conflict", expected, 2)
        assert not error.retryable
        assert error.hint
        assert "'1'" in error.message
        assert "views" in error.message
    with pytest.raises(ConflictError) as caught:
        views.put("3", "lost", if_version=4)
    assert caught.value.actual == 0
    assert dict(views.items()) == {"1": "b", "2": "c"}


def test_both_conditions_at_once_are_a_mistake(store: Store) -> None:
    """`if_version` together with `if_absent` is a ConfigError before anything is written."""
    with pytest.raises(ConfigError) as caught:
        store["views"].put("1", 1, if_version=1, if_absent=True)
    assert caught.value.code == "usage"
    assert store["views"].count() == 0


def test_a_document_expires(store: Store) -> None:
    """`ttl_s`: the document is gone after that time, and a put without it lives on."""
    views = store["views"]
    first = views.put("1", "short", ttl_s=1e-6).version
    views.put("2", "long", ttl_s=3600)
    for _ in range(1_000_000):
        if views.get("1") is None:
            break
    assert dict(views.items()) == {"2": "long"}
    assert views.count() == 1
    second = views.put("1", "again", if_absent=True).version
    assert first is not None
    assert second is not None
    assert second > first
    assert views.get("1") == "again"


def test_a_time_to_live_must_be_one(store: Store) -> None:
    """A time to live that is none is a ConfigError."""
    for ttl_s in (0, -1, math.nan, math.inf, 10**11):
        with pytest.raises(ConfigError) as caught:
            store["views"].put("1", 1, ttl_s=ttl_s)
        assert caught.value.code == "usage"
    assert store["views"].get("1") is None


def test_patch_changes_members(store: Store) -> None:
    """RFC 7396: null removes, objects merge, a missing document starts as {}."""
    views = store["views"]
    assert views.patch("1", {"a": 1, "b": {"c": 2}, "gone": None}).version == 1
    assert views.get("1") == {"a": 1, "b": {"c": 2}}
    assert views.patch("1", {"a": None, "b": {"d": 3}}, if_version=1).version == 2
    assert views.get("1") == {"b": {"c": 2, "d": 3}}
    with pytest.raises(ConflictError):
        views.patch("1", {"b": 1}, if_version=1)
    assert views.get("1") == {"b": {"c": 2, "d": 3}}


def test_append_returns_the_list(store: Store) -> None:
    """`append` adds at a pointer, creates what is missing, and returns the list as it is then."""
    views = store["views"]
    assert views.append("1", "/waitlist", {"id": 1}) == [{"id": 1}]
    assert views.append("1", "/waitlist", {"id": 2}) == [{"id": 1}, {"id": 2}]
    assert views.append("2", "", "a") == ["a"]
    assert views.append("2", "", "b") == ["a", "b"]
    assert views.get("1") == {"waitlist": [{"id": 1}, {"id": 2}]}


def test_increment_returns_the_number(store: Store) -> None:
    """`increment` adds to a number at a pointer, 1 by default, exactly at any size."""
    views = store["views"]
    assert views.increment("1", "/n") == 1
    assert views.increment("1", "/n", 10**30) == 10**30 + 1
    assert views.increment("1", "/n", -(10**30)) == 1
    assert views.increment("1", "/f", 0.5) == 0.5
    assert views.increment("2", "") == 1
    assert views.get("1") == {"n": 1, "f": 0.5}


IMPOSSIBLE: list[tuple[str, Callable[[Any], Any]]] = [
    ("wrong_type", lambda c: c.append("1", "/text", 1)),
    ("bad_index", lambda c: c.append("1", "/list/7/x", 1)),
    ("bad_pointer", lambda c: c.append("1", "list", 1)),
    ("bad_pointer", lambda c: c.append("1", "/a~2", 1)),
    ("bad_pointer", lambda c: c.append("1", 5, 1)),
    ("wrong_type", lambda c: c.increment("1", "/text")),
    ("wrong_type", lambda c: c.increment("1", "/list")),
    ("wrong_type", lambda c: c.increment("1", "/n", "5")),
    ("wrong_type", lambda c: c.increment("1", "/n", True)),
    ("not_finite", lambda c: c.increment("1", "/n", math.nan)),
    ("not_finite", lambda c: c.increment("1", "/big", 1.7e308)),
]


def test_an_impossible_change_is_refused(store: Store) -> None:
    """A change that does not fit the document is a DataError and changes nothing."""
    value = {"text": "t", "list": [1], "n": 1, "big": 1.7e308}
    store["views"].put("1", value)
    for number, (code, change) in enumerate(IMPOSSIBLE):
        with pytest.raises(DataError) as caught:
            change(store["views"])
        assert (number, caught.value.code) == (number, code)
    document = store["views"].read("1")
    assert document is not None
    assert (document.value, document.version) == (value, 1)


def test_update_is_read_modify_write(store: Store) -> None:
    """`update` puts what the function makes of the value; a default stands for what is missing."""
    views = store["views"]
    default: dict[str, Any] = {"list": []}

    def add(value: Any) -> Any:
        value["list"].append(len(value["list"]))
        return value

    assert views.update("1", add, default=default) == {"list": [0]}
    assert views.update("1", add, default=default) == {"list": [0, 1]}
    assert views.get("1") == {"list": [0, 1]}
    assert default == {"list": []}


def test_update_refuses_none_and_may_leave_it(store: Store) -> None:
    """A change that returns None is refused; UNCHANGED writes nothing and returns what is there."""
    views = store["views"]
    views.put("1", {"n": 1})

    def forgetful(value: Any) -> Any:
        value["n"] = 2

    with pytest.raises(DataError) as caught:
        views.update("1", forgetful)
    assert caught.value.code == "returned_none"

    def spoil(value: Any) -> Any:
        value["n"] = 3
        return UNCHANGED

    assert views.update("1", spoil) == {"n": 1}
    assert views.update("2", lambda _: UNCHANGED, default=7) == 7
    found = views.read("1")
    assert found is not None
    assert (found.value, found.version, views.count()) == ({"n": 1}, 1, 1)

    async def later(value: Any) -> Any:
        return value

    with pytest.raises(ConfigError) as refused:
        views.update("1", later)
    assert refused.value.code == "usage"


def test_update_keeps_the_expiry(store: Store) -> None:
    """`update` leaves the expiry as it is; a put without `ttl_s` takes it away."""
    views = store["views"]
    views.put("1", 1, ttl_s=timedelta(hours=1))
    before = views.read("1")
    views.update("1", lambda value: value + 1)
    after = views.read("1")
    assert before is not None
    assert after is not None
    assert after.expires_at == before.expires_at is not None
    views.put("1", 1)
    plain = views.read("1")
    assert plain is not None
    assert plain.expires_at is None


def test_update_of_nothing_needs_a_default(store: Store) -> None:
    """Without a default, updating a missing document is ConflictError("missing")."""
    with pytest.raises(ConflictError) as caught:
        store["views"].update("1", lambda value: value)
    assert (caught.value.code, caught.value.actual) == ("missing", 0)
    assert store["views"].count() == 0


def test_a_failing_update_writes_nothing(store: Store) -> None:
    """An exception in the function, or a result that is not JSON, leaves the document alone."""
    store["views"].put("1", 1)
    with pytest.raises(ZeroDivisionError):
        store["views"].update("1", lambda value: value / 0)
    with pytest.raises(DataError):
        store["views"].update("1", lambda value: {value})
    document = store["views"].read("1")
    assert document is not None
    assert (document.value, document.version) == (1, 1)


def test_delete(store: Store) -> None:
    """`delete` removes under an optional condition; what is not there is no error (version 0)."""
    views = store["views"]
    views.put("1", 1)
    with pytest.raises(ConflictError):
        views.delete("1", if_version=5)
    assert views.delete("1", if_version=1).version == 2
    assert views.delete("1").version == 0
    assert views.get("1") is None
    assert views.put("1", 1).version == 3


def test_pop_takes_the_value(store: Store) -> None:
    """`pop` returns the value once, then the default."""
    store["views"].put("1", {"a": 1})
    assert store["views"].pop("1") == {"a": 1}
    assert store["views"].pop("1") is None
    assert store["views"].pop("1", "default") == "default"


def test_get_or_create(store: Store) -> None:
    """`get_or_create` stores the default once; what it returns is not the caller's object."""
    default: dict[str, Any] = {"list": []}
    created = store["views"].get_or_create("1", default)
    created["list"].append(1)
    assert store["views"].get_or_create("1", {"other": 1}) == {"list": []}
    assert default == {"list": []}
    assert store["views"].get_or_create("2", None) is None
    assert store["views"].read("2") is not None


# ---- many documents


def test_many_documents_at_once(store: Store) -> None:
    """`put_many` and `get_many` go in pages; int keys are strings; missing ones are left out."""
    views = store["views"]
    receipts = views.put_many({number: {"n": number} for number in range(2100)})
    assert len(receipts) == views.count() == 2100
    assert {receipt.version for receipt in receipts.values()} == {1}
    assert receipts.keys() >= {"0", "2099"}
    found = views.get_many([*range(2100), "none", 5])
    assert found == {str(number): {"n": number} for number in range(2100)}
    assert views.get_many([]) == {}
    assert views.put_many({}) == {}


def test_put_many_checks_all_before_it_writes(store: Store) -> None:
    """One value that is not JSON, or one bad key, and nothing at all is written."""
    good = {str(number): number for number in range(1500)}
    for bad in ({"bad": {"x": math.nan}}, {b"bad": 1}):
        with pytest.raises(DataError):
            store["views"].put_many(good | bad)  # type: ignore[operator]
    assert store["views"].count() == 0


def test_keys_in_pages(store: Store) -> None:
    """`keys` goes in bytewise order, either way: with a prefix, behind a key, up to a limit."""
    views = store["views"]
    views.put_many(dict.fromkeys(["b", "a", "ab", "aé", "B", "", "10", "9"], 0))
    assert list(views.keys()) == ["", "10", "9", "B", "a", "ab", "aé", "b"]
    assert list(views.keys(prefix="a")) == ["a", "ab", "aé"]
    assert list(views.keys(prefix="a", after="a", limit=1)) == ["ab"]
    assert list(views.keys(after="", limit=2)) == ["10", "9"]
    assert list(views.keys(after="b")) == []
    assert list(views.keys(prefix=1, after=1)) == ["10"]  # type: ignore[arg-type]
    assert list(views.keys(reverse=True)) == ["b", "aé", "ab", "a", "B", "9", "10", ""]
    assert list(views.keys(prefix="a", after="aé", reverse=True)) == ["ab", "a"]
    assert list(views.keys(prefix="a", limit=1, reverse=True)) == ["aé"]


def test_a_limit_is_a_number_of_documents(store: Store) -> None:
    """A limit that is not a number above 0 is a ConfigError."""
    for limit in (0, -1, True, "3"):
        with pytest.raises(ConfigError) as caught:
            store["views"].keys(limit=limit)  # type: ignore[arg-type]
        assert caught.value.code == "usage"


def test_items_goes_through_everything(store: Store) -> None:
    """`items` crosses pages without missing or repeating, also while documents are deleted."""
    views = store["views"]
    views.put_many({f"{number:05}": number for number in range(2050)})
    assert [key for key, _ in views.items(prefix="0010")] == [f"0010{n}" for n in range(10)]
    seen: list[int] = []
    for key, value in views.items():
        seen.append(value)
        if value % 500 == 0:
            views.delete(key)
    assert seen == list(range(2050))
    assert views.count() == 2045


def test_find_by_containment(store: Store) -> None:
    """`find` gives documents that contain the query, in key order, over pages, by prefix."""
    views = store["views"]
    modes = ("normal", "doubleup")
    views.put_many(
        {f"{n:04}": {"mode": modes[n % 2], "n": n, "tags": ["x", n]} for n in range(2400)}
    )
    found = list(views.find({"mode": "doubleup"}))
    assert [document.value["n"] for document in found] == list(range(1, 2400, 2))
    assert {document.version for document in found} == {1}
    keys = [document.key for document in views.find({"tags": [7]})]
    assert keys == ["0007"]
    assert [d.key for d in views.find({"mode": "doubleup"}, prefix="000")] == [
        *("0001", "0003", "0005", "0007", "0009")
    ]
    assert list(views.find({"mode": "none"})) == []
    assert len(list(views.find({}))) == 2400
    indexed = store.collection("views", index=True)
    assert [document.key for document in indexed.find({"n": 5})] == ["0005"]


def test_find_needs_a_query(store: Store) -> None:
    """`find(None)` would mean nothing or everything: ConfigError; not JSON: DataError."""
    store["views"].put("1", None)
    with pytest.raises(ConfigError) as usage:
        store["views"].find(None)
    assert usage.value.code == "usage"
    with pytest.raises(DataError) as data:
        store["views"].find({"a": math.inf})
    assert data.value.path == "$.a"


# ---- collections


def test_collections_are_apart(store: Store) -> None:
    """The same key in two collections is two documents; names are listed when they exist."""
    assert store.collections() == []
    store["views"].put("1", "view")
    store["waitlist_data"].put("1", "list")
    assert store.collections() == ["views", "waitlist_data"]
    assert store["views"].get("1") == "view"
    assert store["views"] is store["views"] is store.collection("views")
    assert store["views"].name == "views"
    assert store["never"].get("1") is None
    assert store.collections() == ["views", "waitlist_data"]


BAD_NAMES = [
    *("", "1a", "a-b", "a b", "ä", "a.b", 'a"b', "a\n", "x" * 51, 5, None),
    *("standfast", "_standfast_lanes", "pg_class", "PG_x", "sqlite_master", "Standfast2"),
]


def test_a_collections_name_can_be_a_tables_name(store: Store) -> None:
    """A name that no table can safely have is ConfigError("bad_collection")."""
    for name in BAD_NAMES:
        for use in (store.__getitem__, store.collection):
            with pytest.raises(ConfigError) as caught:
                use(name)
            assert caught.value.code == "bad_collection"
        with store.batch() as batch, pytest.raises(ConfigError):
            batch.put(name, "1", 1)
    assert store.collections() == []


def test_any_other_name_is_fine(store: Store) -> None:
    """Words of SQL, capitals and 50 characters are names like any other."""
    names = sorted(["x" * 50, "_x", "select", "order", "X1", "data", "key"])
    for name in names:
        store.collection(name, index=True).put("1", {"a": 1})
        assert store[name].patch("1", {"b": 2}).version == 2
        assert [document.value for document in store[name].find({"b": 2})] == [{"a": 1, "b": 2}]
    assert store.collections() == names


# ---- keys and values


def test_an_int_key_is_its_decimal_string(store: Store) -> None:
    """42 and "42" are one key, in every method."""
    views = store["views"]
    keys: list[tuple[Any, str]] = [(42, "42"), (-1, "-1"), (10**30, str(10**30))]
    for key, text in [*keys, (Colour.RED, "7"), (Name("n"), "n")]:
        views.put(key, {})
        assert views.get(text) == views.get(key) == {}
        assert list(views.keys()) == [text]
        assert type(next(views.keys())) is str
        assert views.get_many([key]) == {text: {}}
        assert views.increment(key, "/n") == 1
        assert views.append(key, "/l", 1) == [1]
        assert views.update(key, lambda value: value) == {"n": 1, "l": [1]}
        assert views.get_or_create(key, None) == {"n": 1, "l": [1]}
        with store.batch() as batch:
            batch.patch("views", key, {"n": None})
        assert views.pop(key) == {"l": [1]}


BAD_KEYS: list[Any] = [
    *(True, None, 1.5, b"1", ("a",), "a\x00b", "\ud800"),
    *("é" * 600, "x" * (MAX_KEY_BYTES + 1), 10**1024, 10**5000),
]


def test_a_bad_key_is_refused(store: Store) -> None:
    """Anything but a string or an int, and what no database keeps, is DataError("bad_key")."""
    views = store["views"]
    calls: list[Callable[[Any], Any]] = [
        lambda key: views.put(key, 1),
        lambda key: views.patch(key, {}),
        lambda key: views.append(key, "", 1),
        lambda key: views.increment(key, ""),
        lambda key: views.update(key, lambda value: value, default=1),
        lambda key: views.delete(key),
        lambda key: views.pop(key),
        lambda key: views.get(key),
        lambda key: views.read(key),
        lambda key: views.get_or_create(key, 1),
        lambda key: views.get_many(["1", key]),
        lambda key: views.put_many({"1": 1, key: 1}),
        lambda key: views.put_if_absent(key, 1),
        lambda key: views.touch(key, 1),
        lambda key: views.set(key, "", 1),
        lambda key: views.remove(key, "/a"),
        lambda key: views.exists(key),
        lambda key: views.delete_many(["1", key]),
        lambda key: key in views,
        lambda key: views.keys(prefix=key),
        lambda key: views.keys(after=key) if key is not None else views.put(key, 1),
        lambda key: views.items(prefix=key),
        lambda key: views.find({}, prefix=key),
    ]
    for number, key in enumerate(BAD_KEYS):
        for call in calls:
            with pytest.raises(DataError) as caught:
                call(key)
            assert (number, caught.value.code) == (number, "bad_key")
    assert store.collections() == []


NOT_JSON: list[tuple[Any, str, str]] = [
    ({"a": [1, math.nan]}, "not_finite", "$.a[1]"),
    (-math.inf, "not_finite", "$"),
    ({"a": b"x"}, "not_json", "$.a"),
    ([{1, 2}], "not_json", "$[0]"),
    ((1, 2), "not_json", "$"),
    ({"a": {1: 2}}, "not_json", "$.a"),
    (datetime(2025, 1, 1, tzinfo=UTC), "not_json", "$"),
    ({"a": object()}, "not_json", "$.a"),
]


def test_what_is_not_json_is_refused_with_its_place(store: Store) -> None:
    """I11: a value that JSON would change is refused before anything is sent."""
    views = store["views"]
    calls: list[Callable[[Any], Any]] = [
        lambda value: views.put("1", value),
        lambda value: views.patch("1", value),
        lambda value: views.append("1", "/x", value),
        lambda value: views.get_or_create("1", value),
        lambda value: views.update("1", lambda _: value, default=1),
        lambda value: views.set("1", "/x", value),
        lambda value: views.put_if_absent("1", value),
        lambda value: views.put_many({"1": value}),
    ]
    for value, code, path in NOT_JSON:
        for call in calls:
            with pytest.raises(DataError) as caught:
                call(value)
            assert (caught.value.code, caught.value.path) == (code, path)
            assert path in caught.value.message
    assert store.collections() == []


# ---- batches


def test_a_batch_writes_everything(store: Store) -> None:
    """A batch over several collections is written when its block ends; receipts are in order."""
    store["views"].put("2", 1)
    with store.batch() as batch:
        batch.put("views", "1", {"a": 1}, if_absent=True)
        batch.patch("views", 1, {"b": 2}, if_version=1)
        batch.append("waitlist", "1", "/list", "x")
        batch.increment("waitlist", "1", "/n", 5)
        batch.delete("views", "2", if_version=1)
        assert store["views"].get("1") is None
    assert store["views"].get("1") == {"a": 1, "b": 2}
    assert store["views"].get("2") is None
    assert store["waitlist"].get("1") == {"list": ["x"], "n": 5}
    assert [receipt.version for receipt in batch.receipts] == [1, 2, 1, 2, 2]
    assert len({receipt.seq for receipt in batch.receipts}) == 5


def test_a_batch_writes_nothing_when_one_write_is_refused(store: Store) -> None:
    """A conflict or a bad change in a batch raises the culprit's error; nothing is written."""
    store["views"].put("1", "text")
    batch = store.batch()

    def conflicting() -> None:
        with batch:
            batch.put("views", "2", 1)
            batch.put("views", "1", 1, if_version=7)
            batch.put("others", "1", 1)

    def impossible() -> None:
        with batch:
            batch.delete("views", "1")
            batch.put("views", "1", "new")
            batch.increment("views", "1", "")

    with pytest.raises(ConflictError) as conflict:
        conflicting()
    assert (conflict.value.expected, conflict.value.actual) == (7, 1)
    assert "'1'" in conflict.value.message
    assert batch.receipts == []
    with pytest.raises(DataError) as data:
        impossible()
    assert batch.receipts == []
    assert data.value.code == "wrong_type"
    assert dict(store["views"].items()) == {"1": "text"}
    assert store["others"].count() == 0


def test_a_batch_writes_nothing_when_its_block_fails(store: Store) -> None:
    """An exception in the block, a refused value among them, is passed on; nothing is written."""

    def failing(value: Any) -> None:
        with store.batch() as batch:
            batch.put("views", "1", 1)
            batch.put("views", "2", 1 / value)

    with pytest.raises(ZeroDivisionError):
        failing(0)
    with pytest.raises(DataError):
        failing(math.nan)
    assert store.collections() == []


def test_a_batch_is_written_to_in_its_block(store: Store) -> None:
    """Outside of the block, where a write would be lost, it is a ConfigError."""
    batch = store.batch()
    with pytest.raises(ConfigError) as caught:
        batch.put("views", "1", 1)
    assert caught.value.code == "usage"
    with batch:
        batch.put("views", "1", 1)
    with pytest.raises(ConfigError):
        batch.delete("views", "1")
    with batch:
        batch.increment("views", "1", "")
    assert store["views"].get("1") == 2
    assert [receipt.version for receipt in batch.receipts] == [2]


def test_a_batch_has_a_limit(store: Store) -> None:
    """I7: one write too many is DataError("batch_too_large"), and nothing is written."""

    def write(writes: int) -> None:
        with store.batch() as batch:
            for _ in range(writes):
                batch.increment("views", "1", "")

    with pytest.raises(DataError) as caught:
        write(MAX_BATCH_OPS + 1)
    assert caught.value.code == "batch_too_large"
    assert store.collections() == []
    write(0)
    assert store.collections() == []
    write(MAX_BATCH_OPS)
    assert store["views"].get("1") == MAX_BATCH_OPS


# ---- closing


def test_a_closed_store_says_so(store: Store) -> None:
    """After `close`, which may come twice, every call is Unavailable("closed")."""
    views = store["views"]
    views.put("1", 1)
    with store.batch() as batch:
        batch.put("views", "2", 2)
    pending = store.batch()
    store.close()
    store.close()
    calls: list[Callable[[], Any]] = [
        lambda: views.put("1", 1),
        lambda: views.patch("1", {}),
        lambda: views.append("1", "", 1),
        lambda: views.increment("1", ""),
        lambda: views.update("1", lambda value: value),
        lambda: views.delete("1"),
        lambda: views.pop("1"),
        lambda: views.get("1"),
        lambda: views.read("1"),
        lambda: views.get_or_create("1", 1),
        lambda: views.get_many(["1"]),
        lambda: views.put_many({"1": 1}),
        lambda: views.touch("1", 1),
        lambda: views.set("1", "/a", 1),
        lambda: views.remove("1", "/a"),
        lambda: views.exists("1"),
        lambda: views.delete_many(["1"]),
        lambda: views.clear(),
        lambda: views.first(),
        lambda: views.keys(),
        lambda: views.items(),
        lambda: views.find({}),
        lambda: views.count(),
        lambda: store["others"].get("1"),
        lambda: store.collections(),
        lambda: store.collection("views", index=True),
        lambda: store.batch(),
        lambda: _one_put(pending),
    ]
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "closed"
        assert caught.value.hint


def _one_put(batch: Any) -> None:
    with batch:
        batch.put("views", "1", 1)


def test_what_was_written_is_there_after_closing(make_backend: Callable[[], Backend]) -> None:
    """I1: a write that returned is found by the next store, whose lane is another."""
    with Store(EmbeddedEngine(make_backend())) as store:
        first = store["views"].put("1", {"b": 1, "a": 2})
    with Store(EmbeddedEngine(make_backend())) as store:
        assert list(store["views"].get("1")) == ["b", "a"]
        second = store["views"].put("1", 0)
        assert (first.version, second.version) == (1, 2)
        assert first.lane != second.lane
