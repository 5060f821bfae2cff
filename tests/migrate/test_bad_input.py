"""Bad input: one clear error with its place, the right exit code, and nothing changed."""

from __future__ import annotations

import codecs
import json
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from standfast.document import codec
from standfast.errors import ConfigError, DataError
from standfast.migrate.read_file import ReadOptions, read_contents
from support.cli import Ran, run_cli
from support.moving import Place

GOOD = '{"a": {"x": [1, 2.5, "text"], "y": null}, "b": {"z": true}}'
CANARY = "c4n4ry-7391"

#: What a file holds, the code of its error, its line:column and its path.
BAD: dict[str, tuple[str | bytes, str, str, str]] = {
    "empty": ("", "empty", "1:1", "$"),
    "blank": (" \n\t\n", "empty", "1:1", "$"),
    "only a BOM": (codecs.BOM_UTF8, "empty", "1:1", "$"),
    "NUL-filled": (bytes(4096), "nul_filled", "1:1", "$"),
    "one NUL": (b"\x00", "nul_filled", "1:1", "$"),
    "NUL head": (bytes(512) + b'{"a": 1}', "nul_filled", "1:1", "$"),
    "NUL tail": (GOOD + "\x00" * 512, "nul_filled", "1:60", "$"),
    "NUL tail after a cut": ('{"a": {"x": [1' + "\x00" * 512, "nul_filled", "1:15", "$.a.x[0]"),
    "NUL inside": ('{"a": "' + "\x00" * 8 + '"}', "nul_filled", "1:8", "$.a"),
    "not UTF-8": (b'{"a":\n "caf\xe9"}', "bad_encoding", "2:6", "$"),
    "half a character": ('{"a": "é'.encode()[:-1], "truncated", "1:8", "$"),
    "half of UTF-16": ('{"a": 1}'.encode("utf-16")[:-1], "truncated", "1:8", "$"),
    "a lone surrogate in UTF-16": (
        *('"\ud800"'.encode("utf-16", "surrogatepass"), "bad_encoding"),
        *("1:2", "$"),
    ),
    "NaN": ('{"a": [1, NaN]}', "not_finite", "1:11", "$.a[1]"),
    "Infinity": ('{"a": -Infinity}', "not_finite", "1:7", "$.a"),
    "a number beyond all floats": ('{"a": 1e999}', "number_range", "1:7", "$.a"),
    "duplicate top-level names": ('{"a": 1,\n "a": 1}', "duplicate_key", "2:2", "$.a"),
    "duplicate names": ('{"a": {"b": 1, "b": 2}}', "duplicate_key", "1:16", "$.a.b"),
    "duplicate escaped names": ('{"a": 1, "\\u0061": 1}', "duplicate_key", "1:10", "$.a"),
    "a line comment": ('{"a": 1 // why\n}', "comment", "1:9", "$.a"),
    "a block comment": ('/* why */ {"a": 1}', "comment", "1:1", "$"),
    "a trailing comma": ('{"a": [1, 2,\n ]}', "trailing_comma", "1:12", "$.a[1]"),
    "single quotes": ("{'a': 1}", "single_quotes", "1:2", "$"),
    "a bare name": ("{a: 1}", "not_json", "1:2", "$"),
    "Python": ('{"a": None}', "not_json", "1:7", "$.a"),
    "a leading zero": ('{"a": 01}', "not_json", "1:7", "$.a"),
    "a missing comma": ('{"a": 1 "b": 2}', "not_json", "1:9", "$.a"),
    "two values": ('{"a": 1}\n{"b": 2}', "extra_data", "2:1", "$"),
    "a control character": ('{"a": "\x01"}', "control_character", "1:8", "$.a"),
    "a bad escape": ('{"a": "\\x41"}', "bad_escape", "1:8", "$.a"),
    "too deep": ("[" * 300 + "]" * 300, "too_deep", "1:258", "$" + "[0]" * 257),
    "a key with NUL": ('{"a": 1, "\\u0000": 2}', "bad_key", "1:10", '$["\\u0000"]'),
    "a key with half a pair": ('{"\\ud800": 2}', "bad_key", "1:2", '$["\\ud800"]'),
    "a key that is too long": (
        json.dumps({"k" * 1025: 1}),
        *("bad_key", "1:2", f'$["{"k" * 77}..."]'),
    ),
    "no JSON at all": ("hello", "not_json", "1:1", "$"),
    "HTML": ("<!doctype html><html>", "not_json", "1:1", "$"),
    "a Git conflict": ('{"a": 1,\n<<<<<<< HEAD\n"b": 2}', "not_json", "2:1", "$.a"),
}


BIG = "x" * 2000


def migrate(place: Place, *arguments: str | Path, **options: Any) -> Ran:
    return run_cli("migrate", "--json", *arguments, cwd=place.root, env=place.env, **options)


