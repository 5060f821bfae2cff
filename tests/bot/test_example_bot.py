"""The example bot and its modules where several things happen at once, or something fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Cluster
from support.fakediscord import BotProcess, FakeDiscord

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "tournament_bot"
REGISTER, UNREGISTER = "tournament:register", "tournament:unregister"


class Guild:
    """The example bot over SQLite or PostgreSQL, in one guild of a fake Discord."""

    def __init__(self, fake: FakeDiscord, place: Path, url: str | None = None) -> None:
        self.fake = fake
        self.guild = fake.add_guild("Kelp Cup")
        self.channel = self.guild.add_channel("registration")
        self.admin = self.guild.add_member("organiser", administrator=True)
        env = {**os.environ, "DISCORD_TOKEN": fake.token, "STANDFAST_DATA_DIR": f"{place}/storage"}
        env |= {} if url is None else {"DATABASE_URL": url}
        self.place = place
        self.bot = BotProcess(
            EXAMPLE / "bot.py", fake=fake, env=env, cwd=place, log_path=place / "bot.log"
        )

    def command(self, *path: str, **options: Any) -> str:
        answer = self.fake.slash(
            self.admin,
            *("tournament", *path),
            options=options,
            guild=self.guild,
            channel=self.channel,
        )
        return answer.final().text

    def panel(self) -> Any:
        return self.channel.wait_message(
            lambda message: any(button.custom_id == REGISTER for button in message.buttons)
        )

    def register(self, user: Any, **fields: str) -> str:
        form = self.fake.press(user, self.panel(), REGISTER)
        return self.fake.submit(user, form, {"ign": user.name} | fields).final().text


@pytest.fixture
def guild(tmp_path: Path) -> Iterator[Guild]:
    with FakeDiscord() as fake:
        guild = Guild(fake, tmp_path)
        with guild.bot:
            fake.wait_ready(timeout_s=30)
            yield guild


def call(place: Path, code: str, url: str | None = None) -> Any:
    """What a coroutine `main()` returns that uses the example's modules there."""
    program = f"""
import asyncio, json
from core import persistence
from core.registrations import Registrations
from core.storage_service import close_storage_service, get_storage_service
from helpers.waitlist_helpers import WaitlistError, WaitlistManager
from types import SimpleNamespace
service = get_storage_service()
{code}
print(json.dumps(asyncio.run(main())))
close_storage_service()
"""
    env = {**os.environ, "PYTHONPATH": str(EXAMPLE)} | ({"DATABASE_URL": url} if url else {})
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=place, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---- the bot


def test_two_forms_open_at_once(guild: Guild) -> None:
    """Whoever fills in a form while others do, is answered, and registered with their own words."""
    fake = guild.fake
    first, second = guild.guild.add_member("first"), guild.guild.add_member("second")
    guild.command("open")
    forms = [fake.press(user, guild.panel(), REGISTER) for user in (first, second)]
    answers = [
        fake.begin_submit(user, form, {"ign": f"{user.name}-ign", "team_name": f"{user.name}s"})
        for user, form in zip((first, second), forms, strict=True)
    ]
    assert all("You are registered" in each.answer().final().text for each in answers)
    guild.bot.terminate()
    members = call(
        guild.place,
        f"""
async def main():
    return await Registrations(service.async_bot).members({guild.guild.id})
""",
    )
    assert {key: (one["ign"], one["team_name"]) for key, one in members.items()} == {
        str(user.id): (f"{user.name}-ign", f"{user.name}s") for user in (first, second)
    }


def test_whoever_takes_no_messages_is_told_in_the_channel(guild: Guild) -> None:
    """A promotion is told in the panel's channel, too: many members take no direct messages."""
    fake = guild.fake
    first, second = guild.guild.add_member("first"), guild.guild.add_member("second")
    second.dms_closed = True
    guild.command("capacity", number=1)
    guild.command("open")
    guild.register(first)
    guild.register(second)
    fake.press(first, guild.panel(), UNREGISTER)
    guild.channel.wait_message(lambda message: second.mention in message.content)


def test_the_former_panel_is_gone(guild: Guild) -> None:
    """Opened again, there is one panel: the buttons of a former one would die at the next start."""
    guild.command("open")
    guild.command("open")
    guild.fake.wait_until(
        lambda: sum(bool(message.buttons) for message in guild.channel.messages) == 1,
        what="one panel",
    )


def test_the_first_press_ever_comes_in_an_outage(tmp_path: Path) -> None:
    """A bot that has started with PostgreSQL knows all it needs before anybody presses a button."""
    with Cluster() as cluster, FakeDiscord() as fake:
        guild = Guild(fake, tmp_path, cluster.url())
        user = guild.guild.add_member("first")
        with guild.bot:
            fake.wait_ready(timeout_s=30)
            guild.command("open")
            guild.bot.terminate()
            shutil.rmtree(tmp_path / "storage")  # a new disk
            guild.bot.start()
            fake.wait_ready(timeout_s=30, sessions=2)
            guild.command("status")
            cluster.stop("immediate")
            assert "You are registered" in guild.register(user)


# ---- registrations


