"""The contract, part 4: reading one, many, pages, and by containment."""

from __future__ import annotations

import threading

from contract.suite.base import ContractBase
from standfast.backends.base import Backend, Form
from standfast.document.codec import decode
from standfast.document.containment import contains
from standfast.ops.types import Span

#: Documents and questions that the rules of containment tell apart.
_DOCUMENTS = (
    "null",
    "true",
    "1",
    "1.5",
    '"a"',
    "[]",
    "{}",
    '["a"]',
    "[1,[1,2],null]",
    '{"a":1}',
    '{"a":1.0,"b":"a"}',
    '{"a":{"b":[1,2,{"c":null}]}}',
    '{"a":[1,2,3],"t":"x"}',
    '{"a":[],"b":{}}',
    '[{"a":1,"b":2},{"a":3}]',
    '{"n":100000000000000000000}',
    '{"n":1e20}',
    '{"s":"\\u0000"}',
    '{"s":"\ufffd"}',
    '{"\\ud800":1}',
    '{"s":"50%"}',
)
_QUERIES = (
    *_DOCUMENTS[1:],
    "[null]",
    "false",
    '{"a":true}',
    '{"a":{"b":[{}]}}',
    '{"a":[3,3,1]}',
    '[{"a":1},{"a":3}]',
    '{"b":"A"}',
    "[[2]]",
    "-0.0",
    '{"s":"\\ud800"}',
)


