"""The failpoints themselves: none without a crash test, none that costs anything."""

from __future__ import annotations

import subprocess
import sys

from support.crash_points import (
    CLEAN_UP,
    CREATE,
    DISCARD,
    FILL,
    MIGRATE,
    PROMOTE,
    PRUNE,
    ROLLBACK,
    VERIFY_FAILS,
    in_source,
)
from support.crash_stage import Stage
from support.outage_points import in_engine


def test_every_failpoint_of_the_source_has_a_crash_test() -> None:
    """A step that is marked in the code is one that a test kills at, and the other way round."""
    found = list(in_source())
    assert [where for where, name in found if not name] == []
    engine = {name for _, name in in_engine()}  # tests/chaos/test_crash_points.py
    tested = MIGRATE.keys() | ROLLBACK.keys() | DISCARD.keys() | VERIFY_FAILS.keys()
    tested |= {*CREATE, *FILL, *PRUNE, *CLEAN_UP, *PROMOTE}
    assert {name for _, name in found} == tested | engine
    assert tested.isdisjoint(engine)


def test_there_are_enough_of_them() -> None:
    """At least twelve steps of a migration and five of a rollback are killed at."""
    assert len(MIGRATE) >= 12
    assert len(ROLLBACK) >= 5


def test_a_name_is_used_in_one_place_for_each_database() -> None:
    """A name means one step: only the two databases' loads share theirs."""
    places: dict[str, list[str]] = {}
    for where, name in in_source():
        places.setdefault(name, []).append(where)
    shared = {name for name, found in places.items() if len(found) > 1}
    assert shared == {
        *("transaction-begun", "collection-written", "record-written"),
        *("filling-begun", "filling-recorded"),
    }
    assert all(len(places[name]) == 2 for name in shared)


def test_a_failpoint_does_nothing_unless_asked_for() -> None:
    """Without STANDFAST_FAILPOINT, or with another name, the process goes on."""
    code = "from standfast.system.failpoints import failpoint; failpoint('one'); print('alive')"
    for setting in ("", "other", "one@2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"STANDFAST_FAILPOINT": setting},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (0, "alive\n")


def test_the_scenario_holds_what_it_is_for(stage: Stage) -> None:
    """Rows that are new, equal, different, only in the database, and back from a tombstone."""
    before, after = stage.before, stage.after
    assert set(before.files) == {"board.json", "events.jsonl", "guilds.json", "players.json"}
    assert after.files == {}
    assert before.tombstones["guilds", "gone"] > 0
    assert ("guilds", "gone") in after.rows
    assert ("guilds", "gone") not in after.tombstones
    untouched = before.rows.keys() & after.rows.keys() - stage.written
    names = {"equal", "only", "only_plain"}
    assert untouched == {("guilds", name) for name in names} | {("players", "p4")}
    assert {before.rows[place] == after.rows[place] for place in untouched} == {True}
    assert before.rows["guilds", "ttl"].expires_us is not None
    assert len(stage.written) == 2 + 9 + 5 + 3
    assert [state["state"] for state in after.states] == ["done"]
    assert after.litter() == []
