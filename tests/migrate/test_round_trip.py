"""What goes in comes out: files of every shape, through a database, and exported again (I11)."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from standfast.backends.base import Load
from standfast.backends.memory import MemoryBackend
from standfast.limits import MAX_DEPTH
from standfast.migrate.export import export_lines
from standfast.migrate.read_file import ReadOptions, read_contents
from support.json_files import ENCODINGS, JsonFile, Shape, levels, make_file, meaning
from support.json_strategies import render, same, seeds, values
from support.moving import Place

DOCUMENTS_PER_FILE = 200
#: One file of each of these shapes, again and again.
SHAPES: list[Shape] = ["object", "object", "array", "object", "lines"]
FILES = [10 if os.environ.get("CI") else 5, pytest.param(51, marks=pytest.mark.slow)]

_BATCH = 6

#: Records and whole files hold them one or two levels down.
shallow = values.filter(lambda value: levels(value) <= MAX_DEPTH - 2)


@pytest.fixture(scope="module", params=FILES)
def files(request: pytest.FixtureRequest) -> list[JsonFile]:
    """Many documents over all of JSON, drawn by Hypothesis, in files of every shape."""
    drawn: list[Any] = []
    count: int = request.param
    wanted = count * DOCUMENTS_PER_FILE

    # Hypothesis counts an example twice now and then: a few more than needed are asked for.
    @settings(
        max_examples=wanted // _BATCH + 100,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(shallow, min_size=_BATCH, max_size=_BATCH))
    def draw(batch: list[Any]) -> None:
        drawn.extend(batch)

    draw()
    rng = random.Random(20)
    return [
        make_file(
            f"file_{number}",
            SHAPES[number % len(SHAPES)],
            drawn[number * DOCUMENTS_PER_FILE : (number + 1) * DOCUMENTS_PER_FILE],
            rng,
        )
        for number in range(count)
    ]


def test_every_accepted_document_comes_back(place: Place, files: list[JsonFile]) -> None:
    """I11: over all of JSON, the exported file has the values, order and number tokens it had.

    1,000 generated documents for each database in one run; 2,000 where CI is set, 10,200 in
    `make chaos`.
    """
    rng = random.Random(7)
    paths = [place.write(file.name, file.bytes(*rng.choice(ENCODINGS))) for file in files]
    result = place.moved(*paths)
    assert result.verdict is not None
    assert result.verdict.compared == len(files) * DOCUMENTS_PER_FILE
    assert result.moved == len(files)
    for file in files:
        assert meaning(place.exported(file.collection)) == meaning(file.text), file.name
    documents = 0
    for file in files:
        found = place.documents(file.collection)
        assert list(found) == list(file.documents)
        for key, value in file.documents.items():
            assert same(found[key], value), (file.name, key)
            documents += 1
    assert documents == len(files) * DOCUMENTS_PER_FILE >= 1_000


def test_whole_files_come_back(place: Place, files: list[JsonFile]) -> None:
    """I11 for `--whole`: the file is one document under `default`, and comes back as it was."""
    chosen = files[:5]
    place.moved(*(place.write(file.name, file.bytes()) for file in chosen), whole=True)
    for file in chosen:
        assert meaning(place.exported(file.collection)) == meaning(file.text), file.name
        assert list(place.documents(file.collection)) == ["default"]


def test_a_second_round_changes_nothing(place: Place, files: list[JsonFile]) -> None:
    """An exported file migrated again is equal in every document, and exports the same bytes."""
    for file in files[:5]:
        place.moved(place.write(file.name, file.bytes()))
        exported = place.exported(file.collection)
        plan = place.plan(place.write(file.name, exported))
        (collection,) = plan.collections
        assert len(collection.equal) == DOCUMENTS_PER_FILE
        assert (plan.writes, plan.open_conflicts) == (0, 0)
        assert place.exported(file.collection) == exported


def through_memory(data: bytes, name: str, options: ReadOptions) -> str:
    """The export of a file's documents, without a database."""
    contents = read_contents(data, name, options)
    backend = MemoryBackend()
    backend.load("run", "loaded", [Load("x", contents.form, contents.documents)])
    return "".join(export_lines(backend, "x"))


@given(
    st.lists(shallow, max_size=5),
    st.sampled_from(["object", "array", "lines", "document"]),
    st.booleans(),
    st.sampled_from(ENCODINGS),
    seeds,
)
def test_reading_and_exporting_are_inverse(
    drawn: list[Any], shape: Shape, whole: bool, encoding: tuple[str, bytes], seed: int
) -> None:
    """I11 for the reader alone: any file of any shape in any encoding is exported as it was."""
    rng = random.Random(seed)
    if shape == "lines" and not drawn:
        return
    file = make_file("x", shape, drawn, rng)
    exported = through_memory(file.bytes(*encoding), file.name, ReadOptions(whole=whole))
    assert meaning(exported) == meaning(file.text)


@given(values, seeds)
def test_any_value_is_a_file(value: Any, seed: int) -> None:
    """I11: a file may hold any JSON value, a scalar too, as one document with `--whole`."""
    text = render(value, random.Random(seed))
    exported = through_memory(text.encode(), "x.json", ReadOptions(whole=True))
    assert meaning(exported) == meaning(text)


@given(st.lists(shallow, min_size=1, max_size=5).map(lambda drawn: [[], *drawn]), seeds)
def test_json_lines_without_keys_come_back_as_lines(drawn: list[Any], seed: int) -> None:
    """I11: JSON Lines that have no keys are kept as one document, and exported as lines."""
    rng = random.Random(seed)
    lines = [render(value, rng).replace("\n", " ").replace("\r", " ").strip() for value in drawn]
    exported = through_memory("\n".join(lines).encode(), "x.ndjson", ReadOptions())
    assert exported.count("\n") == len(lines)
    assert meaning(exported) == meaning("\n".join(lines))
