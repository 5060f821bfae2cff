"""Messages of the fake Discord: what it keeps of them, and what it refuses as Discord does."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.fakediscord import FakeDiscord, FakeGuild, FakeUser
from support.fakediscord.inprocess import RunningClient
from support.fakediscord.launch import import_discord

import_discord()

import discord  # noqa: E402


class Room:
    """A client, and the channel in which it writes."""

    def __init__(self, fake: FakeDiscord, guild: FakeGuild, running: RunningClient) -> None:
        self.fake = fake
        self.guild = guild
        self.running = running
        self.fakes = guild.add_channel("room")
        self.client = running.client
        fake.wait_until(lambda: self.client.get_channel(self.fakes.id), what="the channel")

    @property
    def channel(self) -> Any:
        return self.client.get_channel(self.fakes.id)

    def send(self, content: str | None = None, **more: Any) -> discord.Message:
        message: discord.Message = self.running.call(self.channel.send(content, **more))
        return message

    def send_view(self, make: Callable[[], Any], content: str | None = None) -> discord.Message:
        """Send a view that is made inside the client's loop."""

        async def send() -> discord.Message:
            message: discord.Message = await self.channel.send(content, view=make())
            return message

        return self.running.call(send())

    def refused(self, **what: Any) -> str:
        """What Discord says of a message that it does not take."""
        with pytest.raises(discord.HTTPException) as refused:
            self.send(**what)
        assert (refused.value.status, refused.value.code) in {(400, 50035), (400, 50006)}
        return str(refused.value)


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeDiscord]:
    with FakeDiscord(answer_limit_s=60.0) as fake:
        yield fake
        assert fake.unknown_requests == []


@pytest.fixture(scope="module")
def guild(fake: FakeDiscord) -> FakeGuild:
    return fake.add_guild("Kelp Cup")


@pytest.fixture(scope="module")
def alice(guild: FakeGuild) -> FakeUser:
    return guild.add_member("alice")


@pytest.fixture(scope="module")
def running(fake: FakeDiscord, alice: FakeUser) -> Iterator[RunningClient]:
    client = discord.Client(
        intents=discord.Intents(guilds=True, guild_messages=True), guild_ready_timeout=0.05
    )
    with RunningClient(client, fake) as running:
        yield running


@pytest.fixture
def room(fake: FakeDiscord, guild: FakeGuild, running: RunningClient) -> Room:
    return Room(fake, guild, running)


def test_a_message_comes_back_as_it_was_sent(room: Room, alice: FakeUser) -> None:
    """Contents, embeds and mentions are kept, and are the same when the message is fetched."""
    embed = discord.Embed(title="Bracket", description="of eight").add_field(name="a", value="b")
    sent = room.send(f"hello {alice.mention}", embed=embed)
    (kept,) = room.fakes.messages
    assert (kept.id, kept.author, kept.content) == (sent.id, room.fake.bot, sent.content)
    assert (kept.embeds[0]["title"], kept.mentions) == ("Bracket", [alice])
    fetched = room.running.call(room.channel.fetch_message(sent.id))
    assert fetched.embeds[0].fields[0].value == "b"
    assert [user.id for user in fetched.mentions] == [alice.id]
    assert fetched.created_at == sent.created_at


def test_files_come_back(room: Room) -> None:
    """A file is an attachment that can be read; an edit keeps the ones that it names."""
    first = discord.File(io.BytesIO(b"[1, 2]"), "first.json")
    second = discord.File(io.BytesIO(b"[3]"), "second.json")
    sent = room.send("export", files=[first, second])
    (kept,) = room.fakes.messages
    assert kept.files == {"first.json": b"[1, 2]", "second.json": b"[3]"}
    assert room.running.call(sent.attachments[0].read()) == b"[1, 2]"
    room.running.call(sent.edit(attachments=[sent.attachments[1]]))
    assert list(kept.files) == ["second.json"]
    assert kept.content == "export"
    with pytest.raises(discord.NotFound):
        room.running.call(sent.attachments[0].read())


def test_replies_know_what_they_answer(room: Room, alice: FakeUser) -> None:
    """A reply carries the message, or what is left of it; to one that is gone it is refused."""
    asked = room.fakes.say(alice, "when?")
    question = room.running.call(room.channel.fetch_message(asked.id))
    room.running.call(question.reply("now"))
    answer = room.fakes.messages[-1]
    assert answer.reference is not None
    assert answer.reference["message_id"] == str(asked.id)
    room.fakes.delete_message(asked)
    fetched = room.running.call(room.channel.fetch_message(answer.id))
    assert isinstance(fetched.reference.resolved, discord.DeletedReferencedMessage)
    with pytest.raises(discord.HTTPException, match="Unknown message"):
        room.running.call(question.reply("too late"))


