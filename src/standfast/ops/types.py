"""What travels between the API, the engine and the backends: ops, rows, outcomes, receipts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from reprlib import Repr
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec

T = TypeVar("T")
Kind = Literal["put", "patch", "append", "increment", "set", "remove", "touch", "delete"]
Status = Literal["applied", "skipped", "refused", "merged", "rejected"]
Durability = Literal["primary", "journal", "spool"]
Source = Literal["primary", "mirror", "snapshot"]
Knowledge = Literal["unknown", "absent", "present"]
Identity = tuple[str, int]
"""What names an op for ever: its lane and its sequence."""

#: What the repr of a document shows of its value: a look at it, not all of it.
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxlist = 2, 4

#: `if_version` of an op that must find no document.
ABSENT = 0
#: `ttl_us` of a put that leaves the expiry of the document as it is.
KEEP_EXPIRY = -1


# What is made for every write and holds only texts, numbers and tuples of them has `gc=False`: the
# garbage collector, which would walk through thousands of them, finds no cycle there.


class Redacted(msgspec.Struct, frozen=True):
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


class Op(Redacted, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One write, identified for ever by its lane and sequence.

    `body` is exact JSON text: the document of a put, the patch (RFC 7396), the appended element,
    the addend, or the value of a set; None for a remove, a touch and a delete.  `pointer`
    (RFC 6901) is used by append, increment, set and remove.  `ttl_us` is the time to live that the
    op gives to the document (0: it does not expire; `KEEP_EXPIRY`; None: what is usual for its
    kind).
    `if_version` makes the op conditional: it is refused unless the document has that version
    (`ABSENT`: unless there is no document).  Where the caller saw own pending ops on top of that
    version, `pending` names those that change the document: the condition holds only if the row is
    exactly that version with exactly these ops applied, none of them rejected.
    Ops of one non-zero `group` are applied together or not at all.

    The rest is set when the op goes through the journal.  `replay`: it was acknowledged, so what
    cannot be applied becomes a conflict, not an error of a caller.  `seen` and `base` say what its
    writer knew of the document, own pending ops included.  `reject`: the reason for which it is
    to be rejected.  `at_us` is when it was acknowledged, by this machine's clock.
    `history` is the database that it was acknowledged for: see `engine.local_state`.
    `origin` is the name that its receipt carries, when a fence made it move to another lane.
    `regained`, of a write that the primary confirmed and lost, is the version that it had and when
    that was, by the server's clock; it is set until the replay has looked at what is there now.
    `exact` says of a put whether jsonb gives its body back exactly (None: not examined).
    """

    content = frozenset({"body", "base"})

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
    pending: tuple[Identity, ...] = ()
    replay: bool = False
    seen: Knowledge = "unknown"
    base: str | None = None
    reject: str = ""
    at_us: int = 0
    history: str = ""
    origin: Identity | None = None
    exact: bool | None = None
    regained: tuple[int, int] | None = None

    @property
    def name(self) -> Identity:
        """The lane and sequence that its receipt carries."""
        return self.origin or (self.lane, self.seq)


class Outcome(Redacted, frozen=True, array_like=True, gc=False):
    """What became of one op.

    `applied`: `version` is the document's new version and `text` its new JSON text (None after a
    delete).  `skipped`: the lane's watermark had already passed the op; `version` is the one it got
    then if the lane's last outcomes include it, else None.  `refused`: nothing was changed;
    `code` and `message` say why, and `version` is the one that was found.  On replay only:
    `merged`: as `applied`, but the document had changed, and a conflict was recorded; `rejected`:
    nothing was changed, and a conflict was recorded with `code` as its reason.  `changed` is False
    where an applied op found that there was nothing to do.
    """

    content = frozenset({"text"})

    seq: int
    status: Status
    version: int | None = None
    text: str | None = None
    code: str = ""
    message: str = ""
    changed: bool = True


