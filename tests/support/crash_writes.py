"""Writes of somebody else, by the ways in which rows change behind a migration's back."""

from __future__ import annotations

import uuid

from standfast.backends.base import Backend
from standfast.ops.types import Op


def put(backend: Backend, collection: str, key: str, text: str) -> None:
    """As another standfast writes: a new version."""
    op = Op(lane=str(uuid.uuid4()), seq=1, kind="put", collection=collection, key=key, body=text)
    (outcome,) = backend.apply([op]).outcomes
    assert outcome.status == "applied"


def delete(backend: Backend, collection: str, key: str) -> None:
    """As another standfast deletes: a tombstone stays."""
    op = Op(lane=str(uuid.uuid4()), seq=1, kind="delete", collection=collection, key=key)
    (outcome,) = backend.apply([op]).outcomes
    assert outcome.status == "applied"
