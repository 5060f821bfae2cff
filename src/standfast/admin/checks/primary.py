"""Checks of the database: reachable, safe settings, schema, history, locks, conflicts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import msgspec

from standfast.admin.checks import Check, failed
from standfast.admin.conflicts import open_conflicts
from standfast.admin.data_dir import Local
from standfast.admin.evidence import Evidence
from standfast.admin.primary import Primary
from standfast.backends.base import SCHEMA_VERSION
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.handshake import is_pooled
from standfast.backends.postgres.inspect import Session, long_snapshots, may_create
from standfast.backends.postgres.schema import ServerFacts
from standfast.config.settings import Settings, is_public
from standfast.engine.outages import duration
from standfast.errors import StandfastError
from standfast.ops.types import from_microseconds

#: How long it is shown that the database went back in time.
NOTICE_S = 7 * 86_400.0
#: A clock that is further off makes ages, outage `ttl_s` and `on_conflict="newest"` wrong.
MAX_CLOCK_DIFFERENCE_S = 60.0
#: Things that one check names at the most.
MOST_NAMED = 5
#: A transaction that is open for longer keeps the server from removing old versions of rows.
LONG_SNAPSHOT_S = 300.0
_OTHER = "correct the URL; if the journal is meant for this database, adopt it"
ADOPT = "standfast doctor --adopt"


def connection(settings: Settings, evidence: Evidence) -> Check:
    """Whether the database answers, and under which setting it was named."""
    found = evidence.primary
    if isinstance(found, StandfastError):
        check = failed("connection", found)
        if found.code == "no_identity":
            check = msgspec.structs.replace(check, command=_identity(evidence.local))
        return check
    return Check("connection", "ok", f"{settings.target.display} ({settings.source})")


def _identity(local: Local | StandfastError) -> str:
    """The SQL that gives a database its identity back: the one that this directory knows."""
    known = local.history if isinstance(local, Local) else None
    if known is None or not known.identity:
        return "INSERT INTO standfast.identity DEFAULT VALUES"
    return (
        "INSERT INTO standfast.identity (identity, epoch)"
        f" VALUES ('{known.identity}', {known.epoch})"
    )


def server(settings: Settings, primary: Primary) -> Iterator[Check]:
    """Version and encoding of the server, how durable its commits are, its clock, and so on."""
    facts = primary.server
    if facts is not None:
        yield Check("server", "ok", f"PostgreSQL {facts.version}, {facts.encoding}")
        yield installed(primary)
        yield triggers(primary)
        yield tls(settings, encrypted=facts.encrypted)
        yield durability(facts)
        yield clock(facts.clock_ahead_s)


def schema(backend: PostgresBackend, primary: Primary) -> Check:
    """The version of the bookkeeping; where there is none, whether this role may make it."""
    found = f"version {primary.schema} of {SCHEMA_VERSION}"
    if primary.schema == SCHEMA_VERSION:
        return Check("schema", "ok", found)
    if primary.schema:
        hint = "apply it, or give a DBA the output of standfast schema sql"
        return Check("schema", "warn", found, hint, "standfast schema apply")
    with backend.connection("asking for rights", time.monotonic() + 5.0) as conn:
        missing = may_create(conn, backend.target.schema or "public")
    if missing:
        found = "none yet, and this role may not create it: the first write will fail"
        hint = "let a DBA run this, or the output of standfast schema sql"
        return Check("schema", "fail", found, hint, "; ".join(missing))
    return Check("schema", "ok", "none yet; the first write creates it")


def embedded_schema(primary: Primary) -> Check:
    """The same of a SQLite file."""
    found = f"version {primary.schema} of {SCHEMA_VERSION}"
    return Check(
        "schema", "ok", found if primary.schema else "none yet; the first write creates it"
    )


def durability(facts: ServerFacts) -> Check:
    """Whether what the server confirms survives a crash of its machine."""
    for name, value in (("fsync", facts.fsync), ("full_page_writes", facts.full_page_writes)):
        if value == "off":
            found = f"{name} is off: a crash of the server's machine can lose or damage everything"
            command = f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()"
            return Check("durability", "fail", found, f"switch {name} on at the server", command)
    if facts.synchronous_commit == "off":
        return Check(
            "durability",
            "warn",
            "synchronous_commit is off for this role: standfast switches it on for its own writes,"
            " what others write with this role can be lost in a crash",
            "switch it on for the role and for the database",
            "ALTER ROLE ... SET synchronous_commit = on",
        )
    return Check("durability", "ok", f"synchronous_commit is {facts.synchronous_commit}")


def clock(ahead_s: float) -> Check:
    """The server's clock against this machine's."""
    if abs(ahead_s) <= MAX_CLOCK_DIFFERENCE_S:
        return Check("clock", "ok", f"differs from the server's by {abs(ahead_s):.1f} s")
    which = "behind" if ahead_s > 0 else "ahead of"
    return Check(
        "clock",
        "warn",
        f"this machine's clock is {abs(ahead_s):.0f} s {which} the server's",
        "synchronise both (NTP): during an outage ages and ttl_s are measured by this machine's",
        "timedatectl set-ntp true",
    )


def tls(settings: Settings, *, encrypted: bool) -> Check:
    """How the connection is protected: what the URL asks for, and what there is."""
    params = settings.target.params
    mode = params.get("sslmode") or os.environ.get("PGSSLMODE", "").strip() or "prefer"
    if mode in ("verify-full", "verify-ca") and encrypted:
        return Check("tls", "ok", f"encrypted, and the server's certificate is checked ({mode})")
    if is_public(params, os.environ):
        found = "encrypted, but the server is not verified" if encrypted else "not encrypted"
        hint = "write sslmode=verify-full and sslrootcert= into the URL"
        return Check("tls", "warn", f"{found} (sslmode {mode}, a public host)", hint)
    found = "encrypted" if encrypted else "not encrypted"
    return Check("tls", "ok", f"{found} (sslmode {mode}, a private host)")


def installed(primary: Primary) -> Check:
    """Whether the bookkeeping's functions, policies and triggers are as they were installed."""
    if not primary.differences:
        return Check("installation", "ok", "functions, policies and triggers are as installed")
    found = primary.differences
    more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    hint = "give a DBA the output of standfast schema sql --role; see docs/security.md"
    return Check("installation", "warn", "; ".join(found[:MOST_NAMED]) + more, hint)


