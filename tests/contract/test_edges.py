"""What people try who come from other stores: one answer on every backend, healthy or in an outage.

Each call is made on stores that hold the same; what it returns, or the class and code of its error,
is the same everywhere, and no error of Python's own comes through.
"""

from __future__ import annotations

import decimal
import pickle
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import standfast
from standfast import UNCHANGED, Document, Receipt, StandfastError, ge, gt, le, lt
from standfast.api.sync import Collection, Store
from standfast.testing import outage

NAMES = ("c", "mixed", "prefixes", "order")
Call = Callable[[Store], Any]


class Text(str):
    __slots__ = ()


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def c(call: Callable[[Collection[Any]], Any]) -> Call:
    return lambda store: call(store["c"])


def put_and_get(key: Any, value: Any) -> Call:
    def run(store: Store) -> Any:
        store["c"].put(key, value)
        return store["c"].get(key), store["c"].delete(key)

    return run


def raising(error: BaseException) -> Callable[[Any], Any]:
    def change(_: Any) -> Any:
        raise error

    return change


def while_iterating(store: Store) -> Any:
    """Deleting and adding while the keys are iterated."""
    things = store["c"]
    things.put_many({f"i/{n}": n for n in range(5)})
    seen: list[str] = []
    for key in things.keys(prefix="i/"):
        seen.append(key)
        things.delete(key)
        things.put(f"j/{key}", 1)
    return seen, things.delete(prefix="j/"), list(things.keys(prefix="i/"))


def batch(*writes: tuple[Any, ...], independent: bool = False) -> Call:
    def run(store: Store) -> Any:
        with store.batch(independent=independent) as b:
            for kind, *rest in writes:
                getattr(b, kind)("c", *rest)
        return b.results

    return run


def failed_block(store: Store) -> Any:
    try:
        with store.batch() as b:
            b.put("c", "never", 1)
            raise KeyError("own")
    except KeyError:
        return store["c"].exists("never")


def nested_change(store: Store) -> Any:
    """`change` mutates what it was given, and what the caller holds stays."""
    given = {"l": [1]}
    store["c"].put("own", given)
    given["l"].append(2)
    found = store["c"].get("own")
    found["l"].append(3)
    return store["c"].get("own"), store["c"].delete("own")


def keys(**options: Any) -> Call:
    return lambda store: list(store["prefixes"].keys(**options))


def found(query: Any, **options: Any) -> Call:
    return lambda store: [d.key for d in store["mixed"].find(query, **options)]


