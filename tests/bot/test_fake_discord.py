"""The fake Discord against the real client library: what other tests of bots rely on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from support.discord_bots import Running, Vote, app_commands, discord, send_panel
from support.fakediscord import (
    FakeDiscord,
    FakeDiscordError,
    FakeGuild,
    FakeMessage,
    FakeUser,
    Unanswered,
)
from support.fakediscord.launch import point_to


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeDiscord]:
    # A machine under load is not to fail tests that are about something else.
    with FakeDiscord(answer_limit_s=30.0) as fake:
        yield fake
        assert fake.unknown_requests == []


@pytest.fixture(scope="module")
def guild(fake: FakeDiscord) -> FakeGuild:
    return fake.add_guild("Test Guild")


@pytest.fixture(scope="module")
def alice(guild: FakeGuild) -> FakeUser:
    return guild.add_member("alice")


@pytest.fixture(scope="module")
def running(fake: FakeDiscord, alice: FakeUser) -> Iterator[Running]:
    with Running(fake) as running:
        yield running
    assert running.bot.errors == []


@pytest.fixture
def panel(running: Running, guild: FakeGuild) -> FakeMessage:
    return send_panel(running, guild)


def test_ready_with_guild_and_members(
    fake: FakeDiscord, guild: FakeGuild, alice: FakeUser, running: Running
) -> None:
    """A client is ready with the guild, its channels and roles, and all of its members."""

    async def ready() -> None:
        await running.bot.wait_until_ready()

    running.call(ready())
    found = running.bot.get_guild(guild.id)
    assert found is not None
    assert found.name == "Test Guild"
    assert [channel.name for channel in found.text_channels] == ["general"]
    assert found.default_role.id == guild.id
    assert {member.name for member in found.members} >= {"alice", guild.owner.name, fake.bot.name}
    assert found.member_count == len(guild.members)
    assert found.me.guild_permissions.administrator
    assert not found.get_member(alice.id).guild_permissions.administrator


def test_members_come_and_go(fake: FakeDiscord, guild: FakeGuild, running: Running) -> None:
    """A client is told of members that join and leave."""
    bob = guild.add_member("bob")
    fake.wait_until(lambda: "bob" in running.bot.joined, what="bob's joining")
    guild.remove_member(bob)
    fake.wait_until(lambda: "bob" in running.bot.left, what="bob's leaving")
    with pytest.raises(discord.NotFound) as failed:
        running.call(running.bot.get_guild(guild.id).fetch_member(bob.id))
    assert failed.value.code == 10007


def test_button_of_a_persistent_view(
    fake: FakeDiscord, alice: FakeUser, panel: FakeMessage
) -> None:
    """A press reaches the view, and the answer is for the user alone."""
    assert [button.custom_id for button in panel.buttons][:2] == ["hello", "slow"]
    answer = fake.press(alice, panel, "hello")
    assert (answer.kind, answer.content, answer.ephemeral) == ("message", "hello alice", True)
    assert 0 <= answer.latency_s <= fake.answer_limit_s
    assert answer.final() is answer
    assert answer.message not in panel.channel.messages


def test_deferred_then_follow_ups(fake: FakeDiscord, alice: FakeUser, panel: FakeMessage) -> None:
    """The first follow-up to a deferred answer is the answer; the next is a message of its own."""
    answer = fake.press(alice, panel, "slow")
    assert (answer.kind, answer.content, answer.ephemeral) == ("deferred", "", True)
    final = answer.final()
    assert (final.content, final.embeds[0]["title"]) == ("done", "Result")
    more = answer.final(where=lambda each: each.content == "and more")
    assert more.ephemeral
    assert [message.content for message in answer.followups] == ["and more"]


def test_deferred_press_edits_its_message(
    fake: FakeDiscord, alice: FakeUser, panel: FakeMessage
) -> None:
    """After a press that is deferred without a message, the original is the pressed message."""
    answer = fake.press(alice, panel, "quiet")
    assert (answer.kind, answer.message) == ("deferred", None)
    assert answer.final().content == "edited"
    assert panel.content == "edited"


def test_update_changes_the_message(fake: FakeDiscord, alice: FakeUser, panel: FakeMessage) -> None:
    """An answer may change the message whose button was pressed; its buttons stay."""
    answer = fake.press(alice, panel, "change")
    assert (answer.kind, answer.content, panel.content) == ("update", "changed", "changed")
    assert len(panel.buttons) == 5


def test_modal(fake: FakeDiscord, alice: FakeUser, panel: FakeMessage) -> None:
    """A modal is filled in by labels or custom_ids, within what its fields allow."""
    modal = fake.press(alice, panel, "ask")
    assert modal.kind == "modal"
    assert [(field.label, field.required) for field in modal.fields] == [
        ("In-game name", True),
        ("Team", False),
    ]
    assert fake.submit(alice, modal, {"In-game name": "Al", "Team": "Red"}).content == "Al of Red"
    modal = fake.press(alice, panel, "ask")  # each is for one use
    assert fake.submit(alice, modal, {"ign": "Al"}).content == "Al of -"
    for bad in ({}, {"ign": "x" * 11}, {"ign": "Al", "colour": "red"}):
        with pytest.raises(FakeDiscordError):
            fake.submit(alice, modal, bad)


def test_slash_command_of_administrators(
    fake: FakeDiscord, guild: FakeGuild, alice: FakeUser, running: Running
) -> None:
    """A subcommand gets its options, and its check the permissions of who uses it."""
    admin = guild.add_member("ada", administrator=True)
    options = {"number": 4, "who": alice}
    for user in (admin, guild.owner):
        answer = fake.slash(user, "tournament", "capacity", options=options)
        assert answer.content == "4 for alice"
    refused = fake.slash(alice, "tournament", "capacity", options={"number": 4})
    assert (refused.content, refused.ephemeral) == ("not allowed", True)
    for bad in ({}, {"number": "4"}, {"number": 4, "size": 1}):
        with pytest.raises(FakeDiscordError):
            fake.slash(admin, "tournament", "capacity", options=bad)


def test_command_of_a_guild_in_a_group(
    fake: FakeDiscord, guild: FakeGuild, alice: FakeUser, running: Running
) -> None:
    """A command of one guild, below two groups, is found once it is registered."""
    outer = app_commands.Group(name="waitlist", description="The waitlist")
    inner = app_commands.Group(name="entry", description="An entry", parent=outer)

    async def show(interaction: discord.Interaction, name: str) -> None:
        await interaction.response.send_message(f"entry of {name}")

    command = app_commands.Command(name="show", description="Show it", callback=show)
    inner.add_command(command)
    place = discord.Object(guild.id)
    running.bot.tree.add_command(outer, guild=place)
    running.call(running.bot.tree.sync(guild=place))
    answer = fake.slash(alice, "waitlist", "entry", "show", options={"name": "Al"}, guild=guild)
    assert answer.content == "entry of Al"
    running.bot.tree.remove_command("waitlist", guild=place)
    assert running.call(running.bot.tree.sync(guild=place)) == []
    assert fake.commands == ["tournament"]


def test_selects(fake: FakeDiscord, guild: FakeGuild, alice: FakeUser, running: Running) -> None:
    """What is chosen reaches the view: values of options, and members of the guild."""

    class Choices(discord.ui.View):
        @discord.ui.select(custom_id="mode", options=[discord.SelectOption(label="normal")])
        async def mode(self, interaction: discord.Interaction, item: Any) -> None:
            await interaction.response.send_message(f"mode {item.values[0]}")

        @discord.ui.select(cls=discord.ui.UserSelect, custom_id="who")
        async def who(self, interaction: discord.Interaction, item: Any) -> None:
            await interaction.response.send_message(f"chose {item.values[0].joined_at is not None}")

    message = send_panel(running, guild, "choose", view_class=Choices)
    assert fake.select(alice, message, "mode", ["normal"]).content == "mode normal"
    assert fake.select(alice, message, "who", [guild.owner]).content == "chose True"
    for custom_id, bad in (("mode", ["doubleup"]), ("mode", []), ("who", ["normal"])):
        with pytest.raises(FakeDiscordError):
            fake.select(alice, message, custom_id, bad)


def test_roles_of_members(
    fake: FakeDiscord, guild: FakeGuild, alice: FakeUser, running: Running
) -> None:
    """Roles are given and taken; guilds, channels and roles that are not there are unknown."""
    role = guild.add_role("checked in")

    async def change(add: bool) -> None:
        member = await running.bot.get_guild(guild.id).fetch_member(alice.id)
        await (member.add_roles if add else member.remove_roles)(discord.Object(role.id))

    running.call(change(True))
    assert guild.roles_of(alice) == [role]
    running.call(change(False))
    assert guild.roles_of(alice) == []
    for fetch, code in ((running.bot.fetch_guild, 10004), (running.bot.fetch_channel, 10003)):
        with pytest.raises(discord.NotFound) as failed:
            running.call(fetch(1))
        assert failed.value.code == code


def test_channel_is_locked(fake: FakeDiscord, guild: FakeGuild, running: Running) -> None:
    """What a bot changes of a channel, and who may write there, comes back to it."""
    place = guild.add_channel("registration")
    fake.wait_until(lambda: running.bot.get_channel(place.id), what="the channel")
    channel = running.bot.get_channel(place.id)
    everyone = channel.guild.default_role
    running.call(channel.edit(topic="closed"))
    running.call(channel.set_permissions(everyone, send_messages=False))
    fake.wait_until(
        lambda: (
            channel.topic == "closed" and channel.overwrites_for(everyone).send_messages is False
        ),
        what="the change of the channel",
    )
    running.call(channel.set_permissions(everyone, overwrite=None))
    fake.wait_until(lambda: not channel.overwrites, what="the channel to be open")
    guild.remove_channel(place)


def test_direct_message(fake: FakeDiscord, alice: FakeUser, running: Running) -> None:
    """A bot's direct messages are the user's, unless the user takes none."""

    async def write() -> None:
        user = await running.bot.fetch_user(alice.id)
        await user.send("for you")

    running.call(write())
    assert [message.content for message in fake.dms(alice)] == ["for you"]
    alice.dms_closed = True
    try:
        with pytest.raises(discord.Forbidden) as failed:
            running.call(write())
    finally:
        alice.dms_closed = False
    assert failed.value.code == 50007


def test_messages_are_edited_and_deleted(
    guild: FakeGuild, panel: FakeMessage, running: Running
) -> None:
    """An edit is seen; of a message that a moderator deleted, a bot finds nothing."""
    partial = running.bot.get_partial_messageable(guild.general.id).get_partial_message(panel.id)
    running.call(partial.edit(content="new"))
    assert panel.content == "new"
    assert running.call(partial.fetch()).content == "new"
    guild.general.delete_message(panel)
    assert panel.deleted
    for attempt in (partial.fetch, lambda: partial.edit(content="newer"), partial.delete):
        with pytest.raises(discord.NotFound) as failed:
            running.call(attempt())
        assert failed.value.code == 10008


def test_dynamic_item(
    fake: FakeDiscord, guild: FakeGuild, alice: FakeUser, running: Running
) -> None:
    """A button of a dynamic item is found by the form of its custom_id."""

    async def send() -> int:
        view = discord.ui.View(timeout=None)
        view.add_item(Vote(7))
        channel = running.bot.get_partial_messageable(guild.general.id)
        sent = await channel.send("vote", view=view)
        view.stop()
        return sent.id

    message_id = running.call(send())
    message = guild.general.wait_message(lambda each: each.id == message_id)
    assert fake.press(alice, message, "vote:7").content == "voted 7"


def test_late_answer_is_refused(fake: FakeDiscord, alice: FakeUser, panel: FakeMessage) -> None:
    """A first answer after the limit is refused as of an unknown interaction, and tells of it."""
    limit_s = fake.answer_limit_s
    fake.answer_limit_s = 0.0
    try:
        with pytest.raises(Unanswered, match="the answer came after"):
            fake.press(alice, panel, "hello")
    finally:
        fake.answer_limit_s = limit_s
    refused = [each for each in fake.requests if each.path.endswith("/callback")][-1]
    assert refused.status == 404
    assert fake.press(alice, panel, "hello").content == "hello alice"


def test_age_of_interactions_is_told_by_the_clock_of_the_fake() -> None:
    """A jump of the clock makes an answer late, and a token of a quarter of an hour invalid."""
    with FakeDiscord(answer_limit_s=30.0) as fake:
        guild = fake.add_guild("Test Guild")
        with Running(fake) as running:
            panel = send_panel(running, guild)
            found: list[discord.Interaction] = []

            async def keep(interaction: discord.Interaction) -> None:
                found.append(interaction)

            running.bot.add_listener(keep, "on_interaction")
            fake.press(guild.owner, panel, "hello")
            fake.wait_until(lambda: found, what="the interaction")
            fake.pass_time(15 * 60 + 1)
            with pytest.raises(discord.HTTPException) as failed:
                running.call(found[0].followup.send("more"))
            assert failed.value.code == 50027
            assert fake.press(guild.owner, panel, "hello").content


def test_second_first_answer_is_refused(
    fake: FakeDiscord, alice: FakeUser, panel: FakeMessage, running: Running
) -> None:
    """An interaction is acknowledged once: 40060."""
    found: list[discord.Interaction] = []

    async def keep(interaction: discord.Interaction) -> None:
        found.append(interaction)

    running.bot.add_listener(keep, "on_interaction")
    try:
        fake.press(alice, panel, "hello")
        fake.wait_until(lambda: found, what="the interaction")
    finally:
        running.bot.remove_listener(keep, "on_interaction")
    again = discord.InteractionResponse(found[0])
    with pytest.raises(discord.HTTPException) as failed:
        running.call(again.send_message("again"))
    assert failed.value.code == 40060


def test_requests_made_to_fail(fake: FakeDiscord, guild: FakeGuild, running: Running) -> None:
    """A request fails as often as asked for; a client comes again after a rate limit."""
    channel = running.bot.get_partial_messageable(guild.general.id)
    before = len(guild.general.messages)
    fake.fail_next("POST", r"/channels/\d+/messages$", status=403, code=50013)
    with pytest.raises(discord.Forbidden) as failed:
        running.call(channel.send("refused"))
    assert (failed.value.code, len(guild.general.messages)) == (50013, before)
    fake.fail_next("POST", r"/channels/\d+/messages$", status=429, retry_after_s=0.01)
    running.call(channel.send("limited"))
    assert guild.general.messages[-1].content == "limited"
    fake.fail_next("POST", r"/channels/\d+/messages$", status=503, applied=True)
    with pytest.raises(discord.DiscordServerError):
        running.call(channel.send("applied"))
    assert guild.general.messages[-1].content == "applied"


def test_disconnected_gateway(fake: FakeDiscord, alice: FakeUser, panel: FakeMessage) -> None:
    """A client whose connection is closed comes back with a new session, and answers."""
    sessions = fake.sessions
    fake.disconnect_gateway()
    fake.wait_ready(sessions=sessions + 1)
    assert fake.press(alice, panel, "hello").content == "hello alice"


def test_wrong_token() -> None:
    """A client with another token cannot log in."""

    async def log_in(fake: FakeDiscord) -> None:
        async with discord.Client(intents=discord.Intents.none()) as client:
            with pytest.raises(discord.LoginFailure):
                await client.login("another")

    with FakeDiscord() as fake, point_to(fake):
        asyncio.run(log_in(fake))
        assert fake.requests[-1].status == 401


def test_wait_tells_what_was_received(fake: FakeDiscord, panel: FakeMessage) -> None:
    """A wait that ends without what it is for says what there was instead."""
    with pytest.raises(FakeDiscordError, match=r"'panel'(?s:.*)last of \d+ requests"):
        panel.channel.wait_message(lambda _: False, timeout_s=0)
    with pytest.raises(FakeDiscordError, match="a miracle"):
        fake.wait_until(lambda: False, 0, what="a miracle")
