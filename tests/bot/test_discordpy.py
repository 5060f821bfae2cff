"""`standfast.bot.discordpy` with the real discord.py: opened, re-added, reconciled, scheduled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import standfast
from standfast import ConfigError
from standfast.bot import AsyncBotStore, BotStore, Environment
from support.fakediscord import FakeDiscord
from support.fakediscord.launch import import_discord, point_to
from support.outage import Outage

import_discord()

import discord  # noqa: E402
from discord.ext import commands  # noqa: E402

from standfast.bot.discordpy import StorageMixin  # noqa: E402
from standfast.bot.schedules import DueClaim  # noqa: E402


class Knock(discord.ui.DynamicItem[discord.ui.Button], template=r"knock:(?P<door>[0-9]+)"):  # type: ignore[type-arg]
    """A button that carries its state in its custom_id."""

    def __init__(self, door: int) -> None:
        super().__init__(discord.ui.Button(label="Knock", custom_id=f"knock:{door}"))
        self.door = door

    @classmethod
    async def from_custom_id(cls, interaction: Any, item: Any, match: Any) -> Knock:
        return cls(int(match["door"]))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        await interaction.response.send_message(f"door {self.door}", ephemeral=True)


class Hello(discord.ui.View):
    """A persistent view that says which record it was made for."""

    def __init__(self, name: str) -> None:
        super().__init__(timeout=None)
        button: Any = discord.ui.Button(label="Hello", custom_id="hello")
        button.callback = self.answer
        self.add_item(button)
        self.name = name

    async def answer(self, interaction: discord.Interaction[Any]) -> None:
        await interaction.response.send_message(self.name, ephemeral=True)


class Bot(StorageMixin, commands.Bot):
    """A bot as a user would write it."""

    schedule_interval_s: ClassVar[float] = 0.05

    def __init__(self, url: str, data_dir: Path) -> None:
        intents = discord.Intents(guilds=True, members=True)
        super().__init__(command_prefix=commands.when_mentioned, intents=intents)
        self.storage_options = {"url": url, "data_dir": data_dir, "sole_writer": True}  # type: ignore[misc]
        self.persist_view("panel", lambda message: Hello(message.name))
        self.add_dynamic_items(Knock)
        self.gone: list[Any] = []
        self.due: list[str] = []
        self.failures = 1

    async def on_message_gone(self, message: Any) -> None:
        self.gone.append(message.name)

    async def on_schedule_due(self, claim: DueClaim) -> None:
        self.due.append(claim.due.name)
        if claim.due.name == "shaky" and self.failures:
            self.failures -= 1
            raise RuntimeError("not yet")


class Running:
    """A client of discord.py in a thread with a loop of its own."""

    def __init__(self, make: Callable[[], Bot], token: str) -> None:
        self.bot: Any = None
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(make, token))
        self._thread.start()
        self._started.wait(20)

    def _run(self, make: Callable[[], Bot], token: str) -> None:
        async def main() -> None:
            self.bot = make()
            self.loop = asyncio.get_running_loop()
            self._started.set()
            async with self.bot:
                await self.bot.start(token)

        try:
            asyncio.run(main())
        except BaseException as error:
            self._error = error
            self._started.set()

    def run(self, work: Any) -> Any:
        """The result of a coroutine in the bot's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def _close_bot(self) -> None:
        self._closing = self.loop.create_task(self.bot.close())

    def close(self) -> None:
        if self._thread.is_alive():
            # The loop may have ended meanwhile, and the bot with it.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._close_bot)
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error


@pytest.fixture
def fake() -> Iterator[FakeDiscord]:
    with FakeDiscord() as fake, point_to(fake):
        yield fake


@pytest.fixture
def outage(pg_prepared: str, tmp_path: Path) -> Outage:
    return Outage(pg_prepared, tmp_path)


