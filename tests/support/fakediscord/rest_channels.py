"""REST routes of channels and messages."""

from __future__ import annotations

from typing import Any

from support.fakediscord import payloads
from support.fakediscord.messages import FakeMessage
from support.fakediscord.protocol import ApiError, Json
from support.fakediscord.records import FakeChannel
from support.fakediscord.rest import Call, Routes

routes = Routes()


@routes("GET /channels/{channel}")
def get_channel(call: Call, channel: str) -> Json:
    return payloads.channel(call.channel(channel))


@routes("PATCH /channels/{channel}")
def edit_channel(call: Call, channel: str) -> Json:
    found = call.channel(channel)
    for name in ("name", "topic", "position"):
        if name in call.body:
            setattr(found, name, call.body[name])
    if "permission_overwrites" in call.body:
        overwrites = call.body["permission_overwrites"] or ()
        found.overwrites = {int(each["id"]): each for each in overwrites}
    found.changed()
    return payloads.channel(found)


@routes("PUT /channels/{channel}/permissions/{overwrite}")
def set_overwrite(call: Call, channel: str, overwrite: str) -> None:
    found = call.channel(channel)
    none = {"type": 0, "allow": "0", "deny": "0"}
    found.overwrites[int(overwrite)] = {**none, **call.body, "id": overwrite}
    found.changed()


@routes("DELETE /channels/{channel}/permissions/{overwrite}")
def drop_overwrite(call: Call, channel: str, overwrite: str) -> None:
    found = call.channel(channel)
    found.overwrites.pop(int(overwrite), None)
    found.changed()


@routes("DELETE /channels/{channel}")
def delete_channel(call: Call, channel: str) -> Json:
    found = call.channel(channel)
    data = payloads.channel(found)
    if found.guild is not None:
        found.guild.remove_channel(found)
    return data


@routes("POST /users/@me/channels")
def open_dm(call: Call) -> Json:
    return payloads.channel(call.world.dm_channel(call.user(str(call.body["recipient_id"]))))


@routes("POST /channels/{channel}/typing")
def typing(call: Call, channel: str) -> None:
    call.channel(channel)


@routes("GET /channels/{channel}/messages")
def list_messages(call: Call, channel: str) -> list[Json]:
    """Newest first, as Discord lists them."""
    messages = call.world.messages.of(call.channel(channel))
    limit = int(call.query.get("limit", 50))
    if "before" in call.query:
        chosen = [m for m in messages if m.id < int(call.query["before"])][-limit:]
    elif "after" in call.query:
        chosen = [m for m in messages if m.id > int(call.query["after"])][:limit]
    elif "around" in call.query:
        middle = int(call.query["around"])
        older = [m for m in messages if m.id < middle][-(limit // 2) :] if limit > 1 else []
        chosen = older + [m for m in messages if m.id >= middle][: limit - len(older)]
    else:
        chosen = messages[-limit:]
    return [payloads.message(each) for each in reversed(chosen)]


@routes("POST /channels/{channel}/messages")
def send_message(call: Call, channel: str) -> Json:
    found = call.channel(channel)
    _check_reachable(found)
    message = call.world.messages.create(found, call.world.bot, call.body, files=call.files)
    return payloads.message(message)


def _check_reachable(channel: FakeChannel) -> None:
    """As with Discord, direct messages need a guild in common, and the user's consent."""
    user = channel.recipient
    if user is not None and (user.dms_closed or not user.guilds):
        raise ApiError(403, 50007, "Cannot send messages to this user")


@routes("POST /channels/{channel}/messages/bulk-delete")
def delete_messages(call: Call, channel: str) -> None:
    for each in call.body["messages"]:
        found = call.world.messages.find(int(each))
        if found is not None and found.channel is call.channel(channel):
            call.world.messages.delete(found)


@routes("GET /channels/{channel}/pins", "GET /channels/{channel}/messages/pins")
def list_pins(call: Call, channel: str) -> Any:
    pinned = [each for each in call.world.messages.of(call.channel(channel)) if each.pinned]
    items = [
        {"pinned_at": payloads.iso_time(each.id), "message": payloads.message(each)}
        for each in reversed(pinned)
    ]
    return {"items": items, "has_more": False}


@routes("PUT /channels/{channel}/pins/{message}", "PUT /channels/{channel}/messages/pins/{message}")
def pin(call: Call, channel: str, message: str) -> None:
    call.message(channel, message).pinned = True


@routes(
    "DELETE /channels/{channel}/pins/{message}",
    "DELETE /channels/{channel}/messages/pins/{message}",
)
def unpin(call: Call, channel: str, message: str) -> None:
    call.message(channel, message).pinned = False


@routes("GET /channels/{channel}/messages/{message}")
def get_message(call: Call, channel: str, message: str) -> Json:
    return payloads.message(call.message(channel, message))


@routes("PATCH /channels/{channel}/messages/{message}")
def edit_message(call: Call, channel: str, message: str) -> Json:
    found = _own(call, call.message(channel, message))
    call.world.messages.edit(found, call.body, files=call.files)
    return payloads.message(found)


def _own(call: Call, message: FakeMessage) -> FakeMessage:
    if message.author is not call.world.bot:
        raise ApiError(403, 50005, "Cannot edit a message authored by another user")
    return message


@routes("DELETE /channels/{channel}/messages/{message}")
def delete_message(call: Call, channel: str, message: str) -> None:
    found = call.message(channel, message)
    if found.channel.guild is None:
        _own(call, found)
    call.world.messages.delete(found)
