"""The error tree: every failure of standfast, with a code for programs and a hint for people.

::

    StandfastError
    |- ConfigError          a setting, a URL, a name or a data directory is wrong
    |- DataError            refused at the door: what was given is not JSON within the limits
    |- ConflictError        a condition on the document's version does not hold
    |- Unavailable          the database does not answer; nothing is lost, trying again makes sense
    |  `- DeadlineExceeded  no answer in time: the outcome is unknown
    |- CorruptData          what is stored cannot be read back
    `- MigrationError       a migration, verification or rollback stopped; `code` says at what

A message says what was tried, on what, and what happened; the hint says what to do next.
Neither ever holds a password or the content of a document.
"""

from __future__ import annotations

from typing import Self


class StandfastError(Exception):
    """Root of the tree.

    `code` is stable and meant for programs, `hint` is one sentence for people (or empty),
    `retryable` tells whether the same call may succeed later without any change.
    """

    code = "error"
    retryable = False

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if code is not None:
            self.code = code

    @property
    def message(self) -> str:
        """What was tried, on what, and what happened."""
        return str(self.args[0])

    def about(self, what: str) -> Self:
        """This error, with what it is about in front of its message."""
        self.args = (f"{what}: {self.message}",)
        return self


class ConfigError(StandfastError):
    """A setting, a URL, a collection name, a table or a data directory cannot be used as it is."""

    code = "config"


class DataError(StandfastError):
    """Refused before any I/O: the value is not JSON within the stated limits.

    `path` is the place inside the document, as a JSONPath such as `$.a[2]`;
    `where` is `file:line:column` when the value came from a file.
    """

    code = "data"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        path: str = "",
        where: str = "",
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.path = path
        self.where = where


class ConflictError(StandfastError):
    """The document's version is not the one that the caller named; nothing was changed.

    `expected` and `actual` are versions; 0 stands for "no document".
    """

    code = "conflict"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        expected: int | None = None,
        actual: int | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.expected = expected
        self.actual = actual


class Unavailable(StandfastError):
    """The database cannot be reached or cannot take the call now; nothing was acknowledged."""

    code = "unavailable"
    retryable = True


class DeadlineExceeded(Unavailable):
    """No answer within the deadline: the outcome of the call is unknown."""

    code = "deadline"


class CorruptData(StandfastError):
    """Stored data cannot be read back as what was put: damaged file, table or backup."""

    code = "corrupt"


class MigrationError(StandfastError):
    """A migration, verification or rollback stopped before changing more; `code` says why."""

    code = "migration"
