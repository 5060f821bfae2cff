"""The export of a collection that has changed since it was a file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from standfast.api.sync import Collection, Store
from standfast.engine.embedded import EmbeddedEngine
from support.moving import Place


def collection(place: Place, name: str) -> Collection:
    return Store(EmbeddedEngine(place.backend))[name]


def test_a_collection_that_was_never_a_file_is_an_object(place: Place) -> None:
    """Documents that an application made are exported by their keys, in the order they came."""
    documents = {"b": {"x": 1.0}, "a": None, "": [2**70, -0.0]}
    for key, value in documents.items():
        collection(place, "made").put(key, value)
    assert json.loads(place.exported("made")) == documents
    assert list(json.loads(place.exported("made"))) == list(documents)


@pytest.mark.parametrize(
    "stray",
    [
        {"tag": "other"},
        {"tag": None},
        {},
        [],
        "text",
        {"tag": 7.0},
        {"tag": True},
        {"tag": 10**5000},
    ],
)
@pytest.mark.parametrize("lines", [False, True])
def test_records_that_lost_their_key_make_it_an_object(
    embedded: Place, lines: bool, stray: Any
) -> None:
    """A record whose field does not give its key any more would lose it: all become an object."""
    records = [{"tag": "a"}, {"tag": 7}]
    if lines:
        path = embedded.write("squad.jsonl", "\n".join(map(json.dumps, records)))
    else:
        path = embedded.write("squad.json", records)
    embedded.moved(path, key_field="tag")
    collection(embedded, "squad").put("b", {"tag": "b"})
    expected = [*records, {"tag": "b"}]
    exported = embedded.exported("squad")
    assert (
        [json.loads(line) for line in exported.splitlines()] == expected
        if lines
        else (json.loads(exported) == expected)
    )
    collection(embedded, "squad").put("b", stray)
    exported = embedded.exported("squad")
    assert exported.startswith('{\n"a":{"tag":"a"},\n"7":{"tag":7},\n"b":')
    assert embedded.documents("squad")["b"] == stray


@pytest.mark.parametrize(
    ("name", "text"), [("one.json", "[1, 2]"), ("one.json", '"text"'), ("one.jsonl", "1\n2\n")]
)
def test_a_single_document_with_company_is_an_object(place: Place, name: str, text: str) -> None:
    """A collection that was one document and got another is exported with both keys."""
    place.moved(place.write(name, text))
    alone = place.exported("one")
    collection(place, "one").put("more", {"x": 1})
    both = json.loads(place.exported("one"))
    assert list(both) == ["default", "more"]
    collection(place, "one").delete("more")
    assert place.exported("one") == alone
    collection(place, "one").delete("default")
    assert place.exported("one") == "{}\n"
    collection(place, "one").put("more", 1)
    assert json.loads(place.exported("one")) == {"more": 1}


def test_lines_whose_document_is_no_array_any_more_are_an_object(place: Place) -> None:
    """What was JSON Lines and was replaced by something else is told by its key."""
    place.moved(place.write("log.jsonl", "1\n2\n"))
    collection(place, "log").append("default", "", 3)
    assert place.exported("log") == "1\n2\n3\n"
    collection(place, "log").put("default", {"x": 1})
    assert json.loads(place.exported("log")) == {"default": {"x": 1}}


def test_documents_that_came_later_stand_behind(place: Place) -> None:
    """The order is that of creation: the file's, then what was added; a change moves nothing."""
    place.moved(place.write("views.json", {"z": 1, "m": 2, "a": 3}))
    collection(place, "views").put("b", 4)
    collection(place, "views").put("z", 5)
    assert place.exported("views") == '{\n"z":5,\n"m":2,\n"a":3,\n"b":4\n}\n'
