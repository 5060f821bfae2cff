"""What is not as it was written is found before anything changes."""

from __future__ import annotations

import gzip
import json
import random
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from standfast.admin.backup import folder
from standfast.admin.backup import format as form
from standfast.admin.backup.creating import create
from standfast.admin.backup.folder import backups, verify
from standfast.admin.backup.format import GZIP_HEADER
from standfast.admin.backup.restoring import drill, restore
from standfast.admin.backup.transfer import Choice
from standfast.api.sync import Store
from standfast.backends.base import Backend
from standfast.engine.embedded import EmbeddedEngine
from standfast.errors import CorruptData
from standfast.system.locks import FileLock
from support.backups import rows_in


@pytest.fixture
def made(scratch: Backend, data_dir: Path) -> Path:
    """A backup of a small database."""
    store = Store(EmbeddedEngine(scratch))
    for number in range(50):
        store["players"].put(str(number), {"name": f"player {number}", "n": number})
    return create(scratch, data_dir).path


def refused(path: Path, data_dir: Path, tmp_path: Path, code: str = "damaged_backup") -> str:
    """What a restore of it says; nothing was created."""
    from standfast.backends.sqlite.backend import SqliteBackend

    target = SqliteBackend(tmp_path / "target.db")
    with pytest.raises(CorruptData) as found:
        restore(target, data_dir, path, Choice("file"))
    target.close()
    assert found.value.code == code
    assert not (tmp_path / "target.db").exists()
    with pytest.raises(CorruptData):
        verify(path)
    return found.value.message


def test_every_flipped_bit_is_found(made: Path, data_dir: Path, tmp_path: Path) -> None:
    """Whichever bit of the file is flipped, the checks find it: header and trailer of gzip too.

    But for those that nothing reads, which fill up the last byte before the trailer.
    """
    whole = made.read_bytes()
    plain = zlib.decompress(whole, wbits=31)
    chosen = random.Random(7)
    places = [chosen.randrange(len(whole) * 8) for _ in range(150)]
    places += [*range(len(whole) * 8 - 72, len(whole) * 8), *range(80)]
    unread = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        made.write_bytes(damaged)
        try:
            verify(made)
        except CorruptData:
            continue
        unread += 1
        assert place // 8 == len(whole) - 9
        assert zlib.decompress(damaged, wbits=31) == plain
    assert unread <= 2 * 7
    refused(made, data_dir, tmp_path)


def test_every_truncation_is_found(made: Path, data_dir: Path, tmp_path: Path) -> None:
    """A file that ends anywhere but at its end is refused, and so is one that goes on."""
    whole = made.read_bytes()
    for size in [*range(40), *range(40, len(whole), 17), len(whole) - 1]:
        made.write_bytes(whole[:size])
        with pytest.raises(CorruptData):
            verify(made)
    made.write_bytes(whole + b"\0")
    refused(made, data_dir, tmp_path)
    made.write_bytes(whole + whole)
    refused(made, data_dir, tmp_path)


@pytest.mark.parametrize("by_line", [True, False])
def test_a_good_file_is_good_wherever_its_blocks_end(
    made: Path, monkeypatch: pytest.MonkeyPatch, by_line: bool
) -> None:
    """A block of the text that is unpacked may end anywhere: just before the last line, too."""
    text = gzip.decompress(made.read_bytes())
    end = text.rindex(b'{"end":')
    for cut in (1, 60, end - 1, end, end + 1, end + 7, len(text) - 1):
        pieces = iter((text[:cut], text[cut:]))
        monkeypatch.setattr(form._Unpacking, "block", lambda _, left=pieces: next(left, None))
        monkeypatch.setattr(form._Unpacking, "is_whole", lambda _: True)
        with form.opened(made) as reader:
            assert sum(len(one) for one in reader.items(by_line=by_line) if isinstance(one, list))
            assert reader.counts is not None


