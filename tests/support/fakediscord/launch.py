"""Runs a bot's file, unchanged, against a fake Discord.

    python -m support.fakediscord.launch BOT.PY [ARGUMENT...]

The environment variable FAKE_DISCORD_URL says where it is.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.fakediscord.process import URL_VARIABLE

if TYPE_CHECKING:
    from support.fakediscord.controller import FakeDiscord


def import_discord() -> None:
    """Import discord.py without its warning: of voice, it needs a module that is to be removed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'audioop' is deprecated", DeprecationWarning)
        import discord  # noqa: F401


@contextlib.contextmanager
def point_to(fake: FakeDiscord | str) -> Iterator[None]:
    """Let discord.py in this process talk to a fake, or to the URL of one.

    Its five seconds of waiting before a second session, which spare Discord, are left out, too,
    unless a client has a hook of its own.
    """
    import_discord()
    import yarl
    from discord.client import Client
    from discord.gateway import DiscordWebSocket
    from discord.http import Route

    url = fake if isinstance(fake, str) else fake.url
    before = Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY, Client.before_identify_hook
    Route.BASE = f"{url}/api/v10"
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(f"{url.replace('http:', 'ws:', 1)}/gateway")
    Client.before_identify_hook = _no_wait
    try:
        yield
    finally:
        Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY, Client.before_identify_hook = before


async def _no_wait(client: Any, shard_id: int | None, *, initial: bool = False) -> None:
    """What a client does before it identifies."""


def main() -> None:
    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(script).resolve().parent)  # as for a script, in place of the folder
    with point_to(os.environ[URL_VARIABLE]):
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