@pytest.fixture
def start(fake: FakeDiscord, outage: Outage) -> Iterator[Callable[[], Running]]:
    """Starts a bot and waits until Discord has let it in."""
    running: list[Running] = []

    def started() -> Running:
        sessions = fake.sessions
        running.append(Running(lambda: Bot(outage.url, outage.data_dir()), fake.token))
        fake.wait_ready(sessions=sessions + 1)
        fake.wait_until(running[-1].bot.is_ready, what="the client to be ready")
        return running[-1]

    yield started
    for one in running:
        one.close()


def post(running: Running, channel_id: int, view: Any = None) -> Any:
    """Let the bot post a message with buttons."""

    async def work() -> Any:
        return await running.bot.get_channel(channel_id).send("panel", view=view or Hello("x"))

    return running.run(work())


def test_views_answer_after_a_restart_without_postgresql(
    fake: FakeDiscord, outage: Outage, start: Callable[[], Running]
) -> None:
    """Re-added in setup_hook, from the mirror; dynamic items need no record at all."""
    guild = fake.add_guild("Kelp")
    alice = guild.add_member("alice")
    first = start()
    posted = post(first, guild.general.id)
    knock = discord.ui.View(timeout=None)
    knock.add_item(Knock(7))
    post(first, guild.general.id, knock)
    first.run(first.bot.state.messages.set(guild.id, "panel", guild.general.id, posted.id))
    assert first.bot.store is first.bot.state.store
    first.close()
    panel, door = guild.general.messages
    with outage.away():
        second = start()
        assert fake.press(alice, panel, "hello").content == "panel"
        assert fake.press(alice, door, "knock:7").content == "door 7"
        assert second.run(second.bot.store.health()).state == "journaling"


def test_a_first_start_without_postgresql_catches_up(
    fake: FakeDiscord, outage: Outage, start: Callable[[], Running]
) -> None:
    """Nobody can tell which messages there are: the bot starts, and re-adds them afterwards."""
    guild = fake.add_guild("Kelp")
    alice = guild.add_member("alice")
    with outage.store("elsewhere") as store:
        state = BotStore(store, environment=Environment())
        state.messages.set(guild.id, "panel", guild.general.id, 1)
    with outage.away():
        running = start()
        assert running.bot.persistent_views == []
        assert not running.bot.reconciled.is_set()
    fake.wait_until(lambda: running.bot.persistent_views, timeout_s=20, what="the view")
    posted = post(running, guild.general.id)
    assert fake.press(alice, guild.general.messages[0], "hello").content
    assert posted.id


def test_what_happened_meanwhile_is_reconciled(
    fake: FakeDiscord, outage: Outage, start: Callable[[], Running]
) -> None:
    """Gone is what Discord says does not exist; a missing permission, an older record without its
    channel and a guild of others are left alone; who left is off the waitlist."""
    guild = fake.add_guild("Kelp")
    alice, bob = guild.add_member("alice"), guild.add_member("bob")
    secret = guild.add_channel("secret")
    with outage.store() as store:
        state = BotStore(store, environment=Environment())
        state.messages.set(guild.id, "deleted", guild.general.id, 10**18)
        state.messages.set(guild.id, "no_channel", 10**18 + 1, 10**18 + 2)
        state.messages.set(guild.id, "secret", secret.id, 10**18 + 3)
        state.guilds.patch(guild.id, {"older": 10**18 + 4})
        state.messages.set(999, "of_others", 10**18 + 5, 10**18 + 6)
        for member in (alice, bob):
            state.waitlist.add(guild.id, member_id=member.id, discord_tag=member.name, ign="x")
    guild.remove_member(alice)
    fake.fail_next("GET", f"/channels/{secret.id}/messages", status=403, code=50001)
    running = start()
    fake.wait_until(running.bot.reconciled.is_set, what="the reconciliation")
    found = running.bot.reconciliation
    assert (found.messages_gone, found.messages_unverified, found.members_gone) == (2, 3, 1)
    assert sorted(running.bot.gone) == ["deleted", "no_channel"]
    left = running.run(running.bot.state.messages.list())
    assert sorted(message.name for message in left) == ["of_others", "older", "secret"]
    waiting = running.run(running.bot.state.waitlist.list(guild.id))
    assert [entry.member_id for entry in waiting] == [bob.id]


