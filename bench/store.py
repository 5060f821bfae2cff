"""The store beside the drivers that one would use without it, in one run, as ratios.

    python bench/store.py [--seconds 1.5] [--rounds 5] [--callers 1,64,256]

Real PostgreSQL with fsync on, over TCP; documents of about 450 bytes with many quotes, of which
jsonb keeps no order of members, so that `raw` is set for every one of them.  In each round every
contestant runs for the same time, in turn, so that the drift of a busy machine meets all of them;
quoted is the median of the rounds, and the ratio to asyncpg's default pool as the median of the
rounds' ratios.

- durable puts at several numbers of callers: standfast (asynchronous, and threads), asyncpg with
  its default pool of 10 and with the reset query off, psycopg (asynchronous pool of 10), pgbench;
- gets from the primary, with the same contestants;
- local gets (mirror, in the caller's own thread) and journaled puts while the server is stopped,
  beside a bare append + fdatasync of 4 KB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import asyncpg  # noqa: E402
import psycopg  # noqa: E402
import psycopg_pool  # noqa: E402

import standfast  # noqa: E402
from support.cluster import Cluster  # noqa: E402

KEYS = 10_000
UPSERT = (
    "INSERT INTO plain (key, data) VALUES ($1, $2::jsonb)"
    " ON CONFLICT (key) DO UPDATE SET data = excluded.data, updated_at = now()"
)
SELECT = "SELECT data::text FROM plain WHERE key = $1"
Figures = dict[str, list[float]]
Call = Callable[[str], Awaitable[Any]]


def make_document(index: int) -> dict[str, Any]:
    """A guild's view: quotes, snowflakes, text; its members are in no order that jsonb keeps."""
    rng = random.Random(index)
    return {
        "event_mode": rng.choice(["normal", "doubleup"]),
        "message_id": 1_199_000_000_000_000_000 + rng.randrange(10**15),
        "channel_id": 1_199_000_000_000_000_000 + rng.randrange(10**15),
        "registered": [
            {
                "tag": f"player{rng.randrange(10**6)}",
                "ign": f"Name {rng.randrange(10**4)}",
                "alt_igns": ["one", "two"],
                "pronouns": "they/them",
                "checked_in": rng.random() < 0.5,
            }
            for _ in range(3)
        ],
        "open": True,
        "note": 'said "see you at 8" ' + "x" * rng.randrange(20),
    }


DOCUMENTS = [make_document(index) for index in range(200)]
TEXTS = [json.dumps(document) for document in DOCUMENTS]


async def run_tasks(call: Call, callers: int, seconds: float) -> float:
    """Operations per second of so many tasks that call again and again."""
    done = 0
    until = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal done
        rng = random.Random(number)
        while time.perf_counter() < until:
            await call(str(rng.randrange(KEYS)))
            done += 1

    start = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    return done / (time.perf_counter() - start)


def run_threads(call: Callable[[str], Any], callers: int, seconds: float) -> float:
    """The same with threads."""
    counts = [0] * callers
    until = time.perf_counter() + seconds

    def caller(number: int) -> None:
        rng = random.Random(number)
        while time.perf_counter() < until:
            call(str(rng.randrange(KEYS)))
            counts[number] += 1

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


