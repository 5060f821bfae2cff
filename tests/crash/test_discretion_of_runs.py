"""What a run shows and leaves: private files, and neither values nor passwords.

The other crash tests demand the same of every command and every state they come to: see
`World.end` and `assert_private`.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.crash_files import CANARY
from support.crash_snapshot import assert_private, look
from support.crash_stage import Stage


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_modes_do_not_depend_on_the_umask(fresh: Stage, umask: int, tmp_path: Path) -> None:
    """In a new data directory too everything is 0600 and 0700, whatever the umask."""
    world, storage = fresh.world, tmp_path / "new" / "storage"
    args = [*world.migration(), "--data-dir", str(storage)]
    done = world.end(world.start(*args, limits=lambda: os.umask(umask)))
    assert done.code == 0, done.all
    assert list(storage.rglob("run.json"))
    assert_private(world, tmp_path / "new")


@pytest.mark.parametrize("command", ["migrate", "rollback", "plan", "runs", "verify"])
def test_json_output_shows_no_value(pg_stage: Stage, command: str) -> None:
    """With --json neither values nor the password are shown (every output is looked through)."""
    world = pg_stage.world
    world.put_back(pg_stage.migrated)
    args = {
        "migrate": ["migrate", *world.migration()[1:]],
        "plan": ["plan", str(world.only_run() / "guilds.json")],
        "runs": ["runs"],
    }.get(command, [command, pg_stage.run])
    done = world.run(*args, "--json")
    assert done.code in (0, 1), done.all
    assert done.out.startswith("{")


def test_a_refused_file_is_not_quoted(fresh: Stage) -> None:
    """A file that is not JSON is refused by place, without a piece of what stands there."""
    (fresh.world.app / "board.json").unlink()
    for text in (f'{{"a": "{CANARY}', f'{{"a": {CANARY}}}', f'{{"a": 1, "a": "{CANARY}"}}'):
        (fresh.world.app / "board.json").write_text(text)
        done = fresh.world.migrate()
        assert done.code == 4, done.all
        assert "board.json:1:" in done.err
    assert look(fresh.world).states == []


def test_a_wrong_password_is_not_shown(fresh_pg: Stage) -> None:
    """A server that refuses the password is exit 3, and the password is not shown."""
    url = fresh_pg.world.url
    assert url is not None
    password = urlsplit(url).password
    assert password is not None
    wrong = url.replace(f":{password}@", f":{CANARY}@")
    done = fresh_pg.world.run(*fresh_pg.world.migration(), "--to", wrong)
    assert done.code == 3, done.all
