"""Collections whose table was there before: bots have it already, with a key of its own kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from support.cli import run_cli
from support.moving import Place

WAITLIST = {"813802199148265472": {"waitlist": [1, 2.0]}, "-5": {}, "0": {"b": 1, "a": 2}}


@pytest.fixture
def bot(pg_database: str, tmp_path: Path) -> Iterator[Place]:
    """The table of a bot that stores guilds under a bigint."""
    with psycopg.connect(pg_database) as conn:
        conn.execute(
            "CREATE TABLE waitlist_data (guild_id BIGINT PRIMARY KEY, data JSONB NOT NULL,"
            " created_at TIMESTAMPTZ DEFAULT now(), updated_at TIMESTAMPTZ DEFAULT now())"
        )
        conn.execute("INSERT INTO waitlist_data VALUES (7, '{\"old\": true}'), (0, '{\"a\": 2}')")
    place = Place(tmp_path, pg_database)
    yield place
    place.close()


def test_a_table_with_a_bigint_key_takes_a_file(bot: Place) -> None:
    """Rows of the table and of the file live together; nothing of either is lost."""
    path = bot.write("waitlist_data.json", WAITLIST)
    plan = bot.plan(path)
    (found,) = plan.collections
    assert [key for key, _ in found.inserts] == ["813802199148265472", "-5"]
    assert [(each.key, each.paths) for each in found.different] == [("0", ("added $.b",))]
    assert found.only_database == 1
    bot.moved(path, on_conflict="file")
    assert bot.documents("waitlist_data") == {**WAITLIST, "7": {"old": True}}
    assert '"0":{"b":1,"a":2}' in bot.exported("waitlist_data")


@pytest.mark.parametrize("key", ["name", "", "007", "+7", "1.0", "9223372036854775808", "٧", " 7"])
def test_a_key_that_is_no_bigint_is_refused(bot: Place, key: str) -> None:
    """A key that the column cannot hold, or would give back otherwise: exit 4, no row changes."""
    bot.write("waitlist_data.json", {"1": {}, key: {"x": 1}})
    ran = run_cli("migrate", "waitlist_data.json", "--json", cwd=bot.root, env=bot.env)
    (problem,) = ran.document["problems"]
    assert (ran.code, problem["code"]) == (4, "bad_key")
    assert bot.json_files() == ["waitlist_data.json"]
    assert bot.documents("waitlist_data") == {"7": {"old": True}, "0": {"a": 2}}
    assert bot.versions("waitlist_data") == {"7": 1, "0": 1}