def assert_untouched(place: Place, before: object) -> None:
    """Nothing but an empty data directory with its lock may be there more than before."""
    assert place.snapshot() == before


@pytest.mark.parametrize("name", list(BAD))
def test_bad_files_are_refused_at_their_place(embedded: Place, name: str) -> None:
    """A bad file: exit 4, one error with file:line:column, $.path and a hint; nothing changed."""
    content, code, where, json_path = BAD[name]
    path = embedded.write("bad.json", content)
    embedded.moved(embedded.write("other.json", {"k": 1}))
    before = embedded.snapshot()
    ran = migrate(embedded, path)
    assert (ran.code, ran.err) == (4, "")
    (problem,) = ran.document["problems"]
    assert (problem["code"], problem["where"]) == (code, f"{path}:{where}")
    assert problem["message"].startswith(f"{path}:{where}: ")
    if len(json_path) < 200:
        assert problem["message"].endswith(f" - at `{json_path}`")
    assert problem["hint"]
    assert (ran.document["run"], ran.document["writes"]) == (None, 0)
    assert_untouched(embedded, before)


@pytest.mark.parametrize("name", ["empty", "NUL tail", "duplicate names", "not UTF-8"])
def test_a_bad_file_stops_the_good_ones_too(place: Place, name: str) -> None:
    """One bad file among good ones: nothing at all is migrated, on either database."""
    place.write("bad.json", BAD[name][0])
    place.write("good.json", {"a": 1})
    before = place.snapshot()
    ran = migrate(place, ".", "--yes")
    assert ran.code == 4
    assert [each["path"] for each in ran.document["problems"]] == [str(place.root / "bad.json")]
    assert ran.document["run"] is None
    assert_untouched(place, before)


@pytest.mark.parametrize("text", [GOOD, f"[{GOOD}, 1e5, {GOOD}]", '"text \\u00e9 é"', '{"é": "é"}'])
def test_every_cut_of_a_file_is_noticed(text: str) -> None:
    """A file that was cut off at any byte is refused, as truncated unless nothing is left of it."""
    data = text.encode()
    for length in range(len(data)):
        with pytest.raises(DataError) as caught:
            read_contents(data[:length], "x.json", ReadOptions())
        assert caught.value.code == ("truncated" if length else "empty"), data[:length]
        assert caught.value.where.startswith("x.json:1:")


def test_every_zeroed_tail_of_a_file_is_noticed() -> None:
    """A file whose tail from any byte on became NULs, as after a power cut, is refused as that."""
    data = GOOD.encode()
    for length in range(len(data)):
        with pytest.raises(DataError) as caught:
            read_contents(data[:length].ljust(len(data), b"\x00"), "x.json", ReadOptions())
        assert caught.value.code == "nul_filled", data[:length]


def test_limits_of_depth_are_exact(embedded: Place) -> None:
    """A document of 256 levels is taken, as a member of a file of 257; one more is refused."""
    deep = "[" * 256 + "]" * 256
    embedded.moved(embedded.write("deep.json", f'{{"k": {deep}}}'))
    assert embedded.exported("deep") == f'{{\n"k":{deep}\n}}\n'
    ran = migrate(embedded, embedded.write("deep.json", f'{{"k": [{deep}]}}'))
    assert [each["code"] for each in ran.document["problems"]] == ["too_deep"]


@pytest.mark.parametrize(
    ("name", "text", "options", "where", "path"),
    [
        ("big.json", f'{{"a": 1,\n "b": "{BIG}"}}', [], "2:2", "$.b"),
        ("big.json", f'{{"a": 1, "b": "{BIG}"}}', ["--whole"], "1:1", "$"),
        ("big.json", f'[{{"id": 1}},\n {{"id": 2, "b": "{BIG}"}}]', [], "2:2", "$[1]"),
        ("big.jsonl", f'{{"id": 1}}\n{{"id": 2, "b": "{BIG}"}}', [], "2:1", "$"),
        ("big.jsonl", "\n".join(["1234567"] * 300), [], "1:1", "$"),
        ("big.json", f'"{BIG}"', [], "1:1", "$"),
    ],
)
def test_a_document_over_the_limit_is_refused_at_its_place(
    embedded: Place,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str,
    options: list[str],
    where: str,
    path: str,
) -> None:
    """A document over the size limit is named with its size and the limit."""
    monkeypatch.setattr(codec, "MAX_DOCUMENT_BYTES", 2000)
    file = embedded.write(name, text)
    before = embedded.snapshot()
    ran = migrate(embedded, file, *options)
    assert ran.code == 4
    (problem,) = ran.document["problems"]
    assert (problem["code"], problem["where"]) == ("too_large", f"{file}:{where}")
    assert "over the limit of 2000" in problem["message"]
    assert problem["message"].endswith(f"- at `{path}`")
    assert_untouched(embedded, before)


