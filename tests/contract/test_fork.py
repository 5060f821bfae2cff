"""Forked children, and programs that end with a store left open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import standfast
from support.cluster import Cluster

pytestmark = pytest.mark.process

NOWHERE = "postgresql://nobody:secret@127.0.0.1:1/none"

_BEGIN = """
import os, sys, threading
import standfast

url, data_dir = sys.argv[1:3]
store = standfast.open(url, data_dir=data_dir)
"""

# The parent writes, forks, and closes its store before the child does: whoever closes a SQLite file
# last deletes its log, so a child without locks of its own would write into nothing.
_BOTH = (
    _BEGIN
    + """
mine = store["c"].increment("n", "", 0), store["c"].put("before", 1)
to_child, to_parent = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    first = store["c"].put("child", 1)
    assert first.lane != mine[1].lane, "the child needs a lane of its own"
    os.write(to_parent[1], b"x")
    os.read(to_child[0], 1)
    for number in range(50):
        store["c"].increment("n", "")
        store["c"].put(f"child-{number}", number)
    assert store["c"].get("child-7") == 7
    store.close(timeout_s=0)
    sys.exit(0)  # with everything that the interpreter does at its end
os.read(to_parent[0], 1)
for number in range(50):
    store["c"].increment("n", "")
    store["c"].put(f"parent-{number}", number)
if sys.argv[3] == "first":
    store.close(timeout_s=0)
os.write(to_child[1], b"x")
assert os.waitpid(pid, 0)[1] == 0
if sys.argv[3] == "last":
    assert store["c"].put("after", 1).lane == mine[1].lane
    store["c"].increment("n", "", 1000)
    store.close(timeout_s=0)
"""
)


def run(code: str, *arguments: object, timeout_s: float = 120.0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def url_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "postgresql":
        return request.getfixturevalue("pg_database")
    return NOWHERE if kind == "journal" else f"sqlite:///{tmp_path}/x.db"


@pytest.mark.parametrize("parent", ["first", "last"])
@pytest.mark.parametrize("kind", ["postgresql", "journal", "sqlite"])
def test_parent_and_child_both_write(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, parent: str
) -> None:
    """R1, I1, I2: a forked child has a lane and files of its own; nothing is lost or doubled,
    whoever closes first, and the child's end takes nothing from the parent."""
    url, data_dir = url_of(kind, request, tmp_path), tmp_path / "data"
    run(_BOTH, url, data_dir, parent)
    with standfast.open(url, data_dir=data_dir) as store:
        expected = 1000 if parent == "last" else 0
        if kind == "journal":
            # "n" was never seen on a primary, so its value is not known: count what is pending.
            assert store.health().lag_ops == 203 + (2 if parent == "last" else 0)
        else:
            store.flush(timeout_s=60)
            assert store["c"].get("n") == 100 + expected
        for number in range(50):
            assert store["c"].get(f"child-{number}") == number
            assert store["c"].get(f"parent-{number}") == number
        assert store["c"].get("before") == store["c"].get("child") == 1


_CROWD = (
    _BEGIN
    + """
stop, counts = threading.Event(), [0] * 3

def write(index):
    while not stop.is_set():
        store["c"].put(f"parent-{index}-{counts[index]}", index)
        counts[index] += 1

threads = [threading.Thread(target=write, args=(index,)) for index in range(3)]
for thread in threads:
    thread.start()
children = []
for number in range(8):
    pid = os.fork()
    if pid == 0:
        store["c"].put(f"child-{number}", number)
        os._exit(0)
    children.append(pid)
ends = [os.waitpid(pid, 0)[1] for pid in children]
stop.set()
for thread in threads:
    thread.join()
assert ends == [0] * 8
for index in range(3):
    for count in range(counts[index]):
        assert store["c"].get(f"parent-{index}-{count}") == index
print(sum(counts))
"""
)


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_forking_while_others_write(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """R1: a fork at any moment leaves no child waiting for ever for a thread that it has not."""
    url, data_dir = url_of(kind, request, tmp_path), tmp_path / "data"
    assert int(run(_CROWD, url, data_dir)) > 0
    with standfast.open(url, data_dir=data_dir) as store:
        assert [store["c"].get(f"child-{number}") for number in range(8)] == list(range(8))


_LEFT_OPEN = _BEGIN + "\nprint(store['c'].put('k', 1).durable_on)\n"


@pytest.mark.parametrize("kind", ["postgresql", "journal", "sqlite"])
def test_a_program_that_leaves_its_store_open_ends(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """I1: the interpreter ends, within bounds, and what was acknowledged is there."""
    url, data_dir = url_of(kind, request, tmp_path), tmp_path / "data"
    assert run(_LEFT_OPEN, url, data_dir).strip() == ("journal" if kind == "journal" else "primary")
    if kind == "postgresql":
        assert list((data_dir / "lanes").iterdir()) == []  # it was closed in order
    with standfast.open(url, data_dir=data_dir) as store:
        assert store["c"].get("k") == 1


_FROZEN = (
    _BEGIN
    + """
store["c"].put("k", 1)
print("open", flush=True)
sys.stdin.readline()
print(store["c"].put("k", 2).durable_on)
print(store["c"].get("k"))
"""
)


def test_a_program_ends_although_its_primary_is_frozen(tmp_path: Path) -> None:
    """I8: a server that answers nothing any more holds up neither the calls nor the end."""
    with Cluster() as cluster:
        program = subprocess.Popen(
            [sys.executable, "-c", _FROZEN, cluster.url(), tmp_path / "data"],
            env={"PYTHONPATH": ":".join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        assert program.stdout.readline() == "open\n"
        cluster.freeze()
        try:
            out, _ = program.communicate("\n", timeout=60)
        finally:
            cluster.thaw()
            program.kill()
        assert out.split() == ["journal", "2"]
        assert program.returncode == 0
        with standfast.open(cluster.url(), data_dir=tmp_path / "data") as store:
            store.flush(timeout_s=60)
            assert store["c"].get("k") == 2
