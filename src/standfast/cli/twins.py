"""The twins of the flags in the environment: `--on-conflict` is also STANDFAST_ON_CONFLICT."""

from __future__ import annotations

import click

_PREFIX = "STANDFAST_"
#: Flags that the settings read from the environment themselves, under these and other names.
_SETTINGS = frozenset(("--to", "--data-dir"))


def add_twins(command: click.Command) -> None:
    """Let every option of a command, and of those below it, be given by a variable too.

    A flag on the command line goes before its variable; an empty variable counts as unset.
    """
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            add_twins(inner)
    for param in command.params:
        if isinstance(param, click.Option) and _SETTINGS.isdisjoint(param.opts):
            param.envvar = twin(param)
            param.show_envvar = True


def twin(option: click.Option) -> str:
    """The name of an option's variable, made of its longest spelling."""
    return _PREFIX + max(option.opts, key=len).lstrip("-").replace("-", "_").upper()


def truth(value: str) -> bool:
    """Whether the variable of a flag says yes, as click reads it."""
    return value.strip().lower() in ("1", "true", "t", "yes", "y", "on")
