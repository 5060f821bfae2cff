"""Folded heads (C1): the same as all pending ops applied, or not used."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standfast import Unavailable
from standfast.engine.heads import followed, head_of, is_current, pack_head, unpack_head
from standfast.engine.local_state import LocalState, OutageOptions
from standfast.engine.overlay import MirrorRow, view_of
from standfast.ops.types import Observed, Op, State

LANES = ["one", "two"]
KEYS = ["a", "b"]
HOUR_US = 3_600_000_000


@st.composite
def writes(draw: st.DrawFn) -> Op:
    kind: Any = draw(st.sampled_from(["put", "patch", "append", "increment", "delete"]))
    body = {
        "put": draw(st.sampled_from(['{"n":1}', '{"n":1,"l":[]}', "[]", "7"])),
        "patch": draw(st.sampled_from(['{"n":2}', '{"n":null}', '{"x":{"y":1}}'])),
        "append": "5",
        "increment": "1",
        "delete": None,
    }[kind]
    pointer = {"append": draw(st.sampled_from(["/l", ""])), "increment": "/n"}.get(kind, "")
    lane, key = draw(st.sampled_from(LANES)), draw(st.sampled_from(KEYS))
    return Op(
        lane=lane,
        seq=0,
        kind=kind,
        collection="c",
        key=key,
        body=body,
        pointer=pointer,
        replay=True,
    )


STEPS = st.lists(
    st.one_of(
        st.lists(writes(), min_size=1, max_size=4),
        st.tuples(st.sampled_from(["confirm", "expire"]), st.integers(1, 3)),
        st.tuples(st.just("foreign"), st.sampled_from(KEYS)),
        st.tuples(st.just("discard"), st.integers(0, 5)),
        st.just("lose the mirror"),
    ),
    max_size=14,
)


@settings(deadline=None)
@given(STEPS)
def test_a_head_is_what_all_pending_ops_make(steps: list[Any]) -> None:
    """C1, I12: whatever is written, confirmed, discarded or changed by others in between, the view
    by the head is the view by all pending ops."""
    with tempfile.TemporaryDirectory() as folder:
        local_state = LocalState(Path(folder), OutageOptions(), display="x")
        seqs: dict[str, int] = dict.fromkeys(LANES, 0)
        for version, step in enumerate(steps, 1):
            if isinstance(step, list):
                write(local_state, seqs, cast("list[Op]", step))
            elif step == "lose the mirror":
                local_state.mirror.clear()
            elif step[0] == "confirm":
                confirm(local_state, step[1], version)
            elif step[0] == "discard":
                found = list(local_state.journal.everything())
                local_state.journal.remove(found[step[1] : step[1] + 1])
            else:
                expired = 1 if step[0] == "expire" else None
                key = KEYS[0] if step[0] == "expire" else step[1]
                state = State("c", key, '{"n":10,"l":[1]}', version, 1, version, expired)
                marks = watermarks(local_state)
                local_state.mirror.take(Observed([state], marks), seen_us=version)
            for key in KEYS:
                agrees(local_state, key)
        local_state.close()


def write(
    local_state: LocalState, seqs: dict[str, int], drafts: list[Op], *, max_bytes: int = 10**9
) -> None:
    with local_state.journal.writing() as transaction:
        heads: Any = {}
        ops: list[Op] = []
        for draft in drafts:
            seqs[draft.lane] += 1
            op = msgspec.structs.replace(draft, seq=seqs[draft.lane], at_us=len(ops) + 1)
            place = (op.collection, op.key)
            before = heads.get(place) or local_state.head(*place, transaction)
            heads[place] = followed(before, op)
            ops.append(op)
        transaction.add(ops, max_ops=10**6, max_bytes=max_bytes, heads=heads)


def watermarks(local_state: LocalState) -> dict[str, int]:
    return {lane: local_state.mirror.expected_watermark(lane) for lane in LANES}


def confirm(local_state: LocalState, many: int, version: int) -> None:
    """The first ops of one lane reach the primary, and leave the journal or do not yet."""
    found = local_state.journal.first(20)
    mine = [one for one in found if one.op.lane == found[0].op.lane][:many] if found else []
    if not mine:
        return
    lane, watermark = mine[-1].op.lane, mine[-1].op.seq
    states = [
        State("c", key, f'{{"n":{version},"l":[]}}', version, 1, version)
        for key in {one.op.key for one in mine}
    ]
    marks = {**watermarks(local_state), lane: watermark}
    local_state.mirror.confirm(Observed(states, marks), lane=lane, watermark=watermark, retained=[])
    for key in KEYS:
        agrees(local_state, key)
    local_state.journal.remove(mine)


def agrees(local_state: LocalState, key: str) -> None:
    ops = local_state.journal.at("c", key)
    row = local_state.mirror.get("c", key)
    assert local_state.view("c", key) == view_of(row, ops, now_us=HOUR_US)


@pytest.fixture(autouse=True)
def always(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fold also what has few ops, so that random histories meet heads everywhere."""
    if request.function is not test_only_what_has_many_ops_is_folded:
        monkeypatch.setattr("standfast.engine.journal_rows._MANY_OPS", 0)


@pytest.fixture
def local_state(tmp_path: Path) -> Iterator[LocalState]:
    made = LocalState(tmp_path, OutageOptions(), display="x")
    yield made
    made.close()


