"""What callers feel of an outage: the first call, the later ones, and the way back.

    python bench/outage.py [--deadline 1.0] [--writes 200] [--only FAULT]

A real PostgreSQL (fsync on) behind a proxy.  For each fault, with a synchronous and an asynchronous
caller: how long the first call takes beyond its deadline, the latencies of the later writes (one
caller, 100 a second) beside a bare append + fdatasync of 4 KB in the same process at the same time,
those of reads, and how long after the end of the fault the store drains, and is direct again.  A
heartbeat in the same process, which appends 4 KB and flushes them too, tells how much of a delay
is the machine's.  Last, 10,000 journaled ops are drained while a caller goes on writing.

The exit code is 1 when a figure misses its bound: first call at most deadline + 100 ms + the worst
overlapping stall of the heartbeat; later writes p99 at most 20 ms or 3 times the bare append; reads
p99 at most 5 ms; draining within 2 s of the end of the fault; 10,000 ops within 10 s.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import standfast  # noqa: E402
from support import backends  # noqa: E402
from support.cluster import Cluster  # noqa: E402
from support.proxy import Proxy  # noqa: E402
from support.tls import TlsFront, make_context  # noqa: E402

WRITES_PER_S = 100
KEYS = 200


class Heartbeat:
    """Sleeps 10 ms and appends 4 KB with fdatasync, again and again; remembers each beat."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._beats: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            start = time.perf_counter()
            time.sleep(0.01)
            os.write(self._fd, b"x" * 4096)
            os.fdatasync(self._fd)
            self._beats.append((start, time.perf_counter()))

    def worst_stall_s(self, start: float, end: float) -> float:
        """How much longer than its sleep the worst beat took that overlaps this time."""
        beats = [b - a - 0.01 for a, b in list(self._beats) if b >= start and a <= end]
        return max([0.0, *beats])

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._fd)


@dataclass
class Case:
    """The figures of one fault, one API."""

    name: str
    first_s: float = 0.0
    stall_s: float = 0.0
    writes: list[float] = field(default_factory=list)
    appends: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    draining_s: float = 0.0
    direct_s: float = 0.0
    went_round: bool = False  # the rest of the server served: the later calls were no outage


def is_direct(store: standfast.Store | standfast.AsyncStore) -> bool:
    """Whether the store is direct at this moment, by its engine."""
    calls = store.calls if isinstance(store, standfast.Store) else store
    return calls.engine.mode == "direct"


class Watch:
    """When the store changed its mode, by its own announcements."""

    def __init__(self, store: Any) -> None:
        self.changes: list[tuple[float, str]] = []
        self._arrived = threading.Condition()
        store.on_state_change(self._note)

    def _note(self, change: Any) -> None:
        with self._arrived:
            self.changes.append((time.perf_counter(), change.after))
            self._arrived.notify_all()

    def wait_for(self, mode: str, since: float, timeout_s: float = 30.0) -> float:
        """When the mode was first reached after a moment."""
        with self._arrived:
            reached: Callable[[], list[float]] = lambda: [  # noqa: E731
                at for at, after in self.changes if after == mode and at >= since
            ]
            if not self._arrived.wait_for(reached, timeout_s):
                raise TimeoutError(f"the store is not {mode}")
            return reached()[0]


def sync_caller(url: str, data_dir: Path, deadline_s: float) -> tuple[Any, Callable[[str], Any]]:
    store = standfast.open(url, data_dir=data_dir, deadline_s=deadline_s)
    views = store["views"]
    calls = {
        "put": lambda key, value: views.put(key, value),
        "get": lambda key, value: views.get(key),
    }
    return store, lambda what, key, value=None: calls[what](key, value)