def test_no_error_of_a_file_shows_its_content(embedded: Place) -> None:
    """Not the text around an error, nor a value anywhere in the file, is ever shown."""
    for content, *_ in BAD.values():
        data = content.encode() if isinstance(content, str) else content
        path = embedded.write("bad.json", data + CANARY.encode() + b'"' + CANARY.encode())
        for options in ([], ["--json"], ["--dry-run"], ["--skip-bad"]):
            ran = run_cli("migrate", path, *options, cwd=embedded.root, env=embedded.env)
            assert ran.code == 4
            assert CANARY not in ran.said


# ---- what is no file


def test_a_missing_file_is_an_error(embedded: Place) -> None:
    """A path that is not there: exit 2, with its name."""
    before = embedded.snapshot()
    ran = migrate(embedded, "gone.json")
    assert ran.code == 2
    assert ran.document["error"]["code"] == "no_such_file"
    assert "gone.json" in ran.document["error"]["message"]
    assert_untouched(embedded, before)


def test_one_missing_file_stops_the_others(embedded: Place) -> None:
    """A missing file beside a good one: nothing is migrated."""
    embedded.write("good.json", {"a": 1})
    before = embedded.snapshot()
    assert migrate(embedded, "good.json", "gone.json").code == 2
    assert_untouched(embedded, before)


def test_a_directory_without_json_is_an_error(embedded: Place) -> None:
    """A directory in the place of a file, or one without JSON: exit 2, nothing is created."""
    (embedded.root / "views.json").mkdir()
    for path in ("views.json", "."):
        ran = migrate(embedded, path, "--yes")
        assert (ran.code, ran.document["error"]["code"]) == (2, "no_json")


def test_a_pipe_is_refused_without_waiting(embedded: Place) -> None:
    """A FIFO nobody writes to must not hang the command."""
    path = embedded.root / "pipe.json"
    os.mkfifo(path)
    before = embedded.snapshot()
    ran = migrate(embedded, path)
    assert ran.code == 4
    (problem,) = ran.document["problems"]
    assert problem["code"] == "unreadable"
    assert "not a regular file" in problem["message"]
    assert_untouched(embedded, before)


@contextmanager
def without_privileges() -> Generator[None]:
    """Root may read everything: become somebody else for the while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory whose parents everybody may search."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def test_a_file_that_may_not_be_read_is_refused(public: Path) -> None:
    """An unreadable file is a problem of the plan that tells why, not a skipped one."""
    place = Place(public, None)
    path = place.write("views.json", {"a": 1})
    path.chmod(0o000)
    with without_privileges():
        (problem,) = place.plan(path).problems
    assert problem.error.code == "unreadable"
    assert problem.error.message == f"{path}: cannot be read: Permission denied"
    place.close()


def test_a_data_directory_that_cannot_be_written_is_refused(public: Path) -> None:
    """A read-only data directory is an error before anything is moved."""
    place = Place(public, None)
    path = place.write("views.json", {"a": 1})
    content = path.read_bytes()
    public.chmod(0o555)
    with without_privileges(), pytest.raises(ConfigError) as caught:
        place.migrate(path)
    assert caught.value.code == "data_dir"
    assert "STANDFAST_DATA_DIR" in caught.value.hint
    assert path.read_bytes() == content
    assert os.listdir(public) == ["views.json"]
    public.chmod(0o755)
    place.close()


@pytest.mark.parametrize("data_dir", ["a file", "a file/below", "/proc/standfast"])
def test_a_data_directory_that_cannot_exist_is_refused(embedded: Place, data_dir: str) -> None:
    """A data directory that cannot be made: exit 2, nothing changed."""
    (embedded.root / "a file").write_text("x")
    path = embedded.write("views.json", {"a": 1})
    before = embedded.snapshot()
    env = {"STANDFAST_DATA_DIR": data_dir}
    ran = run_cli("migrate", "--json", path, cwd=embedded.root, env=env)
    assert ran.code == 2
    assert data_dir in ran.document["error"]["message"]
    assert_untouched(embedded, before)


# ---- what is no database


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"this is no database, " * 100, "not_a_database"),
        (b"SQLite format 3\x00", "not_a_database"),
    ],
)
def test_a_file_that_is_no_database_is_refused(embedded: Place, content: bytes, code: str) -> None:
    """A file of something else in the database's place: exit 2, and it stays as it is."""
    embedded.write("storage/fallback.db", content)
    path = embedded.write("views.json", {"a": 1})
    ran = migrate(embedded, path)
    assert (ran.code, ran.document["error"]["code"]) == (2, code)
    assert (embedded.data_dir / "fallback.db").read_bytes() == content
    assert path.exists()


