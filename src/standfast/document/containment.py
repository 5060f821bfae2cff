"""JSON containment as PostgreSQL's `jsonb @> jsonb` answers it, on decoded values.

Source: PostgreSQL documentation, section 8.14.3 "jsonb Containment and Existence". What the text
leaves open was determined by asking a server: the exception for scalars holds for the document as a
whole and nowhere below it, and it does not extend to objects.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, TypeAlias

from standfast.document.values import JSON

_Scalar: TypeAlias = str | int | float | bool | None

#: Stands for a scalar in sets: equal exactly when PostgreSQL finds the scalars equal.
_ScalarKey: TypeAlias = tuple[type[object], _Scalar]


def contains(document: JSON, query: JSON) -> bool:
    """Whether `document @> query`, with the answer that PostgreSQL gives for the same JSON.

    - Objects: each member of the query is in the document, and its value contains the query's.
    - Arrays: each element of the query equals (a scalar) or is contained in (an object or array)
      some element of the document; order and repetitions do not matter.
    - Scalars are contained in equal scalars and, at the top level only, in an array that has them.
    - Numbers are compared as the decimal numbers that their shortest text shows, so 1 equals 1.0
      and -0.0, and 1e23 equals 10**23 although the float is a little less. A bool is not a number.

    Both values are finite JSON within the depth limit; neither is changed. The time is linear for
    objects and arrays of scalars; arrays of containers are compared each with each.
    """
    if isinstance(document, list) and not isinstance(query, dict | list):
        return _key(query) in _keys(document)
    return _contains(document, query)


def _contains(document: JSON, query: JSON) -> bool:
    """The rules below the top level: both must be of one kind.

    Plain loops, one call for each level: with generators, two values at the depth limit would
    need more frames than Python allows.
    """
    if isinstance(query, dict):
        if not isinstance(document, dict) or len(query) > len(document):
            return False
        for name, wanted in query.items():
            if name not in document or not _contains(document[name], wanted):
                return False
        return True
    if isinstance(query, list):
        if not isinstance(document, list) or not _keys(query) <= _keys(document):
            return False
        candidates = _containers(document)
        for wanted in _containers(query):
            for candidate in candidates:
                if _contains(candidate, wanted):
                    break
            else:
                return False
        return True
    return not isinstance(document, dict | list) and _key(document) == _key(query)


def _containers(array: list[Any]) -> list[JSON]:
    return [element for element in array if isinstance(element, dict | list)]


def _keys(array: list[Any]) -> set[_ScalarKey]:
    return {_key(element) for element in array if not isinstance(element, dict | list)}


def _key(scalar: _Scalar) -> _ScalarKey:
    if isinstance(scalar, float):
        return int, _exact(scalar)
    # Without its type, True would equal 1.
    return type(scalar), scalar


def _exact(number: float) -> int | float:
    """The float as the number that its text shows, in a form that compares exactly with ints.

    A float with a fraction equals no int. One without stands for the int in its shortest text,
    which above 2**53 is not always the int that it holds.
    """
    if not number.is_integer():
        return number
    if abs(number) <= 2.0**53:
        return int(number)
    return int(Decimal(repr(number)))
