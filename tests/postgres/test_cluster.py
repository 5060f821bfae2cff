"""The test PostgreSQL itself: what later tests do to it must really happen, and leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from support import pgbin, watchdog
from support.cluster import Cluster, StopMode

COUNT = "SELECT count(*) FROM kept"


def query(url: str, text: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(text.encode()).fetchone()
    return row[0] if row else None


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    with Cluster(conf={"work_mem": "5MB"}) as made:
        with psycopg.connect(made.url(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (n int)")
            connection.execute("INSERT INTO kept VALUES (1), (2)")
        yield made


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    return shared.start()


def test_urls_and_settings(cluster: Cluster) -> None:
    """Both URLs lead to the server, the TCP one only with the password; `conf` is in force."""
    assert query(cluster.url(), "SHOW work_mem") == "5MB"
    assert query(cluster.url(), "SHOW fsync") == "off"
    assert query(cluster.url(unix=True), "SELECT inet_server_addr() IS NULL") is True
    without = cluster.url().replace(":" + cluster.url().split(":")[2].split("@")[0], "")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(without)


def test_configure_acts_at_the_next_start(cluster: Cluster) -> None:
    """A later setting wins over an earlier one once the server was started again."""
    cluster.configure({"work_mem": "7MB"})
    cluster.stop()
    cluster.start()
    assert query(cluster.url(), "SHOW work_mem") == "7MB"


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_stop_and_start_keep_the_data_and_the_url(cluster: Cluster, mode: StopMode) -> None:
    """A stopped server refuses connections; started again it has the same address and rows."""
    url = cluster.url()
    cluster.stop(mode)
    assert not cluster.running
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    cluster.start()
    assert (cluster.url(), query(url, COUNT)) == (url, 2)


def test_kill_leaves_no_process_and_recovers(cluster: Cluster) -> None:
    """After a kill nothing of the server lives, and committed rows are there after a start."""
    with psycopg.connect(cluster.url()) as held:
        held.execute("SELECT 1")
        cluster.kill()
        assert watchdog.members(cluster.root) == []
        with pytest.raises(psycopg.OperationalError):
            held.execute("SELECT 1")
    cluster.start()
    assert query(cluster.url(), COUNT) == 2


def test_freeze_and_thaw(cluster: Cluster) -> None:
    """Every process of a frozen server is stopped; thawed, the same connection answers."""
    with psycopg.connect(cluster.url(), autocommit=True) as held:
        held.execute("SELECT 1")
        cluster.freeze()
        states = {process.status() for process in watchdog.members(cluster.root)}
        assert states == {"stopped"}
        cluster.thaw()
        assert held.execute("SELECT 2").fetchone() == (2,)


@pytest.mark.parametrize("state", ["running", "stopped", "frozen", "killed"])
def test_close_ends_every_state(state: str) -> None:
    """`close` leaves neither a process nor a file, whatever was done to the server before."""
    cluster = Cluster().start()
    root = cluster.root
    actions = {"stopped": cluster.stop, "frozen": cluster.freeze, "killed": cluster.kill}
    if state in actions:
        actions[state]()
    cluster.close()
    assert watchdog.members(root) == []
    assert not root.exists()
    cluster.close()


OWNER = """
import os, signal, sys
from support.cluster import Cluster
cluster = Cluster().start()
if sys.argv[1] == "frozen":
    cluster.freeze()
print(cluster._watchdog.pid, cluster.root, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.process
@pytest.mark.parametrize("state", ["running", "frozen"])
def test_a_killed_owner_leaves_nothing(state: str) -> None:
    """SIGKILL of the owning process: its server is ended and removed, even when it was frozen."""
    tests = Path(__file__).parent.parent
    owner = subprocess.run(
        [sys.executable, "-c", OWNER, state],
        env=os.environ | {"PYTHONPATH": str(tests)},
        capture_output=True,  # returns at end of file: the watchdog, which holds stderr, has ended
        text=True,
    )
    assert owner.returncode == -signal.SIGKILL, owner.stderr
    root = Path(owner.stdout.split()[1])
    assert watchdog.members(root) == []
    assert not root.exists()


@pytest.mark.process
def test_programs_are_copied_when_their_user_cannot_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that the server's user cannot run are copied to where it can; both then answer."""
    if os.geteuid() != 0:
        pytest.skip("an ordinary user runs the programs as the one who installed them")
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    install = pgbin.programs().bin.parent
    package = install.parent
    for directory in package.parent.glob(f"{package.name}*"):
        (hidden / directory.name).symlink_to(directory)
    installed = hidden / package.name / install.name / "bin"
    monkeypatch.setattr(pgbin, "_installed_bin", lambda: installed)
    found = pgbin.programs.__wrapped__()
    assert not found.bin.is_relative_to(hidden)
    assert pgbin.runs(found)
