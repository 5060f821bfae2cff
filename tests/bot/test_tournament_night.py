"""A tournament night from end to end: the example bot, real discord.py, a real PostgreSQL.

Discord itself is the fake one, which refuses a first answer that comes later than 3 seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.cluster import Cluster
from support.fakediscord import BotProcess, FakeDiscord

ROOT = Path(__file__).parents[2]
BOT = ROOT / "examples" / "tournament_bot" / "bot.py"
REGISTER, UNREGISTER = "tournament:register", "tournament:unregister"


class Night:
    """A guild with the example bot in it, and what its members do."""

    def __init__(self, fake: FakeDiscord, cluster: Cluster, place: Path) -> None:
        self.fake = fake
        self.cluster = cluster
        self.guild = fake.add_guild("Kelp Cup")
        self.channel = self.guild.add_channel("registration")
        self.admin = self.guild.add_member("organiser", administrator=True)
        env = {
            "DISCORD_TOKEN": fake.token,
            "DATABASE_URL": cluster.url(),
            "STANDFAST_DATA_DIR": str(place / "storage"),
        }
        self.bot = BotProcess(BOT, fake=fake, env=env, cwd=place, log_path=place / "bot.log")
        self.place = place

    def start(self) -> None:
        sessions = self.fake.sessions
        self.bot.start()
        self.fake.wait_ready(timeout_s=30, sessions=sessions + 1)

    def command(self, *path: str, **options: Any) -> str:
        """What an organiser's command answers."""
        answer = self.fake.slash(
            self.admin,
            *("tournament", *path),
            options=options,
            guild=self.guild,
            channel=self.channel,
        )
        return said(answer.final())

    def panel(self) -> Any:
        """The message with the buttons."""
        return self.channel.wait_message(
            lambda message: any(button.custom_id == REGISTER for button in message.buttons)
        )

    def register(self, user: Any, **fields: str) -> str:
        """What a press of Register and the form after it answer."""
        form = self.fake.press(user, self.panel(), REGISTER)
        assert form.kind == "modal", said(form)
        names = {"ign": f"{user.name}#EUW"} | fields
        return said(self.fake.submit(user, form, names).final())

    def unregister(self, user: Any) -> str:
        return said(self.fake.press(user, self.panel(), UNREGISTER).final())

    def told(self, user: Any) -> bool:
        """Whether somebody got a direct message."""
        return bool(self.fake.dms(user))

    def documents(self, table: str, key: str = "key") -> dict[str, Any]:
        """What PostgreSQL has, by SQL."""
        with psycopg.connect(self.cluster.url(), connect_timeout=5) as conn:
            found = conn.execute(f"SELECT {key}, data FROM {table}").fetchall()
        return dict(found)

    def registered(self) -> set[int]:
        members = self.documents("registrations")[str(self.guild.id)]["members"]
        return {int(member) for member in members}

    def waiting(self) -> list[int]:
        waitlist = self.documents("waitlist_data").get(str(self.guild.id), {"waitlist": []})
        return [entry["member_id"] for entry in waitlist["waitlist"]]


def said(answer: Any) -> str:
    """All text of an answer."""
    return json.dumps([answer.content, answer.embeds], default=str).lower()


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    # How quickly a press is answered, only the test of a server that hangs asks.
    with Cluster() as cluster, FakeDiscord(answer_limit_s=30.0) as fake:
        night = Night(fake, cluster, tmp_path)
        yield night
        night.bot.close()


def test_a_night_with_a_kill_and_an_outage(night: Night) -> None:
    """Registered until it is full, waiting afterwards, promoted in order and told; killed and
    restarted without PostgreSQL, old buttons answer and all goes on; in the end everything is in
    PostgreSQL, once."""
    fake, guild = night.fake, night.guild
    people = [guild.add_member(f"member{number}") for number in range(8)]
    night.start()
    night.command("capacity", number=2)
    night.command("open")
    assert "waitlist" not in night.register(people[0])
    assert "waitlist" not in night.register(people[1])
    assert "1" in night.register(people[2])
    assert "waitlist" in night.register(people[3])
    assert night.registered() == {people[0].id, people[1].id}
    assert night.waiting() == [people[2].id, people[3].id]
    assert not night.told(people[2])

    night.unregister(people[0])
    fake.wait_until(lambda: night.told(people[2]), what="the first who waits is told")
    assert night.registered() == {people[1].id, people[2].id}
    assert night.waiting() == [people[3].id]
    assert not night.told(people[3])

    night.bot.kill()
    night.cluster.stop("immediate")
    night.start()
    assert "waitlist" in night.register(people[4])
    night.unregister(people[1])
    fake.wait_until(lambda: night.told(people[3]), what="promoted without PostgreSQL")
    assert "waitlist" in night.register(people[5])
    assert "journaling" in night.command("status")

    night.cluster.start()
    fake.wait_until(lambda: "direct" in night.command("status"), timeout_s=30, what="it is back")
    assert night.registered() == {people[2].id, people[3].id}
    assert night.waiting() == [people[4].id, people[5].id]
    assert [len(fake.dms(person)) for person in people] == [0, 0, 1, 1, 0, 0, 0, 0]

    night.unregister(people[2])
    fake.wait_until(lambda: night.told(people[4]), what="promoted on PostgreSQL again")
    assert night.registered() == {people[3].id, people[4].id}
    with psycopg.connect(night.cluster.url()) as conn:
        assert conn.execute("SELECT count(*) FROM standfast.conflicts").fetchone() == (0,)
    assert fake.unknown_requests == []


def test_buttons_answer_while_the_server_hangs(night: Night) -> None:
    """I8: a frozen server costs the first press a second, and Discord's limit is kept."""
    people = [night.guild.add_member(f"member{number}") for number in range(3)]
    night.start()
    night.command("capacity", number=1)
    night.command("open")
    night.register(people[0])
    night.fake.answer_limit_s = 3.0
    night.cluster.freeze()
    try:
        assert "waitlist" in night.register(people[1])
        assert "waitlist" in night.register(people[2])
        night.unregister(people[0])
        night.fake.wait_until(lambda: night.told(people[1]), what="promoted while it hangs")
    finally:
        night.cluster.thaw()
    night.fake.wait_until(
        lambda: "direct" in night.command("status"), timeout_s=30, what="it is back"
    )
    assert night.registered() == {people[1].id}
    assert night.waiting() == [people[2].id]


def test_what_happened_while_the_bot_was_away(night: Night) -> None:
    """A member who left is off the waitlist, a deleted panel is forgotten, a schedule that was due
    is carried out once."""
    fake, guild = night.fake, night.guild
    people = [guild.add_member(f"member{number}") for number in range(3)]
    night.start()
    night.command("capacity", number=1)
    night.command("open")
    for person in people:
        night.register(person)
    assert night.waiting() == [people[1].id, people[2].id]
    night.command("schedule", name="close_registration", when="2020-01-01T00:00:00+00:00")
    night.bot.kill()
    guild.remove_member(people[1])
    old = night.panel()
    night.channel.delete_message(old)
    night.start()
    fake.wait_until(lambda: night.waiting() == [people[2].id], what="who left waits no more")

    def views() -> Any:
        return night.documents("persisted_views")[str(guild.id)]

    fake.wait_until(lambda: "registration" not in views(), what="the record is dropped")
    fake.wait_until(lambda: "close_registration_schedule" not in views(), what="it was carried out")
