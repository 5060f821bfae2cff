"""Typed collections of pydantic models: what their options do to the JSON must not lose values."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr, computed_field

from standfast import DataError
from standfast.document.codec import decode, encode
from standfast.document.typed import Typed

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


class Plain(BaseModel):
    a: int
    when: dt.datetime | None = None
    chosen: set[int] = {1}
    named: dict[int, str] = {1: "x"}


class Renamed(BaseModel):
    foo: int = Field(alias="fooBar")


class RenamedOut(BaseModel):
    foo: int = Field(serialization_alias="fooBar")


class RenamedIn(BaseModel):
    foo: int = Field(validation_alias="fooBar")


class Computing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int

    @computed_field
    @property
    def double(self) -> int:
        return self.a * 2


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Numbers(RootModel[list[int]]):
    pass


class Quiet(BaseModel):
    a: int
    scratch: int = Field(default=0, exclude=True)


class Secret(BaseModel):
    word: SecretStr


class Blob(BaseModel):
    blob: bytes


class Anything(BaseModel):
    what: Any


class Wider(Plain):
    extra: int = 3


class Holding(BaseModel):
    held: list[Plain]


@pytest.mark.parametrize(
    "value",
    [
        Plain(a=10**30, when=NOON, chosen={1, 2}),
        Renamed(fooBar=1),
        RenamedOut(foo=1),
        Computing(a=1),
        Open(a=1, b=2),  # type: ignore[call-arg]
        Numbers([1, 2]),
        Blob(blob=b"abc"),
        Holding(held=[Plain(a=1)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_comes_back_as_it_was_put(value: Any) -> None:
    """I11, under the options that change what is written: aliases, computed fields, extra members.

    A put was acknowledged, and every read of it CorruptData, or the mask of a secret was stored.
    """
    typed = Typed(type(value))
    assert typed.load(decode(encode(typed.dump(value)))) == value


def test_what_a_model_leaves_out_by_its_own_rule_is_left_out() -> None:
    """`exclude=True` is the model's word."""
    assert Typed(Quiet).dump(Quiet(a=1, scratch=5)) == {"a": 1}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Secret, Secret(word="hunter2")),  # type: ignore[arg-type]
        (RenamedIn, RenamedIn(fooBar=1)),
        (Blob, Blob(blob=b"\xff")),
        (Anything, Anything(what=NOON)),
        (Anything, Anything(what={1: 2})),
        (Anything, Anything(what=object())),
        (Plain, Wider(a=1)),
        (Holding, Holding(held=[Wider(a=1)])),
        (Plain, Plain.model_construct(a="x")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_that_would_come_back_changed_is_refused(kind: Any, value: Any) -> None:
    """Nothing is stored that would be read as something else, or not at all."""
    with pytest.raises(DataError) as caught:
        Typed(kind).dump(value)
    assert caught.value.code == "wrong_type"
    assert "hunter2" not in repr(caught.value)
