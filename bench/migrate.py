"""How long a whole migration takes, beside the fastest bare load of the same rows.

    python bench/migrate.py [--documents 100000] [--rounds 5] [--only sqlite|postgresql]

Both sides of a pair run in turn, A B A B ..., each as a process of its own that starts from
nothing, so that the drift of a busy machine meets both.  What is quoted is the ratio of the
medians:

- PostgreSQL (fsync on): `standfast migrate` with plan, backup, load, verify and clean-up, against
  `psql \\copy` of the same rows, with all their columns, into a table like the one that it made;
  and, for comparison, of keys and documents alone into `key text primary key, data jsonb`;
- SQLite (WAL, synchronous=FULL): the same, against one `executemany` of a bare apsw connection in
  one transaction.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.cluster import Cluster  # noqa: E402

_BARE_SQLITE = """
import apsw, sys
rows = [line.rstrip("\\n").split("\\t", 1) for line in open(sys.argv[2], encoding="utf-8")]
conn = apsw.Connection(sys.argv[1])
conn.execute("PRAGMA journal_mode = WAL")
conn.execute("PRAGMA synchronous = FULL")
conn.execute("CREATE TABLE state (key TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL)")
with conn:
    conn.executemany("INSERT INTO state VALUES (?, ?)", rows)
conn.close()
"""


def make_documents(count: int) -> dict[str, object]:
    """Guild-like documents of about 500 bytes of JSON, many quotes, snowflake keys."""
    rng = random.Random(20260301)
    documents: dict[str, object] = {}
    for index in range(count):
        guild = 1_100_000_000_000_000_000 + index * 4_194_304 + rng.randrange(4096)
        documents[str(guild)] = {
            "event_mode": rng.choice(["normal", "doubleup"]),
            "channel_id": guild + 17,
            "message_id": guild + 18,
            "name": f"Guild {index} " + "x" * rng.randrange(40),
            "schedule": {"opens": "2026-03-01T18:00:00+00:00", "closes": None},
            "waitlist": [
                {
                    "member_id": guild + 100 + n,
                    "tag": f"player{index}_{n}",
                    "team": rng.choice(["Red", "Blue", "Green"]),
                    "rating": round(rng.random() * 3000, 2),
                }
                for n in range(3)
            ],
        }
    return documents


class Bench:
    """One set of input files, and the commands that are timed on copies of them."""

    def __init__(self, folder: Path, documents: dict[str, object]) -> None:
        self.folder = folder
        self.source = folder / "state.json"
        self.rows = folder / "rows.tsv"
        self.copy_rows = folder / "copy.tsv"
        texts = {k: json.dumps(v, separators=(",", ":")) for k, v in documents.items()}
        self.source.write_text(json.dumps(documents), encoding="utf-8")
        self.rows.write_text("".join(f"{k}\t{t}\n" for k, t in texts.items()), encoding="utf-8")
        escaped = (t.replace("\\", "\\\\") for t in texts.values())
        lines = (f"{k}\t{t}\n" for k, t in zip(texts, escaped, strict=True))
        self.copy_rows.write_text("".join(lines), encoding="utf-8")
        self.size = sum(map(len, texts.values())) // len(texts)

    def migrate(self, url: str | None) -> float:
        """Seconds of one `standfast migrate` of a fresh copy."""
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        shutil.copy(self.source, work / "state.json")
        command = [sys.executable, "-m", "standfast", "migrate", "state.json"]
        environment = {k: v for k, v in os.environ.items() if "DATABASE_URL" not in k}
        if url is not None:
            environment["DATABASE_URL"] = url
        return timed(command, cwd=work, env=environment)

    def bare_sqlite(self) -> float:
        """Seconds of one bare executemany into a fresh file."""
        file = self.folder / "bare.db"
        for suffix in ("", "-wal", "-shm"):
            Path(f"{file}{suffix}").unlink(missing_ok=True)
        return timed([sys.executable, "-c", _BARE_SQLITE, str(file), str(self.rows)])

    def bare_copy(self, psql: Path, url: str, table: str, rows: Path) -> float:
        r"""Seconds of one `psql \copy` into a fresh table."""
        execute(psql, url, f"DROP TABLE IF EXISTS bare; CREATE TABLE bare ({table})")
        return timed([psql, "-qX", url, "-c", f"\\copy bare FROM '{rows}'"])


def execute(psql: Path, url: str, statement: str) -> None:
    """Run SQL that is not timed."""
    command = [str(psql), "-qX", "-v", "ON_ERROR_STOP=1", url, "-c", statement]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def timed(command: list[object], **options: object) -> float:
    """Seconds of a command as a whole process; its output is shown only when it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    elapsed_s = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{command[0]} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return elapsed_s


def compare(
    name: str, ours: Callable[[], float], bare: dict[str, Callable[[], float]], rounds: int
) -> None:
    """Run all in turn and print medians and ratios."""
    ours()  # warm the caches once
    runs = [(ours(), *(each() for each in bare.values())) for _ in range(rounds)]
    ours_s, *bare_s = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"{name}: standfast migrate {ours_s:.2f} s")
    for index, (what, seconds) in enumerate(zip(bare, bare_s, strict=True), 1):
        each = ", ".join(f"{run[0] / run[index]:.2f}" for run in runs)
        print(f"  {what}: {seconds:.2f} s, ratio {ours_s / seconds:.2f} ({each})", flush=True)


def compare_postgresql(bench: Bench, cluster: Cluster, rounds: int) -> None:
    """Against `psql \\copy`, of the same rows and of keys and documents alone."""
    psql, url = cluster.psql, cluster.url()
    same_rows = bench.folder / "same.tsv"

    def ours() -> float:
        execute(psql, url, "DROP SCHEMA IF EXISTS standfast CASCADE; DROP TABLE IF EXISTS state")
        return bench.migrate(url)

    def same() -> float:
        if not same_rows.exists():
            execute(psql, url, f"\\copy state TO '{same_rows}'")
        return bench.bare_copy(psql, url, "LIKE state INCLUDING ALL", same_rows)

    def documents() -> float:
        table = "key text PRIMARY KEY, data jsonb"
        return bench.bare_copy(psql, url, table, bench.copy_rows)

    bare = {"psql \\copy of the same rows": same, "psql \\copy of key and data alone": documents}
    compare("PostgreSQL", ours, bare, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="standfast-bench-") as folder:
        os.chmod(folder, 0o755)
        bench = Bench(Path(folder), make_documents(args.documents))
        print(f"{args.documents} documents of {bench.size} bytes on average, {args.rounds} rounds")
        if args.only != "postgresql":
            bare = {"apsw executemany of key and data": bench.bare_sqlite}
            compare("SQLite", lambda: bench.migrate(None), bare, args.rounds)
        if args.only != "sqlite":
            with Cluster(fsync=True) as cluster:
                compare_postgresql(bench, cluster, args.rounds)


if __name__ == "__main__":
    main()
