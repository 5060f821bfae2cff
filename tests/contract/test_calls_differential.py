"""One sequence of calls has one meaning: memory, SQLite, PostgreSQL, and PostgreSQL in an outage.

Each answer is compared with that of a model in plain Python, written without the library.  The
outage is a real one; at its end everything is replayed, and then compared once more.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

import standfast
from standfast import (
    UNCHANGED,
    ConflictError,
    DataError,
    Receipt,
    StandfastError,
    Unavailable,
    ge,
    gt,
    le,
    lt,
)
from standfast.api.sync import Collection, Store
from support.hold import wait_direct
from support.outage import Outage

NAME = "things"
KEYS = ("a", "b", "c/1", "c/2")
POINTERS = ("", "/n", "/l", "/l/0", "/x/y")
#: Calls of one sequence.
LENGTH = 10
GONE = object()


# ---- the model


class Refused(Exception):
    """What a call of the model ends with."""

    def __init__(self, kind: type[StandfastError]) -> None:
        self.kind = kind


def steps_of(pointer: str) -> list[str]:
    return pointer.split("/")[1:]


def walk(value: Any, steps: list[str], change: Callable[[Any], Any]) -> Any:
    """A copy of the value, with `change` at the end of the steps; what is missing is made."""
    if not steps:
        return change(value)
    first, rest = steps[0], steps[1:]
    if value is GONE:
        value = {}
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {**members, first: walk(members.get(first, GONE), rest, change)}
    if isinstance(value, list):
        items = cast("list[Any]", value)
        if not first.isdigit() or int(first) >= len(items):
            raise Refused(DataError)
        at = int(first)
        return [*items[:at], walk(items[at], rest, change), *items[at + 1 :]]
    raise Refused(DataError)


def seek(value: Any, steps: list[str]) -> Any:
    for step in steps:
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get(step, GONE)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(cast(Any, value)):
            value = cast("list[Any]", value)[int(step)]
        else:
            return GONE
    return value


def appended(found: Any, item: Any) -> Any:
    if found is GONE:
        return [item]
    if not isinstance(found, list):
        raise Refused(DataError)
    return [*cast("list[Any]", found), item]


def added(found: Any, n: int) -> Any:
    if found is GONE:
        return n
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise Refused(DataError)
    return found + n


def patched(value: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    out: dict[str, Any] = dict(cast("dict[str, Any]", value)) if isinstance(value, dict) else {}
    for name, change in cast("dict[str, Any]", patch).items():
        if change is None:
            out.pop(name, None)
        else:
            out[name] = patched(out.get(name, GONE), change)
    return out


class Model:
    """Documents and whether they expire, by key."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Any, bool]] = {}

    def value(self, key: str) -> Any:
        return self.rows[key][0] if key in self.rows else GONE

    def store(self, key: str, value: Any, *, mortal: bool | None = None) -> None:
        kept = self.rows[key][1] if key in self.rows else False
        self.rows[key] = (value, kept if mortal is None else mortal)

    def sorted(self, prefix: str, after: str | None, limit: int | None, reverse: bool) -> list[str]:
        keys = sorted(key for key in self.rows if key.startswith(prefix))
        if reverse:
            keys.reverse()
        if after is not None:
            keys = [key for key in keys if (key < after if reverse else key > after)]
        return keys[:limit]

    def found(self, query: dict[str, Any], key: str) -> bool:
        """The queries of this test: members of objects, equal or compared."""
        value = self.value(key)
        if not isinstance(value, dict):
            return False
        for name, (sign, wanted) in query.items():
            there = cast("dict[str, Any]", value).get(name, GONE)
            alike = type(there) is type(wanted) or {type(there), type(wanted)} == {int, float}
            if not alike or not COMPARED[sign](there, wanted):
                return False
        return True

    def write(self, kind: str, key: str, *rest: Any) -> bool:
        """One write as in a batch; returns whether it changed anything."""
        value = self.value(key)
        match kind, rest:
            case "put", (new,):
                self.store(key, new, mortal=False)
            case "put_new", (new,):
                if value is not GONE:
                    raise Refused(ConflictError)
                self.store(key, new, mortal=False)
            case "patch", (patch,):
                self.store(key, patched(value, patch))
            case "set", (pointer, new):
                self.store(key, walk(value, steps_of(pointer), lambda _: new))
            case "remove", (pointer,):
                steps = steps_of(pointer)
                if not steps:
                    raise Refused(DataError)
                if seek(value, steps) is GONE:
                    return False
                self.store(key, walk(value, steps[:-1], lambda found: without(found, steps[-1])))
            case "append", (pointer, item):
                self.store(key, walk(value, steps_of(pointer), lambda found: appended(found, item)))
            case "increment", (pointer, n):
                self.store(key, walk(value, steps_of(pointer), lambda found: added(found, n)))
            case "touch", (ttl_s,):
                if value is GONE:
                    return False
                self.store(key, value, mortal=ttl_s is not None)
            case "delete", ():
                return self.rows.pop(key, None) is not None
            case _:
                raise AssertionError(kind)
        return True


