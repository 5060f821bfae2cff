"""The gateway of the fake Discord: what discord.py and a bare websocket get from it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import zlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import aiohttp
import pytest

from support.fakediscord import FakeDiscord, FakeGuild, FakeUser
from support.fakediscord.gateway import How, encoder
from support.fakediscord.inprocess import RunningClient
from support.fakediscord.launch import import_discord, point_to
from support.fakediscord.sessions import Session

import_discord()

import discord  # noqa: E402

HELLO, IDENTIFY, RESUME, HEARTBEAT, ACK, RECONNECT, INVALID = 10, 2, 6, 1, 11, 7, 9
GUILDS, MEMBERS = 1 << 0, 1 << 1


class Watcher(discord.Client):
    """A client that keeps what its listeners are told."""

    def __init__(self, *intents: str) -> None:
        wanted = discord.Intents(**dict.fromkeys(intents, True))
        super().__init__(intents=wanted, guild_ready_timeout=0.05)
        self.seen: list[tuple[str, Any]] = []

    def dispatch(self, event: str, /, *args: Any, **kwargs: Any) -> None:
        self.seen.append((event, args[0] if args else None))
        super().dispatch(event, *args, **kwargs)

    def told(self, event: str) -> list[Any]:
        return [what for name, what in self.seen if name == event]


class Line:
    """A websocket to the gateway, without a client's cleverness."""

    def __init__(self, http: aiohttp.ClientSession, fake: FakeDiscord) -> None:
        self._http = http
        self._fake = fake

    async def open(self) -> None:
        self.socket = await self._http.ws_connect(f"{self._fake.url}/gateway?v=10")
        assert (await self.read())["op"] == HELLO

    async def cut(self) -> None:
        """End of file, without a word."""
        await self._http.close()

    async def read(self) -> Any:
        return json.loads((await self.socket.receive(timeout=10)).data)

    async def until(self, event: str) -> list[Any]:
        """What comes up to and with an event."""
        got = [await self.read()]
        while got[-1]["t"] != event:
            got.append(await self.read())
        return got

    async def send(self, op: int, data: Any) -> None:
        await self.socket.send_str(json.dumps({"op": op, "d": data}))

    async def identify(self, *, intents: int = GUILDS) -> Any:
        """Begin a session; its READY."""
        await self.send(IDENTIFY, {"token": self._fake.token, "intents": intents})
        return (await self.until("READY"))[-1]["d"]

    async def resume(self, session_id: str, after: int) -> None:
        data = {"token": self._fake.token, "session_id": session_id, "seq": after}
        await self.send(RESUME, data)


Open = Callable[..., Coroutine[Any, Any, Line]]


