"""Every command of the command line, and a way to call them where a `Place` is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from standfast.cli.main import main
from support.cli import Ran, run_cli
from support.moving import Place


def commands() -> Iterator[tuple[list[str], click.Command]]:
    """Every command with the words that call it, those of groups too."""
    assert isinstance(main, click.Group)
    pending: list[tuple[list[str], click.Command]] = []
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        pending.append(([name], command))
    while pending:
        words, command = pending.pop(0)
        yield words, command
        if isinstance(command, click.Group):
            pending += [([*words, name], inner) for name, inner in command.commands.items()]


COMMANDS = list(commands())
LEAVES = [(words, command) for words, command in COMMANDS if not isinstance(command, click.Group)]


def words_of(item: Any) -> str:
    return " ".join(item) if isinstance(item, list) else ""


def run(place: Place, *arguments: str | Path, **options: Any) -> Ran:
    env = {**place.env, **options.pop("env", {})}
    return run_cli(*arguments, cwd=place.root, env=env, **options)


def run_of(place: Place) -> str:
    return sorted(path.name for path in (place.data_dir / "migration_backups").iterdir())[0]
