"""Arguments and environment variables -> one frozen `Settings`, with the database as a `Target`.

Nothing here opens a database or imports a driver. The environment is a mapping that the caller
may pass; the only file ever read is one that a `*_FILE` variable names, through `read_file`.

Sources: libpq, "Parameter Key Words" and "Environment Variables" (PostgreSQL 18 documentation,
34.1.2 and 34.15); private ranges after RFC 1918, 3927, 4193, 4291 and 6598; names without a public
meaning after RFC 6761, 6762, 8375 and the words of Docker, Kubernetes, Fly and Railway.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from standfast.config.url import (
    CONTROL,
    MAX_URL_CHARS,
    SECRETS,
    SSLMODES,
    bad_url,
    clean_url,
    split_url,
)
from standfast.errors import ConfigError

#: Longest deadline of a call. Longer is not a deadline, and far longer overflows timers.
MAX_DEADLINE_S = 3600.0
DEFAULT_DEADLINE_S = 1.0
DEFAULT_DATA_DIR = "storage"
#: The embedded database, inside the data directory.
EMBEDDED_FILE = "fallback.db"

#: Looked at in this order; each has a twin `NAME_FILE` that names a file with the URL in it.
_URL_VARIABLES = ("STANDFAST_DATABASE_URL", "DATABASE_URL")

#: Judged here because libpq looks at these values only when it connects, where a typing error
#: would pass for an outage that never ends.
_CHOICES: dict[str, tuple[str, ...]] = {
    "sslmode": SSLMODES,
    "sslnegotiation": ("postgres", "direct"),
    "sslcertmode": ("disable", "allow", "require"),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "load_balance_hosts": ("disable", "random"),
    "target_session_attrs": (
        *("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    ),
}
_INTEGERS = frozenset(
    """connect_timeout keepalives keepalives_idle keepalives_interval keepalives_count
    tcp_user_timeout""".split()
)
_PORTS = range(1, 65536)
#: 6543: Supavisor and the dedicated pooler of Supabase. 6432: default of PgBouncer and Odyssey.
_POOLER_PORTS = frozenset(("6432", "6543"))

#: Written out, since `is_private` of the standard library also holds ranges that are not on site.
_PRIVATE_NETWORKS = tuple(
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"),
        *("127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128", "fe80::/10", "fc00::/7"),
    )
)
_PRIVATE_SUFFIXES = (
    *(".internal", ".local", ".localdomain", ".localhost", ".lan", ".home.arpa"),
    *(".svc", ".flycast"),
)
_HOST_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


class Secret(str):
    """A text that shows itself only to whoever asks for the text: not in a repr, of what holds it
    neither (`dataclasses.asdict(settings)` in a report of a crash, say)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Target:
    """The database that a URL names, in the words of its driver.

    `path` is SQLite's file, "" for PostgreSQL. `params` are libpq keywords for
    `psycopg.conninfo.make_conninfo(**params)`; they hold the password, so print the target and not
    them: `str()` and `repr()` give `display`. `schema` None is the default search path. `trust` are
    roles that may own what standfast uses, beside those that are trusted anyway.
    `pooler` says that each transaction may run in another session, so that no session state holds.
    `warnings` name, once each, the foreign parameters that were moved or left out.
    """

    kind: Literal["sqlite", "postgresql"]
    path: str = ""
    params: dict[str, str] = field(default_factory=dict[str, str], hash=False)
    schema: str | None = None
    trust: tuple[str, ...] = ()
    pooler: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def display(self) -> str:
        """The address for logs: `postgresql://user@host:port/db` or `sqlite:///path`; no secret."""
        if self.kind == "sqlite":
            return f"sqlite:///{self.path}"
        params = self.params
        user = quote(params["user"], safe="") + "@" if "user" in params else ""
        hosts = (params.get("host") or params.get("hostaddr", "")).split(",")
        ports = params.get("port", "").split(",")
        if len(ports) == 1:
            ports *= len(hosts)
        places = ",".join(
            (f"[{host}]" if _address(host) and ":" in host else quote(host, safe=""))
            + (f":{port}" if port else "")
            for host, port in zip(hosts, ports, strict=False)
        )
        database = "/" + quote(params["dbname"], safe="") if "dbname" in params else ""
        return f"postgresql://{user}{places}{database}"

    def __repr__(self) -> str:
        return self.display


