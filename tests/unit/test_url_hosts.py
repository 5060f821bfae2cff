"""`parse_url`: what real hosts write becomes libpq's parameters, and TLS by default."""

from __future__ import annotations

import pytest
from psycopg import conninfo, pq

from standfast.config.settings import is_private_host, parse_url
from standfast.config.url import LIBPQ_KEYWORDS

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
