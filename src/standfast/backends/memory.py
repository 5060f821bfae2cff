"""Documents in this process's memory: the public fake for tests of code that uses a store."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import msgspec

from standfast.backends.base import (
    SCHEMA_VERSION,
    Dropped,
    Form,
    Image,
    Load,
    LoadReport,
    Moved,
    Reference,
    RunRecord,
    StoredText,
    decode_outcomes,
    encode_outcomes,
    not_empty,
    readable,
    skip_applied,
    skip_reissued,
    stale,
    standing,
)
from standfast.document.containment import contains
from standfast.errors import Unavailable
from standfast.limits import MAX_DROPPED_VERSION
from standfast.ops.apply import Current
from standfast.ops.batch import Place, apply_ops, kept, places
from standfast.ops.reconcile import OnConflict
from standfast.ops.types import (
    Applied,
    ConflictRecord,
    Identity,
    Observed,
    Op,
    Outcome,
    Row,
    ServerIdentity,
    Span,
    State,
)


@dataclass
class _Rows:
    """One collection: rows by key, and the versions of what was deleted.

    New rows are above `floor`; `number` tells it from one that had the same name before, and
    `runs_before` the runs that filled it from those that filled that one.
    """

    rows: dict[str, Row] = field(default_factory=dict[str, Row])
    buried: dict[str, int] = field(default_factory=dict[str, int])
    floor: int = 0
    number: int = 0
    runs_before: int = 0
    form: Form = field(default_factory=Form)


class MemoryBackend:
    """The whole contract without a database; `now_us` is the clock that expiry goes by."""

    kind = "memory"
    display = "memory://"

    def __init__(self, *, now_us: Callable[[], int] | None = None) -> None:
        self._now_us = now_us or _wall_clock_us
        self._identity = str(uuid.uuid4())
        self._data: dict[str, _Rows] = {}
        self._floor = self._made = 0
        self._lanes: dict[str, tuple[int, str, str]] = {}
        self._directories: dict[str, str] = {}
        self._moved: set[Identity] = set()
        self._records: list[ConflictRecord] = []
        self._runs: dict[str, RunRecord] = {}
        self._lock = threading.RLock()

    def check(self) -> None:
        """Always usable."""

    def schema_version(self) -> int:
        return SCHEMA_VERSION

    def install(self, collections: Sequence[str]) -> None:
        with self._lock:
            for name in collections:
                self._collection(name)

    def _collection(self, name: str) -> _Rows:
        found = self._data.get(name)
        if found is None:
            self._made += 1
            found = self._data[name] = _Rows(
                floor=self._floor, number=self._made, runs_before=len(self._runs)
            )
        return found

    def identity(self) -> str | None:
        return self._identity

    def new_handle(self) -> MemoryBackend:
        return self

    @property
    def connected(self) -> bool:
        return True

    def connect(
        self,
        deadline: float,
        *,
        accept: Callable[[ServerIdentity], object] | None = None,
        lanes: Sequence[str] = (),
    ) -> ServerIdentity:
        server_identity = self.server_identity(deadline, lanes=lanes)
        if accept is not None:
            accept(server_identity)
        return server_identity

    def server_identity(self, deadline: float, *, lanes: Sequence[str] = ()) -> ServerIdentity:
        with self._lock:
            marks = {lane: self._lanes[lane][0] for lane in lanes if lane in self._lanes}
        return ServerIdentity(self._identity, lanes=marks)

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
        with self._lock:
            lane, now = ops[0].lane, self._now_us()
            watermark, state, outcomes = self._lanes.get(lane, (0, "open", "[]"))
            fresh, skipped = skip_applied(ops, expected_watermark, watermark, state, outcomes)
            wanted, moved = skip_reissued(fresh, self._moved)
            skipped += moved
            touched = places(kept(ops))
            if fresh:
                rows: dict[Place, Current] = {}
                for collection, keys in touched.items():
                    rows.update({(collection, key): self._current(collection, key) for key in keys})
                entered = {(e.lane, e.seq) for e in self._records}
                done, entries = apply_ops(rows, wanted, on_conflict=on_conflict, entered=entered)
                self._moved.update(op.origin for op in wanted if op.origin)
                for (collection, key), row in rows.items():
                    if row.changed:
                        self._set(collection, key, row, now)
                for entry in entries:
                    number = len(self._records) + 1
                    self._records.append(msgspec.structs.replace(entry, id=number, at_us=now))
                watermark = fresh[-1].seq
                skipped = sorted(skipped + done, key=lambda outcome: outcome.seq)
                self._lanes[lane] = (watermark, state, encode_outcomes(skipped))
            if directory is None:
                return Applied(skipped, watermark)
            self._directories[lane] = directory
            states = [self._state(name, key) for name, keys in touched.items() for key in keys]
            return Applied(skipped, watermark, Observed(states, self._watermarks(directory)))

    def _watermarks(self, directory: str | None) -> dict[str, int]:
        if directory is None:
            return {}
        return {
            lane: watermark
            for lane, (watermark, state, _) in self._lanes.items()
            if state == "open" and self._directories.get(lane) == directory
        }

    def _state(self, collection: str, key: str) -> State:
        row = self._rows(collection).rows.get(key)
        if row is None:
            data = self._rows(collection)
            return State(collection, key, None, data.buried.get(key, data.floor))
        text = row.text if self._live(row) else None
        times = (row.created_us, row.updated_us, row.expires_us)
        return State(collection, key, text, row.version, *times)

    def observe(
        self,
        collection: str,
        keys: Sequence[str],
        *,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Observed:
        with self._lock:
            states = [self._state(collection, key) for key in keys]
            return Observed(states, self._watermarks(directory))

    def _current(self, collection: str, key: str) -> Current:
        data = self._collection(collection)
        row = data.rows.get(key)
        if row is None:
            return Current(None, data.buried.get(key, data.floor))
        return Current(
            *(row.text if self._live(row) else None, row.version),
            created_us=row.created_us,
            updated_us=row.updated_us,
            expires_us=row.expires_us,
        )

    def _live(self, row: Row) -> bool:
        return row.expires_us is None or row.expires_us > self._now_us()

    def _set(self, collection: str, key: str, row: Current, now: int) -> None:
        data = self._data[collection]
        old = data.rows.pop(key, None)
        if row.text is None:
            data.buried[key] = row.version
            return
        data.buried.pop(key, None)
        created = now if old is None or row.fresh else old.created_us
        kept = old.expires_us if old is not None and row.ttl_us is None else None
        expires = now + row.ttl_us if row.ttl_us else kept
        data.rows[key] = Row(key, row.text, row.version, created, now, expires)

    def close_lane(self, lane: str) -> None:
        with self._lock:
            self._lanes.pop(lane, None)

    def fence(
        self,
        lanes: Sequence[str],
        *,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> dict[str, int]:
        with self._lock:
            for lane in lanes:
                watermark, _, outcomes = self._lanes.get(lane, (0, "open", "[]"))
                self._lanes[lane] = (watermark, "fenced", outcomes)
            return {lane: self._lanes[lane][0] for lane in lanes}

    def differences(self) -> list[str]:
        return []

    def trim(self, collection: str | None = None, *, deadline: float | None = None) -> bool:
        with self._lock:
            data = self._data.get(collection or "", _Rows())
            for row in [row for row in data.rows.values() if not self._live(row)]:
                del data.rows[row.key]
                data.buried[row.key] = row.version + 1
        return False

    def outcomes(self, lane: str, *, deadline: float | None = None) -> list[Outcome]:
        with self._lock:
            return decode_outcomes(self._lanes.get(lane, (0, "open", "[]"))[2])

    def conflicts(
        self,
        *,
        state: str | None = None,
        after: int = 0,
        limit: int = 100,
        name: Identity | None = None,
        deadline: float | None = None,
    ) -> list[ConflictRecord]:
        with self._lock:
            return [
                entry
                for entry in self._records[after:]
                if state in (None, entry.state) and name in (None, (entry.lane, entry.seq))
            ][:limit]

    def count_conflicts(self, *, deadline: float | None = None) -> dict[str, int]:
        with self._lock:
            return dict(Counter(entry.state for entry in self._records))

    def resolve_conflict(self, number: int, resolution: str) -> bool:
        with self._lock:
            at = number - 1
            if at not in range(len(self._records)) or self._records[at].state != "open":
                return False
            self._records[at] = msgspec.structs.replace(
                self._records[at], state="resolved", resolution=resolution
            )
            return True

    def _rows(self, collection: str) -> _Rows:
        return self._data.get(collection) or _Rows()

    def _sorted(self, collection: str) -> list[Row]:
        data = self._rows(collection)
        live = [row for row in data.rows.values() if self._live(row)]
        return sorted(live, key=lambda row: row.key.encode())

    def read(self, collection: str, keys: Sequence[str]) -> dict[str, Row]:
        with self._lock:
            rows = self._rows(collection).rows
            return {
                key: row for key in keys if (row := rows.get(key)) is not None and self._live(row)
            }

    def scan(self, collection: str, span: Span, *, deadline: float | None = None) -> list[Row]:
        with self._lock:
            rows = self._sorted(collection)
            if span.reverse:
                rows.reverse()
            query = span.query
            return [
                row
                for row in rows
                if span.has(row.key)
                and (query is None or contains(readable(collection, row), query))
            ][: span.limit]

    def page(
        self,
        collection: str,
        *,
        after: str | None = None,
        limit: int = 1000,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Observed:
        with self._lock:
            rows = self.scan(collection, Span(after=after, limit=limit))
            states = [self._state(collection, row.key) for row in rows]
            return Observed(states, self._watermarks(directory))

    def count(self, collection: str, *, deadline: float | None = None) -> int:
        with self._lock:
            return len(self._sorted(collection))

    def dump(self, collection: str, *, in_order: bool = False) -> Iterator[StoredText]:
        with self._lock:
            rows = self._sorted(collection)
        if in_order:
            rows.sort(key=lambda row: row.created_us)
        for row in rows:
            yield StoredText(row.key, row.text, row.version, row.updated_us)

    def inconsistent(self, collection: str) -> Iterator[str]:
        return iter(())

    def images(self, collection: str, keys: Sequence[str]) -> dict[str, Image]:
        with self._lock:
            data = self._rows(collection)
            return {
                key: Image(
                    key, row.text, None, row.version, row.created_us, row.updated_us, row.expires_us
                )
                for key in keys
                if (row := data.rows.get(key)) is not None
            }

    def collections(self, *, deadline: float | None = None) -> list[str]:
        with self._lock:
            return sorted(self._data)

    def incarnation(self, collection: str, *, deadline: float | None = None) -> str | None:
        with self._lock:
            found = self._data.get(collection)
            return None if found is None else str(found.number)

    def drop(
        self,
        collection: str,
        incarnation: str,
        *,
        if_empty: bool = False,
        directory: str | None = None,
        deadline: float | None = None,
    ) -> Dropped | None:
        with self._lock:
            if self.incarnation(collection) != incarnation:
                return None
            if if_empty and self._sorted(collection):
                raise not_empty(collection)
            data = self._data.pop(collection)
            versions = [row.version for row in data.rows.values()]
            highest = max([data.floor, *versions, *data.buried.values()])
            self._floor = max(self._floor, min(MAX_DROPPED_VERSION, highest))
            return Dropped(self._floor, self._watermarks(directory))

    def form(self, collection: str) -> Form:
        with self._lock:
            return self._rows(collection).form

    def create_index(self, collection: str, *, deadline: float | None = None) -> None:
        """Nothing to do: every search reads everything."""

    def adoptable(self, collection: str) -> str:
        return ""

    def lost_table(self, collection: str) -> bool:
        return False

    def references(self, collection: str, keys: Sequence[str]) -> list[Reference]:
        return []

    def misfits(self, collection: str, keys: Sequence[str]) -> list[str]:
        return []

    def load(self, run: str, state: str, loads: Sequence[Load]) -> Mapping[str, LoadReport]:
        with self._lock:
            now = self._now_us()
            for load in loads:
                self._check(load)
            reports = {load.collection: self._load(load, now) for load in loads}
            self._runs[run] = RunRecord(run, state, reports)
            return reports

    def _check(self, load: Load) -> None:
        # An expired row is not a document, but its key is taken.
        rows = self._rows(load.collection).rows
        versions = {key: row.version for key, row in rows.items() if self._live(row)}
        for key, _ in load.inserts:
            if key in versions:
                raise stale(load.collection, key)
        for change in load.changes:
            if versions.get(change.key, 0) != change.expected_version:
                raise stale(load.collection, change.key)

    def _load(self, load: Load, now: int) -> LoadReport:
        data = self._collection(load.collection)
        for key in [key for key, row in data.rows.items() if not self._live(row)]:
            data.buried[key] = data.rows.pop(key).version + 1
        versions: dict[str, int] = {}
        for index, (key, text) in enumerate(load.inserts):
            version = data.buried.pop(key, data.floor) + 1
            if version > 1:
                versions[key] = version
            data.rows[key] = Row(key, text, version, now + index, now + index)
        for change in load.changes:
            old = data.rows.pop(change.key, None)
            version = max(change.expected_version, data.buried.get(change.key, data.floor)) + 1
            versions[change.key] = version
            if change.image is not None:
                image = change.image
                stamps = (image.created_us or now, image.updated_us or now, image.expires_us)
                text = image.data if image.raw is None else image.raw
                data.rows[change.key] = Row(change.key, text, version, *stamps)
            elif change.text is not None:
                created = old.created_us if old else now
                data.rows[change.key] = Row(change.key, change.text, version, created, now)
            elif old is not None:
                data.buried[change.key] = version
            if change.key in data.rows:
                data.buried.pop(change.key, None)
        if load.form is not None:
            data.form = load.form
        return LoadReport(1, versions, load.source)

    def run_record(self, run: str) -> RunRecord | None:
        record = self._runs.get(run)
        return msgspec.structs.replace(record) if record else None

    def moved(self) -> list[Moved]:
        with self._lock:
            made = {name: rows.runs_before for name, rows in self._data.items()}
            runs = list(enumerate(self._runs.values()))[::-1]
        stored = ((r.run, r.state, msgspec.json.encode(r.loads), at) for at, r in runs)
        return standing(stored, made)

    def buried(self, collection: str) -> set[str]:
        with self._lock:
            return set(self._rows(collection).buried)

    def close(self) -> None:
        """Nothing to release: the data lives as long as the object."""


def _wall_clock_us() -> int:
    import time

    return time.time_ns() // 1000


class MemoryServer:
    """A `MemoryBackend` that can be away, as a server can: then every call fails, unconnected."""

    def __init__(self) -> None:
        self._inner = MemoryBackend()
        self.is_away = False
        self.kind = self._inner.kind
        self.display = self._inner.display

    def cut(self, *, is_cut: bool) -> None:
        """Let it be away, or back."""
        self.is_away = is_cut

    def new_handle(self) -> MemoryServer:
        """This one: it serves every thread."""
        return self

    @property
    def connected(self) -> bool:
        """Whether a call would be answered."""
        return not self.is_away

    def close(self) -> None:
        """Nothing to release."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._inner, name)

        @wraps(call)
        def answered(*args: Any, **options: Any) -> Any:
            if self.is_away:
                raise Unavailable(
                    f"{self.display} is away, as a test wants it",
                    code="connection",
                    hint="standfast.testing.restore(store) brings it back",
                )
            return call(*args, **options)

        return answered