def without(found: Any, step: str) -> Any:
    if isinstance(found, list):
        return [item for index, item in enumerate(cast("list[Any]", found)) if index != int(step)]
    return {name: item for name, item in found.items() if name != step}


COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda one, other: one == other,
    "gt": lambda one, other: one > other,
    "ge": lambda one, other: one >= other,
    "lt": lambda one, other: one < other,
    "le": lambda one, other: one <= other,
}
ASKED: dict[str, Callable[[Any], Any]] = {"gt": gt, "ge": ge, "lt": lt, "le": le}


# ---- the calls


def draw(dice: random.Random, prefix: str) -> tuple[str, tuple[Any, ...]]:
    """One call, as what it is and its arguments."""
    key = prefix + dice.choice(KEYS)
    kind = dice.choice(
        [
            *("write",) * 10,
            *("batch", "independent", "put_many", "delete_many", "delete_prefix", "put_if_absent"),
            *("update", "leave", "pop", "get_or_create", "keys", "items", "find", "latest"),
            *("ends", "exists", "get_many", "read"),
        ]
    )
    if kind == "write":
        return kind, draw_write(dice, key)
    if kind in ("batch", "independent"):
        count = dice.randint(1, 4)
        each = [draw_write(dice, prefix + dice.choice(KEYS)) for _ in range(count)]
        # A pointer that is wrong in itself is refused at the call: nothing of the batch is sent.
        return kind, tuple(one for one in each if one[0] != "remove" or one[2])
    if kind == "put_many":
        chosen = dice.sample(KEYS, 2)
        mortal = dice.random() < 0.3
        return kind, ({prefix + each: draw_value(dice) for each in chosen}, mortal)
    if kind in ("delete_many", "get_many"):
        return kind, ([prefix + each for each in dice.sample(KEYS, 2)],)
    if kind == "delete_prefix":
        return kind, (prefix + dice.choice(["c/", "c", "a", "nothing"]),)
    if kind in ("keys", "items", "find"):
        after = prefix + dice.choice(KEYS) if dice.random() < 0.4 else None
        span = (dice.choice(["", "c/"]), after, dice.choice([None, 1, 3]), dice.random() < 0.5)
        return kind, (prefix + span[0], *span[1:], draw_query(dice))
    if kind == "latest":
        return kind, (prefix, draw_query(dice), dice.randint(1, 3))
    return kind, (key, draw_value(dice))


def draw_value(dice: random.Random) -> Any:
    return copy.deepcopy(
        dice.choice(
            [
                *({"n": 1, "l": [1, 2]}, {"n": 2.5, "s": "m"}, {"s": "z", "x": {"y": 1}}),
                *({"n": True}, {}, [1], 7, "text"),
            ]
        )
    )


