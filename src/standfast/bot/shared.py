"""The bot's state of this process, for modules that know nothing of each other."""

from __future__ import annotations

import threading

from standfast.api.sync import Store
from standfast.bot.environment import PRODUCTION, Environment
from standfast.bot.store import BotStore
from standfast.jsonfile import close_shared_store, shared_store

_lock = threading.Lock()
_bots: dict[Environment, tuple[Store, BotStore]] = {}


def shared() -> BotStore:
    """The one state of this process, over the store that `JsonFile` uses by default.

    It is opened when it is first asked for, and again after `close_shared`.  The environment is
    looked at each time; a process that has no name of one is taken for production, as older bots
    take it.  New entries of the waitlist are in the form of older bots.
    """
    environment = Environment.detect(unnamed=PRODUCTION)
    store = shared_store()
    with _lock:
        found = _bots.get(environment)
        if found is None or found[0] is not store:
            bot = BotStore(store, environment=environment, older_entries=True)
            found = _bots[environment] = store, bot
        return found[1]


def close_shared() -> None:
    """Close it, if it is open; what could not reach PostgreSQL is safe in the journal."""
    close_shared_store()