def test_a_schedule_is_carried_out_once_and_again_after_a_failure(
    fake: FakeDiscord, outage: Outage, start: Callable[[], Running]
) -> None:
    """Due during the downtime: done once; whose handler raises is given back and tried again."""
    guild = fake.add_guild("Kelp")
    with outage.store() as store:
        state = BotStore(store, environment=Environment())
        for name in ("steady", "shaky"):
            state.schedules.set(guild.id, name, "2020-01-01T00:00:00+00:00")
        state.schedules.set(guild.id, "later", "2100-01-01T00:00:00+00:00")
    running = start()

    async def schedules() -> list[str]:
        return sorted(await running.bot.state.schedules.list(guild.id))

    fake.wait_until(lambda: running.run(schedules()) == ["later"], what="what was due is done")
    assert sorted(running.bot.due) == ["shaky", "shaky", "steady"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        standfast.CorruptData("x", code="x", hint="x"),
        standfast.ConfigError("x", code="x", hint="x"),
        standfast.ConflictError("x", code="x", hint="x"),
        standfast.Unavailable("x", code="x", hint="x"),
        TimeoutError(),
        asyncio.CancelledError(),
        RecursionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_due_schedule_survives_errors_of_every_kind(
    error: BaseException,
    fake: FakeDiscord,
    outage: Outage,
    start: Callable[[], Running],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the reconciliation, the look at what is due and the handler raise, once each: the
    loop goes on, and the schedule is carried out."""
    guild = fake.add_guild("Kelp")
    with outage.store() as store:
        state = BotStore(store, environment=Environment())
        state.schedules.set(guild.id, "steady", "2020-01-01T00:00:00+00:00")
    raised: list[str] = []

    def once(name: str) -> None:
        inner = getattr(Bot, name)

        async def failing(self: Bot, *arguments: Any) -> Any:
            if name not in raised:
                raised.append(name)
                raise error
            return await inner(self, *arguments)

        monkeypatch.setattr(Bot, name, failing)

    for name in ("reconcile", "run_due", "on_schedule_due"):
        once(name)
    running = start()
    fake.wait_until(lambda: running.bot.due == ["steady"], timeout_s=30, what="the schedule")
    fake.wait_until(running.bot.reconciled.is_set, timeout_s=30, what="the reconciliation")
    assert sorted(raised) == ["on_schedule_due", "reconcile", "run_due"]


def test_what_only_looks_like_a_message_is_not_deleted(
    fake: FakeDiscord, outage: Outage, start: Callable[[], Running]
) -> None:
    """F7: two roles in a document are two large numbers, and Discord knows no message of theirs:
    nobody asks, and they stay; a message that `set` wrote in another process is looked at."""
    guild = fake.add_guild("Kelp")
    roles = [10**18, 10**18 + 1]
    with outage.store() as store:
        state = BotStore(store, environment=Environment())
        state.guilds.patch(guild.id, {"allowed_roles": roles})
        state.messages.set(guild.id, "deleted", guild.general.id, 10**18 + 2)
    running = start()
    fake.wait_until(running.bot.reconciled.is_set, what="the reconciliation")
    assert running.bot.gone == ["deleted"]
    assert running.bot.reconciliation.messages_unverified == 1
    document = running.run(running.bot.state.guilds.get(guild.id))
    assert document["allowed_roles"] == roles


def test_the_state_is_there_from_setup_hook_to_close(
    fake: FakeDiscord, start: Callable[[], Running]
) -> None:
    """Before and afterwards it is a clear error; closing twice is none."""

    async def unopened() -> Bot:
        return Bot("sqlite:///nowhere.db", Path("nowhere"))

    with pytest.raises(ConfigError) as caught:
        _ = asyncio.run(unopened()).state
    assert caught.value.code == "not_open"
    running = start()
    store: standfast.AsyncStore = running.bot.store
    assert isinstance(running.bot.state, AsyncBotStore)
    running.run(running.bot.close())
    running.close()
    with pytest.raises(standfast.Unavailable):
        asyncio.run(store["c"].get("k"))
