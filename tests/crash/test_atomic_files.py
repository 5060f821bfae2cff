"""The file operations that the crash-safety of runs rests on."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.system import files

NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=255
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 255)


@given(NAMES, st.sampled_from(["", ".0123abcd.tmp", ".20260101-000000-01234567.restoring"]))
def test_a_name_beside_a_file_fits_and_is_hidden(name: str, ending: str) -> None:
    """Whatever a file is called, the name beside it is allowed, hidden, in the same folder, another
    one, and the same each time."""
    path = Path("/folder") / name
    found = files.beside(path, ending or "-x")
    assert len(os.fsencode(found.name)) <= 255
    assert found.name.startswith(".")
    assert found.name.endswith(ending or "-x")
    assert found.parent == path.parent
    assert found != path
    assert found == files.beside(path, ending or "-x")


@given(st.text(st.sampled_from("aö"), min_size=240, max_size=255), st.sampled_from("bc"))
def test_long_names_stay_apart(name: str, last: str) -> None:
    """Two long names that differ only at their end do not get the same name beside them."""
    one, other = (files.beside(Path(name + end), ".moving") for end in (last, "d"))
    assert one != other


def test_the_content_is_replaced_whole(tmp_path: Path) -> None:
    """The new content, mode and time are there, and no draft."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    files.write_atomic(path, b"new", mode=0o640, mtime_ns=1_600_000_000_123_456_789)
    found = path.stat()
    assert path.read_bytes() == b"new"
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o640, 1_600_000_000_123_456_789)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("broken", ["fsync", "fchmod", "utime", "replace"])
def test_a_failure_leaves_the_old_content(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error at any step leaves the old file and no draft, and names the file."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, broken, fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        files.write_atomic(path, b"new", mtime_ns=1)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_named_draft_replaces_what_a_kill_left_of_it(tmp_path: Path) -> None:
    """A draft with a fixed name is taken over by the next try."""
    path, draft = tmp_path / "file", tmp_path / ".file.draft"
    draft.write_bytes(b"half")
    files.write_atomic(path, b"whole", draft=draft)
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["file"]


def test_drafts_are_told_from_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed write leaves is a draft; files that people make are none."""

    def killed(draft: Path, path: Path) -> None:
        seen.append(draft)

    seen: list[Path] = []
    monkeypatch.setattr(files.os, "replace", killed)
    for name in ("file", "n" * 255, "ö" * 127, "line\nbreak"):
        files.write_atomic(tmp_path / name, b"")
    assert [files.is_draft(draft) for draft in seen] == [True] * 4
    for name in ("file.tmp", ".file.tmp", ".a.0123ABCD.tmp", ".0123abcd.tmp", "a.0123abcd.tmp"):
        assert not files.is_draft(Path(name))


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("taken", [True, False])
def test_a_file_is_moved_back_over_nothing(
    tmp_path: Path, taken: bool, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file comes back to its place unless there is another by now; hard links or not."""

    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(files.os, "link", no_links)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"mine")
    if taken:
        target.write_bytes(b"theirs")
    assert files.move_back(source, target) is not taken
    assert target.read_bytes() == (b"theirs" if taken else b"mine")
    assert source.exists() is taken


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Reading a pipe that nobody writes to is an error, not an endless wait."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        files.read_regular(tmp_path / "pipe")
