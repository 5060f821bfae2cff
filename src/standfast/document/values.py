"""The vocabulary of the modules that work on decoded JSON: the type, "nothing there", and paths."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final, TypeAlias

#: A decoded JSON value. The modules that take one never change it in place.
JSON: TypeAlias = dict[str, Any] | list[Any] | str | int | float | bool | None

#: Characters of a member name that a path shows at the most.
_SHOWN_NAME_CHARS = 80
#: Characters of a whole path, which may lead through 256 levels with a long name in each.
_SHOWN_PATH_CHARS = 200


class Missing(Enum):
    """The type of `MISSING`: no document, or no member. It is not `null`, which is a value.

    An enum, because it stays one object through copying and pickling, and type checkers know that
    `is MISSING` leaves a JSON value on the other branch.
    """

    MISSING = "missing"

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing.MISSING


class Unchanged(Enum):
    """The type of `UNCHANGED`: what a change function returns that leaves the document as it is."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED


def type_name(value: object) -> str:
    """The JSON name of a value's type: object, array, string, number, boolean or null.

    `MISSING` is "nothing", and what JSON cannot hold is "not JSON". The value itself is not shown.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case Missing.MISSING:
            return "nothing"
        case _:
            return "not JSON"


def path_step(token: str | int) -> str:
    """One step of a JSONPath: `.name`, `[2]` for an int, `["odd name"]` for any other name.

    Always printable ASCII on one line; a name of more than 80 characters is cut.
    """
    if isinstance(token, int):
        return f"[{token}]"
    if len(token) > _SHOWN_NAME_CHARS:
        token = token[: _SHOWN_NAME_CHARS - 3] + "..."
    if token.isascii() and token.isidentifier():
        return f".{token}"
    # json.dumps leaves DEL as it is; everything else that a terminal acts on, it escapes.
    return f"[{json.dumps(token)}]".replace("\x7f", "\\u007f")


def json_path(tokens: Iterable[str | int]) -> str:
    """A path for people, in the notation of RFC 9535, such as `$.a[2]["odd key"]`.

    Strings are member names, ints are array indexes; no tokens give `$`, the whole document.
    Of a path of more than 200 characters the middle is left out.
    """
    path = "$" + "".join(path_step(token) for token in tokens)
    if len(path) <= _SHOWN_PATH_CHARS:
        return path
    half = _SHOWN_PATH_CHARS // 2
    return f"{path[: half - 3]}...{path[-half:]}"
