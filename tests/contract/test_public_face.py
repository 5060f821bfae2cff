"""What a user sees of the package: names, errors with their hints, results that read well."""

from __future__ import annotations

import importlib
import inspect
import pickle
import traceback
from pathlib import Path

import pytest

import standfast
from standfast import ConfigError, DataError, DeadlineExceeded, StandfastError, Unavailable
from standfast.errors import CODES


@pytest.fixture
def store(tmp_path: Path) -> standfast.Store:
    return standfast.open(f"sqlite:///{tmp_path}/one.db", data_dir=tmp_path / "data")


def test_every_public_name_is_there_and_listed() -> None:
    """`__all__` and `dir()` name everything public, also what is loaded when it is first used."""
    assert sorted(standfast.__all__) == dir(standfast)
    for name in standfast.__all__:
        assert getattr(standfast, name) is not None
    with pytest.raises(AttributeError):
        standfast.nothing_of_the_kind  # noqa: B018


def test_what_calls_return_is_public() -> None:
    """The classes that public calls give or take can be imported from the package itself."""
    for name in ("WriteOutcome", "StateChange", "Health", "Saved", "Opening", "MISSING"):
        assert name in standfast.__all__
    assert importlib.import_module("standfast.document.values").MISSING is standfast.MISSING


def test_a_traceback_shows_the_hint_once(store: standfast.Store) -> None:
    """A hint is a note of the error: whoever sees only the traceback sees what to do."""
    with pytest.raises(DataError) as caught:
        store["things"].put("8138", {"rate": float("nan")})
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("hint: use null") == 1
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.hint == "use null"
    assert again.__notes__ == ["hint: use null"]
    assert not hasattr(StandfastError("no hint"), "__notes__")


def test_messages_name_collection_and_key(store: standfast.Store) -> None:
    """An error about a document says which, wherever it is found: at the door or on the disk."""
    things = store["things"]
    things.put("8138", {"list": [], "word": "x"})
    calls = [
        lambda: things.put("8138", {"bad": object()}),
        lambda: things.put("8138", 1, if_version=9),
        lambda: things.put("8138", 1, if_version=1, if_absent=True),
        lambda: things.put("8138", 1, ttl_s=-1),
        lambda: things.patch("8138", {"bad": object()}),
        lambda: things.append("8138", "/word", 1),
        lambda: things.append("8138", "word", 1),
        lambda: things.increment("8138", "/word"),
        lambda: things.update("8138", lambda value: object()),
        lambda: things.put_many({"8138": object()}),
        lambda: store.collection("things", type=int).put("8138", "x"),  # type: ignore[arg-type]
        lambda: store.collection("things", type=int).get("8138"),
    ]
    for call in calls:
        with pytest.raises(StandfastError) as caught:
            call()
        assert "key '8138' in `things`" in caught.value.message, inspect.getsource(call)
        assert caught.value.message.count("8138") == 1


def test_a_closed_store_is_not_tried_again(store: standfast.Store) -> None:
    """Only what may succeed later without any change by the user is retryable."""
    store.close()
    with pytest.raises(Unavailable) as caught:
        store["things"].get("1")
    assert caught.value.code == "closed"
    assert not caught.value.retryable


def test_the_code_decides_whether_to_try_again() -> None:
    """Unavailable is retryable by its code; wrong configuration, values and files never are."""
    for code, known in CODES.items():
        assert Unavailable("x", code=code).retryable == known.retryable
        assert not ConfigError("x", code=code).retryable
        assert not DataError("x", code=code).retryable
    assert DeadlineExceeded("x").retryable
    assert Unavailable("x", code="of an application").retryable
    assert not StandfastError("x").retryable


def test_a_receipt_and_a_document_read_well(store: standfast.Store) -> None:
    """Their reprs say what matters first, and fit on a line."""
    receipt = store["things"].put("1", {"mode": "normal"})
    assert repr(receipt).startswith("Receipt(version=1, durable_on='primary', lane='")
    assert len(repr(receipt)) < 80
    assert repr(store["things"].read("1")) == (
        "Document(key='1', version=1, value={'mode': 'normal'}, source='primary', age_s=0)"
    )
