"""The contract of a backend as a test-suite: whoever passes it can stand under a store.

::

    import pytest
    from contract.suite.backend import BackendContract

    class TestMyBackend(BackendContract):
        @pytest.fixture
        def backend(self, tmp_path):
            backend = MyBackend(tmp_path)
            yield backend
            backend.close()

`pytest.register_assert_rewrite("contract.suite")` in a `conftest.py` makes pytest show the
values of a failed assertion.  The texts are `standfast.backends.base.Backend` and
`standfast.ops.batch`; the numbers (I2, R12 ...) are those of the guarantees.
"""

from __future__ import annotations

from contract.suite.base import ODD_KEYS, ContractBase, make_lane, make_op
from contract.suite.changes import ChangesContract
from contract.suite.fences import FencesContract
from contract.suite.lanes import LanesContract
from contract.suite.loads import LoadsContract
from contract.suite.merging import MergingContract
from contract.suite.observe import ObserveContract
from contract.suite.reads import ReadsContract
from contract.suite.rejecting import RejectingContract
from contract.suite.texts import TextsContract


class BackendContract(
    LanesContract,
    ChangesContract,
    TextsContract,
    ReadsContract,
    LoadsContract,
    FencesContract,
    ObserveContract,
    MergingContract,
    RejectingContract,
    ContractBase,
):
    """Every guarantee that a backend gives; inherit it and provide the fixture `backend`.

    `backend` is a fresh, empty backend for each test.  `collection` and `other` may be set to
    collections that exist but are empty, and `odd_keys` to what their key columns can hold.
    """


#: Every kind of op, for tests that draw one; which have no body, and which a pointer.
KINDS = ("put", "put", "patch", "append", "increment", "set", "remove", "touch", "delete")
BODILESS = ("remove", "touch", "delete")
POINTED = ("append", "increment", "set", "remove")
FAR_US = 10**15

__all__ = [
    "BODILESS",
    "FAR_US",
    "KINDS",
    "ODD_KEYS",
    "POINTED",
    "BackendContract",
    "make_lane",
    "make_op",
]
