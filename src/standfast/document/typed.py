"""Documents with a type: checked on the way in, built on the way out, upgraded when they are old.

A type is anything that msgspec can convert: a Struct, a dataclass, a TypedDict; or a pydantic
model, which is recognised by its methods.  A value is converted back before it is stored: what
would come back as something else (a datetime where the type says `Any`, a secret that its model
hides) is refused instead of changed.
Source: msgspec documentation, "Converting to and from other formats"; pydantic documentation,
"Serialization".
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast, get_args

import msgspec

from standfast.document.values import MISSING, json_path
from standfast.errors import ConfigError, CorruptData, DataError


class Typed:
    """How the documents of one collection become values of a type, and back.

    `upgrade` gets the JSON of a document that does not fit the type any more, and returns one that
    does; it must be pure.  Nothing is written back by reading.
    """

    def __init__(self, kind: Any, upgrade: Callable[[Any], Any] | None = None) -> None:
        _require_type(kind)
        if upgrade is not None and not callable(upgrade):
            raise ConfigError(
                f"upgrade= is {type(upgrade).__name__}, which cannot be called",
                code="usage",
                hint="give a function that gets the older document and returns one of the type",
            )
        self.kind = kind
        self._upgrade = upgrade

    def dump(self, value: Any) -> Any:
        """The JSON of a value; DataError when it is not of the type, or would come back changed."""
        if self._is_model:
            if not isinstance(value, self.kind):
                raise self._not_of_type(value)
            return self._dump_model(value)
        try:
            plain = _with_lists(msgspec.to_builtins(value, str_keys=True))
            place = _changed(value, self._convert(plain))
        except msgspec.ValidationError as error:
            raise DataError(
                f"the value is not a valid {self._name}: {_place(error)}",
                code="wrong_type",
                hint="nothing was written; correct the value or the type",
            ) from None
        except (TypeError, ValueError, RecursionError):
            raise self._not_of_type(value) from None
        if place is not None:
            raise self._comes_back_changed(f" at `{json_path(place)}`")
        return plain

    def _dump_model(self, value: Any) -> Any:
        """By the names that the model reads, without what it only computes."""
        for by_alias in (True, False):
            try:
                # Warnings of pydantic repeat values.
                plain = value.model_dump(
                    mode="json", by_alias=by_alias, round_trip=True, warnings=False
                )
                loaded = self.kind.model_validate(plain)
                if loaded == value or _whole(loaded) == _whole(value):
                    return plain
            except (TypeError, ValueError):
                continue
        raise self._comes_back_changed()

    def _comes_back_changed(self, where: str = "") -> DataError:
        return DataError(
            f"the value would not come back from JSON as the {self._name} that it is{where}",
            code="wrong_type",
            hint="nothing was written; give the member its own type, or put what JSON can hold",
        )

    def check(self, document: Any) -> None:
        """DataError when a document that is about to be stored could not be loaded."""
        try:
            self._convert(document)
            return
        except ValueError as error:
            problem = _place(error)
        if self._upgrade is not None:
            # The application's function: whatever it raises, the document is not of the type.
            with contextlib.suppress(Exception):
                self._convert(self._upgrade(document))
                return
        raise DataError(
            f"the document would not be a valid {self._name}: {problem}",
            code="wrong_type",
            hint="nothing was written; correct the change or the type",
        )

    def load(self, document: Any) -> Any:
        """The value of a document; CorruptData when it does not fit, upgraded or not."""
        try:
            return self._convert(document)
        except ValueError as error:
            problem = _place(error)
        if self._upgrade is not None:
            try:
                return self._convert(self._upgrade(document))
            except ValueError as error:
                problem = f"after the upgrade, {_place(error)}"
        raise CorruptData(
            f"a stored document is not a valid {self._name}: {problem}",
            code="wrong_type",
            hint="give upgrade= to read older documents, or make the new members optional",
        )

    def _convert(self, document: Any) -> Any:
        if self._is_model:
            return self.kind.model_validate(document)
        return msgspec.convert(document, self.kind, str_keys=True)

    @property
    def _is_model(self) -> bool:
        return hasattr(self.kind, "model_validate")

    @property
    def _name(self) -> str:
        return str(self.kind) if get_args(self.kind) else getattr(self.kind, "__name__", "value")

    def _not_of_type(self, value: Any) -> DataError:
        return DataError(
            f"the value is {type(value).__name__}, not {self._name}",
            code="wrong_type",
            hint="nothing was written",
        )


def _whole(model: Any) -> Any:
    """What a model shows of itself, members of subclasses too."""
    return model.model_dump(serialize_as_any=True, warnings=False)


def _with_lists(plain: Any) -> Any:
    """JSON has no tuples: that a member is one is said by its type."""
    if isinstance(plain, dict):
        members = cast("dict[str, Any]", plain)
        return {name: _with_lists(value) for name, value in members.items()}
    if isinstance(plain, list | tuple):
        return [_with_lists(item) for item in cast("list[Any]", plain)]
    return plain


def _changed(value: Any, loaded: Any) -> tuple[str | int, ...] | None:
    """The place at which a value came back as something else; None where it is the same."""
    pairs: Iterable[tuple[str | int, Any, Any]]
    members, same_type = _members(loaded), bool(type(value) is type(loaded))
    if isinstance(value, Mapping) and isinstance(loaded, Mapping):
        given, back = cast("tuple[Mapping[Any, Any], Mapping[Any, Any]]", (value, loaded))
        pairs = ((str(name), given[name], back.get(name, MISSING)) for name in given)
    elif isinstance(value, Mapping) and members:
        return None  # JSON that was judged as such: it is stored as it was given
    elif isinstance(value, list | tuple) and not same_type:
        return ()
    elif isinstance(value, list | tuple):
        items = zip(cast("list[Any]", value), loaded, strict=True)
        pairs = ((i, before, after) for i, (before, after) in enumerate(items))
    elif members and same_type:
        built = cast("Any", value)
        pairs = ((name, getattr(built, name), getattr(loaded, name)) for name in members)
    else:
        not_a_number = value != value and loaded != loaded  # which the encoder refuses
        return None if value == loaded or not_a_number else ()
    for token, before, after in pairs:
        if (place := _changed(before, after)) is not None:
            return (token, *place)
    return None


def _members(value: Any) -> tuple[str, ...]:
    """The names of a dataclass's or Struct's fields; none of anything else."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    return ()


