"""What members of a Discord server read of errors and of names: row A13."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from standfast.errors import CODES, DataError, StandfastError, Unavailable
from support.fakediscord.launch import import_discord

import_discord()

import discord  # noqa: E402
from discord import app_commands  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "tournament_bot"
CANARY = "canary-33d7"


def reporting() -> Any:
    spec = importlib.util.spec_from_file_location("reporting", EXAMPLE / "helpers/reporting.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REPORTING = reporting()


def bare(kind: type[BaseException], text: str = CANARY) -> BaseException:
    """An error of a class, whatever its constructor wants."""
    if issubclass(kind, StandfastError):
        return kind(text, hint=text)
    error = kind.__new__(kind)
    error.args = (text,)
    return error


def errors() -> list[BaseException]:
    """One of each kind, with a host, a name and a document in its text."""
    text = f"postgresql://bot:{CANARY}@db.example.com/bot: key '1': {CANARY} @everyone"
    return [
        *(kind(text, hint=text) for kind in (StandfastError, DataError, Unavailable)),
        *(StandfastError(text, code=code, hint=text) for code in CODES),
        *(ValueError(text), RuntimeError(text), KeyError(text), discord.DiscordException(text)),
        *(bare(kind, text) for kind, _ in REPORTING.SENTENCES),
        app_commands.AppCommandError(text),
    ]


@pytest.mark.parametrize("done", [False, True])
def test_members_read_fixed_sentences(done: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A13: whatever an error says, a member reads one of the sentences of the module, and nobody
    else does; what the storage says goes into the log."""
    sentences = {text for _, text in REPORTING.SENTENCES} | {REPORTING.FAILED}
    read: set[str] = set()

    async def send(text: str, *, ephemeral: bool) -> None:
        assert ephemeral
        read.add(text)

    interaction = SimpleNamespace(
        response=SimpleNamespace(is_done=lambda: done, send_message=send),
        followup=SimpleNamespace(send=send),
    )
    caplog.set_level(logging.INFO)
    for error in errors():
        asyncio.run(REPORTING.report(interaction, error))
    assert read == sentences
    assert "db.example.com" in caplog.text


@pytest.mark.parametrize(("kind", "text"), REPORTING.SENTENCES)
def test_each_sentence(kind: type[BaseException], text: str) -> None:
    """A13: each is reached, and is one that a member can read: no markdown, name or address."""
    assert REPORTING.as_written(text) == text
    assert re.fullmatch(r"[A-Z][A-Za-z ,;.]+\.", text)
    assert REPORTING.sentence(bare(kind)) == text


NAMES = {
    "@everyone": "@\u200beveryone",
    "<@1199000000000201007>": "<@\u200b1199000000000201007>",
    "**bold** `code`": r"\*\*bold\*\* \`code\`",
    "||spoiler|| ~~s~~": r"\|\|spoiler\|\| \~\~s\~\~",
    "two\nlines\r\nof one": "two lines of one",
    "plain name 1": "plain name 1",
}


@pytest.mark.parametrize(("given", "shown"), NAMES.items())
def test_names_are_shown_as_they_are_written(given: str, shown: str) -> None:
    """A13: a name of a member, a team or a mode mentions nobody, forms no line and no markdown."""
    found = REPORTING.as_written(given)
    assert "\n" not in found
    assert found == shown


def test_every_text_with_a_name_in_it_is_escaped() -> None:
    """A13: each f-string of the bot has numbers, times and escaped names in it alone; and the bot
    as a whole mentions nobody unless a message allows it."""
    allowed = {
        *("outcome.position", "number", "n", "entry.member_id", "name", "set_to.isoformat()"),
        *("len(registered['members'])", "settings['capacity']", "value"),
    }
    found: set[str] = set()
    for path in (EXAMPLE / "bot.py", EXAMPLE / "commands.py", EXAMPLE / "panel.py"):
        lines = [line for line in path.read_text().splitlines() if "file=sys.stderr" not in line]
        for text in re.findall(r'\bf"([^"]*)"', "\n".join(lines)):
            found.update(re.findall(r"{([^}]*)}", text))
    assert {each for each in found if not each.startswith("as_written(")} <= allowed
    assert "AllowedMentions.none()" in (EXAMPLE / "bot.py").read_text()
