"""`config.settings`: real URLs are read, wrong ones refused, passwords kept secret."""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from psycopg import conninfo, pq

from standfast.config.settings import Settings, Target, is_private_host, load_settings, parse_url
from standfast.config.url import LIBPQ_KEYWORDS, MAX_URL_CHARS, clean_url
from standfast.errors import ConfigError


def refused(url: str, **environ: str) -> ConfigError:
    """Parse a URL that must be refused and give the error."""
    with pytest.raises(ConfigError) as caught:
        parse_url(url, environ=environ)
    return caught.value


# --- what real hosts write ----------------------------------------------------------------------

# Three lines each: what it is, the URL, and the same in libpq's words (~ is user, password and
# database, behind | stands what else it says).
HOSTS = r"""
heroku
postgres://u:pw@ec2-3-9-1-2.eu-west-1.compute.amazonaws.com:5432/db
host=ec2-3-9-1-2.eu-west-1.compute.amazonaws.com port=5432 ~ sslmode=require

railway, private
postgresql://u:pw@postgres.railway.internal:5432/db
host=postgres.railway.internal port=5432 ~

railway, public
postgresql://u:pw@roundhouse.proxy.rlwy.net:41234/db
host=roundhouse.proxy.rlwy.net port=41234 ~ sslmode=require

render, internal
postgresql://u:pw@dpg-abc123-a/db
host=dpg-abc123-a ~

render, external
postgresql://u:pw@dpg-abc123-a.frankfurt-postgres.render.com/db
host=dpg-abc123-a.frankfurt-postgres.render.com ~ sslmode=require

supabase, transaction pooler
postgres://u.ref:pw@aws-0.pooler.supabase.com:6543/db?pgbouncer=true&connection_limit=1&supa=x
host=aws-0.pooler.supabase.com port=6543 user=u.ref password=pw dbname=db sslmode=require | pooler

supabase, dedicated pooler, which only its port gives away
postgresql://u:pw@db.ref.supabase.co:6543/db
host=db.ref.supabase.co port=6543 ~ sslmode=require | pooler

supabase, direct
postgresql://u:pw@db.ref.supabase.co:5432/db
host=db.ref.supabase.co port=5432 ~ sslmode=require

neon, pooler
postgresql://u:pw@ep-cool-1-pooler.eu.aws.neon.tech/db?sslmode=require&channel_binding=require
host=ep-cool-1-pooler.eu.aws.neon.tech ~ sslmode=require channel_binding=require | pooler

neon, direct, with the endpoint as an option
postgresql://u:pw@ep-cool-1.eu.aws.neon.tech/db?options=endpoint=ep-cool-1
host=ep-cool-1.eu.aws.neon.tech ~ options=endpoint=ep-cool-1 sslmode=require

fly, flycast
postgres://u:pw@my-db.flycast:5432/db?sslmode=disable
host=my-db.flycast port=5432 ~ sslmode=disable

fly, internal
postgres://u:pw@top2.nearest.of.my-db.internal:5432/db
host=top2.nearest.of.my-db.internal port=5432 ~

docker compose
postgres://u:pw@db:5432/db
host=db port=5432 ~

prisma
postgresql://u:pw@localhost:5432/db?schema=app&connection_limit=5&pool_timeout=9&connect_timeout=30
host=localhost port=5432 ~ connect_timeout=30 | app

sqlalchemy, asyncpg
postgresql+asyncpg://u:pw@10.0.0.5/db?ssl=require&prepared_statement_cache_size=100
host=10.0.0.5 ~ sslmode=require

sqlalchemy, psycopg2 over a socket
postgresql+psycopg2://u:pw@/db?host=/var/run/postgresql
host=/var/run/postgresql ~

sqlalchemy, psycopg, in capitals
PostgreSQL+psycopg://u:pw@db/db
host=db ~

google cloud sql, socket
postgresql://u:pw@/db?host=/cloudsql/project:europe-west1:instance
host=/cloudsql/project:europe-west1:instance ~

socket as a percent-encoded host
postgresql://u:pw@%2Fvar%2Frun%2Fpostgresql:5433/db
host=/var/run/postgresql port=5433 ~

azure, a user with an @
postgres://u%40server:p%40ss%2Fw%3Ard@srv.postgres.database.azure.com/db?sslmode=verify-full
host=srv.postgres.database.azure.com user=u@server password=p@ss/w:rd dbname=db sslmode=verify-full

aiven, for node-postgres
postgres://u:pw@pg-1.aivencloud.com:12345/db?ssl=true&uselibpqcompat=true
host=pg-1.aivencloud.com port=12345 ~ sslmode=require

several hosts
postgresql://u:pw@a.example.com:5433,b.example.com/db?target_session_attrs=read-write
host=a.example.com,b.example.com port=5433,5432 ~ target_session_attrs=read-write sslmode=require

several hosts, no port
postgresql://u:pw@a,b/db
host=a,b ~

ipv6
postgresql://u:pw@[::1]:5433/db
host=::1 port=5433 ~

ipv6, public, no port
postgresql://u:pw@[2600:1f18::2]/db
host=2600:1f18::2 ~ sslmode=require

the scheme alone: the variables of libpq decide
postgresql://
application_name=''

raw colon in the password, and a plus that is no space
postgres://u:a:b+c@db/db
host=db user=u password=a:b+c dbname=db

not ascii
postgres://u:p%C3%A4ss@db/café
host=db user=u password=päss dbname=café

key=value form
host=db.example.com port = 5432 dbname=db user=u password='p w\'\\' schema=app
host=db.example.com port=5432 user=u password=p\ w\'\\ dbname=db sslmode=require | app

key=value form without a host, an empty value, a URL in the password
user=u dbname=db password=a://b\ c application_name=''
user=u dbname=db password='a://b c'
"""
CASES = [block.splitlines() for block in HOSTS.strip().split("\n\n")]


