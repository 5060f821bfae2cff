"""Records as the JSON that Discord would send for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.fakediscord.protocol import (
    GUILD_PRESENCES,
    MESSAGE_CONTENT,
    Json,
    iso_time,
)

if TYPE_CHECKING:
    from support.fakediscord.messages import FakeMessage
    from support.fakediscord.records import FakeChannel, FakeGuild, FakeRole, FakeUser, Membership
    from support.fakediscord.world import World


def user(record: FakeUser) -> Json:
    return {
        "id": str(record.id),
        "username": record.name,
        "global_name": None if record.bot else record.name.title(),
        "discriminator": "0000" if record.bot else "0",
        "avatar": None,
        "banner": None,
        "accent_color": None,
        "public_flags": 0,
        "bot": record.bot,
        "system": False,
    }


def self_user(world: World) -> Json:
    own = {"verified": True, "mfa_enabled": False, "email": None, "flags": 0, "locale": "en-US"}
    return {**user(world.bot), **own}


def application(world: World) -> Json:
    some_guild = next(iter(world.guilds.values()), None)
    return {
        "id": str(world.application_id),
        "name": world.bot.name,
        "icon": None,
        "description": "",
        "summary": "",
        "bot_public": True,
        "bot_require_code_grant": False,
        "verify_key": "0" * 64,
        "flags": (1 << 15) | (1 << 19),  # members and message content, allowed to small bots
        "owner": user(some_guild.owner if some_guild else world.bot),
        "team": None,
        "interactions_endpoint_url": None,
    }


def role(record: FakeRole) -> Json:
    return {
        "id": str(record.id),
        "name": record.name,
        "color": 0,
        "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
        "hoist": False,
        "position": record.position,
        "permissions": str(record.permissions),
        "managed": record.managed,
        "mentionable": False,
        "flags": 0,
    }


def member(record: Membership) -> Json:
    """A member without the user, as in messages."""
    return {
        "roles": [str(each) for each in record.roles],
        "nick": record.nick,
        "avatar": None,
        "joined_at": iso_time(record.joined),
        "premium_since": None,
        "communication_disabled_until": record.timeout_until,
        "deaf": False,
        "mute": False,
        "pending": False,
        "flags": 0,
    }


def member_with_user(record: Membership) -> Json:
    return {**member(record), "user": user(record.user)}


def guild_member(guild: FakeGuild, record: Membership) -> Json:
    """A member as in gateway events."""
    return {**member_with_user(record), "guild_id": str(guild.id)}


def channel(record: FakeChannel) -> Json:
    with record.world.condition:
        last = max((message.id for message in record.world.messages.of(record)), default=None)
    shared: Json = {
        "id": str(record.id),
        "type": record.type,
        "last_message_id": None if last is None else str(last),
        "flags": 0,
    }
    if record.guild is None:
        assert record.recipient is not None, "a channel is a guild's or a user's"
        return {**shared, "recipients": [user(record.recipient)]}
    return {
        **shared,
        "guild_id": str(record.guild.id),
        "name": record.name,
        "position": record.position,
        "topic": record.topic,
        "nsfw": False,
        "parent_id": None,
        "rate_limit_per_user": 0,
        "permission_overwrites": list(record.overwrites.values()),
    }


def guild(record: FakeGuild) -> Json:
    """A guild as REST answers it: without members and channels."""
    return {
        "id": str(record.id),
        "name": record.name,
        "icon": None,
        "splash": None,
        "discovery_splash": None,
        "description": None,
        "owner_id": str(record.owner.id),
        "afk_channel_id": None,
        "afk_timeout": 300,
        "system_channel_id": str(record.channels[0].id) if record.channels else None,
        "system_channel_flags": 0,
        "rules_channel_id": None,
        "public_updates_channel_id": None,
        "verification_level": 0,
        "default_message_notifications": 0,
        "explicit_content_filter": 0,
        "mfa_level": 0,
        "nsfw_level": 0,
        "premium_tier": 0,
        "preferred_locale": "en-US",
        "features": [],
        "emojis": [],
        "stickers": [],
        "roles": [role(each) for each in record.roles.values()],
    }


def guild_create(record: FakeGuild, intents: int) -> Json:
    """A guild as the gateway announces it.

    As with Discord, all members come along only with the intent for presences; a client that has
    the one for members asks for them.
    """
    every = intents & GUILD_PRESENCES
    members = [m for m in record.members.values() if every or m.user is record.world.bot]
    return {
        **guild(record),
        "joined_at": iso_time(record.members[record.world.bot.id].joined),
        "large": False,
        "member_count": len(record.members),
        "members": [member_with_user(each) for each in members],
        "channels": [channel(each) for each in record.channels],
        "threads": [],
        "voice_states": [],
        "presences": [],
        "stage_instances": [],
        "guild_scheduled_events": [],
        "soundboard_sounds": [],
    }


def message(record: FakeMessage) -> Json:
    """A message as REST answers it."""
    data: Json = {
        "id": str(record.id),
        "channel_id": str(record.channel.id),
        "type": record.type,
        "author": user(record.author),
        "content": record.content,
        "timestamp": iso_time(record.id),
        "edited_timestamp": record.edited_at,
        "tts": False,
        "mention_everyone": False,
        "mentions": [user(each) for each in record.mentions],
        "mention_roles": [],
        "attachments": record.attachments,
        "embeds": record.embeds,
        "components": record.components,
        "pinned": record.pinned,
        "flags": record.flags,
    }
    if record.nonce is not None:
        data["nonce"] = record.nonce
    if record.metadata is not None:
        app_id = str(record.channel.world.application_id)
        data |= {"application_id": app_id, "webhook_id": app_id}
        data["interaction_metadata"] = record.metadata
    if record.reference is not None:
        data["message_reference"] = record.reference
        replied = record.channel.world.messages.find(int(record.reference["message_id"]))
        data["referenced_message"] = None if replied is None else message(replied)
    return data


def message_event(record: FakeMessage, intents: int) -> Json:
    """A message as the gateway sends it: without its contents where the client may not see them."""
    data = message(record)
    place = record.channel.guild
    bot = record.channel.world.bot
    if place is not None:
        data["guild_id"] = str(place.id)
        if record.author.id in place.members:
            data["member"] = member(place.members[record.author.id])
        seen = record.author is bot or bot in record.mentions or intents & MESSAGE_CONTENT
        if not seen:
            data |= {"content": "", "embeds": [], "components": [], "attachments": []}
    return data


def deleted(record: FakeMessage) -> Json:
    data: Json = {"id": str(record.id), "channel_id": str(record.channel.id)}
    if record.channel.guild is not None:
        data["guild_id"] = str(record.channel.guild.id)
    return data
