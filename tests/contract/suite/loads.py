"""The contract, part 5: bulk loads: a whole run in one transaction, with its record."""

from __future__ import annotations

import pytest

from contract.suite.base import ContractBase, make_lane
from standfast.backends.base import Backend, Change, Form, Load
from standfast.errors import MigrationError


class LoadsContract(ContractBase):
    """A run is written whole, exactly as it was planned, or not at all."""

    def load(self, backend: Backend, *loads: Load, run: str = "run-1") -> None:
        """Load, and see that the reported versions are those of the rows."""
        reports = backend.load(run, "loaded", loads)
        assert set(reports) == {load.collection for load in loads}
        for load in loads:
            report = reports[load.collection]
            written = [key for key, _ in load.inserts] + [
                change.key for change in load.changes if change.text or change.image
            ]
            rows = backend.images(load.collection, written)
            assert {key: row.version for key, row in rows.items()} == {
                key: report.version_of(key) for key in written
            }
        record = backend.run_record(run)
        assert record is not None
        assert (record.run, record.state, record.loads) == (run, "loaded", dict(reports))

    def test_inserts_keep_the_order_of_the_source(self, backend: Backend) -> None:
        """Inserted documents have version 1, no expiry, and the order of the source."""
        keys = [str(number * 7919 % 100_003) for number in range(1, 2501)]
        inserts = [(key, f'{{"n":{index}}}') for index, key in enumerate(keys)]
        self.load(backend, Load(self.collection, None, inserts))
        assert [row.key for row in backend.dump(self.collection, in_order=True)] == keys
        assert self.contents(backend) == dict(inserts)
        assert {row.version for row in backend.dump(self.collection)} == {1}
        row = self.row(backend, keys[0])
        assert row is not None
        assert row.expires_us is None
        assert row.created_us == row.updated_us

    def test_the_form_of_a_file_is_kept(self, backend: Backend) -> None:
        """A load with a form sets it, one without leaves it; a write does not change it."""
        form = Form("array", "id")
        self.load(backend, Load(self.collection, form, [("1", '{"id":"1"}')]))
        assert backend.form(self.collection) == form
        self.load(backend, Load(self.collection, None, [("2", '{"id":"2"}')]), run="run-2")
        self.write(backend, "put", "3", '{"id":"3"}')
        assert backend.form(self.collection) == form
        self.load(backend, Load(self.collection, Form("lines", None)), run="run-3")
        assert backend.form(self.collection) == Form("lines", None)

    def test_changes_of_rows(self, backend: Backend) -> None:
        """A change updates, deletes or puts back; the time of creation of an update stays."""
        self.put_all(backend, {"1": '"one"', "2": '"two"', "3": '"three"', "4": '"four"'})
        self.write(backend, "increment", "5", "1", ttl_us=3_600_000_000)
        before = backend.images(self.collection, ["1", "2", "3", "4", "5"])
        self.write(backend, "put", "3", '"moved"')
        self.write(backend, "delete", "4")
        changes = [
            Change("1", 1, text='{"b":1,"a":2}'),
            Change("2", 1),
            Change("3", 2, image=before["3"]),
            Change("4", 0, image=before["4"]),
            Change("5", 1, text="7"),
        ]
        self.load(backend, Load(self.collection, None, [("6", '"six"')], changes))
        assert self.contents(backend) == {
            "1": '{"b":1,"a":2}',
            "3": '"three"',
            "4": '"four"',
            "5": "7",
            "6": '"six"',
        }
        after = backend.images(self.collection, list("123456"))
        versions = {key: image.version for key, image in after.items()}
        assert versions == {"1": 2, "3": 3, "4": 3, "5": 2, "6": 1}
        assert after["1"].created_us == before["1"].created_us
        assert (after["1"].updated_us or 0) > (before["1"].updated_us or 0)
        assert after["5"].expires_us is None
        for key in ("3", "4"):
            assert after[key].created_us == before[key].created_us
            assert after[key].updated_us == before[key].updated_us

    def test_a_change_may_create_what_the_plan_saw_missing(self, backend: Backend) -> None:
        """A text for a key that had no row makes the document, above its grave if it has one."""
        self.write(backend, "put", "1", "1")
        self.write(backend, "delete", "1")
        changes = [Change("1", 0, text='"new"'), Change("2", 0, text='"new"'), Change("3", 0)]
        self.load(backend, Load(self.collection, None, (), changes))
        assert self.contents(backend) == {"1": '"new"', "2": '"new"'}
        assert self.version(backend, "1") == 3

    def test_an_image_comes_back_exactly(self, backend: Backend) -> None:
        """An image puts text, times and expiry back as they were; only the version goes on."""
        self.write(backend, "put", "1", '{"b":1.0e2,"a":"\\u0000"}', ttl_us=3_600_000_000)
        image = backend.images(self.collection, ["1"])["1"]
        for change in (Change("1", 2, image=image), Change("1", 0, image=image)):
            if change.expected_version:
                self.write(backend, "put", "1", "0")
            else:
                self.write(backend, "delete", "1")
            self.load(backend, Load(self.collection, None, (), [change]))
            found = backend.images(self.collection, ["1"])["1"]
            assert self.text(backend, "1") == '{"b":1.0e2,"a":"\\u0000"}'
            assert (found.data, found.raw) == (image.data, image.raw)
            assert (found.created_us, found.updated_us, found.expires_us) == (
                *(image.created_us, image.updated_us),
                image.expires_us,
            )
        assert found.version == 5

    @pytest.mark.parametrize(
        "stale",
        [
            Load("", None, [("1", "9")]),
            Load("", None, (), [Change("1", 1, text="9")]),
            Load("", None, (), [Change("1", 1)]),
            Load("", None, (), [Change("1", 0, text="9")]),
            Load("", None, (), [Change("2", 1, text="9")]),
            Load("", None, [("3", "3")], [Change("1", 2, text="9"), Change("2", 7)]),
            Load("", Form("lines"), [("3", "3"), ("1", "9")], [Change("1", 2, text="9")]),
        ],
        ids=["appeared", "moved", "moved-delete", "not-missing", "gone", "second", "mixed"],
    )
    def test_a_stale_plan_leaves_everything_untouched(self, backend: Backend, stale: Load) -> None:
        """A row that moved, appeared or went since the plan stops the whole run before it."""
        self.put_all(backend, {"1": "1"})
        self.write(backend, "put", "1", "2")
        self.write(backend, "put", "1", '"other"', collection=self.other)
        self.expired(backend, "4")
        names = (self.collection, self.other)
        keys = ["1", "2", "3", "4"]
        before = [backend.images(name, keys) for name in names]
        loads = [
            Load(self.other, Form("array", "id"), [("2", "2")], [Change("1", 1, text="8")]),
            Load(self.collection, stale.form, stale.inserts, stale.changes),
        ]
        with pytest.raises(MigrationError) as caught:
            backend.load("run-1", "loaded", loads)
        assert caught.value.code == "plan_stale"
        assert [backend.images(name, keys) for name in names] == before
        assert backend.form(self.other) == backend.form(self.collection) == Form()
        assert backend.run_record("run-1") is None
        self.load(backend, Load(self.collection, None, [("3", "3")]))

    def test_a_run_may_write_several_collections(self, backend: Backend) -> None:
        """One run writes all its collections, each with its own report."""
        self.write(backend, "put", "1", "1")
        self.load(
            backend,
            Load(self.collection, None, [("2", "2")], [Change("1", 1)]),
            Load(self.other, Form("document"), [("1", "3")]),
        )
        assert self.contents(backend) == {"2": "2"}
        assert self.contents(backend, collection=self.other) == {"1": "3"}

    def test_i3_a_load_goes_on_above_graves(self, backend: Backend) -> None:
        """I3: documents that come again by a load, and go again, never lose their version."""
        self.put_all(backend, {"1": "1", "2": "2"})
        self.write(backend, "put", "1", "1")
        self.write(backend, "delete", "1")
        version = self.expired(backend, "3")
        self.load(backend, Load(self.collection, None, [("1", "5"), ("3", "5"), ("4", "5")]))
        three = self.version(backend, "3")
        assert self.version(backend, "1") == 4
        assert three is not None
        assert three > version
        assert self.version(backend, "4") == 1
        self.load(backend, Load(self.collection, None, (), [Change("1", 4)]), run="run-2")
        assert self.row(backend, "1") is None
        assert self.write(backend, "put", "1", "6").version == 6
        assert self.write(backend, "put", "4", "6").version == 2

    def test_a_run_can_be_written_again(self, backend: Backend) -> None:
        """A second load of the same run (a rollback) replaces its record."""
        self.load(backend, Load(self.collection, None, [("1", "1")]))
        reports = backend.load(
            "run-1", "rolled_back", [Load(self.collection, None, (), [Change("1", 1)])]
        )
        record = backend.run_record("run-1")
        assert record is not None
        assert (record.state, record.loads) == ("rolled_back", dict(reports))
        assert backend.run_record("run-2") is None

    def test_writes_go_on_after_a_load(self, backend: Backend) -> None:
        """Loaded documents are ordinary ones: ops, conditions and lanes work on them."""
        lane = make_lane()
        backend.apply([self.op(lane, 1, "put", "1", '{"a":1}')])
        self.load(backend, Load(self.collection, None, [("2", '{"a":1}')]))
        applied = backend.apply(
            [
                self.op(lane, 2, "patch", "2", '{"b":2}', if_version=1),
                self.op(lane, 3, "delete", "1", if_version=1),
            ],
            expected_watermark=1,
        )
        assert [outcome.version for outcome in applied.outcomes] == [2, 2]
        assert self.contents(backend) == {"2": '{"a":1,"b":2}'}
