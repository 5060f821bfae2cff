"""The reserve: what it keeps, who gets what of it, and that nothing in its place is in the way."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

import standfast
from standfast import limits
from standfast.engine import reserve
from standfast.engine.reserve import FILE, Reserve
from standfast.limits import RESERVE_BYTES
from support.hold import soon


def size(folder: Path) -> int:
    return (folder / FILE).stat().st_size if (folder / FILE).exists() else 0


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """So much is free on the disk; tests/hold/test_local_disk.py has disks that are really full."""
    monkeypatch.setattr(reserve, "free_bytes", lambda _: count)


def test_a_store_keeps_a_reserve_for_its_owner_alone(tmp_path: Path) -> None:
    """D2: made at the first open, and again while the store runs."""
    with standfast.open("memory://", data_dir=tmp_path) as store:
        assert size(tmp_path) == RESERVE_BYTES
        if sys.platform != "win32":
            assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
        (tmp_path / FILE).unlink()
        soon(lambda: size(tmp_path) == RESERVE_BYTES, within_s=30.0)
        assert store.health().problems == ()


@pytest.mark.parametrize("what", ["directory", "link"])
def test_what_is_in_its_place_is_not_in_the_way(tmp_path: Path, what: str) -> None:
    """D2: a store opens, and what a link leads to is not written to."""
    data, other = tmp_path / "data", tmp_path / "other"
    data.mkdir()
    other.write_text("mine")
    if what == "directory":
        (data / FILE).mkdir()
    else:
        (data / FILE).symlink_to(other)
    with standfast.open("memory://", data_dir=data) as store:
        store["c"].put("k", 1)
    assert other.read_text() == "mine"


def test_a_full_disk_gives_it_only_what_was_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D2: what else is free is for the journals of running stores."""
    kept = Reserve(tmp_path)
    free(monkeypatch, limits.RESERVE_ROOM_BYTES - 1)
    kept.fill()
    assert (size(tmp_path), kept.shortage() != "") == (0, True)
    for freed, now in ((1000, 1000), (-5, 1000), (50, 1050), (1 << 20, RESERVE_BYTES)):
        kept.fill(freed=freed)
        assert size(tmp_path) == now
    assert kept.shortage() == ""


def test_a_look_takes_back_what_it_was_lent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D2: a command on a full disk leaves the reserve to the next start of the app; with room for
    itself it does not touch it."""
    kept = Reserve(tmp_path)
    kept.fill()
    free(monkeypatch, RESERVE_BYTES)
    with kept.lent():
        assert size(tmp_path) == RESERVE_BYTES
    free(monkeypatch, 0)
    with kept.lent():
        assert size(tmp_path) == 0
        with Reserve(tmp_path).lent():  # another one has nothing to give back
            pass
        assert size(tmp_path) == 0
    assert size(tmp_path) == RESERVE_BYTES
