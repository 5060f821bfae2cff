"""`standfast doctor`: what can be wrong around a store, each check with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from standfast.admin.checks import Check, checked, failed, files, primary
from standfast.admin.checks import collections as tables
from standfast.admin.checks.primary import tls
from standfast.admin.data_dir import Local
from standfast.admin.evidence import Evidence, gather
from standfast.admin.primary import Primary, connected
from standfast.backends.postgres.backend import PostgresBackend
from standfast.config.settings import EMBEDDED_FILE, Settings
from standfast.engine import journal, mirror
from standfast.errors import StandfastError

__all__ = ["Check", "Report", "examine", "tls"]


class Report(msgspec.Struct, frozen=True):
    """All checks, and the error of a database that could not be asked."""

    checks: list[Check]
    failure: StandfastError | None

    @property
    def green(self) -> bool:
        """Whether every check is ok."""
        return all(check.verdict == "ok" for check in self.checks)


def examine(settings: Settings) -> Report:
    """Run every check; those that need the database only when it answers.

    Changes nothing: what is written to try a collection is rolled back.
    """
    whole = list(_whole(settings))  # first: whoever opens a damaged mirror begins another
    evidence = gather(settings)
    found = evidence.primary
    checks = [
        *checked("url", lambda: files.url(settings, Path.cwd())),
        *checked("connection", lambda: primary.connection(settings, evidence)),
    ]
    if isinstance(found, Primary):
        checks += _database(settings, evidence, found)
    checks += [*_directory(settings, evidence), *whole]
    return Report(checks, found if isinstance(found, StandfastError) else None)


def _database(settings: Settings, evidence: Evidence, found: Primary) -> Iterator[Check]:
    local = evidence.local
    yield from checked("server", lambda: primary.server(settings, found))
    if found.server is None:
        yield from checked("schema", lambda: primary.embedded_schema(found))
    else:
        try:
            with connected(settings) as backend:
                assert isinstance(backend, PostgresBackend), "a server has PostgreSQL's backend"
                yield from _on(backend, settings, evidence, found)
        except StandfastError as error:
            yield failed("connection", error)
        if isinstance(local, Local):
            yield from checked("history", lambda: primary.history(settings, local, found))
        yield from checked("locks", lambda: primary.locks(evidence))
        yield from checked("writers", lambda: primary.writers(evidence))
    yield from checked("conflicts", lambda: primary.conflicts(found))


def _on(
    backend: PostgresBackend, settings: Settings, evidence: Evidence, found: Primary
) -> Iterator[Check]:
    """The checks that ask the server themselves."""
    yield from checked("schema", lambda: primary.schema(backend, found))
    yield from checked("collections", lambda: tables.collections(backend, evidence))
    yield from checked("transactions", lambda: primary.snapshots(backend))
    yield from checked("pooler", lambda: primary.pooler(backend))


def _directory(settings: Settings, evidence: Evidence) -> Iterator[Check]:
    data_dir, local = settings.data_dir, evidence.local
    yield from checked("directory", lambda: files.used(evidence))
    if (hidden := evidence.hidden) is not None:
        yield from checked(EMBEDDED_FILE, lambda: files.embedded(hidden))
    if isinstance(local, Local):
        yield from checked("pending", lambda: files.pending(local))
        yield from checked("local files", lambda: files.local_files(local))
        yield from checked("processes", lambda: files.processes(evidence, local))
    else:
        yield failed("local files", local)
    yield from checked("refused", lambda: tables.held(evidence))
    yield from checked("migrations", lambda: files.runs(evidence))
    yield from checked("backup", lambda: files.backups(evidence))
    yield from checked("sqlite", files.sqlite_version)
    yield from checked("data directory", lambda: files.disk(data_dir))
    yield from checked("owner", lambda: files.owner(data_dir))
    yield from checked("privacy", lambda: files.privacy(data_dir))
    yield from checked("space", lambda: files.space(evidence))


def _whole(settings: Settings) -> Iterator[Check]:
    if settings.target.kind == "sqlite":
        path = Path(settings.target.path)
        yield from checked(
            path.name, lambda: files.integrity(path, "the database", disposable=False)
        )
        return
    known = (
        (journal.FILE, "the journal", False),
        (mirror.FILE, "the mirror", True),
    )
    for name, what, disposable in known:
        path = settings.data_dir / name
        yield from checked(name, lambda p=path, w=what, d=disposable: _one(p, w, d))


def _one(path: Path, what: str, disposable: bool) -> Check:
    return files.integrity(path, what, disposable=disposable)