def draw_write(dice: random.Random, key: str) -> tuple[Any, ...]:
    kind = dice.choice(
        [
            *("put", "put", "put_new", "patch", "set", "set", "remove", "remove", "append"),
            *("increment", "touch", "touch", "delete"),
        ]
    )
    pointer = dice.choice(POINTERS)
    match kind:
        case "put" | "put_new":
            return kind, key, draw_value(dice)
        case "patch":
            return kind, key, dice.choice([{"n": 5}, {"n": None, "x": {"z": 1}}, {"l": None}])
        case "set" | "append":
            return kind, key, pointer, dice.choice([None, 1, "t", {"n": 1}])
        case "increment":
            return kind, key, pointer, dice.choice([1, 2, -3])
        case "remove":
            return kind, key, pointer
        case "touch":
            return kind, key, dice.choice([None, 3600, 7200.5])
        case _:
            return kind, key


def draw_query(dice: random.Random) -> dict[str, Any]:
    names = dice.sample(["n", "s"], dice.randint(0, 2))
    values: dict[str, list[Any]] = {"n": [1, 2, 2.5, True], "s": ["m", "p"]}
    query: dict[str, Any] = {}
    for name in names:
        wanted = dice.choice(values[name])
        sign = "eq" if isinstance(wanted, bool) else dice.choice(list(COMPARED))
        query[name] = (sign, wanted)
    return query


def expected(model: Model, kind: str, args: tuple[Any, ...]) -> Any:
    """What the model answers."""
    match kind, args:
        case "write", (name, key, *rest):
            changed = model.write(name, key, *rest)
            if name in ("append", "increment"):
                return seek(model.value(key), steps_of(rest[0]))
            return changed
        case "batch", _:
            before = dict(model.rows)
            try:
                return [model.write(*each) for each in args]
            except Refused:
                model.rows = before
                raise
        case "independent", _:
            return [answered(lambda each=each: model.write(*each)) for each in args]
        case "put_many", (documents, mortal):
            for key, value in documents.items():
                model.store(key, value, mortal=mortal)
            return dict.fromkeys(documents, True)
        case "delete_many", (keys,):
            return {key: model.write("delete", key) for key in keys}
        case "delete_prefix", (prefix,):
            return sum(
                model.write("delete", key) for key in model.sorted(prefix, None, None, False)
            )
        case "put_if_absent", (key, value):
            return answered(lambda: model.write("put_new", key, value)) is True
        case "update", (key, value):
            model.store(key, [model.value(key) if key in model.rows else "none", value])
            return model.value(key)
        case "leave", (key, value):
            if key not in model.rows:
                raise Refused(ConflictError)
            return model.value(key)
        case "pop", (key, value):
            found = model.value(key)
            model.write("delete", key)
            return value if found is GONE else found
        case "get_or_create", (key, value):
            if key not in model.rows:
                model.store(key, value)
            return model.value(key)
        case "keys", (prefix, after, limit, reverse, _):
            return model.sorted(prefix, after, limit, reverse)
        case "items", (prefix, after, limit, reverse, _):
            return [(key, model.value(key)) for key in model.sorted(prefix, after, limit, reverse)]
        case "find", (prefix, after, limit, reverse, query):
            keys = model.sorted(prefix, after, None, reverse)
            return [key for key in keys if model.found(query, key)][:limit]
        case "latest", (prefix, query, _):
            keys = model.sorted(prefix, None, None, False)
            return sorted(key for key in keys if model.found(query, key))
        case "ends", (key, _):
            keys = model.sorted(key[:-1], None, None, False)
            return (keys[0], keys[-1]) if keys else (None, None)
        case "exists", (key, _):
            return (key in model.rows, key in model.rows)
        case "get_many", (keys,):
            return {key: model.value(key) for key in keys if key in model.rows}
        case "read", (key, _):
            return model.rows.get(key)
        case _:
            raise AssertionError(kind)