def _require_type(kind: Any) -> None:
    """ConfigError for what is not a type, or a class of which JSON says nothing."""
    if hasattr(kind, "model_validate") and isinstance(kind, type):
        return
    try:
        unknown = next(_unknown(msgspec.inspect.type_info(kind)), None)
    except (TypeError, NameError):
        unknown = kind
    if unknown is None:
        return
    shown = getattr(unknown, "__name__", type(unknown).__name__)
    within = "" if unknown is kind else f"of {shown}, "
    raise ConfigError(
        f"type= is {within or shown + ', '}which is not a type of documents",
        code="usage",
        hint="give a msgspec Struct, a dataclass, a TypedDict, a type such as dict[str, int], or"
        " a pydantic model, alone (a RootModel for a list of models)",
    )


def _unknown(found: Any) -> Iterator[Any]:
    """The classes in a type of which nothing is known; `object` is whatever JSON gives."""
    waiting, seen = [found], set[int]()
    known: list[Any] = []  # keeps the ids taken
    while waiting:
        one = waiting.pop()
        custom = isinstance(one, msgspec.inspect.CustomType)
        if custom and (one.cls is not object or one is found):
            yield one.cls
        if id(one) in seen:
            continue
        seen.add(id(one))
        known.append(one)
        if isinstance(one, tuple):
            waiting += one
        elif isinstance(one, msgspec.inspect.Type | msgspec.inspect.Field):
            waiting += [getattr(one, name) for name in one.__struct_fields__ if name != "default"]


#: How msgspec begins a message that repeats a value.
_REPEATED = ("Invalid enum value ", "Invalid value ")


def _place(error: Exception) -> str:
    """What msgspec says of types and places.

    What pydantic says repeats values, as do the methods of a type (msgspec hands their words on)
    and msgspec itself where a value is not one of a list: that is left out.
    """
    said = str(error)
    if not isinstance(error, msgspec.ValidationError) or error.__cause__ is not None:
        return f"it does not fit ({type(error.__cause__ or error).__name__})"
    if said.startswith(_REPEATED):
        # Without a place it ends in the value; with one the last is msgspec's.
        place = said[said.rindex(" - at `") :] if said.endswith("`") else ""
        return f"it is not one of the values of its type{place}"
    return said
