"""The crash tests' scenario on one database, and how it looks at each of its stations."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from support.crash_snapshot import Snapshot, assert_private, look
from support.crash_world import Done, Saved, World


@dataclass(frozen=True)
class Stage:
    """A world and what it looks like before a migration, after it, and after its rollback."""

    world: World
    fresh: Saved
    before: Snapshot
    migrated: Saved
    after: Snapshot
    run: str
    rolled_back: Snapshot

    @property
    def written(self) -> set[tuple[str, str]]:
        """The rows that the migration writes."""
        return {
            place
            for place in self.after.rows
            if self.after.versions[place] != self.before.versions.get(place)
        }

    # ---- what a test does and demands

    def kill_migrate(self, failpoint: str) -> None:
        """Run the migration and see it die of SIGKILL at the failpoint."""
        self._see_killed(self.world.migrate(failpoint=failpoint), failpoint)

    def kill_rollback(self, failpoint: str, *more: str, run: str = "") -> None:
        """Take the run back and see that die of SIGKILL at the failpoint."""
        self._see_killed(self.world.rollback(*more, run=run, failpoint=failpoint), failpoint)

    def _see_killed(self, done: Done, failpoint: str) -> None:
        assert done.code == -signal.SIGKILL, f"{failpoint}: {done.code} {done.all}"
        self.world.quiet()
        assert_private(self.world)

    def assert_finishes(self) -> None:
        """The migration comes to the same end as the one that was never killed."""
        done = self.world.migrate()
        assert done.code == 0, done.all
        self.assert_finished()

    def assert_finished(self) -> None:
        """All is as after a migration that was never killed."""
        found = look(self.world).outcome(written=self.written)
        for part, value in self.after.outcome(written=self.written).items():
            assert found[part] == value, part

    def assert_nothing_happened(self) -> None:
        """Files, rows and exports are those before the migration; versions did not go down."""
        found, before = look(self.world), self.before
        assert found.files == before.files
        self.assert_rows_as_before(found)
        assert found.rows.keys() == before.rows.keys()
        assert found.exports == before.exports
        assert [state["state"] for state in found.states] in ([], ["rolled-back"])
        assert found.litter() == []

    def assert_rows_as_before(self, found: Snapshot) -> None:
        """The rows of before are there, as they were; versions did not go down."""
        before = self.before
        for place, row in before.rows.items():
            assert found.rows[place] == row
            assert found.times[place] == before.times[place]
            assert found.versions[place] >= before.versions[place]
        for place, version in before.tombstones.items():
            assert max(found.tombstones.get(place, 0), found.versions.get(place, 0)) >= version


def make_stage(world: World, folder: Path) -> Stage:
    """Go through the scenario once, without any kill, and keep copies on the way."""
    world.prepare()
    fresh = world.save(folder)
    before = look(world)
    done = world.migrate()
    assert done.code == 0, done.all
    migrated = world.save(folder)
    after = look(world)
    run = world.only_run().name
    done = world.rollback()
    assert done.code == 0, done.all
    return Stage(world, fresh, before, migrated, after, run, look(world))