@pytest.mark.parametrize(
    ("url", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_real_urls_become_libpq_parameters(url: str, expected: str) -> None:
    """Each shape that hosts hand out is read whole: parameters, schema, pooler, TLS."""
    words, _, extra = expected.replace("~", "user=u password=pw dbname=db").partition(" | ")
    target = parse_url(url, environ={})
    assert (target.kind, target.path) == ("postgresql", "")
    wanted = {name: value for name, value in conninfo.conninfo_to_dict(words).items() if value}
    assert target.params == wanted
    assert target.pooler is (extra == "pooler")
    assert target.schema == (extra if extra == "app" else None)


@pytest.mark.parametrize(
    ("url", "display"),
    [
        ("postgres://u:pw@h:5432/db", "postgresql://u@h:5432/db"),
        ("postgres://u:pw@h/db", "postgresql://u@h/db"),
        ("postgres://h", "postgresql://h"),
        ("postgres://:pw@h/db", "postgresql://h/db"),
        ("postgres://u:pw@[::1]:5432/db", "postgresql://u@[::1]:5432/db"),
        ("postgres://u:pw@a:1,b:2/db", "postgresql://u@a:1,b:2/db"),
        ("postgres://u:pw@a,b/db?port=7", "postgresql://u@a:7,b:7/db"),
        ("postgres://u%40x:pw@%2Frun/d%0Ab", "postgresql://u%40x@%2Frun/d%0Ab"),
        ("hostaddr=10.0.0.1 user=u password=pw", "postgresql://u@10.0.0.1"),
        ("postgres://", "postgresql://"),
        ("sqlite:///storage/bot.db", "sqlite:///storage/bot.db"),
        ("sqlite:////srv/bot.db", "sqlite:////srv/bot.db"),
    ],
)
def test_display_is_all_that_a_target_shows(url: str, display: str) -> None:
    """`str` and `repr` of a target are its address and nothing else."""
    target = parse_url(url, environ={})
    assert display == target.display == str(target) == repr(target) == f"{target}"


def test_target_can_be_compared_and_hashed() -> None:
    """Equal URLs give equal targets, and a target can be a key although it holds a dictionary."""
    first, second = (parse_url("postgres://u:pw@h/db", environ={}) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != parse_url("postgres://u:other@h/db", environ={})
    with pytest.raises(AttributeError):
        first.kind = "sqlite"  # pyright: ignore[reportAttributeAccessIssue]


# --- TLS by default -----------------------------------------------------------------------------

PRIVATE = [
    *("localhost", "LOCALHOST", "db", "postgres", "my_db-1", "", "/run/postgresql", "@abstract"),
    *("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.1.1", "100.64.0.1", "100.127.255.254", "::1", "fe80::1", "fe80::1%eth0"),
    *("fd12:3456::1", "fc00::1", "::ffff:10.0.0.1", "0.0.0.0", "host.docker.internal"),
    *("db.internal", "nas.local", "nas.lan", "localhost.localdomain", "db.localhost"),
    *("pg.default.svc", "pg.default.svc.cluster.local", "my-db.flycast", "pg.home.arpa"),
    *("db.internal.", "DB.Internal"),
]
PUBLIC = [
    *("db.example.com", "8.8.8.8", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1"),
    *("192.169.0.1", "2001:4860::1", "::ffff:8.8.8.8", "internal.example.com", "local.net"),
    *("134744072", "0x8080808", "x.notinternal", "xlocal.io", "fbff::1"),
    *("fe00::1", "10.example.com"),
]


@pytest.mark.parametrize("host", PRIVATE)
def test_private_hosts_keep_the_default_of_libpq(host: str) -> None:
    """A host that is not public gets no sslmode, so that servers without TLS go on working."""
    assert is_private_host(host)
    assert "sslmode" not in parse_url(f"host='{host}' dbname=db", environ={}).params


@pytest.mark.parametrize("host", PUBLIC)
def test_public_hosts_require_tls(host: str) -> None:
    """A password never crosses a public network in clear because nobody wrote an sslmode."""
    assert not is_private_host(host)
    assert parse_url(f"host='{host}' dbname=db", environ={}).params["sslmode"] == "require"


@pytest.mark.parametrize(
    ("url", "environ", "sslmode"),
    [
        ("postgres://a.example.com,db/x", {}, "require"),
        ("postgres://db,a.example.com/x", {}, "require"),
        ("postgres://db,10.0.0.1/x", {}, None),
        ("postgres://a.example.com/x?sslmode=disable", {}, "disable"),
        ("postgres://a.example.com/x?sslmode=", {}, "require"),
        ("postgres://a.example.com/x?sslrootcert=system", {}, "verify-full"),
        ("postgres://a.example.com/x?service=prod", {}, None),
        ("postgres://a.example.com/x", {"PGSSLMODE": "verify-full"}, None),
        ("postgres://a.example.com/x", {"PGSSLMODE": " "}, "require"),
        ("postgres://a.example.com/x", {"PGSERVICE": "prod"}, None),
        ("postgres://a.example.com/x?hostaddr=10.0.0.1", {}, None),
        ("postgres://db/x?hostaddr=8.8.8.8", {}, "require"),
        ("postgres:///x", {"PGHOST": "a.example.com"}, "require"),
        ("postgres:///x", {"PGHOST": "db"}, None),
        ("postgres://db/x", {"PGHOST": "a.example.com"}, None),
        ("postgres://db/x?sslnegotiation=direct", {}, "require"),
        ("postgres://db/x?ssl=true", {}, "require"),
        ("postgres://db/x?ssl=1", {}, "require"),
        ("postgres://a.example.com/x?ssl=false", {}, "disable"),
        ("postgres://a.example.com/x?ssl=verify-full", {}, "verify-full"),
        ("postgres://a.example.com/x?ssl=false&sslmode=require", {}, "require"),
        ("postgres://a.example.com/x?sslmode=verify-ca&ssl=true", {}, "verify-ca"),
        ("postgres://db/x?ssl=no-verify", {}, "require"),
        ("postgres://db/x?sslmode=no-verify", {}, "require"),
    ],
)
def test_sslmode_is_added_only_where_nobody_decided(
    url: str, environ: dict[str, str], sslmode: str | None
) -> None:
    """An sslmode from the URL or the environment stands; a list with one public host is public."""
    assert parse_url(url, environ=environ).params.get("sslmode") == sslmode


# --- poolers and foreign parameters -------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "pooler"),
    [
        ("postgres://h/db?pgbouncer=true", True),
        ("postgres://h/db?pgbouncer=TRUE", True),
        ("postgres://h/db?pgbouncer=false", False),
        ("postgres://h:6543/db?pgbouncer=false", False),
        ("postgres://h:6543/db", True),
        ("postgres://h:6432/db", True),
        ("postgres://a:5432,b:6543/db", True),
        ("postgres://h:65430/db", False),
        ("postgres://x-pooler.internal/db", True),
        ("postgres://X-Pooler/db", True),
        ("postgres://x-pooler-1.internal/db", False),
        ("postgres://aws.pooler.supabase.com:5432/db", True),
        ("postgres://pgbouncer/db", True),
        ("postgres://h/db?statement_cache_size=0", True),
        ("postgres://h/db?prepared_statements=false", True),
        ("postgres://h/db?statement_cache_size=100", False),
        ("postgres://h/db?statement_cache_size=0&pgbouncer=false", False),
        ("postgres://h/db?pgbouncer=false&statement_cache_size=0", False),
        ("sqlite:///x-pooler.db", False),
    ],
)
def test_transaction_poolers_are_noticed(url: str, pooler: bool) -> None:
    """Flag, port or host name tell a transaction pooler; an explicit flag has the last word."""
    assert parse_url(url, environ={}).pooler is pooler


def test_pooler_is_noticed_in_the_variables_of_libpq() -> None:
    """PGHOST and PGPORT count where the URL leaves host and port to them, and only there."""
    assert parse_url("postgres:///db", environ={"PGPORT": "6543"}).pooler
    assert parse_url("postgres:///db", environ={"PGHOST": "a-pooler.x.net"}).pooler
    assert not parse_url("postgres://h:5432/db", environ={"PGPORT": "6543"}).pooler


@pytest.mark.parametrize("name", ["schema", "search_path", "currentSchema"])
def test_schema_is_moved_with_one_warning(name: str) -> None:
    """A schema in any of its spellings leaves the parameters, and is said once."""
    target = parse_url(f"postgres://h/db?{name}=one&{name}=App_2", environ={})
    assert (target.schema, target.params) == ("App_2", {"host": "h", "dbname": "db"})
    assert target.warnings == (f"{name} is not a parameter of libpq and was moved to the settings",)


@pytest.mark.parametrize(
    "query",
    [
        *("connection_limit=5", "pool_timeout=0", "pool_size=3", "statement_cache_size=5"),
        *("prepared_statement_cache_size=5", "supa=base-pooler.x", "sslaccept=strict"),
        *("socket_timeout=3", "pgbouncer=true", "sslmode=no-verify", "ssl=no-verify", "pool=5"),
    ],
)
def test_foreign_parameters_are_left_out_aloud(query: str) -> None:
    """A parameter of another client never reaches libpq; one warning names it without its value."""
    name, _, value = query.partition("=")
    target = parse_url(f"postgres://h/db?{query}&{query}", environ={})
    assert target.params.keys() <= {"host", "dbname", "sslmode"}
    assert len(target.warnings) == 1
    assert target.warnings[0].startswith(name)
    assert value not in target.warnings[0] or value in ("no-verify", "5")


def test_ordinary_urls_warn_of_nothing() -> None:
    """A warning means that something was moved or left out."""
    url = "postgresql+asyncpg://u:pw@h/db?ssl=true&application_name=bot&options=-c%20x%3D1"
    assert parse_url(url, environ={}).warnings == ()


def test_every_keyword_of_libpq_is_passed_on() -> None:
    """What the installed libpq understands is understood here, but for replication."""
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    assert known - LIBPQ_KEYWORDS == {"replication"}
    for name in ("passfile", "service", "sslcert", "krbsrvname", "require_auth", "sslpassword"):
        assert parse_url(f"postgres://h/db?{name}=value", environ={}).params[name] == "value"


# --- what pasting leaves ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrapping",
    [
        *("  {}  ", "{}\n", '"{}"', "'{}'", "`{}`", ' "{}" \n', "\"'{}'\""),
        *("\ufeff{}", "\u201c{}\u201d"),
        *("DATABASE_URL={}", "export DATABASE_URL={}", 'export DATABASE_URL="{}"\n', '"{}', '{}"'),
        *("DATABASE_URL = '{}'", "STANDFAST_DATABASE_URL={}", "'DATABASE_URL={}'", "psql '{}'"),
    ],
)
@pytest.mark.parametrize(
    "url", ["postgres://u:p%20w@h:1/db?options=-c%20x", "sqlite:///My Bot/x.db"]
)
def test_quotes_blanks_and_assignments_are_taken_off(wrapping: str, url: str) -> None:
    """A URL that was pasted with what stood round it is read as the URL alone."""
    assert clean_url(wrapping.format(url)) == url
    assert parse_url(wrapping.format(url), environ={}) == parse_url(url, environ={})


@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_the_last_quoted_value_keeps_its_quote(quote: str) -> None:
    """Cleaning takes off the quotes round a key=value text, not those of its last value."""
    text = f"{quote}host=h password='a b'{quote}"
    assert parse_url(text, environ={}).params == {"host": "h", "password": "a b"}


@given(st.text(st.sampled_from("'\"` \n=DATABASE_URLexport psql:/h\ufeff"), max_size=30))
def test_cleaning_twice_changes_nothing(text: str) -> None:
    """Cleaning is complete: no wrapping is left that a second round would find."""
    assert clean_url(clean_url(text)) == clean_url(text)


# --- SQLite -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///storage/bot.db", "storage/bot.db"),
        ("sqlite:////srv/bot.db", "/srv/bot.db"),
        ("sqlite+aiosqlite:///bot.db", "bot.db"),
        ("sqlite+pysqlite:///bot.db", "bot.db"),
        ("SQLITE:///bot.db", "bot.db"),
        ("sqlite:///My%20Bot/%C3%A4%3F%23.db", "My Bot/\u00e4?#.db"),
        ("sqlite:///My Bot/me@home#1.db", "My Bot/me@home#1.db"),
        ("sqlite:///C:/bot.db", "C:/bot.db"),
        ("sqlite:///../bot.db", "../bot.db"),
        ("sqlite:///bot.db?mode=rwc", "bot.db"),
    ],
)
def test_sqlite_urls_name_a_file(url: str, path: str) -> None:
    """Three slashes are relative, four absolute; the path is percent-decoded."""
    target = parse_url(url, environ={"PGSSLMODE": "require", "PGPORT": "6543"})
    assert target == Target(kind="sqlite", path=path)