def rewritten(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """The file with other lines, each with its right checksum, packed as ours are."""
    lines = [
        line.rpartition(b',"crc32":"')[0]
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    body = b"".join(b'%b,"crc32":"%08x"}\n' % (line, zlib.crc32(line)) for line in change(lines))
    packed = gzip.compress(body, mtime=0)
    path.write_bytes(GZIP_HEADER + packed[10:])


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a document is missing": lambda lines: [*lines[:5], *lines[6:]],
    "a document stands twice": lambda lines: [*lines[:5], lines[5], *lines[5:]],
    "two documents are exchanged": lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]],
    "a document is another": lambda lines: [
        *lines[:4],
        lines[4].replace(b"player", b"layer"),
        *lines[5:],
    ],
    "the end is missing": lambda lines: lines[:-1],
    "the beginning is missing": lambda lines: lines[1:],
    "the collection is missing": lambda lines: [lines[0], *lines[2:]],
    "a line is something else": lambda lines: [*lines[:4], b'{"x":1', *lines[4:]],
    "something follows the end": lambda lines: [*lines, lines[4]],
    "nothing is in it": lambda lines: [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_right_checksums_of_wrong_lines_do_not_help(
    made: Path, data_dir: Path, tmp_path: Path, change: str
) -> None:
    """The whole has a checksum and counts of its own: no line can go, come or change places."""
    rewritten(made, CHANGES[change])
    refused(made, data_dir, tmp_path)


def test_a_file_that_changes_after_it_was_checked_changes_nothing(
    backend: Backend, made: Path, data_dir: Path
) -> None:
    """What is written while the file is read once more is taken back when its checksum differs."""

    def change(lines: list[bytes]) -> list[bytes]:
        return [line.replace(b"player 7", b"player 8") for line in lines]

    with pytest.raises(CorruptData) as found:
        restore(backend, data_dir, made, Choice(), confirm=lambda _: rewritten(made, change))
    assert found.value.code == "damaged_backup"
    assert all(not rows for rows in rows_in(backend).values())


def test_a_newer_format_is_refused(made: Path, data_dir: Path, tmp_path: Path) -> None:
    """A newer version's file is refused by its number, not taken for damaged."""

    def newer(lines: list[bytes]) -> list[bytes]:
        head = json.loads(lines[0] + b"}")
        head = {"standfast_backup": 2, "something": "new", "id": head["id"]}
        return [json.dumps(head).encode()[:-1], *lines[1:]]

    rewritten(made, newer)
    message = refused(made, data_dir, tmp_path, "backup_newer")
    assert "format 2" in message


def test_a_rewritten_file_is_good_where_nothing_was_changed(made: Path) -> None:
    """The tests above fail for what they change, not for how they write it."""
    rewritten(made, lambda lines: lines)
    verify(made)


def test_what_is_found_is_remembered(made: Path, data_dir: Path) -> None:
    """The list knows when a backup was verified and tried, and forgets that with another file."""
    (each,) = backups(data_dir)
    assert each.known is not None
    assert (each.known.verified_at, each.problem) == (None, "")
    verify(made)
    drill(data_dir, made)
    (each,) = backups(data_dir)
    assert each.known is not None
    assert each.known.verified_at
    assert each.known.drilled_at
    damaged = bytearray(made.read_bytes())
    damaged[-20] ^= 1
    made.write_bytes(damaged)
    (each,) = backups(data_dir)
    assert each.known is None
    with pytest.raises(CorruptData):
        verify(made)
    (each,) = backups(data_dir)
    assert "damaged" in each.problem


def test_a_drill_finds_what_cannot_be_restored(made: Path, data_dir: Path) -> None:
    """A damaged backup fails the drill, and nothing of the scratch store is left."""
    damaged = bytearray(made.read_bytes())
    damaged[200] ^= 1
    made.write_bytes(damaged)
    with pytest.raises(CorruptData):
        drill(data_dir, made)
    assert {path.name for path in made.parent.iterdir()} == {
        "backups.lock",
        "known.json",
        "notes.lock",
        made.name,
    }


def test_two_that_note_at_once_lose_nothing(
    made: Path, scratch: Backend, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of backups is read, changed and written by one at a time: a verification that
    ends while another one notes its result waits for it, and both results stay."""
    other = create(scratch, data_dir).path
    at_the_lock = threading.Event()
    real_load, real_acquire = folder._load, FileLock.acquire
    second = threading.Thread(target=lambda: (verify(other), at_the_lock.set()))

    def load(place: Path) -> dict[str, folder.Known]:
        found = real_load(place)
        if second.ident is None:
            second.start()
            assert at_the_lock.wait(20)
        return found

    def acquire(lock: FileLock) -> bool:
        is_ours = real_acquire(lock)
        if not is_ours:
            at_the_lock.set()
        return is_ours

    monkeypatch.setattr(folder, "_load", load)
    monkeypatch.setattr(FileLock, "acquire", acquire)
    verify(made)
    second.join(20)
    assert all(each.known and each.known.verified_at for each in backups(data_dir))
