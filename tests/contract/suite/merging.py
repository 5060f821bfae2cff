"""The contract, part 8: journaled ops on documents that have moved meanwhile are merged (I5)."""

from __future__ import annotations

from typing import Any

import pytest

from contract.suite.base import ContractBase, make_lane
from standfast.backends.base import Backend
from standfast.ops.reconcile import OnConflict
from standfast.ops.types import Outcome

_BASE = '{"a":1,"b":1}'
_MINE = '{"a":2,"b":1}'
_FAR_US = 3_600_000_000


def _sum(base: Any, mine: Any, theirs: Any) -> Any:
    return {"sum": [base["a"], mine["a"], theirs["a"]]}


class MergingContract(ContractBase):
    """What both sides wrote is kept, or is recorded as a conflict."""

    def meet(
        self,
        backend: Backend,
        theirs: str | None,
        mine: str | None = _MINE,
        *,
        first: str | None = _BASE,
        on_conflict: OnConflict = "mine",
        **how: Any,
    ) -> Outcome:
        """Put `first`, let another writer make it `theirs` (None: delete it), and replay `mine`
        (None: a delete) on that."""
        if first is not None:
            self.write(backend, "put", "1", first)
        if theirs is None and first is not None:
            self.write(backend, "delete", "1")
        elif theirs is not None and theirs != first:
            self.write(backend, "put", "1", theirs)
        kind = how.pop("kind", "put" if mine is not None else "delete")
        op = self.replay(make_lane(), 1, kind, "1", mine, **how)
        directory = make_lane()
        first_told, told_again = [
            backend.apply([op], on_conflict=on_conflict, directory=directory) for _ in range(2)
        ]  # the second time it is skipped, and adds nothing
        states, _ = self.states(backend, [op])
        assert first_told.observed.states == told_again.observed.states == list(states.values())
        (outcome,), (again,) = first_told.outcomes, told_again.outcomes
        assert (again.version, again.code) == (outcome.version, outcome.code)
        entries = backend.conflicts(name=op.name)
        assert len(entries) == len(self.conflicts(backend)) <= 1
        assert (outcome.status == "applied") == (not entries)
        return outcome

    def entry(self, backend: Backend) -> tuple[str, str, str | None]:
        """Reason, state and resolution of the only conflict record."""
        ((_, _, reason, _, _, _, state, resolution),) = self.lines(backend)
        return reason, state, resolution

    # ---- a put whose base is known

    @pytest.mark.parametrize("theirs", [_BASE, '{"b":1,"a":1}', '{ "a":1,"b":1}'])
    def test_a_put_on_its_base_is_simply_applied(self, backend: Backend, theirs: str) -> None:
        """I2, I11: where nobody changed the value, the put's own text stands there; no entry."""
        outcome = self.meet(backend, theirs, '{"bb":1.0,"a":1e2}', base=_BASE)
        assert (outcome.status, outcome.version) == ("applied", 1 + len({theirs, _BASE}))
        assert self.text(backend, "1") == '{"bb":1.0,"a":1e2}'

    @pytest.mark.parametrize("policy", ["mine", "theirs", "newest", _sum])
    def test_i5_changes_of_different_fields_are_both_kept(
        self, backend: Backend, policy: OnConflict
    ) -> None:
        """I5: changes of different fields are merged, whatever the policy, and recorded."""
        theirs = '{"a":1,"b":9,"c":{"d":[1]}}'
        outcome = self.meet(backend, theirs, base=_BASE, on_conflict=policy, at_us=1)
        assert (outcome.status, outcome.version) == ("merged", 3)
        assert self.text(backend, "1") == '{"a":2,"b":9,"c":{"d":[1]}}'
        assert self.lines(backend) == [
            (1, "put", "merged", _BASE, _MINE, theirs, "merged", "merged")
        ]

    @pytest.mark.parametrize(
        ("policy", "at_us", "text"),
        [
            ("mine", 0, '{"a":2,"b":9}'),
            ("theirs", 0, '{"a":7,"b":9}'),
            ("newest", 10**17, '{"a":2,"b":9}'),
            ("newest", 1, '{"a":7,"b":9}'),
            (_sum, 0, '{"sum":[1,2,7]}'),
        ],
    )
    def test_i5_the_policy_decides_where_both_changed_one_field(
        self, backend: Backend, policy: OnConflict, at_us: int, text: str
    ) -> None:
        """I5: only the field that both changed is decided; the conflict record has all three,
        and is open unless a function has decided."""
        theirs = '{"a":7,"b":9}'
        outcome = self.meet(backend, theirs, base=_BASE, on_conflict=policy, at_us=at_us)
        kept = text == theirs
        assert (outcome.status, outcome.version) == ("merged", 3)
        assert self.text(backend, "1") == text
        ((*line, resolution),) = self.lines(backend)
        state = "merged" if callable(policy) else "open"
        assert line == [1, "put", "conflict", _BASE, _MINE, theirs, state]
        assert resolution in ("merged", "theirs" if kept else "mine")

    def test_i5_theirs_may_stand_whole(self, backend: Backend) -> None:
        """I5: where nothing of mine is taken the document does not change, and its version is
        told."""
        outcome = self.meet(backend, "[7]", "[2]", first="[1]", base="[1]", on_conflict="theirs")
        assert (outcome.status, outcome.version) == ("merged", 2)
        assert (self.text(backend, "1"), self.version(backend, "1")) == ("[7]", 2)
        assert self.entry(backend) == ("conflict", "open", "theirs")

    def test_both_wrote_the_same(self, backend: Backend) -> None:
        """I2: the same value from both sides is no conflict; the put is applied, its text and its
        time to live too."""
        outcome = self.meet(backend, '{"b":1,"a":2}', base=_BASE, ttl_us=_FAR_US)
        assert (outcome.status, outcome.version) == ("applied", 3)
        row = self.row(backend, "1")
        assert row is not None
        assert row.text == _MINE
        assert row.expires_us == row.updated_us + _FAR_US

    # ---- a put whose base is not known, or was nothing

    def test_i5_without_a_base_the_policy_takes_one_whole(self, backend: Backend) -> None:
        """I5: what was never read cannot be merged: mine stands, theirs is among the conflicts."""
        outcome = self.meet(backend, '{"c":3}')
        assert (outcome.status, outcome.version) == ("merged", 3)
        assert self.text(backend, "1") == _MINE
        assert self.lines(backend) == [
            (1, "put", "conflict", None, _MINE, '{"c":3}', "open", "mine")
        ]

    def test_i5_without_a_base_theirs_may_win(self, backend: Backend) -> None:
        """I5: under the policy `theirs` what was found stays, and mine is among the conflicts."""
        outcome = self.meet(backend, '{"c":3}', on_conflict="theirs")
        assert (outcome.status, outcome.version) == ("merged", 2)
        assert self.text(backend, "1") == '{"c":3}'
        assert self.entry(backend) == ("conflict", "open", "theirs")

    @pytest.mark.parametrize(("theirs", "version"), [(None, 3), (_MINE, 3)])
    def test_without_a_base_on_nothing_or_the_same(
        self, backend: Backend, theirs: str | None, version: int
    ) -> None:
        """I2: a put on no document, or on the same value, is applied; a grave is exceeded."""
        outcome = self.meet(backend, theirs)
        assert (outcome.status, outcome.version) == ("applied", version)
        assert self.text(backend, "1") == _MINE

    def test_i5_both_created_the_document(self, backend: Backend) -> None:
        """I5: where both sides made a document from nothing, all members are kept."""
        outcome = self.meet(backend, '{"a":2,"c":3}', first=None, seen="absent")
        assert (outcome.status, outcome.version) == ("merged", 2)
        assert self.text(backend, "1") == '{"a":2,"c":3,"b":1}'
        assert self.entry(backend) == ("merged", "merged", "merged")

    def test_a_document_that_is_still_absent(self, backend: Backend) -> None:
        """I2: a put on nothing, where nothing was seen, is simply applied."""
        outcome = self.meet(backend, None, first=None, seen="absent")
        assert (outcome.status, outcome.version) == ("applied", 1)

    # ---- update beats delete

    @pytest.mark.parametrize("policy", ["mine", "theirs", "newest"])
    def test_i5_an_update_beats_their_delete(self, backend: Backend, policy: OnConflict) -> None:
        """I5, R17: a changed document that was deleted meanwhile is there again, above its
        grave."""
        outcome = self.meet(backend, None, base=_BASE, on_conflict=policy)
        assert (outcome.status, outcome.version) == ("merged", 3)
        assert self.text(backend, "1") == _MINE
        assert self.lines(backend) == [
            (1, "put", "update_beats_delete", _BASE, _MINE, None, "merged", "mine")
        ]

    def test_their_delete_stands_where_nothing_was_changed(self, backend: Backend) -> None:
        """I5: a put of what was there already is no update: the document stays deleted."""
        outcome = self.meet(backend, None, _BASE, base=_BASE)
        assert (outcome.status, outcome.version) == ("merged", 0)
        assert self.text(backend, "1") is None
        assert self.entry(backend) == ("merged", "merged", "theirs")

    @pytest.mark.parametrize("policy", ["mine", "theirs", "newest"])
    def test_i5_their_update_beats_a_delete(self, backend: Backend, policy: OnConflict) -> None:
        """I5: a document that changed after it was seen is not deleted."""
        outcome = self.meet(backend, '{"a":7}', None, base=_BASE, on_conflict=policy)
        assert (outcome.status, outcome.version) == ("merged", 2)
        assert self.text(backend, "1") == '{"a":7}'
        assert self.lines(backend) == [
            (1, "delete", "update_beats_delete", _BASE, None, '{"a":7}', "merged", "theirs")
        ]

    @pytest.mark.parametrize(("theirs", "version"), [(_BASE, 2), ('{"b":1,"a":1}', 3), (None, 0)])
    def test_a_delete_of_what_was_seen(
        self, backend: Backend, theirs: str | None, version: int
    ) -> None:
        """I2: a delete of an unchanged document is applied, and one of nothing has nothing to
        do."""
        outcome = self.meet(backend, theirs, None, base=_BASE)
        assert (outcome.status, outcome.version) == ("applied", version)
        assert self.text(backend, "1") is None

    @pytest.mark.parametrize(("policy", "text"), [("mine", None), ("theirs", '{"a":7}')])
    def test_i5_a_delete_without_a_base(
        self, backend: Backend, policy: OnConflict, text: str | None
    ) -> None:
        """I5: a delete of a document that was never read follows the policy, and keeps a copy."""
        outcome = self.meet(backend, '{"a":7}', None, on_conflict=policy)
        assert outcome.status == "merged"
        assert self.text(backend, "1") == text
        assert self.lines(backend) == [
            (1, "delete", "conflict", None, None, '{"a":7}', "open", policy)
        ]

    # ---- changes are applied again

    @pytest.mark.parametrize("base", [None, '{"a":1,"l":[1],"n":1}'])
    @pytest.mark.parametrize(
        ("kind", "body", "pointer", "text"),
        [
            ("append", "2", "/l", '{"a":7,"l":[0,2],"n":5}'),
            ("increment", "2", "/n", '{"a":7,"l":[0],"n":7}'),
        ],
    )
    def test_i2_appends_and_increments_are_applied_to_what_is_there(
        self, backend: Backend, base: str | None, kind: str, body: str, pointer: str, text: str
    ) -> None:
        """I2: an append and an increment mean the same on a document that moved; no entry."""
        theirs = '{"a":7,"l":[0],"n":5}'
        outcome = self.meet(backend, theirs, body, kind=kind, pointer=pointer, base=base)
        assert (outcome.status, outcome.version) == ("applied", 3)
        assert self.text(backend, "1") == text

    @pytest.mark.parametrize(
        ("theirs", "base", "text", "entry"),
        [
            (_BASE, _BASE, '{"a":2,"b":1}', None),
            ('{"a":1,"b":9}', _BASE, '{"a":2,"b":9}', ("merged", "merged", "merged")),
            ('{"a":7,"b":9}', _BASE, '{"a":2,"b":9}', ("conflict", "open", "mine")),
            ('{"a":7,"b":9}', None, '{"a":2,"b":9}', None),
        ],
    )
    def test_i5_a_patch_is_applied_to_what_is_there(
        self,
        backend: Backend,
        theirs: str,
        base: str | None,
        text: str,
        entry: tuple[str, str, str] | None,
    ) -> None:
        """I5: a patch keeps what others changed; if it overwrites it, theirs is recorded."""
        self.meet(backend, theirs, '{"a":2}', kind="patch", base=base)
        assert self.text(backend, "1") == text
        if entry is None:
            assert self.lines(backend) == []
        else:
            assert self.entry(backend) == entry

    @pytest.mark.parametrize(
        ("kind", "body", "text"),
        [("patch", '{"a":2}', '{"a":2}'), ("append", "2", "[2]"), ("increment", "2", "2")],
    )
    def test_changes_create_what_was_not_seen(
        self, backend: Backend, kind: str, body: str, text: str
    ) -> None:
        """I2: a change of a document that was absent, or that was never read, creates it."""
        outcome = self.meet(backend, None, body, kind=kind, first=None, seen="absent")
        assert (outcome.status, outcome.version) == ("applied", 1)
        assert self.text(backend, "1") == text

    # ---- a caller's own base, while nothing is wrong

    def test_a_base_merges_without_replay_too(self, backend: Backend) -> None:
        """A put that says what it is based on is merged also when it came through no journal."""
        self.write(backend, "put", "1", _BASE)
        self.write(backend, "patch", "1", '{"b":9}')
        op = self.op(make_lane(), 1, "put", "1", _MINE, seen="present", base=_BASE)
        (outcome,) = backend.apply([op]).outcomes
        assert (outcome.status, outcome.version, outcome.text) == ("merged", 3, '{"a":2,"b":9}')
        assert self.entry(backend) == ("merged", "merged", "merged")
