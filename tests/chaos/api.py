"""The store as the chaos tests use it: only what its documented face promises."""

from __future__ import annotations

import inspect
import os
import time
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.store import Collection, Store

#: Whether this version holds writes while the primary is away.
HOLDS = hasattr(Store, "flush")
READS_LOCALLY = "consistency" in inspect.signature(Collection.read).parameters

needs_outages = pytest.mark.skipif(not HOLDS, reason="writes are not held in an outage yet")


def open_patiently(
    url: str, data_dir: str | os.PathLike[str], *, deadline_s: float, limit_s: float = 60.0
) -> Store:
    """An open store; until `limit_s` it is tried again where opening needs the primary."""
    limit = time.monotonic() + limit_s
    while True:
        try:
            return holdfast.open(url, data_dir=data_dir, deadline_s=deadline_s)
        except holdfast.Unavailable:
            if time.monotonic() > limit:
                raise
        time.sleep(0.05)


def flush(store: Any, *, timeout_s: float) -> bool:
    """Whether everything acknowledged is on the primary before the time is up."""
    if not HOLDS:
        return True
    limit = time.monotonic() + timeout_s
    while True:
        left_s = limit - time.monotonic()
        if left_s <= 0:
            return False
        try:
            if store.flush(timeout_s=left_s) is not False:
                return True
        except holdfast.Unavailable:
            time.sleep(0.02)


def read(collection: Collection, key: str, *, local: bool = False) -> Any:
    """The document or None; `local` asks the mirror, where there is one."""
    if local and READS_LOCALLY:
        options: dict[str, Any] = {"consistency": "local"}
        return collection.read(key, **options)
    return collection.read(key)


def drain_directory(url: str, data_dir: Path, *, timeout_s: float, deadline_s: float = 1.0) -> bool:
    """Whether everything that processes of this directory left behind reaches the primary."""
    with open_patiently(url, data_dir, deadline_s=deadline_s, limit_s=timeout_s) as store:
        return flush(store, timeout_s=timeout_s)