class State(Redacted, frozen=True, gc=False):
    """What the primary holds at one place: a document (`text`), or its absence (None).

    `version` is the document's, or the one that a new document there would exceed.
    """

    content = frozenset({"text"})

    collection: str
    key: str
    text: str | None
    version: int
    created_us: int = 0
    updated_us: int = 0
    expires_us: int | None = None


class Observed(msgspec.Struct, frozen=True):
    """States read in one snapshot, and the watermarks of the directory's lanes in that snapshot.

    A state contains every op of such a lane up to its watermark, and none above it.
    """

    states: list[State]
    watermarks: dict[str, int] = {}


class Applied(msgspec.Struct, frozen=True):
    """The answer to one batch: an outcome for each op, in order, and the lane's watermark.

    `observed` is what the places that the batch touched hold now, where it was asked for.
    """

    outcomes: list[Outcome]
    watermark: int
    observed: Observed = Observed([])


class ConflictRecord(Redacted, frozen=True, kw_only=True):
    """One conflict: an op that was merged, rejected or overwrote something, and why.

    `base`, `mine` and `theirs` are JSON texts: what the writer knew, what the op carries, what was
    found.  `pointer` is that of an append or increment, as JSON text too.  `state` is `open` while
    it waits for a decision, else `merged` or `resolved`.
    """

    content = frozenset({"base", "mine", "theirs"})

    id: int = 0
    at_us: int = 0
    lane: str = ""
    seq: int = 0
    collection: str
    key: str
    kind: str
    pointer: str = ""
    reason: str
    base: str | None = None
    mine: str | None = None
    theirs: str | None = None
    state: str = "open"
    resolution: str | None = None


class ServerIdentity(msgspec.Struct, frozen=True):
    """What a database says of itself on a new connection.

    `identity` is the UUID of its history (None: no schema yet), `system` PostgreSQL's system
    identifier, `database` the OID of the database in it, `name` its name, `timeline` the server's
    timeline (empty or 0 elsewhere, or where the host does not say): a copy shares the identity,
    and differs in the system or the database.  `server_us` is what the server's clock showed (0:
    not asked).  `lanes` are the watermarks of those lanes that were asked for and are there (None:
    nothing is known of them).
    """

    identity: str | None
    system: str = ""
    database: str = ""
    name: str = ""
    timeline: int = 0
    epoch: int = 0
    server_us: int = 0
    lanes: dict[str, int] | None = None


class Row(Redacted, frozen=True, gc=False):
    """One stored document: exact JSON text, version and times in microseconds since 1970 UTC.

    `seen_us`: when the primary returned what is a row of the mirror, or of a snapshot, by `source`;
    None: a row of the primary.
    """

    content = frozenset({"text"})

    key: str
    text: str
    version: int
    created_us: int
    updated_us: int
    expires_us: int | None = None
    seen_us: int | None = None
    source: Source = "mirror"


class Span(Redacted, frozen=True):
    """Which documents a page has: those live, in the bytewise order of keys, at most `limit`.

    `prefix`: their keys begin so; `after`: they are behind this key in the order of the page, which
    with `reverse` goes from the last key to the first; `query`: they contain this (a JSON value;
    None: all do).
    """

    content = frozenset({"query"})

    prefix: str = ""
    after: str | None = None
    limit: int = 1000
    reverse: bool = False
    query: Any = None

    def has(self, key: str) -> bool:
        """Whether a key is in it, whatever its limit and its query."""
        if not key.startswith(self.prefix):
            return False
        return self.after is None or (key != self.after and (key < self.after) == self.reverse)


def state_of_row(collection: str, row: Row) -> State:
    """The state of a live row."""
    times = (row.created_us, row.updated_us, row.expires_us)
    return State(collection, row.key, row.text, row.version, *times)


def row_of_state(state: State) -> Row:
    """The row of a state that is a document."""
    times = (state.created_us, state.updated_us, state.expires_us)
    return Row(state.key, state.text or "", state.version, *times)


