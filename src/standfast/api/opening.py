"""From settings to an open store: which backend, in which file or database."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from standfast.api.aio import AsyncStore, Opening
from standfast.api.sync import Store
from standfast.backends.base import Backend
from standfast.backends.memory import MemoryBackend, MemoryServer
from standfast.config.settings import EMBEDDED_FILE, Settings, Target, load_settings
from standfast.engine.embedded import EmbeddedEngine
from standfast.engine.interfaces import Engine
from standfast.engine.local_state import OutageOptions
from standfast.engine.reserve import Reserve
from standfast.errors import ConfigError, Unavailable
from standfast.limits import MAX_CONNECTIONS
from standfast.system.disks import CONTAINER, NETWORK, VOLATILE, filesystem_of, mounts
from standfast.system.platform import at_fork

if TYPE_CHECKING:
    from standfast.backends.sqlite.backend import SqliteBackend

logger = logging.getLogger("standfast")

#: The engines of this process; one that was closed does nothing when it is closed again.
_open: weakref.WeakSet[Engine] = weakref.WeakSet()
#: How long the end of the program waits for what is still on its way.
EXIT_TIMEOUT_S = 0.5
#: A database that ends with its store.
MEMORY_URL = "memory://"


_CHOICES = {
    "fallback": ("read-write", "read-only", "off"),
    "local_durability": ("normal", "full"),
    "on_time_travel": ("reapply", "hold"),
    "on_conflict": ("mine", "theirs", "newest"),
}


def outage_options(**given: Any) -> OutageOptions:
    """The options of a store by their names, judged; ConfigError names the one that is wrong.

    A limit that is None has its default.
    """
    chosen: dict[str, Any] = {
        name: value
        for name, value in given.items()
        if value is not None or not name.startswith("max_")
    }
    for name, value in chosen.items():
        if name.startswith("max_") and not value > 0:
            raise ConfigError(
                f"{name}={value!r} is not a limit", code="usage", hint="give more than 0"
            )
    for name, value in chosen.items():
        choices = _CHOICES.get(name, (value,))
        if value not in choices and not (name == "on_conflict" and callable(value)):
            raise ConfigError(
                f"{name}={value!r} is not known", code="usage", hint=f"one of {', '.join(choices)}"
            )
    return OutageOptions(**chosen)


def open_store(
    url: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    deadline_s: float | None = None,
    options: OutageOptions | None = None,
) -> Store:
    """Open a store: the one that `standfast.open` describes."""
    open_it, reopen = _ways_to_open(url, data_dir, deadline_s, options or OutageOptions())
    return Store(open_it(), reopen)


def open_async_store(
    url: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    deadline_s: float | None = None,
    options: OutageOptions | None = None,
) -> Opening:
    """Open an asynchronous store: the one that `standfast.open_async` describes."""

    async def opened() -> AsyncStore:
        open_it, reopen = _ways_to_open(url, data_dir, deadline_s, options or OutageOptions())
        return AsyncStore(open_it() if reopen is None else await _open_in_thread(open_it), reopen)

    return Opening(opened)


def _ways_to_open(
    url: str | None,
    data_dir: str | os.PathLike[str] | None,
    deadline_s: float | None,
    options: OutageOptions,
) -> tuple[Callable[[], Engine], Callable[[], Engine] | None]:
    """How the engine is opened, and how again in a forked child; None: there it is another's."""
    if url is not None and url.strip() == MEMORY_URL:
        return lambda: _in_memory(data_dir, deadline_s, options), None
    settings = load_settings(url, data_dir=data_dir, deadline_s=deadline_s)

    def open_it() -> Engine:
        return open_engine(settings, options)

    return open_it, open_it


