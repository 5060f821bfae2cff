"""Which documents a file becomes: objects, records, lines, single values, the older layout."""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path
from typing import Any

import pytest

from standfast.errors import DataError
from standfast.migrate.read_file import Contents, ReadOptions, read_contents
from support.moving import Place


def read(content: str | bytes | object, name: str = "x.json", **options: Any) -> Contents:
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    data = content.encode() if isinstance(content, str) else content
    return read_contents(data, name, ReadOptions(**options))


def refusal(content: str | bytes | object, name: str = "x.json", **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        read(content, name, **options)
    return caught.value


# ---- objects


def test_an_object_is_one_document_for_each_member(place: Place) -> None:
    """Collection = the file's stem, key = the member's name, whatever type the values have."""
    content = {"8138": {"mode": "normal"}, "": [], "é": None, "x": "text", "n": -0.0, "b": True}
    place.moved(place.write("views.json", content))
    assert place.documents("views") == content
    assert list(place.documents("views")) == list(content)
    assert json.loads(place.exported("views")) == content


@pytest.mark.parametrize("text", ["{}", " {\n} ", "[]", "[ ]"])
def test_an_empty_container_comes_back_as_it_was(place: Place, text: str) -> None:
    """A file that holds nothing is data too: an empty collection of its own form."""
    place.moved(place.write("nothing.json", text))
    assert place.backend.collections() == ["nothing"]
    assert json.loads(place.exported("nothing")) == json.loads(text)


def test_an_empty_array_of_records_stays_an_array_of_records(place: Place) -> None:
    """`[]` with --key holds no record, and adds no document `default` to those in the database."""
    place.moved(place.write("players.json", [{"tag": "a"}]), key_field="tag")
    place.moved(place.write("players.json", []), key_field="tag")
    assert json.loads(place.exported("players")) == [{"tag": "a"}]


# ---- arrays of records


@pytest.mark.parametrize("ids", [["b", "a", "9"], [2, 1, -7, 10**30], ["x", 3]])
def test_records_with_an_id_are_documents(place: Place, ids: list[Any]) -> None:
    """An array of records is keyed by `id`, a string or an integer, and comes back as it was."""
    records = [{"name": "n", "id": each, "more": [each]} for each in ids]
    place.moved(place.write("players.json", records))
    assert list(place.documents("players")) == [str(each) for each in ids]
    assert json.loads(place.exported("players")) == records


def test_key_names_another_field(place: Place) -> None:
    """--key FIELD makes one document of each record; the field is remembered for the export."""
    records = [{"id": 1, "tag": "b"}, {"id": 1, "tag": "a"}]
    place.moved(place.write("players.json", records), key_field="tag")
    assert list(place.documents("players")) == ["b", "a"]
    assert json.loads(place.exported("players")) == records
    assert place.backend.form("players").key_field == "tag"


@pytest.mark.parametrize(
    "content",
    [[1, 2], [{"id": 1}, 2], [{"id": 1}, {}], [{"id": 1.5}], [{"id": True}], [{"id": None}], [[]]],
)
def test_other_arrays_are_one_document(place: Place, content: Any) -> None:
    """An array that is not all records with an id is kept whole, and the plan says so."""
    path = place.write("list.json", content)
    (collection,) = place.plan(path).collections
    assert any("--key FIELD" in note for note in collection.notes)
    place.moved(path)
    assert place.documents("list") == {"default": content}
    assert json.loads(place.exported("list")) == content


@pytest.mark.parametrize(
    ("content", "where", "path", "code", "what"),
    [
        ('[{"tag":"a"},\n {"tag":"b"},\n {}]', "x.json:3:2", "$[2].tag", "no_key", "is nothing"),
        ('[{"tag":"a"}, 7]', "x.json:1:15", "$[1]", "no_key", "number is not a record"),
        ('[{"tag":null}]', "x.json:1:2", "$[0].tag", "no_key", "is null"),
        ('[{"tag":1.0}]', "x.json:1:2", "$[0].tag", "no_key", "is number"),
        ('[{"tag":true}]', "x.json:1:2", "$[0].tag", "no_key", "is boolean"),
        ('[{"tag":"\\u0000"}]', "x.json:1:2", "$[0].tag", "no_key", "cannot be a key"),
        ('[{"tag":"\\ud800"}]', "x.json:1:2", "$[0].tag", "no_key", "cannot be a key"),
        ('[{"tag":1},{"tag":"1"}]', "x.json:1:12", "$[1].tag", "duplicate_key", "`$[0]`"),
        ('[{"tag":1e5},{"tag":"1"}]', "x.json:1:2", "$[0].tag", "no_key", "is number"),
    ],
)
def test_a_record_that_key_does_not_name_is_refused(
    content: str, where: str, path: str, code: str, what: str
) -> None:
    """With --key, a record without that key, or with another's, is refused at its place."""
    error = refusal(content, key_field="tag")
    assert (error.code, error.where, error.path) == (code, where, path)
    assert what in error.message
    assert error.message.startswith(f"{where}: ")
    assert "--whole" in error.hint


def test_duplicate_ids_are_refused_without_key_too() -> None:
    """Two records of one id would be one document: refused, never one of them dropped."""
    error = refusal('[\n{"id": 5},\n{"id": "5"}]')
    assert (error.code, error.where) == ("duplicate_key", "x.json:3:1")


# ---- JSON Lines


@pytest.mark.parametrize("name", ["log.jsonl", "log.ndjson", "LOG.JSONL"])
def test_lines_of_records_are_documents(place: Place, name: str) -> None:
    """JSON Lines: one document for each line; blank lines, CRLF and a BOM are no lines of it."""
    text = '{"id": 2, "at": 1.0e2}\r\n\r\n  \t\n{"id": 1}\n\n'
    place.moved(place.write(name, codecs.BOM_UTF8 + text.encode()), collection="log")
    assert list(place.documents("log")) == ["2", "1"]
    assert place.exported("log") == '{"id":2,"at":1.0e2}\n{"id":1}\n'


def test_lines_without_keys_are_one_document_and_come_back_as_lines(place: Place) -> None:
    """Lines that nothing names are an array under `default`; each keeps its exact text."""
    place.moved(place.write("log.jsonl", '{"at": 1.0e2}\n[1, 2]\n"three"'))
    assert place.documents("log") == {"default": [{"at": 100.0}, [1, 2], "three"]}
    assert place.exported("log") == '{"at":1.0e2}\n[1,2]\n"three"\n'


def test_a_bad_line_is_named_by_its_number() -> None:
    """The error of a line has the line's number in the file, and the column in the line."""
    error = refusal('{"id": 1}\r\n\r\n{"id": 2,}\r\n', "a: b.jsonl")
    assert error.where == "a: b.jsonl:3:9"
    assert error.message.startswith("a: b.jsonl:3:9: a comma")


@pytest.mark.parametrize(
    ("text", "where", "code"),
    [
        ('{"tag": 1}\n{"tag": 1}', "x.jsonl:2:1", "duplicate_key"),
        ('{"tag": 1}\n\n\n{"tug": 1}', "x.jsonl:4:1", "no_key"),
        ('{"tag": 1}\n7', "x.jsonl:2:1", "no_key"),
        ("\n \n", "x.jsonl:1:1", "empty"),
        ("", "x.jsonl:1:1", "empty"),
        ('{"tag": 1}\n{"ta', "x.jsonl:2:2", "truncated"),
    ],
)
def test_lines_are_refused_at_their_place(text: str, where: str, code: str) -> None:
    """Whatever is wrong with a record of JSON Lines is told with the number of its line."""
    error = refusal(text, "x.jsonl", key_field="tag")
    assert (error.where, error.code) == (where, code)


def test_lines_that_are_too_deep_together_name_the_line() -> None:
    """Lines of 256 levels fit alone, but not in the array that holds them: the error says where."""
    deep = "[" * 256 + "]" * 256
    error = refusal(f"1\n\n{deep}\n", "x.jsonl")
    assert (error.where, error.code) == ("x.jsonl:3:1", "too_deep")
    assert "--key" in error.hint
    keyed = '{"id": 1, "x": ' + "[" * 255 + "]" * 255 + "}"
    assert len(read(keyed, "x.jsonl").documents) == 1


# ---- single documents


@pytest.mark.parametrize("content", [None, True, 0, -0.0, 10**400, "text", "", 1.5])
def test_a_scalar_is_one_document(place: Place, content: Any) -> None:
    """A file may hold any JSON value; a scalar is the document `default`."""
    place.moved(place.write("single.json", json.dumps(content)))
    assert place.documents("single") == {"default": content}
    assert json.loads(place.exported("single")) == content


@pytest.mark.parametrize("content", [{"a": {}, "b": 1.5}, [{"id": 1}], {}, []])
def test_whole_keeps_a_file_as_one_document(place: Place, content: Any) -> None:
    """--whole: whatever the file holds is one document under `default`."""
    place.moved(place.write("settings.json", content), whole=True)
    assert place.documents("settings") == {"default": content}
    assert json.loads(place.exported("settings")) == content


# ---- the older layout


GUILDS = {"8138": {"mode": "normal", "message_id": 9007199254740993}, "8139": {"mode": "doubleup"}}


def test_the_older_layout_of_a_file_is_recognised(place: Place) -> None:
    """A file with everything under `default` is kept so, and the plan names --split-default."""
    path = place.write("views.json", {"default": GUILDS})
    (collection,) = place.plan(path).collections
    assert "--split-default makes 2 documents" in " ".join(collection.notes)
    place.moved(path)
    assert place.documents("views") == {"default": GUILDS}


def test_the_older_layout_of_a_file_is_split_when_asked(place: Place) -> None:
    """--split-default: one document for each guild, with exact message ids."""
    place.moved(place.write("views.json", {"default": GUILDS}), split_default=True)
    assert place.documents("views") == GUILDS


def test_the_older_layout_of_the_table_is_split_when_asked(place: Place) -> None:
    """--split-default splits the table's row `default` too: what only it has is kept."""
    place.moved(place.write("views.json", {"default": GUILDS}))
    fresh = {"8138": GUILDS["8138"], "8140": {"mode": "new"}}
    path = place.write("views.json", fresh)
    assert "--split-default" in " ".join(place.plan(path).collections[0].notes)
    place.moved(path, split_default=True)
    assert place.documents("views") == GUILDS | fresh


def test_a_differing_guild_of_the_older_layout_needs_a_decision(place: Place) -> None:
    """A guild that file and row `default` hold differently follows --on-conflict."""
    place.moved(place.write("views.json", {"default": GUILDS}))
    path = place.write("views.json", {"8139": {"mode": "changed"}})
    before = place.snapshot()
    assert not place.migrate(path, split_default=True).green
    assert place.snapshot() == before
    place.moved(path, split_default=True, on_conflict="database")
    assert place.documents("views") == GUILDS


def test_a_member_default_among_others_is_no_older_layout() -> None:
    """`default` beside other members, or without objects inside, is an ordinary key."""
    others: list[Any] = [{"a": {}, "b": 1}, {"a": 1}, {}, [], None]
    for content in ({"default": GUILDS, "other": {}}, *({"default": each} for each in others)):
        contents = read(content, split_default=True)
        assert [key for key, _ in contents.documents] == list(content)
        assert contents.notes == ()


# ---- encodings


@pytest.mark.parametrize(
    ("encoding", "mark", "note"),
    [
        ("utf-8", b"", ()),
        ("utf-8", codecs.BOM_UTF8, ("decoded as utf-8-sig",)),
        ("utf-16-le", codecs.BOM_UTF16_LE, ("decoded as utf-16",)),
        ("utf-16-be", codecs.BOM_UTF16_BE, ("decoded as utf-16",)),
        ("utf-16-le", b"", ("decoded as utf-16-le",)),
        ("utf-16-be", b"", ("decoded as utf-16-be",)),
        ("utf-32-le", codecs.BOM_UTF32_LE, ("decoded as utf-32",)),
        ("utf-32-be", b"", ("decoded as utf-32-be",)),
    ],
)
@pytest.mark.parametrize("text", ['{"ключ": "\U0001f600é"}', '["é"]', '"中"', "1"])
def test_encodings_are_decoded_and_reported(
    text: str, encoding: str, mark: bytes, note: tuple[str, ...]
) -> None:
    """UTF-8, -16 and -32, with and without a BOM, are decoded; all but plain UTF-8 is reported."""
    contents = read(mark + text.encode(encoding))
    assert contents.notes[: len(note)] == note
    assert json.loads(read(text).documents[0][1]) == json.loads(contents.documents[0][1])


# ---- links


def test_a_link_stands_for_its_file(embedded: Place) -> None:
    """A link to a file is that file: its name, its bytes; the link itself is left alone."""
    real = embedded.write("real/views.json", {"a": 1})
    link = embedded.root / "link.json"
    link.symlink_to(real)
    result = embedded.moved(link, real)
    assert [source.collection for source in result.plan.sources] == ["views"]
    assert embedded.documents("views") == {"a": 1}
    assert not real.exists()
    assert link.is_symlink()
    assert embedded.plan(link).notes == [f"{link}: already migrated by run {result.run}"]
    embedded.write("other.json", {})
    (left_out,) = embedded.plan(embedded.root).found.left_out[:1]
    assert (left_out.path.name, left_out.reason[:6]) == ("link.json", "a link")


# ---- names


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("my-views.json", "my_views"),
        ("views.v2.json", "views_v2"),
        ("2024.json", "c_2024"),
        ("настройки.json", "nastroyki_"),
        ("a b!.json", "a_b"),
        ("x" * 60 + ".json", "x" * 43),
    ],
)
def test_a_name_that_is_no_identifier_gives_one(
    embedded: Place, name: str, suggestion: str
) -> None:
    """A file whose name cannot name a table gets one that can; the plan shows it."""
    path = embedded.write(name, {"a": 1})
    (source,) = embedded.moved(path).plan.sources
    assert source.collection.startswith(suggestion)
    assert embedded.documents(source.collection) == {"a": 1}