VALUES: dict[str, Any] = {
    "null": None,
    "empty": [{}, [], ""],
    "bools": [True, False, 1, 0, 1.0],
    "large": 10**400,
    "negative zero": -0.0,
    "float": 1e300,
    "tiny": 5e-324,
    "nan": float("nan"),
    "infinity": [{"a": float("-inf")}],
    "bytes": b"x",
    "set": {1},
    "tuple": (1, (2,)),
    "complex": 1j,
    "decimal": decimal.Decimal("1.10"),
    "uuid": uuid.UUID(int=1),
    "naive": datetime(2026, 1, 1),  # noqa: DTZ001
    "aware": datetime(2026, 1, 1, tzinfo=UTC),
    "timedelta": timedelta(1),
    "object": object(),
    "function": len,
    "int keys": {1: 2},
    "mixed keys": {"a": 1, 2: 3},
    "none key": {None: 1},
    "bool key": {True: 1},
    "twins": {1: "a", "1": "b"},
    "surrogate": "\ud800",
    "nul": "a\0b",
    "emoji": "👩‍👩‍👧 \u200d \u202e",
    "str class": Text("x"),
    "deep": deep(90),
    "too deep": deep(5000),
}
KEYS: list[Any] = [
    *("", " ", "a/b", "%", "_", "\\", "'", '"', "\n", "ключ", "👩‍👩‍👧", "e\u0301", "\u00e9"),
    *("\0", "\ud800", "x" * 1024, "x" * 1025, "é" * 512, "é" * 513),
    *(0, -1, 10**30, True, None, 1.5, b"k", ("a",), Text("t"), ["l"]),
]
CALLS: dict[str, Call] = {
    **{f"value {name}": put_and_get("v", value) for name, value in VALUES.items()},
    **{f"key {key!r:.40}": put_and_get(key, 1) for key in KEYS},
    # expiry
    **{
        f"ttl {ttl!r}": c(lambda x, ttl=ttl: (x.put("ttl", 1, ttl_s=ttl), x.delete("ttl")))
        for ttl in (0, -1, -0.0, float("nan"), float("inf"), True, "60", timedelta(0), 1e20, 1e-9)
    },
    "ttl minus": c(lambda x: x.put("ttl", 1, ttl_s=timedelta(days=-1))),
    "touch missing": c(lambda x: x.touch("missing", 60)),
    "touch forever": c(lambda x: x.touch("object", None)),
    "touch wrong": c(lambda x: x.touch("object", "60")),
    "touch max": c(lambda x: x.touch("object", timedelta.max)),
    # reading
    "get default": c(lambda x: (x.get("missing", []), x.get("null", 1), x.get("missing"))),
    "get many": c(lambda x: x.get_many(["missing", "null", "object", "object"])),
    "get many text": c(lambda x: x.get_many("ab")),
    "get many generator": c(lambda x: x.get_many(k for k in ("null",))),
    "get many none": c(lambda x: x.get_many([])),
    "in": c(lambda x: ("null" in x, "missing" in x)),
    "len": c(len),
    "item": c(lambda x: x["null"]),
    "set item": c(lambda x: x.__setitem__("a", 1)),
    "bool": c(bool),
    "consistency": c(lambda x: x.get("null", consistency="eventual")),
    "consistency local": c(lambda x: x.get("null", consistency="local")),
    "read null": c(lambda x: x.read("null")),
    # ranges
    "keys all": keys(),
    "keys %": keys(prefix="%"),
    "keys _": keys(prefix="_"),
    "keys a_": keys(prefix="a_"),
    "keys \\": keys(prefix="\\"),
    "keys é": keys(prefix="é"),
    "keys last": keys(prefix="\U0010ffff"),
    "keys 0": keys(limit=0),
    "keys -1": keys(limit=-1),
    "keys true": keys(limit=True),
    "keys 1.0": keys(limit=1.0),
    "keys text limit": keys(limit="1"),
    "keys reverse": keys(reverse=True, limit=3),
    "keys reverse after": keys(reverse=True, after="a_"),
    "keys reverse prefix after": keys(reverse=True, prefix="a", after="ab"),
    "keys after outside": keys(prefix="a", after="z"),
    "keys after before": keys(prefix="a", after=""),
    "keys after missing": keys(after="a_0"),
    "keys after int": keys(after=1),
    "keys prefix int": keys(prefix=1),
    "keys prefix none": keys(prefix=None),
    "keys prefix nul": keys(prefix="\0"),
    "first": lambda s: s["prefixes"].first(),
    "last": lambda s: s["prefixes"].last(prefix="a"),
    "first missing": lambda s: s["prefixes"].first(prefix="zz"),
    "while iterating": while_iterating,
    # find
    "find none": found(None),
    "find empty": found({}),
    "find scalar": found(1),
    "find list": found([1]),
    "find null": found({"n": None}),
    "find 1 and 1.0": found({"n": 1.0}),
    "find true": found({"n": True}),
    "find text": found({"n": "1"}),
    "find nested": found({"o": {"p": 1}}),
    "find in list": found({"l": [2]}),
    "find order of list": found({"l": [3, 1, 1]}),
    "gt 0": found({"n": gt(0)}),
    "ge text": found({"n": ge("")}),
    "lt large": found({"n": lt(10**30)}),
    "le float": found({"n": le(1.5)}),
    "between": found({"n": gt(0) & le(1)}),
    "gt nested": found({"o": {"p": gt(0)}}),
    "gt null": lambda s: found({"n": gt(None)})(s),
    "gt true": lambda s: found({"n": gt(True)})(s),
    "gt list": lambda s: found({"n": gt([1])})(s),
    "gt nan": lambda s: found({"n": gt(float("nan"))})(s),
    "gt whole": lambda s: found(gt(1))(s),
    "gt mixed range": lambda s: found({"n": gt(1) & lt("a")})(s),
    "find nan": found({"n": float("nan")}),
    "find set": found({"n": {1}}),
    "find limit 0": found({}, limit=0),
    "find reverse after": found({}, reverse=True, after="m3", limit=2),
    "find by updated": lambda s: [
        d.key for d in s["order"].find({}, order_by="updated_at", reverse=True, limit=2)
    ],
    "find by updated without limit": found({}, order_by="updated_at"),
    "find by size": found({}, order_by="size", limit=1),
    # places
    "set missing document": c(lambda x: (x.set("fresh", "/a/b", 1), x.get("fresh"), x.clear)[:2]),
    "set gone": c(lambda x: x.delete("fresh")),
    "set pointer without slash": c(lambda x: x.set("object", "a", 1)),
    "set escape": c(lambda x: (x.set("object", "/a~1b~0c", 1), x.get("object"))),
    "set bad escape": c(lambda x: x.set("object", "/~2", 1)),
    "set end of list": c(lambda x: x.set("object", "/l/-", 1)),
    "set beyond list": c(lambda x: x.set("object", "/l/9", 1)),
    "set leading zero": c(lambda x: x.set("object", "/l/00", 1)),
    "set whole": c(lambda x: (x.set("object2", "", [1]), x.get("object2"), x.delete("object2"))),
    "set through null": c(lambda x: x.set("null", "/a", 1)),
    "set nan": c(lambda x: x.set("object", "/a", float("nan"))),
    "remove whole": c(lambda x: x.remove("object", "")),
    "remove missing document": c(lambda x: x.remove("missing", "/a")),
    "remove from text": c(lambda x: x.remove("text", "/0")),
    "append to number": c(lambda x: x.append("number", "", 1)),
    "append to missing": c(lambda x: (x.append("fresh2", "/l", None), x.delete("fresh2"))),
    "increment text": c(lambda x: x.increment("text", "")),
    "increment bool": c(lambda x: x.increment("true", "")),
    "increment by bool": c(lambda x: x.increment("number", "", True)),
    "increment by text": c(lambda x: x.increment("number", "", "1")),
    "increment by nan": c(lambda x: x.increment("number", "", float("nan"))),
    "increment float": c(
        lambda x: (x.increment("number", "", 0.5), x.increment("number", "", -0.5))
    ),
    "increment overflow": c(lambda x: (x.put("f", 1e308), x.increment("f", "", 1e308))),
    "increment large": c(lambda x: (x.put("f", 1), x.increment("f", "", 10**50), x.delete("f"))),
    "patch null": c(lambda x: (x.patch("p", None), x.get("p", "none"), x.delete("p"))),
    "patch list": c(lambda x: (x.patch("p", [1]), x.get("p"), x.delete("p"))),
    "patch nested null": c(lambda x: (x.patch("p", {"a": {"b": None}}), x.get("p"), x.delete("p"))),
    "patch a list": c(
        lambda x: (x.put("p", [1]), x.patch("p", {"a": 1}), x.get("p"), x.delete("p"))
    ),
    # update
    "update missing": c(lambda x: x.update("missing", lambda v: v)),
    "update none": c(lambda x: x.update("number", lambda v: None)),
    "update unchanged": c(lambda x: x.update("number", lambda v: UNCHANGED)),
    "update default": c(lambda x: (x.update("u", lambda v: v, default=[]), x.delete("u"))),
    "update raises": c(lambda x: x.update("number", raising(ZeroDivisionError()))),
    "update raises conflict": c(
        lambda x: x.update("number", raising(standfast.ConflictError("own")))
    ),
    "update to nan": c(lambda x: x.update("number", lambda v: float("nan"))),
    "update in place": c(lambda x: x.update("object", lambda v: v.update(z=1) or v)),
    "update deletes": c(lambda x: x.update("number", lambda v: (x.delete("missing"), v)[1])),
    "nested change": nested_change,
    # conditions
    "if_version 0": c(lambda x: x.put("null", 1, if_version=0)),
    "if_version -1": c(lambda x: x.put("null", 1, if_version=-1)),
    "if_version true": c(lambda x: x.put("null", 1, if_version=True)),
    "if_version text": c(lambda x: x.put("null", 1, if_version="1")),
    "both conditions": c(lambda x: x.put("null", 1, if_version=1, if_absent=True)),
    "put_if_absent": c(lambda x: x.put_if_absent("null", 1)),
    "get_or_create": c(lambda x: x.get_or_create("null", 1)),
    "pop": c(lambda x: (x.pop("missing"), x.pop("missing", 1))),
    # deleting
    "delete missing": c(lambda x: x.delete("missing")),
    "delete twice": c(lambda x: (x.put("d", 1), x.delete("d"), x.delete("d"))),
    "delete many text": c(lambda x: x.delete_many("ab")),
    "delete many none": c(lambda x: x.delete_many([])),
    "delete prefix empty": c(lambda x: x.delete(prefix="")),
    "delete prefix int": c(lambda x: x.delete(prefix=1)),
    "delete prefix %": c(
        lambda x: (x.put("%x", 1), x.put("yx", 1), x.delete(prefix="%"), x.delete("yx"))
    ),
    "delete nothing": c(lambda x: x.delete()),
    "put many none": c(lambda x: x.put_many({})),
    "put many bad": c(lambda x: x.put_many({"ok": 1, "bad": {1}})),
    "put many bad untouched": c(lambda x: x.exists("ok")),
    "put many twins": c(lambda x: (x.put_many({1: "a", "1": "b"}), x.get("1"), x.delete(1))),
    "put many list": c(lambda x: x.put_many([("a", 1)])),
    # batches
    "batch empty": batch(),
    "batch twice": batch(("put", "b", 1), ("put", "b", 2), ("delete", "b")),
    "batch refused": batch(("put", "b", 1), ("increment", "text", "")),
    "batch refused untouched": c(lambda x: x.exists("b")),
    "batch independent": batch(
        *(("put", "b", 1), ("increment", "text", ""), ("increment", "b", ""), ("delete", "b")),
        *(("remove", "missing", "/a"), ("touch", "missing", 60), ("set", "object", "/l/9", 1)),
        independent=True,
    ),
    "batch own error": failed_block,
    "batch bad value": batch(("put", "b", {1})),
    # collections
    "collection name": lambda s: s["no name"].get("1"),
    "collection empty name": lambda s: s[""],
    "collection int": lambda s: s[1],  # type: ignore[index]
    "collection reserved": lambda s: s["pg_x"],
    "copy to itself": lambda s: s.copy("c", "c"),
    "rename to itself": lambda s: s.rename("c", "c"),
    "drop bad name": lambda s: s.drop("a-b"),
    "type instance": lambda s: s.collection("c", type=1),
}


