"""Strict reading of JSON text: says exactly where and why a text is not JSON (RFC 8259).

The fast parsers of the codec report *that* a text is wrong; this module reports *where* (line,
column and JSONPath) and *what*, and it is the authority on what is accepted.  It walks the text
once, without recursion, and needs no memory beyond the open containers' keys.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from standfast.document.values import json_path
from standfast.errors import DataError
from standfast.limits import MAX_DEPTH, MAX_INTEGER_DIGITS

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_CUT_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.|(?:\.[0-9]++)?[eE][-+]?)\Z")
_PLAIN = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]*')
_HEX = re.compile(r"[0-9a-fA-F]{0,4}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LITERALS = {"t": "true", "f": "false", "n": "null"}
_NOT_JSON_NAMES = ("NaN", "Infinity", "-Infinity", "-NaN", "undefined", "None", "True", "False")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
# Possessive: without a way back, a string of any length costs no memory.
_SPACE_OUTSIDE = re.compile(r'("(?:[^"\\]++|\\.)*+")|[ \t\n\r]++', re.DOTALL)

_HINTS = {
    "empty": "an empty file is not the same as no data: look for a backup or a .tmp file beside it",
    "truncated": "the text was cut off, as by a crash while it was written: restore it from a copy",
    "nul_filled": "NUL bytes are what a power cut leaves of a file: restore it from a copy",
    "comment": "JSON has no comments: remove them",
    "trailing_comma": "remove the comma before the closing bracket",
    "duplicate_key": "a JSON object keeps only one of them: decide which, and remove the other",
    "not_finite": "JSON has no NaN or Infinity: use null or a string",
    "number_range": "it is too large for a float: write it as a string or as a smaller number",
    "single_quotes": 'JSON strings need double quotes: "..."',
    "byte_order_mark": "it belongs at the beginning of a file, if anywhere: remove it",
    "lone_surrogate": "UTF-8 cannot encode it: write it as an escape, such as \\ud83d",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a text is refused: a code, a sentence and the place."""

    code: str
    what: str
    line: int
    column: int
    path: str

    def error(self, source: str = "") -> DataError:
        """This problem as a DataError; `source` is the file's name, or empty."""
        where = f"{source}:{self.line}:{self.column}" if source else ""
        at = f"{where}: " if where else f"line {self.line} column {self.column}: "
        return DataError(
            f"{at}{self.what} - at `{self.path}`",
            code=self.code,
            hint=_HINTS.get(self.code, "correct the text at this place"),
            path=self.path,
            where=where,
        )


class _Stop(Exception):
    """Carries the first problem out of the walk."""


