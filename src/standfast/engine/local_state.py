"""The local files of a store whose primary is elsewhere, and what is known from them."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

import msgspec

from standfast.backends.base import Dropped
from standfast.engine import clock, journal, mirror
from standfast.engine.heads import Head, head_of, is_current, seen
from standfast.engine.histories import (
    Held,
    History,
    Notice,
    address_mark,
    history_of,
    is_meant_for,
    loss,
    mark_of,
)
from standfast.engine.journal import DISCARDED, Journal
from standfast.engine.lanes import is_dead
from standfast.engine.mirror import Mirror
from standfast.engine.overlay import CompleteMark, MirrorRow, View, ended, view_of
from standfast.engine.reserve import Reserve
from standfast.engine.snapshot import Content, Snapshots
from standfast.engine.time_travel import is_failover, reaches_back, regained
from standfast.engine.undone import save_undone
from standfast.errors import ConfigError, CorruptData, StandfastError, Unavailable
from standfast.limits import (
    MAX_CONNECTIONS,
    MAX_JOURNAL_BYTES,
    MAX_JOURNAL_OPS,
    MAX_PAGE,
    MAX_QUICK_OPS,
    MAX_SNAPSHOT_BYTES,
)
from standfast.ops.reconcile import OnConflict
from standfast.ops.types import Applied, Observed, Op, Row, ServerIdentity
from standfast.system.failpoints import failpoint

logger = logging.getLogger("standfast")

#: A change of the measured clock that is worth noting, for stores that begin in an outage.
_CLOCK_STEP_US = 1_000_000

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
    max_snapshot_bytes: int = MAX_SNAPSHOT_BYTES
    on_time_travel: Literal["reapply", "hold"] = "reapply"


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
        self.reserve = Reserve(data_dir)
        self.reserve.give_up_if_full()
        with contextlib.ExitStack() as undo:
            self.journal = Journal(
                data_dir, max_ops=options.max_journal_ops, max_bytes=options.max_journal_bytes
            )
            undo.callback(self.journal.close)
            self.journal.tidy()
            self.snapshots = Snapshots(data_dir)
            self._quiet_at = self._snapped_at = -1
            self.mirror = Mirror(data_dir / mirror.FILE, forgotten=self.snapshots.spoil_all)
            undo.callback(self.mirror.close)
            self._history = self.journal.history()
            self._notice = self.journal.notice()
            self._verified = self._foreign = False
            if self._history is None:
                self.mirror.clear()  # which database its rows are from is unknown
            self._lock = threading.Lock()
            self._mark = self._new_mark()
            undo.pop_all()
        self.reserve.fill()

    # ---- which database (R22)

    @property
    def history(self) -> History | None:
        """The database that the local files belong to."""
        return self._history

    @property
    def notice(self) -> Notice | None:
        """That this database was seen to have gone back; None when it never was."""
        return self._notice

    @property
    def mark(self) -> str:
        """What an op carries that is acknowledged now: the history that it is meant for."""
        return self._mark

    def _new_mark(self) -> str:
        gone_back = self._notice is not None and self._notice.is_open
        return mark_of(self._history, self.display, verified=self._verified, gone_back=gone_back)

    def lanes_to_check(self) -> dict[str, int]:
        """The lanes of this directory that its database must still know, with their watermarks.

        Read before the database is asked: what other processes write meanwhile is not in its
        answer, and proves nothing.
        """
        return dict(self.mirror.watermarks())

    def recognise(
        self, found: ServerIdentity, *, expected: Mapping[str, int] | None = None
    ) -> bool:
        """Check who answered before anything is written there (I9); True when it was taken over.

        Where nothing is pending, nothing can be misdirected: then another database, and one that
        went back in time, are taken over with a warning and an empty mirror.  Else CorruptData
        `other_database` or `went_back`: a person has to decide.  ConfigError `directory_in_use`
        while another process uses the directory for another database.  `expected`: what
        `lanes_to_check` said before the database was asked.
        """
        with self._lock:
            # Another process of the directory may have taken a database over.
            self._history, self._notice = self.journal.history(), self.journal.notice()
            try:
                return self._recognise(found, expected or {})
            finally:
                self._mark = self._new_mark()

    def _recognise(self, found: ServerIdentity, expected: Mapping[str, int]) -> bool:
        known = self._history
        if known is None:
            if found.identity is not None:
                self._begin(found, None)
            return False
        if not known.is_of(found):
            return self._meet_another(known, found)
        # What another process has dealt with meanwhile is not expected any more.
        now = self.mirror.watermarks()
        expected = {lane: one for lane, one in expected.items() if now.get(lane, 0) >= one}
        why = loss(known, found, expected)
        if why and self._regains(known, found, expected):
            self._regain(known, found, why)
        elif why:
            self._note_back(why, found.lanes or {})
        if self._notice is not None and self._notice.is_open:
            return self._meet_again(found, self._notice)
        if self._foreign:
            self.refuse_foreign(one.op for one in self.journal.everything())
        self._verified = True
        self._keep_up(self._history or known, found)
        return False

    def _regains(self, known: History, found: ServerIdentity, expected: Mapping[str, int]) -> bool:
        """Whether what the database has lost may be sent there again without being asked (R15)."""
        if self.options.on_time_travel != "reapply" or not is_failover(known, found):
            return False
        if self._notice is not None and self._notice.is_open:
            return False
        return reaches_back(self.mirror.retained({}), expected, found.lanes or {})

    def _regain(self, known: History, found: ServerIdentity, why: str) -> None:
        """Put what a failover has lost back in front of the journal, and forget the rest.

        Killed in here, it is done again: ops that are in the journal already stay.
        """
        lost = self.mirror.retained(found.lanes or {})
        mark, ahead_us = known.mark, known.ahead_us
        count = self.journal.put_in_front(
            regained(one, history=mark, ahead_us=ahead_us) for one in lost
        )
        logger.error(
            "time_travel: %s is on a newer timeline and went back in time: %s; %d confirmed writes"
            " of the last minutes are looked at, and sent again where it has lost them",
            self.display,
            why,
            count,
        )
        self._notice = Notice(clock.now_us(), why, is_open=False, regained=count)
        self.journal.set_notice(self._notice)
        failpoint("regained")
        self.mirror.clear()
        self._history = msgspec.structs.replace(known, failovers=known.failovers + 1)
        self.journal.set_history(self._history)

    def refuse_in_use(self, found: ServerIdentity) -> None:
        """ConfigError while another process uses the directory for another database (R22)."""
        known = self.journal.history()
        if known is not None and not known.is_of(found) and known.display != self.display:
            self._require_alone(known)

    def _meet_another(self, known: History, found: ServerIdentity) -> bool:
        if known.display != self.display:
            self._require_alone(known)
        if not self._take_over(found):
            raise self._held("other_database")
        logger.warning(
            "%s is another database than before, and nothing was pending: it is used from now on,"
            " the mirror is emptied",
            self.display,
        )
        return True

    def _require_alone(self, known: History) -> None:
        others = set(self.journal.lanes()) - self.journal.opened
        if any(not is_dead(self.data_dir, lane) for lane in others):
            raise ConfigError(
                f"a process uses the data directory {self.data_dir} for {known.display}, which is"
                f" another database than {self.display}; nothing was changed",
                code="directory_in_use",
                hint="give each database a data directory of its own (STANDFAST_DATA_DIR)",
            )

    def _meet_again(self, found: ServerIdentity, notice: Notice) -> bool:
        if not self._take_over(found):
            raise self._held("went_back", notice.why)
        logger.warning(
            "went_back: %s went back in time (%s), and nothing was pending: it is used as it is"
            " now, the mirror is emptied",
            self.display,
            notice.why,
        )
        return True

    def _held(self, code: Held, why: str = "") -> CorruptData:
        if code == "went_back":
            return CorruptData(
                f"{self.display} went back in time: {why}; what is pending in {self.data_dir} is"
                " kept, nothing was written",
                code=code,
                hint="was it restored from a backup? To use it as it is now: stop the app, then"
                " standfast doctor --adopt",
            )
        return CorruptData(
            f"{self.display} is not the database that the journal in {self.data_dir} belongs to;"
            " nothing was written to it",
            code=code,
            hint="correct the URL; or, if it is to be the new home: standfast doctor --adopt",
        )

    def _take_over(self, found: ServerIdentity) -> bool:
        """Begin a new history; False, and nothing was done, while something is pending (H5)."""
        own = address_mark(self.display)  # is meant for whatever answers at this address

        def is_meant(op: Op) -> bool:
            return op.history == own

        journal = self.journal
        if not all(is_meant(op) for _, op in journal.spooled()):
            return False
        if journal.totals().ops and not all(is_meant(one.op) for one in journal.everything()):
            return False
        return self._begin(found, is_meant)

    def _begin(self, found: ServerIdentity, is_meant: Callable[[Op], bool] | None) -> bool:
        """Without a schema the database gets its history by the first write."""
        history = None
        if found.identity is not None:
            era = self._history.era + 1 if self._history is not None else 0
            history = history_of(found, self.display, era=era, ahead_us=self._ahead_us(found))
        self.mirror.belongs_to("" if history is None else history.mark)

        def begun() -> None:
            self._history, self._verified = history, history is not None
            if self._notice is not None:
                self._notice = msgspec.structs.replace(self._notice, is_open=False)
            self._mark = self._new_mark()

        # What is journaled from here on carries the new mark, or this transaction sees it.
        if not self.journal.begin_history(history, is_meant, then=begun):
            return False
        if self._notice is not None:
            self.journal.set_notice(self._notice)
        return True

    def note_back(self, why: str, found: Mapping[str, int] = MappingProxyType({})) -> None:
        """The database was seen to have gone back (I10): what it confirmed is not all there."""
        with self._lock:
            self._note_back(why, found)
            self._mark = self._new_mark()

    def _note_back(self, why: str, found: Mapping[str, int]) -> None:
        """Keep that, empty the mirror, and save what was confirmed lately and is not there."""
        if self._notice is not None and self._notice.is_open:
            return
        logger.error("went_back: %s went back in time: %s", self.display, why)
        saved = self._save_undone(found)
        self._notice = Notice(clock.now_us(), why, saved=saved)
        self.journal.set_notice(self._notice)
        self.mirror.clear()

    def _save_undone(self, found: Mapping[str, int]) -> tuple[str, ...]:
        try:
            undone = self.mirror.retained(found)
            return save_undone(self.data_dir, undone, history=self._history)
        except (StandfastError, OSError) as error:
            logger.error("what the database has lost could not be saved: %s", error)
            return ()

    def discarded_in(self, lane: str, seq: int) -> str:
        """The file into which a pending op was put when it was given up; empty if it was not."""
        for path in sorted(self.data_dir.glob(DISCARDED)):
            with (
                contextlib.suppress(OSError, UnicodeDecodeError),
                path.open(encoding="utf-8") as file,
            ):
                if any(_names(line, lane, seq) for line in file):
                    return str(path)
        return ""

    def adopt(self, found: ServerIdentity) -> None:
        """Let the local files belong to this database from now on, pending ops included."""
        with self._lock:
            self._begin(found, None)

    def _keep_up(self, known: History, found: ServerIdentity) -> None:
        """Note what may change about the same database: its timeline, its name, its clock."""
        if found.timeline > known.timeline > 0:
            # What others wrote at the end of the old timeline may not be in the new one.
            logger.warning("%s is on a new timeline: the mirror is emptied", self.display)
            self.mirror.clear_rows()
        ahead_us = self._ahead_us(found)
        if abs(ahead_us - known.ahead_us) < _CLOCK_STEP_US:
            ahead_us = known.ahead_us
        now = msgspec.structs.replace(
            known,
            name=found.name or known.name,
            timeline=found.timeline or known.timeline,
            epoch=found.epoch or known.epoch,
            ahead_us=ahead_us,
        )
        if now != known:
            self._history = now
            with contextlib.suppress(Unavailable):  # a full disk: it is noted at the next open
                self.journal.set_history(now)

    def _ahead_us(self, found: ServerIdentity) -> int:
        return found.server_us - clock.now_us() if found.server_us else 0

    def refuse_foreign(self, ops: Iterable[Op]) -> None:
        """Refuse to send ops to a database that they were not acknowledged for (R22)."""
        history = self._history
        if history is None:
            return
        if any(not is_meant_for(op.history, history, self.display) for op in ops):
            self._foreign = True
            raise CorruptData(
                f"writes in {self.data_dir} were acknowledged for another database than"
                f" {self.display}; they are kept, and not sent there",
                code="other_database",
                hint="stop the app, then standfast doctor --adopt",
            )
        self._foreign = False

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
        self.snapshots.spoil({op.collection for op, _ in retained})

    def take(
        self,
        observed: Observed,
        *,
        seen_us: int,
        again: Callable[[list[str]], Observed],
        in_order: bool = False,
    ) -> None:
        """Take over what a read of one collection from the primary showed (R5).

        `in_order`: of a page, in the order of the keys.
        What the mirror knows in a higher version is read once more by `again`: the read may have
        been the older one.  A lower version in a snapshot that began after that is the truth (R23).
        """
        before = self.mirror.changes
        try:
            self._take(observed, seen_us=seen_us, again=again, in_order=in_order)
        finally:
            if self.mirror.changes != before:
                self.snapshots.spoil({state.collection for state in observed.states})

    def _take(
        self,
        observed: Observed,
        *,
        seen_us: int,
        again: Callable[[list[str]], Observed],
        in_order: bool,
    ) -> None:
        higher = self.mirror.take(observed, seen_us=seen_us, in_order=in_order)
        if not higher:
            return
        try:
            newer = again(list(higher))
        except StandfastError:
            # Unknown is better than what may have been undone.
            self.mirror.forget(observed.states[0].collection, higher)
        else:
            self.mirror.take_lower(newer, higher, seen_us=seen_us)

    def dropped(self, collection: str, dropped: Dropped, *, seen_us: int) -> None:
        """A collection was dropped by this process, at about this time."""
        self.mirror.drop(
            collection, dropped.version, watermarks=dropped.watermarks, seen_us=seen_us
        )
        self.snapshots.spoil([collection])

    def forget_collection(self, collection: str) -> None:
        """What is known here of a collection may not hold any more."""
        self.mirror.forget_collection(collection)
        self.snapshots.spoil([collection])

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

    def server_now_us(self) -> int:
        """What the server's clock shows now, as last measured: expiry is judged by it (R24)."""
        return clock.now_us() + self.ahead_us

    @property
    def ahead_us(self) -> int:
        """How far the server's clock is ahead of this process's, as last measured."""
        return self._history.ahead_us if self._history else 0

    def view(self, collection: str, key: str) -> View:
        """What this directory knows of a place.

        The journal is read before the mirror: an op that is applied in between is in the mirror
        by then; if it is in both, the row's watermarks show it.
        """
        return ended(self.head(collection, key, self.journal).view, self.server_now_us())

    def head(self, collection: str, key: str, pending: PendingAt) -> Head:
        """The view of a place, and what it rests on; `pending` is where its ops are read."""
        found = pending.head(collection, key)
        if found is not None:
            row, now_us = self._row(collection, key), self.server_now_us()
            if is_current(found, row, now_us=now_us):
                return seen(found, row)
        ops = pending.at(collection, key)
        row = self._row(collection, key)
        return head_of(row, ops, now_us=self.server_now_us(), ahead_us=self.ahead_us)

    def is_quick(self, collection: str, key: str) -> bool:
        """Whether the view of a place takes few steps, so that an event loop can wait for it."""
        if self.journal.count_at(collection, key, limit=MAX_QUICK_OPS) < MAX_QUICK_OPS:
            return True
        found = self.journal.head(collection, key)
        if found is None:
            return False
        row = self._row(collection, key)
        return is_current(found, row, now_us=self.server_now_us())

    def _row(self, collection: str, key: str) -> MirrorRow | None:
        row = self.mirror.get(collection, key)
        if row is None and (whole := self.complete_mark(collection)) is not None:
            row = whole.absence(collection, key)
        if row is None and self._history is not None:
            row = self.snapshots.row(collection, key, history=self._history.mark)
        return row

    def snapshot(self, collection: str) -> Content | None:
        """The snapshot of a collection, if nothing was written or seen since it was made."""
        if self._history is None:
            return None
        return self.snapshots.content(collection, history=self._history.mark)

    def keep_house(self, *, direct: bool) -> None:
        """Write what could not be written before; and snapshots, when things are quiet."""
        self.mirror.catch_up()
        self.journal.tidy()
        self.reserve.fill()
        changes = self.mirror.changes
        quiet = direct and changes == self._quiet_at and not self.journal.totals().ops
        if quiet and changes != self._snapped_at and self._history is not None:
            for collection, size in self.mirror.whole().items():
                if size <= self.options.max_snapshot_bytes:
                    self._snap(collection, self._history.mark)
            self._snapped_at = changes
        self._quiet_at = changes

    def _snap(self, collection: str, history: str) -> None:
        mark = self.mirror.complete_mark(collection)
        if mark is None or self.snapshots.is_current(collection):
            return
        try:
            self.snapshots.write(
                collection,
                lambda: self._documents(collection),
                history=history,
                seen_us=mark.since_us,
                watermarks=mark.watermarks,
            )
        except OSError as error:
            logger.warning("the snapshot of `%s` cannot be written: %s", collection, error.strerror)

    def _documents(self, collection: str) -> list[Row]:
        rows: list[Row] = []
        after: str | None = None
        now_us = self.server_now_us()
        while page := self.mirror.page(
            collection, prefix="", after=after, limit=MAX_PAGE, now_us=now_us
        ):
            rows += page
            after = page[-1].key
        return rows

    def read_mirror(self, collection: str, key: str) -> View:
        """What the primary said of a place on which nothing is pending; raises as `read_local`.

        A key that the mirror does not know is not taken for missing: others may have made it since.
        """
        row = self.mirror.get(collection, key)
        view = view_of(row, (), now_us=self.server_now_us(), ahead_us=self.ahead_us)
        return self._readable(collection, key, view)

    def read_local(self, collection: str, key: str) -> View:
        """The view for a reader: raises where nothing is known, or what is known is too old."""
        return self._readable(collection, key, self.view(collection, key))

    def _knows_absence(self, view: View) -> bool:
        """Whether nobody else can have made a document there since it was seen missing (R24)."""
        return self.options.sole_writer or bool(view.pending)

    def _readable(self, collection: str, key: str, view: View) -> View:
        if view.knowledge == "unknown" or (view.text is None and not self._knows_absence(view)):
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
        with self.reserve.taking_freed():
            self.journal.close()
            self.mirror.close()


def age_s(seen_us: int) -> float:
    """How long ago the primary returned it; 0 if it never did."""
    return max(0.0, (clock.now_us() - seen_us) / 1e6) if seen_us else 0.0


def knows_a_primary(data_dir: Path) -> bool:
    """Whether the local files of a directory hold anything of a primary elsewhere.

    That is writes that wait for it, or the name of the database that they belong to; where the
    journal is lost, what the mirror knows.  Creates no file.
    """
    with Reserve(data_dir).lent():
        return _knows_a_primary(data_dir)


def _knows_a_primary(data_dir: Path) -> bool:
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


def _names(line: str, lane: str, seq: int) -> bool:
    """Whether a line of a file of discarded writes is that of this one."""
    return line.partition('"kind"')[0].endswith(f'"lane":"{lane}","seq":{seq},')