def test_sqlite_parameters_of_sqlalchemy_are_left_out_aloud() -> None:
    """Parameters of other SQLite clients are dropped, each with one warning."""
    target = parse_url("sqlite:///x.db?check_same_thread=false&timeout=5&timeout=6", environ={})
    assert (target.path, len(target.warnings)) == ("x.db", 2)


@pytest.mark.parametrize(
    ("url", "says", "hints"),
    [
        ("sqlite:///:memory:", "in memory", "sqlite:///"),
        ("sqlite://:memory:", "in memory", "sqlite:///"),
        ("sqlite:///%3Amemory%3A", "in memory", "sqlite:///"),
        ("sqlite:///file::memory:?cache=shared", "in memory", "sqlite:///"),
        ("sqlite:///x.db?mode=memory", "in memory", "sqlite:///"),
        ("sqlite://", "third slash", "sqlite:////"),
        ("sqlite:///", "no file", "sqlite:///"),
        ("sqlite:////", "no file", "sqlite:///"),
        ("sqlite:///storage/", "no file", "sqlite:///"),
        ("sqlite:///..", "no file", "sqlite:///"),
        ("sqlite:///file:x.db", "no file", "sqlite:///"),
        ("sqlite://storage/bot.db", "third slash", "sqlite:///storage/bot.db"),
        ("sqlite:///a%00.db", "path", "%"),
        ("sqlite:///a%0A.db", "control", "file"),
        ("sqlite:///100%.db", "% in the path", "%25"),
        ("sqlite:///a%ff.db", "UTF-8", "%"),
        ("sqlite:///x.db?mode=ro", "mode", ""),
        ("sqlite:///x.db?tiemout=1", "tiemout", "timeout"),
    ],
)
def test_sqlite_urls_that_keep_nothing_are_refused(url: str, says: str, hints: str) -> None:
    """Memory, directories, hosts and unreadable paths are refused with the way to write it."""
    error = refused(url)
    assert says in error.message
    assert hints in error.hint
    assert error.code in ("bad_url", "bad_parameter")