class Arena:
    """A server with both tables filled, and every contestant connected to it."""

    def __init__(self, cluster: Cluster, work: Path, seconds: float) -> None:
        self.cluster = cluster
        self.url = cluster.url()
        self.seconds = seconds
        self.work = work

    def fill(self) -> None:
        with standfast.open(self.url, data_dir=self.work / "storage", deadline_s=10) as store:
            views = store["views"]
            for start in range(0, KEYS, 1000):
                page = range(start, start + 1000)
                views.put_many({str(key): DOCUMENTS[key % len(DOCUMENTS)] for key in page})
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(
                "CREATE TABLE plain (key text PRIMARY KEY, data jsonb NOT NULL,"
                " created_at timestamptz NOT NULL DEFAULT now(),"
                " updated_at timestamptz NOT NULL DEFAULT now())"
            )
            conn.execute("INSERT INTO plain SELECT key, data FROM views")
            conn.execute("CREATE TABLE sample AS SELECT data FROM views LIMIT 1")
            conn.execute("VACUUM ANALYZE")

    def pgbench(self, callers: int, *, write: bool) -> float | None:
        """pgbench with the same statement and document; None where there is no pgbench."""
        program = self.cluster.bin / "pgbench"
        if not program.exists():
            return None
        statement = (
            # The document comes from a table: pgbench would take its colons for variables.
            "INSERT INTO plain (key, data) SELECT :k::text, data FROM sample"
            " ON CONFLICT (key) DO UPDATE SET data = excluded.data, updated_at = now();"
            if write
            else "SELECT data FROM plain WHERE key = :k::text;"
        )
        script = self.work / "pgbench.sql"
        script.write_text(f"\\set k random(0, {KEYS - 1})\n{statement}\n", encoding="utf-8")
        command = [str(program), "-n", "-M", "prepared", "-f", str(script), "-c", str(callers)]
        command += ["-j", "2", "-T", str(max(1, round(self.seconds))), self.cluster.url(unix=False)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            if line.startswith("tps = "):
                return float(line.split()[2])
        return None


async def contest(arena: Arena, callers: int, figures: dict[str, Figures]) -> None:
    """One round of everything at one number of callers."""
    seconds, url = arena.seconds, arena.url
    puts, gets = (figures.setdefault(f"{what} c={callers}", {}) for what in ("put", "get"))

    async def no_reset(connection: Any) -> None:
        del connection

    for name, reset in (("asyncpg pool10", None), ("asyncpg pool10, no reset", no_reset)):
        options = {} if reset is None else {"reset": reset}
        async with asyncpg.create_pool(url, min_size=10, max_size=10, **options) as pool:

            async def put(key: str, pool: Any = pool) -> None:
                await pool.execute(UPSERT, key, TEXTS[hash(key) % len(TEXTS)])

            async def get(key: str, pool: Any = pool) -> None:
                json.loads(await pool.fetchval(SELECT, key))

            puts.setdefault(name, []).append(await run_tasks(put, callers, seconds))
            gets.setdefault(name, []).append(await run_tasks(get, callers, seconds))

    async with psycopg_pool.AsyncConnectionPool(
        url, min_size=10, max_size=10, kwargs={"autocommit": True}, open=False
    ) as psycopgs:

        async def put_psycopg(key: str) -> None:
            async with psycopgs.connection() as conn:
                statement = UPSERT.replace("$1", "%s").replace("$2", "%s")
                await conn.execute(statement, (key, TEXTS[hash(key) % len(TEXTS)]))

        async def get_psycopg(key: str) -> None:
            async with psycopgs.connection() as conn:
                cur = await conn.execute(SELECT.replace("$1", "%s"), (key,))
                row = await cur.fetchone()
                json.loads(row[0] if row else "null")

        name = "psycopg pool10"
        puts.setdefault(name, []).append(await run_tasks(put_psycopg, callers, seconds))
        gets.setdefault(name, []).append(await run_tasks(get_psycopg, callers, seconds))

    async with standfast.open_async(url, data_dir=arena.work / "storage", deadline_s=10) as store:
        views = store["views"]

        async def put_standfast(key: str) -> None:
            await views.put(key, DOCUMENTS[hash(key) % len(DOCUMENTS)])

        puts.setdefault("standfast", []).append(await run_tasks(put_standfast, callers, seconds))
        gets.setdefault("standfast", []).append(await run_tasks(views.get, callers, seconds))


def contest_of_threads(arena: Arena, callers: int, figures: dict[str, Figures]) -> None:
    puts, gets = (figures.setdefault(f"{what} c={callers}", {}) for what in ("put", "get"))
    with standfast.open(arena.url, data_dir=arena.work / "storage", deadline_s=10) as store:
        views = store["views"]

        def put(key: str) -> None:
            views.put(key, DOCUMENTS[hash(key) % len(DOCUMENTS)])

        name = "standfast, threads"
        puts.setdefault(name, []).append(run_threads(put, callers, arena.seconds))
        gets.setdefault(name, []).append(run_threads(views.get, callers, arena.seconds))
    for what, rates in (("put", puts), ("get", gets)):
        rate = arena.pgbench(callers, write=what == "put")
        if rate is not None:
            rates.setdefault("pgbench", []).append(rate)


def percentiles(samples: list[float]) -> tuple[float, float]:
    """p50 and p99 in microseconds."""
    samples = sorted(samples)
    return samples[len(samples) // 2] * 1e6, samples[int(len(samples) * 0.99)] * 1e6


def timed(call: Callable[[], Any], count: int) -> list[float]:
    samples: list[float] = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return samples


def one_blocking_caller(arena: Arena, rounds: int) -> None:
    """One caller that waits for each call, beside psycopg's bare statements, in turn."""
    ratios: dict[str, list[float]] = {"put": [], "get": []}
    rng = random.Random(1)
    with (
        standfast.open(arena.url, data_dir=arena.work / "storage", deadline_s=10) as store,
        psycopg.connect(arena.url, autocommit=True) as conn,
    ):
        views = store["views"]
        upsert = UPSERT.replace("$1", "%s").replace("$2", "%s")
        select = SELECT.replace("$1", "%s")

        def bare_put(key: int) -> None:
            conn.execute(upsert, (str(key), json.dumps(DOCUMENTS[key % len(DOCUMENTS)])))

        def bare_get(key: int) -> None:
            row = conn.execute(select, (str(key),)).fetchone()
            json.loads(row[0] if row else "null")

        pairs: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {
            "put": (lambda key: views.put(key, DOCUMENTS[key % len(DOCUMENTS)]), bare_put),
            "get": (views.get, bare_get),
        }
        for _ in range(rounds):
            for what, (ours, bare) in pairs.items():
                keys = [rng.randrange(KEYS) for _ in range(200)]
                mine, theirs = [], []
                for key in keys:
                    mine += timed(lambda key=key, call=ours: call(key), 1)
                    theirs += timed(lambda key=key, call=bare: call(key), 1)
                ratios[what].append(percentiles(mine)[0] / percentiles(theirs)[0])
    for what, found in ratios.items():
        print(f"one blocking caller, p50: {what} {statistics.median(found):.2f}x psycopg")


def local_figures(arena: Arena) -> None:
    """Local gets, and puts into the journal beside a bare append with fdatasync."""
    with standfast.open(arena.url, data_dir=arena.work / "storage", deadline_s=1) as store:
        views, rng = store["views"], random.Random(1)
        views.get_many(str(key) for key in range(2000))
        gets = timed(lambda: views.get(str(rng.randrange(2000)), consistency="local"), 20_000)
        print(f"\nlocal get: p50 {percentiles(gets)[0]:.1f} us, p99 {percentiles(gets)[1]:.1f} us")
        arena.cluster.kill()
        views.put("0", DOCUMENTS[0])
        fd = os.open(arena.work / "append", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        journaled: list[float] = []
        bare: list[float] = []
        for _ in range(10):  # in turn: the disk's mood meets both
            journaled += timed(lambda: views.put(str(rng.randrange(2000)), DOCUMENTS[0]), 100)
            bare += timed(lambda: (os.write(fd, b"x" * 4096), os.fdatasync(fd)), 100)
        os.close(fd)
        (mine, mine99), (theirs, theirs99) = percentiles(journaled), percentiles(bare)
        print(f"journaled put, one caller: p50 {mine:.0f} us, p99 {mine99:.0f} us")
        print(f"append 4 KB + fdatasync:   p50 {theirs:.0f} us, p99 {theirs99:.0f} us")
        print(f"ratio: {mine / theirs:.2f}x at p50, {mine99 / theirs99:.2f}x at p99")
        arena.cluster.start()
        store.flush(timeout_s=30)


def show(figures: dict[str, Figures]) -> None:
    for case, contestants in figures.items():
        base = contestants["asyncpg pool10"]
        print(f"\n{case}")
        for name, rates in contestants.items():
            ratios = [mine / theirs for mine, theirs in zip(rates, base, strict=False)]
            spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
            print(
                f"  {name:28} {statistics.median(rates):>9,.0f}/s ({spread:>15})"
                f"  {statistics.median(ratios):5.2f}x"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="per contestant and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", default="1,64,256")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="sf-bench-"))
    figures: dict[str, Figures] = {}
    try:
        with Cluster(fsync=True, conf={"max_connections": "300"}) as cluster:
            arena = Arena(cluster, work, arguments.seconds)
            arena.fill()
            with contextlib.suppress(KeyboardInterrupt):
                for _ in range(arguments.rounds):
                    for callers in map(int, arguments.callers.split(",")):
                        asyncio.run(contest(arena, callers, figures))
                        contest_of_threads(arena, callers, figures)
            show(figures)
            one_blocking_caller(arena, arguments.rounds)
            local_figures(arena)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
