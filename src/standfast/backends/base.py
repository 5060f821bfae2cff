"""The contract that every backend keeps: `apply(ops) -> outcomes`, `read`, `scan`, and bulk loads.

A backend is simple and blocking: it locks and reads rows, lets `standfast.ops.batch` decide, writes
the changes together with its bookkeeping, and maps foreign errors to ours.  What an op means is
decided in `ops`, never here.  The suite in `tests/contract/suite` runs over every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from standfast.document.codec import decode
from standfast.errors import (
    ConfigError,
    ConflictError,
    CorruptData,
    MigrationError,
    Unavailable,
)
from standfast.ops.reconcile import OnConflict
from standfast.ops.types import (
    Applied,
    ConflictRecord,
    Identity,
    Observed,
    Op,
    Outcome,
    Redacted,
    Row,
    ServerIdentity,
    Span,
)

#: The schema that this version of the library writes and understands.
SCHEMA_VERSION = 6


def migrations(database: str) -> list[tuple[int, str]]:
    """`(number, SQL)` of every migration of `"postgres"` or `"sqlite"`, in order."""
    folder = Path(__file__).parent / database / "sql"
    return [
        (number, (folder / f"{number:04d}.sql").read_text(encoding="utf-8"))
        for number in range(1, SCHEMA_VERSION + 1)
    ]


Shape = Literal["object", "array", "lines", "document"]
"""How a collection looked as a JSON file, so that `export` gives the same form back."""


class Form(msgspec.Struct, frozen=True):
    """A collection as a file: its shape and, for records, the field that holds the key."""

    shape: Shape = "object"
    key_field: str | None = None


class StoredText(NamedTuple):
    """One live document in a dump: key, exact text, version, time of the last change."""

    key: str
    text: str
    version: int
    updated_us: int

    def __repr__(self) -> str:
        return f"StoredText(key={self.key!r}, version={self.version})"


class Image(Redacted, frozen=True):
    """All that is stored of one row, to put it back later exactly as it was.

    `others` are the columns of an adopted table that are not ours, as one JSON object.
    """

    content = frozenset({"data", "raw", "others"})

    key: str
    data: str
    raw: str | None
    version: int
    created_us: int | None
    updated_us: int | None
    expires_us: int | None = None
    others: str | None = None


class Change(Redacted, frozen=True):
    """One row of a bulk load.

    `expected_version` is what the plan saw there (0: no row); the load stops when it has moved.
    Exactly one of `text` (new content), `image` (put this back) is set; neither means delete.
    """

    content = frozenset({"text"})

    key: str
    expected_version: int
    text: str | None = None
    image: Image | None = None


class Reference(Redacted, frozen=True):
    """Rows of another table that refer to rows of a collection by a foreign key.

    `action` is what the foreign key does with them when those rows are deleted, in SQL's words;
    `rows` are they themselves, each as one JSON object.
    """

    content = frozenset({"rows"})

    constraint: str
    table: str
    action: str
    rows: list[str]


class Load(Redacted, frozen=True):
    """What one run does to one collection.

    `inserts` are `(key, text)` of documents that the plan found in no row, in the order of the
    source; `changes` are the rows that exist; `source` is the file that they come from;
    `referenced` is how many rows of other tables may refer to rows that are deleted; `remake`: the
    plan found the collection's table lost, and it is made anew first.
    """

    content = frozenset({"inserts"})

    collection: str
    form: Form | None
    inserts: Sequence[tuple[str, str]] = ()
    changes: Sequence[Change] = ()
    source: str = ""
    referenced: int = 0
    remake: bool = False

    @property
    def doomed(self) -> list[str]:
        """The keys of the rows that are deleted."""
        return [each.key for each in self.changes if each.text is None and each.image is None]


class LoadReport(msgspec.Struct, frozen=True):
    """What a run wrote to one collection: the version that each row got, and from which file.

    Nearly all inserted rows of a collection get the same one: `insert_version`; `versions` holds
    the others.
    """

    insert_version: int
    versions: dict[str, int] = {}
    source: str = ""

    def version_of(self, key: str) -> int:
        """The version that the run gave to this row."""
        return self.versions.get(key, self.insert_version)


class Dropped(msgspec.Struct, frozen=True):
    """A collection that was dropped: no version of its documents was above `version`.

    `watermarks` are those of the directory's lanes in the transaction that dropped it.
    """

    version: int
    watermarks: dict[str, int] = {}


class RunRecord(msgspec.Struct, frozen=True):
    """A run as the database knows it; written in the same transaction as the rows."""

    run: str
    state: str
    loads: dict[str, LoadReport] = {}


class Moved(NamedTuple):
    """What a run put into a collection from the file at `path`; "": from none."""

    run: str
    collection: str
    path: str


class Backend(Protocol):
    """A place where documents live.  Every method may raise `Unavailable` and `CorruptData`.

    `deadline` is an instant of `time.monotonic()`: a backend across a network gives up then, with
    `DeadlineExceeded`, and a write that has not taken effect by then never will.
    """

    @property
    def kind(self) -> str:
        """`"sqlite"`, `"postgresql"` or `"memory"`."""
        ...

    @property
    def display(self) -> str:
        """Where this is, for people; never a password."""
        ...

    def check(self) -> None:
        """Connect and look: raises when the database cannot be used.  Changes nothing."""
        ...

    def schema_version(self) -> int:
        """The version of the bookkeeping tables; 0 when there are none."""
        ...

    def install(self, collections: Sequence[str]) -> None:
        """Create the bookkeeping tables and these collections.  Idempotent."""
        ...

    def identity(self) -> str | None:
        """The UUID of this database's history; None before the first write."""
        ...

    def new_handle(self) -> Backend:
        """Another handle to the same database, for another thread; this one where it can serve."""
        ...

    def connect(
        self,
        deadline: float,
        *,
        accept: Callable[[ServerIdentity], object] | None = None,
        lanes: Sequence[str] = (),
    ) -> ServerIdentity:
        """Make the connection that later calls use, if they need one, and say who answers.

        `lanes` are those whose watermarks the answer is to have.  `accept` is shown the answer
        before anybody can use the connection; what it raises is raised, and no connection is left.
        """
        ...

    def server_identity(self, deadline: float, *, lanes: Sequence[str] = ()) -> ServerIdentity:
        """Who this database is, asked on the connection that is there; with these lanes' marks."""
        ...

    @property
    def connected(self) -> bool:
        """Whether a call can begin without making a connection first."""
        ...

    def apply(
        self,
        ops: Sequence[Op],
        *,
        expected_watermark: int = 0,
        deadline: float | None = None,
        directory: str | None = None,
        on_conflict: OnConflict = "mine",
        lock_timeout_s: float | None = None,
    ) -> Applied:
        """Apply a batch of ops of one lane in one transaction and return the outcome of each.

        Ops at or below the lane's watermark are skipped one by one (R2), with their outcome if it
        is among the lane's last outcomes; so are ops whose `origin` another lane has applied.
        `expected_watermark` is the last watermark that was returned to the caller; a lower one in
        the database raises `CorruptData("went_back")`.  Idempotent: the same ops again change
        nothing.  Replayed ops are decided by `on_conflict`; their conflict records are written in
        the same transaction (R12).  `directory` is the data directory that the lane belongs to:
        with it the answer contains the places as they are now, and the watermarks of all lanes of
        that directory.  `lock_timeout_s` is how long the database may wait for a lock before
        `Unavailable("locked")`.
        """
        ...

    def close_lane(self, lane: str) -> None:
        """Forget a lane that will never write again.  Idempotent."""
        ...

    def fence(
        self,
        lanes: Sequence[str],
        *,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> dict[str, int]:
        """Close lanes for good, and return the final watermark of each.  Idempotent.

        No op of a fenced lane can commit afterwards, even if the lane never wrote before (R1).
        """
        ...

    def differences(self) -> list[str]:
        """Sentences about what of the bookkeeping is not as it was installed."""
        ...

    def trim(self, collection: str | None = None, *, deadline: float | None = None) -> bool:
        """Remove what is past its time, a bounded number of rows; whether there may be more.

        Without a collection, of the bookkeeping; with one, documents of it that have expired.  A
        document that is made again continues above the version that it had (R17).
        """
        ...

    def outcomes(self, lane: str, *, deadline: float | None = None) -> list[Outcome]:
        """The outcomes of the last batch that a lane has written, as they are stored with it.

        An op at or below the watermark of the lane may be among them as refused (R18).
        """
        ...

    def observe(
        self,
        collection: str,
        keys: Sequence[str],
        *,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Observed:
        """What these places hold, absence included, in one snapshot with the lanes' watermarks."""
        ...

    def conflicts(
        self,
        *,
        state: str | None = None,
        after: int = 0,
        limit: int = 100,
        name: Identity | None = None,
        deadline: float | None = None,
    ) -> list[ConflictRecord]:
        """Conflict records in the order of their ids, above `after`; with `name`, of one op."""
        ...

    def count_conflicts(self, *, deadline: float | None = None) -> dict[str, int]:
        """The number of conflict records by their state."""
        ...

    def resolve_conflict(self, number: int, resolution: str) -> bool:
        """Mark an open conflict as resolved; False if it is not open."""
        ...

    def read(self, collection: str, keys: Sequence[str]) -> dict[str, Row]:
        """The live documents of these keys; missing ones are left out."""
        ...

    def scan(self, collection: str, span: Span, *, deadline: float | None = None) -> list[Row]:
        """One page of live documents."""
        ...

    def page(
        self,
        collection: str,
        *,
        after: str | None = None,
        limit: int = 1000,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Observed:
        """The page of live documents that `scan` gives, and the watermarks of the same snapshot."""
        ...

    def count(self, collection: str, *, deadline: float | None = None) -> int:
        """The number of live documents."""
        ...

    def dump(self, collection: str, *, in_order: bool = False) -> Iterator[StoredText]:
        """Every live document from one snapshot; `in_order` sorts by time of creation, then key."""
        ...

    def inconsistent(self, collection: str) -> Iterator[str]:
        """The keys of rows whose queryable value does not match their exact text."""
        ...

    def images(self, collection: str, keys: Sequence[str]) -> dict[str, Image]:
        """All that is stored of these rows, expired ones included."""
        ...

    def collections(self, *, deadline: float | None = None) -> list[str]:
        """The names of the collections that exist, sorted."""
        ...

    def form(self, collection: str) -> Form:
        """How the collection looked as a file."""
        ...

    def incarnation(self, collection: str, *, deadline: float | None = None) -> str | None:
        """Which collection of this name there is: another one after a drop; None without any."""
        ...

    def drop(
        self,
        collection: str,
        incarnation: str,
        *,
        if_empty: bool = False,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Dropped | None:
        """Remove a collection with its table and all that is kept about it, in one transaction.

        None, and nothing was done, unless it is the collection that `incarnation` named.  What is
        made later, under this name or another, has versions above all that there were.  With
        `if_empty`, ConflictError("not_empty") while there are documents.  ConfigError: `adopted`
        where another program made the table, `referenced` where others refer to it.
        """
        ...

    def create_index(self, collection: str, *, deadline: float | None = None) -> None:
        """Make `scan(query=...)` fast, where the database can.  Idempotent.

        The deadline is for all but the building of the index, which takes as long as it takes.
        """
        ...

    def adoptable(self, collection: str) -> str:
        """Why this collection cannot be written here, in one sentence; empty when it can.

        Changes nothing: this is what a plan shows before a run.
        """
        ...

    def lost_table(self, collection: str) -> bool:
        """Whether the collection is registered and its table is not there any more.

        ConfigError("no_table") where it was renamed: its documents are there, under another name.
        """
        ...

    def references(self, collection: str, keys: Sequence[str]) -> list[Reference]:
        """The rows of other tables that refer to these rows by a foreign key.

        With them those that refer to such rows as would be deleted along, and so on.
        """
        ...

    def misfits(self, collection: str, keys: Sequence[str]) -> list[str]:
        """The keys that the table's key column cannot hold, as a column of numbers."""
        ...

    def load(self, run: str, state: str, loads: Sequence[Load]) -> Mapping[str, LoadReport]:
        """Write a whole run in one transaction, together with its record; all or nothing.

        Raises MigrationError("plan_stale") when a row moved since the plan, or when more rows of
        other tables refer to what is deleted than the load says, and MigrationError("locked") when
        another load is under way.
        """
        ...

    def run_record(self, run: str) -> RunRecord | None:
        """What the database knows of a run; None when nothing of it was ever committed."""
        ...

    def moved(self) -> list[Moved]:
        """What runs moved that were not rolled back, into collections that are there still.

        Latest first.
        """
        ...

    def buried(self, collection: str) -> set[str]:
        """The keys whose deletion is on record: absent because it was deleted, not lost."""
        ...

    def close(self) -> None:
        """Release every handle.  Idempotent."""
        ...


def missing_table(collection: str, name: str, *, renamed: str = "") -> ConfigError:
    """The error for a registered collection without its table, or with it under another name."""
    if renamed:
        return ConfigError(
            f"table `{name}` of collection `{collection}` was renamed to `{renamed}`",
            code="no_table",
            hint="rename it back",
        )
    return ConfigError(
        f"table `{name}` of collection `{collection}` is missing",
        code="no_table",
        hint="it was dropped or renamed: restore it, or migrate its file again, which makes it"
        " anew",
    )


def require_droppable(collection: str, *, adopted: bool, referenced: str = "") -> None:
    """ConfigError where dropping a collection would take what is not ours alone."""
    if adopted:
        raise ConfigError(
            f"drop of `{collection}`: another program made its table; nothing was changed",
            code="adopted",
            hint="clear() deletes its documents; a table that you drop by SQL can be dropped here"
            " afterwards",
        )
    if referenced:
        raise ConfigError(
            f"drop of `{collection}`: {referenced}; nothing was changed",
            code="referenced",
            hint="drop what refers to its table first",
        )


def not_empty(collection: str) -> ConflictError:
    """The error for a collection that is dropped only when it has no documents."""
    return ConflictError(
        f"drop of `{collection}`: it has documents", code="not_empty", hint="look at them"
    )


def standing(
    rows: Iterable[tuple[str, str, str | bytes, Any]], made: Mapping[str, Any]
) -> list[Moved]:
    """What `Backend.moved` returns: of runs, each with its state, report and time as stored.

    Left out is what a run loaded into a collection that was dropped since, whatever has its name
    now; `made` is when each collection was made, by the same clock.
    """
    found = list(rows)
    undone = {run for run, state, _, _ in found if state == "rolled-back"}
    reports = msgspec.json.Decoder(dict[str, LoadReport])
    return [
        Moved(run, name, report.source)
        for run, state, text, at in found
        if state == "loaded" and f"{run}:rollback" not in undone
        for name, report in reports.decode(text).items()
        if name in made and made[name] <= at
    ]


def skip_applied(
    ops: Sequence[Op], expected_watermark: int, watermark: int, state: str, outcomes: str
) -> tuple[list[Op], list[Outcome]]:
    """The ops of a batch that are still to be applied, and the outcomes of the others (R2).

    `watermark`, `state` and `outcomes` (see `encode_outcomes`) are the locked row of the lane.
    """
    if state != "open":
        raise Unavailable(
            "this store's lane was closed by another process",
            code="fenced",
            hint="open the store again",
        )
    if watermark < expected_watermark:
        raise CorruptData(
            "the database went back in time: it has lost writes that it confirmed",
            code="went_back",
            hint="was it restored from a backup, or did a failover lose its last writes?",
        )
    known = {o.seq: o for o in decode_outcomes(outcomes)}
    skipped = [
        msgspec.structs.replace(known[op.seq], status="skipped")
        if op.seq in known and known[op.seq].status == "applied"
        else known.get(op.seq, Outcome(op.seq, "skipped"))
        for op in ops
        if op.seq <= watermark
    ]
    return [op for op in ops if op.seq > watermark], skipped


def skip_reissued(ops: Sequence[Op], moved: Container[Identity]) -> tuple[list[Op], list[Outcome]]:
    """The ops that are still to be applied, and the outcomes of those applied by another lane.

    An op that moved here from a closed lane carries its first name.  If a data directory exists
    twice, both copies move the same ops: the first to arrive applies them (R1).
    """
    left: list[Op] = []
    done: list[Outcome] = []
    for op in ops:
        if op.origin is not None and op.origin in moved:
            done.append(Outcome(op.seq, "skipped"))
        else:
            left.append(op)
    return left, done


def encode_outcomes(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as they are kept with the lane: without the documents' content."""
    return msgspec.json.encode(
        [msgspec.structs.replace(outcome, text=None) for outcome in outcomes]
    ).decode()


def decode_outcomes(text: str) -> list[Outcome]:
    """What `encode_outcomes` has encoded."""
    return msgspec.json.decode(text, type=list[Outcome])


def readable(collection: str, row: Row) -> Any:
    """The value of a row; CorruptData, which names it, when its text is not JSON."""
    try:
        return decode(row.text)
    except CorruptData as error:
        raise CorruptData(
            f"the document of key {row.key!r} in `{collection}` is not readable JSON",
            hint=error.hint,
        ) from None


def require_known_references(load: Load, found: Sequence[Reference]) -> None:
    """MigrationError when rows of other tables would go along that nobody has been asked about."""
    if sum(len(each.rows) for each in found) > load.referenced:
        raise referenced(load.collection, found)


def referenced(collection: str, found: Sequence[Reference], hint: str = "") -> MigrationError:
    """The error for rows that cannot be deleted, since others refer to them; it names these."""
    who = ", ".join(
        f"{len(each.rows)} row(s) of `{each.table}` (foreign key `{each.constraint}`,"
        f" ON DELETE {each.action})"
        for each in found
    )
    return MigrationError(
        f"rows of collection `{collection}` would be deleted to which other tables refer: {who};"
        " nothing was changed",
        code="referenced",
        hint=hint or "move or delete those rows first, or drop the foreign key",
    )


def stale(collection: str, key: str | None) -> MigrationError:
    """The error of a load that finds another state than its plan did."""
    what = "its rows" if key is None else f"the row of key {key!r}"
    return MigrationError(
        f"collection `{collection}`: {what} changed since the plan was made; nothing was written",
        code="plan_stale",
        hint="run the same command again: it makes a new plan",
    )
