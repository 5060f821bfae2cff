"""The journal: acknowledged ops that the primary has not confirmed yet, in order, on disk.

An outbox, never disposable: WAL with synchronous=FULL, the setting that lost nothing in real power
cuts.  It belongs to the data directory, and holds the ops of all lanes that write there; the order
of its ids is the order of their acknowledgements.

Forgetting needs no space (R25): what cannot be removed from a full disk is known in memory to be
settled, and brought back by a kill -9 it is skipped by the primary.  A damaged file is set aside,
and what can be read of it is taken over.  One that is destroyed under an open store is written
anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec

from standfast.engine.heads import Head
from standfast.engine.histories import History, Notice
from standfast.engine.journal_mark import JournalMark
from standfast.engine.journal_rows import (
    ADDED,
    CHANGE,
    FORGET_HEAD,
    LAST_ID,
    SCHEMA,
    SPOOLED,
    Pending,
    Totals,
    Transaction,
    add_spooled,
    add_to_totals,
    head_at,
    ops_at,
    pending_ops,
    remove,
    size_of,
)
from standfast.engine.lanes import note, noted, unnote
from standfast.engine.rewriting import Remembered, rewrite
from standfast.engine.salvage import Loss, Salvaged, salvage
from standfast.engine.spool import Spool
from standfast.engine.sqlite_file import LocalFile
from standfast.errors import ConfigError, CorruptData, StandfastError, Unavailable
from standfast.limits import (
    JOURNAL_WAIT_S,
    MAX_JOURNAL_BYTES,
    MAX_JOURNAL_OPS,
    MAX_REMEMBERED_BYTES,
    MAX_WINDOW_BYTES,
    SPOOLING_WAIT_S,
)
from standfast.ops.types import Identity, Op, pack, unpack
from standfast.system.failpoints import failpoint

logger = logging.getLogger("standfast")

FILE = "journal.db"
#: The files beside it with what was given up by `standfast journal discard`.
DISCARDED = "discarded-*.json"
#: "stnj" in ASCII.
MARK = 0x73746E6A

_PLACE = "SELECT 1 FROM ops WHERE collection = ? AND key = ? LIMIT 1"
#: A file up to this size is checked for damage when it is opened: at about 1 ms a MB.
_CHECKED_BYTES = 64 * 1024 * 1024


#: Below every id; ops that are put in front of all others have negative ones.
_BEFORE_ALL = -(1 << 62)
_FRONT = 1 << 32
#: Pause before a journal is written anew once more, and before that is tried again.
ANEW_PAUSE_S, FAILED_ANEW_PAUSE_S = 0.1, 1.0


class HeldNote(msgspec.Struct, frozen=True):
    """Why a collection is held, what mends that, and since when; `code` is that of the error."""

    cause: str
    hint: str
    since: str
    code: str = ""

    def sentence(self, collection: str) -> str:
        """What a person must know: what is wrong, since when, what is safe, what to do."""
        todo = f" ({self.hint})" if self.hint else ""
        return (
            f"collection `{collection}` is held since {self.since}: {self.cause}; its pending"
            f" writes are safe in the journal, and are replayed as soon as this is repaired{todo}"
        )


class Journal:
    """The journal of one data directory.  Thread-safe, and used by all of its processes."""

    def __init__(
        self,
        data_dir: Path,
        *,
        max_ops: int = MAX_JOURNAL_OPS,
        max_bytes: int = MAX_JOURNAL_BYTES,
        only_look: bool = False,
    ) -> None:
        """Open it, or begin it.  A damaged one is set aside, and what can be read of it is kept.

        `only_look`: it is there, and stays as it is: raises CorruptData when it is damaged.
        """
        self.max_ops = max_ops
        self.max_bytes = max_bytes
        self._settled: dict[int, Op] = {}
        self._closed_lanes: set[str] = set()
        self._changes = 0
        self.spool = Spool(data_dir)
        self._noted = JournalMark(data_dir)
        path = (data_dir / FILE).absolute()
        self._current = _whole(path) if only_look else _opened(path, self._noted)
        self._former: list[LocalFile] = []
        self._closed = False
        self._only_look = only_look
        self._remembered = Remembered()
        self._notes: dict[str, str] = {}
        """What the file was last seen to say of its database."""
        self._anew = threading.Lock()
        self._anew_at = 0.0
        self.path = self._current.path
        self.opened: set[str] = set()
        """The lanes that were opened here, by this object."""
        self._seen_loss: Loss | None = None
        try:
            self.directory = self._directory(only_look=only_look)
            self._look_for_loss(only_look=only_look)
            if not only_look:
                self._remember_all()
        except BaseException:
            self._current.close()
            raise

    @property
    def _file(self) -> LocalFile:
        """The file; written anew before it is used again where it was seen to be lost."""
        if self._current.lost and not self._only_look:
            with contextlib.suppress(StandfastError):
                self._write_anew()
        return self._current

    def _write_anew(self) -> None:
        with self._anew:
            lost = self._current
            if not lost.lost or time.monotonic() < self._anew_at:
                return
            self._anew_at = time.monotonic() + FAILED_ANEW_PAUSE_S
            settled, lanes = dict(self._settled), set(self._closed_lanes)
            done = rewrite(lost, self._remembered, begin=_whole, settled=settled)
            with done.file.writing("writing the journal anew", durable=True) as conn:
                conn.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", self._notes.items())
                # Under that name the primary knows the lanes of this process.
                conn.execute(
                    "INSERT OR REPLACE INTO meta VALUES ('directory', ?)", (self.directory,)
                )
                for lane in lanes:
                    conn.execute("DELETE FROM lanes WHERE lane = ?", (lane,))
                pending = pending_ops(conn)
                missing = self._noted.pending - pending - len(settled) if done.was_damaged else 0
                if missing > 0 and done.aside:
                    loss = Loss(file=done.aside, salvaged=pending, lost=missing)
                    _note_loss(conn, loss)
            self._forgotten((list(settled), list(lanes)))
            self._noted.forget()
            # Whoever reads it still does not fail.
            former, self._former = self._former, [lost]
            for file in former:
                file.close()
            self._current, self._changes = done.file, self._changes + 1
            self._anew_at = time.monotonic() + ANEW_PAUSE_S
            self._remember_all()
        logger.error(
            "the journal %s was removed, replaced or damaged while it was open: it was written"
            " anew, %d acknowledged writes are in it, %d are lost",
            *(self.path, pending, max(0, missing)),
        )

    def _remember_all(self) -> None:
        """Remember what is pending in the file, unless that is more than fits."""
        with self._current.reading("reading the journal") as conn:
            size = conn.execute("SELECT bytes FROM totals").get
        if 0 < size <= MAX_REMEMBERED_BYTES:
            self._remembered.add(one for one in self.everything() if not one.is_spooled)

    def _look_for_loss(self, *, only_look: bool) -> None:
        """Notice a file that is older than what it has acknowledged."""
        with self._file.reading("looking at the journal") as conn:
            last = conn.execute(LAST_ID).get
        loss = self._noted.loss(last or 0, only_look=only_look)
        if only_look:
            self._seen_loss = loss
        elif loss is not None:
            with self._file.writing("noting a loss", durable=True) as conn:
                _note_loss(conn, loss)

    def _directory(self, *, only_look: bool) -> str:
        """The UUID under which the primary knows the lanes of this directory."""
        if only_look:
            with self._file.reading("naming the directory") as conn:
                known = conn.execute("SELECT value FROM meta WHERE name = 'directory'").get
            if known is not None:
                return known  # else it was just begun, and is completed
        with self._file.writing("naming the directory", durable=True) as conn:
            conn.execute(ADDED)
            conn.execute("INSERT OR IGNORE INTO meta VALUES ('directory', ?)", (str(uuid.uuid4()),))
            return conn.execute("SELECT value FROM meta WHERE name = 'directory'").get

    # ---- the database that it belongs to

    def history(self) -> History | None:
        """The database that the journal belongs to; None before the first one was reached."""
        with self._file.reading("reading the history") as conn:
            text = conn.execute("SELECT value FROM meta WHERE name = 'history'").get
        self._keep_note("history", text)
        return msgspec.json.decode(text, type=History) if text else None

    def _keep_note(self, name: str, text: str | None) -> None:
        self._notes = {k: v for k, v in self._notes.items() if k != name}
        if text:
            self._notes[name] = text

    def set_history(self, history: History) -> None:
        """From now on it belongs to this database."""
        self.begin_history(history, None, then=lambda: None)

    def begin_history(
        self,
        history: History | None,
        is_meant: Callable[[Op], bool] | None,
        *,
        then: Callable[[], None],
    ) -> bool:
        """From now on it belongs to this database; None: to one that has no schema yet.

        False, and nothing is changed, if an op is pending that is not meant for it.  `then` is
        called before another op can be added.
        """
        text = None if history is None else msgspec.json.encode(history).decode()
        failpoint("history-before-note")
        with self._file.writing("noting the history", durable=True) as conn:
            if is_meant is not None:
                pending = conn.execute("SELECT id, op FROM ops")
                if not all(
                    record[0] in self._settled or is_meant(unpack(record[1])) for record in pending
                ):
                    return False
            if text is None:
                conn.execute("DELETE FROM meta WHERE name = 'history'")
            else:
                conn.execute("INSERT OR REPLACE INTO meta VALUES ('history', ?)", (text,))
            then()
        self._keep_note("history", text)
        failpoint("history-noted")
        return True

    def notice(self) -> Notice | None:
        """That its database was seen to have gone back; None when it never was."""
        with self._file.reading("reading the history") as conn:
            text = conn.execute("SELECT value FROM meta WHERE name = 'went_back'").get
        self._keep_note("went_back", text)
        return msgspec.json.decode(text, type=Notice) if text else None

    def set_notice(self, notice: Notice) -> None:
        """Keep it."""
        text = msgspec.json.encode(notice).decode()
        with self._file.writing("noting the history", durable=True) as conn:
            conn.execute("INSERT OR REPLACE INTO meta VALUES ('went_back', ?)", (text,))
        self._keep_note("went_back", text)

    def held(self) -> dict[str, HeldNote]:
        """The collections that the last replay has left held, by name."""
        with self._file.reading("reading what is held") as conn:
            text = conn.execute("SELECT value FROM meta WHERE name = 'held'").get
        return msgspec.json.decode(text, type=dict[str, HeldNote]) if text else {}

    def set_held(self, held: Mapping[str, HeldNote]) -> None:
        """Keep them for the next process, and for commands; a full disk keeps the former ones."""
        text = msgspec.json.encode(held).decode()
        with (
            contextlib.suppress(StandfastError),
            self._file.writing("noting what is held", durable=False) as conn,
        ):
            conn.execute("INSERT OR REPLACE INTO meta VALUES ('held', ?)", (text,))

    # ---- lanes

    def open_lane(self, lane: str) -> None:
        """Note a lane before its first transaction, so that it will be fenced when it dies.

        Where the file cannot be written, on a full disk say, another one beside it is the note.
        """
        try:
            with self._file.writing("opening a lane", durable=True) as conn:
                conn.execute("INSERT INTO lanes VALUES (?, ?)", (lane, _now_us()))
        except Unavailable as error:
            try:
                note(self.path.parent, lane)
            except OSError:
                raise error from None
        self.opened.add(lane)
        failpoint("lane-noted")

    def lanes(self) -> list[str]:
        """Every lane of the directory that is not known to be closed or fenced, oldest first."""
        with self._file.reading("reading the lanes") as conn:
            found = conn.execute("SELECT lane FROM lanes ORDER BY opened_us, lane")
            known = dict.fromkeys(record[0] for record in found)
        known |= dict.fromkeys(noted(self.path.parent))
        return [lane for lane in known if lane not in self._closed_lanes]

    def close_lane(self, lane: str) -> bool:
        """Forget a lane that is closed or fenced; False while something of it is pending.

        On a full disk it is forgotten in memory; after a kill -9 it is fenced once more.
        """
        failpoint("lane-before-close")
        if self.holds(lane):
            return False
        try:
            closed = self._close_lane(lane)
        except StandfastError:
            self._closed_lanes.add(lane)
            closed = True
        if closed:
            unnote(self.path.parent, lane)
        failpoint("lane-closed")
        return closed

    def _close_lane(self, lane: str) -> bool:
        with self._file.writing("closing a lane", durable=False) as conn:
            pending = conn.execute("SELECT 1 FROM ops WHERE lane = ? LIMIT 1", (lane,)).get
            if not pending:
                conn.execute("DELETE FROM lanes WHERE lane = ?", (lane,))
            return not pending

    # ---- ops

    @contextmanager
    def writing(self) -> Generator[Transaction]:
        """One durable transaction: what it adds is on disk when it returns (I1)."""
        with self._taking_spool() as spooled:
            # Once the spool is in use, it does not wait long for the journal again.
            wait_s = SPOOLING_WAIT_S if spooled else JOURNAL_WAIT_S
            doing, file = "writing the journal", self._file
            with file.writing(doing, durable=True, wait_s=wait_s) as conn:
                settled = self._forget_settled(conn)
                taken = add_spooled(conn, spooled or [])
                transaction = Transaction(conn)
                yield transaction
                added, reached = transaction.last, transaction.reached
                if added is None and spooled:
                    added, reached = spooled[-1], (conn.execute(LAST_ID).get, pending_ops(conn))
                failpoint("journal-before-commit")
            file.require_log()
            self._forgotten(settled)
            self._remembered.add([*taken, *transaction.added])
            failpoint("journal-committed")
            if added is not None:
                self._noted.note_added(reached[0], added, pending=reached[1])
            if spooled is not None:
                self.spool.empty()
                self._is_spooling()  # where it cannot be emptied: what of it is pending
                failpoint("spool-emptied")

    @contextmanager
    def _taking_spool(self) -> Generator[list[Op] | None]:
        """What the journal has to take over before anything is added to it; None: there is no
        spool."""
        if self.spool.is_empty:
            yield None
            return
        with self.spool.locked():
            self._is_spooling()
            yield [op for _, op in self.spool.pending()]

    def take_spool(self) -> None:
        """Take over what is in the spool, if there is anything."""
        if not self.spool.is_empty:
            with self.writing():
                pass

    def _is_spooling(self) -> bool:
        """Whether anything is in the spool that is not known to be in the file.

        Looked at before the file is: what is taken over in between is found in both, and not lost.
        """
        if self.spool.is_empty:
            return False
        with self._file.reading("reading the journal") as conn:
            taken = conn.execute("SELECT value FROM meta WHERE name = 'spool_taken'").get
        self.spool.taken_through(msgspec.json.decode(taken, type=Identity) if taken else None)
        return bool(self.spool.ops())

    def spooled(self) -> list[tuple[int, Op]]:
        """The pending ops that are in the spool, with their index in it."""
        return self.spool.pending() if self._is_spooling() else []

    def _spooled_at(self, collection: str, key: str) -> list[Op]:
        return self.spool.at(collection, key) if self._is_spooling() else []

    def at(self, collection: str, key: str) -> list[Op]:
        """The pending ops of one place, in order."""
        spooled = self._spooled_at(collection, key)
        with self._file.reading("reading the journal") as conn:
            found = ops_at(conn, collection, key, self._settled)
        names = {(op.lane, op.seq) for op in found} if spooled else ()
        return [*found, *(op for op in spooled if (op.lane, op.seq) not in names)]

    def head(self, collection: str, key: str) -> Head | None:
        """The folded head of a place with all of its pending ops; None when there is none."""
        if self._settled or self._spooled_at(collection, key):
            return None
        with self._file.reading("reading the journal") as conn:
            return head_at(conn, collection, key)

    def is_at(self, collection: str, key: str) -> bool:
        """Whether anything is pending on a place."""
        if self._settled or self._is_spooling():
            return bool(self.at(collection, key))
        with self._file.reading("reading the journal") as conn:
            return bool(conn.execute(_PLACE, (collection, key)).get)

    def count_at(self, collection: str, key: str, *, limit: int) -> int:
        """How many ops are pending on a place, counted up to a limit."""
        spooled = self._spooled_at(collection, key)
        with self._file.reading("reading the journal") as conn:
            count: int = conn.execute(
                "SELECT count(*) FROM (SELECT 1 FROM ops WHERE collection = ? AND key = ? LIMIT ?)",
                (collection, key, limit),
            ).get
        return min(limit, count + len(spooled))

    def keys(self, collection: str) -> list[str]:
        """The keys of a collection that have pending ops."""
        spooled = [op.key for _, op in self.spooled() if op.collection == collection]
        with self._file.reading("reading the journal") as conn:
            found = conn.execute("SELECT DISTINCT key FROM ops WHERE collection = ?", (collection,))
            keys = [record[0] for record in found]
        keys = list(dict.fromkeys([*keys, *spooled]))
        return [key for key in keys if self.is_at(collection, key)] if self._settled else keys

    def first(
        self,
        limit: int,
        *,
        after: int = _BEFORE_ALL,
        max_bytes: float = float("inf"),
        without: Collection[str] = (),
    ) -> list[Pending]:
        """The oldest pending ops above an id, in order: at most `limit`, and so many bytes.

        At least one if there is one.  `without` names lanes that are left out.
        """
        spooled = [Pending(SPOOLED + index, op) for index, op in self.spooled()]
        with self._file.reading("reading the journal") as conn:
            found = conn.execute(
                "SELECT id, op, bytes FROM ops WHERE id > ?"
                " AND lane NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?",
                (after, msgspec.json.encode(list(without)).decode(), limit + len(self._settled)),
            )
            pending: list[Pending] = []
            for number, op, size in found:
                if number in self._settled:
                    continue
                max_bytes -= size
                if pending and max_bytes < 0:
                    return pending[:limit]
                pending.append(Pending(number, unpack(op)))
        if spooled and len(pending) < limit:
            # One that the file has although the disk reported an error is pending once.
            names = {(one.op.lane, one.op.seq) for one in pending}
            behind = [one for one in spooled if one.id > after and one.op.lane not in without]
            pending += [one for one in behind if (one.op.lane, one.op.seq) not in names]
        return pending[:limit]

    def totals(self) -> Totals:
        """How much is pending."""
        settled = list(self._settled.values())
        spooled = [op for _, op in self.spooled()]
        with self._file.reading("reading the journal") as conn:
            ops, size = conn.execute("SELECT ops, bytes FROM totals").get
        return Totals(
            max(0, ops - len(settled)) + len(spooled),
            max(0, size - sum(map(size_of, settled))) + sum(map(size_of, spooled)),
        )

    def newest(self) -> int:
        """The id of the last pending op; what comes later has a higher one."""
        if self._is_spooling():
            return SPOOLED * 2  # they get theirs when the file takes them over
        with self._file.reading("reading the journal") as conn:
            return conn.execute("SELECT coalesce(max(id), 0) FROM ops").get

    def is_pending_through(self, last: int) -> bool:
        """Whether anything is pending up to an id."""
        first = next(iter(self.first(1)), None)
        return first is not None and first.id <= last

    def oldest_us(self) -> int | None:
        """When the oldest pending op was acknowledged, by this machine's clock."""
        if self._settled or self._is_spooling():
            return next((one.op.at_us for one in self.first(1)), None)
        with self._file.reading("reading the journal") as conn:
            return conn.execute("SELECT at_us FROM ops ORDER BY id LIMIT 1").get

    def holds(self, lane: str) -> bool:
        """Whether anything of a lane is pending."""
        if self._settled or self._is_spooling():
            return any(one.op.lane == lane for one in self.everything())
        with self._file.reading("reading the journal") as conn:
            return bool(conn.execute("SELECT 1 FROM ops WHERE lane = ? LIMIT 1", (lane,)).get)

    def has(self, lane: str, seq: int) -> bool:
        """Whether the op that a receipt names is pending."""
        if self._settled or self._is_spooling():
            return any(one.op.name == (lane, seq) for one in self.everything())
        with self._file.reading("reading the journal") as conn:
            if conn.execute("SELECT 1 FROM ops WHERE lane = ? AND seq = ?", (lane, seq)).get:
                return True
            moved = conn.execute("SELECT 1 FROM ops WHERE lane <> ? LIMIT 1", (lane,)).get
        return bool(moved) and any(p.op.name == (lane, seq) for p in self.everything())

    def everything(self, page: int = 1000) -> Generator[Pending]:
        """Every pending op in order, read in pages."""
        after = _BEFORE_ALL
        while found := self.first(page, after=after, max_bytes=MAX_WINDOW_BYTES):
            yield from found
            after = found[-1].id

    def remove(self, done: Iterable[Pending], *, durable: bool = False) -> None:
        """Remove ops that the primary has applied; a power cut may bring them back, without harm.

        `durable` is for ops that must not come back: writes that were discarded.

        The mirror has the outcome already: who reads the journal first, then the mirror, sees each
        op in one of the two.
        """
        every = list(done)
        pending = [one for one in every if not one.is_spooled]
        spooled = [one.op for one in every if one.is_spooled]
        if spooled and durable:
            self.take_spool()  # some of a file of lines cannot be removed for good
            names = {(op.lane, op.seq) for op in spooled}
            pending += [one for one in self.everything() if (one.op.lane, one.op.seq) in names]
        elif spooled:
            self.spool.settle(spooled)
            if not pending:
                return
        failpoint("journal-before-remove")
        try:
            with self._file.writing("clearing the journal", durable=durable) as conn:
                settled = self._forget_settled(conn)
                remove(conn, pending)
                left = pending_ops(conn)
            self._forgotten(settled)
            self._remembered.remove(one.id for one in pending)
            self._noted.note_removed(pending=left)
        except StandfastError:
            if durable:
                raise
            # On a full disk, say.  They are replayed at the worst, and then skipped.
            self._settled.update(pending)
            self._changes += 1
        failpoint("journal-removed")

    def put_in_front(self, ops: Iterable[Op]) -> int:
        """Add ops before everything that is pending; those that are in it already stay.

        Without a limit: they were acknowledged before.  Returns how many were added.
        """
        failpoint("journal-before-front")
        added = 0
        with self._file.writing("regaining writes", durable=True) as conn:
            settled = self._forget_settled(conn)
            first = min(0, conn.execute("SELECT coalesce(min(id), 0) FROM ops").get) - _FRONT
            for number, op in enumerate(ops, first):
                size = size_of(op)
                conn.execute(
                    "INSERT OR IGNORE INTO ops (id, lane, seq, collection, key, bytes, at_us, op)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (number, op.lane, op.seq, op.collection, op.key, size, op.at_us, pack(op)),
                )
                if conn.changes():
                    add_to_totals(conn, 1, size)
                    conn.execute(FORGET_HEAD, (op.collection, op.key))
                    conn.execute("INSERT OR IGNORE INTO lanes VALUES (?, ?)", (op.lane, op.at_us))
                    added += 1
        self._forgotten(settled)
        failpoint("journal-fronted")
        return added

    def _forget_settled(self, conn: apsw.Connection) -> tuple[list[int], list[str]]:
        """Remove what is settled in memory only, in a transaction that is under way."""
        ids, lanes = list(self._settled), list(self._closed_lanes)
        if ids:
            remove(conn, [Pending(one, self._settled[one]) for one in ids])
        for lane in lanes:
            conn.execute("DELETE FROM lanes WHERE lane = ?", (lane,))
        return ids, lanes

    def _forgotten(self, done: tuple[list[int], list[str]]) -> None:
        for one in done[0]:
            self._settled.pop(one, None)
        self._closed_lanes.difference_update(done[1])

    def tidy(self) -> None:
        """Remove what is settled in memory only, and take over the spool, when that is possible.

        A file that is not in its place any more is written anew.
        """
        with contextlib.suppress(StandfastError):
            self._current.share()
            self._current.look()
            if not self.totals().ops:
                self._remembered.clear()
            self.take_spool()
        if self._settled or self._closed_lanes:
            self.remove([])

    @property
    def alone(self) -> bool:
        """Whether no other process can use it now."""
        return self._current.alone

    @property
    def settled_in_memory(self) -> int:
        """Ops that are settled, and could not be removed from the file yet."""
        return len(self._settled)

    def losses(self) -> list[Loss]:
        """What damaged files of this journal have lost, oldest first, while they are there."""
        with self._file.reading("reading the journal") as conn:
            found = conn.execute("SELECT loss FROM losses ORDER BY at_us")
            losses = [msgspec.json.decode(record[0], type=Loss) for record in found]
        if self._seen_loss is not None:
            losses.append(self._seen_loss)
        return [loss for loss in losses if os.path.lexists(self.path.with_name(loss.file))]

    def replace(self, pending: Sequence[Pending], change: Callable[[Op], Op]) -> None:
        """Write ops anew in their place of the order: rejected, or moved to another lane (R1)."""
        if any(one.is_spooled for one in pending):
            self.take_spool()
            names = {(one.op.lane, one.op.seq) for one in pending}
            pending = [one for one in self.everything() if (one.op.lane, one.op.seq) in names]
        failpoint("journal-before-replace")
        changed = [one._replace(op=change(one.op)) for one in pending]
        with self._file.writing("changing the journal", durable=True) as conn:
            for (number, before), (_, op) in zip(pending, changed, strict=True):
                where = (number, before.lane, before.seq)
                conn.execute(CHANGE, (op.lane, op.seq, pack(op), *where))
                conn.execute(FORGET_HEAD, (op.collection, op.key))
        for one in changed:
            self._remembered.change(one)
        failpoint("journal-replaced")

    def version(self) -> int:
        """A number that changes when another process, or this one, has written to the file."""
        self.spool.look()
        try:
            version = self._file.data_version("looking at the journal")
        except CorruptData:
            version = self._file.data_version("looking at the journal")  # of a new one
        return ((self._changes + self.spool.changes) << 40) + version

    def close(self) -> None:
        """Close the file; one that is lost is written anew first.  Idempotent."""
        if not (self._only_look or self._closed):
            self._closed, self._anew_at = True, 0.0
            with contextlib.suppress(StandfastError):
                self._current.look()
                if self._current.lost:
                    self._write_anew()
        for file in (self._current, *self._former):
            file.close()