# --- what is refused ----------------------------------------------------------------------------

REFUSED = [
    # the text as a whole
    ("", "bad_url", "empty", "postgresql://"),
    ("  '' ", "bad_url", "empty", "postgresql://"),
    ("postgres://h/" + "x" * MAX_URL_CHARS, "bad_url", "longer", "postgresql://"),
    ('"' * 9 * MAX_URL_CHARS, "bad_url", "longer", "postgresql://"),
    ("db.example.com", "bad_url", "does not begin", "postgresql://"),
    ("storage/bot.db", "bad_url", "does not begin", "sqlite:///"),
    ("postgres:h/db", "bad_url", "does not begin", "postgresql://"),
    ("${{Postgres.DATABASE_URL}}", "bad_url", "does not begin", "placeholder"),
    ("jdbc:postgresql://h/db", "bad_url", "does not begin", "jdbc:"),
    ("postgres://u:[YOUR-PASSWORD]@h/db", "bad_url", "placeholder", "real password"),
    # schemes
    ("mysql://u:pw@h/db", "bad_scheme", "mysql://", "postgresql://"),
    ("mongodb+srv://u:pw@h/db", "bad_scheme", "mongodb+srv://", "sqlite:///"),
    ("redis://h", "bad_scheme", "redis://", "postgresql://"),
    ("http://h/db", "bad_scheme", "http://", "postgresql://"),
    ("prisma+postgres://h/?api_key=x", "bad_scheme", "prisma+postgres://", "postgresql://"),
    ("sqlite+pysqlcipher:///x.db", "bad_scheme", "sqlite+pysqlcipher://", "sqlite:///"),
    # characters that belong percent-encoded
    ("postgres://u:p@ss@h/db", "bad_url", "an @", "%40"),
    ("postgres://u:p#ss@h/db", "bad_url", "#", "%23"),
    ("postgres://u:p/ss@h/db", "bad_url", "an @", "%2F"),
    ("postgres://u:1/ss@h/db", "bad_url", "an @", "%2F"),
    ("postgres://u:p?ss@h/db", "bad_url", "an @", "%3F"),
    ("postgres://u:1?user=ss@h/db", "bad_url", "an @", "%3F"),
    ("postgres://u:p@ss?x=1@h/db", "bad_url", "an @", "%40"),
    ("postgres://u:p ss@h/db", "bad_url", "space", "%20"),
    ("postgres://u:p\nss@h/db", "bad_url", "line break", "%20"),
    ("postgres://u:pw@h/db # mine", "bad_url", "space", "%20"),
    ("postgres://u:p\ud800ss@h/db", "bad_url", "invisible", "%"),
    ("postgres://u:p%ss@h/db", "bad_url", "% in the password", "%25"),
    ("postgres://u:p%@h/db", "bad_url", "% in the password", "%25"),
    ("postgres://u:p%FFss@h/db", "bad_url", "password is not UTF-8", "%"),
    ("postgres://u%00:pw@h/db", "bad_url", "user name", "%"),
    # hosts and ports
    ("postgres://u:pw/db", "bad_url", "port", "percent-encoded"),
    ("postgres://h:0/db", "bad_url", "port", "host:5432"),
    ("postgres://h:65536/db", "bad_url", "port", "host:5432"),
    ("postgres://h:+1/db", "bad_url", "port", "host:5432"),
    ("postgres://h:\u0665/db", "bad_url", "port", "host:5432"),
    ("postgres://::1/db", "bad_url", "port", "[::1]"),
    ("postgres://a:1,b:x/db", "bad_url", "port", "host:5432"),
    ("postgres://[::1/db", "bad_url", "[ ]", "[2001:db8::1]"),
    ("postgres://[::1]x/db", "bad_url", "[ ]", "[2001:db8::1]"),
    ("postgres://[h]/db", "bad_url", "[ ]", "[2001:db8::1]"),
    ("postgres://[::zz]/db", "bad_url", "host", ""),
    ("postgres://h%20x/db", "bad_url", "host", ""),
    ("postgres://h\u00f6st/db", "bad_url", "host", ""),
    ("postgres://-h/db", "bad_url", "host", ""),
    ("postgres://h/db?hostaddr=name", "bad_url", "hostaddr", "host"),
    ("postgres://a,b/db?port=1,2,3", "bad_url", "number", "port"),
    ("postgres://a,b/db?hostaddr=10.0.0.1", "bad_url", "number", "hostaddr"),
    # parameters
    ("postgres://h/db?sslmod=require", "bad_parameter", "sslmod ", "sslmode"),
    ("postgres://h/db?SSLMode=require", "bad_parameter", "SSLMode", "sslmode"),
    ("postgres://h/db?connectTimeout=3", "bad_parameter", "connectTimeout", "connect_timeout"),
    ("postgres://h/db?zzz=3", "bad_parameter", "zzz", "Remove"),
    ("postgres://h/db?sslmode", "bad_parameter", "no =", "name=value"),
    ("postgres://h/db?replication=database", "bad_parameter", "replication connection", "Remove"),
    ("postgres://h/db?sslmode=requrie", "bad_parameter", "sslmode", "verify-full"),
    ("postgres://h/db?channel_binding=yes", "bad_parameter", "channel_binding", "prefer"),
    ("postgres://h/db?connect_timeout=3s", "bad_parameter", "connect_timeout", "=10"),
    ("postgres://h/db?target_session_attrs=rw", "bad_parameter", "target_", "read-write"),
    ("postgres://h/db?pgbouncer=maybe", "bad_parameter", "pgbouncer", "true"),
    ("postgres://h/db?ssl=%7B%7D", "bad_parameter", "ssl", "true"),
    ("postgres://h/db?schema=", "bad_parameter", "schema", "letters"),
    ("postgres://h/db?schema=a,b", "bad_parameter", "schema", "letters"),
    ("postgres://h/db?schema=pg_x", "bad_parameter", "schema", "pg_"),
    ("postgres://h/db?schema=1a", "bad_parameter", "schema", "letters"),
    ("postgres://h/db?schema=" + "a" * 64, "bad_parameter", "schema", "63"),
    ("postgres://h/db?x%00=1", "bad_url", "parameters", "%"),
    # key=value form
    ("host=h password=my secret", "bad_url", "breaks off", "single quotes"),
    ("host=h password='my", "bad_url", "breaks off", "single quotes"),
    ("host=h password='my\\'", "bad_url", "breaks off", "single quotes"),
    ("host= 'my", "bad_url", "breaks off", "single quotes"),
    ("host=h user= 'my=1", "bad_url", "breaks off", "single quotes"),
    ("host=h password=a b=c", "bad_parameter", "a parameter", "single quotes"),
    ("host=h hots=x", "bad_parameter", "hots", "host"),
    ("host=h\0", "bad_url", "NUL", ""),
    ("host=h user=\udc80", "bad_url", "UTF-8", ""),
]


