"""The synchronous and the asynchronous classes: the same calls, and signatures that are true."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import pytest

import standfast
from standfast import bot
from standfast.bot.guild_settings import AsyncGuildSettings, GuildSettings
from standfast.bot.messages import AsyncMessages, Messages
from standfast.bot.modes import AsyncModes, Modes
from standfast.bot.records import AsyncGuildRecords, GuildRecords
from standfast.bot.schedules import AsyncSchedules, Schedules
from standfast.bot.waitlist import AsyncWaitlist, Waitlist

TWINS = [
    (standfast.Collection, standfast.AsyncCollection),
    (standfast.Batch, standfast.AsyncBatch),
    (standfast.Store, standfast.AsyncStore),
    (standfast.JsonFile, standfast.AsyncJsonFile),
    (bot.BotStore, bot.AsyncBotStore),
    (Messages, AsyncMessages),
    (Modes, AsyncModes),
    (Schedules, AsyncSchedules),
    (GuildSettings, AsyncGuildSettings),
    (GuildRecords, AsyncGuildRecords),
    (Waitlist, AsyncWaitlist),
]
#: What only one of the two has, or has in a form of its own.
ONLY_SYNCHRONOUS = {"Store": {"is_open", "as_async"}, "BotStore": {"as_async"}}
ONLY_ASYNCHRONOUS = {"GuildRecords": {"allows", "statistics"}}
#: `BotStore` has these two; the modes' helpers are for the waitlist.
ONLY_ASYNCHRONOUS |= {"Modes": {"is_team", "known"}}
#: `index=True` needs a call of the database, so the asynchronous twin has `create_index` for it.
OTHER_PARAMETERS = {"Store": {"collection"}}


def public(kind: type) -> dict[str, Any]:
    internal = ("engine", "handle")  # what the driver of the synchronous calls asks for
    names = [name for name in dir(kind) if not name.startswith("_") and name not in internal]
    return {name: inspect.getattr_static(kind, name) for name in names}


def result(kind: type, name: str) -> str:
    """What a method returns, as it is written; the twins of other classes count as equal."""
    found = str(inspect.signature(getattr(kind, name)).return_annotation)
    return found.replace("Async", "").removeprefix("standfast.")


@pytest.mark.parametrize(("one", "twin"), TWINS, ids=[one.__name__ for one, _ in TWINS])
def test_twins_have_the_same_calls(one: type, twin: type) -> None:
    """A call has the same parameters, the same result and the same documentation in both."""
    calls, twins = public(one), public(twin)
    assert calls.keys() - twins.keys() == ONLY_SYNCHRONOUS.get(one.__name__, set())
    assert twins.keys() - calls.keys() == ONLY_ASYNCHRONOUS.get(one.__name__, set())
    for name in calls.keys() & twins.keys():
        if not inspect.isfunction(calls[name]):
            continue
        other = OTHER_PARAMETERS.get(one.__name__, set())
        if name not in other:
            mine, theirs = inspect.signature(calls[name]), inspect.signature(twins[name])
            assert mine.parameters == theirs.parameters, name
        assert result(one, name) == result(twin, name), name
        assert not inspect.iscoroutinefunction(calls[name]), name
        assert inspect.getdoc(calls[name]), name


def test_the_signature_of_a_call_is_that_of_a_synchronous_method() -> None:
    """What `help()` and an editor see is what the call takes and returns."""
    put = standfast.Collection.put
    assert str(inspect.signature(put)).endswith("-> 'Receipt'")
    assert put.__qualname__ == "Collection.put"
    assert put.__annotations__["return"] == "Receipt"
    assert inspect.signature(standfast.Collection.items).return_annotation == (
        "Iterator[tuple[str, T]]"
    )
    assert typing.get_type_hints(standfast.AsyncCollection.put)["return"] is standfast.Receipt