def plain(result: Any) -> Any:
    match result:
        case Receipt():
            return "receipt", bool(result)
        case Document():
            assert pickle.loads(pickle.dumps(result)).value == result.value
            return result.key, result.value, result.expires_at is not None
        case StandfastError():
            return type(result).__name__, result.code
        case tuple() | list():
            return [plain(one) for one in result]
        case dict():
            return {key: plain(one) for key, one in result.items()}
        case _:
            return result if not callable(result) else "call"


#: Python's own errors, where nothing of the library is at fault.
OWN = (ZeroDivisionError,)


def answer(store: Store, call: Call) -> Any:
    try:
        return repr(plain(call(store)))
    except StandfastError as error:
        hinted = error.hint or error.code in ("error", "conflict")
        return type(error).__name__, error.code if hinted else f"{error.code}, without a hint"
    except (*OWN, TypeError) as error:
        return type(error).__name__, str(error)


@pytest.fixture
def stores(pg_database: str, tmp_path: Path) -> Iterator[dict[str, Store]]:
    with ExitStack() as closing:
        opened = {
            "memory": standfast.open("memory://"),
            "sqlite": standfast.open(f"sqlite:///{tmp_path}/x.db", data_dir=tmp_path / "local"),
            "postgresql": standfast.open(pg_database, data_dir=tmp_path / "pg", deadline_s=30),
            "outage": standfast.open(
                "memory://", data_dir=tmp_path / "away", deadline_s=30, sole_writer=True
            ),
        }
        for store in opened.values():
            closing.enter_context(store)
            store["c"].put_many(
                {"null": None, "object": {"l": [1]}, "text": "x", "number": 1, "true": True}
            )
            store["prefixes"].put_many(
                dict.fromkeys(
                    ["", "a", "a_", "ab", "a%", "%", "_x", "\\", "é", "z", "\U0010ffff"], 1
                )
            )
            store["mixed"].put_many(
                {
                    f"m{n}": value
                    for n, value in enumerate(
                        [
                            *({"n": 1}, {"n": 1.0}, {"n": "1"}, {"n": None}, {"n": True}, {}),
                            *({"n": [1]}, {"n": 10**30}, {"n": -0.5}, {"o": {"p": 1}}, 1, [1, 2]),
                            *({"l": [1, 2, 3]}, None, "text", {"n": {"n": 1}}),
                        ]
                    )
                }
            )
            for key in "cab":
                store["order"].put(key, 1)
            for name in NAMES:
                list(store[name].items())
        yield opened


