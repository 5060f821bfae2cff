"""Changes of a document as pure functions: merge patch, and what is done at a pointer.

Values are decoded JSON. No function changes what it is given: a result is new along the path that
changed and shares everything else with the inputs, so treat inputs and results as frozen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from standfast.document.values import JSON, MISSING, Missing, json_path, type_name
from standfast.errors import DataError
from standfast.limits import MAX_DEPTH

__all__ = [
    "MISSING",
    "append_at",
    "increment_at",
    "merge_patch",
    "parse_pointer",
    "remove_at",
    "resolve",
    "set_at",
]

_Value = TypeVar("_Value", bound=JSON)

_BAD_ESCAPE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_POINTER_HINT = 'write "/member/0" (RFC 6901), or "" for the whole document'


def merge_patch(target: JSON | Missing, patch: JSON) -> JSON:
    """The document after a merge patch (RFC 7396): objects merge, null removes, the rest replaces.

    Existing members keep their place, also when they change; new ones follow in the patch's order.
    Arrays are replaced whole. Applying the same patch twice gives the same as applying it once.
    """
    if not isinstance(patch, dict):
        return patch
    merged: dict[str, Any] = dict(target) if isinstance(target, dict) else {}
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name, MISSING), change)
    return merged


def parse_pointer(pointer: str) -> tuple[str, ...]:
    """The reference tokens of a JSON Pointer (RFC 6901), unescaped; `""` has none.

    Refused with a DataError "bad_pointer": anything that is neither empty nor starts with `/`, a
    `~` that is not part of `~0` or `~1`, and more than 256 tokens. The pointer is not shown, since
    a value given in its place by mistake would end up in a log.
    """
    if type_name(pointer) != "string":
        raise _bad_pointer(f"the pointer is a Python {type(pointer).__name__}, not a string")
    if pointer == "":
        return ()
    if not pointer.startswith("/"):
        raise _bad_pointer("the pointer does not start with `/`")
    escape = _BAD_ESCAPE.search(pointer)
    if escape:
        raise DataError(
            f"the pointer contains a `~` at character {escape.start() + 1} that escapes nothing",
            code="bad_pointer",
            hint="write ~0 for a `~` and ~1 for a `/` in a member name",
        )
    tokens = pointer[1:].split("/")
    if len(tokens) > MAX_DEPTH:
        raise _bad_pointer(f"the pointer has {len(tokens)} tokens, over the limit of {MAX_DEPTH}")
    # ~1 first: the other way round, ~01 would become a slash instead of ~1.
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in tokens)


def resolve(value: JSON | Missing, pointer_tokens: Sequence[str]) -> JSON | Missing:
    """The value that the tokens point to, or `MISSING` when nothing is there (RFC 6901).

    An array is entered by an existing index without leading zeros; `-` and other tokens lead to
    nothing, as does any step into a scalar. The result is part of `value`, not a copy.
    """
    current = value
    for token in pointer_tokens:
        below: JSON | Missing = MISSING
        if isinstance(current, dict):
            below = current.get(token, MISSING)
        elif isinstance(current, list) and _INDEX.fullmatch(token) and int(token) < len(current):
            below = current[int(token)]
        current = below
    return current


def append_at(document: JSON | Missing, pointer: str, item: JSON) -> tuple[JSON, list[Any]]:
    """Append `item` to the array at `pointer`; returns the new document and the new array.

    What is missing is created: the last member as `[]`, members before it and a missing document
    as `{}` (a missing document as `[]` when the pointer is `""`); so `/a/b` works on `{}`. A null
    is a value, not missing, and array elements are never created.

    Errors, all DataError: "bad_pointer"; "wrong_type" when the target is not an array or a step
    leads into a scalar; "bad_index" when a step into an array is not an existing index.
    """

    def appended(found: JSON | Missing, path: str) -> list[Any]:
        if found is MISSING:
            return [item]
        if isinstance(found, list):
            return [*found, item]
        raise _wrong_type(f"cannot append at `{path}`", found, wanted="array", path=path)

    return _changed_at(document, pointer, appended)


def increment_at(
    document: JSON | Missing, pointer: str, n: int | float
) -> tuple[JSON, int | float]:
    """Add `n` to the number at `pointer`; returns the new document and the new number.

    A missing number starts as 0, and what is missing before it is created as in `append_at`. Ints
    are exact at any size; an int and a float give a float, as in Python. A bool is not a number.

    Errors, all DataError: those of `append_at`, with "wrong_type" also when `n` is not a number,
    and "not_finite" when `n` or the sum is not finite or the sum is beyond the range of a float.
    """
    if type_name(n) != "number":
        raise _wrong_type("cannot increment", n, wanted="number", path="")
    if not _is_finite(n):
        raise _not_finite("cannot increment: the step is not a finite number", path="")

    def added(found: JSON | Missing, path: str) -> int | float:
        start = 0 if found is MISSING else found
        if isinstance(start, bool) or not isinstance(start, int | float):
            raise _wrong_type(f"cannot increment at `{path}`", start, wanted="number", path=path)
        try:
            total = start + n
        except OverflowError:
            total = math.inf
        if not _is_finite(total):
            raise _not_finite(
                f"cannot increment at `{path}`: the sum is beyond the range of a float", path=path
            )
        return total

    return _changed_at(document, pointer, added)


def set_at(document: JSON | Missing, pointer: str, value: JSON) -> JSON:
    """The document with `value` at `pointer`, in the place of what is there, if anything is.

    What is missing before it is created as in `append_at`; an array element is replaced, never
    added.  Errors: those of `append_at`.
    """

    def replaced(found: JSON | Missing, path: str) -> JSON:
        return value

    return _changed_at(document, pointer, replaced)[0]


def remove_at(document: JSON | Missing, pointer: str) -> JSON | Missing:
    """The document without what is at `pointer`; `MISSING` when nothing is there.

    Array elements behind a removed one move up.  The whole document, `""`, is refused with a
    DataError "bad_pointer": that is a delete.
    """
    tokens = parse_pointer(pointer)
    if not tokens:
        raise DataError(
            "the pointer means the whole document",
            code="bad_pointer",
            hint="delete(key) deletes a document",
        )
    if resolve(document, tokens) is MISSING:
        return MISSING

    def without(found: JSON | Missing, path: str) -> JSON:
        if isinstance(found, list):
            index = int(tokens[-1])
            return [*found[:index], *found[index + 1 :]]
        assert isinstance(found, dict), "nothing else has members"
        return {name: value for name, value in found.items() if name != tokens[-1]}

    return _changed_at(document, pointer.rpartition("/")[0], without)[0]


def _changed_at(
    document: JSON | Missing, pointer: str, change: Callable[[JSON | Missing, str], _Value]
) -> tuple[JSON, _Value]:
    """Change the value at a pointer and copy the containers above it; (document, value there)."""
    steps: list[str | int] = []
    rebuild: list[Callable[[JSON], JSON]] = []
    current = document
    for token in parse_pointer(pointer):
        below: JSON | Missing
        if current is MISSING:
            current = {}
        if isinstance(current, dict):
            rebuild.append(partial(_with_member, current, token))
            steps.append(token)
            below = current.get(token, MISSING)
        elif isinstance(current, list):
            index = _existing_index(current, token, path=json_path(steps))
            rebuild.append(partial(_with_element, current, index))
            steps.append(index)
            below = current[index]
        else:
            path = json_path(steps)
            raise _wrong_type(
                f"the pointer leads below `{path}`",
                current,
                wanted="object or array",
                path=path,
            )
        current = below
    value = change(current, json_path(steps))
    root: JSON = value
    for wrap in reversed(rebuild):
        root = wrap(root)
    return root, value


def _with_member(container: dict[str, Any], name: str, value: JSON) -> JSON:
    return {**container, name: value}


def _with_element(container: list[Any], index: int, value: JSON) -> JSON:
    return [*container[:index], value, *container[index + 1 :]]


def _existing_index(array: list[Any], token: str, *, path: str) -> int:
    """The token as an index of an existing element (RFC 6901 section 4), else "bad_index"."""
    if token == "-":
        what = "`-` stands for the element after the last, which does not exist"
        hint = "leave out the `-`: append already adds at the end of the array it is given"
    elif not _INDEX.fullmatch(token):
        what = "the pointer's next token is not an array index"
        hint = "use the element's position: 0, 1, 2 ... without leading zeros"
    elif int(token) >= len(array):
        what = f"no element {token}, the array has {len(array)}"
        hint = "read the document again: the array may have changed"
    else:
        return int(token)
    raise DataError(f"cannot step into `{path}`: {what}", code="bad_index", hint=hint, path=path)


def _is_finite(number: int | float) -> bool:
    # math.isfinite converts to a float first, and so fails for a huge int.
    return isinstance(number, int) or math.isfinite(number)


def _bad_pointer(what: str) -> DataError:
    return DataError(what, code="bad_pointer", hint=_POINTER_HINT)


def _wrong_type(what: str, found: object, *, wanted: str, path: str) -> DataError:
    return DataError(
        f"{what}: found {type_name(found)}, expected {wanted}",
        code="wrong_type",
        hint=f"point at an existing {wanted}" if path else "give an int or a finite float",
        path=path,
    )


def _not_finite(what: str, *, path: str) -> DataError:
    return DataError(what, code="not_finite", hint="JSON has no NaN or Infinity", path=path)
