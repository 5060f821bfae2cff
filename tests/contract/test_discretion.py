"""No error, log or repr shows a document's content."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
from rich.console import Console
from rich.pretty import pretty_repr

from contract.suite.backend import make_lane, make_op
from standfast import ConflictError, CorruptData, DataError, MigrationError, StandfastError
from standfast.api.sync import Store
from standfast.backends.base import Backend, Change, Load, LoadReport, RunRecord
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.config.settings import parse_url
from standfast.engine.embedded import EmbeddedEngine
from standfast.ops.apply import Current
from standfast.ops.types import Outcome, Span

# Put together, so that a traceback's source lines do not hold it.
CANARY = "".join(["c4n", "4ry"])
VALUE = {"text": CANARY, "list": [CANARY], "n": 1}


@pytest.fixture(autouse=True)
def nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, no logger of anybody writes content, at any level."""
    with caplog.at_level(logging.DEBUG):
        yield
    assert CANARY not in caplog.text


def assert_discreet(error: BaseException) -> None:
    """Neither the error, nor what it is chained to, nor a printed traceback shows content."""
    shown = [str(error), repr(error), "".join(traceback.format_exception(error))]
    shown += [repr(vars(error)), repr(error.args)]
    for text in shown:
        assert CANARY not in text


def rejected(call: Callable[[], Any], kind: type[StandfastError], code: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code
    assert_discreet(caught.value)


def test_errors_of_the_store(store: Store) -> None:
    """Conflicts, impossible changes and refused values name the key and the place, no value."""
    views = store["views"]
    views.put("1", VALUE)
    views.put("2", CANARY)
    rejected(lambda: views.put("1", VALUE, if_absent=True), ConflictError, "conflict")
    rejected(lambda: views.patch("1", VALUE, if_version=9), ConflictError, "conflict")
    rejected(lambda: views.append("1", "/text", CANARY), DataError, "wrong_type")
    rejected(lambda: views.append("2", "/deep", CANARY), DataError, "wrong_type")
    rejected(lambda: views.append("1", "/list/9", CANARY), DataError, "bad_index")
    rejected(lambda: views.append("1", CANARY, 1), DataError, "bad_pointer")
    rejected(lambda: views.increment("2", ""), DataError, "wrong_type")
    rejected(lambda: views.increment("1", "/n", CANARY), DataError, "wrong_type")  # type: ignore[arg-type]
    rejected(lambda: views.update("2", lambda value: {value}), DataError, "not_json")
    for odd in ({CANARY}, (CANARY,), CANARY.encode(), [CANARY, float("nan")], {1: CANARY}):
        for call in (views.put, views.patch, views.get_or_create):
            with pytest.raises(DataError) as caught:
                call("3", {"x": odd})
            assert_discreet(caught.value)
        with pytest.raises(DataError) as caught:
            views.find({"x": odd})
        assert_discreet(caught.value)
    deep: Any = CANARY
    for _ in range(300):
        deep = [deep]
    rejected(lambda: views.put("3", deep), DataError, "too_deep")
    rejected(lambda: views.put("3", CANARY * 12_000_000), DataError, "too_large")
    rejected(lambda: _batch(store), ConflictError, "conflict")


def _batch(store: Store) -> None:
    with store.batch() as batch:
        batch.put("views", "5", CANARY)
        batch.put("views", "1", CANARY, if_version=9)


def test_reprs_of_the_store(store: Store) -> None:
    """Store, Collection, Batch and Receipt show names and versions, no value.

    The repr of a document shows the beginning of its value, for whoever asks for it; what `rich`
    prints of it, such as the variables of a traceback, does not.
    """
    views = store["views"]
    receipt = views.put("1", VALUE)
    document = views.read("1")
    views.put("3", {str(n): ["x" * 1000] * 100 for n in range(100)})
    with store.batch() as batch:
        batch.put("views", "2", VALUE)
        shown = [repr(batch)]
    assert_shows_no_content([store, views, receipt, batch])
    assert repr(views) == "Collection('views')"
    assert "key='1', version=1, value={'list': [" in repr(document)
    assert len(repr(views.read("3"))) < 1000
    assert CANARY not in pretty_repr(document)
    assert "version=1, durable_on='primary'" in repr(receipt)
    assert CANARY not in shown[0]


def assert_shows_no_content(things: list[Any]) -> None:
    printed = io.StringIO()
    console = Console(file=printed, width=10_000)
    for thing in things:
        console.print(thing)
        for text in (repr(thing), str(thing), f"{[thing]}", pretty_repr(thing)):
            assert CANARY not in text
    assert len(printed.getvalue()) > len(things)
    assert CANARY not in printed.getvalue()


def test_reprs_of_what_travels_to_a_backend(make_backend: Callable[[], Backend]) -> None:
    """Ops, outcomes, rows, images, changes and loads show what they are about, not what is in."""
    backend = make_backend()
    lane = make_lane()
    text = f'{{"text":"{CANARY}"}}'
    op = make_op(lane, 1, "put", "1", text)
    applied = backend.apply([op])
    assert applied.outcomes[0].text == text
    (row,) = backend.scan("things", Span())
    (stored,) = backend.dump("things")
    image = backend.images("things", ["1"])["1"]
    change = Change("1", 1, text=text)
    assert_shows_no_content(
        [
            *(op, applied, applied.outcomes[0], row, stored, image, change),
            Change("1", 1, image=image),
            Load("things", None, [("1", text)], [change]),
            LoadReport(1, {"1": 2}),
            RunRecord("run", "loaded", {"things": LoadReport(1)}),
            Outcome(1, "refused", 1, text, "conflict"),
            Current(text, 1),
            EmbeddedEngine(backend),
            backend,
        ]
    )
    assert "key='1', version=1" in repr(stored)
    assert "seq=1, kind='put', collection='things', key='1'" in repr(op)


def test_errors_of_a_load(make_backend: Callable[[], Backend]) -> None:
    """A stale plan names the collection and the key."""
    backend = make_backend()
    text = f'"{CANARY}"'
    backend.apply([make_op(make_lane(), 1, "put", "1", text)])
    for load in (
        Load("things", None, [("2", text), ("1", text)]),
        Load("things", None, [], [Change("1", 5, text)]),
    ):
        rejected(lambda x=load: backend.load("run", "loaded", [x]), MigrationError, "plan_stale")


def test_errors_about_damaged_text_in_sqlite(tmp_path: Path) -> None:
    """A stored text that is not JSON is CorruptData that names the document, for reads and ops."""
    path = tmp_path / "fallback.db"
    with Store(EmbeddedEngine(SqliteBackend(path))) as store:
        views = store["views"]
        views.put("1", VALUE)
        views.put("2", "fine")
        conn = apsw.Connection(str(path))
        conn.execute("UPDATE views SET data = ? WHERE key = '1'", (f'{{"a":"{CANARY}',))
        conn.close()
        calls: list[Callable[[], Any]] = [
            lambda: views.get("1"),
            lambda: views.read("1"),
            lambda: views.get_many(["2", "1"]),
            lambda: list(views.items()),
            lambda: list(views.find({})),
            lambda: views.patch("1", {}),
            lambda: views.append("1", "", 1),
            lambda: views.update("1", lambda value: value),
        ]
        for call in calls:
            rejected(call, CorruptData, "corrupt")
            with pytest.raises(CorruptData, match=r"'1' in `views`"):
                call()
        assert views.get("2") == "fine"
        assert views.put("1", 1).version == 3


def test_errors_about_damaged_text_leave_the_neighbours_alone(tmp_path: Path) -> None:
    """I6: an op on a damaged document is refused alone; the batch it came in goes on."""
    path = tmp_path / "fallback.db"
    backend = SqliteBackend(path)
    lane = make_lane()
    backend.apply([make_op(lane, 1, "put", "1", "1")])
    conn = apsw.Connection(str(path))
    conn.execute("UPDATE things SET data = ?", (CANARY,))
    conn.close()
    applied = backend.apply(
        [make_op(lane, 2, "increment", "1", "1"), make_op(lane, 3, "put", "2", "2")]
    )
    assert [(o.status, o.code) for o in applied.outcomes] == [
        ("refused", "corrupt"),
        ("applied", ""),
    ]
    assert CANARY not in applied.outcomes[0].message
    backend.close()


@pytest.mark.parametrize(
    "rule",
    [
        "CHECK (data->>'n' <> '1')",
        "UNIQUE (data)",
        "EXCLUDE USING btree ((data->>'n') WITH =)",
    ],
)
def test_errors_of_a_tables_own_rules(pg_database: str, rule: str) -> None:
    """A constraint of an adopted table refuses without its message, which repeats the row."""
    with psycopg.connect(pg_database) as conn:
        conn.execute(f"CREATE TABLE views (key text PRIMARY KEY, data jsonb NOT NULL, {rule})")
    with Store(EmbeddedEngine(PostgresBackend(parse_url(pg_database)))) as store:
        with pytest.raises(StandfastError) as caught:
            store["views"].put_many({"1": VALUE, "2": VALUE})
        assert_discreet(caught.value)
        assert store["views"].count() == 0


def test_errors_of_a_tables_own_trigger(pg_database: str) -> None:
    """A trigger that refuses a row with the row in its message is not quoted."""
    with psycopg.connect(pg_database) as conn:
        conn.execute("CREATE TABLE views (key text PRIMARY KEY, data jsonb NOT NULL)")
        conn.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no %', NEW.data; END $$"
        )
        conn.execute(
            "CREATE TRIGGER r BEFORE INSERT ON views FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    with Store(EmbeddedEngine(PostgresBackend(parse_url(pg_database)))) as store:
        with pytest.raises(StandfastError) as caught:
            store["views"].put("1", VALUE)
        assert_discreet(caught.value)


def test_no_password_is_shown(pg_database: str) -> None:
    """The display of a store, and errors about its connection, leave the password out."""
    target = parse_url(pg_database)
    password = target.params["password"]
    backend = PostgresBackend(target)
    wrong = PostgresBackend(parse_url(pg_database.rsplit("/", 1)[0] + "/no_such_database"))
    with Store(EmbeddedEngine(backend)) as store, Store(EmbeddedEngine(wrong)) as other:
        with pytest.raises(StandfastError) as caught:
            other["views"].get("1")
        for text in (
            *(repr(store), backend.display, repr(backend), repr(target)),
            *(str(caught.value), "".join(traceback.format_exception(caught.value))),
        ):
            assert password not in text
