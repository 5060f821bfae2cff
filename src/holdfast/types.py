"""What travels between the faces, the engine and the backends: ops, rows, outcomes, receipts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import msgspec

Kind = Literal["put", "patch", "append", "increment", "delete"]
Status = Literal["applied", "skipped", "refused"]
Durability = Literal["primary", "journal", "spool"]
Source = Literal["primary", "mirror", "snapshot"]

#: `if_version` of an op that must find no document.
ABSENT = 0


class Discreet(msgspec.Struct, frozen=True):
    """A struct whose repr, which ends up in logs and tracebacks, never shows a document's content.

    `content` names the fields that hold some; they are left out.
    """

    content: ClassVar[frozenset[str]] = frozenset()

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        names = (name for name in self.__struct_fields__ if name not in self.content)
        return [(name, getattr(self, name)) for name in names]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"


class Op(Discreet, frozen=True, kw_only=True):
    """One write, identified for ever by its lane and sequence.

    `body` is exact JSON text: the document of a put, the patch (RFC 7396), the appended element or
    the addend; None for a delete.  `pointer` (RFC 6901) is used by append and increment.
    `if_version` makes the op conditional: it is refused unless the document has that version
    (`ABSENT`: unless there is no document).  Ops of one non-zero `group` stand or fall together.
    """

    content = frozenset({"body"})

    lane: str
    seq: int
    kind: Kind
    collection: str
    key: str
    body: str | None = None
    pointer: str = ""
    if_version: int | None = None
    ttl_us: int | None = None
    group: int = 0


class Outcome(Discreet, frozen=True, array_like=True):
    """What became of one op.

    `applied`: `version` is the document's new version and `text` its new JSON text (None after a
    delete).  `skipped`: the lane's watermark had already passed the op; `version` is the one it got
    then when the lane's last outcomes still tell, else None.  `refused`: nothing was changed;
    `code` and `message` say why, and `version` is the one that was found.
    """

    content = frozenset({"text"})

    seq: int
    status: Status
    version: int | None = None
    text: str | None = None
    code: str = ""
    message: str = ""


class Applied(msgspec.Struct, frozen=True):
    """The answer to one batch: an outcome for each op, in order, and the lane's watermark."""

    outcomes: list[Outcome]
    watermark: int


class Row(Discreet, frozen=True):
    """One stored document: exact JSON text, version and times in microseconds since 1970 UTC."""

    content = frozenset({"text"})

    key: str
    text: str
    version: int
    created_us: int
    updated_us: int
    expires_us: int | None = None


class Receipt(msgspec.Struct, frozen=True):
    """Proof of one acknowledged write.

    `version` is the document's version (None when only the primary can decide it, later);
    `durable_on` says where the write is safe.  `lane` and `seq` identify the op.
    """

    version: int | None
    durable_on: Durability
    lane: str = ""
    seq: int = 0


class Document(Discreet, frozen=True):
    """One document as it was read: value, version, where it came from and how old that is."""

    content = frozenset({"value"})

    key: str
    value: Any
    version: int
    source: Source
    age_s: float
    created_at: datetime
    updated_at: datetime


def from_microseconds(stamp_us: int) -> datetime:
    """An aware UTC datetime, exact to the microsecond."""
    seconds, micros = divmod(stamp_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)