#: Those of which the answer itself is worth a line; the others are compared with each other alone.
WANTED: dict[str, Any] = {
    "get many text": ("ConfigError", "usage"),
    "delete many text": ("ConfigError", "usage"),
    "put many list": ("ConfigError", "usage"),
    "if_version true": ("ConfigError", "usage"),
    "if_version text": ("ConfigError", "usage"),
    "keys reverse prefix after": "['a_', 'a%', 'a']",
    "keys %": "['%']",
    "keys _": "['_x']",
    "while iterating": "[['i/0', 'i/1', 'i/2', 'i/3', 'i/4'], 5, []]",
    "gt 0": "['m0', 'm1', 'm7']",
    "ge text": "['m2']",
    "batch own error": "False",
    "nested change": "[{'l': [1]}, ('receipt', True)]",
}


def test_one_answer_everywhere(stores: dict[str, Store]) -> None:
    """The same answer, or the same error with its hint, on every backend and in an outage."""
    with outage(stores["outage"]):
        different: list[str] = []
        for name, call in CALLS.items():
            told = {where: answer(store, call) for where, store in stores.items()}
            if len(set(map(repr, told.values()))) > 1:
                different.append(f"{name}: {told}")
            assert WANTED.get(name, told["memory"]) == told["memory"], name
        assert different == [], "\n".join(different)
