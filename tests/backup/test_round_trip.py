"""A backup gives back what was there: every value, version, time, expiry and the order."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

import standfast
from standfast.admin.backup.creating import create
from standfast.admin.backup.folder import verify
from standfast.admin.backup.format import PendingWrite, opened
from standfast.admin.backup.restoring import restore
from standfast.admin.backup.transfer import Choice
from standfast.api.sync import Store
from standfast.backends.base import Backend, Form, Load
from standfast.engine.embedded import EmbeddedEngine
from standfast.engine.journal import Journal
from standfast.ops.types import Op
from support.backups import rows_in

VALUES: dict[str, Any] = {
    "": "the empty key",
    "a": {"z": 1, "a": [1, 2.5, -0.0, 1e300, 10**60, None, True]},
    "b": {"nested": {"": [], "\u0000": "\u0000 and \ud800 and 😀"}},
    'quotes",value":': '","value":{},"crc32":"00000000"}\n{"end":',
    "ü": None,
    "😀": "\\u0041 \t\r\n",
}


def fill(backend: Backend) -> None:
    store = Store(EmbeddedEngine(backend))
    players = store["players"]
    for key in reversed(VALUES):  # the order of creation is not that of the keys
        players.put(key, VALUES[key])
    for _ in range(3):
        players.put("a", VALUES["a"])
    players.put("short", 1, ttl_s=1000)
    players.put("gone", 1)
    players.delete("gone")
    store["empty"].put("x", 1)
    store["empty"].delete("x")
    store["other"].put("1", [1])


def test_everything_comes_back_as_it_was(
    backend: Backend, scratch: Backend, data_dir: Path
) -> None:
    """Value, version, times, expiry, form and order: in an empty store they are as before, and
    so they are in the one that the backup was made of."""
    backend.load("run", "loaded", [Load("board", Form("array", "id"), [("7", '{"id":7}')])])
    fill(backend)
    before = rows_in(backend)
    made = create(backend, data_dir)
    assert made.counts.documents == sum(map(len, before.values())) == len(VALUES) + 3
    assert made.path.stat().st_mode & 0o777 == 0o600
    result = restore(scratch, data_dir, made.path, Choice())
    assert result.green
    assert result.safety is None
    after = rows_in(scratch)
    assert {name: found for name, found in after.items() if found} == {
        name: found for name, found in before.items() if found
    }
    assert scratch.form("board") == Form("array", "id")
    store = Store(EmbeddedEngine(scratch))
    assert {key: store["players"].get(key) for key in VALUES} == VALUES
    again = restore(backend, data_dir, made.path, Choice())
    assert (again.run, again.planned.plan.writes) == (None, 0)
    assert rows_in(backend) == before


def test_a_document_can_be_written_after_a_restore(
    backend: Backend, scratch: Backend, data_dir: Path
) -> None:
    """A restored document goes on from its version, and one that expired since stays away."""
    fill(backend)
    made = create(backend, data_dir)
    restore(scratch, data_dir, made.path, Choice())
    store = Store(EmbeddedEngine(scratch))
    version = store["players"].read("a").version  # type: ignore[union-attr]
    assert store["players"].put("a", 1, if_version=version).version == version + 1


def test_a_restore_goes_above_the_versions_that_are_there(backend: Backend, data_dir: Path) -> None:
    """In the same database no version is given twice: not after a change, nor after a delete."""
    store = Store(EmbeddedEngine(backend))
    store["c"].put("changed", 1)
    store["c"].put("deleted", 1)
    made = create(backend, data_dir)
    for n in range(5):
        store["c"].put("changed", n)
    store["c"].delete("deleted")
    result = restore(backend, data_dir, made.path, Choice("file"))
    assert (result.planned.plan.count("replace"), result.planned.plan.count("new")) == (1, 1)
    found = {row.key: row for row in rows_in(backend)["c"]}
    assert (found["changed"].text, found["deleted"].text) == ("1", "1")
    assert found["changed"].version == 7
    assert found["deleted"].version >= 2


def test_the_safety_backup_takes_a_restore_back(backend: Backend, data_dir: Path) -> None:
    """What a restore overwrites was kept before, and comes back from there, to the last row."""
    fill(backend)
    made = create(backend, data_dir)
    store = Store(EmbeddedEngine(backend))
    store["players"].put("a", "newer")
    store["players"].delete("b")
    store["players"].put("only there", 1)
    now = dict(store["players"].items())
    result = restore(backend, data_dir, made.path, Choice("file", exact=True))
    assert result.safety is not None
    assert store["players"].get("a") == VALUES["a"]
    assert store["players"].get("only there") is None
    restore(backend, data_dir, result.safety, Choice("file", exact=True))
    assert dict(store["players"].items()) == now


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [("file", '"old"'), ("database", '"new"'), ("newest", '"new"'), ("fail", '"new"')],
)
def test_who_wins(backend: Backend, data_dir: Path, policy: Any, wanted: str) -> None:
    """Where a document differs, the policy decides; `fail`, the default, changes nothing at all."""
    store = Store(EmbeddedEngine(backend))
    store["c"].put("x", "old")
    store["c"].put("missing", 1)
    made = create(backend, data_dir)
    store["c"].put("x", "new")
    store["c"].delete("missing")
    result = restore(backend, data_dir, made.path, Choice(policy))
    found = {row.key: row.text for row in rows_in(backend)["c"]}
    assert found["x"] == wanted
    assert ("missing" in found) is (policy != "fail")
    assert result.green is (policy != "fail")
    assert result.planned.plan.parts[0].conflicts == (["x"] if policy == "fail" else [])
    assert (result.safety is not None) is (policy == "file")


def test_one_collection_and_one_document(backend: Backend, data_dir: Path) -> None:
    """Only what was asked for changes."""
    fill(backend)
    made = create(backend, data_dir)
    store = Store(EmbeddedEngine(backend))
    for key in ("a", "b"):
        store["players"].put(key, "newer")
    store["other"].put("1", "newer")
    restore(backend, data_dir, made.path, Choice("file", only=("players",), key="a"))
    assert (store["players"].get("a"), store["players"].get("b")) == (VALUES["a"], "newer")
    restore(backend, data_dir, made.path, Choice("file", only=("other",)))
    assert (store["other"].get("1"), store["players"].get("b")) == ([1], "newer")
    with pytest.raises(standfast.ConfigError) as found:
        restore(backend, data_dir, made.path, Choice(only=("players",), key="nowhere"))
    assert found.value.code == "no_such_document"
    with pytest.raises(standfast.ConfigError) as found:
        restore(backend, data_dir, made.path, Choice(only=("nowhere",)))
    assert found.value.code == "no_such_collection"


def test_ordinary_tools_read_it(backend: Backend, data_dir: Path) -> None:
    """gzip unpacks it, and every line is JSON."""
    fill(backend)
    made = create(backend, data_dir)
    done = subprocess.run(["gzip", "-dc", made.path], capture_output=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["standfast_backup"] == 1
    assert lines[-1]["end"]["documents"] == made.counts.documents
    assert {line["key"]: line["value"] for line in lines if "value" in line}["a"] == VALUES["a"]
    subprocess.run(["gzip", "-t", made.path], check=True)


def test_what_waits_in_the_journal_is_in_it(
    pg_backend: Backend, pg_prepared: str, data_dir: Path
) -> None:
    """A write that was acknowledged and has not reached the database is in the backup, by name."""
    with standfast.open(pg_prepared, data_dir=data_dir) as store:
        store["c"].put("there", 1)
    journal = Journal(data_dir)
    op = Op(lane="5c0ddd3f-4f55-4b6a-9a53-4c2f0c7e8a01", seq=7, kind="put", collection="c", key="k")
    with journal.writing() as writing:
        writing.add([op], max_ops=10, max_bytes=1000)
    journal.close()
    made = create(pg_backend, data_dir)
    assert made.counts.pending == 1
    with opened(made.path) as reader:
        pending = [item for item in reader.items() if isinstance(item, PendingWrite)]
    assert [(one.lane, one.seq, one.kind, one.key) for one in pending] == [(op.lane, 7, "put", "k")]
    assert verify(made.path).counts == made.counts


def test_what_changes_after_the_plan_stops_it(backend: Backend, data_dir: Path) -> None:
    """A document that is changed, or appears, between the plan and the transaction: nothing at all
    is written, and what is there has not been lost."""
    store = Store(EmbeddedEngine(backend))
    store["c"].put("x", "old")
    store["c"].put("y", "old")
    made = create(backend, data_dir)
    store["c"].put("x", "new")
    store["c"].delete("y")
    for choice, key in ((Choice("file"), "x"), (Choice("database"), "")):
        if not key:
            store["c"].put("x", "old")
        with_fail = choice if key else Choice("fail")

        def change(_: Any, key: str = key) -> None:
            store["c"].put(key or "y", "newest")

        with pytest.raises(standfast.MigrationError) as found:
            restore(backend, data_dir, made.path, with_fail, confirm=change)
        assert found.value.code == "plan_stale"
        assert store["c"].get(key or "y") == "newest"
        assert store["c"].get("y" if key else "x") == (None if key else "old")


def test_what_is_read_back_differently_is_not_committed(
    pg_backend: Backend, pg_prepared: str, data_dir: Path
) -> None:
    """A trigger of another program that changes the rows: found before the commit."""
    store = Store(EmbeddedEngine(pg_backend))
    store["c"].put("x", {"n": 1})
    made = create(pg_backend, data_dir)
    store["c"].delete("x")
    with psycopg.connect(pg_prepared, autocommit=True) as conn:
        conn.execute(
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.data = '{}'; NEW.raw = NULL; RETURN NEW; END $$"
        )
        conn.execute(
            "CREATE TRIGGER spoil BEFORE INSERT ON public.c FOR EACH ROW EXECUTE FUNCTION spoil()"
        )
    with pytest.raises(standfast.MigrationError) as found:
        restore(pg_backend, data_dir, made.path, Choice())
    assert found.value.code == "not_equal"
    assert store["c"].get("x") is None


def test_documents_of_any_size(backend: Backend, scratch: Backend, data_dir: Path) -> None:
    """A few large documents among many small ones: pages are cut by size, and nothing is lost."""
    store = Store(EmbeddedEngine(backend))
    store["c"].put_many({f"{n:04}": "x" * (3_000_000 if n % 400 == 7 else 3) for n in range(1300)})
    made = create(backend, data_dir)
    restore(scratch, data_dir, made.path, Choice())
    assert rows_in(scratch) == rows_in(backend)