def test_a_head_is_there_after_a_restart(local_state: LocalState, tmp_path: Path) -> None:
    """C1: heads are kept with the journal, in the transaction of their ops, and are used."""
    drafts = [
        Op(lane="one", seq=0, kind=kind, collection="c", key="k", body=body, pointer=pointer)  # type: ignore[arg-type]
        for kind, body, pointer in [("put", '{"n":1}', ""), ("increment", "1", "/n")]
    ]
    write(local_state, {"one": 0}, drafts)
    again = LocalState(tmp_path, OutageOptions(), display="x")
    head = again.journal.head("c", "k")
    assert head is not None
    assert head.view.text == '{"n":2}'
    assert head.view.pending == (("one", 1), ("one", 2))
    again.close()


def test_only_what_has_many_ops_is_folded(local_state: LocalState) -> None:
    """C1: a place with a few pending ops costs no head, one with many is not applied anew."""
    op = Op(lane="one", seq=0, kind="increment", collection="c", key="k", body="1", pointer="/n")
    first = msgspec.structs.replace(op, kind="put", body='{"n":1}', pointer="")
    for number in range(1, 13):
        write(local_state, {"one": number - 1}, [op if number > 1 else first])
        head = local_state.journal.head("c", "k")
        assert (head is not None) == (number > 8)
        assert local_state.view("c", "k").text == f'{{"n":{number}}}'


def test_a_large_put_is_not_kept_twice(local_state: LocalState) -> None:
    """C1: the head of a put takes its text from the op, and costs a few hundred bytes."""
    text = '"' + "x" * 500_000 + '"'
    put = Op(lane="one", seq=0, kind="put", collection="c", key="k", body=text)
    write(local_state, {"one": 0}, [put])
    with local_state.journal._file.reading("counting") as conn:  # pyright: ignore[reportPrivateUsage]
        assert conn.execute("SELECT length(head) FROM heads").get < 1000
    assert local_state.view("c", "k").text == text


@pytest.mark.parametrize("text", ["x" * 1500, "\u4e16" * 500])
def test_heads_count_for_the_bytes_of_the_journal(local_state: LocalState, text: str) -> None:
    """I7: what is kept of ops and heads is never more than the limit, in bytes and not in
    characters; a head gives way to ops, and reads see the same without it."""
    limit, most, full = 60_000, 0, False
    append = Op(lane="one", seq=0, kind="append", collection="c", key="k", body=f'"{text}"')
    write(local_state, {"one": 0}, [msgspec.structs.replace(append, kind="put", body="[]")])
    number = 1
    while not full:
        try:
            write(local_state, {"one": number}, [append], max_bytes=limit)
        except Unavailable as error:
            full = error.code == "journal_full"
        else:
            number += 1
        with local_state.journal._file.reading("measuring") as conn:  # pyright: ignore[reportPrivateUsage]
            heads = conn.execute("SELECT coalesce(sum(length(head)), 0) FROM heads").get
            ops = conn.execute("SELECT sum(length(op)) FROM ops").get
            assert conn.execute("SELECT bytes FROM head_totals").get == heads
        assert heads + local_state.journal.totals().bytes <= limit
        assert ops <= local_state.journal.totals().bytes
        most = max(most, heads)
        agrees(local_state, "k")
    assert most > 10_000, "heads were kept while there was room"
    assert local_state.journal.totals().bytes > limit - 3_000, "and took none from ops"
    local_state.journal.remove(list(local_state.journal.everything()))
    with local_state.journal._file.reading("measuring") as conn:  # pyright: ignore[reportPrivateUsage]
        assert conn.execute("SELECT bytes FROM head_totals").get == 0


def test_a_head_gives_way_to_the_ops_of_other_places(local_state: LocalState) -> None:
    """I7: ops take the room that the head of another document has."""
    append = Op(lane="one", seq=0, kind="append", collection="c", key="k", body=f'"{"x" * 1500}"')
    write(local_state, {"one": 0}, [msgspec.structs.replace(append, kind="put", body="[]")])
    for number in range(1, 13):
        write(local_state, {"one": number}, [append])
    assert local_state.journal.head("c", "k") is not None
    other = msgspec.structs.replace(append, kind="put", key="other")
    limit = local_state.journal.totals().bytes + 20_000
    for number in range(13, 24):
        write(local_state, {"one": number}, [other], max_bytes=limit)
        with local_state.journal._file.reading("measuring") as conn:  # pyright: ignore[reportPrivateUsage]
            heads = conn.execute("SELECT bytes FROM head_totals").get
        assert heads + local_state.journal.totals().bytes <= limit
    assert local_state.journal.head("c", "k") is None
    agrees(local_state, "k")


def test_a_packed_head_is_the_same_head() -> None:
    """C1, I11: packing changes nothing, whatever the names of its ops."""
    row = MirrorRow(State("c", "k", '{"n":1}', 3, 1, 2, HOUR_US), {"one": 4}, 9)
    names = [("one", 5), ("one", 6), ("two", 1), ("one", 9), ("two", 2)]
    ops = [
        Op(lane=lane, seq=seq, kind="increment", collection="c", key="k", body="1", pointer="/n")
        for lane, seq in names
    ]
    head = head_of(row, ops, now_us=0)
    assert head.view.pending == tuple(names)
    assert unpack_head(pack_head(head, without_text=False), last=None) == head
    assert is_current(head, row, now_us=0)
    assert not is_current(head, row, now_us=2 * HOUR_US)
    for changed in ({"one": 5}, {"two": 1}):
        assert not is_current(head, MirrorRow(row.state, changed, 9), now_us=0)
    assert is_current(head, MirrorRow(row.state, {"three": 99}, 9), now_us=0)
