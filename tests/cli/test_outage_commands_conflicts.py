"""`conflicts`: what two data directories did to one document, listed, shown and resolved."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from standfast.api.opening import backend_for
from standfast.backends.postgres.backend import PostgresBackend
from standfast.config.settings import parse_url
from standfast.document.codec import decode, encode
from standfast.errors import Unavailable
from standfast.ops.types import ConflictRecord, Op
from support.cli import Ran
from support.commands import run
from support.moving import Place
from support.outage import Outage

BASE, MINE, THEIRS = {"v": "base"}, {"v": "mine"}, {"v": "theirs"}


def stored(outage: Outage, key: str = "a") -> str | None:
    """The exact text of a document."""
    backend = backend_for(parse_url(outage.url))
    try:
        row = backend.read("views", [key]).get(key)
        return row.text if row else None
    finally:
        backend.close()


def conflict(outage: Outage, kind: str) -> None:
    """Line 1 of the conflicts: one directory's write met another's, with `a` as the document."""
    with outage.store() as store:
        store["views"].put("a", {"list": [], "n": 0} if kind == "append" else BASE)
    with outage.away(), outage.store("new" if kind == "delete" else "storage") as store:
        views = store["views"]
        if kind == "put":
            views.put("a", MINE)
        elif kind == "patch":
            views.patch("a", MINE)
        elif kind == "append":
            views.append("a", "/list", "x")
        elif kind == "delete":
            views.delete("a")
    with outage.store("other") as store:
        if kind == "append":
            store["views"].delete("a")
        else:
            store["views"].put("a", THEIRS)
    ran = outage.run("journal", "drain", name="new" if kind == "delete" else "storage")
    assert ran.code == 0, ran.err
    assert "1 conflict(s) are open" in ran.err


def line(outage: Outage) -> dict[str, Any]:
    """Line 1 as `show` tells it."""
    document: dict[str, Any] = outage.run("conflicts", "show", "1", "--json").document
    return document


def resolve(outage: Outage, *words: str) -> Ran:
    return outage.run("conflicts", "resolve", "1", *words)


# ---- list and show


def test_a_database_without_conflicts(outage: Outage) -> None:
    """Exit 0 for the list, with and without a schema; a line that is not there is exit 1."""
    for _ in range(2):
        ran = outage.run("conflicts", "list", "--json")
        assert (ran.code, ran.document) == (0, {"open": 0, "conflicts": []})
        for words in (["show", "1"], ["resolve", "1", "--dismiss"]):
            ran = outage.run("conflicts", *words, "--json")
            assert (ran.code, ran.document["error"]["code"]) == (1, "no_entry")
        with outage.store() as store:
            store["views"].put("a", 1)


def test_the_list_and_the_line(outage: Outage) -> None:
    """The list has everything but contents, exit 1 while one is open; `show` has both sides."""
    conflict(outage, "put")
    ran = outage.run("conflicts", "list", "--json")
    (found,) = ran.document["conflicts"]
    assert (ran.code, ran.document["open"], found["id"]) == (1, 1, 1)
    assert (found["collection"], found["key"], found["kind"]) == ("views", "a", "put")
    assert (found["reason"], found["state"]) == ("conflict", "open")
    assert not found.keys() & {"base", "mine", "theirs"}
    ran = outage.run("conflicts", "list")
    assert (ran.code, len(ran.out.splitlines())) == (1, 1)
    assert "theirs" not in ran.said
    shown = line(outage)
    assert (shown["base"], shown["mine"], shown["theirs"]) == (BASE, MINE, THEIRS)
    assert shown["version"] == json.loads(outage.run("get", "views", "a", "--json").out)["version"]
    ran = outage.run("conflicts", "show", "1")
    assert 'theirs      {"v":"theirs"}\n' in ran.out
    assert ran.err == ""


def test_the_list_goes_on_page_by_page(outage: Outage) -> None:
    """--limit and --after lead through all lines; --all shows the resolved ones too."""
    keys = ["a", "b", "c"]
    for name, value in (("storage", BASE), ("other", THEIRS)):
        if name == "other":
            with outage.away(), outage.store() as store:
                for key in keys:
                    store["views"].put(key, MINE)
        with outage.store(name) as store:
            store["views"].put_many(dict.fromkeys(keys, value))
            if name == "other":
                break
    outage.run("journal", "drain")
    seen: list[str] = []
    after = "0"
    while found := outage.run(
        *("conflicts", "list", "--limit", "2", "--after", after, "--json")
    ).document["conflicts"]:
        seen += [entry["key"] for entry in found]
        after = str(found[-1]["id"])
    assert seen == keys
    for number in "123":
        assert outage.run("conflicts", "resolve", number, "--dismiss").code == 0
    ran = outage.run("conflicts", "list", "--json")
    assert (ran.code, ran.document["conflicts"]) == (0, [])
    ran = outage.run("conflicts", "list", "--all", "--json")
    assert (ran.code, len(ran.document["conflicts"])) == (0, 3)


# ---- resolve


@pytest.mark.parametrize("kind", ["put", "patch", "delete"])
@pytest.mark.parametrize("side", ["mine", "theirs", "base"])
def test_taking_a_side(outage: Outage, kind: str, side: str) -> None:
    """The document becomes that side's, whatever it was, and the line is resolved with it."""
    conflict(outage, kind)
    outage.run("put", "views", "a", '{"v": "since"}')
    ran = resolve(outage, "--take", side, "--json")
    if kind == "delete" and side == "base":
        assert (ran.code, ran.document["error"]["code"]) == (2, "no_base")
        assert line(outage)["state"] == "open"
        return
    assert (ran.code, ran.document["resolution"]) == (0, side)
    expected = {"mine": MINE, "theirs": THEIRS, "base": BASE}[side]
    text = stored(outage)
    if kind == "delete" and side == "mine":
        assert text is None
    else:
        assert text is not None
        assert json.loads(text) == expected
    assert (line(outage)["state"], line(outage)["resolution"]) == ("resolved", side)


