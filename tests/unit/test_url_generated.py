"""`parse_url` on generated texts: no password is shown, no error is foreign, libpq agrees."""

from __future__ import annotations

from typing import Any

import psycopg
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from psycopg import conninfo

from standfast.config.settings import load_settings, parse_url
from standfast.config.url import clean_url
from standfast.errors import ConfigError
from support.shown import attempt, shown

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
