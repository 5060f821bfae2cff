"""The store beside the drivers that one would use without it, in one run, as ratios.

    python bench/store.py [--seconds 0.7] [--rounds 3] [--callers 1,64,256] [--only PART]
                          [--writes 100000]

Real PostgreSQL with fsync on, over TCP; documents of about 450 bytes with many quotes, of which
jsonb keeps no order of members, so that `raw` is set for every one of them.  In each round every
contestant runs for the same time, in turn, so that the drift of a busy machine meets all of them;
quoted is the median of the rounds, and the ratio to asyncpg's default pool as the median of the
rounds' ratios.

- `callers`: durable puts and gets at several numbers of callers: standfast (asynchronous, and
  threads), asyncpg with its default pool of 10 and with the reset query off, psycopg (10
  asynchronous connections), pgbench; the processor time of a put;
- `one`: one blocking caller, and a scan of every document, beside psycopg's bare statements;
- `embedded`: the same on SQLite alone, beside bare SQLite;
- `local`: gets from the mirror, in the caller's own thread, and journaled puts while the server is
  stopped: to one document behind many pending ones beside few, and beside a bare append +
  fdatasync of 4 KB;
- `sizes`: how large every table is over so many writes (alone: without fsync).

It takes about three minutes; for figures to quote, use more rounds and a quiet machine, and
`--only sizes --writes 1000000`.

At the end stands every figure that has a target; the exit code is 1 when one is missed.
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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]

import asyncpg  # noqa: E402
import psycopg  # noqa: E402
from local import embedded, one_blocking_caller, sizes  # noqa: E402
from measures import DOCUMENTS, TEXTS, Measure, percentile, show, timed  # noqa: E402

import standfast  # noqa: E402
from support.cluster import Cluster  # noqa: E402

KEYS = 10_000
PARTS = ("callers", "one", "embedded", "local", "sizes")
#: The name of the figures that are processor time.
CPU = "processor time of a put"
UPSERT = (
    "INSERT INTO plain (key, data) VALUES ($1, $2::jsonb)"
    " ON CONFLICT (key) DO UPDATE SET data = excluded.data, updated_at = now()"
)
SELECT = "SELECT data::text FROM plain WHERE key = $1"
Figures = dict[str, list[float]]
Call = Callable[[str], Awaitable[Any]]


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


@asynccontextmanager
async def psycopg_pool(url: str) -> AsyncIterator[Callable[[], Any]]:
    """Ten asynchronous connections, lent one by one."""
    free: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
    every = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(10)]
    for conn in every:
        free.put_nowait(conn)

    @asynccontextmanager
    async def lend() -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        conn = await free.get()
        try:
            yield conn
        finally:
            free.put_nowait(conn)

    yield lend
    for conn in every:
        await conn.close()


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

    async with psycopg_pool(url) as psycopgs:

        async def put_psycopg(key: str) -> None:
            async with psycopgs() as conn:
                statement = UPSERT.replace("$1", "%s").replace("$2", "%s")
                await conn.execute(statement, (key, TEXTS[hash(key) % len(TEXTS)]))

        async def get_psycopg(key: str) -> None:
            async with psycopgs() as conn:
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

        await put_standfast("0")  # it is connected, as the pools are
        begun = time.process_time()
        rate = await run_tasks(put_standfast, callers, seconds)
        cpu_us = (time.process_time() - begun) / (rate * seconds) * 1e6
        figures.setdefault(CPU, {}).setdefault(str(callers), []).append(cpu_us)
        puts.setdefault("standfast", []).append(rate)
        gets.setdefault("standfast", []).append(await run_tasks(views.get, callers, seconds))


def contest_of_threads(arena: Arena, callers: int, figures: dict[str, Figures]) -> None:
    puts, gets = (figures.setdefault(f"{what} c={callers}", {}) for what in ("put", "get"))
    with standfast.open(arena.url, data_dir=arena.work / "storage", deadline_s=10) as store:
        views = store["views"]

        def put(key: str) -> None:
            views.put(key, DOCUMENTS[hash(key) % len(DOCUMENTS)])

        put("0")
        name = "standfast, threads"
        puts.setdefault(name, []).append(run_threads(put, callers, arena.seconds))
        gets.setdefault(name, []).append(run_threads(views.get, callers, arena.seconds))
    for what, rates in (("put", puts), ("get", gets)):
        rate = arena.pgbench(callers, write=what == "put")
        if rate is not None:
            rates.setdefault("pgbench", []).append(rate)


def local_figures(arena: Arena) -> list[Measure]:
    """Local gets, and puts into the journal beside a bare append with fdatasync."""
    with standfast.open(arena.url, data_dir=arena.work / "storage", deadline_s=1) as store:
        views, rng = store["views"], random.Random(1)
        views.get_many(str(key) for key in range(2000))
        gets = [
            timed(lambda: views.get(str(rng.randrange(2000)), consistency="local"))
            for _ in range(20_000)
        ]
        arena.cluster.kill()
        views.put("0", DOCUMENTS[0])
        few, many = (hot_key(store, pending=pending) for pending in (50, 500))
        fd = os.open(arena.work / "append", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        journaled: list[float] = []
        bare: list[float] = []
        for _ in range(1000):  # in turn: the disk's mood meets both
            journaled.append(timed(lambda: views.put(str(rng.randrange(2000)), DOCUMENTS[0])))
            bare.append(timed(lambda: (os.write(fd, b"x" * 4096), os.fdatasync(fd))))
        os.close(fd)
        print(
            f"\njournaled put: p50 {percentile(journaled, 0.5) * 1e6:.0f} us, p99"
            f" {percentile(journaled, 0.99) * 1e6:.0f} us; append and fdatasync of 4 KB: p50"
            f" {percentile(bare, 0.5) * 1e6:.0f} us, p99 {percentile(bare, 0.99) * 1e6:.0f} us"
        )
        arena.cluster.start()
        store.flush(timeout_s=30)
    ratio = percentile(journaled, 0.5) / percentile(bare, 0.5)
    return [
        Measure("local get, p50", percentile(gets, 0.5) * 1e6, 20, unit="us"),
        Measure("journaled put, to an append with fdatasync", ratio, 2),
        Measure("hot key, behind 500 pending writes to behind 50", many / few, 1.5),
    ]


def hot_key(store: standfast.Store, *, pending: int) -> float:
    """The median of 25 writes to one document on which so many are pending, in seconds."""
    counters = store["counters"]
    while store.health().lag_ops < pending - 12:
        counters.increment("hot", "/n")
    return statistics.median(timed(lambda: counters.increment("hot", "/n")) for _ in range(25))


def judge_callers(figures: dict[str, Figures]) -> list[Measure]:
    """The ratios to asyncpg's default pool that have a target."""
    targets = {
        "put c=1": 1.0,
        "put c=64": 3.5,
        "put c=256": 4.0,
        "get c=64": 4.0,
        "get c=256": 4.0,
    }
    measures: list[Measure] = []
    for case, target in targets.items():
        if case not in figures:
            continue
        ours, base = figures[case]["standfast"], figures[case]["asyncpg pool10"]
        ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, base, strict=True))
        name = f"{case}, awaiting, to asyncpg's default pool"
        detail = f"{statistics.median(ours):,.0f}/s beside {statistics.median(base):,.0f}/s"
        measures.append(Measure(name, ratio, target, at_least=True, detail=detail))
    cpu_us = figures.get(CPU, {}).get("64")
    if cpu_us:
        figure = statistics.median(cpu_us)
        measures.append(Measure("processor time of a put, c=64", figure, 20, unit="us"))
    return measures


