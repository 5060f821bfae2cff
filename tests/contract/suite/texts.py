"""The contract, part 3: what comes back is what was put (I11), under any key."""

from __future__ import annotations

from contract.suite.base import ContractBase, make_lane
from standfast.backends.base import Backend, Load
from standfast.document.codec import decode, encode
from standfast.ops.types import Span

#: JSON texts that a database, a driver or a codec likes to change on the way.
NASTY_TEXTS = (
    "null",
    "true",
    "0",
    "-0.0",
    "0.0",
    "1.0",
    "1.10",
    "1.0e2",
    "1E5",
    "1e-7",
    "1e308",
    "5e-324",
    "0.1",
    "9007199254740993",
    "18446744073709551616",
    "-9223372036854775809",
    "9" * 5000,
    '""',
    '" "',
    '"NULL"',
    '"null"',
    '"\\\\N"',
    '"\\\\."',
    '"\\t\\r\\n\\b\\f"',
    '"\\u0000"',
    '"a\\u0000b"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\u0041"',
    '"\\/"',
    '"\\"\'`%$?:{}"',
    '"\x7f\u2028\u2029\ufeff\uffff"',
    '"é e\u0301 ß İ 🪸"',
    "[]",
    "{}",
    "[null,[],{}]",
    '{"b":1,"a":2}',
    '{"bb":1,"a":2}',
    '{"a":1,"bb":2,"c":3}',
    '{"":{"":[""]}}',
    '{"\\u0000":1,"\\ud800":2}',
    '{"a , b":"\\ud800 : x"}',
    '{"__proto__":1,"$ref":2,"a.b":3,"a/b":4,"a~b":5}',
    '{"é":1,"z":2,"🪸":3}',
    '{"x":1.0,"y":-0.0,"z":1e2}',
    "[" * 200 + "]" * 200,
    '{"a":' * 200 + "0" + "}" * 200,
    '["' + "x" * 300_000 + '"]',
)


class TextsContract(ContractBase):
    """The exact text of every document survives, whatever is in it and under whatever key."""

    def test_i11_every_text_comes_back_exactly(self, backend: Backend) -> None:
        """I11: put, then read, scan and dump: every token and the order of members are kept."""
        texts = {str(index): text for index, text in enumerate(NASTY_TEXTS, 1)}
        applied = self.put_all(backend, texts)
        assert [outcome.text for outcome in applied.outcomes] == list(NASTY_TEXTS)
        rows = backend.read(self.collection, list(texts))
        assert {key: row.text for key, row in rows.items()} == texts
        assert {row.key: row.text for row in backend.scan(self.collection, Span())} == texts
        assert self.contents(backend) == texts
        assert list(backend.inconsistent(self.collection)) == []

    def test_i11_every_text_can_replace_every_text(self, backend: Backend) -> None:
        """I11: nothing of the text before stays behind when a document is replaced."""
        for text in (*NASTY_TEXTS, *reversed(NASTY_TEXTS)):
            self.write(backend, "put", "1", text)
            assert self.text(backend, "1") == text

    def test_i11_every_text_can_be_loaded(self, backend: Backend) -> None:
        """I11: a bulk load keeps every text as exactly as a put does."""
        texts = {str(index): text for index, text in enumerate(NASTY_TEXTS, 1)}
        backend.load("run", "loaded", [Load(self.collection, None, list(texts.items()))])
        assert self.contents(backend) == texts

    def test_i11_changes_leave_the_rest_of_a_document_alone(self, backend: Backend) -> None:
        """I11: a patch keeps the other members: order, huge integers, odd strings."""
        text = '{"z":' + "7" * 5000 + ',"\\u0000":"\\ud800","a":[{"b":1,"a":2}],"n":1}'
        self.write(backend, "put", "1", text)
        self.write(backend, "patch", "1", '{"n":2,"new":true}')
        expected = {**decode(text), "n": 2, "new": True}
        found = decode(self.text(backend, "1") or "")
        assert found == expected
        assert list(found) == list(expected)
        assert list(found["a"][0]) == ["b", "a"]

    def test_i11_integers_grow_exactly(self, backend: Backend) -> None:
        """I11: an increment is exact far above what a float or 64 bits hold."""
        self.write(backend, "put", "1", str(2**64))
        for _ in range(2):
            self.write(backend, "increment", "1", str(2**64 + 1))
        assert self.text(backend, "1") == str(3 * 2**64 + 2)
        self.write(backend, "increment", "1", "-" + "9" * 5000)
        assert self.text(backend, "1") == encode(decode("-" + "9" * 5000) + 3 * 2**64 + 2)

    def test_every_key_is_one_key(self, backend: Backend) -> None:
        """Keys are exact: quotes, wildcards, backslashes, control characters, 1,024 bytes."""
        texts = {key: str(index) for index, key in enumerate(self.odd_keys)}
        self.put_all(backend, texts)
        assert self.contents(backend) == texts
        assert backend.count(self.collection) == len(texts)
        for key, text in texts.items():
            assert self.text(backend, key) == text
        rows = backend.read(self.collection, list(texts))
        assert {key: row.text for key, row in rows.items()} == texts

    def test_every_key_can_be_changed_and_deleted(self, backend: Backend) -> None:
        """Whatever the key, update, condition, retry and delete find the same document."""
        lane = make_lane()
        for seq, key in enumerate(self.odd_keys):
            first, last = 3 * seq + 1, 3 * seq + 3
            ops = [
                self.op(lane, first, "put", key, "1", if_version=0),
                self.op(lane, first + 1, "increment", key, "1", if_version=1),
                self.op(lane, last, "delete", key, if_version=2),
            ]
            statuses = [outcome.status for outcome in backend.apply(ops).outcomes]
            assert statuses == ["applied"] * 3
            assert {o.status for o in backend.apply(ops, expected_watermark=last).outcomes} == {
                "skipped"
            }
        assert backend.count(self.collection) == 0
        for key in self.odd_keys:
            assert self.write(backend, "put", key, "0").version == 4

    def test_every_key_can_be_loaded(self, backend: Backend) -> None:
        """A bulk load and the images of its rows keep every key."""
        texts = [(key, str(index)) for index, key in enumerate(self.odd_keys)]
        backend.load("run", "loaded", [Load(self.collection, None, texts)])
        assert self.contents(backend) == dict(texts)
        assert [row.key for row in backend.dump(self.collection, in_order=True)] == [
            key for key, _ in texts
        ]
        images = backend.images(self.collection, [key for key, _ in texts])
        assert images.keys() == dict(texts).keys()
        assert all(image.key == key for key, image in images.items())

    def test_every_key_is_found_by_its_prefix(self, backend: Backend) -> None:
        """A prefix is plain text: no wildcard, no escape, no collation."""
        self.put_all(backend, dict.fromkeys(self.odd_keys, "0"))
        for prefix in {key[:chars] for key in self.odd_keys for chars in (0, 1, 2)}:
            found = [row.key for row in backend.scan(self.collection, Span(prefix=prefix))]
            assert found == sorted(
                (key for key in self.odd_keys if key.startswith(prefix)), key=str.encode
            )