def test_history_is_read_from_both_ends(room: Room) -> None:
    """The history of a channel comes in the order, and in the part, that is asked for."""
    sent = [room.send(str(number)) for number in range(5)]

    def read(**how: Any) -> list[str]:
        async def collect() -> list[str]:
            return [message.content async for message in room.channel.history(**how)]

        return room.running.call(collect())

    assert read() == ["4", "3", "2", "1", "0"]
    assert read(limit=2) == ["4", "3"]
    assert read(before=sent[2]) == ["1", "0"]
    assert read(after=sent[2]) == ["3", "4"]
    assert read(around=sent[2], limit=3) == ["3", "2", "1"]
    room.running.call(room.channel.purge(limit=2))
    assert [message.content for message in room.fakes.messages] == ["0", "1", "2"]


def test_edits_change_what_they_name(room: Room) -> None:
    """An edit leaves the rest as it was, and tells when it was made."""
    sent = room.send("before", embed=discord.Embed(title="kept"))
    (kept,) = room.fakes.messages
    assert kept.edited_at is None
    edited = room.running.call(sent.edit(content="after"))
    assert (edited.content, edited.embeds[0].title) == ("after", "kept")
    assert edited.edited_at is not None
    room.running.call(sent.edit(suppress=True))
    assert room.running.call(sent.fetch()).flags.suppress_embeds
    room.running.call(sent.edit(suppress=False))
    assert not room.running.call(sent.fetch()).flags.suppress_embeds
    with pytest.raises(discord.HTTPException, match="empty message"):
        room.running.call(sent.edit(content=None, embed=None))
    assert kept.content == "after"


@pytest.mark.parametrize(
    ("what", "field"),
    [
        ({"content": ""}, "empty message"),
        ({"content": "x" * 2001}, "content"),
        ({"embed": discord.Embed(title="x" * 257)}, "embeds.title"),
        ({"embed": discord.Embed(description="x" * 4097)}, "embeds.description"),
        ({"embed": discord.Embed().add_field(name="n", value="")}, "embeds.fields.value"),
        ({"embed": discord.Embed().add_field(name="n", value="x" * 1025)}, "fields.value"),
        ({"embeds": [discord.Embed(description="x" * 3001)] * 2}, "Embed size"),
    ],
)
def test_messages_that_are_too_much_are_refused(
    room: Room, what: dict[str, Any], field: str
) -> None:
    """What Discord does not take as the text of a message is refused, and nothing is sent."""
    assert field in room.refused(**what)
    assert room.fakes.messages == []


def test_components_that_are_too_much_are_refused(room: Room) -> None:
    """Two components of one custom_id in a message, and custom_ids that are too long."""

    def refused(*custom_ids: str) -> str:
        def make() -> discord.ui.View:
            view = discord.ui.View()
            for each in custom_ids:
                # Set afterwards: discord.py checks what it is given at first.
                button: Any = discord.ui.Button(label="x", custom_id="short")
                button._underlying.custom_id = each
                view.add_item(button)
            return view

        with pytest.raises(discord.HTTPException) as refused:
            room.send_view(make, "buttons")
        return str(refused.value)

    assert "duplicated" in refused("same", "same")
    assert "custom_id" in refused("x" * 101)
    assert room.fakes.messages == []


def test_layouts_have_buttons_in_their_depth(room: Room, alice: FakeUser) -> None:
    """A button in a container of a layout is seen, pressed and answered like any other."""

    class Layout(discord.ui.LayoutView):
        def __init__(self) -> None:
            super().__init__(timeout=None)
            button: Any = discord.ui.Button(label="Join", custom_id="layout:join")
            button.callback = self.join
            section: Any = discord.ui.Section("Eight places", accessory=button)
            self.add_item(discord.ui.Container(section))

        async def join(self, interaction: discord.Interaction) -> None:
            await interaction.response.send_message("joined", ephemeral=True)

    room.send_view(Layout)
    (kept,) = room.fakes.messages
    assert [button.label for button in kept.buttons] == ["Join"]
    assert room.fake.press(alice, kept, "Join").content == "joined"