@pytest.mark.parametrize(("url", "code", "says", "hints"), REFUSED)
def test_wrong_urls_are_refused_with_the_way_out(
    url: str, code: str, says: str, hints: str
) -> None:
    """Every mistake has a code, a message that names the place and a hint that names the remedy."""
    error = refused(url)
    assert (error.code, error.retryable) == (code, False)
    assert says in error.message
    assert hints in error.hint
    assert error.hint


@pytest.mark.parametrize(
    "url",
    [
        *(
            "postgres://h/db?password=a&zzz=1",
            "host=h password=a zzz=1",
            "postgres://h/db?zzz%0A=1",
        ),
        *("postgres://h/db?sslpassword=a&user=b&zzz=1", "postgres://h/db?" + "zzz" * 20 + "=1"),
    ],
)
def test_a_name_that_may_be_no_name_is_not_repeated(url: str) -> None:
    """What stands behind a password, or looks like no parameter at all, may be a secret."""
    error = refused(url)
    assert error.code == "bad_parameter"
    assert "zzz" not in error.message + error.hint


# --- no secret, no surprise ---------------------------------------------------------------------

CANARY = "kEsTrEl77"
NOISE = st.text(
    st.sampled_from("@:/?#%&=;,+$!'\"\\` \t\n[]{}()<>|^~12xX\u00e9\udc80\0"), max_size=4
)
TEMPLATES = [
    *("postgres://u:{}@h:5432/db", "postgresql+asyncpg://u:{}@h/db?ssl=true", "postgres://:{}@/db"),
    *("postgres://u:{}@h:x/db", "postgres://u:{}@[::1/db", "postgres://u:{}@h/db?sslmod=1"),
    *("postgres://u:{}@a:1,b:2/db?zz", "postgres://u:{}@h/db?schema=1"),
    *(
        "u:{}@h/db",
        "mysql://u:{}@h",
        "postgres://u:{}@h%zz/db",
        "postgres://u:{}@h/db?sslmode=nope",
    ),
    *("postgres:///db?user=u&password={}", "postgres://h/db?password={}&schema=x&zz=1"),
    *("postgres://h/db?sslpassword={}", "postgres://h/db?oauth_client_secret={}&x"),
    *("host=h password={} dbname=db", "host=h password='{}' dbname=db", "password={} host=h zz=1"),
    *(
        "dbname=db sslpassword={}",
        "DATABASE_URL='postgres://u:{}@h/db'",
        "jdbc:postgresql://u:{}@h",
    ),
    *("sqlite://u:{}@h/x.db", "sqlite+pysqlcipher://:{}@/x.db", "psql 'postgres://u:{}@h/db'"),
]


