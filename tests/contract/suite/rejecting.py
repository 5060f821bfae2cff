"""The contract, part 9: what cannot be applied on replay is rejected and recorded (I6, R12)."""

from __future__ import annotations

from typing import Any

import pytest

from contract.suite.base import ContractBase, make_lane, told
from standfast.backends.base import Backend
from standfast.ops.types import Op


def _fails(*_: Any) -> Any:
    raise ValueError("secret")


def _not_finite(*_: Any) -> Any:
    return float("nan")


def _no_json(*_: Any) -> Any:
    return object()


class RejectingContract(ContractBase):
    """An acknowledged op takes effect or is recorded as a conflict, and holds nobody up."""

    def rejected(self, backend: Backend, ops: list[Op], **how: Any) -> list[tuple[int, str, str]]:
        """Apply a batch twice; its outcomes as (sequence, status, code).  Nothing is entered a
        second time, and what is rejected is what the conflicts record."""
        first = told(backend.apply(ops, **how).outcomes)
        lines = self.lines(backend)
        again = told(backend.apply(ops, **how).outcomes)
        assert [o for o in again if o[1] != "skipped"] == [o for o in first if o[1] != "applied"]
        assert self.lines(backend) == lines, "a second replay enters nothing"
        aside = {(seq, code) for seq, status, _, code in first if status == "rejected"}
        assert aside <= {(line[0], line[2]) for line in lines}
        return [(seq, status, code) for seq, status, _, code in first]

    # ---- one op

    @pytest.mark.parametrize(
        ("kind", "body", "pointer", "code"),
        [
            ("increment", "1", "/s", "wrong_type"),
            ("append", "1", "/s", "wrong_type"),
            ("append", "1", "/l/9", "bad_index"),
            ("increment", "1", "no pointer", "bad_pointer"),
        ],
    )
    def test_i6_an_op_that_does_not_fit_is_parked_alone(
        self, backend: Backend, kind: Any, body: str, pointer: str, code: str
    ) -> None:
        """I6: what does not fit the document is rejected with its reason; the ops behind it, also
        those on the same document, go on."""
        theirs = '{"s":"text","l":[]}'
        self.write(backend, "put", "1", theirs)
        lane = make_lane()
        found = self.rejected(
            backend,
            [
                self.replay(lane, 1, "put", "2", '"before"'),
                self.replay(lane, 2, kind, "1", body, pointer=pointer),
                self.replay(lane, 3, "append", "1", "1", pointer="/l"),
                self.replay(lane, 4, "put", "3", '"behind"'),
            ],
        )
        assert found == [
            (1, "applied", ""),
            (2, "rejected", code),
            *[(n, "applied", "") for n in (3, 4)],
        ]
        assert self.contents(backend) == {
            "1": '{"s":"text","l":[1]}',
            "2": '"before"',
            "3": '"behind"',
        }
        assert self.lines(backend) == [(2, kind, code, None, body, theirs, "open", None)]

    @pytest.mark.parametrize(
        ("kind", "body"), [("patch", '{"a":2}'), ("append", "2"), ("increment", "2")]
    )
    def test_i5_a_change_of_a_deleted_document_is_parked(
        self, backend: Backend, kind: Any, body: str
    ) -> None:
        """I5: a change does not revive a deleted document: it is rejected with its base."""
        self.write(backend, "put", "1", '{"a":1}')
        self.write(backend, "delete", "1")
        op = self.replay(make_lane(), 1, kind, "1", body, base='{"a":1}')
        assert self.rejected(backend, [op]) == [(1, "rejected", "deleted_meanwhile")]
        assert self.text(backend, "1") is None
        assert self.lines(backend) == [
            (1, kind, "deleted_meanwhile", '{"a":1}', body, None, "open", None)
        ]

    @pytest.mark.parametrize("resolver", [_fails, _not_finite, _no_json])
    def test_i6_a_function_that_fails_parks_its_op(self, backend: Backend, resolver: Any) -> None:
        """I6: whatever the application's function raises or returns, only its op is rejected, and
        nothing of what it said is told."""
        self.write(backend, "put", "1", '{"a":7}')
        lane = make_lane()
        ops = [
            self.replay(lane, 1, "put", "1", '{"a":2}', base='{"a":1}'),
            self.replay(lane, 2, "put", "2", "2"),
        ]
        outcomes = backend.apply(ops, on_conflict=resolver).outcomes
        assert told(outcomes) == [(1, "rejected", 1, "resolver_failed"), (2, "applied", 1, "")]
        assert "secret" not in outcomes[0].message
        assert self.contents(backend) == {"1": '{"a":7}', "2": "2"}
        assert self.lines(backend) == [
            (1, "put", "resolver_failed", '{"a":1}', '{"a":2}', '{"a":7}', "open", None)
        ]

    def test_r12_a_marked_op_goes_to_the_ledger(self, backend: Backend) -> None:
        """R12: an op that is marked `reject` is not applied, whatever it is; its reason is kept."""
        lane = make_lane()
        self.write(backend, "put", "1", "1")
        found = self.rejected(
            backend,
            [
                self.replay(lane, 1, "put", "1", "2", base="1", reject="poison"),
                self.replay(lane, 2, "delete", "1", None, reject="held"),
                self.replay(lane, 3, "increment", "1", "5"),
            ],
        )
        assert found == [(1, "rejected", "poison"), (2, "rejected", "held"), (3, "applied", "")]
        assert self.text(backend, "1") == "6"
        assert self.lines(backend) == [
            (1, "put", "poison", "1", "2", "1", "open", None),
            (2, "delete", "held", None, None, "1", "open", None),
        ]

    def test_r12_a_batch_that_fails_leaves_no_line(self, backend: Backend) -> None:
        """R12: conflicts, documents and watermark are one transaction: when it ends in the middle
        nothing of it is there, and the batch can come again."""
        self.write(backend, "put", "1", '{"a":7}')
        lane, directory = make_lane(), make_lane()
        ops = [
            self.replay(lane, 1, "put", "2", "1", reject="held"),
            self.replay(lane, 2, "put", "1", '{"a":2}', base='{"a":1}'),
        ]

        def ends(*_: Any) -> Any:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            backend.apply(ops, on_conflict=ends, directory=directory)
        assert self.conflicts(backend) == []
        assert (
            backend.observe(self.collection, [], directory=directory).watermarks.get(lane, 0) == 0
        )
        found = self.rejected(backend, ops)
        assert found == [(1, "rejected", "held"), (2, "merged", "")]
        assert len(self.conflicts(backend)) == 2

    # ---- groups

    def test_i6_a_group_is_parked_whole(self, backend: Backend) -> None:
        """I6: one op of a group that cannot be applied rejects all of them, each with its line; the
        ops around it go on."""
        self.write(backend, "put", "2", '"text"')
        lane = make_lane()
        found = self.rejected(
            backend,
            [
                self.replay(lane, 1, "put", "1", "1"),
                self.replay(lane, 2, "put", "1", "2", group=2),
                self.replay(lane, 3, "increment", "2", "1", group=2),
                self.replay(lane, 4, "put", "1", "4", group=2, collection=self.other),
                self.replay(lane, 5, "increment", "1", "5"),
            ],
        )
        assert found == [
            *[(1, "applied", ""), (2, "rejected", "batch"), (3, "rejected", "wrong_type")],
            *[(4, "rejected", "batch"), (5, "applied", "")],
        ]
        assert self.contents(backend) == {"1": "6", "2": '"text"'}
        assert self.contents(backend, collection=self.other) == {}
        # What a line shows as theirs is what was there before the group.
        assert [(line[0], line[2], line[5]) for line in self.lines(backend)] == [
            *[(2, "batch", "1"), (3, "wrong_type", '"text"'), (4, "batch", None)],
        ]

    def test_a_group_is_merged_whole(self, backend: Backend) -> None:
        """I5: a group whose ops can all be applied takes effect, with the lines of its merges."""
        self.write(backend, "put", "1", '{"a":1,"b":9}')
        lane = make_lane()
        found = self.rejected(
            backend,
            [
                self.replay(lane, 1, "put", "1", '{"a":2,"b":1}', base='{"a":1,"b":1}', group=1),
                self.replay(lane, 2, "put", "2", "2", group=1),
            ],
        )
        assert found == [(1, "merged", ""), (2, "applied", "")]
        assert self.contents(backend) == {"1": '{"a":2,"b":9}', "2": "2"}
        assert [line[:3] for line in self.lines(backend)] == [(1, "put", "merged")]

    def test_groups_of_different_lanes_are_apart(self, backend: Backend) -> None:
        """I2: ops of two fenced lanes that are sent again by a third keep their own groups."""
        lane, one, two = make_lane(), make_lane(), make_lane()
        found = self.rejected(
            backend,
            [
                self.replay(lane, 1, "put", "1", "1", group=1, origin=(one, 1)),
                self.replay(lane, 2, "put", "2", "1", group=1, origin=(two, 2), if_version=5),
            ],
        )
        assert [status for _, status, _ in found] == ["applied", "rejected"]

    # ---- conditions

    def chain(self, lane: str, confirmed: int) -> list[Op]:
        """An append, and a put that holds only on the confirmed version with that append."""
        return [
            self.replay(lane, 1, "append", "1", "1"),
            self.replay(
                *(lane, 2, "put", "1", '"judged"'), if_version=confirmed, pending=((lane, 1),)
            ),
        ]

    @pytest.mark.parametrize("cut", [False, True])
    def test_a_condition_on_own_pending_ops_holds_exactly(
        self, backend: Backend, cut: bool
    ) -> None:
        """I2: what was judged against own pending ops holds when exactly they were applied, in one
        batch or in several."""
        self.write(backend, "put", "1", "[0]")
        ops = self.chain(make_lane(), 1)
        batches = [ops[:1], ops[1:]] if cut else [ops]
        for batch in batches:
            assert {o.status for o in backend.apply(batch).outcomes} == {"applied"}
        assert (self.text(backend, "1"), self.version(backend, "1")) == ('"judged"', 3)
        assert self.conflicts(backend) == []

    @pytest.mark.parametrize("cut", [False, True])
    @pytest.mark.parametrize("when", ["before", "between"])
    def test_a_condition_fails_after_a_foreign_write(
        self, backend: Backend, cut: bool, when: str
    ) -> None:
        """I5: a write of somebody else, before or between the own ones, rejects the judged op."""
        self.write(backend, "put", "1", "[0]")
        ops = self.chain(make_lane(), 1)
        if when == "before":
            self.write(backend, "append", "1", "9")
        if cut or when == "between":
            backend.apply(ops[:1])
        if when == "between":
            self.write(backend, "append", "1", "9")
        outcome = backend.apply(ops).outcomes[-1]
        assert (outcome.status, outcome.code) == ("rejected", "condition")
        text = "[0,9,1]" if when == "before" else "[0,1,9]"
        assert self.text(backend, "1") == text
        assert self.lines(backend) == [
            (2, "put", "condition", None, '"judged"', text, "open", None)
        ]

    @pytest.mark.parametrize("cut", [False, True])
    def test_a_condition_fails_when_a_pending_op_was_parked(
        self, backend: Backend, cut: bool
    ) -> None:
        """I5: a foreign write in the place of a rejected own one has the right number, and is not
        what was judged."""
        lane = make_lane()
        self.write(backend, "put", "1", '"text"')
        self.write(backend, "put", "1", '"foreign"')
        ops = self.chain(lane, 1)
        if cut:
            assert self.rejected(backend, ops[:1]) == [(1, "rejected", "wrong_type")]
        found = self.rejected(backend, ops)
        assert found == [(1, "rejected", "wrong_type"), (2, "rejected", "condition")]
        assert self.text(backend, "1") == '"foreign"'

    @pytest.mark.parametrize("cut", [False, True])
    def test_a_condition_fails_when_a_pending_op_gave_way(
        self, backend: Backend, cut: bool
    ) -> None:
        """I5: a pending op that gave way to a foreign write left the number that was expected
        behind, and not the document."""
        lane = make_lane()
        self.write(backend, "put", "1", '"base"')
        self.write(backend, "put", "1", '"foreign"')
        ops = [
            self.replay(lane, 1, "put", "1", '"mine"', base='"base"'),
            self.replay(lane, 2, "put", "1", '"judged"', if_version=1, pending=((lane, 1),)),
        ]
        if cut:
            assert self.rejected(backend, ops[:1], on_conflict="theirs") == [(1, "merged", "")]
        found = self.rejected(backend, ops, on_conflict="theirs")
        assert found == [(1, "merged", ""), (2, "rejected", "condition")]
        assert self.text(backend, "1") == '"foreign"'

    @pytest.mark.parametrize(("if_version", "status"), [(1, "applied"), (0, "rejected")])
    def test_a_plain_condition_on_replay(
        self, backend: Backend, if_version: int, status: str
    ) -> None:
        """I5: a condition on a confirmed version holds on exactly that, or the op is rejected."""
        self.write(backend, "put", "1", "1")
        op = self.replay(make_lane(), 1, "put", "1", "2", if_version=if_version)
        code = "" if status == "applied" else "condition"
        assert self.rejected(backend, [op]) == [(1, status, code)]
        assert self.text(backend, "1") == ("2" if status == "applied" else "1")

    def test_a_condition_on_an_own_delete(self, backend: Backend) -> None:
        """I2: a document that was deleted by an own pending op, and judged as such, is made again
        above its grave."""
        lane = make_lane()
        self.write(backend, "put", "1", "1")
        ops = [
            self.replay(lane, 1, "delete", "1", None, base="1"),
            self.replay(lane, 2, "put", "1", "2", if_version=1, pending=((lane, 1),)),
        ]
        assert [o.status for o in backend.apply(ops).outcomes] == ["applied"] * 2
        assert (self.text(backend, "1"), self.version(backend, "1")) == ("2", 3)

    # ---- the conflicts

    def test_conflicts_are_read_in_pages(self, backend: Backend) -> None:
        """Conflicts are listed in the order of their ids, after a given one, up to a limit, by
        state or by the name in an op's receipt."""
        assert (backend.conflicts(), backend.count_conflicts()) == ([], {})
        lane, origin = make_lane(), make_lane()
        ops = [self.replay(lane, n, "put", str(n), str(n), reject="held") for n in (1, 2, 3)]
        ops.append(self.replay(lane, 4, "put", "4", "4", reject="held", origin=(origin, 77)))
        backend.apply(ops)
        entries = self.conflicts(backend)
        assert [(e.lane, e.seq) for e in entries] == [*((lane, n) for n in (1, 2, 3)), (origin, 77)]
        ids = [entry.id for entry in entries]
        assert ids == sorted(set(ids))
        assert min(entry.at_us for entry in entries) > 1_600_000_000_000_000
        assert backend.conflicts(after=ids[1], limit=1) == entries[2:3]
        assert backend.conflicts(after=ids[-1]) == []
        assert backend.conflicts(name=(origin, 77)) == entries[3:]
        assert backend.conflicts(name=(lane, 4)) == []
        assert backend.count_conflicts() == {"open": 4}

    def test_a_line_is_resolved_once(self, backend: Backend) -> None:
        """Resolving marks an open line and says so; a line that is not open, or not there, stays
        as it is.  A resolved line still tells what became of its op."""
        assert backend.resolve_conflict(1, "mine") is False
        self.write(backend, "put", "1", '{"a":1,"b":9}')
        lane = make_lane()
        backend.apply(
            [
                self.replay(lane, 1, "put", "2", "1", reject="held"),
                self.replay(lane, 2, "put", "1", '{"a":2}', base='{"a":1}'),
            ]
        )
        held, merged = self.conflicts(backend)
        assert backend.resolve_conflict(held.id, "mine") is True
        assert backend.resolve_conflict(held.id, "theirs") is False
        assert backend.resolve_conflict(merged.id, "theirs") is False
        assert backend.resolve_conflict(merged.id + 1, "theirs") is False
        assert [(e.state, e.resolution) for e in self.conflicts(backend)] == [
            *(("resolved", "mine"), ("merged", "merged"))
        ]
        assert [e.id for e in backend.conflicts(state="resolved")] == [held.id]
        assert backend.conflicts(state="open") == []
        assert backend.count_conflicts() == {"resolved": 1, "merged": 1}
        judged = self.replay(lane, 3, "put", "2", "2", if_version=-1, pending=((lane, 1),))
        assert backend.apply([judged]).outcomes[0].code == "condition"

    def test_a_line_shows_no_content(self, backend: Backend) -> None:
        """Contents are private: the repr of a line, which ends up in logs, holds none."""
        op = self.replay(make_lane(), 1, "put", "1", '"secret"', base='"secret"', reject="held")
        backend.apply([op])
        (entry,) = self.conflicts(backend)
        assert entry.mine == '"secret"'
        assert "secret" not in repr(entry)
