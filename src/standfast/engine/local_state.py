"""The local files of a store whose primary is elsewhere, and what is known from them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from standfast.engine import journal, mirror
from standfast.engine.heads import Head, head_of, is_current, seen
from standfast.engine.journal import History, Journal
from standfast.engine.mirror import Mirror
from standfast.engine.overlay import CompleteMark, MirrorRow, View, view_of
from standfast.errors import CorruptData, Unavailable
from standfast.limits import MAX_CONNECTIONS, MAX_JOURNAL_BYTES, MAX_JOURNAL_OPS, MAX_QUICK_OPS
from standfast.ops.reconcile import OnConflict
from standfast.ops.types import Applied, Observed, Op, ServerIdentity

logger = logging.getLogger("standfast")

Fallback = Literal["read-write", "read-only", "off"]


class OutageOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a store behaves while the primary is away.

    `fallback`: what still works then.  `sole_writer`: this data directory alone writes these
    collections, so conditions may be judged locally.  `max_stale_s`: the oldest local knowledge
    that is served.  `local_durability` "full": the mirror survives a power cut at once.
    `max_connections`: the connections of this process to the primary; with fewer than 3, writes,
    reads and replays wait for each other.
    """

    fallback: Fallback = "read-write"
    sole_writer: bool = False
    max_stale_s: float | None = None
    on_conflict: OnConflict = "mine"
    local_durability: Literal["normal", "full"] = "normal"
    max_journal_ops: int = MAX_JOURNAL_OPS
    max_journal_bytes: int = MAX_JOURNAL_BYTES
    max_connections: int = MAX_CONNECTIONS


class PendingAt(Protocol):
    """Where the pending ops of a place are read: the journal, or a transaction of it."""

    def head(self, collection: str, key: str) -> Head | None:
        """The folded head of a place with all of its pending ops; None when there is none."""
        ...

    def at(self, collection: str, key: str) -> list[Op]:
        """The pending ops of one place, in order."""
        ...


