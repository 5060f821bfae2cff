"""The contract, part 7: what is told of places: absence, versions, watermarks, one snapshot."""

from __future__ import annotations

import threading

import pytest

from contract.suite.base import ContractBase, make_lane
from standfast.backends.base import Backend
from standfast.ops.batch import Place
from standfast.ops.types import ABSENT, Kind, Op, Span, State

_FAR_US = 3_600_000_000


class ObserveContract(ContractBase):
    """`observe`, and `observed` after a batch, say all that a mirror has to know."""

    # ---- places

    def test_r17_absence_has_the_version_of_its_grave(self, backend: Backend) -> None:
        """R17: where a document was deleted the state is its tombstone's version, which a new
        document exceeds; where none ever was it is 0."""
        steps: list[tuple[Kind, str | None]] = [("put", "1"), ("put", "2"), ("delete", None)]
        for kind, body in steps:
            self.write(backend, kind, "1", body)
        states = backend.observe(self.collection, ["1", "2"]).states
        assert sorted(states, key=lambda state: state.key) == [
            State(self.collection, "1", None, 3),
            State(self.collection, "2", None, 0),
        ]
        assert self.write(backend, "put", "1", "4").version == 4

    def test_a_document_is_told_as_it_is_read(self, backend: Backend) -> None:
        """I11: text, version and times are those that `read` gives, exact to the microsecond."""
        self.write(backend, "put", "1", '{"bb":1.0e2,"a":"\\u0000"}')
        self.write(backend, "increment", "2", "5", ttl_us=_FAR_US)
        self.write(backend, "put", "3", '{"a":[1,2],"b":{"c":null}}')
        keys = ["1", "2", "3"]
        rows = backend.read(self.collection, keys)
        told = {state.key: state for state in backend.observe(self.collection, keys).states}
        assert told == {
            key: State(
                *(self.collection, key, row.text, row.version),
                *(row.created_us, row.updated_us, row.expires_us),
            )
            for key, row in rows.items()
        }

    def test_an_expired_document_is_absent_with_its_version(self, backend: Backend) -> None:
        """I3: an expired document is told as absent, with the version that a new one exceeds."""
        version = self.expired(backend, "1")
        (state,) = backend.observe(self.collection, ["1"]).states
        assert (state.text, state.version) == (None, version)
        assert self.write(backend, "put", "1", "1").version == version + 1

    def test_what_is_not_there_is_told_as_absent(self, backend: Backend) -> None:
        """I4: a missing collection, and any key, is an answer: absent, version 0; nothing is
        created by asking."""
        before = backend.collections()
        for collection in (self.collection, "nothing_here"):
            keys = ["1", "abc", "", "01", "9223372036854775808"]
            states = backend.observe(collection, keys).states
            assert {state.key for state in states} == set(keys)
            assert {(s.collection, s.text, s.version) for s in states} == {(collection, None, 0)}
        assert backend.collections() == before

    def test_every_key_is_observed(self, backend: Backend) -> None:
        """Whatever the key, the state is that of its document."""
        self.put_all(backend, {key: str(index) for index, key in enumerate(self.odd_keys)})
        found = backend.observe(self.collection, self.odd_keys).states
        assert {state.key: state.text for state in found} == {
            key: str(index) for index, key in enumerate(self.odd_keys)
        }

    # ---- watermarks

    def test_r8_the_watermarks_of_the_directorys_open_lanes(self, backend: Backend) -> None:
        """R8: told are the lanes of this directory that are open: not those of another one, of
        none, fenced or closed; in `observe` and after a batch alike."""
        mine, theirs = make_lane(), make_lane()
        first, second, fenced, closed, foreign, bare = (make_lane() for _ in range(6))
        for lane, directory in ((fenced, mine), (closed, mine), (foreign, theirs), (bare, None)):
            backend.apply([self.op(lane, 1, "put", "1", "1")], directory=directory)
        backend.apply([self.op(first, 4, "put", "1", "1")], directory=mine)
        backend.fence([fenced, make_lane()], directory=mine)
        backend.close_lane(closed)
        applied = backend.apply([self.op(second, 7, "put", "2", "1")], directory=mine)
        expected = {first: 4, second: 7}
        assert applied.observed.watermarks == expected
        for collection, keys in ((self.collection, ["1"]), (self.collection, []), ("none", ["1"])):
            observed = backend.observe(collection, keys, directory=mine)
            assert observed.watermarks == expected
        assert backend.observe(self.collection, ["1"], directory=theirs).watermarks == {foreign: 1}
        assert backend.observe(self.collection, ["1"], directory=make_lane()).watermarks == {}
        assert backend.observe(self.collection, ["1"]).watermarks == {}

    def test_r8_a_lane_gets_its_directory_with_any_batch(self, backend: Backend) -> None:
        """R8: a lane that wrote before its directory was told belongs to it from then on."""
        lane, directory = make_lane(), make_lane()
        backend.apply([self.op(lane, 1, "put", "1", "1")])
        backend.apply([self.op(lane, 2, "put", "1", "1")], directory=directory)
        backend.apply([self.op(lane, 3, "put", "1", "1")])
        assert backend.observe(self.collection, ["1"], directory=directory).watermarks == {lane: 3}

    def test_r8_rows_and_watermarks_are_one_snapshot(self, backend: Backend) -> None:
        """R8: a state contains every op of a lane up to the watermark beside it, and none above:
        while a thread counts up, the number is always the watermark."""
        lane, directory, last = make_lane(), make_lane(), 150
        backend.apply([self.op(lane, 1, "increment", "1", "1")], directory=directory)

        def work() -> None:
            for seq in range(2, last + 1):
                backend.apply([self.op(lane, seq, "increment", "1", "1")], directory=directory)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        seen = 0
        while seen < last and (thread.is_alive() or seen == 0):
            observed = backend.observe(self.collection, ["1"], directory=directory)
            (state,) = observed.states
            assert state.text == str(observed.watermarks[lane])
            assert state.version >= seen
            seen = state.version
        thread.join(60)
        assert self.text(backend, "1") == str(last)

    # ---- pages

    def test_a_page_is_what_a_scan_and_a_look_tell(self, backend: Backend) -> None:
        """R8, R24: page after page, the live documents in the order of a scan, with texts, versions
        and times as they are observed, and the watermarks; nothing of a collection that is not."""
        self.put_all(backend, {key: str(index) for index, key in enumerate(self.odd_keys)})
        self.write(backend, "put", "1", '{"bb":1.0e2,"a":"\\u0000"}')
        self.write(backend, "put", "2", '{"a":[1,2],"b":{"c":null}}', ttl_us=_FAR_US)
        self.expired(backend, "3")
        lane, directory = make_lane(), make_lane()
        backend.apply([self.op(lane, 5, "put", "4", "1")], directory=directory)
        states: list[State] = []
        after: str | None = None
        while True:
            page = backend.page(self.collection, after=after, limit=3, directory=directory)
            assert page.watermarks == {lane: 5}
            states += page.states
            if len(page.states) < 3:
                break
            after = page.states[-1].key
        keys = [row.key for row in backend.scan(self.collection, Span())]
        assert [state.key for state in states] == keys
        told = backend.observe(self.collection, keys).states
        assert states == sorted(told, key=lambda state: state.key.encode())
        missing = backend.page("nothing_here", directory=directory)
        assert (missing.states, missing.watermarks) == ([], {lane: 5})
        assert backend.page(self.collection, directory=make_lane()).watermarks == {}

    def test_r8_a_page_and_its_watermarks_are_one_snapshot(self, backend: Backend) -> None:
        """R8: while a thread counts up, the number on the page is always the watermark."""
        lane, directory, last = make_lane(), make_lane(), 100
        backend.apply([self.op(lane, 1, "increment", "1", "1")], directory=directory)

        def work() -> None:
            for seq in range(2, last + 1):
                backend.apply([self.op(lane, seq, "increment", "1", "1")], directory=directory)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        seen = ""
        while seen != str(last) and (thread.is_alive() or not seen):
            observed = backend.page(self.collection, directory=directory)
            (state,) = observed.states
            assert state.text == str(observed.watermarks[lane])
            seen = state.text
        thread.join(60)
        assert self.text(backend, "1") == str(last)

    # ---- after a batch

    @pytest.mark.parametrize("exists", [False, True])
    def test_observed_is_what_observe_tells_afterwards(
        self, backend: Backend, exists: bool
    ) -> None:
        """R5, R8: after ops of every kind, over collections, repeated keys, times to live, deletes,
        refusals and groups, `observed` is what `observe` tells then, times included."""
        if exists:
            self.put_all(backend, {str(n): '{"b":1,"aa":{"n":1},"l":[]}' for n in range(10, 30)})
            self.write(backend, "put", "22", "7", ttl_us=_FAR_US)
            self.write(backend, "put", "23", "7", ttl_us=_FAR_US)
        self.expired(backend, "24")
        self.expired(backend, "25")
        self.expired(backend, "26")
        lane, directory = make_lane(), make_lane()
        for batch in self._batches(lane):
            self.check_observed(backend, batch, directory)
        self.check_observed(backend, self._batches(lane)[-1], directory)

    def _batches(self, lane: str) -> list[list[Op]]:
        op = self.op
        every = [
            op(lane, 1, "put", "10", '{"b":2,"a":1}'),
            op(lane, 2, "patch", "11", '{"b":null,"c":{"d":1.50}}'),
            op(lane, 3, "append", "12", "1", pointer="/l"),
            op(lane, 4, "increment", "13", "2", pointer="/aa/n"),
            op(lane, 5, "delete", "14"),
            op(lane, 6, "put", "10", "10", collection=self.other, ttl_us=_FAR_US),
        ]
        refused = [
            op(lane, 7, "put", "15", "1", if_version=99),
            op(lane, 8, "delete", "16", if_version=99),
            op(lane, 9, "increment", "17", "1", pointer="/b/no"),
            op(lane, 10, "put", "18", "1", if_version=ABSENT),
            op(lane, 11, "put", "19", "1", group=11),
            op(lane, 12, "put", "20", "1", group=11, if_version=99),
            op(lane, 13, "put", "21", "1"),
        ]
        lives = [
            op(lane, 14, "patch", "22", "{}"),
            op(lane, 15, "put", "23", "1"),
            op(lane, 16, "patch", "24", '{"new":1}'),
            op(lane, 17, "delete", "25"),
            op(lane, 18, "put", "26", "1", ttl_us=_FAR_US),
        ]
        again = [
            op(lane, 19, "delete", "10"),
            op(lane, 20, "put", "10", "1"),
            op(lane, 21, "put", "27", "1"),
            op(lane, 22, "delete", "27"),
            op(lane, 23, "increment", "28", "1", pointer="/n", ttl_us=_FAR_US),
            op(lane, 24, "patch", "28", '{"m":1}'),
            op(lane, 25, "put", "14", "2"),
        ]
        mixed = [*again[-2:], op(lane, 26, "put", "28", '"last"'), op(lane, 27, "delete", "99")]
        return [every, refused, lives, again, mixed, [op(lane, 28, "put", "15", "1", if_version=0)]]

    def check_observed(self, backend: Backend, ops: list[Op], directory: str) -> None:
        """Apply a batch, and compare what it tells with what is observed afterwards."""
        observed = backend.apply(ops, directory=directory).observed
        told: dict[Place, State] = {(s.collection, s.key): s for s in observed.states}
        assert len(told) == len(observed.states), "a place is told once"
        states, watermarks = self.states(backend, ops, directory)
        assert told == states
        assert observed.watermarks == watermarks

    def test_nothing_is_observed_unasked(self, backend: Backend) -> None:
        """Without a directory an answer holds no states and no watermarks."""
        applied = backend.apply([self.op(make_lane(), 1, "put", "1", "1")])
        assert (applied.observed.states, applied.observed.watermarks) == ([], {})