def answered(call: Callable[[], Any]) -> Any:
    """The answer of a call of the model, or the class of its error."""
    try:
        return call()
    except Refused as refused:
        return refused.kind


def into_batch(batch: standfast.Batch, each: tuple[Any, ...]) -> None:
    kind, *rest = each
    if kind == "put_new":
        batch.put(NAME, *rest, if_absent=True)
    else:
        getattr(batch, kind)(NAME, *rest)


def plain(result: Any) -> Any:
    """An answer as the model gives it."""
    if isinstance(result, Receipt):
        return bool(result)
    if isinstance(result, StandfastError):
        return type(result)
    return result


def asked(store: Store, kind: str, args: tuple[Any, ...]) -> Any:
    """What a store answers, or the class of its error."""
    try:
        return call(store, store[NAME], kind, copy.deepcopy(args))
    except (DataError, ConflictError) as error:
        return type(error)


def query_of(query: dict[str, Any]) -> dict[str, Any]:
    return {
        name: wanted if sign == "eq" else ASKED[sign](wanted)
        for name, (sign, wanted) in query.items()
    }


def call(store: Store, things: Collection[Any], kind: str, args: tuple[Any, ...]) -> Any:
    match kind, args:
        case "write", ("put_new", *rest):
            return plain(things.put(*rest, if_absent=True))
        case "write", (name, *rest):
            return plain(getattr(things, name)(*rest))
        case (("batch" | "independent"), _):
            with store.batch(independent=kind == "independent") as batch:
                for each in args:
                    into_batch(batch, each)
            return [plain(result) for result in batch.results]
        case "put_many", (documents, mortal):
            receipts = things.put_many(documents, ttl_s=3600 if mortal else None)
            return {key: plain(receipt) for key, receipt in receipts.items()}
        case "delete_many", (keys,):
            return {key: plain(receipt) for key, receipt in things.delete_many(keys).items()}
        case "delete_prefix", (prefix,):
            return things.delete(prefix=prefix)
        case "update", (key, value):
            return things.update(key, lambda found: [found, value], default="none")
        case "leave", (key, _):
            return things.update(key, lambda _: UNCHANGED)
        case "keys", (prefix, after, limit, reverse, _):
            return list(things.keys(prefix=prefix, after=after, limit=limit, reverse=reverse))
        case "items", (prefix, after, limit, reverse, _):
            return list(things.items(prefix=prefix, after=after, limit=limit, reverse=reverse))
        case "find", (prefix, after, limit, reverse, query):
            options: dict[str, Any] = {"after": after, "limit": limit, "reverse": reverse}
            return [d.key for d in things.find(query_of(query), prefix=prefix, **options)]
        case "latest", (prefix, query, limit):
            found = list(
                things.find(query_of(query), prefix=prefix, limit=100, order_by="updated_at")
            )
            assert [d.updated_at for d in found] == sorted(d.updated_at for d in found)
            few = things.find(query_of(query), prefix=prefix, limit=limit, order_by="updated_at")
            assert [d.key for d in few] == [d.key for d in found[:limit]]
            return sorted(d.key for d in found)
        case "ends", (key, _):
            ends = things.first(prefix=key[:-1]), things.last(prefix=key[:-1])
            return tuple(found.key if found else None for found in ends)
        case "exists", (key, _):
            return (things.exists(key), key in things)
        case "read", (key, _):
            found = things.read(key)
            return found and (found.value, found.expires_at is not None)
        case _:
            return plain(getattr(things, kind)(*args))


def play(stores: dict[str, Store], numbers: range) -> dict[str, Any]:
    """Play sequences on each store; returns what must be stored in the end."""
    everything: dict[str, Any] = {}
    for number in numbers:
        dice, model, prefix = random.Random(number), Model(), f"{number}/"
        for step in range(LENGTH):
            kind, args = draw(dice, prefix)
            wanted = answered(partial(expected, model, kind, args))
            for name, store in stores.items():
                said = asked(store, kind, args)
                where = f"sequence {number}, step {step}, {name}: {kind} {args}"
                assert said == wanted, where
                assert typed(said) == typed(wanted), where
        everything |= model.rows
    return everything


