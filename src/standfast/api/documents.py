"""The documents of a collection: from stored text to values and back."""

from __future__ import annotations

from typing import Any

import msgspec

from standfast.document.codec import decode, encode
from standfast.document.typed import Typed
from standfast.engine.interfaces import ReadResult
from standfast.engine.local_state import age_s
from standfast.errors import CorruptData
from standfast.ops.types import Document, Row, from_microseconds


class Documents:
    """How the documents of one collection are read and written, with its type if it has one."""

    def __init__(self, name: str, typed: Typed | None = None) -> None:
        self._typed = typed
        self.name = name

    def dump(self, value: Any) -> Any:
        """The JSON of a value; DataError when it is not of the collection's type."""
        return value if self._typed is None else self._typed.dump(value)

    def load(self, text: str, key: str) -> Any:
        """The value of a stored text; CorruptData, which names its key, when it is unreadable."""
        try:
            value = decode(text)
            return value if self._typed is None else self._typed.load(value)
        except CorruptData as error:
            raise CorruptData(
                f"the document of key {key!r} in `{self.name}`: {error.message}",
                code=error.code,
                hint=error.hint,
            ) from None

    def copied(self, value: Any) -> Any:
        """A value as it would come back after a put."""
        plain = decode(encode(self.dump(value)))
        return plain if self._typed is None else self._typed.load(plain)

    def copy_of(self, document: Document) -> Document:
        """The document as JSON, which what is done to its value does not reach."""
        return msgspec.structs.replace(document, value=decode(encode(self.dump(document.value))))

    def document_of(self, result: ReadResult, key: str) -> Document | None:
        """The document that a read found; None when there is none."""
        view = result.view
        if view.text is None:
            return None
        return Document(
            key=key,
            value=self.load(view.text, key),
            version=view.version,
            source="primary" if result.from_primary else "mirror",
            age_s=0.0 if result.from_primary else age_s(view.seen_us),
            created_at=from_microseconds(view.created_us),
            updated_at=from_microseconds(view.updated_us),
        )

    def document_of_row(self, row: Row) -> Document:
        """The document of a row of the primary, or of the mirror."""
        return Document(
            key=row.key,
            value=self.load(row.text, row.key),
            version=row.version,
            source="primary" if row.seen_us is None else "mirror",
            age_s=age_s(row.seen_us or 0),
            created_at=from_microseconds(row.created_us),
            updated_at=from_microseconds(row.updated_us),
        )
