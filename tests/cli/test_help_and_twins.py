"""Every command explains itself at once, and every flag can be given by a variable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from standfast.cli.main import DECISIONS, has_twin, twin
from support.cli import run_cli
from support.commands import COMMANDS, LEAVES, run, words_of
from support.moving import Place

# ---- help


def test_the_commands_are_all_there() -> None:
    """The verbs that the design names, as far as there is something behind them."""
    names = {words[0] for words, _ in COMMANDS}
    assert names == set(
        "migrate plan verify rollback runs get put patch delete list export"
        " status journal conflicts doctor backup cleanup promote demo serve completion"
        " schema".split()
    )


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=words_of)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(words: list[str], command: click.Command, flag: str) -> None:
    """--help: exit 0, on stdout, with a sentence of effect; every option has one too."""
    ran = run_cli(*words, flag)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: standfast {' '.join(words)} [")
    assert command.help
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help or param.name == "limit", param.opts


def test_the_overview_names_every_command_and_exit_code() -> None:
    """`standfast --help` is the whole picture on one page; without arguments it comes too."""
    ran = run_cli("--help")
    assert (ran.code, ran.err) == (0, "")
    for words, _ in COMMANDS:
        assert words[0] in ran.out
    for code in ("0 done", "1 the answer", "2 usage", "3 database", "4 data", "5 lock", "130"):
        assert code in ran.out
    ran = run_cli()
    assert (ran.code, ran.out) == (2, "")
    assert "Commands:" in ran.err


def test_the_version_is_told() -> None:
    """--version is the package's."""
    from standfast import __version__

    assert run_cli("--version").out == f"standfast, version {__version__}\n"


@pytest.mark.process
@pytest.mark.parametrize(
    "words",
    [
        *(["--help"], ["migrate", "--help"], ["--version"], ["nope"], ["status", "--help"]),
        *(["journal", "drain", "--help"], ["conflicts", "show", "--help"], ["doctor", "--help"]),
    ],
)
def test_help_loads_no_driver(words: list[str]) -> None:
    """Help comes at once: neither psycopg nor apsw nor rich is imported for it."""
    code = (
        "import sys; from standfast.cli.main import run_command; run_command(sys.argv[1:]);"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))
    assert "click" in loaded
    assert loaded & {"psycopg", "apsw", "rich", "asyncio"} <= (
        {"asyncio"} if words[0] == "migrate" else set()
    )