def print_rates(figures: dict[str, Figures]) -> None:
    """Every contestant's operations per second, and its ratio to asyncpg's default pool."""
    for case, contestants in figures.items():
        if case == CPU:
            continue
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
    """Run what was asked for, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.7, help="per contestant and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", default="1,64,256")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--writes", type=int, default=100_000, help="of the part `sizes`")
    arguments = parser.parse_args()
    parts = {arguments.only} if arguments.only else {*PARTS}
    work = Path(tempfile.mkdtemp(prefix="sf-bench-"))
    measures: list[Measure] = []
    try:
        if parts & {"embedded"}:
            measures += embedded(work / "embedded", rounds=arguments.rounds, keys=KEYS)
        if parts - {"embedded"}:
            with Cluster(fsync=parts != {"sizes"}, conf={"max_connections": "300"}) as cluster:
                measures += on_postgresql(Arena(cluster, work, arguments.seconds), parts, arguments)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0 if show(measures) else 1


def on_postgresql(arena: Arena, parts: set[str], arguments: argparse.Namespace) -> list[Measure]:
    """The parts that need a server."""
    if parts - {"sizes"}:
        arena.fill()
    figures: dict[str, Figures] = {}
    measures: list[Measure] = []
    if "callers" in parts:
        with contextlib.suppress(KeyboardInterrupt):
            for _ in range(arguments.rounds):
                for callers in map(int, arguments.callers.split(",")):
                    asyncio.run(contest(arena, callers, figures))
                    contest_of_threads(arena, callers, figures)
        print_rates(figures)
        measures += judge_callers(figures)
    if "one" in parts:
        data_dir = arena.work / "storage"
        measures += one_blocking_caller(arena.url, data_dir, rounds=arguments.rounds, keys=KEYS)
    if "local" in parts:
        measures += local_figures(arena)
    if "sizes" in parts:
        sizes(arena.url, arena.work, writes=arguments.writes)
    return measures


if __name__ == "__main__":
    sys.exit(main())