def attempt(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Give the result of a call, or the ConfigError that it raises."""
    try:
        return call(*args, **kwargs)
    except ConfigError as error:
        return error


def shown(result: Any) -> str:
    """Everything that a result or an error can print, with the exceptions behind it."""
    texts = [str(result), repr(result), str(getattr(result, "warnings", ""))]
    if isinstance(result, ConfigError):
        texts += [result.hint, result.code, result.message]
    if isinstance(result, BaseException):
        texts += traceback.format_exception(result)
        texts += [shown(link) for link in (result.__context__, result.__cause__) if link]
    return "\n".join(texts)


@profile(max_examples=400)
@given(template=st.sampled_from(TEMPLATES), before=NOISE, after=NOISE)
def test_a_password_is_never_shown(template: str, before: str, after: str) -> None:
    """No error, `str` or `repr` holds the password, whatever stray characters stand in it."""
    url = template.format(before + CANARY + after)
    assert CANARY not in shown(attempt(parse_url, url, environ={}))


@profile(max_examples=200)
@given(template=st.sampled_from(TEMPLATES), before=NOISE, after=NOISE, way=st.integers(0, 4))
def test_settings_never_show_a_password(template: str, before: str, after: str, way: int) -> None:
    """The same holds for settings, on every way by which a URL comes in, the wrong ones too."""
    url = template.format(before + CANARY + after)
    variable = ["", "STANDFAST_DATABASE_URL", "DATABASE_URL", "", "DATABASE_URL_FILE"][way]
    environ = {variable: url} if variable else {}
    if way == 3:
        environ = {"DATABASE_URL_FILE": "/run/secrets/url"}

    def read_file(name: str) -> str:
        if name != "/run/secrets/url":
            raise FileNotFoundError(2, "No such file or directory", name)
        return url

    argument = None if way else url
    assert CANARY not in shown(
        attempt(load_settings, argument, environ=environ, read_file=read_file)
    )


TOKENS = st.sampled_from(
    [
        *("postgres://", "postgresql+psycopg://", "sqlite:///", "sqlite://", "mysql://", "host="),
        *("dbname=", "password=", "user=", "'", '"', "\\", "@", ":", "/", "?", "&", "=", "#", "%"),
        *("%20", "%00", "%ff", "[", "]", "::1", "10.0.0.1", "db", ",", " ", "5432", "sslmode="),
        *("require", "ssl=", "true", "schema=", "port=", "hostaddr=", "\n", "\ud800"),
        *("\0", "\ufeff"),
        *("DATABASE_URL=", "export ", "fe80::1%25eth0", "pgbouncer=", "options=", "99999", "zz="),
    ]
)
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60) | st.lists(
    TOKENS | st.text(st.characters(exclude_categories=()), max_size=2), max_size=14
).map("".join)


@profile(max_examples=500)
@given(ANYTHING)
def test_any_text_is_read_or_refused_as_a_config_error(url: str) -> None:
    """No string raises anything but ConfigError, and what is read is good for libpq as it is."""
    target = attempt(parse_url, url, environ={})
    if isinstance(target, ConfigError):
        assert target.hint
        assert (target.__context__, target.__cause__) == (None, None)
        return
    assert target.display.isprintable() or target.kind == "sqlite"
    if target.kind == "postgresql":
        given_back = conninfo.conninfo_to_dict(conninfo.make_conninfo("", **target.params))
        assert given_back == target.params
    else:
        assert target.path
        assert "\0" not in target.path


WORD = st.text(st.sampled_from("abz019@:/?#%&=,;+$! '\"\\[]\u00e9\u4e2d"), min_size=1, max_size=8)


def encoded(text: str) -> str:
    """Percent-encode every byte: no convention about safe characters is taken for granted."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


@profile(max_examples=200)
@given(
    user=WORD,
    password=WORD,
    database=WORD,
    places=st.lists(
        st.tuples(
            st.sampled_from(["a.example.com", "db", "10.0.0.1", "[::1]", "%2Frun%2Fpg"]),
            st.sampled_from(["", ":1", ":5432", ":65535"]),
        ),
        min_size=1,
        max_size=3,
    ),
    query=st.dictionaries(
        st.sampled_from(["application_name", "options", "passfile", "sslrootcert", "dbname"]), WORD
    ),
)
def test_well_written_urls_mean_what_libpq_means(
    user: str, password: str, database: str, places: list[tuple[str, str]], query: dict[str, str]
) -> None:
    """On URLs that libpq accepts, the parameters are those of libpq's own parser."""
    url = f"postgresql://{encoded(user)}:{encoded(password)}@"
    url += ",".join(host + port for host, port in places) + "/" + encoded(database)
    url += "?" + "&".join(f"{name}={encoded(value)}" for name, value in query.items())
    expected: dict[str, Any] = dict(conninfo.conninfo_to_dict(url))
    ports = expected.pop("port", "").split(",")
    if any(ports):  # an empty item of a list stands for 5432
        expected["port"] = ",".join(port or "5432" for port in ports)
    found = dict(parse_url(url, environ={"PGSSLMODE": "prefer"}).params)
    assert found == expected


@profile(max_examples=300)
@example([("password", "=", "a\\\nb", " "), ("options", "=", "'a\\\nb'", "")])
@example([("password", "=", "a\u2003b\x1cc", " ")])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["user", "password", "dbname", "options", " user ", "pass word"]),
            st.sampled_from(["=", " = ", "= ", "=\n", ""]),
            st.text(st.sampled_from("ab '\\=\n\t\u00e9"), max_size=6),
            st.sampled_from([" ", "\n", "", "  "]),
        ),
        max_size=4,
    )
)
def test_key_value_texts_mean_what_libpq_means(items: list[tuple[str, str, str, str]]) -> None:
    """The key=value form is split as by libpq's parser: same values, same refusals."""
    text = "host=h " + "".join("".join(item) for item in items)
    text = clean_url(text)
    try:
        expected: dict[str, Any] | None = dict(conninfo.conninfo_to_dict(text))
    except psycopg.ProgrammingError:
        expected = None
    found = getattr(attempt(parse_url, text, environ={}), "params", None)
    if expected is not None:
        expected = {name: value for name, value in expected.items() if value != ""}
    assert found == expected


