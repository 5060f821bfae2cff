"""Addresses as hosts write them, databases that do not answer, passwords that nobody sees."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import psycopg
import pytest

from support.cli import Ran, run_cli
from support.moving import Place, catalog, tree

CANARY = "c4n4ry-7391"


def run(root: Path, *arguments: str, url: str | None, **env: str) -> Ran:
    if url is not None:
        env["DATABASE_URL"] = url
    return run_cli(*arguments, cwd=root, env=env)


# ---- addresses


def keywords(url: str) -> str:
    """The same address in libpq's key=value form."""
    parts = urlsplit(url)
    password = unquote(parts.password or "").replace("\\", r"\\").replace("'", r"\'")
    return (
        f"host={parts.hostname} port={parts.port} user={parts.username} password='{password}'"
        f" dbname={parts.path[1:]}"
    )


FORMS = {
    "postgresql://": lambda url: url,
    "postgres://": lambda url: url.replace("postgresql://", "postgres://"),
    "asyncpg": lambda url: url.replace("postgresql://", "postgresql+asyncpg://"),
    "psycopg2": lambda url: url.replace("postgresql://", "postgres+psycopg2://"),
    "quotes": lambda url: f'"{url}"',
    "single quotes": lambda url: f"'{url}'",
    "spaces": lambda url: f"  {url} \n",
    "a pasted line": lambda url: f"DATABASE_URL={url}",
    "a pasted command": lambda url: f"psql '{url}'",
    "a pooler": lambda url: f"{url}?pgbouncer=true&connection_limit=1",
    "sslmode": lambda url: f"{url}?sslmode=prefer",
    "keywords": keywords,
}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("how", ["DATABASE_URL", "STANDFAST_DATABASE_URL", "--to", "--url", "file"])
def test_every_form_of_an_address_leads_there(
    pg_url: str, tmp_path: Path, form: str, how: str
) -> None:
    """Each form, given in each way, reaches the same real database."""
    url = FORMS[form](pg_url)
    name = "t_" + "".join(char for char in form + how if char.isalnum()).lower()
    flags: list[str] = []
    env: dict[str, str] = {}
    if how.startswith("--"):
        flags = [how, url]
    elif how == "file":
        (tmp_path / "url").write_text(url)
        env = {"DATABASE_URL_FILE": str(tmp_path / "url")}
    else:
        env = {how: url}
    ran = run_cli("put", name, "k", '{"a": 1}', *flags, cwd=tmp_path, env=env)
    assert ran.code == 0, ran.err
    with psycopg.connect(pg_url) as conn:
        query = psycopg.sql.SQL("SELECT key, data FROM {}").format(psycopg.sql.Identifier(name))
        assert conn.execute(query).fetchall() == [("k", {"a": 1})]
    ran = run_cli("get", name, "k", *flags, cwd=tmp_path, env=env)
    assert (ran.code, ran.out) == (0, '{"a":1}\n')
    assert ran.err.count("warning: ") == (2 if form == "a pooler" else 0)


def test_a_foreign_schema_parameter_leads_into_that_schema(
    pg_database: str, tmp_path: Path
) -> None:
    """`?schema=app`, as Prisma writes it: the tables are made there."""
    ran = run(tmp_path, "put", "views", "k", "1", url=f"{pg_database}?schema=app")
    assert ran.code == 2
    assert "app" in ran.err
    with psycopg.connect(pg_database) as conn:
        conn.execute("CREATE SCHEMA app")
    (tmp_path / "views.json").write_text('{"a": 1}')
    ran = run(tmp_path, "migrate", "views.json", url=f"{pg_database}?schema=app")
    assert ran.code == 0, ran.err
    assert ("app", "views", "r") in catalog(pg_database)[1]
    assert run(tmp_path, "get", "views", "a", url=f"{pg_database}?schema=app").out == "1\n"


