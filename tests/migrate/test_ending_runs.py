"""Every run can be ended: given up, finished without its files, and owner and mode come back."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from standfast.api.opening import backend_for
from standfast.config.settings import parse_url
from standfast.errors import ConfigError
from standfast.migrate.rollback import abandon, rollback
from standfast.migrate.rundir import RunState, all_runs
from standfast.migrate.steps import Steps
from standfast.system.files import cannot_be_moved
from support.cli import run_cli
from support.moving import Place
from support.pg import new_role, url_as

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def states(place: Place) -> list[RunState]:
    return [run.load_state() for run in all_runs(place.data_dir)]


@pytest.mark.parametrize("untouched", ["postgresql"], indirect=True)
def test_a_first_try_that_was_refused_leaves_no_run(untouched: Place) -> None:
    """A load that was surely refused is no run: the next command may name another database."""
    assert untouched.postgres_url, "a SQLite file has no rights of its own"
    with new_role(untouched.postgres_url) as name:
        other = Place(untouched.root, url_as(untouched.postgres_url, name))
        with pytest.raises(ConfigError) as caught:
            other.migrate(untouched.write("v.json", {"1": {}}))
        other.close()
    assert caught.value.code == "not_adoptable"
    assert "right CREATE" in caught.value.message
    assert states(untouched) == []
    untouched.moved(untouched.root / "v.json")


def test_a_run_is_given_up_without_its_database(place: Place) -> None:
    """`--abandon` needs no database: the originals come back, byte for byte, and the next
    migration into another database is a first one."""
    path = place.write("v.json", '{ "1" : {"a": 1} }')
    run = place.moved(path).run
    assert run is not None
    result = abandon(place.data_dir, run[:15])
    assert (result.run, result.files, result.kept) == (run, 1, [])
    assert path.read_text() == '{ "1" : {"a": 1} }'
    assert abandon(place.data_dir, run).already
    assert [each.state for each in states(place)] == ["abandoned"]
    elsewhere = backend_for(parse_url(f"sqlite:///{place.root / 'other.db'}"))
    place.backend.close()
    place.backend = elsewhere
    assert place.moved(path).run != run
    assert place.documents("v") == {"1": {"a": 1}}


def test_a_file_in_the_place_of_an_original_stays(place: Place) -> None:
    """Giving up overwrites nothing."""
    path = place.write("v.json", {"1": {}})
    run = place.moved(path).run
    assert run is not None
    place.write("v.json", "newer")
    assert abandon(place.data_dir, run).kept == [str(path)]
    assert path.read_text() == "newer"


def test_an_interrupted_run_into_a_database_that_is_gone_can_be_given_up(
    embedded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint of the refusal is the way out."""
    path = embedded.write("v.json", {"1": {}})

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("standfast.migrate.runner.verify_run", killed)
        with pytest.raises(KeyboardInterrupt):
            embedded.migrate(path)
    (state,) = states(embedded)
    assert state.state == "loaded"
    embedded.close()
    other = Place(embedded.root, None)
    other.backend = backend_for(parse_url(f"sqlite:///{embedded.root / 'other.db'}"))
    other.backend.install(["unrelated"])
    with pytest.raises(ConfigError) as caught:
        other.migrate(path)
    assert f"standfast migrate --abandon {state.run}" in caught.value.hint
    env = {"STANDFAST_DATA_DIR": str(embedded.data_dir)}
    shown = run_cli("runs", env=env)
    assert f"standfast migrate --abandon {state.run}" in shown.out
    done = run_cli("migrate", "--abandon", state.run, env=env)
    assert done.code == 0, done.said
    other.moved(path)
    assert other.documents("v") == {"1": {}}
    other.close()


def test_runs_say_what_is_left_to_do(place: Place) -> None:
    """For each run: what can still be done, and the command; also as JSON."""
    run = place.moved(place.write("v.json", {"1": {}})).run
    shown = run_cli("runs", env=place.env)
    assert f"nothing is left to do; to undo it: standfast rollback {run}" in shown.out
    assert '"left_to_do"' in run_cli("runs", "--json", env=place.env).out
    rollback(place.backend, place.data_dir, str(run))
    assert "rollback" not in run_cli("runs", env=place.env).out


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_one_database_by_two_urls_is_one(place: Place) -> None:
    """An unfinished run is compared by what the server says of itself, not by the URL's text."""
    from standfast.migrate.locking import require_same_target

    path = place.write("v.json", {"1": {}})
    run = place.moved(path).run
    assert run is not None
    (state,) = states(place)
    state.identity = None
    state.target = "postgresql://elsewhere/by-another-name"
    require_same_target(place.backend, state)
    state.server = "1/2"
    with pytest.raises(ConfigError):
        require_same_target(place.backend, state)


