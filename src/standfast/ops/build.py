"""From the arguments of a call to an op, and from a refused op to the error of its caller."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from standfast.document.codec import encode
from standfast.document.jsonb import keeps_exactly
from standfast.document.names import key_text
from standfast.document.patch import parse_pointer
from standfast.document.values import MISSING, Missing
from standfast.errors import ConfigError, ConflictError, CorruptData, DataError, StandfastError
from standfast.ops.types import (
    ABSENT,
    Document,
    Kind,
    Knowledge,
    Op,
    Outcome,
    ProvisionalVersion,
)


def build_op(
    kind: Kind,
    collection: str,
    key: object,
    *,
    body: Any = MISSING,
    pointer: str = "",
    if_version: int | None = None,
    if_absent: bool = False,
    ttl_s: float | None = None,
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
        if not isinstance(base, Missing):
            seen, base_text = _basis(base)
        if pointer:
            parse_pointer(pointer)
        text = None if body is MISSING else encode(body)
        if kind == "put" and text is not None and "\\u" not in text:
            exact = keeps_exactly(body)  # here, where the value is at hand
        if ttl_s is not None:
            ttl_us = _ttl_us(ttl_s)
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


def _ttl_us(ttl_s: float) -> int:
    if not 0 < ttl_s < 10**10:
        raise ConfigError(
            f"ttl_s={ttl_s!r} is not a time to live", code="usage", hint="give seconds above 0"
        )
    return max(1, int(ttl_s * 1_000_000))


def raise_refusal(op: Op, outcome: Outcome) -> NoReturn:
    """Raise the error of a refused op, for its caller alone."""
    raise refusal_error(op, outcome)


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
    kind = CorruptData if outcome.code == CorruptData.code else DataError
    return kind(what, code=outcome.code, hint="nothing was changed")
