"""Killed with SIGKILL at every step and run again: the same end, and never half of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from standfast.admin.backup.creating import create
from standfast.admin.backup.folder import backups, verify
from standfast.admin.backup.pruning import Retention, prune
from standfast.admin.backup.restoring import restore
from standfast.admin.backup.transfer import Choice
from standfast.api.sync import Store
from standfast.engine.embedded import EmbeddedEngine
from support.backups import backend_of, rows_of
from support.crash_points import CREATE, FILL, PRUNE
from support.killing import killed_at

EXACT = Choice("file", exact=True)


def values(url: str) -> dict[tuple[str, str], str]:
    return {(name, row.key): row.text for name, found in rows_of(url).items() for row in found}


def fill(url: str, *, changed: bool = False) -> None:
    store = Store(EmbeddedEngine(backend_of(url)))
    if not changed:
        store["players"].put_many({str(n): {"n": n} for n in range(20)})
        store["board"].put("first", 1)
    else:
        store["players"].put_many({str(n): {"n": "newer"} for n in range(5)})
        for n in range(15, 20):
            store["players"].delete(str(n))
        store["players"].put("only there", 1)
    store.close()


def make(url: str, data_dir: Path) -> Path:
    backend = backend_of(url)
    try:
        return create(backend, data_dir).path
    finally:
        backend.close()


def bring_back(url: str, data_dir: Path, path: Path) -> None:
    backend = backend_of(url)
    try:
        restore(backend, data_dir, path, EXACT)
    finally:
        backend.close()


@pytest.mark.parametrize("failpoint", CREATE)
def test_a_killed_backup_is_whole_or_absent(tmp_path: Path, failpoint: str) -> None:
    """What is in the folder afterwards is good, and the next one leaves no litter."""
    url, data_dir = f"sqlite:///{tmp_path}/store.db", tmp_path / "storage"
    fill(url)
    assert killed_at(failpoint, lambda: make(url, data_dir))
    for each in backups(data_dir):
        verify(each.path)
    there = len(backups(data_dir))
    assert there == (failpoint == "backup-known")
    make(url, data_dir)
    assert len(backups(data_dir)) == there + 1
    names = {path.name for path in (data_dir / "backups").iterdir()}
    assert names - {one.path.name for one in backups(data_dir)} == {
        *("backups.lock", "known.json", "notes.lock")
    }


@pytest.mark.parametrize("failpoint", [*FILL, CREATE[-1]])
def test_a_killed_restore_has_done_nothing_or_everything(
    url: str, data_dir: Path, failpoint: str
) -> None:
    """Documents that are new, equal, different and only there: killed at any step and run again,
    they are those of the backup, and what was overwritten is in a safety backup."""
    fill(url)
    wanted = values(url)
    path = make(url, data_dir)
    fill(url, changed=True)
    before = values(url)
    assert killed_at(failpoint, lambda: bring_back(url, data_dir, path))
    after = values(url)
    assert after == (wanted if failpoint == "filling-committed" else before)
    versions = {row.key: row.version for row in rows_of(url)["players"]}
    bring_back(url, data_dir, path)
    assert values(url) == wanted
    assert all(row.version >= versions.get(row.key, 0) for row in rows_of(url)["players"])
    safety = [each.path for each in backups(data_dir) if each.path != path]
    assert safety
    bring_back(url, data_dir, safety[-1])
    assert values(url) == before


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", ["filling-collection@2", *CREATE[:-1]])
def test_killed_in_between(url: str, data_dir: Path, failpoint: str) -> None:
    """The same at the steps of the safety backup, and after the second collection."""
    test_a_killed_restore_has_done_nothing_or_everything(url, data_dir, failpoint)


@pytest.mark.parametrize("failpoint", PRUNE)
def test_a_killed_prune_has_removed_only_what_was_to_go(tmp_path: Path, failpoint: str) -> None:
    """Killed after the first one: the others are there, and the next prune takes them."""
    url, data_dir = f"sqlite:///{tmp_path}/store.db", tmp_path / "storage"
    fill(url)
    made = [make(url, data_dir) for _ in range(4)]
    retention = Retention(1, 0, 0, 0)
    assert killed_at(failpoint, lambda: prune(data_dir, retention))
    assert [each.path for each in backups(data_dir)] == made[1:]
    prune(data_dir, retention)
    assert [each.path for each in backups(data_dir)] == made[3:]
