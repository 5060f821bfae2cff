"""Set, remove, touch and deletions through an outage: replayed once, as operations, or recorded."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from standfast import Receipt, Unavailable
from standfast.api.sync import Collection, Store
from standfast.engine.embedded import EmbeddedEngine
from support.faulty import LOST, Link, Open, Opened, Server, after, before, cut_off, wait_direct
from support.outage import Outage

START = {"l": [1, 2], "n": 1, "gone": 0}


def others(server: Server, name: str = "c") -> Collection[Any]:
    return Store(EmbeddedEngine(server.database))[name]


def write_each(c: Collection[Any]) -> list[Any]:
    """One write of each new kind, to documents of their own, and what they return."""
    return [
        c.set("set", "/n", {"deep": 1}),
        c.remove("remove", "/l/0"),
        c.touch("touch", timedelta(hours=1)),
        *c.delete_many(["d1", "d2"]).values(),
    ]


def expected(start: dict[str, Any]) -> dict[str, Any]:
    return {
        "set": {**start, "n": {"deep": 1}},
        "remove": {**start, "l": start["l"][1:]},
        "touch": start,
    }


def seed(c: Collection[Any]) -> None:
    c.put_many(dict.fromkeys(("set", "remove", "touch", "d1"), START))


def test_each_kind_is_replayed_once(
    server: Server, link: Link, opened: Opened, c: Collection[Any]
) -> None:
    """I2: what was journaled is applied once, as it was acknowledged; the reads agree before."""
    engine = opened[1]
    seed(c)
    link.down = True
    receipts = write_each(c)
    assert [bool(receipt) for receipt in receipts] == [True, True, True, True, True]
    assert [receipt.durable_on for receipt in receipts] == ["journal"] * 5
    assert c.get_many(["set", "remove", "touch", "d1"]) == expected(START)
    assert not c.remove("remove", "/nothing")
    assert not c.delete("d1")
    known = c.read("touch")
    assert known is not None
    assert known.expires_at is not None
    link.down = False
    wait_direct(engine)
    assert dict(others(server).items()) == expected(START)
    there = others(server).read("touch")
    assert there is not None
    assert there.expires_at is not None
    assert abs(there.expires_at - known.expires_at) < timedelta(seconds=30)
    assert (there.version, server.database.conflicts()) == (2, [])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("way", ["again", "journal"])
def test_a_lost_reply_applies_each_once(
    server: Server, link: Link, opened: Opened, c: Collection[Any], when: Any, way: str
) -> None:
    """I2: the reply is lost, before or after it took effect; sent again, or by the journal."""
    engine = opened[1]
    seed(c)
    others(server).put("list", [0, 1, 2, 3])
    lost = before(LOST) if when == "before" else after(LOST)
    for call in (
        lambda: c.set("set", "/n", {"deep": 1}),
        lambda: c.remove("list", "/0"),
        lambda: c.touch("touch", 3600),
        lambda: c.delete_many(["d1"])["d1"],
    ):
        link.script = [lost if way == "again" else cut_off(link, when)]
        receipt = call()
        assert isinstance(receipt, Receipt)
        assert receipt
        wait_direct(engine)
    found = dict(others(server).items())
    assert found["list"] == [1, 2, 3]
    assert found["set"] == expected(START)["set"]
    assert "d1" not in found
    touched = others(server).read("touch")
    assert touched is not None
    assert (touched.version, touched.expires_at is None) == (2, False)


def test_two_directories_change_different_places(
    server: Server, open_it: Open, tmp_path: Path
) -> None:
    """I5: sets and removes of two directories in one document all take effect."""
    links = [Link(server), Link(server)]
    opened = [open_it(link, data_dir=tmp_path / str(n)) for n, link in enumerate(links)]
    for _, engine in opened:
        wait_direct(engine)
    seed(opened[0][0]["c"])
    for store, _ in opened:
        store["c"].get("set")
    for number, (store, _) in enumerate(opened):
        links[number].down = True
        store["c"].set("set", f"/from{number}", number)
        store["c"].remove("set", "/gone" if number else "/n")
    for number, (_, engine) in enumerate(opened):
        links[number].down = False
        wait_direct(engine)
    assert others(server).get("set") == {"l": [1, 2], "from0": 0, "from1": 1}
    assert {entry.state for entry in server.database.conflicts()} <= {"merged"}


def test_a_place_that_others_changed_is_a_conflict(
    server: Server, link: Link, opened: Opened, c: Collection[Any]
) -> None:
    """I5: who overwrites what others changed meanwhile wins, and both values are on record."""
    engine = opened[1]
    seed(c)
    link.down = True
    c.set("set", "/n", 2)
    c.set("remove", "/l/1", 9)
    c.delete("d1")
    c.touch("touch", 60)
    others(server).patch("set", {"n": 3})
    others(server).set("remove", "/l", [])
    others(server).patch("d1", {"n": 3})
    others(server).delete("touch")
    link.down = False
    wait_direct(engine)
    told = [(e.key, e.kind, e.reason, e.state) for e in server.database.conflicts()]
    assert told == [
        ("set", "set", "conflict", "open"),
        ("remove", "set", "bad_index", "open"),
        ("d1", "delete", "update_beats_delete", "merged"),
        ("touch", "touch", "deleted_meanwhile", "open"),
    ]
    assert [json.loads(e.mine or "null") for e in server.database.conflicts()][:2] == [2, 9]
    assert dict(others(server).items()) == {
        "set": {**START, "n": 2},
        "remove": {**START, "l": []},
        "d1": {**START, "n": 3},
    }


def test_a_touch_that_comes_late_puts_back_what_it_kept(
    server: Server, link: Link, opened: Opened, c: Collection[Any]
) -> None:
    """I1: a document that was kept alive during an outage is there after it; one whose last time
    to live is over is not."""
    engine = opened[1]
    c.put("kept", {"n": 1}, ttl_s=0.2)
    c.put("over", {"n": 1}, ttl_s=0.2)
    link.down = True
    c.touch("kept", 3600)
    c.touch("over", 0.3)
    while others(server).exists("kept") or c.exists("over"):
        pass
    assert c.get("kept") == {"n": 1}
    link.down = False
    wait_direct(engine)
    assert dict(others(server).items()) == {"kept": {"n": 1}}
    assert server.database.conflicts() == []


def test_deletions_without_keys_need_the_primary(
    server: Server, link: Link, opened: Opened, c: Collection[Any]
) -> None:
    """I4: which keys there are is said by the primary; provisionally by a mirror that has all."""
    store, engine = opened
    c.put_many({"a/1": 1, "a/2": 2, "b": 3})
    list(c.items())
    link.down = True
    c.put("a/3", 4)
    whole = (lambda: store.copy("c", "d"), lambda: store.rename("c", "d"))
    for call in (lambda: c.delete(prefix="a/"), c.clear, *whole):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "needs_primary"
    assert c.delete(prefix="a/", provisional=True) == 3
    assert dict(c.items()) == {"b": 3}
    link.down = False
    wait_direct(engine)
    assert dict(others(server).items()) == {"b": 3}


def test_an_independent_batch_in_an_outage(
    server: Server, link: Link, opened: Opened, c: Collection[Any]
) -> None:
    """I6: a write that needs the primary, or does not fit, is refused alone; the rest arrives."""
    store, engine = opened
    seed(c)
    link.down = True
    with store.batch(independent=True) as batch:
        batch.put("c", "new", 1, if_absent=True)
        batch.set("c", "set", "/n/deep", 1)
        batch.set("c", "set", "/n", 5)
        batch.remove("c", "remove", "/n")
    codes = [getattr(result, "code", "journaled") for result in batch.results]
    assert codes == ["needs_primary", "wrong_type", "journaled", "journaled"]
    assert "key 'new' in `c`" in str(batch.results[0])
    link.down = False
    wait_direct(engine)
    found = dict(others(server).items())
    assert (found["set"]["n"], "n" in found["remove"], "new" in found) == (5, False, False)


@pytest.mark.process
def test_each_kind_survives_a_kill(pg_database: str, tmp_path: Path) -> None:
    """I1: killed right after the receipts, reopened and replayed: every write is there once."""
    outage = Outage(pg_database, tmp_path)
    with outage.store() as store:
        seed(store["c"])
        store["c"].put("list", [0, 1, 2, 3])
    code = """
