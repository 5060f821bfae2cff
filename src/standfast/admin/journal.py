"""The journal of a data directory, even beside a running app: for `standfast journal` and `get`.

Pending writes are replayed or given up; a document is read as the app would during an outage.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from standfast.admin.data_dir import look, usable
from standfast.api.opening import refuse_to_hide
from standfast.backends.base import Backend
from standfast.config.settings import Settings
from standfast.document.codec import encode
from standfast.engine.journal import DISCARDED, Journal, Pending
from standfast.engine.local_state import LocalState, OutageOptions, age_s
from standfast.engine.replay_batches import units
from standfast.engine.replayer import Replayer
from standfast.engine.state_machine import means_away
from standfast.errors import ConfigError, CorruptData, StandfastError, Unavailable
from standfast.limits import CONNECT_DEADLINE_S
from standfast.ops.types import KEEP_EXPIRY, Op, ServerIdentity, from_microseconds
from standfast.system.files import write_atomic
from standfast.system.locks import FileLock

#: Pause between two attempts to get the drain lock, or a row that is locked.
PAUSE_S = 0.02
#: Writes and JSON bytes of one file of discarded writes, unless a single batch is larger.
MAX_FILE_OPS = 100_000
MAX_FILE_BYTES = 64 * 1024 * 1024

Prefer = Literal["mine", "theirs", "newest"]


class Drained(NamedTuple):
    """How a replay ended: how much was pending before and is now, and why something is left.

    `busy`: another process of the directory replayed during the whole time.
    """

    before: int
    left: int
    reason: str = ""
    busy: bool = False


@contextmanager
def opened_local_state(settings: Settings, *, prefer: Prefer = "mine") -> Generator[LocalState]:
    """The local files of these settings, opened as a store opens them."""
    refuse_to_hide(settings)
    options = OutageOptions(on_conflict=prefer)
    local_state = LocalState(settings.data_dir, options, display=settings.target.display)
    try:
        yield local_state
    finally:
        local_state.close()


def drain(
    settings: Settings, backend: Backend, *, timeout_s: float, confirmed: bool, prefer: Prefer
) -> Drained:
    """Replay what is pending until nothing is, or until the time is up.

    Raises `CorruptData("other_database")` before anything is written, when the journal belongs to
    another database, and `Unavailable` when this one is lost on the way.
    """
    with opened_local_state(settings, prefer=prefer) as local_state:
        before = local_state.journal.totals().ops
        expected = local_state.lanes_to_check()
        found = backend.server_identity(
            time.monotonic() + settings.deadline_s, lanes=list(expected)
        )
        local_state.refuse_in_use(found)
        if not before:
            return Drained(0, 0)
        _belong(local_state, backend, found, expected, deadline_s=settings.deadline_s)
        replayer = Replayer(backend, local_state, deadline_s=settings.deadline_s)
        replayer.confirmed = confirmed
        try:
            return _replay(replayer, local_state, before, time.monotonic() + timeout_s)
        finally:
            replayer.close()


def _belong(
    local_state: LocalState,
    backend: Backend,
    found: ServerIdentity,
    expected: Mapping[str, int],
    *,
    deadline_s: float,
) -> None:
    """Make sure that the journal belongs to the database that answers."""
    local_state.recognise(found, expected=expected)
    if local_state.history is None:
        backend.install([])
        local_state.recognise(backend.server_identity(time.monotonic() + deadline_s))


def _replay(replayer: Replayer, local_state: LocalState, before: int, until: float) -> Drained:
    backend, journal = replayer.backend, local_state.journal
    busy, reason = True, "another process is replaying"
    while True:
        try:
            if not backend.connected:
                expected = local_state.lanes_to_check()
                until_connected = time.monotonic() + CONNECT_DEADLINE_S
                found = backend.connect(until_connected, lanes=list(expected))
                local_state.recognise(found, expected=expected)
            waits = replayer.drain(until="empty", deadline=until) == "waiting"
            reason = (
                "another process is replaying" if waits else "its rows are locked in the database"
            )
        except StandfastError as error:
            if means_away(error) or isinstance(error, CorruptData):
                raise
            waits, reason = False, f"{error.message} ({error.hint})"
            if error.code == "journal_old":
                return Drained(before, journal.totals().ops, reason)
        busy = busy and waits
        left = journal.totals().ops
        if not left:
            return Drained(before, 0)
        if time.monotonic() >= until:
            return Drained(before, left, reason, busy)
        time.sleep(PAUSE_S)


# ---- giving up


class Discarded(NamedTuple):
    """How many writes were given up, and the files that hold them now."""

    writes: int
    files: list[Path]


@contextmanager
def drain_lock(data_dir: Path, *, timeout_s: float) -> Generator[None]:
    """The lock for replaying in a directory; `Unavailable("locked")` when it stays taken."""
    lock = FileLock(data_dir / "drain.lock")
    until = time.monotonic() + timeout_s
    while True:
        with usable(data_dir):
            if lock.acquire():
                break
        if time.monotonic() >= until:
            raise Unavailable(
                f"another process is replaying the journal in {data_dir}",
                code="locked",
                hint="try again; or stop the app first",
            )
        time.sleep(PAUSE_S)
    try:
        yield
    finally:
        lock.release()


def select(journal: Journal, ids: Sequence[int] | None) -> list[int]:
    """The ids of these that are pending, all of them for None, oldest first.

    ConfigError("batch_split") when only some writes of an all-or-nothing batch are named.
    """
    wanted = None if ids is None else set(ids)
    found: list[int] = []
    for unit in _units(journal):
        of_unit = [pending.id for pending in unit]
        chosen = of_unit if wanted is None else [one for one in of_unit if one in wanted]
        if chosen and len(chosen) < len(of_unit):
            rest = ", ".join(str(one) for one in of_unit if one not in chosen)
            raise ConfigError(
                f"write {chosen[0]} is part of an all-or-nothing batch",
                code="batch_split",
                hint=f"name its other writes too: {rest}",
            )
        found += chosen
    return found


def _units(journal: Journal) -> Iterator[list[Pending]]:
    """Single writes and whole batches, in order; read in pages, without cutting a batch."""
    held_back: list[Pending] = []
    for pending in journal.everything():
        held_back.append(pending)
        if len(units(held_back[-2:])) == 2:
            yield held_back[:-1]
            held_back = held_back[-1:]
    if held_back:
        yield held_back


def discard(journal: Journal, data_dir: Path, ids: Sequence[int]) -> Discarded:
    """Write these pending writes, contents included, into files beside the journal; then drop them.

    A file is on disk before its writes leave the journal, and they leave it for good.  After a
    kill in between, writes are in both, and the same call again gives them up.  The caller has the
    lock.
    """
    wanted = set(ids)
    done = Discarded(0, [])
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    for page in _pages(journal, wanted):
        number = len(done.files) + 1
        name = DISCARDED.replace("*", stamp + (f"-{number}" if number > 1 else ""))
        with usable(data_dir):
            write_atomic(data_dir / name, _file(journal, page).encode())
        journal.remove(page, durable=True)
        done = Discarded(done.writes + len(page), [*done.files, data_dir / name])
    return done


def _pages(journal: Journal, wanted: set[int]) -> Iterator[list[Pending]]:
    page: list[Pending] = []
    size = 0
    for unit in _units(journal):
        chosen = [pending for pending in unit if pending.id in wanted]
        grown = sum(len(one.op.body or "") + len(one.op.base or "") for one in chosen)
        if page and (len(page) + len(chosen) > MAX_FILE_OPS or size + grown > MAX_FILE_BYTES):
            yield page
            page, size = [], 0
        page += chosen
        size += grown
    if page:
        yield page


def _file(journal: Journal, page: Sequence[Pending]) -> str:
    history = journal.history()
    head = {
        "discarded_at": datetime.now(UTC).isoformat(),
        "directory": journal.directory,
        "database": history.display if history else None,
        "identity": history.identity if history else None,
    }
    writes = ",\n".join(_line(pending) for pending in page)
    return encode(head)[:-1] + f',"writes":[\n{writes}\n]}}\n'


def _line(pending: Pending) -> str:
    """One write as JSON, its contents with their exact text."""
    op = pending.op
    head: dict[str, Any] = {
        "id": pending.id,
        **about(op),
        "pointer": op.pointer,
        "if_version": op.if_version,
    }
    head |= {"group": op.group, "seen": op.seen}
    if op.ttl_us is not None:
        head["ttl_s"] = "kept" if op.ttl_us == KEEP_EXPIRY else op.ttl_us / 1e6
    text = encode(head)[:-1]
    for name, content in (("body", op.body), ("base", op.base)):
        if content is not None:
            text += f',"{name}":{content}'
    return text + "}"


def about(op: Op) -> dict[str, str | int | None]:
    """What is shown of a pending write: everything but contents."""
    return {
        "acknowledged_at": from_microseconds(op.at_us).isoformat(),
        "lane": op.lane,
        "seq": op.seq,
        "kind": op.kind,
        "collection": op.collection,
        "key": op.key,
    }


class LocalDocument(NamedTuple):
    """A document as a data directory knows it.

    `text` is its JSON, None where there is none; `age_s` how long ago the primary returned it, None
    if it never did; `pending` how many pending writes are in it.
    """

    text: str | None
    source: str
    age_s: float | None
    pending: int


def read_locally(settings: Settings, collection: str, key: str) -> LocalDocument:
    """Read it without asking the database.

    `Unavailable("not_mirrored")` where nothing is known of the key, which does not mean that it is
    missing; ConfigError where the directory keeps nothing of a primary.
    """
    if settings.target.kind == "sqlite" or not look(settings.data_dir).journal:
        raise ConfigError(
            f"{settings.data_dir} keeps nothing of a PostgreSQL database",
            code="no_primary",
            hint="run this with the STANDFAST_DATA_DIR and DATABASE_URL of the app",
        )
    with opened_local_state(settings) as local_state:
        view = local_state.read_local(collection, key)
        pending = local_state.journal.count_at(collection, key, limit=1000)
    return LocalDocument(
        text=view.text,
        source="journal" if pending and not view.seen_us else view.source,
        age_s=age_s(view.seen_us) if view.seen_us else None,
        pending=pending,
    )
