"""PostgreSQL's errors as ours: SQLSTATE classes decide, and the text where there is no SQLSTATE.

libpq gives no SQLSTATE when a connection cannot be made; what its messages (and the server's
English ones) say is then looked for, and what is not recognised is a connection that failed.
Source: PostgreSQL documentation, appendix A, "PostgreSQL Error Codes".
"""

from __future__ import annotations

import re

import psycopg

from standfast.errors import ConfigError, DataError, StandfastError, Unavailable

#: Run the transaction again: deadlock, serialization failure, lost race for a new key (23505 and
#: our own SF002).
RETRIED = ("40P01", "40001", "23505", "SF002")

_EXACT: dict[str, tuple[type[StandfastError], str, str]] = {
    "42501": (ConfigError, "no_rights", "ask for the right: `standfast schema sql` prints it"),
    "42P01": (ConfigError, "no_table", "the table was dropped or renamed: restore it"),
    "42703": (ConfigError, "no_column", "the table was changed: restore the column"),
    "3F000": (ConfigError, "no_schema", "create the schema or correct the URL"),
    "3D000": (ConfigError, "no_database", "create the database or correct the URL"),
    "28000": (Unavailable, "auth", "correct the user or the server's pg_hba.conf"),
    "28P01": (Unavailable, "auth", "correct the password in the URL"),
    "25P03": (Unavailable, "shutdown", "the session was idle in its transaction for too long"),
    "25P04": (
        Unavailable,
        "timeout",
        "the server's time limit ended the transaction: look at transaction_timeout of the role and"
        " of the database (ALTER ROLE ... RESET transaction_timeout)",
    ),
    "25006": (Unavailable, "read_only", "this server is a standby or read-only: use the primary"),
    "55P03": (Unavailable, "locked", "another transaction holds a lock on it: try again"),
    "57014": (
        Unavailable,
        "timeout",
        "the server's time limit cut the statement off: look at statement_timeout of the role and"
        " of the database (ALTER ROLE ... RESET statement_timeout)",
    ),
    "53300": (Unavailable, "too_many_connections", "wait, or raise the server's limit"),
    "53100": (Unavailable, "disk_full", "free space on the database server"),
    "SF001": (Unavailable, "expired", "the server was too slow, or its clock jumped: try again"),
    "SF002": (
        Unavailable,
        "contended",
        "look for a trigger on the table that suppresses rows or changes keys",
    ),
    "SF003": (ConfigError, "not_adoptable", "restore the table's columns and triggers"),
    "08P01": (Unavailable, "connection", "the pooler gave up waiting for a server connection"),
    "23502": (ConfigError, "not_adoptable", "give that column of the table a default"),
    "22003": (DataError, "out_of_range", "the table's key column cannot hold this key"),
}
_CLASSES: dict[str, tuple[type[StandfastError], str, str]] = {
    "08": (Unavailable, "connection", "check that the server runs and can be reached"),
    "40": (Unavailable, "retry", "another transaction was in the way: try again"),
    "53": (Unavailable, "resources", "the server is out of a resource"),
    "57": (Unavailable, "shutdown", "the server is starting, stopping or cut the session off"),
    "58": (Unavailable, "server_io", "the database server's disk or system failed"),
    "XX": (Unavailable, "server_internal", "look into the database server's log"),
    "P0": (DataError, "trigger", "a trigger of the table refuses this row"),
    "54": (DataError, "refused", "the document is over a limit of the server"),
    "22": (DataError, "refused", "the table cannot hold this value"),
    "23": (
        DataError,
        "constraint",
        "a constraint of the table refuses this row: change the document, or have the table's owner"
        " change the constraint (ALTER TABLE ... DROP CONSTRAINT)",
    ),
}

_AUTH = (
    Unavailable,
    "auth",
    "correct the user and the password in the URL; or a DBA does, where the role's password has"
    " expired or it may not log in: ALTER ROLE ... LOGIN VALID UNTIL 'infinity'",
)
_OTHER = (Unavailable, "not_postgresql", "something else answers there: check host and port")
_TLS = (ConfigError, "tls", "correct sslmode in the URL, or the server's certificate")
#: A certificate or a protocol was refused.  Whatever else ends a TLS handshake (a reset, an end of
#: file, a failed system call) is a connection that was lost.
_TLS_REFUSED = (
    "(?i)certificate|private key|ssl was required|ssl support|ssl context|ssl protocol version"
    "|unencrypted data after SSL|(unsupported|wrong|no|tlsv1 alert) (ssl |tls )?(protocol|version)"
    "|handshake failure|cipher|inappropriate fallback|unknown ca|no application protocol"
    "|host name must be specified for a verified SSL"
)
#: What messages about connecting say, names in double quotes left out.
_CONNECTING: tuple[tuple[str, tuple[type[StandfastError], str, str]], ...] = (
    ('database "" does not exist', _EXACT["3D000"]),
    ("authentication failed|no password supplied|pg_hba.conf", _AUTH),
    ('role "" (does not exist|is not permitted)', _AUTH),
    ("invalid response to SSL|expected authentication request|lost synchronization", _OTHER),
    (_TLS_REFUSED, _TLS),
    ("permission denied for database", _EXACT["42501"]),
    ("too many (connections|clients)|connection slots", _EXACT["53300"]),
    ("the database system is|not currently accepting", _CLASSES["57"]),
)
#: Classes whose messages name objects, limits and settings, and never values of a row.
_QUOTED = frozenset("08 25 28 3D 3F 40 42 53 55 57 58 0A".split())
#: Beside them: a damaged page or index, of which the text names the file.
_DAMAGED = frozenset({"XX001", "XX002"})
#: What only the server's state can cause, if it is true; functions can raise any of them.
_RAISED = ("08", "25", "28", "3D", "57P", "58", "SF", "XX", "F0", "HV")
#: A name that is not found; sessions of ours look names up in pg_catalog alone.
_NAMES = frozenset({"42P01", "42883", "42703", "42704", "3F000"})
#: The innermost function is one of the bookkeeping.
_OUR_FUNCTION = re.compile(r"(PL/pgSQL|SQL) function standfast\.")
#: A block that we send: nothing but a DO statement has this name without parentheses.
_OUR_BLOCK = re.compile(r"PL/pgSQL function inline_code_block line \d+ (at|during) [\w /]+")
_STATEMENTS = ("SQL statement ", "SQL expression ", "PL/pgSQL expression ", "PL/pgSQL assignment ")
_FUNCTION = re.compile(r"^\S+ function ", re.MULTILINE)
#: Characters of libpq's own words that a message quotes.
_QUOTED_CHARS = 300


