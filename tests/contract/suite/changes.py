"""The contract, part 2: what ops make of documents: versions, conditions, groups, expiry."""

from __future__ import annotations

import pytest

from contract.suite.base import ContractBase, make_lane, told
from standfast.backends.base import Backend
from standfast.ops.types import ABSENT, KEEP_EXPIRY, Kind, Span

_FAR_US = 3_600_000_000


class ChangesContract(ContractBase):
    """Ops mean the same on every backend."""

    @pytest.mark.parametrize(
        ("kind", "body", "created", "changed"),
        [
            ("put", '{"b":1,"a":2}', '{"b":1,"a":2}', '{"b":1,"a":2}'),
            ("patch", '{"n":5,"gone":null}', '{"n":5}', '{"l":[1],"n":5}'),
            ("append", '"x"', '{"l":["x"]}', '{"l":[1,"x"],"n":2,"gone":0}'),
            ("increment", "3", '{"n":3}', '{"l":[1],"n":5,"gone":0}'),
            ("set", '"x"', '{"n":"x"}', '{"l":[1],"n":"x","gone":0}'),
        ],
    )
    def test_each_kind_on_a_missing_and_an_existing_document(
        self, backend: Backend, kind: Kind, body: str, created: str, changed: str
    ) -> None:
        """Each kind creates a document and changes one, and tells the new text and version."""
        pointer = {"append": "/l", "increment": "/n", "set": "/n"}.get(kind, "")
        self.write(backend, "put", "2", '{"l":[1],"n":2,"gone":0}')
        for key, version, text in (("1", 1, created), ("2", 2, changed)):
            outcome = self.write(backend, kind, key, body, pointer=pointer)
            assert (outcome.status, outcome.version, outcome.text) == ("applied", version, text)
            row = self.row(backend, key)
            assert row is not None
            assert (row.version, row.text) == (version, text)

    def test_a_remove_takes_out_one_place(self, backend: Backend) -> None:
        """A remove takes out a member or an element; where there is none, nothing changes."""
        self.write(backend, "put", "1", '{"l":[1,2],"n":2}')
        outcomes = [
            self.write(backend, "remove", key, pointer=pointer)
            for key, pointer in (
                ("1", "/l/0"),
                ("1", "/l/7"),
                ("1", "/n"),
                ("1", "/n"),
                ("2", "/n"),
            )
        ]
        assert [(o.version, o.changed) for o in outcomes] == [
            *((2, True), (2, False), (3, True), (3, False), (0, False))
        ]
        assert self.contents(backend) == {"1": '{"l":[2]}'}

    def test_a_touch_changes_the_expiry_alone(self, backend: Backend) -> None:
        """A touch gives a document a new expiry and version; text and creation stay; 0: none."""
        self.write(backend, "put", "1", '{"b":1.0,"a":2}', ttl_us=_FAR_US)
        first = self.row(backend, "1")
        touched = self.write(backend, "touch", "1", ttl_us=2 * _FAR_US)
        second = self.row(backend, "1")
        assert (touched.version, touched.text, touched.changed) == (2, '{"b":1.0,"a":2}', True)
        assert first is not None
        assert second is not None
        assert (second.text, second.version) == (first.text, 2)
        assert second.created_us == first.created_us
        assert (second.expires_us or 0) - (first.expires_us or 0) >= _FAR_US
        assert self.write(backend, "touch", "1", ttl_us=0).version == 3
        assert self.expiry(backend, "1") is None
        missing = self.write(backend, "touch", "2", ttl_us=_FAR_US)
        assert (missing.status, missing.version, missing.changed) == ("applied", 0, False)

    def test_a_put_may_keep_the_expiry(self, backend: Backend) -> None:
        """`KEEP_EXPIRY`: the expiry of the document stays; a new one has none."""
        self.write(backend, "put", "1", "1", ttl_us=_FAR_US)
        before = self.expiry(backend, "1")
        self.write(backend, "put", "1", "2", ttl_us=KEEP_EXPIRY)
        self.write(backend, "put", "2", "2", ttl_us=KEEP_EXPIRY)
        assert before is not None
        assert (self.expiry(backend, "1"), self.expiry(backend, "2")) == (before, None)

    def test_a_delete_of_nothing_is_no_error(self, backend: Backend) -> None:
        """A delete that finds no document is applied with version 0 and changes nothing."""
        self.write(backend, "put", "1", "1")
        assert told([self.write(backend, "delete", "2")]) == [(1, "applied", 0, "")]
        assert self.contents(backend) == {"1": "1"}
        assert self.write(backend, "put", "2", "2").version == 1

    def test_times_are_the_databases(self, backend: Backend) -> None:
        """The time of creation stays, the time of change moves on; microseconds since 1970."""
        self.write(backend, "put", "1", "1")
        first = self.row(backend, "1")
        self.write(backend, "put", "1", "2")
        second = self.row(backend, "1")
        assert first is not None
        assert second is not None
        assert 1_600_000_000_000_000 < first.created_us == first.updated_us < 10**17
        assert second.created_us == first.created_us
        assert second.updated_us >= first.updated_us
        assert second.expires_us is None

    # ---- I3: versions never go down

    def test_i3_a_document_made_again_goes_on_above_its_grave(self, backend: Backend) -> None:
        """I3, R17: put, delete, put: each gets a version above the one before."""
        steps: list[tuple[Kind, str | None]] = [("put", "1"), ("delete", None)] * 2
        found = [self.write(backend, kind, "1", body).version for kind, body in steps]
        assert found == [1, 2, 3, 4]
        assert self.write(backend, "put", "1", "5").version == 5
        assert self.version(backend, "1") == 5

    def test_i3_also_for_a_lane_that_goes_on(self, backend: Backend) -> None:
        """I3, R17: a lane that has written before puts above the graves that others left, alone
        and among other documents."""
        lane, directory = make_lane(), make_lane()
        backend.apply([self.op(lane, 1, "put", "1", "1")], directory=directory)
        for first, keys in ((2, ["1"]), (3, ["2", "1", "3"])):
            self.write(backend, "put", "1", "0")
            deleted = self.write(backend, "delete", "1").version
            assert deleted is not None
            puts = [self.op(lane, seq, "put", key, "2") for seq, key in enumerate(keys, first)]
            applied = backend.apply(puts, directory=directory)
            told = {state.key: state.version for state in applied.observed.states}
            assert told.pop("1") == deleted + 1
            assert set(told.values()) <= {1}
            assert self.version(backend, "1") == deleted + 1

    @pytest.mark.parametrize("exists", [False, True])
    def test_i3_within_one_batch_too(self, backend: Backend, exists: bool) -> None:
        """I3: versions that one batch gave and buried again are never given twice."""
        start = 0
        if exists:
            start = self.write(backend, "put", "1", "0").version or 0
        lane = make_lane()
        applied = backend.apply(
            [
                self.op(lane, 1, "put", "1", "1"),
                self.op(lane, 2, "put", "1", "2"),
                self.op(lane, 3, "delete", "1"),
            ]
        )
        versions = [outcome.version for outcome in applied.outcomes]
        assert versions == [start + 1, start + 2, start + 3]
        assert self.row(backend, "1") is None
        assert self.write(backend, "put", "1", "4").version == start + 4

    def test_i3_delete_and_put_in_one_batch(self, backend: Backend) -> None:
        """I3: a document that is deleted and made again in one batch goes on above."""
        self.write(backend, "put", "1", '{"a":1}')
        lane = make_lane()
        applied = backend.apply(
            [self.op(lane, 1, "delete", "1"), self.op(lane, 2, "patch", "1", '{"b":2}')]
        )
        assert [outcome.version for outcome in applied.outcomes] == [2, 3]
        assert self.contents(backend) == {"1": '{"b":2}'}
        assert self.version(backend, "1") == 3

    def test_i3_an_expired_document_made_again_goes_on_above(self, backend: Backend) -> None:
        """I3: a new document in the place of an expired one has a higher version, and is new."""
        version = self.expired(backend, "1", '{"old":1}')
        outcome = self.write(backend, "patch", "1", '{"new":1}')
        assert (outcome.version, outcome.text) == (version + 1, '{"new":1}')
        row = self.row(backend, "1")
        assert row is not None
        assert row.created_us == row.updated_us
        assert row.expires_us is None

    # ---- conditions

    def test_a_condition_holds_or_the_op_is_refused(self, backend: Backend) -> None:
        """`if_version` is compared with the document's version; a refusal tells the found one."""
        self.write(backend, "put", "1", "1")
        self.write(backend, "put", "1", "2")
        ops: list[tuple[Kind, str | None]] = [("put", "3"), ("patch", "{}"), ("delete", None)]
        ops.extend((("append", "1"), ("increment", "1")))
        for kind, body in ops:
            refused = self.write(backend, kind, "1", body, if_version=1)
            assert told([refused]) == [(1, "refused", 2, "conflict")]
        assert self.contents(backend) == {"1": "2"}
        assert self.write(backend, "increment", "1", "1", if_version=2).version == 3
        assert self.write(backend, "delete", "1", if_version=3).version == 4

    def test_a_condition_on_absence(self, backend: Backend) -> None:
        """`if_version=0` holds when there is no document: never was, deleted or expired."""
        self.expired(backend, "3")
        self.write(backend, "put", "2", "1")
        self.write(backend, "delete", "2")
        for key in ("1", "2", "3"):
            first = self.write(backend, "put", key, '"mine"', if_version=ABSENT)
            assert first.status == "applied"
            second = self.write(backend, "put", key, '"late"', if_version=ABSENT)
            assert told([second]) == [(1, "refused", first.version, "conflict")]
            assert self.text(backend, key) == '"mine"'

    def test_a_condition_on_a_missing_document_finds_version_0(self, backend: Backend) -> None:
        """A version of a document that is gone never matches, not even the one of its grave."""
        self.write(backend, "put", "1", "1")
        deleted = self.write(backend, "delete", "1")
        ops: list[tuple[Kind, str | None]] = [("put", "1"), ("delete", None)]
        for kind, body in ops:
            refused = self.write(backend, kind, "1", body, if_version=deleted.version)
            assert told([refused]) == [(1, "refused", 0, "conflict")]
        assert told([self.write(backend, "delete", "1", if_version=ABSENT)])[0][1] == "applied"

    def test_repeated_keys_of_one_batch_are_applied_in_order(self, backend: Backend) -> None:
        """Ops on one key see what the ops before them in the batch made of it."""
        lane = make_lane()
        applied = backend.apply(
            [
                self.op(lane, 1, "put", "1", "[]", if_version=ABSENT),
                self.op(lane, 2, "append", "1", "1", if_version=1),
                self.op(lane, 3, "put", "2", "0"),
                self.op(lane, 4, "append", "1", "2", if_version=1),
                self.op(lane, 5, "append", "1", "3", if_version=2),
                self.op(lane, 6, "increment", "2", "4"),
            ]
        )
        assert told(applied.outcomes) == [
            (1, "applied", 1, ""),
            (2, "applied", 2, ""),
            (3, "applied", 1, ""),
            (4, "refused", 2, "conflict"),
            (5, "applied", 3, ""),
            (6, "applied", 2, ""),
        ]
        assert self.contents(backend) == {"1": "[1,3]", "2": "4"}

    def test_i6_a_refused_op_leaves_its_neighbours_alone(self, backend: Backend) -> None:
        """I6: one op that cannot be applied is refused alone; the others take effect."""
        self.write(backend, "put", "2", '{"s":"text","l":[]}')
        lane = make_lane()
        applied = backend.apply(
            [
                self.op(lane, 1, "put", "1", "1"),
                self.op(lane, 2, "increment", "2", "1", pointer="/s"),
                self.op(lane, 3, "append", "2", "1", pointer="/l/9"),
                self.op(lane, 4, "append", "2", "1", pointer="/l"),
                self.op(lane, 5, "increment", "3", "1", pointer="no pointer"),
            ]
        )
        assert [(outcome.status, outcome.code) for outcome in applied.outcomes] == [
            ("applied", ""),
            ("refused", "wrong_type"),
            ("refused", "bad_index"),
            ("applied", ""),
            ("refused", "bad_pointer"),
        ]
        assert self.contents(backend) == {"1": "1", "2": '{"s":"text","l":[1]}'}

    # ---- groups

    def test_a_group_stands_or_falls_together(self, backend: Backend) -> None:
        """One refused op of a group refuses the group, over all collections; others go on."""
        self.write(backend, "put", "1", '"kept"')
        lane = make_lane()
        applied = backend.apply(
            [
                self.op(lane, 1, "put", "2", '"before"'),
                self.op(lane, 2, "delete", "1", group=7),
                self.op(lane, 3, "put", "1", "1", group=7, collection=self.other),
                self.op(lane, 4, "put", "2", "1", group=7, if_version=9),
                self.op(lane, 5, "put", "3", "1", group=7),
                self.op(lane, 6, "put", "3", '"after"', if_version=ABSENT),
            ]
        )
        assert told(applied.outcomes) == [
            (1, "applied", 1, ""),
            (2, "refused", None, "batch"),
            (3, "refused", None, "batch"),
            (4, "refused", 1, "conflict"),
            (5, "refused", None, "batch"),
            (6, "applied", 1, ""),
        ]
        assert applied.watermark == 6
        assert self.contents(backend) == {"1": '"kept"', "2": '"before"', "3": '"after"'}
        assert self.contents(backend, collection=self.other) == {}

    def test_a_group_takes_effect_in_several_collections(self, backend: Backend) -> None:
        """A group whose ops all hold is applied, and its ops see each other."""
        self.write(backend, "put", "1", "1")
        lane = make_lane()
        applied = backend.apply(
            [
                self.op(lane, 1, "delete", "1", group=1),
                self.op(lane, 2, "put", "1", "5", group=1, if_version=ABSENT),
                self.op(lane, 3, "put", "1", "6", group=1, collection=self.other),
                self.op(lane, 4, "increment", "1", "1", group=1, collection=self.other),
            ]
        )
        assert [outcome.status for outcome in applied.outcomes] == ["applied"] * 4
        assert self.contents(backend) == {"1": "5"}
        assert self.contents(backend, collection=self.other) == {"1": "7"}

    def test_groups_side_by_side_are_apart(self, backend: Backend) -> None:
        """Two groups in one batch fall or stand each for itself, and ops of group 0 alone."""
        lane = make_lane()
        applied = backend.apply(
            [
                self.op(lane, 1, "put", "1", "1", group=1),
                self.op(lane, 2, "put", "1", "2", group=1, if_version=9),
                self.op(lane, 3, "put", "2", "3", group=2),
                self.op(lane, 4, "put", "3", "4", if_version=9),
                self.op(lane, 5, "put", "3", "5"),
            ]
        )
        assert [outcome.status for outcome in applied.outcomes] == [
            *("refused", "refused", "applied", "refused", "applied")
        ]
        assert self.contents(backend) == {"2": "3", "3": "5"}

    def test_a_refused_group_is_told_again(self, backend: Backend) -> None:
        """R12: a group's refusal, culprit and neighbours, is told again after a lost reply."""
        lane = make_lane()
        ops = [
            self.op(lane, 1, "put", "1", "1", group=3),
            self.op(lane, 2, "put", "2", "1", group=3, if_version=4),
        ]
        first = told(backend.apply(ops).outcomes)
        assert first == [(1, "refused", None, "batch"), (2, "refused", 0, "conflict")]
        assert told(backend.apply(ops).outcomes) == first

    # ---- expiry

    def test_an_expired_document_is_gone(self, backend: Backend) -> None:
        """An expired document is read, scanned, counted and dumped no more; a delete finds none."""
        self.expired(backend, "1")
        self.write(backend, "put", "2", "2")
        assert backend.read(self.collection, ["1", "2"]).keys() == {"2"}
        assert [row.key for row in backend.scan(self.collection, Span())] == ["2"]
        assert backend.count(self.collection) == 1
        assert self.contents(backend) == {"2": "2"}
        assert self.write(backend, "delete", "1").version == 0

    def test_a_time_to_live_is_kept_until_something_sets_it(self, backend: Backend) -> None:
        """`ttl_us`: None keeps it (a put clears it), 0 clears it, above 0 counts from now."""
        self.write(backend, "put", "1", "1", ttl_us=_FAR_US)
        row = self.row(backend, "1")
        assert row is not None
        assert row.expires_us is not None
        assert row.expires_us == row.updated_us + _FAR_US
        self.write(backend, "increment", "1", "1")
        kept = self.row(backend, "1")
        assert kept is not None
        assert (kept.text, kept.expires_us) == ("2", row.expires_us)
        self.write(backend, "increment", "1", "1", ttl_us=0)
        cleared = self.row(backend, "1")
        assert cleared is not None
        assert cleared.expires_us is None
        self.write(backend, "increment", "1", "1", ttl_us=_FAR_US)
        self.write(backend, "put", "1", "1")
        replaced = self.row(backend, "1")
        assert replaced is not None
        assert replaced.expires_us is None

    @pytest.mark.parametrize("exists", [False, True])
    def test_a_time_to_live_holds_through_later_ops_of_its_batch(
        self, backend: Backend, exists: bool
    ) -> None:
        """Within one batch, too, a patch keeps the time to live that the put before it set."""
        if exists:
            self.write(backend, "put", "1", "{}", ttl_us=2 * _FAR_US)
            self.write(backend, "put", "2", "{}", ttl_us=2 * _FAR_US)
        lane = make_lane()
        backend.apply(
            [
                self.op(lane, 1, "put", "1", "{}", ttl_us=_FAR_US),
                self.op(lane, 2, "patch", "1", '{"a":1}'),
                self.op(lane, 3, "put", "2", "{}"),
                self.op(lane, 4, "patch", "2", '{"a":1}'),
            ]
        )
        one, two = self.row(backend, "1"), self.row(backend, "2")
        assert one is not None
        assert two is not None
        assert one.expires_us == one.updated_us + _FAR_US
        assert two.expires_us is None