@pytest.mark.process
def test_the_first_line_comes_before_the_driver(tmp_path: Path) -> None:
    """`scan: ...` is there before psycopg is even imported: nobody looks at an empty screen."""
    fake = tmp_path / "path" / "psycopg"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("import sys; print('psycopg', file=sys.stderr); sys.exit(9)")
    (tmp_path / "views.json").write_text("{}")
    env = os.environ | {"PYTHONPATH": str(tmp_path / "path"), "DATABASE_URL": "postgresql://h/d"}
    for command in (["migrate"], ["plan"], ["migrate", "--dry-run"]):
        done = subprocess.run(
            [sys.executable, "-m", "standfast", *command, "views.json"],
            *(),
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr.splitlines() == ["scan: reading views.json", "psycopg"]
        assert done.returncode == 9


# ---- twins in the environment


@pytest.mark.parametrize(("words", "command"), LEAVES, ids=words_of)
def test_every_flag_names_its_twin(words: list[str], command: click.Command) -> None:
    """--help gives the variable of every setting; a flag that decides something has none."""
    shown = " ".join(run_cli(*words, "--help").out.split())
    options = [param for param in command.params if isinstance(param, click.Option)]
    # `demo` makes its own database and directory.
    common = set[str]() if words == ["demo"] else {"--to", "--data-dir", "--json"}
    assert common <= {option.opts[0] for option in options}
    settings = [one for one in options if has_twin(one) or one.opts[0] in ("--to", "--data-dir")]
    for option in settings:
        name = {"--to": "STANDFAST_DATABASE_URL"}.get(option.opts[0], twin(option))
        assert f"[env var: {name}" in shown, option.opts
    assert shown.count("[env var: ") == len(settings)


@pytest.mark.parametrize("flag", sorted(DECISIONS))
def test_nobody_agrees_by_a_variable(flag: str) -> None:
    """STANDFAST_ALL=1 STANDFAST_YES=1 gave up acknowledged writes: what decides, or says what
    becomes of data, is on the command line or it is not said."""
    having = [
        option
        for _, command in LEAVES
        for option in command.params
        if isinstance(option, click.Option) and flag in option.opts
    ]
    assert having
    assert all(option.envvar is None for option in having)


def test_the_names_of_twins_are_those_of_the_flags() -> None:
    """A variable is named as its longest flag is spelled."""
    (migrate,) = (command for words, command in COMMANDS if words == ["migrate"])
    names = {p.opts[0]: twin(p) for p in migrate.params if isinstance(p, click.Option)}
    assert names["--key"] == "STANDFAST_KEY"
    assert names["-n"] == "STANDFAST_DRY_RUN"
    assert names["--on-conflict"] == "STANDFAST_ON_CONFLICT"


def test_twins_of_migrate_take_effect(embedded: Place) -> None:
    """Each flag of `migrate` does the same when its variable is given."""
    embedded.write("deep/players.json", [{"tag": "a"}])
    env = {"STANDFAST_RECURSIVE": "1", "STANDFAST_KEY": "tag", "STANDFAST_DRY_RUN": "true"}
    env |= {"STANDFAST_JSON": "yes", "STANDFAST_COLLECTION": "squad"}
    ran = run(embedded, "migrate", ".", "--yes", env=env)
    assert ran.code == 0
    (planned,) = ran.document["collections"]
    assert (planned["collection"], planned["new"], planned["key_field"]) == ("squad", 1, "tag")
    assert not embedded.data_dir.exists()
    env |= {"STANDFAST_DRY_RUN": "0", "STANDFAST_KEEP_FILES": "1"}
    assert run(embedded, "migrate", ".", "--yes", env=env).document["moved"] == 0
    assert embedded.documents("squad") == {"a": {"tag": "a"}}
    embedded.write("deep/players.json", [{"tag": "a", "x": 1}])
    assert run(embedded, "migrate", ".", "--yes", env=env).document["green"] is True
    embedded.write("views.json", {"a": 1})
    embedded.write("bad.json", "")
    env = {"STANDFAST_WHOLE": "1", "STANDFAST_SKIP_BAD": "1", "STANDFAST_YES": "1"}
    assert run(embedded, "migrate", ".", env=env).code == 2
    assert run(embedded, "migrate", ".", "--yes", env=env).code == 4
    assert embedded.documents("views") == {"default": {"a": 1}}
    embedded.write("views.json", {"a": 2})
    env = {"STANDFAST_WHOLE": "1", "STANDFAST_ON_CONFLICT": "database"}
    assert run(embedded, "migrate", "views.json", env=env).code == 0


def test_twins_of_the_settings_take_effect(tmp_path: Path) -> None:
    """STANDFAST_DATABASE_URL and STANDFAST_DATA_DIR stand for --to and --data-dir, which win."""
    (tmp_path / "views.json").write_text('{"a": 1}')
    env = {"STANDFAST_DATABASE_URL": "sqlite:///one.db", "STANDFAST_DATA_DIR": "local"}
    ran = run_cli("migrate", "views.json", "--keep-files", cwd=tmp_path, env=env)
    assert ran.code == 0
    assert (tmp_path / "one.db").exists()
    assert (tmp_path / "local" / "migration_backups").is_dir()
    flags = ["--to", "sqlite:///two.db", "--data-dir", "other"]
    assert run_cli("migrate", "views.json", *flags, cwd=tmp_path, env=env).code == 0
    assert (tmp_path / "two.db").exists()
    assert (tmp_path / "other" / "migration_backups").is_dir()
    assert not (tmp_path / "storage").exists()


def test_a_flag_goes_before_its_variable_and_empty_is_unset(embedded: Place) -> None:
    """The command line wins over the environment; an empty variable counts as unset."""
    run(embedded, "put", "views", "a", "1")
    env = {"STANDFAST_LIMIT": "7", "STANDFAST_PREFIX": "x", "STANDFAST_JSON": ""}
    assert run(embedded, "list", "views", env=env).out == ""
    assert run(embedded, "list", "views", "--prefix", "a", env=env).out == "a\n"
    assert run(embedded, "list", "views", env={"STANDFAST_PREFIX": ""}).out == "a\n"
    ran = run(embedded, "list", "views", env={"STANDFAST_LIMIT": "many"})
    assert ran.code == 2
    assert "STANDFAST_LIMIT" in ran.err


def test_errors_of_usage_know_that_json_was_asked_for(embedded: Place) -> None:
    """A wrong flag is told as JSON too when --json or its twin is there, and only then."""
    for flags, env in ((["--json"], {}), ([], {"STANDFAST_JSON": "1"})):
        ran = run(embedded, "runs", "--nope", *flags, env=env)
        assert (ran.code, ran.err, ran.document["error"]["code"]) == (2, "", "usage")
    ran = run(embedded, "get", "--nope", "views", "--", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: No such option")