def typed(value: Any) -> str:
    """What tells 1 from True and 1.0."""
    return repr(value)


# ---- whole collections

WHOLE = ("whole_a", "whole_b")
#: Calls that need the primary, whatever is known here.
BY_PRIMARY = ("copy", "rename", "drop", "names")


class Collections:
    """The collections that exist, and the documents of each: whether they expire, by key."""

    def __init__(self) -> None:
        self.there: dict[str, Model] = {}

    def rows(self, name: str) -> dict[str, tuple[Any, bool]]:
        return self.there[name].rows if name in self.there else {}

    def expected(self, kind: str, name: str, *args: Any) -> Any:
        match kind, args:
            case "put", (key, value, mortal):
                self.there.setdefault(name, Model()).store(key, value, mortal=mortal)
                return True
            case "delete", (key,):
                return self.there.setdefault(name, Model()).write("delete", key)
            case "clear", ():
                count = len(self.rows(name))
                self.rows(name).clear()
                return count
            case "copy", (other,):
                return self.copied(name, other)
            case "rename", (other,):
                return self.moved(name, other)
            case "drop", ():
                return self.there.pop(name, None) is not None
            case "items", ():
                return {key: value for key, (value, _) in sorted(self.rows(name).items())}
            case "mortal", ():
                return sorted(key for key, (_, mortal) in self.rows(name).items() if mortal)
            case "names", ():
                return sorted(self.there)
            case _:
                raise AssertionError(kind)

    def copied(self, name: str, other: str) -> Any:
        rows, target = self.rows(name), self.rows(other)
        taken = [
            key for key in rows if key in target and typed(target[key][0]) != typed(rows[key][0])
        ]
        if rows:
            self.there.setdefault(other, Model()).rows = {**rows, **target}
        if taken:
            raise Refused(ConflictError)
        return len(rows)

    def moved(self, name: str, other: str) -> Any:
        rows, target = self.rows(name), self.rows(other)
        taken = rows.keys() & target.keys()
        if rows:
            self.there.setdefault(other, Model()).rows = {**rows, **target}
        if taken:
            self.there[name].rows = {key: rows[key] for key in taken}
            raise Refused(ConflictError)
        self.there.pop(name, None)
        return len(rows)


def draw_whole(dice: random.Random) -> tuple[Any, ...]:
    name, other = dice.sample(WHOLE, 2)
    kind = dice.choice(
        [*("put",) * 5, "delete", "clear", "copy", "rename", "drop", "items", "mortal", "names"]
    )
    key = dice.choice("abc")
    match kind:
        case "put":
            return kind, name, key, dice.choice([1, 2, {"n": 1}]), dice.random() < 0.3
        case "delete":
            return kind, name, key
        case "copy" | "rename":
            return kind, name, other
        case _:
            return kind, name


def call_whole(store: Store, kind: str, name: str, *args: Any) -> Any:
    try:
        match kind, args:
            case "put", (key, value, mortal):
                return plain(store[name].put(key, value, ttl_s=3600 if mortal else None))
            case "items", ():
                return dict(store[name].items())
            case "mortal", ():
                found = (store[name].read(key) for key in store[name])
                return sorted(d.key for d in found if d is not None and d.expires_at is not None)
            case "names", ():
                return [each for each in store.collections() if each in WHOLE]
            case (("copy" | "rename" | "drop"), _):
                return getattr(store, kind)(name, *args)
            case _:
                return plain(getattr(store[name], kind)(*args))
    except (ConflictError, Unavailable) as error:
        return type(error)