#: Where many programs look for variables; ours do not, unless they are asked to.
DOTENV = ".env"
_QUOTED = re.compile(r"""(['"])(.*?)\1\s*(?:#.*)?""")
_COMMENT = re.compile(r"(?:^|\s+)#")
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Settings:
    """Everything that opening a store needs to know, already judged.

    `url` is the URL as it was given, without quotes and blanks (None: embedded SQLite); it may
    hold a password and is never part of `str()` or `repr()`. `source` says where it came from:
    `argument`, the name of a variable, or `default`.
    """

    url: str | None
    target: Target
    source: str
    data_dir: Path
    deadline_s: float

    def __repr__(self) -> str:
        return (
            f"Settings(target={self.target.display!r}, source={self.source!r}, "
            f"data_dir={str(self.data_dir)!r}, deadline_s={self.deadline_s!r})"
        )


def parse_url(url: str, *, environ: Mapping[str, str] | None = None) -> Target:
    """Read a database URL, or libpq's `key=value` form, into a `Target`; nothing is opened.

    A public host (or sslnegotiation=direct) gets `sslmode=require`, and with an sslrootcert
    `verify-full`, unless there is an sslmode or a service, PGSSLMODE (a weak one is warned of) or
    PGSERVICE (a service file may ask for more than that);
    on private hosts (see `is_private_host`) libpq's own default, `prefer`, stays. Of `environ`
    (default: `os.environ` now) only these two, PGHOST, PGHOSTADDR and PGPORT are read.
    Raises ConfigError with code `bad_url`, `bad_scheme` or `bad_parameter`; neither it nor
    an exception chained to it shows a value of the URL.
    """
    environ = os.environ if environ is None else environ
    parts = split_url(clean_url(url))
    params, pooler = parts.params, parts.pooler
    if parts.kind == "postgresql":
        if _needs_tls(params, environ):
            params["sslmode"] = "verify-full" if "sslrootcert" in params else "require"
        elif is_public(params, environ) and "sslmode" not in params:
            mode = environ.get("PGSSLMODE", "").strip()
            if mode in ("disable", "allow", "prefer"):
                parts.warnings[
                    f"PGSSLMODE={mode}: the connection to a public host may not be"
                    " encrypted; write sslmode=require into the URL"
                ] = None
        _check_places(params)
        _check_values(params)
        if pooler is None:
            host, port = _either(params, environ, "host"), _either(params, environ, "port")
            pooler = _is_pooler(host, port)
    return Target(
        kind=parts.kind,
        path=parts.path,
        params={name: Secret(v) if name in SECRETS else v for name, v in params.items()},
        schema=parts.schema,
        trust=parts.trust,
        pooler=bool(pooler),
        warnings=tuple(parts.warnings),
    )


def load_settings(
    url: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    deadline_s: float | None = None,
    environ: Mapping[str, str] | None = None,
    read_file: Callable[[str], str] | None = None,
) -> Settings:
    """Put together arguments, environment variables and defaults, in this order of precedence.

    The URL: `url`, STANDFAST_DATABASE_URL, DATABASE_URL (either may be given as NAME_FILE, the
    name of a file that holds it, read by `read_file`), else SQLite in `<data_dir>/fallback.db`.
    Twins of the others: STANDFAST_DATA_DIR (default `storage`) and STANDFAST_DEADLINE_S (seconds,
    above 0, at most 3600, default 1.0). A blank variable counts as unset, but for the URL: an
    argument or a variable that is there and blank was mostly forgotten, and is an error.
    A `.env` in the current directory that names a URL is not read, which a warning says.
    `environ` is `os.environ` at the call by default. Raises ConfigError; see `parse_url`.
    """
    dotenv = Path(DOTENV) if environ is None else None
    environ = os.environ if environ is None else environ
    directory = _data_dir(data_dir, environ)
    found, source = _find_url(url, environ, read_file or _read_text)
    if found is None:
        target = Target(
            kind="sqlite",
            path=str(directory / EMBEDDED_FILE),
            warnings=() if dotenv is None else _unread(dotenv),
        )
    else:
        target = _parse_from(found, source, environ)
    return Settings(
        url=None if found is None else Secret(found),
        target=target,
        source=source,
        data_dir=directory,
        deadline_s=_deadline_s(deadline_s, environ),
    )


