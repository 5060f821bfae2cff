"""One check for each collection: its table, its shape, the rights on it, and a tried write."""

from __future__ import annotations

import time
from collections.abc import Iterator

from standfast.admin.checks import Check, failed
from standfast.admin.evidence import Evidence
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.inspect import (
    collection_tables,
    current_role,
    grant,
    missing_rights,
    try_write,
)
from standfast.backends.postgres.tables import Table, find_table
from standfast.errors import StandfastError

#: Collections that are checked one by one; of more the first so many.
MAX_CHECKED = 200
_SECONDS = 5.0


def collections(backend: PostgresBackend, evidence: Evidence) -> Iterator[Check]:
    """A check for each collection that is not in order, or one for all of them."""
    names = _names(backend, evidence)
    found = [check for name in names[:MAX_CHECKED] if (check := _collection(backend, name))]
    yield from found
    if all(check.verdict == "ok" for check in found):
        more = f" (the first {MAX_CHECKED} of {len(names)})" if len(names) > MAX_CHECKED else ""
        text = f"{min(len(names), MAX_CHECKED)} checked{more}: rights, shape, and a tried write"
        yield Check("collections", "ok", text if names else "there is none yet")


def _names(backend: PostgresBackend, evidence: Evidence) -> list[str]:
    with backend.connection("listing the collections", time.monotonic() + _SECONDS) as conn:
        by_catalog = collection_tables(conn)
    named = set(backend.collections(deadline=time.monotonic() + _SECONDS)) | set(by_catalog)
    for seen in evidence.alive:
        named.update(one.collection for one in seen.report.refusals)
    return sorted(named)


def _collection(backend: PostgresBackend, name: str) -> Check | None:
    """What is wrong with this collection, or should be known of it; None when it is in order."""
    label = f"`{name}`"
    schema = backend.target.schema or "public"
    try:
        with backend.connection(f"looking at {label}", time.monotonic() + _SECONDS) as conn:
            table = find_table(conn, name, schema, backend.target.trust)
            if table is None:
                return None  # made by the first write
            missing = missing_rights(conn, table.schema, table.name)
            role = current_role(conn) if missing else ""
        if missing:
            found = f"the role {role} lacks {', '.join(missing)} on its table: writes fail"
            hint = "let its owner or a DBA run this"
            return Check(label, "fail", found, hint, grant(table, missing, role))
        return _tried(backend, name, table)
    except StandfastError as error:
        return failed(label, error)


def _tried(backend: PostgresBackend, name: str, table: Table) -> Check | None:
    try:
        with backend.connection(f"a tried write to `{name}`", time.monotonic() + _SECONDS) as conn:
            refusal = try_write(conn, table)
    except StandfastError as error:
        if error.code == "locked":
            return Check(
                f"`{name}`", "warn", f"{error.message}: not tried", "see the check of locks"
            )
        return failed(f"`{name}`", error)
    if not refusal:
        return None
    # A rule of the table's owner: the writes of the app may well keep it.
    found = f"{refusal}, and every write of the app that breaks this rule"
    return Check(f"`{name}`", "ok", found)


def held(evidence: Evidence) -> Iterator[Check]:
    """What a running app says of its writes: refused ones, and collections that are held."""
    found = False
    local = evidence.local
    notes = {} if isinstance(local, StandfastError) else local.collections
    for name, note in sorted(notes.items()):
        found = True
        hint = note.hint or "repair it: the writes are sent by themselves then"
        yield Check("held", "fail", note.sentence(name), hint)
    known = {note.sentence(name) for name, note in notes.items()}
    for seen in evidence.alive:
        for one in seen.report.refusals:
            found = True
            text = f"writes to `{one.collection}` are refused ({one.count} so far): {one.message}"
            yield Check("refused", "fail", text, one.hint or "see the checks of this collection")
        for text in dict.fromkeys(one for one in seen.report.problems if one not in known):
            found = True
            yield Check("held", "fail", text, "repair it: the writes are sent by themselves then")
    if not found:
        yield Check("refused", "ok", "no running app reports refused or held writes")