async def _open_in_thread(open_it: Callable[[], Engine]) -> Engine:
    """The engine, opened in a thread; a caller that is cancelled meanwhile leaves none open."""
    lock = threading.Lock()
    opened: list[Engine] = []
    wanted = True

    def work() -> Engine:
        engine = open_it()
        with lock:
            opened.append(engine)
            unwanted = not wanted
        if unwanted:
            engine.close(0.0)
        return engine

    try:
        return await asyncio.to_thread(work)
    except BaseException:
        with lock:
            wanted = False
            abandoned = list(opened)
        for engine in abandoned:
            threading.Thread(target=engine.close, args=(0.0,), name="standfast-close").start()
        raise


def _in_memory(
    data_dir: str | os.PathLike[str] | None, deadline_s: float | None, options: OutageOptions
) -> Engine:
    """An empty database in memory, of this store alone; with a data directory as if elsewhere."""
    if data_dir is None:
        return _registered(EmbeddedEngine(MemoryBackend()))
    from standfast.engine.local_state import LocalState
    from standfast.engine.replicated import ReplicatedEngine

    # Judged as those of any store; the file that is named here is never made.
    settings = load_settings("sqlite:///none.db", data_dir=data_dir, deadline_s=deadline_s)
    server = cast("Backend", MemoryServer())
    local_state = LocalState(settings.data_dir, options, display=server.display)
    engine = ReplicatedEngine(server, local_state, deadline_s=settings.deadline_s)
    engine.start()
    return _registered(engine)


def open_engine(settings: Settings, options: OutageOptions) -> Engine:
    """The engine of these settings, with its threads running."""
    from standfast.engine.reserve import Reserve

    for warning in settings.target.warnings:
        logger.warning("%s: %s", settings.source, warning)
    for warning in _set_up_warnings(settings):
        logger.warning("%s", warning)
    try:
        engine = _opened(settings, options)
    except Unavailable as error:
        # By a quota, say: the disk itself has room.
        may_be_full = error.code in ("disk_full", "disk_error")
        if not may_be_full or not Reserve(settings.data_dir).give_up():
            raise
        engine = _opened(settings, options)
    logger.info(
        "opened %s, data directory %s", engine.primary.display, settings.data_dir.absolute()
    )
    return _registered(engine)


def _opened(settings: Settings, options: OutageOptions) -> Engine:
    from standfast.backends.sqlite.errors import mapped

    backend = backend_for(settings.target, max_connections=options.max_connections)
    try:
        with mapped(f"opening the data directory {settings.data_dir}"):
            return _engine_for(settings, options, backend)
    except BaseException:
        backend.close()
        raise


def _registered(engine: Engine) -> Engine:
    """The engine, which is closed at the end of the program if nobody has done so."""
    _open.add(engine)
    return engine


def _engine_for(settings: Settings, options: OutageOptions, backend: Backend) -> Engine:
    if settings.target.kind == "sqlite":
        refuse_mirror(settings)
        backend.check()
        return _embedded(settings, cast("SqliteBackend", backend))
    from standfast.engine.local_state import LocalState
    from standfast.engine.replicated import ReplicatedEngine

    refuse_to_hide(settings)
    local_state = LocalState(settings.data_dir, options, display=backend.display)
    try:
        engine = ReplicatedEngine(backend, local_state, deadline_s=settings.deadline_s)
    except BaseException:
        local_state.close()
        raise
    engine.start()
    return engine


def _embedded(settings: Settings, backend: SqliteBackend) -> Engine:
    """The engine of a local file; a reserve is kept for one in the data directory alone."""
    is_ours = backend.path.parent == settings.data_dir.absolute()
    reserve = Reserve(settings.data_dir) if is_ours else None
    return EmbeddedEngine(backend, reserve=reserve, make_room=backend.make_room)


def _set_up_warnings(settings: Settings) -> Iterator[str]:
    """What is probably not meant: files that a restart takes away."""
    kind = filesystem_of(settings.data_dir, mounts())
    where = settings.data_dir.absolute()
    if kind in VOLATILE:
        yield f"{where} is on {kind}: a restart of the machine deletes what is kept there"
    elif kind in CONTAINER:
        yield f"{where} is inside a container ({kind}): mount a volume there, or a new one lacks it"
    elif kind in NETWORK:
        yield f"{where} is on a network file system ({kind}): SQLite's locks are not safe there"


