"""Whole databases as they are copied: read in one snapshot, written in one transaction.

Both go collection by collection and in the bytewise order of keys, so that two of them are compared
side by side in a memory that does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from standfast.backends.base import Form
from standfast.errors import Unavailable
from standfast.ops.types import Redacted

#: Rows that are read, and written, at a time; fewer where they are more than so many characters,
#: of which the last document may be some: what is in memory does not depend on what comes next.
PAGE_ROWS = 2000
PAGE_CHARS = 8 * 1024 * 1024


# Thousands of both are alive at once and refer to nothing that refers to them: looking for cycles
# among them takes a third of the time of a restore.
class Stored(Redacted, frozen=True, gc=False):
    """One live document with all that is stored of it: exact text, version and times.

    Times are in microseconds since 1970 UTC; None where an adopted table has none.  `others` are
    the columns of an adopted table that are not ours, as one JSON object.  `exact` says whether
    PostgreSQL's jsonb gives the text back exactly; None where that was not looked at.
    """

    content = frozenset({"text", "others"})

    key: str
    text: str
    version: int
    created_us: int | None
    updated_us: int | None
    expires_us: int | None = None
    others: str | None = None
    exact: bool | None = None


class Described(msgspec.Struct, frozen=True):
    """A collection: its name, its form as a file, and about how many documents it has."""

    name: str
    form: Form
    documents: int


class Writing(Redacted, frozen=True, gc=False):
    """One row of a copy: what is written (None: the row goes), and the version that is there now.

    `expected_version` is 0 where there is no row.
    """

    content = frozenset({"row"})

    key: str
    row: Stored | None
    expected_version: int = 0


class Snapshot(Protocol):
    """A database as it was at one moment, whatever is written to it meanwhile."""

    @property
    def taken_us(self) -> int:
        """The moment, by the database's clock."""
        ...

    @property
    def identity(self) -> str | None:
        """The history that it belongs to."""
        ...

    @property
    def watermarks(self) -> dict[str, int]:
        """The highest sequence that it contains of each lane that is known."""
        ...

    def collections(self) -> list[Described]:
        """The collections, by name."""
        ...

    def rows(self, collection: str, *, key: str | None = None) -> Iterator[Stored]:
        """The live documents, or the one of this key, in the bytewise order of keys."""
        ...

    def pages(self, collection: str, *, key: str | None = None) -> Iterator[list[Stored]]:
        """The same, a page at a time."""
        ...


class Filling(Protocol):
    """One transaction that writes to whole collections; nobody else writes to them meanwhile."""

    @property
    def now_us(self) -> int:
        """The moment at which a document counts as live or expired, by the database's clock."""
        ...

    def before(self, collection: str, *, key: str | None = None) -> Iterator[Stored]:
        """What was live before this transaction wrote, in order; rows may be written meanwhile
        up to the one that was read last."""
        ...

    def write(self, collection: str, rows: Sequence[Writing]) -> None:
        """Write rows, in order.  A row keeps its version unless that must be higher here."""
        ...

    def after(self, collection: str, *, key: str | None = None) -> Iterator[Stored]:
        """What is live now, with what this transaction has written, in order."""
        ...

    def set_form(self, collection: str, form: Form) -> None:
        """Set how the collection looks as a file."""
        ...


def too_long(display: str) -> Unavailable:
    """The error of a snapshot that was open for longer than it may be."""
    return Unavailable(
        f"the snapshot of {display} was open for too long and was given up",
        code="snapshot_too_long",
        hint="run it again when the machine is less busy, or raise the limit with --limit",
    )