def is_private_host(host: str) -> bool:
    """Whether a host is on this machine or on a private network, judged by its name alone.

    True for Unix sockets, the empty host, private and loopback addresses, names of one label (a
    Docker service, Render's internal names) and suffixes that are never public, such as
    `.internal`, `.local`, `.svc` or `.flycast`. Nothing is resolved.
    """
    if host == "" or host[0] in "/@":
        return True
    address = _address(host)
    if address is not None:
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return any((mapped or address) in network for network in _PRIVATE_NETWORKS)
    name = host.lower().rstrip(".")
    if "." not in name:
        # getaddrinfo reads a bare number as an IPv4 address, which may well be public.
        return not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", name)
    return name.endswith(_PRIVATE_SUFFIXES)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _either(params: Mapping[str, str], environ: Mapping[str, str], name: str) -> str:
    return params.get(name) or environ.get("PG" + name.upper(), "")


def _needs_tls(params: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    if params.keys() & {"sslmode", "service"}:
        return False
    if any(environ.get(name, "").strip() for name in ("PGSSLMODE", "PGSERVICE")):
        return False
    if params.get("sslnegotiation") == "direct":
        return True  # libpq refuses it without
    return is_public(params, environ)


def is_public(params: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """Whether any of the hosts of these parameters is a public one."""
    # hostaddr is where libpq connects to; host is then only the name in the certificate.
    hosts = _either(params, environ, "hostaddr") or _either(params, environ, "host")
    return not all(is_private_host(host) for host in hosts.split(","))


def may_send_cleartext(params: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """Whether a server may ask for the password as it is: on private hosts, where the certificate
    is checked, and where the user has said which ways to log in are right (require_auth)."""
    mode = params.get("sslmode") or environ.get("PGSSLMODE", "")
    return (
        mode in ("verify-full", "verify-ca")
        or "require_auth" in params
        or bool(environ.get("PGREQUIREAUTH", "").strip())
        or not ("service" in params or is_public(params, environ))
    )


def _is_pooler(hosts: str, ports: str) -> bool:
    hosts = hosts.lower()
    return (
        any(label.endswith("-pooler") or label == "pgbouncer" for label in re.split("[.,]", hosts))
        or "pooler." in hosts
        or not _POOLER_PORTS.isdisjoint(ports.split(","))
    )


def _check_places(params: Mapping[str, str]) -> None:
    hosts = params.get("host", "").split(",")
    addresses = params.get("hostaddr", "").split(",")
    ports = params.get("port", "").split(",")
    encode = "A password with : / ? # @ or % in it must be percent-encoded."
    for host in hosts:
        if not (host[:1] in ("", "/", "@") or _HOST_NAME.fullmatch(host) or _address(host)):
            raise bad_url("the host is not a name, an address or a socket directory", encode)
    if not all(address == "" or _address(address) for address in addresses):
        raise bad_url("hostaddr is not an IP address", "A name belongs into host.")
    for port in ports:
        if not re.fullmatch(r"|[0-9]{1,5}", port) or int(port or 1) not in _PORTS:
            hint = f"Write host:5432, an IPv6 address as [::1]:5432. {encode}"
            raise bad_url("the port is not a number from 1 to 65535", hint)
    if "host" in params and "hostaddr" in params and len(hosts) != len(addresses):
        raise bad_url("host and hostaddr differ in number", "Give one hostaddr for each host.")
    if len(ports) not in (1, max(len(hosts), len(addresses))):
        raise bad_url("hosts and ports differ in number", "Give one port, or one for each host.")


def _check_values(params: Mapping[str, str]) -> None:
    for name, choices in _CHOICES.items():
        if name in params and params[name] not in choices:
            hint = f"{name} is one of {', '.join(choices)}."
            raise bad_url(f"the value of {name} is not known", hint, code="bad_parameter")
    for name in sorted(_INTEGERS & params.keys()):
        if not re.fullmatch(r"-?[0-9]{1,9}", params[name]):
            hint = f"Write a whole number, such as {name}=10."
            raise bad_url(f"the value of {name} is not a number", hint, code="bad_parameter")


def _parse_from(url: str, source: str, environ: Mapping[str, str]) -> Target:
    try:
        return parse_url(url, environ=environ)
    except ConfigError as error:
        problem = error
    # Raised out here so that the place it came from is named once and nothing is chained.
    raise ConfigError(f"{source}: {problem.message}", code=problem.code, hint=problem.hint)


def _find_url(
    url: str | None, environ: Mapping[str, str], read_file: Callable[[str], str]
) -> tuple[str | None, str]:
    if url is not None:
        if not (text := clean_url(url)):
            raise ConfigError(
                "the argument url is empty",
                code="bad_url",
                hint="Pass None to use DATABASE_URL or, without it, SQLite in the data directory.",
            )
        return text, "argument"
    for name in _URL_VARIABLES:
        text = clean_url(environ.get(name, ""))
        twin = f"{name}_FILE"
        file = _plain(environ.get(twin, ""))
        if text and file:
            raise ConfigError(
                f"{name} and {twin} are both set", hint="Unset one of them: which holds is unclear."
            )
        if text:
            return text, name
        if file:
            return _url_from_file(file, twin, read_file), twin
    blank = next((name for name in _URL_VARIABLES if name in environ), None)
    if blank is not None:
        raise ConfigError(
            f"{blank} is set, and empty: it does not say which database",
            code="bad_url",
            hint=f"give it the URL, or unset it to use SQLite: unset {blank}",
        )
    return None, "default"


def _unread(dotenv: Path) -> tuple[str, ...]:
    """A warning of a `.env` that names a database, which nobody has read into the environment."""
    names = [name for name in _URL_VARIABLES if read_dotenv(dotenv).get(name)]
    if not names:
        return ()
    return (
        f"{dotenv.absolute()} sets {names[0]}, but it is not in the environment: SQLite is used;"
        f" load the file first, or give commands --env-file {dotenv}",
    )


def read_dotenv(path: Path) -> dict[str, str]:
    """The variables of a `.env` file; none of one that cannot be read.

    `NAME=VALUE` lines, with `export` in front or not, the value in quotes or not; ` #` begins a
    comment outside of quotes.  No expansion.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError):
        return {}
    found = (_ASSIGNMENT.fullmatch(line) for line in lines)
    return {line[1]: _dotenv_value(line[2].strip()) for line in found if line}


def _dotenv_value(text: str) -> str:
    if (quoted := _QUOTED.fullmatch(text)) is not None:
        return quoted[2]
    return _COMMENT.split(text, maxsplit=1)[0]


def _url_from_file(file: str, name: str, read_file: Callable[[str], str]) -> str:
    # The file's name stays out of the messages: it may be the URL itself, put there by mistake.
    if "://" in file:
        raise ConfigError(
            f"{name} seems to hold a URL", hint=f"Use {name.removesuffix('_FILE')} for the URL."
        )
    text, reason = "", "it is empty"
    try:
        text = clean_url(read_file(file))
    except OSError as error:
        reason = error.strerror or "reading failed"
    except ValueError:  # not UTF-8, or a NUL in the name
        reason = "it is not UTF-8 text, or its name is not a file name"
    if not text:
        raise ConfigError(
            f"the file that {name} names cannot be used: {reason}",
            hint="Check the name, its permissions, and that it holds the URL in one line.",
        )
    return text


def _read_text(file: str) -> str:
    # Bounded, in case the name is that of a device or of some large file.
    with Path(file).open(encoding="utf-8") as stream:
        return stream.read(4 * MAX_URL_CHARS)


def _plain(value: str) -> str:
    """Take blanks and one pair of quotes off the value of a variable."""
    text = value.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"`":
        text = text[1:-1].strip()
    return text


def _data_dir(data_dir: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path:
    if data_dir is None:
        name = "STANDFAST_DATA_DIR"
        text = _plain(environ.get(name, "")) or DEFAULT_DATA_DIR
    else:
        name, text = "the argument data_dir", os.fspath(data_dir)
    if not text.strip() or CONTROL.search(text) or "://" in text:
        raise ConfigError(
            f"{name} is not the name of a directory",
            hint="Name a directory on a disk that outlives a restart, such as /data/storage.",
        )
    return Path(text)


def _deadline_s(deadline_s: float | None, environ: Mapping[str, str]) -> float:
    name, value = "the argument deadline_s", deadline_s
    if value is None:
        name = "STANDFAST_DEADLINE_S"
        text = _plain(environ.get(name, "")) or str(DEFAULT_DEADLINE_S)
        # float() alone would also take 1_0, nan and infinity.
        plain = re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}", text)
        value = float(text) if plain else 0
    if isinstance(value, bool) or not 0 < value <= MAX_DEADLINE_S:  # NaN is refused too
        raise ConfigError(
            f"{name} is not a number of seconds above 0 and up to {MAX_DEADLINE_S:.0f}",
            hint=f"Write seconds with a decimal point, such as {DEFAULT_DEADLINE_S}.",
        )
    return float(value)
