"""For tests of code that uses a store: fixtures for pytest, and outages on demand.

The fixtures `standfast_store` and `standfast_async_store` come with the package as a pytest plugin:
nothing has to be imported.  `outage(store)` and `restore(store)` take the primary of such a store,
of one opened with `memory://` and a `data_dir`, or of one on PostgreSQL, away and bring it back.
"""

from __future__ import annotations

from standfast.testing.outage import Outage, outage, restore

__all__ = ["Outage", "outage", "restore"]
