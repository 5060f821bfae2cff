"""A database address as hosts really write it, taken apart into `Parts`.

Sources: libpq, "Connection Strings" and "Parameter Key Words" (PostgreSQL 18 documentation, 34.1);
percent-encoding after RFC 3986; SQLite paths after the convention of SQLAlchemy (three slashes
relative, four absolute). Foreign parameters are those of Prisma, SQLAlchemy, asyncpg,
node-postgres and Rails. The URL is taken apart by hand: `urlsplit` drops tabs and line breaks
silently, caches what it has seen and puts the credentials into its error messages.

No message here ever holds a value of the URL: only the scheme and the names of parameters.
Whether the values make sense, and what is added to them, is decided in `standfast.config.settings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from standfast.errors import ConfigError

#: Characters of one database URL. Real ones stay below 500.
MAX_URL_CHARS = 8192

#: Keywords of libpq 18 that are passed on. `replication` is missing on purpose: such a connection
#: cannot run ordinary statements.
LIBPQ_KEYWORDS = frozenset(
    """
    application_name channel_binding client_encoding connect_timeout dbname
    fallback_application_name gssdelegation gssencmode gsslib host hostaddr keepalives
    keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts
    max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer
    oauth_scope options passfile password port require_auth requirepeer scram_client_key
    scram_server_key service ssl_max_protocol_version ssl_min_protocol_version sslcert sslcertmode
    sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode sslnegotiation sslpassword
    sslrootcert sslsni target_session_attrs tcp_user_timeout user
    """.split()
)

#: Parameters whose values are not shown.
SECRETS = frozenset(
    "password sslpassword oauth_client_secret scram_client_key scram_server_key".split()
)
SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

_SCHEMAS = frozenset("schema search_path currentSchema".split())
#: Parameters that switch prepared statements off, which people do behind a transaction pooler.
_STATEMENT_CACHES = frozenset(
    "statement_cache_size prepared_statement_cache_size prepared_statements".split()
)
_DROPPED = frozenset(
    """
    connection_limit conn_max_age encoding max_connection_lifetime max_idle_connection_lifetime
    max_overflow pool pool_pre_ping pool_recycle pool_size pool_timeout socket_timeout sslaccept
    supa uselibpqcompat workaround
    """.split()
)
_FOREIGN = _DROPPED | _SCHEMAS | _STATEMENT_CACHES | {"pgbouncer", "trust"}
_FOREIGN_SQLITE = frozenset("cache check_same_thread connection_limit timeout uri".split())

_QUOTES = {"'": "'", '"': '"', "`": "`", "\u2018": "\u2019", "\u201c": "\u201d"}
#: What is pasted in front: the line of an .env file, or the command that a console offers.
_PASTED = re.compile(r"\A(?:(?:export\s+)?(?:STANDFAST_)?DATABASE_URL\s*=|psql\s)\s*", re.I)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9.-]*)(?:\+([A-Za-z0-9_]+))?://")
_KEYWORD_FORM = re.compile(r"(?:^|\s)(?:dbname|host|hostaddr|service)\s*=")
_KEYWORD = re.compile(
    r"\s*+([^=\s]+)\s*+=\s*+(?:'((?:[^'\\]|\\.)*+)'|(?!')((?:[^\\\s]|\\.|\\\Z)*+))\s*+",
    re.ASCII | re.DOTALL,
)
_BRACKETED = re.compile(r"\[([^\[\]]*:[^\[\]]*)\](?::(.*))?")
#: Characters that neither a file name nor a line of a log should hold.
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,40}")
_IDENTIFIER = re.compile(r"(?!pg_)[A-Za-z_][A-Za-z0-9_$]{0,62}")

_MOVED = "{} is not a parameter of libpq and was moved to the settings"
_LEFT_OUT = "{} is a parameter of another client and was left out"
_ENCODE = (
    "Percent-encode special characters in the user name and the password: "
    "@ as %40, : as %3A, / as %2F, ? as %3F, # as %23, % as %25, a space as %20."
)
_SUPPORTED = (
    "Supported are postgresql://user:password@host:5432/database, "
    "sqlite:///relative/path.db and sqlite:////absolute/path.db."
)


@dataclass(slots=True, repr=False)
class Parts:
    """What a database URL says, not yet judged.

    `params` are libpq keywords with their values (the password among them, so there is no
    `repr` that shows them). `pooler` is None when the URL says nothing about one. The keys of
    `warnings` are sentences, each once, about parameters that were moved or left out.
    """

    kind: Literal["sqlite", "postgresql"]
    path: str = ""
    params: dict[str, str] = field(default_factory=dict[str, str])
    schema: str | None = None
    trust: tuple[str, ...] = ()
    pooler: bool | None = None
    warnings: dict[str, None] = field(default_factory=dict[str, None])


def split_url(text: str) -> Parts:
    """Take apart a URL that `clean_url` has been over, or libpq's `key=value` form.

    Raises ConfigError with code `bad_url`, `bad_scheme` or `bad_parameter`; no exception that
    would show a value of the URL is chained to it.
    """
    if not text:
        raise bad_url("it is empty", _SUPPORTED)
    if len(text) > MAX_URL_CHARS:
        raise bad_url(f"it is longer than {MAX_URL_CHARS} characters", _SUPPORTED)
    match = _SCHEME.match(text)
    if match is None:
        if not _KEYWORD_FORM.search(text):
            raise _no_scheme(text)
        parts = Parts("postgresql")
        _take_all(parts, _split_keywords(text))
        return parts
    scheme, driver, rest = match[1].lower(), (match[2] or "").lower(), text[match.end() :]
    if scheme in ("postgres", "postgresql"):
        return _split_uri(rest)
    if scheme == "sqlite" and driver in ("", "aiosqlite", "pysqlite"):
        return _split_sqlite(rest)
    raise bad_url(f"the scheme {match[0][:40]} is not supported", _SUPPORTED, code="bad_scheme")


def clean_url(url: str) -> str:
    """Take off what pasting leaves round a URL: blanks, quotes and a leading `DATABASE_URL=`."""
    if len(url) > 2 * MAX_URL_CHARS:  # refused by its length later; the loop below stays short
        return url
    text, before = url, None
    while text != before:
        before = text
        text = text.strip().strip("\ufeff\u200b")
        text = _PASTED.sub("", text, count=1)
        if text and text[0] in _QUOTES:
            paired = text[-1] == _QUOTES[text[0]]
            text = text[1:-1] if paired else text[1:]
        elif text and text[-1] in _QUOTES and _SCHEME.match(text):
            # Not in the key=value form, where the last value may be the quoted one.
            text = text[:-1]
    return text


def bad_url(message: str, hint: str, *, code: str = "bad_url") -> ConfigError:
    """Build the error of this module; `message` and `hint` must not hold a value of the URL."""
    return ConfigError(f"the database URL cannot be used: {message}", code=code, hint=hint)


def _no_scheme(text: str) -> ConfigError:
    if text.startswith(("$", "{", "<", "%")):
        hint = "It looks like a placeholder that nothing has filled in."
    elif text.lower().startswith("jdbc:"):
        hint = "Leave out the jdbc: in front of it."
    else:
        hint = _SUPPORTED
    return bad_url("it does not begin with postgresql:// or sqlite://", hint)


def _decode(text: str, what: str) -> str:
    """Undo percent-encoding strictly: `unquote` alone would let damaged text through."""
    if _BAD_PERCENT.search(text):
        raise bad_url(f"a % in the {what} is not followed by two hexadecimal digits", _ENCODE)
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"  # raised below, where no exception that shows the text hangs behind it
    if "\0" in decoded:
        raise bad_url(f"the {what} is not UTF-8 text once percent-decoded, or has %00", _ENCODE)
    return decoded


def _split_query(query: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if not equals:
            raise bad_url(
                "a parameter after ? has no =",
                f"Write name=value, several joined with &. {_ENCODE}",
                code="bad_parameter",
            )
        pairs.append((_decode(name, "parameters"), _decode(value, "parameters")))
    return pairs


def _unknown(name: str, known: Iterable[str], *, after_secret: bool = False) -> ConfigError:
    if after_secret or not _PARAMETER_NAME.fullmatch(name):
        # It may be a piece of a password that was not quoted or encoded.
        return bad_url(
            "it has a parameter that is not known",
            f"In key=value form put a value with spaces in single quotes. In a URL: {_ENCODE}",
            code="bad_parameter",
        )
    from difflib import get_close_matches  # here, because it is slow to import and seldom needed

    close = get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.7)
    hint = f"Did you mean {close[0]}?" if close else "Remove it from the URL."
    return bad_url(f"the parameter {name} is not known", hint, code="bad_parameter")


# --- SQLite -------------------------------------------------------------------------------------


def _split_sqlite(rest: str) -> Parts:
    where, _, query = rest.partition("?")
    where, pairs = _decode(where, "path"), _split_query(query)
    path, a_file = where[1:], "Name a file: sqlite:///storage/bot.db."
    if ":memory:" in where or ("mode", "memory") in pairs:
        raise bad_url("a database in memory keeps nothing", a_file)
    if not where.startswith("/"):
        raise bad_url(
            "a sqlite URL has no host, so a third slash must follow sqlite://",
            "Write sqlite:///storage/bot.db (relative) or sqlite:////srv/bot.db (absolute).",
        )
    if path.startswith("file:") or path.rpartition("/")[2] in ("", ".", ".."):
        raise bad_url("its path names no file", a_file)
    if CONTROL.search(path):
        raise bad_url("its path has a line break or another control character", a_file)
    parts = Parts("sqlite", path=path)
    for name, value in pairs:
        if (name, value) == ("mode", "rwc"):
            continue
        if name not in _FOREIGN_SQLITE:
            raise _unknown(name, _FOREIGN_SQLITE)
        parts.warnings[_LEFT_OUT.format(name)] = None
    return parts


# --- PostgreSQL ---------------------------------------------------------------------------------


def _split_uri(rest: str) -> Parts:
    """Take apart what follows `postgresql://`, by the rules of libpq but for stray characters."""
    if not rest.isprintable() or " " in rest:
        raise bad_url("it has a space, a line break or another invisible character inside", _ENCODE)
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    if "#" in rest:
        raise bad_url("it has a # that is not percent-encoded", _ENCODE)
    if authority.count("@") > 1 or "@" in path or "@" in query:
        raise bad_url("it has an @ other than the one before the host", _ENCODE)
    credentials, _, places = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    if re.fullmatch(r"\[your[-_]?password\]", password, re.I):
        raise bad_url(
            "the password is still the placeholder", "Put the real password in its place."
        )
    hosts: list[str] = []
    ports: list[str] = []
    for place in places.split(","):
        if place.startswith("["):
            bracketed = _BRACKETED.fullmatch(place)
            if bracketed is None:
                raise bad_url(
                    "an address in [ ] is not an IPv6 address", "Write [2001:db8::1]:5432."
                )
            host, port = bracketed.groups(default="")
        else:
            host, _, port = place.partition(":")
        hosts.append(_decode(host, "host"))
        ports.append(port)
    if not any(ports):
        ports = []
    elif len(ports) > 1:
        ports = [port or "5432" for port in ports]  # what libpq takes, whatever PGPORT says
    params = {
        "user": _decode(user, "user name"),
        "password": _decode(password, "password"),
        "host": ",".join(hosts) if any(hosts) else "",
        "port": ",".join(ports),
        "dbname": _decode(path, "database name"),
    }
    parts = Parts("postgresql", params=params)
    _take_all(parts, _split_query(query))
    return parts


def _split_keywords(text: str) -> list[tuple[str, str]]:
    r"""Split libpq's `key=value key='quoted \' value'` form, by the rules of its parser."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise bad_url("it has NUL or bytes that are not UTF-8", "Check how the value was written.")
    pairs: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _KEYWORD.match(text, position)
        if match is None:
            raise bad_url(
                "its key=value form breaks off: a word without =, or a quote that never ends",
                r"Put a value with spaces in single quotes; inside, write \' for ' and \\ for \.",
            )
        value = match[3] if match[2] is None else match[2]
        pairs.append((match[1], re.sub(r"\\(.?)", r"\1", value, flags=re.DOTALL)))
        position = match.end()
    return pairs


def _take_all(parts: Parts, pairs: Iterable[tuple[str, str]]) -> None:
    """Sort parameters into `parts`; the last of one name wins, as in libpq; empty is unset."""
    ssl, after_secret = "", False
    for name, value in pairs:
        if name in LIBPQ_KEYWORDS:
            parts.params[name] = _sslmode(parts, name, value) if name == "sslmode" else value
        elif name == "ssl":
            ssl = _sslmode(parts, name, value)
        elif name == "replication":
            raise bad_url(
                "a replication connection cannot run statements",
                "Remove the parameter replication.",
                code="bad_parameter",
            )
        elif name in _FOREIGN:
            _take_foreign(parts, name, value)
        else:
            raise _unknown(name, LIBPQ_KEYWORDS | _FOREIGN | {"ssl"}, after_secret=after_secret)
        after_secret = after_secret or name in SECRETS
    parts.params = {name: value for name, value in parts.params.items() if value}
    if ssl:
        parts.params.setdefault("sslmode", ssl)


def _take_foreign(parts: Parts, name: str, value: str) -> None:
    warning = _MOVED
    if name == "trust":
        parts.trust = tuple(filter(None, value.split(",")))
        return
    if name in _SCHEMAS:
        if not _IDENTIFIER.fullmatch(value):
            raise bad_url(
                f"the value of {name} is not one plain schema name",
                "Use ASCII letters, digits and _, at most 63, not beginning with a digit or pg_.",
                code="bad_parameter",
            )
        parts.schema = value
    elif name == "pgbouncer":
        parts.pooler = _flag(name, value)
    else:
        warning = _LEFT_OUT
        if name in _STATEMENT_CACHES and value.lower() in ("0", "false") and parts.pooler is None:
            parts.pooler = True
        if name == "sslaccept":
            warning += "; sslmode=verify-full with sslrootcert=system checks the certificate"
    parts.warnings[warning.format(name)] = None


def _sslmode(parts: Parts, name: str, value: str) -> str:
    """Read `sslmode=`, or `ssl=` as a flag (node-postgres) or an sslmode (asyncpg)."""
    if value == "no-verify":
        parts.warnings[f"{name}=no-verify is unknown to libpq and was read as require"] = None
        return "require"
    if name == "sslmode" or value in SSLMODES:
        return value
    return "require" if _flag(name, value) else "disable"


def _flag(name: str, value: str) -> bool:
    word = value.lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    hint = f"Write {name}=true or {name}=false."
    raise bad_url(f"the value of {name} is not true or false", hint, code="bad_parameter")
