"""Backup and restore beside `pg_dump -Fc` and `pg_restore` of the same table, as ratios.

    python bench/backup.py [--documents 1000000]

Real PostgreSQL over TCP; documents of about 450 bytes with many quotes.  pg_dump and pg_restore
run as programs of their own, and so does `standfast backup`: times are wall clock from start to
end of the program, memory is the highest resident size of the program as the system counted it.
A restore reads every checksum first, and reads everything back before it commits; pg_restore does
neither.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import psycopg  # noqa: E402

from support.cluster import Cluster  # noqa: E402
from support.databases import temporary_database  # noqa: E402
from support.pgbin import programs  # noqa: E402

_FILL = """
INSERT INTO public.players (key, data, raw, version, created_at, updated_at)
SELECT key, d::jsonb, CASE WHEN n % 2 = 0 THEN d END, 1, at, at FROM (
  SELECT n, (100000000000000000 + n)::text AS key, now() + n * interval '1 microsecond' AS at,
    format('{"guild_id":"%s","name":"Guild \\"%s\\" of players","event_mode":"normal","tags":'
      || '["solo","double up","ranked"],"channels":{"checkin":"%s","registration":"%s","log":"%s"},'
      || '"messages":[{"id":"%s","kind":"view","posted":true},{"id":"%s","kind":"embed"}],'
      || '"count":%s,"note":"%s"}',
      100000000000000000 + n, n, 3 * n + 10^15, 5 * n + 10^15, 7 * n + 10^15, 11 * n + 10^15,
      13 * n + 10^15, n, md5(n::text) || md5((n + 1)::text)) AS d
  FROM generate_series(1, COUNT) AS n) AS s
"""


def measured(*words: str | Path, env: dict[str, str] | None = None) -> tuple[float, float]:
    """Seconds and MB at most of a program; it must succeed."""
    began = time.monotonic()
    command = [os.fspath(word) for word in words]
    process = subprocess.Popen(
        command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{words[0]} failed: {process.returncode}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def standfast(*words: str | Path, data_dir: Path) -> tuple[float, float]:
    """The same of a command of ours."""
    return measured(
        *(sys.executable, "-m", "standfast", *words), env={"STANDFAST_DATA_DIR": str(data_dir)}
    )


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000)
    count: int = parser.parse_args().documents
    with contextlib.ExitStack() as stack:
        admin = stack.enter_context(Cluster(fsync=True)).url()
        source, plain, target = (stack.enter_context(temporary_database(admin)) for _ in range(3))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR"))))
        standfast("put", "players", "0", "{}", "--to", source, data_dir=work / "a")
        with psycopg.connect(source, autocommit=True) as conn:
            conn.execute("TRUNCATE public.players")
            conn.execute(_FILL.replace("COUNT", str(count)).encode())
            # The same table without the triggers, which need functions that pg_restore has not.
            conn.execute("CREATE TABLE public.plain (LIKE public.players INCLUDING ALL)")
            conn.execute("INSERT INTO public.plain SELECT * FROM public.players")
            conn.execute("VACUUM ANALYZE")
        tools, dump = programs().bin, work / "plain.dump"
        words = (tools / "pg_dump", "-Fc", "-t", "public.plain", "-f", dump, "-d", source)
        took = {"pg_dump": measured(*words)}
        to_source = ("--to", source)
        took["backup create"] = standfast("backup", "create", *to_source, data_dir=work / "a")
        took["backup verify"] = standfast("backup", "verify", *to_source, data_dir=work / "a")
        (made,) = (work / "a" / "backups").glob("*.jsonl.gz")
        took["pg_restore"] = measured(tools / "pg_restore", "--no-owner", "-d", plain, dump)
        words = ("backup", "restore", made, "--to", target)
        took["backup restore"] = standfast(*words, data_dir=work / "b")
        found: dict[str, float] = {"documents": count}
        for name, (seconds, megabytes) in took.items():
            print(
                f"{name:16} {seconds:7.1f} s  {count / seconds:9,.0f} docs/s  {megabytes:6.0f} MB"
            )
            found[name] = round(seconds, 2)
        found["create / pg_dump"] = round(took["backup create"][0] / took["pg_dump"][0], 2)
        found["restore / pg_restore"] = round(took["backup restore"][0] / took["pg_restore"][0], 2)
        found["bytes / pg_dump's"] = round(made.stat().st_size / dump.stat().st_size, 2)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
