"""`standfast status`: the state of a store, from its files and one connection to its database."""

from __future__ import annotations

import msgspec

from standfast.admin.data_dir import LaneSeen, Local, look
from standfast.admin.primary import Primary, reach
from standfast.backends.base import SCHEMA_VERSION
from standfast.config.settings import Settings
from standfast.errors import StandfastError
from standfast.ops.types import ServerIdentity, from_microseconds


class Identity(msgspec.Struct, frozen=True):
    """Which database it is: its history and, for PostgreSQL, its system identifier, OID, name."""

    identity: str | None
    system: str
    database: str = ""
    name: str = ""


class Versions(msgspec.Struct, frozen=True):
    """Versions of the library, of the schema it knows and the one that is there, of the server."""

    library: str
    schema_known: int
    schema: int | None = None
    server: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How a store is doing, as far as that is known outside its process.

    `state`: `direct` (the primary answers, nothing is pending), `draining` (it answers, something
    is), `journaling` (it does not answer), or why the journal is not replayed: `other_database`,
    `went_back`, `journal_old`.  `code` is that of the error when the primary does not answer.
    `lag_ops` acknowledged writes wait for it, the oldest for `lag_s` seconds.  `conflicts` counts
    them by state; it and `database` are None when the primary does not answer.
    """

    state: str
    cause: str
    code: str | None
    kind: str
    primary: str
    lag_ops: int
    lag_bytes: int
    lag_s: float
    spooled: int
    oldest_pending: str | None
    conflicts: dict[str, int] | None
    lanes: tuple[LaneSeen, ...]
    history: Identity | None
    database: Identity | None
    versions: Versions
    data_dir: str
    mirrored: int | None

    @property
    def open_conflicts(self) -> int:
        """Conflicts that wait for a decision."""
        return (self.conflicts or {}).get("open", 0)


class Seen(msgspec.Struct, frozen=True):
    """A status, and the error of a database that could not be asked."""

    status: Status
    failure: StandfastError | None


def status_of(settings: Settings, *, library: str) -> Seen:
    """Look at the data directory, and ask the database within the deadline.

    Works while the app is running.  Raises only errors of the files or the settings.
    """
    local = look(settings.data_dir)
    found = reach(settings, lanes=sorted(local.expected))
    failure = found if isinstance(found, StandfastError) else None
    if settings.target.kind == "sqlite" and failure is not None:
        raise failure
    primary = None if isinstance(found, StandfastError) else found
    display = settings.target.display
    state, cause = _state(settings, local, found)
    history = local.history
    status = Status(
        state=state,
        cause=cause,
        code=failure.code if failure else None,
        kind=settings.target.kind,
        primary=display,
        lag_ops=local.ops,
        lag_bytes=local.bytes,
        lag_s=round(local.lag_s, 3),
        spooled=local.spooled,
        oldest_pending=from_microseconds(local.oldest_us).isoformat() if local.oldest_us else None,
        conflicts=primary.conflicts if primary else None,
        lanes=local.lanes,
        history=Identity(history.identity, history.system, history.database, history.name)
        if history
        else None,
        database=_identity(primary.server_identity) if primary else None,
        versions=Versions(
            library,
            SCHEMA_VERSION,
            primary.schema if primary else None,
            primary.server.version if primary and primary.server else None,
        ),
        data_dir=str(settings.data_dir.absolute()),
        mirrored=local.mirrored,
    )
    return Seen(status, failure)


def _identity(found: ServerIdentity) -> Identity:
    return Identity(found.identity, found.system, found.database, found.name)


def _state(settings: Settings, local: Local, found: Primary | StandfastError) -> tuple[str, str]:
    if isinstance(found, StandfastError):
        return "journaling", found.message
    if settings.target.kind == "sqlite":
        return "direct", "an embedded SQLite database, which is always at hand"
    held = local.held(found.server_identity, display=settings.target.display)
    if held == "other_database":
        return held, "the journal belongs to a database other than the one that answers"
    if held == "went_back":
        why = local.lost(found.server_identity)
        return held, f"went_back: the database went back in time ({why}); see standfast doctor"
    if not local.ops:
        return "direct", "everything is on the primary"
    if local.is_old:
        return "journal_old", "the oldest pending write is more than a day old"
    if local.alive:
        return "draining", "the primary answers, and pending writes are being replayed"
    return "draining", "the primary answers; the next process that opens the store replays them"
