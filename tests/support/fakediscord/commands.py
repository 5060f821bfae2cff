"""Application commands: their REST routes, and how what a user types becomes an interaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from support.fakediscord import payloads
from support.fakediscord.protocol import (
    CHANNEL_SELECT,
    MENTIONABLE_SELECT,
    ROLE_SELECT,
    STRING_SELECT,
    USER_SELECT,
    FakeDiscordError,
    Json,
    snowflake,
    unknown,
)
from support.fakediscord.records import FakeChannel, FakeRole, FakeUser
from support.fakediscord.rest import Call, Routes

if TYPE_CHECKING:
    from support.fakediscord.records import FakeGuild
    from support.fakediscord.world import World

routes = Routes()

CHAT_INPUT = 1
_SUBCOMMAND, _GROUP = 1, 2
_STRING, _INTEGER, _BOOLEAN, _USER, _CHANNEL, _ROLE, _MENTIONABLE, _NUMBER = range(3, 11)
_PYTHON_TYPES: dict[int, tuple[type, ...]] = {
    _STRING: (str,),
    _INTEGER: (int,),
    _BOOLEAN: (bool,),
    _USER: (FakeUser,),
    _CHANNEL: (FakeChannel,),
    _ROLE: (FakeRole,),
    _MENTIONABLE: (FakeUser, FakeRole),
    _NUMBER: (int, float),
}
_SELECTED: dict[int, tuple[type, ...]] = {
    USER_SELECT: (FakeUser,),
    ROLE_SELECT: (FakeRole,),
    MENTIONABLE_SELECT: (FakeUser, FakeRole),
    CHANNEL_SELECT: (FakeChannel,),
}
_GLOBAL = "/applications/{app}/commands"
_GUILD = "/applications/{app}/guilds/{guild}/commands"


def _list(call: Call, scope: int | None) -> list[Json]:
    return list(call.world.commands.get(scope, {}).values())


def _register(call: Call, scope: int | None, body: Json) -> Json:
    """A command as Discord keeps it; one that exists keeps its id."""
    key = (body.get("type", CHAT_INPUT), body["name"])
    old = call.world.commands.get(scope, {}).get(key)
    command = {
        "description": "",
        "options": [],
        "nsfw": False,
        "default_member_permissions": None,
        **body,
        "type": key[0],
        "id": old["id"] if old else str(snowflake()),
        "application_id": str(call.world.application_id),
        "version": str(snowflake()),
        **({} if scope is None else {"guild_id": str(scope)}),
    }
    call.world.commands.setdefault(scope, {})[key] = command
    return command


def _replace(call: Call, scope: int | None) -> list[Json]:
    """All commands of a scope at once; those that are not named are gone."""
    done = [_register(call, scope, each) for each in call.body]
    names = {(each["type"], each["name"]) for each in done}
    kept = call.world.commands.setdefault(scope, {})
    for key in set(kept) - names:
        del kept[key]
    return done


def _one(call: Call, scope: int | None, command_id: str) -> Json:
    for each in _list(call, scope):
        if each["id"] == command_id:
            return each
    raise unknown("command")


def _edit(call: Call, scope: int | None, command_id: str) -> Json:
    old = _one(call, scope, command_id)
    _delete(call, scope, command_id)
    done = _register(call, scope, {**old, **call.body})
    done["id"] = command_id
    return done


def _delete(call: Call, scope: int | None, command_id: str) -> None:
    gone = _one(call, scope, command_id)
    del call.world.commands[scope][(gone["type"], gone["name"])]


@routes(f"GET {_GLOBAL}")
def list_global(call: Call, app: str) -> list[Json]:
    return _list(call, None)


@routes(f"PUT {_GLOBAL}")
def replace_global(call: Call, app: str) -> list[Json]:
    return _replace(call, None)


@routes(f"POST {_GLOBAL}")
def add_global(call: Call, app: str) -> Json:
    return _register(call, None, call.body)


@routes(f"GET {_GLOBAL}/{{command}}")
def get_global(call: Call, app: str, command: str) -> Json:
    return _one(call, None, command)


@routes(f"PATCH {_GLOBAL}/{{command}}")
def edit_global(call: Call, app: str, command: str) -> Json:
    return _edit(call, None, command)


@routes(f"DELETE {_GLOBAL}/{{command}}")
def delete_global(call: Call, app: str, command: str) -> None:
    _delete(call, None, command)


@routes(f"GET {_GUILD}")
def list_guild(call: Call, app: str, guild: str) -> list[Json]:
    return _list(call, call.guild(guild).id)


@routes(f"PUT {_GUILD}")
def replace_guild(call: Call, app: str, guild: str) -> list[Json]:
    return _replace(call, call.guild(guild).id)


@routes(f"POST {_GUILD}")
def add_guild(call: Call, app: str, guild: str) -> Json:
    return _register(call, call.guild(guild).id, call.body)


@routes(f"GET {_GUILD}/{{command}}")
def get_guild(call: Call, app: str, guild: str, command: str) -> Json:
    return _one(call, call.guild(guild).id, command)


@routes(f"PATCH {_GUILD}/{{command}}")
def edit_guild(call: Call, app: str, guild: str, command: str) -> Json:
    return _edit(call, call.guild(guild).id, command)


@routes(f"DELETE {_GUILD}/{{command}}")
def delete_guild(call: Call, app: str, guild: str, command: str) -> None:
    _delete(call, call.guild(guild).id, command)


def find(world: World, guild: FakeGuild, path: Sequence[str]) -> tuple[Json, list[Json]] | None:
    """The registered command and its subcommands down to the last name of `path`, if all exist.

    A guild's own command hides the global one of its name.
    """
    with world.condition:
        for scope in (guild.id, None):
            command = world.commands.get(scope, {}).get((CHAT_INPUT, path[0]))
            steps: list[Json] = []
            here = command
            for name in path[1:]:
                inner = {
                    each["name"]: each
                    for each in (here or {}).get("options") or ()
                    if each["type"] in (_SUBCOMMAND, _GROUP)
                }
                here = inner.get(name)
                if here is None:
                    break
                steps.append(here)
            if command is not None and here is not None:
                return command, steps
        return None


def names(world: World) -> list[str]:
    """The commands that are registered, for the messages of errors."""
    with world.condition:
        return [name for scope in world.commands.values() for _, name in scope]


def data(found: tuple[Json, list[Json]], options: Mapping[str, Any], *, guild: FakeGuild) -> Json:
    """The data of the interaction; FakeDiscordError for what a client would not let through."""
    command, steps = found
    known = {each["name"]: each for each in (steps or [command])[-1].get("options") or ()}
    if any(each["type"] in (_SUBCOMMAND, _GROUP) for each in known.values()):
        raise FakeDiscordError(f"name a subcommand, one of {list(known)}")
    if not set(options) <= set(known):
        raise FakeDiscordError(f"options {list(options)} where {list(known)} are known")
    missing = [n for n, each in known.items() if each.get("required") and n not in options]
    if missing:
        raise FakeDiscordError(f"without the required options {missing}")
    resolved: Json = {}
    inner = [_option(known[name], value, resolved, guild) for name, value in options.items()]
    for step in reversed(steps):
        inner = [{"name": step["name"], "type": step["type"], "options": inner}]
    result: Json = {"id": command["id"], "name": command["name"], "type": command["type"]}
    result |= {"options": inner, "resolved": resolved}
    return {**result, "guild_id": command["guild_id"]} if "guild_id" in command else result


def _option(known: Json, value: Any, resolved: Json, guild: FakeGuild) -> Json:
    name, kind = known["name"], known["type"]
    wanted = _PYTHON_TYPES[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != _BOOLEAN):
        raise FakeDiscordError(f"option {name!r} takes {wanted}, not {value!r}")
    choices = [each["value"] for each in known.get("choices") or ()]
    if choices and value not in choices:
        raise FakeDiscordError(f"option {name!r} takes one of {choices}, not {value!r}")
    size = len(value) if isinstance(value, str) else value
    suffix = "length" if isinstance(value, str) else "value"
    low, high = known.get(f"min_{suffix}"), known.get(f"max_{suffix}")
    if (low is not None and size < low) or (high is not None and size > high):
        raise FakeDiscordError(f"option {name!r} takes {low} to {high}, not {value!r}")
    if isinstance(value, FakeUser | FakeRole | FakeChannel):
        resolve(value, resolved, guild)
        value = str(value.id)
    return {"name": name, "type": kind, "value": value}


def chosen(component: Json, values: Sequence[Any], *, guild: FakeGuild | None) -> Json:
    """What the data of an interaction says of the values that were chosen from a select."""
    low, high = component.get("min_values", 1), component.get("max_values", 1)
    if not low <= len(values) <= high:
        raise FakeDiscordError(f"{low} to {high} values are to be chosen, not {len(values)}")
    if component["type"] == STRING_SELECT:
        known = [each["value"] for each in component["options"]]
        if not set(values) <= set(known):
            raise FakeDiscordError(f"{values} where {known} are to choose from")
        return {"values": list(values)}
    resolved: Json = {}
    for value in values:
        if guild is None or not isinstance(value, _SELECTED[component["type"]]):
            raise FakeDiscordError(f"{value!r} cannot be chosen here")
        resolve(value, resolved, guild)
    return {"values": [str(value.id) for value in values], "resolved": resolved}


def resolve(value: FakeUser | FakeRole | FakeChannel, resolved: Json, guild: FakeGuild) -> None:
    """Add what a user, role or channel is to the records that an interaction brings along."""
    key = str(value.id)
    if isinstance(value, FakeRole):
        resolved.setdefault("roles", {})[key] = payloads.role(value)
    elif isinstance(value, FakeChannel):
        permissions = {"permissions": str(guild.permissions_of(guild.owner))}
        resolved.setdefault("channels", {})[key] = {**payloads.channel(value), **permissions}
    else:
        resolved.setdefault("users", {})[key] = payloads.user(value)
        member = guild.members.get(value.id)
        if member is not None:
            more = {"permissions": str(guild.permissions_of(value))}
            resolved.setdefault("members", {})[key] = {**payloads.member(member), **more}
