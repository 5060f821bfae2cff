"""Dropping a collection of a store whose primary is elsewhere: outages, lost replies, mirrors."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

import standfast
from standfast import DeadlineExceeded, Unavailable
from standfast.api.sync import Store
from standfast.engine.embedded import EmbeddedEngine
from standfast.errors import ConfigError
from support.faulty import (
    GONE,
    LOCKED,
    LOST,
    Link,
    Open,
    Server,
    eventually,
    fresh,
    wait_direct,
)
from support.killing import killed_at
from support.outage import Outage


def others(server: Server) -> Store:
    return Store(EmbeddedEngine(server.database))


def lose_reply(link: Link, *, takes_effect: bool, times: int = 1, then: Any = None) -> None:
    """The reply to a drop is lost, so many times; `then` happens after the first one."""
    left = [times]

    def drop(*args: Any, **options: Any) -> Any:
        link._reach()
        if not left[0]:
            return link.server.database.drop(*args, **options)
        left[0] -= 1
        if takes_effect:
            link.server.database.drop(*args, **options)
        if then is not None and left[0] == times - 1:
            then()
        link.connected = False
        raise fresh(LOST)

    link.drop = drop  # type: ignore[attr-defined]


def test_only_the_primary_drops(server: Server, open_it: Open) -> None:
    """I4: during an outage a drop needs the primary, changes nothing, and is not journaled."""
    link = Link(server)
    store, engine = open_it(link, sole_writer=True)
    wait_direct(engine)
    store["c"].put("k", 1)
    link.down = True
    store["c"].put("j", 2)
    with pytest.raises(Unavailable) as caught:
        store.drop("c")
    assert caught.value.code == "needs_primary"
    assert "`c`" in caught.value.message
    assert (store["c"].get("k"), store["c"].get("j")) == (1, 2)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(store.as_async().drop("c"))
    assert caught.value.code == "needs_primary"
    link.down = False
    wait_direct(engine)
    assert dict(others(server)["c"].items()) == {"k": 1, "j": 2}
    assert store.drop("c")


def test_the_mirror_knows_that_it_is_gone(server: Server, open_it: Open, tmp_path: Path) -> None:
    """I12: in an outage after a drop its documents are gone here, and not by a guess: what was
    put into the new collection is there.  No text of the old one stays in the files."""
    link = Link(server)
    store, engine = open_it(link, sole_writer=True)
    wait_direct(engine)
    c = store["c"]
    c.put_many({"a": "a secret text", "b": 2, "d": 3})
    store["other"].put("k", 1)
    list(c.items())
    assert store.drop("c")
    c.put("b", "new")
    link.down = True
    c.put("j", 2)
    assert (c.get("a"), c.get("b"), c.get("d")) == (None, "new", None)
    assert dict(c.items()) == {"b": "new", "j": 2}
    assert store["other"].get("k") == 1
    assert c.put("a", 5).durable_on == "journal"
    link.down = False
    wait_direct(engine)
    assert dict(others(server)["c"].items()) == {"a": 5, "b": "new", "j": 2}
    assert server.database.conflicts() == []
    assert store.drop("c")
    link.down = True
    assert c.put_if_absent("a", 1) is True  # judged by what is known here
    link.down = False
    wait_direct(engine)
    assert dict(others(server)["c"].items()) == {"a": 1}


@pytest.mark.parametrize("takes_effect", [True, False])
def test_a_lost_reply(server: Server, open_it: Open, takes_effect: bool) -> None:
    """I2: it is sent again, for the collection that was there at first."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 1)
    lose_reply(link, takes_effect=takes_effect)
    assert store.drop("c") is True
    assert "c" not in store.collections()
    assert store["c"].get("k") is None


def test_a_lost_reply_spares_what_others_made(server: Server, open_it: Open) -> None:
    """I2: what another process put under the name after the first attempt stays."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 1)
    lose_reply(link, takes_effect=True, then=lambda: others(server)["c"].put("k", "theirs"))
    assert store.drop("c") is True
    assert store["c"].get("k") == "theirs"


def test_an_unknown_outcome_is_said(server: Server, open_it: Open) -> None:
    """I4: where no answer comes, the outcome is unknown, and nothing is read from what it was."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 1)
    lose_reply(link, takes_effect=True, times=9, then=lambda: setattr(link, "down", True))
    with pytest.raises(DeadlineExceeded) as caught:
        store.drop("c")
    assert caught.value.code == "unknown_outcome"
    store["starter"].put("1", 1)
    with pytest.raises(Unavailable) as away:
        store["c"].get("k")
    assert away.value.code == "not_mirrored"
    link.down = False
    wait_direct(engine)
    assert store["c"].get("k") is None