def explain(error: psycopg.Error, doing: str, *, connecting: bool = True) -> StandfastError:
    """Our error for theirs.  `doing` says what was tried and on what.

    Their text is quoted only where PostgreSQL itself has written it and it holds no data of a row:
    for the classes of `_QUOTED` and damage, and not for what a function raised, which says what it
    likes under any SQLSTATE, also as the name of a constraint.
    """
    state = error.sqlstate or ""
    if not state:
        return _without_state(error, doing, connecting)
    context = error.diag.context or ""
    kind, code, hint = _EXACT.get(state) or _CLASSES.get(
        state[:2], (ConfigError, "database", "the database refused the statement")
    )
    said = ""
    if (state[:2] in _QUOTED or state in _DAMAGED) and (not context or _is_our_block(context)):
        said = f": {error.diag.message_primary}"
    # No function ends a session, whatever it claims: the server does, also in the midst of one.
    has_ended = error.diag.severity_nonlocalized in ("FATAL", "PANIC")
    raised = bool(context) and not has_ended and not _is_ours(context)
    if not raised and not said and (name := error.diag.constraint_name):
        said = f" (constraint `{name}`)"
    if raised:
        said += ", in a trigger or function of the table"
        if state.startswith(_RAISED):
            # An answer on a live connection: whatever it claims, the database is there.
            kind, code, hint = _CLASSES["P0"]
        elif state == "53300":
            kind, code, hint = _CLASSES["53"]  # of what that function uses; we are connected
        elif state in _NAMES:
            hint = "write names in functions of triggers with their schema, or SET search_path"
    return kind(f"{doing}: PostgreSQL answered {state}{said}", code=code, hint=hint)


def _is_ours(context: str) -> bool:
    """Whether the bookkeeping, or a block that we send, raised it, and no function of others."""
    return bool(_OUR_FUNCTION.match(context)) or _is_our_block(context)


def _is_our_block(context: str) -> bool:
    """Whether the server itself raised it, in a statement of a block that we send."""
    inner, _, outermost = context.rpartition("\n")
    return bool(_OUR_BLOCK.fullmatch(outermost)) and (
        not inner or (inner.startswith(_STATEMENTS) and not _FUNCTION.search(inner))
    )


def _without_state(error: psycopg.Error, doing: str, connecting: bool) -> StandfastError:
    """The error of a connection that failed, or of a value that the driver cannot send.

    Only while connecting does the text tell more: a connection that ends later may speak of TLS,
    too, and is lost all the same.
    """
    if isinstance(error, psycopg.DataError):
        return DataError(
            f"{doing}: a value cannot be sent", code="refused", hint="U+0000 is in no text of SQL"
        )
    # Only the first line: the others are libpq's guesses and the attempts at other addresses.
    reason = (str(error).strip() or "the connection was lost").splitlines()[0][:_QUOTED_CHARS]
    kind, code, hint = _CLASSES["08"]
    text = re.sub('"[^"]*"', '""', str(error))
    for pattern, found in _CONNECTING if connecting else ():
        if re.search(pattern, text):
            kind, code, hint = found
            break
    return kind(f"{doing}: {reason}", code=code, hint=hint)


def from_psycopg(error: psycopg.Error, doing: str) -> StandfastError:
    """Our error for one of statements that may have reached the server.

    A connection that ends then leaves their outcome open: the code is `connection_lost`, not
    `connection` or `shutdown`.
    """
    ours = explain(error, doing, connecting=False)
    if ours.code in ("connection", "shutdown"):
        ours.code = "connection_lost"
    return ours


def refused_change(error: DataError) -> ConfigError:
    """A refusal while tables are made: of no document, but by an event trigger of the database."""
    return ConfigError(
        error.message.replace(" of the table", " of the database"),
        code="database",
        hint="an event trigger, it seems, lets no table be made or changed: have its owner let this"
        " one pass, or a DBA make the table: `standfast schema sql` prints it",
    )


def forget(error: psycopg.Error) -> None:
    """Empty the driver's error, which stays the context of ours: its text may hold rows, and the
    frames of its traceback a connection string; tools that report crashes send both."""
    error.args = (f"PostgreSQL answered {error.sqlstate}",)
    error.__traceback__ = error.__cause__ = error.__context__ = None


def no_identity(where: str) -> ConfigError:
    """The error of a database whose bookkeeping has lost its identity."""
    return ConfigError(
        f"{where} has no identity: the row of standfast.identity is gone, and what is meant for"
        " this database cannot be recognised",
        code="no_identity",
        hint="insert it again: INSERT INTO standfast.identity (identity) VALUES (...), with the"
        " history that `standfast status` shows; or DEFAULT VALUES for a new one",
    )