def play_whole(
    stores: dict[str, Store], model: Collections, numbers: range, *, away: bool = False
) -> None:
    """Play sequences of calls on whole collections, which go on where the last one ended."""
    for number in numbers:
        dice = random.Random(number)
        for step in range(LENGTH):
            kind, *args = draw_whole(dice)
            if away and kind in BY_PRIMARY:
                wanted: Any = Unavailable
            else:
                wanted = answered(partial(model.expected, kind, *args))
            for name, store in stores.items():
                said = call_whole(store, kind, *args)
                where = f"whole {number}, step {step}, {name}: {kind} {args}"
                assert typed(said) == typed(wanted), where


@pytest.fixture
def stores(pg_database: str, tmp_path: Path) -> Iterator[tuple[dict[str, Store], Outage]]:
    outage = Outage(pg_database, tmp_path)
    with ExitStack() as closing:
        opened = {
            "memory": standfast.open("memory://"),
            "sqlite": standfast.open(f"sqlite:///{tmp_path}/x.db", data_dir=tmp_path / "local"),
            "postgresql": standfast.open(pg_database, data_dir=tmp_path / "near", deadline_s=30),
        }
        for store in opened.values():
            closing.enter_context(store)
        yield opened, outage


def check(stores: tuple[dict[str, Store], Outage], healthy: range, away: range) -> None:
    opened, outage = stores
    wanted = play(opened, healthy)
    for store in opened.values():
        assert dict(store[NAME].items()) == {key: value for key, (value, _) in wanted.items()}
    with outage.store("away", sole_writer=True, deadline_s=30) as store:
        list(store[NAME].items())  # what is read whole once is known in the outage
        with outage.away():
            store[NAME].put("first", 1)
            assert store.health().state == "journaling"
            later = play({"outage": store}, away)
            assert store.health().state == "journaling"
        store.flush(timeout_s=60)
        there = {d.key: (d.value, d.expires_at is not None) for d in store[NAME].find({})}
        plain_ones = {key: row for key, row in (wanted | later).items() if isinstance(row[0], dict)}
        assert there == plain_ones
        assert store.health().conflicts == {}
    values = {key: value for key, (value, _) in (wanted | later).items()}
    assert dict(opened["postgresql"][NAME].items()) == values | {"first": 1}


def check_whole(stores: tuple[dict[str, Store], Outage], healthy: range, away: range) -> None:
    opened, outage = stores
    model = Collections()
    play_whole(opened, model, healthy)
    with outage.store("whole", sole_writer=True, deadline_s=30) as store:
        for name in WHOLE:
            list(store[name].items())
        with outage.away():
            store["starter"].put("first", 1)
            play_whole({"outage": store}, model, away, away=True)
            assert store.health().state == "journaling"
        wait_direct(store, within_s=60)
        assert store.health().conflicts == {}
        for name in WHOLE:
            wanted = model.expected("items", name)
            assert dict(store[name].items()) == dict(opened["postgresql"][name].items()) == wanted
            assert call_whole(store, "mortal", name) == model.expected("mortal", name)
        play_whole({"postgresql": opened["postgresql"]}, model, range(away.stop, away.stop + 2))


def test_the_calls_have_one_meaning(stores: tuple[dict[str, Store], Outage]) -> None:
    """The same calls, the same answers, on every backend and in an outage; replayed exactly."""
    check(stores, range(20), range(1_000_000, 1_000_030))
    check_whole(stores, range(8), range(1_000_000, 1_000_008))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_the_calls_have_one_meaning_in_thousands_of_sequences(
    stores: tuple[dict[str, Store], Outage], part: int
) -> None:
    """The same over 6,000 sequences: 3,000 healthy, 3,000 in an outage; 1,000 of them of calls on
    whole collections."""
    first = 10_000 + 250 * part
    check(stores, range(first, first + 250), range(1_000_000 + first, 1_000_250 + first))
    first = 10_000 + 50 * part
    check_whole(stores, range(first, first + 50), range(1_000_000 + first, 1_000_050 + first))