def triggers(primary: Primary) -> Check:
    """What may fail in sessions of ours although it works in others: see docs/security.md."""
    found = primary.triggers
    if not found:
        return Check("triggers", "ok", "no trigger of yours depends on a search path")
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    which = ", ".join(found[:MOST_NAMED])
    return Check("triggers", "ok", f"names need their schema in the functions of {which}{more}")


def pooler(backend: PostgresBackend) -> Check:
    """Whether each transaction may run in another session."""
    with backend.connection("asking for a pooler", time.monotonic() + 5.0) as conn:
        pooled = is_pooled(conn)
    if pooled:
        return Check("pooler", "ok", "a transaction pooler: no session state is used")
    return Check("pooler", "ok", "none: each connection has a session of its own")


def history(settings: Settings, local: Local, primary: Primary) -> Check:
    """Whether this is the database that the journal belongs to, and as it was (I9, I10)."""
    known = local.history
    if not local.journal or known is None:
        return Check("history", "ok", "the data directory does not belong to a database yet")
    held = local.held(primary.server_identity, display=settings.target.display)
    why = local.lost(primary.server_identity)
    if held == "went_back":
        found = f"went_back: the database went back in time ({why}); {local.ops} writes are held"
        hint = "to use it as it is now: stop the app, then standfast doctor --adopt"
        return Check("history", "fail", found, hint, ADOPT)
    if why:
        found = f"went_back: the database went back in time ({why}), and nothing is pending"
        return Check("history", "warn", found, "the next open uses it as it is now")
    if known.is_of(primary.server_identity):
        return _went_back(local) or Check(
            "history", "ok", f"the journal belongs to this database ({known.identity})"
        )
    if held is None:
        found = "a new database, and nothing is pending: the next open switches to it"
        return Check("history", "ok", found)
    found = (
        f"other_database: the journal belongs to {known.identity} at {known.display}, and another"
        " database answers; nothing is replayed into it"
    )
    return Check("history", "fail", found, f"{_OTHER}: standfast doctor --adopt", ADOPT)


def _went_back(local: Local) -> Check | None:
    """What was noticed of it lately, and is decided."""
    notice = local.notice
    if notice is None or time.time() - notice.at_us / 1e6 > NOTICE_S:
        return None
    when = from_microseconds(notice.at_us).strftime("%Y-%m-%d %H:%M UTC")
    found = f"went_back: on {when} the database went back in time ({notice.why})"
    hint = "nothing has to be done"
    if notice.regained:
        hint = f"{notice.regained} confirmed writes that it lost were sent again"
    if notice.saved:
        hint = f"what it confirmed shortly before is in {', '.join(notice.saved)}: compare"
    return Check("history", "ok", f"{found}; {hint}")


def conflicts(primary: Primary) -> Check:
    """Conflicts that wait for a decision."""
    count = open_conflicts(primary.conflicts)
    if not count:
        return Check("conflicts", "ok", "none is open")
    hint = "look at each (standfast conflicts show ID) and decide it"
    return Check("conflicts", "warn", f"{count} open", hint, "standfast conflicts list")


def locks(evidence: Evidence) -> Check:
    """Sessions of others that hold locks on tables of collections."""
    found = evidence.blockers
    if isinstance(found, StandfastError):
        return failed("locks", found)
    if not found:
        return Check("locks", "ok", "no other session holds a table of a collection")
    first = found[0]
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    text = f"`{first.what}` is locked by {_session(first)}{more}"
    hint = "end that transaction where it was begun; or end the session"
    return Check("locks", "warn", text, hint, f"SELECT pg_terminate_backend({first.pid})")


def snapshots(backend: PostgresBackend) -> Check:
    """Transactions that are open for long: they make every write slower, and hold changes back."""
    with backend.connection("asking for transactions", time.monotonic() + 5.0) as conn:
        found = long_snapshots(conn, older_than_s=LONG_SNAPSHOT_S)
    if not found:
        return Check("transactions", "ok", "no other transaction has been open for long")
    first = found[0]
    return Check(
        "transactions",
        "warn",
        f"a transaction is open in {_session(first)}: old versions of rows cannot be removed, and"
        " writes become slower",
        "end that transaction where it was begun; or end the session",
        f"SELECT pg_terminate_backend({first.pid})",
    )


def _session(one: Session) -> str:
    name = f" ({one.application})" if one.application else ""
    kind = f", last statement {one.statement}" if one.statement else ""
    return (
        f"session {one.pid}{name} of role {one.role} for {duration(one.age_s)} ({one.state}{kind})"
    )


def writers(evidence: Evidence) -> Check:
    """Which data directories wrote to this database in the last day."""
    found, local = evidence.directories, evidence.local
    if isinstance(found, StandfastError):
        return failed("writers", found)
    own = local.directory if isinstance(local, Local) else ""
    others = [one for one in found if one.id != own]
    if not others:
        return Check("writers", "ok", "no other data directory wrote here in the last day")
    ago = duration(others[0].last_write_s_ago)
    text = f"{len(others)} other data directory(ies) wrote here in the last day, {ago} ago the last"
    return Check("writers", "ok", text)
