"""Every block of the drop-in's README, and of what the guide says of it, is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bot.test_drop_in import DROP_IN, MODULES, FirstBot, newest_run

README = (DROP_IN / "README.md").read_text(encoding="utf-8")
GUIDE = (Path(__file__).parents[2] / "docs" / "move_your_bot.md").read_text(encoding="utf-8")


def python_blocks(page: str) -> list[str]:
    return [one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Sheet" in one]


def run(bot: FirstBot, *command: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | ({} if bot.url is None else {"DATABASE_URL": bot.url})
    return subprocess.run(
        command, cwd=bot.place, env=env, capture_output=True, text=True, timeout=120
    )


@pytest.mark.process
def test_every_command_of_the_readme_works(database: str | None, tmp_path: Path) -> None:
    """The commands, in order, in the bot's folder with the files copied over its own; the way back
    as the text says it."""
    bot = FirstBot(tmp_path / "bot", database)
    bot.tables(split=False)
    bot.replace(list(MODULES))
    script = "scripts/migrate_json_to_database.py"
    (bot.place / "scripts").mkdir()
    (bot.place / script).write_bytes((DROP_IN / script).read_bytes())
    ran: list[str] = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for line in block.splitlines():
            program, *arguments = line.removeprefix("$ ").split()
            if program == "pip":
                assert arguments == ["install", "'standfast[bot]'"]
                continue
            done = run(bot, sys.executable, *arguments)
            assert done.returncode == 0, done.stderr
            ran.append(arguments[-1])
    assert ran == ["--dry-run", "--yes"]
    assert f"python {script} --rollback RUN" in README
    back = run(bot, sys.executable, script, "--rollback", newest_run(bot))
    assert back.returncode == 0, back.stderr
    assert set(bot.rows("persisted_views")) == {"default"}


@pytest.mark.process
def test_the_blocks_on_registrations_run(tmp_path: Path) -> None:
    """The README's sheet registers who waits; the guide's two lines are the same call."""
    bot = FirstBot(tmp_path / "bot", None)
    bot.tables(split=True)
    bot.replace(list(MODULES))
    (readme,), (guide,) = python_blocks(README), python_blocks(GUIDE)
    code = (
        f"{readme}\n{guide}\n"
        "import asyncio\n"
        "from types import SimpleNamespace\n"
        "from helpers.waitlist_helpers import WaitlistManager\n"
        "guild = SimpleNamespace(id=1199000000000000101)\n"
        "print(len(asyncio.run(WaitlistManager.process_waitlist(guild))), sorted(Sheet.rows))\n"
    )
    done = run(bot, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 ['sample.anvil', 'sample.otter']\n"