def minify(text: str) -> str:
    """Remove the white space between the tokens of valid JSON; every token stays as it is."""
    return _SPACE_OUTSIDE.sub(r"\1", text)


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column (both from 1, in characters) of an offset in a text."""
    line = text.count("\n", 0, offset) + 1
    return line, offset - text.rfind("\n", 0, offset)


def find_problem(text: str, *, max_depth: int = MAX_DEPTH) -> Problem | None:
    """The first reason why `text` is not one JSON value within the limits; None when it is."""
    problem = _first_problem(text, max_depth)
    if problem is not None and "\x00" in text[-1:]:
        # What stands before the NULs is cut off somewhere, or not even that: they are the reason.
        written = text.rstrip("\x00")
        cut = _first_problem(written, max_depth)
        if cut is None or cut.code in ("empty", "truncated"):
            what = "the text ends in NUL characters" if written else "all characters are NUL"
            line, column = position(text, len(written))
            return Problem("nul_filled", what, line, column, problem.path)
    return problem


def _first_problem(text: str, max_depth: int) -> Problem | None:
    walk = _Walk(text, max_depth)
    try:
        walk.run()
    except _Stop:
        assert walk.problem is not None
    return walk.problem


def _joined(parts: list[str]) -> str:
    """The string of its parts; escaped surrogate pairs become the character that they mean."""
    text = "".join(parts)
    if _SURROGATE.search(text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return text


class _Walk:
    """One pass over a text.  `keys` holds, for each open container, the path step in progress."""

    def __init__(self, text: str, max_depth: int) -> None:
        self.text = text
        self.max_depth = max_depth
        self.pos = 0
        self.steps: list[str | int] = []
        self.seen: list[set[str] | None] = []
        self.problem: Problem | None = None

    def fail(self, code: str, what: str, offset: int | None = None) -> _Stop:
        line, column = position(self.text, self.pos if offset is None else offset)
        path = json_path(s for s in self.steps if s != -1)
        self.problem = Problem(code, what, line, column, path)
        return _Stop()

    def skip_space(self) -> str:
        """Move to the next token and return its first character ('' at the end)."""
        match = _SPACE.match(self.text, self.pos)
        assert match is not None
        self.pos = match.end()
        return self.text[self.pos : self.pos + 1]

    def run(self) -> None:
        if not self.text:
            raise self.fail("empty", "the text is empty (0 characters)")
        if not self.skip_space():
            raise self.fail("empty", "the text is blank: only white space", 0)
        self.value()
        while self.steps:
            self.after_value()
        if self.skip_space():
            raise self.unexpected("expected the end of the text", code="extra_data")

    def value(self) -> None:
        """Read a scalar, or open a container and read into its first value."""
        while True:
            char = self.skip_space()
            if char == '"':
                self.string()
                return
            if char == "{":
                if not self.open_object():
                    return
            elif char == "[":
                if not self.open_array():
                    return
            elif char in _LITERALS and self.text.startswith(_LITERALS[char], self.pos):
                self.pos += len(_LITERALS[char])
                return
            else:
                self.number()
                return

    def push(self, first: str | int, seen: set[str] | None) -> None:
        if len(self.steps) >= self.max_depth:
            raise self.fail("too_deep", f"nested deeper than {self.max_depth} levels")
        self.pos += 1
        self.steps.append(first)
        self.seen.append(seen)

    def pop(self) -> None:
        self.pos += 1
        self.steps.pop()
        self.seen.pop()

    def open_object(self) -> bool:
        """Open an object; True when a first value follows."""
        self.push(-1, set())
        if self.skip_space() == "}":
            self.pop()
            return False
        self.member_key()
        return True

    def open_array(self) -> bool:
        self.push(0, None)
        if self.skip_space() == "]":
            self.pop()
            return False
        return True

    def member_key(self) -> None:
        if self.skip_space() != '"':
            raise self.unexpected("expected a member name in double quotes")
        start = self.pos
        key = self.string()
        seen = self.seen[-1]
        assert seen is not None
        self.steps[-1] = key
        if key in seen:
            raise self.fail("duplicate_key", "the member name occurs twice in one object", start)
        seen.add(key)
        if self.skip_space() != ":":
            raise self.unexpected("expected `:` after the member name")
        self.pos += 1

    def after_value(self) -> None:
        """Between two values of the innermost container: close it, or go on to the next."""
        top = self.steps[-1]
        is_array = self.seen[-1] is None
        closer = "]" if is_array else "}"
        char = self.skip_space()
        if char == closer:
            self.pop()
            return
        if char != ",":
            raise self.unexpected(f"expected `,` or `{closer}`")
        comma = self.pos
        self.pos += 1
        if self.skip_space() in ("]", "}"):
            raise self.fail("trailing_comma", "a comma with nothing after it", comma)
        if is_array:
            assert isinstance(top, int)
            self.steps[-1] = top + 1
        else:
            self.member_key()
        self.value()

    def string(self) -> str:
        start = self.pos
        self.pos += 1
        parts: list[str] = []
        while True:
            match = _PLAIN.match(self.text, self.pos)
            assert match is not None
            parts.append(match.group())
            self.pos = match.end()
            char = self.text[self.pos : self.pos + 1]
            if char == '"':
                self.pos += 1
                return _joined(parts)
            if not char:
                raise self.fail("truncated", "the text ends inside a string", start)
            if char != "\\":
                raise self.bad_character(char)
            parts.append(self.escape(start))

    def bad_character(self, char: str) -> _Stop:
        """Name a character that cannot stand in a string as it is."""
        if char > "\x1f":
            return self.fail("lone_surrogate", "a lone surrogate inside a string")
        if char == "\x00":
            return self.fail("nul_filled", "a NUL character inside a string")
        what = f"control character U+{ord(char):04X} inside a string"
        return self.fail("control_character", what)

    def escape(self, start: int) -> str:
        """Read one escape sequence of the string that begins at `start`."""
        name = self.text[self.pos + 1 : self.pos + 2]
        if name in _ESCAPES and name:
            self.pos += 2
            return _ESCAPES[name]
        end = self.pos + 2
        if name == "u":
            match = _HEX.match(self.text, end)
            assert match is not None
            end = match.end()
            if end == self.pos + 6:
                self.pos = end
                return chr(int(match.group(), 16))
        if end >= len(self.text):
            raise self.fail("truncated", "the text ends inside a string", start)
        raise self.fail("bad_escape", "not a JSON escape sequence in a string")

    def number(self) -> None:
        match = _NUMBER.match(self.text, self.pos)
        if match is None:
            raise self.unexpected("expected a value")
        fraction, exponent = match.groups()
        token = match.group()
        following = self.text[match.end() : match.end() + 1]
        if following and (following.isalnum() or following in "._+-"):
            if _CUT_NUMBER.match(self.text, self.pos):
                raise self.fail("truncated", "the text ends inside a number")
            raise self.fail("not_json", "not a JSON number")
        if fraction is None and exponent is None:
            if len(token.lstrip("-")) > MAX_INTEGER_DIGITS:
                raise self.fail(
                    "integer_too_long", f"an integer of more than {MAX_INTEGER_DIGITS} digits"
                )
        elif math.isinf(float(token)):
            raise self.fail("number_range", "the number is beyond the range of a float")
        self.pos = match.end()

    def unexpected(self, wanted: str, *, code: str = "not_json") -> _Stop:
        """Name the common mistakes; everything else is `wanted`."""
        rest = self.text[self.pos : self.pos + 12]
        if not rest:
            return self.fail("truncated", f"the text ends too early: {wanted}")
        if rest[0] == "\x00":
            return self.fail("nul_filled", "a NUL character between the tokens")
        if rest.startswith(("//", "/*", "#")):
            return self.fail("comment", "a comment")
        if rest.startswith(_NOT_JSON_NAMES):
            name = next(n for n in _NOT_JSON_NAMES if rest.startswith(n))
            code = "not_finite" if name.endswith(("NaN", "Infinity")) else "not_json"
            return self.fail(code, f"`{name}` is not JSON")
        if rest.startswith("'"):
            return self.fail("single_quotes", "a string in single quotes")
        if any(word.startswith(rest) for word in _LITERALS.values()):
            return self.fail("truncated", "the text ends inside a literal")
        if rest == "-":
            return self.fail("truncated", "the text ends inside a number")
        if rest[0] == "\ufeff":
            return self.fail("byte_order_mark", "a byte order mark inside the text")
        return self.fail(code, wanted)
