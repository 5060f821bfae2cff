"""REST routes of the bot itself, users, guilds and members."""

from __future__ import annotations

from support.fakediscord import payloads
from support.fakediscord.gateway import gateway_url
from support.fakediscord.protocol import Json, unknown
from support.fakediscord.records import FakeGuild
from support.fakediscord.rest import Call, Routes

routes = Routes()


@routes("GET /gateway", token=False)
def get_gateway(call: Call) -> Json:
    return {"url": gateway_url(call.world)}


@routes("GET /gateway/bot")
def get_bot_gateway(call: Call) -> Json:
    limit = {"total": 1000, "remaining": 1000, "reset_after": 0, "max_concurrency": 1}
    return {"url": gateway_url(call.world), "shards": 1, "session_start_limit": limit}


@routes("GET /users/@me")
def get_self(call: Call) -> Json:
    return payloads.self_user(call.world)


@routes("GET /users/@me/guilds")
def get_own_guilds(call: Call) -> list[Json]:
    return [payloads.guild(each) for each in call.world.guilds.values()]


@routes("GET /users/{user}")
def get_user(call: Call, user: str) -> Json:
    return payloads.user(call.user(user))


@routes("GET /oauth2/applications/@me", "GET /applications/@me")
def get_application(call: Call) -> Json:
    return payloads.application(call.world)


@routes("GET /guilds/{guild}")
def get_guild(call: Call, guild: str) -> Json:
    found = call.guild(guild)
    counts = {"approximate_member_count": len(found.members), "approximate_presence_count": 0}
    return {**payloads.guild(found), **counts}


@routes("GET /guilds/{guild}/channels")
def list_channels(call: Call, guild: str) -> list[Json]:
    return [payloads.channel(each) for each in call.guild(guild).channels]


@routes("POST /guilds/{guild}/channels")
def create_channel(call: Call, guild: str) -> Json:
    channel = call.guild(guild).add_channel(call.body["name"])
    channel.topic = call.body.get("topic")
    channel.overwrites = {
        int(each["id"]): each for each in call.body.get("permission_overwrites") or ()
    }
    return payloads.channel(channel)


@routes("GET /guilds/{guild}/roles")
def list_roles(call: Call, guild: str) -> list[Json]:
    return [payloads.role(each) for each in call.guild(guild).roles.values()]


@routes("POST /guilds/{guild}/roles")
def create_role(call: Call, guild: str) -> Json:
    permissions = int(call.body.get("permissions") or 0)
    name = call.body.get("name") or "new role"
    return payloads.role(call.guild(guild).add_role(name, permissions=permissions))


@routes("GET /guilds/{guild}/members")
def list_members(call: Call, guild: str) -> list[Json]:
    after = int(call.query.get("after", 0))
    limit = int(call.query.get("limit", 1))
    members = sorted(call.guild(guild).members.items())
    return [payloads.member_with_user(each) for number, each in members if number > after][:limit]


@routes("GET /guilds/{guild}/members/search")
def search_members(call: Call, guild: str) -> list[Json]:
    start = call.query["query"].lower()
    found = [
        each
        for each in call.guild(guild).members.values()
        if (each.nick or each.user.name).lower().startswith(start)
    ]
    return [payloads.member_with_user(each) for each in found[: int(call.query.get("limit", 1))]]


@routes("GET /guilds/{guild}/members/{user}")
def get_member(call: Call, guild: str, user: str) -> Json:
    return payloads.member_with_user(call.member(call.guild(guild), user))


@routes("PATCH /guilds/{guild}/members/{user}")
def edit_member(call: Call, guild: str, user: str) -> Json:
    place = call.guild(guild)
    member = call.member(place, str(call.world.bot.id) if user == "@me" else user)
    if "nick" in call.body:
        member.nick = call.body["nick"] or None
    if "communication_disabled_until" in call.body:
        member.timeout_until = call.body["communication_disabled_until"]
    if "roles" in call.body:
        member.roles = [_role(place, str(each)) for each in call.body["roles"]]
    place.member_changed(member.user)
    return payloads.member_with_user(member)


@routes("DELETE /guilds/{guild}/members/{user}")
def kick(call: Call, guild: str, user: str) -> None:
    place = call.guild(guild)
    place.remove_member(call.member(place, user).user)


@routes("PUT /guilds/{guild}/members/{user}/roles/{role}")
def add_role(call: Call, guild: str, user: str, role: str) -> None:
    place = call.guild(guild)
    member = call.member(place, user)
    place.set_roles(member.user, list(dict.fromkeys([*member.roles, _role(place, role)])))


@routes("DELETE /guilds/{guild}/members/{user}/roles/{role}")
def remove_role(call: Call, guild: str, user: str, role: str) -> None:
    place = call.guild(guild)
    member = call.member(place, user)
    gone = _role(place, role)
    place.set_roles(member.user, [each for each in member.roles if each != gone])


def _role(guild: FakeGuild, role_id: str) -> int:
    if int(role_id) not in guild.roles:
        raise unknown("role")
    return int(role_id)
