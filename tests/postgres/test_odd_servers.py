"""Unusual settings of a database: moves and the store work as anywhere.

The default run tries a little of everything in each group of settings, as a role that owns its
database and nothing else; the slow one runs the suites of migrations and of the store under each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

import standfast
from standfast.errors import MigrationError
from standfast.migrate.rollback import rollback
from support.cli import run_cli
from support.databases import ODD_SERVER, ODD_SERVERS, make_odd, temporary_database
from support.moving import Place
from support.pg import new_role, url_as

GROUPS = [name for name in ODD_SERVERS if name != "plain"]
TESTS = Path(__file__).parents[1]
NASTY: dict[str, Any] = {
    "a'b": "it's \\ a \\\\ back\\'slash",
    'q"q': {"\u0000": "\ud800", "big": 10**30, "f": 0.1},
    "\\x41": [None, "NULL", "", "\\N", "{a,b}", "2026-11-26"],
    "": {"e": 1e300, "t": "12:00:00.000001"},
}


@pytest.fixture(params=GROUPS)
def odd(request: pytest.FixtureRequest, pg_admin_url: str, tmp_path: Path) -> Iterator[Place]:
    """A folder whose database has odd settings; EXECUTE is not for everybody in it."""
    with new_role(pg_admin_url) as role, temporary_database(pg_admin_url) as url:
        with psycopg.connect(url, autocommit=True) as dba:
            name = dba.info.dbname
            for statement in (
                "ALTER DATABASE {name} OWNER TO {role}",
                "GRANT ALL ON SCHEMA public TO {role}",
                "ALTER DEFAULT PRIVILEGES FOR ROLE {role} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
            ):
                parts = {"name": sql.Identifier(name), "role": sql.Identifier(role)}
                dba.execute(sql.SQL(statement).format(**parts))
        make_odd(pg_admin_url, name, ODD_SERVERS[request.param])
        place = Place(tmp_path / "app", url_as(url, role))
        place.root.mkdir()
        yield place
        place.close()


def test_moves_and_writes_under_odd_settings(odd: Place) -> None:
    """A file is moved, merged, verified and rolled back; documents are written, found and read
    back exactly."""
    first = odd.moved(odd.write("things.json", json.dumps(NASTY))).run
    assert odd.documents("things") == NASTY
    records = [{"id": number, "at": "1999-12-31"} for number in range(3)]
    odd.moved(odd.write("records.json", records))
    assert json.loads(odd.exported("records")) == records
    changed = {**NASTY, "a'b": 2, "new": 3}
    second = odd.moved(odd.write("things.json", json.dumps(changed))).run
    with standfast.open(odd.url, data_dir=odd.data_dir, deadline_s=5) as store:
        things = store["things"]
        assert dict(things.items()) == changed
        assert things.put("k\\'k", {"v": "\\"}).durable_on == "primary"
        assert things.append("list", "", "x'\\") == ["x'\\"]
        assert things.increment("n", "", 2) == 2
        things.patch("k\\'k", {"w": 1.5})
        assert [found.key for found in things.find({"v": "\\"})] == ["k\\'k"]
        assert things.get("k\\'k") == {"v": "\\", "w": 1.5}
        with store.batch() as batch:
            batch.put("things", "b", 1)
            batch.delete("things", "n")
        assert things.update("b", lambda value: value + 1)
        for key in ("k\\'k", "list", "b"):
            things.delete(key)
        found = things.read("new")
        assert found is not None
        assert abs((found.updated_at - found.created_at).total_seconds()) < 60
    rollback(odd.backend, odd.data_dir, str(second))
    assert odd.documents("things") == NASTY
    rollback(odd.backend, odd.data_dir, str(first))
    assert odd.documents("things") == {}


@pytest.mark.parametrize("odd", ["replica"], indirect=True)
def test_without_triggers_own_deletes_leave_tombstones(odd: Place) -> None:
    """session_replication_role = replica: versions go on above what was deleted, what the app has
    deleted stays deleted, rows that others refer to are not deleted, and doctor names it."""
    path = odd.write("things.json", {"a": {"n": 1}, "b": {"n": 2}})
    run = odd.moved(path).run
    with standfast.open(odd.url, data_dir=odd.data_dir, deadline_s=5) as store:
        things = store["things"]
        assert things.delete("a").version == 2
        assert things.put("a", 1).version == 3
        things.delete("a")
    odd.moved(odd.write("things.json", {"a": {"n": 1}, "b": {"n": 3}}))
    assert odd.documents("things") == {"b": {"n": 3}}
    with psycopg.connect(odd.url, autocommit=True) as conn:
        conn.execute("CREATE TABLE scores (thing TEXT REFERENCES things (key) ON DELETE CASCADE)")
        conn.execute("INSERT INTO scores VALUES ('b')")
    with pytest.raises(MigrationError) as caught:
        rollback(odd.backend, odd.data_dir, str(run), discard_newer=True)
    assert caught.value.code == "referenced"
    assert "session_replication_role" in caught.value.hint
    assert odd.documents("things") == {"b": {"n": 3}}
    done = run_cli("doctor", env=odd.env)
    assert "session_replication_role is replica" in done.out


# ---- everything

_FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.glob("migrate/test_*.py"))
#: What one run of the slow test takes, so that none takes more than about two minutes.
PARTS = {
    **{f"migrate{part}": _FILES[part::3] for part in range(3)},
    "contract": ["contract/test_store.py", "contract/test_twins.py"],
}


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("group", GROUPS)
def test_the_suites_under_odd_settings(group: str, part: str, pg_admin_url: str) -> None:
    """All tests of migrations and of the store that use a server, with these settings."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"),
            *("-m", "pg and not slow"),
            *(str(TESTS / name) for name in PARTS[part]),
        ],
        cwd=TESTS.parent,
        env={**os.environ, ODD_SERVER: group, "TEST_DATABASE_URL": pg_admin_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