# --- load_settings ------------------------------------------------------------------------------


def test_nothing_given_is_the_embedded_default() -> None:
    """Without any URL the store is SQLite in the data directory, and says where that came from."""
    found = load_settings(environ={})
    assert found == Settings(
        url=None,
        target=Target(kind="sqlite", path=str(Path("storage", "fallback.db"))),
        source="default",
        data_dir=Path("storage"),
        deadline_s=1.0,
    )


FILES = {
    "/run/a": "postgres://file-a/db\n",
    "/run/b": "'postgres://file-b/db'",
    "/run/empty": " \n",
}


@pytest.mark.parametrize(
    ("url", "environ", "host", "source"),
    [
        ("postgres://arg/db", {"STANDFAST_DATABASE_URL": "postgres://h/db"}, "arg", "argument"),
        (
            None,
            {"STANDFAST_DATABASE_URL": "postgres://h/db", "DATABASE_URL": "postgres://d/db"},
            "h",
            "STANDFAST_DATABASE_URL",
        ),
        (None, {"DATABASE_URL": "DATABASE_URL='postgres://d/db' "}, "d", "DATABASE_URL"),
        (
            None,
            {"STANDFAST_DATABASE_URL": " ", "DATABASE_URL": "postgres://d/db"},
            "d",
            "DATABASE_URL",
        ),
        (
            None,
            {"STANDFAST_DATABASE_URL_FILE": "/run/a", "DATABASE_URL": "postgres://d/db"},
            "file-a",
            "STANDFAST_DATABASE_URL_FILE",
        ),
        (None, {"DATABASE_URL_FILE": '"/run/b" '}, "file-b", "DATABASE_URL_FILE"),
        (
            None,
            {"DATABASE_URL_FILE": "/run/b", "DATABASE_URL": ' "" '},
            "file-b",
            "DATABASE_URL_FILE",
        ),
        (None, {"DATABASE_URL_FILE": " ", "DATABASE_URL": "postgres://d/db"}, "d", "DATABASE_URL"),
        (
            None,
            {"STANDFAST_DATABASE_URL": "postgres://h/db", "DATABASE_URL_FILE": "/run/missing"},
            "h",
            "STANDFAST_DATABASE_URL",
        ),
    ],
)
def test_the_url_comes_from_the_first_place_that_has_one(
    url: str | None, environ: dict[str, str], host: str, source: str
) -> None:
    """Argument, STANDFAST_DATABASE_URL, DATABASE_URL, each with its file; a blank one is unset."""
    found = load_settings(url, environ=environ, read_file=FILES.__getitem__)
    assert (found.target.params["host"], found.source) == (host, source)
    assert found.url == f"postgres://{host}/db"


@pytest.mark.parametrize("blank", ["", "  ", '""', "' '"])
def test_a_blank_variable_is_unset(blank: str) -> None:
    """An empty variable, with or without quotes, is no variable, whichever it is."""
    names = ["DATABASE_URL", "DATABASE_URL_FILE", "STANDFAST_DATABASE_URL", "STANDFAST_DATA_DIR"]
    names += ["STANDFAST_DATABASE_URL_FILE", "STANDFAST_DEADLINE_S"]
    assert load_settings(environ=dict.fromkeys(names, blank)) == load_settings(environ={})


SECRET_FILE = "/run/secrets/x"


def fail_with(error: Exception) -> Any:
    """Build a `read_file` that fails."""

    def read_file(name: str) -> str:
        raise error

    return read_file


@pytest.mark.parametrize(
    ("read_file", "says"),
    [
        (fail_with(FileNotFoundError(2, "No such file or directory", SECRET_FILE)), "No such file"),
        (fail_with(PermissionError(13, "Permission denied", SECRET_FILE)), "Permission denied"),
        (fail_with(OSError()), "reading failed"),
        (fail_with(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")), "UTF-8"),
        ({SECRET_FILE: " \n"}.__getitem__, "empty"),
    ],
)
def test_a_named_file_must_hold_a_url(read_file: Any, says: str) -> None:
    """A secret file that cannot be read stops the start: it never means `no database`."""
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"DATABASE_URL_FILE": SECRET_FILE}, read_file=read_file)
    assert says in caught.value.message
    assert "DATABASE_URL_FILE" in caught.value.message
    assert SECRET_FILE not in shown(caught.value)


def test_a_named_file_is_read_from_disk(tmp_path: Path) -> None:
    """Without `read_file` the file is read as UTF-8, and refused when it is too long."""
    file = tmp_path / "url"
    file.write_text("\ufeffpostgres://u:p%C3%A4@h/db\n", encoding="utf-8")
    assert load_settings(environ={"DATABASE_URL_FILE": str(file)}).target.params["host"] == "h"
    file.write_text("x" * 20 * MAX_URL_CHARS, encoding="utf-8")
    with pytest.raises(ConfigError, match="longer"):
        load_settings(environ={"DATABASE_URL_FILE": str(file)})
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(environ={"DATABASE_URL_FILE": str(tmp_path / "missing")})


