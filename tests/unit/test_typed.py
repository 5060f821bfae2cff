"""Typed collections: checked on the way in, built on the way out, upgraded when they are old."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest

from standfast import ConfigError, CorruptData, DataError
from standfast.document.codec import decode, encode
from standfast.document.typed import Typed


class Player(msgspec.Struct):
    name: str
    score: int = 0
    tags: list[str] = []


@dataclass
class Point:
    x: int
    y: int


class Named(TypedDict):
    name: str


class Model:
    """What pydantic looks like from outside."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.name == self.name

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def model_validate(cls, document: Any) -> Model:
        if not isinstance(document, dict) or not isinstance(document.get("name"), str):
            raise ValueError(f"no model: {document}")
        return cls(document["name"])

    def model_dump(self, **options: Any) -> Any:
        return {"name": self.name}


class Colour(Enum):
    RED = "r"


class Pair(NamedTuple):
    left: int
    right: str = ""


NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


@dataclass
class Rich:
    when: dt.datetime = NOON
    chosen: set[int] = field(default_factory=lambda: {1, 2})
    named: dict[int, str] = field(default_factory=lambda: {1: "x"})
    size: tuple[int, ...] = (1, 2)
    pair: Pair = field(default_factory=lambda: Pair(1, "x"))
    colour: Colour = Colour.RED
    price: Decimal = Decimal("1.10")
    blob: bytes = b"\x00\xff"


@dataclass
class Wider(Point):
    z: int = 0


@dataclass(eq=False)
class Loose:
    """Only the same object is equal to it, and a member may be anything."""

    anything: Any


@dataclass
class Counting:
    """What it holds is another number each time that it is made."""

    count: int

    def __post_init__(self) -> None:
        self.count += 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Rich, Rich()),
        (Pair, Pair(1, "x")),
        (tuple[int, str], (1, "x")),
        (list[Rich], [Rich(), Rich()]),
        (dict[int, Pair], {1: Pair(1)}),
        (dict[float, int], {1.5: 1}),
        (set[str], {"a", "b"}),
        (Loose | None, None),
        (Player, Player("a", 3, ["x"])),
        (Point, Point(1, 2)),
        (Named, {"name": "a"}),
        (Model, Model("a")),
        (dict[str, int], {"a": 1}),
        (int, 10**30),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_comes_back_is_what_was_put(kind: Any, value: Any) -> None:
    """I11: a value of the type survives being stored as JSON."""
    typed = Typed(kind)
    assert typed.load(decode(encode(typed.dump(value)))) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Player, Point(1, 2)),
        (Player, {"score": 1}),
        (Player, Player(name=5)),  # type: ignore[arg-type]
        (Player, object()),
        (Model, {"name": "a"}),
        (Model, Player("a")),
        (int, "1"),
    ],
    ids=["other", "missing", "field", "object", "dict", "struct", "text"],
)
def test_what_is_not_of_the_type_is_refused(kind: Any, value: Any) -> None:
    """I11: a value that is not of the type is DataError before anything is written."""
    with pytest.raises(DataError) as caught:
        Typed(kind).dump(value)
    assert caught.value.code == "wrong_type"
    assert caught.value.hint


def test_a_document_that_does_not_fit_is_corrupt() -> None:
    """A stored document of another form is CorruptData with its place, never a half-built value."""
    with pytest.raises(CorruptData) as caught:
        Typed(Player).load({"name": "a", "score": "secret"})
    assert caught.value.code == "wrong_type"
    assert "$.score" in caught.value.message
    assert "secret" not in caught.value.message


def test_an_old_document_is_upgraded() -> None:
    """`upgrade` sees only documents that do not fit, and what it makes is checked, too."""
    seen: list[Any] = []

    def upgrade(document: Any) -> Any:
        seen.append(document)
        return {"name": document["nick"]} if "nick" in document else document

    typed = Typed(Player, upgrade)
    assert typed.load({"name": "a"}) == Player("a")
    assert seen == []
    assert typed.load({"nick": "b"}) == Player("b")
    with pytest.raises(CorruptData) as caught:
        typed.load({"other": "c"})
    assert "after the upgrade" in caught.value.message
    assert len(seen) == 2


def test_what_a_model_says_is_not_repeated() -> None:
    """Contents are private: the messages of pydantic repeat values, so they are left out."""
    with pytest.raises(CorruptData) as caught:
        Typed(Model).load({"name": ["secret"]})
    assert "secret" not in str(caught.value)


class Checked(msgspec.Struct):
    mode: Literal["a", "b"] = "a"
    level: Literal[1, 2] = 1
    name: str = ""

    def __post_init__(self) -> None:
        if self.name:
            raise ValueError(f"not {self.name}")


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"mode": "canary-77"}, "at `$.mode`"),
        ({"mode": "canary-77 - at `$.x`"}, "at `$.mode`"),
        ({"level": 77}, "at `$.level`"),
        ({"name": "canary-77"}, "ValueError"),
    ],
)
def test_a_value_that_is_not_allowed_is_not_repeated(document: Any, named: str) -> None:
    """The error of a stored document names the place, and no content, also where msgspec's own
    message repeats a value or what a method of the type says."""
    with pytest.raises(CorruptData) as caught:
        Typed(Checked).load(document)
    assert named in caught.value.message
    assert "77" not in repr(caught.value)
    assert "$.x" not in repr(caught.value)
    with pytest.raises(CorruptData) as caught:
        Typed(Literal["a", "b"]).load("canary-77 - at `$.x`")
    assert "values of its type" in caught.value.message
    assert "$.x" not in repr(caught.value)


@pytest.mark.parametrize(
    ("kind", "value", "place"),
    [
        (dict[str, Any], {"at": NOON}, "$.at"),
        (dict, {"at": b"x"}, "$.at"),
        (dict, {"in": {"a": {1}}}, "$.in.a"),
        (dict, {1: "x"}, '$["1"]'),
        (list, [1, (2, 3)], "$[1]"),
        (Any, NOON, "$"),
        (Any, Colour.RED, "$"),
        (dict, {"point": Point(1, 2)}, "$.point"),
        (Loose, Loose(NOON), "$.anything"),
        (Named, {"name": "a", "other": 1}, "$.other"),
        (Point, Wider(1, 2, 3), "$"),
        (Counting, Counting(1), "$.count"),
    ],
)
def test_what_would_come_back_changed_is_refused(kind: Any, value: Any, place: str) -> None:
    """I11: nothing is turned into something else in silence: where a type says nothing of a member,
    what is not JSON is refused there, with its place and without its content."""
    with pytest.raises(DataError, match="would not come back") as caught:
        Typed(kind).dump(value)
    assert caught.value.code == "wrong_type"
    assert caught.value.message.endswith(f"at `{place}`")


def test_what_compares_itself_by_identity_comes_back() -> None:
    """A class without `==` is compared by its members."""
    typed = Typed(Loose)
    assert typed.load(typed.dump(Loose([1, {"a": None}]))).anything == [1, {"a": None}]


@pytest.mark.parametrize("kind", [list[Model], Model | None, dict[str, Model], list[complex]])
def test_a_class_of_which_nothing_is_known_is_refused_within_others(kind: Any) -> None:
    """`type=` is judged whole, not when the first value is put."""
    with pytest.raises(ConfigError, match=r"of (Model|complex), which is not a type"):
        Typed(kind)