def test_a_parked_append_is_applied_again(outage: Outage) -> None:
    """--take mine of an append does it anew, at its place, on the document that is there now."""
    conflict(outage, "append")
    shown = line(outage)
    assert (shown["kind"], shown["reason"]) == ("append", "deleted_meanwhile")
    assert (shown["pointer"], shown["mine"], shown["version"]) == ("/list", "x", 0)
    outage.run("put", "views", "a", '{"list": ["y"]}')
    ran = resolve(outage, "--take", "mine", "--json")
    assert (ran.code, ran.document["resolution"]) == (0, "mine")
    assert stored(outage) == '{"list":["y","x"]}'
    assert resolve(outage, "--take", "mine").code == 1
    assert stored(outage) == '{"list":["y","x"]}'


def test_an_append_that_does_not_fit_stays_open(outage: Outage) -> None:
    """Refused by the document as it is: exit 4, the line is open, and can be resolved later."""
    conflict(outage, "append")
    outage.run("put", "views", "a", '{"list": 5}')
    ran = resolve(outage, "--take", "mine")
    assert ran.code == 4
    assert "--value" in ran.err
    assert line(outage)["state"] == "open"
    outage.run("put", "views", "a", '{"list": []}')
    assert resolve(outage, "--take", "mine").code == 0
    assert stored(outage) == '{"list":["x"]}'


def test_a_value_of_ones_own_keeps_its_text(outage: Outage) -> None:
    """--value puts this JSON, every token as it was written; what is no JSON changes nothing."""
    conflict(outage, "put")
    before = stored(outage)
    ran = resolve(outage, "--value", "{nope c4n4ry}")
    assert ran.code == 4
    assert "c4n4ry" not in ran.said
    assert stored(outage) == before
    text = '{"z":1.0e2,"a":"\\u0000\\ud800","n":123456789012345678901234567890}'
    ran = resolve(outage, "--value", text)
    assert ran.code == 0
    assert "c4n4ry" not in ran.said
    assert stored(outage) == text
    assert line(outage)["resolution"] == "value"


def test_a_dismissed_line_changes_no_document(outage: Outage) -> None:
    """--dismiss marks the line, and the document keeps its version."""
    conflict(outage, "put")
    version = line(outage)["version"]
    ran = resolve(outage, "--dismiss", "--json")
    assert (ran.code, ran.document["version"]) == (0, None)
    shown = line(outage)
    assert (shown["version"], shown["resolution"]) == (version, "dismissed")
    assert outage.run("conflicts", "list").code == 0


def test_a_document_that_moved_since_is_not_overwritten(outage: Outage) -> None:
    """--if-version: exit 1 when it has another one, the line stays open; then it works."""
    conflict(outage, "put")
    version = line(outage)["version"]
    outage.run("put", "views", "a", '"newer"')
    ran = resolve(outage, "--take", "theirs", "--if-version", str(version), "--json")
    assert (ran.code, ran.document["error"]["code"]) == (1, "conflict")
    assert stored(outage) == '"newer"'
    assert line(outage)["state"] == "open"
    version = line(outage)["version"]
    assert resolve(outage, "--take", "theirs", "--if-version", str(version)).code == 0
    assert stored(outage) == '{"v":"theirs"}'


