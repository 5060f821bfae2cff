"""Which pending ops go next: all of them sooner or later, in order, and groups never cut."""

from __future__ import annotations

from collections import defaultdict

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from standfast.engine.journal import Pending
from standfast.engine.replay_batches import next_batch, place_of, rebased, units
from standfast.engine.waiting import Kinds
from standfast.ops.types import Identity, Kind, Knowledge, Op

LANES, KEYS = ("a", "b", "c"), ("1", "2", "3", "4")


@st.composite
def journals(draw: st.DrawFn) -> list[Pending]:
    """A journal of several lanes: lone ops and groups that are written together."""
    seqs = dict.fromkeys(LANES, 0)
    found: list[Pending] = []
    for _ in range(draw(st.integers(0, 12))):
        lane = draw(st.sampled_from(LANES))
        keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=4))
        group = seqs[lane] + 1 if draw(st.booleans()) else 0
        for key in keys if group else keys[:1]:
            seqs[lane] += 1
            op = Op(
                lane=lane,
                seq=seqs[lane],
                kind="put",
                collection="c",
                key=key,
                body="1" * draw(st.integers(1, 9)),
                group=group,
            )
            found.append(Pending(len(found) + 1, op))
    return found


BLOCKED = st.frozensets(st.tuples(st.just("c"), st.sampled_from(KEYS)))
LIMITS = st.tuples(st.integers(1, 6), st.integers(1, 40))


def drained(
    journal: list[Pending], blocked: frozenset[tuple[str, str]], limits: tuple[int, int]
) -> tuple[list[list[list[Pending]]], list[Pending]]:
    """The batches until none can go, and what stays."""
    batches: list[list[list[Pending]]] = []
    left = list(journal)
    while batch := next_batch(left, blocked=blocked, max_ops=limits[0], max_bytes=limits[1]):
        batches.append(batch)
        gone = {one.id for unit in batch for one in unit}
        left = [one for one in left if one.id not in gone]
    return batches, left


@given(journals(), LIMITS)
def test_everything_is_drained_in_order(journal: list[Pending], limits: tuple[int, int]) -> None:
    """I2, I3: nothing stays behind; each place keeps its order, each lane its sequences."""
    batches, left = drained(journal, frozenset(), limits)
    assert left == []
    gone = [one for batch in batches for unit in batch for one in unit]
    assert sorted(one.id for one in gone) == [one.id for one in journal]
    places: dict[object, list[int]] = defaultdict(list)
    lanes: dict[str, list[int]] = defaultdict(list)
    for one in gone:
        places[place_of(one)].append(one.id)
        lanes[one.op.lane].append(one.op.seq)
    for order in (*places.values(), *lanes.values()):
        assert order == sorted(order)


@given(journals(), LIMITS, BLOCKED)
def test_a_batch_is_of_one_lane_and_within_the_limits(
    journal: list[Pending], limits: tuple[int, int], blocked: frozenset[tuple[str, str]]
) -> None:
    """I7: one transaction is one lane's, and larger than the limits only for one single unit."""
    for batch in drained(journal, blocked, limits)[0]:
        ops = [one.op for unit in batch for one in unit]
        assert len({op.lane for op in ops}) == 1
        if len(batch) > 1:
            assert len(ops) <= limits[0]
            assert sum(len(op.body or "") for op in ops) <= limits[1]


@given(journals(), LIMITS, BLOCKED)
def test_groups_are_never_cut(
    journal: list[Pending], limits: tuple[int, int], blocked: frozenset[tuple[str, str]]
) -> None:
    """All or nothing: the ops of a group go in one transaction."""
    whole = {unit[0].id: len(unit) for unit in units(journal)}
    for batch in drained(journal, blocked, limits)[0]:
        for unit in batch:
            assert len(unit) == whole[unit[0].id]


@given(journals(), LIMITS, BLOCKED)
def test_what_is_blocked_holds_up_only_its_own(
    journal: list[Pending], limits: tuple[int, int], blocked: frozenset[tuple[str, str]]
) -> None:
    """Blocked places wait, with all behind them on their places and lanes; the others go on."""
    batches, left = drained(journal, blocked, limits)
    for batch in batches:
        assert all(place_of(one) not in blocked for unit in batch for one in unit)
    stayed = {one.id for one in left}
    places, lanes = set(blocked), set[str]()
    for unit in units(journal):
        mine = {place_of(one) for one in unit}
        must_wait = unit[0].op.lane in lanes or not places.isdisjoint(mine)
        assert all((one.id in stayed) == must_wait for one in unit)
        if must_wait:
            places |= mine
            lanes.add(unit[0].op.lane)


