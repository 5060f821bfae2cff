"""The terminal: names that are nearly right, local reads, completion, JSON logs, quick starts."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

import standfast
from standfast.cli import output
from standfast.cli.common import library_warnings
from standfast.cli.main import main
from standfast.cli.output import LOG_FORMAT
from support.cli import run_cli
from support.commands import run
from support.hold import soon
from support.moving import Place
from support.outage import Outage

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture
def outage(pg_database: str, pg_admin_url: str, tmp_path: Path) -> Outage:
    return Outage(pg_database, tmp_path, admin_url=pg_admin_url)


@pytest.mark.parametrize(("given", "meant"), [("statsu", "status"), ("docter", "doctor")])
def test_a_command_that_is_nearly_right(given: str, meant: str) -> None:
    """R14: a mistyped command is answered with the one that was meant; exit 2."""
    ran = run_cli(given)
    assert ran.code == 2
    assert f"No such command '{given}'. Did you mean `{meant}`?" in ran.err
    assert "Did you mean" not in run_cli("zzzzzz").err


def test_a_collection_that_is_nearly_right(embedded: Place) -> None:
    """R14: listing or exporting what does not exist is exit 1, with what was meant."""
    run(embedded, "put", "persisted_views", "a", "1")
    for command in ("list", "export"):
        ran = run(embedded, command, "persisted_veiws")
        assert (ran.code, ran.out) == (1, "")
        assert "no collection `persisted_veiws`. Did you mean `persisted_views`?" in ran.err
    ran = run(embedded, "list", "nosuch", "--json")
    assert (ran.code, ran.document) == (1, {"collection": "nosuch", "found": False})


def test_reading_during_an_outage(outage: Outage) -> None:
    """R13: `get --local` reads mirror and journal, says how old that is, and asks nobody."""
    with outage.store() as store:
        store["views"].put("a", {"v": 1})
    with outage.away():
        with outage.store() as store:
            store["views"].patch("a", {"w": 2})
            store["views"].put("new", 3)
        assert outage.run("get", "views", "a").code == 3
        ran = outage.run("get", "views", "a", "--local")
        assert (ran.code, json.loads(ran.out)) == (0, {"v": 1, "w": 2})
        assert "from the mirror: " in ran.err
        assert "s old, with 1 pending write(s)" in ran.err
        ran = outage.run("get", "views", "new", "--local", "--json")
        assert (ran.document["value"], ran.document["source"]) == (3, "journal")
        assert ran.document["pending"] == 1
        ran = outage.run("get", "views", "unknown", "--local")
        assert ran.code == 3
        assert "does not mean that it is missing" in ran.err
    ran = outage.run("get", "views", "a", "--local", name="elsewhere")
    assert (ran.code, "keeps nothing" in ran.err) == (2, True)
    assert not outage.data_dir("elsewhere").exists()


@pytest.mark.process
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """The script of each shell, and what it then asks for: commands that begin so."""
    ran = run_cli("completion", shell)
    assert (ran.code, ran.err) == (0, "")
    assert "_STANDFAST_COMPLETE" in ran.out
    env = {
        **os.environ,
        "PYTHONPATH": str(SRC),
        "_STANDFAST_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "standfast sta" if shell != "fish" else "sta",
        "COMP_CWORD": "1" if shell != "fish" else "sta",
    }
    done = subprocess.run(
        [sys.executable, "-m", "standfast"], env=env, capture_output=True, text=True, check=False
    )
    assert "status" in done.stdout
    assert "doctor" not in done.stdout


def test_completion_of_collections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a collection is asked for, those of the database that is meant; none, and not a word,
    where it does not answer."""
    with standfast.open(None, data_dir=tmp_path) as store:
        for name in ("guilds", "players", "plans"):
            store[name].put("a", 1)

    def completed(command: str, *words: str, begun: str = "", url: str = "") -> list[str]:
        asked = ShellComplete(main, {}, "standfast", "_STANDFAST_COMPLETE")
        place = ["--data-dir", str(tmp_path), *(["--url", url] if url else [])]
        found = asked.get_completions([*command.split(), *place, *words], begun)
        return [each.value for each in found]

    assert completed("get", begun="pl") == ["plans", "players"]
    assert completed("list", begun="g") == ["guilds"]
    assert completed("cleanup", "--documents") == ["guilds", "plans", "players"]
    assert completed("backup create", "--collection", begun="p") == ["plans", "players"]
    away = "postgresql://nobody:secret@127.0.0.1:1/none"
    assert completed("get", url=away) == []
    assert "".join(capsys.readouterr()) == ""


def test_warnings_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`--log-format json`: what the library logs is one object a line, without passwords."""
    with library_warnings():
        monkeypatch.setitem(LOG_FORMAT, "json", True)
        url = "postgresql://app:geheim@db/x"
        logging.getLogger("standfast").warning("%s does not answer\n(%d)", url, 3)
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "standfast",
        "message": "postgresql://***@db/x does not answer\n(3)",
    }
    run_cli("--log-format", "text", "status", cwd=tmp_path)
    assert not LOG_FORMAT["json"]


def loaded_by(code: str) -> set[str]:
    """The modules that this code loads, beyond those of an interpreter that starts."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; before = set(sys.modules)\n{code}\n"
            "print(*sorted(set(sys.modules) - before))",
        ],
        env=os.environ | {"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.process
def test_importing_standfast_is_quick() -> None:
    """It loads no more modules than `import asyncio` does, and neither it nor a driver."""
    ours, asyncios = loaded_by("import standfast"), loaded_by("import asyncio")
    assert len(ours) <= len(asyncios)
    assert {"asyncio", "psycopg", "apsw", "click", "rich", "starlette"}.isdisjoint(ours)


@pytest.mark.process
def test_help_is_quick() -> None:
    """`--help` loads no command, no driver, no server and no display."""
    loaded = loaded_by(
        "import io, contextlib\nfrom standfast.cli.main import run_command\n"
        "with contextlib.redirect_stdout(io.StringIO()): run_command(['--help'])"
    )
    assert "click" in loaded
    heavy = {"psycopg", "apsw", "rich", "starlette", "uvicorn", "asyncio", "difflib"}
    assert heavy.isdisjoint(loaded)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("plain", [False, True], ids=["colours", "NO_COLOR"])
def test_one_live_display(monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    """R11: at width 80 and with NO_COLOR, lines stand above the display, and it leaves no trace."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(output, "BAR_AFTER_S", 0.0)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    with output.progress_bar() as show:
        for done in range(3):
            show("load", done * 1000, 3000)
            output.note(f"line {done}")
        show("verify", 1, 3)
    said = screen.getvalue()
    assert "load" in said
    for done in range(3):
        # The display was taken away before, so the line begins at the left.
        before = said.split(f"line {done}\n")[0]
        assert before.endswith(("\x1b[2K", "\x1b[?25h", "\n", "\r")), repr(before[-40:])
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert max(len(line) for line in re.split(r"[\r\n]", visible)) <= 80
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h")
    colours = re.findall(r"\x1b\[[0-9;]*m", said)
    assert not plain or not [one for one in colours if re.search(r"[34][0-9]", one)]


def test_a_step_of_unknown_length_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """R11: a rollback shows that it works, too; a quick one shows nothing."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(output, "BAR_AFTER_S", 0.01)
    with output.busy("roll back"):
        soon(lambda: "roll back" in screen.getvalue(), within_s=10)
    monkeypatch.setattr(output, "BAR_AFTER_S", 60.0)
    before = screen.getvalue()
    with output.busy("roll back"):
        pass
    assert screen.getvalue() == before
