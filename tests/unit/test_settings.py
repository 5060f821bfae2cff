"""`load_settings`: where each setting comes from, what is refused, and what is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from standfast.config.settings import Settings, Target, load_settings, parse_url, read_dotenv
from standfast.config.url import MAX_URL_CHARS
from standfast.errors import ConfigError
from support.shown import shown

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
    """An empty variable, with or without quotes, is no variable, but for that of the URL."""
    names = ["DATABASE_URL_FILE", "STANDFAST_DATA_DIR"]
    names += ["STANDFAST_DATABASE_URL_FILE", "STANDFAST_DEADLINE_S"]
    assert load_settings(environ=dict.fromkeys(names, blank)) == load_settings(environ={})


@pytest.mark.parametrize("blank", ["", "  ", '""', "' '"])
@pytest.mark.parametrize("name", ["DATABASE_URL", "STANDFAST_DATABASE_URL"])
def test_a_blank_url_is_not_taken_for_sqlite(name: str, blank: str) -> None:
    """A host that sets the variable and leaves it empty has forgotten the database: an error that
    names the variable.  Where another one names the database, that counts."""
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={name: blank})
    assert caught.value.code == "bad_url"
    assert name in caught.value.message
    other = ({"DATABASE_URL", "STANDFAST_DATABASE_URL"} - {name}).pop()
    assert load_settings(environ={name: blank, other: "sqlite:///x.db"}).target.path == "x.db"
    assert load_settings("sqlite:///x.db", environ={name: blank}).target.path == "x.db"


def test_a_dotenv_that_nobody_reads_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite is not used silently beside a `.env` that names a database; its value is not shown."""
    monkeypatch.chdir(tmp_path)
    assert load_settings().target.warnings == ()
    (tmp_path / ".env").write_text("# comment\nexport DATABASE_URL='postgres://u:secret@h/db'\n")
    (warning,) = load_settings().target.warnings
    assert str(tmp_path / ".env") in warning
    assert "secret" not in warning
    assert load_settings("sqlite:///x.db").target.warnings == ()
    assert load_settings(environ={}).target.warnings == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\ufeffX=a\r\n", "a"),
        ('X = "a b" # c\n', "a b"),
        ("X=a # c\n", "a"),
        ("X=a#b\n", "a#b"),
        ("X='a # b'\n", "a # b"),
        ("export  X='a\"b'", 'a"b'),
        ("X=\n", ""),
        ("X=# c\n", ""),
        ("X=''\n", ""),
        ("X=it's\n", "it's"),
    ],
)
def test_a_dotenv_is_read_as_others_read_it(tmp_path: Path, text: str, value: str) -> None:
    """A byte order mark, quotes and comments are not part of a name or a value."""
    path = tmp_path / ".env"
    path.write_bytes(text.encode())
    assert read_dotenv(path) == {"X": value}


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


@pytest.mark.process
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
