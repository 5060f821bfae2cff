"""No error shows a secret or the content of a document: by where each is made, and how it is shown.

What an error can say is decided where it is made.  `error_texts.txt` lists every expression that
stands in the text of an error, with its kind, after it was read; here the list is compared with the
source.  Errors as commands provoke them are in tests/cli/test_canaries.py.
"""

from __future__ import annotations

import io
import json
import re
import traceback
from pathlib import Path

import pytest

import standfast.errors
from standfast.cli import main as cli
from standfast.errors import CODES, StandfastError
from support.cli import run_cli
from support.error_sites import Found, Sites

LISTED = Path(__file__).with_name("error_texts.txt")
#: Expressions that need no reader wherever they stand: constants of modules, counts, types, texts
#: of the C library, paths, names and keys, masked addresses, and places of the JSONPath form.
PLAIN = re.compile(
    r"_?[A-Z][A-Z_]*|len\(.*\)|type\(.*\)\.__name__|type_name\(.*\)|error\.strerror"
    r"|(.*\.)?_?(path|collection|key|display|data_dir)|key_text\(key\)|name|self\.name|op\.kind"
    r"|run|(state|self\._state)\.run|key_problem\(.*\)|json_path\(.*\)"
)

#: Codes that no call or table names: marks of a batch or a journal that `Refusal` takes over, one
#: of a local name that `error_at` gets, one set on an error that was made, and those of the command
#: line, which makes no error of them (or names its constant).
CARRIED = {
    *("batch", "time_travel", "bad_encoding", "connection_lost"),
    *("output", "interrupted", "bug"),
}
CANARY = "canary-9e1f"
URL = f"postgresql://someone:{CANARY}@db.example.com/x"


@pytest.fixture(scope="module")
def sites() -> Sites:
    return Sites(lambda module, expression: PLAIN.fullmatch(expression) is not None)


@pytest.fixture(scope="module")
def found_texts(sites: Sites) -> list[Found]:
    return list(sites.found())


def test_every_expression_in_the_text_of_an_error_was_read(
    sites: Sites, found_texts: list[Found]
) -> None:
    """Whoever puts something new into a message, a hint or a place has to list it, as what never
    holds a document or a secret; what is no longer there goes from the list."""
    lines = LISTED.read_text(encoding="utf-8").splitlines()
    listed = [tuple(line.split(" | ", 1)) for line in lines if line[:1] not in ("", "#", "[")]
    assert len(set(listed)) == len(listed)
    found = {
        (each.module, each.text)
        for each in found_texts
        if not each.is_constant and not each.is_code and not PLAIN.fullmatch(each.text)
    }
    assert found - set(listed) == set()
    assert set(listed) - found == set()
    assert len(list(sites.calls())) > 300


def test_every_code_is_made_at_a_place_that_was_read(
    sites: Sites, found_texts: list[Found]
) -> None:
    """Each code of CODES is that of a class, of a call, or of a table that such a call reads."""
    named = {each.text for each in found_texts if each.is_constant and each.is_code}
    classes = {kind.code for kind in vars(standfast.errors).values() if is_error(kind)}
    assert set(CODES) - (named | classes | sites.carried_codes) == CARRIED


def is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, StandfastError)


def made(code: str) -> list[StandfastError]:
    """An error of each class of the code, raised from one of a driver that repeats a document."""
    errors: list[StandfastError] = []
    for name in sorted(CODES[code].classes - {"command"}):
        try:
            try:
                raise ValueError(f"DETAIL: {CANARY}")
            except ValueError:
                kind = getattr(standfast.errors, name)
                raise kind("what happened", code=code, hint="what to do") from None
        except StandfastError as error:
            errors.append(error.about("what was tried"))
    return errors


@pytest.mark.parametrize("code", CODES)
def test_an_error_shows_its_message_and_hint_alone(
    code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of every code: str, repr, notes, traceback, what a command writes and `--json` show message
    and hint; neither the driver's error behind it, nor the password of a URL given as a key."""
    for error in made(code):
        printed = io.StringIO()
        traceback.print_exception(error, file=printed)
        shown = [str(error), repr(error), repr(vars(error)), *error.__notes__, printed.getvalue()]
        assert not [text for text in shown if CANARY in text]
        assert str(error) == "what was tried: what happened"
        assert error.__notes__ == ["hint: what to do"]
        error.about(f"key '{URL}'")
        text, document = run_and_raise(error, monkeypatch, tmp_path)
        assert CANARY not in text + json.dumps(document)
        assert document == {"error": {"code": code, **document_of(error)}}
    if "command" in CODES[code].classes:
        raised = KeyboardInterrupt(CANARY) if code == "interrupted" else ValueError(CANARY)
        text, document = run_and_raise(raised, monkeypatch, tmp_path)
        assert CANARY not in text + json.dumps(document)
        assert document["error"]["code"] == code


def document_of(error: StandfastError) -> dict[str, str]:
    return {"message": error.message.replace(f"someone:{CANARY}", "***"), "hint": error.hint}


def run_and_raise(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[str, dict[str, dict[str, str]]]:
    """What a command that ends with the error writes for people, and with --json."""

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(cli.main, "main", fail)
        plain = run_cli("status", cwd=tmp_path)
        in_json = run_cli("status", "--json", cwd=tmp_path)
    if isinstance(error, StandfastError) and error.code == "output":
        return plain.said + in_json.said, {"error": {"code": "output", **document_of(error)}}
    return plain.said + in_json.err, in_json.document