def test_one_decision_and_only_once(outage: Outage) -> None:
    """None or two decisions: exit 2.  Resolved already: exit 1, and the document is left alone."""
    conflict(outage, "put")
    for words in (
        [],
        ["--dismiss", "--take", "mine"],
        ["--value", "1", "--take", "mine"],
        ["--dismiss", "--if-version", "1"],
        ["--take", "nobody"],
    ):
        assert resolve(outage, *words).code == 2
    assert resolve(outage, "--take", "theirs").code == 0
    for words in (["--take", "mine"], ["--value", "1"], ["--dismiss"]):
        ran = resolve(outage, *words, "--json")
        assert (ran.code, ran.document["error"]["code"]) == (1, "not_open")
    assert stored(outage) == '{"v":"theirs"}'


def test_a_line_is_resolved_only_after_the_write(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write fails: the line is open.  The mark fails: again, and it takes effect once."""
    conflict(outage, "append")
    outage.run("put", "views", "a", '{"list": []}')

    def lost(*_: object, **__: object) -> None:
        raise Unavailable("the connection was lost", code="connection_lost")

    for name in ("apply", "resolve_conflict"):
        with monkeypatch.context() as patch:
            patch.setattr(PostgresBackend, name, lost)
            assert resolve(outage, "--take", "mine").code == 3
        assert line(outage)["state"] == "open"
    assert resolve(outage, "--take", "mine").code == 0
    assert stored(outage) == '{"list":["x"]}'


def test_two_people_at_once(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one, who saw the line open, is told, and does not append once more."""
    conflict(outage, "append")
    outage.run("put", "views", "a", '{"list": []}')
    found = PostgresBackend.conflicts
    first: list[Ran] = []

    def meanwhile(self: PostgresBackend, **options: Any) -> list[ConflictRecord]:
        entries = found(self, **options)
        if not first:
            first.append(Ran(-1, "", ""))
            first[0] = resolve(outage, "--take", "mine")
        return entries

    monkeypatch.setattr(PostgresBackend, "conflicts", meanwhile)
    second = resolve(outage, "--take", "mine")
    assert (first[0].code, second.code) == (0, 1)
    assert "conflict 1 is not open, it is resolved (mine)" in second.err
    assert stored(outage) == '{"list":["x"]}'


def test_a_merged_line_needs_no_decision(outage: Outage) -> None:
    """What was merged without a loss is only listed with --all, and cannot be resolved."""
    with outage.store() as store:
        store["views"].put("a", {"x": 1, "y": 1})
    with outage.away(), outage.store() as store:
        store["views"].put("a", {"x": 2, "y": 1})
    with outage.store("other") as store:
        store["views"].put("a", {"x": 1, "y": 2})
    assert outage.run("journal", "drain").code == 0
    assert stored(outage) == '{"x":2,"y":2}'
    assert outage.run("conflicts", "list").code == 0
    (found,) = outage.run("conflicts", "list", "--all", "--json").document["conflicts"]
    assert found["state"] == "merged"
    assert resolve(outage, "--take", "mine").code == 1
    assert stored(outage) == '{"x":2,"y":2}'


def test_an_embedded_store_has_a_ledger_too(embedded: Place) -> None:
    """Conflicts of a put with `base=` on SQLite: listed, shown and resolved the same way."""
    import standfast

    with standfast.open(embedded.url, data_dir=embedded.data_dir) as store:
        store["views"].put("a", BASE)
        base = store["views"].read("a")
        store["views"].put("a", THEIRS)
        store["views"].put("a", MINE, base=base)
    assert run(embedded, "status").code == 1
    (found,) = run(embedded, "conflicts", "list", "--json").document["conflicts"]
    shown = run(embedded, "conflicts", "show", str(found["id"]), "--json").document
    assert (shown["base"], shown["mine"], shown["theirs"]) == (BASE, MINE, THEIRS)
    assert run(embedded, "conflicts", "resolve", str(found["id"]), "--take", "theirs").code == 0
    assert run(embedded, "get", "views", "a").out == '{"v":"theirs"}\n'
    assert run(embedded, "status").code == 0


def test_a_pointer_of_all_of_unicode_is_kept(place: Place) -> None:
    """An append whose member name no text column could hold is rejected, and applied again."""
    pointer = "/a\u0000\ud800~1é"
    name = decode('"a\\u0000\\ud800/é"')
    op = Op(
        lane=str(uuid.uuid4()),
        seq=1,
        kind="append",
        collection="views",
        key="a",
        body="1",
        pointer=pointer,
        replay=True,
        seen="present",
    )
    (outcome,) = place.backend.apply([op]).outcomes
    assert outcome.status == "rejected"
    run(place, "put", "views", "a", encode({name: [0]}))
    ran = run(place, "conflicts", "show", "1", "--json")
    assert ran.document["pointer"] == pointer
    assert run(place, "conflicts", "show", "1").code == 0
    assert run(place, "conflicts", "resolve", "1", "--take", "mine").code == 0
    assert place.documents("views") == {"a": {name: [0, 1]}}
