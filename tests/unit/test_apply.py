"""What one op makes of one document: conditions, versions and expiry, without any database."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.document.codec import decode, encode
from standfast.ops.apply import Current, Refusal, apply_op, holds
from standfast.ops.types import ABSENT, Identity, Op

LANE = "lane"
texts = st.none() | st.sampled_from(['{"a":1,"n":2,"l":[]}', "[]", "7", '"text"', "null"])


def op(kind: Any = "put", body: str | None = "1", **how: Any) -> Op:
    return Op(lane=LANE, seq=9, kind=kind, collection="things", key="1", body=body, **how)


@st.composite
def ops(draw: st.DrawFn) -> Op:
    kind = draw(st.sampled_from(["put", "patch", "append", "increment", "delete"]))
    body = None if kind == "delete" else draw(st.sampled_from(["1", "{}", '{"a":null}', '"x"']))
    return op(
        kind,
        body,
        pointer=draw(st.sampled_from(["", "/n", "/l"])),
        if_version=draw(st.none() | st.integers(0, 4)),
        ttl_us=None if kind == "delete" else draw(st.sampled_from([None, 0, 5])),
    )


@st.composite
def currents(draw: st.DrawFn) -> Current:
    return Current(
        *(draw(texts), draw(st.integers(0, 4)), None, False),
        created_us=11,
        updated_us=12,
        expires_us=draw(st.sampled_from([None, 13])),
    )


# ---- conditions


@pytest.mark.parametrize(
    ("text", "version", "if_version", "expected"),
    [
        ("1", 3, None, True),
        (None, 3, None, True),
        ("1", 3, 3, True),
        ("1", 3, 2, False),
        ("1", 3, 4, False),
        ("1", 3, ABSENT, False),
        (None, 3, ABSENT, True),
        (None, 3, 3, False),
        (None, 0, ABSENT, True),
    ],
)
def test_a_condition_is_about_the_document(
    text: str | None, version: int, if_version: int | None, expected: bool
) -> None:
    """A condition holds on exactly one version, and on absence where there is no document,
    whatever version its grave has."""
    assert holds(Current(text, version), op(if_version=if_version)) == expected


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 4), st.booleans())
def test_a_condition_on_pending_ops_counts_them(
    version: int, confirmed: int, count: int, present: bool
) -> None:
    """I2: with own pending ops the version is the confirmed one and one more for each of them,
    also when the last of them deleted the document."""
    pending = tuple((LANE, seq) for seq in range(1, count + 1))
    found = Current("1" if present else None, version)
    judged = op(if_version=confirmed, pending=pending)
    assert holds(found, judged) == (version == confirmed + count)


@given(st.sets(st.integers(1, 6)), st.sets(st.integers(1, 6), min_size=1))
def test_a_condition_fails_when_one_of_its_ops_is_in_the_ledger(
    entered: set[int], seen: set[int]
) -> None:
    """I5: a pending op that is recorded as a conflict did not make what its caller saw."""
    names: set[Identity] = {(LANE, seq) for seq in entered} | {("other", seq) for seq in seen}
    judged = op(if_version=1, pending=tuple((LANE, seq) for seq in sorted(seen)))
    exact = Current("1", 1 + len(seen))
    assert holds(exact, judged, names) == (not entered & seen)


# ---- effects


@given(currents(), ops())
def test_i3_the_version_goes_up_by_one_or_nothing_changes(current: Current, one: Op) -> None:
    """I3: an op that changes a place raises its version by one and marks it; one that does not
    returns the very same place; a refused one says which version was found."""
    after: Current | None = None
    refusal: Refusal | None = None
    try:
        after = apply_op(current, one)
    except Refusal as error:
        refusal = error
    if after is None:
        assert refusal is not None
        assert refusal.version == current.live_version
        assert refusal.code
        return
    if after is current:
        assert one.kind == "delete"
        assert current.text is None
        return
    assert after.changed
    assert after.version == current.version + 1
    assert (after.text is None) == (one.kind == "delete")
    if after.text is not None:
        assert after.fresh == (current.text is None)
        assert encode(decode(after.text)) == after.text or after.text == one.body


@given(currents(), st.lists(ops(), max_size=6))
def test_i3_within_a_batch_versions_never_repeat(current: Current, batch: list[Op]) -> None:
    """I3: through any sequence of ops on one place every change has a version of its own, and a
    document that was deleted on the way is made anew."""
    versions = [current.version]
    was_gone = current.text is None
    for one in batch:
        try:
            after = apply_op(current, one)
        except Refusal:
            continue
        if after is not current:
            versions.append(after.version)
        current = after
        was_gone = was_gone or current.text is None
        if current.changed and current.text is not None:
            assert current.fresh == was_gone
    assert versions == sorted(set(versions))


@pytest.mark.parametrize(
    ("kind", "text", "ttl_us", "expected"),
    [
        ("put", "1", None, (0, None)),
        ("put", "1", 5, (5, None)),
        ("put", None, None, (0, None)),
        ("increment", "1", None, (None, 13)),
        ("increment", "1", 0, (0, None)),
        ("increment", "1", 5, (5, None)),
        ("increment", None, None, (0, None)),
    ],
)
def test_the_expiry_that_an_op_leaves(
    kind: str, text: str | None, ttl_us: int | None, expected: tuple[int | None, int | None]
) -> None:
    """A put and a new document clear the expiry, a change keeps it, and a time to live sets it."""
    after = apply_op(Current(text, 1, expires_us=13), op(kind, "1", ttl_us=ttl_us))
    assert (after.ttl_us, after.expires_us) == expected


def test_a_place_that_can_hold_nothing() -> None:
    """I6: a key that its table cannot hold refuses every op, before its condition is looked at."""
    for one in (op(), op(if_version=7), op("delete", None)):
        with pytest.raises(Refusal) as caught:
            apply_op(Current(unfit="the key column is bigint"), one)
        assert caught.value.code == "bad_key"


def test_a_stored_text_that_is_no_json() -> None:
    """I6: a document that cannot be read refuses changes, and may still be replaced or deleted;
    the refusal shows nothing of it."""
    broken = Current('{"secret":', 4)
    with pytest.raises(Refusal) as caught:
        apply_op(broken, op("patch", "{}"))
    assert "secret" not in caught.value.message
    assert caught.value.version == 4
    assert apply_op(broken, op("put", "1")).text == "1"
    assert apply_op(broken, op("delete", None)).text is None