def test_a_flag_goes_before_the_environment(pg_database: str, tmp_path: Path) -> None:
    """--to, then STANDFAST_DATABASE_URL, then DATABASE_URL, then SQLite in the data directory."""
    one, two = "sqlite:///one.db", "sqlite:///two.db"
    env = {"STANDFAST_DATABASE_URL": one}
    assert run(tmp_path, "put", "c", "k", "1", "--to", two, url=pg_database, **env).code == 0
    assert run(tmp_path, "put", "c", "k", "2", url=pg_database, **env).code == 0
    assert run(tmp_path, "put", "c", "k", "3", url=pg_database).code == 0
    (tmp_path / "elsewhere").mkdir()
    assert run(tmp_path / "elsewhere", "put", "c", "k", "4", url=None).code == 0
    assert run(tmp_path, "get", "c", "k", "--to", two, url=None).out == "1\n"
    assert run(tmp_path, "get", "c", "k", "--to", one, url=None).out == "2\n"
    assert run(tmp_path, "get", "c", "k", "--to", pg_database, url=None).out == "3\n"
    assert run(tmp_path / "elsewhere", "get", "c", "k", url=None).out == "4\n"
    assert (tmp_path / "elsewhere" / "storage" / "fallback.db").exists()


def test_sqlite_addresses_are_relative_or_absolute(tmp_path: Path) -> None:
    """Three slashes start at the current directory, four at the root."""
    there = tmp_path / "deep" / "er"
    there.mkdir(parents=True)
    assert run(there, "put", "c", "k", "1", url="sqlite:///data/bot.db").code == 0
    assert (there / "data" / "bot.db").exists()
    absolute = f"sqlite:///{there / 'data' / 'bot.db'}"
    assert absolute.startswith("sqlite:////")
    assert run(tmp_path, "get", "c", "k", url=absolute).out == "1\n"
    assert run(tmp_path, "get", "c", "k", url="sqlite:///deep/er/data/bot.db").out == "1\n"


# ---- databases that do not answer


@pytest.fixture
def refused() -> str:
    """The URL of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"postgresql://bot:{CANARY}@127.0.0.1:{port}/bot"


@pytest.fixture
def no_postgres() -> Iterator[str]:
    """The URL of a server that speaks something else."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"postgresql://bot:{CANARY}@127.0.0.1:{server.getsockname()[1]}/bot"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


COMMANDS = [
    *(["migrate", "views.json"], ["migrate", ".", "--yes"], ["plan", "views.json"]),
    *(["get", "c", "k"], ["put", "c", "k", "1"], ["patch", "c", "k", "{}"], ["delete", "c", "k"]),
    *(["list"], ["list", "c"], ["export", "c"], ["schema", "status"], ["schema", "apply"]),
    ["schema", "sql"],
]


def assert_fails(root: Path, url: str, *, code: int, error: str, commands: list[list[str]]) -> None:
    """Each command ends with this code and error, shows no password and changes nothing."""
    (root / "views.json").write_text('{"a": 1}')
    before = tree(root)
    for command in commands:
        ran = run(root, *command, "--json", url=url)
        assert (ran.code, ran.document["error"]["code"]) == (code, error), command
        assert ran.document["error"]["hint"]
        assert CANARY not in ran.said
        ran = run(root, *command, url=url)
        assert (ran.code, ran.out) == (code, "")
        assert CANARY not in ran.said
        if command[0] in ("migrate", "plan"):
            assert ran.err.startswith("scan: ")
    assert tree(root) == before
    assert [path.name for path in root.iterdir()] == ["views.json"]


def test_a_port_where_nobody_listens_is_exit_3(refused: str, tmp_path: Path) -> None:
    """Every command: exit 3, what was tried and where, nothing changed on this side."""
    assert_fails(tmp_path, refused, code=3, error="connection", commands=COMMANDS)
    place = refused.rpartition("@")[2]
    assert place in run(tmp_path, "list", url=refused).err


def test_a_server_that_is_no_postgres_is_exit_3(no_postgres: str, tmp_path: Path) -> None:
    """A server that answers something else is no database: exit 3."""
    assert_fails(tmp_path, no_postgres, code=3, error="not_postgresql", commands=COMMANDS[:4])