c = store["c"]
for key in ("set", "remove", "touch", "d1", "list"): c.get(key)
for number in range(2): c.remove("list", "/0")
c.set("set", "/n", {"deep": 1}); c.remove("remove", "/l/0"); c.touch("touch", 3600)
c.delete_many(["d1", "d2"])
"""
    with outage.away(), outage.app(code) as app:
        app.kill()
        app.wait()
    with outage.store() as store:
        store.flush(timeout_s=30)
        found = dict(store["c"].items())
        touched = store["c"].read("touch")
        assert touched is not None
        assert touched.expires_at is not None
        assert store.health().conflicts == {}
    assert found == {**expected(START), "list": [2, 3]}


# ---- clear, copy, rename, put_many(ttl_s)


@pytest.mark.parametrize("when", ["before", "after"])
def test_whole_collections_after_a_lost_reply(server: Server, open_it: Open, when: Any) -> None:
    """I2: clear, copy and rename are sent again under the same names: each document is moved once,
    and its version grows by one."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    documents = {str(n): {"n": n} for n in range(5)}
    receipts = {}
    for call in (
        lambda: receipts.update(store["c"].put_many(documents, ttl_s=3600)),
        lambda: store.copy("c", "copied"),
        lambda: store.rename("c", "moved"),
        lambda: store["copied"].clear(),
    ):
        link.script = [before(LOST) if when == "before" else after(LOST)]
        call()
        assert link.script == []
    assert all(receipts.values())
    there = list(Store(EmbeddedEngine(server.database))["moved"].find({}))
    assert {d.key: (d.value, d.version) for d in there} == {
        key: (value, 1) for key, value in documents.items()
    }
    assert all(d.expires_at is not None for d in there)
    assert store["copied"].count() == store["c"].count() == 0
    assert server.database.conflicts() == []


