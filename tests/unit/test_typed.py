"""Typed collections: checked on the way in, built on the way out, upgraded when they are old."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import msgspec
import pytest

from standfast import CorruptData, DataError
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

    def model_dump(self, mode: str) -> Any:
        assert mode == "json"
        return {"name": self.name}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
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
