"""Backups while others write: each is one moment, and comes back as such."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import standfast
from standfast.admin.backup.creating import create
from standfast.admin.backup.restoring import restore
from standfast.admin.backup.transfer import Choice
from support.backups import backend_of, rows_of

WRITERS = 4
#: The places that each writer's batches write, all of them the same number.
PLACES = [("players", "a"), ("players", "b"), ("board", "c")]


class Writers:
    """The last batch of each writer that the database acknowledged; `moved` is set at each."""

    def __init__(self) -> None:
        self.done = [0] * WRITERS
        self.moved = threading.Event()

    def wait(self) -> None:
        """Until all of them have written, and one has again since this was called."""
        self.moved.clear()
        while not all(self.done) or not self.moved.is_set():
            assert self.moved.wait(60)
            if not all(self.done):
                self.moved.clear()


@contextmanager
def writing(url: str, tmp_path: Path) -> Iterator[Writers]:
    """Writers that put batch after batch."""
    writers = Writers()
    done = writers.done
    stop = threading.Event()
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with standfast.open(url, data_dir=tmp_path / f"writer-{number}") as store:
                turn = 0
                while not stop.is_set():
                    turn += 1
                    with store.batch() as batch:
                        for collection, key in PLACES:
                            batch.put(collection, f"{number}-{key}", {"n": turn})
                    if batch.receipts[0].durable_on == "primary":  # else it is in a journal yet
                        done[number] = turn
                        writers.moved.set()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failed == []


def check(url: str, tmp_path: Path, rounds: int) -> None:
    backend = backend_of(url)
    seen = [0] * WRITERS
    with writing(url, tmp_path) as writers:
        for round_ in range(rounds):
            writers.wait()
            before = list(writers.done)
            made = create(backend, tmp_path / "storage")
            target = f"sqlite:///{tmp_path}/restored-{round_}.db"
            scratch = backend_of(target)
            restore(scratch, tmp_path / "storage", made.path, Choice())
            scratch.close()
            found = {row.key: row.text for rows in rows_of(target).values() for row in rows}
            for writer in range(WRITERS):
                texts = {found.get(f"{writer}-{key}") for _, key in PLACES}
                assert len(texts) == 1, "a batch is in the backup in part"
                (text,) = texts
                number = int(text.split(":")[1].rstrip("}")) if text else 0
                assert number >= max(seen[writer], before[writer]), (
                    "an acknowledged batch is missing"
                )
                seen[writer] = number
    backend.close()
    assert all(seen)


def test_a_batch_is_whole_or_absent(url: str, tmp_path: Path) -> None:
    """While 4 writers put batches over two collections, each backup holds for each of them one and
    the same batch everywhere, and all that was acknowledged before it began."""
    check(url, tmp_path, 3)


@pytest.mark.slow
def test_fifty_backups_under_load(url: str, tmp_path: Path) -> None:
    """The same 50 times."""
    check(url, tmp_path, 50)