PLAYERS = """
async def add(found, number, name):
    details = dict(discord_tag=name, ign=name, alt_igns=[], pronouns=None, team_name=None)
    return await found.register(1, number, details)

async def fill(names, capacity):
    found = Registrations(service.async_bot)
    await service.async_bot.settings.patch(1, {"capacity": capacity})
    for number, name in enumerate(names, 1):
        await add(found, number, name)
    return found
"""


def test_those_who_were_promoted_are_told_of_though_the_rest_fails(tmp_path: Path) -> None:
    """Promotion that fails in the middle returns those who are registered: they have to be told."""
    told = call(
        tmp_path,
        PLAYERS
        + """
import standfast
async def main():
    found = await fill("abcd", 1)
    await service.async_bot.settings.patch(1, {"capacity": 4})
    waitlist, calls = service.async_bot.waitlist, []
    confirm = waitlist.confirm
    async def failing(claim, **options):
        calls.append(claim)
        if len(calls) == 2:
            raise standfast.Unavailable("away", code="needs_primary")
        await confirm(claim, **options)
    waitlist.confirm = failing
    promoted = [entry.member_id for entry in await found.promote(1)]
    return promoted, sorted(await found.members(1))
""",
    )
    assert told == [[2], ["1", "2"]]


def test_nobody_is_told_to_be_registered_who_is_not(tmp_path: Path) -> None:
    """Somebody to whom a place is offered, after a crash say, is not registered yet."""
    told = call(
        tmp_path,
        PLAYERS
        + """
async def main():
    found = await fill("ab", 1)
    await found.unregister(1, 1)
    await service.async_bot.waitlist.promote(1, capacity=1, registered={})  # and it is killed here
    outcome = await add(found, 2, "b")
    return outcome.registered, "2" in await found.members(1)
""",
    )
    assert told[0] == told[1]


def test_a_free_place_is_filled_when_somebody_comes(tmp_path: Path) -> None:
    """A place that an outage has left free goes to the first who waits, not to nobody."""
    told = call(
        tmp_path,
        PLAYERS
        + """
async def main():
    found = await fill("ab", 1)
    await found.unregister(1, 1)  # and the promotion was not possible
    await add(found, 3, "c")
    return sorted(await found.members(1))
""",
    )
    assert told == ["2"]


# ---- modules


def test_entries_without_a_time_are_read(tmp_path: Path) -> None:
    """An entry of older code that does not say since when is listed, and promoted."""
    told = call(
        tmp_path,
        """
async def main():
    service.set_data("waitlist_data", "1", {"waitlist": [
        {"discord_tag": "a", "member_id": 1, "ign": "A"}]})
    entries = await WaitlistManager.get_all_waitlist_entries(1)
    return entries[0]["ign"], len(await WaitlistManager.process_waitlist(SimpleNamespace(id=1)))
""",
    )
    assert told == ["A", 1]


def test_every_failure_of_the_waitlist_is_a_waitlist_error(tmp_path: Path) -> None:
    """Older code catches one error: it is that one whichever call fails."""
    told = call(
        tmp_path,
        """
async def main():
    service.set_data("waitlist_data", "1", {"waitlist": 5})
    caught = []
    for call in (WaitlistManager.get_waitlist_length, WaitlistManager.get_all_waitlist_entries):
        try:
            await call(1)
        except WaitlistError as error:
            caught.append(type(error.__cause__).__name__)
    return caught
""",
    )
    assert told == ["CorruptData", "CorruptData"]


def test_two_loads_that_overlap(tmp_path: Path) -> None:
    """What others wrote between two loads is not undone by saving what was loaded first."""
    told = call(
        tmp_path,
        """
async def main():
    service.set_data("persisted_views", "1", {"a": 1})
    early = persistence.load_persisted()
    service.set_data("persisted_views", "1", {"a": 2})
    persistence.load_persisted()
    early["2"] = {"b": 1}
    persistence.save_persisted(early)
    return persistence.load_persisted()
""",
    )
    assert told == {"1": {"a": 2}, "2": {"b": 1}}


def test_a_backup_of_whatever_is_stored(tmp_path: Path) -> None:
    """A backup is written whatever the texts of users hold."""
    call(
        tmp_path,
        r"""
async def main():
    service.set_data("notes", "1", {"x": "\ud800"})
    return str(service.backup_data())
""",
    )


def test_cleanup_takes_the_registrations_too(tmp_path: Path) -> None:
    """What members of a guild told is not kept when the bot has left it."""
    told = call(
        tmp_path,
        """
async def main():
    service.set_data("registrations", "5", {"members": {"1": {"ign": "A"}}})
    service.set_data("registrations", "6", {"members": {"1": {"ign": "A"}}})
    cleaned = service.cleanup_old_data(0, live_guilds=[6])
    return cleaned, list(service.store["registrations"].keys())
""",
    )
    assert told == [["5"], ["6"]]


def test_twins_of_all(tmp_path: Path) -> None:
    """Each function of `persistence` has its twin for the event loop."""
    names = call(tmp_path, "async def main():\n    return dir(persistence)")
    plain = [
        name
        for name in names
        if name.startswith(("get_", "set_", "load_", "save_", "update_", "cleanup_"))
        and not name.endswith("_async")
        and name != "get_storage_service"
    ]
    assert [name for name in plain if f"{name}_async" not in names] == []