def test_what_is_pending_comes_first(server: Server, open_it: Open) -> None:
    """I2: while acknowledged writes to it wait in the journal here, a drop is refused."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 1)
    server.locked.add(("c", "k"))
    link.down = True
    store["c"].put("k", 2)
    store["d"].put("k", 2)
    link.down = False
    eventually(
        lambda: engine.local_state.journal.totals().ops == 1 and str(engine.mode) == "direct"
    )
    with pytest.raises(Unavailable) as caught:
        store.drop("c")
    assert caught.value.code == "pending_writes"
    assert store.drop("d") is True
    server.locked.clear()
    wait_direct(engine)
    assert store["c"].get("k") == 2
    assert store.drop("c") is True


def test_writes_of_another_directory_make_it_again(
    server: Server, open_it: Open, tmp_path: Path
) -> None:
    """I5: what another directory has journaled arrives after the drop: whole documents are put
    back, changes of a document that is gone are conflicts.  Nothing is lost."""
    links = [Link(server), Link(server)]
    stores: list[Any] = []
    for number, link in enumerate(links):
        store, engine = open_it(link, data_dir=tmp_path / str(number))
        wait_direct(engine)
        stores.append((store, engine))
    (mine, _), (theirs, engine) = stores
    mine["c"].put_many({"put": 1, "patched": {"n": 1}, "counted": 1, "deleted": 1, "set": {}})
    for key in ("put", "patched", "counted", "deleted", "set"):
        theirs["c"].get(key)
    links[1].down = True
    theirs["c"].put("put", 2)
    theirs["c"].patch("patched", {"n": 2})
    theirs["c"].increment("counted", "")
    theirs["c"].set("set", "/a", 1)
    theirs["c"].delete("deleted")
    theirs["c"].put("fresh", 3)
    assert mine.drop("c")
    links[1].down = False
    wait_direct(engine)
    assert dict(mine["c"].items()) == {"put": 2, "fresh": 3}
    told = {entry.key: (entry.kind, entry.reason) for entry in server.database.conflicts()}
    assert {key: told[key] for key in ("patched", "counted", "set")} == {
        "patched": ("patch", "deleted_meanwhile"),
        "counted": ("increment", "deleted_meanwhile"),
        "set": ("set", "deleted_meanwhile"),
    }


def test_an_error_of_the_primary_is_not_an_outage(server: Server, open_it: Open) -> None:
    """I4: a lock that others hold is said, and the store stays direct."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 1)

    def drop(*_: Any, **__: Any) -> Any:
        raise fresh(LOCKED)

    link.drop = drop  # type: ignore[attr-defined]
    with pytest.raises(Unavailable) as caught:
        store.drop("c")
    assert caught.value.code == "locked"
    assert str(engine.mode) == "direct"
    assert store["c"].get("k") == 1
    assert GONE not in store.health().cause


def test_drops_while_others_write(pg_database: str, tmp_path: Path) -> None:
    """R17: writers in other processes' stores never fail because of drops, nor do their documents'
    versions ever fall."""
    failures: list[BaseException] = []
    stop = threading.Event()

    def write(store: Store, key: str) -> None:
        last = 0
        try:
            while not stop.is_set():
                version = store["c"].put(key, {"n": 1}).version or 0
                assert version > last
                last = version
                store["c"].increment(f"{key}n", "")
                store["c"].get(key)
        except BaseException as error:
            failures.append(error)

    with (
        standfast.open(pg_database, data_dir=tmp_path / "a", deadline_s=20) as a,
        standfast.open(pg_database, data_dir=tmp_path / "b", deadline_s=20) as b,
    ):
        threads = [
            threading.Thread(target=write, args=(one, str(n))) for n, one in ((1, a), (2, b))
        ]
        a["c"].put("0", 1)
        for thread in threads:
            thread.start()
        try:
            dropped = 0
            while dropped < 5 and not failures:
                dropped += a.drop("c")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        for store in (a, b):
            assert store.health().state == "direct"
            assert store.health().conflicts == {}


def test_a_real_outage_and_a_kill(pg_database: str, tmp_path: Path) -> None:
    """I12: killed right after a drop, reopened in an outage: the documents are gone."""
    outage = Outage(pg_database, tmp_path)
    code = """
c = store["c"]
c.put_many({"a": 1, "b": 2})
store.drop("c")
c.put("b", 3)
"""
    with outage.app(code) as app:
        app.kill()
        app.wait()
    with outage.away(), outage.store(sole_writer=True) as store:
        assert (store["c"].get("a"), store["c"].get("b")) == (None, 3)
        assert dict(store["c"].items()) == {"b": 3}
        with pytest.raises((Unavailable, ConfigError)) as caught:
            store.drop("c")
        assert caught.value.code == "needs_primary"
    with outage.store() as store:
        assert dict(store["c"].items()) == {"b": 3}


def test_a_drop_that_is_killed_has_changed_nothing(pg_database: str, tmp_path: Path) -> None:
    """A process killed between the table and its bookkeeping leaves the collection whole."""

    def opened(name: str) -> Store:
        return standfast.open(pg_database, data_dir=tmp_path / name, deadline_s=30)

    with opened("one") as store:
        before = store["c"].put("k", {"v": 1}).version

    def work() -> None:
        with opened("two") as store:
            store.drop("c")

    assert killed_at("pg-table-dropped", work)
    with opened("one") as store:
        assert store["c"].read("k").version == before
        assert store.drop("c")
        assert store["c"].get("k") is None
        assert (store["c"].put("k", 2).version or 0) > (before or 0)