class ProvisionalVersion(int):
    """The version of a document that own pending ops have changed since the primary confirmed it.

    As a number it is the confirmed version, -1 where that is not known; it is shown as `3+1`, or
    `?+1`.  Given as `if_version=` it means exactly the document that was read: that version with
    these pending ops applied, and nothing else.
    """

    pending: tuple[Identity, ...]

    def __new__(cls, confirmed: int, pending: tuple[Identity, ...]) -> ProvisionalVersion:
        version = super().__new__(cls, confirmed)
        version.pending = pending
        return version

    def __repr__(self) -> str:
        return f"{int(self) if self >= 0 else '?'}+{len(self.pending)}"


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Proof of one acknowledged write.

    `version` is the document's version (None when only the primary can decide it, later, or when
    the reply that named it was lost and the document changed before it was asked for again);
    `durable_on` says where the write is safe.  `lane` and `seq` identify the op:
    `store.outcome(receipt)` reports what became of a write that went through the journal.

    `changed` is False when there was nothing to do: nothing to delete, to remove or to touch.  It
    is what `bool(receipt)` says.  While the primary is away it goes by what is known here, and is
    True where that is nothing.
    """

    version: int | None
    durable_on: Durability
    lane: str = ""
    seq: int = 0
    changed: bool = True

    def __bool__(self) -> bool:
        return self.changed

    def __repr__(self) -> str:
        name = f", lane='{self.lane[:8]}...', seq={self.seq}" if self.lane else ""
        return f"Receipt(version={self.version}, durable_on={self.durable_on!r}{name})"


class Document(Redacted, Generic[T], frozen=True):
    """One document as it was read: value, version, where it came from and how old that is.

    `age_s` is how long ago the primary said so (0.0 for `source="primary"`).  `version` is a
    `ProvisionalVersion` where own pending ops are applied over the mirror.  `expires_at` is when it
    ends, by the database's clock; None: never.
    """

    content = frozenset({"value"})  # in what `rich` prints, such as the variables of a traceback

    key: str
    value: T
    version: int
    source: Source
    age_s: float
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        shown = f"key={self.key!r}, version={self.version}, value={_SHORT.repr(self.value)}"
        return f"Document({shown}, source={self.source!r}, age_s={self.age_s:.3g})"


def from_microseconds(stamp_us: int) -> datetime:
    """An aware UTC datetime, exact to the microsecond."""
    seconds, micros = divmod(stamp_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Op).decode
_decode_batch = msgspec.msgpack.Decoder(list[tuple[Op, int | None]]).decode
#: Prefix of a pointer that is kept as JSON text, since UTF-8 has no lone surrogates.  No real
#: pointer begins with it.
_ESCAPED = "\0"


def pack(op: Op) -> bytes:
    """The bytes of an op; `unpack` restores it completely."""
    try:
        return _encode(op)
    except UnicodeEncodeError:
        return _encode(_escaped(op))


def unpack(data: bytes) -> Op:
    """The op that was packed."""
    return _plain(_decode(data))


def pack_batch(batch: Sequence[tuple[Op, int | None]]) -> bytes:
    """The bytes of ops with the versions that they were given."""
    try:
        return _encode(batch)
    except UnicodeEncodeError:
        return _encode([(_escaped(op), version) for op, version in batch])


def unpack_batch(data: bytes) -> list[tuple[Op, int | None]]:
    """The batch that was packed."""
    return [(_plain(op), version) for op, version in _decode_batch(data)]


def _escaped(op: Op) -> Op:
    return msgspec.structs.replace(op, pointer=_ESCAPED + json.dumps(op.pointer))


def _plain(op: Op) -> Op:
    if not op.pointer.startswith(_ESCAPED):
        return op
    return msgspec.structs.replace(op, pointer=json.loads(op.pointer[1:]))