class AsyncCaller:
    """The asynchronous API, called from here and run in the loop of a thread."""

    def __init__(self, url: str, data_dir: Path, deadline_s: float) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.store = self._run(self._open(url, data_dir, deadline_s))

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    async def _open(self, url: str, data_dir: Path, deadline_s: float) -> Any:
        return await standfast.open_async(url, data_dir=data_dir, deadline_s=deadline_s)

    def call(self, what: str, key: str, value: Any = None) -> Any:
        views = self.store["views"]
        return self._run(views.put(key, value) if what == "put" else views.get(key))

    def close(self) -> None:
        self._run(self.store.close())
        self.loop.call_soon_threadsafe(self.loop.stop)


class Arena:
    """One server behind one proxy, and the faults that meet it."""

    def __init__(self, cluster: Cluster, proxy: Proxy, work: Path) -> None:
        self.cluster = cluster
        self.proxy = proxy
        self.work = work

    def faults(self) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
        cluster, proxy = self.cluster, self.proxy
        return {
            "SIGSTOP": (cluster.freeze, cluster.thaw),
            "packets dropped": (proxy.blackhole, proxy.heal),
            "one frozen backend": (self._freeze_writer, cluster.thaw),
            "kill -9": (cluster.kill, cluster.start),
            "refused": (proxy.refuse, proxy.heal),
        }

    def _freeze_writer(self) -> None:
        """The backend that wrote last: the others go on."""
        found = [one for one in backends.backends(self.cluster.url()) if "INSERT" in one.query]
        backends.freeze(self.cluster, found[0].pid)

    @contextmanager
    def caller(self, api: str, url: str, deadline_s: float) -> Iterator[tuple[Any, Any]]:
        data_dir = Path(tempfile.mkdtemp(dir=self.work))
        if api == "sync":
            store, call = sync_caller(url, data_dir, deadline_s)
            yield store, call
            store.close()
        else:
            caller = AsyncCaller(url, data_dir, deadline_s)
            yield caller.store, caller.call
            caller.close()