class LocalState:
    """The local files of one data directory, and the database that they belong to.  Thread-safe."""

    def __init__(self, data_dir: Path, options: OutageOptions, *, display: str) -> None:
        self.data_dir = data_dir
        self.options = options
        self.display = display
        self.journal = Journal(
            data_dir, max_ops=options.max_journal_ops, max_bytes=options.max_journal_bytes
        )
        self.journal.tidy()
        self.mirror = Mirror(data_dir / mirror.FILE)
        self._history = self.journal.history()
        if self._history is None:
            self.mirror.clear()  # which database its rows are from is unknown
        self._lock = threading.Lock()

    @property
    def history(self) -> History | None:
        """The database that the local files belong to."""
        return self._history

    def recognise(self, server_identity: ServerIdentity, *, reached_before: bool) -> None:
        """Check who answered before anything is written there (I9); CorruptData when it is held.

        Another database under another address is taken over when nothing is pending for the old
        one; under the same address, or while something is pending, the user has to decide.
        """
        with self._lock:
            known = self._history
            if known is None:
                if server_identity.identity is not None:
                    self._become(server_identity)
                return
            if known.is_of(server_identity):
                return
            moved = known.display != self.display and not reached_before
            if moved and not self.journal.totals().ops:
                if server_identity.identity is not None:
                    logger.warning("%s is another database than before", self.display)
                    self._become(server_identity)
                return
            raise CorruptData(
                f"{self.display} is not the database that the journal in {self.data_dir} belongs"
                " to; nothing was written to it",
                code="other_database",
                hint="correct the URL; or, if it is to be the new home: standfast doctor --adopt",
            )

    def adopt(self, server_identity: ServerIdentity) -> None:
        """Let the local files belong to this database from now on, pending ops included."""
        with self._lock:
            self._become(server_identity)

    def _become(self, server_identity: ServerIdentity) -> None:
        assert server_identity.identity is not None, "a database without a schema has no history"
        history = History(server_identity.identity, server_identity.system, self.display)
        self.mirror.belongs_to(f"{server_identity.identity}/{server_identity.system}")
        self.journal.set_history(history)
        self._history = history

    def confirm(
        self, applied: Applied, *, lane: str, retained: Sequence[tuple[Op, int | None]]
    ) -> None:
        """Take over what a batch of ours made (R6).

        The primary has it, so a mirror that cannot be written is not a reason to fail.
        """
        self.mirror.confirm(
            applied.observed,
            lane=lane,
            watermark=applied.watermark,
            retained=retained,
            durable=self.options.local_durability == "full",
        )

    def take(self, observed: Observed, *, seen_us: int) -> None:
        """Take over what a read from the primary showed (R5)."""
        self.mirror.take(observed, seen_us=seen_us)

    def forget_lane(self, lane: str) -> None:
        """A lane was fenced, and nothing of it is pending."""
        self.mirror.forget_lane(lane)

    def take_complete(
        self, collection: str, *, since_us: int, watermarks: Mapping[str, int]
    ) -> None:
        """Note that the mirror holds a collection whole, unless it missed something meanwhile."""
        self.mirror.take_complete(collection, since_us=since_us, watermarks=watermarks)

    def unseen(self, collection: str, *, before_us: int) -> list[str]:
        """The keys of documents in the mirror that were not read since."""
        return self.mirror.unseen(collection, before_us=before_us)

    def complete_mark(self, collection: str) -> CompleteMark | None:
        """The mark of a collection that the mirror holds whole."""
        return self.mirror.complete_mark(collection)

    def view(self, collection: str, key: str) -> View:
        """What this directory knows of a place.

        The journal is read before the mirror: an op that is applied in between is in the mirror
        by then; if it is in both, the row's watermarks show it.
        """
        return self.head(collection, key, self.journal).view

    def head(self, collection: str, key: str, pending: PendingAt) -> Head:
        """The view of a place, and what it rests on; `pending` is where its ops are read."""
        found = pending.head(collection, key)
        if found is not None:
            row, now_us = self._row(collection, key), time.time_ns() // 1000
            if is_current(found, row, now_us=now_us):
                return seen(found, row)
        ops = pending.at(collection, key)
        row = self._row(collection, key)
        return head_of(row, ops, now_us=time.time_ns() // 1000)

    def is_quick(self, collection: str, key: str) -> bool:
        """Whether the view of a place takes few steps, so that an event loop can wait for it."""
        if self.journal.count_at(collection, key, limit=MAX_QUICK_OPS) < MAX_QUICK_OPS:
            return True
        found = self.journal.head(collection, key)
        if found is None:
            return False
        row = self._row(collection, key)
        return is_current(found, row, now_us=time.time_ns() // 1000)

    def _row(self, collection: str, key: str) -> MirrorRow | None:
        row = self.mirror.get(collection, key)
        if row is None and (whole := self.complete_mark(collection)) is not None:
            row = whole.absence(collection, key)
        return row

    def read_mirror(self, collection: str, key: str) -> View:
        """What the primary said of a place on which nothing is pending; raises as `read_local`.

        A key that the mirror does not know is not taken for missing: others may have made it since.
        """
        row = self.mirror.get(collection, key)
        return self._readable(collection, key, view_of(row, (), now_us=time.time_ns() // 1000))

    def read_local(self, collection: str, key: str) -> View:
        """The view for a reader: raises where nothing is known, or what is known is too old."""
        return self._readable(collection, key, self.view(collection, key))

    def _readable(self, collection: str, key: str, view: View) -> View:
        if view.knowledge == "unknown":
            raise Unavailable(
                f"key {key!r} in `{collection}`: the primary does not answer, and it is not in the"
                " mirror",
                code="not_mirrored",
                hint="try again when the primary is back; this does not mean that it is missing",
            )
        limit = self.options.max_stale_s
        if limit is not None and view.seen_us and age_s(view.seen_us) > limit:
            raise Unavailable(
                f"key {key!r} in `{collection}`: what is known is {age_s(view.seen_us):.0f} s old",
                code="too_stale",
                hint=f"max_stale_s is {limit}",
            )
        return view

    def close(self) -> None:
        """Close the files.  Idempotent."""
        self.journal.close()
        self.mirror.close()


def age_s(seen_us: int) -> float:
    """How long ago the primary returned it; 0 if it never did."""
    return max(0.0, time.time() - seen_us / 1e6) if seen_us else 0.0


def knows_a_primary(data_dir: Path) -> bool:
    """Whether the local files of a directory hold anything of a primary elsewhere.

    That is writes that wait for it, or the name of the database that they belong to; where the
    journal is lost, what the mirror knows.  Creates no file.
    """
    if (data_dir / journal.FILE).exists():
        pending = Journal(data_dir)
        try:
            return pending.history() is not None or pending.totals().ops > 0
        finally:
            pending.close()
    if (data_dir / mirror.FILE).exists():
        mirrored = Mirror(data_dir / mirror.FILE)
        try:
            return mirrored.count() > 0
        finally:
            mirrored.close()
    return False
