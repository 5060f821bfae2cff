"""What `find` looks for: JSON that a document contains, and comparisons of single places in it.

A query is JSON in which `gt(10)` and its like may stand in the place of any member's value.  The
JSON around them is containment, which every database answers; the comparisons are made here, so
they have the same answer everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias, cast

import msgspec

from standfast.document.codec import decode, encode
from standfast.document.values import JSON, MISSING, Missing, json_path, type_name
from standfast.errors import DataError

__all__ = ["Comparison", "Query", "ge", "gt", "le", "lt", "parse_query"]

Sign: TypeAlias = Literal["gt", "ge", "lt", "le"]
Comparable: TypeAlias = str | int | float


class Comparison(msgspec.Struct, frozen=True):
    """What `gt`, `ge`, `lt` and `le` return; `gt(10) & lt(20)` asks for both."""

    bounds: tuple[tuple[Sign, Comparable], ...]

    def __and__(self, other: Comparison) -> Comparison:
        return Comparison((*self.bounds, *other.bounds))

    def holds(self, found: JSON | Missing) -> bool:
        """Whether a value is of the operands' type and within all bounds."""
        return all(_within(found, sign, operand) for sign, operand in self.bounds)


def gt(value: Comparable) -> Comparison:
    """In a query of `find`: a number, or a string, above this one.

    Numbers compare with numbers, exactly; strings with strings, by their code points.  A value of
    another type, or none at all, is not found.
    """
    return _comparison("gt", value)


def ge(value: Comparable) -> Comparison:
    """In a query of `find`: this number or string, or one above it; see `gt`."""
    return _comparison("ge", value)


def lt(value: Comparable) -> Comparison:
    """In a query of `find`: a number or string below this one; see `gt`."""
    return _comparison("lt", value)


def le(value: Comparable) -> Comparison:
    """In a query of `find`: this number or string, or one below it; see `gt`."""
    return _comparison("le", value)


class Query(msgspec.Struct, frozen=True):
    """A query taken apart: `contained` (MISSING: nothing), and the comparisons by their place."""

    contained: JSON | Missing
    comparisons: tuple[tuple[tuple[str, ...], Comparison], ...] = ()

    def compares(self, document: JSON) -> bool:
        """Whether the comparisons hold; containment is not looked at."""
        return all(wanted.holds(_at(document, place)) for place, wanted in self.comparisons)


def parse_query(query: object) -> Query:
    """The parts of a query; DataError for what is not JSON, or a comparison inside of a list."""
    if isinstance(query, Comparison):
        return Query(MISSING, (((), query),))
    found = tuple(_comparisons(query, ()))
    return Query(decode(encode(_without(query) if found else query)), found)


def _comparison(sign: Sign, value: object) -> Comparison:
    is_bad = isinstance(value, bool) or not isinstance(value, str | int | float)
    if is_bad or (isinstance(value, float) and not math.isfinite(value)):
        raise DataError(
            f"{sign}() of {type(value).__name__}: only numbers and strings have an order",
            code="wrong_type",
            hint="give a finite number, or a string",
        )
    return Comparison(((sign, cast("Comparable", value)),))


def _within(found: JSON | Missing, sign: Sign, operand: Comparable) -> bool:
    wanted = "string" if isinstance(operand, str) else "number"
    if type_name(found) != wanted:
        return False
    one, other = cast("Any", found), cast("Any", operand)
    if sign in ("gt", "ge"):
        return one > other or (sign == "ge" and one == other)
    return one < other or (sign == "le" and one == other)


def _comparisons(
    query: object, place: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Comparison]]:
    if isinstance(query, Comparison):
        yield place, query
    elif isinstance(query, Mapping):
        for name, below in cast("Mapping[Any, Any]", query).items():
            yield from _comparisons(below, (*place, str(name)))
    elif isinstance(query, list | tuple):
        for below in cast("list[Any]", query):
            for inside, _ in _comparisons(below, ()):
                raise DataError(
                    f"a comparison inside of the list at `{json_path((*place, *inside))}`",
                    code="wrong_type",
                    hint="compare members of objects; filter lists in your own code",
                )


def _without(query: object) -> object:
    """The query without its comparisons; what leads to them stays."""
    if not isinstance(query, Mapping):
        return query
    members = cast("Mapping[Any, Any]", query)
    return {
        name: _without(below)
        for name, below in members.items()
        if not isinstance(below, Comparison)
    }


def _at(document: JSON, place: tuple[str, ...]) -> JSON | Missing:
    current: JSON | Missing = document
    for name in place:
        if not isinstance(current, dict):
            return MISSING
        current = current.get(name, MISSING)
    return current