@pytest.mark.parametrize(
    ("kwargs", "environ", "says"),
    [
        ({"url": ""}, {}, "argument url is empty"),
        ({"url": " '' "}, {"DATABASE_URL": "postgres://h"}, "argument url is empty"),
        ({}, {"DATABASE_URL": "postgres://h", "DATABASE_URL_FILE": "/run/a"}, "both set"),
        ({}, {"DATABASE_URL_FILE": "postgres://h/db"}, "DATABASE_URL_FILE seems"),
        ({"url": "mysql://h"}, {}, "argument: the database URL"),
        ({}, {"DATABASE_URL": "mysql://h"}, "DATABASE_URL: the database URL"),
        ({}, {"DATABASE_URL_FILE": "/run/empty"}, "it is empty"),
        ({"data_dir": ""}, {}, "argument data_dir"),
        ({"data_dir": "a\0b"}, {}, "argument data_dir"),
        ({}, {"STANDFAST_DATA_DIR": "a\nb"}, "STANDFAST_DATA_DIR"),
        ({}, {"STANDFAST_DATA_DIR": "postgres://u:pw@h/db"}, "STANDFAST_DATA_DIR"),
    ],
)
def test_wrong_settings_are_named(
    kwargs: dict[str, Any], environ: dict[str, str], says: str
) -> None:
    """A setting that cannot be used is refused by the name of the argument or the variable."""
    with pytest.raises(ConfigError) as caught:
        load_settings(environ=environ, read_file=FILES.__getitem__, **kwargs)
    assert says in caught.value.message
    assert caught.value.hint


def test_codes_and_hints_survive_the_name_of_the_source() -> None:
    """An error of the URL keeps its code and hint when the variable's name is put before it."""
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"DATABASE_URL": "postgres://h/db?sslmod=1"})
    assert (caught.value.code, caught.value.hint) == ("bad_parameter", "Did you mean sslmode?")
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("argument", "variable", "expected"),
    [
        (None, None, 1.0),
        (None, "2.5", 2.5),
        (None, " '3' ", 3.0),
        (None, ".25", 0.25),
        (0.5, "2.5", 0.5),
        (3600, None, 3600.0),
        (0.5, "nonsense", 0.5),
    ],
)
def test_the_deadline_has_a_twin(
    argument: float | None, variable: str | None, expected: float
) -> None:
    """The argument wins over STANDFAST_DEADLINE_S, which wins over 1 second."""
    environ = {} if variable is None else {"STANDFAST_DEADLINE_S": variable}
    deadline_s = load_settings(deadline_s=argument, environ=environ).deadline_s
    assert (deadline_s, type(deadline_s)) == (expected, float)


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "nan", "inf", "1e400", "1_0", "1,5", "1s", "abc", "0x1", "\u0661", "3600.1", "0.0"],
)
def test_a_deadline_is_a_plain_number_of_seconds(text: str) -> None:
    """Nonsense in STANDFAST_DEADLINE_S stops the start instead of setting some other deadline."""
    with pytest.raises(ConfigError, match="STANDFAST_DEADLINE_S"):
        load_settings(environ={"STANDFAST_DEADLINE_S": text})


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), 3601, 10**400, True])
def test_a_deadline_argument_is_judged_alike(value: float) -> None:
    """The argument has the same limits as the variable."""
    with pytest.raises(ConfigError, match="deadline_s"):
        load_settings(deadline_s=value, environ={})


def test_the_data_directory_has_a_twin() -> None:
    """The argument wins over STANDFAST_DATA_DIR, and the embedded file lies inside."""
    environ = {"STANDFAST_DATA_DIR": ' "/data/my bot" '}
    found = load_settings(environ=environ)
    assert (found.data_dir, found.target.path) == (Path("/data/my bot"), "/data/my bot/fallback.db")
    assert load_settings(data_dir=Path("x"), environ=environ).data_dir == Path("x")
    with_url = load_settings("sqlite:///bot.db", data_dir="x", environ={})
    assert (with_url.data_dir, with_url.target.path) == (Path("x"), "bot.db")


def test_settings_show_the_address_and_not_the_url() -> None:
    """`repr` helps to see what was decided, without the URL."""
    found = load_settings("postgres://u:pw@h/db", environ={})
    assert str(found) == repr(found)
    assert repr(found) == (
        "Settings(target='postgresql://u@h/db', source='argument', data_dir='storage', "
        "deadline_s=1.0)"
    )


def test_the_environment_of_the_process_is_read_at_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without `environ` the variables count as they are now: hosts change them while a bot runs."""
    for name in ("STANDFAST_DATABASE_URL", "STANDFAST_DATABASE_URL_FILE", "DATABASE_URL_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", "postgres://one.example.com/db")
    monkeypatch.delenv("PGSSLMODE", raising=False)
    assert load_settings().target.params["host"] == "one.example.com"
    monkeypatch.setenv("DATABASE_URL", "postgres://two.example.com/db")
    monkeypatch.setenv("PGSSLMODE", "prefer")
    assert load_settings().target.params == {"host": "two.example.com", "dbname": "db"}
    assert parse_url("postgres://x.example.com").params == {"host": "x.example.com"}


def test_settings_are_read_without_the_driver() -> None:
    """Reading settings imports no database driver: help and plans start at once."""
    code = (
        "import sys; from standfast.config.settings import load_settings;"
        "load_settings('postgres://u:pw@h/db', environ={});"
        "sys.exit(any(name in sys.modules for name in ('psycopg', 'apsw', 'difflib', 'asyncio')))"
    )
    source = Path(sys.modules[load_settings.__module__].__file__ or "").parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(source)}, check=False
    )
    assert done.returncode == 0