def _close_all() -> None:
    """Close what was left open when the program ends, within bounds: it must not hang."""
    for engine in list(_open):
        engine.close(EXIT_TIMEOUT_S)


def _forget_all() -> None:
    _open.clear()  # in a forked child: these are the parent's


atexit.register(_close_all)
at_fork(in_child=_forget_all)


def backend_for(target: Target, *, max_connections: int = MAX_CONNECTIONS) -> Backend:
    """The backend of a target; nothing is opened yet.  psycopg is imported only for PostgreSQL."""
    if target.kind == "sqlite":
        from standfast.backends.sqlite.backend import SqliteBackend

        return SqliteBackend(target.path)
    from standfast.backends.postgres.backend import PostgresBackend

    return PostgresBackend(target, max_connections=max_connections)


@contextmanager
def opened_backend(settings: Settings) -> Generator[Backend]:
    """The backend of these settings, looked at, and closed at the end."""
    with closing(backend_for(settings.target)) as backend:
        backend.check()
        yield backend


def refuse_other(settings: Settings) -> None:
    """Refuse a database that is not the one which the app of this data directory uses."""
    (refuse_mirror if settings.target.kind == "sqlite" else refuse_to_hide)(settings)


def refuse_mirror(settings: Settings) -> None:
    """Refuse to begin an embedded database beside the mirror of a PostgreSQL database.

    That database's documents would seem to have vanished, and its pending writes would stay behind.
    """
    path = embedded_path(settings)
    if Path(settings.target.path).absolute() != path.absolute():
        return  # another file, which the URL names
    from standfast.engine.local_state import knows_a_primary

    if knows_a_primary(settings.data_dir) and not _documents(path):
        raise ConfigError(
            f"{settings.data_dir} holds the mirror of a PostgreSQL database, and no URL names one",
            code="mirror_file",
            hint="set DATABASE_URL again; or use another data directory (STANDFAST_DATA_DIR)",
        )


def refuse_to_hide(settings: Settings) -> None:
    """Refuse a PostgreSQL URL while the data directory holds documents of an embedded database.

    They would seem to have vanished, and two histories would grow apart.  An older program's file
    in that place is not in the way: what it holds is named in the log.
    """
    path = embedded_path(settings)
    if count := _documents(path, ours=False):
        logger.warning(
            "%s holds %d documents of an older program, which are not read here.  To move them:"
            " standfast export COLLECTION --to sqlite:///%s -o FILE, then standfast migrate FILE"
            " --collection COLLECTION; afterwards rename it",
            *(path, count, path),
        )
    if hidden := hidden_documents(settings):
        raise hidden


def hidden_documents(settings: Settings) -> ConfigError | None:
    """The error of a PostgreSQL URL beside documents of an embedded database; None without any."""
    path = embedded_path(settings)
    if settings.target.kind == "sqlite" or not (count := _documents(path)):
        return None
    return ConfigError(
        f"{settings.source} names PostgreSQL, but {path} is an embedded database with"
        f" {count} documents, which would be hidden",
        code="embedded_data",
        hint="to move them: standfast promote; or use another data directory (STANDFAST_DATA_DIR)",
    )


def _documents(path: Path, *, ours: bool = True) -> int:
    """The number of documents in an embedded database, or in an older program's file; 0 in none."""
    if not path.exists():
        return 0
    from standfast.backends.sqlite.backend import SqliteBackend

    try:
        with closing(SqliteBackend(path)) as backend:
            if (backend.identity() is not None) is not ours:
                return 0
            return sum(backend.count(name) for name in backend.collections())
    except ConfigError as error:
        if error.code != "not_ours":
            raise
        return 0  # another program's file, which stays as it is


def embedded_path(settings: Settings) -> Path:
    """Where the embedded database of a data directory is."""
    return settings.data_dir / EMBEDDED_FILE
