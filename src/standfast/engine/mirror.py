"""The mirror: what the primary last confirmed, kept locally; disposable.

Every row is tagged with the watermarks of the directory's lanes in the snapshot that it came from
(R8), which show the pending ops that are in it.  Rows, watermark and retained ops of a batch are
written in one transaction (R6): safe from kill -9 at once, from a power cut a moment later.

A call whose answer the primary has given does not fail, and hardly waits, because of the mirror.
While another process has its file locked, what it missed is in memory, and a lock file says so; one
that missed anything in another way is removed at once, also on a full disk, and begun anew (R25).
One that cannot be removed is marked: beside it, or elsewhere when its disk takes nothing any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from standfast.backends.sqlite.file import gone, within
from standfast.engine import clock, mirror_rows
from standfast.engine.overlay import CompleteMark, MirrorRow
from standfast.engine.set_aside import remove_companions, replace_disposable, unheld
from standfast.engine.sqlite_file import LocalFile
from standfast.engine.time_travel import Retained
from standfast.errors import ConfigError, CorruptData, StandfastError, Unavailable
from standfast.limits import (
    MAX_MIRROR_BEHIND,
    MAX_MIRROR_BEHIND_BYTES,
    MAX_MIRROR_LOOKS,
    MAX_RETAINED_BYTES,
    MIRROR_LOOK_S,
    MIRROR_WAIT_S,
    RESERVE_ROOM_BYTES,
    RETENTION_S,
)
from standfast.ops.batch import Place
from standfast.ops.types import Observed, Op, Row, State, pack_batch, unpack_batch
from standfast.system import elsewhere
from standfast.system.disks import free_bytes
from standfast.system.failpoints import failpoint
from standfast.system.locks import FileLock

logger = logging.getLogger("standfast")
T = TypeVar("T")

FILE = "mirror.db"
#: "stnm" in ASCII.
MARK = 0x73746E6D

_LIVE = "collection = ? AND text IS NOT NULL AND (expires_us IS NULL OR expires_us > ?)"
_HISTORY = "SELECT value FROM meta WHERE name = 'history'"
_RETAINED_BYTES = "SELECT coalesce(sum(length(batch)), 0) FROM retained"
# In the order in which they came: an index by time would cost each batch a page more.
_FORGET_OLD = (
    "DELETE FROM retained WHERE id < coalesce("
    "(SELECT id FROM retained WHERE at_us >= ? ORDER BY id LIMIT 1), 9223372036854775807)"
)
#: Retained ops are cleared once in so many batches.
_CLEAR_EVERY = 256
#: The rows are counted once in so many batches.
_COUNT_EVERY = 4096
#: Pauses between attempts to begin a mirror anew.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
#: The lock file of a process whose mirror missed something that is in its memory only.
_BEHIND = ".behind-"


class _NoMirrorError(Exception):
    """There is no file now; it is begun anew after a pause."""


class _Look(msgspec.Struct, frozen=True, gc=False):
    """A later look at a row of the mirror that showed nothing new."""

    version: int
    seen_us: int
    watermarks: Mapping[str, int]
    content: int
    """The hash of the text and of the expiry."""
    row_seen_us: int
    file_version: int
    """That of the file in which the row was found."""


def _file_version(conn: apsw.Connection) -> int:
    """A number that changes when another connection, of any process, has written to the file."""
    return conn.execute("PRAGMA data_version").get


class Mirror:
    """The mirror of one data directory.  Thread-safe, and used by all of its processes.

    Never raises because of its file: without one it knows nothing, and begins anew later.
    `only_look`: for whoever looks from outside, and neither moves nor makes any file.
    """

    def __init__(
        self, path: Path, *, forgotten: Callable[[], object] = lambda: None, only_look: bool = False
    ) -> None:
        self._path = path.absolute()
        self._only_look = only_look
        self._forgotten = forgotten
        self.changes = 0
        self._turn = threading.RLock()
        self._file: LocalFile | None = None
        self._history: str | None = None
        self._batches = 0
        self._retained_bytes = 0
        self._looks: dict[Place, _Look] = {}
        self._floors: dict[str, int] = {}
        """The highest versions in collections that were dropped: what still says so is older."""
        self._behind: list[mirror_rows.News] = []
        self._behind_rows: dict[Place, MirrorRow] = {}
        self._mark: FileLock | None = None
        self._pause_s, self._retry_at = _FIRST_PAUSE_S, 0.0
        self._warned = self._closed = False
        self._spoiled = False  # whether it missed something, and could not be removed
        self._process = os.getpid()
        with self._turn:
            self._begin()

    # ---- the file

    @property
    def usable(self) -> bool:
        """Whether there is a file that it can be read from."""
        return self._file is not None

    def _begin(self) -> None:
        """Open the file, or a new one in the place of a damaged one."""
        try:
            spoiled = self._spoiled or self._marks_of_the_dead() or elsewhere.is_marked(self._path)
            if self._only_look:
                # One that missed something is not read; the next process of the app removes it.
                self._file = None if spoiled else self._opened()
                return
            if spoiled:
                self._unlink()
                self._spoiled = False
                self._unmark()
            self._require_room()
            try:
                self._file = self._opened()
            except (CorruptData, ConfigError) as error:
                if not os.path.lexists(self._path):
                    raise
                aside = replace_disposable(self._path)
                logger.warning(
                    "the mirror cannot be used (%s): it is begun anew, what was there is %s",
                    error.code,
                    aside.name,
                )
                self._file = self._opened()
            self._pause_s = _FIRST_PAUSE_S
        except (StandfastError, OSError) as error:
            self._file = None
            self._retry_at = time.monotonic() + self._pause_s
            self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)
            self._warn(error)

    def _require_room(self) -> None:
        """A new one must not take the last room of the journal: it would be lost at once anyway."""
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(self._path).st_size:
                return
        free = free_bytes(self._path.parent)
        if free is not None and free < RESERVE_ROOM_BYTES:
            raise Unavailable(
                "no mirror is made on a disk that is full",
                code="disk_full",
                hint="free space on the disk",
            )

    def _opened(self) -> LocalFile:
        file = LocalFile(
            *(self._path,),
            mark=MARK,
            schema=mirror_rows.SCHEMA,
            what="the mirror",
            busy_timeout_s=MIRROR_WAIT_S,
        )
        try:
            with file.reading("looking at the mirror") as conn:
                self._retained_bytes = conn.execute(_RETAINED_BYTES).get
                current = conn.execute(mirror_rows.IS_CURRENT).get
            if (not current and not self._only_look) or self._history is not None:
                with file.writing("opening the mirror", durable=False) as conn:
                    conn.execute(mirror_rows.UPGRADE)
                    if self._history is not None:
                        mirror_rows.set_history(conn, self._history)
        except BaseException:
            file.close()
            raise
        return file

    def _marks_of_the_dead(self) -> list[Path]:
        """The marks of processes that ended while the mirror missed what they had in memory."""
        return unheld(self._path.parent.glob(f"{self._path.name}{_BEHIND}*"))

    def _unlink(self) -> None:
        marks = elsewhere.marks_of(self._path)
        self._path.unlink(missing_ok=True)
        elsewhere.forget(marks)
        for path in self._marks_of_the_dead():
            path.unlink(missing_ok=True)

    def _drop(self, error: StandfastError | OSError) -> None:
        """It missed something, or is damaged: nobody may read it again, whatever happens next."""
        file, self._file = self._file, None
        self._forget()
        self._retry_at = time.monotonic() + self._pause_s
        self._warn(error)
        if file is None or os.getpid() != self._process:  # a forked child has closed its copies
            return
        if self._only_look:
            return file.close()
        self._remove(file, damaged=isinstance(error, CorruptData) and error.code != "file_gone")
        file.close()
        if not os.path.lexists(self._path):  # SQLite removes none beside a file that is gone
            remove_companions(self._path)

    def _remove(self, file: LocalFile, *, damaged: bool = False) -> None:
        try:
            if file.in_place:
                if damaged:
                    replace_disposable(self._path)
                else:
                    self._path.unlink()
        except (StandfastError, OSError):
            logger.exception("the mirror that missed something cannot be removed")
            self._spoil()

    def _spoil(self) -> None:
        """Neither this process nor, by a mark, the next one reads what is there."""
        if not self._spoiled and os.path.lexists(self._path):
            self._spoiled = True
            if not self._is_marked() and not elsewhere.mark(self._path):
                logger.error("it cannot be marked either: the next process would read it")

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            logger.warning("the mirror is not used until it can be begun anew: %s", error)
        self._warned = True

    def _forget(self) -> None:
        self._looks.clear()
        self._behind.clear()
        self._behind_rows.clear()
        self._retained_bytes = 0
        self._unmark()

    def _unmark(self) -> None:
        if self._mark is not None:
            if not self._spoiled:
                with contextlib.suppress(OSError):
                    self._mark.path.unlink()
            self._mark.release()
            self._mark = None

    def _read(self, work: Callable[[apsw.Connection], T], *, otherwise: T) -> T:
        """What `work` finds; `otherwise` when there is no file that can be read."""
        file = self._file
        if file is None:
            return otherwise
        try:
            found = file.read(work, "reading the mirror")
            if file.in_place:
                return found
            raise gone(self._path, "the mirror")
        except StandfastError as error:
            with self._turn:
                if self._file is file and not self._closed:
                    self._drop(error)
                    self._begin()
            return otherwise

    def _write(self, work: Callable[[apsw.Connection], object], *, durable: bool = False) -> None:
        """One transaction; raises what kept it from being written."""
        if self._file is None:
            if time.monotonic() < self._retry_at:
                raise _NoMirrorError
            self._begin()
        if self._file is None:
            raise _NoMirrorError
        self._file.write(work, "writing the mirror", durable=durable)
        if self._warned:
            logger.warning("the mirror is used again")
            self._warned = False

    # ---- the database that it mirrors

    def belongs_to(self, history: str) -> None:
        """Make sure that it mirrors this history; what it held of another is of no use.

        What it holds of a database that had no history yet, it holds of the one that begins there.
        """

        def note(conn: apsw.Connection) -> None:
            found = conn.execute(_HISTORY).get
            if found == history:
                return
            if found is not None:
                mirror_rows.clear(conn)
            failpoint("mirror-emptied")
            mirror_rows.set_history(conn, history)

        with self._turn:
            self._history = history
            if self._read(lambda conn: conn.execute(_HISTORY).get, otherwise=None) == history:
                return
            self._forgotten()
            self._forget()
            self._floors.clear()
            self._or_drop(lambda: self._write(note, durable=True))

    def clear(self) -> None:
        """Forget everything: what it holds is of no use any more."""
        self._forgotten()
        with self._turn:
            self._floors.clear()
            self._forget()
            self._or_drop(lambda: self._write(mirror_rows.clear))

    def _or_drop(self, write: Callable[[], None]) -> None:
        try:
            write()
        except _NoMirrorError:
            self._spoil()  # it is begun anew later, from nothing
        except StandfastError as error:
            self._drop(error)
            self._begin()

    # ---- rows

    def clear_rows(self) -> None:
        """Forget every document, and keep what is known of lanes."""

        def clear(conn: apsw.Connection) -> None:
            conn.execute("DELETE FROM rows")
            conn.execute("DELETE FROM whole")

        self._forgotten()
        with self._turn:
            self._floors.clear()
            self._looks.clear()
            self._behind_rows.clear()
            self._or_drop(lambda: self._write(clear))

    def get(self, collection: str, key: str) -> MirrorRow | None:
        """What the primary last said of one place; None when it never said anything."""
        place = (collection, key)
        row = self._read(lambda conn: mirror_rows.row_at(conn, place), otherwise=None)
        behind = self._behind_rows.get(place)
        if behind is not None and (row is None or behind.state.version >= row.state.version):
            return behind
        look = self._looks.get(place)
        if row is None or look is None or look.version != row.state.version:
            return row
        newer = look.seen_us >= row.seen_us
        return MirrorRow(row.state, look.watermarks, look.seen_us) if newer else row

    def take(self, observed: Observed, *, seen_us: int, in_order: bool = False) -> dict[str, int]:
        """Take over what a read of one collection from the primary showed (write-through, R5).

        `in_order`: of a page, in the order of the keys.  A read that showed nothing new is
        remembered in memory: nothing is written.  Returns the
        keys that it knows in a higher version, with that version: they stay as they are, since the
        read may be the older one.
        """
        with self._turn:
            states, file_version = observed.states, self._read(_file_version, otherwise=0)
            if not self._behind:
                states = [
                    state
                    for state in states
                    if not self._is_as_found(state, observed, seen_us, file_version)
                ]
                if not states:
                    return {}
            nothing: dict[str, mirror_rows.Known] = {}
            rows = self._read(
                lambda conn: mirror_rows.known(conn, states, in_order=in_order), otherwise=nothing
            )
            news = [
                state
                for state in states
                if not self._is_known(
                    state, rows.get(state.key), observed, seen_us, file_version=file_version
                )
            ]
            if not news and not self._behind:
                return {}
            failpoint("mirror-before-take")
            self._tell(mirror_rows.News(Observed(news, observed.watermarks), seen_us))
            failpoint("mirror-taken")
            found = [(state, self.get(state.collection, state.key)) for state in news]
            return {
                state.key: row.state.version
                for state, row in found
                if row is not None and row.state.version > state.version
            }

    def take_lower(self, observed: Observed, lost: Mapping[str, int], *, seen_us: int) -> None:
        """Take over a read that began after these versions were known here (R23).

        A lower version is then the truth: the primary has lost the higher one.
        """
        with self._turn:
            self._tell(mirror_rows.News(observed, seen_us, lost=lost))

    def drop(
        self, collection: str, version: int, *, watermarks: Mapping[str, int], seen_us: int
    ) -> None:
        """A collection was dropped, in which no version was above this one: all of it is gone.

        What has a higher version is in one that was made since.
        """
        with self._turn:
            self._floors[collection] = version
            for place in [place for place in self._looks if place[0] == collection]:
                del self._looks[place]
            news = mirror_rows.News(
                Observed([], dict(watermarks)), seen_us, dropped=(collection, version)
            )
            self._tell(news)

    def forget_collection(self, collection: str) -> None:
        """Know nothing of a collection any more."""

        def forget(conn: apsw.Connection) -> None:
            conn.execute("DELETE FROM rows WHERE collection = ?", (collection,))
            conn.execute("DELETE FROM whole WHERE collection = ?", (collection,))

        with self._turn:
            self.catch_up()
            for place in [place for place in self._behind_rows if place[0] == collection]:
                del self._behind_rows[place]
            self._or_drop(lambda: self._write(forget))
            self.changes += 1

    def forget(self, collection: str, keys: Iterable[str]) -> None:
        """Know nothing of these keys any more, if they can be forgotten."""

        def forget(conn: apsw.Connection) -> None:
            for key in keys:
                conn.execute("DELETE FROM rows WHERE collection = ? AND key = ?", (collection, key))

        with self._turn:
            self._or_drop(lambda: self._write(forget))
            self.changes += 1

    def _is_as_found(
        self, state: State, observed: Observed, seen_us: int, file_version: int
    ) -> bool:
        """Whether it is what an earlier look has found in the file, which has not changed since."""
        place = (state.collection, state.key)
        look = self._looks.get(place)
        if (
            look is None
            or look.file_version != file_version
            or look.version != state.version
            or look.content != hash((state.text, state.expires_us))
            or seen_us - look.row_seen_us >= MIRROR_LOOK_S * 1e6
        ):
            return False
        if seen_us >= look.seen_us:
            self._looks[place] = msgspec.structs.replace(
                look, seen_us=seen_us, watermarks=observed.watermarks
            )
        return True

    def _is_known(
        self,
        state: State,
        row: mirror_rows.Known | None,
        observed: Observed,
        seen_us: int,
        *,
        file_version: int,
    ) -> bool:
        place = (state.collection, state.key)
        if row is None or place in self._behind_rows:
            self._looks.pop(place, None)
            return False
        _, text, version, expires_us, row_seen_us = row
        same = version == state.version and text == state.text and expires_us == state.expires_us
        if not same:
            self._looks.pop(place, None)
            return False
        if seen_us - row_seen_us >= MIRROR_LOOK_S * 1e6 or len(self._looks) >= MAX_MIRROR_LOOKS:
            self._looks.pop(place, None)
            return False
        look = self._looks.get(place)
        if look is None or look.version != state.version or seen_us >= look.seen_us:
            content = hash((text, expires_us))
            self._looks[place] = _Look(
                *(version, seen_us, observed.watermarks, content, row_seen_us, file_version)
            )
        return True

    def confirm(
        self,
        observed: Observed,
        *,
        lane: str,
        watermark: int,
        retained: Sequence[tuple[Op, int | None]],
        durable: bool = False,
    ) -> None:
        """Take over what a batch of ours made: rows, the lane's watermark, and its ops (R6)."""
        failpoint("mirror-before-confirm")
        with self._turn:
            news = mirror_rows.News(observed, clock.now_us(), lane, watermark, retained)
            self._tell(news, durable=durable)
            self._batches += 1
            if self._looks:
                for state in observed.states:
                    self._looks.pop((state.collection, state.key), None)
        failpoint("mirror-confirmed")

    def _tell(self, news: mirror_rows.News, *, durable: bool = False) -> None:
        """Write it, behind what is in memory; a file that another process has locked waits."""
        self.changes += 1
        if self._floors:
            news = self._above_floors(news)
        waiting = [*self._behind, news]

        def write(conn: apsw.Connection) -> None:
            for one in waiting:
                self._note(conn, one)
            failpoint("mirror-before-commit")

        try:
            self._write(write, durable=durable)
        except _NoMirrorError:
            self._spoil()
        except StandfastError as error:
            if error.code == "file_gone":  # another process began it anew: there it goes
                self._drop(error)
                self._begin()
                self._or_drop(lambda: self._write(write, durable=durable))
            elif error.code == "locked" and self._is_marked():
                self._keep(news, error)
            else:
                self._drop(error)
        else:
            if self._behind:
                self._behind.clear()
                self._behind_rows.clear()
                self._unmark()

    def _above_floors(self, news: mirror_rows.News) -> mirror_rows.News:
        """Without what a collection held that has been dropped since."""
        floors, observed = self._floors, news.observed
        states = [s for s in observed.states if not 0 < s.version <= floors.get(s.collection, 0)]
        return news._replace(observed=msgspec.structs.replace(observed, states=states))

    def _is_marked(self) -> bool:
        """Say beside the file that it misses something; False when even that fails."""
        if self._mark is None:
            mark = FileLock(self._path.with_name(f"{self._path.name}{_BEHIND}{uuid.uuid4().hex}"))
            try:
                if mark.acquire():
                    self._mark = mark
            except OSError:
                return False
        return self._mark is not None

    def _keep(self, news: mirror_rows.News, error: StandfastError) -> None:
        self._behind.append(news)
        many = len(self._behind) > MAX_MIRROR_BEHIND
        if news.dropped or many or sum(one.size for one in self._behind) > MAX_MIRROR_BEHIND_BYTES:
            self._drop(error)
            return
        for state in news.observed.states:
            place = (state.collection, state.key)
            known = self._behind_rows.get(place)
            if known is None or mirror_rows.is_newer(state, news, known):
                self._behind_rows[place] = MirrorRow(state, news.observed.watermarks, news.seen_us)

    def _note(self, conn: apsw.Connection, news: mirror_rows.News) -> None:
        if news.lost:
            mirror_rows.forget_lost(conn, news)
        mirror_rows.put_rows(conn, news)
        if news.dropped is not None:
            mirror_rows.drop_rows(conn, news, *news.dropped)
        if not news.lane:
            return
        conn.execute(
            "INSERT INTO lanes VALUES (?, ?) ON CONFLICT (lane)"
            " DO UPDATE SET watermark = max(watermark, excluded.watermark)",
            (news.lane, news.watermark),
        )
        if news.retained:
            batch = pack_batch(news.retained)
            conn.execute(
                "INSERT INTO retained (at_us, lane, last, batch) VALUES (?, ?, ?, ?)",
                (news.seen_us, news.lane, news.retained[-1][0].seq, batch),
            )
            self._retained_bytes += len(batch)
        due = (self._batches + 1) % _CLEAR_EVERY == 0
        if due or self._retained_bytes > MAX_RETAINED_BYTES:
            self._trim(conn, news.seen_us, due=due)

    def _trim(self, conn: apsw.Connection, now_us: int, *, due: bool) -> None:
        if due:
            conn.execute(_FORGET_OLD, (now_us - int(RETENTION_S * 1e6),))
            self._retained_bytes = conn.execute(_RETAINED_BYTES).get
        if self._retained_bytes > MAX_RETAINED_BYTES:
            conn.execute(
                "DELETE FROM retained WHERE id < (SELECT (min(id) + max(id)) / 2 FROM retained)"
            )
            self._retained_bytes = conn.execute(_RETAINED_BYTES).get
        if (self._batches + 1) % _COUNT_EVERY == 0:
            mirror_rows.shrink(conn)

    def catch_up(self) -> None:
        """Write what is in memory, if the file is free again."""
        with self._turn:
            if self._file is not None:
                with contextlib.suppress(StandfastError):
                    self._file.share()
            if self._behind:
                self._tell(mirror_rows.News(Observed([]), clock.now_us()))

    # ---- whole collections

    def take_complete(
        self, collection: str, *, since_us: int, watermarks: Mapping[str, int]
    ) -> None:
        """Note that it holds all documents that the collection had then."""
        tags = mirror_rows.encode_tags(watermarks).decode()

        def note(conn: apsw.Connection) -> None:
            conn.execute(
                "INSERT OR REPLACE INTO whole VALUES (?, ?, ?)", (collection, since_us, tags)
            )

        with (
            self._turn,
            contextlib.suppress(StandfastError, _NoMirrorError),
        ):  # without the mark it is not whole
            self.catch_up()
            if not self._behind:
                self._write(note)
                self.changes += 1

    def complete_mark(self, collection: str) -> CompleteMark | None:
        """Since when it holds the collection whole; None when it does not."""
        if self._behind:
            return None
        statement = "SELECT since_us, watermarks FROM whole WHERE collection = ?"
        found = self._read(
            lambda conn: conn.execute(statement, (collection,)).fetchone(), otherwise=None
        )
        return None if found is None else CompleteMark(found[0], mirror_rows.decode_tags(found[1]))

    def whole(self) -> dict[str, int]:
        """The collections that it holds whole, and the characters of their documents."""
        if self._behind:
            return {}
        statement = (
            "SELECT collection, (SELECT coalesce(sum(length(text)), 0) FROM rows"
            " WHERE rows.collection = whole.collection) FROM whole"
        )

        def find(conn: apsw.Connection) -> dict[str, int]:
            return {record[0]: record[1] for record in conn.execute(statement)}

        nothing: dict[str, int] = {}
        return self._read(find, otherwise=nothing)

    def unseen(self, collection: str, *, before_us: int) -> list[str]:
        """The keys of documents that were not read since."""

        def find(conn: apsw.Connection) -> list[str]:
            found = conn.execute(
                "SELECT key FROM rows WHERE collection = ? AND text IS NOT NULL AND seen_us < ?",
                (collection, before_us),
            )
            return [record[0] for record in found]

        looks = self._looks
        return [
            key
            for key in self._read(find, otherwise=[])
            if (look := looks.get((collection, key))) is None or look.seen_us < before_us
        ]

    def page(
        self,
        collection: str,
        *,
        prefix: str,
        after: str | None,
        limit: int,
        now_us: int,
        reverse: bool = False,
    ) -> list[Row]:
        """Its live documents in bytewise key order, after a key, at most `limit`."""
        where, values = within("key", prefix=prefix, after=after, reverse=reverse)

        def find(conn: apsw.Connection) -> list[Row]:
            found = conn.execute(
                "SELECT key, text, version, created_us, updated_us, expires_us, seen_us FROM rows"
                f" WHERE {' AND '.join([_LIVE, *where])}"
                f" ORDER BY key {'DESC' if reverse else ''} LIMIT ?",
                (collection, now_us, *values, limit),
            )
            return [Row(*record) for record in found]

        return [self._looked(collection, row) for row in self._read(find, otherwise=[])]

    def _looked(self, collection: str, row: Row) -> Row:
        look = self._looks.get((collection, row.key))
        if look is None or look.version != row.version or look.seen_us <= (row.seen_us or 0):
            return row
        return msgspec.structs.replace(row, seen_us=look.seen_us)

    def count_live(self, collection: str, *, now_us: int) -> int:
        """The number of documents of a collection that it knows."""
        statement = f"SELECT count(*) FROM rows WHERE {_LIVE}"
        return self._read(
            lambda conn: conn.execute(statement, (collection, now_us)).get, otherwise=0
        )

    # ---- lanes

    def expected_watermark(self, lane: str) -> int:
        """The watermark of a lane as the primary last returned it."""
        statement = "SELECT watermark FROM lanes WHERE lane = ?"
        known = self._read(lambda conn: conn.execute(statement, (lane,)).get, otherwise=0) or 0
        with self._turn:
            return max([known, *(one.watermark for one in self._behind if one.lane == lane)])

    def forget_lane(self, lane: str) -> None:
        """A lane was fenced, and nothing of it is pending; the last one that wrote is kept."""
        with (
            self._turn,
            contextlib.suppress(StandfastError, _NoMirrorError),
        ):  # a line too many does no harm
            self._write(lambda conn: mirror_rows.forget_lane(conn, lane))
        failpoint("lane-forgotten")

    def watermarks(self) -> dict[str, int]:
        """What the primary must still know: the watermarks of the lanes and of the last one."""

        def find(conn: apsw.Connection) -> dict[str, int]:
            last = conn.execute(
                "SELECT value FROM meta WHERE name = ?", (mirror_rows.LAST_LANE,)
            ).get
            found = conn.execute("SELECT lane, watermark FROM lanes WHERE watermark > 0")
            return (mirror_rows.decode_tags(last) if last else {}) | {
                one[0]: one[1] for one in found
            }

        nothing: dict[str, int] = {}
        return self._read(find, otherwise=nothing)

    def retained(self, lanes: Mapping[str, int]) -> Iterator[Retained]:
        """The kept ops above these sequences of their lanes, in order."""
        after = 0
        statement = "SELECT id, at_us, lane, last, batch FROM retained WHERE id > ? ORDER BY id"

        def find(conn: apsw.Connection) -> tuple[Any, ...] | None:
            return conn.execute(statement + " LIMIT 1", (after,)).fetchone()

        while (found := self._read(find, otherwise=None)) is not None:
            after, at_us, lane, last, batch = found
            done = lanes.get(lane, 0)
            if last > done:
                for op, version in unpack_batch(batch):
                    if op.seq > done:
                        yield Retained(op, version, at_us)

    def count(self) -> int:
        """The number of places that it knows."""
        return self._read(lambda conn: conn.execute("SELECT count(*) FROM rows").get, otherwise=0)

    def close(self) -> None:
        """Close the file.  Idempotent."""
        with self._turn:
            self.catch_up()
            self._closed = True
            if self._behind and self._file is not None:
                self._remove(self._file)  # what it missed is in memory only
            self._unmark()
            if self._file is not None:
                self._file.close()
