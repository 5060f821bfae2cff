"""A replay that meets rows which somebody else has locked."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest

from chaos.api import flush, open_patiently
from chaos.calls import LISTS, Calls
from chaos.checkers import check
from chaos.history import History, read_lines, run_of
from chaos.world import final_state
from support import backends
from support.cluster import Cluster
from support.proxy import Proxy

_FLUSH_S = 30.0


@pytest.fixture
def proxy(mortal_cluster: Cluster) -> Generator[Proxy]:
    with Proxy(mortal_cluster.port) as proxy:
        yield proxy


def wait_refused_lock(url: str, table: str, pid: int) -> None:
    """Return when a replay has waited for the lock of `pid`."""
    backends.wait_backend(
        url, lambda one: one.wait_event_type == "Lock" and table in one.query, timeout_s=20.0
    )


def test_what_waits_for_a_lock_is_not_passed_over(
    mortal_url: str, proxy: Proxy, tmp_path: Path
) -> None:
    """I2, R3, R12: while a journaled write waits for a row that another program has locked, later
    writes of the process to other documents go on, and the one that waits is not forgotten."""
    path = tmp_path / "w.jsonl"
    history = History(path, "w.0", worker="w", directory="A")
    with open_patiently(proxy.url(mortal_url), tmp_path / "data", deadline_s=0.5) as store:
        calls = Calls(store, history)
        for key in ("locked", "free"):
            assert calls.append(key, f"{key}:0").kind == "ok"
        assert flush(store, timeout_s=_FLUSH_S)
        with psycopg.connect(mortal_url) as other:
            other.execute(f"SELECT 1 FROM {LISTS} WHERE key = 'locked' FOR UPDATE")
            proxy.refuse()
            for n in range(1, 4):
                assert calls.append("locked", f"locked:{n}").kind == "ok"
            proxy.heal()
            wait_refused_lock(mortal_url, LISTS, other.info.backend_pid)
            for n in range(1, 60):
                assert calls.append("free", f"free:{n}").kind == "ok"
                assert not flush(store, timeout_s=0.02)
            other.rollback()
        assert flush(store, timeout_s=_FLUSH_S)
    history.close()
    run, final = run_of(read_lines([path])), final_state(mortal_url, [LISTS])
    assert list(map(str, check(run, final))) == []


def test_a_connection_that_hangs_lets_go_of_its_locks(
    mortal_url: str, proxy: Proxy, tmp_path: Path
) -> None:
    """Timeouts: a transaction whose client the network has swallowed ends by itself, below the
    deadline, so that nothing that it has locked keeps others, or its own replay, waiting."""
    with open_patiently(proxy.url(mortal_url), tmp_path / "data", deadline_s=0.5) as store:
        path = tmp_path / "w.jsonl"
        history = History(path, "w.0", worker="w", directory="A")
        calls = Calls(store, history)
        # A write that reads the document first, and so holds its lock over a round trip.
        assert calls.append("k", "k:1").kind == "ok"
        proxy.hold_commits(1)
        assert calls.append("k", "k:2").kind == "ok"
        assert proxy.held == 1
        assert flush(store, timeout_s=_FLUSH_S)
        assert proxy.held == 1
        assert final_state(mortal_url, [LISTS]).documents == {(LISTS, "k"): ["k:1", "k:2"]}