def test_the_database_of_another_application_is_refused(embedded: Place) -> None:
    """A SQLite file with tables of others is never written to: exit 2."""
    import apsw

    embedded.data_dir.mkdir()
    connection = apsw.Connection(str(embedded.data_dir / "fallback.db"))
    connection.execute("CREATE TABLE views (id INTEGER PRIMARY KEY, data TEXT)")
    connection.close()
    content = (embedded.data_dir / "fallback.db").read_bytes()
    ran = migrate(embedded, embedded.write("views.json", {"a": 1}))
    assert (ran.code, ran.document["error"]["code"]) == (2, "not_ours")
    assert (embedded.data_dir / "fallback.db").read_bytes() == content


# ---- usage


def test_collection_with_several_files_is_refused(embedded: Place) -> None:
    """--collection names one collection: with two files it is a usage error."""
    paths = [embedded.write(name, {"a": 1}) for name in ("a.json", "b.json")]
    before = embedded.snapshot()
    ran = migrate(embedded, *paths, "--collection", "both")
    assert (ran.code, ran.document["error"]["code"]) == (2, "usage")
    assert_untouched(embedded, before)


@pytest.mark.parametrize("name", ["my-views", "", "standfast_x", "pg_x", "ä", "a b", "x" * 51])
def test_a_collection_that_cannot_be_a_table_is_refused(embedded: Place, name: str) -> None:
    """--collection with a name that no table can have is refused like a bad file name."""
    path = embedded.write("views.json", {"a": 1})
    before = embedded.snapshot()
    ran = migrate(embedded, path, "--collection", name)
    assert ran.code == 4
    assert [each["code"] for each in ran.document["problems"]] == ["bad_collection"]
    assert_untouched(embedded, before)


def test_whole_and_key_exclude_each_other(embedded: Place) -> None:
    """--whole with --key asks for two things at once: exit 2."""
    path = embedded.write("views.json", [])
    ran = migrate(embedded, path, "--whole", "--key", "tag")
    assert (ran.code, ran.document["error"]["code"]) == (2, "usage")


# ---- what may help


@pytest.mark.parametrize(
    "sibling", ["views.json.bak", "views.bak", "views.json~", "views.json.tmp"]
)
@pytest.mark.parametrize("content", ["", "\x00" * 100, '{"a": '])
def test_a_lost_file_points_to_its_sibling(embedded: Place, sibling: str, content: str) -> None:
    """Beside an empty or damaged file there may be its last good copy: the hint names it."""
    path = embedded.write("views.json", content)
    embedded.write(sibling, {"a": 1})
    ran = migrate(embedded, path)
    (problem,) = ran.document["problems"]
    assert problem["hint"].startswith(f"{sibling} beside it may be its last good copy")


def test_an_empty_sibling_is_no_help(embedded: Place) -> None:
    """A backup that is empty too is not recommended, nor one for a file that is merely wrong."""
    path = embedded.write("views.json", "")
    embedded.write("views.json.bak", "")
    assert ".bak" not in migrate(embedded, path).document["problems"][0]["hint"]
    embedded.write("views.json.bak", "{}")
    embedded.write("views.json", "{'a'}")
    assert ".bak" not in migrate(embedded, path).document["problems"][0]["hint"]


def test_skip_bad_sets_bad_files_aside(place: Place) -> None:
    """--skip-bad: the good files are migrated, the bad ones stay and are listed: exit 4."""
    bad = {"bad.json": "", "worse.json": "{'a'}"}
    for name, content in bad.items():
        place.write(name, content)
    place.write("good.json", {"a": 1})
    place.write("lines.jsonl", '{"id": 1}')
    ran = migrate(place, ".", "--yes", "--skip-bad")
    assert ran.code == 4
    assert sorted(Path(each["path"]).name for each in ran.document["problems"]) == sorted(bad)
    assert (ran.document["moved"], ran.document["green"]) == (2, False)
    assert place.documents("good") == {"a": 1}
    assert place.documents("lines") == {"1": {"id": 1}}
    assert place.json_files() == sorted(bad)
    for name, content in bad.items():
        assert (place.root / name).read_text() == content


def test_skip_bad_with_nothing_good_left(embedded: Place) -> None:
    """--skip-bad over bad files alone migrates nothing, says so, exit 4, and is not proposed."""
    path = embedded.write("bad.json", "")
    before = embedded.snapshot()
    ran = migrate(embedded, path, "--skip-bad")
    assert (ran.code, ran.document["run"]) == (4, None)
    assert_untouched(embedded, before)
    said = run_cli("migrate", path, "--skip-bad", env=embedded.env).err
    assert "correct them" in said
    assert "--skip-bad" not in said
