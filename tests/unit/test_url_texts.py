"""`parse_url`: what pasting leaves is taken off; SQLite files; refusals with a way out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.config.settings import Target, parse_url
from standfast.config.url import MAX_URL_CHARS, clean_url
from standfast.errors import ConfigError


def refused(url: str, **environ: str) -> ConfigError:
    """Parse a URL that must be refused and give the error."""
    with pytest.raises(ConfigError) as caught:
        parse_url(url, environ=environ)
    return caught.value


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
