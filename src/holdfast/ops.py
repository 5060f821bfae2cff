"""From the arguments of a call to an op, and from a refused op to the error of its caller."""

from __future__ import annotations

from typing import Any, NoReturn

from holdfast.codec import encode
from holdfast.errors import ConfigError, ConflictError, CorruptData, DataError
from holdfast.jsonvalue import MISSING
from holdfast.naming import key_text
from holdfast.patch import parse_pointer
from holdfast.types import ABSENT, Kind, Op, Outcome


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
) -> Op:
    """An op without lane and sequence; everything that can be refused is refused here."""
    if if_absent:
        if if_version is not None:
            raise ConfigError(
                "if_version and if_absent exclude each other", code="usage", hint="give one of them"
            )
        if_version = ABSENT
    if pointer:
        parse_pointer(pointer)
    return Op(
        lane="",
        seq=0,
        kind=kind,
        collection=collection,
        key=key_text(key),
        body=None if body is MISSING else encode(body),
        pointer=pointer,
        if_version=if_version,
        ttl_us=_ttl_us(ttl_s),
        group=group,
    )


def _ttl_us(ttl_s: float | None) -> int | None:
    if ttl_s is None:
        return None
    if not 0 < ttl_s < 10**10:
        raise ConfigError(
            f"ttl_s={ttl_s!r} is no time to live", code="usage", hint="give seconds above 0"
        )
    return max(1, int(ttl_s * 1_000_000))


def raise_refusal(op: Op, outcome: Outcome) -> NoReturn:
    """The error of a refused op, for its caller alone."""
    what = f"{op.kind} of key {op.key!r} in `{op.collection}`: {outcome.message}"
    if outcome.code == "conflict":
        found = outcome.version or 0
        raise ConflictError(
            f"{what} (expected {op.if_version}, found {found})",
            hint="read the document again and decide anew",
            expected=op.if_version,
            actual=found,
        )
    kind = CorruptData if outcome.code == CorruptData.code else DataError
    raise kind(what, code=outcome.code, hint="nothing was changed")
