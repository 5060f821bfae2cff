"""Three-way merge of JSON documents, and where two documents differ, without showing a value.

Objects are merged member by member; arrays and scalars count as one thing each, because nothing
in an array says which element is "the same one" on the other side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeAlias

from standfast.document.values import JSON, MISSING, Missing, json_path

Side: TypeAlias = Literal["mine", "theirs"]
Tokens: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """One place where both sides changed the base differently; it holds no values.

    `kind` is "both_changed" for a true conflict, which `prefer` decided, and
    "update_beats_delete" where one side removed what the other changed, which needs no decision.
    `kept` is the side whose value stands in the result. `tokens` are member names from the root
    (`standfast.document.patch.resolve` finds the three values by them).
    """

    tokens: Tokens
    kind: Literal["both_changed", "update_beats_delete"]
    kept: Side

    @property
    def path(self) -> str:
        """The place as a JSONPath, such as `$.settings.mode`."""
        return json_path(self.tokens)


@dataclass(frozen=True, slots=True)
class Merge:
    """The outcome of a three-way merge: the value (`MISSING`: no document) and the conflicts."""

    value: JSON | Missing = field(repr=False)
    conflicts: tuple[Conflict, ...]

    @property
    def true_conflicts(self) -> tuple[Conflict, ...]:
        """The conflicts in which a change of one side was given up for the other's."""
        return tuple(found for found in self.conflicts if found.kind == "both_changed")


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two documents differ: member names from the root, and how; no values."""

    tokens: Tokens
    kind: Literal["added", "removed", "changed"]

    @property
    def path(self) -> str:
        """The place as a JSONPath, such as `$.settings.mode`."""
        return json_path(self.tokens)


def same_value(a: JSON | Missing, b: JSON | Missing) -> bool:
    """Whether two values are the same JSON, strictly: the same types, and the same numbers.

    True is not 1, 1 is not 1.0 and 0.0 is not -0.0; the order of an object's members does not
    matter, that of an array's elements does. `MISSING` is the same as itself only.
    """
    # What Python finds different is different, and it finds out at the speed of C.
    return a is b or (a == b and _same_types(a, b))


def three_way(
    base: JSON | Missing,
    mine: JSON | Missing,
    theirs: JSON | Missing,
    *,
    prefer: Side = "mine",
) -> Merge:
    """Merge two changes of one base, field by field through objects; arrays and scalars whole.

    `MISSING` on any side means that the document, there, does not exist. For each field:

    - only one side changed it: that side's value, or its absence;
    - both changed it to the same value (`same_value`): that value;
    - one side removed it and the other changed it: the changed value, reported as a conflict of
      the kind "update_beats_delete";
    - both made or left it an object: merged, member by member; where the base had no object,
      every member counts as added;
    - otherwise `prefer` decides, reported as a conflict of the kind "both_changed".

    So a change that only one side made is never lost, unless it lies below a reported true
    conflict, and exchanging the sides and `prefer` gives the same value. The value of a side that
    alone changed something is taken as it is; an object merged from two has the members of
    `theirs` in their order, then those that only `mine` has in its order. Conflicts come in that
    order too. Nothing given is changed; the result shares its unchanged parts.
    """
    conflicts: list[Conflict] = []
    value = _merged(base, mine, theirs, (), prefer, conflicts)
    return Merge(value, tuple(conflicts))


def changed_paths(old: JSON | Missing, new: JSON | Missing, *, most: int = 20) -> list[Difference]:
    """Where two documents differ, field by field through objects; arrays and scalars whole.

    The members of `old` come first, in their order, then the added ones in the order of `new`; an
    added or removed object is one difference. After `most` of them the search ends, so ask for one
    more than is to be shown to learn whether there are more. Values compare by `same_value`.
    """
    return list(islice(_differences(old, new, ()), most))


def _same_types(a: JSON | Missing, b: JSON | Missing) -> bool:
    """For values that Python finds equal: whether no int, float, bool or sign differs."""
    pending: list[tuple[JSON | Missing, JSON | Missing]] = [(a, b)]
    while pending:
        left, right = pending.pop()
        if left is right:
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            pending.extend((value, right[name]) for name, value in left.items())
        elif isinstance(left, list) and isinstance(right, list):
            pending.extend(zip(left, right, strict=True))
        elif isinstance(left, float) and isinstance(right, float):
            if math.copysign(1.0, left) != math.copysign(1.0, right):
                return False
        elif type(left) is not type(right):
            return False
    return True


def _merged(
    base: JSON | Missing,
    mine: JSON | Missing,
    theirs: JSON | Missing,
    tokens: Tokens,
    prefer: Side,
    conflicts: list[Conflict],
) -> JSON | Missing:
    if same_value(mine, theirs) or same_value(mine, base):
        return theirs
    if same_value(theirs, base):
        return mine
    if isinstance(mine, dict) and isinstance(theirs, dict):
        old: dict[str, Any] = base if isinstance(base, dict) else {}
        return _merged_objects(old, mine, theirs, tokens, prefer, conflicts)
    if mine is MISSING or theirs is MISSING:
        kept: Side = "theirs" if mine is MISSING else "mine"
        conflicts.append(Conflict(tokens, "update_beats_delete", kept))
    else:
        kept = prefer
        conflicts.append(Conflict(tokens, "both_changed", kept))
    return mine if kept == "mine" else theirs


def _merged_objects(
    base: dict[str, Any],
    mine: dict[str, Any],
    theirs: dict[str, Any],
    tokens: Tokens,
    prefer: Side,
    conflicts: list[Conflict],
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in _names(theirs, mine):
        value = _merged(
            base.get(name, MISSING),
            mine.get(name, MISSING),
            theirs.get(name, MISSING),
            (*tokens, name),
            prefer,
            conflicts,
        )
        if value is not MISSING:
            result[name] = value
    return result


def _names(first: dict[str, Any], second: dict[str, Any]) -> Iterable[str]:
    """Each member name once: those of `first` in order, then what only `second` has."""
    yield from first
    yield from (name for name in second if name not in first)


def _differences(old: JSON | Missing, new: JSON | Missing, tokens: Tokens) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in _names(old, new):
            yield from _differences(old.get(name, MISSING), new.get(name, MISSING), (*tokens, name))
    elif not same_value(old, new):
        if old is MISSING:
            yield Difference(tokens, "added")
        elif new is MISSING:
            yield Difference(tokens, "removed")
        else:
            yield Difference(tokens, "changed")
