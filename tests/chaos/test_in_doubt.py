"""Commits whose reply never comes: the server has done it, and the writer cannot know."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from chaos.api import flush, open_patiently
from chaos.calls import REGISTERS, Calls, Ended
from chaos.checkers import check
from chaos.history import History, Operation, read_lines, run_of
from chaos.world import final_state
from standfast.api.sync import Store
from support.cluster import Cluster
from support.pg import Sql
from support.proxy import Proxy

_FLUSH_S = 30.0
#: Commits that may go by for each one whose reply is dropped.
_MAX_CALLS_EACH = 3


class InDoubt:
    """One store behind a proxy, and a direct look at what it says it has written."""

    def __init__(self, proxy: Proxy, direct: Sql, store: Store, history: History) -> None:
        self.proxy = proxy
        self.direct = direct
        self.store = store
        self.calls = Calls(store, history)
        self._choose = random.Random(1)
        self._count = 0

    def lose(self) -> None:
        """One call, and nobody hears of its commit, and perhaps not of that of its replay."""
        self.proxy.drop_commit_replies(self._choose.choice([1, 1, 2, 3]))
        self._count += 1
        value = f"t{self._count}"
        match self._count % 3:
            case 0:
                ended = self.calls.increment("n", self._count)
            case 1:
                ended = self.calls.append("l", value)
            case _:
                ended = self.calls.put("r", value)
                self._assert_claim(ended, value)
        assert ended.kind == "ok", ended
        assert flush(self.store, timeout_s=_FLUSH_S)

    def _assert_claim(self, ended: Ended, value: str) -> None:
        """A receipt of the primary names the version that is there; one of the journal none."""
        if ended.fields["durable_on"] != "primary":
            assert ended.fields["version"] is None
            return
        found = self.direct(f"SELECT version, data #>> '{{}}' FROM {REGISTERS} WHERE key = 'r'")
        assert found == [(ended.fields["version"], value)]


def run_in_doubt(cluster: Cluster, url: str, folder: Path, *, losses: int) -> list[Operation]:
    path = folder / "w.jsonl"
    history = History(path, "w.0", worker="w", directory="A")
    with (
        Proxy(cluster.port) as proxy,
        Sql(url) as direct,
        open_patiently(proxy.url(url), folder / "data", deadline_s=1.0) as store,
    ):
        doubt = InDoubt(proxy, direct, store, history)
        for call in (doubt.calls.append("l", "t0"), doubt.calls.put("r", "t0")):
            assert call.kind == "ok"
        assert doubt.calls.increment("n", 1).kind == "ok"
        for _ in range(_MAX_CALLS_EACH * losses):
            if proxy.fired["drop_commit_reply"] >= losses:
                break
            doubt.lose()
        assert proxy.fired["drop_commit_reply"] >= losses
        proxy.heal()
        assert flush(store, timeout_s=_FLUSH_S)
    history.close()
    run, final = run_of(read_lines([path])), final_state(url, ("lists", "counters", "registers"))
    assert list(map(str, check(run, final))) == []
    assert final.conflicts == []
    return run.operations


def assert_exact(url: str, operations: list[Operation]) -> None:
    """All of it, once, in order."""
    final = final_state(url, ("lists", "counters"))
    added = sum(op.value for op in operations if op.f == "increment")
    tokens = [op.value for op in operations if op.f == "append"]
    assert final.documents == {("lists", "l"): tokens, ("counters", "n"): added}


def test_lost_replies(mortal_cluster: Cluster, mortal_url: str, tmp_path: Path) -> None:
    """I1, I2, R12: writes whose commit is done and whose reply is lost take effect exactly once,
    and every receipt tells the truth."""
    operations = run_in_doubt(mortal_cluster, mortal_url, tmp_path, losses=15)
    assert_exact(mortal_url, operations)


@pytest.mark.slow
def test_many_lost_replies(mortal_cluster: Cluster, mortal_url: str, tmp_path: Path) -> None:
    """I1, I2, R12: the same 250 times."""
    operations = run_in_doubt(mortal_cluster, mortal_url, tmp_path, losses=250)
    assert_exact(mortal_url, operations)


def test_a_commit_that_never_arrived(
    mortal_cluster: Cluster, mortal_url: str, tmp_path: Path
) -> None:
    """I2: a write that is cut off before its commit is not lost and not doubled either."""
    path = tmp_path / "w.jsonl"
    history = History(path, "w.0", worker="w", directory="A")
    with (
        Proxy(mortal_cluster.port) as proxy,
        open_patiently(proxy.url(mortal_url), tmp_path / "data", deadline_s=1.0) as store,
    ):
        calls = Calls(store, history)
        calls.increment("n", 1)
        for n in range(2, 12):
            proxy.reset_before_commits(1)
            assert calls.increment("n", n).kind == "ok"
            assert calls.append("l", f"t{n}").kind == "ok"
            assert flush(store, timeout_s=_FLUSH_S)
        assert proxy.fired["rst_before_commit"] == 10
    history.close()
    operations = run_of(read_lines([path])).operations
    assert_exact(mortal_url, operations)