def test_a_wrong_password_is_exit_3(pg_url: str, tmp_path: Path) -> None:
    """The server refuses the password: exit 3, and the password that was tried is not shown."""
    parts = urlsplit(pg_url)
    url = f"postgresql://{parts.username}:{CANARY}@{parts.hostname}:{parts.port}{parts.path}"
    assert_fails(tmp_path, url, code=3, error="auth", commands=COMMANDS[:4])


def test_a_database_that_does_not_exist_is_exit_2(pg_url: str, tmp_path: Path) -> None:
    """A name that the server does not know is a matter of configuration: exit 2."""
    url = pg_url.rpartition("/")[0] + "/no_such_database"
    assert_fails(tmp_path, url, code=2, error="no_database", commands=COMMANDS[:4])
    assert "no_such_database" in run(tmp_path, "list", url=url).err


# ---- passwords


BAD_URLS = [
    f"postgresql://bot:{CANARY}@db.example:5432/bot?nope=1",
    f"postgresql://bot:{CANARY}@db.example:5432/bot?sslmode={CANARY}",
    f"postgresql://bot:{CANARY}@db.example:99999/bot",
    f"postgresql://bot:{CANARY}@db.example:port/bot",
    f"postgresql://bot:{CANARY}#1@db.example/bot",
    f"postgresql://bot:{CANARY}@1@db.example/bot",
    f"postgresql://bot:{CANARY}/x@db.example/bot",
    f"postgresql://bot:{CANARY}%zz@db.example/bot",
    f"postgresql://bot:{CANARY} x@db.example/bot",
    f"postgresql://bot:{CANARY}@[::1/bot",
    f"mysql://bot:{CANARY}@db.example/bot",
    f"bot:{CANARY}@db.example/bot",
    f"host=db.example password={CANARY} {CANARY}=1",
    f"host=db.example password='{CANARY}",
    f"sqlite://bot:{CANARY}@db.example/bot",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_wrong_address_never_shows_its_password(tmp_path: Path, url: str) -> None:
    """Whatever is wrong with an address: exit 2, and no part of its secret in any output."""
    (tmp_path / "views.json").write_text("{}")
    for command in (["list"], ["migrate", "views.json"], ["schema", "sql"], ["runs"]):
        for flags in ([], ["--json"], ["--to", url], ["--to", url, "--json"]):
            ran = run(tmp_path, *command, *flags, url=None if "--to" in flags else url)
            assert ran.code == 2, ran.err
            assert CANARY not in ran.said
    assert [path.name for path in tmp_path.iterdir()] == ["views.json"]


def test_a_password_is_written_nowhere(pg_database: str, tmp_path: Path) -> None:
    """A whole migration leaves the password in no output, no log, no state, no table."""
    password = urlsplit(pg_database).password
    assert password
    secrets = {password, unquote(password), quote(unquote(password), safe="")}
    place = Place(tmp_path, pg_database)
    place.write("views.json", {"a": 1})
    place.write("bad.json", "{")
    said = ""
    for command in (
        *(["plan", "."], ["migrate", ".", "--yes"], ["migrate", ".", "--yes", "--skip-bad"]),
        *(["runs"], ["runs", "--json"], ["list"], ["schema", "status"], ["schema", "sql"]),
        *(["verify", "20"], ["rollback", "20", "--json"], ["runs"]),
    ):
        ran = run_cli(*command, cwd=tmp_path, env=place.env)
        assert ran.code in (0, 4), ran.err
        said += ran.said
    assert place.backend.display in said
    written = b"".join(content for _, _, content in tree(tmp_path).values())
    assert b"views" in written
    stored = repr(catalog(pg_database))
    for secret in secrets:
        assert secret not in said
        assert secret.encode() not in written
        assert secret not in stored
    place.close()


def test_a_bug_does_not_show_the_password(
    pg_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception whose text holds the address does not show it: exit 70."""

    def explode(*_: object, **__: object) -> None:
        raise RuntimeError(pg_database)

    monkeypatch.setattr("standfast.backends.postgres.backend.PostgresBackend.check", explode)
    password = urlsplit(pg_database).password
    assert password
    ran = run(tmp_path, "list", url=pg_database)
    assert ran.code == 70
    assert password not in ran.said
    assert unquote(password) not in ran.said
