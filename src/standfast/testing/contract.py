"""The contract of a backend as a test-suite: whoever passes it can stand under a store.

::

    import pytest
    from standfast.testing.contract import BackendContract

    class TestMyBackend(BackendContract):
        @pytest.fixture
        def backend(self, tmp_path):
            backend = MyBackend(tmp_path)
            yield backend
            backend.close()

`pytest.register_assert_rewrite("standfast.testing")` in a `conftest.py` makes pytest show the
values of a failed assertion.  The texts are `standfast.backends.base.Backend` and `standfast.fold`;
the numbers (I2, R12 ...) are those of the guarantees.
"""

from __future__ import annotations

from standfast.testing.contract_base import ODD_KEYS, ContractBase, make_lane, make_op
from standfast.testing.contract_changes import ChangesContract
from standfast.testing.contract_fences import FencesContract
from standfast.testing.contract_lanes import LanesContract
from standfast.testing.contract_loads import LoadsContract
from standfast.testing.contract_merging import MergingContract
from standfast.testing.contract_observe import ObserveContract
from standfast.testing.contract_parking import ParkingContract
from standfast.testing.contract_reads import ReadsContract
from standfast.testing.contract_texts import TextsContract


class BackendContract(
    LanesContract,
    ChangesContract,
    TextsContract,
    ReadsContract,
    LoadsContract,
    FencesContract,
    ObserveContract,
    MergingContract,
    ParkingContract,
    ContractBase,
):
    """Every guarantee that a backend gives; inherit it and provide the fixture `backend`.

    `backend` is a fresh, empty backend for each test.  `collection` and `other` may be set to
    collections that exist but are empty, and `odd_keys` to what their key columns can hold.
    """


__all__ = ["ODD_KEYS", "BackendContract", "make_lane", "make_op"]
