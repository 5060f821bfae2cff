"""The contract, part 6: lanes that are closed for good (R1), and resending in any cut (R2)."""

from __future__ import annotations

import random
import threading
import time

import pytest

from contract.suite.base import ContractBase, make_lane, told
from standfast.backends.base import Backend
from standfast.errors import Unavailable
from standfast.ops.types import Kind, Op


class FencesContract(ContractBase):
    """After a fence nothing of its lanes commits, and it tells what had committed before."""

    def refused(self, backend: Backend, lane: str, *seqs: int) -> None:
        """A batch of this lane must be `Unavailable("fenced")`."""
        with pytest.raises(Unavailable) as caught:
            backend.apply([self.op(lane, seq, "increment", "1", "1") for seq in seqs])
        assert caught.value.code == "fenced"

    def test_r1_a_lane_that_never_wrote_can_be_fenced_first(self, backend: Backend) -> None:
        """R1: a fence comes before the lane's first batch, even before anything was ever written:
        what is still on its way finds the lane closed."""
        lane = make_lane()
        assert backend.fence([lane], directory=make_lane()) == {lane: 0}
        self.refused(backend, lane, 1)
        assert backend.count(self.collection) == 0
        assert self.write(backend, "put", "1", "1").version == 1

    def test_r1_a_fence_tells_the_final_watermark(self, backend: Backend) -> None:
        """R1: of several lanes at once, each its own: gaps, refusals and unknown lanes included."""
        lanes = sorted((make_lane(), make_lane(), make_lane()), reverse=True)
        backend.apply([self.op(lanes[0], seq, "put", "1", "1") for seq in (3, 17)])
        backend.apply([self.op(lanes[1], 5, "put", "1", "1", if_version=99)])
        expected = dict(zip(lanes, (17, 5, 0), strict=True))
        assert backend.fence(lanes) == expected
        assert backend.fence([]) == {}

    def test_r18_a_fenced_lane_keeps_its_last_outcomes(self, backend: Backend) -> None:
        """R18: what a lane's last batch came to is known after its fence, refusals included; a
        batch of which everything is skipped does not replace it."""
        lane = make_lane()
        backend.apply([self.op(lane, 1, "put", "1", "1")])
        batch = [
            self.op(lane, 2, "put", "1", "2", if_version=99),
            self.op(lane, 3, "put", "2", "3"),
        ]
        backend.apply(batch)
        for half in (batch[:1], batch[1:], batch):
            backend.apply(half)
            found = {one.seq: one.status for one in backend.outcomes(lane)}
            assert found == {2: "refused", 3: "applied"}
        backend.fence([lane])
        assert {one.seq: one.status for one in backend.outcomes(lane)} == found

    def test_r1_fencing_again_changes_nothing(self, backend: Backend) -> None:
        """R1: a fence is idempotent, a lane may be named twice, and other lanes stay open."""
        lane, other, directory = make_lane(), make_lane(), make_lane()
        backend.apply([self.op(lane, 1, "increment", "1", "1")], directory=directory)
        backend.apply([self.op(other, 1, "increment", "1", "1")], directory=directory)
        for lanes in ([lane], [lane, lane], [lane]):
            assert backend.fence(lanes, directory=directory) == {lane: 1}
        assert backend.apply([self.op(other, 2, "increment", "1", "1")]).watermark == 2
        assert self.text(backend, "1") == "3"

    def test_r1_nothing_of_a_fenced_lane_commits(self, backend: Backend) -> None:
        """R1: new ops, old ops and both together are refused, and so is what a replay would
        record as a conflict."""
        lane = make_lane()
        backend.apply([self.op(lane, seq, "increment", "1", "1") for seq in (1, 2)])
        backend.fence([lane])
        for seqs in ((1,), (1, 2), (2, 3), (3,), (3, 4)):
            self.refused(backend, lane, *seqs)
        with pytest.raises(Unavailable):
            backend.apply([self.replay(lane, 3, "put", "1", "9", reject="held")])
        assert self.contents(backend) == {"1": "2"}
        assert backend.conflicts() == []
        assert backend.fence([lane]) == {lane: 2}

    def test_r1_a_fence_in_the_midst_of_writes(self, backend: Backend) -> None:
        """R1: while another thread writes, the watermark that a fence tells is exactly what took
        effect: no batch commits after it."""
        lane, began = make_lane(), threading.Event()
        ended: list[str] = []

        def work() -> None:
            try:
                for seq in range(1, 100_000):
                    backend.apply([self.op(lane, seq, "increment", "1", "1")])
                    began.set()
            except Unavailable as error:
                ended.append(error.code)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert began.wait(60)
        final = backend.fence([lane])
        thread.join(60)
        assert ended == ["fenced"]
        assert self.text(backend, "1") == str(final[lane])

    def test_r1_what_two_lanes_have_moved_takes_effect_once(self, backend: Backend) -> None:
        """I2, R1: ops of a closed lane that go on under two others, as where a data directory was
        copied, are applied by the one that comes first, one by one; rejected ones are
        recorded once; and the closed lane's watermark stays what it was."""
        closed, one, two = make_lane(), make_lane(), make_lane()
        backend.fence([closed])

        def moved(lane: str, seq: int, first: int, reject: str = "") -> Op:
            origin = (closed, first)
            return self.replay(lane, seq, "increment", "1", "1", origin=origin, reject=reject)

        backend.apply([moved(one, 1, 1), moved(one, 2, 2, reject="held")])
        batch = [moved(two, 4, 1), moved(two, 5, 2, reject="held"), moved(two, 6, 3)]
        for statuses in (["skipped", "skipped", "applied"], ["skipped"] * 3):
            applied = backend.apply(batch)
            assert [outcome.status for outcome in applied.outcomes] == statuses
            assert applied.watermark == 6
        assert backend.apply([moved(one, 3, 3)]).watermark == 3
        assert self.text(backend, "1") == "2"
        assert [entry.reason for entry in backend.conflicts()] == ["held"]
        assert backend.fence([closed]) == {closed: 0}

    def test_r1_two_lanes_that_move_at_once(self, backend: Backend) -> None:
        """I2, R1: the same while both are at it."""
        closed, lanes = make_lane(), [make_lane(), make_lane()]
        backend.fence([closed])

        def work(through: Backend, lane: str) -> None:
            for seq in range(1, 31):
                key = str(seq % 4)
                op = self.replay(lane, seq, "increment", key, "1", origin=(closed, seq))
                through.apply([op])

        other = backend.new_handle()
        other.connect(time.monotonic() + 60)
        thread = threading.Thread(target=work, args=(other, lanes[1]), daemon=True)
        thread.start()
        work(backend, lanes[0])
        thread.join(60)
        if other is not backend:
            other.close()
        assert sum(map(int, self.contents(backend).values())) == 30

    def test_r2_any_cut_of_a_resend_applies_each_op_once(self, backend: Backend) -> None:
        """I2, R2: batches that are cut differently each time, over gaps, apply every op once."""
        lane, dice, high = make_lane(), random.Random(7), 0
        ops = [
            self.op(lane, seq, "append", "1", str(seq))
            for seq in range(1, 90)
            if seq % 7 not in (3, 4)
        ]
        while high < len(ops):
            start = dice.randint(max(0, high - 9), high)
            batch = ops[start : start + dice.randint(1, 12)]
            outcomes = backend.apply(batch).outcomes
            assert [outcome.seq for outcome in outcomes] == [op.seq for op in batch]
            fresh = [outcome.seq for outcome in outcomes if outcome.status == "applied"]
            assert fresh == [op.seq for op in batch if op in ops[high:]]
            high = max(high, start + len(batch))
        assert self.text(backend, "1") == "[" + ",".join(str(op.seq) for op in ops) + "]"

    def test_r2_what_was_skipped_is_observed_as_it_is(self, backend: Backend) -> None:
        """R2, R5: after a batch whose ops were all skipped, `observed` still holds what is there
        now: what others made of it since, texts included."""
        lane, directory = make_lane(), make_lane()
        kinds: tuple[tuple[Kind, str, str | None], ...] = (
            *(("put", "1", '{"b":1,"a":2}'), ("put", "2", "2"), ("put", "3", "3")),
            *(("put", "4", "4"), ("delete", "5", None), ("patch", "6", '{"b":1,"a":2}')),
        )
        ops = [self.op(lane, n, kind, key, body) for n, (kind, key, body) in enumerate(kinds, 1)]
        backend.apply(ops, directory=directory)
        self.write(backend, "put", "2", '{"theirs":1}')
        self.write(backend, "delete", "3")
        again = backend.apply(ops, expected_watermark=6, directory=directory)
        assert {outcome.status for outcome in again.outcomes} == {"skipped"}
        texts = {state.key: (state.text, state.version) for state in again.observed.states}
        assert texts == {
            "1": ('{"b":1,"a":2}', 1),
            "2": ('{"theirs":1}', 2),
            "3": (None, 2),
            "4": ("4", 1),
            "5": (None, 0),
            "6": ('{"b":1,"a":2}', 1),
        }
        assert again.observed.watermarks == {lane: 6}

    def test_r12_parked_and_merged_ops_are_told_again(self, backend: Backend) -> None:
        """R12: after a lost reply a replayed op is told as rejected or merged, as it was."""
        lane = make_lane()
        self.write(backend, "put", "1", '{"a":1,"b":1}')
        ops = [
            self.replay(lane, 1, "put", "1", '{"a":2}', base='{"a":1}'),
            self.replay(lane, 2, "increment", "1", "1"),
            self.replay(lane, 3, "put", "2", "1"),
        ]
        first = told(backend.apply(ops).outcomes)
        assert first == [
            (1, "merged", 2, ""),
            (2, "rejected", 2, "wrong_type"),
            (3, "applied", 1, ""),
        ]
        assert told(backend.apply(ops).outcomes) == [*first[:2], (3, "skipped", 1, "")]