def run_case(arena: Arena, name: str, api: str, url: str, deadline_s: float, writes: int) -> Case:
    start_fault, end_fault = arena.faults()[name]
    case = Case(f"{name}, {api}")
    heartbeat = Heartbeat(arena.work / "heartbeat")
    fd = os.open(arena.work / "append", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    with arena.caller(api, url, deadline_s) as (store, call):
        watch = Watch(store)
        for key in range(KEYS):
            call("put", str(key), {"n": key})
        try:
            start_fault()
            start = time.perf_counter()
            call("put", "0", {"n": -1})
            end = time.perf_counter()
            case.first_s, case.stall_s = end - start, heartbeat.worst_stall_s(start, end)
            for number in range(writes):
                due = time.perf_counter() + 1 / WRITES_PER_S
                begin = time.perf_counter()
                call("put", str(number % KEYS), {"n": number})
                case.writes.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                call("get", str((number * 7) % KEYS))
                case.reads.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                os.write(fd, b"x" * 4096)
                os.fdatasync(fd)
                case.appends.append(time.perf_counter() - begin)
                time.sleep(max(0.0, due - time.perf_counter()))
        finally:
            healed = time.perf_counter()
            end_fault()
            ready = time.perf_counter() if name == "kill -9" else healed
        case.went_round = is_direct(store)
        if not case.went_round:
            case.draining_s = max(0.0, watch.wait_for("draining", healed) - ready)
            case.direct_s = max(0.0, watch.wait_for("direct", healed) - ready)
    os.close(fd)
    heartbeat.close()
    return case


def drain_10000(
    arena: Arena, url: str, deadline_s: float
) -> tuple[float, list[float], list[float]]:
    """Seconds to drain 10,000 ops while a caller goes on, its latencies, and healthy ones."""
    with arena.caller("sync", url, deadline_s) as (store, call):
        watch = Watch(store)
        healthy: list[float] = []
        for number in range(1000):
            begin = time.perf_counter()
            call("put", str(number % KEYS), {"n": number})
            healthy.append(time.perf_counter() - begin)
        arena.proxy.refuse()
        views = store["views"]
        for start in range(0, 10_000, 1000):
            views.put_many({str(key): {"n": key} for key in range(start, start + 1000)})
        arena.proxy.heal()
        healed = time.perf_counter()
        during: list[float] = []
        while not is_direct(store) and time.perf_counter() - healed < 60:
            begin = time.perf_counter()
            call("put", "foreground", {"n": len(during)})
            during.append(time.perf_counter() - begin)
        return watch.wait_for("direct", healed) - healed, during, healthy


def p(samples: list[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def judge(case: Case, deadline_s: float) -> list[str]:
    missed: list[str] = []
    if case.first_s > deadline_s + 0.1 + case.stall_s:
        missed.append("first call")
    bound = max(0.020, 3 * p(case.appends, 0.99))
    if not case.went_round and p(case.writes, 0.99) > bound:
        missed.append("later writes")
    if not case.went_round and p(case.reads, 0.99) > 0.005:
        missed.append("reads")
    if case.draining_s > 2.0:
        missed.append("draining")
    print(
        f"{case.name:32} first {case.first_s * 1000:6.0f} ms (stall {case.stall_s * 1000:3.0f})"
        f"  writes p50 {p(case.writes, 0.5) * 1000:5.2f} p99 {p(case.writes, 0.99) * 1000:6.2f} ms"
        f"  append p99 {p(case.appends, 0.99) * 1000:6.2f} ms"
        f"  reads p99 {p(case.reads, 0.99) * 1000:5.2f} ms"
        + (
            "  direct again at once, on another connection"
            if case.went_round
            else f"  draining after {case.draining_s:4.2f} s, direct after {case.direct_s:4.2f} s"
        )
        + (f"  MISSED: {', '.join(missed)}" if missed else ""),
        flush=True,
    )
    return missed


def with_tls(arena: Arena, deadline_s: float, writes: int) -> list[str]:
    """The faults that only a deadline notices, under TLS."""
    context = make_context(arena.work)
    if context is None:
        print("TLS: not measured, there is no openssl to make a certificate")
        return ["TLS"]
    missed: list[str] = []
    with TlsFront(arena.proxy.port, context) as front:
        url = arena.proxy.url(arena.cluster.url())
        url = url.replace(f":{arena.proxy.port}/", f":{front.port}/") + "?sslmode=require"
        for name in ("SIGSTOP", "packets dropped", "one frozen backend"):
            case = run_case(arena, name, "sync", url, deadline_s, writes)
            case.name += ", TLS"
            missed += judge(case, deadline_s)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deadline", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--writes", type=int, default=200, help="later writes of each case")
    parser.add_argument("--only", help="only the fault with this name")
    arguments = parser.parse_args()
    logging.getLogger("standfast").setLevel(logging.ERROR)
    work = Path(tempfile.mkdtemp(prefix="sf-bench-"))
    missed: list[str] = []
    try:
        with Cluster(fsync=True) as cluster, Proxy(cluster.port) as proxy:
            arena = Arena(cluster, proxy, work)
            plain = proxy.url(cluster.url()) + "?sslmode=disable"
            for name in arena.faults():
                if arguments.only not in (None, name):
                    continue
                for api in ("sync", "async"):
                    case = run_case(arena, name, api, plain, arguments.deadline, arguments.writes)
                    missed += judge(case, arguments.deadline)
            if arguments.only is None:
                missed += with_tls(arena, arguments.deadline, arguments.writes)
                drain_s, during, healthy = drain_10000(arena, plain, arguments.deadline)
                print(
                    f"10,000 journaled ops are drained in {drain_s:.2f} s;"
                    f" {len(during)} foreground writes meanwhile: p50 {p(during, 0.5) * 1000:.2f},"
                    f" p99 {p(during, 0.99) * 1000:.2f} ms (healthy p50"
                    f" {statistics.median(healthy) * 1000:.2f}, p99 {p(healthy, 0.99) * 1000:.2f})"
                )
                if drain_s > 10:
                    missed.append("drain")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("every figure is within its bound" if not missed else f"missed: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