def _file(path: Path) -> LocalFile:
    return LocalFile(path, mark=MARK, schema=SCHEMA, what="the journal")


def _opened(path: Path, noted: JournalMark) -> LocalFile:
    """The file; a new one with what can be read of a damaged one."""
    try:
        return _whole(path)
    except CorruptData:
        found = salvage(path)
    except ConfigError as error:
        if error.code != "cannot_open" or path.is_file() or not path.exists():
            raise
        found = salvage(path)  # something that is no file is in its place
    file = _salvaged(path, found)
    noted.forget()  # of what is lost, there is a note in the file
    return file


def _whole(path: Path) -> LocalFile:
    """The file; CorruptData when it is damaged."""
    file = _file(path)
    try:
        _check(file, path)
    except BaseException:
        file.close()
        raise
    return file


def _check(file: LocalFile, path: Path) -> None:
    if path.stat().st_size > _CHECKED_BYTES:
        return
    with file.reading("checking the journal") as conn:
        found = conn.execute("PRAGMA quick_check(1)").get
    if found != "ok":
        raise CorruptData(
            f"the journal {path} is damaged",
            code="corrupt",
            hint="what can be read of it is taken over when the store is opened",
        )


def _salvaged(path: Path, found: Salvaged) -> LocalFile:
    file = _file(path)
    with file.writing("taking over a damaged journal", durable=True) as conn:
        conn.execute(ADDED)
        conn.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", found.meta)
        # What it had taken over may be among what is lost.
        conn.execute("DELETE FROM meta WHERE name = 'spool_taken'")
        conn.executemany("INSERT OR IGNORE INTO lanes VALUES (?, ?)", found.lanes)
        conn.executemany(
            "INSERT OR IGNORE INTO ops (id, lane, seq, collection, key, bytes, at_us, op)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            found.ops,
        )
        add_to_totals(conn, len(found.ops), sum(row[5] for row in found.ops))
        _note_loss(conn, found.loss)
    return file


def _note_loss(conn: apsw.Connection, loss: Loss) -> None:
    text = msgspec.json.encode(loss).decode()
    conn.execute("INSERT OR REPLACE INTO losses VALUES (?, ?)", (_now_us(), text))


def _now_us() -> int:
    return time.time_ns() // 1000
