"""The contract, part 1: lanes, watermarks and retries (I2, R2, R12)."""

from __future__ import annotations

import pytest

from contract.suite.base import ContractBase, make_lane, told
from standfast.backends.base import Backend
from standfast.errors import CorruptData, Unavailable


class LanesContract(ContractBase):
    """An op takes effect at most once, and its outcome can be asked for again."""

    def test_check_changes_nothing(self, backend: Backend) -> None:
        """`check` looks and creates nothing; it may be called again."""
        before = backend.collections()
        backend.check()
        backend.check()
        assert backend.collections() == before

    def test_close_is_idempotent(self, backend: Backend) -> None:
        """`close` twice is no error, also when nothing was ever opened."""
        backend.close()
        backend.close()

    def test_identity_is_there_after_the_first_write_and_stays(self, backend: Backend) -> None:
        """The identity of a history is a UUID from the first write on, and never changes."""
        self.write(backend, "put", "1", "{}")
        first = backend.identity()
        assert first is not None
        assert len(first) == 36
        self.write(backend, "put", "2", "{}")
        assert backend.identity() == first

    def test_install_creates_what_is_named(self, backend: Backend) -> None:
        """`install` makes the tables and collections, once; what is in them stays."""
        assert backend.schema_version() >= 0
        backend.install([self.collection])
        assert self.collection in backend.collections()
        assert self.other not in backend.collections()
        assert backend.schema_version() > 0
        self.write(backend, "put", "1", "1")
        backend.install([self.collection, self.other])
        assert {self.collection, self.other} <= set(backend.collections())
        assert self.contents(backend) == {"1": "1"}

    def test_a_batch_tells_an_outcome_for_each_op_in_order(self, backend: Backend) -> None:
        """Outcomes come in the order of the ops; the watermark is the last sequence."""
        lane = make_lane()
        applied = backend.apply(
            [
                self.op(lane, 3, "put", "2", '{"a":1}'),
                self.op(lane, 4, "put", "1", "7"),
                self.op(lane, 9, "delete", "2"),
            ]
        )
        assert told(applied.outcomes) == [
            (3, "applied", 1, ""),
            (4, "applied", 1, ""),
            (9, "applied", 2, ""),
        ]
        assert [outcome.text for outcome in applied.outcomes] == ['{"a":1}', "7", None]
        assert applied.watermark == 9

    def test_i2_the_same_batch_again_is_skipped(self, backend: Backend) -> None:
        """I2: a batch that comes again changes nothing and is told as skipped."""
        lane = make_lane()
        ops = [
            self.op(lane, 1, "increment", "1", "1"),
            self.op(lane, 2, "append", "2", "true"),
            self.op(lane, 3, "increment", "1", "1"),
        ]
        first = backend.apply(ops)
        for _ in range(2):
            again = backend.apply(ops, expected_watermark=first.watermark)
            assert told(again.outcomes) == [
                (1, "skipped", 1, ""),
                (2, "skipped", 1, ""),
                (3, "skipped", 2, ""),
            ]
            assert again.watermark == 3
        assert self.contents(backend) == {"1": "2", "2": "[true]"}

    def test_i2_a_batch_cut_differently_is_skipped_one_by_one(self, backend: Backend) -> None:
        """I2, R2: ops at or below the watermark are skipped one by one, the others applied."""
        lane = make_lane()
        ops = [self.op(lane, seq, "increment", "1", "1") for seq in range(1, 7)]
        backend.apply(ops[:3])
        cut = backend.apply(ops[1:5])
        assert [outcome.status for outcome in cut.outcomes] == [
            *("skipped", "skipped"),
            *("applied", "applied"),
        ]
        assert cut.watermark == 5
        assert [o.status for o in backend.apply(ops[:1]).outcomes] == ["skipped"]
        assert [o.status for o in backend.apply(ops[5:]).outcomes] == ["applied"]
        assert self.text(backend, "1") == "6"

    def test_i2_gaps_between_sequences_are_normal(self, backend: Backend) -> None:
        """R2: a sequence may jump; what lies in the gap counts as applied from then on."""
        lane = make_lane()
        backend.apply([self.op(lane, 1, "increment", "1", "1")])
        backend.apply([self.op(lane, 50, "increment", "1", "1")])
        late = backend.apply([self.op(lane, 7, "increment", "1", "1")])
        assert told(late.outcomes) == [(7, "skipped", None, "")]
        assert self.text(backend, "1") == "2"

    def test_lanes_do_not_know_each_other(self, backend: Backend) -> None:
        """The same sequences in two lanes are different ops."""
        for lane in (make_lane(), make_lane()):
            applied = backend.apply([self.op(lane, 1, "increment", "1", "1")])
            assert applied.outcomes[0].status == "applied"
        assert self.text(backend, "1") == "2"

    def test_r12_a_lost_reply_is_told_again(self, backend: Backend) -> None:
        """R12: after a lost reply each op of the last batch is told as it was, refusals too."""
        lane = make_lane()
        self.write(backend, "put", "2", '"text"')
        ops = [
            self.op(lane, 1, "put", "1", "1"),
            self.op(lane, 2, "put", "1", "2", if_version=7),
            self.op(lane, 3, "increment", "2", "1"),
            self.op(lane, 4, "delete", "1"),
        ]
        first = told(backend.apply(ops).outcomes)
        assert first == [
            (1, "applied", 1, ""),
            (2, "refused", 1, "conflict"),
            (3, "refused", 1, "wrong_type"),
            (4, "applied", 2, ""),
        ]
        again = backend.apply(ops).outcomes
        assert told(again) == [
            (1, "skipped", 1, ""),
            (2, "refused", 1, "conflict"),
            (3, "refused", 1, "wrong_type"),
            (4, "skipped", 2, ""),
        ]
        assert again[1].message

    def test_r12_a_mixed_batch_is_told_again_whole(self, backend: Backend) -> None:
        """R12: a batch of applied and new ops is remembered as a whole: its reply may be lost."""
        lane = make_lane()
        ops = [self.op(lane, seq, "increment", "1", "1") for seq in (1, 2, 3)]
        backend.apply(ops[:2])
        backend.apply(ops)
        assert told(backend.apply(ops).outcomes) == [
            (1, "skipped", 1, ""),
            (2, "skipped", 2, ""),
            (3, "skipped", 3, ""),
        ]

    def test_r12_only_the_last_batch_is_remembered(self, backend: Backend) -> None:
        """R12: an op of an older batch is still skipped, but its version is no longer told."""
        lane = make_lane()
        for seq in (1, 2):
            backend.apply([self.op(lane, seq, "increment", "1", "1")])
        (outcome,) = backend.apply([self.op(lane, 1, "increment", "1", "1")]).outcomes
        assert told([outcome]) == [(1, "skipped", None, "")]

    def test_r12_a_batch_of_refusals_settles_its_ops(self, backend: Backend) -> None:
        """R12: an op that was refused stays refused, also when its condition holds later."""
        lane = make_lane()
        op = self.op(lane, 1, "put", "1", "1", if_version=1)
        assert told(backend.apply([op]).outcomes) == [(1, "refused", 0, "conflict")]
        self.write(backend, "put", "1", '"other"')
        assert told(backend.apply([op]).outcomes) == [(1, "refused", 0, "conflict")]
        assert self.text(backend, "1") == '"other"'

    def test_r2_a_forgotten_watermark_is_time_travel(self, backend: Backend) -> None:
        """R2, I10: a watermark below the expected one is `went_back`, and nothing is written."""
        lane = make_lane()
        backend.apply([self.op(lane, 1, "put", "1", "1")])
        for expected_watermark, name in ((2, lane), (1, make_lane())):
            with pytest.raises(CorruptData) as caught:
                backend.apply(
                    [self.op(name, 5, "put", "1", "2")], expected_watermark=expected_watermark
                )
            assert caught.value.code == "went_back"
        assert self.contents(backend) == {"1": "1"}
        assert (
            backend.apply([self.op(lane, 2, "put", "1", "3")], expected_watermark=1).watermark == 2
        )

    def test_r2_a_watermark_above_the_expected_one_is_no_error(self, backend: Backend) -> None:
        """R2: a reply that never came leaves the caller behind the database, which is normal."""
        lane = make_lane()
        backend.apply([self.op(lane, 4, "put", "1", "1")])
        applied = backend.apply([self.op(lane, 5, "put", "1", "2")], expected_watermark=1)
        assert told(applied.outcomes) == [(5, "applied", 2, "")]

    def test_a_fenced_lane_commits_nothing_more(self, backend: Backend) -> None:
        """R1: a fenced lane is `Unavailable("fenced")` for new and old ops; other lanes go on."""
        lane = make_lane()
        first = self.op(lane, 1, "put", "1", "1")
        backend.apply([first])
        assert backend.fence([lane]) == {lane: 1}
        for op in (first, self.op(lane, 2, "put", "1", "2")):
            with pytest.raises(Unavailable) as caught:
                backend.apply([op], expected_watermark=1)
            assert caught.value.code == "fenced"
        assert self.contents(backend) == {"1": "1"}
        assert self.write(backend, "put", "1", "3").version == 2

    def test_a_closed_lane_is_forgotten(self, backend: Backend) -> None:
        """`close_lane` forgets the lane, twice or unknown is no error, and others are untouched."""
        kept, gone = make_lane(), make_lane()
        for lane in (kept, gone):
            backend.apply([self.op(lane, 1, "increment", "1", "1")])
        backend.close_lane(gone)
        backend.close_lane(gone)
        backend.close_lane(make_lane())
        with pytest.raises(CorruptData):
            backend.apply([self.op(gone, 2, "increment", "1", "1")], expected_watermark=1)
        (outcome,) = backend.apply([self.op(kept, 1, "increment", "1", "1")]).outcomes
        assert outcome.status == "skipped"
        assert self.text(backend, "1") == "2"
