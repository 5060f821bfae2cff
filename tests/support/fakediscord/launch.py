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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.fakediscord.controller import FakeDiscord

URL_VARIABLE = "FAKE_DISCORD_URL"


def import_discord() -> None:
    """Import discord.py without its warning: of voice, it needs a module that is to be removed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'audioop' is deprecated", DeprecationWarning)
        import discord  # noqa: F401


@contextlib.contextmanager
def point_to(fake: FakeDiscord | str) -> Iterator[None]:
    """Let discord.py in this process talk to a fake, or to the URL of one."""
    import_discord()
    import yarl
    from discord.gateway import DiscordWebSocket
    from discord.http import Route

    url = fake if isinstance(fake, str) else fake.url
    before = Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY
    Route.BASE = f"{url}/api/v10"
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(f"{url.replace('http:', 'ws:', 1)}/gateway")
    try:
        yield
    finally:
        Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = before


def main() -> None:
    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(script).resolve().parent))
    with point_to(os.environ[URL_VARIABLE]):
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