class ReadsContract(ContractBase):
    """Reads show what was written, in one order, and change nothing."""

    def test_reading_what_is_not_there_creates_nothing(self, backend: Backend) -> None:
        """An unknown collection reads as empty, and reading does not make it exist."""
        before = backend.collections()
        name = "never_written"
        assert backend.read(name, ["1", "2"]) == {}
        assert backend.read(name, []) == {}
        assert backend.scan(name, Span()) == []
        assert backend.scan(name, Span(prefix="a", after="b", limit=3, query={})) == []
        assert backend.count(name) == 0
        assert list(backend.dump(name)) == []
        assert list(backend.dump(name, in_order=True)) == []
        assert backend.images(name, ["1"]) == {}
        assert backend.form(name) == Form()
        missing = backend.adoptable(name)
        assert missing == "" if self.may_create else "lacks the right CREATE" in missing
        assert backend.run_record("no such run") is None
        assert backend.collections() == before

    def test_collections_are_listed_sorted(self, backend: Backend) -> None:
        """A collection exists from its first write on; names are listed sorted."""
        for name in (self.other, self.collection):
            self.write(backend, "put", "1", "1", collection=name)
        self.write(backend, "delete", "1")
        found = backend.collections()
        assert found == sorted(found)
        assert {self.collection, self.other} <= set(found)
        assert backend.adoptable(self.collection) == ""

    def test_read_takes_many_keys(self, backend: Backend) -> None:
        """`read` leaves missing keys out, and takes repeated and very many keys."""
        self.put_all(backend, {"1": "1", "2": "2"})
        assert backend.read(self.collection, []) == {}
        assert backend.read(self.collection, ["2", "9", "2", "1"]).keys() == {"1", "2"}
        many = [str(number) for number in range(3, 3000)]
        assert backend.read(self.collection, many) == {}
        assert backend.read(self.collection, [*many, "1"]).keys() == {"1"}

    def test_a_row_tells_all_of_it(self, backend: Backend) -> None:
        """`read`, `scan` and `dump` tell the same key, text, version and times."""
        self.write(backend, "put", "1", '{"b":1,"a":2}', ttl_us=3_600_000_000)
        row = self.row(backend, "1")
        assert row is not None
        assert backend.scan(self.collection, Span()) == [row]
        (stored,) = backend.dump(self.collection)
        assert stored == (row.key, row.text, row.version, row.updated_us)

    def test_pages_follow_the_bytewise_order_of_keys(self, backend: Backend) -> None:
        """`after` and `limit` cut the bytewise order into pages that miss and repeat nothing."""
        self.put_all(backend, dict.fromkeys(self.odd_keys, "0"))
        expected = sorted(self.odd_keys, key=str.encode)
        assert [row.key for row in backend.scan(self.collection, Span())] == expected
        for limit in (1, 2, 7, len(expected)):
            found: list[str] = []
            after = None
            while page := backend.scan(self.collection, Span(after=after, limit=limit)):
                assert len(page) <= limit
                found += [row.key for row in page]
                assert len(found) <= len(expected), "a page came twice"
                after = found[-1]
            assert found == expected

    def test_prefix_and_after_together(self, backend: Backend) -> None:
        """`prefix` and `after` hold both, whichever is higher; `after` need not exist."""
        keys = ["1", "10", "100", "11", "2", "20", "9"]
        self.put_all(backend, dict.fromkeys(keys, "0"))

        def found(prefix: str, after: str | None, limit: int = 1000) -> list[str]:
            rows = backend.scan(self.collection, Span(prefix=prefix, after=after, limit=limit))
            return [row.key for row in rows]

        assert found("1", None) == ["1", "10", "100", "11"]
        assert found("1", "") == ["1", "10", "100", "11"]
        assert found("1", "1") == ["10", "100", "11"]
        assert found("10", "1") == ["10", "100"]
        assert found("1", "10", 1) == ["100"]
        assert found("1", "105") == ["11"]
        assert found("1", "2") == []
        assert found("", "20") == ["9"]
        assert found("3", None) == []

    def test_a_query_finds_what_contains_it(self, backend: Backend) -> None:
        """`scan(query=...)` answers by `document.containment`, on every backend alike."""
        texts = {str(number): text for number, text in enumerate(_DOCUMENTS, 10)}
        self.put_all(backend, texts)
        found: dict[str, list[str]] = {}
        expected: dict[str, list[str]] = {}
        for query in map(decode, _QUERIES):
            rows = backend.scan(self.collection, Span(query=query))
            found[repr(query)] = [row.key for row in rows]
            expected[repr(query)] = [
                k for k, text in texts.items() if contains(decode(text), query)
            ]
        assert found == expected

    def test_a_query_in_pages(self, backend: Backend) -> None:
        """A query goes together with prefix, after and limit; a page is full if more follow."""
        odd = ("\\u0000", "\\ud800", "\ufffd", "plain")
        texts = {str(n): f'{{"odd":"{odd[n % 4]}"}}' for n in range(100, 160)}
        self.put_all(backend, texts)
        for query in ({"odd": "\x00"}, {"odd": "\ufffd"}, {}):
            expected = [k for k, text in texts.items() if contains(decode(text), query)]
            found: list[str] = []
            after = None
            while page := backend.scan(
                self.collection, Span(prefix="1", after=after, limit=7, query=query)
            ):
                assert len(page) == min(7, len(expected) - len(found))
                found += [row.key for row in page]
                after = found[-1]
            assert found == expected

    def test_an_index_changes_no_answer(self, backend: Backend) -> None:
        """`create_index` may be called at any time and again; it only makes queries fast."""
        backend.create_index(self.collection)
        self.put_all(backend, {"1": '{"a":1}', "2": '{"a":2}', "3": '{"a":"\\u0000"}'})
        backend.create_index(self.collection)
        found = [row.key for row in backend.scan(self.collection, Span(query={"a": 2}))]
        assert found == ["2"]

    def test_a_dump_is_one_snapshot(self, backend: Backend) -> None:
        """A dump that has begun shows nothing of what is written while it is read."""
        texts = {str(number): '"old"' for number in range(100, 400)}
        self.put_all(backend, texts)
        dump = backend.dump(self.collection)
        rows = [next(dump)]
        for key in ("100", "250", "399"):
            self.write(backend, "put", key, '"new"')
        self.write(backend, "delete", "300")
        self.write(backend, "put", "999", '"new"')
        rows += dump
        assert {row.key: row.text for row in rows} == texts
        assert backend.count(self.collection) == 300
        assert self.text(backend, "399") == '"new"'

    def test_a_dump_keeps_nobody_waiting(self, backend: Backend) -> None:
        """While a dump is read, other threads read and write."""
        self.put_all(backend, {str(number): "0" for number in range(100, 400)})
        dump = backend.dump(self.collection)
        next(dump)
        written: list[int | None] = []

        def work() -> None:
            written.append(self.write(backend, "put", "100", "1").version)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(60)
        assert written == [2], "a write waits for a reader to come to the end of a dump"
        assert len(list(dump)) == 299

    def test_a_dump_may_be_left_unfinished(self, backend: Backend) -> None:
        """A dump that is not read to its end holds nothing back."""
        self.put_all(backend, {str(number): "0" for number in range(100, 200)})
        for _ in range(10):
            dump = backend.dump(self.collection, in_order=True)
            next(dump)
            del dump
        assert self.write(backend, "put", "100", "1").version == 2

    def test_a_dump_in_order_of_creation(self, backend: Backend) -> None:
        """`in_order` sorts by the time of creation, then by key; a change does not move a row."""
        for key in ("5", "3", "4"):
            self.write(backend, "put", key, "0")
        self.put_all(backend, {"9": "0", "2": "0", "10": "0"})
        self.write(backend, "put", "5", "1")
        found = [row.key for row in backend.dump(self.collection, in_order=True)]
        assert found[:3] == ["5", "3", "4"]
        assert found[3:] == ["10", "2", "9"]

    def test_images_tell_everything_of_a_row(self, backend: Backend) -> None:
        """An image has all that is stored, of expired rows too; missing keys are left out."""
        version = self.expired(backend, "1")
        self.write(backend, "put", "2", '{"b":1,"a":2}')
        images = backend.images(self.collection, ["1", "2", "3"])
        assert images.keys() == {"1", "2"}
        row = self.row(backend, "2")
        assert row is not None
        two = images["2"]
        assert (two.raw if two.raw is not None else two.data) == row.text
        assert (two.version, two.created_us, two.updated_us, two.expires_us) == (
            *(row.version, row.created_us, row.updated_us),
            None,
        )
        assert images["1"].version == version
        assert images["1"].expires_us is not None
        assert backend.images(self.collection, []) == {}
