"""The store as the chaos tests use it: only what its documentation promises."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import standfast
from standfast.api.sync import Collection, Store


def open_patiently(
    url: str, data_dir: str | os.PathLike[str], *, deadline_s: float, limit_s: float = 60.0
) -> Store:
    """An open store; until `limit_s` it is tried again where opening needs the primary."""
    limit = time.monotonic() + limit_s
    while True:
        try:
            return standfast.open(url, data_dir=data_dir, deadline_s=deadline_s)
        except standfast.Unavailable:
            if time.monotonic() > limit:
                raise
        time.sleep(0.05)


def flush(store: Store, *, timeout_s: float) -> bool:
    """Whether everything acknowledged is on the primary before the time is up."""
    limit = time.monotonic() + timeout_s
    while True:
        left_s = limit - time.monotonic()
        if left_s <= 0:
            return False
        try:
            store.flush(timeout_s=left_s)
            return True
        except standfast.Unavailable:
            time.sleep(0.02)


def read(collection: Collection, key: str, *, local: bool = False) -> Any:
    """The document or None; `local` asks the mirror."""
    return collection.read(key, consistency="local" if local else "primary")


def drain_directory(url: str, data_dir: Path, *, timeout_s: float, deadline_s: float = 1.0) -> bool:
    """Whether everything that processes of this directory left behind reaches the primary."""
    with open_patiently(url, data_dir, deadline_s=deadline_s, limit_s=timeout_s) as store:
        return flush(store, timeout_s=timeout_s)
