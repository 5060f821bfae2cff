"""Documents with a type: checked on the way in, built on the way out, upgraded when they are old.

A type is anything that msgspec can convert: a Struct, a dataclass, a TypedDict; or a pydantic
model, which is recognised by its methods.
Source: msgspec documentation, "Converting to and from other formats".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from standfast.errors import ConfigError, CorruptData, DataError


class Typed:
    """How the documents of one collection become values of a type, and back.

    `upgrade` gets the JSON of a document that does not fit the type any more, and returns one that
    does; it must be pure.  Nothing is written back by reading.
    """

    def __init__(self, kind: Any, upgrade: Callable[[Any], Any] | None = None) -> None:
        _require_type(kind)
        self.kind = kind
        self._upgrade = upgrade

    def dump(self, value: Any) -> Any:
        """The JSON of a value; DataError when it is not of the type."""
        if hasattr(self.kind, "model_validate"):
            if not isinstance(value, self.kind):
                raise self._not_of_type(value)
            return value.model_dump(mode="json")
        try:
            plain = msgspec.to_builtins(value, str_keys=True)
            msgspec.convert(plain, self.kind)
        except msgspec.ValidationError as error:
            raise DataError(
                f"the value is not a valid {self._name}: {_place(error)}",
                code="wrong_type",
                hint="nothing was written; correct the value or the type",
            ) from None
        except (TypeError, ValueError, RecursionError):
            raise self._not_of_type(value) from None
        return plain

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
        if hasattr(self.kind, "model_validate"):
            return self.kind.model_validate(document)
        return msgspec.convert(document, self.kind)

    @property
    def _name(self) -> str:
        return getattr(self.kind, "__name__", str(self.kind))

    def _not_of_type(self, value: Any) -> DataError:
        return DataError(
            f"the value is {type(value).__name__}, not {self._name}",
            code="wrong_type",
            hint="nothing was written",
        )


def _require_type(kind: Any) -> None:
    """ConfigError for what is not a type, or a class of which JSON says nothing."""
    if hasattr(kind, "model_validate") and isinstance(kind, type):
        return
    try:
        is_type = not isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.CustomType)
    except (TypeError, NameError):
        is_type = False
    if not is_type:
        shown = getattr(kind, "__name__", type(kind).__name__)
        raise ConfigError(
            f"type= is {shown}, which is not a type of documents",
            code="usage",
            hint="give a msgspec Struct, a dataclass, a TypedDict, a pydantic model,"
            " or a type such as dict[str, int]",
        )


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