def test_whole_collections_that_were_cut_short(server: Server, open_it: Open) -> None:
    """I1: an outage in the middle of copy and rename loses nothing, and the same call again
    completes it; a clear, whose keys are known by then, is journaled."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    documents = {f"{n:04}": n for n in range(1200)}
    store["c"].put_many(documents)
    for call in (
        lambda: store.copy("c", "copied"),
        lambda: store.rename("copied", "moved"),
        lambda: store.rename("c", "kept"),
    ):
        link.script = [after(), after(LOST, lambda: setattr(link, "down", True))]
        with pytest.raises(Unavailable):
            call()
        link.down = False
        wait_direct(engine)
        call()
    link.script = [after(), after(LOST, lambda: setattr(link, "down", True))]
    assert store["moved"].clear() == len(documents)
    link.down = False
    wait_direct(engine)
    assert dict(others(server, "kept").items()) == documents
    assert others(server, "moved").count() == 0
    assert server.database.collections() == ["kept", "moved"]
    assert server.database.conflicts() == []


def test_a_clear_of_two_directories(server: Server, open_it: Open, tmp_path: Path) -> None:
    """I5: what one directory has cleared and another has put meanwhile is there, and expires."""
    links = [Link(server), Link(server)]
    opened = [
        open_it(link, data_dir=tmp_path / str(n), sole_writer=True) for n, link in enumerate(links)
    ]
    for _, engine in opened:
        wait_direct(engine)
    seed(opened[0][0]["c"])
    for store, _ in opened:
        list(store["c"].items())
    for link in links:
        link.down = True
    opened[1][0]["c"].put_many({"d1": 1, "new": 2}, ttl_s=timedelta(hours=1))
    assert opened[0][0]["c"].clear() == 4
    for link, (_, engine) in zip(reversed(links), reversed(opened), strict=True):
        link.down = False
        wait_direct(engine)
    found = {d.key: (d.value, d.expires_at is not None) for d in others(server).find(1)}
    assert found == {"d1": (1, True)}
    assert sorted(others(server)) == ["d1", "new"]
    told = [(e.key, e.kind, e.reason) for e in server.database.conflicts()]
    assert told == [("d1", "delete", "update_beats_delete")]


@pytest.mark.process
def test_whole_collections_survive_a_kill(pg_database: str, tmp_path: Path) -> None:
    """I1: killed in the middle of a rename, no document is in both collections or in none; the
    same call again completes it.  So does a copy, and a clear in an outage."""
    outage = Outage(pg_database, tmp_path)
    documents = {f"{n:04}": n for n in range(1100)}
    with outage.store(deadline_s=20) as store:
        store["c"].put_many(documents, ttl_s=3600)
    for call in ('store.rename("c", "d")', 'store.copy("d", "e")'):
        code = f"""
import threading
def work():
    while True:
        try: return {call}
        except standfast.Unavailable: pass  # a slow machine
threading.Thread(target=work, daemon=True).start()
"""
        with outage.app(code) as app:
            app.kill()
            app.wait()
        with outage.store(deadline_s=20) as store:
            if "rename" in call:
                assert store["c"].count() + store["d"].count() == len(documents)
            eval(call, {"store": store})
    with outage.store(deadline_s=20) as store:
        assert dict(store["e"].items()) == dict(store["d"].items()) == documents
        assert store.collections() == ["d", "e"]
    with outage.store(sole_writer=True) as store:
        list(store["e"])
    with outage.away(), outage.app('store["e"].clear(provisional=True)') as app:
        app.kill()
        app.wait()
    with outage.store(deadline_s=20) as store:
        store.flush(timeout_s=60)
        assert store["e"].count() == 0
        assert store.health().conflicts == {}
