"""Complete collections in the mirror: filled by a scan of the primary, served during an outage.

A *full scan* reads everything, page by page, and its rows go into the mirror; after the last page
the mirror is marked complete for this collection, as of the beginning of the scan.  What others add
later is not in it until the next full scan: like every local read, it is as old as it says.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from standfast.backends.base import Backend
from standfast.document.codec import decode
from standfast.document.containment import contains
from standfast.engine import clock
from standfast.engine.local_state import LocalState
from standfast.engine.overlay import MirrorRow
from standfast.engine.snapshot import Content
from standfast.errors import Unavailable
from standfast.limits import MAX_READ_KEYS
from standfast.ops.types import Observed, Row, Span, State, row_of_state


class Pages(Protocol):
    """Where whole collections are read: the primary, or the mirror while it is away."""

    def scan(self, collection: str, span: Span, *, deadline: float | None = None) -> list[Row]:
        """One page of live documents."""
        ...

    def observe(
        self, collection: str, keys: Sequence[str], *, deadline: float | None = None
    ) -> Observed:
        """What these places hold."""
        ...

    def count(self, collection: str, *, deadline: float | None = None) -> int:
        """The number of live documents."""
        ...


class FullScan:
    """A scan of one collection from its first key to its last, which the mirror follows.

    `over(primary)` is the primary as the pages of the scan see it.  A scan that does not reach the
    end, or whose pages do not follow each other, leaves no mark.
    """

    def __init__(self, local_state: LocalState, collection: str) -> None:
        self._local_state = local_state
        self._collection = collection
        self._since_us = 0
        self._reached: str | None = None
        self._watermarks: Mapping[str, int] = {}

    def over(self, primary: Backend) -> Pages:
        """The primary, for the next page."""
        return _ScannedPrimary(primary, self)

    def page(
        self, primary: Backend, *, after: str | None, limit: int, deadline: float | None
    ) -> list[Row]:
        """The page after this key, taken over by the mirror before it is returned (R5)."""
        begun_us, begun = clock.now_us(), time.monotonic()
        directory = self._local_state.journal.directory
        # Rows and watermarks of one snapshot (R8).
        observed = primary.page(
            self._collection, after=after, limit=limit, directory=directory, deadline=deadline
        )
        deadline = renewed(deadline, begun)
        self._take(primary, observed, begun_us, deadline, in_order=True)
        states = observed.states
        if after is None:
            self._since_us, self._watermarks = begun_us, observed.watermarks
        elif self._reached is None or after.encode() > self._reached.encode():
            self._since_us = 0  # something between the pages was not read
        self._reached = states[-1].key if states else after
        if len(states) < limit and self._since_us:
            self._end(primary, deadline)
        return [row_of_state(state) for state in states]

    def _end(self, primary: Backend, deadline: float | None) -> None:
        """Look up what only the mirror has, then mark the collection complete."""
        unseen = self._local_state.unseen(self._collection, before_us=self._since_us)
        try:
            for start in range(0, len(unseen), MAX_READ_KEYS):
                begun = time.monotonic()
                self._look_up(primary, unseen[start : start + MAX_READ_KEYS], deadline)
                deadline = renewed(deadline, begun)
        except Unavailable:
            return  # the pages are there, but it is not proved that they are all
        self._local_state.take_complete(
            self._collection, since_us=self._since_us, watermarks=self._watermarks
        )

    def _look_up(self, primary: Backend, keys: Sequence[str], deadline: float | None) -> None:
        seen_us = clock.now_us()
        observed = self._observe(primary, keys, deadline)
        self._take(primary, observed, seen_us, deadline)

    def _take(
        self,
        primary: Backend,
        observed: Observed,
        seen_us: int,
        deadline: float | None,
        *,
        in_order: bool = False,
    ) -> None:
        self._local_state.take(
            observed,
            seen_us=seen_us,
            again=lambda keys: self._observe(primary, keys, deadline),
            in_order=in_order,
        )

    def _observe(self, primary: Backend, keys: Sequence[str], deadline: float | None) -> Observed:
        directory = self._local_state.journal.directory
        return primary.observe(self._collection, keys, directory=directory, deadline=deadline)


def renewed(deadline: float | None, begun: float) -> float | None:
    """The deadline of the next statement of a scan: it has the time that this one had.

    An answer came, however long it took to arrive: so the primary is there.
    """
    if deadline is None:
        return None
    return max(deadline, time.monotonic() + (deadline - begun))


class _ScannedPrimary:
    """The primary, with every page it returns written to the mirror."""

    def __init__(self, primary: Backend, full_scan: FullScan) -> None:
        self._primary = primary
        self._full_scan = full_scan
        self.observe = primary.observe
        self.count = primary.count

    def scan(self, collection: str, span: Span, *, deadline: float | None = None) -> list[Row]:
        return self._full_scan.page(
            self._primary, after=span.after, limit=span.limit, deadline=deadline
        )


class MirrorPages:
    """The mirror in the place of the primary: pages of a collection that it holds whole.

    `since_us`: since when what others wrote later may be missing.
    """

    def __init__(self, local_state: LocalState, since_us: int) -> None:
        self._local_state = local_state
        self.since_us = since_us

    def scan(self, collection: str, span: Span, *, deadline: float | None = None) -> list[Row]:
        found: list[Row] = []
        after, query = span.after, span.query
        while len(found) < span.limit:
            wanted = span.limit - len(found)
            rows = self._local_state.mirror.page(
                collection,
                prefix=span.prefix,
                after=after,
                limit=wanted,
                reverse=span.reverse,
                now_us=self._local_state.server_now_us(),
            )
            found += [row for row in rows if query is None or contains(decode(row.text), query)]
            if len(rows) < wanted:
                break
            after = rows[-1].key
        return found

    def observe(
        self, collection: str, keys: Sequence[str], *, deadline: float | None = None
    ) -> Observed:
        now_us = self._local_state.server_now_us()
        rows = (self._local_state.mirror.get(collection, key) for key in keys)
        return Observed([_live(row.state, now_us) for row in rows if row is not None])

    def count(self, collection: str, *, deadline: float | None = None) -> int:
        return self._local_state.mirror.count_live(
            collection, now_us=self._local_state.server_now_us()
        )


class SnapshotPages:
    """A snapshot in the place of the primary, for when the mirror does not hold the collection.

    It is looked up for each page: once something was written or seen after it, it is not read any
    more, and `Unavailable("not_mirrored")` is raised.
    """

    def __init__(self, local_state: LocalState, missing: Unavailable, since_us: int) -> None:
        self._local_state = local_state
        self._missing = missing
        self.since_us = since_us

    def scan(self, collection: str, span: Span, *, deadline: float | None = None) -> list[Row]:
        rows, keys, _ = self._content(collection)
        after, query = span.after, span.query
        if after is not None and span.reverse:
            keys = keys[: bisect_left(keys, after.encode(), key=str.encode)]
        elif after is not None:
            keys = keys[bisect_right(keys, after.encode(), key=str.encode) :]
        now_us = self._local_state.server_now_us()
        found: list[Row] = []
        for key in reversed(keys) if span.reverse else keys:
            row = _row_of(rows[key], now_us) if key.startswith(span.prefix) else None
            if row is not None and (query is None or contains(decode(row.text), query)):
                found.append(row)
                if len(found) == span.limit:
                    break
        return found

    def observe(
        self, collection: str, keys: Sequence[str], *, deadline: float | None = None
    ) -> Observed:
        rows, now_us = self._content(collection).rows, self._local_state.server_now_us()
        return Observed([_live(rows[key].state, now_us) for key in keys if key in rows])

    def count(self, collection: str, *, deadline: float | None = None) -> int:
        rows, now_us = self._content(collection).rows, self._local_state.server_now_us()
        return sum(_row_of(row, now_us) is not None for row in rows.values())

    def _content(self, collection: str) -> Content:
        content = self._local_state.snapshot(collection)
        if content is None:
            raise self._missing
        return content


def _row_of(found: MirrorRow, now_us: int) -> Row | None:
    """The live document of a row of a snapshot."""
    state = _live(found.state, now_us)
    if state.text is None:
        return None
    times = (state.created_us, state.updated_us, state.expires_us)
    return Row(state.key, state.text, state.version, *times, found.seen_us, found.source)


def local_pages(local_state: LocalState, collection: str, *, what: str, why: str) -> Pages:
    """Where a collection is read while the primary is away: the mirror, else its snapshot.

    Raises when neither holds the collection whole, or what it holds is from too long ago.
    """
    missing = not_complete(what, why)
    pages: Pages
    whole = local_state.complete_mark(collection)
    if whole is None:
        content = local_state.snapshot(collection)
        if content is None:
            raise missing
        whole = content.mark
        pages = SnapshotPages(local_state, missing, whole.since_us)
    else:
        pages = MirrorPages(local_state, whole.since_us)
    age_s, limit = (clock.now_us() - whole.since_us) / 1e6, local_state.options.max_stale_s
    if limit is not None and age_s > limit:
        raise Unavailable(
            f"{what}: what is known is {age_s:.0f} s old",
            code="too_stale",
            hint=f"max_stale_s is {limit}",
        )
    return pages


def seen_whole_us(pages: Pages) -> int | None:
    """As of when pages show what others wrote; None: as of now, by the primary (R24)."""
    return pages.since_us if isinstance(pages, MirrorPages | SnapshotPages) else None


def not_complete(what: str, why: str) -> Unavailable:
    """The error of a scan that only the primary can serve, and why that does not."""
    return Unavailable(
        f"{what}: {why}, and the mirror does not hold the whole collection",
        code="not_mirrored",
        hint="single documents can be read; what was read once by items() is there whole",
    )


def _live(state: State, now_us: int) -> State:
    expired = state.expires_us is not None and state.expires_us <= now_us
    return msgspec.structs.replace(state, text=None) if expired else state