@given(journals())
def test_a_window_that_ends_inside_a_group_leaves_it(journal: list[Pending]) -> None:
    """All or nothing: the last group of a window that may go on is left for a larger window."""
    cut = units(journal)
    batch = next_batch(journal, whole=False)
    if len(cut) > 1 and cut[-1][-1].op.group:
        assert cut[-1] not in batch


def test_two_groups_in_a_row_stay_two() -> None:
    """Groups of one lane that follow each other are not one."""
    ops = [
        Op(lane="a", seq=n, kind="put", collection="c", key="1", body="1", group=group)
        for n, group in ((1, 1), (2, 1), (3, 3), (4, 3), (5, 0), (6, 0))
    ]
    journal = [Pending(op.seq, op) for op in ops]
    assert [len(unit) for unit in units(journal)] == [2, 2, 1, 1]


def test_a_group_takes_its_other_places_along() -> None:
    """What waits with a group waits on all of its places."""
    ops = [
        Op(lane="a", seq=1, kind="put", collection="c", key="1", body="1", group=1),
        Op(lane="a", seq=2, kind="put", collection="c", key="2", body="1", group=1),
        Op(lane="a", seq=3, kind="put", collection="c", key="3", body="1"),
    ]
    journal = [Pending(op.seq, op) for op in ops]
    later = Pending(4, Op(lane="a", seq=4, kind="put", collection="c", key="2", body="1"))
    kinds = Kinds(blocked={("c", "1"): "locked"})
    assert [kinds.of(unit) for unit in units([*journal, later])] == ["locked", "", "locked"]


@given(journals(), BLOCKED, st.booleans())
def test_each_reason_to_wait_has_its_lanes(
    journal: list[Pending], blocked: frozenset[tuple[str, str]], held: bool
) -> None:
    """R21: once each kind of unit is on a lane of its own, exactly what must wait stays."""
    reasons = {place: f"suspect {number}" for number, place in enumerate(sorted(blocked))}
    kinds = Kinds({"c"} if held else set(), reasons)
    moved: list[Pending] = []
    free: set[int] = set()
    for unit in units(journal):
        kind = kinds.of(unit)
        lane = f"{unit[0].op.lane} {kind}"
        for one in unit:
            op = msgspec.structs.replace(one.op, lane=lane)
            moved.append(Pending(one.id, op))
        free |= set() if kind else {one.id for one in unit}
    left = list(moved)
    while batch := next_batch(left, blocked=blocked, held={"c"} if held else set()):
        gone = {one.id for unit in batch for one in unit}
        left = [one for one in left if one.id not in gone]
    assert {one.id for one in moved} - {one.id for one in left} == free
    assert not (held and free)


def op_of(
    seq: int, kind: Kind, body: str | None, base: str | None, seen: Knowledge = "present"
) -> Op:
    return Op(
        lane="a", seq=seq, kind=kind, collection="c", key="k", body=body, base=base, seen=seen
    )


def bases(ops: list[Op], *rejected: int) -> dict[int, tuple[Knowledge, str | None]]:
    names: set[Identity] = {("a", seq) for seq in rejected}
    return {seq: (op.seen, op.base) for (_, seq), op in rebased(ops, names).items()}


def test_what_was_made_from_a_rejected_op_is_based_on_what_was_before() -> None:
    """I5: own writes that the primary refused are not taken for changes by others.

    Through every op that is based on them, up to one that replaces the document.
    """
    ops = [
        op_of(1, "patch", '{"b":1}', '{"a":1}'),
        op_of(2, "patch", '{"c":1}', '{"a":1,"b":1}'),
        op_of(4, "delete", None, '{"a":1,"b":1,"c":1}'),
        op_of(5, "put", "{}", None, "absent"),
    ]
    assert bases(ops, 1) == {2: ("present", '{"a":1}'), 4: ("present", '{"a":1,"c":1}')}
    assert bases(ops, 2) == {4: ("present", '{"a":1,"b":1}')}
    assert bases(ops, 1, 2) == {4: ("present", '{"a":1}')}
    assert bases(ops) == {}


def test_a_document_that_only_a_rejected_op_made_was_never_there() -> None:
    """Behind a put that is rejected, on nothing, a delete and a put are based on nothing."""
    ops = [
        op_of(1, "put", '{"a":1}', None, "absent"),
        op_of(2, "put", '{"b":1}', '{"a":1}'),
        op_of(3, "delete", None, '{"b":1}'),
    ]
    assert bases(ops, 1) == {2: ("absent", None)}
    assert bases([ops[0], op_of(2, "delete", None, '{"a":1}')], 1) == {2: ("absent", None)}
    unknown = [op_of(1, "put", '{"a":1}', None, "unknown"), *ops[1:]]
    assert bases(unknown, 1) == {}, "what was before is not known"
