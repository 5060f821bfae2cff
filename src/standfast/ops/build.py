"""From the arguments of a call to an op, and from a refused op to the error of its caller."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NoReturn, TypeAlias, cast

from standfast.document.codec import encode
from standfast.document.jsonb import keeps_exactly
from standfast.document.names import key_text
from standfast.document.patch import parse_pointer, remove_at
from standfast.document.values import MISSING, Missing
from standfast.errors import (
    ConfigError,
    ConflictError,
    CorruptData,
    DataError,
    StandfastError,
    Unavailable,
)
from standfast.ops.types import (
    ABSENT,
    KEEP_EXPIRY,
    Document,
    Kind,
    Knowledge,
    Op,
    Outcome,
    ProvisionalVersion,
)

#: How long a document lives: seconds, or a timedelta.
TimeToLive: TypeAlias = float | timedelta
_MICROSECOND = timedelta(microseconds=1)
_LONGEST_S = 10**10
_WITHOUT_BODY: frozenset[Kind] = frozenset({"delete", "touch", "remove"})
#: Versions are bigints, on every backend.
_MAX_VERSION = 2**63 - 1


def build_op(
    kind: Kind,
    collection: str,
    key: object,
    *,
    body: Any = MISSING,
    pointer: str = "",
    if_version: int | None = None,
    if_absent: bool = False,
    ttl_s: TimeToLive | None = None,
    keep_expiry: bool = False,
    group: int = 0,
    base: Document[Any] | Missing | None = MISSING,
) -> Op:
    """An op without lane and sequence; everything that can be refused is refused here."""
    text_key = key_text(key)
    seen: Knowledge = "unknown"
    base_text = ttl_us = exact = None
    try:
        if if_absent:
            if if_version is not None:
                raise ConfigError(
                    "if_version and if_absent exclude each other",
                    code="usage",
                    hint="give one of them",
                )
            if_version = ABSENT
        if if_version is not None:
            _require_version(if_version)
        if not isinstance(base, Missing):
            seen, base_text = _basis(base)
        if pointer:
            parse_pointer(pointer)
        elif kind == "remove":
            remove_at(MISSING, pointer)
        if body is MISSING and kind not in _WITHOUT_BODY:
            raise DataError(
                "the value is MISSING, which stands for no value",
                code="not_json",
                hint="give a value, None for null; delete(key) removes the document",
            )
        text = None if kind in _WITHOUT_BODY else encode(body)
        if kind == "put" and text is not None and "\\u" not in text:
            exact = keeps_exactly(body)  # here, where the value is at hand
        if ttl_s is not None:
            ttl_us = _ttl_us(ttl_s)
        elif keep_expiry:
            ttl_us = KEEP_EXPIRY
        elif kind == "touch":
            ttl_us = 0
    except (ConfigError, DataError) as error:
        raise error.about(f"{kind} of key {text_key!r} in `{collection}`") from None
    return Op(
        lane="",
        seq=0,
        kind=kind,
        collection=collection,
        key=text_key,
        body=text,
        pointer=pointer,
        if_version=if_version if if_version is None else int(if_version),
        pending=if_version.pending if isinstance(if_version, ProvisionalVersion) else (),
        ttl_us=ttl_us,
        group=group,
        seen=seen,
        base=base_text,
        exact=exact,
    )


def _basis(base: object) -> tuple[Knowledge, str | None]:
    """What a caller says that its write is based on: a document, or none."""
    if base is None:
        return "absent", None
    if not isinstance(base, Document):
        raise ConfigError(
            f"base={type(base).__name__} is not a Document",
            code="usage",
            hint="give the Document that read() returned, or None when there was none",
        )
    document = cast("Document[Any]", base)
    return "present", encode(document.value)


def _ttl_us(ttl_s: object) -> int:
    ttl_us = 0
    if isinstance(ttl_s, timedelta):
        ttl_us = ttl_s // _MICROSECOND
    elif isinstance(ttl_s, int | float) and not isinstance(ttl_s, bool) and 0 < ttl_s < _LONGEST_S:
        ttl_us = max(1, int(ttl_s * 1_000_000))
    if not 0 < ttl_us < _LONGEST_S * 1_000_000:
        raise ConfigError(
            f"ttl_s={ttl_s!r} is not a time to live",
            code="usage",
            hint="give seconds above 0, or a timedelta",
        )
    return ttl_us


def raise_refusal(op: Op, outcome: Outcome) -> NoReturn:
    """Raise the error of a refused op, for its caller alone."""
    raise refusal_error(op, outcome)


def refused(op: Op, error: StandfastError) -> Outcome:
    """The outcome from which `refusal_error` makes such an error again."""
    message = error.message.removeprefix(f"{op.kind} of key {op.key!r} in `{op.collection}`: ")
    version = error.actual if isinstance(error, ConflictError) else None
    if version is not None:
        message = message.removesuffix(f" (expected {op.if_version}, found {version})")
    return Outcome(op.seq, "refused", version, None, error.code, message)


def _require_version(version: object) -> None:
    """A version is what `Document.version` and `Receipt.version` are, and nothing like it."""
    if isinstance(version, bool) or not isinstance(version, int):
        raise ConfigError(
            f"if_version is a {type(version).__name__}, not an int",
            code="usage",
            hint="give the version of the document that was read",
        )
    if not -1 <= version <= _MAX_VERSION:  # -1: a provisional one of what is not known here
        raise ConfigError(
            "if_version is a number that no version is",
            code="usage",
            hint="give the version of the document that was read",
        )


def refusal_error(op: Op, outcome: Outcome) -> StandfastError:
    """The error of a refused op."""
    what = f"{op.kind} of key {op.key!r} in `{op.collection}`: {outcome.message}"
    if outcome.code == "conflict":
        found = outcome.version or 0
        return ConflictError(
            f"{what} (expected {op.if_version}, found {found})",
            hint="read the document again and decide anew",
            expected=op.if_version,
            actual=found,
        )
    if outcome.code == "needs_primary":
        return Unavailable(
            what,
            code=outcome.code,
            hint="try again later; or open the store with sole_writer=True, or pass"
            " provisional=True",
        )
    kind = CorruptData if outcome.code == CorruptData.code else DataError
    return kind(what, code=outcome.code, hint="nothing was changed")