def bare(fake: FakeDiscord, play: Callable[[Open], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine that is given a way to open lines; HELLO is read already."""

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:

            async def open_line() -> Line:
                line = Line(await stack.enter_async_context(aiohttp.ClientSession()), fake)
                await line.open()
                return line

            await play(open_line)

    asyncio.run(run())


@pytest.fixture
def fake() -> Iterator[FakeDiscord]:
    with FakeDiscord(answer_limit_s=60.0) as fake:
        yield fake


@pytest.fixture
def guild(fake: FakeDiscord) -> FakeGuild:
    return fake.add_guild("Kelp Cup")


@pytest.fixture
def alice(guild: FakeGuild) -> FakeUser:
    return guild.add_member("alice")


def test_a_client_sees_the_guild_as_it_is(
    fake: FakeDiscord, guild: FakeGuild, alice: FakeUser
) -> None:
    """After READY a client knows channels, roles, the owner, itself and, by asking, all members."""
    captain = guild.add_role("Captain")
    guild.set_roles(alice, [captain.id])
    guild.add_channel("registration")
    with RunningClient(client := Watcher("guilds", "members"), fake):
        assert client.user is not None
        assert (client.user.id, client.application_id) == (fake.bot.id, fake.bot.id)
        (seen,) = client.guilds
        assert (seen.id, seen.name, seen.owner_id) == (guild.id, "Kelp Cup", guild.owner.id)
        assert [channel.name for channel in seen.text_channels] == ["general", "registration"]
        assert seen.chunked
        assert seen.member_count == len(guild.members) == 3
        member = seen.get_member(alice.id)
        assert member is not None
        assert [role.name for role in member.roles] == ["@everyone", "Captain"]
        assert not member.guild_permissions.administrator
        assert seen.me.guild_permissions.administrator
        assert not seen.unavailable
    assert fake.unknown_requests == []
    assert fake.sessions == 1


def test_members_are_hidden_without_the_intent_for_them(
    fake: FakeDiscord, guild: FakeGuild, alice: FakeUser
) -> None:
    """A client without the intent knows itself alone and hears of nobody; it may ask for some."""
    with RunningClient(client := Watcher("guilds"), fake) as running:
        (seen,) = client.guilds
        assert [member.id for member in seen.members] == [fake.bot.id]
        guild.add_member("bob")
        channel = guild.add_channel("marker")
        fake.wait_until(lambda: seen.get_channel(channel.id))
        assert client.told("member_join") == []
        (found,) = running.call(seen.query_members(user_ids=[alice.id]))
        assert found.name == "alice"
        assert running.call(seen.fetch_member(alice.id)).id == alice.id


def test_a_client_hears_of_members_channels_and_roles(
    fake: FakeDiscord, guild: FakeGuild, alice: FakeUser
) -> None:
    """Joining, leaving, roles, channels and guilds come as events to a client that is connected."""
    with RunningClient(client := Watcher("guilds", "members"), fake):
        bob = guild.add_member("bob")
        fake.wait_until(lambda: [m.id for m in client.told("member_join")] == [bob.id])
        guild.remove_member(alice)
        fake.wait_until(lambda: [m.id for m in client.told("member_remove")] == [alice.id])
        role = guild.add_role("Captain")
        guild.set_roles(bob, [role.id])
        fake.wait_until(lambda: client.told("member_update"))
        (seen,) = client.guilds
        member = seen.get_member(bob.id)
        assert member is not None
        assert member.get_role(role.id) is not None
        guild.remove_channel(guild.general)
        fake.wait_until(lambda: [c.name for c in client.told("guild_channel_delete")])
        other = fake.add_guild("Other")
        fake.wait_until(lambda: [g.id for g in client.told("guild_join")] == [other.id])
        other.leave()
        fake.wait_until(lambda: [g.id for g in client.told("guild_remove")] == [other.id])
        assert seen.member_count == len(guild.members)


@pytest.mark.parametrize("content_intent", [True, False])
def test_contents_of_others_need_their_intent(
    fake: FakeDiscord, guild: FakeGuild, alice: FakeUser, content_intent: bool
) -> None:
    """What users write is empty without the intent for contents, unless it mentions the bot."""
    more = ["message_content"] if content_intent else []
    with RunningClient(client := Watcher("guilds", "guild_messages", *more), fake):
        guild.general.say(alice, "hello")
        guild.general.say(alice, f"{fake.bot.mention} hello")
        fake.wait_until(lambda: len(client.told("message")) == 2)
        first, second = client.told("message")
        assert first.content == ("hello" if content_intent else "")
        assert second.content.endswith("hello")
        assert first.author.id == alice.id


@pytest.mark.parametrize("how", ["close", "reconnect", "abort"])
def test_a_client_that_is_cut_off_resumes(fake: FakeDiscord, guild: FakeGuild, how: How) -> None:
    """However a connection ends, discord.py takes its session up again and misses nothing."""
    with RunningClient(client := Watcher("guilds", "members"), fake):
        for number in range(3):
            fake.disconnect_gateway(how, resumable=True)
            guild.add_member(f"member {number}")
            fake.wait_ready()
        fake.wait_until(lambda: len(client.told("member_join")) == 3)
        fake.wait_until(lambda: len(client.told("resumed")) == 3)
        assert [member.name for member in client.told("member_join")] == [
            "member 0",
            "member 1",
            "member 2",
        ]
        assert len(client.told("ready")) == 1
    assert fake.sessions == 1


def test_a_client_whose_session_is_forgotten_begins_anew(
    fake: FakeDiscord, guild: FakeGuild
) -> None:
    """When the session cannot be resumed, discord.py identifies again and sees what is new."""
    with RunningClient(client := Watcher("guilds", "members"), fake):
        fake.disconnect_gateway(resumable=False)
        bob = guild.add_member("bob")
        fake.wait_ready(sessions=2)
        fake.wait_until(lambda: len(client.told("ready")) == 2)
        assert client.guilds[0].get_member(bob.id) is not None
    assert fake.sessions == 2


def test_a_wrong_token_is_refused(fake: FakeDiscord) -> None:
    """discord.py fails to log in with another token, and the gateway closes with 4004."""

    async def log_in() -> None:
        async with Watcher("guilds") as client:
            await client.login("another token")

    with point_to(fake), pytest.raises(discord.LoginFailure):
        asyncio.run(log_in())

    async def play(open_line: Open) -> None:
        line = await open_line()
        await line.send(IDENTIFY, {"token": "another token", "intents": GUILDS})
        await line.socket.receive()
        assert line.socket.close_code == 4004

    bare(fake, play)
    assert fake.sessions == 0


@pytest.mark.parametrize("end", ["close", "cut"])
def test_what_happens_while_a_client_is_away_is_replayed(
    fake: FakeDiscord, guild: FakeGuild, end: str
) -> None:
    """RESUME brings the events after the number that the client names, then RESUMED."""

    async def play(open_line: Open) -> None:
        line = await open_line()
        ready = await line.identify(intents=GUILDS | MEMBERS)
        (last,) = await line.until("GUILD_CREATE")
        await (line.cut() if end == "cut" else line.socket.close(code=4000))
        await asyncio.to_thread(fake.wait_gone)
        guild.add_member("bob")
        guild.add_member("carol")
        line = await open_line()
        await line.resume(ready["session_id"], last["s"])
        replayed = await line.until("RESUMED")
        assert [each["t"] for each in replayed] == ["GUILD_MEMBER_ADD"] * 2 + ["RESUMED"]
        assert [each["s"] for each in replayed] == [last["s"] + n for n in (1, 2, 3)]

    bare(fake, play)


def test_a_session_that_was_closed_in_order_is_gone(fake: FakeDiscord, guild: FakeGuild) -> None:
    """After a good-bye, for another token or an unknown number, RESUME is INVALID_SESSION."""

    async def play(open_line: Open) -> None:
        line = await open_line()
        ready = await line.identify()
        other = await open_line()
        await other.resume(ready["session_id"], 1000)
        assert (await other.read())["op"] == INVALID
        await line.socket.close(code=1000)
        await asyncio.to_thread(fake.wait_gone)
        await other.resume(ready["session_id"], 2)
        answer = await other.read()
        assert (answer["op"], answer["d"]) == (INVALID, False)

    bare(fake, play)


def test_heartbeats_are_answered_and_unknown_opcodes_are_not(fake: FakeDiscord) -> None:
    """A heartbeat gets its acknowledgement; an opcode that there is not closes with 4001."""

    async def play(open_line: Open) -> None:
        line = await open_line()
        await line.send(HEARTBEAT, None)
        assert (await line.read())["op"] == ACK
        await line.send(99, None)
        await line.socket.receive()
        assert line.socket.close_code == 4001

    bare(fake, play)


def test_both_compressions_are_streams_of_whole_messages() -> None:
    """Each frame of zlib-stream ends with a flush, and the frames are one stream."""
    encode, decoder = encoder("zlib-stream"), zlib.decompressobj()
    for text in ("first", "second " * 100, "third"):
        frame = encode(text)
        assert isinstance(frame, bytes)
        assert frame.endswith(b"\x00\x00\xff\xff")
        assert decoder.decompress(frame).decode() == text
    assert encoder(None)("plain") == "plain"
    with pytest.raises(ValueError, match="lz4"):
        encoder("lz4")


@pytest.mark.skipif(
    not importlib.util.find_spec("zstandard"), reason="discord.py asks for it with zstandard only"
)
def test_zstd_is_what_the_client_reads() -> None:
    """discord.py's own context reads what the fake writes for zstd-stream."""
    context: Any = discord.utils._ActiveDecompressionContext()
    assert context.COMPRESSION_TYPE == "zstd-stream"
    encode = encoder("zstd-stream")
    for text in ("first", "second " * 100, "third"):
        assert context.decompress(encode(text)) == text


def test_events_are_kept_for_resuming_up_to_a_bound(
    fake: FakeDiscord, guild: FakeGuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that was away for too many events cannot resume."""
    monkeypatch.setattr("support.fakediscord.sessions.KEPT_EVENTS", 3)
    session = Session(1, GUILDS, None)
    for number in range(5):
        session.push("TYPING_START", {"number": number})
    assert [number for number in range(7) if session.can_resume(number)] == [2, 3, 4, 5]


def test_large_guilds_come_in_chunks(fake: FakeDiscord, guild: FakeGuild) -> None:
    """All of 1,100 members are known to a client that asks for them."""
    for number in range(1100):
        guild.add_member(f"member {number}")
    with RunningClient(client := Watcher("guilds", "members"), fake):
        assert len(client.guilds[0].members) == len(guild.members) == 1102