# ---- originals that cannot be moved


def test_what_cannot_be_moved_is_refused_before_anything_is_stored(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan says that a file could not be moved away; --keep-files takes it all the same."""
    path = place.write("v.json", {"1": {}})
    mounts = {os.fsencode(path)}
    monkeypatch.setattr("standfast.system.files._mount_points", lambda: mounts)
    plan = place.plan(path)
    assert "it is a mount point" in plan.problems[0].error.message
    assert "--keep-files" in plan.problems[0].error.hint
    result = place.migrate(path)
    assert result.run is None
    assert states(place) == []
    place.moved(path, keep_files=True)
    assert path.exists()


@pytest.mark.skipif(not ROOT, reason="only root may mark files")
@pytest.mark.parametrize("attribute", ["+i", "+a"])
def test_an_immutable_file_is_seen(tmp_path: Path, attribute: str) -> None:
    """Linux's attributes that keep a file in its place."""
    path = tmp_path / "v.json"
    path.write_text("{}")
    assert cannot_be_moved(path) == ""
    marked = subprocess.run(["chattr", attribute, path], check=False, capture_output=True)
    if marked.returncode:
        pytest.skip("this file system has no attributes")
    try:
        with pytest.raises(PermissionError):
            path.rename(tmp_path / "elsewhere")
        assert "immutable" in cannot_be_moved(path)
    finally:
        subprocess.run(["chattr", "=", path], check=True)


def test_a_stuck_run_does_not_stop_other_files(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose original suddenly cannot be moved stays unfinished; other files go on."""
    stuck = place.write("v.json", {"1": {}})
    from standfast.migrate import runner

    take_away = runner.take_away

    def refused(source: runner.SourceRecord, run_dir: runner.RunDir) -> object:
        if source.path == str(stuck):
            raise OSError(30, "Read-only file system", str(stuck))
        return take_away(source, run_dir)

    monkeypatch.setattr(runner, "take_away", refused)
    with pytest.raises(ConfigError):
        place.migrate(stuck)
    place.moved(place.write("other.json", {"2": {}}))
    assert sorted(each.state for each in states(place)) == ["done", "loaded"]
    with pytest.raises(ConfigError):
        place.migrate(stuck)


# ---- owner and mode


@pytest.mark.skipif(not ROOT, reason="only root may give files away")
def test_owner_and_mode_come_back(place: Place) -> None:
    """Root migrates and rolls back a file of another user: it is that user's again."""
    path = place.write("v.json", {"1": {}})
    os.chown(path, 65534, 65533)
    path.chmod(0o640)
    before = path.stat()
    run = place.moved(path).run
    rollback(place.backend, place.data_dir, str(run))
    after = path.stat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (65534, 65533, 0o640)
    assert after.st_mtime_ns == before.st_mtime_ns


def test_an_owner_that_cannot_be_restored_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this process may not give files away, the rollback says whose the file was."""
    path = place.write("v.json", {"1": {}})
    if ROOT:
        os.chown(path, 65534, 65534)
    run = place.moved(path).run

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refused)
    result = rollback(place.backend, place.data_dir, str(run))
    assert path.exists()
    if ROOT:
        assert "belonged to user 65534" in result.notes[0]


def test_a_rollback_says_how_far_it_has_come(place: Place) -> None:
    """R11: rows and files are counted while they are put back."""
    run = place.moved(place.write("v.json", {str(n): {"n": n} for n in range(2500)})).run
    seen: dict[str, set[tuple[int, int]]] = {}

    def progress(step: str, done: int, total: int) -> None:
        seen.setdefault(step, set()).add((done, total))

    rollback(place.backend, place.data_dir, str(run), steps=Steps(progress=progress))
    assert {(0, 2500), (1000, 2500), (2000, 2500)} <= seen["roll back v"]
    assert (0, 1) in seen["put files back"]