def test_a_name_that_is_no_text_is_refused(embedded: Place) -> None:
    """A file whose name is not UTF-8 is refused before anything is written."""
    path = embedded.root / os.fsdecode(b"caf\xe9.json")
    path.write_text("{}")
    (problem,) = embedded.plan(path, collection="cafe").problems
    assert problem.error.code == "bad_name"
    assert "\udce9" not in problem.error.message


@pytest.mark.parametrize("names", [("views", "views"), ("views", "VIEWS")])
def test_two_files_of_one_collection_are_refused(embedded: Place, names: tuple[str, str]) -> None:
    """The second file of a collection (in letters of any case) is a problem; it names the first."""
    paths = [embedded.write(name, '{"a": 1}') for name in ("one.json", "two.json")]
    plan = embedded.plan(*paths, names={str(paths[0]): names[0], str(paths[1]): names[1]})
    (problem,) = plan.problems
    assert problem.error.code == "same_collection"
    assert str(paths[0]) in problem.error.message
    assert "--name" in problem.error.hint


def test_the_same_file_twice_is_one_file(embedded: Place, monkeypatch: Any) -> None:
    """A file that is named twice, in whatever way, is read once."""
    path = embedded.write("views.json", {"a": 1})
    monkeypatch.chdir(embedded.root)
    plan = embedded.plan(path, Path("views.json"), Path("./views.json"), embedded.root)
    assert [source.path for source in plan.sources] == [path.resolve()]
    assert plan.problems == []
